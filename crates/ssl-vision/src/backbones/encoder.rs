//! The encoder of a method: which network it is, and who makes it.
//!
//! A method gets [`Encoders`] and takes from it the encoder that it trains, and others of the same shape for teachers.
//! So several methods can train one encoder without knowing of each other.
use super::vit::resample_positions;
use super::{
    Arch, Backbone, PROBE_FEATURES, ResNet, ResNetConfig, Stem, Vit, VitArch, VitConfig, probe_features,
};
use crate::{Augment, Clean};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use ssl_core::checkpoint::load_encoder_fitted;
use ssl_core::eval::Layer;
use ssl_core::objectives::SharedEncoder;
use ssl_core::{Error, Mode, Result, dims4, encoder_in, no_grad};
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

/// Which network, and its shape; in JSON the name under `arch` decides.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EncoderConfig {
    /// A residual convolutional network.
    ResNet(ResNetConfig),
    /// A Vision Transformer.
    Vit(VitConfig),
}

impl<'de> Deserialize<'de> for EncoderConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let is_vit = value.get("arch").and_then(Value::as_str).is_some_and(|arch| arch.starts_with("vit"));
        let config = if is_vit {
            serde_json::from_value(value).map(EncoderConfig::Vit)
        } else {
            serde_json::from_value(value).map(EncoderConfig::ResNet)
        };
        config.map_err(D::Error::custom)
    }
}

impl From<ResNetConfig> for EncoderConfig {
    fn from(config: ResNetConfig) -> Self {
        EncoderConfig::ResNet(config)
    }
}

impl From<VitConfig> for EncoderConfig {
    fn from(config: VitConfig) -> Self {
        EncoderConfig::Vit(config)
    }
}

impl EncoderConfig {
    /// The network of that name for images of so many pixels; what the name does not say is as in `like`, where that
    /// is of the same kind.
    ///
    /// # Errors
    /// `Error::Config` when there is no such network.
    pub fn named(name: &str, like: &EncoderConfig, image_size: usize) -> Result<Self> {
        let channels = like.channels();
        if name.starts_with("vit") {
            let arch: VitArch = name.parse()?;
            return Ok(EncoderConfig::Vit(match like {
                EncoderConfig::Vit(like) => VitConfig { arch, ..like.clone() },
                EncoderConfig::ResNet(_) => VitConfig {
                    arch,
                    image_size: image_size as i64,
                    patch_size: if image_size < 128 { 4 } else { 16 },
                    channels,
                    ..VitConfig::default()
                },
            }));
        }
        let arch: Arch = name.parse()?;
        let stem = match like {
            EncoderConfig::ResNet(like) => like.stem,
            EncoderConfig::Vit(_) if image_size < 64 => Stem::Cifar,
            EncoderConfig::Vit(_) => Stem::ImageNet,
        };
        Ok(EncoderConfig::ResNet(ResNetConfig { arch, stem, channels }))
    }

    /// The network's name.
    pub fn name(&self) -> String {
        match self {
            EncoderConfig::ResNet(config) => config.arch.to_string(),
            EncoderConfig::Vit(config) => config.arch.to_string(),
        }
    }

    /// Channels of the images.
    pub fn channels(&self) -> i64 {
        match self {
            EncoderConfig::ResNet(config) => config.channels,
            EncoderConfig::Vit(config) => config.channels,
        }
    }

    /// Where a variable of the encoder lies, by its name without what is before it in a store: fine-tuning changes the
    /// first layers least.
    pub fn layer_of(&self, name: &str) -> Layer {
        match self {
            EncoderConfig::ResNet(config) => config.layer_of(name),
            EncoderConfig::Vit(config) => config.layer_of(name),
        }
    }

    /// The same network for images of other channels.
    pub fn with_channels(self, channels: i64) -> Self {
        match self {
            EncoderConfig::ResNet(config) => ResNetConfig { channels, ..config }.into(),
            EncoderConfig::Vit(config) => VitConfig { channels, ..config }.into(),
        }
    }
}

/// A network of either kind.
#[derive(Debug)]
pub enum Encoder {
    /// A residual convolutional network.
    ResNet(ResNet),
    /// A Vision Transformer.
    Vit(Vit),
}

