//! Sizes and sha256 hashes of what is read and written.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// How many bytes are moved at once.
pub(crate) const CHUNK: usize = 128 * 1024;

/// The size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digested {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Writes a hash as lower-case hexadecimal digits.
fn hexadecimal(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing to a String cannot fail.
        text
    })
}

/// Hashes a text.
pub(crate) fn hash_text(text: &str) -> String {
    hexadecimal(&Sha256::digest(text))
}

/// Hashes a file; `advance` is called with the bytes of each step.
pub(crate) fn hash_file(path: &Path, mut advance: impl FnMut(u64)) -> Result<Digested> {
    let mut file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let n = read(&mut file, &mut buffer).map_err(|e| Error::io(path, "read", e))?;
        if n == 0 {
            return Ok(Digested { bytes, sha256: hexadecimal(&hasher.finalize()) });
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
        bytes += n as u64;
        advance(n as u64);
    }
}

/// Copies `from` to the new file `to` and hashes what it writes. `unreadable` makes the error of a failed read;
/// `limit` bytes is the most it writes, and reaching beyond is the error `too_big`.
pub(crate) fn write_hashed(
    from: &mut dyn Read,
    to: &Path,
    limit: u64,
    unreadable: impl Fn(std::io::Error) -> Error,
    too_big: impl Fn() -> Error,
) -> Result<Digested> {
    let writing = |e| Error::io(to, "write", e);
    let mut file = File::create_new(to).map_err(|e| Error::io(to, "create", e))?;
    let mut hasher = Sha256::new();
    // Many files are far smaller than a chunk.
    let mut buffer =
        vec![0; usize::try_from(limit).map_or(CHUNK, |limit| CHUNK.min(limit.saturating_add(1)))];
    let mut bytes = 0;
    loop {
        let n = read(from, &mut buffer).map_err(&unreadable)?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        if bytes > limit {
            return Err(too_big());
        }
        let chunk = buffer.get(..n).unwrap_or_default();
        hasher.update(chunk);
        file.write_all(chunk).map_err(writing)?;
    }
    Ok(Digested { bytes, sha256: hexadecimal(&hasher.finalize()) })
}

/// Reads, and reads again when a signal interrupted.
pub(crate) fn read(from: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
