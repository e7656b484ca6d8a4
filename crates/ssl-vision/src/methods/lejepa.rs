//! LeJEPA: all crops of an image have one embedding, and embeddings are distributed as an isotropic Gaussian.
//!
//! Source: Balestriero & LeCun, 2025: <https://arxiv.org/abs/2511.08544>; the official code (`rbalestr-lab/lejepa`,
//! `MINIMAL.md`, `lejepa/univariate/epps_pulley.py`), with the center of the large crops alone, as in the paper. There is
//! no teacher and no gradient that is stopped. Where this differs:
//!
//! - Small crops are of 96 pixels, which patches of 16 divide; the official ones are of 98, for patches of 14.
//! - On held-out images the directions are always the same, so that one run's checkpoints compare.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::crops::Crops;
use crate::projected::Projected;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::{SigReg, sigreg};
use ssl_core::nn::Projector;
use ssl_core::{Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// LeJEPA's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Weight of the distance to a Gaussian; that of the distance between crops is what is left to 1.
    pub lambda: f64,
    /// Directions along which normality is tested, drawn anew at each step.
    pub slices: i64,
    /// At which frequencies it is tested.
    pub sigreg: SigReg,
    /// Units of the two hidden layers of the projector.
    pub hidden_dim: i64,
    /// Dimension of the embeddings.
    pub projection_dim: i64,
    /// The crops; the center of the large ones is what all are drawn to.
    pub crops: Crops,
}

impl Default for Config {
    fn default() -> Self {
        let crop = |size, crop_scale| Augment {
            crop_scale,
            blur_probability: 0.5,
            solarize_probability: 0.2,
            ..Augment::simclr(size, 1.)
        };
        Config {
            lambda: 0.05,
            slices: 1024,
            sigreg: SigReg::default(),
            hidden_dim: 2048,
            projection_dim: 64,
            crops: Crops {
                large: crop(224, [0.3, 1.]),
                large_crops: 2,
                small: crop(96, [0.05, 0.3]),
                small_crops: 6,
            },
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        let sizes = (1., 1e9);
        check::ranges([
            ("lambda", self.lambda, (0., 1.)),
            ("slices", self.slices as f64, sizes),
            ("hidden_dim", self.hidden_dim as f64, sizes),
            ("projection_dim", self.projection_dim as f64, sizes),
        ])?;
        self.sigreg.validate()?;
        self.crops.validate()
    }
}

/// An encoder, a projector, and the directions of held-out images.
#[derive(Debug)]
pub struct LeJepa {
    vars: VarStore,
    fixed: VarStore,
    network: Projected,
    directions: Tensor,
    config: Config,
}

impl Definition for LeJepa {
    const INFO: Info = Info {
        name: "lejepa",
        summary: "one embedding for all crops, and a Gaussian for all embeddings",
        paper: "Balestriero, LeCun",
        year: 2025,
        kind: "redundancy",
        url: "https://arxiv.org/abs/2511.08544",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (vars, fixed) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let encoder = encoders.student(&vars)?;
        let (hidden, size) = (config.hidden_dim, [config.projection_dim, config.slices]);
        let network = Projected::new(encoder, |width| {
            let widths = [width, hidden, hidden, config.projection_dim];
            Projector::with_biases(&(vars.root() / "projector"), &widths)
        })?;
        let mut directions = fixed.root().f_zeros_no_train("directions", &size)?;
        directions.f_copy_(&draw(size, encoders.device())?)?;
        Ok(LeJepa { network, directions, vars, fixed, config })
    }
}

/// Directions from libtorch's generator, the columns of the matrix that is returned.
fn draw(size: [i64; 2], device: Device) -> Result<Tensor> {
    let x = Tensor::f_randn(size, (Kind::Float, device))?;
    Ok(x.f_div(&x.f_norm_scalaropt_dim(2, [0i64], true)?)?)
}

/// The mean squared distance between the embeddings of an image's crops and the center of its large ones.
///
/// # Shapes
/// `x`: `[V, B, D]`, large crops first; returns a scalar.
///
/// # Source
/// Balestriero & LeCun, 2025, section 5: <https://arxiv.org/abs/2511.08544>; equals lightly's `lejepa_invariance_loss`.
fn distance_to_center(x: &Tensor, large_crops: usize) -> Result<Tensor> {
    let center = x.f_narrow(0, 0, large_crops as i64)?.f_mean_dim([0i64].as_slice(), true, x.kind())?;
    Ok(x.f_sub(&center)?.f_square()?.f_mean(x.kind())?)
}

impl LeJepa {
    /// Embeddings `[V, B, D]` of all crops, in float32.
    fn embeddings(&self, batch: &Views, mode: Mode) -> Result<Tensor> {
        let crops = self.config.crops.check(batch, "LeJEPA")?;
        Ok(Tensor::f_stack(&self.network.project_crops(crops, mode)?, 0)?)
    }

    fn compare(&self, x: &Tensor, directions: &Tensor) -> Result<Output> {
        Precision::Fp32.scope(x.device(), || {
            let normality = sigreg(x, directions, self.config.sigreg)?;
            let invariance = distance_to_center(x, self.config.crops.large_crops)?;
            let loss = normality
                .f_mul_scalar(self.config.lambda)?
                .f_add(&invariance.f_mul_scalar(1. - self.config.lambda)?)?;
            Output::new(loss).with("sigreg", &normality)?.with("invariance", &invariance)
        })
    }
}

impl Method for LeJepa {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = self.embeddings(batch, Mode::Train)?;
        self.compare(&x, &draw([self.config.projection_dim, self.config.slices], x.device())?)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.network.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = self.embeddings(batch, Mode::Eval)?;
            let mut metrics = self.compare(&x, &self.directions)?.into_metrics();
            metrics.push(("retrieval".into(), retrieval(&x.f_get(0)?, &x.f_get(1)?)?));
            Ok(metrics)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        Ok(self.config.crops.named(batch))
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars), ("fixed".into(), &self.fixed)]
    }
}

