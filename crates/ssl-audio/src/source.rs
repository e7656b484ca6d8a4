//! Batches of random windows of a set of recordings, made on all threads, the same whatever their number.
//!
//! ```
//! use ssl_audio::augment::Augment;
//! use ssl_audio::{ClipArray, Sampling, WindowSource};
//! use std::sync::Arc;
//! let clips = (1..9).map(|n| vec![0.1 * n as f32; 1_000]).collect();
//! let clips = ClipArray::new(8_000, clips)?;
//! let views = vec![Augment::crop(400), Augment::wave(400)];
//! let source = WindowSource::new(Arc::new(clips), views, Sampling::default(), 4, 0)?;
//! // Two windows of each clip.
//! assert_eq!(source.batches_per_epoch(), 4);
//! assert_eq!(source.views(0, 1)?.0[1].size(), [4, 400]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::augment::{Augment, Augmenter, Params};
use crate::clip::AudioDataset;
use crate::level::rms_decibels;
use crate::random::{below, shuffle, unit};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, Rng, Source, Views};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// The streams of random numbers that one seed feeds.
const ORDER: u64 = 401;
const VIEW: u64 = 402;
const PLACE: u64 = 403;
/// Orders that are kept: batches that are prepared ahead may already belong to the next epoch.
const KEPT: usize = 2;
/// Places that are looked at for one that is loud enough.
const TRIES: u64 = 8;

/// What an epoch goes through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Epoch {
    /// As many windows of each clip as lie in it beside each other, at least one: time counts alike in all.
    #[default]
    Windows,
    /// One window of each clip.
    Clips,
}

/// Where the views of an example lie in its clip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In the same place, as for BYOL-A.
    #[default]
    Same,
    /// Each in a place of its own, as for COLA.
    Own,
}

/// How windows are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// What an epoch goes through.
    pub epoch: Epoch,
    /// Where the views of an example lie.
    pub place: Place,
    /// A window that is quieter is drawn again, up to seven times; in decibels of full scale.
    pub quietest: Option<f64>,
}

/// Batches of windows by position: a pure function of the seed, the epoch and the index.
///
/// A clip that is shorter than a window begins it, and silence fills the rest.
#[derive(Debug)]
pub struct WindowSource {
    dataset: Arc<dyn AudioDataset>,
    noise: Arc<dyn AudioDataset>,
    views: Vec<Augmenter>,
    sampling: Sampling,
    batch_size: usize,
    seed: u64,
    /// The clip of each example of an epoch.
    examples: Vec<usize>,
    orders: Mutex<Vec<(u64, Arc<Vec<usize>>)>>,
}

impl WindowSource {
    /// One view per element of `views` of each example; the windows of an epoch are counted by the first.
    ///
    /// # Errors
    /// `Error::Config` when there is no view, a number is out of range, or the batch size is 0 or larger than an epoch.
    pub fn new(
        dataset: Arc<dyn AudioDataset>,
        views: Vec<Augment>,
        sampling: Sampling,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let rate = dataset.sample_rate();
        let views = views.into_iter().map(|view| Augmenter::new(view, rate)).collect::<Result<Vec<_>>>()?;
        let first = views.first().ok_or_else(|| Error::config("views", "expected at least one, got none"))?;
        if sampling.quietest.is_some_and(|level| !(-400.0..=0.0).contains(&level)) {
            let message = format!("expected -400 to 0 decibels, got {:?}", sampling.quietest);
            return Err(Error::config("quietest", message));
        }
        let windows = |clip: usize| match sampling.epoch {
            Epoch::Windows => (dataset.frames(clip) / first.config().samples as u64).max(1) as usize,
            Epoch::Clips => 1,
        };
        let examples: Vec<usize> =
            (0..dataset.len()).flat_map(|clip| std::iter::repeat_n(clip, windows(clip))).collect();
        if batch_size == 0 || batch_size > examples.len() {
            let message =
                format!("expected 1 to {} (the windows of an epoch), got {batch_size}", examples.len());
            return Err(Error::config("batch_size", message));
        }
        let noise = Arc::clone(&dataset);
        Ok(WindowSource {
            dataset,
            noise,
            views,
            sampling,
            batch_size,
            seed,
            examples,
            orders: Mutex::default(),
        })
    }

