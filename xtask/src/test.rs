//! `cargo xtask test`: the whole suite, doc-tests too.
use crate::setup;
use crate::workspace::{Workspace, succeed};
use anyhow::Result;
use clap::Args;
use std::ffi::OsString;

/// What `cargo xtask test` takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Passed on to `cargo test --workspace`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs `cargo xtask test`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    setup::ensure(workspace)?;
    succeed(workspace.cargo().args(["test", "--workspace"]).args(&flags.args))
}
