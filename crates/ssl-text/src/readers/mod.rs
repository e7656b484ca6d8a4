//! Documents from files: what a path holds is recognized by [`open`], and read from the first document to the last.
//!
//! Nothing is held but the document at hand, whatever the size of the files.
//!
//! ```
//! use ssl_core::Flow;
//! use ssl_text::readers::{Cut, Options, Split, open};
//! let file = tempfile::NamedTempFile::with_suffix(".txt").unwrap();
//! std::fs::write(&file, "Of the first.\nGoes on.\n\nOf the second.\n").unwrap();
//! let options = Options { documents: Cut::Paragraphs, ..Options::default() };
//! let mut texts = Vec::new();
//! open(file.path(), Split::Train, &options)?.for_each(&mut |document| {
//!     texts.push(document.text);
//!     Ok(Flow::Continue)
//! })?;
//! assert_eq!(texts, ["Of the first.\nGoes on.", "Of the second."]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod corpus;
mod cut;
mod decode;
mod held_out;
mod input;
mod json;
mod known;
mod layout;
mod plain;
mod table;

pub use held_out::{Origin, Splits, open_splits};

use corpus::{Classes, Files, Form, Part};
use layout::Listing;
use ssl_core::{Error, Flow, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One document and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its text; line breaks are `\n`.
    pub text: String,
    /// An index into the class names.
    pub label: Option<i64>,
    /// Where it lies.
    pub place: Place,
}

/// Where a document lies, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The offset of its first byte, or of the first byte of its row; in inflated bytes.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: byte {}", self.file.display(), self.offset)
    }
}

/// A part of a data set by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on; a file or folder without splits is all of it.
    Train,
    /// What is evaluated on; the validation set where there is no test set.
    Test,
    /// What has no labels by design.
    Unlabelled,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::Test => "test",
            Split::Unlabelled => "unlabelled",
        })
    }
}

/// How plain text is cut into documents. Blank ones are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A file is a document.
    Files,
    /// A line is a document.
    Lines,
    /// Blank lines part documents.
    Paragraphs,
    /// Lines that are this part documents; white space behind it does not count.
    Separator(String),
}

/// How characters are written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// ISO 8859-1: each byte is a character.
    Latin1,
}

/// How text in files is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Whether bytes that are no text are replaced instead of being an error.
    pub lossy: bool,
    /// The column of JSON Lines, CSV or TSV that is the text; `text` if not given.
    pub column: Option<String>,
    /// The column that is the class; no classes if not given.
    pub label_column: Option<String>,
    /// How plain text is cut into documents.
    pub documents: Cut,
    /// How plain text and tables are written; JSON is UTF-8.
    pub encoding: Encoding,
    /// Longer documents are cut into several, at white space where there is some; in bytes of the file.
    pub max_document_bytes: usize,
    /// Part of the documents that may be unreadable, from 0 to 1.
    pub max_bad: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lossy: false,
            column: None,
            label_column: None,
            documents: Cut::Files,
            encoding: Encoding::Utf8,
            max_document_bytes: 1 << 20,
            max_bad: 0.01,
        }
    }
}

/// Documents that are read in order, as often as wanted.
pub trait Corpus: fmt::Debug + Send + Sync {
    /// Gives each document in order to `f`, which may stop; the order is the same every time.
    ///
    /// # Errors
    /// `Error::Io` when a file cannot be read; `Error::Data` when one is corrupt or foreign, or more documents than
    /// [`Options::max_bad`] allows cannot be read; what `f` returns.
    fn for_each(&self, f: &mut dyn FnMut(Document) -> Result<Flow>) -> Result<()>;

    /// The size of the files on the disk, in bytes; where documents are held out, of all they are held out of.
    fn bytes(&self) -> u64;

    /// The names of the classes; none if there are no labels.
    fn class_names(&self) -> &[String];

    /// What the fullest pass so far passed over or repaired, and why: the first hundred, and how many more.
    fn skipped(&self) -> Vec<String>;
}

/// Opens the documents at a path: a data set of the catalog, a text file, a folder of text files with or without
/// folders of classes and splits, JSON Lines, CSV or TSV; each file plain or gzip.
///
/// Data sets of the catalog are cut as they say themselves, whatever [`Options::documents`] is, unless each of their
/// files is one text.
///
/// The files are not read, but for their headers, and for the values of the label column where one is given.
///
/// # Errors
/// `Error::Io` when something cannot be read; `Error::Absent` when the split is missing; `Error::Data` when nothing
/// known is there or a column is unknown; `Error::Config` when an option is out of range.
pub fn open(path: &Path, split: Split, options: &Options) -> Result<Arc<dyn Corpus>> {
    Ok(Arc::new(open_files(path, split, options)?))
}

