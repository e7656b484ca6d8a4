//! What methods share that hide patches: grids and pictures of patches, masks, and networks that fill gaps.
mod decoder;
mod filler;
mod grid;
mod masks;

pub(crate) use decoder::{Decoder, DecoderConfig, DecoderNames};
pub(crate) use filler::{Filler, patches_of};
pub(crate) use grid::Grid;
pub(crate) use masks::{Chance, Mask, blocks, scattered};

use ssl_core::{Error, Precision, Result, Views};
use tch::{Reduction, Tensor};

/// Images to look at, at most.
pub(crate) const SHOWN: i64 = 12;

/// The view of a batch of `method`, of which there may be no more than one.
pub(crate) fn only<'a>(Views(views): &'a Views, method: &str) -> Result<&'a Tensor> {
    match views.as_slice() {
        [x] => Ok(x),
        _ => Err(Error::config("views", format!("{method} takes one, got {}", views.len()))),
    }
}

/// Mean squared error in float32, whatever the precision around it; every image hides as many patches, so that the mean
/// over all of them is that of the papers.
pub(crate) fn squared_error(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(target.device(), || Ok(prediction.f_mse_loss(target, Reduction::Mean)?))
}

/// Refuses a part of `patches` patches of which `hidden` are: none, or all of them.
pub(crate) fn check_ratio(ratio: f64, hidden: i64, patches: i64) -> Result<()> {
    if (0. ..1.).contains(&ratio) && (1..patches).contains(&hidden) {
        return Ok(());
    }
    let message =
        format!("expected to hide and to leave one of {patches} patches at least, got a part of {ratio}");
    Err(Error::config("mask_ratio", message))
}
