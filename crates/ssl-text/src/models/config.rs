//! The shapes of encoders.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::nn::{Activation, NormPlace};
use ssl_core::{Error, Result};
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// Whose network it is, and so what its variables are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Normalizes after each sum, and the embeddings; learned positions.
    Bert,
    /// As BERT, with embeddings of a width of their own.
    Electra,
    /// Normalizes before each branch; learned positions.
    Gpt2,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent units.
    Gru,
    /// An embedding for each token, and nothing else.
    Table,
}

/// A family and its size: `bert_mini`, `gpt2_d384_l6_h6`, `lstm_d512_l2`, `table_d100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Arch {
    /// Whose network it is.
    #[schemars(skip)]
    pub family: Family,
    /// Width.
    #[schemars(skip)]
    pub dim: i64,
    /// Layers.
    #[schemars(skip)]
    pub layers: i64,
    /// Attention heads.
    #[schemars(skip)]
    pub heads: i64,
}

const FAMILIES: [(&str, Family); 6] = [
    ("bert", Family::Bert),
    ("electra", Family::Electra),
    ("gpt2", Family::Gpt2),
    ("lstm", Family::Lstm),
    ("gru", Family::Gru),
    ("table", Family::Table),
];
/// Turc et al., 2019, table 1: <https://arxiv.org/abs/1908.08962>; width, layers, heads.
const SIZES: [(&str, [i64; 3]); 5] = [
    ("tiny", [128, 2, 2]),
    ("mini", [256, 4, 4]),
    ("small", [512, 4, 8]),
    ("medium", [512, 8, 8]),
    ("base", [768, 12, 12]),
];

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || {
            let message = format!(
                "expected bert, electra or gpt2 with _tiny, _mini, _small, _medium, _base or _dD_lL_hH (width, layers, \
                 heads), lstm_dD_lL, gru_dD_lL or table_dD, got {name}"
            );
            Error::config("encoder", message)
        };
        let (family, rest) = name.split_once('_').ok_or_else(unknown)?;
        let (_, family) = *FAMILIES.iter().find(|(known, _)| *known == family).ok_or_else(unknown)?;
        let attends = matches!(family, Family::Bert | Family::Electra | Family::Gpt2);
        if let Some((_, [dim, layers, heads])) = SIZES.iter().find(|(known, _)| *known == rest && attends) {
            return Ok(Arch { family, dim: *dim, layers: *layers, heads: *heads });
        }
        let letters: &[char] = match family {
            Family::Table => &['d'],
            Family::Lstm | Family::Gru => &['d', 'l'],
            _ => &['d', 'l', 'h'],
        };
        let parts: Vec<&str> = rest.split('_').collect();
        let number = |(part, letter): (&&str, &char)| {
            part.strip_prefix(*letter)?.parse::<i64>().ok().filter(|&n| n > 0)
        };
        let numbers: Option<Vec<i64>> = parts.iter().zip(letters).map(number).collect();
        match (numbers.as_deref(), parts.len() == letters.len()) {
            (Some(&[dim]), true) => Ok(Arch { family, dim, layers: 0, heads: 1 }),
            (Some(&[dim, layers]), true) => Ok(Arch { family, dim, layers, heads: 1 }),
            (Some(&[dim, layers, heads]), true) if dim % heads == 0 => {
                Ok(Arch { family, dim, layers, heads })
            }
            _ => Err(unknown()),
        }
    }
}

impl Display for Arch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Arch { family, dim, layers, heads } = *self;
        let name = FAMILIES.iter().find(|(_, known)| *known == family).map_or("", |(name, _)| name);
        match family {
            Family::Table => write!(f, "{name}_d{dim}"),
            Family::Lstm | Family::Gru => write!(f, "{name}_d{dim}_l{layers}"),
            _ => match SIZES.iter().find(|(_, shape)| *shape == [dim, layers, heads]) {
                Some((size, _)) => write!(f, "{name}_{size}"),
                None => write!(f, "{name}_d{dim}_l{layers}_h{heads}"),
            },
        }
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

/// How a transformer knows the places of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// An embedding for each place.
    #[default]
    Learned,
    /// Fixed sines and cosines.
    Sinusoidal,
    /// Queries and keys are turned by their places.
    Rotary,
}

/// What stands for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of its tokens.
    #[default]
    Mean,
    /// Its first token.
    Cls,
    /// Its last token, which alone has seen all of it where tokens look back only.
    Last,
}

