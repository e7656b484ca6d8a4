//! Tokenizers: trained on a corpus, saved as `tokenizer.json`, loaded from one, also from another program's.
//!
//! Source: Schuster & Nakajima, 2012 (WordPiece); Sennrich et al., 2016 (byte pair encoding):
//! <https://arxiv.org/abs/1508.07909>; Kudo, 2018 (Unigram): <https://arxiv.org/abs/1804.10959>; the `tokenizers` crate
//! does the work, and its files are those of transformers.
mod blank;
mod vocabulary;

pub use vocabulary::{SpecialToken, Specials, Vocabulary};

use crate::readers::{Corpus, Document};
use blank::{EACH, special_names, trainer, untrained};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssl_core::checkpoint::write_atomically;
use ssl_core::{Error, Flow, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tokenizers::Tokenizer as Inner;
use vocabulary::{CLS, MASK, PAD, SEP, UNK};

/// How text is cut into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pieces of words, as BERT's.
    WordPiece,
    /// Pairs of bytes joined by frequency, as GPT-2's.
    Bpe,
    /// Pieces by a unigram language model, as `SentencePiece`'s.
    Unigram,
    /// Single characters.
    Characters,
    /// Words between white space and punctuation, the frequent ones.
    Words,
}

/// A tokenizer that is to be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// How text is cut.
    pub kind: Kind,
    /// Tokens at most, special ones included.
    pub vocab_size: usize,
    /// Whether case and accents are dropped.
    pub lowercase: bool,
    /// How often a token occurs in the corpus at least.
    pub min_frequency: u64,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        TokenizerConfig { kind: Kind::WordPiece, vocab_size: 8192, lowercase: true, min_frequency: 2 }
    }
}

