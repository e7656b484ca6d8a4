//! Denoising autoencoder: stretches of text are blotted out or left out, and a decoder writes the text as it was.
//!
//! Source: Lewis et al., 2019 (BART), section 2.2: <https://arxiv.org/abs/1910.13461>: stretches of a length drawn from
//! Poisson(3), each with one token in its place, until 30 % of the tokens are gone; or single tokens left out. The decoder
//! shares the embeddings of tokens and is thrown away after training.
use super::{Definition, Info, TextMethod};
use crate::batch::{IGNORED, Sequences, TextBatch, Tokens};
use crate::heads::{accuracy, cross_entropy};
use crate::models::{Attend, Decoder, DecoderConfig, Encoder, Encoders, hidden_positions};
use crate::prepare::{Cut, Framing, Prepare};
use crate::tokenizer::{SpecialToken, Vocabulary};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::AttentionMask;
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Result, Rng, Step, no_grad};
use std::rc::Rc;
use std::sync::Arc;
use tch::Tensor;
use tch::nn::VarStore;

/// Sequences to look at, at most.
const SHOWN: i64 = 3;

/// What is done to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Stretches become one token, that for what is hidden.
    Infilling,
    /// Single tokens are left out.
    Deletion,
}

/// The hyperparameters of the denoising autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// infilling, or deletion.
    pub noise: Noise,
    /// Part of the tokens that is gone.
    pub ratio: f64,
    /// Mean length of a stretch.
    pub mean_span: f64,
    /// Layers of the decoder.
    pub decoder_layers: i64,
}

impl Default for Config {
    fn default() -> Self {
        Config { noise: Noise::Infilling, ratio: 0.3, mean_span: 3., decoder_layers: 6 }
    }
}

/// An encoder of damaged text and a decoder that is thrown away after training.
#[derive(Debug)]
pub struct Dae {
    vars: VarStore,
    encoder: Rc<Encoder>,
    decoder: Decoder,
    damage: Arc<Damage>,
    framing: Framing,
}

impl Definition for Dae {
    const INFO: Info = Info {
        name: "dae",
        summary: "write text as it was before stretches of it were blotted out",
        paper: "Lewis, Liu, Goyal, Ghazvininejad, Mohamed, Levy, Stoyanov, Zettlemoyer",
        year: 2019,
        kind: "generative",
        url: "https://arxiv.org/abs/1910.13461",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (shape, vocabulary) = (encoders.config(), encoders.vocabulary());
        shape.check_transformer("dae")?;
        if config.decoder_layers < 1 {
            let message = format!("expected at least 1, got {}", config.decoder_layers);
            return Err(Error::config("decoder_layers", message));
        }
        let damage = Damage::new(&config, vocabulary, encoders.length())?;
        let framing = Framing::between(shape.max_length as usize, vocabulary, "dae")?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let decoder = DecoderConfig {
            dim: encoder.dim(),
            layers: config.decoder_layers,
            heads: shape.arch.heads,
            hidden: shape.hidden(),
            max_length: encoders.length() as i64,
            dropout: shape.dropout,
        };
        let decoder = Decoder::new(&(vars.root() / "decoder"), &decoder, shape.embedding_dim())?;
        Ok(Dae { vars, encoder, decoder, damage: Arc::new(damage), framing })
    }
}

impl Dae {
    /// Logits of the text as it was, each token from those before it, `[B, N, V]`.
    fn predict(&self, sequences: &Sequences, mode: Mode) -> Result<Tensor> {
        let memory = self.encoder.forward(&sequences.tokens, Attend::All, mode)?;
        let hidden = hidden_positions(&sequences.tokens, Attend::All)?;
        let mask = hidden.as_ref().map_or(AttentionMask::None, AttentionMask::Additive);
        // The separator comes first, then all targets but the last.
        let targets = sequences.targets.f_clamp_min(0)?;
        let (rows, n) = ssl_core::dims2(&targets, "targets", "[B, N]")?;
        let first = targets.f_narrow(1, 0, 1)?.f_full_like(self.damage.separator as f64)?;
        let read = Tensor::f_cat(&[first, targets.f_narrow(1, 0, n - 1)?], 1)?.f_view([rows, n])?;
        let x = self.decoder.forward(&read, self.encoder.words(), (&memory, mask), mode)?;
        self.decoder.logits(&x, self.encoder.words().weight())
    }
}

