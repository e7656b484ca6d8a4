//! Batch normalization with a choice of what happens to the running statistics, and layer normalization.
//!
//! Source: Ba et al., 2016 (layer normalization): <https://arxiv.org/abs/1607.06450>.
use super::{Mode, Module};
use crate::tensor::at_least_float;
use crate::{Error, Result, no_grad};
use tch::Tensor;
use tch::nn::{Init, Path};

/// Normalization over the batch, initialized as `torch.nn.BatchNorm1d` and `2d`: weight 1, bias 0, momentum 0.1.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// A layer with scale and shift.
    pub fn new(p: &Path, features: i64) -> Result<Self> {
        let weight = Some(p.f_var("weight", &[features], Init::Const(1.))?);
        let bias = Some(p.f_var("bias", &[features], Init::Const(0.))?);
        Ok(BatchNorm { weight, bias, ..BatchNorm::without_affine(p, features)? })
    }

    /// A layer with a scale and no shift (`center=False` in TensorFlow).
    pub fn without_shift(p: &Path, features: i64) -> Result<Self> {
        let weight = Some(p.f_var("weight", &[features], Init::Const(1.))?);
        Ok(BatchNorm { weight, ..BatchNorm::without_affine(p, features)? })
    }

    /// A layer without scale and shift (`affine=False`).
    pub fn without_affine(p: &Path, features: i64) -> Result<Self> {
        Ok(BatchNorm {
            weight: None,
            bias: None,
            running_mean: p.f_zeros_no_train("running_mean", &[features])?,
            running_var: p.f_ones_no_train("running_var", &[features])?,
        })
    }
}

impl Module for BatchNorm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let running = (&self.running_mean, &self.running_var);
        match mode {
            Mode::Train => {
                values_per_channel(x)?;
                self.normalize(x, running, Some(0.1))
            }
            Mode::Eval => self.normalize(x, running, None),
            Mode::Calibrate { seen } => {
                let count = values_per_channel(x)?;
                let (mean, var) = (self.running_mean.f_zeros_like()?, self.running_var.f_zeros_like()?);
                // With momentum 1 the running values are those of the batch.
                let y = self.normalize(x, (&mean, &var), Some(1.))?;
                let examples = x.size().first().copied().unwrap_or(1).max(1);
                self.pool((&mean, &var), count as f64, seen as f64 * (count / examples) as f64)?;
                Ok(y)
            }
        }
    }
}

impl BatchNorm {
    /// Normalizes by the statistics of the batch, which move `running` by `momentum`, or without one by `running`.
    fn normalize(&self, x: &Tensor, running: (&Tensor, &Tensor), momentum: Option<f64>) -> Result<Tensor> {
        Ok(x.f_batch_norm(
            self.weight.as_ref(),
            self.bias.as_ref(),
            Some(running.0),
            Some(running.1),
            momentum.is_some(),
            momentum.unwrap_or(0.),
            1e-5,
            true,
        )?)
    }

    /// Makes the running values those of the `before` values that they stand for and the `count` values of a batch
    /// together; the variance keeps the divisor of all values less one, as PyTorch's has.
    ///
    /// # Source
    /// Chan, Golub & LeVeque, 1982 (updating formulae and a pairwise algorithm): <https://doi.org/10.1007/978-3-642-51461-6_3>.
    fn pool(&self, (mean, var): (&Tensor, &Tensor), count: f64, before: f64) -> Result<()> {
        let all = before + count;
        no_grad(|| {
            let gap = mean.f_sub(&self.running_mean)?;
            let spread = gap.f_square()?.f_mul_scalar(before * count / all)?;
            let within = var.f_mul_scalar(count - 1.)?.f_add(&spread)?;
            let (mut running_mean, mut running_var) =
                (self.running_mean.shallow_clone(), self.running_var.shallow_clone());
            let _ = running_mean.f_add_(&gap.f_mul_scalar(count / all)?)?;
            let _ =
                running_var.f_mul_scalar_((before - 1.).max(0.))?.f_add_(&within)?.f_div_scalar_(all - 1.)?;
            Ok(())
        })
    }
}

/// How many values of each channel a batch has, where their variance is needed.
fn values_per_channel(x: &Tensor) -> Result<i64> {
    match x.size()[..] {
        [examples, _, ref grid @ ..] if examples * grid.iter().product::<i64>() > 1 => {
            Ok(examples * grid.iter().product::<i64>())
        }
        _ => Err(Error::Shape {
            what: "input of a batch normalization".into(),
            expected: "[B, C, ..] of more than one value per channel".into(),
            got: x.size(),
        }),
    }
}

