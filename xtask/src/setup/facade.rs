//! A folder of links to a libtorch with CUDA, which makes programs need only its CPU libraries.
use super::cache::{self, Cache};
use super::libtorch::{Libtorch, VERSION};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Makes, or finds again, the links to `libtorch`.
pub(super) fn over(libtorch: &Libtorch, cache: &Cache) -> Result<Libtorch> {
    let real = libtorch.dir.canonicalize()?;
    let hash = Sha256::digest(real.as_os_str().as_bytes());
    let key: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let target = cache.facade(&key);
    let origin = format!("{}, through links that keep CUDA out of what is linked", libtorch.origin);
    if let Ok(found) = Libtorch::examine(&target, &origin) {
        return Ok(found);
    }
    let _lock = cache.lock()?;
    let work = cache.workplace()?;
    let new = work.path().join("libtorch");
    fs::create_dir(&new)?;
    build(&real, &new).with_context(|| format!("cannot make links to {}", real.display()))?;
    cache::install(&new, &target)?;
    Libtorch::examine(&target, &origin)
}

/// Fills `new` with links to the libtorch in `real`, which are relative when `real` lies inside `new`.
pub(super) fn build(real: &Path, new: &Path) -> Result<()> {
    let lib = new.join("lib");
    fs::create_dir(&lib)?;
    let (from_new, from_lib) = match real.strip_prefix(new) {
        Ok(inside) => (inside.to_path_buf(), Path::new("..").join(inside)),
        Err(_) => (real.to_path_buf(), real.to_path_buf()),
    };
    symlink(from_new.join("include"), new.join("include"))?;
    symlink(from_lib.join("lib"), lib.join("cuda"))?;
    for entry in fs::read_dir(real.join("lib"))?.flatten() {
        let name = entry.file_name();
        if entry.path().is_file() && needed_to_link(&name.to_string_lossy()) {
            symlink(from_lib.join("lib").join(&name), lib.join(&name))?;
        }
    }
    // libtorch_cpu.so looks for these beside itself, or where PyTorch's packages stand.
    let nvidia = real.parent().map(|packages| packages.join("nvidia/cu13/lib"));
    for name in ["libcupti.so.13", "libcudart.so.13"] {
        let beside = lib.join(name);
        if let Some(found) = nvidia.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file())
            && !beside.exists()
        {
            let found = match found.strip_prefix(new) {
                Ok(inside) => Path::new("..").join(inside),
                Err(_) => found,
            };
            symlink(found, beside)?;
        }
    }
    finish(new, "links")
}

/// Writes the two files that PyTorch's own folders lack: what `-ltorch` means, and the version.
pub(super) fn finish(libtorch: &Path, kind: &str) -> Result<()> {
    fs::write(libtorch.join("lib/libtorch.so"), "INPUT(-ltorch_cpu -lc10)\n")?;
    fs::write(libtorch.join("build-version"), format!("{VERSION}+{kind}\n"))?;
    Ok(())
}

/// Libraries that a program may be linked to without needing CUDA or Python.
fn needed_to_link(name: &str) -> bool {
    let of_torch = ["libtorch_cpu.so", "libc10.so"].contains(&name);
    of_torch || ["libgomp", "libcupti", "libcudart"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::super::libtorch::{Variant, imitate};
    use super::*;

    #[test]
    fn cuda_stands_apart_and_the_link_survives_a_move() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let new = dir.path().join("new");
        let torch = new.join("site/torch");
        imitate(&torch, "2.11.0+cu130", &["libtorch_cuda.so", "libtorch_python.so", "libgomp.so.1"])?;
        fs::create_dir_all(new.join("site/nvidia/cu13/lib"))?;
        fs::write(new.join("site/nvidia/cu13/lib/libcupti.so.13"), "")?;
        build(&torch, &new)?;
        let moved = dir.path().join("moved");
        cache::install(&new, &moved)?;
        let found = Libtorch::examine(&moved, "test")?;
        found.suits(Variant::Cuda)?;
        assert!(!found.links_cuda());
        assert!(!moved.join("lib/libtorch_python.so").exists());
        for name in ["cuda/libtorch_cuda.so", "libgomp.so.1", "libcupti.so.13"] {
            assert!(moved.join("lib").join(name).is_file(), "{name}");
        }
        Ok(())
    }
}
