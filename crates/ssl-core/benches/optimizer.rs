//! One optimizer step and one moving average over the parameters of a ResNet-18: 11.2 million in 62 tensors.
//!
//! `cargo bench -p ssl-core --bench optimizer`
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]
use criterion::{Criterion, criterion_group, criterion_main};
use ssl_core::optim::{LarsConfig, OptimizerConfig};
use ssl_core::{Ema, Statistics};
use std::collections::BTreeMap;
use std::hint::black_box;
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

/// The shapes of torchvision's `resnet18`, the last layer included, under short names.
fn shapes() -> Vec<Vec<i64>> {
    let mut shapes = vec![vec![64, 3, 7, 7], vec![64], vec![64]];
    let mut input = 64;
    for width in [64, 128, 256, 512] {
        for (block, from) in [(0, input), (1, width)] {
            let norm = [vec![width], vec![width]];
            shapes.push(vec![width, from, 3, 3]);
            shapes.extend(norm.clone());
            shapes.push(vec![width, width, 3, 3]);
            shapes.extend(norm.clone());
            if block == 0 && from != width {
                shapes.push(vec![width, from, 1, 1]);
                shapes.extend(norm);
            }
        }
        input = width;
    }
    shapes.extend([vec![10, 512], vec![10]]);
    shapes
}

fn store(device: Device) -> VarStore {
    let store = VarStore::new(device);
    for (i, size) in shapes().iter().enumerate() {
        let _ = store.root().f_var(&format!("p{i:02}"), size, Init::Randn { mean: 0., stdev: 0.1 }).unwrap();
    }
    store
}

fn named(store: &VarStore) -> BTreeMap<String, Tensor> {
    store.variables().into_iter().collect()
}

fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

fn optimizers(criterion: &mut Criterion) {
    let device = Device::cuda_if_available();
    let mut group = criterion.benchmark_group(format!("resnet18 {device:?}"));
    let configs = [
        ("sgd", OptimizerConfig::sgd(0.9)),
        ("adamw", OptimizerConfig::adamw()),
        ("lars", OptimizerConfig::lars()),
        ("lars solo", OptimizerConfig::Lars(LarsConfig::solo())),
        ("lamb", OptimizerConfig::lamb()),
    ];
    for (name, config) in configs {
        let student = store(device);
        let mut optimizer = config.build(named(&student)).unwrap();
        let _ = optimizer.flat().gradients().shallow_clone().normal_(0., 1e-3);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                optimizer.step(black_box(1e-6), 1e-4).unwrap();
                wait(device);
            });
        });
    }

    let student = store(device);
    let mut optimizer = OptimizerConfig::adamw().build(named(&student)).unwrap();
    group.bench_function("zero_grad", |bencher| {
        bencher.iter(|| {
            optimizer.zero_grad().unwrap();
            wait(device);
        });
    });
    group.bench_function("clip_norm", |bencher| {
        bencher.iter(|| {
            let _ = black_box(optimizer.clip_norm(1.).unwrap());
            wait(device);
        });
    });
    for (name, student) in [("ema flat", student), ("ema tensor by tensor", store(device))] {
        let mut teacher = store(device);
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                ema.update(0.99).unwrap();
                wait(device);
            });
        });
    }
    // What libtorch's own loop over 62 tensors costs.
    let store = store(device);
    let mut opt = tch::nn::OptimizerConfig::build(tch::nn::AdamW::default(), &store, 1e-6).unwrap();
    let sum = store.trainable_variables().iter().map(|x| x.sum(Kind::Float)).reduce(|a, b| a + b).unwrap();
    sum.backward();
    group.bench_function("adamw of libtorch, tensor by tensor", |bencher| {
        bencher.iter(|| {
            opt.step();
            wait(device);
        });
    });
    group.finish();
}

criterion_group!(benches, optimizers);
criterion_main!(benches);
