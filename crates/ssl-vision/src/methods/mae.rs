//! MAE: most patches of an image are hidden, and a small decoder draws them from what the encoder makes of the rest.
//!
//! Source: He et al., 2021: <https://arxiv.org/abs/2111.06377>; names, initialization of the decoder and the order of
//! pixels in a patch follow the official code (`facebookresearch/mae`, `models_mae.py`). Departures: pixels are
//! normalized by patch unless told otherwise, which the paper finds best and the code leaves off; the encoder starts as
//! [`Vit`](crate::backbones::Vit) does, with fixed positions only where its configuration says so. The decoder gets the
//! hidden patches behind the visible ones and draws the hidden ones only; the loss is the same.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders, PROBE_FEATURES, probe_features};
use crate::masked::{Chance, Decoder, DecoderConfig, DecoderNames, Grid, check_ratio};
use crate::pretext::{only, shown, squared_error};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::xavier_uniform;
use ssl_core::{Batch, Method, Metrics, Mode, Output, Result, Rng, Step, Views, dims2, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// The decoder's variables in the official code.
const NAMES: DecoderNames = DecoderNames {
    embed: "decoder_embed",
    positions: "decoder_pos_embed",
    blocks: "decoder_blocks",
    norm: "decoder_norm",
    output: "decoder_pred",
};

/// MAE's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the patches that is hidden.
    pub mask_ratio: f64,
    /// Width of the decoder, a multiple of 4.
    pub decoder_dim: i64,
    /// Blocks of the decoder.
    pub decoder_depth: i64,
    /// Attention heads of the decoder.
    pub decoder_heads: i64,
    /// Whether the pixels of each patch are normalized by their mean and deviation before they are predicted.
    pub norm_pix: bool,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mask_ratio: 0.75,
            decoder_dim: 512,
            decoder_depth: 8,
            decoder_heads: 16,
            norm_pix: true,
            augment: Augment { crop_scale: [0.2, 1.0], ..Augment::crop_and_flip(224) },
        }
    }
}

/// An encoder of visible patches and a decoder that is thrown away after training.
#[derive(Debug)]
pub struct Mae {
    vars: VarStore,
    encoder: Rc<Encoder>,
    decoder: Decoder,
    grid: Grid,
    visible: i64,
    config: Config,
}

impl Definition for Mae {
    const INFO: Info = Info {
        name: "mae",
        summary: "draw the hidden patches of an image from the visible ones",
        paper: "He, Chen, Xie, Li, Dollár, Girshick",
        year: 2021,
        kind: "masked",
        url: "https://arxiv.org/abs/2111.06377",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let grid = Grid::new(encoder.vit("MAE")?, config.augment.size as i64)?;
        let visible = (grid.patches() as f64 * (1. - config.mask_ratio)) as i64;
        check_ratio(config.mask_ratio, grid.patches() - visible, grid.patches())?;
        let shape = DecoderConfig {
            input: encoder.dim(),
            dim: config.decoder_dim,
            depth: config.decoder_depth,
            heads: config.decoder_heads,
            output: grid.pixels(),
            side: grid.side,
        };
        let decoder = Decoder::new(&vars, &shape, &NAMES, xavier_uniform)?;
        Ok(Mae { vars, encoder, decoder, grid, visible, config })
    }
}

impl Mae {
    /// The hidden patches as predicted, `[B * M, P]`, and as they are.
    ///
    /// # Shapes
    /// `order`: `[B, N]`, the patches of each image, visible ones first.
    fn predict(&self, x: &Tensor, order: &Tensor, mode: Mode) -> Result<(Tensor, Target)> {
        let pixels = self.grid.patchify(x)?.f_index_select(0, &self.hidden(order)?)?;
        let visible = order.f_narrow(1, 0, self.visible)?;
        let tokens = self.encoder.vit("MAE")?.tokens(x, Some(&visible), mode)?;
        // Position 0 is the class token's.
        let places = order.f_add_scalar(1)?.f_constant_pad_nd([1, 0])?;
        let (shown, hidden) = (1 + self.visible, self.grid.patches() - self.visible);
        let places = [places.f_narrow(1, 0, shown)?, places.f_narrow(1, shown, hidden)?];
        let prediction = self.decoder.forward(&tokens, places.each_ref(), mode)?;
        Ok((prediction, Target::new(&pixels, self.config.norm_pix)?))
    }

