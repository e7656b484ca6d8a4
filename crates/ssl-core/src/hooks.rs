//! Hooks that every run wants: checkpoints, online evaluation, the collapse alarm.
use crate::checkpoint::{CheckpointDir, Header};
use crate::eval::{CollapseAlarm, Features, Health, KnnOptions, knn};
use crate::loader::Flow;
use crate::record::Recorder;
use crate::trainer::{Hook, Moment};
use crate::{Batch, Error, Method, Precision, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Tensor};

/// Saves the run at intervals, at its end, and when someone asks it to stop.
#[derive(Debug)]
pub struct Checkpoints {
    /// Where.
    pub dir: CheckpointDir,
    /// Steps between checkpoints; 0 saves at the end and on request only.
    pub every: u64,
    /// The configuration written into each.
    pub config: serde_json::Value,
    /// Set by a signal handler: save after this step and stop.
    pub stop: Arc<AtomicBool>,
}

impl<M: Method + ?Sized> Hook<M> for Checkpoints {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow> {
        let stop = self.stop.load(Ordering::Relaxed);
        let next_step = now.at.index + 1;
        if !(stop || next_step == now.at.total || now.is_due(self.every)) {
            return Ok(Flow::Continue);
        }
        recorder.flush()?;
        now.check_finite()?;
        let header = Header { next_step, config: self.config.clone(), score: None };
        self.dir.save(now.method, now.optimizer, &header)?;
        Ok(if stop { Flow::Stop } else { Flow::Continue })
    }
}

/// Nearest-neighbor accuracy on a sample while the run goes on; keeps the best checkpoint.
#[derive(Debug)]
pub struct OnlineKnn<I> {
    /// Clean inputs and labels that vote.
    pub bank: (I, Vec<i64>),
    /// Clean inputs and labels that are asked for.
    pub queries: (I, Vec<i64>),
    /// Steps between evaluations; 0 is never.
    pub every: u64,
    /// Where the checkpoint of the highest accuracy is kept, and the configuration written into it.
    pub keep_best: Option<(CheckpointDir, serde_json::Value)>,
    /// The highest accuracy so far.
    best: Option<f64>,
}

impl<I> OnlineKnn<I> {
    /// A hook that goes on from the best checkpoint that `keep_best` holds already: a resumed run replaces it by a
    /// better one only.
    ///
    /// # Errors
    /// `Error::Io` when that checkpoint cannot be read.
    pub fn new(
        bank: (I, Vec<i64>),
        queries: (I, Vec<i64>),
        every: u64,
        keep_best: Option<(CheckpointDir, serde_json::Value)>,
    ) -> Result<Self> {
        let best = keep_best.as_ref().map(|(dir, _)| dir.best_score()).transpose()?.flatten();
        Ok(OnlineKnn { bank, queries, every, keep_best, best })
    }
}

impl<I: Batch, M: Method<Input = I> + ?Sized> Hook<M> for OnlineKnn<I> {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow> {
        if !now.is_due(self.every) {
            return Ok(Flow::Continue);
        }
        now.check_finite()?;
        let bank = Features::new(&embed(now, &self.bank.0)?, self.bank.1.clone())?;
        let queries = Features::new(&embed(now, &self.queries.0)?, self.queries.1.clone())?;
        let accuracy = knn(&bank, &queries, &KnnOptions::default())?.accuracy;
        recorder.record(now.at.index, "online_knn", accuracy)?;
        if self.best.is_none_or(|best| accuracy > best) {
            self.best = Some(accuracy);
            if let Some((dir, config)) = &self.keep_best {
                let (next_step, config) = (now.at.index + 1, config.clone());
                let header = Header { next_step, config, score: Some(accuracy) };
                dir.save_best(now.method, now.optimizer, &header)?;
            }
        }
        Ok(Flow::Continue)
    }
}

/// Looks whether the representation still tells examples apart, and whether the method's [`vital`](Method::vital)
/// metrics are sound, and warns or stops when one is not.
#[derive(Debug)]
pub struct CollapseWatch<I> {
    /// Clean inputs that are embedded.
    pub inputs: I,
    /// The floors.
    pub alarm: CollapseAlarm,
    /// Steps between looks, of which there are more after 100, 200, 400, .. steps; 0 is never.
    pub every: u64,
    /// What to do on a collapse.
    pub on_collapse: OnCollapse,
}

/// What a run does when its representation has collapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCollapse {
    /// Says so and goes on.
    Warn,
    /// Ends the run with [`Error::Collapsed`].
    Stop,
}

