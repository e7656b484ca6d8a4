//! Reading whole files, inflating them when they are gzip.
use flate2::read::MultiGzDecoder;
use ssl_core::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file, inflated when it begins with gzip's magic; never more than `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io(path, "read"))?;
    let mut head = Vec::with_capacity(2);
    file.by_ref().take(2).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
    let is_gzip = head == [0x1f, 0x8b];
    let whole = head.as_slice().chain(file);
    let mut bytes = Vec::new();
    let outcome = if is_gzip {
        MultiGzDecoder::new(whole).take(limit + 1).read_to_end(&mut bytes)
    } else {
        whole.take(limit + 1).read_to_end(&mut bytes)
    };
    match outcome {
        Err(source) if is_gzip => Err(Error::data(
            path,
            format!(
                "gzip stream is truncated or corrupt after {} inflated bytes ({source}): fetch the file again",
                bytes.len()
            ),
        )),
        Err(source) => Err(Error::io(path, "read")(source)),
        Ok(n) if n as u64 > limit => {
            Err(Error::data(path, format!("expected at most {limit} bytes, found more")))
        }
        Ok(_) => Ok(bytes),
    }
}
