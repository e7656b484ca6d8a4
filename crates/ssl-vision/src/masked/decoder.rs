//! A small transformer that fills gaps: what lies at some places of a grid, told from the tokens of others.
//!
//! Source: He et al., 2021 (MAE), section 3: <https://arxiv.org/abs/2111.06377>; `facebookresearch/mae`, `models_mae.py`.
//! The gaps come behind the tokens, each with its position, so that nothing is put back in order; attention knows places
//! from positions alone.
use crate::backbones::sincos_positions;
use ssl_core::nn::{Block, BlockConfig, LayerNorm, Linear, Module, TIMM};
use ssl_core::{Error, Mode, Result, dims2, dims3};
use std::collections::BTreeMap;
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

/// The shape of a decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecoderConfig {
    /// Width of the tokens.
    pub(crate) input: i64,
    /// Its own width, a multiple of 4.
    pub(crate) dim: i64,
    /// Blocks.
    pub(crate) depth: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Numbers that it gives for each gap.
    pub(crate) output: i64,
    /// Side of the grid of places.
    pub(crate) side: i64,
}

/// What the variables are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecoderNames {
    pub(crate) embed: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) blocks: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) output: &'static str,
}

/// Blocks over tokens and a learned token for each gap.
#[derive(Debug)]
pub(crate) struct Decoder {
    embed: Linear,
    mask_token: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
}

impl Decoder {
    /// Makes the variables at the root of `vars`; `init` starts the weights of all linear layers.
    pub(crate) fn new(
        vars: &VarStore,
        config: &DecoderConfig,
        names: &DecoderNames,
        init: fn(&Tensor) -> Result<()>,
    ) -> Result<Self> {
        let (p, DecoderConfig { input, dim, depth, heads, output, side }) = (vars.root(), *config);
        if dim < 4 || dim % 4 != 0 || depth < 1 {
            let (dim_of, depth_of) =
                (names.embed.replace("embed", "dim"), names.embed.replace("embed", "depth"));
            let message = format!("expected a multiple of 4 and at least 1, got {:?}", (dim, depth));
            return Err(Error::config(format!("{dim_of}, {depth_of}"), message));
        }
        let block = BlockConfig { dim, heads, hidden: 4 * dim, ..BlockConfig::default() };
        let places = &p / names.blocks;
        let blocks = (0..depth).map(|i| Block::new(&(&places / i), &block, &TIMM)).collect::<Result<_>>()?;
        let positions = sincos_positions(dim, side)?.f_to_device(p.device())?;
        let decoder = Decoder {
            embed: Linear::with_init(&(&p / names.embed), input, dim, init)?,
            mask_token: p.f_var("mask_token", &[1, 1, dim], Init::Randn { mean: 0., stdev: 0.02 })?,
            positions: p.add(names.positions, positions, false),
            blocks,
            norm: LayerNorm::new(&(&p / names.norm), dim, 1e-6)?,
            output: Linear::with_init(&(&p / names.output), dim, output, init)?,
        };
        // In a fixed order, so that a seed gives the same weights.
        let named: BTreeMap<_, _> = vars.variables().into_iter().collect();
        for (_, weight) in named.iter().filter(|(name, x)| name.starts_with(names.blocks) && x.dim() == 2) {
            init(weight)?;
        }
        Ok(decoder)
    }

    /// What lies in the gaps, in float32. `[B * M, P]`.
    ///
    /// # Shapes
    /// `tokens`: `[B, K, E]`; `places`: `[B, K]` of the tokens and `[B, M]` of the gaps, where 0 is the class token and
    /// the patches count from 1, row by row.
    pub(crate) fn forward(&self, tokens: &Tensor, places: [&Tensor; 2], mode: Mode) -> Result<Tensor> {
        let seen = self.embed.forward(tokens, mode)?; // [B, K, D].
        let (images, shown, dim) = dims3(&seen, "tokens", "[B, K, D]")?;
        let places = Tensor::f_cat(&places, 1)?;
        let (_, all) = dims2(&places, "places", "[B, K + M]")?;
        let positions = self.positions.f_squeeze_dim(0)?.f_index_select(0, &places.f_flatten(0, 1)?)?;
        let gaps = self.mask_token.f_to_kind(seen.kind())?.f_expand([images, all - shown, dim], false)?;
        // In float32, as the sums in the blocks are.
        let mut x = Tensor::f_cat(&[seen, gaps], 1)?.f_add(&positions.f_view([images, all, dim])?)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        let x = x.f_narrow(1, shown, all - shown)?.f_reshape([-1, dim])?; // [B * M, D].
        Ok(self.output.forward(&self.norm.forward(&x, mode)?, mode)?.f_to_kind(Kind::Float)?)
    }
}
