//! K-means whose centers are a part of the run: on a stream of batches, or from many vectors of unit length at once.
//!
//! On a stream each center is the mean of all vectors that have been nearest to it; of vectors at once, it is their mean,
//! scaled to unit length where a method asks for that.
//!
//! Source: Sculley, 2010 (mini-batch k-means): <https://doi.org/10.1145/1772690.1772862>; the start is k-means++ on the
//! first batch: Arthur & Vassilvitskii, 2007: <https://dl.acm.org/doi/10.5555/1283383.1283494>. Of unit length: Dhillon &
//! Modha, 2001 (spherical k-means): <https://doi.org/10.1023/A:1007612920971>, with the start and the treatment of empty
//! clusters of the SwAV repository (`facebookresearch/swav`, `main_deepclusterv2.py`).
mod lloyd;

use crate::nn::l2_normalize;
use crate::{Error, Precision, Result, dims2, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Distances that are held at once.
const BLOCK: i64 = 1 << 24;

/// Centers, and how many vectors each is the mean of; both are saved with a run and have no gradients.
#[derive(Debug)]
pub struct Clusters {
    centers: Tensor,
    counts: Tensor,
}

impl Clusters {
    /// Makes the buffers `centers` and `counts` under `p` for so many clusters of vectors of width `dim`; all zero before
    /// the first batch.
    ///
    /// # Errors
    /// When libtorch refuses them.
    pub fn new(p: &Path, clusters: i64, dim: i64) -> Result<Self> {
        let centers = p.f_zeros_no_train("centers", &[clusters, dim])?;
        Ok(Clusters { centers, counts: p.f_zeros_no_train("counts", &[clusters])? })
    }

    /// How many there are.
    pub fn number(&self) -> i64 {
        self.counts.size().first().copied().unwrap_or(0)
    }

    /// The centers.
    ///
    /// # Shapes
    /// Returns `[K, D]`.
    pub fn centers(&self) -> &Tensor {
        &self.centers
    }

    /// How many clusters are in use: the exponential of the entropy of their counts, which is their number when all have
    /// as much, and 1 when one has all.
    ///
    /// # Shapes
    /// Returns a scalar.
    ///
    /// # Errors
    /// When libtorch refuses it.
    pub fn perplexity(&self) -> Result<Tensor> {
        let parts = self.counts.f_div(&self.counts.f_sum(Kind::Float)?.f_clamp_min(1.)?)?;
        Ok(parts.f_special_entr()?.f_sum(Kind::Float)?.f_exp()?)
    }

    /// The nearest center of each vector.
    ///
    /// # Shapes
    /// `x`: `[M, D]`; returns Int64 `[M]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no matrix.
    pub fn nearest(&self, x: &Tensor) -> Result<Tensor> {
        dims2(x, "vectors", "[M, D]")?;
        no_grad(|| {
            Precision::Fp32.scope(x.device(), || {
                // The square of the vector itself is the same for all centers.
                let squares =
                    self.centers.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
                let found = self.blocks(&x.f_to_kind(Kind::Float)?)?.into_iter().map(|x| -> Result<Tensor> {
                    let products = x.f_matmul(&self.centers.f_tr()?)?;
                    Ok(squares.f_sub(&products.f_mul_scalar(2.)?)?.f_argmin(1, false)?)
                });
                Ok(Tensor::f_cat(&found.collect::<Result<Vec<_>>>()?, 0)?)
            })
        })
    }

    /// Rows in runs whose distances to all centers fit [`BLOCK`].
    fn blocks(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        Ok(x.f_split((BLOCK / self.number().max(1)).max(1), 0)?)
    }

    /// The sum of the vectors nearest to each center, `[K, D]`, and how many they are, `[K]`.
    fn tally(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let all = Tensor::f_arange(self.number(), (Kind::Int64, x.device()))?;
        let (mut sums, mut counts) = (self.centers.f_zeros_like()?, self.counts.f_zeros_like()?);
        for x in self.blocks(x)? {
            let mine = self.nearest(&x)?.f_unsqueeze(1)?.f_eq_tensor(&all)?.f_to_kind(Kind::Float)?; // [M, K].
            let _ = sums.f_add_(&mine.f_tr()?.f_matmul(&x)?)?;
            let _ = counts.f_add_(&mine.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?)?;
        }
        Ok((sums, counts))
    }

    /// Moves the centers towards a batch; the first batch also starts them, by draws from libtorch's generator.
    ///
    /// # Shapes
    /// `x`: `[M, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no matrix.
    pub fn fit(&mut self, x: &Tensor) -> Result<()> {
        dims2(x, "vectors", "[M, D]")?;
        let _guard = tch::no_grad_guard();
        let x = x.f_to_kind(Kind::Float)?;
        Precision::Fp32.scope(x.device(), || {
            if f64::try_from(self.counts.f_sum(Kind::Float)?)? == 0. {
                self.start(&x, &mut |weights| Ok(weights.f_multinomial(1, true)?))?;
            }
            let (sums, new) = self.tally(&x)?;
            let _ = self.counts.f_add_(&new)?;
            let pull = sums.f_sub(&self.centers.f_mul(&new.f_unsqueeze(1)?)?)?;
            let _ = self.centers.f_add_(&pull.f_div(&self.counts.f_clamp_min(1.)?.f_unsqueeze(1)?)?)?;
            Ok(())
        })
    }

    /// Finds the centers anew among vectors of unit length, which makes theirs unit too: some of the vectors, drawn from
    /// libtorch's generator, then in each round the direction of the mean of those nearest. A cluster that gets none
    /// keeps its center. Counts are those of the last round.
    ///
    /// # Shapes
    /// `x`: `[M, D]`, with M above 0; where it is less than the number of clusters, some of them stay empty.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no matrix or has no row.
    pub fn refit_unit(&mut self, x: &Tensor, rounds: u32) -> Result<()> {
        let rows = some_rows(x)?;
        let _guard = tch::no_grad_guard();
        let x = x.f_to_kind(Kind::Float)?;
        Precision::Fp32.scope(x.device(), || {
            let places = Tensor::f_arange(self.number(), (Kind::Int64, x.device()))?.f_remainder(rows)?;
            let drawn = Tensor::f_randperm(rows, (Kind::Int64, x.device()))?.f_index_select(0, &places)?;
            self.centers.f_copy_(&x.f_index_select(0, &drawn)?)?;
            for _ in 0..rounds {
                let (sums, counts) = self.tally(&x)?;
                let full = counts.f_gt(0.)?.f_unsqueeze(1)?;
                let centers = l2_normalize(&sums.f_where_self(&full, &self.centers)?)?;
                self.centers.f_copy_(&centers)?;
                self.counts.f_copy_(&counts)?;
            }
            Ok(())
        })
    }

    /// Chooses centers among vectors, each by the square of its distance to those before; `pick` draws a row in
    /// proportion to weights above 0.
    fn start(&mut self, x: &Tensor, pick: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<()> {
        let squares = x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
        // By a product, which reads the vectors once for each center and writes none.
        let far = |center: &Tensor| -> Result<Tensor> {
            let products = x.f_matmul(&center.f_tr()?)?.f_squeeze_dim(1)?;
            let own = center.f_square()?.f_sum(Kind::Float)?;
            Ok(squares.f_sub(&products.f_mul_scalar(2.)?)?.f_add(&own)?.f_clamp_min(0.)?)
        };
        let mut weights = x.f_select(1, 0)?.f_ones_like()?;
        for n in 0..self.number() {
            // Where all vectors are centers already, any may be chosen again.
            let chosen = pick(&weights.f_clamp_min(1e-20)?)?;
            let center = x.f_index_select(0, &chosen)?;
            self.centers.f_narrow(0, n, 1)?.f_copy_(&center)?;
            let distances = far(&center)?;
            weights = if n == 0 { distances } else { weights.f_minimum(&distances)? };
        }
        Ok(())
    }
}

/// How many rows a matrix of one row or more has.
fn some_rows(x: &Tensor) -> Result<i64> {
    let (rows, _) = dims2(x, "vectors", "[M, D]")?;
    if rows == 0 {
        let expected = "[M, D] with M above 0".to_string();
        return Err(Error::Shape { what: "vectors".into(), expected, got: x.size() });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Points around four corners of a square.
    fn corners(seed: u64) -> (Tensor, Tensor) {
        crate::trainer::seed_torch(seed, 0);
        let labels = Tensor::randint(4, [400], (Kind::Int64, Device::Cpu));
        let (x, y) = (labels.remainder(2), labels.divide_scalar_mode(2, "floor"));
        let centers = Tensor::stack(&[x, y], 1).to_kind(Kind::Float) * 10.;
        (centers + Tensor::randn([400, 2], CPU), labels)
    }

    fn build() -> (VarStore, Clusters) {
        let vars = VarStore::new(Device::Cpu);
        let clusters = Clusters::new(&vars.root(), 4, 2).unwrap();
        (vars, clusters)
    }

    #[test]
    fn clusters_are_found_and_are_means_of_what_was_nearest() {
        let (_vars, mut clusters) = build();
        for seed in 0..5 {
            clusters.fit(&corners(seed).0).unwrap();
        }
        let (x, labels) = corners(9);
        let found = clusters.nearest(&x).unwrap();
        for corner in 0..4 {
            let own = found.masked_select(&labels.eq(corner));
            let first = own.int64_value(&[0]);
            assert!(own.eq(first).all().int64_value(&[]) == 1, "corner {corner} is one cluster");
            let center = Tensor::from_slice(&[(corner % 2 * 10) as f32, (corner / 2 * 10) as f32]);
            assert!((clusters.centers.get(first) - center).abs().max().double_value(&[]) < 0.3);
        }
        assert_eq!(clusters.counts.sum(Kind::Double).double_value(&[]), 2_000.);
    }

    #[test]
    fn two_batches_give_the_running_means() {
        let (_vars, mut clusters) = build();
        let points = Tensor::from_slice(&[0f32, 0., 10., 0., 0., 10., 10., 10.]).view([4, 2]);
        clusters.fit(&points).unwrap();
        let around = Tensor::from_slice(&[1f32, 1., 2., 0.]).view([2, 2]);
        clusters.fit(&around).unwrap();
        let near = clusters.nearest(&points).unwrap().int64_value(&[0]);
        assert!(clusters.centers.get(near).allclose(
            &Tensor::from_slice(&[1f32, 1. / 3.]),
            1e-6,
            1e-6,
            false
        ));
        assert_eq!(clusters.counts.get(near).double_value(&[]), 3.);
    }

    #[test]
    fn fewer_vectors_than_clusters_are_no_error() {
        let (_vars, mut clusters) = build();
        clusters.fit(&Tensor::ones([2, 2], CPU)).unwrap();
        assert!(clusters.centers.isfinite().all().int64_value(&[]) == 1);
        assert!(clusters.fit(&Tensor::ones([2], CPU)).is_err());
    }

    /// Unit vectors around four directions, forty each, and which one each is around.
    fn directions() -> (Tensor, Tensor) {
        crate::trainer::seed_torch(3, 0);
        let around = Tensor::arange(160, (Kind::Int64, Device::Cpu)).remainder(4);
        let angles = (around.to_kind(Kind::Float) + Tensor::randn([160], CPU) * 0.05) * 1.5;
        (Tensor::stack(&[angles.cos(), angles.sin()], 1), around)
    }

    #[test]
    fn centers_of_unit_vectors_are_the_directions_of_their_means() {
        let ((_vars, mut clusters), (x, around)) = (build(), directions());
        // A start with two centers around one direction can stay at a worse solution, so several are tried.
        let found = (0..20).any(|seed| {
            crate::trainer::seed_torch(seed, 0);
            clusters.refit_unit(&x, 10).unwrap();
            let own = clusters.nearest(&x).unwrap();
            (0..4).all(|n| {
                let of = own.masked_select(&around.eq(n));
                let sum = x.index_select(0, &around.eq(n).nonzero().view([-1])).sum_dim_intlist(
                    [0i64].as_slice(),
                    false,
                    Kind::Float,
                );
                let center = clusters.centers.get(of.int64_value(&[0]));
                of.eq(of.int64_value(&[0])).all().int64_value(&[]) == 1
                    && center.allclose(&(&sum / sum.norm()), 1e-5, 1e-5, false)
            })
        });
        assert!(found);
        assert_eq!(clusters.counts.sum(Kind::Double).double_value(&[]), 160.);
        let even = clusters.perplexity().unwrap().double_value(&[]);
        assert!((even - 4.).abs() < 1e-5, "{even}");
    }

    #[test]
    fn of_fewer_vectors_than_clusters_each_has_one_and_the_rest_stay_empty() {
        let (_vars, mut clusters) = build();
        let x = Tensor::eye(2, CPU);
        clusters.refit_unit(&x, 3).unwrap();
        let own = Vec::<i64>::try_from(clusters.nearest(&x).unwrap()).unwrap();
        assert_ne!(own[0], own[1]);
        assert!(
            clusters.centers.get(own[0]).equal(&x.get(0)) && clusters.centers.get(own[1]).equal(&x.get(1))
        );
        assert_eq!(clusters.perplexity().unwrap().double_value(&[]), 2.);
        let lengths = clusters.centers.norm_scalaropt_dim(2, [1i64], false);
        assert!(lengths.equal(&lengths.ones_like()), "an empty cluster keeps its center");
        let message = clusters.refit_unit(&x.narrow(0, 0, 0), 3).unwrap_err().to_string();
        assert_eq!(message, "vectors: expected [M, D] with M above 0, got [0, 2]");
    }

    #[test]
    fn runs_of_rows_do_not_change_what_is_nearest() {
        let vars = VarStore::new(Device::Cpu);
        let clusters = Clusters::new(&vars.root(), BLOCK / 3, 1).unwrap();
        let x = Tensor::arange(8, CPU).view([8, 1]);
        assert_eq!(clusters.blocks(&x).unwrap().iter().map(|x| x.size()[0]).collect::<Vec<_>>(), [3, 3, 2]);
        let few = Clusters::new(&(vars.root() / "few"), 2, 1).unwrap();
        let _ = no_grad(|| few.centers.get(1).fill_(3.));
        let own = Vec::<i64>::try_from(few.nearest(&x).unwrap()).unwrap();
        assert_eq!(own, [0, 0, 1, 1, 1, 1, 1, 1]);
    }
}
