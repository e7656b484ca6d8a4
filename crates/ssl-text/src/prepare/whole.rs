//! Documents as they are.
use super::{Cut, Prepare};
use crate::batch::{Sequences, Tokens};
use crate::tokenizer::{SpecialToken, Vocabulary};
use ssl_core::{Result, Rng};
use tch::{Kind, Tensor};

/// The beginnings of documents, between a first token and a separator, with nothing to predict.
#[derive(Debug, Clone, Copy)]
pub struct WholeText {
    most: usize,
    cls: i64,
    sep: i64,
    pad: i64,
}

impl WholeText {
    /// At most `length` tokens, the two at the ends included, for `method`.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer lacks one of the special tokens.
    pub fn new(length: usize, vocabulary: &Vocabulary, method: &str) -> Result<Self> {
        let special = |which| vocabulary.special(which, method);
        Ok(WholeText {
            most: length.saturating_sub(2),
            cls: special(SpecialToken::Cls)?,
            sep: special(SpecialToken::Sep)?,
            pad: special(SpecialToken::Pad)?,
        })
    }

    /// The sequences of documents.
    ///
    /// # Errors
    /// `Error::Config` when there is no document.
    pub fn tokens(&self, rows: &[Vec<i64>]) -> Result<Tokens> {
        let frame = |row: &Vec<i64>| -> Vec<i64> {
            let body = row.iter().copied().take(self.most);
            std::iter::once(self.cls).chain(body).chain([self.sep]).collect()
        };
        let rows: Vec<Vec<i64>> = rows.iter().map(frame).collect();
        Tokens::padded(rows.iter().map(Vec::as_slice), self.pad)
    }
}

impl Prepare for WholeText {
    fn cut(&self) -> Cut {
        Cut::Documents { most: self.most }
    }

    fn sequences(&self, rows: &[Vec<i64>], _progress: f64, _rng: &mut Rng) -> Result<Sequences> {
        let tokens = self.tokens(rows)?;
        let targets = Tensor::f_zeros([rows.len() as i64, 0], (Kind::Int64, tokens.ids.device()))?;
        Ok(Sequences { tokens, places: None, targets })
    }
}
