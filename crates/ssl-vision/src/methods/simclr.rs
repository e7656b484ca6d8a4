//! SimCLR: two views of an image are drawn together, away from every other image of the batch.
//!
//! Source: Chen et al., 2020: <https://arxiv.org/abs/2002.05709>; the projection head follows the official code
//! (`google-research/simclr`, `model_util.py`), which normalizes both its layers over the batch, against the text,
//! which has no batch norm; it has the paper's two layers, not the three that the code took for SimCLR v2. The losses `dcl`
//! and `dclw` are those of Yeh et al., 2022: <https://arxiv.org/abs/2110.06848>.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::{alignment, retrieval, uniformity};
use ssl_core::loss::{dcl, dclw, nt_xent};
use ssl_core::nn::{BatchNorm, Module, Projector};
use ssl_core::{Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// What compares the two views of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// SimCLR's cross-entropy: a view picks the other view of its image among all views.
    #[default]
    NtXent,
    /// The other view is not among those that a view is pushed away from, so that small batches suffice.
    Dcl,
    /// As `dcl`; pairs that are far apart are pulled harder.
    Dclw,
}

/// SimCLR's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// nt_xent, or dcl or dclw, which need a batch of two images at least.
    pub loss: Loss,
    /// Divides the similarities; small values weigh the hardest negatives most.
    pub temperature: f64,
    /// Divides the similarities in the weights of dclw; small values weigh the nearest pairs least.
    pub sigma: f64,
    /// Hidden units of the projection head; 0 takes the encoder's dimension, as the paper.
    pub hidden_dim: i64,
    /// Dimension in which views are compared.
    pub projection_dim: i64,
    /// Whether projections are normalized over the batch, with a scale and no shift, as in the official code.
    pub output_norm: bool,
    /// The random view; each image gives two.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            loss: Loss::NtXent,
            temperature: 0.1,
            sigma: 0.5,
            hidden_dim: 0,
            projection_dim: 128,
            output_norm: true,
            augment: Augment::simclr(224, 1.0),
        }
    }
}

/// An encoder and a projection head that is thrown away after training.
#[derive(Debug)]
pub struct SimClr {
    vars: VarStore,
    encoder: Rc<Encoder>,
    projector: Projector,
    config: Config,
}

impl Definition for SimClr {
    const INFO: Info = Info {
        name: "simclr",
        summary: "contrast two views of each image with the rest of the batch",
        paper: "Chen, Kornblith, Norouzi, Hinton",
        year: 2020,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2002.05709",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::positive("temperature", config.temperature)?;
        check::positive("sigma", config.sigma)?;
        check::at_least(0, [("hidden_dim", config.hidden_dim)])?;
        check::at_least(1, [("projection_dim", config.projection_dim)])?;
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let (encoder, head) = (encoders.student(&vars)?, vars.root() / "projector");
        let dim = encoder.dim();
        let width = if config.hidden_dim == 0 { dim } else { config.hidden_dim };
        let widths = [dim, width, config.projection_dim];
        let projector = match config.output_norm {
            true => Projector::with_output_norm(&head, &widths, BatchNorm::without_shift)?,
            false => Projector::new(&head, &widths)?,
        };
        Ok(SimClr { vars, encoder, projector, config })
    }
}

impl SimClr {
    /// Projections of the views, which pass the networks together, so that batch statistics are shared.
    fn project(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [a, b] = batch.exactly("SimCLR")?;
        let h = self.encoder.forward(&Tensor::f_cat(&[a, b], 0)?, mode)?;
        let z = self.projector.forward(&h, mode)?.f_to_kind(Kind::Float)?;
        let n = a.size().first().copied().unwrap_or(0);
        Ok((z.f_narrow(0, 0, n)?, z.f_narrow(0, n, n)?))
    }

    fn loss(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let temperature = self.config.temperature;
        Precision::Fp32.scope(a.device(), || match self.config.loss {
            Loss::NtXent => nt_xent(a, b, temperature),
            Loss::Dcl => dcl(a, b, temperature),
            Loss::Dclw => dclw(a, b, temperature, self.config.sigma),
        })
    }
}

