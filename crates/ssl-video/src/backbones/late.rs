//! An image network on each frame, whose features are joined at the end.
//!
//! Source: late fusion from Karpathy et al., 2014, section 3.1: <https://doi.org/10.1109/CVPR.2014.223>; frames that are
//! joined end to end as in Lee et al., 2017: <https://arxiv.org/abs/1708.01246>.
use super::{Backbone, clips, images, mode_of_parts, of_images};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::{Error, Mode, Result};
use ssl_vision::backbones::{self, Arch, Backbone as _, ResNet, ResNetConfig, Stem};
use std::fmt;
use std::str::FromStr;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// An image network with `_late` behind its name: `resnet18_late`, `resnet10_w16_late`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct LateArch(pub Arch);

const SUFFIX: &str = "_late";

impl FromStr for LateArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let of_images = name.strip_suffix(SUFFIX).ok_or_else(|| {
            let known = "the name of an image network with _late behind it, such as resnet10_w16_late";
            Error::config("encoder", format!("expected {known}, got {name}"))
        })?;
        of_images.parse().map(LateArch)
    }
}

impl fmt::Display for LateArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.0)
    }
}

impl TryFrom<String> for LateArch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<LateArch> for String {
    fn from(arch: LateArch) -> String {
        arch.to_string()
    }
}

/// What becomes of the features of the frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// Their mean, which knows no order.
    Mean,
    /// They are joined end to end.
    #[default]
    Concat,
}

/// The shape of an image network on frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LateConfig {
    /// Which network.
    pub arch: LateArch,
    /// The layers before the first stage.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the clips.
    pub channels: i64,
    /// What becomes of the features of the frames.
    #[serde(default)]
    pub fusion: Fusion,
    /// Places in time that are joined end to end: of a longer clip, the means of as many stretches.
    #[serde(default = "four")]
    pub frames: i64,
}

fn four() -> i64 {
    4
}

impl LateConfig {
    fn of_images(&self) -> ResNetConfig {
        ResNetConfig { arch: self.arch.0, stem: self.stem, channels: self.channels }
    }

    /// Where a variable of that name lies: the stem at 0, the stages at 1 to 4, a classifier at 5.
    pub fn layer_of(&self, name: &str) -> Layer {
        self.of_images().layer_of(name)
    }
}

/// An image network on each frame. Its variables have the names of the image network.
#[derive(Debug)]
pub struct Late {
    net: ResNet,
    config: LateConfig,
}

impl Late {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &LateConfig) -> Result<Self> {
        if !(1..=256).contains(&config.frames) {
            return Err(Error::config("frames", format!("expected 1 to 256, got {}", config.frames)));
        }
        Ok(Late { net: ResNet::new(p, &config.of_images())?, config: *config })
    }

    /// The maps of each stage with all frames as images, first to last, each made of the one before it.
    /// `[B, C, T, H, W]` to `[B * T, C_i, H_i, W_i]`.
    pub(crate) fn maps_of_images(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let [_, _, frames, ..] = clips(x, self.config.channels)?;
        self.net.features(&images(x)?, mode_of_parts(mode, frames))
    }

    /// The representation of clips, of the features of their frames. `[B, T, E]` to `[B, D]`.
    pub(crate) fn fused(&self, features: &Tensor) -> Result<Tensor> {
        Ok(match self.config.fusion {
            Fusion::Mean => features.f_mean_dim([1i64].as_slice(), false, Kind::Float)?,
            Fusion::Concat => {
                let stretches = features.f_transpose(1, 2)?.f_adaptive_avg_pool1d(self.config.frames)?;
                stretches.f_transpose(1, 2)?.f_flatten(1, 2)?
            }
        })
    }
}

impl Backbone for Late {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let [_, _, frames, ..] = clips(x, self.config.channels)?;
        let maps = self.maps_of_images(x, mode)?;
        maps.into_iter().map(|(name, map)| Ok((name, of_images(&map, frames)?))).collect()
    }

    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let [_, _, frames, ..] = clips(x, self.config.channels)?;
        let features = backbones::Backbone::forward(&self.net, &images(x)?, mode_of_parts(mode, frames))?;
        Ok(features.f_unflatten(0, [-1, frames])?)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.fused(&self.frames(x, mode)?)
    }

    fn frame_dim(&self) -> i64 {
        self.net.dim()
    }

    fn dim(&self) -> i64 {
        match self.config.fusion {
            Fusion::Mean => self.net.dim(),
            Fusion::Concat => self.config.frames * self.net.dim(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    fn build(fusion: Fusion, frames: i64) -> (VarStore, Late) {
        let vars = VarStore::new(Device::Cpu);
        let arch = "resnet10_w4_late".parse().unwrap();
        let config = LateConfig { arch, stem: Stem::Cifar, channels: 1, fusion, frames };
        let net = Late::new(&vars.root(), &config).unwrap();
        (vars, net)
    }

    fn clips(frames: i64) -> Tensor {
        Tensor::rand([2, 1, frames, 8, 8], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn frames_are_seen_one_by_one_and_joined_or_averaged() {
        let (_vars, net) = build(Fusion::Concat, 4);
        let x = clips(4);
        let features = net.frames(&x, Mode::Eval).unwrap();
        assert_eq!((features.size(), net.dim()), (vec![2, 4, 32], 128));
        for frame in 0..4 {
            let alone = net.net.forward(&x.select(2, frame), Mode::Eval).unwrap();
            assert!(alone.allclose(&features.select(1, frame), 1e-5, 1e-6, false));
        }
        let joined = net.forward(&x, Mode::Eval).unwrap();
        assert!(joined.allclose(&features.reshape([2, 128]), 1e-6, 0., false));
        let map = &net.features(&x, Mode::Eval).unwrap()[1].1;
        assert_eq!(map.size(), [2, 8, 4, 4, 4]);
        // Of a clip of eight, frames are averaged by two.
        let longer = clips(8);
        let pairs =
            net.frames(&longer, Mode::Eval).unwrap().view([2, 4, 2, 32]).mean_dim(2, false, Kind::Float);
        assert!(net.forward(&longer, Mode::Eval).unwrap().allclose(&pairs.view([2, 128]), 1e-5, 1e-6, false));
        let (_vars, net) = build(Fusion::Mean, 4);
        let mean = net.frames(&longer, Mode::Eval).unwrap().mean_dim(1, false, Kind::Float);
        assert!(net.forward(&longer, Mode::Eval).unwrap().allclose(&mean, 1e-5, 1e-6, false));
        assert_eq!(net.dim(), 32);
    }

    #[test]
    fn running_statistics_of_calibration_are_those_of_all_frames() {
        let (vars, net) = build(Fusion::Mean, 4);
        let x = clips(6);
        let variance = || vars.variables()["bn1.running_var"].copy();
        let _ = net.forward(&x, Mode::Calibrate { seen: 0 }).unwrap();
        let whole = variance();
        let _ = net.forward(&x.narrow(0, 0, 1), Mode::Calibrate { seen: 0 }).unwrap();
        let _ = net.forward(&x.narrow(0, 1, 1), Mode::Calibrate { seen: 1 }).unwrap();
        assert!(variance().allclose(&whole, 1e-4, 1e-6, false));
    }

    #[test]
    fn names_end_in_late() {
        assert_eq!("resnet18_late".parse::<LateArch>().unwrap().to_string(), "resnet18_late");
        assert!("resnet18".parse::<LateArch>().unwrap_err().to_string().ends_with("got resnet18"));
        assert!("resnet19_late".parse::<LateArch>().unwrap_err().to_string().contains("resnet34"));
    }
}
