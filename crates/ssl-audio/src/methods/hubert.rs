//! HuBERT: tell the cluster of the sound at a masked place by what is around it.
//!
//! Source: Hsu, Bolte, Tsai, Lakhotia, Salakhutdinov & Mohamed, 2021: <https://arxiv.org/abs/2106.07447>; fairseq's
//! `models/hubert/hubert.py` and `criterions/hubert_criterion.py`, whose names the head has; the encoder is `HubertModel` of
//! transformers 5. The first iteration's clusters are of cepstra, the second's of a layer of the first's encoder
//! (`teacher`). Where this differs:
//!
//! - Clusters are found while training begins, on the batches of the first part of the run (`fit`), and stay as they are
//!   from then on. So they need no pass over the data before, are part of the checkpoint, and a resumed run is the same to
//!   the last bit; the rate of learning still rises then. The paper runs k-means before, and takes its labels from a file.
//! - The cepstra of a position are those of its middle, to 2.5 ms; fairseq takes every second one of its labels. They are
//!   of the filters here, with Kaldi's weights.
//! - The losses of masked and of other places are means, weighed by `alpha`; fairseq adds them up and divides by the
//!   number of places.
use super::{AudioMethod, Definition, Export, Info, views};
use crate::augment::Augment;
use crate::models::{Attend, Cepstra, Encoder, Encoders, SpanMask, perplexity};
use crate::random::Chance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use ssl_core::checkpoint::load_encoder;
use ssl_core::nn::{Linear, Module, l2_normalize};
use ssl_core::{
    Clusters, Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims3, encoder_in,
    no_grad,
};
use std::path::PathBuf;
use std::rc::Rc;
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

/// The name of the metric that says how many clusters are in use.
const IN_USE: &str = "code_perplexity";

/// The hyperparameters of HuBERT; the defaults are the base model's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is masked.
    pub mask: SpanMask,
    /// Clusters; without a number 100 of cepstra, 500 of a teacher's layer.
    pub clusters: Option<i64>,
    /// Part of the run whose batches the clusters are found on.
    pub fit: f64,
    /// The second iteration: the file of the encoder that the first has trained, of the same shape.
    pub teacher: Option<PathBuf>,
    /// How many of the teacher's layers its vectors are taken behind; without a number half of them.
    pub layer: Option<usize>,
    /// Width in which vectors are compared with those of clusters.
    pub compare_dim: i64,
    /// What cosine similarities are divided by.
    pub temperature: f64,
    /// Weight of masked places; that of the others is what is left to 1.
    pub alpha: f64,
    /// Weight of the mean square of the extractor's features.
    pub feature_penalty: f64,
    /// What gradients into the extractor are multiplied by.
    pub extractor_gradient: f64,
    /// The window; fairseq takes up to 15.6 seconds.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mask: SpanMask { part: 0.8, ..SpanMask::default() },
            clusters: None,
            fit: 0.1,
            teacher: None,
            layer: None,
            compare_dim: 256,
            temperature: 0.1,
            alpha: 1.,
            feature_penalty: 10.,
            extractor_gradient: 0.1,
            augment: Augment::crop(250_000),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("clusters", self.clusters()), ("compare_dim", self.compare_dim)])?;
        for (name, value) in
            [("feature_penalty", self.feature_penalty), ("extractor_gradient", self.extractor_gradient)]
        {
            if !(value.is_finite() && value >= 0.) {
                return Err(Error::config(name, format!("expected a number of at least 0, got {value}")));
            }
        }
        check::positive("temperature", self.temperature)?;
        for (name, value) in [("fit", self.fit), ("alpha", self.alpha)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::config(name, format!("expected a number from 0 to 1, got {value}")));
            }
        }
        self.mask.validate()?;
        self.augment.validate()
    }

    fn clusters(&self) -> i64 {
        self.clusters.unwrap_or(if self.teacher.is_some() { 500 } else { 100 })
    }
}

