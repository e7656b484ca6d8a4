//! Small helpers on tensors: checks of rank, and a scope without gradients.
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Runs `f` without recording gradients; the former state comes back also on a panic.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    let _guard = tch::no_grad_guard();
    f()
}

/// Runs `f` while `variables` take no gradient: what it computes hands gradients on to its other inputs alone. They
/// take gradients again afterwards, also after a panic.
///
/// # Errors
/// What `f` returns.
pub fn frozen<T>(variables: &[Tensor], f: impl FnOnce() -> Result<T>) -> Result<T> {
    let learning = variables.iter().filter(|variable| variable.requires_grad());
    let mut held = Held(Vec::new());
    for variable in learning {
        held.0.push(variable.f_set_requires_grad(false)?);
    }
    f()
}

/// Variables that are to take gradients again.
struct Held(Vec<Tensor>);

impl Drop for Held {
    fn drop(&mut self) {
        for variable in &self.0 {
            // A leaf that took gradients before is not refused.
            let _ = variable.f_set_requires_grad(true);
        }
    }
}

/// Half-precision tensors as float32, others as they are.
pub(crate) fn at_least_float(x: &Tensor) -> Result<Tensor> {
    Ok(match x.kind() {
        Kind::Half | Kind::BFloat16 => x.f_to_kind(Kind::Float)?,
        _ => x.shallow_clone(),
    })
}

fn shape_error(x: &Tensor, what: &str, expected: &str) -> Error {
    Error::Shape { what: what.to_string(), expected: expected.to_string(), got: x.size() }
}

/// The two dimensions of a matrix.
///
/// # Errors
/// `Error::Shape` naming `what` when the rank is another.
pub fn dims2(x: &Tensor, what: &str, expected: &str) -> Result<(i64, i64)> {
    match x.size()[..] {
        [a, b] => Ok((a, b)),
        _ => Err(shape_error(x, what, expected)),
    }
}

/// The three dimensions of a batch of sequences.
///
/// # Errors
/// `Error::Shape` naming `what` when the rank is another.
pub fn dims3(x: &Tensor, what: &str, expected: &str) -> Result<(i64, i64, i64)> {
    match x.size()[..] {
        [a, b, c] => Ok((a, b, c)),
        _ => Err(shape_error(x, what, expected)),
    }
}

/// The four dimensions of a batch of planes.
///
/// # Errors
/// `Error::Shape` naming `what` when the rank is another.
pub fn dims4(x: &Tensor, what: &str, expected: &str) -> Result<(i64, i64, i64, i64)> {
    match x.size()[..] {
        [a, b, c, d] => Ok((a, b, c, d)),
        _ => Err(shape_error(x, what, expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn frozen_variables_hand_gradients_on_and_take_none() {
        let [weight, fixed, x] = [2f64, 5., 3.].map(Tensor::from);
        let (weight, x) = (weight.set_requires_grad(true), x.set_requires_grad(true));
        let variables = [weight.shallow_clone(), fixed.shallow_clone()];
        let product = |x: &Tensor| Ok(x * &weight * &fixed);
        let through = frozen(&variables, || product(&x)).unwrap();
        assert!(weight.requires_grad() && !fixed.requires_grad());
        (through + product(&x.detach()).unwrap()).backward();
        let of = |x: &Tensor| f64::try_from(x.grad()).unwrap();
        assert_eq!((of(&x), of(&weight)), (10., 15.));
    }

    #[test]
    fn frozen_variables_learn_again_after_an_error_or_a_panic() {
        let weight = Tensor::from(1f64).set_requires_grad(true);
        let variables = [weight.shallow_clone()];
        let refused: Result<()> = frozen(&variables, || Err(shape_error(&weight, "x", "[1]")));
        assert!(refused.is_err() && weight.requires_grad());
        let panicked = catch_unwind(AssertUnwindSafe(|| frozen(&variables, || -> Result<()> { panic!() })));
        assert!(panicked.is_err() && weight.requires_grad());
    }
}
