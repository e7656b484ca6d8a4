//! Networks that turn clips into features, under the names and with the initialization of the reference libraries.
//!
//! ```
//! use ssl_core::Mode;
//! use ssl_video::backbones::{Backbone, Encoder, EncoderConfig};
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let like = EncoderConfig::default();
//! let config = EncoderConfig::named("r3d10_w4", &like, 16, 8)?;
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &config)?;
//! let clips = Tensor::f_randn([2, 3, 8, 16, 16], (Kind::Float, Device::Cpu))?;
//! assert_eq!(encoder.forward(&clips, Mode::Eval)?.size(), [2, 32]);
//! # Ok::<(), ssl_core::Error>(())
//! ```

mod arch;
mod conv3d;
mod encoder;
mod encoders;
mod late;
mod predictive;
mod recurrent;
mod resnet3d;
mod vit;

pub use arch::{Arch3d, Convolutions};
pub(crate) use conv3d::Gates;
pub use encoder::{Encoder, EncoderConfig};
pub use encoders::Encoders;
pub use late::{Fusion, Late, LateArch, LateConfig};
pub use predictive::{Predictive, PredictiveArch, PredictiveConfig};
use recurrent::ConvGru;
pub(crate) use recurrent::orthogonal;
pub use recurrent::{Recurrent, RecurrentArch, RecurrentConfig};
pub use resnet3d::{ResNet3d, ResNet3dConfig};
pub use vit::{VideoVit, VideoVitArch, VideoVitConfig};
pub(crate) use vit::{chosen, sinusoid_positions, video_block};

use ssl_core::{Error, Mode, Result};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A network whose features are used downstream.
pub trait Backbone: Debug + Send {
    /// The feature maps of each stage by name, first to last, each `[B, C_i, T_i, H_i, W_i]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of clips with the expected number of channels.
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>>;

    /// A vector for each place in time, first to last, in float32: of each frame, or of some frames together.
    /// `[B, N, E]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor>;

    /// The mean of [`Backbone::frames`]. `[B, E]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    fn mean(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.frames(x, mode)?.f_mean_dim([1i64].as_slice(), false, Kind::Float)?)
    }

    /// The representation of a clip, in float32; [`Backbone::mean`] unless the network has another. `[B, D]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.mean(x, mode)
    }

    /// `E` of [`Backbone::frames`].
    fn frame_dim(&self) -> i64;

    /// `D` of [`Backbone::forward`].
    fn dim(&self) -> i64 {
        self.frame_dim()
    }
}

/// Batch, channels, frames, height and width of clips of so many channels.
pub(crate) fn clips(x: &Tensor, channels: i64) -> Result<[i64; 5]> {
    match <[i64; 5]>::try_from(x.size()) {
        Ok(size @ [_, c, t, h, w]) if c == channels && t > 0 && h > 0 && w > 0 => Ok(size),
        _ => {
            let expected = format!("[B, {channels}, T, H, W]");
            Err(Error::Shape { what: "clips".into(), expected, got: x.size() })
        }
    }
}

/// The frames of all clips as images. `[B, C, T, H, W]` to `[B * T, C, H, W]`; where the channels are innermost in
/// memory, without a copy.
pub(crate) fn images(x: &Tensor) -> Result<Tensor> {
    Ok(channels_last(x)?.f_transpose(1, 2)?.f_flatten(0, 1)?)
}

/// The inverse of [`images`]: `[B * T, C, H, W]` to `[B, C, T, H, W]`.
pub(crate) fn of_images(x: &Tensor, frames: i64) -> Result<Tensor> {
    Ok(x.f_unflatten(0, [-1, frames])?.f_transpose(1, 2)?)
}

/// The mode for a network that sees each clip as so many examples.
pub(crate) fn mode_of_parts(mode: Mode, parts: i64) -> Mode {
    match mode {
        Mode::Calibrate { seen } => Mode::Calibrate { seen: seen * parts.max(1) as u64 },
        other => other,
    }
}

/// The same clips with the channels innermost in memory, the layout in which convolutions are fastest: four times as
/// fast on CPUs with bfloat16.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 4, 1])?.f_contiguous()?.f_permute([0, 4, 1, 2, 3])?)
}

/// Numbers that a stage may give a linear probe, at most.
pub(crate) const PROBE_FEATURES: i64 = 1024;
/// Places in time that a stage keeps for it, at most.
const PROBE_TIMES: i64 = 4;

/// Each stage as a vector for a linear probe: pooled to four places in time, where it has as many, and to the finest
/// square grid that keeps it within `budget` numbers.
///
/// # Shapes
/// Each map `[B, C, T, H, W]`; returns `[B, C * t * s * s]` in float32.
///
/// # Source
/// Zhang et al., 2017, section 4.1, pool each layer of images to about the same number of features:
/// <https://arxiv.org/abs/1611.09842>.
pub fn probe_features(maps: &[(String, Tensor)], budget: i64) -> Result<Vec<(String, Tensor)>> {
    maps.iter()
        .map(|(name, map)| {
            let Ok([_, c, t, h, w]) = <[i64; 5]>::try_from(map.size()) else {
                let (what, expected) = (name.clone(), "[B, C, T, H, W]".into());
                return Err(Error::Shape { what, expected, got: map.size() });
            };
            let times = (budget / c.max(1)).clamp(1, PROBE_TIMES.min(t));
            let side = (((budget / (c * times).max(1)) as f64).sqrt() as i64).clamp(1, h.min(w));
            let pooled = map.f_to_kind(Kind::Float)?.f_adaptive_avg_pool3d([times, side, side])?;
            Ok((name.clone(), pooled.f_flatten(1, 4)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn clips_become_images_and_back_without_a_copy_where_channels_are_last() {
        let x = Tensor::arange(2 * 3 * 4 * 5 * 6, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5, 6]);
        let frames = images(&x).unwrap();
        assert_eq!(frames.size(), [8, 3, 5, 6]);
        assert_eq!(frames.double_value(&[4 + 3, 2, 1, 5]), x.double_value(&[1, 2, 3, 1, 5]));
        assert!(of_images(&frames, 4).unwrap().equal(&x));
        let last = channels_last(&x).unwrap();
        assert_eq!(images(&last).unwrap().data_ptr(), last.data_ptr());
        let message = clips(&x, 1).unwrap_err().to_string();
        assert_eq!(message, "clips: expected [B, 1, T, H, W], got [2, 3, 4, 5, 6]");
    }

    #[test]
    fn stages_keep_time_and_place_within_their_budget() {
        let map = |c| ("map".to_string(), Tensor::ones([2, c, 8, 16, 16], (Kind::Float, Device::Cpu)));
        for (channels, features) in [(16, 16 * 4 * 16), (512, 1024), (2048, 2048)] {
            let found = probe_features(&[map(channels)], PROBE_FEATURES).unwrap();
            assert_eq!(found[0].1.size(), [2, features], "{channels}");
        }
        let flat = [("flat".to_string(), Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))];
        assert!(probe_features(&flat, 9).unwrap_err().to_string().starts_with("flat: expected"));
    }
}
