//! Contrastive cross-entropies: NT-Xent between two views of a batch, InfoNCE against a queue of negatives or the rest
//! of the batch.
//!
//! All write their gradient down instead of recording it. One buffer of logits is filled, turned into probabilities
//! in place, used and dropped before the loss returns; large batches go through it in runs of rows. Autograd over
//! `cat`, `matmul`, masks and `cross_entropy` keeps four to six such buffers until the backward pass.
//!
//! Source: Chen et al., 2020 (SimCLR); van den Oord et al., 2018 (CPC); He et al., 2020 (MoCo).
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! let view = Tensor::f_eye(4, (Kind::Float, Device::Cpu))?;
//! let loss = ssl_core::loss::nt_xent(&view, &view, 0.5)?;
//! // One positive with logit 2, six negatives with logit 0.
//! let expected = (2f64.exp() + 6.).ln() - 2.;
//! assert!((f64::try_from(loss)? - expected).abs() < 1e-6);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use super::{check_temperature, product, same_shape, two_views, with_gradients};
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use tch::Tensor;

/// Logits held at once: 64 MiB in float32.
pub(super) const BLOCK: i64 = 1 << 24;

/// The normalized temperature-scaled cross-entropy of SimCLR: each of the `2B` rows picks its other view among
/// the `2B - 1` other rows. The mean over all rows, in nats.
///
/// # Shapes
/// `a`, `b`: `[B, D]`, unit length not required; returns a scalar, at least float32, once differentiable.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape, `Error::Config` when the temperature is not positive.
///
/// # Source
/// Chen et al., 2020, equation 1: <https://arxiv.org/abs/2002.05709>; equals lightly's `NTXentLoss` and
/// solo-learn's `simclr_loss_func`.
pub fn nt_xent(a: &Tensor, b: &Tensor, temperature: f64) -> Result<Tensor> {
    nt_xent_in_blocks(a, b, temperature, BLOCK)
}

fn nt_xent_in_blocks(a: &Tensor, b: &Tensor, temperature: f64, block: i64) -> Result<Tensor> {
    let (n, _) = dims2(a, "first view", "[B, D]")?;
    dims2(b, "second view", "[B, D]")?;
    same_shape(a, b, "second view", "[B, D]")?;
    check_temperature(temperature)?;
    if n == 0 {
        return Err(Error::Shape { what: "first view".into(), expected: "B above 0".into(), got: a.size() });
    }
    let z = l2_normalize(&Tensor::f_cat(&[a, b], 0)?)?;
    contrast(&z, &Positive::Candidate, temperature, block)
}

/// What a row's other view is to its cross-entropy.
#[derive(Debug)]
pub(super) enum Positive {
    /// One of the rows that it is picked from, as in NT-Xent.
    Candidate,
    /// None of them, as in DCL; the pull towards it has a weight, the same for both rows of a pair. `[2B or 1, 1]`.
    Apart(Tensor),
}

/// The loss over unit rows `z`, where row `i` belongs to row `i + B`.
pub(super) fn contrast(z: &Tensor, positive: &Positive, temperature: f64, block: i64) -> Result<Tensor> {
    let learns = z.requires_grad();
    let (value, gradient) =
        no_grad(|| contrast_rows(&z.f_detach()?, positive, (temperature, block), learns))?;
    match gradient {
        Some(gradient) => with_gradients(&value, &[(z, &gradient)]),
        None => Ok(value),
    }
}

