//! Several objectives on one encoder: their losses are added, each with its weight.
//!
//! Source: Doersch & Zisserman, 2017: <https://arxiv.org/abs/1708.07860>, who train one trunk on several pretext tasks;
//! weights as in [`ssl_core::objectives`].
use super::{Definition, Info, VisionMethod, find};
use crate::augment::Augment;
use crate::backbones::Encoders;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::objectives::{Weigher, Weighting, check_objectives};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views};
use std::collections::BTreeMap;
use tch::Tensor;
use tch::nn::VarStore;

/// The hyperparameters of training on several objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names of the methods, at least two; the representation is that of the first, whose encoder all train.
    pub objectives: Vec<String>,
    /// A factor for each loss; none stands for 1 each.
    pub weights: Vec<f64>,
    /// fixed, or uncertainty.
    pub weighting: Weighting,
    /// Hyperparameters of the methods by name, where they differ from the papers'.
    pub settings: BTreeMap<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            objectives: vec!["rotation".into(), "simclr".into()],
            weights: Vec::new(),
            weighting: Weighting::Fixed,
            settings: BTreeMap::new(),
        }
    }
}

/// One objective, with its own heads and teachers.
#[derive(Debug)]
struct Part {
    name: String,
    method: Box<dyn VisionMethod>,
}

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    vars: VarStore,
    parts: Vec<Part>,
    weigher: Weigher,
}

impl Definition for Multi {
    const INFO: Info = Info {
        name: "multi",
        summary: "train one encoder on several objectives at once",
        paper: "Doersch, Zisserman",
        year: 2017,
        kind: "multi-task",
        url: "https://arxiv.org/abs/1708.07860",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let Config { objectives: names, weights, settings, weighting } = &config;
        check_objectives(Self::INFO.name, names, weights, settings)?;
        let vars = VarStore::new(encoders.device());
        let encoders = encoders.shared(&vars)?;
        let part = |name: &String| -> Result<Part> {
            let settings = settings.get(name).unwrap_or(&Value::Null);
            Ok(Part { name: name.clone(), method: find(name)?.build(settings, &encoders)? })
        };
        let parts = names.iter().map(part).collect::<Result<Vec<_>>>()?;
        let weigher = Weigher::new(&vars.root(), parts.len(), weights, *weighting)?;
        Ok(Multi { vars, parts, weigher })
    }
}

impl Multi {
    /// Every part with its own views of the batch.
    fn split<'a>(&self, Views(views): &'a Views) -> Result<Vec<Views>> {
        let counts: Vec<usize> = self.parts.iter().map(|part| part.method.views().len()).collect();
        let expected: usize = counts.iter().sum();
        if views.len() != expected {
            let message = format!("the objectives take {expected} together, got {}", views.len());
            return Err(Error::config("views", message));
        }
        let mut rest: std::slice::Iter<'a, Tensor> = views.iter();
        Ok(counts.into_iter().map(|n| Views(rest.by_ref().take(n).map(Tensor::shallow_clone).collect())).collect())
    }
}

impl Method for Multi {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let (mut losses, mut metrics) = (Vec::new(), Vec::new());
        for (part, views) in self.split(batch)?.iter().enumerate() {
            let Some(part) = self.parts.get_mut(part) else { continue };
            let output = part.method.step(views, at)?;
            metrics.push((format!("{}/loss", part.name), output.loss.f_detach()?));
            metrics.extend(output.metrics.into_iter().map(|(name, value)| (format!("{}/{name}", part.name), value)));
            losses.push(output.loss);
        }
        let device = self.vars.device();
        Ok(Output { loss: Precision::Fp32.scope(device, || self.weigher.join(&losses))?, metrics })
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.method.after_step(at))
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.first()?.encode(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.first()?.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        let mut all = Metrics::new();
        for (part, views) in self.parts.iter().zip(self.split(batch)?) {
            let found = part.method.validate(&views)?;
            all.extend(found.into_iter().map(|(name, value)| (format!("{}/{name}", part.name), value)));
        }
        Ok(all)
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for (part, views) in self.parts.iter().zip(self.split(batch)?) {
            let found = part.method.look(&views)?;
            all.extend(found.into_iter().map(|(name, images)| (format!("{} {name}", part.name), images)));
        }
        Ok(all)
    }

    fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.parts.first().map(|part| part.method.encoder()).unwrap_or_default()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        let own = std::iter::once(("student".to_string(), &self.vars));
        let theirs = self.parts.iter().flat_map(|part| {
            part.method.stores().into_iter().map(|(name, vars)| (format!("{}.{name}", part.name), vars))
        });
        own.chain(theirs).collect()
    }
}

