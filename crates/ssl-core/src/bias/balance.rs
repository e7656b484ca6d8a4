//! Draws in which all groups are equally frequent, whatever their sizes: a pure function of (seed, epoch, place).
//!
//! ```
//! use ssl_core::bias::Balance;
//! let balance = Balance::new(&[0, 0, 0, 0, 0, 7])?;
//! let drawn: Vec<usize> = (0..6).map(|place| balance.draw(1, 0, place).index).collect();
//! assert_eq!(drawn.iter().filter(|&&index| index == 5).count(), 3);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use super::stream;
use crate::{Error, Result, mix, permuted};
use std::collections::BTreeMap;

/// The examples of each group.
#[derive(Debug, Clone)]
pub struct Balance {
    members: Vec<Vec<usize>>,
}

/// An example that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The example.
    pub index: usize,
    /// How often the epoch has had it before.
    pub round: usize,
}

impl Balance {
    /// Draws from examples of these groups.
    ///
    /// # Errors
    /// `Error::Config` when there are fewer than 2 groups.
    pub fn new(groups: &[i64]) -> Result<Self> {
        let mut members: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, &group) in groups.iter().enumerate() {
            members.entry(group).or_default().push(index);
        }
        if members.len() < 2 {
            let message = format!("expected at least 2 to balance, got {}", members.len());
            return Err(Error::config("groups", message));
        }
        Ok(Balance { members: members.into_values().collect() })
    }

    /// The example at a place of an epoch.
    ///
    /// Of as many neighboring places as there are groups, from a multiple of their number on, each group has one, in
    /// random order. The examples of a group come in random order, and all of them before one comes again: an epoch shows
    /// a part of a large group, and a small one several times.
    pub fn draw(&self, seed: u64, epoch: u64, place: u64) -> Drawn {
        let groups = self.members.len() as u64;
        let key = |stream: u64, number: u64| mix(mix(mix(seed, stream), epoch), number);
        let turn = place / groups;
        let group = permuted(place % groups, groups, key(stream::TURN, turn));
        let members = self.members.get(group as usize).map(Vec::as_slice).unwrap_or_default();
        let count = members.len().max(1) as u64;
        let round = turn / count;
        let at = permuted(turn % count, count, mix(key(stream::MEMBER, group), round));
        Drawn { index: members.get(at as usize).copied().unwrap_or(0), round: round as usize }
    }

    /// The places of an epoch of `len` in their order: an example that comes for the n-th time again is its number plus n
    /// times the number of examples, so that it can be told from the first.
    pub fn order(&self, seed: u64, epoch: u64, len: usize) -> Vec<usize> {
        let examples: usize = self.members.iter().map(Vec::len).sum();
        let entry = |place| {
            let Drawn { index, round } = self.draw(seed, epoch, place);
            index + round * examples
        };
        (0..len as u64).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// 90 examples of group 3, 9 of group -1, one of group 8.
    fn groups() -> Vec<i64> {
        (0..100)
            .map(|i| {
                if i == 50 {
                    8
                } else if i % 11 == 10 {
                    -1
                } else {
                    3
                }
            })
            .collect()
    }

    #[test]
    fn every_group_has_a_third_of_every_stretch() {
        let (groups, balance) = (groups(), Balance::new(&groups()).unwrap());
        let drawn: Vec<i64> = (0..99).map(|place| groups[balance.draw(5, 2, place).index]).collect();
        for three in drawn.chunks(3) {
            assert_eq!(three.iter().collect::<HashSet<_>>().len(), 3, "{three:?}");
        }
        assert!(drawn.chunks(3).any(|three| three != &drawn[..3]), "in random order");
    }

    #[test]
    fn an_example_comes_again_after_all_others_of_its_group_and_is_told_from_the_first() {
        let (groups, balance) = (groups(), Balance::new(&groups()).unwrap());
        let order = balance.order(5, 2, 99);
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 99, "each entry once");
        let of = |group: i64| order.iter().filter(|&&entry| groups[entry % 100] == group).collect::<Vec<_>>();
        for (group, count) in [(3, 90), (-1, 9), (8, 1)] {
            for (round, part) in of(group).chunks(count).enumerate() {
                assert!(part.iter().all(|&&entry| entry / 100 == round), "{part:?}");
            }
        }
        assert_eq!((of(3).len(), of(-1).len(), of(8).len()), (33, 33, 33));
    }

    #[test]
    fn the_order_depends_on_the_seed_and_the_epoch_alone() {
        let of = |seed, epoch| Balance::new(&groups()).unwrap().order(seed, epoch, 60);
        assert_eq!(of(5, 2), of(5, 2));
        assert!(of(5, 2) != of(5, 3) && of(5, 2) != of(6, 2));
        assert_eq!(of(5, 2)[..30], Balance::new(&groups()).unwrap().order(5, 2, 30));
    }

    #[test]
    fn one_group_cannot_be_balanced() {
        assert_eq!(
            Balance::new(&[4, 4]).unwrap_err().to_string(),
            "groups: expected at least 2 to balance, got 1"
        );
    }
}