/// The shape of an encoder. What is not given is the family's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Family and size.
    #[schemars(with = "String")]
    pub arch: Arch,
    /// Tokens of a sequence, at most.
    #[serde(default = "longest")]
    pub max_length: i64,
    /// What stands for a text.
    #[serde(default)]
    pub pooling: Pooling,
    /// How the places of tokens are known.
    #[serde(default)]
    pub positions: Positions,
    /// Where a block normalizes; none is the family's.
    #[serde(default)]
    pub norm: Option<NormPlace>,
    /// What is between the layers of an MLP; none is the family's.
    #[serde(default)]
    pub activation: Option<Activation>,
    /// Width inside the MLP; none is four times the width.
    #[serde(default)]
    pub hidden: Option<i64>,
    /// Width of the embeddings of tokens; none is the width of the network.
    #[serde(default)]
    pub embedding_dim: Option<i64>,
    /// Probability of dropping a value of embeddings and branches.
    #[serde(default = "tenth")]
    pub dropout: f64,
    /// Probability of dropping a weight between two positions.
    #[serde(default = "tenth")]
    pub attention_dropout: f64,
}

fn longest() -> i64 {
    512
}

fn tenth() -> f64 {
    0.1
}

impl EncoderConfig {
    /// A network of that family and size, otherwise with the papers' settings.
    pub fn new(arch: Arch) -> Self {
        EncoderConfig {
            arch,
            max_length: longest(),
            pooling: Pooling::Mean,
            positions: Positions::Learned,
            norm: None,
            activation: None,
            hidden: None,
            embedding_dim: None,
            dropout: tenth(),
            attention_dropout: tenth(),
        }
    }

    /// Width of the embeddings of tokens.
    pub fn embedding_dim(&self) -> i64 {
        self.embedding_dim.unwrap_or(self.arch.dim)
    }

    /// Width inside the MLP.
    pub fn hidden(&self) -> i64 {
        self.hidden.unwrap_or(4 * self.arch.dim)
    }

    /// Where a block normalizes.
    pub fn norm(&self) -> NormPlace {
        let own = if self.arch.family == Family::Gpt2 { NormPlace::Pre } else { NormPlace::Post };
        self.norm.unwrap_or(own)
    }

    /// What is between the layers of an MLP.
    pub fn activation(&self) -> Activation {
        let own = if self.arch.family == Family::Gpt2 { Activation::GeluTanh } else { Activation::Gelu };
        self.activation.unwrap_or(own)
    }

    /// What the normalizations add to the variance.
    pub fn eps(&self) -> f64 {
        if self.arch.family == Family::Gpt2 { 1e-5 } else { 1e-12 }
    }

    /// Checks that it is a transformer, for `method`, which needs one.
    ///
    /// # Errors
    /// `Error::Config` when it is another network.
    pub fn check_transformer(&self, method: &str) -> Result<()> {
        match self.arch.family {
            Family::Bert | Family::Electra | Family::Gpt2 => Ok(()),
            _ => {
                let message = format!("{method} needs a transformer such as bert_mini, got {}", self.arch);
                Err(Error::config("encoder", message))
            }
        }
    }

    /// Where a variable lies, by its name: fine-tuning changes the first layers least.
    pub fn layer_of(&self, name: &str) -> Layer {
        let of = self.arch.layers as usize + 1;
        let parts: Vec<&str> = name.split('.').collect();
        let block = parts.windows(2).find_map(|pair| match pair {
            ["layer" | "h", index] => index.parse::<usize>().ok(),
            _ => None,
        });
        let recurrent = || {
            let (_, index) = name.rsplit_once("_l")?;
            index.parse::<usize>().ok()
        };
        let ends = ["ln_f.", "encoder.norm."].iter().any(|end| name.starts_with(end));
        let depth = match block.or_else(recurrent) {
            Some(index) => index + 1,
            None if ends => of - 1,
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
        for name in
            ["bert_mini", "electra_d64_l2_h4", "gpt2_d384_l6_h6", "lstm_d512_l2", "gru_d8_l1", "table_d100"]
        {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("bert_d256_l4_h4".parse::<Arch>().unwrap().to_string(), "bert_mini");
        for wrong in
            ["bert", "bert_huge", "bert_d10_l2_h3", "lstm_d8", "table_mini", "gru_d0_l1", "bert_d8_l2_h2_x"]
        {
            let message = wrong.parse::<Arch>().unwrap_err().to_string();
            assert!(message.ends_with(&format!("got {wrong}")), "{message}");
        }
    }

    #[test]
    fn layers_are_found_by_the_names_of_variables() {
        let of = |arch: &str| EncoderConfig::new(arch.parse().unwrap());
        let depth = |config: &EncoderConfig, name| config.layer_of(name).depth;
        let bert = of("bert_mini");
        assert_eq!(depth(&bert, "embeddings.word_embeddings.weight"), 0);
        assert_eq!(depth(&bert, "encoder.layer.2.attention.self.query.weight"), 3);
        let gpt2 = of("gpt2_d8_l3_h2");
        assert_eq!(
            [depth(&gpt2, "wte.weight"), depth(&gpt2, "h.0.ln_1.weight"), depth(&gpt2, "ln_f.bias")],
            [0, 1, 3]
        );
        assert_eq!(depth(&of("lstm_d8_l2"), "rnn.weight_ih_l1"), 2);
    }
}
