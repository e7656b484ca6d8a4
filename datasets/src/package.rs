//! Packages, by the clients of their registries: `apt-get`, `pip`, `npm`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::catalog::{Packing, Source};
use crate::error::{Error, Result};
use crate::progress::{Action, Progress};
use crate::unpack::{Limits, Unpack, Unpacked};

/// What fetches a source distribution without running it.
const SDIST: &str = include_str!("sdist.py");

/// How often the size of a growing download is looked at.
const TICK: Duration = Duration::from_millis(100);

/// What a package may unpack to: the artifacts in it are far smaller.
const LIMITS: Limits = Limits { bytes: 8 << 30, entries: 1_000_000 };

/// A package on its way from a registry to a folder of files.
pub(crate) struct Package<'a> {
    /// Where it comes from; not a [`Source::Url`].
    pub(crate) source: &'a Source,
    /// An empty folder of its own.
    pub(crate) scratch: &'a Path,
    pub(crate) progress: &'a dyn Progress,
}

impl Package<'_> {
    /// Downloads the package and unpacks those of its files whose paths `select` chooses. Returns the folder.
    pub(crate) fn fetch(&self, select: &dyn Fn(&str) -> bool) -> Result<(PathBuf, Vec<Unpacked>)> {
        let item = self.source.to_string();
        self.progress.begin(Action::Download, &item, None);
        let downloaded = self.download(&item);
        self.progress.finish(Action::Download, &item);
        let archive = downloaded?;

        let target = self.scratch.join("tree");
        fs::create_dir_all(&target).map_err(|e| Error::io(&target, "create", e))?;
        let unpack = |packing| Unpack {
            archive: &archive,
            packing,
            target: &target,
            limits: LIMITS,
            select,
            advance: &|_| {},
        };
        self.progress.begin(Action::Unpack, &item, None);
        let unpacked = match archive.extension().and_then(|e| e.to_str()) {
            Some("deb") => unpack(Packing::Tar).run_deb(),
            Some("whl" | "zip") => unpack(Packing::Zip).run(),
            _ => unpack(Packing::TarGzip).run(),
        };
        self.progress.finish(Action::Unpack, &item);
        Ok((target.clone(), unpacked?))
    }

    /// Downloads the package's file.
    fn download(&self, item: &str) -> Result<PathBuf> {
        let folder = self.scratch.join("package");
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
        let extensions: &[&str] = match self.source {
            Source::Url { base } => {
                return Err(Error::Command { program: base.clone(), message: "not a package".to_owned() });
            }
            Source::Debian { package, .. } => {
                let options = ["-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"];
                let download = [&options[..], &["download", package]].concat();
                let first = self.run("apt-get", &download, &folder, item);
                if let Err(Error::Command { .. }) = &first
                    && is_installed("apt-get")
                {
                    // A fresh machine has no lists. Without the right to update them this fails at once, and the
                    // second download says why.
                    let update = [&options[..], &["update"]].concat();
                    if self.run("apt-get", &update, &folder, item).is_err() {
                        first?;
                    }
                    self.run("apt-get", &download, &folder, item)?;
                } else {
                    first?;
                }
                &["deb"]
            }
            Source::Pypi { requirement, .. } => {
                // Wheels only: pip runs the set-up program of a source distribution even to download it.
                let arguments =
                    ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"];
                let arguments =
                    [&arguments[..], &["--only-binary", ":all:", "--dest", ".", requirement]].concat();
                if is_installed("pip") {
                    self.run("pip", &arguments, &folder, item)?;
                } else {
                    self.run("python3", &[&["-m", "pip"], &arguments[..]].concat(), &folder, item)?;
                }
                &["whl"]
            }
            Source::PypiSource { requirement, .. } => {
                self.run("python3", &sdist(&[requirement]), &folder, item)?;
                &["gz", "zip"]
            }
            Source::Npm { package, .. } => {
                self.run("npm", &["pack", "--loglevel=error", "--ignore-scripts", package], &folder, item)?;
                &["tgz"]
            }
        };
        let found = fs::read_dir(&folder)
            .map_err(|e| Error::io(&folder, "read", e))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .find(|path| path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)));
        found.ok_or_else(|| Error::Command {
            program: item.to_owned(),
            message: format!("the client succeeded but left no .{} file", extensions.join(" or .")),
        })
    }

    /// Runs a client quietly in `folder`, and tells the size of what grows there.
    fn run(&self, program: &str, arguments: &[&str], folder: &Path, item: &str) -> Result<()> {
        let log_path = self.scratch.join("log");
        let log = File::create(&log_path).map_err(|e| Error::io(&log_path, "create", e))?;
        let log_too = log.try_clone().map_err(|e| Error::io(&log_path, "create", e))?;
        let failed = |message: String| Error::Command { program: program.to_owned(), message };
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => failed("not installed".to_owned()),
                _ => failed(e.to_string()),
            })?;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {
                    self.progress.advance(Action::Download, item, folder_bytes(folder));
                    std::thread::sleep(TICK);
                }
                Err(e) => return Err(failed(e.to_string())),
            }
        };
        if status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&fs::read(&log_path).unwrap_or_default()).into_owned();
        if log.contains("No space left on device") {
            return Err(Error::DiskFull { path: folder.to_path_buf() });
        }
        Err(failed(complaint(&log).unwrap_or_else(|| status.to_string())))
    }
}

