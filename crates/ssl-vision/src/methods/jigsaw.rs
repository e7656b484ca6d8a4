//! Jigsaw puzzles: in which order do the nine tiles of an image lie?
//!
//! Source: Noroozi, Favaro, 2016: <https://arxiv.org/abs/1603.09246>. The tiles' common layer and the two layers
//! after their concatenation are those of the paper and of `bbrattoli/JigsawPuzzlePytorch`, without dropout. The
//! encoder is any one here instead of an AlexNet. Permutations are chosen by their least distance to each other where
//! the paper takes the mean one: the mean comes out as great, the least one greater. Channels are also shifted in
//! images that lost their color, which the paper leaves as they are.
use super::{Definition, Info, VisionMethod};
use crate::augment::{Augment, shuffle};
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::pretext::{classified, only, square};
use crate::tiles::{Cutter, TILES, normalize_tiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad, rng};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Seed and stream of the order in which permutations are tried.
const ORDER: (u64, u64) = (0, 4);

/// Jigsaw's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Permutations among which the one of a puzzle is to be found.
    pub permutations: i64,
    /// Side of a tile in pixels; it lies at random in a third of the view, lest edges go on from tile to tile.
    pub tile_size: i64,
    /// Puzzles made of each view in a step.
    pub puzzles: i64,
    /// Pixels by which channels are shifted at most, in their third of the view, against chromatic aberration.
    pub channel_shift: i64,
    /// Units of the layer that each tile passes alone.
    pub tile_dim: i64,
    /// Units of the layer that the tiles pass together.
    pub hidden_dim: i64,
    /// The random view that is cut into tiles; a flip would hide which side is left.
    pub augment: Augment,
}

impl Default for Config {
    /// A crop of 225 pixels from images whose shorter side has 256, up to a ratio of 4 to 3.
    fn default() -> Self {
        let crop = Augment { size: 225, crop_scale: [0.58, 0.77], crop_ratio: [1., 1.], ..Augment::default() };
        let augment = Augment { flip_probability: 0., grayscale_probability: 0.3, ..crop };
        let (permutations, tile_size, tile_dim, hidden_dim) = (1000, 64, 1024, 4096);
        Config { permutations, tile_size, puzzles: 1, channel_shift: 2, tile_dim, hidden_dim, augment }
    }
}

/// Permutations of nine, far from each other: each is of those that differ from all before it in the most places, the
/// first in a shuffled order. A permutation is a number whose hexadecimal digit `k`, from the last, is the cell of
/// which place `k` shows the tile.
///
/// # Source
/// Noroozi, Favaro, 2016, algorithm 1, with the least instead of the mean distance. For their 1000 permutations the
/// paper reports a mean of 8.00 and a least one of 2.
fn permutation_set(count: usize) -> Vec<u64> {
    // Each symbol is put into every place of every order of those before it.
    let mut all = vec![0u64];
    for symbol in 0..TILES as u64 {
        let insert = |order: u64, place: u64| {
            let before = (1u64 << (4 * place)) - 1;
            order & before | symbol << (4 * place) | (order & !before) << 4
        };
        all = all.iter().flat_map(|&order| (0..=symbol).map(move |place| insert(order, place))).collect();
    }
    shuffle(&mut rng(ORDER.0, &[ORDER.1]), &mut all);
    // A candidate that is too near once stays so: one pass for each distance finds what a search at each step would.
    let mut chosen: Vec<u64> = Vec::new();
    for least in (1..=TILES as u32).rev() {
        for &candidate in &all {
            if chosen.len() == count {
                return chosen;
            }
            if chosen.iter().all(|&other| distance(candidate, other) >= least) {
                chosen.push(candidate);
            }
        }
    }
    chosen
}

/// Places in which two permutations differ (Hamming distance).
fn distance(a: u64, b: u64) -> u32 {
    // The last bit of each digit becomes the or of its four.
    let bits = a ^ b;
    let bits = bits | bits >> 2;
    ((bits | bits >> 1) & 0x1_1111_1111).count_ones()
}

