//! How far an accuracy would scatter if the test set were another one of the same kind.
use super::stream;
use crate::{Error, Result, check, rng};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// How the test set is drawn again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntervalOptions {
    /// Test sets drawn, each as large as the true one, from it with replacement.
    pub resamples: u32,
    /// Share of them whose accuracy is within the interval.
    pub level: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for IntervalOptions {
    fn default() -> Self {
        IntervalOptions { resamples: 1000, level: 0.95, seed: 0 }
    }
}

/// The bootstrap interval of an accuracy, from the answers that were right: the quantiles of the accuracies of test sets
/// drawn with replacement.
///
/// It says nothing of other seeds of the training, nor of another training set.
///
/// # Errors
/// `Error::Config` when there is no answer or no draw, or the level is not between 0 and 1.
///
/// # Source
/// Efron & Tibshirani, 1993, section 13.3 (percentile intervals): <https://doi.org/10.1201/9780429246593>.
pub fn interval(right: &[bool], options: &IntervalOptions) -> Result<[f64; 2]> {
    if right.is_empty() {
        return Err(Error::config("right", "expected at least one answer, got none"));
    }
    check::at_least(1, [("resamples", i64::from(options.resamples))])?;
    if !(options.level > 0. && options.level < 1.) {
        return Err(Error::config(
            "level",
            format!("expected a share between 0 and 1, got {}", options.level),
        ));
    }
    // Which answers are right plays no part: a draw is right as often as they are.
    let (n, hits) = (right.len(), right.iter().filter(|&&right| right).count());
    let mut rng = rng(options.seed, &[stream::RESAMPLED]);
    let mut accuracy = || (0..n).filter(|_| rng.random_range(0..n) < hits).count() as f64 / n as f64;
    let mut all: Vec<f64> = (0..options.resamples).map(|_| accuracy()).collect();
    all.sort_by(f64::total_cmp);
    let tail = (1. - options.level) / 2.;
    Ok([quantile(&all, tail), quantile(&all, 1. - tail)])
}

/// The quantile of sorted numbers, between two of them on a line, as numpy has it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() as f64 - 1.);
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn intervals_are_those_of_the_binomial_distribution() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        for case in all["intervals"].as_array().unwrap() {
            let number = |name: &str| case[name].as_u64().unwrap() as usize;
            let right: Vec<bool> = (0..number("n")).map(|i| i < number("hits")).collect();
            let expected: [f64; 2] = serde_json::from_value(case["interval"].clone()).unwrap();
            let options = IntervalOptions { resamples: 4000, ..IntervalOptions::default() };
            let found = interval(&right, &options).unwrap();
            // The deviation of an extreme quantile over so many draws is less than a count or a twentieth of the width.
            let close = (1.01 / number("n") as f64).max(0.05 * (expected[1] - expected[0]));
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < close), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn the_seed_decides_the_draws_and_the_level_the_width() {
        let right: Vec<bool> = (0..997).map(|i| i % 3 == 0).collect();
        let of = |level, seed| interval(&right, &IntervalOptions { level, seed, resamples: 200 }).unwrap();
        assert!(of(0.9, 0) == of(0.9, 0) && of(0.9, 0) != of(0.9, 1));
        let ([low, high], [lower, higher]) = (of(0.5, 0), of(0.99, 0));
        assert!(lower < low && low < high && high < higher);
    }

    #[test]
    fn quantiles_lie_on_a_line_between_two_numbers() {
        assert_eq!(quantile(&[1., 2., 4.], 0.75), 3.);
        assert_eq!((quantile(&[1., 2., 4.], 0.), quantile(&[1., 2., 4.], 1.)), (1., 4.));
    }

    #[test]
    fn bad_options_are_named() {
        let said = |right: &[bool], options| interval(right, &options).unwrap_err().to_string();
        let default = IntervalOptions::default();
        assert_eq!(said(&[], default), "right: expected at least one answer, got none");
        assert!(said(&[true], IntervalOptions { resamples: 0, ..default }).starts_with("resamples: "));
        assert!(said(&[true], IntervalOptions { level: 1., ..default }).starts_with("level: "));
    }
}
