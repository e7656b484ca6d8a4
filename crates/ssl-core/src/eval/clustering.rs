//! What k-means finds of the classes without a label: as many clusters as there are classes, compared with them.
use super::features::{Features, host};
use super::partitions::{Table, numbered};
use super::stream;
use crate::nn::l2_normalize;
use crate::{Clusters, Error, Result, no_grad, rng};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;

/// How clusters are found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusteringOptions {
    /// Starts, of which the one with the least squared distances counts.
    pub restarts: u32,
    /// Rounds of a start, at most.
    pub rounds: u32,
    /// Examples that are clustered, at most: drawn at random.
    pub most: i64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for ClusteringOptions {
    fn default() -> Self {
        ClusteringOptions { restarts: 3, rounds: 25, most: 5000, seed: 0 }
    }
}

/// How alike clusters and classes are, with what each number depends on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Clustering {
    /// Normalized mutual information, by the mean of both entropies: 0 by chance at best, 1 when equal.
    pub nmi: f64,
    /// Adjusted Rand index: 0 by chance, 1 when equal.
    pub ari: f64,
    /// Share of examples in the cluster that stands for their class, under the best assignment of one to one.
    pub accuracy: f64,
    /// Clusters, as many as there are classes.
    pub k: i64,
    /// Starts.
    pub restarts: u32,
    /// Examples.
    pub n: i64,
}

impl Clustering {
    /// Of each number the better one of two.
    pub(super) fn stronger(&self, other: &Clustering) -> Clustering {
        Clustering {
            nmi: self.nmi.max(other.nmi),
            ari: self.ari.max(other.ari),
            accuracy: self.accuracy.max(other.accuracy),
            ..self.clone()
        }
    }
}

/// K-means on features of unit length, started by k-means++, with as many clusters as there are classes among the
/// examples.
///
/// # Errors
/// `Error::Config` when there is no start or no example.
///
/// # Source
/// Xie et al., 2016, section 4.2 (accuracy by assignment): <https://arxiv.org/abs/1511.06335>; Hubert & Arabie, 1985
/// (adjusted Rand index): <https://doi.org/10.1007/BF01908075>; all three numbers equal scikit-learn's.
pub fn clustering(features: &Features, options: &ClusteringOptions) -> Result<Clustering> {
    if options.restarts < 1 {
        return Err(Error::config("restarts", "expected 1 or more, got 0"));
    }
    if options.most < 1 {
        return Err(Error::config("most", format!("expected 1 or more, got {}", options.most)));
    }
    let count = features.len().min(options.most) as usize;
    let mut draws = rng(options.seed, &[stream::CLUSTERED]);
    let rows: Vec<i64> =
        sample(&mut draws, features.len() as usize, count).into_iter().map(|row| row as i64).collect();
    let features = features.select(&rows)?;
    let (_, k) = numbered(features.y());
    let unit = no_grad(|| l2_normalize(features.x()))?;
    let vars = VarStore::new(unit.device());
    let mut clusters = Clusters::new(&vars.root(), k as i64, features.dim())?;
    let mut best = (f64::INFINITY, Vec::new());
    for restart in 0..options.restarts {
        let mut draws = rng(options.seed, &[stream::CLUSTERED, 1 + u64::from(restart)]);
        let apart = clusters.refit(&unit, options.rounds, &mut draws)?;
        if apart < best.0 {
            best = (apart, host(&clusters.nearest(&unit)?)?);
        }
    }
    let table = Table::new(features.y(), &best.1)?;
    Ok(Clustering {
        nmi: table.nmi(),
        ari: table.ari(),
        accuracy: table.accuracy(),
        k: k as i64,
        restarts: options.restarts,
        n: features.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// Classes 0, 3 and 6 around three axes, `apart` from each other.
    fn features(apart: f64) -> Features {
        let y: Vec<i64> = (0..300).map(|i| i % 3).collect();
        let center = Tensor::from_slice(&y).one_hot(3).to_kind(Kind::Float) * apart;
        let noise = Tensor::arange(900, (Kind::Float, Device::Cpu)).square().sin().view([300, 3]);
        Features::new(&(center + noise), y.iter().map(|y| 3 * y).collect()).unwrap()
    }

    #[test]
    fn classes_apart_are_found_and_others_are_not() {
        let of = |apart| clustering(&features(apart), &ClusteringOptions::default()).unwrap();
        let found = of(9.);
        assert_eq!((found.nmi, found.ari, found.accuracy, found.k, found.n), (1., 1., 1., 3, 300));
        let lost = of(0.);
        assert!(lost.nmi < 0.05 && lost.ari.abs() < 0.05 && lost.accuracy < 0.5, "{lost:?}");
        assert!(lost.accuracy > 1. / 3., "the assignment is the best one: {lost:?}");
    }

    #[test]
    fn a_part_is_drawn_and_bad_options_are_named() {
        let of = |options| clustering(&features(1.), &options);
        let default = ClusteringOptions::default();
        assert_eq!(of(ClusteringOptions { most: 50, ..default }).unwrap().n, 50);
        let message = of(ClusteringOptions { restarts: 0, ..default }).unwrap_err().to_string();
        assert_eq!(message, "restarts: expected 1 or more, got 0");
        assert!(of(ClusteringOptions { most: 0, ..default }).is_err());
    }
}
