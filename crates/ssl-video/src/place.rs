//! Where the views of an example lie in its video.
use crate::random::{below, chance, unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, Rng};

/// Where the views of an example lie in its video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// All begin with the same frame.
    #[default]
    Same,
    /// Each lies in a place of its own.
    Own,
    /// The second begins some time before or after the first: the chance of a gap falls linearly with its length and
    /// is 0 from this many seconds on. Further views lie about the first in the same way.
    ///
    /// # Source
    /// Qian et al., 2021 (CVRL), section 3.2, where the chance falls to 0 at the length of the video:
    /// <https://arxiv.org/abs/2008.03800>.
    Near(f64),
}

impl Place {
    /// Checks the number.
    ///
    /// # Errors
    /// `Error::Config` when it is no positive number of seconds.
    pub fn validate(self) -> Result<()> {
        match self {
            Place::Near(seconds) if !(seconds > 0.0 && seconds < 1e9) => {
                let message = format!("expected near to be more than 0 seconds, got {seconds}");
                Err(Error::config("place", message))
            }
            _ => Ok(()),
        }
    }
}

/// The first frame of each of the windows, which reach over so many frames, in a video of `frames` at `rate`.
pub(crate) fn places(place: Place, windows: &[usize], frames: usize, rate: f64, rng: &mut Rng) -> Vec<usize> {
    let longest = windows.iter().max().copied().unwrap_or(1);
    let room = frames.saturating_sub(longest);
    match place {
        Place::Same => vec![below(rng, room + 1); windows.len()],
        Place::Own => windows.iter().map(|window| below(rng, frames.saturating_sub(*window) + 1)).collect(),
        Place::Near(seconds) => near(windows.len(), room, seconds * rate, rng),
    }
}

/// Starts from 0 to `room` whose gaps from the first have a chance that falls to 0 at `scale` frames.
fn near(count: usize, room: usize, scale: f64, rng: &mut Rng) -> Vec<usize> {
    // The part of all gaps that fits into the video.
    let fitting = 1.0 - (1.0 - (room as f64 / scale).min(1.0)).powi(2);
    let gap = |rng: &mut Rng| {
        let gap = scale * (1.0 - (1.0 - fitting * unit(rng)).sqrt());
        (gap.round() as usize).min(room)
    };
    let second = gap(rng);
    let early = below(rng, room - second + 1);
    let (first, second) = if chance(rng, 0.5) { (early, early + second) } else { (early + second, early) };
    let mut starts = vec![first, second];
    while starts.len() < count {
        let gap = gap(rng);
        let (before, after) = (first.checked_sub(gap), Some(first + gap).filter(|start| *start <= room));
        let (wanted, other) = if chance(rng, 0.5) { (before, after) } else { (after, before) };
        starts.push(wanted.or(other).unwrap_or(if first > room / 2 { 0 } else { room }));
    }
    starts.truncate(count);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(place: Place, windows: &[usize], frames: usize) -> Vec<Vec<usize>> {
        let mut rng = ssl_core::rng(0, &[]);
        (0..4_000).map(|_| places(place, windows, frames, 10.0, &mut rng)).collect()
    }

    #[test]
    fn views_in_the_same_place_begin_together_and_all_fit() {
        for starts in draws(Place::Same, &[5, 9, 3], 20) {
            assert!(starts[0] <= 11 && starts.iter().all(|start| *start == starts[0]));
        }
    }

    #[test]
    fn views_in_places_of_their_own_fill_the_room_of_each() {
        let all = draws(Place::Own, &[5, 9], 20);
        for (view, room) in [(0, 15), (1, 11)] {
            let seen: std::collections::BTreeSet<usize> = all.iter().map(|starts| starts[view]).collect();
            assert!(seen.into_iter().eq(0..=room));
        }
        assert!(all.iter().filter(|starts| starts[0] == starts[1]).count() < 500);
    }

    #[test]
    fn the_chance_of_a_gap_falls_linearly() {
        // 100 frames of room; gaps up to 40 frames.
        let all = draws(Place::Near(4.0), &[1, 1], 101);
        let gaps: Vec<usize> = all.iter().map(|starts| starts[0].abs_diff(starts[1])).collect();
        let part = |from, to| gaps.iter().filter(|gap| (from..to).contains(*gap)).count() as f64 / 4_000.0;
        // Up to a gap g the chance is 1 - (1 - g / 40)^2.
        for (from, to, expected) in [(0, 10, 0.42), (10, 20, 0.315), (20, 30, 0.19), (30, 41, 0.07)] {
            assert!((part(from, to) - expected).abs() < 0.03, "{from}: {}", part(from, to));
        }
        let later = all.iter().filter(|starts| starts[0] < starts[1]).count();
        assert!((1_700..2_200).contains(&later), "either may come first: {later}");
        assert!(all.iter().flatten().all(|start| *start <= 100));
    }

    #[test]
    fn a_scale_beyond_the_video_is_cut_off_and_further_views_are_near_the_first() {
        let all = draws(Place::Near(1_000.0), &[1, 1], 51);
        // All gaps are about alike then.
        let small = all.iter().filter(|starts| starts[0].abs_diff(starts[1]) < 25).count();
        assert!((1_800..2_200).contains(&small), "{small}");
        for starts in draws(Place::Near(0.5), &[1, 1, 1, 1], 101) {
            assert!(starts[1..].iter().all(|start| start.abs_diff(starts[0]) <= 5));
        }
        for starts in draws(Place::Near(2.0), &[7, 7, 7], 5) {
            assert_eq!(starts, [0, 0, 0], "a short video has one place");
        }
        assert_eq!(draws(Place::Near(2.0), &[7], 50)[0].len(), 1);
    }

    #[test]
    fn json_says_the_place_in_words() {
        let place = |text: &str| serde_json::from_str::<Place>(text);
        assert_eq!(place("\"own\"").unwrap(), Place::Own);
        assert_eq!(place("{\"near\": 1.5}").unwrap(), Place::Near(1.5));
        assert!(place("\"far\"").is_err() && Place::Near(f64::NAN).validate().is_err());
    }
}
