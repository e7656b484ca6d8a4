//! BiGAN: pairs of images and codes are told apart, and an encoder and a generator learn to make that impossible.
//!
//! Source: Donahue, Krähenbühl, Darrell, 2016: <https://arxiv.org/abs/1605.09782>. Codes come from a uniform distribution,
//! and encoder and generator learn from the inverse objective (section 3.4 and the end of 2), which does not saturate.
//!
//! Both players learn in one step. The discriminator's loss is on pairs through which no gradient passes; that of
//! encoder and generator passes a discriminator whose variables take none meanwhile. One backward pass of the sum then
//! gives each player the gradient of its own loss, as alternating updates would before either has moved. So both
//! have one optimizer, one learning rate and as many updates. The loss that is shown is the discriminator's.
//!
//! Further departures: the encoder is any one, the generator enlarges maps instead of transposing convolutions, and the
//! discriminator has no batch norm. The representation is what the encoder gives, before the code.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::decoder::{Canvas, Critic, Decoder, leaky, variables_at};
use crate::pretext::{fixed_noise, only, shown, square, squared_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::loss::{Origin, adversarial, both_players};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Batch, Method, Metrics, Mode, Output, Precision, Result, Step, Views, check, frozen, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

/// BiGAN's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Numbers of a code, each from -1 to 1.
    pub latent_dim: i64,
    /// Channels of the generator's largest map.
    pub decoder_width: i64,
    /// Channels of the discriminator's largest map.
    pub critic_width: i64,
    /// Units of the discriminator's layers on codes and on pairs.
    pub critic_dim: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        let augment = Augment { crop_scale: [0.2, 1.], ..Augment::crop_and_flip(112) };
        Config { latent_dim: 200, decoder_width: 64, critic_width: 64, critic_dim: 1024, augment }
    }
}

/// An encoder of images, a generator of images, and who tells their pairs apart.
#[derive(Debug)]
pub struct BiGan {
    vars: VarStore,
    encoder: Rc<Encoder>,
    code: Linear,
    generator: Decoder,
    discriminator: Discriminator,
    config: Config,
}

/// The probability that an image is from the data and its code from the encoder, as a logit.
#[derive(Debug)]
struct Discriminator {
    critic: Critic,
    code: Linear,
    pair: Linear,
    output: Linear,
    variables: Vec<Tensor>,
}

/// Images and their codes.
struct Pairs {
    images: Tensor,
    codes: Tensor,
}

/// What the players make of a batch.
struct Game {
    /// Minimized by the discriminator.
    discriminator: Tensor,
    /// Minimized by encoder and generator.
    players: Tensor,
    /// The share of pairs that are told apart rightly.
    accuracy: Tensor,
}

impl Definition for BiGan {
    const INFO: Info = Info {
        name: "bigan",
        summary: "make images of codes and codes of images, so that the pairs cannot be told apart",
        paper: "Donahue, Krähenbühl, Darrell",
        year: 2016,
        kind: "generative",
        url: "https://arxiv.org/abs/1605.09782",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let sizes = (1, 1 << 16);
        check::ranges([("latent_dim", config.latent_dim, sizes), ("critic_dim", config.critic_dim, sizes)])?;
        config.augment.validate()?;
        let vars = VarStore::new(encoders.device());
        let (encoder, p) = (encoders.student(&vars)?, vars.root());
        let canvas = Canvas { channels: encoders.config().channels(), side: config.augment.size as i64 };
        Ok(BiGan {
            code: Linear::new(&(&p / "code"), encoder.dim(), config.latent_dim)?,
            generator: Decoder::of_vectors(&(&p / "generator"), config.latent_dim, config.decoder_width, canvas)?,
            discriminator: Discriminator::new(&(&p / "discriminator"), &config, canvas, &vars)?,
            encoder,
            vars,
            config,
        })
    }
}

impl Discriminator {
    fn new(p: &Path, config: &Config, canvas: Canvas, vars: &VarStore) -> Result<Self> {
        let critic = Critic::new(&(p / "critic"), config.critic_width, canvas)?;
        let dim = config.critic_dim;
        let code = Linear::new(&(p / "code"), config.latent_dim, dim)?;
        let pair = Linear::new(&(p / "pair"), critic.dim() + dim, dim)?;
        let output = Linear::new(&(p / "output"), dim, 1)?;
        Ok(Discriminator { critic, code, pair, output, variables: variables_at(vars, "discriminator") })
    }

