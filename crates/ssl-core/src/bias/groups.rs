//! How often a classifier is right in each group of the examples.
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The accuracy on one group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GroupAccuracy {
    /// The group.
    pub group: i64,
    /// Its examples.
    pub n: usize,
    /// The share of them that is classified right.
    pub accuracy: f64,
    /// The 95 % interval of that share, by [`wilson`].
    pub interval: [f64; 2],
}

/// The accuracy on every group, and how far apart they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    /// Every group that has an example, by its number.
    pub groups: Vec<GroupAccuracy>,
    /// The group with the highest accuracy; of equals the lowest number.
    pub best: i64,
    /// The group with the lowest accuracy; of equals the lowest number.
    pub worst: i64,
    /// The accuracy of the best less that of the worst.
    pub gap: f64,
    /// The 95 % interval of the difference between these two. It does not know that they were chosen for it: of many groups
    /// without a difference some seem to have one.
    pub gap_interval: [f64; 2],
}

/// Counts in each group how often `predicted` is the label.
///
/// # Errors
/// `Error::Config` when the lengths differ or there is no example.
///
/// # Source
/// Newcombe, 1998, method 10, for the interval of the gap:
/// <https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I>.
pub fn group_accuracy(predicted: &[i64], labels: &[i64], groups: &[i64]) -> Result<Groups> {
    let n = labels.len();
    for (name, got) in [("predicted", predicted.len()), ("groups", groups.len())] {
        if got != n {
            return Err(Error::config(name, format!("expected {n}, one for each label, got {got}")));
        }
    }
    let mut counts: BTreeMap<i64, (usize, usize)> = BTreeMap::new();
    for ((predicted, label), &group) in predicted.iter().zip(labels).zip(groups) {
        let (hits, n) = counts.entry(group).or_default();
        *hits += usize::from(predicted == label);
        *n += 1;
    }
    let of = |(&group, &(hits, n)): (&i64, &(usize, usize))| GroupAccuracy {
        group,
        n,
        accuracy: hits as f64 / n as f64,
        interval: wilson(hits, n),
    };
    let groups: Vec<GroupAccuracy> = counts.iter().map(of).collect();
    let chosen = |is_better: fn(f64, f64) -> bool| {
        groups.iter().copied().reduce(|a, b| if is_better(b.accuracy, a.accuracy) { b } else { a })
    };
    let (Some(best), Some(worst)) = (chosen(|a, b| a > b), chosen(|a, b| a < b)) else {
        return Err(Error::config("labels", "expected at least one example, got none"));
    };
    let gap = best.accuracy - worst.accuracy;
    let [([best_low, best_high], at_best), ([worst_low, worst_high], at_worst)] =
        [best, worst].map(|of| (of.interval, of.accuracy));
    let below = (at_best - best_low).hypot(worst_high - at_worst);
    let above = (best_high - at_best).hypot(at_worst - worst_low);
    Ok(Groups {
        best: best.group,
        worst: worst.group,
        gap,
        gap_interval: [(gap - below).max(-1.), (gap + above).min(1.)],
        groups,
    })
}

/// The 95 % interval of a share of which `hits` of `n` were seen; from 0 to 1 where nothing was.
///
/// # Source
/// Wilson, 1927: <https://doi.org/10.1080/01621459.1927.10502953>; equals `proportion_ci` of scipy.
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0., 1.];
    }
    let (n, share) = (n as f64, hits as f64 / n as f64);
    let middle = share + Z * Z / (2. * n);
    let half = Z * (share * (1. - share) / n + Z * Z / (4. * n * n)).sqrt();
    [middle - half, middle + half].map(|end| (end / (1. + Z * Z / n)).clamp(0., 1.))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn intervals_equal_those_of_scipy() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/fixtures/bias.json")).unwrap();
        let cases = golden["wilson"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let count = |name: &str| case[name].as_u64().unwrap() as usize;
            let found = wilson(count("hits"), count("n"));
            for (end, name) in found.iter().zip(["low", "high"]) {
                assert!((end - case[name].as_f64().unwrap()).abs() < 1e-9, "{found:?} {case}");
            }
        }
        assert_eq!(wilson(0, 0), [0., 1.]);
    }

    #[test]
    fn each_group_has_its_accuracy_and_the_gap_is_between_the_farthest() {
        let (predicted, labels) = ([0, 1, 1, 0, 2, 2, 1], [0, 1, 0, 0, 1, 2, 1]);
        let found = group_accuracy(&predicted, &labels, &[3, 3, 5, 5, 5, 7, 7]).unwrap();
        let brief: Vec<(i64, usize, f64)> =
            found.groups.iter().map(|g| (g.group, g.n, (g.accuracy * 300.).round() / 300.)).collect();
        assert_eq!(brief, [(3, 2, 1.), (5, 3, 100. / 300.), (7, 2, 1.)]);
        assert_eq!((found.best, found.worst), (3, 5), "of equals the lowest");
        assert!((found.gap - 2. / 3.).abs() < 1e-12);
        assert_eq!(found.groups[1].interval, wilson(1, 3));
    }

    /// Newcombe's first example: 56 of 70 against 48 of 80.
    #[test]
    fn the_interval_of_the_gap_is_newcombes() {
        let mut rows = Vec::new();
        for (group, hits, n) in [(0, 56, 70), (1, 48, 80)] {
            rows.extend((0..n).map(|i| (i64::from(i < hits), group)));
        }
        let (predicted, groups): (Vec<i64>, Vec<i64>) = rows.into_iter().unzip();
        let found = group_accuracy(&predicted, &vec![1; 150], &groups).unwrap();
        let [low, high] = found.gap_interval;
        assert!((low - 0.0524).abs() < 5e-5 && (high - 0.3339).abs() < 5e-5, "{low} {high}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let said = |predicted: &[i64], labels: &[i64], groups: &[i64]| {
            group_accuracy(predicted, labels, groups).unwrap_err().to_string()
        };
        assert_eq!(said(&[0], &[0, 1], &[0, 0]), "predicted: expected 2, one for each label, got 1");
        assert_eq!(said(&[0, 1], &[0, 1], &[0]), "groups: expected 2, one for each label, got 1");
        assert_eq!(said(&[], &[], &[]), "labels: expected at least one example, got none");
    }
}
