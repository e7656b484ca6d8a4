//! Vision Transformer under timm's names and initialization.
//!
//! Source: Dosovitskiy et al., 2021: <https://arxiv.org/abs/2010.11929>; Touvron et al., 2021 (tiny and small):
//! <https://arxiv.org/abs/2012.12877>; timm 1.0 `models/vision_transformer.py`.
mod config;
mod positions;

pub use config::{Pool, Positions, VitArch, VitConfig};
pub(crate) use positions::{resample_positions, sincos_positions};

use super::Backbone;
use positions::for_grid;
use ssl_core::nn::{Block, BlockConfig, LayerNorm, Module, TIMM, trunc_normal, uniform_fan_in};
use ssl_core::{Error, Mode, Result, dims4};
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
        Ok(Vit { patches, class, positions, side, blocks, norm, pool: config.pool, dim })
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
        let x = self.run(self.embed(x, keep)?, mode)?;
        self.norm.forward(&x, mode)
    }

    /// What the first block gets.
    fn embed(&self, x: &Tensor, keep: Option<&Tensor>) -> Result<Tensor> {
        let grid = self.patches.grid(x)?;
        let positions = for_grid(&self.positions, self.side, grid)?;
        let n = grid.iter().product::<i64>();
        let mut of_patches = positions.f_narrow(1, 1, n)?;
        let mut patches = self.patches.cut(x, grid)?; // [B, N, C P P].
        if let Some(keep) = keep {
            let rows = Rows::new(keep, patches.size().first().copied().unwrap_or(0))?;
            of_patches = rows.of_each(&of_patches.f_squeeze_dim(0)?)?;
            patches = rows.of_own(&patches)?;
        }
        let patches = self.patches.project(&patches)?.f_add(&of_patches)?;
        let class = self.class.f_add(&positions.f_narrow(1, 0, 1)?)?;
        let b = patches.size().first().copied().unwrap_or(0);
        let class = class.f_expand([b, 1, self.dim], false)?;
        Ok(Tensor::f_cat(&[class, patches], 1)?)
    }

    fn run(&self, x: Tensor, mode: Mode) -> Result<Tensor> {
        self.blocks.iter().try_fold(x, |x, block| block.forward(&x, mode))
    }
}

impl Backbone for Vit {
    /// The patches' tokens after each block, `blocks.0` first, before the last normalization.
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let [rows, columns] = self.patches.grid(x)?;
        let mut x = self.embed(x, None)?;
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
        let x = self.run(self.embed(x, None)?, mode)?;
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

/// Cuts images into patches and projects them: a convolution whose step is its window, as a matrix product, so that
/// patches that nobody needs can be left out before it.
#[derive(Debug)]
struct Patches {
    weight: Tensor,
    bias: Tensor,
    size: i64,
    channels: i64,
    dim: i64,
}

impl Patches {
    fn new(p: &Path, config: &VitConfig, dim: i64) -> Result<Self> {
        let (size, channels) = (config.patch_size, config.channels);
        let init = uniform_fan_in(channels * size * size);
        let weight = p.f_var("weight", &[dim, channels, size, size], init)?;
        Ok(Patches { weight, bias: p.f_var("bias", &[dim], init)?, size, channels, dim })
    }

    /// Rows and columns of patches.
    fn grid(&self, x: &Tensor) -> Result<[i64; 2]> {
        let (_, c, h, w) = dims4(x, "images", "[B, C, H, W]")?;
        let size = self.size;
        if c != self.channels || h < size || w < size || h % size != 0 || w % size != 0 {
            let expected =
                format!("[B, {}, H, W] with H and W multiples of the patch size {size}", self.channels);
            return Err(Error::Shape { what: "images".into(), expected, got: x.size() });
        }
        Ok([h / size, w / size])
    }

    /// The pixels of each patch: `[B, N, C P P]`.
    fn cut(&self, x: &Tensor, [rows, columns]: [i64; 2]) -> Result<Tensor> {
        let (size, channels) = (self.size, self.channels);
        let b = x.size().first().copied().unwrap_or(0);
        let x = x.f_reshape([b, channels, rows, size, columns, size])?.f_permute([0, 2, 4, 1, 3, 5])?;
        Ok(x.f_reshape([b, rows * columns, channels * size * size])?)
    }

    fn project(&self, patches: &Tensor) -> Result<Tensor> {
        Ok(patches.f_linear(&self.weight.f_view([self.dim, -1])?, Some(&self.bias))?)
    }
}

/// Which patches of which example to keep.
struct Rows<'a> {
    keep: &'a Tensor,
    examples: i64,
    count: i64,
}

impl<'a> Rows<'a> {
    fn new(keep: &'a Tensor, examples: i64) -> Result<Self> {
        match keep.size()[..] {
            [b, count] if b == examples && keep.kind() == Kind::Int64 => Ok(Rows { keep, examples, count }),
            _ => {
                let expected = format!("[{examples}, K] of 64-bit integers");
                Err(Error::Shape { what: "patches to keep".into(), expected, got: keep.size() })
            }
        }
    }

    /// Rows of a table that all examples share: of `[N, D]`, `[B, K, D]`.
    fn of_each(&self, table: &Tensor) -> Result<Tensor> {
        Ok(table
            .f_index_select(0, &self.keep.f_flatten(0, 1)?)?
            .f_unflatten(0, [self.examples, self.count])?)
    }

    /// Rows of each example's own table: of `[B, N, D]`, `[B, K, D]`.
    fn of_own(&self, tables: &Tensor) -> Result<Tensor> {
        let n = tables.size().get(1).copied().unwrap_or(0);
        let first = Tensor::f_arange(self.examples, (Kind::Int64, self.keep.device()))?.f_mul_scalar(n)?;
        let index = self.keep.f_add(&first.f_unsqueeze(1)?)?.f_flatten(0, 1)?;
        let rows = tables.f_flatten(0, 1)?.f_index_select(0, &index)?;
        Ok(rows.f_unflatten(0, [self.examples, self.count])?)
    }
}
