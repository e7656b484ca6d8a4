//! All parts of the protocol on one pair of feature sets.
use super::stream;
use super::{Features, FewShotOptions, KnnOptions, LinearOptions};
use super::{feature_deviation, few_shot, knn, linear, rankme, uniformity};
use crate::{Error, Result, rng};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::Tensor;

/// Which parts to run, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Nearest neighbors; none leaves them out.
    pub knn: Option<KnnOptions>,
    /// Linear probe; none leaves it out.
    pub linear: Option<LinearOptions>,
    /// Few-shot probes by labels per class.
    pub few_shot: Vec<usize>,
    /// Seed of every draw.
    pub seed: u64,
    /// Examples from which the unlabelled measures are taken, at most.
    pub health_examples: i64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            knn: Some(KnnOptions::default()),
            linear: Some(LinearOptions::default()),
            few_shot: vec![5, 10],
            seed: 0,
            health_examples: 4000,
        }
    }
}

/// What features reach, with what each number depends on. A part that was left out, or that the data does not
/// allow (too few labels of a class), is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Accuracy of weighted nearest neighbors.
    pub knn: Option<f64>,
    /// Neighbors that voted.
    pub knn_k: Option<i64>,
    /// Temperature of the votes.
    pub knn_temperature: Option<f64>,
    /// Accuracy of the linear probe.
    pub linear: Option<f64>,
    /// Its penalty, chosen on a held-back part of the training set.
    pub linear_l2: Option<f64>,
    /// Penalties tried, each with its accuracy on that part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linear_held_back: Vec<(f64, f64)>,
    /// Accuracy of the linear probe on each class; none where the test set has no example of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linear_by_class: Vec<Option<f64>>,
    /// Mean accuracy from 5 labels per class.
    pub few_shot_5: Option<f64>,
    /// Its standard deviation over the draws.
    pub few_shot_5_deviation: Option<f64>,
    /// Mean accuracy from 10 labels per class.
    pub few_shot_10: Option<f64>,
    /// Its standard deviation over the draws.
    pub few_shot_10_deviation: Option<f64>,
    /// Effective rank of the test features.
    pub rankme: f64,
    /// Uniformity of the test features.
    pub uniformity: f64,
    /// Mean deviation of the unit test features.
    pub feature_deviation: f64,
    /// Numbers per example.
    pub dim: i64,
    /// Training examples.
    pub n_train: i64,
    /// Test examples.
    pub n_test: i64,
    /// Classes of the test set that the training set lacks; their examples count as wrong.
    #[serde(default)]
    pub unseen_classes: i64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Report {
    /// Of each accuracy the better one of two: a floor is as high as its highest variant.
    pub fn stronger(&self, other: &Report) -> Report {
        let best = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        Report {
            knn: best(self.knn, other.knn),
            linear: best(self.linear, other.linear),
            few_shot_5: best(self.few_shot_5, other.few_shot_5),
            few_shot_10: best(self.few_shot_10, other.few_shot_10),
            rankme: self.rankme.max(other.rankme),
            linear_l2: None,
            linear_held_back: Vec::new(),
            linear_by_class: Vec::new(),
            few_shot_5_deviation: None,
            few_shot_10_deviation: None,
            uniformity: self.uniformity.min(other.uniformity),
            feature_deviation: self.feature_deviation.max(other.feature_deviation),
            ..self.clone()
        }
    }
}

/// Runs the protocol.
///
/// # Errors
/// `Error::Shape` when the sets differ in width; what the parts say.
pub fn evaluate(train: &Features, test: &Features, options: &Options) -> Result<Report> {
    let sample = health_sample(test, options)?;
    let mut report = Report {
        rankme: rankme(&sample)?,
        uniformity: uniformity(&sample)?,
        feature_deviation: feature_deviation(&sample)?,
        dim: train.dim(),
        n_train: train.len(),
        n_test: test.len(),
        unseen_classes: test.classes_unseen_in(train),
        seed: options.seed,
        ..Report::default()
    };
    if let Some(settings) = &options.knn {
        let found = knn(train, test, settings)?;
        report.knn = Some(found.accuracy);
        report.knn_k = Some(found.k);
        report.knn_temperature = Some(settings.temperature);
    }
    if let Some(settings) = &options.linear {
        let found = linear(train, test, &LinearOptions { seed: options.seed, ..settings.clone() })?;
        report.linear = Some(found.accuracy);
        report.linear_l2 = Some(found.l2);
        report.linear_held_back = found.held_back;
        report.linear_by_class = found.class_accuracy;
    }
    let least = train.rows_by_class().iter().map(Vec::len).filter(|n| *n > 0).min().unwrap_or(0);
    for &shots in options.few_shot.iter().filter(|&&shots| shots <= least) {
        let found = few_shot(
            train,
            test,
            shots,
            &FewShotOptions { seed: options.seed, ..FewShotOptions::default() },
        )?;
        let (mean, deviation) = (Some(found.mean), Some(found.deviation));
        match shots {
            5 => (report.few_shot_5, report.few_shot_5_deviation) = (mean, deviation),
            10 => (report.few_shot_10, report.few_shot_10_deviation) = (mean, deviation),
            _ => {
                return Err(Error::config(
                    "few_shot",
                    format!("expected 5 or 10 labels per class, got {shots}"),
                ));
            }
        }
    }
    Ok(report)
}

