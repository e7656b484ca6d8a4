//! Weights go to and from files under the names of torchvision and transformers, as `fixtures/backbones.json` has them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use serde_json::Value;
use ssl_core::{Mode, checkpoint, encoder_in, no_grad};
use ssl_video::backbones::{Backbone, EncoderConfig, Encoders};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn cases() -> Vec<(EncoderConfig, BTreeMap<String, Vec<i64>>)> {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/backbones.json")).unwrap();
    let all = fixture["resnets"].as_array().unwrap().iter().chain([&fixture["transformer"]]);
    let case = |value: &Value| {
        let name = value["arch"].as_str().unwrap();
        let config = EncoderConfig::named(name, &EncoderConfig::default(), 16, 4).unwrap();
        (config, serde_json::from_value(value["shapes"].clone()).unwrap())
    };
    all.map(case).collect()
}

fn values(shape: &[i64]) -> Tensor {
    Tensor::rand(shape, (Kind::Float, Device::Cpu))
}

/// Numbers that a network takes without overflow.
fn weights(name: &str, shape: &[i64]) -> Tensor {
    let values = values(shape);
    if name.ends_with("running_var") { values + 0.5 } else { (values - 0.5) * 0.2 }
}

/// A file as the reference library would write it: with its classifier and its counters.
fn write_reference(path: &Path, shapes: &BTreeMap<String, Vec<i64>>) -> BTreeMap<String, Tensor> {
    let own: BTreeMap<String, Tensor> =
        shapes.iter().map(|(name, shape)| (name.clone(), weights(name, shape))).collect();
    let mut all: Vec<(String, Tensor)> =
        own.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    all.push(("fc.weight".to_string(), values(&[400, 512])));
    all.push(("classifier.bias".to_string(), values(&[7])));
    all.push(("layer1.0.conv1.1.num_batches_tracked".to_string(), Tensor::from(3i64)));
    Tensor::write_safetensors(&all, path).unwrap();
    own
}

#[test]
fn a_file_of_the_reference_library_starts_an_encoder_and_what_is_saved_has_its_names() {
    let folder = tempfile::tempdir().unwrap();
    for (config, shapes) in cases() {
        let path = folder.path().join("reference.safetensors");
        let reference = write_reference(&path, &shapes);
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoders::new(config.clone(), Device::Cpu).starting_from(&path).student(&vars).unwrap();
        let own = encoder_in(&vars);
        assert!(own.keys().eq(reference.keys()), "{}", config.name());
        assert!(own.iter().all(|(name, tensor)| tensor.equal(&reference[name])), "{}", config.name());
        let path = folder.path().join("saved.safetensors");
        checkpoint::write_tensors(&path, &own, &Value::Null).unwrap();
        let saved = Tensor::read_safetensors(&path).unwrap();
        let names: BTreeSet<&str> = saved.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.into_iter().eq(shapes.keys().map(String::as_str)), "{}", config.name());
        let again = VarStore::new(Device::Cpu);
        let other = Encoders::new(config.clone(), Device::Cpu).starting_from(&path).student(&again).unwrap();
        let clips = values(&[2, 3, 4, 16, 16]);
        let run = |net: &ssl_video::backbones::Encoder| no_grad(|| net.forward(&clips, Mode::Eval)).unwrap();
        assert!(run(&encoder).equal(&run(&other)), "{}", config.name());
    }
}

#[test]
fn another_networks_file_is_refused_by_the_name_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let cases = cases();
    write_reference(&path, &cases[0].1);
    for (other, said) in [(&cases[1].0, "is missing"), (&cases[2].0, "is missing")] {
        let vars = VarStore::new(Device::Cpu);
        let refused = Encoders::new(other.clone(), Device::Cpu).starting_from(&path).student(&vars);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
}
