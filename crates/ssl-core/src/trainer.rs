//! The loop that every method of every modality shares.
use crate::loader::{Flow, Loader, Source};
use crate::optim::Optimizer;
use crate::record::Recorder;
use crate::{Batch, Error, Method, Output, Precision, Result, Schedule, Step, mix, named_tensors};
use std::ops::Range;
use std::time::Instant;
use tch::{Device, Tensor};

/// What a hook may look at once a step is done.
pub struct Moment<'a, M: Method + ?Sized> {
    /// The step that is done.
    pub at: Step,
    /// The method, its parameters updated.
    pub method: &'a M,
    /// The optimizer.
    pub optimizer: &'a dyn Optimizer,
    /// What the step returned.
    pub output: &'a Output,
    /// In which precision the run computes.
    pub precision: Precision,
    /// Where it runs.
    pub device: Device,
}

impl<M: Method + ?Sized> std::fmt::Debug for Moment<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moment").field("at", &self.at).field("output", self.output).finish_non_exhaustive()
    }
}

impl<M: Method + ?Sized> Moment<'_, M> {
    /// Whether an action that happens each `every` steps, and at the end, is due; 0 is never.
    pub fn is_due(&self, every: u64) -> bool {
        let done = self.at.index + 1;
        every > 0 && (done.is_multiple_of(every) || done == self.at.total)
    }

    /// That the loss and all of the method's tensors are finite; it waits for the device. A hook asks before it
    /// keeps or measures anything.
    ///
    /// # Errors
    /// `Error::Diverged` saying which is not.
    pub fn check_finite(&self) -> Result<()> {
        let step = self.at.index;
        finite(step, &self.output.loss)?;
        // The loss is that of the weights before the update; those after it may be spoilt already.
        for (name, tensor) in named_tensors(self.method) {
            if f64::try_from(tensor.f_isfinite()?.f_all()?)? == 0. {
                return Err(Error::Diverged { step, what: format!("{name} is not finite") });
            }
        }
        Ok(())
    }
}

/// What happens beside stepping: online evaluation, checkpoints, alarms. A hook decides itself when it is due.
pub trait Hook<M: Method + ?Sized> {
    /// Runs after each step.
    ///
    /// # Errors
    /// Ends the run.
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow>;
}

/// The settings of the loop.
#[derive(Debug, Clone)]
pub struct Trainer {
    /// Steps of the whole run, from its beginning: what the schedules refer to.
    pub total_steps: u64,
    /// Seed of the generator in every step.
    pub seed: u64,
    /// Where the method lives and how batches get there.
    pub loader: Loader,
    /// Precision of the forward pass.
    pub precision: Precision,
    /// Learning rate by step.
    pub learning_rate: Schedule,
    /// Weight decay by step.
    pub weight_decay: Schedule,
    /// Largest joint L2 norm of the gradients.
    pub clip_norm: Option<f64>,
    /// Parts that a batch is cut into, their gradients averaged: less memory, the same mean loss. For losses that
    /// compare the examples of a batch with each other it is not the same as one batch.
    pub accumulate: i64,
    /// Steps between looks at the loss; on CUDA each look waits for the device.
    pub log_every: u64,
}

impl Trainer {
    /// Runs `steps` of the run; `steps.start` is where a checkpoint left off. Returns the step to go on from, which
    /// is `steps.end` unless a hook stopped the run.
    ///
    /// # Errors
    /// `Error::Config` when a number of a schedule is not finite, `Error::Diverged` when the loss is not, and whatever
    /// the method, the source or a hook returns.
    pub fn fit<M: Method + ?Sized>(
        &self,
        method: &mut M,
        optimizer: &mut dyn Optimizer,
        source: &dyn Source<Batch = M::Batch>,
        steps: Range<u64>,
        hooks: &mut [&mut dyn Hook<M>],
        recorder: &mut dyn Recorder,
    ) -> Result<u64> {
        self.learning_rate.validate("learning_rate")?;
        self.weight_decay.validate("weight_decay")?;
        let mut next = steps.start;
        let mut pace = Pace { since: Instant::now(), examples: 0 };
        self.loader.for_each(source, steps, |index, batch| {
            let at = Step { index, total: self.total_steps };
            pace.examples += batch.len();
            let (output, norm) = self.step(method, optimizer, &batch, at)?;
            drop(batch);
            next = index + 1;

            let log = index.is_multiple_of(self.log_every.max(1)) || next == self.total_steps;
            // On CUDA hooks that are due look too.
            if log || !self.loader.device.is_cuda() {
                let loss = finite(index, &output.loss)?;
                if log {
                    self.record(at, loss, &output, norm.as_ref(), &mut pace, recorder)?;
                }
            }
            let now = Moment {
                at,
                method: &*method,
                optimizer: &*optimizer,
                output: &output,
                precision: self.precision,
                device: self.loader.device,
            };
            let mut flow = Flow::Continue;
            for hook in hooks.iter_mut() {
                if hook.after_step(&now, recorder)? == Flow::Stop {
                    flow = Flow::Stop;
                }
            }
            Ok(flow)
        })?;
        recorder.flush()?;
        Ok(next)
    }

    /// One update: forward, backward, clip, step. Returns the output and the gradient norm before clipping.
    fn step<M: Method + ?Sized>(
        &self,
        method: &mut M,
        optimizer: &mut dyn Optimizer,
        batch: &M::Batch,
        at: Step,
    ) -> Result<(Output, Option<Tensor>)> {
        seed_torch(self.seed, at.index);
        optimizer.zero_grad()?;
        let mut one = |part: &M::Batch| -> Result<Output> {
            let output = self.precision.scope(self.loader.device, || method.step(part, at))?;
            output.loss.f_div_scalar(self.accumulate)?.f_backward()?;
            Ok(Output { loss: output.loss.f_detach()?, metrics: output.metrics })
        };
        let output = if self.accumulate == 1 {
            one(batch)?
        } else {
            let parts = batch.chunks(self.accumulate)?;
            mean(parts.iter().map(one).collect::<Result<_>>()?)?
        };
        let norm = self.clip_norm.map(|max| optimizer.clip_norm(max)).transpose()?;
        optimizer.step(self.learning_rate.at(at), self.weight_decay.at(at))?;
        method.after_step(at)?;
        Ok((output, norm))
    }

