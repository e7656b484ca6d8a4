//! What an encoder looks at in clips.
//!
//! ```
//! use ssl_core::explain::{along, apart};
//! use ssl_video::backbones::{Backbone, Encoder, EncoderConfig};
//! use ssl_video::explain::{of_encoder, of_input};
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let config = EncoderConfig::named("r3d10_w4", &EncoderConfig::default(), 28, 8)?;
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &config)?;
//! let x = Tensor::f_randn([2, 3, 8, 28, 28], (Kind::Float, Device::Cpu))?;
//! let embed = |x: &Tensor| encoder.forward(x, ssl_core::Mode::Eval);
//! let directions = apart(&embed(&x)?, &Tensor::f_zeros([1, 32], (Kind::Float, Device::Cpu))?)?;
//! let mut found = of_encoder(&encoder, &x, &directions)?;
//! found.push(of_input(&|x| along(&embed(x)?, &directions), &x)?);
//! assert_eq!(found.len(), 2);
//! assert!(found.iter().all(|found| found.map.size() == [2, 8, 28, 28]));
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::backbones::{Backbone, Encoder, EncoderConfig, VideoVit, of_images};
use ssl_core::explain::{
    Scalar, along, attention_rollout, enlarged, grad_cam, integrated_gradients, replica,
};
use ssl_core::{Error, Mode, Result};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// What is looked at in each clip.
#[derive(Debug)]
pub struct Explanation {
    /// How it was found.
    pub name: String,
    /// The share of each pixel of each frame, `[B, T, H, W]`.
    pub map: Tensor,
}

/// Places along a side that a map needs to say where something is.
const PLACES: i64 = 4;
/// Parts that the way from a grey clip is cut into.
const STEPS: i64 = 8;

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

/// What can be told from inside of an encoder: of a residual network, over time or on single frames, Grad-CAM, for
/// embeddings along `directions`, of the last stage with four places along a side; of a transformer where its tubelets look
/// on average, over all layers, above the place that is looked at least. Nothing of a recurrent network.
///
/// # Shapes
/// `x`: `[B, C, T, H, W]`; `directions`: `[B, D]`.
///
/// # Errors
/// As [`Backbone::features`].
pub fn of_encoder(encoder: &Encoder, x: &Tensor, directions: &Tensor) -> Result<Vec<Explanation>> {
    match encoder {
        Encoder::Vit(net) => Ok(vec![looks(net, x)?]),
        Encoder::ResNet3d(_) | Encoder::Late(_) => Ok(vec![cam(encoder, x, directions)?]),
        Encoder::Predictive(_) | Encoder::Recurrent(_) => Ok(Vec::new()),
    }
}

fn cam(encoder: &Encoder, x: &Tensor, directions: &Tensor) -> Result<Explanation> {
    let size = places(x)?;
    let [times, ..] = size;
    let maps = match encoder {
        Encoder::Late(net) => net.maps_of_images(x, Mode::Eval)?,
        _ => encoder.features(x, Mode::Eval)?,
    };
    let is_fine = |(_, map): &&(String, Tensor)| map.size().iter().rev().take(2).all(|&side| side >= PLACES);
    let none = || Error::config("encoder", "it has no stage");
    let (_, last) = maps.last().ok_or_else(none)?;
    let (name, map) = maps.iter().rfind(is_fine).or(maps.first()).ok_or_else(none)?;
    let embeddings = match encoder {
        Encoder::Late(net) => {
            let frames = last.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
            net.fused(&frames.f_unflatten(0, [-1, times])?)?
        }
        _ => last.f_mean_dim([2i64, 3, 4].as_slice(), false, Kind::Float)?,
    };
    let sum = along(&embeddings, directions)?.f_sum(Kind::Float)?;
    let gradient = Tensor::f_run_backward(&[&sum], &[map], false, false)?.pop().ok_or_else(none)?;
    let of_clips = |x: Tensor| match encoder {
        Encoder::Late(_) => of_images(&x, times),
        _ => Ok(x),
    };
    let cam = grad_cam(&of_clips(map.f_detach()?)?, &of_clips(gradient)?)?;
    Ok(Explanation { name: format!("Grad-CAM of {name}"), map: enlarged(&cam, &size)? })
}

fn looks(net: &VideoVit, x: &Tensor) -> Result<Explanation> {
    let [times, side] = net.config().grid();
    let rollout = attention_rollout(&net.attention(x)?, 0.)?;
    let mean = rollout.f_mean_dim([1i64].as_slice(), false, Kind::Float)?;
    let above = mean.f_sub(&mean.f_amin([1i64], true)?)?.f_unflatten(1, [times, side, side])?;
    Ok(Explanation { name: "attention rollout".into(), map: enlarged(&above, &places(x)?)? })
}

