//! Linear and convolution layers.
use super::{Mode, Module};
use crate::tensor::at_least_float;
use crate::{Error, Result};
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
        Ok(Linear { bias: Some(p.f_var("bias", &[output], uniform_fan_in(input))?), ..layer })
    }

    /// A layer without a bias, as before a normalization.
    pub fn without_bias(p: &Path, input: i64, output: i64) -> Result<Self> {
        Ok(Linear { weight: p.f_var("weight", &[output, input], uniform_fan_in(input))?, bias: None })
    }

    /// A layer whose weight `init` writes, such as [`xavier_uniform`](super::xavier_uniform), and whose bias is zero.
    pub fn with_init(
        p: &Path,
        input: i64,
        output: i64,
        init: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Self> {
        let layer = Linear::without_bias_with_init(p, input, output, init)?;
        Ok(Linear { bias: Some(p.f_zeros("bias", &[output])?), ..layer })
    }

    /// A layer without a bias whose weight `init` writes.
    pub fn without_bias_with_init(
        p: &Path,
        input: i64,
        output: i64,
        init: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Self> {
        let weight = p.f_zeros("weight", &[output, input])?;
        init(&weight)?;
        Ok(Linear { weight, bias: None })
    }
}

impl Linear {
    /// The weight, `[out, in]`, and the bias where there is one.
    pub(super) fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// The same layer, of the same variables.
    pub(super) fn shallow_clone(&self) -> Self {
        Linear { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
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

/// Two-dimensional convolution.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    options: ConvOptions,
}

impl Conv2d {
    /// A square kernel with weights drawn by `init`, such as [`kaiming_normal_fan_out`], and without a bias, which a
    /// normalization after it would cancel.
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
        let weight = p.f_var("weight", &[output, input / groups, kernel, kernel], init)?;
        Ok(Conv2d { weight, bias: None, options })
    }

    /// A square kernel with a bias, initialized as `torch.nn.Conv2d`: both from U(-1/sqrt(fan in), 1/sqrt(fan in)).
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn with_bias(
        p: &Path,
        (input, output): (i64, i64),
        kernel: i64,
        options: ConvOptions,
    ) -> Result<Self> {
        let init = uniform_fan_in(input / options.groups.max(1) * kernel * kernel);
        let layer = Conv2d::new(p, (input, output), kernel, options, init)?;
        Ok(Conv2d { bias: Some(p.f_var("bias", &[output], init)?), ..layer })
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let ConvOptions { stride, padding, groups } = self.options;
        let conv = |x: &Tensor, padding: i64| {
            x.f_conv2d(&self.weight, self.bias.as_ref(), [stride; 2], [padding; 2], [1; 2], groups)
        };
        // Where a map is narrower than a step, oneDNN's gradient of bf16 weights reads memory that nobody wrote, unless
        // the zeros around are part of the input.
        match x.size().last().is_some_and(|width| *width < stride) && padding > 0 {
            true => Ok(conv(&x.f_constant_pad_nd([padding; 4])?, 0)?),
            false => Ok(conv(x, padding)?),
        }
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

/// PyTorch's default for weights and biases of linear and convolution layers: U(-1/sqrt(fan in), 1/sqrt(fan in)), where
/// the fan in is what one output sums over. For weights it is `torch.nn.init.kaiming_uniform_(a=sqrt(5))`.
pub fn uniform_fan_in(fan_in: i64) -> Init {
    let bound = 1. / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Rows scaled to unit length, as `torch.nn.functional.normalize`; a row shorter than 1e-12 keeps its direction and
/// stays shorter.
///
/// # Shapes
/// `x`: `[.., D]`; returns the same, half precision as float32.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let x = at_least_float(x)?;
    let norm = x.f_norm_scalaropt_dim(2, [-1i64], true)?.f_clamp_min(1e-12)?;
    Ok(x.f_div(&norm)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use tch::{Device, Kind, nn::VarStore};

    /// One over the root of a fan in of 100, as float32 has it.
    const BOUND: f64 = 0.1f32 as f64;

    #[test]
    fn a_linear_layer_starts_as_pytorch_starts_it() {
        let vars = VarStore::new(Device::Cpu);
        Linear::new(&(vars.root() / "fc"), 100, 4000).unwrap();
        for (name, tensor) in vars.variables() {
            let (lo, hi) = (tensor.min(), tensor.max());
            let (lo, hi) = (f64::try_from(lo).unwrap(), f64::try_from(hi).unwrap());
            assert!((-BOUND..-0.099).contains(&lo) && (0.099..=BOUND).contains(&hi), "{name}: {lo} to {hi}");
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
    fn a_convolution_with_a_bias_starts_as_pytorch_starts_it() {
        let vars = VarStore::new(Device::Cpu);
        let options = ConvOptions { groups: 4, ..ConvOptions::default() };
        let conv = Conv2d::with_bias(&vars.root(), (16, 4000), 5, options).unwrap();
        // A fan in of 16 / 4 * 5 * 5.
        for (name, tensor) in vars.variables() {
            let (lo, hi) = (f64::try_from(tensor.min()).unwrap(), f64::try_from(tensor.max()).unwrap());
            assert!((-BOUND..-0.099).contains(&lo) && (0.099..=BOUND).contains(&hi), "{name}: {lo} to {hi}");
        }
        let y = conv.forward(&Tensor::zeros([1, 16, 5, 5], (Kind::Float, Device::Cpu)), Mode::Eval).unwrap();
        assert!(y.flatten(0, -1).equal(&vars.variables()["bias"]), "of zeros the bias is left");
    }

    #[test]
    fn gradients_of_half_precision_are_right_also_where_maps_are_narrow() {
        for (height, width) in [(1, 1), (2, 1), (5, 1), (1, 5), (4, 4)] {
            let vars = VarStore::new(Device::Cpu);
            let options = ConvOptions { stride: 2, padding: 1, groups: 1 };
            let conv = Conv2d::with_bias(&vars.root(), (16, 32), 3, options).unwrap();
            let x = Tensor::randn([16, 16, height, width], (Kind::Float, Device::Cpu));
            let gradient = |precision: Precision| {
                let mut weight = vars.variables()["weight"].shallow_clone();
                weight.zero_grad();
                // What is read without having been written is not a number.
                for size in [1 << 10, 1 << 14, 1 << 18] {
                    drop(Tensor::full([size], f64::NAN, (Kind::Float, Device::Cpu)));
                }
                let y = precision.scope(Device::Cpu, || conv.forward(&x, Mode::Train)).unwrap();
                y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
                weight.grad().copy()
            };
            let exact = gradient(Precision::Fp32);
            let error = f64::try_from((gradient(Precision::Bf16) - &exact).norm() / exact.norm()).unwrap();
            assert!(error < 0.05, "{height} by {width}: {error}");
        }
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let vars = VarStore::new(Device::Cpu);
        for groups in [0, 3] {
            let options = ConvOptions { groups, ..ConvOptions::default() };
            let message = Conv2d::with_bias(&vars.root(), (4, 8), 3, options).unwrap_err().to_string();
            assert_eq!(message, format!("groups: expected a divisor of the 4 input channels, got {groups}"));
        }
    }

    #[test]
    fn rows_in_half_precision_are_normalized_in_float32() {
        let x = (Tensor::arange(64, (Kind::Float, Device::Cpu)).view([2, 32]) + 0.3).to_kind(Kind::BFloat16);
        let y = l2_normalize(&x).unwrap();
        assert_eq!(y.kind(), Kind::Float);
        let lengths = y.norm_scalaropt_dim(2, [-1i64], false);
        assert!(lengths.allclose(&lengths.ones_like(), 1e-6, 0., false), "{lengths:?}");
    }

    #[test]
    fn normalized_rows_have_unit_length_and_zero_stays_zero() {
        let x = Tensor::from_slice(&[3f64, 4., 0., 0.]).view([2, 2]);
        let y = l2_normalize(&x).unwrap();
        assert_eq!(Vec::<f64>::try_from(y.view(-1)).unwrap(), [0.6, 0.8, 0., 0.]);
        assert_eq!(y.kind(), Kind::Double);
    }
}
