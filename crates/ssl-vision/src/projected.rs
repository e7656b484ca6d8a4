//! An encoder with the projector that methods train it through.
use crate::backbones::{Backbone, Encoder};
use crate::crops::{by_size, split_like};
use ssl_core::nn::{Module, Projector, l2_normalize};
use ssl_core::{Mode, Result};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// An encoder and a projector that is thrown away after training.
#[derive(Debug)]
pub(crate) struct Projected {
    pub(crate) encoder: Rc<Encoder>,
    projector: Projector,
}

impl Projected {
    /// `projector` makes the projector of features of the width that it is given.
    pub(crate) fn new(
        encoder: Rc<Encoder>,
        projector: impl FnOnce(i64) -> Result<Projector>,
    ) -> Result<Self> {
        Ok(Projected { projector: projector(encoder.dim())?, encoder })
    }

    /// Projections `[B, D]` of one view, in float32.
    pub(crate) fn project(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.projector.forward(&self.encoder.forward(x, mode)?, mode)?.f_to_kind(Kind::Float)?)
    }

    /// Projections `[B, D]` of each crop, in float32. Crops of one size pass the encoder together, all pass the projector
    /// together, so that batch statistics are shared.
    pub(crate) fn project_crops(&self, crops: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        let features = by_size(crops, |x| self.encoder.forward(x, mode))?;
        split_like(&self.projector.forward(&features, mode)?, crops)
    }

    /// [`Projected::project_crops`], scaled to unit length.
    pub(crate) fn unit_crops(&self, crops: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        self.project_crops(crops, mode)?.iter().map(l2_normalize).collect()
    }
}
