//! What a usable libtorch looks like.
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The libtorch that the `tch` of this workspace goes with.
pub(super) const VERSION: &str = "2.11.0";

/// Which devices it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Cpu,
    Cuda,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A libtorch that was found usable.
#[derive(Debug, Clone)]
pub(super) struct Libtorch {
    /// The folder with `lib` and `include`.
    pub(super) dir: PathBuf,
    /// Where it is from, in words.
    pub(super) origin: String,
}

impl Libtorch {
    /// Checks that `dir` holds the right version, completely enough to build and run with.
    pub(super) fn examine(dir: &Path, origin: &str) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a folder", dir.display());
        }
        for needed in ["lib/libtorch_cpu.so", "lib/libc10.so", "lib/libtorch.so", "include/ATen/ATen.h"] {
            if !dir.join(needed).is_file() {
                bail!("{} has no {needed}", dir.display());
            }
        }
        let version = version(dir)?;
        let number = version.split('+').next().unwrap_or_default();
        if number != VERSION {
            bail!("{} is version {version}, expected {VERSION}", dir.display());
        }
        Ok(Self { dir: dir.to_path_buf(), origin: origin.to_string() })
    }

    /// Fails if it lacks what `variant` needs.
    pub(super) fn suits(&self, variant: Variant) -> Result<()> {
        match (variant, self.cuda_library()) {
            (Variant::Cuda, None) => bail!("{} has no libtorch_cuda.so", self.dir.display()),
            _ => Ok(()),
        }
    }

    /// Says whether torch-sys would link CUDA, so that a program could not start without it.
    pub(super) fn links_cuda(&self) -> bool {
        self.dir.join("lib/libtorch_cuda.so").exists()
    }

    /// CUDA's availability, in words.
    pub(super) fn cuda_words(&self) -> String {
        match self.cuda_library() {
            Some(path) => format!("loaded at run time from {}", path.display()),
            None => "no (`cargo xtask setup --cuda` provides it)".into(),
        }
    }

    fn cuda_library(&self) -> Option<PathBuf> {
        let places = ["lib/cuda/libtorch_cuda.so", "lib/libtorch_cuda.so"];
        places.iter().map(|place| self.dir.join(place)).find(|path| path.exists())
    }
}

/// The version by the file `build-version`, or else by the headers.
fn version(dir: &Path) -> Result<String> {
    if let Ok(text) = fs::read_to_string(dir.join("build-version")) {
        return Ok(text.trim().to_string());
    }
    let header = dir.join("include/torch/headeronly/version.h");
    let text = fs::read_to_string(&header)
        .with_context(|| format!("neither build-version nor {} can be read", header.display()))?;
    version_in_header(&text).with_context(|| format!("{} names no version", header.display()))
}

fn version_in_header(text: &str) -> Option<String> {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name)).then(|| words.next())?
        })
    };
    let (major, minor, patch) =
        (number("TORCH_VERSION_MAJOR")?, number("TORCH_VERSION_MINOR")?, number("TORCH_VERSION_PATCH")?);
    Some(format!("{major}.{minor}.{patch}"))
}

/// Writes a `dir` that passes for a libtorch of `version`.
#[cfg(test)]
pub(super) fn imitate(dir: &Path, version: &str, libraries: &[&str]) -> Result<()> {
    fs::create_dir_all(dir.join("lib"))?;
    fs::create_dir_all(dir.join("include/ATen"))?;
    fs::write(dir.join("include/ATen/ATen.h"), "")?;
    fs::write(dir.join("build-version"), version)?;
    for library in ["libtorch_cpu.so", "libc10.so", "libtorch.so"].iter().chain(libraries) {
        fs::write(dir.join("lib").join(library), *library)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_and_every_needed_file_count() -> Result<()> {
        let dir = tempfile::tempdir()?;
        imitate(dir.path(), "2.11.0+cpu\n", &[])?;
        Libtorch::examine(dir.path(), "test")?.suits(Variant::Cpu)?;
        let no_cuda = Libtorch::examine(dir.path(), "test")?.suits(Variant::Cuda).unwrap_err();
        assert!(no_cuda.to_string().contains("no libtorch_cuda.so"));
        fs::write(dir.path().join("build-version"), "2.10.0")?;
        let old = Libtorch::examine(dir.path(), "test").unwrap_err().to_string();
        assert!(old.contains("is version 2.10.0, expected 2.11.0"), "{old}");
        fs::remove_file(dir.path().join("lib/libc10.so"))?;
        let incomplete = Libtorch::examine(dir.path(), "test").unwrap_err().to_string();
        assert!(incomplete.contains("has no lib/libc10.so"), "{incomplete}");
        Ok(())
    }

    #[test]
    fn headers_tell_the_version_where_no_file_does() {
        let text = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n\
                    #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n";
        assert_eq!(version_in_header(text).as_deref(), Some("2.11.0"));
        assert_eq!(version_in_header("#define TORCH_VERSION_MAJOR 2"), None);
    }
}
