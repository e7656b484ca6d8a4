//! Scalars in TensorBoard's event files.
//!
//! Source: TensorFlow `core/lib/io/record_writer.cc` (framing) and `core/util/event.proto` (fields). The crate
//! `tensorboard-rs` last moved years ago and brings an image library; scalars need these few lines.
use super::Recorder;
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends scalars to an event file of its own; a resumed run adds another, which TensorBoard joins.
///
/// The first step of a file is marked as a start, so that TensorBoard drops what the interrupted run wrote of that
/// step and later ones.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: BufWriter<File>,
    /// Whether the start is marked.
    started: bool,
}

impl TensorBoard {
    /// Begins an event file in `dir`.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        let name = |n: u32| dir.join(format!("events.out.tfevents.{:010}.ssl.{n}", seconds() as u64));
        let open = |path: &PathBuf| OpenOptions::new().write(true).create_new(true).open(path);
        let (path, opened) = (0..)
            .map(|n| {
                let path = name(n);
                let opened = open(&path);
                (path, opened)
            })
            .find(|(_, opened)| !matches!(opened, Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists))
            .ok_or_else(|| Error::config("tensorboard", "no free file name"))?;
        let file = BufWriter::new(opened.map_err(Error::io(&path, "create"))?);
        let mut board = TensorBoard { path, file, started: false };
        board.write(&event(None, |out| bytes_field(out, 3, b"brain.Event:2")))?;
        Ok(board)
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path, "write"))
    }
}

impl Recorder for TensorBoard {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        if !self.started {
            // SessionLog { status: START }
            self.write(&event(Some(step), |out| bytes_field(out, 7, &[1 << 3, 1])))?;
            self.started = true;
        }
        let mut scalar = Vec::new();
        bytes_field(&mut scalar, 1, name.as_bytes());
        scalar.push(2 << 3 | 5);
        scalar.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes_field(&mut summary, 1, &scalar);
        self.write(&event(Some(step), |out| bytes_field(out, 5, &summary)))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))
    }
}

/// An `Event`: wall time, step, and what `rest` adds.
fn event(step: Option<u64>, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(seconds().to_le_bytes());
    if let Some(step) = step {
        out.push(2 << 3);
        varint(&mut out, step);
    }
    rest(&mut out);
    out
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0., |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_and_hold_name_step_and_value() {
        let scratch = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(scratch.path()).unwrap();
        board.record(300, "loss", 1.5).unwrap();
        board.record(301, "loss", 1.5).unwrap();
        board.flush().unwrap();
        let bytes = fs::read(&board.path).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked_crc(&rest[..8]));
            let data = &rest[12..12 + n];
            assert_eq!(u32::from_le_bytes(rest[12 + n..16 + n].try_into().unwrap()), masked_crc(data));
            records.push(data.to_vec());
            rest = &rest[16 + n..];
        }
        assert_eq!(records.len(), 4);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[1].ends_with(&[0x10, 0xac, 0x02, 0x3a, 2, 8, 1]));
        // Step 300 as a varint, then summary { value { tag: "loss", simple_value: 1.5 } }.
        assert_eq!(
            records[2][9..],
            [&[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4][..], b"loss", &[0x15, 0, 0, 0xc0, 0x3f]]
                .concat()
        );
    }

    #[test]
    fn the_checksum_is_that_of_tensorboard() {
        // tensorboard.summary.writer.record_writer.masked_crc32c(b"123456789") of tensorboard 2.20.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn two_files_of_one_second_do_not_overwrite_each_other() {
        let scratch = tempfile::tempdir().unwrap();
        let (_a, _b) =
            (TensorBoard::create(scratch.path()).unwrap(), TensorBoard::create(scratch.path()).unwrap());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}
