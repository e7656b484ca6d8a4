//! VideoMAE: most of a clip is hidden, in the same places of all frames, and a small decoder draws it from the rest.
//!
//! Source: Tong et al., 2022: <https://arxiv.org/abs/2203.12602>; names of the decoder, the order of pixels and their
//! normalization, by channel within each tubelet, are those of transformers 5 (`VideoMAEForPreTraining`), the start of
//! the mask token that of the official code. The hidden tubelets come behind the visible ones, each with its position.
use super::{Definition, Info, VideoMethod, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, VideoVitConfig, chosen, clips, sinusoid_positions, video_block};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Block, LayerNorm, Linear, Module, trunc_normal};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, no_grad, rng};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Reduction, Tensor};

/// The stream of random numbers of the masks on held-out clips.
const MASKS: u64 = 605;
/// Clips to look at, at most.
const SHOWN: i64 = 8;
/// What is added to the deviation of pixels.
const LEAST: f64 = 1e-6;

/// VideoMAE's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the places that is hidden in all frames.
    pub mask_ratio: f64,
    /// Width of the decoder.
    pub decoder_dim: i64,
    /// Blocks of the decoder.
    pub decoder_depth: i64,
    /// Attention heads of the decoder, which divide its width.
    pub decoder_heads: i64,
    /// Whether the pixels of each tubelet are normalized, each channel by itself, before they are predicted.
    pub norm_pix: bool,
    /// The clip, of the encoder's number of frames and size.
    pub view: View,
}

impl Default for Config {
    fn default() -> Self {
        let view = View::new(16, 4, Augment::crop_and_flip(224));
        Config { mask_ratio: 0.9, decoder_dim: 384, decoder_depth: 4, decoder_heads: 6, norm_pix: true, view }
    }
}

/// An encoder of visible tubelets and a decoder that is thrown away after training.
#[derive(Debug)]
pub struct VideoMae {
    vars: VarStore,
    encoder: Rc<Encoder>,
    decoder: Decoder,
    grid: Grid,
    config: Config,
}

impl Definition for VideoMae {
    const INFO: Info = Info {
        name: "video_mae",
        summary: "draw the hidden tubes of a clip from the visible ones",
        paper: "Tong, Song, Wang, Wang",
        year: 2022,
        kind: "masked",
        url: "https://arxiv.org/abs/2203.12602",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.view.validate()?;
        check::ranges([
            ("decoder_dim", config.decoder_dim, (1, 4096)),
            ("decoder_depth", config.decoder_depth, (1, 64)),
        ])?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let vit = encoder.vit(Self::INFO.name)?.config();
        let size = [config.view.frames, config.view.augment.clip.size].map(|number| number as i64);
        if size != [vit.frames, vit.image_size] {
            let message = format!("expected {} frames of {} pixels, as the encoder's, got {size:?}", vit.frames, vit.image_size);
            return Err(Error::config("view", message));
        }
        let grid = Grid::new(vit, config.mask_ratio)?;
        let decoder = Decoder::new(&vars.root(), encoder.dim(), &grid, &config)?;
        Ok(VideoMae { vars, encoder, decoder, grid, config })
    }
}

/// How clips are cut into tubelets, and how many places are seen.
#[derive(Debug)]
struct Grid {
    times: i64,
    side: i64,
    tubelet: i64,
    patch: i64,
    channels: i64,
    visible: i64,
}

impl Grid {
    fn new(vit: &VideoVitConfig, mask_ratio: f64) -> Result<Self> {
        let [times, side] = vit.grid();
        let places = side * side;
        let visible = places - (mask_ratio * places as f64) as i64;
        if !(0. ..1.).contains(&mask_ratio) || !(1..places).contains(&visible) {
            let message =
                format!("expected to hide and to leave one of {places} places at least, got a part of {mask_ratio}");
            return Err(Error::config("mask_ratio", message));
        }
        let VideoVitConfig { tubelet, patch_size: patch, channels, .. } = *vit;
        Ok(Grid { times, side, tubelet, patch, channels, visible })
    }

