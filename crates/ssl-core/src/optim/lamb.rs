//! LAMB: Adam in which each tensor's step is proportional to the tensor's norm.
//!
//! Source: You et al., 2020, algorithm 2: <https://arxiv.org/abs/1904.00962>, as timm and NVIDIA have it: the whole
//! gradient is first cut to a joint norm, and what does not decay is not rescaled.
use super::adamw::Moments;
use super::{Flat, Optimizer, check_range, descend, norms};
use crate::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The numbers of LAMB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LambConfig {
    /// Decay rates of the running mean and the running square of the gradient, each from 0 to below 1.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Joint L2 norm that the gradient is cut to inside the step, if any; without the 1e-6 of `clip_norm`.
    pub max_grad_norm: Option<f64>,
}

impl Default for LambConfig {
    fn default() -> Self {
        LambConfig { betas: (0.9, 0.999), eps: 1e-6, max_grad_norm: Some(1.) }
    }
}

/// LAMB over a flat buffer.
#[derive(Debug)]
pub struct Lamb {
    flat: Flat,
    config: LambConfig,
    moments: Moments,
    // The directions of one step; no state.
    update: Tensor,
}

impl Lamb {
    /// An optimizer with moments of zeros.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(flat: Flat, config: LambConfig) -> Result<Self> {
        check_range("eps", config.eps, 0., 1.)?;
        check_range("max_grad_norm", config.max_grad_norm.unwrap_or(1.), f64::MIN_POSITIVE, f64::MAX)?;
        let (moments, update) = (Moments::new(&flat, config.betas)?, flat.zeros()?);
        Ok(Lamb { flat, config, moments, update })
    }

    /// Updates the moments and writes Adam's direction into `update`.
    fn adam(&mut self) -> Result<()> {
        let (beta1, beta2) = self.config.betas;
        let t = self.moments.count()? as f64;
        let (correct1, correct2) = (1. - beta1.powf(t), 1. - beta2.powf(t));
        let Moments { mean, square, .. } = &mut self.moments;

        let gradients = match self.config.max_grad_norm {
            Some(max) => {
                let excess = self.flat.grad_norm()?.f_div_scalar(max)?.f_clamp_min(1.)?;
                self.flat.gradients().f_div_out(&self.update, &excess)?
            }
            None => self.flat.gradients().shallow_clone(),
        };
        let _ = mean.f_lerp_(&gradients, 1. - beta1)?;
        let _ = square.f_lerp_(&gradients.f_mul_out(&self.update, &gradients)?, 1. - beta2)?;
        let mut below = square.f_sqrt_out(&self.update)?;
        let _ = below.f_mul_scalar_(correct1 / correct2.sqrt())?.f_add_scalar_(self.config.eps * correct1)?;
        let _ = mean.f_div_out(&self.update, &below)?;
        Ok(())
    }
}

impl Optimizer for Lamb {
    fn flat(&self) -> &Flat {
        &self.flat
    }

    fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        self.adam()?;
        for (group, range) in self.flat.groups() {
            let (lr, weight_decay) = (learning_rate * group.lr_scale, weight_decay * group.decay_scale);
            let part = |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
            let (parameters, mut update) = (part(self.flat.parameters())?, part(&self.update)?);
            if weight_decay != 0. {
                let _ = update.f_add_(&parameters.f_mul_scalar(weight_decay)?)?;
                let weights = norms(self.flat.segments_in(range), self.flat.parameters())?;
                let updates = norms(self.flat.segments_in(range), &self.update)?;
                let idle = weights.f_eq(0.)?.f_logical_or(&updates.f_eq(0.)?)?;
                let ratios = weights.f_div(&updates)?.f_masked_fill(&idle, 1.)?.f_unbind(0)?;
                for (segment, ratio) in self.flat.segments_in(range).zip(&ratios) {
                    let _ = segment.of(&self.update)?.f_mul_(ratio)?;
                }
            }
            descend(&parameters, &update, lr)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.moments.state(&self.flat)
    }
}
