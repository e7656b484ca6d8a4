//! What the examples share: flags, devices, interrupts, run directories, the common evaluation, the summary line.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the examples talk to a person")]

mod config;
mod evaluation;
mod experiment;
mod flags;
mod machine;
mod run_dir;

pub use config::RunConfig;
pub use evaluation::{Evaluation, Examples, Floors, calibrate, embed, evaluate_all};
pub use experiment::{DynMethod, Experiment, Outcome, Parts};
pub use flags::{CommonFlags, method_flags, read_method_flags};
pub use machine::{Machine, locate_data, stop_flag};
pub use run_dir::RunDir;
pub use ssl_torch::set_threads;

/// The exit status after Ctrl-C, by the shells' convention: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;
