//! What libtorch has and `tch` does not: mixed precision with a chosen dtype, activations recomputed in the
//! backward pass, generator state, CPU capabilities, fused optimizer kernels and transformer layers, thread counts,
//! CUDA loaded at run time. The only crate with C++ and `unsafe`.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! let a = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
//! let product = {
//!     let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16)?;
//!     a.f_matmul(&a)?
//! };
//! assert_eq!(product.kind(), Kind::BFloat16);
//! assert_eq!(a.f_matmul(&a)?.kind(), Kind::Float);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod autocast;
mod checkpoint;
mod cpu;
mod cuda;
mod ffi;
mod fused;
mod generator;
mod layers;

pub use autocast::Autocast;
pub use checkpoint::checkpoint;
pub use cpu::{CpuCapabilities, flush_denormals, keep_freed_memory, set_threads, threads};
pub use cuda::{cuda_is_bf16_fast, cuda_peak_bytes, load_cuda};
pub use ffi::Error;
pub use fused::{AdamW, Sgd, fused_adamw, fused_sgd, set_grad};
pub use generator::{generator_state, set_generator_state};
pub use layers::{Gelu, Sight, WeightAndBias, fused_attention, fused_layers_apply, fused_mlp, fused_norm};
