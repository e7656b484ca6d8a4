//! `cargo xtask setup`: provides libtorch and links it as `.libtorch` in the checkout.
//!
//! Tried in this order, the first that is usable wins:
//! 1. `LIBTORCH`: a folder with `lib`, `include` and the right version.
//! 2. `LIBTORCH_USE_PYTORCH`: the PyTorch of the Python on the `PATH`.
//! 3. What was set up before: the link in this checkout, then the cache of this user.
//! 4. The wheels, through pip.
//! 5. The archive from the PyTorch site.
//!
//! # The folder that `.libtorch` points to
//! `lib/libtorch_cpu.so`, `lib/libc10.so` and what they need, `lib/libtorch.so`, `include/`. It never holds
//! `lib/libtorch_cuda.so`, because torch-sys would link it and the programs would need CUDA to start.
//! With `--cuda`, that library is `lib/cuda/libtorch_cuda.so`, to be loaded at run time (`dlopen`, global)
//! before the first tensor; `lib/cuda` is a link to PyTorch's own `torch/lib`, so that the libraries in it
//! find each other and the `nvidia` packages by their run paths.
mod archive;
mod cache;
mod candidates;
mod facade;
mod libtorch;
mod pip;
mod progress;
mod unpack;

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use cache::Cache;
use clap::Args;
use libtorch::{Libtorch, VERSION, Variant};
use std::fs;
use std::path::Path;

/// What `cargo xtask setup` takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Provide the libraries for CUDA too (a download of about 3 GB).
    #[arg(long)]
    cuda: bool,
    /// Only say what is used and why; exit status 1 if nothing is usable.
    #[arg(long)]
    check: bool,
    /// Provide it anew, even if a usable one was set up before.
    #[arg(long)]
    force: bool,
}

/// Runs `cargo xtask setup`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    let variant = if flags.cuda { Variant::Cuda } else { Variant::Cpu };
    if flags.check {
        return check(workspace, variant);
    }
    let again = if flags.force { Again::Anew } else { Again::Reuse };
    let found = provide(workspace, variant, again)?;
    eprintln!("libtorch {VERSION}: {}", found.dir.display());
    eprintln!("  from {}", found.origin);
    eprintln!("  linked as {}", workspace.libtorch_link().display());
    Ok(())
}

/// Sets up what is missing; says nothing when nothing is.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    provide(workspace, Variant::Cpu, Again::Reuse).map(drop)
}

/// Whether what was set up before may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Reuse,
    Anew,
}

/// Why a candidate was passed over.
#[derive(Debug)]
struct Refusal {
    what: String,
    why: anyhow::Error,
}

fn check(workspace: &Workspace, variant: Variant) -> Result<()> {
    let cache = Cache::of_user()?;
    let mut refusals = Vec::new();
    let found = present(workspace, &cache, variant, Again::Reuse, &mut refusals);
    for refusal in &refusals {
        println!("passed over: {}: {:#}", refusal.what, refusal.why);
    }
    let Some(found) = found else {
        bail!("libtorch {VERSION} is not set up; `cargo xtask setup` provides it");
    };
    println!("libtorch {VERSION}: {}", found.dir.display());
    println!("chosen because it is {}", found.origin);
    println!("CUDA: {}", found.cuda_words());
    let link = workspace.libtorch_link();
    match fs::canonicalize(&link) {
        Ok(target) if fs::canonicalize(&found.dir).is_ok_and(|dir| dir == target) => {
            println!("linked as {}", link.display());
            Ok(())
        }
        Ok(_) if !link.is_symlink() => bail!("{}", not_a_link(&link)),
        Ok(target) => {
            bail!("{} points to {}; `cargo xtask setup` corrects it", link.display(), target.display())
        }
        Err(_) => bail!("{} does not exist; `cargo xtask setup` makes it", link.display()),
    }
}

fn provide(workspace: &Workspace, variant: Variant, again: Again) -> Result<Libtorch> {
    let cache = Cache::of_user()?;
    let mut refusals = Vec::new();
    let found = match present(workspace, &cache, variant, again, &mut refusals) {
        Some(found) => found,
        None => obtain(&cache, variant, again, &mut refusals)?,
    };
    for refusal in refusals.iter().filter(|refusal| refusal.what.starts_with("LIBTORCH")) {
        eprintln!("warning: {} is set but not usable: {:#}", refusal.what, refusal.why);
        eprintln!("         unset it, or plain cargo commands will go on using it");
    }
    link(&workspace.libtorch_link(), &found.dir)?;
    Ok(found)
}

