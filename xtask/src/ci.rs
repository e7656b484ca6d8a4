//! `cargo xtask ci`: every check, cheapest first.
use crate::workspace::{Workspace, succeed};
use crate::{setup, test, tidy};
use anyhow::{Context, Result};
use std::time::Instant;

/// Runs `cargo xtask ci`.
pub(crate) fn command(workspace: &Workspace) -> Result<()> {
    step("fmt", || succeed(workspace.cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", || tidy::command(workspace))?;
    step("setup", || setup::ensure(workspace))?;
    step("clippy", || {
        let mut clippy = workspace.cargo();
        succeed(clippy.args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    })?;
    step("doc", || {
        let mut doc = workspace.cargo();
        succeed(doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    step("test", || test::command(workspace, &test::Flags::default()))
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("==> {name}");
    let start = Instant::now();
    let outcome = check();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("==> {name}: {} in {seconds:.1} s", if outcome.is_ok() { "passed" } else { "FAILED" });
    outcome.with_context(|| format!("{name} failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named() {
        let error = step("clippy", || anyhow::bail!("3 warnings")).unwrap_err();
        assert_eq!(format!("{error:#}"), "clippy failed: 3 warnings");
    }
}
