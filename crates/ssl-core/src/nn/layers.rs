//! Linear and convolution layers.
use super::{Mode, Module};
use crate::Result;
use tch::Tensor;
use tch::nn::{Init, Path};

/// `y = x W^T + b`, initialized as `torch.nn.Linear`: both from U(-1/sqrt(in), 1/sqrt(in)).
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with a bias.
    pub fn new(p: &Path, input: i64, output: i64) -> Result<Self> {
        let layer = Linear::without_bias(p, input, output)?;
        let bound = 1. / (input as f64).sqrt();
        Ok(Linear {
            bias: Some(p.f_var("bias", &[output], Init::Uniform { lo: -bound, up: bound })?),
            ..layer
        })
    }

    /// A layer without a bias, as before a normalization.
    pub fn without_bias(p: &Path, input: i64, output: i64) -> Result<Self> {
        let bound = 1. / (input as f64).sqrt();
        let weight = p.f_var("weight", &[output, input], Init::Uniform { lo: -bound, up: bound })?;
        Ok(Linear { weight, bias: None })
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Stride, padding and the like of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Step of the window.
    pub stride: i64,
    /// Zeros added on each side.
    pub padding: i64,
    /// Groups of channels that do not mix.
    pub groups: i64,
}

impl Default for ConvOptions {
    fn default() -> Self {
        ConvOptions { stride: 1, padding: 0, groups: 1 }
    }
}

/// Two-dimensional convolution without a bias, which the normalization after it would cancel.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    options: ConvOptions,
}

impl Conv2d {
    /// A square kernel with weights drawn by `init`; see [`kaiming_normal_fan_out`].
    pub fn new(
        p: &Path,
        (input, output): (i64, i64),
        kernel: i64,
        options: ConvOptions,
        init: Init,
    ) -> Result<Self> {
        let weight = p.f_var("weight", &[output, input / options.groups, kernel, kernel], init)?;
        Ok(Conv2d { weight, options })
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let ConvOptions { stride, padding, groups } = self.options;
        Ok(x.f_conv2d::<Tensor>(&self.weight, None, [stride; 2], [padding; 2], [1; 2], groups)?)
    }
}

/// `torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")` of a square kernel.
///
/// # Source
/// He et al., 2015, equation 14: <https://arxiv.org/abs/1502.01852>; torchvision's ResNet uses it.
pub fn kaiming_normal_fan_out(output: i64, kernel: i64) -> Init {
    let stdev = (2. / (output * kernel * kernel) as f64).sqrt();
    Init::Randn { mean: 0., stdev }
}

/// Rows scaled to unit length, in float32 at least; as `torch.nn.functional.normalize`.
///
/// # Shapes
/// `x`: `[.., D]`; returns the same.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let norm = x.f_norm_scalaropt_dim(2, [-1i64], true)?.f_clamp_min(1e-12)?;
    Ok(x.f_div(&norm)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    #[test]
    fn a_linear_layer_starts_as_pytorch_starts_it() {
        let vars = VarStore::new(Device::Cpu);
        Linear::new(&(vars.root() / "fc"), 100, 4000).unwrap();
        for (name, tensor) in vars.variables() {
            let (lo, hi) = (tensor.min(), tensor.max());
            let (lo, hi) = (f64::try_from(lo).unwrap(), f64::try_from(hi).unwrap());
            assert!((-0.1..-0.099).contains(&lo) && (0.099..=0.1).contains(&hi), "{name}: {lo} to {hi}");
        }
        let mut names: Vec<_> = vars.variables().into_keys().collect();
        names.sort();
        assert_eq!(names, ["fc.bias", "fc.weight"]);
    }

    #[test]
    fn a_convolution_starts_as_torchvision_starts_it() {
        let vars = VarStore::new(Device::Cpu);
        let p = vars.root();
        Conv2d::new(&(&p / "conv1"), (3, 64), 7, ConvOptions::default(), kaiming_normal_fan_out(64, 7))
            .unwrap();
        let stdev = f64::try_from(vars.variables()["conv1.weight"].std(true)).unwrap();
        // torchvision 0.26, resnet18().conv1.weight.std(): 0.0252 +- 0.0003 over seeds.
        assert!((stdev - 0.02525).abs() < 0.0008, "{stdev}");
    }

    #[test]
    fn normalized_rows_have_unit_length_and_zero_stays_zero() {
        let x = Tensor::from_slice(&[3f64, 4., 0., 0.]).view([2, 2]);
        let y = l2_normalize(&x).unwrap();
        assert_eq!(Vec::<f64>::try_from(y.view(-1)).unwrap(), [0.6, 0.8, 0., 0.]);
        assert_eq!(y.kind(), Kind::Double);
    }
}
