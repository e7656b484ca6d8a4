//! Networks beside the encoder: one draws images from what it makes of them, one looks whether an image was drawn.
//!
//! Source: maps are enlarged by the nearest pixel and then convolved, instead of by transposed convolutions, as Odena et
//! al., 2016, advise: <https://doi.org/10.23915/distill.00003>; the critic's layers are those of DCGAN (Radford et al.,
//! 2015: <https://arxiv.org/abs/1511.06434>) without normalization.
use crate::backbones::channels_last;
use ssl_core::nn::{
    BatchNorm, Conv2d, ConvOptions, Linear, Mode, Module, kaiming_normal_fan_out, uniform_fan_in,
};
use ssl_core::{Result, check, dims4};
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// Side of the map that a vector becomes, at most.
const FIRST: i64 = 7;
/// Channels double with each halving of a map, so many times at most.
const DOUBLINGS: u32 = 3;
/// Side of the map at which a critic stops.
const LAST: i64 = 4;

/// The size of what is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canvas {
    pub(crate) channels: i64,
    /// In pixels.
    pub(crate) side: i64,
}

/// Convolutions that draw from a small map, whose side doubles with each.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// What makes a map of a vector, and the map's channels and side.
    project: Option<(Linear, [i64; 3])>,
    /// The side that each stage enlarges to.
    stages: Vec<(i64, Conv2d, BatchNorm)>,
    output: Conv2d,
}

impl Decoder {
    /// Draws from vectors of `dim` numbers; the last map has `width` channels, each before it twice as many.
    ///
    /// # Errors
    /// `Error::Config` when the width is not positive.
    pub(crate) fn of_vectors(p: &Path, dim: i64, width: i64, canvas: Canvas) -> Result<Self> {
        let sides = sides(canvas.side, FIRST);
        let first = sides.first().copied().unwrap_or(canvas.side);
        let channels = width_at(width, sides.len() as u32 - 1);
        let net = Decoder::of_maps(p, (channels, first), width, canvas)?;
        let project = Linear::new(&(p / "project"), dim, channels * first * first)?;
        Ok(Decoder { project: Some((project, [channels, first, first])), ..net })
    }

    /// Draws from maps of that many channels and that side.
    ///
    /// # Errors
    /// As [`Decoder::of_vectors`].
    pub(crate) fn of_maps(
        p: &Path,
        (channels, side): (i64, i64),
        width: i64,
        canvas: Canvas,
    ) -> Result<Self> {
        check::at_least(1, [("decoder_width", width)])?;
        let after = sides(canvas.side, side).split_off(1);
        let options = ConvOptions { padding: 1, ..ConvOptions::default() };
        let (mut stages, mut input, places) = (Vec::new(), channels, p / "stages");
        for (index, &side) in after.iter().enumerate() {
            let (output, place) = (width_at(width, (after.len() - 1 - index) as u32), &places / index as i64);
            let init = kaiming_normal_fan_out(output, 3);
            let conv = Conv2d::new(&(&place / "conv"), (input, output), 3, options, init)?;
            stages.push((side, conv, BatchNorm::new(&(&place / "norm"), output)?));
            input = output;
        }
        let output = Conv2d::with_bias(&(p / "output"), (input, canvas.channels), 3, options)?;
        Ok(Decoder { project: None, stages, output })
    }
}

impl Module for Decoder {
    /// # Shapes
    /// `x`: `[B, D]` of vectors, `[B, D, h, w]` of maps; returns `[B, C, S, S]` in float32.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = match &self.project {
            Some((project, map)) => {
                channels_last(&project.forward(x, mode)?.f_relu_()?.f_unflatten(1, map)?)?
            }
            None => x.shallow_clone(),
        };
        for (side, conv, norm) in &self.stages {
            let enlarged = x.f_upsample_nearest2d([*side, *side], None, None)?;
            x = norm.forward(&conv.forward(&enlarged, mode)?, mode)?.f_relu_()?;
        }
        Ok(self.output.forward(&x, mode)?.f_to_kind(Kind::Float)?)
    }
}

