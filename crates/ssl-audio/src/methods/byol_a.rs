//! BYOL for audio: predict what a slow copy of the network makes of another view of the same sound; no negatives.
//!
//! Source: Niizumi et al., 2021: <https://arxiv.org/abs/2103.06695>; the official code
//! (<https://github.com/nttcslab/byol-a>): both views are of one window, other sounds are mixed in, a random part of the
//! spectrogram is stretched to its size, and the spectrograms of a batch are normalized together. The encoder of the
//! paper is `mel_conv_d2048` with both poolings and a dropout of 0.3. Where this differs from them:
//!
//! - Sounds are mixed as waves, from any clip of the data; there their powers are, from the last 2,048 windows.
//! - Stretching reads over the border of the part, where the code repeats its last values.
//! - Spectrograms are normalized by the numbers in the encoder's shape instead of a running mean.
//! - Heads are those of [`ssl_core::nn::Projector`], whose linear layers before and after a norm have no bias.
use super::{AudioMethod, Definition, Info, views};
use crate::augment::Augment;
use crate::models::{Encoder, Encoders};
use crate::random::Chance;
use crate::source::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::negative_cosine;
use ssl_core::nn::{Module, Projector};
use ssl_core::{
    Ema, Error, Method, Metrics, Mode, Output, Precision, Result, Schedule, Statistics, Step, Views, check,
    dims3, no_grad,
};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// The random part of a spectrogram that is stretched to the size of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stretch {
    /// Least and greatest height of the part, as a part of the spectrogram's.
    pub frequency: [f64; 2],
    /// Least and greatest length of the part, as a part of the spectrogram's.
    pub time: [f64; 2],
    /// Height and length of the plane that it is taken from, as parts of the spectrogram's, which lies in its middle;
    /// around it is the mean of the data.
    pub plane: [f64; 2],
}

impl Default for Stretch {
    fn default() -> Self {
        Stretch { frequency: [0.6, 1.5], time: [0.6, 1.5], plane: [1., 1.5] }
    }
}

/// BYOL-A's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hidden units of the projector and of the predictor.
    pub hidden_dim: i64,
    /// Dimension in which prediction and target are compared.
    pub projection_dim: i64,
    /// What the target network keeps of itself at each step.
    pub momentum: Schedule,
    /// The part of the spectrogram that each view shows.
    pub stretch: Stretch,
    /// The random view; each window gives two.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hidden_dim: 4096,
            projection_dim: 256,
            momentum: Schedule::constant(0.99),
            stretch: Stretch::default(),
            augment: Augment::crop(15_200).with_mix(0.4),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("hidden_dim", self.hidden_dim), ("projection_dim", self.projection_dim)])?;
        check::fractions("momentum", &self.momentum)?;
        let Stretch { frequency, time, plane } = self.stretch;
        for (name, [low, high]) in [("stretch.frequency", frequency), ("stretch.time", time)] {
            if !(low > 0. && low <= high && high <= 10.) {
                let message = format!("expected two numbers above 0 and up to 10 in order, got {:?}", [low, high]);
                return Err(Error::config(name, message));
            }
        }
        if !plane.iter().all(|side| (1. ..=10.).contains(side)) {
            return Err(Error::config("stretch.plane", format!("expected numbers from 1 to 10, got {plane:?}")));
        }
        self.augment.validate()
    }
}

/// An encoder and a projector.
#[derive(Debug)]
struct Network {
    encoder: Rc<Encoder>,
    projector: Projector,
}

impl Network {
    fn new(encoder: Rc<Encoder>, p: &Path, config: &Config) -> Result<Self> {
        let widths = [encoder.dim(), config.hidden_dim, config.projection_dim];
        let projector = Projector::new(&(p / "projector"), &widths)?;
        Ok(Network { encoder, projector })
    }

    /// `spectrogram`: `[B, F, N]`; returns `[B, K]`.
    fn project(&self, spectrogram: &Tensor, mode: Mode) -> Result<Tensor> {
        let local = self.encoder.stacked(spectrogram)?;
        let frames = self.encoder.context(&local, self.encoder.widest(), mode)?;
        self.projector.forward(&self.encoder.pool(&frames)?, mode)
    }
}

/// An online network with a predictor, and a target network that is the online one's moving average.
#[derive(Debug)]
pub struct ByolA {
    student: VarStore,
    teacher: VarStore,
    online: Network,
    predictor: Projector,
    target: Network,
    ema: Ema,
    config: Config,
}

