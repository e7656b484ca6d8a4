//! Losses, schedules, optimizers and averages against what the reference libraries compute: `fixtures/reference.py`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
use serde_json::Value;
use ssl_core::eval::{Features, knn_votes};
use ssl_core::loss::{
    SigReg, VicRegWeights, barlow_twins, dcl, dclw, dino, ibot, info_nce, info_nce_in_batch, koleo,
    negative_cosine, nt_xent, sigreg, sinkhorn, swav, tico, vicreg,
};
use ssl_core::optim::{Flat, Group, LambConfig, Lars, LarsConfig, Optimizer, OptimizerConfig, SgdConfig};
use ssl_core::schedule::{End, Ramp, Span, Warmup};
use ssl_core::{Ema, Schedule, Statistics, Step};
use std::collections::BTreeMap;
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

fn case(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("fixtures/reference.json")).unwrap();
    all["cases"][name].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn wave(size: &[i64], kind: Kind, f: impl Fn(f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..size.iter().product()).map(|n| f(n as f64)).collect();
    Tensor::from_slice(&values).view(size).to_kind(kind)
}

fn a(size: &[i64], kind: Kind) -> Tensor {
    wave(size, kind, |n| (0.37 * n + 0.1).sin())
}

fn b(size: &[i64], kind: Kind) -> Tensor {
    wave(size, kind, |n| (0.53 * n - 0.2).cos())
}

/// Float64 to 1e-9, float32 to 1e-5, relative to the largest value where that exceeds 1.
const KINDS: [(Kind, f64); 2] = [(Kind::Double, 1e-9), (Kind::Float, 1e-5)];

#[track_caller]
fn assert_close(got: &Tensor, expected: &[f64], tolerance: f64, what: &str) {
    let got = Vec::<f64>::try_from(got.to_kind(Kind::Double).flatten(0, -1)).unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1f64, |m, x| m.max(x.abs()));
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= tolerance * scale, "{what}: {got:?} instead of {expected:?}");
    }
}

#[test]
fn schedules_equal_those_of_the_libraries() {
    let warm = |steps, from, ramp, span| Warmup { steps, from, ramp, span };
    let after = |schedule: Schedule| schedule.reached(End::AfterLastStep);
    let hf = warm(3, 0., Ramp::FromStart, Span::Rest);
    let milestones = ssl_core::schedule::Milestones::new(&[3, 7]).unwrap();
    let cases = [
        ("lightly cosine", 20, Schedule::cosine(0.996, 1.)),
        ("lightly warmup cosine", 20, Schedule::cosine(1., 0.001).with_warmup(5)),
        ("torch cosine", 10, after(Schedule::cosine(1., 0.))),
        ("torch milestones", 10, Schedule::milestones(1., 0.1, milestones)),
        ("torch one cycle", 12, Schedule::one_cycle(1.)),
        ("transformers cosine", 12, Schedule { warmup: hf, ..after(Schedule::cosine(1., 0.)) }),
        ("transformers linear", 12, Schedule { warmup: hf, ..after(Schedule::linear(1., 0.)) }),
        (
            "timm cosine",
            12,
            Schedule {
                warmup: warm(3, 0.001, Ramp::FromStart, Span::Whole),
                ..after(Schedule::cosine(1., 0.01))
            },
        ),
    ];
    for (name, total, schedule) in cases {
        for (index, expected) in numbers(&case(name)).into_iter().enumerate() {
            let got = schedule.at(Step { index: index as u64, total });
            assert!((got - expected).abs() < 1e-12, "{name} at {index}: {got} instead of {expected}");
        }
    }
}

/// `w` and `v` as the fixtures have them, three steps on.
fn three_steps(
    optimizer: impl Fn(BTreeMap<String, Tensor>) -> Box<dyn Optimizer>,
    (lr, weight_decay): (f64, f64),
    (kind, scale): (Kind, f64),
) -> (Tensor, Tensor) {
    let w = a(&[4, 3], kind).set_requires_grad(true);
    let v = a(&[3], kind).set_requires_grad(true);
    let named = [("v", &v), ("w", &w)].map(|(name, x)| (name.to_string(), x.shallow_clone()));
    let mut optimizer = optimizer(named.into_iter().collect());
    for k in 1..=3 {
        optimizer.zero_grad().unwrap();
        // The gradient of a sum of products is the factor.
        let k = f64::from(k) * scale;
        ((&w * b(&[4, 3], kind) * k).sum(kind) + (&v * b(&[3], kind) * k).sum(kind)).backward();
        optimizer.step(lr, weight_decay).unwrap();
    }
    (w, v)
}

