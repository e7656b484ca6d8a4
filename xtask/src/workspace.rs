//! Where the checkout is, and how cargo is called in it.
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A checkout of this workspace.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The checkout that this program was started from.
    pub(crate) fn here() -> Self {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let package = PathBuf::from(package);
        Self { root: package.parent().map(Path::to_path_buf).unwrap_or(package) }
    }

    /// The checkout in `root`.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The folder of the root `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The link to libtorch, which `.cargo/config.toml` names.
    pub(crate) fn libtorch_link(&self) -> PathBuf {
        self.path(".libtorch")
    }

    /// A cargo that builds against `.libtorch`, whatever else the environment says.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command.env("LIBTORCH", self.libtorch_link());
        for name in ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_STATIC"] {
            command.env_remove(name);
        }
        // `cargo run` describes this package in the environment; the next cargo describes its own.
        for (name, _) in env::vars_os() {
            let leaked = name.to_str().is_some_and(|n| {
                n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_") || n == "CARGO_BIN_NAME"
            });
            if leaked {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Runs `command` with this program's own input and output, and fails when it fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?"));
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The one of `known` that is spelled most like `name`, when one is close enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_with_a_typing_error() {
        assert_eq!(nearest("visoin", ["vision", "video", "audio"]), Some("vision"));
        assert_eq!(nearest("fashion-mnst", ["fashion-mnist", "kmnist"]), Some("fashion-mnist"));
        assert_eq!(nearest("zzz", ["vision", "text"]), None);
    }

    #[test]
    fn children_build_against_the_link() {
        let command = Workspace::at(Path::new("/checkout")).cargo();
        let libtorch = command.get_envs().find(|(name, _)| *name == "LIBTORCH");
        assert_eq!(libtorch.and_then(|(_, value)| value), Some(OsStr::new("/checkout/.libtorch")));
    }
}
