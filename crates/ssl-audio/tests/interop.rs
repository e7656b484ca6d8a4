//! Models go to and from transformers. The fixtures are made by `fixtures/transformers_audio.py`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
use ssl_audio::interop::{Foreign, write};
use ssl_audio::methods::{AudioMethod, find};
use ssl_audio::models::{Encoder, Encoders};
use ssl_core::checkpoint::{read_tensors, write_tensors};
use ssl_core::no_grad;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::{Device, Tensor};

/// The fixtures and the methods whose models they are.
const MODELS: [[&str; 2]; 3] =
    [["wav2vec2", "wav2vec2"], ["wav2vec2_stable", "wav2vec2"], ["hubert", "hubert"]];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn build(name: &str, foreign: &Foreign) -> Box<dyn AudioMethod> {
    let encoders = Encoders::new(foreign.shape.clone(), Device::Cpu);
    find(name).unwrap().build(&foreign.settings, &encoders).unwrap()
}

/// A model with its weights, and those that it lacks.
fn loaded(name: &str, dir: &Path) -> (Foreign, Box<dyn AudioMethod>) {
    let foreign = Foreign::open(dir).unwrap();
    let method = build(name, &foreign);
    let absent = foreign.load_into(method.as_ref()).unwrap();
    assert!(absent.is_empty(), "{absent:?}");
    (foreign, method)
}

fn largest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn models_of_transformers_hear_the_same_here() {
    for [name, method] in MODELS {
        let (foreign, method) = loaded(method, &fixture(name));
        let (of, _) = read_tensors(&fixture(name).join("outputs.safetensors")).unwrap();
        let most = largest(&method.frames(&of["waves"]).unwrap(), &of["last"]);
        assert!(most < 1e-4, "{name}: {most}");
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoder::new(&vars.root(), &foreign.shape).unwrap();
        for (variable, mut tensor) in vars.variables() {
            no_grad(|| tensor.copy_(&method.encoder()[&variable]));
        }
        for layers in 0..2 {
            let hidden = encoder.hidden(&of["waves"], layers, "test").unwrap();
            let expected = &of[&format!("hidden.{layers}")];
            let most = largest(&hidden, expected);
            assert!(most < 1e-4 && expected.abs().max().double_value(&[]) > 0.5, "{name}, {layers}: {most}");
        }
    }
}

#[test]
fn what_is_written_is_what_transformers_has_written() {
    for [name, method] in MODELS {
        let (foreign, method) = loaded(method, &fixture(name));
        let out = tempfile::tempdir().unwrap();
        write(out.path(), method.as_ref(), &foreign.shape).unwrap();
        let (ours, _) = read_tensors(&out.path().join("model.safetensors")).unwrap();
        let (theirs, _) = read_tensors(&fixture(name).join("model.safetensors")).unwrap();
        assert!(ours.keys().eq(theirs.keys()), "{name}");
        for (tensor, value) in &theirs {
            assert!(ours[tensor].equal(value), "{name}: {tensor}");
        }
        // And back again.
        let again = Foreign::open(out.path()).unwrap();
        assert_eq!((again.shape, again.settings), (foreign.shape, foreign.settings));
    }
}

#[test]
fn an_encoder_of_older_names_and_without_heads_is_read() {
    let dir = fixture("wav2vec2");
    let (theirs, _) = read_tensors(&dir.join("model.safetensors")).unwrap();
    let older = |name: &str| {
        let name = name.strip_prefix("wav2vec2.")?;
        let name = name.replace("parametrizations.weight.original0", "weight_g");
        Some(name.replace("parametrizations.weight.original1", "weight_v"))
    };
    let mut alone: std::collections::BTreeMap<_, _> =
        theirs.iter().filter_map(|(name, tensor)| Some((older(name)?, tensor.shallow_clone()))).collect();
    alone.remove("masked_spec_embed");
    let out = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("config.json"), out.path().join("config.json")).unwrap();
    write_tensors(&out.path().join("model.safetensors"), &alone, &serde_json::Value::Null).unwrap();
    let foreign = Foreign::open(out.path()).unwrap();
    let method = build("wav2vec2", &foreign);
    let absent = foreign.load_into(method.as_ref()).unwrap();
    assert!(absent.len() == 8 && absent.contains(&"masked_spec_embed".to_string()), "{absent:?}");
    let (of, _) = read_tensors(&dir.join("outputs.safetensors")).unwrap();
    assert!(largest(&method.frames(&of["waves"]).unwrap(), &of["last"]) < 1e-4);
}

#[test]
fn what_does_not_fit_is_named() {
    let out = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("wav2vec2").join(file), out.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(out.path().join("config.json")).unwrap();
    let opened = |from: &str, to: &str| {
        assert!(config.contains(from));
        std::fs::write(out.path().join("config.json"), config.replace(from, to)).unwrap();
        Foreign::open(out.path())
    };
    for (from, to, said) in [
        (
            "\"model_type\": \"wav2vec2\"",
            "\"model_type\": \"bert\"",
            "expected a model of type wav2vec2 or hubert, got \"bert\"",
        ),
        ("\"add_adapter\": false", "\"add_adapter\": true", "expected false as add_adapter, got true"),
        (
            "\"conv_dim\": [\n    8",
            "\"conv_dim\": [\n    9",
            "expected 7 equal numbers as conv_dim, got [9, 8, 8, 8, 8, 8, 8]",
        ),
    ] {
        let message = opened(from, to).unwrap_err().to_string();
        assert!(message.ends_with(said), "{message}");
    }
    let foreign = opened("\"intermediate_size\": 24", "\"intermediate_size\": 32").unwrap();
    let method = build("wav2vec2", &foreign);
    let message = foreign.load_into(method.as_ref()).unwrap_err().to_string();
    assert!(message.contains("intermediate_dense.bias: expected [32], got [24]"), "{message}");
    assert!(Foreign::is_in(out.path()) && !Foreign::is_in(Path::new("nowhere")));
    let encoders = Encoders::new(foreign.shape.clone(), Device::Cpu);
    let cola = find("cola").unwrap().build(&serde_json::Value::Null, &encoders);
    if let Ok(cola) = cola {
        assert!(write(out.path(), cola.as_ref(), &foreign.shape).is_err());
    }
}
