//! The examples as processes, for their tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by a panic"
)]
use std::process::Command;

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    /// None when a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Lets a process run to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Ended {
    /// Standard output of a process that succeeded.
    #[track_caller]
    pub fn succeeds(&self) -> &str {
        assert_eq!(self.status, Some(0), "{}", self.err);
        assert!(!self.err.contains("error: "), "{}", self.err);
        &self.out
    }

    /// The one line that says what went wrong.
    #[track_caller]
    pub fn fails(&self, status: i32) -> &str {
        assert_eq!(self.status, Some(status), "{}", self.err);
        for word in ["panicked", "tack backtrace", "RUST_BACKTRACE", "frame #"] {
            assert!(!self.err.contains(word), "{word}: {}", self.err);
        }
        // Behind an error of usage comes how it is used.
        if status != 2 {
            assert!(self.err.lines().last().is_some_and(|line| line.starts_with("error: ")), "{}", self.err);
        }
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{}", self.err);
        assert_eq!(self.out, "", "an error leaves standard output alone");
        errors[0]
    }
}
