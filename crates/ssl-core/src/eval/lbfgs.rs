//! L-BFGS for smooth functions of some thousand variables, such as the loss of a linear probe.
use crate::{Error, Result};
use std::collections::VecDeque;

/// When to stop, and how much to remember.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lbfgs {
    /// Pairs of steps and gradient changes kept.
    pub(crate) memory: usize,
    /// Iterations at most.
    pub(crate) max_iterations: usize,
    /// Stops when no component of the gradient is larger.
    pub(crate) tolerance: f64,
}

/// Where the search ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Minimum {
    pub(crate) x: Vec<f64>,
    pub(crate) value: f64,
    pub(crate) iterations: usize,
}

/// A step of the past: the move, the change of the gradient, and one over their inner product.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

/// A point with its value and gradient.
#[derive(Clone)]
struct Point {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// A function to minimize.
pub(crate) trait Function {
    /// The value at `x`, and the gradient there.
    fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)>;

    /// A rough inverse Hessian times `gradient`; it must be symmetric and positive definite.
    fn precondition(&self, gradient: &[f64]) -> Result<Vec<f64>> {
        Ok(gradient.to_vec())
    }
}

impl Lbfgs {
    /// Minimizes `f` from `start`; ends at the tolerance, at the last iteration, or where rounding hides any descent.
    ///
    /// # Errors
    /// `Error::Config` when the function is not finite at the start; whatever `f` returns.
    ///
    /// # Source
    /// Nocedal & Wright, Numerical Optimization, 2006, algorithms 7.4 and 7.5; the line search by bisection
    /// for the weak Wolfe conditions is Lewis & Overton, 2013, section 2: <https://doi.org/10.1007/s10107-012-0514-2>.
    pub(crate) fn minimize(&self, f: &impl Function, start: Vec<f64>) -> Result<Minimum> {
        let (value, gradient) = f.evaluate(&start)?;
        if !value.is_finite() {
            return Err(Error::config(
                "linear probe",
                format!("expected a finite loss at the start, got {value}"),
            ));
        }
        let mut now = Point { x: start, value, gradient };
        let mut past: VecDeque<Pair> = VecDeque::with_capacity(self.memory);
        let mut iterations = 0;
        while iterations < self.max_iterations && largest(&now.gradient) > self.tolerance {
            let direction = descent(f, &past, &now.gradient)?;
            let first = if past.is_empty() { 1f64.min(1.0 / largest(&direction)) } else { 1.0 };
            let Some(next) = line_search(f, &now, &direction, first)? else { break };
            remember(&mut past, self.memory, &now, &next);
            now = next;
            iterations += 1;
        }
        Ok(Minimum { x: now.x, value: now.value, iterations })
    }
}

/// Minus the approximate inverse Hessian times the gradient: the two-loop recursion.
fn descent(f: &impl Function, past: &VecDeque<Pair>, gradient: &[f64]) -> Result<Vec<f64>> {
    let mut q = gradient.to_vec();
    let mut alphas = Vec::with_capacity(past.len());
    for pair in past.iter().rev() {
        let alpha = pair.rho * dot(&pair.s, &q);
        add(&mut q, -alpha, &pair.y);
        alphas.push(alpha);
    }
    let mut r = f.precondition(&q)?;
    if let Some(last) = past.back() {
        let scale = 1.0 / (last.rho * dot(&last.y, &f.precondition(&last.y)?));
        r.iter_mut().for_each(|r| *r *= scale);
    }
    for (pair, alpha) in past.iter().zip(alphas.into_iter().rev()) {
        let beta = pair.rho * dot(&pair.y, &r);
        add(&mut r, alpha - beta, &pair.s);
    }
    r.iter_mut().for_each(|r| *r = -*r);
    Ok(r)
}

