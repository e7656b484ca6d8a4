//! word2vec: words that stand near each other get vectors that tell them from random ones.
//!
//! Source: Mikolov et al., 2013: <https://arxiv.org/abs/1310.4546>, and the official `word2vec.c`, whose details and
//! numbers gensim shares: windows shrink at random, frequent words are left out at random, a context's vector predicts the
//! word in its middle against words drawn by the power 0.75 of their frequency.
//!
//! The official code lets all threads write into one table without a lock. Here each of a few parts of a batch goes
//! through its words one after the other on a table of its own, and what they changed is added up: the result does not
//! depend on threads. The sum is handed to the trainer as a gradient, which plain gradient descent with a rate of 1
//! applies; the rate of the single updates is [`Config::alpha`].
use super::{Definition, Info, TextMethod};
use crate::batch::{TextBatch, Tokens};
use crate::models::{Attend, Encoder, Encoders, Family};
use crate::prepare::{Cut, Framing, Prepare};
use crate::sampled::{Draws, Objective, Sampled, Tables};
use crate::tokenizer::SpecialToken;
use crate::{IGNORED, Sequences};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Result, Rng, Step, check, dims2, mix, no_grad};
use std::rc::Rc;
use std::sync::Arc;
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

/// Words whose neighbors are shown, and neighbors of each.
const SHOWN: i64 = 8;
const NEIGHBORS: i64 = 6;

/// word2vec's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// skip_gram, or cbow.
    pub objective: Objective,
    /// Words on each side of a word, at most.
    pub window: usize,
    /// Random words for each pair.
    pub negative: usize,
    /// Words of a greater share of the text are left out at random; 0 keeps all.
    pub subsample: f64,
    /// The power of frequencies by which random words are drawn.
    pub power: f64,
    /// Rate of the updates at the start.
    pub alpha: f64,
    /// The same at the end, reached along a line.
    pub min_alpha: f64,
    /// Parts of a batch that go beside each other.
    pub parts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            objective: Objective::SkipGram,
            window: 5,
            negative: 5,
            subsample: 1e-3,
            power: 0.75,
            alpha: 0.025,
            min_alpha: 1e-4,
            parts: 2,
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::positive("window", self.window as f64)?;
        check::positive("negative", self.negative as f64)?;
        check::positive("alpha", self.alpha)?;
        check::positive("min_alpha", self.min_alpha)?;
        check::positive("parts", self.parts as f64)?;
        if !(self.subsample >= 0. && self.subsample.is_finite() && self.power.is_finite()) {
            let message = format!("expected numbers, the first of at least 0, got {:?}", (self.subsample, self.power));
            return Err(Error::config("subsample, power", message));
        }
        Ok(())
    }

    /// Rate of the updates at a step.
    fn alpha_at(&self, at: Step) -> f64 {
        self.alpha + (self.min_alpha - self.alpha) * at.index as f64 / at.total.max(1) as f64
    }
}

/// A table of vectors of words, and one of the vectors that they are told apart by.
#[derive(Debug)]
pub struct Word2Vec {
    vars: VarStore,
    encoder: Rc<Encoder>,
    output: Tensor,
    draws: Draws,
    framing: Framing,
    length: usize,
    config: Config,
}

impl Definition for Word2Vec {
    const INFO: Info = Info {
        name: "word2vec",
        summary: "tell the words around a word from random ones",
        paper: "Mikolov, Sutskever, Chen, Corrado, Dean",
        year: 2013,
        kind: "contrastive",
        url: "https://arxiv.org/abs/1310.4546",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (shape, vocabulary) = (encoders.config(), encoders.vocabulary());
        if shape.arch.family != Family::Table {
            let message = format!("word2vec trains a table such as table_d100, got {}", shape.arch);
            return Err(Error::config("encoder", message));
        }
        let pad = vocabulary.special(SpecialToken::Pad, "word2vec")?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let output = (vars.root() / "output").f_var("weight", &[vocabulary.size, encoder.dim()], Init::Const(0.))?;
        let draws = Draws::new(vocabulary, config.subsample, config.power)?;
        let framing = Framing { first: None, last: None, pad, most: shape.max_length as usize };
        Ok(Word2Vec { vars, encoder, output, draws, framing, length: encoders.length(), config })
    }
}

