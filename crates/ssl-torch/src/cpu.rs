//! What the processor can do, and how many threads libtorch uses on it.
#![allow(unsafe_code)]
use crate::ffi::{self, Result, call};
use std::ffi::CStr;

/// The instructions that decide which precision is fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuCapabilities {
    /// 256-bit vectors.
    pub avx2: bool,
    /// 512-bit vectors.
    pub avx512: bool,
    /// Dot products of bfloat16 in 512-bit vectors.
    pub avx512_bf16: bool,
    /// Products of bfloat16 tiles.
    pub amx_bf16: bool,
}

impl CpuCapabilities {
    /// Asks the processor, by libtorch's own detection.
    ///
    /// # Errors
    /// When libtorch cannot tell.
    pub fn detect() -> Result<Self> {
        Ok(CpuCapabilities {
            avx2: capability(c"avx2")?,
            avx512: capability(c"avx512_f")?,
            avx512_bf16: capability(c"avx512_bf16")?,
            amx_bf16: capability(c"amx_bf16")?,
        })
    }

    /// Whether products in bfloat16 are faster than in float32: the test behind `--precision auto`.
    pub fn is_bf16_fast(&self) -> bool {
        self.amx_bf16 || self.avx512_bf16
    }
}

fn capability(name: &CStr) -> Result<bool> {
    let mut present = 0;
    // SAFETY: the name is NUL-terminated and the pointers are valid for the call.
    call(|e| unsafe { ffi::ssl_cpu_capability(name.as_ptr(), &raw mut present, e) })?;
    Ok(present != 0)
}

/// Sets the number of threads of one operation.
pub fn set_threads(n: usize) {
    tch::set_num_threads(i32::try_from(n.max(1)).unwrap_or(i32::MAX));
}

/// The number of threads of one operation.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// Flushes denormal numbers to zero on this thread: they slow a step down without changing what is learned.
///
/// # Errors
/// When the processor cannot.
pub fn flush_denormals(on: bool) -> Result<()> {
    // SAFETY: plain numbers.
    call(|e| unsafe { ffi::ssl_flush_denormal(i32::from(on), e) })
}

/// Lets the C library keep the memory of tensors that the main thread frees for its next ones, and returns whether
/// it does; call it before the first tensor. By default glibc gives each large block back to the system, and a step
/// pays for its pages anew: a fifth of its time for a ResNet-18 on 32 pixels (`cargo xtask bench step`, with and
/// without).
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let set = |parameter, value| {
            // SAFETY: plain numbers; the C library guards its own state.
            unsafe { libc::mallopt(parameter, value) != 0 }
        };
        set(libc::M_MMAP_THRESHOLD, i32::MAX)
            && set(libc::M_TRIM_THRESHOLD, i32::MAX)
            && set(libc::M_TOP_PAD, 64 << 20)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn capabilities_agree_with_the_standard_library() {
        let found = CpuCapabilities::detect().unwrap();
        assert_eq!(found.avx2, std::arch::is_x86_feature_detected!("avx2"));
        assert_eq!(found.avx512, std::arch::is_x86_feature_detected!("avx512f"));
        assert_eq!(found.avx512_bf16, std::arch::is_x86_feature_detected!("avx512bf16"));
    }

    #[test]
    fn the_number_of_threads_is_what_was_set() {
        let before = threads();
        set_threads(1);
        assert_eq!(threads(), 1);
        set_threads(before);
        assert_eq!(threads(), before);
    }

    #[test]
    fn denormals_vanish_when_flushed() {
        use tch::{Device, Tensor};
        let tiny = || f64::try_from(Tensor::from_slice(&[1e-39f32]).to_device(Device::Cpu) * 0.5).unwrap();
        assert!(tiny() > 0.);
        flush_denormals(true).unwrap();
        assert_eq!(tiny(), 0.);
        flush_denormals(false).unwrap();
    }
}
