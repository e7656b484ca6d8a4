//! Mel frequency cepstral coefficients.
//!
//! Source: Davis & Mermelstein, 1980: <https://doi.org/10.1109/TASSP.1980.1163420>; as torchaudio's and librosa's.
use super::{Compression, LogMel, MelConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Precision, Result};
use std::f64::consts::PI;
use tch::{Device, Tensor};

/// Cepstra of a log-mel spectrogram. The default is torchaudio's, of 128 triangles and a transform of 400 samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MfccConfig {
    /// Coefficients that are kept, from the mean level on.
    pub coefficients: i64,
    /// The spectrogram.
    pub mel: MelConfig,
}

impl Default for MfccConfig {
    fn default() -> Self {
        let mel =
            MelConfig { mels: 128, hop: 200, compression: Compression::DECIBEL, ..MelConfig::default() };
        MfccConfig { coefficients: 40, mel }
    }
}

/// Makes cepstra: the cosine transform (type 2, orthonormal) of each frame of a log-mel spectrogram.
#[derive(Debug)]
pub struct Mfcc {
    mel: LogMel,
    cosines: Tensor,
}

impl Mfcc {
    /// Puts what it needs on `device`, where the waves must be.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(config: &MfccConfig, device: Device) -> Result<Self> {
        let (kept, mels) = (config.coefficients, config.mel.mels);
        let mel = LogMel::new(&config.mel, device)?;
        if !(1..=mels).contains(&kept) {
            return Err(Error::config(
                "coefficients",
                format!("expected 1 to {mels} (the mels), got {kept}"),
            ));
        }
        let cosine = |(k, n): (i64, i64)| {
            let height = if k == 0 { 1. / mels as f64 } else { 2. / mels as f64 };
            (height.sqrt() * (PI / mels as f64 * (n as f64 + 0.5) * k as f64).cos()) as f32
        };
        let numbers: Vec<f32> = (0..kept).flat_map(|k| (0..mels).map(move |n| (k, n))).map(cosine).collect();
        let cosines = Tensor::f_from_slice(&numbers)?.f_view([kept, mels])?.f_to(device)?;
        Ok(Mfcc { mel, cosines })
    }

    /// The spectrogram under it.
    pub fn mel(&self) -> &LogMel {
        &self.mel
    }

    /// The cepstra.
    ///
    /// # Shapes
    /// `x`: `[B, T]`; returns `[B, coefficients, T / hop + 1]`, float32.
    ///
    /// # Errors
    /// As [`LogMel::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mel = self.mel.forward(x)?;
        Precision::Fp32.scope(x.device(), || Ok(self.cosines.f_matmul(&mel)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn the_transform_keeps_lengths_when_all_coefficients_are_kept() {
        let config = MfccConfig { coefficients: 128, ..MfccConfig::default() };
        let mfcc = Mfcc::new(&config, Device::Cpu).unwrap();
        let identity = mfcc.cosines.matmul(&mfcc.cosines.tr());
        assert!(identity.allclose(&Tensor::eye(128, (Kind::Float, Device::Cpu)), 0., 1e-5, false));
        let message = Mfcc::new(&MfccConfig { coefficients: 129, ..config }, Device::Cpu).unwrap_err();
        assert_eq!(message.to_string(), "coefficients: expected 1 to 128 (the mels), got 129");
    }
}
