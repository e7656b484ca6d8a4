//! SimSiam: predict what the same network makes of the image's other view, through which no gradient flows.
//!
//! Source: Chen, He, 2021: <https://arxiv.org/abs/2011.10566>; the official code (`facebookresearch/simsiam`,
//! `simsiam/builder.py` and `main_simsiam.py`). As there, each view passes the networks by itself, the projections end in
//! a batch norm without scale and shift, and the predictor's last layer has a bias. Where this differs from them:
//!
//! - The predictor's rate falls as all rates do. The official code can hold it constant, which gives 0.4 % more after 100
//!   epochs on ImageNet (table 1).
//! - The last batch norm of a residual block starts as any other, where the official one starts at zero.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::siamese::Online;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::{retrieval, spread};
use ssl_core::loss::negative_cosine;
use ssl_core::nn::{BatchNorm, Projector};
use ssl_core::{Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use tch::nn::VarStore;
use tch::Tensor;

/// SimSiam's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Layers of the projector: the paper's 3, or 2 as on CIFAR-10.
    pub projector_layers: i64,
    /// Hidden units of the projector; 0 takes the encoder's dimension, as the official code.
    pub hidden_dim: i64,
    /// Dimension in which prediction and projection are compared.
    pub projection_dim: i64,
    /// Hidden units of the predictor, a bottleneck.
    pub predictor_dim: i64,
    /// Whether what is predicted does not learn from it; without, all projections become one (section 4.1).
    pub stop_gradient: bool,
    /// The random view; each image gives two.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            projector_layers: 3,
            hidden_dim: 0,
            projection_dim: 2048,
            predictor_dim: 512,
            stop_gradient: true,
            augment: Augment { crop_scale: [0.2, 1.], ..Augment::simclr(224, 0.5) },
        }
    }
}

/// An encoder, a projector, and a predictor.
#[derive(Debug)]
pub struct SimSiam {
    online: Online,
    config: Config,
}

impl Definition for SimSiam {
    const INFO: Info = Info {
        name: "simsiam",
        summary: "predict the network's own projection of the image's other view",
        paper: "Chen, He",
        year: 2020,
        kind: "distillation",
        url: "https://arxiv.org/abs/2011.10566",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (layers, dim, bottleneck) =
            (config.projector_layers, config.projection_dim, config.predictor_dim);
        let sizes = [("projector_layers", layers), ("projection_dim", dim), ("predictor_dim", bottleneck)];
        check::at_least(1, sizes)?;
        check::at_least(0, [("hidden_dim", config.hidden_dim)])?;
        config.augment.validate()?;
        let online = Online::new(
            encoders,
            dim,
            &|p, width| {
                let hidden = if config.hidden_dim == 0 { width } else { config.hidden_dim };
                let widths = [vec![width], vec![hidden; layers as usize - 1], vec![dim]].concat();
                Projector::with_output_norm(p, &widths, BatchNorm::without_affine)
            },
            &|p, width| Projector::with_output_bias(p, &[width, bottleneck, width]),
        )?;
        Ok(SimSiam { online, config })
    }
}

impl SimSiam {
    /// The loss, projections of the first view, and predictions from the second.
    fn regress(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor, Tensor)> {
        let [a, b] = batch.exactly("SimSiam")?;
        let ((z_a, from_a), (z_b, from_b)) = (self.online.pass(a, mode)?, self.online.pass(b, mode)?);
        let (z_a, z_b) =
            if self.config.stop_gradient { (z_a.f_detach()?, z_b.f_detach()?) } else { (z_a, z_b) };
        let loss = Precision::Fp32.scope(a.device(), || {
            let both = negative_cosine(&from_a, &z_b)?.f_add(&negative_cosine(&from_b, &z_a)?)?;
            Ok(both.f_div_scalar(2.)?)
        })?;
        Ok((loss, z_a, from_b))
    }
}

impl Method for SimSiam {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (loss, projection, _) = self.regress(batch, Mode::Train)?;
        Output::new(loss).with("spread", &spread(&projection)?)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.online.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.online.network.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let (loss, projection, prediction) = self.regress(batch, Mode::Eval)?;
            // At chance when the network has collapsed, while the loss is then at its best.
            let found = retrieval(&prediction, &projection)?;
            Ok(vec![
                ("loss".into(), loss),
                ("retrieval".into(), found),
                ("spread".into(), spread(&projection)?),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.online.vars)]
    }
}

