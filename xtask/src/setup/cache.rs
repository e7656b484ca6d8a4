//! The folder, shared by all checkouts of a user, where libtorch is set up.
use super::libtorch::{VERSION, Variant};
use anyhow::{Context, Result};
use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/ssl-rs`, or `~/.cache/ssl-rs`.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    root: PathBuf,
}

/// Held while the cache is written to; released when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Cache {
    /// The cache of the user who runs this.
    pub(super) fn of_user() -> Result<Self> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let base = base.context("neither XDG_CACHE_HOME nor HOME is set to a folder")?;
        Ok(Self { root: base.join("ssl-rs") })
    }

    /// The cache in `root`.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Where a variant of libtorch stands when it is set up.
    pub(super) fn libtorch(&self, variant: Variant) -> PathBuf {
        self.root.join(format!("libtorch-{VERSION}-{variant}"))
    }

    /// Where links to a libtorch stand that lies elsewhere.
    pub(super) fn facade(&self, key: &str) -> PathBuf {
        self.root.join(format!("libtorch-{VERSION}-links-{key}"))
    }

    /// Where files stay until they are unpacked, so that a set-up that broke off can go on.
    pub(super) fn downloads(&self) -> Result<PathBuf> {
        make(self.root.join("downloads"))
    }

    /// A new folder for work in progress, on the same file system as its goal.
    pub(super) fn workplace(&self) -> Result<tempfile::TempDir> {
        make(self.root.clone())?;
        tempfile::Builder::new()
            .prefix(WORKPLACE)
            .tempdir_in(&self.root)
            .with_context(|| format!("cannot write to {}", self.root.display()))
    }

    /// Waits until no other set-up writes here.
    pub(super) fn lock(&self) -> Result<Lock> {
        let path = make(self.root.clone())?.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}; {ELSEWHERE}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another set-up to finish");
                file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        Ok(Lock { _file: file })
    }

    /// Removes what set-ups that were killed have left. Needs the lock.
    pub(super) fn clean(&self) -> Result<()> {
        for entry in fs::read_dir(&self.root)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORKPLACE) {
                // The pip of a set-up that was killed may live on and write there; the next set-up cleans again.
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    eprintln!("warning: cannot remove {}: {error}", entry.path().display());
                }
            }
        }
        Ok(())
    }

    /// Removes the downloads, which are of no more use. Needs the lock.
    pub(super) fn forget_downloads(&self) -> Result<()> {
        remove(&self.root.join("downloads"))
    }
}

const WORKPLACE: &str = "unfinished-";
pub(super) const ELSEWHERE: &str = "XDG_CACHE_HOME chooses another place";

/// Puts the finished folder `from` in the place of `target`, which may exist.
pub(super) fn install(from: &Path, target: &Path) -> Result<()> {
    let mut old = target.as_os_str().to_owned();
    old.push(".old");
    let old = Path::new(&old);
    remove(old)?;
    if target.symlink_metadata().is_ok() {
        fs::rename(target, old).with_context(|| format!("cannot move {} away", target.display()))?;
    }
    fs::rename(from, target).with_context(|| format!("cannot put {} in place", target.display()))?;
    if let Some(parent) = target.parent() {
        File::open(parent)?.sync_all()?;
    }
    remove(old)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn make(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the folder {}; {ELSEWHERE}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_folder_takes_the_place_of_a_broken_one() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path());
        let target = cache.libtorch(Variant::Cpu);
        fs::create_dir_all(target.join("broken"))?;
        let work = cache.workplace()?;
        fs::create_dir_all(work.path().join("new/whole"))?;
        install(&work.path().join("new"), &target)?;
        assert!(target.join("whole").is_dir() && !target.join("broken").exists());
        Ok(())
    }

    #[test]
    fn leftovers_are_removed_and_downloads_are_kept() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path());
        fs::write(cache.downloads()?.join("a.whl"), "half")?;
        let left = cache.workplace()?.keep();
        let _lock = cache.lock()?;
        cache.clean()?;
        assert!(!left.exists() && cache.downloads()?.join("a.whl").exists());
        cache.forget_downloads()?;
        assert!(!dir.path().join("downloads").exists());
        Ok(())
    }
}