    fn record(
        &self,
        at: Step,
        loss: f64,
        output: &Output,
        norm: Option<&Tensor>,
        pace: &mut Pace,
        recorder: &mut dyn Recorder,
    ) -> Result<()> {
        recorder.record(at.index, "loss", loss)?;
        for (name, value) in &output.metrics {
            recorder.record(at.index, name, f64::try_from(value)?)?;
        }
        if let Some(norm) = norm {
            recorder.record(at.index, "gradient_norm", f64::try_from(norm)?)?;
        }
        recorder.record(at.index, "learning_rate", self.learning_rate.at(at))?;
        recorder.record(at.index, "examples_per_second", pace.lap())
    }
}

/// The value of a loss, which must be finite; it waits for the device.
fn finite(step: u64, loss: &Tensor) -> Result<f64> {
    let loss = f64::try_from(loss)?;
    if loss.is_finite() { Ok(loss) } else { Err(Error::diverged(step, loss)) }
}

/// Examples since the last look at the clock.
struct Pace {
    since: Instant,
    examples: i64,
}

impl Pace {
    fn lap(&mut self) -> f64 {
        let rate = self.examples as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        *self = Pace { since: Instant::now(), examples: 0 };
        rate
    }
}

/// The outputs of the parts of a batch as one.
fn mean(parts: Vec<Output>) -> Result<Output> {
    let average = |values: Vec<&Tensor>| -> Result<Tensor> {
        Ok(Tensor::f_stack(&values, 0)?.f_mean_dim(0i64, false, None)?)
    };
    let loss = average(parts.iter().map(|part| &part.loss).collect())?;
    let names =
        parts.first().map(|part| part.metrics.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let metrics = names
        .unwrap_or_default()
        .into_iter()
        .map(|name| {
            let of_name = parts.iter().flat_map(|part| &part.metrics).filter(|(other, _)| *other == name);
            let value = average(of_name.map(|(_, value)| value).collect())?;
            Ok((name, value))
        })
        .collect::<Result<_>>()?;
    Ok(Output { loss, metrics })
}

/// Seeds libtorch's generators for a position of the run: nothing of them has to be saved.
#[allow(clippy::disallowed_methods, reason = "the one place that seeds libtorch")]
pub fn seed_torch(seed: u64, position: u64) {
    tch::manual_seed(mix(seed, position).cast_signed());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::{Line, Points};
    use crate::named_tensors;
    use crate::optim::OptimizerConfig;

    fn trainer(accumulate: i64) -> Trainer {
        Trainer {
            total_steps: 6,
            seed: 1,
            loader: Loader { device: Device::Cpu, prefetch: 0 },
            precision: Precision::Fp32,
            learning_rate: Schedule::constant(0.1),
            weight_decay: Schedule::constant(0.),
            clip_norm: None,
            accumulate,
            log_every: 1,
        }
    }

    fn losses(accumulate: i64, scale: f64) -> Result<Vec<f64>> {
        seed_torch(3, 0);
        let mut method = Line::new(scale)?;
        let mut optimizer = OptimizerConfig::adamw().build(named_tensors(&method))?;
        let mut log: Vec<(u64, String, f64)> = Vec::new();
        trainer(accumulate).fit(&mut method, optimizer.as_mut(), &Points, 0..6, &mut [], &mut log)?;
        Ok(log.into_iter().filter(|(_, name, _)| name == "loss").map(|(_, _, value)| value).collect())
    }

    #[test]
    fn accumulated_parts_make_the_same_run_as_the_whole_batch() {
        let (whole, parts) = (losses(1, 1.).unwrap(), losses(4, 1.).unwrap());
        for (a, b) in whole.iter().zip(&parts) {
            assert!((a - b).abs() < 1e-5 * a.abs().max(1.), "{whole:?} {parts:?}");
        }
        assert!(whole[5] < whole[0]);
    }

    #[test]
    fn parts_that_do_not_divide_the_batch_are_refused() {
        let message = losses(3, 1.).unwrap_err().to_string();
        assert_eq!(message, "accumulate: expected a divisor of the batch size 8, got 3");
    }

    #[test]
    fn a_loss_that_is_not_finite_ends_the_run() {
        let message = losses(1, f64::NAN).unwrap_err().to_string();
        assert!(message.starts_with("loss is NaN at step 0: "), "{message}");
    }

    #[test]
    fn a_schedule_that_is_not_finite_is_refused_before_the_first_step() {
        let (mut method, mut log) = (Line::new(1.).unwrap(), Vec::<(u64, String, f64)>::new());
        let mut optimizer = OptimizerConfig::adamw().build(named_tensors(&method)).unwrap();
        let (rate, decay) = (Schedule::constant(f64::NAN), Schedule::constant(f64::INFINITY));
        for (trainer, name) in [
            (Trainer { learning_rate: rate, ..trainer(1) }, "learning_rate: "),
            (Trainer { weight_decay: decay, ..trainer(1) }, "weight_decay: "),
        ] {
            let run = trainer.fit(&mut method, optimizer.as_mut(), &Points, 0..6, &mut [], &mut log);
            assert!(run.unwrap_err().to_string().starts_with(name));
        }
    }
}
