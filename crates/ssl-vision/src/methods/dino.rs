//! DINO: from any crop of an image a student predicts what its own moving average, the teacher, makes of a large crop;
//! the teacher's outputs are centered and sharpened, which together keep them from collapsing.
//!
//! Source: Caron et al., 2021: <https://arxiv.org/abs/2104.14294>, equations 1 to 4; the official code
//! (`facebookresearch/dino`, `main_dino.py`, `vision_transformer.py`), whose evaluation takes the teacher's encoder, as
//! here. Departures: the teacher's temperature rises by the step, not by the epoch; gradients are clipped by their
//! joint norm, not each tensor's; the optimizer does not skip the frozen last layer, but sees gradients of zero: weight
//! decay shrinks its rows, of which the direction alone counts, and AdamW remembers a layer that stood still.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::crops::{by_size, split_like};
use crate::heads::{Head, HeadConfig, LastLayer, entropies};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::loss::dino;
use ssl_core::schedule::{End, Ramp, Warmup};
use ssl_core::{Ema, Error, Method, Metrics, Mode, Output, Precision};
use ssl_core::{Result, Schedule, Statistics, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// DINO's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Units of the two hidden layers of the head.
    pub hidden_dim: i64,
    /// Dimension in which the head's features are scaled to unit length, before its last layer.
    pub bottleneck_dim: i64,
    /// Outputs of the head, over which student and teacher are compared.
    pub out_dim: i64,
    /// Whether the hidden layers of the head are normalized over the batch.
    pub head_norm: bool,
    /// Whether the rows of the last layer keep unit length: steadier, where free ones can be better.
    pub norm_last_layer: bool,
    /// Part of the run, from its beginning, in which the last layer is not trained: an epoch of the official hundred.
    pub freeze_last_layer: f64,
    /// Divides the student's outputs.
    pub student_temperature: f64,
    /// Divides the teacher's outputs after the warm-up.
    pub teacher_temperature: f64,
    /// Divides the teacher's outputs at the first step, from which on it rises in a line.
    pub initial_teacher_temperature: f64,
    /// Part of the run in which the teacher's temperature rises: thirty epochs of three hundred.
    pub teacher_warmup: f64,
    /// Part of the center that each step keeps; the rest is the mean of the teacher's outputs.
    pub center_momentum: f64,
    /// Part of the teacher that each step keeps.
    pub momentum: Schedule,
    /// The large crop that comes first.
    pub first_global: Augment,
    /// The large crop that comes second.
    pub second_global: Augment,
    /// The small crops, which the student alone sees.
    pub local: Augment,
    /// Small crops of each image.
    pub local_crops: usize,
}

impl Default for Config {
    fn default() -> Self {
        let crop = |size, scale| Augment { crop_scale: scale, saturation: 0.2, ..Augment::simclr(size, 0.5) };
        let global = crop(224, [0.4, 1.]);
        Config {
            hidden_dim: 2048,
            bottleneck_dim: 256,
            out_dim: 65536,
            head_norm: false,
            norm_last_layer: true,
            freeze_last_layer: 0.01,
            student_temperature: 0.1,
            teacher_temperature: 0.07,
            initial_teacher_temperature: 0.04,
            teacher_warmup: 0.1,
            center_momentum: 0.9,
            momentum: Schedule::cosine(0.996, 1.).reached(End::AfterLastStep),
            first_global: Augment { blur_probability: 1., ..global.clone() },
            second_global: Augment { blur_probability: 0.1, solarize_probability: 0.2, ..global },
            local: crop(96, [0.05, 0.4]),
            local_crops: 8,
        }
    }
}

impl Config {
    pub(super) fn validate(&self) -> Result<()> {
        let (sizes, temperatures, parts) = ((1., 1e9), (1e-4, 1e4), (0., 1.));
        check::ranges([
            ("hidden_dim", self.hidden_dim as f64, sizes),
            ("bottleneck_dim", self.bottleneck_dim as f64, sizes),
            ("out_dim", self.out_dim as f64, sizes),
            ("student_temperature", self.student_temperature, temperatures),
            ("teacher_temperature", self.teacher_temperature, temperatures),
            ("initial_teacher_temperature", self.initial_teacher_temperature, temperatures),
            ("freeze_last_layer", self.freeze_last_layer, parts),
            ("teacher_warmup", self.teacher_warmup, parts),
            ("center_momentum", self.center_momentum, parts),
            ("momentum", self.momentum.start, parts),
            ("momentum", self.momentum.end, parts),
        ])?;
        self.momentum.validate("momentum")?;
        [&self.first_global, &self.second_global, &self.local].iter().try_for_each(|crop| crop.validate())
    }

