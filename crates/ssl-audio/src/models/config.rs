//! The shapes of encoders.
use super::Wav2Vec2Config;
use crate::frontend::{CpcNorm, MelConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::{Error, Result};
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// What makes vectors of a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// The five convolutions of contrastive predictive coding, with so many channels.
    Cpc(i64),
    /// The seven convolutions of wav2vec 2.0, with so many channels.
    Wav2Vec2(i64),
    /// A log-mel spectrogram.
    Mel,
}

/// What sees the vectors in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Gated recurrent units.
    Gru,
    /// Long short-term memory.
    Lstm,
    /// Attention between positions, as many heads as said.
    Transformer(i64),
    /// The convolutions of BYOL-A over time and frequency.
    Conv,
}

/// A front end and a network on it: `cpc_c256_gru`, `cpc_c512_gru_d256`, `mel_lstm_d512_l3`, `mel_d192_l4_h4`,
/// `mel_conv_d2048`.
///
/// `c` are the channels of convolutions over waves, `d` the width of the network on them (without it as many), `l` its
/// layers (without it one), `h` the heads of a transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Arch {
    /// What makes vectors of a wave.
    #[schemars(skip)]
    pub front: Front,
    /// What sees them in their order.
    #[schemars(skip)]
    pub family: Family,
    /// Width.
    #[schemars(skip)]
    pub dim: i64,
    /// Layers.
    #[schemars(skip)]
    pub layers: i64,
}

/// Layers of BYOL-A's convolutions.
const CONVOLUTIONS: i64 = 3;

/// Takes the next part of a name when it is a letter and a number above 0.
fn number(parts: &mut &[&str], letter: char) -> Option<i64> {
    let (first, rest) = parts.split_first()?;
    let number = first.strip_prefix(letter)?.parse::<i64>().ok().filter(|&n| n > 0)?;
    *parts = rest;
    Some(number)
}

fn parse(name: &str) -> Option<Arch> {
    let parts: Vec<&str> = name.split('_').collect();
    let (front, mut rest) = parts.split_first()?;
    let front = match *front {
        "cpc" => Front::Cpc(number(&mut rest, 'c')?),
        "wav2vec2" => Front::Wav2Vec2(number(&mut rest, 'c')?),
        "mel" => Front::Mel,
        _ => return None,
    };
    let named = match rest.first() {
        Some(&"gru") => Some(Family::Gru),
        Some(&"lstm") => Some(Family::Lstm),
        Some(&"conv") if front == Front::Mel => Some(Family::Conv),
        _ => None,
    };
    if named.is_some() {
        rest = rest.get(1..)?;
    }
    let channels = match front {
        Front::Cpc(channels) | Front::Wav2Vec2(channels) => Some(channels),
        Front::Mel => None,
    };
    let dim = number(&mut rest, 'd').or(channels)?;
    let layers = number(&mut rest, 'l');
    let (family, layers) = match named {
        Some(Family::Conv) => (Family::Conv, layers.map_or(Some(CONVOLUTIONS), |_| None)?),
        Some(family) => (family, layers.unwrap_or(1)),
        None => (Family::Transformer(number(&mut rest, 'h').filter(|heads| dim % heads == 0)?), layers?),
    };
    rest.is_empty().then_some(Arch { front, family, dim, layers })
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || {
            let message = format!(
                "expected mel, cpc_cC or wav2vec2_cC (channels) with _gru_dD_lL, _lstm_dD_lL or _dD_lL_hH \
                 (width, layers, heads), or mel_conv_dD, got {name}"
            );
            Error::config("encoder", message)
        };
        parse(name).ok_or_else(unknown)
    }
}

impl Display for Arch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Arch { front, family, dim, layers } = *self;
        let channels = match front {
            Front::Cpc(channels) => {
                write!(f, "cpc_c{channels}")?;
                channels
            }
            Front::Wav2Vec2(channels) => {
                write!(f, "wav2vec2_c{channels}")?;
                channels
            }
            Front::Mel => {
                write!(f, "mel")?;
                0
            }
        };
        match family {
            Family::Gru => write!(f, "_gru")?,
            Family::Lstm => write!(f, "_lstm")?,
            Family::Conv => return write!(f, "_conv_d{dim}"),
            Family::Transformer(heads) => return write!(f, "_d{dim}_l{layers}_h{heads}"),
        }
        if dim != channels {
            write!(f, "_d{dim}")?;
        }
        if layers != 1 {
            write!(f, "_l{layers}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Arch {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> String {
        arch.to_string()
    }
}

/// What stands for a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over time.
    #[default]
    Mean,
    /// The greatest value of each feature over time.
    Max,
    /// The sum of both, as in BYOL-A.
    MeanMax,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Front end, network and their sizes.
    #[schemars(with = "String")]
    pub arch: Arch,
    /// What stands for a clip.
    #[serde(default)]
    pub pooling: Pooling,
    /// The spectrogram, where the front end is one; its sample rate is that of the waves for every front end.
    #[serde(default)]
    pub mel: MelConfig,
    /// Mean and deviation of the values of the data's spectrograms, by which they are normalized.
    #[serde(default = "speech")]
    pub mel_scale: [f64; 2],
    /// Frames of the spectrogram that are joined to one position.
    #[serde(default = "one")]
    pub stack: i64,
    /// What follows the convolutions of contrastive predictive coding.
    #[serde(default)]
    pub cpc_norm: CpcNorm,
    /// The rest of a network of wav2vec 2.0.
    #[serde(default)]
    pub wav2vec2: Wav2Vec2Config,
    /// Whether the layers of a recurrent network but the first add what they read to what they say.
    #[serde(default)]
    pub residual: bool,
    /// Probability of dropping a value between layers and at the ends of branches.
    #[serde(default)]
    pub dropout: f64,
    /// Probability of dropping a weight between two positions.
    #[serde(default)]
    pub attention_dropout: f64,
}