/// A tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    vocabulary: Vocabulary,
    /// The number of each character, where characters are all that is told apart.
    characters: Option<Arc<HashMap<char, u32>>>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// `Error::Data` when it is none.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let inner = Inner::from_bytes(bytes)
            .map_err(|e| Error::data(path, format!("expected the tokenizer.json of a tokenizer: {e}")))?;
        Tokenizer::of(inner)
    }

    /// Trains one on the documents of a corpus, in parallel; `progress` is told the bytes of each.
    ///
    /// # Errors
    /// `Error::Config` when the vocabulary is smaller than the alphabet; what the corpus says.
    pub fn train(
        config: &TokenizerConfig,
        corpus: &dyn Corpus,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let failed = |e: tokenizers::Error| Error::config("tokenizer", e.to_string());
        let specials = special_names(config.kind);
        if config.vocab_size <= specials.len() {
            let message = format!(
                "expected more than the {} special tokens, got {}",
                specials.len(),
                config.vocab_size
            );
            return Err(Error::config("vocab_size", message));
        }
        if config.kind == Kind::Characters && !config.lowercase {
            return Tokenizer::of_characters(config, corpus, progress);
        }
        let text = untrained(config).to_string();
        let mut inner = Inner::from_bytes(text.as_bytes()).map_err(failed)?;
        let mut trainer = trainer(config, &specials).map_err(failed)?;
        let read = std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel::<String>(256);
            let reader = scope.spawn(move || {
                corpus.for_each(&mut |Document { text, .. }| {
                    progress(text.len() as u64);
                    // The receiver hangs up when training fails.
                    Ok(if sender.send(text).is_ok() { Flow::Continue } else { Flow::Stop })
                })
            });
            let trained = inner.train(&mut trainer, receiver.into_iter()).map(drop).map_err(failed);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.and(trained)
        });
        read?;
        let tokenizer = Tokenizer::of(inner)?;
        fits(tokenizer.vocabulary.size as usize, config)?;
        Ok(tokenizer)
    }

    /// One token for each character of a corpus, the most frequent first, and of equals that of the lower number.
    fn of_characters(
        config: &TokenizerConfig,
        corpus: &dyn Corpus,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let mut low = vec![0u64; LOW as usize];
        let mut high: HashMap<char, u64> = HashMap::new();
        corpus.for_each(&mut |Document { text, .. }| {
            for c in text.chars() {
                match low.get_mut(c as usize) {
                    Some(count) => *count += 1,
                    None => *high.entry(c).or_default() += 1,
                }
            }
            progress(text.len() as u64);
            Ok(Flow::Continue)
        })?;
        let low = (0u32..).zip(low).filter_map(|(code, count)| Some((char::from_u32(code)?, count)));
        let mut counts: Vec<(char, u64)> = low.chain(high).filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
        let names = special_names(config.kind);
        fits(names.len() + counts.len(), config)?;
        let tokens =
            names.iter().map(|name| name.to_string()).chain(counts.iter().map(|(c, _)| c.to_string()));
        let vocabulary: serde_json::Map<String, Value> =
            tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
        let added = names.iter().enumerate().map(|(id, name)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        });
        let mut text = untrained(config);
        if let Some(place) = text.pointer_mut("/model/vocab") {
            *place = vocabulary.into();
        }
        if let Some(place) = text.pointer_mut("/added_tokens") {
            *place = added.collect();
        }
        Tokenizer::of(Inner::from_bytes(text.to_string()).map_err(refused)?)
    }

    fn of(inner: Inner) -> Result<Self> {
        let named = |names: &[&str]| names.iter().find_map(|name| inner.token_to_id(name));
        let specials = Specials {
            pad: named(PAD),
            unk: named(UNK),
            cls: named(CLS),
            sep: named(SEP),
            mask: named(MASK),
        };
        let text = serde_json::to_value(&inner).map_err(|e| Error::config("tokenizer", e.to_string()))?;
        let mark = WordMark::of(&text);
        let mut starts_word = vec![true; inner.get_vocab_size(true)];
        for (token, id) in inner.get_vocab(true) {
            if let Some(place) = starts_word.get_mut(id as usize) {
                *place = specials.all().any(|special| special == id) || mark.starts(&token);
            }
        }
        let vocabulary = Vocabulary::new(&starts_word, specials);
        let characters = at(&text, "/pre_tokenizer/pattern/Regex") == Some(EACH)
            && at(&text, "/normalizer/type").is_none()
            && at(&text, "/model/type") == Some("WordLevel");
        let single = |(token, id): (String, u32)| {
            let mut all = token.chars();
            Some((all.next().filter(|_| all.next().is_none())?, id))
        };
        let characters =
            characters.then(|| Arc::new(inner.get_vocab(false).into_iter().filter_map(single).collect()));
        Ok(Tokenizer { inner, vocabulary, characters })
    }

    /// Writes a `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// `Error::Io` when the disk refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_json()?.as_bytes())
    }

    /// The content of its `tokenizer.json`.
    ///
    /// # Errors
    /// `Error::Config` when it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|e| Error::config("tokenizer", e.to_string()))
    }

    /// What a network has to know of it.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The tokens of a text, without special ones.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer refuses it: it has a token that it does not know, and none for the unknown.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let (Some(characters), Some(unk)) = (&self.characters, self.vocabulary.specials.unk) {
            return Ok(text.chars().map(|c| characters.get(&c).copied().unwrap_or(unk)).collect());
        }
        let encoding = self.inner.encode_fast(text, false).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] of many texts, on all threads.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all(&self, texts: Vec<String>) -> Result<Vec<Vec<u32>>> {
        if self.characters.is_some() {
            return texts.par_iter().map(|text| self.encode(text)).collect();
        }
        let encodings = self.inner.encode_batch_fast(texts, false).map_err(refused)?;
        Ok(encodings.into_iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer refuses a token.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(refused)
    }

    /// A token as the vocabulary has it.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    /// The number of a token as the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// Characters that are counted in a table: those of most alphabets.
const LOW: u32 = 0x3000;

/// Whether a vocabulary has room for so many tokens.
fn fits(tokens: usize, config: &TokenizerConfig) -> Result<()> {
    if tokens > config.vocab_size {
        let got = config.vocab_size;
        let message = format!("expected room for the alphabet of the corpus, {tokens} tokens, got {got}");
        return Err(Error::config("vocab_size", message));
    }
    Ok(())
}

fn refused(e: tokenizers::Error) -> Error {
    Error::config("tokenizer", e.to_string())
}

/// A word somewhere in a JSON value.
fn at<'a>(value: &'a Value, place: &str) -> Option<&'a str> {
    value.pointer(place).and_then(Value::as_str)
}

/// How the tokens that begin a word are told from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WordMark {
    /// All do.
    All,
    /// Those without `##` before them.
    Continued,
    /// Those with a sign for white space before them.
    Space(char),
}

impl WordMark {
    /// That of a tokenizer in the form of its file.
    fn of(text: &Value) -> Self {
        match at(text, "/model/type") {
            Some("WordPiece") => WordMark::Continued,
            Some("Unigram") => WordMark::Space('\u{2581}'),
            Some("BPE") if at(text, "/decoder/type") == Some("ByteLevel") => WordMark::Space('\u{120}'),
            _ => WordMark::All,
        }
    }

