//! The common protocol on a frozen encoder, beside its floors.
use crate::corruption::{robustness, view_health};
use crate::{LabelledSource, Machine, Probes};
use anyhow::Result;
use rand::seq::index;
use serde::Serialize;
use ssl_core::eval::{Options, Report};
use ssl_core::report::Figure;
use ssl_core::{Batch, Method, Mode, no_grad, rng};
use std::collections::BTreeMap;
use tch::Tensor;

/// Clean examples that can be embedded, in a fixed order.
pub trait Examples<I>: Sync {
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
    fn inputs(&self, indices: &[usize]) -> ssl_core::Result<I>;

    /// Names of the features that cost no training, the floors that any encoder must beat.
    fn floors(&self) -> &[&'static str] {
        &["raw"]
    }

    /// Examples as the features of one of [`Examples::floors`]. `[n, D]`.
    ///
    /// # Errors
    /// When one cannot be read.
    fn floor(&self, name: &str, indices: &[usize]) -> ssl_core::Result<Tensor>;

    /// Examples that are embedded at once, which bounds the memory.
    fn block(&self) -> usize {
        500
    }

    /// Random views of the examples at `rows` with their labels, to fine-tune on; none fine-tunes on clean examples.
    ///
    /// # Errors
    /// When the views are out of range.
    fn views(
        &self,
        _rows: &[usize],
        _batch_size: usize,
        _seed: u64,
    ) -> ssl_core::Result<Option<LabelledSource<'_, I>>>
    where
        I: Batch,
    {
        Ok(None)
    }

    /// One random view of each of some examples, in their order, the same for one seed and number of the draw; none where
    /// no views can be made.
    ///
    /// # Errors
    /// When an example cannot be read.
    fn drawn(&self, _indices: &[usize], _draw: u64, _seed: u64) -> ssl_core::Result<Option<I>> {
        Ok(None)
    }

    /// Names of the corruptions that examples can be put through.
    fn corruptions(&self) -> &[&'static str] {
        &[]
    }

    /// Examples as the encoder takes them, corrupted at a severity from 1 to [`SEVERITIES`](crate::SEVERITIES). What
    /// happens to one depends on the seed and on its own number alone.
    ///
    /// # Errors
    /// When there is no such corruption, or an example cannot be read.
    fn corrupted(&self, name: &str, _severity: usize, _indices: &[usize], _seed: u64) -> ssl_core::Result<I> {
        Err(ssl_core::Error::config("corruption", format!("expected one of none, got {name}")))
    }

    /// Examples, at most, that are looked at again and again while a run goes on.
    fn watched(&self) -> usize {
        2500
    }

    /// How large an example is: those of like size are embedded together.
    fn size_of(&self, _index: usize) -> usize {
        1
    }

    /// What an example is called in a table about the data: its file, or its number; none where neither is known.
    fn name(&self, _index: usize) -> Option<String> {
        None
    }

    /// Names of the groups that were planted into the examples, and the group of each example; none where none were.
    fn planted(&self) -> Option<(Vec<String>, Vec<i64>)> {
        None
    }

    /// The labels, if there are any.
    fn labels(&self) -> Option<Vec<i64>>;

    /// Names of the labels from 0, if they have any.
    fn label_names(&self) -> Vec<String>;

    /// An example as a person looks at it, if that can be shown.
    ///
    /// # Errors
    /// When it cannot be read.
    fn figure(&self, index: usize, caption: &str) -> ssl_core::Result<Option<Figure>>;

    /// An example in little, a picture or a text: a page shows a thousand of them.
    ///
    /// # Errors
    /// As [`Examples::figure`].
    fn thumbnail(&self, index: usize) -> ssl_core::Result<Option<Figure>> {
        self.figure(index, "")
    }
}

/// Examples from which the statistics of normalization layers are taken anew.
const CALIBRATION: usize = 10_000;
/// The tag of the stream of random numbers that draws them.
const CALIBRATED: u64 = 101;

/// What is measured.
#[derive(Debug, Clone, Default)]
pub struct Protocol {
    /// The parts that need features alone.
    pub options: Options,
    /// Test examples that are corrupted, at most.
    pub corrupted: usize,
    /// Test examples of which random views are made, at most.
    pub viewed: usize,
}

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
    /// Untrained, normalization statistics taken from clean training examples; none where it has no statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_init_recalibrated: Option<Report>,
    /// Features that cost no training, by name.
    #[serde(flatten)]
    pub inputs: BTreeMap<String, Report>,
    /// The most frequent class.
    pub majority: f64,
}

/// Embeds examples, block by block. `[N, D]`, float32, on the CPU.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn embed<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    indices: &[usize],
    machine: &Machine,
) -> Result<Tensor> {
    embed_by(method, examples, indices, machine, &|indices| examples.inputs(indices))
}

/// [`embed`] of other inputs made of the examples.
pub(crate) fn embed_by<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    indices: &[usize],
    machine: &Machine,
    inputs: &dyn Fn(&[usize]) -> ssl_core::Result<I>,
) -> Result<Tensor> {
    let block = |indices: &[usize]| -> ssl_core::Result<Tensor> {
        let input = inputs(indices)?.to_device(machine.device)?;
        let features = machine.precision.scope(machine.device, || method.embed(&input))?;
        Ok(features.f_to_kind(tch::Kind::Float)?.f_to_device(tch::Device::Cpu)?)
    };
    // Places of the indices, from the smallest example to the largest.
    let mut order: Vec<usize> = (0..indices.len()).collect();
    order.sort_by_cached_key(|&place| indices.get(place).map(|&index| examples.size_of(index)));
    let sorted: Vec<usize> = order.iter().filter_map(|&place| indices.get(place).copied()).collect();
    let features = stack(&sorted, examples.block(), block)?;
    let mut back = vec![0i64; order.len()];
    for (row, &place) in (0..).zip(&order) {
        if let Some(back) = back.get_mut(place) {
            *back = row;
        }
    }
    Ok(features.f_index_select(0, &Tensor::f_from_slice(&back)?)?)
}

