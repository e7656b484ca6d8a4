//! The methods, one file each. A new one is its file, a line in `methods!` below, and a recipe.

use crate::augment::View;
use crate::backbones::Encoders;
use crate::place::Place;
use crate::recipe::Recipe;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
pub use ssl_core::registry::Info;
use ssl_core::registry::{Registered, configured, find_in};
use ssl_core::{Error, Method, Metrics, Precision, Result, Views};
use tch::{Kind, Reduction, Tensor};

/// A method on clips: it says which views it trains on.
pub trait VideoMethod: Method<Batch = Views, Input = Tensor> {
    /// The frames and the augmentation of each view of a batch.
    fn views(&self) -> Vec<View>;

    /// Where the views of a video lie; none where it does not matter.
    fn place(&self) -> Option<Place> {
        None
    }

    /// A vector for each place in time, without gradients: what stands behind [`Method::embed`] before time is joined.
    ///
    /// # Shapes
    /// `clips`: `[B, C, T, H, W]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// As its encoder's.
    fn frames(&self, clips: &Tensor) -> Result<Tensor>;
}

/// What a method's file defines beside the method.
pub trait Definition: VideoMethod + Sized + 'static {
    /// Where the method comes from.
    const INFO: Info;

    /// Its hyperparameters; the defaults are the paper's.
    type Config: Serialize + DeserializeOwned + JsonSchema + Default;

    /// Networks whose encoders `encoders` makes, initialized from libtorch's generator.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    fn new(config: Self::Config, encoders: &Encoders) -> Result<Self>;
}

/// A method that can be chosen by name.
pub type Entry = Registered<dyn VideoMethod, Encoders, Recipe>;

fn build<D: Definition>(config: &Value, encoders: &Encoders) -> Result<Box<dyn VideoMethod>> {
    Ok(Box::new(D::new(configured(D::INFO.name, config)?, encoders)?))
}

macro_rules! methods {
    ($($module:ident::$method:ident),* $(,)?) => {
        $(pub mod $module;)*
        $(pub use $module::$method;)*

        /// Every method.
        pub const ALL: &[Entry] = &[
            $(Entry::new::<<$method as Definition>::Config>(
                <$method as Definition>::INFO,
                include_str!(concat!("../../recipes/", stringify!($module), ".json")),
                build::<$method>,
            )),*
        ];
    };
}

methods! {
    arrow_of_time::ArrowOfTime,
    clip_order::ClipOrder,
    cvrl::Cvrl,
    dpc::Dpc,
    frame_order::FrameOrder,
    multi::Multi,
    next_frame::NextFrame,
    pace::Pace,
    video_mae::VideoMae,
}

/// The method of that name.
///
/// # Errors
/// `Error::Config` that lists the names.
pub fn find(name: &str) -> Result<&'static Entry> {
    find_in(ALL, name)
}

/// As many views as a method takes.
fn views<'a, const N: usize>(Views(views): &'a Views, method: &str) -> Result<&'a [Tensor; N]> {
    let got = || Error::config("views", format!("{method} takes {N}, got {}", views.len()));
    views.as_slice().try_into().map_err(|_| got())
}

/// Cross entropy and accuracy of a choice among classes, in float32.
///
/// # Shapes
/// `logits`: `[B, K]`; `target`: `[B]`; returns two scalars.
fn choice(logits: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
    let logits = logits.f_to_kind(Kind::Float)?;
    let loss = Precision::Fp32.scope(logits.device(), || {
        Ok(logits.f_cross_entropy_loss::<&Tensor>(target, None, Reduction::Mean, -100, 0.)?)
    })?;
    let hits = logits.f_argmax(-1, false)?.f_eq_tensor(target)?;
    Ok((loss, hits.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?))
}

