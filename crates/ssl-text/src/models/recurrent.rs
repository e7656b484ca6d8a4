//! Recurrent networks, with PyTorch's names.
//!
//! Source: Hochreiter & Schmidhuber, 1997: <https://doi.org/10.1162/neco.1997.9.8.1735>; Cho et al., 2014 (gated
//! recurrent units): <https://arxiv.org/abs/1406.1078>; `torch.nn.{LSTM, GRU}`.
use super::{Embedding, EncoderConfig, Family};
use crate::batch::Tokens;
use ssl_core::nn::{Dropout, Module, uniform_fan_in};
use ssl_core::{Error, Mode, Result};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Embeddings of tokens, and layers that read them one after the other.
#[derive(Debug)]
pub struct Recurrent {
    words: Embedding,
    weights: Vec<Tensor>,
    family: Family,
    dim: i64,
    layers: i64,
    dropout: f64,
    after: Dropout,
}

impl Recurrent {
    /// Makes the variables under `p`, for a vocabulary of so many tokens.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig, vocabulary: i64) -> Result<Self> {
        let (dim, layers, family) = (config.arch.dim, config.arch.layers, config.arch.family);
        let gates = if family == Family::Lstm { 4 * dim } else { 3 * dim };
        let rnn = p / "rnn";
        let mut weights = Vec::new();
        for layer in 0..layers {
            let input = if layer == 0 { config.embedding_dim() } else { dim };
            for (name, shape) in [
                ("weight_ih", vec![gates, input]),
                ("weight_hh", vec![gates, dim]),
                ("bias_ih", vec![gates]),
                ("bias_hh", vec![gates]),
            ] {
                weights.push(rnn.f_var(&format!("{name}_l{layer}"), &shape, uniform_fan_in(dim))?);
            }
        }
        Ok(Recurrent {
            words: Embedding::new(&(p / "word_embeddings"), vocabulary, config.embedding_dim())?,
            weights,
            family,
            dim,
            layers,
            dropout: config.dropout,
            after: Dropout::new(config.dropout)?,
        })
    }

    /// A vector for each position, from it and those before it.
    ///
    /// # Shapes
    /// Returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when the tokens are not `[B, N]`.
    pub fn forward(&self, tokens: &Tokens, mode: Mode) -> Result<Tensor> {
        self.forward_vectors(&self.words.forward(&tokens.ids)?, mode)
    }

    /// [`Recurrent::forward`] of given vectors instead of those of tokens.
    ///
    /// # Shapes
    /// `vectors`: `[B, N, E]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn forward_vectors(&self, vectors: &Tensor, mode: Mode) -> Result<Tensor> {
        let train = mode == Mode::Train;
        let x = self.after.forward(vectors, mode)?;
        let rows = x.size().first().copied().unwrap_or(0);
        let zeros = || Tensor::f_zeros([self.layers, rows, self.dim], (Kind::Float, x.device()));
        let dropout = if train { self.dropout } else { 0. };
        let y = match self.family {
            Family::Lstm => {
                let state = [zeros()?, zeros()?];
                x.f_lstm(&state, &self.weights, true, self.layers, dropout, train, false, true)?.0
            }
            Family::Gru => {
                x.f_gru(&zeros()?, &self.weights, true, self.layers, dropout, train, false, true)?.0
            }
            other => return Err(Error::config("encoder", format!("{other:?} is no recurrent network"))),
        };
        self.after.forward(&y, mode)
    }

    /// The vectors of tokens, which a head may use again.
    pub fn words(&self) -> &Embedding {
        &self.words
    }
}
