//! The tokens of a corpus: in memory, or on disk where they are many; windows of them are read from anywhere.
use crate::readers::{Corpus, Document};
use crate::tokenizer::{SpecialToken, Tokenizer};
use ssl_core::{Error, Flow, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Documents that are tokenized together.
const TOGETHER: usize = 512;
/// Bytes that are tokenized together, at most.
const BYTES_TOGETHER: usize = 1 << 20;

/// Where tokens are kept.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where what does not fit into memory goes; removed with the store.
    pub scratch: PathBuf,
    /// Bytes that may be held in memory.
    pub memory: u64,
}

impl StoreOptions {
    /// At most 256 MiB in memory, the rest under `scratch`.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        StoreOptions { scratch: scratch.into(), memory: 256 << 20 }
    }
}

/// The tokens of documents, one after the other, each with a separator at its end.
#[derive(Debug)]
pub struct TokenStore {
    ids: Numbers,
    ends: Numbers,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
    bytes: u64,
}

impl TokenStore {
    /// Tokenizes a corpus on all threads; documents without a token are left out. `progress` is told the bytes of text
    /// of each block.
    ///
    /// # Errors
    /// `Error::Config` when the tokenizer has no separator, or not one token comes of the corpus; what the corpus says;
    /// `Error::Io` when the disk refuses.
    pub fn new(
        corpus: &dyn Corpus,
        tokenizer: &Tokenizer,
        options: &StoreOptions,
        progress: &dyn Fn(u64),
    ) -> Result<Self> {
        let separator = tokenizer.vocabulary().special(SpecialToken::Sep, "packing documents")?;
        let width = match tokenizer.vocabulary().size {
            size if size <= 1 << 8 => 1,
            size if size <= 1 << 16 => 2,
            _ => 4,
        };
        let mut writer = Writer {
            tokenizer,
            separator: separator as u64,
            ids: NumberWriter::new(width, options, "tokens"),
            ends: NumberWriter::new(8, options, "documents"),
            labels: Vec::new(),
            bytes: 0,
        };
        let (mut texts, mut labels, mut waiting) = (Vec::new(), Vec::new(), 0);
        corpus.for_each(&mut |Document { text, label, .. }| {
            waiting += text.len();
            texts.push(text);
            labels.push(label);
            if texts.len() == TOGETHER || waiting >= BYTES_TOGETHER {
                writer.push(std::mem::take(&mut texts), &std::mem::take(&mut labels))?;
                progress(waiting as u64);
                waiting = 0;
            }
            Ok(Flow::Continue)
        })?;
        writer.push(texts, &labels)?;
        progress(waiting as u64);
        let Writer { ids, ends, labels, bytes, .. } = writer;
        if ends.len == 0 {
            return Err(Error::config("data", "expected at least one document with a token, got none"));
        }
        let labels: Option<Vec<i64>> = labels.into_iter().collect();
        Ok(TokenStore {
            ids: ids.finish()?,
            ends: ends.finish()?,
            labels,
            class_names: corpus.class_names().to_vec(),
            bytes,
        })
    }

    /// Some of the documents, in the given order.
    ///
    /// # Errors
    /// `Error::Config` when there is none or one does not exist, `Error::Io` when the disk refuses.
    pub fn part(&self, documents: &[u64], options: &StoreOptions) -> Result<Self> {
        let separator = self.window(self.len().saturating_sub(1), 1)?;
        let mut ids = NumberWriter::new(self.ids.width, options, "tokens");
        let mut ends = NumberWriter::new(8, options, "documents");
        for &index in documents {
            let document = self.document(index, usize::MAX)?;
            ids.extend(document.iter().chain(&separator).map(|&id| id as u64))?;
            ends.extend([ids.len])?;
        }
        if ends.len == 0 {
            return Err(Error::config("documents", "expected at least one, got none"));
        }
        let label =
            |labels: &Vec<i64>| documents.iter().filter_map(|&i| labels.get(i as usize).copied()).collect();
        let bytes = (self.bytes as f64 * ids.len as f64 / self.len() as f64).round() as u64;
        Ok(TokenStore {
            ids: ids.finish()?,
            ends: ends.finish()?,
            labels: self.labels.as_ref().map(label),
            class_names: self.class_names.clone(),
            bytes,
        })
    }

    /// Tokens, with a separator for each document.
    pub fn len(&self) -> u64 {
        self.ids.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.len == 0
    }

