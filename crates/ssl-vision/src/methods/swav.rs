//! SwAV: from any crop of an image tell which prototypes a large crop was given, where all prototypes get equal shares.
//!
//! Source: Caron et al., 2020: <https://arxiv.org/abs/2006.09882>; the official code (`facebookresearch/swav`,
//! `main_swav.py`, `src/resnet50.py`). Where this differs from it:
//!
//! - Prototypes are scaled to unit length after each step, and when they are made, instead of before each step.
//! - The queue is filled from the first step on, so that it is full of late embeddings when its use begins; the official
//!   code begins to fill it then. It is not used before it is full, as there.
//! - Prototypes that are not trained yet see gradients of zero, where the official code has none: their length alone, which
//!   does not count, decays.
//! - Images are normalized by ImageNet's deviations, of which the official code has another red.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::crops::Crops;
use crate::projected::Projected;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::{sinkhorn, swav};
use ssl_core::nn::{Projector, l2_normalize, uniform_fan_in};
use ssl_core::{Batch, Method, Metrics, Mode, Output, Precision, Queue, Result, Step, Views};
use ssl_core::{check, no_grad};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// SwAV's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hidden units of the projector.
    pub hidden_dim: i64,
    /// Dimension in which crops are compared with prototypes.
    pub projection_dim: i64,
    /// Prototypes.
    pub prototypes: i64,
    /// Part of the run, from its beginning, in which prototypes are not trained: an epoch of the official hundred.
    pub freeze_prototypes: f64,
    /// Divides the cosines of predictions.
    pub temperature: f64,
    /// Divides the cosines of codes: the smaller, the less each example is spread over prototypes.
    pub epsilon: f64,
    /// Rounds in which the shares of prototypes and of examples are scaled.
    pub sinkhorn_rounds: u32,
    /// Embeddings of earlier batches, for each large crop, that get codes together with a batch; 0 for none. Batches that
    /// are not several times as large as the number of prototypes need them; the official code has 3840 at 256.
    pub queue_size: i64,
    /// Part of the run from which the queue is used: 15 of the official hundred epochs.
    pub queue_start: f64,
    /// The crops; codes are those of the large ones.
    pub crops: Crops,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hidden_dim: 2048,
            projection_dim: 128,
            prototypes: 3000,
            freeze_prototypes: 0.01,
            temperature: 0.1,
            epsilon: 0.05,
            sinkhorn_rounds: 3,
            queue_size: 0,
            queue_start: 0.15,
            crops: Crops::swav(),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        let (sizes, divisors, parts) = ((1., 1e9), (1e-4, 1e4), (0., 1.));
        check::ranges([
            ("hidden_dim", self.hidden_dim as f64, sizes),
            ("projection_dim", self.projection_dim as f64, sizes),
            ("prototypes", self.prototypes as f64, sizes),
            ("freeze_prototypes", self.freeze_prototypes, parts),
            ("temperature", self.temperature, divisors),
            ("epsilon", self.epsilon, divisors),
            ("sinkhorn_rounds", f64::from(self.sinkhorn_rounds), (1., 1e6)),
            ("queue_size", self.queue_size as f64, (0., 1e9)),
            ("queue_start", self.queue_start, parts),
        ])?;
        self.crops.validate()
    }

    /// Whether the queue is in use at a step of so many examples, for which it must have been filled.
    fn has_queue_at(&self, at: Step, batch: i64) -> bool {
        let begun = at.index as f64 >= self.queue_start * at.total as f64;
        begun && self.queue_size > 0 && at.index.saturating_mul(batch as u64) >= self.queue_size as u64
    }
}

/// An encoder, a projector, the prototypes, and embeddings of earlier batches.
#[derive(Debug)]
pub struct Swav {
    vars: VarStore,
    memory: VarStore,
    network: Projected,
    // [K, D], unit rows.
    prototypes: Tensor,
    queues: Vec<Queue>,
    config: Config,
}

impl Definition for Swav {
    const INFO: Info = Info {
        name: "swav",
        summary: "tell the prototypes that another crop of the image was given",
        paper: "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin",
        year: 2020,
        kind: "clustering",
        url: "https://arxiv.org/abs/2006.09882",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (vars, memory) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let (root, dim) = (vars.root(), config.projection_dim);
        let (encoder, head) = (encoders.student(&vars)?, &root / "projection_head");
        let network = Projected::new(encoder, |width| Projector::with_biases(&head, &[width, config.hidden_dim, dim]))?;
        let shape = [config.prototypes, dim];
        let prototypes = (&root / "prototypes").f_var("weight", &shape, uniform_fan_in(dim))?;
        let queue = |crop| Queue::new(&memory.root(), &format!("queue{crop}"), config.queue_size, dim);
        let queues = (0..config.crops.large_crops).map(queue).collect::<Result<_>>()?;
        let mut method = Swav { network, prototypes, queues, vars, memory, config };
        method.normalize()?;
        Ok(method)
    }
}

