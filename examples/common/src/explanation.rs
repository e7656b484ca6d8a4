//! What the encoder looks at in some test examples, and whether that depends on its weights.
use crate::evaluation::{Examples, draw, embed};
use crate::{DynMethod, Machine, Probes};
use anyhow::Result;
use serde_json::{Value, json};
use ssl_core::eval::{Classifier, Features, Layer};
use ssl_core::explain::{apart, randomization};
use ssl_core::report::Figure;
use ssl_core::{Batch, Mode, no_grad};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Training examples that the linear probe is fitted to, or whose mean the examples are set apart from.
const TAUGHT: usize = 512;
/// The penalty of that probe.
const L2: f64 = 0.01;
/// Tags that keep the streams of random numbers of one seed apart.
const TAUGHT_DRAW: u64 = 120;
const EXPLAINED_DRAW: u64 = 121;
/// Parts of the encoder that are made random, one on top of the other, at most.
const PARTS: usize = 5;
/// The position of libtorch's generator at which weights are made random.
const RANDOM: u64 = u64::MAX - 1;

/// Examples, and the number of each that is explained: how far its embedding reaches along a direction.
pub struct Explained<'a, I> {
    /// The examples, where the encoder is.
    pub input: &'a I,
    /// Their embeddings, in evaluation mode and with gradients, of anything in the form of the input. `[B, D]`.
    pub encode: &'a dyn Fn(&I) -> ssl_core::Result<Tensor>,
    /// Their embeddings as they are. `[B, D]`.
    pub embeddings: Tensor,
    /// The direction of each. `[B, D]`.
    pub directions: Tensor,
    /// The encoder's tensors.
    pub encoder: BTreeMap<String, Tensor>,
    /// Where the encoder is.
    pub device: Device,
    /// What is known of each example: the class that is explained.
    pub captions: Vec<String>,
}

impl<I> std::fmt::Debug for Explained<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explained").field("captions", &self.captions).finish_non_exhaustive()
    }
}

impl<I> Explained<'_, I> {
    /// Whether embeddings are those of the method: some methods hand their encoder something else than the input.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn are_own(&self, embeddings: &Tensor) -> Result<bool> {
        let alike = embeddings.size() == self.embeddings.size();
        Ok(alike && embeddings.f_detach()?.f_allclose(&self.embeddings, 1e-2, 1e-4, false)?)
    }
}

/// Explanations to look at, and how they depend on the weights.
#[derive(Debug, Default)]
pub struct Explanations {
    /// Rows of figures.
    pub rows: Vec<Vec<Figure>>,
    /// What the figures show, if there is something to say.
    pub legend: String,
    /// By the name of an explanation, its rank correlation with itself once layers are random, from the last one on.
    pub randomized: Vec<(String, Vec<f64>)>,
}

/// What explains examples.
pub type Explain<'a, I> = &'a dyn Fn(&Explained<'_, I>) -> Result<Explanations>;

/// What was explained, for the report and the summary.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) number: &'static str,
    pub(crate) explanations: Explanations,
}

impl Told {
    /// What the summary has of it.
    pub(crate) fn summary(&self) -> Value {
        let randomized: serde_json::Map<String, Value> =
            self.explanations.randomized.iter().map(|(name, found)| (name.clone(), json!(found))).collect();
        json!({"explanations": {"of": self.number, "randomized": randomized}})
    }
}

