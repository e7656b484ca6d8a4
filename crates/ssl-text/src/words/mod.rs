//! How well the vectors of words agree with people: pairs whose likeness was scored, and questions by analogy; and what
//! they associate with what.
//!
//! The files are read as they are published. A word is what the tokenizer makes of it, hence lower-cased where it
//! lower-cases, and its vector is what the encoder gives for a text of this word alone.
//!
//! Source: Finkelstein et al., 2002 (WordSim-353): <https://doi.org/10.1145/503104.503110>; Hill et al., 2015
//! (SimLex-999): <https://arxiv.org/abs/1408.3456>; Mikolov et al., 2013 (analogies): <https://arxiv.org/abs/1301.3781>.
//!
//! ```
//! use ssl_text::words::spearman;
//! let agreement = spearman(&[0.9, 0.1, 0.4], &[10., 1., 3.]).unwrap();
//! assert!((agreement - 1.).abs() < 1e-12);
//! ```
mod analogy;
mod association;
mod similarity;

pub use analogy::{Analogies, Answers, Section, Tally, answers, read_questions};
pub use association::{Associations, Covered, WordSet, WordSets};
pub use similarity::{Pair, Similarity, read_pairs, spearman};

use crate::Tokenizer;
use crate::methods::TextMethod;
use serde_json::Value;
use ssl_core::nn::l2_normalize;
use ssl_core::{Batch, Error, Result, no_grad};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Words that are embedded at once.
const BLOCK: usize = 256;

/// The words that a tokenizer knows.
#[derive(Debug)]
pub struct Lexicon<'a> {
    tokenizer: &'a Tokenizer,
    of_words: bool,
}

impl<'a> Lexicon<'a> {
    /// The words of a tokenizer.
    ///
    /// # Errors
    /// `Error::Config` when it cannot be written as JSON, from which its kind is read.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let text: Value = serde_json::from_str(&tokenizer.to_json()?)
            .map_err(|e| Error::config("tokenizer", e.to_string()))?;
        let by_list = text.pointer("/model/type").and_then(Value::as_str) == Some("WordLevel");
        // A list of characters is of the same type, but takes a word apart.
        let of_words = by_list && !tokenizer.encode("ab").is_ok_and(|ids| ids.len() > 1);
        Ok(Lexicon { tokenizer, of_words })
    }

    /// Whether a token is a whole word.
    pub fn is_of_words(&self) -> bool {
        self.of_words
    }

    /// The tokens of a word: one, if tokens are words. None if it is unknown.
    pub fn tokens(&self, word: &str) -> Option<Vec<i64>> {
        // A list without a token for the unknown refuses what it does not have.
        let ids: Vec<i64> = self.tokenizer.encode(word).ok()?.into_iter().map(i64::from).collect();
        let known = !ids.iter().any(|&id| self.tokenizer.vocabulary().is_special(id));
        let fits = if self.of_words { ids.len() == 1 } else { !ids.is_empty() };
        (known && fits).then_some(ids)
    }

    /// The first `most` tokens that are no special ones: the most frequent, for tokenizers of words are sorted so.
    fn frequent(&self, most: usize) -> Vec<i64> {
        let vocabulary = self.tokenizer.vocabulary();
        (0..vocabulary.size).filter(|&id| !vocabulary.is_special(id)).take(most).collect()
    }
}

/// A vector of length 1 for each word, given by its tokens. `[W, D]`, float32.
fn unit_vectors(method: &dyn TextMethod, words: &[Vec<i64>]) -> Result<Tensor> {
    let framing = method.framing();
    let device = method.stores().first().map_or(Device::Cpu, |(_, vars)| vars.device());
    let block = |words: &[Vec<i64>]| -> Result<Tensor> {
        let tokens = framing.tokens(words)?.to_device(device)?;
        l2_normalize(&no_grad(|| method.embed(&tokens))?.f_to_kind(Kind::Float)?)
    };
    let blocks = words.chunks(BLOCK).map(block).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&blocks, 0)?)
}

/// The lines of a file that say something, with their numbers from 1; `#` and `//` begin a comment.
fn lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let sound = e.as_bytes().iter().take(e.utf8_error().valid_up_to());
        let line = sound.filter(|&&byte| byte == b'\n').count() + 1;
        let place = e.utf8_error().valid_up_to();
        Error::data(
            path,
            format!("line {line}: expected UTF-8, got other bytes from byte {place} of the file on"),
        )
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate();
    let said =
        lines.filter(|(_, line)| !(line.is_empty() || line.starts_with('#') || line.starts_with("//")));
    Ok(said.map(|(place, line)| (place + 1, line.to_string())).collect())
}
