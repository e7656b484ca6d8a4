//! `cargo xtask bench`: the benchmarks of all packages, after the facts of the machine they run on.
use crate::setup;
use crate::workspace::{Workspace, succeed};
use anyhow::{Result, bail};
use clap::Args;
use std::fs;
use std::thread::available_parallelism;

/// What `cargo xtask bench` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// Run only benchmarks whose name contains this.
    filter: Option<String>,
}

/// Runs `cargo xtask bench`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    if !has_benches(workspace) {
        bail!("no package has a benches folder");
    }
    setup::ensure(workspace)?;
    machine();
    let mut cargo = workspace.cargo();
    cargo.args(["bench", "--workspace", "--bench", "*"]);
    if let Some(filter) = &flags.filter {
        cargo.arg("--").arg(filter);
    }
    succeed(&mut cargo)
}

fn has_benches(workspace: &Workspace) -> bool {
    ["crates", "examples"].iter().any(|folder| {
        let Ok(packages) = fs::read_dir(workspace.path(folder)) else { return false };
        packages.flatten().any(|package| package.path().join("benches").is_dir())
    })
}

fn machine() {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    println!("cpu: {}", field(&cpuinfo, "model name").unwrap_or("unknown"));
    let flags: Vec<&str> = field(&cpuinfo, "flags").unwrap_or_default().split_whitespace().collect();
    let matters = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];
    let has: Vec<&str> = matters.into_iter().filter(|flag| flags.contains(flag)).collect();
    println!("instructions: {}", has.join(" "));
    println!("cores: {}", available_parallelism().map_or(0, usize::from));
    println!("memory: {}", field(&read("/proc/meminfo"), "MemTotal").unwrap_or("unknown"));
    let load = read("/proc/loadavg");
    println!("load over 1, 5, 15 minutes: {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
    let busy = load.split_whitespace().next().and_then(|one| one.parse::<f64>().ok());
    if busy.is_some_and(|load| load > 0.5) {
        eprintln!("warning: the machine is busy; the figures will be too low");
    }
}

/// The value after "name :" in the first line that has it.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_by_their_name() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel\t: 3\nprocessor\t: 1\n";
        assert_eq!(field(text, "model name"), Some("A CPU @ 2 GHz"));
        assert_eq!(field(text, "model"), Some("3"));
        assert_eq!(field(text, "flags"), None);
    }
}
