//! SimMIM: a token stands for the hidden squares of an image, and one linear layer over the encoder's outputs draws their
//! pixels.
//!
//! Source: Xie et al., 2021: <https://arxiv.org/abs/2111.09886>; the official code (`microsoft/SimMIM`,
//! `models/simmim.py`, `data/data_simmim.py`). Departures: the encoder is timm's Vision Transformer with its positions
//! at the input, where the official one adds learned biases to its attention; pixels come patch by patch, which is
//! another order of the layer's outputs.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::masked::{Chance, Filler, Grid, Mask, check_ratio, scattered};
use crate::pretext::{only, shown};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::Linear;
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, no_grad};
use tch::nn::VarStore;
use tch::{Reduction, Tensor};

/// SimMIM's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the squares that is hidden, rounded up.
    pub mask_ratio: f64,
    /// Side of a square in pixels, a multiple of the patches' that divides the view.
    pub mask_size: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.67, 1.0], ..Augment::crop_and_flip(224) };
        Config { mask_ratio: 0.6, mask_size: 32, augment }
    }
}

/// An encoder of whole and of hidden patches, and a layer that draws the hidden ones.
#[derive(Debug)]
pub struct SimMim {
    vars: VarStore,
    filler: Filler,
    grid: Grid,
    config: Config,
}

impl Definition for SimMim {
    const INFO: Info = Info {
        name: "simmim",
        summary: "draw hidden squares of an image with one layer over the encoder",
        paper: "Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu",
        year: 2021,
        kind: "masked",
        url: "https://arxiv.org/abs/2111.09886",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let (size, square) = (config.augment.size as i64, config.mask_size);
        let grid = Grid::new(encoder.vit("SimMIM")?, size)?;
        if square < 1 || square % grid.patch != 0 || size % square != 0 {
            let expected = format!("expected a multiple of the patches' {} that divides {size} pixels", grid.patch);
            return Err(Error::config("mask_size", format!("{expected}, got {square}")));
        }
        let squares = (size / square).pow(2);
        check_ratio(config.mask_ratio, (squares as f64 * config.mask_ratio).ceil() as i64, squares)?;
        let head = Linear::new(&(vars.root() / "decoder"), encoder.dim(), grid.pixels())?;
        let filler = Filler::new(&vars.root(), "SimMIM", encoder, head)?;
        Ok(SimMim { vars, filler, grid, config })
    }
}

impl SimMim {
    /// The hidden patches, as predicted and as they are: `[M, P]` each.
    fn predict(&self, x: &Tensor, mask: &Mask, mode: Mode) -> Result<[Tensor; 2]> {
        let pixels = self.grid.patchify(x)?.f_index_select(0, &mask.index)?;
        Ok([self.filler.predict(x, mask, mode)?, pixels])
    }

    fn mask(&self, x: &Tensor, chance: Chance) -> Result<Mask> {
        let unit = self.config.mask_size / self.grid.patch;
        let of_one = |rng: &mut _| scattered(self.grid.side, unit, self.config.mask_ratio, rng);
        Mask::draw((x.len(), x.device()), chance, of_one)
    }
}

