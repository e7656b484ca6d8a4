//! The text of a run: its tokenizer, training and test tokens, examples for the evaluation.
use crate::corrupt;
use crate::floors::{Counts, NAMES};
use anyhow::{Context, Result, bail};
use ssl_core::checkpoint::write_atomically;
use ssl_core::report::Figure;
use ssl_core::{Source, mix, permuted};
use ssl_examples::{ByteBar, Examples, RunDir};
use ssl_text::prepare::{Framing, Prepare};
use ssl_text::readers::{Corpus, Options, open_splits};
use ssl_text::{SequenceSource, StoreOptions, TextBatch, TokenStore, Tokenizer, TokenizerConfig, Tokens};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use tch::Tensor;

/// Sequences of a batch of held-out text.
const TOGETHER: usize = 64;
/// Apart from the training batches.
const HELD_OUT: u64 = 109;
/// Apart from both: which training documents are kept.
const LIMITED: u64 = 110;
/// Tokens of a document that the report shows.
const SHOWN: usize = 60;
/// Where a run keeps its tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Training text, and test text where there is some.
#[derive(Debug)]
pub(crate) struct Corpora {
    train: Arc<dyn Corpus>,
    test: Option<Arc<dyn Corpus>>,
}

impl Corpora {
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self> {
        let splits = open_splits(path, options)?;
        Ok(Corpora { train: splits.train, test: splits.test.map(|(test, _)| test) })
    }

    /// The documents left out so far, each with its reason.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let test = self.test.as_ref().map(|test| test.skipped()).unwrap_or_default();
        self.train.skipped().into_iter().chain(test).collect()
    }

    /// Trains a tokenizer on the training text.
    pub(crate) fn train_tokenizer(&self, config: &TokenizerConfig, quiet: bool) -> Result<Tokenizer> {
        let bar = ByteBar::new("training the tokenizer", self.train.bytes(), quiet);
        Ok(Tokenizer::train(config, self.train.as_ref(), &|bytes| bar.add(bytes))?)
    }

    /// The tokens of both; `limit` keeps a random part of the training documents.
    pub(crate) fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        (limit, seed): (Option<usize>, u64),
        quiet: bool,
    ) -> Result<Text> {
        let options = StoreOptions::new(std::env::temp_dir());
        let tokens = |corpus: &dyn Corpus, what: &str| -> Result<Arc<TokenStore>> {
            let bar = ByteBar::new(what, corpus.bytes(), quiet);
            Ok(Arc::new(TokenStore::new(corpus, tokenizer, &options, &|bytes| bar.add(bytes))?))
        };
        let mut train = tokens(self.train.as_ref(), "tokenizing the training text")?;
        match limit {
            Some(0) => bail!("--limit: expected at least 1, got 0"),
            Some(limit) if (limit as u64) < train.documents() => {
                let key = mix(seed, LIMITED);
                let drawn = (0..limit as u64).map(|place| permuted(place, train.documents(), key));
                train = Arc::new(train.part(&drawn.collect::<Vec<_>>(), &options)?);
            }
            _ => {}
        }
        let test = self.test.as_ref().map(|test| tokens(test.as_ref(), "tokenizing the test text"));
        Ok(Text { tokenizer: Arc::new(tokenizer.clone()), train, test: test.transpose()? })
    }
}

/// The tokens of a run.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) train: Arc<TokenStore>,
    pub(crate) test: Option<Arc<TokenStore>>,
}

impl Text {
    /// Batches of test text for the pretext task, or of training text where there is no test set.
    pub(crate) fn held_out(
        &self,
        prepare: Vec<Arc<dyn Prepare>>,
        sequences: usize,
        seed: u64,
    ) -> Result<Vec<TextBatch>> {
        let store = self.test.as_ref().unwrap_or(&self.train);
        if sequences == 0 {
            return Ok(Vec::new());
        }
        let source =
            |batch| SequenceSource::new(Arc::clone(store), prepare.clone(), batch, mix(seed, HELD_OUT));
        // A short test text gives smaller batches.
        let sizes =
            std::iter::successors(Some(TOGETHER.min(sequences)), |size| Some(size / 2).filter(|&s| s > 0));
        let source = sizes.map(source).find_map(ssl_core::Result::ok);
        let Some(source) = source else { return Ok(Vec::new()) };
        let batches = (sequences / source.batch_size()).max(1) as u64;
        let batches = batches.min(source.batches_per_epoch());
        Ok((0..batches).map(|index| source.batch(0, index)).collect::<ssl_core::Result<_>>()?)
    }

    /// Bits per byte of test text by a loss per token, in nats.
    pub(crate) fn bits_per_byte(&self, loss: f64) -> f64 {
        let store = self.test.as_ref().unwrap_or(&self.train);
        loss / std::f64::consts::LN_2 * store.len() as f64 / store.bytes().max(1) as f64
    }

