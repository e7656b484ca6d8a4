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
            objectives: vec!["cpc".into(), "cola".into()],
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
    method: Box<dyn AudioMethod>,
}

/// Methods that train one encoder.
#[derive(Debug)]
pub struct Multi {
    vars: VarStore,
    parts: Vec<Part>,
    weigher: Weigher,
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
        let part = |name: &String| -> Result<Part> {
            let settings = settings.get(name).unwrap_or(&Value::Null);
            Ok(Part { name: name.clone(), method: find(name)?.build(settings, &encoders)? })
        };
        let parts = names.iter().map(part).collect::<Result<Vec<_>>>()?;
        let weigher = Weigher::new(&vars.root(), parts.len(), weights, *weighting)?;
        let place = one_place(&parts)?;
        Ok(Multi { vars, parts, weigher, place })
    }
}

/// Where the views of a clip lie for all parts to which it matters.
fn one_place(parts: &[Part]) -> Result<Option<Place>> {
    let mut places = parts.iter().filter_map(|part| Some((part, part.method.place()?)));
    let Some((first, place)) = places.next() else { return Ok(None) };
    match places.find(|(_, other)| *other != place) {
        None => Ok(Some(place)),
        Some((part, _)) => {
            let names = (&first.name, &part.name);
            let message = format!("{} and {} take their views from different places of a clip", names.0, names.1);
            Err(Error::config("objectives", message))
        }
    }
}

impl Multi {
    fn first(&self) -> Result<&dyn AudioMethod> {
        let first = self.parts.first().map(|part| part.method.as_ref());
        first.ok_or_else(|| Error::config("objectives", "expected at least two, got none"))
    }

    /// Every part with its own views of the batch.
    fn split<'a>(&self, Views(views): &'a Views) -> Result<Vec<Views>> {
        let counts: Vec<usize> = self.parts.iter().map(|part| part.method.views().len()).collect();
        let expected: usize = counts.iter().sum();
        if views.len() != expected {
            let message = format!("the objectives take {expected} together, got {}", views.len());
            return Err(Error::config("views", message));
        }
        let mut rest: std::slice::Iter<'a, Tensor> = views.iter();
        let mut take = |n| Views(rest.by_ref().take(n).map(Tensor::shallow_clone).collect());
        Ok(counts.into_iter().map(&mut take).collect())
    }
}

impl Method for Multi {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let batches = self.split(batch)?;
        let (mut losses, mut metrics) = (Vec::new(), Vec::new());
        for (Part { name, method }, views) in self.parts.iter_mut().zip(&batches) {
            let output = method.step(views, at)?;
            metrics.push((format!("{name}/loss"), output.loss.f_detach()?));
            metrics.extend(output.metrics.into_iter().map(|(metric, value)| (format!("{name}/{metric}"), value)));
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
        for (Part { name, method }, views) in self.parts.iter().zip(self.split(batch)?) {
            let found = method.validate(&views)?;
            all.extend(found.into_iter().map(|(metric, value)| (format!("{name}/{metric}"), value)));
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

impl AudioMethod for Multi {
    fn views(&self) -> Vec<Augment> {
        self.parts.iter().flat_map(|part| part.method.views()).collect()
    }

    fn place(&self) -> Option<Place> {
        self.place
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        self.first()?.frames(waves)
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
            ("cpc".to_string(), json!({"steps": 2, "negatives": 5})),
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
            let output = method.parts[part].method.step(&views, Step { index: 0, total: 1 }).unwrap();
            output.loss.backward();
            let gradient = method.vars.variables()["encoder.gEncoder.conv1.weight"].grad();
            assert!(gradient.abs().sum(Kind::Double).double_value(&[]) > 0., "{}", method.parts[part].name);
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
