//! A long video in short: where its content changes, and which clips stand for the rest.
//!
//! ```
//! use ssl_video::summary::{Changes, Kernel, Reach, medoids};
//! use tch::{Kind, Tensor};
//! // Embeddings of 24 clips, of which the first 10 show one thing and the others another.
//! let x = Tensor::randn([24, 8], (Kind::Float, tch::Device::Cpu)) * 0.1;
//! let _ = x.narrow(0, 10, 14).narrow(1, 0, 1).fill_(3.0);
//! let kernel = Kernel::new(&x)?;
//! let changes = Changes::new(&kernel, Reach { clips: 4, lag: 1 })?;
//! assert_eq!(changes.places, [10]);
//! assert!(medoids(&kernel, 0..10, 1)?[0] < 10);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod change;
mod kernel;
mod medoids;

pub use change::{Changes, Reach};
pub use kernel::{Kernel, directions};
pub use medoids::medoids;
