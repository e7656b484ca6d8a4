//! Log-mel spectrograms.
use super::filters::{MelNorm, MelScale, triangles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Precision, Result, dims2};
use tch::{Device, Kind, Tensor};

/// What becomes of the power in a triangle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Compression {
    /// It stays.
    None,
    /// ln(power + offset).
    Natural {
        /// Keeps silence finite.
        offset: f64,
    },
    /// 10 log10(max(power, floor)).
    Decibel {
        /// The least power that counts.
        floor: f64,
        /// What is further below the loudest value of its clip is raised to this distance, in decibels.
        range: Option<f64>,
    },
}

impl Compression {
    /// Decibels from a floor of 1e-10, 80 below the loudest value: the default of librosa's `power_to_db`.
    pub const DECIBEL: Compression = Compression::Decibel { floor: 1e-10, range: Some(80.) };

    /// # Shapes
    /// `power`: `[B, F, N]`; returns the same.
    fn apply(self, power: &Tensor) -> Result<Tensor> {
        match self {
            Compression::None => Ok(power.shallow_clone()),
            Compression::Natural { offset } => Ok(power.f_add_scalar(offset)?.f_log()?),
            Compression::Decibel { floor, range } => {
                let level = power.f_clamp_min(floor)?.f_log10()?.f_mul_scalar(10.)?;
                match range {
                    Some(range) => {
                        let least = level.f_amax([1i64, 2], true)?.f_sub_scalar(range)?;
                        Ok(level.f_maximum(&least)?)
                    }
                    None => Ok(level),
                }
            }
        }
    }
}

/// A log-mel spectrogram. The default is torchaudio's at 16 kHz, with 80 triangles and a window of 25 ms every 10 ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MelConfig {
    /// Of the waves, in hertz.
    pub sample_rate: u32,
    /// Samples of a Fourier transform.
    pub fft: i64,
    /// Samples of the window (periodic Hann), in the middle of the transform.
    pub window: i64,
    /// Samples between two windows.
    pub hop: i64,
    /// Triangles.
    pub mels: i64,
    /// Where the lowest triangle begins, in hertz.
    pub low: f64,
    /// Where the highest triangle ends, in hertz; none for half the sample rate.
    pub high: Option<f64>,
    /// Where the triangles lie.
    pub scale: MelScale,
    /// How high they are.
    pub norm: MelNorm,
    /// What becomes of the power.
    pub compression: Compression,
}

impl Default for MelConfig {
    fn default() -> Self {
        MelConfig {
            sample_rate: 16_000,
            fft: 400,
            window: 400,
            hop: 160,
            mels: 80,
            low: 0.,
            high: None,
            scale: MelScale::Htk,
            norm: MelNorm::None,
            compression: Compression::Natural { offset: 1e-6 },
        }
    }
}

impl MelConfig {
    /// Where the highest triangle ends, in hertz.
    pub fn high(&self) -> f64 {
        self.high.unwrap_or(f64::from(self.sample_rate) / 2.)
    }

    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is not.
    pub fn validate(&self) -> Result<()> {
        let half = f64::from(self.sample_rate) / 2.;
        let between = |name: &str, value: i64, most: i64| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::config(name, format!("expected 1 to {most}, got {value}"))),
        };
        between("sample_rate", self.sample_rate.into(), 768_000)?;
        between("fft", self.fft, 1 << 20)?;
        between("window", self.window, self.fft)?;
        between("hop", self.hop, 1 << 20)?;
        between("mels", self.mels, self.fft / 2 + 1)?;
        if !(self.low >= 0. && self.low < half) {
            return Err(Error::config("low", format!("expected 0 to {half} Hz, got {}", self.low)));
        }
        if !(self.high() > self.low && self.high() <= half) {
            let message = format!("expected {} to {half} Hz, got {}", self.low, self.high());
            return Err(Error::config("high", message));
        }
        match self.compression {
            Compression::Natural { offset: least } | Compression::Decibel { floor: least, .. }
                if !(least > 0. && least.is_finite()) =>
            {
                Err(Error::config("compression", format!("expected a floor above 0, got {least}")))
            }
            Compression::Decibel { range: Some(range), .. } if !(range > 0. && range.is_finite()) => {
                Err(Error::config("compression", format!("expected a range above 0 decibels, got {range}")))
            }
            _ => Ok(()),
        }
    }
}

/// Makes log-mel spectrograms.
#[derive(Debug)]
pub struct LogMel {
    config: MelConfig,
    window: Tensor,
    filters: Tensor,
}

