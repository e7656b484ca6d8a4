//! Self-supervised learning on sound: readers, front ends, augmentations, encoders, methods.

pub mod abx;
pub mod augment;
mod clean;
mod clip;
pub mod explain;
pub mod frontend;
pub mod interop;
pub mod level;
pub mod methods;
pub mod models;
pub mod notes;
mod random;
pub mod readers;
mod recipe;
mod resample;
mod sets;
mod source;

pub use augment::{Augment, Augmenter, SpecMask};
pub use clean::Clean;
pub use clip::{AudioDataset, ClipArray};
pub use level::Level;
pub use recipe::Recipe;
pub use resample::Resampler;
pub use sets::{Joined, Part};
pub use source::{Epoch, Place, Sampling, WindowSource};
