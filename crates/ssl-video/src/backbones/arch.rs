//! Names of three-dimensional residual networks.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// How a network looks at time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convolutions {
    /// `r3d`: windows over time and space.
    Full,
    /// `r2plus1d`: a window over space, then one over time.
    Factored,
    /// `r2d3d`: windows over space in the stem and the first two stages, over time and space in the last two, of which
    /// the second is no wider than the first, as in dense predictive coding.
    Late,
}

/// Which three-dimensional ResNet: `r3d18`, `r2plus1d18`, `r2d3d18`, with 10 in place of 18 one block a stage in place
/// of two, with `_wN` another width than 64 in the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Arch3d {
    /// How it looks at time.
    pub convolutions: Convolutions,
    /// Blocks of each of the four stages.
    pub blocks: usize,
    /// Channels of the first stage.
    pub width: i64,
}

const FAMILIES: [(&str, Convolutions); 3] =
    [("r3d", Convolutions::Full), ("r2plus1d", Convolutions::Factored), ("r2d3d", Convolutions::Late)];

impl Arch3d {
    /// Channels of the four stages.
    pub(super) fn widths(self) -> [i64; 4] {
        let last = if self.convolutions == Convolutions::Late { 4 } else { 8 };
        [1, 2, 4, last].map(|factor| factor * self.width)
    }

    /// Whether a name is meant to be one of these.
    pub(super) fn is_name(name: &str) -> bool {
        FAMILIES.iter().any(|(family, _)| name.starts_with(family))
    }

    fn read(name: &str) -> Option<Self> {
        let (family, convolutions) = FAMILIES.into_iter().find(|(family, _)| name.starts_with(family))?;
        let rest = name.strip_prefix(family)?;
        let (depth, width) = match rest.split_once("_w") {
            Some((depth, width)) => (depth, width.parse().ok()?),
            None => (rest, 64),
        };
        let blocks = match depth {
            "10" => 1,
            "18" => 2,
            _ => return None,
        };
        (1..=512).contains(&width).then_some(Arch3d { convolutions, blocks, width })
    }
}

impl FromStr for Arch3d {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Arch3d::read(name).ok_or_else(|| {
            let known = "r3d18, r2plus1d18, r2d3d18 or one of them with 10 in place of 18 and with _wN, a width N of \
                         1 to 512";
            Error::config("encoder", format!("expected {known}, got {name}"))
        })
    }
}

impl fmt::Display for Arch3d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = FAMILIES.iter().find(|(_, convolutions)| *convolutions == self.convolutions);
        write!(f, "{}{}", family.map_or("", |(name, _)| *name), 8 * self.blocks + 2)?;
        match self.width {
            64 => Ok(()),
            width => write!(f, "_w{width}"),
        }
    }
}

impl TryFrom<String> for Arch3d {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Arch3d> for String {
    fn from(arch: Arch3d) -> String {
        arch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_family_depth_and_width() {
        for name in ["r3d18", "r2plus1d18", "r2d3d18_w16", "r3d10_w8", "r2plus1d10_w24"] {
            assert_eq!(name.parse::<Arch3d>().unwrap().to_string(), name);
        }
        for name in ["r3d", "r3d34", "r3d18_w0", "r3d18_16", "r4d18", "r3d18_w64x"] {
            let message = name.parse::<Arch3d>().unwrap_err().to_string();
            assert!(message.starts_with("encoder: expected r3d18") && message.ends_with(name), "{message}");
        }
        assert_eq!("r2d3d18".parse::<Arch3d>().unwrap().widths(), [64, 128, 256, 256]);
    }
}
