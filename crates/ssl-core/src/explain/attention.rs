//! Explanations by the weights of attention.
use crate::{Error, Result, dims4};
use tch::{Kind, Tensor};

/// Attention rollout: how much of each position's output comes from each position of the input, if values were passed on
/// by the weights of attention alone, averaged over heads, with as much of the residual path in each layer.
///
/// Of each layer's averaged weights the lowest are left out first, the share `discard` of all pairs of positions, which
/// keeps a few strong paths in sight; 0 leaves out none, as in the paper. Rows sum to 1.
///
/// # Shapes
/// `layers`: `[B, H, T, T]` each, the first layer first, a row for each position that looks; returns `[B, T, T]`.
///
/// # Errors
/// `Error::Config` when there is no layer or `discard` is not from 0 to below 1; `Error::Shape` when a layer has another
/// shape than the first.
///
/// # Source
/// Abnar & Zuidema, 2020, section 3: <https://arxiv.org/abs/2005.00928>; leaving out weights, as the implementation of Jacob
/// Gildenblat, which however keeps the first position's weight on itself.
pub fn attention_rollout(layers: &[Tensor], discard: f64) -> Result<Tensor> {
    if !(0. ..1.).contains(&discard) {
        return Err(Error::config("discard", format!("expected a share from 0 to below 1, got {discard}")));
    }
    let first = layers.first().ok_or_else(|| Error::config("layers", "expected at least one, got none"))?;
    let (_, _, places, columns) = dims4(first, "attention weights", "[B, H, T, T]")?;
    let mut rollout: Option<Tensor> = None;
    for layer in layers {
        if layer.size() != first.size() || places != columns {
            let expected = format!("[B, H, {places}, {places}] as in the first layer");
            return Err(Error::Shape { what: "attention weights".into(), expected, got: layer.size() });
        }
        let mixed = mixed(&layer.f_mean_dim([1i64].as_slice(), false, None::<Kind>)?, discard)?;
        rollout = Some(match rollout {
            Some(before) => mixed.f_bmm(&before)?,
            None => mixed,
        });
    }
    rollout.ok_or_else(|| Error::config("layers", "expected at least one, got none"))
}

/// Half of the weights without their lowest, and half of the residual path, with rows that sum to 1. `[B, T, T]`.
fn mixed(weights: &Tensor, discard: f64) -> Result<Tensor> {
    let places = weights.size().last().copied().unwrap_or(0);
    let count = (discard * (places * places) as f64) as i64;
    let kept = if count > 0 {
        let flat = weights.f_flatten(1, 2)?;
        let (_, lowest) = flat.f_topk(count, 1, false, false)?;
        flat.f_scatter_value(1, &lowest, 0.)?.f_view_as(weights)?
    } else {
        weights.shallow_clone()
    };
    let residual = Tensor::f_eye(places, (weights.kind(), weights.device()))?;
    let sum = kept.f_add(&residual)?.f_mul_scalar(0.5)?;
    Ok(sum.f_div(&sum.f_sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>)?)?)
}
