//! Several objectives on one encoder: which they are, and how their losses are weighed.
//!
//! Source: weights by uncertainty from Kendall, Gal & Cipolla, 2018, equation 10: <https://arxiv.org/abs/1705.07115>.
use crate::{Error, Method, Metrics, Output, Precision, Result, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::PoisonError;
use tch::nn::{Init, Path, VarStore};
use tch::{Kind, Tensor};

/// How the losses are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// By the given factors.
    Fixed,
    /// By learned variances, on top of the given factors: each loss is divided by its own, whose logarithm is added.
    Uncertainty,
}

/// Checks the names of objectives, their weights and their hyperparameters; `own` is the method that joins them.
///
/// # Errors
/// `Error::Config` with the field that makes no sense.
pub fn check_objectives(
    own: &str,
    names: &[String],
    weights: &[f64],
    settings: &BTreeMap<String, Value>,
) -> Result<()> {
    let distinct: BTreeSet<&String> = names.iter().collect();
    if names.len() < 2 || distinct.len() < names.len() || distinct.iter().any(|name| *name == own) {
        let names = names.join(", ");
        let message = format!("expected at least two different methods, none of them {own}, got {names}");
        return Err(Error::config("objectives", message));
    }
    let usable = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.);
    if !usable || !(weights.is_empty() || weights.len() == names.len()) {
        let message = format!("expected {} numbers of at least 0, or none, got {weights:?}", names.len());
        return Err(Error::config("weights", message));
    }
    if let Some(name) = settings.keys().find(|name| !distinct.contains(name)) {
        return Err(Error::config("settings", format!("expected the name of an objective, got {name}")));
    }
    Ok(())
}

/// Joins losses to one.
#[derive(Debug)]
pub struct Weigher {
    weights: Vec<f32>,
    log_variances: Option<Tensor>,
}

impl Weigher {
    /// For `count` losses with these factors, or 1 each where there are none; learned variances lie under `p`, as
    /// `log_variances`.
    ///
    /// # Errors
    /// `Error::Torch` when the variable exists already.
    pub fn new(p: &Path, count: usize, weights: &[f64], weighting: Weighting) -> Result<Self> {
        let factors = weights.iter().map(|&weight| weight as f32).chain(std::iter::repeat(1.));
        let log_variances = (weighting == Weighting::Uncertainty)
            .then(|| p.f_var("log_variances", &[count as i64], Init::Const(0.)));
        Ok(Weigher { weights: factors.take(count).collect(), log_variances: log_variances.transpose()? })
    }

    /// The losses, weighed and added, in float32.
    ///
    /// # Shapes
    /// `losses`: scalars, as many as there are factors; returns a scalar.
    ///
    /// # Errors
    /// `Error::Torch` when there are more or fewer.
    pub fn join(&self, losses: &[Tensor]) -> Result<Tensor> {
        let losses = Tensor::f_stack(losses, 0)?.f_to_kind(Kind::Float)?;
        let weighed = losses.f_mul(&Tensor::f_from_slice(&self.weights)?.f_to_device(losses.device())?)?;
        match &self.log_variances {
            None => Ok(weighed.f_sum(Kind::Float)?),
            // Kendall's form for classification: L / sigma^2 + log sigma.
            Some(s) => {
                Ok(s.f_neg()?.f_exp()?.f_mul(&weighed)?.f_add(&s.f_mul_scalar(0.5)?)?.f_sum(Kind::Float)?)
            }
        }
    }
}

/// Methods that train one encoder, each with heads and teachers of its own.
#[derive(Debug)]
pub struct Objectives<M: ?Sized> {
    vars: VarStore,
    parts: Vec<(String, Box<M>)>,
    weigher: Weigher,
}

