//! JSON Lines: an object a line, of which one value is the text.
use super::corpus::{Part, Pass, Row};
use super::input::{Input, Refusal};
use super::table::add_label;
use super::unknown_column;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use ssl_core::{Error, Flow, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// Which values of an object are text and label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) text: String,
    pub(crate) label: Option<String>,
}

/// What a line holds.
enum Line {
    Blank,
    TooLong,
    Whole,
}

/// An open file of lines.
struct Lines {
    input: BufReader<Box<dyn Read>>,
    is_gzip: bool,
    line: u64,
    offset: u64,
    next_offset: u64,
}

/// Reads the lines of a part.
pub(crate) fn read(part: &Part, columns: &Columns, pass: &mut Pass<'_>) -> Result<Flow> {
    let mut lines = match open(part) {
        Ok(lines) => lines,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(why)) => {
            pass.bad(part, why)?;
            return Ok(Flow::Continue);
        }
    };
    let mut bytes = Vec::new();
    while let Some(line) = lines.next(part, &mut bytes)? {
        let at = lines.at();
        let row = match line {
            Line::Blank => continue,
            Line::TooLong => Err(format!("longer than {LONGEST} bytes")),
            Line::Whole => {
                if pass.files.options.lossy && std::str::from_utf8(&bytes).is_err() {
                    pass.note(part, &format!("line {}: not UTF-8, which was replaced", at.line));
                    bytes = String::from_utf8_lossy(&bytes).into_owned().into_bytes();
                }
                parse(&bytes, columns)
            }
        };
        match row {
            Err(reason) => pass.bad(part, format!("line {}: {reason}", at.line))?,
            Ok((text, label)) => {
                if pass.row(part, text, label.as_deref(), at)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
        }
    }
    Ok(Flow::Continue)
}

/// Adds the values of the label column to `values`; lines at fault are left to the reading itself.
pub(crate) fn labels(part: &Part, columns: &Columns, values: &mut BTreeSet<String>) -> Result<()> {
    let mut lines = match open(part) {
        Ok(lines) => lines,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(_)) => return Ok(()),
    };
    // The text is of no interest here, so that it is passed over.
    let label = Columns { text: columns.label.clone().unwrap_or_default(), label: None };
    let mut bytes = Vec::new();
    while let Some(line) = lines.next(part, &mut bytes)? {
        if let Line::Whole = line
            && let Ok(fields) = Seed(&label).deserialize(&mut serde_json::Deserializer::from_slice(&bytes))
            && let Some(Ok(label)) = fields.text.map(label_of)
            && !label.is_empty()
        {
            add_label(part, label, values)?;
        }
    }
    Ok(())
}

/// Looks at the first line that is an object, for the columns.
pub(crate) fn check(part: &Part, columns: &Columns) -> Result<()> {
    let mut lines = match open(part) {
        Ok(lines) => lines,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(_)) => return Ok(()),
    };
    let mut bytes = Vec::new();
    while let Some(line) = lines.next(part, &mut bytes)? {
        let Line::Whole = line else { continue };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => {
                let names: Vec<String> = object.keys().cloned().collect();
                let wanted = [Some(&columns.text), columns.label.as_ref()].into_iter().flatten();
                return match wanted.into_iter().find(|wanted| !names.contains(wanted)) {
                    Some(missing) => Err(unknown_column(&part.file, missing, &names)),
                    None => Ok(()),
                };
            }
            _ if bytes.trim_ascii_start().starts_with(b"[") => {
                let message = "expected an object a line (JSON Lines), found an array: write each of its elements on a line";
                return Err(Error::data(&*part.file, message));
            }
            _ => {}
        }
    }
    Ok(())
}

fn open(part: &Part) -> Result<Lines, Refusal> {
    let input = Input::open(&part.file)?;
    let (is_gzip, offset) = (input.is_gzip(), input.offset);
    let input = BufReader::with_capacity(super::cut::CHUNK, input.into_stream());
    Ok(Lines { input, is_gzip, line: 0, offset, next_offset: offset })
}

impl Lines {
    /// Reads a line; none behind the last.
    fn next(&mut self, part: &Part, bytes: &mut Vec<u8>) -> Result<Option<Line>> {
        bytes.clear();
        self.offset = self.next_offset;
        let n = self.read(part, bytes)?;
        if n == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() != Some(&b'\n') && n == LONGEST {
            let mut rest = Vec::new();
            while rest.last() != Some(&b'\n') {
                rest.clear();
                if self.read(part, &mut rest)? == 0 {
                    break;
                }
            }
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(if bytes.trim_ascii().is_empty() { Line::Blank } else { Line::Whole }))
    }

    fn read(&mut self, part: &Part, bytes: &mut Vec<u8>) -> Result<u64> {
        let read = self.input.by_ref().take(LONGEST).read_until(b'\n', bytes);
        let n = read
            .map_err(|source| super::input::unreadable(&part.file, self.is_gzip, self.next_offset, source))?
            as u64;
        self.next_offset += n;
        Ok(n)
    }

    fn at(&self) -> Row {
        Row { line: self.line, offset: self.offset }
    }
}

/// The text and the label of a line, or what is wrong with it.
fn parse(bytes: &[u8], columns: &Columns) -> Result<(String, Option<String>), String> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let at = error.valid_up_to() + 1;
        return Err(format!("column {at} is not UTF-8; `lossy` replaces it"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let fields = Seed(columns).deserialize(&mut json).and_then(|fields| json.end().map(|()| fields));
    // The line that serde_json names is always the first.
    let fields = fields.map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("column {}: {message}", error.column())
    })?;
    let text = match fields.text {
        Some(Value::String(text)) => text,
        Some(Value::Null) => String::new(),
        Some(other) => return Err(format!("`{}`: expected a string, found {}", columns.text, kind(&other))),
        None => return Err(format!("no `{}`", columns.text)),
    };
    let label = fields.label.map(label_of).transpose();
    Ok((text, label.map_err(|found| format!("label: expected a string or number, found {found}"))?))
}

fn label_of(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(label) => Ok(label),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(label) => Ok(label.to_string()),
        Value::Null => Ok(String::new()),
        other => Err(kind(&other)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The values of an object that matter.
#[derive(Default)]
struct Fields {
    text: Option<Value>,
    label: Option<Value>,
}

/// Takes two values out of an object and passes over the others.
struct Seed<'a>(&'a Columns);

enum Key {
    Text,
    Label,
    Other,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Fields;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key_seed(KeySeed(self.0))? {
            match key {
                Key::Text => fields.text = Some(map.next_value()?),
                Key::Label => fields.label = Some(map.next_value()?),
                Key::Other => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(fields)
    }
}

struct KeySeed<'a>(&'a Columns);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            _ if key == self.0.text => Key::Text,
            _ if Some(key) == self.0.label.as_deref() => Key::Label,
            _ => Key::Other,
        })
    }
}