/// Which puzzles are made of a batch of views.
#[derive(Debug)]
struct Plan {
    /// The view of each puzzle. `[N]`.
    view: Tensor,
    /// The number of each puzzle's permutation. `[N]`.
    permutation: Tensor,
    /// Rows and columns between a tile and the start of its cell, for all channels or each. `[2, N, 9, 1 or C]`.
    offset: Tensor,
}

/// An encoder of tiles and a classifier of permutations.
#[derive(Debug)]
pub struct Jigsaw {
    vars: VarStore,
    encoder: Rc<Encoder>,
    tile: Linear,
    hidden: Linear,
    classifier: Linear,
    /// Row k holds the cells whose tiles the places show, one after another. `[P, 9]`.
    permutations: Tensor,
    cutter: Cutter,
    config: Config,
}

impl Definition for Jigsaw {
    const INFO: Info = Info {
        name: "jigsaw",
        summary: "find the order in which nine tiles of an image were shuffled",
        paper: "Noroozi, Favaro",
        year: 2016,
        kind: "pretext",
        url: "https://arxiv.org/abs/1603.09246",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([
            ("permutations", config.permutations, (2, 10_000)),
            ("puzzles", config.puzzles, (1, 1000)),
            ("channel_shift", config.channel_shift, (0, 1000)),
            ("tile_dim", config.tile_dim, (1, 1 << 16)),
            ("hidden_dim", config.hidden_dim, (1, 1 << 16)),
        ])?;
        config.augment.validate()?;
        let (side, channel_shift) = (config.augment.size as i64, config.channel_shift);
        let cutter = Cutter { size: config.tile_size, jitter: side, channel_shift };
        cutter.cell(side)?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let p = vars.root();
        let digits = permutation_set(config.permutations as usize)
            .into_iter()
            .flat_map(|order| (0..TILES).map(move |place| (order >> (4 * place) & 15) as i64))
            .collect::<Vec<_>>();
        Ok(Jigsaw {
            tile: Linear::new(&(&p / "tile"), encoder.dim(), config.tile_dim)?,
            hidden: Linear::new(&(&p / "hidden"), TILES * config.tile_dim, config.hidden_dim)?,
            classifier: Linear::new(&(&p / "classifier"), config.hidden_dim, config.permutations)?,
            permutations: Tensor::f_from_slice(&digits)?.f_view([-1, TILES])?.f_to_device(encoders.device())?,
            encoder,
            vars,
            cutter,
            config,
        })
    }
}

impl Jigsaw {
    /// Random puzzles, drawn from libtorch's generator.
    fn draw(&self, x: &Tensor) -> Result<Plan> {
        let ((n, _, _), options) = (square(x)?, (Kind::Int64, x.device()));
        let count = n * self.config.puzzles;
        let offset = self.cutter.draw(x, count)?;
        let view = Tensor::f_arange(n, options)?.f_repeat_interleave_self_int(self.config.puzzles, None, None)?;
        Ok(Plan { view, permutation: Tensor::f_randint(self.config.permutations, [count], options)?, offset })
    }

    /// The same puzzles at every call: one for each view, with the permutation of its position in the batch, and with
    /// the tiles in the middle of their cells.
    fn fixed(&self, x: &Tensor) -> Result<Plan> {
        let ((n, _, _), offset) = (square(x)?, self.cutter.middle(x)?);
        let view = Tensor::f_arange(n, (Kind::Int64, x.device()))?;
        let permutation = view.f_remainder(self.config.permutations)?;
        Ok(Plan { view, permutation, offset })
    }

    /// The tiles of each puzzle, in the order of its permutation. `[N, 9, C, T, T]`.
    fn tiles(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let cells = self.permutations.f_index_select(0, &plan.permutation)?; // [N, 9].
        self.cutter.cut(x, &plan.view, &cells, &plan.offset)
    }

