//! The encoder of a method: which network it is.
use super::{
    Arch3d, Backbone, Fusion, Late, LateArch, LateConfig, PROBE_FEATURES, Predictive, PredictiveConfig,
    Recurrent, RecurrentConfig, ResNet3d, ResNet3dConfig, VideoVit, VideoVitConfig, predictive,
    probe_features, recurrent, vit,
};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use ssl_core::eval::Layer;
use ssl_core::{Error, Mode, Result, no_grad};
use ssl_vision::backbones::Stem;
use tch::Tensor;
use tch::nn::Path;

/// Which network, and its shape; in JSON the name under `arch` decides.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EncoderConfig {
    /// A residual network over time and space: `r3d18`, `r2plus1d18`.
    ResNet3d(ResNet3dConfig),
    /// An image network on each frame: `resnet18_late`.
    Late(LateConfig),
    /// A transformer of tubelets: `video_vit_small`.
    Vit(VideoVitConfig),
    /// A residual network on blocks of frames, which a recurrent cell reads: `r2d3d18_gru`.
    Predictive(PredictiveConfig),
    /// Recurrent layers on frames: `convlstm_w32_l2`.
    Recurrent(RecurrentConfig),
}

/// The families of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    ResNet3d,
    Late,
    Vit,
    Predictive,
    Recurrent,
}

impl Family {
    /// What a network of that name is meant to be.
    fn of(name: &str) -> Self {
        if name.starts_with(vit::PREFIX) {
            Family::Vit
        } else if name.starts_with(recurrent::PREFIX) {
            Family::Recurrent
        } else if !Arch3d::is_name(name) {
            Family::Late
        } else if name.ends_with(predictive::SUFFIX) {
            Family::Predictive
        } else {
            Family::ResNet3d
        }
    }
}

impl Default for EncoderConfig {
    /// torchvision's R3D-18.
    fn default() -> Self {
        let arch = Arch3d { convolutions: super::Convolutions::Full, blocks: 2, width: 64 };
        ResNet3dConfig { arch, stem: Stem::ImageNet, channels: 3 }.into()
    }
}

impl<'de> Deserialize<'de> for EncoderConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = value.get("arch").and_then(Value::as_str).unwrap_or_default().to_string();
        let config = match Family::of(&name) {
            Family::ResNet3d => serde_json::from_value(value).map(EncoderConfig::ResNet3d),
            Family::Late => serde_json::from_value(value).map(EncoderConfig::Late),
            Family::Vit => serde_json::from_value(value).map(EncoderConfig::Vit),
            Family::Predictive => serde_json::from_value(value).map(EncoderConfig::Predictive),
            Family::Recurrent => serde_json::from_value(value).map(EncoderConfig::Recurrent),
        };
        config.map_err(D::Error::custom)
    }
}

macro_rules! from {
    ($($config:ident => $variant:ident),*) => {
        $(impl From<$config> for EncoderConfig {
            fn from(config: $config) -> Self {
                EncoderConfig::$variant(config)
            }
        })*
    };
}

from!(
    ResNet3dConfig => ResNet3d, LateConfig => Late, VideoVitConfig => Vit, PredictiveConfig => Predictive,
    RecurrentConfig => Recurrent
);

impl EncoderConfig {
    /// The network of that name for clips of so many frames of so many pixels; what the name does not say is as in
    /// `like`, where that has it.
    ///
    /// # Errors
    /// `Error::Config` when there is no such network.
    pub fn named(name: &str, like: &EncoderConfig, image_size: usize, frames: usize) -> Result<Self> {
        let (channels, stem) = (like.channels(), like.stem(image_size));
        Ok(match Family::of(name) {
            Family::ResNet3d => ResNet3dConfig { arch: name.parse()?, stem, channels }.into(),
            Family::Late => {
                let arch: LateArch = name.parse()?;
                match like {
                    EncoderConfig::Late(like) => LateConfig { arch, ..*like }.into(),
                    _ => LateConfig { arch, stem, channels, fusion: Fusion::Concat, frames: 4 }.into(),
                }
            }
            Family::Vit => {
                let arch = name.parse()?;
                match like {
                    EncoderConfig::Vit(like) => VideoVitConfig { arch, ..like.clone() }.into(),
                    _ => VideoVitConfig {
                        arch,
                        image_size: image_size as i64,
                        frames: frames as i64,
                        patch_size: if image_size < 128 { 8 } else { 16 },
                        tubelet: 2,
                        channels,
                    }
                    .into(),
                }
            }
            Family::Predictive => {
                let arch = name.parse()?;
                match like {
                    EncoderConfig::Predictive(like) => PredictiveConfig { arch, ..*like }.into(),
                    _ => PredictiveConfig { arch, stem, channels, block_frames: 5 }.into(),
                }
            }
            Family::Recurrent => {
                let arch = name.parse()?;
                match like {
                    EncoderConfig::Recurrent(like) => RecurrentConfig { arch, ..*like }.into(),
                    _ => RecurrentConfig { arch, channels, kernel: 5 }.into(),
                }
            }
        })
    }

