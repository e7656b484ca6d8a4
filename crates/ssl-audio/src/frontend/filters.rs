//! The mel scales, and the triangles that lie on them.
//!
//! Source: O'Shaughnessy, 1987 (HTK's scale, 2595 log10(1 + f/700)); Slaney, 1998, "Auditory toolbox" (linear below
//! 1 kHz, logarithmic above); as torchaudio's `melscale_fbanks` and librosa's `filters.mel`.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where hertz lie on the mel scale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MelScale {
    /// Logarithmic, as in HTK; torchaudio's default.
    #[default]
    Htk,
    /// Linear below 1 kHz, as in Slaney's toolbox; librosa's default.
    Slaney,
}

/// How high the triangles are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MelNorm {
    /// 1; torchaudio's default.
    #[default]
    None,
    /// Such that all have one area; librosa's default.
    Slaney,
}

/// Mels per hertz below 1 kHz, and mels there.
const LINEAR: (f64, f64) = (3. / 200., 15.);
/// Frequency at which the logarithmic part begins, in hertz.
const BEND: f64 = 1000.;

impl MelScale {
    fn mel(self, hertz: f64) -> f64 {
        match self {
            MelScale::Htk => 2595. * (1. + hertz / 700.).log10(),
            MelScale::Slaney if hertz < BEND => hertz * LINEAR.0,
            MelScale::Slaney => LINEAR.1 + (hertz / BEND).ln() / slaney_step(),
        }
    }

    fn hertz(self, mel: f64) -> f64 {
        match self {
            MelScale::Htk => 700. * (10f64.powf(mel / 2595.) - 1.),
            MelScale::Slaney if mel < LINEAR.1 => mel / LINEAR.0,
            MelScale::Slaney => BEND * ((mel - LINEAR.1) * slaney_step()).exp(),
        }
    }
}

fn slaney_step() -> f64 {
    6.4f64.ln() / 27.
}

/// Evenly spaced numbers, both ends included.
fn spaced(from: f64, to: f64, count: usize) -> Vec<f64> {
    let step = (to - from) / (count.max(2) - 1) as f64;
    (0..count).map(|n| from + n as f64 * step).collect()
}

/// The weight of each of `bins` frequencies from 0 to `nyquist` in each of `mels` triangles from `low` to `high`,
/// triangle by triangle; hertz.
pub(super) fn triangles(
    (scale, norm): (MelScale, MelNorm),
    (mels, bins): (usize, usize),
    nyquist: f64,
    (low, high): (f64, f64),
) -> Vec<f32> {
    let corners: Vec<f64> =
        spaced(scale.mel(low), scale.mel(high), mels + 2).into_iter().map(|mel| scale.hertz(mel)).collect();
    let frequencies = spaced(0., nyquist, bins);
    let triangle = |corners: &[f64]| -> Vec<f32> {
        let [left, middle, right] = *corners else { return Vec::new() };
        let height = match norm {
            MelNorm::None => 1.,
            MelNorm::Slaney => 2. / (right - left),
        };
        let weight = |hertz: &f64| {
            let (up, down) = ((hertz - left) / (middle - left), (right - hertz) / (right - middle));
            (up.min(down).max(0.) * height) as f32
        };
        frequencies.iter().map(weight).collect()
    };
    corners.windows(3).flat_map(triangle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scales_go_there_and_back() {
        // librosa.hz_to_mel([60, 1000, 8000]) and with htk=True.
        for (scale, mels) in
            [(MelScale::Slaney, [0.9, 15., 45.245641]), (MelScale::Htk, [92.681858, 999.985537, 2840.023047])]
        {
            for (hertz, mel) in [60., 1000., 8000.].into_iter().zip(mels) {
                assert!((scale.mel(hertz) - mel).abs() < 1e-3, "{scale:?} {hertz}: {}", scale.mel(hertz));
                assert!((scale.hertz(scale.mel(hertz)) - hertz).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn triangles_of_the_slaney_norm_have_one_area() {
        let weights = triangles((MelScale::Htk, MelNorm::Slaney), (5, 4001), 8000., (100., 8000.));
        for triangle in weights.chunks(4001) {
            let area: f32 = triangle.iter().sum::<f32>() * 2.;
            assert!((area - 1.).abs() < 1e-3, "{area}");
        }
    }
}
