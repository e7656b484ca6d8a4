//! Archives are unpacked here and nowhere else: no path outside, no links, no more than was declared.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::catalog::Packing;
use crate::deb;
use crate::error::{Error, Result};
use crate::hash::{Digested, write_hashed};
use crate::inflate::{corrupt, open_inflated};
use crate::path::{relative_path, slashes};

/// What an archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes over all files.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) entries: u64,
}

/// A file that was unpacked: its path relative to the target, with forward slashes, and what it holds.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    pub(crate) path: String,
    pub(crate) content: Digested,
}

/// An archive to unpack.
pub(crate) struct Unpack<'a> {
    /// The archive's file.
    pub(crate) archive: &'a Path,
    /// How it is packed.
    pub(crate) packing: Packing,
    /// The existing folder to unpack into.
    pub(crate) target: &'a Path,
    /// What it may unpack to.
    pub(crate) limits: Limits,
    /// Which paths to unpack; the others are passed over.
    pub(crate) select: &'a dyn Fn(&str) -> bool,
    /// Is called with the bytes of each file that is done.
    pub(crate) advance: &'a dyn Fn(u64),
}

impl Unpack<'_> {
    /// Unpacks a tar or zip archive, and returns its files in the archive's order.
    pub(crate) fn run(&self) -> Result<Vec<Unpacked>> {
        match self.packing {
            Packing::Zip => self.unzip(),
            Packing::Plain | Packing::Gzip => {
                Err(self.wrong("expected an archive, got a single file".to_owned()))
            }
            _ => self.untar(open_inflated(self.archive, self.packing)?),
        }
    }

    /// Unpacks a Debian package.
    pub(crate) fn run_deb(&self) -> Result<Vec<Unpacked>> {
        self.untar(deb::open_data(self.archive)?)
    }

    fn untar(&self, stream: Box<dyn Read>) -> Result<Vec<Unpacked>> {
        // Headers are read into memory by `tar`; this keeps a forged one from filling it.
        let headers = self.limits.entries.saturating_mul(4096).saturating_add(1 << 20);
        let stream = stream.take(self.limits.bytes.saturating_add(headers));
        let mut archive = tar::Archive::new(stream);
        let mut done = Done::new(self.limits);
        let unreadable = |e: std::io::Error| corrupt(self.archive, &e.to_string());
        for entry in archive.entries().map_err(unreadable)? {
            let mut entry = entry.map_err(unreadable)?;
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|_| self.wrong("expected file names in UTF-8".to_owned()))?;
            let kind = entry.header().entry_type();
            if kind.is_pax_global_extensions() || !(self.select)(name.trim_start_matches("./")) {
                continue;
            }
            match kind {
                tar::EntryType::Directory => self.folder(&name, &mut done)?,
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let bytes = entry.size();
                    self.file(&name, bytes, &mut entry, &mut done)?;
                }
                _ => return Err(self.not_plain(&name)),
            }
        }
        Ok(done.files)
    }

    fn unzip(&self) -> Result<Vec<Unpacked>> {
        let file = File::open(self.archive).map_err(|e| Error::io(self.archive, "read", e))?;
        let unreadable = |e: zip::result::ZipError| corrupt(self.archive, &e.to_string());
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(unreadable)?;
        let mut done = Done::new(self.limits);
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(unreadable)?;
            let name = entry.name().map_err(unreadable)?.into_owned();
            if !(self.select)(&name) {
                continue;
            }
            // The upper bits of the Unix mode tell the kind; archives made elsewhere have none.
            let is_plain = entry.unix_mode().is_none_or(|mode| matches!(mode >> 12, 0 | 0o04 | 0o10));
            if !is_plain {
                return Err(self.not_plain(&name));
            } else if entry.is_dir() {
                self.folder(&name, &mut done)?;
            } else {
                let bytes = entry.size();
                self.file(&name, bytes, &mut entry, &mut done)?;
            }
        }
        Ok(done.files)
    }

    fn folder(&self, name: &str, done: &mut Done) -> Result<()> {
        self.count(done)?;
        if name.split('/').all(|part| part.is_empty() || part == ".") && !name.starts_with('/') {
            return Ok(()); // The target itself.
        }
        let path = self.target.join(relative_path(name).map_err(|message| self.wrong(message))?);
        self.create_folder(&path)
    }

    fn file(&self, name: &str, bytes: u64, from: &mut dyn Read, done: &mut Done) -> Result<()> {
        self.count(done)?;
        if bytes > done.bytes_left {
            let limit = self.limits.bytes;
            return Err(self.wrong(format!(
                "unpacks to more than the {limit} bytes that the catalog allows, at `{name}`"
            )));
        }
        let relative = relative_path(name).map_err(|message| self.wrong(message))?;
        let path = self.target.join(&relative);
        if let Some(parent) = path.parent().filter(|parent| *parent != done.folder) {
            self.create_folder(parent)?;
            done.folder = parent.to_path_buf();
        }
        if path.exists() {
            return Err(self.wrong(format!("holds `{name}` twice")));
        }
        let unreadable = |e: std::io::Error| corrupt(self.archive, &e.to_string());
        let too_long =
            || corrupt(self.archive, &format!("`{name}` is longer than the {bytes} bytes it declares"));
        let content = write_hashed(from, &path, bytes, unreadable, too_long)?;
        if content.bytes != bytes {
            return Err(corrupt(
                self.archive,
                &format!("`{name}` ends after {} of {bytes} bytes", content.bytes),
            ));
        }
        done.bytes_left -= content.bytes;
        (self.advance)(content.bytes);
        done.files.push(Unpacked { path: slashes(&relative), content });
        Ok(())
    }

    fn count(&self, done: &mut Done) -> Result<()> {
        done.entries += 1;
        if done.entries > self.limits.entries {
            let limit = self.limits.entries;
            return Err(self.wrong(format!("holds more than the {limit} entries that the catalog allows")));
        }
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
                self.wrong(format!("holds `{}` as a file and as a folder", path.display()))
            }
            _ => Error::io(path, "create", e),
        })
    }

    fn not_plain(&self, name: &str) -> Error {
        self.wrong(format!(
            "`{}` is neither a file nor a folder; links are not unpacked",
            name.escape_debug()
        ))
    }

    fn wrong(&self, message: String) -> Error {
        Error::Archive { archive: self.archive.display().to_string(), message }
    }
}

