//! Losses that more than one method needs: free, pure functions of tensors and numbers.
//!
//! Source: each loss's file names its own. All accumulate in at least float32, whatever the scope around them.
mod adversarial;
mod barlow_twins;
mod cosine;
mod dcl;
mod dino;
mod ibot;
mod koleo;
mod nt_xent;
mod sigreg;
mod swav;
mod tico;
mod vicreg;

pub use adversarial::{Origin, adversarial, both_players};
pub use barlow_twins::{BarlowTwinsTerms, barlow_twins, barlow_twins_terms};
pub use cosine::negative_cosine;
pub use dcl::{dcl, dclw};
pub use dino::dino;
pub use ibot::ibot;
pub use koleo::koleo;
pub use nt_xent::{info_nce, info_nce_in_batch, nt_xent};
pub use sigreg::{SigReg, sigreg};
pub use swav::{sinkhorn, swav};
pub use tico::{TiCoTerms, tico};
pub use vicreg::{VicRegTerms, VicRegWeights, vicreg};

use crate::{Error, Result, check, dims2};
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

/// The product of two matrices in their own kind, which mixed precision does not touch.
fn product(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let out = Tensor::f_empty([0i64], (x.kind(), x.device()))?;
    let _ = x.f_mm_out(&out, y)?;
    Ok(out)
}

/// Refuses what are not two matrices of one shape with `least` rows or more.
fn two_views(a: &Tensor, b: &Tensor, least: i64) -> Result<()> {
    let (rows, columns) = dims2(a, "first view", "[B, D]")?;
    dims2(b, "second view", "[B, D]")?;
    same_shape(a, b, "second view", "[B, D]")?;
    if rows >= least && columns >= 1 {
        return Ok(());
    }
    let expected = format!("[B, D] with B at least {least} and D at least 1");
    Err(Error::Shape { what: "first view".into(), expected, got: a.size() })
}

fn same_shape(x: &Tensor, y: &Tensor, what: &str, expected: &str) -> Result<()> {
    if x.size() == y.size() {
        return Ok(());
    }
    let expected = format!("{expected} = {:?} as the first", x.size());
    Err(Error::Shape { what: what.to_string(), expected, got: y.size() })
}

fn check_temperature(temperature: f64) -> Result<()> {
    check::positive("temperature", temperature)
}

fn check_weight(name: &str, weight: f64) -> Result<()> {
    if weight >= 0. && weight.is_finite() {
        return Ok(());
    }
    Err(Error::config(name, format!("expected a number of at least 0, got {weight}")))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    pub(super) fn view(size: [i64; 2], seed: f64) -> Tensor {
        let n = Tensor::arange(size[0] * size[1], (Kind::Double, Device::Cpu));
        (n * (0.7 + seed)).sin().view(size)
    }

    pub(super) fn value(x: &Tensor) -> f64 {
        f64::try_from(x).unwrap()
    }

    /// Loss and gradients with respect to both arguments.
    pub(super) fn learn(
        loss: impl Fn(&Tensor, &Tensor) -> Tensor,
        x: &Tensor,
        y: &Tensor,
    ) -> (f64, Tensor, Tensor) {
        let leaf = |t: &Tensor| t.detach().copy().set_requires_grad(true);
        let (x, y) = (leaf(x), leaf(y));
        let loss = loss(&x, &y);
        (&loss * 3.).backward();
        (value(&loss), x.grad(), y.grad())
    }

    #[track_caller]
    pub(super) fn assert_same(p: (f64, Tensor, Tensor), q: (f64, Tensor, Tensor)) {
        assert!((p.0 - q.0).abs() < 1e-12 * q.0.abs().max(1.), "{} {}", p.0, q.0);
        assert!(p.1.allclose(&q.1, 1e-12, 1e-12, false) && p.2.allclose(&q.2, 1e-12, 1e-12, false));
    }
}
