//! The precision of a forward pass.
use crate::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_torch::{Autocast, CpuCapabilities, cuda_is_bf16_fast};
use tch::{Device, Kind};

/// In which numbers matrix products and convolutions run; parameters and updates stay in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    Fp32,
    /// bfloat16 mixed precision.
    Bf16,
}

impl Precision {
    /// What is fast on `device`: bfloat16 where it is multiplied natively (CUDA from compute capability 8.0 on,
    /// processors with AMX or AVX512-BF16), else float32.
    ///
    /// # Errors
    /// When libtorch cannot tell what the device can do.
    pub fn fastest(device: Device) -> Result<Self> {
        let fast = match device {
            Device::Cuda(index) => cuda_is_bf16_fast(index)?,
            _ => CpuCapabilities::detect()?.is_bf16_fast(),
        };
        Ok(if fast { Precision::Bf16 } else { Precision::Fp32 })
    }

    /// Runs `f` in this precision on `device`, whatever the precision around it: a loss inside a bfloat16 forward
    /// pass takes its sums in `Precision::Fp32.scope(..)`.
    ///
    /// # Errors
    /// What `f` returns, or that libtorch lacks the precision.
    pub fn scope<T>(self, device: Device, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let _scope = match self {
            Precision::Fp32 => Autocast::off(device)?,
            Precision::Bf16 => Autocast::enter(device, Kind::BFloat16)?,
        };
        f()
    }
}
