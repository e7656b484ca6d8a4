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

    #[test]
    fn numbers_fill_their_ranges() {
        let config = Augment {
            speed_probability: 1.0,
            reverb_probability: 1.0,
            noise_probability: 0.5,
            ..Augment::default().with_mix(0.4)
        };
        let mut rng = ssl_core::rng(0, &[]);
        let all: Vec<Params> = (0..500).map(|_| Params::draw(&config, &mut rng)).collect();
        let filled = |numbers: Vec<f32>, [low, high]: [f32; 2]| {
            let (least, most) =
                (numbers.iter().fold(high, |a, b| a.min(*b)), numbers.iter().fold(low, |a, b| a.max(*b)));
            let margin = 0.06 * (high - low);
            assert!(
                least >= low && most <= high && least < low + margin && most > high - margin,
                "{least} to {most}"
            );
            numbers.len()
        };
        filled(all.iter().filter_map(|params| params.mix).collect(), [0.0, 0.4]);
        filled(
            all.iter().filter_map(|params| params.speed).map(|speed| speed as f32 / 100.0).collect(),
            config.speed,
        );
        filled(
            all.iter().filter_map(|params| params.reverb).map(|room| room.seconds).collect(),
            config.reverb_seconds,
        );
        let noisy = filled(all.iter().filter_map(|params| params.noise).collect(), config.noise_decibels);
        assert!((200..300).contains(&noisy), "{noisy}");
    }
}
