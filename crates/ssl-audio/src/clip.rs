//! The interface of a set of recordings, and a set that lies in memory.
//!
//! ```
//! use ssl_audio::{AudioDataset, ClipArray};
//! let set = ClipArray::new(16_000, vec![vec![0.5; 8_000], vec![0.25; 4_000]])?;
//! assert_eq!((set.len(), set.frames(1), set.seconds(0)), (2, 4_000, 0.5));
//! assert_eq!(set.window(1, 3_999, 3)?, [0.25, 0.0, 0.0]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use ssl_core::{Error, Result};
use std::fmt::Debug;

/// A set of mono recordings of one sample rate, with or without labels, that many threads may read at once.
///
/// Integers of a file become numbers from -1 to 1; numbers in floating point stay as they are, also beyond full scale.
pub trait AudioDataset: Debug + Send + Sync {
    /// Number of clips.
    fn len(&self) -> usize;

    /// Whether there is no clip.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples per second of every clip, in hertz.
    fn sample_rate(&self) -> u32;

    /// Samples of one clip at the set's rate; 0 when `index` is out of range.
    fn frames(&self, index: usize) -> u64;

    /// Seconds of one clip.
    fn seconds(&self, index: usize) -> f64 {
        self.frames(index) as f64 / f64::from(self.sample_rate())
    }

    /// Reads samples of one clip from `start` on until `out` is full; behind the clip's end is silence.
    ///
    /// # Errors
    /// `Error::Config` when `index` is out of range, `Error::Data` or `Error::Io` when it cannot be read.
    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()>;

    /// `len` samples of one clip from `start` on; behind the clip's end is silence.
    ///
    /// # Errors
    /// As [`AudioDataset::read`].
    fn window(&self, index: usize, start: u64, len: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; len];
        self.read(index, start, &mut out)?;
        Ok(out)
    }

    /// One clip as a whole.
    ///
    /// # Errors
    /// As [`AudioDataset::read`]; `Error::Config` when it has more samples than memory has addresses.
    fn clip(&self, index: usize) -> Result<Vec<f32>> {
        let frames = usize::try_from(self.frames(index));
        let frames = frames.map_err(|_| Error::config("clip", "expected one that fits into memory"))?;
        self.window(index, 0, frames)
    }

    /// What a clip is called: its file, where it has one.
    fn name(&self, index: usize) -> String {
        format!("clip {index}")
    }

    /// The class of one clip, from 0; none without labels.
    fn label(&self, index: usize) -> Option<i64>;

    /// Names of the classes in the order of the labels; empty without labels.
    fn class_names(&self) -> &[String];

    /// All labels; none when any clip lacks one.
    fn labels(&self) -> Option<Vec<i64>> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// The clips that were left out or could not be read so far, one line each: which and why. It grows while clips
    /// are read, so a program that names them asks again and leaves out the lines it has had.
    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The error of an index past the end.
pub(crate) fn out_of_range(index: usize, len: usize) -> Error {
    Error::config("index", format!("expected less than {len} (the number of clips), got {index}"))
}

/// Copies the samples of `clip` from `start` on; what is missing is silence.
pub(crate) fn copy_from(clip: &[f32], start: u64, out: &mut [f32]) {
    let rest = usize::try_from(start).ok().and_then(|start| clip.get(start..)).unwrap_or_default();
    let count = rest.len().min(out.len());
    let (filled, silent) = out.split_at_mut(count);
    for (out, sample) in filled.iter_mut().zip(rest) {
        *out = *sample;
    }
    silent.fill(0.0);
}

/// Recordings in memory.
#[derive(Clone)]
pub struct ClipArray {
    sample_rate: u32,
    clips: Vec<Vec<f32>>,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
}

impl Debug for ClipArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClipArray({} of {} Hz)", self.clips.len(), self.sample_rate)
    }
}

impl ClipArray {
    /// A set of mono clips of one rate, in hertz.
    ///
    /// # Errors
    /// `Error::Config` when the rate is 0, there is no clip, or a clip is empty or has a sample that is not finite.
    pub fn new(sample_rate: u32, clips: Vec<Vec<f32>>) -> Result<Self> {
        if sample_rate == 0 {
            return Err(Error::config("sample_rate", "expected at least 1 Hz, got 0"));
        }
        if clips.is_empty() {
            return Err(Error::config("clips", "expected at least one, got none"));
        }
        for (index, clip) in clips.iter().enumerate() {
            if clip.is_empty() {
                return Err(Error::config("clips", format!("expected samples, clip {index} has none")));
            }
            if let Some(at) = clip.iter().position(|sample| !sample.is_finite()) {
                let message = format!("expected finite samples, sample {at} of clip {index} is not");
                return Err(Error::config("clips", message));
            }
        }
        Ok(ClipArray { sample_rate, clips, labels: None, class_names: Vec::new() })
    }

    /// The same set with a label for each clip.
    ///
    /// # Errors
    /// `Error::Config` when there are not as many labels as clips, or a label has no name.
    pub fn with_labels(self, labels: Vec<i64>, class_names: Vec<String>) -> Result<Self> {
        if labels.len() != self.clips.len() {
            let message = format!("expected {} (one for each clip), got {}", self.clips.len(), labels.len());
            return Err(Error::config("labels", message));
        }
        let names = class_names.len();
        match labels.iter().find(|&&label| usize::try_from(label).map_or(true, |label| label >= names)) {
            Some(label) => {
                Err(Error::config("labels", format!("expected 0 to {names} (the names), got {label}")))
            }
            None => Ok(ClipArray { labels: Some(labels), class_names, ..self }),
        }
    }
}

impl AudioDataset for ClipArray {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    fn frames(&self, index: usize) -> u64 {
        self.clips.get(index).map_or(0, |clip| clip.len() as u64)
    }

    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()> {
        let clip = self.clips.get(index).ok_or_else(|| out_of_range(index, self.clips.len()))?;
        copy_from(clip, start, out);
        Ok(())
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_end_of_a_clip_is_silence() {
        let set = ClipArray::new(8, vec![vec![1.0, 2.0, 3.0]]).unwrap();
        assert_eq!(set.window(0, 2, 3).unwrap(), [3.0, 0.0, 0.0]);
        assert_eq!(set.window(0, u64::MAX, 2).unwrap(), [0.0, 0.0]);
        assert_eq!(set.clip(0).unwrap(), [1.0, 2.0, 3.0]);
        let message = set.window(1, 0, 1).unwrap_err().to_string();
        assert_eq!(message, "index: expected less than 1 (the number of clips), got 1");
    }

    #[test]
    fn faulty_clips_and_labels_are_named() {
        let message = |clips: Vec<Vec<f32>>| ClipArray::new(8, clips).unwrap_err().to_string();
        assert_eq!(message(vec![vec![0.0], vec![]]), "clips: expected samples, clip 1 has none");
        assert!(message(vec![vec![0.0, f32::NAN]]).ends_with("sample 1 of clip 0 is not"));
        let set = ClipArray::new(8, vec![vec![0.0]]).unwrap();
        let names = vec!["a".to_string()];
        assert!(set.clone().with_labels(vec![0, 0], names.clone()).is_err());
        assert!(set.clone().with_labels(vec![1], names.clone()).is_err());
        assert_eq!(set.with_labels(vec![0], names).unwrap().labels(), Some(vec![0]));
    }
}
