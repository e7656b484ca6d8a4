//! Variational autoencoder: an image becomes a cloud of codes, near one that is the same for all, and is drawn from them.
//!
//! Source: Kingma & Welling, 2013: <https://arxiv.org/abs/1312.6114>: equation 10 with one code for each image, the
//! divergence of appendix B, the Gaussian decoder of appendix C.2. Departures: the encoder is any one and the decoder
//! convolutional; the decoder's deviation is a number instead of an output, for pixels are normalized and a learned one
//! can shrink without bound. The representation is what the encoder gives, before the code's mean and deviation.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::decoder::{Canvas, Decoder};
use crate::pretext::{fixed_noise, only, shown, square, squared_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Batch, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad};
use std::f64::consts::SQRT_2;
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// The variational autoencoder's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Numbers of a code; the paper tries 2 to 200.
    pub latent_dim: i64,
    /// Standard deviation of the pixels that are drawn, in units of normalized ones: the smaller, the more a code says.
    pub deviation: f64,
    /// Channels of the decoder's largest map.
    pub decoder_width: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.2, 1.], ..Augment::crop_and_flip(224) };
        Config { latent_dim: 200, deviation: 1., decoder_width: 64, augment }
    }
}

/// An encoder with a code's mean and log variance after it, and a decoder.
#[derive(Debug)]
pub struct Vae {
    vars: VarStore,
    encoder: Rc<Encoder>,
    mean: Linear,
    log_variance: Linear,
    decoder: Decoder,
    config: Config,
}

/// What the bound is made of, in nats per image.
struct Bound {
    /// Squared error over twice the variance; what does not depend on the network is left out.
    reconstruction: Tensor,
    /// Of the codes from the standard normal distribution.
    divergence: Tensor,
}

impl Definition for Vae {
    const INFO: Info = Info {
        name: "vae",
        summary: "draw an image from a noisy code of it whose distribution is kept simple",
        paper: "Kingma, Welling",
        year: 2013,
        kind: "generative",
        url: "https://arxiv.org/abs/1312.6114",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([("latent_dim", config.latent_dim, (1, 1 << 16))])?;
        check::positive("deviation", config.deviation)?;
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let (encoder, p) = (encoders.student(&vars)?, vars.root());
        let canvas = Canvas { channels: encoders.config().channels(), side: config.augment.size as i64 };
        Ok(Vae {
            mean: Linear::new(&(&p / "mean"), encoder.dim(), config.latent_dim)?,
            log_variance: Linear::new(&(&p / "log_variance"), encoder.dim(), config.latent_dim)?,
            decoder: Decoder::of_vectors(&(&p / "decoder"), config.latent_dim, config.decoder_width, canvas)?,
            encoder,
            vars,
            config,
        })
    }
}

impl Vae {
    /// Mean and log variance of the images' codes, in float32. `[B, L]`.
    fn codes(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let h = self.encoder.forward(x, mode)?;
        let of = |layer: &Linear| -> Result<Tensor> { Ok(layer.forward(&h, mode)?.f_to_kind(Kind::Float)?) };
        Ok((of(&self.mean)?, of(&self.log_variance)?))
    }

    /// The bound for codes at `noise` deviations from their means. `[B, L]`.
    fn bound(&self, x: &Tensor, noise: &Tensor, mode: Mode) -> Result<Bound> {
        let (_, channels, side) = square(x)?;
        let (mean, log_variance) = self.codes(x, mode)?;
        let code = log_variance.f_mul_scalar(0.5)?.f_exp()?.f_mul(noise)?.f_add(&mean)?;
        let error = squared_error(&self.decoder.forward(&code, mode)?, x)?;
        let per_image = (channels * side * side) as f64 / (2. * self.config.deviation.powi(2));
        Ok(Bound { reconstruction: error.f_mul_scalar(per_image)?, divergence: divergence(&mean, &log_variance)? })
    }

    /// Normal noise for held-out images.
    fn fixed_normal(&self, n: i64, device: Device) -> Result<Tensor> {
        let uniform = fixed_noise(n, self.config.latent_dim, device)?.f_mul_scalar(2)?.f_sub_scalar(1)?;
        // The least of all numbers would be infinitely far.
        Ok(uniform.f_clamp_min(-1. + 1e-6)?.f_erfinv()?.f_mul_scalar(SQRT_2)?)
    }
}

/// The Kullback-Leibler divergence of normal distributions from the standard one, summed over a code, in nats.
///
/// # Shapes
/// `mean`, `log_variance`: `[B, L]`; returns a scalar, the mean over the batch.
fn divergence(mean: &Tensor, log_variance: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(mean.device(), || {
        let spread = log_variance.f_exp()?.f_sub(log_variance)?.f_sub_scalar(1)?;
        let each = mean.f_square()?.f_add(&spread)?.f_mul_scalar(0.5)?;
        Ok(each.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?.f_mean(Kind::Float)?)
    })
}