#[test]
fn optimizers_equal_those_of_the_libraries() {
    let sgd = |momentum, nesterov| OptimizerConfig::Sgd(SgdConfig { momentum, nesterov });
    let adamw = OptimizerConfig::AdamW(ssl_core::optim::AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 });
    let nesterov = OptimizerConfig::Lars(LarsConfig { nesterov: true, ..LarsConfig::default() });
    let cases = [
        ("sgd", sgd(0., false), (0.1, 5e-2), 1.),
        ("sgd momentum", sgd(0.9, false), (0.1, 5e-2), 1.),
        ("sgd nesterov", sgd(0.9, true), (0.1, 5e-2), 1.),
        ("adamw", adamw, (1e-2, 5e-2), 1.),
        ("lightly lars", OptimizerConfig::lars(), (0.5, 1e-2), 1.),
        ("timm lars", OptimizerConfig::lars(), (0.5, 1e-2), 1.),
        ("lightly lars nesterov", nesterov, (0.5, 1e-2), 1.),
        ("solo lars", OptimizerConfig::Lars(LarsConfig::solo()), (0.3, 1e-2), 1.),
        ("solo lars clipped", OptimizerConfig::Lars(LarsConfig::solo()), (1e-3, 1e-2), 1.),
        ("timm lamb", OptimizerConfig::lamb(), (1e-2, 1e-2), 1.),
        ("timm lamb small gradients", OptimizerConfig::lamb(), (1e-2, 1e-2), 0.05),
    ];
    for (name, config, rates, scale) in cases {
        for (kind, tolerance) in KINDS {
            let (w, v) = three_steps(|named| config.build(named).unwrap(), rates, (kind, scale));
            assert_close(&w, &numbers(&case(name)["w"]), tolerance, name);
            assert_close(&v, &numbers(&case(name)["v"]), tolerance, name);
        }
    }
}

#[test]
fn a_group_of_its_own_lets_biases_decay_too() {
    let config = OptimizerConfig::AdamW(ssl_core::optim::AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 });
    let build = |named| config.build_grouped(named, &|_, _| Group::DECAYED).unwrap();
    for (kind, tolerance) in KINDS {
        let (w, v) = three_steps(build, (1e-2, 5e-2), (kind, 1.));
        assert_close(&w, &numbers(&case("adamw all decayed")["w"]), tolerance, "w");
        assert_close(&v, &numbers(&case("adamw all decayed")["v"]), tolerance, "v");
    }
}

#[test]
fn solo_lars_leaves_one_dimensional_tensors_alone_also_inside_a_decayed_group() {
    let build = |named| -> Box<dyn Optimizer> {
        let flat = Flat::new(named, &|_, _| Group::DECAYED).unwrap();
        Box::new(Lars::new(flat, LarsConfig::solo()).unwrap())
    };
    let (w, v) = three_steps(build, (0.3, 1e-2), (Kind::Double, 1.));
    assert_close(&w, &numbers(&case("solo lars")["w"]), 1e-9, "w");
    assert_close(&v, &numbers(&case("solo lars")["v"]), 1e-9, "v");
}

#[test]
fn lamb_without_its_inner_clip_is_another_optimizer() {
    let config = OptimizerConfig::Lamb(LambConfig { max_grad_norm: None, ..LambConfig::default() });
    let run = |scale| three_steps(|named| config.build(named).unwrap(), (1e-2, 1e-2), (Kind::Double, scale));
    // Without the clip Adam's direction does not depend on the gradient's scale, but for eps.
    let expected = Vec::<f64>::try_from(run(1.).1).unwrap();
    assert_close(&run(1e3).1, &expected, 1e-6, "v");
    let clipped = numbers(&case("timm lamb")["v"]);
    assert!(expected.iter().zip(&clipped).any(|(x, y)| (x - y).abs() > 1e-4), "the clip changes nothing");
}

