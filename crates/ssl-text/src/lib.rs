//! Self-supervised learning on text: readers, tokenizers, models, methods.

pub mod readers;
