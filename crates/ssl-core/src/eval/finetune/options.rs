//! The numbers of a fine-tuning, and how rates fall with the depth.
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FinetuneOptions {
    /// Passes over the labelled examples.
    pub epochs: f64,
    /// Steps at least: few labels make short epochs.
    pub min_steps: u64,
    /// Highest learning rate of the classifier for batches of 256 and less; in proportion for larger ones.
    pub learning_rate: f64,
    /// Part of the run during which the learning rate rises linearly; then it falls to 0 along a cosine.
    pub warmup: f64,
    /// Weight decay; biases and norms do not decay.
    pub weight_decay: f64,
    /// What each layer down from the classifier multiplies the learning rate by; 1 is one rate for all.
    pub layer_decay: f64,
    /// Part of the target that is spread evenly over all classes.
    pub label_smoothing: f64,
    /// Seed of the order of the examples, of the classifier, and of whatever is random in a step.
    pub seed: u64,
}

impl Default for FinetuneOptions {
    /// The paper's, whose ViT-B is trained for 100 epochs; `min_steps` is our own. The paper's rate falls with the batch
    /// below 256 as well, but with a few labels, which are one small batch, it would hardly move the encoder.
    fn default() -> Self {
        FinetuneOptions {
            epochs: 100.,
            min_steps: 300,
            learning_rate: 1e-3,
            warmup: 0.05,
            weight_decay: 0.05,
            layer_decay: 0.75,
            label_smoothing: 0.1,
            seed: 0,
        }
    }
}

impl FinetuneOptions {
    /// Checks every field.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, holds: bool, expected: &str, got: f64| {
            let refused = || Error::config(name, format!("expected a number {expected}, got {got}"));
            if holds { Ok(()) } else { Err(refused()) }
        };
        for (name, value) in [
            ("epochs", self.epochs),
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
        ] {
            check(name, value >= 0. && value.is_finite(), "of at least 0", value)?;
        }
        for (name, value) in [("warmup", self.warmup), ("label_smoothing", self.label_smoothing)] {
            check(name, (0. ..1.).contains(&value), "from 0 to below 1", value)?;
        }
        let decay = self.layer_decay;
        check("layer_decay", decay > 0. && decay <= 1., "above 0 and at most 1", decay)
    }

    /// Highest learning rate of the classifier for batches of a size.
    pub(super) fn rate(&self, batch_size: i64) -> f64 {
        self.learning_rate * batch_size.max(256) as f64 / 256.
    }

    /// Steps of a run of so many batches per epoch.
    pub(super) fn total_steps(&self, batches_per_epoch: u64) -> Result<u64> {
        if batches_per_epoch == 0 {
            return Err(Error::config("train", "expected at least one batch per epoch, got none"));
        }
        match ((self.epochs * batches_per_epoch as f64).round() as u64).max(self.min_steps) {
            0 => Err(Error::config("epochs", "expected at least one step, got none")),
            steps => Ok(steps),
        }
    }
}

/// Where a variable lies in its encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Its depth: 0 for the layers that see the input first.
    pub depth: usize,
    /// The depth of the classifier on top.
    pub of: usize,
}

impl Layer {
    /// Beside the classifier: no decay. For encoders whose layers are not known.
    pub const TOP: Layer = Layer { depth: 0, of: 0 };

    /// What the learning rate is multiplied by: `decay` once for each layer between here and the classifier.
    pub fn factor(self, decay: f64) -> f64 {
        decay.powi(self.of.saturating_sub(self.depth) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_by_one_factor_for_each_layer_below_the_classifier() {
        let factor = |depth| Layer { depth, of: 5 }.factor(0.5);
        assert_eq!([0, 1, 4, 5].map(factor), [0.03125, 0.0625, 0.5, 1.]);
        assert_eq!(Layer::TOP.factor(0.5), 1.);
        assert_eq!(Layer { depth: 0, of: 5 }.factor(1.), 1.);
    }

    #[test]
    fn large_batches_raise_the_rate_and_small_ones_do_not_lower_it() {
        let options = FinetuneOptions { learning_rate: 0.5, ..FinetuneOptions::default() };
        assert_eq!([20, 256, 1024].map(|batch| options.rate(batch)), [0.5, 0.5, 2.]);
    }

    #[test]
    fn few_labels_still_make_the_least_number_of_steps() {
        let options = FinetuneOptions { epochs: 10., min_steps: 50, ..FinetuneOptions::default() };
        assert_eq!([1, 5, 40].map(|batches| options.total_steps(batches).unwrap()), [50, 50, 400]);
        let none = FinetuneOptions { epochs: 0., min_steps: 0, ..options };
        assert_eq!(
            none.total_steps(9).unwrap_err().to_string(),
            "epochs: expected at least one step, got none"
        );
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let good = FinetuneOptions::default();
        good.validate().unwrap();
        let bad = [
            ("epochs", FinetuneOptions { epochs: f64::NAN, ..good.clone() }),
            ("learning_rate", FinetuneOptions { learning_rate: -1., ..good.clone() }),
            ("weight_decay", FinetuneOptions { weight_decay: f64::INFINITY, ..good.clone() }),
            ("warmup", FinetuneOptions { warmup: 1., ..good.clone() }),
            ("label_smoothing", FinetuneOptions { label_smoothing: -0.1, ..good.clone() }),
            ("layer_decay", FinetuneOptions { layer_decay: 0., ..good.clone() }),
        ];
        for (name, options) in bad {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: expected a number")), "{message}");
        }
        let message = FinetuneOptions { layer_decay: 1.5, ..good }.validate().unwrap_err().to_string();
        assert_eq!(message, "layer_decay: expected a number above 0 and at most 1, got 1.5");
    }
}
