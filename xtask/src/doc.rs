//! `cargo xtask doc`: the generated tables, the API documentation, and the book.
use crate::workspace::{Workspace, succeed};
use crate::{setup, tables};
use anyhow::Result;
use clap::Args;
use std::process::{Command, Stdio};

/// What `cargo xtask doc` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// Only renew the generated tables.
    #[arg(long)]
    tables: bool,
    /// Open the API documentation in a browser.
    #[arg(long, conflicts_with = "tables")]
    open: bool,
}

/// Runs `cargo xtask doc`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    let changed = tables::write(workspace)?;
    if changed.is_empty() {
        eprintln!("the tables are fresh");
    }
    for file in changed {
        eprintln!("{file}: the table was renewed");
    }
    if flags.tables {
        return Ok(());
    }
    setup::ensure(workspace)?;
    let mut cargo = workspace.cargo();
    cargo.args(["doc", "--workspace", "--no-deps"]);
    if flags.open {
        cargo.arg("--open");
    }
    succeed(&mut cargo)?;
    book(workspace)
}

fn book(workspace: &Workspace) -> Result<()> {
    let installed =
        Command::new("mdbook").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_err() {
        eprintln!("mdbook is not on the PATH: the book in docs/ was not built (`cargo install mdbook`)");
        return Ok(());
    }
    succeed(Command::new("mdbook").arg("build").arg("docs").current_dir(workspace.root()))
}