/// Sides from the first at most `first` that halving leads to, up to `side`.
fn sides(side: i64, first: i64) -> Vec<i64> {
    let mut sides = vec![side];
    let mut next = side;
    while next > first.max(1) {
        next = (next + 1) / 2;
        sides.insert(0, next);
    }
    sides
}

/// Channels of a map so many halvings from the largest.
fn width_at(width: i64, before: u32) -> i64 {
    width << before.min(DOUBLINGS)
}

/// One layer for each channel of a map, from all positions to all.
///
/// Source: Pathak et al., 2016, section 3.1: <https://arxiv.org/abs/1604.07379>.
#[derive(Debug)]
pub(crate) struct Across {
    weight: Tensor,
    bias: Tensor,
}

impl Across {
    pub(crate) fn new(p: &Path, channels: i64, positions: i64) -> Result<Self> {
        let init = uniform_fan_in(positions);
        let weight = p.f_var("weight", &[channels, positions, positions], init)?;
        Ok(Across { weight, bias: p.f_var("bias", &[channels, 1, positions], init)? })
    }
}

impl Module for Across {
    /// # Shapes
    /// `x`: `[B, D, h, w]`; returns the same.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let (_, _, rows, columns) = dims4(x, "map of the encoder", "[B, D, H, W]")?;
        let y = x.f_flatten(2, 3)?.f_transpose(0, 1)?.f_matmul(&self.weight)?.f_add(&self.bias)?; // [D, B, h w].
        Ok(y.f_transpose(0, 1)?.f_unflatten(2, [rows, columns])?)
    }
}

/// Convolutions of stride 2 with leaky rectifiers, that tell drawn images from real ones.
#[derive(Debug)]
pub(crate) struct Critic {
    convs: Vec<Conv2d>,
    dim: i64,
}

impl Critic {
    /// The first map has `width` channels, each after it twice as many.
    ///
    /// # Errors
    /// `Error::Config` when the width is not positive.
    pub(crate) fn new(p: &Path, width: i64, canvas: Canvas) -> Result<Self> {
        check::at_least(1, [("critic_width", width)])?;
        let options = ConvOptions { stride: 2, padding: 1, ..ConvOptions::default() };
        let (mut convs, mut input, mut side) = (Vec::new(), canvas.channels, canvas.side);
        while side > LAST {
            let output = width_at(width, convs.len() as u32);
            convs.push(Conv2d::with_bias(&(p / convs.len() as i64), (input, output), 4, options)?);
            (input, side) = (output, side / 2);
        }
        Ok(Critic { convs, dim: input * side * side })
    }

    /// Numbers that are made of an image.
    pub(crate) fn dim(&self) -> i64 {
        self.dim
    }
}

impl Module for Critic {
    /// # Shapes
    /// `x`: `[B, C, S, S]`; returns `[B, D]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.convs.iter().try_fold(channels_last(x)?, |x, conv| leaky(&conv.forward(&x, mode)?))?;
        Ok(x.f_flatten(1, -1)?)
    }
}

/// The variables of a store whose names begin with that place.
pub(crate) fn variables_at(vars: &VarStore, place: &str) -> Vec<Tensor> {
    let inside = |name: &str| name.strip_prefix(place).is_some_and(|rest| rest.starts_with('.'));
    vars.variables().into_iter().filter_map(|(name, variable)| inside(&name).then_some(variable)).collect()
}