    /// The stem of a network that has one, else one that suits frames of so many pixels.
    fn stem(&self, image_size: usize) -> Stem {
        match self {
            EncoderConfig::ResNet3d(config) => config.stem,
            EncoderConfig::Late(config) => config.stem,
            EncoderConfig::Predictive(config) => config.stem,
            _ if image_size < 48 => Stem::Cifar,
            _ if image_size < 96 => Stem::Strided,
            _ => Stem::ImageNet,
        }
    }

    /// The network's name.
    pub fn name(&self) -> String {
        match self {
            EncoderConfig::ResNet3d(config) => config.arch.to_string(),
            EncoderConfig::Late(config) => config.arch.to_string(),
            EncoderConfig::Vit(config) => config.arch.to_string(),
            EncoderConfig::Predictive(config) => config.arch.to_string(),
            EncoderConfig::Recurrent(config) => config.arch.to_string(),
        }
    }

    /// Channels of the clips.
    pub fn channels(&self) -> i64 {
        match self {
            EncoderConfig::ResNet3d(config) => config.channels,
            EncoderConfig::Late(config) => config.channels,
            EncoderConfig::Vit(config) => config.channels,
            EncoderConfig::Predictive(config) => config.channels,
            EncoderConfig::Recurrent(config) => config.channels,
        }
    }

    /// The same network for clips of other channels.
    pub fn with_channels(self, channels: i64) -> Self {
        match self {
            EncoderConfig::ResNet3d(config) => ResNet3dConfig { channels, ..config }.into(),
            EncoderConfig::Late(config) => LateConfig { channels, ..config }.into(),
            EncoderConfig::Vit(config) => VideoVitConfig { channels, ..config }.into(),
            EncoderConfig::Predictive(config) => PredictiveConfig { channels, ..config }.into(),
            EncoderConfig::Recurrent(config) => RecurrentConfig { channels, ..config }.into(),
        }
    }

    /// Refuses a network to which all orders of frames are alike, for `method`, to which they are not.
    ///
    /// # Errors
    /// `Error::Config` then.
    pub fn check_order(&self, method: &str) -> Result<()> {
        match self {
            EncoderConfig::Late(LateConfig { fusion: Fusion::Mean, .. }) => {
                let needs =
                    "a network that knows the order of frames, such as r3d18 or one with fusion concat";
                Err(Encoder::other(method, needs))
            }
            _ => Ok(()),
        }
    }

    /// Where a variable of the encoder lies, by its name without what is before it in a store: fine-tuning changes the
    /// first layers least.
    pub fn layer_of(&self, name: &str) -> Layer {
        match self {
            EncoderConfig::ResNet3d(config) => config.layer_of(name),
            EncoderConfig::Late(config) => config.layer_of(name),
            EncoderConfig::Vit(config) => config.layer_of(name),
            EncoderConfig::Predictive(config) => config.layer_of(name),
            EncoderConfig::Recurrent(config) => config.layer_of(name),
        }
    }
}

/// A network of any family.
#[derive(Debug)]
pub enum Encoder {
    /// A residual network over time and space.
    ResNet3d(ResNet3d),
    /// An image network on each frame.
    Late(Late),
    /// A transformer of tubelets.
    Vit(VideoVit),
    /// A residual network on blocks of frames, which a recurrent cell reads.
    Predictive(Predictive),
    /// Recurrent layers on frames.
    Recurrent(Recurrent),
}

impl Encoder {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig) -> Result<Self> {
        Ok(match config {
            EncoderConfig::ResNet3d(config) => Encoder::ResNet3d(ResNet3d::new(p, config)?),
            EncoderConfig::Late(config) => Encoder::Late(Late::new(p, config)?),
            EncoderConfig::Vit(config) => Encoder::Vit(VideoVit::new(p, config)?),
            EncoderConfig::Predictive(config) => Encoder::Predictive(Predictive::new(p, config)?),
            EncoderConfig::Recurrent(config) => Encoder::Recurrent(Recurrent::new(p, config)?),
        })
    }

    fn net(&self) -> &dyn Backbone {
        match self {
            Encoder::ResNet3d(net) => net,
            Encoder::Late(net) => net,
            Encoder::Vit(net) => net,
            Encoder::Predictive(net) => net,
            Encoder::Recurrent(net) => net,
        }
    }

    /// Some stages, four of a deep transformer, each as a vector for a linear probe, in evaluation mode and without
    /// gradients.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; returns `[B, D_i]` each.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub fn stages(&self, x: &Tensor) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let all = self.features(x, Mode::Eval)?;
            let some = all.chunks(all.len().div_ceil(4).max(1)).filter_map(<[_]>::last);
            let some: Vec<_> = some.map(|(name, map)| (name.clone(), map.shallow_clone())).collect();
            probe_features(&some, PROBE_FEATURES)
        })
    }

    fn other(method: &str, needs: &str) -> Error {
        Error::config("encoder", format!("{method} needs {needs}, got another network"))
    }

    /// The transformer, for `method`, which needs one.
    ///
    /// # Errors
    /// `Error::Config` when it is another network.
    pub fn vit(&self, method: &str) -> Result<&VideoVit> {
        match self {
            Encoder::Vit(net) => Ok(net),
            _ => Err(Encoder::other(method, "a video transformer such as video_vit_d96_l4_h4")),
        }
    }

    /// The network on blocks of frames, for `method`, which needs one.
    ///
    /// # Errors
    /// `Error::Config` when it is another network.
    pub fn predictive(&self, method: &str) -> Result<&Predictive> {
        match self {
            Encoder::Predictive(net) => Ok(net),
            _ => Err(Encoder::other(method, "a network with a recurrent cell such as r2d3d18_gru")),
        }
    }

    /// The recurrent network on frames, for `method`, which needs one.
    ///
    /// # Errors
    /// `Error::Config` when it is another network.
    pub fn recurrent(&self, method: &str) -> Result<&Recurrent> {
        match self {
            Encoder::Recurrent(net) => Ok(net),
            _ => Err(Encoder::other(method, "a recurrent network such as convlstm_w32_l2")),
        }
    }
}

