//! I-JEPA: from a large block of an image, a narrow predictor tells what a slow copy of the encoder makes of other blocks.
//!
//! Source: Assran et al., 2023: <https://arxiv.org/abs/2301.08243>; the official code (`facebookresearch/ijepa`,
//! `src/train.py`, `src/models/vision_transformer.py`, `configs/in1k_vith14_ep300.yaml`), whose evaluation takes the
//! target encoder, as here. Departures: the encoder is timm's, whose class token the predictor does not get; blocks
//! start as timm's, without a factor that falls with their depth.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::masked::{Blocks, Chance, Decoder, DecoderConfig, DecoderNames, Grid, Regions};
use crate::masked::{check_momentum, deviation, patches_of, smooth_l1, standardized, teacher_metrics};
use crate::pretext::{only, shown};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::trunc_normal;
use ssl_core::schedule::End;
use ssl_core::{Batch, Ema, Error, Method, Metrics, Mode, Output, Result, Schedule, Statistics, Step, Views, no_grad};
use std::rc::Rc;
use tch::Tensor;
use tch::nn::VarStore;

/// The predictor's variables in the official code.
const NAMES: DecoderNames = DecoderNames {
    embed: "predictor_embed",
    positions: "predictor_pos_embed",
    blocks: "predictor_blocks",
    norm: "predictor_norm",
    output: "predictor_proj",
};

/// I-JEPA's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Target blocks of an image.
    pub targets: usize,
    /// Least and greatest part of the patches in a target.
    pub target_scale: [f64; 2],
    /// Least and greatest height of a target over its width.
    pub target_aspect: [f64; 2],
    /// Least and greatest part of the patches in a context before the targets are taken from it.
    pub context_scale: [f64; 2],
    /// A context is drawn again while it has no more patches than this.
    pub min_keep: usize,
    /// Width of the predictor, a multiple of 4.
    pub predictor_dim: i64,
    /// Blocks of the predictor.
    pub predictor_depth: i64,
    /// Attention heads of the predictor; the official code gives it the encoder's.
    pub predictor_heads: i64,
    /// Part of the target encoder that each step keeps.
    pub momentum: Schedule,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            targets: 4,
            target_scale: [0.15, 0.2],
            target_aspect: [0.75, 1.5],
            context_scale: [0.85, 1.],
            min_keep: 10,
            predictor_dim: 384,
            predictor_depth: 12,
            predictor_heads: 16,
            momentum: Schedule::linear(0.996, 1.).reached(End::AfterLastStep),
            augment: Augment { crop_scale: [0.3, 1.], flip_probability: 0., ..Augment::crop_and_flip(224) },
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        for (name, [low, high], most) in [
            ("target_scale", self.target_scale, 1.),
            ("target_aspect", self.target_aspect, 100.),
            ("context_scale", self.context_scale, 1.),
        ] {
            if !(low > 0. && low <= high && high <= most) {
                let expected = format!("expected two rising numbers above 0 and at most {most}");
                return Err(Error::config(name, format!("{expected}, got {:?}", [low, high])));
            }
        }
        if !(1..=64).contains(&self.targets) {
            return Err(Error::config("targets", format!("expected 1 to 64, got {}", self.targets)));
        }
        check_momentum(&self.momentum)?;
        self.augment.validate()
    }
}

/// A context encoder with a predictor, and a target encoder that is the former's moving average.
#[derive(Debug)]
pub struct IJepa {
    student: VarStore,
    teacher: VarStore,
    encoder: Rc<Encoder>,
    target_encoder: Encoder,
    predictor: Decoder,
    grid: Grid,
    blocks: Blocks,
    ema: Ema,
    config: Config,
}

impl Definition for IJepa {
    const INFO: Info = Info {
        name: "i_jepa",
        summary: "predict from a part of an image a slow copy's features of other parts",
        paper: "Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas",
        year: 2023,
        kind: "masked",
        url: "https://arxiv.org/abs/2301.08243",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (student, mut teacher) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let encoder = encoders.student(&student)?;
        let grid = Grid::new(encoder.vit("I-JEPA")?, config.augment.size as i64)?;
        if grid.side < 2 {
            return Err(Error::config("augment.size", "expected two patches a side at least, got one"));
        }
        let shape = DecoderConfig {
            input: encoder.dim(),
            dim: config.predictor_dim,
            depth: config.predictor_depth,
            heads: config.predictor_heads,
            output: encoder.dim(),
            side: grid.side,
        };
        let predictor = Decoder::new(&student, &shape, &NAMES, |x| trunc_normal(x, 0.02))?;
        let target_encoder = encoders.teacher(&teacher)?;
        let ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
        let Config { targets, target_scale, target_aspect, context_scale, min_keep, .. } = config;
        let side = grid.side;
        let blocks = Blocks { side, targets, target_scale, target_aspect, context_scale, min_keep };
        Ok(IJepa { student, teacher, encoder, target_encoder, predictor, grid, blocks, ema, config })
    }
}

