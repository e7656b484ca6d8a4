//! DeepCluster v2: tell from any crop of an image the cluster of another, where clusters are found anew again and again
//! among the embeddings of earlier batches, each head's by itself.
//!
//! Source: Caron et al., 2020 (SwAV), section 3 and appendix: <https://arxiv.org/abs/2006.09882>; the official code
//! (`facebookresearch/swav`, `main_deepclusterv2.py`); the idea is that of Caron et al., 2018 (DeepCluster):
//! <https://arxiv.org/abs/1807.05520>. Where this differs from the code:
//!
//! - It has a place in memory for each image, and the target of an image is the cluster of the embedding that it had an
//!   epoch before. A batch does not say here which images it is of. So the memory is a queue of the last embeddings, and
//!   the target is the cluster of a large crop's embedding by a copy of the network as it was when clusters were found: by
//!   the network itself all would drift to one cluster. It is told from the other crops alone. All that a step needs is
//!   saved, and a resumed run is the same to the last bit.
//! - Clusters are found anew so many times over the run, which stands for once an epoch, and at the first, second, fourth,
//!   eighth step and so on until the memory is full, which stands for a pass over the data before training.
//! - Centers are what crops are compared with and are never trained; in the code they are weights that are frozen.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoders};
use crate::crops::Crops;
use crate::projected::Projected;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::retrieval;
use ssl_core::nn::Projector;
use ssl_core::{Batch, Clusters, Ema, Error, Method, Metrics, Mode, Output, Precision, Queue, Result, Step, Views};
use ssl_core::{Statistics, check, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

/// The name of the metric that says how many clusters are in use.
const IN_USE: &str = "cluster_perplexity";

/// DeepCluster v2's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hidden units of the projector.
    pub hidden_dim: i64,
    /// Dimension in which crops are compared with the centers of clusters.
    pub projection_dim: i64,
    /// Clusters of each head; the loss is the mean over heads.
    pub clusters: Vec<i64>,
    /// Embeddings of each large crop that clusters are found among; the official code has one of each image.
    pub memory_size: i64,
    /// How often clusters are found anew over the run: once in each of the official hundred epochs.
    pub clusterings: u64,
    /// Rounds of k-means.
    pub kmeans_rounds: u32,
    /// Divides the cosines to the centers.
    pub temperature: f64,
    /// The crops; heads take the clusters of the large ones in turn.
    pub crops: Crops,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hidden_dim: 2048,
            projection_dim: 128,
            clusters: vec![3000; 3],
            memory_size: 131_072,
            clusterings: 100,
            kmeans_rounds: 10,
            temperature: 0.1,
            crops: Crops::swav(),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        let sizes = (1., 1e9);
        if self.clusters.is_empty() {
            return Err(Error::config("clusters", "expected a number for each head, got none"));
        }
        check::ranges(self.clusters.iter().map(|&clusters| ("clusters", clusters as f64, sizes)))?;
        check::ranges([
            ("hidden_dim", self.hidden_dim as f64, sizes),
            ("projection_dim", self.projection_dim as f64, sizes),
            ("memory_size", self.memory_size as f64, sizes),
            ("clusterings", self.clusterings as f64, sizes),
            ("kmeans_rounds", f64::from(self.kmeans_rounds), (1., 1e6)),
            ("temperature", self.temperature, (1e-4, 1e4)),
        ])?;
        self.crops.validate()
    }

    /// Whether clusters are found anew at a step, before which the memory has got so many embeddings.
    fn clusters_at(&self, at: Step, remembered: u64) -> bool {
        let due = |index: u64| u128::from(index) * u128::from(self.clusterings) / u128::from(at.total.max(1));
        let filling = remembered < self.memory_size as u64;
        at.index == 0
            || (filling && at.index.is_power_of_two())
            || due(at.index) > due(at.index.saturating_sub(1))
    }
}

/// An encoder, a projector, the centers of each head, and embeddings of earlier batches.
#[derive(Debug)]
pub struct DeepClusterV2 {
    vars: VarStore,
    memory: VarStore,
    copy_vars: VarStore,
    network: Projected,
    // As it was when clusters were found.
    copy: Projected,
    copying: Ema,
    heads: Vec<Clusters>,
    queues: Vec<Queue>,
    config: Config,
}

