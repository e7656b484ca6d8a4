//! The encoder of a method: which network it is, and who makes it.
//!
//! A method gets [`Encoders`] and takes from it the encoder that it trains. So several methods can train one encoder
//! without knowing of each other.
use super::{Attend, Embedding, EncoderConfig, Family, Pooling, Recurrent, Transformer};
use crate::batch::Tokens;
use crate::tokenizer::Vocabulary;
use ssl_core::checkpoint::load_encoder_fitted;
use ssl_core::objectives::SharedEncoder;
use ssl_core::{Error, Mode, Result, encoder_in};
use std::path::PathBuf;
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

/// A network of any family.
#[derive(Debug)]
pub struct Encoder {
    net: Net,
    pooling: Pooling,
    dim: i64,
}

#[derive(Debug)]
enum Net {
    Transformer(Transformer),
    Recurrent(Recurrent),
    Table(Embedding),
}

impl Encoder {
    /// Makes the variables under `p`, for a vocabulary of so many tokens.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig, vocabulary: i64) -> Result<Self> {
        let net = match config.arch.family {
            Family::Bert | Family::Electra | Family::Gpt2 => {
                Net::Transformer(Transformer::new(p, config, vocabulary)?)
            }
            Family::Lstm | Family::Gru => Net::Recurrent(Recurrent::new(p, config, vocabulary)?),
            Family::Table => {
                Net::Table(Embedding::new(&(p / "word_embeddings"), vocabulary, config.arch.dim)?)
            }
        };
        Ok(Encoder { net, pooling: config.pooling, dim: config.arch.dim })
    }

    /// Another transformer whose embeddings are those of `self`.
    ///
    /// # Errors
    /// `Error::Config` when one of the two is no transformer, or a number is out of range.
    pub fn with_same_embeddings(&self, p: &Path, config: &EncoderConfig) -> Result<Self> {
        let Net::Transformer(other) = &self.net else {
            return Err(Error::config("encoder", "expected a transformer such as electra_mini"));
        };
        let net = Net::Transformer(Transformer::with_embeddings_of(other, p, config)?);
        Ok(Encoder { net, pooling: config.pooling, dim: config.arch.dim })
    }

    /// A vector for each position.
    ///
    /// # Shapes
    /// Returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when the tokens are not `[B, N]`, `Error::Config` when there are more of them than places, or the
    /// network cannot look where it is to.
    pub fn forward(&self, tokens: &Tokens, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.forward_vectors(&self.words().forward(&tokens.ids)?, tokens, attend, mode)
    }

    /// [`Encoder::forward`] of given vectors instead of those of the tokens, whose lengths alone count.
    ///
    /// # Shapes
    /// `vectors`: `[B, N, E]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward_vectors(
        &self,
        vectors: &Tensor,
        tokens: &Tokens,
        attend: Attend,
        mode: Mode,
    ) -> Result<Tensor> {
        match (&self.net, attend) {
            (Net::Transformer(net), _) => net.forward_vectors(vectors, tokens, attend, mode),
            (Net::Recurrent(net), Attend::Past) => net.forward_vectors(vectors, mode),
            (Net::Recurrent(_), Attend::All) => {
                let message =
                    "expected a transformer, whose positions look at all others, got a recurrent network";
                Err(Error::config("encoder", message))
            }
            (Net::Table(_), _) => Ok(vectors.shallow_clone()),
        }
    }

    /// How much each position looks at each in every block of a transformer, none of another network; a pass of its own,
    /// for explanations.
    ///
    /// # Shapes
    /// Returns `[B, heads, N, N]` each, without gradients.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn attention(&self, tokens: &Tokens, attend: Attend) -> Result<Vec<Tensor>> {
        match &self.net {
            Net::Transformer(net) => net.attention(tokens, attend),
            Net::Recurrent(_) | Net::Table(_) => Ok(Vec::new()),
        }
    }

    /// A vector for each text.
    ///
    /// # Shapes
    /// Returns `[B, D]`, float32.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn embed(&self, tokens: &Tokens, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.pool(&self.forward(tokens, attend, mode)?, tokens)
    }

    /// A vector for each text, of those of its positions.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns `[B, D]`, float32.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn pool(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let x = x.f_to_kind(Kind::Float)?;
        match self.pooling {
            Pooling::Cls => Ok(x.f_select(1, 0)?),
            Pooling::Last => {
                let last = tokens.lengths.f_sub_scalar(1)?.f_view([-1, 1, 1])?;
                Ok(x.f_gather(1, &last.f_expand([-1, 1, self.dim], false)?, false)?.f_squeeze_dim(1)?)
            }
            Pooling::Mean => match tokens.held()? {
                None => Ok(x.f_mean_dim([1i64].as_slice(), false, Kind::Float)?),
                Some(held) => {
                    let sum = x.f_mul(&held.f_unsqueeze(2)?)?.f_sum_dim_intlist(
                        [1i64].as_slice(),
                        false,
                        Kind::Float,
                    )?;
                    Ok(sum.f_div(&tokens.lengths.f_unsqueeze(1)?)?)
                }
            },
        }
    }

    /// The vectors of tokens, which a head may use again.
    pub fn words(&self) -> &Embedding {
        match &self.net {
            Net::Transformer(net) => net.words(),
            Net::Recurrent(net) => net.words(),
            Net::Table(table) => table,
        }
    }

    /// Which positions stand for a text.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Width of what it gives.
    pub fn dim(&self) -> i64 {
        self.dim
    }
}

