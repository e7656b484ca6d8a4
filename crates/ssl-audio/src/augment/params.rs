//! The random numbers of one view.
use super::{Augment, Noise};
use crate::random::{below, between, chance, unit};
use ssl_core::Rng;

/// Reverberation of a room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reverb {
    /// Time in which it falls by 60 decibels, in seconds.
    pub seconds: f32,
    /// Level of the direct sound over it, in decibels.
    pub decibels: f32,
}

/// The random numbers of one view; where a part of it does not happen, none.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Speed, in hundredths.
    pub speed: Option<u32>,
    /// Reverberation.
    pub reverb: Option<Reverb>,
    /// Part of another clip.
    pub mix: Option<f32>,
    /// Level of the sound over the noise, in decibels.
    pub noise: Option<f32>,
    /// Change of the loudness, in decibels.
    pub gain: Option<f32>,
    /// Whether the sign changes.
    pub is_inverted: bool,
    /// What the noise and the reverberation are made from.
    pub seed: u64,
}

impl Params {
    /// Draws as many numbers whatever happens, so that a probability does not move what is drawn after it.
    pub fn draw(config: &Augment, rng: &mut Rng) -> Self {
        let speed = (chance(rng, config.speed_probability), between(rng, config.speed));
        let reverb = chance(rng, config.reverb_probability);
        let room = Reverb {
            seconds: between(rng, config.reverb_seconds),
            decibels: between(rng, config.reverb_decibels),
        };
        let mix = (chance(rng, config.mix_probability), unit(rng) * config.mix_part);
        let noise = (chance(rng, config.noise_probability), between(rng, config.noise_decibels));
        let gain = (chance(rng, config.gain_probability), between(rng, config.gain_decibels));
        Params {
            speed: speed.0.then_some((speed.1 * 100.0).round() as u32).filter(|&speed| speed != 100),
            reverb: reverb.then_some(room),
            mix: mix.0.then_some(mix.1),
            noise: noise.0.then_some(noise.1),
            gain: gain.0.then_some(gain.1),
            is_inverted: chance(rng, config.polarity_probability),
            seed: below(rng, u64::MAX),
        }
    }

    /// Whether a window of another clip enters the view.
    pub fn needs_other(&self, config: &Augment) -> bool {
        self.mix.is_some() || self.noise.is_some() && config.noise == Noise::Clips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_does_not_move_what_is_drawn_after_it() {
        let draw = |config: &Augment| Params::draw(config, &mut ssl_core::rng(4, &[]));
        let all = Augment {
            speed_probability: 1.0,
            reverb_probability: 1.0,
            noise_probability: 1.0,
            gain_probability: 1.0,
            ..Augment::default().with_mix(0.4)
        };
        let (all, few) = (draw(&all), draw(&Augment { gain_probability: 1.0, ..Augment::default() }));
        assert!(all.speed.is_some() && all.reverb.is_some() && all.mix.is_some() && all.noise.is_some());
        assert_eq!(few, Params { speed: None, reverb: None, mix: None, noise: None, ..all });
    }
}
