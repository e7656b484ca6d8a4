//! The network of dense predictive coding: a ResNet on blocks of frames, and a recurrent cell that reads the blocks.
//!
//! Source: Han, Xie, Zisserman, 2019: <https://arxiv.org/abs/1909.04656>; the code (`TengdaHan/DPC`,
//! `dpc/model_3d.py`), from which come the names, the windows of one pixel in the cell, the start of its weights, and
//! that it reads features without what is negative in them, which are predicted with it.
use super::{Arch3d, Backbone, ConvGru, ResNet3d, ResNet3dConfig, clips, mode_of_parts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::{Error, Mode, Result};
use ssl_vision::backbones::Stem;
use std::fmt;
use std::str::FromStr;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// A three-dimensional ResNet with `_gru` behind its name: `r2d3d18_gru`, `r3d10_w16_gru`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct PredictiveArch(pub Arch3d);

pub(super) const SUFFIX: &str = "_gru";

impl FromStr for PredictiveArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let net = name.strip_suffix(SUFFIX).ok_or_else(|| {
            let known = "the name of a three-dimensional ResNet with _gru behind it, such as r2d3d18_gru";
            Error::config("encoder", format!("expected {known}, got {name}"))
        })?;
        net.parse().map(PredictiveArch)
    }
}

impl fmt::Display for PredictiveArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.0)
    }
}

impl TryFrom<String> for PredictiveArch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<PredictiveArch> for String {
    fn from(arch: PredictiveArch) -> String {
        arch.to_string()
    }
}

/// The shape of a network that reads blocks of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictiveConfig {
    /// Which network sees a block.
    pub arch: PredictiveArch,
    /// The layers before its first stage.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the clips.
    pub channels: i64,
    /// Frames of a block.
    #[serde(default = "five")]
    pub block_frames: i64,
}

fn five() -> i64 {
    5
}

impl PredictiveConfig {
    fn of_blocks(&self) -> ResNet3dConfig {
        ResNet3dConfig { arch: self.arch.0, stem: self.stem, channels: self.channels }
    }

    /// Where a variable of that name lies: the stem at 0, the stages at 1 to 4, the cell at 5, a classifier at 6.
    pub fn layer_of(&self, name: &str) -> Layer {
        match name.strip_prefix("backbone.") {
            Some(inner) => Layer { of: 6, ..self.of_blocks().layer_of(inner) },
            None => Layer { depth: 5, of: 6 },
        }
    }
}

/// A ResNet on blocks of frames and a recurrent cell on what it gives.
#[derive(Debug)]
pub struct Predictive {
    net: ResNet3d,
    cell: ConvGru,
    config: PredictiveConfig,
}

impl Predictive {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &PredictiveConfig) -> Result<Self> {
        if !(1..=256).contains(&config.block_frames) {
            let message = format!("expected 1 to 256, got {}", config.block_frames);
            return Err(Error::config("block_frames", message));
        }
        let net = ResNet3d::new(&(p / "backbone"), &config.of_blocks())?.without_last_relu();
        let dim = net.dim();
        let cell = ConvGru::new(&(p / "agg" / "cell_list" / 0), (dim, dim), 1)?;
        Ok(Predictive { net, cell, config: *config })
    }

    /// Frames of a block.
    pub(crate) fn block_frames(&self) -> i64 {
        self.config.block_frames
    }

    /// What each block looks like, averaged over its time. Frames behind the last whole block are left out.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; returns `[B, N, D, h, w]`, float32.
    ///
    /// # Errors
    /// `Error::Shape` when there is no whole block, or other channels.
    pub fn blocks(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (channels, each) = (self.config.channels, self.config.block_frames);
        let [_, _, frames, ..] = clips(x, channels)?;
        let count = frames / each;
        if count < 1 {
            let expected = format!("[B, {channels}, T, H, W] with T at least {each} (the frames of a block)");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        // Channels last before the cut, so that blocks of one clip lie one after the other.
        let x = x.f_narrow(2, 0, count * each)?.f_permute([0, 2, 3, 4, 1])?.f_contiguous()?;
        let blocks = x.f_unflatten(1, [count, each])?.f_flatten(0, 1)?.f_permute([0, 4, 1, 2, 3])?;
        let map = self.net.map(&blocks, mode_of_parts(mode, count))?;
        Ok(map.f_mean_dim([2i64].as_slice(), false, Kind::Float)?.f_unflatten(0, [-1, count])?)
    }

    /// The state after each block.
    ///
    /// # Shapes
    /// `blocks`: `[B, N, D, h, w]`; returns the same.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn contexts(&self, blocks: &Tensor) -> Result<Tensor> {
        let mut state = None;
        let mut states = Vec::new();
        for block in blocks.f_unbind(1)? {
            let next = self.advance(&block, state.as_ref())?;
            states.push(next.shallow_clone());
            state = Some(next);
        }
        Ok(Tensor::f_stack(&states, 1)?)
    }

    /// The state after one more block.
    pub(crate) fn advance(&self, block: &Tensor, state: Option<&Tensor>) -> Result<Tensor> {
        let x = block.f_relu()?;
        match state {
            Some(state) => self.cell.forward(&x, state),
            None => self.cell.forward(&x, &self.cell.start(&x)?),
        }
    }
}

