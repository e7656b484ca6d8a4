//! What a view may sound like: the configuration of the augmentations.
use crate::level::Level;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};

/// Where noise comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Normal numbers: all frequencies alike.
    #[default]
    White,
    /// Power falls with the frequency: all octaves alike.
    Pink,
    /// Windows of other clips.
    Clips,
}

/// The random view of a clip that a method trains on; applied in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Samples of the view, at the rate of the data.
    pub samples: usize,
    /// Probability of another speed, and with it another pitch.
    pub speed_probability: f32,
    /// Least and greatest speed, as a factor; drawn in steps of 0.01.
    pub speed: [f32; 2],
    /// Probability of reverberation.
    pub reverb_probability: f32,
    /// Least and greatest time in which the reverberation falls by 60 decibels, in seconds.
    pub reverb_seconds: [f32; 2],
    /// Least and greatest level of the direct sound over the reverberation, in decibels.
    pub reverb_decibels: [f32; 2],
    /// Probability that another clip is mixed in.
    pub mix_probability: f32,
    /// Greatest part of the other clip in the mixture.
    pub mix_part: f32,
    /// Probability of noise.
    pub noise_probability: f32,
    /// Where the noise comes from.
    pub noise: Noise,
    /// Least and greatest level of the sound over the noise, in decibels.
    pub noise_decibels: [f32; 2],
    /// Probability of another loudness.
    pub gain_probability: f32,
    /// Least and greatest change of the loudness, in decibels.
    pub gain_decibels: [f32; 2],
    /// Probability that the sign of all samples changes.
    pub polarity_probability: f32,
    /// What the level of the view is brought to at last.
    pub level: Level,
}

impl Default for Augment {
    /// A crop of 1.28 seconds at 16 kHz, nothing else.
    fn default() -> Self {
        Augment {
            samples: 20_480,
            speed_probability: 0.0,
            speed: [0.9, 1.1],
            reverb_probability: 0.0,
            reverb_seconds: [0.1, 0.5],
            reverb_decibels: [0.0, 15.0],
            mix_probability: 0.0,
            mix_part: 0.4,
            noise_probability: 0.0,
            noise: Noise::White,
            noise_decibels: [5.0, 30.0],
            gain_probability: 0.0,
            gain_decibels: [-6.0, 6.0],
            polarity_probability: 0.0,
            level: Level::Keep,
        }
    }
}

impl Augment {
    /// A crop, nothing else.
    pub fn crop(samples: usize) -> Self {
        Augment { samples, ..Augment::default() }
    }

    /// Everything that leaves what is said or played as it is.
    pub fn wave(samples: usize) -> Self {
        Augment {
            samples,
            speed_probability: 0.5,
            reverb_probability: 0.3,
            noise_probability: 0.5,
            gain_probability: 0.8,
            polarity_probability: 0.5,
            ..Augment::default()
        }
    }

    /// Mixes another clip in with a part of up to `part` of the sum, as BYOL-A does with spectrograms.
    ///
    /// # Source
    /// Niizumi et al., 2021, section III.B: <https://arxiv.org/abs/2103.06695>.
    pub fn with_mix(self, part: f32) -> Self {
        Augment { mix_probability: 1.0, mix_part: part, ..self }
    }

    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is not.
    pub fn validate(&self) -> Result<()> {
        const MOST: usize = 1 << 28;
        if !(1..=MOST).contains(&self.samples) {
            return Err(Error::config("samples", format!("expected 1 to {MOST}, got {}", self.samples)));
        }
        for (name, value) in [
            ("speed_probability", self.speed_probability),
            ("reverb_probability", self.reverb_probability),
            ("mix_probability", self.mix_probability),
            ("mix_part", self.mix_part),
            ("noise_probability", self.noise_probability),
            ("gain_probability", self.gain_probability),
            ("polarity_probability", self.polarity_probability),
        ] {
            within(name, value, [0.0, 1.0])?;
        }
        for (name, [low, high], bounds) in [
            ("speed", self.speed, [0.25, 4.0]),
            ("reverb_seconds", self.reverb_seconds, [0.01, 20.0]),
            ("reverb_decibels", self.reverb_decibels, [-60.0, 120.0]),
            ("noise_decibels", self.noise_decibels, [-60.0, 120.0]),
            ("gain_decibels", self.gain_decibels, [-120.0, 60.0]),
        ] {
            within(name, low, bounds)?;
            within(name, high, bounds)?;
            if low > high {
                return Err(Error::config(
                    name,
                    format!("expected least before greatest, got {low} before {high}"),
                ));
            }
        }
        self.level.validate()
    }
}

fn within(name: &str, value: f32, [min, max]: [f32; 2]) -> Result<()> {
    if value >= min && value <= max {
        return Ok(());
    }
    Err(Error::config(name, format!("expected {min} to {max}, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_at_fault_is_named() {
        let good = Augment::wave(100).with_mix(0.4);
        good.validate().unwrap();
        for (name, bad) in [
            ("samples", Augment { samples: 0, ..good.clone() }),
            ("speed", Augment { speed: [0.0, 1.0], ..good.clone() }),
            ("speed", Augment { speed: [1.2, 1.0], ..good.clone() }),
            ("reverb_seconds", Augment { reverb_seconds: [0.1, f32::INFINITY], ..good.clone() }),
            ("mix_part", Augment { mix_part: 1.5, ..good.clone() }),
            ("noise_decibels", Augment { noise_decibels: [f32::NAN, 1.0], ..good.clone() }),
            ("gain_probability", Augment { gain_probability: -0.1, ..good.clone() }),
            ("level", Augment { level: Level::Peak { decibels: 99.0 }, ..good.clone() }),
        ] {
            let message = bad.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: expected")), "{message}");
        }
    }

    #[test]
    fn json_names_every_field_and_refuses_others() {
        let config: Augment =
            serde_json::from_str(r#"{"samples": 9, "noise": "pink", "level": {"rms": {"decibels": -20}}}"#)
                .unwrap();
        assert_eq!(
            (config.samples, config.noise, config.level),
            (9, Noise::Pink, Level::Rms { decibels: -20.0 })
        );
        assert!(serde_json::from_str::<Augment>(r#"{"sample": 9}"#).is_err());
    }
}
