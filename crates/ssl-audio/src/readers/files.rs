//! Which recordings belong to a set, and the recordings in a tar.
use super::section::Place;
use ssl_core::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A recording, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// Its name within an archive; none for a whole file.
    pub(crate) inner: Option<String>,
    /// From where on it counts, in seconds.
    pub(crate) start: f64,
    /// How much of it counts, in seconds; none for all that is left.
    pub(crate) seconds: Option<f64>,
}

impl Entry {
    /// A whole file.
    pub(crate) fn file(path: &Path) -> Self {
        Entry { place: Place::file(path), inner: None, start: 0.0, seconds: None }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        let path = self.place.path.display();
        match &self.inner {
            Some(inner) => format!("{inner} in {path}"),
            None => path.to_string(),
        }
    }
}

/// Which recordings of a source belong to the set, and their classes.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Where they come from, for messages.
    pub(crate) path: PathBuf,
    pub(crate) entries: Vec<Entry>,
    pub(crate) labels: Option<Vec<i64>>,
    pub(crate) class_names: Vec<String>,
}

/// The recordings of an archive, by name; none of them is read.
///
/// # Errors
/// `Error::Io` when it cannot be read, `Error::Data` when it is no tar or breaks off.
pub(crate) fn index_tar(path: &Path, is_sound: impl Fn(&Path) -> bool) -> Result<Vec<(PathBuf, Entry)>> {
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    let length = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut archive = tar::Archive::new(file);
    let broken = |error: std::io::Error| {
        Error::data(path, format!("expected a tar archive that is not compressed: {error}"))
    };
    let shared: Arc<Path> = path.into();
    let mut entries = Vec::new();
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Error::data(
                path,
                format!("the archive is truncated: {} ends behind byte {length}, its last", name.display()),
            ));
        }
        if !entry.header().entry_type().is_file() || !is_sound(&name) {
            continue;
        }
        let place = Place { path: Arc::clone(&shared), within: Some((offset, size)) };
        let inner = Some(name.display().to_string());
        entries.push((name, Entry { place, inner, start: 0.0, seconds: None }));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}
