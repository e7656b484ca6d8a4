//! KoLeo: examples keep away from their nearest neighbor, so that a batch spreads over the sphere.
//!
//! Source: Sablayrolles et al., 2018: <https://arxiv.org/abs/1806.03198>; Oquab et al., 2023 (DINOv2), section 4:
//! <https://arxiv.org/abs/2304.07193>.
use super::product;
use crate::tensor::at_least_float;
use crate::{Error, Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// What is added to lengths and distances before they divide or their logarithm is taken.
const EPS: f64 = 1e-8;

/// Minus the mean logarithm of the distance between each row and its nearest neighbor, at unit length.
///
/// # Shapes
/// `x`: `[B, D]` with B at least 2, unit length not required; returns a scalar, at least float32.
///
/// # Errors
/// `Error::Shape` when `x` has another shape.
///
/// # Source
/// Sablayrolles et al., 2018, equation 2: <https://arxiv.org/abs/1806.03198>; equals lightly's `KoLeoLoss` and that of
/// DINOv2's code, which is in float16 there.
pub fn koleo(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = dims2(x, "embeddings", "[B, D]")?;
    if rows < 2 || columns < 1 {
        let expected = "[B, D] with B at least 2 and D at least 1".to_string();
        return Err(Error::Shape { what: "embeddings".into(), expected, got: x.size() });
    }
    let x = at_least_float(x)?;
    let unit = x.f_div(&x.f_norm_scalaropt_dim(2, [-1i64], true)?.f_clamp_min(EPS)?)?;
    let nearest = no_grad(|| -> Result<Tensor> {
        let mut cosines = product(&unit, &unit.f_transpose(0, 1)?)?;
        let _ = cosines.f_fill_diagonal_(-2., false)?;
        Ok(cosines.f_argmax(1, false)?)
    })?;
    let neighbor = unit.f_index_select(0, &nearest)?;
    let distance = Tensor::f_pairwise_distance(&unit, &neighbor, 2., EPS, false)?;
    Ok(distance.f_add_scalar(EPS)?.f_log()?.f_mean(None::<Kind>)?.f_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{value, view};

    #[test]
    fn it_is_the_logarithm_of_the_distance_to_the_nearest_of_the_others() {
        let x = view([7, 5], 0.);
        let row = |i: i64| Vec::<f64>::try_from(x.get(i)).unwrap();
        let unit = |i: i64| {
            let length = row(i).iter().map(|x| x * x).sum::<f64>().sqrt();
            row(i).into_iter().map(|x| x / length).collect::<Vec<_>>()
        };
        let distance =
            |i: i64, j: i64| unit(i).iter().zip(unit(j)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let nearest = |i: i64| (0..7).filter(|&j| j != i).map(|j| distance(i, j)).fold(f64::MAX, f64::min);
        let slow = -(0..7).map(|i| nearest(i).ln()).sum::<f64>() / 7.;
        assert!((value(&koleo(&x).unwrap()) - slow).abs() < 1e-6);
    }

    #[test]
    fn equal_rows_cost_most_and_have_a_finite_gradient() {
        let x = (view([1, 5], 0.).repeat([4, 1])).set_requires_grad(true);
        let loss = koleo(&x).unwrap();
        loss.backward();
        assert!(value(&loss) > value(&koleo(&view([4, 5], 0.)).unwrap()) + 5.);
        assert!(value(&x.grad().abs().max()).is_finite());
    }

    #[test]
    fn half_precision_is_widened_and_a_single_row_refused() {
        let x = view([4, 5], 0.).to_kind(Kind::BFloat16);
        assert!(koleo(&x).unwrap().equal(&koleo(&x.to_kind(Kind::Float)).unwrap()));
        let message = koleo(&view([1, 5], 0.)).unwrap_err().to_string();
        assert_eq!(message, "embeddings: expected [B, D] with B at least 2 and D at least 1, got [1, 5]");
    }
}
