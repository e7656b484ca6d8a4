//! The encoder of contrastive predictive coding: five strided convolutions, a vector for every 160 samples.
//!
//! Source: van den Oord et al., 2018, section 3.1: <https://arxiv.org/abs/1807.03748>; names, padding, normalization and
//! initialization as `CPCEncoder` of CPC_audio, `cpc/model.py`: <https://github.com/facebookresearch/CPC_audio>.
use super::{ChannelNorm, Window, frames, one_channel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{BatchNorm, Conv1d, ConvOptions, Mode, Module};
use ssl_core::{Error, Result};
use tch::Tensor;
use tch::nn::Path;

const LAYERS: [Window; 5] = [(10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)];

/// What follows each convolution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpcNorm {
    /// Each position over its channels: what the reference code calls layer norm, and its default.
    #[default]
    Channel,
    /// Each channel over the batch and all time.
    Batch,
    /// Nothing, as in the paper.
    None,
}

/// The encoder's width and normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CpcEncoderConfig {
    /// Channels of every layer: 512 in the paper, 256 in the reference code.
    pub channels: i64,
    /// What follows each convolution.
    pub norm: CpcNorm,
}

impl Default for CpcEncoderConfig {
    fn default() -> Self {
        CpcEncoderConfig { channels: 512, norm: CpcNorm::Channel }
    }
}

/// Five convolutions, each with a normalization and a ReLU.
#[derive(Debug)]
pub struct CpcEncoder {
    channels: i64,
    layers: Vec<(Conv1d, Option<Box<dyn Module>>)>,
}

impl CpcEncoder {
    /// Samples for each vector that comes out.
    pub const STRIDE: i64 = 160;

    /// Makes the variables `conv0` to `conv4` and `batchNorm0` to `batchNorm4` under `p`.
    ///
    /// # Errors
    /// `Error::Config` when there is no channel.
    pub fn new(p: &Path, config: &CpcEncoderConfig) -> Result<Self> {
        let CpcEncoderConfig { channels, norm } = *config;
        if channels < 1 {
            return Err(Error::config("channels", format!("expected at least 1, got {channels}")));
        }
        let layer = |(n, (kernel, stride, padding)): (usize, Window)| {
            let input = if n == 0 { 1 } else { channels };
            let options = ConvOptions { stride, padding, groups: 1 };
            let conv = Conv1d::with_bias(&(p / format!("conv{n}")), (input, channels), kernel, options)?;
            let p = p / format!("batchNorm{n}");
            let norm: Option<Box<dyn Module>> = match norm {
                CpcNorm::Channel => Some(Box::new(ChannelNorm::new(&p, channels)?)),
                CpcNorm::Batch => Some(Box::new(BatchNorm::new(&p, channels)?)),
                CpcNorm::None => None,
            };
            Ok((conv, norm))
        };
        Ok(CpcEncoder { channels, layers: LAYERS.into_iter().enumerate().map(layer).collect::<Result<_>>()? })
    }

    /// Channels that come out.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Vectors for a wave of so many samples.
    pub fn frames(&self, samples: i64) -> i64 {
        frames(LAYERS, samples)
    }
}

impl Module for CpcEncoder {
    /// # Shapes
    /// `x`: `[B, T]`; returns `[B, C, T / 160]`, rounded down where 160 does not divide T.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of waves long enough for one vector.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = one_channel(x, |samples| self.frames(samples))?;
        for (conv, norm) in &self.layers {
            x = conv.forward(&x, mode)?;
            if let Some(norm) = norm {
                x = norm.forward(&x, mode)?;
            }
            x = x.f_relu()?;
        }
        Ok(x)
    }
}
