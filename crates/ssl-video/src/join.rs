//! Videos that follow one another as one.
//!
//! ```
//! use ssl_video::{ClipArray, Joined, VideoDataset};
//! // Videos of 2 and 3 frames of 1 x 1 grey pixel.
//! let set = ClipArray::new([1, 1], 1, 10.0, vec![vec![1, 2], vec![3, 4, 5]])?;
//! let joined = Joined::new(vec![std::sync::Arc::new(set)])?;
//! assert_eq!((joined.len(), joined.frames(0)), (1, 5));
//! assert_eq!(joined.clip(0, &[1, 2])?, [2, 3]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::clip::{VideoDataset, check_out, out_of_range};
use ssl_core::{Error, Result};
use std::sync::Arc;

/// All videos of some sets as one video, in their order.
#[derive(Debug, Clone)]
pub struct Joined {
    sets: Vec<Arc<dyn VideoDataset>>,
    parts: Vec<Part>,
    frames: usize,
}

/// One of the videos.
#[derive(Debug, Clone, Copy)]
struct Part {
    set: usize,
    video: usize,
    begin: usize,
}

impl Joined {
    /// The videos one after the other.
    ///
    /// # Errors
    /// `Error::Config` when there is no frame, or sizes, channels or rates differ.
    pub fn new(sets: Vec<Arc<dyn VideoDataset>>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut frames = 0usize;
        for (number, set) in sets.iter().enumerate() {
            for video in (0..set.len()).filter(|&video| set.frames(video) > 0) {
                parts.push(Part { set: number, video, begin: frames });
                frames += set.frames(video);
            }
        }
        let joined = Joined { sets, parts, frames };
        let Some((first, of_first)) = joined.part(0) else {
            return Err(Error::config("videos", "expected at least one frame, got none"));
        };
        let (shape, rate) = ((first.size(), first.channels()), first.rate(of_first));
        for place in 0..joined.parts.len() {
            let Some((set, video)) = joined.part(place) else { continue };
            let name = || set.name(video);
            if (set.size(), set.channels()) != shape {
                let ([height, width], channels) = shape;
                let message =
                    format!("expected {height}x{width}x{channels} as of the first, {} has another", name());
                return Err(Error::config("size", message));
            }
            // Rates that are written as fractions differ by rounding.
            if (set.rate(video) - rate).abs() > 1e-6 * rate {
                let message = format!(
                    "expected {rate} frames per second as of the first, {} has {}",
                    name(),
                    set.rate(video)
                );
                return Err(Error::config("rate", message));
            }
        }
        Ok(joined)
    }

    /// The set and the video in it of one of the parts.
    fn part(&self, place: usize) -> Option<(&dyn VideoDataset, usize)> {
        let part = self.parts.get(place)?;
        Some((self.sets.get(part.set)?.as_ref(), part.video))
    }

    /// Where a frame comes from: the number of the set, that of the video in it, and the frame there. Behind the last
    /// frame it begins anew.
    pub fn origin(&self, frame: usize) -> Option<(usize, usize, usize)> {
        let frame = frame % self.frames.max(1);
        let place = self.parts.partition_point(|part| part.begin <= frame).checked_sub(1)?;
        let part = self.parts.get(place)?;
        Some((part.set, part.video, frame - part.begin))
    }
}

impl VideoDataset for Joined {
    fn len(&self) -> usize {
        1
    }

    fn frames(&self, index: usize) -> usize {
        if index == 0 { self.frames } else { 0 }
    }

    fn rate(&self, index: usize) -> f64 {
        if index == 0 { self.part(0).map_or(0.0, |(set, video)| set.rate(video)) } else { 0.0 }
    }

    fn size(&self) -> [usize; 2] {
        self.part(0).map_or([0, 0], |(set, _)| set.size())
    }

    fn channels(&self) -> usize {
        self.part(0).map_or(0, |(set, _)| set.channels())
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        if index != 0 {
            return Err(out_of_range(index, 1));
        }
        let each = self.frame_bytes();
        check_out(out, frames.len(), each)?;
        let origins: Vec<_> = frames.iter().filter_map(|&frame| self.origin(frame)).collect();
        let mut begin = 0;
        // Frames of one video that follow each other are read at once.
        for run in origins.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let end = begin + run.len() * each;
            let &[(set, video, _), ..] = run else { continue };
            let wanted: Vec<usize> = run.iter().map(|(.., frame)| *frame).collect();
            if let (Some(set), Some(part)) = (self.sets.get(set), out.get_mut(begin..end)) {
                set.read(video, &wanted, part)?;
            }
            begin = end;
        }
        Ok(())
    }

    fn name(&self, index: usize) -> String {
        let names = (0..self.parts.len()).filter_map(|place| self.part(place));
        let names: Vec<String> = names.map(|(set, video)| set.name(video)).collect();
        if index == 0 { names.join(" + ") } else { String::new() }
    }

    fn label(&self, _index: usize) -> Option<i64> {
        None
    }

    fn class_names(&self) -> &[String] {
        &[]
    }

    fn skipped(&self) -> Vec<String> {
        self.sets.iter().flat_map(|set| set.skipped()).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.sets.iter().flat_map(|set| set.notes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;

    fn set(rate: f64, videos: &[&[u8]]) -> Arc<dyn VideoDataset> {
        let videos = videos.iter().map(|video| video.to_vec()).collect();
        Arc::new(ClipArray::new([1, 2], 1, rate, videos).unwrap())
    }

    #[test]
    fn frames_come_from_the_videos_in_turn() {
        let sets = vec![set(5.0, &[&[0, 1, 2, 3], &[4, 5]]), set(5.0, &[&[6, 7, 8, 9, 10, 11]])];
        let joined = Joined::new(sets).unwrap();
        assert_eq!((joined.len(), joined.frames(0), joined.seconds(0)), (1, 6, 1.2));
        assert_eq!(joined.clip(0, &[1, 2, 3]).unwrap(), [2, 3, 4, 5, 6, 7]);
        assert_eq!(joined.clip(0, &[5, 6, 0, 2]).unwrap(), [10, 11, 0, 1, 0, 1, 4, 5]);
        let origins: Vec<_> = [0, 1, 2, 3, 5, 6].map(|frame| joined.origin(frame).unwrap()).to_vec();
        assert_eq!(origins, [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 2), (0, 0, 0)]);
        assert_eq!(joined.name(0), "video 0 + video 1 + video 0");
        assert!(joined.clip(1, &[0]).is_err() && joined.read(0, &[0], &mut [0]).is_err());
    }

    #[test]
    fn videos_that_do_not_fit_together_are_named() {
        let message = |sets| Joined::new(sets).unwrap_err().to_string();
        let one = || set(5.0, &[&[0, 1]]);
        let found = message(vec![one(), set(6.0, &[&[0, 1]])]);
        assert_eq!(found, "rate: expected 5 frames per second as of the first, video 0 has 6");
        let wide: Arc<dyn VideoDataset> = Arc::new(ClipArray::new([2, 2], 1, 5.0, vec![vec![0; 4]]).unwrap());
        assert_eq!(message(vec![one(), wide]), "size: expected 1x2x1 as of the first, video 0 has another");
        assert_eq!(message(Vec::new()), "videos: expected at least one frame, got none");
    }
}
