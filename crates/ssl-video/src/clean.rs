//! Clips without augmentation: what evaluation and embedding see.
//!
//! ```
//! use ssl_video::{Clean, ClipArray};
//! // 6 grey frames of 1 x 1 pixel; the middle two of every second frame are frames 1 and 3 of 0 to 5.
//! let set = ClipArray::new([1, 1], 1, 10.0, vec![vec![0, 51, 102, 153, 204, 255]])?;
//! let clean = Clean { frames: 2, stride: 2, size: 1, mean: vec![0.0], std: vec![1.0] };
//! let batch = clean.batch(&set, &[0])?;
//! assert_eq!(batch.size(), [1, 1, 2, 1, 1]);
//! assert_eq!(Vec::<f32>::try_from((batch * 255).round().flatten(0, -1))?, [51.0, 153.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
use crate::augment::View;
use crate::clip::VideoDataset;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use ssl_vision::ImageArray;
use tch::Tensor;

/// How a video is prepared for the encoder without chance: its middle window; of a shorter video all frames, which begin
/// anew behind the last.
///
/// Frames are prepared as [`ssl_vision::Clean`] does images: where the longer side is `size`, they stay as they are,
/// else the shorter side is resized to 8/7 of `size` and the middle square is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clean {
    /// Frames of the window.
    pub frames: usize,
    /// Frames of the video from one frame of the window to the next.
    pub stride: usize,
    /// Side of the square, in pixels.
    pub size: usize,
    /// What is subtracted from each channel, of full scale; three numbers make grey videos three channels.
    pub mean: Vec<f32>,
    /// By what each channel is then divided, of full scale.
    pub std: Vec<f32>,
}

impl Default for Clean {
    /// That of the default view.
    fn default() -> Self {
        Clean::of(&View::default())
    }
}

impl Clean {
    /// The frames, size and normalization of a random view.
    pub fn of(view: &View) -> Self {
        let ssl_vision::Clean { size, mean, std } = ssl_vision::Clean::of(&view.augment.clip);
        Clean { frames: view.frames, stride: view.stride, size, mean, std }
    }

    /// Frames of the video from the first to the last of the window.
    pub fn window(&self) -> usize {
        self.frames.saturating_sub(1) * self.stride + 1
    }

    /// The middle windows of the videos at `indices` of a set.
    ///
    /// # Shapes
    /// Returns `[B, C, T, H, W]` with channels-last strides.
    ///
    /// # Errors
    /// `Error::Config` when there is no index, one is out of range, or a field is; what the data set says of a video
    /// it cannot read.
    pub fn batch(&self, dataset: &dyn VideoDataset, indices: &[usize]) -> Result<Tensor> {
        let middle = |&index: &usize| (index, dataset.frames(index).saturating_sub(self.window()) / 2);
        self.windows(dataset, &indices.iter().map(middle).collect::<Vec<_>>())
    }

    /// The windows of videos that begin at given frames: pairs of a video and its first frame.
    ///
    /// # Shapes
    /// Returns `[B, C, T, H, W]` with channels-last strides.
    ///
    /// # Errors
    /// As [`Clean::batch`].
    pub fn windows(&self, dataset: &dyn VideoDataset, windows: &[(usize, usize)]) -> Result<Tensor> {
        if windows.is_empty() {
            return Err(Error::config("indices", "expected at least one, got none"));
        }
        let view = View { frames: self.frames, stride: self.stride, ..View::default() };
        view.validate()?;
        let [height, width] = dataset.size();
        let each = self.frames * dataset.frame_bytes();
        let mut bytes = vec![0; windows.len() * each];
        let read = bytes.par_chunks_exact_mut(each).zip(windows);
        read.try_for_each(|(out, &(video, start))| dataset.read(video, &view.indices(start), out))?;
        let images = ImageArray::new(width, height, dataset.channels(), bytes)?;
        let all: Vec<usize> = (0..windows.len() * self.frames).collect();
        let clean = ssl_vision::Clean { size: self.size, mean: self.mean.clone(), std: self.std.clone() };
        let frames = clean.batch(&images, &all)?; // [B * T, C, H, W].
        let clips = frames.f_unflatten(0, [windows.len() as i64, self.frames as i64])?;
        Ok(clips.f_permute([0, 2, 1, 3, 4])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;

    fn set() -> ClipArray {
        let video = |n: usize, frames: usize| (0..frames * 18).map(|at| (at * n % 256) as u8).collect();
        ClipArray::new([2, 3], 3, 10.0, vec![video(5, 7), video(3, 2)]).unwrap()
    }

    fn clean(frames: usize, stride: usize) -> Clean {
        Clean { frames, stride, size: 3, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] }
    }

    #[test]
    fn the_middle_is_taken_and_a_short_video_begins_anew() {
        let batch = clean(3, 2).batch(&set(), &[0, 1]).unwrap();
        assert_eq!((batch.size(), batch.stride()[1]), (vec![2, 3, 3, 2, 3], 1));
        // Frames 1, 3, 5 of 7; frames 0, 2 and 4 of 2 are the first.
        for (row, (n, frames)) in [(5, [1, 3, 5]), (3, [0, 0, 0])].into_iter().enumerate() {
            for (t, frame) in frames.into_iter().enumerate() {
                let got = batch.get(row as i64).select(1, t as i64).permute([1, 2, 0]).flatten(0, -1);
                let got: Vec<f32> = Vec::try_from(got.contiguous()).unwrap();
                let expected = (0..18).map(|at| ((frame * 18 + at) * n % 256) as f32);
                assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{row} {t}");
            }
        }
        let windows = clean(3, 2).windows(&set(), &[(0, 1), (1, 0)]).unwrap();
        assert!(windows.equal(&batch));
    }

    #[test]
    fn other_sizes_become_squares_and_faults_are_named() {
        let small = Clean { size: 2, ..clean(4, 1) };
        assert_eq!(small.batch(&set(), &[1]).unwrap().size(), [1, 3, 4, 2, 2]);
        let message = |clean: Clean, indices: &[usize]| clean.batch(&set(), indices).unwrap_err().to_string();
        assert_eq!(message(clean(4, 1), &[]), "indices: expected at least one, got none");
        assert!(message(clean(4, 1), &[2]).starts_with("index: expected less than 2"));
        assert!(message(clean(0, 1), &[0]).starts_with("frames: expected 1"));
        assert!(message(Clean { size: 0, ..clean(1, 1) }, &[0]).starts_with("size: expected 1"));
        assert!(serde_json::from_str::<Clean>(r#"{"sise": 1}"#).is_err());
    }
}
