//! What an encoder listens to.
//!
//! ```
//! use ssl_audio::explain::{of_spectrogram, of_stretches};
//! use ssl_audio::models::{Encoder, EncoderConfig};
//! use ssl_core::explain::{along, apart};
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &EncoderConfig::new("mel_gru_d6".parse()?))?;
//! let waves = Tensor::f_randn([2, 3_200], (Kind::Float, Device::Cpu))?;
//! let embed = |waves: &Tensor| encoder.embed(waves, encoder.widest(), ssl_core::Mode::Eval);
//! let directions = apart(&embed(&waves)?, &Tensor::f_zeros([1, 6], (Kind::Float, Device::Cpu))?)?;
//! let shares = of_spectrogram(&encoder, &waves, encoder.widest(), &directions)?;
//! assert_eq!(shares.size(), encoder.spectrogram(&waves, "this")?.size());
//! let drops = of_stretches(&|waves| along(&embed(waves)?, &directions), &waves, 8)?;
//! assert_eq!(drops.size(), [2, 8]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::models::{Attend, Encoder, EncoderConfig};
use ssl_core::explain::{Scalar, along, integrated_gradients, occlusion, replica};
use ssl_core::{Error, Mode, Result, check, dims2, no_grad};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Parts that the way from the mean level is cut into.
const STEPS: i64 = 16;

/// An encoder of its own with these tensors, to be explained and to be made random; and its variables.
///
/// # Errors
/// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the tensors are another's.
pub fn encoder_of(
    config: &EncoderConfig,
    tensors: &BTreeMap<String, Tensor>,
    device: Device,
) -> Result<(VarStore, Encoder)> {
    replica(tensors, device, |p| Encoder::new(p, config))
}

/// Of embeddings along `directions` the share of each band at each time, by integrated gradients from the mean level of the
/// clip, for an encoder that takes spectrograms.
///
/// # Shapes
/// `waves`: `[B, T]`; `directions`: `[B, D]`; returns `[B, F, N]`.
///
/// # Errors
/// `Error::Config` when the encoder takes waves; as [`Encoder::forward`].
pub fn of_spectrogram(
    encoder: &Encoder,
    waves: &Tensor,
    attend: Attend,
    directions: &Tensor,
) -> Result<Tensor> {
    let bands = no_grad(|| encoder.spectrogram(waves, "an explanation"))?;
    let mean = bands.f_mean_dim([1i64, 2].as_slice(), true, Kind::Float)?;
    let scalar = |bands: &Tensor| {
        let frames = encoder.context(&encoder.stacked(bands)?, attend, Mode::Eval)?;
        along(&encoder.pool(&frames)?, directions)
    };
    Ok(integrated_gradients(&scalar, &bands, &mean, STEPS)?.values)
}

/// What is lost of any number of each clip when one of so many stretches is silent.
///
/// # Shapes
/// `waves`: `[B, T]`; returns `[B, count]`.
///
/// # Errors
/// `Error::Config` when there is no stretch, `Error::Shape` when the waves are shorter than that; as [`occlusion`].
pub fn of_stretches(f: Scalar<'_>, waves: &Tensor, count: i64) -> Result<Tensor> {
    let (_, samples) = dims2(waves, "waves", "[B, T]")?;
    check::at_least(1, [("stretches", count)])?;
    if samples < count {
        let expected = format!("[B, T] with T at least {count}, the number of stretches");
        return Err(Error::Shape { what: "waves".into(), expected, got: waves.size() });
    }
    // Lengths differ by one sample at most.
    let places = Tensor::f_arange(samples, (Kind::Int64, waves.device()))?;
    let stretch = places.f_mul_scalar(count)?.f_floor_divide_scalar(samples)?;
    let each = Tensor::f_arange(count, (Kind::Int64, waves.device()))?.f_unsqueeze(1)?;
    let silent = stretch.f_unsqueeze(0)?.f_eq_tensor(&each)?;
    occlusion(f, waves, &silent, &waves.f_zeros_like()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves() -> Tensor {
        Tensor::arange(2 * 3_203, (Kind::Float, Device::Cpu)).sin().view([2, 3_203]) * 0.1
    }

    #[test]
    fn shares_of_bands_sum_to_what_they_add_to_the_mean_level() {
        let config = EncoderConfig { stack: 2, ..EncoderConfig::new("mel_d12_l1_h2".parse().unwrap()) };
        let vars = VarStore::new(Device::Cpu);
        let first = Encoder::new(&vars.root(), &config).unwrap();
        let tensors: BTreeMap<String, Tensor> = vars.variables().into_iter().collect();
        let (_vars, encoder) = encoder_of(&config, &tensors, Device::Cpu).unwrap();
        let embed = |encoder: &Encoder| encoder.embed(&waves(), encoder.widest(), Mode::Eval).unwrap();
        assert!(embed(&first).allclose(&embed(&encoder), 1e-5, 1e-6, false));
        let directions = Tensor::arange(24, (Kind::Float, Device::Cpu)).cos().view([2, 12]);
        let shares = of_spectrogram(&encoder, &waves(), encoder.widest(), &directions).unwrap();
        let bands = encoder.spectrogram(&waves(), "").unwrap();
        assert_eq!(shares.size(), bands.size());
        let of = |bands: &Tensor| {
            let local = encoder.stacked(bands).unwrap();
            let frames = encoder.context(&local, encoder.widest(), Mode::Eval).unwrap();
            along(&encoder.pool(&frames).unwrap(), &directions).unwrap()
        };
        let mean = bands.mean_dim([1i64, 2].as_slice(), true, Kind::Float).expand_as(&bands);
        let rise = of(&bands) - of(&mean);
        let sum = shares.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float);
        assert!(sum.allclose(&rise, 0.05, 0.02, false), "{sum:?} {rise:?}");
    }

    #[test]
    fn stretches_cover_the_clip_once() {
        let energy = |x: &Tensor| Ok(x.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float));
        let drops = of_stretches(&energy, &waves(), 10).unwrap();
        assert_eq!(drops.size(), [2, 10]);
        let sum = drops.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        assert!(sum.allclose(&energy(&waves()).unwrap(), 1e-3, 1e-4, false));
        // The first has 321 of 3203 samples.
        let first = energy(&waves().narrow(1, 0, 321)).unwrap();
        assert!(drops.select(1, 0).allclose(&first, 1e-2, 1e-3, false));
        let message = of_stretches(&energy, &waves().narrow(1, 0, 5), 10).unwrap_err().to_string();
        assert_eq!(message, "waves: expected [B, T] with T at least 10, the number of stretches, got [2, 5]");
    }
}