impl VisionMethod for SimSiam {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::{rows, views};
    use ssl_core::check_method;
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        Config { projection_dim: 12, predictor_dim: 6, ..Config::default() }
    }

    fn build(config: Config) -> Result<SimSiam> {
        SimSiam::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_half_the_sum_of_both_negative_cosines() {
        let mut method = build(small()).unwrap();
        let batch = views(5);
        let pass = |x: &Tensor| method.online.pass(x, Mode::Train).unwrap();
        let ((z_a, from_a), (z_b, from_b)) = (pass(&batch.0[0]), pass(&batch.0[1]));
        let cosine = |x: &Tensor, y: &Tensor| {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
            let pairs = rows(x).into_iter().zip(rows(y));
            pairs.map(|(x, y)| dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()).sum::<f64>() / 5.
        };
        let slow = -(cosine(&from_a, &z_b) + cosine(&from_b, &z_a)) / 2.;
        let loss = f64::try_from(method.step(&batch, AT).unwrap().loss).unwrap();
        assert!((loss - slow).abs() < 1e-5 && slow.abs() > 0.01, "{loss} {slow}");
    }

    #[test]
    fn no_gradient_flows_through_what_is_predicted() {
        let mut method = build(small()).unwrap();
        let (batch, weight) =
            (views(6), method.online.vars.variables()["projector.0.weight"].shallow_clone());
        method.step(&batch, AT).unwrap().loss.backward();
        let found = weight.grad().copy();
        let mut weight = weight;
        weight.zero_grad();
        // The same with targets that were computed beforehand.
        let [z_a, z_b] = [0, 1].map(|i| method.online.pass(&batch.0[i], Mode::Train).unwrap().0.detach());
        let [p_a, p_b] = [0, 1].map(|i| method.online.pass(&batch.0[i], Mode::Train).unwrap().1);
        let loss = negative_cosine(&p_a, &z_b).unwrap() + negative_cosine(&p_b, &z_a).unwrap();
        (loss / 2).backward();
        assert!(found.allclose(&weight.grad(), 1e-4, 1e-6, false));
        assert!(found.abs().max().double_value(&[]) > 1e-4);
        let mut open = build(Config { stop_gradient: false, ..small() }).unwrap();
        open.online.vars.copy(&method.online.vars).unwrap();
        open.step(&batch, AT).unwrap().loss.backward();
        let through = open.online.vars.variables()["projector.0.weight"].grad();
        assert!(!found.allclose(&through, 1e-2, 1e-4, false), "without it, gradients flow both ways");
    }

    #[test]
    fn projections_have_mean_0_and_deviation_1_over_the_batch_of_their_own_view() {
        let method = build(small()).unwrap();
        for view in views(8).0 {
            let (z, _) = method.online.pass(&view, Mode::Train).unwrap();
            let (var, mean) = z.var_mean_dim([0i64].as_slice(), false, false);
            assert!(mean.abs().max().double_value(&[]) < 1e-5);
            assert!((var - 1.).abs().max().double_value(&[]) < 0.02);
        }
        let names = method.online.vars.variables();
        assert!(!names.contains_key("projector.7.weight") && names.contains_key("projector.7.running_mean"));
        assert_eq!(names["predictor.3.bias"].size(), [12]);
    }

    #[test]
    fn validation_says_whether_other_views_are_found_again() {
        let method = build(Config { projector_layers: 2, hidden_dim: 8, ..small() }).unwrap();
        assert_eq!(method.online.vars.variables()["projector.3.weight"].size(), [12, 8]);
        let found = method.validate(&views(6)).unwrap();
        let values: Vec<(&str, f64)> =
            found.iter().map(|(name, value)| (name.as_str(), f64::try_from(value).unwrap())).collect();
        assert!(values[0].0 == "loss" && (-1. ..=1.).contains(&values[0].1), "{values:?}");
        assert!(values[1].0 == "retrieval" && (0. ..=1.).contains(&values[1].1), "{values:?}");
        assert!(values[2].0 == "spread" && values[2].1 > 0., "{values:?}");
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_errors() {
        let message = build(Config { projector_layers: 0, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "projector_layers: expected at least 1, got 0");
        let mut method = build(small()).unwrap();
        let one = Views(views(4).0.into_iter().take(1).collect());
        let message = method.step(&one, AT).unwrap_err().to_string();
        assert_eq!(message, "views: SimSiam takes two, got 1");
    }
}
