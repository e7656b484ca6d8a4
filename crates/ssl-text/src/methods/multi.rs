//! Several objectives on one encoder: their losses are added, each with its weight.
//!
//! Source: Doersch & Zisserman, 2017: <https://arxiv.org/abs/1708.07860>, of images; weights as in
//! [`ssl_core::objectives`]. All objectives are made of the same text, so that they must cut it alike.
use super::{Definition, Info, Logits, TextMethod, find};
use crate::batch::{TextBatch, Tokens};
use crate::models::Encoders;
use crate::prepare::{Framing, Prepare};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssl_core::objectives::{Weigher, Weighting, check_objectives};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Precision, Result, Step};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;
use tch::nn::VarStore;

/// The hyperparameters of training on several objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names of the methods, at least two; the representation is that of the first, whose encoder all train.
    pub objectives: Vec<String>,
    /// A factor for each loss; none stands for 1 each.
    pub weights: Vec<f64>,
    /// fixed, or uncertainty.
    pub weighting: Weighting,
    /// Hyperparameters of the methods by name, where they differ from the papers'.
    pub settings: BTreeMap<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            objectives: vec!["mlm".into(), "simcse".into()],
            weights: Vec::new(),
            weighting: Weighting::Fixed,
            settings: [("mlm".to_string(), json!({"masking": {"text": "documents"}}))].into(),
        }
    }
}

/// One objective, with its own heads.
#[derive(Debug)]
struct Part {
    name: String,
    method: Box<dyn TextMethod>,
}

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    vars: VarStore,
    parts: Vec<Part>,
    weigher: Weigher,
    framing: Framing,
}

impl Definition for Multi {
    const INFO: Info = Info {
        name: "multi",
        summary: "train one encoder on several objectives at once",
        paper: "Doersch, Zisserman",
        year: 2017,
        kind: "multi-task",
        url: "https://arxiv.org/abs/1708.07860",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let Config { objectives: names, weights, settings, weighting } = &config;
        // The settings of the default belong to objectives that may not be asked for.
        let settings: BTreeMap<String, Value> = match *settings == Config::default().settings {
            true => settings.clone().into_iter().filter(|(name, _)| names.contains(name)).collect(),
            false => settings.clone(),
        };
        check_objectives(Self::INFO.name, names, weights, &settings)?;
        let vars = VarStore::new(encoders.device());
        let encoders = encoders.shared(&vars)?;
        let part = |name: &String| -> Result<Part> {
            let settings = settings.get(name).unwrap_or(&Value::Null);
            Ok(Part { name: name.clone(), method: find(name)?.build(settings, &encoders)? })
        };
        let parts = names.iter().map(part).collect::<Result<Vec<_>>>()?;
        let weigher = Weigher::new(&vars.root(), parts.len(), weights, *weighting)?;
        let framing = parts.first().map(|part| part.method.framing());
        let framing = framing.ok_or_else(|| Error::config("objectives", "expected at least two, got none"))?;
        Ok(Multi { vars, parts, weigher, framing })
    }
}

impl Multi {
    fn first(&self) -> Result<&dyn TextMethod> {
        let first = self.parts.first().map(|part| part.method.as_ref());
        first.ok_or_else(|| Error::config("objectives", "expected at least two, got none"))
    }

    /// Every part with its own sequences of the batch.
    fn split(&self, TextBatch(all): &TextBatch) -> Result<Vec<TextBatch>> {
        let counts: Vec<usize> = self.parts.iter().map(|part| part.method.prepare().len()).collect();
        let expected: usize = counts.iter().sum();
        if all.len() != expected {
            let message = format!("the objectives take {expected} kinds together, got {}", all.len());
            return Err(Error::config("sequences", message));
        }
        let mut rest = all.iter();
        let mut take = |n: usize| {
            let some = rest.by_ref().take(n).map(|one| one.map(&mut |x| Ok(x.shallow_clone())));
            some.collect::<Result<_>>().map(TextBatch)
        };
        counts.into_iter().map(&mut take).collect()
    }
}

