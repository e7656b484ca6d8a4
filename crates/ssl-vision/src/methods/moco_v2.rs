//! MoCo v2: a view picks its image's other view among the keys of many batches, which a slow copy of the network made.
//!
//! Source: Chen, Fan, Girshick, He, 2020: <https://arxiv.org/abs/2003.04297>; He et al., 2020 (MoCo):
//! <https://arxiv.org/abs/1911.05722>; the official code (`facebookresearch/moco`, `moco/builder.py` and `main_moco.py`
//! with `--mlp --moco-t 0.2 --aug-plus --cos`) and its demo for CIFAR-10. Where this differs from them:
//!
//! - The key encoder is averaged after the optimizer's step and not before its own forward pass. Both start equal, so
//!   the sequence of key encoders is the same.
//! - The queue holds its keys oldest first and moves up when new ones come. Its content decides the next step, there is
//!   no pointer, and a batch need not divide it.
//! - The official code shuffles keys among devices, so that a query and its key are not normalized by the same images,
//!   which would give the answer away. On one device, parts of the batch stand for the devices, as in the demo: see
//!   [`Config::norm_parts`].
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::info_nce;
use ssl_core::nn::{Linear, Module, l2_normalize};
use ssl_core::{
    Ema, Method, Metrics, Mode, Output, Precision, Queue, Result, Schedule, Statistics, Step, Views, check,
    no_grad,
};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// MoCo v2's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Divides the similarities.
    pub temperature: f64,
    /// Hidden units of the projection head; 0 takes the encoder's dimension, as the paper.
    pub hidden_dim: i64,
    /// Dimension in which queries and keys are compared.
    pub projection_dim: i64,
    /// Keys of earlier batches that serve as negatives.
    pub queue_size: i64,
    /// What the key encoder keeps of itself at each step.
    pub momentum: Schedule,
    /// Whether both views are queries, each with the other as its key; the loss is the mean of both directions. Costs
    /// twice as much. The paper's has one.
    pub symmetric: bool,
    /// Parts of a batch that are normalized each by its own statistics, as on as many devices, for keys in shuffled
    /// order; 1 normalizes over the whole batch, which is fastest.
    pub norm_parts: i64,
    /// The random view; each image gives two.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            temperature: 0.2,
            hidden_dim: 0,
            projection_dim: 128,
            queue_size: 65536,
            momentum: Schedule::constant(0.999),
            symmetric: false,
            norm_parts: 8,
            augment: Augment { crop_scale: [0.2, 1.], ..Augment::simclr(224, 0.5) },
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::positive("temperature", self.temperature)?;
        check::at_least(0, [("hidden_dim", self.hidden_dim)])?;
        let (dim, queue, parts) = (self.projection_dim, self.queue_size, self.norm_parts);
        check::at_least(1, [("projection_dim", dim), ("queue_size", queue), ("norm_parts", parts)])?;
        check::fractions("momentum", &self.momentum)?;
        self.augment.validate()
    }
}

/// An encoder and its projection head.
#[derive(Debug)]
struct Network {
    encoder: Rc<Encoder>,
    hidden: Linear,
    output: Linear,
}

impl Network {
    fn new(encoder: Rc<Encoder>, head: &Path, config: &Config) -> Result<Self> {
        let dim = encoder.dim();
        let width = if config.hidden_dim == 0 { dim } else { config.hidden_dim };
        let hidden = Linear::new(&(head / 0), dim, width)?;
        let output = Linear::new(&(head / 2), width, config.projection_dim)?;
        Ok(Network { encoder, hidden, output })
    }

    /// Projections of unit length, in float32.
    fn project(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let h = self.hidden.forward(&self.encoder.forward(x, mode)?, mode)?.f_relu_()?;
        l2_normalize(&self.output.forward(&h, mode)?)
    }

    /// [`Network::project`] in training mode, part by part.
    fn project_in_parts(&self, x: &Tensor, parts: i64) -> Result<Tensor> {
        let parts = x.f_chunk(parts, 0)?;
        let rows = parts.iter().map(|part| self.project(part, Mode::Train)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&rows, 0)?)
    }
}

/// An encoder that learns, its moving average, and a queue of what the average made of earlier images.
#[derive(Debug)]
pub struct MoCoV2 {
    student: VarStore,
    teacher: VarStore,
    memory: VarStore,
    query: Network,
    key: Network,
    ema: Ema,
    queue: Queue,
    config: Config,
}

impl Definition for MoCoV2 {
    const INFO: Info = Info {
        name: "moco_v2",
        summary: "contrast two views of each image with a queue of keys from a momentum encoder",
        paper: "Chen, Fan, Girshick, He",
        year: 2020,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2003.04297",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let device = encoders.device();
        let (student, mut teacher, memory) =
            (VarStore::new(device), VarStore::new(device), VarStore::new(device));
        let query = Network::new(encoders.student(&student)?, &(student.root() / "projector"), &config)?;
        let key =
            Network::new(Rc::new(encoders.teacher(&teacher)?), &(teacher.root() / "projector"), &config)?;
        let ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
        let queue = Queue::of_directions(&memory.root(), "keys", config.queue_size, config.projection_dim)?;
        Ok(MoCoV2 { student, teacher, memory, query, key, ema, queue, config })
    }
}

