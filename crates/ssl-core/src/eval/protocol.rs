//! All parts of the protocol on one pair of feature sets.
use super::features::hits;
use super::report::{MOST_CONFUSED, Report};
use super::stream;
use super::{
    ClusteringOptions, Features, FewShotOptions, IntervalOptions, KnnOptions, LeftOutOptions, LinearOptions,
};
use super::{
    LinearProbe, clustering, confusion, feature_deviation, few_shot, interval, knn, label_retrieval, left_out,
};
use super::{rankme, uniformity};
use crate::{Error, Result, rng};
use rand::seq::index::sample;
use std::collections::BTreeMap;

/// Classes that are looked for by k-means, at most: an assignment costs the cube of their number.
const MOST_CLUSTERS: i64 = 1000;

/// Which parts to run, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Nearest neighbors; none leaves them out.
    pub knn: Option<KnnOptions>,
    /// Linear probe; none leaves it out.
    pub linear: Option<LinearOptions>,
    /// Few-shot probes by labels per class.
    pub few_shot: Vec<usize>,
    /// Clusters; none leaves them out.
    pub clustering: Option<ClusteringOptions>,
    /// Bootstrap intervals of both accuracies; none leaves them out.
    pub interval: Option<IntervalOptions>,
    /// Each class left out in turn, which costs as much as all neighbours once more for each class; none, the default,
    /// does not.
    pub anomaly: Option<LeftOutOptions>,
    /// Seed of every draw.
    pub seed: u64,
    /// Examples from which the unlabelled measures are taken, at most.
    pub health_examples: i64,
    /// Examples that are retrieved among each other, at most: it costs their square.
    pub retrieval_examples: i64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            knn: Some(KnnOptions::default()),
            linear: Some(LinearOptions::default()),
            few_shot: vec![5, 10],
            clustering: Some(ClusteringOptions::default()),
            interval: Some(IntervalOptions::default()),
            anomaly: None,
            seed: 0,
            health_examples: 4000,
            retrieval_examples: 2000,
        }
    }
}

/// Runs the protocol.
///
/// # Errors
/// `Error::Shape` when the sets differ in width; what the parts say.
pub fn evaluate(train: &Features, test: &Features, options: &Options) -> Result<Report> {
    Ok(evaluate_with_probe(train, test, options)?.0)
}

/// Runs the protocol, and keeps the linear probe for other features of the test set.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_with_probe(
    train: &Features,
    test: &Features,
    options: &Options,
) -> Result<(Report, Option<LinearProbe>)> {
    let sample = health_sample(test, options.health_examples, options.seed)?;
    let asked = health_sample(test, options.retrieval_examples, options.seed)?;
    let mut report = Report {
        rankme: rankme(sample.x())?,
        uniformity: uniformity(sample.x())?,
        feature_deviation: feature_deviation(sample.x())?,
        retrieval: label_retrieval(&asked)?,
        dim: train.dim(),
        n_train: train.len(),
        n_test: test.len(),
        unseen_classes: test.classes_unseen_in(train),
        seed: options.seed,
        ..Report::default()
    };
    if let Some(settings) = &options.knn {
        let found = knn(train, test, settings)?;
        report.knn_interval = scatter(&found.predictions, test, options)?;
        report.knn = Some(found.accuracy);
        report.knn_k = Some(found.k);
        report.knn_temperature = Some(settings.temperature);
        report.knn_predictions = found.predictions;
    }
    let probe = probe(train, test, options, &mut report)?;
    few_shots(train, test, options, &mut report)?;
    if let Some(settings) = options.clustering.filter(|_| test.classes() <= MOST_CLUSTERS) {
        let settings = ClusteringOptions { seed: options.seed, ..settings };
        report.clustering = Some(clustering(test, &settings)?);
    }
    if let Some(settings) = options.anomaly {
        report.anomaly = left_out(train, test, &LeftOutOptions { seed: options.seed, ..settings })?;
    }
    Ok((report, probe))
}

