//! How folders of text are laid out: splits, then classes, then files.
use super::corpus::{Classes, Form, Part};
use super::cut::Border;
use super::json::Columns;
use super::table::{Dialect, Separator};
use super::{Cut, Options, Split, nothing_at};
use ssl_core::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walkdir::WalkDir;

/// Endings of files that are plain text. Names without an ending count too, and those that end in digits.
const PLAIN: [&str; 9] = ["txt", "text", "md", "markdown", "rst", "tex", "log", "tokens", "raw"];
/// Names of files that tell about a folder and belong to no class.
const ABOUT: [&str; 7] = ["readme", "license", "licence", "copying", "notice", "changelog", "authors"];

/// The files of a split, and their classes.
pub(crate) struct Listing {
    pub(crate) parts: Vec<Part>,
    /// Classes by folder; none where a column may say them.
    pub(crate) classes: Classes,
    /// The files of the training split, whose labels are numbered first; none if the parts are it.
    pub(crate) train: Option<Vec<Part>>,
}

/// How a file is read, by the ending of its name; none if the ending is that of something else.
pub(crate) fn form_of(path: &Path, options: &Options) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let text = || options.column.clone().unwrap_or_else(|| "text".to_string());
    let table = |separator| {
        Form::Table(Dialect::Named { separator, text: text(), label: options.label_column.clone() })
    };
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("jsonl" | "ndjson" | "json") => {
            Some(Form::Json(Columns { text: text(), label: options.label_column.clone() }))
        }
        Some("csv") => Some(table(Separator::Comma)),
        Some("tsv") => Some(table(Separator::Tab)),
        Some("tab") => Some(Form::Table(Dialect::Orange)),
        None => Some(plain(options)),
        Some(ending) if PLAIN.contains(&ending) => Some(plain(options)),
        Some(ending) if ending.bytes().all(|byte| byte.is_ascii_digit()) => Some(plain(options)),
        Some(_) => None,
    }
}

/// Plain text, cut as the options say.
pub(crate) fn plain(options: &Options) -> Form {
    Form::Plain(match &options.documents {
        Cut::Files => Border::None,
        Cut::Lines => Border::Line,
        Cut::Paragraphs => Border::Blank,
        Cut::Separator(line) => Border::Equal(line.trim_ascii_end().as_bytes().to_vec()),
    })
}

/// A whole file.
pub(crate) fn part(path: &Path, form: Form, options: &Options, label: Option<i64>) -> Part {
    Part { file: Arc::from(path), form, encoding: options.encoding, label, start: 0, end: None }
}

/// The text files of a split of a folder.
pub(crate) fn folder(path: &Path, split: Split, options: &Options) -> Result<Listing> {
    let mut root = path.to_path_buf();
    loop {
        let (folders, files) = entries(&root)?;
        if has_train(&folders) {
            return split_folders(path, &root, &folders, split, options);
        }
        let names: BTreeSet<String> = files.iter().filter(|name| is_text(name, options)).cloned().collect();
        if names.iter().any(|name| split_of_file(name) == Some(Kind::Train)) {
            return split_files(path, &root, &names, split, options);
        }
        // Archives often unpack into one folder.
        match folders.first() {
            Some(only) if folders.len() == 1 && names.iter().all(|name| is_about(name)) => root.push(only),
            _ => break,
        }
    }
    if split != Split::Train {
        let message = format!("no {split} documents: expected sub-folders or files named train and test");
        return Err(Error::absent(path, message));
    }
    let found = walk(&root, options)?;
    let classes = classify(&root, &found, &BTreeSet::new());
    Ok(Listing {
        parts: parts(&root, found, &classes, options),
        classes: Classes::named(classes),
        train: None,
    })
}

/// What a name says about the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Train,
    Valid,
    Test,
    Unlabelled,
}

fn split_name(word: &str) -> Option<Kind> {
    match word.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Kind::Train),
        "test" | "testing" => Some(Kind::Test),
        "valid" | "val" | "validation" | "dev" => Some(Kind::Valid),
        "unlabelled" | "unlabeled" | "unsup" => Some(Kind::Unlabelled),
        _ => None,
    }
}

/// The split that a file's name tells, as `news-train.csv` does.
fn split_of_file(name: &str) -> Option<Kind> {
    name.split(['.', '-', '_']).find_map(split_name)
}

/// The kinds of a split, those before others that may stand in.
fn kinds(split: Split) -> &'static [Kind] {
    match split {
        Split::Train => &[Kind::Train],
        Split::Test => &[Kind::Test, Kind::Valid],
        Split::Unlabelled => &[Kind::Unlabelled],
    }
}

fn has_train(names: &BTreeSet<String>) -> bool {
    names.iter().any(|name| split_name(name) == Some(Kind::Train))
}

fn missing(path: &Path, split: Split, names: &BTreeSet<String>) -> Error {
    let names: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    Error::absent(path, format!("no {split} documents: found {} and no other split", names.join(", ")))
}

