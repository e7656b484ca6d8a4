//! The store: a folder of data sets, each complete or absent.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::catalog::{Content, Dataset};
use crate::error::{Error, Result};
use crate::fetch::{Fetch, clear, in_parallel};
use crate::hash::hash_file;
use crate::manifest::{Entry, MANIFEST, Manifest};
use crate::progress::{Action, NoProgress, Progress};

/// The folder of the store in which unfinished work lies.
const WORK: &str = ".work";

/// The environment variable by which a user chooses the store's folder.
pub const DATA_DIR_VARIABLE: &str = "SSL_DATA_DIR";

/// The environment variable by which a user names a mirror; the caller reads it into [`FetchOptions::mirror`].
pub const MIRROR_VARIABLE: &str = "SSL_DATA_MIRROR";

/// Returns the store's folder: what `SSL_DATA_DIR` says, else `datasets/data` of the workspace.
///
/// This is the one function of the crate that reads the environment.
pub fn default_root(workspace_root: &Path) -> PathBuf {
    std::env::var_os(DATA_DIR_VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| workspace_root.join("datasets").join("data"), PathBuf::from)
}

/// How to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOptions {
    /// How many artifacts at once; 0 counts as 1.
    pub jobs: usize,
    /// A folder that is tried before all other sources. It holds the artifacts by their remote or final names,
    /// directly or in a folder named as the data set.
    pub mirror: Option<PathBuf>,
    /// Whether only the mirror may be used.
    pub offline: bool,
    /// How long to wait for a server to accept a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the next bytes of a server that was connected.
    pub stall_timeout: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            jobs: 4,
            mirror: None,
            offline: false,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// One file that is not as it was when it was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the data set's folder.
    pub path: String,
    /// The size or hash it should have.
    pub expected: String,
    /// The size or hash it has, or `missing`.
    pub found: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, found {}", self.path, self.expected, self.found)
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The data set.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Where it came from.
    pub sources: Vec<String>,
    /// Whether hashes of the catalog vouch for it; otherwise only those taken when it was fetched do.
    pub trusted: bool,
    /// How many files were hashed.
    pub files: usize,
    /// How many bytes were hashed.
    pub bytes: u64,
    /// The files that are missing or changed.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether every file is as it was when it was fetched.
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A folder of data sets.
///
/// A data set is the folder of its name. It appears there by one rename, after everything in it has been checked;
/// what is unfinished lies in `.work` until then, so that an interrupted fetch leaves nothing that looks complete,
/// and the next one goes on with what was downloaded.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Makes a store of a folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the data set is in the store.
    pub fn is_present(&self, dataset: &Dataset) -> bool {
        self.folder(dataset).join(MANIFEST).is_file()
    }

    /// Returns the folder of a data set that is in the store.
    ///
    /// # Errors
    /// [`Error::Absent`], which says how to fetch it; [`Error::Foreign`] if something else stands there.
    pub fn path(&self, dataset: &Dataset) -> Result<PathBuf> {
        let folder = self.folder(dataset);
        if self.is_present(dataset) {
            return Ok(folder);
        }
        self.expect_vacant(&folder)?;
        Err(self.absent(dataset))
    }

    /// Brings a data set into the store, and returns its folder; at once if it is there already.
    ///
    /// A data set of which files are missing or have another size is fetched anew. A second fetch of the same data
    /// set, in this process or another, waits for the first.
    ///
    /// # Errors
    /// [`Error::NoSource`] if every source failed; [`Error::DiskFull`] and [`Error::Io`] if the store cannot be
    /// written; [`Error::Foreign`] if something else stands where the data set belongs.
    pub fn fetch(
        &self,
        dataset: &Dataset,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let folder = self.folder(dataset);
        if self.is_plausible(dataset) {
            return Ok(folder);
        }
        self.expect_vacant(&folder)?;
        let _lock = self.lock(dataset, progress)?;
        if self.is_plausible(dataset) {
            return Ok(folder);
        }
        if self.is_present(dataset) {
            progress.note(&format!("{}: files are missing or cut; it is fetched anew", dataset.name));
        }
        let work = self.work(dataset);
        let fetch = Fetch { dataset, options, progress, work: &work };
        let published = fetch.run().and_then(|(tree, manifest)| {
            manifest.write(&tree)?;
            self.retire(&folder, &work)?;
            fs::rename(&tree, &folder).map_err(|e| Error::io(&folder, "create", e))
        });
        match published {
            Ok(()) => clear(&work)?,
            // A full disk needs the space back at once. What was downloaded stays for the next fetch.
            Err(_) => {
                ["tree", "package"].iter().try_for_each(|inner| clear(&work.join(inner)))?;
                for empty in [work.join("downloads"), work] {
                    let _ = fs::remove_dir(empty); // Stays where anything is in it.
                }
            }
        }
        published.map(|()| folder)
    }

    /// Hashes every file of a data set again and compares with the catalog, or with what was fetched where the
    /// catalog knows no hash of the file.
    ///
    /// # Errors
    /// [`Error::Absent`] if it is not in the store, [`Error::Manifest`] and [`Error::Io`] if it cannot be read. A
    /// missing or changed file is no error but a [`Problem`] of the report.
    pub fn verify(&self, dataset: &Dataset, progress: &dyn Progress) -> Result<Report> {
        let path = self.path(dataset)?;
        let manifest = Manifest::read(&path, &dataset.name)?;
        let bytes = manifest.files.iter().map(|entry| entry.bytes).sum();
        let position = AtomicU64::new(0);
        let advance = |bytes: u64| {
            let position = position.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress.advance(Action::Verify, &dataset.name, position);
        };
        progress.begin(Action::Verify, &dataset.name, Some(bytes));
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let checks = in_parallel(jobs, &manifest.files, |entry| check(dataset, &path, entry, &advance));
        progress.finish(Action::Verify, &dataset.name);
        let problems = checks.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Report {
            name: dataset.name.clone(),
            path,
            sources: manifest.sources,
            trusted: manifest.trusted,
            files: manifest.files.len(),
            bytes,
            problems,
        })
    }

    /// Removes a data set and what is left of unfinished fetches of it; returns the bytes freed.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is nothing of it; [`Error::Foreign`] if the folder was not made by a fetch;
    /// [`Error::Io`] if it cannot be removed.
    pub fn remove(&self, dataset: &Dataset) -> Result<u64> {
        let (folder, work) = (self.folder(dataset), self.work(dataset));
        if !self.is_present(dataset) {
            self.expect_vacant(&folder)?;
            if !work.exists() {
                return Err(self.absent(dataset));
            }
        }
        let _lock = self.lock(dataset, &NoProgress)?;
        self.retire(&folder, &work)?;
        let bytes = tree_bytes(&work);
        clear(&work)?;
        Ok(bytes)
    }

    fn folder(&self, dataset: &Dataset) -> PathBuf {
        self.root.join(&dataset.name)
    }

    /// Where unfinished work on the data set lies.
    fn work(&self, dataset: &Dataset) -> PathBuf {
        self.root.join(WORK).join(&dataset.name)
    }

    fn absent(&self, dataset: &Dataset) -> Error {
        Error::Absent { name: dataset.name.clone(), root: self.root.clone() }
    }

    /// Whether the data set is there with all its files, going by their sizes.
    fn is_plausible(&self, dataset: &Dataset) -> bool {
        let folder = self.folder(dataset);
        Manifest::read(&folder, &dataset.name).is_ok_and(|manifest| manifest.is_plausible(&folder))
    }

    /// Checks that what stands in the place of a data set may be replaced: nothing, an empty folder, or a fetched
    /// data set.
    fn expect_vacant(&self, folder: &Path) -> Result<()> {
        let is_vacant = match fs::symlink_metadata(folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => true,
            Err(e) => return Err(Error::io(folder, "read", e)),
            Ok(m) if m.is_dir() => {
                let mut entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
                folder.join(MANIFEST).is_file() || entries.next().is_none()
            }
            Ok(_) => false,
        };
        if is_vacant { Ok(()) } else { Err(Error::Foreign { path: folder.to_path_buf() }) }
    }

    /// Moves a data set out of the way, if one is there, so that it is gone at once and not file by file.
    fn retire(&self, folder: &Path, work: &Path) -> Result<()> {
        self.expect_vacant(folder)?;
        if !folder.exists() {
            return Ok(());
        }
        fs::create_dir_all(work).map_err(|e| Error::io(work, "create", e))?;
        let old = work.join("old");
        clear(&old)?;
        fs::rename(folder, &old).map_err(|e| Error::io(folder, "remove", e))
    }

    /// Keeps other fetches of the data set waiting until the file is dropped; the system drops it with the process.
    fn lock(&self, dataset: &Dataset, progress: &dyn Progress) -> Result<File> {
        let folder = self.root.join(WORK);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
        let path = folder.join(format!("{}.lock", dataset.name));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "create", e))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("{}: waiting for another process that works on it", dataset.name));
            }
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                progress.note(&format!(
                    "{}: this disk has no file locks; do not fetch it twice at once",
                    dataset.name
                ));
                return Ok(file);
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, "lock", e)),
        }
        file.lock().map_err(|e| Error::io(&path, "lock", e))?;
        Ok(file)
    }
}

