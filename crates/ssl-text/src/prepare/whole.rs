//! Documents as they are.
use super::{Cut, Prepare};
use crate::batch::{Sequences, Tokens};
use crate::tokenizer::{SpecialToken, Vocabulary};
use ssl_core::{Result, Rng};
use tch::{Kind, Tensor};

/// What is put around a document before it is read. As an objective it has nothing to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// The token before it.
    pub first: Option<i64>,
    /// The token after it.
    pub last: Option<i64>,
    /// What fills up shorter ones.
    pub pad: i64,
    /// Tokens of a sequence, at most, those at the ends included.
    pub most: usize,
}

impl Framing {
    /// A first token and a separator around at most `most` tokens in all, for `method`.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer lacks one of the special tokens.
    pub fn between(most: usize, vocabulary: &Vocabulary, method: &str) -> Result<Self> {
        let special = |which| vocabulary.special(which, method);
        Ok(Framing {
            first: Some(special(SpecialToken::Cls)?),
            last: Some(special(SpecialToken::Sep)?),
            pad: special(SpecialToken::Pad)?,
            most,
        })
    }

    /// Tokens of a document, at most.
    pub fn body(&self) -> usize {
        self.most.saturating_sub(usize::from(self.first.is_some()) + usize::from(self.last.is_some()))
    }

    /// The sequences of documents, cut to what there is room for.
    ///
    /// # Errors
    /// `Error::Config` when there is no document, or an empty one has nothing around it.
    pub fn tokens(&self, documents: &[Vec<i64>]) -> Result<Tokens> {
        let frame = |row: &Vec<i64>| -> Vec<i64> {
            let body = row.iter().copied().take(self.body());
            self.first.into_iter().chain(body).chain(self.last).collect()
        };
        let rows: Vec<Vec<i64>> = documents.iter().map(frame).collect();
        Tokens::padded(rows.iter().map(Vec::as_slice), self.pad)
    }
}

impl Prepare for Framing {
    fn cut(&self) -> Cut {
        Cut::Documents { most: self.body() }
    }

    fn sequences(&self, rows: &[Vec<i64>], _progress: f64, _rng: &mut Rng) -> Result<Sequences> {
        let tokens = self.tokens(rows)?;
        let targets = Tensor::f_zeros([rows.len() as i64, 0], (Kind::Int64, tokens.ids.device()))?;
        Ok(Sequences { tokens, places: None, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_to_what_there_is_room_for_between_the_two_ends() {
        let framing = Framing { first: Some(2), last: Some(3), pad: 0, most: 5 };
        let tokens = framing.tokens(&[vec![7, 8, 9, 10], vec![]]).unwrap();
        let ids = Vec::<i64>::try_from(tokens.ids.flatten(0, 1)).unwrap();
        assert_eq!(ids, [2, 7, 8, 9, 3, 2, 3, 0, 0, 0]);
        assert_eq!(framing.cut(), Cut::Documents { most: 3 });
        assert_eq!(Framing { first: None, last: None, ..framing }.body(), 5);
    }
}
