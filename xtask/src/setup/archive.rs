//! libtorch out of the archive that the PyTorch site offers.
use super::cache::{self, Cache, ELSEWHERE};
use super::libtorch::{Libtorch, VERSION};
use super::unpack;
use crate::bars::Bars;
use anyhow::{Context, Result, bail};
use ssl_datasets::{Download, Error};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fills `target` with the archive's libraries and headers.
///
/// PyTorch publishes no hash of the archive. It comes over HTTPS, and each file in it carries a checksum.
pub(super) fn provide(cache: &Cache, target: &Path) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the archive of the PyTorch site is for Linux on x86_64");
    }
    let url =
        format!("https://download.pytorch.org/libtorch/cpu/libtorch-shared-with-deps-{VERSION}%2Bcpu.zip");
    let zip = cache.downloads()?.join(format!("libtorch-{VERSION}-cpu.zip"));
    if !zip.exists() {
        download(&url, &zip)?;
    }
    let work = cache.workplace()?;
    let new = work.path().join("libtorch");
    let unpacked = unpack::unpack(&zip, &new, place).and_then(|_| Libtorch::examine(&new, "the archive"));
    // Whether it served or was damaged, the archive is of no more use.
    fs::remove_file(&zip).with_context(|| format!("cannot remove {}", zip.display()))?;
    unpacked?;
    unpack::settle(&new);
    cache::install(&new, target)
}

fn place(name: &str) -> Option<PathBuf> {
    let inside = name.strip_prefix("libtorch/")?;
    let wanted = inside == "build-version"
        || inside.starts_with("include/")
        || (inside.starts_with("lib/") && inside.contains(".so"));
    wanted.then(|| PathBuf::from(inside))
}

/// Fetches `url` into `file`, which exists only once it is whole; goes on where an earlier try broke off.
fn download(url: &str, file: &Path) -> Result<()> {
    let (connect_timeout, stall_timeout) = (Duration::from_secs(15), Duration::from_secs(60));
    let download = Download { url, path: file, bytes: None, connect_timeout, stall_timeout };
    match download.run(&Bars::default()) {
        Err(Error::DiskFull { path }) => bail!("no space left for {}; {ELSEWHERE}", path.display()),
        other => Ok(other.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_archive_only_libraries_and_headers_are_kept() {
        assert_eq!(place("libtorch/lib/libc10.so"), Some("lib/libc10.so".into()));
        assert_eq!(place("libtorch/lib/libgomp-a34b3233.so.1"), Some("lib/libgomp-a34b3233.so.1".into()));
        assert_eq!(place("libtorch/lib/libkineto.a"), None);
        assert_eq!(place("libtorch/share/cmake/Torch/TorchConfig.cmake"), None);
    }
}