impl Backbone for Encoder {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        self.net().features(x, mode)
    }

    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.net().frames(x, mode)
    }

    fn mean(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.net().mean(x, mode)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.net().forward(x, mode)
    }

    fn frame_dim(&self) -> i64 {
        self.net().frame_dim()
    }

    fn dim(&self) -> i64 {
        self.net().dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    const NAMES: [&str; 6] = [
        "r3d10_w4",
        "r2plus1d10_w4",
        "resnet10_w4_late",
        "video_vit_d8_l2_h2",
        "r2d3d10_w4_gru",
        "convlstm_w4_l1",
    ];

    fn named(name: &str) -> EncoderConfig {
        EncoderConfig::named(name, &EncoderConfig::default().with_channels(1), 16, 8).unwrap()
    }

    #[test]
    fn every_family_is_read_from_its_name_and_written_again() {
        for name in NAMES {
            let config = named(name);
            assert_eq!((config.name().as_str(), config.channels()), (name, 1));
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(json["arch"], name);
            assert_eq!(serde_json::from_value::<EncoderConfig>(json).unwrap(), config);
            assert_eq!(EncoderConfig::named(name, &config, 16, 8).unwrap(), config);
        }
        let wrong =
            serde_json::from_value::<EncoderConfig>(json!({"arch": "r3d18", "channels": 3, "frames": 4}));
        assert!(wrong.unwrap_err().to_string().contains("frames"));
        for name in ["r3d19", "resnet18", "video_vit", "r3d19_gru", "convlstm_l2"] {
            let message = EncoderConfig::named(name, &named("r3d10_w4"), 16, 8).unwrap_err().to_string();
            assert!(message.starts_with("encoder: expected"), "{message}");
        }
    }

    #[test]
    fn every_network_gives_what_it_says_and_layers_of_every_depth() {
        let x = Tensor::rand([2, 1, 8, 16, 16], (Kind::Float, Device::Cpu));
        for name in NAMES {
            let (vars, config) = (VarStore::new(Device::Cpu), named(name));
            let net = Encoder::new(&vars.root(), &config).unwrap();
            let (embedding, frames) =
                (net.forward(&x, Mode::Eval).unwrap(), net.frames(&x, Mode::Eval).unwrap());
            assert_eq!((embedding.size(), embedding.kind()), (vec![2, net.dim()], Kind::Float), "{name}");
            assert_eq!((frames.size()[2], frames.kind()), (net.frame_dim(), Kind::Float), "{name}");
            assert_eq!(net.mean(&x, Mode::Eval).unwrap().size(), [2, net.frame_dim()], "{name}");
            let stages = net.stages(&x).unwrap();
            assert!(stages.len() > 1 && stages.iter().all(|(_, x)| x.size()[1] <= 1024), "{name}");
            let layers: Vec<Layer> = vars.variables().keys().map(|name| config.layer_of(name)).collect();
            let reached = |depth| layers.iter().any(|layer| layer.depth == depth);
            assert!((0..layers[0].of).all(reached), "{name}: {layers:?}");
            let grey = net.forward(&Tensor::zeros([2, 3, 8, 16, 16], (Kind::Float, Device::Cpu)), Mode::Eval);
            assert!(grey.unwrap_err().to_string().starts_with("clips: expected [B, 1, "), "{name}");
        }
    }

    #[test]
    fn a_method_that_needs_another_network_says_so() {
        let vars = VarStore::new(Device::Cpu);
        let net = Encoder::new(&vars.root(), &named("r3d10_w4")).unwrap();
        let message = net.vit("video_mae").unwrap_err().to_string();
        assert_eq!(
            message,
            "encoder: video_mae needs a video transformer such as video_vit_d96_l4_h4, got another network"
        );
        assert!(net.predictive("dpc").is_err() && net.recurrent("next_frame").is_err());
    }
}
