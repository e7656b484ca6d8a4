//! Masks over spans of time and bands of frequency of spectrograms.
//!
//! Source: Park et al., 2019, section 2 (SpecAugment): <https://arxiv.org/abs/1904.08779>.
use crate::random::below;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Batch, Error, Result, Rng, dims3};
use tch::{Device, Kind, Tensor};

/// What masked values become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// The mean of the spectrogram.
    #[default]
    Mean,
    /// Zero, which is the mean where spectrograms are normalized.
    Zero,
}

/// How much of a spectrogram is hidden. The default is the policy LD (LibriSpeech double) without its time warp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpecMask {
    /// Spans of time, which may overlap.
    pub time_masks: usize,
    /// Greatest length of a span, in frames.
    pub time_width: usize,
    /// Greatest length of a span, as a part of all frames.
    pub time_part: f32,
    /// Bands of frequency, which may overlap.
    pub frequency_masks: usize,
    /// Greatest width of a band, in rows of the spectrogram.
    pub frequency_width: usize,
    /// What masked values become.
    pub fill: Fill,
}

impl Default for SpecMask {
    fn default() -> Self {
        SpecMask {
            time_masks: 2,
            time_width: 100,
            time_part: 1.0,
            frequency_masks: 2,
            frequency_width: 27,
            fill: Fill::Mean,
        }
    }
}

impl SpecMask {
    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is not.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("time_masks", self.time_masks), ("frequency_masks", self.frequency_masks)] {
            if value > 1_000 {
                return Err(Error::config(name, format!("expected at most 1000, got {value}")));
            }
        }
        if !(0.0..=1.0).contains(&self.time_part) {
            return Err(Error::config("time_part", format!("expected 0 to 1, got {}", self.time_part)));
        }
        Ok(())
    }

    /// Draws the masks of a batch: of time, and of frequency; true is masked.
    ///
    /// # Shapes
    /// `batch`, `rows` and `frames` are B, F and N; returns bool `[B, 1, N]` and `[B, F, 1]`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn draw(&self, [batch, rows, frames]: [i64; 3], rng: &mut Rng) -> Result<[Tensor; 2]> {
        self.validate()?;
        let [examples, rows, frames] = [batch, rows, frames].map(|count| usize::try_from(count).unwrap_or(0));
        let longest = self.time_width.min((self.time_part * frames as f32) as usize);
        let (mut time, mut frequency) = (vec![false; examples * frames], vec![false; examples * rows]);
        for example in 0..examples {
            hide(&mut time, example, frames, (self.time_masks, longest), rng);
            hide(&mut frequency, example, rows, (self.frequency_masks, self.frequency_width), rng);
        }
        Ok([
            Tensor::f_from_slice(&time)?.f_view([batch, 1, frames as i64])?,
            Tensor::f_from_slice(&frequency)?.f_view([batch, rows as i64, 1])?,
        ])
    }

    /// Hides parts of spectrograms, of each others.
    ///
    /// # Shapes
    /// `x`: `[B, F, N]`; returns the same.
    ///
    /// # Errors
    /// `Error::Shape` when `x` has another rank; `Error::Config` when a number is out of range.
    pub fn apply(&self, x: &Tensor, rng: &mut Rng) -> Result<Tensor> {
        let (batch, rows, frames) = dims3(x, "spectrograms", "[B, F, N]")?;
        let masks = self.draw([batch, rows, frames], rng)?;
        let [time, frequency] = masks.map(|mask| upload(mask, x.device()));
        let mask = time?.f_logical_or(&frequency?)?;
        match self.fill {
            Fill::Zero => Ok(x.f_masked_fill(&mask, 0.0)?),
            Fill::Mean => {
                let mean = x.f_mean_dim([1i64, 2].as_slice(), true, None::<Kind>)?;
                Ok(mean.f_where_self(&mask, x)?)
            }
        }
    }
}

/// A host tensor on `device`; through page-locked memory to CUDA, so that nothing waits.
fn upload(tensor: Tensor, device: Device) -> Result<Tensor> {
    let tensor = if device.is_cuda() { tensor.pin()? } else { tensor };
    Batch::to_device(&tensor, device)
}

/// Masks spans of an example's part of `mask`, each of a length from 0 to the greatest.
fn hide(mask: &mut [bool], example: usize, length: usize, (spans, greatest): (usize, usize), rng: &mut Rng) {
    for _ in 0..spans {
        let span = below(rng, greatest.min(length) as u64 + 1);
        let start = below(rng, length as u64 - span + 1);
        let (start, span) = (example * length + start as usize, span as usize);
        mask.iter_mut().skip(start).take(span).for_each(|masked| *masked = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hidden_values_are_the_mean_and_the_others_stay() {
        let x = Tensor::arange(2 * 5 * 8, (Kind::Float, Device::Cpu)).view([2, 5, 8]);
        let config = SpecMask { time_width: 3, frequency_width: 2, ..SpecMask::default() };
        let y = config.apply(&x, &mut ssl_core::rng(1, &[])).unwrap();
        let [time, frequency] = config.draw([2, 5, 8], &mut ssl_core::rng(1, &[])).unwrap();
        let mask = time.logical_or(&frequency);
        assert!(i64::try_from(mask.sum(Kind::Int64)).unwrap() > 0);
        let mean = x.mean_dim([1i64, 2].as_slice(), true, Kind::Float);
        assert!(y.equal(&mean.where_self(&mask, &x)));
        let zero = SpecMask { fill: Fill::Zero, ..config }.apply(&x, &mut ssl_core::rng(1, &[])).unwrap();
        assert!(zero.equal(&(&x * mask.logical_not().to_kind(Kind::Float))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn no_more_is_hidden_than_the_widths_allow(
            seed: u64, width in 0usize..20, part in 0.0f32..=1.0, masks in 0usize..4, frames in 1i64..30,
        ) {
            let config = SpecMask {
                time_masks: masks, time_width: width, time_part: part, frequency_masks: masks, frequency_width: width,
                fill: Fill::Zero,
            };
            let [time, frequency] = config.draw([1, 7, frames], &mut ssl_core::rng(seed, &[])).unwrap();
            let count = |mask: Tensor| i64::try_from(mask.sum(Kind::Int64)).unwrap() as usize;
            prop_assert!(count(time) <= masks * width.min((part * frames as f32) as usize));
            prop_assert!(count(frequency) <= masks * width.min(7));
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let bad = SpecMask { time_part: f32::NAN, ..SpecMask::default() };
        assert_eq!(bad.validate().unwrap_err().to_string(), "time_part: expected 0 to 1, got NaN");
        assert!(SpecMask { time_masks: 1 << 40, ..SpecMask::default() }.validate().is_err());
    }
}
