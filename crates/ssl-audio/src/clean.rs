//! Windows without augmentation: what evaluation and embedding hear.
//!
//! ```
//! use ssl_audio::{Clean, ClipArray};
//! let set = ClipArray::new(8_000, vec![vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![6.0]])?;
//! let batch = Clean { samples: 3, ..Clean::default() }.batch(&set, &[0, 1])?;
//! assert_eq!(Vec::<f32>::try_from(batch.flatten(0, -1))?, [2.0, 3.0, 4.0, 6.0, 0.0, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
use crate::clip::AudioDataset;
use crate::level::Level;
use crate::source::to_tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use tch::Tensor;

/// How a clip is prepared for the encoder without chance: its middle, or all of it and silence behind it where it is
/// shorter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clean {
    /// Samples of the window, at the rate of the data.
    pub samples: usize,
    /// What the level of the window is brought to.
    pub level: Level,
}

impl Default for Clean {
    /// 1.28 seconds at 16 kHz.
    fn default() -> Self {
        Clean { samples: 20_480, level: Level::Keep }
    }
}

impl Clean {
    /// The middles of the clips at `indices` of a set.
    ///
    /// # Shapes
    /// Returns `[B, T]`.
    ///
    /// # Errors
    /// `Error::Config` when there is no index, one is out of range, or there is no sample; what the data set says of a
    /// clip it cannot read.
    pub fn batch(&self, dataset: &dyn AudioDataset, indices: &[usize]) -> Result<Tensor> {
        self.level.validate()?;
        if indices.is_empty() {
            return Err(Error::config("indices", "expected at least one, got none"));
        }
        if self.samples == 0 {
            return Err(Error::config("samples", "expected at least 1, got 0"));
        }
        let mut block = vec![0.0; indices.len() * self.samples];
        block.par_chunks_exact_mut(self.samples).zip(indices).try_for_each(|(out, &index)| {
            let frames = dataset.frames(index);
            dataset.read(index, frames.saturating_sub(self.samples as u64) / 2, out)?;
            // What fills up the window is no part of the clip.
            let count = usize::try_from(frames).unwrap_or(usize::MAX).min(out.len());
            self.level.apply(out.split_at_mut(count).0);
            Ok::<(), Error>(())
        })?;
        to_tensor(&block, self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;

    #[test]
    fn what_fills_up_a_window_stays_silent_whatever_the_level() {
        let set = ClipArray::new(8_000, vec![vec![1.0, 3.0]]).unwrap();
        let batch = Clean { samples: 4, level: Level::Standard }.batch(&set, &[0, 0]).unwrap();
        let expected = Tensor::from_slice(&[-1f32, 1., 0., 0.]).expand([2, 4], false);
        assert!(batch.allclose(&expected, 0., 1e-5, false), "{batch:?}");
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let set = ClipArray::new(8_000, vec![vec![1.0]]).unwrap();
        let message = |samples, indices: &[usize]| {
            Clean { samples, ..Clean::default() }.batch(&set, indices).unwrap_err().to_string()
        };
        assert_eq!(message(4, &[]), "indices: expected at least one, got none");
        assert_eq!(message(0, &[0]), "samples: expected at least 1, got 0");
        assert!(message(4, &[1]).starts_with("index: expected less than 1"));
    }
}
