//! Recordings in files, read when asked for: by position where the format allows it, from memory where they fit.
use super::cache::Cache;
use super::files::{Entry, Listing};
use super::sound::Sound;
use super::{Options, Shorter, Silent};
use crate::clip::{AudioDataset, copy_from, out_of_range};
use crate::{Resampler, level};
use rayon::prelude::*;
use ssl_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Samples that are looked at together for their level.
const BLOCK: usize = 1 << 18;

/// Recordings in files, brought to one rate.
///
/// A file whose header cannot be read is left out, and noted. A clip that turns out to be unreadable later is replaced
/// by the next readable one of its class, and noted. More than [`Options::max_bad`] of both are an error.
pub struct Clips {
    path: PathBuf,
    sample_rate: u32,
    clips: Vec<Clip>,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
    resamplers: BTreeMap<u32, Resampler>,
    cache: Cache,
    max_bad: f64,
    /// Clips before any was left out.
    listed: usize,
    /// What was left out when the set was opened.
    left_out: Vec<String>,
    /// Of these, how many because they cannot be read.
    unreadable: usize,
    bad: Mutex<BTreeMap<usize, String>>,
}

/// A recording, or a part of one.
#[derive(Debug)]
struct Clip {
    entry: Entry,
    sound: Sound,
    /// First frame of the file that counts, and how many do, at the file's own rate.
    begin: u64,
    count: u64,
    /// Samples at the rate of the set.
    frames: u64,
}

impl std::fmt::Debug for Clips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, classes) = (self.clips.len(), self.class_names.len());
        write!(f, "Clips({n} of {} Hz in {}, {classes} classes)", self.sample_rate, self.path.display())
    }
}

/// Why a clip is left out.
enum Reason {
    /// It cannot be read.
    Bad(String),
    /// It was asked for.
    Unwanted(String),
}

impl Clips {
    /// Reads every header.
    pub(crate) fn new(listing: Listing, options: &Options) -> Result<Self> {
        let Listing { path, entries, labels, class_names } = listing;
        let rate = options.sample_rate;
        let listed = entries.len();
        let found: Vec<_> = entries.into_par_iter().map(|entry| Clip::new(entry, rate)).collect();
        let rates: BTreeSet<u32> = found.iter().flatten().map(Clip::rate).collect();
        let resamplers = rates.into_iter().filter_map(|from| Some((from, Resampler::new(from, rate).ok()?)));
        let mut set = Clips {
            path,
            sample_rate: rate,
            clips: Vec::new(),
            labels: None,
            class_names,
            resamplers: resamplers.collect(),
            cache: Cache::new(0, 0),
            max_bad: options.max_bad,
            listed,
            left_out: Vec::new(),
            unreadable: 0,
            bad: Mutex::default(),
        };
        let judged: Vec<_> = found.into_par_iter().map(|clip| set.judge(clip, options)).collect();
        let mut kept = Vec::new();
        let of_all = labels.unwrap_or_default();
        for (clip, label) in judged.into_iter().zip(of_all.iter().map(Some).chain(std::iter::repeat(None))) {
            match clip {
                Ok(clip) => {
                    kept.extend(label.copied());
                    set.clips.push(clip);
                }
                Err(Reason::Unwanted(line)) => set.left_out.push(line),
                Err(Reason::Bad(line)) => {
                    set.unreadable += 1;
                    set.left_out.push(line);
                }
            }
        }
        set.labels = (!of_all.is_empty()).then_some(kept);
        set.check(&set.bad())?;
        if set.clips.is_empty() {
            let example = set.left_out.first().map(String::as_str).unwrap_or_default();
            let message = format!("expected at least one clip, all {listed} are left out: {example}");
            return Err(Error::data(&set.path, message));
        }
        set.cache = Cache::new(set.clips.len(), options.cache_bytes);
        Ok(set)
    }

    /// Whether a clip is one of the set.
    fn judge(&self, clip: Result<Clip, String>, options: &Options) -> Result<Clip, Reason> {
        let clip = clip.map_err(Reason::Bad)?;
        let name = || clip.entry.name();
        if !self.resamplers.contains_key(&clip.rate()) {
            let (from, to) = (clip.rate(), self.sample_rate);
            return Err(Reason::Bad(format!("{}: cannot bring {from} Hz to {to} Hz", name())));
        }
        if let Shorter::Skip(least) = options.shorter {
            let seconds = clip.frames as f64 / f64::from(self.sample_rate);
            if seconds < least {
                return Err(Reason::Unwanted(format!("{}: {seconds:.3} s, shorter than {least} s", name())));
            }
        }
        if let Silent::Skip(least) = options.silent {
            let loudest =
                self.loudest(&clip, least).map_err(|why| Reason::Bad(format!("{}: {why}", name())))?;
            if loudest < least {
                let message = format!("{}: silent, its peak is {loudest:.1} dB, below {least} dB", name());
                return Err(Reason::Unwanted(message));
            }
        }
        Ok(clip)
    }

    /// The level of the loudest sample, or of the first block that reaches `enough`.
    fn loudest(&self, clip: &Clip, enough: f64) -> Result<f64, String> {
        let (mut loudest, mut samples) = (f64::NEG_INFINITY, vec![0.0; BLOCK]);
        for start in (0..clip.frames).step_by(BLOCK) {
            self.decode(clip, start, &mut samples)?;
            loudest = loudest.max(level::peak_decibels(&samples));
            if loudest >= enough {
                break;
            }
        }
        Ok(loudest)
    }