/// Normalization of each position over its features; weight 1 and bias 0 at the start.
#[derive(Debug)]
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// A layer over the last dimension, of size `dim`; `eps` is added to the variance.
    pub fn new(p: &Path, dim: i64, eps: f64) -> Result<Self> {
        Ok(LayerNorm { weight: p.f_ones("weight", &[dim])?, bias: p.f_zeros("bias", &[dim])?, eps })
    }

    /// The same layer, of the same variables.
    pub fn shallow_clone(&self) -> Self {
        LayerNorm { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), eps: self.eps }
    }
}

impl Module for LayerNorm {
    /// # Shapes
    /// `x`: `[.., D]`; returns the same, half precision as float32.
    fn forward(&self, x: &Tensor, _mode: Mode) -> Result<Tensor> {
        let (x, shape) = (at_least_float(x)?, self.weight.size());
        Ok(x.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use tch::{Device, Kind, nn::VarStore};

    fn mean_of(layer: &BatchNorm) -> f64 {
        f64::try_from(layer.running_mean.mean(Kind::Double)).unwrap()
    }

    #[test]
    fn calibration_takes_the_statistics_of_all_examples_and_forgets_what_was_before() {
        let vars = VarStore::new(Device::Cpu);
        let layer = BatchNorm::new(&vars.root(), 3).unwrap();
        let _ =
            layer.forward(&Tensor::full([4, 3, 2], 100., (Kind::Float, Device::Cpu)), Mode::Train).unwrap();
        assert!((mean_of(&layer) - 10.).abs() < 1e-5);
        // Sorted examples in batches of unequal size: means differ between batches, and the last one is small.
        let x = Tensor::arange(66, (Kind::Float, Device::Cpu)).view([11, 3, 2]);
        let mut seen = 0;
        for size in [6, 4, 1] {
            let mode = Mode::Calibrate { seen: seen as u64 };
            let _ = layer.forward(&x.narrow(0, seen, size), mode).unwrap();
            seen += size;
        }
        let values = x.transpose(0, 1).reshape([3, 22]);
        let (var, mean) = values.var_mean_dim([1i64].as_slice(), true, false);
        assert!(layer.running_mean.allclose(&mean, 1e-5, 0., false), "{:?}", layer.running_mean);
        assert!(layer.running_var.allclose(&var, 1e-5, 0., false), "{:?}", layer.running_var);
    }

    #[test]
    fn one_value_per_channel_has_no_variance() {
        let vars = VarStore::new(Device::Cpu);
        let layer = BatchNorm::new(&vars.root(), 3).unwrap();
        let one = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        for mode in [Mode::Train, Mode::Calibrate { seen: 0 }] {
            let message = layer.forward(&one(&[1, 3]), mode).unwrap_err().to_string();
            assert!(message.ends_with("of more than one value per channel, got [1, 3]"), "{message}");
            assert!(
                layer.forward(&one(&[1, 3, 1, 1]), mode).is_err() && layer.forward(&one(&[3]), mode).is_err()
            );
            assert!(layer.forward(&one(&[1, 3, 2]), mode).is_ok());
        }
        assert!(layer.forward(&one(&[1, 3]), Mode::Eval).is_ok());
    }

    #[test]
    fn evaluation_changes_nothing() {
        let vars = VarStore::new(Device::Cpu);
        let layer = BatchNorm::new(&vars.root(), 2).unwrap();
        let x = Tensor::from_slice(&[1f32, 2., 3., 4.]).view([2, 2]);
        let y = layer.forward(&x, Mode::Eval).unwrap();
        assert!(y.allclose(&x, 1e-4, 1e-4, false));
        assert_eq!(mean_of(&layer), 0.);
    }

    #[test]
    fn a_layer_norm_is_the_formula_also_in_half_precision() {
        let vars = VarStore::new(Device::Cpu);
        let norm = LayerNorm::new(&vars.root(), 6, 0.5).unwrap();
        let x = Tensor::randn([4, 3, 6], (Kind::Float, Device::Cpu)) * 2. + 1.;
        let slow = |x: &Tensor| {
            let (var, mean) = x.var_mean_dim([-1i64].as_slice(), false, true);
            (x - mean) / (var + 0.5).sqrt()
        };
        let y = norm.forward(&x, Mode::Eval).unwrap();
        assert!(y.allclose(&slow(&x), 1e-5, 1e-6, false), "weight 1 and bias 0 at the start");
        let half = x.to_kind(Kind::BFloat16);
        let run = |x: &Tensor| norm.forward(x, Mode::Eval);
        for y in [run(&half).unwrap(), Precision::Bf16.scope(Device::Cpu, || run(&half)).unwrap()] {
            assert_eq!(y.kind(), Kind::Float);
            assert!(y.allclose(&slow(&half.to_kind(Kind::Float)), 1e-5, 1e-6, false));
        }
    }
}
