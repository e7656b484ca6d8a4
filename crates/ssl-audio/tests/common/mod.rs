//! Files of sound for the tests, written by another library than reads them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]
use ssl_audio::AudioDataset;
use ssl_audio::readers::{Options, Split, open};
use ssl_core::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A WAV file of 16-bit integers.
pub(crate) fn wav(path: &Path, sample_rate: u32, channels: u16, samples: &[i16]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
}

/// A tone of `count` samples, at a level of its own for each `level` from 1 on.
pub(crate) fn tone(level: usize, count: usize) -> Vec<i16> {
    (0..count).map(|n| (level as f64 * 500.0 * (n as f64 * 0.2).sin()) as i16).collect()
}

/// A file of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Options for sound of 8 kHz.
pub(crate) fn options(max_bad: f64) -> Options {
    Options { sample_rate: 8_000, max_bad, ..Options::default() }
}

/// The training set at a path, at 8 kHz.
pub(crate) fn train(path: &Path) -> Result<Arc<dyn AudioDataset>> {
    open(path, Split::Train, &options(0.01))
}

/// The message of an error.
pub(crate) fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}
