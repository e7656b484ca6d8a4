//! Transformers of BERT's, ELECTRA's and GPT-2's shapes, with the names of transformers.
//!
//! Source: Devlin et al., 2018: <https://arxiv.org/abs/1810.04805>; Clark et al., 2020 (ELECTRA):
//! <https://arxiv.org/abs/2003.10555>; Radford et al., 2019 (GPT-2); transformers 5 `models/{bert,electra,gpt2}`.
use super::{Attend, Embedding, EncoderConfig, Family, Positions};
use crate::batch::Tokens;
use ssl_core::nn::{
    AttentionMask, Block, BlockConfig, Dropout, LayerNorm, Linear, Module, Names, NormPlace, QkvNames, TIMM,
    attention_weights,
};
use ssl_core::{Error, Mode, Result, dims3, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

const BERT: Names = Names {
    norm1: "attention.output.LayerNorm",
    qkv: QkvNames::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    proj: "attention.output.dense",
    norm2: "output.LayerNorm",
    fc1: "intermediate.dense",
    fc2: "output.dense",
    ..TIMM
};
const GPT2: Names = Names {
    norm1: "ln_1",
    qkv: QkvNames::Fused("attn.c_attn"),
    proj: "attn.c_proj",
    norm2: "ln_2",
    fc1: "mlp.c_fc",
    fc2: "mlp.c_proj",
    ..TIMM
};
/// The base of rotary positions.
const BASE: f64 = 10_000.;
/// Segments that BERT tells apart.
const SEGMENTS: i64 = 2;

/// Embeddings of tokens and places, and blocks.
#[derive(Debug)]
pub struct Transformer {
    embeddings: Embeddings,
    project: Option<Linear>,
    blocks: Vec<Block>,
    last_norm: Option<LayerNorm>,
}

impl Transformer {
    /// Makes the variables under `p`, for a vocabulary of so many tokens.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig, vocabulary: i64) -> Result<Self> {
        Transformer::on(Embeddings::new(p, config, vocabulary)?, p, config)
    }

    /// Another one whose embeddings are those of `other`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn with_embeddings_of(other: &Transformer, p: &Path, config: &EncoderConfig) -> Result<Self> {
        Transformer::on(other.embeddings.shallow_clone(), p, config)
    }

    /// What comes after the embeddings.
    fn on(embeddings: Embeddings, p: &Path, config: &EncoderConfig) -> Result<Self> {
        let (dim, width) = (config.arch.dim, config.embedding_dim());
        let gpt2 = config.arch.family == Family::Gpt2;
        let project = match (width == dim, config.arch.family) {
            (true, _) => None,
            (false, Family::Electra) => {
                Some(Linear::with_init(&(p / "embeddings_project"), width, dim, small)?)
            }
            (false, family) => {
                let message =
                    format!("expected the network's width {dim} ({family:?} has no other), got {width}");
                return Err(Error::config("embedding_dim", message));
            }
        };
        let block = BlockConfig {
            dim,
            heads: config.arch.heads,
            hidden: config.hidden(),
            activation: config.activation(),
            norm: config.norm(),
            eps: config.eps(),
            dropout: config.dropout,
            attention_dropout: config.attention_dropout,
            rotary: (config.positions == Positions::Rotary).then_some(BASE),
            ..BlockConfig::default()
        };
        let (places, names) = if gpt2 { (p / "h", GPT2) } else { (p / "encoder" / "layer", BERT) };
        let blocks: Vec<Block> = (0..config.arch.layers)
            .map(|i| Block::new(&(&places / i), &block, &names))
            .collect::<Result<_>>()?;
        let last_norm = match config.norm() {
            NormPlace::Pre if gpt2 => Some(LayerNorm::new(&(p / "ln_f"), dim, config.eps())?),
            NormPlace::Pre => Some(LayerNorm::new(&(p / "encoder" / "norm"), dim, config.eps())?),
            NormPlace::Post => None,
        };
        if gpt2 {
            shrink_residuals(p, config.arch.layers)?;
        }
        Ok(Transformer { embeddings, project, blocks, last_norm })
    }

    /// A vector for each position.
    ///
    /// # Shapes
    /// Returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when the tokens are not `[B, N]`, `Error::Config` when there are more of them than places.
    pub fn forward(&self, tokens: &Tokens, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.forward_vectors(&self.embeddings.words.forward(&tokens.ids)?, tokens, attend, mode)
    }

    /// [`Transformer::forward`] of given vectors instead of those of the tokens, whose lengths alone count.
    ///
    /// # Shapes
    /// `vectors`: `[B, N, E]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// As [`Transformer::forward`].
    pub fn forward_vectors(
        &self,
        vectors: &Tensor,
        tokens: &Tokens,
        attend: Attend,
        mode: Mode,
    ) -> Result<Tensor> {
        let hidden = hidden_positions(tokens, attend)?;
        let mask = mask_of(hidden.as_ref(), attend);
        let first = self.first(vectors, mode)?;
        let x = self.blocks.iter().try_fold(first, |x, block| block.forward_masked(&x, mask, mode))?;
        match &self.last_norm {
            Some(norm) => norm.forward(&x, mode),
            None => Ok(x),
        }
    }

    /// How much each position looks at each in every block; a pass of its own, for explanations.
    ///
    /// # Shapes
    /// Returns `[B, heads, N, N]` each, without gradients.
    ///
    /// # Errors
    /// As [`Transformer::forward`].
    pub fn attention(&self, tokens: &Tokens, attend: Attend) -> Result<Vec<Tensor>> {
        let first = no_grad(|| self.first(&self.embeddings.words.forward(&tokens.ids)?, Mode::Eval))?;
        let hidden = hidden_positions(tokens, attend)?;
        attention_weights(&self.blocks, &first, mask_of(hidden.as_ref(), attend))
    }

    /// What the first block gets.
    fn first(&self, vectors: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.embeddings.forward(vectors, mode)?;
        match &self.project {
            Some(project) => project.forward(&x, mode),
            None => Ok(x),
        }
    }

    /// The vectors of tokens, which a head may use again.
    pub fn words(&self) -> &Embedding {
        &self.embeddings.words
    }
}

