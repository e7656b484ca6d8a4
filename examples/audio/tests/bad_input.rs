//! Bad input: one line that says what, where, what was expected and what to do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, dead_code)]
mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use support::{run, tiny, write_data, write_tone};
use tempfile::TempDir;

fn scene() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    write_data(&data);
    (root, data)
}

/// The line with which a run is refused; it makes no directory.
#[track_caller]
fn refused(method: &str, data: &Path, flags: &[&str], parts: &[&str]) {
    let out = data.with_file_name("refused");
    let ended = run(tiny(method, data).args(flags).arg("--out").arg(&out));
    let line = ended.fails(1);
    for part in parts {
        assert!(line.contains(part), "expected {part}: {line}");
    }
    assert!(!out.exists(), "{flags:?}");
}

#[test]
fn what_is_no_sound_is_named_and_left_out_up_to_a_limit() {
    let (root, data) = scene();
    fs::write(data.join("train/low/text.wav"), "this is no sound").unwrap();
    let whole = fs::read(data.join("train/low/3.wav")).unwrap();
    fs::write(data.join("train/low/cut.wav"), &whole[..60]).unwrap();
    refused("cpc", &data, &[], &["2 of 50 clips cannot be read", "cut.wav: truncated"]);
    let out = root.path().join("run");
    let ended = run(tiny("cpc", &data).args(["--max-bad", "0.1", "--no-eval", "--out"]).arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    assert!(summary["unreadable"].as_u64().unwrap() >= 1, "{summary}");
    assert!(ended.err.contains("skipped: ") && ended.err.contains("text.wav"), "{}", ended.err);
}

#[test]
fn short_and_silent_recordings_are_left_out_by_name_where_asked() {
    let (root, data) = scene();
    write_tone(&data.join("train/low/short.wav"), 300., 0.01);
    write_tone(&data.join("train/low/silent.wav"), 0., 0.5);
    let out = root.path().join("run");
    let flags = ["--shortest", "0.1", "--quietest", "-60", "--no-eval", "--max-bad", "1", "--out"];
    let ended = run(tiny("cpc", &data).args(flags).arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    assert_eq!(summary["train_examples"], 48, "{}", ended.err);
    assert!(ended.err.contains("short.wav") && ended.err.contains("silent.wav"), "{}", ended.err);
}

#[test]
fn data_encoders_and_fonts_that_do_not_fit_are_named() {
    let (root, data) = scene();
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    refused("cpc", &empty, &[], &["empty", "no sound"]);
    refused("cpc", &root.path().join("none"), &[], &["none: no such file or folder"]);
    refused("cpc", &data, &["--batch-size", "100000"], &["batch_size: expected 1 to"]);
    refused("cpc", &data, &["--encoder", "mel_conv_d8"], &["encoder"]);
    refused("apc", &data, &["--sample-rate", "1"], &["1"]);
    let (plain, font) = (root.path().join("plain"), root.path().join("bad.sf2"));
    for index in 0..20 {
        write_tone(&plain.join(format!("{index}.wav")), 300., 0.5);
    }
    fs::write(&font, "RIFF and no more").unwrap();
    refused("apc", &plain, &["--eval-data", font.to_str().unwrap()], &["bad.sf2"]);
}
