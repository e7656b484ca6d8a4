//! The ResNets against torchvision's, with weights and images that need no generator.
//!
//! `fixtures/resnet.json` is made by `fixtures/make_resnet.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use serde::Deserialize;
use ssl_core::{Mode, no_grad};
use ssl_vision::backbones::{Arch, Backbone, ResNet, ResNetConfig, Stem};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    arch: Arch,
    stem: Stem,
    side: i64,
    features: Vec<f64>,
    running_var: Vec<f64>,
}

/// sin(0.37 n + shift), the position n modulo 1009.
fn wave(shape: &[i64], shift: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..count).map(|n| (0.37 * (n % 1009) as f64 + shift as f64).sin()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Sets every parameter and running value, by the order of the names.
fn fill(vars: &VarStore) {
    let mut named: Vec<(String, Tensor)> = vars.variables().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (shift, (name, mut tensor)) in named.into_iter().enumerate() {
        let shape = tensor.size();
        let value = wave(&shape, shift);
        let value = if shape.len() == 4 {
            value * (2.0 / shape[1..].iter().product::<i64>() as f64).sqrt()
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            value * 0.1 + 1.0
        } else {
            value * 0.1
        };
        no_grad(|| tensor.copy_(&value));
    }
}

/// Every so many of the numbers.
fn picked(x: &Tensor, step: usize) -> Vec<f64> {
    let all = Vec::<f64>::try_from(x.flatten(0, -1).to_kind(Kind::Double)).unwrap();
    all.into_iter().step_by(step).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn features_and_running_values_equal_torchvisions() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/resnet.json")).unwrap();
    for case in cases {
        let vars = VarStore::new(Device::Cpu);
        let config = ResNetConfig { arch: case.arch, stem: case.stem, channels: 3 };
        let net = ResNet::new(&vars.root(), &config).unwrap();
        fill(&vars);
        let images = wave(&[2, 3, case.side, case.side], 0).to_kind(Kind::Float);
        let features = no_grad(|| net.forward(&images, Mode::Eval)).unwrap();
        let most = largest_difference(&picked(&features, 37), &case.features);
        assert!(most < 1e-4, "{} {:?}: features differ by {most}", case.arch, case.stem);
        let _ = no_grad(|| net.forward(&images, Mode::Train)).unwrap();
        let moved = picked(&vars.variables()["layer3.0.bn2.running_var"], 29);
        let most = largest_difference(&moved, &case.running_var);
        assert!(most < 1e-4, "{} {:?}: running variances differ by {most}", case.arch, case.stem);
    }
}
