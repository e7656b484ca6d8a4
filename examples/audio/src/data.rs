//! The recordings of a run: training and test set, held-out windows, clips as the encoder takes them.
use crate::corrupt;
use anyhow::{Result, bail};
use ssl_audio::augment::Augment;
use ssl_audio::frontend::{LogMel, MelConfig};
use ssl_audio::readers::{Options, Split, open};
use ssl_audio::{AudioDataset, Clean, Joined, Part, Recipe, Sampling, WindowSource};
use ssl_core::report::Figure;
use ssl_core::{Source, Views, mix};
use ssl_examples::Examples;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// Recordings without a test set give a tenth of themselves as one, of at most so many.
const MOST: usize = 2_000;
/// The seed of that test set: runs of several seeds are measured on the same recordings.
const HELD_BACK: u64 = 0;
/// Apart from the training windows, also where there is no test set.
const HELD_OUT: u64 = 111;
/// How many times smaller than a spectrogram one in little is.
const SHRINK: i64 = 3;
/// Bands of the spectrogram whose means and deviations are a floor: the default of torchaudio.
const BANDS: i64 = 128;

/// A training set, and a test set where there are at least ten recordings.
#[derive(Debug)]
pub(crate) struct Sounds {
    train: Arc<dyn AudioDataset>,
    test: Option<Arc<dyn AudioDataset>>,
}

impl Sounds {
    /// Opens what lies at `paths`; a `limit` keeps a random part of the training set. Recordings without a test set
    /// give a tenth of themselves as one, which no seed changes.
    pub(crate) fn open(
        paths: &[PathBuf],
        options: &Options,
        (limit, seed): (Option<usize>, u64),
    ) -> Result<Self> {
        let sets = paths.iter().map(|path| splits(path, options)).collect::<Result<Vec<_>>>()?;
        let train = Arc::new(Joined::new(sets.iter().map(|(train, _)| Arc::clone(train)).collect())?);
        let tests: Vec<_> = sets.into_iter().filter_map(|(_, test)| test).collect();
        let test = match tests.is_empty() {
            true => None,
            false => Some(Arc::new(Joined::new(tests)?) as Arc<dyn AudioDataset>),
        };
        let train: Arc<dyn AudioDataset> = match limit {
            Some(0) => bail!("--limit: expected at least 1, got 0"),
            Some(n) if n < train.len() => Arc::new(Part::random(train, n, seed)?),
            _ => train,
        };
        Ok(Sounds { train, test })
    }

    pub(crate) fn train(&self) -> Arc<dyn AudioDataset> {
        Arc::clone(&self.train)
    }

    /// Whether the recordings themselves have labels to be told.
    pub(crate) fn has_labels(&self) -> bool {
        self.train.labels().is_some() && self.test.as_ref().is_some_and(|test| test.labels().is_some())
    }

    /// Recordings and seconds to train on.
    pub(crate) fn size(&self) -> (usize, f64) {
        (self.train.len(), (0..self.train.len()).map(|index| self.train.seconds(index)).sum())
    }

    /// The recordings left out so far, each with its reason.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let test = self.test.as_ref().map(|test| test.skipped()).unwrap_or_default();
        self.train.skipped().into_iter().chain(test).collect()
    }

    /// Batches of test windows for the pretext task, or of training windows where there is no test set.
    pub(crate) fn held_out(
        &self,
        views: Vec<Augment>,
        sampling: Sampling,
        (batch, windows): (usize, usize),
        seed: u64,
    ) -> Result<Vec<Views>> {
        if windows == 0 {
            return Ok(Vec::new());
        }
        let set = self.test.as_ref().unwrap_or(&self.train);
        let source =
            |batch| WindowSource::new(Arc::clone(set), views.clone(), sampling, batch, mix(seed, HELD_OUT));
        // A short test set gives smaller batches.
        let sizes = std::iter::successors(Some(batch), |size| Some(size / 2).filter(|&size| size > 0));
        let Some(source) = sizes.map(source).find_map(ssl_core::Result::ok) else { return Ok(Vec::new()) };
        let batches = ((windows / source.batch_size()).max(1) as u64).min(source.batches_per_epoch());
        Ok((0..batches).map(|index| source.batch(0, index)).collect::<ssl_core::Result<_>>()?)
    }

    /// The recordings of both sets, to be embedded.
    pub(crate) fn examples(&self, recipe: &Recipe) -> Result<(Clips, Option<Clips>)> {
        let clips = |set: &Arc<dyn AudioDataset>| Clips::new(Arc::clone(set), recipe.clean, recipe);
        Ok((clips(&self.train)?, self.test.as_ref().map(clips).transpose()?))
    }
}