impl LogMel {
    /// Puts the window and the triangles on `device`, where the waves must be.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(config: &MelConfig, device: Device) -> Result<Self> {
        config.validate()?;
        let (mels, bins) = (config.mels, config.fft / 2 + 1);
        let half = f64::from(config.sample_rate) / 2.;
        let shapes = (config.scale, config.norm);
        let filters = triangles(shapes, (mels as usize, bins as usize), half, (config.low, config.high()));
        // In double precision: the window of float32 is a little off PyTorch's own.
        let window = Tensor::f_hann_window_periodic(config.window, true, (Kind::Double, Device::Cpu))?;
        Ok(LogMel {
            config: config.clone(),
            window: window.f_to_kind(Kind::Float)?.f_to(device)?,
            filters: Tensor::f_from_slice(&filters)?.f_view([mels, bins])?.f_to(device)?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &MelConfig {
        &self.config
    }

    /// Frames of a wave of so many samples.
    pub fn frames(&self, samples: i64) -> i64 {
        samples / self.config.hop + 1
    }

    /// The spectrograms; frame `n` is around sample `n hop`, and the waves are mirrored at their ends.
    ///
    /// # Shapes
    /// `x`: `[B, T]`; returns `[B, mels, T / hop + 1]`, float32.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of waves of more than half a transform.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.compress(&self.power(x)?)
    }

    /// The power in each triangle.
    ///
    /// # Shapes
    /// `x`: `[B, T]`; returns `[B, mels, T / hop + 1]`, float32.
    ///
    /// # Errors
    /// As [`LogMel::forward`].
    pub fn power(&self, x: &Tensor) -> Result<Tensor> {
        let (_, samples) = dims2(x, "waves", "[B, T]")?;
        let MelConfig { fft, window, hop, .. } = self.config;
        if samples <= fft / 2 {
            let expected = format!("[B, T] with T above {} (half a transform)", fft / 2);
            return Err(Error::Shape { what: "waves".into(), expected, got: x.size() });
        }
        Precision::Fp32.scope(x.device(), || {
            let x = x.f_to_kind(Kind::Float)?.f_reflection_pad1d([fft / 2, fft / 2])?;
            let spectrum = x.f_stft(fft, hop, window, Some(&self.window), false, true, true, false)?;
            let parts = spectrum.f_view_as_real()?.f_square()?; // [B, bins, N, 2]
            let power = parts.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?;
            Ok(self.filters.f_matmul(&power)?)
        })
    }

    /// What becomes of the power: the second half of [`LogMel::forward`].
    ///
    /// # Shapes
    /// `power`: `[B, mels, N]`; returns the same.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn compress(&self, power: &Tensor) -> Result<Tensor> {
        self.config.compression.apply(power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_at_fault_is_named() {
        let good = MelConfig::default;
        for (name, bad) in [
            ("sample_rate", MelConfig { sample_rate: 0, ..good() }),
            ("fft", MelConfig { fft: 0, ..good() }),
            ("window", MelConfig { window: 401, ..good() }),
            ("hop", MelConfig { hop: -1, ..good() }),
            ("mels", MelConfig { mels: 202, ..good() }),
            ("low", MelConfig { low: f64::NAN, ..good() }),
            ("high", MelConfig { high: Some(9000.), ..good() }),
            ("compression", MelConfig { compression: Compression::Natural { offset: 0. }, ..good() }),
            (
                "compression",
                MelConfig { compression: Compression::Decibel { floor: 1., range: Some(-1.) }, ..good() },
            ),
        ] {
            let message = LogMel::new(&bad, Device::Cpu).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: expected")), "{message}");
        }
    }

    #[test]
    fn waves_too_short_to_mirror_are_refused_and_silence_is_finite() {
        let mel = LogMel::new(&MelConfig::default(), Device::Cpu).unwrap();
        let message =
            mel.forward(&Tensor::zeros([2, 200], (Kind::Float, Device::Cpu))).unwrap_err().to_string();
        assert_eq!(message, "waves: expected [B, T] with T above 200 (half a transform), got [2, 200]");
        let silence = mel.forward(&Tensor::zeros([1, 201], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(silence.size(), [1, 80, mel.frames(201)]);
        assert!(bool::try_from(silence.isfinite().all()).unwrap());
    }

    #[test]
    fn the_precision_around_it_does_not_matter() {
        let mel = LogMel::new(&MelConfig::default(), Device::Cpu).unwrap();
        let x = Tensor::arange(2_000, (Kind::Float, Device::Cpu)).sin().view([1, -1]);
        let half = Precision::Bf16.scope(Device::Cpu, || mel.forward(&x)).unwrap();
        assert!(half.equal(&mel.forward(&x).unwrap()));
    }

    #[test]
    fn a_range_counts_from_the_loudest_value_of_each_clip() {
        let power = Tensor::from_slice(&[1f32, 1e-9, 1e-3, 1e-5]).view([2, 1, 2]);
        let level = Compression::Decibel { floor: 1e-8, range: Some(15.) }.apply(&power).unwrap();
        let expected = Tensor::from_slice(&[0f32, -15., -30., -45.]).view([2, 1, 2]);
        assert!(level.allclose(&expected, 0., 1e-4, false), "{level:?}");
    }
}
