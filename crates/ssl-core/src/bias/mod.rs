//! What features know of groups that they were not to know, what follows from it, and what can be done: for features of
//! any origin.
//!
//! ```
//! use ssl_core::bias::Leace;
//! use ssl_core::eval::Features;
//! use tch::{Device, Kind, Tensor};
//! let groups: Vec<i64> = (0..40).map(|row| row % 2).collect();
//! let side = Tensor::from_slice(&groups).to_kind(Kind::Double).unsqueeze(1);
//! let x = Tensor::arange(160, (Kind::Double, Device::Cpu)).sin().view([40, 4]) + &side;
//! let eraser = Leace::fit(&Features::new(&x, groups)?)?;
//! let erased = eraser.erase(&x)?;
//! let covariance = (erased * (&side - 0.5)).mean_dim([0i64].as_slice(), false, Kind::Double);
//! assert!(covariance.abs().max().double_value(&[]) < 1e-9);
//! # Ok::<(), ssl_core::Error>(())
//! ```
/// The first number of each stream of random numbers: streams of different uses never coincide.
mod stream {
    pub(super) const PARTITIONS: u64 = 221;
    pub(super) const TURN: u64 = 222;
    pub(super) const MEMBER: u64 = 223;
}

mod balance;
mod groups;
mod leace;
mod leakage;
mod skew;
mod weat;

pub use balance::{Balance, Drawn};
pub use groups::{GroupAccuracy, Groups, group_accuracy, wilson};
pub use leace::Leace;
pub use leakage::{Leakage, LeakageOptions, from_label, leakage};
pub use skew::{Skew, group_shares, ranked_groups, skew};
pub use weat::{Weat, WeatOptions, weat};
