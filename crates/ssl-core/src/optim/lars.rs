//! LARS: SGD with momentum in which each tensor's step is proportional to the tensor's norm.
//!
//! Source: You, Gitman, Ginsburg, 2017, algorithm 1: <https://arxiv.org/abs/1708.03888>, as lightly, timm and
//! solo-learn have it: the trust ratio scales the gradient before momentum, not the step after it.
use super::{Flat, Group, Optimizer, Segment, check_range, descend, norms};
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use tch::Tensor;

/// Two optimizers go by this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LarsConvention {
    /// What does not decay is not rescaled; the trust ratio is used as it is (lightly, timm, the SimCLR paper).
    #[default]
    SkipUndecayed,
    /// What has one dimension is neither rescaled nor decayed, all else is rescaled even without decay, and the
    /// trust ratio over the learning rate is cut at 1 (solo-learn with `clip_lr` and `exclude_bias_n_norm`).
    SkipOneDimensional,
}

/// The numbers of LARS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LarsConfig {
    /// Part of the last direction that is kept, from 0 to below 1.
    pub momentum: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// Norm of a step over norm of its tensor, at a learning rate of 1. solo-learn's recipes have 0.02.
    pub trust_coefficient: f64,
    /// Added to the denominator of the trust ratio.
    pub eps: f64,
    /// Which tensors are rescaled.
    pub convention: LarsConvention,
}

impl Default for LarsConfig {
    fn default() -> Self {
        let convention = LarsConvention::SkipUndecayed;
        LarsConfig { momentum: 0.9, nesterov: false, trust_coefficient: 1e-3, eps: 1e-8, convention }
    }
}

impl LarsConfig {
    /// solo-learn's numbers for CIFAR.
    pub fn solo() -> Self {
        LarsConfig {
            trust_coefficient: 0.02,
            convention: LarsConvention::SkipOneDimensional,
            ..LarsConfig::default()
        }
    }
}

/// LARS over a flat buffer.
#[derive(Debug)]
pub struct Lars {
    flat: Flat,
    config: LarsConfig,
    momentum: Tensor,
    // The rescaled gradients of one step; no state.
    scaled: Tensor,
}

impl Lars {
    /// An optimizer with a momentum of zeros.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(flat: Flat, config: LarsConfig) -> Result<Self> {
        check_range("momentum", config.momentum, 0., 1.)?;
        check_range("trust_coefficient", config.trust_coefficient, f64::MIN_POSITIVE, f64::MAX)?;
        check_range("eps", config.eps, 0., 1.)?;
        if config.nesterov && config.momentum == 0. {
            return Err(Error::config("nesterov", "expected a momentum above 0, got 0"));
        }
        let (momentum, scaled) = (flat.zeros()?, flat.zeros()?);
        Ok(Lars { flat, config, momentum, scaled })
    }

    fn adapts(&self, segment: &Segment, weight_decay: f64) -> bool {
        match self.config.convention {
            LarsConvention::SkipUndecayed => weight_decay != 0.,
            LarsConvention::SkipOneDimensional => segment.size.len() != 1,
        }
    }

    /// What each adapted tensor's decayed gradient is multiplied by. `[n]`
    fn ratios(&self, adapted: &[&Segment], lr: f64, weight_decay: f64) -> Result<Tensor> {
        let weights = norms(adapted.iter().copied(), self.flat.parameters())?;
        let gradients = norms(adapted.iter().copied(), self.flat.gradients())?;
        let below = weights.f_mul_scalar(weight_decay)?.f_add(&gradients)?.f_add_scalar(self.config.eps)?;
        let mut ratio = weights.f_div(&below)?.f_mul_scalar(self.config.trust_coefficient)?;
        if self.config.convention == LarsConvention::SkipOneDimensional {
            let _ = ratio.f_div_scalar_(lr)?.f_clamp_max_(1.)?;
        }
        // Where the libraries leave the gradient alone: a weight of zeros keeps it, a gradient of zeros stays zero
        // although its weight decays.
        let ratio = ratio.f_masked_fill(&weights.f_eq(0.)?, 1.)?;
        Ok(ratio.f_masked_fill(&gradients.f_eq(0.)?, 0.)?)
    }

    /// Writes a group's directions before momentum into `scaled`.
    fn scale(&self, group: &Group, range: &Range<i64>, (lr, weight_decay): (f64, f64)) -> Result<()> {
        let (lr, weight_decay) = (lr * group.lr_scale, weight_decay * group.decay_scale);
        let part = |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
        let (gradients, mut scaled) = (part(self.flat.gradients())?, part(&self.scaled)?);
        if weight_decay != 0. {
            let _ = part(self.flat.parameters())?.f_mul_scalar_out(&scaled, weight_decay)?;
            let _ = scaled.f_add_(&gradients)?;
        } else {
            scaled.f_copy_(&gradients)?;
        }
        let (adapted, plain): (Vec<_>, Vec<_>) =
            self.flat.segments_in(range).partition(|segment| self.adapts(segment, weight_decay));
        if weight_decay != 0. {
            for segment in plain {
                segment.of(&self.scaled)?.f_copy_(&segment.of(self.flat.gradients())?)?;
            }
        }
        if adapted.is_empty() {
            return Ok(());
        }
        let ratios = self.ratios(&adapted, lr, weight_decay)?.f_unbind(0)?;
        for (segment, ratio) in adapted.into_iter().zip(&ratios) {
            let _ = segment.of(&self.scaled)?.f_mul_(ratio)?;
        }
        Ok(())
    }
}

impl Optimizer for Lars {
    fn flat(&self) -> &Flat {
        &self.flat
    }

    fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (group, range) in self.flat.groups() {
            self.scale(group, range, (learning_rate, weight_decay))?;
            let part = |buffer: &Tensor| buffer.f_narrow(0, range.start, range.end - range.start);
            let (parameters, scaled) = (part(self.flat.parameters())?, part(&self.scaled)?);
            let (lr, LarsConfig { momentum, nesterov, .. }) = (learning_rate * group.lr_scale, self.config);
            if momentum == 0. {
                descend(&parameters, &scaled, lr)?;
            } else {
                let with = ssl_torch::Sgd { lr, momentum, weight_decay: 0., nesterov, first: false };
                ssl_torch::fused_sgd(&parameters, &scaled, &part(&self.momentum)?, with)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.flat.named("momentum", &self.momentum)
    }
}
