//! Losses that more than one method needs: free, pure functions of tensors and numbers.
//!
//! Source: each loss's file names its own. All accumulate in at least float32, whatever the scope around them.
mod cosine;
mod nt_xent;

pub use cosine::negative_cosine;
pub use nt_xent::{info_nce, nt_xent};

use crate::{Error, Result};
use tch::Tensor;

/// A scalar of the given value whose gradient with respect to each tensor is the one given beside it.
///
/// For losses whose gradient is cheaper to write down than to record: nothing but the gradients is kept until
/// the backward pass. It cannot be differentiated twice.
fn with_gradients(value: &Tensor, gradients: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut scalar = value.f_detach()?;
    for (x, gradient) in gradients {
        let product = x.f_mul(gradient)?.f_sum(x.kind())?;
        // Zero in value: only its gradient counts.
        scalar = scalar.f_add(&product.f_sub(&product.f_detach()?)?)?;
    }
    Ok(scalar)
}

fn same_shape(x: &Tensor, y: &Tensor, what: &str, expected: &str) -> Result<()> {
    if x.size() == y.size() {
        return Ok(());
    }
    let expected = format!("{expected} = {:?} as the first", x.size());
    Err(Error::Shape { what: what.to_string(), expected, got: y.size() })
}

fn check_temperature(temperature: f64) -> Result<()> {
    if temperature > 0. && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::config("temperature", format!("expected a number above 0, got {temperature}")))
}
