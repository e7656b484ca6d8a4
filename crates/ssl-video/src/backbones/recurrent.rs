//! Recurrent cells whose state is a map, and a network that reads frames with one of them.
//!
//! Source: Ballas et al., 2016 (ConvGRU): <https://arxiv.org/abs/1511.06432>; its gates, names and start as in the code
//! of dense predictive coding (`TengdaHan/DPC`, `backbone/convrnn.py`); Shi et al., 2015 (ConvLSTM), equation 3, without
//! the products of cell and gates, which later work leaves out: <https://arxiv.org/abs/1506.04214>.
use super::conv3d::Gates;
use super::{Backbone, clips, images, mode_of_parts, of_images};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::eval::Layer;
use ssl_core::nn::{BatchNorm, Conv2d, ConvOptions, Module, kaiming_normal_fan_out};
use ssl_core::{Error, Mode, Result, no_grad};
use std::fmt;
use std::str::FromStr;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Draws a weight whose rows, or columns where there are more rows, are orthogonal, as `torch.nn.init.orthogonal_`.
///
/// # Source
/// Saxe et al., 2014: <https://arxiv.org/abs/1312.6120>.
pub(crate) fn orthogonal(weight: &Tensor) -> Result<()> {
    let rows = weight.size().first().copied().unwrap_or(0);
    let columns = weight.numel() as i64 / rows.max(1);
    let normal = Tensor::f_randn([rows.max(columns), rows.min(columns)], (Kind::Float, weight.device()))?;
    let (q, r) = Tensor::f_linalg_qr(&normal, "reduced")?;
    let q = q.f_mul(&r.f_diagonal(0, 0, 1)?.f_sign()?)?;
    let q = if rows < columns { q.f_tr()? } else { q };
    no_grad(|| weight.shallow_clone().f_copy_(&q.f_reshape(weight.size())?))?;
    Ok(())
}

/// A gated recurrent unit over maps.
#[derive(Debug)]
pub(crate) struct ConvGru {
    reset: Gates,
    update: Gates,
    out: Gates,
    dim: i64,
}

impl ConvGru {
    pub(crate) fn new(p: &Path, (input, dim): (i64, i64), kernel: i64) -> Result<Self> {
        let gate = |name: &str| Gates::new(&(p / name), (input + dim, dim), kernel, Some(orthogonal));
        Ok(ConvGru { reset: gate("reset_gate")?, update: gate("update_gate")?, out: gate("out_gate")?, dim })
    }

    /// A state that has seen nothing, for maps of the size of `x`.
    pub(crate) fn start(&self, x: &Tensor) -> Result<Tensor> {
        zeros(x, self.dim)
    }

    /// # Shapes
    /// `x`: `[B, C, H, W]`; `state`: `[B, D, H, W]`; returns the next state.
    pub(crate) fn forward(&self, x: &Tensor, state: &Tensor) -> Result<Tensor> {
        let both = Tensor::f_cat(&[x, state], 1)?;
        let update = self.update.forward(&both)?.f_sigmoid()?;
        let reset = self.reset.forward(&both)?.f_sigmoid()?;
        let out = self.out.forward(&Tensor::f_cat(&[x, &state.f_mul(&reset)?], 1)?)?.f_tanh()?;
        Ok(state.f_add(&update.f_mul(&out.f_sub(state)?)?)?)
    }
}

/// A long short-term memory over maps.
#[derive(Debug)]
pub(crate) struct ConvLstm {
    gates: Gates,
    dim: i64,
}

impl ConvLstm {
    pub(crate) fn new(p: &Path, (input, dim): (i64, i64), kernel: i64) -> Result<Self> {
        Ok(ConvLstm { gates: Gates::new(&(p / "conv"), (input + dim, 4 * dim), kernel, None)?, dim })
    }

    /// Output and memory that have seen nothing, for maps of the size of `x`.
    pub(crate) fn start(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        Ok([zeros(x, self.dim)?, zeros(x, self.dim)?])
    }

