//! Pace prediction: how fast is a clip played?
//!
//! Source: Wang, Jiao, Liu, 2020: <https://arxiv.org/abs/2008.05861>; its classification of paces, by which frames of
//! the video a clip takes every one, every second, .. of them. Its contrastive terms are left out.
use crate::time::chosen_frames;
use super::{Definition, Info, VideoMethod, choice, judged, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Paces, from every frame of the window to every so manyth.
    pub paces: i64,
    /// Frames of a clip.
    pub clip_frames: i64,
    /// Frames of the video from one frame of the window to the next.
    pub stride: usize,
    /// What becomes of the frames of the window.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config { paces: 4, clip_frames: 16, stride: 1, augment: Augment::crop_and_flip(112) }
    }
}

impl Config {
    /// Frames that a clip of the fastest pace reaches over.
    fn window(&self) -> i64 {
        (self.clip_frames - 1) * self.paces + 1
    }
}

/// Pace, from 0, and first frame of each clip. `[B]` each.
#[derive(Debug)]
struct Plan {
    pace: Tensor,
    start: Tensor,
}

/// An encoder and a classifier of paces.
#[derive(Debug)]
pub struct Pace {
    vars: VarStore,
    encoder: Rc<Encoder>,
    classifier: Linear,
    config: Config,
}

impl Definition for Pace {
    const INFO: Info = Info {
        name: "pace",
        summary: "tell how fast a clip is played",
        paper: "Wang, Jiao, Liu",
        year: 2020,
        kind: "pretext",
        url: "https://arxiv.org/abs/2008.05861",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::ranges([("paces", config.paces, (2, 64)), ("clip_frames", config.clip_frames, (2, 256))])?;
        View::new(config.window() as usize, config.stride, config.augment.clone()).validate()?;
        encoders.config().check_order(Self::INFO.name)?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let classifier = Linear::new(&(vars.root() / "classifier"), encoder.dim(), config.paces)?;
        Ok(Pace { vars, encoder, classifier, config })
    }
}