    /// Where the hidden patches lie in a table of all patches of the batch. `[B * M]`.
    fn hidden(&self, order: &Tensor) -> Result<Tensor> {
        let (images, patches) = dims2(order, "order", "[B, N]")?;
        let hidden = order.f_narrow(1, self.visible, patches - self.visible)?;
        let first = Tensor::f_arange(images, (Kind::Int64, order.device()))?.f_mul_scalar(patches)?.f_unsqueeze(1)?;
        Ok(hidden.f_add(&first)?.f_flatten(0, 1)?)
    }
}

impl Method for Mae {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, "MAE")?;
        let noise = Tensor::f_rand([batch.len(), self.grid.patches()], (Kind::Float, x.device()))?;
        let (prediction, target) = self.predict(x, &noise.f_argsort(1, false)?, Mode::Train)?;
        Ok(Output::new(squared_error(&prediction, &target.values)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let all = self.encoder.features(input, Mode::Eval)?;
            // The last of each quarter.
            let some = all.chunks(all.len().div_ceil(4).max(1)).filter_map(<[_]>::last);
            let some: Vec<_> = some.map(|(name, map)| (name.clone(), map.shallow_clone())).collect();
            probe_features(&some, PROBE_FEATURES)
        })
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, "MAE")?;
            let order = fixed_order(batch.len(), self.grid.patches(), x.device())?;
            let (prediction, target) = self.predict(x, &order, Mode::Eval)?;
            let plain = self.grid.mean_color(&target.values)?;
            let pixels = target.restore(&target.values)?;
            Ok(vec![
                ("loss".into(), squared_error(&prediction, &target.values)?),
                ("mean_patch_error".into(), squared_error(&plain, &target.values)?),
                ("pixel_error".into(), squared_error(&target.restore(&prediction)?, &pixels)?),
                ("mean_patch_pixel_error".into(), squared_error(&target.restore(&plain)?, &pixels)?),
            ])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, "MAE")?)?;
            let order = fixed_order(x.len(), self.grid.patches(), x.device())?;
            let (prediction, target) = self.predict(&x, &order, Mode::Eval)?;
            let hidden = self.hidden(&order)?;
            // As in the official demonstration, each patch has its own mean and deviation, which are not predicted.
            self.grid.pictures(x, &hidden, &target.restore(&prediction)?)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Mae {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    /// Every patch as drawn when it is hidden, on average over masks that hide each patch once at least; brightness and
    /// contrast of a patch, where these are not predicted, are its own.
    fn restore(&self, images: &Tensor) -> Result<Option<Tensor>> {
        no_grad(|| {
            let patches = self.grid.patchify(images)?;
            let order = fixed_order(images.len(), self.grid.patches(), images.device())?;
            let (mut sum, mut count) = (patches.f_zeros_like()?, patches.f_zeros_like()?);
            let hidden = self.grid.patches() - self.visible;
            for first in (0..self.grid.patches()).step_by(hidden as usize) {
                let order = order.f_roll([-first], [1])?;
                let (prediction, target) = self.predict(images, &order, Mode::Eval)?;
                let (drawn, hidden) = (target.restore(&prediction)?, self.hidden(&order)?);
                let _ = sum.f_index_add_(0, &hidden, &drawn)?;
                let _ = count.f_index_add_(0, &hidden, &drawn.f_ones_like()?)?;
            }
            Ok(Some(self.grid.unpatchify(&sum.f_div(&count)?)?))
        })
    }
}

/// Random orders of the patches that depend on the place in the batch alone. `[B, N]`.
fn fixed_order(images: i64, patches: i64, device: Device) -> Result<Tensor> {
    let of_image = |mut rng: Rng| (0..patches).map(move |_| rng.random::<f32>());
    let noise: Vec<f32> = Chance::Fixed.of_images(images)?.flat_map(of_image).collect();
    Ok(Tensor::f_from_slice(&noise)?.f_view([images, patches])?.f_argsort(1, false)?.f_to_device(device)?)
}

/// Pixels of patches as they are predicted, and what undoes their normalization.
struct Target {
    values: Tensor,
    mean: Tensor,
    deviation: Tensor,
}

impl Target {
    /// Patches `[R, P]`, less their means and over their deviations where `normalize` says so.
    fn new(pixels: &Tensor, normalize: bool) -> Result<Self> {
        let (var, mean) = pixels.f_var_mean_dim([1i64].as_slice(), true, true)?;
        let (mean, deviation) = match normalize {
            true => (mean, var.f_add_scalar(1e-6)?.f_sqrt()?),
            false => (mean.f_zeros_like()?, var.f_ones_like()?),
        };
        Ok(Target { values: pixels.f_sub(&mean)?.f_div(&deviation)?, mean, deviation })
    }

