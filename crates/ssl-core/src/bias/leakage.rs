//! How well the group of an example is told from its features.
use super::Leace;
use crate::eval::{Features, KnnOptions, LinearOptions, knn, linear, majority};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of the two classifiers, which are those of the protocol.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LeakageOptions {
    /// The linear probe.
    pub linear: LinearOptions,
    /// Nearest neighbors.
    pub knn: KnnOptions,
}

/// How often the group of a test example is told rightly, beside what needs no features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// By the linear probe.
    pub linear: f64,
    /// Its penalty, chosen on a held-back part of the training set.
    pub linear_l2: f64,
    /// By the linear probe in each group; none where the test set has no example of it.
    pub linear_by_group: Vec<Option<f64>>,
    /// By weighted nearest neighbors.
    pub knn: f64,
    /// Neighbors that voted.
    pub knn_k: i64,
    /// By always saying the most frequent group of the training set.
    pub majority: f64,
    /// By saying the most frequent group of the example's class; none without labels. What the class explains is no
    /// leakage: features that tell the class tell this much.
    pub from_label: Option<f64>,
    /// Training examples.
    pub n_train: i64,
    /// Test examples.
    pub n_test: i64,
}

impl Leakage {
    /// The higher of the two floors.
    pub fn floor(&self) -> f64 {
        self.from_label.unwrap_or(0.).max(self.majority)
    }
}

/// Tells the groups, which are the labels of `train` and `test`, from features; `labels` are the classes of the examples
/// of both, if they have some.
///
/// # Errors
/// `Error::Config` when the training set has a single group, or the number of labels is another; `Error::Shape` when the
/// widths differ.
pub fn leakage(
    train: &Features,
    test: &Features,
    labels: Option<[&[i64]; 2]>,
    options: &LeakageOptions,
) -> Result<Leakage> {
    let by_line = linear(train, test, &options.linear)?;
    let by_neighbors = knn(train, test, &options.knn)?;
    Ok(Leakage {
        linear: by_line.accuracy,
        linear_l2: by_line.l2,
        linear_by_group: by_line.class_accuracy,
        knn: by_neighbors.accuracy,
        knn_k: by_neighbors.k,
        majority: majority(train.y(), test.y())?,
        from_label: labels.map(|labels| from_label(labels, [train.y(), test.y()])).transpose()?,
        n_train: train.len(),
        n_test: test.len(),
    })
}

/// How often the group of a test example is the most frequent one of its class in the training set: of equals the
/// lowest, and for a class that the training set lacks the most frequent of all. Both are given for training set and
/// test set.
///
/// # Errors
/// `Error::Config` when a set has another number of labels than of groups, or is empty.
pub fn from_label(labels: [&[i64]; 2], groups: [&[i64]; 2]) -> Result<f64> {
    for (labels, groups) in labels.iter().zip(groups) {
        if labels.len() != groups.len() || groups.is_empty() {
            let message =
                format!("expected {}, one for each example, got {}", groups.len().max(1), labels.len());
            return Err(Error::config("labels", message));
        }
    }
    let ([train, test], [train_groups, test_groups]) = (labels, groups);
    let mut counts: BTreeMap<Option<i64>, BTreeMap<i64, usize>> = BTreeMap::new();
    for (&label, &group) in train.iter().zip(train_groups) {
        for of in [Some(label), None] {
            *counts.entry(of).or_default().entry(group).or_default() += 1;
        }
    }
    // Of equals the lowest: the last of the reversed order.
    let most =
        |groups: &BTreeMap<i64, usize>| groups.iter().rev().max_by_key(|(_, n)| **n).map(|(&group, _)| group);
    let told = |label: &i64| counts.get(&Some(*label)).or(counts.get(&None)).and_then(most);
    let hits = test.iter().zip(test_groups).filter(|(label, group)| told(label) == Some(**group)).count();
    Ok(hits as f64 / test.len() as f64)
}

impl Leace {
    /// The features of a training set, whose labels are the groups, and of a test set, both without what a linear map
    /// tells of the groups of the training set.
    ///
    /// # Errors
    /// As [`Leace::fit`] and [`Leace::erase`].
    pub fn erase_both(train: &Features, test: &Features) -> Result<[Features; 2]> {
        let eraser = Leace::fit(train)?;
        Ok([eraser.erase_from(train)?, eraser.erase_from(test)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// The first feature knows the class, the second the group, which is that of the class in 4 of 5 rows.
    fn example(n: i64, shift: i64, group_weight: f64) -> (Features, Vec<i64>) {
        let labels: Vec<i64> = (0..n).map(|row| row % 2).collect();
        let groups: Vec<i64> =
            (0..n).map(|row| if row / 2 % 5 == 0 { 1 - row % 2 } else { row % 2 }).collect();
        let of = |values: &[i64]| Tensor::from_slice(values).to_kind(Kind::Double) * 2 - 1;
        let columns = Tensor::stack(&[of(&labels), of(&groups) * group_weight], 1);
        let noise =
            ((Tensor::arange(n * 2, (Kind::Double, Device::Cpu)) + shift).square() * 0.37).sin() * 0.3;
        (Features::new(&(columns + noise.view([n, 2])), groups).unwrap(), labels)
    }

    fn measure(weight: f64, [train, test]: [i64; 2]) -> Leakage {
        let ((train, train_labels), (test, test_labels)) =
            (example(train, 0, weight), example(test, 9000, weight));
        leakage(&train, &test, Some([&train_labels, &test_labels]), &LeakageOptions::default()).unwrap()
    }

    #[test]
    fn features_of_the_class_alone_leak_no_more_than_the_class() {
        let found = measure(0., [500, 200]);
        assert_eq!((found.majority, found.from_label), (0.5, Some(0.8)));
        assert!((found.linear - 0.8).abs() < 0.03, "{found:?}");
        assert_eq!((found.n_train, found.n_test, found.floor()), (500, 200, 0.8));
    }

    #[test]
    fn features_of_the_group_leak_more_and_erased_ones_nothing() {
        let found = measure(1., [500, 200]);
        assert!(found.linear > 0.99 && found.knn > 0.99, "{found:?}");
        assert!(found.linear_by_group.iter().all(|of| of.unwrap() > 0.99));
        let ((train, _), (test, _)) = (example(2000, 0, 1.), example(2000, 9000, 1.));
        let [train, test] = Leace::erase_both(&train, &test).unwrap();
        let erased = leakage(&train, &test, None, &LeakageOptions::default()).unwrap();
        assert!((erased.linear - 0.5).abs() < 0.04, "{erased:?}");
        assert_eq!((erased.from_label, erased.floor()), (None, 0.5));
    }

    #[test]
    fn the_class_says_its_most_frequent_group() {
        let (labels, groups) = ([0, 0, 0, 1, 1, 2], [5, 5, 6, 6, 4, 6]);
        // Class 1 has one of each: the lower. Class 9 is new: 6 is the most frequent.
        let found = from_label([&labels, &[0, 1, 2, 9]], [&groups, &[5, 4, 6, 6]]).unwrap();
        assert_eq!(found, 1.);
        assert_eq!(from_label([&labels, &[0, 1]], [&groups, &[6, 6]]).unwrap(), 0.);
        let message = from_label([&labels, &[0]], [&groups, &[5, 5]]).unwrap_err().to_string();
        assert_eq!(message, "labels: expected 2, one for each example, got 1");
    }
}