    fn places(&self) -> i64 {
        self.side * self.side
    }

    /// Of an order of places `[B, S]` of which the first are seen, the visible and the hidden tubelets of all times, by
    /// their numbers. `[B, times * visible]` and `[B, times * hidden]`.
    fn tubes(&self, order: &Tensor) -> Result<(Tensor, Tensor)> {
        let times = Tensor::f_arange(self.times, (Kind::Int64, order.device()))?.f_mul_scalar(self.places())?;
        let of = |start, length| -> Result<Tensor> {
            let places = order.f_narrow(1, start, length)?.f_unsqueeze(1)?;
            Ok(times.f_unsqueeze(1)?.f_add(&places)?.f_flatten(1, 2)?)
        };
        Ok((of(0, self.visible)?, of(self.visible, self.places() - self.visible)?))
    }

    /// `[B, C, T, H, W]` as `[B, N, t P P, C]`.
    fn cut(&self, x: &Tensor) -> Result<Tensor> {
        let Grid { times, side, tubelet, patch, channels, .. } = *self;
        let [b, ..] = clips(x, channels)?;
        let x = x.f_reshape([b, channels, times, tubelet, side, patch, side, patch])?;
        let x = x.f_permute([0, 2, 4, 6, 3, 5, 7, 1])?;
        Ok(x.f_reshape([b, times * side * side, tubelet * patch * patch, channels])?)
    }

    /// The inverse of [`Grid::cut`].
    fn join(&self, x: &Tensor) -> Result<Tensor> {
        let Grid { times, side, tubelet, patch, channels, .. } = *self;
        let x = x.f_reshape([-1, times, side, side, tubelet, patch, patch, channels])?;
        let x = x.f_permute([0, 7, 1, 4, 2, 5, 3, 6])?;
        Ok(x.f_reshape([-1, channels, times * tubelet, side * patch, side * patch])?)
    }
}

/// Pixels of tubelets as they are predicted, and what undoes their normalization; `[B, M, t P P, C]` each.
struct Target {
    values: Tensor,
    mean: Tensor,
    deviation: Tensor,
}

impl Target {
    fn new(pixels: &Tensor, normalize: bool) -> Result<Self> {
        let (var, mean) = pixels.f_var_mean_dim([2i64].as_slice(), true, true)?;
        let (mean, deviation) = match normalize {
            true => (mean, var.f_sqrt()?.f_add_scalar(LEAST)?),
            false => (mean.f_zeros_like()?, var.f_ones_like()?),
        };
        Ok(Target { values: pixels.f_sub(&mean)?.f_div(&deviation)?, mean, deviation })
    }

    /// Pixels as they were in the clip, from normalized ones.
    fn restore(&self, values: &Tensor) -> Result<Tensor> {
        Ok(values.f_mul(&self.deviation)?.f_add(&self.mean)?)
    }

    /// Each tubelet in its mean color.
    fn mean_color(&self) -> Result<Tensor> {
        Ok(self.values.f_mean_dim([2i64].as_slice(), true, Kind::Float)?.f_expand_as(&self.values)?)
    }
}

impl VideoMae {
    /// The hidden tubelets as predicted, `[B, M, t P P, C]`, and as they are.
    ///
    /// # Shapes
    /// `order`: `[B, S]`, the places of each clip, visible ones first.
    fn predict(&self, x: &Tensor, order: &Tensor, mode: Mode) -> Result<(Tensor, Target)> {
        let (visible, hidden) = self.grid.tubes(order)?;
        let tokens = self.encoder.vit(Self::INFO.name)?.tokens(x, Some(&visible), mode)?;
        let prediction = self.decoder.forward(&tokens, [&visible, &hidden], mode)?;
        let pixels = chosen(&self.grid.cut(x)?.f_flatten(2, 3)?, &hidden)?.f_unflatten(2, [-1, self.grid.channels])?;
        Ok((prediction.f_view_as(&pixels)?, Target::new(&pixels, self.config.norm_pix)?))
    }
}

