//! Which optimizer, with which numbers, as written in a recipe.
//!
//! Source: each optimizer's file names its own.
use super::{AdamW, AdamWConfig, Flat, Group, Lamb, LambConfig, Lars, LarsConfig, Optimizer, Sgd, SgdConfig};
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::Tensor;

/// An optimizer and its numbers; rate and decay are schedules of the trainer. In JSON `{"name": "sgd", "momentum": 0.9}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent.
    Sgd(SgdConfig),
    /// Adam with decoupled weight decay.
    AdamW(AdamWConfig),
    /// Layer-wise adaptive rates on top of SGD.
    Lars(LarsConfig),
    /// Layer-wise adaptive rates on top of Adam.
    Lamb(LambConfig),
}

impl OptimizerConfig {
    /// SGD with momentum.
    pub fn sgd(momentum: f64) -> Self {
        OptimizerConfig::Sgd(SgdConfig { momentum, ..SgdConfig::default() })
    }

    /// AdamW with PyTorch's numbers.
    pub fn adamw() -> Self {
        OptimizerConfig::AdamW(AdamWConfig::default())
    }

    /// LARS with lightly's numbers.
    pub fn lars() -> Self {
        OptimizerConfig::Lars(LarsConfig::default())
    }

    /// LAMB with timm's numbers.
    pub fn lamb() -> Self {
        OptimizerConfig::Lamb(LambConfig::default())
    }

    /// An optimizer over what requires a gradient in `named`; biases and norms do not decay ([`Group::by_shape`]).
    ///
    /// # Errors
    /// As [`OptimizerConfig::build_grouped`].
    pub fn build(&self, named: BTreeMap<String, Tensor>) -> Result<Box<dyn Optimizer>> {
        self.build_grouped(named, &|name, parameter| Group::by_shape(name, parameter, &[]))
    }

    /// As [`OptimizerConfig::build`], each parameter's learning rate multiplied by the `factor` of its name, as in
    /// layer-wise decay. Parameters of equal factors lie side by side, so an update takes two kernels per factor at
    /// most; a factor of 1 everywhere changes nothing. Factors are no state: they come from the names again.
    ///
    /// # Errors
    /// `Error::Config` when a factor is negative or not finite; as [`OptimizerConfig::build_grouped`].
    pub fn build_scaled(
        &self,
        named: BTreeMap<String, Tensor>,
        factor: &dyn Fn(&str) -> f64,
    ) -> Result<Box<dyn Optimizer>> {
        let unusable = |factor: f64| !(factor >= 0. && factor.is_finite());
        if let Some(name) = named.keys().find(|name| unusable(factor(name))) {
            let message = format!("expected at least 0, got {} for {name}", factor(name));
            return Err(Error::config("factor", message));
        }
        self.build_grouped(named, &|name, parameter| Group {
            lr_scale: factor(name),
            ..Group::by_shape(name, parameter, &[])
        })
    }

    /// An optimizer over what requires a gradient in `named`, each parameter in the group that `group` gives it.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range, or as [`Flat::new`].
    pub fn build_grouped(
        &self,
        named: BTreeMap<String, Tensor>,
        group: &dyn Fn(&str, &Tensor) -> Group,
    ) -> Result<Box<dyn Optimizer>> {
        let flat = Flat::new(named, group)?;
        Ok(match *self {
            OptimizerConfig::Sgd(config) => Box::new(Sgd::new(flat, config)?),
            OptimizerConfig::AdamW(config) => Box::new(AdamW::new(flat, config)?),
            OptimizerConfig::Lars(config) => Box::new(Lars::new(flat, config)?),
            OptimizerConfig::Lamb(config) => Box::new(Lamb::new(flat, config)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_needs_only_the_name_and_refuses_unknown_fields() {
        let parse = |text| serde_json::from_str::<OptimizerConfig>(text);
        assert_eq!(parse(r#"{"name": "adamw"}"#).unwrap(), OptimizerConfig::adamw());
        assert_eq!(parse(r#"{"name": "sgd", "momentum": 0.5}"#).unwrap(), OptimizerConfig::sgd(0.5));
        assert!(parse(r#"{"name": "sgd", "momentun": 0.5}"#).is_err());
        assert!(parse(r#"{"name": "adam"}"#).is_err());
        let lars = serde_json::to_string(&OptimizerConfig::lars()).unwrap();
        assert_eq!(parse(&lars).unwrap(), OptimizerConfig::lars(), "{lars}");
    }
}
