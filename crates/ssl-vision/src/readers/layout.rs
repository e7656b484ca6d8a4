//! How folders and archives are laid out: splits, then classes, then examples. The parts that know no images are for
//! readers of other things made of images, such as videos.
use super::Split;
use super::decode::ENDINGS;
use super::encoded::Listing;
use super::files::{Files, index_tar};
use ssl_core::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// Whether a path names an image that is not hidden.
fn is_image(path: &Path) -> bool {
    let is_hidden = path.components().any(|part| match part {
        Component::Normal(name) => is_hidden(&name.to_string_lossy()),
        _ => false,
    });
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    !is_hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Whether a file or folder of this name is left out: it is hidden, or what an archiver of macOS adds.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

/// Which of the names of folders holds a split; the test set before the validation set.
pub fn choose(names: &BTreeSet<String>, split: Split) -> Option<&String> {
    let wanted: &[&str] = match split {
        Split::Train => &["train", "training"],
        Split::Test => &["test", "testing", "val", "valid", "validation"],
        Split::Unlabelled => &["unlabelled", "unlabeled"],
    };
    wanted.iter().find_map(|want| names.iter().find(|name| name.eq_ignore_ascii_case(want)))
}

/// Whether one of the names of folders is that of a training set.
pub fn has_splits(names: &BTreeSet<String>) -> bool {
    choose(names, Split::Train).is_some()
}

/// The error of a split that is not among the names of folders; `what` are the examples, in the plural.
pub fn missing(path: &Path, split: Split, what: &str, names: &BTreeSet<String>) -> Error {
    let names: Vec<_> = names.iter().take(8).cloned().collect();
    Error::absent(path, format!("no {split} {what}: found {} and no other split", names.join(", ")))
}

/// The images of a split of a folder; none when there is no image anywhere.
pub(crate) fn folder(path: &Path, split: Split) -> Result<Option<Listing>> {
    let mut root = path.to_path_buf();
    let mut names = folders(&root)?;
    // Archives often unpack into one folder.
    while names.len() == 1 && !has_splits(&names) && !holds_images(&root)? {
        root.extend(names.first());
        names = folders(&root)?;
    }
    let mut classes = BTreeSet::new();
    if has_splits(&names) {
        let chosen = choose(&names, split).ok_or_else(|| missing(path, split, "images", &names))?;
        if let Some(train) = choose(&names, Split::Train) {
            classes = folders(&root.join(train))?;
        }
        root.push(chosen);
    } else if split != Split::Train {
        return Err(Error::absent(
            path,
            format!("no {split} images: expected sub-folders train and test, found no train"),
        ));
    }
    let paths = walk(&root, is_image)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let below = |image: &PathBuf| image.strip_prefix(&root).map(Path::to_path_buf).unwrap_or_default();
    let (labels, class_names) = classify(&paths.iter().map(below).collect::<Vec<_>>(), &classes);
    Ok(Some(Listing { path: path.to_path_buf(), files: Files::Folder(paths), labels, class_names }))
}

/// The images of a split of an archive; none when there is no image in it.
pub(crate) fn archive(path: &Path, split: Split) -> Result<Option<Listing>> {
    let (file, mut entries) = index_tar(path, is_image)?;
    let parts = |name: &str| -> Vec<String> {
        Path::new(name)
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect()
    };
    let all: Vec<Vec<String>> = entries.iter().map(|entry| parts(&entry.name)).collect();
    let at = |depth: usize| -> BTreeSet<String> {
        let folders = all.iter().filter(|parts| parts.len() > depth + 1);
        folders.filter_map(|parts| parts.get(depth).cloned()).collect()
    };
    let mut depth = 0;
    while at(depth).len() == 1 && !has_splits(&at(depth)) && all.iter().all(|parts| parts.len() > depth + 1) {
        depth += 1;
    }
    let (mut classes, mut keep) = (BTreeSet::new(), None);
    let names = at(depth);
    if has_splits(&names) {
        let chosen = choose(&names, split).ok_or_else(|| missing(path, split, "images", &names))?;
        let train = choose(&names, Split::Train);
        let in_train = all.iter().filter(|parts| parts.get(depth) == train && parts.len() > depth + 2);
        classes = in_train.filter_map(|parts| parts.get(depth + 1).cloned()).collect();
        keep = Some(chosen.clone());
        depth += 1;
    } else if split != Split::Train {
        return Err(Error::absent(
            path,
            format!("no {split} images: expected train/ and test/ in the archive"),
        ));
    }
    if let Some(keep) = keep {
        entries.retain(|entry| parts(&entry.name).get(depth - 1) == Some(&keep));
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let below: Vec<PathBuf> =
        entries.iter().map(|entry| parts(&entry.name).into_iter().skip(depth).collect()).collect();
    let (labels, class_names) = classify(&below, &classes);
    let path = path.to_path_buf();
    Ok(Some(Listing { files: Files::Tar { path: path.clone(), file, entries }, path, labels, class_names }))
}

/// Labels by the first folder of each path, when every example is in one and there are at least two.
///
/// Classes are numbered by their sorted names, those of the training set first, so that all splits agree.
pub fn classify(paths: &[PathBuf], train: &BTreeSet<String>) -> (Option<Vec<i64>>, Vec<String>) {
    let class = |path: &PathBuf| -> Option<String> {
        let mut parts = path.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let of_examples: Option<Vec<String>> = paths.iter().map(class).collect();
    let Some(of_examples) = of_examples else { return (None, Vec::new()) };
    let present: BTreeSet<String> = of_examples.iter().cloned().collect();
    let names: Vec<String> = train.iter().chain(present.difference(train)).cloned().collect();
    if names.len() < 2 {
        return (None, Vec::new());
    }
    let numbers: std::collections::HashMap<&String, i64> = names.iter().zip(0..).collect();
    let labels = of_examples.iter().map(|name| numbers.get(name).copied()).collect();
    (labels, names)
}

/// Names of the folders in a folder, hidden ones aside.
///
/// # Errors
/// `Error::Io` when it cannot be read.
pub fn folders(path: &Path) -> Result<BTreeSet<String>> {
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

fn holds_images(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(Error::io(path, "read"))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| is_image(Path::new(&entry.file_name())))))
}

/// All files below a folder whose names are wanted, sorted; links are followed, what is hidden is left out.
///
/// # Errors
/// `Error::Io` when something cannot be read, `Error::Data` when a link leads to a folder above it.
pub fn walk(root: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
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
        let name = Path::new(entry.file_name());
        if entry.file_type().is_file() && is_wanted(name) {
            paths.push(entry.into_path());
        }
    }
    paths.sort();
    Ok(paths)
}