/// What one forward pass gives, crop by crop.
#[derive(Debug)]
struct Pass {
    /// Unit embeddings `[B, D]`.
    embeddings: Vec<Tensor>,
    /// Their cosines to the prototypes, `[B, K]`.
    scores: Vec<Tensor>,
}

impl Swav {
    fn normalize(&mut self) -> Result<()> {
        no_grad(|| {
            self.prototypes.f_copy_(&l2_normalize(&self.prototypes)?)?;
            Ok(())
        })
    }

    fn pass(&self, batch: &Views, mode: Mode, prototypes: &Tensor) -> Result<Pass> {
        let crops = self.config.crops.check(batch, "SwAV")?;
        let embeddings = self.network.unit_crops(crops, mode)?;
        Precision::Fp32.scope(self.vars.device(), || {
            let score = |z: &Tensor| Ok(z.f_matmul(&prototypes.f_tr()?)?);
            let scores = embeddings.iter().map(score).collect::<Result<_>>()?;
            Ok(Pass { embeddings, scores })
        })
    }

    /// The codes of the large crops, with the embeddings in the queues or without.
    fn codes(&self, scores: &[Tensor], queues: &[Queue]) -> Result<Vec<Tensor>> {
        let large_crops = self.config.crops.large_crops;
        let code = |(crop, scores): (usize, &Tensor)| {
            let batch = scores.len();
            let earlier = queues.get(crop).map(|queue| queue.rows().f_matmul(&self.prototypes.f_tr()?));
            let all = match earlier.transpose()? {
                Some(earlier) => Tensor::f_cat(&[&earlier, scores], 0)?,
                None => scores.shallow_clone(),
            };
            let codes = sinkhorn(&all, self.config.epsilon, self.config.sinkhorn_rounds)?;
            Ok(codes.f_narrow(0, all.len() - batch, batch)?)
        };
        scores.iter().take(large_crops).enumerate().map(code).collect()
    }

    /// The loss, and the mean entropy of codes in nats: the logarithm of the number of prototypes where all examples are
    /// alike.
    fn compare(&self, pass: &Pass, codes: &[Tensor]) -> Result<Output> {
        let loss = swav(&pass.scores, codes, self.config.temperature)?;
        let all = Tensor::f_cat(codes, 0)?;
        let entropies = all.f_special_entr()?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?;
        let entropy = entropies.f_mean(Kind::Float)?;
        // All codes are in equally many pairs, so that this is the mean divergence.
        let kl = loss.f_detach()?.f_sub(&entropy)?;
        Output::new(loss).with("code_entropy", &entropy)?.with("kl", &kl)
    }
}

impl Method for Swav {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let frozen = (at.index as f64) < self.config.freeze_prototypes * at.total as f64;
        let prototypes =
            if frozen { self.prototypes.f_detach()? } else { self.prototypes.shallow_clone() };
        let pass = self.pass(batch, Mode::Train, &prototypes)?;
        let queues = if self.config.has_queue_at(at, batch.len()) { self.queues.as_slice() } else { &[] };
        let output = Precision::Fp32.scope(self.vars.device(), || {
            let codes = no_grad(|| self.codes(&pass.scores, queues))?;
            self.compare(&pass, &codes)
        })?;
        for (queue, z) in self.queues.iter_mut().zip(&pass.embeddings) {
            queue.push(z)?;
        }
        Ok(output)
    }

    fn after_step(&mut self, _at: Step) -> Result<()> {
        self.normalize()
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.network.encoder.stages(input)
    }

    /// The batch gets codes without the queue. The accuracy is how often the prototype that is told first from one crop is
    /// the one that the other has most of.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let pass = self.pass(batch, Mode::Eval, &self.prototypes)?;
            let codes = self.codes(&pass.scores, &[])?;
            let mut metrics = self.compare(&pass, &codes)?.into_metrics();
            if let ([code, ..], [_, scores, ..], [a, b, ..]) =
                (codes.as_slice(), pass.scores.as_slice(), pass.embeddings.as_slice())
            {
                let right = scores.f_argmax(-1, false)?.f_eq_tensor(&code.f_argmax(-1, false)?)?;
                metrics.push(("accuracy".into(), right.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?));
                metrics.push(("retrieval".into(), retrieval(a, b)?));
            }
            Ok(metrics)
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        Ok(self.config.crops.named(batch))
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars), ("queue".into(), &self.memory)]
    }
}

