//! The few-shot probe: what a handful of labels per class is worth on frozen features.
use super::features::{Features, agreement};
use super::lbfgs::Lbfgs;
use super::logistic::{Problem, Scaling, predict};
use super::stream;
use crate::{Error, Result, rng};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How few-shot classifiers are drawn and fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FewShotOptions {
    /// Random draws of labelled examples.
    pub draws: u64,
    /// Seed of the draws.
    pub seed: u64,
    /// Penalty: half of it times the squared weights stands beside the summed cross-entropy, for standardized
    /// features divided by the root of their number. In scikit-learn's terms C = 1 / penalty.
    pub penalty: f64,
}

impl Default for FewShotOptions {
    /// Ten draws and penalty 1: fixed in advance, since so few labels leave none to choose it by.
    fn default() -> Self {
        FewShotOptions { draws: 10, seed: 0, penalty: 1.0 }
    }
}

/// Accuracies over the draws.
#[derive(Debug, Clone, PartialEq)]
pub struct FewShot {
    /// Mean share of the test set that is classified right.
    pub mean: f64,
    /// Deviation of that share between the draws, with the divisor draws - 1.
    pub deviation: f64,
    /// The accuracy of each draw.
    pub accuracies: Vec<f64>,
}

/// Accuracy of logistic regression trained on `shots` labels per class, over random draws.
///
/// Features are standardized by the statistics of the whole training set, which need no labels. The penalty
/// is the same for every representation.
///
/// # Errors
/// `Error::Config` when a class has fewer than `shots` examples, `draws` is 0, the penalty is not positive or
/// there is a single class; `Error::Shape` when the widths differ.
///
/// # Source
/// The protocol of Chen et al., 2019, section 3.2 (a linear classifier on frozen features, mean over draws):
/// <https://arxiv.org/abs/1904.04232>; all classes take part and the whole test set is classified.
pub fn few_shot(
    train: &Features,
    test: &Features,
    shots: usize,
    options: &FewShotOptions,
) -> Result<FewShot> {
    train.check_against(test)?;
    if options.draws < 1 {
        return Err(Error::config("draws", "expected 1 or more, got 0"));
    }
    if options.penalty <= 0.0 || !options.penalty.is_finite() {
        return Err(Error::config("penalty", format!("expected a positive number, got {}", options.penalty)));
    }
    let scaling = Scaling::of(train.x())?;
    let design = scaling.design_of_all(test.x())?;
    let by_class = train.rows_by_class();
    let accuracies = (0..options.draws)
        .map(|draw| {
            let weights = fit(train, &scaling, &draw_rows(&by_class, shots, options.seed, draw)?, options)?;
            Ok(agreement(&predict(&design, &weights, train.classes())?, test.y()))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(summary(accuracies))
}

fn fit(train: &Features, scaling: &Scaling, rows: &[i64], options: &FewShotOptions) -> Result<Vec<f64>> {
    let rows = Tensor::f_from_slice(rows)?.f_to_device(train.x().device())?;
    let labels = train.y_tensor()?.f_index_select(0, &rows)?;
    let problem = Problem::new(scaling.design(train.x(), &rows)?, labels, train.classes());
    let l2 = options.penalty * train.dim() as f64 / rows.numel() as f64;
    let search = Lbfgs { memory: 10, max_iterations: 500, tolerance: 1e-4 };
    Ok(problem.fit(l2, &search, problem.zeros())?.x)
}

/// `shots` different rows of every class that has any.
fn draw_rows(by_class: &[Vec<i64>], shots: usize, seed: u64, draw: u64) -> Result<Vec<i64>> {
    let mut drawn = Vec::new();
    for (class, rows) in (0..).zip(by_class).filter(|(_, rows)| !rows.is_empty()) {
        if shots < 1 || rows.len() < shots {
            let range = format!("expected 1 to {}, the examples of class {class}, got {shots}", rows.len());
            return Err(Error::config("shots", range));
        }
        let picked = sample(&mut rng(seed, &[stream::FEW_SHOT, draw, class]), rows.len(), shots);
        drawn.extend(picked.iter().filter_map(|i| rows.get(i)));
    }
    Ok(drawn)
}

fn summary(accuracies: Vec<f64>) -> FewShot {
    let n = accuracies.len() as f64;
    let mean = accuracies.iter().sum::<f64>() / n;
    let square = accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>();
    FewShot { mean, deviation: (square / (n - 1.0).max(1.0)).sqrt(), accuracies }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Four classes on the corners of a square, apart by `gap` times the spread.
    fn corners(n: i64, gap: f64) -> Features {
        let y: Vec<i64> = (0..n).map(|i| i % 4).collect();
        let bits: Vec<f32> = y.iter().flat_map(|y| [(y % 2) as f32, (y / 2) as f32]).collect();
        let bits = Tensor::from_slice(&bits).view([n, 2]);
        let spread = (Tensor::arange(2 * n, (Kind::Float, Device::Cpu)) * 7.7).sin().view([n, 2]);
        Features::new(&(spread + bits * gap), y).unwrap()
    }

    #[test]
    fn separable_classes_need_few_labels_and_blurred_ones_more() {
        let of = |gap, shots| {
            let (train, test) = (corners(400, gap), corners(200, gap));
            few_shot(&train, &test, shots, &FewShotOptions::default()).unwrap()
        };
        assert_eq!(of(6.0, 1).mean, 1.0);
        let (few, many) = (of(2.0, 2), of(2.0, 50));
        assert!(many.mean > few.mean + 0.02 && many.deviation < few.deviation, "{few:?} {many:?}");
    }

    #[test]
    fn draws_differ_by_seed_and_number_and_repeat_nothing() {
        let by_class = [(0..50).collect::<Vec<_>>(), Vec::new(), (50..90).collect()];
        let of = |seed, draw| draw_rows(&by_class, 20, seed, draw).unwrap();
        let rows: std::collections::HashSet<_> = of(0, 0).into_iter().collect();
        assert_eq!((rows.len(), rows.iter().filter(|row| **row < 50).count()), (40, 20));
        assert!(of(0, 0) == of(0, 0) && of(0, 0) != of(0, 1) && of(0, 0) != of(1, 0));
        let error = draw_rows(&by_class, 41, 0, 0).unwrap_err().to_string();
        assert_eq!(error, "shots: expected 1 to 40, the examples of class 2, got 41");
    }

    #[test]
    fn deviation_divides_by_the_draws_less_one() {
        let found = summary(vec![0.5, 0.7, 0.9]);
        assert!((found.mean - 0.7).abs() < 1e-12 && (found.deviation - 0.2).abs() < 1e-12);
        assert_eq!(summary(vec![0.5]).deviation, 0.0);
    }
}
