//! wav2vec 2.0: tell the quantized sound at a masked place from others of the same recording, by what is around it.
//!
//! Source: Baevski, Zhou, Mohamed & Auli, 2020: <https://arxiv.org/abs/2006.11477>; names and masks as
//! `Wav2Vec2ForPreTraining` of transformers 5. Where the two implementations differ, and from both:
//!
//! - Features that leave the extractor are kept small by their mean square, and gradients into it are a tenth, as in
//!   fairseq; transformers has neither.
//! - The loss is the mean over masked places; both add up, and divide by the number of places afterwards.
//! - A negative of the same codes as the positive does not count; both compare vectors, which rounding tells apart.
//! - The temperature falls as the paper's over the same part of the run (a factor of 0.999995 leads from 2 to 0.5 in
//!   277,258 of 400,000 steps), so that it ends there in a short run, too.
//! - Nothing is dropped before the quantizer, and no layer is skipped.
//! - Scores are taken from one product of the masked places of a recording; both copy 100 vectors for each place.
use super::{AudioMethod, Definition, Export, Info, views};
use crate::augment::Augment;
use crate::models::{Attend, Encoder, Encoders, Places, Quantized, Quantizer, QuantizerConfig, SpanMask};
use crate::random::Chance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use ssl_core::nn::{Linear, Module, l2_normalize};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims3, no_grad};
use std::rc::Rc;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The hyperparameters of wav2vec 2.0; the defaults are the base model's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is masked.
    pub mask: SpanMask,
    /// The code books.
    pub quantizer: QuantizerConfig,
    /// Temperature of the quantizer's draws at the start of the run and at the end of its fall.
    pub draw_temperature: [f64; 2],
    /// Part of the run over which it falls.
    pub draw_fall: f64,
    /// Width in which vectors are compared.
    pub compare_dim: i64,
    /// Negatives of each masked place, drawn with replacement.
    pub negatives: i64,
    /// What cosine similarities are divided by.
    pub temperature: f64,
    /// Weight of the part of the codes that is not in use.
    pub diversity_weight: f64,
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
            mask: SpanMask::default(),
            quantizer: QuantizerConfig::default(),
            draw_temperature: [2., 0.5],
            draw_fall: 0.693,
            compare_dim: 256,
            negatives: 100,
            temperature: 0.1,
            diversity_weight: 0.1,
            feature_penalty: 10.,
            extractor_gradient: 0.1,
            augment: Augment::crop(250_000),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("negatives", self.negatives), ("compare_dim", self.compare_dim)])?;
        let [start, end] = self.draw_temperature;
        for (name, value) in
            [("draw_temperature", start), ("draw_temperature", end), ("temperature", self.temperature)]
        {
            check::positive(name, value)?;
        }
        for (name, value) in [
            ("diversity_weight", self.diversity_weight),
            ("feature_penalty", self.feature_penalty),
            ("extractor_gradient", self.extractor_gradient),
        ] {
            if !(value.is_finite() && value >= 0.) {
                return Err(Error::config(name, format!("expected a number of at least 0, got {value}")));
            }
        }
        if !(self.draw_fall > 0. && self.draw_fall <= 1.) {
            let message = format!("expected a number above 0 and at most 1, got {}", self.draw_fall);
            return Err(Error::config("draw_fall", message));
        }
        self.quantizer.validate()?;
        self.mask.validate()?;
        self.augment.validate()
    }

    /// The temperature of the quantizer's draws at a step: it falls by the same factor at each.
    fn draw_temperature_at(&self, at: Step) -> f64 {
        let ([start, end], passed) = (self.draw_temperature, at.index as f64 / at.total.max(1) as f64);
        start * (end / start).powf((passed / self.draw_fall).min(1.))
    }
}

/// An encoder, a quantizer of what its front end makes, and a linear layer for each to compare them.
#[derive(Debug)]
pub struct Wav2Vec2 {
    vars: VarStore,
    encoder: Rc<Encoder>,
    quantizer: Quantizer,
    project_hid: Linear,
    project_q: Linear,
    config: Config,
}

