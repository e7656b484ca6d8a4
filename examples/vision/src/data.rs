//! The images of a run: training and test set, clean examples, held-out batches, pictures.
use crate::corrupt;
use anyhow::{Context, Result, ensure};
use ssl_core::checkpoint::write_atomically;
use ssl_core::report::Figure;
use ssl_core::{Pair, Source, Views, mix};
use ssl_examples::{Examples, LabelledSource, RunDir};
use ssl_vision::readers::{Options, Split, open};
use ssl_vision::{Augment, Clean, ImageDataset, Planted, Planting, Recipe, Subset, ViewSource, grid_png};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Side of the raw images that serve as a floor, in pixels.
const RAW: usize = 32;
/// Side of the images in the report, in pixels, at most.
const SHOWN: usize = 96;
/// Labelled images without a test set give one where they are at least so many, of at most so many.
const LEAST: usize = 50;
const MOST: usize = 10_000;
/// The seed of that test set: runs of several seeds are measured on the same images.
const HELD_BACK: u64 = 0;
/// Apart from the training views, also where there is no test set.
const HELD_OUT: u64 = 107;
/// Apart from both.
const TUNED: u64 = 108;
/// Apart from all: views that are embedded, to see how much they differ.
const DRAWN: u64 = 116;

/// A training set, and a test set where the data has one.
#[derive(Debug)]
pub(crate) struct Images {
    train: Arc<dyn ImageDataset>,
    test: Option<Arc<dyn ImageDataset>>,
    /// The planted group of each training image and of each test image.
    groups: Option<[Vec<i64>; 2]>,
}