    /// What divides the teacher's outputs.
    pub(super) fn temperature_at(&self, at: Step) -> f64 {
        let steps = (self.teacher_warmup * at.total as f64).round() as u64;
        let from = self.initial_teacher_temperature;
        let warmup = Warmup { steps, from, ramp: Ramp::BothEnds, ..Warmup::default() };
        Schedule { warmup, ..Schedule::constant(self.teacher_temperature) }.at(at)
    }

    pub(super) fn last_layer_at(&self, at: Step) -> LastLayer {
        let frozen = (at.index as f64) < self.freeze_last_layer * at.total as f64;
        if frozen { LastLayer::Frozen } else { LastLayer::Trained }
    }

    pub(super) fn head(&self) -> HeadConfig {
        let Config { hidden_dim, bottleneck_dim, out_dim, head_norm, norm_last_layer, .. } = *self;
        HeadConfig { hidden_dim, bottleneck_dim, out_dim, head_norm, norm_last_layer }
    }

    /// The augmentation of each crop.
    pub(super) fn views(&self) -> Vec<Augment> {
        let local = std::iter::repeat_n(&self.local, self.local_crops);
        [&self.first_global, &self.second_global].into_iter().chain(local).cloned().collect()
    }

    /// The large and the small crops of a batch of `method`.
    pub(super) fn crops<'a>(&self, Views(crops): &'a Views, method: &str) -> Result<[&'a [Tensor]; 2]> {
        let (expected, got) = (2 + self.local_crops, crops.len());
        let split = crops.split_at_checked(2).filter(|_| got == expected);
        split.map(|(large, small)| [large, small]).ok_or_else(|| {
            Error::config("views", format!("{method} takes {expected} with these local crops, got {got}"))
        })
    }
}

/// An encoder and a head.
#[derive(Debug)]
struct Network {
    encoder: Rc<Encoder>,
    head: Head,
}

impl Network {
    fn new(encoder: Rc<Encoder>, p: &Path, config: &Config) -> Result<Self> {
        let head = Head::new(&(p / "head"), encoder.dim(), &config.head())?;
        Ok(Network { encoder, head })
    }

    /// Outputs `[B, K]` of each crop, in float32.
    fn outputs(&self, crops: &[Tensor], mode: Mode, last: LastLayer) -> Result<Vec<Tensor>> {
        let features = by_size(crops, |x| self.encoder.forward(x, mode))?;
        split_like(&self.head.forward(&features, mode, last)?, crops)
    }
}

/// A student, a teacher that follows it, and the center of the teacher's outputs.
#[derive(Debug)]
pub struct Dino {
    student_vars: VarStore,
    teacher_vars: VarStore,
    student: Network,
    teacher: Network,
    center: Tensor,
    ema: Ema,
    config: Config,
}

impl Definition for Dino {
    const INFO: Info = Info {
        name: "dino",
        summary: "predict from any crop what a slow copy of the network makes of a large crop",
        paper: "Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin",
        year: 2021,
        kind: "distillation",
        url: "https://arxiv.org/abs/2104.14294",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let [student_vars, mut teacher_vars] = [(); 2].map(|()| VarStore::new(encoders.device()));
        let network = |encoder, vars: &VarStore| Network::new(encoder, &vars.root(), &config);
        let student = network(encoders.student(&student_vars)?, &student_vars)?;
        let teacher = network(Rc::new(encoders.teacher(&teacher_vars)?), &teacher_vars)?;
        let ema = Ema::new(&student_vars, &mut teacher_vars, Statistics::Own)?;
        // After the pairing: the student has none.
        let center = teacher_vars.root().f_zeros_no_train("center", &[config.out_dim])?;
        Ok(Dino { student_vars, teacher_vars, student, teacher, center, ema, config })
    }
}

