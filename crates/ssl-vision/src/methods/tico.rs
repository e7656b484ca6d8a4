//! TiCo: a view agrees with what a slow copy of the network makes of the other, and is short along the directions in which
//! the embeddings of many batches are long.
//!
//! Source: Zhu et al., 2022: <https://arxiv.org/abs/2206.10698>; there is no official code, and lightly's `TiCoLoss` is
//! followed where the paper is silent: the covariance of the batch is a constant too. Projector and views are BYOL's.
//! Where this differs:
//!
//! - The slow copy is averaged after the optimizer's step and not before its own forward pass. Both start equal, so the
//!   sequence of copies is the same. Its batch norms have running statistics of their own.
//! - The output layer of the projector has no bias, as in the official code of BYOL.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::projected::Projected;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::{TiCoTerms, tico};
use ssl_core::nn::Projector;
use ssl_core::schedule::End;
use ssl_core::{Ema, Method, Metrics, Mode, Output, Precision, Result, Schedule, Statistics, Step};
use ssl_core::{Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::Tensor;

/// TiCo's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hidden units of the projector.
    pub hidden_dim: i64,
    /// Dimension in which views are compared.
    pub projection_dim: i64,
    /// Part of the covariance that each step keeps; the rest is the batch's.
    pub beta: f64,
    /// Weight of the length along the covariance.
    pub rho: f64,
    /// What the slow copy keeps of itself at each step.
    pub momentum: Schedule,
    /// The random view that comes first.
    pub first_view: Augment,
    /// The random view that comes second, which the slow copy sees.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let view = Augment { saturation: 0.2, ..Augment::simclr(224, 0.5) };
        Config {
            hidden_dim: 4096,
            projection_dim: 256,
            beta: 0.9,
            rho: 8.,
            momentum: Schedule::cosine(0.99, 1.).reached(End::AfterLastStep),
            first_view: Augment { blur_probability: 1., ..view.clone() },
            second_view: Augment { blur_probability: 0.1, solarize_probability: 0.2, ..view },
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        let (sizes, parts) = ((1., 1e9), (0., 1.));
        check::ranges([
            ("hidden_dim", self.hidden_dim as f64, sizes),
            ("projection_dim", self.projection_dim as f64, sizes),
            ("beta", self.beta, parts),
            ("rho", self.rho, (0., 1e9)),
            ("momentum", self.momentum.start, parts),
            ("momentum", self.momentum.end, parts),
        ])?;
        self.momentum.validate("momentum")?;
        self.first_view.validate()?;
        self.second_view.validate()
    }
}

/// A network that learns, its moving average, and the covariance of its embeddings.
#[derive(Debug)]
pub struct TiCo {
    student_vars: VarStore,
    teacher_vars: VarStore,
    memory: VarStore,
    student: Projected,
    teacher: Projected,
    // [D, D], of unit embeddings, not centered.
    covariance: Tensor,
    ema: Ema,
    config: Config,
}

impl Definition for TiCo {
    const INFO: Info = Info {
        name: "tico",
        summary: "agree with a slow copy, and be short where the embeddings of many batches are long",
        paper: "Zhu, Moraes, Karakulak, Sobol, Canziani, LeCun",
        year: 2022,
        kind: "redundancy",
        url: "https://arxiv.org/abs/2206.10698",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let [student_vars, mut teacher_vars, memory] = [(); 3].map(|()| VarStore::new(encoders.device()));
        let network = |encoder, vars: &VarStore| {
            let (head, Config { hidden_dim, projection_dim, .. }) = (vars.root() / "projector", &config);
            Projected::new(encoder, |width| Projector::new(&head, &[width, *hidden_dim, *projection_dim]))
        };
        let student = network(encoders.student(&student_vars)?, &student_vars)?;
        let teacher = network(Rc::new(encoders.teacher(&teacher_vars)?), &teacher_vars)?;
        let ema = Ema::new(&student_vars, &mut teacher_vars, Statistics::Own)?;
        let size = [config.projection_dim, config.projection_dim];
        let covariance = memory.root().f_zeros_no_train("covariance", &size)?;
        Ok(TiCo { student_vars, teacher_vars, memory, student, teacher, covariance, ema, config })
    }
}

impl TiCo {
    /// What the network makes of the first view, and the slow copy, without gradients, of the second; in float32.
    fn project(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [a, b] = batch.exactly("TiCo")?;
        Ok((self.student.project(a, mode)?, no_grad(|| self.teacher.project(b, mode))?))
    }

    fn terms(&self, a: &Tensor, b: &Tensor) -> Result<TiCoTerms> {
        tico(a, b, &self.covariance, self.config.beta, self.config.rho)
    }
}

