//! Random views of images: crop, flip, rotation, color jitter, grayscale, blur, solarize, normalization.
//!
//! [`Augment`] is the configuration; [`Augmenter`] applies it to one image on one thread, straight into a
//! channels-last block of a batch, and [`BatchAugmenter`] to a whole batch on a device. [`Params`] are the random
//! numbers of one view: they come from the generator that is passed and from nothing else, so views do not depend
//! on the number of threads, and but for rounding not on which of the two makes them.
//!
//! Source: the definitions of torchvision's transforms v2 on float images, against which each operation is
//! tested (`tests/fixtures/make_torchvision.py`).
//!
//! ```
//! use ssl_vision::{Augment, Augmenter, Image, Scratch};
//! let image = Image::new(28, 28, 1, vec![90; 28 * 28])?;
//! let augmenter = Augmenter::new(Augment::simclr(32, 0.5), 1)?;
//! let mut view = vec![0.0; augmenter.len()];
//! augmenter.apply(&image, &mut ssl_core::rng(0, &[]), &mut Scratch::default(), &mut view)?;
//! assert!(view.iter().all(|value| value.is_finite()));
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod batched;
mod blur;
mod color;
mod config;
mod params;
mod plan;
mod render;
mod resample;
mod rotate;

pub use batched::BatchAugmenter;
pub(crate) use batched::upload;
pub use config::{Augment, Interpolation};
pub(crate) use params::shuffle;
pub use params::{Adjust, Crop, Params};
pub use render::{Augmenter, Scratch};
pub(crate) use render::{check_crop, interleave, normalization};
pub(crate) use resample::{Resampler, Window};
