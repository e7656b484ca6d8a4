//! Videos in files, decoded when asked for; as many as fit stay decoded.
use super::cache::Cache;
use super::ffmpeg::Programs;
use super::layout::{Kind, Listing};
use super::process::Fault;
use super::stored::Stored;
use super::{Options, Shorter};
use crate::clip::{VideoDataset, check_out, copy_frames, out_of_range};
use rayon::prelude::*;
use ssl_core::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Videos in files, brought to one size.
///
/// A video whose headers cannot be read is left out, and noted. One that turns out to be unreadable later is replaced by
/// the next readable one of its class, and noted. More than [`Options::max_bad`] of both are an error.
pub struct Videos {
    path: PathBuf,
    options: Options,
    videos: Vec<Video>,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
    cache: Cache,
    /// Videos before any was left out.
    listed: usize,
    /// What was left out when the set was opened.
    left_out: Vec<String>,
    /// Of these, how many because they cannot be read.
    unreadable: usize,
    bad: Mutex<BTreeMap<usize, String>>,
}

#[derive(Debug)]
struct Video {
    name: String,
    stored: Stored,
}

impl std::fmt::Debug for Videos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, classes) = (self.videos.len(), self.class_names.len());
        write!(f, "Videos({n} in {}, {classes} classes)", self.path.display())
    }
}

