//! Residual networks over time and space, under torchvision's names and initialization.
//!
//! Source: Tran et al., 2018 (R3D and R(2+1)D): <https://arxiv.org/abs/1711.11248>; torchvision
//! `models/video/resnet.py`; the network of dense predictive coding from Han et al., 2019, table 1:
//! <https://arxiv.org/abs/1909.04656>.
use super::conv3d::{Conv3d, Window};
use super::{Arch3d, Backbone, Convolutions, channels_last, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::nn::{BatchNorm, Module};
use ssl_core::{Error, Mode, Result};
use ssl_vision::backbones::Stem;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// The shape of a three-dimensional ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNet3dConfig {
    /// Which one.
    pub arch: Arch3d,
    /// The layers before the first stage. `imagenet` is that of torchvision's video networks, a window of 7 pixels
    /// that moves by 2, without pooling in `r3d` and `r2plus1d`; the others have one of 3 pixels.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the clips.
    pub channels: i64,
}

impl ResNet3dConfig {
    /// Where a variable of that name lies: the stem at 0, the stages at 1 to 4, a classifier at 5.
    pub fn layer_of(&self, name: &str) -> Layer {
        let stage = STAGE_NAMES.iter().position(|stage| name.starts_with(stage));
        Layer { depth: stage.map_or(0, |stage| stage + 1), of: STAGE_NAMES.len() + 1 }
    }
}

/// A three-dimensional ResNet without its classifier.
#[derive(Debug)]
pub struct ResNet3d {
    stem: Unit,
    pool: bool,
    stages: Vec<Vec<Block>>,
    channels: i64,
    dim: i64,
}

const STAGE_NAMES: [&str; 4] = ["layer1", "layer2", "layer3", "layer4"];

impl ResNet3d {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &ResNet3dConfig) -> Result<Self> {
        if config.channels < 1 {
            return Err(Error::config("channels", format!("expected at least 1, got {}", config.channels)));
        }
        let Arch3d { convolutions, blocks, width } = config.arch;
        let (kernel, stride) = match config.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Strided => (3, 2),
        };
        let ways = match convolutions {
            Convolutions::Full => [Way::Full; 4],
            Convolutions::Factored => [Way::Factored; 4],
            Convolutions::Late => [Way::Space, Way::Space, Way::Full, Way::Full],
        };
        let inner = (45 * width / 64).max(1);
        let stem = match convolutions {
            Convolutions::Full => {
                Unit::whole(&(p / "stem"), (config.channels, width), [3, kernel], [1, stride])?
            }
            Convolutions::Late => {
                Unit::whole(&(p / "stem"), (config.channels, width), [1, kernel], [1, stride])?
            }
            Convolutions::Factored => {
                let stem = p / "stem";
                let places = [&stem / 0, &stem / 1, &stem / 3, &stem / 4];
                Unit::factored(&places, [config.channels, inner, width], kernel, [1, stride])?
            }
        };
        let mut input = width;
        let mut stages = Vec::new();
        for (stage, ((name, width), way)) in
            STAGE_NAMES.into_iter().zip(config.arch.widths()).zip(ways).enumerate()
        {
            let path = p / name;
            let mut layers = Vec::new();
            for index in 0..blocks {
                let stride = if index == 0 && stage > 0 { 2 } else { 1 };
                layers.push(Block::new(&(&path / index as i64), (input, width), way, stride)?);
                input = width;
            }
            stages.push(layers);
        }
        let pool = config.stem == Stem::ImageNet && convolutions == Convolutions::Late;
        Ok(ResNet3d { stem, pool, stages, channels: config.channels, dim: input })
    }

    /// The same network, whose last block ends without cutting off what is negative, as dense predictive coding has it.
    pub(super) fn without_last_relu(mut self) -> Self {
        if let Some(block) = self.stages.last_mut().and_then(|stage| stage.last_mut()) {
            block.relu = false;
        }
        self
    }

    fn stem(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        clips(x, self.channels)?;
        let x = self.stem.forward(&channels_last(x)?, mode)?.f_relu_()?;
        Ok(if self.pool { x.f_max_pool3d([1, 3, 3], [1, 2, 2], [0, 1, 1], [1; 3], false)? } else { x })
    }

    /// The map of the last stage.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; returns `[B, D, t, h, w]`.
    pub(super) fn map(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.stem(x, mode)?;
        self.stages.iter().flatten().try_fold(x, |x, block| block.forward(&x, mode))
    }
}