impl VisionMethod for Swav {
    fn views(&self) -> Vec<Augment> {
        self.config.crops.views()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::crops::tests::batch;
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn small() -> Config {
        let crops = Crops { small_crops: 1, ..Crops::swav() };
        let sizes = Config { hidden_dim: 16, projection_dim: 8, prototypes: 5, ..Config::default() };
        Config { freeze_prototypes: 0., crops, ..sizes }
    }

    fn build(config: Config) -> Result<Swav> {
        Swav::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn crops(n: i64) -> Views {
        batch(n, &[8, 8, 4])
    }

    fn step(method: &mut Swav, n: i64, index: u64) -> Output {
        method.step(&crops(n), Step { index, total: 10 }).unwrap()
    }

    #[test]
    fn keeps_the_contract_with_a_queue_and_without() {
        for queue_size in [0, 16] {
            let (batch, scratch) = (crops(6), tempfile::tempdir().unwrap());
            let build = || build(Config { queue_size, queue_start: 0.1, ..small() });
            check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_loss_is_the_papers_over_batch_and_queue() {
        let mut method = build(Config { queue_size: 7, queue_start: 0., ..small() }).unwrap();
        let earlier = [0.3, 0.4].map(|slant: f64| {
            let x = (Tensor::arange(56, (Kind::Float, Device::Cpu)) * slant).sin().view([7, 8]);
            l2_normalize(&x).unwrap()
        });
        for (queue, rows) in method.queues.iter_mut().zip(&earlier) {
            queue.push(rows).unwrap();
        }
        let pass = method.pass(&crops(5), Mode::Train, &method.prototypes).unwrap();
        let scores = |z: &Tensor| z.matmul(&method.prototypes.tr()).to_kind(Kind::Double);
        let mut slow = 0.;
        for (large, earlier) in earlier.iter().enumerate() {
            let all = Tensor::cat(&[earlier, &pass.embeddings[large]], 0);
            let mut q = (scores(&all) / 0.05).exp();
            for _ in 0..3 {
                q = &q / q.sum_dim_intlist([0i64].as_slice(), true, Kind::Double);
                q = &q / q.sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
            }
            for other in (0..3).filter(|other| *other != large) {
                let p = (scores(&pass.embeddings[other]) / 0.1).log_softmax(1, Kind::Double);
                slow -= (q.narrow(0, 7, 5) * p).sum(Kind::Double).double_value(&[]) / 5. / 4.;
            }
        }
        // Seven embeddings take two batches of five.
        let found = step(&mut method, 5, 2).loss.double_value(&[]);
        assert!((found - slow).abs() < 1e-4, "{found} {slow}");
    }

    #[test]
    fn the_queue_rolls_from_the_start_and_is_used_when_it_is_full_and_due() {
        let mut method = build(Config { queue_size: 7, queue_start: 0.3, ..small() }).unwrap();
        let first = method.pass(&crops(5), Mode::Train, &method.prototypes).unwrap();
        step(&mut method, 5, 0);
        for (queue, z) in method.queues.iter().zip(&first.embeddings) {
            assert!(queue.newest(5).unwrap().allclose(z, 1e-5, 1e-6, false));
            assert_eq!(queue.rows().get(0).abs().sum(Kind::Double).double_value(&[]), 0.);
        }
        let used = |index, n| method.config.has_queue_at(Step { index, total: 10 }, n);
        assert_eq!([(2, 5), (3, 2), (3, 5), (4, 1)].map(|(index, n)| used(index, n)), [false, false, true, false]);
        let none = Config { queue_size: 0, queue_start: 0., ..small() };
        assert!(!none.has_queue_at(Step { index: 9, total: 10 }, 5));
    }

    #[test]
    fn prototypes_stand_still_at_first_and_keep_unit_length() {
        let config = Config { freeze_prototypes: 0.2, ..small() };
        for (index, trained) in [(0, false), (1, false), (2, true)] {
            let mut method = build(config.clone()).unwrap();
            step(&mut method, 5, index).loss.backward();
            let gradient = method.prototypes.grad();
            assert_eq!(gradient.defined() && gradient.norm().double_value(&[]) > 0., trained, "step {index}");
        }
        let mut method = build(small()).unwrap();
        let lengths = |method: &Swav| method.prototypes.norm_scalaropt_dim(2, [1i64], false);
        let one = lengths(&method).ones_like();
        assert!(lengths(&method).allclose(&one, 1e-6, 1e-6, false));
        let _ = no_grad(|| method.prototypes.f_mul_scalar_(3.).unwrap());
        method.after_step(Step { index: 0, total: 10 }).unwrap();
        assert!(lengths(&method).allclose(&one, 1e-6, 1e-6, false));
    }

    #[test]
    fn validation_changes_nothing_and_finds_equal_crops_again() {
        let method = build(small()).unwrap();
        let x = crops(5).0;
        let same = Views(vec![x[0].copy(), x[0].copy(), x[2].copy()]);
        let found = || method.validate(&same).unwrap();
        let names: Vec<String> = found().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["loss", "code_entropy", "kl", "accuracy", "retrieval"]);
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        assert_eq!(found()[4].1.double_value(&[]), 1.);
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
    }

    #[test]
    fn a_missing_crop_and_numbers_out_of_range_are_named() {
        let mut method = build(small()).unwrap();
        assert_eq!(method.views().iter().map(|view| view.size).collect::<Vec<_>>(), [224, 224, 96]);
        let message = method.step(&batch(4, &[8, 8]), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: SwAV takes 3 with these crops, got 2");
        let message = build(Config { epsilon: 0., ..small() }).unwrap_err().to_string();
        assert_eq!(message, "epsilon: expected 0.0001 to 10000, got 0");
        let crops = Crops { large_crops: 0, ..small().crops };
        assert!(build(Config { crops, ..small() }).unwrap_err().to_string().starts_with("crops: "));
    }
}
