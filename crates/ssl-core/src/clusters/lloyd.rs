//! K-means of many vectors at once, until it stands still.
//!
//! Source: Lloyd, 1982: <https://doi.org/10.1109/TIT.1982.1056489>; the start is k-means++.
use super::{Clusters, some_rows};
use crate::{Precision, Result, Rng};
use rand::RngExt;
use tch::{Kind, Tensor};

/// Centers stand still when their squared moves sum to this part of the mean variance of the vectors: scikit-learn's.
const STILL: f64 = 1e-4;

impl Clusters {
    /// Finds the centers anew among many vectors at once: started by k-means++ with draws from `rng`, then in each round
    /// the mean of the vectors nearest to each, until the centers stand still or the rounds are over. A cluster that gets
    /// none keeps its center. Returns the sum of the squared distances to the nearest centers.
    ///
    /// # Shapes
    /// `x`: `[M, D]`, with M above 0.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no matrix or has no row.
    pub fn refit(&mut self, x: &Tensor, rounds: u32, rng: &mut Rng) -> Result<f64> {
        some_rows(x)?;
        let _guard = tch::no_grad_guard();
        let x = x.f_to_kind(Kind::Float)?;
        Precision::Fp32.scope(x.device(), || {
            self.start(&x, &mut |weights| drawn(weights, rng))?;
            self.settle(&x, rounds)
        })
    }

    /// Rounds from where the centers are; what the vectors are away from the last ones.
    fn settle(&mut self, x: &Tensor, rounds: u32) -> Result<f64> {
        let variance = x.f_var_dim([0i64].as_slice(), false, false)?.f_mean(Kind::Double)?;
        let still = STILL * f64::try_from(variance)?;
        for _ in 0..rounds {
            let (sums, counts) = self.tally(x)?;
            let full = counts.f_gt(0.)?.f_unsqueeze(1)?;
            let means = sums.f_div(&counts.f_clamp_min(1.)?.f_unsqueeze(1)?)?;
            let means = means.f_where_self(&full, &self.centers)?;
            let moved = f64::try_from(means.f_sub(&self.centers)?.f_square()?.f_sum(Kind::Double)?)?;
            self.centers.f_copy_(&means)?;
            self.counts.f_copy_(&counts)?;
            if moved <= still {
                break;
            }
        }
        let own = self.centers.f_index_select(0, &self.nearest(x)?)?;
        Ok(f64::try_from(x.f_sub(&own)?.f_square()?.f_sum(Kind::Double)?)?)
    }
}

/// A row drawn in proportion to its weight, `[1]`.
fn drawn(weights: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    let ends = weights.f_cumsum(0, Kind::Double)?;
    let at = rng.random::<f64>() * f64::try_from(ends.f_get(-1)?)?;
    let last = weights.size().first().map_or(0, |rows| rows - 1);
    Ok(ends.f_le(at)?.f_sum(Kind::Int64)?.f_clamp_max(last)?.f_view([1])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_grad;
    use tch::{Device, nn::VarStore};

    #[test]
    fn many_vectors_at_once_give_the_centers_of_scikit_learn() {
        let all: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let case = &all["k_means"];
        let numbers = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
        let x = Tensor::from_slice(&numbers("x")).view([-1, 4]).to_kind(Kind::Float);
        let vars = VarStore::new(Device::Cpu);
        let mut clusters = Clusters::new(&vars.root(), 3, 4).unwrap();
        no_grad(|| clusters.centers.copy_(&x.narrow(0, 0, 3)));
        let apart = no_grad(|| clusters.settle(&x, 100)).unwrap();
        assert!((apart - case["inertia"].as_f64().unwrap()).abs() < 1e-5, "{apart}");
        let centers = Tensor::from_slice(&numbers("centers")).view([3, 4]).to_kind(Kind::Float);
        assert!(clusters.centers.allclose(&centers, 0., 1e-6, false), "{:?}", clusters.centers);
        let own: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
        assert_eq!(Vec::<i64>::try_from(clusters.nearest(&x).unwrap()).unwrap(), own);
    }

    #[test]
    fn many_vectors_at_once_are_clustered_the_same_by_the_same_draws() {
        let corner = Tensor::arange(400, (Kind::Int64, Device::Cpu)).remainder(4);
        let centers = Tensor::stack(&[corner.remainder(2), corner.divide_scalar_mode(2, "floor")], 1) * 10;
        let noise = Tensor::arange(800, (Kind::Float, Device::Cpu)).square().sin().view([400, 2]);
        let x = centers.to_kind(Kind::Float) + noise;
        let of = |seed| {
            let vars = VarStore::new(Device::Cpu);
            let mut clusters = Clusters::new(&vars.root(), 4, 2).unwrap();
            let apart = clusters.refit(&x, 50, &mut crate::rng(seed, &[])).unwrap();
            (apart, Vec::<i64>::try_from(clusters.nearest(&x).unwrap()).unwrap())
        };
        let found: Vec<_> = (0..5).map(of).collect();
        let best = found.iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let first = &best.1[..4];
        assert!(best.1.chunks(4).all(|corners| corners == first), "each corner is one cluster");
        assert_eq!(first.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert!(of(0) == found[0] && found.iter().any(|other| other.1 != found[0].1));
    }

    #[test]
    fn a_row_is_drawn_in_proportion_to_its_weight() {
        let weights = Tensor::from_slice(&[1f32, 0., 3.]);
        let mut rng = crate::rng(0, &[]);
        let mut counts = [0; 3];
        for _ in 0..400 {
            counts[drawn(&weights, &mut rng).unwrap().int64_value(&[0]) as usize] += 1;
        }
        assert!(counts[1] == 0 && (70..130).contains(&counts[0]), "{counts:?}");
    }
}
