//! What a recipe file holds: the settings that a data set needs, where they differ from the paper's.
use crate::backbones::{EncoderConfig, Encoders};
use crate::{Clean, ImageDataset, Planting};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::TrainConfig;
use tch::Device;

/// The settings of one method for one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network that is trained and kept.
    pub encoder: EncoderConfig,
    /// How images become numbers.
    pub pixels: Clean,
    /// A class, by its name or number, whose images are not trained on; none is left out unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// A group that is planted into the images; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<Planting>,
    /// What the batches are balanced by; none takes every image once in an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balancing>,
    /// Where random views are made.
    #[serde(default)]
    pub augment_on: AugmentOn,
    /// Length, batch, optimizer and schedules.
    pub train: TrainConfig,
    /// The method's hyperparameters; those not given are the paper's.
    #[serde(default)]
    pub method: Value,
}

impl Recipe {
    /// What makes the encoders, on `device`, of images that are normalized so.
    pub fn encoders(&self, device: Device) -> Encoders {
        Encoders::new(self.encoder.clone(), device).of_pixels(&self.pixels)
    }
}

/// What the batches of a run are balanced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balancing {
    /// The groups of the images: all are equally frequent.
    Groups,
}

/// Where random views are made: the same but for rounding, so that a run goes on to the last bit on the same only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentOn {
    /// On the device of the run where that is CUDA and all images have one size, else on the CPU.
    #[default]
    Auto,
    /// Image by image, on the cores of the CPU.
    Cpu,
    /// Batch by batch, on the device of the run.
    Device,
}

impl AugmentOn {
    /// What `Auto` is for a data set and the device of a run.
    pub fn resolve(self, dataset: &dyn ImageDataset, device: Device) -> Self {
        match self {
            AugmentOn::Auto if device.is_cuda() && dataset.size().is_some() => AugmentOn::Device,
            AugmentOn::Auto => AugmentOn::Cpu,
            chosen => chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageArray, Subset};

    #[test]
    fn auto_takes_a_cuda_device_and_leaves_what_is_chosen() {
        let images = Subset::random(std::sync::Arc::new(ImageArray::new(2, 2, 1, vec![0; 8]).unwrap()), 1, 0);
        let images = images.unwrap();
        assert_eq!(AugmentOn::Auto.resolve(&images, Device::Cuda(0)), AugmentOn::Device);
        assert_eq!(AugmentOn::Auto.resolve(&images, Device::Cpu), AugmentOn::Cpu);
        assert_eq!(AugmentOn::Cpu.resolve(&images, Device::Cuda(0)), AugmentOn::Cpu);
        assert_eq!(AugmentOn::Device.resolve(&images, Device::Cpu), AugmentOn::Device);
    }
}
