//! The methods, one file each. A new one is its file, a line in `methods!` below, and a recipe.

use crate::augment::Augment;
use crate::models::Encoders;
use crate::recipe::Recipe;
use crate::source::Place;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
pub use ssl_core::registry::Info;
use ssl_core::registry::{Registered, configured, find_in};
use ssl_core::{Error, Method, Result, Views};
use std::collections::BTreeMap;
use tch::Tensor;

/// A method on waves: it says which windows it trains on.
pub trait AudioMethod: Method<Batch = Views, Input = Tensor> {
    /// The augmentation of each view of a batch, and with it the length of its window.
    fn views(&self) -> Vec<Augment>;

    /// Where the views of a clip lie; none where it does not matter.
    fn place(&self) -> Option<Place> {
        None
    }

    /// A vector for each position, without gradients: what stands behind [`Method::embed`] before time is pooled.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// As its encoder's.
    fn frames(&self, waves: &Tensor) -> Result<Tensor>;

    /// The model as transformers has it, if it has one.
    fn export(&self) -> Option<Export> {
        None
    }
}

/// A method's model in the layout of transformers.
#[derive(Debug)]
pub struct Export {
    /// The class that loads it there.
    pub class: &'static str,
    /// What its `config.json` calls it.
    pub model_type: &'static str,
    /// Its tensors by their names there.
    pub tensors: BTreeMap<String, Tensor>,
    /// What its `config.json` holds beside the shape of the encoder.
    pub config: Value,
}

/// What a method's file defines beside the method.
pub trait Definition: AudioMethod + Sized + 'static {
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
pub type Entry = Registered<dyn AudioMethod, Encoders, Recipe>;

fn build<D: Definition>(config: &Value, encoders: &Encoders) -> Result<Box<dyn AudioMethod>> {
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
    apc::Apc,
    byol_a::ByolA,
    cola::Cola,
    cpc::Cpc,
    hubert::Hubert,
    masked_spectrogram::MaskedSpectrogram,
    multi::Multi,
    wav2vec2::Wav2Vec2,
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::models::EncoderConfig;
    use serde_json::json;
    use tch::{Device, Kind};

    /// What builds a method with a small encoder of that name.
    pub(crate) fn encoders(arch: &str) -> Encoders {
        Encoders::new(shape(arch), Device::Cpu)
    }

    /// A small encoder with a spectrogram of few rows.
    pub(crate) fn shape(arch: &str) -> EncoderConfig {
        let mel = crate::frontend::MelConfig { mels: 12, ..crate::frontend::MelConfig::default() };
        EncoderConfig { mel, ..EncoderConfig::new(arch.parse().unwrap()) }
    }

    /// Waves whose pitch goes up, each from another one.
    pub(crate) fn waves(batch: i64, samples: i64) -> Tensor {
        let time = Tensor::arange(samples, (Kind::Float, Device::Cpu)) / 16_000.;
        let pitch = (Tensor::arange(batch, (Kind::Float, Device::Cpu)) * 170. + 300.).view([-1, 1]);
        ((&time * 4_000. + pitch) * &time * std::f64::consts::TAU).sin() * 0.3
    }

    #[test]
    fn every_recipe_builds_its_method() {
        for entry in ALL {
            let mut recipes = entry.recipes().unwrap();
            for data in ["asterisk", "default"] {
                let recipe = recipes
                    .remove(data)
                    .unwrap_or_else(|| panic!("{}: no recipe for {data}", entry.info.name));
                recipe.train.validate().unwrap();
                let rate = f64::from(recipe.encoder.sample_rate());
                let method =
                    entry.build(&recipe.method, &Encoders::new(recipe.encoder, Device::Cpu)).unwrap();
                let seconds: f64 = method.views().iter().map(|view| view.samples as f64 / rate).sum();
                assert!(!method.views().is_empty() && (0.5..10.).contains(&seconds), "{data}: {seconds}");
            }
        }
    }

    #[test]
    fn an_unknown_hyperparameter_is_refused_by_name() {
        let entry = find("cpc").unwrap();
        let error = entry.build(&json!({"augment": {"sampels": 100}}), &encoders("cpc_c8_gru"));
        assert!(error.unwrap_err().to_string().contains("sampels"));
    }

    #[test]
    fn an_unknown_method_lists_those_there_are() {
        let message = find("cpcc").unwrap_err().to_string();
        assert!(message.contains("cpc") && message.ends_with("got cpcc"), "{message}");
    }
}
