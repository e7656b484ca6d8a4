//! ABX discriminability: how often a sound lies closer to one of another category than to one of its own.
//!
//! No classifier is trained and no label is fitted: it tells what the distances of a representation say of the
//! categories. 0 is perfect, 0.5 is chance.
//!
//! ```
//! use ssl_audio::abx::{AbxOptions, Item, abx};
//! use tch::Tensor;
//! let frames = [[1.0f32, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]];
//! let items: Vec<_> = (0..).zip(&frames).map(|(n, x)| Item::new(Tensor::from_slice(x), n / 2)).collect();
//! assert_eq!(abx(&items, &AbxOptions::default())?.error, 0.0);
//! # Ok::<(), ssl_core::Error>(())
//! ```
//!
//! Source: Schatz et al., 2013: <https://www.isca-archive.org/interspeech_2013/schatz13_interspeech.html>; distances,
//! path and order of means as in Libri-light (Kahn et al., 2020): <https://arxiv.org/abs/1912.07875>.
mod cell;
mod distance;

use cell::{Answers, Cell, MOST_HELD, Member, Question};
use distance::Frames;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use tch::Tensor;

/// A sequence of frames with what is known of it.
#[derive(Debug)]
pub struct Item {
    /// `[N, D]`, or `[D]` for a single one.
    pub frames: Tensor,
    /// What is to be told apart: a phone, a word, an instrument.
    pub category: i64,
    /// Who or what made it, such as a speaker; items without one are a group of their own.
    pub group: Option<i64>,
    /// What surrounds it, such as the phones before and behind; only items of one context are compared.
    pub context: Option<i64>,
}

impl Item {
    /// An item of no known group and context.
    ///
    /// # Shapes
    /// `frames`: `[N, D]`, or `[D]` for a single one.
    pub fn new(frames: Tensor, category: i64) -> Self {
        Item { frames, category, group: None, context: None }
    }

    /// The same item in a group.
    pub fn with_group(self, group: i64) -> Self {
        Item { group: Some(group), ..self }
    }

    /// The same item in a context.
    pub fn with_context(self, context: i64) -> Self {
        Item { context: Some(context), ..self }
    }
}

/// The distance of two frames. That of two sequences is its mean along the cheapest path of dynamic time warping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// The angle between them, as a part of half a turn: 0 to 1. A frame of zeros is at a right angle to all.
    #[default]
    Angular,
    /// 1 less the cosine of the angle: 0 to 2.
    Cosine,
    /// The length of their difference.
    Euclidean,
}

/// Which groups A, B and X are from; A and B always share theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// X is from the group of A and B.
    #[default]
    Within,
    /// X is from another group.
    Across,
}

impl Mode {
    fn asks(self, group: i64, x_group: i64) -> bool {
        (group == x_group) == (self == Mode::Within)
    }
}

/// How discriminability is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AbxOptions {
    /// The distance of two frames.
    pub distance: Distance,
    /// Which groups are compared.
    pub mode: Mode,
    /// Triplets of each ordered pair of categories in each context and pair of groups, drawn without replacement; all
    /// when not given.
    pub max_per_pair: Option<u64>,
    /// Seed of the draws.
    pub seed: u64,
}

/// How well categories are told apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Abx {
    /// The mean over ordered pairs of categories: 0 is perfect, 0.5 is chance.
    pub error: f64,
    /// The category of A and X, that of B, and the error between them, in ascending order.
    pub pairs: Vec<(i64, i64, f64)>,
    /// Triplets that were compared.
    pub triplets: u64,
}

