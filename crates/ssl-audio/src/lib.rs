//! Self-supervised learning on sound: readers, front ends, augmentations, encoders, methods.

mod clip;
pub mod frontend;
pub mod level;
pub mod readers;
mod resample;

pub use clip::{AudioDataset, ClipArray};
pub use resample::Resampler;
