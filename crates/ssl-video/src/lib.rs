//! Self-supervised learning on video: readers, augmentations, 3-D backbones, methods.

pub mod augment;
pub mod backbones;
mod clean;
mod clip;
mod place;
mod random;
mod source;

pub use augment::{Augment, Augmenter, View};
pub use clean::Clean;
pub use clip::{ClipArray, LabelSet, VideoDataset};
pub use place::Place;
pub use source::{ClipSource, Epoch, Sampling};
