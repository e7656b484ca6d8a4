//! One recording: which format it has, how long it is, and its samples from anywhere.
use super::Info;
use super::packed::Packed;
use super::section::{Place, Section};
use super::wav::Wav;
use std::io::{Read, Seek, SeekFrom};
use std::ops::RangeInclusive;

/// Sample rates that a recording may have, in hertz.
pub(crate) const RATES: RangeInclusive<u32> = 100..=768_000;

/// No decoder makes more of a byte: what a header promises beyond that is wrong, and would take memory.
const MOST_FRAMES_PER_BYTE: u64 = 8_192;

/// How a recording is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sound {
    /// By position, from its bytes.
    Wav(Wav),
    /// By a decoder.
    Packed(Info),
}

impl Sound {
    /// Looks at the first bytes and the headers.
    pub(crate) fn new(place: &Place) -> Result<Self, String> {
        let mut file = place.open().map_err(|error| error.to_string())?;
        match kind(&mut file)? {
            Kind::Wav => Ok(Sound::Wav(Wav::new(&mut file)?)),
            Kind::Packed => {
                let bytes = file.length();
                let info = Packed::new(file)?.info()?;
                // Silence takes least: some bytes for a packet of 65,535 frames.
                if info.frames / MOST_FRAMES_PER_BYTE > bytes {
                    return Err(format!("the header promises {} samples in {bytes} bytes", info.frames));
                }
                Ok(Sound::Packed(info))
            }
        }
    }

    pub(crate) fn info(&self) -> Info {
        match self {
            Sound::Wav(wav) => wav.info,
            Sound::Packed(info) => *info,
        }
    }

    /// Reads frames from `start` on until `out` is full, as the mean of the channels; all must exist.
    pub(crate) fn read(&self, place: &Place, start: u64, out: &mut [f32]) -> Result<(), String> {
        let mut file = place.open().map_err(|error| error.to_string())?;
        match self {
            Sound::Wav(wav) => wav.read(&mut file, start, out),
            Sound::Packed(_) => Packed::new(file)?.read(start, out),
        }
    }
}

/// Bytes from the position to the end.
pub(crate) fn bytes_left(file: &Section) -> u64 {
    file.length().saturating_sub(file.position())
}

enum Kind {
    Wav,
    Packed,
}

/// What the first bytes say; a name's ending says nothing.
fn kind(file: &mut Section) -> Result<Kind, String> {
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head).map_err(|error| error.to_string())?;
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    match head[..] {
        [] => Err("expected WAV, FLAC, MP3 or Ogg Vorbis, the file is empty".to_string()),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Ok(Kind::Wav),
        [b'R', b'I', b'F', b'F', ..] if head.len() < 12 => {
            Err(format!("truncated: expected a RIFF header of 12 bytes, the file has {}", head.len()))
        }
        [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] | [b'I', b'D', b'3', ..] => {
            Ok(Kind::Packed)
        }
        // The frame sync of MPEG audio, layer 3.
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Ok(Kind::Packed),
        _ => Err(format!(
            "expected WAV, FLAC, MP3 or Ogg Vorbis, the file begins with \"{}\"",
            head.escape_ascii()
        )),
    }
}