/// Rows drawn at random for the unlabelled measures: a set that is sorted by class begins with one of them.
fn health_sample(test: &Features, options: &Options) -> Result<Tensor> {
    let count = test.len().min(options.health_examples.max(1));
    let mut rng = rng(options.seed, &[stream::HEALTH]);
    let mut rows: Vec<i64> =
        sample(&mut rng, test.len() as usize, count as usize).into_iter().map(|row| row as i64).collect();
    rows.sort_unstable();
    let rows = Tensor::f_from_slice(&rows)?.f_to_device(test.x().device())?;
    Ok(test.x().f_index_select(0, &rows)?)
}

/// Accuracy of always answering the most frequent class of the training set.
///
/// # Errors
/// `Error::Config` when a set is empty or has a negative label.
pub fn majority(train: &[i64], test: &[i64]) -> Result<f64> {
    if train.is_empty() || test.is_empty() || train.iter().any(|label| *label < 0) {
        return Err(Error::config("labels", "expected at least one of 0 and up in each set"));
    }
    let mut counts = BTreeMap::new();
    for label in train {
        *counts.entry(label).or_insert(0u64) += 1;
    }
    // Of equals the lowest: the last of the reversed order.
    let most = counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(label, _)| label);
    Ok(test.iter().filter(|label| Some(*label) == most).count() as f64 / test.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn blobs(n: i64) -> Features {
        let y: Vec<i64> = (0..n).map(|i| i % 3).collect();
        let center = Tensor::from_slice(&y).one_hot(3).to_kind(Kind::Float) * 4;
        let noise = Tensor::arange(n * 3, (Kind::Float, Device::Cpu)).square().sin().view([n, 3]);
        Features::new(&(center + noise), y).unwrap()
    }

    #[test]
    fn every_number_is_there_and_says_what_it_depends_on() {
        let report = evaluate(&blobs(300), &blobs(90), &Options::default()).unwrap();
        assert_eq!((report.knn, report.linear, report.few_shot_10), (Some(1.), Some(1.), Some(1.)));
        assert_eq!((report.knn_k, report.n_train, report.n_test, report.dim), (Some(60), 300, 90, 3));
        assert!(report.rankme > 2. && report.linear_l2.is_some());
    }

    #[test]
    fn classes_with_few_examples_leave_few_shot_out() {
        let report = evaluate(&blobs(24), &blobs(9), &Options::default()).unwrap();
        assert!(report.few_shot_5.is_some() && report.few_shot_10.is_none());
    }

    #[test]
    fn the_seed_decides_the_draws() {
        let of = |seed| {
            let options = Options { seed, knn: None, linear: None, ..Options::default() };
            let y: Vec<i64> = (0..300).map(|i| i % 3).collect();
            let noise = Tensor::arange(900, (Kind::Float, Device::Cpu)).square().sin().view([300, 3]);
            let blurred = Features::new(&noise, y).unwrap();
            evaluate(&blurred, &blurred, &options).unwrap().few_shot_5_deviation
        };
        assert!(of(0) == of(0) && of(0) != of(1));
    }

    #[test]
    fn test_classes_that_the_training_set_lacks_count_as_wrong() {
        let (train, test) = (blobs(300), blobs(90));
        // A third of the test set becomes two classes that nobody has seen.
        let y = test.y().iter().enumerate().map(|(i, &y)| if y == 2 { 7 + (i % 2) as i64 } else { y });
        let test = Features::new(test.x(), y.collect()).unwrap();
        let report = evaluate(&train, &test, &Options::default()).unwrap();
        for accuracy in [report.knn, report.linear, report.few_shot_5] {
            assert!((accuracy.unwrap() - 2. / 3.).abs() < 1e-12, "{report:?}");
        }
        assert_eq!((report.unseen_classes, report.linear_by_class[8]), (2, Some(0.)));
        assert_eq!(evaluate(&train, &train, &Options::default()).unwrap().unseen_classes, 0);
    }

    #[test]
    fn unlabelled_measures_are_of_random_rows() {
        // Sorted by class: the first rows are all alike.
        let y: Vec<i64> = (0..300).map(|i| i / 100).collect();
        let x = Tensor::from_slice(&y).one_hot(3).to_kind(Kind::Float);
        let features = Features::new(&x, y).unwrap();
        let of = |seed| {
            health_sample(&features, &Options { seed, health_examples: 60, ..Options::default() }).unwrap()
        };
        assert_eq!(of(0).size(), [60, 3]);
        assert!(rankme(&of(0)).unwrap() > 2.5, "{}", rankme(&of(0)).unwrap());
        assert!(of(0).equal(&of(0)) && !of(0).equal(&of(1)));
        let all = Options { health_examples: 1000, ..Options::default() };
        assert!(health_sample(&features, &all).unwrap().equal(&x));
    }

    #[test]
    fn the_stronger_of_two_floors_is_taken_number_by_number() {
        let of = |knn, linear| Report { knn: Some(knn), linear, ..Report::default() };
        let both = of(0.5, Some(0.9)).stronger(&of(0.7, None));
        assert_eq!((both.knn, both.linear), (Some(0.7), Some(0.9)));
    }

    #[test]
    fn the_majority_is_that_of_the_training_set() {
        assert_eq!(majority(&[0, 1, 1, 2], &[1, 1, 0, 2]).unwrap(), 0.5);
        assert_eq!(
            majority(&[i64::MAX, 2, i64::MAX, 2], &[2, 2, 0, i64::MAX]).unwrap(),
            0.5,
            "of equals the lowest"
        );
        assert!(majority(&[], &[1]).is_err());
    }
}