    /// The same windows, where noise that comes from clips comes from those of another set.
    ///
    /// # Errors
    /// `Error::Config` when its rate differs or it is empty.
    pub fn with_noise(self, noise: Arc<dyn AudioDataset>) -> Result<Self> {
        let (expected, got) = (self.dataset.sample_rate(), noise.sample_rate());
        if got != expected || noise.is_empty() {
            let message = format!("expected clips of {expected} Hz, got {} of {got} Hz", noise.len());
            return Err(Error::config("noise", message));
        }
        Ok(WindowSource { noise, ..self })
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn AudioDataset> {
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

    /// The clips of a batch.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch.
    pub fn clips(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        let clip = |example| self.examples.get(example).copied().unwrap_or(0);
        Ok(self.examples_of(epoch, index)?.into_iter().map(clip).collect())
    }

    /// The views of a batch, each `[B, T]`.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch; what the data set says of a clip it cannot read.
    pub fn views(&self, epoch: u64, index: u64) -> Result<Views> {
        let examples = self.examples_of(epoch, index)?;
        let lengths: Vec<usize> = self.views.iter().map(|view| view.config().samples).collect();
        let mut blocks: Vec<Vec<f32>> =
            lengths.iter().map(|length| vec![0.0; length * examples.len()]).collect();
        let mut slots: Vec<Vec<&mut [f32]>> = examples.iter().map(|_| Vec::new()).collect();
        for (block, &length) in blocks.iter_mut().zip(&lengths) {
            slots.iter_mut().zip(block.chunks_exact_mut(length)).for_each(|(slot, part)| slot.push(part));
        }
        let rendered = slots.into_par_iter().zip(&examples);
        rendered.try_for_each(|(slots, &example)| self.render(epoch, example, slots))?;
        let tensors = blocks.iter().zip(lengths).map(|(block, length)| to_tensor(block, length));
        tensors.collect::<Result<_>>().map(Views)
    }

    /// All views of one example, each into its slot.
    fn render(&self, epoch: u64, example: usize, slots: Vec<&mut [f32]>) -> Result<()> {
        let clip = self.examples.get(example).copied().unwrap_or(0);
        let mut shared = None;
        for (n, (view, slot)) in self.views.iter().zip(slots).enumerate() {
            let stream = |purpose| [purpose, epoch, example as u64, n as u64];
            let mut rng = ssl_core::rng(self.seed, &stream(VIEW));
            let params = Params::draw(view.config(), &mut rng);
            let length = view.needs(&params);
            let place = match shared {
                Some(place) => place,
                None => self.place(clip, length, &stream(PLACE))?,
            };
            if self.sampling.place == Place::Same {
                shared = Some(place);
            }
            let window = self.dataset.window(clip, start(&*self.dataset, clip, length, place), length)?;
            let other = match params.needs_other(view.config()) {
                true => Some(self.other(&params, slot.len(), &mut rng)?),
                false => None,
            };
            view.apply(&window, &params, other.as_deref(), slot)?;
        }
        Ok(())
    }

    /// Where a window lies in a clip: 0 at its start, 1 at its end.
    fn place(&self, clip: usize, length: usize, stream: &[u64]) -> Result<f32> {
        let mut rng = ssl_core::rng(self.seed, stream);
        let mut place = unit(&mut rng);
        let Some(quietest) = self.sampling.quietest else { return Ok(place) };
        for _ in 1..TRIES {
            let window = self.dataset.window(clip, start(&*self.dataset, clip, length, place), length)?;
            if rms_decibels(&window) >= quietest {
                break;
            }
            place = unit(&mut rng);
        }
        Ok(place)
    }

    /// A window of any clip.
    fn other(&self, params: &Params, length: usize, rng: &mut Rng) -> Result<Vec<f32>> {
        // Without a mixture it is noise.
        let set = if params.mix.is_some() { &self.dataset } else { &self.noise };
        let clip = below(rng, set.len() as u64) as usize;
        set.window(clip, start(&**set, clip, length, unit(rng)), length)
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

/// The first sample of a window at a place in a clip from 0 to 1.
fn start(dataset: &dyn AudioDataset, clip: usize, length: usize, place: f32) -> u64 {
    let room = dataset.frames(clip).saturating_sub(length as u64);
    ((f64::from(place) * (room as f64 + 1.0)) as u64).min(room)
}

impl Source for WindowSource {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        WindowSource::batches_per_epoch(self)
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Views> {
        self.views(epoch, index)
    }
}

/// Numbers that libtorch fills and copies on one thread: from 32,768 on it starts a parallel region, whose threads spin
/// beside those that make the views.
const PIECE: usize = 32_000;

/// Waves of one length, end to end, as a tensor `[B, T]`.
pub(crate) fn to_tensor(block: &[f32], length: usize) -> Result<Tensor> {
    let flat = Tensor::f_empty([block.len() as i64], (Kind::Float, Device::Cpu))?;
    for (piece, start) in block.chunks(PIECE).zip((0..).step_by(PIECE)) {
        flat.f_narrow(0, start, piece.len() as i64)?.f_copy_(&Tensor::f_from_slice(piece)?)?;
    }
    Ok(flat.f_view([-1, length as i64])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipArray;
    use crate::augment::Noise;

    /// Clips that count up in hundredths of their own thousand: a window tells where it is from.
    fn counting(lengths: &[usize]) -> Arc<dyn AudioDataset> {
        let clip =
            |(n, &length): (usize, &usize)| (0..length).map(|at| (1_000 * (n + 1) + at) as f32).collect();
        Arc::new(ClipArray::new(8_000, lengths.iter().enumerate().map(clip).collect()).unwrap())
    }

    fn source(
        set: Arc<dyn AudioDataset>,
        views: Vec<Augment>,
        sampling: Sampling,
        batch_size: usize,
    ) -> WindowSource {
        WindowSource::new(set, views, sampling, batch_size, 3).unwrap()
    }

    fn rows(batch: &Tensor) -> Vec<Vec<f32>> {
        (0..batch.size()[0]).map(|row| Vec::try_from(batch.get(row)).unwrap()).collect()
    }

    #[test]
    fn an_epoch_has_the_windows_that_lie_in_each_clip_or_one_of_each() {
        let set = counting(&[25, 7, 10]);
        for (epoch, expected) in [(Epoch::Windows, vec![0, 0, 1, 2]), (Epoch::Clips, vec![0, 1, 2])] {
            let sampling = Sampling { epoch, ..Sampling::default() };
            let source = source(Arc::clone(&set), vec![Augment::crop(10)], sampling, 1);
            assert_eq!(source.batches_per_epoch(), expected.len() as u64);
            let mut clips: Vec<usize> =
                (0..expected.len() as u64).flat_map(|index| source.clips(0, index).unwrap()).collect();
            clips.sort_unstable();
            assert_eq!(clips, expected);
            let message = source.views(0, expected.len() as u64).unwrap_err().to_string();
            assert_eq!(message, format!("batch: expected less than {0}, got {0}", expected.len()));
        }
    }

    #[test]
    fn windows_are_parts_of_their_clips_and_short_clips_are_filled_with_silence() {
        let source = source(counting(&[50, 3]), vec![Augment::crop(5)], Sampling::default(), 11);
        let mut starts = std::collections::BTreeSet::new();
        for epoch in 0..20 {
            let batch = source.views(epoch, 0).unwrap();
            for (clip, row) in source.clips(epoch, 0).unwrap().into_iter().zip(rows(&batch.0[0])) {
                if clip == 1 {
                    assert_eq!(row, [2000., 2001., 2002., 0., 0.]);
                    continue;
                }
                assert!(
                    row.windows(2).all(|pair| pair[1] == pair[0] + 1.) && row[0] >= 1000. && row[4] < 1050.
                );
                starts.insert(row[0] as usize - 1000);
            }
        }
        assert_eq!(
            (starts.len(), starts.first(), starts.last()),
            (46, Some(&0), Some(&45)),
            "each place is reached"
        );
    }

    #[test]
    fn views_lie_in_one_place_or_in_places_of_their_own() {
        for place in [Place::Same, Place::Own] {
            let views = vec![Augment::crop(5), Augment::crop(5)];
            let sampling = Sampling { place, ..Sampling::default() };
            let batch = source(counting(&[5_000]), views, sampling, 8).views(1, 2).unwrap();
            let equal = rows(&batch.0[0]).iter().zip(rows(&batch.0[1])).filter(|(a, b)| *a == b).count();
            assert_eq!(equal, if place == Place::Same { 8 } else { 0 }, "{place:?}");
        }
    }

    #[test]
    fn batches_are_a_function_of_seed_epoch_and_index_whatever_the_threads() {
        let loud = Augment { noise: Noise::Clips, ..Augment::wave(64).with_mix(0.5) };
        let make = |seed| {
            let views = vec![loud.clone(), Augment::wave(40)];
            WindowSource::new(counting(&[300, 200, 50, 400]), views, Sampling::default(), 4, seed).unwrap()
        };
        let (source, other) = (make(1), make(2));
        let equal = |a: &Views, b: &Views| a.0.iter().zip(&b.0).all(|(a, b)| a.equal(b));
        let first = source.views(5, 1).unwrap();
        assert_eq!((first.0[0].size(), first.0[1].size()), (vec![4, 64], vec![4, 40]));
        let order = |epoch| (0..3).flat_map(|index| source.clips(epoch, index).unwrap()).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(equal(&first, &pool.install(|| make(1).views(5, 1)).unwrap()));
        for another in [source.views(5, 0), source.views(6, 1), other.views(5, 1)] {
            assert!(!equal(&first, &another.unwrap()));
        }
    }

    #[test]
    fn quiet_places_are_drawn_again() {
        // A fifth of the clip is loud.
        let mut clip = vec![0.0; 40_000];
        clip[..8_000].fill(0.5);
        let set: Arc<dyn AudioDataset> = Arc::new(ClipArray::new(8_000, vec![clip]).unwrap());
        let loud = |quietest| {
            let source = source(
                Arc::clone(&set),
                vec![Augment::crop(10)],
                Sampling { quietest, ..Sampling::default() },
                500,
            );
            let rows = rows(&source.views(0, 0).unwrap().0[0]);
            rows.iter().filter(|row| row[0] > 0.0).count()
        };
        let (once, again) = (loud(None), loud(Some(-40.0)));
        // A fifth, and 1 - 0.8^8 of 500.
        assert!((70..130).contains(&once) && (390..445).contains(&again), "{once} {again}");
    }

    #[test]
    fn noise_from_clips_comes_from_the_set_that_was_given() {
        let noise: Arc<dyn AudioDataset> = Arc::new(ClipArray::new(8_000, vec![vec![1.0; 10]]).unwrap());
        let view = Augment {
            noise: Noise::Clips,
            noise_probability: 1.0,
            noise_decibels: [0.0, 0.0],
            ..Augment::crop(10)
        };
        let silent_half: Vec<f32> = [2.0, -2.0].repeat(5);
        let set: Arc<dyn AudioDataset> = Arc::new(ClipArray::new(8_000, vec![silent_half]).unwrap());
        let source = source(set, vec![view], Sampling::default(), 1).with_noise(noise).unwrap();
        assert_eq!(rows(&source.views(0, 0).unwrap().0[0])[0], [4.0, 0.0].repeat(5));
        let other: Arc<dyn AudioDataset> = Arc::new(ClipArray::new(16_000, vec![vec![1.0]]).unwrap());
        let message = source.with_noise(other).unwrap_err().to_string();
        assert_eq!(message, "noise: expected clips of 8000 Hz, got 1 of 16000 Hz");
    }

    #[test]
    fn what_cannot_be_drawn_from_is_named() {
        let make = |views: Vec<Augment>, batch_size, quietest| {
            let sampling = Sampling { quietest, ..Sampling::default() };
            WindowSource::new(counting(&[9]), views, sampling, batch_size, 0).unwrap_err().to_string()
        };
        assert_eq!(make(vec![], 1, None), "views: expected at least one, got none");
        let message = make(vec![Augment::crop(3)], 4, None);
        assert_eq!(message, "batch_size: expected 1 to 3 (the windows of an epoch), got 4");
        assert!(make(vec![Augment::crop(3)], 1, Some(2.0)).starts_with("quietest: expected -400 to 0"));
        assert!(make(vec![Augment::crop(0)], 1, None).starts_with("samples: expected 1"));
    }
}
