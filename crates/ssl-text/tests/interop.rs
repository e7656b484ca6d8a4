//! Models go to and from transformers. The fixtures are made by `fixtures/transformers_models.py`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
use ssl_core::Batch;
use ssl_core::checkpoint::read_tensors;
use ssl_text::Tokens;
use ssl_text::interop::{Foreign, write};
use ssl_text::methods::{Logits, TextMethod, find};
use ssl_text::models::Encoders;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The method whose model a fixture is, with its weights.
fn loaded(name: &str, dir: &Path) -> (Foreign, Box<dyn TextMethod>) {
    let foreign = Foreign::open(dir).unwrap();
    let vocabulary = foreign.tokenizer.vocabulary().clone();
    let encoders = Encoders::new(foreign.shape.clone(), vocabulary, 10, Device::Cpu).unwrap();
    let method = find(name).unwrap().build(&serde_json::Value::Null, &encoders).unwrap();
    let absent = foreign.load_into(method.as_ref()).unwrap();
    assert!(absent.is_empty(), "{absent:?}");
    (foreign, method)
}

/// The tokens of a fixture and the logits of transformers.
fn expected(dir: &Path) -> (Tokens, Tensor) {
    let (tensors, _) = read_tensors(&dir.join("logits.safetensors")).unwrap();
    let rows = Vec::<Vec<i64>>::try_from(&tensors["ids"]).unwrap();
    let lengths = Vec::<i64>::try_from(&tensors["lengths"]).unwrap();
    let rows = rows.iter().zip(lengths).map(|(row, length)| &row[..length as usize]);
    (Tokens::padded(rows, 0).unwrap(), tensors["logits"].shallow_clone())
}

/// The largest difference at positions that hold a token.
fn largest(a: &Tensor, b: &Tensor, tokens: &Tokens) -> f64 {
    let mut difference = (a - b).abs();
    if let Some(held) = tokens.held().unwrap() {
        let held = if difference.dim() == 3 { held.unsqueeze(2) } else { held };
        difference *= held;
    }
    difference.max().double_value(&[])
}

#[test]
fn models_of_transformers_give_their_logits_here() {
    for (name, method) in [("bert", "mlm"), ("gpt2", "clm")] {
        let (_, method) = loaded(method, &fixture(name));
        let (tokens, expected) = expected(&fixture(name));
        let logits = ssl_core::no_grad(|| method.logits(&tokens)).unwrap();
        let Some(Logits::Same(logits) | Logits::Next(logits)) = logits else { panic!("{name}: no logits") };
        let most = largest(&logits, &expected, &tokens);
        assert!(most < 1e-4 && expected.abs().max().double_value(&[]) > 0.5, "{name}: {most}");
    }
}

#[test]
fn an_electra_of_transformers_finds_the_same_tokens_here() {
    let (_, method) = loaded("electra", &fixture("electra"));
    let (tokens, expected) = expected(&fixture("electra"));
    let found = ssl_core::no_grad(|| method.discriminate(&tokens)).unwrap().unwrap();
    let most = largest(&found, &expected, &tokens);
    assert!(most < 1e-4 && expected.abs().max().double_value(&[]) > 0.02, "{most}");
}

#[test]
fn what_is_written_is_what_transformers_has_written() {
    for (name, method) in [("bert", "mlm"), ("electra", "electra"), ("gpt2", "clm")] {
        let (foreign, method) = loaded(method, &fixture(name));
        let out = tempfile::tempdir().unwrap();
        write(out.path(), method.as_ref(), &foreign.shape, &foreign.tokenizer).unwrap();
        let (ours, _) = read_tensors(&out.path().join("model.safetensors")).unwrap();
        let (theirs, _) = read_tensors(&fixture(name).join("model.safetensors")).unwrap();
        for (tensor, value) in &theirs {
            let same = ours.get(tensor).is_some_and(|own| own.equal(value));
            let tied = tensor.starts_with("cls.predictions.decoder.") || tensor == "lm_head.weight";
            assert!(same || tied, "{name}: {tensor}");
        }
        assert!(ours.keys().all(|tensor| theirs.contains_key(tensor)), "{name}");
        // And back again.
        let again = Foreign::open(out.path()).unwrap();
        assert_eq!(again.shape, foreign.shape);
        assert_eq!(again.tokenizer.encode("w3 w7").unwrap(), foreign.tokenizer.encode("w3 w7").unwrap());
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let out = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixture("bert").join(file), out.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(out.path().join("config.json")).unwrap();
    let change = |from: &str, to: &str| {
        assert!(config.contains(from));
        std::fs::write(out.path().join("config.json"), config.replace(from, to)).unwrap();
    };
    change("\"vocab_size\": 36", "\"vocab_size\": 37");
    let message = Foreign::open(out.path()).unwrap_err().to_string();
    assert!(message.ends_with("expected a tokenizer of the model's 37 tokens, got one of 36"), "{message}");
    change("\"model_type\": \"bert\"", "\"model_type\": \"t5\"");
    let message = Foreign::open(out.path()).unwrap_err().to_string();
    assert!(message.ends_with("expected a model of type bert, electra or gpt2, got \"t5\""), "{message}");
    change("\"intermediate_size\": 24", "\"intermediate_size\": 32");
    let foreign = Foreign::open(out.path()).unwrap();
    let vocabulary = foreign.tokenizer.vocabulary().clone();
    let encoders = Encoders::new(foreign.shape.clone(), vocabulary, 10, Device::Cpu).unwrap();
    let method = find("mlm").unwrap().build(&serde_json::Value::Null, &encoders).unwrap();
    let message = foreign.load_into(method.as_ref()).unwrap_err().to_string();
    assert!(message.contains("intermediate.dense.bias: expected [32], got [24]"), "{message}");
    assert!(Foreign::is_in(out.path()) && !Foreign::is_in(Path::new("nowhere")));
}

#[test]
fn a_batch_on_its_way_keeps_its_lengths() {
    let (tokens, _) = expected(&fixture("bert"));
    assert_eq!(tokens.part(1, 1).unwrap().lengths.int64_value(&[0]), 7);
}
