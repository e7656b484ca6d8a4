//! Masked language modelling: tokens are hidden, and restored from those around them.
//!
//! Source: Devlin et al., 2018 (BERT), section 3.1: <https://arxiv.org/abs/1810.04805>; initialization, names and head
//! follow transformers' `BertForMaskedLM`. The next-sentence objective is left out, as Liu et al., 2019 (RoBERTa) found
//! best: <https://arxiv.org/abs/1907.11692>; sequences run over the borders of documents, as theirs.
use super::{Definition, Export, Info, Logits, TextMethod};
use crate::batch::{Sequences, TextBatch, Tokens};
use crate::heads::{RestoringHead, accuracy, at_places, cross_entropy};
use crate::models::{Attend, Encoder, Encoders};
use crate::prepare::{Framing, MaskTokens, Masking, Prepare};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Result, Step, no_grad};
use std::rc::Rc;
use std::sync::Arc;
use tch::Tensor;
use tch::nn::VarStore;

/// Sequences to look at, at most.
const SHOWN: i64 = 3;

/// The hyperparameters of masked language modelling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is hidden.
    pub masking: Masking,
}

/// An encoder and a head that restores hidden tokens.
#[derive(Debug)]
pub struct Mlm {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: RestoringHead,
    masks: Arc<MaskTokens>,
    framing: Framing,
}

impl Definition for Mlm {
    const INFO: Info = Info {
        name: "mlm",
        summary: "restore hidden tokens from those around them",
        paper: "Devlin, Chang, Lee, Toutanova",
        year: 2018,
        kind: "masked",
        url: "https://arxiv.org/abs/1810.04805",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (vocabulary, shape) = (encoders.vocabulary(), encoders.config());
        shape.check_transformer("mlm")?;
        let masks = MaskTokens::new(config.masking, vocabulary, encoders.length(), "mlm")?;
        let framing = Framing::between(shape.max_length as usize, vocabulary, "mlm")?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let head = vars.root() / "cls" / "predictions";
        let transform = &head / "transform";
        let places = [&(&transform / "dense"), &(&transform / "LayerNorm"), &head];
        let head = RestoringHead::new(places, (encoder.dim(), shape.embedding_dim()), vocabulary.size)?;
        Ok(Mlm { vars, encoder, head, masks: Arc::new(masks), framing })
    }
}

impl Mlm {
    /// Logits at the places that are predicted, `[B * P, V]`.
    fn predict(&self, sequences: &Sequences, mode: Mode) -> Result<Tensor> {
        let none = || Error::config("sequences", "mlm takes places that are predicted, got none");
        let places = sequences.places.as_ref().ok_or_else(none)?;
        let x = self.encoder.forward(&sequences.tokens, Attend::All, mode)?;
        self.head.forward(&at_places(&x, places)?, self.encoder.words().weight(), mode)
    }
}

