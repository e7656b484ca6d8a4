//! The one error type of this crate. Each message is one line: what, where, what was expected, what to do.

use std::io;
use std::path::{Path, PathBuf};

/// What a function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A source that was tried, and why it did not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFailure {
    /// The source, in words.
    pub source: String,
    /// Why it did not serve, in one line.
    pub reason: String,
}

/// What can go wrong with a catalog or a store. The message leaves out what `source()` says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No data set of the catalog has this name.
    #[error("unknown data set `{name}`{}; `cargo xtask data list` shows them all", did_you_mean(.nearest))]
    UnknownDataset {
        /// The name that was asked for.
        name: String,
        /// The nearest name of the catalog, if one is near.
        nearest: Option<String>,
    },
    /// A catalog file is not what this version reads.
    #[error("catalog file {file}: {message}")]
    Catalog {
        /// The catalog file.
        file: String,
        /// What was expected and what came.
        message: String,
    },
    /// The data set is not in the store.
    #[error("{name} is not in {}: run `cargo xtask data fetch {name}`", root.display())]
    Absent {
        /// The data set.
        name: String,
        /// The store's folder.
        root: PathBuf,
    },
    /// A folder stands where the data set belongs, and no fetch made it.
    #[error(
        "{}: this folder was not made by a fetch (it has no manifest) and is left alone: move it away, or name it by path",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Every source failed.
    #[error("cannot fetch {name}: {}; {advice}", list_failures(.failures))]
    NoSource {
        /// The data set.
        name: String,
        /// Each source and why it failed, in the order tried.
        failures: Vec<SourceFailure>,
        /// What to do.
        advice: String,
    },
    /// The bytes are not those that the catalog or the manifest names.
    #[error("{what}: expected {expected}, got {found}")]
    Mismatch {
        /// The file or download.
        what: String,
        /// The size or hash it should have.
        expected: String,
        /// The size or hash it has.
        found: String,
    },
    /// An archive is corrupt, or holds what may not be unpacked.
    #[error("{archive}: {message}")]
    Archive {
        /// The archive.
        archive: String,
        /// Which entry, and what is wrong with it.
        message: String,
    },
    /// A server did not answer, or not with the file.
    #[error("{url}: {message}")]
    Http {
        /// The address.
        url: String,
        /// What happened.
        message: String,
        /// Whether the server could not be reached at all.
        unreachable: bool,
    },
    /// A package manager is missing or failed.
    #[error("{program}: {message}")]
    Command {
        /// The program, with its first arguments.
        program: String,
        /// Its last line of complaint.
        message: String,
    },
    /// A manifest in the store cannot be read.
    #[error("{}: {message}; remove the data set by `cargo xtask data remove {name}` and fetch it again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The data set.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The disk is full.
    #[error("{}: no space left on the disk; free some, or set SSL_DATA_DIR to a folder on a larger one", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// Makes an error of a system call on `path`; a full disk gets its own variant.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_path_buf() }
            }
            _ => Self::Io { path: path.to_path_buf(), action, source },
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

fn list_failures(failures: &[SourceFailure]) -> String {
    if failures.is_empty() {
        return "the catalog names no public source".to_owned();
    }
    failures.iter().map(|f| format!("{} ({})", f.source, f.reason)).collect::<Vec<_>>().join(", ")
}