/// Vectors of tokens, of places and, in BERT, of the one segment, added up and normalized.
#[derive(Debug)]
struct Embeddings {
    words: Embedding,
    positions: Option<Tensor>,
    segments: Option<Embedding>,
    norm: Option<LayerNorm>,
    dropout: Dropout,
    max_length: i64,
}

impl Embeddings {
    fn new(p: &Path, config: &EncoderConfig, vocabulary: i64) -> Result<Self> {
        let (width, max_length) = (config.embedding_dim(), config.max_length);
        let gpt2 = config.arch.family == Family::Gpt2;
        if max_length < 1 {
            return Err(Error::config("max_length", format!("expected at least 1, got {max_length}")));
        }
        let at = |bert: &str, gpt: &str| if gpt2 { p / gpt } else { p / "embeddings" / bert };
        let words = Embedding::new(&at("word_embeddings", "wte"), vocabulary, width)?;
        let place = at("position_embeddings", "wpe");
        let positions = match config.positions {
            Positions::Learned => Some(Embedding::new(&place, max_length, width)?.weight().shallow_clone()),
            Positions::Sinusoidal => Some(sinusoids(max_length, width)?.f_to_device(p.device())?),
            Positions::Rotary => None,
        };
        let (segments, norm) = match gpt2 {
            true => (None, None),
            false => {
                let place = p / "embeddings";
                let segments = Embedding::new(&(&place / "token_type_embeddings"), SEGMENTS, width)?;
                (Some(segments), Some(LayerNorm::new(&(place / "LayerNorm"), width, config.eps())?))
            }
        };
        let dropout = Dropout::new(config.dropout)?;
        Ok(Embeddings { words, positions, segments, norm, dropout, max_length })
    }

