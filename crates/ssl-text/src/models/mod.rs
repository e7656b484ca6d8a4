//! Networks that read tokens: transformers of BERT's, ELECTRA's and GPT-2's shapes, recurrent networks, tables of
//! embeddings.
mod config;
mod decoder;
mod embedding;
mod encoder;
mod recurrent;
mod transformer;

pub use config::{Arch, EncoderConfig, Family, Pooling, Positions};
pub(crate) use decoder::{Decoder, DecoderConfig};
pub use embedding::Embedding;
pub use encoder::{Encoder, Encoders};
pub use recurrent::Recurrent;
pub use transformer::Transformer;
pub(crate) use transformer::hidden_positions;

/// Where a position may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attend {
    /// At all positions.
    All,
    /// At itself and those before it.
    Past,
}
