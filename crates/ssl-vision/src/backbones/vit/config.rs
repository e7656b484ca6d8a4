//! The shape of a Vision Transformer.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Which Vision Transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum VitArch {
    /// `vit_tiny`: 192 wide, 12 blocks, 3 heads.
    Tiny,
    /// `vit_small`: 384 wide, 12 blocks, 6 heads.
    Small,
    /// `vit_base`: 768 wide, 12 blocks, 12 heads.
    Base,
    /// `vit_dD_lL_hH`: D wide, L blocks, H heads, which divide D.
    Free {
        /// Width.
        dim: i64,
        /// Blocks.
        layers: i64,
        /// Heads.
        heads: i64,
    },
}

impl VitArch {
    /// Width, blocks, heads.
    pub(super) fn shape(self) -> (i64, i64, i64) {
        match self {
            VitArch::Tiny => (192, 12, 3),
            VitArch::Small => (384, 12, 6),
            VitArch::Base => (768, 12, 12),
            VitArch::Free { dim, layers, heads } => (dim, layers, heads),
        }
    }

    /// The free form, if the name has it and its numbers fit.
    fn free(name: &str) -> Option<Self> {
        let (dim, rest) = name.strip_prefix("vit_d")?.split_once("_l")?;
        let (layers, heads) = rest.split_once("_h")?;
        let (dim, layers, heads) = (dim.parse().ok()?, layers.parse().ok()?, heads.parse().ok()?);
        VitArch::Free { dim, layers, heads }.fits()
    }

    fn fits(self) -> Option<Self> {
        let (dim, layers, heads) = self.shape();
        let fits = (1..=4096).contains(&dim) && (1..=64).contains(&layers) && heads >= 1 && dim % heads == 0;
        fits.then_some(self)
    }

    fn unknown(name: impl fmt::Display) -> Error {
        let known = "vit_tiny, vit_small, vit_base or vit_dD_lL_hH with a width D of 1 to 4096, L of 1 to 64 blocks \
                     and H heads that divide D";
        Error::config("encoder", format!("expected {known}, got {name}"))
    }
}

impl FromStr for VitArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "vit_tiny" => Ok(VitArch::Tiny),
            "vit_small" => Ok(VitArch::Small),
            "vit_base" => Ok(VitArch::Base),
            _ => VitArch::free(name).ok_or_else(|| VitArch::unknown(name)),
        }
    }
}

impl fmt::Display for VitArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VitArch::Tiny => f.write_str("vit_tiny"),
            VitArch::Small => f.write_str("vit_small"),
            VitArch::Base => f.write_str("vit_base"),
            VitArch::Free { dim, layers, heads } => write!(f, "vit_d{dim}_l{layers}_h{heads}"),
        }
    }
}

impl TryFrom<String> for VitArch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<VitArch> for String {
    fn from(arch: VitArch) -> String {
        arch.to_string()
    }
}

/// What the representation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token; the last normalization is called `norm`.
    #[default]
    Token,
    /// The mean of the patches' tokens; the last normalization comes after it and is called `fc_norm`.
    Mean,
}

/// How a patch knows where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Trained embeddings.
    #[default]
    Learned,
    /// Sines and cosines that stay as they are, as in MAE.
    Sincos,
}

/// The shape of a Vision Transformer. The default is ViT-Base of 16 pixels a patch for 224.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Which Vision Transformer.
    pub arch: VitArch,
    /// Side of the images whose grid the positions are of, in pixels; for others they are resampled.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Channels of the images.
    pub channels: i64,
    /// What the representation is.
    pub pool: Pool,
    /// How a patch knows where it is.
    pub positions: Positions,
    /// Probability of skipping a branch of the last block, per example; it grows evenly from 0 in the first.
    pub drop_path: f64,
    /// Whether the backward pass computes the blocks' activations again instead of keeping them: memory for time.
    pub recompute: bool,
}

impl Default for VitConfig {
    fn default() -> Self {
        VitConfig {
            arch: VitArch::Base,
            image_size: 224,
            patch_size: 16,
            channels: 3,
            pool: Pool::Token,
            positions: Positions::Learned,
            drop_path: 0.,
            recompute: false,
        }
    }
}

