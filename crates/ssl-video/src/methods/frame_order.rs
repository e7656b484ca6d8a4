//! Frame order (OPN): in which order were four frames of a video taken? And its forerunner, shuffle and learn: are the
//! three frames in order?
//!
//! Source: Lee et al., 2017: <https://arxiv.org/abs/1708.01246>, whose pairs of frames pass a layer of their own each. A
//! class is an order that sorts the frames, and its reverse, which sorts them when the video is played backward. Misra,
//! Zitnick, Hebert, 2016: <https://arxiv.org/abs/1603.08561>: of five frames the middle three, in either direction, are
//! in order; with the first or the last in the middle they are not; three of four examples are not in order. Any encoder
//! stands in place of their AlexNet. Frames are chosen from where there is motion by
//! [`Sampling::motion`](crate::Sampling).
use crate::order::{HeadShape, OrderHead, arranged, inverse, orders_up_to_reversal, table};
use crate::time::{chosen_frames, draw_starts, even_starts, of_pieces, pieces};
use super::{Definition, Info, VideoMethod, choice, judged, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// Clips to look at, at most.
const SHOWN: i64 = 8;

/// What is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// In which order they are, as in OPN.
    #[default]
    Order,
    /// Whether three frames are in order, as in shuffle and learn.
    ShuffleAndLearn,
}

/// Frame order's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is asked.
    pub task: Task,
    /// Pieces to be ordered; shuffle and learn has three, from five places.
    pub pieces: i64,
    /// Frames of a piece.
    pub piece_frames: i64,
    /// Side of the grid of places that the classifier sees of each piece: where a thing is tells frames apart. That of
    /// the paper's network is 6.
    pub grid: i64,
    /// Units of the layer that each piece passes alone.
    pub piece_dim: i64,
    /// Units of the layer that each pair of pieces passes.
    pub pair_dim: i64,
    /// The window that pieces are drawn from: of more frames than they take, they lie at random in it.
    pub view: View,
}

impl Default for Config {
    fn default() -> Self {
        let view = View::new(4, 4, Augment::opn(80));
        Config { task: Task::Order, pieces: 4, piece_frames: 1, grid: 6, piece_dim: 1024, pair_dim: 512, view }
    }
}

/// The question of either task.
#[derive(Debug)]
enum Head {
    Order(OrderHead),
    Verify { piece: Linear, classifier: Linear },
}

/// Which pieces are shown in a batch, and what is right.
#[derive(Debug)]
struct Plan {
    /// Where the pieces begin, in order of time. `[B, P]`.
    starts: Tensor,
    /// Row of [`FrameOrder::arrangements`] of each example. `[B]`.
    row: Tensor,
}

/// An encoder of pieces and a classifier of orders.
#[derive(Debug)]
pub struct FrameOrder {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: Head,
    /// Each row says which pieces are shown, one after the other. `[R, N]`.
    arrangements: Tensor,
    /// The class of each row. `[R]`.
    classes: Tensor,
    chance: f64,
    config: Config,
}

impl Definition for FrameOrder {
    const INFO: Info = Info {
        name: "frame_order",
        summary: "sort shuffled frames of a video, or tell whether they are in order",
        paper: "Lee, Huang, Singh, Yang",
        year: 2017,
        kind: "pretext",
        url: "https://arxiv.org/abs/1708.01246",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([
            ("pieces", config.pieces, (2, 6)),
            ("piece_frames", config.piece_frames, (1, 256)),
            ("grid", config.grid, (1, 32)),
            ("piece_dim", config.piece_dim, (1, 1 << 16)),
            ("pair_dim", config.pair_dim, (1, 1 << 16)),
        ])?;
        config.view.validate()?;
        let (rows, classes) = arrangements(&config)?;
        let needed = config.places() * config.piece_frames;
        if (config.view.frames as i64) < needed {
            let message = format!("expected at least {needed} (those of all pieces), got {}", config.view.frames);
            return Err(Error::config("view.frames", message));
        }
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let kinds = classes.iter().max().map_or(0, |most| most + 1);
        let input = encoder.frame_dim() * config.grid * config.grid;
        let head = Head::new(&(vars.root() / "head"), input, kinds, &config)?;
        let most = (0..kinds).map(|kind| classes.iter().filter(|class| **class == kind).count()).max();
        let device = encoders.device();
        Ok(FrameOrder {
            vars,
            encoder,
            head,
            arrangements: table(&rows)?.f_to_device(device)?,
            chance: most.unwrap_or(0) as f64 / classes.len() as f64,
            classes: Tensor::f_from_slice(&classes)?.f_to_device(device)?,
            config,
        })
    }
}

