//! ResNet under torchvision's names and initialization.
//!
//! Source: He et al., 2016: <https://arxiv.org/abs/1512.03385>; torchvision `models/resnet.py`; the stem for small
//! images from Chen et al., 2020, appendix B.9: <https://arxiv.org/abs/2002.05709>.
use super::Backbone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::nn::{BatchNorm, Conv2d, ConvOptions, Module, kaiming_normal_fan_out};
use ssl_core::{Error, Mode, Result, dims4};
use std::fmt;
use std::str::FromStr;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Which ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Arch {
    /// `resnet10_wN`: four stages of one basic block, N to 8 N channels wide. With N of 24 or 32 it suits two CPU cores.
    Small(i64),
    /// `resnet18`.
    ResNet18,
    /// `resnet34`.
    ResNet34,
    /// `resnet50`.
    ResNet50,
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let width =
            || name.strip_prefix("resnet10_w").and_then(|n| n.parse().ok()).filter(|n| (1..=512).contains(n));
        match name {
            "resnet18" => Ok(Arch::ResNet18),
            "resnet34" => Ok(Arch::ResNet34),
            "resnet50" => Ok(Arch::ResNet50),
            _ => width().map(Arch::Small).ok_or_else(|| {
                let known = "resnet18, resnet34, resnet50 or resnet10_wN with a width N of 1 to 512";
                Error::config("encoder", format!("expected {known}, got {name}"))
            }),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Small(width) => write!(f, "resnet10_w{width}"),
            Arch::ResNet18 => f.write_str("resnet18"),
            Arch::ResNet34 => f.write_str("resnet34"),
            Arch::ResNet50 => f.write_str("resnet50"),
        }
    }
}

impl TryFrom<String> for Arch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> String {
        arch.to_string()
    }
}

/// The layers before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 convolution of stride 2 and max pooling: for 224 pixels.
    #[default]
    ImageNet,
    /// 3x3 convolution of stride 1, no pooling: for 32 pixels.
    Cifar,
    /// 3x3 convolution of stride 2, no pooling: a quarter of the work of `cifar`.
    Strided,
}

/// The shape of a ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Which ResNet.
    pub arch: Arch,
    /// The layers before the first stage.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the images.
    pub channels: i64,
}

impl ResNetConfig {
    /// Where a variable of that name lies: the stem at 0, the stages at 1 to 4, a classifier at 5.
    pub fn layer_of(&self, name: &str) -> Layer {
        let stage = STAGE_NAMES.iter().position(|stage| name.starts_with(stage));
        Layer { depth: stage.map_or(0, |stage| stage + 1), of: STAGE_NAMES.len() + 1 }
    }
}

/// A ResNet without its classifier.
#[derive(Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    pool: bool,
    stages: Vec<Vec<Block>>,
    channels: i64,
    dim: i64,
}

const STAGE_NAMES: [&str; 4] = ["layer1", "layer2", "layer3", "layer4"];

impl ResNet {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &ResNetConfig) -> Result<Self> {
        if config.channels < 1 {
            return Err(Error::config("channels", format!("expected at least 1, got {}", config.channels)));
        }
        let (width, blocks, expansion) = match config.arch {
            Arch::Small(width) => (width, [1, 1, 1, 1], 1),
            Arch::ResNet18 => (64, [2, 2, 2, 2], 1),
            Arch::ResNet34 => (64, [3, 4, 6, 3], 1),
            Arch::ResNet50 => (64, [3, 4, 6, 3], 4),
        };
        let (kernel, stride) = match config.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Strided => (3, 2),
        };
        let conv1 = conv(&(p / "conv1"), (config.channels, width), kernel, stride)?;
        let bn1 = BatchNorm::new(&(p / "bn1"), width)?;
        let mut input = width;
        let mut stages = Vec::new();
        for (stage, (name, blocks)) in STAGE_NAMES.into_iter().zip(blocks).enumerate() {
            let (inner, path) = (width << stage, p / name);
            let mut layers = Vec::new();
            for index in 0..blocks {
                let stride = if index == 0 && stage > 0 { 2 } else { 1 };
                layers.push(Block::new(&(&path / index), input, inner, expansion, stride)?);
                input = inner * expansion;
            }
            stages.push(layers);
        }
        let pool = config.stem == Stem::ImageNet;
        Ok(ResNet { conv1, bn1, pool, stages, channels: config.channels, dim: input })
    }

    fn stem(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, c, _, _) = dims4(x, "images", "[B, C, H, W]")?;
        if c != self.channels {
            let expected = format!("[B, {}, H, W]", self.channels);
            return Err(Error::Shape { what: "images".into(), expected, got: x.size() });
        }
        let x = self.conv1.forward(&channels_last(x)?, mode)?;
        let x = self.bn1.forward(&x, mode)?.f_relu_()?;
        Ok(if self.pool { x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)? } else { x })
    }
}

impl Backbone for ResNet {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let mut x = self.stem(x, mode)?;
        let mut maps = Vec::new();
        for (name, stage) in STAGE_NAMES.into_iter().zip(&self.stages) {
            for block in stage {
                x = block.forward(&x, mode)?;
            }
            maps.push((name.to_string(), x.shallow_clone()));
        }
        Ok(maps)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.stem(x, mode)?;
        for block in self.stages.iter().flatten() {
            x = block.forward(&x, mode)?;
        }
        Ok(x.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?)
    }

    fn dim(&self) -> i64 {
        self.dim
    }
}

