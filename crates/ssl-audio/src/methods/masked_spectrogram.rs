//! Masked spectrograms: parts of the time are hidden, and restored from what is around them.
//!
//! Source: Liu, Yang, Chi, Hsu & Lee, 2020 (Mockingjay): <https://arxiv.org/abs/1910.12638>; spans, what becomes of them
//! and the names of the head as in its code (`s3prl/pretrain/mockingjay`). A position is one frame or several (`stack` in
//! the shape of the encoder). Where this differs from it: log-mel spectrograms are restored instead of linear ones; the
//! encoder is a Transformer that normalizes first and knows places by turning queries and keys.
use super::{AudioMethod, Definition, Info, views};
use crate::augment::Augment;
use crate::models::{Attend, Encoder, Encoders, Family};
use crate::random::Chance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{LayerNorm, Linear, Module, gelu, trunc_normal};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims3, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

/// The hyperparameters of masked spectrograms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the positions that is hidden, at most: spans may overlap.
    pub ratio: f64,
    /// Positions of a span.
    pub span: i64,
    /// Probability that the spans of a window become zero, the mean of the data.
    pub zeroed: f64,
    /// Probability that they become other spans of the window; otherwise they stay, and are to be told all the same.
    pub swapped: f64,
    /// The window.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config { ratio: 0.15, span: 7, zeroed: 0.8, swapped: 0.1, augment: Augment::crop(32_000) }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("span", self.span)])?;
        if !(self.ratio > 0. && self.ratio < 1.) {
            let message = format!("expected a number above 0 and below 1, got {}", self.ratio);
            return Err(Error::config("ratio", message));
        }
        if !(self.zeroed >= 0. && self.swapped >= 0. && self.zeroed + self.swapped <= 1.) {
            let got = (self.zeroed, self.swapped);
            return Err(Error::config(
                "zeroed, swapped",
                format!("expected probabilities of at most 1 together, got {got:?}"),
            ));
        }
        self.augment.validate()
    }
}

/// Two layers that tell what is hidden.
#[derive(Debug)]
struct Head {
    dense: Linear,
    norm: LayerNorm,
    output: Linear,
}