impl Definition for ByolA {
    const INFO: Info = Info {
        name: "byol_a",
        summary: "predict a slow copy's projection of the same sound in another mixture",
        paper: "Niizumi, Takeuchi, Ohishi, Harada, Kashino",
        year: 2021,
        kind: "distillation",
        url: "https://arxiv.org/abs/2103.06695",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (student, mut teacher) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let encoder = encoders.student(&student)?;
        encoder.check_spectrogram(Self::INFO.name)?;
        let online = Network::new(encoder, &student.root(), &config)?;
        let widths = [config.projection_dim, config.hidden_dim, config.projection_dim];
        let predictor = Projector::new(&(student.root() / "predictor"), &widths)?;
        let target = Network::new(Rc::new(encoders.teacher(&teacher)?), &teacher.root(), &config)?;
        let ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
        Ok(ByolA { student, teacher, online, predictor, target, ema, config })
    }
}

impl ByolA {
    /// The spectrograms that both views show, normalized together. `[B, F, N]` each.
    fn show(&self, batch: &Views, chance: Chance) -> Result<[Tensor; 2]> {
        let [a, b] = views(batch, Self::INFO.name)?;
        let part = |waves: &Tensor, view: u64| {
            let whole = self.online.encoder.spectrogram(waves, Self::INFO.name)?;
            stretch(&whole, &self.config.stretch, (chance, view))
        };
        let (a, b) = (part(a, 0)?, part(b, 1)?);
        let (deviation, mean) = Tensor::f_cat(&[&a, &b], 0)?.f_std_mean(true)?;
        let normal = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_sub(&mean)?.f_div(&deviation.f_clamp_min(f64::from(f32::EPSILON))?)?)
        };
        Ok([normal(&a)?, normal(&b)?])
    }

    /// Prediction and target of one view, both in float32.
    fn pass(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let prediction = self.predictor.forward(&self.online.project(x, mode)?, mode)?;
        let target = no_grad(|| self.target.project(x, mode))?;
        Ok((prediction.f_to_kind(Kind::Float)?, target.f_to_kind(Kind::Float)?))
    }

    /// The loss, the predictions from the first view, and the targets from the second.
    fn regress(&self, batch: &Views, mode: Mode, chance: Chance) -> Result<(Tensor, Tensor, Tensor)> {
        let [a, b] = self.show(batch, chance)?;
        let ((from_a, of_a), (from_b, of_b)) = (self.pass(&a, mode)?, self.pass(&b, mode)?);
        let loss = Precision::Fp32.scope(a.device(), || {
            Ok(squared_distance(&from_a, &of_b)?.f_add(&squared_distance(&from_b, &of_a)?)?)
        })?;
        Ok((loss, from_a, of_b))
    }
}

/// The mean squared distance between paired rows of unit length: `2 - 2 cos`, from 0 to 4.
///
/// # Shapes
/// `prediction`, `target`: `[B, D]`, unit length not required; returns a scalar.
///
/// # Source
/// Niizumi et al., 2021, equation 1; the method adds both directions, up to 8.
fn squared_distance(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok(negative_cosine(prediction, target)?.f_mul_scalar(2.)?.f_add_scalar(2.)?)
}

/// A random part of each spectrogram, stretched to the size of the whole by cubic interpolation.
///
/// # Shapes
/// `x`: `[B, F, N]`; returns the same.
///
/// # Source
/// `RandomResizeCrop` of BYOL-A's code, `byol_a/augmentations.py`.
fn stretch(x: &Tensor, config: &Stretch, (chance, view): (Chance, u64)) -> Result<Tensor> {
    let (rows, height, length) = dims3(x, "spectrogram", "[B, F, N]")?;
    let drawn = |n| chance.uniform(&[rows], 4 * view + n, x.device());
    let Stretch { frequency, time, plane: [plane_height, plane_length] } = *config;
    let [high, top] = place((height, plane_height), frequency, [&drawn(0)?, &drawn(1)?])?;
    let [long, left] = place((length, plane_length), time, [&drawn(2)?, &drawn(3)?])?;
    let none = high.f_zeros_like()?;
    let maps = [Tensor::f_stack(&[&long, &none, &left], 1)?, Tensor::f_stack(&[&none, &high, &top], 1)?];
    let grid = Tensor::f_affine_grid_generator(&Tensor::f_stack(&maps, 1)?, [rows, 1, height, length], true)?;
    const CUBIC: i64 = 2;
    const ZEROS: i64 = 0;
    Ok(x.f_unsqueeze(1)?.f_grid_sampler(&grid, CUBIC, ZEROS, true)?.f_squeeze_dim(1)?)
}

