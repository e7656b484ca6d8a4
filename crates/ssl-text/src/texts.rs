//! Documents in memory.
use crate::readers::{Corpus, Document, Place};
use ssl_core::{Error, Flow, Result};
use std::path::PathBuf;

/// Documents that are held in memory, with or without labels.
///
/// ```
/// use ssl_text::{Texts, Tokenizer, TokenizerConfig};
/// let texts = Texts::new(["to be or not to be", "that is the question"])?;
/// let config = TokenizerConfig { vocab_size: 64, min_frequency: 1, ..TokenizerConfig::default() };
/// let tokenizer = Tokenizer::train(&config, &texts, &|_| {})?;
/// assert_eq!(tokenizer.decode(&tokenizer.encode("To be")?)?, "to be");
/// # Ok::<(), ssl_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Texts {
    documents: Vec<(String, Option<i64>)>,
    class_names: Vec<String>,
}

impl Texts {
    /// Documents without labels.
    ///
    /// # Errors
    /// `Error::Config` when there is none.
    pub fn new<T: Into<String>>(documents: impl IntoIterator<Item = T>) -> Result<Self> {
        Texts::of(documents.into_iter().map(|text| (text.into(), None)).collect(), Vec::new())
    }

    /// Documents, each with the number of its class.
    ///
    /// # Errors
    /// `Error::Config` when there is none, or a label is no class.
    pub fn labelled<T: Into<String>>(
        documents: impl IntoIterator<Item = (T, i64)>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let documents: Vec<_> =
            documents.into_iter().map(|(text, label)| (text.into(), Some(label))).collect();
        let classes = class_names.len() as i64;
        if let Some(label) =
            documents.iter().find_map(|(_, label)| label.filter(|l| !(0..classes).contains(l)))
        {
            return Err(Error::config(
                "labels",
                format!("expected less than {classes} classes, got {label}"),
            ));
        }
        Texts::of(documents, class_names)
    }

    fn of(documents: Vec<(String, Option<i64>)>, class_names: Vec<String>) -> Result<Self> {
        if documents.is_empty() {
            return Err(Error::config("texts", "expected at least one, got none"));
        }
        Ok(Texts { documents, class_names })
    }
}

impl Corpus for Texts {
    fn for_each(&self, f: &mut dyn FnMut(Document) -> Result<Flow>) -> Result<()> {
        for (offset, (text, label)) in self.documents.iter().enumerate() {
            let place = Place { file: PathBuf::from("memory"), offset: offset as u64 };
            if f(Document { text: text.clone(), label: *label, place })? == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.documents.iter().map(|(text, _)| text.len() as u64).sum()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }
}
