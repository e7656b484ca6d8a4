//! iBOT: beside DINO's comparison of class tokens, the student tells hidden patches as the teacher, who sees the whole
//! crop, tells them; both over the outputs of a head.
//!
//! Source: Zhou et al., 2021: <https://arxiv.org/abs/2111.07832>, equations 2 and 3; the official code (`bytedance/ibot`,
//! `main_ibot.py`, `loader.py`), with the numbers of its commands for ViT-S. Its successor's choices are options:
//! Sinkhorn's centering and the KoLeo term of Oquab et al., 2023 (DINOv2): <https://arxiv.org/abs/2304.07193>, with
//! `head` `separate` and a `patch_temperature` as that of the class. Departures: those of [`Dino`](super::Dino); the
//! center of patches is that of hidden ones, as in DINOv2's code, since the others need no outputs then.
mod centers;
mod config;
mod network;

pub use config::{Centering, Config, Heads};

use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::crops::split_like;
use crate::heads::{LastLayer, entropies};
use crate::masked::{Chance, Grid, Mask, blocks};
use centers::Centers;
use network::{Network, Outputs};
use rand::RngExt;
use ssl_core::loss::{ibot, koleo, swav};
use ssl_core::nn::trunc_normal;
use ssl_core::{Batch, Ema, Error, Method, Metrics, Mode, Output, Precision, Result, Rng};
use ssl_core::{Statistics, Step, Views, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// A student, a teacher that follows it, and the centers of the teacher's outputs.
#[derive(Debug)]
pub struct IBot {
    student_vars: VarStore,
    teacher_vars: VarStore,
    student: Network,
    teacher: Network,
    token: Tensor,
    centers: Centers,
    grid: Grid,
    ema: Ema,
    config: Config,
}

impl Definition for IBot {
    const INFO: Info = Info {
        name: "ibot",
        summary: "tell crops and hidden patches as a slow copy of the network tells them, who sees all",
        paper: "Zhou, Wei, Wang, Shen, Xie, Yuille, Kong",
        year: 2021,
        kind: "distillation",
        url: "https://arxiv.org/abs/2111.07832",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let sizes = [&config.class.first_global, &config.class.second_global].map(|crop| crop.size as i64);
        let [size, other] = sizes;
        if size != other {
            let message = format!("expected large crops of one size, got {size} and {other} pixels");
            return Err(Error::config("class.second_global.size", message));
        }
        let [student_vars, mut teacher_vars] = [(); 2].map(|()| VarStore::new(encoders.device()));
        let encoder = encoders.student(&student_vars)?;
        let grid = Grid::new(encoder.vit("iBOT")?, size)?;
        let token = student_vars.root().f_zeros("masked_embed", &[1, 1, encoder.dim()])?;
        trunc_normal(&token, 0.02)?;
        let student = Network::new(encoder, &student_vars.root(), &config)?;
        let teacher = Network::new(Rc::new(encoders.teacher(&teacher_vars)?), &teacher_vars.root(), &config)?;
        let ema = Ema::new(&student_vars, &mut teacher_vars, Statistics::Own)?;
        // After the pairing: the student has none.
        let centers = Centers::new(&teacher_vars.root(), &config)?;
        Ok(IBot { student_vars, teacher_vars, student, teacher, token, centers, grid, ema, config })
    }
}

impl IBot {
    /// Outputs of the student for all crops, and of the teacher, which carry no gradients, for the large ones.
    fn outputs(
        &self,
        crops: [&[Tensor]; 2],
        mask: &Mask,
        mode: Mode,
        last: LastLayer,
    ) -> Result<[Outputs; 2]> {
        let [large, _] = crops;
        let whole = no_grad(|| self.teacher.outputs([large, &[]], (mask, None), mode, LastLayer::Trained))?;
        Ok([self.student.outputs(crops, (mask, Some(&self.token)), mode, last)?, whole])
    }

    /// The hidden patches of the large crops, one crop behind the other.
    fn mask(&self, large: &[Tensor], chance: Chance) -> Result<Mask> {
        let Config { mask_probability, mask_ratio: [least, most], .. } = self.config;
        let of_one = |rng: &mut Rng| {
            let part = least + (most - least) * rng.random::<f64>();
            let count = match rng.random::<f64>() < mask_probability {
                true => ((part * self.grid.patches() as f64) as i64).max(1),
                false => 0,
            };
            blocks(self.grid.side, count, (self.grid.side / 3).pow(2).max(1), rng)
        };
        Mask::draw((large.iter().map(Batch::len).sum(), self.token.device()), chance, of_one)
    }

    /// The loss and its parts, what tells a collapse of the class tokens, in nats, as in DINO, and how often student and
    /// teacher have one and the same greatest output for a hidden patch.
    fn compare(&self, student: &Outputs, teacher: &Outputs, mask: &Mask, temperatures: [f64; 2]) -> Result<Output> {
        let Config { class_weight, patch_weight, koleo_weight, .. } = self.config;
        let sharpness = self.config.class.student_temperature;
        Precision::Fp32.scope(self.token.device(), || {
            let [class, patch] = temperatures;
            let of_class = self.centers.targets(&Tensor::f_cat(&teacher.class, 0)?, &self.centers.class, class)?;
            let (each, marginal) = entropies(&of_class)?;
            // SwAV's loss is DINO's of given distributions.
            let class = swav(&student.class, &split_like(&of_class, &teacher.class)?, sharpness)?;
            let of_patches = self.centers.targets(&teacher.patches, &self.centers.patch, patch)?;
            let patches = ibot(&student.patches, &of_patches, &mask.weights()?, sharpness)?;
            let mut loss = class.f_mul_scalar(class_weight)?.f_add(&patches.f_mul_scalar(patch_weight)?)?;
            let mut metrics: Metrics = Vec::new();
            if koleo_weight > 0. {
                let terms = student.tokens.iter().map(koleo).collect::<Result<Vec<_>>>()?;
                let spread = Tensor::f_stack(&terms, 0)?.f_sum(Kind::Float)?;
                loss = loss.f_add(&spread.f_mul_scalar(koleo_weight)?)?;
                metrics.push(("koleo".into(), spread.f_detach()?));
            }
            let same = student.patches.f_argmax(-1, false)?.f_eq_tensor(&of_patches.f_argmax(-1, false)?)?;
            let agreement = same.f_to_kind(Kind::Float)?.f_sum(Kind::Float)?;
            let agreement = agreement.f_div_scalar(same.len().max(1) as f64)?;
            let mut output = Output::new(loss);
            for (name, value) in [("class", &class), ("patch", &patches), ("patch_agreement", &agreement)] {
                output = output.with(name, value)?;
            }
            output.metrics.extend(metrics);
            output.with("teacher_entropy", &each)?.with("marginal_entropy", &marginal)
        })
    }
}

impl Method for IBot {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let crops = self.config.class.crops(batch, "iBOT")?;
        let mask = self.mask(crops[0], Chance::Generator)?;
        let [student, teacher] = self.outputs(crops, &mask, Mode::Train, self.config.class.last_layer_at(at))?;
        let output = self.compare(&student, &teacher, &mask, self.config.temperatures_at(at))?;
        self.centers.follow(&self.centers.class, &Tensor::f_cat(&teacher.class, 0)?)?;
        self.centers.follow(&self.centers.patch, &teacher.patches)?;
        Ok(output)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.ema.update(self.config.class.momentum.at(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.teacher.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.teacher.encoder.stages(input)
    }

    /// At the temperatures after the warm-up, so that one run's checkpoints compare.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let crops = self.config.class.crops(batch, "iBOT")?;
            let mask = self.mask(crops[0], Chance::Fixed)?;
            let [student, teacher] = self.outputs(crops, &mask, Mode::Eval, LastLayer::Trained)?;
            let temperatures = [self.config.class.teacher_temperature, self.config.patch_temperature];
            Ok(self.compare(&student, &teacher, &mask, temperatures)?.into_metrics())
        })
    }

    /// The crops, the large ones as the student sees them.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let [large, small] = self.config.class.crops(batch, "iBOT")?;
        let together = Tensor::f_cat(large, 0)?;
        let masked = self.grid.blank(&together, &self.mask(large, Chance::Fixed)?.index)?;
        let masked = split_like(&masked, large)?;
        let name = |kind: &str, i: usize| format!("{kind} {}", i + 1);
        let large = large.iter().zip(masked).enumerate().flat_map(|(i, (crop, masked))| {
            [(name("global", i), crop.shallow_clone()), (name("masked", i), masked)]
        });
        let small = small.iter().enumerate().map(|(i, crop)| (name("local", i), crop.shallow_clone()));
        Ok(large.chain(small).collect())
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("teacher".into(), &self.teacher_vars), ("student".into(), &self.student_vars)]
    }
}

