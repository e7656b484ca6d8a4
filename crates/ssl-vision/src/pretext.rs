//! What methods of one view and of a task with right answers share.
use rand::RngExt;
use ssl_core::{Error, Precision, Result, Views, dims4, rng};
use tch::{Device, Kind, Reduction, Tensor};

/// The stream of random numbers for held-out images.
const FIXED: u64 = 21;
/// Images to look at, at most.
const SHOWN: i64 = 12;

/// The view of a batch of `method`, of which there may be no more than one.
pub(crate) fn only<'a>(batch: &'a Views, method: &str) -> Result<&'a Tensor> {
    let [x] = batch.exactly(method)?;
    Ok(x)
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

/// Mean squared error in float32, whatever the precision around it.
pub(crate) fn squared_error(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(target.device(), || Ok(prediction.f_mse_loss(target, Reduction::Mean)?))
}

/// Uniform random numbers that depend on the place in the batch alone. `[B, N]`.
pub(crate) fn fixed_noise(images: i64, count: i64, device: Device) -> Result<Tensor> {
    let mut rng = rng(0, &[FIXED]);
    let noise: Vec<f32> = (0..images * count).map(|_| rng.random()).collect();
    Ok(Tensor::f_from_slice(&noise)?.f_view([images, count])?.f_to_device(device)?)
}

/// What a method shows: as many as a picture has room for.
pub(crate) fn shown(x: &Tensor) -> Result<Tensor> {
    let n = x.size().first().copied().unwrap_or(0);
    Ok(x.f_narrow(0, 0, n.min(SHOWN))?)
}
