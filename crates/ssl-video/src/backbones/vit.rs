//! Vision Transformer of tubelets under the names of transformers' `VideoMAEModel`.
//!
//! Source: Tong et al., 2022: <https://arxiv.org/abs/2203.12602>; transformers 5 `models/videomae/modeling_videomae.py`.
//! The representation is the mean of the normalized tokens; the reference code fine-tunes on the mean of tokens that
//! are normalized after it.
use super::{Backbone, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::nn::{
    AttentionMask, Block, BlockConfig, LayerNorm, Module, Names, QkvNames, TIMM, attention_weights,
    trunc_normal,
};
use ssl_core::{Error, Mode, Result, no_grad};
use ssl_vision::backbones::VitArch;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

/// A Vision Transformer with `video_` before its name: `video_vit_small`, `video_vit_d96_l4_h4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct VideoVitArch {
    /// Width.
    pub dim: i64,
    /// Blocks.
    pub layers: i64,
    /// Heads, which divide the width.
    pub heads: i64,
}

pub(super) const PREFIX: &str = "video_";

impl FromStr for VideoVitArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || {
            let known = "the name of a Vision Transformer with video_ before it, such as video_vit_small or \
                         video_vit_d96_l4_h4";
            Error::config("encoder", format!("expected {known}, got {name}"))
        };
        let of_images = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let (dim, layers, heads) = match of_images.parse().map_err(|_| unknown())? {
            VitArch::Tiny => (192, 12, 3),
            VitArch::Small => (384, 12, 6),
            VitArch::Base => (768, 12, 12),
            VitArch::Free { dim, layers, heads } => (dim, layers, heads),
        };
        Ok(VideoVitArch { dim, layers, heads })
    }
}

impl fmt::Display for VideoVitArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arch = match *self {
            VideoVitArch { dim: 192, layers: 12, heads: 3 } => VitArch::Tiny,
            VideoVitArch { dim: 384, layers: 12, heads: 6 } => VitArch::Small,
            VideoVitArch { dim: 768, layers: 12, heads: 12 } => VitArch::Base,
            VideoVitArch { dim, layers, heads } => VitArch::Free { dim, layers, heads },
        };
        write!(f, "{PREFIX}{arch}")
    }
}

impl TryFrom<String> for VideoVitArch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<VideoVitArch> for String {
    fn from(arch: VideoVitArch) -> String {
        arch.to_string()
    }
}

/// The shape of a video transformer. The default is VideoMAE's base for 16 frames of 224 pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VideoVitConfig {
    /// Which transformer.
    pub arch: VideoVitArch,
    /// Side of the frames, in pixels.
    pub image_size: i64,
    /// Frames of a clip.
    pub frames: i64,
    /// Side of a tubelet, in pixels.
    pub patch_size: i64,
    /// Frames of a tubelet.
    pub tubelet: i64,
    /// Channels of the clips.
    pub channels: i64,
}

impl Default for VideoVitConfig {
    fn default() -> Self {
        let arch = VideoVitArch { dim: 768, layers: 12, heads: 12 };
        VideoVitConfig { arch, image_size: 224, frames: 16, patch_size: 16, tubelet: 2, channels: 3 }
    }
}

impl VideoVitConfig {
    fn check(&self) -> Result<()> {
        let least = [self.patch_size, self.tubelet, self.channels, self.image_size, self.frames];
        for (name, value) in
            ["patch_size", "tubelet", "channels", "image_size", "frames"].into_iter().zip(least)
        {
            if value < 1 {
                return Err(Error::config(name, format!("expected at least 1, got {value}")));
            }
        }
        for (name, value, part, what) in [
            ("image_size", self.image_size, self.patch_size, "patch size"),
            ("frames", self.frames, self.tubelet, "tubelet"),
        ] {
            if value % part != 0 {
                let message = format!("expected a multiple of the {what} {part}, got {value}");
                return Err(Error::config(name, message));
            }
        }
        Ok(())
    }

    /// Tubelets over time and over one side.
    pub(crate) fn grid(&self) -> [i64; 2] {
        [self.frames / self.tubelet, self.image_size / self.patch_size]
    }

    /// Numbers of a tubelet.
    pub(crate) fn pixels(&self) -> i64 {
        self.tubelet * self.patch_size * self.patch_size * self.channels
    }

