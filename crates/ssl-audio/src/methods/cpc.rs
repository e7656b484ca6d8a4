//! Contrastive predictive coding: from what was heard so far, tell what follows from what does not.
//!
//! Source: van den Oord, Li & Vinyals, 2018: <https://arxiv.org/abs/1807.03748>; the code of Rivière et al., 2020
//! (CPC_audio, `cpc/criterion/criterion.py`: <https://github.com/facebookresearch/CPC_audio>), from which come the mean
//! over channels as the score, the draw of negatives, which all steps ahead share, and the Transformer as predictor. As
//! there, a negative is never at the place of the context, and may by chance be the one that follows. Where this
//! differs from it:
//!
//! - The losses of the steps ahead are averaged, where the code adds them up.
//! - Predictors start as PyTorch's layers also where the front end is wider than the context.
//! - The Transformer that predicts knows places by turning queries and keys, and a linear layer brings its width to that
//!   of the front end.
//! - Scores are taken from one product with all vectors of the batch; the reference code copies 128 vectors for each
//!   place instead, which is the greater part of its time.
use super::{AudioMethod, Definition, Info, views};
use crate::augment::Augment;
use crate::models::{Attend, Encoder, Encoders};
use crate::random::Chance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{AttentionMask, Block, BlockConfig, Linear, Module, TIMM};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims3, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

/// What makes a guess of a context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    /// A linear map for each step ahead, as in the paper.
    #[default]
    Linear,
    /// A layer of a Transformer for each step ahead, which sees all contexts so far.
    Transformer,
}

/// Where negatives come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// Any window of the batch, as in the reference code.
    #[default]
    Batch,
    /// The same window.
    Same,
    /// The other windows.
    Others,
}

/// The hyperparameters of contrastive predictive coding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Steps ahead that are predicted, of 10 ms each with the paper's front end.
    pub ahead: i64,
    /// Negatives for each place, drawn with replacement; the paper does not say how many, the code has 128.
    pub negatives: i64,
    /// Where they come from.
    pub origin: Negatives,
    /// What makes a guess of a context.
    pub predictor: Predictor,
    /// Heads of the Transformer that predicts.
    pub predictor_heads: i64,
    /// Probability of dropping a value in it.
    pub predictor_dropout: f64,
    /// The window.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ahead: 12,
            negatives: 128,
            origin: Negatives::Batch,
            predictor: Predictor::Linear,
            predictor_heads: 8,
            predictor_dropout: 0.1,
            augment: Augment::crop(20_480),
        }
    }
}

/// What guesses the front end's vector a fixed number of steps ahead.
#[derive(Debug)]
struct Guess {
    block: Option<Block>,
    linear: Linear,
}

impl Guess {
    fn new(p: &Path, (dim, local_dim): (i64, i64), config: &Config) -> Result<Self> {
        let shape = BlockConfig {
            dim,
            heads: config.predictor_heads,
            hidden: 4 * dim,
            dropout: config.predictor_dropout,
            attention_dropout: config.predictor_dropout,
            rotary: Some(10_000.),
            ..BlockConfig::default()
        };
        let block = match config.predictor {
            Predictor::Linear => None,
            Predictor::Transformer => Some(Block::new(&(p / "block"), &shape, &TIMM)?),
        };
        Ok(Guess { block, linear: Linear::without_bias(p, dim, local_dim)? })
    }

    /// `[B, W, D]` to `[B, W, C]`.
    fn forward(&self, context: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.block {
            None => self.linear.forward(context, mode),
            Some(block) => self.linear.forward(&block.forward_masked(context, AttentionMask::Causal, mode)?, mode),
        }
    }
}

/// An encoder and a predictor for each step ahead.
#[derive(Debug)]
pub struct Cpc {
    vars: VarStore,
    encoder: Rc<Encoder>,
    guesses: Vec<Guess>,
    config: Config,
}

