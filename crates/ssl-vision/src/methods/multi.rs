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
use ssl_core::objectives::{Objectives, Weighting, check_objectives};
use ssl_core::{Method, Metrics, Mode, Output, Result, Step, Views};
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

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    objectives: Objectives<dyn VisionMethod>,
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
        let build = |name: &str| find(name)?.build(settings.get(name).unwrap_or(&Value::Null), &encoders);
        let objectives = Objectives::new(vars, names, (weights, *weighting), build)?;
        Ok(Multi { objectives })
    }
}

impl Multi {
    /// Every part with its own views of the batch.
    fn split(&self, Views(views): &Views) -> Result<Vec<Views>> {
        let runs = self.objectives.split("views", views, |method| method.views().len())?;
        Ok(runs.into_iter().map(|run| Views(run.iter().map(Tensor::shallow_clone).collect())).collect())
    }
}

impl Method for Multi {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let batches = self.split(batch)?;
        self.objectives.step(&batches, at)
    }

    fn after_step(&mut self, at: Step) -> Result<()> {
        self.objectives.after_step(at)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.objectives.first()?.encode(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.objectives.first()?.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        self.objectives.validate(&self.split(batch)?)
    }

    fn vital(&self) -> Vec<(String, f64)> {
        self.objectives.vital()
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        self.objectives.look(&self.split(batch)?)
    }

    fn encoder(&self) -> BTreeMap<String, Tensor> {
        self.objectives.encoder()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        self.objectives.stores()
    }
}

impl VisionMethod for Multi {
    fn views(&self) -> Vec<Augment> {
        self.objectives.methods().flat_map(|(_, method)| method.views()).collect()
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
            let (name, one) = method.objectives.methods_mut().nth(part).unwrap();
            let (name, output) = (name.to_string(), one.step(&views, Step { index: 0, total: 1 }).unwrap());
            output.loss.backward();
            let gradient = named_tensors(&method)["student/encoder.conv1.weight"].grad();
            assert!(gradient.abs().sum(Kind::Double).double_value(&[]) > 0., "{name}");
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
