//! Documents in files, read from the first to the last, with what could not be read counted and named.
use super::cut::cut_point;
use super::decode::{breaks, decode, decode_lossy};
use super::{Corpus, Document, Encoding, Options, Place};
use super::{json, plain, table};
use ssl_core::{Error, Flow, Result, mix};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many of the skipped documents are named.
const NAMED: usize = 100;
/// So many documents are read before too many faults among them end a pass.
const PATIENCE: u64 = 1000;
/// So many documents that all have a fault end a pass.
const HOPELESS: u64 = 20;

/// How a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// Plain text.
    Plain(super::cut::Border),
    /// An object a line.
    Json(json::Columns),
    /// Rows with separated fields.
    Table(table::Dialect),
}

/// A file, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) file: Arc<Path>,
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
    /// The class of all its documents.
    pub(crate) label: Option<i64>,
    /// The first of its bytes, inflated.
    pub(crate) start: u64,
    /// The byte behind its last, inflated; none for the file's end.
    pub(crate) end: Option<u64>,
}

/// The classes, and which values of a label column mean them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes {
    pub(crate) names: Vec<String>,
    numbers: HashMap<String, i64>,
}

impl Classes {
    /// Classes that are called as the files have them.
    pub(crate) fn named(names: Vec<String>) -> Self {
        let numbers = names.iter().cloned().zip(0..).collect();
        Classes { names, numbers }
    }

    /// Classes that the files have as numbers, from `first` on.
    pub(crate) fn numbered(names: &[&str], first: i64) -> Self {
        let numbers = (first..).zip(0..).take(names.len()).map(|(value, class)| (value.to_string(), class));
        Classes { numbers: numbers.collect(), names: names.iter().map(|name| name.to_string()).collect() }
    }
}

/// Which documents of the files belong to a corpus, by a hash of their text: equal texts are never parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    /// Those whose hash is below.
    Below(u64),
    /// The others.
    From(u64),
}

impl Keep {
    fn keeps(self, text: &str) -> bool {
        match self {
            Keep::All => true,
            Keep::Below(bound) => hash(text) < bound,
            Keep::From(bound) => hash(text) >= bound,
        }
    }
}

/// A hash that no version of this crate may change: held-out documents stay the same.
fn hash(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let state = words.iter().fold(text.len() as u64, |state, word| mix(state, u64::from_le_bytes(*word)));
    rest.iter().fold(state, |state, &byte| mix(state, u64::from(byte)))
}

/// Documents in files.
pub(crate) struct Files {
    /// What was opened, for messages.
    pub(crate) path: PathBuf,
    pub(crate) parts: Vec<Part>,
    pub(crate) classes: Classes,
    pub(crate) keep: Keep,
    pub(crate) options: Options,
    bytes: u64,
    notes: Mutex<Notes>,
}

/// What was passed over.
#[derive(Debug, Clone, Default)]
struct Notes {
    count: u64,
    named: Vec<String>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, classes) = (self.parts.len(), self.classes.names.len());
        write!(f, "Files({n} in {}, {} bytes, {classes} classes)", self.path.display(), self.bytes)
    }
}

impl Files {
    /// Makes a corpus of files that exist.
    pub(crate) fn new(path: &Path, parts: Vec<Part>, classes: Classes, options: &Options) -> Result<Self> {
        let mut bytes = 0;
        for part in &parts {
            let size = std::fs::metadata(&part.file).map_err(Error::io(&*part.file, "read"))?.len();
            bytes += part.end.unwrap_or(size).min(size).saturating_sub(part.start);
        }
        let (path, options) = (path.to_path_buf(), options.clone());
        Ok(Files { path, parts, classes, keep: Keep::All, options, bytes, notes: Mutex::default() })
    }

    /// The same files, of whose documents a part is kept.
    pub(crate) fn keeping(&self, keep: Keep) -> Self {
        let (parts, classes) = (self.parts.clone(), self.classes.clone());
        let (path, options) = (self.path.clone(), self.options.clone());
        Files { path, parts, classes, keep, options, bytes: self.bytes, notes: Mutex::default() }
    }
}

impl Corpus for Files {
    fn for_each(&self, f: &mut dyn FnMut(Document) -> Result<Flow>) -> Result<()> {
        let mut pass = Pass { files: self, f, seen: 0, bad: 0, first: None, notes: Notes::default() };
        let outcome = pass.run();
        let notes = pass.notes;
        let mut kept = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // A pass that was stopped knows less than one before it.
        if notes.count >= kept.count {
            *kept = notes;
        }
        outcome
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    fn skipped(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let more = notes.count - notes.named.len() as u64;
        let last = (more > 0).then(|| format!("and {more} more"));
        notes.named.into_iter().chain(last).collect()
    }
}

/// A fault: where in a file, and what.
struct Found {
    file: Arc<Path>,
    message: String,
}

/// One reading of all files.
pub(crate) struct Pass<'a> {
    pub(crate) files: &'a Files,
    f: &'a mut dyn FnMut(Document) -> Result<Flow>,
    seen: u64,
    bad: u64,
    first: Option<Found>,
    notes: Notes,
}