impl VisionMethod for IBot {
    fn views(&self) -> Vec<Augment> {
        self.config.class.views()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::dino;
    use ssl_core::{Schedule, check_method};
    use tch::Device;

    fn small() -> Config {
        let d = Config::default();
        let crop = |crop: &Augment| Augment { size: 8, ..crop.clone() };
        let class = dino::Config {
            hidden_dim: 16,
            bottleneck_dim: 8,
            out_dim: 12,
            freeze_last_layer: 0.,
            first_global: crop(&d.class.first_global),
            second_global: crop(&d.class.second_global),
            local_crops: 2,
            ..d.class
        };
        Config { class, ..d }
    }

    /// As DINOv2 has it.
    fn second() -> Config {
        let (head, centering) = (Heads::Separate, Centering::Sinkhorn);
        Config { head, centering, koleo_weight: 0.1, mask_probability: 1., ..small() }
    }

    fn encoders() -> Encoders {
        let vit = r#"{"arch": "vit_d16_l2_h2", "image_size": 8, "patch_size": 2, "channels": 1}"#;
        Encoders::new(serde_json::from_str::<crate::backbones::EncoderConfig>(vit).unwrap(), Device::Cpu)
    }

    fn build(config: Config) -> IBot {
        IBot::new(config, &encoders()).unwrap()
    }

    fn crops(n: i64) -> Views {
        crate::crops::tests::batch(n, &[8, 8, 4, 4])
    }

    fn value(x: &Tensor) -> f64 {
        x.double_value(&[])
    }

    #[test]
    fn keeps_the_contract_as_published_and_with_its_successors_choices() {
        for config in [small(), second()] {
            // A sharp teacher is easiest to follow before the center has moved, so that its loss would rise at first.
            let blunt = dino::Config {
                initial_teacher_temperature: 1.,
                teacher_temperature: 1.,
                ..config.class.clone()
            };
            let config =
                Config { class: blunt, initial_patch_temperature: 1., patch_temperature: 1., ..config };
            let (batch, scratch) = (crops(6), tempfile::tempdir().unwrap());
            check_method(|| IBot::new(config.clone(), &encoders()), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    fn softmax(x: Tensor, temperature: f64) -> Vec<f64> {
        let x: Vec<f64> = (x.to_kind(Kind::Double) / temperature).try_into().unwrap();
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.into_iter().map(|x| x.exp() / sum).collect()
    }

    fn cross_entropy(p: &[f64], q: &[f64]) -> f64 {
        -p.iter().zip(q).map(|(p, q)| p * q.ln()).sum::<f64>()
    }

    #[test]
    fn the_loss_is_the_papers_at_the_centers_that_the_step_then_moves() {
        let method = build(Config { patch_weight: 0.5, ..small() });
        let center = Tensor::arange(12, (Kind::Float, Device::Cpu)).sin() * 0.1;
        for mut own in [method.centers.class.shallow_clone(), method.centers.patch.shallow_clone()] {
            own.copy_(&center);
        }
        let batch = crops(5);
        let split = method.config.class.crops(&batch, "").unwrap();
        let mask = method.mask(split[0], Chance::Fixed).unwrap();
        let [student, teacher] = method.outputs(split, &mask, Mode::Eval, LastLayer::Trained).unwrap();
        let mut class = 0.;
        for (t, s) in [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)] {
            for i in 0..5 {
                let p = softmax(teacher.class[t].get(i) - &center, 0.07);
                class += cross_entropy(&p, &softmax(student.class[s].get(i), 0.1)) / 30.;
            }
        }
        let (mut patch, mut row) = (0., 0);
        assert!(mask.counts.contains(&0) && mask.counts.len() == 10, "{:?}", mask.counts);
        for &count in &mask.counts {
            for _ in 0..count {
                let p = softmax(teacher.patches.get(row) - &center, 0.07);
                patch += cross_entropy(&p, &softmax(student.patches.get(row), 0.1)) / count as f64 / 10.;
                row += 1;
            }
        }
        let found = method.validate(&batch).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).take(4).collect();
        assert_eq!(names, ["loss", "class", "patch", "patch_agreement"]);
        for ((_, got), slow) in found.iter().zip([class + 0.5 * patch, class, patch]) {
            assert!((value(got) - slow).abs() < 1e-4, "{} {slow}", value(got));
        }
        let mean = teacher.patches.mean_dim([0i64].as_slice(), false, Kind::Float);
        method.centers.follow(&method.centers.patch, &teacher.patches).unwrap();
        assert!(method.centers.patch.allclose(&(center * 0.9 + mean * 0.1), 1e-4, 1e-6, false));
    }

    #[test]
    fn the_students_hidden_patches_are_a_token_and_the_teachers_are_not() {
        let (method, batch) = (build(Config { mask_probability: 1., ..small() }), crops(4));
        let [large, small] = method.config.class.crops(&batch, "").unwrap();
        let mask = method.mask(large, Chance::Fixed).unwrap();
        let outputs = |large: &[Tensor]| {
            method.outputs([large, small], &mask, Mode::Eval, LastLayer::Trained).unwrap()
        };
        let blank = method.grid.blank(&Tensor::cat(large, 0), &mask.index).unwrap().chunk(2, 0);
        let ([student, teacher], [other, others]) = (outputs(large), outputs(&blank));
        assert!(student.patches.equal(&other.patches) && student.class[1].equal(&other.class[1]));
        assert!(!teacher.patches.allclose(&others.patches, 1e-3, 1e-3, false));
        assert_eq!(student.patches.size(), [mask.counts.iter().sum::<i64>(), 12]);
        assert!(mask.counts.iter().all(|count| (1..=8).contains(count)), "{:?}", mask.counts);
    }

    #[test]
    fn equal_shares_need_no_center_and_class_tokens_are_kept_apart() {
        let mut method = build(second());
        let output = method.step(&crops(5), Step { index: 0, total: 10 }).unwrap();
        assert_eq!(value(&method.centers.class.abs().sum(Kind::Float)), 0.);
        let of = |name: &str| value(&output.metrics.iter().find(|(own, _)| own == name).unwrap().1);
        let sum = of("class") + of("patch") + 0.1 * of("koleo");
        assert!((value(&output.loss) - sum).abs() < 1e-4 && of("koleo").abs() > 0.);
        let shares = method.centers.targets(&Tensor::randn([200, 4], (Kind::Float, Device::Cpu)), &method.centers.class, 1.);
        let shares = shares.unwrap().sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
        assert!(shares.allclose(&shares.full_like(50.), 0.01, 0., false), "{shares:?}");
    }

    #[test]
    fn a_batch_without_hidden_patches_has_no_patch_loss_and_leaves_its_center() {
        for config in [small(), second()] {
            let mut method = build(Config { mask_probability: 0., ..config });
            let output = method.step(&crops(3), Step { index: 0, total: 10 }).unwrap();
            assert_eq!(value(&output.metrics[1].1), 0.);
            assert!(value(&output.loss).is_finite());
            assert_eq!(value(&method.centers.patch.abs().sum(Kind::Float)), 0.);
        }
    }

    #[test]
    fn the_teacher_takes_no_gradient_follows_and_is_what_is_used() {
        let class = dino::Config { momentum: Schedule::constant(0.75), ..small().class };
        let mut method = build(Config { class, ..second() });
        method.step(&crops(3), Step { index: 0, total: 10 }).unwrap().loss.backward();
        assert!(method.teacher_vars.variables().values().all(|x| !x.requires_grad() && !x.grad().defined()));
        let student = method.student_vars.variables();
        assert!(value(&student["masked_embed"].grad().norm()) > 0.);
        assert!(value(&student["patch_head.mlp.0.weight"].grad().norm()) > 0.);
        let name = "patch_embed.proj.bias";
        let _ = no_grad(|| student[&format!("encoder.{name}")].shallow_clone().fill_(4.));
        let _ = no_grad(|| method.encoder()[name].shallow_clone().fill_(0.));
        method.after_step(Step { index: 0, total: 10 }).unwrap();
        assert_eq!(f64::try_from(method.encoder()[name].max()).unwrap(), 1.);
        let x = &crops(3).0[0];
        assert!(method.embed(x).unwrap().equal(&method.teacher.encoder.forward(x, Mode::Eval).unwrap()));
    }

    #[test]
    fn large_crops_are_shown_as_they_are_and_as_they_are_seen() {
        let shown = build(Config { mask_probability: 1., ..small() }).look(&crops(3)).unwrap();
        let names: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["global 1", "masked 1", "global 2", "masked 2", "local 1", "local 2"]);
        let differ = shown[2].1.not_equal_tensor(&shown[3].1);
        assert!(differ.any() == Tensor::from(true) && shown[3].1.masked_select(&differ).any() == Tensor::from(false));
    }

    #[test]
    fn numbers_out_of_range_and_missing_crops_are_named() {
        let refused = |config: Config| IBot::new(config, &encoders()).unwrap_err().to_string();
        assert_eq!(refused(Config { mask_ratio: [0.5, 0.1], ..small() }), "mask_ratio: expected 0.5 to 1, got 0.1");
        assert_eq!(refused(Config { koleo_weight: -1., ..small() }), "koleo_weight: expected 0 to 1000000000, got -1");
        let class = dino::Config { second_global: Augment::crop_and_flip(6), ..small().class };
        let message = refused(Config { class, ..small() });
        assert_eq!(message, "class.second_global.size: expected large crops of one size, got 8 and 6 pixels");
        let few = Views(crops(3).0.into_iter().take(3).collect());
        let message = build(small()).step(&few, Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: iBOT takes 4 with these local crops, got 3");
    }
}