impl Config {
    /// Places in time that pieces are drawn at.
    fn places(&self) -> i64 {
        match self.task {
            Task::Order => self.pieces,
            Task::ShuffleAndLearn => 5,
        }
    }
}

/// The ways to show pieces, and the class of each; all are drawn as often.
fn arrangements(config: &Config) -> Result<(Vec<Vec<i64>>, Vec<i64>)> {
    let both_ways = |orders: Vec<Vec<i64>>| {
        let back = |order: &Vec<i64>| order.iter().rev().copied().collect::<Vec<_>>();
        let backward: Vec<_> = orders.iter().map(back).collect();
        [orders, backward].concat()
    };
    match config.task {
        Task::Order => {
            let sortings = orders_up_to_reversal(config.pieces as usize);
            let classes = 0..sortings.len() as i64;
            let shown = both_ways(sortings).iter().map(|sorting| inverse(sorting)).collect();
            Ok((shown, classes.clone().chain(classes).collect()))
        }
        Task::ShuffleAndLearn if config.pieces == 3 => {
            let right = vec![vec![1, 2, 3]; 2];
            let wrong = [vec![vec![1, 0, 3]; 3], vec![vec![1, 4, 3]; 3]].concat();
            let (right, wrong) = (both_ways(right), both_ways(wrong));
            let classes = [vec![1; right.len()], vec![0; wrong.len()]].concat();
            Ok(([right, wrong].concat(), classes))
        }
        Task::ShuffleAndLearn => {
            let message = format!("expected 3 for shuffle_and_learn, got {}", config.pieces);
            Err(Error::config("pieces", message))
        }
    }
}

impl Head {
    fn new(p: &Path, input: i64, classes: i64, config: &Config) -> Result<Self> {
        let Config { pieces, piece_dim, pair_dim, .. } = *config;
        Ok(match config.task {
            Task::Order => {
                let piece_dim = Some(piece_dim);
                let shape = HeadShape { input, pieces, piece_dim, pair_dim, shared: false, dropout: 0., classes };
                Head::Order(OrderHead::new(p, &shape)?)
            }
            Task::ShuffleAndLearn => Head::Verify {
                piece: Linear::new(&(p / "piece"), input, piece_dim)?,
                classifier: Linear::new(&(p / "classifier"), pieces * piece_dim, classes)?,
            },
        })
    }

    /// `[B, N, E]` to `[B, K]`.
    fn forward(&self, features: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Head::Order(head) => head.forward(features, mode),
            Head::Verify { piece, classifier } => {
                let units = piece.forward(features, mode)?.f_relu()?.f_flatten(1, 2)?;
                Ok(classifier.forward(&units, mode)?.f_to_kind(Kind::Float)?)
            }
        }
    }
}

impl FrameOrder {
    fn rows(&self) -> i64 {
        self.arrangements.size().first().copied().unwrap_or(1)
    }