impl Pass<'_> {
    fn run(&mut self) -> Result<()> {
        for part in &self.files.parts {
            let flow = match &part.form {
                Form::Plain(border) => plain::read(part, border, self)?,
                Form::Json(columns) => json::read(part, columns, self)?,
                Form::Table(dialect) => table::read(part, dialect, self)?,
            };
            if flow == Flow::Stop {
                return Ok(());
            }
        }
        if self.bad as f64 > self.files.options.max_bad * self.seen as f64 {
            Err(self.too_many())
        } else {
            Ok(())
        }
    }

    /// Takes the bytes of a document that lie at an offset of a file.
    pub(crate) fn bytes(&mut self, part: &Part, bytes: &[u8], offset: u64) -> Result<Flow> {
        match decode(bytes, part.encoding) {
            Ok(text) => self.give(part, text, part.label, offset),
            Err(fault) => {
                let place = format!("byte {}: {}", offset + fault.at as u64, fault.reason);
                if self.files.options.lossy {
                    self.note(part, &format!("{place}, which was replaced"));
                    return self.give(part, decode_lossy(bytes, part.encoding), part.label, offset);
                }
                self.bad(
                    part,
                    format!("{place}; `lossy` replaces it, `encoding` says how the file is written"),
                )?;
                Ok(Flow::Continue)
            }
        }
    }

    /// Takes the text of a row; a long one is cut.
    pub(crate) fn row(&mut self, part: &Part, text: String, label: Option<&str>, place: Row) -> Result<Flow> {
        if text.trim_ascii().is_empty() {
            self.note(part, &format!("line {}: no text", place.line));
            return Ok(Flow::Continue);
        }
        let label = match label.filter(|value| !value.is_empty()) {
            None => part.label,
            Some(value) => match self.files.classes.numbers.get(value) {
                Some(&number) => Some(number),
                None => {
                    self.bad(part, format!("line {}: unknown class `{value}`", place.line))?;
                    return Ok(Flow::Continue);
                }
            },
        };
        let text = match (text.contains('\0'), self.files.options.lossy) {
            (false, _) => text,
            (true, true) => text.replace('\0', "\u{fffd}"),
            (true, false) => {
                let message = format!("line {}: a NUL, which no text has; `lossy` replaces it", place.line);
                self.bad(part, message)?;
                return Ok(Flow::Continue);
            }
        };
        let (max, text) = (self.files.options.max_document_bytes, breaks(text));
        if text.len() <= max {
            return self.give(part, text, label, place.offset);
        }
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let length =
                if rest.len() > max { cut_point(rest.as_bytes(), max, Encoding::Utf8) } else { rest.len() };
            let (piece, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
            rest = tail;
            if !piece.trim_ascii().is_empty()
                && self.give(part, piece.to_string(), label, place.offset)? == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    fn give(&mut self, part: &Part, text: String, label: Option<i64>, offset: u64) -> Result<Flow> {
        self.seen += 1;
        if !self.files.keep.keeps(&text) {
            return Ok(Flow::Continue);
        }
        (self.f)(Document { text, label, place: Place { file: part.file.to_path_buf(), offset } })
    }

    /// Names what is passed over without being at fault.
    pub(crate) fn note(&mut self, part: &Part, message: &str) {
        self.notes.count += 1;
        if self.notes.named.len() < NAMED {
            self.notes.named.push(format!("{}: {message}", part.file.display()));
        }
    }

    /// Names a document that cannot be read; too many are an error.
    pub(crate) fn bad(&mut self, part: &Part, message: String) -> Result<()> {
        self.note(part, &message);
        self.first.get_or_insert_with(|| Found { file: Arc::clone(&part.file), message });
        (self.seen, self.bad) = (self.seen + 1, self.bad + 1);
        let allowed = self.files.options.max_bad;
        // How many documents follow is not known yet; twice the share is a sure sign.
        let is_share = self.seen >= PATIENCE && self.bad as f64 > 2. * allowed * self.seen as f64;
        let is_hopeless = self.bad >= HOPELESS && self.bad == self.seen && allowed < 1.;
        if is_share || is_hopeless || allowed == 0. { Err(self.too_many()) } else { Ok(()) }
    }

    fn too_many(&self) -> Error {
        let Some(Found { file, message }) = &self.first else {
            return Error::data(&self.files.path, "no document can be read");
        };
        if self.seen == 1 {
            return Error::data(&**file, message.clone());
        }
        let (bad, seen, max) = (self.bad, self.seen, self.files.options.max_bad);
        let rest = format!("{bad} of {seen} documents so far cannot be read, `max_bad` is {max}");
        Error::data(&**file, format!("{message} ({rest})"))
    }
}

/// Where a row begins: its line, from 1, and the offset of its first byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) line: u64,
    pub(crate) offset: u64,
}
