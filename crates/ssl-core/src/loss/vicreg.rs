//! VICReg: views agree, every dimension keeps its spread over the batch, and dimensions do not vary together.
//!
//! The gradient is written down, as in `nt_xent`. Where the batch is smaller than the dimension, as with the paper's
//! 8192, the squares of a covariance matrix are taken from the `[B, B]` matrix of products between examples, which has
//! the same sum; the `[D, D]` matrix is then never made.
//!
//! Source: Bardes, Ponce, LeCun, 2022: <https://arxiv.org/abs/2105.04906>.
use super::{check_weight, product, two_views, with_gradients};
use crate::tensor::at_least_float;
use crate::{Result, dims2, no_grad};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// By what the terms of VICReg are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VicRegWeights {
    /// Of the distance between the views.
    pub invariance: f64,
    /// Of the deviations that are missing to 1.
    pub variance: f64,
    /// Of the covariances between dimensions.
    pub covariance: f64,
}

impl Default for VicRegWeights {
    fn default() -> Self {
        VicRegWeights { invariance: 25., variance: 25., covariance: 1. }
    }
}

impl VicRegWeights {
    /// Checks every weight.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first that is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        check_weight("invariance", self.invariance)?;
        check_weight("variance", self.variance)?;
        check_weight("covariance", self.covariance)
    }
}

/// The loss of VICReg and what it consists of.
#[derive(Debug)]
pub struct VicRegTerms {
    /// The weighted sum of the three terms, once differentiable.
    pub total: Tensor,
    /// The mean squared difference between the views, without a gradient.
    pub invariance: Tensor,
    /// By how much the standard deviation is below 1, the mean over dimensions and views, without a gradient.
    pub variance: Tensor,
    /// The squared covariances between different dimensions, over D, the sum of both views, without a gradient.
    pub covariance: Tensor,
}

/// Variance, invariance and covariance of two views. Variances are unbiased, with 1e-4 under the root.
///
/// The variance term is the mean of the two views', as in the official code and lightly; the paper's equation 6 and
/// solo-learn take their sum, which is the same as twice its weight.
///
/// # Shapes
/// `a`, `b`: `[B, D]` with B above 1; the terms are scalars, at least float32.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape or have a single row, `Error::Config` when a weight is
/// negative.
///
/// # Source
/// Bardes, Ponce, LeCun, 2022, equations 1 to 6: <https://arxiv.org/abs/2105.04906>; equals the official code
/// (`facebookresearch/vicreg`) and lightly's `VICRegLoss`.
pub fn vicreg(a: &Tensor, b: &Tensor, weights: VicRegWeights) -> Result<VicRegTerms> {
    two_views(a, b, 2)?;
    weights.validate()?;
    let (a, b) = (at_least_float(a)?, at_least_float(b)?);
    let (terms, gradients) = no_grad(|| -> Result<_> {
        let kind = a.kind();
        let (of_a, of_b) = (spread(&a.f_detach()?, weights)?, spread(&b.f_detach()?, weights)?);
        let gap = a.f_sub(&b)?;
        let invariance = gap.f_square()?.f_mean(kind)?;
        let variance = of_a.variance.f_add(&of_b.variance)?.f_mul_scalar(0.5)?;
        let covariance = of_a.covariance.f_add(&of_b.covariance)?;
        let total = invariance
            .f_mul_scalar(weights.invariance)?
            .f_add(&variance.f_mul_scalar(weights.variance)?)?
            .f_add(&covariance.f_mul_scalar(weights.covariance)?)?;
        let gap = gap.f_mul_scalar(2. * weights.invariance / gap.numel() as f64)?;
        let gradients = [of_a.gradient.f_add(&gap)?, of_b.gradient.f_sub(&gap)?];
        Ok((VicRegTerms { total, invariance, variance, covariance }, gradients))
    })?;
    let of = [&a, &b].into_iter().zip(&gradients).filter(|(x, _)| x.requires_grad());
    let total = with_gradients(&terms.total, &of.collect::<Vec<_>>())?;
    Ok(VicRegTerms { total, ..terms })
}

/// What one view adds to the last two terms.
struct Spread {
    variance: Tensor,
    covariance: Tensor,
    gradient: Tensor,
}