/// What held-out examples say of a choice, beside what the best guess without looking gets.
fn judged((loss, accuracy): (Tensor, Tensor), chance: f64) -> Metrics {
    vec![("loss".into(), loss), ("accuracy".into(), accuracy), ("chance".into(), Tensor::from(chance as f32))]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::backbones::EncoderConfig;
    use serde_json::json;
    use ssl_core::eval::{Finetune, FinetuneOptions, Labelled, Layer};
    use ssl_core::{Loader, no_grad};
    use tch::Device;

    /// What builds a method with a small encoder of that name for grey clips of 16 pixels.
    pub(crate) fn encoders(arch: &str, frames: usize) -> Encoders {
        let like = EncoderConfig::default().with_channels(1);
        let config = EncoderConfig::named(arch, &like, 16, frames).unwrap();
        let config = match config {
            EncoderConfig::ResNet3d(config) => {
                crate::backbones::ResNet3dConfig { stem: ssl_vision::backbones::Stem::Strided, ..config }
                    .into()
            }
            EncoderConfig::Late(config) => {
                crate::backbones::LateConfig { stem: ssl_vision::backbones::Stem::Strided, ..config }.into()
            }
            EncoderConfig::Predictive(config) => crate::backbones::PredictiveConfig {
                stem: ssl_vision::backbones::Stem::Strided,
                block_frames: 2,
                ..config
            }
            .into(),
            other => other,
        };
        Encoders::new(config, Device::Cpu)
    }

    /// Clips of 16 pixels in which waves move, each another way.
    pub(crate) fn clips(batch: i64, frames: i64) -> Tensor {
        let axis = |n: i64, shape: &[i64]| Tensor::arange(n, (Kind::Float, Device::Cpu)).view(shape);
        let (x, y) = (axis(16, &[1, 1, 1, 1, 16]), axis(16, &[1, 1, 1, 16, 1]));
        let (t, b) = (axis(frames, &[1, 1, frames, 1, 1]), axis(batch, &[batch, 1, 1, 1, 1]));
        (x * 0.5 + &b + &t * (&b * 0.1 + 0.3)).sin() + (y * (&b * 0.07 + 0.4) - t * 0.2).cos()
    }

    #[test]
    fn every_recipe_builds_its_method() {
        for entry in ALL {
            let mut recipes = entry.recipes().unwrap();
            for data in ["moving-fashion-mnist", "camera-clips", "default"] {
                let name = entry.info.name;
                let recipe = recipes.remove(data).unwrap_or_else(|| panic!("{name}: no recipe for {data}"));
                recipe.train.validate().unwrap();
                let channels = recipe.encoder.channels() as usize;
                assert_eq!(channels, recipe.clean.mean.len(), "{name}, {data}: channels of clean clips");
                assert!(recipe.train.clip_norm.is_none_or(|norm| norm > 0.));
                let method = entry.build(&recipe.method, &Encoders::new(recipe.encoder, Device::Cpu));
                let method = method.unwrap_or_else(|error| panic!("{name}, {data}: {error}"));
                let views = method.views();
                assert!(!views.is_empty());
                for view in views {
                    view.validate().unwrap();
                    let room = if data == "moving-fashion-mnist" { 20 } else { 300 };
                    assert!(view.window() <= room, "{name}, {data}: {} frames", view.window());
                    assert_eq!(view.augment.clip.size, recipe.clean.size, "{name}, {data}: side of a view");
                }
                assert!(recipe.clean.window() <= 20 || data != "moving-fashion-mnist", "{name}");
            }
        }
    }

    #[test]
    fn every_encoder_embeds_clean_clips_and_can_be_fine_tuned_in_all_its_layers() {
        let labels = [0, 1, 2, 0, 1, 2];
        for entry in ALL {
            let name = entry.info.name;
            let recipe = entry.recipe("moving-fashion-mnist").unwrap();
            let (encoder, clean) = (recipe.encoder, recipe.clean);
            let (side, frames) = (clean.size as i64, clean.frames as i64);
            let pictures = |rows: &[usize]| {
                let size = [rows.len() as i64, encoder.channels(), frames, side, side];
                let count = Tensor::f_arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu))?;
                Ok(count.f_sin()?.f_view(size)?)
            };
            let train = Labelled::shuffled(&pictures, &labels, &[0, 1, 2, 3, 4, 5], 6, 0).unwrap();
            let test = Labelled::in_order(&pictures, &labels, 6).unwrap();
            let method = entry.build(&recipe.method, &Encoders::new(encoder.clone(), Device::Cpu)).unwrap();
            let layers: Vec<Layer> = method.encoder().keys().map(|name| encoder.layer_of(name)).collect();
            let of = layers[0].of;
            assert!((0..of).all(|depth| layers.iter().any(|layer| layer.depth == depth)), "{layers:?}");
            let one = pictures(&[0]).unwrap();
            let before = method.embed(&one).unwrap();
            assert_eq!(method.frames(&one).unwrap().dim(), 3);
            assert!(!no_grad(|| method.stages(&one)).unwrap().is_empty());
            let options = FinetuneOptions { epochs: 1., min_steps: 0, ..FinetuneOptions::default() };
            let found = Finetune {
                options,
                classes: 3,
                layer_of: &|name| encoder.layer_of(name),
                loader: Loader { device: Device::Cpu, prefetch: 0 },
                precision: Precision::Fp32,
            }
            .run(method.as_ref(), &train, &test)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((found.steps, found.n_test), (1, 6));
            assert!(before.equal(&method.embed(&one).unwrap()), "{name}: the encoder is another one");
        }
    }

    #[test]
    fn an_unknown_hyperparameter_is_refused_by_name() {
        let entry = find("frame_order").unwrap();
        let error = entry.build(&json!({"view": {"strid": 2}}), &encoders("resnet10_w4_late", 4));
        assert!(error.unwrap_err().to_string().contains("strid"));
    }

    #[test]
    fn an_unknown_method_lists_those_there_are() {
        let message = find("opn").unwrap_err().to_string();
        assert!(message.contains("frame_order") && message.ends_with("got opn"), "{message}");
    }
}
