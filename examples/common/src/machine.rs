//! The device, the threads, the data directory, and the interrupt of this machine.
use crate::CommonFlags;
use anyhow::{Context, Result, bail, ensure};
use ssl_core::Precision;
use ssl_datasets::{Catalog, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

/// Where a run computes.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The device.
    pub device: Device,
    /// The precision of the forward pass.
    pub precision: Precision,
    /// Threads of libtorch and of the loader.
    pub threads: usize,
}

impl Machine {
    /// The same with the precision and threads of a configuration.
    pub(crate) fn configured(self, config: &crate::RunConfig) -> Self {
        Machine { precision: config.precision, threads: config.threads, ..self }
    }

    /// Finds out what `--device`, `--precision` and `--threads` mean here, and sets the threads.
    ///
    /// # Errors
    /// When a flag asks for what is not there.
    pub fn prepare(flags: &CommonFlags) -> Result<Self> {
        let device = device(&flags.device)?;
        let precision = match flags.precision.as_str() {
            "fp32" => Precision::Fp32,
            "bf16" => Precision::Bf16,
            _ => Precision::fastest(device)?,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = flags.threads.unwrap_or(cores);
        ensure!((1..=1024).contains(&threads), "--threads: expected 1 to 1024, got {threads}");
        // Slower where it cannot: nothing to say to the user.
        let _ = ssl_torch::keep_freed_memory();
        ssl_torch::set_threads(threads);
        ssl_torch::flush_denormals(true).ok();
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start threads")?;
        Ok(Machine { device, precision, threads })
    }

    /// The processor and its cores, for whoever compares times.
    pub fn name() -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        format!("{}, {cores} cores", model.unwrap_or(std::env::consts::ARCH).trim())
    }

    /// The device as it is written in flags and summaries.
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_string(),
        }
    }
}

fn device(name: &str) -> Result<Device> {
    let index = match name {
        "auto" => return Ok(if ssl_torch::load_cuda()? { Device::Cuda(0) } else { Device::Cpu }),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").and_then(|i| i.parse().ok()) {
            Some(index) => index,
            None => bail!("device: expected auto, cpu, cuda or cuda:INDEX, got {name}"),
        },
    };
    ensure!(
        ssl_torch::load_cuda()?,
        "device: {name} was asked for, but no CUDA device can be used: run `cargo xtask setup --cuda` on a machine that has one, or use --device cpu"
    );
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    ensure!(
        index < count,
        "device: {name} was asked for, but there are only {count} CUDA devices, from cuda:0"
    );
    Ok(Device::Cuda(index))
}

/// Where the data is: `data` itself if that exists on disk, else the catalog's data set of that name.
///
/// # Errors
/// When it is neither, or has not been fetched.
pub fn locate_data(data: &str) -> Result<(String, PathBuf)> {
    let mut paths = locate(data)?;
    match paths.pop().filter(|_| paths.is_empty()) {
        Some(path) => Ok((data.to_string(), path)),
        None => bail!("--data {data}: expected one data set, got a family of {}", paths.len() + 1),
    }
}

/// Where several data sets are: names or paths with commas between them. The beginning of the names of a family stands
/// for all of it, as `asterisk` does for `asterisk-en` and the others.
///
/// # Errors
/// When one is neither, or has not been fetched.
pub fn locate_all(data: &str) -> Result<Vec<PathBuf>> {
    if Path::new(data).exists() {
        return Ok(vec![PathBuf::from(data)]);
    }
    let parts = data.split(',').map(|part| locate(part.trim())).collect::<Result<Vec<_>>>()?;
    Ok(parts.concat())
}

/// The folders of the catalog's data sets of that name, or the path itself.
fn locate(data: &str) -> Result<Vec<PathBuf>> {
    let catalog = Catalog::builtin()?;
    let path = Path::new(data);
    if catalog.get(data).is_err() && path.exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    let sets = catalog.family(data).with_context(|| format!("--data {data}: no such file or folder"))?;
    let root = std::env::var_os("SSL_DATA_DIR").map_or_else(|| PathBuf::from("datasets/data"), PathBuf::from);
    let store = Store::new(root);
    sets.into_iter().map(|set| Ok(store.path(set)?)).collect()
}

/// A flag that Ctrl-C raises: the run saves a checkpoint and stops. A second Ctrl-C, or one
/// after the training, ends the program at once.
///
/// # Errors
/// When the system refuses the handler.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            eprintln!("\nstopped; --resume goes on from the last checkpoint");
            // Without an orderly end, which would take libtorch down below the threads that still compute.
            signal_hook::low_level::exit(i32::from(crate::INTERRUPTED));
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    })
    .context("cannot handle Ctrl-C")?;
    Ok(flag)
}
