//! The Vision Transformer against timm's, with weights and images that need no generator.
//!
//! `fixtures/vit.json` is made by `fixtures/make_vit.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use serde::Deserialize;
use ssl_core::{Mode, no_grad};
use ssl_vision::backbones::{Backbone, Pool, Vit, VitArch, VitConfig};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    pool: Pool,
    height: i64,
    width: i64,
    shapes: BTreeMap<String, Vec<i64>>,
    features: Vec<f64>,
    tokens: Vec<f64>,
    maps: Vec<Vec<f64>>,
}

/// sin(0.37 n + shift), the position n modulo 1009.
fn wave(shape: &[i64], shift: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..count).map(|n| (0.37 * (n % 1009) as f64 + shift as f64).sin()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Sets every parameter, by the order of the names.
fn fill(vars: &VarStore) {
    let named: BTreeMap<String, Tensor> = vars.variables().into_iter().collect();
    for (shift, (name, mut tensor)) in named.into_iter().enumerate() {
        let shape = tensor.size();
        let value = wave(&shape, shift);
        let value = match shape.len() {
            2 | 4 => value * (2.0 / shape[1..].iter().product::<i64>() as f64).sqrt(),
            _ if name.ends_with("weight") => value * 0.1 + 1.0,
            _ => value * 0.3,
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

#[test]
fn names_and_outputs_equal_timms() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/vit.json")).unwrap();
    for case in cases {
        let vars = VarStore::new(Device::Cpu);
        let arch = VitArch::Free { dim: 24, layers: 2, heads: 3 };
        let config =
            VitConfig { arch, image_size: 16, patch_size: 4, pool: case.pool, ..VitConfig::default() };
        let net = Vit::new(&vars.root(), &config).unwrap();
        let shapes: BTreeMap<String, Vec<i64>> =
            vars.variables().into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
        assert_eq!(shapes, case.shapes);
        fill(&vars);
        let images = wave(&[2, 3, case.height, case.width], 0).to_kind(Kind::Float);
        let which = format!("{:?} of {} x {}", case.pool, case.height, case.width);
        // With gradients attention takes another way than without.
        let recorded = net.forward(&images, Mode::Train).unwrap();
        assert!(recorded.requires_grad());
        for features in [recorded, no_grad(|| net.forward(&images, Mode::Eval)).unwrap()] {
            let most = largest_difference(&features, 1, &case.features);
            assert!(most < 1e-5, "{which}: features differ by {most}");
        }
        if case.pool == Pool::Token {
            let tokens = net.tokens(&images, None, Mode::Eval).unwrap();
            let most = largest_difference(&tokens, 11, &case.tokens);
            assert!(most < 1e-5, "{which}: tokens differ by {most}");
        }
        for ((name, map), expected) in net.features(&images, Mode::Eval).unwrap().iter().zip(&case.maps) {
            assert_eq!(map.size(), [2, 24, case.height / 4, case.width / 4]);
            let most = largest_difference(map, 13, expected);
            assert!(most < 1e-5, "{which}: {name} differs by {most}");
        }
    }
}