/// What is clustered.
#[derive(Debug)]
enum Heard {
    Cepstra(Cepstra),
    Teacher { vars: VarStore, encoder: Box<Encoder>, layer: usize },
}

impl Heard {
    fn new(config: &Config, encoders: &Encoders) -> Result<Self> {
        let Some(file) = &config.teacher else {
            let cepstra = Cepstra::new(encoders.config().sample_rate(), encoders.device())?;
            return Ok(Heard::Cepstra(cepstra));
        };
        let layers = encoders.config().arch.layers as usize;
        let layer = config.layer.unwrap_or(layers / 2);
        if layer > layers {
            return Err(Error::config("layer", format!("expected at most {layers}, got {layer}")));
        }
        let mut vars = VarStore::new(encoders.device());
        let encoder = Box::new(encoders.teacher(&vars)?);
        load_encoder(file, &encoder_in(&vars), &[])?;
        vars.freeze();
        Ok(Heard::Teacher { vars, encoder, layer })
    }

    fn dim(&self) -> i64 {
        match self {
            Heard::Cepstra(_) => Cepstra::DIM,
            Heard::Teacher { encoder, .. } => encoder.dim(),
        }
    }

    /// A vector for each of so many positions. `[B, N, F]`, without gradients.
    fn vectors(&self, waves: &Tensor, positions: i64) -> Result<Tensor> {
        match self {
            Heard::Cepstra(cepstra) => no_grad(|| cepstra.forward(waves, positions)),
            Heard::Teacher { encoder, layer, .. } => encoder.hidden(waves, *layer, Hubert::INFO.name),
        }
    }
}

/// An encoder, and a vector for each cluster, to which its own are compared.
#[derive(Debug)]
pub struct Hubert {
    vars: VarStore,
    encoder: Rc<Encoder>,
    final_proj: Linear,
    labels: Tensor,
    heard: Heard,
    cluster_vars: VarStore,
    clusters: Clusters,
    config: Config,
}

impl Definition for Hubert {
    const INFO: Info = Info {
        name: "hubert",
        summary: "tell the cluster of the sound of a masked place",
        paper: "Hsu, Bolte, Tsai, Lakhotia, Salakhutdinov, Mohamed",
        year: 2021,
        kind: "masked",
        url: "https://arxiv.org/abs/2106.07447",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let (vars, cluster_vars) = (VarStore::new(encoders.device()), VarStore::new(encoders.device()));
        let encoder = encoders.student(&vars)?;
        encoder.check_masked(Self::INFO.name)?;
        let (root, start) = (vars.root(), Init::Uniform { lo: 0., up: 1. });
        let heard = Heard::new(&config, encoders)?;
        Ok(Hubert {
            final_proj: Linear::new(&(&root / "final_proj"), encoder.dim(), config.compare_dim)?,
            labels: root.f_var("label_embs_concat", &[config.clusters(), config.compare_dim], start)?,
            clusters: Clusters::new(&cluster_vars.root(), config.clusters(), heard.dim())?,
            heard,
            vars,
            cluster_vars,
            encoder,
            config,
        })
    }
}

/// What one forward pass gives.
#[derive(Debug)]
struct Pass {
    /// 1 where a place is masked. Float `[B, N]`.
    masked: Tensor,
    /// The cluster of each place. Int64 `[B, N]`.
    targets: Tensor,
    /// Mean square of the extractor's features.
    square: Tensor,
    /// `[B, N, clusters]`, float32.
    logits: Tensor,
}

impl Hubert {
    /// With `fit` the batch moves the clusters first.
    fn pass(&mut self, batch: &Views, fit: bool) -> Result<Pass> {
        let [waves] = views(batch, Self::INFO.name)?;
        let [features, local] =
            self.encoder.extracted(waves, self.config.extractor_gradient, Self::INFO.name, Mode::Train)?;
        let vectors = self.vectors(waves, &local)?;
        if fit {
            self.clusters.fit(&vectors)?;
        }
        self.guess([features, local], &vectors, Mode::Train, Chance::Generator)
    }

