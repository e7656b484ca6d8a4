//! Where the content of a video changes.
//!
//! A boundary gains as much as the clips before it differ from those behind it. It costs as much as all clips differ from
//! each other, and at least 1.3 times what is gained at half of all places. So what counts as a change is measured
//! by the video itself, whatever the encoder: where a film has cuts, these; in a single shot, its large movements; in
//! noise about one picture, nothing.
//!
//! Source: Foote, 2000 ("Automatic audio segmentation using a measure of audio novelty"), for a kernel that slides along
//! the diagonal: <https://doi.org/10.1109/ICME.2000.869637>. Gretton et al., 2012 ("A kernel two-sample test"),
//! section 2, for how far two sets of clips are apart: <https://jmlr.org/papers/v13/gretton12a.html>. Arlot, Celisse &
//! Harchaoui, 2019 ("A kernel multiple change-point algorithm via model selection"), section 3, for a penalty on each
//! boundary and the search by dynamic programming: <https://jmlr.org/papers/v20/16-155.html>. Their segments are compared as
//! a whole; here what lies beside a boundary is, because a slow movement through a long shot is no change.
use super::Kernel;
use ssl_core::{Error, Result};

/// What a boundary costs, at least, of the median of all distances: where clips are longer than the sides of a boundary,
/// both sides differ by more than the variance even in noise, but everywhere alike.
const ABOVE_USUAL: f64 = 1.3;

/// Which clips are compared at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Clips on each side; at an end of the video half of them are enough.
    pub clips: usize,
    /// From the last clip before a boundary to the first behind it: 1 where clips do not overlap, else so many that these
    /// two do not share a frame.
    pub lag: usize,
}

/// The boundaries of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// For each clip, how far the clips from it on are from those before it: the squared distance of their means in the
    /// space of the kernel, over what a boundary costs. 0 where there are too few on a side.
    pub novelty: Vec<f64>,
    /// Clips that are the first behind a boundary, ascending.
    pub places: Vec<usize>,
}

impl Changes {
    /// The boundaries whose novelties exceed 1 by the largest sum, no two nearer to each other than what is compared at
    /// each.
    ///
    /// # Errors
    /// `Error::Config` when the reach is 0 somewhere.
    pub fn new(kernel: &Kernel, reach: Reach) -> Result<Self> {
        for (name, value) in [("clips", reach.clips), ("lag", reach.lag)] {
            if value == 0 {
                return Err(Error::config(name, "expected at least 1, got 0"));
            }
        }
        let distances: Vec<f64> = (0..kernel.clips()).map(|clip| distance(kernel, reach, clip)).collect();
        let penalty = kernel.variance().max(ABOVE_USUAL * median(&distances));
        let over = |distance: &f64| if penalty > 0.0 { distance / penalty } else { 0.0 };
        let novelty: Vec<f64> = distances.iter().map(over).collect();
        let places = choose(&novelty, reach.clips.saturating_add(reach.lag));
        Ok(Changes { novelty, places })
    }
}

/// The squared distance of the mean of the clips from `clip` on from the mean of those before it.
fn distance(kernel: &Kernel, reach: Reach, clip: usize) -> f64 {
    let end = (clip + 1).saturating_sub(reach.lag);
    let before = end.saturating_sub(reach.clips)..end;
    let behind = clip..clip.saturating_add(reach.clips).min(kernel.clips());
    if before.len().min(behind.len()) < reach.clips.div_ceil(2) {
        return 0.0;
    }
    let mean = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| kernel.mean(a.clone(), b.clone());
    (mean(&before, &before) + mean(&behind, &behind) - 2.0 * mean(&before, &behind)).max(0.0)
}

/// The median of the distances that are not 0; 0 where there is none.
fn median(distances: &[f64]) -> f64 {
    let mut some: Vec<f64> = distances.iter().copied().filter(|distance| *distance > 0.0).collect();
    some.sort_by(f64::total_cmp);
    some.get(some.len() / 2).copied().unwrap_or(0.0)
}

