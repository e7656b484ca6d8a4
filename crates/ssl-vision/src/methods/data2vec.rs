//! data2vec for images: from an image with hidden patches, tell what a slow copy of the encoder makes of them in its last
//! blocks when it sees the whole image.
//!
//! Source: Baevski et al., 2022: <https://arxiv.org/abs/2202.03555>; the official code (`facebookresearch/data2vec_vision`,
//! `beit/engine_for_cyclical.py`, and the commands of its README). Masks are BEiT's blocks. Departure: the encoder is
//! timm's Vision Transformer with its positions at the input, where the official one is BEiT's, which adds learned biases to
//! its attention and scales its branches.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::masked::{Chance, Filler, Grid, Mask};
use crate::masked::{check_momentum, check_ratio, deviation, smooth_l1, standardized, teacher_metrics};
use crate::pretext::{only, shown};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, trunc_normal};
use ssl_core::{
    Ema, Error, Method, Metrics, Mode, Output, Result, Schedule, Statistics, Step, Views, check, no_grad,
};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// data2vec's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Part of the patches that is hidden; now and then an image hides less, where no block fits any more.
    pub mask_ratio: f64,
    /// Patches of a block at least.
    pub least_block: i64,
    /// Last blocks of the teacher whose outputs are averaged.
    pub top_layers: usize,
    /// Whether the average is normalized once more, as the official commands for images have it.
    pub norm_target: bool,
    /// Difference from which on the loss grows in a line.
    pub beta: f64,
    /// Part of the teacher that each step keeps.
    pub momentum: Schedule,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mask_ratio: 0.6,
            least_block: 16,
            top_layers: 6,
            norm_target: true,
            beta: 2.,
            momentum: Schedule::constant(0.9998),
            augment: Augment {
                jitter_probability: 1.,
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                ..Augment::crop_and_flip(224)
            },
        }
    }
}

/// An encoder of whole and of hidden patches, and a teacher that is its moving average.
#[derive(Debug)]
pub struct Data2Vec {
    student: VarStore,
    teacher: VarStore,
    filler: Filler,
    target_encoder: Encoder,
    grid: Grid,
    ema: Ema,
    config: Config,
}

impl Definition for Data2Vec {
    const INFO: Info = Info {
        name: "data2vec",
        summary: "predict a slow copy's features of hidden patches, averaged over its last blocks",
        paper: "Baevski, Hsu, Xu, Babu, Gu, Auli",
        year: 2022,
        kind: "masked",
        url: "https://arxiv.org/abs/2202.03555",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        check_momentum(&config.momentum)?;
        check::positive("beta", config.beta)?;
        let (student, mut teacher) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let encoder = encoders.student(&student)?;
        let grid = Grid::new(encoder.vit("data2vec")?, config.augment.size as i64)?;
        check_ratio(config.mask_ratio, (grid.patches() as f64 * config.mask_ratio) as i64, grid.patches())?;
        if config.least_block < 1 || config.top_layers < 1 {
            let got = (config.least_block, config.top_layers);
            return Err(Error::config("least_block, top_layers", format!("expected at least 1, got {got:?}")));
        }
        let (dim, small) = (encoder.dim(), |x: &Tensor| trunc_normal(x, 0.02));
        let head = Linear::with_init(&(student.root() / "lm_head"), dim, dim, small)?;
        let filler = Filler::new(&student.root(), "data2vec", encoder, head)?;
        let target_encoder = encoders.teacher(&teacher)?;
        let ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
        Ok(Data2Vec { student, teacher, filler, target_encoder, grid, ema, config })
    }
}

impl Data2Vec {
    /// The features of the hidden patches, as predicted and as they are: `[M, D]` each.
    fn predict(&self, x: &Tensor, mask: &Mask, mode: Mode) -> Result<[Tensor; 2]> {
        let target = no_grad(|| self.target(x, mask))?;
        Ok([self.filler.predict(x, mask, mode)?, target])
    }

    /// The mean of what the teacher's last blocks make of the hidden patches, each normalized.
    fn target(&self, x: &Tensor, mask: &Mask) -> Result<Tensor> {
        let layers = self.target_encoder.features(x, Mode::Eval)?;
        let top = layers.iter().rev().take(self.config.top_layers).map(|(_, map)| {
            let patches = map.f_permute([0, 2, 3, 1])?.f_flatten(0, 2)?; // [B * N, D].
            standardized(&patches.f_index_select(0, &mask.index)?)
        });
        let top = Tensor::f_stack(&top.collect::<Result<Vec<_>>>()?, 0)?;
        let mean = top.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
        if self.config.norm_target { standardized(&mean) } else { Ok(mean) }
    }

    fn mask(&self, x: &Tensor, chance: Chance) -> Result<Mask> {
        let Config { mask_ratio, least_block, .. } = self.config;
        Mask::of_blocks(x, &self.grid, mask_ratio, least_block, chance)
    }
}

impl Method for Data2Vec {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, "data2vec")?;
        let [prediction, target] = self.predict(x, &self.mask(x, Chance::Generator)?, Mode::Train)?;
        let loss = smooth_l1(&prediction, &target, self.config.beta)?;
        Output::new(loss).with("target_deviation", &deviation(&target)?)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.filler.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.filler.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, "data2vec")?;
            let [prediction, target] = self.predict(x, &self.mask(x, Chance::Fixed)?, Mode::Eval)?;
            teacher_metrics(&prediction, &target, self.config.beta)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let x = shown(only(batch, "data2vec")?)?;
        let masked = self.grid.blank(&x, &self.mask(&x, Chance::Fixed)?.index)?;
        Ok(vec![("image".into(), x), ("masked".into(), masked)])
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.student), ("teacher".into(), &self.teacher)]
    }
}

