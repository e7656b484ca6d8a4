//! Barlow Twins: the cross-correlation matrix of two views' features is drawn to the identity.
//!
//! The gradient is written down, as in `nt_xent`. Where the batch is smaller than the dimension, as with the paper's
//! 8192, the squares of the matrix are taken from the two `[B, B]` matrices of products between examples, which have
//! the same sum; the `[D, D]` matrix is then never made.
//!
//! Source: Zbontar et al., 2021: <https://arxiv.org/abs/2103.03230>.
use super::{check_weight, product, two_views, with_gradients};
use crate::tensor::at_least_float;
use crate::{Result, dims2, no_grad};
use tch::Tensor;

/// The loss of Barlow Twins and what it consists of.
#[derive(Debug)]
pub struct BarlowTwinsTerms {
    /// `invariance + lambda * redundancy`, once differentiable.
    pub total: Tensor,
    /// The sum over dimensions of `(1 - c_ii)^2`, without a gradient.
    pub invariance: Tensor,
    /// The sum over pairs of different dimensions of `c_ij^2`, without a gradient.
    pub redundancy: Tensor,
}

/// [`barlow_twins_terms`], of which the total alone is kept.
///
/// # Shapes
/// `a`, `b`: `[B, D]`; returns a scalar, at least float32, once differentiable.
///
/// # Errors
/// As [`barlow_twins_terms`].
///
/// # Source
/// As [`barlow_twins_terms`].
pub fn barlow_twins(a: &Tensor, b: &Tensor, lambda: f64) -> Result<Tensor> {
    Ok(barlow_twins_terms(a, b, lambda)?.total)
}

/// How far the correlations `c_ij` over the batch, between dimension `i` of one view and `j` of the other, are from
/// the identity. Each view is normalized over the batch, by its biased variance and 1e-5.
///
/// # Shapes
/// `a`, `b`: `[B, D]` with B above 1; the terms are scalars, at least float32.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape or have a single row, `Error::Config` when `lambda` is
/// negative.
///
/// # Source
/// Zbontar et al., 2021, equations 1 and 2: <https://arxiv.org/abs/2103.03230>, with the normalization of the official
/// code (`facebookresearch/barlowtwins`), a batch norm without scale and shift; equals lightly's `BarlowTwinsLoss` and,
/// at a scale of 1, solo-learn's `barlow_loss_func`.
pub fn barlow_twins_terms(a: &Tensor, b: &Tensor, lambda: f64) -> Result<BarlowTwinsTerms> {
    two_views(a, b, 2)?;
    check_weight("lambda", lambda)?;
    let (a, b) = (standardize(a)?, standardize(b)?);
    let (terms, gradients) = no_grad(|| correlate(&a.f_detach()?, &b.f_detach()?, lambda))?;
    let of = [&a, &b].into_iter().zip(&gradients).filter(|(x, _)| x.requires_grad());
    let total = with_gradients(&terms.total, &of.collect::<Vec<_>>())?;
    Ok(BarlowTwinsTerms { total, ..terms })
}

fn standardize(x: &Tensor) -> Result<Tensor> {
    let (x, none) = (at_least_float(x)?, None::<&Tensor>);
    Ok(x.f_batch_norm(none, none, none, none, true, 0., 1e-5, true)?)
}

