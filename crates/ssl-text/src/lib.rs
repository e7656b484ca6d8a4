//! Self-supervised learning on text: readers, tokenizers, models, methods.

mod batch;
pub mod explain;
pub mod generate;
mod heads;
pub mod interop;
pub mod methods;
pub mod models;
pub mod prepare;
pub mod readers;
mod recipe;
mod sampled;
mod source;
mod store;
mod texts;
pub mod tokenizer;
pub mod words;

pub use batch::{IGNORED, Sequences, TextBatch, Tokens};
pub use recipe::Recipe;
pub use source::SequenceSource;
pub use store::{StoreOptions, TokenStore};
pub use texts::Texts;
pub use tokenizer::{Tokenizer, TokenizerConfig, Vocabulary};