    /// Where a variable of that name lies: the patches at 0, the blocks from 1 on with the last normalization beside
    /// the last of them, a classifier behind.
    pub fn layer_of(&self, name: &str) -> Layer {
        let layers = usize::try_from(self.arch.layers).unwrap_or(0);
        let block = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.'));
        let depth = match block.and_then(|(index, _)| index.parse::<usize>().ok()) {
            Some(index) => index + 1,
            None if name.starts_with("layernorm.") => layers,
            None => 0,
        };
        Layer { depth, of: layers + 1 }
    }
}

/// The names of a block in transformers' VideoMAE.
const NAMES: Names = Names {
    norm1: "layernorm_before",
    qkv: QkvNames::Separate([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    proj: "attention.output.dense",
    norm2: "layernorm_after",
    fc1: "intermediate.dense",
    fc2: "output.dense",
    ..TIMM
};
/// The one variable of such a block that VideoMAE lacks.
const KEY_BIAS: &str = "attention.attention.key.bias";
/// What transformers adds to variances.
const EPS: f64 = 1e-12;
/// Width of the MLP over that of the blocks.
const MLP_RATIO: i64 = 4;

/// A block under VideoMAE's names.
///
/// Keys have no bias there. One that stays zero is the same, so it is kept out of the store and takes no gradient.
pub(crate) fn video_block(p: &Path, dim: i64, heads: i64) -> Result<Block> {
    let own = VarStore::new(p.device());
    let shape = BlockConfig { dim, heads, hidden: MLP_RATIO * dim, eps: EPS, ..BlockConfig::default() };
    let block = Block::new(&own.root(), &shape, &NAMES)?;
    let variables: BTreeMap<String, Tensor> = own.variables().into_iter().collect();
    for (name, variable) in variables {
        if name == KEY_BIAS {
            let _ = variable.f_set_requires_grad(false)?;
            continue;
        }
        let parts: Vec<&str> = name.split('.').collect();
        let Some((last, places)) = parts.split_last() else { continue };
        let place = places.iter().fold(p.clone(), |place, part| place / *part);
        let _ = place.add(last, variable, true);
    }
    Ok(block)
}

/// Sines in even and cosines in odd places, of angles that grow with the number of the token. `[1, N, D]`.
///
/// # Source
/// `get_sinusoid_encoding_table` of VideoMAE.
pub(crate) fn sinusoid_positions(count: i64, dim: i64, device: Device) -> Result<Tensor> {
    let double = (Kind::Double, device);
    let pairs = Tensor::f_arange(dim, double)?.f_div_scalar_mode(2., "floor")?;
    let rates = pairs.f_mul_scalar(-2. * 10_000f64.ln() / dim as f64)?.f_exp()?;
    let angles = Tensor::f_arange(count, double)?.f_unsqueeze(1)?.f_mul(&rates)?; // [N, D].
    let odd = Tensor::f_arange(dim, (Kind::Int64, device))?.f_remainder(2)?.f_eq(1)?;
    Ok(angles.f_cos()?.f_where_self(&odd, &angles.f_sin()?)?.f_to_kind(Kind::Float)?.f_unsqueeze(0)?)
}

/// A video transformer without its classifier.
#[derive(Debug)]
pub struct VideoVit {
    weight: Tensor,
    bias: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    config: VideoVitConfig,
}

impl VideoVit {
    /// Makes the variables under `p`, as transformers' `VideoMAEModel` with `use_mean_pooling=False` has them.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &VideoVitConfig) -> Result<Self> {
        config.check()?;
        let VideoVitArch { dim, layers, heads } = config.arch;
        let ([times, side], patch) = (config.grid(), config.patch_size);
        let place = p / "embeddings" / "patch_embeddings" / "projection";
        let weight = place.f_zeros("weight", &[dim, config.channels, config.tubelet, patch, patch])?;
        trunc_normal(&weight, 0.02)?;
        let bias = place.f_zeros("bias", &[dim])?;
        let layer = p / "encoder" / "layer";
        let blocks = (0..layers).map(|index| video_block(&(&layer / index), dim, heads));
        Ok(VideoVit {
            weight,
            bias,
            positions: sinusoid_positions(times * side * side, dim, p.device())?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: LayerNorm::new(&(p / "layernorm"), dim, EPS)?,
            config: config.clone(),
        })
    }

    /// The shape.
    pub fn config(&self) -> &VideoVitConfig {
        &self.config
    }

    /// The tubelets of clips, those of the first frames first, row by row. `[B, C, T, H, W]` to `[B, N, C t P P]`.
    fn cut(&self, x: &Tensor) -> Result<Tensor> {
        let VideoVitConfig { patch_size: patch, tubelet, channels, image_size, frames, .. } = self.config;
        let [b, _, t, h, w] = clips(x, channels)?;
        if (t, h, w) != (frames, image_size, image_size) {
            let expected = format!("[B, {channels}, {frames}, {image_size}, {image_size}]");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        let [times, side] = self.config.grid();
        let x = x.f_reshape([b, channels, times, tubelet, side, patch, side, patch])?;
        let x = x.f_permute([0, 2, 4, 6, 1, 3, 5, 7])?;
        Ok(x.f_reshape([b, times * side * side, self.config.pixels()])?)
    }

    /// What the first block gets: all tubelets, or those that `keep` names.
    fn embed(&self, x: &Tensor, keep: Option<&Tensor>) -> Result<Tensor> {
        let (mut tubelets, mut positions) = (self.cut(x)?, self.positions.shallow_clone());
        if let Some(keep) = keep {
            let b = tubelets.size().first().copied().unwrap_or(0);
            positions = chosen(&positions.f_expand([b, -1, -1], false)?, keep)?;
            tubelets = chosen(&tubelets, keep)?;
        }
        let weight = self.weight.f_view([self.config.arch.dim, -1])?;
        Ok(tubelets.f_linear(&weight, Some(&self.bias))?.f_add(&positions)?)
    }

    /// All tokens after the last normalization, or only those of the tubelets that `keep` names by their place, first
    /// frames first, row by row. Only chosen tubelets pass the blocks.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; `keep`: `[B, K]` of 64-bit integers; returns `[B, K or N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is of another size than the network's; when `keep` names a tubelet that is not there.
    pub fn tokens(&self, x: &Tensor, keep: Option<&Tensor>, mode: Mode) -> Result<Tensor> {
        let x = self.embed(x, keep)?;
        let x = self.blocks.iter().try_fold(x, |x, block| block.forward(&x, mode))?;
        self.norm.forward(&x, mode)
    }

    /// How much each tubelet looks at each in every block; a pass of its own, for explanations.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; returns `[B, heads, N, N]` each, without gradients.
    ///
    /// # Errors
    /// As [`VideoVit::tokens`].
    pub fn attention(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let tokens = no_grad(|| self.embed(x, None))?;
        attention_weights(&self.blocks, &tokens, AttentionMask::None)
    }
}

/// Rows of each table: of `[B, N, D]` those that `[B, K]` names.
pub(crate) fn chosen(tables: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let width = tables.size().last().copied().unwrap_or(0);
    Ok(tables.f_gather(1, &rows.f_unsqueeze(-1)?.f_expand([-1, -1, width], false)?, false)?)
}

impl Backbone for VideoVit {
    /// The tokens after each block, `layer.0` first, before the last normalization.
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let [times, side] = self.config.grid();
        let mut x = self.embed(x, None)?;
        let mut maps = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, mode)?;
            let map = x.f_transpose(1, 2)?.f_unflatten(2, [times, side, side])?;
            maps.push((format!("layer.{index}"), map));
        }
        Ok(maps)
    }

    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let [times, side] = self.config.grid();
        let tokens = self.tokens(x, None, mode)?.f_unflatten(1, [times, side * side])?;
        Ok(tokens.f_mean_dim([2i64].as_slice(), false, Kind::Float)?)
    }

    fn frame_dim(&self) -> i64 {
        self.config.arch.dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> VideoVitConfig {
        let arch = VideoVitArch { dim: 16, layers: 2, heads: 2 };
        VideoVitConfig { arch, image_size: 8, frames: 4, patch_size: 4, tubelet: 2, channels: 1 }
    }

    fn build() -> (VarStore, VideoVit) {
        let vars = VarStore::new(Device::Cpu);
        let net = VideoVit::new(&vars.root(), &small()).unwrap();
        (vars, net)
    }

    fn clips(n: i64) -> Tensor {
        Tensor::arange(n * 256, (Kind::Float, Device::Cpu)).square().sin().view([n, 1, 4, 8, 8])
    }

    #[test]
    fn keys_have_no_bias_and_all_else_takes_a_gradient() {
        let (vars, net) = build();
        net.forward(&clips(2), Mode::Train).unwrap().square().sum(Kind::Float).backward();
        let names = vars.variables();
        assert!(names.keys().all(|name| !name.ends_with("key.bias")) && names.len() == 2 + 2 * 15 + 2);
        for (name, variable) in names {
            assert!(variable.requires_grad() && variable.grad().defined(), "{name}");
        }
        assert_eq!(vars.trainable_variables().len(), 34);
    }

    #[test]
    fn kept_tubelets_alone_are_seen_each_in_its_place() {
        let (_vars, net) = build();
        let x = clips(2);
        let all = Tensor::arange(8, (Kind::Int64, Device::Cpu)).expand([2, 8], false);
        let whole = net.tokens(&x, None, Mode::Eval).unwrap();
        assert!(net.tokens(&x, Some(&all), Mode::Eval).unwrap().allclose(&whole, 1e-5, 1e-5, false));
        let turned = net.tokens(&x, Some(&all.flip([1])), Mode::Eval).unwrap();
        assert!(turned.flip([1]).allclose(&whole, 1e-4, 1e-5, false));
        // Tubelet 6 is of frames 2 and 3, the lower row, the left column.
        let keep = Tensor::from_slice(&[0i64, 5, 6, 1]).view([2, 2]);
        let seen = net.tokens(&x, Some(&keep), Mode::Eval).unwrap();
        let hidden = x.copy();
        let _ = hidden.get(0).narrow(1, 2, 2).narrow(2, 4, 4).narrow(3, 0, 4).fill_(9.);
        assert!(net.tokens(&hidden, Some(&keep), Mode::Eval).unwrap().equal(&seen));
        let _ = hidden.get(1).narrow(1, 2, 2).narrow(2, 4, 4).narrow(3, 0, 4).fill_(9.);
        let now = net.tokens(&hidden, Some(&keep), Mode::Eval).unwrap();
        assert!(now.get(0).equal(&seen.get(0)) && !now.get(1).allclose(&seen.get(1), 1e-3, 1e-3, false));
    }

    #[test]
    fn places_in_time_are_means_of_their_tokens() {
        let (_vars, net) = build();
        let x = clips(2);
        let tokens = net.tokens(&x, None, Mode::Eval).unwrap();
        let frames = net.frames(&x, Mode::Eval).unwrap();
        let second = tokens.narrow(1, 4, 4).mean_dim(1, false, Kind::Float);
        assert!(frames.select(1, 1).allclose(&second, 1e-5, 1e-6, false));
        let mean = tokens.mean_dim(1, false, Kind::Float);
        assert!(net.forward(&x, Mode::Eval).unwrap().allclose(&mean, 1e-5, 1e-6, false));
        let maps = net.features(&x, Mode::Eval).unwrap();
        assert_eq!((maps[1].0.as_str(), maps[1].1.size()), ("layer.1", vec![2, 16, 2, 2, 2]));
    }

    #[test]
    fn layers_are_told_by_name() {
        let (vars, _) = build();
        for name in vars.variables().keys() {
            let depth = match name.strip_prefix("encoder.layer.") {
                Some(rest) => 1 + rest[..1].parse::<usize>().unwrap(),
                None if name.starts_with("layernorm") => 2,
                None => 0,
            };
            assert_eq!(small().layer_of(name), Layer { depth, of: 3 }, "{name}");
        }
    }

    #[test]
    fn names_and_wrong_numbers_are_told() {
        for name in ["video_vit_small", "video_vit_d24_l2_h3"] {
            assert_eq!(name.parse::<VideoVitArch>().unwrap().to_string(), name);
        }
        let message = "video_vit_d24".parse::<VideoVitArch>().unwrap_err().to_string();
        assert!(message.ends_with("got video_vit_d24"), "{message}");
        let refused = |config: VideoVitConfig| {
            VideoVit::new(&VarStore::new(Device::Cpu).root(), &config).unwrap_err().to_string()
        };
        let message = refused(VideoVitConfig { frames: 5, ..small() });
        assert_eq!(message, "frames: expected a multiple of the tubelet 2, got 5");
        let message = refused(VideoVitConfig { patch_size: 0, ..small() });
        assert_eq!(message, "patch_size: expected at least 1, got 0");
        let message = build().1.forward(&clips(2).narrow(2, 0, 2), Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "clips: expected [B, 1, 4, 8, 8], got [2, 1, 2, 8, 8]");
    }
}
