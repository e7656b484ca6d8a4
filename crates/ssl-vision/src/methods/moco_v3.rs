//! MoCo v3: a prediction from one view picks its image's other view among those of the batch, as a slow copy sees them.
//!
//! Source: Chen, Xie, He, 2021: <https://arxiv.org/abs/2104.02057>; the official code (`facebookresearch/moco-v3`,
//! `moco/builder.py`, `vits.py` and `main_moco.py`). The defaults are those for Vision Transformers; for a ResNet-50
//! they are a temperature of 1 and crops of 0.2 and more. As in the code, a Vision Transformer has three layers in its
//! projector and a batch norm at the end of its predictor, a ResNet two and none, and each view passes the networks by
//! itself. Where this differs from them:
//!
//! - The target network follows after the optimizer's step and not before its own forward pass. Both start equal, so
//!   that the sequence of target networks is the same.
//! - The projection of patches starts as PyTorch's convolutions, and other layers as timm's, where the code draws all from
//!   Glorot's uniform distribution. Positions are those of the encoder, the paper's are sines and cosines, and `vit_small`
//!   has timm's 6 heads where the paper's has 12.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, EncoderConfig, Encoders};
use crate::siamese::{Online, OnlineTarget};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::info_nce_in_batch;
use ssl_core::nn::{BatchNorm, Projector};
use ssl_core::schedule::End;
use ssl_core::{Method, Metrics, Mode, Output, Result, Schedule, Step, Views, check, no_grad};
use tch::Tensor;
use tch::nn::{Path, VarStore};

/// MoCo v3's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Divides the similarities.
    pub temperature: f64,
    /// Hidden units of the projector and of the predictor.
    pub hidden_dim: i64,
    /// Dimension in which prediction and target are compared.
    pub projection_dim: i64,
    /// What the target network keeps of itself at each step.
    pub momentum: Schedule,
    /// Whether a Vision Transformer's projection of patches stays random, which keeps training stable; fine-tuning leaves
    /// it so.
    pub freeze_patches: bool,
    /// The random view that comes first.
    pub first_view: Augment,
    /// The random view that comes second.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let [first_view, second_view] = Augment::byol(224);
        Config {
            temperature: 0.2,
            hidden_dim: 4096,
            projection_dim: 256,
            momentum: Schedule::cosine(0.99, 1.).reached(End::AfterLastStep),
            freeze_patches: true,
            first_view,
            second_view,
        }
    }
}

/// An online network with a predictor, and a target network that is the online one's moving average.
#[derive(Debug)]
pub struct MoCoV3 {
    networks: OnlineTarget,
    config: Config,
}

impl Definition for MoCoV3 {
    const INFO: Info = Info {
        name: "moco_v3",
        summary: "contrast predictions with a slow copy's projections of the batch",
        paper: "Chen, Xie, He",
        year: 2021,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2104.02057",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::positive("temperature", config.temperature)?;
        let (hidden, dim) = (config.hidden_dim, config.projection_dim);
        check::at_least(1, [("hidden_dim", hidden), ("projection_dim", dim)])?;
        check::fractions("momentum", &config.momentum)?;
        config.first_view.validate()?;
        config.second_view.validate()?;
        let is_vit = matches!(encoders.config(), EncoderConfig::Vit(_));
        let normed = |p: &Path, widths: &[i64]| {
            Projector::with_output_norm(p, widths, BatchNorm::without_affine)
        };
        let projector = |p: &Path, width: i64| match is_vit {
            true => normed(p, &[width, hidden, hidden, dim]),
            false => normed(p, &[width, hidden, dim]),
        };
        let predictor = |p: &Path, width: i64| match is_vit {
            true => normed(p, &[width, hidden, width]),
            false => Projector::new(p, &[width, hidden, width]),
        };
        let online = Online::new(encoders, dim, &projector, &predictor)?;
        if config.freeze_patches {
            freeze_patches(&online.vars)?;
        }
        Ok(MoCoV3 { networks: OnlineTarget::new(encoders, online, &projector)?, config })
    }
}

/// Takes the projection of patches out of what is trained.
fn freeze_patches(vars: &VarStore) -> Result<()> {
    for (name, variable) in vars.variables() {
        if name.starts_with("encoder.patch_embed.") {
            let _ = variable.f_set_requires_grad(false)?;
        }
    }
    Ok(())
}

impl MoCoV3 {
    /// The loss, predictions from the first view, and targets of the second.
    fn contrast(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor, Tensor)> {
        let temperature = self.config.temperature;
        let contrast = |prediction: &Tensor, target: &Tensor| info_nce_in_batch(prediction, target, temperature);
        let (both, from_a, of_b) = self.networks.both_ways(batch.exactly("MoCo v3")?, mode, contrast)?;
        // Keeps the size of the gradient whatever the temperature.
        Ok((both.f_mul_scalar(2. * temperature)?, from_a, of_b))
    }
}

impl Method for MoCoV3 {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (loss, ..) = self.contrast(batch, Mode::Train)?;
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
            let (loss, prediction, target) = self.contrast(batch, Mode::Eval)?;
            Ok(vec![("loss".into(), loss), ("retrieval".into(), retrieval(&prediction, &target)?)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        self.networks.stores()
    }
}

impl VisionMethod for MoCoV3 {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{rows, views};
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const AT: Step = Step { index: 0, total: 10 };
    const RESNET: &str = r#"{"arch": "resnet10_w4", "stem": "cifar", "channels": 1}"#;
    const VIT: &str = r#"{"arch": "vit_d16_l2_h2", "image_size": 8, "patch_size": 4, "channels": 1,
        "positions": "sincos"}"#;

