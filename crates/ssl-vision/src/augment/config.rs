//! What a view may look like: the configuration of the augmentations.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};

/// Mean of ImageNet's red, green and blue, of full scale.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's red, green and blue, of full scale.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// How a rotation reads between pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// The nearest pixel (torchvision's default).
    #[default]
    Nearest,
    /// Between the four nearest pixels.
    Bilinear,
}

/// The random view of an image that a method trains on; applied in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Side of the square view, in pixels.
    pub size: usize,
    /// Black pixels that are added on every side of the image before the crop.
    pub padding: usize,
    /// Least and greatest area of the crop, as a fraction of the padded image's.
    pub crop_scale: [f32; 2],
    /// Least and greatest width of the crop over its height.
    pub crop_ratio: [f32; 2],
    /// Probability of a mirror image, left to right.
    pub flip_probability: f32,
    /// Probability of a mirror image, top to bottom.
    pub vertical_flip_probability: f32,
    /// Greatest rotation either way, in degrees; what comes from outside the image is black.
    pub rotation_degrees: f32,
    /// How the rotation reads between pixels.
    pub rotation_interpolation: Interpolation,
    /// Probability that brightness, contrast, saturation and hue are changed, in random order.
    pub jitter_probability: f32,
    /// Brightness is multiplied by a factor from 1 - this (at least 0) to 1 + this.
    pub brightness: f32,
    /// Distance to the mean gray is multiplied by a factor from 1 - this (at least 0) to 1 + this.
    pub contrast: f32,
    /// Distance to the pixel's gray is multiplied by a factor from 1 - this (at least 0) to 1 + this.
    pub saturation: f32,
    /// Hue is turned by up to this either way, in turns (at most 0.5).
    pub hue: f32,
    /// Probability that a color image loses its color.
    pub grayscale_probability: f32,
    /// Probability of a Gaussian blur.
    pub blur_probability: f32,
    /// Least and greatest standard deviation of the blur, in pixels of the view.
    pub blur_sigma: [f32; 2],
    /// Side of the blur's kernel in pixels, odd; none stands for a tenth of the view's side, at least 3.
    pub blur_kernel: Option<usize>,
    /// Probability that bright pixels are inverted.
    pub solarize_probability: f32,
    /// Pixels of at least this brightness are inverted, of full scale.
    pub solarize_threshold: f32,
    /// What is subtracted from each channel, of full scale: one number, or one per channel. Three numbers turn
    /// grey images into three equal channels.
    pub mean: Vec<f32>,
    /// By what each channel is then divided, of full scale; as many numbers as `mean`.
    pub std: Vec<f32>,
}

impl Default for Augment {
    /// A random resized crop of 224 pixels and a horizontal flip, with ImageNet's mean and deviation.
    fn default() -> Self {
        Augment {
            size: 224,
            padding: 0,
            crop_scale: [0.08, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip_probability: 0.5,
            vertical_flip_probability: 0.0,
            rotation_degrees: 0.0,
            rotation_interpolation: Interpolation::Nearest,
            jitter_probability: 0.0,
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
            grayscale_probability: 0.0,
            blur_probability: 0.0,
            blur_sigma: [0.1, 2.0],
            blur_kernel: None,
            solarize_probability: 0.0,
            solarize_threshold: 0.5,
            mean: IMAGENET_MEAN.to_vec(),
            std: IMAGENET_STD.to_vec(),
        }
    }
}

impl Augment {
    /// SimCLR's views: crop, flip, color jitter of `strength`, grayscale, and a blur from 64 pixels up.
    ///
    /// # Source
    /// Chen et al., 2020, appendix A (strength 1), and B.9 for small images (strength 0.5, no blur):
    /// <https://arxiv.org/abs/2002.05709>.
    pub fn simclr(size: usize, strength: f32) -> Self {
        Augment {
            size,
            jitter_probability: 0.8,
            brightness: 0.8 * strength,
            contrast: 0.8 * strength,
            saturation: 0.8 * strength,
            hue: 0.2 * strength,
            grayscale_probability: 0.2,
            blur_probability: if size >= 64 { 0.5 } else { 0.0 },
            ..Augment::default()
        }
    }

    /// BYOL's first and second view: SimCLR's of strength 0.5 with less saturation; the first is always blurred, the
    /// second seldom, and sometimes solarized.
    ///
    /// # Source
    /// Grill et al., 2020, appendix B and table 6: <https://arxiv.org/abs/2006.07733>.
    pub fn byol(size: usize) -> [Self; 2] {
        let view = Augment { saturation: 0.2, ..Augment::simclr(size, 0.5) };
        let second = Augment { blur_probability: 0.1, solarize_probability: 0.2, ..view.clone() };
        [Augment { blur_probability: 1.0, ..view }, second]
    }

    /// A random resized crop and a horizontal flip, nothing else.
    pub fn crop_and_flip(size: usize) -> Self {
        Augment { size, ..Augment::default() }
    }

