//! Set-up, data, runs, tests and checks of this workspace: `cargo xtask <command>`.
//!
//! One file per command. Nothing here depends on `tch`, so that it compiles in seconds on a machine that
//! has no libtorch yet.
// A command's answer belongs on the standard output and its progress on the standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bars;
mod bench;
mod ci;
mod compare;
mod data;
mod doc;
mod eval;
mod results;
mod run;
mod setup;
mod tables;
mod test;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use workspace::Workspace;

/// Set-up, data, runs, tests and checks of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Provides libtorch, and links it as `.libtorch` in this checkout.
    Setup(setup::Flags),
    /// Lists, fetches, verifies and removes data sets.
    Data(data::Flags),
    /// Pretrains and evaluates: sets up, fetches the data and builds when needed, then runs.
    Run(run::Flags),
    /// Evaluates finished runs by one protocol, and prints one table.
    Eval(eval::Flags),
    /// Compares summaries of runs: accuracy, time, memory, and which differences are noise.
    Compare(compare::Flags),
    /// Runs all tests, doc-tests too.
    Test(test::Flags),
    /// Runs every check, cheapest first, and stops at the first that fails.
    Ci,
    /// Checks the rules of this code base that neither the compiler nor clippy knows.
    Tidy,
    /// Runs the benchmarks.
    Bench(bench::Flags),
    /// Generates the tables and builds the documentation.
    Doc(doc::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let workspace = Workspace::here();
    let outcome = match cli.command {
        Command::Setup(flags) => setup::command(&workspace, &flags),
        Command::Data(flags) => data::command(&workspace, &flags),
        Command::Run(flags) => run::command(&workspace, &flags),
        Command::Eval(flags) => eval::command(&workspace, &flags),
        Command::Compare(flags) => compare::command(&flags),
        Command::Test(flags) => test::command(&workspace, &flags),
        Command::Ci => ci::command(&workspace),
        Command::Tidy => tidy::command(&workspace),
        Command::Bench(flags) => bench::command(&workspace, &flags),
        Command::Doc(flags) => doc::command(&workspace, &flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
