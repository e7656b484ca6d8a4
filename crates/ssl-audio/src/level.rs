//! How loud samples are, and bringing them to a level.
//!
//! ```
//! use ssl_audio::level::{Level, peak_decibels, rms_decibels};
//! let mut samples = vec![0.5, -0.5, 0.5, -0.5];
//! assert!((peak_decibels(&samples) + 6.02).abs() < 0.01);
//! Level::Peak { decibels: 0.0 }.apply(&mut samples);
//! assert_eq!((samples[0], rms_decibels(&samples)), (1.0, 0.0));
//! ```
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};

/// What is quieter than this stays as it is: to make it loud would be to amplify the noise of the digits.
const QUIETEST: f64 = -120.0;

/// What becomes of the level of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Level {
    /// It stays.
    #[default]
    Keep,
    /// The loudest sample is brought to this level, in decibels of full scale.
    Peak {
        /// The level of the loudest sample.
        decibels: f64,
    },
    /// The root of the mean square is brought to this level, in decibels of full scale; peaks may go beyond it.
    Rms {
        /// The level of the root of the mean square.
        decibels: f64,
    },
    /// Mean 0 and variance 1, as wav2vec 2.0's large models expect.
    Standard,
}

impl Level {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `Error::Config` when a level is above 40 or below -120 decibels.
    pub fn validate(self) -> Result<()> {
        match self {
            Level::Peak { decibels } | Level::Rms { decibels } if !(QUIETEST..=40.0).contains(&decibels) => {
                Err(Error::config("level", format!("expected {QUIETEST} to 40 decibels, got {decibels}")))
            }
            _ => Ok(()),
        }
    }

    /// Changes the samples; silence stays silence.
    pub fn apply(self, samples: &mut [f32]) {
        let (now, wanted) = match self {
            Level::Keep => return,
            Level::Standard => return standardize(samples),
            Level::Peak { decibels } => (peak_decibels(samples), decibels),
            Level::Rms { decibels } => (rms_decibels(samples), decibels),
        };
        if now > QUIETEST {
            scale(samples, amplitude(wanted - now));
        }
    }
}

/// # Source
/// transformers' `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.
fn standardize(samples: &mut [f32]) {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + 1e-7).sqrt();
    samples.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * factor) as f32);
}

/// The factor that changes a level by so many decibels.
pub fn amplitude(decibels: f64) -> f32 {
    10f64.powf(decibels / 20.0) as f32
}

/// The mean of the squares.
pub fn mean_square(samples: &[f32]) -> f64 {
    samples.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / samples.len().max(1) as f64
}

/// The level of the loudest sample, in decibels of full scale; minus infinity without sound.
pub fn peak_decibels(samples: &[f32]) -> f64 {
    20.0 * f64::from(samples.iter().fold(0.0f32, |peak, x| peak.max(x.abs()))).log10()
}

/// The level of the root of the mean square, in decibels of full scale; minus infinity without sound.
pub fn rms_decibels(samples: &[f32]) -> f64 {
    10.0 * mean_square(samples).log10()
}

pub(crate) fn scale(samples: &mut [f32], factor: f32) {
    samples.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_reached_and_silence_stays_silence() {
        let loud = [0.1f32, -0.2, 0.3, 0.05];
        let at = |level: Level| {
            level.validate().unwrap();
            let mut samples = loud.to_vec();
            level.apply(&mut samples);
            let mut silence = [0.0f32; 4];
            level.apply(&mut silence);
            assert_eq!(silence, [0.0; 4], "{level:?}");
            samples
        };
        assert_eq!(at(Level::Keep), loud);
        assert!((peak_decibels(&at(Level::Peak { decibels: -3.0 })) + 3.0).abs() < 1e-4);
        assert!((rms_decibels(&at(Level::Rms { decibels: -20.0 })) + 20.0).abs() < 1e-4);
        let standard = at(Level::Standard);
        assert!(standard.iter().sum::<f32>().abs() < 1e-5 && (mean_square(&standard) - 1.0).abs() < 1e-4);
        assert!(Level::Peak { decibels: f64::NAN }.validate().is_err());
    }

    #[test]
    fn without_sound_the_level_is_minus_infinity() {
        assert_eq!(peak_decibels(&[0.0, 0.0]), f64::NEG_INFINITY);
        assert_eq!(rms_decibels(&[]), f64::NEG_INFINITY);
    }
}