impl Word2Vec {
    /// What the words of a batch change at a rate, by table, and the mean loss of a pair.
    fn changes(&self, ids: &Tensor, alpha: f64, seed: u64) -> Result<([Tensor; 2], f64)> {
        let (rows, n) = dims2(ids, "words", "[B, N]")?;
        let ids = Vec::<i64>::try_from(ids.f_flatten(0, 1)?.f_to_device(Device::Cpu)?)?;
        let copy = |x: &Tensor| -> Result<Vec<f32>> {
            Ok(Vec::<f32>::try_from(x.f_detach()?.f_to_device(Device::Cpu)?.f_flatten(0, 1)?)?)
        };
        let words = self.encoder.words().weight();
        let before = Tables { input: copy(words)?, output: copy(&self.output)?, dim: self.encoder.dim() as usize };
        let per_part = (rows as usize).div_ceil(self.config.parts).max(1) * n as usize;
        let (Config { objective, window, negative, .. }, draws) = (self.config.clone(), &self.draws);
        let part = |(place, ids): (usize, &[i64])| {
            let mut tables = before.clone();
            let mut sampled = Sampled::new(draws, objective, (window, negative), mix(seed, place as u64));
            for row in ids.chunks(n.max(1) as usize) {
                sampled.train(&mut tables, row, alpha as f32);
            }
            (tables, sampled.loss())
        };
        let parts: Vec<(Tables, (f64, u64))> =
            ids.par_chunks(per_part.max(1)).enumerate().map(part).collect();
        let (sum, count) = parts.iter().fold((0., 0), |(sum, count), (_, (s, c))| (sum + s, count + c));
        let change = |of: fn(&Tables) -> &[f32]| -> Result<Tensor> {
            let mut change = vec![0f32; of(&before).len()];
            change.par_chunks_mut(1 << 14).enumerate().for_each(|(chunk, change)| {
                let from = chunk << 14;
                let Some(start) = of(&before).get(from..from + change.len()) else { return };
                for (tables, _) in &parts {
                    let Some(end) = of(tables).get(from..from + change.len()) else { return };
                    for ((change, end), start) in change.iter_mut().zip(end).zip(start) {
                        *change += end - start;
                    }
                }
            });
            Ok(Tensor::f_from_slice(&change)?.f_view_as(words)?.f_to_device(words.device())?)
        };
        let changes = [change(|tables| &tables.input)?, change(|tables| &tables.output)?];
        Ok((changes, sum / (count as f64).max(1.)))
    }

    /// The words that are nearest to each of some, with it first. `[W, 1 + K]`.
    fn nearest(&self, words: &Tensor) -> Result<Tensor> {
        let all = ssl_core::nn::l2_normalize(self.encoder.words().weight())?;
        let similarity = all.f_index_select(0, words)?.f_matmul(&all.f_tr()?)?;
        // Special tokens and words that the text lacks are near nothing.
        let hidden = self.draws.unused()?.f_to_device(similarity.device())?;
        let similarity = similarity.f_masked_fill(&hidden, f64::NEG_INFINITY)?;
        let count = similarity.size().get(1).copied().unwrap_or(0);
        Ok(similarity.f_topk((1 + NEIGHBORS).min(count), 1, true, true)?.1)
    }
}

