//! The next token of each.
use super::{Cut, Prepare};
use crate::batch::{Sequences, Tokens};
use ssl_core::{Error, Result, Rng};
use tch::Tensor;

/// Sequences of text, of which each position predicts the token after it.
#[derive(Debug, Clone, Copy)]
pub struct NextToken {
    /// Tokens that are read.
    pub length: usize,
}

impl Prepare for NextToken {
    fn cut(&self) -> Cut {
        Cut::Stream { tokens: self.length + 1 }
    }

    fn sequences(&self, rows: &[Vec<i64>], _progress: f64, _rng: &mut Rng) -> Result<Sequences> {
        let short = || Error::config("sequences", format!("expected {} tokens in each", self.length + 1));
        let split = |row: &Vec<i64>| row.len().checked_sub(1).filter(|&n| n > 0).ok_or_else(short);
        let lengths = rows.iter().map(split).collect::<Result<Vec<_>>>()?;
        let read = rows.iter().zip(&lengths).filter_map(|(row, &n)| row.get(..n));
        let tokens = Tokens::padded(read, 0)?;
        let targets: Vec<i64> = rows.iter().flat_map(|row| row.iter().skip(1).copied()).collect();
        let targets = Tensor::f_from_slice(&targets)?.f_view_as(&tokens.ids)?;
        Ok(Sequences { tokens, places: None, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_predicts_the_token_after_it() {
        let next = NextToken { length: 3 };
        assert_eq!(next.cut(), Cut::Stream { tokens: 4 });
        let rows = [vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
        let sequences = next.sequences(&rows, 0., &mut ssl_core::rng(0, &[])).unwrap();
        let list = |x: &Tensor| Vec::<i64>::try_from(x.flatten(0, 1)).unwrap();
        assert_eq!(list(&sequences.tokens.ids), [1, 2, 3, 5, 6, 7]);
        assert_eq!(list(&sequences.targets), [2, 3, 4, 6, 7, 8]);
        assert!(next.sequences(&[vec![1]], 0., &mut ssl_core::rng(0, &[])).is_err());
    }
}
