//! Large and small crops of an image.
//!
//! Source: Caron et al., 2020 (SwAV), section 3.2 (multi-crop): <https://arxiv.org/abs/2006.09882>.
use crate::augment::Augment;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Batch, Error, Result, Views};
use tch::{Kind, Tensor};

/// The crops that an image gives: the large ones first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crops {
    /// A large crop.
    pub large: Augment,
    /// Large crops of each image.
    pub large_crops: usize,
    /// A small crop.
    pub small: Augment,
    /// Small crops of each image.
    pub small_crops: usize,
}

impl Crops {
    /// SwAV's: two of 224 pixels and six of 96, in SimCLR's colors.
    pub(crate) fn swav() -> Self {
        let crop = |size, crop_scale| Augment { crop_scale, ..Augment::simclr(size, 1.) };
        let (large, small) = (crop(224, [0.14, 1.]), crop(96, [0.05, 0.14]));
        Crops { large, large_crops: 2, small, small_crops: 6 }
    }

    /// Checks the augmentations, and that there are two crops or more, one of them large.
    pub(crate) fn validate(&self) -> Result<()> {
        let Crops { large_crops, small_crops, .. } = *self;
        if large_crops < 1 || large_crops + small_crops < 2 {
            let expected = "expected two or more, one of them large";
            return Err(Error::config("crops", format!("{expected}, got {large_crops} and {small_crops}")));
        }
        self.large.validate()?;
        self.small.validate()
    }

    /// The augmentation of each crop.
    pub(crate) fn views(&self) -> Vec<Augment> {
        let all = [(&self.large, self.large_crops), (&self.small, self.small_crops)];
        all.into_iter().flat_map(|(crop, count)| std::iter::repeat_n(crop.clone(), count)).collect()
    }

    /// Refuses a batch of another number of crops than `method` takes.
    pub(crate) fn check<'a>(&self, Views(crops): &'a Views, method: &str) -> Result<&'a [Tensor]> {
        let (expected, got) = (self.large_crops + self.small_crops, crops.len());
        if got == expected {
            return Ok(crops);
        }
        Err(Error::config("views", format!("{method} takes {expected} with these crops, got {got}")))
    }

    /// The crops of a batch by name.
    pub(crate) fn named(&self, Views(crops): &Views) -> Vec<(String, Tensor)> {
        let name = |i| match i {
            i if i < self.large_crops => format!("large {}", i + 1),
            i => format!("small {}", i + 1 - self.large_crops),
        };
        crops.iter().zip(0..).map(|(crop, i)| (name(i), crop.shallow_clone())).collect()
    }
}

/// Features of all crops, one behind the other; neighbours of one size pass the network together.
pub(crate) fn by_size(crops: &[Tensor], network: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let groups = crops.chunk_by(|a, b| a.size() == b.size()).map(|group| Tensor::f_cat(group, 0));
    let groups = groups.collect::<Result<Vec<_>, _>>()?;
    let features = groups.iter().map(network).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&features, 0)?)
}

/// What [`by_size`] has put together, crop by crop again, in float32.
pub(crate) fn split_like(x: &Tensor, crops: &[Tensor]) -> Result<Vec<Tensor>> {
    let sizes: Vec<i64> = crops.iter().map(Batch::len).collect();
    Ok(x.f_to_kind(Kind::Float)?.f_split_with_sizes(sizes, 0)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tch::Device;

    /// Large and small crops of so many pixels; of 1 channel.
    pub(crate) fn batch(images: i64, sides: &[i64]) -> Views {
        let pixels = |(i, &side): (usize, &i64)| {
            let x = Tensor::arange(images * side * side, (Kind::Float, Device::Cpu)) * (0.7 + 0.1 * i as f64);
            x.sin().view([images, 1, side, side])
        };
        Views(sides.iter().enumerate().map(pixels).collect())
    }

    fn crops(large_crops: usize, small_crops: usize) -> Crops {
        let (large, small) = (Augment::simclr(8, 1.), Augment::simclr(4, 1.));
        Crops { large, large_crops, small, small_crops }
    }

    #[test]
    fn crops_of_one_size_pass_together_and_keep_their_order() {
        let (mut passed, first) = (Vec::new(), |x: &Tensor| x.flatten(1, -1).narrow(1, 0, 2));
        let crops = batch(3, &[8, 8, 4, 4]).0;
        let features = by_size(&crops, |x| {
            passed.push(x.size());
            Ok(first(x))
        });
        let features = features.unwrap();
        assert_eq!(passed, [[6, 1, 8, 8], [6, 1, 4, 4]]);
        for (x, crop) in split_like(&features, &crops).unwrap().iter().zip(&crops) {
            assert!(x.equal(&first(crop)));
        }
    }

    #[test]
    fn large_crops_come_first_and_have_names() {
        let two = crops(2, 1);
        assert_eq!(two.views().iter().map(|view| view.size).collect::<Vec<_>>(), [8, 8, 4]);
        let names: Vec<String> = two.named(&batch(2, &[8, 8, 4])).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["large 1", "large 2", "small 1"]);
    }

    #[test]
    fn numbers_of_crops_that_make_no_pair_are_refused() {
        assert!(crops(1, 1).validate().is_ok() && crops(2, 0).validate().is_ok());
        for (large, small) in [(0, 3), (1, 0)] {
            let message = crops(large, small).validate().unwrap_err().to_string();
            let expected = format!("crops: expected two or more, one of them large, got {large} and {small}");
            assert_eq!(message, expected);
        }
        let message = crops(2, 1).check(&batch(2, &[8, 8]), "SwAV").unwrap_err().to_string();
        assert_eq!(message, "views: SwAV takes 3 with these crops, got 2");
    }
}
