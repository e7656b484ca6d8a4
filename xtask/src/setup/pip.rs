//! libtorch out of PyTorch's wheels, which pip fetches from wherever it is configured to.
use super::cache::{self, Cache};
use super::libtorch::VERSION;
use super::{facade, progress, unpack};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// A wheel whose content is known.
#[derive(Debug)]
struct Wheel {
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
    /// Its size, for the progress bar.
    bytes: u64,
}

/// Holds the libraries and headers.
const TORCH: Wheel = Wheel {
    package: "torch",
    version: VERSION,
    sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    bytes: 530_583_384,
};
/// libtorch_cpu.so names libcupti.so.13 and libcudart.so.13 as needed, even where there is no GPU.
const CUPTI: Wheel = Wheel {
    package: "nvidia-cuda-cupti",
    version: "13.0.85",
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    bytes: 10_700_000,
};
const CUDART: Wheel = Wheel {
    package: "nvidia-cuda-runtime",
    version: "13.0.96",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    bytes: 2_200_000,
};
/// Every Python tag holds the same libraries in another file; this is the one that is pinned.
const PYTHON_TAG: &str = "3.11";

const LIBRARIES: [&str; 5] = [
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcupti.so.13",
    "nvidia/cu13/lib/libcudart.so.13",
];

/// The Python that the environment means: that of the active virtual environment, or else python3.
pub(super) fn python() -> &'static str {
    if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" }
}

/// Fills `target` with what the CPU needs: five libraries and the headers, 500 MB.
pub(super) fn provide_cpu(cache: &Cache, target: &Path) -> Result<()> {
    only_linux_x86_64()?;
    let wheels =
        [TORCH, CUPTI, CUDART].iter().map(|wheel| fetch(cache, wheel)).collect::<Result<Vec<_>>>()?;
    let work = cache.workplace()?;
    let new = work.path().join("libtorch");
    let mut count = 0;
    for wheel in &wheels {
        count += unpack::unpack(wheel, &new, place)?;
    }
    let missing = LIBRARIES.iter().filter_map(|name| place(name)).find(|path| !new.join(path).is_file());
    if let Some(missing) = missing {
        bail!("the wheels hold {count} files of libtorch, but no {}", missing.display());
    }
    facade::finish(&new, "cpu")?;
    unpack::settle(&new);
    cache::install(&new, target)
}

/// Fills `target` with all libraries of PyTorch and of the packages for CUDA that it asks for.
pub(super) fn provide_cuda(cache: &Cache, target: &Path) -> Result<()> {
    only_linux_x86_64()?;
    let wheel = fetch(cache, &TORCH)?;
    let work = cache.workplace()?;
    let new = work.path().join("libtorch");
    let site = new.join("site");
    fs::create_dir_all(&site)?;
    let mut pip = pip()?;
    pip.args(["install", "--no-compile"]).arg("--target").arg(&site).args(common()).arg(&wheel);
    let bar = progress::spinner("fetching PyTorch's CUDA packages");
    watch(&mut pip, work.path(), &bar)?;
    keep_only(&site, &["torch", "nvidia"])?;
    keep_only(&site.join("torch"), &["lib", "include"])?;
    facade::build(&site.join("torch"), &new)?;
    unpack::settle(&new);
    cache::install(&new, target)
}

/// Where an entry of a wheel belongs, if it does.
fn place(name: &str) -> Option<PathBuf> {
    if LIBRARIES.contains(&name) {
        return Path::new(name).file_name().map(|file| Path::new("lib").join(file));
    }
    name.strip_prefix("torch/").filter(|rest| rest.starts_with("include/")).map(PathBuf::from)
}

