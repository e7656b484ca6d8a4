//! Explanations by the gradient of a scalar.
use super::scalar::{Scalar, scalars, summed};
use crate::{Error, Result, check, no_grad};
use tch::{Kind, Tensor};

/// The share of each number of the input.
#[derive(Debug)]
pub struct Attributions {
    /// What each number adds to the scalar of its example, `[B, ...]` as the input.
    pub values: Tensor,
    /// The sum of the shares less what they ought to sum to, the scalar of the input less that of the baseline, `[B]`:
    /// what the number of steps leaves in error.
    pub gap: Tensor,
}

/// The gradient of each example's scalar.
///
/// # Shapes
/// `x`: `[B, ...]`; returns the same, without gradients.
///
/// # Errors
/// `Error::Shape` when `f` does not give one number for each example; when libtorch cannot differentiate it.
pub fn gradient(f: Scalar<'_>, x: &Tensor) -> Result<Tensor> {
    let x = x.f_detach()?.f_set_requires_grad(true)?;
    let sum = scalars(f, &x)?.f_sum(None::<Kind>)?;
    let found = Tensor::f_run_backward(&[&sum], &[&x], false, false)?.pop();
    found.ok_or_else(|| Error::config("gradient", "expected one, libtorch gave none"))
}

/// Integrated gradients: the way from a baseline to the input, times the mean gradient on it, by the midpoints of `steps`
/// parts of equal length.
///
/// # Shapes
/// `x`: `[B, ...]`, floats; `baseline`: a shape that spreads to it.
///
/// # Errors
/// `Error::Config` when there is no step, and as [`gradient`].
///
/// # Source
/// Sundararajan et al., 2017, section 3: <https://arxiv.org/abs/1703.01365>, who take the ends of the parts.
pub fn integrated_gradients(
    f: Scalar<'_>,
    x: &Tensor,
    baseline: &Tensor,
    steps: i64,
) -> Result<Attributions> {
    check::at_least(1, [("steps", steps)])?;
    let x = x.f_detach()?;
    let from = baseline.f_detach()?.f_expand(x.size(), false)?;
    let way = x.f_sub(&from)?;
    let mut total = way.f_zeros_like()?;
    for step in 0..steps {
        let share = (step as f64 + 0.5) / steps as f64;
        total = total.f_add(&gradient(f, &from.f_add(&way.f_mul_scalar(share)?)?)?)?;
    }
    let values = way.f_mul(&total.f_div_scalar(steps as f64)?)?;
    let rise = no_grad(|| Ok::<_, Error>(scalars(f, &x)?.f_sub(&scalars(f, &from)?)?))?;
    let gap = summed(&values)?.f_sub(&rise)?;
    Ok(Attributions { values, gap })
}
