//! The linear probe: how much of the classes a linear classifier finds in frozen features.
use super::features::{Features, agreement};
use super::lbfgs::{Lbfgs, Minimum};
use super::logistic::{Problem, Scaling, predict};
use super::stream;
use crate::{Error, Result, rng};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How the penalty is chosen and the solver ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearOptions {
    /// Penalties tried: factors of half the squared weights beside the mean cross-entropy. In scikit-learn's
    /// terms C = 1 / (N l2).
    pub l2: Vec<f64>,
    /// Share of every class of the training set that chooses among them.
    pub held_back: f64,
    /// Iterations of L-BFGS at most for each penalty, and for the last fit four times as many.
    pub max_iterations: usize,
    /// Seed of the choice of what is held back.
    pub seed: u64,
}

impl Default for LinearOptions {
    fn default() -> Self {
        LinearOptions { l2: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5], held_back: 0.1, max_iterations: 30, seed: 0 }
    }
}

/// An accuracy with what it depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Share of the test set that is classified right.
    pub accuracy: f64,
    /// The same for each class; none where the test set has no example of it.
    pub class_accuracy: Vec<Option<f64>>,
    /// The class that each test example is taken for.
    pub predicted: Vec<i64>,
    /// The chosen penalty.
    pub l2: f64,
    /// Every penalty tried with its accuracy on the held-back part, strongest first; the search ends after two
    /// that do no better.
    pub held_back: Vec<(f64, f64)>,
    /// Iterations of L-BFGS of all fits together.
    pub iterations: usize,
}

/// Largest component of the gradient at which a fit ends while penalties are compared, and at the last fit.
const TOLERANCE: (f64, f64) = (3e-4, 1e-4);
/// Weaker penalties in a row that may do no better before the search ends.
const PATIENCE: usize = 2;

/// Accuracy of multinomial logistic regression on standardized features.
///
/// The penalty is chosen on a stratified held-back part of the training set, never on the test set; then the
/// classifier is fitted to the whole training set. Means and deviations are those of the whole training set.
///
/// # Errors
/// `Error::Config` when no penalty is given or one is not positive, when nothing can be held back or there is a
/// single class; `Error::Shape` when the widths differ.
///
/// # Source
/// The protocol of Kornblith et al., 2019, section 3.1 (logistic regression by L-BFGS, penalty by a held-back
/// part): <https://arxiv.org/abs/1805.08974>.
pub fn linear(train: &Features, test: &Features, options: &LinearOptions) -> Result<Linear> {
    train.check_against(test)?;
    let path = descending(&options.l2)?;
    let (kept, held) = split(train, options)?;
    let scaling = Scaling::of(train.x())?;
    let rows = Tensor::f_from_slice(&[kept.as_slice(), held.as_slice()].concat())?;
    let rows = rows.f_to_device(train.x().device())?;
    let labels = train.y_tensor()?.f_index_select(0, &rows)?;
    let design = scaling.design(train.x(), &rows)?;
    let all = Problem::new(design, labels, train.classes()).preconditioned()?;

    let choice = choose(&all.head(kept.len() as i64)?, &all.tail(held.len() as i64)?, &path, options)?;
    let search = Lbfgs { memory: 10, max_iterations: 4 * options.max_iterations, tolerance: TOLERANCE.1 };
    let fitted = all.fit(choice.l2, &search, choice.weights)?;
    let iterations = choice.iterations + fitted.iterations;
    drop(all);

    let predicted = predict(&scaling.design_of_all(test.x())?, &fitted.x, train.classes())?;
    let by_class = |rows: Vec<i64>| {
        let hits =
            rows.iter().filter(|&&row| predicted.get(row as usize) == test.y().get(row as usize)).count();
        (!rows.is_empty()).then(|| hits as f64 / rows.len() as f64)
    };
    Ok(Linear {
        accuracy: agreement(&predicted, test.y()),
        class_accuracy: test.rows_by_class().into_iter().map(by_class).collect(),
        predicted,
        l2: choice.l2,
        held_back: choice.tried,
        iterations,
    })
}

/// The best of the penalties.
struct Choice {
    l2: f64,
    weights: Vec<f64>,
    tried: Vec<(f64, f64)>,
    iterations: usize,
}

/// Fits from the strongest penalty to the weakest, each from where the last ended; of equals the stronger wins.
/// Penalties weaker than those that no longer help are not tried: they cost the most.
fn choose(kept: &Problem, held: &Problem, path: &[f64], options: &LinearOptions) -> Result<Choice> {
    let search = Lbfgs { memory: 10, max_iterations: options.max_iterations, tolerance: TOLERANCE.0 };
    let mut best = Choice { l2: f64::NAN, weights: Vec::new(), tried: Vec::new(), iterations: 0 };
    let (mut weights, mut most, mut vain) = (kept.zeros(), f64::NEG_INFINITY, 0);
    for &l2 in path {
        let Minimum { x, iterations, .. } = kept.fit(l2, &search, weights)?;
        let accuracy = held.accuracy(&x)?;
        best.iterations += iterations;
        best.tried.push((l2, accuracy));
        vain += 1;
        if accuracy > most {
            (most, best.l2, best.weights, vain) = (accuracy, l2, x.clone(), 0);
        }
        if vain == PATIENCE {
            break;
        }
        weights = x;
    }
    Ok(best)
}