/// The places, at least `apart` from each other, whose values exceed 1 by the largest sum.
fn choose(values: &[f64], apart: usize) -> Vec<usize> {
    // The largest sum among the places before each, and whether the last of these is part of it.
    let mut best = vec![0.0f64];
    let mut is_taken = Vec::with_capacity(values.len());
    for (place, value) in values.iter().enumerate() {
        let without = best.last().copied().unwrap_or(0.0);
        let room = (place + 1).saturating_sub(apart);
        let with = best.get(room).copied().unwrap_or(0.0) + value - 1.0;
        is_taken.push(with > without);
        best.push(with.max(without));
    }
    let mut places = Vec::new();
    let mut end = values.len();
    while let Some(place) = end.checked_sub(1) {
        if is_taken.get(place).copied().unwrap_or(false) {
            places.push(place);
            end = (place + 1).saturating_sub(apart);
        } else {
            end = place;
        }
    }
    places.reverse();
    places
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{slow, tensor, waves};
    use super::*;
    use crate::random::between;

    const REACH: Reach = Reach { clips: 5, lag: 3 };

    /// Embeddings of overlapping clips: each the sum of as many frames as the lag, whose content is that of numbered
    /// scenes, with noise of a seventh of what two scenes are apart.
    fn film(scenes: &[(usize, usize)], reach: Reach) -> Vec<Vec<f64>> {
        // As wide as those of encoders, whose noise is alike at all places.
        const WIDTH: usize = 512;
        let mut rng = ssl_core::rng(3, &[]);
        let shown = scenes.iter().flat_map(|&(scene, frames)| vec![scene; frames]);
        let frame = |scene: usize| {
            let mut value =
                |d: usize| between(&mut rng, [-0.016, 0.016]) + f64::from(u8::from(d == scene)) + 4.0;
            (0..WIDTH).map(&mut value).collect::<Vec<f64>>()
        };
        let frames: Vec<Vec<f64>> = shown.map(frame).collect();
        let sum = |clip: &[Vec<f64>]| (0..WIDTH).map(|d| clip.iter().map(|frame| frame[d]).sum()).collect();
        frames.windows(reach.lag).map(sum).collect()
    }

    fn places(rows: &[Vec<f64>], reach: Reach) -> Vec<usize> {
        Changes::new(&Kernel::new(&tensor(rows)).unwrap(), reach).unwrap().places
    }

    #[test]
    fn planted_cuts_are_found_where_they_are_and_no_others() {
        assert_eq!(places(&film(&[(0, 30), (1, 40)], REACH), REACH), [30]);
        // Scenes of different length, one of which comes back, and the shortest that there may be between two cuts.
        let scenes = [(0, 25), (1, 60), (2, 8), (0, 33), (3, 20), (4, 90)];
        assert_eq!(places(&film(&scenes, REACH), REACH), [25, 85, 93, 126, 146]);
    }

    #[test]
    fn noise_about_one_picture_is_no_change_however_long_clips_are() {
        // Of the long clips, those on a side are nearly the same.
        for lag in [1, 3, 16] {
            let reach = Reach { clips: 5, lag };
            assert!(places(&film(&[(0, 200)], reach), reach).is_empty(), "{lag}");
        }
        let long = Reach { clips: 5, lag: 16 };
        let found = places(&film(&[(0, 80), (1, 80), (2, 80)], long), long);
        assert!(found.len() == 2 && found[0].abs_diff(80) < 3 && found[1].abs_diff(160) < 3, "{found:?}");
    }

    #[test]
    fn a_slow_movement_is_no_change_and_a_jump_in_it_is() {
        let noise = waves(160, 12, 1.3);
        let drift = |jump: f64| {
            let row = |t: usize| {
                let angle = t as f64 * 0.012 + if t < 100 { 0.0 } else { jump };
                let mut row: Vec<f64> = noise[t].iter().map(|x| x * 0.01).collect();
                row[0] += angle.cos();
                row[1] += angle.sin();
                row
            };
            (0..160).map(row).collect::<Vec<_>>()
        };
        assert!(places(&drift(0.0), REACH).is_empty());
        assert_eq!(places(&drift(1.5), REACH), [100]);
    }

    #[test]
    fn novelty_equals_a_slow_version() {
        let rows = film(&[(0, 9), (1, 14), (2, 7)], REACH);
        let kernel = slow(&rows);
        let changes = Changes::new(&Kernel::new(&tensor(&rows)).unwrap(), REACH).unwrap();
        let n = rows.len();
        let mean = |a: &[usize], b: &[usize]| {
            let all: Vec<f64> =
                a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).map(|(a, b)| kernel[a][b]).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let everything: Vec<usize> = (0..n).collect();
        let variance = 1.0 - mean(&everything, &everything);
        let distance = |clip: usize| {
            let before: Vec<usize> = (0..n).filter(|&t| t + 3 <= clip && t + 3 + 5 > clip).collect();
            let behind: Vec<usize> = (clip..n.min(clip + 5)).collect();
            match before.len() < 3 || behind.len() < 3 {
                true => 0.0,
                false => mean(&before, &before) + mean(&behind, &behind) - 2.0 * mean(&before, &behind),
            }
        };
        let distances: Vec<f64> = (0..n).map(distance).collect();
        let usual = |&&distance: &&f64| {
            let some = distances.iter().filter(|other| **other > 0.0);
            let (below, all) = (some.clone().filter(|other| **other < distance).count(), some.count());
            below == all / 2
        };
        let penalty = variance.max(1.3 * distances.iter().find(usual).unwrap());
        for (clip, (found, expected)) in changes.novelty.iter().zip(&distances).enumerate() {
            assert!((found - expected / penalty).abs() < 1e-9, "{clip}: {found}, {}", expected / penalty);
        }
    }

    #[test]
    fn the_choice_is_the_best_of_all_choices() {
        for (seed, apart) in [(0.7, 1), (1.1, 2), (1.9, 3), (2.3, 4), (0.2, 5), (3.1, 40)] {
            let values: Vec<f64> = waves(1, 13, seed).concat().iter().map(|x| x + 1.2).collect();
            let places = |set: usize| (0..13).filter(|place| set >> place & 1 == 1).collect::<Vec<usize>>();
            let sum = |places: &[usize]| places.iter().map(|&place| values[place] - 1.0).sum::<f64>();
            let is_apart = |places: &Vec<usize>| places.windows(2).all(|pair| pair[1] - pair[0] >= apart);
            let all = (0..1 << 13).map(places).filter(is_apart);
            let best = all.max_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap();
            assert_eq!(choose(&values, apart), best, "{apart}");
        }
    }

    #[test]
    fn few_clips_and_clips_that_are_all_alike_have_no_change() {
        assert!(places(&film(&[(0, 3), (1, 3)], REACH), REACH).is_empty());
        let still = Changes::new(&Kernel::new(&tensor(&vec![vec![1.0, 2.0]; 40])).unwrap(), REACH).unwrap();
        assert_eq!((still.novelty, still.places), (vec![0.0; 40], vec![]));
        let kernel = Kernel::new(&tensor(&waves(3, 2, 1.0))).unwrap();
        for (name, reach) in [("clips", Reach { clips: 0, lag: 1 }), ("lag", Reach { clips: 1, lag: 0 })] {
            let message = Changes::new(&kernel, reach).unwrap_err().to_string();
            assert_eq!(message, format!("{name}: expected at least 1, got 0"));
        }
    }
}
