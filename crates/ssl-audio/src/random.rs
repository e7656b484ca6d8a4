//! Draws from the generator that is passed, written out so that no library's change of algorithm changes a run.
use rand::Rng as _;
use ssl_core::Rng;
use std::f32::consts::TAU;

/// A number from 0 to below 1.
pub(crate) fn unit(rng: &mut Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / 16_777_216.0
}

/// A number between two.
pub(crate) fn between(rng: &mut Rng, [low, high]: [f32; 2]) -> f32 {
    low + (high - low) * unit(rng)
}

/// Whether something of this probability happens.
pub(crate) fn chance(rng: &mut Rng, probability: f32) -> bool {
    unit(rng) < probability
}

/// A whole number below `end`, or 0.
pub(crate) fn below(rng: &mut Rng, end: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(end)) >> 64) as u64
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

/// Independent draws from the normal distribution of mean 0 and variance 1, by Box and Muller's transform.
pub(crate) fn normal(rng: &mut Rng, count: usize) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count + 1);
    while numbers.len() < count {
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
        let (sin, cos) = (TAU * unit(rng)).sin_cos();
        numbers.extend([radius * cos, radius * sin]);
    }
    numbers.truncate(count);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shuffles_are_permutations(n in 0_usize..50, seed: u64) {
            let mut items: Vec<usize> = (0..n).collect();
            shuffle(&mut ssl_core::rng(seed, &[]), &mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let numbers = normal(&mut ssl_core::rng(0, &[]), 40_001);
        assert_eq!(numbers.len(), 40_001);
        let moment = |power: i32| numbers.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / 40_001.0;
        for (power, expected, off) in [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.08), (4, 3.0, 0.2)] {
            assert!((moment(power) - expected).abs() < off, "{power}: {}", moment(power));
        }
    }
}