impl Definition for Wav2Vec2 {
    const INFO: Info = Info {
        name: "wav2vec2",
        summary: "tell the quantized sound of a masked place from that of others",
        paper: "Baevski, Zhou, Mohamed, Auli",
        year: 2020,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2006.11477",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        encoder.check_masked(Self::INFO.name)?;
        let root = vars.root();
        Ok(Wav2Vec2 {
            quantizer: Quantizer::new(&(&root / "quantizer"), encoder.local_dim(), config.quantizer)?,
            project_hid: Linear::new(&(&root / "project_hid"), encoder.dim(), config.compare_dim)?,
            project_q: Linear::new(&(&root / "project_q"), config.quantizer.dim, config.compare_dim)?,
            vars,
            encoder,
            config,
        })
    }
}

/// What one forward pass gives.
#[derive(Debug)]
struct Pass {
    places: Places,
    quantized: Quantized,
    /// Mean square of the extractor's features.
    square: Tensor,
    scores: Tensor,
}

impl Wav2Vec2 {
    fn pass(&self, batch: &Views, draw: Option<f64>, mode: Mode, chance: Chance) -> Result<Pass> {
        let [waves] = views(batch, Self::INFO.name)?;
        let Config { mask, negatives, extractor_gradient, .. } = self.config;
        let [features, local] = self.encoder.extracted(waves, extractor_gradient, Self::INFO.name, mode)?;
        let (rows, positions, _) = dims3(&local, "front end", "[B, N, C]")?;
        let hidden = mask.draw([rows, positions], chance, local.device())?;
        let places = Places::new(&hidden, mask.most(positions))?;
        let negatives = places.negatives(negatives, chance)?;
        self.compare([features, local], &hidden, (places, &negatives), draw, mode)
    }

    /// Compares what is guessed at masked places with what was there, `heard` before and after its norm.
    fn compare(
        &self,
        [features, local]: [Tensor; 2],
        hidden: &Tensor,
        (places, negatives): (Places, &Tensor),
        draw: Option<f64>,
        mode: Mode,
    ) -> Result<Pass> {
        let context = self.encoder.masked(&local, hidden, Self::INFO.name, mode)?;
        let guesses = self.project_hid.forward(&places.pick(&context)?, mode)?;
        let quantized = self.quantizer.forward(&places.pick(&local)?, draw)?;
        let targets = self.project_q.forward(&quantized.vectors, mode)?;
        Precision::Fp32.scope(local.device(), || {
            let scores = contrast(&guesses, &targets, &quantized.numbers()?, negatives)?;
            let scores = scores.f_div_scalar(self.config.temperature)?;
            let square = features.f_to_kind(Kind::Float)?.f_square()?.f_mean(Kind::Float)?;
            Ok(Pass { places, quantized, square, scores })
        })
    }
}

/// The cosine similarity of each guess to its target and to others; minus infinity for others of the same codes.
///
/// # Shapes
/// `guesses`, `targets`: `[B, P, D]`; `codes`: `[B, P]`, a number for each choice of codes; `negatives`: `[B, P, K]`,
/// places from 0 to below P; returns `[B, P, 1 + K]`, float32, the target first.
fn contrast(guesses: &Tensor, targets: &Tensor, codes: &Tensor, negatives: &Tensor) -> Result<Tensor> {
    let unit = |x: &Tensor| l2_normalize(&x.f_to_kind(Kind::Float)?);
    let similar = unit(guesses)?.f_bmm(&unit(targets)?.f_transpose(1, 2)?)?;
    let own = similar.f_diagonal(0, 1, 2)?.f_unsqueeze(2)?;
    let places = codes.size().last().copied().unwrap_or(0);
    let theirs = codes.f_unsqueeze(1)?.f_expand([-1, places, -1], false)?.f_gather(2, negatives, false)?;
    let same = theirs.f_eq_tensor(&codes.f_unsqueeze(2)?)?;
    let others = similar.f_gather(2, negatives, false)?.f_masked_fill(&same, f64::NEG_INFINITY)?;
    Ok(Tensor::f_cat(&[own, others], 2)?)
}

/// Cross-entropy of telling the first score from the others.
///
/// # Shapes
/// `scores`: `[B, P, 1 + K]`; returns `[B, P]`.
///
/// # Source
/// Baevski et al., 2020, equation 3.
fn cross_entropy(scores: &Tensor) -> Result<Tensor> {
    Ok(scores.f_logsumexp([-1i64].as_slice(), false)?.f_sub(&scores.f_select(-1, 0)?)?)
}