impl Method for SimMim {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, "SimMIM")?;
        let [prediction, pixels] = self.predict(x, &self.mask(x, Chance::Generator)?, Mode::Train)?;
        Ok(Output::new(distance(&prediction, &pixels)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.filler.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.filler.encoder.stages(input)
    }

    /// The loss beside that of patches in their mean color.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, "SimMIM")?;
            let [prediction, pixels] = self.predict(x, &self.mask(x, Chance::Fixed)?, Mode::Eval)?;
            let plain = self.grid.mean_color(&pixels)?;
            Ok(vec![
                ("loss".into(), distance(&prediction, &pixels)?),
                ("mean_patch_error".into(), distance(&plain, &pixels)?),
            ])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, "SimMIM")?)?;
            let mask = self.mask(&x, Chance::Fixed)?;
            let [prediction, _] = self.predict(&x, &mask, Mode::Eval)?;
            self.grid.pictures(x, &mask.index, &prediction)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for SimMim {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

/// Mean absolute difference in float32, whatever the precision around it.
fn distance(prediction: &Tensor, pixels: &Tensor) -> Result<Tensor> {
    Precision::Fp32.scope(pixels.device(), || Ok(prediction.f_l1_loss(pixels, Reduction::Mean)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::VitConfig;
    use ssl_core::check_method;
    use tch::{Device, Kind};

    fn encoders(channels: i64) -> Encoders {
        let arch = "vit_d16_l2_h2".parse().unwrap();
        let config = VitConfig { arch, image_size: 8, patch_size: 2, channels, ..VitConfig::default() };
        Encoders::new(config, Device::Cpu)
    }

    fn small() -> Config {
        Config { mask_size: 4, augment: Augment::crop_and_flip(8), ..Config::default() }
    }

    fn build(channels: i64) -> SimMim {
        SimMim::new(small(), &encoders(channels)).unwrap()
    }

    fn images(n: i64, channels: i64) -> Tensor {
        let pixels = Tensor::arange(n * channels * 64, (Kind::Float, Device::Cpu)).square().sin();
        pixels.view([n, channels, 8, 8])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (images(6, 1), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| SimMim::new(small(), &encoders(1)), &batch, &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_mean_distance_of_hidden_pixels() {
        let (method, x) = (build(3), images(3, 3));
        let mask = method.mask(&x, Chance::Fixed).unwrap();
        let all = Mask { index: Tensor::arange(48, (Kind::Int64, Device::Cpu)), ..mask };
        let [drawn, _] = method.predict(&x, &all, Mode::Eval).unwrap();
        let drawn = method.grid.unpatchify(&drawn).unwrap();
        let [mut loss, mut count] = [0.; 2];
        for (image, c, row, column) in
            (0..3 * 3 * 64).map(|i| (i / 192, i / 64 % 3, i / 8 % 8, i % 8))
        {
            if all.hidden.int64_value(&[image, row / 2 * 4 + column / 2]) == 1 {
                let at = [image, c, row, column];
                loss += (drawn.double_value(&at) - x.double_value(&at)).abs();
                count += 1.;
            }
        }
        // Three of four squares of 16 pixels.
        assert_eq!(count, 3. * 3. * 48.);
        let found = method.validate(&Views(vec![x])).unwrap();
        let value = |i: usize| found[i].1.double_value(&[]);
        assert!((value(0) - loss / count).abs() < 1e-5, "{} {}", value(0), loss / count);
        assert!(found[1].0 == "mean_patch_error" && value(1) > 0.1);
    }

    #[test]
    fn hidden_pixels_are_not_seen_and_visible_ones_are_not_asked_for() {
        let (method, x) = (build(1), images(3, 1));
        let mask = method.mask(&x, Chance::Fixed).unwrap();
        let grid = &method.grid;
        let patches = grid.patchify(&x).unwrap();
        let other = patches.index_copy(0, &mask.index, &patches.cos().index_select(0, &mask.index));
        let predict = |patches: &Tensor| {
            method.predict(&grid.unpatchify(patches).unwrap(), &mask, Mode::Eval).unwrap()
        };
        let ([drawn, asked], [again, others]) = (predict(&patches), predict(&other));
        assert!(drawn.equal(&again) && !asked.equal(&others));
        let visible = patches.cos().index_copy(0, &mask.index, &patches.index_select(0, &mask.index));
        let [drawn_otherwise, asked_again] = predict(&visible);
        assert!(!drawn.equal(&drawn_otherwise) && asked.equal(&asked_again));
    }

    #[test]
    fn whole_squares_are_hidden_and_shown_as_such() {
        let (method, x) = (build(3), images(14, 3));
        let [(_, image), (_, masked), (_, drawn)] = &method.look(&Views(vec![x])).unwrap()[..] else { panic!() };
        assert_eq!(image.size(), [12, 3, 8, 8]);
        let gray = masked.abs().view([12, 3, 2, 4, 2, 4]).amax([1i64, 3, 5].as_slice(), false).eq(0.);
        assert!(gray.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Int64).eq(3).all() == Tensor::from(true));
        assert!(!drawn.equal(image) && !drawn.equal(masked));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |config: Config| SimMim::new(config, &encoders(1)).unwrap_err().to_string();
        let message = refused(Config { mask_size: 3, ..small() });
        assert_eq!(message, "mask_size: expected a multiple of the patches' 2 that divides 8 pixels, got 3");
        for mask_ratio in [0., 0.8, f64::NAN] {
            let message = refused(Config { mask_ratio, ..small() });
            assert!(message.starts_with("mask_ratio: expected") && message.contains("4 patches"), "{message}");
        }
        let message = build(1).step(&Views(Vec::new()), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: SimMIM takes one, got 0");
    }
}