/// Of the default spectrogram of telephone speech at a usual level, rounded.
fn speech() -> [f64; 2] {
    [-5., 5.]
}

fn one() -> i64 {
    1
}

impl EncoderConfig {
    /// A network of that shape that drops nothing.
    pub fn new(arch: Arch) -> Self {
        EncoderConfig {
            arch,
            pooling: Pooling::Mean,
            mel: MelConfig::default(),
            mel_scale: speech(),
            stack: one(),
            cpc_norm: CpcNorm::default(),
            wav2vec2: Wav2Vec2Config::default(),
            residual: false,
            dropout: 0.,
            attention_dropout: 0.,
        }
    }

    /// Samples per second of the waves, in hertz.
    pub fn sample_rate(&self) -> u32 {
        self.mel.sample_rate
    }

    /// Checks the numbers that no layer checks.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let [mean, deviation] = self.mel_scale;
        if !(mean.is_finite() && deviation.is_finite() && deviation > 0.) {
            let message = format!("expected a mean and a deviation above 0, got {:?}", self.mel_scale);
            return Err(Error::config("mel_scale", message));
        }
        if self.stack < 1 {
            return Err(Error::config("stack", format!("expected at least 1 frame, got {}", self.stack)));
        }
        self.mel.validate()
    }

    /// Where a variable lies, by its name: fine-tuning changes the first layers least.
    pub fn layer_of(&self, name: &str) -> Layer {
        let of = self.arch.layers as usize + 1;
        let parts: Vec<&str> = name.split('.').collect();
        let block = parts.windows(2).find_map(|pair| match pair {
            ["blocks" | "layers", index] => index.parse::<usize>().ok(),
            // Convolution, norm, ReLU and pooling are a layer; the first is counted as front end.
            ["features", index] => (index.parse::<usize>().ok()? / 4).checked_sub(1),
            _ => None,
        });
        let recurrent =
            || name.starts_with("gAR.").then(|| name.rsplit_once("_l")?.1.parse::<usize>().ok())?;
        let depth = match block.or_else(recurrent) {
            Some(index) => index + 1,
            None if name.starts_with("norm.") || name.starts_with("fc.") => of - 1,
            None => 0,
        };
        Layer { depth, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in [
            "cpc_c256_gru",
            "cpc_c512_gru_d256",
            "cpc_c256_lstm_l2",
            "cpc_c256_d256_l4_h4",
            "mel_gru_d512_l3",
            "mel_d192_l4_h4",
            "mel_conv_d2048",
            "wav2vec2_c512_d768_l12_h12",
        ] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("cpc_c256_gru_d256_l1".parse::<Arch>().unwrap().to_string(), "cpc_c256_gru");
        for wrong in [
            "",
            "cpc",
            "cpc_gru",
            "mel_gru",
            "mel_d10_l2_h3",
            "mel_d8_l2",
            "cpc_c0_gru",
            "mel_d8_l1_h2_x",
            "cqt_gru",
            "cpc_c8_conv",
            "mel_conv_d8_l3",
        ] {
            let message = wrong.parse::<Arch>().unwrap_err().to_string();
            assert!(message.ends_with(&format!("got {wrong}")), "{message}");
        }
    }

    #[test]
    fn layers_are_found_by_the_names_of_variables() {
        let depth = |arch: &str, name| EncoderConfig::new(arch.parse().unwrap()).layer_of(name).depth;
        assert_eq!(depth("cpc_c8_lstm_l2", "gEncoder.conv3.weight"), 0);
        assert_eq!(depth("cpc_c8_lstm_l2", "gAR.baseNet.weight_ih_l1"), 2);
        assert_eq!(depth("mel_d8_l3_h2", "blocks.1.attn.qkv.weight"), 2);
        assert_eq!(depth("mel_d8_l3_h2", "norm.bias"), 3);
        let conv = ["features.1.bias", "features.4.weight", "features.8.weight", "fc.3.weight"];
        assert_eq!(conv.map(|name| depth("mel_conv_d8", name)), [0, 1, 2, 3]);
        assert_eq!(depth("mel_d8_l3_h2", "feature_projection.projection.weight"), 0);
        let names =
            ["masked_spec_embed", "encoder.layers.1.attention.q_proj.bias", "encoder.layer_norm.bias"];
        assert_eq!(names.map(|name| depth("wav2vec2_c8_d16_l3_h2", name)), [0, 2, 0]);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let good = || EncoderConfig::new("mel_d8_l1_h2".parse().unwrap());
        let message = |config: EncoderConfig| config.validate().unwrap_err().to_string();
        let bad = EncoderConfig { mel_scale: [0., 0.], ..good() };
        assert_eq!(message(bad), "mel_scale: expected a mean and a deviation above 0, got [0.0, 0.0]");
        assert_eq!(message(EncoderConfig { stack: 0, ..good() }), "stack: expected at least 1 frame, got 0");
        let mel = MelConfig { hop: 0, ..MelConfig::default() };
        assert!(message(EncoderConfig { mel, ..good() }).starts_with("hop: expected"));
    }
}
