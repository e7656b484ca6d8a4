//! What an encoder looks at in images.
//!
//! ```
//! use ssl_core::explain::{along, apart};
//! use ssl_vision::backbones::{Backbone, Encoder, EncoderConfig, ResNetConfig, Stem};
//! use ssl_vision::explain::{of_encoder, of_input};
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let config = ResNetConfig { arch: "resnet10_w4".parse()?, stem: Stem::Cifar, channels: 3 };
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &config.into())?;
//! let x = Tensor::f_randn([2, 3, 32, 32], (Kind::Float, Device::Cpu))?;
//! let embed = |x: &Tensor| encoder.forward(x, ssl_core::Mode::Eval);
//! let directions = apart(&embed(&x)?, &Tensor::f_zeros([1, 32], (Kind::Float, Device::Cpu))?)?;
//! let mut found = of_encoder(&encoder, &x, &directions)?;
//! found.extend(of_input(&|x| along(&embed(x)?, &directions), &x)?);
//! let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
//! assert_eq!(names, ["Grad-CAM of layer3", "integrated gradients", "occlusion"]);
//! assert!(found.iter().all(|found| found.map.size() == [2, 32, 32]));
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::backbones::{Backbone, Encoder, EncoderConfig, Pool, ResNet, Vit, VitConfig};
use ssl_core::explain::{
    Scalar, along, attention_rollout, enlarged, grad_cam, integrated_gradients, occlusion, replica, spread,
    windows,
};
use ssl_core::{Error, Mode, Result, dims4};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// What is looked at in each image.
#[derive(Debug)]
pub struct Explanation {
    /// How it was found.
    pub name: String,
    /// The share of each pixel, `[B, H, W]`.
    pub map: Tensor,
}

/// Places along a side that a map needs to say where something is.
const PLACES: i64 = 7;
/// Parts that the way from a grey image is cut into.
const STEPS: i64 = 16;
/// Windows along a side, each of which is hidden in turn.
const WINDOWS: i64 = 7;

/// An encoder of its own with these tensors, to be explained and to be made random; and its variables.
///
/// # Errors
/// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the tensors are another's.
pub fn encoder_of(
    config: &EncoderConfig,
    tensors: &BTreeMap<String, Tensor>,
    device: Device,
) -> Result<(VarStore, Encoder)> {
    let config = match config {
        EncoderConfig::Vit(config) => VitConfig { recompute: false, ..config.clone() }.into(),
        other => other.clone(),
    };
    replica(tensors, device, |p| Encoder::new(p, &config))
}

/// What can be told from inside of an encoder: of a ResNet Grad-CAM, for embeddings along `directions`, of the last stage
/// with seven places along a side; of a Vision Transformer where its class token looks, or the mean of its patches if that
/// is the representation, over all layers and in the last one, above the place that is looked at least.
///
/// # Shapes
/// `x`: `[B, C, H, W]`; `directions`: `[B, D]`.
///
/// # Errors
/// As [`Backbone::features`].
pub fn of_encoder(encoder: &Encoder, x: &Tensor, directions: &Tensor) -> Result<Vec<Explanation>> {
    match encoder {
        Encoder::ResNet(net) => Ok(vec![cam(net, x, directions)?]),
        Encoder::Vit(net) => looks(net, x),
    }
}

fn cam(net: &ResNet, x: &Tensor, directions: &Tensor) -> Result<Explanation> {
    let (_, _, height, width) = dims4(x, "images", "[B, C, H, W]")?;
    let maps = net.features(x, Mode::Eval)?;
    let is_fine = |(_, map): &&(String, Tensor)| map.size().iter().skip(2).all(|&side| side >= PLACES);
    let none = || Error::config("encoder", "it has no stage");
    let (_, last) = maps.last().ok_or_else(none)?;
    let (name, map) = maps.iter().rfind(is_fine).or(maps.first()).ok_or_else(none)?;
    let embeddings = last.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
    let sum = along(&embeddings, directions)?.f_sum(Kind::Float)?;
    let gradient = Tensor::f_run_backward(&[&sum], &[map], false, false)?.pop().ok_or_else(none)?;
    let cam = grad_cam(&map.f_detach()?, &gradient)?;
    Ok(Explanation { name: format!("Grad-CAM of {name}"), map: enlarged(&cam, &[height, width])? })
}

