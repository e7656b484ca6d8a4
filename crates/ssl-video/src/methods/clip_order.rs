//! Clip order (VCOP): in which order were three clips of a video taken?
//!
//! Source: Xu et al., 2019: <https://openaccess.thecvf.com/content_CVPR_2019/html/Xu_Self-Supervised_Spatiotemporal_Learning_via_Video_Clip_Order_Prediction_CVPR_2019_paper.html>;
//! the common layer of the pairs and the dropout before the classifier are those of the official code
//! (`xudejing/video-clip-order-prediction`, `models/vcopn.py`).
use crate::order::{HeadShape, OrderHead, arranged, orders, table};
use crate::time::{chosen_frames, of_pieces, pieces};
use super::{Definition, Info, VideoMethod, choice, judged, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Clips to be ordered.
    pub clips: i64,
    /// Frames of a clip.
    pub clip_frames: i64,
    /// Frames between the end of a clip and the start of the next.
    pub gap: i64,
    /// Frames of the video from one frame of the window to the next.
    pub stride: usize,
    /// Units of the layer that pairs of clips pass.
    pub pair_dim: i64,
    /// Probability of dropping a unit before the classifier.
    pub dropout: f64,
    /// What becomes of the frames of the window.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment::crop_and_flip(112);
        Config { clips: 3, clip_frames: 16, gap: 8, stride: 1, pair_dim: 512, dropout: 0.5, augment }
    }
}

impl Config {
    /// Frames that all clips and gaps reach over.
    fn window(&self) -> i64 {
        self.clips * self.clip_frames + (self.clips - 1) * self.gap
    }
}

/// An encoder of clips and a classifier of orders.
#[derive(Debug)]
pub struct ClipOrder {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: OrderHead,
    /// Each row is an order. `[R, N]`.
    orders: Tensor,
    config: Config,
}

impl Definition for ClipOrder {
    const INFO: Info = Info {
        name: "clip_order",
        summary: "sort shuffled clips of a video",
        paper: "Xu, Xiao, Zhao, Shao, Xie, Zhuang",
        year: 2019,
        kind: "pretext",
        url: "https://openaccess.thecvf.com/content_CVPR_2019/html/\
              Xu_Self-Supervised_Spatiotemporal_Learning_via_Video_Clip_Order_Prediction_CVPR_2019_paper.html",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([
            ("clips", config.clips, (2, 5)),
            ("clip_frames", config.clip_frames, (1, 256)),
            ("gap", config.gap, (0, 256)),
            ("pair_dim", config.pair_dim, (1, 1 << 16)),
        ])?;
        if !(0. ..1.).contains(&config.dropout) {
            let message = format!("expected a number from 0 to below 1, got {}", config.dropout);
            return Err(Error::config("dropout", message));
        }
        View::new(config.window() as usize, config.stride, config.augment.clone()).validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let orders = table(&orders(config.clips as usize))?.f_to_device(encoders.device())?;
        let shape = HeadShape {
            input: encoder.frame_dim(),
            pieces: config.clips,
            piece_dim: None,
            pair_dim: config.pair_dim,
            shared: true,
            dropout: config.dropout,
            classes: orders.size().first().copied().unwrap_or(1),
        };
        let head = OrderHead::new(&(vars.root() / "head"), &shape)?;
        Ok(ClipOrder { vars, encoder, head, orders, config })
    }
}

impl ClipOrder {
    fn count(&self) -> i64 {
        self.orders.size().first().copied().unwrap_or(1)
    }

    fn measure(&self, x: &Tensor) -> Result<i64> {
        let [b, _, frames, ..] = clips(x, x.size().get(1).copied().unwrap_or(0))?;
        let window = self.config.window();
        if frames != window {
            let expected = format!("[B, C, {window}, H, W]");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        Ok(b)
    }

    /// Random orders, drawn from libtorch's generator.
    fn draw(&self, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_randint(self.count(), [self.measure(x)?], (Kind::Int64, x.device()))?)
    }

    /// The same at every call: one order after the other.
    fn fixed(&self, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_arange(self.measure(x)?, (Kind::Int64, x.device()))?.f_remainder(self.count())?)
    }

    /// The clips in the orders of the given numbers, one behind the other. `[B, C, N * t, H, W]`.
    fn shuffled(&self, x: &Tensor, order: &Tensor) -> Result<Tensor> {
        let Config { clip_frames, gap, .. } = self.config;
        let starts = self.orders.f_index_select(0, order)?.f_mul_scalar(clip_frames + gap)?;
        chosen_frames(x, &of_pieces(&starts, clip_frames)?)
    }

    /// Logits of the orders. `[B, K]`.
    fn classify(&self, shuffled: &Tensor, mode: Mode) -> Result<Tensor> {
        let count = self.config.clips;
        let features = self.encoder.mean(&pieces(shuffled, count)?, mode)?;
        self.head.forward(&features.f_unflatten(0, [-1, count])?, mode)
    }

    fn predict(&self, x: &Tensor, order: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        choice(&self.classify(&self.shuffled(x, order)?, mode)?, order)
    }
}

