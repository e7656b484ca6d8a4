//! Videos as the encoder takes them, what is asked of them, and what costs no training.
//!
//! Source of the floors: mean differences between frames, as in Bobick & Davis, 2001 (motion templates):
//! <https://doi.org/10.1109/34.910878>; colour histograms, Swain & Ballard, 1991: <https://doi.org/10.1007/BF00130487>.
use crate::corrupt;
use ssl_core::report::Figure;
use ssl_examples::{Examples, Probes, Task};
use ssl_video::{Clean, LabelSet, VideoDataset};
use std::path::Path;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Side of the mean difference image, in pixels.
const SIDE: i64 = 16;
/// Bins of a channel's histogram.
const BINS: i64 = 16;

/// Videos without augmentation.
#[derive(Debug)]
pub(crate) struct Clips {
    set: Arc<dyn VideoDataset>,
    clean: Clean,
    labels: Vec<LabelSet>,
}

impl Clips {
    pub(crate) fn new(set: Arc<dyn VideoDataset>, clean: Clean) -> Self {
        let labels = set.label_sets();
        Clips { set, clean, labels }
    }

    fn stem(&self, index: usize) -> String {
        let name = self.set.name(index);
        Path::new(&name).file_stem().map_or(name.clone(), |stem| stem.to_string_lossy().into_owned())
    }

    /// Windows from 0 to 1.
    fn full_scale(&self, indices: &[usize]) -> ssl_core::Result<Tensor> {
        let channels = self.clean.mean.len();
        let plain = Clean { mean: vec![0.; channels], std: vec![1.; channels], ..self.clean.clone() };
        Ok(plain.batch(&*self.set, indices)?.f_to_kind(Kind::Float)?)
    }
}

/// All kinds of labels that both sets have.
pub(crate) fn probes<'a>(train: &'a Clips, test: Option<&'a Clips>) -> Option<Probes<'a, Tensor>> {
    let test = test?;
    let task = |labels: &LabelSet| {
        let other = test.labels.iter().find(|other| other.name == labels.name)?;
        Some(Task {
            name: labels.name.clone(),
            labels: labels.labels.iter().chain(&other.labels).copied().collect(),
            label_names: labels.class_names.clone(),
            train: (0..train.len()).collect(),
            test: (train.len()..train.len() + test.len()).collect(),
        })
    };
    let tasks: Vec<Task> = train.labels.iter().filter_map(task).collect();
    (!tasks.is_empty()).then(|| Probes { sets: vec![train, test], tasks })
}

impl Examples<Tensor> for Clips {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn inputs(&self, indices: &[usize]) -> ssl_core::Result<Tensor> {
        self.clean.batch(&*self.set, indices)
    }

    fn floors(&self) -> &[&'static str] {
        &["mean_frame_difference", "color_histogram"]
    }

    fn floor(&self, name: &str, indices: &[usize]) -> ssl_core::Result<Tensor> {
        let x = self.full_scale(indices)?;
        if name == "mean_frame_difference" {
            let frames = x.size().get(2).copied().unwrap_or(1);
            let (before, after) = (x.f_narrow(2, 0, frames - 1)?, x.f_narrow(2, 1, frames - 1)?);
            let mean = after.f_sub(&before)?.f_abs()?.f_mean_dim([2i64].as_slice(), false, Kind::Float)?;
            return Ok(mean.f_adaptive_avg_pool2d([SIDE, SIDE])?.f_flatten(1, -1)?);
        }
        let bins = x.f_mul_scalar(BINS as f64)?.f_floor()?.f_clamp_max((BINS - 1) as f64)?;
        let part = |bin: i64| -> ssl_core::Result<Tensor> {
            let is_in = bins.f_eq(bin)?.f_to_kind(Kind::Float)?;
            Ok(is_in.f_mean_dim([2i64, 3, 4].as_slice(), false, Kind::Float)?)
        };
        let parts = (0..BINS).map(part).collect::<ssl_core::Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    fn block(&self) -> usize {
        64
    }

    fn watched(&self) -> usize {
        1000
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
        let worse = corrupt::corrupt(&self.full_scale(indices)?, name, severity, (indices, seed))?;
        let of = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1, 1]);
        Ok(worse.f_sub(&of(&self.clean.mean)?)?.f_div(&of(&self.clean.std)?)?)
    }

    fn name(&self, index: usize) -> Option<String> {
        Some(self.set.name(index))
    }

    fn labels(&self) -> Option<Vec<i64>> {
        self.labels.first().map(|labels| labels.labels.clone())
    }

    fn label_names(&self) -> Vec<String> {
        self.labels.first().map(|labels| labels.class_names.clone()).unwrap_or_default()
    }

    fn figure(&self, index: usize, caption: &str) -> ssl_core::Result<Option<Figure>> {
        let stem = self.stem(index);
        let caption = if caption.is_empty() { stem } else { format!("{caption} {stem}") };
        crate::picture::film(&self.inputs(&[index])?, &self.clean, caption).map(Some)
    }

    fn thumbnail(&self, index: usize) -> ssl_core::Result<Option<Figure>> {
        crate::picture::strip(&self.inputs(&[index])?, &self.clean, self.stem(index)).map(Some)
    }
}