type Sets = (Arc<dyn AudioDataset>, Option<Arc<dyn AudioDataset>>);

/// The training set at a path, and its test set or a tenth of it.
fn splits(path: &Path, options: &Options) -> Result<Sets> {
    let train = open(path, Split::Train, options)?;
    match open(path, Split::Test, options) {
        Ok(test) => Ok((train, Some(test))),
        Err(ssl_core::Error::Absent { .. }) if train.len() >= 10 => {
            let (rest, held) = Part::split(&train, (train.len() / 10).min(MOST), HELD_BACK)?;
            Ok((Arc::new(rest), Some(Arc::new(held))))
        }
        Err(ssl_core::Error::Absent { .. }) => Ok((train, None)),
        Err(error) => Err(error.into()),
    }
}

/// Recordings without augmentation, as the encoder takes them.
#[derive(Debug)]
pub(crate) struct Clips {
    set: Arc<dyn AudioDataset>,
    clean: Clean,
    bands: Mutex<LogMel>,
}

impl Clips {
    pub(crate) fn new(set: Arc<dyn AudioDataset>, clean: Clean, recipe: &Recipe) -> Result<Self> {
        let rate = recipe.encoder.sample_rate();
        // Windows of 64 ms, as BYOL-A's, can tell so many bands apart.
        let fft = i64::from(rate) * 64 / 1000;
        let mel = MelConfig { sample_rate: rate, fft, window: fft, mels: BANDS, ..MelConfig::default() };
        Ok(Clips { set, clean, bands: Mutex::new(LogMel::new(&mel, Device::Cpu)?) })
    }
}

impl Examples<Tensor> for Clips {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn inputs(&self, indices: &[usize]) -> ssl_core::Result<Tensor> {
        self.clean.batch(&*self.set, indices)
    }

    fn floors(&self) -> &[&'static str] {
        &["log_mel"]
    }

    /// Means and deviations over time of the bands of a spectrogram.
    fn floor(&self, _name: &str, indices: &[usize]) -> ssl_core::Result<Tensor> {
        let bands = self.bands.lock().unwrap_or_else(PoisonError::into_inner);
        let mel = bands.forward(&self.inputs(indices)?)?.f_to_kind(Kind::Float)?;
        let mean = mel.f_mean_dim([2i64].as_slice(), false, Kind::Float)?;
        let deviation = mel.f_std_dim([2i64].as_slice(), false, false)?;
        Ok(Tensor::f_cat(&[mean, deviation], 1)?)
    }

    fn block(&self) -> usize {
        32
    }

    fn watched(&self) -> usize {
        600
    }

    fn corruptions(&self) -> &[&'static str] {
        &corrupt::NAMES
    }

    fn corrupted(
        &self,
        name: &str,
        severity: usize,
        indices: &[usize],
        seed: u64,
    ) -> ssl_core::Result<Tensor> {
        corrupt::corrupt(&self.inputs(indices)?, name, severity, (indices, seed))
    }

    fn name(&self, index: usize) -> Option<String> {
        Some(self.set.name(index))
    }

    fn labels(&self) -> Option<Vec<i64>> {
        self.set.labels()
    }

    fn label_names(&self) -> Vec<String> {
        self.set.class_names().to_vec()
    }

    fn figure(&self, index: usize, caption: &str) -> ssl_core::Result<Option<Figure>> {
        let wave = self.clean.batch(&*self.set, &[index])?;
        let name = self.set.name(index);
        let name =
            Path::new(&name).file_stem().map_or(name.clone(), |stem| stem.to_string_lossy().into_owned());
        let caption = if caption.is_empty() { name } else { format!("{caption} {name}") };
        let rate = self.set.sample_rate();
        let shown = crate::picture::player(&wave.f_get(0)?, rate, caption)
            .and_then(|player| Ok(player.below("image/png", &crate::picture::small(&wave, rate, 1)?)));
        Ok(Some(shown.map_err(|error| ssl_core::Error::config("figure", format!("{error:#}")))?))
    }

    fn thumbnail(&self, index: usize) -> ssl_core::Result<Option<Figure>> {
        let wave = self.clean.batch(&*self.set, &[index])?;
        let name = self.set.name(index);
        let png = crate::picture::small(&wave, self.set.sample_rate(), SHRINK)
            .map_err(|error| ssl_core::Error::config("figure", format!("{error:#}")))?;
        Ok(Some(Figure::embedded("image/png", &png, name)))
    }
}