    /// # Shapes
    /// `x`: `[B, C, H, W]`; the state: output and memory, `[B, D, H, W]` each; returns the next ones, float32.
    pub(crate) fn forward(&self, x: &Tensor, [output, memory]: &[Tensor; 2]) -> Result<[Tensor; 2]> {
        let both = Tensor::f_cat(&[&x.f_to_kind(Kind::Float)?, output], 1)?;
        let gates = self.gates.forward(&both)?.f_to_kind(Kind::Float)?;
        let part = |n: i64| gates.f_narrow(1, n * self.dim, self.dim);
        let (input, forget) = (part(0)?.f_sigmoid()?, part(1)?.f_sigmoid()?);
        let (open, new) = (part(2)?.f_sigmoid()?, part(3)?.f_tanh()?);
        let memory = forget.f_mul(memory)?.f_add(&input.f_mul(&new)?)?;
        Ok([open.f_mul(&memory.f_tanh()?)?, memory])
    }
}

fn zeros(x: &Tensor, dim: i64) -> Result<Tensor> {
    let Ok([b, _, h, w]) = <[i64; 4]>::try_from(x.size()) else {
        let (what, expected) = ("maps".into(), "[B, C, H, W]".into());
        return Err(Error::Shape { what, expected, got: x.size() });
    };
    Ok(Tensor::f_zeros([b, dim, h, w], (Kind::Float, x.device()))?)
}

/// `convlstm_wN_lL`: frames at a quarter of their size, N channels wide, read by L layers of ConvLSTM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RecurrentArch {
    /// Channels of each layer.
    pub width: i64,
    /// Layers.
    pub layers: i64,
}

pub(super) const PREFIX: &str = "convlstm";

impl FromStr for RecurrentArch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let read = || {
            let (width, layers) = name.strip_prefix(PREFIX)?.strip_prefix("_w")?.split_once("_l")?;
            Some(RecurrentArch { width: width.parse().ok()?, layers: layers.parse().ok()? })
        };
        read().filter(|arch| (2..=1024).contains(&arch.width) && (1..=16).contains(&arch.layers)).ok_or_else(
            || {
                let known = "convlstm_wN_lL with a width N of 2 to 1024 and L of 1 to 16 layers";
                Error::config("encoder", format!("expected {known}, got {name}"))
            },
        )
    }
}

impl fmt::Display for RecurrentArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_w{}_l{}", self.width, self.layers)
    }
}

impl TryFrom<String> for RecurrentArch {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<RecurrentArch> for String {
    fn from(arch: RecurrentArch) -> String {
        arch.to_string()
    }
}

/// The shape of a network that reads frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecurrentConfig {
    /// Which one.
    pub arch: RecurrentArch,
    /// Channels of the clips.
    pub channels: i64,
    /// Side of the window of the recurrent layers, odd.
    #[serde(default = "five")]
    pub kernel: i64,
}

fn five() -> i64 {
    5
}

impl RecurrentConfig {
    /// Where a variable of that name lies: the convolutions at 0, the layers from 1 on, a classifier behind.
    pub fn layer_of(&self, name: &str) -> Layer {
        let layer = name.strip_prefix("cells.").and_then(|rest| rest.split_once('.'));
        let depth = layer.and_then(|(index, _)| index.parse::<usize>().ok()).map_or(0, |index| index + 1);
        Layer { depth, of: usize::try_from(self.arch.layers).unwrap_or(0) + 1 }
    }
}

/// Two convolutions on each frame and layers of ConvLSTM on what they give.
#[derive(Debug)]
pub struct Recurrent {
    stem: [(Conv2d, BatchNorm); 2],
    cells: Vec<ConvLstm>,
    config: RecurrentConfig,
}