/// The interval of the accuracy of such answers.
fn scatter(predictions: &[i64], test: &Features, options: &Options) -> Result<Option<[f64; 2]>> {
    let Some(settings) = options.interval else { return Ok(None) };
    let settings = IntervalOptions { seed: options.seed, ..settings };
    Ok(Some(interval(&hits(predictions, test.y()), &settings)?))
}

/// Fits the linear probe and writes down what it reaches.
fn probe(
    train: &Features,
    test: &Features,
    options: &Options,
    report: &mut Report,
) -> Result<Option<LinearProbe>> {
    let Some(settings) = &options.linear else { return Ok(None) };
    train.check_against(test)?;
    let probe = LinearProbe::fit(train, &LinearOptions { seed: options.seed, ..settings.clone() })?;
    let found = probe.test(test)?;
    report.linear = Some(found.accuracy);
    report.linear_interval = scatter(&found.predictions, test, options)?;
    report.linear_l2 = Some(found.l2);
    report.linear_held_back = found.held_back;
    report.linear_by_class = found.class_accuracy;
    if train.classes().max(test.classes()) <= MOST_CONFUSED {
        report.linear_confusion = confusion(&found.predictions, test.y())?;
    }
    report.linear_predictions = found.predictions;
    Ok(Some(probe))
}

fn few_shots(train: &Features, test: &Features, options: &Options, report: &mut Report) -> Result<()> {
    let least = train.rows_by_class().iter().map(Vec::len).filter(|n| *n > 0).min().unwrap_or(0);
    let settings = FewShotOptions { seed: options.seed, ..FewShotOptions::default() };
    for &shots in options.few_shot.iter().filter(|&&shots| shots <= least) {
        let found = few_shot(train, test, shots, &settings)?;
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
    Ok(())
}

/// Rows drawn at random, `most` of them: a set that is sorted by class begins with one of them.
fn health_sample(test: &Features, most: i64, seed: u64) -> Result<Features> {
    let count = test.len().min(most.max(1));
    let mut rng = rng(seed, &[stream::HEALTH]);
    let mut rows: Vec<i64> =
        sample(&mut rng, test.len() as usize, count as usize).into_iter().map(|row| row as i64).collect();
    rows.sort_unstable();
    test.select(&rows)
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
    use tch::{Device, Kind, Tensor};

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
        assert_eq!((report.knn_interval, report.linear_interval), (Some([1., 1.]), Some([1., 1.])));
        assert!(report.knn_predictions == blobs(90).y() && report.linear_predictions == blobs(90).y());
        assert_eq!(report.linear_confusion, [[30, 0, 0], [0, 30, 0], [0, 0, 30]]);
        let found = report.clustering.unwrap();
        assert_eq!((found.nmi, found.k, found.n), (1., 3, 90));
        let found = report.retrieval.unwrap();
        assert_eq!((found.recall_at_1, found.n), (1., 90));
        assert!(report.anomaly.is_none(), "it costs time, so it is asked for");
    }

    #[test]
    fn a_class_left_out_is_measured_where_it_is_asked_for() {
        let options = Options { anomaly: Some(LeftOutOptions::default()), ..Options::default() };
        let (report, probe) = evaluate_with_probe(&blobs(300), &blobs(90), &options).unwrap();
        assert_eq!(report.anomaly.unwrap().auroc, 1.);
        assert_eq!(probe.unwrap().predict(blobs(90).x()).unwrap(), blobs(90).y());
        let none = Options { linear: None, interval: None, clustering: None, ..options };
        let (report, probe) = evaluate_with_probe(&blobs(300), &blobs(90), &none).unwrap();
        assert!(probe.is_none() && report.knn_interval.is_none() && report.clustering.is_none());
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
        let of = |seed| health_sample(&features, 60, seed).unwrap().x().shallow_clone();
        assert_eq!(of(0).size(), [60, 3]);
        assert!(rankme(&of(0)).unwrap() > 2.5, "{}", rankme(&of(0)).unwrap());
        assert!(of(0).equal(&of(0)) && !of(0).equal(&of(1)));
        assert!(health_sample(&features, 1000, 0).unwrap().x().equal(&x));
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
