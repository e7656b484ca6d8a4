//! Colorization: which colors has an image of which only the lightness is seen?
//!
//! Source: Zhang, Isola, Efros, 2016: <https://arxiv.org/abs/1603.08511>: colors as classes, soft ones by the five
//! nearest (section 2.1), more weight for rare ones (2.2), and the annealed mean of what is predicted (2.3). Departures:
//! the palette has the 259 cells of the grid that sRGB reaches, where the paper has 313; how frequent colors are is
//! counted while training instead of before, as a mean over the first hundred steps that then moves on; the encoder is
//! any one, on whose map a small decoder stands. The encoder sees, also at evaluation, a grey image of the same lightness
//! in all three channels.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::decoder::{Canvas, Decoder};
use crate::lab::{Palette, Soft, from_lab, to_lab};
use crate::pretext::{only, shown, squared_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::Module;
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims4, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Channels of a color image.
const COLORS: i64 = 3;
/// Steps after which the counts of colors are a moving mean.
const COUNTED: u64 = 100;
/// The least distance from grey, on either axis, of some color in a batch that can be learned from.
const COLORED: f64 = 1.;

/// Colorization's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Side of a view over that of the map of colors that is predicted.
    pub shrink: i64,
    /// Part of a uniform distribution in that of colors, to whose inverse weights are proportional; 1 weighs all equally.
    pub uniform: f64,
    /// Temperature at which the colors that are shown are averaged: 1 gives their mean, near 0 the likeliest.
    pub temperature: f64,
    /// Channels of the decoder's largest map.
    pub decoder_width: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.2, 1.], ..Augment::crop_and_flip(224) };
        Config { shrink: 4, uniform: 0.5, temperature: 0.38, decoder_width: 256, augment }
    }
}

/// An encoder of grey images, and what predicts colors from its map.
#[derive(Debug)]
pub struct Colorization {
    vars: VarStore,
    encoder: Rc<Encoder>,
    decoder: Decoder,
    palette: Palette,
    /// How frequent each color is. `[Q]`.
    prior: Tensor,
    /// Mean and deviation by which images are normalized. `[1, C, 1, 1]`.
    normalization: [Tensor; 2],
    config: Config,
}

/// Colors as they are and as they are predicted, at each position of a map.
struct Colors {
    /// `[B, 2, h, w]`.
    ab: Tensor,
    /// In float32. `[B, Q, h, w]`.
    logits: Tensor,
}

impl Definition for Colorization {
    const INFO: Info = Info {
        name: "colorization",
        summary: "predict the colors of an image from its lightness",
        paper: "Zhang, Isola, Efros",
        year: 2016,
        kind: "pretext",
        url: "https://arxiv.org/abs/1603.08511",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let side = config.augment.size as i64;
        if !(1..=side).contains(&config.shrink) {
            return Err(Error::config("shrink", format!("expected 1 to {side}, got {}", config.shrink)));
        }
        if !(config.uniform > 0. && config.uniform <= 1.) {
            return Err(Error::config("uniform", format!("expected above 0, at most 1, got {}", config.uniform)));
        }
        check::positive("temperature", config.temperature)?;
        colored(encoders.config().channels())?;
        let (device, pixels) = (encoders.device(), encoders.pixels());
        let of_channels = |values: &[f32]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1])?.f_to_device(device)?)
        };
        let normalization = [of_channels(&pixels.mean)?, of_channels(&pixels.std)?];
        let vars = VarStore::new(device);
        let (encoder, palette, p) = (encoders.student(&vars)?, Palette::new(device)?, vars.root());
        let blank = Tensor::f_zeros([1, COLORS, side, side], (Kind::Float, device))?;
        let (_, channels, rows, _) =
            dims4(&no_grad(|| encoder.map(&blank, Mode::Eval))?, "map of the encoder", "[B, D, H, W]")?;
        let canvas = Canvas { channels: palette.len(), side: side / config.shrink };
        Ok(Colorization {
            decoder: Decoder::of_maps(&(&p / "decoder"), (channels, rows), config.decoder_width, canvas)?,
            prior: p.add("prior", palette.uniform()?, false),
            encoder,
            vars,
            palette,
            normalization,
            config,
        })
    }
}

