//! The two linear layers of a transformer's block, and what is between them.
//!
//! Source: Hendrycks & Gimpel, 2016 (GELU): <https://arxiv.org/abs/1606.08415>; Shazeer, 2020 (SwiGLU):
//! <https://arxiv.org/abs/2002.05202>.
use super::init::small;
use super::{Dropout, Linear, Mode, Module, at};
use crate::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::Path;

/// `x` times the normal distribution's mass below `x`, not approximated.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_gelu("none")?)
}

/// What is between the two layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// [`gelu`].
    #[default]
    Gelu,
    /// GELU by a hyperbolic tangent, as in GPT-2.
    GeluTanh,
    /// The first layer has `2 hidden` outputs; the SiLU of the first half multiplies the second.
    #[serde(rename = "swiglu")]
    SwiGlu,
}

/// Two linear layers with an activation between them. Weights start as `trunc_normal` of 0.02, biases as zero.
#[derive(Debug)]
pub struct Mlp {
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
    pub(super) activation: Activation,
    pub(super) dropout: Dropout,
}

impl Mlp {
    /// Makes the variables under `p` by the names of the two layers; `dropout` follows the activation in training.
    ///
    /// # Errors
    /// `Error::Config` when the dropout is no probability below 1.
    pub fn new(
        p: &Path,
        (dim, hidden): (i64, i64),
        activation: Activation,
        dropout: f64,
        names: [&str; 2],
    ) -> Result<Self> {
        let inner = if activation == Activation::SwiGlu { 2 * hidden } else { hidden };
        let [fc1, fc2] = names.map(|name| at(p, name));
        Ok(Mlp {
            fc1: Linear::with_init(&fc1, dim, inner, small)?,
            fc2: Linear::with_init(&fc2, hidden, dim, small)?,
            activation,
            dropout: Dropout::new(dropout)?,
        })
    }
}

impl Mlp {
    /// The same MLP, of the same variables.
    pub(super) fn shallow_clone(&self) -> Self {
        Mlp { fc1: self.fc1.shallow_clone(), fc2: self.fc2.shallow_clone(), ..*self }
    }
}

impl Module for Mlp {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.fc1.forward(x, mode)?;
        let x = match self.activation {
            Activation::Gelu => gelu(&x)?,
            Activation::GeluTanh => x.f_gelu("tanh")?,
            Activation::SwiGlu => {
                let half = x.size().last().copied().unwrap_or(0) / 2;
                x.f_narrow(-1, 0, half)?.f_silu()?.f_mul(&x.f_narrow(-1, half, half)?)?
            }
        };
        self.fc2.forward(&self.dropout.forward(&x, mode)?, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no_grad;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn activations_are_their_formulas() {
        let x = Tensor::randn([5, 7], (Kind::Double, Device::Cpu));
        let exact = &x * 0.5 * ((&x / std::f64::consts::SQRT_2).erf() + 1.);
        assert!(gelu(&x).unwrap().allclose(&exact, 1e-9, 1e-12, false));
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::SwiGlu] {
            let vars = VarStore::new(Device::Cpu);
            let mlp = Mlp::new(&vars.root(), (7, 4), activation, 0., ["a", "b.c"]).unwrap();
            for (_, mut x) in vars.variables() {
                no_grad(|| drop(x.normal_(0., 1.)));
            }
            let of = |name: &str| vars.variables()[name].to_kind(Kind::Double);
            let h = x.linear(&of("a.weight"), Some(of("a.bias")));
            let h = match activation {
                Activation::Gelu => &h * 0.5 * ((&h / std::f64::consts::SQRT_2).erf() + 1.),
                Activation::GeluTanh => {
                    let inner = (&h + h.pow_tensor_scalar(3) * 0.044715) * (2. / std::f64::consts::PI).sqrt();
                    &h * 0.5 * (inner.tanh() + 1.)
                }
                Activation::SwiGlu => {
                    let (gate, value) = (h.narrow(1, 0, 4), h.narrow(1, 4, 4));
                    &gate * gate.sigmoid() * value
                }
            };
            let slow = h.linear(&of("b.c.weight"), Some(of("b.c.bias")));
            let y = mlp.forward(&x.to_kind(Kind::Float), Mode::Eval).unwrap().to_kind(Kind::Double);
            assert!(y.allclose(&slow, 1e-4, 1e-5, false), "{activation:?}");
        }
    }
}