impl Multi {
    fn first(&self) -> Result<&dyn VisionMethod> {
        let first = self.parts.first().map(|part| part.method.as_ref());
        first.ok_or_else(|| Error::config("objectives", "expected at least two, got none"))
    }
}

impl VisionMethod for Multi {
    fn views(&self) -> Vec<Augment> {
        self.parts.iter().flat_map(|part| part.method.views()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use ssl_core::{check_method, named_tensors};
    use tch::{Device, Kind};

    const BACKBONE: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    fn build(config: Config) -> Result<Multi> {
        Multi::new(config, &Encoders::new(BACKBONE, Device::Cpu))
    }

    fn views(n: i64) -> Views {
        let x = |slant: f64| (Tensor::arange(n * 64, (Kind::Float, Device::Cpu)) * slant).sin().view([n, 1, 8, 8]);
        Views(vec![x(1.), x(1.1), x(1.11)])
    }

    #[test]
    fn keeps_the_contract_with_either_weighting() {
        for weighting in [Weighting::Fixed, Weighting::Uncertainty] {
            let (batch, scratch) = (views(8), tempfile::tempdir().unwrap());
            let build = || build(Config { weighting, ..Config::default() });
            check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn one_encoder_is_trained_by_both_and_saved_once() {
        let method = build(Config::default()).unwrap();
        let names: Vec<String> = named_tensors(&method).into_keys().collect();
        let of_encoder: Vec<&String> = names.iter().filter(|name| name.contains("encoder.conv1")).collect();
        assert_eq!(of_encoder, ["student/encoder.conv1.weight"]);
        assert!(names.iter().any(|name| name == "rotation.student/classifier.weight"), "{names:?}");
        for part in 0..2 {
            let mut method = build(Config::default()).unwrap();
            let views = method.split(&views(4)).unwrap().remove(part);
            let output = method.parts[part].method.step(&views, Step { index: 0, total: 1 }).unwrap();
            output.loss.backward();
            let gradient = method.vars.variables()["encoder.conv1.weight"].grad();
            assert!(gradient.abs().sum(Kind::Double).double_value(&[]) > 0., "{}", method.parts[part].name);
        }
    }

    #[test]
    fn hyperparameters_reach_their_method_and_views_are_those_of_all() {
        let settings = [("simclr".to_string(), serde_json::json!({"augment": {"size": 20}}))].into();
        let method = build(Config { settings, ..Config::default() }).unwrap();
        assert_eq!(method.views().iter().map(|view| view.size).collect::<Vec<_>>(), [224, 20, 20]);
        let message = method.split(&Views(Vec::new())).unwrap_err().to_string();
        assert_eq!(message, "views: the objectives take 3 together, got 0");
    }

    #[test]
    fn objectives_that_make_no_sense_are_named() {
        for (objectives, said) in [
            (["simclr", "multi"], "objectives: expected at least two different methods, none of them multi"),
            (["simclr", "rotations"], "method: expected one of"),
        ] {
            let objectives = objectives.map(String::from).into();
            let message = build(Config { objectives, ..Config::default() }).unwrap_err().to_string();
            assert!(message.starts_with(said), "{message}");
        }
    }
}
