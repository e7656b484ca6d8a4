//! Decoupled contrastive losses: NT-Xent whose positive pair is not among what it is told from.
//!
//! In NT-Xent the gradient of a row fades with the share that its other view already has of the sum over the
//! candidates, the sooner the fewer candidates there are. Without the other view in that sum small batches learn as fast
//! as large ones.
//!
//! Source: Yeh et al., 2022: <https://arxiv.org/abs/2110.06848>.
use super::nt_xent::{BLOCK, Positive, contrast};
use super::{check_temperature, two_views};
use crate::nn::l2_normalize;
use crate::{Result, check, no_grad};
use tch::Tensor;

/// The decoupled contrastive loss: each of the `2B` rows is pulled to its other view and pushed away from the `2B - 2`
/// rows of other images. The mean over all rows, in nats; it can be below 0.
///
/// # Shapes
/// `a`, `b`: `[B, D]` with B at least 2, unit length not required; returns a scalar, at least float32, once
/// differentiable.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape or have fewer than two rows, `Error::Config` when the
/// temperature is not positive.
///
/// # Source
/// Yeh et al., 2022, section 3: <https://arxiv.org/abs/2110.06848>; equals lightly's `DCLLoss`.
pub fn dcl(a: &Tensor, b: &Tensor, temperature: f64) -> Result<Tensor> {
    decoupled(a, b, temperature, BLOCK, |z| Ok(z.f_new_ones([1i64, 1], (z.kind(), z.device()))?))
}

/// [`dcl`] whose pulls have weights: pairs that are far apart count more, up to twice, the nearest less. The weights
/// have a mean of 1 over the batch and are constants to the gradient.
///
/// # Shapes
/// As [`dcl`].
///
/// # Errors
/// As [`dcl`]; `Error::Config` also when `sigma`, by which similarities are divided in the weights, is not positive.
///
/// # Source
/// Yeh et al., 2022, section 3, with a sigma of 0.5: <https://arxiv.org/abs/2110.06848>; equals lightly's `DCLWLoss`.
pub fn dclw(a: &Tensor, b: &Tensor, temperature: f64, sigma: f64) -> Result<Tensor> {
    check::positive("sigma", sigma)?;
    decoupled(a, b, temperature, BLOCK, |z| weights(z, sigma))
}

fn decoupled(
    a: &Tensor,
    b: &Tensor,
    temperature: f64,
    block: i64,
    weights: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    two_views(a, b, 2)?;
    check_temperature(temperature)?;
    let z = l2_normalize(&Tensor::f_cat(&[a, b], 0)?)?;
    let positive = Positive::Apart(no_grad(|| weights(&z.f_detach()?))?);
    contrast(&z, &positive, temperature, block)
}

/// What each pair of unit rows `z` counts: 2 less its share, of `B` in all, of `exp(similarity / sigma)`. `[2B, 1]`.
fn weights(z: &Tensor, sigma: f64) -> Result<Tensor> {
    let rows = z.size().first().copied().unwrap_or(0);
    let similarity =
        z.f_mul(&z.f_roll([rows / 2], [0])?)?.f_sum_dim_intlist([1i64].as_slice(), true, z.kind())?;
    // Each pair is there twice, which its share and the number of rows both double.
    let share = similarity.f_div_scalar(sigma)?.f_softmax(0, z.kind())?;
    Ok(share.f_mul_scalar(-(rows as f64))?.f_add_scalar(2.)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use tch::Kind;

    /// The loss by its definition, recorded by autograd; a weight for each pair.
    fn slow(a: &Tensor, b: &Tensor, temperature: f64, weights: &[f64]) -> Tensor {
        let z = l2_normalize(&Tensor::cat(&[a, b], 0)).unwrap();
        let (n, logits) = (z.size()[0], z.matmul(&z.tr()) / temperature);
        let row = |i: i64| {
            let partner = (i + n / 2) % n;
            let at = |j: i64| logits.get(i).get(j);
            let others: Vec<_> = (0..n).filter(|j| ![i, partner].contains(j)).map(|j| at(j).exp()).collect();
            Tensor::stack(&others, 0).sum(Kind::Double).log() - at(partner) * weights[(i % (n / 2)) as usize]
        };
        Tensor::stack(&(0..n).map(row).collect::<Vec<_>>(), 0).mean(Kind::Double)
    }

    #[test]
    fn dcl_equals_its_definition_in_value_and_gradient() {
        let (a, b) = (view([3, 4], 0.), view([3, 4], 1.));
        assert_same(
            learn(|x, y| dcl(x, y, 0.3).unwrap(), &a, &b),
            learn(|x, y| slow(x, y, 0.3, &[1.; 3]), &a, &b),
        );
    }

    #[test]
    fn the_weights_of_dclw_fall_with_the_similarity_and_are_constants() {
        let (a, b) = (view([3, 4], 0.), view([3, 4], 1.));
        let (x, y) = (l2_normalize(&a).unwrap(), l2_normalize(&b).unwrap());
        let pulls = (0..3).map(|i| (value(&x.get(i).dot(&y.get(i))) / 0.5).exp()).collect::<Vec<_>>();
        let weights: Vec<f64> = pulls.iter().map(|pull| 2. - 3. * pull / pulls.iter().sum::<f64>()).collect();
        assert!((weights.iter().sum::<f64>() - 3.).abs() < 1e-12);
        assert_same(
            learn(|x, y| dclw(x, y, 0.3, 0.5).unwrap(), &a, &b),
            learn(|x, y| slow(x, y, 0.3, &weights), &a, &b),
        );
    }

    #[test]
    fn runs_of_rows_do_not_change_the_result() {
        let (a, b) = (view([5, 4], 0.), view([5, 4], 1.));
        let whole = || learn(|x, y| dclw(x, y, 0.2, 0.5).unwrap(), &a, &b);
        for block in [1, 25, 30] {
            let parts = |x: &Tensor, y: &Tensor| decoupled(x, y, 0.2, block, |z| weights(z, 0.5)).unwrap();
            assert_same(learn(parts, &a, &b), whole());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, message) = (view([3, 4], 0.), |x: Result<Tensor>| x.unwrap_err().to_string());
        let one = message(dcl(&a.narrow(0, 0, 1), &a.narrow(0, 0, 1), 0.1));
        assert_eq!(one, "first view: expected [B, D] with B at least 2 and D at least 1, got [1, 4]");
        assert_eq!(message(dcl(&a, &a, 0.)), "temperature: expected a number above 0, got 0");
        assert_eq!(message(dclw(&a, &a, 0.1, -1.)), "sigma: expected a number above 0, got -1");
    }
}