    /// What is clustered of waves. `[B N, F]`.
    fn vectors(&self, waves: &Tensor, local: &Tensor) -> Result<Tensor> {
        let (_, positions, _) = dims3(local, "front end", "[B, N, C]")?;
        Ok(self.heard.vectors(waves, positions)?.f_reshape([-1, self.heard.dim()])?)
    }

    fn guess(&self, heard: [Tensor; 2], vectors: &Tensor, mode: Mode, chance: Chance) -> Result<Pass> {
        let [features, local] = heard;
        let (rows, positions, _) = dims3(&local, "front end", "[B, N, C]")?;
        let mask = self.config.mask.draw([rows, positions], chance, local.device())?;
        let context = self.encoder.masked(&local, &mask, Self::INFO.name, mode)?;
        let guesses = self.final_proj.forward(&context, mode)?;
        Precision::Fp32.scope(local.device(), || {
            Ok(Pass {
                logits: similar(&guesses, &self.labels)?.f_div_scalar(self.config.temperature)?,
                targets: self.clusters.nearest(vectors)?.f_view([rows, positions])?,
                square: features.f_to_kind(Kind::Float)?.f_square()?.f_mean(Kind::Float)?,
                masked: mask.f_to_kind(Kind::Float)?,
            })
        })
    }
}

/// The cosine similarity of each guess to each label.
///
/// # Shapes
/// `guesses`: `[B, N, E]`; `labels`: `[K, E]`; returns `[B, N, K]`, float32.
fn similar(guesses: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(l2_normalize(&guesses.f_to_kind(Kind::Float)?)?.f_matmul(&l2_normalize(labels)?.f_tr()?)?)
}

/// The cross-entropy at masked places times `alpha`, and that at the others times the rest to 1.
///
/// # Shapes
/// `logits`: `[B, N, K]`; `targets`: Int64 `[B, N]`; `masked`: `[B, N]`, 1 where a place is; returns a scalar.
///
/// # Source
/// Hsu et al., 2021, equations 1 to 3.
fn masked_prediction(logits: &Tensor, targets: &Tensor, masked: &Tensor, alpha: f64) -> Result<Tensor> {
    let own = logits.f_gather(2, &targets.f_unsqueeze(2)?, false)?.f_squeeze_dim(2)?;
    let losses = logits.f_logsumexp([2i64].as_slice(), false)?.f_sub(&own)?;
    let inside = mean(&losses, masked)?.f_mul_scalar(alpha)?;
    if alpha == 1. {
        return Ok(inside);
    }
    let outside = mean(&losses, &masked.f_neg()?.f_add_scalar(1.)?)?;
    Ok(inside.f_add(&outside.f_mul_scalar(1. - alpha)?)?)
}

/// The mean of values by weights, of which all may be 0.
fn mean(values: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok(values.f_mul(weights)?.f_sum(Kind::Float)?.f_div(&weights.f_sum(Kind::Float)?.f_clamp_min(1.)?)?)
}

impl Pass {
    /// The accuracy at masked places, and how many clusters are in use.
    fn metrics(&self) -> Result<Metrics> {
        no_grad(|| {
            let right =
                self.logits.f_argmax(-1, false)?.f_eq_tensor(&self.targets)?.f_to_kind(Kind::Float)?;
            let one = self.logits.f_zeros_like()?.f_scatter_value(2, &self.targets.f_unsqueeze(2)?, 1.)?;
            let in_use = perplexity(&one.f_unsqueeze(2)?, &self.masked.f_ones_like()?)?;
            Ok(vec![
                ("accuracy".to_string(), mean(&right, &self.masked)?),
                (IN_USE.to_string(), in_use.f_squeeze()?),
            ])
        })
    }