    /// How often each of so many tokens occurs, separators included.
    ///
    /// # Errors
    /// `Error::Io` when the disk refuses.
    pub fn counts(&self, vocabulary: i64) -> Result<Vec<u64>> {
        let mut counts = vec![0; vocabulary as usize];
        let mut start = 0;
        while start < self.len() {
            let len = (self.len() - start).min(1 << 16);
            for id in self.window(start, len as usize)? {
                if let Some(count) = counts.get_mut(id as usize) {
                    *count += 1;
                }
            }
            start += len;
        }
        Ok(counts)
    }

    /// Documents.
    pub fn documents(&self) -> u64 {
        self.ends.len
    }

    /// Tokens of a document, without its separator.
    ///
    /// # Errors
    /// As [`TokenStore::window`].
    pub fn document_len(&self, index: u64) -> Result<u64> {
        let (start, end) = self.bounds(index)?;
        Ok(end - start)
    }

    /// Bytes of text that became tokens, of a part about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The label of each document, if every one has one.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Names of the labels from 0.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The `len` tokens from `start` on, separators included.
    ///
    /// # Errors
    /// `Error::Config` when they are not all there, `Error::Io` when the disk refuses.
    pub fn window(&self, start: u64, len: usize) -> Result<Vec<i64>> {
        self.ids.read(start, len)
    }

    /// The first `most` tokens of a document, without its separator.
    ///
    /// # Errors
    /// As [`TokenStore::window`].
    pub fn document(&self, index: u64, most: usize) -> Result<Vec<i64>> {
        let (start, end) = self.bounds(index)?;
        self.ids.read(start, ((end - start) as usize).min(most))
    }

    /// The first token of a document and its separator.
    fn bounds(&self, index: u64) -> Result<(u64, u64)> {
        let end = |index: u64| self.ends.read(index, 1).map(|end| end.first().copied().unwrap_or(0) as u64);
        let start = if index == 0 { 0 } else { end(index - 1)? };
        Ok((start, end(index)?.saturating_sub(1)))
    }
}

/// Tokens on their way into a store.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    separator: u64,
    ids: NumberWriter,
    ends: NumberWriter,
    labels: Vec<Option<i64>>,
    bytes: u64,
}

impl Writer<'_> {
    fn push(&mut self, texts: Vec<String>, labels: &[Option<i64>]) -> Result<()> {
        let bytes: Vec<usize> = texts.iter().map(String::len).collect();
        for ((ids, label), bytes) in self.tokenizer.encode_all(texts)?.into_iter().zip(labels).zip(bytes) {
            if ids.is_empty() {
                continue;
            }
            self.ids.extend(ids.into_iter().map(u64::from).chain([self.separator]))?;
            self.ends.extend([self.ids.len])?;
            self.labels.push(*label);
            self.bytes += bytes as u64;
        }
        Ok(())
    }
}

/// Whole numbers of a few bytes each, in memory or in a file.
#[derive(Debug)]
struct Numbers {
    width: usize,
    len: u64,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Memory(Vec<u8>),
    Disk(Scratch),
}

/// A file that goes when the store does.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    file: Mutex<File>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind takes up room and harms nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Scratch {
    fn read(&self, start: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)
    }
}

impl Numbers {
    fn read(&self, start: u64, len: usize) -> Result<Vec<i64>> {
        if start.saturating_add(len as u64) > self.len {
            let message = format!("expected an end of at most {}, got {start} + {len}", self.len);
            return Err(Error::config("window", message));
        }
        let (from, count) = (start * self.width as u64, len * self.width);
        let decode = |bytes: &[u8]| {
            bytes
                .chunks_exact(self.width)
                .map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | i64::from(b)))
                .collect()
        };
        match &self.held {
            Held::Memory(bytes) => {
                Ok(decode(bytes.get(from as usize..from as usize + count).unwrap_or_default()))
            }
            Held::Disk(scratch) => {
                let mut bytes = vec![0; count];
                scratch.read(from, &mut bytes).map_err(Error::io(&scratch.path, "read"))?;
                Ok(decode(&bytes))
            }
        }
    }
}

/// [`Numbers`] that grow; beyond the memory that they may take they go to disk.
struct NumberWriter {
    width: usize,
    len: u64,
    memory: Vec<u8>,
    most: u64,
    path: PathBuf,
    disk: Option<BufWriter<File>>,
}

