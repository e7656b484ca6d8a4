//! Relative location: on which of eight sides of a tile does its neighbor lie?
//!
//! Source: Doersch, Gupta, Efros, 2015: <https://arxiv.org/abs/1505.05192>. The layers after the tiles' network are as
//! many and as wide as in the paper, without batch norm; the encoder is any one here instead of an AlexNet. As in
//! MMSelfSup, the middle tile of a view is paired with each of its eight neighbors, where the paper draws pairs. Tiles
//! have mean 0 and deviation 1, where the paper subtracts the mean. Of its two answers to chromatic aberration it is
//! the dropping of channels; tiles are not made coarser at random.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::pretext::{classified, only, square};
use crate::tiles::{Cutter, TILES, normalize_tiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The cell in the middle, row by row.
const MIDDLE: i64 = TILES / 2;
/// Cells around it.
const NEIGHBORS: i64 = TILES - 1;
/// Deviation of the noise in dropped channels over that of the one that is left.
const NOISE: f64 = 0.01;

/// Relative location's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Side of a tile in pixels; what a third of the view has more is the gap between tiles.
    pub tile_size: i64,
    /// Pixels by which a tile lies off the middle of its third at most, either way.
    pub jitter: i64,
    /// Whether each tile of a color image keeps one channel, drawn at random, and has noise in the others.
    pub drop_channels: bool,
    /// Units of the layer that each tile passes alone.
    pub tile_dim: i64,
    /// Units of the two layers that a pair passes.
    pub hidden_dim: i64,
    /// The random view that is cut into tiles; a flip would hide which side is left.
    pub augment: Augment,
}

impl Default for Config {
    /// Tiles of 96 pixels with gaps of half as much; a view is half of an image and more.
    fn default() -> Self {
        let crop = Augment { size: 432, crop_scale: [0.5, 1.], crop_ratio: [1., 1.], ..Augment::default() };
        let augment = Augment { flip_probability: 0., ..crop };
        let (tile_size, jitter, tile_dim, hidden_dim) = (96, 7, 4096, 4096);
        Config { tile_size, jitter, drop_channels: true, tile_dim, hidden_dim, augment }
    }
}

/// An encoder of tiles and a classifier of eight sides.
#[derive(Debug)]
pub struct RelativeLocation {
    vars: VarStore,
    encoder: Rc<Encoder>,
    tile: Linear,
    hidden: [Linear; 2],
    classifier: Linear,
    cutter: Cutter,
    config: Config,
}

impl Definition for RelativeLocation {
    const INFO: Info = Info {
        name: "relative_location",
        summary: "tell on which side of a tile its neighbor lies",
        paper: "Doersch, Gupta, Efros",
        year: 2015,
        kind: "pretext",
        url: "https://arxiv.org/abs/1505.05192",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (tile_dim, hidden_dim) = (config.tile_dim, config.hidden_dim);
        check::ranges([
            ("jitter", config.jitter, (0, 1 << 16)),
            ("tile_dim", tile_dim, (1, 1 << 16)),
            ("hidden_dim", hidden_dim, (1, 1 << 16)),
        ])?;
        config.augment.validate()?;
        let cutter = Cutter { size: config.tile_size, jitter: config.jitter, channel_shift: 0 };
        cutter.cell(config.augment.size as i64)?;
        let vars = VarStore::new(encoders.device());
        let (encoder, p) = (encoders.student(&vars)?, vars.root());
        Ok(RelativeLocation {
            tile: Linear::new(&(&p / "tile"), encoder.dim(), tile_dim)?,
            hidden: [
                Linear::new(&(&p / "hidden" / 0), 2 * tile_dim, hidden_dim)?,
                Linear::new(&(&p / "hidden" / 1), hidden_dim, hidden_dim)?,
            ],
            classifier: Linear::new(&(&p / "classifier"), hidden_dim, NEIGHBORS)?,
            encoder,
            vars,
            cutter,
            config,
        })
    }
}

impl RelativeLocation {
    /// The nine tiles of each view. `[B, 9, C, T, T]`.
    fn tiles(&self, x: &Tensor, offset: &Tensor) -> Result<Tensor> {
        let ((n, _, _), options) = (square(x)?, (Kind::Int64, x.device()));
        let cells = Tensor::f_arange(TILES, options)?.f_expand([n, TILES], false)?;
        self.cutter.cut(x, &Tensor::f_arange(n, options)?, &cells, offset)
    }

    /// Logits of where the eight tiles around the middle one lie. `[8 B, 8]`.
    fn classify(&self, tiles: &Tensor, mode: Mode) -> Result<Tensor> {
        let h = self.encoder.forward(&normalize_tiles(tiles)?.f_flatten(0, 1)?, mode)?; // [9 B, D].
        let h = self.tile.forward(&h, mode)?.f_relu_()?.f_view([-1, TILES, self.config.tile_dim])?;
        let middle = h.f_narrow(1, MIDDLE, 1)?.f_expand([-1, NEIGHBORS, -1], false)?;
        let mut h = Tensor::f_cat(&[middle, around(&h)?], 2)?.f_flatten(0, 1)?; // [8 B, 2 D].
        for layer in &self.hidden {
            h = layer.forward(&h, mode)?.f_relu_()?;
        }
        self.classifier.forward(&h, mode)
    }