    /// Pixels as they were in the view, from normalized ones.
    fn restore(&self, values: &Tensor) -> Result<Tensor> {
        Ok(values.f_mul(&self.deviation)?.f_add(&self.mean)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem, VitConfig, sincos_positions};
    use ssl_core::check_method;

    fn encoders(channels: i64) -> Encoders {
        let arch = "vit_d16_l2_h2".parse().unwrap();
        Encoders::new(VitConfig { arch, image_size: 8, patch_size: 2, channels, ..VitConfig::default() }, Device::Cpu)
    }

    fn small() -> Config {
        let augment = Augment::crop_and_flip(8);
        Config { decoder_dim: 8, decoder_depth: 1, decoder_heads: 2, augment, ..Config::default() }
    }

    fn build(config: Config, channels: i64) -> Mae {
        Mae::new(config, &encoders(channels)).unwrap()
    }

    fn images(n: i64, channels: i64) -> Tensor {
        Tensor::arange(n * channels * 64, (Kind::Float, Device::Cpu)).square().sin().view([n, channels, 8, 8])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (images(6, 1), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| Mae::new(small(), &encoders(1)), &batch, &x, scratch.path()).unwrap();
    }

    #[test]
    fn each_image_hides_as_many_patches_and_others() {
        let method = build(small(), 1);
        let order = fixed_order(6, 16, Device::Cpu).unwrap();
        let hidden = method.hidden(&order).unwrap();
        let mask = Tensor::zeros([96], (Kind::Float, Device::Cpu)).index_fill(0, &hidden, 1.).view([6, 16]);
        assert_eq!(Vec::<f64>::try_from(mask.sum_dim_intlist(1, false, Kind::Double)).unwrap(), [12.; 6]);
        assert!((1..6).all(|i| !mask.get(0).equal(&mask.get(i))));
        assert!(fixed_order(2, 16, Device::Cpu).unwrap().equal(&order.narrow(0, 0, 2)));
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_hidden_patches() {
        for norm_pix in [true, false] {
            let method = build(Config { norm_pix, ..small() }, 3);
            let (x, order) = (images(3, 3), fixed_order(3, 16, Device::Cpu).unwrap());
            let found = method.validate(&Views(vec![x.shallow_clone()])).unwrap();
            let (prediction, _) = method.predict(&x, &order, Mode::Eval).unwrap();
            let [mut loss, mut plain, mut count] = [0.; 3];
            for image in 0..3 {
                for place in 4..16 {
                    let patch = order.int64_value(&[image, place]);
                    let (row, column) = (patch / 4 * 2, patch % 4 * 2);
                    let pixel = |k: i64| x.double_value(&[image, k % 3, row + k / 6, column + k / 3 % 2]);
                    let mean = (0..12).map(pixel).sum::<f64>() / 12.;
                    let var = (0..12).map(|k| (pixel(k) - mean).powi(2)).sum::<f64>() / 11.;
                    let (mean, deviation) = if norm_pix { (mean, (var + 1e-6).sqrt()) } else { (0., 1.) };
                    for k in 0..12 {
                        let color = (0..4).map(|i| pixel(3 * i + k % 3)).sum::<f64>() / 4.;
                        let target = (pixel(k) - mean) / deviation;
                        loss += (prediction.double_value(&[12 * image + place - 4, k]) - target).powi(2);
                        plain += ((color - mean) / deviation - target).powi(2);
                        count += 1.;
                    }
                }
            }
            assert_eq!((found[0].0.as_str(), found[1].0.as_str()), ("loss", "mean_patch_error"));
            for ((name, got), slow) in found.into_iter().zip([loss, plain]) {
                let got = f64::try_from(got).unwrap();
                assert!((got - slow / count).abs() < 1e-5, "{name}: {got} {}", slow / count);
            }
        }
    }

    #[test]
    fn only_hidden_patches_enter_the_loss_and_only_visible_ones_the_prediction() {
        let method = build(small(), 1);
        let (x, order) = (images(3, 1), fixed_order(3, 16, Device::Cpu).unwrap());
        let hidden = method.hidden(&order).unwrap();
        let patches = method.grid.patchify(&x).unwrap();
        let mix = |visible: &Tensor, hidden_ones: &Tensor| {
            let mixed = visible.index_copy(0, &hidden, &hidden_ones.index_select(0, &hidden));
            let (prediction, target) =
                method.predict(&method.grid.unpatchify(&mixed).unwrap(), &order, Mode::Eval).unwrap();
            (prediction, target.values)
        };
        let (other, plain) = (patches.cos(), mix(&patches, &patches));
        let (other_visible, other_hidden) = (mix(&other, &patches), mix(&patches, &other));
        assert!(other_visible.1.equal(&plain.1) && !other_visible.0.equal(&plain.0));
        assert!(other_hidden.0.equal(&plain.0) && !other_hidden.1.equal(&plain.1));
    }

    #[test]
    fn a_patch_is_predicted_the_same_wherever_it_stands_in_the_order() {
        let method = build(small(), 1);
        let (x, order) = (images(2, 1), fixed_order(2, 16, Device::Cpu).unwrap());
        let turned = Tensor::cat(&[order.narrow(1, 0, 4).flip([1]), order.narrow(1, 4, 12).flip([1])], 1);
        let [a, b] = [&order, &turned].map(|order| method.predict(&x, order, Mode::Eval).unwrap().0.view([2, 12, 4]));
        assert!(a.allclose(&b.flip([1]), 1e-4, 1e-5, false) && !a.allclose(&b, 1e-2, 1e-2, false));
    }

    #[test]
    fn positions_are_saved_without_a_gradient_and_weights_start_as_the_official_ones() {
        let vars = build(small(), 1).vars.variables();
        assert!(vars["decoder_pos_embed"].equal(&sincos_positions(8, 4).unwrap()));
        assert!(!vars["decoder_pos_embed"].requires_grad() && vars["mask_token"].requires_grad());
        // Uniform up to sqrt(6 / (8 + 32)).
        let most = f64::try_from(vars["decoder_blocks.0.mlp.fc1.weight"].abs().max()).unwrap();
        assert!(most < 0.3874 && most > 0.3, "{most}");
    }

    #[test]
    fn what_is_shown_has_the_visible_patches_and_gray_or_drawn_ones_beside_them() {
        let method = build(small(), 3);
        let (x, order) = (images(14, 3), fixed_order(12, 16, Device::Cpu).unwrap());
        let [(_, image), (_, masked), (_, drawn)] = &method.look(&Views(vec![x])).unwrap()[..] else { panic!() };
        let [image, masked, drawn] = [image, masked, drawn].map(|x| method.grid.patchify(x).unwrap());
        let hidden = method.hidden(&order).unwrap();
        assert_eq!(image.size(), [12 * 16, 12]);
        assert_eq!(f64::try_from(masked.index_select(0, &hidden).abs().max()).unwrap(), 0.);
        let blank = |x: &Tensor| x.index_fill(0, &hidden, 0.);
        assert!(blank(&image).equal(&masked) && blank(&drawn).equal(&masked) && !drawn.equal(&image));
    }

    #[test]
    fn a_patch_is_restored_from_the_others_alone() {
        let method = build(Config { norm_pix: false, ..small() }, 1);
        let x = images(2, 1);
        let restored = method.restore(&x).unwrap().unwrap();
        assert_eq!(restored.size(), x.size());
        let other = x.copy();
        let _ = other.narrow(2, 2, 2).narrow(3, 4, 2).sin_();
        let (found, difference) = (method.restore(&other).unwrap().unwrap(), |x: &Tensor, y: &Tensor| {
            f64::try_from((x - y).abs().max()).unwrap()
        });
        let patch = |x: &Tensor| x.narrow(2, 2, 2).narrow(3, 4, 2);
        assert!(difference(&patch(&found), &patch(&restored)) < 1e-6);
        assert!(difference(&found, &restored) > 1e-5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let resnet = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
        let refused = |config, encoders: Encoders| Mae::new(config, &encoders).unwrap_err().to_string();
        let message = refused(small(), Encoders::new(resnet, Device::Cpu));
        assert_eq!(message, "encoder: MAE needs a Vision Transformer such as vit_tiny, got a ResNet");
        for ratio in [0., 0.95, 1., f64::NAN] {
            let message = refused(Config { mask_ratio: ratio, ..small() }, encoders(1));
            assert!(message.starts_with("mask_ratio: expected") && message.contains("16 patches"), "{message}");
        }
        let message = refused(Config { decoder_dim: 6, ..small() }, encoders(1));
        assert!(message.ends_with("got (6, 1)"), "{message}");
        let message = refused(Config { augment: Augment::crop_and_flip(9), ..small() }, encoders(1));
        assert_eq!(message, "augment.size: expected a multiple of the 2 pixels of a patch, got 9");
        let step = |x| build(small(), 1).step(&Views(x), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(step(Vec::new()), "views: MAE takes one, got 0");
        let message = step(vec![Tensor::zeros([2, 1, 16, 16], (Kind::Float, Device::Cpu))]);
        assert_eq!(message, "images: expected [B, 1, 8, 8], got [2, 1, 16, 16]");
    }
}
