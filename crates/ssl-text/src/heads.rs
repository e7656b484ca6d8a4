//! What is put on an encoder to say something of tokens.
use ssl_core::nn::{LayerNorm, Linear, Module, gelu, trunc_normal};
use ssl_core::{Mode, Precision, Result, dims2, dims3};
use tch::nn::Path;
use tch::{Kind, Reduction, Tensor};

use crate::batch::IGNORED;

/// A layer, a normalization, and a logit for each token from its embedding, as BERT restores hidden tokens.
#[derive(Debug)]
pub(crate) struct RestoringHead {
    dense: Linear,
    norm: LayerNorm,
    bias: Tensor,
}

impl RestoringHead {
    /// Makes the variables of the layer, the normalization and the bias under these three.
    pub(crate) fn new(
        [dense, norm, bias]: [&Path; 3],
        (dim, width): (i64, i64),
        vocabulary: i64,
    ) -> Result<Self> {
        Ok(RestoringHead {
            dense: Linear::with_init(dense, dim, width, |weight| trunc_normal(weight, 0.02))?,
            norm: LayerNorm::new(norm, width, 1e-12)?,
            bias: bias.f_zeros("bias", &[vocabulary])?,
        })
    }

    /// Logits from the vectors of positions and the embeddings of tokens.
    ///
    /// # Shapes
    /// `x`: `[.., D]`; `words`: `[V, E]`; returns `[.., V]`.
    pub(crate) fn forward(&self, x: &Tensor, words: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.norm.forward(&gelu(&self.dense.forward(x, mode)?)?, mode)?;
        Ok(x.f_linear(words, Some(&self.bias))?)
    }
}

/// The vectors at chosen places.
///
/// # Shapes
/// `x`: `[B, N, D]`; `places`: `[B, P]`; returns `[B * P, D]`.
pub(crate) fn at_places(x: &Tensor, places: &Tensor) -> Result<Tensor> {
    let (rows, n, dim) = dims3(x, "vectors", "[B, N, D]")?;
    dims2(places, "places", "[B, P]")?;
    let first = Tensor::f_arange(rows, (Kind::Int64, x.device()))?.f_mul_scalar(n)?.f_unsqueeze(1)?;
    Ok(x.f_reshape([-1, dim])?.f_index_select(0, &places.f_add(&first)?.f_flatten(0, 1)?)?)
}

/// Mean cross-entropy in float32, whatever the precision around it, over the targets that count.
///
/// # Shapes
/// `logits`: `[R, V]`; `targets`: any of R numbers.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (logits, targets) = (logits.f_to_kind(Kind::Float)?, targets.f_reshape([-1])?);
    Precision::Fp32.scope(logits.device(), || {
        Ok(logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, IGNORED, 0.)?)
    })
}

/// The part of the targets that count whose logit is the largest.
///
/// # Shapes
/// As [`cross_entropy`].
pub(crate) fn accuracy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let targets = targets.f_reshape([-1])?;
    let counts = targets.f_ne(IGNORED)?.f_sum(Kind::Float)?.f_clamp_min(1.)?;
    Ok(logits.f_argmax(-1, false)?.f_eq_tensor(&targets)?.f_sum(Kind::Float)?.f_div(&counts)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn targets_that_are_ignored_count_nowhere() {
        let logits = Tensor::from_slice(&[2f32, 0., 0., 1., 5., 5.]).view([3, 2]);
        let targets = Tensor::from_slice(&[0i64, 0, IGNORED]).view([1, 3]);
        let slow = ((1. + (-2f64).exp()).ln() + (1. + 1f64.exp()).ln()) / 2.;
        assert!((cross_entropy(&logits, &targets).unwrap().double_value(&[]) - slow).abs() < 1e-6);
        assert_eq!(accuracy(&logits, &targets).unwrap().double_value(&[]), 0.5);
    }

    #[test]
    fn places_are_counted_in_each_sequence() {
        let x = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([2, 3, 2]);
        let places = Tensor::from_slice(&[2i64, 0]).view([2, 1]);
        let got = Vec::<f32>::try_from(at_places(&x, &places).unwrap().flatten(0, 1)).unwrap();
        assert_eq!(got, [4., 5., 6., 7.]);
    }
}
