//! The feature extractor of wav2vec 2.0 and HuBERT: seven strided convolutions, a vector for every 320 samples.
//!
//! Source: Baevski et al., 2020, section 4.2: <https://arxiv.org/abs/2006.11477>; names and initialization as
//! `Wav2Vec2FeatureEncoder` of transformers, `models/wav2vec2/modeling_wav2vec2.py`.
use super::{GroupNorm, Window, frames, one_channel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Conv1d, ConvOptions, LayerNorm, Mode, Module, gelu, uniform_fan_in};
use ssl_core::{Error, Result};
use tch::Tensor;
use tch::nn::{Init, Path};

/// What follows the convolutions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExtractorNorm {
    /// Each channel of the first layer over time; the base models'.
    #[default]
    Group,
    /// Each position of every layer over its channels; the large models' of 2021 on.
    Layer,
}

/// The layers of the extractor; the default is the base model's. The fields are those of transformers' `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureExtractorConfig {
    /// Channels of each layer.
    pub conv_dim: Vec<i64>,
    /// Samples or vectors under each window.
    pub conv_kernel: Vec<i64>,
    /// Step of each window.
    pub conv_stride: Vec<i64>,
    /// Whether the convolutions have biases.
    pub conv_bias: bool,
    /// What follows them.
    pub feat_extract_norm: ExtractorNorm,
}

impl Default for FeatureExtractorConfig {
    fn default() -> Self {
        FeatureExtractorConfig {
            conv_dim: vec![512; 7],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_bias: false,
            feat_extract_norm: ExtractorNorm::Group,
        }
    }
}

impl FeatureExtractorConfig {
    /// The large models' extractor: biases, and a layer norm behind every convolution.
    pub fn large() -> Self {
        let norm = ExtractorNorm::Layer;
        FeatureExtractorConfig {
            conv_bias: true,
            feat_extract_norm: norm,
            ..FeatureExtractorConfig::default()
        }
    }

    /// Checks that all layers are described.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let count = self.conv_dim.len();
        let fields = [
            ("conv_dim", &self.conv_dim),
            ("conv_kernel", &self.conv_kernel),
            ("conv_stride", &self.conv_stride),
        ];
        for (name, numbers) in fields {
            if numbers.is_empty() || numbers.len() != count || numbers.iter().any(|&number| number < 1) {
                let message =
                    format!("expected {count} numbers of at least 1, one for each layer, got {numbers:?}");
                return Err(Error::config(name, message));
            }
        }
        Ok(())
    }

    fn windows(&self) -> impl Iterator<Item = Window> + '_ {
        self.conv_kernel.iter().zip(&self.conv_stride).map(|(&kernel, &stride)| (kernel, stride, 0))
    }

    /// Vectors for a wave of so many samples.
    pub fn frames(&self, samples: i64) -> i64 {
        frames(self.windows(), samples)
    }

    /// Samples between two vectors.
    pub fn stride(&self) -> i64 {
        self.conv_stride.iter().product()
    }
}

/// Strided convolutions, each with a GELU.
#[derive(Debug)]
pub struct FeatureExtractor {
    config: FeatureExtractorConfig,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    conv: Conv1d,
    norm: Norm,
}

#[derive(Debug)]
enum Norm {
    None,
    Group(GroupNorm),
    Layer(LayerNorm),
}

