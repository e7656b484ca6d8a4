//! Debian packages: `ar` archives whose member `data.tar.*` holds the files.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::catalog::Packing;
use crate::error::{Error, Result};
use crate::inflate::inflate;

/// Opens the inflated tar archive with a package's files.
pub(crate) fn open_data(package: &Path) -> Result<Box<dyn Read>> {
    let unreadable = |e| Error::io(package, "read", e);
    let mut file = File::open(package).map_err(unreadable)?;
    let (packing, offset, bytes) = find_data(&mut file)
        .map_err(|message| Error::Archive { archive: package.display().to_string(), message })?;
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    inflate(Box::new(BufReader::new(file).take(bytes)), packing, package)
}

/// Finds the member `data.tar.*`: its packing, offset and size.
fn find_data(file: &mut File) -> Result<(Packing, u64, u64), String> {
    let not_a_deb = || "expected a Debian package with a member data.tar.*".to_owned();
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|_| not_a_deb())?;
    if &magic != b"!<arch>\n" {
        return Err(not_a_deb());
    }
    let mut offset = 8;
    loop {
        // Header: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2.
        let mut header = [0; 60];
        file.read_exact(&mut header).map_err(|_| not_a_deb())?;
        let field = |range| header.get(range).and_then(|b| std::str::from_utf8(b).ok()).map(str::trim);
        let name = field(0..16).ok_or_else(not_a_deb)?.trim_end_matches('/').to_owned();
        let bytes: u64 = field(48..58).and_then(|text| text.parse().ok()).ok_or_else(not_a_deb)?;
        offset += 60;
        if let Some(kind) = name.strip_prefix("data.tar") {
            let packing = match kind {
                "" => Packing::Tar,
                ".gz" => Packing::TarGzip,
                ".xz" => Packing::TarXz,
                ".zst" => Packing::TarZstd,
                _ => return Err(format!("cannot inflate its member {name}")),
            };
            return Ok((packing, offset, bytes));
        }
        offset += bytes + bytes % 2; // Members begin at even offsets.
        file.seek(SeekFrom::Start(offset)).map_err(|_| not_a_deb())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A package in which a member of an odd size comes before the data.
    fn package(data_name: &str, data: &[u8]) -> Vec<u8> {
        let mut deb = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", b"2.0".as_slice()), (data_name, data)] {
            writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100644, content.len()).unwrap();
            deb.extend_from_slice(content);
            if content.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    fn data_of(deb: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.deb");
        std::fs::write(&path, deb).unwrap();
        let mut data = Vec::new();
        open_data(&path)?.read_to_end(&mut data).unwrap();
        Ok(data)
    }

    #[test]
    fn the_data_member_is_found_inflated_and_ends_where_it_ends() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"the files").unwrap();
        let mut deb = package("data.tar.gz/", &encoder.finish().unwrap());
        deb.extend_from_slice(b"what follows");
        assert_eq!(data_of(&deb).unwrap(), b"the files");
        assert_eq!(data_of(&package("data.tar", b"plain")).unwrap(), b"plain");
    }

    #[test]
    fn what_is_no_package_or_packed_otherwise_is_an_error() {
        let whole = package("data.tar", b"plain");
        for bad in [b"not a package at all".as_slice(), &whole[..75], b"!<arch>\n"] {
            assert!(data_of(bad).unwrap_err().to_string().contains("expected a Debian package"));
        }
        let message = data_of(&package("data.tar.lzma", b"x")).unwrap_err().to_string();
        assert!(message.ends_with("cannot inflate its member data.tar.lzma"), "{message}");
    }
}
