//! The contract that every method keeps; each method's tests call [`check_method`].
use crate::loader::{Loader, Source};
use crate::optim::{Optimizer, OptimizerConfig};
use crate::trainer::{Trainer, seed_torch};
use crate::{Batch, Error, Method, Precision, Result, Schedule, Step, checkpoint, named_tensors};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 40;

/// Checks a method on one small batch: a finite loss that reaches every trainable variable; a deterministic `[B, D]`
/// embedding; one batch can be fitted; stopping, saving, loading and going on gives the same losses to the last bit;
/// a misshapen batch is an error. `scratch` is a directory for the checkpoint.
///
/// libtorch has one generator per process, which each step seeds: tests that draw from it on other threads meanwhile
/// change the losses of a method that draws in its step. Run them on one thread (`RUST_TEST_THREADS=1`).
///
/// # Errors
/// `Error::Config` named `contract`, saying which clause is broken, and whatever the method itself returns.
pub fn check_method<M: Method>(
    build: impl Fn() -> Result<M>,
    batch: &M::Batch,
    input: &M::Input,
    scratch: &Path,
) -> Result<()> {
    let at = |index| Step { index, total: STEPS };
    seed_torch(0, 0);
    let mut method = build()?;
    reaches_every_variable(&mut method, batch, at(0))?;
    embeds(&method, input)?;

    let trainer = Trainer {
        total_steps: STEPS,
        seed: 1,
        loader: Loader { device: Device::Cpu, prefetch: 0 },
        precision: Precision::Fp32,
        learning_rate: Schedule::cosine(1e-2, 0.).with_warmup(5),
        weight_decay: Schedule::constant(0.),
        clip_norm: Some(1.),
        accumulate: 1,
        log_every: 1,
    };
    let fresh = |seed| -> Result<(M, Box<dyn Optimizer>)> {
        seed_torch(seed, 0);
        let method = build()?;
        let optimizer = OptimizerConfig::adamw().build(named_tensors(&method))?;
        Ok((method, optimizer))
    };
    let run = |method: &mut M, optimizer: &mut dyn Optimizer, steps| -> Result<Vec<f64>> {
        let mut log: Vec<(u64, String, f64)> = Vec::new();
        trainer.fit(method, optimizer, &Repeat::new(batch)?, steps, &mut [], &mut log)?;
        Ok(log.into_iter().filter(|(_, name, _)| name == "loss").map(|(_, _, value)| value).collect())
    };

    let (mut whole, mut optimizer) = fresh(2)?;
    let start = copies(&whole)?;
    let reference = run(&mut whole, optimizer.as_mut(), 0..STEPS)?;
    let (first, last) = (reference.first().copied(), reference.last().copied());
    ensure(last < first, || format!("one batch is not fitted: the loss went from {first:?} to {last:?}"))?;

    let (mut half, mut optimizer) = fresh(2)?;
    checkpoint::copy_into(scratch, &start, &named_tensors(&half))?;
    run(&mut half, optimizer.as_mut(), 0..STEPS / 2)?;
    let path = scratch.join("contract.safetensors");
    let header = checkpoint::Header { next_step: STEPS / 2, config: serde_json::Value::Null, score: None };
    checkpoint::save(&path, &half, optimizer.as_ref(), &header)?;
    let (mut resumed, mut optimizer) = fresh(99)?;
    let next = checkpoint::load(&path, &resumed, optimizer.as_ref())?.next_step;
    let losses = run(&mut resumed, optimizer.as_mut(), next..STEPS)?;
    ensure(reference.ends_with(&losses), || {
        "resuming changes the run: something the step depends on is not saved".into()
    })?;
    for (name, tensor) in named_tensors(&whole) {
        let other = named_tensors(&resumed);
        let same = other.get(&name).map(|other| tensor.f_equal(other)).transpose()?;
        ensure(same == Some(true), || format!("resuming changes the run: {name} differs at its end"))?;
    }

    let misshapen = batch.map(&mut |t| Ok(t.f_reshape([-1])?))?;
    ensure(resumed.step(&misshapen, at(0)).is_err(), || "a misshapen batch is accepted".into())
}

/// What the method's tensors hold now.
fn copies<M: Method>(method: &M) -> Result<BTreeMap<String, Tensor>> {
    let copy = |(name, tensor): (String, Tensor)| {
        Ok((name, tensor.f_detach()?.f_to_device_(tensor.device(), tensor.kind(), false, true)?))
    };
    named_tensors(method).into_iter().map(copy).collect()
}

fn reaches_every_variable<M: Method>(method: &mut M, batch: &M::Batch, at: Step) -> Result<()> {
    let output = method.step(batch, at)?;
    ensure(output.loss.dim() == 0, || {
        format!("the loss has shape {:?}, expected a scalar", output.loss.size())
    })?;
    let loss = f64::try_from(&output.loss)?;
    ensure(loss.is_finite(), || format!("the loss is {loss}"))?;
    output.loss.f_backward()?;
    for (name, variable) in named_tensors(method).into_iter().filter(|(_, v)| v.requires_grad()) {
        let gradient = variable.f_grad()?;
        let reached = gradient.defined() && f64::try_from(gradient.f_abs()?.f_sum(Kind::Double)?)? > 0.;
        ensure(reached, || format!("{name} gets no gradient"))?;
    }
    Ok(())
}

