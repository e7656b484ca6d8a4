//! Small helpers on tensors: checks of rank, and a scope without gradients.
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Runs `f` without recording gradients; the former state comes back also on a panic.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    let _guard = tch::no_grad_guard();
    f()
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
