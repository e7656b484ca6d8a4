//! How the teacher's outputs become what the student is to tell.
use super::{Centering, Config};
use ssl_core::loss::sinkhorn;
use ssl_core::{Batch, Result, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// The centers of the teacher's outputs for class tokens and for patches, `[K]` each.
#[derive(Debug)]
pub(super) struct Centers {
    pub(super) class: Tensor,
    pub(super) patch: Tensor,
    centering: Centering,
    rounds: u32,
    momentum: f64,
}

impl Centers {
    /// Makes both under `p`, with the official code's names.
    pub(super) fn new(p: &Path, config: &Config) -> Result<Self> {
        let center = |name| p.f_zeros_no_train(name, &[config.class.out_dim]);
        Ok(Centers {
            class: center("center")?,
            patch: center("center2")?,
            centering: config.centering,
            rounds: config.sinkhorn_rounds,
            momentum: config.class.center_momentum,
        })
    }

    /// Distributions from the teacher's outputs, `[R, K]`.
    pub(super) fn targets(&self, outputs: &Tensor, center: &Tensor, temperature: f64) -> Result<Tensor> {
        match self.centering {
            Centering::Sinkhorn if outputs.len() > 0 => sinkhorn(outputs, temperature, self.rounds),
            _ => Ok(outputs.f_sub(center)?.f_div_scalar(temperature)?.f_softmax(-1, Kind::Float)?),
        }
    }

    /// Moves a center towards the mean of outputs, if there are any and a center is what is asked for.
    pub(super) fn follow(&self, center: &Tensor, outputs: &Tensor) -> Result<()> {
        if self.centering == Centering::Mean && outputs.len() > 0 {
            let mean = outputs.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
            no_grad(|| center.shallow_clone().f_lerp_(&mean, 1. - self.momentum).map(drop))?;
        }
        Ok(())
    }
}