/// A rectifier that lets a fifth of what is negative through.
pub(crate) fn leaky(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_maximum(&x.f_mul_scalar(0.2)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn sides_double_up_to_the_canvas() {
        assert_eq!(sides(28, 7), [7, 14, 28]);
        assert_eq!(sides(32, 7), [4, 8, 16, 32]);
        assert_eq!(sides(28, 4), [4, 7, 14, 28]);
        assert_eq!(sides(128, 1), [1, 2, 4, 8, 16, 32, 64, 128]);
        assert_eq!(sides(5, 7), [5]);
    }

    #[test]
    fn vectors_and_maps_become_images_of_the_canvas() {
        let (vars, canvas) = (VarStore::new(Device::Cpu), Canvas { channels: 3, side: 13 });
        let p = vars.root();
        let of_vectors = Decoder::of_vectors(&(&p / "a"), 5, 2, canvas).unwrap();
        let of_maps = Decoder::of_maps(&(&p / "b"), (6, 2), 2, canvas).unwrap();
        let x = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        for image in
            [of_vectors.forward(&x(&[2, 5]), Mode::Train), of_maps.forward(&x(&[2, 6, 2, 2]), Mode::Train)]
        {
            let image = image.unwrap();
            assert_eq!((image.size(), image.kind()), (vec![2, 3, 13, 13], Kind::Float));
        }
        let size = |name: &str| vars.variables()[name].size();
        assert_eq!(size("b.stages.0.conv.weight"), [8, 6, 3, 3]);
        assert_eq!(size("b.stages.2.conv.weight"), [2, 4, 3, 3]);
        assert_eq!(size("a.project.weight"), [4 * 7 * 7, 5]);
    }

    #[test]
    fn a_critic_ends_at_a_small_map_and_counts_its_numbers() {
        let vars = VarStore::new(Device::Cpu);
        let critic = Critic::new(&vars.root(), 2, Canvas { channels: 1, side: 28 }).unwrap();
        let x = Tensor::ones([3, 1, 28, 28], (Kind::Float, Device::Cpu));
        assert_eq!(critic.forward(&x, Mode::Eval).unwrap().size(), [3, 8 * 3 * 3]);
        assert_eq!(critic.dim(), 8 * 3 * 3);
    }

    #[test]
    fn each_channel_passes_its_own_layer_over_all_positions() {
        let vars = VarStore::new(Device::Cpu);
        let across = Across::new(&vars.root(), 2, 6).unwrap();
        let x = Tensor::arange(36, (Kind::Float, Device::Cpu)).cos().view([3, 2, 2, 3]);
        let y = across.forward(&x, Mode::Eval).unwrap();
        for (n, d, to) in (0..3).flat_map(|n| (0..2).flat_map(move |d| (0..6).map(move |to| (n, d, to)))) {
            let one = |from: i64| {
                across.weight.double_value(&[d, from, to]) * x.double_value(&[n, d, from / 3, from % 3])
            };
            let slow = (0..6).map(one).sum::<f64>() + across.bias.double_value(&[d, 0, to]);
            assert!((y.double_value(&[n, d, to / 3, to % 3]) - slow).abs() < 1e-6);
        }
    }

    #[test]
    fn variables_of_a_place_are_those_after_a_dot() {
        let vars = VarStore::new(Device::Cpu);
        for name in ["a", "ab"] {
            Linear::new(&(vars.root() / name), 2, 3).unwrap();
        }
        assert_eq!(variables_at(&vars, "a").len(), 2);
    }

    #[test]
    fn a_fifth_of_what_is_negative_passes() {
        let x = Tensor::from_slice(&[-5f64, 0., 2.]);
        assert!(leaky(&x).unwrap().allclose(&Tensor::from_slice(&[-1f64, 0., 2.]), 0., 1e-12, false));
    }

    #[test]
    fn a_width_of_nothing_is_refused() {
        let (vars, canvas) = (VarStore::new(Device::Cpu), Canvas { channels: 1, side: 8 });
        let message = Decoder::of_vectors(&vars.root(), 5, 0, canvas).unwrap_err().to_string();
        assert_eq!(message, "decoder_width: expected at least 1, got 0");
        let message = Critic::new(&vars.root(), 0, canvas).unwrap_err().to_string();
        assert_eq!(message, "critic_width: expected at least 1, got 0");
    }
}
