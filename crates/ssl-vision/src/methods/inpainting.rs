//! Context encoder: a part of an image is missing and is drawn from what is around it.
//!
//! Source: Pathak et al., 2016: <https://arxiv.org/abs/1604.07379>: the channel-wise layer between encoder and decoder,
//! the two losses and their weights, and a greater weight where the part that is drawn overlaps what is seen
//! (`pathak22/context-encoder`). The adversarial loss is off unless asked for: for features the authors, too, use the
//! squared error alone.
//!
//! With it both players learn in one step. The discriminator's loss is on images through which no gradient passes; that of
//! the context encoder passes a discriminator whose variables take none meanwhile. One backward pass then gives each the
//! gradient of its own loss. So they share an optimizer and its learning rate, where the official code has a greater one
//! for the context encoder. The loss that is shown is the context encoder's.
//!
//! Further departures: the encoder is any one, the decoder draws the whole image, and the discriminator sees the whole
//! image with the drawn part in it, since parts of any place may be missing. Blocks stand for the paper's
//! regions of any form, whose outlines come from another data set. Missing pixels have the mean color.
use super::{Definition, Info, VisionMethod};
use crate::augment::Augment;
use crate::backbones::{Backbone, Encoder, Encoders};
use crate::decoder::{Across, Canvas, Critic, Decoder, variables_at};
use crate::pretext::{fixed_noise, only, shown, square};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::loss::{Origin, adversarial, both_players};
use ssl_core::nn::{Linear, Module};
use ssl_core::{Error, Method, Metrics, Mode, Output, Precision, Result, Step, Views, dims4, frozen, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// Squares of [`Missing::Blocks`].
const BLOCKS: i64 = 4;

/// Which part of an image is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// A square in the middle, half as wide as the image.
    Center,
    /// Four squares anywhere, each a quarter as wide as the image; they may overlap.
    Blocks,
}

/// The context encoder's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// center, or blocks.
    pub missing: Missing,
    /// Pixels around the missing part that are drawn though they are seen.
    pub overlap: i64,
    /// Weight of the error there; it is 1 in the missing part.
    pub overlap_weight: f64,
    /// Weight of the adversarial loss, 0.001 in the paper's drawings; that of the squared error is 1 less this.
    pub adversarial: f64,
    /// Channels of the decoder's largest map.
    pub decoder_width: i64,
    /// Channels of the discriminator's largest map.
    pub critic_width: i64,
    /// The random view.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            missing: Missing::Blocks,
            overlap: 7,
            overlap_weight: 10.,
            adversarial: 0.,
            decoder_width: 64,
            critic_width: 64,
            augment: Augment { crop_scale: [0.2, 1.], ..Augment::crop_and_flip(128) },
        }
    }
}

/// An encoder, and what draws from its map.
#[derive(Debug)]
pub struct Inpainting {
    vars: VarStore,
    encoder: Rc<Encoder>,
    across: Across,
    decoder: Decoder,
    discriminator: Option<Discriminator>,
    config: Config,
}

/// The probability that an image is whole, as a logit.
#[derive(Debug)]
struct Discriminator {
    critic: Critic,
    output: Linear,
    variables: Vec<Tensor>,
}

impl Definition for Inpainting {
    const INFO: Info = Info {
        name: "inpainting",
        summary: "draw the missing parts of an image from what is around them",
        paper: "Pathak, Krähenbühl, Donahue, Darrell, Efros",
        year: 2016,
        kind: "pretext",
        url: "https://arxiv.org/abs/1604.07379",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        config.augment.validate()?;
        let side = config.augment.size as i64;
        if !(0..side).contains(&config.overlap) {
            return Err(Error::config("overlap", format!("expected 0 to {}, got {}", side - 1, config.overlap)));
        }
        if !(config.overlap_weight >= 0. && config.overlap_weight.is_finite()) {
            let message = format!("expected a number of at least 0, got {}", config.overlap_weight);
            return Err(Error::config("overlap_weight", message));
        }
        if !(0. ..=1.).contains(&config.adversarial) {
            return Err(Error::config("adversarial", format!("expected 0 to 1, got {}", config.adversarial)));
        }
        if side < 4 {
            return Err(Error::config("augment.size", format!("expected at least 4 pixels, got {side}")));
        }
        let vars = VarStore::new(encoders.device());
        let (encoder, p) = (encoders.student(&vars)?, vars.root());
        let canvas = Canvas { channels: encoders.config().channels(), side };
        let blank = Tensor::f_zeros([1, canvas.channels, side, side], (Kind::Float, encoders.device()))?;
        let (_, channels, rows, columns) =
            dims4(&no_grad(|| encoder.map(&blank, Mode::Eval))?, "map of the encoder", "[B, D, H, W]")?;
        let decoder = Decoder::of_maps(&(&p / "decoder"), (channels, rows), config.decoder_width, canvas)?;
        let discriminator = (config.adversarial > 0.)
            .then(|| Discriminator::new(&(&p / "discriminator"), config.critic_width, canvas, &vars));
        Ok(Inpainting {
            across: Across::new(&(&p / "across"), channels, rows * columns)?,
            decoder,
            discriminator: discriminator.transpose()?,
            encoder,
            vars,
            config,
        })
    }
}

