//! What a recipe file holds: the settings that a data set needs, where they differ from the paper's.
use crate::Clean;
use crate::backbones::ResNetConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::TrainConfig;

/// The settings of one method for one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network that is trained and kept.
    pub encoder: ResNetConfig,
    /// How images become numbers.
    pub pixels: Clean,
    /// Length, batch, optimizer and schedules.
    pub train: TrainConfig,
    /// The method's hyperparameters; those not given are the paper's.
    #[serde(default)]
    pub method: Value,
}
