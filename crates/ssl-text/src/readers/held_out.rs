//! A test set out of data that has none.
use super::corpus::{Files, Form, Keep, Part};
use super::cut::Border;
use super::plain::last_tenth;
use super::{Corpus, Options, Split, open_files};
use ssl_core::{Error, Flow, Result};
use std::path::Path;
use std::sync::Arc;

/// The bound of the hashes of a tenth of all documents.
pub(crate) const TENTH: u64 = u64::MAX / 10;
/// So many documents at least make it worth to hold some out.
const LEAST: u64 = 50;
/// So many documents are held out at most.
const MOST: f64 = 10_000.;
/// So many documents, or so many bytes of them, are read to estimate how many there are.
const SAMPLE: (u64, u64) = (20_000, 64 << 20);
/// A text is not parted below this size, in bytes.
const SHORTEST: u64 = 10_000;

/// Where the test documents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The data has them.
    Own,
    /// They are a part of the training documents, which then lack them.
    HeldOut,
}

/// Training documents and, where there can be some, test documents.
#[derive(Debug, Clone)]
pub struct Splits {
    /// What is trained on.
    pub train: Arc<dyn Corpus>,
    /// What is evaluated on, and where it comes from.
    pub test: Option<(Arc<dyn Corpus>, Origin)>,
}

/// Opens the training documents at a path and its test documents.
///
/// Where the data has no test split, a tenth of its documents stands in, at most about 10,000, if there are at least
/// 50. Which ones is decided by a hash of their text: no seed changes it, and equal documents are on one side. Of
/// fewer plain text files, the last tenth of each stands in.
///
/// # Errors
/// Those of [`open`](super::open).
pub fn open_splits(path: &Path, options: &Options) -> Result<Splits> {
    let train = open_files(path, Split::Train, options)?;
    let test = match open_files(path, Split::Test, options) {
        Ok(test) => Some(test),
        Err(Error::Absent { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(test) = test {
        return Ok(Splits { train: Arc::new(train), test: Some((Arc::new(test), Origin::Own)) });
    }
    let (train, test) = match held_out(&train)? {
        None => (train, None),
        Some((rest, held)) => (rest, Some(held)),
    };
    let test = test.map(|test| (Arc::new(test) as Arc<dyn Corpus>, Origin::HeldOut));
    Ok(Splits { train: Arc::new(train), test })
}

/// The rest, and what is held out.
fn held_out(all: &Files) -> Result<Option<(Files, Files)>> {
    let count = count(all)?;
    if count >= LEAST as f64 {
        let share = (MOST / count).min(0.1);
        // The conversion saturates, and is the same on every machine.
        let bound = if share < 0.1 { (share * u64::MAX as f64) as u64 } else { TENTH };
        return Ok(Some((all.keeping(Keep::From(bound)), all.keeping(Keep::Below(bound)))));
    }
    let is_text = |part: &Part| part.form == Form::Plain(Border::None);
    if all.bytes() < SHORTEST || !all.parts.iter().all(is_text) {
        return Ok(None);
    }
    let (mut heads, mut tails) = (Vec::new(), Vec::new());
    for part in &all.parts {
        let border = last_tenth(part)?;
        heads.push(Part { end: border, ..part.clone() });
        tails.extend(border.map(|start| Part { start, ..part.clone() }));
    }
    if tails.is_empty() {
        return Ok(None);
    }
    let of = |parts| Files::new(&all.path, parts, all.classes.clone(), &all.options);
    Ok(Some((of(heads)?, of(tails)?)))
}

/// How many documents there are; of many, an estimate by the size of the first.
fn count(all: &Files) -> Result<f64> {
    let (mut seen, mut bytes, mut is_whole) = (0_u64, 0_u64, true);
    all.for_each(&mut |document| {
        seen += 1;
        bytes += document.text.len() as u64;
        is_whole = seen < SAMPLE.0 && (bytes < SAMPLE.1 || seen < LEAST);
        Ok(if is_whole { Flow::Continue } else { Flow::Stop })
    })?;
    // Compressed files and long rows make this an underestimate at worst, and the held-out part larger.
    Ok(if is_whole {
        seen as f64
    } else {
        (seen as f64 * all.bytes() as f64 / bytes.max(1) as f64).max(seen as f64)
    })
}
