//! Several objectives on one encoder: their losses are added, each with its weight.
//!
//! Source: Doersch & Zisserman, 2017: <https://arxiv.org/abs/1708.07860>, of images; weights as in
//! [`ssl_core::objectives`]. All objectives are made of the same text, so that they must cut it alike.
use super::{Definition, Info, Logits, TextMethod, find};
use crate::batch::{Sequences, TextBatch, Tokens};
use crate::models::Encoders;
use crate::prepare::{Framing, Prepare};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssl_core::objectives::{Objectives, Weighting, check_objectives};
use ssl_core::{Batch, Method, Metrics, Mode, Output, Result, Step};
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

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    objectives: Objectives<dyn TextMethod>,
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
        let build = |name: &str| find(name)?.build(settings.get(name).unwrap_or(&Value::Null), &encoders);
        let objectives = Objectives::new(vars, names, (weights, *weighting), build)?;
        let framing = objectives.first()?.framing();
        Ok(Multi { objectives, framing })
    }
}

impl Multi {
    /// Every part with its own sequences of the batch.
    fn split(&self, TextBatch(all): &TextBatch) -> Result<Vec<TextBatch>> {
        let runs = self.objectives.split("sequences", all, |method| method.prepare().len())?;
        let own = |run: &[Sequences]| {
            let copies = run.iter().map(|one| one.map(&mut |x| Ok(x.shallow_clone())));
            copies.collect::<Result<_>>().map(TextBatch)
        };
        runs.into_iter().map(own).collect()
    }
}

impl Method for Multi {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, at: Step) -> Result<Output> {
        let batches = self.split(batch)?;
        self.objectives.step(&batches, at)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.objectives.after_step(at)
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.objectives.first()?.encode(input, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        self.objectives.validate(&self.split(batch)?)
    }

    fn vital(&self) -> Vec<(String, f64)> {
        self.objectives.vital()
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        self.objectives.look(&self.split(batch)?)
    }

    fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.objectives.encoder()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        self.objectives.stores()
    }
}

impl TextMethod for Multi {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        self.objectives.methods().flat_map(|(_, method)| method.prepare()).collect()
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn logits(&self, tokens: &Tokens) -> Result<Option<Logits>> {
        self.objectives.first()?.logits(tokens)
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
