//! Images per second of training on all cores: the step alone, on a batch that is ready, and end to end, with the views
//! made as in training. SimCLR with a ResNet-18 with a CIFAR stem on 32 pixels, and with the encoder of the default
//! recipe; MAE with a ViT-tiny of 4 pixels a patch.
//!
//! An image gives two views in SimCLR, one in MAE. The data is noise: the work does not depend on it.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rand::Rng as _;
use serde_json::json;
use ssl_core::optim::OptimizerConfig;
use ssl_core::{Loader, Precision, Result, Schedule, Source, Trainer, Views, named_tensors, rng};
use ssl_vision::backbones::{Arch, EncoderConfig, Encoders, ResNetConfig, Stem, VitArch, VitConfig};
use ssl_vision::methods::{VisionMethod, find};
use ssl_vision::{ImageArray, ViewSource};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tch::Device;

const BATCH: usize = 256;

/// The same batch at every step.
struct Ready(Mutex<Views>);

impl Source for Ready {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        1
    }

    fn batch(&self, _epoch: u64, _index: u64) -> Result<Views> {
        Ok(Views(self.0.lock().unwrap().0.iter().map(|view| view.shallow_clone()).collect()))
    }
}

/// A method and the images that it is trained on.
struct Case {
    method: &'static str,
    name: &'static str,
    encoder: EncoderConfig,
    config: serde_json::Value,
    side: usize,
    optimizer: OptimizerConfig,
}

fn cases() -> [Case; 3] {
    let cifar = |arch, channels| ResNetConfig { arch, stem: Stem::Cifar, channels }.into();
    let recipe = find("simclr").unwrap().recipe("fashion-mnist").unwrap();
    let small = json!({
        "hidden_dim": 512,
        "temperature": 0.5,
        "augment": {
            "size": 32, "jitter_probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2,
            "grayscale_probability": 0.2, "blur_probability": 0.5
        }
    });
    [
        Case {
            method: "simclr",
            name: "resnet18, 32 RGB",
            encoder: cifar(Arch::ResNet18, 3),
            config: small,
            side: 32,
            optimizer: OptimizerConfig::sgd(0.9),
        },
        Case {
            method: "simclr",
            name: "default recipe, 28 grey",
            encoder: recipe.encoder,
            config: recipe.method,
            side: 28,
            optimizer: recipe.train.optimizer,
        },
        Case {
            method: "mae",
            name: "vit_tiny, 32 RGB, patch 4",
            encoder: VitConfig { arch: VitArch::Tiny, image_size: 32, patch_size: 4, ..VitConfig::default() }
                .into(),
            config: json!({
                "decoder_dim": 96, "decoder_depth": 4, "decoder_heads": 3,
                "augment": {"size": 32, "crop_scale": [0.2, 1]}
            }),
            side: 32,
            optimizer: serde_json::from_value(json!({"name": "adamw", "betas": [0.9, 0.95]})).unwrap(),
        },
    ]
}

fn build(case: &Case) -> Box<dyn VisionMethod> {
    let encoders = Encoders::new(case.encoder.clone(), Device::Cpu);
    find(case.method).unwrap().build(&case.config, &encoders).unwrap()
}

fn views(case: &Case) -> ViewSource {
    let channels = case.encoder.channels() as usize;
    let mut bytes = vec![0; 16 * BATCH * case.side * case.side * channels];
    rng(0, &[]).fill_bytes(&mut bytes);
    let images = ImageArray::new(case.side, case.side, channels, bytes).unwrap();
    let (mean, std) = (vec![0.5; channels], vec![0.25; channels]);
    let views = build(case).views().into_iter().map(|view| view.normalized(&mean, &std)).collect();
    ViewSource::new(Arc::new(images), views, BATCH, 0).unwrap()
}

fn train(criterion: &mut Criterion, case: &Case, precision: Precision) {
    let mut method = build(case);
    let mut optimizer = case.optimizer.build(named_tensors(method.as_ref())).unwrap();
    let trainer = Trainer {
        total_steps: 1_000_000,
        seed: 0,
        loader: Loader { device: Device::Cpu, prefetch: 0 },
        precision,
        learning_rate: Schedule::constant(1e-3),
        weight_decay: Schedule::constant(5e-4),
        clip_norm: None,
        accumulate: 1,
        log_every: 1_000_000,
    };
    let source = views(case);
    let ready = Ready(Mutex::new(source.batch(0, 0).unwrap()));
    let mut group = criterion.benchmark_group(format!("{} {}", case.method, case.name));
    group.throughput(Throughput::Elements(BATCH as u64)).sampling_mode(SamplingMode::Flat).sample_size(10);
    let ways: [(&str, &dyn Source<Batch = Views>); 2] = [("step", &ready), ("end to end", &source)];
    for (way, source) in ways {
        let mut at = 0;
        group.bench_function(BenchmarkId::new(way, format!("{precision:?}").to_lowercase()), |bencher| {
            bencher.iter(|| {
                let log: &mut Vec<(u64, String, f64)> = &mut Vec::new();
                at = trainer
                    .fit(method.as_mut(), optimizer.as_mut(), source, at..at + 1, &mut [], log)
                    .unwrap();
            });
        });
    }
}

fn all(criterion: &mut Criterion) {
    // As in the examples.
    ssl_torch::flush_denormals(true).unwrap();
    assert!(ssl_torch::keep_freed_memory());
    for case in cases() {
        for precision in [Precision::Fp32, Precision::Bf16] {
            train(criterion, &case, precision);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
    targets = all
}
criterion_main!(benches);
