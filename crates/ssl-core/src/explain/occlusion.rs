//! Explanations by what is lost where a part of the input is hidden.
use super::scalar::{Scalar, scalars};
use crate::{Error, Result, check, no_grad};
use tch::{Device, Kind, Tensor};

/// By how much each example's scalar falls when a window of its input is replaced by that of a baseline.
///
/// # Shapes
/// `x`: `[B, ...]`; `hidden`: bool `[W, ...]`, true in the window, each of a shape that spreads to an example's;
/// `baseline`: a shape that spreads to that of `x`; returns `[B, W]`.
///
/// # Errors
/// `Error::Shape` when `f` does not give one number for each example; when libtorch refuses a shape.
///
/// # Source
/// Zeiler & Fergus, 2014, section 4.2: <https://arxiv.org/abs/1311.2901>.
pub fn occlusion(f: Scalar<'_>, x: &Tensor, hidden: &Tensor, baseline: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let whole = scalars(f, x)?;
        let drop = |window: Tensor| -> Result<Tensor> {
            let part = baseline.f_where_self(&window, x)?;
            Ok(whole.f_sub(&scalars(f, &part)?)?)
        };
        let drops = hidden.f_unbind(0)?.into_iter().map(drop).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&drops, 1)?)
    })
}

/// All windows of one size over an example, `stride` apart in each dimension; the last ones end with the example.
///
/// # Shapes
/// `size`, `window`, `stride`: one number for each dimension; returns bool `[W, size...]`, the last dimension fastest.
///
/// # Errors
/// `Error::Config` when the numbers are not as many, or one is below 1.
pub fn windows(size: &[i64], window: &[i64], stride: &[i64], device: Device) -> Result<Tensor> {
    if size.is_empty() || size.len() != window.len() || size.len() != stride.len() {
        let message = format!("expected {} numbers, one for each dimension, got {window:?}", size.len());
        return Err(Error::config("window", message));
    }
    check::at_least(1, size.iter().map(|&n| ("size", n)))?;
    check::at_least(1, window.iter().map(|&n| ("window", n)))?;
    check::at_least(1, stride.iter().map(|&n| ("stride", n)))?;
    let starts = size.iter().zip(window).zip(stride).map(|((&size, &window), &stride)| {
        let rest = (size - window).max(0);
        (0..size.min(rest + stride)).step_by(stride as usize).collect::<Vec<i64>>()
    });
    let mut corners: Vec<Vec<i64>> = vec![Vec::new()];
    for starts in starts {
        let with = |corner: &Vec<i64>| {
            starts.iter().map(|&start| corner.iter().copied().chain([start]).collect()).collect::<Vec<_>>()
        };
        corners = corners.iter().flat_map(with).collect();
    }
    let hidden = |corner: Vec<i64>| -> Result<Tensor> {
        let whole = Tensor::f_zeros(size, (Kind::Bool, device))?;
        let mut part = whole.shallow_clone();
        for (dimension, ((start, &window), &size)) in (0i64..).zip(corner.into_iter().zip(window).zip(size)) {
            part = part.f_narrow(dimension, start, window.min(size - start))?;
        }
        let _ = part.f_fill_(1)?;
        Ok(whole)
    };
    Ok(Tensor::f_stack(&corners.into_iter().map(hidden).collect::<Result<Vec<_>>>()?, 0)?)
}

/// The mean drop of the windows that hide each place; 0 where none does.
///
/// # Shapes
/// `drops`: `[B, W]`; `hidden`: bool `[W, ...]`; returns `[B, ...]`.
///
/// # Errors
/// `Error::Torch` when the numbers of windows differ.
pub fn spread(drops: &Tensor, hidden: &Tensor) -> Result<Tensor> {
    let places: Vec<i64> = hidden.size().get(1..).unwrap_or_default().to_vec();
    let hidden = hidden.f_flatten(1, -1)?.f_to_kind(drops.kind())?;
    let counts = hidden.f_sum_dim_intlist([0i64].as_slice(), true, None::<Kind>)?.f_clamp_min(1)?;
    Ok(drops.f_matmul(&hidden)?.f_div(&counts)?.f_unflatten(1, places.as_slice())?)
}
