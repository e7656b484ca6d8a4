//! Autoregressive predictive coding: from what was heard so far, tell what the spectrogram is a few frames later.
//!
//! Source: Chung, Hsu, Tang & Glass, 2019: <https://arxiv.org/abs/1904.03240>; the official code
//! (<https://github.com/iamyuanchung/Autoregressive-Predictive-Coding>): layers of recurrent units that add what they
//! read to what they say (`residual` in the shape of the encoder), a linear layer on the last, the mean absolute error. A
//! Transformer that looks back only serves as well (Chung & Glass, 2020: <https://arxiv.org/abs/1910.12607>). Where this
//! differs from them: windows have one length, instead of whole utterances with silence behind them; spectrograms are
//! normalized by the numbers in the encoder's shape, and not by those of the speaker.
use super::{AudioMethod, Definition, Info, views};
use crate::augment::Augment;
use crate::models::{Attend, Encoder, Encoders};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims3, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

/// The hyperparameters of autoregressive predictive coding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many positions ahead the spectrogram is predicted; 3 frames of 10 ms serve phones best in the paper's table 1.
    pub ahead: i64,
    /// The window.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config { ahead: 3, augment: Augment::crop(32_000) }
    }
}

/// An encoder and a linear layer that tells spectrograms from its vectors.
#[derive(Debug)]
pub struct Apc {
    vars: VarStore,
    encoder: Rc<Encoder>,
    postnet: Linear,
    config: Config,
}

impl Definition for Apc {
    const INFO: Info = Info {
        name: "apc",
        summary: "tell the spectrogram a few frames ahead",
        paper: "Chung, Hsu, Tang, Glass",
        year: 2019,
        kind: "generative",
        url: "https://arxiv.org/abs/1904.03240",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::at_least(1, [("ahead", config.ahead)])?;
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        encoder.check_spectrogram(Self::INFO.name)?;
        encoder.check_attend(Attend::Past)?;
        let place = vars.root() / "postnet" / "layer";
        let postnet = Linear::new(&place, encoder.dim(), encoder.local_dim())?;
        Ok(Apc { vars, encoder, postnet, config })
    }
}

impl Apc {
    /// What is predicted, what comes, and what is there when it is predicted; `[B, N - ahead, F]` each.
    fn predict(&self, batch: &Views, mode: Mode) -> Result<[Tensor; 3]> {
        let [waves] = views(batch, Self::INFO.name)?;
        let local = self.encoder.local(waves, mode)?;
        let (_, frames, _) = dims3(&local, "front end", "[B, N, F]")?;
        let (ahead, count) = (self.config.ahead, frames - self.config.ahead);
        if count < 1 {
            let expected = format!("[B, T] with T long enough for more than {ahead} positions");
            return Err(Error::Shape { what: "waves".into(), expected, got: waves.size() });
        }
        let now = local.f_narrow(1, 0, count)?;
        let guess = self.postnet.forward(&self.encoder.context(&now, Attend::Past, mode)?, mode)?;
        Ok([guess, local.f_narrow(1, ahead, count)?, now])
    }
}

/// The mean absolute error, in float32 whatever the precision around it.
fn absolute_error(guess: &Tensor, target: &Tensor) -> Result<Tensor> {
    Precision::Fp32
        .scope(target.device(), || Ok(guess.f_to_kind(Kind::Float)?.f_l1_loss(target, Reduction::Mean)?))
}

impl Method for Apc {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [guess, target, _] = self.predict(batch, Mode::Train)?;
        Ok(Output::new(absolute_error(&guess, &target)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::Past, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, Attend::Past)
    }

    /// The loss, and that of saying that all stays as it is, which has to be beaten.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let [guess, target, now] = self.predict(batch, Mode::Eval)?;
            let repeated = absolute_error(&now, &target)?;
            Ok(vec![("loss".into(), absolute_error(&guess, &target)?), ("loss_of_repeating".into(), repeated)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl AudioMethod for Apc {
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
    use crate::methods::tests::{encoders, shape, waves};
    use crate::models::EncoderConfig;
    use ssl_core::check_method;
    use tch::Device;

    fn build(arch: &str, config: Config) -> Result<Apc> {
        let shape = EncoderConfig { residual: true, stack: 2, dropout: 0.1, ..shape(arch) };
        Apc::new(config, &Encoders::new(shape, Device::Cpu))
    }

    #[test]
    fn it_keeps_the_contract() {
        for arch in ["mel_lstm_d12_l2", "mel_d12_l1_h2"] {
            let (batch, scratch) = (Views(vec![waves(3, 2_400)]), tempfile::tempdir().unwrap());
            let build = || build(arch, Config::default());
            check_method(build, &batch, &batch.0[0], scratch.path())
                .unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
    }

    #[test]
    fn the_loss_is_that_of_loops_over_frames_and_later_ones_are_not_seen() {
        let method = build("mel_gru_d12_l2", Config { ahead: 2, ..Config::default() }).unwrap();
        let batch = Views(vec![waves(3, 3_200)]);
        let local = method.encoder.local(&batch.0[0], Mode::Eval).unwrap();
        assert_eq!(local.size(), [3, 10, 24]);
        let of = |name: &str| method.vars.variables()[&format!("postnet.layer.{name}")].shallow_clone();
        let (mut sum, mut still) = (0., 0.);
        for time in 0..8 {
            // The network hears no more than what was there at that time.
            let heard = method.encoder.context(&local.narrow(1, 0, time + 1), Attend::Past, Mode::Eval).unwrap();
            let guess = heard.select(1, time).linear(&of("weight"), Some(of("bias")));
            let error = |x: &Tensor| (x - local.select(1, time + 2)).abs().sum(Kind::Double).double_value(&[]);
            sum += error(&guess);
            still += error(&local.select(1, time));
        }
        let count = f64::from(3 * 8 * 24);
        let found = method.validate(&batch).unwrap();
        assert!((found[0].1.double_value(&[]) - sum / count).abs() < 1e-5, "{found:?} {}", sum / count);
        assert!((found[1].1.double_value(&[]) - still / count).abs() < 1e-5, "{found:?} {}", still / count);
    }

    #[test]
    fn what_cannot_be_predicted_is_named() {
        let message = |arch: &str, ahead| {
            build(arch, Config { ahead, ..Config::default() }).unwrap_err().to_string()
        };
        assert_eq!(message("mel_gru_d8", 0), "ahead: expected at least 1, got 0");
        assert!(message("mel_conv_d8", 1).starts_with("encoder: expected a network whose positions look back only"));
        let message = Apc::new(Config::default(), &encoders("cpc_c8_gru")).unwrap_err().to_string();
        assert!(message.starts_with("encoder: apc takes spectrograms"), "{message}");
        let mut method = build("mel_gru_d8", Config { ahead: 5, ..Config::default() }).unwrap();
        let message = method.step(&Views(vec![waves(2, 1_600)]), Step { index: 0, total: 1 }).unwrap_err();
        assert_eq!(
            message.to_string(),
            "waves: expected [B, T] with T long enough for more than 5 positions, got [2, 1600]"
        );
    }
}
