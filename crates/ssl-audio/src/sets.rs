//! A part of a set of recordings, and several sets as one.
//!
//! ```
//! use ssl_audio::{AudioDataset, ClipArray, Joined, Part};
//! use std::sync::Arc;
//! let set = |values: &[f32]| ClipArray::new(8_000, values.iter().map(|v| vec![*v]).collect());
//! let both = Joined::new(vec![Arc::new(set(&[1.0, 2.0])?), Arc::new(set(&[3.0])?)])?;
//! let part = Part::new(Arc::new(both), vec![2, 0])?;
//! assert_eq!((part.clip(0)?, part.clip(1)?), (vec![3.0], vec![1.0]));
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::AudioDataset;
use crate::clip::out_of_range;
use crate::random::shuffle;
use ssl_core::{Error, Result};
use std::sync::Arc;

/// The stream of random numbers that draws a part.
const STREAM: u64 = 404;

/// Some of the clips of a set, in a given order.
#[derive(Debug, Clone)]
pub struct Part {
    dataset: Arc<dyn AudioDataset>,
    indices: Vec<usize>,
}

impl Part {
    /// The clips at `indices`.
    ///
    /// # Errors
    /// `Error::Config` when there is no index or one is out of range.
    pub fn new(dataset: Arc<dyn AudioDataset>, indices: Vec<usize>) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::config("indices", "expected at least one, got none"));
        }
        if let Some(&index) = indices.iter().find(|&&index| index >= dataset.len()) {
            return Err(out_of_range(index, dataset.len()));
        }
        Ok(Part { dataset, indices })
    }

    /// `count` clips drawn without replacement, in the order of the set; all of them when there are fewer.
    ///
    /// # Errors
    /// `Error::Config` when `count` is 0.
    pub fn random(dataset: Arc<dyn AudioDataset>, count: usize, seed: u64) -> Result<Self> {
        let mut indices = order(dataset.len(), seed);
        indices.truncate(count);
        indices.sort_unstable();
        Part::new(dataset, indices)
    }

    /// All clips but `held`, and `held` clips drawn as by [`Part::random`].
    ///
    /// # Errors
    /// `Error::Config` when either part would be empty.
    pub fn split(dataset: &Arc<dyn AudioDataset>, held: usize, seed: u64) -> Result<(Self, Self)> {
        let mut drawn = order(dataset.len(), seed);
        let mut rest = drawn.split_off(held.min(drawn.len()));
        drawn.sort_unstable();
        rest.sort_unstable();
        Ok((Part::new(Arc::clone(dataset), rest)?, Part::new(Arc::clone(dataset), drawn)?))
    }

    fn inner(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or_else(|| out_of_range(index, self.indices.len()))
    }
}

/// The positions of `len` clips in a random order.
fn order(len: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..len).collect();
    shuffle(&mut ssl_core::rng(seed, &[STREAM]), &mut indices);
    indices
}

impl AudioDataset for Part {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn sample_rate(&self) -> u32 {
        self.dataset.sample_rate()
    }

    fn frames(&self, index: usize) -> u64 {
        self.inner(index).map_or(0, |inner| self.dataset.frames(inner))
    }

    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()> {
        self.dataset.read(self.inner(index)?, start, out)
    }

    fn name(&self, index: usize) -> String {
        self.inner(index).map_or_else(|_| String::new(), |inner| self.dataset.name(inner))
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.dataset.label(self.inner(index).ok()?)
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    fn skipped(&self) -> Vec<String> {
        self.dataset.skipped()
    }
}

/// The clips of several sets of one rate behind each other. Labels are kept where there is one set only: those of
/// several sets mean different things.
#[derive(Debug, Clone)]
pub struct Joined {
    sets: Vec<Arc<dyn AudioDataset>>,
    /// The number of the first clip of each set.
    starts: Vec<usize>,
    len: usize,
}

impl Joined {
    /// The sets in that order.
    ///
    /// # Errors
    /// `Error::Config` when there is none or their rates differ.
    pub fn new(sets: Vec<Arc<dyn AudioDataset>>) -> Result<Self> {
        let rate = sets.first().map(|set| set.sample_rate());
        if rate.is_none() || sets.iter().any(|set| Some(set.sample_rate()) != rate) {
            let rates: Vec<String> = sets.iter().map(|set| set.sample_rate().to_string()).collect();
            let message =
                format!("expected some of one sample rate, got {}: {}", rates.len(), rates.join(", "));
            return Err(Error::config("sets", message));
        }
        let (mut starts, mut len) = (Vec::with_capacity(sets.len()), 0);
        for set in &sets {
            starts.push(len);
            len += set.len();
        }
        Ok(Joined { sets, starts, len })
    }

