//! BYOL: predict what a slow copy of the network makes of the image's other view; there are no negatives.
//!
//! Source: Grill et al., 2020: <https://arxiv.org/abs/2006.07733>; the official code
//! (`google-deepmind/deepmind-research`, `byol/byol_experiment.py` and `utils/networks.py`), from which come the output
//! layers without bias. As there, each view passes each network by itself, so that batch statistics are those of one
//! view, and the target network normalizes by its own batch. Where this differs from them:
//!
//! - Hidden layers have no bias, since the batch norm behind them would cancel it. All layers start as PyTorch's.
//! - Running statistics move by PyTorch's 0.1 at each batch, as with the decay of 0.9 in the published configuration.
//!   They matter for validation only: evaluation takes those of the encoder anew.
//! - The target network starts as a copy of the online one and not from weights of its own, which made no difference to
//!   the authors.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::siamese::{Online, OnlineTarget};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::negative_cosine;
use ssl_core::nn::Projector;
use ssl_core::schedule::End;
use ssl_core::{Method, Metrics, Mode, Output, Result, Schedule, Step, Views, check, no_grad};
use tch::Tensor;
use tch::nn::{Path, VarStore};

/// BYOL's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hidden units of the projector and of the predictor.
    pub hidden_dim: i64,
    /// Dimension in which prediction and target are compared.
    pub projection_dim: i64,
    /// What the target network keeps of itself at each step. The paper's is for 1000 epochs; the official code starts
    /// from 0.99 for 100 and 300 and from 0.97 for 40.
    pub momentum: Schedule,
    /// The random view that comes first.
    pub first_view: Augment,
    /// The random view that comes second.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let [first_view, second_view] = Augment::byol(224);
        Config {
            hidden_dim: 4096,
            projection_dim: 256,
            momentum: Schedule::cosine(0.996, 1.).reached(End::AfterLastStep),
            first_view,
            second_view,
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("hidden_dim", self.hidden_dim), ("projection_dim", self.projection_dim)])?;
        check::fractions("momentum", &self.momentum)?;
        self.first_view.validate()?;
        self.second_view.validate()
    }
}

/// An online network with a predictor, and a target network that is the online one's moving average.
#[derive(Debug)]
pub struct Byol {
    networks: OnlineTarget,
    config: Config,
}

impl Definition for Byol {
    const INFO: Info = Info {
        name: "byol",
        summary: "predict a slow copy's projection of the image's other view",
        paper: "Grill, Strub, Altché, Tallec, Richemond et al.",
        year: 2020,
        kind: "distillation",
        url: "https://arxiv.org/abs/2006.07733",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (hidden, dim) = (config.hidden_dim, config.projection_dim);
        let head = |p: &Path, width| Projector::new(p, &[width, hidden, dim]);
        let online = Online::new(encoders, dim, &head, &head)?;
        Ok(Byol { networks: OnlineTarget::new(encoders, online, &head)?, config })
    }
}

impl Byol {
    /// The loss, the predictions from the first view, and the targets from the second.
    fn regress(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor, Tensor)> {
        self.networks.both_ways(batch.exactly("BYOL")?, mode, squared_distance)
    }
}

/// The mean squared distance between paired rows of unit length: `2 - 2 cos`, from 0 to 4.
///
/// # Shapes
/// `prediction`, `target`: `[B, D]`, unit length not required; returns a scalar.
///
/// # Source
/// Grill et al., 2020, equation 2; the method adds both directions, up to 8.
fn squared_distance(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok(negative_cosine(prediction, target)?.f_mul_scalar(2.)?.f_add_scalar(2.)?)
}