impl Head {
    fn new(p: &Path, dim: i64, output: i64) -> Result<Self> {
        let small = |weight: &Tensor| trunc_normal(weight, 0.02);
        Ok(Head {
            dense: Linear::with_init(&(p / "dense"), dim, dim, small)?,
            norm: LayerNorm::new(&(p / "LayerNorm"), dim, 1e-12)?,
            output: Linear::with_init(&(p / "output"), dim, output, small)?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.norm.forward(&gelu(&self.dense.forward(x, mode)?)?, mode)?;
        self.output.forward(&x, mode)
    }
}

/// An encoder and a head that restores what is hidden.
#[derive(Debug)]
pub struct MaskedSpectrogram {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: Head,
    config: Config,
}

impl Definition for MaskedSpectrogram {
    const INFO: Info = Info {
        name: "masked_spectrogram",
        summary: "restore hidden parts of a spectrogram from what is around them",
        paper: "Liu, Yang, Chi, Hsu, Lee",
        year: 2020,
        kind: "masked",
        url: "https://arxiv.org/abs/1910.12638",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        encoder.check_spectrogram(Self::INFO.name)?;
        encoder.check_attend(Attend::All)?;
        if encoders.config().arch.family == Family::Conv {
            let message = "expected a network of a vector for each position, such as mel_d192_l4_h4, got convolutions";
            return Err(Error::config("encoder", message));
        }
        let head = Head::new(&(vars.root() / "SpecHead"), encoder.dim(), encoder.local_dim())?;
        Ok(MaskedSpectrogram { vars, encoder, head, config })
    }
}

impl MaskedSpectrogram {
    /// What is told, what is there, and where it was hidden: `[B, N, F]` twice and `[B, N, 1]`, 1 where hidden.
    fn restore(&self, batch: &Views, mode: Mode, chance: Chance) -> Result<[Tensor; 3]> {
        let [waves] = views(batch, Self::INFO.name)?;
        let local = self.encoder.local(waves, mode)?;
        let (heard, mask) = hide(&local, &self.config, chance)?;
        let context = self.encoder.context(&heard, Attend::All, mode)?;
        Ok([self.head.forward(&context, mode)?, local, mask])
    }
}

/// Hides spans of windows, each window's in one of three ways.
///
/// # Shapes
/// `x`: `[B, N, F]`; returns the same and `[B, N, 1]`, 1 where something is hidden.
///
/// # Errors
/// `Error::Shape` when a span does not fit.
fn hide(x: &Tensor, config: &Config, chance: Chance) -> Result<(Tensor, Tensor)> {
    let (rows, length, _) = dims3(x, "front end", "[B, N, F]")?;
    let (span, device) = (config.span, x.device());
    let room = length - span;
    if room < 1 {
        let expected = format!("[B, N, F] with N above {span} (the positions of a span)");
        return Err(Error::Shape { what: "front end".into(), expected, got: x.size() });
    }
    let spans = ((length as f64 * config.ratio / span as f64).round() as i64).clamp(1, room);
    let chosen = intervals([rows, room, spans], span, (chance, 0), device)?;
    let others = intervals([rows, room, spans], span, (chance, 1), device)?;
    let zeros = Tensor::f_zeros([rows, length, 1], (Kind::Float, device))?;
    let mask = zeros.f_scatter_value(1, &chosen.f_unsqueeze(2)?, 1.)?;
    let own = Tensor::f_arange(length, (Kind::Int64, device))?.f_expand([rows, length], true)?;
    let from = own.f_scatter(1, &chosen, &others)?.f_unsqueeze(2)?.f_expand_as(x)?;
    let dice = chance.uniform(&[rows, 1, 1], 2, device)?;
    let kept = dice.f_ge(config.zeroed)?.f_to_kind(Kind::Float)?;
    let swapped = dice.f_ge(config.zeroed)?.f_logical_and(&dice.f_lt(config.zeroed + config.swapped)?)?;
    let heard = x.f_gather(1, &from, false)?.f_where_self(&swapped, x)?;
    // What is zeroed is multiplied by 0, all else by 1.
    let factor = mask.f_mul(&kept.f_sub_scalar(1.)?)?.f_add_scalar(1.)?;
    Ok((heard.f_mul(&factor)?, mask))
}

/// The positions of spans that start in different places. `[B, spans * span]`.
fn intervals([rows, room, spans]: [i64; 3], span: i64, (chance, use_): (Chance, u64), device: Device) -> Result<Tensor> {
    let starts = chance.uniform(&[rows, room], use_, device)?.f_argsort(1, false)?.f_narrow(1, 0, spans)?;
    let offsets = Tensor::f_arange(span, (Kind::Int64, device))?;
    Ok(starts.f_unsqueeze(2)?.f_add(&offsets)?.f_view([rows, spans * span])?)
}

/// The mean absolute error where something is hidden, in float32 whatever the precision around it.
///
/// # Shapes
/// `guess`, `target`: `[B, N, F]`; `mask`: `[B, N, 1]`; returns a scalar.
fn hidden_error(guess: &Tensor, target: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(target.device(), || {
        let error = guess.f_to_kind(Kind::Float)?.f_sub(target)?.f_abs()?;
        let frames = error.f_mean_dim([-1i64].as_slice(), true, Kind::Float)?;
        Ok(frames.f_mul(mask)?.f_sum(Kind::Float)?.f_div(&mask.f_sum(Kind::Float)?)?)
    })
}

impl Method for MaskedSpectrogram {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [guess, target, mask] = self.restore(batch, Mode::Train, Chance::Generator)?;
        Ok(Output::new(hidden_error(&guess, &target, &mask)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, Attend::All)
    }

    /// The loss, and that of telling the mean spectrum of the window, which has to be beaten; the same is hidden at every
    /// call.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let [guess, target, mask] = self.restore(batch, Mode::Eval, Chance::Fixed)?;
            let mean = target.f_mean_dim([1i64].as_slice(), true, Kind::Float)?;
            Ok(vec![
                ("loss".into(), hidden_error(&guess, &target, &mask)?),
                ("loss_of_mean".into(), hidden_error(&mean, &target, &mask)?),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl AudioMethod for MaskedSpectrogram {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.forward(waves, Attend::All, Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, shape, waves};
    use crate::models::EncoderConfig;
    use ssl_core::check_method;

    fn small() -> Config {
        Config { span: 3, ..Config::default() }
    }

    fn build(arch: &str, config: Config) -> Result<MaskedSpectrogram> {
        MaskedSpectrogram::new(config, &encoders(arch))
    }

    #[test]
    fn it_keeps_the_contract() {
        let (batch, scratch) = (Views(vec![waves(4, 3_200)]), tempfile::tempdir().unwrap());
        let shape = EncoderConfig { stack: 2, dropout: 0.1, ..shape("mel_d12_l2_h2") };
        let build = || MaskedSpectrogram::new(small(), &Encoders::new(shape.clone(), Device::Cpu));
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn hidden_positions_alone_enter_the_loss_which_is_that_of_a_loop() {
        let method = build("mel_d12_l1_h2", small()).unwrap();
        let batch = Views(vec![waves(3, 3_200)]);
        let [guess, target, mask] = method.restore(&batch, Mode::Eval, Chance::Fixed).unwrap();
        let (mut sum, mut count) = (0., 0.);
        for row in 0..3 {
            for time in 0..21 {
                if mask.double_value(&[row, time, 0]) == 1. {
                    let error = guess.get(row).get(time) - target.get(row).get(time);
                    sum += error.abs().sum(Kind::Double).double_value(&[]);
                    count += 12.;
                }
            }
        }
        let loss = method.validate(&batch).unwrap()[0].1.double_value(&[]);
        assert!((loss - sum / count).abs() < 1e-5 && count > 0., "{loss} {}", sum / count);
    }

    #[test]
    fn spans_become_zero_or_others_or_stay_and_all_else_stays() {
        let x = Tensor::arange(200 * 40 * 2, (Kind::Float, Device::Cpu)).view([200, 40, 2]) + 1.;
        let config = Config { zeroed: 0.6, swapped: 0.3, ..small() };
        let (heard, mask) = hide(&x, &config, Chance::Generator).unwrap();
        let hidden = mask.ne(0.).squeeze_dim(2);
        assert!(heard.masked_select(&mask.eq(0.)).equal(&x.masked_select(&mask.eq(0.))));
        let mut kinds = [0; 3];
        for row in 0..200 {
            let (before, after) = (x.get(row), heard.get(row));
            let marked: Vec<i64> = (0..40).filter(|&n| hidden.int64_value(&[row, n]) == 1).collect();
            assert!((3..=6).contains(&marked.len()), "two spans of three: {marked:?}");
            let at = |n: i64| after.double_value(&[n, 0]);
            let (low, high) = (before.double_value(&[0, 0]), before.double_value(&[39, 0]));
            if marked.iter().all(|&n| at(n) == 0.) {
                kinds[0] += 1;
            } else if after.equal(&before) {
                kinds[2] += 1;
            } else {
                assert!(marked.iter().all(|&n| (low..=high).contains(&at(n))), "from its own window");
                kinds[1] += 1;
            }
        }
        let near = |n: i32, expected: i32| (n - expected).abs() < 30;
        assert!(near(kinds[0], 120) && near(kinds[1], 60) && kinds[2] > 5 && kinds[2] < 35, "{kinds:?}");
    }

    #[test]
    fn numbers_out_of_range_and_networks_that_look_back_are_named() {
        let message = |config: Config| build("mel_d8_l1_h2", config).unwrap_err().to_string();
        assert_eq!(
            message(Config { ratio: 1., ..small() }),
            "ratio: expected a number above 0 and below 1, got 1"
        );
        assert_eq!(message(Config { span: 0, ..small() }), "span: expected at least 1, got 0");
        assert!(message(Config { swapped: 0.3, ..small() }).starts_with("zeroed, swapped: expected probabilities"));
        let message = |arch: &str| build(arch, small()).unwrap_err().to_string();
        assert!(message("mel_gru_d8").ends_with("got a recurrent one"));
        assert!(message("mel_conv_d8").ends_with("got convolutions"));
        assert!(message("cpc_c8_d8_l1_h2").starts_with("encoder: masked_spectrogram takes spectrograms"));
        let mut method = build("mel_d8_l1_h2", Config { span: 30, ..small() }).unwrap();
        let message = method.step(&Views(vec![waves(2, 1_600)]), Step { index: 0, total: 1 }).unwrap_err();
        assert!(message.to_string().starts_with("front end: expected [B, N, F] with N above 30"), "{message}");
    }
}
