//! A decoder that reads what an encoder made of another sequence.
//!
//! Source: Lewis et al., 2019 (BART), section 2.1: <https://arxiv.org/abs/1910.13461>; names of transformers'
//! `BartDecoder`.
use super::Embedding;
use ssl_core::nn::{
    Activation, Attention, AttentionConfig, AttentionMask, Dropout, LayerNorm, Linear, Mlp, Module, QkvNames,
    trunc_normal,
};
use ssl_core::{Mode, Result, dims2};
use tch::Tensor;
use tch::nn::Path;

const QKV: QkvNames = QkvNames::Separate(["q_proj", "k_proj", "v_proj"]);
const EPS: f64 = 1e-5;

/// The shape of a decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecoderConfig {
    /// Width, that of the encoder.
    pub(crate) dim: i64,
    /// Layers.
    pub(crate) layers: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Width inside the MLP.
    pub(crate) hidden: i64,
    /// Tokens of a sequence, at most.
    pub(crate) max_length: i64,
    /// Probability of dropping a value.
    pub(crate) dropout: f64,
}

/// Positions look back in their own sequence and at all of the encoder's.
#[derive(Debug)]
pub(crate) struct Decoder {
    positions: Embedding,
    project: Linear,
    norm: LayerNorm,
    layers: Vec<Layer>,
    dropout: Dropout,
}

#[derive(Debug)]
struct Layer {
    own: Attention,
    other: Attention,
    mlp: Mlp,
    norms: [LayerNorm; 3],
    dropout: Dropout,
}

impl Decoder {
    /// Makes the variables under `p`; tokens come as embeddings of width `embedding`.
    pub(crate) fn new(p: &Path, config: &DecoderConfig, embedding: i64) -> Result<Self> {
        let DecoderConfig { dim, layers, max_length, dropout, .. } = *config;
        let places = p / "layers";
        Ok(Decoder {
            positions: Embedding::new(&(p / "embed_positions"), max_length, dim)?,
            project: Linear::with_init(&(p / "embed_projection"), embedding, dim, |w| trunc_normal(w, 0.02))?,
            norm: LayerNorm::new(&(p / "layernorm_embedding"), dim, EPS)?,
            layers: (0..layers).map(|i| Layer::new(&(&places / i), config)).collect::<Result<_>>()?,
            dropout: Dropout::new(dropout)?,
        })
    }

    /// A vector for each position of `ids`, from those before it and from `memory`.
    ///
    /// # Shapes
    /// `ids`: `[B, N]`; `memory`: `[B, M, D]`; returns `[B, N, D]`.
    pub(crate) fn forward(
        &self,
        ids: &Tensor,
        words: &Embedding,
        (memory, mask): (&Tensor, AttentionMask<'_>),
        mode: Mode,
    ) -> Result<Tensor> {
        let (_, n) = dims2(ids, "targets", "[B, N]")?;
        let x = self.project.forward(&words.forward(ids)?, mode)?;
        let x = x.f_add(&self.positions.weight().f_narrow(0, 0, n)?)?;
        let mut x = self.dropout.forward(&self.norm.forward(&x, mode)?, mode)?;
        for layer in &self.layers {
            x = layer.forward(&x, (memory, mask), mode)?;
        }
        Ok(x)
    }
}

impl Decoder {
    /// Logits of tokens: products with their embeddings, turned as those that are read.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; `words`: `[V, E]`; returns `[B, N, V]`.
    pub(crate) fn logits(&self, x: &Tensor, words: &Tensor) -> Result<Tensor> {
        let turned = self.project.forward(words, Mode::Eval)?;
        Ok(x.f_linear(&turned, None::<&Tensor>)?)
    }
}

impl Layer {
    fn new(p: &Path, config: &DecoderConfig) -> Result<Self> {
        let DecoderConfig { dim, heads, hidden, dropout, .. } = *config;
        let attention = AttentionConfig { dim, heads, qkv_bias: true, dropout: 0., rotary: None };
        let norm = |name: &str| LayerNorm::new(&(p / name), dim, EPS);
        Ok(Layer {
            own: Attention::new(&(p / "self_attn"), &attention, &QKV, "out_proj")?,
            other: Attention::new(&(p / "encoder_attn"), &attention, &QKV, "out_proj")?,
            mlp: Mlp::new(p, (dim, hidden), Activation::Gelu, 0., ["fc1", "fc2"])?,
            norms: [
                norm("self_attn_layer_norm")?,
                norm("encoder_attn_layer_norm")?,
                norm("final_layer_norm")?,
            ],
            dropout: Dropout::new(dropout)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        (memory, mask): (&Tensor, AttentionMask<'_>),
        mode: Mode,
    ) -> Result<Tensor> {
        let [norm1, norm2, norm3] = &self.norms;
        let sum = |x: &Tensor, y: Tensor, norm: &LayerNorm| -> Result<Tensor> {
            norm.forward(&x.f_add(&self.dropout.forward(&y, mode)?)?, mode)
        };
        let x = sum(x, self.own.forward_masked(x, AttentionMask::Causal, mode)?, norm1)?;
        let x = sum(&x, self.other.forward_to(&x, memory, mask, mode)?, norm2)?;
        sum(&x, self.mlp.forward(&x, mode)?, norm3)
    }
}
