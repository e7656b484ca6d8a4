//! Groups of images: planted ones, those of a table, and batches that are balanced by them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{run, tiny, vision, write_data};
use tempfile::{TempDir, tempdir};

fn scene() -> TempDir {
    let root = tempdir().unwrap();
    write_data(&root.path().join("data"));
    root
}

/// A run of 8 steps into a folder of this name.
fn start(root: &TempDir, name: &str, flags: &[&str]) -> Command {
    let mut command = tiny(Path::new("data"));
    command.args(["--steps", "8", "--held-out", "0", "--looks", "0", "--out", name]).args(flags);
    command.current_dir(root.path());
    command
}

/// A finished run measured without floors.
fn measured(root: &TempDir, name: &str, flags: &[&str]) -> Value {
    let mut command = vision(&["simclr", "--eval-only", "--no-floors", "--held-out", "0", "--resume", name]);
    let ended = run(command.args(flags).current_dir(root.path()));
    serde_json::from_str(ended.succeeds()).unwrap()
}

#[test]
fn a_planted_group_is_found_erased_and_its_cost_given() {
    let root = scene();
    run(&mut start(&root, "run", &["--plant", "0.9", "--plant-side", "3"])).succeeds();
    let bias = &measured(&root, "run", &[])["bias"];
    let number = |path: &str| bias.pointer(path).and_then(Value::as_f64).unwrap();
    assert_eq!((&bias["column"], &bias["names"][1]), (&"planted".into(), &"tinted".into()));
    assert!(number("/leakage/linear") > number("/leakage/majority") + 0.2, "{bias}");
    assert!(number("/leakage/from_label") > 0.8, "{bias}");
    assert!(number("/erased/leakage/linear") < number("/leakage/linear") - 0.2, "{bias}");
    assert!((number("/linear") - number("/erased/linear") - number("/erased/cost")).abs() < 1e-12);
    let counted: f64 = (0..2).map(|group| number(&format!("/groups/groups/{group}/n"))).sum();
    assert_eq!(counted, 40.);
    assert!(number("/worst_class_and_group/accuracy") <= number("/groups/groups/0/accuracy").min(1.));
    let without = measured(&root, "run", &["--quiet"]);
    assert_eq!(&without["bias"], bias, "the plant is a part of the run");
}

#[test]
fn a_table_gives_the_groups_of_a_finished_run() {
    let root = scene();
    run(&mut start(&root, "run", &[])).succeeds();
    assert!(measured(&root, "run", &[]).get("bias").is_none());
    let row = |split: &str, index: usize| format!("{split},{index},{}\n", ["even", "odd"][index / 2 % 2]);
    let rows: String = (0..200).map(|i| row("train", i)).chain((0..40).map(|i| row("test", i))).collect();
    let write = |text: String| fs::write(root.path().join("groups.csv"), text).unwrap();
    write(format!("split,index,half\n{rows}"));
    let bias = &measured(&root, "run", &["--groups", "groups.csv", "--group-column", "half"])["bias"];
    assert_eq!((&bias["column"], &bias["names"][0]), (&"half".into(), &"even".into()));
    // Two classes of the four are of each half.
    assert_eq!(bias["leakage"]["from_label"], 1.0);
    assert_eq!(bias["groups"]["groups"][0]["n"], 20);
    for (text, message) in [
        (
            format!("split,index,half\n{rows}"),
            "groups.csv: expected a column group, as of --group-column, got split, index, half",
        ),
        (
            format!("split,index,group\n{}", rows.replace("test,7,odd\n", "")),
            "1 of 240 have none, the first is test example 7",
        ),
        (
            format!("split,index,group\n{}", rows.replace("even", "odd")),
            "expected at least 2 groups among the training examples, got 1: odd",
        ),
    ] {
        write(text);
        let ended = run(&mut start(&root, "refused", &["--groups", "groups.csv"]));
        assert!(ended.fails(1).contains(message), "{message}: {}", ended.err);
        assert!(!root.path().join("refused").exists(), "before there is a run");
    }
}

#[test]
fn balanced_batches_change_the_run_and_go_on_where_they_were() {
    let root = scene();
    let losses = |name: &str| {
        let text = fs::read_to_string(root.path().join(name).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone());
        lines.collect::<Vec<_>>()
    };
    let plant = ["--plant", "0.99"];
    let balance = [&plant[..], &["--balance", "groups", "--checkpoint-every", "4"]].concat();
    run(&mut start(&root, "plain", &plant)).succeeds();
    run(&mut start(&root, "whole", &balance)).succeeds();
    assert_ne!(losses("plain"), losses("whole"));
    // A run that was cut off behind its fourth step.
    run(&mut start(&root, "cut", &balance)).succeeds();
    for file in ["checkpoints/step-00000008.safetensors", "checkpoints/best.safetensors"] {
        let _ = fs::remove_file(root.path().join("cut").join(file));
    }
    let mut on = vision(&["simclr", "--no-eval", "--held-out", "0", "--looks", "0", "--resume", "cut"]);
    run(on.current_dir(root.path())).succeeds();
    assert_eq!(losses("cut"), losses("whole"));
    let ended = run(&mut start(&root, "refused", &["--balance", "groups"]));
    assert!(
        ended.fails(1).contains("--balance groups: expected --groups FILE or --plant SHARE"),
        "{}",
        ended.err
    );
    let ended = run(&mut start(&root, "refused", &["--plant", "2"]));
    assert!(ended.fails(1).contains("plant: expected 0 to 1, got 2"), "{}", ended.err);
}
