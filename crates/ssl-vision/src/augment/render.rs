//! From an image and its random numbers to a normalized view.
use super::blur::Blur;
use super::resample::{Resampler, Window};
use super::rotate::rotate;
use super::{Augment, Crop, Params, color};
use crate::Image;
use multiversion::multiversion;
use ssl_core::{Error, Result, Rng};

/// What one thread needs to make views; kept between images so that nothing is allocated for each.
#[derive(Debug, Default)]
pub struct Scratch {
    planes: Vec<f32>,
    other: Vec<f32>,
    resampler: Resampler,
    blur: Blur,
}

/// A checked [`Augment`] for images of a given number of channels.
#[derive(Debug, Clone)]
pub struct Augmenter {
    config: Augment,
    channels: usize,
    /// What each output channel is multiplied by, and what is then added.
    normalize: Vec<(f32, f32)>,
}

impl Augmenter {
    /// Checks `config` for images of `channels` channels (1 or 3).
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is out of range.
    pub fn new(config: Augment, channels: usize) -> Result<Self> {
        config.validate()?;
        if !matches!(channels, 1 | 3) {
            return Err(Error::config("channels", format!("expected 1 or 3, got {channels}")));
        }
        let normalize = normalization(&config.mean, &config.std, config.output_channels(channels));
        Ok(Augmenter { config, channels, normalize })
    }

    /// The configuration.
    pub fn config(&self) -> &Augment {
        &self.config
    }

    /// Channels of a view.
    pub fn output_channels(&self) -> usize {
        self.normalize.len()
    }

    /// Numbers in a view.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.config.size * self.config.size * self.normalize.len()
    }

    /// Writes a random view of `image` into `out`, `[size, size, channels]`.
    ///
    /// # Errors
    /// `Error::Config` when the image's channels or the length of `out` differ from what was announced.
    pub fn apply(
        &self,
        image: &Image<'_>,
        rng: &mut Rng,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        let params = Params::draw(&self.config, image.width(), image.height(), rng);
        self.apply_params(image, &params, scratch, out)
    }

    /// Writes the view of `image` that `params` describe into `out`, `[size, size, channels]`.
    ///
    /// # Errors
    /// `Error::Config` when the image's channels, the crop or the length of `out` do not fit.
    pub fn apply_params(
        &self,
        image: &Image<'_>,
        params: &Params,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        self.check(image, params, out)?;
        let size = self.config.size;
        let Scratch { planes, other, resampler, blur } = scratch;
        planes.resize(size * size * self.channels, 0.0);
        let (across, down) = (Window::whole(size, params.flip), Window::whole(size, params.vertical_flip));
        match self.config.padding {
            0 => resampler.run(image, params.crop, across, down, planes),
            padding => resampler.run(&padded(image, padding)?, params.crop, across, down, planes),
        }
        if params.angle != 0.0 {
            rotate(planes, other, size, params.angle, self.config.rotation_interpolation);
        }
        color::adjust(planes, self.channels, &params.adjusts, params.grayscale && self.channels == 3);
        if let Some(sigma) = params.blur_sigma {
            // A reflected edge has no more than the other side's pixels.
            blur.run(planes, size, size, self.config.blur_side().min(2 * size - 1), sigma);
        }
        if params.solarize {
            solarize(planes, self.config.solarize_threshold);
        }
        interleave(planes, self.channels, &self.normalize, out);
        Ok(())
    }

    fn check(&self, image: &Image<'_>, params: &Params, out: &[f32]) -> Result<()> {
        if image.channels() != self.channels {
            return Err(Error::config(
                "image",
                format!("expected {} channels, got {}", self.channels, image.channels()),
            ));
        }
        let padding = 2 * self.config.padding;
        check_crop(params.crop, image.width() + padding, image.height() + padding)?;
        if out.len() != self.len() {
            return Err(Error::config("view", format!("expected {} numbers, got {}", self.len(), out.len())));
        }
        Ok(())
    }
}