impl Definition for Cpc {
    const INFO: Info = Info {
        name: "cpc",
        summary: "tell what follows in a recording from what does not",
        paper: "van den Oord, Li, Vinyals",
        year: 2018,
        kind: "contrastive",
        url: "https://arxiv.org/abs/1807.03748",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::at_least(1, [("ahead", config.ahead), ("negatives", config.negatives)])?;
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        encoder.check_attend(Attend::Past)?;
        let (place, widths) = (vars.root() / "wPrediction" / "predictors", (encoder.dim(), encoder.local_dim()));
        let guesses = (0..config.ahead).map(|step| Guess::new(&(&place / step), widths, &config));
        Ok(Cpc { guesses: guesses.collect::<Result<_>>()?, vars, encoder, config })
    }
}

impl Cpc {
    /// The scores of each step ahead, of what follows first. `[B W, 1 + K]` each, float32.
    fn scores(&self, batch: &Views, mode: Mode, chance: Chance) -> Result<Vec<Tensor>> {
        let [waves] = views(batch, Self::INFO.name)?;
        let local = self.encoder.local(waves, mode)?;
        let (rows, frames, channels) = dims3(&local, "front end", "[B, N, C]")?;
        let window = frames - self.config.ahead;
        if window < 1 {
            let expected = format!("[B, T] with T long enough for more than {} vectors", self.config.ahead);
            return Err(Error::Shape { what: "waves".into(), expected, got: waves.size() });
        }
        let context = self.encoder.context(&local, Attend::Past, mode)?.f_narrow(1, 0, window)?;
        let Config { negatives, origin, .. } = self.config;
        let negatives = draw([rows, frames, window, negatives], origin, chance, local.device())?;
        let all = local.f_reshape([rows * frames, channels])?;
        let step = |(guess, ahead): (&Guess, i64)| {
            let guess = guess.forward(&context, mode)?.f_reshape([rows * window, channels])?;
            let follows = places(rows, frames, window, local.device())?.f_add_scalar(ahead)?.f_view([-1, 1])?;
            contrast(&guess, &all, &Tensor::f_cat(&[&follows, &negatives], 1)?)
        };
        self.guesses.iter().zip(1..).map(step).collect()
    }
}

/// Where the vectors of contexts lie among all of the batch. `[B, W]`.
fn places(rows: i64, frames: i64, window: i64, device: Device) -> Result<Tensor> {
    let whole = (Kind::Int64, device);
    let starts = Tensor::f_arange(rows, whole)?.f_mul_scalar(frames)?.f_unsqueeze(1)?;
    Ok(starts.f_add(&Tensor::f_arange(window, whole)?)?)
}

/// Draws `K` vectors of the batch for each context, none of them at its own time. `[B W, K]`.
fn draw([rows, frames, window, count]: [i64; 4], origin: Negatives, chance: Chance, device: Device) -> Result<Tensor> {
    let (shape, whole) = ([rows, window, count], (Kind::Int64, device));
    let own = Tensor::f_arange(rows, whole)?.f_view([-1, 1, 1])?;
    let row = match origin {
        Negatives::Batch => chance.below(rows, &shape, 0, device)?,
        Negatives::Same => own.f_expand(shape, false)?,
        Negatives::Others if rows < 2 => {
            return Err(Error::config("origin", "expected windows besides its own in the batch, got one"));
        }
        Negatives::Others => {
            chance.below(rows - 1, &shape, 0, device)?.f_add_scalar(1)?.f_add(&own)?.f_remainder(rows)?
        }
    };
    let now = Tensor::f_arange(window, whole)?.f_view([1, -1, 1])?;
    let time = chance.below(frames - 1, &shape, 1, device)?.f_add_scalar(1)?.f_add(&now)?.f_remainder(frames)?;
    Ok(row.f_mul_scalar(frames)?.f_add(&time)?.f_view([rows * window, count])?)
}

