//! Recordings made worse, at five severities.
//!
//! Source: the speeds are around those of Ko et al., 2015: <https://doi.org/10.21437/Interspeech.2015-711>.
use ssl_core::{Result, dims2};
use ssl_examples::{noise_like, strength_of};
use tch::{Kind, Tensor};

/// What can be done to recordings.
pub(crate) const NAMES: [&str; 2] = ["noise", "time_stretch"];
/// From mild to severe: how much louder the recording is than the noise, in decibels; and how much faster it is played,
/// which also raises its pitch.
const STRENGTHS: [[f64; 5]; 2] = [[20., 15., 10., 5., 0.], [1.05, 1.1, 1.2, 1.35, 1.5]];

/// Recordings at a severity from 1 to 5; `indices` are their numbers, to which the noise belongs. What is shorter than it
/// was is followed by silence.
///
/// # Shapes
/// `x`: `[B, T]`; returns the same.
pub(crate) fn corrupt(
    x: &Tensor,
    name: &str,
    severity: usize,
    (indices, seed): (&[usize], u64),
) -> Result<Tensor> {
    let (_, samples) = dims2(x, "recordings", "[B, T]")?;
    let strength = strength_of((&NAMES, &STRENGTHS), name, severity)?;
    if name == "noise" {
        let power = x.f_square()?.f_mean_dim([1i64].as_slice(), true, Kind::Float)?;
        let level = power.f_div_scalar(10f64.powf(strength / 10.))?.f_sqrt()?;
        return Ok(x.f_add(&noise_like(x, indices, seed)?.f_mul(&level)?)?);
    }
    let short = (samples as f64 / strength).round() as i64;
    let played = x.f_unsqueeze(1)?.f_upsample_linear1d([short], false, None)?.f_squeeze_dim(1)?;
    Ok(played.f_constant_pad_nd([0, samples - short])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Two tones of 400 samples, of 10 and 20 waves.
    fn tones() -> Tensor {
        let time = Tensor::arange(400, (Kind::Float, Device::Cpu)) * std::f64::consts::TAU / 400.;
        Tensor::stack(&[(&time * 10.).sin(), (&time * 20.).sin() * 0.1], 0)
    }

    #[test]
    fn noise_is_as_loud_as_it_is_to_be_whatever_the_level() {
        for (severity, decibels) in [(1, 20.), (5, 0.)] {
            let x = tones();
            let noise = corrupt(&x, "noise", severity, (&[3, 8], 0)).unwrap() - &x;
            let power = |x: &Tensor| x.square().mean_dim([1i64].as_slice(), false, Kind::Double);
            let ratio = Vec::<f64>::try_from((power(&x) / power(&noise)).log10() * 10).unwrap();
            assert!(ratio.iter().all(|ratio: &f64| (ratio - decibels).abs() < 1.), "{ratio:?}");
        }
        let own = |numbers: &[usize]| corrupt(&tones().narrow(0, 0, 1), "noise", 1, (numbers, 0)).unwrap();
        assert!(own(&[3]).equal(&corrupt(&tones(), "noise", 1, (&[3, 8], 0)).unwrap().narrow(0, 0, 1)));
        assert!(!own(&[3]).equal(&own(&[4])));
    }

    #[test]
    fn a_faster_tone_is_higher_and_ends_in_silence() {
        let x = corrupt(&tones(), "time_stretch", 5, (&[0, 1], 0)).unwrap();
        assert_eq!(x.size(), [2, 400]);
        let first = Vec::<f32>::try_from(x.get(0)).unwrap();
        assert!(first[267..].iter().all(|sample| *sample == 0.));
        let crossings = first[..267].windows(2).filter(|pair| pair[0] < 0. && pair[1] >= 0.).count();
        assert!((9..=10).contains(&crossings), "{crossings}");
        let message = corrupt(&tones(), "echo", 1, (&[0, 1], 0)).unwrap_err().to_string();
        assert!(
            message.ends_with("expected noise, time_stretch at a severity from 1 to 5, got echo at 1"),
            "{message}"
        );
    }
}
