//! What methods share that hide patches: grids and pictures of patches, masks, and networks that fill gaps.
mod decoder;
mod filler;
mod grid;
mod masks;
mod regions;

pub(crate) use decoder::{Decoder, DecoderConfig, DecoderNames};
pub(crate) use filler::{Filler, patches_of};
pub(crate) use grid::Grid;
pub(crate) use masks::{Chance, Mask, blocks, scattered};
pub(crate) use regions::{Blocks, Regions};

use ssl_core::{Error, Metrics, Precision, Result, Schedule, check};
use tch::{Kind, Reduction, Tensor};

/// Refuses a part of `patches` patches of which `hidden` are: none, or all of them.
pub(crate) fn check_ratio(ratio: f64, hidden: i64, patches: i64) -> Result<()> {
    if (0. ..1.).contains(&ratio) && (1..patches).contains(&hidden) {
        return Ok(());
    }
    let message =
        format!("expected to hide and to leave one of {patches} patches at least, got a part of {ratio}");
    Err(Error::config("mask_ratio", message))
}

/// Refuses a momentum of a teacher that is not from 0 to 1 at both ends.
pub(crate) fn check_momentum(momentum: &Schedule) -> Result<()> {
    momentum.validate("momentum")?;
    check::ranges([momentum.start, momentum.end].map(|end| ("momentum", end, (0., 1.))))
}

/// Rows of mean 0 and deviation 1, in float32: layer normalization without weights.
///
/// # Shapes
/// `x`: `[.., D]`; returns the same.
pub(crate) fn standardized(x: &Tensor) -> Result<Tensor> {
    let dim = x.size().last().copied().unwrap_or(0);
    Ok(x.f_to_kind(Kind::Float)?.f_layer_norm::<&Tensor>([dim], None, None, 1e-5, true)?)
}

/// The mean over all numbers of half the squared difference over `beta`, of the difference less half of `beta` where that
/// is larger; in float32, whatever the precision around it.
pub(crate) fn smooth_l1(prediction: &Tensor, target: &Tensor, beta: f64) -> Result<Tensor> {
    Precision::Fp32
        .scope(target.device(), || Ok(prediction.f_smooth_l1_loss(target, Reduction::Mean, beta)?))
}

/// The mean deviation of each number over the rows of a target: 0 where a teacher tells nothing apart.
pub(crate) fn deviation(target: &Tensor) -> Result<Tensor> {
    Ok(target.f_std_dim([0i64].as_slice(), false, false)?.f_mean(Kind::Float)?)
}

/// What held-out images say of a prediction of a teacher's features: the loss beside that of the mean target, which is the
/// best guess without looking.
pub(crate) fn teacher_metrics(prediction: &Tensor, target: &Tensor, beta: f64) -> Result<Metrics> {
    let mean = target.f_mean_dim([0i64].as_slice(), true, target.kind())?.f_expand_as(target)?;
    Ok(vec![
        ("loss".into(), smooth_l1(prediction, target, beta)?),
        ("mean_target_error".into(), smooth_l1(&mean, target, beta)?),
        ("target_deviation".into(), deviation(target)?),
    ])
}
