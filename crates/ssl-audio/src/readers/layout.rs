//! How folders and archives of recordings are laid out: splits, then classes, then recordings.
use super::Split;
use super::files::{Entry, Listing, index_tar};
use super::known;
use ssl_core::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// Endings of the names that are looked at; what a file is, its content says.
const ENDINGS: [&str; 6] = ["wav", "wave", "flac", "mp3", "ogg", "oga"];

/// Whether a path names a recording that is not hidden.
fn is_sound(path: &Path) -> bool {
    let is_hidden = path.components().any(|part| match part {
        Component::Normal(name) => is_hidden(&name.to_string_lossy()),
        _ => false,
    });
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    !is_hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

/// Which of the names holds a split; the test set before the validation set.
fn choose(names: &BTreeSet<String>, split: Split) -> Option<&String> {
    let wanted: &[&str] = match split {
        Split::Train => &["train", "training"],
        Split::Test => &["test", "testing", "val", "valid", "validation"],
        Split::Unlabelled => &["unlabelled", "unlabeled"],
    };
    wanted.iter().find_map(|want| names.iter().find(|name| name.eq_ignore_ascii_case(want)))
}

fn has_splits(names: &BTreeSet<String>) -> bool {
    choose(names, Split::Train).is_some()
}

fn missing(path: &Path, split: Split, names: &BTreeSet<String>) -> Error {
    let names: Vec<_> = names.iter().take(8).cloned().collect();
    Error::absent(path, format!("no {split} clips: found {} and no other split", names.join(", ")))
}

/// The one recording of a file.
pub(crate) fn file(path: &Path, split: Split) -> Result<Option<Listing>> {
    if split != Split::Train {
        return Err(Error::absent(path, format!("no {split} clips: a single file is a training set")));
    }
    let entries = vec![Entry::file(path)];
    Ok(Some(Listing { path: path.to_path_buf(), entries, labels: None, class_names: Vec::new() }))
}

/// The recordings of a split of a folder; none when there is no recording anywhere.
pub(crate) fn folder(path: &Path, split: Split) -> Result<Option<Listing>> {
    let mut root = path.to_path_buf();
    let mut names = folders(&root)?;
    // Archives often unpack into one folder.
    while names.len() == 1 && !has_splits(&names) && !holds_sound(&root)? {
        root.extend(names.first());
        names = folders(&root)?;
    }
    if let Some(listing) = known::folder(path, &root, split)? {
        return Ok(Some(listing).filter(|listing| !listing.entries.is_empty()));
    }
    let mut classes = BTreeSet::new();
    if has_splits(&names) {
        let chosen = choose(&names, split).ok_or_else(|| missing(path, split, &names))?;
        if let Some(train) = choose(&names, Split::Train) {
            classes = folders(&root.join(train))?;
        }
        root.push(chosen);
    } else if split != Split::Train {
        return Err(Error::absent(
            path,
            format!("no {split} clips: expected sub-folders train and test, found no train"),
        ));
    }
    let paths = walk(&root)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let below = |file: &PathBuf| file.strip_prefix(&root).map(Path::to_path_buf).unwrap_or_default();
    let (labels, class_names) = classify(&paths.iter().map(below).collect::<Vec<_>>(), &classes);
    let entries = paths.iter().map(|path| Entry::file(path)).collect();
    Ok(Some(Listing { path: path.to_path_buf(), entries, labels, class_names }))
}

/// The recordings of a split of an archive; none when there is no recording in it.
pub(crate) fn archive(path: &Path, split: Split) -> Result<Option<Listing>> {
    let entries = index_tar(path, is_sound)?;
    let mut all: Vec<(Vec<String>, Entry)> =
        entries.into_iter().map(|(name, entry)| (parts(&name), entry)).collect();
    let at = |all: &[(Vec<String>, Entry)], depth: usize| -> BTreeSet<String> {
        let folders = all.iter().filter(|(parts, _)| parts.len() > depth + 1);
        folders.filter_map(|(parts, _)| parts.get(depth).cloned()).collect()
    };
    let mut depth = 0;
    while at(&all, depth).len() == 1
        && !has_splits(&at(&all, depth))
        && all.iter().all(|(parts, _)| parts.len() > depth + 1)
    {
        depth += 1;
    }
    let mut classes = BTreeSet::new();
    let names = at(&all, depth);
    if has_splits(&names) {
        let chosen = choose(&names, split).ok_or_else(|| missing(path, split, &names))?;
        let train = choose(&names, Split::Train);
        let in_train = all.iter().filter(|(parts, _)| parts.get(depth) == train && parts.len() > depth + 2);
        classes = in_train.filter_map(|(parts, _)| parts.get(depth + 1).cloned()).collect();
        all.retain(|(parts, _)| parts.get(depth) == Some(chosen));
        depth += 1;
    } else if split != Split::Train {
        return Err(Error::absent(
            path,
            format!("no {split} clips: expected train/ and test/ in the archive"),
        ));
    }
    if all.is_empty() {
        return Ok(None);
    }
    let below: Vec<PathBuf> = all.iter().map(|(parts, _)| parts.iter().skip(depth).collect()).collect();
    let (labels, class_names) = classify(&below, &classes);
    let entries = all.into_iter().map(|(_, entry)| entry).collect();
    Ok(Some(Listing { path: path.to_path_buf(), entries, labels, class_names }))
}

/// The names that a path consists of.
fn parts(path: &Path) -> Vec<String> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// Labels by the first folder of each path, when every recording is in one and there are at least two.
///
/// Classes are numbered by their sorted names, those of the training set first, so that all splits agree.
fn classify(paths: &[PathBuf], train: &BTreeSet<String>) -> (Option<Vec<i64>>, Vec<String>) {
    let class = |path: &PathBuf| -> Option<String> {
        let mut parts = path.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let of_clips: Option<Vec<String>> = paths.iter().map(class).collect();
    let Some(of_clips) = of_clips else { return (None, Vec::new()) };
    number(&of_clips, train)
}

/// Numbers for the names of classes.
pub(crate) fn number(of_clips: &[String], train: &BTreeSet<String>) -> (Option<Vec<i64>>, Vec<String>) {
    let present: BTreeSet<String> = of_clips.iter().cloned().collect();
    let names: Vec<String> = train.iter().chain(present.difference(train)).cloned().collect();
    if names.len() < 2 {
        return (None, Vec::new());
    }
    let numbers: HashMap<&String, i64> = names.iter().zip(0..).collect();
    let labels = of_clips.iter().map(|name| numbers.get(name).copied()).collect();
    (labels, names)
}

/// Names of the folders in a folder, hidden ones aside.
fn folders(path: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(Error::io(path, "read"))? {
        let entry = entry.map_err(Error::io(path, "read"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Unlike the entry's own type, this follows links.
        if !is_hidden(&name) && entry.path().is_dir() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn holds_sound(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(Error::io(path, "read"))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| is_sound(Path::new(&entry.file_name())))))
}

/// All recordings below a folder, sorted; links are followed, and a link to a folder above is an error.
pub(super) fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
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
        if entry.file_type().is_file() && is_sound(Path::new(entry.file_name())) {
            paths.push(entry.into_path());
        }
    }
    paths.sort();
    Ok(paths)
}