impl<M: Method + ?Sized> Objectives<M> {
    /// The methods of these names, which `build` makes, and what joins their losses; the encoder is in `vars` already.
    ///
    /// # Errors
    /// What `build` says, and as [`Weigher::new`].
    pub fn new(
        vars: VarStore,
        names: &[String],
        (weights, weighting): (&[f64], Weighting),
        build: impl Fn(&str) -> Result<Box<M>>,
    ) -> Result<Self> {
        let part = |name: &String| Ok((name.clone(), build(name)?));
        let parts = names.iter().map(part).collect::<Result<Vec<_>>>()?;
        let weigher = Weigher::new(&vars.root(), parts.len(), weights, weighting)?;
        Ok(Objectives { vars, parts, weigher })
    }

    /// The method whose representation it is.
    ///
    /// # Errors
    /// `Error::Config` when there is no method.
    pub fn first(&self) -> Result<&M> {
        let first = self.methods().next().map(|(_, method)| method);
        first.ok_or_else(|| Error::config("objectives", "expected at least two, got none"))
    }

    /// All methods with their names.
    pub fn methods(&self) -> impl Iterator<Item = (&str, &M)> {
        self.parts.iter().map(|(name, method)| (name.as_str(), method.as_ref()))
    }

    /// The same, to be trained.
    pub fn methods_mut(&mut self) -> impl Iterator<Item = (&str, &mut M)> {
        self.parts.iter_mut().map(|(name, method)| (name.as_str(), method.as_mut()))
    }

    /// For each method its run of `items`, of which it takes `count`.
    ///
    /// # Errors
    /// `Error::Config` under `what` when they take more or fewer together.
    pub fn split<'a, T>(
        &self,
        what: &str,
        items: &'a [T],
        count: impl Fn(&M) -> usize,
    ) -> Result<Vec<&'a [T]>> {
        let counts: Vec<usize> = self.methods().map(|(_, method)| count(method)).collect();
        let expected: usize = counts.iter().sum();
        if items.len() != expected {
            let message = format!("the objectives take {expected} together, got {}", items.len());
            return Err(Error::config(what, message));
        }
        let mut rest = items;
        let mut take = |n: usize| {
            let (own, others) = rest.split_at(n.min(rest.len()));
            rest = others;
            own
        };
        Ok(counts.into_iter().map(&mut take).collect())
    }

    /// [`Method::step`] of each on its batch, the losses joined; metrics have the names of their methods before them.
    ///
    /// # Errors
    /// What the methods say.
    pub fn step(&mut self, batches: &[M::Batch], at: Step) -> Result<Output> {
        let (mut losses, mut metrics) = (Vec::new(), Vec::new());
        for ((name, method), batch) in self.methods_mut().zip(batches) {
            let output = method.step(batch, at)?;
            metrics.push((format!("{name}/loss"), output.loss.f_detach()?));
            metrics.extend(
                output.metrics.into_iter().map(|(metric, value)| (format!("{name}/{metric}"), value)),
            );
            losses.push(output.loss);
        }
        let device = self.vars.device();
        Ok(Output { loss: Precision::Fp32.scope(device, || self.weigher.join(&losses))?, metrics })
    }

    /// [`Method::after_step`] of each.
    ///
    /// # Errors
    /// What the methods say.
    pub fn after_step(&mut self, at: Step) -> Result<()> {
        self.methods_mut().try_for_each(|(_, method)| method.after_step(at))
    }

    /// [`Method::validate`] of each, with the names of their methods before those of the numbers.
    ///
    /// # Errors
    /// What the methods say.
    pub fn validate(&self, batches: &[M::Batch]) -> Result<Metrics> {
        let mut all = Metrics::new();
        for ((name, method), batch) in self.methods().zip(batches) {
            let found = method.validate(batch)?;
            all.extend(found.into_iter().map(|(metric, value)| (format!("{name}/{metric}"), value)));
        }
        Ok(all)
    }

    /// [`Method::vital`] of each, with the names of their methods before those of the metrics, as in [`Self::step`].
    pub fn vital(&self) -> Vec<(String, f64)> {
        let of = |(name, method): (&str, &M)| {
            let named = |(metric, number)| (format!("{name}/{metric}"), number);
            method.vital().into_iter().map(named).collect::<Vec<_>>()
        };
        self.methods().flat_map(of).collect()
    }

    /// [`Method::look`] of each, with the names of their methods before those of the rows.
    ///
    /// # Errors
    /// What the methods say.
    pub fn look(&self, batches: &[M::Batch]) -> Result<Vec<(String, M::Input)>> {
        let mut all = Vec::new();
        for ((name, method), batch) in self.methods().zip(batches) {
            let found = method.look(batch)?;
            all.extend(found.into_iter().map(|(row, inputs)| (format!("{name} {row}"), inputs)));
        }
        Ok(all)
    }

    /// [`Method::encoder`] of the first.
    pub fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.methods().next().map(|(_, method)| method.encoder()).unwrap_or_default()
    }

    /// The store of the encoder, and those of the methods under their names.
    pub fn stores(&self) -> Vec<(String, &VarStore)> {
        let own = std::iter::once(("student".to_string(), &self.vars));
        let theirs = self.methods().flat_map(|(part, method)| {
            method.stores().into_iter().map(move |(name, vars)| (format!("{part}.{name}"), vars))
        });
        own.chain(theirs).collect()
    }
}