impl Method for Vae {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        let noise = Tensor::f_randn([batch.len(), self.config.latent_dim], (Kind::Float, x.device()))?;
        let Bound { reconstruction, divergence } = self.bound(x, &noise, Mode::Train)?;
        let output = Output::new(reconstruction.f_add(&divergence)?);
        output.with("reconstruction", &reconstruction)?.with("divergence", &divergence)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, Self::INFO.name)?;
            let noise = self.fixed_normal(batch.len(), x.device())?;
            let Bound { reconstruction, divergence } = self.bound(x, &noise, Mode::Eval)?;
            Ok(vec![
                ("loss".into(), reconstruction.f_add(&divergence)?),
                ("reconstruction".into(), reconstruction),
                ("divergence".into(), divergence),
            ])
        })
    }

    /// Images, what is drawn from the means of their codes, and what from codes of no image.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, Self::INFO.name)?)?;
            let drawn = self.decoder.forward(&self.codes(&x, Mode::Eval)?.0, Mode::Eval)?;
            let free = self.decoder.forward(&self.fixed_normal(x.len(), x.device())?, Mode::Eval)?;
            Ok(vec![("image".into(), x), ("drawn".into(), drawn), ("drawn from random codes".into(), free)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Vae {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn restore(&self, images: &Tensor) -> Result<Option<Tensor>> {
        no_grad(|| self.decoder.forward(&self.codes(images, Mode::Eval)?.0, Mode::Eval)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use ssl_core::check_method;

    fn build(deviation: f64, latent_dim: i64) -> Result<Vae> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        let config = Config { latent_dim, deviation, decoder_width: 4, augment: Augment::crop_and_flip(8) };
        Vae::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    fn pixels(n: i64) -> Tensor {
        Tensor::arange(n * 128, (Kind::Float, Device::Cpu)).sin().view([n, 2, 8, 8])
    }

    fn rows(x: &Tensor) -> Vec<Vec<f64>> {
        let x = x.flatten(1, -1).to_kind(Kind::Double);
        (0..x.size()[0]).map(|i| Vec::try_from(x.get(i)).unwrap()).collect()
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(6), tempfile::tempdir().unwrap());
        check_method(|| build(1., 5), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_images() {
        let (x, method) = (pixels(4), build(0.5, 3).unwrap());
        let noise = method.fixed_normal(4, Device::Cpu).unwrap();
        let (mean, log_variance) = method.codes(&x, Mode::Eval).unwrap();
        let (means, logs, noises) = (rows(&mean), rows(&log_variance), rows(&noise));
        let mut slow = [0.; 2];
        for (image, pixels) in rows(&x).iter().enumerate() {
            let code: Vec<f32> =
                (0..3).map(|k| (means[image][k] + (logs[image][k] / 2.).exp() * noises[image][k]) as f32).collect();
            let drawn = method.decoder.forward(&Tensor::from_slice(&code).view([1, 3]), Mode::Eval).unwrap();
            let error = rows(&drawn)[0].iter().zip(pixels).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            slow[0] += error / (2. * 0.25) / 4.;
            let one = |k: usize| -0.5 * (1. + logs[image][k] - means[image][k].powi(2) - logs[image][k].exp());
            slow[1] += (0..3).map(one).sum::<f64>() / 4.;
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        let found: Vec<f64> = found.iter().map(|(_, x)| f64::try_from(x).unwrap()).collect();
        for (found, slow) in found.iter().zip([slow[0] + slow[1], slow[0], slow[1]]) {
            assert!((found - slow).abs() < 1e-4 * slow.abs().max(1.), "{found} {slow}");
        }
    }

    #[test]
    fn the_divergence_is_that_of_samples() {
        let (mean, deviation) = (0.7f64, 0.4f64);
        let of = |x: f64| Tensor::from_slice(&[x as f32]).view([1, 1]);
        let found = f64::try_from(divergence(&of(mean), &of(2. * deviation.ln())).unwrap()).unwrap();
        // The log of the two densities' ratio, over a fine grid of codes.
        let steps = (-60_000..60_000).map(|i| f64::from(i) * 1e-4);
        let slow: f64 = steps
            .map(|z| {
                let own = -((z - mean) / deviation).powi(2) / 2. - deviation.ln();
                own.exp() / (2. * std::f64::consts::PI).sqrt() * (own + z * z / 2.) * 1e-4
            })
            .sum();
        assert!((found - slow).abs() < 1e-5, "{found} {slow}");
    }

    #[test]
    fn held_out_noise_is_normal() {
        let noise = build(1., 500).unwrap().fixed_normal(40, Device::Cpu).unwrap();
        let at = |x: f64| f64::try_from(noise.le(x).to_kind(Kind::Double).mean(Kind::Double)).unwrap();
        for (x, share) in [(-1.96, 0.025), (-0.6745, 0.25), (0., 0.5), (1.2816, 0.9)] {
            assert!((at(x) - share).abs() < 0.015, "{x}: {}", at(x));
        }
    }

    #[test]
    fn images_are_restored_from_the_means_of_their_codes() {
        let (x, method) = (pixels(14), build(1., 3).unwrap());
        let restored = method.restore(&x).unwrap().unwrap();
        let rows = method.look(&Views(vec![x.shallow_clone()])).unwrap();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["image", "drawn", "drawn from random codes"]);
        assert!(rows[1].1.allclose(&restored.narrow(0, 0, 12), 1e-5, 1e-6, false) && !restored.requires_grad());
        assert!(rows.iter().all(|(_, row)| row.size() == [12, 2, 8, 8]) && !rows[2].1.equal(&rows[1].1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let said = |deviation, latent_dim| build(deviation, latent_dim).unwrap_err().to_string();
        assert_eq!(said(1., 0), "latent_dim: expected 1 to 65536, got 0");
        assert_eq!(said(0., 2), "deviation: expected a number above 0, got 0");
        let message = build(1., 2).unwrap().step(&Views(Vec::new()), Step { index: 0, total: 1 }).unwrap_err();
        assert_eq!(message.to_string(), "views: vae takes one, got 0");
    }
}
