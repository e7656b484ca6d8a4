//! The answers to the triplets of one cell: items of one context, and within one group where groups must agree.
use super::distance::{Frames, Scratch, distance};
use super::{AbxOptions, Distance, Mode};
use rand::Rng as _;
use rayon::prelude::*;
use ssl_core::{Rng, permuted};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// The stream of random numbers that triplets are drawn by.
const DRAWN: u64 = 421;
/// Distances that are held at once: 64 MiB.
pub(super) const MOST_HELD: usize = 1 << 24;

/// What is asked: whether X of `x_group` lies closer to A than to B, both of `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Question {
    pub(super) group: i64,
    pub(super) x_group: i64,
    /// The category of A and X.
    pub(super) category: i64,
    /// The category of B.
    pub(super) other: i64,
}

/// How often a question was answered, and wrongly.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    /// Wrong answers count 2, ties 1.
    wrong_halves: u64,
    pub(super) triplets: u64,
}

impl Answers {
    pub(super) fn error(self) -> f64 {
        self.wrong_halves as f64 / (2 * self.triplets) as f64
    }

    fn add(&mut self, other: Answers) {
        self.wrong_halves += other.wrong_halves;
        self.triplets += other.triplets;
    }
}

/// An item of a cell.
pub(super) struct Member<'a> {
    pub(super) frames: &'a Frames,
    pub(super) group: i64,
    pub(super) category: i64,
}

/// Places of the members of each group and category.
type Sets = BTreeMap<i64, BTreeMap<i64, Vec<usize>>>;

/// The members of a cell.
pub(super) struct Cell<'a> {
    members: Vec<Member<'a>>,
    sets: Sets,
    distance: Distance,
    mode: Mode,
}

impl<'a> Cell<'a> {
    pub(super) fn new(members: Vec<Member<'a>>, options: &AbxOptions) -> Self {
        let mut sets = Sets::new();
        for (place, member) in members.iter().enumerate() {
            sets.entry(member.group).or_default().entry(member.category).or_default().push(place);
        }
        Cell { members, sets, distance: options.distance, mode: options.mode }
    }

    /// The answers to all triplets, from at most `most_held` distances at once, or one row where it has more.
    pub(super) fn all(&self, most_held: usize) -> HashMap<Question, Answers> {
        let mut answers = HashMap::new();
        let rows = (most_held / self.members.len().max(1)).max(1);
        for start in (0..self.members.len()).step_by(rows) {
            let places = start..self.members.len().min(start + rows);
            let held = self.distances(places.clone());
            let rows = held.par_chunks_exact(self.members.len()).zip(places.into_par_iter());
            let of_rows = rows.fold(HashMap::new, |mut answers, (row, x)| {
                self.answer_row(row, x, &mut answers);
                answers
            });
            merge(&mut answers, of_rows.reduce(HashMap::new, merged));
        }
        answers
    }