impl NumberWriter {
    fn new(width: usize, options: &StoreOptions, name: &str) -> Self {
        let path = options.scratch.join(format!("{name}-{}.bin", unique()));
        NumberWriter { width, len: 0, memory: Vec::new(), most: options.memory, path, disk: None }
    }

    fn extend(&mut self, numbers: impl IntoIterator<Item = u64>) -> Result<()> {
        for number in numbers {
            let bytes = number.to_le_bytes();
            self.memory.extend(bytes.iter().take(self.width));
            self.len += 1;
        }
        let most = if self.disk.is_some() { 1 << 16 } else { self.most };
        if self.memory.len() as u64 > most { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            none => {
                let parent = self.path.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&self.path)
                    .map_err(Error::io(&self.path, "create"))?;
                none.insert(BufWriter::new(file))
            }
        };
        disk.write_all(&self.memory).map_err(Error::io(&self.path, "write"))?;
        self.memory.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Numbers> {
        let (width, len) = (self.width, self.len);
        if self.disk.is_none() {
            self.memory.shrink_to_fit();
            return Ok(Numbers { width, len, held: Held::Memory(self.memory) });
        }
        self.spill()?;
        let Some(disk) = self.disk else { return Err(Error::config("tokens", "no file")) };
        let file = disk.into_inner().map_err(|e| Error::io(&self.path, "write")(e.into_error()))?;
        Ok(Numbers { width, len, held: Held::Disk(Scratch { path: self.path, file: Mutex::new(file) }) })
    }
}

/// A number that no other store of this process has.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Texts;
    use crate::tokenizer::{Kind, TokenizerConfig};

    fn letters() -> (Texts, Tokenizer) {
        let words = ["ab", "", "cde", "f"].map(|word| (word, i64::from(word.len() > 1)));
        let texts = Texts::labelled(words, vec!["short".into(), "long".into()]).unwrap();
        let config =
            TokenizerConfig { kind: Kind::Characters, vocab_size: 20, lowercase: false, min_frequency: 0 };
        let tokenizer = Tokenizer::train(&config, &texts, &|_| {}).unwrap();
        (texts, tokenizer)
    }

    fn spell(tokenizer: &Tokenizer, ids: &[i64]) -> String {
        ids.iter()
            .map(|&id| tokenizer.token(id as u32))
            .map(|t| if t.len() > 1 { "|".into() } else { t })
            .collect()
    }

    #[test]
    fn documents_lie_one_after_the_other_in_memory_and_on_disk() {
        let (texts, tokenizer) = letters();
        let dir = tempfile::tempdir().unwrap();
        for memory in [1 << 20, 3] {
            let options = StoreOptions { memory, ..StoreOptions::new(dir.path()) };
            let store = TokenStore::new(&texts, &tokenizer, &options, &|_| {}).unwrap();
            let on_disk = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(on_disk, if memory == 3 { 2 } else { 0 });
            assert_eq!((store.len(), store.documents(), store.bytes()), (9, 3, 6));
            assert_eq!(spell(&tokenizer, &store.window(0, 9).unwrap()), "ab|cde|f|");
            assert_eq!(spell(&tokenizer, &store.window(2, 3).unwrap()), "|cd");
            let documents = [0, 1, 2].map(|i| spell(&tokenizer, &store.document(i, 2).unwrap()));
            assert_eq!(documents, ["ab", "cd", "f"]);
            assert_eq!(store.labels(), Some(&[1, 1, 0][..]), "the empty one has gone with its label");
            assert!(store.window(7, 3).is_err() && store.document(3, 1).is_err());
            let counts = store.counts(tokenizer.vocabulary().size).unwrap();
            assert_eq!((counts.iter().sum::<u64>(), counts[tokenizer.id("</s>").unwrap() as usize]), (9, 3));
            let part = store.part(&[2, 0], &options).unwrap();
            assert_eq!(spell(&tokenizer, &part.window(0, 5).unwrap()), "f|ab|");
            assert_eq!((part.labels(), part.documents()), (Some(&[0, 1][..]), 2));
            assert!(store.part(&[], &options).is_err() && store.part(&[3], &options).is_err());
            drop((store, part));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was on disk has gone");
        }
    }

    #[test]
    fn a_corpus_without_tokens_is_refused() {
        let (_, tokenizer) = letters();
        let nothing = Texts::new([""]).unwrap();
        let error = TokenStore::new(&nothing, &tokenizer, &StoreOptions::new("unused"), &|_| {}).unwrap_err();
        assert_eq!(error.to_string(), "data: expected at least one document with a token, got none");
    }
}