    /// Cross entropy and accuracy over the pairs of all views.
    fn predict(&self, tiles: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let logits = self.classify(tiles, mode)?;
        let sides = Tensor::f_arange(NEIGHBORS, (Kind::Int64, tiles.device()))?;
        classified(&logits, &sides.f_repeat([tiles.size().first().copied().unwrap_or(0)])?)
    }
}

/// All but the middle one of nine, in the order of the sides that are to be told. `[B, 8, ..]`.
fn around(x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_cat(&[x.f_narrow(1, 0, MIDDLE)?, x.f_narrow(1, MIDDLE + 1, NEIGHBORS - MIDDLE)?], 1)?)
}

/// One channel of each tile, drawn from libtorch's generator, with weak noise in the others.
///
/// # Shapes
/// `tiles`: `[B, 9, C, T, T]`; returns the same.
fn drop_channels(tiles: &Tensor) -> Result<Tensor> {
    let [n, _, channels, ..] = tiles.size()[..] else { return Ok(tiles.shallow_clone()) };
    let kept = Tensor::f_randint(channels, [n, TILES, 1], (Kind::Int64, tiles.device()))?;
    let is_kept = kept.f_eq_tensor(&Tensor::f_arange(channels, (Kind::Int64, tiles.device()))?)?;
    let is_kept = is_kept.f_unsqueeze(-1)?.f_unsqueeze(-1)?; // [B, 9, C, 1, 1].
    let deviation = tiles.f_std_dim([3i64, 4].as_slice(), false, true)?.f_mul(&is_kept)?;
    let deviation = deviation.f_sum_dim_intlist([2i64].as_slice(), true, tiles.kind())?;
    let noise = tiles.f_randn_like()?.f_mul(&deviation)?.f_mul_scalar(NOISE)?;
    Ok(tiles.f_where_self(&is_kept, &noise)?)
}

