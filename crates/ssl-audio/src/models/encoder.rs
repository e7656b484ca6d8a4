//! An encoder: a front end and a network on it.
use super::context::Context;
use super::{Arch, Attend, EncoderConfig, Front, Pooling};
use crate::frontend::{CpcEncoder, CpcEncoderConfig, FeatureExtractor, FeatureExtractorConfig, LogMel};
use ssl_core::nn::{LayerNorm, Module};
use ssl_core::{Error, Mode, Result, dims2, dims3, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// A front end and a network on it.
#[derive(Debug)]
pub struct Encoder {
    arch: Arch,
    ears: Ears,
    context: Context,
    pooling: Pooling,
    local_dim: i64,
    mel_scale: [f64; 2],
    stack: i64,
}

#[derive(Debug)]
enum Ears {
    Cpc(CpcEncoder),
    Wav2Vec2(FeatureExtractor, LayerNorm),
    Mel(LogMel),
}

impl Encoder {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &EncoderConfig) -> Result<Self> {
        config.validate()?;
        let (ears, local_dim) = match config.arch.front {
            Front::Cpc(channels) => {
                let cpc = CpcEncoderConfig { channels, norm: config.cpc_norm };
                (Ears::Cpc(CpcEncoder::new(&(p / "gEncoder"), &cpc)?), channels)
            }
            Front::Wav2Vec2(channels) => {
                let layers = FeatureExtractorConfig::default();
                let shape = FeatureExtractorConfig {
                    conv_dim: vec![channels; layers.conv_dim.len()],
                    conv_bias: config.wav2vec2.conv_bias,
                    feat_extract_norm: config.wav2vec2.feat_extract_norm,
                    ..layers
                };
                let extractor = FeatureExtractor::new(&(p / "feature_extractor"), &shape)?;
                let norm = LayerNorm::new(&(p / "feature_projection" / "layer_norm"), channels, 1e-5)?;
                (Ears::Wav2Vec2(extractor, norm), channels)
            }
            Front::Mel => (Ears::Mel(LogMel::new(&config.mel, p.device())?), config.stack * config.mel.mels),
        };
        Ok(Encoder {
            arch: config.arch,
            ears,
            context: Context::new(p, config, local_dim)?,
            pooling: config.pooling,
            local_dim,
            mel_scale: config.mel_scale,
            stack: config.stack,
        })
    }

    /// What the front end makes of waves, each vector of a few milliseconds.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, N, C]`.
    ///
    /// # Errors
    /// `Error::Shape` when it is no batch of waves long enough for one vector.
    pub fn local(&self, waves: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.ears {
            Ears::Cpc(net) => Ok(net.forward(waves, mode)?.f_transpose(1, 2)?),
            Ears::Wav2Vec2(net, norm) => norm.forward(&net.forward(waves, mode)?.f_transpose(1, 2)?, mode),
            Ears::Mel(_) => self.stacked(&self.spectrogram(waves, "the encoder")?),
        }
    }

    /// The normalized spectrogram that the front end makes for `user`, who needs one.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, F, N]`, float32.
    ///
    /// # Errors
    /// `Error::Config` when the front end is another; `Error::Shape` when the waves are too short for a window.
    pub fn spectrogram(&self, waves: &Tensor, user: &str) -> Result<Tensor> {
        let mel = self.mel(user)?;
        let [mean, deviation] = self.mel_scale;
        Ok(mel.forward(waves)?.f_sub_scalar(mean)?.f_div_scalar(deviation)?)
    }

    fn mel(&self, user: &str) -> Result<&LogMel> {
        match &self.ears {
            Ears::Mel(mel) => Ok(mel),
            _ => {
                let arch = self.arch;
                let message =
                    format!("{user} takes spectrograms: expected one such as mel_d192_l4_h4, got {arch}");
                Err(Error::config("encoder", message))
            }
        }
    }

    /// Refuses a network that makes no spectrograms for `user`, who needs them.
    ///
    /// # Errors
    /// `Error::Config` then.
    pub fn check_spectrogram(&self, user: &str) -> Result<()> {
        self.mel(user).map(drop)
    }

    /// Refuses a network that cannot look there, and there alone.
    ///
    /// # Errors
    /// `Error::Config` then.
    pub fn check_attend(&self, attend: Attend) -> Result<()> {
        self.context.check(attend)
    }

    /// Joins so many frames as one position has; those left over at the end are dropped.
    ///
    /// # Shapes
    /// `spectrogram`: `[B, F, N]`; returns `[B, N / stack, stack F]`.
    ///
    /// # Errors
    /// `Error::Shape` when there are fewer frames than a position has, or another rank.
    pub fn stacked(&self, spectrogram: &Tensor) -> Result<Tensor> {
        let (batch, _, frames) = dims3(spectrogram, "spectrogram", "[B, F, N]")?;
        let positions = frames / self.stack;
        if positions < 1 {
            let expected = format!("[B, F, N] with N at least {} (the frames of a position)", self.stack);
            return Err(Error::Shape { what: "spectrogram".into(), expected, got: spectrogram.size() });
        }
        let kept = spectrogram.f_narrow(2, 0, positions * self.stack)?.f_transpose(1, 2)?;
        Ok(kept.f_reshape([batch, positions, self.local_dim])?)
    }

    /// What the network makes of the front end's vectors.
    ///
    /// # Shapes
    /// `local`: `[B, N, C]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Config` when the network cannot look where it is to.
    pub fn context(&self, local: &Tensor, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.context.forward(local, attend, mode)
    }

    /// What the feature extractor of wav2vec 2.0 makes of waves for `user`, who needs one, and that after its norm, which
    /// is [`Encoder::local`]; gradients that go into the extractor are multiplied by `gradient`.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, N, C]` twice.
    ///
    /// # Errors
    /// `Error::Config` when the front end is another; `Error::Shape` when the waves are too short.
    pub fn extracted(&self, waves: &Tensor, gradient: f64, user: &str, mode: Mode) -> Result<[Tensor; 2]> {
        let Ears::Wav2Vec2(net, norm) = &self.ears else {
            let message = format!("{user} takes the feature extractor of wav2vec 2.0, got {}", self.arch);
            return Err(Error::config("encoder", message));
        };
        let features = net.forward(waves, mode)?.f_transpose(1, 2)?;
        let held = features.f_detach()?;
        let features = held.f_add(&features.f_sub(&held)?.f_mul_scalar(gradient)?)?;
        let normalized = norm.forward(&features, mode)?;
        Ok([features, normalized])
    }

    /// [`Encoder::context`] for `user`, who hides what is heard where `mask` is true; only a Transformer of wav2vec 2.0
    /// can.
    ///
    /// # Shapes
    /// `local`: `[B, N, C]`; `mask`: bool `[B, N]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Config` when the network is another.
    pub fn masked(&self, local: &Tensor, mask: &Tensor, user: &str, mode: Mode) -> Result<Tensor> {
        self.context.wav2vec2(user)?.forward(local, Some(mask), mode)
    }

    /// What the first layers of a Transformer of wav2vec 2.0 make of waves for `user`, as many as said.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, N, D]`, without gradients.
    ///
    /// # Errors
    /// `Error::Config` when the network is another; as [`Encoder::local`].
    pub fn hidden(&self, waves: &Tensor, layers: usize, user: &str) -> Result<Tensor> {
        let net = self.context.wav2vec2(user)?;
        no_grad(|| net.hidden(&self.local(waves, Mode::Eval)?, None, layers, Mode::Eval))
    }

    /// Refuses a network that cannot hide what is heard for `user`, who needs that.
    ///
    /// # Errors
    /// `Error::Config` then.
    pub fn check_masked(&self, user: &str) -> Result<()> {
        self.context.wav2vec2(user).map(drop)
    }

    /// A vector for each position.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// As [`Encoder::local`] and [`Encoder::context`].
    pub fn forward(&self, waves: &Tensor, attend: Attend, mode: Mode) -> Result<Tensor> {
        dims2(waves, "waves", "[B, T]")?;
        self.context(&self.local(waves, mode)?, attend, mode)
    }

    /// A vector for each clip, from those of its positions.
    ///
    /// # Shapes
    /// `frames`: `[B, N, D]`; returns `[B, D]`, float32.
    ///
    /// # Errors
    /// When libtorch refuses the shape.
    pub fn pool(&self, frames: &Tensor) -> Result<Tensor> {
        let x = frames.f_to_kind(Kind::Float)?;
        let mean = || x.f_mean_dim([1i64].as_slice(), false, Kind::Float);
        let max = || x.f_amax([1i64], false);
        match self.pooling {
            Pooling::Mean => Ok(mean()?),
            Pooling::Max => Ok(max()?),
            Pooling::MeanMax => Ok(mean()?.f_add(&max()?)?),
        }
    }

    /// A vector for each clip.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; returns `[B, D]`, float32.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn embed(&self, waves: &Tensor, attend: Attend, mode: Mode) -> Result<Tensor> {
        self.pool(&self.forward(waves, attend, mode)?)
    }

    /// What stands for a clip behind the front end and behind the network, by name.
    ///
    /// # Shapes
    /// `waves`: `[B, T]`; each `[B, D_i]`, without gradients.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn stages(&self, waves: &Tensor, attend: Attend) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let local = self.local(waves, Mode::Eval)?;
            let embedding = self.pool(&self.context(&local, attend, Mode::Eval)?)?;
            Ok(vec![("front_end".to_string(), self.pool(&local)?), ("embedding".to_string(), embedding)])
        })
    }

    /// All that a position can see.
    pub fn widest(&self) -> Attend {
        self.context.widest()
    }

    /// Width of the vectors of positions and clips.
    pub fn dim(&self) -> i64 {
        self.arch.dim
    }

    /// Width of the front end's vectors.
    pub fn local_dim(&self) -> i64 {
        self.local_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    fn waves(n: i64) -> Tensor {
        Tensor::randn([2, n], (Kind::Float, Device::Cpu)) * 0.1
    }

    fn build(config: &EncoderConfig) -> (VarStore, Encoder) {
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoder::new(&vars.root(), config).unwrap();
        (vars, encoder)
    }

    fn named(arch: &str) -> EncoderConfig {
        EncoderConfig::new(arch.parse().unwrap())
    }

    #[test]
    fn every_shape_hears_a_wave() {
        for (arch, positions) in [
            ("cpc_c8_gru", 20),
            ("cpc_c8_lstm_d4_l2", 20),
            ("cpc_c8_d12_l2_h2", 20),
            ("wav2vec2_c8_d16_l1_h2", 9),
            ("wav2vec2_c8_gru", 9),
            ("mel_gru_d6_l2", 10),
            ("mel_d12_l1_h2", 10),
            ("mel_conv_d12", 1),
        ] {
            let (_, encoder) = build(&EncoderConfig { stack: 2, ..named(arch) });
            let attend = encoder.widest();
            let frames = encoder.forward(&waves(3_200), attend, Mode::Eval).unwrap();
            assert_eq!(frames.size(), [2, positions, encoder.dim()], "{arch}");
            assert_eq!(encoder.embed(&waves(3_200), attend, Mode::Eval).unwrap().size(), [2, encoder.dim()]);
        }
    }

    #[test]
    fn nothing_is_heard_before_it_sounds() {
        for arch in ["cpc_c8_gru", "mel_lstm_d6_l2", "mel_d12_l2_h2"] {
            let (_, encoder) = build(&named(arch));
            let local = Tensor::randn([2, 9, encoder.local_dim()], (Kind::Float, Device::Cpu));
            let later = local.copy();
            let _ = later.narrow(1, 5, 4).normal_(0., 1.);
            let run = |x: &Tensor| encoder.context(x, Attend::Past, Mode::Eval).unwrap();
            let (a, b) = (run(&local), run(&later));
            assert!(a.narrow(1, 0, 5).allclose(&b.narrow(1, 0, 5), 1e-5, 1e-6, false), "{arch}");
            assert!(!a.narrow(1, 5, 1).allclose(&b.narrow(1, 5, 1), 1e-3, 1e-3, false), "{arch}");
        }
    }

    #[test]
    fn layers_of_a_recurrent_network_are_those_of_libtorch_and_add_what_they_read() {
        for arch in ["cpc_c6_gru_l2", "cpc_c6_lstm_l2"] {
            let (vars, encoder) = build(&named(arch));
            let x = Tensor::randn([2, 5, 6], (Kind::Float, Device::Cpu));
            let zeros = Tensor::zeros([2, 2, 6], (Kind::Float, Device::Cpu));
            let of =
                |name: &str, layer| vars.variables()[&format!("gAR.baseNet.{name}_l{layer}")].shallow_clone();
            let layer = |n| ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(|name| of(name, n));
            let weights = layer(0).into_iter().chain(layer(1)).collect::<Vec<_>>();
            let both = match arch.contains("gru") {
                true => x.gru(&zeros, &weights, true, 2, 0., false, false, true).0,
                false => x.lstm(&[zeros.copy(), zeros.copy()], &weights, true, 2, 0., false, false, true).0,
            };
            let got = encoder.context(&x, Attend::Past, Mode::Train).unwrap();
            assert!(got.allclose(&both, 1e-5, 1e-6, false), "{arch}");
            let (others, summing) = build(&EncoderConfig { residual: true, ..named(arch) });
            for (name, mut to) in others.variables() {
                no_grad(|| to.copy_(&vars.variables()[&name]));
            }
            let (_, first) = build(&named(&arch.replace("_l2", "")));
            let half = zeros.narrow(0, 0, 1);
            let read = match arch.contains("gru") {
                true => x.gru(&half, &layer(0), true, 1, 0., false, false, true).0,
                false => x.lstm(&[half.copy(), half.copy()], &layer(0), true, 1, 0., false, false, true).0,
            };
            assert_eq!(first.dim(), 6);
            let got = summing.context(&x, Attend::Past, Mode::Train).unwrap();
            assert!(got.allclose(&(both + read), 1e-5, 1e-6, false), "{arch}");
        }
    }

    #[test]
    fn a_clip_is_the_mean_the_greatest_or_both() {
        let frames = Tensor::from_slice(&[1f32, 5., 3., -5.]).view([1, 2, 2]);
        for (pooling, expected) in
            [(Pooling::Mean, [2f32, 0.]), (Pooling::Max, [3., 5.]), (Pooling::MeanMax, [5., 5.])]
        {
            let (_, encoder) = build(&EncoderConfig { pooling, ..named("mel_gru_d2") });
            assert_eq!(Vec::<f32>::try_from(encoder.pool(&frames).unwrap().view([2])).unwrap(), expected);
        }
    }

    #[test]
    fn frames_are_joined_in_their_order_and_what_is_too_short_is_refused() {
        let mel = crate::frontend::MelConfig { mels: 2, ..crate::frontend::MelConfig::default() };
        let (_, encoder) = build(&EncoderConfig { stack: 2, mel, ..named("mel_gru_d2") });
        let spectrogram =
            Tensor::from_slice(&[1f32, 2., 3., 4., 5., 10., 20., 30., 40., 50.]).view([1, 2, 5]);
        let stacked = encoder.stacked(&spectrogram).unwrap();
        assert_eq!(stacked.size(), [1, 2, 4]);
        let flat = Vec::<f32>::try_from(stacked.contiguous().view([8])).unwrap();
        assert_eq!(flat, [1., 10., 2., 20., 3., 30., 4., 40.]);
        let message = encoder.stacked(&spectrogram.narrow(2, 0, 1)).unwrap_err().to_string();
        assert!(message.starts_with("spectrogram: expected [B, F, N] with N at least 2"), "{message}");
        let (_, recurrent) = build(&named("cpc_c8_gru"));
        let message = recurrent.spectrogram(&waves(800), "apc").unwrap_err().to_string();
        assert!(
            message.starts_with("encoder: apc takes spectrograms") && message.ends_with("cpc_c8_gru"),
            "{message}"
        );
        let message = recurrent.forward(&waves(3_200), Attend::All, Mode::Eval).unwrap_err().to_string();
        assert!(message.ends_with("got a recurrent one"), "{message}");
    }
}
