//! The one protocol of evaluation, for features of any origin: a frozen encoder, raw inputs, another program; and
//! fine-tuning of a method's encoder ([`Finetune`]).
//!
//! ```
//! use ssl_core::eval::{Features, Options, evaluate};
//! use tch::{Device, Kind, Tensor};
//! let y: Vec<i64> = (0..40).map(|i| i % 2).collect();
//! let side = Tensor::from_slice(&y).to_kind(Kind::Float) * 6 - 3;
//! let noise = Tensor::arange(160, (Kind::Float, Device::Cpu)).sin().view([40, 4]);
//! let features = Features::new(&(noise + side.unsqueeze(1)), y)?;
//! let report = evaluate(&features, &features, &Options::default())?;
//! assert_eq!(report.knn, Some(1.0));
//! assert_eq!(report.linear, Some(1.0));
//! # Ok::<(), ssl_core::Error>(())
//! ```
/// The first number of each stream of random numbers: streams of different uses never coincide.
mod stream {
    pub(super) const HELD_BACK: u64 = 201;
    pub(super) const FEW_SHOT: u64 = 202;
    pub(super) const HEALTH: u64 = 203;
    pub(super) const LABELLED: u64 = 204;
    pub(super) const LABELLED_ORDER: u64 = 205;
    pub(super) const CLUSTERED: u64 = 206;
    pub(super) const RESAMPLED: u64 = 207;
    pub(super) const LEFT_OUT: u64 = 208;
}

mod anomaly;
mod assignment;
mod by_label;
mod classifier;
mod clustering;
mod confusion;
mod features;
mod few_shot;
mod finetune;
mod health;
mod interval;
mod knn;
mod lbfgs;
mod left_out;
mod linear;
mod logistic;
mod partitions;
mod protocol;
mod report;
mod views;

pub use anomaly::{auroc, neighbour_distance};
pub use by_label::{LabelRetrieval, label_retrieval};
pub use classifier::Classifier;
pub use clustering::{Clustering, ClusteringOptions, clustering};
pub use confusion::confusion;
pub use features::Features;
pub(crate) use features::host;
pub use few_shot::{FewShot, FewShotOptions, few_shot};
pub use finetune::{Finetune, FinetuneOptions, Finetuned, Labelled, Layer, draw_share};
pub use health::{
    CollapseAlarm, Health, alignment, feature_deviation, rankme, retrieval, spread, uniformity,
};
pub use interval::{IntervalOptions, interval};
pub use knn::{Knn, KnnOptions, knn, knn_votes, nearest};
pub use left_out::{LeftOut, LeftOutOptions, left_out};
pub use linear::{Linear, LinearOptions, LinearProbe, linear};
pub use protocol::{Options, evaluate, evaluate_with_probe, majority};
pub use report::{Report, Robustness};
pub use views::{ViewHealth, lidar};
