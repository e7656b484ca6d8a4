//! The methods, one file each. A new one is its file, a line in `methods!` below, and a recipe.

use crate::augment::Augment;
use crate::backbones::Encoders;
use crate::recipe::Recipe;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
pub use ssl_core::registry::Info;
use ssl_core::registry::{Registered, configured, find_in};
use ssl_core::{Method, Result, Views};
use tch::Tensor;

/// A method on images: it says which views it trains on.
pub trait VisionMethod: Method<Batch = Views, Input = Tensor> {
    /// The augmentation of each view of a batch.
    fn views(&self) -> Vec<Augment>;

    /// Whether it can learn from images of that many channels.
    ///
    /// # Errors
    /// `Error::Config` when it needs something that they lack.
    fn admit(&self, _channels: usize) -> Result<()> {
        Ok(())
    }

    /// Clean images as the method draws them from what it makes of them, where it draws whole images: how far the two
    /// are apart says how unlike the training images one is. Without gradients.
    ///
    /// # Shapes
    /// `images`: `[B, C, S, S]`; returns the same.
    fn restore(&self, _images: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// What a method's file defines beside the method.
pub trait Definition: VisionMethod + Sized + 'static {
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
pub type Entry = Registered<dyn VisionMethod, Encoders, Recipe>;

fn build<D: Definition>(config: &Value, encoders: &Encoders) -> Result<Box<dyn VisionMethod>> {
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
    autoencoder::Autoencoder,
    barlow_twins::BarlowTwins,
    bigan::BiGan,
    byol::Byol,
    colorization::Colorization,
    data2vec::Data2Vec,
    deepcluster_v2::DeepClusterV2,
    dino::Dino,
    i_jepa::IJepa,
    ibot::IBot,
    inpainting::Inpainting,
    jigsaw::Jigsaw,
    lejepa::LeJepa,
    mae::Mae,
    maskfeat::MaskFeat,
    moco_v2::MoCoV2,
    moco_v3::MoCoV3,
    multi::Multi,
    nnclr::NnClr,
    pirl::Pirl,
    relative_location::RelativeLocation,
    rotation::Rotation,
    simclr::SimClr,
    simmim::SimMim,
    simsiam::SimSiam,
    swav::Swav,
    tico::TiCo,
    vae::Vae,
    vicreg::VicReg,
}

/// The method of that name.
///
/// # Errors
/// `Error::Config` that lists the names.
pub fn find(name: &str) -> Result<&'static Entry> {
    find_in(ALL, name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::backbones::EncoderConfig;
    use serde_json::json;
    use ssl_core::eval::{Finetune, FinetuneOptions, Labelled, Layer};
    use ssl_core::{Loader, Precision};
    use tch::{Device, Kind};

    /// Two views of images of 8 x 8 pixels in one channel.
    pub(crate) fn views(n: i64) -> Views {
        let at = |step: f64| (Tensor::arange(n * 64, (Kind::Float, Device::Cpu)) * step).sin();
        let (x, noise) = (at(0.37), at(1.93));
        Views([0.3, -0.3].map(|part: f64| (&x + part * &noise).view([n, 1, 8, 8])).into())
    }

    /// The rows of a matrix.
    pub(crate) fn rows(x: &Tensor) -> Vec<Vec<f64>> {
        (0..x.size()[0]).map(|i| Vec::try_from(x.get(i).to_kind(Kind::Double)).unwrap()).collect()
    }

    /// The one number of a tensor.
    pub(crate) fn value(x: &Tensor) -> f64 {
        f64::try_from(x).unwrap()
    }

    #[test]
    fn every_recipe_builds_its_method() {
        for entry in ALL {
            let mut recipes = entry.recipes().unwrap();
            for data in ["fashion-mnist", "cifar10", "default"] {
                let Some(recipe) = recipes.remove(data) else {
                    let recipe = entry.recipe("default").unwrap();
                    let method = entry.build(&recipe.method, &recipe.encoders(Device::Cpu)).unwrap();
                    let missing = data == "fashion-mnist" && method.admit(1).is_err();
                    assert!(missing, "{}: no recipe for {data}", entry.info.name);
                    continue;
                };
                recipe.train.validate().unwrap();
                let method = entry.build(&recipe.method, &recipe.encoders(Device::Cpu)).unwrap();
                assert!(!method.views().is_empty());
            }
        }
    }

    #[test]
    fn every_encoder_can_be_fine_tuned_in_all_its_layers() {
        let labels = [0, 1, 2, 0, 1, 2];
        for entry in ALL {
            let recipe = entry.recipe("fashion-mnist").unwrap();
            let channels = recipe.encoder.channels();
            let pictures = |rows: &[usize]| {
                let size = [rows.len() as i64, channels, 28, 28];
                Ok(Tensor::f_arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu))?
                    .f_sin()?
                    .f_view(size)?)
            };
            let train = Labelled::shuffled(&pictures, &labels, &[0, 1, 2, 3, 4, 5], 6, 0).unwrap();
            let test = Labelled::in_order(&pictures, &labels, 6).unwrap();
            let small =
                if recipe.encoder.name().starts_with("vit") { "vit_d24_l2_h3" } else { "resnet10_w4" };
            let encoder = EncoderConfig::named(small, &recipe.encoder, 28).unwrap();
            let method = entry.build(&recipe.method, &Encoders::new(encoder.clone(), Device::Cpu)).unwrap();
            let layers: Vec<Layer> = method.encoder().keys().map(|name| encoder.layer_of(name)).collect();
            assert!(
                (0..layers[0].of).all(|depth| layers.iter().any(|layer| layer.depth == depth)),
                "{layers:?}"
            );
            let before = method.embed(&pictures(&[0]).unwrap()).unwrap();
            let options = FinetuneOptions { epochs: 2., min_steps: 0, ..FinetuneOptions::default() };
            let found = Finetune {
                options,
                classes: 3,
                layer_of: &|name| encoder.layer_of(name),
                loader: Loader { device: Device::Cpu, prefetch: 0 },
                precision: Precision::Fp32,
            }
            .run(method.as_ref(), &train, &test)
            .unwrap_or_else(|error| panic!("{}: {error}", entry.info.name));
            assert_eq!((found.steps, found.n_test), (2, 6));
            let after = method.embed(&pictures(&[0]).unwrap()).unwrap();
            assert!(before.equal(&after), "{}: the encoder is another one", entry.info.name);
        }
    }