/// The mean over channels of each guess times some vectors.
///
/// # Shapes
/// `guess`: `[R, C]`; `vectors`: `[M, C]`; `places`: `[R, K]`, rows of `vectors`; returns `[R, K]`, float32.
fn contrast(guess: &Tensor, vectors: &Tensor, places: &Tensor) -> Result<Tensor> {
    let channels = guess.size().last().copied().unwrap_or(1).max(1);
    let scores = guess.f_matmul(&vectors.f_tr()?)?.f_gather(1, places, false)?;
    Ok(scores.f_to_kind(Kind::Float)?.f_div_scalar(channels as f64)?)
}

/// Cross-entropy of telling the first score of each row from the others.
///
/// # Shapes
/// `scores`: `[R, 1 + K]`; returns a scalar.
///
/// # Source
/// Van den Oord et al., 2018, equation 4.
fn info_nce(scores: &Tensor) -> Result<Tensor> {
    let all = scores.f_logsumexp([1i64].as_slice(), false)?;
    Ok(all.f_sub(&scores.f_select(1, 0)?)?.f_mean(Kind::Float)?)
}

/// The part of rows whose first score is above all others.
fn accuracy(scores: &Tensor) -> Result<Tensor> {
    let (first, others) = (scores.f_select(1, 0)?, scores.f_slice(1, 1, None, 1)?);
    Ok(first.f_gt_tensor(&others.f_amax([1i64], false)?)?.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?)
}

fn mean(values: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_stack(values, 0)?.f_mean(Kind::Float)?)
}