impl Backbone for ResNet3d {
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

    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let map = self.map(x, mode)?;
        Ok(map.f_mean_dim([3i64, 4].as_slice(), false, Kind::Float)?.f_transpose(1, 2)?)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.map(x, mode)?.f_mean_dim([2i64, 3, 4].as_slice(), false, Kind::Float)?)
    }

    fn frame_dim(&self) -> i64 {
        self.dim
    }
}

/// How a unit's windows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Full,
    Factored,
    Space,
}

/// A convolution with its normalization, over both time and space or over time behind one over space.
#[derive(Debug)]
struct Unit {
    space: Option<(Conv3d, BatchNorm)>,
    conv: Conv3d,
    norm: BatchNorm,
}

impl Unit {
    /// One convolution, under `0`, and its normalization, under `1`.
    fn whole(p: &Path, io: (i64, i64), size: [i64; 2], stride: [i64; 2]) -> Result<Self> {
        let conv = Conv3d::new(&(p / 0), io, Window::new(size, stride))?;
        Ok(Unit { space: None, conv, norm: BatchNorm::new(&(p / 1), io.1)? })
    }

    /// Two convolutions, each with a normalization, at four places.
    fn factored(
        places: &[Path; 4],
        [input, inner, output]: [i64; 3],
        kernel: i64,
        [by_time, by_space]: [i64; 2],
    ) -> Result<Self> {
        let [conv, norm, of_time, last] = places;
        let space = Conv3d::new(conv, (input, inner), Window::new([1, kernel], [1, by_space]))?;
        Ok(Unit {
            space: Some((space, BatchNorm::new(norm, inner)?)),
            conv: Conv3d::new(of_time, (inner, output), Window::new([3, 1], [by_time, 1]))?,
            norm: BatchNorm::new(last, output)?,
        })
    }

    fn new(p: &Path, (input, output): (i64, i64), inner: i64, way: Way, stride: i64) -> Result<Self> {
        match way {
            Way::Full => Unit::whole(p, (input, output), [3, 3], [stride, stride]),
            Way::Space => Unit::whole(p, (input, output), [1, 3], [1, stride]),
            Way::Factored => {
                let conv = p / 0;
                let places = [&conv / 0, &conv / 1, &conv / 3, p / 1];
                Unit::factored(&places, [input, inner, output], 3, [stride, stride])
            }
        }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = match &self.space {
            Some((conv, norm)) => norm.forward(&conv.forward(x, mode)?, mode)?.f_relu_()?,
            None => x.shallow_clone(),
        };
        self.norm.forward(&self.conv.forward(&x, mode)?, mode)
    }
}

/// A residual block of two convolutions of 3x3x3.
#[derive(Debug)]
struct Block {
    units: [Unit; 2],
    downsample: Option<(Conv3d, BatchNorm)>,
    relu: bool,
}

