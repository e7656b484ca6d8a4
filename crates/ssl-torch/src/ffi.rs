//! The C entry points of `cpp/`, and how their errors come back.
#![allow(unsafe_code)]
use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_void};
use tch::Tensor;
use torch_sys::C_tensor;

/// libtorch refused, or a feature is missing; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub(crate) String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Runs a closure on a tensor that it takes over; returns a new one, or null with a message that `free` frees.
pub(crate) type Run = unsafe extern "C" fn(*const c_void, *mut C_tensor, *mut *mut c_char) -> *mut C_tensor;
/// Drops a closure.
pub(crate) type Release = unsafe extern "C" fn(*mut c_void);

unsafe extern "C" {
    fn ssl_free(text: *mut c_char);
    pub(crate) fn ssl_autocast_state(
        cuda: c_int,
        on: *mut c_int,
        dtype: *mut c_int,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_autocast_enter(cuda: c_int, on: c_int, dtype: c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_autocast_leave(cuda: c_int, on: c_int, dtype: c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_is_recorded(x: *const C_tensor, recorded: *mut c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_checkpoint(
        x: *const C_tensor,
        y: *const C_tensor,
        closure: *mut c_void,
        run: Run,
        release: Release,
        joined: *mut *mut C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_cpu_capability(name: *const c_char, present: *mut c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_generator_state(
        cuda: c_int,
        index: c_int,
        state: *mut *mut C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_set_generator_state(
        cuda: c_int,
        index: c_int,
        state: *const C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_set_grad(param: *mut C_tensor, grad: *const C_tensor, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_fused_adamw(
        param: *mut C_tensor,
        grad: *mut C_tensor,
        mean: *mut C_tensor,
        square: *mut C_tensor,
        steps: *mut C_tensor,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
        eps: c_double,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_fused_sgd(
        param: *mut C_tensor,
        grad: *mut C_tensor,
        buffer: *mut C_tensor,
        lr: c_double,
        momentum: c_double,
        weight_decay: c_double,
        nesterov: c_int,
        first: c_int,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_fused_available(available: *mut c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_fused_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        eps: c_double,
        same: *mut *mut C_tensor,
        y: *mut *mut C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_fused_mlp(
        x: *const C_tensor,
        residual: *const C_tensor,
        first: *const C_tensor,
        first_bias: *const C_tensor,
        second: *const C_tensor,
        second_bias: *const C_tensor,
        approximate: c_int,
        own: c_int,
        y: *mut *mut C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_fused_attention(
        x: *const C_tensor,
        residual: *const C_tensor,
        qkv: *const C_tensor,
        qkv_bias: *const C_tensor,
        proj: *const C_tensor,
        proj_bias: *const C_tensor,
        heads: c_longlong,
        causal: c_int,
        own: c_int,
        y: *mut *mut C_tensor,
        e: *mut *mut c_char,
    ) -> c_int;
    pub(crate) fn ssl_cuda_peak_bytes(index: c_int, bytes: *mut c_longlong, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_cuda_bf16(index: c_int, fast: *mut c_int, e: *mut *mut c_char) -> c_int;
    pub(crate) fn ssl_flush_denormal(on: c_int, e: *mut *mut c_char) -> c_int;
}

/// Runs an entry point and turns its message into an error.
pub(crate) fn call(entry: impl FnOnce(*mut *mut c_char) -> c_int) -> Result<()> {
    let mut message: *mut c_char = std::ptr::null_mut();
    if entry(&raw mut message) == 0 {
        return Ok(());
    }
    if message.is_null() {
        return Err(Error("libtorch failed without a message".to_string()));
    }
    // SAFETY: a failed entry point leaves a NUL-terminated string that it allocated and that we free once.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { ssl_free(message) };
    Err(Error(text.lines().next().unwrap_or_default().to_string()))
}

/// The handle of a tensor; valid while `tensor` lives.
pub(crate) fn handle(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}