impl Images {
    /// Opens what lies at `path`, without the images of the class `left_out`; `limit` keeps a random part of the
    /// training set. Labelled images without a test set give a tenth of themselves as one, which no seed changes.
    pub(crate) fn open(
        path: &Path,
        left_out: Option<&str>,
        (limit, seed): (Option<usize>, u64),
        max_bad: f64,
    ) -> Result<Self> {
        let options = Options { max_bad, ..Options::default() };
        let train = open(path, Split::Train, &options)?;
        let test = match open(path, Split::Test, &options) {
            Ok(test) => Some(test),
            Err(ssl_core::Error::Absent { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let (train, test) = match test {
            None if train.len() >= LEAST && train.labels().is_some() => {
                let held = (train.len() / 10).min(MOST);
                let (rest, held) = Subset::split(&train, held, HELD_BACK)?;
                (Arc::new(rest) as Arc<dyn ImageDataset>, Some(Arc::new(held) as _))
            }
            test => (train, test),
        };
        let (train, test) = match left_out {
            Some(class) => {
                let class = class_of(&*train, class).context("--leave-out")?;
                (without(&train, class)?, test.map(|test| without(&test, class)).transpose()?)
            }
            None => (train, test),
        };
        let train: Arc<dyn ImageDataset> = match limit {
            Some(0) => anyhow::bail!("--limit: expected at least 1, got 0"),
            Some(n) if n < train.len() => Arc::new(Subset::random(train, n, seed)?),
            _ => train,
        };
        Ok(Images { train, test, groups: None })
    }

    /// The same with a patch in some of the images, if one is to be planted.
    pub(crate) fn planted(self, planting: Option<&Planting>) -> Result<Self> {
        let Some(planting) = planting else { return Ok(self) };
        let train = Planted::new(self.train, planting, 0)?;
        let test = self.test.map(|test| Planted::new(test, planting, 1)).transpose()?;
        let groups = [train.groups(), test.as_ref().map(Planted::groups).unwrap_or_default()];
        Ok(Images {
            train: Arc::new(train),
            test: test.map(|test| Arc::new(test) as _),
            groups: Some(groups),
        })
    }

    pub(crate) fn train(&self) -> Arc<dyn ImageDataset> {
        Arc::clone(&self.train)
    }

    /// The images found unreadable so far, each with its reason.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let test = self.test.as_ref().map(|test| test.skipped()).unwrap_or_default();
        self.train.skipped().into_iter().chain(test).collect()
    }

    pub(crate) fn train_len(&self) -> usize {
        self.train.len()
    }

    /// Fits a recipe made for other images: as many channels as the images have, or as the normalization makes.
    pub(crate) fn adapt(&self, recipe: &mut Recipe) -> Result<()> {
        let (have, want) = (self.train.channels(), recipe.pixels.mean.len());
        if have > 1 && want == 1 {
            recipe.pixels.mean = vec![recipe.pixels.mean.first().copied().unwrap_or(0.5); have];
            recipe.pixels.std = vec![recipe.pixels.std.first().copied().unwrap_or(0.5); have];
        }
        ensure!(
            have == 1 || have == recipe.pixels.mean.len(),
            "the images have {have} channels, the recipe normalizes {want}"
        );
        recipe.encoder = recipe.encoder.clone().with_channels(recipe.pixels.mean.len() as i64);
        // One image shows whether the settings suit the data, before the run has a directory.
        let _ = recipe.pixels.batch(self.train.as_ref(), &[0])?;
        Ok(())
    }

    /// Batches of test images for the pretext task, or of training images where there is no test set.
    pub(crate) fn held_out(&self, views: Vec<Augment>, n: usize, seed: u64) -> Result<Vec<Views>> {
        let set = self.test.as_ref().unwrap_or(&self.train);
        let n = n.min(set.len());
        if n == 0 {
            return Ok(Vec::new());
        }
        let batch = n.min(250);
        let source = ViewSource::new(Arc::clone(set), views, batch, mix(seed, HELD_OUT))?;
        Ok((0..(n / batch) as u64).map(|index| source.batch(0, index)).collect::<ssl_core::Result<_>>()?)
    }

    pub(crate) fn train_examples(&self, clean: &Clean) -> CleanImages {
        let groups = self.groups.as_ref().map(|[train, _]| train.clone());
        CleanImages { images: self.train(), clean: clean.clone(), views: None, groups }
    }

    pub(crate) fn test_examples(&self, clean: &Clean) -> Option<CleanImages> {
        self.test.as_ref().map(|test| CleanImages {
            images: Arc::clone(test),
            clean: clean.clone(),
            views: None,
            groups: self.groups.as_ref().map(|[_, test]| test.clone()),
        })
    }
}

/// The number of a class, by its name or number.
pub(crate) fn class_of(images: &dyn ImageDataset, wanted: &str) -> Result<i64> {
    let labels = images.labels().context("the images have no labels")?;
    let names = images.class_names();
    let number =
        names.iter().position(|name| name == wanted).map(|place| place as i64).or(wanted.parse().ok());
    number
        .filter(|number| labels.contains(number))
        .with_context(|| format!("expected {}, got {wanted}", names.join(", ")))
}

/// The images of all other classes.
fn without(images: &Arc<dyn ImageDataset>, class: i64) -> ssl_core::Result<Arc<dyn ImageDataset>> {
    let others = (0..images.len()).filter(|&index| images.label(index) != Some(class)).collect();
    Ok(Arc::new(Subset::new(Arc::clone(images), others)?))
}

/// Images without augmentation, as the encoder takes them.
#[derive(Debug)]
pub(crate) struct CleanImages {
    images: Arc<dyn ImageDataset>,
    clean: Clean,
    views: Option<(Augment, Option<Device>)>,
    /// The planted group of each.
    groups: Option<Vec<i64>>,
}

impl Examples<Tensor> for CleanImages {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn inputs(&self, indices: &[usize]) -> ssl_core::Result<Tensor> {
        self.clean.batch(self.images.as_ref(), indices)
    }

    /// Pixels of full scale 1, of large images a small copy. The channels vary last, as in a file.
    fn floor(&self, _name: &str, indices: &[usize]) -> ssl_core::Result<Tensor> {
        let x = self.pixels(RAW).batch(self.images.as_ref(), indices)?;
        Ok(x.f_flatten(1, -1)?.f_to_kind(Kind::Float)?)
    }

    fn views(
        &self,
        rows: &[usize],
        batch_size: usize,
        seed: u64,
    ) -> ssl_core::Result<Option<LabelledSource<'_, Tensor>>> {
        let (Some((view, device)), Some(labels)) = (&self.views, self.images.labels()) else {
            return Ok(None);
        };
        let images = Arc::new(Subset::new(Arc::clone(&self.images), rows.to_vec())?);
        let source = ViewSource::new(images, vec![view.clone()], batch_size, mix(seed, TUNED))?;
        let source = match *device {
            Some(device) => source.on_device(device)?,
            None => source,
        };
        let labels = rows.iter().filter_map(|&row| labels.get(row).copied()).collect();
        Ok(Some(Box::new(LabelledViews { source, labels })))
    }

    fn drawn(&self, indices: &[usize], draw: u64, seed: u64) -> ssl_core::Result<Option<Tensor>> {
        let Some((view, device)) = &self.views else { return Ok(None) };
        let images = Arc::new(Subset::new(Arc::clone(&self.images), indices.to_vec())?);
        let source = ViewSource::new(images, vec![view.clone()], indices.len(), mix(seed, DRAWN))?;
        let source = match *device {
            Some(device) => source.on_device(device)?,
            None => source,
        };
        let Views(mut views) = source.views(draw, 0)?;
        // The source shuffles them: back to the order that was asked for.
        let mut order: Vec<(usize, i64)> = source.indices(draw, 0)?.into_iter().zip(0..).collect();
        order.sort_unstable();
        let places: Vec<i64> = order.into_iter().map(|(_, place)| place).collect();
        let views = views.swap_remove(0);
        let places = Tensor::f_from_slice(&places)?.f_to_device(views.device())?;
        Ok(Some(views.f_index_select(0, &places)?))
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
        let channels = self.clean.mean.len();
        let plain = Clean { mean: vec![0.; channels], std: vec![1.; channels], ..self.clean.clone() };
        let x = plain.batch(self.images.as_ref(), indices)?.f_to_kind(Kind::Float)?;
        let worse = corrupt::corrupt(&x, name, severity, (indices, seed))?;
        let of = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1]);
        Ok(worse.f_sub(&of(&self.clean.mean)?)?.f_div(&of(&self.clean.std)?)?)
    }

    fn name(&self, index: usize) -> Option<String> {
        Some(self.images.name(index))
    }

    fn planted(&self) -> Option<(Vec<String>, Vec<i64>)> {
        Some((Planting::NAMES.map(String::from).to_vec(), self.groups.clone()?))
    }

    fn labels(&self) -> Option<Vec<i64>> {
        self.images.labels()
    }

    fn label_names(&self) -> Vec<String> {
        self.images.class_names().to_vec()
    }

    fn figure(&self, index: usize, caption: &str) -> ssl_core::Result<Option<Figure>> {
        let pixels = self.pixels(SHOWN);
        let image = pixels.batch(self.images.as_ref(), &[index])?;
        let png = grid_png(&[image], 1, &pixels.mean, &pixels.std)?;
        Ok(Some(Figure::embedded("image/png", &png, caption)))
    }
}