impl Block {
    fn new(p: &Path, (input, output): (i64, i64), way: Way, stride: i64) -> Result<Self> {
        // As many weights as without factors; torchvision takes this number for both convolutions of a block.
        let inner = input * output * 27 / (input * 9 + 3 * output);
        let units = [
            Unit::new(&(p / "conv1"), (input, output), inner.max(1), way, stride)?,
            Unit::new(&(p / "conv2"), (output, output), inner.max(1), way, 1)?,
        ];
        let downsample = if stride != 1 || input != output {
            let by_time = if way == Way::Space { 1 } else { stride };
            let (path, window) = (p / "downsample", Window::new([1, 1], [by_time, stride]));
            Some((Conv3d::new(&(&path / 0), (input, output), window)?, BatchNorm::new(&(&path / 1), output)?))
        } else {
            None
        };
        Ok(Block { units, downsample, relu: true })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(&conv.forward(x, mode)?, mode)?,
            None => x.shallow_clone(),
        };
        let [first, second] = &self.units;
        let y = first.forward(x, mode)?.f_relu_()?;
        let mut sum = second.forward(&y, mode)?.f_add_(&shortcut)?;
        Ok(if self.relu { sum.f_relu_()? } else { sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    fn build(arch: &str, stem: Stem) -> (VarStore, ResNet3d) {
        let vars = VarStore::new(Device::Cpu);
        let config = ResNet3dConfig { arch: arch.parse().unwrap(), stem, channels: 3 };
        let net = ResNet3d::new(&vars.root(), &config).unwrap();
        (vars, net)
    }

    #[test]
    fn sizes_equal_torchvisions() {
        // torchvision 0.26: sum(p.numel() for p in r3d_18().parameters()) minus the classifier's 513 * 400.
        for (arch, parameters) in [("r3d18", 33_371_472 - 205_200), ("r2plus1d18", 31_505_325 - 205_200)] {
            let (vars, net) = build(arch, Stem::ImageNet);
            let count: usize = vars.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!((count, net.dim()), (parameters, 512), "{arch}");
        }
    }

    #[test]
    fn convolutions_start_as_torchvisions() {
        let (vars, _) = build("r2plus1d18_w16", Stem::ImageNet);
        let stdev = |name: &str| f64::try_from(vars.variables()[name].std(true)).unwrap();
        // Fans out of 1 * 3 * 3 * 288 and of 3 * 32.
        let inner = vars.variables()["layer2.1.conv2.0.0.weight"].size()[0];
        let expected = (2. / (9 * inner) as f64).sqrt();
        assert!((stdev("layer2.1.conv2.0.0.weight") / expected - 1.).abs() < 0.05);
        assert!((stdev("layer2.1.conv2.0.3.weight") / (2f64 / 96.).sqrt() - 1.).abs() < 0.05);
    }

    #[test]
    fn every_variable_lies_in_the_stem_or_in_a_stage() {
        let (vars, _) = build("r2plus1d10_w4", Stem::ImageNet);
        let config =
            ResNet3dConfig { arch: "r2plus1d10_w4".parse().unwrap(), stem: Stem::ImageNet, channels: 3 };
        for name in vars.variables().keys() {
            let depth = match name.split_once('.').unwrap().0 {
                "stem" => 0,
                stage => stage.strip_prefix("layer").unwrap().parse().unwrap(),
            };
            assert_eq!(config.layer_of(name), Layer { depth, of: 5 }, "{name}");
        }
    }

    #[test]
    fn stages_halve_time_and_space_and_the_mean_of_the_last_is_the_representation() {
        let x = Tensor::rand([2, 3, 8, 16, 16], (Kind::Float, Device::Cpu));
        for (arch, stem, first, last) in [
            ("r3d10_w4", Stem::Cifar, [8, 16], [1, 2]),
            ("r2plus1d10_w4", Stem::Strided, [8, 8], [1, 1]),
            ("r2d3d10_w4", Stem::ImageNet, [8, 4], [2, 1]),
        ] {
            let (_vars, net) = build(arch, stem);
            let maps = net.features(&x, Mode::Eval).unwrap();
            let grids: Vec<_> = maps.iter().map(|(_, map)| [map.size()[2], map.size()[3]]).collect();
            assert_eq!((grids[0], grids[3]), (first, last), "{arch}");
            let pooled = maps[3].1.mean_dim([2i64, 3, 4].as_slice(), false, Kind::Float);
            let near = |y: Tensor| pooled.allclose(&y, 1e-5, 1e-6, false);
            assert!(near(net.forward(&x, Mode::Eval).unwrap()) && near(net.mean(&x, Mode::Eval).unwrap()));
            assert_eq!(net.frames(&x, Mode::Eval).unwrap().size(), [2, last[0], net.dim()]);
        }
    }

    #[test]
    fn the_layout_in_memory_changes_nothing_and_stays_channels_last() {
        let (_vars, net) = build("r3d10_w4", Stem::Strided);
        let x = Tensor::rand([2, 3, 4, 8, 8], (Kind::Float, Device::Cpu));
        let map = net.map(&x, Mode::Eval).unwrap();
        assert_eq!(map.stride()[1], 1);
        let other = net.map(&channels_last(&x).unwrap(), Mode::Eval).unwrap();
        assert!(other.equal(&map));
    }
}