impl VisionMethod for LeJepa {
    fn views(&self) -> Vec<Augment> {
        self.config.crops.views()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::EncoderConfig;
    use crate::crops::tests::batch;
    use ssl_core::{check_method, named_tensors};

    const RESNET: &str = r#"{"arch": "resnet10_w4", "stem": "cifar", "channels": 1}"#;
    const VIT: &str =
        r#"{"arch": "vit_d16_l2_h2", "image_size": 8, "patch_size": 4, "channels": 1, "drop_path": 0.2}"#;
    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        let d = Config::default();
        let crops = Crops { small_crops: 1, ..d.crops.clone() };
        Config { slices: 32, hidden_dim: 16, projection_dim: 4, crops, ..d }
    }

    fn build(config: Config, encoder: &str) -> Result<LeJepa> {
        let encoder: EncoderConfig = serde_json::from_str(encoder).unwrap();
        LeJepa::new(config, &Encoders::new(encoder, Device::Cpu))
    }

    fn crops(n: i64) -> Views {
        batch(n, &[8, 8, 4])
    }

    #[test]
    fn keeps_the_contract_with_a_resnet_and_with_a_transformer() {
        for encoder in [RESNET, VIT] {
            let (batch, scratch) = (crops(8), tempfile::tempdir().unwrap());
            check_method(|| build(small(), encoder), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn all_crops_are_drawn_to_the_center_of_the_large_ones() {
        // lejepa_invariance_loss(all_proj=torch.stack([A, B]), global_proj=A[None]) of lightly 1.6.0 in float64, with
        // A(n) = sin(0.37 n + 0.1) and B(n) = cos(0.53 n - 0.2) of shape [12, 16].
        let n = Tensor::arange(192, (Kind::Double, Device::Cpu));
        let x = Tensor::stack(&[(&n * 0.37 + 0.1).sin(), (n * 0.53 - 0.2).cos()], 0).view([2, 12, 16]);
        let found = distance_to_center(&x, 1).unwrap().double_value(&[]);
        assert!((found - 0.505_207_239_358_015_9).abs() < 1e-12, "{found}");
        // Of two large crops the center is between them.
        let found = distance_to_center(&x, 2).unwrap().double_value(&[]);
        let half = (x.get(0) - x.get(1)).square().mean(Kind::Double).double_value(&[]) / 4.;
        assert!((found - half).abs() < 1e-12, "{found} {half}");
    }

    #[test]
    fn the_loss_weighs_both_terms_over_all_crops() {
        for lambda in [0., 0.3, 1.] {
            let method = build(Config { lambda, ..small() }, RESNET).unwrap();
            let x = method.embeddings(&crops(6), Mode::Train).unwrap();
            assert_eq!(x.size(), [3, 6, 4]);
            let found = method.compare(&x, &method.directions).unwrap();
            let normality = sigreg(&x, &method.directions, SigReg::default()).unwrap().double_value(&[]);
            let invariance = distance_to_center(&x, 2).unwrap().double_value(&[]);
            let expected = lambda * normality + (1. - lambda) * invariance;
            assert!((found.loss.double_value(&[]) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn directions_are_of_unit_length_and_new_at_each_step() {
        let mut method = build(small(), RESNET).unwrap();
        let lengths = method.directions.norm_scalaropt_dim(2, [0i64], false);
        assert!(lengths.allclose(&lengths.ones_like(), 1e-6, 1e-6, false));
        let mut normality = |seed| {
            ssl_core::trainer::seed_torch(seed, 0);
            method.step(&crops(6), AT).unwrap().metrics[0].1.double_value(&[])
        };
        assert_eq!(normality(1), normality(1));
        assert_ne!(normality(1), normality(2));
    }

    #[test]
    fn validation_draws_and_changes_nothing_and_finds_equal_crops_again() {
        let method = build(small(), RESNET).unwrap();
        let x = crops(5).0;
        let same = Views(vec![x[0].copy(), x[0].copy(), x[2].copy()]);
        let found = || method.validate(&same).unwrap();
        let names: Vec<String> = found().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["loss", "sigreg", "invariance", "retrieval"]);
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let values = || found().iter().map(|(_, x)| x.double_value(&[])).collect::<Vec<_>>();
        assert_eq!(values(), values());
        assert_eq!(values()[3], 1.);
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
    }

    #[test]
    fn a_missing_crop_and_numbers_out_of_range_are_named() {
        let mut method = build(small(), RESNET).unwrap();
        let message = method.step(&batch(4, &[8, 8]), AT).unwrap_err().to_string();
        assert_eq!(message, "views: LeJEPA takes 3 with these crops, got 2");
        let message = build(Config { lambda: 2., ..small() }, RESNET).unwrap_err().to_string();
        assert_eq!(message, "lambda: expected 0 to 1, got 2");
        let sigreg = SigReg { knots: 0, ..SigReg::default() };
        let message = build(Config { sigreg, ..small() }, RESNET).unwrap_err().to_string();
        assert_eq!(message, "knots: expected at least 2, got 0");
    }
}
