//! A product quantizer: for each group of features one of a number of learned vectors, drawn with a gradient.
//!
//! Source: Baevski et al., 2020, section 2 and equation 4: <https://arxiv.org/abs/2006.11477>; Jang, Gu & Poole, 2016
//! (Gumbel softmax): <https://arxiv.org/abs/1611.01144>; names and initialization as `Wav2Vec2GumbelVectorQuantizer` of
//! transformers 5, `models/wav2vec2/modeling_wav2vec2.py`.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Error, Mode, Precision, Result, dims3, no_grad};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// The shape of a quantizer; the default is the base model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizerConfig {
    /// Code books.
    pub groups: i64,
    /// Codes of each.
    pub codes: i64,
    /// Width of a quantized vector, which the groups divide.
    pub dim: i64,
}

impl Default for QuantizerConfig {
    fn default() -> Self {
        QuantizerConfig { groups: 2, codes: 320, dim: 256 }
    }
}

impl QuantizerConfig {
    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is not.
    pub fn validate(&self) -> Result<()> {
        let QuantizerConfig { groups, codes, dim } = *self;
        if groups < 1 || dim < 1 || dim % groups != 0 {
            let message = format!("expected a divisor of the width {dim}, got {groups}");
            return Err(Error::config("groups", message));
        }
        if codes < 2 {
            return Err(Error::config("codes", format!("expected at least 2, got {codes}")));
        }
        Ok(())
    }
}

/// A linear layer that chooses, and code books.
#[derive(Debug)]
pub struct Quantizer {
    choice: Linear,
    codes: Tensor,
    config: QuantizerConfig,
}

/// What a quantizer makes of vectors.
#[derive(Debug)]
pub struct Quantized {
    /// The chosen vectors. `[B, N, dim]`.
    pub vectors: Tensor,
    /// The chosen codes. Int64 `[B, N, groups]`.
    pub codes: Tensor,
    /// What they were chosen by. `[B, N, groups, codes]`, float32.
    pub logits: Tensor,
}

impl Quantizer {
    /// Makes the variables `codevectors` and `weight_proj` under `p` for vectors of width `input`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, input: i64, config: QuantizerConfig) -> Result<Self> {
        config.validate()?;
        let QuantizerConfig { groups, codes, dim } = config;
        let normal = |weight: &Tensor| Ok(no_grad(|| weight.shallow_clone().f_normal_(0., 1.).map(drop))?);
        let start = Init::Uniform { lo: 0., up: 1. };
        Ok(Quantizer {
            choice: Linear::with_init(&(p / "weight_proj"), input, groups * codes, normal)?,
            codes: p.f_var("codevectors", &[1, groups * codes, dim / groups], start)?,
            config,
        })
    }

    /// Chooses codes: with a temperature by chance, from libtorch's generator, with the gradient of a softmax; without
    /// one the likeliest.
    ///
    /// # Shapes
    /// `x`: `[B, N, C]`.
    ///
    /// # Errors
    /// `Error::Shape` when `x` has another rank.
    pub fn forward(&self, x: &Tensor, temperature: Option<f64>) -> Result<Quantized> {
        let (rows, positions, _) = dims3(x, "vectors", "[B, N, C]")?;
        let QuantizerConfig { groups, codes, dim } = self.config;
        let logits = self.choice.forward(x, Mode::Eval)?.f_to_kind(Kind::Float)?;
        let logits = logits.f_view([rows, positions, groups, codes])?;
        Precision::Fp32.scope(x.device(), || {
            let (soft, chosen) = match temperature {
                None => (None, logits.f_argmax(-1, true)?),
                Some(temperature) => {
                    // Minus the logarithm of an exponential draw is one of Gumbel's distribution.
                    let noise = logits.f_detach()?.f_exponential(1.)?.f_log()?.f_neg()?;
                    let soft = logits.f_add(&noise)?.f_div_scalar(temperature)?.f_softmax(-1, Kind::Float)?;
                    let chosen = soft.f_argmax(-1, true)?;
                    (Some(soft), chosen)
                }
            };
            let hard = logits.f_detach()?.f_zeros_like()?.f_scatter_value(-1, &chosen, 1.)?;
            let weights = match soft {
                None => hard,
                Some(soft) => hard.f_add(&soft.f_sub(&soft.f_detach()?)?)?,
            };
            let weights = weights.f_permute([2, 0, 1, 3])?.f_reshape([groups, rows * positions, codes])?;
            let books = self.codes.f_view([groups, codes, dim / groups])?;
            let vectors = weights.f_bmm(&books)?.f_permute([1, 0, 2])?;
            let vectors = vectors.f_reshape([rows, positions, dim])?;
            Ok(Quantized { vectors, codes: chosen.f_squeeze_dim(-1)?, logits })
        })
    }

    /// The shape.
    pub fn config(&self) -> QuantizerConfig {
        self.config
    }
}

