//! `cargo xtask tidy`: the rules of this code base that neither the compiler nor clippy knows.
//!
//! Each violation is one line, `path:line: message`. A long file is a warning; everything else fails.
mod losses;
mod methods;
mod modality;
mod source;
mod text;

use crate::tables;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use source::File;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A rule that is broken, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl Violation {
    fn new(file: &File, line: usize, message: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Runs `cargo xtask tidy`.
pub(crate) fn command(workspace: &Workspace) -> Result<()> {
    let files = files(workspace)?;
    for warning in files.iter().filter_map(text::length) {
        eprintln!("warning: {warning}");
    }
    let mut violations: Vec<Violation> = files.iter().flat_map(of_one_file).collect();
    violations.extend(methods::check(&files));
    if let Err(error) = tables::check(workspace) {
        violations.push(Violation { path: tables::README.into(), line: 1, message: format!("{error:#}") });
    }
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations", violations.len());
    }
    eprintln!("{} files are tidy", files.len());
    Ok(())
}

fn of_one_file(file: &File) -> Vec<Violation> {
    [text::opening, text::hosts, text::places, text::marks, modality::named, losses::documented]
        .iter()
        .flat_map(|check| check(file))
        .collect()
}

/// All text files that git tracks or would track; without git, all but those of the folders it ignores.
fn files(workspace: &Workspace) -> Result<Vec<File>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace.root())
        .output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split('\0').map(String::from).collect()
        }
        _ => {
            let mut paths = Vec::new();
            walk(workspace.root(), "", &mut paths)?;
            paths
        }
    };
    paths.sort();
    paths.dedup();
    let read = |path: &String| {
        let place = workspace.path(path);
        let regular = fs::symlink_metadata(&place).is_ok_and(|data| data.is_file());
        let text =
            regular.then(|| fs::read(&place).ok()).flatten().and_then(|b| String::from_utf8(b).ok())?;
        Some(File { path: path.clone(), text })
    };
    Ok(paths.iter().filter_map(read).collect())
}

const SKIPPED: [&str; 6] = [".git", ".libtorch", "target", "runs", "datasets/data", "docs/book"];

fn walk(root: &Path, below: &str, paths: &mut Vec<String>) -> Result<()> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(root, &path, paths)?,
            Ok(kind) if kind.is_file() => paths.push(path),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_git_what_is_built_and_fetched_is_skipped() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for path in ["crates/a/src/lib.rs", "target/debug/a.rs", "datasets/data/b.json", "runs/c.json"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().context("no parent")?)?;
            fs::write(path, "")?;
        }
        let mut paths = Vec::new();
        walk(dir.path(), "", &mut paths)?;
        assert_eq!(paths, ["crates/a/src/lib.rs"]);
        Ok(())
    }

    #[test]
    fn one_file_may_break_several_rules() {
        let file = File::new("crates/ssl-core/src/loss.rs", "mod ssl_vision;\npub fn nt_xent() {}\n");
        let lines: Vec<String> = of_one_file(&file).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("crates/ssl-core/src/loss.rs:")), "{lines:?}");
    }
}
