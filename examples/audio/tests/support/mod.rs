//! The program as a process, on a small data set.
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub use ssl_examples::testing::run;

/// Hertz of all recordings.
pub const RATE: u32 = 8_000;

/// A WAV file of so many seconds, one tone with overtones, silent at 0 hertz.
pub fn write_tone(path: &Path, hertz: f64, seconds: f64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for n in 0..(seconds * f64::from(RATE)) as u32 {
        let phase = std::f64::consts::TAU * hertz * f64::from(n) / f64::from(RATE);
        let level = phase.sin() + 0.5 * (2. * phase).sin() + 0.2 * (f64::from(n) * 0.9).sin().powi(3);
        writer.write_sample((level * 9_000. * hertz.min(1.)) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

/// Folders of classes: 48 training and 16 test recordings of low and of high tones.
pub fn write_data(folder: &Path) {
    for (split, count) in [("train", 24), ("test", 8)] {
        for (class, base) in [("high", 1_500.), ("low", 200.)] {
            for index in 0..count {
                let path = folder.join(split).join(class).join(format!("{index}.wav"));
                write_tone(&path, base + 17. * f64::from(index), 0.3 + 0.01 * f64::from(index));
            }
        }
    }
}

/// The program, with no data set in its store.
pub fn audio(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_audio"));
    command.args(arguments).stdin(Stdio::null());
    command.env("SSL_DATA_DIR", "no-store").env("RUST_BACKTRACE", "1");
    command
}

/// A new run of seconds: a small encoder, 12 steps.
///
/// One thread: those of libtorch wait for one another by spinning, which takes ten times as long on busy cores.
pub fn tiny(method: &str, data: &Path) -> Command {
    let encoder = match method {
        "cpc" | "multi" => "cpc_c8_gru",
        "apc" => "mel_gru_d8_l2",
        "masked_spectrogram" => "mel_d8_l1_h2",
        "wav2vec2" | "hubert" => "wav2vec2_c8_d16_l1_h2",
        _ => "mel_conv_d8",
    };
    let mut command = audio(&[method, "--encoder", encoder, "--sample-rate", "8000", "--batch-size", "8"]);
    command.args(["--clip", "0.3", "--held-out", "16", "--steps", "12", "--threads", "1"]);
    command.args(["--eval-data", "none"]).args(windows(method)).arg("--data").arg(data);
    command
}

/// Short windows.
fn windows(method: &str) -> Vec<&'static str> {
    match method {
        "multi" => Vec::new(),
        "byol_a" => vec!["--augment.samples", "2400"],
        "cola" => vec!["--first-view.samples", "2400", "--second-view.samples", "2400"],
        "cpc" => vec!["--augment.samples", "3200", "--ahead", "3"],
        "wav2vec2" | "hubert" => vec!["--augment.samples", "8000"],
        _ => vec!["--augment.samples", "3200"],
    }
}
