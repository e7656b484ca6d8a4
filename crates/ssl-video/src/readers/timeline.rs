//! Which stored picture is seen at which frame.
use super::RATES;

/// How long the pictures of a video are seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shown {
    /// All alike: so many per second.
    Evenly(f64),
    /// Each for a number of seconds.
    Each(Vec<f64>),
}

/// The frames of a video whose pictures are stored one by one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timeline {
    /// Frames per second.
    pub(crate) rate: f64,
    /// Frames.
    pub(crate) frames: usize,
    /// Whether the stored pictures follow evenly.
    pub(crate) is_even: bool,
    /// The picture of each frame; none where each is that of its number.
    pictures: Option<Vec<usize>>,
}

/// Times that differ by less than this part are alike.
const ALIKE: f64 = 1e-3;
/// Seconds by which the sum of times may be off: where a picture ends in the middle of a frame, the next one is seen.
const TIE: f64 = 1e-9;

impl Timeline {
    /// The frames of `count` pictures at a rate; none for their own, which is the mean where they do not follow evenly.
    pub(crate) fn new(count: usize, shown: &Shown, rate: Option<f64>) -> Self {
        let (seconds, is_even) = match shown {
            Shown::Evenly(rate) => (count as f64 / rate, true),
            Shown::Each(each) => {
                let total: f64 = each.iter().sum();
                let mean = total / each.len().max(1) as f64;
                (total, each.iter().all(|seconds| (seconds - mean).abs() <= ALIKE * mean))
            }
        };
        let own = match shown {
            Shown::Evenly(rate) => *rate,
            Shown::Each(each) if is_even => 1.0 / each.first().copied().unwrap_or(1.0),
            Shown::Each(_) => count as f64 / seconds,
        };
        let own = own.clamp(*RATES.start(), *RATES.end());
        let to = rate.unwrap_or(own);
        if is_even && (to - own).abs() <= ALIKE * own {
            return Timeline { rate: to, frames: count, is_even, pictures: None };
        }
        let frames = ((seconds * to).round() as usize).max(1);
        let mut ends = (0..count).scan(0.0, |end, at| {
            *end += match shown {
                Shown::Evenly(rate) => 1.0 / rate,
                Shown::Each(each) => each.get(at).copied().unwrap_or(0.0),
            };
            Some(*end)
        });
        let (mut at, mut end) = (0, ends.next().unwrap_or(0.0));
        let picture = |frame: usize| {
            // What is seen in the middle of the frame.
            let time = (frame as f64 + 0.5) / to;
            while time >= end - TIE
                && let Some(next) = ends.next()
            {
                (at, end) = (at + 1, next);
            }
            at
        };
        let pictures = (0..frames).map(picture).collect();
        Timeline { rate: to, frames, is_even, pictures: Some(pictures) }
    }

    /// The stored picture of a frame.
    pub(crate) fn picture(&self, frame: usize) -> usize {
        match &self.pictures {
            Some(pictures) => pictures.get(frame).copied().unwrap_or(0),
            None => frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(timeline: &Timeline) -> Vec<usize> {
        (0..timeline.frames).map(|frame| timeline.picture(frame)).collect()
    }

    #[test]
    fn even_pictures_are_the_frames() {
        for shown in [Shown::Evenly(5.0), Shown::Each(vec![0.2; 4])] {
            for rate in [None, Some(5.0)] {
                let timeline = Timeline::new(4, &shown, rate);
                assert_eq!((pictures(&timeline), timeline.is_even), (vec![0, 1, 2, 3], true));
                assert!((timeline.rate - 5.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn another_rate_repeats_or_leaves_out_pictures() {
        let shown = Shown::Evenly(5.0);
        assert_eq!(pictures(&Timeline::new(3, &shown, Some(10.0))), [0, 0, 1, 1, 2, 2]);
        assert_eq!(pictures(&Timeline::new(6, &shown, Some(2.5))), [1, 3, 5]);
        assert_eq!(pictures(&Timeline::new(1, &shown, Some(0.1))), [0]);
    }

    #[test]
    fn uneven_pictures_are_seen_by_their_times() {
        // A second, then three of a third: two seconds, four pictures, so two frames per second.
        let shown = Shown::Each(vec![1.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
        let timeline = Timeline::new(4, &shown, None);
        assert!((timeline.rate - 2.0).abs() < 1e-9 && !timeline.is_even);
        // The middles of the frames are at .25, .75, 1.25 and 1.75 s.
        assert_eq!(pictures(&timeline), [0, 0, 1, 3]);
    }
}
