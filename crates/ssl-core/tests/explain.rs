//! Explanations against captum, SciPy and NumPy: `fixtures/explain.py`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use serde_json::Value;
use ssl_core::explain::{
    attention_rollout, grad_cam, gradient, integrated_gradients, occlusion, spearman, spread, windows,
};
use tch::{Device, Kind, Tensor};

fn case(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("fixtures/explain.json")).unwrap();
    all["cases"][name].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn wave(size: &[i64], f: impl Fn(f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..size.iter().product()).map(|n| f(n as f64)).collect();
    Tensor::from_slice(&values).view(size)
}

fn a(size: &[i64]) -> Tensor {
    wave(size, |n| (0.37 * n + 0.1).sin())
}

fn b(size: &[i64]) -> Tensor {
    wave(size, |n| (0.53 * n - 0.2).cos())
}

/// What captum rounds to single precision on its way, and what it does not.
const SINGLE: f64 = 1e-6;
const DOUBLE: f64 = 1e-9;

#[track_caller]
fn assert_close(got: &Tensor, expected: &Value, within: f64, what: &str) {
    let (got, expected) = (Vec::<f64>::try_from(got.flatten(0, -1)).unwrap(), numbers(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    for (g, e) in got.iter().zip(&expected) {
        assert!((g - e).abs() < within, "{what}: {got:?} instead of {expected:?}");
    }
}

fn summed(x: &Tensor) -> Tensor {
    x.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
}

#[test]
fn integrated_gradients_and_their_gap_are_captums() {
    let f = |x: &Tensor| Ok((x.matmul(&b(&[5, 4]).tr()) + a(&[5])).tanh().mv(&b(&[5])));
    for (name, steps) in [("integrated gradients, 2 steps", 2), ("integrated gradients, 20 steps", 20)] {
        let found = integrated_gradients(&f, &a(&[3, 4]), &(b(&[3, 4]) / 2.), steps).unwrap();
        assert_close(&found.values, &case(name)["values"], SINGLE, name);
        assert_close(&found.gap, &case(name)["gap"], SINGLE, name);
    }
}

#[test]
fn grad_cam_is_captums_in_one_to_three_dimensions() {
    for (dimensions, shape, kernel) in [
        (1, vec![2, 2, 7], vec![3, 2, 3]),
        (2, vec![2, 2, 5, 6], vec![3, 2, 3, 3]),
        (3, vec![2, 1, 4, 3, 4], vec![3, 1, 2, 2, 2]),
    ] {
        let (x, weight, none) = (a(&shape), b(&kernel), None::<Tensor>);
        let map = match dimensions {
            1 => x.conv1d(&weight, none, 1, 0, 1, 1),
            2 => x.conv2d(&weight, none, [1, 1], [0, 0], [1, 1], 1),
            _ => x.conv3d(&weight, none, [1, 1, 1], [0, 0, 0], [1, 1, 1], 1),
        };
        let scalar = |map: &Tensor| Ok(summed(&(map.tanh() * b(&map.size()[1..]))));
        let cam = grad_cam(&map, &gradient(&scalar, &map).unwrap()).unwrap();
        let plural = if dimensions == 1 { "" } else { "s" };
        let name = format!("grad-cam, {dimensions} dimension{plural}");
        assert_close(&cam, &case(&name), DOUBLE, &name);
    }
}

#[test]
fn occlusion_is_captums() {
    let f = |x: &Tensor| Ok(summed(&((x * 2.).sin() * b(&[4, 6]))));
    let hidden = windows(&[4, 6], &[2, 3], &[1, 2], Device::Cpu).unwrap();
    let drops = occlusion(&f, &a(&[2, 4, 6]), &hidden, &Tensor::from(0.3f64)).unwrap();
    assert_close(&spread(&drops, &hidden).unwrap(), &case("occlusion"), SINGLE, "occlusion");
}

#[test]
fn rollout_is_that_of_the_papers_equation() {
    let shape = [2, 3, 5, 5];
    let logits = [a(&shape), b(&shape), wave(&shape, |n| (0.37 * n + 0.1).sin().powi(2) + 0.1)];
    let layers = logits.map(|logits| (logits * 3.).softmax(-1, None));
    for (name, discard) in [("rollout", 0.), ("rollout, a third left out", 1. / 3.)] {
        let rollout = attention_rollout(&layers, discard).unwrap();
        assert_close(&rollout, &case(name), DOUBLE, name);
    }
}

#[test]
fn ranks_correlate_as_in_scipy() {
    let of = |x: Tensor| Vec::<f64>::try_from(x).unwrap();
    let (x, y) = (of(a(&[12])), of(b(&[12])));
    let halves = |x: &[f64]| x.iter().map(|x| (2. * x).round_ties_even()).collect::<Vec<_>>();
    let got = [spearman(&x, &y), spearman(&halves(&x), &halves(&y))];
    for (got, expected) in got.into_iter().zip(numbers(&case("spearman"))) {
        assert!((got - expected).abs() < 1e-12, "{got} instead of {expected}");
    }
    assert_eq!(spearman(&x, &[1.; 12]), 0.);
}