/// A residual block: basic (two 3x3) or, with an expansion above 1, bottleneck (1x1, 3x3, 1x1).
#[derive(Debug)]
struct Block {
    layers: Vec<(Conv2d, BatchNorm)>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(p: &Path, input: i64, inner: i64, expansion: i64, stride: i64) -> Result<Self> {
        let output = inner * expansion;
        // torchvision puts the stride of a bottleneck on its 3x3 convolution.
        let shapes = if expansion == 1 {
            vec![((input, inner), 3, stride), ((inner, inner), 3, 1)]
        } else {
            vec![((input, inner), 1, 1), ((inner, inner), 3, stride), ((inner, output), 1, 1)]
        };
        let layers = shapes
            .into_iter()
            .enumerate()
            .map(|(i, (io, kernel, stride))| {
                let conv = conv(&(p / format!("conv{}", i + 1)), io, kernel, stride)?;
                Ok((conv, BatchNorm::new(&(p / format!("bn{}", i + 1)), io.1)?))
            })
            .collect::<Result<_>>()?;
        let downsample = if stride != 1 || input != output {
            let path = p / "downsample";
            Some((conv(&(&path / 0), (input, output), 1, stride)?, BatchNorm::new(&(&path / 1), output)?))
        } else {
            None
        };
        Ok(Block { layers, downsample })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(&conv.forward(x, mode)?, mode)?,
            None => x.shallow_clone(),
        };
        let mut y = x.shallow_clone();
        for (i, (conv, bn)) in self.layers.iter().enumerate() {
            y = bn.forward(&conv.forward(&y, mode)?, mode)?;
            if i + 1 < self.layers.len() {
                y = y.f_relu_()?;
            }
        }
        Ok(y.f_add_(&shortcut)?.f_relu_()?)
    }
}

fn conv(p: &Path, (input, output): (i64, i64), kernel: i64, stride: i64) -> Result<Conv2d> {
    let options = ConvOptions { stride, padding: kernel / 2, groups: 1 };
    Conv2d::new(p, (input, output), kernel, options, kaiming_normal_fan_out(output, kernel))
}

/// The same values with the channels innermost in memory, the layout in which convolutions are fastest.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    fn build(arch: Arch, stem: Stem) -> (VarStore, ResNet) {
        let vars = VarStore::new(Device::Cpu);
        let net = ResNet::new(&vars.root(), &ResNetConfig { arch, stem, channels: 3 }).unwrap();
        (vars, net)
    }

    #[test]
    fn sizes_equal_torchvision() {
        // torchvision 0.26: sum(p.numel() for p in resnet18().parameters()) minus the classifier's.
        for (arch, parameters, tensors, dim) in [
            (Arch::ResNet18, 11_689_512 - 513_000, 100, 512),
            (Arch::ResNet34, 21_797_672 - 513_000, 180, 512),
            (Arch::ResNet50, 25_557_032 - 2_049_000, 265, 2048),
        ] {
            let (vars, net) = build(arch, Stem::ImageNet);
            let count: usize = vars.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!((count, vars.variables().len(), net.dim()), (parameters, tensors, dim), "{arch}");
        }
    }

    #[test]
    fn names_are_torchvisions() {
        let (vars, _) = build(Arch::ResNet50, Stem::ImageNet);
        let names = vars.variables();
        for name in [
            "conv1.weight",
            "bn1.running_var",
            "layer1.0.conv3.weight",
            "layer2.0.downsample.1.bias",
            "layer4.2.bn2.weight",
        ] {
            assert!(names.contains_key(name), "{name}");
        }
    }

    #[test]
    fn every_variable_lies_in_the_stem_or_in_a_stage() {
        let (vars, _) = build(Arch::ResNet50, Stem::ImageNet);
        let config = ResNetConfig { arch: Arch::ResNet50, stem: Stem::ImageNet, channels: 3 };
        for name in vars.variables().keys() {
            let depth = match name.split_once('.').unwrap().0 {
                "conv1" | "bn1" => 0,
                stage => stage.strip_prefix("layer").unwrap().parse().unwrap(),
            };
            assert_eq!(config.layer_of(name), Layer { depth, of: 5 }, "{name}");
        }
    }

    #[test]
    fn stages_halve_the_grid_and_the_last_is_the_embedding() {
        let (_vars, net) = build(Arch::Small(8), Stem::Cifar);
        let x = Tensor::rand([2, 3, 28, 28], (Kind::Float, Device::Cpu));
        let maps = net.features(&x, Mode::Eval).unwrap();
        let shapes: Vec<_> = maps.iter().map(|(_, map)| map.size()).collect();
        assert_eq!(shapes, [[2, 8, 28, 28], [2, 16, 14, 14], [2, 32, 7, 7], [2, 64, 4, 4]]);
        let pooled = maps[3].1.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        assert!(pooled.allclose(&net.forward(&x, Mode::Eval).unwrap(), 1e-5, 1e-6, false));
    }

    #[test]
    fn images_of_another_shape_are_errors() {
        let (_vars, net) = build(Arch::Small(8), Stem::Cifar);
        let grey = Tensor::zeros([2, 1, 8, 8], (Kind::Float, Device::Cpu));
        let message = net.forward(&grey, Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "images: expected [B, 3, H, W], got [2, 1, 8, 8]");
    }

    #[test]
    fn an_unknown_name_says_which_are_known() {
        let message = "resnet19".parse::<Arch>().unwrap_err().to_string();
        assert!(message.contains("resnet18, resnet34") && message.ends_with("got resnet19"), "{message}");
        for name in ["resnet10_w24", "resnet18", "resnet34", "resnet50"] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
    }
}