impl Method for Cpc {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let scores = self.scores(batch, Mode::Train, Chance::Generator)?;
        Precision::Fp32.scope(self.vars.device(), || {
            let losses = scores.iter().map(info_nce).collect::<Result<Vec<_>>>()?;
            let right = no_grad(|| scores.iter().map(accuracy).collect::<Result<Vec<_>>>())?;
            Output::new(mean(&losses)?).with("accuracy", &mean(&right)?)
        })
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::Past, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, Attend::Past)
    }

    /// The accuracy of each step ahead, of all of them, and by chance; negatives are the same at every call.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let scores = self.scores(batch, Mode::Eval, Chance::Fixed)?;
            let losses = scores.iter().map(info_nce).collect::<Result<Vec<_>>>()?;
            let right = scores.iter().map(accuracy).collect::<Result<Vec<_>>>()?;
            let mut found = vec![
                ("loss".to_string(), mean(&losses)?),
                ("accuracy".to_string(), mean(&right)?),
                ("chance".to_string(), Tensor::from(1. / (1 + self.config.negatives) as f64)),
            ];
            found.extend((1..).zip(right).map(|(ahead, right): (i64, _)| (format!("accuracy_{ahead}"), right)));
            Ok(found)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl AudioMethod for Cpc {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.forward(waves, Attend::Past, Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use ssl_core::check_method;

    fn small() -> Config {
        Config { ahead: 3, negatives: 7, predictor_heads: 2, predictor_dropout: 0., ..Config::default() }
    }

    fn build(config: Config) -> Result<Cpc> {
        Cpc::new(config, &encoders("cpc_c8_gru_d4"))
    }

    #[test]
    fn it_keeps_the_contract() {
        for (arch, predictor, origin) in [
            ("cpc_c8_gru", Predictor::Linear, Negatives::Batch),
            ("cpc_c8_d8_l1_h2", Predictor::Transformer, Negatives::Others),
        ] {
            let (batch, scratch) = (Views(vec![waves(3, 1_280)]), tempfile::tempdir().unwrap());
            let build = || Cpc::new(Config { predictor, origin, ..small() }, &encoders(arch));
            check_method(build, &batch, &batch.0[0], scratch.path()).unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
    }

    #[test]
    fn the_loss_is_that_of_the_reference_code_written_as_loops() {
        let method = build(small()).unwrap();
        let batch = Views(vec![waves(3, 3_200)]);
        let (rows, frames, window) = (3, 20, 17);
        let local = method.encoder.local(&batch.0[0], Mode::Eval).unwrap();
        let context = method.encoder.context(&local, Attend::Past, Mode::Eval).unwrap();
        let drawn = draw([rows, frames, window, 7], Negatives::Batch, Chance::Fixed, Device::Cpu).unwrap();
        let vector = |row: i64, time: i64| local.get(row).get(time).to_kind(Kind::Double);
        let (mut total, mut right) = (0., 0.);
        for step in 0..3 {
            let weight = method.vars.variables()[&format!("wPrediction.predictors.{step}.weight")].to_kind(Kind::Double);
            for row in 0..rows {
                for time in 0..window {
                    let guess = weight.mv(&context.get(row).get(time).to_kind(Kind::Double));
                    let score = |x: Tensor| (&guess * x).mean(Kind::Double).double_value(&[]);
                    let positive = score(vector(row, time + step + 1));
                    let others: Vec<f64> = (0..7)
                        .map(|n| drawn.int64_value(&[row * window + time, n]))
                        .map(|place| score(vector(place / frames, place % frames)))
                        .collect();
                    let sum = positive.exp() + others.iter().map(|s| s.exp()).sum::<f64>();
                    total += sum.ln() - positive;
                    right += f64::from(u8::from(others.iter().all(|&other| other < positive)));
                }
            }
        }
        let count = (3 * rows * window) as f64;
        let found = method.validate(&batch).unwrap();
        assert!((found[0].1.double_value(&[]) - total / count).abs() < 1e-5, "{found:?} {}", total / count);
        assert!((found[1].1.double_value(&[]) - right / count).abs() < 1e-5, "{found:?} {}", right / count);
        assert_eq!((found[2].1.double_value(&[]), found.len(), found[5].0.as_str()), (0.125, 6, "accuracy_3"));
    }

    #[test]
    fn negatives_lie_where_they_should_and_never_at_the_time_of_the_context() {
        let (rows, frames, window) = (3, 9, 5);
        for origin in [Negatives::Batch, Negatives::Same, Negatives::Others] {
            let drawn = draw([rows, frames, window, 200], origin, Chance::Generator, Device::Cpu).unwrap();
            let (mut from, mut times) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for context in 0..rows * window {
                let (row, time) = (context / window, context % window);
                for place in Vec::<i64>::try_from(drawn.get(context)).unwrap() {
                    assert!(place % frames != time);
                    from.insert((row, place / frames));
                    times.insert((time, place % frames));
                }
            }
            let expected = |&(row, other): &(i64, i64)| match origin {
                Negatives::Batch => true,
                Negatives::Same => row == other,
                Negatives::Others => row != other,
            };
            let pairs = (0..rows).flat_map(|row| (0..rows).map(move |other| (row, other)));
            assert!(from.into_iter().eq(pairs.filter(expected)), "{origin:?}");
            assert_eq!(times.len() as i64, window * (frames - 1), "{origin:?}");
        }
    }

    #[test]
    fn what_cannot_be_predicted_or_told_apart_is_named() {
        let message = |config: Config| build(config).unwrap_err().to_string();
        assert_eq!(message(Config { ahead: 0, ..small() }), "ahead: expected at least 1, got 0");
        assert_eq!(message(Config { negatives: 0, ..small() }), "negatives: expected at least 1, got 0");
        let message = Cpc::new(small(), &encoders("mel_conv_d8")).unwrap_err().to_string();
        assert!(message.ends_with("got convolutions"), "{message}");
        let mut method = build(Config { origin: Negatives::Others, ..small() }).unwrap();
        let mut step = |views: Vec<Tensor>| {
            method.step(&Views(views), Step { index: 0, total: 1 }).unwrap_err().to_string()
        };
        assert!(step(vec![waves(1, 3_200)]).starts_with("origin: expected windows besides its own"));
        assert!(step(vec![waves(2, 480)]).starts_with("waves: expected [B, T] with T long enough for more than 3"));
        assert_eq!(step(Vec::new()), "views: cpc takes 1, got 0");
    }
}