impl FeatureExtractor {
    /// Makes the variables `conv_layers.0.conv.weight` and so on under `p`, which transformers calls
    /// `feature_extractor`.
    ///
    /// # Errors
    /// `Error::Config` when a layer is not described.
    pub fn new(p: &Path, config: &FeatureExtractorConfig) -> Result<Self> {
        config.validate()?;
        let inputs = std::iter::once(1).chain(config.conv_dim.iter().copied());
        let shapes = inputs.zip(&config.conv_dim).zip(config.windows()).enumerate();
        let layers = shapes.map(|(n, ((input, &output), (kernel, stride, _)))| {
            let p = p / "conv_layers" / n;
            let (conv, norm) = (&p / "conv", &p / "layer_norm");
            let options = ConvOptions { stride, ..ConvOptions::default() };
            // He et al.'s normal distribution by the fan in, and PyTorch's own start of a bias.
            let init = Init::Randn { mean: 0., stdev: (2. / (input * kernel) as f64).sqrt() };
            let layer = Conv1d::new(&conv, (input, output), kernel, options, init)?;
            Ok(Layer {
                conv: match config.conv_bias {
                    true => layer.and_bias(&conv, uniform_fan_in(input * kernel))?,
                    false => layer,
                },
                norm: match (config.feat_extract_norm, n) {
                    (ExtractorNorm::Group, 0) => Norm::Group(GroupNorm::new(&norm, output, output)?),
                    (ExtractorNorm::Group, _) => Norm::None,
                    (ExtractorNorm::Layer, _) => Norm::Layer(LayerNorm::new(&norm, output, 1e-5)?),
                },
            })
        });
        Ok(FeatureExtractor { config: config.clone(), layers: layers.collect::<Result<_>>()? })
    }

    /// The configuration.
    pub fn config(&self) -> &FeatureExtractorConfig {
        &self.config
    }

    /// Channels that come out.
    pub fn channels(&self) -> i64 {
        self.config.conv_dim.last().copied().unwrap_or(0)
    }
}

impl Module for FeatureExtractor {
    /// # Shapes
    /// `x`: `[B, T]`; returns `[B, C, N]` with [`FeatureExtractorConfig::frames`] of T for N.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of waves long enough for one vector.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = one_channel(x, |samples| self.config.frames(samples))?;
        for layer in &self.layers {
            x = layer.conv.forward(&x, mode)?;
            x = match &layer.norm {
                Norm::None => x,
                Norm::Group(norm) => norm.forward(&x, mode)?,
                Norm::Layer(norm) => norm.forward(&x.f_transpose(1, 2)?, mode)?.f_transpose(1, 2)?,
            };
            x = gelu(&x)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    #[test]
    fn the_base_models_frames_are_those_of_the_paper() {
        let config = FeatureExtractorConfig::default();
        assert_eq!(
            (config.stride(), config.frames(16_000), config.frames(400), config.frames(399)),
            (320, 49, 1, 0)
        );
    }

    #[test]
    fn weights_start_as_in_the_reference() {
        let vars = VarStore::new(Device::Cpu);
        let config = FeatureExtractorConfig { conv_dim: vec![64; 7], ..FeatureExtractorConfig::large() };
        FeatureExtractor::new(&vars.root(), &config).unwrap();
        let deviation = f64::try_from(vars.variables()["conv_layers.3.conv.weight"].std(true)).unwrap();
        assert!((deviation / (2f64 / (64. * 3.)).sqrt() - 1.).abs() < 0.03, "{deviation}");
        let most = f64::try_from(vars.variables()["conv_layers.3.conv.bias"].abs().max()).unwrap();
        assert!(most <= (1f64 / (64. * 3.)).sqrt() && most > 0.05, "{most}");
    }

    #[test]
    fn short_waves_and_layers_that_are_not_described_are_refused() {
        let vars = VarStore::new(Device::Cpu);
        let config = FeatureExtractorConfig { conv_dim: vec![2; 7], ..FeatureExtractorConfig::default() };
        let extractor = FeatureExtractor::new(&vars.root(), &config).unwrap();
        let wave = |samples: i64| Tensor::zeros([1, samples], (Kind::Float, Device::Cpu));
        assert_eq!(extractor.forward(&wave(400), Mode::Eval).unwrap().size(), [1, 2, 1]);
        let message = extractor.forward(&wave(399), Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "waves: expected [B, T] long enough for one frame, got [1, 399]");
        let bad = FeatureExtractorConfig { conv_stride: vec![1, 0], ..config };
        let message = FeatureExtractor::new(&vars.root(), &bad).unwrap_err().to_string();
        assert!(message.starts_with("conv_stride: expected 7 numbers"), "{message}");
    }
}
