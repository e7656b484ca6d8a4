//! The interface of a set of videos, and a set that lies in memory.
//!
//! ```
//! use ssl_video::{ClipArray, VideoDataset};
//! // Two videos of 2 frames of 1 x 2 grey pixels.
//! let set = ClipArray::new([1, 2], 1, 10.0, vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]])?;
//! assert_eq!((set.len(), set.frames(1), set.seconds(0)), (2, 2, 0.2));
//! // Behind the last frame a video begins anew.
//! assert_eq!(set.clip(1, &[1, 2, 0])?, [6, 7, 4, 5, 4, 5]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use ssl_core::{Error, Result};
use std::fmt::Debug;

/// Labels of one kind, such as the direction of what moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSet {
    /// What they say, in a word: `class`, `direction`.
    pub name: String,
    /// One for each video, from 0.
    pub labels: Vec<i64>,
    /// Names of the classes in the order of the labels.
    pub class_names: Vec<String>,
}

/// A set of videos whose frames are of one size, with or without labels, that many threads may read at once.
pub trait VideoDataset: Debug + Send + Sync {
    /// Number of videos.
    fn len(&self) -> usize;

    /// Whether there is no video.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames of one video; 0 when `index` is out of range.
    fn frames(&self, index: usize) -> usize;

    /// Frames per second of one video; 0 when `index` is out of range.
    fn rate(&self, index: usize) -> f64;

    /// Seconds of one video; 0 when `index` is out of range.
    fn seconds(&self, index: usize) -> f64 {
        match self.rate(index) {
            rate if rate > 0.0 => self.frames(index) as f64 / rate,
            _ => 0.0,
        }
    }

    /// Height and width of every frame, in pixels.
    fn size(&self) -> [usize; 2];

    /// Channels of every frame: 1 (grey) or 3 (RGB).
    fn channels(&self) -> usize;

    /// Bytes of a frame.
    fn frame_bytes(&self) -> usize {
        let [height, width] = self.size();
        height * width * self.channels()
    }

    /// Reads frames of one video in the order of their numbers, which may be any: `out` is `[T, H, W, C]`. Behind the
    /// last frame the video begins anew: of a video of 10 frames, frame 12 is frame 2.
    ///
    /// # Errors
    /// `Error::Config` when `index` is out of range or `out` has not as many bytes as the frames; `Error::Data` or
    /// `Error::Io` when the video cannot be read.
    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()>;

    /// Frames of one video, `[T, H, W, C]`; see [`VideoDataset::read`].
    ///
    /// # Errors
    /// As [`VideoDataset::read`].
    fn clip(&self, index: usize, frames: &[usize]) -> Result<Vec<u8>> {
        let mut out = vec![0; frames.len() * self.frame_bytes()];
        self.read(index, frames, &mut out)?;
        Ok(out)
    }

    /// What a video is called: its file, where it has one.
    fn name(&self, index: usize) -> String {
        format!("video {index}")
    }

    /// The class of one video, from 0; none without labels.
    fn label(&self, index: usize) -> Option<i64>;

    /// Names of the classes in the order of the labels; empty without labels.
    fn class_names(&self) -> &[String];

    /// The classes of all videos; none when any video lacks one.
    fn labels(&self) -> Option<Vec<i64>> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// All kinds of labels, the class first, where videos have any.
    fn label_sets(&self) -> Vec<LabelSet> {
        let class_names = self.class_names().to_vec();
        let labels = self.labels().filter(|_| !class_names.is_empty());
        labels.map(|labels| LabelSet { name: "class".to_string(), labels, class_names }).into_iter().collect()
    }

    /// The videos that were left out or could not be read so far, one line each: which and why. It grows while videos
    /// are read, so a program that names them asks again and leaves out the lines it has had.
    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }

    /// The videos that are read otherwise than they were stored, one line each: which and how.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The error of an index past the end.
pub(crate) fn out_of_range(index: usize, len: usize) -> Error {
    Error::config("index", format!("expected less than {len} (the number of videos), got {index}"))
}

/// Checks that `out` has the bytes of so many frames.
pub(crate) fn check_out(out: &[u8], frames: usize, frame_bytes: usize) -> Result<()> {
    match frames.checked_mul(frame_bytes) {
        Some(expected) if expected == out.len() => Ok(()),
        _ => Err(Error::config(
            "out",
            format!("expected {frames} frames of {frame_bytes} bytes, got {} bytes", out.len()),
        )),
    }
}

/// Copies frames of a video that lies in memory; behind the last it begins anew.
pub(crate) fn copy_frames(video: &[u8], frame_bytes: usize, frames: &[usize], out: &mut [u8]) {
    let count = (video.len() / frame_bytes.max(1)).max(1);
    for (&frame, out) in frames.iter().zip(out.chunks_exact_mut(frame_bytes.max(1))) {
        let start = frame % count * frame_bytes;
        if let Some(frame) = video.get(start..start + frame_bytes) {
            out.copy_from_slice(frame);
        }
    }
}

/// Videos in memory.
#[derive(Clone)]
pub struct ClipArray {
    size: [usize; 2],
    channels: usize,
    rate: f64,
    videos: Vec<Vec<u8>>,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
}