/// What has been unpacked so far, and what may still be.
struct Done {
    files: Vec<Unpacked>,
    entries: u64,
    bytes_left: u64,
    /// The folder of the last file, which exists.
    folder: PathBuf,
}

impl Done {
    fn new(limits: Limits) -> Self {
        Self { files: Vec::new(), entries: 0, bytes_left: limits.bytes, folder: PathBuf::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn unpack(archive: &Path, packing: Packing, target: &Path, limits: Limits) -> Result<Vec<Unpacked>> {
        Unpack { archive, packing, target, limits, select: &|_| true, advance: &|_| {} }.run()
    }

    const WIDE: Limits = Limits { bytes: 1 << 20, entries: 100 };

    /// Writes a tar with one entry whose name is put into the header as it is.
    fn tar_with(name: &str, kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    fn zip_with(name: &str, content: &[u8]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn try_bytes(
        bytes: &[u8],
        packing: Packing,
        limits: Limits,
    ) -> (tempfile::TempDir, Result<Vec<Unpacked>>) {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("archive");
        fs::write(&archive, bytes).unwrap();
        let target = folder.path().join("inner/target");
        fs::create_dir_all(&target).unwrap();
        let result = unpack(&archive, packing, &target, limits);
        (folder, result)
    }

    /// Asserts that nothing but the archive and the target's own tree came to be.
    fn assert_nothing_outside(folder: &Path) {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["archive", "inner"]);
        assert_eq!(fs::read_dir(folder.join("inner")).unwrap().count(), 1);
    }

    #[test]
    fn files_and_folders_arrive_with_their_hashes() {
        let (folder, files) =
            try_bytes(&tar_with("./a//b.txt", tar::EntryType::Regular, b"hello"), Packing::Tar, WIDE);
        let files = files.unwrap();
        assert_eq!(files[0].path, "a/b.txt");
        assert_eq!(
            files[0].content.sha256,
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(fs::read(folder.path().join("inner/target/a/b.txt")).unwrap(), b"hello");
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for name in ["../evil", "a/../../evil", "/tmp/evil", "a/..", "..\\evil", "C:evil"] {
            let (folder, result) =
                try_bytes(&tar_with(name, tar::EntryType::Regular, b"x"), Packing::Tar, WIDE);
            assert!(matches!(result, Err(Error::Archive { .. })), "tar {name}: {result:?}");
            assert_nothing_outside(folder.path());
            let (folder, result) = try_bytes(&zip_with(name, b"x"), Packing::Zip, WIDE);
            assert!(matches!(result, Err(Error::Archive { .. })), "zip {name}: {result:?}");
            assert_nothing_outside(folder.path());
        }
        let (folder, result) =
            try_bytes(&tar_with("../evil/", tar::EntryType::Directory, b""), Packing::Tar, WIDE);
        assert!(result.is_err());
        assert_nothing_outside(folder.path());
    }

    #[test]
    fn links_and_devices_are_refused() {
        for kind in [
            tar::EntryType::Symlink,
            tar::EntryType::Link,
            tar::EntryType::Fifo,
            tar::EntryType::Char,
            tar::EntryType::Block,
        ] {
            let (_folder, result) = try_bytes(&tar_with("link", kind, b""), Packing::Tar, WIDE);
            assert!(result.unwrap_err().to_string().contains("links are not unpacked"), "{kind:?}");
        }
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        writer.add_symlink("link", "/etc/passwd", zip::write::SimpleFileOptions::default()).unwrap();
        let (_folder, result) = try_bytes(&writer.finish().unwrap().into_inner(), Packing::Zip, WIDE);
        assert!(result.unwrap_err().to_string().contains("links are not unpacked"));
    }

    #[test]
    fn bombs_stop_at_the_declared_size() {
        let narrow = Limits { bytes: 1000, entries: 100 };
        let zeros = vec![0; 500_000];
        for (bytes, packing) in [
            (tar_with("zeros", tar::EntryType::Regular, &zeros), Packing::Tar),
            (zip_with("zeros", &zeros), Packing::Zip),
        ] {
            let (folder, result) = try_bytes(&bytes, packing, narrow);
            let message = result.unwrap_err().to_string();
            assert!(message.contains("more than the 1000 bytes"), "{message}");
            assert!(!folder.path().join("inner/target/zeros").exists());
        }
    }

    #[test]
    fn a_zip_that_lies_about_its_sizes_writes_no_more_than_allowed() {
        let zeros = vec![0; 500_000];
        let mut bytes = zip_with("zeros", &zeros);
        let truth = 500_000u32.to_le_bytes();
        let mut lies = 0;
        for at in 0..bytes.len() - 4 {
            if bytes[at..at + 4] == truth {
                bytes[at..at + 4].copy_from_slice(&10u32.to_le_bytes());
                lies += 1;
            }
        }
        assert!(lies >= 2, "both headers name the size");
        let (folder, result) = try_bytes(&bytes, Packing::Zip, Limits { bytes: 1000, entries: 10 });
        assert!(result.is_err());
        let written = fs::metadata(folder.path().join("inner/target/zeros")).map_or(0, |m| m.len());
        assert!(written <= 1000, "{written}");
    }

    #[test]
    fn too_many_entries_are_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        for index in 0..5 {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_cksum();
            builder.append_data(&mut header, format!("{index}"), &b""[..]).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let (_folder, result) = try_bytes(&bytes, Packing::Tar, Limits { bytes: 1000, entries: 4 });
        assert!(result.unwrap_err().to_string().contains("more than the 4 entries"));
    }

    #[test]
    fn a_file_may_not_be_written_twice() {
        let mut builder = tar::Builder::new(Vec::new());
        for _ in 0..2 {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_cksum();
            builder.append_data(&mut header, "same", &b"x"[..]).unwrap();
        }
        let (_folder, result) = try_bytes(&builder.into_inner().unwrap(), Packing::Tar, WIDE);
        assert!(result.unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let tar = tar_with("a", tar::EntryType::Regular, &[7; 3000]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(&tar).unwrap();
        let gz = encoder.finish().unwrap();
        for (bytes, packing) in [(&tar[..2000], Packing::Tar), (&gz[..2000], Packing::TarGzip)] {
            let message = try_bytes(bytes, packing, WIDE).1.unwrap_err().to_string();
            assert!(message.contains("truncated or corrupt"), "{message}");
        }
    }

    #[test]
    fn only_the_selected_files_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("x.tar");
        fs::write(&archive, tar_with("./usr/share/x/data", tar::EntryType::Regular, b"data")).unwrap();
        let run = |wanted: &str| {
            let (packing, target) = (Packing::Tar, folder.path());
            let select = |path: &str| path == wanted;
            Unpack { archive: &archive, packing, target, limits: WIDE, select: &select, advance: &|_| {} }
                .run()
        };
        assert_eq!(run("usr/share/x/other").unwrap().len(), 0);
        assert_eq!(run("usr/share/x/data").unwrap()[0].path, "usr/share/x/data");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn noise_is_an_error_or_nothing_but_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for packing in [Packing::Tar, Packing::TarGzip, Packing::TarXz, Packing::TarZstd, Packing::Zip] {
                let (folder, _) = try_bytes(&bytes, packing, WIDE);
                assert_nothing_outside(folder.path());
            }
        }
    }
}
