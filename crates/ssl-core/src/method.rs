//! What a self-supervised method is.
use crate::{Batch, Mode, Result, no_grad};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use tch::Tensor;
use tch::nn::VarStore;

/// Where training stands. A method reads its schedules from here and keeps no counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// This step, from 0.
    pub index: u64,
    /// Steps of the whole run.
    pub total: u64,
}

/// Scalars by name, without gradients.
pub type Metrics = Vec<(String, Tensor)>;

/// What a step hands back: the scalar to minimize and detached scalars to log.
#[derive(Debug)]
pub struct Output {
    /// The scalar to minimize.
    pub loss: Tensor,
    /// Detached scalars by name; they stay on the device until they are recorded.
    pub metrics: Metrics,
}

impl Output {
    /// An output without metrics.
    pub fn new(loss: Tensor) -> Self {
        Output { loss, metrics: Vec::new() }
    }

    /// Adds a scalar to log.
    pub fn with(mut self, name: impl Into<String>, value: &Tensor) -> Result<Self> {
        self.metrics.push((name.into(), value.f_detach()?));
        Ok(self)
    }

    /// The loss as a scalar among the others, before them: what [`Method::validate`] gives of a forward pass.
    pub fn into_metrics(self) -> Metrics {
        std::iter::once(("loss".to_string(), self.loss)).chain(self.metrics).collect()
    }
}

/// A self-supervised method: networks, a loss, and what is left to do after the optimizer's step.
pub trait Method: Debug {
    /// What one step consumes: augmented views, masked sequences, pairs.
    type Batch: Batch;
    /// What is embedded at evaluation: clean examples.
    type Input: Batch;

    /// Forward pass and loss. May update buffers (batch statistics, queue, center), never parameters.
    fn step(&mut self, batch: &Self::Batch, at: Step) -> Result<Output>;

    /// Runs once the optimizer has stepped: teacher averaging, weight normalization.
    fn after_step(&mut self, _at: Step) -> Result<()> {
        Ok(())
    }

    /// Representation used downstream, before any projection head. `[B, D]`.
    fn encode(&self, input: &Self::Input, mode: Mode) -> Result<Tensor>;

    /// [`Method::encode`] in evaluation mode and without gradients. `[B, D]`.
    fn embed(&self, input: &Self::Input) -> Result<Tensor> {
        no_grad(|| self.encode(input, Mode::Eval))
    }

    /// Representations of the encoder's stages by name, first to last, each `[B, D_i]`, without gradients.
    fn stages(&self, input: &Self::Input) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![("embedding".to_string(), self.embed(input)?)])
    }

    /// How well the pretext task itself is solved on held-out examples: scalars by name, without gradients.
    ///
    /// A method that compares views reports as `retrieval` how often an example's other view is the nearest
    /// ([`retrieval`](crate::eval::retrieval)), or as `spread` how far its projections are from being the same
    /// ([`spread`](crate::eval::spread)): at chance, or near 0, the run is warned of a collapse.
    fn validate(&self, _batch: &Self::Batch) -> Result<Metrics> {
        Ok(Vec::new())
    }

    /// The metrics of [`Method::step`] that say how many of several things are in use, such as the perplexity of a code
    /// book, by name, and how many there are: the collapse alarm listens to them.
    fn vital(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// What the method makes of a batch, to look at: batches in the form of the input by name, such as what it hides
    /// and what it restores. Without gradients.
    fn look(&self, _batch: &Self::Batch) -> Result<Vec<(String, Self::Input)>> {
        Ok(Vec::new())
    }

    /// Every store to be saved, by name, that of the encoder first. What requires a gradient in them is trained.
    fn stores(&self) -> Vec<(String, &VarStore)>;

    /// The encoder's tensors under the names of the reference implementation.
    fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.stores().into_iter().next().map(|(_, vars)| encoder_in(vars)).unwrap_or_default()
    }
}

impl<M: Method + ?Sized> Method for Box<M> {
    type Batch = M::Batch;
    type Input = M::Input;

    fn step(&mut self, batch: &Self::Batch, at: Step) -> Result<Output> {
        (**self).step(batch, at)
    }
    fn after_step(&mut self, at: Step) -> Result<()> {
        (**self).after_step(at)
    }
    fn encode(&self, input: &Self::Input, mode: Mode) -> Result<Tensor> {
        (**self).encode(input, mode)
    }
    fn embed(&self, input: &Self::Input) -> Result<Tensor> {
        (**self).embed(input)
    }
    fn stages(&self, input: &Self::Input) -> Result<Vec<(String, Tensor)>> {
        (**self).stages(input)
    }
    fn validate(&self, batch: &Self::Batch) -> Result<Metrics> {
        (**self).validate(batch)
    }
    fn vital(&self) -> Vec<(String, f64)> {
        (**self).vital()
    }
    fn look(&self, batch: &Self::Batch) -> Result<Vec<(String, Self::Input)>> {
        (**self).look(batch)
    }
    fn stores(&self) -> Vec<(String, &VarStore)> {
        (**self).stores()
    }
    fn encoder(&self) -> BTreeMap<String, Tensor> {
        (**self).encoder()
    }
}

/// What a store has below `encoder.`, under the names after that.
pub fn encoder_in(vars: &VarStore) -> BTreeMap<String, Tensor> {
    let own = |(name, tensor): (String, Tensor)| Some((name.strip_prefix("encoder.")?.to_string(), tensor));
    vars.variables().into_iter().filter_map(own).collect()
}

/// All tensors of a method under `store/variable` names, in a fixed order; one that is in several stores, such as an
/// encoder that two objectives train, has the name of the first.
pub fn named_tensors<M: Method + ?Sized>(method: &M) -> BTreeMap<String, Tensor> {
    let (mut all, mut known) = (BTreeMap::new(), HashSet::new());
    for (store, vars) in method.stores() {
        for (name, tensor) in vars.variables() {
            let place = tensor.data_ptr() as usize;
            // Empty tensors have no place of their own.
            if place == 0 || known.insert(place) {
                all.insert(format!("{store}/{name}"), tensor);
            }
        }
    }
    all
}