/// The terms over normalized columns and the gradient of the total with respect to each view.
fn correlate(a: &Tensor, b: &Tensor, lambda: f64) -> Result<(BarlowTwinsTerms, [Tensor; 2])> {
    let (n, d) = dims2(a, "first view", "[B, D]")?;
    let (kind, mean) = (a.kind(), 1. / n as f64);
    // B times each correlation, squared and summed, and half its gradients.
    let (squares, mut to_a, mut to_b) = if n < d {
        let (of_a, of_b) = (product(a, &a.f_tr()?)?, product(b, &b.f_tr()?)?); // [B, B].
        (of_a.f_mul(&of_b)?.f_sum(kind)?, product(&of_b, a)?, product(&of_a, b)?)
    } else {
        let c = product(&a.f_tr()?, b)?; // [D, D].
        (c.f_square()?.f_sum(kind)?, product(b, &c.f_tr()?)?, product(a, &c)?)
    };
    let diagonal = a.f_mul(b)?.f_sum_dim_intlist([0i64].as_slice(), false, kind)?.f_mul_scalar(mean)?;
    let invariance = diagonal.f_sub_scalar(1.)?.f_square()?.f_sum(kind)?;
    let redundancy = squares.f_mul_scalar(mean * mean)?.f_sub(&diagonal.f_square()?.f_sum(kind)?)?;
    let total = invariance.f_add(&redundancy.f_mul_scalar(lambda)?)?;

    // The diagonal gives `2 (c_ii - 1)`, and back what the squares took it for.
    let on_diagonal = diagonal.f_mul_scalar(1. - lambda)?.f_sub_scalar(1.)?.f_mul_scalar(2. * mean)?;
    for (gradient, other) in [(&mut to_a, b), (&mut to_b, a)] {
        let _ = gradient.f_mul_scalar_(2. * lambda * mean * mean)?.f_addcmul_(other, &on_diagonal)?;
    }
    Ok((BarlowTwinsTerms { total, invariance, redundancy }, [to_a, to_b]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use tch::{Device, Kind};

    /// The loss by its definition, recorded by autograd.
    fn slow(a: &Tensor, b: &Tensor, lambda: f64) -> Tensor {
        let standard = |x: &Tensor| {
            let centered = x - x.mean_dim([0i64].as_slice(), true, Kind::Double);
            let variance = centered.square().mean_dim([0i64].as_slice(), true, Kind::Double);
            centered / (variance + 1e-5).sqrt()
        };
        let c = standard(a).tr().matmul(&standard(b)) / a.size()[0] as f64;
        let one = Tensor::eye(c.size()[0], (Kind::Double, Device::Cpu));
        let weight: Tensor = &one * (1. - lambda) + lambda;
        ((c - one).square() * weight).sum(Kind::Double)
    }

    #[test]
    fn it_equals_its_definition_with_fewer_and_with_more_rows_than_dimensions() {
        for size in [[4, 9], [9, 4], [6, 6], [5, 1]] {
            let (a, b) = (view(size, 0.), view(size, 1.));
            for lambda in [0., 0.0051, 0.7] {
                assert_same(
                    learn(|x, y| barlow_twins(x, y, lambda).unwrap(), &a, &b),
                    learn(|x, y| slow(x, y, lambda), &a, &b),
                );
            }
        }
    }

    #[test]
    fn the_total_is_made_of_the_terms() {
        let (a, b) = (view([5, 7], 0.), view([5, 7], 1.));
        let terms = barlow_twins_terms(&a, &b, 0.3).unwrap();
        let sum = value(&terms.invariance) + 0.3 * value(&terms.redundancy);
        assert!((value(&terms.total) - sum).abs() < 1e-12);
        assert!((value(&terms.invariance) - value(&slow(&a, &b, 0.))).abs() < 1e-12);
    }

    #[test]
    fn equal_views_of_uncorrelated_dimensions_have_no_loss() {
        let x = Tensor::from_slice(&[1f64, 1., 1., -1., -1., 1., -1., -1.]).view([4, 2]);
        let terms = barlow_twins_terms(&(&x * 7. + 3.), &x, 1.).unwrap();
        assert!(value(&terms.total) < 1e-9 && value(&terms.redundancy).abs() < 1e-9);
    }

    #[test]
    fn a_view_without_a_gradient_is_a_constant() {
        let (a, b) = (view([4, 6], 0.), view([4, 6], 1.));
        let (_, expected, _) = learn(|x, y| barlow_twins(x, y, 0.1).unwrap(), &a, &b);
        let (_, alone, _) =
            learn(|x, y| barlow_twins(x, &b, 0.1).unwrap() + y.sum(Kind::Double) * 0., &a, &b);
        assert!(alone.allclose(&expected, 0., 1e-12, false));
    }

    #[test]
    fn mixed_precision_around_the_loss_does_not_touch_its_products() {
        for size in [[6, 8], [8, 6]] {
            let (a, b) = (view(size, 0.).to_kind(Kind::Float), view(size, 1.).to_kind(Kind::Float));
            let run = || learn(|x, y| barlow_twins(x, y, 0.1).unwrap(), &a, &b);
            let plain = run();
            let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            let mixed = run();
            assert_eq!(plain.0, mixed.0);
            assert!(plain.1.equal(&mixed.1) && plain.2.equal(&mixed.2));
        }
    }

    #[test]
    fn reduced_precision_is_accumulated_in_float32() {
        let x = view([6, 8], 0.).to_kind(Kind::BFloat16);
        assert_eq!(barlow_twins(&x, &x, 0.1).unwrap().kind(), Kind::Float);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: Result<Tensor>| x.unwrap_err().to_string();
        let (a, b) = (view([3, 4], 0.), view([3, 5], 1.));
        assert!(message(barlow_twins(&a, &b, 0.1)).starts_with("second view: expected [B, D] = [3, 4]"));
        assert_eq!(message(barlow_twins(&a, &a, -1.)), "lambda: expected a number of at least 0, got -1");
        let one = a.narrow(0, 0, 1);
        assert_eq!(
            message(barlow_twins(&one, &one, 0.1)),
            "first view: expected [B, D] with B at least 2 and D at least 1, got [1, 4]"
        );
    }
}
