//! Reverberation without a recorded room: the direct sound, followed by noise that falls exponentially.
//!
//! Source: Moorer, 1979, "About this reverberation business", Computer Music Journal 3(2), pages 13 to 28: such noise is
//! what the answer of a concert hall sounds like.
use super::Reverb;
use super::fourier::convolve;
use crate::level::mean_square;
use crate::random::normal;
use ssl_core::{Result, Rng};

/// The answer of a room to a click, of which the direct sound is the first sample, 1.
fn impulse(reverb: Reverb, sample_rate: u32, most: usize, rng: &mut Rng) -> Vec<f32> {
    let frames = reverb.seconds * sample_rate as f32;
    let count = (frames.ceil() as usize).clamp(2, most.max(2));
    // The amplitude falls to a thousandth, by 60 decibels.
    let fall = (-(1000f32.ln()) / frames.max(1.0)).exp();
    let mut height = 1.0;
    let mut answer = normal(rng, count);
    for sample in answer.iter_mut().skip(1) {
        height *= fall;
        *sample *= height;
    }
    let energy: f32 = answer.iter().skip(1).map(|sample| sample * sample).sum();
    let factor = (10f32.powf(-reverb.decibels / 10.0) / energy.max(f32::MIN_POSITIVE)).sqrt();
    answer.iter_mut().for_each(|sample| *sample *= factor);
    if let Some(direct) = answer.first_mut() {
        *direct = 1.0;
    }
    answer
}

/// Puts the sound into a room; its level stays, and what would sound on behind its end is cut off.
pub(super) fn apply(sound: &mut Vec<f32>, reverb: Reverb, sample_rate: u32, rng: &mut Rng) -> Result<()> {
    let before = mean_square(sound);
    let answer = impulse(reverb, sample_rate, sound.len(), rng);
    *sound = convolve(sound, &answer, sound.len())?;
    let after = mean_square(sound);
    if after > 0.0 {
        crate::level::scale(sound, (before / after).sqrt() as f32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::rms_decibels;

    const ROOM: Reverb = Reverb { seconds: 0.2, decibels: 6.0 };

    #[test]
    fn the_answer_falls_by_60_decibels_in_its_time_and_has_the_energy_that_was_asked_for() {
        let answer = impulse(ROOM, 16_000, usize::MAX, &mut ssl_core::rng(0, &[]));
        assert_eq!((answer.len(), answer[0]), (3_200, 1.0));
        let energy: f32 = answer[1..].iter().map(|sample| sample * sample).sum();
        assert!((10.0 * energy.log10() + 6.0).abs() < 1e-2);
        // From the middle of the first eighth to that of the last one, seven eighths of the time.
        let fall = rms_decibels(&answer[1..400]) - rms_decibels(&answer[2_800..]);
        assert!((fall - 52.5).abs() < 1.5, "{fall}");
    }

    #[test]
    fn a_click_sounds_on_at_the_same_level_and_silence_stays_silent() {
        let mut click = vec![0.0; 2_000];
        click[500] = 1.0;
        let before = click.clone();
        apply(&mut click, ROOM, 16_000, &mut ssl_core::rng(0, &[])).unwrap();
        assert!(
            click[..500].iter().all(|sample| sample.abs() < 1e-4)
                && click[510..600].iter().any(|x| x.abs() > 1e-3)
        );
        assert!((mean_square(&click) / mean_square(&before) - 1.0).abs() < 1e-3);
        let mut silence = vec![0.0; 100];
        apply(&mut silence, ROOM, 16_000, &mut ssl_core::rng(0, &[])).unwrap();
        assert_eq!(silence, [0.0; 100]);
    }
}
