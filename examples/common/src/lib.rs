//! What the examples share: flags, devices, interrupts, run directories, the common evaluation, the summary line.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the examples talk to a person")]

mod app;
mod bias;
mod config;
mod corruption;
mod evaluation;
mod experiment;
mod explanation;
mod finetuning;
mod flags;
mod groups;
mod machine;
mod probes;
mod progress;
mod report;
mod run_dir;
mod summary;
#[cfg(feature = "testing")]
pub mod testing;

pub use app::{Start, end, exit, list, method_command, print};
pub use config::RunConfig;
pub use corruption::{SEVERITIES, events, noise_like, strength_of};
pub use evaluation::{Evaluation, Examples, Floors, Protocol, calibrate, embed, evaluate_all};
pub use experiment::{DynMethod, Experiment, Outcome, Parts, Show};
pub use explanation::{Explain, Explained, Explanations, cascade};
pub use finetuning::{LabelledSource, Percents};
pub use flags::{CommonFlags, method_flags, read_method_flags};
pub use groups::{GroupFile, Grouped};
pub use machine::{Machine, locate_all, locate_data, stop_flag};
pub use probes::{Probes, Task};
pub use progress::ByteBar;
pub use run_dir::RunDir;
pub use ssl_torch::set_threads;

/// An error and its causes on one line; a cause that the message above it spells out is left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let first = text.lines().next().unwrap_or_default();
        let first = first.strip_prefix("Internal torch error: ").unwrap_or(first);
        if line.is_empty() {
            line.push_str(first);
        } else if !line.contains(first) {
            line.push_str(": ");
            line.push_str(first);
        }
    }
    line
}

/// The exit status after Ctrl-C, by the shells' convention: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use ssl_core::Error;

    #[test]
    fn an_error_is_one_line_that_says_nothing_twice() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::from(Error::io("a.gz", "read")(missing()));
        assert_eq!(one_line(&error.context("--data a")), "--data a: a.gz: cannot read: entity not found");
        let error = Err::<(), _>(missing()).context("b.json: cannot read").unwrap_err();
        assert_eq!(one_line(&error), "b.json: cannot read: entity not found");
        let torch = tch::TchError::Torch("shape '[3]' is invalid\nException raised from view".into());
        assert_eq!(one_line(&Error::from(torch).into()), "torch: shape '[3]' is invalid");
    }
}
