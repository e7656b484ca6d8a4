//! The head over which DINO and iBOT compare student and teacher.
//!
//! Source: Caron et al., 2021 (DINO), appendix C: <https://arxiv.org/abs/2104.14294>; `facebookresearch/dino`, `DINOHead`
//! in `vision_transformer.py`.
use ssl_core::nn::{BatchNorm, Linear, Module, gelu, l2_normalize, trunc_normal, uniform_fan_in};
use ssl_core::{Mode, Result};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// The shape of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadConfig {
    /// Units of the two hidden layers.
    pub(crate) hidden_dim: i64,
    /// Dimension in which features are scaled to unit length, before the last layer.
    pub(crate) bottleneck_dim: i64,
    /// Outputs.
    pub(crate) out_dim: i64,
    /// Whether the hidden layers are normalized over the batch.
    pub(crate) head_norm: bool,
    /// Whether the rows of the last layer keep unit length.
    pub(crate) norm_last_layer: bool,
}

/// Whether gradients reach the last layer of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLayer {
    Trained,
    Frozen,
}

/// Three layers, a scaling to unit length, and a layer of unit rows.
#[derive(Debug)]
pub(crate) struct Head {
    hidden: Vec<(Linear, Option<BatchNorm>)>,
    bottleneck: Linear,
    rows: Tensor,
    lengths: Option<Tensor>,
}

impl Head {
    /// Makes the variables under `p`, with the official code's names.
    pub(crate) fn new(p: &Path, input: i64, config: &HeadConfig) -> Result<Self> {
        let (mlp, last) = (p / "mlp", p / "last_layer");
        let small = |x: &Tensor| trunc_normal(x, 0.02);
        let linear = |place: i64, input, output| Linear::with_init(&(&mlp / place), input, output, small);
        // The official places count norms and activations too.
        let stride = if config.head_norm { 3 } else { 2 };
        let hidden = |(place, input)| -> Result<_> {
            let norm = config.head_norm.then(|| BatchNorm::new(&(&mlp / (place + 1)), config.hidden_dim));
            Ok((linear(place, input, config.hidden_dim)?, norm.transpose()?))
        };
        let layers = [(0, input), (stride, config.hidden_dim)];
        let shape = [config.out_dim, config.bottleneck_dim];
        let lengths =
            (!config.norm_last_layer).then(|| last.f_var("weight_g", &[config.out_dim, 1], Init::Const(1.)));
        Ok(Head {
            hidden: layers.into_iter().map(hidden).collect::<Result<_>>()?,
            bottleneck: linear(2 * stride, config.hidden_dim, config.bottleneck_dim)?,
            rows: last.f_var("weight_v", &shape, uniform_fan_in(config.bottleneck_dim))?,
            lengths: lengths.transpose()?,
        })
    }

    /// Outputs `[R, K]` of features `[R, E]`, in float32.
    pub(crate) fn forward(&self, features: &Tensor, mode: Mode, last: LastLayer) -> Result<Tensor> {
        let mut h = features.shallow_clone();
        for (layer, norm) in &self.hidden {
            h = layer.forward(&h, mode)?;
            if let Some(norm) = norm {
                h = norm.forward(&h, mode)?;
            }
            h = gelu(&h)?;
        }
        let unit = l2_normalize(&self.bottleneck.forward(&h, mode)?)?;
        let mut weight = l2_normalize(&self.rows)?;
        if let Some(lengths) = &self.lengths {
            weight = weight.f_mul(lengths)?;
        }
        if last == LastLayer::Frozen {
            weight = weight.f_detach()?;
        }
        Ok(unit.f_linear(&weight, None::<Tensor>)?.f_to_kind(Kind::Float)?)
    }
}

/// The mean entropy of distributions `[B, K]`, and the entropy of their mean, in nats.
pub(crate) fn entropies(p: &Tensor) -> Result<(Tensor, Tensor)> {
    let each = p.f_special_entr()?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?;
    let mean = p.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
    Ok((each.f_mean(Kind::Float)?, mean.f_special_entr()?.f_sum(Kind::Float)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn entropies_tell_uniform_outputs_and_outputs_of_one_kind_from_sound_ones() {
        let of = |p: &Tensor| entropies(p).map(|(a, b)| [a, b].map(|x| x.double_value(&[]))).unwrap();
        let (sound, most) = (Tensor::eye(4, (Kind::Float, Device::Cpu)), f64::from(4f32.ln()));
        assert_eq!(of(&sound), [0., most]);
        assert_eq!(of(&sound.narrow(0, 0, 1).repeat([4, 1])), [0., 0.]);
        assert_eq!(of(&(sound.ones_like() / 4.)), [most, most]);
    }
}
