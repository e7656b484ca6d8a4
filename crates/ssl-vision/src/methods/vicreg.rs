//! VICReg: two views have close features, every feature varies over the batch, and no two vary together.
//!
//! Source: Bardes, Ponce, LeCun, 2022: <https://arxiv.org/abs/2105.04906>; the official code
//! (`facebookresearch/vicreg`, `main_vicreg.py`). As there, each view passes the networks by itself, and the last layer
//! has no bias. Linear layers start as PyTorch's, as all layers. The variance term is the mean over the two views, as
//! there; solo-learn's is their sum, so that its weight of 25 is 50 here.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::{VicRegTerms, VicRegWeights, vicreg};
use ssl_core::nn::{Module, Projector};
use ssl_core::{Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// VICReg's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Weights of the three terms.
    pub weights: VicRegWeights,
    /// Units of every layer of the expander.
    pub projection_dim: i64,
    /// The random view that comes first.
    pub first_view: Augment,
    /// The random view that comes second.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let [first_view, second_view] = Augment::byol(224);
        Config {
            weights: VicRegWeights::default(),
            projection_dim: 8192,
            first_view,
            second_view,
        }
    }
}

/// An encoder and an expander that is thrown away after training.
#[derive(Debug)]
pub struct VicReg {
    vars: VarStore,
    encoder: Rc<Encoder>,
    projector: Projector,
    config: Config,
}

impl Definition for VicReg {
    const INFO: Info = Info {
        name: "vicreg",
        summary: "keep features of two views close, varied, and uncorrelated",
        paper: "Bardes, Ponce, LeCun",
        year: 2022,
        kind: "redundancy",
        url: "https://arxiv.org/abs/2105.04906",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.weights.validate()?;
        check::at_least(1, [("projection_dim", config.projection_dim)])?;
        config.first_view.validate()?;
        config.second_view.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let d = config.projection_dim;
        let projector = Projector::with_hidden_biases(&(vars.root() / "projector"), &[encoder.dim(), d, d, d])?;
        Ok(VicReg { vars, encoder, projector, config })
    }
}

impl VicReg {
    /// Projections of each view, in float32. Each passes the networks alone, with batch statistics of its own.
    fn project(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [a, b] = batch.exactly("VICReg")?;
        let one = |x: &Tensor| -> Result<Tensor> {
            Ok(self.projector.forward(&self.encoder.forward(x, mode)?, mode)?.f_to_kind(Kind::Float)?)
        };
        Ok((one(a)?, one(b)?))
    }

    fn loss(&self, a: &Tensor, b: &Tensor) -> Result<VicRegTerms> {
        Precision::Fp32.scope(a.device(), || vicreg(a, b, self.config.weights))
    }
}

impl Method for VicReg {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (a, b) = self.project(batch, Mode::Train)?;
        let terms = self.loss(&a, &b)?;
        let output = Output::new(terms.total).with("invariance", &terms.invariance)?;
        output.with("variance", &terms.variance)?.with("covariance", &terms.covariance)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let (a, b) = self.project(batch, Mode::Eval)?;
            let mut found = vec![("retrieval".into(), retrieval(&a, &b)?)];
            // Of a single image there are no statistics.
            if a.size().first().is_some_and(|&n| n > 1) {
                let terms = self.loss(&a, &b)?;
                found.push(("loss".into(), terms.total));
                found.push(("invariance".into(), terms.invariance));
                found.push(("variance".into(), terms.variance.shallow_clone()));
                found.push(("covariance".into(), terms.covariance));
                // How near the deviations are to 1, at which the loss lets them be.
                found.push(("spread".into(), terms.variance.f_neg()?.f_add_scalar(1.)?));
            }
            Ok(found)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for VicReg {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::views;
    use ssl_core::check_method;
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn build(config: Config) -> Result<VicReg> {
        VicReg::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn small() -> Config {
        Config { projection_dim: 6, ..Config::default() }
    }

    /// Two views of `n` images.
    /// Columns of a matrix.
    fn columns(x: &Tensor) -> Vec<Vec<f64>> {
        let x = x.detach().to_kind(Kind::Double);
        (0..x.size()[1]).map(|i| Vec::try_from(x.select(1, i).contiguous()).unwrap()).collect()
    }

    fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
        let n = x.len() as f64;
        x.sum::<f64>() / n
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_papers_on_its_own_projections() {
        let method = build(small()).unwrap();
        let (a, b) = method.project(&views(5), Mode::Train).unwrap();
        let loss = f64::try_from(method.loss(&a, &b).unwrap().total).unwrap();
        let (a, b) = (columns(&a), columns(&b));
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        let distance = pairs.map(|(x, y)| (x - y).powi(2)).sum::<f64>() / 30.;
        let covariance = |x: &[f64], y: &[f64]| {
            let (p, q) = (mean(x.iter().copied()), mean(y.iter().copied()));
            x.iter().zip(y).map(|(x, y)| (x - p) * (y - q)).sum::<f64>() / 4.
        };
        let lack = |x: &[Vec<f64>]| mean(x.iter().map(|x| (1. - (covariance(x, x) + 1e-4).sqrt()).max(0.)));
        let together = |all: &[Vec<f64>]| {
            let of = |i: usize| all.iter().enumerate().filter(move |(j, _)| *j != i);
            let one = |(i, x): (usize, &Vec<f64>)| of(i).map(|(_, y)| covariance(x, y).powi(2)).sum::<f64>();
            all.iter().enumerate().map(one).sum::<f64>() / 6.
        };
        let slow = 25. * distance + 25. * (lack(&a) + lack(&b)) / 2. + together(&a) + together(&b);
        assert!((loss - slow).abs() < 1e-4 * slow, "{loss} {slow}");
    }

    #[test]
    fn each_view_is_normalized_by_itself() {
        let (method, batch) = (build(small()).unwrap(), views(6));
        let (a, _) = method.project(&batch, Mode::Train).unwrap();
        let other = Views(vec![batch.0[0].shallow_clone(), &batch.0[1] * 3. + 1.]);
        let (again, _) = method.project(&other, Mode::Train).unwrap();
        assert!(a.equal(&again));
    }

    #[test]
    fn validation_changes_nothing_and_a_single_image_has_no_terms() {
        let method = build(small()).unwrap();
        let names = |n| -> Vec<String> {
            method.validate(&views(n)).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(1), ["retrieval"]);
        assert_eq!(names(5), ["retrieval", "loss", "invariance", "variance", "covariance", "spread"]);
        let same = |n| f64::try_from(&method.validate(&views(n)).unwrap()[1].1).unwrap();
        assert_eq!(same(5), same(5));
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_errors() {
        let mut method = build(small()).unwrap();
        let one = Views(views(4).0.into_iter().take(1).collect());
        let message = method.step(&one, Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: VICReg takes two, got 1");
        let message = build(Config { projection_dim: 0, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "projection_dim: expected at least 1, got 0");
        let weights = VicRegWeights { variance: -1., ..VicRegWeights::default() };
        let message = build(Config { weights, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "variance: expected a number of at least 0, got -1");
    }
}