impl Method for Word2Vec {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, at: Step) -> Result<Output> {
        let sequences = batch.only("word2vec")?;
        let seed = i64::try_from(Tensor::f_randint(i64::MAX, [], (Kind::Int64, Device::Cpu))?)?.cast_unsigned();
        let (changes, loss) = self.changes(&sequences.tokens.ids, self.config.alpha_at(at), seed)?;
        // A scalar of this value whose gradients are the changes, turned around.
        let mut total = Tensor::from(loss as f32).f_to_device(self.vars.device())?;
        for (table, change) in [self.encoder.words().weight(), &self.output].into_iter().zip(&changes) {
            let along = table.f_mul(&change.f_neg()?)?.f_sum(Kind::Float)?;
            total = total.f_add(&along)?.f_sub(&along.f_detach()?)?;
        }
        Ok(Output::new(total))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let sequences = batch.only("word2vec")?;
            // Nothing moves at a rate of 0: what is left is the loss.
            let (_, loss) = self.changes(&sequences.tokens.ids, 0., 0)?;
            Ok(vec![("loss".into(), Tensor::from(loss as f32))])
        })
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        no_grad(|| {
            let ids = batch.only("word2vec")?.tokens.ids.f_flatten(0, 1)?.f_to_device(Device::Cpu)?;
            let mut words = Vec::new();
            for id in Vec::<i64>::try_from(ids)? {
                if self.draws.is_rare(id) && !words.contains(&id) && (words.len() as i64) < SHOWN {
                    words.push(id);
                }
            }
            if words.is_empty() {
                return Ok(Vec::new());
            }
            let words = Tensor::f_from_slice(&words)?.f_to_device(self.vars.device())?;
            let near = Vec::<Vec<i64>>::try_from(self.nearest(&words)?.f_to_device(Device::Cpu)?)?;
            let rows = near.iter().map(Vec::as_slice);
            Ok(vec![("a word and its nearest".into(), Tokens::padded(rows, self.framing.pad)?)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for Word2Vec {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::new(Stretch { tokens: self.length })]
    }

    fn framing(&self) -> Framing {
        self.framing
    }
}

/// Stretches of text as they are.
#[derive(Debug)]
struct Stretch {
    tokens: usize,
}

impl Prepare for Stretch {
    fn cut(&self) -> Cut {
        Cut::Stream { tokens: self.tokens }
    }

    fn sequences(&self, rows: &[Vec<i64>], _progress: f64, _rng: &mut Rng) -> Result<Sequences> {
        let tokens = Tokens::padded(rows.iter().map(Vec::as_slice), IGNORED)?;
        let targets = Tensor::f_zeros([tokens.len(), 0], (Kind::Int64, Device::Cpu))?;
        Ok(Sequences { tokens, places: None, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders, check_method_of};
    use serde_json::json;

    #[test]
    fn it_keeps_the_contract() {
        for objective in ["skip_gram", "cbow"] {
            check_method_of::<Word2Vec>("table_d8", &json!({"objective": objective, "subsample": 0}));
        }
    }

    #[test]
    fn a_step_of_rate_one_applies_the_changes() {
        let (tokenizer, store) = corpus();
        let config = Config { subsample: 0., ..Config::default() };
        let mut method = Word2Vec::new(config, &encoders("table_d8", &tokenizer)).unwrap();
        let rows: Vec<Vec<i64>> = (0..4).map(|i| store.window(12 * i, 12).unwrap()).collect();
        let sequences = Stretch { tokens: 12 }.sequences(&rows, 0., &mut ssl_core::rng(0, &[])).unwrap();
        let at = Step { index: 0, total: 10 };
        ssl_core::trainer::seed_torch(3, 0);
        let seed = Tensor::randint(i64::MAX, [], (Kind::Int64, Device::Cpu)).int64_value(&[]) as u64;
        let (changes, loss) = method.changes(&sequences.tokens.ids, 0.025, seed).unwrap();
        ssl_core::trainer::seed_torch(3, 0);
        let output = method.step(&TextBatch(vec![sequences]), at).unwrap();
        assert!((output.loss.double_value(&[]) - loss).abs() < 1e-6);
        let tables = [method.encoder.words().weight().shallow_clone(), method.output.shallow_clone()];
        let gradients = Tensor::run_backward(&[&output.loss], &tables, false, false);
        for (gradient, change) in gradients.iter().zip(&changes) {
            assert!((-gradient).equal(change) && change.abs().max().double_value(&[]) > 0.);
        }
    }

    #[test]
    fn only_a_table_is_trained() {
        let (tokenizer, _) = corpus();
        let error = Word2Vec::new(Config::default(), &encoders("bert_d8_l1_h2", &tokenizer)).unwrap_err();
        assert_eq!(error.to_string(), "encoder: word2vec trains a table such as table_d100, got bert_d8_l1_h2");
    }
}