/// That there are colors.
fn colored(channels: i64) -> Result<()> {
    if channels == COLORS {
        return Ok(());
    }
    let message =
        format!("colorization needs colors in {COLORS} channels, got {channels}: take color images, such as cifar10");
    Err(Error::config("images", message))
}

impl Colorization {
    /// Lightness and color of normalized images.
    fn lab(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, _, _) = dims4(x, "images", "[B, 3, H, W]")?;
        colored(channels)?;
        let [mean, deviation] = &self.normalization;
        to_lab(&x.f_mul(deviation)?.f_add(mean)?)
    }

    /// Normalized images of given lightness and color.
    fn normalized(&self, lab: &Tensor) -> Result<Tensor> {
        let [mean, deviation] = &self.normalization;
        Ok(from_lab(lab)?.f_sub(mean)?.f_div(deviation)?)
    }

    /// Normalized images without their colors.
    fn grey(&self, lab: &Tensor) -> Result<Tensor> {
        self.normalized(&lab.f_narrow(1, 0, 1)?.f_constant_pad_nd([0, 0, 0, 0, 0, 2])?)
    }

    fn predict(&self, lab: &Tensor, mode: Mode) -> Result<Colors> {
        let logits = self.decoder.forward(&self.encoder.map(&self.grey(lab)?, mode)?, mode)?;
        let (_, _, rows, columns) = dims4(&logits, "map of colors", "[B, Q, H, W]")?;
        Ok(Colors { ab: lab.f_narrow(1, 1, 2)?.f_adaptive_avg_pool2d([rows, columns])?, logits })
    }

    /// The colors of a map in the palette. Of `[B h w]`.
    fn soften(&self, ab: &Tensor) -> Result<Soft> {
        self.palette.soften(&ab.f_permute([0, 2, 3, 1])?.f_reshape([-1, 2])?)
    }

    /// Counts the colors of a batch as the `index`th of a run.
    fn count(&self, soft: &Soft, index: u64) -> Result<()> {
        no_grad(|| {
            let positions = soft.part.size().first().copied().unwrap_or(1).max(1);
            let found =
                self.prior.f_zeros_like()?.f_index_add(0, &soft.index.f_flatten(0, 1)?, &soft.part.f_flatten(0, 1)?)?;
            let step =
                found.f_div_scalar(positions)?.f_sub(&self.prior)?.f_div_scalar((index.min(COUNTED) + 1) as i64)?;
            let _ = self.prior.shallow_clone().f_add_(&step)?;
            Ok(())
        })
    }

    /// The weight of each color: 1 on average over their distribution. `[Q]`.
    fn weights(&self) -> Result<Tensor> {
        let (uniform, count) = (self.config.uniform, self.palette.len() as f64);
        let mixed = self.prior.f_mul_scalar(1. - uniform)?.f_add_scalar(uniform / count)?;
        let weights = mixed.f_reciprocal()?;
        Ok(weights.f_div(&weights.f_mul(&self.prior)?.f_sum(Kind::Float)?)?)
    }

    /// The cross entropy with soft colors, and the share of positions whose likeliest color is the nearest one.
    fn loss(&self, logits: &Tensor, soft: &Soft) -> Result<(Tensor, Tensor)> {
        Precision::Fp32.scope(logits.device(), || {
            let rows = logits.f_permute([0, 2, 3, 1])?.f_reshape([-1, self.palette.len()])?;
            let log = rows.f_log_softmax(1, Kind::Float)?.f_gather(1, &soft.index, false)?;
            let each = log.f_mul(&soft.part)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
            let nearest = soft.index.f_select(1, 0)?;
            let loss = each.f_mul(&self.weights()?.f_index_select(0, &nearest)?)?.f_mean(Kind::Float)?.f_neg()?;
            let hits = rows.f_argmax(1, false)?.f_eq_tensor(&nearest)?;
            Ok((loss, hits.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?))
        })
    }

    /// The annealed mean of predicted colors. `[B, 2, h, w]`.
    fn guess(&self, logits: &Tensor) -> Result<Tensor> {
        self.palette.mean(&logits.f_div_scalar(self.config.temperature)?.f_softmax(1, Kind::Float)?)
    }
}

