//! Batches of random clips of a set of videos, made on all threads, the same whatever their number.
//!
//! ```
//! use ssl_video::augment::{Augment, View};
//! use ssl_video::{ClipArray, ClipSource, Place, Sampling};
//! use std::sync::Arc;
//! // 6 videos of 10 grey frames of 8 x 8 pixels.
//! let videos = (0..6).map(|n| vec![40 * n; 10 * 64]).collect();
//! let videos = ClipArray::new([8, 8], 1, 10.0, videos)?;
//! let view = View::new(4, 2, Augment::crop_and_flip(8)).normalized(&[0.5], &[0.25]);
//! let sampling = Sampling { place: Place::Own, ..Sampling::default() };
//! let source = ClipSource::new(Arc::new(videos), vec![view; 2], sampling, 3, 0)?;
//! assert_eq!(source.batches_per_epoch(), 2);
//! assert_eq!(source.views(0, 1)?.0[1].size(), [3, 1, 4, 8, 8]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::augment::{Augmenter, View};
use crate::clip::VideoDataset;
use crate::place::{Place, places};
use crate::random::shuffle;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, Source, Views};
use ssl_vision::Scratch;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// The streams of random numbers that one seed feeds.
const ORDER: u64 = 601;
const VIEW: u64 = 602;
const PLACE: u64 = 603;
/// Orders that are kept: batches that are prepared ahead may already belong to the next epoch.
const KEPT: usize = 2;
/// Windows that may be drawn for the one with most motion.
const MOST_TRIES: usize = 64;

thread_local! {
    static SCRATCH: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
}

/// What an epoch goes through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Epoch {
    /// As many windows of each video as lie in it one after the other, at least one: time counts alike in all.
    #[default]
    Windows,
    /// One window of each video.
    Videos,
}

/// How windows are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// What an epoch goes through.
    pub epoch: Epoch,
    /// Where the views of an example lie.
    pub place: Place,
    /// Of so many windows drawn, the one with most motion is taken: the greatest mean difference between one frame
    /// of the view and the next. None for the first that is drawn. Each window is read, which counts where videos
    /// are too long to be kept decoded.
    ///
    /// # Source
    /// Lee et al., 2017, section 3.1, which takes the optical flow for the motion: <https://arxiv.org/abs/1708.01246>.
    pub motion: Option<usize>,
}

/// Batches of clips by position: a pure function of the seed, the epoch and the index.
///
/// A video that is shorter than a window begins anew behind its end.
#[derive(Debug)]
pub struct ClipSource {
    dataset: Arc<dyn VideoDataset>,
    views: Vec<(View, Augmenter)>,
    sampling: Sampling,
    batch_size: usize,
    seed: u64,
    /// The video of each example of an epoch.
    examples: Vec<usize>,
    orders: Mutex<Vec<(u64, Arc<Vec<usize>>)>>,
}

impl ClipSource {
    /// One view per element of `views` of each example; the windows of an epoch are counted by the longest.
    ///
    /// # Errors
    /// `Error::Config` when there is no view, a number is out of range, or the batch size is 0 or larger than an epoch.
    pub fn new(
        dataset: Arc<dyn VideoDataset>,
        views: Vec<View>,
        sampling: Sampling,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let prepare = |view: View| {
            view.validate()?;
            let augmenter = Augmenter::new(view.augment.clone(), dataset.size(), dataset.channels())?;
            Ok((view, augmenter))
        };
        let views = views.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        let longest = views.iter().map(|(view, _)| view.window()).max();
        let longest = longest.ok_or_else(|| Error::config("views", "expected at least one, got none"))?;
        sampling.place.validate()?;
        if let Some(tries) = sampling.motion
            && !(1..=MOST_TRIES).contains(&tries)
        {
            return Err(Error::config("motion", format!("expected 1 to {MOST_TRIES} windows, got {tries}")));
        }
        let windows = |video: usize| match sampling.epoch {
            Epoch::Windows => (dataset.frames(video) / longest).max(1),
            Epoch::Videos => 1,
        };
        let examples: Vec<usize> =
            (0..dataset.len()).flat_map(|video| std::iter::repeat_n(video, windows(video))).collect();
        if batch_size == 0 || batch_size > examples.len() {
            let message =
                format!("expected 1 to {} (the windows of an epoch), got {batch_size}", examples.len());
            return Err(Error::config("batch_size", message));
        }
        Ok(ClipSource { dataset, views, sampling, batch_size, seed, examples, orders: Mutex::default() })
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn VideoDataset> {
        &self.dataset
    }

    /// Examples in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Whole batches of one pass over the data; what is left over is dropped.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.examples.len() / self.batch_size) as u64
    }

