//! TiCo: two views agree, and embeddings are short along the directions in which those of many batches are long.
//!
//! The gradient with respect to the unit embeddings is written down, as in `nt_xent`.
//!
//! Source: Zhu et al., 2022: <https://arxiv.org/abs/2206.10698>.
use super::{check_weight, product, two_views, with_gradients};
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use tch::Tensor;

/// The loss of TiCo, what it consists of, and what the next one starts from.
#[derive(Debug)]
pub struct TiCoTerms {
    /// `invariance + contrast`, once differentiable.
    pub total: Tensor,
    /// One less the mean cosine between the views, without a gradient.
    pub invariance: Tensor,
    /// `rho` times the mean of `z C z` over the first view, without a gradient.
    pub contrast: Tensor,
    /// The covariance `C` that was used, `[D, D]`.
    pub covariance: Tensor,
}

/// How far two views are apart, and how long the first is along the directions that are in use. These are told by
/// `C = beta * covariance + (1 - beta) * z' z / B`, which is a constant: the covariance, not centered, that earlier
/// batches left, zero before the first, moved towards this one's.
///
/// # Shapes
/// `a`, `b`: `[B, D]`, unit length not required; `covariance`: `[D, D]`, symmetric; the terms are scalars, at least
/// float32.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape or the covariance does not fit, `Error::Config` when `beta`
/// is not from 0 to 1 or `rho` is negative.
///
/// # Source
/// Zhu et al., 2022: <https://arxiv.org/abs/2206.10698>; equals lightly's `TiCoLoss`.
pub fn tico(a: &Tensor, b: &Tensor, covariance: &Tensor, beta: f64, rho: f64) -> Result<TiCoTerms> {
    two_views(a, b, 1)?;
    let (rows, dim) = dims2(a, "first view", "[B, D]")?;
    if covariance.size() != [dim, dim] {
        let expected = format!("[{dim}, {dim}]");
        return Err(Error::Shape { what: "covariance".into(), expected, got: covariance.size() });
    }
    check_weight("rho", rho)?;
    if !(0. ..=1.).contains(&beta) {
        return Err(Error::config("beta", format!("expected a number from 0 to 1, got {beta}")));
    }
    let (a, b) = (l2_normalize(a)?, l2_normalize(b)?);
    let (terms, gradients) = no_grad(|| -> Result<_> {
        let (kind, mean) = (a.kind(), 1. / rows as f64);
        let own = product(&a.f_tr()?, &a)?.f_mul_scalar((1. - beta) * mean)?;
        let covariance = covariance.f_mul_scalar(beta)?.f_add(&own)?;
        let along = product(&a, &covariance)?; // [B, D].
        let cosine = a.f_mul(&b)?.f_sum(kind)?.f_mul_scalar(mean)?;
        let invariance = cosine.f_neg()?.f_add_scalar(1.)?;
        let contrast = along.f_mul(&a)?.f_sum(kind)?.f_mul_scalar(rho * mean)?;
        let total = invariance.f_add(&contrast)?;
        let to_a = along.f_mul_scalar(2. * rho * mean)?.f_sub(&b.f_mul_scalar(mean)?)?;
        let to_b = a.f_mul_scalar(-mean)?;
        Ok((TiCoTerms { total, invariance, contrast, covariance }, [to_a, to_b]))
    })?;
    let of = [&a, &b].into_iter().zip(&gradients).filter(|(x, _)| x.requires_grad());
    let total = with_gradients(&terms.total, &of.collect::<Vec<_>>())?;
    Ok(TiCoTerms { total, ..terms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use tch::{Device, Kind};

    fn covariance(dim: i64) -> Tensor {
        let x = view([9, dim], 2.);
        x.tr().matmul(&x) / 9.
    }

    /// The loss by its definition, recorded by autograd.
    fn slow(a: &Tensor, b: &Tensor, covariance: &Tensor, beta: f64, rho: f64) -> Tensor {
        let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2, [1i64], true);
        let (a, b, n) = (unit(a), unit(b), a.size()[0] as f64);
        let c = (covariance * beta + a.tr().matmul(&a) * (1. - beta) / n).detach();
        let contrast = (a.matmul(&c) * &a).sum(Kind::Double) / n * rho;
        -(a * b).sum(Kind::Double) / n + 1. + contrast
    }

    #[test]
    fn it_equals_its_definition_in_value_and_gradient() {
        for size in [[6, 4], [3, 7], [1, 5]] {
            let (a, b, c) = (view(size, 0.), view(size, 1.), covariance(size[1]));
            for (beta, rho) in [(0.9, 8.), (0., 1.), (1., 0.)] {
                assert_same(
                    learn(|x, y| tico(x, y, &c, beta, rho).unwrap().total, &a, &b),
                    learn(|x, y| slow(x, y, &c, beta, rho), &a, &b),
                );
            }
        }
    }

    #[test]
    fn the_terms_add_up_and_the_covariance_forgets_at_the_rate_of_beta() {
        let (a, b, c) = (view([6, 4], 0.), view([6, 4], 1.), covariance(4));
        let terms = tico(&a, &b, &c, 0.75, 8.).unwrap();
        assert!((value(&terms.total) - value(&terms.invariance) - value(&terms.contrast)).abs() < 1e-12);
        let unit = l2_normalize(&a).unwrap();
        let expected = c * 0.75 + unit.tr().matmul(&unit) * 0.25 / 6.;
        assert!(terms.covariance.allclose(&expected, 0., 1e-12, false));
    }

    #[test]
    fn equal_views_at_one_point_cost_the_whole_contrast() {
        let x = Tensor::ones([4, 3], (Kind::Float, Device::Cpu));
        let zero = Tensor::zeros([3, 3], (Kind::Float, Device::Cpu));
        let terms = tico(&x, &x, &zero, 0., 8.).unwrap();
        assert!(value(&terms.invariance).abs() < 1e-6 && (value(&terms.contrast) - 8.).abs() < 1e-5);
    }

    #[test]
    fn mixed_precision_around_the_loss_does_not_touch_its_products() {
        let float = |x: Tensor| x.to_kind(Kind::Float);
        let (a, b, c) = (float(view([6, 8], 0.)), float(view([6, 8], 1.)), float(covariance(8)));
        let run = || learn(|x, y| tico(x, y, &c, 0.9, 8.).unwrap().total, &a, &b);
        let plain = run();
        let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        let mixed = run();
        assert_eq!(plain.0, mixed.0);
        assert!(plain.1.equal(&mixed.1) && plain.2.equal(&mixed.2));
        let half = tico(&a.to_kind(Kind::BFloat16), &b.to_kind(Kind::BFloat16), &c, 0.9, 8.).unwrap();
        assert_eq!(half.total.kind(), Kind::Float);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: Result<TiCoTerms>| x.unwrap_err().to_string();
        let (a, b, c) = (view([3, 4], 0.), view([3, 5], 1.), covariance(4));
        assert!(message(tico(&a, &b, &c, 0.9, 8.)).starts_with("second view: expected [B, D] = [3, 4]"));
        assert_eq!(message(tico(&a, &a, &covariance(5), 0.9, 8.)), "covariance: expected [4, 4], got [5, 5]");
        assert_eq!(message(tico(&a, &a, &c, 0.9, -1.)), "rho: expected a number of at least 0, got -1");
        assert_eq!(message(tico(&a, &a, &c, 2., 8.)), "beta: expected a number from 0 to 1, got 2");
    }
}
