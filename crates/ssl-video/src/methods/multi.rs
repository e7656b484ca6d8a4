//! Several objectives on one encoder: their losses are added, each with its weight.
//!
//! Source: Doersch & Zisserman, 2017: <https://arxiv.org/abs/1708.07860>, of images; weights as in
//! [`ssl_core::objectives`]. Every objective has views of its own, all of the same videos.
use super::{VideoMethod, Definition, Info, find};
use crate::augment::View;
use crate::backbones::Encoders;
use crate::place::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ssl_core::objectives::{Objectives, Weighting, check_objectives};
use ssl_core::{Error, Method, Metrics, Mode, Output, Result, Step, Views};
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
            objectives: vec!["cvrl".into(), "pace".into()],
            weights: Vec::new(),
            weighting: Weighting::Fixed,
            settings: BTreeMap::new(),
        }
    }
}

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    objectives: Objectives<dyn VideoMethod>,
    place: Option<Place>,
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
        let place = one_place(&objectives)?;
        Ok(Multi { objectives, place })
    }
}

/// Where the views of a video lie for all methods to which it matters.
fn one_place(objectives: &Objectives<dyn VideoMethod>) -> Result<Option<Place>> {
    let mut places = objectives.methods().filter_map(|(name, method)| Some((name, method.place()?)));
    let Some((first, place)) = places.next() else { return Ok(None) };
    match places.find(|(_, other)| *other != place) {
        None => Ok(Some(place)),
        Some((other, _)) => {
            let message = format!("{first} and {other} take their views from different places of a video");
            Err(Error::config("objectives", message))
        }
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

impl VideoMethod for Multi {
    fn views(&self) -> Vec<View> {
        self.objectives.methods().flat_map(|(_, method)| method.views()).collect()
    }

    fn place(&self) -> Option<Place> {
        self.place
    }

    fn frames(&self, clips: &Tensor) -> Result<Tensor> {
        self.objectives.first()?.frames(clips)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{clips, encoders};
    use serde_json::json;
    use ssl_core::{check_method, named_tensors};
    use tch::Kind;

    fn build(config: Config) -> Result<Multi> {
        Multi::new(config, &encoders("r3d10_w4", 4))
    }

    fn small(weighting: Weighting) -> Config {
        let settings = [
            ("cvrl".to_string(), json!({"hidden_dim": 16, "projection_dim": 8})),
            ("pace".to_string(), json!({"paces": 2, "clip_frames": 4})),
        ];
        Config { weighting, settings: settings.into(), ..Config::default() }
    }

    fn views(n: i64) -> Views {
        let x = clips(n, 7);
        Views(vec![x.narrow(2, 0, 4), x.narrow(2, 3, 4), x])
    }

    #[test]
    fn it_keeps_the_contract_with_either_weighting() {
        for weighting in [Weighting::Fixed, Weighting::Uncertainty] {
            let (batch, scratch) = (views(6), tempfile::tempdir().unwrap());
            check_method(|| build(small(weighting)), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn one_encoder_is_trained_by_both_and_saved_once() {
        let method = build(small(Weighting::Fixed)).unwrap();
        let names: Vec<String> = named_tensors(&method).into_keys().collect();
        let of_encoder: Vec<&String> = names.iter().filter(|name| name.contains("encoder.stem.0")).collect();
        assert_eq!(of_encoder, ["student/encoder.stem.0.weight"]);
        assert!(names.iter().any(|name| name == "pace.student/classifier.weight"), "{names:?}");
        for part in 0..2 {
            let mut method = build(small(Weighting::Fixed)).unwrap();
            let views = method.split(&views(4)).unwrap().remove(part);
            let (name, one) = method.objectives.methods_mut().nth(part).unwrap();
            let (name, output) = (name.to_string(), one.step(&views, Step { index: 0, total: 1 }).unwrap());
            output.loss.backward();
            let gradient = named_tensors(&method)["student/encoder.stem.0.weight"].grad();
            assert!(gradient.abs().sum(Kind::Double).double_value(&[]) > 0., "{name}");
        }
    }

    #[test]
    fn the_loss_is_the_weighed_sum_of_those_of_the_parts() {
        let mut method = build(Config { weights: vec![2., 0.5], ..small(Weighting::Fixed) }).unwrap();
        let output = method.step(&views(4), Step { index: 0, total: 1 }).unwrap();
        let of = |name: &str| {
            let (_, value) = output.metrics.iter().find(|(metric, _)| metric == name).unwrap();
            value.double_value(&[])
        };
        let sum = 2. * of("cvrl/loss") + 0.5 * of("pace/loss");
        assert!((output.loss.double_value(&[]) - sum).abs() < 1e-5);
        let found = method.validate(&views(4)).unwrap();
        assert!(found.iter().any(|(name, _)| name == "pace/chance"), "{found:?}");
    }

    #[test]
    fn views_are_those_of_all_and_lie_where_one_needs_them() {
        let method = build(small(Weighting::Fixed)).unwrap();
        let lengths: Vec<usize> = method.views().iter().map(|view| view.frames).collect();
        assert_eq!((lengths, method.place()), (vec![16, 16, 7], Some(Place::Near(10.))));
        let message = method.split(&Views(Vec::new())).unwrap_err().to_string();
        assert_eq!(message, "views: the objectives take 3 together, got 0");
        let objectives = ["pace", "multi"].map(String::from).into();
        let message = build(Config { objectives, ..Config::default() }).unwrap_err().to_string();
        assert!(message.starts_with("objectives: expected at least two different methods"), "{message}");
    }
}