#[test]
fn losses_and_their_gradients_equal_those_of_the_libraries() {
    type Loss = Box<dyn Fn(&Tensor, &Tensor) -> Tensor>;
    let contrast = |t| Box::new(move |x: &Tensor, y: &Tensor| nt_xent(x, y, t).unwrap()) as Loss;
    let queue = |kind| {
        let columns = a(&[16, 12], kind) * 0.7 + b(&[16, 12], kind) * 0.1;
        let rows = columns.transpose(0, 1).contiguous();
        &rows / rows.norm_scalaropt_dim(2, [1i64], true)
    };
    let barlow = || Box::new(|x: &Tensor, y: &Tensor| barlow_twins(x, y, 5e-3).unwrap()) as Loss;
    let weights = VicRegWeights::default();
    let regularized = || Box::new(move |x: &Tensor, y: &Tensor| vicreg(x, y, weights).unwrap().total) as Loss;
    let cases: [(&str, [i64; 2], Loss); 12] = [
        ("nt_xent T=0.1", [8, 16], contrast(0.1)),
        ("nt_xent T=0.2", [8, 16], contrast(0.2)),
        ("nt_xent T=0.5", [8, 16], contrast(0.5)),
        ("dcl T=0.1", [8, 16], Box::new(|x, y| dcl(x, y, 0.1).unwrap())),
        ("dclw T=0.1", [8, 16], Box::new(|x, y| dclw(x, y, 0.1, 0.5).unwrap())),
        ("negative cosine", [8, 16], Box::new(|x, y| negative_cosine(x, y).unwrap())),
        ("info_nce T=0.2", [8, 16], Box::new(move |x, y| info_nce(x, y, &queue(x.kind()), 0.2).unwrap())),
        ("info_nce in batch T=0.2", [8, 16], Box::new(|x, y| info_nce_in_batch(x, y, 0.2).unwrap())),
        ("barlow_twins 8x16", [8, 16], barlow()),
        ("barlow_twins 16x8", [16, 8], barlow()),
        ("vicreg 8x16", [8, 16], regularized()),
        ("vicreg 16x8", [16, 8], regularized()),
    ];
    for (name, size, loss) in &cases {
        for (kind, tolerance) in KINDS {
            let x = a(size, kind).set_requires_grad(true);
            let y = b(size, kind).set_requires_grad(true);
            let value = loss(&x, &y);
            value.backward();
            assert_close(&value, &[case(name)["loss"].as_f64().unwrap()], tolerance, name);
            assert_close(&x.grad(), &numbers(&case(name)["gradients"][0]), tolerance, name);
            assert_close(&y.grad(), &numbers(&case(name)["gradients"][1]), tolerance, name);
        }
    }
}

#[test]
fn dino_s_loss_of_three_views_and_its_gradients_equal_lightly_s() {
    for (kind, tolerance) in KINDS {
        let (x, y) = (a(&[8, 16], kind), b(&[8, 16], kind));
        let student = [&x * 0.9, &y * 1.1, &x * 0.3 + &y * 0.2].map(|view| view.set_requires_grad(true));
        let center = Tensor::from_slice(&numbers(&case("dino")["center"])).to_kind(kind);
        let value = dino(&student, &[x, y], &center, 0.1, 0.04).unwrap();
        value.backward();
        assert_close(&value, &[case("dino")["loss"].as_f64().unwrap()], tolerance, "dino");
        for (view, gradient) in student.iter().zip(case("dino")["gradients"].as_array().unwrap()) {
            assert_close(&view.grad(), &numbers(gradient), tolerance, "dino");
        }
    }
}

#[test]
fn the_loss_of_ibot_s_hidden_patches_and_koleo_equal_lightly_s() {
    for (kind, tolerance) in KINDS {
        let (student, weights) = (b(&[3, 8], kind), Tensor::from_slice(&[0.25, 0.25, 0.5]).to_kind(kind));
        let targets = (a(&[3, 8], kind) / 0.04).softmax(-1, kind);
        let patches = |x: &Tensor| ibot(x, &targets, &weights, 0.1).unwrap();
        let spread = |x: &Tensor| koleo(x).unwrap();
        let cases = [("ibot", student), ("koleo", a(&[8, 16], kind))];
        for (name, x) in cases {
            let x = x.set_requires_grad(true);
            let value = if name == "ibot" { patches(&x) } else { spread(&x) };
            value.backward();
            assert_close(&value, &[case(name)["loss"].as_f64().unwrap()], tolerance, name);
            assert_close(&x.grad(), &numbers(&case(name)["gradients"][0]), tolerance, name);
        }
    }
}

#[test]
fn codes_and_the_loss_of_swav_equal_lightly_s() {
    for (kind, tolerance) in KINDS {
        let (x, y) = (a(&[6, 4], kind), b(&[6, 4], kind));
        let codes = [&x, &y].map(|x| sinkhorn(x, 0.05, 3).unwrap());
        // Float32 has three digits less where scores are divided by 0.05.
        assert_close(&codes[0], &numbers(&case("sinkhorn")), tolerance * 10., "sinkhorn");
        let scores = [x.copy(), y.copy(), x * 0.5 + y * 0.25].map(|view| view.set_requires_grad(true));
        let value = swav(&scores, &codes, 0.1).unwrap();
        value.backward();
        assert_close(&value, &[case("swav")["loss"].as_f64().unwrap()], tolerance, "swav");
        for (view, gradient) in scores.iter().zip(case("swav")["gradients"].as_array().unwrap()) {
            assert_close(&view.grad(), &numbers(gradient), tolerance, "swav");
        }
    }
}

