//! Where a libtorch may stand already, in the order in which they are looked at.
use super::cache::Cache;
use super::facade;
use super::libtorch::{Libtorch, Variant};
use super::{Again, pip};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Candidate {
    /// The environment names it.
    Named(PathBuf),
    /// The PyTorch of a Python.
    PyTorch,
    /// The link in this checkout.
    Link(PathBuf),
    /// The cache of this user.
    Cached(PathBuf),
}

/// What may be usable, best first.
pub(super) fn list(workspace: &Workspace, cache: &Cache, variant: Variant, again: Again) -> Vec<Candidate> {
    let environment =
        Environment { libtorch: env::var_os("LIBTORCH"), use_pytorch: env::var_os("LIBTORCH_USE_PYTORCH") };
    environment.candidates(&workspace.libtorch_link(), cache, variant, again)
}

#[derive(Debug, Default)]
struct Environment {
    libtorch: Option<OsString>,
    use_pytorch: Option<OsString>,
}

impl Environment {
    fn candidates(&self, link: &Path, cache: &Cache, variant: Variant, again: Again) -> Vec<Candidate> {
        let mut list = Vec::new();
        // `.cargo/config.toml` sets LIBTORCH to the link for whatever cargo runs, this program included.
        let named = self.libtorch.as_deref().filter(|value| !value.is_empty()).map(PathBuf::from);
        list.extend(named.filter(|dir| dir != link).map(Candidate::Named));
        if self.use_pytorch.is_some() {
            list.push(Candidate::PyTorch);
        }
        if again == Again::Reuse {
            list.push(Candidate::Link(link.to_path_buf()));
            list.push(Candidate::Cached(cache.libtorch(variant)));
            if variant == Variant::Cpu {
                list.push(Candidate::Cached(cache.libtorch(Variant::Cuda)));
            }
        }
        list
    }
}

impl Candidate {
    /// Says whether this one can be used, and for what reason not.
    pub(super) fn examine(&self, cache: &Cache, variant: Variant) -> Result<Libtorch> {
        let found = match self {
            Self::Named(dir) => Libtorch::examine(&std::path::absolute(dir)?, "named by LIBTORCH")?,
            Self::PyTorch => {
                Libtorch::examine(&pytorch()?, "the PyTorch that LIBTORCH_USE_PYTORCH asks for")?
            }
            Self::Link(link) => {
                let dir = link.canonicalize().with_context(|| format!("{} leads nowhere", link.display()))?;
                Libtorch::examine(&dir, "what was set up before in this checkout")?
            }
            Self::Cached(dir) => Libtorch::examine(dir, "what was set up before in the cache")?,
        };
        found.suits(variant)?;
        if found.links_cuda() { facade::over(&found, cache) } else { Ok(found) }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(dir) => write!(f, "LIBTORCH={}", dir.display()),
            Self::PyTorch => write!(f, "LIBTORCH_USE_PYTORCH"),
            Self::Link(_) => write!(f, "the link in this checkout"),
            Self::Cached(_) => write!(f, "the cache of this user"),
        }
    }
}

/// The folder of the package `torch` of the Python on the `PATH`, without loading its libraries.
fn pytorch() -> Result<PathBuf> {
    let python = pip::python();
    let code = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(python)
        .args(["-c", code])
        .output()
        .with_context(|| format!("cannot start {python}, which should say where PyTorch is"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let dir = text.trim();
    if !output.status.success() || dir.is_empty() {
        bail!("{python} has no package torch");
    }
    Ok(PathBuf::from(dir))
}

#[cfg(test)]
mod tests {
    use super::super::libtorch::imitate;
    use super::*;

    #[test]
    fn the_environment_comes_first_and_the_link_is_not_taken_for_it() {
        let cache = Cache::at(Path::new("/cache"));
        let link = Path::new("/checkout/.libtorch");
        let order = |libtorch: &str, again| {
            let environment = Environment { libtorch: Some(libtorch.into()), use_pytorch: Some("1".into()) };
            environment.candidates(link, &cache, Variant::Cuda, again)
        };
        let cached = Candidate::Cached(cache.libtorch(Variant::Cuda));
        assert_eq!(
            order("/opt/libtorch", Again::Reuse),
            [
                Candidate::Named("/opt/libtorch".into()),
                Candidate::PyTorch,
                Candidate::Link(link.into()),
                cached
            ]
        );
        assert_eq!(order("/checkout/.libtorch", Again::Anew), [Candidate::PyTorch]);
    }

    #[test]
    fn a_named_folder_with_cuda_is_not_linked_as_it_is() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(&dir.path().join("cache"));
        let named = dir.path().join("libtorch");
        imitate(&named, "2.11.0+cu130", &["libtorch_cuda.so", "libgomp.so.1"])?;
        let found = Candidate::Named(named).examine(&cache, Variant::Cuda)?;
        assert!(!found.links_cuda());
        assert!(found.dir.join("lib/cuda/libtorch_cuda.so").is_file());
        Ok(())
    }
}
