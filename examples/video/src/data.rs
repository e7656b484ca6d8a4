//! The videos of a run: training and test set, held-out clips.
use crate::examples::Clips;
use anyhow::{Result, bail};
use ssl_core::{Source, Views, mix};
use ssl_examples::locate_data;
use ssl_video::readers::{Options, Split, open};
use ssl_video::{
    Clean, ClipSource, MovingImages, MovingOptions, Part, Sampling, Segments, Subset, VideoDataset, View,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The beginning of the names of data made of images that move.
const MOVING: &str = "moving-";
/// Test videos made of images, for each training video.
const MOVING_TEST: f64 = 0.2;
/// The part of recordings without a test set that is held out, at their end.
const HELD_BACK: f64 = 0.2;
/// Apart from the training clips, also where there is no test set.
const HELD_OUT: u64 = 112;
/// Frames are stored so much larger than they are seen, to be cropped.
const MARGIN: f64 = 1.25;

/// The side of the frames as they are stored, where so many pixels are seen.
pub(crate) fn stored_side(size: usize) -> usize {
    (size as f64 * MARGIN).round() as usize
}

/// How videos are read or made.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Side of the frames as they are seen, in pixels.
    pub(crate) size: usize,
    pub(crate) channels: usize,
    pub(crate) videos: usize,
    pub(crate) sprites: usize,
    /// Seconds.
    pub(crate) segment: f64,
    pub(crate) limit: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) max_bad: f64,
    pub(crate) cache_bytes: u64,
    pub(crate) ffmpeg: PathBuf,
    pub(crate) ffprobe: PathBuf,
}

/// A training set, and a test set.
#[derive(Debug)]
pub(crate) struct Videos {
    train: Arc<dyn VideoDataset>,
    test: Option<Arc<dyn VideoDataset>>,
}

impl Videos {
    /// Opens or makes what `data` names. Recordings without a test set are cut into segments, whose end is held out.
    pub(crate) fn open(data: &str, settings: &Settings) -> Result<Self> {
        let (train, test) = match data.strip_prefix(MOVING).filter(|_| !Path::new(data).exists()) {
            Some(images) if locate_data(data).is_err() => moving(&locate_data(images)?.1, settings)?,
            _ => read(&locate_data(data)?.1, settings)?,
        };
        let train: Arc<dyn VideoDataset> = match settings.limit {
            Some(0) => bail!("--limit: expected at least 1, got 0"),
            Some(n) if n < train.len() => Arc::new(Subset::random(train, n, settings.seed)?),
            _ => train,
        };
        Ok(Videos { train, test })
    }

    pub(crate) fn train(&self) -> Arc<dyn VideoDataset> {
        Arc::clone(&self.train)
    }

    fn sets(&self) -> impl Iterator<Item = &Arc<dyn VideoDataset>> {
        std::iter::once(&self.train).chain(&self.test)
    }

    /// The videos left out so far, each with its reason.
    pub(crate) fn skipped(&self) -> Vec<String> {
        self.sets().flat_map(|set| set.skipped()).collect()
    }

    /// The videos that are read otherwise than they were stored.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.sets().flat_map(|set| set.notes()).collect();
        notes.dedup();
        notes
    }

    /// Batches of test clips for the pretext task, or of training clips where there is no test set.
    pub(crate) fn held_out(
        &self,
        views: Vec<View>,
        sampling: Sampling,
        (batch, clips): (usize, usize),
        seed: u64,
    ) -> Result<Vec<Views>> {
        if clips == 0 {
            return Ok(Vec::new());
        }
        let set = self.test.as_ref().unwrap_or(&self.train);
        let source =
            |batch| ClipSource::new(Arc::clone(set), views.clone(), sampling, batch, mix(seed, HELD_OUT));
        // A short test set gives smaller batches.
        let sizes = std::iter::successors(Some(batch), |size| Some(size / 2).filter(|&size| size > 0));
        let Some(source) = sizes.map(source).find_map(ssl_core::Result::ok) else { return Ok(Vec::new()) };
        // Several passes over few videos see other windows of them.
        let batches = (clips / source.batch_size()).max(1) as u64;
        let each = source.batches_per_epoch().max(1);
        let batch = |index: u64| source.batch(index / each, index % each);
        Ok((0..batches).map(batch).collect::<ssl_core::Result<_>>()?)
    }

    /// The videos of both sets, to be embedded.
    pub(crate) fn examples(&self, clean: &Clean) -> (Clips, Option<Clips>) {
        let clips = |set: &Arc<dyn VideoDataset>| Clips::new(Arc::clone(set), clean.clone());
        (clips(&self.train), self.test.as_ref().map(clips))
    }
}

type Sets = (Arc<dyn VideoDataset>, Option<Arc<dyn VideoDataset>>);

/// Images that move: those of the training set in one, those of the test set in the other.
fn moving(path: &Path, settings: &Settings) -> Result<Sets> {
    let set = |split: Split, videos: usize| -> Result<Arc<dyn VideoDataset>> {
        let images = ssl_vision::readers::open(path, split, &ssl_vision::readers::Options::default())?;
        let options = MovingOptions {
            videos: videos.max(1),
            size: settings.size,
            sprites: settings.sprites,
            split,
            ..MovingOptions::default()
        };
        Ok(Arc::new(MovingImages::new(images, options)?))
    };
    let test = (settings.videos as f64 * MOVING_TEST).round() as usize;
    Ok((set(Split::Train, settings.videos)?, Some(set(Split::Test, test)?)))
}

/// Videos from files.
fn read(path: &Path, settings: &Settings) -> Result<Sets> {
    let side = stored_side(settings.size);
    let options = Options {
        size: [side, side],
        channels: settings.channels,
        max_bad: settings.max_bad,
        cache_bytes: settings.cache_bytes,
        ffmpeg: settings.ffmpeg.clone(),
        ffprobe: settings.ffprobe.clone(),
        ..Options::default()
    };
    let train = open(path, Split::Train, &options)?;
    match open(path, Split::Test, &options) {
        Ok(test) => Ok((train, Some(test))),
        Err(ssl_core::Error::Absent { .. }) => {
            let part = |part| Segments::new(Arc::clone(&train), settings.segment, part);
            let (first, last) = (part(Part::First(1. - HELD_BACK))?, part(Part::Last(HELD_BACK))?);
            Ok((Arc::new(first), Some(Arc::new(last))))
        }
        Err(error) => Err(error.into()),
    }
}