/// Mean squared error in float32, whatever the precision around it.
fn squared_error(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(target.device(), || Ok(prediction.f_mse_loss(target, Reduction::Mean)?))
}

/// Random orders of the places that depend on the place in the batch alone. `[B, S]`.
fn fixed_order(clips: i64, places: i64, device: Device) -> Result<Tensor> {
    let mut rng = rng(0, &[MASKS]);
    let noise: Vec<f64> = (0..clips * places).map(|_| crate::random::unit(&mut rng)).collect();
    Ok(Tensor::f_from_slice(&noise)?.f_view([clips, places])?.f_argsort(1, false)?.f_to_device(device)?)
}

impl Method for VideoMae {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [x] = views(batch, Self::INFO.name)?;
        let noise = Tensor::f_rand([batch.len(), self.grid.places()], (Kind::Float, x.device()))?;
        let (prediction, target) = self.predict(x, &noise.f_argsort(1, false)?, Mode::Train)?;
        Ok(Output::new(squared_error(&prediction, &target.values)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    /// The errors beside those of tubelets in their mean color, which a network that has learned nothing draws.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let [x] = views(batch, Self::INFO.name)?;
            let order = fixed_order(batch.len(), self.grid.places(), x.device())?;
            let (prediction, target) = self.predict(x, &order, Mode::Eval)?;
            let plain = target.mean_color()?;
            let pixels = target.restore(&target.values)?;
            Ok(vec![
                ("loss".into(), squared_error(&prediction, &target.values)?),
                ("mean_tubelet_error".into(), squared_error(&plain, &target.values)?),
                ("pixel_error".into(), squared_error(&target.restore(&prediction)?, &pixels)?),
                ("mean_tubelet_pixel_error".into(), squared_error(&target.restore(&plain)?, &pixels)?),
            ])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let [x] = views(batch, Self::INFO.name)?;
            let x = x.f_narrow(0, 0, batch.len().min(SHOWN))?;
            let order = fixed_order(batch.len().min(SHOWN), self.grid.places(), x.device())?;
            let (prediction, target) = self.predict(&x, &order, Mode::Eval)?;
            let (_, hidden) = self.grid.tubes(&order)?;
            // Each tubelet has its own mean and deviation, which are not predicted.
            let drawn = target.restore(&prediction)?.f_flatten(2, 3)?;
            let tubelets = self.grid.cut(&x)?.f_flatten(2, 3)?;
            let index = hidden.f_unsqueeze(-1)?.f_expand_as(&drawn)?;
            let masked = self.grid.join(&tubelets.f_scatter(1, &index, &drawn.f_zeros_like()?)?)?;
            let drawn = self.grid.join(&tubelets.f_scatter(1, &index, &drawn)?)?;
            Ok(vec![("clip".into(), x), ("masked".into(), masked), ("reconstruction".into(), drawn)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for VideoMae {
    fn views(&self) -> Vec<View> {
        vec![self.config.view.clone()]
    }

    fn frames(&self, clips: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.frames(clips, Mode::Eval))
    }
}

/// Blocks over the tokens of visible tubelets and a learned token for each hidden one.
#[derive(Debug)]
struct Decoder {
    embed: Linear,
    mask_token: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Decoder {
    fn new(p: &Path, input: i64, grid: &Grid, config: &Config) -> Result<Self> {
        let dim = config.decoder_dim;
        let small = |weight: &Tensor| trunc_normal(weight, 0.02);
        let mask_token = p.f_zeros("mask_token", &[1, 1, dim])?;
        small(&mask_token)?;
        let place = p / "decoder";
        let layers = &place / "decoder_layers";
        let blocks = (0..config.decoder_depth).map(|n| video_block(&(&layers / n), dim, config.decoder_heads));
        let pixels = grid.tubelet * grid.patch * grid.patch * grid.channels;
        Ok(Decoder {
            embed: Linear::without_bias_with_init(&(p / "encoder_to_decoder"), input, dim, small)?,
            mask_token,
            positions: sinusoid_positions(grid.times * grid.places(), dim, p.device())?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: LayerNorm::new(&(&place / "norm"), dim, 1e-5)?,
            head: Linear::with_init(&(&place / "head"), dim, pixels, small)?,
        })
    }

    /// The pixels of the hidden tubelets, in float32. `[B, M, t P P C]`.
    fn forward(&self, tokens: &Tensor, [visible, hidden]: [&Tensor; 2], mode: Mode) -> Result<Tensor> {
        let tokens = self.embed.forward(tokens, mode)?.f_to_kind(Kind::Float)?;
        let b = tokens.size().first().copied().unwrap_or(0);
        let positions = self.positions.f_expand([b, -1, -1], false)?;
        let seen = tokens.f_add(&chosen(&positions, visible)?)?;
        let unseen = self.mask_token.f_add(&chosen(&positions, hidden)?)?;
        let count = unseen.size().get(1).copied().unwrap_or(0);
        let shown = seen.size().get(1).copied().unwrap_or(0);
        let mut x = Tensor::f_cat(&[seen, unseen], 1)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        let x = self.norm.forward(&x.f_narrow(1, shown, count)?, mode)?;
        Ok(self.head.forward(&x, mode)?.f_to_kind(Kind::Float)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::clips;
    use serde_json::Value;
    use ssl_core::check_method;
    use std::collections::BTreeMap;

    fn encoders(channels: i64) -> Encoders {
        let arch = "video_vit_d24_l2_h3".parse().unwrap();
        let config = VideoVitConfig { arch, image_size: 16, frames: 4, patch_size: 8, tubelet: 2, channels };
        Encoders::new(config, Device::Cpu)
    }

    fn small() -> Config {
        Config {
            mask_ratio: 0.5,
            decoder_dim: 12,
            decoder_depth: 1,
            decoder_heads: 3,
            view: View::new(4, 1, Augment::whole(16)),
            ..Config::default()
        }
    }

    fn build(config: Config, channels: i64) -> Result<VideoMae> {
        VideoMae::new(config, &encoders(channels))
    }

    #[test]
    fn it_keeps_the_contract() {
        let (x, scratch) = (clips(6, 4), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| build(small(), 1), &batch, &x, scratch.path()).unwrap();
    }

    /// sin(0.37 n + shift), the position n modulo 1009.
    fn wave(shape: &[i64], shift: usize) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<f64> = (0..count).map(|n| (0.37 * (n % 1009) as f64 + shift as f64).sin()).collect();
        Tensor::from_slice(&values).view(shape)
    }

    #[test]
    fn names_loss_and_prediction_equal_transformers() {
        let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/video_mae.json")).unwrap();
        let method = build(small(), 3).unwrap();
        // There the encoder is called videomae.
        let named: BTreeMap<String, Tensor> = method
            .vars
            .variables()
            .into_iter()
            .map(|(name, x)| (name.strip_prefix("encoder.").map_or(name.clone(), |rest| format!("videomae.{rest}")), x))
            .collect();
        let shapes: BTreeMap<&str, Vec<i64>> = named.iter().map(|(name, x)| (name.as_str(), x.size())).collect();
        assert_eq!(serde_json::to_value(shapes).unwrap(), fixture["shapes"]);
        for (shift, (name, mut tensor)) in named.into_iter().enumerate() {
            let value = wave(&tensor.size(), shift);
            let value = match tensor.dim() {
                2 | 5 => value * (2.0 / tensor.size()[1..].iter().product::<i64>() as f64).sqrt(),
                _ if name.ends_with("weight") => value * 0.1 + 1.0,
                _ => value * 0.1,
            };
            no_grad(|| tensor.copy_(&value));
        }
        let x = wave(&[2, 3, 4, 16, 16], 0).to_kind(Kind::Float);
        // Places 1 and 2 are hidden.
        let order = Tensor::from_slice(&[0i64, 3, 1, 2]).expand([2, 4], false);
        let (prediction, target) = method.predict(&x, &order, Mode::Train).unwrap();
        let loss = squared_error(&prediction, &target.values).unwrap().double_value(&[]);
        let expected = fixture["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
        let logits = prediction.flatten(0, -1);
        for (n, expected) in fixture["logits"].as_array().unwrap().iter().enumerate() {
            let got = logits.double_value(&[11 * n as i64]);
            assert!((got - expected.as_f64().unwrap()).abs() < 1e-4, "{n}: {got} {expected}");
        }
    }

    #[test]
    fn tubes_hide_the_same_places_of_all_times() {
        let method = build(small(), 1).unwrap();
        let order = Tensor::from_slice(&[2i64, 0, 3, 1, 1, 2, 0, 3]).view([2, 4]);
        let (visible, hidden) = method.grid.tubes(&order).unwrap();
        let rows = |x: &Tensor| (0..2).map(|n| Vec::<i64>::try_from(x.get(n)).unwrap()).collect::<Vec<_>>();
        assert_eq!(rows(&visible), [[2, 0, 6, 4], [1, 2, 5, 6]]);
        assert_eq!(rows(&hidden), [[3, 1, 7, 5], [0, 3, 4, 7]]);
        let fixed = fixed_order(3, 4, Device::Cpu).unwrap();
        assert!(fixed_order(2, 4, Device::Cpu).unwrap().equal(&fixed.narrow(0, 0, 2)));
    }

    #[test]
    fn clips_are_cut_and_joined_again_and_only_hidden_places_are_drawn() {
        let method = build(small(), 1).unwrap();
        let x = clips(10, 4);
        let tubelets = method.grid.cut(&x).unwrap();
        assert_eq!(tubelets.size(), [10, 8, 128, 1]);
        // Of the second times, the upper right corner: frame 3, row 2, column 8 + 5.
        assert_eq!(tubelets.double_value(&[1, 5, 64 + 16 + 5, 0]), x.double_value(&[1, 0, 3, 2, 13]));
        assert!(method.grid.join(&tubelets).unwrap().equal(&x));
        let rows = method.look(&Views(vec![x])).unwrap();
        let [(_, clip), (_, masked), (_, drawn)] = &rows[..] else { panic!() };
        let seen = masked.ne(0.);
        assert_eq!(clip.size()[0], SHOWN);
        let part = f64::try_from(seen.to_kind(Kind::Float).mean(Kind::Float)).unwrap();
        assert!((part - 0.5).abs() < 1e-3, "{part}");
        let differ = drawn.ne_tensor(clip);
        assert_eq!(i64::try_from(differ.logical_and(&seen).sum(Kind::Int64)).unwrap(), 0);
        assert!(i64::try_from(differ.sum(Kind::Int64)).unwrap() > 0);
    }

    #[test]
    fn a_network_that_draws_the_mean_has_the_error_of_the_mean() {
        let method = build(small(), 1).unwrap();
        let found = method.validate(&Views(vec![clips(3, 4)])).unwrap();
        assert_eq!(found[1].0, "mean_tubelet_error");
        // Normalized pixels have a variance of 1, taken over one number less.
        assert!((found[1].1.double_value(&[]) - 127. / 128.).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |config: Config| build(config, 1).unwrap_err().to_string();
        for mask_ratio in [0.2, 1., f64::NAN] {
            let message = message(Config { mask_ratio, ..small() });
            assert!(message.starts_with("mask_ratio: expected") && message.contains("4 places"), "{message}");
        }
        let view = View::new(6, 1, Augment::whole(16));
        let message = message(Config { view, ..small() });
        assert_eq!(message, "view: expected 4 frames of 16 pixels, as the encoder's, got [6, 16]");
        let other = VideoMae::new(small(), &crate::methods::tests::encoders("r3d10_w4", 4));
        assert!(other.unwrap_err().to_string().starts_with("encoder: video_mae needs"));
    }
}