/// The arguments of Python that fetch a source distribution; `request` is pip's own options and the requirement.
fn sdist<'a>(request: &[&'a str]) -> Vec<&'a str> {
    [&["-c", SDIST, "--quiet", "--no-input", "--no-deps", "--no-binary", ":all:"], request].concat()
}

/// Picks the line of a client's output that says what went wrong: the last that names an error, else the last.
fn complaint(log: &str) -> Option<String> {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| line.starts_with("E: ") || line.to_lowercase().contains("error");
    let line = lines().rfind(is_error).or_else(|| lines().next_back())?;
    Some(line.strip_prefix("E: ").unwrap_or(line).to_owned())
}

fn is_installed(program: &str) -> bool {
    let command = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}

/// The bytes of the files in a folder and the folders directly in it.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().filter_map(std::result::Result::ok);
    entries(folder)
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_file() => m.len(),
            Ok(m) if m.is_dir() => {
                entries(&entry.path()).filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
            }
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_the_line_that_names_the_error() {
        let log = "Reading package lists...\nE: Unable to locate package nothing\n";
        assert_eq!(complaint(log).unwrap(), "Unable to locate package nothing");
        assert_eq!(complaint("npm error 404 Not Found\n\nsee the log\n").unwrap(), "npm error 404 Not Found");
        assert_eq!(complaint("one\ntwo\n\n").unwrap(), "two");
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn a_source_distribution_is_fetched_as_it_is_and_not_run() {
        if !is_installed("python3") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (index, target) = (folder.path().join("index"), folder.path().join("target"));
        for made in [&index, &target] {
            fs::create_dir(made).unwrap();
        }
        let trap = format!("open({:?}, 'w')\n", folder.path().join("was-run"));
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), Default::default()));
        for (name, content) in [("x-1.0/setup.py", trap.as_str()), ("x-1.0/data/a.txt", "words")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        fs::write(index.join("x-1.0.tar.gz"), &bytes).unwrap();
        let source = Source::PypiSource { requirement: "x==1.0".to_owned(), prefix: String::new() };
        let package =
            Package { source: &source, scratch: folder.path(), progress: &crate::progress::NoProgress };
        let links = index.to_str().unwrap();
        let fetch = |wanted| {
            let request = ["--no-index", "--find-links", links, wanted];
            package.run("python3", &sdist(&request), &target, "x")
        };
        fetch("x==1.0").unwrap();
        assert_eq!(fs::read(target.join("x-1.0.tar.gz")).unwrap(), bytes);
        assert!(!folder.path().join("was-run").exists());
        let message = fetch("x==2.0").unwrap_err().to_string();
        assert!(message.contains("the index has no source distribution x==2.0"), "{message}");
    }

    #[test]
    fn a_client_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Npm { package: "x@1".to_owned(), prefix: String::new() };
        let package =
            Package { source: &source, scratch: folder.path(), progress: &crate::progress::NoProgress };
        let error = package.run("no-such-client", &[], folder.path(), "x").unwrap_err();
        assert_eq!(error.to_string(), "no-such-client: not installed");
    }
}