impl Method for Multi {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, at: Step) -> Result<Output> {
        let (mut losses, mut metrics) = (Vec::new(), Vec::new());
        for (place, batch) in self.split(batch)?.iter().enumerate() {
            let Some(part) = self.parts.get_mut(place) else { continue };
            let output = part.method.step(batch, at)?;
            metrics.push((format!("{}/loss", part.name), output.loss.f_detach()?));
            metrics.extend(output.metrics.into_iter().map(|(name, value)| (format!("{}/{name}", part.name), value)));
            losses.push(output.loss);
        }
        let loss = Precision::Fp32.scope(self.vars.device(), || self.weigher.join(&losses))?;
        Ok(Output { loss, metrics })
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.method.after_step(at))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.first()?.encode(input, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        let mut all = Metrics::new();
        for (part, batch) in self.parts.iter().zip(self.split(batch)?) {
            let found = part.method.validate(&batch)?;
            all.extend(found.into_iter().map(|(name, value)| (format!("{}/{name}", part.name), value)));
        }
        Ok(all)
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        let mut all = Vec::new();
        for (part, batch) in self.parts.iter().zip(self.split(batch)?) {
            let found = part.method.look(&batch)?;
            all.extend(found.into_iter().map(|(name, text)| (format!("{} {name}", part.name), text)));
        }
        Ok(all)
    }

    fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.parts.first().map(|part| part.method.encoder()).unwrap_or_default()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        let own = std::iter::once(("student".to_string(), &self.vars));
        let theirs = self.parts.iter().flat_map(|part| {
            part.method.stores().into_iter().map(|(name, vars)| (format!("{}.{name}", part.name), vars))
        });
        own.chain(theirs).collect()
    }
}

impl TextMethod for Multi {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        self.parts.iter().flat_map(|part| part.method.prepare()).collect()
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn logits(&self, tokens: &Tokens) -> Result<Option<Logits>> {
        self.first()?.logits(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, dropping};
    use crate::source::SequenceSource;
    use ssl_core::{Source, check_method, named_tensors};

    #[test]
    fn keeps_the_contract_with_either_weighting() {
        let (tokenizer, store) = corpus();
        for weighting in [Weighting::Fixed, Weighting::Uncertainty] {
            let config = Config { weighting, ..Config::default() };
            let build = || Multi::new(config.clone(), &dropping("bert_d16_l1_h2", &tokenizer));
            let method = build().unwrap();
            let batch = SequenceSource::new(Arc::clone(&store), method.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
            let rows: Vec<Vec<i64>> = (0..5).map(|i| store.document(i, 9).unwrap()).collect();
            let scratch = tempfile::tempdir().unwrap();
            check_method(build, &batch, &method.framing().tokens(&rows).unwrap(), scratch.path()).unwrap();
        }
    }

    #[test]
    fn one_encoder_is_trained_by_both_and_saved_once() {
        let (tokenizer, _) = corpus();
        let method = Multi::new(Config::default(), &dropping("bert_d16_l1_h2", &tokenizer)).unwrap();
        let names: Vec<String> = named_tensors(&method).into_keys().collect();
        let words: Vec<&String> = names.iter().filter(|name| name.ends_with("word_embeddings.weight")).collect();
        assert_eq!(words, ["student/encoder.embeddings.word_embeddings.weight"]);
        assert!(names.contains(&"simcse.student/mlp.dense.weight".to_string()), "{names:?}");
    }

    #[test]
    fn objectives_that_cut_the_text_in_different_ways_are_refused() {
        let (tokenizer, store) = corpus();
        let settings = [("mlm".to_string(), json!({"masking": {"text": "stream"}}))].into();
        let config = Config { settings, ..Config::default() };
        let method = Multi::new(config, &dropping("bert_d16_l1_h2", &tokenizer)).unwrap();
        let message = SequenceSource::new(store, method.prepare(), 6, 0).unwrap_err().to_string();
        assert!(message.starts_with("objectives: expected ways of cutting the text that agree"), "{message}");
    }
}
