//! The two losses of a game in which one network tells real examples from made ones, in one backward pass.
//!
//! Source: Goodfellow et al., 2014, section 3, with the generator's loss that does not saturate:
//! <https://arxiv.org/abs/1406.2661>.
use crate::tensor::at_least_float;
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// What an example is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is from the data.
    Real,
    /// A network made it.
    Made,
}

/// Minus the log of the probability that the examples are of that origin, on average.
///
/// The discriminator minimizes it for the true origin, the generator for the other one.
///
/// # Shapes
/// `logits`: any, those of being real; returns a scalar, at least float32.
///
/// # Errors
/// `Error::Shape` when there is no logit.
///
/// # Source
/// Goodfellow et al., 2014, equation 1 and the end of section 3: <https://arxiv.org/abs/1406.2661>.
pub fn adversarial(logits: &Tensor, origin: Origin) -> Result<Tensor> {
    if logits.numel() == 0 {
        let (what, expected) = ("logits".into(), "one at least".into());
        return Err(Error::Shape { what, expected, got: logits.size() });
    }
    let logits = at_least_float(logits)?;
    let against = match origin {
        Origin::Real => logits.f_neg()?,
        Origin::Made => logits,
    };
    Ok(against.f_softplus()?.f_mean(None::<Kind>)?)
}

/// The value of `shown`, with the gradients of both: what two players minimize, each over its own variables.
///
/// # Shapes
/// `shown`, `other`: scalars; returns a scalar.
///
/// # Errors
/// When libtorch refuses the shapes.
///
/// # Source
/// Goodfellow et al., 2014, algorithm 1, with both updates at once: <https://arxiv.org/abs/1406.2661>.
pub fn both_players(shown: &Tensor, other: &Tensor) -> Result<Tensor> {
    Ok(shown.f_add(&other.f_sub(&other.f_detach()?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn it_is_the_log_of_a_probability_also_where_that_is_tiny() {
        let x = Tensor::from_slice(&[-3f64, 0.5, 2.]);
        let slow = |sign: f64| {
            -[-3f64, 0.5, 2.].map(|x| (1. / (1. + (-sign * x).exp())).ln()).iter().sum::<f64>() / 3.
        };
        for (origin, sign) in [(Origin::Real, 1.), (Origin::Made, -1.)] {
            let found = f64::try_from(adversarial(&x, origin).unwrap()).unwrap();
            assert!((found - slow(sign)).abs() < 1e-12, "{origin:?}: {found}");
        }
        let far = adversarial(&Tensor::from_slice(&[-200f32]), Origin::Real).unwrap();
        assert_eq!(f64::try_from(far).unwrap(), 200.);
        assert_eq!(adversarial(&x.to_kind(Kind::BFloat16), Origin::Real).unwrap().kind(), Kind::Float);
    }

    #[test]
    fn each_player_gets_the_gradient_of_its_own_loss_and_one_value_is_shown() {
        let [a, b] = [2f64, 3.].map(|x| Tensor::from(x).set_requires_grad(true));
        let loss = both_players(&(&a * 5.), &(&b * 7.)).unwrap();
        loss.backward();
        assert_eq!([&loss, &a.grad(), &b.grad()].map(|x| f64::try_from(x).unwrap()), [10., 5., 7.]);
    }

    #[test]
    fn no_logit_is_an_error() {
        let none = Tensor::zeros([0, 1], (Kind::Float, Device::Cpu));
        let message = adversarial(&none, Origin::Made).unwrap_err().to_string();
        assert_eq!(message, "logits: expected one at least, got [0, 1]");
    }
}
