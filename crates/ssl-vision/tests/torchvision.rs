//! Each augmentation against torchvision's, on patterns that need no file.
//!
//! `fixtures/torchvision.json` is made by `fixtures/make_torchvision.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use serde::Deserialize;
use ssl_vision::augment::{Adjust, Crop, Interpolation, Params};
use ssl_vision::{Augment, Augmenter, BatchAugmenter, Image, Scratch};
use tch::{Device, Tensor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    pattern: String,
    shape: [usize; 3],
    crop: [usize; 4],
    size: usize,
    #[serde(default)]
    flip: bool,
    #[serde(default)]
    vertical_flip: bool,
    #[serde(default)]
    adjusts: Vec<(String, f32)>,
    #[serde(default)]
    grayscale: bool,
    blur_kernel: Option<usize>,
    blur_sigma: Option<f32>,
    solarize: Option<f32>,
    #[serde(default)]
    angle: f32,
    interpolation: Option<Interpolation>,
    values: Vec<f32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("fixtures/torchvision.json")).unwrap()
}

impl Case {
    fn image(&self) -> Image<'static> {
        let [width, height, channels] = self.shape;
        let value = |i: usize| {
            let (x, y, c) = (i / channels % width, i / channels / width, i % channels);
            if self.pattern == "rough" {
                return ((37 * x + 101 * y + 53 * c) % 256) as u8;
            }
            let (x, y, c) = (x as f64, y as f64, c as f64);
            (128.0 + 100.0 * (x / 5.0 + c).sin() * (y / 7.0).cos() + 0.5).floor() as u8
        };
        let data: Vec<u8> = (0..width * height * channels).map(value).collect();
        Image::new(width, height, channels, data).unwrap()
    }

    fn config(&self) -> Augment {
        Augment {
            blur_kernel: self.blur_kernel,
            solarize_threshold: self.solarize.unwrap_or(0.5),
            rotation_interpolation: self.interpolation.unwrap_or_default(),
            ..Augment::whole(self.size).normalized(&[0.0], &[1.0])
        }
    }

    fn params(&self) -> Params {
        let [left, top, width, height] = self.crop;
        let adjust = |(name, factor): &(String, f32)| match name.as_str() {
            "brightness" => Adjust::Brightness(*factor),
            "contrast" => Adjust::Contrast(*factor),
            "saturation" => Adjust::Saturation(*factor),
            "hue" => Adjust::Hue(*factor),
            other => panic!("unknown change {other}"),
        };
        Params {
            flip: self.flip,
            vertical_flip: self.vertical_flip,
            angle: self.angle,
            adjusts: self.adjusts.iter().map(adjust).collect(),
            grayscale: self.grayscale,
            blur_sigma: self.blur_sigma,
            solarize: self.solarize.is_some(),
            ..Params::of_crop(Crop { left, top, width, height })
        }
    }

    /// Largest difference to `view`, `[H, W, C]`, and how many differ by more than a thousandth of 255 levels.
    fn compare(&self, view: &[f32]) -> (f32, usize) {
        let picked: Vec<f32> = view.iter().step_by(19).copied().collect();
        assert_eq!(picked.len(), self.values.len());
        let differences = picked.iter().zip(&self.values).map(|(a, b)| (a - b).abs() * 255.0);
        (differences.clone().fold(0.0, f32::max), differences.filter(|&d| d > 1e-3).count())
    }
}

#[test]
fn views_equal_torchvisions() {
    for case in cases() {
        let image = case.image();
        let augmenter = Augmenter::new(case.config(), image.channels()).unwrap();
        let mut view = vec![0.0; augmenter.len()];
        augmenter.apply_params(&image, &case.params(), &mut Scratch::default(), &mut view).unwrap();
        let (most, count) = case.compare(&view);
        assert!(most < 1e-3, "{case:?}: {most} of 255, {count} values");
    }
}

#[test]
fn batched_views_equal_torchvisions() {
    for case in cases() {
        let [width, height, channels] = case.shape;
        let augmenter = BatchAugmenter::new(case.config(), channels, Device::Cpu).unwrap();
        let bytes = Tensor::from_slice(case.image().data());
        let images = bytes.view([1, height as i64, width as i64, channels as i64]).permute([0, 3, 1, 2]);
        let view = augmenter.apply_params(&images, &[case.params()]).unwrap();
        let view = Vec::<f32>::try_from(view.permute([0, 2, 3, 1]).contiguous().view(-1)).unwrap();
        let (most, count) = case.compare(&view);
        assert!(most < 1e-3, "{}: {most} of 255, {count} values", case.name);
    }
}
