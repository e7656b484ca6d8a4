//! Self-supervised learning without a modality: methods, training, losses, optimizers, schedules,
//! checkpoints, evaluation.
//!
//! A method implements [`Method`]; [`Trainer::fit`] is the one loop; [`eval`] is the one protocol.

pub mod batch;
pub mod bias;
pub mod check;
pub mod checkpoint;
mod clusters;
pub mod config;
pub mod contract;
pub mod ema;
pub mod error;
pub mod eval;
pub mod explain;
pub mod hooks;
pub mod loader;
pub mod loss;
pub mod method;
pub mod nn;
pub mod objectives;
pub mod optim;
pub mod precision;
mod queue;
pub mod record;
pub mod registry;
pub mod report;
pub mod rng;
pub mod schedule;
pub mod tensor;
pub mod trainer;

pub use batch::{Batch, Pair, Views};
pub use clusters::Clusters;
pub use config::{Decline, TrainConfig};
pub use contract::check_method;
pub use ema::{Ema, Statistics};
pub use error::{Error, Result};
pub use loader::{Flow, Loader, Source};
pub use method::{Method, Metrics, Output, Step, encoder_in, named_tensors};
pub use nn::Mode;
pub use precision::Precision;
pub use queue::Queue;
pub use rng::{Rng, mix, permuted, rng};
pub use schedule::Schedule;
pub use tensor::{dims2, dims3, dims4, frozen, no_grad};
pub use trainer::{Hook, Moment, Trainer};