/// The loss, and its gradient when `learns`.
///
/// Products go through the `out` forms, which mixed precision does not touch: they stay in the kind of `z`.
fn contrast_rows(
    z: &Tensor,
    positive: &Positive,
    (temperature, block): (f64, i64),
    learns: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, _) = dims2(z, "rows", "[2B, D]")?;
    let partner = z.f_roll([n / 2], [0])?;
    let pull = match positive {
        Positive::Candidate => partner,
        Positive::Apart(weights) => partner.f_mul(weights)?,
    };
    let (scaled, columns) = (z.f_div_scalar(temperature)?, z.f_tr()?);
    let mut value = z.f_mul(&pull)?.f_sum(z.kind())?.f_div_scalar(temperature)?.f_neg()?;
    let mut gradient = if learns { Some(pull.f_mul_scalar(-2.)?) } else { None };

    let rows = (block / n).clamp(1, n);
    let buffer = Tensor::f_empty([rows, n], (z.kind(), z.device()))?;
    for start in (0..n).step_by(rows as usize) {
        let count = rows.min(n - start);
        let logits = buffer.f_narrow(0, 0, count)?;
        let own = z.f_narrow(0, start, count)?;
        let _ = scaled.f_narrow(0, start, count)?.f_mm_out(&logits, &columns)?;
        // A row is not its own negative.
        let _ = logits.f_diagonal(start, 0, 1)?.f_fill_(f64::NEG_INFINITY)?;
        if let Positive::Apart(_) = positive {
            for offset in [start + n / 2, start - n / 2] {
                let _ = logits.f_diagonal(offset, 0, 1)?.f_fill_(f64::NEG_INFINITY)?;
            }
        }
        let (sum, probabilities) = softmax_(logits)?;
        let _ = value.f_add_(&sum)?;
        if let Some(gradient) = &mut gradient {
            let _ = gradient.f_narrow(0, start, count)?.f_addmm_(&probabilities, z)?;
            let _ = gradient.f_addmm_(&probabilities.f_tr()?, &own)?;
        }
    }
    let mean = 1. / n as f64;
    let gradient = gradient.map(|g| g.f_mul_scalar(mean / temperature)).transpose()?;
    Ok((value.f_mul_scalar(mean)?, gradient))
}

/// Turns logits into each row's probabilities in place; also the sum over rows of `log(sum(exp(logits)))`.
fn softmax_(mut logits: Tensor) -> Result<(Tensor, Tensor)> {
    let top = logits.f_amax([1i64], true)?;
    let _ = logits.f_sub_(&top)?.f_exp_()?;
    let total = logits.f_sum_dim_intlist([1i64].as_slice(), true, logits.kind())?;
    let _ = logits.f_div_(&total)?;
    Ok((total.f_log()?.f_add(&top)?.f_sum(top.kind())?, logits))
}

/// The contrastive loss of MoCo: each query picks its key among that key and `negatives`. The mean, in nats.
///
/// # Shapes
/// `query`, `key`: `[B, D]`, unit length not required; `negatives`: `[K, D]` of unit length, taken as constants;
/// returns a scalar, at least float32, once differentiable with respect to query and key.
///
/// # Errors
/// `Error::Shape` when the shapes do not fit, `Error::Config` when the temperature is not positive.
///
/// # Source
/// He et al., 2020, equation 1: <https://arxiv.org/abs/1911.05722>; equals solo-learn's `mocov2_loss_func`, whose
/// queue is transposed.
pub fn info_nce(query: &Tensor, key: &Tensor, negatives: &Tensor, temperature: f64) -> Result<Tensor> {
    info_nce_in_blocks(query, key, negatives, temperature, BLOCK)
}

