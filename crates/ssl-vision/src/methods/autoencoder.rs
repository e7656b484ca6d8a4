//! Denoising autoencoder: an image is drawn from the vector that an encoder makes of it with some of its pixels missing.
//!
//! Source: Vincent et al., 2008: <https://doi.org/10.1145/1390156.1390294>. A part of the pixels is hidden exactly, as in
//! section 2.3, and the whole image is drawn. Departures: the encoder is any one and the decoder convolutional, where the
//! paper trains layer after layer; all channels of a pixel are hidden together, and hidden ones have the mean color
//! instead of black; the loss is the squared error of the authors' later work (2010), since pixels are normalized
//! and not within 0 and 1.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::decoder::{Canvas, Decoder};
use crate::pretext::{fixed_noise, only, shown, square, squared_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::Module;
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The denoising autoencoder's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the pixels that is hidden; 0 makes it an ordinary autoencoder.
    pub hidden: f64,
    /// Channels of the decoder's largest map.
    pub decoder_width: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.2, 1.], ..Augment::crop_and_flip(224) };
        Config { hidden: 0.25, decoder_width: 64, augment }
    }
}

/// An encoder and a decoder that is thrown away after training.
#[derive(Debug)]
pub struct Autoencoder {
    vars: VarStore,
    encoder: Rc<Encoder>,
    decoder: Decoder,
    config: Config,
}

impl Definition for Autoencoder {
    const INFO: Info = Info {
        name: "autoencoder",
        summary: "draw an image from a vector made of it with pixels missing",
        paper: "Vincent, Larochelle, Bengio, Manzagol",
        year: 2008,
        kind: "generative",
        url: "https://doi.org/10.1145/1390156.1390294",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        if !(0. ..1.).contains(&config.hidden) {
            return Err(Error::config("hidden", format!("expected at least 0 and below 1, got {}", config.hidden)));
        }
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let canvas = Canvas { channels: encoders.config().channels(), side: config.augment.size as i64 };
        let decoder = Decoder::of_vectors(&(vars.root() / "decoder"), encoder.dim(), config.decoder_width, canvas)?;
        Ok(Autoencoder { vars, encoder, decoder, config })
    }
}

impl Autoencoder {
    /// The images without the pixels whose numbers in `noise`, `[B, S * S]`, are the greatest.
    fn corrupt(&self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (_, _, side) = square(x)?;
        let hidden = (self.config.hidden * (side * side) as f64).round() as i64;
        let places = noise.f_topk(hidden, 1, true, false)?.1;
        let kept = noise.f_ones_like()?.f_scatter_value(1, &places, 0.)?;
        Ok(x.f_mul(&kept.f_view([-1, 1, side, side])?)?)
    }

    fn draw(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.decoder.forward(&self.encoder.forward(x, mode)?, mode)
    }

    /// Held-out images without some pixels, the same at every call.
    fn held_out(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, side) = square(x)?;
        self.corrupt(x, &fixed_noise(n, side * side, x.device())?)
    }
}

impl Method for Autoencoder {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        let (n, _, side) = square(x)?;
        let noise = Tensor::f_rand([n, side * side], (Kind::Float, x.device()))?;
        let drawn = self.draw(&self.corrupt(x, &noise)?, Mode::Train)?;
        Ok(Output::new(squared_error(&drawn, x)?))
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
            let loss = squared_error(&self.draw(&self.held_out(x)?, Mode::Eval)?, x)?;
            let plain = x.f_mean_dim([2i64, 3].as_slice(), true, Kind::Float)?.f_expand_as(x)?;
            Ok(vec![("loss".into(), loss), ("mean_color_error".into(), squared_error(&plain, x)?)])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, Self::INFO.name)?)?;
            let corrupt = self.held_out(&x)?;
            let drawn = self.draw(&corrupt, Mode::Eval)?;
            Ok(vec![("image".into(), x), ("with pixels missing".into(), corrupt), ("drawn".into(), drawn)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Autoencoder {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn restore(&self, images: &Tensor) -> Result<Option<Tensor>> {
        no_grad(|| self.draw(images, Mode::Eval)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::value;
    use ssl_core::check_method;
    use tch::Device;

    fn build(hidden: f64) -> Result<Autoencoder> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        let config = Config { hidden, decoder_width: 4, augment: Augment::crop_and_flip(8) };
        Autoencoder::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    fn pixels(n: i64) -> Tensor {
        Tensor::arange(n * 128, (Kind::Float, Device::Cpu)).sin().view([n, 2, 8, 8]) + 2.
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(6), tempfile::tempdir().unwrap());
        check_method(|| build(0.25), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn each_image_misses_as_many_pixels_in_all_channels_and_others() {
        let (x, method) = (pixels(5), build(0.25).unwrap());
        let corrupt = method.held_out(&x).unwrap();
        let missing = corrupt.eq(0.);
        assert!(corrupt.where_self(&missing.logical_not(), &x).equal(&x), "the others are as they were");
        assert!(missing.select(1, 0).equal(&missing.select(1, 1)));
        let counts = missing.select(1, 0).flatten(1, 2).sum_dim_intlist(1, false, Kind::Int64);
        assert_eq!(Vec::<i64>::try_from(counts).unwrap(), [16; 5]);
        assert!(!missing.get(0).equal(&missing.get(1)));
    }

    #[test]
    fn the_loss_is_the_error_over_all_pixels_of_the_whole_image() {
        let (x, method) = (pixels(3), build(0.25).unwrap());
        let drawn = method.draw(&method.held_out(&x).unwrap(), Mode::Eval).unwrap();
        let all = |x: &Tensor| Vec::<f64>::try_from(x.flatten(0, -1).to_kind(Kind::Double)).unwrap();
        let slow = all(&drawn).iter().zip(all(&x)).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / (3. * 128.);
        let of_plane = |plane: &[f64]| {
            let mean = plane.iter().sum::<f64>() / 64.;
            plane.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
        };
        let plain = all(&x).chunks(64).map(of_plane).sum::<f64>() / (3. * 128.);
        let found = method.validate(&Views(vec![x])).unwrap();
        assert!((value(&found[0].1) - slow).abs() < 1e-5, "{found:?} {slow}");
        assert!((value(&found[1].1) - plain).abs() < 1e-5, "{found:?} {plain}");
    }

    #[test]
    fn clean_images_are_restored_and_corrupt_ones_shown() {
        let (x, method) = (pixels(14), build(0.5).unwrap());
        let restored = method.restore(&x).unwrap().unwrap();
        assert!(restored.equal(&method.draw(&x, Mode::Eval).unwrap()) && !restored.requires_grad());
        let [(_, image), (_, corrupt), (_, drawn)] = &method.look(&Views(vec![x.shallow_clone()])).unwrap()[..] else {
            panic!()
        };
        assert!(image.equal(&x.narrow(0, 0, 12)) && drawn.size() == image.size());
        assert!(corrupt.equal(&method.held_out(&x).unwrap().narrow(0, 0, 12)) && !corrupt.equal(image));
    }

    #[test]
    fn of_no_part_nothing_is_missing() {
        let x = pixels(2);
        assert!(build(0.).unwrap().held_out(&x).unwrap().equal(&x));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for hidden in [-0.1, 1., f64::NAN] {
            let message = build(hidden).unwrap_err().to_string();
            assert_eq!(message, format!("hidden: expected at least 0 and below 1, got {hidden}"));
        }
        let message = build(0.1).unwrap().step(&Views(Vec::new()), Step { index: 0, total: 1 }).unwrap_err();
        assert_eq!(message.to_string(), "views: autoencoder takes one, got 0");
    }
}
