//! Fine-tuning: how good an encoder becomes when all of it is trained further on labels.
//!
//! Source: He et al., 2022 (MAE), table 9: <https://arxiv.org/abs/2111.06377>, and the code for it
//! (`facebookresearch/mae`, `main_finetune.py`, `util/lr_decay.py`); rates that fall with the depth from Clark et al.,
//! 2020 (ELECTRA): <https://arxiv.org/abs/2003.10555>, and Bao et al., 2022 (BEiT): <https://arxiv.org/abs/2106.08254>.
mod labelled;
mod lent;
mod options;
mod tuned;

pub use labelled::{Labelled, draw_share};
pub use options::{FinetuneOptions, Layer};

use crate::optim::{Optimizer, OptimizerConfig};
use crate::trainer::seed_torch;
use crate::{
    Batch, Error, Flow, Loader, Method, Mode, Pair, Precision, Result, Schedule, Source, Trainer, no_grad,
};
use labelled::Checked;
use lent::Lent;
use serde::{Deserialize, Serialize};
use std::fmt;
use tch::{Kind, Tensor};
use tuned::Tuned;

/// Trains an encoder and a new linear classifier on labels, and tests them.
pub struct Finetune<'a> {
    /// The numbers.
    pub options: FinetuneOptions,
    /// Classes of the classifier, counted from 0.
    pub classes: i64,
    /// The layer of an encoder's variable by its name in [`Method::encoder`].
    pub layer_of: &'a dyn Fn(&str) -> Layer,
    /// Where the method lives and how batches get there.
    pub loader: Loader,
    /// Precision of the forward pass.
    pub precision: Precision,
}

impl fmt::Debug for Finetune<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Finetune");
        shown.field("options", &self.options).field("classes", &self.classes).finish_non_exhaustive()
    }
}

/// What a fine-tuned encoder reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finetuned {
    /// Share of the test set that is classified right.
    pub accuracy: f64,
    /// Test examples.
    pub n_test: i64,
    /// Updates.
    pub steps: u64,
    /// Examples of an update.
    pub batch_size: i64,
    /// Highest learning rate of the classifier.
    pub learning_rate: f64,
    /// Loss of the first and of the last update.
    pub loss: (f64, f64),
}

