//! CSV and its kind: rows with separated fields, of which one is the text.
//!
//! Source: Y. Shafranovich, RFC 4180, 2005; of Orange's three lines of header, its documentation "Loading your data".
use super::corpus::{Part, Pass, Row};
use super::decode::{decode, decode_lossy};
use super::input::{Input, Refusal, unreadable};
use super::unknown_column;
use csv::{ByteRecord, Reader, ReaderBuilder};
use ssl_core::{Error, Flow, Result};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

/// The longest row, in bytes: a quotation mark that is never closed would swallow the rest of the file.
const LONGEST: u64 = 64 << 20;
/// More distinct labels than these are no classes.
const MOST_CLASSES: usize = 65_536;

/// Which columns of a table are text and label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Fields that commas or tabs separate, under a line of names.
    Named { separator: Separator, text: String, label: Option<String> },
    /// Orange's table: names, types and flags in a line each.
    Orange,
    /// AG News: class, title, description, and no header.
    AgNews,
}

impl Dialect {
    /// Whether a column is the class.
    pub(crate) fn is_labelled(&self) -> bool {
        !matches!(self, Dialect::Named { label: None, .. })
    }
}

/// What stands between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separator {
    /// A comma; quotation marks around fields.
    Comma,
    /// A tab; quotation marks are characters like any other.
    Tab,
}

/// Which fields of a row matter.
struct Layout {
    text: Vec<usize>,
    label: Option<usize>,
    fields: usize,
}

/// An open table, behind its header.
struct Table {
    rows: Reader<Bounded>,
    layout: Layout,
    left: Rc<Cell<u64>>,
    is_gzip: bool,
    /// What lies before the first byte that the reader sees.
    offset: u64,
    /// How many lines that is.
    lines: u64,
}

/// A stream that fails when a row takes more than is left to it.
struct Bounded {
    stream: Box<dyn Read>,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.stream.read(buffer)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => return Err(std::io::Error::other(format!("a row is longer than {LONGEST} bytes"))),
        }
        Ok(n)
    }
}

/// Reads the rows of a part.
pub(crate) fn read(part: &Part, dialect: &Dialect, pass: &mut Pass<'_>) -> Result<Flow> {
    let mut table = match open(part, dialect) {
        Ok(table) => table,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(why)) => {
            pass.bad(part, why)?;
            return Ok(Flow::Continue);
        }
    };
    let mut record = ByteRecord::new();
    while let Some(at) = table.next(&part.file, &mut record)? {
        let (fields, expected) = (record.len(), table.layout.fields);
        if fields != expected {
            pass.bad(part, format!("line {}: expected {expected} fields, found {fields}", at.line))?;
            continue;
        }
        let Some(text) = text(part, &table.layout, &record, at, pass)? else { continue };
        let label = table.label(&record);
        if pass.row(part, text, label.as_deref(), at)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
    }
    Ok(Flow::Continue)
}

/// The text of a row: its fields on a line each.
fn text(
    part: &Part,
    layout: &Layout,
    record: &ByteRecord,
    at: Row,
    pass: &mut Pass<'_>,
) -> Result<Option<String>> {
    let mut text = String::new();
    for (index, &column) in layout.text.iter().enumerate() {
        let field = record.get(column).unwrap_or_default();
        if index > 0 {
            text.push('\n');
        }
        match decode(field, part.encoding) {
            Ok(field) if layout.text.len() == 1 => text = field,
            Ok(field) => text.push_str(&field),
            Err(fault) => {
                let place = format!("line {}: {}", at.line, fault.reason);
                if !pass.files.options.lossy {
                    let advice = "`lossy` replaces it, `encoding` says how the file is written";
                    pass.bad(part, format!("{place}; {advice}"))?;
                    return Ok(None);
                }
                pass.note(part, &format!("{place}, which was replaced"));
                text.push_str(&decode_lossy(field, part.encoding));
            }
        }
    }
    Ok(Some(text))
}

/// Adds the values of the label column to `values`; rows at fault are left to the reading itself.
pub(crate) fn labels(part: &Part, dialect: &Dialect, values: &mut BTreeSet<String>) -> Result<()> {
    let mut table = match open(part, dialect) {
        Ok(table) => table,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(_)) => return Ok(()),
    };
    let mut record = ByteRecord::new();
    while table.next(&part.file, &mut record)?.is_some() {
        if record.len() == table.layout.fields
            && let Some(label) = table.label(&record).filter(|label| !label.is_empty())
        {
            add_label(part, label, values)?;
        }
    }
    Ok(())
}

