//! What an encoder sees of a wave: spectrograms, cepstra, or what strided convolutions make of it.
//!
//! All are tensor operations on the device of their input, a batch in, a batch out. Spectrograms and cepstra are in
//! float32 whatever the precision around them.
//!
//! ```
//! use ssl_audio::frontend::{LogMel, MelConfig};
//! use tch::{Device, Kind, Tensor};
//! let mel = LogMel::new(&MelConfig { mels: 64, ..MelConfig::default() }, Device::Cpu)?;
//! let second = Tensor::f_randn([2, 16_000], (Kind::Float, Device::Cpu))?;
//! assert_eq!(mel.forward(&second)?.size(), [2, 64, 101]);
//! assert_eq!(mel.frames(16_000), 101);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod cpc;
mod filters;
mod mel;
mod mfcc;
mod norm;
mod wav2vec2;

pub use cpc::{CpcEncoder, CpcEncoderConfig, CpcNorm};
pub use filters::{MelNorm, MelScale};
pub use mel::{Compression, LogMel, MelConfig};
pub use mfcc::{Mfcc, MfccConfig};
pub use norm::{ChannelNorm, GroupNorm};
pub use wav2vec2::{ExtractorNorm, FeatureExtractor, FeatureExtractorConfig};

use ssl_core::{Error, Result, dims2};
use tch::Tensor;

/// A layer of windows that slide over time: kernel, stride, zeros on each side.
type Window = (i64, i64, i64);

/// How many positions are left of `samples` behind the layers.
fn frames(layers: impl IntoIterator<Item = Window>, samples: i64) -> i64 {
    let after = |length: i64, (kernel, stride, padding): Window| {
        let room = length + 2 * padding - kernel;
        if room < 0 { 0 } else { room / stride + 1 }
    };
    layers.into_iter().fold(samples, after)
}

/// A batch of waves as one channel, `[B, 1, T]`, if it is long enough for `frames` to give one.
fn one_channel(x: &Tensor, frames: impl Fn(i64) -> i64) -> Result<Tensor> {
    let (_, samples) = dims2(x, "waves", "[B, T]")?;
    if frames(samples) < 1 {
        let expected = "[B, T] long enough for one frame".to_string();
        return Err(Error::Shape { what: "waves".into(), expected, got: x.size() });
    }
    Ok(x.f_unsqueeze(1)?)
}
