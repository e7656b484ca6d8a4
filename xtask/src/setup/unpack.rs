//! Takes chosen files out of a zip archive, which a wheel is too.
use super::progress;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use zip::ZipArchive;

/// Writes each file for whose name `place` gives a path, relative to `dir`; returns how many.
pub(super) fn unpack(archive: &Path, dir: &Path, place: impl Fn(&str) -> Option<PathBuf>) -> Result<usize> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut zip =
        ZipArchive::new(BufReader::new(file)).with_context(|| format!("{name} is no zip archive"))?;
    let bar = progress::spinner(&format!("unpacking {name}"));
    let mut count = 0;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).with_context(|| format!("{name}: entry {index}"))?;
        if !entry.is_file() {
            continue;
        }
        let entry_name = entry.name()?.into_owned();
        let Some(relative) = place(&entry_name) else { continue };
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("{name}: entry {entry_name} would leave the folder");
        }
        let path = dir.join(relative);
        let written = write(&mut entry, &path)
            .with_context(|| format!("cannot unpack {entry_name} of {name} to {}", path.display()))?;
        bar.inc(written);
        count += 1;
    }
    bar.finish_and_clear();
    Ok(count)
}

fn write(from: &mut impl io::Read, path: &Path) -> io::Result<u64> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create_new(path)?;
    let written = io::copy(from, &mut file)?;
    // Thousands of headers are left to `settle`; a library is worth a wait of its own.
    if written > 1 << 20 {
        file.sync_all()?;
    }
    Ok(written)
}

/// Asks that everything written so far reaches the disk. Where there is no `sync`, the system will see to it.
pub(super) fn settle(dir: &Path) {
    let _ = Command::new("sync").arg("-f").arg(dir).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive(path: &Path, names: &[&str]) -> Result<()> {
        let mut zip = ZipWriter::new(File::create(path)?);
        for name in names {
            zip.start_file(*name, SimpleFileOptions::default())?;
            zip.write_all(name.as_bytes())?;
        }
        zip.finish()?;
        Ok(())
    }

    #[test]
    fn only_what_is_asked_for_is_written() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let zip = dir.path().join("a.whl");
        archive(&zip, &["torch/lib/a.so", "torch/test/b"])?;
        let count = unpack(&zip, dir.path(), |name| name.strip_prefix("torch/lib/").map(PathBuf::from))?;
        assert_eq!(count, 1);
        assert_eq!(fs::read_to_string(dir.path().join("a.so"))?, "torch/lib/a.so");
        Ok(())
    }

    #[test]
    fn no_entry_leaves_the_folder() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let zip = dir.path().join("a.whl");
        archive(&zip, &["torch/../../evil"])?;
        let error = unpack(&zip, &dir.path().join("in"), |name| Some(PathBuf::from(name))).unwrap_err();
        assert!(error.to_string().contains("would leave the folder"), "{error:#}");
        assert!(!dir.path().join("evil").exists());
        Ok(())
    }

    #[test]
    fn a_cut_archive_is_an_error() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let zip = dir.path().join("a.whl");
        archive(&zip, &["a", "b"])?;
        let bytes = fs::read(&zip)?;
        fs::write(&zip, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        let error = unpack(&zip, dir.path(), |name| Some(PathBuf::from(name))).unwrap_err();
        assert!(format!("{error:#}").contains("a.whl is no zip archive"), "{error:#}");
        Ok(())
    }
}
