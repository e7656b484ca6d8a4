//! Convolution over time and space.
use ssl_core::nn::{Mode, Module};
use ssl_core::{Result, nn::uniform_fan_in};
use tch::Tensor;
use tch::nn::{Init, Path};

/// Window of a convolution and its step, each over time and over both directions of space. The window is odd and
/// stands in the middle of what is padded with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Frames and pixels.
    pub size: [i64; 2],
    /// Frames and pixels from one place to the next.
    pub stride: [i64; 2],
}

impl Window {
    pub(super) fn new(size: [i64; 2], stride: [i64; 2]) -> Self {
        Window { size, stride }
    }
}

/// Three-dimensional convolution without a bias, initialized as torchvision's video networks are.
#[derive(Debug)]
pub(super) struct Conv3d {
    weight: Tensor,
    window: Window,
}

impl Conv3d {
    pub(super) fn new(p: &Path, (input, output): (i64, i64), window: Window) -> Result<Self> {
        let [time, space] = window.size;
        let init = fan_out(output * time * space * space);
        Ok(Conv3d { weight: p.f_var("weight", &[output, input, time, space, space], init)?, window })
    }
}

impl Module for Conv3d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let Window { size: [time, space], stride: [by_time, by_space] } = self.window;
        let (stride, sides) = ([by_time, by_space, by_space], space / 2);
        let conv = |x: &Tensor, before: i64| {
            x.f_conv3d(&self.weight, None::<&Tensor>, stride, [before, sides, sides], [1; 3], 1)
        };
        // Where there are fewer frames than the window has, oneDNN's gradient of bf16 weights reads memory that nobody
        // wrote, unless the zeros before and behind are part of the input.
        match x.size().get(2).is_some_and(|frames| *frames < time) {
            true => Ok(conv(&x.f_constant_pad_nd([0, 0, 0, 0, time / 2, time / 2])?, 0)?),
            false => Ok(conv(x, time / 2)?),
        }
    }
}

/// `torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")`.
///
/// # Source
/// He et al., 2015, equation 14: <https://arxiv.org/abs/1502.01852>.
fn fan_out(fan: i64) -> Init {
    Init::Randn { mean: 0., stdev: (2. / fan as f64).sqrt() }
}

/// A two-dimensional convolution with a bias of which both are drawn by the caller; the window stands in the middle.
#[derive(Debug)]
pub(crate) struct Gates {
    weight: Tensor,
    bias: Tensor,
    padding: i64,
}

impl Gates {
    /// Weights as PyTorch's, or as `init` writes them, with biases of zero.
    pub(crate) fn new(
        p: &Path,
        (input, output): (i64, i64),
        kernel: i64,
        init: Option<fn(&Tensor) -> Result<()>>,
    ) -> Result<Self> {
        let plain = uniform_fan_in(input * kernel * kernel);
        let weight = p.f_var("weight", &[output, input, kernel, kernel], plain)?;
        let bias = match init {
            None => p.f_var("bias", &[output], plain)?,
            Some(init) => {
                init(&weight)?;
                p.f_zeros("bias", &[output])?
            }
        };
        Ok(Gates { weight, bias, padding: kernel / 2 })
    }

    /// # Shapes
    /// `x`: `[B, C, H, W]`; returns `[B, O, H, W]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), [1; 2], [self.padding; 2], [1; 2], 1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_core::Precision;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn gradients_of_half_precision_are_right_also_where_frames_are_few() {
        for frames in [1, 2, 3, 4] {
            let vars = VarStore::new(Device::Cpu);
            let conv = Conv3d::new(&vars.root(), (16, 16), Window::new([3, 3], [1, 1])).unwrap();
            let x = Tensor::randn([4, 16, frames, 8, 8], (Kind::Float, Device::Cpu));
            let gradient = |precision: Precision| {
                let y = precision.scope(Device::Cpu, || conv.forward(&x, Mode::Train)).unwrap();
                let loss = (y.to_kind(Kind::Float) * x.cos()).sum(Kind::Float);
                Tensor::run_backward(&[loss], &[&conv.weight], false, false)[0].to_kind(Kind::Float)
            };
            let (half, whole) = (gradient(Precision::Bf16), gradient(Precision::Fp32));
            let wrong = (&half - &whole).abs().max().double_value(&[]) / whole.abs().max().double_value(&[]);
            assert!(wrong < 0.02, "{frames} frames: {wrong}");
        }
    }
}
