//! What people say of words, beside the vectors of a run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{run, text, tiny, write_data};
use tempfile::TempDir;

/// A run of word2vec whose tokens are words, or of mlm whose tokens are pieces; and a file beside it.
fn scene(method: &str, content: &[u8]) -> (TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (data, out, file) = (root.path().join("data"), root.path().join("run"), root.path().join("file.txt"));
    write_data(&data);
    let kind = if method == "word2vec" { "words" } else { "word_piece" };
    run(tiny(method, &data).args(["--tokenizer-kind", kind, "--no-eval", "--out"]).arg(&out)).succeeds();
    fs::write(&file, content).unwrap();
    (root, out, file)
}

fn asked(name: &str, run: &Path, files: &[&Path]) -> Command {
    let mut command = text(&[name]);
    command.arg(run).args(files);
    command
}

fn json(out: &str) -> Value {
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(out).unwrap()
}

const PAIRS: &[u8] = b"word1,word2,score\nDog,fox,8\ndog,rain,1\nsnow,frost,7\ndog,zebra,5\n";

#[test]
fn similarity_covers_the_words_that_a_run_knows() {
    // Neither has a token for the z of the zebra.
    for method in ["word2vec", "mlm"] {
        let (_root, out, file) = scene(method, PAIRS);
        let ended = run(&mut asked("similarity", &out, &[&file, &file]));
        let found = json(ended.succeeds());
        let files = found["files"].as_array().unwrap();
        assert!(files.len() == 2 && files[0] == files[1], "{found}");
        assert_eq!((&files[0]["covered"], &files[0]["left_out"]), (&3.into(), &1.into()));
        assert!(files[0]["spearman"].as_f64().is_some_and(|found| found.abs() <= 1.), "{found}");
        assert!(ended.err.contains("SPEARMAN") && ended.err.contains("file.txt"), "{}", ended.err);
    }
}

#[test]
fn analogies_are_counted_by_section_and_by_kind() {
    let questions = b": animals\nDog fox cat bird\ndog fox cat zebra\n: gram1\nhunts sees follows brings\n";
    let (_root, out, file) = scene("word2vec", questions);
    let ended = run(&mut asked("analogy", &out, &[&file]));
    let found = json(ended.succeeds());
    let found = &found["files"][0];
    let count = |place: &str, name: &str| found.pointer(place).unwrap()[name].as_u64().unwrap();
    for (place, questions, covered) in [
        ("/sections/0", 2, 1),
        ("/sections/1", 1, 1),
        ("/semantic", 2, 1),
        ("/syntactic", 1, 1),
        ("/overall", 3, 2),
    ] {
        assert_eq!((count(place, "questions"), count(place, "covered")), (questions, covered), "{place}");
        for name in ["cos_add", "cos_mul"] {
            assert!(found.pointer(place).unwrap()[name].is_number(), "{place} {name}");
        }
    }
    assert_eq!(found["sections"][1]["name"], "gram1");
    assert!(ended.err.contains("3COSMUL") && ended.err.contains("all syntactic"), "{}", ended.err);
    let few = json(run(asked("analogy", &out, &[&file]).args(["--most", "4"])).succeeds());
    assert_eq!(few["files"][0]["overall"]["covered"], 0);
    assert!(few["files"][0]["overall"]["cos_add"].is_null());
    let few = run(asked("analogy", &out, &[&file]).args(["--most", "3"]));
    assert!(few.fails(1).ends_with("most: expected at least the 4 words of a question, got 3"));
}

#[test]
fn associations_of_given_words_are_measured() {
    let words = br#"{"targ1": {"category": "Animals", "examples": ["dog", "Fox", "zebra"]},
        "targ2": {"category": "Weather", "examples": ["rain", "snow"]},
        "attr1": {"category": "Seeing", "examples": ["sees"]},
        "attr2": {"category": "Covering", "examples": ["covers"]}}"#;
    for method in ["word2vec", "mlm"] {
        let (_root, out, file) = scene(method, words);
        let ended = run(asked("weat", &out, &[]).arg("--words").arg(&file));
        let found = json(ended.succeeds());
        assert!(found["effect_size"].as_f64().is_some_and(|size| size.abs() <= 2.), "{found}");
        assert_eq!((&found["partitions"], &found["is_exact"]), (&6.into(), &true.into()));
        assert!(found["p_value"].as_f64().is_some_and(|p| (1. / 6. ..=1.).contains(&p)), "{found}");
        assert_eq!(found["sets"][0]["left_out"], serde_json::json!(["zebra"]));
        assert!(ended.err.contains("COVERED") && ended.err.contains("effect size"), "{}", ended.err);
    }
    let (_root, out, file) = scene("word2vec", b"{}");
    let ended = run(&mut asked("weat", &out, &[]));
    assert!(
        ended.fails(1).contains("Flowers: expected at least 2 that the tokenizer knows, got 0 of 25"),
        "{}",
        ended.err
    );
    let ended = run(asked("weat", &out, &[]).arg("--words").arg(&file));
    assert!(ended.fails(1).contains("file.txt: expected targ1, targ2, attr1 and attr2"), "{}", ended.err);
}

#[test]
fn faulty_files_and_runs_are_refused_in_one_line() {
    let (root, out, file) = scene("word2vec", b"");
    for (name, content, message) in [
        ("similarity", &b"# nothing\n"[..], "file.txt: expected lines of two words and a score, got none"),
        ("similarity", b"dog fox 8\ndog fox\n", "line 2: expected two words and a score, got 2 of 3 columns"),
        ("similarity", b"dog fox 8\ndog cat x\n", "line 2: expected a number as the score, got x"),
        ("similarity", b"dog fox 8\n\xff", "line 2: expected UTF-8"),
        ("analogy", b": animals\n", "file.txt: expected lines of 4 words, got none"),
        ("analogy", b"dog fox cat\n", "line 1: expected 4 words, got 3"),
        ("analogy", b"dog fox cat \xff\n", "line 1: expected UTF-8"),
    ] {
        fs::write(&file, content).unwrap();
        let ended = run(&mut asked(name, &out, &[&file]));
        assert!(ended.fails(1).contains(message), "{message}: {}", ended.err);
    }
    let absent = root.path().join("absent.txt");
    let ended = run(&mut asked("similarity", &out, &[&absent]));
    assert!(ended.fails(1).contains("absent.txt: cannot read"), "{}", ended.err);
    fs::write(&file, PAIRS).unwrap();
    fs::remove_file(out.join("tokenizer.json")).unwrap();
    for name in ["similarity", "analogy"] {
        let ended = run(&mut asked(name, &out, &[&file]));
        assert!(ended.fails(1).contains("tokenizer.json: cannot read"), "{}", ended.err);
    }
}

#[test]
fn analogies_need_tokens_that_are_words() {
    let (_root, out, file) = scene("mlm", b"dog fox cat bird\n");
    let ended = run(&mut asked("analogy", &out, &[&file]));
    let line = ended.fails(1);
    assert!(line.contains("tokenizer: analogies need one whose tokens are words"), "{line}");
}
