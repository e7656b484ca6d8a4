//! Pretrains SimCLR on a folder of images, writes `encoder.safetensors`, and embeds the images.
//!
//! `cargo run --release --package ssl-vision --example pretrain_folder -- FOLDER`
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the program talks to a person")]
use serde_json::json;
use ssl_core::checkpoint::write_tensors;
use ssl_core::eval::nearest;
use ssl_core::optim::OptimizerConfig;
use ssl_core::record::Recorder;
use ssl_core::trainer::seed_torch;
use ssl_core::{Loader, Method, Mode, Precision, Result, Schedule, Trainer, named_tensors, no_grad};
use ssl_vision::backbones::{Arch, Encoders, ResNetConfig, Stem};
use ssl_vision::methods::{Definition, SimClr, VisionMethod, simclr};
use ssl_vision::readers::{Options, Split, open};
use ssl_vision::{Augment, Clean, ViewSource};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tch::{Device, Tensor};

const SEED: u64 = 0;
/// Images of one forward pass after training.
const BLOCK: usize = 256;

/// What is trained, on how much at once, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The network that is trained and kept.
    pub encoder: ResNetConfig,
    /// Side of the square views, in pixels.
    pub size: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Passes over the folder.
    pub epochs: u64,
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: pretrain_folder FOLDER");
        return ExitCode::from(2);
    };
    let encoder = ResNetConfig { arch: Arch::ResNet18, stem: Stem::ImageNet, channels: 3 };
    let settings = Settings { encoder, size: 128, batch_size: 64, epochs: 100 };
    let features = pretrain(folder.as_ref(), Path::new("encoder.safetensors"), &settings, &mut Screen);
    match features.and_then(|features| nearest(&features, &[0], 3)) {
        Ok(rows) => println!("wrote encoder.safetensors; image 0 is most like images {:?}", rows.concat()),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Pretrains on the images in `folder`, writes the encoder to `out`, and embeds every image. `[N, D]`
///
/// # Errors
/// Whatever goes wrong first: `Error::Data` for a folder without images, `Error::Config` for a batch larger than it.
pub fn pretrain(
    folder: &Path,
    out: &Path,
    settings: &Settings,
    recorder: &mut dyn Recorder,
) -> Result<Tensor> {
    let device = Device::cuda_if_available();
    let images = open(folder, Split::Train, &Options::default())?;

    // Every weight is drawn from libtorch's generator, which starts here.
    seed_torch(SEED, u64::MAX);
    let augment = Augment::simclr(settings.size, 0.5);
    let clean = Clean::of(&augment);
    let config = simclr::Config { temperature: 0.2, augment, ..simclr::Config::default() };
    let mut method = SimClr::new(config, &Encoders::new(settings.encoder, device))?;

    let source = ViewSource::new(Arc::clone(&images), method.views(), settings.batch_size, SEED)?;
    let total_steps = settings.epochs * source.batches_per_epoch();
    let mut optimizer = OptimizerConfig::adamw().build(named_tensors(&method))?;
    let trainer = Trainer {
        total_steps,
        seed: SEED,
        loader: Loader { device, prefetch: if device.is_cuda() { 3 } else { 0 } },
        precision: Precision::fastest(device)?,
        learning_rate: Schedule::cosine(1e-3, 0.).with_warmup(total_steps / 20),
        weight_decay: Schedule::constant(1e-4),
        clip_norm: None,
        accumulate: 1,
        log_every: 10,
    };
    trainer.fit(&mut method, optimizer.as_mut(), &source, 0..total_steps, &mut [], recorder)?;

    // From here on the images are seen as they are. Batch norm takes its statistics from them first.
    let all: Vec<usize> = (0..images.len()).collect();
    let batch = |indices: &[usize]| -> Result<Tensor> {
        Ok(clean.batch(images.as_ref(), indices)?.f_to_device(device)?)
    };
    for (seen, indices) in (0..).step_by(BLOCK).zip(all.chunks(BLOCK)) {
        let _ = no_grad(|| method.encode(&batch(indices)?, Mode::Calibrate { seen }))?;
    }
    let header = json!({"preprocess": {"encoder": settings.encoder, "pixels": clean}});
    write_tensors(out, &method.encoder(), &header)?;
    let embed = |indices| Ok(method.embed(&batch(indices)?)?.f_to_device(Device::Cpu)?);
    Ok(Tensor::f_cat(&all.chunks(BLOCK).map(embed).collect::<Result<Vec<_>>>()?, 0)?)
}

/// Prints the loss; `ssl_core::record` has a progress bar, JSON lines and TensorBoard files.
struct Screen;

impl Recorder for Screen {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        if name == "loss" {
            eprintln!("step {step}: loss {value:.3}");
        }
        Ok(())
    }
}
