//! What a run prints and writes, and what its flags do to that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{STEPS, run, tiny, vision, write_data};
use tempfile::{TempDir, tempdir};

/// A folder with data, and a run on it.
fn scene(flags: &[&str]) -> (TempDir, String, String) {
    let root = tempdir().unwrap();
    write_data(&root.path().join("data"));
    let ended = run(start(root.path()).args(flags));
    let out = ended.succeeds().to_string();
    (root, out, ended.err)
}

/// The usual run, its paths relative to the folder.
fn start(root: &Path) -> Command {
    let mut command = tiny("data".as_ref());
    command.args(["--out", "run"]).current_dir(root);
    command
}

fn resume(root: &Path, flags: &[&str]) -> Command {
    let mut command = vision(&["simclr", "--resume", "run"]);
    command.args(flags).current_dir(root);
    command
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn standard_output_is_the_summary_and_an_encoder_can_be_measured_again() {
    let (root, ..) = scene(&[]);
    let before = fs::read(root.path().join("run/config.json")).unwrap();
    let trained = parse(&fs::read_to_string(root.path().join("run/summary.json")).unwrap());
    let ended = run(&mut resume(root.path(), &["--eval-only"]));
    let out = ended.succeeds();
    assert_eq!(out.lines().count(), 1, "{out}");
    let summary = parse(out);
    for path in [
        "/modality",
        "/method",
        "/dataset",
        "/encoder",
        "/seed",
        "/device",
        "/precision",
        "/steps",
        "/samples",
        "/seconds/setup",
        "/seconds/train",
        "/seconds/eval",
        "/samples_per_second",
        "/peak_rss_mib",
        "/loss/first",
        "/loss/last",
        "/eval/knn",
        "/eval/linear",
        "/eval/few_shot_5",
        "/eval/few_shot_10",
        "/eval/rankme",
        "/floors/random_init/knn",
        "/floors/random_init/linear",
        "/floors/raw/knn",
        "/floors/raw/linear",
        "/floors/majority",
        "/explanations/of",
        "/explanations/randomized/integrated gradients/4",
        "/run_dir",
        "/parameters",
        "/eval/knn_interval/0",
        "/eval/linear_interval/1",
        "/eval/linear_confusion/3/3",
        "/eval/clustering/nmi",
        "/eval/retrieval/map",
        "/eval/views/lidar",
        "/floors/random_init/clustering/accuracy",
        "/floors/random_init/views/alignment",
        "/floors/raw/retrieval/recall_at_1",
    ] {
        assert!(summary.pointer(path).is_some_and(|value| !value.is_null()), "{path}: {out}");
    }
    assert_eq!(summary["floors"]["majority"], 0.25);
    for path in ["/eval/robustness", "/eval/anomaly", "/floors/raw/linear_confusion", "/floors/raw/views"] {
        assert!(summary.pointer(path).is_none(), "{path}: {out}");
    }
    assert_eq!((&summary["steps"], &summary["samples"]), (&STEPS.into(), &(16 * STEPS).into()));
    let written = fs::read_to_string(root.path().join("run/summary.json")).unwrap();
    assert_eq!(parse(&written), summary);
    let train = &summary["seconds"]["train"];
    assert!(*train == trained["seconds"]["train"] && train.as_f64().unwrap() > 0., "{out}");
    assert!(ended.err.contains("evaluating the encoder"), "progress goes to standard error: {}", ended.err);

    // Other data and another part of it are evaluated, and the run stays what it was.
    fs::rename(root.path().join("data"), root.path().join("moved")).unwrap();
    let flags = ["--eval-only", "--no-floors", "--quiet", "--data", "moved", "--limit", "120"];
    let again = run(&mut resume(root.path(), &flags));
    let summary = parse(again.succeeds());
    assert_eq!((&summary["dataset"], &summary["train_examples"]), (&"moved".into(), &120.into()));
    assert_eq!((&summary["eval"]["n_train"], &summary["floors"]), (&120.into(), &Value::Null));
    assert_eq!(again.err, "");
    let own = fs::read_to_string(root.path().join("run/summary-moved.json")).unwrap();
    assert_eq!(parse(&own), summary);
    assert_eq!(fs::read_to_string(root.path().join("run/summary.json")).unwrap(), written);
    assert!(fs::read(root.path().join("run/config.json")).unwrap() == before);
}

#[test]
fn corrupted_images_and_unknown_classes_are_measured_where_they_are_asked_for() {
    let (root, ..) = scene(&[]);
    let ended = run(&mut resume(root.path(), &["--eval-only", "--robustness", "--anomaly"]));
    let summary = parse(ended.succeeds());
    let (eval, floor) = (&summary["eval"], &summary["floors"]["random_init"]);
    for name in ["gaussian_noise", "gaussian_blur", "contrast"] {
        for place in [eval, floor] {
            assert_eq!(place["robustness"][name].as_array().unwrap().len(), 5, "{name}: {place}");
        }
    }
    assert_eq!((&eval["robustness"]["clean"], &eval["robustness"]["n_test"]), (&eval["linear"], &40.into()));
    assert_eq!(eval["anomaly"]["by_class"].as_array().unwrap().len(), 4);
    assert!(summary.pointer("/floors/raw/anomaly/auroc").is_some());
    assert_eq!((&eval["views"]["examples"], &eval["views"]["views"]), (&40.into(), &10.into()));
}

#[test]
fn a_quiet_run_prints_the_summary_alone() {
    let (root, out, err) = scene(&["--quiet"]);
    assert_eq!((out.lines().count(), err.as_str()), (1, ""));
    assert_eq!(parse(&out), parse(&fs::read_to_string(root.path().join("run/summary.json")).unwrap()));
}

#[test]
fn the_configuration_of_a_run_makes_the_same_encoder_again() {
    let (root, _, err) = scene(&["--seed", "3"]);
    assert!(err.contains("simclr on data: 200 images, resnet10_w4, batch 16, 30 steps"), "{err}");
    let mut again = vision(&["simclr", "--config", "run/config.json", "--out", "again", "--no-eval"]);
    run(again.args(["--threads", "1"]).current_dir(root.path())).succeeds();
    let read = |run: &str, file: &str| fs::read(root.path().join(run).join(file)).unwrap();
    assert!(read("run", "encoder.safetensors") == read("again", "encoder.safetensors"));
    assert!(read("run", "config.json") == read("again", "config.json"));

    let mut other = vision(&["simclr", "--config", "run/config.json", "--out", "other", "--no-eval"]);
    run(other.args(["--threads", "1", "--seed", "4"]).current_dir(root.path())).succeeds();
    assert!(read("run", "encoder.safetensors") != read("other", "encoder.safetensors"), "flags win");
}

#[test]
fn an_encoder_is_fine_tuned_on_parts_of_the_labels_beside_a_random_one() {
    let (root, ..) = scene(&[]);
    let flags = ["--eval-only", "--finetune", "10,50", "--finetune-epochs", "2", "--layer-decay", "0.5"];
    let ended = run(&mut resume(root.path(), &flags));
    let summary = parse(ended.succeeds());
    let encoder = fs::read(root.path().join("run/encoder.safetensors")).unwrap();
    for place in ["/eval", "/floors/random_init"] {
        let found = summary.pointer(&format!("{place}/finetune")).unwrap();
        assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), ["10", "50"]);
        for (percent, labels) in [("10", 20), ("50", 100)] {
            let found = &found[percent];
            assert_eq!(
                (&found["labels"], &found["steps"], &found["n_test"]),
                (&labels.into(), &300.into(), &40.into())
            );
            // Four classes of stripes, which a network learns at once.
            assert!(found["accuracy"].as_f64().unwrap() > 0.5, "{place}: {found}");
            assert_eq!(found["inputs"], "random views");
        }
    }
    assert_eq!(summary["eval"]["finetune_settings"]["layer_decay"], 0.5);
    let report = fs::read_to_string(root.path().join("run/report.html")).unwrap();
    assert!(report.contains("10 % of the labels (20)"), "the report leaves it out");

    let flags =
        ["--eval-only", "--no-floors", "--finetune", "--finetune-views", "clean", "--finetune-epochs", "1"];
    let all = parse(run(&mut resume(root.path(), &flags)).succeeds());
    let found = all["eval"]["finetune"].as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["1", "10", "100"]);
    assert_eq!((&found["1"]["labels"], &found["1"]["inputs"]), (&4.into(), &"clean".into()));
    assert_eq!(all["eval"]["linear"], summary["eval"]["linear"], "what else is measured stays as it was");
    assert!(fs::read(root.path().join("run/encoder.safetensors")).unwrap() == encoder);

    for (flags, status, part) in [
        (["--finetune", "0"], 2, "expected percentages above 0 and at most 100, got \"0\""),
        (
            ["--finetune=1", "--layer-decay=2"],
            1,
            "--finetune: layer_decay: expected a number above 0 and at most 1, got 2",
        ),
    ] {
        let ended = run(resume(root.path(), &["--eval-only"]).args(flags));
        let line = ended.fails(status);
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn half_a_run_is_measured_as_what_it_is_and_none_not_at_all() {
    let (root, ..) = scene(&["--checkpoint-every", "20"]);
    let checkpoints = root.path().join("run/checkpoints");
    fs::remove_file(checkpoints.join(format!("step-{STEPS:08}.safetensors"))).unwrap();
    let half = parse(run(&mut resume(root.path(), &["--eval-only", "--no-floors"])).succeeds());
    assert_eq!((&half["steps"], &half["samples"]), (&20.into(), &320.into()));

    fs::remove_file(checkpoints.join("step-00000020.safetensors")).unwrap();
    let encoder = fs::read(root.path().join("run/encoder.safetensors")).unwrap();
    let ended = run(&mut resume(root.path(), &["--eval-only"]));
    let line = ended.fails(1);
    assert!(line.contains("run: no checkpoint to evaluate yet; leave --eval-only out"), "{line}");
    assert!(fs::read(root.path().join("run/encoder.safetensors")).unwrap() == encoder);
}
