//! Hooks that every run wants: checkpoints, online evaluation, the collapse alarm.
use crate::checkpoint::{CheckpointDir, Header};
use crate::eval::{CollapseAlarm, Features, Health, KnnOptions, knn};
use crate::loader::Flow;
use crate::record::Recorder;
use crate::trainer::{Hook, Moment};
use crate::{Batch, Error, Method, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Tensor;

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
        let loss = f64::try_from(&now.output.loss)?;
        if !loss.is_finite() {
            return Err(Error::Diverged { step: now.at.index, loss });
        }
        self.dir.save(now.method, now.optimizer, &Header { next_step, config: self.config.clone() })?;
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
    pub best: Option<f64>,
}

impl<I: Batch, M: Method<Input = I> + ?Sized> Hook<M> for OnlineKnn<I> {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> Result<Flow> {
        if !now.is_due(self.every) {
            return Ok(Flow::Continue);
        }
        let bank = Features::new(&embed(now, &self.bank.0)?, self.bank.1.clone())?;
        let queries = Features::new(&embed(now, &self.queries.0)?, self.queries.1.clone())?;
        let accuracy = knn(&bank, &queries, &KnnOptions::default())?.accuracy;
        recorder.record(now.at.index, "online_knn", accuracy)?;
        if self.best.is_none_or(|best| accuracy > best) {
            self.best = Some(accuracy);
            if let Some((dir, config)) = &self.keep_best {
                let header = Header { next_step: now.at.index + 1, config: config.clone() };
                dir.save_best(now.method, now.optimizer, &header)?;
            }
        }
        Ok(Flow::Continue)
    }
}

/// Looks whether the representation still tells examples apart, and warns or stops when it does not.
#[derive(Debug)]
pub struct CollapseWatch<I> {
    /// Clean inputs that are embedded.
    pub inputs: I,
    /// The floors.
    pub alarm: CollapseAlarm,
    /// Steps between looks; 0 is never.
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
        if !now.is_due(self.every) {
            return Ok(Flow::Continue);
        }
        let step = now.at.index;
        let health = Health::of(&embed(now, &self.inputs)?)?;
        recorder.record(step, "feature_deviation", health.deviation)?;
        recorder.record(step, "rankme", health.rankme)?;
        if let Some(message) = self.alarm.check(&health) {
            if self.on_collapse == OnCollapse::Stop {
                return Err(Error::Collapsed { step, message });
            }
            recorder
                .message(step, &format!("warning: the representation collapsed at step {step}: {message}"))?;
        }
        Ok(Flow::Continue)
    }
}

/// Embeds a sample in the precision of the run.
fn embed<I: Batch, M: Method<Input = I> + ?Sized>(now: &Moment<'_, M>, input: &I) -> Result<Tensor> {
    now.precision.scope(now.device, || now.method.embed(&input.to_device(now.device)?))
}