impl Recurrent {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &RecurrentConfig) -> Result<Self> {
        if config.channels < 1 {
            return Err(Error::config("channels", format!("expected at least 1, got {}", config.channels)));
        }
        if !(1..=31).contains(&config.kernel) || config.kernel % 2 == 0 {
            let message = format!("expected an odd number of 1 to 31, got {}", config.kernel);
            return Err(Error::config("kernel", message));
        }
        let RecurrentArch { width, layers } = config.arch;
        let layer = |index: i64, io: (i64, i64)| -> Result<_> {
            let options = ConvOptions { stride: 2, padding: 1, groups: 1 };
            let place = p / "stem" / index;
            let conv = Conv2d::new(&(&place / 0), io, 3, options, kaiming_normal_fan_out(io.1, 3))?;
            Ok((conv, BatchNorm::new(&(&place / 1), io.1)?))
        };
        let cells = p / "cells";
        let cells = (0..layers).map(|n| ConvLstm::new(&(&cells / n), (width, width), config.kernel));
        Ok(Recurrent {
            stem: [layer(0, (config.channels, width / 2))?, layer(1, (width / 2, width))?],
            cells: cells.collect::<Result<_>>()?,
            config: *config,
        })
    }

    /// What the last layer makes of each frame and those before it, and what each layer gives.
    fn read(&self, x: &Tensor, mode: Mode) -> Result<Vec<Tensor>> {
        let [_, _, frames, ..] = clips(x, self.config.channels)?;
        let mut maps = images(x)?;
        for (conv, norm) in &self.stem {
            maps = norm.forward(&conv.forward(&maps, mode)?, mode_of_parts(mode, frames))?.f_relu_()?;
        }
        let mut of_layers = vec![of_images(&maps, frames)?];
        for cell in &self.cells {
            let steps = of_layers.last().map(|maps| maps.f_unbind(2)).transpose()?.unwrap_or_default();
            let mut outputs: Vec<Tensor> = Vec::new();
            let mut state = None;
            for x in &steps {
                let before = match state {
                    Some(state) => state,
                    None => cell.start(x)?,
                };
                let after = cell.forward(x, &before)?;
                outputs.extend(after.first().map(Tensor::shallow_clone));
                state = Some(after);
            }
            of_layers.push(Tensor::f_stack(&outputs, 2)?);
        }
        Ok(of_layers)
    }

    /// What the last layer makes of each frame and those before it.
    ///
    /// # Shapes
    /// `x`: `[B, C, T, H, W]`; returns `[B, D, T, H / 4, W / 4]`, sides rounded up.
    ///
    /// # Errors
    /// `Error::Shape` when `x` is no batch of clips with the expected number of channels.
    pub fn states(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.read(x, mode)?.pop().ok_or_else(|| Error::config("encoder", "expected a layer, got none"))
    }
}

impl Backbone for Recurrent {
    fn features(&self, x: &Tensor, mode: Mode) -> Result<Vec<(String, Tensor)>> {
        let name = |(n, map)| (if n == 0 { "stem".to_string() } else { format!("cells.{}", n - 1) }, map);
        Ok(self.read(x, mode)?.into_iter().enumerate().map(name).collect())
    }

    fn frames(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let states = self.states(x, mode)?;
        Ok(states.f_mean_dim([3i64, 4].as_slice(), false, Kind::Float)?.f_transpose(1, 2)?)
    }

