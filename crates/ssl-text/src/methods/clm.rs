//! Causal language modelling: each token is predicted from those before it.
//!
//! Source: Radford et al., 2019 (GPT-2), whose head is the table of embeddings; with a recurrent network, Mikolov et al.,
//! 2010: <https://doi.org/10.21437/Interspeech.2010-343>.
use super::{Definition, Export, Info, Logits, TextMethod};
use crate::batch::{TextBatch, Tokens};
use crate::generate::{Sampling, generate};
use crate::heads::{accuracy, cross_entropy};
use crate::models::{Attend, Encoder, Encoders, Family};
use crate::prepare::{Framing, NextToken, Prepare};
use crate::tokenizer::SpecialToken;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Result, Step, no_grad, rng};
use std::rc::Rc;
use std::sync::Arc;
use tch::Tensor;
use tch::nn::VarStore;

/// Beginnings that are continued to be looked at, at most, and tokens that each is continued by.
const SHOWN: i64 = 2;
const SAMPLED: usize = 200;
/// The stream of random numbers of these continuations.
const SAMPLE: u64 = 44;

/// The hyperparameters of causal language modelling: it has none beside the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// An encoder whose table of embeddings also says which token comes next.
#[derive(Debug)]
pub struct Clm {
    vars: VarStore,
    encoder: Rc<Encoder>,
    next: NextToken,
    framing: Framing,
    family: Family,
}

impl Definition for Clm {
    const INFO: Info = Info {
        name: "clm",
        summary: "predict each token from those before it",
        paper: "Radford, Wu, Child, Luan, Amodei, Sutskever",
        year: 2019,
        kind: "generative",
        url: "https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
    };

    type Config = Config;

    fn new(_config: Config, encoders: &Encoders) -> Result<Self> {
        let shape = encoders.config();
        let family = shape.arch.family;
        if family == Family::Table || shape.embedding_dim() != shape.arch.dim {
            let message = format!(
                "clm needs a transformer or a recurrent network whose embeddings have its width, got {}",
                shape.arch
            );
            return Err(Error::config("encoder", message));
        }
        let start = encoders.vocabulary().special(SpecialToken::Sep, "clm")?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let next = NextToken { length: encoders.length() };
        // In training a separator is before every document.
        let framing = Framing { first: Some(start), last: None, pad: start, most: shape.max_length as usize };
        Ok(Clm { vars, encoder, next, framing, family })
    }
}

impl Clm {
    /// Logits of the token after each, `[B, N, V]`.
    fn predict(&self, tokens: &Tokens, mode: Mode) -> Result<Tensor> {
        let x = self.encoder.forward(tokens, Attend::Past, mode)?;
        Ok(x.f_linear(self.encoder.words().weight(), None::<&Tensor>)?)
    }
}

