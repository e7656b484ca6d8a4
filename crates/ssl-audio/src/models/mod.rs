//! Networks that hear waves: a front end, what sees its vectors in their order, and what stands for a clip.
//!
//! ```
//! use ssl_audio::models::{Attend, Encoder, EncoderConfig};
//! use ssl_core::Mode;
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &EncoderConfig::new("cpc_c16_gru_d8".parse()?))?;
//! let second = Tensor::f_randn([2, 16_000], (Kind::Float, Device::Cpu))?;
//! assert_eq!(encoder.forward(&second, Attend::Past, Mode::Eval)?.size(), [2, 100, 8]);
//! assert_eq!(encoder.embed(&second, Attend::Past, Mode::Eval)?.size(), [2, 8]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod cepstra;
mod config;
mod context;
mod conv;
mod encoder;
mod encoders;
mod places;
mod quantizer;
mod spans;
mod wav2vec2;

pub(crate) use cepstra::Cepstra;
pub use config::{Arch, EncoderConfig, Family, Front, Pooling};
pub use encoder::Encoder;
pub use encoders::Encoders;
pub(crate) use places::Places;
pub use quantizer::{Quantized, Quantizer, QuantizerConfig, perplexity};
pub use spans::SpanMask;
pub use wav2vec2::Wav2Vec2Config;

/// Where a position may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attend {
    /// At all positions.
    All,
    /// At itself and those before it.
    Past,
}