/// An encoder that several methods train, with its variables by name.
#[derive(Debug)]
pub struct SharedEncoder<E> {
    encoder: Rc<E>,
    variables: Vec<(String, Tensor)>,
}

impl<E> SharedEncoder<E> {
    /// An encoder whose variables are all of `vars`.
    pub fn new(encoder: Rc<E>, vars: &VarStore) -> Self {
        SharedEncoder { encoder, variables: vars.variables().into_iter().collect() }
    }

    /// The encoder, for a method whose variables are in `vars`, which gets those of the encoder too.
    pub fn lend(&self, vars: &VarStore) -> Rc<E> {
        let mut known = vars.variables_.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, tensor) in &self.variables {
            known.named_variables.insert(name.clone(), tensor.shallow_clone());
        }
        Rc::clone(&self.encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_grad;
    use tch::Device;

    #[test]
    fn the_loss_is_the_weighed_sum_and_uncertainty_divides_each_by_its_own() {
        let vars = VarStore::new(Device::Cpu);
        let losses = [Tensor::from(3f32), Tensor::from(4f32)];
        let of = |weigher: &Weigher| f64::try_from(weigher.join(&losses).unwrap()).unwrap();
        let fixed = Weigher::new(&vars.root(), 2, &[2., 0.5], Weighting::Fixed).unwrap();
        assert_eq!((of(&fixed), vars.len()), (8., 0));
        let learned = Weigher::new(&vars.root(), 2, &[], Weighting::Uncertainty).unwrap();
        assert_eq!(of(&learned), 7.);
        let mut s = vars.variables()["log_variances"].shallow_clone();
        no_grad(|| s.copy_(&Tensor::from_slice(&[2f32.ln(), 4f32.ln()])));
        let expected = 3. / 2. + 4. / 4. + (2f64.ln() + 4f64.ln()) / 2.;
        assert!((of(&learned) - expected).abs() < 1e-6);
    }

    #[test]
    fn objectives_and_weights_that_make_no_sense_are_named() {
        let check = |names: &[&str], weights: &[f64], setting: &str| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let settings = [(setting.to_string(), Value::Null)].into();
            check_objectives("multi", &names, weights, &settings).map_err(|error| error.to_string())
        };
        let two = "objectives: expected at least two different methods, none of them multi, got ";
        assert_eq!(check(&["a"], &[], "a").unwrap_err(), format!("{two}a"));
        assert_eq!(check(&["a", "a"], &[], "a").unwrap_err(), format!("{two}a, a"));
        assert_eq!(check(&["a", "multi"], &[], "a").unwrap_err(), format!("{two}a, multi"));
        for weights in [&[1.][..], &[1., -1.], &[1., f64::NAN]] {
            let message = check(&["a", "b"], weights, "a").unwrap_err();
            assert!(message.starts_with("weights: expected 2 numbers of at least 0"), "{message}");
        }
        assert_eq!(
            check(&["a", "b"], &[], "c").unwrap_err(),
            "settings: expected the name of an objective, got c"
        );
        assert_eq!(check(&["a", "b"], &[1., 0.], "b"), Ok(()));
    }
}
