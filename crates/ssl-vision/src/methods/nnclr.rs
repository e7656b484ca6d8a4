//! NNCLR: a view picks its image among the batch by what lies nearest to the other view in a queue of earlier images.
//!
//! Source: Dwibedi et al., 2021: <https://arxiv.org/abs/2104.14548>, algorithm 1, by which the loss is the mean of both
//! directions and the queue takes the first view alone. Neighbours are the positives and, those of other images, the
//! negatives; predictions alone learn. Where this differs from the paper:
//!
//! - The batch norm at the end of the projector has no shift. The predictor's norm would cancel it, so that no gradient
//!   would reach it.
//! - The views are BYOL's, as in solo-learn's settings.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::siamese::Online;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::loss::info_nce_in_batch;
use ssl_core::nn::{BatchNorm, Projector, l2_normalize};
use ssl_core::{Method, Metrics, Mode, Output, Precision, Queue, Result, Step, Views, check, no_grad};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// NNCLR's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Divides the similarities.
    pub temperature: f64,
    /// Hidden units of both hidden layers of the projector.
    pub hidden_dim: i64,
    /// Dimension in which neighbours and predictions are compared.
    pub projection_dim: i64,
    /// Hidden units of the predictor.
    pub predictor_dim: i64,
    /// Projections of earlier images among which neighbours are looked for.
    pub queue_size: i64,
    /// The random view that comes first, whose projections go into the queue.
    pub first_view: Augment,
    /// The random view that comes second.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let [first_view, second_view] = Augment::byol(224);
        Config {
            temperature: 0.1,
            hidden_dim: 2048,
            projection_dim: 256,
            predictor_dim: 4096,
            queue_size: 98304,
            first_view,
            second_view,
        }
    }
}

/// An encoder, a projector, a predictor, and a queue of what the projector made of earlier images.
#[derive(Debug)]
pub struct NnClr {
    online: Online,
    memory: VarStore,
    queue: Queue,
    config: Config,
}

impl Definition for NnClr {
    const INFO: Info = Info {
        name: "nnclr",
        summary: "contrast each view with its image's nearest neighbour in a queue",
        paper: "Dwibedi, Aytar, Tompson, Sermanet, Zisserman",
        year: 2021,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2104.14548",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        check::positive("temperature", config.temperature)?;
        let (hidden, dim, predictor) = (config.hidden_dim, config.projection_dim, config.predictor_dim);
        let sizes = [("hidden_dim", hidden), ("projection_dim", dim), ("predictor_dim", predictor)];
        check::at_least(1, sizes.into_iter().chain([("queue_size", config.queue_size)]))?;
        config.first_view.validate()?;
        config.second_view.validate()?;
        let online = Online::new(
            encoders,
            dim,
            &|p, width| {
                Projector::with_output_norm(p, &[width, hidden, hidden, dim], BatchNorm::without_shift)
            },
            &|p, width| Projector::with_output_bias(p, &[width, predictor, width]),
        )?;
        let memory = VarStore::new(encoders.device());
        let queue = Queue::of_directions(&memory.root(), "projections", config.queue_size, dim)?;
        Ok(NnClr { online, memory, queue, config })
    }
}

/// What becomes of a batch.
struct Contrast {
    loss: Tensor,
    /// Projections of the first view, of unit length.
    projection: Tensor,
    /// What the queue has nearest to them.
    neighbour: Tensor,
    /// Predictions from the second view.
    prediction: Tensor,
}

impl NnClr {
    /// Projections of unit length, the nearest rows of the queue, and predictions.
    fn pass(&self, x: &Tensor, mode: Mode) -> Result<[Tensor; 3]> {
        let (z, prediction) = self.online.pass(x, mode)?;
        let z = l2_normalize(&z.f_detach()?)?;
        let neighbour = nearest(&z, self.queue.rows())?;
        Ok([z, neighbour, prediction])
    }

    fn contrast(&self, batch: &Views, mode: Mode) -> Result<Contrast> {
        let [a, b] = batch.exactly("NNCLR")?;
        let ([projection, of_a, from_a], [_, of_b, from_b]) = (self.pass(a, mode)?, self.pass(b, mode)?);
        let temperature = self.config.temperature;
        let loss = Precision::Fp32.scope(a.device(), || {
            let first = info_nce_in_batch(&of_a, &from_b, temperature)?;
            Ok(first.f_add(&info_nce_in_batch(&of_b, &from_a, temperature)?)?.f_div_scalar(2.)?)
        })?;
        Ok(Contrast { loss, projection, neighbour: of_a, prediction: from_b })
    }
}

/// For each row the row of `bank` with the greatest product, which is the nearest one where all have unit length.
///
/// # Shapes
/// `rows`: `[B, D]`; `bank`: `[K, D]`; returns `[B, D]`, a copy.
fn nearest(rows: &Tensor, bank: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        Precision::Fp32.scope(rows.device(), || {
            let place = rows.f_matmul(&bank.f_tr()?)?.f_argmax(1, false)?;
            Ok(bank.f_index_select(0, &place)?)
        })
    })
}

impl Method for NnClr {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let found = self.contrast(batch, Mode::Train)?;
        let near = found.projection.f_mul(&found.neighbour)?;
        let near = near.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?.f_mean(Kind::Float)?;
        self.queue.push(&found.projection)?;
        // The mean cosine between a projection and its neighbour.
        Output::new(found.loss).with("neighbour_similarity", &near)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.online.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.online.network.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let found = self.contrast(batch, Mode::Eval)?;
            let retrieved = retrieval(&found.projection, &found.prediction)?;
            Ok(vec![("loss".into(), found.loss), ("retrieval".into(), retrieved)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.online.vars), ("queue".into(), &self.memory)]
    }
}