fn info_nce_in_blocks(q: &Tensor, k: &Tensor, negatives: &Tensor, t: f64, block: i64) -> Result<Tensor> {
    let (n, width) = dims2(q, "query", "[B, D]")?;
    dims2(k, "key", "[B, D]")?;
    same_shape(q, k, "key", "[B, D]")?;
    check_temperature(t)?;
    let (bank, _) = match dims2(negatives, "negatives", "[K, D]")? {
        (bank, columns) if columns == width && bank > 0 && n > 0 => (bank, columns),
        _ => {
            let expected = format!("[K, {width}] with B and K above 0");
            return Err(Error::Shape { what: "negatives".into(), expected, got: negatives.size() });
        }
    };
    let (q, k) = (l2_normalize(q)?, l2_normalize(k)?);
    let learns = q.requires_grad() || k.requires_grad();
    let (value, gradients) = no_grad(|| -> Result<_> {
        let (q, k) = (q.f_detach()?, k.f_detach()?);
        let negatives = negatives.f_to_kind(q.kind())?;
        let positives = q.f_mul(&k)?.f_sum_dim_intlist([1i64].as_slice(), true, q.kind())?.f_div_scalar(t)?;
        let mut value = positives.f_sum(q.kind())?.f_neg()?;
        let (to_query, to_key) = (k.f_neg()?, q.f_neg()?);

        let rows = (block / (bank + 1)).clamp(1, n);
        let buffer = Tensor::f_empty([rows, bank + 1], (q.kind(), q.device()))?;
        for start in (0..n).step_by(rows as usize) {
            let count = rows.min(n - start);
            let part = |x: &Tensor| x.f_narrow(0, start, count);
            let logits = buffer.f_narrow(0, 0, count)?;
            logits.f_narrow(1, 0, 1)?.f_copy_(&part(&positives)?)?;
            let products = part(&q)?.f_div_scalar(t)?;
            let _ = products.f_mm_out(&logits.f_narrow(1, 1, bank)?, &negatives.f_tr()?)?;
            let (sum, probabilities) = softmax_(logits)?;
            let _ = value.f_add_(&sum)?;
            if learns {
                let own = probabilities.f_narrow(1, 0, 1)?;
                let _ = part(&to_query)?.f_addcmul_(&own, &part(&k)?)?;
                let _ = part(&to_query)?.f_addmm_(&probabilities.f_narrow(1, 1, bank)?, &negatives)?;
                let _ = part(&to_key)?.f_addcmul_(&own, &part(&q)?)?;
            }
        }
        let mean = 1. / n as f64;
        let scale = |x: Tensor| x.f_mul_scalar(mean / t);
        Ok((value.f_mul_scalar(mean)?, [scale(to_query)?, scale(to_key)?]))
    })?;
    let [to_query, to_key] = &gradients;
    let of = [(&q, to_query), (&k, to_key)];
    with_gradients(&value, &of.into_iter().filter(|(x, _)| x.requires_grad()).collect::<Vec<_>>())
}

