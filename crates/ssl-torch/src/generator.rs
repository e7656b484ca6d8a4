//! The state of libtorch's default generators.
#![allow(unsafe_code)]
use crate::ffi::{self, Result, call, handle};
use tch::{Device, Tensor};

fn place(device: Device) -> (i32, i32) {
    match device {
        Device::Cuda(index) => (1, i32::try_from(index).unwrap_or(i32::MAX)),
        _ => (0, 0),
    }
}

/// The state of the default generator of `device`, a byte tensor.
///
/// # Errors
/// When the device does not exist.
pub fn generator_state(device: Device) -> Result<Tensor> {
    let (cuda, index) = place(device);
    let mut state = std::ptr::null_mut();
    // SAFETY: on success the pointer is a new tensor whose ownership passes to us.
    call(|e| unsafe { ffi::ssl_generator_state(cuda, index, &raw mut state, e) })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(state) })
}

/// Restores a state that [`generator_state`] returned.
///
/// # Errors
/// When the device does not exist or the state is not one of its generator.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<()> {
    let (cuda, index) = place(device);
    // SAFETY: the handle lives as long as `state`.
    call(|e| unsafe { ffi::ssl_set_generator_state(cuda, index, handle(state), e) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_restored_state_repeats_the_numbers() {
        let draw = || Tensor::rand([8], (Kind::Float, Device::Cpu));
        let state = generator_state(Device::Cpu).unwrap();
        let first = draw();
        let second = draw();
        set_generator_state(Device::Cpu, &state).unwrap();
        assert!(draw().equal(&first));
        assert!(!first.equal(&second));
    }

    #[test]
    fn a_foreign_state_is_an_error() {
        let error = set_generator_state(Device::Cpu, &Tensor::from_slice(&[1u8, 2, 3])).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