    /// Reads samples of a clip from its file; behind its end is silence.
    fn decode(&self, clip: &Clip, start: u64, out: &mut [f32]) -> Result<(), String> {
        let left = usize::try_from(clip.frames.saturating_sub(start)).unwrap_or(usize::MAX);
        let (out, silent) = out.split_at_mut(left.min(out.len()));
        silent.fill(0.0);
        if out.is_empty() {
            return Ok(());
        }
        let place = &clip.entry.place;
        if clip.rate() == self.sample_rate {
            return clip.sound.read(place, clip.begin + start, out);
        }
        let resampler = self.resamplers.get(&clip.rate()).ok_or("expected a rate that was seen before")?;
        let (first, end) = resampler.needs(start, out.len());
        let first = u64::try_from(first).unwrap_or(0);
        let end = u64::try_from(end).unwrap_or(0).min(clip.count);
        let mut input = vec![0.0; usize::try_from(end.saturating_sub(first)).unwrap_or(0)];
        clip.sound.read(place, clip.begin + first, &mut input)?;
        resampler.part(&input, first as i64, start, out);
        Ok(())
    }

    /// Samples of one clip, or why they cannot be read.
    fn try_read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<(), String> {
        if let Some(samples) = self.cache.get(index) {
            copy_from(samples, start, out);
            return Ok(());
        }
        let clip = self.clips.get(index).ok_or("no such clip")?;
        let is_direct = matches!(clip.sound, Sound::Wav(_)) && clip.rate() == self.sample_rate;
        let kept = match is_direct {
            // The system's own cache holds the file, and reading it is hardly slower than a copy.
            true => None,
            // Of a clip that is broken elsewhere the window may be sound, and must not depend on what fits into memory.
            false => {
                self.cache.keep(index, clip.frames, |samples| self.decode(clip, 0, samples)).unwrap_or(None)
            }
        };
        match kept {
            Some(samples) => copy_from(samples, start, out),
            None => self.decode(clip, start, out)?,
        }
        Ok(())
    }

    fn bad(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a clip that cannot be read; too many are an error.
    fn note(&self, index: usize, reason: &str) -> Result<()> {
        let name = self.clips.get(index).map(|clip| clip.entry.name()).unwrap_or_default();
        let mut bad = self.bad();
        bad.insert(index, format!("{name}: {reason}"));
        self.check(&bad)
    }

    fn check(&self, bad: &BTreeMap<usize, String>) -> Result<()> {
        let count = self.unreadable + bad.len();
        if count as f64 <= self.max_bad * self.listed as f64 {
            return Ok(());
        }
        let first = self.left_out.first().or_else(|| bad.values().next()).map(String::as_str);
        let (listed, allowed, first) = (self.listed, self.max_bad, first.unwrap_or_default());
        if listed == 1 {
            let reason = first.strip_prefix(&format!("{}: ", self.path.display())).unwrap_or(first);
            return Err(Error::data(&self.path, reason));
        }
        Err(Error::data(
            &self.path,
            format!(
                "{count} of {listed} clips cannot be read, more than max_bad {allowed} allows; the first is {first}"
            ),
        ))
    }
}

impl Clip {
    /// What the header says, or which file cannot be read and why.
    fn new(entry: Entry, rate: u32) -> Result<Self, String> {
        let named = |reason: String| format!("{}: {reason}", entry.name());
        let sound = Sound::new(&entry.place).map_err(named)?;
        let info = sound.info();
        let frame = |seconds: f64| (seconds * f64::from(info.sample_rate)).round() as u64;
        let begin = frame(entry.start);
        let left = info.frames.saturating_sub(begin);
        let count = entry.seconds.map_or(left, frame);
        if count > left || count == 0 {
            let seconds = info.frames as f64 / f64::from(info.sample_rate);
            let end = entry.seconds.map_or(String::new(), |seconds| format!(" to {}", entry.start + seconds));
            return Err(named(format!("expected a part within its {seconds} s, got {}{end}", entry.start)));
        }
        let frames = (u128::from(count) * u128::from(rate)).div_ceil(u128::from(info.sample_rate)) as u64;
        Ok(Clip { entry, sound, begin, count, frames })
    }

    fn rate(&self) -> u32 {
        self.sound.info().sample_rate
    }
}

impl AudioDataset for Clips {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    fn frames(&self, index: usize) -> u64 {
        self.clips.get(index).map_or(0, |clip| clip.frames)
    }

    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()> {
        let len = self.len();
        if index >= len {
            return Err(out_of_range(index, len));
        }
        let following = (0..len).map(|ahead| (index + ahead) % len);
        // Whether a clip was found unreadable before is not asked: what is read must not depend on what was read.
        for at in following.filter(|&at| self.label(at) == self.label(index)) {
            // Of a shorter clip that stands in for another, what there is of that length.
            let most = self.frames(at).saturating_sub(out.len() as u64);
            let start = if at == index { start } else { start.min(most) };
            match self.try_read(at, start, out) {
                Ok(()) => return Ok(()),
                Err(reason) => self.note(at, &reason)?,
            }
        }
        Err(Error::data(&self.path, format!("no clip of the class of clip {index} can be read")))
    }

    fn name(&self, index: usize) -> String {
        self.clips.get(index).map(|clip| clip.entry.name()).unwrap_or_default()
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
}
