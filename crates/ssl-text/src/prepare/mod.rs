//! From windows of text to what an objective reads and predicts.
mod masked;
mod next;
mod whole;

pub use masked::{MaskTokens, Masking, TextUnit, Unit};
pub use next::NextToken;
pub use whole::Framing;

use crate::batch::Sequences;
use ssl_core::{Result, Rng};
use std::fmt::Debug;

/// How text is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Windows of so many tokens, one after the other, over the borders of documents, which separators mark.
    Stream {
        /// Tokens of each.
        tokens: usize,
    },
    /// A document each.
    Documents {
        /// Tokens of each, at most.
        most: usize,
    },
}

/// Makes the sequences of an objective.
pub trait Prepare: Debug + Send + Sync {
    /// How the text is cut.
    fn cut(&self) -> Cut;

    /// Sequences from the windows of a batch; `progress` is the part of the run that is done, from 0 to 1.
    ///
    /// # Errors
    /// `Error::Config` when there is no window.
    fn sequences(&self, rows: &[Vec<i64>], progress: f64, rng: &mut Rng) -> Result<Sequences>;
}