/// Where the first score is above all others: 1 or 0, `[B, P]`.
fn right(scores: &Tensor) -> Result<Tensor> {
    let (first, others) = (scores.f_select(-1, 0)?, scores.f_slice(-1, 1, None, 1)?);
    Ok(first.f_gt_tensor(&others.f_amax([-1i64], false)?)?.f_to_kind(Kind::Float)?)
}

impl Pass {
    fn contrastive(&self) -> Result<Tensor> {
        self.places.mean(&cross_entropy(&self.scores)?)
    }

    /// The accuracy, and how many codes of each book are in use.
    fn metrics(&self) -> Result<Metrics> {
        no_grad(|| {
            let in_use = self.quantized.in_use(&self.places.held)?.f_unbind(0)?;
            let mut all = vec![("accuracy".to_string(), self.places.mean(&right(&self.scores)?)?)];
            all.extend((1..).zip(in_use).map(|(n, value): (usize, _)| (perplexity_of(n), value)));
            Ok(all)
        })
    }
}

/// The name of a code book's metric, counted from 1.
fn perplexity_of(book: usize) -> String {
    format!("code_perplexity_{book}")
}

impl Method for Wav2Vec2 {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, at: Step) -> Result<Output> {
        let draw = self.config.draw_temperature_at(at);
        let pass = self.pass(batch, Some(draw), Mode::Train, Chance::Generator)?;
        Precision::Fp32.scope(self.vars.device(), || {
            let (contrastive, unused) = (pass.contrastive()?, pass.quantized.unused(&pass.places.held)?);
            let loss = contrastive.f_add(&unused.f_mul_scalar(self.config.diversity_weight)?)?;
            let loss = loss.f_add(&pass.square.f_mul_scalar(self.config.feature_penalty)?)?;
            let mut output = Output::new(loss).with("contrastive", &contrastive)?.with("unused_codes", &unused)?;
            output = output.with("feature_square", &pass.square)?;
            output.metrics.extend(pass.metrics()?);
            output.with("draw_temperature", &Tensor::from(draw))
        })
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, Attend::All)
    }

    /// The contrastive loss with the likeliest codes, its accuracy, and that by chance; masks and negatives are the same
    /// at every call.
    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let pass = self.pass(batch, None, Mode::Eval, Chance::Fixed)?;
            let mut found = vec![("loss".to_string(), pass.contrastive()?)];
            found.extend(pass.metrics()?);
            found.push(("chance".to_string(), Tensor::from(1. / (1 + self.config.negatives) as f64)));
            Ok(found)
        })
    }

    fn vital(&self) -> Vec<(String, f64)> {
        let QuantizerConfig { groups, codes, .. } = self.quantizer.config();
        (1..=groups).map(|book| (perplexity_of(book as usize), codes as f64)).collect()
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl AudioMethod for Wav2Vec2 {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.forward(waves, Attend::All, Mode::Eval))
    }

    fn export(&self) -> Option<Export> {
        let own = |(name, tensor): (String, Tensor)| match name.strip_prefix("encoder.") {
            Some(rest) => (format!("wav2vec2.{rest}"), tensor),
            None => (name, tensor),
        };
        let QuantizerConfig { groups, codes, dim } = self.config.quantizer;
        let config = json!({
            "num_codevector_groups": groups, "num_codevectors_per_group": codes, "codevector_dim": dim,
            "proj_codevector_dim": self.config.compare_dim, "num_negatives": self.config.negatives,
            "contrastive_logits_temperature": self.config.temperature,
            "diversity_loss_weight": self.config.diversity_weight, "mask_time_prob": self.config.mask.part,
            "mask_time_length": self.config.mask.length, "mask_time_min_masks": self.config.mask.least,
        });
        let tensors = self.vars.variables().into_iter().map(own).collect();
        Some(Export { class: "Wav2Vec2ForPreTraining", model_type: "wav2vec2", tensors, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use ssl_core::check_method;
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
    const ARCH: &str = "wav2vec2_c8_d16_l1_h2";

    fn small() -> Config {
        Config {
            mask: SpanMask { length: 3, ..SpanMask::default() },
            quantizer: QuantizerConfig { groups: 2, codes: 6, dim: 8 },
            compare_dim: 8,
            negatives: 7,
            ..Config::default()
        }
    }

    fn fixture() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/fixtures/wav2vec2/reference.json")).unwrap()
    }

    #[test]
    fn it_keeps_the_contract() {
        let (batch, scratch) = (Views(vec![waves(3, 6_400)]), tempfile::tempdir().unwrap());
        let build = || Wav2Vec2::new(small(), &encoders(ARCH));
        check_method(build, &batch, &batch.0[0], scratch.path()).unwrap();
    }

    #[test]
    fn scores_are_those_of_the_reference() {
        // The waves of the reference values: one window of six places, and four negatives of each by their own numbers.
        let fixture = fixture();
        let numbers = |name: &str| -> Vec<f64> {
            fixture[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let tensor = |name: &str, shape: &[i64]| {
            Tensor::from_slice(&numbers(name)).view(shape).to_kind(Kind::Float)
        };
        let whole = |name: &str, shape: &[i64]| tensor(name, shape).to_kind(Kind::Int64);
        let (guesses, targets) = (tensor("guesses", &[2, 6, 8]), tensor("targets", &[2, 6, 8]));
        let (codes, negatives) = (whole("codes", &[2, 6]), whole("negatives", &[2, 6, 4]));
        let scores = contrast(&guesses, &targets, &codes, &negatives).unwrap() / 0.1;
        let expected = tensor("logits", &[2, 6, 5]);
        let shown = |x: &Tensor| x.clamp_min(-1e9);
        assert!(shown(&scores).allclose(&shown(&expected), 1e-4, 1e-4, false), "{scores} {expected}");
        assert!(scores.isinf().any().int64_value(&[]) == 1, "some negatives have the codes of their positives");
        let mask = whole("mask", &[2, 6]).to_kind(Kind::Bool);
        let held = mask.to_kind(Kind::Float);
        let places = Places { of: negatives.shallow_clone(), count: mask.shallow_clone(), held };
        let loss = places.mean(&cross_entropy(&scores).unwrap()).unwrap().double_value(&[]);
        let expected = fixture["contrastive loss"].as_f64().unwrap() / mask.sum(Kind::Double).double_value(&[]);
        assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
    }

    #[test]
    fn a_model_of_transformers_has_its_losses_here() {
        for name in ["wav2vec2", "wav2vec2_stable"] {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let foreign = crate::interop::Foreign::open(&dir).unwrap();
            let encoders = Encoders::new(foreign.shape.clone(), Device::Cpu);
            let config = serde_json::from_value(foreign.settings.clone()).unwrap();
            let method = Wav2Vec2::new(config, &encoders).unwrap();
            assert!(foreign.load_into(&method).unwrap().is_empty());
            let (of, _) = ssl_core::checkpoint::read_tensors(&dir.join("outputs.safetensors")).unwrap();
            let mask = &of["mask"];
            let places = Places::new(mask, mask.sum_dim_intlist(1, false, Kind::Int64).max().int64_value(&[])).unwrap();
            // Positions of the whole batch there, places of a window here.
            let positions = of["negatives"].to_kind(Kind::Int64).remainder(mask.size()[1]);
            let ranks = (mask.cumsum(1, Kind::Int64) - 1).clamp_min(0);
            let negatives = ranks.unsqueeze(2).expand([-1, -1, 4], false).gather(1, &positions, false);
            let negatives = places.pick(&negatives).unwrap();
            let pass = no_grad(|| {
                let heard = method.encoder.extracted(&of["waves"], 1., "wav2vec2", Mode::Eval)?;
                assert!(heard[1].allclose(&of["features"], 1e-4, 1e-4, false));
                method.compare(heard, mask, (places, &negatives), None, Mode::Eval)
            });
            let pass = pass.unwrap();
            let held = pass.places.held.to_kind(Kind::Bool);
            let there = |x: &Tensor, name: &str| {
                let expected = pass.places.pick(&of[name].flatten(2, -1)).unwrap();
                let gap = (x.flatten(2, -1) - expected).abs().masked_select(&held.unsqueeze(2));
                gap.max().double_value(&[])
            };
            assert!(there(&pass.quantized.logits, "logits") < 1e-4);
            assert!(there(&pass.quantized.codes, "codes") == 0.);
            let number = |x: Tensor| x.double_value(&[]);
            let masked = number(mask.sum(Kind::Double));
            let found = number(pass.contrastive().unwrap()) * masked;
            assert!((found - number(of["contrastive"].copy())).abs() < 1e-4 * found, "{name}: {found}");
            let found = number(pass.quantized.unused(&pass.places.held).unwrap());
            assert!((found - number(of["diversity"].copy())).abs() < 1e-5, "{name}: {found}");
            let found = number(pass.quantized.in_use(&pass.places.held).unwrap().sum(Kind::Double));
            assert!((found - number(of["perplexity"].copy())).abs() < 1e-4, "{name}: {found}");
        }
    }

    #[test]
    fn the_temperature_falls_as_the_papers_over_its_part_of_the_run() {
        let config = Config::default();
        let at = |index| config.draw_temperature_at(Step { index, total: 400_000 });
        for (step, expected) in [(0, 2.), (100_000, 2. * 0.999995f64.powi(100_000)), (300_000, 0.5)] {
            assert!((at(step) - expected).abs() < 1e-3, "{step}: {} {expected}", at(step));
        }
        assert_eq!(config.draw_temperature_at(Step { index: 99, total: 100 }), 0.5);
    }

    #[test]
    fn a_quantizer_of_one_code_is_told_to_the_collapse_alarm() {
        let mut method = Wav2Vec2::new(small(), &encoders(ARCH)).unwrap();
        let batch = Views(vec![waves(3, 6_400)]);
        let at = Step { index: 0, total: 10 };
        let alarm = ssl_core::eval::CollapseAlarm::default();
        let alarms = |method: &mut Wav2Vec2| -> Vec<String> {
            let output = method.step(&batch, at).unwrap();
            let value = |name: &str| output.metrics.iter().find(|(other, _)| other == name).unwrap().1.double_value(&[]);
            let check = |(name, most): (String, f64)| alarm.check_in_use(&name, value(&name), most);
            method.vital().into_iter().filter_map(check).collect()
        };
        assert!(alarms(&mut method).is_empty());
        let bias = Tensor::zeros([12], CPU);
        let _ = bias.narrow(0, 8, 1).fill_(1e4);
        no_grad(|| method.vars.variables()["quantizer.weight_proj.bias"].shallow_clone().copy_(&bias));
        assert_eq!(alarms(&mut method), ["code_perplexity_2 1.00 of 6 is under 1.5"]);
    }

    #[test]
    fn gradients_into_the_extractor_are_scaled() {
        let gradient = |extractor_gradient: f64| {
            ssl_core::trainer::seed_torch(3, 0);
            let config = Config { extractor_gradient, ..small() };
            let mut method = Wav2Vec2::new(config, &encoders(ARCH)).unwrap();
            ssl_core::trainer::seed_torch(4, 0);
            method.step(&Views(vec![waves(2, 6_400)]), Step { index: 0, total: 10 }).unwrap().loss.backward();
            method.vars.variables()["encoder.feature_extractor.conv_layers.3.conv.weight"].grad()
        };
        let (whole, tenth) = (gradient(1.), gradient(0.1));
        assert!((&whole * 0.1).allclose(&tenth, 1e-3, 1e-7, false));
        assert!(whole.abs().max().double_value(&[]) > 0.);
    }

    #[test]
    fn numbers_out_of_range_and_other_networks_are_named() {
        let message = |config: Config, arch| Wav2Vec2::new(config, &encoders(arch)).unwrap_err().to_string();
        assert_eq!(message(Config { negatives: 0, ..small() }, ARCH), "negatives: expected at least 1, got 0");
        let bad = Config { draw_temperature: [2., 0.], ..small() };
        assert_eq!(message(bad, ARCH), "draw_temperature: expected a number above 0, got 0");
        let bad = Config { feature_penalty: -1., ..small() };
        assert_eq!(message(bad, ARCH), "feature_penalty: expected a number of at least 0, got -1");
        let bad = Config { draw_fall: 0., ..small() };
        assert_eq!(message(bad, ARCH), "draw_fall: expected a number above 0 and at most 1, got 0");
        assert!(message(small(), "cpc_c8_d8_l1_h2").starts_with("encoder: wav2vec2 masks inside"));
    }
}
