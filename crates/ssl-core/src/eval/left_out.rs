//! Whether a class that is unknown stands out: each class left out of the training set in turn.
use super::stream;
use super::{Features, auroc, neighbour_distance};
use crate::nn::l2_normalize;
use crate::{Error, Result, no_grad, rng};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

/// How far is measured, among how many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeftOutOptions {
    /// Nearest training examples whose mean distance is the score.
    pub k: i64,
    /// Examples of either set, at most: drawn at random.
    pub most: i64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for LeftOutOptions {
    fn default() -> Self {
        LeftOutOptions { k: 5, most: 4000, seed: 0 }
    }
}

/// Areas under the curve, with what they depend on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Mean over the classes.
    pub auroc: f64,
    /// The area for each class; none where it cannot be left out.
    pub by_class: Vec<Option<f64>>,
    /// Neighbours.
    pub k: i64,
    /// Training examples, those of the class that is left out included.
    pub n_train: i64,
    /// Test examples.
    pub n_test: i64,
}

impl LeftOut {
    /// That with the larger mean of two.
    pub(super) fn stronger(&self, other: &LeftOut) -> LeftOut {
        if other.auroc > self.auroc { other.clone() } else { self.clone() }
    }
}

/// How well the distance to the nearest training examples of all other classes tells a class from the others, by
/// features of unit length; none where no class can be left out.
///
/// The encoder may have seen the class without its label: the score tells how far its examples lie from others.
///
/// # Errors
/// `Error::Config` when a number is below 1; `Error::Shape` when the widths differ.
///
/// # Source
/// Bergman, Cohen, Hoshen, 2020: <https://arxiv.org/abs/2002.10445>; one class against the rest, the other way round, from
/// Golan & El-Yaniv, 2018: <https://arxiv.org/abs/1805.10917>.
pub fn left_out(train: &Features, test: &Features, options: &LeftOutOptions) -> Result<Option<LeftOut>> {
    crate::check::at_least(1, [("k", options.k), ("most", options.most)])?;
    train.check_width(test)?;
    let part = |features: &Features, side: u64| -> Result<Features> {
        let count = features.len().min(options.most) as usize;
        let mut rng = rng(options.seed, &[stream::LEFT_OUT, side]);
        let rows = sample(&mut rng, features.len() as usize, count).into_iter().map(|row| row as i64);
        features.select(&rows.collect::<Vec<_>>())
    };
    let (train, test) = (part(train, 0)?, part(test, 1)?);
    let (memory, queries) = no_grad(|| Ok::<_, Error>((l2_normalize(train.x())?, l2_normalize(test.x())?)))?;
    let area = |class: i64| -> Result<Option<f64>> {
        let others: Vec<i64> =
            (0..).zip(train.y()).filter(|(_, label)| **label != class).map(|(row, _)| row).collect();
        let is_new: Vec<bool> = test.y().iter().map(|label| *label == class).collect();
        let both = is_new.contains(&true) && is_new.contains(&false);
        if !both || (others.len() as i64) < options.k {
            return Ok(None);
        }
        let known =
            memory.f_index_select(0, &tch::Tensor::f_from_slice(&others)?.f_to_device(memory.device())?)?;
        Ok(Some(auroc(&neighbour_distance(&known, &queries, options.k)?, &is_new)?))
    };
    let by_class = (0..test.classes()).map(area).collect::<Result<Vec<_>>>()?;
    let known: Vec<f64> = by_class.iter().copied().flatten().collect();
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let (n_train, n_test) = (train.len(), test.len());
    Ok((!known.is_empty()).then_some(LeftOut { auroc: mean, by_class, k: options.k, n_train, n_test }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::{Device, Kind, Tensor};

    const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

    /// Around the axis of its class: the training set of the script, and its test set.
    fn sets() -> (Features, Features) {
        let classes = |n: i64| (0..n).map(|i| i % 4).collect::<Vec<i64>>();
        let axes = |n: i64| Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(4).one_hot(4);
        let train = Tensor::arange(160, CPU).square().sin().view([40, 4]) + axes(40);
        let test = (Tensor::arange(96, CPU) * 0.53 - 0.2).cos().view([24, 4]) + axes(24);
        (Features::new(&train, classes(40)).unwrap(), Features::new(&test, classes(24)).unwrap())
    }

    #[test]
    fn areas_equal_those_of_scikit_learn() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let expected: Vec<f64> = serde_json::from_value(all["left_out"].clone()).unwrap();
        let (train, test) = sets();
        let options = LeftOutOptions { k: 3, ..LeftOutOptions::default() };
        let found = left_out(&train, &test, &options).unwrap().unwrap();
        assert_eq!(found.by_class.len(), 4);
        for (found, expected) in found.by_class.iter().zip(&expected) {
            assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} {expected}");
        }
        assert!((found.auroc - expected.iter().sum::<f64>() / 4.).abs() < 1e-9);
    }

    #[test]
    fn a_class_that_cannot_be_left_out_has_no_area() {
        let (train, test) = sets();
        let y = test.y().iter().map(|y| if *y == 2 { 1 } else { *y }).collect();
        let test = Features::new(test.x(), y).unwrap();
        let found = left_out(&train, &test, &LeftOutOptions::default()).unwrap().unwrap();
        let has: Vec<bool> = found.by_class.iter().map(Option::is_some).collect();
        assert_eq!(has, [true, true, false, true]);
        let one = Features::new(test.x(), vec![0; 24]).unwrap();
        assert_eq!(left_out(&train, &one, &LeftOutOptions::default()).unwrap(), None);
        let few = LeftOutOptions { most: 10, ..LeftOutOptions::default() };
        let found = left_out(&train, &test, &few).unwrap().unwrap();
        assert_eq!((found.n_train, found.n_test), (10, 10));
        let message = left_out(&train, &test, &LeftOutOptions { k: 0, ..few }).unwrap_err().to_string();
        assert_eq!(message, "k: expected at least 1, got 0");
    }
}
