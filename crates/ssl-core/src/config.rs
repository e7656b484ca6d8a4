//! The part of a recipe that no modality changes: how long, how large, how fast.
use crate::optim::OptimizerConfig;
use crate::{Error, Result, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Length, batch, optimizer and schedules of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data; unused where `steps` is given.
    pub epochs: f64,
    /// Steps; none stands for `epochs` passes.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Examples of a step.
    pub batch_size: usize,
    /// The optimizer and its numbers.
    pub optimizer: OptimizerConfig,
    /// Highest learning rate, at this batch size.
    pub learning_rate: f64,
    /// Learning rate at the end of the cosine.
    #[serde(default)]
    pub final_learning_rate: f64,
    /// Passes over the data during which the learning rate rises linearly.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Weight decay; biases and norms do not decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest joint L2 norm of the gradients; none does not clip.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Parts that a batch is cut into to save memory, their gradients averaged; changes contrastive losses.
    #[serde(default = "one")]
    pub accumulate: i64,
}

fn one() -> i64 {
    1
}

impl TrainConfig {
    /// Steps of the whole run.
    ///
    /// # Errors
    /// `Error::Config` when it would have none.
    pub fn total_steps(&self, batches_per_epoch: u64) -> Result<u64> {
        let (name, steps) = match self.steps {
            Some(steps) => ("steps", steps),
            None => ("epochs", (self.epochs * batches_per_epoch as f64).round() as u64),
        };
        if steps == 0 {
            return Err(Error::config(name, "expected at least one step, got none"));
        }
        Ok(steps)
    }

    /// The learning rate: a linear warm-up, then a cosine.
    pub fn learning_rate(&self, batches_per_epoch: u64, total_steps: u64) -> Schedule {
        let warmup = (self.warmup_epochs * batches_per_epoch as f64).round() as u64;
        // A short run keeps the shape of its schedule.
        let warmup = warmup.min(total_steps / 2);
        Schedule::cosine(self.learning_rate, self.final_learning_rate).with_warmup(warmup)
    }

    /// Checks every field that the optimizer does not check itself.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let at_least = |name: &str, value: f64, least: f64| {
            if value.is_finite() && value >= least {
                return Ok(());
            }
            Err(Error::config(name, format!("expected a number of at least {least}, got {value}")))
        };
        at_least("epochs", self.epochs, 0.)?;
        at_least("batch_size", self.batch_size as f64, 2.)?;
        at_least("learning_rate", self.learning_rate, 0.)?;
        at_least("final_learning_rate", self.final_learning_rate, 0.)?;
        at_least("warmup_epochs", self.warmup_epochs, 0.)?;
        at_least("weight_decay", self.weight_decay, 0.)?;
        at_least("clip_norm", self.clip_norm.unwrap_or(1.), f64::MIN_POSITIVE)?;
        at_least("accumulate", self.accumulate as f64, 1.)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Step;

    fn config() -> TrainConfig {
        serde_json::from_value(serde_json::json!({
            "epochs": 2.5, "batch_size": 64, "optimizer": {"name": "sgd"}, "learning_rate": 0.4, "warmup_epochs": 0.5
        }))
        .unwrap()
    }

    #[test]
    fn epochs_become_steps_unless_steps_are_given() {
        assert_eq!(config().total_steps(10).unwrap(), 25);
        assert_eq!(TrainConfig { steps: Some(7), ..config() }.total_steps(10).unwrap(), 7);
        let message = TrainConfig { epochs: 0., ..config() }.total_steps(10).unwrap_err().to_string();
        assert_eq!(message, "epochs: expected at least one step, got none");
    }

    #[test]
    fn the_warm_up_fits_short_runs() {
        let rate = config().learning_rate(10, 25);
        assert_eq!(rate.at(Step { index: 4, total: 25 }), 0.4);
        let short = config().learning_rate(10, 4);
        assert_eq!(short.at(Step { index: 1, total: 4 }), 0.4);
        assert_eq!(short.at(Step { index: 3, total: 4 }), 0.);
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        let message = TrainConfig { learning_rate: f64::NAN, ..config() }.validate().unwrap_err().to_string();
        assert_eq!(message, "learning_rate: expected a number of at least 0, got NaN");
        config().validate().unwrap();
    }
}
