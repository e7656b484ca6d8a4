//! A part of a data set.
use crate::clip::{LabelSet, VideoDataset, out_of_range};
use crate::random::shuffle;
use ssl_core::{Error, Result};
use std::sync::Arc;

const STREAM: u64 = 605;

/// Some of the videos of a data set, in a given order.
#[derive(Debug, Clone)]
pub struct Subset {
    dataset: Arc<dyn VideoDataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The videos at `indices`.
    ///
    /// # Errors
    /// `Error::Config` when there is no index or one is out of range.
    pub fn new(dataset: Arc<dyn VideoDataset>, indices: Vec<usize>) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::config("limit", "expected at least 1 video, got 0"));
        }
        if let Some(&index) = indices.iter().find(|&&index| index >= dataset.len()) {
            return Err(out_of_range(index, dataset.len()));
        }
        Ok(Subset { dataset, indices })
    }

    /// `count` videos drawn without replacement (folders are sorted by class, so the first would be of one), in the order
    /// of the data set; all of them when there are fewer.
    ///
    /// # Errors
    /// `Error::Config` when `count` is 0.
    pub fn random(dataset: Arc<dyn VideoDataset>, count: usize, seed: u64) -> Result<Self> {
        let mut indices = order(dataset.len(), seed);
        indices.truncate(count);
        indices.sort_unstable();
        Subset::new(dataset, indices)
    }

    /// All videos but `held`, and `held` videos drawn as by [`Subset::random`].
    ///
    /// # Errors
    /// `Error::Config` when either part would be empty.
    pub fn split(dataset: &Arc<dyn VideoDataset>, held: usize, seed: u64) -> Result<(Self, Self)> {
        let mut drawn = order(dataset.len(), seed);
        let mut rest = drawn.split_off(held.min(drawn.len()));
        drawn.sort_unstable();
        rest.sort_unstable();
        Ok((Subset::new(Arc::clone(dataset), rest)?, Subset::new(Arc::clone(dataset), drawn)?))
    }

    /// Positions in the whole data set.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn inner(&self, index: usize) -> Option<usize> {
        self.indices.get(index).copied()
    }
}

/// The positions of `len` videos in a random order.
fn order(len: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..len).collect();
    shuffle(&mut ssl_core::rng(seed, &[STREAM]), &mut indices);
    indices
}

impl VideoDataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn frames(&self, index: usize) -> usize {
        self.inner(index).map_or(0, |index| self.dataset.frames(index))
    }

    fn rate(&self, index: usize) -> f64 {
        self.inner(index).map_or(0.0, |index| self.dataset.rate(index))
    }

    fn size(&self) -> [usize; 2] {
        self.dataset.size()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        let inner = self.inner(index).ok_or_else(|| out_of_range(index, self.len()))?;
        self.dataset.read(inner, frames, out)
    }

    fn name(&self, index: usize) -> String {
        self.inner(index).map(|index| self.dataset.name(index)).unwrap_or_default()
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.dataset.label(self.inner(index)?)
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    fn label_sets(&self) -> Vec<LabelSet> {
        let mut sets = self.dataset.label_sets();
        for set in &mut sets {
            let labels = self.indices.iter().map(|&index| set.labels.get(index).copied().unwrap_or(0));
            set.labels = labels.collect();
        }
        sets
    }

    fn skipped(&self) -> Vec<String> {
        self.dataset.skipped()
    }

    fn notes(&self) -> Vec<String> {
        self.dataset.notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;

    #[test]
    fn a_random_part_is_sorted_seeded_and_not_the_beginning() {
        let videos = (0..100).map(|n| vec![n; 1 + usize::from(n % 3)]).collect();
        let names = vec!["even".to_string(), "odd".to_string()];
        let set = ClipArray::new([1, 1], 1, 4.0, videos).unwrap();
        let set = set.with_labels((0..100).map(|n| n % 2).collect(), names).unwrap();
        let set: Arc<dyn VideoDataset> = Arc::new(set);
        let part = Subset::random(Arc::clone(&set), 10, 0).unwrap();
        assert_eq!(part.indices(), Subset::random(Arc::clone(&set), 10, 0).unwrap().indices());
        assert!(part.indices().is_sorted() && part.indices().last().is_some_and(|&last| last > 50));
        let third = part.indices()[3];
        assert_eq!(part.clip(3, &[0]).unwrap(), [third as u8]);
        assert_eq!((part.frames(3), part.name(3)), (1 + third % 3, format!("video {third}")));
        assert_eq!(part.label_sets()[0].labels, part.labels().unwrap());
        assert_eq!(part.label(3), Some(third as i64 % 2));
        assert_eq!(Subset::random(Arc::clone(&set), 500, 0).unwrap().len(), 100);
        assert!(Subset::random(Arc::clone(&set), 0, 0).is_err());
        let (rest, held) = Subset::split(&set, 10, 0).unwrap();
        assert_eq!(held.indices(), part.indices());
        let mut all = [rest.indices(), held.indices()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
        assert!(Subset::split(&set, 100, 0).is_err() && Subset::split(&set, 0, 0).is_err());
    }
}
