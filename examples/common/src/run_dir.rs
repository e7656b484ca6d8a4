//! A run's directory: made once, locked while a run writes into it, found again by `--resume`.
use crate::RunConfig;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use ssl_core::checkpoint::{self, CheckpointDir, remove_partials, write_atomically};
use ssl_core::optim::OptimizerConfig;
use ssl_core::{Method, named_tensors};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const CHECKPOINTS: &str = "checkpoints";

/// A directory that this process alone writes into.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    // Held, not read: the lock goes when the process does.
    _lock: File,
}

impl RunDir {
    /// A new directory: `out`, or `runs/<name>-<time>`.
    ///
    /// # Errors
    /// When it holds a run already, another process writes into it, or it cannot be made.
    pub fn create(out: Option<&Path>, name: &str) -> Result<Self> {
        let path = match out {
            Some(out) => out.to_path_buf(),
            None => unused(
                &Path::new("runs")
                    .join(format!("{name}-{}", jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S"))),
            ),
        };
        fs::create_dir_all(&path).with_context(|| format!("{}: cannot create", path.display()))?;
        let run = RunDir { _lock: lock(&path)?, path };
        if run.file("config.json").exists() {
            let path = run.path.display();
            bail!("{path}: holds a run already; go on with it by --resume {path}, or choose another --out");
        }
        Ok(run)
    }

    /// The directory of an earlier run; `last` is the newest of `runs/<name>-*`.
    ///
    /// # Errors
    /// When there is none, or another process writes into it.
    pub fn resume(which: &str, name: &str) -> Result<Self> {
        let path = if which == "last" { newest(Path::new("runs"), name)? } else { PathBuf::from(which) };
        if !path.join("config.json").is_file() {
            bail!("{}: expected the directory of a run, with its config.json", path.display());
        }
        Ok(RunDir { _lock: lock(&path)?, path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its checkpoints.
    pub fn checkpoints(&self, keep: usize) -> CheckpointDir {
        RunDir::checkpoints_of(&self.path, keep)
    }

    /// The checkpoints of the run in a directory.
    pub fn checkpoints_of(run: &Path, keep: usize) -> CheckpointDir {
        CheckpointDir::new(run.join(CHECKPOINTS), keep)
    }

    /// Loads the last checkpoint of the run in a directory into the method, which was trained by such an optimizer.
    ///
    /// # Errors
    /// When there is none, or it is another method's.
    pub fn load_last<M: Method + ?Sized>(run: &Path, method: &M, optimizer: &OptimizerConfig) -> Result<()> {
        let Some(last) = RunDir::checkpoints_of(run, 1).latest()? else {
            bail!("{}: no checkpoint in it yet", run.display());
        };
        let optimizer = optimizer.build(named_tensors(method))?;
        checkpoint::load(&last.path, method, optimizer.as_ref())?;
        Ok(())
    }

    /// Its configuration.
    ///
    /// # Errors
    /// As [`RunConfig::read`].
    pub fn config(&self) -> Result<RunConfig> {
        RunConfig::read(&self.file("config.json"))
    }

    /// Writes a JSON file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        let text = format!("{}\n", serde_json::to_string_pretty(value)?);
        Ok(write_atomically(&self.file(name), text.as_bytes())?)
    }
}

/// Takes the directory for this process, and clears away what a killed one left half written.
fn lock(path: &Path) -> Result<File> {
    let file = path.join(".lock");
    let lock = File::create(&file).with_context(|| format!("{}: cannot create", file.display()))?;
    match lock.try_lock() {
        Ok(()) => {
            remove_partials(path);
            remove_partials(&path.join(CHECKPOINTS));
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            bail!("{}: another run is writing here; wait for it, or choose another --out", path.display())
        }
        // Some network file systems have no locks; a run is worth more than the guard.
        Err(TryLockError::Error(_)) => Ok(lock),
    }
}

/// Runs that start within one second get a number.
fn unused(path: &Path) -> PathBuf {
    let numbered =
        |n: u32| if n == 1 { path.to_path_buf() } else { PathBuf::from(format!("{}-{n}", path.display())) };
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| path.to_path_buf())
}

fn newest(runs: &Path, name: &str) -> Result<PathBuf> {
    let prefix = format!("{name}-");
    let entries = fs::read_dir(runs).with_context(|| format!("{}: no runs here", runs.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("{}: no run of {name} to resume", runs.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_run_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("run");
        let first = RunDir::create(Some(&out), "m").unwrap();
        let message = RunDir::create(Some(&out), "m").unwrap_err().to_string();
        assert!(message.contains("another run is writing here"), "{message}");
        first.write_json("config.json", &serde_json::json!({})).unwrap();
        drop(first);
        let message = RunDir::create(Some(&out), "m").unwrap_err().to_string();
        assert!(message.contains("holds a run already; go on with it by --resume"), "{message}");
        RunDir::resume(out.to_str().unwrap(), "m").unwrap();
    }

    #[test]
    fn the_last_run_is_the_newest_of_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["a-20260101-000000", "a-20260102-000000", "b-20270101-000000", "a-20280101-000000"] {
            fs::create_dir(scratch.path().join(name)).unwrap();
            if !name.contains("2028") {
                fs::write(scratch.path().join(name).join("config.json"), "{}").unwrap();
            }
        }
        assert!(newest(scratch.path(), "a").unwrap().ends_with("a-20260102-000000"));
        assert!(newest(scratch.path(), "c").unwrap_err().to_string().ends_with("no run of c to resume"));
    }

    #[test]
    fn a_folder_without_a_run_cannot_be_resumed() {
        let scratch = tempfile::tempdir().unwrap();
        let message = RunDir::resume(scratch.path().to_str().unwrap(), "m").unwrap_err().to_string();
        assert!(message.ends_with("expected the directory of a run, with its config.json"), "{message}");
    }
}
