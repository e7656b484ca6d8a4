//! Several objectives on one encoder: their losses are added, each with its weight.
//!
//! Source: Doersch & Zisserman, 2017: <https://arxiv.org/abs/1708.07860>, of images; weights as in
//! [`ssl_core::objectives`]. Every objective has windows of its own, all of the same clips.
use super::{AudioMethod, Definition, Info, find};
use crate::augment::Augment;
use crate::models::Encoders;
use crate::source::Place;
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
            objectives: vec!["cpc".into(), "cola".into()],
            weights: Vec::new(),
            weighting: Weighting::Fixed,
            settings: BTreeMap::new(),
        }
    }
}

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    objectives: Objectives<dyn AudioMethod>,
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

/// Where the views of a clip lie for all methods to which it matters.
fn one_place(objectives: &Objectives<dyn AudioMethod>) -> Result<Option<Place>> {
    let mut places = objectives.methods().filter_map(|(name, method)| Some((name, method.place()?)));
    let Some((first, place)) = places.next() else { return Ok(None) };
    match places.find(|(_, other)| *other != place) {
        None => Ok(Some(place)),
        Some((other, _)) => {
            let message = format!("{first} and {other} take their views from different places of a clip");
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

impl AudioMethod for Multi {
    fn views(&self) -> Vec<Augment> {
        self.objectives.methods().flat_map(|(_, method)| method.views()).collect()
    }

    fn place(&self) -> Option<Place> {
        self.place
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        self.objectives.first()?.frames(waves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use serde_json::json;
    use ssl_core::{check_method, named_tensors};
    use tch::Kind;

    fn build(config: Config) -> Result<Multi> {
        Multi::new(config, &encoders("cpc_c8_gru"))
    }

    fn small(weighting: Weighting) -> Config {
        let settings = [
            ("cpc".to_string(), json!({"ahead": 2, "negatives": 5})),
            ("cola".to_string(), json!({"projection_dim": 8})),
        ];
        Config { weighting, settings: settings.into(), ..Config::default() }
    }

    fn views(n: i64) -> Views {
        let x = waves(n, 1_600);
        Views(vec![x.narrow(1, 0, 960), x.narrow(1, 0, 800), x.narrow(1, 800, 800)])
    }

    #[test]
    fn it_keeps_the_contract_with_either_weighting() {
        for weighting in [Weighting::Fixed, Weighting::Uncertainty] {
            let (batch, scratch) = (views(3), tempfile::tempdir().unwrap());
            check_method(|| build(small(weighting)), &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn one_encoder_is_trained_by_both_and_saved_once() {
        let method = build(small(Weighting::Fixed)).unwrap();
        let names: Vec<String> = named_tensors(&method).into_keys().collect();
        let of_encoder: Vec<&String> = names.iter().filter(|name| name.contains("gEncoder.conv1.weight")).collect();
        assert_eq!(of_encoder, ["student/encoder.gEncoder.conv1.weight"]);
        assert!(names.iter().any(|name| name == "cola.student/bilinear"), "{names:?}");
        for part in 0..2 {
            let mut method = build(small(Weighting::Fixed)).unwrap();
            let views = method.split(&views(4)).unwrap().remove(part);
            let (name, one) = method.objectives.methods_mut().nth(part).unwrap();
            let (name, output) = (name.to_string(), one.step(&views, Step { index: 0, total: 1 }).unwrap());
            output.loss.backward();
            let gradient = named_tensors(&method)["student/encoder.gEncoder.conv1.weight"].grad();
            assert!(gradient.abs().sum(Kind::Double).double_value(&[]) > 0., "{name}");
        }
    }

    #[test]
    fn the_loss_is_the_sum_of_those_of_the_parts() {
        let mut method = build(Config { weights: vec![2., 0.5], ..small(Weighting::Fixed) }).unwrap();
        let output = method.step(&views(4), Step { index: 0, total: 1 }).unwrap();
        let of = |name: &str| {
            let (_, value) = output.metrics.iter().find(|(metric, _)| metric == name).unwrap();
            value.double_value(&[])
        };
        let sum = 2. * of("cpc/loss") + 0.5 * of("cola/loss");
        assert!((output.loss.double_value(&[]) - sum).abs() < 1e-5);
        assert!(output.metrics.iter().any(|(name, _)| name == "cpc/accuracy"));
    }

    #[test]
    fn the_alarm_hears_what_the_parts_have_in_use() {
        let objectives = ["wav2vec2", "cola"].map(String::from).into();
        let settings = [("wav2vec2".to_string(), json!({"negatives": 7})), ("cola".to_string(), json!({}))];
        let config = Config { objectives, settings: settings.into(), ..Config::default() };
        let mut method = Multi::new(config, &encoders("wav2vec2_c8_d16_l1_h2")).unwrap();
        let (x, at) = (waves(3, 6_400), Step { index: 0, total: 10 });
        let batch = Views((0..3).map(|_| x.shallow_clone()).collect());
        let output = method.step(&batch, at).unwrap();
        let vital = method.vital();
        assert_eq!(vital[1], ("wav2vec2/code_perplexity_2".to_string(), 320.));
        for (name, _) in vital {
            assert!(output.metrics.iter().any(|(metric, _)| *metric == name), "{name}");
        }
    }

    #[test]
    fn windows_are_those_of_all_and_lie_where_each_needs_them() {
        let method = build(small(Weighting::Fixed)).unwrap();
        let lengths: Vec<usize> = method.views().iter().map(|view| view.samples).collect();
        assert_eq!((lengths, method.place()), (vec![20_480, 16_000, 16_000], Some(Place::Own)));
        let message = method.split(&Views(Vec::new())).unwrap_err().to_string();
        assert_eq!(message, "views: the objectives take 3 together, got 0");
        let objectives = ["cola", "byol_a"].map(String::from).into();
        let config = Config { objectives, ..Config::default() };
        let message = Multi::new(config, &encoders("mel_conv_d8")).unwrap_err().to_string();
        assert_eq!(message, "objectives: cola and byol_a take their views from different places of a clip");
        let objectives = ["cpc", "multi"].map(String::from).into();
        let message = build(Config { objectives, ..Config::default() }).unwrap_err().to_string();
        assert!(message.starts_with("objectives: expected at least two different methods"), "{message}");
    }
}
