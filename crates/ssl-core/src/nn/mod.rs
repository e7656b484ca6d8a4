//! Layers whose forward pass returns a `Result`, with PyTorch's default initialization and variable names.

mod attention;
mod conv1d;
mod drop;
mod fused;
mod init;
mod layers;
mod looks;
mod mlp;
mod norm;
mod projector;
mod transformer;

pub use attention::{Attention, AttentionConfig, AttentionMask, QkvNames};
pub use conv1d::Conv1d;
pub use drop::{DropPath, Dropout};
pub use init::{trunc_normal, xavier_uniform};
pub use layers::{Conv2d, ConvOptions, Linear, kaiming_normal_fan_out, l2_normalize, uniform_fan_in};
pub use looks::attention_weights;
pub use mlp::{Activation, Mlp, gelu};
pub use norm::{BatchNorm, LayerNorm};
pub use projector::Projector;
pub use transformer::{Block, BlockConfig, Names, NormPlace, TIMM};

use tch::nn::Path;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training: batch statistics, dropout, running statistics updated.
    Train,
    /// Use: running statistics, no dropout, nothing changes.
    Eval,
    /// Running statistics are taken anew: mean and variance of all examples since `seen` was 0, however they are
    /// cut into batches; dropout is off.
    Calibrate {
        /// Examples seen before this batch.
        seen: u64,
    },
}

/// A layer or network of one input and one output.
pub trait Module: std::fmt::Debug + Send {
    /// The forward pass.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    fn forward(&self, x: &tch::Tensor, mode: Mode) -> crate::Result<tch::Tensor>;
}

/// The place under `p` that a path with dots names.
fn at<'a>(p: &Path<'a>, path: &str) -> Path<'a> {
    path.split('.').fold(p.clone(), |place, part| place / part)
}