impl Definition for DeepClusterV2 {
    const INFO: Info = Info {
        name: "deepcluster_v2",
        summary: "tell the cluster of another crop of the image",
        paper: "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin",
        year: 2020,
        kind: "clustering",
        url: "https://arxiv.org/abs/2006.09882",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let [vars, memory, mut copy_vars] = [(); 3].map(|()| VarStore::new(encoders.device()));
        let dim = config.projection_dim;
        let network = |encoder, vars: &VarStore| {
            let head = vars.root() / "projection_head";
            Projected::new(encoder, |width| Projector::with_biases(&head, &[width, config.hidden_dim, dim]))
        };
        let copy = network(Rc::new(encoders.teacher(&copy_vars)?), &copy_vars)?;
        let network = network(encoders.student(&vars)?, &vars)?;
        let copying = Ema::new(&vars, &mut copy_vars, Statistics::Own)?;
        let root = memory.root();
        let head =
            |(i, &clusters): (usize, &i64)| Clusters::new(&(&root / format!("prototypes{i}")), clusters, dim);
        let heads = config.clusters.iter().enumerate().map(head).collect::<Result<_>>()?;
        let queue = |crop| Queue::new(&root, &format!("embeddings{crop}"), config.memory_size, dim);
        let queues = (0..config.crops.large_crops).map(queue).collect::<Result<_>>()?;
        Ok(DeepClusterV2 { network, copy, copying, copy_vars, heads, queues, vars, memory, config })
    }
}

impl DeepClusterV2 {
    /// Unit embeddings `[B, D]` of each crop.
    fn embeddings(&self, batch: &Views, mode: Mode) -> Result<Vec<Tensor>> {
        let crops = self.config.crops.check(batch, "DeepCluster v2")?;
        self.network.unit_crops(crops, mode)
    }

    /// What the copy makes of the large crops.
    fn targets(&self, Views(crops): &Views, mode: Mode) -> Result<Vec<Tensor>> {
        let large = crops.get(..self.config.crops.large_crops).unwrap_or_default();
        no_grad(|| self.copy.unit_crops(large, mode))
    }

    /// Finds the clusters of every head anew among the newest embeddings, so many of each large crop, and copies the
    /// network.
    fn cluster(&mut self, remembered: u64) -> Result<()> {
        self.copying.update(0.)?;
        let number = i64::try_from(remembered).unwrap_or(i64::MAX);
        for (head, queue) in self.heads.iter_mut().zip(self.queues.iter().cycle()) {
            head.refit_unit(&queue.newest(number)?, self.config.kmeans_rounds)?;
        }
        Ok(())
    }

    /// Loss and accuracy of the crops but one in telling the cluster that the copy finds for that one.
    fn tell(&self, head: &Clusters, [z, targets]: [&[Tensor]; 2], own: usize) -> Result<[Tensor; 2]> {
        let others = |(crop, z): (usize, &Tensor)| (crop != own).then(|| z.shallow_clone());
        let others: Vec<Tensor> = z.iter().enumerate().filter_map(others).collect();
        let own = targets.get(own).ok_or_else(|| Error::config("views", "expected the large crops first"))?;
        let targets = head.nearest(own)?.f_repeat([others.len() as i64])?;
        let cosines = Tensor::f_cat(&others, 0)?.f_matmul(&head.centers().f_tr()?)?;
        let logits = cosines.f_div_scalar(self.config.temperature)?;
        let right = logits.f_argmax(-1, false)?.f_eq_tensor(&targets)?;
        let loss = logits.f_cross_entropy_loss(&targets, None::<&Tensor>, Reduction::Mean, -100, 0.)?;
        Ok([loss, right.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?])
    }

