//! Dense predictive coding: from the blocks of a clip that were seen, tell what the next ones look like, at each place.
//!
//! Source: Han, Xie, Zisserman, 2019: <https://arxiv.org/abs/1909.04656>; the code (`TengdaHan/DPC`,
//! `dpc/model_3d.py`), from which come the names, the start of the predictor, the dropout of the state, and that each
//! prediction is read as if it were the block that follows. Negatives are all other places of all predicted blocks of
//! all clips in the batch.
use super::{Definition, Info, VideoMethod, choice, judged, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, Gates, clips, orthogonal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Dropout, Module};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// The hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Blocks of a clip; how many frames each has is the encoder's.
    pub blocks: i64,
    /// Blocks at the end that are predicted.
    pub predict: i64,
    /// Probability of dropping a value of the state after each block.
    pub dropout: f64,
    /// Frames of the video from one frame of the clip to the next.
    pub stride: usize,
    /// What becomes of the frames.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config { blocks: 8, predict: 3, dropout: 0.1, stride: 3, augment: Augment::crop_and_flip(128) }
    }
}

/// Two layers that tell the next block from a state, at each place alone.
#[derive(Debug)]
struct Predictor {
    hidden: Gates,
    output: Gates,
}

impl Predictor {
    fn new(p: &Path, dim: i64) -> Result<Self> {
        let layer = |index: i64| Gates::new(&(p / index), (dim, dim), 1, Some(orthogonal));
        Ok(Predictor { hidden: layer(0)?, output: layer(2)? })
    }

    fn forward(&self, state: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.hidden.forward(state)?.f_relu()?)
    }
}

/// An encoder of blocks with its state, and a predictor.
#[derive(Debug)]
pub struct Dpc {
    vars: VarStore,
    encoder: Rc<Encoder>,
    predictor: Predictor,
    dropout: Dropout,
    frames: i64,
    config: Config,
}

impl Definition for Dpc {
    const INFO: Info = Info {
        name: "dpc",
        summary: "tell what the next blocks of a clip look like, at each place",
        paper: "Han, Xie, Zisserman",
        year: 2019,
        kind: "contrastive",
        url: "https://arxiv.org/abs/1909.04656",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([("blocks", config.blocks, (2, 64)), ("predict", config.predict, (1, config.blocks - 1))])?;
        if !(0. ..1.).contains(&config.dropout) {
            let message = format!("expected a number from 0 to below 1, got {}", config.dropout);
            return Err(Error::config("dropout", message));
        }
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let frames = config.blocks * encoder.predictive(Self::INFO.name)?.block_frames();
        View::new(frames as usize, config.stride, config.augment.clone()).validate()?;
        let predictor = Predictor::new(&(vars.root() / "network_pred"), encoder.frame_dim())?;
        Ok(Dpc { vars, predictor, dropout: Dropout::new(config.dropout)?, encoder, frames, config })
    }
}

impl Dpc {
    /// The last blocks as predicted from those before, and as they are. `[B, P, D, h, w]` each.
    fn predict(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let channels = x.size().get(1).copied().unwrap_or(0);
        let [_, _, frames, ..] = clips(x, channels)?;
        if frames != self.frames {
            let expected = format!("[B, C, {}, H, W]", self.frames);
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        let net = self.encoder.predictive(Self::INFO.name)?;
        let blocks = net.blocks(x, mode)?;
        let Config { blocks: all, predict, .. } = self.config;
        let advance = |block: &Tensor, state: Option<&Tensor>| {
            self.dropout.forward(&net.advance(block, state)?, mode)
        };
        let mut seen = blocks.f_narrow(1, 0, all - predict)?.f_unbind(1)?.into_iter();
        let first = seen.next().ok_or_else(|| Error::config("blocks", "expected one to be seen, got none"))?;
        let start = advance(&first, None)?;
        let mut state = seen.try_fold(start, |state, block| advance(&block, Some(&state)))?;
        let mut guesses = Vec::new();
        for left in (0..predict).rev() {
            let guess = self.predictor.forward(&state)?;
            if left > 0 {
                state = advance(&guess, Some(&state))?;
            }
            guesses.push(guess);
        }
        Ok((Tensor::f_stack(&guesses, 1)?, blocks.f_narrow(1, all - predict, predict)?))
    }

    /// Cross entropy and accuracy of finding each place of each predicted block among all of the batch, and how many
    /// there are.
    fn contrast(&self, x: &Tensor, mode: Mode) -> Result<((Tensor, Tensor), i64)> {
        let (guesses, blocks) = self.predict(x, mode)?;
        let dim = self.encoder.frame_dim();
        let rows = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_permute([0, 1, 3, 4, 2])?.f_reshape([-1, dim])?.f_to_kind(Kind::Float)?)
        };
        let (guesses, blocks) = (rows(&guesses)?, rows(&blocks)?);
        let count = blocks.size().first().copied().unwrap_or(0);
        let scores = Precision::Fp32.scope(x.device(), || Ok(guesses.f_mm(&blocks.f_tr()?)?))?;
        let target = Tensor::f_arange(count, (Kind::Int64, x.device()))?;
        Ok((choice(&scores, &target)?, count))
    }
}

