//! The data sets of the catalog, by how they lie in their folders.
use super::corpus::{Classes, Files, Form, Keep, Part};
use super::cut::Border;
use super::held_out::TENTH;
use super::layout::{form_of, part, walk};
use super::plain::last_tenth;
use super::table::{Dialect, Separator};
use super::{Encoding, Options, Split};
use ssl_core::{Error, Result};
use std::path::{Path, PathBuf};

/// Works of Shakespeare that are held out: a history, a tragedy, a comedy and a romance, a tenth of the whole.
const HELD_OUT: [&str; 4] =
    ["henry_v_gut.txt", "macbeth_gut.txt", "twelfth_night_gut.txt", "winters_tale_gut.txt"];

/// Opens the folder of a data set that is known by its layout; none if it is not.
pub(crate) fn open(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let readers = [wikitext, imdb, ag_news, sst2, shakespeare, tiny_shakespeare, fortunes];
    for reader in readers {
        if let Some(files) = reader(path, split, options)? {
            return Ok(Some(files));
        }
    }
    Ok(None)
}

/// The folder of a data set: a sub-folder of this name, or the path itself if it has the name.
fn place(path: &Path, name: &str) -> Option<PathBuf> {
    let inner = path.join(name);
    let is_itself = path.file_name().is_some_and(|own| own == name);
    inner.is_dir().then_some(inner).or_else(|| is_itself.then(|| path.to_path_buf()))
}

fn absent(path: &Path, split: Split, set: &str) -> Error {
    Error::absent(path, format!("no {split} documents: {set} has none"))
}

/// The first of the files that exists.
fn one(path: &Path, split: Split, set: &str, candidates: &[PathBuf]) -> Result<PathBuf> {
    let found = candidates.iter().find(|file| file.is_file());
    found.cloned().ok_or_else(|| absent(path, split, set))
}

fn wikitext(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let places =
        ["wikitext-2", "wikitext-103", "wikitext-2-raw", "wikitext-103-raw"].map(|name| path.join(name));
    let mut places = std::iter::once(path.to_path_buf()).chain(places);
    let file = |place: &Path, split: &str| {
        ["tokens", "raw"].map(|ending| place.join(format!("wiki.{split}.{ending}")))
    };
    let Some(place) = places.find(|place| file(place, "train").iter().any(|file| file.is_file())) else {
        return Ok(None);
    };
    let candidates: Vec<PathBuf> = match split {
        Split::Train => file(&place, "train").to_vec(),
        Split::Test => [file(&place, "test"), file(&place, "valid")].concat(),
        Split::Unlabelled => Vec::new(),
    };
    let file = one(path, split, "WikiText", &candidates)?;
    let parts = vec![part(&file, Form::Plain(Border::Title), options, None)];
    Files::new(path, parts, Classes::default(), options).map(Some)
}

fn imdb(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let root = place(path, "aclImdb").unwrap_or_else(|| path.to_path_buf());
    if !["train/neg", "train/pos"].iter().all(|name| root.join(name).is_dir()) {
        return Ok(None);
    }
    let folders: &[(&str, Option<i64>)] = match split {
        Split::Train => &[("train/neg", Some(0)), ("train/pos", Some(1))],
        Split::Test => &[("test/neg", Some(0)), ("test/pos", Some(1))],
        Split::Unlabelled => &[("train/unsup", None)],
    };
    let mut parts = Vec::new();
    for (name, label) in folders {
        let folder = root.join(name);
        if !folder.is_dir() {
            return Err(absent(path, split, "this copy of IMDB"));
        }
        let files = walk(&folder, options)?;
        parts.extend(
            files.iter().filter_map(|file| Some(part(file, form_of(file, options)?, options, *label))),
        );
    }
    let classes = match split {
        Split::Unlabelled => Classes::default(),
        _ => Classes::named(vec!["neg".to_string(), "pos".to_string()]),
    };
    Files::new(path, parts, classes, options).map(Some)
}

