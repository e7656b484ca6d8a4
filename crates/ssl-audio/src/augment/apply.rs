//! One view of one window, on one thread.
use super::{Augment, Noise, Params, noise, reverb};
use crate::level::{amplitude, scale};
use crate::{Resampler, random};
use ssl_core::{Error, Result};

/// The streams of random numbers that the seed of a view feeds.
const REVERB: u64 = 1;
const NOISE: u64 = 2;

/// Makes views by one configuration.
#[derive(Debug)]
pub struct Augmenter {
    config: Augment,
    sample_rate: u32,
    /// For each speed in hundredths, from the first on.
    speeds: Vec<Resampler>,
    first: u32,
}

impl Augmenter {
    /// Prepares the views of sound of a rate, in hertz.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(config: Augment, sample_rate: u32) -> Result<Self> {
        config.validate()?;
        if sample_rate == 0 {
            return Err(Error::config("sample_rate", "expected at least 1 Hz, got 0"));
        }
        let [first, last] = config.speed.map(|speed| (speed * 100.0).round() as u32);
        let speeds = match config.speed_probability > 0.0 {
            true => (first..=last).map(|speed| Resampler::fast(speed, 100)).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        Ok(Augmenter { config, sample_rate, speeds, first })
    }

    /// The configuration.
    pub fn config(&self) -> &Augment {
        &self.config
    }

    fn resampler(&self, params: &Params) -> Option<&Resampler> {
        self.speeds.get(params.speed?.checked_sub(self.first)? as usize)
    }

    /// Samples of a clip that a view is made of.
    pub fn needs(&self, params: &Params) -> usize {
        match self.resampler(params) {
            Some(resampler) => {
                let (first, end) = resampler.needs(0, self.config.samples);
                end.abs_diff(first) as usize
            }
            None => self.config.samples,
        }
    }

