//! Explanations by the maps of a convolutional network.
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Grad-CAM: the channels of a map, weighed by the mean gradient of each, where their sum is positive.
///
/// # Shapes
/// `activations`, `gradients`: `[B, C, ...]` with one dimension or more of places; returns `[B, ...]`.
///
/// # Errors
/// `Error::Shape` when the two differ or have no places.
///
/// # Source
/// Selvaraju et al., 2017, equations 1 and 2: <https://arxiv.org/abs/1610.02391>.
pub fn grad_cam(activations: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let shape = activations.size();
    if shape.len() < 3 {
        return Err(Error::Shape { what: "activations".into(), expected: "[B, C, ...]".into(), got: shape });
    }
    if gradients.size() != shape {
        let expected = format!("{shape:?} as the activations");
        return Err(Error::Shape { what: "gradients".into(), expected, got: gradients.size() });
    }
    let places: Vec<i64> = (2..shape.len() as i64).collect();
    let weights = gradients.f_mean_dim(places.as_slice(), true, None::<Kind>)?;
    let sum = weights.f_mul(activations)?.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?;
    Ok(sum.f_relu()?)
}

/// A map of few places brought to the size of the input, linearly between the middles of places.
///
/// # Shapes
/// `map`: `[B, ...]` with one to three dimensions of places, as many as `size` has; returns `[B, size...]`.
///
/// # Errors
/// `Error::Shape` when it has another number of dimensions.
pub fn enlarged(map: &Tensor, size: &[i64]) -> Result<Tensor> {
    let wrong = || Error::Shape {
        what: "map".into(),
        expected: format!("[B, ...] with the {} dimensions of places of the input, 1 to 3", size.len()),
        got: map.size(),
    };
    if map.dim() != size.len() + 1 {
        return Err(wrong());
    }
    let x = map.f_unsqueeze(1)?;
    let x = match size.len() {
        1 => x.f_upsample_linear1d(size, false, None)?,
        2 => x.f_upsample_bilinear2d(size, false, None, None)?,
        3 => x.f_upsample_trilinear3d(size, false, None, None, None)?,
        _ => return Err(wrong()),
    };
    Ok(x.f_squeeze_dim(1)?)
}
