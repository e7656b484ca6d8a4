//! The ABX test against a slow second implementation of it, and by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use ssl_audio::abx::{AbxOptions, Distance, Item, Mode, abx};
use ssl_core::Rng;
use std::collections::{BTreeSet, HashMap};
use tch::Tensor;

/// A number from 0 to below 1.
fn unit(rng: &mut Rng) -> f64 {
    use rand::Rng as _;
    f64::from(rng.next_u32()) / 4_294_967_296.0
}

#[derive(Clone)]
struct Sound {
    frames: Vec<Vec<f32>>,
    category: i64,
    group: i64,
    context: i64,
}

impl Sound {
    fn item(&self) -> Item {
        let rows = self.frames.len() as i64;
        let frames = Tensor::from_slice(&self.frames.concat()).view([rows, -1]);
        Item::new(frames, self.category).with_group(self.group).with_context(self.context)
    }
}

fn items(sounds: &[Sound]) -> Vec<Item> {
    sounds.iter().map(Sound::item).collect()
}

/// Sounds of 1 to 6 frames, of which categories, groups and contexts are unevenly frequent and some combinations
/// are absent. With `apart` the categories have directions of their own.
fn sounds(count: usize, width: usize, apart: f64, seed: u64) -> Vec<Sound> {
    let mut rng = ssl_core::rng(seed, &[]);
    let mut sound = || {
        let mut below = |end: f64| (end * unit(&mut rng).powi(2)) as i64;
        let (category, group, context, length) = (below(3.0), below(3.0), below(2.0), 1 + below(6.0));
        let mut frame = || {
            let number = |k| 2.0 * unit(&mut rng) - 1.0 + if k == category as usize { apart } else { 0.0 };
            (0..width).map(number).map(|x| x as f32).collect()
        };
        Sound { frames: (0..length).map(|_| frame()).collect(), category, group, context }
    };
    (0..count).map(|_| sound()).collect()
}

fn slow_frame_distance(a: &[f32], b: &[f32], distance: Distance) -> f64 {
    let sum = |f: fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
    };
    let cosine = sum(|a, b| a * b) / (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
    match distance {
        Distance::Angular => cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI,
        Distance::Cosine => 1.0 - cosine,
        Distance::Euclidean => sum(|a, b| (a - b) * (a - b)).sqrt(),
    }
}

/// Cost and length of the cheapest path to the pair (i, j), by recursion without memory.
fn slow_path(x: &Sound, y: &Sound, (i, j): (usize, usize), distance: Distance) -> (f64, u32) {
    let here = slow_frame_distance(&x.frames[i], &y.frames[j], distance);
    let mut before = Vec::new();
    if i > 0 && j > 0 {
        before.push((i - 1, j - 1));
    }
    if i > 0 {
        before.push((i - 1, j));
    }
    if j > 0 {
        before.push((i, j - 1));
    }
    let paths = before.into_iter().map(|place| slow_path(x, y, place, distance));
    let (cost, length) = paths.min_by(|a, b| a.partial_cmp(b).unwrap()).unwrap_or((0.0, 0));
    (cost + here, length + 1)
}

fn slow_distance(x: &Sound, y: &Sound, distance: Distance) -> f64 {
    let (cost, length) = slow_path(x, y, (x.frames.len() - 1, y.frames.len() - 1), distance);
    cost / f64::from(length)
}