impl Method for ClipOrder {
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
        let found = no_grad(|| self.predict(x, &self.fixed(x)?, Mode::Eval))?;
        Ok(judged(found, 1. / self.count() as f64))
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [x] = views(batch, Self::INFO.name)?;
        no_grad(|| {
            let shuffled = self.shuffled(x, &self.fixed(x)?)?;
            let found = self.classify(&shuffled, Mode::Eval)?.f_argmax(-1, false)?;
            // Where the clip of each place stands: the inverse of the order.
            let places = self.orders.f_index_select(0, &found)?.f_argsort(1, false)?;
            let length = self.config.clip_frames;
            let starts = Tensor::f_arange(self.config.clips, (Kind::Int64, x.device()))?.f_mul_scalar(length)?;
            let starts = arranged(&starts.f_expand_as(&places)?, &places)?;
            let sorted = chosen_frames(&shuffled, &of_pieces(&starts, length)?)?;
            Ok(vec![("shuffled".into(), shuffled), ("sorted".into(), sorted)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for ClipOrder {
    fn views(&self) -> Vec<View> {
        let Config { stride, augment, .. } = &self.config;
        vec![View::new(self.config.window() as usize, *stride, augment.clone())]
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

    fn small() -> Config {
        let augment = Augment::whole(16);
        Config { clip_frames: 2, gap: 1, pair_dim: 8, dropout: 0.1, augment, ..Config::default() }
    }

    fn build() -> Result<ClipOrder> {
        ClipOrder::new(small(), &encoders("r3d10_w4", 4))
    }

    #[test]
    fn it_keeps_the_contract() {
        let (x, scratch) = (clips(12, 8), tempfile::tempdir().unwrap());
        check_method(build, &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn clips_are_shown_in_their_order_without_the_gaps_and_the_loss_is_that_of_each_alone() {
        let method = build().unwrap();
        let x = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([1, 1, 8, 1, 1]).expand([6, 1, 8, 2, 2], false);
        let shown = method.shuffled(&x, &method.fixed(&x).unwrap()).unwrap();
        let row = |n| Vec::<f64>::try_from(shown.get(n).select(0, 0).select(1, 0).select(1, 0)).unwrap();
        assert_eq!((row(0), row(4)), (vec![0., 1., 3., 4., 6., 7.], vec![6., 7., 0., 1., 3., 4.]));
        let x = clips(7, 8);
        let mut total = 0.;
        for n in 0..7 {
            let order = &orders(3)[n as usize % 6];
            let features = order.iter().map(|clip| {
                let clip = x.get(n).narrow(1, clip * 3, 2).unsqueeze(0);
                method.encoder.mean(&clip, Mode::Eval).unwrap().unsqueeze(1)
            });
            let features = Tensor::cat(&features.collect::<Vec<_>>(), 1);
            let logits = method.head.forward(&features, Mode::Eval).unwrap();
            total -= logits.log_softmax(-1, Kind::Double).double_value(&[0, n % 6]);
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        assert!((found[0].1.double_value(&[]) - total / 7.).abs() < 1e-5, "{found:?}");
        assert!((found[2].1.double_value(&[]) - 1. / 6.).abs() < 1e-6);
    }

    #[test]
    fn what_is_shown_has_all_clips_and_faults_are_named() {
        let mut method = build().unwrap();
        let rows = method.look(&Views(vec![clips(6, 8)])).unwrap();
        let sums = |x: &Tensor| x.sum_dim_intlist([2i64].as_slice(), false, Kind::Float);
        assert!(sums(&rows[0].1).allclose(&sums(&rows[1].1), 1e-4, 1e-4, false));
        assert_eq!(method.views()[0].frames, 8);
        let message = method.step(&Views(vec![clips(2, 7)]), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert!(message.starts_with("clips: expected [B, C, 8, H, W]"), "{message}");
        let refused = |config| ClipOrder::new(config, &encoders("r3d10_w4", 4)).unwrap_err().to_string();
        assert_eq!(refused(Config { clips: 6, ..small() }), "clips: expected 2 to 5, got 6");
        assert!(refused(Config { dropout: 1., ..small() }).starts_with("dropout: expected"));
    }
}
