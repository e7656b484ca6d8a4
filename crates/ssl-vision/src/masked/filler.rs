//! An encoder that sees a token in the place of what is hidden, and a layer that tells what that is.
use super::Mask;
use crate::backbones::{Backbone, Encoder};
use ssl_core::nn::{Linear, Module, trunc_normal};
use ssl_core::{Mode, Result};
use std::rc::Rc;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// An encoder whose hidden patches are a learned token, and a linear layer over its outputs.
#[derive(Debug)]
pub(crate) struct Filler {
    pub(crate) encoder: Rc<Encoder>,
    token: Tensor,
    head: Linear,
    method: &'static str,
}

impl Filler {
    /// Makes the token under `p`, for `method`.
    pub(crate) fn new(p: &Path, method: &'static str, encoder: Rc<Encoder>, head: Linear) -> Result<Self> {
        let token = p.f_zeros("mask_token", &[1, 1, encoder.dim()])?;
        trunc_normal(&token, 0.02)?;
        Ok(Filler { encoder, token, head, method })
    }

    /// What the layer tells of the hidden patches, in float32. `[M, P]`.
    pub(crate) fn predict(&self, x: &Tensor, mask: &Mask, mode: Mode) -> Result<Tensor> {
        let tokens = self.encoder.vit(self.method)?.masked_tokens(x, &mask.hidden, &self.token, mode)?;
        let hidden = patches_of(&tokens)?.f_index_select(0, &mask.index)?;
        Ok(self.head.forward(&hidden, mode)?.f_to_kind(Kind::Float)?)
    }
}

/// The patches' tokens of all images, one behind the other: of `[B, 1 + N, D]`, `[B * N, D]`.
pub(crate) fn patches_of(tokens: &Tensor) -> Result<Tensor> {
    let patches = tokens.size().get(1).copied().unwrap_or(1) - 1;
    Ok(tokens.f_narrow(1, 1, patches)?.f_flatten(0, 1)?)
}
