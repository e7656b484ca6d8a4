//! Images from files: what a path holds is recognized by [`open`].
//!
//! ```
//! use ssl_vision::ImageDataset;
//! use ssl_vision::readers::{Options, Split, open};
//! let error = open("no/such/folder".as_ref(), Split::Train, &Options::default()).unwrap_err();
//! assert!(error.to_string().starts_with("no/such/folder: cannot read"));
//! ```
mod array;
mod bytes;
mod cifar;
mod decode;
mod encoded;
mod files;
mod idx;
pub mod layout;
mod stl10;

pub use array::ImageArray;
pub use cifar::{read_cifar10, read_cifar100};
pub use decode::{ENDINGS, decode};
pub use encoded::EncodedImages;
pub use idx::read_idx;
pub use stl10::read_stl10;

use crate::ImageDataset;
use ssl_core::{Error, Result};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A part of a data set by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on; a folder or archive without splits is all of it.
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

/// How images in files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Channels that PNG, JPEG and their kind are decoded to: 3, or 1 for grey.
    pub channels: usize,
    /// Part of the images that may be unreadable, from 0 to 1.
    pub max_bad: f64,
    /// Encoded images are kept in memory once decoded until they take this many bytes; the others are decoded anew
    /// each time.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { channels: 3, max_bad: 0.01, cache_bytes: 1 << 30 }
    }
}

const LOOKED_FOR: &str = "looked for IDX files (train-images-idx3-ubyte[.gz], t10k-images-idx3-ubyte[.gz]), \
    CIFAR-10 (data_batch_1.bin), CIFAR-100 (train.bin), STL-10 (train_X.bin), and images (jpg, jpeg, png, webp, \
    bmp, gif) in the folder, in class folders, or in train/ and test/";

/// Opens the images at a path: a folder of IDX, CIFAR or STL-10 files, a folder of images with or without class
/// folders and splits, a tar of such a folder, or one IDX file.
///
/// # Errors
/// `Error::Io` when something cannot be read; `Error::Absent` when the split is missing; `Error::Data` when nothing
/// known is there or a file is truncated, corrupt or foreign; `Error::Config` when an option is out of range.
pub fn open(path: &Path, split: Split, options: &Options) -> Result<Arc<dyn ImageDataset>> {
    if !matches!(options.channels, 1 | 3) {
        return Err(Error::config("channels", format!("expected 1 or 3, got {}", options.channels)));
    }
    if !(0.0..=1.0).contains(&options.max_bad) {
        return Err(Error::config("max_bad", format!("expected 0 to 1, got {}", options.max_bad)));
    }
    let is_folder = fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir();
    let listing = if is_folder {
        if let Some(set) = open_binary(path, split)? {
            return Ok(set);
        }
        layout::folder(path, split)?
    } else {
        match kind_of(path) {
            Kind::Tar => layout::archive(path, split)?,
            Kind::Packed => {
                return Err(Error::data(
                    path,
                    "expected a tar that is not compressed (images are read by their offsets): inflate it first",
                ));
            }
            Kind::Other => return open_idx_file(path, split),
        }
    };
    let nothing = || match split {
        Split::Train => Error::data(path, format!("no images: {LOOKED_FOR}")),
        _ => Error::absent(path, format!("no {split} images: their folder holds none")),
    };
    let listing = listing.ok_or_else(nothing)?;
    Ok(Arc::new(EncodedImages::new(listing, options)?))
}

/// Archives are told by their names.
enum Kind {
    Tar,
    Packed,
    Other,
}

fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".tar"]) {
        Kind::Tar
    } else if ends(&[".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"]) {
        Kind::Packed
    } else {
        Kind::Other
    }
}

/// One file that is no archive: IDX images, with the labels beside them where they are.
fn open_idx_file(path: &Path, split: Split) -> Result<Arc<dyn ImageDataset>> {
    if split != Split::Train {
        return Err(Error::absent(path, format!("no {split} images: a single file is a training set")));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let labels = path.with_file_name(name.replace("images", "labels").replace("idx3", "idx1"));
    let labels = (labels != path && labels.is_file()).then_some(labels);
    Ok(Arc::new(read_idx(path, labels.as_deref())?))
}

/// The formats that are a few files of known names, in the folder itself or where their archives unpack to.
fn open_binary(path: &Path, split: Split) -> Result<Option<Arc<dyn ImageDataset>>> {
    let below = ["cifar-10-batches-bin", "cifar-100-binary", "stl10_binary", "raw"];
    let places: Vec<PathBuf> =
        std::iter::once(path.to_path_buf()).chain(below.iter().map(|name| path.join(name))).collect();
    for place in &places {
        if let Some(set) = open_split(place, split)? {
            return Ok(Some(set));
        }
    }
    let others = [Split::Train, Split::Test, Split::Unlabelled];
    let other = others.into_iter().find(|&other| places.iter().any(|place| has_split(place, other)));
    match other {
        Some(other) => Err(Error::absent(path, format!("no {split} images: found the {other} files alone"))),
        None => Ok(None),
    }
}

fn has_split(folder: &Path, split: Split) -> bool {
    let train = split == Split::Train;
    let labelled = split != Split::Unlabelled;
    idx::find(folder, idx_prefixes(split)).is_some()
        || labelled && (cifar::find10(folder, train).or_else(|| cifar::find100(folder, train))).is_some()
        || folder.join(stl10_name(split)).is_file()
}

fn open_split(folder: &Path, split: Split) -> Result<Option<Arc<dyn ImageDataset>>> {
    if let Some((images, labels)) = idx::find(folder, idx_prefixes(split)) {
        return Ok(Some(Arc::new(read_idx(&images, labels.as_deref())?)));
    }
    let train = split == Split::Train;
    if split != Split::Unlabelled {
        if let Some(files) = cifar::find10(folder, train) {
            return Ok(Some(Arc::new(read_cifar10(&files)?)));
        }
        if let Some(files) = cifar::find100(folder, train) {
            return Ok(Some(Arc::new(read_cifar100(&files)?)));
        }
    }
    let images = folder.join(stl10_name(split));
    if images.is_file() {
        let labels = images.with_file_name(stl10_name(split).replace('X', "y"));
        let labels = labels.is_file().then_some(labels);
        return Ok(Some(Arc::new(read_stl10(&images, labels.as_deref())?)));
    }
    Ok(None)
}

fn idx_prefixes(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &["train"],
        Split::Test => &["t10k", "test"],
        Split::Unlabelled => &["unlabelled", "unlabeled"],
    }
}

fn stl10_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train_X.bin",
        Split::Test => "test_X.bin",
        Split::Unlabelled => "unlabeled_X.bin",
    }
}
