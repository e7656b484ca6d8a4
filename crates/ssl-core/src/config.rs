//! The part of a recipe that no modality changes: how long, how large, how fast.
use crate::optim::OptimizerConfig;
use crate::schedule::{Milestones, Warmup};
use crate::{Error, Result, Schedule, check};
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
    /// The way of the learning rate after the warm-up.
    #[serde(default)]
    pub schedule: Decline,
    /// Learning rate at the end of the cosine or line.
    #[serde(default)]
    pub final_learning_rate: f64,
    /// Passes over the data during which the learning rate rises linearly.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Learning rate that the rise starts from.
    #[serde(default)]
    pub warmup_start: f64,
    /// Weight decay; biases and norms do not decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Weight decay at the end of the run, reached along a cosine; none keeps it constant.
    #[serde(default)]
    pub final_weight_decay: Option<f64>,
    /// Largest joint L2 norm of the gradients; none does not clip.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Parts that a batch is cut into to save memory, their gradients averaged; changes contrastive losses.
    #[serde(default = "one")]
    pub accumulate: i64,
}

/// The way of the learning rate from its highest value on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decline {
    /// Half a cosine down to the final rate, which the last step has.
    #[default]
    Cosine,
    /// A straight line down to the final rate, which the last step has.
    Linear,
    /// None: the final rate is unused.
    Constant,
    /// Down by a factor at each milestone: the final rate is unused.
    Step {
        /// Passes over the data after which a factor more applies, at most eight, in increasing order.
        milestones: Vec<f64>,
        /// What one milestone multiplies the rate by.
        factor: f64,
    },
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

    /// The learning rate: a linear warm-up, then the schedule.
    ///
    /// # Errors
    /// `Error::Config` when there are too many milestones or their order is not increasing.
    pub fn learning_rate(&self, batches_per_epoch: u64, total_steps: u64) -> Result<Schedule> {
        let steps = |epochs: f64| (epochs * batches_per_epoch as f64).round() as u64;
        let (start, end) = (self.learning_rate, self.final_learning_rate);
        let schedule = match &self.schedule {
            Decline::Cosine => Schedule::cosine(start, end),
            Decline::Linear => Schedule::linear(start, end),
            Decline::Constant => Schedule::constant(start),
            Decline::Step { milestones, factor } => {
                let milestones: Vec<u64> = milestones.iter().map(|&epochs| steps(epochs)).collect();
                Schedule::milestones(start, *factor, Milestones::new(&milestones)?)
            }
        };
        // A short run keeps the shape of its schedule.
        let length = steps(self.warmup_epochs).min(total_steps / 2);
        let warmup = Warmup { steps: length, from: self.warmup_start, ..Warmup::default() };
        Ok(Schedule { warmup, ..schedule })
    }

    /// The weight decay: constant, or a cosine to the final one.
    pub fn weight_decay(&self) -> Schedule {
        match self.final_weight_decay {
            Some(end) => Schedule::cosine(self.weight_decay, end),
            None => Schedule::constant(self.weight_decay),
        }
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
        at_least("warmup_start", self.warmup_start, 0.)?;
        at_least("weight_decay", self.weight_decay, 0.)?;
        at_least("final_weight_decay", self.final_weight_decay.unwrap_or(0.), 0.)?;
        if let Decline::Step { milestones, factor } = &self.schedule {
            at_least("factor", *factor, 0.)?;
            milestones.iter().try_for_each(|&epochs| at_least("milestones", epochs, 0.))?;
            if !milestones.is_sorted() || milestones.len() > Milestones::MOST {
                let most = Milestones::MOST;
                let message = format!("expected at most {most} in increasing order, got {milestones:?}");
                return Err(Error::config("milestones", message));
            }
        }
        self.clip_norm.map_or(Ok(()), |norm| check::positive("clip_norm", norm))?;
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
        let rate = config().learning_rate(10, 25).unwrap();
        assert_eq!(rate.at(Step { index: 4, total: 25 }), 0.4);
        let short = config().learning_rate(10, 4).unwrap();
        assert_eq!(short.at(Step { index: 1, total: 4 }), 0.4);
        assert_eq!(short.at(Step { index: 3, total: 4 }), 0.);
    }

    #[test]
    fn a_recipe_chooses_its_schedules() {
        let of = |extra: &str| -> TrainConfig {
            let rest = r#""epochs": 4, "batch_size": 64, "optimizer": {"name": "sgd"}, "learning_rate": 0.4"#;
            serde_json::from_str(&format!("{{{rest}, {extra}}}")).unwrap()
        };
        let rates = |extra: &str| -> Vec<f64> {
            let rate = of(extra).learning_rate(2, 8).unwrap();
            (0..8).map(|index| rate.at(Step { index, total: 8 })).collect()
        };
        let close = |got: Vec<f64>, expected: [f64; 8]| {
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} {expected:?}");
        };
        close(
            rates(r#""schedule": "constant", "warmup_epochs": 1, "warmup_start": 0.2"#),
            [0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4],
        );
        close(
            rates(r#""schedule": "linear", "final_learning_rate": 0.05"#),
            [0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05],
        );
        close(
            rates(r#""schedule": {"step": {"milestones": [1.5, 3], "factor": 0.1}}"#),
            [0.4, 0.4, 0.4, 0.04, 0.04, 0.04, 0.004, 0.004],
        );
        let decay = of(r#""weight_decay": 0.04, "final_weight_decay": 0.4"#).weight_decay();
        let [first, last] = [0, 7].map(|index| decay.at(Step { index, total: 8 }));
        assert!((first - 0.04).abs() < 1e-12 && last == 0.4, "{first} {last}");
        let message =
            of(r#""schedule": {"step": {"milestones": [3, 1], "factor": 0.1}}"#).validate().unwrap_err();
        assert!(
            message.to_string().starts_with("milestones: expected at most 8 in increasing order"),
            "{message}"
        );
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        let message = TrainConfig { learning_rate: f64::NAN, ..config() }.validate().unwrap_err().to_string();
        assert_eq!(message, "learning_rate: expected a number of at least 0, got NaN");
        let message = TrainConfig { clip_norm: Some(0.), ..config() }.validate().unwrap_err().to_string();
        assert_eq!(message, "clip_norm: expected a number above 0, got 0");
        config().validate().unwrap();
    }
}
