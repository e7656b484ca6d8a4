//! Several objectives on one encoder: which they are, and how their losses are weighed.
//!
//! Source: weights by uncertainty from Kendall, Gal & Cipolla, 2018, equation 10: <https://arxiv.org/abs/1705.07115>.
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tch::nn::{Init, Path};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_grad;
    use tch::Device;
    use tch::nn::VarStore;

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