#[test]
fn two_calls_of_tico_equal_lightly_s() {
    let tico_case = case("tico");
    for (kind, tolerance) in KINDS {
        let (x, y) = (a(&[8, 16], kind), b(&[8, 16], kind));
        let mut covariance = Tensor::zeros([16, 16], (kind, Device::Cpu));
        for (expected, first, second) in [(&tico_case["first"], &x, &y), (&tico_case, &y, &x)] {
            let views = [first, second].map(|view| view.copy().set_requires_grad(true));
            let terms = tico(&views[0], &views[1], &covariance, 0.9, 20.).unwrap();
            terms.total.backward();
            assert_close(&terms.total, &[expected["loss"].as_f64().unwrap()], tolerance, "tico");
            for (view, gradient) in views.iter().zip(expected["gradients"].as_array().unwrap()) {
                assert_close(&view.grad(), &numbers(gradient), tolerance, "tico");
            }
            covariance = terms.covariance;
        }
        let after_first = tico(&x, &y, &covariance.zeros_like(), 0.9, 20.).unwrap().covariance;
        assert_close(&after_first, &numbers(&tico_case["covariance"]), tolerance, "covariance");
    }
}

#[test]
fn the_test_of_normality_equals_lightly_s() {
    for (kind, tolerance) in KINDS {
        let directions = a(&[16, 5], kind);
        let directions = &directions / directions.norm_scalaropt_dim(2, [0i64], true);
        let views = Tensor::stack(&[a(&[12, 16], kind), b(&[12, 16], kind)], 0).set_requires_grad(true);
        let value = sigreg(&views, &directions, SigReg::default()).unwrap();
        value.backward();
        assert_close(&value, &[case("sigreg")["loss"].as_f64().unwrap()], tolerance, "sigreg");
        assert_close(&views.grad(), &numbers(&case("sigreg")["gradients"][0]), tolerance, "sigreg");
    }
}

#[test]
fn the_loss_of_barlow_twins_is_solo_learn_s_at_a_scale_of_one() {
    for (kind, tolerance) in KINDS {
        let loss = barlow_twins(&a(&[8, 16], kind), &b(&[8, 16], kind), 5e-3).unwrap();
        assert_close(&loss, &[case("solo barlow").as_f64().unwrap()], tolerance, "solo barlow");
    }
}

#[test]
fn the_loss_of_byol_is_twice_the_negative_cosine_and_two() {
    for (kind, tolerance) in KINDS {
        let loss = negative_cosine(&a(&[8, 16], kind), &b(&[8, 16], kind)).unwrap() * 2. + 2.;
        assert_close(&loss, &[case("solo byol").as_f64().unwrap()], tolerance, "solo byol");
    }
}

#[test]
fn the_votes_of_neighbors_rank_the_classes_as_lightly_s_knn_predict() {
    for (kind, _) in KINDS {
        let bank = Features::new(&a(&[20, 6], kind), (0..20).map(|i| i % 4).collect()).unwrap();
        let votes = knn_votes(&bank, &b(&[5, 6], kind), 7, 0.1).unwrap();
        let ranking = votes.sort_stable(true, 1, true).1;
        let expected: Vec<f64> = case("lightly knn").as_array().unwrap().iter().flat_map(numbers).collect();
        assert_close(&ranking, &expected, 0., "lightly knn");
    }
}

#[test]
fn a_moving_average_equals_lightly_s_update_momentum() {
    for (kind, tolerance) in KINDS {
        let mut stores = [VarStore::new(Device::Cpu), VarStore::new(Device::Cpu)];
        for store in &mut stores {
            store.set_kind(kind);
            for (name, size) in [("weight", &[2, 3][..]), ("bias", &[2])] {
                let _ = store.root().f_var(name, size, Init::Const(0.)).unwrap();
            }
        }
        let [student, mut teacher] = stores;
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        tch::no_grad(|| {
            for (name, mut x) in student.variables() {
                x.copy_(&a(&x.size(), kind));
                teacher.variables()[&name].shallow_clone().copy_(&b(&x.size(), kind));
            }
        });
        ema.update(0.99).unwrap();
        for name in ["weight", "bias"] {
            let expected = numbers(&case("lightly momentum 0.99")[name]);
            assert_close(&teacher.variables()[name], &expected, tolerance, name);
        }
    }
}