impl Method for Dpc {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [x] = views(batch, Self::INFO.name)?;
        let ((loss, accuracy), _) = self.contrast(x, Mode::Train)?;
        Output::new(loss).with("accuracy", &accuracy)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let [x] = views(batch, Self::INFO.name)?;
        let (found, count) = no_grad(|| self.contrast(x, Mode::Eval))?;
        Ok(judged(found, 1. / count.max(1) as f64))
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for Dpc {
    fn views(&self) -> Vec<View> {
        vec![View::new(self.frames as usize, self.config.stride, self.config.augment.clone())]
    }

    fn frames(&self, clips: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.frames(clips, Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{clips, encoders};
    use ssl_core::check_method;

    fn small() -> Config {
        Config { blocks: 4, predict: 2, augment: Augment::whole(32), ..Config::default() }
    }

    fn build(config: Config) -> Result<Dpc> {
        Dpc::new(config, &encoders("r2d3d10_w4_gru", 8))
    }

    /// Clips of 32 pixels, of which the network makes two by two places.
    fn large(n: i64) -> Tensor {
        let x = clips(n, 8);
        let x = Tensor::cat(&[&x, &x.flip([3])], 3);
        Tensor::cat(&[&x, &x.flip([2])], 4)
    }

    #[test]
    fn it_keeps_the_contract() {
        let (x, scratch) = (large(4), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_the_paper_written_as_loops() {
        let method = build(small()).unwrap();
        let x = large(3);
        let net = method.encoder.predictive("test").unwrap();
        let blocks = net.blocks(&x, Mode::Eval).unwrap();
        assert_eq!(blocks.size(), [3, 4, 16, 2, 2]);
        let block = |n| blocks.select(1, n);
        let of = |name: &str| method.vars.variables()[name].shallow_clone();
        let layer = |x: &Tensor, name: &str| {
            let (weight, bias) = (of(&format!("network_pred.{name}.weight")), of(&format!("network_pred.{name}.bias")));
            x.conv2d(&weight, Some(&bias), 1, 0, 1, 1)
        };
        let guess = |state: &Tensor| layer(&layer(state, "0").relu(), "2");
        let state = net.advance(&block(0), None).unwrap();
        let state = net.advance(&block(1), Some(&state)).unwrap();
        let first = guess(&state);
        let second = guess(&net.advance(&first, Some(&state)).unwrap());
        let at = |x: &Tensor, clip: i64, place: i64| x.get(clip).select(1, place / 2).select(1, place % 2);
        let (mut total, mut right) = (0., 0.);
        for (step, guesses) in [first, second].iter().enumerate() {
            for clip in 0..3 {
                for place in 0..4 {
                    let own = at(guesses, clip, place);
                    let score = |step: i64, clip: i64, place: i64| {
                        (&own * at(&block(2 + step), clip, place)).sum(Kind::Double).double_value(&[])
                    };
                    let positive = score(step as i64, clip, place);
                    let every = (0..2).flat_map(|s| (0..3).flat_map(move |c| (0..4).map(move |p| (s, c, p))));
                    let scores: Vec<f64> = every.map(|(s, c, p)| score(s, c, p)).collect();
                    total += scores.iter().map(|s| s.exp()).sum::<f64>().ln() - positive;
                    right += f64::from(u8::from(scores.iter().all(|&other| other <= positive)));
                }
            }
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        assert!((found[0].1.double_value(&[]) - total / 24.).abs() < 1e-4, "{found:?} {}", total / 24.);
        assert!((found[1].1.double_value(&[]) - right / 24.).abs() < 1e-6, "{found:?}");
        assert!((found[2].1.double_value(&[]) - 1. / 24.).abs() < 1e-6);
    }

    #[test]
    fn predictions_do_not_see_what_they_predict() {
        let method = build(small()).unwrap();
        let x = large(2);
        let other = x.copy();
        let _ = other.narrow(2, 4, 4).fill_(0.3);
        let guesses = [&x, &other].map(|x| method.predict(x, Mode::Eval).unwrap().0);
        assert!(guesses[0].allclose(&guesses[1], 1e-5, 1e-6, false));
    }

    #[test]
    fn faults_are_named() {
        let message = |config: Config| build(config).unwrap_err().to_string();
        assert_eq!(message(Config { predict: 4, ..small() }), "predict: expected 1 to 3, got 4");
        assert!(message(Config { dropout: 1., ..small() }).starts_with("dropout: expected"));
        assert_eq!(build(small()).unwrap().views()[0].frames, 8);
        let other = Dpc::new(small(), &encoders("r3d10_w4", 8)).unwrap_err().to_string();
        assert!(other.starts_with("encoder: dpc needs a network with a recurrent cell"), "{other}");
    }
}