/// An image with `padding` black pixels on every side.
fn padded(image: &Image<'_>, padding: usize) -> Result<Image<'static>> {
    let (channels, row) = (image.channels(), image.width() * image.channels());
    let (width, height) = (image.width() + 2 * padding, image.height() + 2 * padding);
    let mut data = vec![0; width * height * channels];
    let rows = data.chunks_exact_mut(width * channels).skip(padding);
    for (out, row) in rows.zip(image.data().chunks_exact(row)) {
        out.iter_mut().skip(padding * channels).zip(row).for_each(|(out, x)| *out = *x);
    }
    Image::new(width, height, channels, data)
}

/// Checks that a crop is a box of at least one pixel inside an image.
pub(crate) fn check_crop(crop: Crop, width: usize, height: usize) -> Result<()> {
    let inside = |begin: usize, length: usize, end: usize| {
        length > 0 && begin.checked_add(length).is_some_and(|last| last <= end)
    };
    if inside(crop.left, crop.width, width) && inside(crop.top, crop.height, height) {
        return Ok(());
    }
    Err(Error::config("crop", format!("expected a box inside {width}x{height} pixels, got {crop:?}")))
}

/// Factor and summand per output channel; a single mean serves all channels.
pub(crate) fn normalization(mean: &[f32], std: &[f32], channels: usize) -> Vec<(f32, f32)> {
    let pairs = mean.iter().zip(std).map(|(mean, std)| (1.0 / std, -mean / std));
    pairs.cycle().take(channels).collect()
}

fn solarize(planes: &mut [f32], threshold: f32) {
    planes.iter_mut().for_each(|x| *x = if *x >= threshold { 1.0 - *x } else { *x });
}

/// Normalizes planes into a channels-last block; one plane fills all channels.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+avx512f+avx512bw+avx512vl+avx512dq",
    "x86_64+avx+avx2+bmi1+bmi2"
))]
pub(crate) fn interleave(planes: &[f32], channels: usize, normalize: &[(f32, f32)], out: &mut [f32]) {
    let area = planes.len() / channels.max(1);
    let (red, rest) = planes.split_at(area);
    match (channels, normalize) {
        (1, &[(factor, add)]) => {
            out.iter_mut().zip(red).for_each(|(out, x)| *out = factor * x + add);
        }
        (_, &[r, g, b]) => {
            let (green, blue) = if channels == 3 { rest.split_at(area) } else { (red, red) };
            let (pixels, _) = out.as_chunks_mut::<3>();
            for (((out, x), y), z) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
                *out = [r.0 * x + r.1, g.0 * y + g.1, b.0 * z + b.1];
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(width: usize, height: usize, channels: usize) -> Image<'static> {
        let value = |i: usize| {
            let (pixel, c) = (i / channels, i % channels);
            ((37 * (pixel % width) + 101 * (pixel / width) + 53 * c) % 256) as u8
        };
        Image::new(width, height, channels, (0..width * height * channels).map(value).collect::<Vec<_>>())
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn views_are_finite_and_in_range(w in 1_usize..70, h in 1_usize..70, rgb: bool, size in 3_usize..40, seed: u64) {
            let config = Augment {
                rotation_degrees: 30.0,
                blur_probability: 0.5,
                solarize_probability: 0.5,
                ..Augment::simclr(size, 1.0)
            };
            let channels = if rgb { 3 } else { 1 };
            let augmenter = Augmenter::new(config.normalized(&[0.5; 3], &[0.5; 3]), channels).unwrap();
            let mut out = vec![f32::NAN; augmenter.len()];
            let mut scratch = Scratch::default();
            augmenter.apply(&pattern(w, h, channels), &mut ssl_core::rng(seed, &[]), &mut scratch, &mut out).unwrap();
            prop_assert!(out.iter().all(|x| (-1.001..=1.001).contains(x)));
        }
    }

    #[test]
    fn scratch_left_by_another_view_changes_nothing() {
        let augmenter = Augmenter::new(Augment::simclr(64, 1.0), 3).unwrap();
        let small = Augmenter::new(Augment::simclr(16, 1.0), 3).unwrap();
        let image = pattern(90, 70, 3);
        let mut scratch = Scratch::default();
        let view = |augmenter: &Augmenter, scratch: &mut Scratch, seed| {
            let mut out = vec![0.0; augmenter.len()];
            augmenter.apply(&image, &mut ssl_core::rng(seed, &[]), scratch, &mut out).unwrap();
            out
        };
        for seed in 0..20 {
            let first = view(&augmenter, &mut Scratch::default(), seed);
            view(&small, &mut scratch, seed + 1);
            assert_eq!(first, view(&augmenter, &mut scratch, seed));
        }
    }

    #[test]
    fn padding_is_black_and_as_wide_on_every_side() {
        let config = Augment { padding: 2, ..Augment::whole(7).normalized(&[0.0], &[1.0]) };
        let augmenter = Augmenter::new(config, 3).unwrap();
        let image = Image::new(3, 3, 3, (1..=27).collect::<Vec<u8>>()).unwrap();
        let mut out = vec![f32::NAN; augmenter.len()];
        augmenter.apply(&image, &mut ssl_core::rng(0, &[]), &mut Scratch::default(), &mut out).unwrap();
        for (at, value) in out.iter().enumerate() {
            let (x, y, c) = (at / 3 % 7, at / 21, at % 3);
            let inside = (2..5).contains(&x) && (2..5).contains(&y);
            let expected = if inside { 1 + 9 * (y - 2) + 3 * (x - 2) + c } else { 0 };
            assert!((value * 255.0 - expected as f32).abs() < 1e-4, "{x} {y} {c}: {value}");
        }
    }

    #[test]
    fn grey_fills_three_channels() {
        let config = Augment::whole(4).normalized(&[0.0, 0.5, 0.0], &[1.0, 0.5, 2.0]);
        let augmenter = Augmenter::new(config, 1).unwrap();
        let mut out = vec![0.0; 48];
        let image = Image::new(4, 4, 1, vec![255; 16]).unwrap();
        augmenter.apply(&image, &mut ssl_core::rng(0, &[]), &mut Scratch::default(), &mut out).unwrap();
        assert_eq!(out[..3], [1.0, 1.0, 0.5]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let augmenter = Augmenter::new(Augment::whole(4), 3).unwrap();
        let mut scratch = Scratch::default();
        let image = pattern(5, 5, 3);
        let mut out = vec![0.0; 48];
        let crop = Crop { left: 1, top: 0, width: 5, height: 5 };
        assert!(augmenter.apply_params(&image, &Params::of_crop(crop), &mut scratch, &mut out).is_err());
        let rng = &mut ssl_core::rng(0, &[]);
        assert!(augmenter.apply(&pattern(5, 5, 1), rng, &mut scratch, &mut out).is_err());
        assert!(augmenter.apply(&image, rng, &mut scratch, &mut out[..47]).is_err());
    }
}
