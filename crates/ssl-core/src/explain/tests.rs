//! That explanations are of what a small network has learned.
use super::*;
use crate::trainer::seed_torch;
use crate::{Error, Result};
use std::collections::BTreeMap;
use tch::nn::{Init, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Two convolutions, the mean over places, a linear layer to two classes.
struct Net {
    vars: VarStore,
}

impl Net {
    fn new() -> Self {
        let vars = VarStore::new(Device::Cpu);
        let root = vars.root();
        for (name, shape) in
            [("a", vec![8, 1, 3, 3]), ("b", vec![8, 8, 3, 3]), ("c", vec![2, 8]), ("d", vec![2])]
        {
            let deviation = (2. / shape[1..].iter().product::<i64>() as f64).sqrt();
            let _ = root.var(name, &shape, Init::Randn { mean: 0., stdev: deviation });
        }
        Net { vars }
    }

    fn var(&self, name: &str) -> Tensor {
        self.vars.variables()[name].shallow_clone()
    }

    fn map(&self, x: &Tensor) -> Tensor {
        let convolve =
            |x: &Tensor, name| x.conv2d(&self.var(name), None::<Tensor>, [1, 1], [1, 1], [1, 1], 1).relu();
        convolve(&convolve(x, "a"), "b")
    }

    fn logits(&self, map: &Tensor) -> Tensor {
        map.mean_dim([2i64, 3].as_slice(), false, Kind::Float).linear(&self.var("c"), Some(self.var("d")))
    }

    /// The logits' difference, whose sign is the class.
    fn scalar(&self, map: &Tensor) -> Result<Tensor> {
        let logits = self.logits(map);
        Ok(logits.select(1, 1) - logits.select(1, 0))
    }

    /// Layers from the top.
    fn layers(&self) -> Vec<(String, Vec<Tensor>)> {
        let layer = |name: &str, of: &[&str]| (name.to_string(), of.iter().map(|of| self.var(of)).collect());
        vec![layer("linear", &["c", "d"]), layer("second", &["b"]), layer("first", &["a"])]
    }
}

/// A bar of 1 x 3, lying in a window of 3 x 3 or standing.
fn bar(class: i64) -> Tensor {
    let window = Tensor::zeros([3, 3], FLOAT);
    let _ = window.select(1 - class, 1).fill_(2.);
    window
}

/// Bars somewhere in noise; the class of those that lie is 1.
fn shapes(count: i64) -> (Tensor, Tensor) {
    let x = Tensor::randn([count, 1, 8, 8], FLOAT) * 0.2;
    let classes = Tensor::randint(2, [count], (Kind::Int64, Device::Cpu));
    let places = Vec::<i64>::try_from(Tensor::randint(36, [count], (Kind::Int64, Device::Cpu))).unwrap();
    for (row, place) in (0..).zip(places) {
        let mut window = x.get(row).get(0).narrow(0, place / 6, 3).narrow(1, place % 6, 3);
        let _ = window.g_add_(&bar(classes.int64_value(&[row])));
    }
    (x, classes)
}

fn trained() -> Net {
    seed_torch(3, 0);
    let net = Net::new();
    let mut optimizer = tch::nn::Adam::default().build(&net.vars, 0.03).unwrap();
    for _ in 0..60 {
        let (x, classes) = shapes(32);
        optimizer.backward_step(&net.logits(&net.map(&x)).cross_entropy_for_logits(&classes));
    }
    net
}

/// What each correlates with at last, and the explanation that looks at the input alone.
fn cascade(net: &Net, explain: &dyn Fn() -> Result<Tensor>) -> Vec<f64> {
    seed_torch(7, 0);
    let before: BTreeMap<String, Tensor> =
        net.vars.variables().into_iter().map(|(name, x)| (name, x.copy())).collect();
    let found = randomization(&net.layers(), explain).unwrap();
    assert_eq!(
        found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["linear", "second", "first"]
    );
    assert!(before.iter().all(|(name, x)| net.var(name).equal(x)), "the weights come back");
    found.into_iter().map(|(_, correlation)| correlation).collect()
}

#[test]
fn explanations_of_the_network_fall_with_its_weights_and_one_of_the_input_does_not() {
    let net = trained();
    let (x, classes) = shapes(32);
    let right = net.logits(&net.map(&x)).argmax(1, false).eq_tensor(&classes).to_kind(Kind::Double);
    let accuracy = right.mean(Kind::Double).double_value(&[]);
    assert!(accuracy > 0.9, "{accuracy}");

    let of_map = || {
        let map = net.map(&x).detach();
        let gradients = gradient(&|map| net.scalar(map), &map)?;
        // Of both classes, what speaks for the one that is there.
        let sign = (classes.to_kind(Kind::Float) * 2. - 1.).view([-1, 1, 1, 1]);
        grad_cam(&map, &(gradients * sign))
    };
    let cam = cascade(&net, &of_map);
    assert!(cam[2] < 0.5 && cam.iter().all(|&c| c < 0.95), "{cam:?}");

    let of_input = || {
        let found = integrated_gradients(&|x| net.scalar(&net.map(x)), &x, &x.zeros_like(), 8)?;
        Ok(found.values)
    };
    let integrated = cascade(&net, &of_input);
    assert!(integrated[2] < 0.5 && integrated.iter().all(|&c| c < 0.95), "{integrated:?}");

    let edges = || {
        let across = x.narrow(3, 1, 7).narrow(2, 0, 7) - x.narrow(3, 0, 7).narrow(2, 0, 7);
        Ok(across.abs())
    };
    assert!(cascade(&net, &edges).iter().all(|c| (c - 1.).abs() < 1e-12));
}

#[test]
fn explanations_point_at_what_decides() {
    let net = trained();
    let x = Tensor::zeros([1, 1, 8, 8], FLOAT);
    x.get(0).get(0).narrow(0, 4, 3).narrow(1, 1, 3).copy_(&bar(1));
    let f = |x: &Tensor| net.scalar(&net.map(x));
    let share = |map: &Tensor| {
        let map = map.clamp_min(0.).view([8, 8]);
        let inside = map.narrow(0, 3, 5).narrow(1, 0, 5).sum(Kind::Double).double_value(&[]);
        inside / map.sum(Kind::Double).double_value(&[])
    };
    let hidden = windows(&[1, 8, 8], &[1, 3, 3], &[1, 1, 1], Device::Cpu).unwrap();
    let drops = occlusion(&f, &x, &hidden, &x.zeros_like()).unwrap();
    let map = net.map(&x).detach();
    let cam = grad_cam(&map, &gradient(&|map| net.scalar(map), &map).unwrap()).unwrap();
    for (name, map) in [("occlusion", spread(&drops, &hidden).unwrap()), ("grad_cam", cam)] {
        let share = share(&map);
        assert!(share > 0.9, "{name}: {share}");
    }
}

#[test]
fn the_weights_come_back_after_an_error() {
    let net = Net::new();
    let before = net.var("c").copy();
    let calls = std::cell::Cell::new(0);
    let explain = || {
        calls.set(calls.get() + 1);
        match calls.get() {
            1 => Ok(Tensor::zeros([2, 3], FLOAT)),
            _ => Err(Error::config("it", "broke")),
        }
    };
    assert_eq!(randomization(&net.layers(), &explain).unwrap_err().to_string(), "it: broke");
    assert!(net.var("c").equal(&before));
}

#[test]
fn similarity_to_itself_has_no_gradient_and_the_way_along_itself_has() {
    seed_torch(1, 0);
    let z = Tensor::randn([3, 5], FLOAT);
    let norm = |f: Scalar<'_>| gradient(f, &z).unwrap().norm().double_value(&[]);
    assert!(norm(&|x| similarity(x, &z)) < 1e-6);
    assert!(norm(&|x| similarity(x, &z.flip([0]))) > 0.1);
    let directions = apart(&z, &Tensor::zeros([1, 5], FLOAT)).unwrap();
    assert!((norm(&|x| along(x, &directions)) - 3f64.sqrt()).abs() < 1e-5);
}

#[test]
fn windows_cover_the_input_and_the_last_end_with_it() {
    let hidden = windows(&[2, 5], &[2, 2], &[2, 2], Device::Cpu).unwrap();
    assert_eq!(hidden.size(), [3, 2, 5]);
    let last = Vec::<bool>::try_from(hidden.get(2).view([10])).unwrap();
    assert_eq!(last, [false, false, false, false, true, false, false, false, false, true]);
    assert!(hidden.any_dim(0, false).all().int64_value(&[]) == 1);
    // What no window hides is not asked for.
    let some = windows(&[5], &[1], &[3], Device::Cpu).unwrap();
    let drops = occlusion(
        &|x| Ok(x.sum_dim_intlist([1i64].as_slice(), false, Kind::Float)),
        &Tensor::from_slice(&[1f32, 2., 3., 4., 5.]).view([1, 5]),
        &some,
        &Tensor::from(0f32),
    );
    let shares = spread(&drops.unwrap(), &some).unwrap();
    assert_eq!(Vec::<f32>::try_from(shares.view([5])).unwrap(), [1., 0., 0., 4., 0.]);
}

#[test]
fn a_replica_is_alike_and_its_own() {
    let net = Net::new();
    let tensors: BTreeMap<String, Tensor> = net.vars.variables().into_iter().collect();
    let build =
        |p: &tch::nn::Path<'_>| Ok(tensors.iter().map(|(n, x)| p.zeros(n, &x.size())).collect::<Vec<_>>());
    let (vars, _) = replica(&tensors, Device::Cpu, build).unwrap();
    assert!(vars.variables().iter().all(|(name, x)| x.equal(&tensors[name]) && x.requires_grad()));
    crate::no_grad(|| drop(vars.variables()["c"].shallow_clone().zero_()));
    assert!(net.var("c").abs().max().double_value(&[]) > 0.);
    let message = replica(&BTreeMap::new(), Device::Cpu, build).unwrap_err().to_string();
    assert!(message.contains("a is missing"), "{message}");
}

#[test]
fn shares_are_shown_beside_the_greatest_of_their_example() {
    let shares = Tensor::from_slice(&[1f32, -4., 0., 0.5, 0., 0.]).view([2, 3]);
    let shown = Vec::<f32>::try_from(relative(&shares).unwrap().view([6])).unwrap();
    assert!((shown[0] - 1. / 3.94).abs() < 1e-4 && shown[1..] == [-1., 0., 1., 0., 0.], "{shown:?}");
}

#[test]
fn wrong_inputs_are_named() {
    let x = Tensor::zeros([2, 3, 4], FLOAT);
    let told = |error: Error| error.to_string();
    let whole = |x: &Tensor| Ok(x.sum(Kind::Float));
    assert_eq!(
        told(gradient(&whole, &x).unwrap_err()),
        "what is explained: expected [2], one number for each example, got []"
    );
    let each = |x: &Tensor| Ok(x.flatten(1, -1).select(1, 0));
    assert_eq!(
        told(integrated_gradients(&each, &x, &x, 0).unwrap_err()),
        "steps: expected at least 1, got 0"
    );
    assert_eq!(
        told(grad_cam(&x.select(2, 0), &x).unwrap_err()),
        "activations: expected [B, C, ...], got [2, 3]"
    );
    assert_eq!(
        told(grad_cam(&x, &x.select(2, 0)).unwrap_err()),
        "gradients: expected [2, 3, 4] as the activations, got [2, 3]"
    );
    assert_eq!(told(attention_rollout(&[], 0.).unwrap_err()), "layers: expected at least one, got none");
    let weights = Tensor::zeros([1, 2, 3, 3], FLOAT);
    assert_eq!(
        told(attention_rollout(&[weights.shallow_clone()], 1.).unwrap_err()),
        "discard: expected a share from 0 to below 1, got 1"
    );
    let other = Tensor::zeros([1, 2, 4, 4], FLOAT);
    assert_eq!(
        told(attention_rollout(&[weights, other], 0.).unwrap_err()),
        "attention weights: expected [B, H, 3, 3] as in the first layer, got [1, 2, 4, 4]"
    );
    assert_eq!(
        told(windows(&[4, 4], &[2], &[1, 1], Device::Cpu).unwrap_err()),
        "window: expected 2 numbers, one for each dimension, got [2]"
    );
    assert!(
        told(enlarged(&x, &[8]).unwrap_err()).starts_with("map: expected [B, ...] with the 1 dimensions")
    );
}