    /// Batch and frames of the view.
    fn measure(&self, x: &Tensor) -> Result<(i64, i64)> {
        let channels = x.size().get(1).copied().unwrap_or(0);
        let [b, _, frames, ..] = clips(x, channels)?;
        let expected = self.config.view.frames as i64;
        if frames != expected {
            let expected = format!("[B, C, {expected}, H, W]");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        Ok((b, frames))
    }

    /// Random places and orders, drawn from libtorch's generator.
    fn draw(&self, x: &Tensor) -> Result<Plan> {
        let ((b, frames), device) = (self.measure(x)?, x.device());
        let shape = (self.config.places(), self.config.piece_frames);
        let row = Tensor::f_randint(self.rows(), [b], (Kind::Int64, device))?;
        Ok(Plan { starts: draw_starts(b, frames, shape, device)?, row })
    }

    /// The same at every call: places as far from each other as they can be, and orders one after the other.
    fn fixed(&self, x: &Tensor) -> Result<Plan> {
        let ((b, frames), device) = (self.measure(x)?, x.device());
        let shape = (self.config.places(), self.config.piece_frames);
        let row = Tensor::f_arange(b, (Kind::Int64, device))?.f_remainder(self.rows())?;
        Ok(Plan { starts: even_starts(b, frames, shape, device)?, row })
    }

    /// The pieces as they are shown, one behind the other. `[B, C, N * t, H, W]`.
    fn shuffled(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let order = self.arrangements.f_index_select(0, &plan.row)?;
        let starts = arranged(&plan.starts, &order)?;
        chosen_frames(x, &of_pieces(&starts, self.config.piece_frames)?)
    }

    /// Logits of the classes. `[B, K]`.
    fn classify(&self, shuffled: &Tensor, mode: Mode) -> Result<Tensor> {
        let count = self.config.pieces;
        let features = self.places(&pieces(shuffled, count)?, mode)?;
        self.head.forward(&features.f_unflatten(0, [-1, count])?, mode)
    }

    /// The encoder's last map of each piece on a grid, the mean over its frames. `[B, E * grid * grid]`, float32.
    fn places(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let grid = self.config.grid;
        let maps = self.encoder.features(x, mode)?;
        let none = || Error::config("encoder", "expected one with maps, got none");
        let (_, map) = maps.last().ok_or_else(none)?;
        let map = map.f_mean_dim([2i64].as_slice(), false, Kind::Float)?;
        Ok(map.f_adaptive_avg_pool2d([grid, grid])?.f_flatten(1, -1)?)
    }

    /// Cross entropy and accuracy over the examples of a plan.
    fn predict(&self, x: &Tensor, plan: &Plan, mode: Mode) -> Result<(Tensor, Tensor)> {
        let target = self.classes.f_index_select(0, &plan.row)?;
        choice(&self.classify(&self.shuffled(x, plan)?, mode)?, &target)
    }
}

impl Method for FrameOrder {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [x] = views(batch, Self::INFO.name)?;
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
        let [x] = views(batch, Self::INFO.name)?;
        Ok(judged(no_grad(|| self.predict(x, &self.fixed(x)?, Mode::Eval))?, self.chance))
    }

