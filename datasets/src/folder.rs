//! Folders of packages and mirrors: all their files, known by one hash.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hash::{hash_text, write_hashed};
use crate::manifest::Entry;
use crate::path::slashes;

/// A folder to take files from.
pub(crate) struct Folder<'a> {
    /// Where it is.
    pub(crate) from: &'a Path,
    /// How many files are to be taken.
    pub(crate) files: u64,
    /// The size of these, in bytes.
    pub(crate) bytes: u64,
    /// The hash of the list of these.
    pub(crate) sha256: &'a str,
    /// Which files are to be taken, by their paths from the folder; the others are passed over.
    pub(crate) belongs: &'a dyn Fn(&str) -> bool,
}

impl Folder<'_> {
    /// Copies the files into the new folder `to`, and checks that they are those expected.
    pub(crate) fn copy(&self, to: &Path) -> Result<Vec<Entry>> {
        let mut paths = Vec::new();
        walk(self.from, Path::new(""), &mut paths)?;
        paths.retain(|path| (self.belongs)(path));
        paths.sort();
        let found = paths.len() as u64;
        if found != self.files {
            return Err(self.mismatch(format!("{} files", self.files), found.to_string()));
        }
        fs::create_dir_all(to).map_err(|e| Error::io(to, "create", e))?;
        let mut left = self.bytes;
        let mut entries = Vec::new();
        for path in paths {
            let entry = self.copy_file(path, to, left)?;
            left -= entry.bytes;
            entries.push(entry);
        }
        if left > 0 {
            return Err(self.mismatch(format!("{} bytes", self.bytes), (self.bytes - left).to_string()));
        }
        let list: String =
            entries.iter().map(|entry| format!("{}  {}\n", entry.sha256, entry.path)).collect();
        let found = hash_text(&list);
        if found != self.sha256 {
            return Err(self.mismatch(format!("sha256 {} of its list of files", self.sha256), found));
        }
        Ok(entries)
    }

    /// Copies one file of at most `left` bytes.
    fn copy_file(&self, path: String, to: &Path, left: u64) -> Result<Entry> {
        let (from, to) = (self.from.join(&path), to.join(&path));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
        }
        let unreadable = |e| Error::io(&from, "read", e);
        let mut file = File::open(&from).map_err(unreadable)?;
        let too_big = || self.mismatch(format!("{} bytes", self.bytes), "more".to_owned());
        let found = write_hashed(&mut file, &to, left, unreadable, too_big)?;
        Ok(Entry { path, bytes: found.bytes, sha256: found.sha256 })
    }

    fn mismatch(&self, expected: String, found: String) -> Error {
        Error::Mismatch { what: self.from.display().to_string(), expected, found }
    }
}

/// Lists the files below `root/inner`, by their paths from `root`; links are passed over.
fn walk(root: &Path, inner: &Path, paths: &mut Vec<String>) -> Result<()> {
    let folder = root.join(inner);
    let unreadable = |e| Error::io(&folder, "read", e);
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let kind = entry.file_type().map_err(unreadable)?;
        let path: PathBuf = inner.join(entry.file_name());
        if kind.is_dir() {
            walk(root, &path, paths)?;
        } else if kind.is_file() {
            paths.push(slashes(&path));
        }
    }
    Ok(())
}

/// Moves what a folder holds into another, which may exist.
pub(crate) fn merge(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::io(to, "create", e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::io(from, "read", e))? {
        let entry = entry.map_err(|e| Error::io(from, "read", e))?;
        let target = to.join(entry.file_name());
        if target.is_dir() && entry.path().is_dir() {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), &target).map_err(|e| Error::io(&target, "create", e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    /// Copies all but `left-out`.
    fn copy(from: &Path, files: u64, bytes: u64, sha256: &str) -> Result<Vec<Entry>> {
        let to = tempfile::tempdir().unwrap();
        let belongs = |path: &str| path != "left-out";
        let entries = Folder { from, files, bytes, sha256, belongs: &belongs }.copy(&to.path().join("to"))?;
        for entry in &entries {
            assert_eq!(fs::read(to.path().join("to").join(&entry.path)).unwrap().len() as u64, entry.bytes);
        }
        Ok(entries)
    }

    #[test]
    fn the_hash_is_that_of_the_list_which_sha256sum_writes() {
        // mkdir b; printf one > b/a; printf two > b.c; printf three > Z
        // find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum
        let hash = "0f11f021b6591e83ee13e375a1e2ba8743525926a90b821955b7b31ecc6d278e";
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("b/a", "one"), ("b.c", "two"), ("Z", "three"), ("left-out", "four")]);
        let entries = copy(folder.path(), 3, 11, hash).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["Z", "b.c", "b/a"]);

        for (files, bytes, sha256, reason) in [
            (4, 11, hash, "expected 4 files, got 3"),
            (3, 10, hash, "expected 10 bytes, got more"),
            (3, 12, hash, "expected 12 bytes, got 11"),
            (
                3,
                11,
                &"0".repeat(64),
                "of its list of files, got 0f11f021b6591e83ee13e375a1e2ba8743525926a90b821955b7b31ecc6d278e",
            ),
        ] {
            let message = copy(folder.path(), files, bytes, sha256).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
        fs::rename(folder.path().join("b.c"), folder.path().join("b.d")).unwrap();
        assert!(copy(folder.path(), 3, 11, hash).is_err(), "names count");
    }
}