    /// Makes the view that `params` describe of a window of [`Augmenter::needs`] samples, into as many samples as
    /// configured. `other` is a window of another clip, as long as the view, for what mixes it in.
    ///
    /// # Errors
    /// `Error::Config` when a length differs, or `other` is missing though [`Params::needs_other`].
    pub fn apply(
        &self,
        window: &[f32],
        params: &Params,
        other: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<()> {
        let count = self.config.samples;
        check("window", window.len(), self.needs(params))?;
        check("out", out.len(), count)?;
        let other = match (other, params.needs_other(&self.config)) {
            (Some(other), _) => {
                check("other", other.len(), count)?;
                other
            }
            (None, false) => &[],
            (None, true) => {
                return Err(Error::config("other", format!("expected {count} samples, got none")));
            }
        };
        let mut view = match self.resampler(params) {
            Some(resampler) => {
                let mut view = vec![0.0; count];
                resampler.part(window, resampler.needs(0, count).0, 0, &mut view);
                view
            }
            None => window.to_vec(),
        };
        if let Some(room) = params.reverb {
            reverb::apply(&mut view, room, self.sample_rate, &mut ssl_core::rng(params.seed, &[REVERB]))?;
        }
        if let Some(part) = params.mix {
            view.iter_mut().zip(other).for_each(|(sample, other)| *sample += part * (other - *sample));
        }
        if let Some(decibels) = params.noise {
            let rng: &mut ssl_core::Rng = &mut ssl_core::rng(params.seed, &[NOISE]);
            match self.config.noise {
                Noise::White => noise::add(&mut view, &random::normal(rng, count), decibels),
                Noise::Pink => noise::add(&mut view, &noise::pink(rng, count)?, decibels),
                Noise::Clips => noise::add(&mut view, other, decibels),
            }
        }
        let gain = params.gain.map_or(1.0, |decibels| amplitude(f64::from(decibels)));
        scale(&mut view, if params.is_inverted { -gain } else { gain });
        self.config.level.apply(&mut view);
        out.copy_from_slice(&view);
        Ok(())
    }
}

fn check(what: &str, got: usize, expected: usize) -> Result<()> {
    match got == expected {
        true => Ok(()),
        false => Err(Error::config(what, format!("expected {expected} samples, got {got}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, rms_decibels};

    const NOTHING: Params =
        Params { speed: None, reverb: None, mix: None, noise: None, gain: None, is_inverted: false, seed: 5 };

    fn view(
        config: Augment,
        params: &Params,
        window: impl Fn(f32) -> f32,
        other: Option<&[f32]>,
    ) -> Vec<f32> {
        let augmenter = Augmenter::new(config, 8_000).unwrap();
        let window: Vec<f32> = (0..augmenter.needs(params)).map(|n| window(n as f32)).collect();
        let mut out = vec![0.0; augmenter.config().samples];
        augmenter.apply(&window, params, other, &mut out).unwrap();
        out
    }

    #[test]
    fn a_view_to_which_nothing_happens_is_the_window() {
        assert_eq!(view(Augment::wave(5), &NOTHING, |n| n / 8.0, None), [0.0, 0.125, 0.25, 0.375, 0.5]);
    }

    #[test]
    fn another_speed_is_another_pitch() {
        let config = Augment { speed: [0.5, 1.25], ..Augment::wave(400) };
        for speed in [50, 80, 125] {
            let params = Params { speed: Some(speed), ..NOTHING };
            let resampler = Resampler::fast(speed, 100).unwrap();
            let first = resampler.needs(0, 400).0 as f32;
            let got = view(config.clone(), &params, |n| ((n + first) * 0.3).sin(), None);
            let far =
                got.iter().enumerate().map(|(n, x)| (x - (n as f32 * 0.003 * speed as f32).sin()).abs());
            assert!(far.fold(0.0, f32::max) < 2e-3, "{speed}");
        }
    }

    #[test]
    fn mixture_gain_polarity_and_level_are_as_drawn() {
        let mixed = Params { mix: Some(0.25), ..NOTHING };
        assert_eq!(view(Augment::crop(2), &mixed, |_| 1.0, Some(&[0.0, 1.0])), [0.75, 1.0]);
        let louder = Params { gain: Some(20.0), is_inverted: true, ..NOTHING };
        assert_eq!(view(Augment::crop(2), &louder, |n| n, None), [0.0, -10.0]);
        let config = Augment { level: Level::Rms { decibels: -30.0 }, ..Augment::crop(50) };
        assert!((rms_decibels(&view(config, &NOTHING, f32::sin, None)) + 30.0).abs() < 1e-3);
    }

    #[test]
    fn noise_depends_on_the_seed_and_on_nothing_else() {
        for noise in [Noise::White, Noise::Pink] {
            let config = Augment { noise, ..Augment::crop(100) };
            let noisy =
                |seed| view(config.clone(), &Params { noise: Some(10.0), seed, ..NOTHING }, f32::sin, None);
            assert_eq!(noisy(1), noisy(1));
            assert_ne!(noisy(1), noisy(2));
        }
        let config = Augment { noise: Noise::Clips, ..Augment::crop(3) };
        let noisy = view(config, &Params { noise: Some(0.0), ..NOTHING }, |_| 2.0, Some(&[1.0, -1.0, 1.0]));
        assert_eq!(noisy, [4.0, 0.0, 4.0]);
    }

    #[test]
    fn wrong_lengths_are_named() {
        let augmenter = Augmenter::new(Augment::crop(3), 8_000).unwrap();
        let apply = |window: &[f32], params: &Params, other: Option<&[f32]>| {
            augmenter.apply(window, params, other, &mut [0.0; 3]).unwrap_err().to_string()
        };
        assert_eq!(apply(&[0.0; 2], &NOTHING, None), "window: expected 3 samples, got 2");
        let mixed = Params { mix: Some(0.1), ..NOTHING };
        assert_eq!(apply(&[0.0; 3], &mixed, None), "other: expected 3 samples, got none");
        assert_eq!(apply(&[0.0; 3], &mixed, Some(&[0.0])), "other: expected 3 samples, got 1");
        assert!(Augmenter::new(Augment::crop(3), 0).is_err());
    }
}
