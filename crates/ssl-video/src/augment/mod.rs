//! Random views of clips: the same crop, flip, colors and blur for all frames, and what differs from frame to frame.
//!
//! [`Augment`] is the configuration and [`Augmenter`] what applies it to one clip on one thread. What is the same for
//! all frames is [`ssl_vision::Augment`], applied to each frame with the same numbers. [`Params`] are the random
//! numbers of one view: they come from the generator that is passed and from nothing else, so views do not depend on
//! the number of threads.
//!
//! ```
//! use ssl_video::augment::{Augment, Augmenter};
//! use ssl_vision::Scratch;
//! let augmenter = Augmenter::new(Augment::opn(16), [20, 24], 3)?;
//! // 4 frames of 20 x 24 pixels.
//! let clip = vec![90; 4 * 20 * 24 * 3];
//! let params = augmenter.draw(4, &mut ssl_core::rng(0, &[]));
//! let mut view = vec![0.0; 4 * augmenter.frame_len()];
//! augmenter.apply(&clip, &params, &mut Scratch::default(), &mut view)?;
//! assert!(view.iter().all(|value| value.is_finite()));
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod apply;
mod config;

pub use apply::{Augmenter, FrameParams, Params};
pub use config::{Augment, Channels, View};
