//! Long videos cut into segments, each an example, and the part in time that is held out.
use crate::clip::{LabelSet, VideoDataset, out_of_range};
use ssl_core::{Error, Result};
use std::sync::Arc;

/// A part of each video in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// All of it.
    Whole,
    /// So much of it from its beginning on, above 0 and below 1.
    First(f64),
    /// So much of it up to its end, above 0 and below 1: what [`Part::First`] of the rest leaves.
    Last(f64),
}

/// A set in which each segment of a longer video is an example.
///
/// The frames of a part are cut evenly into as many segments of at least the wanted length as fit, at least one.
#[derive(Debug, Clone)]
pub struct Segments {
    dataset: Arc<dyn VideoDataset>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    video: usize,
    begin: usize,
    frames: usize,
}

impl Segments {
    /// The segments, of at least so many seconds, of a part of each video; a part without a frame has none.
    ///
    /// # Errors
    /// `Error::Config` when the seconds or the part are out of range, or nothing is left.
    pub fn new(dataset: Arc<dyn VideoDataset>, seconds: f64, part: Part) -> Result<Self> {
        if !(seconds > 0.0 && seconds < 1e9) {
            return Err(Error::config("seconds", format!("expected more than 0, got {seconds}")));
        }
        if let Part::First(part) | Part::Last(part) = part
            && !(part > 0.0 && part < 1.0)
        {
            return Err(Error::config("part", format!("expected more than 0 and less than 1, got {part}")));
        }
        let cut = |video: usize| {
            let (first, end) = part.range(dataset.frames(video));
            let least = ((seconds * dataset.rate(video)).round() as usize).max(1);
            let (frames, count) = (end - first, ((end - first) / least).max(1));
            let border = move |number: usize| first + number * frames / count;
            let segment =
                move |n: usize| Segment { video, begin: border(n), frames: border(n + 1) - border(n) };
            (0..count).map(segment).filter(|segment| segment.frames > 0)
        };
        let segments: Vec<Segment> = (0..dataset.len()).flat_map(cut).collect();
        match segments.is_empty() {
            true => Err(Error::config("part", format!("expected a frame, {part:?} of each video has none"))),
            false => Ok(Segments { dataset, segments }),
        }
    }

    /// The video of a segment, and its first frame there.
    pub fn origin(&self, index: usize) -> Option<(usize, usize)> {
        self.segments.get(index).map(|segment| (segment.video, segment.begin))
    }
}

impl Part {
    /// The first frame, and the one behind the last.
    fn range(self, frames: usize) -> (usize, usize) {
        let border = |part: f64| (part * frames as f64).round() as usize;
        match self {
            Part::Whole => (0, frames),
            Part::First(part) => (0, border(part)),
            Part::Last(part) => (border(1.0 - part), frames),
        }
    }
}

impl VideoDataset for Segments {
    fn len(&self) -> usize {
        self.segments.len()
    }

    fn frames(&self, index: usize) -> usize {
        self.segments.get(index).map_or(0, |segment| segment.frames)
    }

    fn rate(&self, index: usize) -> f64 {
        self.segments.get(index).map_or(0.0, |segment| self.dataset.rate(segment.video))
    }

    fn size(&self) -> [usize; 2] {
        self.dataset.size()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        let segment = self.segments.get(index).ok_or_else(|| out_of_range(index, self.len()))?;
        let frames: Vec<usize> = frames.iter().map(|frame| segment.begin + frame % segment.frames).collect();
        self.dataset.read(segment.video, &frames, out)
    }

    fn name(&self, index: usize) -> String {
        let Some(segment) = self.segments.get(index) else { return String::new() };
        let rate = self.dataset.rate(segment.video);
        let seconds = |frame: usize| frame as f64 / rate;
        let (begin, end) = (seconds(segment.begin), seconds(segment.begin + segment.frames));
        format!("{} from {begin:.2} to {end:.2} s", self.dataset.name(segment.video))
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.dataset.label(self.segments.get(index)?.video)
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    /// Those of the videos, and `video`: which of them it is.
    fn label_sets(&self) -> Vec<LabelSet> {
        let of_segments = |labels: &dyn Fn(usize) -> i64| {
            self.segments.iter().map(|segment| labels(segment.video)).collect()
        };
        let mut sets = self.dataset.label_sets();
        for set in &mut sets {
            set.labels = of_segments(&|video| set.labels.get(video).copied().unwrap_or(0));
        }
        let class_names = (0..self.dataset.len()).map(|video| self.dataset.name(video)).collect();
        let labels = of_segments(&|video| video as i64);
        sets.push(LabelSet { name: "video".to_string(), labels, class_names });
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

    /// Videos of 1 x 1 pixels that count up, of 100, 23 and 2 frames, 10 a second.
    fn set() -> Arc<dyn VideoDataset> {
        let videos = [100u8, 23, 2].map(|frames| (0..frames).collect()).to_vec();
        let set = ClipArray::new([1, 1], 1, 10.0, videos).unwrap();
        Arc::new(set.with_labels(vec![1, 0, 1], vec!["a".into(), "b".into()]).unwrap())
    }

    fn cuts(segments: &Segments) -> Vec<(usize, usize, usize)> {
        let cut = |index| segments.origin(index).map(|(video, begin)| (video, begin, segments.frames(index)));
        (0..segments.len()).filter_map(cut).collect()
    }

    #[test]
    fn parts_are_cut_evenly_and_do_not_overlap() {
        let first = Segments::new(set(), 3.0, Part::First(0.8)).unwrap();
        assert_eq!(cuts(&first), [(0, 0, 40), (0, 40, 40), (1, 0, 18), (2, 0, 2)]);
        let last = Segments::new(set(), 1.0, Part::Last(0.2)).unwrap();
        assert_eq!(cuts(&last), [(0, 80, 10), (0, 90, 10), (1, 18, 5)]);
        assert_eq!(last.clip(1, &[0, 9, 10]).unwrap(), [90, 99, 90], "a segment begins anew behind its end");
        assert_eq!(last.name(2), "video 1 from 1.80 to 2.30 s");
        let whole = Segments::new(set(), 99.0, Part::Whole).unwrap();
        assert_eq!(cuts(&whole), [(0, 0, 100), (1, 0, 23), (2, 0, 2)]);
    }

    #[test]
    fn labels_are_those_of_the_video_and_the_video_itself() {
        let segments = Segments::new(set(), 4.0, Part::Whole).unwrap();
        let sets = segments.label_sets();
        let of = |at: usize| (sets[at].name.as_str(), sets[at].labels.clone());
        assert_eq!((of(0), of(1)), (("class", vec![1, 1, 0, 1]), ("video", vec![0, 0, 1, 2])));
        assert_eq!((segments.label(2), segments.rate(0), segments.rate(9)), (Some(0), 10.0, 0.0));
        assert_eq!(sets[1].class_names, ["video 0", "video 1", "video 2"]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let message = |seconds, part| Segments::new(set(), seconds, part).unwrap_err().to_string();
        assert_eq!(message(0.0, Part::Whole), "seconds: expected more than 0, got 0");
        assert_eq!(message(1.0, Part::Last(1.0)), "part: expected more than 0 and less than 1, got 1");
        assert!(message(1.0, Part::First(0.001)).starts_with("part: expected a frame, First(0.001)"));
        assert!(Segments::new(set(), 1.0, Part::Whole).unwrap().clip(99, &[0]).is_err());
    }
}