    fn build_simclr(config: &Value) -> Result<Box<dyn VisionMethod>> {
        let entry = find("simclr").unwrap();
        let encoders = Encoders::new(entry.recipe("fashion-mnist").unwrap().encoder, Device::Cpu);
        entry.build(config, &encoders)
    }

    #[test]
    fn an_unknown_hyperparameter_is_refused_by_name() {
        for config in [json!({"temprature": 0.1}), json!({"augment": {"temprature": 0.1}})] {
            let error = build_simclr(&config).unwrap_err().to_string();
            assert!(error.contains("temprature"), "{error}");
        }
    }

    #[test]
    fn hyperparameters_that_are_not_given_are_the_papers_at_every_depth() {
        let paper = Augment::simclr(224, 1.0);
        let views = build_simclr(&json!({"augment": {"size": 96, "crop_scale": [0.5, 1]}})).unwrap().views();
        assert_eq!(views[0], Augment { size: 96, crop_scale: [0.5, 1.0], ..paper.clone() });
        assert_eq!(build_simclr(&Value::Null).unwrap().views()[0], paper);
        let error = build_simclr(&json!({"augment": 7})).unwrap_err().to_string();
        assert!(error.starts_with("simclr: "), "{error}");
    }

    #[test]
    fn an_unknown_method_lists_those_there_are() {
        let message = find("simclrr").unwrap_err().to_string();
        assert!(message.contains("rotation, simclr") && message.ends_with("got simclrr"), "{message}");
    }
}