    /// The answers to at most `most` triplets of each question, drawn without replacement.
    pub(super) fn drawn(&self, most: u64, seed: u64, cell: u64) -> HashMap<Question, Answers> {
        let questions = self.questions();
        let wanted: u64 = questions.iter().map(|asked| asked.count().min(most)).sum();
        let n = self.members.len();
        let all_fit = n * n <= MOST_HELD;
        let held = (all_fit && wanted > (n * n / 4) as u64).then(|| self.distances(0..n));
        let between = |x: usize, y: usize, scratch: &mut Scratch| match &held {
            Some(held) => held.get(x * n + y).copied().unwrap_or_default(),
            None => self.between(x, y, scratch),
        };
        let answer = |asked: &Asked<'_>| {
            let count = asked.count();
            let q = asked.question;
            let stream = [DRAWN, cell, q.group as u64, q.x_group as u64, q.category as u64, q.other as u64];
            let key = Rng::next_u64(&mut ssl_core::rng(seed, &stream));
            let places = (0..count.min(most)).into_par_iter();
            let halves = places.map_init(Scratch::default, |scratch, place| {
                let place = if count > most { permuted(place, count, key) } else { place };
                asked
                    .triplet(place)
                    .map_or(0, |(a, b, x)| halves(between(x, a, scratch), between(x, b, scratch)))
            });
            (q, Answers { wrong_halves: halves.sum(), triplets: count.min(most) })
        };
        questions.par_iter().map(answer).collect()
    }

    fn questions(&self) -> Vec<Asked<'_>> {
        let mut questions = Vec::new();
        for (&x_group, x_sets) in &self.sets {
            for (&group, sets) in self.sets.iter().filter(|(group, _)| self.mode.asks(**group, x_group)) {
                for (&category, x) in x_sets {
                    let a = sets.get(&category).map(Vec::as_slice).unwrap_or_default();
                    for (&other, b) in sets.iter().filter(|(other, _)| **other != category) {
                        let question = Question { group, x_group, category, other };
                        questions.push(Asked { question, a, b, x });
                    }
                }
            }
        }
        questions.retain(|asked| asked.count() > 0);
        questions
    }

    fn between(&self, x: usize, y: usize, scratch: &mut Scratch) -> f32 {
        match (self.members.get(x), self.members.get(y)) {
            (Some(x), Some(y)) => distance(x.frames, y.frames, self.distance, scratch),
            _ => 0.0,
        }
    }

    /// Rows of distances from the members at `places` to all, as far as they are asked for.
    fn distances(&self, places: Range<usize>) -> Vec<f32> {
        let n = self.members.len();
        let mut held = vec![0.0; places.len() * n];
        let rows = held.par_chunks_exact_mut(n).zip(places.clone());
        rows.for_each_init(Scratch::default, |scratch, (row, x)| {
            let group = self.members.get(x).map_or(0, |member| member.group);
            for ((y, member), slot) in self.members.iter().enumerate().zip(row) {
                let mirrored = places.contains(&y) && y < x;
                if y != x && !mirrored && self.mode.asks(member.group, group) {
                    *slot = self.between(x, y, scratch);
                }
            }
        });
        for x in places.clone() {
            for y in places.start..x {
                let value = held.get((y - places.start) * n + x).copied().unwrap_or_default();
                if let Some(slot) = held.get_mut((x - places.start) * n + y) {
                    *slot = value;
                }
            }
        }
        held
    }

    /// The answers to all triplets of one X, whose distances from all members are in `row`.
    fn answer_row(&self, row: &[f32], x: usize, answers: &mut HashMap<Question, Answers>) {
        let Some(member) = self.members.get(x) else { return };
        let (x_group, category) = (member.group, member.category);
        for (&group, sets) in self.sets.iter().filter(|(group, _)| self.mode.asks(**group, x_group)) {
            let places = sets.get(&category).map(Vec::as_slice).unwrap_or_default();
            let own = places.iter().filter(|place| **place != x).filter_map(|place| row.get(*place));
            let mut own: Vec<f32> = own.copied().collect();
            own.sort_unstable_by(f32::total_cmp);
            for (&other, places) in sets.iter().filter(|(other, _)| **other != category && !own.is_empty()) {
                let mut halves = 0;
                for to_b in places.iter().filter_map(|place| row.get(*place)) {
                    let closer = own.partition_point(|to_a| to_a < to_b);
                    let not_farther = own.partition_point(|to_a| to_a <= to_b);
                    halves += 2 * (own.len() - not_farther) + (not_farther - closer);
                }
                let question = Question { group, x_group, category, other };
                let triplets = (own.len() * places.len()) as u64;
                answers.entry(question).or_default().add(Answers { wrong_halves: halves as u64, triplets });
            }
        }
    }
}

/// A question, and the places of those who may stand for A, B and X.
struct Asked<'a> {
    question: Question,
    a: &'a [usize],
    b: &'a [usize],
    x: &'a [usize],
}