/// Adds one value; too many are an error.
pub(crate) fn add_label(part: &Part, label: String, values: &mut BTreeSet<String>) -> Result<()> {
    values.insert(label);
    if values.len() > MOST_CLASSES {
        let message = format!("more than {MOST_CLASSES} values in the label column: expected classes");
        return Err(Error::data(&*part.file, message));
    }
    Ok(())
}

/// Opens the table and finds its columns.
pub(crate) fn check(part: &Part, dialect: &Dialect) -> Result<()> {
    match open(part, dialect) {
        Err(Refusal::Error(error)) => Err(error),
        // Whether this ends the reading is for `max_bad` to say.
        Err(Refusal::NoText(_)) | Ok(_) => Ok(()),
    }
}

fn open(part: &Part, dialect: &Dialect) -> Result<Table, Refusal> {
    let mut input = Input::open(&part.file)?;
    let (layout, lines) = match dialect {
        Dialect::Orange => (orange(&part.file, &mut input)?, 3),
        _ => (Layout { text: vec![1, 2], label: Some(0), fields: 3 }, 0),
    };
    let (is_gzip, offset) = (input.is_gzip(), input.offset);
    let is_quoted = matches!(dialect, Dialect::AgNews | Dialect::Named { separator: Separator::Comma, .. });
    let left = Rc::new(Cell::new(LONGEST));
    let rows = ReaderBuilder::new()
        .delimiter(if is_quoted { b',' } else { b'\t' })
        .quoting(is_quoted)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(super::cut::CHUNK)
        .from_reader(Bounded { stream: input.into_stream(), left: Rc::clone(&left) });
    let mut table = Table { rows, layout, left, is_gzip, offset, lines };
    if let Dialect::Named { text, label, .. } = dialect {
        table.layout = named(&part.file, &mut table, text, label.as_deref())?;
    }
    Ok(table)
}

fn named(file: &Path, table: &mut Table, text: &str, label: Option<&str>) -> Result<Layout> {
    let mut record = ByteRecord::new();
    if table.next(file, &mut record)?.is_none() {
        return Err(Error::data(file, "expected a line with the names of the columns, found no line"));
    }
    let names: Vec<String> =
        record.iter().map(|name| String::from_utf8_lossy(name).trim().to_string()).collect();
    let find = |wanted: &str| {
        let found = names.iter().position(|name| name == wanted);
        found.ok_or_else(|| unknown_column(file, wanted, &names))
    };
    Ok(Layout { text: vec![find(text)?], label: label.map(find).transpose()?, fields: names.len() })
}

/// Reads the three lines of header, of which the third may be blank.
fn orange(file: &Path, input: &mut Input) -> Result<Layout> {
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &input.head).take(3).collect();
    let &[first, second, third] = ends.as_slice() else {
        return Err(Error::data(file, format!("expected three lines of header, found {}", ends.len())));
    };
    let fields = |from: usize, to: usize| -> Vec<String> {
        let line = String::from_utf8_lossy(input.head.get(from..to).unwrap_or_default());
        line.split('\t').map(|field| field.trim().to_string()).collect()
    };
    let (names, types, flags) = (fields(0, first), fields(first + 1, second), fields(second + 1, third));
    let text = types.iter().position(|kind| kind == "string" || kind == "s");
    let text = text.ok_or_else(|| {
        let found = types.join("`, `");
        Error::data(file, format!("line 2: expected a column of type `string`, found `{found}`"))
    })?;
    let label = flags.iter().position(|flag| flag == "class");
    input.skip(file, third as u64 + 1)?;
    Ok(Layout { text: vec![text], label, fields: names.len() })
}

impl Table {
    /// Reads a row and says where it begins; none behind the last.
    fn next(&mut self, file: &Path, record: &mut ByteRecord) -> Result<Option<Row>> {
        self.left.set(LONGEST);
        let before = self.rows.position().clone();
        match self.rows.read_byte_record(record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let at = record.position().unwrap_or(&before);
                Ok(Some(Row { line: self.lines + at.line(), offset: self.offset + at.byte() }))
            }
            Err(error) => {
                let at = format!("line {}", self.lines + before.line());
                Err(match error.into_kind() {
                    csv::ErrorKind::Io(source) if source.get_ref().is_some() && !self.is_gzip => {
                        Error::data(file, format!("{at}: {source}: is a quotation mark not closed?"))
                    }
                    csv::ErrorKind::Io(source) => {
                        unreadable(file, self.is_gzip, self.offset + before.byte(), source)
                    }
                    other => Error::data(file, format!("{at}: {other:?}")),
                })
            }
        }
    }

    fn label(&self, record: &ByteRecord) -> Option<String> {
        let field = record.get(self.layout.label?)?;
        Some(String::from_utf8_lossy(field).trim().to_string())
    }
}
