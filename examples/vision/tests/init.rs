//! Runs that start from the weights of a file or go on from another run.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use ssl_core::checkpoint::{read_tensors, write_tensors};
use ssl_examples::testing::Ended;
use std::collections::BTreeMap;
use std::path::Path;
use support::{run, tiny, vision, write_data};
use tch::Tensor;
use tempfile::{TempDir, tempdir};

/// A folder with data, and a run on it.
fn scene() -> TempDir {
    let root = tempdir().unwrap();
    write_data(&root.path().join("data"));
    start(root.path(), "run", &[]).succeeds();
    root
}

fn start(root: &Path, out: &str, flags: &[&str]) -> Ended {
    run(tiny("data".as_ref()).args(["--out", out]).args(flags).current_dir(root))
}

/// Flags of a run that changes nothing but the order of the examples: what it ends with is what it began with.
const STILL: [&str; 6] = ["--learning-rate", "0", "--weight-decay", "0", "--seed", "9"];

/// The trained tensors of an encoder; running statistics depend on the examples they were taken from.
fn weights(file: &Path) -> BTreeMap<String, Tensor> {
    let (mut tensors, _) = read_tensors(file).unwrap();
    tensors.retain(|name, _| !name.contains("running_"));
    tensors
}

fn equal(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> bool {
    a.len() == b.len() && a.iter().all(|(name, tensor)| b.get(name).is_some_and(|other| other == tensor))
}

#[test]
fn a_run_starts_from_the_weights_of_a_file_and_leaves_its_classifier_out() {
    let root = scene();
    let encoder = root.path().join("run/encoder.safetensors");
    let (mut tensors, header) = read_tensors(&encoder).unwrap();
    tensors.insert("fc.weight".into(), Tensor::from_slice(&[1f32, 2.]));
    tensors.insert("bn1.num_batches_tracked".into(), Tensor::from_slice(&[7i64]));
    let foreign = root.path().join("foreign.safetensors");
    write_tensors(&foreign, &tensors, &header).unwrap();
    start(root.path(), "next", &[&STILL[..], &["--init", "foreign.safetensors"]].concat()).succeeds();
    start(root.path(), "fresh", &STILL).succeeds();
    let of = |run: &str| weights(&root.path().join(run).join("encoder.safetensors"));
    assert!(equal(&of("next"), &of("run")));
    assert!(!equal(&of("fresh"), &of("run")));
}

#[test]
fn a_given_encoder_is_evaluated_without_training() {
    let root = scene();
    let evaluated = |flags: &[&str]| {
        let ended = run(vision(&["simclr", "--eval-only", "--no-floors", "--quiet"])
            .args(flags)
            .current_dir(root.path()));
        serde_json::from_str::<serde_json::Value>(ended.succeeds()).unwrap()
    };
    let shape =
        ["--encoder", "resnet10_w4", "--stem", "strided", "--image-size", "12", "--augment.size", "12"];
    let init =
        ["--init", "run/encoder.safetensors", "--data", "data", "--out", "given", "--batch-size", "16"];
    let given = evaluated(&[&shape[..], &init, &["--threads", "1"]].concat());
    let own = evaluated(&["--resume", "run"]);
    assert_eq!((&given["steps"], &given["eval"]["n_test"]), (&0.into(), &40.into()));
    assert_eq!(given["init"], "run/encoder.safetensors");
    assert_eq!(
        (&given["eval"]["linear"], &given["eval"]["knn"]),
        (&own["eval"]["linear"], &own["eval"]["knn"])
    );
    assert!(root.path().join("given/summary.json").is_file());
    let ended = run(vision(&["simclr", "--eval-only", "--data", "data"]).current_dir(root.path()));
    ended.fails(2);
}

#[test]
fn a_run_goes_on_from_another_with_its_heads_and_its_optimizer() {
    let root = scene();
    start(root.path(), "next", &[&STILL[..], &["--init", "run"]].concat()).succeeds();
    let last = |run: &str, step: &str| {
        read_tensors(&root.path().join(run).join(format!("checkpoints/step-{step}.safetensors"))).unwrap().0
    };
    let (before, after) = (last("run", "00000030"), last("next", "00000030"));
    let head = "method/student/projector.0.weight";
    assert!(before[head] == after[head]);
    // The optimizer has counted on.
    let count = |tensors: &BTreeMap<String, Tensor>| f64::try_from(&tensors["optimizer/steps"]).unwrap();
    assert_eq!((count(&before), count(&after)), (30., 60.));
}

#[test]
fn what_cannot_be_started_from_is_said_in_one_line() {
    let root = scene();
    let refused = |init: &str, flags: &[&str], said: &str| {
        let ended = start(root.path(), "refused", &[&["--init", init], flags].concat());
        let line = ended.fails(1).to_string();
        assert!(line.contains(said), "expected {said}: {line}");
        let _ = std::fs::remove_dir_all(root.path().join("refused"));
    };
    refused("none.safetensors", &[], "none.safetensors");
    refused("data", &[], "--init data: expected the directory of a run that has a checkpoint");
    let (mut tensors, header) = read_tensors(&root.path().join("run/encoder.safetensors")).unwrap();
    assert!(tensors.remove("layer1.0.conv1.weight").is_some());
    write_tensors(&root.path().join("cut.safetensors"), &tensors, &header).unwrap();
    refused("cut.safetensors", &[], "layer1.0.conv1.weight is missing: it is of another method or encoder");
    refused("run", &["--output-norm", "false"], "is not part of this method or encoder");
    refused("run/config.json", &[], "config.json");
}