    /// The set of a clip, and its number there.
    fn find(&self, index: usize) -> Result<(&dyn AudioDataset, usize)> {
        let place = self.starts.partition_point(|start| *start <= index).saturating_sub(1);
        match (self.sets.get(place), self.starts.get(place)) {
            (Some(set), Some(start)) if index < self.len => Ok((&**set, index - start)),
            _ => Err(out_of_range(index, self.len)),
        }
    }

    fn only(&self) -> Option<&dyn AudioDataset> {
        match self.sets.as_slice() {
            [set] => Some(&**set),
            _ => None,
        }
    }
}

impl AudioDataset for Joined {
    fn len(&self) -> usize {
        self.len
    }

    fn sample_rate(&self) -> u32 {
        self.sets.first().map_or(0, |set| set.sample_rate())
    }

    fn frames(&self, index: usize) -> u64 {
        self.find(index).map_or(0, |(set, inner)| set.frames(inner))
    }

    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()> {
        let (set, inner) = self.find(index)?;
        set.read(inner, start, out)
    }

    fn name(&self, index: usize) -> String {
        self.find(index).map_or_else(|_| String::new(), |(set, inner)| set.name(inner))
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.only()?.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.only().map(|set| set.class_names()).unwrap_or_default()
    }

    fn skipped(&self) -> Vec<String> {
        self.sets.iter().flat_map(|set| set.skipped()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;

    fn set(rate: u32, values: &[f32]) -> Arc<dyn AudioDataset> {
        let names = vec!["a".to_string(), "b".to_string()];
        let labels = values.iter().map(|value| i64::from(*value > 2.)).collect();
        let clips = values.iter().map(|value| vec![*value; *value as usize]).collect();
        Arc::new(ClipArray::new(rate, clips).unwrap().with_labels(labels, names).unwrap())
    }

    #[test]
    fn several_sets_are_one_without_labels() {
        let both =
            Joined::new(vec![set(8_000, &[1., 2.]), set(8_000, &[3.]), set(8_000, &[4., 5.])]).unwrap();
        assert_eq!((0..5).map(|index| both.frames(index)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!((both.clip(3).unwrap(), both.len(), both.frames(5)), (vec![4.; 4], 5, 0));
        assert!(both.labels().is_none() && both.class_names().is_empty());
        assert!(both.clip(5).unwrap_err().to_string().contains("got 5"));
        let one = Joined::new(vec![set(8_000, &[1., 3.])]).unwrap();
        assert_eq!((one.labels(), one.class_names().len()), (Some(vec![0, 1]), 2));
    }

    #[test]
    fn sets_of_other_rates_do_not_join() {
        let message = |sets| Joined::new(sets).unwrap_err().to_string();
        assert_eq!(
            message(vec![set(8_000, &[1.]), set(16_000, &[1.])]),
            "sets: expected some of one sample rate, got 2: 8000, 16000"
        );
        assert!(message(Vec::new()).contains("got 0"));
    }

    #[test]
    fn parts_keep_labels_and_share_nothing() {
        let whole = set(8_000, &[1., 2., 3., 4., 5.]);
        let (rest, held) = Part::split(&whole, 2, 0).unwrap();
        let mut frames: Vec<u64> =
            (0..3).map(|i| rest.frames(i)).chain((0..2).map(|i| held.frames(i))).collect();
        frames.sort_unstable();
        assert_eq!(frames, [1, 2, 3, 4, 5]);
        for index in 0..3 {
            assert_eq!(rest.label(index), Some(i64::from(rest.frames(index) > 2)));
        }
        let again = Part::random(Arc::clone(&whole), 3, 7).unwrap();
        assert_eq!(again.indices, Part::random(Arc::clone(&whole), 3, 7).unwrap().indices);
        assert!(Part::new(Arc::clone(&whole), vec![5]).is_err() && Part::random(whole, 0, 0).is_err());
    }
}
