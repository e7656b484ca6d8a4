//! Self-supervised learning on video: readers, augmentations, 3-D backbones, methods.

pub mod augment;
pub mod backbones;
mod clean;
mod clip;
pub mod explain;
mod join;
pub mod methods;
mod moving;
mod order;
mod place;
mod random;
pub mod readers;
mod recipe;
mod segments;
mod source;
mod subset;
pub mod summary;
mod time;

pub use augment::{Augment, Augmenter, View};
pub use clean::Clean;
pub use clip::{ClipArray, LabelSet, VideoDataset};
pub use join::Joined;
pub use moving::{MovingImages, MovingOptions};
pub use place::Place;
pub use recipe::Recipe;
pub use segments::{Part, Segments};
pub use source::{ClipSource, Epoch, Sampling};
pub use subset::Subset;