impl<I: Batch, M: Method<Input = I> + ?Sized> Hook<M> for CollapseWatch<I> {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow> {
        if !is_watched(now, self.every) {
            return Ok(Flow::Continue);
        }
        now.check_finite()?;
        let step = now.at.index;
        let health = Health::of(&embed(now, &self.inputs)?)?;
        recorder.record(step, "feature_deviation", health.deviation)?;
        recorder.record(step, "rankme", health.rankme)?;
        let mut found: Vec<String> = self.alarm.check(&health).into_iter().collect();
        for (name, number) in now.method.vital() {
            if let Some((_, value)) = now.output.metrics.iter().find(|(metric, _)| *metric == name) {
                found.extend(self.alarm.check_in_use(&name, f64::try_from(value)?, number));
            }
        }
        if !found.is_empty() {
            self.on_collapse.raise(step, found.join("; "), recorder)?;
        }
        Ok(Flow::Continue)
    }
}

/// Steps until the first look of a watch, at most.
const FIRST_LOOK: u64 = 100;

/// Whether a watch looks now: at its intervals, and after 100, 200, 400, .. steps, since most collapses come early.
fn is_watched<M: Method + ?Sized>(now: &Moment<'_, M>, every: u64) -> bool {
    let done = now.at.index + 1;
    let is_early = done.is_multiple_of(FIRST_LOOK) && (done / FIRST_LOOK).is_power_of_two();
    now.is_due(every) || (every > 0 && is_early)
}

impl OnCollapse {
    fn raise(self, step: u64, message: String, recorder: &mut dyn Recorder) -> Result<()> {
        match self {
            OnCollapse::Stop => Err(Error::Collapsed { step, message }),
            OnCollapse::Warn => {
                let text = format!("warning: the representation collapsed at step {step}: {message}");
                recorder.message(step, &text)
            }
        }
    }
}

/// Numbers that follow from others by name, such as a perplexity from a loss.
pub type Derived<'a> = &'a dyn Fn(&[(String, f64)]) -> Vec<(String, f64)>;

/// Measures the pretext task on examples that are not trained on, while the run goes on, and warns or stops when a
/// method that compares views no longer tells examples apart: its metric `retrieval` is at chance, or its `spread` is
/// nearly 0.
pub struct HeldOut<'a, B> {
    /// The examples.
    pub batches: &'a [B],
    /// Numbers that follow from the means of the others, by name.
    pub derived: Derived<'a>,
    /// Steps between measurements, of which there are more after 100, 200, 400, .. steps; 0 is never.
    pub every: u64,
    /// The floors.
    pub alarm: CollapseAlarm,
    /// What to do on a collapse.
    pub on_collapse: OnCollapse,
}

impl<B> std::fmt::Debug for HeldOut<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldOut").field("every", &self.every).finish_non_exhaustive()
    }
}

impl<B: Batch, M: Method<Batch = B> + ?Sized> Hook<M> for HeldOut<'_, B> {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow> {
        if is_watched(now, self.every) {
            let mut found = held_out(now.method, self.batches, now.device, now.precision)?;
            found.extend((self.derived)(&found));
            let step = now.at.index;
            for (name, value) in &found {
                recorder.record(step, &format!("held_out_{name}"), *value)?;
            }
            let examples = self.batches.iter().map(Batch::len).min().unwrap_or(0);
            // Of several methods on one encoder each has a name before that of its metric.
            let check = |(name, value): &(String, f64)| match name.rsplit('/').next() {
                Some("retrieval") => self.alarm.check_retrieval(name, *value, examples),
                Some("spread") => self.alarm.check_spread(name, *value),
                _ => None,
            };
            // What has hardly begun need not find anything yet.
            if step + 1 >= FIRST_LOOK
                && let Some(message) = found.iter().find_map(check)
            {
                self.on_collapse.raise(step, message, recorder)?;
            }
        }
        Ok(Flow::Continue)
    }
}

/// How well a method solves its pretext task on some batches: the mean of each number over them.
///
/// # Errors
/// What the method says.
pub fn held_out<B: Batch, M: Method<Batch = B> + ?Sized>(
    method: &M,
    batches: &[B],
    device: Device,
    precision: Precision,
) -> Result<Vec<(String, f64)>> {
    let mut means: Vec<(String, f64)> = Vec::new();
    for batch in batches {
        let batch = batch.to_device(device)?;
        for (name, value) in precision.scope(device, || method.validate(&batch))? {
            let value = f64::try_from(value)? / batches.len() as f64;
            match means.iter_mut().find(|(known, _)| *known == name) {
                Some((_, mean)) => *mean += value,
                None => means.push((name, value)),
            }
        }
    }
    Ok(means)
}