impl Videos {
    /// Reads all headers.
    pub(crate) fn new(listing: Listing, options: &Options) -> Result<Self> {
        let Listing { path, items, labels, class_names } = listing;
        let listed = items.len();
        if items.iter().any(|item| matches!(item.kind, Kind::Program)) {
            Programs::of(options).check().map_err(|fault| fault.of(&path))?;
        }
        let found: Vec<_> = items.par_iter().map(|item| (item, Stored::new(item, options))).collect();
        let of_all = labels.unwrap_or_default();
        let has_labels = !of_all.is_empty();
        let (mut videos, mut kept, mut left_out, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for ((item, stored), label) in
            found.into_iter().zip(of_all.iter().map(Some).chain(std::iter::repeat(None)))
        {
            let name = item.name();
            match stored {
                Err(Fault::Program(message)) => return Err(Error::config("ffmpeg", message)),
                Err(Fault::Video(reason)) => {
                    unreadable += 1;
                    left_out.push(format!("{name}: {reason}"));
                }
                Ok(stored) => match too_short(&stored, options.shorter) {
                    Some(reason) => left_out.push(format!("{name}: {reason}")),
                    None => {
                        kept.extend(label.copied());
                        videos.push(Video { name, stored });
                    }
                },
            }
        }
        let set = Videos {
            cache: Cache::new(videos.len(), options.cache_bytes),
            path,
            options: options.clone(),
            videos,
            labels: has_labels.then_some(kept),
            class_names,
            listed,
            left_out,
            unreadable,
            bad: Mutex::default(),
        };
        set.check(&set.bad())?;
        if set.videos.is_empty() {
            let example = set.left_out.first().map(String::as_str).unwrap_or_default();
            let message = format!("expected at least one video, all {listed} are left out: {example}");
            return Err(Error::data(&set.path, message));
        }
        Ok(set)
    }

    /// Frames of one video that the program or the decoder gives, `[T, H, W, C]`.
    fn try_read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<(), Fault> {
        let each = self.frame_bytes();
        if let Some(video) = self.cache.get(index) {
            copy_frames(video, each, frames, out);
            return Ok(());
        }
        let video = self.videos.get(index).ok_or_else(|| Fault::Video("no such video".to_string()))?;
        let count = video.stored.frames();
        let all: Vec<usize> = (0..count).collect();
        let bytes = (count as u64).saturating_mul(each as u64);
        let kept = self.cache.keep(index, bytes, |out| self.decode(&video.stored, &all, out));
        match kept {
            Ok(Some(video)) => copy_frames(video, each, frames, out),
            Err(fault @ Fault::Program(_)) => return Err(fault),
            // Of a video that is broken elsewhere the window may be sound, and must not depend on what fits into memory.
            Ok(None) | Err(Fault::Video(_)) => {
                let mut wanted: Vec<usize> = frames.iter().map(|frame| frame % count).collect();
                wanted.sort_unstable();
                wanted.dedup();
                let mut block = vec![0; wanted.len() * each];
                self.decode(&video.stored, &wanted, &mut block)?;
                for (frame, out) in frames.iter().zip(out.chunks_exact_mut(each)) {
                    let position = wanted.binary_search(&(frame % count)).unwrap_or(0);
                    out.copy_from_slice(
                        block.get(position * each..(position + 1) * each).unwrap_or_default(),
                    );
                }
            }
        }
        Ok(())
    }

    /// Decodes frames of ascending numbers.
    fn decode(&self, stored: &Stored, wanted: &[usize], out: &mut [u8]) -> Result<(), Fault> {
        let each = self.frame_bytes();
        stored.decode(&self.options, wanted, &mut |position, frame| {
            if let Some(out) = out.get_mut(position * each..(position + 1) * each) {
                out.copy_from_slice(frame);
            }
        })
    }

    fn bad(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a video that cannot be read; too many are an error.
    fn note(&self, index: usize, reason: &str) -> Result<()> {
        let name = self.name(index);
        let mut bad = self.bad();
        bad.insert(index, format!("{name}: {reason}"));
        self.check(&bad)
    }

    fn check(&self, bad: &BTreeMap<usize, String>) -> Result<()> {
        let count = self.unreadable + bad.len();
        let (listed, allowed) = (self.listed, self.options.max_bad);
        if count as f64 <= allowed * listed as f64 {
            return Ok(());
        }
        let first = self.left_out.first().or_else(|| bad.values().next()).map(String::as_str);
        let first = first.unwrap_or_default();
        if listed == 1 {
            let reason = first.strip_prefix(&format!("{}: ", self.path.display())).unwrap_or(first);
            return Err(Error::data(&self.path, reason));
        }
        Err(Error::data(
            &self.path,
            format!(
                "{count} of {listed} videos cannot be read, more than max_bad {allowed} allows; the first is {first}"
            ),
        ))
    }
}

/// Why a video is left out, if it is too short.
fn too_short(stored: &Stored, shorter: Shorter) -> Option<String> {
    match shorter {
        Shorter::Skip(least) if stored.frames() < least => {
            Some(format!("{} frames, shorter than {least}", stored.frames()))
        }
        _ => None,
    }
}

impl VideoDataset for Videos {
    fn len(&self) -> usize {
        self.videos.len()
    }

    fn frames(&self, index: usize) -> usize {
        self.videos.get(index).map_or(0, |video| video.stored.frames())
    }

    fn rate(&self, index: usize) -> f64 {
        self.videos.get(index).map_or(0.0, |video| video.stored.rate())
    }

    fn size(&self) -> [usize; 2] {
        self.options.size
    }

    fn channels(&self) -> usize {
        self.options.channels
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        let len = self.len();
        if index >= len {
            return Err(out_of_range(index, len));
        }
        check_out(out, frames.len(), self.frame_bytes())?;
        let following = (0..len).map(|ahead| (index + ahead) % len);
        // Whether a video was found unreadable before is not asked: what is read must not depend on what was read.
        for at in following.filter(|&at| self.label(at) == self.label(index)) {
            match self.try_read(at, frames, out) {
                Ok(()) => return Ok(()),
                Err(Fault::Program(message)) => return Err(Error::config("ffmpeg", message)),
                Err(Fault::Video(reason)) => self.note(at, &reason)?,
            }
        }
        Err(Error::data(&self.path, format!("no video of the class of video {index} can be read")))
    }

    fn name(&self, index: usize) -> String {
        self.videos.get(index).map(|video| video.name.clone()).unwrap_or_default()
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn skipped(&self) -> Vec<String> {
        self.left_out.iter().chain(self.bad().values()).cloned().collect()
    }

    fn notes(&self) -> Vec<String> {
        let note = |video: &Video| Some(format!("{}: {}", video.name, video.stored.note()?));
        self.videos.iter().filter_map(note).collect()
    }
}
