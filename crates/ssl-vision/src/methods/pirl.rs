//! PIRL: what is made of nine shuffled tiles of an image lies near the image, and so does what is made of another crop.
//!
//! Source: Misra, van der Maaten, 2020: <https://arxiv.org/abs/1912.01991>; the authors' code (`facebookresearch/vissl`,
//! `pirl_jigsaw_4node_resnet50.yaml`, `img_pil_to_patches_and_image.py` and `nce_loss.py`), from which come the views.
//! Where this differs from them:
//!
//! - There is no memory bank. It holds what earlier epochs made of each image, for which a batch would have to say which
//!   images it is of. What stands for the image is made of a view of its own by a slow copy of the network, as in
//!   MoCo, and the negatives are a queue of what the copy made of earlier images, instead of 32000 draws from the bank.
//! - A view is told from the negatives by a cross-entropy, which the authors' code has as a choice, where the paper has a
//!   sum of binary ones.
//! - All tiles of a view have one change of color and one mirroring, where the code draws both, and more, for each tile.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::pretext::square;
use crate::tiles::{Cutter, TILES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::info_nce;
use ssl_core::nn::{Linear, Module, l2_normalize};
use ssl_core::{
    Ema, Error, Method, Metrics, Mode, Output, Precision, Queue, Result, Schedule, Statistics, Step, Views,
    check, no_grad,
};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// PIRL's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Divides the similarities.
    pub temperature: f64,
    /// Dimension in which images and tiles are compared.
    pub projection_dim: i64,
    /// Keys of earlier images that serve as negatives.
    pub queue_size: i64,
    /// What the key network keeps of itself at each step.
    pub momentum: Schedule,
    /// Part of the loss that is of the tiles, above 0 and below 1; the rest is of the image.
    pub tiles_weight: f64,
    /// Side of a tile in pixels; it lies at random in a third of the view.
    pub tile_size: i64,
    /// The random view of the image; each gives two, one for each network.
    pub augment: Augment,
    /// The random view that is cut into tiles.
    pub tiles_augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment {
            jitter_probability: 1.,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.2,
            grayscale_probability: 0.2,
            ..Augment::default()
        };
        Config {
            temperature: 0.07,
            projection_dim: 128,
            queue_size: 32000,
            momentum: Schedule::constant(0.999),
            tiles_weight: 0.5,
            tile_size: 64,
            tiles_augment: Augment { size: 255, crop_scale: [0.6, 1.], ..augment.clone() },
            augment,
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::positive("temperature", self.temperature)?;
        check::at_least(1, [("projection_dim", self.projection_dim), ("queue_size", self.queue_size)])?;
        check::fractions("momentum", &self.momentum)?;
        if !(self.tiles_weight > 0. && self.tiles_weight < 1.) {
            let message = format!("expected a number above 0 and below 1, got {}", self.tiles_weight);
            return Err(Error::config("tiles_weight", message));
        }
        self.augment.validate()?;
        self.tiles_augment.validate()?;
        self.cutter().cell(self.tiles_augment.size as i64).map(drop)
    }

    /// Tiles lie anywhere in their cells.
    fn cutter(&self) -> Cutter {
        Cutter { size: self.tile_size, jitter: self.tiles_augment.size as i64, channel_shift: 0 }
    }
}

/// An encoder and a layer that compares whole images.
#[derive(Debug)]
struct Network {
    encoder: Rc<Encoder>,
    head: Linear,
}

impl Network {
    fn new(encoder: Rc<Encoder>, vars: &VarStore, dim: i64) -> Result<Self> {
        let head = Linear::new(&(vars.root() / "image_head"), encoder.dim(), dim)?;
        Ok(Network { encoder, head })
    }

    /// Projections of unit length, in float32. `[B, D]`.
    fn project(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        l2_normalize(&self.head.forward(&self.encoder.forward(x, mode)?, mode)?)
    }
}

/// An encoder with heads for images and for tiles, its moving average, and a queue of the average's keys.
#[derive(Debug)]
pub struct Pirl {
    student: VarStore,
    teacher: VarStore,
    memory: VarStore,
    query: Network,
    tile_head: Linear,
    tiles_head: Linear,
    key: Network,
    ema: Ema,
    queue: Queue,
    cutter: Cutter,
    config: Config,
}

