//! Self-supervised learning on images: readers, augmentations, backbones, methods.

pub mod augment;
pub mod backbones;
mod clean;
mod decoder;
mod image;
mod lab;
pub mod methods;
mod picture;
mod pretext;
pub mod readers;
mod recipe;
mod source;
mod subset;
mod tiles;

pub use augment::{Augment, Augmenter, BatchAugmenter, Scratch};
pub use clean::Clean;
pub use image::{Image, ImageDataset};
pub use picture::grid_png;
pub use readers::ImageArray;
pub use recipe::{AugmentOn, Recipe};
pub use source::ViewSource;
pub use subset::Subset;
