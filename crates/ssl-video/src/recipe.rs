//! What a recipe file holds: the settings that a data set needs, where they differ from the paper's.
use crate::backbones::EncoderConfig;
use crate::clean::Clean;
use crate::source::Sampling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::TrainConfig;

/// The settings of one method for one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network that is trained and kept.
    pub encoder: EncoderConfig,
    /// How windows are drawn; where the views of a video lie is the method's, if it matters to it.
    #[serde(default)]
    pub sampling: Sampling,
    /// What is embedded of a video, and how pixels become numbers.
    pub clean: Clean,
    /// Length, batch, optimizer and schedules.
    pub train: TrainConfig,
    /// The method's hyperparameters; those not given are the paper's.
    #[serde(default)]
    pub method: Value,
}
