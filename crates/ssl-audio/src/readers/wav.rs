//! RIFF WAVE: integers of 8 to 32 bits and floating point, any number of channels, read by position.
//!
//! The chunks are walked here rather than by a library, because samples are read in bulk from anywhere in files that
//! may be larger than memory, and because what is wrong with a file is said with its offset. The tests write with
//! `hound`.
//!
//! Source: IBM & Microsoft, 1991, "Multimedia programming interface and data specifications 1.0", chapter 3;
//! `WAVE_FORMAT_EXTENSIBLE`: <https://learn.microsoft.com/en-us/windows/win32/api/mmreg/ns-mmreg-waveformatextensible>.
use super::Info;
use super::section::Section;
use super::sound::{RATES, bytes_left};
use std::io::{Read, Seek, SeekFrom};

const PCM: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xFFFE;
/// Writers to a pipe, which cannot go back, leave this as the length of the samples: they go on to the end.
const UNKNOWN: u32 = u32::MAX;
/// Frames that are read and converted at once.
const BLOCK: usize = 8_192;

/// How a sample is stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wav {
    pub(crate) info: Info,
    storage: Storage,
    /// Bytes of a frame: one sample of each channel.
    frame_bytes: usize,
    /// Offset of the first frame.
    data: u64,
}

impl Wav {
    /// Reads the header, behind `RIFF....WAVE`.
    pub(crate) fn new(file: &mut Section) -> Result<Self, String> {
        let mut format = None;
        file.seek(SeekFrom::Start(12)).map_err(|error| error.to_string())?;
        loop {
            let (at, end) = (file.position(), file.length());
            if at >= end {
                return Err(format!("no samples: expected a data chunk, the file ends at byte {end}"));
            }
            let head: [u8; 8] = take(file, "a chunk's name and length")?;
            let [n0, n1, n2, n3, l0, l1, l2, l3] = head;
            let (name, length) = ([n0, n1, n2, n3], u32::from_le_bytes([l0, l1, l2, l3]));
            let left = bytes_left(file);
            let broken = || {
                let name = name.escape_ascii();
                format!("truncated: the chunk {name} at byte {at} promises {length} bytes, {left} are left")
            };
            if &name == b"data" {
                let format: Format =
                    format.ok_or("expected a fmt chunk before the data chunk, found none")?;
                let length = if length == UNKNOWN { left } else { u64::from(length) };
                if length > left {
                    return Err(broken());
                }
                return format.with_data(file.position(), length, at);
            }
            if u64::from(length) > left {
                return Err(broken());
            }
            let begin = file.position();
            if &name == b"fmt " {
                format = Some(Format::read(file, length, at)?);
            }
            // Chunks begin at even offsets.
            let next = begin + u64::from(length) + u64::from(length % 2);
            file.seek(SeekFrom::Start(next)).map_err(|error| error.to_string())?;
        }
    }