/// A point along `direction` with sufficient decrease and a flatter slope; none where rounding hides it.
fn line_search(f: &impl Function, from: &Point, direction: &[f64], first: f64) -> Result<Option<Point>> {
    const DECREASE: f64 = 1e-4;
    const SLOPE: f64 = 0.9;
    let slope = dot(&from.gradient, direction);
    if slope >= 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, first);
    for _ in 0..12 {
        let mut x = from.x.clone();
        add(&mut x, t, direction);
        let (value, gradient) = f.evaluate(&x)?;
        if value.is_nan() || value > from.value + DECREASE * t * slope {
            high = t;
        } else if dot(&gradient, direction) < SLOPE * slope {
            low = t;
        } else {
            return Ok(Some(Point { x, value, gradient }));
        }
        t = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    Ok(None)
}

fn remember(past: &mut VecDeque<Pair>, memory: usize, now: &Point, next: &Point) {
    let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
    let (s, y) = (difference(&next.x, &now.x), difference(&next.gradient, &now.gradient));
    let curvature = dot(&s, &y);
    if curvature > 0.0 {
        if past.len() == memory {
            past.pop_front();
        }
        past.push_back(Pair { s, y, rho: 1.0 / curvature });
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |most, a| most.max(a.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rosenbrock;
    impl Function for Rosenbrock {
        fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)> {
            let (mut value, mut gradient) = (0.0, vec![0.0; x.len()]);
            for i in 0..x.len() - 1 {
                let bend = x[i + 1] - x[i] * x[i];
                value += 100.0 * bend * bend + (1.0 - x[i]).powi(2);
                gradient[i] += -400.0 * x[i] * bend - 2.0 * (1.0 - x[i]);
                gradient[i + 1] += 200.0 * bend;
            }
            Ok((value, gradient))
        }
    }

    /// A valley a million times longer than wide, with its exact inverse Hessian.
    struct Valley;
    impl Function for Valley {
        fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)> {
            Ok((0.5 * (x[0] * x[0] + 1e6 * x[1] * x[1]), vec![x[0], 1e6 * x[1]]))
        }
        fn precondition(&self, gradient: &[f64]) -> Result<Vec<f64>> {
            Ok(vec![gradient[0], gradient[1] / 1e6])
        }
    }

    /// The same valley with walls of the fourth power, where one step is not enough.
    struct Steep;
    impl Function for Steep {
        fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)> {
            let wall = |x: f64| (0.5 * x * x + x.powi(4), x + 4.0 * x.powi(3));
            let ((a, da), (b, db)) = (wall(x[0]), wall(x[1]));
            Ok((a + 1e6 * b, vec![da, 1e6 * db]))
        }
        fn precondition(&self, gradient: &[f64]) -> Result<Vec<f64>> {
            Valley.precondition(gradient)
        }
    }

    struct Nowhere;
    impl Function for Nowhere {
        fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)> {
            Ok((f64::NAN, x.to_vec()))
        }
    }

    const SEARCH: Lbfgs = Lbfgs { memory: 10, max_iterations: 500, tolerance: 1e-9 };

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let found = SEARCH.minimize(&Rosenbrock, vec![-1.2, 1.0, -0.5, 0.8, 1.3]).unwrap();
        assert!(found.x.iter().all(|x| (x - 1.0).abs() < 1e-8), "{found:?}");
        assert!(found.iterations < 80, "{found:?}");
    }

    #[test]
    fn a_preconditioner_ends_the_search_at_once() {
        let found = SEARCH.minimize(&Valley, vec![0.5, 0.5]).unwrap();
        assert!(largest(&found.x) < 1e-9 && found.iterations <= 2, "{found:?}");
        let found = SEARCH.minimize(&Steep, vec![1.5, 1.0]).unwrap();
        assert!(largest(&found.x) < 1e-8 && found.iterations <= 15, "{found:?}");
    }

    #[test]
    fn limits_hold_and_a_bad_start_is_an_error() {
        let short = Lbfgs { max_iterations: 3, ..SEARCH };
        assert_eq!(short.minimize(&Rosenbrock, vec![-1.2, 1.0]).unwrap().iterations, 3);
        let error = SEARCH.minimize(&Nowhere, vec![1.0]).unwrap_err().to_string();
        assert!(error.contains("finite loss at the start, got NaN"), "{error}");
    }
}
