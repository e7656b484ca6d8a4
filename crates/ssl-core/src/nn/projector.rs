//! The projection head of methods that compare views.
//!
//! Source: Chen et al., 2020 (SimCLR), section 4.2: <https://arxiv.org/abs/2002.05709>.
use super::{BatchNorm, Linear, Mode, Module};
use crate::{Error, Result};
use tch::Tensor;
use tch::nn::Path;

/// Linear layers, each but the last followed by a batch norm and a ReLU. Variables have the places of a
/// `torch.nn.Sequential`: layers at 0, 3, 6, .., norms at 1, 4, ..
#[derive(Debug)]
pub struct Projector {
    hidden: Vec<(Linear, BatchNorm)>,
    output: Linear,
    output_norm: Option<BatchNorm>,
}

/// What makes a layer under a path, from its two widths.
type Layer = fn(&Path, i64, i64) -> Result<Linear>;

impl Projector {
    /// A head of the given widths, from its input's to its output's, without biases: the norms after hidden layers would
    /// cancel theirs.
    ///
    /// # Errors
    /// `Error::Config` when there are fewer than two widths.
    pub fn new(p: &Path, widths: &[i64]) -> Result<Self> {
        Projector::of_layers(p, widths, [Linear::without_bias, Linear::without_bias])
    }

    /// The same with a bias in the last layer.
    ///
    /// # Errors
    /// As [`Projector::new`].
    pub fn with_output_bias(p: &Path, widths: &[i64]) -> Result<Self> {
        Projector::of_layers(p, widths, [Linear::without_bias, Linear::new])
    }

    /// The same whose outputs pass one more batch norm, which `norm` makes under a path for so many features.
    ///
    /// # Errors
    /// As [`Projector::new`], and what `norm` says.
    pub fn with_output_norm(
        p: &Path,
        widths: &[i64],
        norm: fn(&Path, i64) -> Result<BatchNorm>,
    ) -> Result<Self> {
        let head = Projector::new(p, widths)?;
        let (place, width) = (3 * head.hidden.len() as i64 + 1, widths.last().copied().unwrap_or(0));
        Ok(Projector { output_norm: Some(norm(&(p / place), width)?), ..head })
    }

    /// The same with biases in the hidden layers.
    ///
    /// # Errors
    /// As [`Projector::new`].
    pub fn with_hidden_biases(p: &Path, widths: &[i64]) -> Result<Self> {
        Projector::of_layers(p, widths, [Linear::new, Linear::without_bias])
    }

    /// The same with biases in all layers.
    ///
    /// # Errors
    /// As [`Projector::new`].
    pub fn with_biases(p: &Path, widths: &[i64]) -> Result<Self> {
        Projector::of_layers(p, widths, [Linear::new, Linear::new])
    }

    fn of_layers(p: &Path, widths: &[i64], layers: [Layer; 2]) -> Result<Self> {
        let [hidden_layer, last_layer] = layers;
        let [inner @ .., last, output] = widths else {
            return Err(Error::config("widths", format!("expected two at least, got {widths:?}")));
        };
        let inputs = inner.iter().zip(inner.iter().skip(1).chain([last]));
        let hidden = (0i64..).step_by(3).zip(inputs).map(|(place, (&input, &width))| -> Result<_> {
            Ok((hidden_layer(&(p / place), input, width)?, BatchNorm::new(&(p / (place + 1)), width)?))
        });
        let hidden = hidden.collect::<Result<Vec<_>>>()?;
        let output = last_layer(&(p / (3 * hidden.len() as i64)), *last, *output)?;
        Ok(Projector { hidden, output, output_norm: None })
    }
}

impl Module for Projector {
    /// # Shapes
    /// `x`: `[B, D]`; returns `[B, K]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let start = x.shallow_clone();
        let hidden = self.hidden.iter().try_fold(start, |x, (layer, norm)| -> Result<Tensor> {
            Ok(norm.forward(&layer.forward(&x, mode)?, mode)?.f_relu_()?)
        })?;
        let output = self.output.forward(&hidden, mode)?;
        self.output_norm.as_ref().map_or(Ok(output.shallow_clone()), |norm| norm.forward(&output, mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    fn names(vars: &VarStore) -> Vec<String> {
        let mut names: Vec<_> =
            vars.variables().into_keys().filter(|name| !name.contains("running")).collect();
        names.sort();
        names
    }

    #[test]
    fn variables_lie_where_a_sequential_has_them() {
        let vars = VarStore::new(Device::Cpu);
        Projector::new(&vars.root(), &[4, 6, 5, 3]).unwrap();
        let expected = ["0.weight", "1.bias", "1.weight", "3.weight", "4.bias", "4.weight", "6.weight"];
        assert_eq!(names(&vars), expected);
        assert_eq!(vars.variables()["3.weight"].size(), [5, 6]);
        let vars = VarStore::new(Device::Cpu);
        Projector::with_hidden_biases(&vars.root(), &[4, 6, 3]).unwrap();
        assert_eq!(names(&vars), ["0.bias", "0.weight", "1.bias", "1.weight", "3.weight"]);
        let vars = VarStore::new(Device::Cpu);
        Projector::with_biases(&vars.root(), &[4, 6, 3]).unwrap();
        assert_eq!(names(&vars), ["0.bias", "0.weight", "1.bias", "1.weight", "3.bias", "3.weight"]);
        let vars = VarStore::new(Device::Cpu);
        Projector::with_output_bias(&vars.root(), &[4, 6, 3]).unwrap();
        assert_eq!(names(&vars), ["0.weight", "1.bias", "1.weight", "3.bias", "3.weight"]);
        let vars = VarStore::new(Device::Cpu);
        Projector::with_output_norm(&vars.root(), &[4, 6, 3], BatchNorm::without_shift).unwrap();
        assert_eq!(names(&vars), ["0.weight", "1.bias", "1.weight", "3.weight", "4.weight"]);
        let message = Projector::new(&vars.root(), &[4]).unwrap_err().to_string();
        assert_eq!(message, "widths: expected two at least, got [4]");
    }

    #[test]
    fn hidden_values_are_normalized_and_cut_at_zero_and_outputs_are_not() {
        let vars = VarStore::new(Device::Cpu);
        let head = Projector::new(&vars.root(), &[4, 6, 3]).unwrap();
        let x = Tensor::arange(32, (Kind::Float, Device::Cpu)).sin().view([8, 4]);
        let of = |name: &str| vars.variables()[name].shallow_clone();
        let h = x.matmul(&of("0.weight").tr());
        let (var, mean) = h.var_mean_dim([0i64].as_slice(), false, true);
        let slow = ((h - mean) / (var + 1e-5).sqrt()).relu().matmul(&of("3.weight").tr());
        assert!(head.forward(&x, Mode::Train).unwrap().allclose(&slow, 1e-4, 1e-5, false));
    }

    #[test]
    fn outputs_are_normalized_over_the_batch_where_that_is_asked_for() {
        let vars = VarStore::new(Device::Cpu);
        let head = Projector::with_output_norm(&vars.root(), &[4, 6, 3], BatchNorm::without_affine).unwrap();
        let x = Tensor::arange(32, (Kind::Float, Device::Cpu)).sin().view([8, 4]) * 9;
        let (var, mean) =
            head.forward(&x, Mode::Train).unwrap().var_mean_dim([0i64].as_slice(), false, false);
        assert!(mean.abs().max().double_value(&[]) < 1e-5 && (var - 1.).abs().max().double_value(&[]) < 0.01);
    }
}
