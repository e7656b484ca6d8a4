//! Noise at a level below the sound.
use super::fourier::{samples, spectrum};
use crate::level::mean_square;
use crate::random::normal;
use ssl_core::{Result, Rng};

/// Noise whose power falls as one over the frequency.
pub(super) fn pink(rng: &mut Rng, count: usize) -> Result<Vec<f32>> {
    let mut spectrum = spectrum(normal(rng, count.max(2)))?;
    for (n, value) in spectrum.iter_mut().enumerate() {
        // Nothing is left at frequency 0.
        *value *= if n == 0 { 0.0 } else { 1.0 / (n as f32).sqrt() };
    }
    let mut noise = samples(spectrum, count.max(2))?;
    noise.truncate(count);
    Ok(noise)
}

/// Adds noise such that the sound is `decibels` above it; nothing to silence, and nothing of silent noise.
pub(super) fn add(sound: &mut [f32], noise: &[f32], decibels: f32) {
    let (of_sound, of_noise) = (mean_square(sound), mean_square(noise));
    if of_noise <= 0.0 {
        return;
    }
    let factor = (of_sound / of_noise / 10f64.powf(f64::from(decibels) / 10.0)).sqrt() as f32;
    for (sound, noise) in sound.iter_mut().zip(noise) {
        *sound += factor * noise;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sound_is_as_far_above_the_noise_as_was_asked_for() {
        let mut rng = ssl_core::rng(0, &[]);
        let sound: Vec<f32> = (0..4_000).map(|n| 0.3 * (n as f32 * 0.05).sin()).collect();
        for decibels in [-5.0, 0.0, 20.0] {
            for noise in [normal(&mut rng, 4_000), pink(&mut rng, 4_000).unwrap()] {
                let mut noisy = sound.clone();
                add(&mut noisy, &noise, decibels);
                let added: Vec<f32> = noisy.iter().zip(&sound).map(|(a, b)| a - b).collect();
                let ratio = 10.0 * (mean_square(&sound) / mean_square(&added)).log10();
                assert!((ratio - f64::from(decibels)).abs() < 0.05, "{ratio}");
            }
        }
        let mut silence = vec![0.0; 10];
        add(&mut silence, &[1.0; 10], 0.0);
        add(&mut silence, &[0.0; 10], 0.0);
        assert_eq!(silence, [0.0; 10]);
    }

    #[test]
    fn each_octave_of_pink_noise_has_the_same_power() {
        let spectrum = spectrum(pink(&mut ssl_core::rng(1, &[]), 1 << 16).unwrap()).unwrap();
        let power = |octave: u32| -> f32 {
            spectrum[1 << octave..2 << octave].iter().map(|value| value.norm_sqr()).sum()
        };
        for octave in 8..14 {
            let ratio = power(octave) / power(octave + 1);
            assert!((0.7..1.4).contains(&ratio), "{octave}: {ratio}");
        }
    }
}