impl Asked<'_> {
    /// How many there are for A beside one X: X itself is none.
    fn beside(&self) -> u64 {
        let own = u64::from(self.question.group == self.question.x_group);
        (self.a.len() as u64).saturating_sub(own)
    }

    fn count(&self) -> u64 {
        self.beside() * self.b.len() as u64 * self.x.len() as u64
    }

    /// The places of A, B and X in one of all triplets.
    fn triplet(&self, number: u64) -> Option<(usize, usize, usize)> {
        let (rest, b) = (number / self.b.len() as u64, (number % self.b.len() as u64) as usize);
        let (x, mut a) = ((rest / self.beside()) as usize, (rest % self.beside()) as usize);
        if self.question.group == self.question.x_group && a >= x {
            a += 1;
        }
        Some((*self.a.get(a)?, *self.b.get(b)?, *self.x.get(x)?))
    }
}

/// 2 for a wrong answer, 1 for a tie.
fn halves(to_a: f32, to_b: f32) -> u64 {
    2 * u64::from(to_a > to_b) + u64::from(to_a == to_b)
}

fn merge(into: &mut HashMap<Question, Answers>, from: HashMap<Question, Answers>) {
    for (question, answers) in from {
        into.entry(question).or_default().add(answers);
    }
}

fn merged(
    mut one: HashMap<Question, Answers>,
    other: HashMap<Question, Answers>,
) -> HashMap<Question, Answers> {
    merge(&mut one, other);
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abx::Item;
    use tch::{Device, Kind, Tensor};

    /// Sequences of 1 to 5 frames in 3 categories and 2 groups.
    fn frames() -> Vec<Frames> {
        let sequence = |n: i64| {
            let numbers = Tensor::arange_start(n, n + 9 * (1 + n % 5), (Kind::Float, Device::Cpu));
            Item::new((numbers * 7.7).sin().view([-1, 9]), 0)
        };
        (0..30).map(|n| Frames::new(&sequence(n), 0, Distance::Angular).unwrap()).collect()
    }

    fn cell(frames: &[Frames], mode: Mode) -> Cell<'_> {
        let group = |n| if mode == Mode::Within { 0 } else { n % 2 };
        let members = (0..).zip(frames);
        let members = members.map(|(n, frames)| Member { frames, group: group(n), category: n % 3 });
        Cell::new(members.collect(), &AbxOptions { mode, ..AbxOptions::default() })
    }

    #[test]
    fn answers_do_not_depend_on_how_many_distances_are_held() {
        let frames = frames();
        for mode in [Mode::Within, Mode::Across] {
            let cell = cell(&frames, mode);
            let (all, few) = (cell.all(MOST_HELD), cell.all(7 * 30 + 1));
            assert_eq!((all.len(), &all), (if mode == Mode::Within { 6 } else { 12 }, &few));
            assert_eq!(all, cell.all(1));
            assert_eq!(all, cell.drawn(u64::MAX, 0, 0));
        }
    }

    #[test]
    fn distances_are_the_same_in_both_orders() {
        let frames = frames();
        let cell = cell(&frames, Mode::Within);
        let mut scratch = Scratch::default();
        let held = cell.distances(0..30);
        for (x, y) in (0..30).flat_map(|x| (0..30).map(move |y| (x, y))).filter(|(x, y)| x != y) {
            assert_eq!(held[x * 30 + y], cell.between(x, y, &mut scratch), "{x} {y}");
        }
    }

    #[test]
    fn each_triplet_has_one_number() {
        let (a, b, x) = ([3, 5, 8], [1, 2], [3, 5, 8]);
        for (x_group, count) in [(0, 12), (1, 18)] {
            let question = Question { group: 0, x_group, category: 0, other: 1 };
            let asked = Asked { question, a: &a, b: &b, x: &x };
            let all: std::collections::HashSet<_> = (0..count).map(|n| asked.triplet(n).unwrap()).collect();
            assert_eq!((asked.count(), all.len() as u64), (count, count));
            assert!(x_group == 1 || all.iter().all(|(a, _, x)| a != x), "{all:?}");
        }
    }
}
