//! Seconds of sound per second: batches of windows from files on all cores, tensors included, and the front ends.
//!
//! Windows are of 1.28 seconds at 16 kHz, 25 in a batch. The WAV files are made here: half a minute each, at 8 and at
//! 16 kHz; the FLAC file is that of the tests.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ssl_audio::frontend::{
    CpcEncoder, CpcEncoderConfig, FeatureExtractor, FeatureExtractorConfig, LogMel, MelConfig,
};
use ssl_audio::readers::{Options, Split, open};
use ssl_audio::{Augment, Sampling, WindowSource};
use ssl_core::nn::{Mode, Module};
use ssl_core::{Precision, no_grad};
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Windows in a batch, and seconds in all of them.
const BATCH: (usize, u64) = (25, 32);

fn wav(path: &Path, sample_rate: u32) {
    let (bits_per_sample, sample_format) = (16, hound::SampleFormat::Int);
    let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample, sample_format };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    (0..30 * sample_rate).for_each(|n| writer.write_sample((n * n % 9_973) as i16).unwrap());
    writer.finalize().unwrap();
}

fn windows(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("windows");
    group.throughput(Throughput::Elements(BATCH.1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    let flac = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tone.flac");
    let all = 512 << 20;
    for (name, rate, cache_bytes, view) in [
        ("wav 16 kHz", 16_000, all, Augment::crop(20_480)),
        ("wav 8 kHz, kept", 8_000, all, Augment::crop(20_480)),
        ("wav 8 kHz, read", 8_000, 0, Augment::crop(20_480)),
        ("flac, kept", 0, all, Augment::crop(20_480)),
        ("flac, read", 0, 0, Augment::crop(20_480)),
        ("wav 16 kHz, augmented", 16_000, all, Augment::wave(20_480)),
    ] {
        let data = folder.path().join(rate.to_string());
        std::fs::create_dir_all(&data).unwrap();
        for n in 0..10 {
            match rate {
                0 => drop(std::fs::copy(&flac, data.join(format!("{n}.flac"))).unwrap()),
                rate => wav(&data.join(format!("{n}.wav")), rate),
            }
        }
        let set = open(&data, Split::Train, &Options { cache_bytes, ..Options::default() }).unwrap();
        let batch = if rate == 0 { 20 } else { BATCH.0 };
        let source = WindowSource::new(set, vec![view], Sampling::default(), batch, 0).unwrap();
        let mut position = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                position += 1;
                let per_epoch = source.batches_per_epoch();
                black_box(source.views(position / per_epoch, position % per_epoch).unwrap())
            })
        });
    }
    group.finish();
}

fn frontends(c: &mut Criterion) {
    let mut group = c.benchmark_group("frontends");
    group.throughput(Throughput::Elements(BATCH.1)).measurement_time(Duration::from_secs(4)).sample_size(10);
    let batch = Tensor::randn([BATCH.0 as i64, 20_480], (Kind::Float, Device::Cpu));
    let mel = LogMel::new(&MelConfig::default(), Device::Cpu).unwrap();
    group.bench_function("log-mel", |b| b.iter(|| black_box(mel.forward(&batch).unwrap())));
    let vars = VarStore::new(Device::Cpu);
    let cpc = CpcEncoder::new(&(vars.root() / "cpc"), &CpcEncoderConfig::default()).unwrap();
    let wav2vec2 = FeatureExtractor::new(&(vars.root() / "w"), &FeatureExtractorConfig::default()).unwrap();
    for (name, net) in [("cpc", &cpc as &dyn Module), ("wav2vec2", &wav2vec2)] {
        for precision in [Precision::Fp32, Precision::Bf16] {
            group.bench_function(format!("{name} {precision:?}"), |b| {
                b.iter(|| {
                    let forward = || precision.scope(Device::Cpu, || net.forward(&batch, Mode::Eval));
                    black_box(no_grad(forward).unwrap())
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, windows, frontends);
criterion_main!(benches);
