//! SwAV: prototypes get equal shares of a batch, and each view tells the shares of the others.
//!
//! Source: Caron et al., 2020: <https://arxiv.org/abs/2006.09882>; Cuturi, 2013 (Sinkhorn distances):
//! <https://arxiv.org/abs/1306.0895>.
use super::check_temperature;
use super::dino::{between_views, check_views};
use crate::tensor::at_least_float;
use crate::{Error, Result, check, dims2, no_grad};
use tch::Tensor;

/// Distributions of examples over prototypes that follow the scores while all prototypes get equal shares, as nearly as
/// some rounds of scaling find it; without gradients. Computed by logarithms, so that no score is too large.
///
/// # Shapes
/// `scores`: `[B, K]`, cosines in the paper; returns the same, at least float32; each row adds up to 1.
///
/// # Errors
/// `Error::Shape` when the scores are no matrix or have no entry, `Error::Config` when `epsilon` is not positive or
/// there is no round.
///
/// # Source
/// Caron et al., 2020, equations 3 to 5: <https://arxiv.org/abs/2006.09882>; equals the official code
/// (`facebookresearch/swav`, `distributed_sinkhorn`) and lightly's `sinkhorn`: each round scales the shares of the
/// prototypes first, then those of the examples.
pub fn sinkhorn(scores: &Tensor, epsilon: f64, rounds: u32) -> Result<Tensor> {
    let (batch, prototypes) = dims2(scores, "scores", "[B, K]")?;
    if batch < 1 || prototypes < 1 {
        let expected = "[B, K] with both above 0".to_string();
        return Err(Error::Shape { what: "scores".into(), expected, got: scores.size() });
    }
    check::positive("epsilon", epsilon)?;
    if rounds < 1 {
        return Err(Error::config("rounds", "expected at least 1, got 0"));
    }
    no_grad(|| {
        let mut shares = at_least_float(scores)?.f_div_scalar(epsilon)?;
        for _ in 0..rounds {
            for over in [0i64, 1] {
                shares = shares.f_sub(&shares.f_logsumexp([over].as_slice(), true)?)?;
            }
        }
        Ok(shares.f_exp_()?)
    })
}

/// The mean over all pairs of a view with codes and another view, and over the batch, of the cross-entropy of
/// `softmax(scores / temperature)` of the other under the codes, in nats.
///
/// # Shapes
/// `scores`, `codes`: `[B, K]` for each view, the views with codes being the first; codes come from [`sinkhorn`].
/// Returns a scalar, at least float32, once differentiable with respect to the scores; codes are constants.
///
/// # Errors
/// `Error::Shape` when the shapes do not fit, `Error::Config` when the temperature is not positive, when there is no
/// pair of different views, or when there are more codes than scores.
///
/// # Source
/// Caron et al., 2020, equations 1, 2 and 6: <https://arxiv.org/abs/2006.09882>, the mean over pairs as in the official
/// code (`facebookresearch/swav`, `main_swav.py`) and in lightly's `SwaVLoss`.
pub fn swav(scores: &[Tensor], codes: &[Tensor], temperature: f64) -> Result<Tensor> {
    check_views(["scores", "codes"], scores, codes)?;
    check_temperature(temperature)?;
    let codes = codes.iter().map(at_least_float).collect::<Result<Vec<_>>>()?;
    between_views(scores, &codes, temperature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{value, view};
    use tch::Kind;

    fn sums(x: &Tensor, over: i64) -> Vec<f64> {
        Vec::try_from(x.sum_dim_intlist([over].as_slice(), false, Kind::Double)).unwrap()
    }

    #[test]
    fn examples_have_whole_codes_and_prototypes_in_the_end_equal_shares() {
        let scores = view([12, 4], 0.);
        let few = sinkhorn(&scores, 0.05, 3).unwrap();
        assert!(sums(&few, 1).iter().all(|sum| (sum - 1.).abs() < 1e-12));
        let many = sinkhorn(&scores, 0.05, 500).unwrap();
        assert!(sums(&many, 0).iter().all(|sum| (sum - 3.).abs() < 1e-3), "{:?}", sums(&many, 0));
        // Shares that nothing evens out are far from that.
        let alone = (&scores / 0.05).softmax(1, Kind::Double);
        assert!(sums(&alone, 0).iter().any(|sum| (sum - 3.).abs() > 0.5));
    }

    #[test]
    fn large_scores_do_not_overflow_and_half_precision_is_widened() {
        let codes = sinkhorn(&(view([6, 4], 0.) * 1e4).to_kind(Kind::Float), 0.05, 3).unwrap();
        assert!(sums(&codes, 1).iter().all(|sum| (sum - 1.).abs() < 1e-5));
        let scores = view([6, 4], 0.).to_kind(Kind::BFloat16);
        let codes = sinkhorn(&scores, 0.05, 3).unwrap();
        assert!(codes.equal(&sinkhorn(&scores.to_kind(Kind::Float), 0.05, 3).unwrap()));
        assert_eq!(swav(&[scores.shallow_clone(), scores], &[codes], 0.1).unwrap().kind(), Kind::Float);
    }

    #[test]
    fn codes_of_the_own_view_do_not_enter_and_take_no_gradient() {
        let leaf = |seed| view([5, 4], seed).set_requires_grad(true);
        let (a, b, c) = (leaf(0.), leaf(1.), leaf(2.));
        let codes = sinkhorn(&a, 0.05, 3).unwrap();
        assert!(!codes.requires_grad());
        let loss =
            swav(&[a.shallow_clone(), b.shallow_clone(), c.shallow_clone()], &[codes.copy()], 0.1).unwrap();
        loss.backward();
        let pair = |x: &Tensor| {
            let each = (&codes * (x.detach() / 0.1).log_softmax(1, Kind::Double)).sum(Kind::Double) / -5.;
            value(&each)
        };
        assert!((value(&loss) - (pair(&b) + pair(&c)) / 2.).abs() < 1e-12);
        assert_eq!(value(&a.grad().abs().max()), 0.);
        assert!(value(&b.grad().abs().max()) > 0.);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: Result<Tensor>| x.unwrap_err().to_string();
        let x = view([3, 4], 0.);
        assert_eq!(message(sinkhorn(&x, 0., 3)), "epsilon: expected a number above 0, got 0");
        assert_eq!(message(sinkhorn(&x, 0.05, 0)), "rounds: expected at least 1, got 0");
        assert_eq!(message(sinkhorn(&x.view([-1]), 0.05, 3)), "scores: expected [B, K], got [12]");
        assert!(message(sinkhorn(&x.narrow(0, 0, 0), 0.05, 3)).contains("both above 0"));
        let (scores, codes) = ([x.copy(), x.copy()], [x.narrow(0, 0, 2)]);
        assert_eq!(
            message(swav(&scores, &codes, 0.1)),
            "codes: expected [B, K] = [3, 4] in every view, got [2, 4]"
        );
        assert!(message(swav(&scores, &[], 0.1)).starts_with("views: expected at least 2 of the scores"));
        assert_eq!(message(swav(&scores, &scores, 0.)), "temperature: expected a number above 0, got 0");
    }
}