    fn forward(&self, Pairs { images, codes }: &Pairs, mode: Mode) -> Result<Tensor> {
        let code = leaky(&self.code.forward(codes, mode)?)?;
        let image = self.critic.forward(images, mode)?.f_to_kind(code.kind())?;
        let pair = leaky(&self.pair.forward(&Tensor::f_cat(&[image, code], 1)?, mode)?)?;
        Ok(self.output.forward(&pair, mode)?.f_to_kind(Kind::Float)?)
    }
}

impl Pairs {
    fn detach(&self) -> Result<Self> {
        Ok(Pairs { images: self.images.f_detach()?, codes: self.codes.f_detach()? })
    }
}

impl BiGan {
    /// The code of each image, in float32. `[B, L]`.
    fn codes(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.code.forward(&self.encoder.forward(x, mode)?, mode)?.f_to_kind(Kind::Float)?)
    }

    /// The losses for images and for codes that images are made of. `[B, L]`.
    fn play(&self, x: &Tensor, codes: &Tensor, mode: Mode) -> Result<Game> {
        let real = Pairs { images: x.shallow_clone(), codes: self.codes(x, mode)? };
        let made = Pairs { images: self.generator.forward(codes, mode)?, codes: codes.shallow_clone() };
        let told = |pairs: &Pairs| self.discriminator.forward(pairs, mode);
        let apart = [told(&real.detach()?)?, told(&made.detach()?)?];
        let hidden = frozen(&self.discriminator.variables, || Ok([told(&real)?, told(&made)?]))?;
        let loss = |[real, made]: &[Tensor; 2], taken_for: [Origin; 2]| {
            let [of_real, of_made] = taken_for;
            Precision::Fp32.scope(x.device(), || Ok(adversarial(real, of_real)?.f_add(&adversarial(made, of_made)?)?))
        };
        let hits = Tensor::f_cat(&[apart[0].f_gt(0.)?, apart[1].f_lt(0.)?], 0)?;
        Ok(Game {
            discriminator: loss(&apart, [Origin::Real, Origin::Made])?,
            players: loss(&hidden, [Origin::Made, Origin::Real])?,
            accuracy: hits.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?,
        })
    }

    /// Codes for held-out images. `[B, L]`.
    fn fixed_codes(&self, n: i64, device: Device) -> Result<Tensor> {
        Ok(fixed_noise(n, self.config.latent_dim, device)?.f_mul_scalar(2)?.f_sub_scalar(1)?)
    }

    fn redraw(&self, x: &Tensor) -> Result<Tensor> {
        self.generator.forward(&self.codes(x, Mode::Eval)?, Mode::Eval)
    }
}

