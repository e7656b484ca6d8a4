//! A part of a data set.
use crate::augment::shuffle;
use crate::image::out_of_range;
use crate::{Image, ImageDataset};
use ssl_core::{Error, Result};
use std::sync::Arc;

const STREAM: u64 = 3;

/// Some of the images of a data set, in a given order.
#[derive(Debug, Clone)]
pub struct Subset {
    dataset: Arc<dyn ImageDataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The images at `indices`.
    ///
    /// # Errors
    /// `Error::Config` when there is no index or one is out of range.
    pub fn new(dataset: Arc<dyn ImageDataset>, indices: Vec<usize>) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::config("limit", "expected at least 1 image, got 0"));
        }
        if let Some(&index) = indices.iter().find(|&&index| index >= dataset.len()) {
            return Err(out_of_range(index, dataset.len()));
        }
        Ok(Subset { dataset, indices })
    }

    /// `count` images drawn without replacement (folders are sorted by class, so the first would be of one), in
    /// the order of the data set; all of them when there are fewer.
    ///
    /// # Errors
    /// `Error::Config` when `count` is 0.
    pub fn random(dataset: Arc<dyn ImageDataset>, count: usize, seed: u64) -> Result<Self> {
        let mut indices = order(dataset.len(), seed);
        indices.truncate(count);
        indices.sort_unstable();
        Subset::new(dataset, indices)
    }

    /// All images but `held`, and `held` images drawn as by [`Subset::random`].
    ///
    /// # Errors
    /// `Error::Config` when either part would be empty.
    pub fn split(dataset: &Arc<dyn ImageDataset>, held: usize, seed: u64) -> Result<(Self, Self)> {
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
}

/// The positions of `len` images in a random order.
fn order(len: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..len).collect();
    shuffle(&mut ssl_core::rng(seed, &[STREAM]), &mut indices);
    indices
}

impl ImageDataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn size(&self) -> Option<(usize, usize)> {
        self.dataset.size()
    }

    fn image(&self, index: usize) -> Result<Image<'_>> {
        let inner = self.indices.get(index).ok_or_else(|| out_of_range(index, self.len()))?;
        self.dataset.image(*inner)
    }

    fn name(&self, index: usize) -> String {
        self.indices.get(index).map(|&inner| self.dataset.name(inner)).unwrap_or_default()
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.dataset.label(*self.indices.get(index)?)
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    fn skipped(&self) -> Vec<String> {
        self.dataset.skipped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageArray;

    #[test]
    fn a_random_part_is_sorted_seeded_and_not_the_beginning() {
        let set: Arc<dyn ImageDataset> = Arc::new(ImageArray::new(1, 1, 1, (0..100).collect()).unwrap());
        let part = Subset::random(Arc::clone(&set), 10, 0).unwrap();
        assert_eq!(part.indices(), Subset::random(Arc::clone(&set), 10, 0).unwrap().indices());
        assert!(part.indices().is_sorted());
        assert!(part.indices().last().is_some_and(|&last| last > 50));
        assert_eq!(part.image(3).unwrap().data()[0] as usize, part.indices()[3]);
        assert_eq!(Subset::random(Arc::clone(&set), 500, 0).unwrap().len(), 100);
        assert_eq!(part.name(3), part.indices()[3].to_string());
        assert!(Subset::random(Arc::clone(&set), 0, 0).is_err());
        let (rest, held) = Subset::split(&set, 10, 0).unwrap();
        assert_eq!(held.indices(), part.indices());
        let mut all = [rest.indices(), held.indices()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(Subset::split(&set, 100, 0).is_err() && Subset::split(&set, 0, 0).is_err());
    }
}
