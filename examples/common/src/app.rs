//! What the `main` of every example does alike.
use crate::{CommonFlags, INTERRUPTED, Machine, Outcome, RunConfig, RunDir, one_line, set_threads};
use anyhow::{Context, Result, ensure};
use clap::{Arg, Command};
use serde_json::Value;
use ssl_core::registry::Info;
use std::io::Write;
use std::process::ExitCode;

/// Ends the program: an error is said in one line.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

/// Writes to standard output; unlike `print!`, a reader that hangs up or a full disk is an error.
///
/// # Errors
/// What the system says.
pub fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Prints the methods, one on a line.
///
/// # Errors
/// As [`print()`].
pub fn list(methods: impl Iterator<Item = Info>) -> Result<ExitCode> {
    let mut table = format!("{:<12} {:<12} {:<5} {:<58} PAPER\n", "METHOD", "KIND", "YEAR", "WHAT IT DOES");
    for info in methods {
        let Info { name, kind, year, summary, url, .. } = info;
        table += &format!("{name:<12} {kind:<12} {year:<5} {summary:<58} {url}\n");
    }
    print(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// The subcommand of a method, with the flags of every example, and the given ones after them.
pub fn method_command(info: &Info, flags: impl IntoIterator<Item = Arg>) -> Command {
    // The flags bring a description of their own, which is not the method's.
    CommonFlags::augmented(Command::new(info.name))
        .about(format!("{} ({}, {})", info.summary, info.paper, info.year))
        .after_help(info.url)
        .args(flags)
        // As `cargo xtask run` reads them, the last one counts.
        .args_override_self(true)
}

/// Where a run starts from: its directory if it goes on, what that was configured as, and the machine.
#[derive(Debug)]
pub struct Start {
    /// The directory of the run that goes on.
    pub resumed: Option<RunDir>,
    /// What it was configured as.
    pub saved: Option<RunConfig>,
    /// The machine.
    pub machine: Machine,
}

impl Start {
    /// Finds the run that `--resume` names, and the machine; a run goes on where it was unless told otherwise.
    ///
    /// # Errors
    /// When there is no such run or no such device.
    pub fn new(modality: &str, method: &str, flags: &mut CommonFlags) -> Result<Self> {
        let name = format!("{modality}-{method}");
        let resumed = flags.resume.as_deref().map(|which| RunDir::resume(which, &name)).transpose()?;
        let saved = resumed.as_ref().map(RunDir::config).transpose()?;
        if let Some(saved) = saved.as_ref().filter(|_| flags.device == "auto" && !flags.eval_only) {
            flags.device.clone_from(&saved.device);
        }
        let machine = Machine::prepare(flags)?;
        Ok(Start { resumed, saved, machine })
    }

    /// The configuration: that of the run to resume, of `--config`, or the recipe's, with the common flags over it.
    ///
    /// # Errors
    /// When it is of another method, or the recipe is faulty.
    pub fn configure(
        &self,
        (modality, method): (&str, &str),
        default_data: &str,
        flags: &CommonFlags,
        recipe: impl Fn(&str) -> Result<Value>,
    ) -> Result<RunConfig> {
        let base = match (&self.saved, &flags.config) {
            (Some(saved), _) => Some(saved.clone()),
            (None, Some(file)) => Some(RunConfig::read(file)?),
            (None, None) => None,
        };
        let data = flags
            .data
            .clone()
            .or(base.as_ref().map(|b| b.data.clone()))
            .unwrap_or_else(|| default_data.to_string());
        let mut config = match base {
            Some(base) => RunConfig { data, ..base },
            None => RunConfig {
                version: String::new(),
                modality: modality.into(),
                method: method.into(),
                recipe: recipe(&data)?,
                data,
                limit: None,
                seed: 0,
                device: String::new(),
                precision: self.machine.precision,
                threads: 0,
                init: None,
                eval_data: None,
                groups: None,
            },
        };
        ensure!(
            config.method == method && config.modality == modality,
            "the configuration is of {0} {1}, not of {modality} {method}: run {0} {1}",
            config.modality,
            config.method,
        );
        let (precision, threads) = (config.precision, config.threads);
        config.apply(flags, &self.machine);
        if self.saved.is_some() {
            // What is not asked for stays as the run had it.
            if flags.precision == "auto" {
                config.precision = precision;
            }
            if flags.threads.is_none() && threads > 0 {
                config.threads = threads;
                set_threads(threads);
            }
        }
        Ok(config)
    }

    /// The machine as the run is configured, which must be that of the run that goes on; and its directory.
    ///
    /// # Errors
    /// When the configuration is another run's, or the directory cannot be made.
    pub fn open(self, config: &RunConfig, flags: &CommonFlags) -> Result<(Machine, RunDir)> {
        if let Some(saved) = self.saved.as_ref().filter(|_| !flags.eval_only) {
            config.same_run(saved)?;
        }
        let dir = match self.resumed {
            Some(dir) => dir,
            None => {
                let name = format!("{}-{}", config.modality, config.method);
                let dir = RunDir::create(flags.out.as_deref(), &name)?;
                dir.write_json("config.json", &serde_json::to_value(config)?)?;
                dir
            }
        };
        Ok((self.machine.configured(config), dir))
    }
}

/// Prints the summary of a run, or how to go on with it.
///
/// # Errors
/// As [`print()`].
pub fn end(outcome: &Outcome, config: &RunConfig, dir: &RunDir) -> Result<ExitCode> {
    match outcome {
        Outcome::Finished(summary) => {
            print(&format!("{summary}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { next_step } => {
            let (modality, method, dir) = (&config.modality, &config.method, dir.path().display());
            eprintln!(
                "stopped before step {next_step}; go on with: cargo xtask run {modality} {method} --resume {dir}"
            );
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}
