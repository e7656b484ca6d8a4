//! COLA: two parts of one recording are drawn together, away from those of the other recordings of the batch.
//!
//! Source: Saeed, Grangier & Zeghidour, 2021: <https://arxiv.org/abs/2010.10915>; similarities, projection and noise as in
//! the official code (`google-research/google-research`, `cola/network.py` and `contrastive.py`). There the recording as
//! a whole is scaled to length one, and noise of a deviation of 0.001 added to its second part; here each part is
//! brought to one level, and the noise lies 8 decibels below it, as it does there for ten seconds of sound. The encoder
//! is any, where the paper's is an EfficientNet.
use super::{AudioMethod, Definition, Info, views};
use crate::augment::Augment;
use crate::level::Level;
use crate::models::{Encoder, Encoders};
use crate::source::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{LayerNorm, Linear, Module, l2_normalize};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, dims2, no_grad};
use std::rc::Rc;
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

/// How two parts are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    /// By a learned matrix between them.
    #[default]
    Bilinear,
    /// By the cosine of the angle between them, over the temperature.
    Cosine,
}

/// COLA's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Dimension in which parts are compared.
    pub projection_dim: i64,
    /// How they are compared.
    pub similarity: Similarity,
    /// What cosines are divided by.
    pub temperature: f64,
    /// The part that comes first.
    pub first_view: Augment,
    /// The part that comes second.
    pub second_view: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let view = Augment { level: Level::Rms { decibels: -26. }, ..Augment::crop(16_000) };
        Config {
            projection_dim: 512,
            similarity: Similarity::Bilinear,
            temperature: 0.2,
            first_view: view.clone(),
            second_view: Augment { noise_probability: 1., noise_decibels: [8., 8.], ..view },
        }
    }
}

impl Config {
    fn validate(&self) -> Result<()> {
        check::at_least(1, [("projection_dim", self.projection_dim)])?;
        check::positive("temperature", self.temperature)?;
        self.first_view.validate()?;
        self.second_view.validate()
    }
}

/// What compares parts by a matrix: a norm before it, and the matrix.
#[derive(Debug)]
struct Bilinear {
    norm: LayerNorm,
    weight: Tensor,
}

/// An encoder, a projection, and what compares.
#[derive(Debug)]
pub struct Cola {
    vars: VarStore,
    encoder: Rc<Encoder>,
    projection: Linear,
    bilinear: Option<Bilinear>,
    config: Config,
}

impl Definition for Cola {
    const INFO: Info = Info {
        name: "cola",
        summary: "contrast two parts of a recording with those of other recordings",
        paper: "Saeed, Grangier, Zeghidour",
        year: 2021,
        kind: "contrastive",
        url: "https://arxiv.org/abs/2010.10915",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.validate()?;
        let vars = VarStore::new(encoders.device());
        let (encoder, root, dim) = (encoders.student(&vars)?, vars.root(), config.projection_dim);
        let projection = Linear::new(&(&root / "projection"), encoder.dim(), dim)?;
        let bilinear = match config.similarity {
            Similarity::Cosine => None,
            Similarity::Bilinear => Some(Bilinear {
                norm: LayerNorm::new(&(&root / "norm"), dim, 1e-3)?,
                weight: root.f_var("bilinear", &[dim, dim], Init::Randn { mean: 0., stdev: 0.05 })?,
            }),
        };
        Ok(Cola { encoder, projection, bilinear, config, vars })
    }
}

impl Cola {
    /// Similarities of each first part with each second one, `[B, B]`; the parts pass the network together.
    fn similarities(&self, batch: &Views, mode: Mode) -> Result<Tensor> {
        let [a, b] = views(batch, Self::INFO.name)?;
        let ((n, samples), (m, others)) = (dims2(a, "first part", "[B, T]")?, dims2(b, "second part", "[B, T]")?);
        if n != m || n < 2 {
            let expected = format!("[{}, T] as the first, of two at least", n.max(2));
            return Err(Error::Shape { what: "second part".into(), expected, got: b.size() });
        }
        let embed = |x: &Tensor| self.encoder.embed(x, self.encoder.widest(), mode);
        let h = match samples == others {
            true => embed(&Tensor::f_cat(&[a, b], 0)?)?,
            false => Tensor::f_cat(&[embed(a)?, embed(b)?], 0)?,
        };
        let z = self.projection.forward(&h, mode)?.f_to_kind(Kind::Float)?;
        Precision::Fp32.scope(z.device(), || match &self.bilinear {
            None => {
                let z = l2_normalize(&z)?;
                let product = z.f_narrow(0, 0, n)?.f_matmul(&z.f_narrow(0, n, n)?.f_tr()?)?;
                Ok(product.f_div_scalar(self.config.temperature)?)
            }
            Some(Bilinear { norm, weight }) => {
                let z = norm.forward(&z, mode)?.f_tanh()?;
                Ok(z.f_narrow(0, 0, n)?.f_matmul(weight)?.f_matmul(&z.f_narrow(0, n, n)?.f_tr()?)?)
            }
        })
    }
}

/// Cross-entropy of telling the part that belongs to each row from the others.
///
/// # Shapes
/// `similarities`: `[B, B]`, those that belong together on the diagonal; returns a scalar.
///
/// # Source
/// Saeed et al., 2021, equation 2.
fn contrast(similarities: &Tensor) -> Result<Tensor> {
    let own = similarities.f_diagonal(0, 0, 1)?;
    Ok(similarities.f_logsumexp([1i64].as_slice(), false)?.f_sub(&own)?.f_mean(Kind::Float)?)
}