    fn small() -> Config {
        Config { hidden_dim: 24, projection_dim: 12, ..Config::default() }
    }

    fn build(config: Config, encoder: &str) -> Result<MoCoV3> {
        let encoder: EncoderConfig = serde_json::from_str(encoder).unwrap();
        MoCoV3::new(config, &Encoders::new(encoder, Device::Cpu))
    }

    #[test]
    fn keeps_the_contract_with_a_resnet_and_with_a_transformer() {
        for encoder in [RESNET, VIT] {
            let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
            check_method(|| build(small(), encoder), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_loss_is_twice_the_temperature_times_both_cross_entropies() {
        let mut method = build(small(), VIT).unwrap();
        let batch = views(5);
        let [(from_a, of_a), (from_b, of_b)] = [0, 1].map(|i| {
            let (prediction, target) = method.networks.pass(&batch.0[i], Mode::Train).unwrap();
            (rows(&prediction), rows(&target))
        });
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
        let logit = |x: &[f64], y: &[f64]| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt() / 0.2;
        let one = |x: &[f64], own: usize, targets: &[Vec<f64>]| {
            targets.iter().map(|y| logit(x, y).exp()).sum::<f64>().ln() - logit(x, &targets[own])
        };
        let sum = (0..5).map(|i| one(&from_a[i], i, &of_b) + one(&from_b[i], i, &of_a)).sum::<f64>();
        let slow = 0.4 * sum / 5.;
        let loss = f64::try_from(method.step(&batch, AT).unwrap().loss).unwrap();
        assert!((loss - slow).abs() < 1e-4, "{loss} {slow}");
    }

    #[test]
    fn heads_are_those_of_the_official_code_for_each_kind_of_encoder() {
        let names = |encoder| build(small(), encoder).unwrap().networks.online.vars.variables();
        let (vit, resnet) = (names(VIT), names(RESNET));
        let has = |names: &std::collections::HashMap<String, Tensor>| {
            ["projector.6.weight", "projector.7.running_mean", "projector.4.running_mean", "predictor.4.running_mean"]
                .map(|name| names.contains_key(name))
        };
        assert_eq!((has(&vit), has(&resnet)), ([true; 4], [false, false, true, false]));
        assert!(!vit.contains_key("projector.7.weight") && !vit.contains_key("predictor.3.bias"));
    }

    #[test]
    fn the_projection_of_patches_is_trained_only_when_it_is_not_frozen() {
        for freeze_patches in [true, false] {
            let mut method = build(Config { freeze_patches, ..small() }, VIT).unwrap();
            let variables = method.networks.online.vars.variables();
            let weight = &variables["encoder.patch_embed.proj.weight"];
            method.step(&views(4), AT).unwrap().loss.backward();
            assert_eq!(weight.requires_grad(), !freeze_patches);
            assert_eq!(weight.grad().defined(), !freeze_patches);
            assert_eq!(variables["encoder.patch_embed.proj.bias"].requires_grad(), !freeze_patches);
            assert!(variables["encoder.blocks.0.attn.qkv.weight"].grad().defined());
            // The target has the same, since it started as a copy.
            assert!(method.networks.teacher.variables()["encoder.patch_embed.proj.weight"].equal(weight));
        }
    }

    #[test]
    fn the_target_gets_no_gradient_and_follows_by_the_momentum() {
        let momentum = Schedule::cosine(0.9, 1.).reached(End::AfterLastStep);
        let mut method = build(Config { momentum, ..small() }, VIT).unwrap();
        let tensors = named_tensors(&method);
        method.step(&views(4), AT).unwrap().loss.backward();
        assert!(tensors.iter().all(|(name, x)| name.starts_with("student/") || !x.grad().defined()));
        let name = "projector.0.weight";
        let student = method.networks.online.vars.variables()[name].shallow_clone();
        let _ = no_grad(|| student.shallow_clone().f_add_scalar_(1.).unwrap());
        for (index, kept) in [(0, 0.9), (5, 0.95), (10, 1.)] {
            let before = method.networks.teacher.variables()[name].copy();
            method.after_step(Step { index, total: 10 }).unwrap();
            let expected = before * kept + &student * (1. - kept);
            let found = method.networks.teacher.variables()[name].shallow_clone();
            assert!(found.allclose(&expected, 1e-5, 1e-6, false), "step {index}");
        }
    }

    #[test]
    fn validation_changes_nothing_and_says_whether_other_views_are_found_again() {
        let method = build(small(), VIT).unwrap();
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let found = method.validate(&views(6)).unwrap();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        let values: Vec<(&str, f64)> =
            found.iter().map(|(name, value)| (name.as_str(), f64::try_from(value).unwrap())).collect();
        assert!(values[0].0 == "loss" && values[0].1 > 0., "{values:?}");
        assert!(values[1].0 == "retrieval" && (0. ..=1.).contains(&values[1].1), "{values:?}");
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_errors() {
        let message = build(Config { hidden_dim: 0, ..small() }, VIT).unwrap_err().to_string();
        assert_eq!(message, "hidden_dim: expected at least 1, got 0");
        let message = build(Config { temperature: 0., ..small() }, VIT).unwrap_err().to_string();
        assert_eq!(message, "temperature: expected a number above 0, got 0");
        let mut method = build(small(), VIT).unwrap();
        let one = Views(views(4).0.into_iter().take(1).collect());
        let message = method.step(&one, AT).unwrap_err().to_string();
        assert_eq!(message, "views: MoCo v3 takes two, got 1");
    }
}