    /// The state after the last frame.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.frames(x, mode)?.f_select(1, -1)?)
    }

    fn frame_dim(&self) -> i64 {
        self.config.arch.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn orthogonal_weights_keep_lengths() {
        for shape in [[6i64, 2, 2, 2], [12, 3, 1, 1]] {
            let weight = Tensor::zeros(shape, CPU);
            orthogonal(&weight).unwrap();
            let flat = weight.view([shape[0], -1]);
            let product = if flat.size()[0] < flat.size()[1] {
                flat.matmul(&flat.tr())
            } else {
                flat.tr().matmul(&flat)
            };
            let eye = Tensor::eye(product.size()[0], CPU);
            assert!(product.allclose(&eye, 1e-4, 1e-5, false));
        }
    }

    #[test]
    fn a_cell_of_one_pixel_is_libtorchs_gru() {
        let vars = VarStore::new(Device::Cpu);
        let cell = ConvGru::new(&vars.root(), (3, 4), 1).unwrap();
        let of = |name: &str| vars.variables()[name].shallow_clone();
        let halves = |gate: &str| {
            let weight = of(&format!("{gate}_gate.weight")).view([4, 7]);
            (weight.narrow(1, 0, 3), weight.narrow(1, 3, 4))
        };
        let (x, h) = (Tensor::randn([2, 3], CPU), Tensor::randn([2, 4], CPU));
        let linear = |gate: &str, h: &Tensor| {
            let (of_x, of_h) = halves(gate);
            x.matmul(&of_x.tr()) + h.matmul(&of_h.tr()) + of(&format!("{gate}_gate.bias"))
        };
        let (update, reset) = (linear("update", &h).sigmoid(), linear("reset", &h).sigmoid());
        let new = linear("out", &(&h * reset)).tanh();
        let expected = &h * (1f64 - &update) + &update * new;
        let got = cell.forward(&x.view([2, 3, 1, 1]), &h.view([2, 4, 1, 1])).unwrap();
        assert!(got.view([2, 4]).allclose(&expected, 1e-5, 1e-6, false));
        assert_eq!(cell.start(&x.view([2, 3, 1, 1])).unwrap().size(), [2, 4, 1, 1]);
    }

    #[test]
    fn a_cell_of_one_pixel_is_libtorchs_lstm() {
        let vars = VarStore::new(Device::Cpu);
        let cell = ConvLstm::new(&vars.root(), (3, 4), 1).unwrap();
        let weight = vars.variables()["conv.weight"].view([4, 4, 7]);
        let bias = vars.variables()["conv.bias"].view([4, 4]);
        // PyTorch's gates: input, forget, cell, output.
        let order = Tensor::from_slice(&[0i64, 1, 3, 2]);
        let weight = weight.index_select(0, &order).reshape([16, 7]);
        let bias = bias.index_select(0, &order).reshape([16]);
        let (x, h, c) = (Tensor::randn([2, 3], CPU), Tensor::randn([2, 4], CPU), Tensor::randn([2, 4], CPU));
        let (of_x, of_h) = (weight.narrow(1, 0, 3).contiguous(), weight.narrow(1, 3, 4).contiguous());
        let (output, memory) = x.lstm_cell(&[&h, &c], &of_x, &of_h, Some(&bias), None::<&Tensor>);
        let map = |x: &Tensor| x.view([2, -1, 1, 1]);
        let [got, kept] = cell.forward(&map(&x), &[map(&h), map(&c)]).unwrap();
        assert!(got.view([2, 4]).allclose(&output, 1e-5, 1e-6, false));
        assert!(kept.view([2, 4]).allclose(&memory, 1e-5, 1e-6, false));
    }

    #[test]
    fn a_state_knows_what_was_and_not_what_will_be() {
        let vars = VarStore::new(Device::Cpu);
        let arch: RecurrentArch = "convlstm_w6_l2".parse().unwrap();
        let config = RecurrentConfig { arch, channels: 1, kernel: 3 };
        let net = Recurrent::new(&vars.root(), &config).unwrap();
        let x = Tensor::randn([2, 1, 5, 8, 8], CPU);
        let states = net.states(&x, Mode::Eval).unwrap();
        assert_eq!(states.size(), [2, 6, 5, 2, 2]);
        let later = x.copy();
        let _ = later.narrow(2, 3, 2).fill_(1.);
        let other = net.states(&later, Mode::Eval).unwrap();
        let near =
            |a: i64, n: i64| states.narrow(2, a, n).allclose(&other.narrow(2, a, n), 1e-5, 1e-6, false);
        assert!(near(0, 3) && !near(3, 1) && !near(4, 1));
        let last = states.select(2, 4).mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        assert!(net.forward(&x, Mode::Eval).unwrap().allclose(&last, 1e-5, 1e-6, false));
        for name in vars.variables().keys() {
            let depth = name.strip_prefix("cells.").map_or(0, |rest| rest[..1].parse::<usize>().unwrap() + 1);
            assert_eq!(config.layer_of(name), Layer { depth, of: 3 }, "{name}");
        }
    }

    #[test]
    fn names_and_wrong_numbers_are_told() {
        assert_eq!("convlstm_w32_l2".parse::<RecurrentArch>().unwrap().to_string(), "convlstm_w32_l2");
        for name in ["convlstm_w1_l2", "convlstm", "convlstm_w8_l0"] {
            assert!(name.parse::<RecurrentArch>().unwrap_err().to_string().ends_with(name));
        }
        let arch = "convlstm_w4_l1".parse().unwrap();
        let config = RecurrentConfig { arch, channels: 1, kernel: 4 };
        let message = Recurrent::new(&VarStore::new(Device::Cpu).root(), &config).unwrap_err().to_string();
        assert_eq!(message, "kernel: expected an odd number of 1 to 31, got 4");
    }
}
