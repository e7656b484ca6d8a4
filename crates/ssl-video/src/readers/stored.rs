//! One stored video, whatever its format: what it holds, and its frames.
use super::ffmpeg::{Plan, Programs};
use super::layout::{Item, Kind};
use super::npy::Npy;
use super::process::Fault;
use super::timeline::{Shown, Timeline};
use super::{Info, Options, animation, pictures};
use ssl_vision::Image;
use std::path::PathBuf;
use std::sync::Arc;

/// Frames between two that are wanted from which on decoding begins anew.
const GAP: usize = 250;

/// A video whose frames can be asked for.
#[derive(Debug)]
pub(crate) struct Stored {
    path: PathBuf,
    decoder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Program(Plan, Programs),
    Animation(Timeline, (usize, usize)),
    Frames(Timeline, Vec<PathBuf>),
    Array(Timeline, Arc<Npy>, usize),
}

impl Stored {
    /// Looks at what the video holds.
    pub(crate) fn new(item: &Item, options: &Options) -> Result<Self, Fault> {
        let evenly = |count: usize| Timeline::new(count, &Shown::Evenly(options.unknown_rate), options.rate);
        let decoder = match &item.kind {
            Kind::Broken(reason) => return Err(Fault::Video(reason.clone())),
            Kind::Program => {
                let programs = Programs::of(options);
                let stream = programs.probe(&item.path)?;
                let plan = Plan::new(stream, options.rate, options.fit, options.size, options.channels);
                Decoder::Program(plan, programs)
            }
            Kind::Animation => {
                let animation::Outline { width, height, seconds } = animation::outline(&item.path)?;
                let count = seconds.len();
                Decoder::Animation(Timeline::new(count, &Shown::Each(seconds), options.rate), (width, height))
            }
            Kind::Frames(paths) => Decoder::Frames(evenly(paths.len()), paths.clone()),
            Kind::Array(npy, video) => Decoder::Array(evenly(npy.frames), Arc::clone(npy), *video),
        };
        Ok(Stored { path: item.path.clone(), decoder })
    }

    /// Frames, at the rate of the set.
    pub(crate) fn frames(&self) -> usize {
        match &self.decoder {
            Decoder::Program(plan, _) => plan.frames,
            Decoder::Animation(timeline, _) | Decoder::Frames(timeline, _) | Decoder::Array(timeline, ..) => {
                timeline.frames
            }
        }
    }

    /// Frames per second of the set.
    pub(crate) fn rate(&self) -> f64 {
        match &self.decoder {
            Decoder::Program(plan, _) => plan.rate,
            Decoder::Animation(timeline, _) | Decoder::Frames(timeline, _) | Decoder::Array(timeline, ..) => {
                timeline.rate
            }
        }
    }

    /// What is to be said of how the video is read.
    pub(crate) fn note(&self) -> Option<String> {
        let is_even = match &self.decoder {
            Decoder::Program(plan, _) => plan.stream().is_even,
            Decoder::Animation(timeline, _) | Decoder::Frames(timeline, _) | Decoder::Array(timeline, ..) => {
                timeline.is_even
            }
        };
        (!is_even).then(|| {
            format!(
                "its frames do not follow evenly: read by their times at {:.3} frames per second",
                self.rate()
            )
        })
    }

    /// What the video holds as it is stored.
    pub(crate) fn info(&self) -> Result<Info, Fault> {
        let info = |width, height, frames, rate, is_even| Info { width, height, frames, rate, is_even };
        Ok(match &self.decoder {
            Decoder::Program(plan, _) => {
                let stream = plan.stream();
                info(stream.width, stream.height, stream.frames, Some(stream.rate), stream.is_even)
            }
            Decoder::Animation(timeline, (width, height)) => {
                info(*width, *height, timeline.frames, Some(timeline.rate), timeline.is_even)
            }
            Decoder::Frames(_, paths) => {
                let first =
                    paths.first().ok_or_else(|| Fault::Video("expected a frame, found none".into()))?;
                let picture = pictures::picture(first, 3)?;
                info(picture.width(), picture.height(), paths.len(), None, true)
            }
            Decoder::Array(_, npy, _) => info(npy.width, npy.height, npy.frames, None, true),
        })
    }

    /// Decodes frames of ascending numbers, each handed to `emit` with its position among those wanted.
    pub(crate) fn decode(
        &self,
        options: &Options,
        wanted: &[usize],
        emit: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        let (fit, size, channels) = (options.fit, options.size, options.channels);
        let mut frame = vec![0; size.iter().product::<usize>() * channels];
        let mut fitted = |position: usize, image: &Image<'_>| {
            fit.picture(image, size, &mut frame)?;
            emit(position, &frame);
            Ok(())
        };
        let stored = |timeline: &Timeline| -> Vec<usize> {
            wanted.iter().map(|&frame| timeline.picture(frame)).collect()
        };
        match &self.decoder {
            Decoder::Program(plan, programs) => return self.stream(plan, programs, wanted, emit),
            Decoder::Animation(timeline, _) => {
                animation::pictures(&self.path, channels, &stored(timeline), &mut fitted)?;
            }
            Decoder::Frames(timeline, paths) => {
                pictures::pictures(paths, channels, &stored(timeline), &mut fitted)?;
            }
            Decoder::Array(timeline, npy, video) => {
                npy.pictures(&self.path, *video, channels, &stored(timeline), &mut fitted)?;
            }
        }
        Ok(())
    }

    /// Runs of wanted frames that are near each other are decoded at once.
    fn stream(
        &self,
        plan: &Plan,
        programs: &Programs,
        wanted: &[usize],
        emit: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        let mut position = 0;
        for run in wanted.chunk_by(|a, b| b - a <= GAP) {
            let (Some(&first), Some(&last)) = (run.first(), run.last()) else { continue };
            plan.decode(programs, &self.path, first..last + 1, &mut |number, frame| {
                while wanted.get(position) == Some(&number) {
                    emit(position, frame);
                    position += 1;
                }
            })?;
        }
        Ok(())
    }
}