fn ag_news(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let Some(root) = place(path, "ag_news_csv").filter(|root| root.join("train.csv").is_file()) else {
        return Ok(None);
    };
    let candidates = match split {
        Split::Train => vec![root.join("train.csv")],
        Split::Test => vec![root.join("test.csv")],
        Split::Unlabelled => Vec::new(),
    };
    let file = one(path, split, "AG News", &candidates)?;
    let classes = Classes::numbered(&["World", "Sports", "Business", "Sci/Tech"], 1);
    Files::new(path, vec![part(&file, Form::Table(Dialect::AgNews), options, None)], classes, options)
        .map(Some)
}

fn sst2(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let Some(root) = place(path, "SST-2").filter(|root| root.join("train.tsv").is_file()) else {
        return Ok(None);
    };
    let candidates = match split {
        Split::Train => vec![root.join("train.tsv")],
        // The test set's labels are secret.
        Split::Test => vec![root.join("dev.tsv")],
        Split::Unlabelled => Vec::new(),
    };
    let file = one(path, split, "SST-2", &candidates)?;
    let (text, label) = ("sentence".to_string(), Some("label".to_string()));
    let dialect = Dialect::Named { separator: Separator::Tab, text, label };
    let classes = Classes::numbered(&["negative", "positive"], 0);
    Files::new(path, vec![part(&file, Form::Table(dialect), options, None)], classes, options).map(Some)
}

fn shakespeare(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let Some(root) = place(path, "shakespeare") else { return Ok(None) };
    if !HELD_OUT.iter().all(|name| root.join(name).is_file()) {
        return Ok(None);
    }
    if split == Split::Unlabelled {
        return Err(absent(path, split, "Shakespeare"));
    }
    let is_held_out = |file: &PathBuf| HELD_OUT.iter().any(|name| file.ends_with(name));
    let files = walk(&root, options)?;
    let chosen = files.iter().filter(|file| is_held_out(file) == (split == Split::Test));
    let work = |file| Part {
        encoding: Encoding::Latin1,
        ..part(file, super::layout::plain(options), options, None)
    };
    Files::new(path, chosen.map(|file| work(file)).collect(), Classes::default(), options).map(Some)
}

fn tiny_shakespeare(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let file = place(path, "tinyshakespeare").map(|root| root.join("input.txt"));
    let Some(file) = file.filter(|file| file.is_file()) else { return Ok(None) };
    let whole = part(&file, super::layout::plain(options), options, None);
    let border = last_tenth(&whole)?;
    let part = match split {
        Split::Train => Part { end: border, ..whole },
        Split::Test => Part { start: border.unwrap_or_default(), ..whole },
        Split::Unlabelled => return Err(absent(path, split, "Tiny Shakespeare")),
    };
    Files::new(path, vec![part], Classes::default(), options).map(Some)
}

fn fortunes(path: &Path, split: Split, options: &Options) -> Result<Option<Files>> {
    let Some(root) = place(path, "fortunes") else { return Ok(None) };
    let files: Vec<PathBuf> = std::fs::read_dir(&root)
        .map_err(Error::io(&root, "read"))?
        .map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(&root, "read")))
        .collect::<Result<_>>()?;
    let name =
        |file: &PathBuf| file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Beside the texts lie indices of them, and links under other names.
    let is_text = |file: &PathBuf| {
        let name = name(file);
        !name.starts_with('.') && !name.ends_with(".dat") && !name.ends_with(".u8") && file.is_file()
    };
    let mut files: Vec<PathBuf> = files.into_iter().filter(is_text).collect();
    files.sort();
    let names: Vec<String> =
        files.iter().map(|file| name(file).trim_end_matches(".fortunes").to_string()).collect();
    let is_labelled = names.len() > 1;
    let border = Form::Plain(Border::Equal(b"%".to_vec()));
    let made = (0_i64..).zip(&files);
    let parts =
        made.map(|(label, file)| part(file, border.clone(), options, is_labelled.then_some(label))).collect();
    let classes = if is_labelled { Classes::named(names) } else { Classes::default() };
    let all = Files::new(path, parts, classes, options)?;
    match split {
        Split::Train => Ok(Some(all.keeping(Keep::From(TENTH)))),
        Split::Test => Ok(Some(all.keeping(Keep::Below(TENTH)))),
        Split::Unlabelled => Err(absent(path, split, "a collection of fortunes")),
    }
}