/// Frames, height and width.
fn places(x: &Tensor) -> Result<[i64; 3]> {
    match <[i64; 5]>::try_from(x.size()) {
        Ok([_, _, times, height, width]) => Ok([times, height, width]),
        Err(got) => Err(Error::Shape { what: "clips".into(), expected: "[B, C, T, H, W]".into(), got }),
    }
}

/// What can be told of any function of clips, such as [`along`] of their embeddings: integrated gradients from a clip of the
/// mean colour, summed over channels.
///
/// # Shapes
/// `x`: `[B, C, T, H, W]`, normalized, so that zeros are the mean colour.
///
/// # Errors
/// As [`integrated_gradients`].
pub fn of_input(f: Scalar<'_>, x: &Tensor) -> Result<Explanation> {
    places(x)?;
    let found = integrated_gradients(f, x, &x.f_zeros_like()?, STEPS)?;
    let map = found.values.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
    Ok(Explanation { name: "integrated gradients".into(), map })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::explain::gradient;

    fn clips(frames: i64, side: i64) -> Tensor {
        let size = [2, 1, frames, side, side];
        Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().view(size)
    }

    fn build(name: &str, side: usize, frames: usize) -> (VarStore, Encoder) {
        let like = EncoderConfig::default().with_channels(1);
        let config = EncoderConfig::named(name, &like, side, frames).unwrap();
        let config = match config {
            EncoderConfig::Late(late) => {
                EncoderConfig::Late(crate::backbones::LateConfig { frames: 2, ..late })
            }
            other => other,
        };
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoder::new(&vars.root(), &config).unwrap();
        let tensors: BTreeMap<String, Tensor> = vars.variables().into_iter().collect();
        let (copy_vars, copy) = encoder_of(&config, &tensors, Device::Cpu).unwrap();
        let x = clips(frames as i64, side as i64);
        let embed = |encoder: &Encoder| encoder.forward(&x, Mode::Eval).unwrap();
        assert!(embed(&encoder).allclose(&embed(&copy), 1e-5, 1e-6, false), "{name}");
        (copy_vars, copy)
    }

    #[test]
    fn the_map_goes_to_the_embedding_that_the_network_itself_makes() {
        for name in ["r3d10_w2", "resnet10_w2_late"] {
            let (_vars, encoder) = build(name, 16, 4);
            let x = clips(4, 16);
            let embeddings = encoder.forward(&x, Mode::Eval).unwrap();
            let directions = embeddings.detach();
            let found = of_encoder(&encoder, &x, &directions).unwrap().remove(0);
            assert_eq!(found.map.size(), [2, 4, 16, 16], "{name}");
            assert!(found.map.max().double_value(&[]) > 0., "{name}");
            // Twice the direction is twice the share.
            let twice = of_encoder(&encoder, &x, &(&directions * 2.)).unwrap().remove(0);
            assert!(twice.map.allclose(&(found.map * 2.), 1e-4, 1e-7, false), "{name}");
            // A direction of another width is that of another embedding.
            assert!(of_encoder(&encoder, &x, &directions.narrow(1, 0, 3)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_transformer_looks_at_tubelets_and_a_recurrent_network_tells_nothing() {
        let (_vars, encoder) = build("video_vit_d24_l2_h3", 16, 4);
        let x = clips(4, 16);
        let any = Tensor::zeros([2, 24], (Kind::Float, Device::Cpu));
        let found = of_encoder(&encoder, &x, &any).unwrap().remove(0);
        assert_eq!((found.name.as_str(), found.map.size()), ("attention rollout", vec![2, 4, 16, 16]));
        assert!(found.map.min().double_value(&[]) >= 0. && found.map.max().double_value(&[]) > 0.);
        let weights = encoder.vit("").unwrap().attention(&x).unwrap();
        assert_eq!(weights.iter().map(Tensor::size).collect::<Vec<_>>(), [[2, 3, 8, 8]; 2]);
        let (_vars, encoder) = build("convlstm_w4_l1", 16, 4);
        assert!(of_encoder(&encoder, &x, &any).unwrap().is_empty());
    }

    #[test]
    fn the_shares_of_pixels_are_those_of_the_gradient_where_it_is_constant() {
        let x = clips(2, 4);
        let weights = x.cos();
        let f =
            |x: &Tensor| Ok((x * &weights).sum_dim_intlist([1i64, 2, 3, 4].as_slice(), false, Kind::Float));
        let found = of_input(&f, &x).unwrap();
        let slow = gradient(&f, &x).unwrap() * &x;
        assert!(found.map.allclose(&slow.squeeze_dim(1), 1e-4, 1e-6, false));
        let message = of_input(&f, &x.select(0, 0)).unwrap_err().to_string();
        assert_eq!(message, "clips: expected [B, C, T, H, W], got [1, 2, 4, 4]");
    }
}
