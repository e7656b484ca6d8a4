//! Runs that stop and go on end as if they had not stopped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, dead_code)]
mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{run, tiny, video, write_data};

/// Steps of a run with [`tiny`].
const STEPS: u64 = 4;

/// The losses by step.
fn losses(dir: &Path) -> Vec<f64> {
    let lines = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    lines.lines().map(loss).collect()
}

/// A copy of a run as it was when step 2 was saved.
fn stopped(whole: &Path, copy: &Path) {
    fs::create_dir_all(copy.join("checkpoints")).unwrap();
    for file in ["config.json", "checkpoints/step-00000002.safetensors"] {
        fs::copy(whole.join(file), copy.join(file)).unwrap();
    }
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let first: String = lines.lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(copy.join("metrics.jsonl"), first).unwrap();
}

/// What the runs of this test have in common.
const FLAGS: [&str; 7] = ["--no-eval", "--looks", "0", "--keep", "9", "--checkpoint-every", "2"];

#[test]
fn every_method_goes_on_to_the_last_bit() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    write_data(&data);
    for entry in ssl_video::methods::ALL {
        let method = entry.info.name;
        let (whole, half) = (root.path().join(method), root.path().join(format!("{method}-half")));
        run(tiny(method, &data).args(FLAGS).arg("--out").arg(&whole)).succeeds();
        stopped(&whole, &half);
        run(video(&[method]).args(FLAGS).arg("--resume").arg(&half)).succeeds();
        let last = format!("checkpoints/step-{STEPS:08}.safetensors");
        for file in ["encoder.safetensors", &last] {
            let same = fs::read(whole.join(file)).unwrap() == fs::read(half.join(file)).unwrap();
            assert!(same, "{method}: {file}");
        }
        assert_eq!(losses(&whole), losses(&half), "{method}");
        assert_eq!(losses(&whole).len() as u64, STEPS, "{method}");
    }
}