/// Makes the encoder of a method, and says what else the method has to know.
#[derive(Debug)]
pub struct Encoders {
    config: EncoderConfig,
    vocabulary: Vocabulary,
    length: usize,
    device: Device,
    shared: Option<SharedEncoder<Encoder>>,
    weights: Option<PathBuf>,
}

/// Where a method's encoder lies in its store.
const NAME: &str = "encoder";

impl Encoders {
    /// Encoders of one shape on `device`, which are trained on sequences of `length` tokens.
    ///
    /// # Errors
    /// `Error::Config` when the encoder takes no sequences so long.
    pub fn new(config: EncoderConfig, vocabulary: Vocabulary, length: usize, device: Device) -> Result<Self> {
        if length as i64 > config.max_length {
            let message =
                format!("expected at most the {} places of the encoder, got {length}", config.max_length);
            return Err(Error::config("length", message));
        }
        Ok(Encoders { config, vocabulary, length, device, shared: None, weights: None })
    }

    /// The same, whose encoder starts from the weights in a safetensors file under this workspace's names.
    pub fn starting_from(self, file: impl Into<PathBuf>) -> Self {
        Encoders { weights: Some(file.into()), ..self }
    }

    /// Where the networks live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// What is known of the tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens of a training sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The encoder that the method trains, under `encoder` in `vars`.
    ///
    /// # Errors
    /// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the weights to start from
    /// are another encoder's.
    pub fn student(&self, vars: &VarStore) -> Result<Rc<Encoder>> {
        let Some(shared) = &self.shared else {
            let encoder = Encoder::new(&(vars.root() / NAME), &self.config, self.vocabulary.size)?;
            if let Some(file) = &self.weights {
                load_encoder_fitted(file, &encoder_in(vars), &[], &|_, have, _| Ok(have.shallow_clone()))?;
            }
            return Ok(Rc::new(encoder));
        };
        Ok(shared.lend(vars))
    }

    /// Encoders that hand one and the same student to every method; its variables are made in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn shared(&self, vars: &VarStore) -> Result<Self> {
        let encoder = self.student(vars)?;
        Ok(Encoders {
            shared: Some(SharedEncoder::new(encoder, vars)),
            config: self.config.clone(),
            vocabulary: self.vocabulary.clone(),
            weights: None,
            ..*self
        })
    }
}