impl Method for Dae {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, _at: Step) -> Result<Output> {
        let sequences = batch.only("dae")?;
        let logits = self.predict(sequences, Mode::Train)?;
        Ok(Output::new(cross_entropy(&logits.f_flatten(0, 1)?, &sequences.targets)?))
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let sequences = batch.only("dae")?;
            let logits = self.predict(sequences, Mode::Eval)?.f_flatten(0, 1)?;
            Ok(vec![
                ("loss".into(), cross_entropy(&logits, &sequences.targets)?),
                ("accuracy".into(), accuracy(&logits, &sequences.targets)?),
            ])
        })
    }

    fn look(&self, batch: &TextBatch) -> Result<Vec<(String, Tokens)>> {
        no_grad(|| {
            let sequences = batch.only("dae")?.part(0, batch.len().min(SHOWN))?;
            let best = self.predict(&sequences, Mode::Eval)?.f_argmax(-1, false)?;
            let tokens = |ids: &Tensor| -> Result<Tokens> {
                let rows = Vec::<Vec<i64>>::try_from(ids)?;
                Tokens::padded(rows.iter().map(Vec::as_slice), self.framing.pad)
            };
            let (truth, best) = (tokens(&sequences.targets.f_clamp_min(0)?)?, tokens(&best)?);
            Ok(vec![("text".into(), truth), ("damaged".into(), sequences.tokens), ("restored".into(), best)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for Dae {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::clone(&self.damage) as _]
    }

    fn framing(&self) -> Framing {
        self.framing
    }
}

/// Damages text.
#[derive(Debug)]
struct Damage {
    noise: Noise,
    ratio: f64,
    mean_span: f64,
    mask: i64,
    separator: i64,
    framing: Framing,
}

impl Damage {
    fn new(config: &Config, vocabulary: &Vocabulary, length: usize) -> Result<Self> {
        if !(config.ratio > 0. && config.ratio < 1.) {
            let message = format!("expected a part above 0 and below 1, got {}", config.ratio);
            return Err(Error::config("ratio", message));
        }
        if !(config.mean_span > 0. && config.mean_span < 100.) {
            let message = format!("expected a number above 0 and below 100, got {}", config.mean_span);
            return Err(Error::config("mean_span", message));
        }
        let special = |which| vocabulary.special(which, "dae");
        Ok(Damage {
            noise: config.noise,
            ratio: config.ratio,
            mean_span: config.mean_span,
            mask: special(SpecialToken::Mask)?,
            separator: special(SpecialToken::Sep)?,
            framing: Framing::between(length, vocabulary, "dae")?,
        })
    }

    /// A length of a stretch.
    ///
    /// # Source
    /// Knuth, 1969, section 3.4.1, algorithm Q: products of uniform numbers.
    fn span(&self, rng: &mut Rng) -> usize {
        let (floor, mut product) = ((-self.mean_span).exp(), rng.random::<f64>());
        let mut length = 0;
        while product > floor {
            product *= rng.random::<f64>();
            length += 1;
        }
        length
    }

    fn damage(&self, row: &[i64], rng: &mut Rng) -> Vec<i64> {
        if self.noise == Noise::Deletion {
            return row.iter().copied().filter(|_| rng.random::<f64>() >= self.ratio).collect();
        }
        let wanted = (row.len() as f64 * self.ratio).round() as usize;
        let (mut gone, mut starts) = (vec![false; row.len()], vec![false; row.len()]);
        let mut count = 0;
        // Stretches may overlap, and some draws find nothing left: the tries are bounded.
        for _ in 0..4 * row.len().max(1) {
            if count >= wanted || row.is_empty() {
                break;
            }
            let start = rng.random_range(0..row.len());
            if let Some(start) = starts.get_mut(start) {
                *start = true;
            }
            let length = self.span(rng).min(wanted - count);
            for gone in gone.iter_mut().skip(start).take(length) {
                count += usize::from(!*gone);
                *gone = true;
            }
        }
        let mut damaged = Vec::with_capacity(row.len());
        let mut inside = false;
        for ((&id, gone), start) in row.iter().zip(gone).zip(starts) {
            // One token for a run of stretches, and one where an empty stretch lies.
            if (gone && !inside) || (start && !gone) {
                damaged.push(self.mask);
            }
            if !gone {
                damaged.push(id);
            }
            inside = gone;
        }
        damaged.truncate(self.framing.body());
        damaged
    }
}

impl Prepare for Damage {
    fn cut(&self) -> Cut {
        Cut::Stream { tokens: self.framing.body() }
    }

    fn sequences(&self, rows: &[Vec<i64>], _progress: f64, rng: &mut Rng) -> Result<Sequences> {
        let damaged: Vec<Vec<i64>> = rows.iter().map(|row| self.damage(row, rng)).collect();
        let whole: Vec<Vec<i64>> = rows.iter().map(|row| row.iter().copied().chain([self.separator]).collect()).collect();
        let targets = Tokens::padded(whole.iter().map(Vec::as_slice), IGNORED)?.ids;
        Ok(Sequences { tokens: self.framing.tokens(&damaged)?, places: None, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders, check_method_of};
    use serde_json::json;
    use ssl_core::rng;

    fn damage(noise: Noise) -> Damage {
        let (tokenizer, _) = corpus();
        Damage::new(&Config { noise, ..Config::default() }, tokenizer.vocabulary(), 202).unwrap()
    }

    #[test]
    fn it_keeps_the_contract() {
        for noise in ["infilling", "deletion"] {
            check_method_of::<Dae>("bert_d16_l1_h2", &json!({"decoder_layers": 1, "noise": noise}));
        }
        check_method_of::<Dae>("electra_d16_l1_h2", &json!({"decoder_layers": 2}));
    }

    #[test]
    fn a_third_of_the_tokens_goes_in_stretches_of_the_papers_mean() {
        let (infilling, mut rng) = (damage(Noise::Infilling), rng(0, &[]));
        let mean = (0..20_000).map(|_| infilling.span(&mut rng) as f64).sum::<f64>() / 20_000.;
        assert!((mean - 3.).abs() < 0.05, "{mean}");
        let row: Vec<i64> = (100..300).collect();
        let (mut left, mut masks) = (0, 0);
        for _ in 0..200 {
            let damaged = infilling.damage(&row, &mut rng);
            let words: Vec<i64> = damaged.iter().copied().filter(|&id| id != infilling.mask).collect();
            assert!(words.is_sorted(), "what is left is in order");
            left += words.len();
            masks += damaged.len() - words.len();
        }
        assert_eq!(left, 200 * 140);
        assert!((10..40).contains(&(masks / 200)), "{masks}");
        let deleted = damage(Noise::Deletion).damage(&(100..10_100).collect::<Vec<_>>(), &mut rng);
        assert!((deleted.len() as f64 / 10_000. - 0.7).abs() < 0.02 && deleted.is_sorted());
    }

    #[test]
    fn no_position_of_the_decoder_sees_its_own_target() {
        let (tokenizer, store) = corpus();
        let config = Config { decoder_layers: 1, ..Config::default() };
        let dae = Dae::new(config, &encoders("bert_d16_l1_h2", &tokenizer)).unwrap();
        let rows = [store.window(0, 10).unwrap()];
        let sequences = dae.damage.sequences(&rows, 0., &mut rng(0, &[])).unwrap();
        let before = dae.predict(&sequences, Mode::Eval).unwrap();
        let _ = sequences.targets.narrow(1, 6, 1).fill_(7);
        let after = dae.predict(&sequences, Mode::Eval).unwrap();
        let same = |from, len| before.narrow(1, from, len).allclose(&after.narrow(1, from, len), 1e-5, 1e-6, false);
        assert!(same(0, 7) && !same(7, 4));
    }
}
