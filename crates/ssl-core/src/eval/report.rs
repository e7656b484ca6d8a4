//! What features reach by the protocol, as it is written down.
use super::{Clustering, LabelRetrieval, LeftOut, ViewHealth};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Classes of which it is said which is taken for which, at most: their square is written.
pub(super) const MOST_CONFUSED: i64 = 256;

/// What features reach, with what each number depends on. A part that was left out, or that the data does not
/// allow (too few labels of a class), is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Accuracy of weighted nearest neighbors.
    pub knn: Option<f64>,
    /// Its bootstrap interval, by [`IntervalOptions`](super::IntervalOptions).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn_interval: Option<[f64; 2]>,
    /// The class that they gave each test example; not written.
    #[serde(skip)]
    pub knn_predictions: Vec<i64>,
    /// Neighbors that voted.
    pub knn_k: Option<i64>,
    /// Temperature of the votes.
    pub knn_temperature: Option<f64>,
    /// Accuracy of the linear probe.
    pub linear: Option<f64>,
    /// Its bootstrap interval, by [`IntervalOptions`](super::IntervalOptions).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_interval: Option<[f64; 2]>,
    /// The class that it gave each test example; not written.
    #[serde(skip)]
    pub linear_predictions: Vec<i64>,
    /// Its penalty, chosen on a held-back part of the training set.
    pub linear_l2: Option<f64>,
    /// Penalties tried, each with its accuracy on that part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linear_held_back: Vec<(f64, f64)>,
    /// Accuracy of the linear probe on each class; none where the test set has no example of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linear_by_class: Vec<Option<f64>>,
    /// How often the linear probe answered each class, a row, with each; not of more than 256 classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linear_confusion: Vec<Vec<u64>>,
    /// Mean accuracy from 5 labels per class.
    pub few_shot_5: Option<f64>,
    /// Its standard deviation over the draws.
    pub few_shot_5_deviation: Option<f64>,
    /// Mean accuracy from 10 labels per class.
    pub few_shot_10: Option<f64>,
    /// Its standard deviation over the draws.
    pub few_shot_10_deviation: Option<f64>,
    /// What k-means finds of the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clustering: Option<Clustering>,
    /// What examples find of their class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<LabelRetrieval>,
    /// How classes that are left out stand out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<LeftOut>,
    /// Measures on random views of test examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewHealth>,
    /// The linear probe on test examples that are corrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robustness: Option<Robustness>,
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
        // Of equals that of the first.
        let knn = if other.knn > self.knn { other } else { self };
        let linear = if other.linear > self.linear { other } else { self };
        Report {
            knn: knn.knn,
            knn_interval: knn.knn_interval,
            knn_predictions: Vec::new(),
            linear: linear.linear,
            linear_interval: linear.linear_interval,
            linear_predictions: Vec::new(),
            linear_confusion: Vec::new(),
            clustering: of_both(self.clustering.as_ref(), other.clustering.as_ref(), Clustering::stronger),
            retrieval: of_both(self.retrieval.as_ref(), other.retrieval.as_ref(), LabelRetrieval::stronger),
            anomaly: of_both(self.anomaly.as_ref(), other.anomaly.as_ref(), LeftOut::stronger),
            views: of_both(self.views.as_ref(), other.views.as_ref(), ViewHealth::stronger),
            robustness: self.robustness.clone().or_else(|| other.robustness.clone()),
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

/// What the better one of two is where there are both.
fn of_both<T: Clone>(a: Option<&T>, b: Option<&T>, better: impl Fn(&T, &T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(better(a, b)),
        (one, other) => one.or(other).cloned(),
    }
}

/// What a linear probe that was fitted to clean training examples reaches on test examples that are corrupted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Robustness {
    /// Its accuracy on the same examples as they are.
    pub clean: f64,
    /// Test examples.
    pub n_test: i64,
    /// Its accuracy by the name of the corruption, from the mildest severity to the worst.
    #[serde(flatten)]
    pub accuracy: BTreeMap<String, Vec<f64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stronger_of_two_floors_is_taken_number_by_number() {
        let of = |knn, linear| Report {
            knn: Some(knn),
            knn_interval: Some([knn - 0.1, knn + 0.1]),
            linear,
            ..Report::default()
        };
        let clustered = |nmi, ari| Some(Clustering { nmi, ari, ..Clustering::default() });
        let first = Report { clustering: clustered(0.5, 0.2), ..of(0.5, Some(0.9)) };
        let second = Report { clustering: clustered(0.4, 0.3), ..of(0.7, None) };
        let both = first.stronger(&second);
        assert_eq!((both.knn, both.linear), (Some(0.7), Some(0.9)));
        assert_eq!(both.knn_interval, second.knn_interval, "an interval stays with its number");
        assert_eq!(both.clustering, clustered(0.5, 0.3));
        assert_eq!(first.stronger(&Report::default()).clustering, first.clustering);
    }

    #[test]
    fn what_was_not_measured_is_not_written_and_what_was_is_read_again() {
        let bare = serde_json::to_value(Report::default()).unwrap();
        for name in ["knn_interval", "linear_confusion", "clustering", "retrieval", "views", "robustness"] {
            assert!(bare.get(name).is_none(), "{name}");
        }
        let robustness = Robustness {
            clean: 0.9,
            n_test: 7,
            accuracy: BTreeMap::from([("noise".to_string(), vec![0.8, 0.7])]),
        };
        let report = Report {
            linear_interval: Some([0.1, 0.2]),
            linear_confusion: vec![vec![1, 0], vec![0, 2]],
            retrieval: Some(LabelRetrieval { recall_at_1: 0.5, map: 0.25, n: 4 }),
            robustness: Some(robustness),
            ..Report::default()
        };
        let written = serde_json::to_value(&report).unwrap();
        assert_eq!(written["robustness"]["noise"][1], 0.7);
        assert_eq!(serde_json::from_value::<Report>(written).unwrap(), report);
        assert_eq!(serde_json::from_value::<Report>(bare).unwrap(), Report::default());
    }
}