    /// The part of masked places of the most frequent cluster: what is right if it is always told.
    fn most_frequent(&self) -> Result<Tensor> {
        let one = self.logits.f_zeros_like()?.f_scatter_value(2, &self.targets.f_unsqueeze(2)?, 1.)?;
        let counts = one.f_mul(&self.masked.f_unsqueeze(2)?)?.f_sum_dim_intlist(
            [0i64, 1].as_slice(),
            false,
            Kind::Float,
        )?;
        Ok(counts.f_max()?.f_div(&self.masked.f_sum(Kind::Float)?)?)
    }
}

impl Method for Hubert {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let fits = (self.config.fit * at.total as f64).ceil().max(1.) as u64;
        let pass = self.pass(batch, at.index < fits)?;
        let Config { alpha, feature_penalty, .. } = self.config;
        Precision::Fp32.scope(self.vars.device(), || {
            let loss = masked_prediction(&pass.logits, &pass.targets, &pass.masked, alpha)?;
            let all = loss.f_add(&pass.square.f_mul_scalar(feature_penalty)?)?;
            let mut output =
                Output::new(all).with("prediction", &loss)?.with("feature_square", &pass.square)?;
            output.metrics.extend(pass.metrics()?);
            Ok(output)
        })
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, Attend::All)
    }

    /// The loss and accuracy at masked places, and the accuracy of telling the most frequent cluster always; masks are
    /// the same at every call.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let [waves] = views(batch, Self::INFO.name)?;
            let heard = self.encoder.extracted(waves, 1., Self::INFO.name, Mode::Eval)?;
            let vectors = self.vectors(waves, &heard[1])?;
            let pass = self.guess(heard, &vectors, Mode::Eval, Chance::Fixed)?;
            let loss = masked_prediction(&pass.logits, &pass.targets, &pass.masked, 1.)?;
            let mut found = vec![("loss".to_string(), loss)];
            found.extend(pass.metrics()?);
            found.push(("most_frequent".to_string(), pass.most_frequent()?));
            Ok(found)
        })
    }

    fn vital(&self) -> Vec<(String, f64)> {
        vec![(IN_USE.to_string(), self.clusters.number() as f64)]
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        let mut all = vec![("student".to_string(), &self.vars), ("clusters".to_string(), &self.cluster_vars)];
        if let Heard::Teacher { vars, .. } = &self.heard {
            all.push(("teacher".to_string(), vars));
        }
        all
    }
}

