//! Dropout of single values and of whole branches.
//!
//! Source: Srivastava et al., 2014: <https://jmlr.org/papers/v15/srivastava14a.html>; Huang et al., 2016 (stochastic
//! depth): <https://arxiv.org/abs/1603.09382>; timm 1.0 `layers/drop.py`.
use super::{Mode, Module};
use crate::tensor::at_least_float;
use crate::{Error, Result, mix};
use multiversion::multiversion;
use tch::{Device, Kind, Tensor};

/// A probability below 1, or an error that names `field`.
pub(super) fn rate(field: &str, p: f64) -> Result<f64> {
    if (0. ..1.).contains(&p) {
        return Ok(p);
    }
    Err(Error::config(field, format!("expected a number from 0 to below 1, got {p}")))
}

/// Sets values to zero with some probability and scales the others so that the mean stays; only in [`Mode::Train`].
#[derive(Debug, Clone, Copy)]
pub struct Dropout(f64);

impl Dropout {
    /// A layer that drops each value with probability `p`.
    ///
    /// # Errors
    /// `Error::Config` when `p` is not from 0 to below 1.
    pub fn new(p: f64) -> Result<Self> {
        Ok(Dropout(rate("dropout", p)?))
    }

    /// The probability in this mode.
    pub(super) fn in_mode(self, mode: Mode) -> f64 {
        if mode == Mode::Train { self.0 } else { 0. }
    }
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        dropped(x, self.in_mode(mode))
    }
}

/// `x` with each value set to zero with probability `p`, the others scaled so that the mean stays.
///
/// libtorch draws one number after the other on the CPU, which takes longer than the layers around it. Here one number of
/// its generator seeds a stream whose elements do not depend on each other; on CUDA its own kernel is fast.
pub(super) fn dropped(x: &Tensor, p: f64) -> Result<Tensor> {
    if p <= 0. {
        return Ok(x.shallow_clone());
    }
    let kind = x.kind();
    if x.device().is_cuda() || !matches!(kind, Kind::Float | Kind::BFloat16) {
        return Ok(x.f_dropout(p, true)?);
    }
    let seed = i64::try_from(Tensor::f_randint(i64::MAX, [], (Kind::Int64, Device::Cpu))?)?.cast_unsigned();
    let share = (p * LEVELS).round().clamp(0., LEVELS - 1.);
    let scale = (LEVELS / (LEVELS - share)) as f32;
    let mut kept = vec![0i8; x.numel()];
    fill(&mut kept, seed, share as u16);
    let mask = Tensor::f_from_slice(&kept)?.f_view_as(x)?.f_to_kind(kind)?;
    // The scale by itself: in half precision it would be rounded.
    Ok(x.f_mul(&mask)?.f_mul_scalar(f64::from(scale))?)
}

/// Steps of the probability of a dropped value.
const LEVELS: f64 = 65_536.;

/// Writes 0 with a probability of `share` in 2^16, and else 1.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512bw+avx512vl", "x86_64+avx2"))]
fn fill(out: &mut [i8], seed: u64, share: u16) {
    let value = |bits: u64, lane: u32| i8::from((bits >> (16 * lane)) as u16 >= share);
    let (fours, rest) = out.as_chunks_mut::<4>();
    let whole = fours.len() as u64;
    for (place, four) in (0..).zip(fours) {
        let bits = mix(seed, place);
        *four = [value(bits, 0), value(bits, 1), value(bits, 2), value(bits, 3)];
    }
    for (lane, out) in (0..).zip(rest) {
        *out = value(mix(seed, whole), lane);
    }
}

/// Sets all of an example to zero with some probability and scales the other examples so that the mean stays; only in
/// [`Mode::Train`]. At the end of a residual branch it skips the branch.
#[derive(Debug, Clone, Copy)]
pub struct DropPath(f64);

impl DropPath {
    /// A layer that drops each example with probability `p`.
    ///
    /// # Errors
    /// `Error::Config` when `p` is not from 0 to below 1.
    pub fn new(p: f64) -> Result<Self> {
        Ok(DropPath(rate("drop_path", p)?))
    }

    /// The probability in this mode.
    pub(super) fn in_mode(self, mode: Mode) -> f64 {
        if mode == Mode::Train { self.0 } else { 0. }
    }
}