    /// The videos that are shorter than the longest window, and therefore begin anew within it.
    pub fn short(&self) -> Vec<usize> {
        let longest = self.views.iter().map(|(view, _)| view.window()).max().unwrap_or(1);
        (0..self.dataset.len()).filter(|&video| self.dataset.frames(video) < longest).collect()
    }

    /// The videos of a batch.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch.
    pub fn videos(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        let video = |example| self.examples.get(example).copied().unwrap_or(0);
        Ok(self.examples_of(epoch, index)?.into_iter().map(video).collect())
    }

    /// The first frames of the views of each example of a batch.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch; what the data set says of a video it cannot read.
    pub fn starts(&self, epoch: u64, index: u64) -> Result<Vec<Vec<usize>>> {
        let examples = self.examples_of(epoch, index)?;
        examples.into_par_iter().map(|example| self.places(epoch, example)).collect()
    }

    /// The views of a batch, each `[B, C, T, H, W]` with channels-last strides.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch; what the data set says of a video it cannot read.
    pub fn views(&self, epoch: u64, index: u64) -> Result<Views> {
        let examples = self.examples_of(epoch, index)?;
        let lengths: Vec<usize> =
            self.views.iter().map(|(view, augmenter)| view.frames * augmenter.frame_len()).collect();
        let mut blocks: Vec<Vec<f32>> =
            lengths.iter().map(|length| vec![0.0; length * examples.len()]).collect();
        let mut slots: Vec<Vec<&mut [f32]>> = examples.iter().map(|_| Vec::new()).collect();
        for (block, &length) in blocks.iter_mut().zip(&lengths) {
            slots.iter_mut().zip(block.chunks_exact_mut(length)).for_each(|(slot, part)| slot.push(part));
        }
        let rendered = slots.into_par_iter().zip(&examples);
        rendered.try_for_each(|(slots, &example)| self.render(epoch, example, slots))?;
        let tensors = blocks.iter().zip(&self.views).map(|(block, (view, augmenter))| {
            let size = view.augment.clip.size;
            to_tensor(block, [examples.len(), view.frames, size, size, augmenter.output_channels()])
        });
        tensors.collect::<Result<_>>().map(Views)
    }

    /// All views of one example, each into its slot.
    fn render(&self, epoch: u64, example: usize, slots: Vec<&mut [f32]>) -> Result<()> {
        let video = self.examples.get(example).copied().unwrap_or(0);
        let starts = self.places(epoch, example)?;
        for (n, (((view, augmenter), start), slot)) in self.views.iter().zip(starts).zip(slots).enumerate() {
            let mut rng = ssl_core::rng(self.seed, &[VIEW, epoch, example as u64, n as u64]);
            let params = augmenter.draw(view.frames, &mut rng);
            with_scratch(|scratch, clip| {
                self.read(video, view, start, clip)?;
                augmenter.apply(clip, &params, scratch, slot)
            })?;
        }
        Ok(())
    }

    /// The first frame of each view of an example.
    fn places(&self, epoch: u64, example: usize) -> Result<Vec<usize>> {
        let video = self.examples.get(example).copied().unwrap_or(0);
        let windows: Vec<usize> = self.views.iter().map(|(view, _)| view.window()).collect();
        let (frames, rate) = (self.dataset.frames(video), self.dataset.rate(video));
        let mut rng = ssl_core::rng(self.seed, &[PLACE, epoch, example as u64]);
        let mut draw = || places(self.sampling.place, &windows, frames, rate, &mut rng);
        let mut chosen = draw();
        let tries = self.sampling.motion.unwrap_or(1);
        if tries > 1 {
            let mut most = self.motion(video, &chosen)?;
            for _ in 1..tries {
                let other = draw();
                let motion = self.motion(video, &other)?;
                if motion > most {
                    (chosen, most) = (other, motion);
                }
            }
        }
        Ok(chosen)
    }

    /// The mean difference between one frame of a view and the next, over the views, as a sum over all of them.
    fn motion(&self, video: usize, starts: &[usize]) -> Result<f64> {
        let each = self.dataset.frame_bytes();
        let of_view = |(view, start): (&View, usize)| {
            with_scratch(|_, clip| {
                self.read(video, view, start, clip)?;
                Ok(difference(clip, each) / view.frames.saturating_sub(1).max(1) as f64)
            })
        };
        self.views.iter().zip(starts).map(|((view, _), &start)| of_view((view, start))).sum()
    }

    /// The frames of a view that begins at `start`.
    fn read(&self, video: usize, view: &View, start: usize, clip: &mut Vec<u8>) -> Result<()> {
        clip.resize(view.frames * self.dataset.frame_bytes(), 0);
        self.dataset.read(video, &view.indices(start), clip)
    }