impl Pace {
    fn measure(&self, x: &Tensor) -> Result<i64> {
        let [b, _, frames, ..] = clips(x, x.size().get(1).copied().unwrap_or(0))?;
        let window = self.config.window();
        if frames != window {
            let expected = format!("[B, C, {window}, H, W]");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        Ok(b)
    }

    /// Random paces and places, drawn from libtorch's generator.
    fn draw(&self, x: &Tensor) -> Result<Plan> {
        let b = self.measure(x)?;
        let pace = Tensor::f_randint(self.config.paces, [b], (Kind::Int64, x.device()))?;
        let part = Tensor::f_rand([b], (Kind::Float, x.device()))?;
        let start = part.f_mul(&self.room(&pace)?.f_add_scalar(1)?)?.f_floor()?.f_to_kind(Kind::Int64)?;
        // A part next to 1 may be rounded up.
        let start = start.f_minimum(&self.room(&pace)?)?;
        Ok(Plan { pace, start })
    }

    /// The same at every call: paces one after the other, clips in the middle of their windows.
    fn fixed(&self, x: &Tensor) -> Result<Plan> {
        let b = self.measure(x)?;
        let pace = Tensor::f_arange(b, (Kind::Int64, x.device()))?.f_remainder(self.config.paces)?;
        let start = self.room(&pace)?.f_floor_divide_scalar(2)?;
        Ok(Plan { pace, start })
    }

    /// Frames by which a clip of each pace is shorter than the window.
    fn room(&self, pace: &Tensor) -> Result<Tensor> {
        let length = pace.f_add_scalar(1)?.f_mul_scalar(self.config.clip_frames - 1)?.f_add_scalar(1)?;
        Ok(length.f_neg()?.f_add_scalar(self.config.window())?)
    }

    /// The clips of a plan. `[B, C, clip_frames, H, W]`.
    fn paced(&self, x: &Tensor, Plan { pace, start }: &Plan) -> Result<Tensor> {
        let count = Tensor::f_arange(self.config.clip_frames, (Kind::Int64, x.device()))?;
        let steps = pace.f_add_scalar(1)?.f_unsqueeze(1)?.f_mul(&count)?;
        chosen_frames(x, &steps.f_add(&start.f_unsqueeze(1)?)?)
    }

    fn predict(&self, x: &Tensor, plan: &Plan, mode: Mode) -> Result<(Tensor, Tensor)> {
        let features = self.encoder.forward(&self.paced(x, plan)?, mode)?;
        choice(&self.classifier.forward(&features, mode)?, &plan.pace)
    }
}

impl Method for Pace {
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
        Ok(judged(found, 1. / self.config.paces as f64))
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [x] = views(batch, Self::INFO.name)?;
        Ok(vec![("one pace after the other".into(), self.paced(x, &self.fixed(x)?)?)])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for Pace {
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
    use std::collections::BTreeSet;
    use tch::Device;

    fn small() -> Config {
        Config { paces: 3, clip_frames: 4, augment: Augment::whole(16), ..Config::default() }
    }

    fn build() -> Result<Pace> {
        Pace::new(small(), &encoders("r3d10_w4", 4))
    }

    #[test]
    fn it_keeps_the_contract() {
        let (x, scratch) = (clips(9, 10), tempfile::tempdir().unwrap());
        check_method(build, &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn clips_take_every_frame_or_leave_some_out_and_lie_everywhere_in_their_window() {
        let method = build().unwrap();
        let x = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([1, 1, 10, 1, 1]).expand([300, 1, 10, 2, 2], false);
        let mut seen = BTreeSet::new();
        for plan in [method.draw(&x).unwrap(), method.fixed(&x).unwrap()] {
            let paced = method.paced(&x, &plan).unwrap();
            for row in 0..300 {
                let numbers = Vec::<f64>::try_from(paced.get(row).select(0, 0).select(1, 0).select(1, 0)).unwrap();
                let pace = plan.pace.int64_value(&[row]) + 1;
                assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] == pace as f64), "{numbers:?}");
                seen.insert((pace, numbers[0] as i64));
            }
        }
        // Seven places at the first pace, four at the second, one at the third.
        assert_eq!(seen.len(), 12);
        let fixed = method.fixed(&x.narrow(0, 0, 4)).unwrap();
        assert_eq!(Vec::<i64>::try_from(&fixed.start).unwrap(), [3, 1, 0, 3]);
    }

    #[test]
    fn the_loss_is_that_of_clips_seen_one_by_one() {
        let (method, x) = (build().unwrap(), clips(5, 10));
        let mut total = 0.;
        for n in 0..5 {
            let (pace, start) = (n % 3 + 1, [3, 1, 0][n as usize % 3]);
            let frames: Vec<Tensor> = (0..4).map(|k| x.get(n).select(1, start + k * pace)).collect();
            let features = method.encoder.forward(&Tensor::stack(&frames, 1).unsqueeze(0), Mode::Eval).unwrap();
            let logits = method.classifier.forward(&features, Mode::Eval).unwrap();
            total -= logits.log_softmax(-1, Kind::Double).double_value(&[0, pace - 1]);
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        assert!((found[0].1.double_value(&[]) - total / 5.).abs() < 1e-5, "{found:?}");
        assert!((found[2].1.double_value(&[]) - 1. / 3.).abs() < 1e-6);
    }

    #[test]
    fn windows_are_those_of_the_fastest_pace_and_others_are_refused() {
        let mut method = build().unwrap();
        assert_eq!(method.views()[0].frames, 10);
        let message = method.step(&Views(vec![clips(2, 9)]), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert!(message.starts_with("clips: expected [B, C, 10, H, W]"), "{message}");
        let refused = Pace::new(Config { paces: 1, ..small() }, &encoders("r3d10_w4", 4));
        assert_eq!(refused.unwrap_err().to_string(), "paces: expected 2 to 64, got 1");
    }
}