    /// Logits of the permutations. `[N, P]`.
    fn classify(&self, tiles: &Tensor, mode: Mode) -> Result<Tensor> {
        let h = self.encoder.forward(&normalize_tiles(tiles)?.f_flatten(0, 1)?, mode)?; // [9 N, D].
        let h = self.tile.forward(&h, mode)?.f_relu_()?;
        let h = self.hidden.forward(&h.f_view([-1, TILES * self.config.tile_dim])?, mode)?.f_relu_()?;
        self.classifier.forward(&h, mode)
    }

    /// Cross entropy and accuracy over the puzzles of a plan.
    fn predict(&self, x: &Tensor, plan: &Plan, mode: Mode) -> Result<(Tensor, Tensor)> {
        classified(&self.classify(&self.tiles(x, plan)?, mode)?, &plan.permutation)
    }
}

/// Puts every tile into the cell that the permutation says it is from.
///
/// # Shapes
/// `tiles`: `[N, 9, C, T, T]`; `cells`: `[N, 9]`; returns as `tiles`.
fn restore(tiles: &Tensor, cells: &Tensor) -> Result<Tensor> {
    let place = cells.f_argsort(-1, false)?.f_view([-1, TILES, 1, 1, 1])?;
    Ok(tiles.f_gather(1, &place.f_expand_as(tiles)?, false)?)
}

