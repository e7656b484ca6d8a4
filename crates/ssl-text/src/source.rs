//! Batches of token sequences by position, for any objectives on the same text.
use crate::batch::TextBatch;
use crate::prepare::{Cut, Prepare};
use crate::store::TokenStore;
use ssl_core::{Error, Result, Source, mix, permuted, rng};
use std::sync::Arc;

/// The streams of random numbers that one seed feeds.
const ORDER: u64 = 41;
const PHASE: u64 = 42;
const PREPARED: u64 = 43;

/// Batches of sequences by position: a pure function of the seed, the epoch and the index.
///
/// Text without borders is cut anew in each epoch, from a random token on, so that no border stays where it is.
#[derive(Debug)]
pub struct SequenceSource {
    store: Arc<TokenStore>,
    prepare: Vec<Arc<dyn Prepare>>,
    cut: Cut,
    windows: u64,
    batch_size: usize,
    seed: u64,
    total_steps: u64,
}

impl SequenceSource {
    /// Sequences for each of the objectives, which must cut the text alike.
    ///
    /// # Errors
    /// `Error::Config` when there is no objective, they cut the text in different ways, or the text has less than a
    /// batch.
    pub fn new(
        store: Arc<TokenStore>,
        prepare: Vec<Arc<dyn Prepare>>,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let first =
            prepare.first().ok_or_else(|| Error::config("objectives", "expected at least one, got none"))?;
        let cut = first.cut();
        if let Some(other) = prepare.iter().map(|prepare| prepare.cut()).find(|other| *other != cut) {
            let message = format!("expected ways of cutting the text that agree, got {cut:?} and {other:?}");
            return Err(Error::config("objectives", message));
        }
        let windows = match cut {
            // The last one is given up to the random start.
            Cut::Stream { tokens } => (store.len() / tokens.max(1) as u64).saturating_sub(1),
            Cut::Documents { .. } => store.documents(),
        };
        let source = SequenceSource { store, prepare, cut, windows, batch_size, seed, total_steps: u64::MAX };
        if batch_size == 0 || source.batches_per_epoch() == 0 {
            let message = format!(
                "expected 1 to {windows} (the sequences that the text gives), got {batch_size}: take more text, a \
                 smaller batch, or shorter sequences"
            );
            return Err(Error::config("batch_size", message));
        }
        Ok(source)
    }

    /// The same batches for a run of so many steps, which schedules of the objectives refer to.
    pub fn for_steps(self, total_steps: u64) -> Self {
        SequenceSource { total_steps: total_steps.max(1), ..self }
    }

    /// Sequences of a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The text.
    pub fn store(&self) -> &Arc<TokenStore> {
        &self.store
    }

    /// The windows of text that a batch is made of.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch; what the store says.
    pub fn windows(&self, epoch: u64, index: u64) -> Result<Vec<Vec<i64>>> {
        if index >= self.batches_per_epoch() {
            let message = format!("expected less than {}, got {index}", self.batches_per_epoch());
            return Err(Error::config("batch", message));
        }
        let first = index * self.batch_size as u64;
        let key = mix(mix(self.seed, ORDER), epoch);
        (first..first + self.batch_size as u64)
            .map(|place| {
                let window = permuted(place, self.windows, key);
                match self.cut {
                    Cut::Stream { tokens } => {
                        let phase = mix(mix(self.seed, PHASE), epoch) % tokens.max(1) as u64;
                        self.store.window(phase + window * tokens as u64, tokens)
                    }
                    Cut::Documents { most } => self.store.document(window, most),
                }
            })
            .collect()
    }
}

impl Source for SequenceSource {
    type Batch = TextBatch;

    fn batches_per_epoch(&self) -> u64 {
        self.windows / self.batch_size.max(1) as u64
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<TextBatch> {
        let rows = self.windows(epoch, index)?;
        let step = epoch.saturating_mul(self.batches_per_epoch()).saturating_add(index);
        let progress = (step as f64 / self.total_steps as f64).min(1.);
        let parts = self.prepare.iter().enumerate().map(|(n, prepare)| {
            let mut rng = rng(self.seed, &[PREPARED, n as u64, epoch, index]);
            prepare.sequences(&rows, progress, &mut rng)
        });
        parts.collect::<Result<_>>().map(TextBatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Texts;
    use crate::prepare::NextToken;
    use crate::store::StoreOptions;
    use crate::tokenizer::{Kind, Tokenizer, TokenizerConfig};
    use std::collections::BTreeSet;

    fn store() -> Arc<TokenStore> {
        let documents = (0..40).map(|i| format!("{:016x}", mix(1, i)));
        let texts = Texts::new(documents).unwrap();
        let config =
            TokenizerConfig { kind: Kind::Characters, vocab_size: 60, lowercase: false, min_frequency: 0 };
        let tokenizer = Tokenizer::train(&config, &texts, &|_| {}).unwrap();
        Arc::new(TokenStore::new(&texts, &tokenizer, &StoreOptions::new("unused"), &|_| {}).unwrap())
    }

    fn source(length: usize, batch_size: usize) -> Result<SequenceSource> {
        SequenceSource::new(store(), vec![Arc::new(NextToken { length })], batch_size, 3)
    }

    #[test]
    fn a_batch_is_a_function_of_its_place() {
        let (a, b) = (source(15, 8).unwrap(), source(15, 8).unwrap());
        let ids = |source: &SequenceSource, epoch, index| {
            let batch = source.batch(epoch, index).unwrap();
            Vec::<i64>::try_from(batch.0[0].tokens.ids.flatten(0, 1)).unwrap()
        };
        assert_eq!(ids(&a, 1, 2), ids(&b, 1, 2));
        assert_ne!(ids(&a, 1, 2), ids(&a, 1, 3));
        assert_ne!(ids(&a, 1, 2), ids(&a, 2, 2));
        let message = a.batch(0, a.batches_per_epoch()).unwrap_err().to_string();
        assert!(message.starts_with("batch: expected less than"), "{message}");
    }

    #[test]
    fn a_pass_reads_every_window_once() {
        let source = source(15, 4).unwrap();
        let windows: Vec<Vec<i64>> =
            (0..source.batches_per_epoch()).flat_map(|index| source.windows(0, index).unwrap()).collect();
        let store = source.store();
        let phase = (0..16).find(|&phase| windows.contains(&store.window(phase, 16).unwrap())).unwrap();
        let all: BTreeSet<Vec<i64>> =
            (0..source.windows).map(|i| store.window(phase + 16 * i, 16).unwrap()).collect();
        let read: BTreeSet<Vec<i64>> = windows.iter().cloned().collect();
        assert!(read.is_subset(&all) && windows.len() as u64 / 4 == source.windows / 4);
        assert_eq!(read.len(), windows.len(), "none twice");
    }

    #[test]
    fn objectives_share_one_way_of_cutting() {
        let two: Vec<Arc<dyn Prepare>> =
            vec![Arc::new(NextToken { length: 15 }), Arc::new(NextToken { length: 7 })];
        let message = SequenceSource::new(store(), two, 4, 0).unwrap_err().to_string();
        assert!(message.starts_with("objectives: expected ways of cutting the text that agree"), "{message}");
        let message = source(500, 4).unwrap_err().to_string();
        assert!(
            message.starts_with("batch_size: expected 1 to 0 (the sequences that the text gives)"),
            "{message}"
        );
    }
}
