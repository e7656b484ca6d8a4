//! What a network looks at: the share of each part of its input in one number per example.
//!
//! The number is made of the embedding, so that no label is needed: [`along`] a direction, such as what sets an example
//! [`apart`] from others or the weights of a classifier ([`crate::eval::Classifier`]); or its [`similarity`] to another
//! embedding. [`integrated_gradients`] and [`occlusion`] explain any function of the input; [`grad_cam`] takes maps of a
//! network, [`attention_rollout`] weights of its attention. Whether an explanation is of the network at all is told by
//! [`randomization`].
//!
//! ```
//! use ssl_core::explain::{along, apart, integrated_gradients};
//! use tch::Tensor;
//! let x = Tensor::from_slice(&[3f32, 0., 1., 0., 4., 1.]).view([2, 3]);
//! let mean = x.f_mean_dim([0i64].as_slice(), true, None)?;
//! let directions = apart(&x, &mean)?;
//! let found = integrated_gradients(&|x| along(x, &directions), &x, &x.f_zeros_like()?, 8)?;
//! let values = Vec::<f32>::try_from(found.values.view([6]))?;
//! // Of the first example, what it has and the other has not; nothing is left unexplained.
//! assert!((values[0] - 1.8).abs() < 1e-6 && values[1] == 0.0 && values[2] == 0.0);
//! assert!(found.gap.abs().max().double_value(&[]) < 1e-6);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod attention;
mod cam;
mod gradients;
mod occlusion;
mod randomization;
mod replica;
mod scalar;

pub use attention::attention_rollout;
pub use cam::{enlarged, grad_cam};
pub use gradients::{Attributions, gradient, integrated_gradients};
pub use occlusion::{occlusion, spread, windows};
pub use randomization::{randomization, spearman};
pub use replica::replica;
pub use scalar::{Scalar, along, apart, relative, similarity};

#[cfg(test)]
mod tests;
