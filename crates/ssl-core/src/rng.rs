//! Randomness as a function of position: one generator per (seed, stream), nothing to save.
//!
//! ```
//! use ssl_core::{rng, Rng};
//! use rand::RngExt;
//! let (epoch, example) = (3, 42);
//! let mut a = rng(7, &[epoch, example]);
//! let mut b = rng(7, &[epoch, example]);
//! assert_eq!(a.random::<u64>(), b.random::<u64>());
//! ```
use rand::SeedableRng;

/// The generator of everything that happens outside libtorch: fast, seedable, the same on every platform.
pub type Rng = rand_chacha::ChaCha8Rng;

/// A generator that depends on `seed` and on every number of `stream`, and on nothing else.
///
/// The first number says what the stream is for, so that streams of different uses never coincide: 1 and up in
/// `ssl-vision`, 101 and up in the examples, 201 and up in [`eval`](crate::eval), 221 and up in
/// [`bias`](crate::bias).
pub fn rng(seed: u64, stream: &[u64]) -> Rng {
    Rng::seed_from_u64(stream.iter().fold(seed, |state, &part| mix(state, part)))
}

/// SplitMix64 of a seed and a position in its stream.
///
/// # Source
/// Steele, Lea, Flood, 2014, figure 16: <https://doi.org/10.1145/2714064.2660195>.
pub fn mix(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Where `place` of a random order of `0..len` points: a permutation that needs no memory, one for each `key`.
///
/// A Feistel network over the next power of four, followed until it falls below `len`.
///
/// # Source
/// Black & Rogaway, 2002, sections 4 and 5: <https://doi.org/10.1007/3-540-45760-7_9>.
pub fn permuted(place: u64, len: u64, key: u64) -> u64 {
    if len < 2 {
        return 0;
    }
    let half = (u64::BITS - (len - 1).leading_zeros()).div_ceil(2);
    let low = (1u64 << half) - 1;
    let mut at = place % len;
    loop {
        let (mut left, mut right) = (at >> half, at & low);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(key ^ (round << 60), right) & low));
        }
        at = left << half | right;
        if at < len {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn streams_differ_in_every_number_and_in_its_place() {
        let draw = |seed, stream: &[u64]| rng(seed, stream).random::<u64>();
        let all = [draw(1, &[2, 3]), draw(1, &[3, 2]), draw(1, &[2, 4]), draw(2, &[2, 3]), draw(1, &[2])];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(draw(1, &[2, 3]), all[0]);
    }

    #[test]
    fn an_order_without_memory_has_every_place_once_and_differs_by_key() {
        for len in [1u64, 2, 3, 7, 64, 1000] {
            let order = |key| (0..len).map(|place| permuted(place, len, key)).collect::<Vec<_>>();
            let mut sorted = order(5);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>());
            assert!(len < 64 || order(5) != order(6));
        }
        // Neighbours part: a step of one is as rare as any other.
        let steps = (0..9999).filter(|&i| permuted(i, 10_000, 1) + 1 == permuted(i + 1, 10_000, 1)).count();
        assert!(steps < 10, "{steps}");
    }
}