/// The error of the ABX test: X is of A's category, and the answer is wrong when it lies closer to B. A tie is half
/// wrong.
///
/// Errors are averaged over the triplets of one context and pair of groups, then over contexts, then over the groups of
/// X, then over those of A and B, and last over ordered pairs of categories, so that frequent ones count no more than
/// rare ones. The result does not depend on the number of threads. It holds the frames once, and 64 MiB of distances.
///
/// # Shapes
/// `frames` of each item: `[N, D]` or `[D]`, with one D.
///
/// # Errors
/// `Error::Shape` when frames have another rank or are none; `Error::Config` when they differ in width or are not
/// finite, when `max_per_pair` is 0, when an item has no group across groups, or no triplet can be made.
///
/// # Source
/// Schatz et al., 2013, sections 2 and 3: <https://www.isca-archive.org/interspeech_2013/schatz13_interspeech.html>.
/// Of equally cheap paths Libri-light prefers one sequence over the other; here the shorter one counts, so that the
/// distance is the same in both orders.
pub fn abx(items: &[Item], options: &AbxOptions) -> Result<Abx> {
    if options.max_per_pair == Some(0) {
        return Err(Error::config("max_per_pair", "expected at least 1, got 0"));
    }
    let frames = frames(items, options)?;
    let mut errors = Errors::default();
    for (number, members) in (0..).zip(cells(items, &frames, options)) {
        let cell = Cell::new(members, options);
        errors.add(match options.max_per_pair {
            None => cell.all(MOST_HELD),
            Some(most) => cell.drawn(most, options.seed, number),
        });
    }
    errors.mean().ok_or_else(|| {
        let groups = match options.mode {
            Mode::Within => "one group, one category twice",
            Mode::Across => "one group, one category also in another group",
        };
        let message = format!(
            "expected two categories in {groups}, in one context; no triplet in {} items",
            items.len()
        );
        Error::config("items", message)
    })
}

fn frames(items: &[Item], options: &AbxOptions) -> Result<Vec<Frames>> {
    let width = |item: &Item| item.frames.size().last().copied();
    let first = items.first().and_then(width);
    for (index, item) in items.iter().enumerate() {
        if width(item) != first {
            let (first, found) = (first.unwrap_or(0), width(item).unwrap_or(0));
            let message =
                format!("expected frames of width {first} as in item 0, got {found} in item {index}");
            return Err(Error::config("items", message));
        }
        if options.mode == Mode::Across && item.group.is_none() {
            return Err(Error::config("items", format!("expected a group for each, item {index} has none")));
        }
    }
    items.iter().enumerate().map(|(index, item)| Frames::new(item, index, options.distance)).collect()
}

/// Items that may be compared: those of one context, and of one group within groups.
fn cells<'a>(items: &[Item], frames: &'a [Frames], options: &AbxOptions) -> Vec<Vec<Member<'a>>> {
    // Numbers of the groups, with one for those that have none.
    let mut groups: Vec<Option<i64>> = items.iter().map(|item| item.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut cells: BTreeMap<(Option<i64>, i64), Vec<Member<'a>>> = BTreeMap::new();
    for (item, frames) in items.iter().zip(frames) {
        let group = groups.partition_point(|group| *group < item.group) as i64;
        let cell = (item.context, if options.mode == Mode::Within { group } else { 0 });
        cells.entry(cell).or_default().push(Member { frames, group, category: item.category });
    }
    cells.into_values().collect()
}

/// An error for each context, by the group of X.
type ByGroup = BTreeMap<i64, Vec<f64>>;

/// Errors by the pair of categories and the group of A and B.
#[derive(Default)]
struct Errors {
    by_pair: BTreeMap<(i64, i64), BTreeMap<i64, ByGroup>>,
    triplets: u64,
}

impl Errors {
    fn add(&mut self, answers: HashMap<Question, Answers>) {
        for (Question { group, x_group, category, other }, answers) in answers {
            let groups = self.by_pair.entry((category, other)).or_default().entry(group).or_default();
            groups.entry(x_group).or_default().push(answers.error());
            self.triplets += answers.triplets;
        }
    }

    fn mean(&self) -> Option<Abx> {
        let of_x_groups = |groups: &ByGroup| mean(groups.values().map(|errors| mean(errors.iter().copied())));
        let pairs: Vec<_> = self
            .by_pair
            .iter()
            .map(|(&(category, other), groups)| (category, other, mean(groups.values().map(of_x_groups))))
            .collect();
        let error = mean(pairs.iter().map(|(_, _, error)| *error));
        (!pairs.is_empty()).then_some(Abx { error, pairs, triplets: self.triplets })
    }
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    numbers.sum::<f64>() / count
}