impl Method for SimClr {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (a, b) = self.project(batch, Mode::Train)?;
        Ok(Output::new(self.loss(&a, &b)?))
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
            found.push(("alignment".into(), Tensor::from(alignment(&a, &b)?)));
            // Of a single image there are no two to be apart.
            if a.size().first().is_some_and(|&n| n > 1) {
                found.insert(0, ("loss".into(), self.loss(&a, &b)?));
                found.push(("uniformity".into(), Tensor::from((uniformity(&a)? + uniformity(&b)?) / 2.)));
            }
            Ok(found)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for SimClr {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use serde_json::json;
    use ssl_core::check_method;
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn build(config: Config) -> Result<SimClr> {
        SimClr::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn views(n: i64) -> Views {
        let x = Tensor::arange(n * 64, (Kind::Float, Device::Cpu)).sin().view([n, 1, 8, 8]);
        let noise = Tensor::arange(n * 64, (Kind::Float, Device::Cpu)).square().cos().view([n, 1, 8, 8]);
        Views(vec![&x + 0.1 * &noise, x - 0.1 * noise])
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
        check_method(|| build(Config::default()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_the_paper_on_its_own_projections() {
        let method = build(Config { temperature: 0.5, ..Config::default() }).unwrap();
        let (a, b) = method.project(&views(5), Mode::Train).unwrap();
        let loss = f64::try_from(method.loss(&a, &b).unwrap()).unwrap();
        let z: Vec<Vec<f64>> = [a, b]
            .iter()
            .flat_map(|x| (0..5).map(|i| Vec::<f64>::try_from(x.get(i)).unwrap()).collect::<Vec<_>>())
            .collect();
        let similarity = |i: usize, j: usize| {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
            dot(&z[i], &z[j]) / (dot(&z[i], &z[i]) * dot(&z[j], &z[j])).sqrt() / 0.5
        };
        let one = |i: usize| {
            let others: f64 = (0..10).filter(|&j| j != i).map(|j| similarity(i, j).exp()).sum();
            others.ln() - similarity(i, (i + 5) % 10)
        };
        let slow = (0..10).map(one).sum::<f64>() / 10.;
        assert!((loss - slow).abs() < 1e-5, "{loss} {slow}");
    }

    #[test]
    fn the_loss_is_the_one_that_was_chosen_by_its_name() {
        type Compare = fn(&Tensor, &Tensor) -> Result<Tensor>;
        let losses: [(&str, Compare); 3] = [
            ("nt_xent", |a, b| nt_xent(a, b, 0.2)),
            ("dcl", |a, b| dcl(a, b, 0.2)),
            ("dclw", |a, b| dclw(a, b, 0.2, 0.3)),
        ];
        for (name, loss) in losses {
            let config = json!({"loss": name, "temperature": 0.2, "sigma": 0.3});
            let mut method = build(serde_json::from_value(config).unwrap()).unwrap();
            let (a, b) = method.project(&views(6), Mode::Train).unwrap();
            let found = method.step(&views(6), Step { index: 0, total: 1 }).unwrap().loss;
            assert!(found.allclose(&loss(&a, &b).unwrap(), 1e-5, 1e-6, false), "{name}");
        }
    }

    #[test]
    fn the_decoupled_losses_keep_the_contract() {
        for loss in [Loss::Dcl, Loss::Dclw] {
            let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
            let build = || build(Config { loss, ..Config::default() });
            check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn projections_are_normalized_over_both_views_unless_told_otherwise() {
        let spread = |output_norm| {
            let method = build(Config { output_norm, ..Config::default() }).unwrap();
            assert_eq!(method.vars.variables().contains_key("projector.4.weight"), output_norm);
            assert!(!method.vars.variables().contains_key("projector.4.bias"));
            let (a, b) = method.project(&views(8), Mode::Train).unwrap();
            let (var, mean) = Tensor::cat(&[a, b], 0).var_mean_dim([0i64].as_slice(), false, false);
            [mean.abs(), (var - 1.).abs()].map(|gap| f64::try_from(gap.max()).unwrap())
        };
        let [mean, var] = spread(true);
        assert!(mean < 1e-5 && var < 0.01, "{mean} {var}");
        let [mean, var] = spread(false);
        assert!(mean > 1e-3 && var > 0.01, "{mean} {var}");
    }

    #[test]
    fn equal_views_are_found_again_and_aligned() {
        let method = build(Config::default()).unwrap();
        let x = views(6).0.remove(0);
        let found = method.validate(&Views(vec![x.shallow_clone(), x])).unwrap();
        let values: Vec<(&str, f64)> =
            found.iter().map(|(name, value)| (name.as_str(), f64::try_from(value).unwrap())).collect();
        assert_eq!(values[1], ("retrieval", 1.));
        assert!(values[2].0 == "alignment" && values[2].1.abs() < 1e-6, "{values:?}");
        assert!(values[3].0 == "uniformity" && values[3].1 < 0., "{values:?}");
        let one = views(1).0.remove(0);
        let names: Vec<_> = method.validate(&Views(vec![one.shallow_clone(), one])).unwrap();
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn one_view_or_a_temperature_of_zero_are_errors() {
        let message = build(Config { temperature: 0., ..Config::default() }).unwrap_err().to_string();
        assert_eq!(message, "temperature: expected a number above 0, got 0");
        let mut method = build(Config::default()).unwrap();
        let one = Views(views(4).0.into_iter().take(1).collect());
        let message = method.step(&one, Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: SimCLR takes two, got 1");
    }
}
