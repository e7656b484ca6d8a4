//! The measures of the protocol on 10,000 training and 2,000 test features of width 512, of 10 classes.
//!
//! `cargo bench -p ssl-core --bench eval`; `logistic.py` beside this file fits scikit-learn's classifier to the same
//! features with the same penalties.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]
use criterion::{Criterion, criterion_group, criterion_main};
use ssl_core::eval::{
    ClusteringOptions, Features, IntervalOptions, KnnOptions, LeftOutOptions, LinearOptions,
};
use ssl_core::eval::{clustering, interval, knn, label_retrieval, left_out, linear, rankme};
use std::hint::black_box;
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 512;
const CLASSES: i64 = 10;

/// Rows from `first` on: sin(n n) at the row-major index n, and 0.2 more in every tenth column, from that of the class on.
fn features(first: i64, rows: i64) -> Features {
    let labels: Vec<i64> = (first..first + rows).map(|row| row % CLASSES).collect();
    let index = Tensor::arange_start(first * WIDTH, (first + rows) * WIDTH, (Kind::Double, Device::Cpu));
    let noise = index.square().sin().view([rows, WIDTH]).to_kind(Kind::Float);
    let column = Tensor::arange(WIDTH, (Kind::Int64, Device::Cpu)).remainder(CLASSES);
    let own = column.unsqueeze(0).eq_tensor(&Tensor::from_slice(&labels).unsqueeze(1));
    Features::new(&(noise + own.to_kind(Kind::Float) * 0.2), labels).unwrap()
}

fn measures(criterion: &mut Criterion) {
    let (train, test) = (features(0, 10_000), features(10_000, 2_000));
    let (sample, asked) = (features(10_000, 4_000), features(10_000, 2_000));
    let found = linear(&train, &test, &LinearOptions::default()).unwrap();
    eprintln!("linear probe: accuracy {:.4}, penalty {}", found.accuracy, found.l2);
    let right: Vec<bool> = found.predictions.iter().zip(test.y()).map(|(a, b)| a == b).collect();

    let mut group = criterion.benchmark_group("eval");
    group.sample_size(10);
    group.bench_function("linear probe, 10,000 x 512", |bencher| {
        bencher.iter(|| linear(black_box(&train), &test, &LinearOptions::default()).unwrap());
    });
    group.bench_function("kNN, 10,000 x 512, 2,000 queries", |bencher| {
        bencher.iter(|| knn(black_box(&train), &test, &KnnOptions::default()).unwrap());
    });
    group.bench_function("clustering, 5,000 of 10,000 x 512", |bencher| {
        bencher.iter(|| clustering(black_box(&train), &ClusteringOptions::default()).unwrap());
    });
    group.bench_function("retrieval, 2,000 x 512", |bencher| {
        bencher.iter(|| label_retrieval(black_box(&asked)).unwrap());
    });
    group.bench_function("RankMe, 4,000 x 512", |bencher| {
        bencher.iter(|| rankme(black_box(sample.x())).unwrap());
    });
    group.bench_function("interval, 2,000 answers", |bencher| {
        bencher.iter(|| interval(black_box(&right), &IntervalOptions::default()).unwrap());
    });
    group.bench_function("classes left out, 4,000 and 2,000 x 512", |bencher| {
        bencher.iter(|| left_out(black_box(&train), &test, &LeftOutOptions::default()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, measures);
criterion_main!(benches);