impl Definition for Pirl {
    const INFO: Info = Info {
        name: "pirl",
        summary: "bring an image's shuffled tiles near the image, among a queue of others",
        paper: "Misra, van der Maaten",
        year: 2019,
        kind: "contrastive",
        url: "https://arxiv.org/abs/1912.01991",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let [student, mut teacher, memory] = [(); 3].map(|()| VarStore::new(encoders.device()));
        let dim = config.projection_dim;
        let query = Network::new(encoders.student(&student)?, &student, dim)?;
        let tile_head = Linear::new(&(student.root() / "tile_head"), query.encoder.dim(), dim)?;
        let tiles_head = Linear::new(&(student.root() / "tiles_head"), TILES * dim, dim)?;
        let key = Network::new(Rc::new(encoders.teacher(&teacher)?), &teacher, dim)?;
        let ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
        let queue = Queue::of_directions(&memory.root(), "keys", config.queue_size, dim)?;
        let cutter = config.cutter();
        Ok(Pirl { student, teacher, memory, query, tile_head, tiles_head, key, ema, queue, cutter, config })
    }
}

impl Pirl {
    /// Tiles of each view in random order and at random places, drawn from libtorch's generator. `[B, 9, C, T, T]`.
    fn draw(&self, x: &Tensor) -> Result<Tensor> {
        let n = square(x)?.0;
        let order = Tensor::f_rand([n, TILES], (Kind::Float, x.device()))?.f_argsort(1, false)?;
        self.cutter.cut(x, &numbers(n, x)?, &order, &self.cutter.draw(x, n)?)
    }

    /// The same tiles at every call: the middles of their cells, shifted by one more place from view to view.
    fn fixed(&self, x: &Tensor) -> Result<Tensor> {
        let view = numbers(square(x)?.0, x)?;
        let order = view.f_unsqueeze(1)?.f_add(&numbers(TILES, x)?)?.f_remainder(TILES)?;
        self.cutter.cut(x, &view, &order, &self.cutter.middle(x)?)
    }

    /// Projections of what all tiles of an image are together, of unit length, in float32. `[B, D]`.
    fn join(&self, tiles: &Tensor, mode: Mode) -> Result<Tensor> {
        let each = self.query.encoder.forward(&tiles.f_flatten(0, 1)?, mode)?; // [9 B, D].
        let each = self.tile_head.forward(&each, mode)?;
        let together = each.f_view([-1, TILES * self.config.projection_dim])?;
        l2_normalize(&self.tiles_head.forward(&together, mode)?)
    }

    /// Projections of a view by the encoder that learns, of tiles, and of another view by the key network.
    fn project(&self, [a, b]: [&Tensor; 2], tiles: &Tensor, mode: Mode) -> Result<[Tensor; 3]> {
        let key = no_grad(|| self.key.project(b, mode))?;
        Ok([self.query.project(a, mode)?, self.join(tiles, mode)?, key])
    }

    /// The weighted sum of both losses, with each of them beside it.
    fn compare(&self, [image, tiles, key]: &[Tensor; 3]) -> Result<Output> {
        let (temperature, weight) = (self.config.temperature, self.config.tiles_weight);
        let one = |query: &Tensor| info_nce(query, key, self.queue.rows(), temperature);
        Precision::Fp32.scope(key.device(), || {
            let (image, tiles) = (one(image)?, one(tiles)?);
            let loss = image.f_mul_scalar(1. - weight)?.f_add(&tiles.f_mul_scalar(weight)?)?;
            Output::new(loss).with("image_loss", &image)?.with("tiles_loss", &tiles)
        })
    }
}

/// 0, 1, .. where `like` is.
fn numbers(count: i64, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_arange(count, (Kind::Int64, like.device()))?)
}

