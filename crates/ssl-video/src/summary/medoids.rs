//! Clips that stand for others.
//!
//! Source: Kaufman & Rousseeuw, 1990 ("Finding Groups in Data"), chapter 2, the algorithm PAM:
//! <https://doi.org/10.1002/9780470316801.ch2>.
use super::Kernel;
use ssl_core::{Error, Result};
use std::ops::Range;

/// Exchanges after which no further one is looked for; far fewer are needed.
const EXCHANGES: usize = 1_000;

/// The clips of a range that are nearest to all others of it: `count` of them, or all where there are fewer, ascending.
///
/// The first is the one with the smallest sum of squared distances, each further one that which makes the sum smallest;
/// then one of them is exchanged for another clip as long as this makes it smaller. Of equal ones the first counts, so
/// that nothing is left to chance.
///
/// # Errors
/// `Error::Config` when the range is empty or reaches beyond the clips, or `count` is 0.
pub fn medoids(kernel: &Kernel, clips: Range<usize>, count: usize) -> Result<Vec<usize>> {
    if clips.is_empty() || clips.end > kernel.clips() {
        let message = format!("expected some of 0..{}, got {clips:?}", kernel.clips());
        return Err(Error::config("clips", message));
    }
    if count == 0 {
        return Err(Error::config("count", "expected at least 1, got 0"));
    }
    let mut chosen = Vec::new();
    let mut near = vec![f64::INFINITY; clips.len()];
    while chosen.len() < count.min(clips.len()) {
        let free = clips.clone().filter(|clip| !chosen.contains(clip));
        let Some((best, _)) = cheapest(free.map(|clip| (clip, with(kernel, &clips, &near, clip)))) else {
            break;
        };
        chosen.push(best);
        near = nearest(kernel, &clips, &chosen);
    }
    for _ in 0..EXCHANGES {
        let before: f64 = near.iter().sum();
        let exchanges = (0..chosen.len()).flat_map(|place| {
            let mut others = chosen.clone();
            others.swap_remove(place);
            let near = nearest(kernel, &clips, &others);
            let free = clips.clone().filter(|clip| !chosen.contains(clip));
            let (kernel, clips) = (kernel, &clips);
            free.map(move |clip| ((place, clip), with(kernel, clips, &near, clip))).collect::<Vec<_>>()
        });
        match cheapest(exchanges) {
            // Rounding must not exchange two back and forth.
            Some(((place, clip), cost)) if cost < before - 1e-9 => {
                if let Some(chosen) = chosen.get_mut(place) {
                    *chosen = clip;
                }
                near = nearest(kernel, &clips, &chosen);
            }
            _ => break,
        }
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// The first of those that cost least.
fn cheapest<T>(all: impl Iterator<Item = (T, f64)>) -> Option<(T, f64)> {
    all.reduce(|best, next| if next.1 < best.1 { next } else { best })
}

/// The squared distance of two clips in the space of the kernel.
fn distance(kernel: &Kernel, a: usize, b: usize) -> f64 {
    (kernel.at(a, a) + kernel.at(b, b) - 2.0 * kernel.at(a, b)).max(0.0)
}

/// The distance of each clip from the nearest of those chosen.
fn nearest(kernel: &Kernel, clips: &Range<usize>, chosen: &[usize]) -> Vec<f64> {
    let of =
        |clip: usize| chosen.iter().map(|&other| distance(kernel, clip, other)).fold(f64::INFINITY, f64::min);
    clips.clone().map(of).collect()
}

/// The sum of these distances with one more clip chosen.
fn with(kernel: &Kernel, clips: &Range<usize>, near: &[f64], one: usize) -> f64 {
    clips.clone().zip(near).map(|(clip, &near)| near.min(distance(kernel, clip, one))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{slow, tensor, waves};
    use super::*;

    /// The sum of distances by its definition.
    fn cost(kernel: &[Vec<f64>], clips: Range<usize>, chosen: &[usize]) -> f64 {
        let distance = |a: usize, b: usize| 2.0 - 2.0 * kernel[a][b];
        clips.map(|a| chosen.iter().map(|&b| distance(a, b)).fold(f64::INFINITY, f64::min)).sum()
    }

    /// All choices of so many clips.
    fn choices(clips: Range<usize>, count: usize) -> Vec<Vec<usize>> {
        let sets =
            (0..1usize << clips.end).map(|set| clips.clone().filter(|clip| set >> clip & 1 == 1).collect());
        let mut sets: Vec<Vec<usize>> = sets.filter(|set: &Vec<usize>| set.len() == count).collect();
        sets.sort();
        sets.dedup();
        sets
    }

    #[test]
    fn one_medoid_is_the_best_of_all_and_of_groups_each_has_its_own() {
        let rows = waves(11, 4, 0.53);
        let (kernel, slow_kernel) = (Kernel::new(&tensor(&rows)).unwrap(), slow(&rows));
        for clips in [0..11, 3..9, 10..11] {
            let best = clips.clone().min_by(|&a, &b| {
                cost(&slow_kernel, clips.clone(), &[a]).total_cmp(&cost(&slow_kernel, clips.clone(), &[b]))
            });
            assert_eq!(medoids(&kernel, clips, 1).unwrap(), [best.unwrap()]);
        }
        let groups: Vec<Vec<f64>> = waves(12, 3, 0.9)
            .into_iter()
            .enumerate()
            .map(|(n, row)| (0..3).map(|d| row[d] * 0.1 + f64::from(u8::from(n % 3 == d))).collect())
            .collect();
        let (kernel, slow_kernel) = (Kernel::new(&tensor(&groups)).unwrap(), slow(&groups));
        let found = medoids(&kernel, 0..12, 3).unwrap();
        let of_group: std::collections::BTreeSet<usize> = found.iter().map(|clip| clip % 3).collect();
        assert_eq!(of_group.len(), 3, "{found:?}");
        let all = choices(0..12, 3).into_iter();
        let best = all.min_by(|a, b| cost(&slow_kernel, 0..12, a).total_cmp(&cost(&slow_kernel, 0..12, b)));
        assert_eq!(found, best.unwrap());
    }

    #[test]
    fn no_exchange_of_one_clip_makes_it_better() {
        for (pitch, count) in [(0.31, 2), (0.77, 3), (1.43, 4), (2.2, 5)] {
            let rows = waves(24, 5, pitch);
            let (kernel, slow_kernel) = (Kernel::new(&tensor(&rows)).unwrap(), slow(&rows));
            let found = medoids(&kernel, 2..22, count).unwrap();
            assert!(
                found.len() == count && found.is_sorted() && found.iter().all(|clip| (2..22).contains(clip))
            );
            let least = cost(&slow_kernel, 2..22, &found);
            for place in 0..count {
                for clip in 2..22 {
                    let mut other = found.clone();
                    other[place] = clip;
                    assert!(cost(&slow_kernel, 2..22, &other) >= least - 1e-9, "{found:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn of_equal_clips_the_first_is_taken_and_faulty_ranges_are_named() {
        let kernel = Kernel::new(&tensor(&vec![vec![1.0, 0.0]; 4])).unwrap();
        assert_eq!(medoids(&kernel, 1..4, 1).unwrap(), [1]);
        assert_eq!(medoids(&kernel, 1..4, 9).unwrap(), [1, 2, 3]);
        let message = |clips, count| medoids(&kernel, clips, count).unwrap_err().to_string();
        assert_eq!(message(2..5, 1), "clips: expected some of 0..4, got 2..5");
        assert_eq!(message(2..2, 1), "clips: expected some of 0..4, got 2..2");
        assert_eq!(message(0..4, 0), "count: expected at least 1, got 0");
    }
}
