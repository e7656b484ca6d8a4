//! Seconds of sound per second of training on all cores: contrastive predictive coding as in the paper (512 channels, a
//! GRU of 256, 12 steps ahead, 128 negatives, 8 windows of 20,480 samples at 16 kHz), and every method by its recipe for
//! `asterisk`.
//!
//! The sound is noise: the work does not depend on it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use serde_json::Value;
use ssl_audio::methods::{ALL, AudioMethod, find};
use ssl_audio::models::{EncoderConfig, Encoders};
use ssl_core::optim::OptimizerConfig;
use ssl_core::{Loader, Precision, Result, Schedule, Source, Trainer, Views, named_tensors};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// The same batch at every position.
#[derive(Debug)]
struct Noise(Vec<[i64; 2]>);

impl Source for Noise {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        1
    }

    fn batch(&self, _epoch: u64, _index: u64) -> Result<Views> {
        let view = |&size: &[i64; 2]| {
            let count = Tensor::f_arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu))?;
            Ok(count.f_square()?.f_sin()?.f_mul_scalar(0.1)?.f_view(size)?)
        };
        self.0.iter().map(view).collect::<Result<_>>().map(Views)
    }
}

fn train(criterion: &mut Criterion, name: &str, mut method: Box<dyn AudioMethod>, batch: i64, rate: u32) {
    let optimizer: OptimizerConfig = serde_json::from_value(serde_json::json!({"name": "adamw"})).unwrap();
    let sizes: Vec<[i64; 2]> = method.views().iter().map(|view| [batch, view.samples as i64]).collect();
    // What is heard for the first time: views of one place count once.
    let seconds = sizes.iter().map(|[batch, samples]| batch * samples / i64::from(rate)).sum::<i64>();
    let source = Noise(sizes);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(seconds as u64));
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(4));
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut optimizer = optimizer.build(named_tensors(method.as_ref())).unwrap();
        let trainer = Trainer {
            total_steps: 1_000_000,
            seed: 0,
            loader: Loader { device: Device::Cpu, prefetch: 0 },
            precision,
            learning_rate: Schedule::constant(2e-4),
            weight_decay: Schedule::constant(0.),
            clip_norm: None,
            accumulate: 1,
            log_every: 1_000_000,
        };
        let mut at = 0;
        group.bench_function(BenchmarkId::new("step", format!("{precision:?}").to_lowercase()), |bencher| {
            bencher.iter(|| {
                let mut recorder: Vec<(u64, String, f64)> = Vec::new();
                trainer
                    .fit(&mut method, optimizer.as_mut(), &source, at..at + 1, &mut [], &mut recorder)
                    .unwrap();
                at += 1;
            });
        });
    }
    group.finish();
}

fn step(criterion: &mut Criterion) {
    let paper = EncoderConfig::new("cpc_c512_gru_d256".parse().unwrap());
    let rate = paper.sample_rate();
    let method = find("cpc").unwrap().build(&Value::Null, &Encoders::new(paper, Device::Cpu)).unwrap();
    train(criterion, "cpc, the paper's", method, 8, rate);
    for entry in ALL {
        let recipe = entry.recipe("asterisk").unwrap();
        let rate = recipe.encoder.sample_rate();
        let method = entry.build(&recipe.method, &Encoders::new(recipe.encoder, Device::Cpu)).unwrap();
        train(
            criterion,
            &format!("{}, asterisk", entry.info.name),
            method,
            recipe.train.batch_size as i64,
            rate,
        );
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
