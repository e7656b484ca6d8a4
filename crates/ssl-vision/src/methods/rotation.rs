//! Rotation prediction (RotNet): by which quarter turn has an image been rotated?
//!
//! Source: Gidaris, Singh, Komodakis, 2018: <https://arxiv.org/abs/1803.07728>; all four rotations of an image are
//! in the batch, as in the official code (`gidariss/FeatureLearningRotNet`).
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::pretext::{classified, only, square};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Method, Metrics, Mode, Output, Result, Step, Views, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Rotation prediction's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The random view that is then rotated by 0, 90, 180 and 270 degrees.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config { augment: Augment::crop_and_flip(224) }
    }
}

/// An encoder and a classifier of four rotations.
#[derive(Debug)]
pub struct Rotation {
    vars: VarStore,
    encoder: Rc<Encoder>,
    classifier: Linear,
    config: Config,
}

impl Definition for Rotation {
    const INFO: Info = Info {
        name: "rotation",
        summary: "predict by which quarter turn an image was rotated",
        paper: "Gidaris, Singh, Komodakis",
        year: 2018,
        kind: "pretext",
        url: "https://arxiv.org/abs/1803.07728",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let classifier = Linear::new(&(vars.root() / "classifier"), encoder.dim(), 4)?;
        Ok(Rotation { vars, encoder, classifier, config })
    }
}

impl Rotation {
    /// Cross entropy and accuracy over the four rotations of every image.
    fn predict(&self, batch: &Views, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (rotated, target) = four_rotations(only(batch, Self::INFO.name)?)?;
        classified(&self.classifier.forward(&self.encoder.forward(&rotated, mode)?, mode)?, &target)
    }
}

/// Every image by 0, 90, 180 and 270 degrees counter-clockwise, and the number of quarter turns.
///
/// # Shapes
/// `x`: `[B, C, S, S]`; returns `[4B, C, S, S]`, all images by 0 first, and `[4B]`.
fn four_rotations(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, _, _) = square(x)?;
    let turned = (0..4).map(|k| x.f_rot90(k, [2, 3])).collect::<Result<Vec<_>, _>>()?;
    let target = Tensor::f_arange(4, (Kind::Int64, x.device()))?.f_repeat_interleave_self_int(n, None, None)?;
    Ok((Tensor::f_cat(&turned, 0)?, target))
}

impl Method for Rotation {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (loss, accuracy) = self.predict(batch, Mode::Train)?;
        Output::new(loss).with("accuracy", &accuracy)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let (loss, accuracy) = no_grad(|| self.predict(batch, Mode::Eval))?;
        Ok(vec![("loss".into(), loss), ("accuracy".into(), accuracy)])
    }

    fn look(&self, Views(views): &Views) -> Result<Vec<(String, Tensor)>> {
        let Some(x) = views.first() else { return Ok(Vec::new()) };
        let (turned, _) = four_rotations(x)?;
        let n = x.size().first().copied().unwrap_or(0);
        let row = |(k, name): (i64, &str)| Ok((name.to_string(), turned.f_narrow(0, k * n, n)?));
        (0..).zip(["0 degrees", "90 degrees", "180 degrees", "270 degrees"]).map(row).collect()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Rotation {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use ssl_core::check_method;
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn build() -> Result<Rotation> {
        Rotation::new(Config::default(), &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn pixels(n: i64, side: i64) -> Tensor {
        Tensor::arange(n * side * side, (Kind::Float, Device::Cpu)).sin().view([n, 1, side, side])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(8, 8), tempfile::tempdir().unwrap());
        check_method(build, &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn images_turn_counter_clockwise_and_targets_count_the_turns() {
        let x = Tensor::from_slice(&[1i64, 2, 3, 4, 5, 6, 7, 8]).view([2, 1, 2, 2]);
        let (turned, target) = four_rotations(&x).unwrap();
        assert_eq!(Vec::<i64>::try_from(&target).unwrap(), [0, 0, 1, 1, 2, 2, 3, 3]);
        let rows: Vec<Vec<i64>> = (0..8).map(|i| Vec::try_from(turned.get(i).reshape(-1)).unwrap()).collect();
        assert_eq!(rows[0], [1, 2, 3, 4]);
        assert_eq!(rows[2], [2, 4, 1, 3]);
        assert_eq!(rows[4], [4, 3, 2, 1]);
        assert_eq!(rows[7], [7, 5, 8, 6]);
    }

    #[test]
    fn an_untrained_classifier_of_equal_logits_has_the_loss_of_chance() {
        let method = build().unwrap();
        for (name, mut tensor) in method.vars.variables() {
            if name.starts_with("classifier") {
                let _ = no_grad(|| tensor.fill_(0.));
            }
        }
        let (loss, _) = method.predict(&Views(vec![pixels(4, 8)]), Mode::Eval).unwrap();
        assert!((f64::try_from(loss).unwrap() - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn an_image_that_is_not_square_is_an_error() {
        let message = four_rotations(&Tensor::zeros([1, 1, 2, 3], (Kind::Float, Device::Cpu))).unwrap_err();
        assert_eq!(message.to_string(), "images: expected [B, C, S, S], square, got [1, 1, 2, 3]");
    }
}
