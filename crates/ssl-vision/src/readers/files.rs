//! Where encoded images lie: in files of a folder, or at offsets of a tar.
use ssl_core::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Encoded images by position.
#[derive(Debug)]
pub(crate) enum Files {
    /// One file each.
    Folder(Vec<PathBuf>),
    /// Runs of bytes in one file.
    Tar {
        /// The archive.
        path: PathBuf,
        /// The archive, open.
        file: File,
        /// The images in it.
        entries: Vec<Entry>,
    },
}

/// A file within an archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

impl Files {
    pub(crate) fn len(&self) -> usize {
        match self {
            Files::Folder(paths) => paths.len(),
            Files::Tar { entries, .. } => entries.len(),
        }
    }

    /// What the image is called in messages.
    pub(crate) fn name(&self, index: usize) -> String {
        match self {
            Files::Folder(paths) => paths.get(index).map(|path| path.display().to_string()),
            Files::Tar { path, entries, .. } => {
                entries.get(index).map(|entry| format!("{} in {}", entry.name, path.display()))
            }
        }
        .unwrap_or_default()
    }

    /// The encoded bytes, or why they cannot be read.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<u8>, String> {
        match self {
            Files::Folder(paths) => {
                let path = paths.get(index).ok_or("no such image")?;
                fs::read(path).map_err(|error| error.to_string())
            }
            Files::Tar { path, file, entries } => {
                let entry = entries.get(index).ok_or("no such image")?;
                read_at(file, path, entry).map_err(|error| error.to_string())
            }
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, _path: &Path, entry: &Entry) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; entry.length];
    file.read_exact_at(&mut bytes, entry.offset)?;
    Ok(bytes)
}

#[cfg(not(unix))]
fn read_at(_file: &File, path: &Path, entry: &Entry) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut own = File::open(path)?;
    own.seek(SeekFrom::Start(entry.offset))?;
    let mut bytes = vec![0; entry.length];
    own.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The images of an archive, by name; none of them is read.
///
/// # Errors
/// `Error::Io` when it cannot be read, `Error::Data` when it is no tar or breaks off.
pub(crate) fn index_tar(path: &Path, is_image: impl Fn(&Path) -> bool) -> Result<(File, Vec<Entry>)> {
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    let length = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut archive = tar::Archive::new(file.try_clone().map_err(Error::io(path, "read"))?);
    let broken = |error: std::io::Error| {
        Error::data(path, format!("expected a tar archive that is not compressed: {error}"))
    };
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
        if !entry.header().entry_type().is_file() || !is_image(&name) {
            continue;
        }
        entries.push(Entry { name: name.display().to_string(), offset, length: size as usize });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((file, entries))
}