fn looks(net: &Vit, x: &Tensor) -> Result<Vec<Explanation>> {
    let (_, _, height, width) = dims4(x, "images", "[B, C, H, W]")?;
    let grid = [height, width].map(|side| side / net.patch_size());
    let patches = grid.iter().product::<i64>();
    let layers = net.attention(x)?;
    let last = layers.last().ok_or_else(|| Error::config("encoder", "it has no block"))?;
    let last = last.f_mean_dim([1i64].as_slice(), false, Kind::Float)?;
    let map = |weights: &Tensor| -> Result<Tensor> {
        let row = match net.pool() {
            Pool::Token => weights.f_select(1, 0)?,
            Pool::Mean => {
                weights.f_narrow(1, 1, patches)?.f_mean_dim([1i64].as_slice(), false, Kind::Float)?
            }
        };
        let row = row.f_narrow(1, 1, patches)?;
        let above = row.f_sub(&row.f_amin([1i64], true)?)?;
        enlarged(&above.f_unflatten(1, grid)?, &[height, width])
    };
    Ok(vec![
        Explanation { name: "attention rollout".into(), map: map(&attention_rollout(&layers, 0.)?)? },
        Explanation { name: "attention of the last block".into(), map: map(&last)? },
    ])
}

/// What can be told of any function of images, such as [`along`] of their embeddings: integrated gradients from an image
/// of the mean colour, summed over channels; and what is lost where a window of about a seventh of a side is of that colour.
///
/// # Shapes
/// `x`: `[B, C, H, W]`, normalized, so that zeros are the mean colour.
///
/// # Errors
/// As [`integrated_gradients`] and [`occlusion`].
pub fn of_input(f: Scalar<'_>, x: &Tensor) -> Result<Vec<Explanation>> {
    let (_, channels, height, width) = dims4(x, "images", "[B, C, H, W]")?;
    let grey = x.f_zeros_like()?;
    let map = gradients(f, x, STEPS)?;
    let side = |side: i64| (side + WINDOWS - 1) / WINDOWS;
    let window = [channels, side(height), side(width)];
    let hidden = windows(&[channels, height, width], &window, &window, x.device())?;
    let drops = occlusion(f, x, &hidden, &grey)?;
    let lost = spread(&drops, &hidden.f_select(1, 0)?)?;
    Ok(vec![map, Explanation { name: "occlusion".into(), map: lost }])
}