impl VisionMethod for NnClr {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use ssl_core::{check_method, named_tensors};
    use tch::Device;

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };
    const AT: Step = Step { index: 0, total: 10 };

    fn small() -> Config {
        let (hidden_dim, projection_dim, predictor_dim, queue_size) = (16, 8, 24, 10);
        Config { hidden_dim, projection_dim, predictor_dim, queue_size, ..Config::default() }
    }

    fn build(config: Config) -> Result<NnClr> {
        NnClr::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    /// Two views of `n` images; other images for another `seed`.
    fn views(n: i64, seed: f64) -> Views {
        let at = |step: f64| (Tensor::arange(n * 64, (Kind::Float, Device::Cpu)) * step + seed).sin();
        let (x, noise) = (at(0.37), at(1.93));
        Views([0.3, -0.3].map(|part: f64| (&x + part * &noise).view([n, 1, 8, 8])).into())
    }

    fn rows(x: &Tensor) -> Vec<Vec<f64>> {
        let x = l2_normalize(x).unwrap().detach().to_kind(Kind::Double);
        (0..x.size()[0]).map(|i| Vec::try_from(x.get(i)).unwrap()).collect()
    }

    fn close(x: &Tensor, y: &Tensor) -> bool {
        x.size() == y.size() && x.allclose(y, 1e-5, 1e-6, false)
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (views(12, 0.), tempfile::tempdir().unwrap());
        let build = || {
            let mut method = build(Config { queue_size: 24, ..small() })?;
            // The one batch of the contract fills the queue with its own projections; so it does from the start.
            no_grad(|| method.step(&batch, AT).map(drop))?;
            Ok(method)
        };
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn the_loss_is_the_cross_entropy_of_the_prediction_given_the_neighbour_of_the_other_view() {
        let mut method = build(small()).unwrap();
        let (batch, queue) = (views(5, 0.), rows(method.queue.rows()));
        let [(z_a, p_a), (z_b, p_b)] =
            [0, 1].map(|i| method.online.pass(&batch.0[i], Mode::Train).unwrap()).map(|(z, p)| (rows(&z), rows(&p)));
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
        let nearest = |x: &[f64]| {
            let mut found = queue.clone();
            found.sort_by(|p, q| dot(q, x).total_cmp(&dot(p, x)));
            found.remove(0)
        };
        let one = |z: &[f64], own: usize, predictions: &[Vec<f64>]| {
            let logits: Vec<f64> = predictions.iter().map(|p| dot(&nearest(z), p) / 0.1).collect();
            logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[own]
        };
        let slow = (0..5).map(|i| one(&z_a[i], i, &p_b) + one(&z_b[i], i, &p_a)).sum::<f64>() / 10.;
        let loss = f64::try_from(method.step(&batch, AT).unwrap().loss).unwrap();
        assert!((loss - slow).abs() < 1e-4, "{loss} {slow}");
    }

    #[test]
    fn the_queue_ends_as_the_last_projections_of_first_views_in_order() {
        let mut method = build(small()).unwrap();
        let mut seen = vec![method.queue.rows().copy()];
        for (index, n) in [4, 3, 12, 4].into_iter().enumerate() {
            let (batch, at) = (views(n, index as f64), Step { index: index as u64, total: 4 });
            let (z, _) = method.online.pass(&batch.0[0], Mode::Train).unwrap();
            seen.push(l2_normalize(&z).unwrap());
            method.step(&batch, at).unwrap();
            let all = Tensor::cat(&seen, 0);
            assert!(close(method.queue.rows(), &all.narrow(0, all.size()[0] - 10, 10)), "after step {index}");
        }
        assert!(!method.queue.rows().requires_grad());
    }

    #[test]
    fn a_row_of_the_queue_is_its_own_neighbour_and_the_metric_says_so() {
        let mut method = build(small()).unwrap();
        let bank = method.queue.rows().copy();
        let order = Tensor::from_slice(&[7i64, 0, 3, 3]);
        let some = bank.index_select(0, &order);
        assert!(nearest(&(&some * 0.9 + 0.01), &bank).unwrap().equal(&some));
        let batch = views(10, 0.);
        method.step(&batch, AT).unwrap();
        // The queue now holds what the batch gives once more.
        let output = method.step(&batch, AT).unwrap();
        let (name, near) = &output.metrics[0];
        assert!(name == "neighbour_similarity" && (near.double_value(&[]) - 1.).abs() < 1e-4, "{near:?}");
    }

    #[test]
    fn validation_changes_nothing_and_leaves_the_queue_alone() {
        let method = build(small()).unwrap();
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let found = method.validate(&views(6, 0.)).unwrap();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        let values: Vec<(&str, f64)> =
            found.iter().map(|(name, value)| (name.as_str(), f64::try_from(value).unwrap())).collect();
        assert!(values[0].0 == "loss" && values[0].1 > 0., "{values:?}");
        assert!(values[1].0 == "retrieval" && (0. ..=1.).contains(&values[1].1), "{values:?}");
    }

    #[test]
    fn one_view_and_numbers_out_of_range_are_errors() {
        let message = build(Config { queue_size: 0, ..small() }).unwrap_err().to_string();
        assert_eq!(message, "queue_size: expected at least 1, got 0");
        let message = build(Config { temperature: -1., ..small() }).unwrap_err().to_string();
        assert_eq!(message, "temperature: expected a number above 0, got -1");
        let mut method = build(small()).unwrap();
        let one = Views(views(4, 0.).0.into_iter().take(1).collect());
        let message = method.step(&one, AT).unwrap_err().to_string();
        assert_eq!(message, "views: NNCLR takes two, got 1");
    }
}