/// The contrastive loss among a batch: each query picks its key among the keys of all queries. The mean, in nats.
///
/// # Shapes
/// `query`, `key`: `[B, D]`, unit length not required; returns a scalar, at least float32, once differentiable. Detach
/// what must not learn.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape, `Error::Config` when the temperature is not positive.
///
/// # Source
/// van den Oord et al., 2018, equation 4: <https://arxiv.org/abs/1807.03748>. It is the loss of MoCo v3, which multiplies
/// it by twice the temperature, and equals solo-learn's `nnclr_loss_func`.
pub fn info_nce_in_batch(query: &Tensor, key: &Tensor, temperature: f64) -> Result<Tensor> {
    two_views(query, key, 1)?;
    check_temperature(temperature)?;
    let (q, k) = (l2_normalize(query)?, l2_normalize(key)?);
    let (value, gradients) = no_grad(|| -> Result<_> {
        let (q, k) = (q.f_detach()?, k.f_detach()?);
        let positives = q.f_mul(&k)?.f_sum(q.kind())?.f_div_scalar(temperature)?;
        let (sum, probabilities) = softmax_(product(&q.f_div_scalar(temperature)?, &k.f_tr()?)?)?;
        let mean = 1. / q.size().first().copied().unwrap_or(1) as f64;
        let scale = |x: Tensor| x.f_mul_scalar(mean / temperature);
        let to_query = scale(product(&probabilities, &k)?.f_sub(&k)?)?;
        let to_key = scale(product(&probabilities.f_tr()?, &q)?.f_sub(&q)?)?;
        Ok((sum.f_sub(&positives)?.f_mul_scalar(mean)?, [to_query, to_key]))
    })?;
    let of = [&q, &k].into_iter().zip(&gradients);
    with_gradients(&value, &of.filter(|(x, _)| x.requires_grad()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{assert_same, learn, value, view};
    use proptest::prelude::*;
    use tch::{Device, Kind};

    /// The loss by its definition, recorded by autograd.
    fn slow_nt_xent(a: &Tensor, b: &Tensor, temperature: f64) -> Tensor {
        let z = l2_normalize(&Tensor::cat(&[a, b], 0)).unwrap();
        let (n, logits) = (z.size()[0], z.matmul(&z.tr()) / temperature);
        let row = |i: i64| {
            let others: Vec<_> = (0..n).filter(|j| *j != i).map(|j| logits.get(i).get(j).exp()).collect();
            Tensor::stack(&others, 0).sum(z.kind()).log() - logits.get(i).get((i + n / 2) % n)
        };
        Tensor::stack(&(0..n).map(row).collect::<Vec<_>>(), 0).mean(z.kind())
    }

    #[test]
    fn nt_xent_equals_its_definition_in_value_and_gradient() {
        let (a, b) = (view([3, 4], 0.), view([3, 4], 1.));
        assert_same(
            learn(|x, y| nt_xent(x, y, 0.3).unwrap(), &a, &b),
            learn(|x, y| slow_nt_xent(x, y, 0.3), &a, &b),
        );
    }

    #[test]
    fn info_nce_equals_its_definition_in_value_and_gradient() {
        let (q, k, queue) = (view([4, 5], 0.), view([4, 5], 1.), l2_normalize(&view([7, 5], 2.)).unwrap());
        let slow = |q: &Tensor, k: &Tensor| {
            let (q, k) = (l2_normalize(q).unwrap(), l2_normalize(k).unwrap());
            let positive = (&q * k).sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
            let logits = Tensor::cat(&[positive, q.matmul(&queue.tr())], 1) / 0.3;
            -logits.log_softmax(1, Kind::Double).select(1, 0).mean(Kind::Double)
        };
        assert_same(learn(|x, y| info_nce(x, y, &queue, 0.3).unwrap(), &q, &k), learn(slow, &q, &k));
    }

    #[test]
    fn info_nce_in_a_batch_equals_its_definition_in_value_and_gradient() {
        let (q, k) = (view([4, 5], 0.), view([4, 5], 1.));
        let slow = |q: &Tensor, k: &Tensor| {
            let logits = l2_normalize(q).unwrap().matmul(&l2_normalize(k).unwrap().tr()) / 0.3;
            let own = logits.log_softmax(1, Kind::Double).diagonal(0, 0, 1);
            -own.mean(Kind::Double)
        };
        assert_same(learn(|x, y| info_nce_in_batch(x, y, 0.3).unwrap(), &q, &k), learn(slow, &q, &k));
        let said = info_nce_in_batch(&q, &view([3, 5], 0.), 0.3).unwrap_err().to_string();
        assert_eq!(said, "second view: expected [B, D] = [4, 5] as the first, got [3, 5]");
    }

    #[test]
    fn what_is_detached_gets_no_gradient_and_the_other_its_own() {
        let (q, k) = (view([4, 5], 0.), view([4, 5], 1.));
        let both = learn(|x, y| info_nce_in_batch(x, y, 0.3).unwrap(), &q, &k);
        let one = learn(|x, y| info_nce_in_batch(&x.detach(), y, 0.3).unwrap(), &q, &k);
        assert!(!one.1.defined() && one.2.equal(&both.2));
    }

    #[test]
    fn runs_of_rows_do_not_change_the_result() {
        let (a, b, queue) = (view([5, 4], 0.), view([5, 4], 1.), view([6, 4], 2.));
        for block in [1, 25, 30] {
            let part = |x: &Tensor, y: &Tensor| nt_xent_in_blocks(x, y, 0.2, block).unwrap();
            assert_same(learn(part, &a, &b), learn(|x, y| nt_xent(x, y, 0.2).unwrap(), &a, &b));
            let part = |x: &Tensor, y: &Tensor| info_nce_in_blocks(x, y, &queue, 0.2, block).unwrap();
            assert_same(learn(part, &a, &b), learn(|x, y| info_nce(x, y, &queue, 0.2).unwrap(), &a, &b));
        }
    }

    #[test]
    fn mixed_precision_around_the_loss_does_not_touch_its_products() {
        let (a, b) = (view([6, 8], 0.).to_kind(Kind::Float), view([6, 8], 1.).to_kind(Kind::Float));
        let run = || learn(|x, y| nt_xent(x, y, 0.1).unwrap(), &a, &b);
        let plain = run();
        let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        let mixed = run();
        assert_eq!(plain.0, mixed.0);
        assert!(plain.1.equal(&mixed.1) && plain.2.equal(&mixed.2));
    }

    #[test]
    fn reduced_precision_is_accumulated_in_float32() {
        let (a, b) = (view([6, 8], 0.).to_kind(Kind::BFloat16), view([6, 8], 1.).to_kind(Kind::BFloat16));
        let loss = nt_xent(&a, &b, 0.1).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
        let wide = nt_xent(&a.to_kind(Kind::Float), &b.to_kind(Kind::Float), 0.1).unwrap();
        assert!((value(&loss) - value(&wide)).abs() < 1e-6);
    }

    #[test]
    fn small_temperatures_do_not_overflow() {
        let (a, b) = (view([6, 8], 0.).to_kind(Kind::Float), view([6, 8], 1.).to_kind(Kind::Float));
        let (loss, to_a, _) = learn(|x, y| nt_xent(x, y, 1e-3).unwrap(), &a, &b);
        assert!(loss.is_finite() && value(&to_a.norm()).is_finite());
    }

    #[test]
    fn a_single_pair_has_no_negatives_and_no_loss() {
        let (loss, to_a, _) = learn(|x, y| nt_xent(x, y, 0.1).unwrap(), &view([1, 4], 0.), &view([1, 4], 1.));
        assert!(loss.abs() < 1e-12 && value(&to_a.abs().max()) < 1e-12);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: Result<Tensor>| x.unwrap_err().to_string();
        let (a, b) = (view([3, 4], 0.), view([3, 5], 1.));
        assert!(message(nt_xent(&a, &b, 0.1)).starts_with("second view: expected [B, D] = [3, 4]"));
        assert_eq!(message(nt_xent(&a, &a, 0.)), "temperature: expected a number above 0, got 0");
        assert!(
            message(nt_xent(&a.view([-1]), &a, 0.1)).starts_with("first view: expected [B, D], got [12]")
        );
        assert!(message(nt_xent(&a.narrow(0, 0, 0), &a.narrow(0, 0, 0), 0.1)).contains("B above 0"));
        assert!(message(info_nce(&a, &a, &b, 0.1)).starts_with("negatives: expected [K, 4]"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nt_xent_does_not_depend_on_order_or_length(
            n in 1i64..7, d in 1i64..6, seed in 0.1f64..3., scale in 0.01f64..100., t in 0.05f64..2.,
        ) {
            let (a, b) = (view([n, d], seed), view([n, d], seed + 0.4));
            let loss = value(&nt_xent(&a, &b, t).unwrap());
            let swapped = value(&nt_xent(&b, &a, t).unwrap());
            let flipped = value(&nt_xent(&a.flip([0]), &b.flip([0]), t).unwrap());
            let scaled = value(&nt_xent(&(&a * scale), &b, t).unwrap());
            for other in [swapped, flipped, scaled] {
                prop_assert!((loss - other).abs() < 1e-9 * loss.max(1.), "{loss} {other}");
            }
            // At worst every negative is as near as the positive and the positive is opposite.
            let bound = ((2 * n - 1) as f64).ln() + 2. / t;
            prop_assert!(loss > -1e-9 && loss < bound + 1e-9);
        }
    }
}