impl Discriminator {
    fn new(p: &Path, width: i64, canvas: Canvas, vars: &VarStore) -> Result<Self> {
        let critic = Critic::new(&(p / "critic"), width, canvas)?;
        let output = Linear::new(&(p / "output"), critic.dim(), 1)?;
        Ok(Discriminator { critic, output, variables: variables_at(vars, "discriminator") })
    }

    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.output.forward(&self.critic.forward(images, mode)?, mode)?.f_to_kind(Kind::Float)?)
    }
}

impl Inpainting {
    /// Which pixels are missing, where `noise` are numbers from 0 to 1. `[B, 1, S, S]` of `[B, 8]`.
    fn mask(&self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (n, _, side) = square(x)?;
        let (block, first) = match self.config.missing {
            Missing::Center => {
                let first = Tensor::f_full([n, 2, 1], (side - side / 2) / 2, (Kind::Int64, x.device()))?;
                (side / 2, first)
            }
            Missing::Blocks => {
                let block = side / 4;
                let first = noise.f_mul_scalar((side - block + 1) as f64)?.f_to_kind(Kind::Int64)?;
                // A number so near to 1 may be rounded up.
                (block, first.f_clamp_max(side - block)?.f_view([n, 2, BLOCKS])?)
            }
        };
        let place = Tensor::f_arange(side, (Kind::Int64, x.device()))?;
        let past = place.f_sub(&first.f_unsqueeze(-1)?)?; // [B, 2, blocks, S].
        let within = past.f_ge(0)?.f_logical_and(&past.f_lt(block)?)?;
        let (rows, columns) = (within.f_select(1, 0)?.f_unsqueeze(-1)?, within.f_select(1, 1)?.f_unsqueeze(-2)?);
        Ok(rows.f_logical_and(&columns)?.f_any_dim(1, true)?)
    }

    /// Whole images, drawn from those without the masked pixels.
    fn draw(&self, x: &Tensor, mask: &Tensor, mode: Mode) -> Result<Tensor> {
        let map = self.encoder.map(&x.f_masked_fill(mask, 0.)?, mode)?;
        self.decoder.forward(&self.across.forward(&map, mode)?.f_relu()?, mode)
    }

    /// The weighted squared error of the missing part and the seen pixels around it.
    fn error(&self, drawn: &Tensor, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let mask = mask.f_to_kind(Kind::Float)?;
        let wide = 2 * self.config.overlap + 1;
        let near = mask.f_max_pool2d([wide, wide], [1, 1], [self.config.overlap; 2], [1, 1], false)?.f_sub(&mask)?;
        let weight = near.f_mul_scalar(self.config.overlap_weight)?.f_add(&mask)?;
        Precision::Fp32.scope(x.device(), || {
            let error = drawn.f_sub(x)?.f_square()?.f_mul(&weight)?.f_sum(Kind::Float)?;
            Ok(error.f_div(&weight.f_expand_as(x)?.f_sum(Kind::Float)?)?)
        })
    }
}

/// Images with what was drawn in place of what is missing.
fn filled(x: &Tensor, drawn: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok(drawn.f_where_self(mask, x)?)
}

impl Method for Inpainting {
    type Batch = Views;
    type Input = Tensor;

