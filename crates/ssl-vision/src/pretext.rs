//! What methods of one view and of a task with right answers share.
use ssl_core::{Error, Precision, Result, Views, dims4};
use tch::{Kind, Reduction, Tensor};

/// The view of a batch of `method`, of which there may be no more than one.
pub(crate) fn only<'a>(Views(views): &'a Views, method: &str) -> Result<&'a Tensor> {
    match views.as_slice() {
        [x] => Ok(x),
        _ => Err(Error::config("views", format!("{method} takes one, got {}", views.len()))),
    }
}

/// Number, channels and side of square images.
pub(crate) fn square(x: &Tensor) -> Result<(i64, i64, i64)> {
    let (n, channels, height, width) = dims4(x, "images", "[B, C, S, S]")?;
    if height == width {
        return Ok((n, channels, height));
    }
    let (what, expected) = ("images".into(), "[B, C, S, S], square".into());
    Err(Error::Shape { what, expected, got: x.size() })
}

/// Cross entropy, and the share of rows whose greatest logit is that of the target.
///
/// # Shapes
/// `logits`: `[N, K]`; `target`: `[N]`; returns two scalars in float32.
pub(crate) fn classified(logits: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
    let logits = logits.f_to_kind(Kind::Float)?;
    let loss = Precision::Fp32.scope(logits.device(), || {
        Ok(logits.f_cross_entropy_loss::<&Tensor>(target, None, Reduction::Mean, -100, 0.)?)
    })?;
    let hits = logits.f_argmax(-1, false)?.f_eq_tensor(target)?;
    Ok((loss, hits.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?))
}