fn mean(numbers: &[f64]) -> Option<f64> {
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

/// The error of each ordered pair, and the number of triplets: loops over everything there is.
fn slow(sounds: &[Sound], options: &AbxOptions) -> (Vec<(i64, i64, f64)>, u64) {
    let mut known = HashMap::new();
    let mut between = |x: usize, y: usize| {
        *known.entry((x, y)).or_insert_with(|| slow_distance(&sounds[x], &sounds[y], options.distance))
    };
    let all = |of: fn(&Sound) -> i64| sounds.iter().map(of).collect::<BTreeSet<i64>>();
    let (categories, groups, contexts) = (all(|s| s.category), all(|s| s.group), all(|s| s.context));
    let is = |n: usize, category, group, context| {
        let sound = &sounds[n];
        (sound.category, sound.group, sound.context) == (category, group, context)
    };
    let (mut pairs, mut triplets) = (Vec::new(), 0);
    for (&first, &second) in categories.iter().flat_map(|a| categories.iter().map(move |b| (a, b))) {
        let mut by_group = Vec::new();
        for &group in &groups {
            let mut by_x_group = Vec::new();
            for &x_group in &groups {
                let mut by_context = Vec::new();
                for &context in &contexts {
                    let mut answers = Vec::new();
                    for a in (0..sounds.len()).filter(|n| is(*n, first, group, context)) {
                        for b in (0..sounds.len()).filter(|n| is(*n, second, group, context)) {
                            for x in (0..sounds.len()).filter(|n| is(*n, first, x_group, context)) {
                                if a == x
                                    || first == second
                                    || (group == x_group) != (options.mode == Mode::Within)
                                {
                                    continue;
                                }
                                let (to_a, to_b) = (between(x, a), between(x, b));
                                answers.push(if to_a > to_b {
                                    1.0
                                } else if to_a == to_b {
                                    0.5
                                } else {
                                    0.0
                                });
                            }
                        }
                    }
                    triplets += answers.len() as u64;
                    by_context.extend(mean(&answers));
                }
                by_x_group.extend(mean(&by_context));
            }
            by_group.extend(mean(&by_x_group));
        }
        pairs.extend(mean(&by_group).map(|error| (first, second, error)));
    }
    (pairs, triplets)
}

#[test]
fn errors_are_those_of_loops_over_all_triplets_and_recursive_warping() {
    let sounds = sounds(60, 5, 0.5, 3);
    for distance in [Distance::Angular, Distance::Cosine, Distance::Euclidean] {
        for mode in [Mode::Within, Mode::Across] {
            let options = AbxOptions { distance, mode, ..AbxOptions::default() };
            let found = abx(&items(&sounds), &options).unwrap();
            let (pairs, triplets) = slow(&sounds, &options);
            assert_eq!((found.pairs.len(), found.triplets), (pairs.len(), triplets), "{options:?}");
            for (found, expected) in found.pairs.iter().zip(&pairs) {
                assert_eq!((found.0, found.1), (expected.0, expected.1));
                assert!((found.2 - expected.2).abs() < 1e-12, "{options:?}: {found:?} {expected:?}");
            }
            let errors: Vec<f64> = pairs.iter().map(|pair| pair.2).collect();
            assert!((found.error - mean(&errors).unwrap()).abs() < 1e-12 && found.error < 0.45, "{found:?}");
        }
    }
}

/// Items of one frame with one number.
fn numbers(of: &[(f32, i64)]) -> Vec<Item> {
    of.iter().map(|(number, category)| Item::new(Tensor::from_slice(&[*number]), *category)).collect()
}

const EUCLIDEAN: AbxOptions =
    AbxOptions { distance: Distance::Euclidean, mode: Mode::Within, max_per_pair: None, seed: 0 };

#[test]
fn pooled_vectors_by_hand() {
    // X = 2 lies closer to 3 than to 0; X = 3 lies closer to 0 and 2 than to 7.
    let found = abx(&numbers(&[(0.0, 4), (2.0, 4), (3.0, 9), (7.0, 9)]), &EUCLIDEAN).unwrap();
    assert_eq!(found.pairs, [(4, 9, 0.25), (9, 4, 0.5)]);
    assert_eq!((found.error, found.triplets), (0.375, 8));
}

#[test]
fn sequences_are_aligned_and_their_cost_is_divided_by_the_length_of_the_path() {
    let sequence = |frames: &[f32], category| Item::new(Tensor::from_slice(frames).view([-1, 1]), category);
    // From X to A the path is (0, 1), (0, 3): 4 / 2. B at 1.9 is closer, B at 2.1 is not.
    for (b, error) in [(1.9, 1.0), (2.0, 0.5), (2.1, 0.0)] {
        let of = [
            sequence(&[0.0], 0).with_group(0),
            sequence(&[1.0, 3.0], 0).with_group(1),
            sequence(&[b], 1).with_group(1),
        ];
        let found = abx(&of, &AbxOptions { mode: Mode::Across, ..EUCLIDEAN }).unwrap();
        assert_eq!((found.pairs, found.triplets), (vec![(0, 1, error)], 1));
    }
    // A repeated frame costs nothing.
    let of = [sequence(&[0.0, 5.0], 0), sequence(&[0.0, 0.0, 5.0, 5.0], 0), sequence(&[0.0, 4.9], 1)];
    assert_eq!(abx(&of, &EUCLIDEAN).unwrap().error, 0.0);
}

#[test]
fn features_that_tell_categories_apart_get_0_and_those_that_do_not_get_chance() {
    for mode in [Mode::Within, Mode::Across] {
        let options = AbxOptions { mode, ..AbxOptions::default() };
        assert_eq!(abx(&items(&sounds(60, 4, 9.0, 1)), &options).unwrap().error, 0.0);
        let random = abx(&items(&sounds(300, 4, 0.0, 2)), &options).unwrap();
        // Over seeds 0 to 19 it lies between 0.458 and 0.536.
        assert!((random.error - 0.5).abs() < 0.05, "{random:?}");
    }
    for distance in [Distance::Angular, Distance::Cosine, Distance::Euclidean] {
        for value in [0.0, 3.0] {
            let of: Vec<Item> = (0..12).map(|n| Item::new(Tensor::from_slice(&[value; 3]), n % 3)).collect();
            let found = abx(&of, &AbxOptions { distance, ..AbxOptions::default() }).unwrap();
            assert_eq!(found.error, 0.5, "{distance:?} of {value}");
        }
    }
}

#[test]
fn drawn_triplets_stand_for_all() {
    let of = items(&sounds(200, 4, 0.6, 5));
    let draw =
        |max_per_pair, seed| abx(&of, &AbxOptions { max_per_pair, seed, ..AbxOptions::default() }).unwrap();
    let all = draw(None, 0);
    assert_eq!(draw(Some(u64::MAX), 1), all);
    for most in [20, 400] {
        let drawn = draw(Some(most), 1);
        assert_eq!(drawn, draw(Some(most), 1));
        assert_ne!(drawn, draw(Some(most), 2));
        assert!(drawn.triplets < all.triplets && (drawn.error - all.error).abs() < 0.05, "{drawn:?} {all:?}");
    }
    assert_eq!(draw(Some(1), 3).triplets, draw(Some(1), 4).triplets);
}

#[test]
fn results_do_not_depend_on_threads_or_on_the_order_of_items() {
    let mut of = sounds(80, 4, 0.5, 7);
    let options = AbxOptions { mode: Mode::Across, ..AbxOptions::default() };
    let found = abx(&items(&of), &options).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let shuffled = pool.install(|| {
        of.reverse();
        abx(&items(&of), &options).unwrap()
    });
    assert_eq!(found, shuffled);
}

#[test]
fn what_cannot_be_compared_is_named() {
    let refusal = |of: &[Item], options: &AbxOptions| abx(of, options).unwrap_err().to_string();
    let within = AbxOptions::default();
    let expected =
        "items: expected two categories in one group, one category twice, in one context; no triplet in";
    assert_eq!(refusal(&[], &within), format!("{expected} 0 items"));
    assert_eq!(refusal(&numbers(&[(1.0, 0), (2.0, 1)]), &within), format!("{expected} 2 items"));
    let across = AbxOptions { mode: Mode::Across, ..within };
    let message = refusal(&numbers(&[(1.0, 0)]), &across);
    assert_eq!(message, "items: expected a group for each, item 0 has none");
    let one_group = numbers(&[(1.0, 0), (2.0, 0), (3.0, 1)]).into_iter().map(|item| item.with_group(1));
    assert!(refusal(&one_group.collect::<Vec<_>>(), &across).contains("one category also in another group"));
    let item = |shape: &[i64]| Item::new(Tensor::zeros(shape, (tch::Kind::Float, tch::Device::Cpu)), 0);
    let message = refusal(&[item(&[2, 3]), item(&[2, 4])], &within);
    assert_eq!(message, "items: expected frames of width 3 as in item 0, got 4 in item 1");
    let message = refusal(&[item(&[2, 3]), item(&[0, 3])], &within);
    assert_eq!(message, "frames of item 1: expected [N, D] or [D], not empty, got [0, 3]");
    let message = refusal(&numbers(&[(1.0, 0), (f32::NAN, 0)]), &within);
    assert_eq!(message, "items: expected finite frames, those of item 1 are not");
    let message = refusal(&[], &AbxOptions { max_per_pair: Some(0), ..within });
    assert_eq!(message, "max_per_pair: expected at least 1, got 0");
}