impl IJepa {
    /// The features of the targets' patches, as predicted and as they are: `[B * T * M, D]` each.
    fn predict(&self, x: &Tensor, regions: &Regions, mode: Mode) -> Result<[Tensor; 2]> {
        let whole = no_grad(|| self.target_encoder.vit("I-JEPA")?.tokens(x, None, Mode::Eval))?;
        let target = standardized(&patches_of(&whole)?.f_index_select(0, &regions.target_index)?)?;
        let tokens = self.encoder.vit("I-JEPA")?.tokens(x, Some(&regions.context), mode)?;
        let seen = tokens.f_narrow(1, 1, tokens.size().get(1).copied().unwrap_or(1) - 1)?;
        // Each target is told by itself.
        let for_each = |x: &Tensor| x.f_repeat_interleave_self_int(self.blocks.targets as i64, 0, None);
        // Position 0 is the class token's.
        let places = [for_each(&regions.context)?.f_add_scalar(1)?, regions.targets.f_add_scalar(1)?];
        Ok([self.predictor.forward(&for_each(&seen)?, places.each_ref(), mode)?, target])
    }

    fn regions(&self, x: &Tensor, chance: Chance) -> Result<Regions> {
        self.blocks.draw((x.len(), x.device()), chance)
    }
}

impl Method for IJepa {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, "I-JEPA")?;
        let [prediction, target] = self.predict(x, &self.regions(x, Chance::Generator)?, Mode::Train)?;
        Output::new(smooth_l1(&prediction, &target, 1.)?).with("target_deviation", &deviation(&target)?)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.target_encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.target_encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, "I-JEPA")?;
            let [prediction, target] = self.predict(x, &self.regions(x, Chance::Fixed)?, Mode::Eval)?;
            teacher_metrics(&prediction, &target, 1.)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let x = shown(only(batch, "I-JEPA")?)?;
        let regions = self.regions(&x, Chance::Fixed)?;
        let context = self.grid.kept(&x, &regions.context_index)?;
        let targets = self.grid.kept(&x, &regions.target_index)?;
        Ok(vec![("image".into(), x), ("context".into(), context), ("targets".into(), targets)])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("teacher".into(), &self.teacher), ("student".into(), &self.student)]
    }
}

