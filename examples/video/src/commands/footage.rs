//! Films as they are embedded, and single frames of them to look at.
use super::flag;
use crate::data::stored_side;
use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, value_parser};
use image::RgbImage;
use ssl_video::readers::{Fit, Options, Split, info, open};
use ssl_video::{Clean, VideoDataset};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Height of a picture of a frame, in pixels, and how wide it may be.
const HEIGHT: usize = 120;
const WIDTHS: std::ops::RangeInclusive<usize> = 48..=360;

pub(super) fn flags() -> [Arg; 2] {
    [
        flag("cache", "MIB", "Memory for decoded videos")
            .value_parser(value_parser!(u64))
            .default_value("1024"),
        flag("ffmpeg", "FILE", "The program that decodes films; ffprobe is looked for beside it")
            .value_parser(value_parser!(PathBuf))
            .default_value("ffmpeg"),
    ]
}

/// Files of videos, and how they are read.
pub(super) struct Footage {
    pub(super) files: Vec<PathBuf>,
    options: Options,
}

impl Footage {
    pub(super) fn new(matches: &ArgMatches, clean: &Clean, files: &[PathBuf]) -> Self {
        let side = stored_side(clean.size);
        let ffmpeg = matches.get_one::<PathBuf>("ffmpeg").cloned().unwrap_or_default();
        let options = Options {
            size: [side, side],
            channels: clean.mean.len(),
            cache_bytes: matches.get_one::<u64>("cache").map_or(0, |mib| mib << 20),
            ffprobe: ffmpeg.with_file_name("ffprobe"),
            ffmpeg,
            ..Options::default()
        };
        Footage { files: files.to_vec(), options }
    }

    /// Opens a file, or a folder of them.
    pub(super) fn open(&self, file: &Path) -> Result<Arc<dyn VideoDataset>> {
        Ok(open(file, Split::Train, &self.options)?)
    }

    /// All files.
    pub(super) fn open_all(&self) -> Result<Vec<Arc<dyn VideoDataset>>> {
        self.files.iter().map(|file| self.open(file)).collect()
    }

    /// The same at the rate of the first video, which is what videos need to be joined.
    pub(super) fn at_one_rate(mut self) -> Result<Self> {
        let first = self.files.first().context("expected a video, got none")?;
        self.options.rate = Some(self.open(first)?.rate(0));
        Ok(self)
    }
}

/// The first frames of windows that are `hop` frames apart; a video that is shorter than a window has one.
pub(super) fn starts(frames: usize, window: usize, hop: usize) -> impl Iterator<Item = usize> {
    (0..=frames.saturating_sub(window)).step_by(hop.max(1))
}

/// Frames to look at, in the shape that they have.
pub(super) struct Pictures<'a> {
    footage: &'a Footage,
    open: BTreeMap<PathBuf, Arc<dyn VideoDataset>>,
}

impl<'a> Pictures<'a> {
    pub(super) fn new(footage: &'a Footage) -> Self {
        Pictures { footage, open: BTreeMap::new() }
    }

    /// Frames of a video of a file.
    pub(super) fn frames(&mut self, file: &Path, video: usize, frames: &[usize]) -> Result<Vec<RgbImage>> {
        if !self.open.contains_key(file) {
            let found = info(file, &self.footage.options)?;
            let width = (HEIGHT * found.width / found.height.max(1)).clamp(*WIDTHS.start(), *WIDTHS.end());
            let options = Options {
                size: [HEIGHT, width],
                fit: Fit::Cover,
                channels: 3,
                // Few frames are asked for.
                cache_bytes: 0,
                ..self.footage.options.clone()
            };
            self.open.insert(file.to_path_buf(), open(file, Split::Train, &options)?);
        }
        let set = self.open.get(file).with_context(|| file.display().to_string())?;
        let [height, width] = set.size();
        let picture = |frame: &usize| {
            let bytes = set.clip(video, &[*frame])?;
            RgbImage::from_raw(width as u32, height as u32, bytes)
                .context("expected a picture of three channels")
        };
        frames.iter().map(picture).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::starts;

    #[test]
    fn windows_lie_within_the_video_and_a_short_one_has_one() {
        assert!(starts(20, 13, 3).eq([0, 3, 6]));
        assert!(starts(19, 13, 3).eq([0, 3, 6]));
        assert!(starts(18, 13, 3).eq([0, 3]));
        assert!(starts(5, 13, 3).eq([0]));
    }
}