fn spread(x: &Tensor, weights: VicRegWeights) -> Result<Spread> {
    let (n, d) = dims2(x, "view", "[B, D]")?;
    let (kind, rows, columns) = (x.kind(), (n - 1) as f64, d as f64);
    let x = x.f_sub(&x.f_mean_dim([0i64].as_slice(), true, kind)?)?;
    let variances = x.f_square()?.f_sum_dim_intlist([0i64].as_slice(), false, kind)?.f_div_scalar(rows)?; // [D].
    let deviations = variances.f_add_scalar(1e-4)?.f_sqrt()?;
    let missing = deviations.f_neg()?.f_add_scalar(1.)?.f_relu()?;
    // B - 1 times each covariance, squared and summed, and a quarter of its gradient.
    let (squares, to_x) = if n < d {
        let products = product(&x, &x.f_tr()?)?; // [B, B].
        (products.f_square()?.f_sum(kind)?, product(&products, &x)?)
    } else {
        let products = product(&x.f_tr()?, &x)?; // [D, D].
        (products.f_square()?.f_sum(kind)?, product(&x, &products)?)
    };
    let on_diagonal = variances.f_square()?.f_sum(kind)?;
    let covariance = squares.f_div_scalar(rows * rows)?.f_sub(&on_diagonal)?.f_div_scalar(columns)?;

    // All of these gradients have a mean of zero over the batch, so that centering leaves them as they are.
    let hinge =
        missing.f_sign()?.f_div(&deviations)?.f_mul_scalar(-0.5 * weights.variance / (columns * rows))?;
    let diagonal = variances.f_mul_scalar(4. * weights.covariance / (columns * rows))?;
    let mut gradient = to_x.f_mul_scalar(4. * weights.covariance / (columns * rows * rows))?;
    let _ = gradient.f_addcmul_(&x, &hinge.f_sub(&diagonal)?)?;
    Ok(Spread { variance: missing.f_mean(kind)?, covariance, gradient })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use tch::{Device, Kind};

    /// The terms by their definition, recorded by autograd.
    fn slow(a: &Tensor, b: &Tensor) -> [Tensor; 3] {
        let d = a.size()[1];
        let one = Tensor::eye(d, (Kind::Double, Device::Cpu));
        let missing = |x: &Tensor| (-(x.var_dim([0i64].as_slice(), true, false) + 1e-4).sqrt() + 1.).relu();
        let covariances = |x: &Tensor| {
            let x = x - x.mean_dim([0i64].as_slice(), true, Kind::Double);
            let c = x.tr().matmul(&x) / (x.size()[0] - 1) as f64;
            (&c - &c * &one).square().sum(Kind::Double) / d as f64
        };
        [
            (a - b).square().mean(Kind::Double),
            (missing(a) + missing(b)).mean(Kind::Double) / 2.,
            covariances(a) + covariances(b),
        ]
    }

    /// Deviations on both sides of 1.
    fn wide(size: [i64; 2], seed: f64) -> Tensor {
        view(size, seed) * (Tensor::arange(size[1], (Kind::Double, Device::Cpu)) * 0.5 + 0.3)
    }

    #[test]
    fn it_equals_its_definition_with_fewer_and_with_more_rows_than_dimensions() {
        for size in [[4, 9], [9, 4], [6, 6], [5, 1]] {
            let (a, b) = (wide(size, 0.), wide(size, 1.));
            let terms = vicreg(&a, &b, VicRegWeights::default()).unwrap();
            let pairs = [&terms.invariance, &terms.variance, &terms.covariance].into_iter().zip(slow(&a, &b));
            assert!(pairs.into_iter().all(|(got, expected)| (value(got) - value(&expected)).abs() < 1e-12));
            for [invariance, variance, covariance] in
                [[25., 25., 1.], [1., 0., 0.], [0., 1., 0.], [0., 0., 1.]]
            {
                let weights = VicRegWeights { invariance, variance, covariance };
                let summed = |x: &Tensor, y: &Tensor| {
                    let [i, v, c] = slow(x, y);
                    i * invariance + v * variance + c * covariance
                };
                assert_same(
                    learn(|x, y| vicreg(x, y, weights).unwrap().total, &a, &b),
                    learn(summed, &a, &b),
                );
            }
        }
    }

    #[test]
    fn a_collapse_costs_the_whole_variance_term_and_its_gradient_is_finite() {
        let x = Tensor::full([6, 4], 2., (Kind::Float, Device::Cpu));
        let (loss, to_a, _) = learn(|x, y| vicreg(x, y, VicRegWeights::default()).unwrap().total, &x, &x);
        // What is left of a deviation of zero is the root of 1e-4.
        assert!((loss - 25. * 0.99).abs() < 1e-5, "{loss}");
        assert_eq!(value(&to_a.abs().max()), 0.);
    }

    #[test]
    fn equal_views_of_spread_and_uncorrelated_dimensions_have_no_loss() {
        let x = Tensor::from_slice(&[1f64, 1., 1., -1., -1., 1., -1., -1.]).view([4, 2]);
        assert!(value(&vicreg(&x, &x, VicRegWeights::default()).unwrap().total).abs() < 1e-12);
    }

    #[test]
    fn mixed_precision_around_the_loss_does_not_touch_its_products() {
        for size in [[6, 8], [8, 6]] {
            let (a, b) = (wide(size, 0.).to_kind(Kind::Float), wide(size, 1.).to_kind(Kind::Float));
            let run = || learn(|x, y| vicreg(x, y, VicRegWeights::default()).unwrap().total, &a, &b);
            let plain = run();
            let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            let mixed = run();
            assert_eq!(plain.0, mixed.0);
            assert!(plain.1.equal(&mixed.1) && plain.2.equal(&mixed.2));
        }
    }

    #[test]
    fn reduced_precision_is_accumulated_in_float32() {
        let x = wide([6, 8], 0.).to_kind(Kind::BFloat16);
        assert_eq!(vicreg(&x, &x, VicRegWeights::default()).unwrap().total.kind(), Kind::Float);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |a: &Tensor, b: &Tensor, weights| vicreg(a, b, weights).unwrap_err().to_string();
        let (a, b, weights) = (view([3, 4], 0.), view([3, 5], 1.), VicRegWeights::default());
        assert!(message(&a, &b, weights).starts_with("second view: expected [B, D] = [3, 4]"));
        let negative = VicRegWeights { covariance: -1., ..weights };
        assert_eq!(message(&a, &a, negative), "covariance: expected a number of at least 0, got -1");
        let one = a.narrow(0, 0, 1);
        assert!(message(&one, &one, weights).contains("B at least 2"));
    }
}
