//! Bad input: one line that says what, where, what was expected and what to do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::{run, text, tiny, write_data};
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
fn text_that_is_no_utf_8_is_named_with_its_place_and_can_be_replaced() {
    let (root, _) = scene();
    let file = root.path().join("bad.txt");
    let mut bytes = "the quick fox\n".repeat(50).into_bytes();
    bytes[100] = 0xff;
    fs::write(&file, bytes).unwrap();
    let characters = ["--tokenizer-kind", "characters"];
    refused("clm", &file, &characters, &["bad.txt", "byte 100", "UTF-8", "lossy"]);
    let out = root.path().join("run");
    run(tiny("clm", &file).args(characters).args(["--lossy", "--no-eval", "--out"]).arg(&out)).succeeds();
}

#[test]
fn columns_that_are_not_there_are_answered_with_those_that_are() {
    let (root, _) = scene();
    let file = root.path().join("rows.csv");
    fs::write(&file, "id,body\n".to_string() + &"1,the fox\n".repeat(60)).unwrap();
    refused("mlm", &file, &["--column", "txt"], &["rows.csv", "txt", "id", "body"]);
}

#[test]
fn vocabularies_and_lengths_that_do_not_fit_are_named() {
    let (_root, data) = scene();
    refused(
        "mlm",
        &data,
        &["--vocab-size", "12"],
        &["vocab_size: expected room for the alphabet of the corpus"],
    );
    refused(
        "mlm",
        &data,
        &["--length", "64"],
        &["length: expected at most the 24 places of the encoder, got 64"],
    );
    refused("mlm", &data, &["--batch-size", "100000"], &["batch_size: expected 1 to"]);
    refused(
        "mlm",
        &data,
        &["--encoder", "lstm_d8_l1"],
        &["encoder: mlm needs a transformer such as bert_mini, got lstm_d8_l1"],
    );
    refused(
        "electra",
        &data,
        &["--encoder", "bert_d16_l1_h2"],
        &["electra needs an encoder such as electra_mini"],
    );
    refused(
        "mlm",
        &data,
        &["--masking.ratio", "1.5"],
        &["masking.ratio: expected a part from 0 to 1, got 1.5"],
    );
    let empty = data.with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    refused("mlm", &empty, &[], &["empty"]);
}

#[test]
fn a_tokenizer_that_is_not_the_checkpoints_is_refused() {
    let (root, data) = scene();
    let out = root.path().join("run");
    run(tiny("mlm", &data).args(["--no-eval", "--out"]).arg(&out)).succeeds();
    let other = root.path().join("other");
    run(tiny("mlm", &data).args(["--vocab-size", "60", "--no-eval", "--steps", "1", "--out"]).arg(&other))
        .succeeds();
    fs::copy(other.join("tokenizer.json"), out.join("tokenizer.json")).unwrap();
    let ended = run(text(&["mlm", "--no-eval", "--resume"]).arg(&out));
    let line = ended.fails(1);
    assert!(line.contains("is Float [90], expected Float [60]"), "{line}");
}