/// The wheel's path, after a download unless a whole one is there from an earlier try.
fn fetch(cache: &Cache, wheel: &Wheel) -> Result<PathBuf> {
    let downloads = cache.downloads()?;
    if let Some(kept) = kept(&downloads, wheel)? {
        return Ok(kept);
    }
    let work = cache.workplace()?;
    let mut pip = pip()?;
    pip.args(["download", "--no-deps"]).arg("--dest").arg(work.path().join("wheel")).args(common());
    pip.arg(format!("{}=={}", wheel.package, wheel.version));
    let bar = progress::bytes(&format!("fetching {} {}", wheel.package, wheel.version), wheel.bytes);
    watch(&mut pip, work.path(), &bar)?;
    let file = fs::read_dir(work.path().join("wheel"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip fetched no wheel of {}", wheel.package))?;
    let found = sha256(&file)?;
    if found != wheel.sha256 {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        bail!("{name} has sha256 {found}, expected {}", wheel.sha256);
    }
    let kept = downloads.join(file.file_name().unwrap_or_default());
    fs::rename(&file, &kept).with_context(|| format!("cannot keep {}", kept.display()))?;
    Ok(kept)
}

/// A whole wheel from an earlier try; a damaged one is removed.
fn kept(downloads: &Path, wheel: &Wheel) -> Result<Option<PathBuf>> {
    let start = format!("{}-{}-", wheel.package.replace('-', "_"), wheel.version);
    for entry in fs::read_dir(downloads)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&start) {
            if sha256(&entry.path())? == wheel.sha256 {
                return Ok(Some(entry.path()));
            }
            let path = entry.path();
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(None)
}

/// pip's options for every call. Its own cache would double the disk space for nothing.
fn common() -> [&'static str; 6] {
    ["--only-binary=:all:", "--python-version", PYTHON_TAG, "--no-cache-dir", "--progress-bar=off", "--quiet"]
}

/// The pip of the Python on the `PATH`, or one that stands alone.
fn pip() -> Result<Command> {
    let python = python();
    let choices = [(python, &["-m", "pip"][..]), ("pip3", &[]), ("pip", &[])];
    for (program, first) in choices {
        let works = Command::new(program)
            .args(first)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if works.is_ok_and(|status| status.success()) {
            let mut command = Command::new(program);
            command.args(first).args(["--disable-pip-version-check", "--no-input"]);
            return Ok(command);
        }
    }
    bail!(
        "neither `{python} -m pip` nor pip3 nor pip works; install pip (Debian and Ubuntu: `apt-get install \
         python3-pip`) and run `cargo xtask setup` again"
    )
}

/// Runs pip with all its files in `work`, showing how much has arrived there.
fn watch(pip: &mut Command, work: &Path, bar: &ProgressBar) -> Result<()> {
    let temporary = work.join("tmp");
    fs::create_dir_all(&temporary)?;
    pip.env("TMPDIR", &temporary).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = pip.spawn().context("cannot start pip")?;
    // Read as it comes: a full pipe would stop pip, and a file could not be written to a full disk.
    let stderr = child.stderr.take();
    let reader = spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        bar.set_position(progress::size_of(work));
        sleep(Duration::from_millis(300));
    };
    bar.finish_and_clear();
    if !status.success() {
        let text = reader.join().unwrap_or_default();
        bail!("pip failed ({status}): {}", reason(&text));
    }
    Ok(())
}

/// What pip's output says went wrong, on one line.
fn reason(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let of_kind =
        |kind: &str| lines.iter().copied().filter(|line| line.starts_with(kind)).collect::<Vec<_>>();
    let (errors, warnings) = (of_kind("ERROR"), of_kind("WARNING: Retrying"));
    // After this one comes a traceback, whose last line tells.
    let errors: Vec<&str> = errors.into_iter().filter(|line| *line != "ERROR: Exception:").collect();
    // What was tried again and again is the cause of what failed in the end.
    let mut telling: Vec<&str> = warnings.last().copied().into_iter().collect();
    telling.extend(if errors.is_empty() { lines.last().copied() } else { errors.first().copied() });
    telling.join("; ")
}

fn keep_only(dir: &Path, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if !names.iter().any(|name| entry.file_name() == *name) {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn only_linux_x86_64() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(());
    }
    bail!("the known wheels are for Linux on x86_64, this is {} on {}", env::consts::OS, env::consts::ARCH)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_wheel_only_headers_and_the_five_libraries_are_kept() {
        assert_eq!(place("torch/lib/libc10.so"), Some("lib/libc10.so".into()));
        assert_eq!(place("nvidia/cu13/lib/libcupti.so.13"), Some("lib/libcupti.so.13".into()));
        assert_eq!(place("torch/include/ATen/ATen.h"), Some("include/ATen/ATen.h".into()));
        for name in ["torch/lib/libtorch_cuda.so", "torch/__init__.py", "nvidia/cu13/include/cupti.h"] {
            assert_eq!(place(name), None);
        }
    }

    #[test]
    fn a_whole_wheel_from_an_earlier_try_is_used_again_and_a_damaged_one_is_not() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("a_package-0.0-py3-none-any.whl");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let wheel = Wheel { package: "a-package", version: "0.0", sha256, bytes: 0 };
        fs::write(&file, "abc")?;
        assert_eq!(kept(dir.path(), &wheel)?, Some(file.clone()));
        fs::write(&file, "ab")?;
        assert_eq!(kept(dir.path(), &wheel)?, None);
        assert!(!file.exists());
        Ok(())
    }

    #[test]
    fn what_pip_says_becomes_one_line() {
        let log = "WARNING: Retrying: broken\nWARNING: old\nERROR: No version\nERROR: No distribution\n";
        assert_eq!(reason(log), "WARNING: Retrying: broken; ERROR: No version");
        assert_eq!(reason("ERROR: Exception:\n  File\nOSError: No space left\n"), "OSError: No space left");
        assert_eq!(reason("only this\n"), "only this");
    }

    #[test]
    fn the_hash_is_that_of_the_bytes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("abc");
        fs::write(&path, "abc")?;
        assert!(sha256(&path)?.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c"));
        Ok(())
    }
}