impl Method for Jigsaw {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        let (loss, accuracy) = self.predict(x, &self.draw(x)?, Mode::Train)?;
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
        let (loss, accuracy) = no_grad(|| self.predict(x, &self.fixed(x)?, Mode::Eval))?;
        let chance = Tensor::from(1. / self.config.permutations as f64);
        Ok(vec![("loss".into(), loss), ("accuracy".into(), accuracy), ("chance".into(), chance)])
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let x = only(batch, Self::INFO.name)?;
        no_grad(|| {
            let (tiles, side) = (self.tiles(x, &self.fixed(x)?)?, x.size().last().copied().unwrap_or(0));
            let found = self.classify(&tiles, Mode::Eval)?.f_argmax(-1, false)?;
            let restored = restore(&tiles, &self.permutations.f_index_select(0, &found)?)?;
            Ok(vec![
                ("image view".into(), x.shallow_clone()),
                ("shuffled".into(), self.cutter.paste(&tiles, side)?),
                ("restored".into(), self.cutter.paste(&restored, side)?),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Jigsaw {
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
    use std::collections::HashSet;
    use tch::Device;

    /// Views of 12 pixels, cells of 4.
    fn small(tile_size: i64) -> Config {
        let augment = Augment { size: 12, ..Config::default().augment };
        Config { permutations: 4, tile_size, tile_dim: 16, hidden_dim: 16, augment, ..Config::default() }
    }

    fn build(config: Config) -> Result<Jigsaw> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        Jigsaw::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(8, 12), tempfile::tempdir().unwrap());
        let config = Config { puzzles: 2, ..small(3) };
        check_method(|| build(config.clone()), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn permutations_are_valid_distinct_and_far_apart() {
        // The paper reports least distances of 6 for 35, 5 for 71 and 2 for 100 and 1000 permutations.
        for (count, least, mean) in [(9, 9, 9.), (16, 8, 8.2), (64, 7, 8.05), (100, 6, 8.04), (1000, 5, 8.)] {
            let packed = permutation_set(count);
            assert_eq!(packed[..9], permutation_set(9), "a set begins with the smaller ones");
            let digits = |order: &u64| (0..9).map(|k| order >> (4 * k) & 15).collect::<Vec<_>>();
            let set: Vec<Vec<u64>> = packed.iter().map(digits).collect();
            assert_eq!(set.iter().collect::<HashSet<_>>().len(), count);
            assert!(set.iter().all(|order| (0..9).all(|cell| order.contains(&cell))));
            let apart = |a: &[u64], b: &[u64]| a.iter().zip(b).filter(|(x, y)| x != y).count();
            let (mut nearest, mut sum) = (9, 0);
            for (i, j) in (0..count).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let gap = apart(&set[i], &set[j]);
                (nearest, sum) = (gap.min(nearest), sum + gap);
            }
            let average = sum as f64 / (count * (count - 1) / 2) as f64;
            assert!(nearest >= least && average >= mean, "{count}: {nearest}, {average}");
        }
    }

    #[test]
    fn each_view_gives_so_many_puzzles_of_every_permutation() {
        let set = |x: &Tensor| Vec::<i64>::try_from(x.flatten(0, -1)).unwrap().into_iter().collect::<HashSet<_>>();
        let method = build(Config { puzzles: 3, ..small(2) }).unwrap();
        let plan = method.draw(&pixels(40, 12)).unwrap();
        assert_eq!(set(&plan.offset), HashSet::from([0, 1, 2]), "a tile lies anywhere in its cell");
        assert_eq!(Vec::<i64>::try_from(plan.view.narrow(0, 0, 4)).unwrap(), [0, 0, 0, 1]);
        assert_eq!((set(&plan.permutation), plan.view.size()), (HashSet::from([0, 1, 2, 3]), vec![120]));
    }

    /// A method that always gives permutation 1 a logit of `strength` and the three others 0.
    fn stubborn(tile_size: i64, strength: f64) -> Jigsaw {
        let method = build(small(tile_size)).unwrap();
        let mut variables = method.vars.variables();
        no_grad(|| {
            let _ = variables.get_mut("classifier.weight").unwrap().zero_();
            let _ = variables.get_mut("classifier.bias").unwrap().zero_().get(1).fill_(strength);
        });
        method
    }

    #[test]
    fn equal_logits_have_the_loss_of_chance() {
        let found = stubborn(3, 0.).validate(&Views(vec![pixels(8, 12)])).unwrap();
        let found: Vec<(&str, f64)> = found.iter().map(|(k, x)| (k.as_str(), f64::try_from(x).unwrap())).collect();
        assert!(found[0].0 == "loss" && (found[0].1 - 4f64.ln()).abs() < 1e-6, "{found:?}");
        assert_eq!(found[1..], [("accuracy", 0.25), ("chance", 0.25)]);
    }

    #[test]
    fn the_right_answer_gives_the_picture_back_and_another_does_not() {
        let x = pixels(6, 13);
        let rows = stubborn(4, 5.).look(&Views(vec![x.shallow_clone()])).unwrap();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["image view", "shuffled", "restored"]);
        for k in 0..6 {
            let equal = |row: &Tensor| {
                assert!(row.size() == x.size() && !row.requires_grad());
                let inner = |x: &Tensor| x.get(k).narrow(1, 0, 12).narrow(2, 0, 12);
                inner(row).equal(&inner(&x))
            };
            // Views 1 and 5 were shuffled by permutation 1 of 4.
            assert_eq!([equal(&rows[1].1), equal(&rows[2].1)], [false, k % 4 == 1], "{k}");
        }
    }

    #[test]
    fn views_that_cannot_be_cut_are_refused() {
        let message = build(small(5)).unwrap_err().to_string();
        assert_eq!(message, "tile_size: expected 1 to 4, a third of the view's 12 pixels, got 5");
        let method = build(small(4)).unwrap();
        let said = |views| method.validate(&Views(views)).unwrap_err().to_string();
        let message = said(vec![pixels(2, 11)]);
        assert_eq!(message, "tile_size: expected 1 to 3, a third of the view's 11 pixels, got 4");
        let message = said(vec![pixels(2, 12).narrow(3, 0, 11)]);
        assert_eq!(message, "images: expected [B, C, S, S], square, got [2, 2, 12, 11]");
        assert_eq!(said(Vec::new()), "views: jigsaw takes one, got 0");
    }
}
