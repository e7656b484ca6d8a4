//! AdamW: Adam whose weight decay acts on the weights, not through the moments.
//!
//! Source: Loshchilov & Hutter, 2019, algorithm 2: <https://arxiv.org/abs/1711.05101>; torch `AdamW`.
use super::{Flat, Optimizer, check_range};
use crate::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// The numbers of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay rates of the running mean and the running square of the gradient, each from 0 to below 1.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

/// The two moments of Adam and the count of steps behind their correction.
#[derive(Debug)]
pub(super) struct Moments {
    pub(super) mean: Tensor,
    pub(super) square: Tensor,
    // Int64 on the CPU: it is read every step, which must not wait for the device.
    steps: Tensor,
}

impl Moments {
    pub(super) fn new(flat: &Flat, betas: (f64, f64)) -> Result<Self> {
        check_range("betas", betas.0, 0., 1.)?;
        check_range("betas", betas.1, 0., 1.)?;
        let steps = Tensor::f_zeros([1], (Kind::Int64, Device::Cpu))?;
        Ok(Moments { mean: flat.zeros()?, square: flat.zeros()?, steps })
    }

    /// Counts a step and returns its number, from 1.
    pub(super) fn count(&mut self) -> Result<i64> {
        let _ = self.steps.f_add_scalar_(1)?;
        Ok(self.steps.f_int64_value(&[0])?)
    }

    pub(super) fn state(&self, flat: &Flat) -> Result<Vec<(String, Tensor)>> {
        let mut all = flat.named("mean", &self.mean)?;
        all.extend(flat.named("square", &self.square)?);
        all.push(("steps".to_string(), self.steps.shallow_clone()));
        Ok(all)
    }
}

/// AdamW over a flat buffer: one kernel per group.
#[derive(Debug)]
pub struct AdamW {
    flat: Flat,
    config: AdamWConfig,
    moments: Moments,
    // The count of steps as the kernel wants it; written before each use, so it is no state.
    steps: Tensor,
}

impl AdamW {
    /// An optimizer with moments of zeros.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(flat: Flat, config: AdamWConfig) -> Result<Self> {
        check_range("eps", config.eps, 0., 1.)?;
        let moments = Moments::new(&flat, config.betas)?;
        let steps = Tensor::f_zeros([] as [i64; 0], (Kind::Float, flat.parameters().device()))?;
        Ok(AdamW { flat, config, moments, steps })
    }
}

impl Optimizer for AdamW {
    fn flat(&self) -> &Flat {
        &self.flat
    }

    fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let count = self.moments.count()?;
        let _ = self.steps.f_fill_(count)?;
        for (group, range) in self.flat.groups() {
            let part = |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
            let with = ssl_torch::AdamW {
                lr: learning_rate * group.lr_scale,
                betas: self.config.betas,
                weight_decay: weight_decay * group.decay_scale,
                eps: self.config.eps,
            };
            let (parameters, gradients) = (part(self.flat.parameters())?, part(self.flat.gradients())?);
            let moments = (&part(&self.moments.mean)?, &part(&self.moments.square)?);
            ssl_torch::fused_adamw(&parameters, &gradients, moments, &self.steps, with)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.moments.state(&self.flat)
    }
}