/// What stands on this machine already: steps 1 to 3.
fn present(
    workspace: &Workspace,
    cache: &Cache,
    variant: Variant,
    again: Again,
    refusals: &mut Vec<Refusal>,
) -> Option<Libtorch> {
    for candidate in candidates::list(workspace, cache, variant, again) {
        match candidate.examine(cache, variant) {
            Ok(found) => return Some(found),
            Err(why) => refusals.push(Refusal { what: candidate.to_string(), why }),
        }
    }
    None
}

/// Brings it into the cache: steps 4 and 5.
fn obtain(cache: &Cache, variant: Variant, again: Again, refusals: &mut Vec<Refusal>) -> Result<Libtorch> {
    let _lock = cache.lock()?;
    let target = cache.libtorch(variant);
    // Another set-up may have finished while this one waited for the lock.
    if again == Again::Reuse
        && let Ok(found) = Libtorch::examine(&target, "what another set-up has just put into the cache")
        && found.suits(variant).is_ok()
    {
        return Ok(found);
    }
    cache.clean()?;
    eprintln!("libtorch {VERSION} ({variant}) goes to {}", target.display());
    let wheels = match variant {
        Variant::Cpu => pip::provide_cpu(cache, &target),
        Variant::Cuda => pip::provide_cuda(cache, &target),
    };
    match wheels {
        Ok(()) => {
            cache.forget_downloads()?;
            return Libtorch::examine(&target, "the cache, filled from the wheels");
        }
        Err(why) => refusals.push(Refusal { what: "the wheels, through pip".into(), why }),
    }
    if let Some(refusal) = refusals.last() {
        eprintln!("{}: {:#}", refusal.what, refusal.why);
    }
    if variant == Variant::Cpu {
        eprintln!("trying the archive from the PyTorch site");
        match archive::provide(cache, &target) {
            Ok(()) => {
                cache.forget_downloads()?;
                return Libtorch::examine(&target, "the cache, filled from the archive of the PyTorch site");
            }
            Err(why) => refusals.push(Refusal { what: "the archive from the PyTorch site".into(), why }),
        }
    }
    let tried: Vec<String> = refusals.iter().map(|r| format!("\n  {}: {:#}", r.what, r.why)).collect();
    bail!(
        "libtorch {VERSION} ({variant}) could not be provided; tried:{}\nTo go on without a download, unpack \
         libtorch {VERSION} for Linux (C++11 ABI) yourself and set LIBTORCH to its folder.",
        tried.concat()
    )
}

/// Makes `link` point to `dir` at once: whoever looks sees the old link or the new one.
fn link(link: &Path, dir: &Path) -> Result<()> {
    match fs::symlink_metadata(link) {
        Ok(data) if !data.is_symlink() => {
            if fs::canonicalize(dir).ok() == fs::canonicalize(link).ok() {
                return Ok(());
            }
            bail!("{}", not_a_link(link));
        }
        Ok(_) if fs::canonicalize(link).ok() == fs::canonicalize(dir).ok() => return Ok(()),
        _ => {}
    }
    let mut name = link.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = Path::new(&name);
    let _ = fs::remove_file(new);
    std::os::unix::fs::symlink(dir, new)
        .and_then(|()| fs::rename(new, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), dir.display()))
}

fn not_a_link(path: &Path) -> String {
    format!("{} is not a link; move it away and run `cargo xtask setup` again", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_a_folder_is_not() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (a, b, at) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("link"));
        fs::create_dir(&a)?;
        fs::create_dir(&b)?;
        link(&at, &a)?;
        link(&at, &b)?;
        assert_eq!(fs::read_link(&at)?, b);
        let folder = dir.path().join("folder");
        fs::create_dir(&folder)?;
        assert!(link(&folder, &b).unwrap_err().to_string().contains("is not a link"));
        assert!(link(&folder, &folder).is_ok());
        Ok(())
    }
}
