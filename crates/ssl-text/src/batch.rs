//! What travels through a step on text: numbers of tokens, and what is to be predicted from them.
use ssl_core::{Batch, Error, Result, dims2};
use tch::{Kind, Tensor};

/// A target that does not enter the loss.
pub const IGNORED: i64 = -100;

/// Sequences of tokens; shorter ones are filled up at their ends.
#[derive(Debug)]
pub struct Tokens {
    /// Numbers of tokens. `[B, N]`, int64.
    pub ids: Tensor,
    /// Tokens of each sequence before its filling. `[B]`, int64.
    pub lengths: Tensor,
    /// Whether all sequences have length N, known without a look at the tensors.
    full: bool,
}

impl Tokens {
    /// Sequences of any lengths, at least one token each, filled up with `pad` to the longest.
    ///
    /// # Errors
    /// `Error::Config` when there is no sequence or one is empty.
    pub fn padded<'a>(rows: impl IntoIterator<Item = &'a [i64]>, pad: i64) -> Result<Self> {
        let rows: Vec<&[i64]> = rows.into_iter().collect();
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        if rows.iter().any(|row| row.is_empty()) || longest == 0 {
            return Err(Error::config("sequences", "expected at least one token in each, got none"));
        }
        let mut ids = Vec::with_capacity(rows.len() * longest);
        for row in &rows {
            ids.extend_from_slice(row);
            ids.resize(ids.len() + longest - row.len(), pad);
        }
        let lengths: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
        Ok(Tokens {
            ids: Tensor::f_from_slice(&ids)?.f_view([rows.len() as i64, longest as i64])?,
            full: lengths.iter().all(|&length| length == longest as i64),
            lengths: Tensor::f_from_slice(&lengths)?,
        })
    }

    /// Which positions hold a token, and not filling; none if all do. `[B, N]`, bool.
    ///
    /// # Errors
    /// `Error::Shape` when the tokens are not `[B, N]`.
    pub fn held(&self) -> Result<Option<Tensor>> {
        let (_, n) = dims2(&self.ids, "tokens", "[B, N]")?;
        if self.full {
            return Ok(None);
        }
        let places = Tensor::f_arange(n, (Kind::Int64, self.ids.device()))?;
        Ok(Some(places.f_unsqueeze(0)?.f_lt_tensor(&self.lengths.f_unsqueeze(1)?)?))
    }
}

impl Batch for Tokens {
    fn len(&self) -> i64 {
        self.ids.len()
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Tokens { ids: f(&self.ids)?, lengths: f(&self.lengths)?, full: self.full })
    }
}

/// Sequences and what is to be predicted from them.
#[derive(Debug)]
pub struct Sequences {
    /// What the network reads.
    pub tokens: Tokens,
    /// The positions from which `targets` are predicted, `[B, P]`; none stands for all of them.
    pub places: Option<Tensor>,
    /// Numbers of the right tokens, [`IGNORED`] where there is none. `[B, P]`, int64.
    pub targets: Tensor,
}

impl Batch for Sequences {
    fn len(&self) -> i64 {
        self.tokens.len()
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Sequences {
            tokens: self.tokens.map(f)?,
            places: self.places.as_ref().map(&mut *f).transpose()?,
            targets: f(&self.targets)?,
        })
    }
}

/// The sequences of each objective, made of the same text.
#[derive(Debug)]
pub struct TextBatch(pub Vec<Sequences>);

impl TextBatch {
    /// The one element, for `method`, which takes one.
    ///
    /// # Errors
    /// `Error::Config` when there are several or none.
    pub fn only(&self, method: &str) -> Result<&Sequences> {
        match self.0.as_slice() {
            [one] => Ok(one),
            many => Err(Error::config(
                "sequences",
                format!("{method} takes one kind of them, got {}", many.len()),
            )),
        }
    }
}

impl Batch for TextBatch {
    fn len(&self) -> i64 {
        self.0.first().map_or(0, Batch::len)
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.0.iter().map(|part| part.map(f)).collect::<Result<_>>().map(TextBatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_sequences_are_filled_up_and_known_as_such() {
        let tokens = Tokens::padded([&[5i64, 6, 7][..], &[8]], 0).unwrap();
        assert_eq!(Vec::<i64>::try_from(tokens.ids.flatten(0, 1)).unwrap(), [5, 6, 7, 8, 0, 0]);
        let held = tokens.held().unwrap().unwrap();
        assert_eq!(
            Vec::<bool>::try_from(held.flatten(0, 1)).unwrap(),
            [true, true, true, true, false, false]
        );
        let full = Tokens::padded([&[5i64, 6][..], &[8, 9]], 0).unwrap();
        assert!(full.held().unwrap().is_none());
        assert!(Tokens::padded([&[5i64][..], &[]], 0).is_err());
        assert!(Tokens::padded([], 0).is_err());
    }

    #[test]
    fn parts_of_a_batch_keep_their_targets() {
        let sequences = Sequences {
            tokens: Tokens::padded([&[1i64, 2][..], &[3, 4]], 0).unwrap(),
            places: Some(Tensor::from_slice(&[0i64, 1]).view([2, 1])),
            targets: Tensor::from_slice(&[7i64, 8]).view([2, 1]),
        };
        let batch = TextBatch(vec![sequences]).part(1, 1).unwrap();
        let one = batch.only("m").unwrap();
        assert_eq!((batch.len(), i64::try_from(&one.targets).unwrap()), (1, 8));
        let message = TextBatch(vec![]).only("mlm").unwrap_err().to_string();
        assert_eq!(message, "sequences: mlm takes one kind of them, got 0");
    }
}