    fn starts(self, token: &str) -> bool {
        match self {
            WordMark::All => true,
            WordMark::Continued => !token.starts_with("##"),
            WordMark::Space(sign) => token.starts_with(sign),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Texts;

    const PROSE: [&str; 4] = [
        "The quick brown fox jumps over the lazy dog.",
        "The lazy dog sleeps; the quick fox jumps.",
        "Dogs and foxes: quick, lazy, brown.",
        "Caf\u{e9} na\u{ef}ve \u{2014} the fox.",
    ];

    fn train(kind: Kind, vocab_size: usize) -> Result<Tokenizer> {
        let lowercase = kind == Kind::WordPiece;
        let config = TokenizerConfig { kind, vocab_size, lowercase, min_frequency: 1 };
        Tokenizer::train(&config, &Texts::new(PROSE).unwrap(), &|_| {})
    }

    #[test]
    fn every_kind_reads_back_what_it_cut() {
        for (kind, size, expected) in [
            (Kind::WordPiece, 120, "the quick fox sleeps."),
            (Kind::Bpe, 400, "The quick fox sleeps."),
            (Kind::Unigram, 60, "The quick fox sleeps."),
            (Kind::Characters, 60, "The quick fox sleeps."),
            (Kind::Words, 60, "The quick fox sleeps ."),
        ] {
            let tokenizer = train(kind, size).unwrap();
            let ids = tokenizer.encode("The quick fox sleeps.").unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), expected, "{kind:?}");
            let Specials { pad, unk, cls, sep, mask } = tokenizer.vocabulary().specials;
            assert!([pad, unk, cls, sep, mask].iter().all(Option::is_some), "{kind:?}");
            assert!(tokenizer.vocabulary().size as usize <= size, "{kind:?}");
            // From its file it is the same.
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("tokenizer.json");
            tokenizer.save(&path).unwrap();
            let loaded = Tokenizer::load(&path).unwrap();
            assert_eq!(loaded.encode("The quick fox sleeps.").unwrap(), ids, "{kind:?}");
            assert_eq!(loaded.vocabulary().specials, tokenizer.vocabulary().specials);
        }
    }

    #[test]
    fn characters_are_those_that_the_slow_way_finds() {
        let fast = train(Kind::Characters, 60).unwrap();
        let slow = Tokenizer { characters: None, ..fast.clone() };
        for text in PROSE.iter().copied().chain(["a\tb\n", "\u{1F600}", "", "[MASK] <mask"]) {
            assert_eq!(fast.encode(text).unwrap(), slow.encode(text).unwrap(), "{text:?}");
        }
        let config =
            TokenizerConfig { kind: Kind::Characters, vocab_size: 60, lowercase: true, min_frequency: 1 };
        let lower = Tokenizer::train(&config, &Texts::new(PROSE).unwrap(), &|_| {}).unwrap();
        assert!(lower.characters.is_none() && lower.encode("THE").unwrap() == lower.encode("the").unwrap());
        assert_eq!(
            fast.encode_all(vec!["fox".into(), "dog".into()]).unwrap()[1],
            fast.encode("dog").unwrap()
        );
    }

    #[test]
    fn tokens_that_go_on_with_a_word_are_known() {
        for (kind, size) in [(Kind::WordPiece, 60), (Kind::Bpe, 300), (Kind::Unigram, 55)] {
            let tokenizer = train(kind, size).unwrap();
            let ids = tokenizer.encode(" quick foxes").unwrap();
            let starts = ids.iter().filter(|&&id| tokenizer.vocabulary().starts_word(id.into())).count();
            assert!(starts == 2 && ids.len() > 2, "{kind:?}: {ids:?}");
        }
        let characters = train(Kind::Characters, 60).unwrap();
        assert!((0..characters.vocabulary().size).all(|id| characters.vocabulary().starts_word(id)));
    }

    #[test]
    fn a_vocabulary_smaller_than_the_alphabet_is_refused() {
        for kind in [Kind::WordPiece, Kind::Bpe, Kind::Characters] {
            let message = train(kind, 20).unwrap_err().to_string();
            assert!(message.starts_with("vocab_size: expected room for the alphabet"), "{kind:?}: {message}");
        }
        let message = train(Kind::Words, 5).unwrap_err().to_string();
        assert_eq!(message, "vocab_size: expected more than the 5 special tokens, got 5");
    }

    #[test]
    fn what_is_no_tokenizer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, "{}").unwrap();
        let message = Tokenizer::load(&path).unwrap_err().to_string();
        assert!(message.contains("expected the tokenizer.json of a tokenizer"), "{message}");
        let none = Vocabulary::new(&[true], Specials::default());
        let message = none.special(SpecialToken::Mask, "mlm").unwrap_err().to_string();
        assert_eq!(message, "tokenizer: mlm needs one of the special tokens [MASK], <mask>, it has none");
    }

    #[test]
    fn training_tells_the_bytes_that_it_has_read() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let read = AtomicU64::new(0);
        let texts = Texts::new(PROSE).unwrap();
        let config = TokenizerConfig { vocab_size: 200, ..TokenizerConfig::default() };
        Tokenizer::train(&config, &texts, &|bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(read.into_inner(), texts.bytes());
    }
}