impl CleanImages {
    /// With random crops of at least half of an image, mirrored or not, as views: fine-tuned on instead of the images
    /// themselves; made on `device` if there is one.
    pub(crate) fn with_crops(self, device: Option<Device>) -> Self {
        let crops = Augment { crop_scale: [0.5, 1.], ..Augment::crop_and_flip(self.clean.size) };
        let views = Some((crops.normalized(&self.clean.mean, &self.clean.std), device));
        CleanImages { views, ..self }
    }

    /// Images of full scale 1: of their own size where they share one, at most so large.
    fn pixels(&self, most: usize) -> Clean {
        let size = self.images.size().map_or(most, |(width, height)| width.max(height).min(most));
        let channels = self.images.channels();
        Clean { size, mean: vec![0.; channels], std: vec![1.; channels] }
    }
}

/// One random view of each image, with its label.
struct LabelledViews {
    source: ViewSource,
    labels: Vec<i64>,
}

impl Source for LabelledViews {
    type Batch = Pair<Tensor, Tensor>;

    fn batches_per_epoch(&self) -> u64 {
        self.source.batches_per_epoch()
    }

    fn batch(&self, epoch: u64, index: u64) -> ssl_core::Result<Self::Batch> {
        let rows = self.source.indices(epoch, index)?;
        let labels: Vec<i64> = rows.iter().filter_map(|&row| self.labels.get(row).copied()).collect();
        let Views(mut views) = self.source.views(epoch, index)?;
        Ok(Pair(views.swap_remove(0), Tensor::f_from_slice(&labels)?))
    }
}

/// Writes `views.png`: what the method sees of the first images, one row per view.
pub(crate) fn write_views(dir: &RunDir, source: &ViewSource, clean: &Clean) -> Result<Figure> {
    let Views(views) = source.batch(0, 0)?;
    let png = grid_png(&views, 12, &clean.mean, &clean.std)?;
    write_atomically(&dir.file("views.png"), &png)?;
    Ok(Figure::embedded("image/png", &png, "each column an image, each row a view"))
}

/// Writes `look.png`: what the method makes of held-out images, one row per name.
pub(crate) fn write_look(dir: &RunDir, rows: &[(String, Tensor)], clean: &Clean) -> Result<Figure> {
    let images: Vec<Tensor> = rows.iter().map(|(_, images)| images.shallow_clone()).collect();
    let png = grid_png(&images, 12, &clean.mean, &clean.std)?;
    write_atomically(&dir.file("look.png"), &png)?;
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    Ok(Figure::embedded("image/png", &png, format!("each column an image; rows: {}", names.join(", "))))
}
