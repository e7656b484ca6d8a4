//! Networks that turn images into features, under the names and with the initialization of the reference libraries.

mod encoder;
mod resnet;
mod vit;

pub use encoder::{Encoder, EncoderConfig, Encoders};
pub(crate) use resnet::channels_last;
pub use resnet::{Arch, ResNet, ResNetConfig, Stem};
pub(crate) use vit::sincos_positions;
pub use vit::{Pool, Positions, Vit, VitArch, VitConfig};

use ssl_core::{Mode, Result};
use std::fmt::Debug;
use tch::Tensor;

/// A network whose features are used downstream.
pub trait Backbone: Debug + Send {
    /// The feature maps of each stage by name, first to last, each `[B, C_i, H_i, W_i]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of images with the expected number of channels.
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>>;

    /// The representation: the last stage, averaged over positions, in float32. `[B, D]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor>;

    /// `D` of [`Backbone::forward`].
    fn dim(&self) -> i64;
}

/// Numbers that a stage may give a linear probe, at most.
pub(crate) const PROBE_FEATURES: i64 = 1024;

/// Each stage as a vector for a linear probe: pooled to the finest square grid that keeps it within `budget` numbers.
///
/// Early stages have few channels and much detail: averaged to one position they would be worth little.
///
/// # Shapes
/// Each map `[B, C, H, W]`; returns `[B, C * s * s]` in float32.
///
/// # Source
/// Zhang et al., 2017, section 4.1, pool each layer to about the same number of features:
/// <https://arxiv.org/abs/1611.09842>.
pub fn probe_features(maps: &[(String, Tensor)], budget: i64) -> Result<Vec<(String, Tensor)>> {
    maps.iter()
        .map(|(name, map)| {
            let (_, c, h, w) = ssl_core::dims4(map, name, "[B, C, H, W]")?;
            let side = (((budget / c.max(1)) as f64).sqrt() as i64).clamp(1, h.min(w));
            let pooled = map.f_to_kind(tch::Kind::Float)?.f_adaptive_avg_pool2d([side, side])?;
            Ok((name.clone(), pooled.f_flatten(1, 3)?))
        })
        .collect()
}
