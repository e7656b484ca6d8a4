//! Normalizations of sequences, channels first.
use ssl_core::nn::{Mode, Module};
use ssl_core::{Precision, Result};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Normalization of each position over its channels; weight 1 and bias 0 at the start.
///
/// # Source
/// `ChannelNorm` of CPC_audio, `cpc/model.py`: <https://github.com/facebookresearch/CPC_audio>. Its variance divides by
/// C - 1, and its variables are `[1, C, 1]`.
#[derive(Debug)]
pub struct ChannelNorm {
    weight: Tensor,
    bias: Tensor,
}

impl ChannelNorm {
    /// A layer for `channels` channels.
    pub fn new(p: &Path, channels: i64) -> Result<Self> {
        let shape = [1, channels, 1];
        Ok(ChannelNorm { weight: p.f_ones("weight", &shape)?, bias: p.f_zeros("bias", &shape)? })
    }
}

impl Module for ChannelNorm {
    /// # Shapes
    /// `x`: `[B, C, T]`; returns the same, half precision as float32.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        Precision::Fp32.scope(x.device(), || {
            let x = x.f_to_kind(Kind::Float)?;
            let (variance, mean) = x.f_var_mean_correction([1i64].as_slice(), 1, true)?;
            let factor = variance.f_add_scalar(1e-5)?.f_rsqrt()?.f_mul(&self.weight)?;
            Ok(self.bias.f_addcmul(&x.f_sub(&mean)?, &factor)?)
        })
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