impl AudioMethod for Hubert {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.forward(waves, Attend::All, Mode::Eval))
    }

    fn export(&self) -> Option<Export> {
        let SpanMask { part, length, least } = self.config.mask;
        let config = json!({
            "mask_time_prob": part, "mask_time_length": length, "mask_time_min_masks": least,
            "feat_proj_layer_norm": true, "conv_pos_batch_norm": false,
        });
        Some(Export { class: "HubertModel", model_type: "hubert", tensors: self.encoder(), config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use ssl_core::check_method;
    use ssl_core::checkpoint::write_tensors;
    use tch::Device;

    const ARCH: &str = "wav2vec2_c8_d16_l2_h2";

    fn small() -> Config {
        let mask = SpanMask { part: 0.5, length: 3, least: 1 };
        Config { mask, clusters: Some(5), compare_dim: 8, alpha: 0.9, ..Config::default() }
    }

    fn step(method: &mut Hubert, batch: &Views, index: u64) -> Output {
        ssl_core::trainer::seed_torch(7, index);
        method.step(batch, Step { index, total: 10 }).unwrap()
    }

    #[test]
    fn it_keeps_the_contract_in_both_iterations() {
        let (batch, scratch) = (Views(vec![waves(3, 6_400)]), tempfile::tempdir().unwrap());
        let first = Hubert::new(small(), &encoders(ARCH)).unwrap();
        let file = scratch.path().join("encoder.safetensors");
        write_tensors(&file, &first.encoder(), &serde_json::Value::Null).unwrap();
        for teacher in [None, Some(file)] {
            let build = || Hubert::new(Config { teacher: teacher.clone(), ..small() }, &encoders(ARCH));
            check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
        }
    }

    #[test]
    fn masked_places_enter_the_loss_by_alpha() {
        let logits = (Tensor::arange(24, (Kind::Float, Device::Cpu)) * 0.7).sin().view([2, 4, 3]);
        let targets = Tensor::from_slice(&[0i64, 2, 1, 1, 0, 0, 2, 1]).view([2, 4]);
        let masked = [1f32, 0., 1., 0., 0., 0., 1., 1.];
        let (mut sums, mut counts) = ([0., 0.], [0., 0.]);
        for place in 0..8 {
            let of = |k: i64| logits.double_value(&[place / 4, place % 4, k]);
            let sum: f64 = (0..3).map(|k| of(k).exp()).sum();
            let side = masked[place as usize] as usize;
            sums[side] += sum.ln() - of(targets.int64_value(&[place / 4, place % 4]));
            counts[side] += 1.;
        }
        for alpha in [1., 0.3] {
            let mask = Tensor::from_slice(&masked).view([2, 4]);
            let found = masked_prediction(&logits, &targets, &mask, alpha).unwrap().double_value(&[]);
            let expected = alpha * sums[1] / counts[1] + (1. - alpha) * sums[0] / counts[0];
            assert!((found - expected).abs() < 1e-5, "{alpha}: {found} {expected}");
        }
    }

    #[test]
    fn clusters_are_fitted_in_the_first_part_of_the_run_alone() {
        let mut method = Hubert::new(Config { fit: 0.2, ..small() }, &encoders(ARCH)).unwrap();
        let batch = Views(vec![waves(3, 6_400)]);
        let centers = |method: &Hubert| method.cluster_vars.variables()["centers"].copy();
        let mut last = centers(&method);
        for (index, moves) in [(0, true), (1, true), (2, false), (3, false)] {
            step(&mut method, &Views(vec![&batch.0[0] * (1. + 0.3 * index as f64)]), index);
            assert_eq!(!centers(&method).equal(&last), moves, "{index}");
            last = centers(&method);
        }
    }

    #[test]
    fn a_single_cluster_in_use_is_told_to_the_collapse_alarm() {
        let mut method = Hubert::new(small(), &encoders(ARCH)).unwrap();
        let batch = Views(vec![waves(3, 6_400)]);
        let alarm = |method: &mut Hubert, index| {
            let output = step(method, &batch, index);
            let (_, value) = output.metrics.iter().find(|(name, _)| name == IN_USE).unwrap();
            let (name, number) = method.vital().remove(0);
            ssl_core::eval::CollapseAlarm::default().check_in_use(&name, value.double_value(&[]), number)
        };
        assert_eq!(alarm(&mut method, 0), None);
        let _ = method.cluster_vars.variables()["centers"].narrow(0, 1, 4).fill_(1e6);
        assert_eq!(alarm(&mut method, 5).unwrap(), "code_perplexity 1.00 of 5 is under 1.5");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let message = |config: Config| Hubert::new(config, &encoders(ARCH)).unwrap_err().to_string();
        assert_eq!(message(Config { clusters: Some(0), ..small() }), "clusters: expected at least 1, got 0");
        assert_eq!(message(Config { alpha: 2., ..small() }), "alpha: expected a number from 0 to 1, got 2");
        let teacher = Some(PathBuf::from("nowhere"));
        let deep = Config { teacher, layer: Some(3), ..small() };
        assert_eq!(message(deep.clone()), "layer: expected at most 2, got 3");
        assert!(message(Config { layer: None, ..deep }).starts_with("nowhere: cannot read"));
    }
}
