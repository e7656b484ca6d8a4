//! The cepstra that HuBERT's first iteration clusters.
//!
//! Source: Hsu et al., 2021, section 3.1: <https://arxiv.org/abs/2106.07447>; fairseq's
//! `examples/hubert/simple_kmeans/dump_mfcc_feature.py`; the weights are those of Kaldi's `cepstral-lifter` of 22.
use crate::frontend::{MelConfig, Mfcc, MfccConfig};
use ssl_core::Result;
use std::f64::consts::PI;
use tch::{Device, Tensor};

/// Cepstra of a frame, before their two derivatives.
const CEPSTRA: i64 = 13;

/// Cepstra of the positions of the encoder, with their first and second derivatives.
#[derive(Debug)]
pub(crate) struct Cepstra {
    mfcc: Mfcc,
    weights: Tensor,
}

impl Cepstra {
    /// Width of a vector.
    pub(crate) const DIM: i64 = 3 * CEPSTRA;

    pub(crate) fn new(sample_rate: u32, device: Device) -> Result<Self> {
        // The hop, by default, is half of the distance of two positions.
        let mel = MelConfig { sample_rate, fft: 512, mels: 23, low: 20., ..MelConfig::default() };
        let weight = |n: i64| (1. + 11. * (PI * n as f64 / 22.).sin()) as f32;
        let weights: Vec<f32> = (0..CEPSTRA).map(weight).collect();
        Ok(Cepstra {
            mfcc: Mfcc::new(&MfccConfig { coefficients: CEPSTRA, mel }, device)?,
            weights: Tensor::f_from_slice(&weights)?.f_view([-1, 1])?.f_to_device(device)?,
        })
    }

    /// `[B, T]` to `[B, N, F]`.
    pub(crate) fn forward(&self, waves: &Tensor, positions: i64) -> Result<Tensor> {
        let level = self.mfcc.forward(waves)?.f_mul(&self.weights)?;
        let slope = slopes(&level)?;
        let all = Tensor::f_cat(&[&level, &slope, &slopes(&slope)?], 1)?;
        // A position is of 400 samples from 320 n on; the middle of frame 2 n + 1 is 40 samples from theirs.
        Ok(all.f_slice(2, 1, None, 2)?.f_narrow(2, 0, positions)?.f_transpose(1, 2)?)
    }
}

/// The derivative over time by regression on five frames, the ends repeated: torchaudio's `compute_deltas`.
///
/// # Shapes
/// `x`: `[B, F, N]`; returns the same.
fn slopes(x: &Tensor) -> Result<Tensor> {
    let frames = x.size().last().copied().unwrap_or(0);
    let padded = x.f_replication_pad1d([2, 2])?;
    let at = |from: i64| padded.f_narrow(2, from, frames);
    let far = at(4)?.f_sub(&at(0)?)?.f_mul_scalar(2.)?;
    Ok(at(3)?.f_sub(&at(1)?)?.f_add(&far)?.f_div_scalar(10.)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn cepstra_rise_with_the_sound_and_stand_at_the_positions_of_the_encoder() {
        let x = Tensor::from_slice(&[0f32, 1., 4., 9., 16., 25.]).view([1, 1, 6]);
        let found = Vec::<f32>::try_from(slopes(&x).unwrap().view([6])).unwrap();
        // Sums of k (x[n + k] - x[n - k]) for k of 1 and 2, over 10; the ends count as often as needed.
        for (found, expected) in found.iter().zip([0.9, 2.2, 4., 6., 5.8, 4.1]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let cepstra = Cepstra::new(16_000, Device::Cpu).unwrap();
        let click = Tensor::zeros([1, 6_400], (Kind::Float, Device::Cpu));
        let _ = click.narrow(1, 320 * 9 + 200, 1).fill_(0.9);
        let found = cepstra.forward(&click, 19).unwrap();
        assert_eq!(found.size(), [1, 19, 3 * CEPSTRA]);
        assert_eq!(found.select(2, 0).argmax(1, false).int64_value(&[0]), 9);
    }
}