impl Method for Byol {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (loss, ..) = self.regress(batch, Mode::Train)?;
        Ok(Output::new(loss))
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.networks.follow(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.networks.online.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.networks.online.network.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let (loss, prediction, target) = self.regress(batch, Mode::Eval)?;
            // At chance when the networks have collapsed, while the loss is then at its best.
            Ok(vec![("loss".into(), loss), ("retrieval".into(), retrieval(&prediction, &target)?)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        self.networks.stores()
    }
}

impl VisionMethod for Byol {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::{rows, views};
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        Config { hidden_dim: 24, projection_dim: 12, ..Config::default() }
    }

    fn build(config: Config) -> Result<Byol> {
        Byol::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_squared_distance_of_unit_rows_in_both_directions() {
        let mut method = build(small()).unwrap();
        let batch = views(5);
        let part = |x: &Tensor| method.networks.pass(x, Mode::Train).unwrap();
        let ((from_a, of_a), (from_b, of_b)) = (part(&batch.0[0]), part(&batch.0[1]));
        let unit = |x: &[f64]| {
            let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
            x.iter().map(|v| v / length).collect::<Vec<_>>()
        };
        let distance =
            |x: &[f64], y: &[f64]| -> f64 { unit(x).iter().zip(unit(y)).map(|(p, q)| (p - q).powi(2)).sum() };
        let mean = |x: &Tensor, y: &Tensor| {
            rows(x).iter().zip(rows(y)).map(|(x, y)| distance(x, &y)).sum::<f64>() / 5.
        };
        let slow = mean(&from_a, &of_b) + mean(&from_b, &of_a);
        let loss = f64::try_from(method.step(&batch, AT).unwrap().loss).unwrap();
        assert!((loss - slow).abs() < 1e-5 && slow > 0.1, "{loss} {slow}");
    }

    #[test]
    fn each_view_is_normalized_by_itself() {
        let method = build(small()).unwrap();
        let batch = views(6);
        let (alone, _) = method.networks.pass(&batch.0[0], Mode::Train).unwrap();
        let (_, beside, _) = method.regress(&batch, Mode::Train).unwrap();
        assert!(alone.allclose(&beside, 1e-5, 1e-6, false));
    }

    #[test]
    fn the_target_gets_no_gradient_and_follows_by_the_momentum() {
        let momentum = Schedule::cosine(0.9, 1.).reached(End::AfterLastStep);
        let mut method = build(Config { momentum, ..small() }).unwrap();
        let tensors = named_tensors(&method);
        assert!(tensors.iter().all(|(name, x)| !(name.starts_with("teacher/") && x.requires_grad())));
        assert!(tensors.keys().all(|name| !name.starts_with("teacher/predictor")));
        method.step(&views(4), AT).unwrap().loss.backward();
        assert!(tensors.iter().all(|(name, x)| name.starts_with("student/") || !x.grad().defined()));
        let name = "projector.0.weight";
        let mut student = method.networks.online.vars.variables()[name].shallow_clone();
        let _ = no_grad(|| student.f_add_scalar_(1.).unwrap());
        // Half-way the cosine has gone half the way from 0.9 to 1.
        for (index, kept) in [(0, 0.9), (5, 0.95), (10, 1.)] {
            let before = method.networks.teacher.variables()[name].copy();
            method.after_step(Step { index, total: 10 }).unwrap();
            let expected = before * kept + &student * (1. - kept);
            assert!(method.networks.teacher.variables()[name].allclose(&expected, 1e-5, 1e-6, false), "step {index}");
        }
    }

    #[test]
    fn the_momentum_rises_to_one_at_the_end_of_the_run() {
        let momentum = Config::default().momentum;
        let at = |index| momentum.at(Step { index, total: 1000 });
        assert!((at(0) - 0.996).abs() < 1e-12 && (at(500) - 0.998).abs() < 1e-12);
        // The official 1 - (1 - 0.996) (cos(pi k / K) + 1) / 2 at the last step, where k counts the steps done.
        let last = 1. - 0.004 * ((std::f64::consts::PI * 0.999).cos() + 1.) / 2.;
        assert!((at(999) - last).abs() < 1e-12 && last < 1. && at(1000) == 1.);
    }

    #[test]
    fn views_are_those_of_the_paper() {
        let views = build(small()).unwrap().views();
        let of =
            |view: &Augment| (view.blur_probability, view.solarize_probability, view.saturation, view.hue);
        assert_eq!((of(&views[0]), of(&views[1])), ((1., 0., 0.2, 0.1), (0.1, 0.2, 0.2, 0.1)));
        assert_eq!((views[0].brightness, views[0].contrast, views[0].jitter_probability), (0.4, 0.4, 0.8));
    }

    #[test]
    fn validation_changes_nothing_and_says_whether_other_views_are_found_again() {
        let method = build(small()).unwrap();
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let found = method.validate(&views(6)).unwrap();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        let values: Vec<(&str, f64)> =
            found.iter().map(|(name, value)| (name.as_str(), f64::try_from(value).unwrap())).collect();
        assert!(values[0].0 == "loss" && (0. ..=8.).contains(&values[0].1), "{values:?}");
        assert!(values[1].0 == "retrieval" && (0. ..=1.).contains(&values[1].1), "{values:?}");
    }

    #[test]
    fn three_views_and_numbers_out_of_range_are_errors() {
        let message = build(Config { hidden_dim: 0, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "hidden_dim: expected at least 1, got 0");
        let message =
            build(Config { momentum: Schedule::constant(-0.1), ..small() }).unwrap_err().to_string();
        assert_eq!(message, "momentum: expected numbers from 0 to 1, got [-0.1, -0.1]");
        let mut method = build(small()).unwrap();
        let mut three = views(4);
        three.0.push(three.0[0].shallow_clone());
        let message = method.step(&three, AT).unwrap_err().to_string();
        assert_eq!(message, "views: BYOL takes two, got 3");
    }
}