fn split_folders(
    path: &Path,
    root: &Path,
    names: &BTreeSet<String>,
    split: Split,
    options: &Options,
) -> Result<Listing> {
    let choose = |split: Split| {
        kinds(split).iter().find_map(|kind| names.iter().find(|name| split_name(name) == Some(*kind)))
    };
    let chosen = root.join(choose(split).ok_or_else(|| missing(path, split, names))?);
    let train = choose(Split::Train).map_or_else(|| chosen.clone(), |name| root.join(name));
    let in_train = walk(&train, options)?;
    let of_train: BTreeSet<String> = classify(&train, &in_train, &BTreeSet::new()).into_iter().collect();
    let found = walk(&chosen, options)?;
    if found.is_empty() && split != Split::Train {
        return Err(Error::absent(path, format!("no {split} documents: {} holds none", chosen.display())));
    }
    let classes = match split {
        Split::Unlabelled => Vec::new(),
        _ => classify(&chosen, &found, &of_train),
    };
    let train = (split != Split::Train).then(|| parts(&train, in_train, &[], options));
    Ok(Listing { parts: parts(&chosen, found, &classes, options), classes: Classes::named(classes), train })
}

fn split_files(
    path: &Path,
    root: &Path,
    names: &BTreeSet<String>,
    split: Split,
    options: &Options,
) -> Result<Listing> {
    let choose = |split: Split| -> Vec<PathBuf> {
        let of = |kind| names.iter().filter(move |name| split_of_file(name) == Some(kind));
        let chosen = kinds(split).iter().find(|kind| of(**kind).next().is_some());
        chosen.map(|kind| of(*kind).map(|name| root.join(name)).collect()).unwrap_or_default()
    };
    let chosen = choose(split);
    if chosen.is_empty() {
        return Err(missing(path, split, names));
    }
    let train = (split != Split::Train).then(|| parts(root, choose(Split::Train), &[], options));
    Ok(Listing { parts: parts(root, chosen, &[], options), classes: Classes::default(), train })
}

fn parts(root: &Path, found: Vec<PathBuf>, classes: &[String], options: &Options) -> Vec<Part> {
    let label = |file: &Path| {
        let class = class_of(root, file)?;
        let index = classes.iter().position(|name| *name == class)?;
        i64::try_from(index).ok()
    };
    let made = |file: &PathBuf| Some(part(file, form_of(file, options)?, options, label(file)));
    found.iter().filter_map(made).collect()
}

/// The classes of files: the folders that they are in, when all are in one and there are at least two. Those of the
/// training split come first, so that all splits agree.
fn classify(root: &Path, files: &[PathBuf], train: &BTreeSet<String>) -> Vec<String> {
    let of_files: Option<BTreeSet<String>> = files.iter().map(|file| class_of(root, file)).collect();
    let Some(present) = of_files else { return Vec::new() };
    let names: Vec<String> = train.iter().chain(present.difference(train)).cloned().collect();
    if names.len() < 2 { Vec::new() } else { names }
}

/// The first folder below the root that a file is in.
fn class_of(root: &Path, file: &Path) -> Option<String> {
    let mut below = file.strip_prefix(root).ok()?.components();
    let first = below.next()?.as_os_str().to_string_lossy().into_owned();
    below.next().map(|_| first)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

fn is_about(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    ABOUT.contains(&stem.as_str())
}

fn is_text(name: &str, options: &Options) -> bool {
    !is_hidden(name) && form_of(Path::new(name), options).is_some()
}

/// The names of the folders and of the files in a folder, hidden ones aside; links are followed.
fn entries(path: &Path) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut folders, mut files) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(path).map_err(Error::io(path, "read"))? {
        let entry = entry.map_err(Error::io(path, "read"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_hidden(&name) {
            continue;
        }
        if entry.path().is_dir() {
            folders.insert(name);
        } else {
            files.insert(name);
        }
    }
    Ok((folders, files))
}

/// All text files below a folder, sorted; links are followed, and a link to a folder above is an error.
pub(crate) fn walk(root: &Path, options: &Options) -> Result<Vec<PathBuf>> {
    let (mut paths, mut others) = (Vec::new(), BTreeSet::new());
    let visible =
        |entry: &walkdir::DirEntry| entry.depth() == 0 || !is_hidden(&entry.file_name().to_string_lossy());
    for entry in WalkDir::new(root).follow_links(true).into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_path_buf();
            let message = error.to_string();
            match error.into_io_error() {
                Some(source) => Error::io(path, "read")(source),
                None => Error::data(path, message),
            }
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_text(&name, options) {
            others.extend(Path::new(&name).extension().map(|ending| ending.to_string_lossy().into_owned()));
        } else if !(entry.depth() == 1 && is_about(&name)) {
            paths.push(entry.into_path());
        }
    }
    if paths.is_empty() && !others.is_empty() {
        return Err(nothing_at(root, &others));
    }
    // Beside texts a JSON file describes them, as a rule.
    let is_json = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if !paths.iter().all(is_json) {
        paths.retain(|path| !is_json(path));
    }
    paths.sort();
    Ok(paths)
}