    fn examples_of(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        let order = self.order(epoch);
        let batch = usize::try_from(index).ok().and_then(|i| order.chunks_exact(self.batch_size).nth(i));
        batch.map(<[usize]>::to_vec).ok_or_else(|| {
            Error::config("batch", format!("expected less than {}, got {index}", self.batches_per_epoch()))
        })
    }

    /// The order of the examples in an epoch.
    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = orders.iter().find(|(of, _)| *of == epoch) {
            return Arc::clone(order);
        }
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        shuffle(&mut ssl_core::rng(self.seed, &[ORDER, epoch]), &mut order);
        let order = Arc::new(order);
        if orders.len() == KEPT {
            orders.remove(0);
        }
        orders.push((epoch, Arc::clone(&order)));
        order
    }
}

/// Memory of an earlier example of this thread. It is taken out meanwhile: where reading itself runs on several threads,
/// this one may begin another example before it has ended this one.
fn with_scratch<T>(f: impl FnOnce(&mut Scratch, &mut Vec<u8>) -> T) -> T {
    let (mut scratch, mut clip) = SCRATCH.take();
    let result = f(&mut scratch, &mut clip);
    SCRATCH.set((scratch, clip));
    result
}

/// The sum of the differences between the bytes of frames that follow each other.
fn difference(clip: &[u8], each: usize) -> f64 {
    let pairs = clip.iter().zip(clip.iter().skip(each));
    pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() as f64
}

impl Source for ClipSource {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        ClipSource::batches_per_epoch(self)
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Views> {
        self.views(epoch, index)
    }
}

/// Numbers that libtorch fills and copies on one thread: from 32,768 on it starts a parallel region, whose threads spin
/// beside those that make the views.
const PIECE: usize = 32_000;