/// The part of rows whose own similarity is the greatest.
fn accuracy(similarities: &Tensor) -> Result<Tensor> {
    let n = similarities.size().first().copied().unwrap_or(0);
    let own = Tensor::f_arange(n, (Kind::Int64, similarities.device()))?;
    Ok(similarities.f_argmax(1, false)?.f_eq_tensor(&own)?.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?)
}

impl Method for Cola {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let similarities = self.similarities(batch, Mode::Train)?;
        Output::new(contrast(&similarities)?).with("accuracy", &no_grad(|| accuracy(&similarities))?)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, self.encoder.widest(), mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input, self.encoder.widest())
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let similarities = self.similarities(batch, Mode::Eval)?;
            let chance = 1. / similarities.size().first().copied().unwrap_or(1) as f64;
            Ok(vec![
                ("loss".into(), contrast(&similarities)?),
                ("accuracy".into(), accuracy(&similarities)?),
                ("chance".into(), Tensor::from(chance)),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl AudioMethod for Cola {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.first_view.clone(), self.config.second_view.clone()]
    }

    fn place(&self) -> Option<Place> {
        Some(Place::Own)
    }

    fn frames(&self, waves: &Tensor) -> Result<Tensor> {
        no_grad(|| self.encoder.forward(waves, self.encoder.widest(), Mode::Eval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{encoders, waves};
    use ssl_core::check_method;

    fn build(arch: &str, similarity: Similarity) -> Result<Cola> {
        Cola::new(Config { projection_dim: 8, similarity, ..Config::default() }, &encoders(arch))
    }

    fn parts(n: i64) -> Views {
        let x = waves(n, 3_200);
        Views(vec![x.narrow(1, 0, 1_600), x.narrow(1, 1_600, 1_600)])
    }

    #[test]
    fn it_keeps_the_contract() {
        for (arch, similarity) in [
            ("mel_gru_d8", Similarity::Bilinear),
            ("mel_d12_l1_h2", Similarity::Cosine),
        ] {
            let (batch, scratch) = (parts(4), tempfile::tempdir().unwrap());
            let build = || build(arch, similarity);
            check_method(build, &batch, &batch.0[0], scratch.path())
                .unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
    }

    #[test]
    fn the_loss_is_that_of_loops_over_pairs() {
        for similarity in [Similarity::Bilinear, Similarity::Cosine] {
            let (method, batch) = (build("mel_d12_l1_h2", similarity).unwrap(), parts(4));
            let of = |name: &str| method.vars.variables()[name].to_kind(Kind::Double);
            let project = |x: &Tensor| {
                let h = method.embed(x).unwrap().to_kind(Kind::Double);
                let z = h.linear(&of("projection.weight"), Some(of("projection.bias")));
                match similarity {
                    Similarity::Cosine => &z / z.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Double).sqrt(),
                    Similarity::Bilinear => {
                        let (var, mean) = z.var_mean_dim([1i64].as_slice(), false, true);
                        ((z - mean) / (var + 1e-3).sqrt()).tanh()
                    }
                }
            };
            let (a, b) = (project(&batch.0[0]), project(&batch.0[1]));
            let at = |i: i64, j: i64| match similarity {
                Similarity::Cosine => (a.get(i) * b.get(j)).sum(Kind::Double).double_value(&[]) / 0.2,
                Similarity::Bilinear => {
                    (a.get(i) * of("bilinear").mv(&b.get(j))).sum(Kind::Double).double_value(&[])
                }
            };
            let one = |i: i64| (0..4).map(|j| at(i, j).exp()).sum::<f64>().ln() - at(i, i);
            let slow = (0..4).map(one).sum::<f64>() / 4.;
            let best = |i: i64| (0..4).all(|j| at(i, j) <= at(i, i));
            let right = (0..4).filter(|&i| best(i)).count() as f64 / 4.;
            let found = method.validate(&batch).unwrap();
            assert!((found[0].1.double_value(&[]) - slow).abs() < 1e-4, "{similarity:?}: {found:?} {slow}");
            assert_eq!((found[1].1.double_value(&[]), found[2].1.double_value(&[])), (right, 0.25));
        }
    }

    #[test]
    fn parts_lie_in_places_of_their_own_and_one_recording_has_no_other() {
        let mut method = build("mel_d12_l1_h2", Similarity::Cosine).unwrap();
        assert_eq!((method.place(), method.views().len()), (Some(Place::Own), 2));
        let message = method.step(&parts(1), Step { index: 0, total: 1 }).unwrap_err().to_string();
        assert_eq!(message, "second part: expected [2, T] as the first, of two at least, got [1, 1600]");
        let longer = Views(vec![waves(3, 1_600), waves(3, 3_200)]);
        assert!(method.step(&longer, Step { index: 0, total: 1 }).is_ok(), "parts may be of two lengths");
        let config = Config { temperature: 0., ..Config::default() };
        let message = Cola::new(config, &encoders("mel_d12_l1_h2")).unwrap_err().to_string();
        assert_eq!(message, "temperature: expected a number above 0, got 0");
    }
}
