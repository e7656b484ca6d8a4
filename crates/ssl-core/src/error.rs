//! The one error type of the workspace.
use std::path::PathBuf;
use tch::TchError;

/// What can go wrong anywhere in the workspace. Each message is one line: what, expected, found, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error("torch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// A feature of libtorch that `ssl-torch` binds failed or is missing.
    #[error(transparent)]
    Runtime(#[from] ssl_torch::Error),
    /// A tensor does not have the documented shape.
    #[error("{what}: expected {expected}, got {got:?}")]
    Shape {
        /// The argument, in words.
        what: String,
        /// Its documented shape.
        expected: String,
        /// The shape that came.
        got: Vec<i64>,
    },
    /// A configuration value is out of range.
    #[error("{name}: {message}")]
    Config {
        /// The field or flag.
        name: String,
        /// What was expected and what came.
        message: String,
    },
    /// A data set lacks the part that was asked for; what it has is sound.
    #[error("{}: {message}", path.display())]
    Absent {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for, what was found.
        message: String,
    },
    /// A data file is missing, truncated, foreign or corrupt.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// Where in it, what was expected, what was found.
        message: String,
    },
    /// A checkpoint is not what the run needs.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {source}{}", path.display(), advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The loss or a parameter stopped being finite.
    #[error("{what} at step {step}: lower the learning rate, clip the gradient or use --precision fp32")]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// What is not finite: `loss is NaN`.
        what: String,
    },
    /// The representation collapsed and the run was told to stop on that.
    #[error("representation collapsed at step {step}: {message}")]
    Collapsed {
        /// The step, from 0.
        step: u64,
        /// Which measure fell under which floor.
        message: String,
    },
}

/// A result with the workspace's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An out-of-range configuration value: the field's name, what was expected and what came.
    pub fn config(name: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { name: name.into(), message: message.into() }
    }

    /// A faulty data file: where in it, what was expected, what was found.
    pub fn data(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Data { path: path.into(), message: message.into() }
    }

    /// A part that a data set does not have: what was looked for, what was found.
    pub fn absent(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Absent { path: path.into(), message: message.into() }
    }

    /// A loss that stopped being finite.
    pub(crate) fn diverged(step: u64, loss: f64) -> Self {
        Error::Diverged { step, what: format!("loss is {loss}") }
    }

    /// A checkpoint that does not fit.
    pub fn checkpoint(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.into(), message: message.into() }
    }

    /// A closure for `map_err` on input and output.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }
}

/// What to do about a disk that takes no more.
fn advice(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match source.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => ": free some space there, or raise its limit",
        _ => "",
    }
}

/// libtorch appends some thirty lines of C++ frames to each message; the first says it all.
fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("Internal torch error: ").unwrap_or(line).to_string()
}
