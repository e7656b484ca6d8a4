//! Everything needed to run a run again.
use crate::{CommonFlags, GroupFile, Machine};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::{Precision, TrainConfig, optim::OptimizerConfig};
use std::path::{Path, PathBuf};

/// What a run's `config.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of the workspace that wrote it.
    pub version: String,
    /// vision, text, audio, video.
    pub modality: String,
    /// The method's name.
    pub method: String,
    /// The data set's name, or a path.
    pub data: String,
    /// Training examples used; none is all.
    pub limit: Option<usize>,
    /// Seed of everything random.
    pub seed: u64,
    /// cpu or cuda:INDEX.
    pub device: String,
    /// Numbers of the forward pass.
    pub precision: Precision,
    /// Threads; on the CPU, results are equal to the last bit for equal numbers of threads only.
    pub threads: usize,
    /// What training starts from: an encoder's weights or an earlier run; none is random weights.
    #[serde(default)]
    pub init: Option<PathBuf>,
    /// The labelled data that the encoder is evaluated on, where that is other data than it is trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<String>,
    /// The groups by which the bias is measured; none measures none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupFile>,
    /// The recipe, flags applied.
    pub recipe: Value,
}

impl RunConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// When there is none, or it is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: expected the config.json of a run", path.display()))
    }

    /// The settings of a finished run of `modality`, which lies in `dir`.
    ///
    /// # Errors
    /// As [`RunConfig::read`], and when it is of another modality.
    pub fn of_run(dir: &Path, modality: &str) -> Result<Self> {
        let config = RunConfig::read(&dir.join("config.json"))?;
        let (run, found) = (dir.display(), &config.modality);
        ensure!(found == modality, "{run}: expected a run of {modality}, got one of {found}");
        Ok(config)
    }

    /// The machine and the flags that belong to no recipe, applied.
    pub fn apply(&mut self, flags: &CommonFlags, machine: &Machine) {
        self.version = env!("CARGO_PKG_VERSION").to_string();
        self.device = machine.device_name();
        self.precision = machine.precision;
        self.threads = machine.threads;
        self.init = flags.init.clone().or(self.init.take());
        self.limit = flags.limit.or(self.limit);
        self.seed = flags.seed.unwrap_or(self.seed);
        if let Some(file) = &flags.groups {
            self.groups = Some(GroupFile::new(file, flags.group_column.as_deref()));
        }
    }

    /// Refuses to go on with a run under other settings.
    ///
    /// # Errors
    /// Names the first setting that differs.
    pub fn same_run(&self, saved: &RunConfig) -> Result<()> {
        let (new, old) = (serde_json::to_value(self)?, serde_json::to_value(saved)?);
        if let Some((name, now, before)) = first_difference("", &new, &old) {
            bail!(
                "cannot resume: {name} is {now}, the run had {before}; leave the flag out, or start a new run with --config"
            );
        }
        Ok(())
    }
}

fn first_difference(name: &str, new: &Value, old: &Value) -> Option<(String, Value, Value)> {
    if let (Value::Object(a), Value::Object(b)) = (new, old) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        return keys.into_iter().find_map(|key| {
            let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null))
        });
    }
    (new != old).then(|| (name.to_string(), new.clone(), old.clone()))
}

impl CommonFlags {
    /// Writes the training flags that are given into a recipe.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn apply_to(&self, train: &mut TrainConfig) -> Result<()> {
        if let Some(epochs) = self.epochs {
            (train.epochs, train.steps) = (epochs, None);
        }
        train.steps = self.steps.or(train.steps);
        train.batch_size = self.batch_size.unwrap_or(train.batch_size);
        train.learning_rate = self.learning_rate.unwrap_or(train.learning_rate);
        train.weight_decay = self.weight_decay.unwrap_or(train.weight_decay);
        train.warmup_epochs = self.warmup_epochs.unwrap_or(train.warmup_epochs);
        train.clip_norm = self.clip_norm.or(train.clip_norm);
        train.accumulate = self.accumulate.unwrap_or(train.accumulate);
        if let Some(name) = &self.optimizer {
            train.optimizer = match name.as_str() {
                "sgd" => OptimizerConfig::sgd(0.9),
                "adamw" => OptimizerConfig::adamw(),
                "lars" => OptimizerConfig::lars(),
                "lamb" => OptimizerConfig::lamb(),
                _ => bail!("--optimizer: expected sgd, adamw, lars or lamb, got {name}"),
            };
        }
        train.validate()?;
        // Not only after the training.
        self.finetune_options(0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_that_differs_is_named() {
        let config = |rate: f64| RunConfig {
            version: "1".into(),
            modality: "m".into(),
            method: "n".into(),
            data: "d".into(),
            init: None,
            eval_data: None,
            groups: None,
            limit: None,
            seed: 0,
            device: "cpu".into(),
            precision: Precision::Fp32,
            threads: 2,
            recipe: serde_json::json!({"train": {"rate": rate}}),
        };
        config(0.1).same_run(&config(0.1)).unwrap();
        let message = config(0.2).same_run(&config(0.1)).unwrap_err().to_string();
        assert!(message.starts_with("cannot resume: recipe.train.rate is 0.2, the run had 0.1"), "{message}");
    }
}
