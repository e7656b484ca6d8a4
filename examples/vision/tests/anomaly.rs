//! Images of a class that is left out, told from all others.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::{run, tiny, vision, write_data};
use tempfile::{TempDir, tempdir};

/// A run on the small images, with more flags.
fn scene(method: &[&str]) -> TempDir {
    let root = tempdir().unwrap();
    write_data(&root.path().join("data"));
    let mut command = match method {
        [] => tiny(Path::new("data")),
        _ => vision(method),
    };
    let flags = ["--steps", "4", "--no-eval", "--quiet", "--out", "run", "--data", "data", "--threads", "1"];
    run(command.current_dir(root.path()).args(flags)).succeeds();
    root
}

fn anomaly(root: &TempDir, flags: &[&str]) -> Command {
    let mut command = vision(&["anomaly", "run"]);
    command.args(flags).current_dir(root.path());
    command
}

fn json(out: &str) -> Value {
    serde_json::from_str(out.lines().last().unwrap()).unwrap()
}

const AUTOENCODER: [&str; 11] = [
    "autoencoder",
    "--encoder",
    "resnet10_w4",
    "--batch-size",
    "16",
    "--augment.size",
    "12",
    "--image-size",
    "12",
    "--decoder-width",
    "4",
];

#[test]
fn each_class_is_left_out_in_turn_and_their_mean_is_given() {
    let root = scene(&[]);
    let ended = run(&mut anomaly(&root, &[]));
    let found = json(ended.succeeds());
    let classes = found["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 4);
    for (class, row) in classes.iter().enumerate() {
        assert_eq!(row["class"], class.to_string());
        assert_eq!((&row["n_left_out"], &row["n_others"]), (&10.into(), &30.into()));
        assert_eq!(row["left_out_of_training"], false);
    }
    for score in ["knn", "raw_knn"] {
        let areas: Vec<f64> = classes.iter().map(|row| row["auroc"][score].as_f64().unwrap()).collect();
        let mean = found["mean"][score].as_f64().unwrap();
        assert!(areas.iter().all(|area| (0. ..=1.).contains(area)), "{areas:?}");
        assert!((areas.iter().sum::<f64>() / 4. - mean).abs() < 1e-9);
    }
    assert!(found["mean"]["reconstruction"].is_null(), "SimCLR draws nothing");
    assert!(ended.err.contains("LEFT OUT") && ended.err.contains("mean"), "{}", ended.err);
    let few = json(run(&mut anomaly(&root, &["--left-out", "2", "--k", "5", "--limit", "50"])).succeeds());
    assert_eq!((few["classes"].as_array().unwrap().len(), &few["train_examples"]), (1, &50.into()));
    assert_eq!(few["mean"], few["classes"][0]["auroc"]);
}

#[test]
fn a_class_left_out_of_training_is_asked_for_and_restored_images_score_too() {
    let root = scene(&[&AUTOENCODER[..], &["--leave-out", "3"]].concat());
    let summary = std::fs::read_to_string(root.path().join("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["train_examples"], 150, "of 200 images of four classes");
    let found = json(run(&mut anomaly(&root, &[])).succeeds());
    let [row] = &found["classes"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!((&row["class"], &row["left_out_of_training"]), (&"3".into(), &true.into()));
    assert_eq!((&row["n_left_out"], &row["n_others"]), (&10.into(), &30.into()));
    assert!(row["auroc"]["reconstruction"].as_f64().is_some_and(|area| (0. ..=1.).contains(&area)), "{row}");
    let all = json(run(&mut anomaly(&root, &["--left-out", "all"])).succeeds());
    assert_eq!(all["classes"].as_array().unwrap().len(), 4);
    assert_eq!(&all["classes"][3], row);
    assert!(all["classes"][0]["auroc"]["reconstruction"].is_null(), "it was trained on");
    assert!(all["mean"]["reconstruction"].is_null() && all["mean"]["knn"].is_number());
}

#[test]
fn what_is_not_there_is_refused_in_one_line() {
    let root = scene(&[]);
    for (flags, message) in [
        (&["--left-out", "7"][..], "--left-out: expected 0, 1, 2, 3, got 7"),
        (&["--k", "0"], "k: expected 1 to 150, the training set, got 0"),
        (&["--data", "nowhere"], "nowhere"),
    ] {
        let ended = run(&mut anomaly(&root, flags));
        assert!(ended.fails(1).contains(message), "{message}: {}", ended.err);
    }
    let ended = run(vision(&["anomaly", "absent"]).current_dir(root.path()));
    assert!(ended.fails(1).contains("config.json: cannot read"), "{}", ended.err);
    let ended = run(tiny(Path::new("data")).current_dir(root.path()).args(["--leave-out", "shoes"]));
    assert!(ended.fails(1).contains("--leave-out: expected 0, 1, 2, 3, got shoes"), "{}", ended.err);
    let ended = run(vision(&["colorization", "--data", "data"]).current_dir(root.path()));
    assert!(ended.fails(1).contains("colorization needs colors"), "{}", ended.err);
}
