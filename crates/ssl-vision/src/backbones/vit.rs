//! Vision Transformer under timm's names and initialization.
//!
//! Source: Dosovitskiy et al., 2021: <https://arxiv.org/abs/2010.11929>; Touvron et al., 2021 (tiny and small):
//! <https://arxiv.org/abs/2012.12877>; timm 1.0 `models/vision_transformer.py`.
mod config;
mod patches;
mod positions;

pub use config::{Pool, Positions, VitArch, VitConfig};
pub(crate) use positions::{resample_positions, sincos_positions};

use super::Backbone;
use patches::{Patches, Rows, Seen, replaced};
use positions::for_grid;
use ssl_core::nn::{
    AttentionMask, Block, BlockConfig, LayerNorm, Module, TIMM, attention_weights, trunc_normal,
};
use ssl_core::{Mode, Result, no_grad};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// A Vision Transformer without its classifier.
#[derive(Debug)]
pub struct Vit {
    patches: Patches,
    class: Tensor,
    positions: Tensor,
    side: i64,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pool: Pool,
    dim: i64,
    recompute: bool,
}

/// Width of the MLP over that of the blocks.
const MLP_RATIO: i64 = 4;
/// What timm's normalizations add to the variance.
const EPS: f64 = 1e-6;

impl Vit {
    /// Makes the variables under `p`, as timm's `VisionTransformer` with `num_classes=0` has them.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &VitConfig) -> Result<Self> {
        config.check()?;
        let (dim, layers, heads) = config.arch.shape();
        let side = config.image_size / config.patch_size;
        let class = p.f_var("cls_token", &[1, 1, dim], Init::Randn { mean: 0., stdev: 1e-6 })?;
        let positions = match config.positions {
            Positions::Learned => {
                let positions = p.f_zeros("pos_embed", &[1, 1 + side * side, dim])?;
                trunc_normal(&positions, 0.02)?;
                positions
            }
            Positions::Sincos => {
                p.add("pos_embed", sincos_positions(dim, side)?.f_to_device(p.device())?, false)
            }
        };
        let patches = Patches::new(&(p / "patch_embed" / "proj"), config, dim)?;
        let block = |index: i64| {
            // As linspace(0, drop_path, layers).
            let drop_path = config.drop_path * index as f64 / (layers - 1).max(1) as f64;
            let hidden = MLP_RATIO * dim;
            let shape = BlockConfig { dim, heads, hidden, eps: EPS, drop_path, ..BlockConfig::default() };
            Block::new(&(p / "blocks" / index), &shape, &TIMM)
        };
        let blocks = (0..layers).map(block).collect::<Result<_>>()?;
        let norm = match config.pool {
            Pool::Token => "norm",
            Pool::Mean => "fc_norm",
        };
        let norm = LayerNorm::new(&(p / norm), dim, EPS)?;
        Ok(Vit {
            patches,
            class,
            positions,
            side,
            blocks,
            norm,
            pool: config.pool,
            dim,
            recompute: config.recompute,
        })
    }

    /// Side of a patch, in pixels.
    pub fn patch_size(&self) -> i64 {
        self.patches.size
    }

    /// Channels of the images.
    pub fn channels(&self) -> i64 {
        self.patches.channels
    }

    /// All tokens after the last normalization, or only those of the patches that `keep` names by their place in the
    /// grid, row by row. Positions are added before the choice, and only chosen patches pass the blocks.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`; `keep`: `[B, K]` of 64-bit integers; returns `[B, 1 + K or N, D]`, the class token first.
    ///
    /// # Errors
    /// `Error::Shape` when `x` or `keep` has another shape, or the patches do not divide the image; when `keep` names
    /// a patch that is not there.
    pub fn tokens(&self, x: &Tensor, keep: Option<&Tensor>, mode: Mode) -> Result<Tensor> {
        let seen = keep.map_or(Seen::All, Seen::Kept);
        self.norm.forward(&self.run(self.embed(x, seen)?, mode)?, mode)
    }

    /// All tokens after the last normalization, where `token` stands for the patches that `hidden` marks; it gets their
    /// positions.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`; `hidden`: bool `[B, N]`; `token`: `[1, 1, D]`; returns `[B, 1 + N, D]`, the class token first.
    ///
    /// # Errors
    /// `Error::Shape` when `x` or `hidden` has another shape, or the patches do not divide the image.
    pub fn masked_tokens(&self, x: &Tensor, hidden: &Tensor, token: &Tensor, mode: Mode) -> Result<Tensor> {
        let seen = Seen::Masked { hidden, token };
        self.norm.forward(&self.run(self.embed(x, seen)?, mode)?, mode)
    }

    /// How much each token looks at each in every block, the class token first; a pass of its own, for explanations.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`; returns `[B, heads, 1 + N, 1 + N]` each, without gradients.
    ///
    /// # Errors
    /// As [`Vit::tokens`].
    pub fn attention(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let tokens = no_grad(|| self.embed(x, Seen::All))?;
        attention_weights(&self.blocks, &tokens, AttentionMask::None)
    }

    /// What the representation is made of.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// What the first block gets.
    fn embed(&self, x: &Tensor, seen: Seen<'_>) -> Result<Tensor> {
        let grid = self.patches.grid(x)?;
        let positions = for_grid(&self.positions, self.side, grid)?;
        let n = grid.iter().product::<i64>();
        let mut of_patches = positions.f_narrow(1, 1, n)?;
        let mut patches = self.patches.cut(x, grid)?; // [B, N, C P P].
        if let Seen::Kept(keep) = seen {
            let rows = Rows::new(keep, patches.size().first().copied().unwrap_or(0))?;
            of_patches = rows.of_each(&of_patches.f_squeeze_dim(0)?)?;
            patches = rows.of_own(&patches)?;
        }
        let mut patches = self.patches.project(&patches)?;
        if let Seen::Masked { hidden, token } = seen {
            patches = replaced(&patches, hidden, token)?;
        }
        let patches = patches.f_add(&of_patches)?;
        let class = self.class.f_add(&positions.f_narrow(1, 0, 1)?)?;
        let b = patches.size().first().copied().unwrap_or(0);
        let class = class.f_expand([b, 1, self.dim], false)?;
        Ok(Tensor::f_cat(&[class, patches], 1)?)
    }

    fn run(&self, x: Tensor, mode: Mode) -> Result<Tensor> {
        self.blocks.iter().try_fold(x, |x, block| match self.recompute {
            true => block.forward_recomputed(&x, mode),
            false => block.forward(&x, mode),
        })
    }
}

