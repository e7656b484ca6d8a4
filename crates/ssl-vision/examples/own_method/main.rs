//! A method that is part of no crate, trained by the common loop on images made in memory.
//!
//! `cargo run --package ssl-vision --example own_method`
#![allow(clippy::print_stdout, reason = "the program talks to a person")]
#[allow(unreachable_pub, reason = "the file reads as in a library")]
mod align_uniform;

use align_uniform::{AlignUniform, Config};
use ssl_core::optim::OptimizerConfig;
use ssl_core::trainer::seed_torch;
use ssl_core::{Loader, Precision, Result, Schedule, Trainer, named_tensors};
use ssl_vision::backbones::{Arch, Encoders, ResNetConfig, Stem};
use ssl_vision::methods::{Definition, VisionMethod};
use ssl_vision::{Augment, ImageArray, ViewSource};
use std::sync::Arc;
use tch::Device;

fn main() -> Result<()> {
    // 64 images of waves, each of another direction and length.
    let (side, total_steps) = (16, 60);
    let wave = |i: usize| {
        let (image, y, x) = (i / side / side, i / side % side, i % side);
        (128. + 100. * (0.2 * (x * (image % 8) + y * (image / 8)) as f64).sin()) as u8
    };
    let images = ImageArray::new(side, side, 1, (0..64 * side * side).map(wave).collect())?;

    seed_torch(0, u64::MAX);
    let augment = Augment::simclr(side, 0.5).normalized(&[0.5], &[0.25]);
    let encoder = ResNetConfig { arch: Arch::Small(8), stem: Stem::Cifar, channels: 1 };
    let encoders = Encoders::new(encoder, Device::Cpu);
    let mut method = AlignUniform::new(Config { augment, ..Config::default() }, &encoders)?;
    let source = ViewSource::new(Arc::new(images), method.views(), 32, 0)?;
    let mut optimizer = OptimizerConfig::adamw().build(named_tensors(&method))?;
    let trainer = Trainer {
        total_steps,
        seed: 0,
        loader: Loader { device: Device::Cpu, prefetch: 0 },
        precision: Precision::Fp32,
        learning_rate: Schedule::cosine(2e-3, 0.),
        weight_decay: Schedule::constant(0.),
        clip_norm: None,
        accumulate: 1,
        log_every: 20,
    };
    let mut log: Vec<(u64, String, f64)> = Vec::new();
    trainer.fit(&mut method, optimizer.as_mut(), &source, 0..total_steps, &mut [], &mut log)?;
    for (step, name, value) in log {
        println!("step {step}: {name} {value:.4}");
    }
    Ok(())
}
