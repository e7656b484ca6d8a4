//! Fourier transforms of real samples; the plans of each length are kept by each thread.
use realfft::num_complex::Complex;
use realfft::{FftError, RealFftPlanner};
use ssl_core::{Error, Result};
use std::cell::RefCell;

thread_local! {
    static PLANNER: RefCell<RealFftPlanner<f32>> = RefCell::new(RealFftPlanner::new());
}

fn failed(error: FftError) -> Error {
    Error::config("samples", format!("expected a length that can be transformed: {error}"))
}

/// The spectrum of samples: half their number, and one more.
pub(super) fn spectrum(mut samples: Vec<f32>) -> Result<Vec<Complex<f32>>> {
    let plan = PLANNER.with_borrow_mut(|planner| planner.plan_fft_forward(samples.len()));
    let mut out = plan.make_output_vec();
    plan.process(&mut samples, &mut out).map_err(failed)?;
    Ok(out)
}

/// The `count` samples of a spectrum, multiplied by `count`.
pub(super) fn samples(mut spectrum: Vec<Complex<f32>>, count: usize) -> Result<Vec<f32>> {
    let plan = PLANNER.with_borrow_mut(|planner| planner.plan_fft_inverse(count));
    // Of real samples both ends are real; rounding must not make them otherwise.
    if let Some(first) = spectrum.first_mut() {
        first.im = 0.0;
    }
    if count.is_multiple_of(2)
        && let Some(last) = spectrum.last_mut()
    {
        last.im = 0.0;
    }
    let mut out = plan.make_output_vec();
    plan.process(&mut spectrum, &mut out).map_err(failed)?;
    Ok(out)
}

/// The first `count` samples of the convolution of two runs of samples.
pub(super) fn convolve(a: &[f32], b: &[f32], count: usize) -> Result<Vec<f32>> {
    let length = (a.len() + b.len()).next_power_of_two();
    let padded = |samples: &[f32]| {
        let mut padded = samples.to_vec();
        padded.resize(length, 0.0);
        spectrum(padded)
    };
    let product = padded(a)?.iter().zip(padded(b)?).map(|(a, b)| a * b / length as f32).collect();
    let mut out = samples(product, length)?;
    out.truncate(count);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_is_the_sum_of_products() {
        let out = convolve(&[1.0, 2.0, 3.0], &[1.0, -1.0, 0.5], 5).unwrap();
        for (out, expected) in out.iter().zip([1.0, 1.0, 1.5, -2.0, 1.5]) {
            assert!((out - expected).abs() < 1e-5, "{out} {expected}");
        }
    }
}