impl VisionMethod for IJepa {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Pool, VitConfig};
    use ssl_core::check_method;
    use tch::{Device, Kind};

    fn encoders() -> Encoders {
        let (arch, pool) = ("vit_d16_l2_h2".parse().unwrap(), Pool::Mean);
        let config = VitConfig { arch, image_size: 16, patch_size: 2, channels: 1, pool, ..VitConfig::default() };
        Encoders::new(config, Device::Cpu)
    }

    fn small() -> Config {
        let augment = Augment { size: 16, ..Config::default().augment };
        let d = Config::default();
        Config { targets: 2, predictor_dim: 8, predictor_depth: 1, predictor_heads: 2, min_keep: 4, augment, ..d }
    }

    fn build(config: Config) -> IJepa {
        IJepa::new(config, &encoders()).unwrap()
    }

    fn images(n: i64) -> Tensor {
        Tensor::arange(n * 256, (Kind::Float, Device::Cpu)).square().sin().view([n, 1, 16, 16])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (images(4), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| IJepa::new(small(), &encoders()), &batch, &x, scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_the_targets_of_each_image() {
        let (method, x) = (build(small()), images(3));
        let regions = method.regions(&x, Chance::Fixed).unwrap();
        let whole = method.target_encoder.vit("").unwrap().tokens(&x, None, Mode::Eval).unwrap();
        let (mut loss, mut count) = (0., 0.);
        for (image, block) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
            let context = regions.context.narrow(0, image, 1);
            let own = x.narrow(0, image, 1);
            let seen = method.encoder.vit("").unwrap().tokens(&own, Some(&context), Mode::Eval).unwrap();
            let seen = seen.narrow(1, 1, context.size()[1]);
            let target = regions.targets.narrow(0, 2 * image + block, 1);
            let places = [&context + 1, &target + 1];
            let drawn = method.predictor.forward(&seen, places.each_ref(), Mode::Eval).unwrap();
            for (row, patch) in (0..).zip(Vec::<i64>::try_from(target.view(-1)).unwrap()) {
                let features: Vec<f64> = whole.get(image).get(1 + patch).to_kind(Kind::Double).try_into().unwrap();
                let mean = features.iter().sum::<f64>() / 16.;
                let var = features.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 16.;
                for (k, feature) in (0..).zip(features) {
                    let gap = (drawn.double_value(&[row, k]) - (feature - mean) / (var + 1e-5).sqrt()).abs();
                    loss += if gap < 1. { gap * gap / 2. } else { gap - 0.5 };
                    count += 1.;
                }
            }
        }
        let found = method.validate(&Views(vec![x])).unwrap();
        let got = found[0].1.double_value(&[]);
        assert!((got - loss / count).abs() < 1e-5, "{got} {}", loss / count);
        assert_eq!((found[1].0.as_str(), found[2].0.as_str()), ("mean_target_error", "target_deviation"));
    }

    #[test]
    fn what_is_outside_the_context_is_not_seen_and_is_in_the_target() {
        let (method, x) = (build(small()), images(3));
        let regions = method.regions(&x, Chance::Fixed).unwrap();
        let [prediction, target] = method.predict(&x, &regions, Mode::Eval).unwrap();
        let seen = method.grid.kept(&x, &regions.context_index).unwrap();
        let [again, other] = method.predict(&seen, &regions, Mode::Eval).unwrap();
        assert!(prediction.allclose(&again, 0., 1e-6, false) && !target.allclose(&other, 0.1, 0.1, false));
    }

    #[test]
    fn targets_take_no_gradient_and_the_target_encoder_follows() {
        let mut method = build(Config { momentum: Schedule::constant(0.75), ..small() });
        let output = method.step(&Views(vec![images(3)]), Step { index: 0, total: 10 }).unwrap();
        output.loss.backward();
        assert!(output.metrics[0].1.double_value(&[]) > 0.);
        assert!(method.teacher.variables().values().all(|x| !x.requires_grad() && !x.grad().defined()));
        let name = "patch_embed.proj.bias";
        let _ = no_grad(|| method.student.variables()[&format!("encoder.{name}")].shallow_clone().fill_(4.));
        let _ = no_grad(|| method.encoder()[name].shallow_clone().fill_(0.));
        method.after_step(Step { index: 0, total: 10 }).unwrap();
        assert_eq!(f64::try_from(method.encoder()[name].max()).unwrap(), 1.);
        let x = images(2);
        let expected = method.target_encoder.forward(&x, Mode::Eval).unwrap();
        assert!(method.embed(&x).unwrap().equal(&expected));
    }

    #[test]
    fn contexts_and_targets_are_shown_apart() {
        let method = build(small());
        let shown = method.look(&Views(vec![images(14)])).unwrap();
        let [(_, image), (_, context), (_, targets)] = &shown[..] else { panic!() };
        let seen = |x: &Tensor| x.not_equal(0.);
        assert_eq!(image.size(), [12, 1, 16, 16]);
        assert!(seen(context).any() == Tensor::from(true) && seen(targets).any() == Tensor::from(true));
        assert!(seen(context).logical_and(&seen(targets)).any() == Tensor::from(false));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |config: Config| IJepa::new(config, &encoders()).unwrap_err().to_string();
        let message = refused(Config { target_scale: [0.3, 0.2], ..small() });
        assert_eq!(message, "target_scale: expected two rising numbers above 0 and at most 1, got [0.3, 0.2]");
        assert_eq!(refused(Config { targets: 0, ..small() }), "targets: expected 1 to 64, got 0");
        let message = refused(Config { predictor_dim: 6, ..small() });
        assert!(message.starts_with("predictor_dim, predictor_depth: expected"), "{message}");
        let message = refused(Config { momentum: Schedule::constant(2.), ..small() });
        assert_eq!(message, "momentum: expected 0 to 1, got 2");
    }
}
