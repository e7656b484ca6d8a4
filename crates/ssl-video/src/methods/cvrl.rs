//! CVRL: two clips of a video, near each other in time, find each other among those of all videos of the batch.
//!
//! Source: Qian et al., 2021: <https://arxiv.org/abs/2008.03800>; its augmentation, the same for all frames of a clip,
//! is [`Augment::cvrl`], its draw of clips [`Place::Near`]. The head has a batch norm after its hidden layer, as
//! SimCLR's, of which the paper says nothing.
use super::{Definition, Info, VideoMethod, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, clips};
use crate::place::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::{alignment, retrieval, uniformity};
use ssl_core::loss::nt_xent;
use ssl_core::nn::{Module, Projector};
use ssl_core::{Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// CVRL's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Divides the similarities.
    pub temperature: f64,
    /// Hidden units of the projection head.
    pub hidden_dim: i64,
    /// Dimension in which clips are compared.
    pub projection_dim: i64,
    /// Seconds at which the chance of a gap between the two clips has fallen to 0; the paper's videos have 10.
    pub reach: f64,
    /// The clip; each video gives two.
    pub view: View,
}

impl Default for Config {
    fn default() -> Self {
        let view = View::new(16, 2, Augment::cvrl(224));
        Config { temperature: 0.1, hidden_dim: 2048, projection_dim: 128, reach: 10., view }
    }
}

/// An encoder and a projection head.
#[derive(Debug)]
pub struct Cvrl {
    vars: VarStore,
    encoder: Rc<Encoder>,
    projector: Projector,
    config: Config,
}

impl Definition for Cvrl {
    const INFO: Info = Info {
        name: "cvrl",
        summary: "contrast two clips of each video with those of other videos",
        paper: "Qian, Meng, Gong, Yang, Wang, Belongie, Cui",
        year: 2021,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2008.03800",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::positive("temperature", config.temperature)?;
        let widths = [("hidden_dim", config.hidden_dim), ("projection_dim", config.projection_dim)];
        check::ranges(widths.map(|(name, value)| (name, value, (1, 1 << 16))))?;
        Place::Near(config.reach).validate()?;
        config.view.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let widths = [encoder.dim(), config.hidden_dim, config.projection_dim];
        let projector = Projector::new(&(vars.root() / "projector"), &widths)?;
        Ok(Cvrl { vars, encoder, projector, config })
    }
}

impl Cvrl {
    /// Projections of both clips, which pass the networks together, so that batch statistics are shared.
    fn project(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [a, b] = views(batch, Self::INFO.name)?;
        let [n, ..] = clips(a, a.size().get(1).copied().unwrap_or(0))?;
        let h = self.encoder.forward(&Tensor::f_cat(&[a, b], 0)?, mode)?;
        let z = self.projector.forward(&h, mode)?.f_to_kind(Kind::Float)?;
        Ok((z.f_narrow(0, 0, n)?, z.f_narrow(0, n, n)?))
    }

    fn loss(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Precision::Fp32.scope(a.device(), || nt_xent(a, b, self.config.temperature))
    }
}

impl Method for Cvrl {
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
            let n = a.size().first().copied().unwrap_or(0);
            let mut found = vec![("loss".into(), self.loss(&a, &b)?), ("retrieval".into(), retrieval(&a, &b)?)];
            found.push(("chance".into(), Tensor::from(1. / n.max(1) as f32)));
            found.push(("alignment".into(), Tensor::from(alignment(&a, &b)?)));
            // Of a single video there are no two to be apart.
            if n > 1 {
                found.push(("uniformity".into(), Tensor::from((uniformity(&a)? + uniformity(&b)?) / 2.)));
            }
            Ok(found)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [a, b] = views(batch, Self::INFO.name)?;
        Ok(vec![("first clip".into(), a.shallow_clone()), ("second clip".into(), b.shallow_clone())])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for Cvrl {
    fn views(&self) -> Vec<View> {
        vec![self.config.view.clone(), self.config.view.clone()]
    }

    fn place(&self) -> Option<Place> {
        Some(Place::Near(self.config.reach))
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
        Config { hidden_dim: 16, projection_dim: 8, ..Config::default() }
    }

    fn build(config: Config) -> Result<Cvrl> {
        Cvrl::new(config, &encoders("r3d10_w4", 4))
    }

    fn pairs(n: i64) -> Views {
        let x = clips(n, 6);
        Views(vec![x.narrow(2, 0, 4), x.narrow(2, 2, 4)])
    }

    #[test]
    fn it_keeps_the_contract() {
        let (batch, scratch) = (pairs(8), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_the_paper_on_its_own_projections() {
        let method = build(small()).unwrap();
        let (a, b) = method.project(&pairs(5), Mode::Eval).unwrap();
        let z: Vec<Vec<f64>> = [&a, &b]
            .iter()
            .flat_map(|x| (0..5).map(|i| Vec::<f64>::try_from(x.get(i)).unwrap()).collect::<Vec<_>>())
            .collect();
        let similarity = |i: usize, j: usize| {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
            dot(&z[i], &z[j]) / (dot(&z[i], &z[i]) * dot(&z[j], &z[j])).sqrt() / 0.1
        };
        let one = |i: usize| {
            let others: f64 = (0..10).filter(|&j| j != i).map(|j| similarity(i, j).exp()).sum();
            others.ln() - similarity(i, (i + 5) % 10)
        };
        let slow = (0..10).map(one).sum::<f64>() / 10.;
        let found = method.validate(&pairs(5)).unwrap();
        assert!((found[0].1.double_value(&[]) - slow).abs() < 1e-4, "{found:?} {slow}");
        assert!((found[2].1.double_value(&[]) - 0.2).abs() < 1e-6);
        let same = clips(5, 4);
        let found = method.validate(&Views(vec![same.shallow_clone(), same])).unwrap();
        assert_eq!(found[1].1.double_value(&[]), 1.);
    }

    #[test]
    fn clips_lie_near_each_other_and_faults_are_named() {
        let method = build(small()).unwrap();
        assert_eq!((method.place(), method.views().len()), (Some(Place::Near(10.)), 2));
        let message = |config: Config| build(config).unwrap_err().to_string();
        assert_eq!(message(Config { temperature: 0., ..small() }), "temperature: expected a number above 0, got 0");
        assert!(message(Config { reach: -1., ..small() }).starts_with("place: expected"));
        let message = method.validate(&Views(vec![clips(2, 4)])).unwrap_err().to_string();
        assert_eq!(message, "views: cvrl takes 2, got 1");
    }
}
