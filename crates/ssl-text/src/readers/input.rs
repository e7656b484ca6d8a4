//! Opening text files: gzip, byte order marks, and what is no text at all.
use flate2::read::MultiGzDecoder;
use ssl_core::{Error, Result};
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

/// How much of a file is looked at before it is read.
pub(crate) const HEAD: usize = 64 * 1024;

/// Beginnings of files that are no text, and what to do about them.
const FOREIGN: [(&[u8], &str); 11] = [
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz: inflate it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: inflate it first"),
    (b"BZh", "compressed by bzip2: inflate it first"),
    (b"PAR1", "a Parquet file: convert it to JSON Lines first"),
    (b"ARROW1", "an Arrow file: convert it to JSON Lines first"),
    (b"%PDF-", "a PDF file: extract its text first"),
    (b"\xff\xfe", "in UTF-16: convert it to UTF-8 first (iconv -f utf-16 -t utf-8)"),
    (b"\xfe\xff", "in UTF-16: convert it to UTF-8 first (iconv -f utf-16 -t utf-8)"),
    (b"\x89PNG", "a picture"),
    (b"SQLite format 3", "a database: export it as CSV or JSON Lines first"),
];

/// An open file, inflated, behind its byte order mark.
pub(crate) struct Input {
    stream: Box<dyn Read>,
    is_gzip: bool,
    /// The first bytes, which the stream has too.
    pub(crate) head: Vec<u8>,
    /// The offset of the next byte, in inflated bytes.
    pub(crate) offset: u64,
}

/// Why a file is not read: an error, or content that is no text.
pub(crate) enum Refusal {
    Error(Error),
    NoText(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

impl Input {
    /// Opens a file and looks at its head.
    pub(crate) fn open(path: &Path) -> Result<Self, Refusal> {
        let mut file = File::open(path).map_err(Error::io(path, "read"))?;
        let mut magic = Vec::with_capacity(2);
        file.by_ref().take(2).read_to_end(&mut magic).map_err(Error::io(path, "read"))?;
        let is_gzip = magic == [0x1f, 0x8b];
        let whole = Cursor::new(magic).chain(file);
        let mut stream: Box<dyn Read> =
            if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        let mut head = Vec::new();
        let read = stream.by_ref().take(HEAD as u64).read_to_end(&mut head);
        read.map_err(|source| unreadable(path, is_gzip, head.len() as u64, source))?;
        let is_marked = head.starts_with(b"\xef\xbb\xbf");
        if is_marked {
            head.drain(..3);
        }
        if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Refusal::NoText(format!("not text but {what}")));
        }
        let nuls = memchr::memchr_iter(0, &head).count();
        if nuls > head.len() / 256 {
            return Err(Refusal::NoText(format!(
                "not text but binary: {nuls} of its first {} bytes are NUL",
                head.len()
            )));
        }
        let offset = if is_marked { 3 } else { 0 };
        let stream = Box::new(Cursor::new(head.clone()).chain(stream));
        Ok(Input { stream, is_gzip, head, offset })
    }

    /// Reads; 0 bytes are the end.
    pub(crate) fn read(&mut self, path: &Path, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(path, source)),
            }
        }
    }

    /// Passes over bytes; returns how many there were.
    pub(crate) fn skip(&mut self, path: &Path, bytes: u64) -> Result<u64> {
        let (mut buffer, mut left) = (vec![0; HEAD], bytes);
        while left > 0 {
            let most = HEAD.min(usize::try_from(left).unwrap_or(HEAD));
            let n = self.read(path, buffer.get_mut(..most).unwrap_or_default())?;
            if n == 0 {
                break;
            }
            left -= n as u64;
        }
        Ok(bytes - left)
    }

    /// The error of a read that failed.
    pub(crate) fn failed(&self, path: &Path, source: std::io::Error) -> Error {
        unreadable(path, self.is_gzip, self.offset, source)
    }

    /// The stream alone, for readers that count themselves.
    pub(crate) fn into_stream(self) -> Box<dyn Read> {
        self.stream
    }

    pub(crate) fn is_gzip(&self) -> bool {
        self.is_gzip
    }
}

/// The error of a stream that broke off.
pub(crate) fn unreadable(path: &Path, is_gzip: bool, offset: u64, source: std::io::Error) -> Error {
    if is_gzip {
        let message = format!(
            "gzip stream is truncated or corrupt after {offset} inflated bytes ({source}): fetch the file again"
        );
        Error::data(path, message)
    } else {
        Error::io(path, "read")(source)
    }
}
