//! Normalizations of sequences, channels first.
use ssl_core::nn::{Mode, Module};
use ssl_core::{Error, Result};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Normalization of each position over its channels; weight 1 and bias 0 at the start.
///
/// # Source
/// `ChannelNorm` of CPC_audio, `cpc/model.py`: <https://github.com/facebookresearch/CPC_audio>. Its variance divides by
/// C - 1, and its variables are `[1, C, 1]`.
#[derive(Debug)]
pub struct ChannelNorm {
    channels: i64,
    weight: Tensor,
    bias: Tensor,
}

impl ChannelNorm {
    /// A layer for `channels` channels.
    ///
    /// # Errors
    /// `Error::Config` when there are fewer than two, which have no variance.
    pub fn new(p: &Path, channels: i64) -> Result<Self> {
        if channels < 2 {
            return Err(Error::config("channels", format!("expected at least 2, got {channels}")));
        }
        let shape = [1, channels, 1];
        Ok(ChannelNorm { channels, weight: p.f_ones("weight", &shape)?, bias: p.f_zeros("bias", &shape)? })
    }
}

impl Module for ChannelNorm {
    /// # Shapes
    /// `x`: `[B, C, T]`; returns the same, the channels beside each other in memory, where a convolution after it is
    /// fastest.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        // A layer norm divides the variance by C: what is under the root is smaller by this ratio, and so is epsilon.
        let ratio = (self.channels - 1) as f64 / self.channels as f64;
        let weight = self.weight.f_view(-1)?.f_mul_scalar(ratio.sqrt())?;
        let (bias, x) = (self.bias.f_view(-1)?, x.f_transpose(1, 2)?);
        let y = x.f_layer_norm(self.channels, Some(&weight), Some(&bias), 1e-5 * ratio, true)?;
        Ok(y.f_transpose(1, 2)?)
    }
}

/// Normalization of groups of channels over the channels of the group and all time, as `torch.nn.GroupNorm`; weight 1
/// and bias 0 at the start.
#[derive(Debug)]
pub struct GroupNorm {
    groups: i64,
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    /// A layer for `channels` channels in `groups` groups.
    pub fn new(p: &Path, groups: i64, channels: i64) -> Result<Self> {
        let (weight, bias) = (p.f_ones("weight", &[channels])?, p.f_zeros("bias", &[channels])?);
        Ok(GroupNorm { groups, weight, bias })
    }
}

impl Module for GroupNorm {
    /// # Shapes
    /// `x`: `[B, C, T]`; returns the same, half precision as float32.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let x = x.f_to_kind(Kind::Float)?;
        Ok(x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), 1e-5, true)?)
    }
}
