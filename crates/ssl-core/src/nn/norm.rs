//! Batch normalization with a choice of what happens to the running statistics.
use super::{Mode, Module};
use crate::Result;
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
        let (training, momentum) = match mode {
            Mode::Train => (true, 0.1),
            Mode::Eval => (false, 0.),
            // A weight of 1/n for the n-th batch makes the running value the plain average of all.
            Mode::Calibrate { seen } => (true, 1. / (seen + 1) as f64),
        };
        Ok(x.f_batch_norm(
            self.weight.as_ref(),
            self.bias.as_ref(),
            Some(&self.running_mean),
            Some(&self.running_var),
            training,
            momentum,
            1e-5,
            true,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    fn mean_of(layer: &BatchNorm) -> f64 {
        f64::try_from(layer.running_mean.mean(Kind::Double)).unwrap()
    }

    #[test]
    fn calibration_averages_the_batches_and_forgets_what_was_before() {
        let vars = VarStore::new(Device::Cpu);
        let layer = BatchNorm::new(&vars.root(), 3).unwrap();
        let batch = |value: f64| Tensor::full([4, 3], value, (Kind::Float, Device::Cpu));
        let _ = layer.forward(&batch(100.), Mode::Train).unwrap();
        assert!((mean_of(&layer) - 10.).abs() < 1e-5);
        for (seen, value) in [1., 2., 6.].into_iter().enumerate() {
            let _ = layer.forward(&batch(value), Mode::Calibrate { seen: seen as u64 }).unwrap();
        }
        assert!((mean_of(&layer) - 3.).abs() < 1e-5, "{}", mean_of(&layer));
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
}
