//! A list of recordings, an object in JSON on each line.
use super::Split;
use super::files::{Entry, Listing};
use super::layout::number;
use super::section::Place;
use serde::Deserialize;
use ssl_core::{Error, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Bytes that a line may have: a foreign file without line ends must not fill the memory.
const LONGEST_LINE: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    audio: PathBuf,
    label: Option<Label>,
    #[serde(default)]
    start: f64,
    seconds: Option<f64>,
    split: Option<Part>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Label {
    Number(i64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Train,
    Test,
    Unlabelled,
}

impl Part {
    fn split(self) -> Split {
        match self {
            Part::Train => Split::Train,
            Part::Test => Split::Test,
            Part::Unlabelled => Split::Unlabelled,
        }
    }
}

/// The recordings of a split; none when the manifest is empty or has no such line.
///
/// # Errors
/// `Error::Io` when it cannot be read; `Error::Data` when a line is not what it should be.
pub(crate) fn read(path: &Path, split: Split) -> Result<Option<Listing>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "read"))?);
    let (mut entries, mut labels, mut train) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut text = String::new();
    for number in 1u64.. {
        text.clear();
        let mut limited = std::io::Read::take(&mut file, LONGEST_LINE);
        if limited.read_line(&mut text).map_err(Error::io(path, "read"))? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let line = parse(&text).map_err(|reason| Error::data(path, format!("line {number}: {reason}")))?;
        let of = line.split.map_or(Split::Train, Part::split);
        let label = line.label.map(|label| match label {
            // Numbers are sorted as such.
            Label::Number(label) => format!("{label:>20}"),
            Label::Text(label) => label,
        });
        if of == Split::Train {
            train.extend(label.clone());
        }
        if of == split {
            let place = Place::file(&folder.join(&line.audio));
            entries.push(Entry { place, inner: None, start: line.start, seconds: line.seconds });
            labels.push(label);
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let labels: Option<Vec<String>> = labels.into_iter().collect();
    let (labels, names) = labels.map_or((None, Vec::new()), |labels| number(&labels, &train));
    let class_names = names.iter().map(|name| name.trim().to_string()).collect();
    Ok(Some(Listing { path: path.to_path_buf(), entries, labels, class_names }))
}

fn parse(text: &str) -> Result<Line, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("expected {{\"audio\": PATH, ..}}: {reason}, column {}", error.column())
    })?;
    if !(0.0..1e12).contains(&line.start) {
        return Err(format!("start: expected seconds of at least 0, got {}", line.start));
    }
    match line.seconds {
        Some(seconds) if !(seconds > 0.0 && seconds < 1e12) => {
            Err(format!("seconds: expected more than 0, got {seconds}"))
        }
        _ => Ok(line),
    }
}
