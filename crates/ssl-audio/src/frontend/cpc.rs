//! The encoder of contrastive predictive coding: five strided convolutions, a vector for every 160 samples.
//!
//! Source: van den Oord et al., 2018, section 3.1: <https://arxiv.org/abs/1807.03748>; names, padding, normalization and
//! initialization as `CPCEncoder` of CPC_audio, `cpc/model.py`: <https://github.com/facebookresearch/CPC_audio>.
use super::{ChannelNorm, Window, frames, one_channel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{BatchNorm, Conv1d, ConvOptions, Mode, Module, uniform_fan_in};
use ssl_core::{Error, Result, dims3};
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

/// A convolution whose kernel is two strides long, with half a stride of zeros on each side, over time with the channels
/// beside each other.
///
/// With A and B for the halves of the kernel and x for strides of the input, two outputs beside each other are
/// A x0 + B x1 = A (x0 - x1) + (A + B) x1 and A x1 + B x2 = (A + B) x1 + B (x2 - x1): three products of matrices, where a
/// convolution takes four (Winograd, 1980: the smallest of his algorithms).
#[derive(Debug)]
struct Halves {
    stride: i64,
    weight: Tensor,
    bias: Tensor,
}

impl Halves {
    fn new(p: &Path, channels: i64, stride: i64) -> Result<Self> {
        let init = uniform_fan_in(channels * 2 * stride);
        let weight = p.f_var("weight", &[channels, channels, 2 * stride], init)?;
        Ok(Halves { stride, weight, bias: p.f_var("bias", &[channels], init)? })
    }
}

impl Module for Halves {
    /// # Shapes
    /// `x`: `[B, C, T]`; returns `[B, C, T / stride]`, rounded down.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let stride = self.stride;
        let (batch, channels, length) = dims3(x, "waves", "[B, C, T]")?;
        let left = stride / 2;
        // Pairs of strides: an even number, and one more for the last window's second half.
        let count = length / stride;
        let pairs = (count + 1) / 2;
        let right = (2 * pairs + 2) * stride - left - length;
        let strides = x.f_transpose(1, 2)?.f_constant_pad_nd([0, 0, left, right])?;
        let strides = strides.f_view([batch, pairs + 1, 2, stride * channels])?;
        let (even, odd) = (strides.f_select(2, 0)?, strides.f_select(2, 1)?.f_narrow(1, 0, pairs)?);
        let before = even.f_narrow(1, 0, pairs)?.f_sub(&odd)?;
        let behind = even.f_narrow(1, 1, pairs)?.f_sub(&odd)?;
        let halves = self.weight.f_view([channels, channels, 2, stride])?.f_permute([2, 0, 3, 1])?;
        let halves = halves.f_reshape([2, channels, stride * channels])?;
        let (first, second) = (halves.f_select(0, 0)?, halves.f_select(0, 1)?);
        let shared = odd.f_linear(&first.f_add(&second)?, Some(&self.bias))?;
        let before = before.f_linear::<&Tensor>(&first, None)?.f_add(&shared)?;
        let behind = behind.f_linear::<&Tensor>(&second, None)?.f_add(&shared)?;
        let y = Tensor::f_stack(&[before, behind], 2)?.f_view([batch, 2 * pairs, channels])?;
        Ok(y.f_narrow(1, 0, count)?.f_transpose(1, 2)?)
    }
}

/// Five convolutions, each with a normalization and a ReLU.
#[derive(Debug)]
pub struct CpcEncoder {
    channels: i64,
    layers: Vec<Layer>,
}

/// A convolution and what normalizes its channels.
#[derive(Debug)]
struct Layer {
    conv: Box<dyn Module>,
    norm: Option<Box<dyn Module>>,
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
            let place = p / format!("conv{n}");
            let options = ConvOptions { stride, padding, groups: 1 };
            let conv: Box<dyn Module> = match n {
                0 => Box::new(Conv1d::with_bias(&place, (1, channels), kernel, options)?),
                _ => Box::new(Halves::new(&place, channels, stride)?),
            };
            let p = p / format!("batchNorm{n}");
            let norm: Option<Box<dyn Module>> = match norm {
                CpcNorm::Channel => Some(Box::new(ChannelNorm::new(&p, channels)?)),
                CpcNorm::Batch => Some(Box::new(BatchNorm::new(&p, channels)?)),
                CpcNorm::None => None,
            };
            Ok(Layer { conv, norm })
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
        for Layer { conv, norm } in &self.layers {
            x = conv.forward(&x, mode)?;
            if let Some(norm) = norm {
                x = norm.forward(&x, mode)?;
            }
            x = x.f_relu()?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::no_grad;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn both_halves_together_are_libtorchs_convolution_in_value_and_gradient() {
        assert!(
            LAYERS
                .iter()
                .skip(1)
                .all(|(kernel, stride, padding)| *kernel == 2 * stride && 2 * padding == *stride)
        );
        for (stride, length) in [(4, 24), (4, 25), (4, 27), (2, 9), (4, 4)] {
            let vars = VarStore::new(Device::Cpu);
            let halves = Halves::new(&vars.root(), 6, stride).unwrap();
            let of = |name: &str| vars.variables()[name].shallow_clone();
            let x = Tensor::randn([3, 6, length], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let run = |y: Tensor| -> Vec<Tensor> {
                let leaves = [x.shallow_clone(), of("weight"), of("bias")];
                let gradients = Tensor::run_backward(&[y.square().sum(Kind::Float)], &leaves, false, false);
                gradients.into_iter().chain([y.detach()]).collect()
            };
            let got = run(halves.forward(&x, Mode::Train).unwrap());
            let expected = run(x.conv1d(&of("weight"), Some(of("bias")), stride, stride / 2, 1, 1));
            for (a, b) in got.iter().zip(&expected) {
                assert!(a.size() == b.size() && a.allclose(b, 1e-4, 1e-4, false), "{stride} {length}");
            }
        }
    }

    #[test]
    fn what_falls_short_of_a_window_does_not_count() {
        let vars = VarStore::new(Device::Cpu);
        let encoder =
            CpcEncoder::new(&vars.root(), &CpcEncoderConfig { channels: 4, ..CpcEncoderConfig::default() });
        let encoder = encoder.unwrap();
        for samples in [160, 479, 1_000, 1_599, 1_600] {
            let x = Tensor::randn([2, samples], (Kind::Float, Device::Cpu));
            let y = no_grad(|| encoder.forward(&x, Mode::Eval)).unwrap();
            assert_eq!(y.size(), [2, 4, encoder.frames(samples)], "{samples}");
        }
    }
}