impl Backbone for Vit {
    /// The patches' tokens after each block, `blocks.0` first, before the last normalization.
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let [rows, columns] = self.patches.grid(x)?;
        let mut x = self.embed(x, Seen::All)?;
        let mut maps = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, mode)?;
            let patches = x.f_narrow(1, 1, rows * columns)?.f_transpose(1, 2)?;
            maps.push((format!("blocks.{index}"), patches.f_unflatten(2, [rows, columns])?));
        }
        Ok(maps)
    }

    /// The class token after the normalization, or the mean of the patches' tokens with the normalization after it,
    /// each as in timm.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.run(self.embed(x, Seen::All)?, mode)?;
        let pooled = match self.pool {
            Pool::Token => x.f_select(1, 0)?,
            Pool::Mean => {
                let n = x.size().get(1).copied().unwrap_or(1) - 1;
                x.f_narrow(1, 1, n)?.f_mean_dim([1i64].as_slice(), false, Kind::Float)?
            }
        };
        Ok(self.norm.forward(&pooled, mode)?.f_to_kind(Kind::Float)?)
    }

    fn dim(&self) -> i64 {
        self.dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::Precision;
    use tch::Device;
    use tch::nn::VarStore;

    fn small() -> VitConfig {
        let arch = VitArch::Free { dim: 24, layers: 2, heads: 3 };
        VitConfig { arch, image_size: 16, patch_size: 4, channels: 1, ..VitConfig::default() }
    }

    fn build(config: &VitConfig) -> (VarStore, Vit) {
        let vars = VarStore::new(Device::Cpu);
        let net = Vit::new(&vars.root(), config).unwrap();
        (vars, net)
    }

    fn images(shape: [i64; 4]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn near(a: &Tensor, b: &Tensor) -> bool {
        a.allclose(b, 1e-5, 1e-5, false)
    }

    #[test]
    fn sizes_equal_timms() {
        // timm 1.0.31: sum(p.numel() for p in create_model("vit_tiny_patch16_224", num_classes=0).parameters()).
        for (arch, parameters) in
            [(VitArch::Tiny, 5_524_416), (VitArch::Small, 21_665_664), (VitArch::Base, 85_798_656)]
        {
            let (vars, net) = build(&VitConfig { arch, ..VitConfig::default() });
            let count: usize = vars.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!(
                (count, vars.variables().len(), net.dim()),
                (parameters, 150, arch.shape().0),
                "{arch}"
            );
        }
    }

    #[test]
    fn it_starts_as_timms() {
        let (vars, _) = build(&VitConfig { arch: VitArch::Tiny, ..VitConfig::default() });
        // timm 1.0.31, standard deviations in vit_tiny_patch16_224 over ten seeds: linear weights 0.0199 to 0.0209
        // (that with a weight of -2), pos_embed 0.0200 to 0.0201, cls_token 0.95e-6 to 1.15e-6, patch_embed.proj.weight
        // 0.0208 to 0.0209, its bias 0.0192 to 0.0216.
        for (name, x) in vars.variables() {
            let std = f64::try_from(x.std(true)).unwrap();
            let mean = f64::try_from(x.mean(Kind::Double)).unwrap();
            let (expected, within) = match &name[..] {
                "cls_token" => (1e-6, 0.3),
                "patch_embed.proj.weight" => (1. / (3f64 * 768.).sqrt(), 0.01),
                "patch_embed.proj.bias" => (1. / (3f64 * 768.).sqrt(), 0.25),
                "pos_embed" => (0.02, 0.03),
                _ if x.dim() == 2 => (0.02, 0.03),
                _ => (0., 0.),
            };
            assert!((std - expected).abs() <= within * expected, "{name}: {std}");
            let center = if x.dim() == 1 && name.ends_with("weight") { 1. } else { 0. };
            let sure = 6. * expected / (x.numel() as f64).sqrt();
            assert!((mean - center).abs() <= sure, "{name}: mean {mean}");
        }
    }

    #[test]
    fn kept_patches_are_chosen_after_their_positions_and_alone_pass() {
        let (_vars, net) = build(&small());
        let x = images([2, 1, 16, 16]);
        let all = Tensor::arange(16, (Kind::Int64, Device::Cpu)).expand([2, 16], false);
        let whole = net.tokens(&x, None, Mode::Eval).unwrap();
        assert_eq!(whole.size(), [2, 17, 24]);
        assert!(near(&net.tokens(&x, Some(&all), Mode::Eval).unwrap(), &whole));
        // The order of patches changes nothing but the order of tokens.
        let other = all.flip([1]);
        let turned = net.tokens(&x, Some(&other), Mode::Eval).unwrap();
        assert!(near(&turned.narrow(1, 1, 16).flip([1]), &whole.narrow(1, 1, 16)));
        assert!(near(&turned.narrow(1, 0, 1), &whole.narrow(1, 0, 1)));
        // What is not kept is not seen, and each example keeps its own.
        let keep = Tensor::from_slice(&[5i64, 0, 3, 15, 7, 1]).view([2, 3]);
        let seen = net.tokens(&x, Some(&keep), Mode::Eval).unwrap();
        assert_eq!(seen.size(), [2, 4, 24]);
        let hidden = x.copy();
        // Patch 2 of the first example is in the first row, third column; patch 1 of the second is kept.
        let _ = hidden.get(0).narrow(1, 0, 4).narrow(2, 8, 4).fill_(9.);
        assert!(net.tokens(&hidden, Some(&keep), Mode::Eval).unwrap().equal(&seen));
        let _ = hidden.get(1).narrow(1, 0, 4).narrow(2, 4, 4).fill_(9.);
        let now = net.tokens(&hidden, Some(&keep), Mode::Eval).unwrap();
        assert!(now.get(0).equal(&seen.get(0)) && !near(&now.get(1), &seen.get(1)));
    }

    #[test]
    fn kept_patches_get_the_positions_of_an_interpolated_grid() {
        let (_vars, net) = build(&small());
        let x = images([2, 1, 8, 24]);
        let all = Tensor::arange(12, (Kind::Int64, Device::Cpu)).expand([2, 12], false);
        let whole = net.tokens(&x, None, Mode::Eval).unwrap();
        assert!(near(&net.tokens(&x, Some(&all), Mode::Eval).unwrap(), &whole));
    }

    #[test]
    fn the_representation_is_the_class_or_the_mean_and_maps_are_what_blocks_give() {
        for pool in [Pool::Token, Pool::Mean] {
            let (_vars, net) = build(&VitConfig { pool, ..small() });
            let x = images([2, 1, 16, 16]);
            let maps = net.features(&x, Mode::Eval).unwrap();
            let names: Vec<_> = maps.iter().map(|(name, map)| (name.as_str(), map.size())).collect();
            assert_eq!(names, [("blocks.0", vec![2, 24, 4, 4]), ("blocks.1", vec![2, 24, 4, 4])]);
            let last = maps[1].1.flatten(2, 3).transpose(1, 2);
            let patches = net.norm.forward(&last, Mode::Eval).unwrap();
            let tokens = net.tokens(&x, None, Mode::Eval).unwrap();
            assert!(near(&tokens.narrow(1, 1, 16), &patches));
            let expected = match pool {
                Pool::Token => tokens.select(1, 0),
                Pool::Mean => {
                    let mean = last.mean_dim([1i64].as_slice(), false, Kind::Float);
                    net.norm.forward(&mean, Mode::Eval).unwrap()
                }
            };
            assert!(near(&net.forward(&x, Mode::Eval).unwrap(), &expected), "{pool:?}");
        }
    }

    #[test]
    fn fixed_positions_take_no_gradient_and_are_saved() {
        let (vars, net) = build(&VitConfig { positions: Positions::Sincos, ..small() });
        let x = images([2, 1, 16, 16]);
        net.forward(&x, Mode::Train).unwrap().square().sum(Kind::Float).backward();
        for (name, variable) in vars.variables() {
            assert_eq!(variable.requires_grad(), name != "pos_embed", "{name}");
            assert!(name == "pos_embed" || variable.grad().defined(), "{name}");
        }
        let class = vars.variables()["pos_embed"].narrow(1, 0, 1);
        assert!(class.equal(&class.zeros_like()));
        let message = Vit::new(
            &VarStore::new(Device::Cpu).root(),
            &VitConfig {
                arch: VitArch::Free { dim: 6, layers: 1, heads: 1 },
                positions: Positions::Sincos,
                ..small()
            },
        );
        let message = message.unwrap_err().to_string();
        assert_eq!(message, "positions: expected a width that is a multiple of 4 for sincos, got 6");
    }

    #[test]
    fn stochastic_depth_grows_from_nothing_and_is_for_training() {
        let (_vars, net) = build(&VitConfig { drop_path: 0.9, ..small() });
        let x = images([1, 1, 16, 16]).expand([200, 1, 16, 16], false);
        let differ = |index: usize, mode| {
            let maps = no_grad(|| net.features(&x, mode)).unwrap();
            let map = maps[index].1.flatten(1, 3);
            !near(&map, &map.narrow(0, 0, 1).expand_as(&map))
        };
        assert!(!differ(0, Mode::Train) && differ(1, Mode::Train) && !differ(1, Mode::Eval));
    }

    #[test]
    fn mixed_precision_gives_float32_near_the_exact_one() {
        let (_vars, net) = build(&small());
        let x = images([4, 1, 16, 16]);
        let exact = no_grad(|| net.forward(&x, Mode::Eval)).unwrap();
        let mixed = || Precision::Bf16.scope(Device::Cpu, || net.forward(&x, Mode::Train));
        for y in [mixed().unwrap(), no_grad(mixed).unwrap()] {
            assert_eq!(y.kind(), Kind::Float);
            let off = f64::try_from((&y - &exact).norm() / exact.norm()).unwrap();
            assert!(off > 0. && off < 0.05, "{off}");
        }
    }

    #[test]
    fn wrong_inputs_and_numbers_are_named() {
        let (_vars, net) = build(&small());
        let multiple = "with H and W multiples of the patch size 4";
        for shape in [[2, 1, 16, 18], [2, 3, 16, 16], [2, 1, 0, 16]] {
            let message = net.forward(&images(shape), Mode::Eval).unwrap_err().to_string();
            assert_eq!(message, format!("images: expected [B, 1, H, W] {multiple}, got {shape:?}"));
        }
        let x = images([2, 1, 16, 16]);
        let keep = |values: &[i64], shape: &[i64]| {
            net.tokens(&x, Some(&Tensor::from_slice(values).view(shape)), Mode::Eval).map(|_| ())
        };
        let message = keep(&[0, 1, 2], &[1, 3]).unwrap_err().to_string();
        assert_eq!(message, "patches to keep: expected [2, K] of 64-bit integers, got [1, 3]");
        assert!(keep(&[0, 16], &[2, 1]).is_err() && keep(&[-1, 0], &[2, 1]).is_err());
        for (config, message) in [
            (VitConfig { patch_size: 0, ..small() }, "patch_size: expected at least 1, got 0"),
            (VitConfig { channels: 0, ..small() }, "channels: expected at least 1, got 0"),
            (
                VitConfig { image_size: 18, ..small() },
                "image_size: expected a multiple of the patch size 4, got 18",
            ),
            (VitConfig { drop_path: 1., ..small() }, "drop_path: expected a number from 0 to below 1, got 1"),
        ] {
            let vars = VarStore::new(Device::Cpu);
            assert_eq!(Vit::new(&vars.root(), &config).unwrap_err().to_string(), message);
        }
    }
}