impl Finetune<'_> {
    /// Trains on `train`, again and again, and tests on one pass over `test`, whose other classes count as wrong.
    ///
    /// The encoder is trained in place and given back as it was, also after an error. It sees `train` in training mode,
    /// so its batch statistics move on from where they are. The classifier starts from MAE's N(0, 2e-5²), which is as
    /// good as zero, and a bias of zeros. MAE's mixup, cutmix and random augmentation are left to `train`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range, `train` has no batch or a label that is no class, or no gradient
    /// reaches the encoder; `Error::Diverged` when the loss is not finite; what the method and the sources say.
    pub fn run<M: Method + ?Sized>(
        &self,
        method: &M,
        train: &dyn Source<Batch = Pair<M::Input, Tensor>>,
        test: &dyn Source<Batch = Pair<M::Input, Tensor>>,
    ) -> Result<Finetuned> {
        self.options.validate()?;
        if self.classes < 2 {
            return Err(Error::config("classes", format!("expected at least 2, got {}", self.classes)));
        }
        let train = Checked { source: train, classes: self.classes };
        let lent = Lent::of(method)?;
        let found = self.train_and_test(method, &lent, &train, test);
        lent.give_back()?;
        found
    }

    fn train_and_test<M: Method + ?Sized>(
        &self,
        method: &M,
        lent: &Lent,
        train: &Checked<'_, M::Input>,
        test: &dyn Source<Batch = Pair<M::Input, Tensor>>,
    ) -> Result<Finetuned> {
        let steps = self.options.total_steps(train.batches_per_epoch())?;
        let Pair(example, _) = train.batch(0, 0)?;
        let batch_size = example.len();
        seed_torch(self.options.seed, u64::MAX);
        let mut tuned = Tuned::new(method, &example, self)?;
        drop(example);
        let mut optimizer = self.optimizer(&tuned, lent)?;
        let learning_rate = self.options.rate(batch_size);
        let warmup = (self.options.warmup * steps as f64).round() as u64;
        let trainer = Trainer {
            total_steps: steps,
            seed: self.options.seed,
            loader: self.loader,
            precision: self.precision,
            learning_rate: Schedule::cosine(learning_rate, 0.).with_warmup(warmup),
            weight_decay: Schedule::constant(self.options.weight_decay),
            clip_norm: None,
            accumulate: 1,
            log_every: steps,
        };
        let mut log: Vec<(u64, String, f64)> = Vec::new();
        trainer.fit(&mut tuned, optimizer.as_mut(), train, 0..steps, &mut [], &mut log)?;
        check_reached(optimizer.as_ref())?;
        let losses: Vec<f64> =
            log.into_iter().filter(|(_, name, _)| name == "loss").map(|(_, _, loss)| loss).collect();
        let loss = losses.first().copied().zip(losses.last().copied()).unwrap_or_default();
        let (accuracy, n_test) = self.test(&tuned, test)?;
        Ok(Finetuned { accuracy, n_test, steps, batch_size, learning_rate, loss })
    }

    /// AdamW over the classifier and the encoder, whose rates fall with the distance from it.
    fn optimizer<M: Method + ?Sized>(&self, tuned: &Tuned<'_, M>, lent: &Lent) -> Result<Box<dyn Optimizer>> {
        let encoder = lent.parameters().into_iter().map(|(name, x)| (format!("{ENCODER}{name}"), x));
        let head = tuned.vars.variables().into_iter().map(|(name, x)| (format!("head.{name}"), x));
        OptimizerConfig::adamw().build_scaled(encoder.chain(head).collect(), &|name| {
            let layer = name.strip_prefix(ENCODER).map_or(Layer::TOP, self.layer_of);
            layer.factor(self.options.layer_decay)
        })
    }

    /// The share of `test` that is classified right, and its size.
    fn test<M: Method + ?Sized>(
        &self,
        tuned: &Tuned<'_, M>,
        test: &dyn Source<Batch = Pair<M::Input, Tensor>>,
    ) -> Result<(f64, i64)> {
        let (mut hits, mut count) = (0, 0);
        self.loader.for_each(test, 0..test.batches_per_epoch(), |_, Pair(input, labels)| {
            let logits =
                no_grad(|| self.precision.scope(self.loader.device, || tuned.logits(&input, Mode::Eval)))?;
            let right = logits.f_argmax(-1, false)?.f_eq_tensor(&labels)?;
            hits += i64::try_from(right.f_sum(Kind::Int64)?)?;
            count += labels.len();
            Ok(Flow::Continue)
        })?;
        Ok((hits as f64 / count as f64, count))
    }
}

const ENCODER: &str = "encoder.";

