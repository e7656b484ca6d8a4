//! The Transformer of wav2vec 2.0 and HuBERT, on the vectors of their feature extractor.
//!
//! Source: Baevski et al., 2020, section 2: <https://arxiv.org/abs/2006.11477>; Hsu et al., 2021:
//! <https://arxiv.org/abs/2106.07447>; names and initialization as `Wav2Vec2Model` of transformers 5,
//! `models/wav2vec2/modeling_wav2vec2.py`. Windows are whole, without fillings at their ends, and no layer is dropped.
use super::EncoderConfig;
use crate::frontend::ExtractorNorm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{
    Block, BlockConfig, Dropout, LayerNorm, Linear, Module, Names, NormPlace, QkvNames, TIMM, gelu,
};
use ssl_core::{Error, Mode, Result};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

const NAMES: Names = Names {
    norm1: "layer_norm",
    qkv: QkvNames::Separate(["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
    proj: "attention.out_proj",
    norm2: "final_layer_norm",
    fc1: "feed_forward.intermediate_dense",
    fc2: "feed_forward.output_dense",
    ..TIMM
};
/// What the normalizations add to the variance.
const EPS: f64 = 1e-5;

/// What the name of a network of wav2vec 2.0 does not say; the default is the base model's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wav2Vec2Config {
    /// Whether the convolutions of the feature extractor have biases.
    pub conv_bias: bool,
    /// What follows them.
    pub feat_extract_norm: ExtractorNorm,
    /// Where the layers normalize: `post` is the base models', `pre` what transformers calls stable.
    pub norm: NormPlace,
    /// Width inside the layers' MLPs; without it four times the network's.
    pub hidden: Option<i64>,
    /// Positions under the convolution that knows places.
    pub position_kernel: i64,
    /// Its groups, which divide the network's width.
    pub position_groups: i64,
}

impl Default for Wav2Vec2Config {
    fn default() -> Self {
        Wav2Vec2Config {
            conv_bias: false,
            feat_extract_norm: ExtractorNorm::Group,
            norm: NormPlace::Post,
            hidden: None,
            position_kernel: 128,
            position_groups: 16,
        }
    }
}

/// A linear layer, places by convolution, and blocks of attention.
#[derive(Debug)]
pub(super) struct Wav2Vec2 {
    projection: Linear,
    masked: Tensor,
    positions: PositionalConv,
    norm: LayerNorm,
    blocks: Vec<Block>,
    place: NormPlace,
    dropout: Dropout,
}

impl Wav2Vec2 {
    /// Makes the variables under `p` for vectors of width `input`.
    pub(super) fn new(p: &Path, config: &EncoderConfig, input: i64, heads: i64) -> Result<Self> {
        let (dim, own) = (config.arch.dim, &config.wav2vec2);
        let block = BlockConfig {
            dim,
            heads,
            hidden: own.hidden.unwrap_or(4 * dim),
            norm: own.norm,
            eps: EPS,
            dropout: config.dropout,
            attention_dropout: config.attention_dropout,
            ..BlockConfig::default()
        };
        let (encoder, layers) = (p / "encoder", p / "encoder" / "layers");
        let blocks = (0..config.arch.layers).map(|i| Block::new(&(&layers / i), &block, &NAMES));
        Ok(Wav2Vec2 {
            projection: Linear::new(&(p / "feature_projection" / "projection"), input, dim)?,
            masked: p.f_var("masked_spec_embed", &[dim], Init::Uniform { lo: 0., up: 1. })?,
            positions: PositionalConv::new(&(&encoder / "pos_conv_embed" / "conv"), dim, own)?,
            norm: LayerNorm::new(&(&encoder / "layer_norm"), dim, EPS)?,
            blocks: blocks.collect::<Result<_>>()?,
            place: own.norm,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    /// A vector for each position, where `mask` is true without what is heard there.
    ///
    /// # Shapes
    /// `x`: `[B, N, C]`; `mask`: bool `[B, N]`; returns `[B, N, D]`.
    pub(super) fn forward(&self, x: &Tensor, mask: Option<&Tensor>, mode: Mode) -> Result<Tensor> {
        let x = self.hidden(x, mask, self.blocks.len(), mode)?;
        match self.place {
            NormPlace::Pre => self.norm.forward(&x, mode),
            NormPlace::Post => Ok(x),
        }
    }

    /// What the first layers make of it, as many as said.
    ///
    /// # Shapes
    /// As [`Wav2Vec2::forward`].
    pub(super) fn hidden(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        layers: usize,
        mode: Mode,
    ) -> Result<Tensor> {
        let x = self.dropout.forward(&self.projection.forward(x, mode)?, mode)?;
        // The sums of the blocks are to be float32 in any precision.
        let mut x = x.f_to_kind(Kind::Float)?;
        if let Some(mask) = mask {
            x = self.masked.f_where_self(&mask.f_unsqueeze(2)?, &x)?;
        }
        x = x.f_add(&self.positions.forward(&x)?)?;
        if self.place == NormPlace::Post {
            x = self.norm.forward(&x, mode)?;
        }
        x = self.dropout.forward(&x, mode)?;
        for block in self.blocks.iter().take(layers) {
            x = block.forward(&x, mode)?;
        }
        Ok(x)
    }
}

/// A convolution over positions whose weight is a direction and, for each place under the window, a length.
///
/// # Source
/// Salimans & Kingma, 2016 (weight normalization): <https://arxiv.org/abs/1602.07868>.
#[derive(Debug)]
struct PositionalConv {
    length: Tensor,
    direction: Tensor,
    bias: Tensor,
    kernel: i64,
    groups: i64,
}

impl PositionalConv {
    fn new(p: &Path, dim: i64, config: &Wav2Vec2Config) -> Result<Self> {
        let (kernel, groups) = (config.position_kernel, config.position_groups);
        if kernel < 1 {
            return Err(Error::config("position_kernel", format!("expected at least 1, got {kernel}")));
        }
        if groups < 1 || dim % groups != 0 {
            let message = format!("expected a divisor of the width {dim}, got {groups}");
            return Err(Error::config("position_groups", message));
        }
        let weight = p / "parametrizations" / "weight";
        let start = Init::Randn { mean: 0., stdev: 2. / ((kernel * dim) as f64).sqrt() };
        let direction = weight.f_var("original1", &[dim, dim / groups, kernel], start)?;
        let mut length = weight.f_var("original0", &[1, 1, kernel], Init::Const(1.))?;
        ssl_core::no_grad(|| length.f_copy_(&Tensor::f_norm_except_dim(&direction, 2, 2)?).map(drop))?;
        let bias = p.f_zeros("bias", &[dim])?;
        Ok(PositionalConv { length, direction, bias, kernel, groups })
    }

    /// `[B, N, D]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = Tensor::f_internal_weight_norm(&self.direction, &self.length, 2)?;
        let x = x.f_transpose(1, 2)?;
        let y = x.f_conv1d(&weight, Some(&self.bias), 1, self.kernel / 2, 1, self.groups)?;
        // A window of even length gives one position too many, at the end.
        let same = x.size().last().copied().unwrap_or(0);
        Ok(gelu(&y.f_narrow(2, 0, same)?)?.f_transpose(1, 2)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    fn build(arch: &str, own: Wav2Vec2Config) -> Result<(VarStore, Wav2Vec2)> {
        let vars = VarStore::new(Device::Cpu);
        let config = EncoderConfig { wav2vec2: own, ..EncoderConfig::new(arch.parse()?) };
        let net = Wav2Vec2::new(&vars.root(), &config, 8, 2)?;
        Ok((vars, net))
    }

    #[test]
    fn weights_start_as_in_the_reference() {
        let (vars, net) = build("wav2vec2_c8_d64_l1_h2", Wav2Vec2Config::default()).unwrap();
        let of = |name: &str| vars.variables()[name].shallow_clone();
        let place = "encoder.pos_conv_embed.conv.parametrizations.weight";
        let direction = of(&format!("{place}.original1"));
        assert_eq!(
            (direction.size(), of(&format!("{place}.original0")).size()),
            (vec![64, 4, 128], vec![1, 1, 128])
        );
        let deviation = direction.std(true).double_value(&[]) / (4f64 / (128. * 64.)).sqrt();
        assert!((deviation - 1.).abs() < 0.02, "{deviation}");
        let weight = Tensor::internal_weight_norm(&net.positions.direction, &net.positions.length, 2);
        assert!(weight.allclose(&direction, 1e-5, 1e-7, false), "a weight starts as its direction");
        let masked = of("masked_spec_embed");
        assert!(
            masked.min().double_value(&[]) >= 0.
                && (masked.mean(Kind::Double).double_value(&[]) - 0.5).abs() < 0.15
        );
    }

    #[test]
    fn what_is_masked_is_not_heard_and_places_are_known() {
        for norm in [NormPlace::Post, NormPlace::Pre] {
            let (_, net) =
                build("wav2vec2_c8_d16_l2_h2", Wav2Vec2Config { norm, ..Wav2Vec2Config::default() }).unwrap();
            let x = Tensor::randn([2, 9, 8], (Kind::Float, Device::Cpu));
            let other = x.copy();
            let _ = other.narrow(1, 3, 4).normal_(0., 1.);
            let mask = Tensor::zeros([2, 9], (Kind::Bool, Device::Cpu));
            let _ = mask.narrow(1, 3, 4).fill_(1);
            let run = |x: &Tensor, mask| net.forward(x, mask, Mode::Eval).unwrap();
            assert!(run(&x, Some(&mask)).allclose(&run(&other, Some(&mask)), 1e-5, 1e-6, false));
            assert!(!run(&x, None).allclose(&run(&other, None), 1e-3, 1e-3, false));
            let turned = run(&x.flip([1]), None).flip([1]);
            assert!(!run(&x, None).allclose(&turned, 1e-3, 1e-3, false), "order matters");
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let none = Wav2Vec2Config { position_kernel: 0, ..Wav2Vec2Config::default() };
        let message = build("wav2vec2_c8_d16_l1_h2", none).unwrap_err().to_string();
        assert_eq!(message, "position_kernel: expected at least 1, got 0");
        let message = build("wav2vec2_c8_d12_l1_h2", Wav2Vec2Config::default()).unwrap_err().to_string();
        assert_eq!(message, "position_groups: expected a divisor of the width 12, got 16");
    }
}