impl Backbone for Predictive {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let blocks = self.blocks(x, mode)?;
        let contexts = self.contexts(&blocks)?;
        let map = |x: Tensor| x.f_transpose(1, 2);
        Ok(vec![("blocks".into(), map(blocks)?), ("contexts".into(), map(contexts)?)])
    }

    /// The states after each block.
    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let contexts = self.contexts(&self.blocks(x, mode)?)?;
        Ok(contexts.f_mean_dim([3i64, 4].as_slice(), false, Kind::Float)?)
    }

    /// The state after the last block.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.frames(x, mode)?.f_select(1, -1)?)
    }

    fn frame_dim(&self) -> i64 {
        self.net.dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    fn build() -> (VarStore, Predictive) {
        let vars = VarStore::new(Device::Cpu);
        let arch = "r2d3d10_w4_gru".parse().unwrap();
        let config = PredictiveConfig { arch, stem: Stem::Strided, channels: 1, block_frames: 3 };
        let net = Predictive::new(&vars.root(), &config).unwrap();
        for name in vars.variables().keys() {
            let depth = match name.split('.').take(2).collect::<Vec<_>>()[..] {
                ["backbone", "stem"] => 0,
                ["backbone", stage] => stage.strip_prefix("layer").unwrap().parse().unwrap(),
                _ => 5,
            };
            assert_eq!(config.layer_of(name), Layer { depth, of: 6 }, "{name}");
        }
        (vars, net)
    }

    #[test]
    fn blocks_are_seen_one_by_one_and_read_in_their_order() {
        let (_vars, net) = build();
        let x = Tensor::randn([2, 1, 10, 16, 16], (Kind::Float, Device::Cpu));
        let blocks = net.blocks(&x, Mode::Eval).unwrap();
        assert_eq!(blocks.size(), [2, 3, 16, 1, 1]);
        let second = net.net.map(&x.narrow(2, 3, 3), Mode::Eval).unwrap().mean_dim(2, false, Kind::Float);
        assert!(blocks.select(1, 1).allclose(&second, 1e-4, 1e-5, false));
        assert!(blocks.min().double_value(&[]) < 0., "the last block ends without cutting off");
        let contexts = net.contexts(&blocks).unwrap();
        let first = net.advance(&blocks.select(1, 0), None).unwrap();
        let then = net.advance(&blocks.select(1, 1), Some(&first)).unwrap();
        assert!(contexts.select(1, 1).allclose(&then, 1e-5, 1e-6, false));
        let last = contexts.select(1, 2).mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        assert!(net.forward(&x, Mode::Eval).unwrap().allclose(&last, 1e-5, 1e-6, false));
        let message = net.blocks(&x.narrow(2, 0, 2), Mode::Eval).unwrap_err().to_string();
        assert!(message.contains("T at least 3 (the frames of a block)"), "{message}");
    }

    #[test]
    fn variables_have_the_names_of_the_code() {
        let names = build().0.variables();
        for name in ["backbone.layer3.0.conv1.0.weight", "agg.cell_list.0.update_gate.bias"] {
            assert!(names.contains_key(name), "{name}");
        }
        let message = "r2d3d18".parse::<PredictiveArch>().unwrap_err().to_string();
        assert!(message.ends_with("got r2d3d18"), "{message}");
    }
}