    /// The whole image, resized to a square; nothing random.
    pub fn whole(size: usize) -> Self {
        Augment {
            size,
            crop_scale: [1.0, 1.0],
            crop_ratio: [1.0, 1.0],
            flip_probability: 0.0,
            ..Augment::default()
        }
    }

    /// The same views normalized by another mean and deviation, of full scale, per channel.
    pub fn normalized(self, mean: &[f32], std: &[f32]) -> Self {
        Augment { mean: mean.to_vec(), std: std.to_vec(), ..self }
    }

    /// Side of the blur's kernel in pixels: the configured one, or about a tenth of the view, odd.
    pub fn blur_side(&self) -> usize {
        self.blur_kernel.unwrap_or((self.size / 10).max(3) | 1)
    }

    /// Channels of the views of images of `channels` channels.
    pub fn output_channels(&self, channels: usize) -> usize {
        channels.max(self.mean.len())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        within("size", self.size as f32, 1.0, 16384.0)?;
        within("padding", self.padding as f32, 0.0, 16384.0)?;
        range("crop_scale", self.crop_scale, f32::MIN_POSITIVE, 1.0)?;
        range("crop_ratio", self.crop_ratio, 1e-3, 1e3)?;
        range("blur_sigma", self.blur_sigma, 1e-3, 1e3)?;
        for (name, value, max) in [
            ("flip_probability", self.flip_probability, 1.0),
            ("vertical_flip_probability", self.vertical_flip_probability, 1.0),
            ("rotation_degrees", self.rotation_degrees, 180.0),
            ("jitter_probability", self.jitter_probability, 1.0),
            ("brightness", self.brightness, 100.0),
            ("contrast", self.contrast, 100.0),
            ("saturation", self.saturation, 100.0),
            ("hue", self.hue, 0.5),
            ("grayscale_probability", self.grayscale_probability, 1.0),
            ("blur_probability", self.blur_probability, 1.0),
            ("solarize_probability", self.solarize_probability, 1.0),
            ("solarize_threshold", self.solarize_threshold, 1.0),
        ] {
            within(name, value, 0.0, max)?;
        }
        let side = self.blur_side();
        if self.blur_probability > 0.0 && (side.is_multiple_of(2) || side / 2 >= self.size) {
            return Err(Error::config(
                "blur_kernel",
                format!("expected an odd number below {} (twice the view's side), got {side}", 2 * self.size),
            ));
        }
        if !matches!(self.mean.len(), 1 | 3) || self.mean.len() != self.std.len() {
            return Err(Error::config(
                "mean",
                format!(
                    "expected 1 or 3 numbers, and as many in std, got {} and {}",
                    self.mean.len(),
                    self.std.len()
                ),
            ));
        }
        self.mean.iter().try_for_each(|&mean| within("mean", mean, -10.0, 10.0))?;
        self.std.iter().try_for_each(|&std| within("std", std, 1e-4, 1e4))
    }
}

fn within(name: &str, value: f32, min: f32, max: f32) -> Result<()> {
    if value >= min && value <= max {
        return Ok(());
    }
    let min = if min == f32::MIN_POSITIVE { "more than 0".to_string() } else { min.to_string() };
    Err(Error::config(name, format!("expected {min} to {max}, got {value}")))
}

fn range(name: &str, [low, high]: [f32; 2], min: f32, max: f32) -> Result<()> {
    within(name, low, min, max)?;
    within(name, high, min, max)?;
    if low <= high {
        return Ok(());
    }
    Err(Error::config(name, format!("expected least before greatest, got {low} before {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_from_8_to_512_pixels() {
        for size in [8, 28, 32, 96, 224, 512] {
            Augment::simclr(size, 1.0).validate().unwrap();
            Augment::whole(size).validate().unwrap();
        }
        assert_eq!(Augment::simclr(224, 1.0).blur_side(), 23);
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let good = Augment::simclr(64, 1.0);
        let bad = [
            ("size", Augment { size: 0, ..good.clone() }),
            ("padding", Augment { padding: 20_000, ..good.clone() }),
            ("crop_scale", Augment { crop_scale: [0.0, 1.0], ..good.clone() }),
            ("crop_scale", Augment { crop_scale: [0.9, 0.5], ..good.clone() }),
            ("hue", Augment { hue: 0.6, ..good.clone() }),
            ("brightness", Augment { brightness: f32::NAN, ..good.clone() }),
            ("blur_kernel", Augment { blur_kernel: Some(4), ..good.clone() }),
            ("blur_kernel", Augment { blur_kernel: Some(129), ..good.clone() }),
            ("mean", good.clone().normalized(&[0.5], &[1.0, 1.0])),
            ("std", good.clone().normalized(&[0.5], &[0.0])),
        ];
        for (name, config) in bad {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: expected")), "{message}");
        }
    }

    #[test]
    fn json_names_every_field_and_refuses_others() {
        let config: Augment = serde_json::from_str(r#"{"size": 32, "blur_kernel": 3}"#).unwrap();
        assert_eq!((config.size, config.blur_kernel, config.flip_probability), (32, Some(3), 0.5));
        assert!(serde_json::from_str::<Augment>(r#"{"sise": 32}"#).is_err());
    }
}