fn descending(l2: &[f64]) -> Result<Vec<f64>> {
    if let Some(bad) = l2.iter().find(|l2| !l2.is_finite() || **l2 <= 0.0) {
        return Err(Error::config("l2", format!("expected positive numbers, got {bad}")));
    }
    if l2.is_empty() {
        return Err(Error::config("l2", "expected at least one penalty, got none"));
    }
    let mut path = l2.to_vec();
    path.sort_by(|a, b| b.total_cmp(a));
    Ok(path)
}

/// Rows to fit and rows to choose the penalty by: of each class of two examples or more, at least one of either.
fn split(train: &Features, options: &LinearOptions) -> Result<(Vec<i64>, Vec<i64>)> {
    let share = options.held_back;
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::config("held_back", format!("expected a share between 0 and 1, got {share}")));
    }
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (class, mut rows) in (0..).zip(train.rows_by_class()) {
        rows.shuffle(&mut rng(options.seed, &[stream::HELD_BACK, class]));
        let most = rows.len().saturating_sub(1);
        let count = ((rows.len() as f64 * share).round() as usize).max(1).min(most);
        kept.extend(rows.split_off(count));
        held.extend(rows);
    }
    if held.is_empty() {
        return Err(Error::config(
            "labels",
            "expected a class with 2 training examples or more, got 1 of each",
        ));
    }
    Ok((kept, held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use tch::Kind;

    /// Two informative directions among ten of noise; every feature with its own scale and offset.
    fn blobs(n: usize, noise: f64, seed: u64) -> Features {
        let mut rng = rng(seed, &[]);
        let y: Vec<i64> = (0..n).map(|i| (i % 3) as i64).collect();
        let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let mut flat = Vec::new();
        for label in &y {
            for j in 0..12i64 {
                let signal = if j == *label { 2.0 } else { 0.0 };
                flat.push((signal + noise * normal()) * 10f64.powi(j as i32 % 5 - 2) + j as f64);
            }
        }
        Features::new(&Tensor::from_slice(&flat).view([n as i64, 12]).to_kind(Kind::Float), y).unwrap()
    }

    #[test]
    fn classes_are_found_whatever_the_scale_of_the_features() {
        let found = linear(&blobs(600, 0.6, 1), &blobs(300, 0.6, 2), &LinearOptions::default()).unwrap();
        assert!(found.accuracy > 0.95, "{found:?}");
        assert_eq!(found.class_accuracy.len(), 3);
        let mean = found.class_accuracy.iter().map(|a| a.unwrap()).sum::<f64>() / 3.0;
        assert!((mean - found.accuracy).abs() < 1e-12);
    }

    #[test]
    fn the_penalty_with_the_best_held_back_accuracy_is_chosen() {
        let options =
            LinearOptions { l2: vec![1e-6, 10.0, 1e-1], held_back: 0.5, seed: 1, ..LinearOptions::default() };
        let found = linear(&blobs(60, 1.5, 1), &blobs(300, 1.5, 2), &options).unwrap();
        assert_eq!(found.held_back.iter().map(|tried| tried.0).collect::<Vec<_>>(), [10.0, 1e-1, 1e-6]);
        assert!(found.held_back.iter().any(|tried| tried.1 != found.held_back[0].1), "{found:?}");
        let best = found.held_back.iter().map(|tried| tried.1).fold(0.0, f64::max);
        assert_eq!(found.held_back.iter().find(|tried| tried.1 == best).unwrap().0, found.l2);
    }

    #[test]
    fn what_is_held_back_is_a_tenth_of_each_class_and_depends_on_the_seed() {
        let features = blobs(90, 1.0, 1);
        let of = |seed| split(&features, &LinearOptions { seed, ..LinearOptions::default() }).unwrap();
        let (kept, held) = of(0);
        assert_eq!((kept.len(), held.len()), (81, 9));
        for class in 0..3 {
            assert_eq!(held.iter().filter(|row| **row % 3 == class).count(), 3);
        }
        let mut all = [kept, held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..90).collect::<Vec<_>>());
        assert!(of(0).1 == held && of(1).1 != held);
    }

    #[test]
    fn bad_options_are_named() {
        let features = blobs(3, 1.0, 1);
        let refusal = |options| linear(&features, &features, &options).unwrap_err().to_string();
        let with =
            |l2: &[f64], held_back| LinearOptions { l2: l2.to_vec(), held_back, ..LinearOptions::default() };
        assert!(refusal(with(&[], 0.1)).starts_with("l2: expected at least one"));
        assert!(refusal(with(&[0.0], 0.1)).starts_with("l2: expected positive"));
        assert!(refusal(with(&[1.0], 1.0)).starts_with("held_back: expected a share"));
        assert!(refusal(with(&[1.0], 0.1)).starts_with("labels: expected a class with 2"));
    }
}
