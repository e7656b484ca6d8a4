//! Draws from the generator that is passed, written out so that no library's change of algorithm changes a run.
use rand::Rng as _;
use ssl_core::{Result, Rng};
use std::f32::consts::TAU;
use tch::{Device, Kind, Tensor};

/// The stream of random numbers of [`Chance::Fixed`].
const FIXED: u64 = 404;

/// Where the random numbers of a forward pass come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chance {
    /// libtorch's generator, which the trainer seeds.
    Generator,
    /// The same at every call, so that held-out numbers can be compared.
    Fixed,
}

impl Chance {
    /// Numbers from 0 to below 1; `use_` tells draws of one forward pass from each other.
    pub(crate) fn uniform(self, shape: &[i64], use_: u64, device: Device) -> Result<Tensor> {
        match self {
            Chance::Generator => Ok(Tensor::f_rand(shape, (Kind::Float, device))?),
            Chance::Fixed => {
                let mut rng = ssl_core::rng(0, &[FIXED, use_]);
                let numbers: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| unit(&mut rng)).collect();
                Ok(Tensor::f_from_slice(&numbers)?.f_view(shape)?.f_to_device(device)?)
            }
        }
    }

    /// Whole numbers below `end`.
    pub(crate) fn below(self, end: i64, shape: &[i64], use_: u64, device: Device) -> Result<Tensor> {
        let numbers = self.uniform(shape, use_, device)?.f_mul_scalar(end as f64)?;
        Ok(numbers.f_to_kind(Kind::Int64)?.f_clamp_max(end - 1)?)
    }
}

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
