//! Self-supervised learning on images: readers, augmentations, backbones, methods.

pub mod augment;
pub mod backbones;
mod clean;
mod crops;
mod decoder;
pub mod explain;
mod heads;
mod hog;
mod image;
mod lab;
mod masked;
pub mod methods;
mod picture;
mod planted;
mod pretext;
mod projected;
pub mod readers;
mod recipe;
mod siamese;
mod source;
mod subset;
mod tiles;

pub use augment::{Augment, Augmenter, BatchAugmenter, Scratch};
pub use clean::Clean;
pub use image::{Image, ImageDataset};
pub use picture::{grid_png, in_colour, shaded};
pub use planted::{Planted, Planting};
pub use readers::ImageArray;
pub use recipe::{AugmentOn, Balancing, Recipe};
pub use source::ViewSource;
pub use subset::Subset;
