//! Alignment and uniformity: the views of an image come together, all images spread over the sphere.
//!
//! Source: Wang & Isola, 2020, sections 4.1.1 and 4.1.2: <https://arxiv.org/abs/2005.10242>; weights and exponents are
//! the defaults of the official code (`SsnL/align_uniform`). The projection is one linear layer here.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module, l2_normalize};
use ssl_core::{Error, Method, Mode, Output, Precision, Result, Step, Views};
use ssl_vision::Augment;
use ssl_vision::backbones::{Backbone, Encoder, Encoders};
use ssl_vision::methods::{Definition, Info, VisionMethod};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The method's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Factor of the alignment.
    pub alignment_weight: f64,
    /// Factor of the uniformity.
    pub uniformity_weight: f64,
    /// Dimension in which views are compared.
    pub projection_dim: i64,
    /// The random view; each image gives two.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment::simclr(64, 0.5);
        Config { alignment_weight: 1., uniformity_weight: 1., projection_dim: 128, augment }
    }
}

/// Mean squared distance between the two views of an image.
///
/// # Shapes
/// `a`, `b`: `[B, D]` of unit length; returns a scalar.
///
/// # Source
/// Wang & Isola, 2020, section 4.1.1, exponent 2: <https://arxiv.org/abs/2005.10242>.
pub fn alignment_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_sub(b)?.f_square()?.f_sum_dim_intlist(-1, false, None)?.f_mean(None)?)
}

/// Logarithm of the mean Gaussian potential over all pairs of rows.
///
/// # Shapes
/// `x`: `[B, D]` of unit length, two rows at least; returns a scalar.
///
/// # Source
/// Wang & Isola, 2020, section 4.1.2, t = 2: <https://arxiv.org/abs/2005.10242>.
pub fn uniformity_loss(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_pdist(2.)?.f_square()?.f_mul_scalar(-2.)?.f_exp()?.f_mean(None)?.f_log()?)
}

/// An encoder and a projection that is thrown away after training.
#[derive(Debug)]
pub struct AlignUniform {
    vars: VarStore,
    encoder: Rc<Encoder>,
    projector: Linear,
    config: Config,
}

impl Definition for AlignUniform {
    const INFO: Info = Info {
        name: "align_uniform",
        summary: "pull views together, spread images over the sphere",
        paper: "Wang, Isola",
        year: 2020,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2005.10242",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let weights = [config.alignment_weight, config.uniformity_weight];
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.) {
            let message = format!("expected numbers of at least 0, got {weights:?}");
            return Err(Error::config("alignment_weight, uniformity_weight", message));
        }
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let projector = Linear::new(&(vars.root() / "projector"), encoder.dim(), config.projection_dim)?;
        Ok(AlignUniform { vars, encoder, projector, config })
    }
}

impl AlignUniform {
    /// Unit vectors of the two views, in float32; the views share their batch statistics.
    fn project(&self, Views(views): &Views) -> Result<(Tensor, Tensor)> {
        let [a, b] = views.as_slice() else {
            return Err(Error::config("views", format!("align_uniform takes two, got {}", views.len())));
        };
        let h = self.encoder.forward(&Tensor::f_cat(&[a, b], 0)?, Mode::Train)?;
        let z = self.projector.forward(&h, Mode::Train)?.f_to_kind(Kind::Float)?;
        let (z, n) = (l2_normalize(&z)?, a.size().first().copied().unwrap_or(0));
        Ok((z.f_narrow(0, 0, n)?, z.f_narrow(0, n, n)?))
    }
}

impl Method for AlignUniform {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let (a, b) = self.project(batch)?;
        // The sums of a loss are taken in float32, whatever the precision of the forward pass.
        Precision::Fp32.scope(a.device(), || {
            let alignment = alignment_loss(&a, &b)?;
            let uniformity = uniformity_loss(&a)?.f_add(&uniformity_loss(&b)?)?.f_div_scalar(2.)?;
            let pull = alignment.f_mul_scalar(self.config.alignment_weight)?;
            let spread = uniformity.f_mul_scalar(self.config.uniformity_weight)?;
            Output::new(pull.f_add(&spread)?).with("alignment", &alignment)?.with("uniformity", &uniformity)
        })
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for AlignUniform {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::check_method;
    use ssl_vision::backbones::{Arch, ResNetConfig, Stem};
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn pixels(n: i64, slant: f64) -> Tensor {
        (Tensor::arange(n * 64, (Kind::Float, Device::Cpu)) * slant).sin().view([n, 1, 8, 8])
    }

    #[test]
    fn keeps_the_contract() {
        let batch = Views(vec![pixels(8, 1.), pixels(8, 1.01)]);
        let scratch = tempfile::tempdir().unwrap();
        let build = || AlignUniform::new(Config::default(), &Encoders::new(BACKBONE, Device::Cpu));
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_losses_are_those_of_the_definition() {
        // Three corners of a square on the unit circle: two pairs a quarter turn apart, one pair opposite.
        let x = Tensor::from_slice(&[1f64, 0., 0., 1., -1., 0.]).view([3, 2]);
        let expected = ((2. * (-2f64 * 2.).exp() + (-2f64 * 4.).exp()) / 3.).ln();
        assert!((f64::try_from(uniformity_loss(&x).unwrap()).unwrap() - expected).abs() < 1e-12);
        // Against its own rotation by a quarter turn, each row has moved by the root of two.
        let turned = Tensor::from_slice(&[0f64, 1., -1., 0., 0., -1.]).view([3, 2]);
        assert!((f64::try_from(alignment_loss(&x, &turned).unwrap()).unwrap() - 2.).abs() < 1e-12);
    }

    #[test]
    fn a_negative_weight_is_an_error() {
        let config = Config { uniformity_weight: -1., ..Config::default() };
        let message =
            AlignUniform::new(config, &Encoders::new(BACKBONE, Device::Cpu)).unwrap_err().to_string();
        assert!(message.starts_with("alignment_weight, uniformity_weight: expected"), "{message}");
    }
}