/// A channels-last block `[B, T, H, W, C]` as a tensor `[B, C, T, H, W]` with channels-last strides.
fn to_tensor(block: &[f32], shape: [usize; 5]) -> Result<Tensor> {
    let flat = Tensor::f_empty([block.len() as i64], (Kind::Float, Device::Cpu))?;
    for (piece, start) in block.chunks(PIECE).zip((0..).step_by(PIECE)) {
        flat.f_narrow(0, start, piece.len() as i64)?.f_copy_(&Tensor::f_from_slice(piece)?)?;
    }
    Ok(flat.f_view(shape.map(|side| side as i64))?.f_permute([0, 4, 1, 2, 3])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;
    use crate::augment::Augment;

    /// Videos of 1 x 1 grey pixels that count up from ten times their number: a clip tells where it is from.
    fn counting(lengths: &[usize]) -> Arc<dyn VideoDataset> {
        let video = |(n, &length): (usize, &usize)| (0..length).map(|at| (50 * n + at) as u8).collect();
        let videos = lengths.iter().enumerate().map(video).collect();
        Arc::new(ClipArray::new([1, 1], 1, 10.0, videos).unwrap())
    }

    fn view(frames: usize, stride: usize) -> View {
        View::new(frames, stride, Augment::whole(1)).normalized(&[0.0], &[1.0 / 255.0])
    }

    fn source(set: Arc<dyn VideoDataset>, views: Vec<View>, sampling: Sampling, batch: usize) -> ClipSource {
        ClipSource::new(set, views, sampling, batch, 3).unwrap()
    }

    /// The values of each clip.
    fn rows(batch: &Tensor) -> Vec<Vec<u8>> {
        let row = |n| Vec::<f32>::try_from(batch.get(n).flatten(0, -1)).unwrap();
        (0..batch.size()[0]).map(|n| row(n).into_iter().map(|value| value.round() as u8).collect()).collect()
    }

    #[test]
    fn an_epoch_has_the_windows_that_lie_in_each_video_or_one_of_each() {
        let set = counting(&[25, 7, 10]);
        for (epoch, expected) in [(Epoch::Windows, vec![0, 0, 1, 2]), (Epoch::Videos, vec![0, 1, 2])] {
            let sampling = Sampling { epoch, ..Sampling::default() };
            let source = source(Arc::clone(&set), vec![view(4, 3), view(2, 1)], sampling, 1);
            let count = expected.len() as u64;
            assert_eq!(source.batches_per_epoch(), count);
            let mut videos: Vec<usize> =
                (0..count).flat_map(|index| source.videos(0, index).unwrap()).collect();
            videos.sort_unstable();
            assert_eq!(videos, expected);
            let message = source.views(0, count).unwrap_err().to_string();
            assert_eq!(message, format!("batch: expected less than {count}, got {count}"));
        }
    }

    #[test]
    fn clips_are_strides_of_their_videos_and_short_videos_begin_anew() {
        let source = source(counting(&[40, 3]), vec![view(3, 2)], Sampling::default(), 9);
        let mut starts = std::collections::BTreeSet::new();
        for epoch in 0..30 {
            let batch = source.views(epoch, 0).unwrap();
            assert_eq!(batch.0[0].size(), [9, 1, 3, 1, 1]);
            let begins = source.starts(epoch, 0).unwrap();
            let videos = source.videos(epoch, 0).unwrap();
            for ((video, begin), row) in videos.into_iter().zip(begins).zip(rows(&batch.0[0])) {
                if video == 1 {
                    assert_eq!(row, [50, 52, 51]);
                    continue;
                }
                assert_eq!(row, [begin[0] as u8, begin[0] as u8 + 2, begin[0] as u8 + 4]);
                starts.insert(begin[0]);
            }
        }
        assert!(starts.into_iter().eq(0..=35), "each place is reached");
        assert_eq!(source.short(), [1]);
    }

    #[test]
    fn batches_are_a_function_of_seed_epoch_and_index_whatever_the_threads() {
        let videos = (0..5).map(|n| (0..30 * 108).map(|at| (at * (n + 3) % 251) as u8).collect()).collect();
        let set: Arc<dyn VideoDataset> = Arc::new(ClipArray::new([6, 6], 3, 10.0, videos).unwrap());
        let make = |seed| {
            let views = vec![View::new(4, 2, Augment::cvrl(8)), View::new(3, 1, Augment::opn(5))];
            let sampling = Sampling { place: Place::Near(1.0), motion: Some(3), ..Sampling::default() };
            ClipSource::new(Arc::clone(&set), views, sampling, 4, seed).unwrap()
        };
        let (source, other) = (make(1), make(2));
        let equal = |a: &Views, b: &Views| a.0.iter().zip(&b.0).all(|(a, b)| a.equal(b));
        let first = source.views(5, 1).unwrap();
        assert_eq!((first.0[0].size(), first.0[1].size()), (vec![4, 3, 4, 8, 8], vec![4, 3, 3, 5, 5]));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(equal(&first, &pool.install(|| make(1).views(5, 1)).unwrap()));
        for another in [source.views(5, 0), source.views(6, 1), other.views(5, 1)] {
            assert!(!equal(&first, &another.unwrap()));
        }
    }

    #[test]
    fn a_tensor_has_channels_before_time_and_channels_last_strides() {
        // 1 clip of 2 frames of 1 x 3 RGB pixels.
        let block: Vec<f32> = (0..18).map(|at| at as f32).collect();
        let tensor = to_tensor(&block, [1, 2, 1, 3, 3]).unwrap();
        assert_eq!((tensor.size(), tensor.stride()), (vec![1, 3, 2, 1, 3], vec![18, 1, 9, 9, 3]));
        // Green of the last pixel of the second frame.
        assert_eq!(tensor.double_value(&[0, 1, 1, 0, 2]), 16.0);
    }

    #[test]
    fn of_several_windows_the_one_with_most_motion_is_taken() {
        // Two of fifty frames flash.
        let mut video = vec![0; 50];
        (video[20], video[31]) = (255, 255);
        let set: Arc<dyn VideoDataset> = Arc::new(ClipArray::new([1, 1], 1, 10.0, vec![video]).unwrap());
        let moving = |motion| {
            let sampling = Sampling { motion, ..Sampling::default() };
            let source = source(Arc::clone(&set), vec![view(5, 1)], sampling, 10);
            let batches = (0..40).map(|epoch| source.views(epoch, 0).unwrap());
            batches.flat_map(|batch| rows(&batch.0[0])).filter(|row| row.contains(&255)).count()
        };
        // 10 of 46 places have a flash: .22 of 400, and 1 - .78^4 = .63.
        let (once, again) = (moving(None), moving(Some(4)));
        assert!((60..120).contains(&once) && (220..285).contains(&again), "{once} {again}");
    }

    #[test]
    fn what_cannot_be_drawn_from_is_named() {
        let make = |views: Vec<View>, batch_size, sampling| {
            ClipSource::new(counting(&[9]), views, sampling, batch_size, 0).unwrap_err().to_string()
        };
        let plain = Sampling::default();
        assert_eq!(make(vec![], 1, plain), "views: expected at least one, got none");
        let message = make(vec![view(3, 1)], 4, plain);
        assert_eq!(message, "batch_size: expected 1 to 3 (the windows of an epoch), got 4");
        assert!(make(vec![view(0, 1)], 1, plain).starts_with("frames: expected 1"));
        let motion = Sampling { motion: Some(0), ..plain };
        assert_eq!(make(vec![view(3, 1)], 1, motion), "motion: expected 1 to 64 windows, got 0");
        let near = Sampling { place: Place::Near(-1.0), ..plain };
        assert!(make(vec![view(3, 1)], 1, near).starts_with("place: expected near to be more than 0"));
    }
}