impl Dino {
    /// Outputs of the student for all crops, and of the teacher, which carry no gradients, for the two large ones.
    fn outputs(&self, batch: &Views, mode: Mode, last: LastLayer) -> Result<[Vec<Tensor>; 2]> {
        let [large, _] = self.config.crops(batch, "DINO")?;
        let teacher = no_grad(|| self.teacher.outputs(large, mode, LastLayer::Trained))?;
        Ok([self.student.outputs(&batch.0, mode, last)?, teacher])
    }

    /// The loss, and what tells a collapse, in nats: a `teacher_entropy` near that of `out_dim` equal outputs, or a
    /// `marginal_entropy` that is no greater, when all images have one and the same output.
    fn compare(&self, student: &[Tensor], teacher: &[Tensor], temperature: f64) -> Result<Output> {
        Precision::Fp32.scope(self.center.device(), || {
            let loss = dino(student, teacher, &self.center, self.config.student_temperature, temperature)?;
            let logits = Tensor::f_cat(teacher, 0)?.f_sub(&self.center)?.f_div_scalar(temperature)?;
            let (each, marginal) = entropies(&logits.f_softmax(-1, Kind::Float)?)?;
            // All outputs of the teacher are in equally many pairs, so that this is the mean divergence.
            let kl = loss.f_detach()?.f_sub(&each)?;
            let output = Output::new(loss).with("teacher_entropy", &each)?;
            output.with("marginal_entropy", &marginal)?.with("kl", &kl)
        })
    }
}

impl Method for Dino {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        // Batch norms of the teacher too use the batch.
        let [student, teacher] = self.outputs(batch, Mode::Train, self.config.last_layer_at(at))?;
        let output = self.compare(&student, &teacher, self.config.temperature_at(at))?;
        let mean = Tensor::f_cat(&teacher, 0)?.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
        let _ = no_grad(|| self.center.f_lerp_(&mean, 1. - self.config.center_momentum))?;
        Ok(output)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.teacher.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.teacher.encoder.stages(input)
    }

    /// At the temperature after the warm-up, so that one run's checkpoints compare.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let [student, teacher] = self.outputs(batch, Mode::Eval, LastLayer::Trained)?;
            Ok(self.compare(&student, &teacher, self.config.teacher_temperature)?.into_metrics())
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let name = |i| if i < 2 { format!("global {}", i + 1) } else { format!("local {}", i - 1) };
        Ok(batch.0.iter().zip(0..).map(|(crop, i)| (name(i), crop.shallow_clone())).collect())
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("teacher".into(), &self.teacher_vars), ("student".into(), &self.student_vars)]
    }
}