    /// The mean loss and accuracy over heads, and the evenness of the first head's clusters.
    fn compare(&self, z: [&[Tensor]; 2]) -> Result<Output> {
        Precision::Fp32.scope(self.vars.device(), || {
            let crops = (0..self.config.crops.large_crops).cycle();
            let told = self.heads.iter().zip(crops).map(|(head, crop)| self.tell(head, z, crop));
            let told = told.collect::<Result<Vec<_>>>()?;
            let mean = |of: fn(&[Tensor; 2]) -> &Tensor| -> Result<Tensor> {
                Ok(Tensor::f_stack(&told.iter().map(of).collect::<Vec<_>>(), 0)?.f_mean(Kind::Float)?)
            };
            let output = Output::new(mean(|[loss, _]| loss)?).with("accuracy", &mean(|[_, right]| right)?)?;
            match self.heads.first() {
                Some(head) => output.with(IN_USE, &head.perplexity()?),
                None => Ok(output),
            }
        })
    }
}

impl Method for DeepClusterV2 {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let z = self.embeddings(batch, Mode::Train)?;
        for (queue, z) in self.queues.iter_mut().zip(&z) {
            queue.push(z)?;
        }
        let earlier = at.index.saturating_mul(batch.len() as u64);
        if self.config.clusters_at(at, earlier) {
            self.cluster(earlier.saturating_add(batch.len() as u64))?;
        }
        let targets = self.targets(batch, Mode::Train)?;
        self.compare([&z, &targets])
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.network.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.network.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let z = self.embeddings(batch, Mode::Eval)?;
            let mut metrics = self.compare([&z, &self.targets(batch, Mode::Eval)?])?.into_metrics();
            if let [a, b, ..] = z.as_slice() {
                metrics.push(("retrieval".into(), retrieval(a, b)?));
            }
            Ok(metrics)
        })
    }

    fn vital(&self) -> Vec<(String, f64)> {
        self.config.clusters.first().map(|&clusters| (IN_USE.to_string(), clusters as f64)).into_iter().collect()
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        Ok(self.config.crops.named(batch))
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![
            ("student".into(), &self.vars),
            ("copy".into(), &self.copy_vars),
            ("memory".into(), &self.memory),
        ]
    }
}

