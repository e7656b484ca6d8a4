//! What a network has to know of a tokenizer.
use ssl_core::{Error, Result};
use std::sync::Arc;

/// The numbers of the special tokens, where a tokenizer has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Specials {
    /// Fills up.
    pub pad: Option<u32>,
    /// Stands for what is unknown.
    pub unk: Option<u32>,
    /// Begins a sequence.
    pub cls: Option<u32>,
    /// Ends a document.
    pub sep: Option<u32>,
    /// Stands for what is hidden.
    pub mask: Option<u32>,
}

impl Specials {
    pub(super) fn all(self) -> impl Iterator<Item = u32> {
        [self.pad, self.unk, self.cls, self.sep, self.mask].into_iter().flatten()
    }
}

/// What a network has to know of a tokenizer.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Tokens.
    pub size: i64,
    /// The special ones.
    pub specials: Specials,
    /// Whether each token begins a word, or stands for itself.
    starts_word: Arc<[bool]>,
    /// How often each token occurs in the training text.
    counts: Option<Arc<[u64]>>,
}

impl Vocabulary {
    /// A vocabulary without a tokenizer; `starts_word` says of each token whether it begins a word.
    pub fn new(starts_word: &[bool], specials: Specials) -> Self {
        Vocabulary { size: starts_word.len() as i64, specials, starts_word: starts_word.into(), counts: None }
    }

    /// The same, with how often each token occurs in the training text.
    pub fn with_counts(self, counts: Vec<u64>) -> Self {
        Vocabulary { counts: Some(counts.into()), ..self }
    }

    /// How often a token occurs in the training text; 1 where that is not known.
    pub fn count(&self, id: i64) -> u64 {
        let of = |counts: &Arc<[u64]>| {
            usize::try_from(id).ok().and_then(|id| counts.get(id).copied()).unwrap_or(0)
        };
        self.counts.as_ref().map_or(1, of)
    }

    /// Whether a token begins a word, or stands for itself.
    pub fn starts_word(&self, id: i64) -> bool {
        usize::try_from(id).ok().and_then(|id| self.starts_word.get(id).copied()).unwrap_or(true)
    }

    /// Whether a token is a special one.
    pub fn is_special(&self, id: i64) -> bool {
        self.specials.all().any(|special| i64::from(special) == id)
    }

    /// The number of a special token, for `method`, which needs it.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer has none.
    pub fn special(&self, which: SpecialToken, method: &str) -> Result<i64> {
        let Specials { pad, cls, sep, mask, .. } = self.specials;
        let (id, names) = match which {
            SpecialToken::Pad => (pad, PAD),
            SpecialToken::Cls => (cls, CLS),
            SpecialToken::Sep => (sep, SEP),
            SpecialToken::Mask => (mask, MASK),
        };
        id.map(i64::from).ok_or_else(|| {
            let message =
                format!("{method} needs one of the special tokens {}, it has none", names.join(", "));
            Error::config("tokenizer", message)
        })
    }
}

/// A special token that a method may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialToken {
    /// Fills up.
    Pad,
    /// Begins a sequence.
    Cls,
    /// Ends a document.
    Sep,
    /// Stands for what is hidden.
    Mask,
}

pub(super) const PAD: &[&str] = &["[PAD]", "<pad>", "<|endoftext|>"];
pub(super) const UNK: &[&str] = &["[UNK]", "<unk>", "<|endoftext|>"];
pub(super) const CLS: &[&str] = &["[CLS]", "<s>", "<|endoftext|>"];
pub(super) const SEP: &[&str] = &["[SEP]", "</s>", "<|endoftext|>"];
pub(super) const MASK: &[&str] = &["[MASK]", "<mask>"];
