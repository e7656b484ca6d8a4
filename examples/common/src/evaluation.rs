//! The common protocol on a frozen encoder, beside its floors.
use crate::Machine;
use anyhow::Result;
use serde::Serialize;
use ssl_core::eval::{Features, Options, Report, evaluate, majority};
use ssl_core::{Batch, Method, Mode, no_grad};
use std::ops::Range;
use tch::Tensor;

/// Clean examples that can be embedded, in a fixed order.
pub trait Examples<I> {
    /// Number of examples.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Examples as the encoder takes them.
    ///
    /// # Errors
    /// When one cannot be read.
    fn inputs(&self, range: Range<usize>) -> ssl_core::Result<I>;

    /// Examples as raw features, the floor that any encoder must beat. `[n, D]`.
    ///
    /// # Errors
    /// When one cannot be read.
    fn raw(&self, range: Range<usize>) -> ssl_core::Result<Tensor>;

    /// The labels, if there are any.
    fn labels(&self) -> Option<Vec<i64>>;
}

/// Examples of one forward pass of the evaluation.
const BLOCK: usize = 500;
/// Examples from which the statistics of normalization layers are taken anew.
const CALIBRATION: usize = 10_000;

/// What the encoder and its floors reach by the same protocol.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// The frozen encoder.
    pub eval: Report,
    /// What it has to beat.
    pub floors: Option<Floors>,
}

/// What costs no training.
#[derive(Debug, Serialize)]
pub struct Floors {
    /// The same encoder untrained: of each number, the better one of the two that follow.
    pub random_init: Report,
    /// Untrained, normalization statistics untouched.
    pub random_init_untouched: Report,
    /// Untrained, normalization statistics taken from clean training examples.
    pub random_init_recalibrated: Report,
    /// Raw inputs.
    pub raw: Report,
    /// The most frequent class.
    pub majority: f64,
}

/// Embeds all examples, block by block. `[N, D]`, float32, on the CPU.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn embed<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    machine: &Machine,
    progress: &dyn Fn(usize),
) -> Result<Tensor> {
    let block = |range: Range<usize>| -> ssl_core::Result<Tensor> {
        let input = examples.inputs(range.clone())?.to_device(machine.device)?;
        let features = machine.precision.scope(machine.device, || method.embed(&input))?;
        progress(range.len());
        Ok(features.f_to_kind(tch::Kind::Float)?.f_to_device(tch::Device::Cpu)?)
    };
    stack(examples.len(), block)
}

fn stack(len: usize, block: impl Fn(Range<usize>) -> ssl_core::Result<Tensor>) -> Result<Tensor> {
    let parts = (0..len).step_by(BLOCK).map(|start| block(start..len.min(start + BLOCK)));
    Ok(Tensor::f_cat(&parts.collect::<ssl_core::Result<Vec<_>>>()?, 0)?)
}

/// Takes the statistics of normalization layers anew from clean training examples: those of a short run have not
/// settled, and those of a run on augmented views are of other data. Returns the number of examples used.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn calibrate<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    machine: &Machine,
) -> Result<usize> {
    let n = examples.len();
    let blocks = n.min(CALIBRATION).div_ceil(BLOCK);
    for seen in 0..blocks {
        // Spread over the whole set, which may be sorted.
        let start = seen * n / blocks;
        let range = start..n.min(start + BLOCK);
        let input = examples.inputs(range)?.to_device(machine.device)?;
        let _ = no_grad(|| {
            let mode = Mode::Calibrate { seen: seen as u64 };
            machine.precision.scope(machine.device, || method.encode(&input, mode))
        })?;
    }
    Ok(n.min(blocks * BLOCK))
}

/// The protocol on a trained encoder, whose statistics are [`calibrate`]d, and on its floors.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn evaluate_all<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    untrained: Option<&M>,
    (train, test): (&dyn Examples<I>, &dyn Examples<I>),
    machine: &Machine,
    options: &Options,
    progress: &dyn Fn(&str),
) -> Result<Option<Evaluation>> {
    let (Some(train_y), Some(test_y)) = (train.labels(), test.labels()) else { return Ok(None) };
    let report = |of: &dyn Fn(&dyn Examples<I>) -> Result<Tensor>| -> Result<Report> {
        let a = Features::new(&of(train)?, train_y.clone())?;
        let b = Features::new(&of(test)?, test_y.clone())?;
        Ok(evaluate(&a, &b, options)?)
    };
    progress("evaluating the encoder");
    let eval = report(&|set| embed(method, set, machine, &|_| ()))?;
    let Some(untrained) = untrained else { return Ok(Some(Evaluation { eval, floors: None })) };
    progress("evaluating the floor: random initialization");
    let untouched = report(&|set| embed(untrained, set, machine, &|_| ()))?;
    progress("evaluating the floor: random initialization, recalibrated");
    calibrate(untrained, train, machine)?;
    let recalibrated = report(&|set| embed(untrained, set, machine, &|_| ()))?;
    progress("evaluating the floor: raw input");
    let raw = report(&|set| stack(set.len(), |range| set.raw(range)))?;
    let floors = Floors {
        random_init: untouched.stronger(&recalibrated),
        random_init_untouched: untouched,
        random_init_recalibrated: recalibrated,
        raw,
        majority: majority(&train_y, &test_y)?,
    };
    Ok(Some(Evaluation { eval, floors: Some(floors) }))
}