    /// The documents of the two sets, to be embedded.
    pub(crate) fn documents(&self, framing: Framing, dim: i64) -> Result<(Documents, Option<Documents>)> {
        let labelled =
            self.train.labels().is_some() && self.test.as_ref().is_some_and(|t| t.labels().is_some());
        let vocabulary = self.tokenizer.vocabulary().size;
        let counts = match labelled {
            true => Some(Arc::new(Counts::new(&self.train, vocabulary, dim)?)),
            false => None,
        };
        let documents = |store: &Arc<TokenStore>| Documents {
            store: Arc::clone(store),
            tokenizer: Arc::clone(&self.tokenizer),
            framing,
            counts: counts.clone(),
        };
        Ok((documents(&self.train), self.test.as_ref().map(documents)))
    }

    /// Writes `look.txt`: what the method makes of held-out text; and says it.
    pub(crate) fn write_look(&self, dir: &RunDir, rows: &[(String, Tokens)], quiet: bool) -> Result<Figure> {
        let count = rows.iter().map(|(_, tokens)| ssl_core::Batch::len(tokens)).min().unwrap_or(0);
        let mut text = String::new();
        for row in 0..count {
            for (name, tokens) in rows {
                writeln!(text, "{name}: {}", spell(&self.tokenizer, tokens, row)?)?;
            }
            text.push('\n');
        }
        write_atomically(&dir.file("look.txt"), text.as_bytes())?;
        if !quiet {
            eprintln!("\n{}\n", text.trim_end());
        }
        Ok(Figure::text(text.trim_end(), "what the method makes of held-out text"))
    }
}

/// One of several sequences in words, with what is hidden in sight.
fn spell(tokenizer: &Tokenizer, tokens: &Tokens, row: i64) -> Result<String> {
    let length = i64::try_from(tokens.lengths.f_get(row)?)?;
    let ids = Vec::<i64>::try_from(tokens.ids.f_get(row)?.f_narrow(0, 0, length)?)?;
    let mask = tokenizer.vocabulary().specials.mask.map(i64::from);
    let parts = ids.split_inclusive(|&id| Some(id) == mask).map(|part| -> Result<String> {
        let (hidden, part) = match part.split_last() {
            Some((&last, rest)) if Some(last) == mask => (" [?] ", rest),
            _ => ("", part),
        };
        let ids: Vec<u32> = part.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        Ok(tokenizer.decode(&ids)? + hidden)
    });
    Ok(parts.collect::<Result<Vec<_>>>()?.concat())
}

/// Documents as the encoder takes them.
#[derive(Debug)]
pub(crate) struct Documents {
    store: Arc<TokenStore>,
    tokenizer: Arc<Tokenizer>,
    framing: Framing,
    counts: Option<Arc<Counts>>,
}

impl Examples<Tokens> for Documents {
    fn len(&self) -> usize {
        self.store.documents() as usize
    }

    fn inputs(&self, indices: &[usize]) -> ssl_core::Result<Tokens> {
        let document = |&index: &usize| self.store.document(index as u64, self.framing.body());
        let rows = indices.iter().map(document).collect::<ssl_core::Result<Vec<_>>>()?;
        self.framing.tokens(&rows)
    }

    fn floors(&self) -> &[&'static str] {
        if self.counts.is_some() { &NAMES } else { &[] }
    }

    fn floor(&self, name: &str, indices: &[usize]) -> ssl_core::Result<Tensor> {
        let none = || ssl_core::Error::config("floor", "expected labelled documents");
        self.counts.as_ref().ok_or_else(none)?.features(name, &self.store, indices)
    }

    fn block(&self) -> usize {
        64
    }

    fn watched(&self) -> usize {
        1000
    }

    /// Filling up costs least where documents of like length are together.
    fn size_of(&self, index: usize) -> usize {
        let len = self.store.document_len(index as u64).unwrap_or(0) as usize;
        len.min(self.framing.body())
    }

    fn corruptions(&self) -> &[&'static str] {
        &corrupt::NAMES
    }

    /// What was read of the documents is spelled out, made worse, and cut into tokens anew.
    fn corrupted(
        &self,
        name: &str,
        severity: usize,
        indices: &[usize],
        seed: u64,
    ) -> ssl_core::Result<Tokens> {
        let worse = |&index: &usize| -> ssl_core::Result<String> {
            let ids = self.store.document(index as u64, self.framing.body())?;
            let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
            corrupt::corrupt(&self.tokenizer.decode(&ids)?, name, severity, (index, seed))
        };
        let texts = indices.iter().map(worse).collect::<ssl_core::Result<Vec<_>>>()?;
        let rows: Vec<Vec<i64>> = self
            .tokenizer
            .encode_all(texts)?
            .into_iter()
            .map(|ids| ids.into_iter().map(i64::from).collect())
            .collect();
        self.framing.tokens(&rows)
    }

    fn labels(&self) -> Option<Vec<i64>> {
        self.store.labels().map(<[i64]>::to_vec)
    }

    fn label_names(&self) -> Vec<String> {
        self.store.class_names().to_vec()
    }

    fn figure(&self, index: usize, caption: &str) -> ssl_core::Result<Option<Figure>> {
        let ids = self.store.document(index as u64, SHOWN)?;
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        Ok(Some(Figure::text(self.tokenizer.decode(&ids)?, caption)))
    }
}

/// The tokenizer of a run that goes on.
pub(crate) fn of_run(dir: &Path) -> Result<Tokenizer> {
    Tokenizer::load(&dir.join(TOKENIZER)).context("the tokenizer of the run")
}