impl VisionMethod for Dino {
    fn views(&self) -> Vec<Augment> {
        self.config.views()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::check_method;
    use tch::Device;

    const RESNET: &str = r#"{"arch": "resnet10_w4", "stem": "cifar", "channels": 1}"#;
    const VIT: &str =
        r#"{"arch": "vit_d16_l2_h2", "image_size": 8, "patch_size": 4, "channels": 1, "drop_path": 0.2}"#;

    fn small() -> Config {
        let d = Config::default();
        Config { hidden_dim: 16, bottleneck_dim: 8, out_dim: 12, freeze_last_layer: 0., local_crops: 2, ..d }
    }

    fn build(config: Config, encoder: &str) -> Result<Dino> {
        let encoder: crate::backbones::EncoderConfig = serde_json::from_str(encoder).unwrap();
        Dino::new(config, &Encoders::new(encoder, Device::Cpu))
    }

    fn crops(n: i64) -> Views {
        crate::crops::tests::batch(n, &[8, 8, 4, 4])
    }

    #[test]
    fn keeps_the_contract_with_a_resnet_and_with_a_transformer() {
        // A sharp teacher is easiest to follow before the center has moved, so that its loss would rise at first.
        let blunt = Config { initial_teacher_temperature: 1., teacher_temperature: 1., ..small() };
        for encoder in [RESNET, VIT] {
            let (batch, scratch) = (crops(6), tempfile::tempdir().unwrap());
            check_method(|| build(blunt.clone(), encoder), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_loss_is_the_papers_at_the_center_that_the_step_then_moves() {
        let mut method = build(Config { teacher_warmup: 0., ..small() }, RESNET).unwrap();
        let center = Tensor::arange(12, (Kind::Float, Device::Cpu)).sin() * 0.1;
        method.center.copy_(&center);
        let [student, teacher] = method.outputs(&crops(5), Mode::Train, LastLayer::Trained).unwrap();
        let softmax = |x: Tensor| -> Vec<f64> {
            let x: Vec<f64> = x.try_into().unwrap();
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            x.into_iter().map(|x| x.exp() / sum).collect()
        };
        let (mut slow, mut entropy) = (0., 0.);
        for (t, s) in [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)] {
            for i in 0..5 {
                let p = softmax((teacher[t].get(i) - &center) / 0.07);
                let q = softmax(student[s].get(i) / 0.1);
                slow -= p.iter().zip(q).map(|(p, q)| p * q.ln()).sum::<f64>() / 30.;
                entropy -= p.iter().map(|p| p * p.ln()).sum::<f64>() / 30.;
            }
        }
        let output = method.step(&crops(5), Step { index: 0, total: 10 }).unwrap();
        let found = [&output.loss, &output.metrics[0].1, &output.metrics[2].1].map(|x| x.double_value(&[]));
        for (found, expected) in found.into_iter().zip([slow, entropy, slow - entropy]) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let mean = Tensor::cat(&teacher, 0).mean_dim([0i64].as_slice(), false, Kind::Float);
        assert!(method.center.allclose(&(center * 0.9 + mean * 0.1), 1e-4, 1e-6, false));
    }

    #[test]
    fn the_last_layer_is_trained_after_its_part_of_the_run_and_the_teacher_never() {
        let config = Config { freeze_last_layer: 0.2, norm_last_layer: false, ..small() };
        for (index, trained) in [(0, false), (1, false), (2, true)] {
            let mut method = build(config.clone(), RESNET).unwrap();
            method.step(&crops(5), Step { index, total: 10 }).unwrap().loss.backward();
            let student = method.student_vars.variables();
            let norm = |grad: Tensor| if grad.defined() { grad.norm().double_value(&[]) } else { 0. };
            let reached = |name| norm(student[name].grad()) > 0.;
            assert_eq!(reached("head.last_layer.weight_v"), trained, "at step {index}");
            assert_eq!(reached("head.last_layer.weight_g"), trained, "at step {index}");
            assert!(reached("head.mlp.4.weight"));
            let teacher = method.teacher_vars.variables();
            assert!(teacher.values().all(|x| !x.requires_grad() && !x.grad().defined()));
        }
    }

    #[test]
    fn the_teacher_follows_the_student_and_is_what_is_used() {
        let config = Config { momentum: Schedule::constant(0.75), head_norm: true, ..small() };
        let mut method = build(config, RESNET).unwrap();
        let student = method.student_vars.variables();
        let _ = no_grad(|| student["encoder.conv1.weight"].shallow_clone().fill_(4.));
        let _ = no_grad(|| method.encoder()["conv1.weight"].shallow_clone().fill_(0.));
        method.after_step(Step { index: 0, total: 10 }).unwrap();
        assert_eq!(f64::try_from(method.encoder()["conv1.weight"].max()).unwrap(), 1.);
        let x = &crops(3).0[0];
        let expected = method.teacher.encoder.forward(x, Mode::Eval).unwrap();
        assert!(method.embed(x).unwrap().equal(&expected));
        assert!(
            ["head.mlp.4.running_mean", "head.mlp.6.bias"].iter().all(|name| student.contains_key(*name))
        );
    }

    #[test]
    fn the_teachers_temperature_rises_in_its_part_of_the_run() {
        let config = Config { teacher_warmup: 0.3, ..small() };
        for (index, expected) in [(0, 0.04), (1, 0.055), (2, 0.07), (3, 0.07), (9, 0.07)] {
            let temperature = config.temperature_at(Step { index, total: 10 });
            assert!((temperature - expected).abs() < 1e-12, "{index}: {temperature}");
        }
    }

    #[test]
    fn a_missing_crop_and_numbers_out_of_range_are_named() {
        let mut method = build(small(), RESNET).unwrap();
        assert_eq!(method.views().iter().map(|view| view.size).collect::<Vec<_>>(), [224, 224, 96, 96]);
        let few = Views(crops(4).0.into_iter().take(3).collect());
        let message = method.step(&few, Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: DINO takes 4 with these local crops, got 3");
        let message = build(Config { teacher_warmup: 2., ..small() }, RESNET).unwrap_err().to_string();
        assert_eq!(message, "teacher_warmup: expected 0 to 1, got 2");
    }
}