impl Method for Colorization {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let lab = self.lab(only(batch, Self::INFO.name)?)?;
        // One wait for the device in a run.
        if at.index == 0 && f64::try_from(lab.f_narrow(1, 1, 2)?.f_abs()?.f_max()?)? < COLORED {
            let message =
                "colorization needs colors, and the first images are grey: take color images, such as cifar10";
            return Err(Error::config("images", message));
        }
        let Colors { ab, logits } = self.predict(&lab, Mode::Train)?;
        let soft = self.soften(&ab)?;
        self.count(&soft, at.index)?;
        let (loss, accuracy) = self.loss(&logits, &soft)?;
        Output::new(loss).with("accuracy", &accuracy)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(&self.grey(&self.lab(input)?)?, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(&no_grad(|| self.grey(&self.lab(input)?))?)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let Colors { ab, logits } = self.predict(&self.lab(only(batch, Self::INFO.name)?)?, Mode::Eval)?;
            let (loss, accuracy) = self.loss(&logits, &self.soften(&ab)?)?;
            let distance = |guess: &Tensor| -> Result<Tensor> { Ok(squared_error(guess, &ab)?.f_sqrt()?) };
            Ok(vec![
                ("loss".into(), loss),
                ("accuracy".into(), accuracy),
                ("color_error".into(), distance(&self.guess(&logits)?)?),
                ("grey_error".into(), distance(&ab.f_zeros_like()?)?),
            ])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, Self::INFO.name)?)?;
            let (lab, (_, _, rows, columns)) = (self.lab(&x)?, dims4(&x, "images", "[B, 3, H, W]")?);
            let guess = self.guess(&self.predict(&lab, Mode::Eval)?.logits)?;
            let guess = guess.f_upsample_bilinear2d([rows, columns], false, None, None)?;
            let colored = self.normalized(&Tensor::f_cat(&[lab.f_narrow(1, 0, 1)?, guess], 1)?)?;
            Ok(vec![("image".into(), x), ("grey".into(), self.grey(&lab)?), ("colorized".into(), colored)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Colorization {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn admit(&self, channels: usize) -> Result<()> {
        colored(channels as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::value;
    use ssl_core::check_method;
    use tch::Device;

    fn build(config: Config, channels: i64) -> Result<Colorization> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels };
        Colorization::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    fn small() -> Config {
        Config { decoder_width: 4, augment: Augment::crop_and_flip(16), ..Config::default() }
    }

    /// Images within what a screen shows.
    fn pixels(n: i64) -> Tensor {
        let rgb = (Tensor::arange(n * 768, (Kind::Float, Device::Cpu)) * 0.3).sin().view([n, 3, 16, 16]) * 0.4 + 0.5;
        let of = |x: [f32; 3]| Tensor::from_slice(&x).view([1, 3, 1, 1]);
        (rgb - of([0.485, 0.456, 0.406])) / of([0.229, 0.224, 0.225])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(4), tempfile::tempdir().unwrap());
        check_method(|| build(small(), 3), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_encoder_sees_lightness_alone() {
        let (method, x) = (build(small(), 3).unwrap(), pixels(3));
        let lab = method.lab(&x).unwrap();
        let grey = method.grey(&lab).unwrap();
        let again = method.lab(&grey).unwrap();
        assert!(again.narrow(1, 0, 1).allclose(&lab.narrow(1, 0, 1), 1e-3, 1e-2, false), "as light");
        assert!(value(&again.narrow(1, 1, 2).abs().max()) < 0.05, "of no color");
        assert!(method.normalized(&lab).unwrap().allclose(&x, 1e-3, 1e-3, false));
        let seen = |lab: &Tensor| method.predict(lab, Mode::Eval).unwrap().logits;
        assert!(seen(&lab).allclose(&seen(&again), 1e-3, 1e-3, false));
        assert!(method.embed(&x).unwrap().allclose(&method.embed(&grey).unwrap(), 1e-3, 1e-4, false));
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_positions() {
        let method = build(small(), 3).unwrap();
        let lab = method.lab(&pixels(2)).unwrap();
        let Colors { ab, logits } = method.predict(&lab, Mode::Eval).unwrap();
        assert_eq!((ab.size(), logits.size()), (vec![2, 2, 4, 4], vec![2, 259, 4, 4]));
        let soft = method.soften(&ab).unwrap();
        method.count(&soft, 0).unwrap();
        let (prior, weights) = (&method.prior, method.weights().unwrap());
        assert!((value(&prior.sum(Kind::Double)) - 1.).abs() < 1e-5);
        assert!((value(&(&weights * prior).sum(Kind::Double)) - 1.).abs() < 1e-5);
        let ratio = |q: i64| weights.double_value(&[q]) * (0.5 * prior.double_value(&[q]) + 0.5 / 259.);
        assert!((0..259).all(|q| (ratio(q) / ratio(0) - 1.).abs() < 1e-4));
        let mut slow = 0.;
        for (place, (n, at)) in (0..2).flat_map(|n| (0..16).map(move |at| (n, at))).enumerate() {
            let logit = |q: i64| logits.double_value(&[n, q, at / 4, at % 4]);
            let sum: f64 = (0..259).map(|q| logit(q).exp()).sum();
            let class = |k: i64| soft.index.int64_value(&[place as i64, k]);
            let one = |k: i64| soft.part.double_value(&[place as i64, k]) * (logit(class(k)) - sum.ln());
            slow -= weights.double_value(&[class(0)]) * (0..5).map(one).sum::<f64>() / 32.;
        }
        let (loss, _) = method.loss(&logits, &soft).unwrap();
        assert!((value(&loss) - slow).abs() < 1e-4 * slow, "{loss:?} {slow}");
    }

    #[test]
    fn colors_are_counted_as_a_mean_that_then_moves() {
        let method = build(small(), 3).unwrap();
        let soft = |class: i64| Soft {
            index: Tensor::from_slice(&[class, 1, 2, 3, 4]).view([1, 5]),
            part: Tensor::from_slice(&[1f32, 0., 0., 0., 0.]).view([1, 5]),
        };
        for index in 0..4 {
            method.count(&soft(if index == 0 { 7 } else { 9 }), index).unwrap();
        }
        let of = |q: i64| method.prior.double_value(&[q]);
        assert!((of(7) - 0.25).abs() < 1e-6 && (of(9) - 0.75).abs() < 1e-6);
        method.count(&soft(7), 5000).unwrap();
        assert!((of(7) - (0.25 + 0.75 / 101.)).abs() < 1e-6);
    }

    #[test]
    fn a_sure_guess_is_its_color_and_images_keep_their_lightness() {
        let (method, x) = (build(small(), 3).unwrap(), pixels(2));
        let lab = method.lab(&x).unwrap();
        let soft = method.soften(&lab.narrow(1, 1, 2)).unwrap();
        let sure =
            Tensor::zeros([512, 259], (Kind::Float, Device::Cpu)).scatter_value(1, &soft.index.narrow(1, 0, 1), 50.);
        let guess = method.guess(&sure.view([2, 16, 16, 259]).permute([0, 3, 1, 2])).unwrap();
        assert!(value(&(guess - lab.narrow(1, 1, 2)).abs().max()) < 12., "within a cell");
        let rows = method.look(&Views(vec![x])).unwrap();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["image", "grey", "colorized"]);
        let shown = method.lab(&rows[2].1).unwrap();
        assert!(value(&(shown - lab).narrow(1, 0, 1).abs().mean(Kind::Float)) < 5.);
    }

    #[test]
    fn grey_images_are_refused() {
        let message = "images: colorization needs colors in 3 channels, got 1: take color images, such as cifar10";
        assert_eq!(build(small(), 1).unwrap_err().to_string(), message);
        let mut method = build(small(), 3).unwrap();
        assert_eq!(method.admit(1).unwrap_err().to_string(), message);
        let grey = method.grey(&method.lab(&pixels(2)).unwrap()).unwrap();
        let step = method.step(&Views(vec![grey]), Step { index: 0, total: 9 }).unwrap_err().to_string();
        let message =
            "images: colorization needs colors, and the first images are grey: take color images, such as cifar10";
        assert_eq!(step, message);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (config, message) in [
            (Config { shrink: 17, ..small() }, "shrink: expected 1 to 16, got 17"),
            (Config { uniform: 0., ..small() }, "uniform: expected above 0, at most 1, got 0"),
            (Config { temperature: 0., ..small() }, "temperature: expected a number above 0, got 0"),
        ] {
            assert_eq!(build(config, 3).unwrap_err().to_string(), message);
        }
    }
}