impl Method for TiCo {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (a, b) = self.project(batch, Mode::Train)?;
        Precision::Fp32.scope(a.device(), || {
            let terms = self.terms(&a, &b)?;
            no_grad(|| self.covariance.f_copy_(&terms.covariance))?;
            let output = Output::new(terms.total);
            output.with("invariance", &terms.invariance)?.with("contrast", &terms.contrast)
        })
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.student.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.student.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let (a, b) = self.project(batch, Mode::Eval)?;
            let terms = Precision::Fp32.scope(a.device(), || self.terms(&a, &b))?;
            Ok(vec![
                ("loss".into(), terms.total),
                ("invariance".into(), terms.invariance),
                ("contrast".into(), terms.contrast),
                ("retrieval".into(), retrieval(&a, &b)?),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![
            ("student".into(), &self.student_vars),
            ("teacher".into(), &self.teacher_vars),
            ("memory".into(), &self.memory),
        ]
    }
}

impl VisionMethod for TiCo {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::crops::tests::batch;
    use ssl_core::{check_method, named_tensors};
    use tch::{Device, Kind};

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        Config { hidden_dim: 16, projection_dim: 6, ..Config::default() }
    }

    fn build(config: Config) -> Result<TiCo> {
        TiCo::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn views(n: i64) -> Views {
        batch(n, &[8, 8])
    }

    fn rows(x: &Tensor) -> Vec<Vec<f64>> {
        let unit = |x: Vec<f64>| {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.into_iter().map(|x| x / length).collect()
        };
        (0..x.size()[0]).map(|i| unit(Vec::try_from(x.get(i).to_kind(Kind::Double)).unwrap())).collect()
    }

    #[test]
    fn keeps_the_contract() {
        // Of one batch alone the contrast rises while the covariance fills, so that it starts full.
        let (batch, scratch) = (views(8), tempfile::tempdir().unwrap());
        let build = || {
            let config = Config { beta: 0.5, rho: 1., ..small() };
            let mut method = build(Config { momentum: Schedule::constant(0.9), ..config })?;
            for _ in 0..8 {
                no_grad(|| method.step(&batch, AT).map(drop))?;
            }
            Ok(method)
        };
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_papers_and_the_covariance_is_left_to_the_next_step() {
        let mut method = build(Config { beta: 0.7, ..small() }).unwrap();
        let mut covariance = [[0.; 6]; 6];
        for index in 0..3 {
            let batch = Views(views(5).0.iter().map(|x| x * (1. + index as f64)).collect());
            let (a, b) = method.project(&batch, Mode::Train).unwrap();
            let (a, b) = (rows(&a), rows(&b));
            let mut slow = 1.;
            for (i, j) in (0..6).flat_map(|i| (0..6).map(move |j| (i, j))) {
                let own = a.iter().map(|z| z[i] * z[j]).sum::<f64>() / 5.;
                covariance[i][j] = 0.7 * covariance[i][j] + 0.3 * own;
                slow += 8. * covariance[i][j] * own;
            }
            slow -= a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum::<f64>() / 5.;
            let found = method.step(&batch, Step { index, total: 3 }).unwrap().loss.double_value(&[]);
            assert!((found - slow).abs() < 1e-5, "step {index}: {found} {slow}");
        }
        let flat: Vec<f64> = covariance.into_iter().flatten().collect();
        let kept = method.memory.variables()["covariance"].to_kind(Kind::Double).view([-1]);
        assert!(kept.allclose(&Tensor::from_slice(&flat), 1e-4, 1e-6, false));
    }

    #[test]
    fn the_slow_copy_takes_no_gradient_and_follows_by_the_momentum() {
        let mut method = build(Config { momentum: Schedule::constant(0.9), ..small() }).unwrap();
        method.step(&views(5), AT).unwrap().loss.backward();
        for (name, x) in named_tensors(&method) {
            let learns = name.starts_with("student/") && !name.contains("running");
            assert_eq!(x.requires_grad() && x.grad().defined(), learns, "{name}");
        }
        let name = "projector.0.weight";
        let before = method.teacher_vars.variables()[name].copy();
        let mut weight = method.student_vars.variables()[name].shallow_clone();
        let _ = no_grad(|| weight.f_add_scalar_(1.).unwrap());
        method.after_step(AT).unwrap();
        assert!(method.teacher_vars.variables()[name].allclose(&(before + 0.1), 1e-5, 1e-6, false));
    }

    #[test]
    fn validation_changes_nothing() {
        let mut method = build(small()).unwrap();
        method.step(&views(5), AT).unwrap();
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let names: Vec<String> =
            method.validate(&views(5)).unwrap().into_iter().map(|(name, _)| name).collect();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        assert_eq!(names, ["loss", "invariance", "contrast", "retrieval"]);
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_named() {
        let mut method = build(small()).unwrap();
        let message = method.step(&batch(4, &[8]), AT).unwrap_err().to_string();
        assert_eq!(message, "views: TiCo takes two, got 1");
        let message = build(Config { beta: 1.5, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "beta: expected 0 to 1, got 1.5");
        let momentum = Schedule::cosine(0.9, 1.5);
        let message = build(Config { momentum, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "momentum: expected 0 to 1, got 1.5");
    }
}
