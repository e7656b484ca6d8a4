//! The manifest: what a fetch wrote, with sizes and hashes. A data set with a manifest is complete.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::path::relative_path;

/// The manifest's file name in a data set's folder.
pub(crate) const MANIFEST: &str = ".manifest.json";

/// The version of the manifest's layout.
const VERSION: u32 = 1;

/// What a fetch wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) dataset: String,
    /// Where it came from, in words.
    pub(crate) sources: Vec<String>,
    /// Whether hashes of the catalog vouched for every byte.
    pub(crate) trusted: bool,
    pub(crate) files: Vec<Entry>,
}

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Relative to the data set's folder, with forward slashes.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn new(dataset: &str, sources: Vec<String>, trusted: bool, mut files: Vec<Entry>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { version: VERSION, dataset: dataset.to_owned(), sources, trusted, files }
    }

    /// Reads the manifest of the data set `name` in `folder`.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let wrong = |message: String| Error::Manifest { path: path.clone(), name: name.to_owned(), message };
        let text = fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if manifest.version != VERSION {
            return Err(wrong(format!("expected version {VERSION}, got {}", manifest.version)));
        }
        if manifest.dataset != name {
            return Err(wrong(format!("expected the data set `{name}`, got `{}`", manifest.dataset)));
        }
        for entry in &manifest.files {
            relative_path(&entry.path).map_err(&wrong)?;
        }
        Ok(manifest)
    }

    /// Writes the manifest into `folder`, and to the disk.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let wrong =
            |message: String| Error::Manifest { path: path.clone(), name: self.dataset.clone(), message };
        let text = serde_json::to_vec(self).map_err(|e| wrong(e.to_string()))?;
        let mut file = File::create(&path).map_err(|e| Error::io(&path, "create", e))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(|e| Error::io(&path, "write", e))
    }

    /// Whether every file is there and has its size. Does not read them.
    pub(crate) fn is_plausible(&self, folder: &Path) -> bool {
        self.files.iter().all(|entry| {
            fs::metadata(folder.join(&entry.path)).is_ok_and(|m| m.is_file() && m.len() == entry.bytes)
        })
    }
}
