//! Convolutions over time and frequency.
//!
//! Source: Niizumi et al., 2021 (BYOL-A), section III.D: <https://arxiv.org/abs/2103.06695>; names and initialization as
//! `AudioNTT2020` of the official code, `byol_a/models.py`: <https://github.com/nttcslab/byol-a>.
use ssl_core::nn::{BatchNorm, Conv2d, ConvOptions, Dropout, Linear, Module};
use ssl_core::{Error, Mode, Result, dims3};
use tch::Tensor;
use tch::nn::Path;

const CHANNELS: i64 = 64;
/// Each layer halves both sides.
const LAYERS: u32 = 3;
const SHRINK: i64 = 1 << LAYERS;

/// Three layers of convolution, batch norm, ReLU and pooling, and two linear layers at each time that is left.
#[derive(Debug)]
pub(super) struct Conv {
    layers: Vec<(Conv2d, BatchNorm)>,
    fc: [Linear; 2],
    dropout: Dropout,
}

impl Conv {
    /// Makes the variables under `p` for spectrograms of so many rows.
    pub(super) fn new(p: &Path, dim: i64, rows: i64, dropout: f64) -> Result<Self> {
        if rows < SHRINK {
            let message =
                format!("expected at least {SHRINK} rows of the spectrogram for convolutions, got {rows}");
            return Err(Error::config("mels", message));
        }
        let (features, fc) = (p / "features", p / "fc");
        let options = ConvOptions { padding: 1, ..ConvOptions::default() };
        let layer = |n: i64| -> Result<_> {
            let input = if n == 0 { 1 } else { CHANNELS };
            let conv = Conv2d::with_bias(&(&features / (4 * n)), (input, CHANNELS), 3, options)?;
            Ok((conv, BatchNorm::new(&(&features / (4 * n + 1)), CHANNELS)?))
        };
        Ok(Conv {
            layers: (0..i64::from(LAYERS)).map(layer).collect::<Result<_>>()?,
            fc: [
                Linear::new(&(&fc / 0), CHANNELS * (rows / SHRINK), dim)?,
                Linear::new(&(&fc / 3), dim, dim)?,
            ],
            dropout: Dropout::new(dropout)?,
        })
    }

    /// # Shapes
    /// `x`: `[B, N, F]`; returns `[B, N / 8, D]`.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, frames, _) = dims3(x, "spectrogram", "[B, N, F]")?;
        if frames < SHRINK {
            let expected = format!("[B, N, F] with N at least {SHRINK}");
            return Err(Error::Shape { what: "spectrogram".into(), expected, got: x.size() });
        }
        let mut x = x.f_transpose(1, 2)?.f_unsqueeze(1)?; // [B, 1, F, N]
        for (conv, norm) in &self.layers {
            x = norm.forward(&conv.forward(&x, mode)?, mode)?.f_relu()?;
            x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        }
        let [first, second] = &self.fc;
        let x = x.f_permute([0, 3, 2, 1])?.f_flatten(2, 3)?;
        let x = self.dropout.forward(&first.forward(&x, mode)?.f_relu()?, mode)?;
        Ok(second.forward(&x, mode)?.f_relu()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    #[test]
    fn the_linear_layers_see_the_rows_of_a_time_each_with_its_channels() {
        let vars = VarStore::new(Device::Cpu);
        let net = Conv::new(&vars.root(), 5, 16, 0.).unwrap();
        let x = Tensor::randn([2, 24, 16], (Kind::Float, Device::Cpu));
        let of = |name: &str| vars.variables()[name].shallow_clone();
        let mut grid = x.transpose(1, 2).unsqueeze(1);
        for layer in [0, 4, 8] {
            let bias = of(&format!("features.{layer}.bias"));
            let y =
                grid.conv2d(&of(&format!("features.{layer}.weight")), Some(bias), [1, 1], [1, 1], [1, 1], 1);
            // Running statistics are 0 and 1 before any training.
            grid = (y / (1f64 + 1e-5).sqrt()).relu().max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
        }
        let y = net.forward(&x, Mode::Eval).unwrap();
        for time in 0..3 {
            let rows: Vec<Tensor> = (0..2).map(|row| grid.select(3, time).select(2, row)).collect();
            let h = Tensor::cat(&rows, 1).linear(&of("fc.0.weight"), Some(of("fc.0.bias"))).relu();
            let slow = h.linear(&of("fc.3.weight"), Some(of("fc.3.bias"))).relu();
            assert!(
                slow.allclose(&y.select(1, time), 1e-4, 1e-5, false)
                    && slow.sum(Kind::Float).double_value(&[]) > 0.
            );
        }
    }

    #[test]
    fn names_and_sizes_are_the_official_ones() {
        let vars = VarStore::new(Device::Cpu);
        let conv = Conv::new(&vars.root(), 2048, 64, 0.3).unwrap();
        let trained: i64 = vars.trainable_variables().iter().map(|x| x.numel() as i64).sum();
        // What the layers of AudioNTT2020(64, 2048) in the official code add up to.
        assert_eq!(trained, 5_321_856);
        let names =
            ["features.0.weight", "features.4.bias", "features.9.running_var", "fc.0.weight", "fc.3.bias"];
        assert!(names.iter().all(|name| vars.variables().contains_key(*name)));
        let x = Tensor::randn([2, 96, 64], (Kind::Float, Device::Cpu));
        assert_eq!(conv.forward(&x, Mode::Eval).unwrap().size(), [2, 12, 2048]);
        let message = conv.forward(&x.narrow(1, 0, 7), Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "spectrogram: expected [B, N, F] with N at least 8, got [2, 7, 64]");
        let message = Conv::new(&(vars.root() / "x"), 8, 7, 0.).unwrap_err().to_string();
        assert_eq!(message, "mels: expected at least 8 rows of the spectrogram for convolutions, got 7");
    }
}
