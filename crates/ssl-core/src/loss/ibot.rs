//! The loss of iBOT's hidden patches: the cross-entropy of the student's outputs under the teacher's in the same place.
//!
//! The gradient is written down, as in `dino`.
//!
//! Source: Zhou et al., 2021: <https://arxiv.org/abs/2111.07832>.
use super::{check_temperature, same_shape, with_gradients};
use crate::tensor::at_least_float;
use crate::{Error, Result, dims2, no_grad};
use tch::Tensor;

/// The weighted sum over patches of the cross-entropy of `softmax(student / temperature)` under the targets, in nats.
///
/// With weights of one over the number of hidden patches of the image and the number of images, it is the mean over images
/// of the mean over hidden patches; an image without any counts as 0.
///
/// # Shapes
/// `student`: `[M, K]`; `targets`: the same, distributions; `weights`: `[M]`. Returns a scalar, at least float32, once
/// differentiable with respect to the student's outputs; targets and weights are constants.
///
/// # Errors
/// `Error::Shape` when the shapes do not fit, `Error::Config` when the temperature is not positive.
///
/// # Source
/// Zhou et al., 2021, equation 2: <https://arxiv.org/abs/2111.07832>; equals the official code (`bytedance/ibot`,
/// `iBOTLoss`) and lightly's `IBOTPatchLoss`.
pub fn ibot(student: &Tensor, targets: &Tensor, weights: &Tensor, temperature: f64) -> Result<Tensor> {
    let (patches, _) = dims2(student, "student's outputs", "[M, K]")?;
    same_shape(student, targets, "targets", "[M, K]")?;
    if weights.size() != [patches] {
        let expected = format!("[M] = [{patches}]");
        return Err(Error::Shape { what: "weights".into(), expected, got: weights.size() });
    }
    check_temperature(temperature)?;
    let student = at_least_float(student)?;
    let (value, gradient) = no_grad(|| -> Result<_> {
        let (targets, weights) = (at_least_float(targets)?, at_least_float(weights)?.f_unsqueeze(1)?);
        let mut log = student.f_div_scalar(temperature)?.f_log_softmax(-1, student.kind())?;
        let value = log.f_mul(&targets)?.f_mul(&weights)?.f_sum(student.kind())?.f_neg()?;
        let gradient = log.f_exp_()?.f_sub_(&targets)?.f_mul_(&weights)?;
        Ok((value, gradient.f_div_scalar(temperature)?))
    })?;
    if student.requires_grad() { with_gradients(&value, &[(&student, &gradient)]) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use tch::Kind;

    fn targets() -> Tensor {
        view([5, 6], 1.).softmax(1, Kind::Double)
    }

    fn weights() -> Tensor {
        Tensor::from_slice(&[0.25, 0.25, 0.1, 0.3, 0.1])
    }

    #[test]
    fn it_equals_its_definition() {
        let slow = |x: &Tensor, _: &Tensor| {
            let p = (x / 0.3).exp();
            let p = &p / p.sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
            -(targets() * p.log() * weights().unsqueeze(1)).sum(Kind::Double)
                + targets().sum(Kind::Double) * 0.
        };
        let same = |loss: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
            let (value, gradient, _) =
                learn(|x, y| loss(x, y) + y.sum(Kind::Double) * 0., &view([5, 6], 0.), &targets());
            (value, gradient, targets())
        };
        assert_same(same(&|x, y| ibot(x, y, &weights(), 0.3).unwrap()), same(&slow));
    }

    #[test]
    fn targets_take_no_gradient_and_nothing_costs_nothing() {
        let targets = targets().set_requires_grad(true);
        assert!(!ibot(&view([5, 6], 0.), &targets, &weights(), 0.1).unwrap().requires_grad());
        let none = |x: &Tensor| x.narrow(0, 0, 0);
        let empty = ibot(&none(&view([5, 6], 0.)), &none(&targets), &none(&weights()), 0.1).unwrap();
        assert_eq!(value(&empty), 0.);
    }

    #[test]
    fn half_precision_is_widened() {
        let (x, y) = (view([5, 6], 0.).to_kind(Kind::BFloat16), targets().to_kind(Kind::Float));
        let loss = |x: &Tensor| ibot(x, &y, &weights().to_kind(Kind::Float), 0.1).unwrap();
        assert!(loss(&x).equal(&loss(&x.to_kind(Kind::Float))));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: Result<Tensor>| x.unwrap_err().to_string();
        let (x, y, w) = (view([5, 6], 0.), targets(), weights());
        assert_eq!(
            message(ibot(&x.narrow(1, 0, 5), &y, &w, 0.1)),
            "targets: expected [M, K] = [5, 5] as the first, got [5, 6]"
        );
        assert_eq!(message(ibot(&x, &y, &w.narrow(0, 0, 4), 0.1)), "weights: expected [M] = [5], got [4]");
        assert_eq!(message(ibot(&x, &y, &w, 0.)), "temperature: expected a number above 0, got 0");
    }
}