/// Compares a file with the catalog's hash of it, else with the manifest's.
fn check(dataset: &Dataset, folder: &Path, entry: &Entry, advance: &dyn Fn(u64)) -> Result<Option<Problem>> {
    let listed = dataset.artifacts.iter().find_map(|artifact| match &artifact.content {
        Content::File { path, sha256, .. } if *path == entry.path => sha256.as_deref(),
        _ => None,
    });
    let expected = listed.unwrap_or(&entry.sha256);
    let problem =
        |expected: String, found: String| Ok(Some(Problem { path: entry.path.clone(), expected, found }));
    let path = folder.join(&entry.path);
    match fs::metadata(&path) {
        Ok(m) if m.is_file() && m.len() == entry.bytes => {}
        Ok(m) if m.is_file() => {
            return problem(format!("{} bytes", entry.bytes), format!("{} bytes", m.len()));
        }
        Ok(_) => return problem("a file".to_owned(), "something else".to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return problem(format!("{} bytes", entry.bytes), "missing".to_owned());
        }
        Err(e) => return Err(Error::io(&path, "read", e)),
    }
    let found = hash_file(&path, advance)?.sha256;
    if found == expected {
        return Ok(None);
    }
    problem(format!("sha256 {expected}"), found)
}

fn tree_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(std::result::Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => tree_bytes(&entry.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
