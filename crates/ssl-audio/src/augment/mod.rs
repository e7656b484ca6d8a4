//! Random views of sound: crop, speed, reverberation, mixture, noise, gain, polarity, level; masks on spectrograms.
//!
//! [`Augment`] is the configuration and [`Augmenter`] what applies it to one window on one thread. [`Params`] are the
//! random numbers of one view: they come from the generator that is passed and from nothing else, so views do not
//! depend on the number of threads. [`SpecMask`] hides parts of a batch of spectrograms, on their device.
//!
//! ```
//! use ssl_audio::augment::{Augment, Augmenter, Params};
//! let augmenter = Augmenter::new(Augment::wave(8_000), 16_000)?;
//! let params = Params::draw(augmenter.config(), &mut ssl_core::rng(0, &[]));
//! let window = vec![0.1; augmenter.needs(&params)];
//! let mut view = vec![0.0; 8_000];
//! augmenter.apply(&window, &params, None, &mut view)?;
//! assert!(view.iter().all(|sample| sample.is_finite()));
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod apply;
mod config;
mod fourier;
mod mask;
mod noise;
mod params;
mod reverb;

pub use apply::Augmenter;
pub use config::{Augment, Noise};
pub use mask::{Fill, SpecMask};
pub use params::{Params, Reverb};