impl Debug for ClipArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([h, w], c) = (self.size, self.channels);
        write!(f, "ClipArray({} of {h}x{w}x{c} at {} frames/s)", self.videos.len(), self.rate)
    }
}

impl ClipArray {
    /// Videos from their bytes, each `[T, H, W, C]`; `size` is height and width in pixels, `rate` frames per second.
    ///
    /// # Errors
    /// `Error::Config` when a side is 0, channels are neither 1 nor 3, the rate is no positive number, there is no
    /// video, or the bytes of one are no positive number of frames.
    pub fn new(size: [usize; 2], channels: usize, rate: f64, videos: Vec<Vec<u8>>) -> Result<Self> {
        let [height, width] = size;
        let each = height.saturating_mul(width).saturating_mul(channels);
        if each == 0 || !matches!(channels, 1 | 3) {
            let message = format!(
                "expected sides of at least 1 pixel and 1 or 3 channels, got {height}x{width}x{channels}"
            );
            return Err(Error::config("size", message));
        }
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(Error::config("rate", format!("expected more than 0 frames per second, got {rate}")));
        }
        if videos.is_empty() {
            return Err(Error::config("videos", "expected at least one, got none"));
        }
        let faulty = |video: &Vec<u8>| video.is_empty() || !video.len().is_multiple_of(each);
        if let Some((index, video)) = videos.iter().enumerate().find(|(_, video)| faulty(video)) {
            let bytes = video.len();
            let message =
                format!("expected a positive multiple of {each} bytes (a frame), video {index} has {bytes}");
            return Err(Error::config("videos", message));
        }
        Ok(ClipArray { size, channels, rate, videos, labels: None, class_names: Vec::new() })
    }

    /// The same set with a class for each video.
    ///
    /// # Errors
    /// `Error::Config` when there are not as many labels as videos, or a label has no name.
    pub fn with_labels(self, labels: Vec<i64>, class_names: Vec<String>) -> Result<Self> {
        if labels.len() != self.videos.len() {
            let message =
                format!("expected {} (one for each video), got {}", self.videos.len(), labels.len());
            return Err(Error::config("labels", message));
        }
        let names = class_names.len();
        match labels.iter().find(|&&label| usize::try_from(label).map_or(true, |label| label >= names)) {
            Some(label) => {
                Err(Error::config("labels", format!("expected 0 to below {names} (the names), got {label}")))
            }
            None => Ok(ClipArray { labels: Some(labels), class_names, ..self }),
        }
    }
}

impl VideoDataset for ClipArray {
    fn len(&self) -> usize {
        self.videos.len()
    }

    fn frames(&self, index: usize) -> usize {
        self.videos.get(index).map_or(0, |video| video.len() / self.frame_bytes())
    }

    fn rate(&self, index: usize) -> f64 {
        if index < self.videos.len() { self.rate } else { 0.0 }
    }

    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        let video = self.videos.get(index).ok_or_else(|| out_of_range(index, self.videos.len()))?;
        check_out(out, frames.len(), self.frame_bytes())?;
        copy_frames(video, self.frame_bytes(), frames, out);
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
    fn behind_its_end_a_video_begins_anew() {
        let set = ClipArray::new([1, 1], 3, 5.0, vec![vec![1; 3], (0..9).collect()]).unwrap();
        assert_eq!(set.clip(1, &[2, 3, 7]).unwrap(), [6, 7, 8, 0, 1, 2, 3, 4, 5]);
        assert_eq!(set.clip(0, &[usize::MAX]).unwrap(), [1; 3]);
        assert_eq!((set.seconds(1), set.rate(2), set.seconds(2)), (0.6, 0.0, 0.0));
        let message = set.clip(2, &[0]).unwrap_err().to_string();
        assert_eq!(message, "index: expected less than 2 (the number of videos), got 2");
        let message = set.read(0, &[0, 0], &mut [0; 3]).unwrap_err().to_string();
        assert_eq!(message, "out: expected 2 frames of 3 bytes, got 3 bytes");
    }

    #[test]
    fn faulty_videos_and_labels_are_named() {
        let new = |videos| ClipArray::new([2, 1], 1, 5.0, videos);
        let message = |videos: Vec<Vec<u8>>| new(videos).unwrap_err().to_string();
        assert_eq!(message(vec![]), "videos: expected at least one, got none");
        assert!(message(vec![vec![0; 2], vec![0; 3]]).ends_with("(a frame), video 1 has 3"));
        assert!(message(vec![vec![]]).ends_with("video 0 has 0"));
        assert!(ClipArray::new([2, 1], 2, 5.0, vec![vec![0; 4]]).is_err());
        assert!(ClipArray::new([2, 1], 1, f64::NAN, vec![vec![0; 4]]).is_err());
        let names = vec!["a".to_string()];
        let set = || new(vec![vec![0; 4]]).unwrap();
        assert!(set().label_sets().is_empty());
        assert!(set().with_labels(vec![0, 0], names.clone()).is_err());
        assert!(set().with_labels(vec![1], names.clone()).is_err());
        let labelled = set().with_labels(vec![0], names.clone()).unwrap();
        let expected = LabelSet { name: "class".to_string(), labels: vec![0], class_names: names };
        assert_eq!(labelled.label_sets(), [expected]);
    }
}
