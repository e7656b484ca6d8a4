//! Runs that stop and go on end as if they had not stopped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{run, text, tiny, write_data};

/// Steps of a run with [`tiny`].
const STEPS: u64 = 12;

/// The losses by step.
fn losses(dir: &Path) -> Vec<f64> {
    let lines = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    lines.lines().map(loss).collect()
}

/// A copy of a run as it was when step 8 was saved.
fn stopped(whole: &Path, copy: &Path) {
    fs::create_dir_all(copy.join("checkpoints")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(whole.join(file), copy.join(file)).unwrap();
    }
    let saved = "checkpoints/step-00000008.safetensors";
    fs::copy(whole.join(saved), copy.join(saved)).unwrap();
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let first: String = lines.lines().take(8).map(|line| format!("{line}\n")).collect();
    fs::write(copy.join("metrics.jsonl"), first).unwrap();
}

#[test]
fn every_method_goes_on_to_the_last_bit() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    write_data(&data);
    for method in ["mlm", "clm", "dae", "electra", "word2vec", "simcse", "multi"] {
        let (whole, half) = (root.path().join(method), root.path().join(format!("{method}-half")));
        let flags = ["--no-eval", "--looks", "0", "--keep", "9", "--checkpoint-every", "4", "--out"];
        let size = if method == "clm" { "400" } else { "90" };
        run(tiny(method, &data).args(["--vocab-size", size]).args(flags).arg(&whole)).succeeds();
        stopped(&whole, &half);
        run(text(&[
            method,
            "--no-eval",
            "--looks",
            "0",
            "--keep",
            "9",
            "--checkpoint-every",
            "4",
            "--resume",
        ])
        .arg(&half))
        .succeeds();
        let last = format!("checkpoints/step-{STEPS:08}.safetensors");
        for file in ["encoder.safetensors", &last] {
            let same = fs::read(whole.join(file)).unwrap() == fs::read(half.join(file)).unwrap();
            assert!(same, "{method}: {file}");
        }
        assert_eq!(losses(&whole), losses(&half), "{method}");
        assert_eq!(losses(&whole).len() as u64, STEPS, "{method}");
    }
}