impl Encoder {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig) -> Result<Self> {
        Ok(match config {
            EncoderConfig::ResNet(config) => Encoder::ResNet(ResNet::new(p, config)?),
            EncoderConfig::Vit(config) => Encoder::Vit(Vit::new(p, config)?),
        })
    }

    /// Each stage as a vector for a linear probe, in evaluation mode and without gradients.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`; returns `[B, D_i]` each.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub fn stages(&self, x: &Tensor) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| probe_features(&self.features(x, Mode::Eval)?, PROBE_FEATURES))
    }

    /// What is at each position once all layers are passed, before it is averaged. `[B, D, H, W]`.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub fn map(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Encoder::ResNet(net) => {
                let last = net.features(x, mode)?.pop();
                last.map(|(_, map)| map).ok_or_else(|| Error::config("encoder", "it has no stage"))
            }
            Encoder::Vit(net) => {
                let (_, _, height, width) = dims4(x, "images", "[B, C, H, W]")?;
                let [rows, columns] = [height, width].map(|side| side / net.patch_size());
                let patches = net.tokens(x, None, mode)?.f_narrow(1, 1, rows * columns)?;
                Ok(patches.f_transpose(1, 2)?.f_unflatten(2, [rows, columns])?)
            }
        }
    }

    /// The Vision Transformer, for `method`, which needs one.
    ///
    /// # Errors
    /// `Error::Config` when it is another network.
    pub fn vit(&self, method: &str) -> Result<&Vit> {
        match self {
            Encoder::Vit(vit) => Ok(vit),
            Encoder::ResNet(_) => {
                let message = format!("{method} needs a Vision Transformer such as vit_tiny, got a ResNet");
                Err(Error::config("encoder", message))
            }
        }
    }
}

impl Backbone for Encoder {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        match self {
            Encoder::ResNet(net) => net.features(x, mode),
            Encoder::Vit(net) => net.features(x, mode),
        }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Encoder::ResNet(net) => net.forward(x, mode),
            Encoder::Vit(net) => net.forward(x, mode),
        }
    }

    fn dim(&self) -> i64 {
        match self {
            Encoder::ResNet(net) => net.dim(),
            Encoder::Vit(net) => net.dim(),
        }
    }
}

/// Makes the encoders of a method.
#[derive(Debug)]
pub struct Encoders {
    config: EncoderConfig,
    device: Device,
    shared: Option<SharedEncoder<Encoder>>,
    weights: Option<PathBuf>,
    pixels: Clean,
}

/// Where a method's encoder lies in its store.
const NAME: &str = "encoder";
/// The classifiers of torchvision's and timm's networks.
const CLASSIFIERS: [&str; 2] = ["fc.", "head."];
/// The positions of a Vision Transformer.
const POSITIONS: &str = "pos_embed";

impl Encoders {
    /// Encoders of one shape on `device`.
    pub fn new(config: impl Into<EncoderConfig>, device: Device) -> Self {
        let pixels = Clean::of(&Augment::default());
        Encoders { config: config.into(), device, shared: None, weights: None, pixels }
    }

    /// The same for images that are normalized so; unless told otherwise by ImageNet's mean and deviation.
    pub fn of_pixels(self, pixels: &Clean) -> Self {
        Encoders { pixels: pixels.clone(), ..self }
    }

    /// The same, whose students start from the weights in a safetensors file under this workspace's names, which are
    /// torchvision's and timm's; a classifier in it is left out, positions are resampled to the encoder's grid.
    pub fn starting_from(self, file: impl Into<PathBuf>) -> Self {
        Encoders { weights: Some(file.into()), ..self }
    }

    /// Where the networks live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How the images are normalized, for a method that has to know what their numbers stand for.
    pub fn pixels(&self) -> &Clean {
        &self.pixels
    }

    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The encoder that the method trains, under `encoder` in `vars`.
    ///
    /// # Errors
    /// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the weights to start from
    /// are another encoder's.
    pub fn student(&self, vars: &VarStore) -> Result<Rc<Encoder>> {
        let Some(shared) = &self.shared else {
            let encoder = Encoder::new(&(vars.root() / NAME), &self.config)?;
            if let Some(file) = &self.weights {
                load_weights(file, vars)?;
            }
            return Ok(Rc::new(encoder));
        };
        Ok(shared.lend(vars))
    }

    /// Another of the same shape, without stochastic depth, under `encoder` in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn teacher(&self, vars: &VarStore) -> Result<Encoder> {
        let config = match &self.config {
            EncoderConfig::Vit(config) => VitConfig { drop_path: 0., ..config.clone() }.into(),
            other => other.clone(),
        };
        Encoder::new(&(vars.root() / NAME), &config)
    }

    /// Encoders that hand one and the same student to every method; its variables are made in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn shared(&self, vars: &VarStore) -> Result<Self> {
        let encoder = self.student(vars)?;
        let shared = Some(SharedEncoder::new(encoder, vars));
        let (config, pixels) = (self.config.clone(), self.pixels.clone());
        Ok(Encoders { shared, config, device: self.device, weights: None, pixels })
    }
}