    /// Reads frames from `start` on until `out` is full, as the mean of the channels.
    pub(crate) fn read(&self, file: &mut Section, start: u64, out: &mut [f32]) -> Result<(), String> {
        let begin = start.checked_mul(self.frame_bytes as u64).and_then(|at| at.checked_add(self.data));
        let begin = begin.ok_or("expected a position within the file")?;
        file.seek(SeekFrom::Start(begin)).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; BLOCK.min(out.len()) * self.frame_bytes];
        let mut at = start;
        for out in out.chunks_mut(BLOCK) {
            let bytes = bytes.get_mut(..out.len() * self.frame_bytes).unwrap_or_default();
            file.read_exact(bytes)
                .map_err(|error| format!("cannot read the samples from {at} on: {error}"))?;
            self.convert(bytes, out);
            if matches!(self.storage, Storage::F32 | Storage::F64)
                && let Some(bad) = out.iter().position(|sample| !sample.is_finite())
            {
                return Err(format!("sample {} is not finite", at + bad as u64));
            }
            at += out.len() as u64;
        }
        Ok(())
    }

    /// One match for a whole block, so that the inner loops are free of choices.
    fn convert(&self, bytes: &[u8], out: &mut [f32]) {
        let channels = usize::from(self.info.channels);
        match self.storage {
            Storage::U8 => mix::<1>(bytes, channels, out, |[byte]| (f32::from(byte) - 128.) / 128.),
            Storage::I16 => mix::<2>(bytes, channels, out, |b| f32::from(i16::from_le_bytes(b)) / 32_768.),
            Storage::I24 => mix::<3>(bytes, channels, out, |[a, b, c]| integer([0, a, b, c])),
            Storage::I32 => mix::<4>(bytes, channels, out, integer),
            Storage::F32 => mix::<4>(bytes, channels, out, f32::from_le_bytes),
            Storage::F64 => mix::<8>(bytes, channels, out, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

/// 32 bits as a number from -1 to 1.
fn integer(bytes: [u8; 4]) -> f32 {
    i32::from_le_bytes(bytes) as f32 / 2_147_483_648.
}

/// Samples of `N` bytes each, as the mean of the channels.
fn mix<const N: usize>(bytes: &[u8], channels: usize, out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (samples, _) = bytes.as_chunks::<N>();
    if channels == 1 {
        out.iter_mut().zip(samples).for_each(|(out, &sample)| *out = value(sample));
        return;
    }
    for (out, frame) in out.iter_mut().zip(samples.chunks_exact(channels)) {
        *out = frame.iter().map(|&sample| value(sample)).sum::<f32>() / channels as f32;
    }
}

/// What the fmt chunk says.
#[derive(Debug, Clone, Copy)]
struct Format {
    sample_rate: u32,
    channels: u16,
    storage: Storage,
    frame_bytes: usize,
}

impl Format {
    /// The chunk of `length` bytes, whose name stands at byte `at`.
    fn read(file: &mut Section, length: u32, at: u64) -> Result<Self, String> {
        if length < 16 {
            return Err(format!("expected a fmt chunk of at least 16 bytes at byte {at}, got {length}"));
        }
        let [t0, t1, c0, c1, r0, r1, r2, r3, _, _, _, _, f0, f1, b0, b1]: [u8; 16] =
            take(file, "the format")?;
        let mut tag = u16::from_le_bytes([t0, t1]);
        let channels = u16::from_le_bytes([c0, c1]);
        let sample_rate = u32::from_le_bytes([r0, r1, r2, r3]);
        let frame_bytes = u16::from_le_bytes([f0, f1]);
        let bits = u16::from_le_bytes([b0, b1]);
        if tag == EXTENSIBLE && length >= 26 {
            let [_, _, _, _, _, _, _, _, s0, s1]: [u8; 10] = take(file, "the extended format")?;
            tag = u16::from_le_bytes([s0, s1]);
        }
        if channels == 0 {
            return Err("expected at least 1 channel, the header says 0".to_string());
        }
        if !RATES.contains(&sample_rate) {
            let (least, most) = (RATES.start(), RATES.end());
            return Err(format!(
                "expected a sample rate of {least} to {most} Hz, the header says {sample_rate}"
            ));
        }
        let whole = frame_bytes.checked_div(channels).filter(|each| each * channels == frame_bytes);
        let storage = match (tag, whole) {
            (PCM, Some(1)) => Storage::U8,
            (PCM, Some(2)) => Storage::I16,
            (PCM, Some(3)) => Storage::I24,
            (PCM, Some(4)) => Storage::I32,
            (FLOAT, Some(4)) => Storage::F32,
            (FLOAT, Some(8)) => Storage::F64,
            _ => {
                return Err(format!(
                    "expected integers of 8 to 32 bits (format 1) or floats (format 3), the header says format {tag} of \
                     {bits} bits, {frame_bytes} bytes for {channels} channels"
                ));
            }
        };
        Ok(Format { sample_rate, channels, storage, frame_bytes: usize::from(frame_bytes) })
    }

    /// The file with its samples in `length` bytes from `data` on; the chunk's name stands at byte `at`.
    fn with_data(self, data: u64, length: u64, at: u64) -> Result<Wav, String> {
        let Format { sample_rate, channels, storage, frame_bytes } = self;
        let (frames, rest) = (length / frame_bytes as u64, length % frame_bytes as u64);
        if frames == 0 {
            return Err(format!("no samples: the data chunk at byte {at} has {length} bytes"));
        }
        if rest > 0 {
            return Err(format!(
                "expected a data chunk of whole frames of {frame_bytes} bytes at byte {at}, got {length} bytes"
            ));
        }
        Ok(Wav { info: Info { sample_rate, channels, frames }, storage, frame_bytes, data })
    }
}

fn take<const N: usize>(file: &mut Section, what: &str) -> Result<[u8; N], String> {
    let (at, mut bytes) = (file.position(), [0; N]);
    file.read_exact(&mut bytes).map_err(|_| {
        format!("truncated: expected {what} at byte {at}, the file ends at byte {}", file.length())
    })?;
    Ok(bytes)
}