impl Module for DropPath {
    /// # Shapes
    /// `x`: `[B, ..]`; returns the same, in training half precision as float32.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if self.in_mode(mode) == 0. {
            return Ok(x.shallow_clone());
        }
        let (x, kept) = (at_least_float(x)?, 1. - self.0);
        let mut shape = x.size();
        shape.iter_mut().skip(1).for_each(|size| *size = 1);
        let scale = Tensor::f_empty(&shape, (x.kind(), x.device()))?;
        let scale = scale.f_bernoulli_p(kept)?.f_div_scalar_(kept)?;
        Ok(x.f_mul(&scale)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn ones(shape: &[i64], kind: Kind) -> Tensor {
        Tensor::ones(shape, (kind, Device::Cpu))
    }

    #[test]
    fn a_path_is_dropped_for_whole_examples_and_keeps_its_mean() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let y = DropPath::new(0.3).unwrap().forward(&ones(&[20_000, 2, 3], kind), Mode::Train).unwrap();
            let rows = y.to_kind(Kind::Double).view([20_000, 6]);
            assert!(rows.amin([1i64], false).equal(&rows.amax([1i64], false)), "an example is split");
            let zero = f64::try_from(rows.eq(0.).to_kind(Kind::Double).mean(Kind::Double)).unwrap();
            assert!((zero - 0.3).abs() < 0.015, "{zero}");
            let kept = f64::try_from(rows.max()).unwrap();
            assert!((kept - 1. / 0.7).abs() < 1e-6, "{kept}");
        }
    }

    #[test]
    fn values_are_dropped_one_by_one_and_keep_their_mean() {
        let y = Dropout::new(0.25).unwrap().forward(&ones(&[100, 400], Kind::Float), Mode::Train).unwrap();
        let mean = f64::try_from(y.mean(Kind::Double)).unwrap();
        assert!((mean - 1.).abs() < 0.015, "{mean}");
        let rows = y.mean_dim([1i64].as_slice(), false, Kind::Double);
        assert!(f64::try_from(rows.min()).unwrap() > 0.7, "a whole row is dropped");
    }

    #[test]
    fn values_are_dropped_alike_in_every_precision_and_by_the_generator() {
        let dropout = Dropout::new(0.1).unwrap();
        let run = |kind, seed| {
            crate::trainer::seed_torch(seed, 0);
            dropout.forward(&ones(&[1001, 333], kind), Mode::Train).unwrap()
        };
        let (x, half) = (run(Kind::Float, 3), run(Kind::BFloat16, 3));
        assert!(x.equal(&run(Kind::Float, 3)) && !x.equal(&run(Kind::Float, 4)));
        assert!(x.ne(0.).equal(&half.ne(0.)) && half.kind() == Kind::BFloat16);
        let share = f64::try_from(x.eq(0.).to_kind(Kind::Double).mean(Kind::Double)).unwrap();
        assert!((share - 0.1).abs() < 0.002, "{share}");
        assert!((f64::try_from(x.max()).unwrap() - 1. / 0.9).abs() < 1e-4);
        // Neighbors share a number of the stream, and know nothing of each other.
        let both = x.narrow(1, 0, 332).eq(0.).logical_and(&x.narrow(1, 1, 332).eq(0.));
        let both = f64::try_from(both.to_kind(Kind::Double).mean(Kind::Double)).unwrap();
        assert!((both - 0.01).abs() < 0.001, "{both}");
        let y = x.set_requires_grad(true);
        let kept = dropout.forward(&y, Mode::Train).unwrap();
        let gradient = Tensor::run_backward(&[kept.sum(Kind::Float)], &[&y], false, false).remove(0);
        assert!((gradient * &y).allclose(&kept, 1e-6, 1e-6, false));
    }

    #[test]
    fn nothing_is_dropped_outside_training() {
        let x = ones(&[64, 4], Kind::Float);
        for mode in [Mode::Eval, Mode::Calibrate { seen: 0 }] {
            assert!(DropPath::new(0.9).unwrap().forward(&x, mode).unwrap().equal(&x));
            assert!(Dropout::new(0.9).unwrap().forward(&x, mode).unwrap().equal(&x));
        }
        for p in [-0.1, 1., f64::NAN] {
            let message = DropPath::new(p).unwrap_err().to_string();
            assert_eq!(message, format!("drop_path: expected a number from 0 to below 1, got {p}"));
            assert!(Dropout::new(p).is_err());
        }
    }
}