fn stack(
    indices: &[usize],
    size: usize,
    block: impl Fn(&[usize]) -> ssl_core::Result<Tensor>,
) -> Result<Tensor> {
    let parts = indices.chunks(size.max(1)).map(block).collect::<ssl_core::Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// `count` different numbers below `len`, or all, in random order: a set may be sorted by class.
pub(crate) fn draw(len: usize, count: usize, seed: u64, stream: u64) -> Vec<usize> {
    index::sample(&mut rng(seed, &[stream]), len, count.min(len)).into_vec()
}

/// Takes the statistics of normalization layers anew from clean training examples: those of a short run have not
/// settled, and those of a run on augmented views are of other data. Returns the number of examples used, which is 0
/// where there are no statistics.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn calibrate<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    machine: &Machine,
    seed: u64,
) -> Result<usize> {
    if !method.encoder().keys().any(|name| name.ends_with("running_mean")) {
        return Ok(0);
    }
    let drawn = draw(examples.len(), CALIBRATION, seed, CALIBRATED);
    let mut seen = 0;
    for block in drawn.chunks(examples.block().max(1)) {
        let input = examples.inputs(block)?.to_device(machine.device)?;
        let _ = no_grad(|| {
            let mode = Mode::Calibrate { seen };
            machine.precision.scope(machine.device, || method.encode(&input, mode))
        })?;
        seen += block.len() as u64;
    }
    Ok(drawn.len())
}

/// All positions of a set.
fn every<I>(set: &dyn Examples<I>) -> Vec<usize> {
    (0..set.len()).collect()
}

/// The protocol on an encoder, for each task; of the first one also what views of its test examples and corrupted ones
/// give.
fn reports<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    probes: &Probes<'_, I>,
    machine: &Machine,
    protocol: &Protocol,
) -> Result<Vec<Report>> {
    let features = probes.features(|set| embed(method, set, &every(set), machine))?;
    let mut found = Vec::new();
    for (place, task) in probes.tasks.iter().enumerate() {
        let (mut report, probe) = task.report(&features, &protocol.options)?;
        if place == 0 {
            let seed = protocol.options.seed;
            if let Some(set) = probes.sets.last() {
                report.views = view_health(method, *set, machine, (protocol.viewed, seed))?;
            }
            if let Some(probe) = probe {
                let asked = (protocol.corrupted, seed);
                report.robustness = robustness(method, &probe, (probes, task), machine, asked)?;
            }
        }
        found.push(report);
    }
    Ok(found)
}

/// A floor: which class it takes for which is nobody's question, and it would be long.
fn as_floor(report: Report) -> Report {
    Report { linear_confusion: Vec::new(), ..report }
}

/// The protocol on a trained encoder, whose statistics are [`calibrate`]d on `clean`, and on its floors: for each task.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub fn evaluate_all<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    untrained: Option<&M>,
    (probes, clean): (&Probes<'_, I>, &dyn Examples<I>),
    machine: &Machine,
    protocol: &Protocol,
    progress: &dyn Fn(&str),
) -> Result<Vec<Evaluation>> {
    progress("evaluating the encoder");
    let evals = reports(method, probes, machine, protocol)?;
    let Some(untrained) = untrained else {
        return Ok(evals.into_iter().map(|eval| Evaluation { eval, floors: None }).collect());
    };
    progress("evaluating the floor: random initialization");
    let floors = |protocol: &Protocol| -> Result<Vec<Report>> {
        Ok(reports(untrained, probes, machine, protocol)?.into_iter().map(as_floor).collect())
    };
    let untouched = floors(protocol)?;
    let recalibrated = match calibrate(untrained, clean, machine, protocol.options.seed)? {
        0 => vec![None; evals.len()],
        _ => {
            progress("evaluating the floor: random initialization, recalibrated");
            // What is made anew of the examples is embedded by one random encoder alone: it is much.
            let plain = Protocol { corrupted: 0, viewed: 0, ..protocol.clone() };
            floors(&plain)?.into_iter().map(Some).collect()
        }
    };
    let mut inputs = vec![BTreeMap::new(); evals.len()];
    for name in probes.sets.first().map(|set| set.floors()).unwrap_or_default() {
        progress(&format!("evaluating the floor: {}", name.replace('_', " ")));
        let features =
            probes.features(|set| stack(&every(set), set.block(), |indices| set.floor(name, indices)))?;
        for (inputs, task) in inputs.iter_mut().zip(&probes.tasks) {
            let (report, _) = task.report(&features, &protocol.options)?;
            inputs.insert((*name).to_string(), as_floor(report));
        }
    }
    let floors = untouched.into_iter().zip(recalibrated).zip(inputs).zip(&probes.tasks);
    let found = evals.into_iter().zip(floors).map(|(eval, (((untouched, recalibrated), inputs), task))| {
        let floors = Floors {
            random_init: recalibrated.as_ref().map_or_else(|| untouched.clone(), |r| untouched.stronger(r)),
            random_init_untouched: untouched,
            random_init_recalibrated: recalibrated,
            inputs,
            majority: task.majority()?,
        };
        Ok(Evaluation { eval, floors: Some(floors) })
    });
    found.collect()
}