impl MoCoV2 {
    /// What the key encoder makes of a view while training.
    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        let parts = self.config.norm_parts;
        no_grad(|| {
            if parts == 1 {
                return self.key.project(x, Mode::Train);
            }
            let n = x.size().first().copied().unwrap_or(0);
            let order = Tensor::f_randperm(n, (Kind::Int64, x.device()))?;
            let keys = self.key.project_in_parts(&x.f_index_select(0, &order)?, parts)?;
            Ok(keys.f_index_select(0, &order.f_argsort(0, false)?)?)
        })
    }

    fn loss(&self, query: &Tensor, key: &Tensor) -> Result<Tensor> {
        let temperature = self.config.temperature;
        Precision::Fp32.scope(query.device(), || info_nce(query, key, self.queue.rows(), temperature))
    }

    /// Loss of one direction, and the keys.
    fn contrast(&self, query: &Tensor, key: &Tensor) -> Result<(Tensor, Tensor)> {
        let query = self.query.project_in_parts(query, self.config.norm_parts)?;
        let key = self.keys(key)?;
        Ok((self.loss(&query, &key)?, key))
    }
}

impl Method for MoCoV2 {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let [a, b] = batch.exactly("MoCo v2")?;
        let (mut loss, mut keys) = self.contrast(a, b)?;
        if self.config.symmetric {
            // Against the same queue: this batch's keys are no negatives of its own queries.
            let (other, others) = self.contrast(b, a)?;
            loss = loss.f_add(&other)?.f_div_scalar(2.)?;
            keys = Tensor::f_cat(&[keys, others], 0)?;
        }
        self.queue.push(&keys)?;
        Ok(Output::new(loss))
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
        let [a, b] = batch.exactly("MoCo v2")?;
        no_grad(|| {
            let (query, key) = (self.query.project(a, Mode::Eval)?, self.key.project(b, Mode::Eval)?);
            Ok(vec![
                ("loss".into(), self.loss(&query, &key)?),
                ("retrieval".into(), retrieval(&query, &key)?),
            ])
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

impl VisionMethod for MoCoV2 {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone(), self.config.augment.clone()]
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

    fn small() -> Config {
        Config { projection_dim: 16, queue_size: 10, norm_parts: 1, ..Config::default() }
    }

    fn build(config: Config) -> Result<MoCoV2> {
        MoCoV2::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    /// Two views of `n` images; other images for another `seed`.
    fn views(n: i64, seed: f64) -> Views {
        let at = |step: f64| (Tensor::arange(n * 64, (Kind::Float, Device::Cpu)) * step + seed).sin();
        let (x, noise) = (at(0.37), at(1.93));
        Views([0.2, -0.2].map(|part: f64| (&x + part * &noise).view([n, 1, 8, 8])).into())
    }

    fn close(x: &Tensor, y: &Tensor) -> bool {
        x.size() == y.size() && x.allclose(y, 1e-5, 1e-6, false)
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12, 0.), tempfile::tempdir().unwrap());
        let build = || {
            let config = Config { queue_size: 24, symmetric: true, norm_parts: 2, ..small() };
            let mut method = build(Config { momentum: Schedule::constant(0.9), ..config })?;
            // The one batch of the contract fills the queue with its own keys; so it does from the start.
            no_grad(|| method.step(&batch, AT).map(drop))?;
            Ok(method)
        };
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_cross_entropy_of_the_key_among_key_and_queue() {
        let mut method = build(small()).unwrap();
        let (batch, queue) = (views(5, 0.), method.queue.rows().copy());
        let q = rows(&method.query.project(&batch.0[0], Mode::Train).unwrap());
        let k = rows(&method.key.project(&batch.0[1], Mode::Train).unwrap());
        let loss = f64::try_from(method.step(&batch, AT).unwrap().loss).unwrap();
        let logit = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>() / 0.2;
        let one = |i: usize| {
            let negatives: f64 = rows(&queue).iter().map(|row| logit(&q[i], row).exp()).sum();
            (logit(&q[i], &k[i]).exp() + negatives).ln() - logit(&q[i], &k[i])
        };
        let slow = (0..5).map(one).sum::<f64>() / 5.;
        assert!((loss - slow).abs() < 1e-5, "{loss} {slow}");
    }

    #[test]
    fn the_queue_starts_as_unit_rows_and_ends_as_the_last_keys_in_order() {
        let mut method = build(small()).unwrap();
        let lengths = method.queue.rows().norm_scalaropt_dim(2, [1i64], false);
        assert!(close(&lengths, &lengths.ones_like()) && method.queue.rows().std(true).double_value(&[]) > 0.1);
        let mut seen = vec![method.queue.rows().copy()];
        // Neither 4 nor 3 divides 10, and 12 is more than the queue holds.
        for (index, n) in [4, 4, 3, 12, 4].into_iter().enumerate() {
            let (batch, at) = (views(n, index as f64), Step { index: index as u64, total: 5 });
            seen.push(method.keys(&batch.0[1]).unwrap());
            method.step(&batch, at).unwrap();
            method.after_step(at).unwrap();
            let all = Tensor::cat(&seen, 0);
            assert!(close(method.queue.rows(), &all.narrow(0, all.size()[0] - 10, 10)), "after step {index}");
        }
    }

    #[test]
    fn symmetric_takes_the_mean_of_both_directions_and_keeps_both_keys() {
        let mut method = build(Config { symmetric: true, ..small() }).unwrap();
        let (batch, queue) = (views(4, 0.), method.queue.rows().copy());
        let [a, b] = [&batch.0[0], &batch.0[1]].map(|x| method.query.project(x, Mode::Train).unwrap());
        let [ka, kb] = [&batch.0[0], &batch.0[1]].map(|x| method.keys(x).unwrap());
        let loss = method.step(&batch, AT).unwrap().loss;
        let expected =
            (info_nce(&a, &kb, &queue, 0.2).unwrap() + info_nce(&b, &ka, &queue, 0.2).unwrap()) / 2;
        assert!(close(&loss, &expected), "{loss:?} {expected:?}");
        assert!(close(method.queue.rows(), &Tensor::cat(&[queue.narrow(0, 8, 2), kb, ka], 0)));
    }

    #[test]
    fn the_key_encoder_gets_no_gradient_and_follows_by_the_momentum() {
        let mut method = build(Config { momentum: Schedule::constant(0.9), ..small() }).unwrap();
        let (start, batch) = (named_tensors(&method), views(4, 0.));
        let learns = |name: &str| name.starts_with("student/") && !name.contains("running");
        assert!(start.iter().all(|(name, x)| x.requires_grad() == learns(name)));
        method.step(&batch, AT).unwrap().loss.backward();
        assert!(start.iter().all(|(name, x)| name.starts_with("student/") || !x.grad().defined()));
        let name = "projector.0.weight";
        let mut student = method.student.variables()[name].shallow_clone();
        let before = method.teacher.variables()[name].copy();
        let _ = no_grad(|| student.f_add_scalar_(1.).unwrap());
        method.after_step(AT).unwrap();
        assert!(close(&method.teacher.variables()[name], &(before + 0.1)));
    }

    #[test]
    fn parts_are_normalized_apart_and_keys_come_back_in_order() {
        let alone = |network: &Network, x: &Tensor, size| {
            let parts = x.split(size, 0).into_iter().map(|part| network.project(&part, Mode::Train).unwrap());
            Tensor::cat(&parts.collect::<Vec<_>>(), 0)
        };
        // Large enough that a part of one image has more than one value per channel.
        let x = views(32, 0.).0.remove(0).view([8, 1, 16, 16]);
        let method = build(Config { norm_parts: 2, ..small() }).unwrap();
        let parts = method.query.project_in_parts(&x, 2).unwrap();
        assert!(close(&parts, &alone(&method.query, &x, 4)) && !close(&parts, &alone(&method.query, &x, 8)));
        // Parts of one image each make the same of it in any order.
        let method = build(Config { norm_parts: 8, ..small() }).unwrap();
        assert!(close(&method.keys(&x).unwrap(), &alone(&method.key, &x, 1)));
    }

    #[test]
    fn validation_changes_nothing_and_finds_equal_views_again() {
        let method = build(small()).unwrap();
        let x = views(6, 0.).0.remove(0);
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let found = method.validate(&Views(vec![x.shallow_clone(), x])).unwrap();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        assert_eq!((found[1].0.as_str(), f64::try_from(&found[1].1).unwrap()), ("retrieval", 1.));
        assert!(f64::try_from(&found[0].1).unwrap() > 0.);
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_errors() {
        let message = build(Config { queue_size: 0, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "queue_size: expected at least 1, got 0");
        let message = build(Config { temperature: 0., ..small() }).unwrap_err().to_string();
        assert_eq!(message, "temperature: expected a number above 0, got 0");
        let message =
            build(Config { momentum: Schedule::cosine(0.9, 1.5), ..small() }).unwrap_err().to_string();
        assert_eq!(message, "momentum: expected numbers from 0 to 1, got [0.9, 1.5]");
        let mut method = build(small()).unwrap();
        let one = Views(views(4, 0.).0.into_iter().take(1).collect());
        let message = method.step(&one, AT).unwrap_err().to_string();
        assert_eq!(message, "views: MoCo v2 takes two, got 1");
    }
}
