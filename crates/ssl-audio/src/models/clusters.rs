//! K-means on a stream of batches: each center is the mean of all vectors that have been nearest to it.
//!
//! Source: Sculley, 2010 (mini-batch k-means): <https://doi.org/10.1145/1772690.1772862>; the start is k-means++ on the
//! first batch: Arthur & Vassilvitskii, 2007: <https://dl.acm.org/doi/10.5555/1283383.1283494>.
use ssl_core::{Precision, Result, dims2, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

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
                let products = x.f_to_kind(Kind::Float)?.f_matmul(&self.centers.f_tr()?)?;
                Ok(squares.f_sub(&products.f_mul_scalar(2.)?)?.f_argmin(1, false)?)
            })
        })
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
                self.start(&x)?;
            }
            let all = Tensor::f_arange(self.number(), (Kind::Int64, x.device()))?;
            let mine = self.nearest(&x)?.f_unsqueeze(1)?.f_eq_tensor(&all)?.f_to_kind(Kind::Float)?; // [M, K].
            let new = mine.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?;
            let _ = self.counts.f_add_(&new)?;
            let pull = mine.f_tr()?.f_matmul(&x)?.f_sub(&self.centers.f_mul(&new.f_unsqueeze(1)?)?)?;
            let _ = self.centers.f_add_(&pull.f_div(&self.counts.f_clamp_min(1.)?.f_unsqueeze(1)?)?)?;
            Ok(())
        })
    }

    /// Chooses centers among vectors, each by the square of its distance to those before.
    fn start(&mut self, x: &Tensor) -> Result<()> {
        let far = |center: &Tensor| -> Result<Tensor> {
            let squares = x.f_sub(center)?.f_square()?;
            Ok(squares.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?)
        };
        let mut weights = x.f_select(1, 0)?.f_ones_like()?;
        for n in 0..self.number() {
            // Where all vectors are centers already, any may be chosen again.
            let chosen = weights.f_clamp_min(1e-20)?.f_multinomial(1, true)?;
            let center = x.f_index_select(0, &chosen)?;
            self.centers.f_narrow(0, n, 1)?.f_copy_(&center)?;
            let distances = far(&center)?;
            weights = if n == 0 { distances } else { weights.f_minimum(&distances)? };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Points around four corners of a square.
    fn corners(seed: u64) -> (Tensor, Tensor) {
        ssl_core::trainer::seed_torch(seed, 0);
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
}
