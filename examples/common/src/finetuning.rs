//! Fine-tuning on a part of the labels or on all, beside the same from the weights that the run began with.
use crate::evaluation::Examples;
use crate::{CommonFlags, DynMethod, Experiment, Parts};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use ssl_core::eval::{Finetune, FinetuneOptions, Labelled, draw_share};
use ssl_core::{Batch, Loader, Pair, Source};
use std::str::FromStr;
use tch::Tensor;

/// Examples of a step at most.
const BATCH: usize = 256;
/// Passes over the labelled examples, unless a flag says how many.
const EPOCHS: f64 = 10.;

/// Batches of inputs with their labels.
pub type LabelledSource<'a, I> = Box<dyn Source<Batch = Pair<I, Tensor>> + 'a>;

/// Parts of the labels in percent, in increasing order: the value of `--finetune`.
#[derive(Debug, Clone, PartialEq)]
pub struct Percents(Vec<f64>);

impl FromStr for Percents {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| match text.trim().parse() {
            Ok(percent) if percent > 0. && percent <= 100. => Ok(percent),
            _ => Err(format!("expected percentages above 0 and at most 100, got {text:?}")),
        };
        let mut all = text.split(',').map(one).collect::<Result<Vec<f64>, _>>()?;
        all.sort_by(f64::total_cmp);
        all.dedup();
        Ok(Percents(all))
    }
}

impl CommonFlags {
    /// The numbers of a fine-tuning.
    ///
    /// # Errors
    /// Names the first flag that is out of range.
    pub(crate) fn finetune_options(&self, seed: u64) -> Result<FinetuneOptions> {
        let defaults = FinetuneOptions::default();
        let options = FinetuneOptions {
            epochs: self.finetune_epochs.unwrap_or(EPOCHS),
            layer_decay: self.layer_decay.unwrap_or(defaults.layer_decay),
            seed,
            ..defaults
        };
        options.validate().context("--finetune")?;
        Ok(options)
    }
}

impl Experiment<'_> {
    /// Fine-tunes the trained encoder and, with floors, the untrained one, and writes what they reach into `result`,
    /// under `eval.finetune` and `floors.random_init.finetune`; nothing without `--finetune`.
    pub(crate) fn finetune<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
        method: &DynMethod<B, I>,
        test: &dyn Examples<I>,
        result: &mut Value,
    ) -> Result<()> {
        let Some(Percents(percents)) = &self.flags.finetune else { return Ok(()) };
        let options = self.flags.finetune_options(self.config.seed)?;
        let each = |method: &DynMethod<B, I>, what: &str| -> Result<Value> {
            let mut found = Map::new();
            for &percent in percents {
                self.say(&format!("fine-tuning {what} on {percent} % of the labels"));
                let reached = self.finetune_on(parts, method, test, (percent, &options));
                found.insert(percent.to_string(), reached.with_context(|| format!("--finetune {percent}"))?);
            }
            Ok(found.into())
        };
        let mut add = |path: &str, name: &str, found: Value| {
            if let Some(Value::Object(to)) = result.pointer_mut(path) {
                to.insert(name.into(), found);
            }
        };
        add("/eval", "finetune", each(method, "the encoder")?);
        add("/eval", "finetune_settings", serde_json::to_value(&options)?);
        if !self.flags.no_floors {
            let untrained = self.untrained(parts)?;
            add("/floors/random_init", "finetune", each(untrained.as_ref(), "a random encoder, the floor,")?);
        }
        Ok(())
    }

    /// What one method's encoder reaches with `percent` of the labels.
    fn finetune_on<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
        method: &DynMethod<B, I>,
        test: &dyn Examples<I>,
        (percent, options): (f64, &FinetuneOptions),
    ) -> Result<Value> {
        let labels = |set: &dyn Examples<I>| set.labels().context("expected labels, got none");
        let (of_train, of_test) = (labels(parts.train)?, labels(test)?);
        let rows = draw_share(&of_train, percent / 100., options.seed)?;
        let clean = |rows: &[usize]| parts.train.inputs(rows);
        let (train, inputs): (LabelledSource<'_, I>, _) =
            match parts.train.views(&rows, BATCH.min(rows.len()), options.seed)? {
                Some(views) => (views, "random views"),
                None => {
                    let clean = Labelled::shuffled(&clean, &of_train, &rows, BATCH, options.seed)?;
                    (Box::new(clean), "clean")
                }
            };
        let clean = |rows: &[usize]| test.inputs(rows);
        let test = Labelled::in_order(&clean, &of_test, test.block().max(1))?;
        let settings = Finetune {
            options: options.clone(),
            classes: of_train.iter().max().map_or(0, |last| last + 1),
            layer_of: parts.layer_of,
            loader: Loader { device: self.machine.device, prefetch: self.prefetch() },
            precision: self.machine.precision,
        };
        let mut found = serde_json::to_value(settings.run(method, train.as_ref(), &test)?)?;
        if let Some(found) = found.as_object_mut() {
            found.insert("labels".into(), json!(rows.len()));
            found.insert("inputs".into(), json!(inputs));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_sorted_and_bad_ones_refused_in_a_line() {
        assert_eq!("10, 1,100,10".parse(), Ok(Percents(vec![1., 10., 100.])));
        for bad in ["0", "101", "-1", "nan", "a tenth", ""] {
            let message = format!("1,{bad}").parse::<Percents>().unwrap_err();
            assert_eq!(message, format!("expected percentages above 0 and at most 100, got {bad:?}"));
        }
    }
}
