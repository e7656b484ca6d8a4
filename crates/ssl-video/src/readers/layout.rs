//! How folders of videos are laid out: splits, then classes, then videos, each a file or a folder of frames.
use super::npy::Npy;
use super::{Options, Split, animation, pictures, ucf101};
use ssl_core::{Error, Result};
use ssl_vision::readers::ENDINGS as PICTURES;
use ssl_vision::readers::layout::{choose, classify, folders, has_splits, missing, walk};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Endings of the names of videos that `ffmpeg` decodes.
const VIDEOS: [&str; 16] = [
    "mp4", "m4v", "avi", "webm", "mkv", "mov", "mpg", "mpeg", "ogv", "wmv", "flv", "3gp", "ts", "m2ts",
    "y4m", "divx",
];
/// Endings of what is animated in any case, and of what may be.
const ANIMATIONS: [&str; 2] = ["gif", "apng"];
const PERHAPS: [&str; 2] = ["webp", "png"];
const ARRAYS: &str = "npy";

/// A video as it lies in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

/// How it is stored.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// In a format that `ffmpeg` decodes.
    Program,
    /// As an animated picture.
    Animation,
    /// As pictures in a folder, in their order.
    Frames(Vec<PathBuf>),
    /// As one of the videos of an array.
    Array(Arc<Npy>, usize),
    /// It cannot be read, and why.
    Broken(String),
}

impl Item {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        let path = self.path.display();
        match &self.kind {
            Kind::Array(npy, video) if npy.videos > 1 => format!("video {video} of {path}"),
            _ => path.to_string(),
        }
    }
}

/// Which videos of a source belong to the set, and their classes.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Where they come from, for messages.
    pub(crate) path: PathBuf,
    pub(crate) items: Vec<Item>,
    pub(crate) labels: Option<Vec<i64>>,
    pub(crate) class_names: Vec<String>,
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn is_any(path: &Path) -> bool {
    let ending = ending(path);
    is_film(&ending) || PICTURES.contains(&ending.as_str())
}

/// Whether a file is a video, or several, and no frame.
fn is_film(ending: &str) -> bool {
    VIDEOS.contains(&ending) || ANIMATIONS.contains(&ending) || ending == ARRAYS
}

/// The videos of a split; none when there is no video anywhere.
pub(crate) fn listing(path: &Path, split: Split, options: &Options) -> Result<Option<Listing>> {
    if fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir() {
        return folder(path, split, options);
    }
    if split != Split::Train {
        return Err(Error::absent(path, format!("no {split} videos: a single file is a training set")));
    }
    Ok(Some(Listing { path: path.into(), items: file(path), labels: None, class_names: Vec::new() }))
}

fn folder(path: &Path, split: Split, options: &Options) -> Result<Option<Listing>> {
    let mut root = path.to_path_buf();
    let mut names = folders(&root)?;
    // Archives often unpack into one folder.
    while names.len() == 1 && !has_splits(&names) && !holds_any(&root)? {
        root.extend(names.first());
        names = folders(&root)?;
    }
    if let Some(listing) = ucf101::folder(path, split, options.ucf101_list)? {
        return Ok(Some(listing).filter(|listing| !listing.items.is_empty()));
    }
    let mut classes = BTreeSet::new();
    if has_splits(&names) {
        let chosen = choose(&names, split).ok_or_else(|| missing(path, split, "videos", &names))?;
        if let Some(train) = choose(&names, Split::Train) {
            classes = class_folders(&root.join(train))?;
        }
        root.push(chosen);
    } else if split != Split::Train {
        return Err(Error::absent(
            path,
            format!("no {split} videos: expected sub-folders train and test, found no train"),
        ));
    }
    let items = items(&root)?;
    if items.is_empty() {
        return Ok(None);
    }
    let below = |item: &Item| item.path.strip_prefix(&root).map(Path::to_path_buf).unwrap_or_default();
    let (labels, class_names) = classify(&items.iter().map(below).collect::<Vec<_>>(), &classes);
    Ok(Some(Listing { path: path.to_path_buf(), items, labels, class_names }))
}

/// The folders of a training set that are classes and not videos.
fn class_folders(train: &Path) -> Result<BTreeSet<String>> {
    let items = items(train)?;
    let below = |item: &Item| item.path.strip_prefix(train).map(Path::to_path_buf).unwrap_or_default();
    let (_, names) = classify(&items.iter().map(below).collect::<Vec<_>>(), &BTreeSet::new());
    Ok(names.into_iter().collect())
}

fn holds_any(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(Error::io(path, "read"))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| is_any(Path::new(&entry.file_name())))))
}

/// The videos below a folder, sorted by their paths.
pub(super) fn items(root: &Path) -> Result<Vec<Item>> {
    let mut by_folder: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in walk(root, is_any)? {
        by_folder.entry(path.parent().unwrap_or(root).to_path_buf()).or_default().push(path);
    }
    let mut items = Vec::new();
    for (folder, paths) in by_folder {
        let (films, pictures): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_film(&ending(path)));
        let perhaps = pictures.iter().find(|path| PERHAPS.contains(&ending(path).as_str()));
        if perhaps.is_some_and(|path| animation::is_animated(path)) {
            items.extend(films.iter().chain(&pictures).flat_map(|path| file(path)));
        } else if films.is_empty() {
            let mut frames = pictures;
            frames.sort_by(|a, b| pictures::by_number(a, b));
            items.push(Item { path: folder, kind: Kind::Frames(frames) });
        } else {
            // Pictures beside videos are previews, not frames.
            items.extend(films.iter().flat_map(|path| file(path)));
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

/// The videos in a file.
fn file(path: &Path) -> Vec<Item> {
    let item = |kind| Item { path: path.to_path_buf(), kind };
    let ending = ending(path);
    if ending == ARRAYS {
        return match Npy::new(path) {
            Ok(npy) => {
                let npy = Arc::new(npy);
                (0..npy.videos).map(|video| item(Kind::Array(Arc::clone(&npy), video))).collect()
            }
            Err(reason) => vec![item(Kind::Broken(reason))],
        };
    }
    let is_picture = ANIMATIONS.contains(&ending.as_str()) || PERHAPS.contains(&ending.as_str());
    vec![item(if is_picture { Kind::Animation } else { Kind::Program })]
}