/// The factor and the shift that bring the places of the result, from -1 to 1, to those of the spectrogram, of which a
/// part of a random length at a random place of the plane is shown. `[B]` each.
fn place((size, plane): (i64, f64), [low, high]: [f64; 2], [u, v]: [&Tensor; 2]) -> Result<[Tensor; 2]> {
    let plane = (size as f64 * plane).floor();
    let length = u.f_mul_scalar(high - low)?.f_add_scalar(low)?.f_mul_scalar(size as f64)?.f_floor()?;
    let length = length.f_clamp(1., plane)?;
    let room = length.f_neg()?.f_add_scalar(plane + 1.)?;
    let start = v.f_mul(&room)?.f_floor()?.f_sub_scalar(((plane - size as f64) / 2.).floor())?;
    let last = (size as f64 - 1.).max(1.);
    let factor = length.f_sub_scalar(1.)?.f_div_scalar(last)?;
    let shift = start.f_mul_scalar(2. / last)?.f_add(&factor)?.f_sub_scalar(1.)?;
    Ok([factor, shift])
}

impl Method for ByolA {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (loss, ..) = self.regress(batch, Mode::Train, Chance::Generator)?;
        Ok(Output::new(loss))
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.online.encoder.embed(input, self.online.encoder.widest(), mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.online.encoder.stages(input, self.online.encoder.widest())
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let (loss, prediction, target) = self.regress(batch, Mode::Eval, Chance::Fixed)?;
            // At chance when the networks have collapsed, while the loss is then at its best.
            Ok(vec![("loss".into(), loss), ("retrieval".into(), retrieval(&prediction, &target)?)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.student), ("teacher".into(), &self.teacher)]
    }
}

