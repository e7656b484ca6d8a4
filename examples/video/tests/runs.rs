//! What a run leaves behind, and what bad input gets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, dead_code)]
mod support;

use serde_json::Value;
use std::fs;
use support::{run, tiny, video, write_data, write_frame};

#[test]
fn the_summary_has_the_probes_their_floors_and_the_pretext_task() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    let ended = run(tiny("frame_order", &data).arg("--robustness").arg("--out").arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    for place in [
        "/eval/linear",
        "/floors/random_init/linear",
        "/floors/mean_frame_difference/linear",
        "/floors/color_histogram/linear",
        "/pretext/accuracy",
        "/pretext/chance",
        "/eval/robustness/gaussian_noise/4",
        "/eval/robustness/dropped_frames/4",
        "/eval/clustering/nmi",
    ] {
        assert!(summary.pointer(place).is_some_and(Value::is_number), "{place}: {summary}");
    }
    assert_eq!((&summary["task"], &summary["floors"]["majority"]), (&"class".into(), &0.5.into()));
    assert_eq!((&summary["train_examples"], &summary["eval"]["n_test"]), (&32.into(), &8.into()));
    for file in ["views.png", "look.png", "encoder.safetensors", "report.html"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn videos_without_labels_are_cut_and_asked_for_their_origin() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    for name in ["one", "two"] {
        for frame in 0..60 {
            let folder = data.join(name);
            fs::create_dir_all(&folder).unwrap();
            write_frame(&folder.join(format!("{frame:03}.png")), (frame, if name == "one" { 2 } else { 14 }));
        }
    }
    let out = root.path().join("run");
    let ended = run(tiny("pace", &data).args(["--segment", "1", "--out"]).arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    // Folders of frames have 10 a second: 48 to train on and 12 held out of each.
    assert_eq!((&summary["train_examples"], &summary["eval"]["n_test"]), (&8.into(), &2.into()));
    assert_eq!(summary["task"], "video");
}

#[test]
fn bad_input_is_named_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let (data, empty) = (root.path().join("data"), root.path().join("empty"));
    write_data(&data);
    fs::create_dir(&empty).unwrap();
    let refused = |data: &std::path::Path, flags: &[&str], part: &str| {
        let out = root.path().join("refused");
        let ended = run(tiny("frame_order", data).args(flags).arg("--out").arg(&out));
        let line = ended.fails(1);
        assert!(line.contains(part), "expected {part}: {line}");
        assert!(!out.exists());
    };
    refused(&empty, &[], "empty");
    refused(&root.path().join("none"), &[], "none: no such file or folder");
    refused(&data, &["--batch-size", "100000"], "batch_size: expected 1 to");
    refused(&data, &["--encoder", "resnet9"], "resnet9");
    let film = root.path().join("film");
    fs::create_dir(&film).unwrap();
    fs::write(film.join("a.webm"), "no film").unwrap();
    refused(&film, &["--ffmpeg", "no-such-program"], "no-such-program");
    let mut list = video(&["list"]);
    let listed = run(&mut list);
    assert!(ssl_video::methods::ALL.iter().all(|entry| listed.succeeds().contains(entry.info.name)));
}
