//! What student and teacher of iBOT are.
use super::{Config, Heads};
use crate::backbones::{Backbone, Encoder};
use crate::crops::{by_size, split_like};
use crate::heads::{Head, LastLayer};
use crate::masked::{Mask, patches_of};
use ssl_core::{Mode, Result};
use std::rc::Rc;
use tch::Tensor;
use tch::nn::Path;

/// An encoder and its heads.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) encoder: Rc<Encoder>,
    class: Head,
    patch: Option<Head>,
}

/// What a network makes of crops.
pub(super) struct Outputs {
    /// Of the class token of each crop, `[B, K]`.
    pub(super) class: Vec<Tensor>,
    /// Of the hidden patches, `[M, K]`.
    pub(super) patches: Tensor,
    /// The class tokens of each large crop themselves, `[B, D]`.
    pub(super) tokens: Vec<Tensor>,
}

impl Network {
    pub(super) fn new(encoder: Rc<Encoder>, p: &Path, config: &Config) -> Result<Self> {
        let (dim, shape) = (encoder.dim(), config.class.head());
        let class = Head::new(&(p / "head"), dim, &shape)?;
        let patch = (config.head == Heads::Separate).then(|| Head::new(&(p / "patch_head"), dim, &shape));
        Ok(Network { encoder, class, patch: patch.transpose()? })
    }

    /// Outputs for large crops, of which the student, who has a `token`, does not see what is hidden, and for small ones.
    pub(super) fn outputs(
        &self,
        [large, small]: [&[Tensor]; 2],
        (mask, token): (&Mask, Option<&Tensor>),
        mode: Mode,
        last: LastLayer,
    ) -> Result<Outputs> {
        let vit = self.encoder.vit("iBOT")?;
        let together = Tensor::f_cat(large, 0)?;
        let tokens = match token {
            Some(token) => vit.masked_tokens(&together, &mask.hidden, token, mode)?,
            None => vit.tokens(&together, None, mode)?,
        };
        let mut class = vec![tokens.f_select(1, 0)?];
        if !small.is_empty() {
            class.push(by_size(small, |x| Ok(vit.tokens(x, None, mode)?.f_select(1, 0)?))?);
        }
        let all = Tensor::f_cat(&class, 0)?;
        let crops: Vec<_> = large.iter().chain(small).map(Tensor::shallow_clone).collect();
        let hidden = patches_of(&tokens)?.f_index_select(0, &mask.index)?;
        let patches = self.patch.as_ref().unwrap_or(&self.class).forward(&hidden, mode, last)?;
        let class_outputs = split_like(&self.class.forward(&all, mode, last)?, &crops)?;
        let tokens = split_like(&tokens.f_select(1, 0)?, large)?;
        Ok(Outputs { class: class_outputs, patches, tokens })
    }
}
