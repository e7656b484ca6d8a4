//! Compression is undone here: gzip, xz and zstd, as a stream and within bounds of memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::catalog::Packing;
use crate::error::{Error, Result};

/// The window that a decoder of xz or zstd may allocate, in bytes.
const MAX_WINDOW: u64 = 256 << 20;

/// Opens a file and undoes the compression around it, not the tar or zip within.
pub(crate) fn open_inflated(path: &Path, packing: Packing) -> Result<Box<dyn Read>> {
    let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    inflate(Box::new(BufReader::new(file)), packing, path)
}

/// Undoes the compression around a stream; `path` is what an error names.
pub(crate) fn inflate(file: Box<dyn Read>, packing: Packing, path: &Path) -> Result<Box<dyn Read>> {
    Ok(match packing {
        Packing::Plain | Packing::Tar | Packing::Zip => file,
        Packing::Gzip | Packing::TarGzip => Box::new(MultiGzDecoder::new(file)),
        Packing::TarXz => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, (MAX_WINDOW / 1024) as u32))
        }
        Packing::TarZstd => Box::new(
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(file, MAX_WINDOW)
                .map_err(|e| corrupt(path, &e.to_string()))?,
        ),
    })
}

/// Makes the error of an archive or compressed file that cannot be read to its end.
pub(crate) fn corrupt(archive: &Path, cause: &str) -> Error {
    Error::Archive {
        archive: archive.display().to_string(),
        message: format!("truncated or corrupt ({})", cause.lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lzma.compress(b"what was packed")` of Python 3.11.
    const XZ: [u8; 72] = [
        253, 55, 122, 88, 90, 0, 0, 4, 230, 214, 180, 70, 2, 0, 33, 1, 22, 0, 0, 0, 116, 47, 229, 163, 1, 0,
        14, 119, 104, 97, 116, 32, 119, 97, 115, 32, 112, 97, 99, 107, 101, 100, 0, 0, 213, 77, 231, 74, 236,
        250, 42, 226, 0, 1, 39, 15, 223, 26, 252, 106, 31, 182, 243, 125, 1, 0, 0, 0, 0, 4, 89, 90,
    ];

    fn inflated(bytes: &'static [u8], packing: Packing) -> std::io::Result<Vec<u8>> {
        let mut inflated = Vec::new();
        let stream = inflate(Box::new(bytes), packing, Path::new("x")).map_err(std::io::Error::other)?;
        stream.take(1000).read_to_end(&mut inflated).map(|_| inflated)
    }

    #[test]
    fn the_packings_of_debian_packages_are_undone() {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(b"what was packed".as_slice(), level);
        assert_eq!(inflated(&XZ, Packing::TarXz).unwrap(), b"what was packed");
        assert_eq!(inflated(zstd.leak(), Packing::TarZstd).unwrap(), b"what was packed");
    }

    #[test]
    fn a_damaged_stream_is_an_error() {
        let mut damaged = XZ;
        damaged[30] ^= 1;
        assert!(inflated(damaged.to_vec().leak(), Packing::TarXz).is_err());
        assert!(inflated(&XZ[..40], Packing::TarXz).is_err());
    }
}
