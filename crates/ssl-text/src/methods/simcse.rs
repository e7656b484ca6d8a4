//! SimCSE: a text meets itself under another dropout, and is told from the other texts of the batch.
//!
//! Source: Gao, Yao & Chen, 2021, section 3: <https://arxiv.org/abs/2104.08821>, and the official code
//! (`princeton-nlp/SimCSE`): the first token, through a layer that is used in training only. The paper starts from BERT's
//! weights, which `--init` takes.
use super::{Definition, Info, TextMethod};
use crate::batch::{TextBatch, Tokens};
use crate::heads::cross_entropy;
use crate::models::{Attend, Encoder, Encoders};
use crate::prepare::{Framing, Prepare};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::{alignment, retrieval, uniformity};
use ssl_core::nn::{Linear, Module, l2_normalize, trunc_normal};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, check, no_grad};
use std::rc::Rc;
use std::sync::Arc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// SimCSE's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What similarities are divided by.
    pub temperature: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config { temperature: 0.05 }
    }
}

/// An encoder and a layer that is thrown away after training.
#[derive(Debug)]
pub struct SimCse {
    vars: VarStore,
    encoder: Rc<Encoder>,
    layer: Linear,
    framing: Framing,
    training: Framing,
    config: Config,
}

impl Definition for SimCse {
    const INFO: Info = Info {
        name: "simcse",
        summary: "bring a text together with itself under another dropout",
        paper: "Gao, Yao, Chen",
        year: 2021,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2104.08821",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (shape, vocabulary) = (encoders.config(), encoders.vocabulary());
        shape.check_transformer("simcse")?;
        check::positive("temperature", config.temperature)?;
        if shape.dropout <= 0. && shape.attention_dropout <= 0. {
            let message = "expected a dropout above 0: without it a text is its own copy, got 0";
            return Err(Error::config("dropout", message));
        }
        let framing = |most| Framing::between(most, vocabulary, "simcse");
        let (framing, training) = (framing(shape.max_length as usize)?, framing(encoders.length())?);
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let dim = encoder.dim();
        let layer = Linear::with_init(&(vars.root() / "mlp" / "dense"), dim, dim, |w| trunc_normal(w, 0.02))?;
        Ok(SimCse { vars, encoder, layer, framing, training, config })
    }
}

impl SimCse {
    /// What is compared in training, of unit length. `[B, D]`.
    fn project(&self, tokens: &Tokens, mode: Mode) -> Result<Tensor> {
        let z = self.layer.forward(&self.encoder.embed(tokens, Attend::All, mode)?, mode)?.f_tanh()?;
        l2_normalize(&z)
    }

    /// The loss of the paper's equation 1.
    fn loss(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Precision::Fp32.scope(a.device(), || {
            let logits = a.f_matmul(&b.f_tr()?)?.f_div_scalar(self.config.temperature)?;
            let count = logits.size().first().copied().unwrap_or(0);
            cross_entropy(&logits, &Tensor::f_arange(count, (Kind::Int64, a.device()))?)
        })
    }
}

impl Method for SimCse {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, _at: Step) -> Result<Output> {
        let tokens = &batch.only("simcse")?.tokens;
        let [a, b] = [self.project(tokens, Mode::Train)?, self.project(tokens, Mode::Train)?];
        Ok(Output::new(self.loss(&a, &b)?))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    /// With dropout, as in training: without it both views are one.
    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let tokens = &batch.only("simcse")?.tokens;
            let [a, b] = [self.project(tokens, Mode::Train)?, self.project(tokens, Mode::Train)?];
            Ok(vec![
                ("loss".into(), self.loss(&a, &b)?),
                ("retrieval".into(), retrieval(&a, &b)?),
                ("alignment".into(), Tensor::from(alignment(&a, &b)?)),
                ("uniformity".into(), Tensor::from(uniformity(&a)?)),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for SimCse {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::new(self.training)]
    }

    fn framing(&self) -> Framing {
        self.framing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, dropping, encoders};
    use ssl_core::check_method;

    #[test]
    fn it_keeps_the_contract() {
        let (tokenizer, store) = corpus();
        let build = || SimCse::new(Config::default(), &dropping("bert_d16_l2_h2", &tokenizer));
        let rows: Vec<Vec<i64>> = (0..6).map(|i| store.document(i, 9).unwrap()).collect();
        let method = build().unwrap();
        let batch = TextBatch(vec![method.training.sequences(&rows, 0., &mut ssl_core::rng(0, &[])).unwrap()]);
        let scratch = tempfile::tempdir().unwrap();
        check_method(build, &batch, &method.framing().tokens(&rows).unwrap(), scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_a_slow_loop() {
        let (tokenizer, _) = corpus();
        let method = SimCse::new(Config { temperature: 0.5 }, &dropping("bert_d16_l1_h2", &tokenizer)).unwrap();
        let x = |by: f64| l2_normalize(&(Tensor::arange(12, (Kind::Double, tch::Device::Cpu)) * by).sin().view([4, 3])).unwrap();
        let (a, b) = (x(0.7), x(1.9));
        let at = |i: i64, j: i64| (a.get(i) * b.get(j)).sum(Kind::Double).double_value(&[]) / 0.5;
        let one = |i: i64| (0..4).map(|j| at(i, j).exp()).sum::<f64>().ln() - at(i, i);
        let slow = (0..4).map(one).sum::<f64>() / 4.;
        assert!((method.loss(&a, &b).unwrap().double_value(&[]) - slow).abs() < 1e-6);
    }

    #[test]
    fn without_dropout_there_is_nothing_to_learn() {
        let (tokenizer, _) = corpus();
        let message = SimCse::new(Config::default(), &encoders("bert_d16_l1_h2", &tokenizer)).unwrap_err();
        assert!(message.to_string().starts_with("dropout: expected a dropout above 0"), "{message}");
    }
}
