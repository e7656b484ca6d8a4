//! Mixed precision with a choice of device and dtype.
#![allow(unsafe_code)]
use crate::ffi::{self, Error, Result, call};
use std::marker::PhantomData;
use tch::{Device, Kind};

/// While it lives, matrix products and convolutions on `device` run in `kind` on this thread; the state before
/// comes back when it is dropped, also on a panic, and the outermost scope drops the cast weights.
///
/// `tch::autocast` does nothing without CUDA and has no choice of dtype.
#[derive(Debug)]
pub struct Autocast {
    before: Setting,
    // The state is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Enters a scope.
    ///
    /// # Errors
    /// When `kind` is neither `BFloat16` nor `Half`, or libtorch refuses.
    pub fn enter(device: Device, kind: Kind) -> Result<Self> {
        let Some(dtype) = number(kind) else {
            return Err(Error(format!("mixed precision: expected BFloat16 or Half, got {kind:?}")));
        };
        Setting { enabled: 1, dtype, ..Setting::now(device)? }.enter()
    }

    /// Enters a scope without mixed precision, for a loss inside a scope with it.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn off(device: Device) -> Result<Self> {
        Setting { enabled: 0, ..Setting::now(device)? }.enter()
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        let Setting { cuda, enabled, dtype } = self.before;
        // Leaving sets three flags of this thread and cannot fail once entering succeeded.
        // SAFETY: plain numbers.
        let _ = call(|e| unsafe { ffi::ssl_autocast_leave(cuda, enabled, dtype, e) });
    }
}

/// The number in c10::ScalarType of a kind that products run in.
fn number(kind: Kind) -> Option<i32> {
    match kind {
        Kind::Half => Some(5),
        Kind::BFloat16 => Some(15),
        _ => None,
    }
}

/// What mixed precision is set to for a kind of device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    cuda: i32,
    enabled: i32,
    dtype: i32,
}

impl Setting {
    /// The one of this thread.
    pub(crate) fn now(device: Device) -> Result<Self> {
        let cuda = i32::from(device.is_cuda());
        let (mut enabled, mut dtype) = (0, 0);
        // SAFETY: the pointers are valid for the call.
        call(|e| unsafe { ffi::ssl_autocast_state(cuda, &raw mut enabled, &raw mut dtype, e) })?;
        Ok(Setting { cuda, enabled, dtype })
    }

    /// Whether products run in this kind.
    pub(crate) fn is_on(self, kind: Kind) -> bool {
        self.enabled != 0 && number(kind) == Some(self.dtype)
    }

    /// Enters a scope with it.
    pub(crate) fn enter(self) -> Result<Autocast> {
        let device = if self.cuda == 0 { Device::Cpu } else { Device::Cuda(0) };
        let before = Setting::now(device)?;
        // SAFETY: plain numbers.
        call(|e| unsafe { ffi::ssl_autocast_enter(self.cuda, self.enabled, self.dtype, e) })?;
        Ok(Autocast { before, not_send: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn product_kind() -> Kind {
        let a = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        a.matmul(&a).kind()
    }

    #[test]
    fn a_scope_casts_and_the_end_of_it_restores() {
        assert_eq!(product_kind(), Kind::Float);
        {
            let _outer = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            assert_eq!(product_kind(), Kind::BFloat16);
            {
                let _inner = Autocast::enter(Device::Cpu, Kind::Half).unwrap();
                assert_eq!(product_kind(), Kind::Half);
            }
            assert_eq!(product_kind(), Kind::BFloat16);
            {
                let _off = Autocast::off(Device::Cpu).unwrap();
                assert_eq!(product_kind(), Kind::Float);
            }
            assert_eq!(product_kind(), Kind::BFloat16);
        }
        assert_eq!(product_kind(), Kind::Float);
    }

    #[test]
    fn a_panic_inside_a_scope_restores() {
        let result = std::panic::catch_unwind(|| {
            let _scope = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            panic!("inside");
        });
        assert!(result.is_err());
        assert_eq!(product_kind(), Kind::Float);
    }

    #[test]
    fn other_kinds_are_refused() {
        let error = Autocast::enter(Device::Cpu, Kind::Int64).unwrap_err();
        assert_eq!(error.to_string(), "mixed precision: expected BFloat16 or Half, got Int64");
    }

    #[test]
    fn gradients_of_cast_weights_are_exact_in_their_own_kind() {
        let w = Tensor::ones([4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
        {
            let _scope = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            x.matmul(&w).to_kind(Kind::Float).sum(Kind::Float)
        }
        .backward();
        assert_eq!(w.grad().kind(), Kind::Float);
        assert_eq!(f64::try_from(w.grad().sum(Kind::Float)).unwrap(), 32.);
    }
}