/// How many codes are in use, for each code book: the exponential of the entropy of their mean probabilities, from 1
/// (collapsed) to their number.
///
/// # Shapes
/// `probabilities`: `[B, N, G, V]`; `weights`: float `[B, N]`, how much each position counts; returns `[G]`.
///
/// # Errors
/// When libtorch refuses the shapes.
pub fn perplexity(probabilities: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let parts = weights.f_div(&weights.f_sum(Kind::Float)?)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
    let mean = probabilities.f_mul(&parts)?.f_sum_dim_intlist([0i64, 1].as_slice(), false, Kind::Float)?;
    // The logarithm of zero would spoil the gradient.
    let entropy = mean.f_mul(&mean.f_clamp_min(1e-30)?.f_log()?)?;
    Ok(entropy.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?.f_neg()?.f_exp()?)
}

impl Quantized {
    /// A number for each choice of codes. Int64 `[B, N]`.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn numbers(&self) -> Result<Tensor> {
        let codes = self.logits.size().last().copied().unwrap_or(1);
        let first = Tensor::f_zeros_like(&self.codes.f_select(-1, 0)?)?;
        let books = self.codes.f_unbind(-1)?;
        books.iter().try_fold(first, |sum, book| Ok(sum.f_mul_scalar(codes)?.f_add(book)?))
    }

    /// The part of the codes that is not in use, by the probabilities of all: what diversity adds to a loss, from 0 to 1.
    ///
    /// # Shapes
    /// `weights`: float `[B, N]`, how much each position counts; returns a scalar.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    ///
    /// # Source
    /// fairseq and transformers; equation 4 of the paper has the entropy in place of its exponential.
    pub fn unused(&self, weights: &Tensor) -> Result<Tensor> {
        let in_use = perplexity(&self.logits.f_softmax(-1, Kind::Float)?, weights)?;
        let codes = self.logits.size().last().copied().unwrap_or(1).max(1) as f64;
        Ok(in_use.f_div_scalar(codes)?.f_mean(Kind::Float)?.f_neg()?.f_add_scalar(1.)?)
    }

    /// How many of the likeliest codes are in use, for each code book, without a gradient.
    ///
    /// # Shapes
    /// `weights`: float `[B, N]`, how much each position counts; returns `[G]`.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn in_use(&self, weights: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let likeliest = self.logits.f_argmax(-1, true)?;
            perplexity(&self.logits.f_zeros_like()?.f_scatter_value(-1, &likeliest, 1.)?, weights)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn build(config: QuantizerConfig) -> (VarStore, Quantizer) {
        let vars = VarStore::new(Device::Cpu);
        let quantizer = Quantizer::new(&vars.root(), 5, config).unwrap();
        (vars, quantizer)
    }

    const SMALL: QuantizerConfig = QuantizerConfig { groups: 2, codes: 4, dim: 6 };

    #[test]
    fn perplexities_are_those_of_the_reference() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/wav2vec2/reference.json")).unwrap();
        let x = (Tensor::arange(48, CPU) * 0.37 + 0.1).sin().view([1, 6, 2, 4]);
        let found = perplexity(&x.softmax(-1, Kind::Float), &Tensor::ones([1, 6], CPU)).unwrap();
        let expected = fixture["perplexity"].as_f64().unwrap();
        assert!((found.sum(Kind::Double).double_value(&[]) - expected).abs() < 1e-5, "{found:?} {expected}");
        let some = Tensor::from_slice(&[1f32, 1., 0., 1., 0., 0.]).view([1, 6]);
        let found = perplexity(&x.softmax(-1, Kind::Float), &some).unwrap();
        let expected = fixture["perplexity of some"].as_f64().unwrap();
        assert!((found.sum(Kind::Double).double_value(&[]) - expected).abs() < 1e-5, "{found:?} {expected}");
    }

    #[test]
    fn a_vector_is_made_of_the_chosen_codes_and_all_codes_get_a_gradient() {
        let (vars, quantizer) = build(SMALL);
        let x = Tensor::randn([2, 3, 5], CPU);
        for temperature in [None, Some(1.5)] {
            let found = quantizer.forward(&x, temperature).unwrap();
            let books = vars.variables()["codevectors"].view([2, 4, 3]);
            for (row, position) in [(0, 0), (1, 2)] {
                let part = |group| books.get(group).get(found.codes.int64_value(&[row, position, group]));
                let expected = Tensor::cat(&[part(0), part(1)], 0);
                assert!(found.vectors.get(row).get(position).allclose(&expected, 1e-5, 1e-6, false));
            }
            let weight = vars.variables()["weight_proj.weight"].shallow_clone();
            if temperature.is_some() {
                found.vectors.square().sum(Kind::Float).backward();
                let gradient = weight.grad().abs().sum_dim_intlist(1, false, Kind::Float);
                assert!(gradient.min().double_value(&[]) > 0.);
            }
        }
    }

    #[test]
    fn codes_are_drawn_by_their_probabilities_whatever_the_temperature() {
        let (vars, quantizer) = build(QuantizerConfig { groups: 1, codes: 3, dim: 2 });
        no_grad(|| drop(vars.variables()["weight_proj.weight"].shallow_clone().zero_()));
        let logits = Tensor::from_slice(&[0f32, 1., -1.]);
        no_grad(|| vars.variables()["weight_proj.bias"].shallow_clone().copy_(&logits));
        let drawn = quantizer.forward(&Tensor::zeros([1, 20_000, 5], CPU), Some(0.7)).unwrap();
        let expected = Vec::<f64>::try_from(logits.softmax(-1, Kind::Double)).unwrap();
        for (code, expected) in expected.iter().enumerate() {
            let part = drawn.codes.eq(code as i64).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((part - expected).abs() < 0.015, "{code}: {part} {expected}");
        }
    }

    #[test]
    fn one_code_in_use_is_a_perplexity_of_one_and_has_a_finite_gradient() {
        let (vars, quantizer) = build(SMALL);
        let bias = Tensor::from_slice(&[0f32, 300., 0., 0., 300., 0., 0., 0.]);
        no_grad(|| vars.variables()["weight_proj.bias"].shallow_clone().copy_(&bias));
        let found = quantizer.forward(&Tensor::randn([2, 3, 5], CPU), Some(1.)).unwrap();
        let weights = Tensor::ones([2, 3], CPU);
        assert_eq!(Vec::<f32>::try_from(found.in_use(&weights).unwrap()).unwrap(), [1., 1.]);
        let unused = found.unused(&weights).unwrap();
        assert!((unused.double_value(&[]) - 0.75).abs() < 1e-6);
        unused.backward();
        assert!(vars.variables()["weight_proj.weight"].grad().isfinite().all().int64_value(&[]) == 1);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let bad = |config: QuantizerConfig| config.validate().unwrap_err().to_string();
        assert_eq!(
            bad(QuantizerConfig { groups: 3, dim: 8, ..SMALL }),
            "groups: expected a divisor of the width 8, got 3"
        );
        assert_eq!(bad(QuantizerConfig { codes: 1, ..SMALL }), "codes: expected at least 2, got 1");
    }
}
