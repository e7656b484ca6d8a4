//! A run of bytes of a file: a whole file, or one within a tar.
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use symphonia::core::io::MediaSource;

/// Where a recording lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, or the archive.
    pub(crate) path: Arc<Path>,
    /// Offset and length in bytes within an archive; none for a whole file.
    pub(crate) within: Option<(u64, u64)>,
}

impl Place {
    /// A whole file.
    pub(crate) fn file(path: &Path) -> Self {
        Place { path: path.into(), within: None }
    }

    pub(crate) fn open(&self) -> io::Result<Section> {
        match self.within {
            Some((start, length)) => Section::new(&self.path, start, Some(length)),
            None => Section::new(&self.path, 0, None),
        }
    }
}

/// A run of bytes that reads and seeks as a file of its own.
#[derive(Debug)]
pub(crate) struct Section {
    file: File,
    start: u64,
    length: u64,
    at: u64,
}

impl Section {
    fn new(path: &Path, start: u64, length: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        file.seek(SeekFrom::Start(start))?;
        let length = length.unwrap_or_else(|| metadata.len().saturating_sub(start));
        Ok(Section { file, start, length, at: 0 })
    }

    /// Bytes in it.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Where the next byte is read.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.at);
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let begin = at.and_then(|at| Some((at, self.start.checked_add(at)?)));
        let (at, begin) = begin.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.file.seek(SeekFrom::Start(begin))?;
        self.at = at;
        Ok(at)
    }
}

impl MediaSource for Section {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_bytes_reads_as_a_file_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"0123456789").unwrap();
        let mut section = Place { path: file.path().into(), within: Some((3, 4)) }.open().unwrap();
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), section.position(), section.length()), ("3456", 4, 4));
        assert_eq!(section.seek(SeekFrom::End(-1)).unwrap(), 3);
        assert_eq!(section.seek(SeekFrom::Current(-2)).unwrap(), 1);
        text.clear();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "456");
        assert!(section.seek(SeekFrom::Current(-9)).is_err());
        section.seek(SeekFrom::Start(99)).unwrap();
        assert_eq!(section.read(&mut [0]).unwrap(), 0);
    }
}