/// Examples of a sample that are embedded at once, which bounds the memory.
const BLOCK: i64 = 64;

/// Embeds a sample in the precision of the run. `[N, D]`
fn embed<I: Batch, M: Method<Input = I> + ?Sized>(now: &Moment<'_, M>, input: &I) -> Result<Tensor> {
    let n = input.len();
    let blocks = (0..n).step_by(BLOCK as usize).map(|start| {
        let block = input.part(start, BLOCK.min(n - start))?.to_device(now.device)?;
        now.precision.scope(now.device, || now.method.embed(&block))
    });
    Ok(Tensor::f_cat(&blocks.collect::<Result<Vec<_>>>()?, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::Line;
    use crate::optim::{Optimizer, OptimizerConfig};
    use crate::{Output, Precision, Step, named_tensors, no_grad};
    use serde_json::Value;
    use tch::{Device, Kind};

    /// A finished step of a method, with the loss that is given.
    fn after<R>(line: &Line, loss: f64, look: impl FnOnce(&Moment<'_, Line>, &dyn Optimizer) -> R) -> R {
        let optimizer = OptimizerConfig::sgd(0.).build(named_tensors(line)).unwrap();
        let now = Moment {
            at: Step { index: 4, total: 10 },
            method: line,
            optimizer: optimizer.as_ref(),
            output: &Output::new(Tensor::from(loss)),
            precision: Precision::Fp32,
            device: Device::Cpu,
        };
        look(&now, optimizer.as_ref())
    }

    fn points(n: i64) -> Tensor {
        (Tensor::arange(n * 3, (Kind::Float, Device::Cpu)) * 0.37).sin().view([n, 3])
    }

    #[test]
    fn nothing_is_saved_of_a_run_that_is_not_finite() {
        let (scratch, line) = (tempfile::tempdir().unwrap(), Line::new(1.).unwrap());
        let dir = CheckpointDir::new(scratch.path(), 2);
        let stop = Arc::new(AtomicBool::new(false));
        let mut hook = Checkpoints { dir: dir.clone(), every: 5, config: Value::Null, stop };
        let mut save = |now: &Moment<'_, Line>| hook.after_step(now, &mut Vec::<(u64, String, f64)>::new());
        let message = after(&line, f64::NAN, |now, _| save(now)).unwrap_err().to_string();
        assert!(message.starts_with("loss is NaN at step 4"), "{message}");
        let spoilt = after(&line, 1., |now, optimizer| {
            let _ = no_grad(|| optimizer.flat().parameters().get(0).fill_(f64::NAN));
            save(now)
        });
        let message = spoilt.unwrap_err().to_string();
        assert!(message.starts_with("student/encoder.weight is not finite at step 4"), "{message}");
        assert!(dir.latest().unwrap().is_none());
        after(&Line::new(1.).unwrap(), 1., |now, _| save(now)).unwrap();
        assert_eq!(dir.latest().unwrap().unwrap().header.next_step, 5);
    }

    #[test]
    fn a_resumed_run_replaces_the_best_checkpoint_by_a_better_one_only() {
        let (scratch, line) = (tempfile::tempdir().unwrap(), Line::new(1.).unwrap());
        let dir = CheckpointDir::new(scratch.path(), 2);
        let labels: Vec<i64> = (0..40).map(|i| i % 2).collect();
        let look = |labels: &[i64]| {
            let keep = Some((dir.clone(), Value::Null));
            let mut hook =
                OnlineKnn::new((points(40), labels.to_vec()), (points(40), labels.to_vec()), 5, keep)
                    .unwrap();
            let mut log = Vec::<(u64, String, f64)>::new();
            after(&line, 1., |now, _| hook.after_step(now, &mut log)).unwrap();
            log[0].2
        };
        let first = look(&labels);
        assert_eq!(dir.best_score().unwrap(), Some(first));
        let better = Header { next_step: 1, config: Value::Null, score: Some(1.5) };
        after(&line, 1., |now, optimizer| dir.save_best(now.method, optimizer, &better)).unwrap();
        look(&labels);
        assert_eq!(dir.best_score().unwrap(), Some(1.5));
    }

    /// A line that reports a perplexity.
    #[derive(Debug)]
    struct Books(Line, Vec<(String, f64)>);

    impl Method for Books {
        type Batch = Tensor;
        type Input = Tensor;

        fn step(&mut self, batch: &Tensor, at: Step) -> Result<Output> {
            self.0.step(batch, at)
        }
        fn encode(&self, input: &Tensor, mode: crate::Mode) -> Result<Tensor> {
            self.0.encode(input, mode)
        }
        fn vital(&self) -> Vec<(String, f64)> {
            self.1.clone()
        }
        fn stores(&self) -> Vec<(String, &tch::nn::VarStore)> {
            self.0.stores()
        }
    }

    #[test]
    fn a_code_book_of_one_code_in_use_is_a_collapse() {
        // Of some random lines the points are nearly one direction, which is a collapse of its own.
        crate::trainer::seed_torch(0, 0);
        let mut books = Books(Line::new(1.).unwrap(), vec![("code_perplexity".to_string(), 320.)]);
        let look = |books: &Books, perplexity: f64| {
            let (alarm, on_collapse) = (CollapseAlarm::default(), OnCollapse::Stop);
            let mut watch = CollapseWatch { inputs: points(40), alarm, every: 5, on_collapse };
            let optimizer = OptimizerConfig::sgd(0.).build(named_tensors(books)).unwrap();
            let output = Output::new(Tensor::from(1.)).with("code_perplexity", &Tensor::from(perplexity));
            let now = Moment {
                at: Step { index: 4, total: 10 },
                method: books,
                optimizer: optimizer.as_ref(),
                output: &output.unwrap(),
                precision: Precision::Fp32,
                device: Device::Cpu,
            };
            watch.after_step(&now, &mut Vec::<(u64, String, f64)>::new())
        };
        assert!(look(&books, 200.).is_ok());
        let message = look(&books, 1.).unwrap_err().to_string();
        assert!(message.contains("code_perplexity 1.00 of 320 is under 3.2"), "{message}");
        books.1.push(("other".to_string(), 8.));
        books.1.push(("code_perplexity".to_string(), 500.));
        let message = look(&books, 1.).unwrap_err().to_string();
        assert!(message.contains("is under 3.2; code_perplexity 1.00 of 500"), "all are named: {message}");
        books.1.clear();
        assert!(look(&books, 1.).is_ok(), "only what a method names is looked at");
    }

    #[test]
    fn a_view_that_is_found_by_chance_alone_is_named() {
        let line = Line::new(1.).unwrap();
        let batches = [points(40)];
        let look = |index: u64, share: f64, on_collapse| {
            let derived = |_: &[(String, f64)]| vec![("pair/retrieval".to_string(), share)];
            let alarm = CollapseAlarm::default();
            let mut hook = HeldOut { batches: &batches, derived: &derived, every: 5, alarm, on_collapse };
            let mut log: Vec<(u64, String, f64)> = Vec::new();
            let found = after(&line, 1., |now, _| {
                hook.after_step(&Moment { at: Step { index, total: 1000 }, ..*now }, &mut log)
            });
            (found, log)
        };
        assert!(look(99, 0.5, OnCollapse::Stop).0.is_ok());
        assert!(look(94, 0.05, OnCollapse::Stop).0.is_ok(), "a run that has hardly begun");
        let message = look(99, 0.05, OnCollapse::Stop).0.unwrap_err().to_string();
        assert!(
            message.contains("pair/retrieval 0.0500 is not above twice the chance of 0.0250"),
            "{message}"
        );
        let (found, log) = look(99, 0.05, OnCollapse::Warn);
        assert!(found.is_ok() && log.contains(&(99, "held_out_pair/retrieval".into(), 0.05)));
    }

    #[test]
    fn the_first_steps_are_watched_more_closely() {
        let line = Line::new(1.).unwrap();
        let watched = |every| -> Vec<u64> {
            let is = |index: &u64| {
                after(&line, 1., |now, _| {
                    let at = Step { index: *index, total: 2000 };
                    is_watched(&Moment { at, ..*now }, every)
                })
            };
            (0..2000).filter(is).map(|index| index + 1).collect()
        };
        assert_eq!(watched(700), [100, 200, 400, 700, 800, 1400, 1600, 2000]);
        assert!(watched(0).is_empty());
    }

    #[test]
    fn blocks_do_not_change_an_embedding() {
        let line = Line::new(1.).unwrap();
        let x = points(2 * BLOCK + 3);
        let found = after(&line, 1., |now, _| embed(now, &x)).unwrap();
        assert_eq!(found.size(), [2 * BLOCK + 3, 2]);
        assert!(found.allclose(&line.embed(&x).unwrap(), 1e-6, 1e-6, false));
    }
}
