//! What a recipe file holds: the settings that a data set needs, where they differ from the paper's.
use crate::models::EncoderConfig;
use crate::tokenizer::TokenizerConfig;
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
    /// How text is cut into tokens.
    pub tokenizer: TokenizerConfig,
    /// Tokens of a training sequence.
    pub length: usize,
    /// Length, batch, optimizer and schedules.
    pub train: TrainConfig,
    /// The method's hyperparameters; those not given are the paper's.
    #[serde(default)]
    pub method: Value,
}