impl Method for BiGan {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        square(x)?;
        let codes = Tensor::f_rand([batch.len(), self.config.latent_dim], (Kind::Float, x.device()))?;
        let codes = codes.f_mul_scalar(2)?.f_sub_scalar(1)?;
        let Game { discriminator, players, accuracy } = self.play(x, &codes, Mode::Train)?;
        let output = Output::new(both_players(&discriminator, &players)?);
        output.with("players_loss", &players)?.with("told_apart", &accuracy)
    }

    fn encode(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encoder.forward(input, mode)
    }

    fn stages(&self, input: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.encoder.stages(input)
    }

    fn validate(&self, batch: &Views) -> Result<Metrics> {
        no_grad(|| {
            let x = only(batch, Self::INFO.name)?;
            let Game { discriminator, players, accuracy } =
                self.play(x, &self.fixed_codes(batch.len(), x.device())?, Mode::Eval)?;
            Ok(vec![
                ("loss".into(), discriminator),
                ("players_loss".into(), players),
                ("told_apart".into(), accuracy),
                ("pixel_error".into(), squared_error(&self.redraw(x)?, x)?),
            ])
        })
    }

    /// Images, what is made of their codes, and what of random ones.
    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, Self::INFO.name)?)?;
            let drawn = self.redraw(&x)?;
            let free = self.generator.forward(&self.fixed_codes(x.len(), x.device())?, Mode::Eval)?;
            Ok(vec![("image".into(), x), ("made of its code".into(), drawn), ("made of random codes".into(), free)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for BiGan {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }

    fn restore(&self, images: &Tensor) -> Result<Option<Tensor>> {
        no_grad(|| self.redraw(images)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::value;
    use ssl_core::check_method;

    fn build() -> Result<BiGan> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        let augment = Augment::crop_and_flip(8);
        let config = Config { latent_dim: 5, decoder_width: 4, critic_width: 8, critic_dim: 16, augment };
        BiGan::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    fn pixels(n: i64) -> Tensor {
        Tensor::arange(n * 128, (Kind::Float, Device::Cpu)).sin().view([n, 2, 8, 8])
    }

    #[test]
    fn keeps_the_contract() {
        let (x, scratch) = (pixels(6), tempfile::tempdir().unwrap());
        check_method(build, &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
    }

    #[test]
    fn losses_are_those_of_the_papers_probabilities() {
        let (x, method) = (pixels(4), build().unwrap());
        let codes = method.fixed_codes(4, Device::Cpu).unwrap();
        let game = method.play(&x, &codes, Mode::Eval).unwrap();
        let probability = |images: Tensor, codes: Tensor| {
            let logits = method.discriminator.forward(&Pairs { images, codes }, Mode::Eval).unwrap();
            let logits = Vec::<f64>::try_from(logits.view(-1).to_kind(Kind::Double)).unwrap();
            logits.into_iter().map(|x| 1. / (1. + (-x).exp())).collect::<Vec<_>>()
        };
        let real = probability(x.shallow_clone(), method.codes(&x, Mode::Eval).unwrap());
        let made = probability(method.generator.forward(&codes, Mode::Eval).unwrap(), codes);
        let pairs = || real.iter().zip(&made);
        let slow: f64 = pairs().map(|(real, made)| -(real.ln() + (1. - made).ln()) / 4.).sum();
        assert!((value(&game.discriminator) - slow).abs() < 1e-5);
        let slow: f64 = pairs().map(|(real, made)| -((1. - real).ln() + made.ln()) / 4.).sum();
        assert!((value(&game.players) - slow).abs() < 1e-5);
        let slow: f64 = pairs().map(|(&real, &made)| (f64::from(real > 0.5) + f64::from(made < 0.5)) / 8.).sum();
        assert_eq!(value(&game.accuracy), slow);
    }

    /// The gradient of each variable that has one.
    fn gradients(method: &BiGan, loss: &Tensor) -> Vec<(String, Tensor)> {
        let mut variables: Vec<_> = method.vars.variables().into_iter().filter(|(_, x)| x.requires_grad()).collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, variable) in &mut variables {
            variable.zero_grad();
        }
        loss.backward();
        let copy =
            |(name, variable): (String, Tensor)| variable.grad().defined().then(|| (name, variable.grad().copy()));
        variables.into_iter().filter_map(copy).collect()
    }

    #[test]
    fn one_backward_pass_gives_each_player_the_gradient_of_its_own_loss() {
        let (x, method) = (pixels(4), build().unwrap());
        let codes = method.fixed_codes(4, Device::Cpu).unwrap();
        let play = || method.play(&x, &codes, Mode::Train).unwrap();
        let Game { discriminator, players, .. } = play();
        let both = gradients(&method, &both_players(&discriminator, &players).unwrap());
        let of_discriminator = gradients(&method, &play().discriminator);
        let of_players = gradients(&method, &play().players);
        assert!(both.len() > 20);
        for (((name, both), (_, discriminator)), (_, players)) in both.iter().zip(&of_discriminator).zip(&of_players) {
            let largest = |x: &Tensor| value(&x.abs().max());
            let (own, other) = match name.starts_with("discriminator.") {
                true => (discriminator, players),
                false => (players, discriminator),
            };
            assert!(both.equal(own) && largest(own) > 0. && largest(other) == 0., "{name}");
        }
        assert!(method.discriminator.variables.iter().all(Tensor::requires_grad));
        assert_eq!(method.discriminator.variables.len(), 2 + 6);
    }

    #[test]
    fn images_are_restored_from_their_codes() {
        let (x, method) = (pixels(14), build().unwrap());
        let restored = method.restore(&x).unwrap().unwrap();
        assert!(restored.size() == x.size() && !restored.requires_grad());
        let rows = method.look(&Views(vec![x.shallow_clone()])).unwrap();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["image", "made of its code", "made of random codes"]);
        assert!(rows[1].1.allclose(&restored.narrow(0, 0, 12), 1e-5, 1e-6, false) && !rows[2].1.equal(&rows[1].1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let encoders =
            Encoders::new(ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 }, Device::Cpu);
        for (name, config) in [
            ("latent_dim", Config { latent_dim: 0, ..Config::default() }),
            ("critic_dim", Config { critic_dim: 0, ..Config::default() }),
        ] {
            let message = BiGan::new(config, &encoders).unwrap_err().to_string();
            assert_eq!(message, format!("{name}: expected 1 to 65536, got 0"));
        }
        let message = build().unwrap().step(&Views(Vec::new()), Step { index: 0, total: 1 }).unwrap_err();
        assert_eq!(message.to_string(), "views: bigan takes one, got 0");
    }
}
