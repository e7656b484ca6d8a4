//! MaskFeat: a token stands for hidden patches, and a linear layer over the encoder's outputs tells their histograms of
//! oriented gradients.
//!
//! Source: Wei et al., 2021: <https://arxiv.org/abs/2112.09133>; the official code (`facebookresearch/SlowFast`,
//! `slowfast/models/masked.py` and `operators.py`, `configs/masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml`). Masks are BEiT's
//! blocks. Departure: the Gaussian window over gradients is as large as a patch, which is the official size for patches of
//! 16 pixels.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::hog::Hog;
use crate::masked::{Chance, Filler, Grid, Mask, check_ratio};
use crate::pretext::{only, shown, squared_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, trunc_normal};
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad};
use tch::Tensor;
use tch::nn::VarStore;

/// MaskFeat's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the patches that is hidden; now and then an image hides less, where no block fits any more.
    pub mask_ratio: f64,
    /// Patches of a block at least.
    pub least_block: i64,
    /// Directions of gradients that are told apart, of half a turn.
    pub bins: i64,
    /// Side of the cell of a histogram in pixels, which divides the patch.
    pub cell: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.5, 1.0], ..Augment::crop_and_flip(224) };
        Config { mask_ratio: 0.4, least_block: 16, bins: 9, cell: 8, augment }
    }
}

/// An encoder of whole and of hidden patches, and a layer that tells histograms of the hidden ones.
#[derive(Debug)]
pub struct MaskFeat {
    vars: VarStore,
    filler: Filler,
    grid: Grid,
    hog: Hog,
    config: Config,
}

impl Definition for MaskFeat {
    const INFO: Info = Info {
        name: "maskfeat",
        summary: "tell the directions of edges in hidden patches from the visible ones",
        paper: "Wei, Fan, Xie, Wu, Yuille, Feichtenhofer",
        year: 2021,
        kind: "masked",
        url: "https://arxiv.org/abs/2112.09133",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let grid = Grid::new(encoder.vit("MaskFeat")?, config.augment.size as i64)?;
        let Config { bins, cell, least_block, .. } = config;
        check::at_least(1, [("bins", bins), ("cell", cell), ("least_block", least_block)])?;
        if grid.patch % cell != 0 {
            let message = format!("expected a divisor of the {} pixels of a patch, got {cell}", grid.patch);
            return Err(Error::config("cell", message));
        }
        check_ratio(config.mask_ratio, (grid.patches() as f64 * config.mask_ratio) as i64, grid.patches())?;
        let hog = Hog { bins, cell, patch: grid.patch, channels: grid.channels };
        let small = |x: &Tensor| trunc_normal(x, 0.02);
        let head = Linear::with_init(&(vars.root() / "head"), encoder.dim(), hog.features(), small)?;
        let filler = Filler::new(&vars.root(), "MaskFeat", encoder, head)?;
        Ok(MaskFeat { vars, filler, grid, hog, config })
    }
}

impl MaskFeat {
    /// The histograms of the hidden patches, as predicted and as they are: `[M, F]` each.
    fn predict(&self, x: &Tensor, mask: &Mask, mode: Mode) -> Result<[Tensor; 2]> {
        let target = self.hog.of_patches(x)?.f_index_select(0, &mask.index)?;
        Ok([self.filler.predict(x, mask, mode)?, target])
    }

    fn mask(&self, x: &Tensor, chance: Chance) -> Result<Mask> {
        let Config { mask_ratio, least_block, .. } = self.config;
        Mask::of_blocks(x, &self.grid, mask_ratio, least_block, chance)
    }
}

