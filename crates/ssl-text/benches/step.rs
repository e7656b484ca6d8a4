//! Tokens per second of masked language modelling on all cores, collation included: a BERT of width 256 and 4 layers on
//! sequences of 128 tokens of a vocabulary of 8,192, batches of 32, dropout and all. And of tokenizing.
//!
//! The text is random words: the work does not depend on it.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rand::RngExt;
use serde_json::json;
use ssl_core::optim::OptimizerConfig;
use ssl_core::{Loader, Precision, Schedule, Trainer, named_tensors, rng};
use ssl_text::methods::find;
use ssl_text::models::{EncoderConfig, Encoders};
use ssl_text::{SequenceSource, StoreOptions, Texts, TokenStore, Tokenizer, TokenizerConfig};
use std::sync::Arc;
use std::time::Duration;
use tch::Device;

const BATCH: usize = 32;
const LENGTH: usize = 128;

/// Documents of words whose frequencies fall as in text.
fn texts() -> Texts {
    let mut rng = rng(0, &[]);
    let syllables =
        ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "xu", "za"];
    let words: Vec<String> = (0..30_000)
        .map(|_| (0..rng.random_range(1..5)).map(|_| syllables[rng.random_range(0..16)]).collect())
        .collect();
    let document = |_| {
        let word = || words[((rng.random::<f64>().powi(3) * 30_000.) as usize).min(29_999)].as_str();
        std::iter::repeat_with(word).take(200).collect::<Vec<_>>().join(" ")
    };
    Texts::new((0..2000).map(document).collect::<Vec<String>>()).unwrap()
}

fn train(criterion: &mut Criterion, store: &Arc<TokenStore>, tokenizer: &Tokenizer, precision: Precision) {
    let shape =
        EncoderConfig { max_length: LENGTH as i64, ..EncoderConfig::new("bert_mini".parse().unwrap()) };
    let encoders = Encoders::new(shape, tokenizer.vocabulary().clone(), LENGTH, Device::Cpu).unwrap();
    let mut method = find("mlm").unwrap().build(&json!({}), &encoders).unwrap();
    let optimizer: OptimizerConfig = serde_json::from_value(json!({"name": "adamw"})).unwrap();
    let mut optimizer = optimizer.build(named_tensors(method.as_ref())).unwrap();
    let trainer = Trainer {
        total_steps: 1_000_000,
        seed: 0,
        loader: Loader { device: Device::Cpu, prefetch: 0 },
        precision,
        learning_rate: Schedule::constant(5e-4),
        weight_decay: Schedule::constant(0.01),
        clip_norm: None,
        accumulate: 1,
        log_every: 1_000_000,
    };
    let source = SequenceSource::new(Arc::clone(store), method.prepare(), BATCH, 0).unwrap();
    let mut group = criterion.benchmark_group("mlm bert_mini, 128 tokens, vocabulary 8192");
    group.throughput(Throughput::Elements((BATCH * LENGTH) as u64));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    let mut at = 0;
    group.bench_function(
        BenchmarkId::new("end to end", format!("{precision:?}").to_lowercase()),
        |bencher| {
            bencher.iter(|| {
                let log: &mut Vec<(u64, String, f64)> = &mut Vec::new();
                at = trainer
                    .fit(method.as_mut(), optimizer.as_mut(), &source, at..at + 1, &mut [], log)
                    .unwrap();
            });
        },
    );
}

fn all(criterion: &mut Criterion) {
    // As in the examples.
    ssl_torch::flush_denormals(true).unwrap();
    assert!(ssl_torch::keep_freed_memory());
    let texts = texts();
    let tokenizer = Tokenizer::train(&TokenizerConfig::default(), &texts, &|_| {}).unwrap();
    let options = StoreOptions::new(std::env::temp_dir());
    let store = Arc::new(TokenStore::new(&texts, &tokenizer, &options, &|_| {}).unwrap());
    let mut group = criterion.benchmark_group("tokenizer");
    group.throughput(Throughput::Elements(store.len())).sample_size(10);
    group.bench_function("word_piece, all threads", |bencher| {
        bencher.iter(|| TokenStore::new(&texts, &tokenizer, &options, &|_| {}).unwrap());
    });
    group.finish();
    for precision in [Precision::Fp32, Precision::Bf16] {
        train(criterion, &store, &tokenizer, precision);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
    targets = all
}
criterion_main!(benches);