impl Method for Mlm {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, _at: Step) -> Result<Output> {
        let sequences = batch.only("mlm")?;
        let logits = self.predict(sequences, Mode::Train)?;
        Ok(Output::new(cross_entropy(&logits, &sequences.targets)?))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let sequences = batch.only("mlm")?;
            let logits = self.predict(sequences, Mode::Eval)?;
            Ok(vec![
                ("loss".into(), cross_entropy(&logits, &sequences.targets)?),
                ("accuracy".into(), accuracy(&logits, &sequences.targets)?),
            ])
        })
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        no_grad(|| {
            let Sequences { tokens, places, targets } = batch.only("mlm")?.part(0, batch.len().min(SHOWN))?;
            let Some(places) = places else { return Ok(Vec::new()) };
            let sequences = Sequences { tokens, places: Some(places.shallow_clone()), targets };
            let best = self.predict(&sequences, Mode::Eval)?.f_argmax(-1, false)?.f_view_as(&places)?;
            let with = |values: &Tensor| {
                sequences.tokens.map(&mut |x| match x.dim() {
                    2 => Ok(x.f_scatter(1, &places, values)?),
                    _ => Ok(x.shallow_clone()),
                })
            };
            // A place without a target is that of the first token, which is put back.
            let kept = sequences.targets.f_lt(0)?;
            let here = sequences.tokens.ids.f_gather(1, &places, false)?;
            let truth = here.f_where_self(&kept, &sequences.targets)?;
            let best = here.f_where_self(&kept, &best)?;
            let read = sequences.tokens.map(&mut |x| Ok(x.shallow_clone()))?;
            Ok(vec![("text".into(), with(&truth)?), ("hidden".into(), read), ("restored".into(), with(&best)?)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for Mlm {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::clone(&self.masks) as _]
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn logits(&self, tokens: &Tokens) -> Result<Option<Logits>> {
        let x = self.encoder.forward(tokens, Attend::All, Mode::Eval)?;
        Ok(Some(Logits::Same(self.head.forward(&x, self.encoder.words().weight(), Mode::Eval)?)))
    }

    fn export(&self) -> Option<Export> {
        let own = |(name, tensor): (String, Tensor)| match name.strip_prefix("encoder.") {
            Some(rest) => (format!("bert.{rest}"), tensor),
            None => (name, tensor),
        };
        Some(Export { class: "BertForMaskedLM", tensors: self.vars.variables().into_iter().map(own).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders, check_method_of};
    use crate::source::SequenceSource;
    use serde_json::json;
    use ssl_core::Source;

    #[test]
    fn it_keeps_the_contract() {
        for arch in ["bert_d16_l2_h2", "electra_d16_l1_h2", "gpt2_d16_l1_h2"] {
            check_method_of::<Mlm>(arch, &json!({}));
        }
        check_method_of::<Mlm>("bert_d16_l1_h2", &json!({"masking": {"unit": "span", "ratio": 0.3}}));
    }

    #[test]
    fn only_hidden_places_are_predicted_and_the_loss_is_that_of_all_positions() {
        let (tokenizer, store) = corpus();
        let mlm = Mlm::new(Config::default(), &encoders("bert_d16_l1_h2", &tokenizer)).unwrap();
        let batch = SequenceSource::new(store, mlm.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
        let sequences = batch.only("mlm").unwrap();
        let places = sequences.places.as_ref().unwrap();
        // Slowly: logits everywhere, and the log-probability of each target by itself.
        let Some(Logits::Same(logits)) = mlm.logits(&sequences.tokens).unwrap() else { panic!("no logits") };
        let log = logits.log_softmax(-1, tch::Kind::Double);
        let (mut sum, mut count) = (0., 0.);
        for row in 0..6 {
            for p in 0..places.size()[1] {
                let target = sequences.targets.int64_value(&[row, p]);
                if target >= 0 {
                    sum -= log.double_value(&[row, places.int64_value(&[row, p]), target]);
                    count += 1.;
                }
            }
        }
        let loss = mlm.validate(&batch).unwrap()[0].1.double_value(&[]);
        assert!((loss - sum / count).abs() < 1e-5, "{loss} {}", sum / count);
    }

    #[test]
    fn what_is_shown_differs_at_hidden_places_alone() {
        let (tokenizer, store) = corpus();
        let mlm = Mlm::new(Config::default(), &encoders("bert_d16_l1_h2", &tokenizer)).unwrap();
        let batch = SequenceSource::new(store, mlm.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
        let rows = mlm.look(&batch).unwrap();
        let ids = |i: usize| rows[i].1.ids.shallow_clone();
        assert_eq!(rows.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["text", "hidden", "restored"]);
        let window = i64::try_from(ids(0).ne_tensor(&ids(2)).sum(tch::Kind::Int64)).unwrap();
        assert!(window <= 3 * 2 && ids(0).size() == [3, 12], "at most the two predicted of ten: {window}");
        assert!(!ids(0).equal(&ids(1)));
    }
}