/// An encoder whose variables its method does not use would be left as it is, and its accuracy be that of a probe.
fn check_reached(optimizer: &dyn Optimizer) -> Result<()> {
    let prefix = format!("square/{ENCODER}");
    for (_, square) in optimizer.state()?.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        if f64::try_from(square.f_max()?)? > 0. {
            return Ok(());
        }
    }
    Err(Error::config(
        "encoder",
        "expected gradients, got none: `encode` uses other variables than `encoder` names",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Features, LinearOptions, linear};
    use crate::nn::{BatchNorm, Linear, Module};
    use crate::{Output, Step, named_tensors, rng};
    use rand::RngExt;
    use std::collections::BTreeMap;
    use tch::Device;
    use tch::nn::VarStore;

    /// Points to two features by one hidden layer; `frozen` is a teacher's encoder, `stray` one that nobody uses.
    #[derive(Debug)]
    struct Toy {
        student: VarStore,
        teacher: VarStore,
        layers: (Linear, BatchNorm, Linear),
        kind: Use,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Use {
        Student,
        Teacher,
        Stray,
    }

    fn layers(vars: &VarStore) -> (Linear, BatchNorm, Linear) {
        let p = vars.root() / "encoder";
        let hidden = Linear::new(&(&p / "hidden"), 2, 32).unwrap();
        let norm = BatchNorm::new(&(&p / "norm"), 32).unwrap();
        (hidden, norm, Linear::new(&(&p / "output"), 32, 2).unwrap())
    }

    impl Toy {
        fn new(kind: Use) -> Self {
            seed_torch(5, 0);
            let (student, mut teacher) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
            let [of_student, of_teacher] = [&student, &teacher].map(layers);
            teacher.freeze();
            let layers = if kind == Use::Student { of_student } else { of_teacher };
            Toy { student, teacher, layers, kind }
        }
    }

    impl Method for Toy {
        type Batch = Tensor;
        type Input = Tensor;

        fn step(&mut self, batch: &Tensor, _at: Step) -> Result<Output> {
            Ok(Output::new(self.encode(batch, Mode::Train)?.f_mean(Kind::Float)?))
        }

        fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
            let (hidden, norm, output) = &self.layers;
            output.forward(&norm.forward(&hidden.forward(input, mode)?, mode)?.f_tanh()?, mode)
        }

        fn stores(&self) -> Vec<(String, &VarStore)> {
            vec![("student".into(), &self.student), ("teacher".into(), &self.teacher)]
        }

        fn encoder(&self) -> BTreeMap<String, Tensor> {
            let vars = if self.kind == Use::Teacher { &self.teacher } else { &self.student };
            let own = |(name, x): (String, Tensor)| (name.trim_start_matches("encoder.").to_string(), x);
            vars.variables().into_iter().map(own).collect()
        }
    }

    /// Points of a square whose opposite quarters are of one class: no line through two random features parts them.
    fn quarters(n: usize, seed: u64) -> (Tensor, Vec<i64>) {
        let mut rng = rng(seed, &[]);
        let points: Vec<f32> = (0..2 * n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
        let class = |point: &[f32]| i64::from(point[0] * point[1] > 0.);
        let labels = points.chunks(2).map(class).collect();
        (Tensor::from_slice(&points).view([n as i64, 2]), labels)
    }

    fn run(method: &Toy, options: FinetuneOptions, layer_of: &dyn Fn(&str) -> Layer) -> Result<Finetuned> {
        let [(train_x, train_y), (test_x, test_y)] = [quarters(400, 1), quarters(200, 2)];
        // A tensor cannot be shared between threads, its values can.
        let [train_x, test_x] = [values(&train_x), values(&test_x)];
        let rows = |points: &[f32], rows: &[usize]| -> Result<Tensor> {
            let rows: Vec<f32> = rows.iter().flat_map(|row| [points[2 * row], points[2 * row + 1]]).collect();
            Ok(Tensor::f_from_slice(&rows)?.f_view([-1, 2])?)
        };
        let (train_inputs, test_inputs) =
            (|at: &[usize]| rows(&train_x, at), |at: &[usize]| rows(&test_x, at));
        let all: Vec<usize> = (0..train_y.len()).collect();
        let train = Labelled::shuffled(&train_inputs, &train_y, &all, 64, options.seed)?;
        let test = Labelled::in_order(&test_inputs, &test_y, 64)?;
        let loader = Loader { device: Device::Cpu, prefetch: 0 };
        Finetune { options, classes: 2, layer_of, loader, precision: Precision::Fp32 }
            .run(method, &train, &test)
    }

    fn values(x: &Tensor) -> Vec<f32> {
        Vec::try_from(x.flatten(0, -1)).unwrap()
    }

    fn options() -> FinetuneOptions {
        FinetuneOptions { epochs: 60., learning_rate: 0.025, weight_decay: 0., ..FinetuneOptions::default() }
    }

    fn snapshot(method: &Toy) -> Vec<(String, Vec<f32>, bool)> {
        let all = named_tensors(method).into_iter();
        all.map(|(name, x)| (name, values(&x), x.requires_grad())).collect()
    }

    #[test]
    fn fine_tuning_beats_a_probe_of_the_frozen_encoder_and_leaves_no_trace() {
        for kind in [Use::Student, Use::Teacher] {
            let method = Toy::new(kind);
            let before = snapshot(&method);
            let ((train_x, train_y), (test_x, test_y)) = (quarters(400, 1), quarters(200, 2));
            let [train, test] = [(train_x, train_y), (test_x, test_y)]
                .map(|(x, y)| Features::new(&method.embed(&x).unwrap(), y).unwrap());
            let probe = linear(&train, &test, &LinearOptions::default()).unwrap().accuracy;
            let found = run(&method, options(), &|_| Layer::TOP).unwrap();
            assert!(found.accuracy > 0.93 && probe < 0.8, "{kind:?}: {found:?} {probe}");
            assert_eq!((found.steps, found.batch_size, found.n_test), (360, 64, 200));
            assert!(found.learning_rate == 0.025 && found.loss.1 < found.loss.0);
            assert!(snapshot(&method) == before, "{kind:?}");
            assert_eq!(run(&method, options(), &|_| Layer::TOP).unwrap(), found, "the same again");
            let other = FinetuneOptions { seed: 1, ..options() };
            assert_ne!(run(&method, other, &|_| Layer::TOP).unwrap().loss, found.loss, "another seed");
        }
    }

    #[test]
    fn rates_fall_from_the_classifier_down() {
        let method = Toy::new(Use::Student);
        let depth = |name: &str| Layer { depth: usize::from(name.starts_with("output")), of: 3 };
        let settings = Finetune {
            options: FinetuneOptions { layer_decay: 0.5, ..options() },
            classes: 2,
            layer_of: &depth,
            loader: Loader { device: Device::Cpu, prefetch: 0 },
            precision: Precision::Fp32,
        };
        let lent = Lent::of(&method).unwrap();
        let mut tuned = Tuned::new(&method, &quarters(1, 0).0, &settings).unwrap();
        let _ = no_grad(|| tuned.weight.fill_(0.3) + tuned.weight.get(0).fill_(-0.3));
        let mut optimizer = settings.optimizer(&tuned, &lent).unwrap();
        let mut all = lent.parameters();
        all.insert("head".into(), tuned.weight.shallow_clone());
        let before: BTreeMap<_, _> = all.iter().map(|(name, x)| (name.clone(), values(x))).collect();
        let (x, y) = quarters(64, 1);
        tuned.step(&Pair(x, Tensor::from_slice(&y)), Step { index: 0, total: 1 }).unwrap().loss.backward();
        optimizer.step(0.1, 0.).unwrap();
        // The first step of Adam is the rate, whatever the gradient.
        for (name, rate) in
            [("hidden.weight", 0.0125), ("norm.weight", 0.0125), ("output.weight", 0.025), ("head", 0.1)]
        {
            let after = values(&all[name]);
            let moved =
                before[name].iter().zip(&after).map(|(a, b)| f64::from((a - b).abs())).fold(0., f64::max);
            assert!((moved - rate).abs() < 1e-3 * rate, "{name}: {moved}");
        }
        lent.give_back().unwrap();
    }

    #[test]
    fn what_cannot_be_trained_is_refused_and_given_back() {
        let method = Toy::new(Use::Stray);
        let before = snapshot(&method);
        let refused = |options| run(&method, options, &|_| Layer::TOP).unwrap_err().to_string();
        assert_eq!(
            refused(options()),
            "encoder: expected gradients, got none: `encode` uses other variables than `encoder` names"
        );
        let infinite = FinetuneOptions { learning_rate: 1e300, ..options() };
        let message = run(&Toy::new(Use::Student), infinite, &|_| Layer::TOP).unwrap_err().to_string();
        assert!(message.starts_with("loss is NaN at step"), "{message}");
        let decay = FinetuneOptions { layer_decay: 2., ..options() };
        assert!(refused(decay).starts_with("layer_decay: "));
        assert!(snapshot(&method) == before);
    }
}
