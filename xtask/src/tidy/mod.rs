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
    let violations = violations(workspace, &files);
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations", violations.len());
    }
    eprintln!("{} files are tidy", files.len());
    Ok(())
}

/// What every rule finds, in the order of the files.
fn violations(workspace: &Workspace, files: &[File]) -> Vec<Violation> {
    let of_one_file =
        [text::opening, text::hosts, text::places, text::marks, modality::named, losses::documented];
    let mut violations: Vec<Violation> =
        files.iter().flat_map(|file| of_one_file.iter().flat_map(move |check| check(file))).collect();
    violations.extend(methods::check(files));
    let stale = "the table is not what docs/results gives; `cargo xtask doc --tables` renews it";
    match tables::stale(workspace) {
        Ok(files) => violations.extend(files.into_iter().map(|file| Violation {
            path: file.into(),
            line: 1,
            message: stale.into(),
        })),
        Err(error) => {
            violations.push(Violation { path: tables::README.into(), line: 1, message: format!("{error:#}") })
        }
    }
    violations.sort();
    violations
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

    /// Writes a checkout with these files, and lists what tidy says of it.
    fn found(checkout: &[(&str, &str)]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir()?;
        let workspace = Workspace::at(dir.path());
        for (path, text) in checkout {
            let path = workspace.path(path);
            fs::create_dir_all(path.parent().context("no parent")?)?;
            fs::write(path, text)?;
        }
        Ok(violations(&workspace, &files(&workspace)?).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_rule_is_applied_to_a_checkout() -> Result<()> {
        let readme = (tables::README, "# A\n<!-- methods:begin -->\nold\n<!-- methods:end -->\n");
        let method = ("crates/ssl-vision/src/methods/simclr.rs", "//! A.\n");
        let loss = ("crates/ssl-core/src/loss.rs", "use ssl_vision::A;\npub fn nt_xent() {}\n");
        let notes = concat!("https://py", "pi.org\n/ro", "ot\nTO", "DO\n");
        let lines = found(&[readme, method, loss, ("docs/notes.md", notes)])?;
        let expected = [
            "README.md:1: the table is not what docs/results gives",
            "crates/ssl-core/src/loss.rs:1: does not open with `//!`",
            "crates/ssl-core/src/loss.rs:1: ssl-core knows no modality: \"ssl_vision\"",
            "crates/ssl-core/src/loss.rs:2: the loss `nt_xent` has no section `# Shapes`",
            "crates/ssl-core/src/loss.rs:2: the loss `nt_xent` has no section `# Source`",
            "crates/ssl-vision/src/methods/simclr.rs:1: its tests do not call check_method",
            "crates/ssl-vision/src/methods/simclr.rs:1: no recipe crates/ssl-vision/recipes/simclr.json",
            "docs/notes.md:1: names a registry's host",
            "docs/notes.md:2: names a folder of one machine",
            "docs/notes.md:3: leaves something for later",
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "expected {expected:?}, got {line:?}");
        }
        Ok(())
    }

    #[test]
    fn a_checkout_that_keeps_the_rules_is_left_alone() -> Result<()> {
        let table = "No results are committed yet.\n";
        let readme = format!("# A\n<!-- methods:begin -->\n{table}<!-- methods:end -->\n");
        assert_eq!(found(&[(tables::README, &readme), ("crates/a/src/lib.rs", "//! A.\n")])?, [""; 0]);
        Ok(())
    }
}
