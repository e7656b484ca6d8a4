//! Draws from the generator that is passed, written out so that no library's change of algorithm changes a run.
use rand::Rng as _;
use ssl_core::Rng;

/// A number from 0 to below 1.
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number between two.
pub(crate) fn between(rng: &mut Rng, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * unit(rng)
}

/// Whether something of this probability happens.
pub(crate) fn chance(rng: &mut Rng, probability: f32) -> bool {
    unit(rng) < f64::from(probability)
}

/// A whole number below `end`, or 0.
pub(crate) fn below(rng: &mut Rng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_are_permutations_and_draws_fill_their_ranges() {
        let mut rng = ssl_core::rng(0, &[]);
        let mut items: Vec<usize> = (0..50).collect();
        shuffle(&mut rng, &mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..50));
        assert_eq!(below(&mut rng, 0), 0);
        let mut seen = [0; 5];
        (0..500).for_each(|_| seen[below(&mut rng, 5)] += 1);
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
        let numbers: Vec<f64> = (0..500).map(|_| between(&mut rng, [2.0, 4.0])).collect();
        assert!(numbers.iter().all(|x| (2.0..4.0).contains(x)));
        assert!((numbers.iter().sum::<f64>() / 500.0 - 3.0).abs() < 0.1);
        assert!((0..500).filter(|_| chance(&mut rng, 0.2)).count().abs_diff(100) < 35);
    }
}
