//! The next frame: what will be seen, from what was seen so far.
//!
//! Source: Srivastava et al., 2015: <https://arxiv.org/abs/1502.04681>; Shi et al., 2015 (ConvLSTM), whose last layer is
//! a convolution of one pixel that gives patches of 4 x 4: <https://arxiv.org/abs/1506.04214>. They predict ten frames
//! from ten; here the one that follows is predicted after each frame, from the true ones before it, as language models
//! do. Errors are squared or absolute where they take a cross entropy of grey values.
use super::{Definition, Info, VideoMethod, views};
use crate::augment::{Augment, View};
use crate::backbones::{Backbone, Encoder, Encoders, Gates, clips, images, of_images};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

/// Side of the patch that each place of a state predicts, in pixels.
const PATCH: i64 = 4;
/// Clips to look at, at most.
const SHOWN: i64 = 8;

/// How errors of pixels count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared.
    #[default]
    Mse,
    /// Absolute.
    L1,
}

/// What the network says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// The next frame.
    #[default]
    Frame,
    /// By what it differs from the last one.
    Change,
}

/// The hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How errors of pixels count.
    pub loss: Loss,
    /// What the network says.
    pub says: Says,
    /// The clip, of at least two frames.
    pub view: View,
}

impl Default for Config {
    fn default() -> Self {
        Config { loss: Loss::Mse, says: Says::Frame, view: View::new(20, 1, Augment::whole(64)) }
    }
}

/// A recurrent encoder and a layer that draws frames.
#[derive(Debug)]
pub struct NextFrame {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: Gates,
    config: Config,
}

impl Definition for NextFrame {
    const INFO: Info = Info {
        name: "next_frame",
        summary: "draw the next frame from those before it",
        paper: "Srivastava, Mansimov, Salakhutdinov",
        year: 2015,
        kind: "generative",
        url: "https://arxiv.org/abs/1502.04681",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.view.validate()?;
        let (frames, size) = (config.view.frames, config.view.augment.clip.size as i64);
        if frames < 2 {
            return Err(Error::config("view.frames", format!("expected at least 2, got {frames}")));
        }
        if size % PATCH != 0 {
            let message = format!("expected a multiple of {PATCH} pixels, got {size}");
            return Err(Error::config("view.augment.clip.size", message));
        }
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        encoder.recurrent(Self::INFO.name)?;
        let outputs = PATCH * PATCH * encoders.config().channels();
        let head = Gates::new(&(vars.root() / "head"), (encoder.frame_dim(), outputs), 1, None)?;
        Ok(NextFrame { vars, encoder, head, config })
    }
}

impl NextFrame {
    /// All frames but the first as predicted, as they are, and the frames before them. `[B, C, T - 1, H, W]` each.
    fn predict(&self, x: &Tensor, mode: Mode) -> Result<[Tensor; 3]> {
        let channels = x.size().get(1).copied().unwrap_or(0);
        let [_, _, frames, height, width] = clips(x, channels)?;
        if frames < 2 || height % PATCH != 0 || width % PATCH != 0 {
            let expected = format!("[B, C, T, H, W] with T at least 2 and H and W multiples of {PATCH}");
            return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
        }
        let (before, after) = (x.f_narrow(2, 0, frames - 1)?, x.f_narrow(2, 1, frames - 1)?);
        let states = self.encoder.recurrent(Self::INFO.name)?.states(&before, mode)?;
        let patches = self.head.forward(&images(&states)?)?.f_to_kind(Kind::Float)?;
        let drawn = of_images(&patches.f_pixel_shuffle(PATCH)?, frames - 1)?;
        let drawn = match self.config.says {
            Says::Frame => drawn,
            Says::Change => drawn.f_add(&before)?,
        };
        Ok([drawn, after, before])
    }

    fn error(&self, drawn: &Tensor, after: &Tensor) -> Result<Tensor> {
        Precision::Fp32.scope(after.device(), || {
            Ok(match self.config.loss {
                Loss::Mse => drawn.f_mse_loss(after, Reduction::Mean)?,
                Loss::L1 => drawn.f_l1_loss(after, Reduction::Mean)?,
            })
        })
    }
}

