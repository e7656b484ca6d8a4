//! The arrow of time: does a clip run forward or backward?
//!
//! Source: Pickup et al., 2014: <https://doi.org/10.1109/CVPR.2014.262>; Wei et al., 2018 ("Learning and using the arrow
//! of time"): <https://openaccess.thecvf.com/content_cvpr_2018/html/Wei_Learning_and_Using_CVPR_2018_paper.html>.
//! They look at optical flow; here frames are seen as they are, and both directions of each clip are in the batch.
use super::{Definition, Info, VideoMethod, choice, judged, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, clips};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Method, Metrics, Mode, Output, Result, Step, Views, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The clip.
    pub view: View,
}

impl Default for Config {
    fn default() -> Self {
        Config { view: View::new(10, 1, Augment::crop_and_flip(224)) }
    }
}

/// An encoder and a classifier of two directions.
#[derive(Debug)]
pub struct ArrowOfTime {
    vars: VarStore,
    encoder: Rc<Encoder>,
    classifier: Linear,
    config: Config,
}

impl Definition for ArrowOfTime {
    const INFO: Info = Info {
        name: "arrow_of_time",
        summary: "tell whether a clip runs forward or backward",
        paper: "Wei, Lim, Zisserman, Freeman",
        year: 2018,
        kind: "pretext",
        url: "https://openaccess.thecvf.com/content_cvpr_2018/html/Wei_Learning_and_Using_CVPR_2018_paper.html",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.view.validate()?;
        encoders.config().check_order(Self::INFO.name)?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let classifier = Linear::new(&(vars.root() / "classifier"), encoder.dim(), 2)?;
        Ok(ArrowOfTime { vars, encoder, classifier, config })
    }
}

impl ArrowOfTime {
    /// Cross entropy and accuracy over both directions of every clip.
    fn predict(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (clips, target) = both_ways(x)?;
        choice(&self.classifier.forward(&self.encoder.forward(&clips, mode)?, mode)?, &target)
    }
}

/// All clips forward, of class 0, then all backward, of class 1.
///
/// # Shapes
/// `x`: `[B, C, T, H, W]`; returns `[2B, C, T, H, W]` and `[2B]`.
fn both_ways(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let [n, ..] = clips(x, x.size().get(1).copied().unwrap_or(0))?;
    let ways = Tensor::f_cat(&[x, &x.f_flip([2])?], 0)?;
    let target = Tensor::f_arange(2, (Kind::Int64, x.device()))?.f_repeat_interleave_self_int(n, None, None)?;
    Ok((ways, target))
}

impl Method for ArrowOfTime {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [x] = views(batch, Self::INFO.name)?;
        let (loss, accuracy) = self.predict(x, Mode::Train)?;
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
        Ok(judged(no_grad(|| self.predict(x, Mode::Eval))?, 0.5))
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [x] = views(batch, Self::INFO.name)?;
        Ok(vec![("forward".into(), x.shallow_clone()), ("backward".into(), x.f_flip([2])?)])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for ArrowOfTime {
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

    fn build(arch: &str) -> Result<ArrowOfTime> {
        ArrowOfTime::new(Config::default(), &encoders(arch, 4))
    }

    #[test]
    fn it_keeps_the_contract() {
        for arch in ["r3d10_w4", "resnet10_w4_late"] {
            let (x, scratch) = (clips(6, 4), tempfile::tempdir().unwrap());
            check_method(|| build(arch), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
        }
    }

    #[test]
    fn both_directions_are_seen_and_the_loss_is_that_of_each_alone() {
        let method = build("r3d10_w4").unwrap();
        let x = clips(3, 4);
        let (ways, target) = both_ways(&x).unwrap();
        assert_eq!(Vec::<i64>::try_from(&target).unwrap(), [0, 0, 0, 1, 1, 1]);
        let mut total = 0.;
        for n in 0..6 {
            let clip = x.get(n % 3);
            let clip = if n < 3 { clip } else { Tensor::stack(&[3, 2, 1, 0].map(|t| clip.select(1, t)), 1) };
            assert!(ways.get(n).equal(&clip));
            let features = method.encoder.forward(&clip.unsqueeze(0), Mode::Eval).unwrap();
            let logits = method.classifier.forward(&features, Mode::Eval).unwrap();
            total -= logits.log_softmax(-1, Kind::Double).double_value(&[0, n / 3]);
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        assert!((found[0].1.double_value(&[]) - total / 6.).abs() < 1e-5);
        assert_eq!((found[2].0.as_str(), found[2].1.double_value(&[])), ("chance", 0.5));
    }

    #[test]
    fn an_encoder_that_knows_no_order_is_refused() {
        let mean = match encoders("resnet10_w4_late", 4).config() {
            crate::backbones::EncoderConfig::Late(config) => {
                crate::backbones::LateConfig { fusion: crate::backbones::Fusion::Mean, ..*config }
            }
            _ => panic!(),
        };
        let refused = ArrowOfTime::new(Config::default(), &Encoders::new(mean, Device::Cpu));
        let message = refused.unwrap_err().to_string();
        assert!(message.starts_with("encoder: arrow_of_time needs a network that knows the order"), "{message}");
    }
}
