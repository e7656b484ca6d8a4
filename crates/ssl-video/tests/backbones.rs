//! The networks against torchvision's and transformers', with weights and clips that need no generator.
//!
//! `fixtures/backbones.json` is made by `fixtures/make_backbones.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use serde::Deserialize;
use ssl_core::{Mode, no_grad};
use ssl_video::backbones::{Backbone, Encoder, EncoderConfig, VideoVitConfig};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    resnets: Vec<Resnet>,
    transformer: Transformer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resnet {
    arch: String,
    shapes: BTreeMap<String, Vec<i64>>,
    features: Vec<f64>,
    running_var: Vec<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transformer {
    arch: String,
    shapes: BTreeMap<String, Vec<i64>>,
    tokens: Vec<f64>,
    visible: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/backbones.json")).unwrap()
}

/// sin(0.37 n + shift), the position n modulo 1009.
fn wave(shape: &[i64], shift: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..count).map(|n| (0.37 * (n % 1009) as f64 + shift as f64).sin()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Sets every parameter and running value, by the order of the names.
fn fill(vars: &VarStore) {
    let named: BTreeMap<String, Tensor> = vars.variables().into_iter().collect();
    for (shift, (name, mut tensor)) in named.into_iter().enumerate() {
        let shape = tensor.size();
        let value = wave(&shape, shift);
        let value = match shape.len() {
            2 | 5 => value * (2.0 / shape[1..].iter().product::<i64>() as f64).sqrt(),
            _ if name.ends_with("weight") || name.ends_with("running_var") => value * 0.1 + 1.0,
            _ => value * 0.1,
        };
        no_grad(|| tensor.copy_(&value));
    }
}

fn largest_difference(x: &Tensor, step: usize, expected: &[f64]) -> f64 {
    let all = Vec::<f64>::try_from(x.flatten(0, -1).to_kind(Kind::Double)).unwrap();
    let picked: Vec<f64> = all.into_iter().step_by(step).collect();
    assert_eq!(picked.len(), expected.len());
    picked.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn shapes(vars: &VarStore) -> BTreeMap<String, Vec<i64>> {
    vars.variables().into_iter().map(|(name, tensor)| (name, tensor.size())).collect()
}

#[test]
fn names_outputs_and_running_values_equal_torchvisions() {
    for case in fixture().resnets {
        let vars = VarStore::new(Device::Cpu);
        let config = EncoderConfig::named(&case.arch, &EncoderConfig::default(), 112, 16).unwrap();
        let net = Encoder::new(&vars.root(), &config).unwrap();
        assert_eq!(shapes(&vars), case.shapes, "{}", case.arch);
        fill(&vars);
        let clips = wave(&[2, 3, 8, 32, 32], 0).to_kind(Kind::Float);
        let features = no_grad(|| net.forward(&clips, Mode::Eval)).unwrap();
        let most = largest_difference(&features, 37, &case.features);
        assert!(most < 1e-4, "{}: features differ by {most}", case.arch);
        let _ = no_grad(|| net.forward(&clips, Mode::Train)).unwrap();
        let moved = &vars.variables()["layer3.0.conv2.1.running_var"];
        let most = largest_difference(moved, 29, &case.running_var);
        assert!(most < 1e-4, "{}: running variances differ by {most}", case.arch);
    }
}

#[test]
fn names_and_tokens_equal_transformers() {
    let case = fixture().transformer;
    let vars = VarStore::new(Device::Cpu);
    let (arch, image_size, patch_size, frames) = (case.arch.parse().unwrap(), 16, 8, 4);
    let config = VideoVitConfig { arch, image_size, patch_size, frames, ..VideoVitConfig::default() };
    let net = Encoder::new(&vars.root(), &config.into()).unwrap();
    assert_eq!(shapes(&vars), case.shapes);
    fill(&vars);
    let clips = wave(&[2, 3, 4, 16, 16], 0).to_kind(Kind::Float);
    let vit = net.vit("the test").unwrap();
    let keep = Tensor::from_slice(&[0i64, 3, 4, 7]).expand([2, 4], false);
    // With gradients attention takes another way than without.
    for mode in [Mode::Train, Mode::Eval] {
        let run = |keep| match mode {
            Mode::Train => vit.tokens(&clips, keep, mode).unwrap(),
            _ => no_grad(|| vit.tokens(&clips, keep, mode)).unwrap(),
        };
        let most = largest_difference(&run(None), 7, &case.tokens);
        assert!(most < 1e-4, "tokens differ by {most}");
        let most = largest_difference(&run(Some(&keep)), 5, &case.visible);
        assert!(most < 1e-4, "tokens of visible tubelets differ by {most}");
    }
}