    /// Vectors of tokens at their places, `[B, N, E]`.
    fn forward(&self, vectors: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, n, _) = dims3(vectors, "vectors of tokens", "[B, N, E]")?;
        if n > self.max_length {
            let message = format!("expected at most {} tokens in a sequence, got {n}", self.max_length);
            return Err(Error::config("max_length", message));
        }
        let mut x = vectors.shallow_clone();
        if let Some(positions) = &self.positions {
            x = x.f_add(&positions.f_narrow(0, 0, n)?)?;
        }
        if let Some(segments) = &self.segments {
            x = x.f_add(&segments.weight().f_narrow(0, 0, 1)?)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, mode)?;
        }
        self.dropout.forward(&x, mode)
    }

    /// The same embeddings, of the same variables.
    fn shallow_clone(&self) -> Self {
        Embeddings {
            words: self.words.shallow_clone(),
            positions: self.positions.as_ref().map(Tensor::shallow_clone),
            segments: self.segments.as_ref().map(Embedding::shallow_clone),
            norm: self.norm.as_ref().map(LayerNorm::shallow_clone),
            ..*self
        }
    }
}

/// The mask of attention, with what hides fillings.
fn mask_of(hidden: Option<&Tensor>, attend: Attend) -> AttentionMask<'_> {
    match (hidden, attend) {
        (Some(hidden), _) => AttentionMask::Additive(hidden),
        (None, Attend::All) => AttentionMask::None,
        (None, Attend::Past) => AttentionMask::Causal,
    }
}

/// What is added to the logits of attention: minus infinity at fillings. Where positions look back only, fillings come
/// last, so that no token sees them. `[B, 1, 1, N]`.
pub(crate) fn hidden_positions(tokens: &Tokens, attend: Attend) -> Result<Option<Tensor>> {
    if attend == Attend::Past {
        return Ok(None);
    }
    let Some(held) = tokens.held()? else { return Ok(None) };
    let zeros = held.f_zeros_like()?.f_to_kind(Kind::Float)?;
    let mask = zeros.f_masked_fill(&held.f_logical_not()?, f64::NEG_INFINITY)?;
    Ok(Some(mask.f_unsqueeze(1)?.f_unsqueeze(1)?))
}

/// The start of a transformer's weights.
fn small(weight: &Tensor) -> Result<()> {
    ssl_core::nn::trunc_normal(weight, 0.02)
}

/// The last layers of the branches start smaller by the root of their number, as GPT-2's.
fn shrink_residuals(p: &Path, layers: i64) -> Result<()> {
    for i in 0..layers {
        for (part, name) in [("attn", "c_proj"), ("mlp", "c_proj")] {
            let weight = (p / "h" / i / part / name).get("weight");
            if let Some(mut weight) = weight {
                no_grad(|| weight.f_div_scalar_((2. * layers as f64).sqrt()).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Sines in the first half and cosines in the second, of wavelengths from 2 pi to 10,000 times that. `[N, D]`.
///
/// # Source
/// Vaswani et al., 2017, section 3.5: <https://arxiv.org/abs/1706.03762>, whose sines and cosines alternate.
fn sinusoids(n: i64, dim: i64) -> Result<Tensor> {
    if dim % 2 != 0 {
        return Err(Error::config("embedding_dim", format!("expected an even number for sines, got {dim}")));
    }
    let float = (Kind::Float, tch::Device::Cpu);
    let half = dim / 2;
    let exponents = Tensor::f_arange(half, float)?.f_mul_scalar(-(BASE.ln()) / half as f64)?;
    let angles = Tensor::f_arange(n, float)?.f_unsqueeze(1)?.f_mul(&exponents.f_exp()?)?;
    Ok(Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?)
}