impl VisionMethod for DeepClusterV2 {
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
        let sizes = Config { hidden_dim: 16, projection_dim: 8, clusters: vec![4, 3, 4], ..Config::default() };
        Config { memory_size: 20, clusterings: 4, crops, ..sizes }
    }

    fn build(config: Config) -> Result<DeepClusterV2> {
        DeepClusterV2::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn crops(n: i64) -> Views {
        batch(n, &[8, 8, 4])
    }

    fn step(method: &mut DeepClusterV2, n: i64, index: u64) -> Output {
        ssl_core::trainer::seed_torch(7, index);
        method.step(&crops(n), Step { index, total: 20 }).unwrap()
    }

    #[test]
    fn keeps_the_contract() {
        let (batch, scratch) = (crops(6), tempfile::tempdir().unwrap());
        check_method(|| build(small()), &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn each_head_tells_the_cluster_of_its_large_crop_from_the_others() {
        let mut method = build(small()).unwrap();
        let z = method.embeddings(&crops(5), Mode::Train).unwrap();
        let found = step(&mut method, 5, 0);
        let rows = |x: &Tensor| -> Vec<Vec<f64>> {
            (0..x.size()[0]).map(|i| Vec::try_from(x.get(i).to_kind(Kind::Double)).unwrap()).collect()
        };
        let (mut loss, mut right) = (0., 0.);
        for (head, own) in method.heads.iter().zip([0, 1, 0]) {
            let centers = rows(head.centers());
            let cosines = |z: &[f64]| -> Vec<f64> {
                centers.iter().map(|c| c.iter().zip(z).map(|(c, z)| c * z).sum()).collect()
            };
            let first = |x: &[f64]| (0..x.len()).max_by(|&i, &j| x[i].total_cmp(&x[j])).unwrap();
            for (i, z_own) in rows(&z[own]).iter().enumerate() {
                let target = first(&cosines(z_own));
                for other in (0..3).filter(|other| *other != own) {
                    let scores = cosines(&rows(&z[other])[i]);
                    let all: f64 = scores.iter().map(|x| (x / 0.1).exp()).sum();
                    loss += (all.ln() - scores[target] / 0.1) / 30.;
                    right += f64::from(first(&scores) == target) / 30.;
                }
            }
        }
        let values = [&found.loss, &found.metrics[0].1].map(|x| x.double_value(&[]));
        assert!((values[0] - loss).abs() < 1e-4, "{} {loss}", values[0]);
        assert!((values[1] - right).abs() < 1e-6, "{} {right}", values[1]);
    }

    #[test]
    fn clusters_are_found_at_powers_of_two_until_the_memory_is_full_and_then_in_turn() {
        let config = Config { clusterings: 4, memory_size: 35, ..small() };
        let of = |total: u64, batch: u64| -> Vec<u64> {
            (0..total).filter(|&i| config.clusters_at(Step { index: i, total }, i * batch)).collect()
        };
        assert_eq!(of(20, 5), [0, 1, 2, 4, 5, 10, 15]);
        assert_eq!(of(20, 40), [0, 5, 10, 15]);
        assert_eq!(of(3, 40), [0, 1, 2]);
        let (mut method, mut moved) = (build(Config { memory_size: 10, ..small() }).unwrap(), Vec::new());
        for index in 0..12 {
            let before = method.heads[1].centers().copy();
            step(&mut method, 5, index);
            if !method.heads[1].centers().equal(&before) {
                moved.push(index);
            }
        }
        assert_eq!(moved, [0, 1, 5, 10]);
    }

    #[test]
    fn centers_are_of_unit_length_and_among_what_is_remembered() {
        let mut method = build(small()).unwrap();
        let z = method.embeddings(&crops(5), Mode::Train).unwrap();
        step(&mut method, 5, 0);
        for head in &method.heads {
            let lengths = head.centers().norm_scalaropt_dim(2, [1i64], false);
            assert!(lengths.allclose(&lengths.ones_like(), 1e-5, 1e-5, false));
        }
        // The rows that nothing was pushed to are zero, and would have drawn centers to them.
        assert!(method.queues[1].newest(5).unwrap().allclose(&z[1], 1e-5, 1e-6, false));
        assert_eq!(method.queues[1].rows().get(14).abs().sum(Kind::Double).double_value(&[]), 0.);
    }

    #[test]
    fn nothing_but_encoder_and_projector_is_trained() {
        let mut method = build(small()).unwrap();
        step(&mut method, 6, 0).loss.backward();
        for (name, x) in named_tensors(&method) {
            let learns = name.starts_with("student/") && !name.contains("running");
            assert_eq!(x.requires_grad() && x.grad().defined(), learns, "{name}");
        }
    }

    #[test]
    fn a_single_cluster_in_use_is_told_to_the_collapse_alarm() {
        let mut method = build(small()).unwrap();
        let of = |output: &Output| output.metrics.iter().find(|(name, _)| name == IN_USE).unwrap().1.double_value(&[]);
        assert!(of(&step(&mut method, 6, 0)) > 1.5);
        let x = crops(1).0.iter().map(|x| x.repeat([6, 1, 1, 1])).collect();
        let output = method.step(&Views(x), Step { index: 0, total: 20 }).unwrap();
        assert!((of(&output) - 1.).abs() < 0.5, "{}", of(&output));
        assert_eq!(method.vital(), [(IN_USE.to_string(), 4.)]);
    }

    #[test]
    fn validation_changes_nothing() {
        let mut method = build(small()).unwrap();
        step(&mut method, 6, 0);
        let copies = || named_tensors(&method).into_values().map(|x| x.copy()).collect::<Vec<_>>();
        let before = copies();
        let names: Vec<String> = method.validate(&crops(5)).unwrap().into_iter().map(|(name, _)| name).collect();
        assert!(before.iter().zip(copies()).all(|(old, new)| old.equal(&new)));
        assert_eq!(names, ["loss", "accuracy", IN_USE, "retrieval"]);
    }

    #[test]
    fn a_missing_crop_and_numbers_out_of_range_are_named() {
        let mut method = build(small()).unwrap();
        let message = method.step(&batch(4, &[8, 8]), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "views: DeepCluster v2 takes 3 with these crops, got 2");
        let message = build(Config { clusters: vec![3, 0], ..small() }).unwrap_err().to_string();
        assert_eq!(message, "clusters: expected 1 to 1000000000, got 0");
        let message = build(Config { clusters: Vec::new(), ..small() }).unwrap_err().to_string();
        assert_eq!(message, "clusters: expected a number for each head, got none");
    }
}