impl VisionMethod for Data2Vec {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::VitConfig;
    use ssl_core::check_method;
    use tch::Device;

    fn encoders() -> Encoders {
        let arch = "vit_d16_l3_h2".parse().unwrap();
        let config = VitConfig { arch, image_size: 8, patch_size: 2, channels: 1, ..VitConfig::default() };
        Encoders::new(config, Device::Cpu)
    }

    fn small() -> Config {
        Config { least_block: 2, top_layers: 2, augment: Augment::crop_and_flip(8), ..Config::default() }
    }

    fn build(config: Config) -> Data2Vec {
        Data2Vec::new(config, &encoders()).unwrap()
    }

    fn images(n: i64) -> Tensor {
        Tensor::arange(n * 64, (Kind::Float, Device::Cpu)).square().sin().view([n, 1, 8, 8])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (images(6), tempfile::tempdir().unwrap());
        let batch = Views(vec![x.shallow_clone()]);
        check_method(|| Data2Vec::new(small(), &encoders()), &batch, &x, scratch.path()).unwrap();
    }

    /// Mean 0 and deviation 1.
    fn normal(x: Vec<f64>) -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        x.into_iter().map(|x| (x - mean) / (var + 1e-5).sqrt()).collect()
    }

    #[test]
    fn the_loss_is_that_of_a_loop_over_hidden_patches_and_last_blocks() {
        for norm_target in [true, false] {
            let method = build(Config { norm_target, beta: 0.5, ..small() });
            let x = images(3);
            let mask = method.mask(&x, Chance::Fixed).unwrap();
            let [prediction, _] = method.predict(&x, &mask, Mode::Eval).unwrap();
            let maps = method.target_encoder.features(&x, Mode::Eval).unwrap();
            let (mut loss, mut row) = (0., 0);
            for (image, patch) in (0..48).map(|i| (i / 16, i % 16)) {
                if mask.hidden.int64_value(&[image, patch]) == 0 {
                    continue;
                }
                let of = |layer: usize| {
                    let map = maps[layer].1.get(image).to_kind(Kind::Double);
                    normal((0..16).map(|k| map.double_value(&[k, patch / 4, patch % 4])).collect())
                };
                let mean = of(1).into_iter().zip(of(2)).map(|(a, b)| (a + b) / 2.).collect();
                let target = if norm_target { normal(mean) } else { mean };
                for (k, target) in (0..).zip(target) {
                    let gap = (prediction.double_value(&[row, k]) - target).abs();
                    loss += if gap < 0.5 { gap * gap } else { gap - 0.25 };
                }
                row += 1;
            }
            let got = method.validate(&Views(vec![x])).unwrap()[0].1.double_value(&[]);
            let slow = loss / (16 * row) as f64;
            assert!((got - slow).abs() < 1e-5, "{got} {slow}");
        }
    }

    #[test]
    fn hidden_patches_are_not_seen_by_the_student_and_are_by_the_teacher() {
        let (method, x) = (build(small()), images(3));
        let mask = method.mask(&x, Chance::Fixed).unwrap();
        let blank = method.grid.blank(&x, &mask.index).unwrap();
        let [prediction, target] = method.predict(&x, &mask, Mode::Eval).unwrap();
        let [again, other] = method.predict(&blank, &mask, Mode::Eval).unwrap();
        assert!(prediction.equal(&again) && !target.allclose(&other, 0.1, 0.1, false));
    }

    #[test]
    fn targets_take_no_gradient_and_the_teacher_follows() {
        let mut method = build(Config { momentum: Schedule::constant(0.75), ..small() });
        let output = method.step(&Views(vec![images(3)]), Step { index: 0, total: 10 }).unwrap();
        output.loss.backward();
        assert!(output.metrics[0].1.double_value(&[]) > 0.);
        let teacher = method.teacher.variables();
        assert!(teacher.values().all(|x| !x.requires_grad() && !x.grad().defined()));
        let name = "encoder.patch_embed.proj.bias";
        let _ = no_grad(|| method.student.variables()[name].shallow_clone().fill_(4.));
        let _ = no_grad(|| teacher[name].shallow_clone().fill_(0.));
        method.after_step(Step { index: 0, total: 10 }).unwrap();
        assert_eq!(f64::try_from(teacher[name].max()).unwrap(), 1.);
        let x = images(2);
        let expected = method.filler.encoder.forward(&x, Mode::Eval).unwrap();
        assert!(method.embed(&x).unwrap().allclose(&expected, 1e-5, 1e-6, false));
    }

    #[test]
    fn about_the_asked_part_is_hidden_and_shown_as_such() {
        let method = build(small());
        let shown = method.look(&Views(vec![images(14)])).unwrap();
        let [(_, image), (_, masked)] = &shown[..] else { panic!() };
        let hidden = method.mask(image, Chance::Fixed).unwrap();
        assert!(hidden.counts.iter().all(|&count| (1..=9).contains(&count)), "{:?}", hidden.counts);
        assert!(hidden.counts.iter().sum::<i64>() > 8 * 12, "{:?}", hidden.counts);
        assert!(masked.equal(&method.grid.blank(image, &hidden.index).unwrap()) && !masked.equal(image));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |config: Config| Data2Vec::new(config, &encoders()).unwrap_err().to_string();
        assert_eq!(refused(Config { beta: 0., ..small() }), "beta: expected a number above 0, got 0");
        let message = refused(Config { top_layers: 0, ..small() });
        assert_eq!(message, "least_block, top_layers: expected at least 1, got (2, 0)");
        assert!(refused(Config { mask_ratio: 1., ..small() }).starts_with("mask_ratio: expected"));
    }
}