/// Copies the weights of a file into the encoder in `vars`.
fn load_weights(file: &FilePath, vars: &VarStore) -> Result<()> {
    let fit = |name: &str, have: &Tensor, want: &Tensor| match name {
        POSITIONS => resample_positions(have, &want.size()),
        _ => Ok(have.shallow_clone()),
    };
    load_encoder_fitted(file, &encoder_in(vars), &CLASSIFIERS, &fit).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SMALL: ResNetConfig = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 1 };

    #[test]
    fn the_name_decides_which_shape_is_read() {
        let json = json!({"arch": "resnet10_w4", "stem": "cifar", "channels": 1});
        let config: EncoderConfig = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(config, SMALL.into());
        assert_eq!(serde_json::to_value(&config).unwrap(), json);
        let vit: EncoderConfig = serde_json::from_value(
            json!({"arch": "vit_tiny", "image_size": 28, "patch_size": 4, "channels": 1}),
        )
        .unwrap();
        assert_eq!((vit.name(), vit.channels()), ("vit_tiny".to_string(), 1));
        let again: EncoderConfig = serde_json::from_value(serde_json::to_value(&vit).unwrap()).unwrap();
        assert_eq!(again, vit);
        let wrong = serde_json::from_value::<EncoderConfig>(json!({"arch": "vit_tiny", "stem": "cifar"}));
        assert!(wrong.unwrap_err().to_string().contains("stem"));
    }

    #[test]
    fn a_network_of_another_name_keeps_what_the_name_does_not_say() {
        let vit = EncoderConfig::named("vit_tiny", &SMALL.into(), 28).unwrap();
        assert!(
            matches!(&vit, EncoderConfig::Vit(vit) if (vit.image_size, vit.patch_size, vit.channels) == (28, 4, 1))
        );
        let back = EncoderConfig::named("resnet10_w4", &vit, 28).unwrap();
        assert_eq!(back, SMALL.into());
        let message = EncoderConfig::named("resnet19", &vit, 28).unwrap_err().to_string();
        assert!(message.contains("resnet18, resnet34"), "{message}");
    }

    #[test]
    fn all_methods_get_the_one_shared_student_and_teachers_of_their_own() {
        let encoders = Encoders::new(SMALL, Device::Cpu);
        let owner = VarStore::new(Device::Cpu);
        let encoders = encoders.shared(&owner).unwrap();
        let stores = [VarStore::new(Device::Cpu), VarStore::new(Device::Cpu)];
        let students = stores.each_ref().map(|vars| encoders.student(vars).unwrap());
        assert!(Rc::ptr_eq(&students[0], &students[1]));
        let place = |vars: &VarStore| vars.variables()["encoder.conv1.weight"].data_ptr();
        assert_eq!(place(&stores[0]), place(&owner));
        assert_eq!(stores[1].len(), owner.len());
        let teacher = VarStore::new(Device::Cpu);
        encoders.teacher(&teacher).unwrap();
        assert_ne!(place(&teacher), place(&owner));
    }

    #[test]
    fn the_mean_of_the_map_is_the_representation() {
        let vit = json!({"arch": "vit_d12_l1_h3", "image_size": 8, "patch_size": 4, "channels": 1});
        let vit: EncoderConfig = serde_json::from_value(vit).unwrap();
        let x = Tensor::arange(2 * 128, (tch::Kind::Float, Device::Cpu)).sin().view([2, 1, 16, 8]);
        for (config, size) in [(SMALL.into(), [2, 32, 2, 1]), (vit, [2, 12, 4, 2])] {
            let vars = VarStore::new(Device::Cpu);
            let net = Encoder::new(&vars.root(), &config).unwrap();
            let map = net.map(&x, Mode::Eval).unwrap();
            assert_eq!(map.size(), size);
            if let Encoder::ResNet(_) = net {
                let mean = map.mean_dim([2i64, 3].as_slice(), false, tch::Kind::Float);
                assert!(net.forward(&x, Mode::Eval).unwrap().allclose(&mean, 1e-5, 1e-6, false));
            } else {
                let tokens = net.vit("").unwrap().tokens(&x, None, Mode::Eval).unwrap();
                // Row 3, column 1.
                assert!(map.select(3, 1).select(2, 3).equal(&tokens.select(1, 1 + 7)));
            }
        }
    }

    #[test]
    fn a_method_that_needs_a_transformer_says_so() {
        let vars = VarStore::new(Device::Cpu);
        let net = Encoder::new(&vars.root(), &SMALL.into()).unwrap();
        let message = net.vit("mae").unwrap_err().to_string();
        assert_eq!(message, "encoder: mae needs a Vision Transformer such as vit_tiny, got a ResNet");
    }
}
