//! What a run leaves behind, and what can be done with it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use std::fs;
use support::{run, text, tiny, write_data};

#[test]
fn the_summary_has_the_probes_their_floors_and_the_pretext_task() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    let ended = run(tiny("mlm", &data).arg("--robustness").arg("--out").arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    for place in [
        "/eval/linear",
        "/eval/knn",
        "/floors/random_init/linear",
        "/floors/tf_idf/linear",
        "/floors/bag_of_random_embeddings/linear",
        "/pretext/loss",
        "/pretext/perplexity",
        "/eval/robustness/letters_swapped/4",
        "/eval/robustness/letters_dropped/4",
        "/floors/random_init/robustness/clean",
        "/floors/tf_idf/clustering/nmi",
    ] {
        assert!(summary.pointer(place).is_some_and(Value::is_number), "{place}: {summary}");
    }
    assert_eq!(summary["floors"]["majority"], 0.5);
    assert_eq!(summary["floors"]["tf_idf"]["linear"], 1.0, "words tell the two subjects apart");
    assert_eq!((&summary["train_examples"], &summary["eval"]["n_test"]), (&120.into(), &40.into()));
    let perplexity = summary["pretext"]["perplexity"].as_f64().unwrap();
    assert!((perplexity - summary["pretext"]["loss"].as_f64().unwrap().exp()).abs() < 1e-9);
    for file in [
        "encoder/config.json",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        "report.html",
        "look.txt",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert!(fs::read_to_string(out.join("look.txt")).unwrap().contains("[?]"), "what is hidden is in sight");
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"held_out_perplexity\""), "{metrics}");
}

#[test]
fn a_finished_run_fills_masks_embeds_and_finds() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    run(tiny("mlm", &data).args(["--no-eval", "--out"]).arg(&out)).succeeds();
    let on_run = |command: &str| {
        let mut command = text(&[command, "--run"]);
        command.arg(&out);
        command
    };
    let filled = run(on_run("fill-mask").args(["--count", "3", "the [MASK] hunts the [MASK] ."]));
    let lines: Vec<&str> = filled.succeeds().lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("1: ") && lines[1].split(", ").count() == 3,
        "{lines:?}"
    );
    let documents = root.path().join("lines.txt");
    fs::write(&documents, "the dog hunts the fox .\nthe rain ends .\nthe wind brings snow .\n").unwrap();
    let vectors = root.path().join("vectors.safetensors");
    run(on_run("embed").arg("--lines").arg("--data").arg(&documents).arg("--out").arg(&vectors)).succeeds();
    let (tensors, _) = ssl_core::checkpoint::read_tensors(&vectors).unwrap();
    assert_eq!(tensors["embeddings"].size(), [3, 16]);
    let found =
        run(on_run("nearest").arg("--lines").arg("--data").arg(&documents).arg("the dog hunts the fox ."));
    let first = found.succeeds().lines().next().unwrap().to_string();
    assert_eq!(first, "1.000  the dog hunts the fox .");
    let line = run(on_run("generate").arg("the dog"));
    assert!(line.fails(1).contains("method: expected one that predicts the next token, such as clm"));
    let line = run(on_run("fill-mask").arg("nothing is hidden"));
    assert!(line.fails(1).contains("text: expected at least one hidden token, got none"));
}

#[test]
fn a_language_model_goes_on_with_text_and_says_bits_per_byte() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    let flags = ["--tokenizer-kind", "characters", "--no-floors", "--out"];
    let ended = run(tiny("clm", &data).args(flags).arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    let number = |name: &str| summary["pretext"][name].as_f64().unwrap();
    // A token is a byte here, but for one separator in each document of 6 lines.
    let per_token = number("loss") / std::f64::consts::LN_2;
    assert!(number("bits_per_byte") > per_token && number("bits_per_byte") < 1.02 * per_token);
    let go = |seed: &str| {
        let mut command = text(&["generate", "--count", "20", "--seed", seed, "--run"]);
        run(command.arg(&out).arg("the dog")).succeeds().to_string()
    };
    assert!(go("1").starts_with("the dog") && go("1") == go("1") && go("1") != go("2"));
}

#[test]
fn a_run_starts_from_a_model_of_transformers_and_from_another_run() {
    let root = tempfile::tempdir().unwrap();
    let (data, first) = (root.path().join("data"), root.path().join("first"));
    write_data(&data);
    run(tiny("mlm", &data).args(["--no-eval", "--out"]).arg(&first)).succeeds();
    for (init, out) in [
        (first.join("encoder"), "model"),
        (first.clone(), "run"),
        (first.join("encoder.safetensors"), "file"),
    ] {
        let mut command = text(&[
            "mlm",
            "--no-eval",
            "--steps",
            "1",
            "--learning-rate",
            "0",
            "--batch-size",
            "8",
            "--length",
            "16",
        ]);
        command.args([
            "--encoder",
            "bert_d16_l1_h2",
            "--max-length",
            "24",
            "--vocab-size",
            "90",
            "--threads",
            "1",
            "--data",
        ]);
        command.arg(&data).arg("--init").arg(&init).arg("--out").arg(root.path().join(out));
        run(&mut command).succeeds();
        let read = |run: &str| {
            ssl_core::checkpoint::read_tensors(&root.path().join(run).join("encoder.safetensors"))
        };
        let (before, after) = (read("first").unwrap().0, read(out).unwrap().0);
        for (name, tensor) in &before {
            assert!(after[name].equal(tensor), "{out}: {name}");
        }
    }
    let mut command =
        text(&["mlm", "--eval-only", "--no-floors", "--quiet", "--threads", "1", "--batch-size", "8"]);
    command.args(["--length", "16", "--init"]).arg(first.join("encoder")).arg("--data").arg(&data);
    let ended = run(command.arg("--out").arg(root.path().join("given")));
    let summary: Value = serde_json::from_str(ended.succeeds()).unwrap();
    assert!(summary["eval"]["linear"].is_number() && summary["steps"] == 0, "{summary}");
    assert_eq!(summary["encoder"], "bert_d16_l1_h2");
}
