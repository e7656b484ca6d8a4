//! A group that is planted: a bright patch in the corner of some images, most of them of half of the classes. What a method
//! learns of it, and what comes of that, can then be measured against what is known to be there.
//!
//! Source: the correlation of a color with the digits, as in Arjovsky et al., 2019, section 5.1:
//! <https://arxiv.org/abs/1907.02893>.
use crate::image::out_of_range;
use crate::{Image, ImageDataset};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, check, rng};
use std::sync::Arc;

const STREAM: u64 = 4;
/// The patch is so bright; of colors, orange.
const BRIGHTNESS: [u8; 3] = [230, 120, 30];
/// The side of an image over that of its patch, unless it is given.
const PART: usize = 7;

/// Which images get a patch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Planting {
    /// The share of the images of each class of the first half that get one; of the others the rest of 1 does.
    pub share: f64,
    /// Side of the patch, in pixels; none is a seventh of the shorter side of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// Seed of the choice.
    #[serde(default)]
    pub seed: u64,
}

impl Planting {
    /// What the groups are called, by their number.
    pub const NAMES: [&'static str; 2] = ["plain", "tinted"];
}

/// A set of images, some of which have a patch in their upper left corner.
#[derive(Debug)]
pub struct Planted {
    dataset: Arc<dyn ImageDataset>,
    side: Option<usize>,
    has_patch: Vec<bool>,
}

impl Planted {
    /// Draws for each image whether it gets a patch; `set` tells the sets of one run apart.
    ///
    /// # Errors
    /// `Error::Config` when the share is not within 0 to 1, the side is 0, or there are fewer than 2 classes.
    pub fn new(dataset: Arc<dyn ImageDataset>, planting: &Planting, set: u64) -> Result<Self> {
        check::ranges([("plant", planting.share, (0., 1.))])?;
        check::at_least(1, [("plant-side", planting.side.map_or(1, |side| side as i64))])?;
        let labels = dataset.labels().unwrap_or_default();
        let classes = labels.iter().max().map_or(0, |last| last + 1);
        if classes < 2 {
            let message = format!("expected images of at least 2 classes, got {classes}");
            return Err(Error::config("plant", message));
        }
        let has_patch = labels.iter().enumerate().map(|(index, &label)| {
            let share = if 2 * label < classes { planting.share } else { 1. - planting.share };
            rng(planting.seed, &[STREAM, set, index as u64]).random::<f64>() < share
        });
        Ok(Planted { has_patch: has_patch.collect(), side: planting.side, dataset })
    }

    /// The group of each image: 1 with a patch, 0 without.
    pub fn groups(&self) -> Vec<i64> {
        self.has_patch.iter().map(|&has| i64::from(has)).collect()
    }
}

/// The picture with a patch in its upper left corner.
fn painted(image: &Image<'_>, side: Option<usize>) -> Result<Image<'static>> {
    let (width, height, channels) = (image.width(), image.height(), image.channels());
    let side = side.unwrap_or((width.min(height) / PART).max(1));
    let mut data = image.data().to_vec();
    for row in data.chunks_exact_mut(width * channels).take(side) {
        for pixel in row.chunks_exact_mut(channels).take(side) {
            pixel.iter_mut().zip(BRIGHTNESS).for_each(|(value, bright)| *value = bright);
        }
    }
    Image::new(width, height, channels, data)
}

impl ImageDataset for Planted {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn size(&self) -> Option<(usize, usize)> {
        self.dataset.size()
    }

    fn image(&self, index: usize) -> Result<Image<'_>> {
        let has_patch = self.has_patch.get(index).ok_or_else(|| out_of_range(index, self.len()))?;
        let image = self.dataset.image(index)?;
        if *has_patch { painted(&image, self.side) } else { Ok(image) }
    }

    fn name(&self, index: usize) -> String {
        self.dataset.name(index)
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.dataset.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    fn skipped(&self) -> Vec<String> {
        self.dataset.skipped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageArray;

    /// 400 images of 14x14 pixels, of four classes or of one.
    fn images(channels: usize, classes: i64) -> Arc<dyn ImageDataset> {
        let data = vec![7; 400 * 14 * 14 * channels];
        let labels = (0..400).map(|index| index % classes).collect();
        let names = (0..classes).map(|class| class.to_string()).collect();
        Arc::new(ImageArray::new(14, 14, channels, data).unwrap().with_labels(labels, names).unwrap())
    }

    fn planted(share: f64, seed: u64, set: u64) -> Planted {
        Planted::new(images(1, 4), &Planting { share, side: None, seed }, set).unwrap()
    }

    #[test]
    fn most_images_of_the_first_classes_and_few_of_the_others_have_a_patch() {
        let groups = planted(0.9, 0, 0).groups();
        let share = |first: bool| {
            let of: Vec<i64> = (0..400).filter(|i| (i % 4 < 2) == first).map(|i| groups[i]).collect();
            of.iter().sum::<i64>() as f64 / of.len() as f64
        };
        assert!((share(true) - 0.9).abs() < 0.07 && (share(false) - 0.1).abs() < 0.07, "{}", share(true));
        assert!(
            planted(1., 0, 0).groups().iter().enumerate().all(|(i, &group)| group == i64::from(i % 4 < 2))
        );
        assert_eq!(groups, planted(0.9, 0, 0).groups());
        assert!(groups != planted(0.9, 1, 0).groups() && groups != planted(0.9, 0, 1).groups());
    }

    #[test]
    fn a_patch_fills_a_corner_and_leaves_the_rest() {
        for (channels, bright) in [(1, &[230][..]), (3, &[230, 120, 30])] {
            let set =
                Planted::new(images(channels, 4), &Planting { share: 1., side: None, seed: 0 }, 0).unwrap();
            let image = set.image(0).unwrap();
            let plain = vec![7; channels];
            for (place, pixel) in image.data().chunks_exact(channels).enumerate() {
                let expected = if place % 14 < 2 && place / 14 < 2 { bright } else { &plain };
                assert_eq!(pixel, expected, "{place}");
            }
            assert!(
                set.image(2).unwrap().data().iter().all(|&value| value == 7),
                "of a class of the second half"
            );
        }
        let whole = Planted::new(images(1, 4), &Planting { share: 1., side: Some(99), seed: 0 }, 0).unwrap();
        assert!(whole.image(0).unwrap().data().iter().all(|&value| value == 230));
        assert!(whole.image(400).is_err());
    }

    #[test]
    fn what_cannot_be_planted_is_named() {
        let said = |set: Arc<dyn ImageDataset>, share, side| {
            Planted::new(set, &Planting { share, side, seed: 0 }, 0).unwrap_err().to_string()
        };
        assert_eq!(said(images(1, 4), 1.5, None), "plant: expected 0 to 1, got 1.5");
        assert_eq!(said(images(1, 4), 0.9, Some(0)), "plant-side: expected at least 1, got 0");
        assert_eq!(said(images(1, 1), 0.9, None), "plant: expected images of at least 2 classes, got 1");
        let unlabelled = Arc::new(ImageArray::new(1, 1, 1, vec![0; 4]).unwrap());
        assert_eq!(said(unlabelled, 0.9, None), "plant: expected images of at least 2 classes, got 0");
    }
}
