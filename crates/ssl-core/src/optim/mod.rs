//! Optimizers whose whole state can be saved: SGD, AdamW, LARS, LAMB over one flat buffer.
//!
//! Source: each optimizer's file names its own.
//!
//! ```
//! use ssl_core::optim::{Optimizer, OptimizerConfig};
//! use std::collections::BTreeMap;
//! use tch::{Device, Kind, Tensor};
//!
//! let weight = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let named = BTreeMap::from([("weight".to_string(), weight.shallow_clone())]);
//! let mut optimizer = OptimizerConfig::sgd(0.9).build(named)?;
//! optimizer.zero_grad()?;
//! weight.f_sum(Kind::Float)?.f_backward()?;
//! optimizer.step(0.1, 0.)?;
//! assert_eq!(weight.f_double_value(&[0, 0])?, f64::from(0.9f32));
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod adamw;
mod config;
mod flat;
mod lamb;
mod lars;
mod sgd;

pub use adamw::{AdamW, AdamWConfig};
pub use config::OptimizerConfig;
pub(crate) use flat::ALIGN;
pub use flat::{Flat, Group, Segment};
pub use lamb::{Lamb, LambConfig};
pub use lars::{Lars, LarsConfig, LarsConvention};
pub use sgd::{Sgd, SgdConfig};

use crate::{Error, Result, no_grad};
use std::fmt::Debug;
use tch::Tensor;

/// Updates parameters from their gradients, and can save all that it remembers.
///
/// Parameters and gradients are views of one flat buffer each, from the moment the optimizer is built. A parameter
/// that a backward pass does not reach has a gradient of zeros and still decays; PyTorch would leave it alone.
pub trait Optimizer: Debug + Send {
    /// The buffers of parameters and gradients.
    fn flat(&self) -> &Flat;

    /// One update from the gradients as they stand. Rate and decay come from schedules, so none is kept.
    ///
    /// # Errors
    /// `Error::Torch` when libtorch refuses.
    fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()>;

    /// Every tensor that the next update depends on beside the parameters, by a name that does not depend on the
    /// order of the parameters. They share memory with the optimizer: copying saved values into them resumes exactly.
    ///
    /// # Errors
    /// `Error::Torch` when libtorch refuses a view.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Sets every gradient to zero, in one kernel.
    fn zero_grad(&mut self) -> Result<()> {
        self.flat().zero_grad()
    }

    /// The joint L2 norm of the gradients, on the device. It is finite only when every gradient is.
    fn grad_norm(&self) -> Result<Tensor> {
        self.flat().grad_norm()
    }

    /// Scales the gradients to a joint L2 norm of at most `max`; returns the norm before, on the device.
    ///
    /// # Source
    /// torch `clip_grad_norm_`, with its 1e-6 in the denominator.
    fn clip_norm(&mut self, max: f64) -> Result<Tensor> {
        let norm = self.grad_norm()?;
        no_grad(|| {
            let scale = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(max)?.f_clamp_max(1.)?;
            let _ = self.flat().gradients().shallow_clone().f_mul_(&scale)?;
            Ok(norm)
        })
    }
}

/// Each parameter's norm in a buffer laid out as `flat`. `[n]` for the `n` segments.
fn norms<'a>(segments: impl Iterator<Item = &'a Segment>, buffer: &Tensor) -> Result<Tensor> {
    let each = segments.map(|segment| Ok(segment.of(buffer)?.f_norm()?)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&each, 0)?)
}

/// `parameters -= rate * direction`.
fn descend(parameters: &Tensor, direction: &Tensor, rate: f64) -> Result<()> {
    let _ = parameters.shallow_clone().f_sub_(&direction.f_mul_scalar(rate)?)?;
    Ok(())
}