impl Method for Pirl {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [a, b, c] = batch.exactly("PIRL")?;
        let found = self.project([a, b], &self.draw(c)?, Mode::Train)?;
        let output = self.compare(&found)?;
        let [.., key] = found;
        self.queue.push(&key)?;
        Ok(output)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.query.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.query.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let [a, b, c] = batch.exactly("PIRL")?;
        no_grad(|| {
            let found = self.project([a, b], &self.fixed(c)?, Mode::Eval)?;
            let Output { loss, mut metrics } = self.compare(&found)?;
            let [image, tiles, key] = found;
            metrics.insert(0, ("loss".into(), loss));
            metrics.push(("retrieval".into(), retrieval(&image, &key)?));
            // How often the image is found from its tiles.
            metrics.push(("tiles_retrieval".into(), retrieval(&tiles, &key)?));
            Ok(metrics)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [a, _, c] = batch.exactly("PIRL")?;
        no_grad(|| {
            let shuffled = self.cutter.paste(&self.fixed(c)?, square(c)?.2)?;
            Ok(vec![("image view".into(), a.shallow_clone()), ("shuffled".into(), shuffled)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![
            ("student".into(), &self.student),
            ("teacher".into(), &self.teacher),
            ("queue".into(), &self.memory),
        ]
    }
}

impl VisionMethod for Pirl {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone(), self.config.tiles_augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::rows;
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
    const AT: Step = Step { index: 0, total: 10 };

    /// Tiles of 3 pixels in cells of 4.
    fn small() -> Config {
        let default = Config::default();
        let tiles_augment = Augment { size: 12, ..default.tiles_augment.clone() };
        Config { temperature: 0.2, projection_dim: 8, queue_size: 10, tile_size: 3, tiles_augment, ..default }
    }

    fn build(config: Config) -> Result<Pirl> {
        Pirl::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    /// Two views of 8 pixels and one of 12, of `n` images.
    fn views(n: i64) -> Views {
        let of = |part: f64, side: i64| {
            let at = Tensor::arange(side * side, (Kind::Float, Device::Cpu)) / (side * side);
            let own = Tensor::arange(n, (Kind::Float, Device::Cpu)).unsqueeze(1);
            ((&own * 1.7 + &at * 20.).sin() + part * (own + at * 90.).cos()).view([n, 1, side, side])
        };
        Views(vec![of(0.2, 8), of(-0.2, 8), of(0.1, 12)])
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12), tempfile::tempdir().unwrap());
        let build = || {
            let mut method = build(Config { momentum: Schedule::constant(0.9), queue_size: 24, ..small() })?;
            // The one batch of the contract fills the queue with its own keys; so it does from the start.
            (0..2).try_for_each(|_| no_grad(|| method.step(&batch, AT).map(drop)))?;
            Ok(method)
        };
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_weighted_sum_of_picking_the_key_by_image_and_by_tiles() {
        let method = build(Config { tiles_weight: 0.3, ..small() }).unwrap();
        let Views(views) = views(5);
        let found = method.project([&views[0], &views[1]], &method.draw(&views[2]).unwrap(), Mode::Train).unwrap();
        let output = method.compare(&found).unwrap();
        let (keys, queue) = (rows(&found[2]), rows(method.queue.rows()));
        let logit = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>() / 0.2;
        let slow = |queries: &Tensor| {
            let one = |(q, k): (&Vec<f64>, &Vec<f64>)| {
                let negatives: f64 = queue.iter().map(|row| logit(q, row).exp()).sum();
                (logit(q, k).exp() + negatives).ln() - logit(q, k)
            };
            rows(queries).iter().zip(&keys).map(one).sum::<f64>() / 5.
        };
        let (image, tiles) = (slow(&found[0]), slow(&found[1]));
        let of = |x: &Tensor| f64::try_from(x).unwrap();
        let [a, b, all] = [of(&output.metrics[0].1), of(&output.metrics[1].1), of(&output.loss)];
        assert!((a - image).abs() < 1e-5 && (b - tiles).abs() < 1e-5, "{a} {image} {b} {tiles}");
        assert!((all - 0.7 * image - 0.3 * tiles).abs() < 1e-5 && (image - tiles).abs() > 1e-3);
    }

    #[test]
    fn each_image_is_cut_into_all_its_tiles_in_an_order_of_its_own() {
        let method = build(Config { tile_size: 4, ..small() }).unwrap();
        // All pixels of a cell are its number, and that of the image in the hundreds.
        let cell = Tensor::arange(9, (Kind::Float, Device::Cpu)).view([3, 3]);
        let cells = cell.repeat_interleave_self_int(4, 0, None).repeat_interleave_self_int(4, 1, None);
        let images = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([6, 1, 1, 1]) * 100 + cells;
        for tiles in [method.draw(&images).unwrap(), method.fixed(&images).unwrap()] {
            assert_eq!(tiles.size(), [6, 9, 1, 4, 4]);
            assert!(tiles.amax([2i64, 3, 4], false).equal(&tiles.amin([2i64, 3, 4], false)));
            let found = tiles.amax([2i64, 3, 4], false) - Tensor::arange(6, (Kind::Float, Device::Cpu)).unsqueeze(1) * 100;
            assert!(found.sort(1, false).0.equal(&cell.view([1, 9]).expand([6, 9], false)));
            assert!(!found.get(0).equal(&found.get(1)), "{found:?}");
        }
        assert!(!method.draw(&images).unwrap().equal(&method.draw(&images).unwrap()));
        assert!(method.fixed(&images).unwrap().equal(&method.fixed(&images).unwrap()));
    }

    #[test]
    fn keys_get_no_gradient_go_into_the_queue_and_their_network_follows_by_the_momentum() {
        let mut method = build(Config { momentum: Schedule::constant(0.9), ..small() }).unwrap();
        let (batch, tensors, queue) = (views(4), named_tensors(&method), method.queue.rows().copy());
        let keys = no_grad(|| method.key.project(&batch.0[1], Mode::Train)).unwrap();
        method.step(&batch, AT).unwrap().loss.backward();
        let expected = Tensor::cat(&[queue.narrow(0, 4, 6), keys], 0);
        assert!(method.queue.rows().allclose(&expected, 1e-5, 1e-6, false));
        assert!(tensors.iter().all(|(name, x)| name.starts_with("student/") || !x.grad().defined()));
        assert!(!tensors.contains_key("teacher/tile_head.weight"));
        let before = tensors["teacher/image_head.weight"].copy();
        let mut head = tensors["student/image_head.weight"].shallow_clone();
        let _ = no_grad(|| head.f_add_scalar_(1.).unwrap());
        method.after_step(AT).unwrap();
        let after = &named_tensors(&method)["teacher/image_head.weight"];
        assert!(after.allclose(&(before + 0.1), 1e-5, 1e-6, false));
    }

    #[test]
    fn validation_is_the_same_at_every_call_and_the_look_shows_the_tiles_of_a_view() {
        let method = build(Config { tile_size: 4, ..small() }).unwrap();
        let batch = views(6);
        let values = || -> Vec<(String, f64)> {
            let found = method.validate(&batch).unwrap().into_iter();
            found.map(|(name, x)| (name, f64::try_from(x).unwrap())).collect()
        };
        let names: Vec<String> = values().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["loss", "image_loss", "tiles_loss", "retrieval", "tiles_retrieval"]);
        assert_eq!(values(), values());
        let rows = method.look(&batch).unwrap();
        let shuffled = &rows[1].1;
        // The first view's tiles are in place, the second's are not.
        assert!(shuffled.get(0).equal(&batch.0[2].get(0)) && !shuffled.get(1).equal(&batch.0[2].get(1)));
    }

    #[test]
    fn missing_views_and_numbers_out_of_range_are_errors() {
        let message = build(Config { tiles_weight: 1., ..small() }).unwrap_err().to_string();
        assert_eq!(message, "tiles_weight: expected a number above 0 and below 1, got 1");
        let message = build(Config { tile_size: 5, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "tile_size: expected 1 to 4, a third of the view's 12 pixels, got 5");
        let mut method = build(small()).unwrap();
        let message = method.step(&Views(Vec::new()), AT).unwrap_err().to_string();
        assert_eq!(message, "views: PIRL takes three, got 0");
    }
}