impl Method for NextFrame {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [x] = views(batch, Self::INFO.name)?;
        let [drawn, after, _] = self.predict(x, Mode::Train)?;
        Ok(Output::new(self.error(&drawn, &after)?))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    /// The error beside that of showing the last frame again.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let [x] = views(batch, Self::INFO.name)?;
        no_grad(|| {
            let [drawn, after, before] = self.predict(x, Mode::Eval)?;
            let (loss, copied) = (self.error(&drawn, &after)?, self.error(&before, &after)?);
            Ok(vec![("loss".into(), loss), ("copied_frame_error".into(), copied)])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [x] = views(batch, Self::INFO.name)?;
        no_grad(|| {
            let x = x.f_narrow(0, 0, x.size().first().copied().unwrap_or(0).min(SHOWN))?;
            let [drawn, after, _] = self.predict(&x, Mode::Eval)?;
            Ok(vec![("next frame".into(), after), ("predicted".into(), drawn)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VideoMethod for NextFrame {
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

    fn build(loss: Loss, says: Says) -> Result<NextFrame> {
        let config = Config { loss, says, view: View::new(4, 1, Augment::whole(16)) };
        NextFrame::new(config, &encoders("convlstm_w4_l2", 4))
    }

    #[test]
    fn it_keeps_the_contract() {
        for (loss, says) in [(Loss::Mse, Says::Frame), (Loss::L1, Says::Change)] {
            let (x, scratch) = (clips(4, 4), tempfile::tempdir().unwrap());
            check_method(|| build(loss, says), &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_loss_is_that_of_patches_drawn_one_by_one() {
        for (loss, says) in [(Loss::Mse, Says::Frame), (Loss::L1, Says::Change)] {
            let method = build(loss, says).unwrap();
            let x = clips(2, 4);
            let states = method.encoder.recurrent("test").unwrap().states(&x.narrow(2, 0, 3), Mode::Eval).unwrap();
            let weight = method.vars.variables()["head.weight"].view([16, 4]);
            let bias = method.vars.variables()["head.bias"].shallow_clone();
            let (mut total, mut copied) = (0., 0.);
            let measure = |error: f64| if loss == Loss::Mse { error * error } else { error.abs() };
            for (clip, t) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                for (row, column) in (0..16).flat_map(|row| (0..16).map(move |column| (row, column))) {
                    let place = states.get(clip).select(1, t).select(1, row / 4).select(1, column / 4);
                    let drawn = (weight.mv(&place) + &bias).double_value(&[row % 4 * 4 + column % 4]);
                    let pixel = |t: i64| x.double_value(&[clip, 0, t, row, column]);
                    let drawn = if says == Says::Change { drawn + pixel(t) } else { drawn };
                    total += measure(drawn - pixel(t + 1));
                    copied += measure(pixel(t) - pixel(t + 1));
                }
            }
            let count = 6. * 256.;
            let found = method.validate(&Views(vec![x])).unwrap();
            assert!((found[0].1.double_value(&[]) - total / count).abs() < 1e-4, "{found:?} {}", total / count);
            assert!((found[1].1.double_value(&[]) - copied / count).abs() < 1e-4, "{found:?}");
        }
    }

    #[test]
    fn a_prediction_knows_nothing_of_its_frame() {
        let method = build(Loss::Mse, Says::Frame).unwrap();
        let x = clips(2, 4);
        let other = x.copy();
        let _ = other.narrow(2, 2, 2).fill_(0.5);
        let drawn = [&x, &other].map(|x| method.predict(x, Mode::Eval).unwrap()[0].shallow_clone());
        assert!(drawn[0].narrow(2, 0, 2).allclose(&drawn[1].narrow(2, 0, 2), 1e-5, 1e-6, false));
        assert!(!drawn[0].narrow(2, 2, 1).allclose(&drawn[1].narrow(2, 2, 1), 1e-6, 1e-7, false));
        let rows = method.look(&Views(vec![x])).unwrap();
        assert!(rows.iter().all(|(_, x)| x.size() == [2, 1, 3, 16, 16]));
    }

    #[test]
    fn faults_are_named() {
        let build = |view, arch| NextFrame::new(Config { view, ..Config::default() }, &encoders(arch, 4));
        let message = |view| build(view, "convlstm_w4_l1").unwrap_err().to_string();
        assert_eq!(message(View::new(1, 1, Augment::whole(16))), "view.frames: expected at least 2, got 1");
        assert!(message(View::new(4, 1, Augment::whole(18))).ends_with("expected a multiple of 4 pixels, got 18"));
        let other = build(View::new(4, 1, Augment::whole(16)), "r3d10_w4").unwrap_err().to_string();
        assert!(other.starts_with("encoder: next_frame needs a recurrent network"), "{other}");
    }
}