    /// The frames as they are shown and, where their order was asked, in the order that was found; that may be the
    /// reverse of the true one, which counts as the same.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [x] = views(batch, Self::INFO.name)?;
        no_grad(|| {
            let x = x.f_narrow(0, 0, x.size().first().copied().unwrap_or(0).min(SHOWN))?;
            let shuffled = self.shuffled(&x, &self.fixed(&x)?)?;
            let mut rows = vec![("shuffled".to_string(), shuffled.shallow_clone())];
            if self.config.task == Task::Order {
                let found = self.classify(&shuffled, Mode::Eval)?.f_argmax(-1, false)?;
                // Where the piece of each place stands: the inverse of the order.
                let places = self.arrangements.f_index_select(0, &found)?.f_argsort(1, false)?;
                let frames = of_pieces(&places.f_mul_scalar(self.config.piece_frames)?, self.config.piece_frames)?;
                rows.push(("sorted".to_string(), chosen_frames(&shuffled, &frames)?));
            }
            Ok(rows)
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for FrameOrder {
    fn views(&self) -> Vec<View> {
        vec![self.config.view.clone()]
    }

    fn frames(&self, clips: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.frames(clips, Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{clips, encoders};
    use ssl_core::check_method;
    use tch::Device;

    fn small(task: Task, frames: usize) -> Config {
        let pieces = if task == Task::Order { 4 } else { 3 };
        let view = View::new(frames, 1, Augment::whole(16));
        Config { task, pieces, grid: 2, piece_dim: 16, pair_dim: 8, view, ..Config::default() }
    }

    fn build(config: Config) -> Result<FrameOrder> {
        FrameOrder::new(config, &encoders("resnet10_w4_late", 4))
    }

    #[test]
    fn it_keeps_the_contract_for_either_task_and_for_pieces_of_several_frames() {
        for (config, arch, frames) in [
            (small(Task::Order, 4), "resnet10_w4_late", 4),
            (small(Task::ShuffleAndLearn, 6), "resnet10_w4_late", 6),
            (Config { pieces: 3, piece_frames: 2, ..small(Task::Order, 9) }, "r3d10_w4", 9),
        ] {
            let (x, scratch) = (clips(12, frames), tempfile::tempdir().unwrap());
            let batch = Views(vec![x.shallow_clone()]);
            let build = || FrameOrder::new(config.clone(), &encoders(arch, 4));
            check_method(build, &batch, &x, scratch.path()).unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
    }

    #[test]
    fn a_class_is_what_sorts_the_frames_played_forward_or_backward() {
        let method = build(small(Task::Order, 4)).unwrap();
        // Every frame says its number.
        let x = Tensor::arange(4, (Kind::Float, Device::Cpu)).view([1, 1, 4, 1, 1]).expand([24, 1, 4, 2, 2], false);
        let plan = method.fixed(&x).unwrap();
        let shown = method.shuffled(&x, &plan).unwrap();
        let classes = Vec::<i64>::try_from(method.classes.index_select(0, &plan.row)).unwrap();
        assert_eq!((classes[0], classes[11], classes[12], method.chance), (0, 11, 0, 1. / 12.));
        for row in 0..24 {
            let numbers = Vec::<f64>::try_from(shown.get(row).select(0, 0).select(1, 0).select(1, 0)).unwrap();
            let order: Vec<i64> = numbers.iter().map(|n| *n as i64).collect();
            let sorting = &orders_up_to_reversal(4)[classes[row as usize] as usize];
            let sorted: Vec<i64> = sorting.iter().map(|place| order[*place as usize]).collect();
            assert!(sorted == [0, 1, 2, 3] || sorted == [3, 2, 1, 0], "{order:?} {sorting:?}");
        }
        let places = method.arrangements.index_select(0, &plan.row).argsort(1, false);
        let sorted = chosen_frames(&shown, &places).unwrap();
        assert!(sorted.equal(&x));
    }

    #[test]
    fn three_of_four_triples_are_not_in_order() {
        let (rows, classes) = arrangements(&small(Task::ShuffleAndLearn, 5)).unwrap();
        assert_eq!((rows.len(), classes.iter().sum::<i64>()), (16, 4));
        for (row, class) in rows.iter().zip(classes) {
            let between = row[0].min(row[2]) < row[1] && row[1] < row[0].max(row[2]);
            assert_eq!(between, class == 1, "{row:?}");
            assert_eq!([row[0].min(row[2]), row[0].max(row[2])], [1, 3]);
        }
        let method = build(small(Task::ShuffleAndLearn, 5)).unwrap();
        assert_eq!(method.chance, 0.75);
    }

    #[test]
    fn the_loss_is_that_of_frames_seen_one_by_one() {
        let method = build(small(Task::Order, 7)).unwrap();
        let (x, batch) = (clips(5, 7), Views(vec![clips(5, 7)]));
        let plan = method.fixed(&x).unwrap();
        let mut total = 0.;
        let Head::Order(head) = &method.head else { panic!() };
        for example in 0..5 {
            let order = &arrangements(&method.config).unwrap().0[example as usize];
            let features = order.iter().map(|piece| {
                let frame = x.get(example).narrow(1, 2 * piece, 1).unsqueeze(0);
                let (_, map) = method.encoder.features(&frame, Mode::Eval).unwrap().pop().unwrap();
                map.squeeze_dim(2).adaptive_avg_pool2d([2, 2]).reshape([1, 1, -1])
            });
            let logits = head.forward(&Tensor::cat(&features.collect::<Vec<_>>(), 1), Mode::Eval).unwrap();
            let label = method.classes.int64_value(&[plan.row.int64_value(&[example])]);
            total -= logits.log_softmax(-1, Kind::Double).double_value(&[0, label]);
        }
        let found = method.validate(&batch).unwrap();
        assert!((found[0].1.double_value(&[]) - total / 5.).abs() < 1e-5, "{found:?} {}", total / 5.);
        assert_eq!(found[2].0, "chance");
    }

    #[test]
    fn what_is_shown_has_the_frames_of_the_view_and_faults_are_named() {
        let method = build(small(Task::Order, 4)).unwrap();
        let rows = method.look(&Views(vec![clips(12, 4)])).unwrap();
        assert_eq!((rows[1].0.as_str(), rows[1].1.size()), ("sorted", vec![8, 1, 4, 16, 16]));
        let sums = |x: &Tensor| x.sum_dim_intlist([2i64].as_slice(), false, Kind::Float);
        assert!(sums(&rows[0].1).allclose(&sums(&rows[1].1), 1e-4, 1e-4, false), "the same frames");
        let message = |config: Config| build(config).unwrap_err().to_string();
        assert_eq!(
            message(small(Task::Order, 3)),
            "view.frames: expected at least 4 (those of all pieces), got 3"
        );
        let config = Config { pieces: 4, ..small(Task::ShuffleAndLearn, 5) };
        assert_eq!(message(config), "pieces: expected 3 for shuffle_and_learn, got 4");
        assert_eq!(message(Config { pieces: 1, ..small(Task::Order, 4) }), "pieces: expected 2 to 6, got 1");
        let mut method = build(small(Task::Order, 4)).unwrap();
        let mut step = |x: Vec<Tensor>| method.step(&Views(x), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(step(vec![]), "views: frame_order takes 1, got 0");
        assert!(step(vec![clips(2, 5)]).starts_with("clips: expected [B, C, 4, H, W]"));
    }
}
