//! Stochastic gradient descent with momentum, in PyTorch's order: decay joins the gradient, then momentum.
//!
//! Source: Sutskever et al., 2013: <https://proceedings.mlr.press/v28/sutskever13.html>; torch `SGD`.
use super::{Flat, Optimizer, check_range, descend};
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The numbers of SGD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// Part of the last direction that is kept, from 0 to below 1.
    pub momentum: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { momentum: 0.9, nesterov: false }
    }
}

/// SGD over a flat buffer: one kernel per group.
#[derive(Debug)]
pub struct Sgd {
    flat: Flat,
    config: SgdConfig,
    momentum: Option<Tensor>,
}

impl Sgd {
    /// An optimizer with a momentum of zeros.
    ///
    /// # Errors
    /// `Error::Config` when the momentum is out of range.
    pub fn new(flat: Flat, config: SgdConfig) -> Result<Self> {
        check_range("momentum", config.momentum, 0., 1.)?;
        if config.nesterov && config.momentum == 0. {
            return Err(Error::config("nesterov", "expected a momentum above 0, got 0"));
        }
        let momentum = if config.momentum > 0. { Some(flat.zeros()?) } else { None };
        Ok(Sgd { flat, config, momentum })
    }
}

impl Optimizer for Sgd {
    fn flat(&self) -> &Flat {
        &self.flat
    }

    fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (group, range) in self.flat.groups() {
            let part = |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
            let (parameters, gradients) = (part(self.flat.parameters())?, part(self.flat.gradients())?);
            let (lr, weight_decay) = (learning_rate * group.lr_scale, weight_decay * group.decay_scale);
            match &self.momentum {
                Some(buffer) => {
                    let SgdConfig { momentum, nesterov } = self.config;
                    // A buffer of zeros needs no special first step: PyTorch's first direction is the gradient too.
                    let with = ssl_torch::Sgd { lr, momentum, weight_decay, nesterov, first: false };
                    ssl_torch::fused_sgd(&parameters, &gradients, &part(buffer)?, with)?;
                }
                None if weight_decay == 0. => descend(&parameters, &gradients, lr)?,
                None => {
                    let direction = parameters.f_mul_scalar(weight_decay)?.f_add(&gradients)?;
                    descend(&parameters, &direction, lr)?;
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.momentum.as_ref().map_or(Ok(Vec::new()), |buffer| self.flat.named("momentum", buffer))
    }
}