impl VitConfig {
    /// Where a variable of that name lies: patches, positions and class token at 0, the blocks from 1 on, the last
    /// normalization beside a classifier.
    ///
    /// # Source
    /// `get_layer_id_for_vit` of `facebookresearch/mae`, `util/lr_decay.py`.
    pub fn layer_of(&self, name: &str) -> Layer {
        let of = self.arch.shape().1.max(0) as usize + 1;
        let block =
            name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let depth = match block {
            Some(block) => block + 1,
            None if name.starts_with("norm.") || name.starts_with("fc_norm.") => of,
            None => 0,
        };
        Layer { depth, of }
    }

    /// Checks the numbers.
    pub(super) fn check(&self) -> Result<()> {
        let VitConfig { image_size, patch_size, channels, .. } = *self;
        for (name, number) in [("channels", channels), ("patch_size", patch_size), ("image_size", image_size)]
        {
            if number < 1 {
                return Err(Error::config(name, format!("expected at least 1, got {number}")));
            }
        }
        if image_size % patch_size != 0 {
            let message = format!("expected a multiple of the patch size {patch_size}, got {image_size}");
            return Err(Error::config("image_size", message));
        }
        if !(0. ..1.).contains(&self.drop_path) {
            let message = format!("expected a number from 0 to below 1, got {}", self.drop_path);
            return Err(Error::config("drop_path", message));
        }
        self.arch.fits().map(|_| ()).ok_or_else(|| VitArch::unknown(self.arch))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Vit;
    use super::*;
    use tch::{Device, nn::VarStore};

    #[test]
    fn names_give_shapes_and_come_back() {
        for (name, shape) in [
            ("vit_tiny", (192, 12, 3)),
            ("vit_small", (384, 12, 6)),
            ("vit_base", (768, 12, 12)),
            ("vit_d96_l4_h3", (96, 4, 3)),
        ] {
            let arch: VitArch = name.parse().unwrap();
            assert_eq!((arch.shape(), arch.to_string()), (shape, name.to_string()));
        }
        for name in
            ["vit_large", "vit_d96_l4", "vit_d96_l4_h5", "vit_d96_l0_h3", "vit_d5000_l1_h1", "vit_d96_l4_h0"]
        {
            let message = name.parse::<VitArch>().unwrap_err().to_string();
            assert!(
                message.starts_with("encoder: expected vit_tiny,") && message.ends_with(name),
                "{message}"
            );
        }
    }

    #[test]
    fn every_variable_lies_before_in_or_behind_the_blocks() {
        for pool in [Pool::Token, Pool::Mean] {
            let arch = "vit_d8_l11_h1".parse().unwrap();
            let config =
                VitConfig { arch, image_size: 4, patch_size: 2, channels: 1, pool, ..VitConfig::default() };
            let vars = VarStore::new(Device::Cpu);
            Vit::new(&vars.root(), &config).unwrap();
            for name in vars.variables().keys() {
                let depth = match name.split('.').collect::<Vec<_>>()[..] {
                    ["cls_token" | "pos_embed"] | ["patch_embed", ..] => 0,
                    ["blocks", index, ..] => 1 + index.parse::<usize>().unwrap(),
                    ["norm" | "fc_norm", _] => 12,
                    _ => panic!("{name} is new"),
                };
                assert_eq!(config.layer_of(name), Layer { depth, of: 12 }, "{name}");
            }
        }
    }

    #[test]
    fn what_json_leaves_out_is_the_default_and_other_names_are_refused() {
        let json =
            r#"{"arch": "vit_d96_l4_h3", "image_size": 28, "patch_size": 4, "channels": 1, "pool": "mean"}"#;
        let config: VitConfig = serde_json::from_str(json).unwrap();
        let arch = VitArch::Free { dim: 96, layers: 4, heads: 3 };
        let expected = VitConfig {
            arch,
            image_size: 28,
            patch_size: 4,
            channels: 1,
            pool: Pool::Mean,
            ..VitConfig::default()
        };
        assert_eq!(config, expected);
        let again: VitConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        let message = serde_json::from_str::<VitConfig>(r#"{"stem": "cifar"}"#).unwrap_err().to_string();
        assert!(message.contains("stem"), "{message}");
    }
}