impl Method for RelativeLocation {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        let (n, channels, _) = square(x)?;
        let tiles = self.tiles(x, &self.cutter.draw(x, n)?)?;
        let tiles = if self.config.drop_channels && channels > 1 { drop_channels(&tiles)? } else { tiles };
        let (loss, accuracy) = self.predict(&tiles, Mode::Train)?;
        Output::new(loss).with("accuracy", &accuracy)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let x = only(batch, Self::INFO.name)?;
        let tiles = self.tiles(x, &self.cutter.middle(x)?)?;
        let (loss, accuracy) = no_grad(|| self.predict(&tiles, Mode::Eval))?;
        let chance = Tensor::from(1. / NEIGHBORS as f64);
        Ok(vec![("loss".into(), loss), ("accuracy".into(), accuracy), ("chance".into(), chance)])
    }

    /// The views, and each with its tiles where they are said to lie; of two in one place one is seen.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let x = only(batch, Self::INFO.name)?;
        no_grad(|| {
            let ((n, _, side), tiles) = (square(x)?, self.tiles(x, &self.cutter.middle(x)?)?);
            let found = self.classify(&tiles, Mode::Eval)?.f_argmax(-1, false)?.f_view([n, NEIGHBORS, 1, 1, 1])?;
            // The sides from the middle on are one cell further.
            let cells = found.f_add(&found.f_ge(MIDDLE)?)?;
            let tiles_around = around(&tiles)?;
            let placed = tiles.f_zeros_like()?.f_scatter(1, &cells.f_expand_as(&tiles_around)?, &tiles_around)?;
            placed.f_select(1, MIDDLE)?.f_copy_(&tiles.f_select(1, MIDDLE)?)?;
            let placed = self.cutter.paste(&placed, side)?;
            Ok(vec![("image view".into(), x.shallow_clone()), ("tiles where they are said to lie".into(), placed)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for RelativeLocation {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::tiles::tests::pixels;
    use ssl_core::check_method;
    use tch::Device;

    /// Views of 12 pixels, cells of 4.
    fn small(tile_size: i64) -> Config {
        let augment = Augment { size: 12, ..Config::default().augment };
        Config { tile_size, tile_dim: 16, hidden_dim: 16, augment, ..Config::default() }
    }

    fn build(config: Config) -> Result<RelativeLocation> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        RelativeLocation::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(4, 12), tempfile::tempdir().unwrap());
        check_method(|| build(small(3)), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_logits_of_a_pair_come_from_the_middle_tile_and_that_neighbor_alone() {
        let method = build(small(4)).unwrap();
        let tiles = method.tiles(&pixels(2, 12), &method.cutter.middle(&pixels(2, 12)).unwrap()).unwrap();
        let logits = |tiles: &Tensor| method.classify(tiles, Mode::Eval).unwrap().view([2, 8, 8]);
        let before = logits(&tiles);
        for cell in 0..9 {
            let other = tiles.copy();
            let _ = other.get(1).get(cell).sin_();
            let after = logits(&other);
            let moved: Vec<i64> = (0..8).filter(|&k| !after.get(1).get(k).equal(&before.get(1).get(k))).collect();
            let expected = match cell {
                4 => (0..8).collect(),
                cell => vec![cell - i64::from(cell > 4)],
            };
            assert_eq!(moved, expected, "{cell}");
            assert!(after.get(0).equal(&before.get(0)), "{cell}");
        }
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_pairs() {
        let method = build(small(4)).unwrap();
        let x = pixels(3, 12);
        let tiles = method.tiles(&x, &method.cutter.middle(&x).unwrap()).unwrap();
        let logits = method.classify(&tiles, Mode::Eval).unwrap();
        let (mut loss, mut hits) = (0., 0.);
        for (pair, side) in (0..24).zip((0..8usize).cycle()) {
            let row = Vec::<f64>::try_from(logits.get(pair).to_kind(Kind::Double)).unwrap();
            loss += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[side];
            hits += f64::from(row.iter().all(|&x| x <= row[side]));
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        let found: Vec<(&str, f64)> = found.iter().map(|(k, x)| (k.as_str(), f64::try_from(x).unwrap())).collect();
        assert!(found[0].0 == "loss" && (found[0].1 - loss / 24.).abs() < 1e-5, "{found:?} {loss}");
        assert!(found[1].0 == "accuracy" && (found[1].1 - hits / 24.).abs() < 1e-6, "{found:?} {hits}");
        assert_eq!(found[2], ("chance", 0.125));
    }

    #[test]
    fn one_channel_of_each_tile_is_kept_and_the_others_are_noise() {
        let tiles = pixels(40, 12).view([10, 4, 2, 12, 12]).repeat([1, 3, 1, 1, 1]).narrow(1, 0, 9);
        let dropped = drop_channels(&tiles).unwrap();
        let mut kept = [0; 2];
        for (image, tile) in (0..10).flat_map(|image| (0..9).map(move |tile| (image, tile))) {
            let [before, after] = [&tiles, &dropped].map(|x| x.get(image).get(tile));
            let same: Vec<usize> = (0..2).filter(|&c| after.get(c as i64).equal(&before.get(c as i64))).collect();
            assert_eq!(same.len(), 1, "{image} {tile}");
            kept[same[0]] += 1;
            let [left, noise] =
                [same[0] as i64, 1 - same[0] as i64].map(|c| f64::try_from(after.get(c).std(true)).unwrap());
            assert!((0.007..0.013).contains(&(noise / left)), "{}", noise / left);
        }
        assert!(kept.iter().all(|&count| count > 20), "{kept:?}");
    }

    #[test]
    fn tiles_are_shown_where_the_classifier_puts_them() {
        let method = build(small(4)).unwrap();
        let mut variables = method.vars.variables();
        // Whatever the pair, side 5 is said, which is cell 6.
        no_grad(|| {
            let _ = variables.get_mut("classifier.weight").unwrap().zero_();
            let _ = variables.get_mut("classifier.bias").unwrap().zero_().get(5).fill_(1.);
        });
        let x = pixels(2, 12);
        let [(_, view), (_, placed)] = &method.look(&Views(vec![x.shallow_clone()])).unwrap()[..] else { panic!() };
        assert!(view.equal(&x));
        let cell = |x: &Tensor, k: i64| x.narrow(2, k / 3 * 4, 4).narrow(3, k % 3 * 4, 4);
        assert!(cell(placed, 4).equal(&cell(&x, 4)));
        assert!((0..9).any(|k| k != 4 && cell(placed, 6).equal(&cell(&x, k))));
        for k in [0, 1, 2, 3, 5, 7, 8] {
            assert_eq!(f64::try_from(cell(placed, k).abs().max()).unwrap(), 0., "{k}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let said = |config| build(config).unwrap_err().to_string();
        assert_eq!(said(small(5)), "tile_size: expected 1 to 4, a third of the view's 12 pixels, got 5");
        assert_eq!(said(Config { jitter: -1, ..small(4) }), "jitter: expected 0 to 65536, got -1");
        let method = build(small(4)).unwrap();
        let said = |views| method.validate(&Views(views)).unwrap_err().to_string();
        assert_eq!(
            said(vec![pixels(2, 12).narrow(3, 0, 11)]),
            "images: expected [B, C, S, S], square, got [2, 2, 12, 11]"
        );
        assert_eq!(said(Vec::new()), "views: relative_location takes one, got 0");
    }
}