impl Method for MaskFeat {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, "MaskFeat")?;
        let [prediction, target] = self.predict(x, &self.mask(x, Chance::Generator)?, Mode::Train)?;
        Ok(Output::new(squared_error(&prediction, &target)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.filler.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.filler.encoder.stages(input)
    }

    /// The loss beside that of the mean histogram, which is the best guess without looking.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, "MaskFeat")?;
            let [prediction, target] = self.predict(x, &self.mask(x, Chance::Fixed)?, Mode::Eval)?;
            let mean = target.f_mean_dim([0i64].as_slice(), true, target.kind())?.f_expand_as(&target)?;
            Ok(vec![
                ("loss".into(), squared_error(&prediction, &target)?),
                ("mean_histogram_error".into(), squared_error(&mean, &target)?),
            ])
        })
    }

    /// The hidden patches' histograms are drawn as lines along the edges that they tell of.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, "MaskFeat")?)?;
            let mask = self.mask(&x, Chance::Fixed)?;
            let [prediction, target] = self.predict(&x, &mask, Mode::Eval)?;
            let drawn = |histograms: &Tensor| -> Result<Vec<(String, Tensor)>> {
                self.grid.pictures(x.shallow_clone(), &mask.index, &self.hog.lines(histograms)?)
            };
            let mut pictures = drawn(&target)?;
            pictures.extend(drawn(&prediction)?.pop());
            let names = ["image", "masked", "edges", "edges told"];
            Ok(names.into_iter().zip(pictures).map(|(name, (_, picture))| (name.into(), picture)).collect())
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for MaskFeat {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::VitConfig;
    use ssl_core::check_method;
    use tch::{Device, Kind};

    fn encoders() -> Encoders {
        let arch = "vit_d16_l2_h2".parse().unwrap();
        let config = VitConfig { arch, image_size: 16, patch_size: 4, channels: 1, ..VitConfig::default() };
        Encoders::new(config, Device::Cpu)
    }

    fn small() -> Config {
        Config { cell: 2, least_block: 2, augment: Augment::crop_and_flip(16), ..Config::default() }
    }

    fn build() -> MaskFeat {
        MaskFeat::new(small(), &encoders()).unwrap()
    }

    fn images(n: i64) -> Tensor {
        Tensor::arange(n * 256, (Kind::Float, Device::Cpu)).square().sin().view([n, 1, 16, 16])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (images(6), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| MaskFeat::new(small(), &encoders()), &batch, &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_hidden_patches() {
        let (method, x) = (build(), images(3));
        let mask = method.mask(&x, Chance::Fixed).unwrap();
        let [prediction, _] = method.predict(&x, &mask, Mode::Eval).unwrap();
        let histograms = method.hog.of_patches(&x).unwrap();
        let (mut loss, mut row) = (0., 0);
        for (patch, image) in (0..48).map(|patch| (patch, patch / 16)) {
            if mask.hidden.int64_value(&[image, patch % 16]) == 1 {
                let gap = histograms.get(patch) - prediction.get(row);
                loss += gap.square().sum(Kind::Double).double_value(&[]);
                row += 1;
            }
        }
        assert_eq!(row, mask.counts.iter().sum::<i64>());
        let found = method.validate(&Views(vec![x])).unwrap();
        let [got, mean] = [0, 1].map(|i| found[i].1.double_value(&[]));
        // Nine directions of four cells.
        assert!((got - loss / (36 * row) as f64).abs() < 1e-6, "{got} {loss}");
        assert!(found[1].0 == "mean_histogram_error" && mean > 0.);
    }

    #[test]
    fn hidden_patches_are_not_seen() {
        let (method, x) = (build(), images(3));
        let mask = method.mask(&x, Chance::Fixed).unwrap();
        let other = method.grid.blank(&x, &mask.index).unwrap();
        let [prediction, target] = method.predict(&x, &mask, Mode::Eval).unwrap();
        let [again, others] = method.predict(&other, &mask, Mode::Eval).unwrap();
        assert!(prediction.equal(&again) && !target.equal(&others));
        assert!(!target.requires_grad());
    }

    #[test]
    fn blocks_of_the_asked_part_are_hidden() {
        let (method, x) = (build(), images(40));
        let counts = method.mask(&x, Chance::Generator).unwrap().counts;
        assert!(counts.iter().all(|&count| (1..=6).contains(&count)) && counts.iter().sum::<i64>() > 200, "{counts:?}");
    }

    #[test]
    fn edges_are_shown_in_hidden_patches_alone() {
        let (method, x) = (build(), images(14));
        let shown = method.look(&Views(vec![x])).unwrap();
        let names: Vec<_> = shown.iter().map(|(name, picture)| (name.as_str(), picture.size()[0])).collect();
        assert_eq!(names, [("image", 12), ("masked", 12), ("edges", 12), ("edges told", 12)]);
        let mask = method.mask(&shown[0].1, Chance::Fixed).unwrap();
        let [image, masked, edges, told] = [0, 1, 2, 3].map(|i| &shown[i].1);
        let blank = |x: &Tensor| method.grid.blank(x, &mask.index).unwrap();
        assert!([image, edges, told].iter().all(|x| blank(x).equal(masked)));
        assert!(!edges.equal(masked) && !edges.equal(told));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |config: Config| MaskFeat::new(config, &encoders()).unwrap_err().to_string();
        let message = refused(Config { cell: 3, ..small() });
        assert_eq!(message, "cell: expected a divisor of the 4 pixels of a patch, got 3");
        assert_eq!(refused(Config { bins: 0, ..small() }), "bins: expected at least 1, got 0");
        assert!(refused(Config { mask_ratio: 0.05, ..small() }).starts_with("mask_ratio: expected"));
    }
}
