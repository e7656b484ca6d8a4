//! Recordings from files: what a path holds is recognized by [`open`].
//!
//! ```
//! use ssl_audio::readers::{Options, Split, open};
//! let error = open("no/such/folder".as_ref(), Split::Train, &Options::default()).unwrap_err();
//! assert!(error.to_string().starts_with("no/such/folder: cannot read"));
//! ```
mod cache;
mod clips;
mod files;
mod known;
mod layout;
mod manifest;
mod packed;
mod section;
mod sound;
mod wav;

pub use clips::Clips;

use crate::AudioDataset;
use section::Place;
use sound::Sound;
use ssl_core::{Error, Result};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A part of a data set by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on; a folder or archive without splits is all of it.
    Train,
    /// What is evaluated on; the validation set where there is no test set.
    Test,
    /// What has no labels by design.
    Unlabelled,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::Test => "test",
            Split::Unlabelled => "unlabelled",
        })
    }
}

/// What becomes of clips that are shorter than needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shorter {
    /// They stay; what is missing behind their end is silence.
    Pad,
    /// Those shorter than this many seconds are left out, and named.
    Skip(f64),
}

/// What becomes of clips without sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Silent {
    /// They stay.
    Keep,
    /// Those whose loudest sample is below this level are left out, and named. All clips are decoded once when the
    /// set is opened. In decibels of full scale.
    Skip(f64),
}

/// How recordings in files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The rate that all clips are brought to, in hertz.
    pub sample_rate: u32,
    /// Part of the clips that may be unreadable, from 0 to 1.
    pub max_bad: f64,
    /// What becomes of short clips.
    pub shorter: Shorter,
    /// What becomes of silent clips.
    pub silent: Silent,
    /// Clips that have to be decoded or resampled are kept in memory until they take this many bytes; windows of the
    /// others are read from their files each time.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sample_rate: 16_000,
            max_bad: 0.01,
            shorter: Shorter::Pad,
            silent: Silent::Keep,
            cache_bytes: 512 << 20,
        }
    }
}

impl Options {
    fn validate(&self) -> Result<()> {
        if !sound::RATES.contains(&self.sample_rate) {
            let (least, most) = (sound::RATES.start(), sound::RATES.end());
            let message = format!("expected {least} to {most} Hz, got {}", self.sample_rate);
            return Err(Error::config("sample_rate", message));
        }
        if !(0.0..=1.0).contains(&self.max_bad) {
            return Err(Error::config("max_bad", format!("expected 0 to 1, got {}", self.max_bad)));
        }
        match (self.shorter, self.silent) {
            (Shorter::Skip(seconds), _) if !(0.0..1e9).contains(&seconds) => {
                Err(Error::config("shorter", format!("expected seconds of at least 0, got {seconds}")))
            }
            (_, Silent::Skip(level)) if !(-400.0..=0.0).contains(&level) => {
                Err(Error::config("silent", format!("expected -400 to 0 decibels, got {level}")))
            }
            _ => Ok(()),
        }
    }
}

/// What a file of sound holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Samples per second of each channel, in hertz.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u16,
    /// Samples of each channel, counted where the file does not say.
    pub frames: u64,
}

/// What a WAV, FLAC, MP3 or Ogg Vorbis file holds, told by its content.
///
/// # Errors
/// `Error::Data` when it is none of these, truncated, corrupt, or without a sample; `Error::Io` when it cannot be read.
pub fn info(path: &Path) -> Result<Info> {
    fs::metadata(path).map_err(Error::io(path, "read"))?;
    Sound::new(&Place::file(path)).map(|sound| sound.info()).map_err(|reason| Error::data(path, reason))
}

/// The mean of the channels of frames from `start` on, at the file's own rate; all `len` frames must exist.
///
/// Only what is needed is read from a WAV file; the others are decoded from the nearest point at which a decoder can
/// start.
///
/// # Errors
/// As [`info`]; `Error::Config` when the file is shorter.
pub fn read_window(path: &Path, start: u64, len: usize) -> Result<Vec<f32>> {
    fs::metadata(path).map_err(Error::io(path, "read"))?;
    let place = Place::file(path);
    let sound = Sound::new(&place).map_err(|reason| Error::data(path, reason))?;
    let frames = sound.info().frames;
    if start.checked_add(len as u64).is_none_or(|end| end > frames) {
        let message =
            format!("expected frames within {frames} of {}, got {len} from {start}", path.display());
        return Err(Error::config("window", message));
    }
    let mut out = vec![0.0; len];
    sound.read(&place, start, &mut out).map_err(|reason| Error::data(path, reason))?;
    Ok(out)
}

const LOOKED_FOR: &str = "looked for sound (wav, wave, flac, mp3, ogg, oga) in the folder, in class folders, or in \
    train/ and test/";

/// Opens the recordings at a path: a folder with or without class folders and splits, a tar of such a folder, a
/// manifest, or one file of sound. The lists of Speech Commands and the table of ESC-50 (fold 5 is for the test) are
/// understood.
///
/// A manifest has an object in JSON on each line: `audio`, a path from the manifest's folder; where wanted `label`, a
/// text or a number, `start` and `seconds` of a part of the file, and `split`: `train`, `test` or `unlabelled`.
///
/// # Errors
/// `Error::Io` when something cannot be read; `Error::Absent` when the split is missing; `Error::Data` when there is no
/// sound or too many files are truncated, corrupt or foreign; `Error::Config` when an option is out of range.
pub fn open(path: &Path, split: Split, options: &Options) -> Result<Arc<dyn AudioDataset>> {
    options.validate()?;
    let is_folder = fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir();
    let listing = if is_folder {
        layout::folder(path, split)?
    } else {
        match kind_of(path)? {
            Kind::Tar => layout::archive(path, split)?,
            Kind::Manifest => manifest::read(path, split)?,
            Kind::Packed => {
                return Err(Error::data(
                    path,
                    "expected a tar that is not compressed (clips are read by their offsets): inflate it first",
                ));
            }
            Kind::Sound => layout::file(path, split)?,
        }
    };
    let nothing = || match split {
        Split::Train => Error::data(path, format!("no sound: {LOOKED_FOR}")),
        _ => Error::absent(path, format!("no {split} clips: their folder holds none")),
    };
    Ok(Arc::new(Clips::new(listing.ok_or_else(nothing)?, options)?))
}

enum Kind {
    Tar,
    Packed,
    Manifest,
    Sound,
}

/// Archives are told by their names, as in other modalities; manifests also by their first byte.
fn kind_of(path: &Path) -> Result<Kind> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".tar"]) {
        return Ok(Kind::Tar);
    }
    if ends(&[".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"]) {
        return Ok(Kind::Packed);
    }
    let mut first = Vec::new();
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    file.take(1).read_to_end(&mut first).map_err(Error::io(path, "read"))?;
    Ok(if ends(&[".jsonl"]) || first == b"{" { Kind::Manifest } else { Kind::Sound })
}
