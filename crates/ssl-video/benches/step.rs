//! Clips per second of training on all cores: an R3D-18 and an R(2+1)D-18 on 16 frames of 64 pixels, batch 8, by SGD;
//! and every method by its recipe for `moving-fashion-mnist`.
//!
//! Clips are noise: the work does not depend on it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use serde_json::json;
use ssl_core::optim::OptimizerConfig;
use ssl_core::{Loader, Precision, Result, Schedule, Source, Trainer, Views, named_tensors};
use ssl_video::backbones::{EncoderConfig, Encoders};
use ssl_video::methods::{ALL, VideoMethod, find};
use std::sync::Mutex;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// The same batch at every position, with the channels innermost in memory, as clips are made.
#[derive(Debug)]
struct Noise(Mutex<Views>);

impl Noise {
    fn new(sizes: &[[i64; 5]]) -> Self {
        let view = |&[b, c, t, h, w]: &[i64; 5]| {
            let count = Tensor::arange(b * c * t * h * w, (Kind::Float, Device::Cpu));
            count.square().sin().view([b, t, h, w, c]).permute([0, 4, 1, 2, 3])
        };
        Noise(Mutex::new(Views(sizes.iter().map(view).collect())))
    }
}

impl Source for Noise {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        1
    }

    fn batch(&self, _epoch: u64, _index: u64) -> Result<Views> {
        let Views(views) = &*self.0.lock().unwrap();
        Ok(Views(views.iter().map(Tensor::shallow_clone).collect()))
    }
}

/// A method and what it is trained on.
struct Case {
    name: String,
    method: Box<dyn VideoMethod>,
    batch: i64,
    channels: i64,
    optimizer: OptimizerConfig,
}

fn train(criterion: &mut Criterion, case: Case) {
    let Case { name, mut method, batch, channels, optimizer } = case;
    let size = |view: &ssl_video::View| {
        let side = view.augment.clip.size as i64;
        [batch, channels, view.frames as i64, side, side]
    };
    let source = Noise::new(&method.views().iter().map(size).collect::<Vec<_>>());
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(batch as u64)).sampling_mode(SamplingMode::Flat).sample_size(10);
    group.measurement_time(Duration::from_secs(8)).warm_up_time(Duration::from_secs(1));
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut optimizer = optimizer.build(named_tensors(method.as_ref())).unwrap();
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
        let mut at = 0;
        group.bench_function(BenchmarkId::new("step", format!("{precision:?}").to_lowercase()), |bencher| {
            bencher.iter(|| {
                let log: &mut Vec<(u64, String, f64)> = &mut Vec::new();
                let steps = at..at + 1;
                at = trainer.fit(method.as_mut(), optimizer.as_mut(), &source, steps, &mut [], log).unwrap();
            });
        });
    }
    group.finish();
}

/// Pace prediction: a step chooses 16 frames of each clip and passes them through the network once.
fn network(arch: &str) -> Case {
    let encoder = EncoderConfig::named(arch, &EncoderConfig::default(), 64, 16).unwrap();
    let config = json!({"paces": 2, "clip_frames": 16, "augment": {"clip": {"size": 64}}});
    let method = find("pace").unwrap().build(&config, &Encoders::new(encoder, Device::Cpu)).unwrap();
    Case { name: arch.to_string(), method, batch: 8, channels: 3, optimizer: OptimizerConfig::sgd(0.9) }
}

fn all(criterion: &mut Criterion) {
    // As in the examples.
    ssl_torch::flush_denormals(true).unwrap();
    assert!(ssl_torch::keep_freed_memory());
    for arch in ["r3d18", "r2plus1d18"] {
        train(criterion, network(arch));
    }
    for entry in ALL {
        let recipe = entry.recipe("moving-fashion-mnist").unwrap();
        let (channels, batch) = (recipe.encoder.channels(), recipe.train.batch_size as i64);
        let method = entry.build(&recipe.method, &Encoders::new(recipe.encoder, Device::Cpu)).unwrap();
        let name = format!("{}, moving-fashion-mnist", entry.info.name);
        train(criterion, Case { name, method, batch, channels, optimizer: recipe.train.optimizer });
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
