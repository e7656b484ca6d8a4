//! What words are associated with: two sets of targets, such as flowers and insects, and two attributes, such as pleasant
//! and unpleasant.
//!
//! Source: Caliskan, Bryson & Narayanan, 2017 (WEAT): <https://arxiv.org/abs/1608.07187>; May et al., 2019 (SEAT, of
//! sentences), whose files are read: <https://arxiv.org/abs/1903.10561>.
use super::{Lexicon, unit_vectors};
use crate::methods::TextMethod;
use serde::{Deserialize, Serialize};
use ssl_core::bias::{Weat, WeatOptions, weat};
use ssl_core::{Error, Result};
use std::path::Path;

/// The sets of the first test of Caliskan et al., after Greenwald et al., 1998.
const FLOWERS_AND_INSECTS: &str = include_str!("flowers_insects.json");

/// Words, or sentences, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WordSet {
    /// What they have in common.
    pub category: String,
    /// The words.
    pub examples: Vec<String>,
}

/// What is compared, in the form of the files of SEAT.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WordSets {
    /// The first targets.
    pub targ1: WordSet,
    /// The second targets.
    pub targ2: WordSet,
    /// The first attribute.
    pub attr1: WordSet,
    /// The second attribute.
    pub attr2: WordSet,
}

impl WordSets {
    /// Flowers and insects, pleasant and unpleasant words: an association that most people have and nobody minds.
    ///
    /// # Errors
    /// Never: the file is a part of the program.
    pub fn flowers_and_insects() -> Result<Self> {
        WordSets::parse(FLOWERS_AND_INSECTS, Path::new("flowers_insects.json"))
    }

    /// Reads a JSON file of `targ1`, `targ2`, `attr1` and `attr2`, each with a `category` and `examples`.
    ///
    /// # Errors
    /// `Error::Io` when it cannot be read, `Error::Data` when it has another form.
    pub fn read(path: &Path) -> Result<Self> {
        WordSets::parse(&std::fs::read_to_string(path).map_err(Error::io(path, "read"))?, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| {
            let message = "expected targ1, targ2, attr1 and attr2, each with a category and examples";
            Error::data(path, format!("{message}: {e}"))
        })
    }
}

/// How many words of a set were known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// What the set is called.
    pub name: String,
    /// Words that are known.
    pub covered: usize,
    /// The others.
    pub left_out: Vec<String>,
}

/// What a method's vectors associate.
#[derive(Debug, Clone, PartialEq)]
pub struct Associations {
    /// The test.
    pub weat: Weat,
    /// Targets, then attributes: what entered it.
    pub sets: [Covered; 4],
}

impl Associations {
    /// The test on the words that are known.
    ///
    /// # Errors
    /// `Error::Config` when fewer than 2 targets of either kind or no word of an attribute is known; what the method's
    /// encoder says.
    pub fn new(
        sets: &WordSets,
        lexicon: &Lexicon<'_>,
        method: &dyn TextMethod,
        options: &WeatOptions,
    ) -> Result<Self> {
        let known = |set: &WordSet, least: usize| {
            let WordSet { category, examples } = set;
            let (mut words, mut left_out) = (Vec::new(), Vec::new());
            for word in examples {
                match lexicon.tokens(word) {
                    Some(tokens) => words.push(tokens),
                    None => left_out.push(word.clone()),
                }
            }
            if words.len() < least {
                let message = format!(
                    "expected at least {least} that the tokenizer knows, got {} of {}",
                    words.len(),
                    examples.len()
                );
                return Err(Error::config(category.as_str(), message));
            }
            let covered = Covered { name: category.clone(), covered: words.len(), left_out };
            Ok((unit_vectors(method, &words)?, covered))
        };
        let ((x, first), (y, second)) = (known(&sets.targ1, 2)?, known(&sets.targ2, 2)?);
        let ((a, third), (b, fourth)) = (known(&sets.attr1, 1)?, known(&sets.attr2, 1)?);
        Ok(Associations { weat: weat(&x, &y, &a, &b, options)?, sets: [first, second, third, fourth] })
    }
}
