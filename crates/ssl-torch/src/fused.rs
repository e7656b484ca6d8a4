//! Gradients placed where the caller wants them, and updates of a whole buffer in one pass over memory.
#![allow(unsafe_code)]
use crate::ffi::{self, Result, call, handle};
use tch::Tensor;

/// Makes `grad` the gradient of `param`, so that backward passes accumulate into it in place.
///
/// # Shapes
/// `param`, `grad`: the same.
///
/// # Errors
/// When the shapes differ.
pub fn set_grad(param: &Tensor, grad: &Tensor) -> Result<()> {
    // SAFETY: both handles live for the call; libtorch counts the reference it keeps.
    call(|e| unsafe { ffi::ssl_set_grad(handle(param), handle(grad), e) })
}

/// What [`fused_adamw`] needs besides tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// One AdamW update of a buffer in one kernel. `steps` counts from 1: raise it before the call.
///
/// # Shapes
/// `param`, `grad`, `mean`, `square`: the same; `steps`: a float32 scalar on the same device.
///
/// # Errors
/// When shapes, kinds or devices differ.
///
/// # Source
/// Loshchilov & Hutter, 2019, algorithm 2: <https://arxiv.org/abs/1711.05101>.
pub fn fused_adamw(
    param: &Tensor,
    grad: &Tensor,
    (mean, square): (&Tensor, &Tensor),
    steps: &Tensor,
    with: AdamW,
) -> Result<()> {
    // SAFETY: every handle lives for the call.
    call(|e| unsafe {
        ffi::ssl_fused_adamw(
            handle(param),
            handle(grad),
            handle(mean),
            handle(square),
            handle(steps),
            with.lr,
            with.betas.0,
            with.betas.1,
            with.weight_decay,
            with.eps,
            e,
        )
    })
}

/// What [`fused_sgd`] needs besides tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// Whether `buffer` is to be filled rather than read.
    pub first: bool,
}

/// One update by stochastic gradient descent with momentum in one kernel.
///
/// # Shapes
/// `param`, `grad`, `buffer`: the same.
///
/// # Errors
/// When shapes, kinds or devices differ.
pub fn fused_sgd(param: &Tensor, grad: &Tensor, buffer: &Tensor, with: Sgd) -> Result<()> {
    // SAFETY: every handle lives for the call.
    call(|e| unsafe {
        ffi::ssl_fused_sgd(
            handle(param),
            handle(grad),
            handle(buffer),
            with.lr,
            with.momentum,
            with.weight_decay,
            i32::from(with.nesterov),
            i32::from(with.first),
            e,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

    #[test]
    fn backward_accumulates_into_the_given_gradient() {
        let w = Tensor::ones([3], CPU).set_requires_grad(true);
        let flat = Tensor::zeros([5], CPU);
        set_grad(&w, &flat.narrow(0, 1, 3)).unwrap();
        (&w * 2.).sum(Kind::Double).backward();
        (&w * 2.).sum(Kind::Double).backward();
        assert_eq!(Vec::<f64>::try_from(&flat).unwrap(), [0., 4., 4., 4., 0.]);
    }

    #[test]
    fn a_gradient_of_another_shape_is_an_error() {
        let w = Tensor::ones([3], CPU).set_requires_grad(true);
        let error = set_grad(&w, &Tensor::zeros([2], CPU)).unwrap_err().to_string();
        assert!(error.contains("[2]") && error.contains("[3]"), "{error}");
    }

    #[test]
    fn adamw_takes_the_step_of_the_paper() {
        let (w, g) = (Tensor::from_slice(&[1.0f64]), Tensor::from_slice(&[0.5f64]));
        let (m, v) = (Tensor::zeros([1], CPU), Tensor::zeros([1], CPU));
        let steps = Tensor::ones([], (Kind::Float, Device::Cpu));
        let with = AdamW { lr: 0.1, betas: (0.9, 0.999), weight_decay: 0.01, eps: 1e-8 };
        fused_adamw(&w, &g, (&m, &v), &steps, with).unwrap();
        // After bias correction the first step is lr * sign(g), less eps; decay multiplies the weight.
        let expected = 1. * (1. - 0.1 * 0.01) - 0.1 * 0.5 / (0.5 + 1e-8);
        assert!((f64::try_from(&w).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn sgd_with_momentum_fills_then_averages_its_buffer() {
        let (w, g) = (Tensor::from_slice(&[1.0f64]), Tensor::from_slice(&[0.5f64]));
        let buffer = Tensor::zeros([1], CPU);
        let with = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0., nesterov: false, first: true };
        fused_sgd(&w, &g, &buffer, with).unwrap();
        fused_sgd(&w, &g, &buffer, Sgd { first: false, ..with }).unwrap();
        assert!((f64::try_from(&w).unwrap() - (1. - 0.05 - 0.1 * (0.45 + 0.5))).abs() < 1e-12);
    }
}