/// The correlations of an explanation whose layers are made random, the last ones first, in five parts at most.
///
/// # Errors
/// What `explain` returns.
pub fn cascade(
    vars: &VarStore,
    layer_of: &dyn Fn(&str) -> Layer,
    explain: &dyn Fn() -> ssl_core::Result<Tensor>,
) -> Result<Vec<f64>> {
    let mut layers: BTreeMap<usize, Vec<(String, Tensor)>> = BTreeMap::new();
    for (name, variable) in vars.variables().into_iter().filter(|(_, variable)| variable.requires_grad()) {
        layers.entry(layer_of(&name).depth).or_default().push((name, variable));
    }
    let mut from_the_top: Vec<Vec<(String, Tensor)>> = layers.into_values().rev().collect();
    for variables in &mut from_the_top {
        // The order of the store's own table is another in each process.
        variables.sort_by(|a, b| a.0.cmp(&b.0));
    }
    let part = |layers: &[Vec<(String, Tensor)>]| {
        let variables = layers.iter().flatten().map(|(_, variable)| variable.shallow_clone()).collect();
        (String::new(), variables)
    };
    let parts: Vec<_> = from_the_top.chunks(from_the_top.len().div_ceil(PARTS).max(1)).map(part).collect();
    ssl_core::trainer::seed_torch(0, RANDOM);
    let found = randomization(&parts, explain)?;
    Ok(found.into_iter().map(|(_, correlation)| (correlation * 1e3).round() / 1e3).collect())
}

/// Explains `count` examples of the last set: the class that a linear probe takes each for, where there are labels, and
/// otherwise what sets it apart from the mean.
pub(crate) fn explain<B: Batch + 'static, I: Batch + 'static>(
    method: &DynMethod<B, I>,
    (train, test): (&dyn Examples<I>, &dyn Examples<I>),
    probes: Option<&Probes<'_, I>>,
    (count, seed): (usize, u64),
    (machine, explain): (&Machine, Explain<'_, I>),
) -> Result<Told> {
    let task = probes.and_then(|probes| probes.tasks.first());
    let (labels, names) = match task {
        Some(task) => (Some(task.labels.clone()), task.label_names.clone()),
        None => (train.labels(), train.label_names()),
    };
    let rows: Vec<usize> = match task {
        Some(task) => task.train.iter().copied().filter(|&row| row < train.len()).collect(),
        None => (0..train.len()).collect(),
    };
    let drawn = draw(rows.len(), TAUGHT, seed, TAUGHT_DRAW);
    let drawn: Vec<usize> = drawn.into_iter().filter_map(|place| rows.get(place).copied()).collect();
    let features = embed(method, train, &drawn, machine)?;
    let classifier = match labels {
        Some(labels) => {
            let taught = drawn.iter().filter_map(|&row| labels.get(row).copied()).collect();
            // A single class leaves nothing to tell.
            Classifier::fit(&Features::new(&features, taught)?, L2).ok()
        }
        None => None,
    };
    let asked = draw(test.len(), count, seed, EXPLAINED_DRAW);
    let input = test.inputs(&asked)?.to_device(machine.device)?;
    let encode = |input: &I| method.encode(input, Mode::Eval);
    let embeddings = no_grad(|| encode(&input))?.f_to_kind(Kind::Float)?;
    let (number, directions, captions) = match &classifier {
        Some(classifier) => {
            let logits = classifier.logits(&embeddings.f_to_device(Device::Cpu)?)?;
            let classes = Vec::<i64>::try_from(logits.f_argmax(1, false)?)?;
            let name = |class: &i64| {
                let name = usize::try_from(*class).ok().and_then(|class| names.get(class));
                name.map_or_else(|| format!("class {class}"), Clone::clone)
            };
            let captions = classes.iter().map(name).collect();
            (PROBE, classifier.directions(&classes)?, captions)
        }
        None => {
            let mean = features.f_mean_dim([0i64].as_slice(), true, Kind::Float)?;
            let captions = asked.iter().map(|index| format!("example {index}")).collect();
            (APART, apart(&embeddings, &mean.f_to_device(machine.device)?)?, captions)
        }
    };
    let explained = Explained {
        input: &input,
        encode: &encode,
        directions: directions.f_to_device(machine.device)?,
        embeddings,
        encoder: method.encoder(),
        device: machine.device,
        captions,
    };
    Ok(Told { number, explanations: explain(&explained)? })
}

/// What is explained with labels.
const PROBE: &str = "the logit of the class that a linear probe of 512 training examples predicts";
/// What is explained without.
const APART: &str =
    "how far the embedding reaches in its own direction from the mean of 512 training examples";