    fn step(&mut self, batch: &Views, _at: Step) -> Result<Output> {
        let x = only(batch, Self::INFO.name)?;
        let (n, _, _) = square(x)?;
        let mask = self.mask(x, &Tensor::f_rand([n, 2 * BLOCKS], (Kind::Float, x.device()))?)?;
        let drawn = self.draw(x, &mask, Mode::Train)?;
        let error = self.error(&drawn, x, &mask)?;
        let Some(net) = &self.discriminator else { return Ok(Output::new(error)) };
        let made = filled(x, &drawn, &mask)?;
        let told = |images: &Tensor| net.forward(images, Mode::Train);
        let (real, apart) = (told(x)?, told(&made.f_detach()?)?);
        let hidden = frozen(&net.variables, || told(&made))?;
        let (own, other) = Precision::Fp32.scope(x.device(), || -> Result<_> {
            let deceived = adversarial(&hidden, Origin::Real)?.f_mul_scalar(self.config.adversarial)?;
            let own = error.f_mul_scalar(1. - self.config.adversarial)?.f_add(&deceived)?;
            Ok((own, adversarial(&real, Origin::Real)?.f_add(&adversarial(&apart, Origin::Made)?)?))
        })?;
        let output = Output::new(both_players(&own, &other)?);
        output.with("squared_error", &error)?.with("discriminator_loss", &other)
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
            let (n, _, _) = square(x)?;
            let mask = self.mask(x, &fixed_noise(n, 2 * BLOCKS, x.device())?)?;
            let error = self.error(&self.draw(x, &mask, Mode::Eval)?, x, &mask)?;
            // Of the whole image, of which the encoder sees less.
            let plain = x.f_mean_dim([2i64, 3].as_slice(), true, Kind::Float)?.f_expand_as(x)?;
            Ok(vec![("loss".into(), error), ("mean_color_error".into(), self.error(&plain, x, &mask)?)])
        })
    }

    fn look(&self, batch: &Views) -> Result<Vec<(String, Tensor)>> {
        no_grad(|| {
            let x = shown(only(batch, Self::INFO.name)?)?;
            let (n, _, _) = square(&x)?;
            let mask = self.mask(&x, &fixed_noise(n, 2 * BLOCKS, x.device())?)?;
            let seen = x.f_masked_fill(&mask, 0.)?;
            let drawn = filled(&x, &self.draw(&x, &mask, Mode::Eval)?, &mask)?;
            Ok(vec![("image".into(), x), ("with parts missing".into(), seen), ("filled".into(), drawn)])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl VisionMethod for Inpainting {
    fn views(&self) -> Vec<Augment> {
        vec![self.config.augment.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::{Arch, ResNetConfig, Stem};
    use crate::methods::tests::value;
    use ssl_core::check_method;
    use tch::Device;

    fn small(missing: Missing, adversarial: f64) -> Config {
        let augment = Augment::crop_and_flip(16);
        let (overlap, overlap_weight) = (1, 10.);
        Config { missing, overlap, overlap_weight, adversarial, decoder_width: 4, critic_width: 4, augment }
    }

    fn build(config: Config) -> Result<Inpainting> {
        let backbone = ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 2 };
        Inpainting::new(config, &Encoders::new(backbone, Device::Cpu))
    }

    fn pixels(n: i64) -> Tensor {
        Tensor::arange(n * 512, (Kind::Float, Device::Cpu)).sin().view([n, 2, 16, 16]) + 2.
    }

    fn fixed_mask(method: &Inpainting, x: &Tensor) -> Tensor {
        method.mask(x, &fixed_noise(x.size()[0], 2 * BLOCKS, Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn keeps_the_contract_with_and_without_a_discriminator() {
        for (missing, adversarial) in [(Missing::Center, 0.), (Missing::Blocks, 0.1)] {
            let (x, scratch) = (pixels(4), tempfile::tempdir().unwrap());
            let build = || build(small(missing, adversarial));
            check_method(build, &Views(vec![x.shallow_clone()]), &x, scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_middle_or_blocks_of_a_sixteenth_each_are_missing() {
        let x = pixels(40);
        let center = fixed_mask(&build(small(Missing::Center, 0.)).unwrap(), &x);
        let middle = Tensor::zeros([40, 1, 16, 16], (Kind::Bool, Device::Cpu));
        let _ = middle.narrow(2, 4, 8).narrow(3, 4, 8).fill_(1);
        assert!(center.equal(&middle));
        let method = build(small(Missing::Blocks, 0.)).unwrap();
        let blocks = fixed_mask(&method, &x);
        let counts = Vec::<i64>::try_from(blocks.flatten(1, -1).sum_dim_intlist(1, false, Kind::Int64)).unwrap();
        assert!(counts.iter().all(|&count| (16..=64).contains(&count)) && counts.contains(&64), "{counts:?}");
        let somewhere = blocks.any_dim(0, false);
        assert!([1, 2].iter().all(|&axis| somewhere.any_dim(axis, false).all() == Tensor::from(true)), "anywhere");
        // One block: rows 12 to 15, columns 0 to 3.
        let noise = Tensor::from_slice(&[0.9999f32, 1., 0.93, 0.96, 0., 0.01, 0.02, 0.]).view([1, 8]);
        let corner = method.mask(&pixels(1), &noise).unwrap();
        assert_eq!(value(&corner.sum(Kind::Float)), 16.);
        assert!(corner.narrow(2, 12, 4).narrow(3, 0, 4).all() == Tensor::from(true));
    }

    #[test]
    fn the_error_counts_missing_pixels_once_and_their_seen_neighbors_tenfold() {
        let (method, x) = (build(small(Missing::Center, 0.)).unwrap(), pixels(2));
        let (drawn, mask) = (x.square(), fixed_mask(&method, &x));
        let (mut sum, mut count) = (0., 0.);
        for (n, c, row, column) in
            (0..2).flat_map(|n| (0..2).flat_map(move |c| (0..256).map(move |at| (n, c, at / 16, at % 16))))
        {
            // Rows and columns 4 to 11 are missing.
            let far = [row, column].map(|at: i64| (4 - at).max(at - 11).max(0)).into_iter().max().unwrap();
            let weight = [1., 10., 0.][far.min(2) as usize];
            let at = [n, c, row, column];
            sum += weight * (drawn.double_value(&at) - x.double_value(&at)).powi(2);
            count += weight;
        }
        let found = value(&method.error(&drawn, &x, &mask).unwrap());
        assert!((found - sum / count).abs() < 1e-4, "{found} {}", sum / count);
    }

    /// The gradients of the discriminator's variables, or of all others.
    fn gradients(method: &Inpainting, loss: &Tensor, discriminators: bool) -> Vec<Tensor> {
        let all: std::collections::BTreeMap<_, _> = method.vars.variables().into_iter().collect();
        let all = all.into_iter().filter(|(_, x)| x.requires_grad());
        let learned: Vec<Tensor> =
            all.filter(|(name, _)| name.starts_with("discriminator.") == discriminators).map(|(_, x)| x).collect();
        Tensor::run_backward(&[loss], &learned, true, false)
    }

    #[test]
    fn the_discriminator_learns_to_tell_and_the_others_to_deceive() {
        // Without the weight of its error, the context encoder has the gradient of being taken for real.
        let (mut method, x) = (build(small(Missing::Center, 1.)).unwrap(), pixels(4));
        let loss = method.step(&Views(vec![x.shallow_clone()]), Step { index: 0, total: 1 }).unwrap().loss;
        let (mask, net) = (fixed_mask(&method, &x), method.discriminator.as_ref().unwrap());
        let made = filled(&x, &method.draw(&x, &mask, Mode::Train).unwrap(), &mask).unwrap();
        let told = |x: &Tensor, origin| adversarial(&net.forward(x, Mode::Train).unwrap(), origin).unwrap();
        let deceived = told(&made, Origin::Real);
        assert!((value(&loss) - value(&deceived)).abs() < 1e-5);
        let told_apart = told(&x, Origin::Real) + told(&made, Origin::Made);
        for (expected, discriminators, count) in [(deceived, false, 20), (told_apart, true, 6)] {
            let found = gradients(&method, &loss, discriminators);
            let expected = gradients(&method, &expected, discriminators);
            assert!(found.len() >= count && found.len() == expected.len(), "{}", found.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| a.allclose(b, 1e-3, 1e-6, false)), "{discriminators}");
        }
    }

    #[test]
    fn seen_pixels_stay_as_they_are_in_what_is_shown() {
        let (method, x) = (build(small(Missing::Blocks, 0.)).unwrap(), pixels(3));
        let mask = fixed_mask(&method, &x);
        let rows = method.look(&Views(vec![x.shallow_clone()])).unwrap();
        let [image, seen, filled] = [0, 1, 2].map(|k: usize| &rows[k].1);
        let blank = |x: &Tensor| x.masked_fill(&mask, 0.);
        assert!(image.equal(&x) && seen.equal(&blank(&x)) && blank(filled).equal(seen) && !filled.equal(&x));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let config = || small(Missing::Center, 0.);
        for (config, message) in [
            (Config { overlap: 16, ..config() }, "overlap: expected 0 to 15, got 16"),
            (Config { overlap_weight: -1., ..config() }, "overlap_weight: expected a number of at least 0, got -1"),
            (Config { adversarial: 1.5, ..config() }, "adversarial: expected 0 to 1, got 1.5"),
        ] {
            assert_eq!(build(config).unwrap_err().to_string(), message);
        }
        let step = build(config()).unwrap().step(&Views(Vec::new()), Step { index: 0, total: 1 });
        assert_eq!(step.unwrap_err().to_string(), "views: inpainting takes one, got 0");
    }
}
