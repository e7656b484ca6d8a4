//! Gaussian blur of one plane, edges reflected.
//!
//! Source: torchvision, `transforms/v2/functional/_misc.py`, `gaussian_blur`. Weights below a millionth of the
//! middle one are left out: a sigma of 0.5 needs 7 of 23.
use multiversion::multiversion;

/// Columns that are summed in registers.
const BLOCK: usize = 32;
/// The part of the middle weight below which weights are left out.
const NEGLIGIBLE: f32 = 1e-6;

/// What a blur needs besides the plane; kept between images.
#[derive(Debug, Default)]
pub(crate) struct Blur {
    weights: Vec<f32>,
    padded: Vec<f32>,
    middle: Vec<f32>,
}

impl Blur {
    /// Blurs each plane of `width` columns in place.
    ///
    /// The kernel has `side` weights (odd, at most twice the plane's sides); `sigma` is in pixels.
    pub(crate) fn run(&mut self, planes: &mut [f32], width: usize, height: usize, side: usize, sigma: f32) {
        half_kernel(&mut self.weights, side, sigma);
        self.middle.resize(width * height, 0.0);
        for plane in planes.chunks_exact_mut(width * height) {
            blur(plane, width, &self.weights, &mut self.padded, &mut self.middle);
        }
    }
}

/// The weights from the middle outward; the whole kernel sums to 1.
pub(crate) fn half_kernel(weights: &mut Vec<f32>, side: usize, sigma: f32) {
    // torchvision's points are a square root of two closer, and its exponent lacks the one half.
    let weight = |distance: usize| (-0.5 * (distance as f32 / sigma).powi(2)).exp();
    weights.clear();
    weights.extend((0..=side / 2).map(weight).take_while(|&weight| weight >= NEGLIGIBLE));
    let sum = 2.0 * weights.iter().sum::<f32>() - 1.0;
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+avx512f+avx512bw+avx512vl+avx512dq",
    "x86_64+avx+avx2+bmi1+bmi2"
))]
fn blur(plane: &mut [f32], width: usize, weights: &[f32], padded: &mut Vec<f32>, middle: &mut [f32]) {
    let reach = weights.len() - 1;
    if reach == 0 {
        return;
    }
    for (row, out) in plane.chunks_exact(width).zip(middle.chunks_exact_mut(width)) {
        padded.clear();
        padded.extend(row.iter().skip(1).take(reach).rev());
        padded.extend(row);
        padded.extend(row.iter().rev().skip(1).take(reach));
        let taps = |tap: usize| padded.get(tap..tap + width).unwrap_or_default();
        weigh(weights, &taps, out);
    }
    let height = middle.len() / width;
    for (y, out) in plane.chunks_exact_mut(width).enumerate() {
        // Rows above the first and below the last are reflected.
        let taps = |tap: usize| {
            let row = (y + tap).abs_diff(reach);
            let row = if row < height { row } else { 2 * (height - 1) - row };
            middle.get(row * width..(row + 1) * width).unwrap_or_default()
        };
        weigh(weights, &taps, out);
    }
}

/// One output row: the weighted sum of `2 reach + 1` rows, of which `taps` gives the n-th.
#[inline(always)]
fn weigh<'a>(weights: &[f32], taps: &impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    let Some((&first, rest)) = weights.split_first() else { return };
    let reach = rest.len();
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let columns = block * BLOCK..block * BLOCK + out.len();
        if let Ok(out) = <&mut [f32; BLOCK]>::try_from(&mut *out) {
            let part = |tap: usize| -> &[f32; BLOCK] {
                taps(tap).get(columns.clone()).and_then(|part| part.try_into().ok()).unwrap_or(&[0.0; BLOCK])
            };
            let mut sum = part(reach).map(|x| first * x);
            for (&weight, distance) in rest.iter().zip(1..) {
                let both = part(reach - distance).iter().zip(part(reach + distance));
                for (sum, (a, b)) in sum.iter_mut().zip(both) {
                    *sum += weight * (a + b);
                }
            }
            *out = sum;
        } else {
            let part = |tap: usize| taps(tap).get(columns.clone()).unwrap_or_default();
            for (out, x) in out.iter_mut().zip(part(reach)) {
                *out = first * x;
            }
            for (&weight, distance) in rest.iter().zip(1..) {
                let both = part(reach - distance).iter().zip(part(reach + distance));
                for (out, (a, b)) in out.iter_mut().zip(both) {
                    *out += weight * (a + b);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_plane_stays_and_a_point_spreads_evenly() {
        let mut blur = Blur::default();
        let mut flat = vec![0.25; 40 * 37];
        blur.run(&mut flat, 40, 37, 23, 2.0);
        assert!(flat.iter().all(|x| (x - 0.25).abs() < 1e-5));
        let mut point = vec![0.0; 81];
        point[40] = 1.0;
        blur.run(&mut point, 9, 9, 3, 1.0);
        assert!((point.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!((point[39], point[31]), (point[41], point[49]));
        assert_eq!(point[38], 0.0);
    }

    #[test]
    fn a_small_sigma_needs_few_weights() {
        let mut weights = Vec::new();
        half_kernel(&mut weights, 23, 0.5);
        assert_eq!(weights.len(), 3);
        half_kernel(&mut weights, 23, 2.0);
        assert_eq!(weights.len(), 11);
    }
}