impl AudioMethod for ByolA {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone()]
    }

    fn place(&self) -> Option<Place> {
        Some(Place::Same)
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        let encoder = &self.online.encoder;
        no_grad(|| encoder.forward(waves, encoder.widest(), Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        Config { hidden_dim: 16, projection_dim: 8, ..Config::default() }
    }

    fn build(config: Config) -> Result<ByolA> {
        ByolA::new(config, &encoders("mel_conv_d8"))
    }

    /// Two views of the same sounds, of which one is louder.
    fn two(n: i64) -> Views {
        let x = waves(n, 1_600);
        Views(vec![x.shallow_clone(), x * 0.3])
    }

    #[test]
    fn it_keeps_the_contract() {
        let (batch, scratch) = (two(4), tempfile::tempdir().unwrap());
        for arch in ["mel_conv_d8", "mel_d12_l1_h2"] {
            check_method(|| ByolA::new(small(), &encoders(arch)), &batch, &batch.0[0], scratch.path())
                .unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
    }

    #[test]
    fn the_loss_is_the_squared_distance_of_unit_rows_in_both_directions() {
        let method = build(small()).unwrap();
        let [a, b] = method.show(&two(5), Chance::Fixed).unwrap();
        let ((from_a, of_a), (from_b, of_b)) =
            (method.pass(&a, Mode::Eval).unwrap(), method.pass(&b, Mode::Eval).unwrap());
        let unit = |x: &Tensor, row: i64| -> Vec<f64> {
            let x = Vec::<f64>::try_from(x.get(row).to_kind(Kind::Double)).unwrap();
            let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
            x.iter().map(|v| v / length).collect()
        };
        let distance = |x: &Tensor, y: &Tensor, row| -> f64 {
            unit(x, row).iter().zip(unit(y, row)).map(|(p, q)| (p - q).powi(2)).sum()
        };
        let slow = (0..5).map(|row| distance(&from_a, &of_b, row) + distance(&from_b, &of_a, row)).sum::<f64>() / 5.;
        let loss = method.validate(&two(5)).unwrap()[0].1.double_value(&[]);
        assert!((loss - slow).abs() < 1e-4 && slow > 0.1, "{loss} {slow}");
    }

    #[test]
    fn a_stretched_part_is_that_of_the_official_code_away_from_its_border() {
        let (height, length) = (20i64, 30i64);
        let x = (Tensor::arange(height * length, (Kind::Float, Device::Cpu)) * 0.7).sin().view([1, height, length]);
        let config = Stretch { plane: [1.2, 1.5], ..Stretch::default() };
        for view in 0..6 {
            let got = stretch(&x, &config, (Chance::Fixed, view)).unwrap();
            let drawn = |n| Chance::Fixed.uniform(&[1], 4 * view + n, Device::Cpu).unwrap().double_value(&[0]);
            // As the official code, with integers and a plane of zeros.
            let along = |size: i64, plane: f64, u: f64, v: f64| {
                let plane = (size as f64 * plane) as i64;
                let part = (((0.6 + 0.9 * u) * size as f64) as i64).clamp(1, plane);
                (plane, part, (v * (plane - part + 1) as f64) as i64)
            };
            let (plane_height, h, i) = along(height, 1.2, drawn(0), drawn(1));
            let (plane_length, w, j) = along(length, 1.5, drawn(2), drawn(3));
            let plane = Tensor::zeros([1, 1, plane_height, plane_length], (Kind::Float, Device::Cpu));
            let (top, left) = ((plane_height - height) / 2, (plane_length - length) / 2);
            plane.narrow(2, top, height).narrow(3, left, length).copy_(&x.unsqueeze(0));
            let part = plane.narrow(2, i, h).narrow(3, j, w);
            let expected = part.upsample_bicubic2d([height, length], true, None, None).squeeze_dim(0);
            let edge = |part: i64, size: i64| ((size - 1) as f64 / (part - 1) as f64).ceil() as i64;
            let inner = |x: &Tensor| {
                let (up, aside) = (edge(h, height), edge(w, length));
                x.narrow(1, up, height - 2 * up).narrow(2, aside, length - 2 * aside).contiguous()
            };
            assert!(inner(&got).allclose(&inner(&expected), 1e-3, 1e-3, false), "{h} {w} at {i} {j}");
        }
    }

    #[test]
    fn what_is_shown_is_normalized_together_and_silence_stays_finite() {
        let method = build(small()).unwrap();
        let [a, b] = method.show(&two(3), Chance::Fixed).unwrap();
        let (deviation, mean) = Tensor::cat(&[&a, &b], 0).std_mean(true);
        assert!(mean.double_value(&[]).abs() < 1e-4 && (deviation.double_value(&[]) - 1.).abs() < 1e-3);
        assert!(a.mean(Kind::Float).double_value(&[]) > b.mean(Kind::Float).double_value(&[]), "the louder one");
        let silence = Tensor::zeros([2, 3_200], (Kind::Float, Device::Cpu));
        let [a, _] = method.show(&Views(vec![silence.copy(), silence]), Chance::Fixed).unwrap();
        assert!(bool::try_from(a.isfinite().all()).unwrap());
    }

    #[test]
    fn the_target_gets_no_gradient_and_follows_by_the_momentum() {
        let mut method = build(Config { momentum: Schedule::constant(0.9), ..small() }).unwrap();
        let tensors = named_tensors(&method);
        method.step(&two(4), AT).unwrap().loss.backward();
        assert!(tensors.iter().all(|(name, x)| name.starts_with("student/") || !x.grad().defined()));
        let name = "encoder.fc.0.weight";
        let mut student = method.student.variables()[name].shallow_clone();
        let before = student.copy();
        let _ = no_grad(|| student.f_add_scalar_(1.).unwrap());
        method.after_step(AT).unwrap();
        assert!(method.teacher.variables()[name].allclose(&(before + 0.1), 1e-4, 1e-5, false));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let message = |config: Config| build(config).unwrap_err().to_string();
        assert_eq!(message(Config { hidden_dim: 0, ..small() }), "hidden_dim: expected at least 1, got 0");
        let momentum = Schedule::constant(1.1);
        let said = message(Config { momentum, ..small() });
        assert_eq!(said, "momentum: expected numbers from 0 to 1, got [1.1, 1.1]");
        let stretch = Stretch { time: [1.2, 0.5], ..Stretch::default() };
        assert!(message(Config { stretch, ..small() }).starts_with("stretch.time: expected two numbers above 0"));
        let stretch = Stretch { plane: [0.5, 1.], ..Stretch::default() };
        assert_eq!(message(Config { stretch, ..small() }), "stretch.plane: expected numbers from 1 to 10, got [0.5, 1.0]");
        let message = ByolA::new(small(), &encoders("cpc_c8_gru")).unwrap_err().to_string();
        assert!(message.starts_with("encoder: byol_a takes spectrograms"), "{message}");
    }
}
