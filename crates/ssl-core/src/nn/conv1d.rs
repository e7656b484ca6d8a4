//! One-dimensional convolution.
use super::layers::{ConvOptions, uniform_fan_in};
use super::{Mode, Module};
use crate::{Error, Result};
use tch::Tensor;
use tch::nn::{Init, Path};

/// A window that slides over time.
#[derive(Debug)]
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    options: ConvOptions,
}

impl Conv1d {
    /// A kernel with weights drawn by `init`, without a bias.
    ///
    /// # Errors
    /// `Error::Config` when the groups do not divide the input channels.
    pub fn new(
        p: &Path,
        (input, output): (i64, i64),
        kernel: i64,
        options: ConvOptions,
        init: Init,
    ) -> Result<Self> {
        let groups = options.groups;
        if groups < 1 || input % groups != 0 {
            let message = format!("expected a divisor of the {input} input channels, got {groups}");
            return Err(Error::config("groups", message));
        }
        let weight = p.f_var("weight", &[output, input / groups, kernel], init)?;
        Ok(Conv1d { weight, bias: None, options })
    }

    /// A kernel with a bias, initialized as `torch.nn.Conv1d`: both from U(-1/sqrt(fan in), 1/sqrt(fan in)).
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn with_bias(
        p: &Path,
        (input, output): (i64, i64),
        kernel: i64,
        options: ConvOptions,
    ) -> Result<Self> {
        let init = uniform_fan_in(input / options.groups.max(1) * kernel);
        Conv1d::new(p, (input, output), kernel, options, init)?.and_bias(p, init)
    }

    /// The same layer with a bias under `p`, drawn by `init`.
    ///
    /// # Errors
    /// When libtorch refuses the variable.
    pub fn and_bias(self, p: &Path, init: Init) -> Result<Self> {
        let output = self.weight.size().first().copied().unwrap_or(0);
        Ok(Conv1d { bias: Some(p.f_var("bias", &[output], init)?), ..self })
    }
}

impl Module for Conv1d {
    /// # Shapes
    /// `x`: `[B, C, T]`; returns `[B, C', T']`.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let ConvOptions { stride, padding, groups } = self.options;
        Ok(x.f_conv1d(&self.weight, self.bias.as_ref(), stride, padding, 1, groups)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    #[test]
    fn it_starts_as_pytorch_starts_it() {
        let vars = VarStore::new(Device::Cpu);
        let options = ConvOptions { groups: 4, ..ConvOptions::default() };
        let conv = Conv1d::with_bias(&vars.root(), (16, 4000), 25, options).unwrap();
        // A fan in of 16 / 4 * 25.
        for (name, tensor) in vars.variables() {
            let (lo, hi) = (f64::try_from(tensor.min()).unwrap(), f64::try_from(tensor.max()).unwrap());
            let bound = f64::from(0.1f32);
            assert!((-bound..-0.099).contains(&lo) && (0.099..=bound).contains(&hi), "{name}: {lo} to {hi}");
        }
        let zeros = Tensor::zeros([1, 16, 25], (Kind::Float, Device::Cpu));
        let y = conv.forward(&zeros, Mode::Eval).unwrap();
        assert!(y.flatten(0, -1).equal(&vars.variables()["bias"]), "of zeros the bias is left");
    }

    #[test]
    fn the_window_slides_by_the_stride_over_the_padded_input() {
        let vars = VarStore::new(Device::Cpu);
        let options = ConvOptions { stride: 2, padding: 1, groups: 1 };
        let conv = Conv1d::new(&vars.root(), (1, 1), 3, options, Init::Const(1.)).unwrap();
        let x = Tensor::from_slice(&[1f32, 2., 4., 8., 16.]).view([1, 1, 5]);
        let y = conv.forward(&x, Mode::Eval).unwrap();
        assert_eq!(Vec::<f32>::try_from(y.flatten(0, -1)).unwrap(), [3., 14., 24.]);
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let vars = VarStore::new(Device::Cpu);
        for groups in [0, 3] {
            let options = ConvOptions { groups, ..ConvOptions::default() };
            let message = Conv1d::with_bias(&vars.root(), (4, 8), 3, options).unwrap_err().to_string();
            assert_eq!(message, format!("groups: expected a divisor of the 4 input channels, got {groups}"));
        }
    }
}
