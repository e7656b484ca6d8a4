//! Networks that see the vectors of a front end in their order.
//!
//! Source: Hochreiter & Schmidhuber, 1997: <https://doi.org/10.1162/neco.1997.9.8.1735>; Cho et al., 2014 (gated
//! recurrent units): <https://arxiv.org/abs/1406.1078>; Vaswani et al., 2017: <https://arxiv.org/abs/1706.03762>. Recurrent
//! networks have the names of CPC_audio, transformers those of timm; the latter normalize first, and know the places of
//! their positions by turning queries and keys (Su et al., 2021: <https://arxiv.org/abs/2104.09864>), so that clips may
//! have any length. On the front end of wav2vec 2.0 the Transformer is its own.
use super::conv::Conv;
use super::wav2vec2::Wav2Vec2;
use super::{Attend, EncoderConfig, Family, Front};
use ssl_core::nn::{
    AttentionMask, Block, BlockConfig, Dropout, LayerNorm, Linear, Module, TIMM, uniform_fan_in,
};
use ssl_core::{Error, Mode, Result};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// The base of rotary positions.
const BASE: f64 = 10_000.;

/// A network over sequences of vectors.
#[derive(Debug)]
pub(super) enum Context {
    Recurrent(Recurrent),
    Transformer(Transformer),
    Wav2Vec2(Wav2Vec2),
    Conv(Conv),
}

impl Context {
    /// Makes the variables under `p` for vectors of width `input`.
    pub(super) fn new(p: &Path, config: &EncoderConfig, input: i64) -> Result<Self> {
        match config.arch.family {
            Family::Transformer(heads) if matches!(config.arch.front, Front::Wav2Vec2(_)) => {
                Ok(Context::Wav2Vec2(Wav2Vec2::new(p, config, input, heads)?))
            }
            Family::Transformer(heads) => {
                Ok(Context::Transformer(Transformer::new(p, config, input, heads)?))
            }
            Family::Conv => Ok(Context::Conv(Conv::new(p, config.arch.dim, input, config.dropout)?)),
            Family::Gru | Family::Lstm => {
                let place = p / "gAR" / "baseNet";
                Ok(Context::Recurrent(Recurrent::new(&place, config, input)?))
            }
        }
    }

    /// # Shapes
    /// `x`: `[B, N, C]`; returns `[B, N, D]`.
    pub(super) fn forward(&self, x: &Tensor, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.check(attend)?;
        match self {
            Context::Transformer(net) => net.forward(x, attend, mode),
            Context::Wav2Vec2(net) => net.forward(x, None, mode),
            Context::Recurrent(net) => net.forward(x, mode),
            Context::Conv(net) => net.forward(x, mode),
        }
    }

    /// Refuses a network that cannot look there, and there alone.
    pub(super) fn check(&self, attend: Attend) -> Result<()> {
        let message = match (self, attend) {
            (Context::Transformer(_), _)
            | (Context::Recurrent(_), Attend::Past)
            | (Context::Wav2Vec2(_) | Context::Conv(_), Attend::All) => return Ok(()),
            (Context::Recurrent(_), Attend::All) => {
                "expected a network whose positions look at all others, such as mel_d192_l4_h4, got a recurrent one"
            }
            (Context::Wav2Vec2(_), Attend::Past) => {
                "expected a network whose positions look back only, such as cpc_c256_gru, got one whose places \
                 come from a convolution to both sides"
            }
            (Context::Conv(_), Attend::Past) => {
                "expected a network whose positions look back only, such as mel_gru_d512_l3, got convolutions"
            }
        };
        Err(Error::config("encoder", message))
    }

    /// The Transformer of wav2vec 2.0, for `user`, who needs one.
    pub(super) fn wav2vec2(&self, user: &str) -> Result<&Wav2Vec2> {
        match self {
            Context::Wav2Vec2(net) => Ok(net),
            _ => {
                let message =
                    format!("{user} masks inside a network such as wav2vec2_c512_d768_l12_h12, got another");
                Err(Error::config("encoder", message))
            }
        }
    }

    /// Whether a position can look at later ones.
    pub(super) fn widest(&self) -> Attend {
        match self {
            Context::Recurrent(_) => Attend::Past,
            Context::Transformer(_) | Context::Wav2Vec2(_) | Context::Conv(_) => Attend::All,
        }
    }
}

/// Layers that read one vector after the other.
#[derive(Debug)]
pub(super) struct Recurrent {
    layers: Vec<[Tensor; 4]>,
    family: Family,
    dim: i64,
    residual: bool,
    dropout: Dropout,
}

impl Recurrent {
    fn new(p: &Path, config: &EncoderConfig, input: i64) -> Result<Self> {
        let (dim, family) = (config.arch.dim, config.arch.family);
        let gates = if family == Family::Lstm { 4 * dim } else { 3 * dim };
        let layer = |layer: i64| -> Result<[Tensor; 4]> {
            let input = if layer == 0 { input } else { dim };
            let make =
                |name: &str, shape: &[i64]| p.f_var(&format!("{name}_l{layer}"), shape, uniform_fan_in(dim));
            Ok([
                make("weight_ih", &[gates, input])?,
                make("weight_hh", &[gates, dim])?,
                make("bias_ih", &[gates])?,
                make("bias_hh", &[gates])?,
            ])
        };
        Ok(Recurrent {
            layers: (0..config.arch.layers).map(layer).collect::<Result<_>>()?,
            family,
            dim,
            residual: config.residual,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let zeros = Tensor::f_zeros(
            [1, x.size().first().copied().unwrap_or(0), self.dim],
            (Kind::Float, x.device()),
        )?;
        let mut x = x.shallow_clone();
        for (n, weights) in self.layers.iter().enumerate() {
            let y = match self.family {
                Family::Lstm => {
                    x.f_lstm(
                        &[zeros.shallow_clone(), zeros.shallow_clone()],
                        weights,
                        true,
                        1,
                        0.,
                        false,
                        false,
                        true,
                    )?
                    .0
                }
                _ => x.f_gru(&zeros, weights, true, 1, 0., false, false, true)?.0,
            };
            let y = if n + 1 < self.layers.len() { self.dropout.forward(&y, mode)? } else { y };
            x = if self.residual && n > 0 { x.f_add(&y)? } else { y };
        }
        Ok(x)
    }
}

/// Blocks of attention.
#[derive(Debug)]
pub(super) struct Transformer {
    projection: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Transformer {
    fn new(p: &Path, config: &EncoderConfig, input: i64, heads: i64) -> Result<Self> {
        let dim = config.arch.dim;
        let block = BlockConfig {
            dim,
            heads,
            hidden: 4 * dim,
            dropout: config.dropout,
            attention_dropout: config.attention_dropout,
            rotary: Some(BASE),
            ..BlockConfig::default()
        };
        let places = p / "blocks";
        let blocks = (0..config.arch.layers).map(|i| Block::new(&(&places / i), &block, &TIMM));
        Ok(Transformer {
            projection: Linear::new(&(p / "feature_projection" / "projection"), input, dim)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: LayerNorm::new(&(p / "norm"), dim, block.eps)?,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    fn forward(&self, x: &Tensor, attend: Attend, mode: Mode) -> Result<Tensor> {
        let mut x = self.dropout.forward(&self.projection.forward(x, mode)?, mode)?;
        let mask = match attend {
            Attend::All => AttentionMask::None,
            Attend::Past => AttentionMask::Causal,
        };
        for block in &self.blocks {
            x = block.forward_masked(&x, mask, mode)?;
        }
        self.norm.forward(&x, mode)
    }
}
