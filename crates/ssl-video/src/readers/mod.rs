//! Videos from files: what a path holds is recognized by [`open`].
//!
//! ```
//! use ssl_video::readers::{Options, Split, open};
//! let error = open("no/such/folder".as_ref(), Split::Train, &Options::default()).unwrap_err();
//! assert!(error.to_string().starts_with("no/such/folder: cannot read"));
//! ```
mod animation;
mod avi;
mod cache;
mod ffmpeg;
mod fit;
mod layout;
mod mp4;
mod npy;
mod pictures;
mod process;
mod stored;
mod timeline;
mod ucf101;
mod videos;

pub use fit::Fit;
pub use ssl_vision::readers::Split;
pub use videos::Videos;

use crate::VideoDataset;
use process::Fault;
use ssl_core::{Error, Result};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stored::Stored;

/// Frames per second that a video may have.
const RATES: RangeInclusive<f64> = 0.01..=10_000.0;
/// Pixels that a side may have.
const SIDES: RangeInclusive<usize> = 1..=8_192;

/// What becomes of videos that are shorter than needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shorter {
    /// They stay, and begin anew behind their end.
    Loop,
    /// Those of less than this many frames are left out, and named.
    Skip(usize),
}

/// How videos in files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Height and width that all frames are brought to, in pixels.
    pub size: [usize; 2],
    /// What becomes of frames of another shape.
    pub fit: Fit,
    /// Channels that frames are brought to: 3, or 1 for grey.
    pub channels: usize,
    /// Frames per second that all videos are brought to, by repeating and leaving out frames; none to leave each as
    /// it is. A video whose frames do not follow evenly is brought to its mean rate in any case, and named.
    pub rate: Option<f64>,
    /// Frames per second of what does not say: folders of frames, and arrays.
    pub unknown_rate: f64,
    /// What becomes of short videos.
    pub shorter: Shorter,
    /// Part of the videos that may be unreadable, from 0 to 1.
    pub max_bad: f64,
    /// Videos are decoded once and kept in memory until they take this many bytes; windows of the others are decoded
    /// each time.
    pub cache_bytes: u64,
    /// The program `ffmpeg`, which decodes what is no picture and no array: a name on the path of programs, or a file.
    pub ffmpeg: PathBuf,
    /// The program `ffprobe`, which comes with it.
    pub ffprobe: PathBuf,
    /// Which of the three lists of UCF101 says what is for the test, from 1.
    pub ucf101_list: usize,
}

impl Default for Options {
    /// Frames of 80 x 80 pixels: views of 64 are cropped from them.
    fn default() -> Self {
        Options {
            size: [80, 80],
            fit: Fit::Cover,
            channels: 3,
            rate: None,
            unknown_rate: 10.0,
            shorter: Shorter::Loop,
            max_bad: 0.01,
            cache_bytes: 1 << 30,
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
            ucf101_list: 1,
        }
    }
}

impl Options {
    fn validate(&self) -> Result<()> {
        if !self.size.iter().all(|side| SIDES.contains(side)) {
            let ([height, width], most) = (self.size, SIDES.end());
            let message = format!("expected sides of 1 to {most} pixels, got {height}x{width}");
            return Err(Error::config("size", message));
        }
        if !matches!(self.channels, 1 | 3) {
            return Err(Error::config("channels", format!("expected 1 or 3, got {}", self.channels)));
        }
        for (name, rate) in [("rate", self.rate.unwrap_or(1.0)), ("unknown_rate", self.unknown_rate)] {
            if !RATES.contains(&rate) {
                let (least, most) = (RATES.start(), RATES.end());
                let message = format!("expected {least} to {most} frames per second, got {rate}");
                return Err(Error::config(name, message));
            }
        }
        if !(0.0..=1.0).contains(&self.max_bad) {
            return Err(Error::config("max_bad", format!("expected 0 to 1, got {}", self.max_bad)));
        }
        match self.ucf101_list {
            1..=3 => Ok(()),
            list => Err(Error::config("ucf101_list", format!("expected 1 to 3, got {list}"))),
        }
    }
}

/// What a stored video holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Info {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames.
    pub frames: usize,
    /// Frames per second, the mean where they do not follow evenly; none where the file does not say.
    pub rate: Option<f64>,
    /// Whether the frames follow evenly.
    pub is_even: bool,
}

/// What a video file, an animation, a folder of frames, or the first video of an array holds.
///
/// # Errors
/// As [`open`].
pub fn info(path: &Path, options: &Options) -> Result<Info> {
    options.validate()?;
    fs::metadata(path).map_err(Error::io(path, "read"))?;
    let listing = layout::listing(path, Split::Train, options)?;
    let item = listing.as_ref().and_then(|listing| listing.items.first());
    let item = item.ok_or_else(|| Error::data(path, format!("no videos: {LOOKED_FOR}")))?;
    Stored::new(item, options).and_then(|stored| stored.info()).map_err(|fault| fault.of(path))
}

const LOOKED_FOR: &str = "looked for video (mp4, m4v, avi, webm, mkv, mov, mpg, mpeg, ogv, wmv, flv, 3gp), animations \
    (gif, apng, webp, png), folders of frames (jpg, png, webp, bmp), and arrays (npy) in the folder, in class folders, \
    or in train/ and test/";

/// Opens the videos at a path: a folder of videos or of folders of frames, with or without class folders and splits, or
/// one video, animation or array.
///
/// GIF, animated WebP and PNG, folders of frames and arrays of bytes (`[N, T, H, W]`, `[N, T, H, W, C]` or
/// `[T, H, W, C]`) are read here. Everything else is decoded by the program `ffmpeg`. The official lists of UCF101 are
/// understood where they lie beside its videos.
///
/// # Errors
/// `Error::Io` when something cannot be read; `Error::Absent` when the split is missing; `Error::Data` when there is no
/// video or too many are truncated, corrupt or foreign; `Error::Config` when an option is out of range, or `ffmpeg` is
/// needed and cannot be started.
pub fn open(path: &Path, split: Split, options: &Options) -> Result<Arc<dyn VideoDataset>> {
    options.validate()?;
    fs::metadata(path).map_err(Error::io(path, "read"))?;
    let nothing = || match split {
        Split::Train => Error::data(path, format!("no videos: {LOOKED_FOR}")),
        _ => Error::absent(path, format!("no {split} videos: their folder holds none")),
    };
    let listing = layout::listing(path, split, options)?.ok_or_else(nothing)?;
    Ok(Arc::new(Videos::new(listing, options)?))
}

impl Fault {
    /// The error of one video.
    fn of(self, path: &Path) -> Error {
        match self {
            Fault::Program(message) => Error::config("ffmpeg", message),
            Fault::Video(message) => Error::data(path, message),
        }
    }
}