/// The first of [`of_input`] alone, by so many parts of the way.
///
/// # Shapes
/// `x`: `[B, C, H, W]`, normalized.
///
/// # Errors
/// As [`integrated_gradients`].
pub fn gradients(f: Scalar<'_>, x: &Tensor, steps: i64) -> Result<Explanation> {
    let found = integrated_gradients(f, x, &x.f_zeros_like()?, steps)?;
    let map = found.values.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
    Ok(Explanation { name: "integrated gradients".into(), map })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use ssl_core::explain::{apart, gradient};

    fn build(json: serde_json::Value) -> (VarStore, Encoder, EncoderConfig) {
        let config: EncoderConfig = serde_json::from_value(json).unwrap();
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoder::new(&vars.root(), &config).unwrap();
        (vars, encoder, config)
    }

    fn images(size: [i64; 4]) -> Tensor {
        Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().view(size)
    }

    #[test]
    fn grad_cam_of_the_last_stage_is_how_far_each_place_goes_along_the_direction() {
        let (_vars, encoder, _) = build(json!({"arch": "resnet10_w4", "stem": "cifar", "channels": 1}));
        let x = images([2, 1, 56, 56]);
        let directions = apart(
            &encoder.forward(&x, Mode::Eval).unwrap(),
            &Tensor::zeros([1, 32], (Kind::Float, Device::Cpu)),
        );
        let directions = directions.unwrap();
        let found = of_encoder(&encoder, &x, &directions).unwrap().remove(0);
        assert_eq!((found.name.as_str(), found.map.size()), ("Grad-CAM of layer4", vec![2, 56, 56]));
        // The mean over places hands each the same gradient.
        let map = encoder.map(&x, Mode::Eval).unwrap();
        let slow =
            (map * directions.view([2, 32, 1, 1])).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        let slow = enlarged(&(slow.relu() / 49.), &[56, 56]).unwrap();
        assert!(found.map.allclose(&slow, 1e-4, 1e-6, false));
    }

    #[test]
    fn a_class_token_is_asked_where_there_is_one_and_the_patches_elsewhere() {
        for pool in ["token", "mean"] {
            let (_vars, encoder, _) = build(json!({
                "arch": "vit_d12_l2_h3", "image_size": 16, "patch_size": 4, "channels": 1, "pool": pool
            }));
            let x = images([2, 1, 16, 16]);
            let found =
                of_encoder(&encoder, &x, &Tensor::zeros([2, 12], (Kind::Float, Device::Cpu))).unwrap();
            assert_eq!(found.iter().map(|one| one.map.size()).collect::<Vec<_>>(), [[2, 16, 16]; 2]);
            let last = encoder.vit("").unwrap().attention(&x).unwrap().remove(1);
            let mean = last.mean_dim([1i64].as_slice(), false, Kind::Float);
            let rows = if pool == "token" { mean.narrow(1, 0, 1) } else { mean.narrow(1, 1, 16) };
            let row = rows.mean_dim([1i64].as_slice(), false, Kind::Float).narrow(1, 1, 16);
            let above = &row - row.amin([1i64], true);
            let slow = enlarged(&above.view([2, 4, 4]), &[16, 16]).unwrap();
            assert!(found[1].map.allclose(&slow, 1e-4, 1e-7, false), "{pool}");
            assert!(found.iter().all(|one| one.map.min().double_value(&[]) >= 0.));
        }
    }

    #[test]
    fn the_shares_of_pixels_sum_to_what_the_image_adds() {
        let x = images([2, 3, 14, 14]);
        let f = |x: &Tensor| Ok(x.square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float));
        let [gradients, lost] = of_input(&f, &x).unwrap().try_into().unwrap();
        let each = x.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        assert!(gradients.map.allclose(&each, 1e-4, 1e-5, false));
        // A window of 2 x 2 pixels loses what is in it.
        let sum = each.unsqueeze(1).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, 1);
        let sum =
            sum.repeat_interleave_self_int(2, 2, None).repeat_interleave_self_int(2, 3, None).squeeze_dim(1);
        assert!(lost.map.allclose(&sum, 1e-3, 1e-3, false));
    }

    #[test]
    fn an_encoder_of_the_same_tensors_embeds_alike_and_hands_gradients_on() {
        let json = json!({
            "arch": "vit_d12_l2_h3", "image_size": 16, "patch_size": 4, "channels": 1, "recompute": true
        });
        let (vars, encoder, config) = build(json);
        let tensors = vars.variables().into_iter().collect();
        let (_own, copy) = encoder_of(&config, &tensors, Device::Cpu).unwrap();
        let x = images([2, 1, 16, 16]);
        let embed = |encoder: &Encoder, x: &Tensor| encoder.forward(x, Mode::Eval).unwrap();
        assert!(embed(&copy, &x).allclose(&embed(&encoder, &x), 1e-5, 1e-6, false));
        let f = |x: &Tensor| Ok(embed(&copy, x).select(1, 0));
        assert!(gradient(&f, &x).unwrap().abs().max().double_value(&[]) > 0.);
    }
}