fn check_range(name: &str, value: f64, least: f64, below: f64) -> Result<()> {
    if (least..below).contains(&value) {
        return Ok(());
    }
    Err(Error::config(name, format!("expected at least {least} and less than {below}, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tch::{Device, Kind};

    fn all() -> [OptimizerConfig; 6] {
        let solo = OptimizerConfig::Lars(LarsConfig::solo());
        let [sgd, plain] = [0.9, 0.].map(OptimizerConfig::sgd);
        [sgd, plain, OptimizerConfig::adamw(), OptimizerConfig::lars(), solo, OptimizerConfig::lamb()]
    }

    fn parameters() -> BTreeMap<String, Tensor> {
        let options = (Kind::Float, Device::Cpu);
        let weight = Tensor::linspace(-1., 1., 12, options).view([4, 3]).set_requires_grad(true);
        let bias = Tensor::linspace(0.2, 0.4, 3, options).set_requires_grad(true);
        BTreeMap::from([("weight".to_string(), weight), ("bias".to_string(), bias)])
    }

    fn loss(named: &BTreeMap<String, Tensor>) -> Tensor {
        let x = Tensor::linspace(-2., 2., 20, (Kind::Float, Device::Cpu)).view([5, 4]);
        (x.matmul(&named["weight"]) + &named["bias"] - 1.).square().mean(Kind::Float)
    }

    fn run(optimizer: &mut dyn Optimizer, named: &BTreeMap<String, Tensor>, steps: usize) -> Vec<f64> {
        let each = |_| {
            optimizer.zero_grad().unwrap();
            let loss = loss(named);
            loss.backward();
            optimizer.step(0.05, 0.01).unwrap();
            f64::try_from(loss).unwrap()
        };
        (0..steps).map(each).collect()
    }

    #[test]
    fn every_optimizer_lowers_a_loss() {
        for config in all() {
            let named = parameters();
            let losses = run(config.build(named.iter().map(copied).collect()).unwrap().as_mut(), &named, 30);
            assert!(losses[29] < losses[0], "{config:?}: {losses:?}");
        }
    }

    fn copied((name, x): (&String, &Tensor)) -> (String, Tensor) {
        (name.clone(), x.shallow_clone())
    }

    #[test]
    fn state_and_parameters_copied_into_a_fresh_optimizer_resume_to_the_last_bit() {
        for config in all() {
            let named = parameters();
            let mut first = config.build(named.iter().map(copied).collect()).unwrap();
            run(first.as_mut(), &named, 5);
            let fresh = parameters();
            let mut second = config.build(fresh.iter().map(copied).collect()).unwrap();
            run(second.as_mut(), &fresh, 2);
            no_grad(|| {
                for (name, x) in &named {
                    fresh[name].shallow_clone().copy_(x);
                }
                for ((name, mut to), (other, from)) in
                    second.state().unwrap().into_iter().zip(first.state().unwrap())
                {
                    assert_eq!(name, other);
                    to.copy_(&from);
                }
            });
            assert_eq!(run(first.as_mut(), &named, 5), run(second.as_mut(), &fresh, 5), "{config:?}");
        }
    }

    #[test]
    fn state_is_named_by_parameter_and_complete() {
        let names = |config: OptimizerConfig| {
            let state = config.build(parameters()).unwrap().state().unwrap();
            state.into_iter().map(|(name, x)| (name, x.size())).collect::<Vec<_>>()
        };
        let of = |kind: &str| [(format!("{kind}/weight"), vec![4, 3]), (format!("{kind}/bias"), vec![3])];
        assert_eq!(names(OptimizerConfig::sgd(0.)), []);
        assert_eq!(names(OptimizerConfig::lars()), of("momentum"));
        let steps = [("steps".to_string(), vec![1])];
        assert_eq!(names(OptimizerConfig::adamw()), [&of("mean")[..], &of("square"), &steps].concat());
    }

    #[test]
    fn clipping_scales_all_gradients_together_and_only_down() {
        let named = parameters();
        let mut optimizer = OptimizerConfig::adamw().build(named.iter().map(copied).collect()).unwrap();
        loss(&named).backward();
        let before = optimizer.flat().gradients().copy();
        let norm = f64::try_from(optimizer.clip_norm(1e3).unwrap()).unwrap();
        assert!(optimizer.flat().gradients().equal(&before), "a small gradient was scaled");
        assert!((f64::try_from(optimizer.clip_norm(norm / 2.).unwrap()).unwrap() - norm).abs() < 1e-6 * norm);
        assert!(optimizer.flat().gradients().allclose(&(before * 0.5), 1e-5, 1e-8, false));
    }

    #[test]
    fn a_rate_of_zero_changes_nothing_and_gradients_that_are_not_finite_show_in_the_norm() {
        for config in all() {
            let named = parameters();
            let mut optimizer = config.build(named.iter().map(copied).collect()).unwrap();
            loss(&named).backward();
            let before = optimizer.flat().parameters().copy();
            optimizer.step(0., 0.1).unwrap();
            assert!(optimizer.flat().parameters().equal(&before), "{config:?}");
            let _ = named["bias"].grad().fill_(f64::NAN);
            assert!(f64::try_from(optimizer.grad_norm().unwrap()).unwrap().is_nan());
        }
    }

    #[test]
    fn lars_and_lamb_leave_weights_of_zeros_and_gradients_of_zeros_finite() {
        for config in all() {
            let mut named = parameters();
            let zeros = || Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            named.insert("unused".to_string(), (zeros().detach() + 1.).set_requires_grad(true));
            named.insert("zero".to_string(), zeros());
            let mut optimizer = config.build(named.iter().map(copied).collect()).unwrap();
            for _ in 0..2 {
                optimizer.zero_grad().unwrap();
                (loss(&named) + (&named["zero"] * 2.).sum(Kind::Float)).backward();
                optimizer.step(0.1, 0.1).unwrap();
            }
            let sum = optimizer.flat().parameters().sum(Kind::Float);
            assert!(f64::try_from(sum).unwrap().is_finite(), "{config:?}");
            assert!(named["zero"].double_value(&[0, 0]) < 0., "{config:?}: weights of zeros do not move");
            if let OptimizerConfig::Lars(_) = config {
                assert_eq!(named["unused"].double_value(&[0, 0]), 1., "without a gradient nothing decays");
            }
        }
    }

    #[test]
    fn groups_scale_rate_and_decay() {
        let config = OptimizerConfig::sgd(0.);
        let half = Group { lr_scale: 0.5, decay_scale: 2. };
        let named = parameters();
        let group = |name: &str, _: &Tensor| if name == "bias" { half } else { Group::UNDECAYED };
        let mut optimizer = config.build_grouped(named.iter().map(copied).collect(), &group).unwrap();
        let before = named["bias"].copy();
        optimizer.step(0.1, 0.3).unwrap();
        let expected: Tensor = before * (1. - 0.1 * 0.5 * 0.3 * 2.);
        assert!(named["bias"].allclose(&expected, 1e-6, 0., false));
        assert!(named["weight"].equal(&parameters()["weight"]));
    }

    /// Values of all parameters after some steps, each beside the factor of its name.
    fn scaled(
        config: OptimizerConfig,
        factor: &dyn Fn(&str) -> f64,
        steps: usize,
    ) -> BTreeMap<String, Tensor> {
        let named = parameters();
        let mut optimizer = config.build_scaled(named.iter().map(copied).collect(), factor).unwrap();
        run(optimizer.as_mut(), &named, steps);
        named.into_iter().map(|(name, x)| (name, x.detach())).collect()
    }

    #[test]
    fn a_factor_of_one_is_the_same_optimizer_to_the_last_bit() {
        for config in all() {
            let named = parameters();
            let mut plain = config.build(named.iter().map(copied).collect()).unwrap();
            run(plain.as_mut(), &named, 5);
            let same = scaled(config, &|_| 1., 5);
            assert!(named.iter().all(|(name, x)| x.equal(&same[name])), "{config:?}");
            assert_eq!(plain.flat().groups().len(), 2, "a kernel for what decays and one for what does not");
        }
    }

    #[test]
    fn a_factor_scales_the_update_of_its_parameter_alone() {
        let factor = |name: &str| if name == "weight" { 0.25 } else { 1. };
        // solo-learn's LARS cuts its trust ratio by the rate, so there the update is not in proportion.
        let solo = OptimizerConfig::Lars(LarsConfig::solo());
        for config in all().into_iter().filter(|config| *config != solo) {
            let (start, whole, part) = (parameters(), scaled(config, &|_| 1., 1), scaled(config, &factor, 1));
            for (name, from) in &start {
                let [whole, part] = [&whole, &part].map(|to| &to[name] - from);
                assert!(f64::try_from(whole.abs().max()).unwrap() > 0., "{config:?}: {name} stays");
                let expected: Tensor = whole * factor(name);
                assert!(part.allclose(&expected, 1e-3, 1e-7, false), "{config:?}: {name}");
            }
        }
        let negative = OptimizerConfig::adamw().build_scaled(parameters(), &|_| -1.).unwrap_err().to_string();
        assert_eq!(negative, "factor: expected at least 0, got -1 for bias");
    }

    #[test]
    fn the_state_of_an_optimizer_with_factors_resumes_to_the_last_bit() {
        let factor = |name: &str| if name == "weight" { 0.5 } else { 2. };
        for config in all() {
            let build = |named: &BTreeMap<String, Tensor>| {
                config.build_scaled(named.iter().map(copied).collect(), &factor).unwrap()
            };
            let (named, fresh) = (parameters(), parameters());
            let (mut first, mut second) = (build(&named), build(&fresh));
            run(first.as_mut(), &named, 5);
            no_grad(|| {
                named.iter().for_each(|(name, x)| fresh[name].shallow_clone().copy_(x));
                let saved: BTreeMap<_, _> = first.state().unwrap().into_iter().collect();
                second.state().unwrap().into_iter().for_each(|(name, mut to)| to.copy_(&saved[&name]));
            });
            assert_eq!(run(first.as_mut(), &named, 5), run(second.as_mut(), &fresh, 5), "{config:?}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let refused = |text: &str| {
            let config: OptimizerConfig = serde_json::from_str(text).unwrap();
            config.build(parameters()).unwrap_err().to_string()
        };
        let error = refused(r#"{"name": "sgd", "momentum": 1.0}"#);
        assert_eq!(error, "momentum: expected at least 0 and less than 1, got 1");
        assert!(refused(r#"{"name": "sgd", "momentum": 0.0, "nesterov": true}"#).starts_with("nesterov:"));
        assert!(refused(r#"{"name": "adamw", "betas": [0.9, 1.0]}"#).starts_with("betas:"));
        assert!(refused(r#"{"name": "lars", "trust_coefficient": 0.0}"#).starts_with("trust_coefficient:"));
        assert!(refused(r#"{"name": "lamb", "max_grad_norm": 0.0}"#).starts_with("max_grad_norm:"));
    }
}