fn open_files(path: &Path, split: Split, options: &Options) -> Result<Files> {
    check(options)?;
    if !fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir() {
        if split != Split::Train {
            let message = format!("no {split} documents: a single file is a training set");
            return Err(Error::absent(path, message));
        }
        // Whatever a file is called, naming it is a wish to read it.
        let form = layout::form_of(path, options).unwrap_or_else(|| layout::plain(options));
        let parts = vec![layout::part(path, form, options, None)];
        return finish(path, Listing { parts, classes: Classes::default(), train: None }, options);
    }
    if let Some(files) = known::open(path, split, options)? {
        return Ok(files);
    }
    let listing = layout::folder(path, split, options)?;
    if listing.parts.is_empty() {
        return Err(nothing_at(path, &BTreeSet::new()));
    }
    finish(path, listing, options)
}

fn check(options: &Options) -> Result<()> {
    if !(0.0..=1.0).contains(&options.max_bad) {
        return Err(Error::config("max_bad", format!("expected 0 to 1, got {}", options.max_bad)));
    }
    let max = options.max_document_bytes;
    if !(16..=1 << 30).contains(&max) {
        return Err(Error::config("max_document_bytes", format!("expected 16 to {}, got {max}", 1 << 30)));
    }
    if let Cut::Separator(line) = &options.documents
        && (line.trim_ascii().is_empty() || line.contains('\n'))
    {
        return Err(Error::config("documents", format!("expected a separator of one line, got {line:?}")));
    }
    let column = options.column.as_deref().unwrap_or("text");
    if options.label_column.as_deref() == Some(column) {
        return Err(Error::config(
            "label_column",
            format!("expected another column than the text's, `{column}`"),
        ));
    }
    Ok(())
}

/// Looks for the columns and for the values of the label column.
fn finish(path: &Path, listing: Listing, options: &Options) -> Result<Files> {
    let Listing { parts, mut classes, train } = listing;
    for part in &parts {
        match &part.form {
            Form::Plain(_) => {}
            Form::Json(columns) => json::check(part, columns)?,
            Form::Table(dialect) => table::check(part, dialect)?,
        }
    }
    if classes.names.is_empty() {
        let first = values(train.as_ref().unwrap_or(&parts))?;
        let then = if train.is_some() { values(&parts)? } else { BTreeSet::new() };
        let of = |values: BTreeSet<String>| -> Vec<String> {
            let mut values: Vec<String> = values.into_iter().collect();
            // Numbers are in the order of numbers.
            values.sort_by_key(|value| value.parse::<i64>().unwrap_or(i64::MAX));
            values
        };
        let new = then.difference(&first).cloned().collect();
        classes = Classes::named([of(first), of(new)].concat());
    }
    Files::new(path, parts, classes, options)
}

/// The values of the label column over files.
fn values(parts: &[Part]) -> Result<BTreeSet<String>> {
    let mut values = BTreeSet::new();
    for part in parts {
        match &part.form {
            Form::Json(columns) if columns.label.is_some() => json::labels(part, columns, &mut values)?,
            Form::Table(dialect) if dialect.is_labelled() => table::labels(part, dialect, &mut values)?,
            _ => {}
        }
    }
    Ok(values)
}

/// The error of a column that a file lacks.
fn unknown_column(file: &Path, wanted: &str, names: &[String]) -> Error {
    Error::data(file, format!("unknown column `{wanted}`: the file has `{}`", names.join("`, `")))
}

/// The error of a folder without text.
fn nothing_at(path: &Path, others: &BTreeSet<String>) -> Error {
    let found: Vec<&str> = others.iter().take(8).map(String::as_str).collect();
    let found = if found.is_empty() { "no file".to_string() } else { format!("only {}", found.join(", ")) };
    Error::data(
        path,
        format!(
            "no documents: looked for text (txt, text, md, or no ending), JSON Lines (jsonl), CSV and TSV, plain or \
             gz, in the folder, in class folders, or in train and test; found {found}"
        ),
    )
}
