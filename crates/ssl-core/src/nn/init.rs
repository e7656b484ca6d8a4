//! Initializers that libtorch's bindings lack; they write into a variable that exists.
//!
//! Source: timm 1.0 `layers/weight_init.py`; Glorot & Bengio, 2010, equation 16:
//! <https://proceedings.mlr.press/v9/glorot10a.html>.
use crate::{Error, Result, no_grad};
use std::f64::consts::SQRT_2;
use tch::Tensor;

/// The largest number below 1 in float32.
const BELOW_ONE: f64 = 1. - 1. / 16_777_216.;

/// Draws from N(0, std^2), cut at -2 and 2 (whatever the `std`), from the generator of the tensor's device.
///
/// It is `timm.layers.trunc_normal_` and `torch.nn.init.trunc_normal_` with their default bounds, but for one thing:
/// where the uniform number under it is exactly -1, once in 2^24 draws, those give -2, and this gives -5.4 std.
///
/// # Shapes
/// `x`: any, floats; written in place.
///
/// # Errors
/// When libtorch refuses the tensor.
pub fn trunc_normal(x: &Tensor, std: f64) -> Result<()> {
    let mass = f64::try_from(Tensor::from(2. / (std * SQRT_2)).f_erf()?)?;
    no_grad(|| {
        let _ = x
            .shallow_clone()
            .f_uniform_(-mass, mass)?
            .f_clamp_(-BELOW_ONE, BELOW_ONE)?
            .f_erfinv_()?
            .f_mul_scalar_(std * SQRT_2)?
            .f_clamp_(-2., 2.)?;
        Ok(())
    })
}

/// The start of a transformer's weights.
pub(super) fn small(weight: &Tensor) -> Result<()> {
    trunc_normal(weight, 0.02)
}

/// Draws from U(-a, a) with a^2 = 6 / (fan in + fan out), as `torch.nn.init.xavier_uniform_`.
///
/// # Shapes
/// `x`: `[O, I, ..]`, where the further dimensions are a window; written in place.
///
/// # Errors
/// `Error::Shape` when `x` has fewer than two dimensions.
pub fn xavier_uniform(x: &Tensor) -> Result<()> {
    let [output, input, ref window @ ..] = x.size()[..] else {
        let (what, expected) = ("weights".into(), "[O, I, ..]".into());
        return Err(Error::Shape { what, expected, got: x.size() });
    };
    let fans = (output + input) * window.iter().product::<i64>();
    let bound = (6. / fans as f64).sqrt();
    no_grad(|| x.shallow_clone().f_uniform_(-bound, bound).map(|_| ()).map_err(Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn drawn(shape: &[i64], fill: impl Fn(&Tensor) -> Result<()>) -> (f64, f64, f64) {
        let x = Tensor::zeros(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        fill(&x).unwrap();
        let of = |x: Tensor| f64::try_from(x).unwrap();
        (of(x.mean(Kind::Double)), of(x.std(true)), of(x.abs().max()))
    }

    #[test]
    fn a_cut_normal_has_the_statistics_of_timms() {
        // timm 1.0.31, trunc_normal_(torch.empty(1000, 1000), std=s).std() over five seeds: 0.01997 to 0.02002 for
        // 0.02, 0.8787 to 0.8804 for 1, 1.1194 to 1.1216 for 3; the largest 0.095 to 0.102, 2 and 2.
        for (std, expected, largest) in [(0.02, 0.02, 0.1085), (1., 0.8796, 2.), (3., 1.1204, 2.)] {
            let (mean, got, most) = drawn(&[1000, 1000], |x| trunc_normal(x, std));
            assert!(mean.abs() < 5. * expected / 1000., "std {std}: mean {mean}");
            assert!((got / expected - 1.).abs() < 4e-3, "std {std}: {got}");
            assert!(most <= largest && most > 0.8 * largest, "std {std}: largest {most}");
        }
    }

    #[test]
    fn xavier_counts_what_goes_in_and_out() {
        for shape in [&[500, 100][..], &[20, 5, 4, 5]] {
            let (mean, std, most) = drawn(shape, xavier_uniform);
            let fans: i64 = (shape[0] + shape[1]) * shape[2..].iter().product::<i64>();
            let bound = (6. / fans as f64).sqrt();
            assert!(
                mean.abs() < 0.07 * bound && most < 1.00001 * bound && most > 0.99 * bound,
                "{shape:?}: {most}"
            );
            assert!((std / (bound / 3f64.sqrt()) - 1.).abs() < 0.05, "{shape:?}: {std}");
        }
        let message = xavier_uniform(&Tensor::zeros([3], (Kind::Float, Device::Cpu))).unwrap_err();
        assert_eq!(message.to_string(), "weights: expected [O, I, ..], got [3]");
    }
}