fn embeds<M: Method>(method: &M, input: &M::Input) -> Result<()> {
    let (a, b) = (method.embed(input)?, method.embed(input)?);
    let (shape, n) = (a.size(), input.len());
    ensure(shape.len() == 2 && shape.first() == Some(&n), || {
        format!("the embedding of {n} examples has shape {shape:?}, expected [{n}, D]")
    })?;
    ensure(a.f_equal(&b)?, || "the embedding depends on the generator or on earlier calls".into())?;
    ensure(!a.requires_grad(), || "the embedding carries gradients".into())
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config("contract", broken())) }
}

/// The same batch at every position.
struct Repeat<B>(Mutex<B>);

impl<B: Batch> Repeat<B> {
    fn new(batch: &B) -> Result<Self> {
        Ok(Repeat(Mutex::new(batch.map(&mut |t| Ok(t.shallow_clone()))?)))
    }
}

impl<B: Batch> Source for Repeat<B> {
    type Batch = B;
    fn batches_per_epoch(&self) -> u64 {
        1
    }
    fn batch(&self, _epoch: u64, _index: u64) -> Result<B> {
        let batch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batch.map(&mut |t| Ok(t.shallow_clone()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::nn::{Linear, Module};
    use crate::{Mode, Output, dims2};
    use tch::nn::VarStore;

    /// The smallest method: a linear map towards a target, with a switch that breaks each clause.
    #[derive(Debug)]
    pub(crate) struct Line {
        vars: VarStore,
        map: Linear,
        scale: f64,
        fault: Fault,
        calls: u64,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        Unused,
        Noisy,
        Hidden,
        Flattens,
    }

    impl Line {
        pub(crate) fn new(scale: f64) -> Result<Self> {
            Line::with(scale, Fault::None)
        }

        fn with(scale: f64, fault: Fault) -> Result<Self> {
            let vars = VarStore::new(Device::Cpu);
            let map = Linear::new(&(vars.root() / "encoder"), 3, 2)?;
            if fault == Fault::Unused {
                Linear::new(&(vars.root() / "head"), 3, 2)?;
            }
            Ok(Line { vars, map, scale, fault, calls: 0 })
        }
    }

    impl Method for Line {
        type Batch = Tensor;
        type Input = Tensor;

        fn step(&mut self, batch: &Tensor, _at: Step) -> Result<Output> {
            let x =
                if self.fault == Fault::Flattens { batch.f_reshape([-1, 3])? } else { batch.shallow_clone() };
            dims2(&x, "points", "[B, 3]")?;
            self.calls += 1;
            let count = if self.fault == Fault::Hidden { 1. + self.calls as f64 / 1000. } else { 1. };
            let error = self.map.forward(&x, Mode::Train)?.f_sub_scalar(2.)?.f_square()?;
            let loss = error.f_mean(Kind::Float)?.f_mul_scalar(self.scale * count)?;
            Output::new(loss).with("scale", &Tensor::from(self.scale))
        }

        fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
            let x = self.map.forward(input, mode)?;
            Ok(if self.fault == Fault::Noisy { x.f_add(&x.f_rand_like()?)? } else { x })
        }

        fn stores(&self) -> Vec<(String, &VarStore)> {
            vec![("student".into(), &self.vars)]
        }
    }

    /// Eight fixed points.
    pub(crate) struct Points;

    impl Source for Points {
        type Batch = Tensor;
        fn batches_per_epoch(&self) -> u64 {
            1
        }
        fn batch(&self, _epoch: u64, _index: u64) -> Result<Tensor> {
            Ok(Tensor::f_arange(24, (Kind::Float, Device::Cpu))?
                .f_mul_scalar(0.37)?
                .f_sin()?
                .f_view([8, 3])?)
        }
    }

    fn check(fault: Fault) -> Result<()> {
        let (points, scratch) = (Points.batch(0, 0)?, tempfile::tempdir().unwrap());
        check_method(|| Line::with(1., fault), &points, &points, scratch.path())
    }

    #[test]
    fn a_sound_method_keeps_the_contract() {
        check(Fault::None).unwrap();
    }

    #[test]
    fn each_broken_clause_is_named() {
        for (fault, said) in [
            (Fault::Unused, "student/head.bias gets no gradient"),
            (Fault::Noisy, "the embedding depends on the generator"),
            (Fault::Hidden, "resuming changes the run"),
            (Fault::Flattens, "a misshapen batch is accepted"),
        ] {
            let message = check(fault).unwrap_err().to_string();
            assert!(message.contains(said), "{fault:?}: {message}");
        }
    }
}