impl Method for Clm {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, _at: Step) -> Result<Output> {
        let sequences = batch.only("clm")?;
        let logits = self.predict(&sequences.tokens, Mode::Train)?;
        Ok(Output::new(cross_entropy(&logits.f_flatten(0, 1)?, &sequences.targets)?))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::Past, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let sequences = batch.only("clm")?;
            let logits = self.predict(&sequences.tokens, Mode::Eval)?.f_flatten(0, 1)?;
            Ok(vec![
                ("loss".into(), cross_entropy(&logits, &sequences.targets)?),
                ("accuracy".into(), accuracy(&logits, &sequences.targets)?),
            ])
        })
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        let tokens = &batch.only("clm")?.tokens;
        let shown = (tokens.len().min(SHOWN), tokens.ids.size().get(1).copied().unwrap_or(0) / 4);
        let begin = tokens.ids.f_narrow(0, 0, shown.0)?.f_narrow(1, 0, shown.1.max(1))?;
        let rows = Vec::<Vec<i64>>::try_from(begin)?;
        let continued = rows
            .iter()
            .map(|row| generate(self, row, &Sampling::default(), SAMPLED, &mut rng(0, &[SAMPLE])))
            .collect::<Result<Vec<_>>>()?;
        let padded = |rows: &[Vec<i64>]| Tokens::padded(rows.iter().map(Vec::as_slice), self.framing.pad);
        Ok(vec![("beginning".into(), padded(&rows)?), ("continued".into(), padded(&continued)?)])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for Clm {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::new(self.next)]
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn logits(&self, tokens: &Tokens) -> Result<Option<Logits>> {
        Ok(Some(Logits::Next(self.predict(tokens, Mode::Eval)?)))
    }

    fn export(&self) -> Option<Export> {
        let own = |(name, tensor): (String, Tensor)| Some((format!("transformer.{}", name.strip_prefix("encoder.")?), tensor));
        let tensors = self.vars.variables().into_iter().filter_map(own).collect();
        (self.family == Family::Gpt2).then_some(Export { class: "GPT2LMHeadModel", tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders, check_method_of};
    use crate::source::SequenceSource;
    use serde_json::json;
    use ssl_core::Source;
    use tch::Kind;

    #[test]
    fn it_keeps_the_contract() {
        for arch in ["gpt2_d16_l2_h2", "lstm_d16_l2", "gru_d16_l1", "bert_d16_l1_h2"] {
            check_method_of::<Clm>(arch, &json!({}));
        }
    }

    #[test]
    fn no_token_sees_what_comes_after_it() {
        let (tokenizer, store) = corpus();
        for arch in ["gpt2_d16_l2_h2", "lstm_d16_l1", "gru_d16_l1"] {
            let clm = Clm::new(Config {}, &encoders(arch, &tokenizer)).unwrap();
            let batch = SequenceSource::new(Arc::clone(&store), clm.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
            let tokens = &batch.only("clm").unwrap().tokens;
            let other = tokens.map(&mut |x| match x.dim() {
                2 => Ok(Tensor::cat(&[x.narrow(1, 0, 7), (x.narrow(1, 7, 5) + 1).remainder(20)], 1)),
                _ => Ok(x.shallow_clone()),
            });
            let logits = |tokens: &Tokens| match clm.logits(tokens).unwrap() {
                Some(Logits::Next(x)) => x,
                _ => panic!("no logits"),
            };
            let (a, b) = (logits(tokens), logits(&other.unwrap()));
            assert!(a.narrow(1, 0, 7).allclose(&b.narrow(1, 0, 7), 1e-5, 1e-6, false), "{arch}");
            assert!(!a.narrow(1, 7, 5).allclose(&b.narrow(1, 7, 5), 1e-3, 1e-4, false), "{arch}");
        }
    }

    #[test]
    fn the_loss_is_the_mean_negative_log_probability_of_the_next_tokens() {
        let (tokenizer, store) = corpus();
        let clm = Clm::new(Config {}, &encoders("gpt2_d16_l1_h2", &tokenizer)).unwrap();
        let batch = SequenceSource::new(store, clm.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
        let sequences = batch.only("clm").unwrap();
        let Some(Logits::Next(logits)) = clm.logits(&sequences.tokens).unwrap() else { panic!("no logits") };
        let chosen = logits.log_softmax(-1, Kind::Double).gather(2, &sequences.targets.unsqueeze(2), false);
        let slow = -chosen.mean(Kind::Double).double_value(&[]);
        let loss = clm.validate(&batch).unwrap()[0].1.double_value(&[]);
        assert!((loss - slow).abs() < 1e-5, "{loss} {slow}");
    }

    #[test]
    fn a_table_of_embeddings_predicts_nothing() {
        let (tokenizer, _) = corpus();
        let message = Clm::new(Config {}, &encoders("table_d8", &tokenizer)).unwrap_err().to_string();
        assert!(message.starts_with("encoder: clm needs a transformer or a recurrent network"), "{message}");
    }
}
