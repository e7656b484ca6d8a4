//! An encoder with a classifier on top, as a method that the trainer can train.
use super::Finetune;
use crate::{Batch, Loader, Method, Mode, Output, Pair, Precision, Result, Step, dims2};
use tch::nn::{Init, VarStore};
use tch::{Kind, Reduction, Tensor};

/// A method's encoder with a classifier on top.
#[derive(Debug)]
pub(super) struct Tuned<'a, M: Method + ?Sized> {
    method: &'a M,
    pub(super) vars: VarStore,
    pub(super) weight: Tensor,
    bias: Tensor,
    label_smoothing: f64,
}

impl<'a, M: Method + ?Sized> Tuned<'a, M> {
    pub(super) fn new(method: &'a M, example: &M::Input, settings: &Finetune<'_>) -> Result<Self> {
        let Loader { device, .. } = settings.loader;
        let example = example.part(0, 1)?.to_device(device)?;
        let features = settings.precision.scope(device, || method.embed(&example))?;
        let (_, dim) = dims2(&features, "embedding", "[B, D]")?;
        let vars = VarStore::new(device);
        // The bounds of timm's `trunc_normal_` are -2 and 2 whatever the deviation, so nothing is cut.
        let init = Init::Randn { mean: 0., stdev: 2e-5 };
        let weight = vars.root().f_var("weight", &[settings.classes, dim], init)?;
        let bias = vars.root().f_var("bias", &[settings.classes], Init::Const(0.))?;
        Ok(Tuned { method, vars, weight, bias, label_smoothing: settings.options.label_smoothing })
    }

    /// Scores of the classes in float32. `[B, classes]`
    pub(super) fn logits(&self, input: &M::Input, mode: Mode) -> Result<Tensor> {
        let features = self.method.encode(input, mode)?;
        Ok(features.f_linear(&self.weight, Some(&self.bias))?.f_to_kind(Kind::Float)?)
    }
}

impl<M: Method + ?Sized> Method for Tuned<'_, M> {
    type Batch = Pair<M::Input, Tensor>;
    type Input = M::Input;

    fn step(&mut self, Pair(input, labels): &Self::Batch, _at: Step) -> Result<Output> {
        let logits = self.logits(input, Mode::Train)?;
        let loss = Precision::Fp32.scope(logits.device(), || {
            let (mean, smoothing) = (Reduction::Mean, self.label_smoothing);
            Ok(logits.f_cross_entropy_loss::<&Tensor>(labels, None, mean, -100, smoothing)?)
        })?;
        Ok(Output::new(loss))
    }

    fn encode(&self, input: &M::Input, mode: Mode) -> Result<Tensor> {
        self.method.encode(input, mode)
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("head".into(), &self.vars)]
    }
}
