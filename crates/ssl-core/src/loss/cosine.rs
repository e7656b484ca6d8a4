//! Negative cosine similarity, the loss of SimSiam and, but for constants, of BYOL.
//!
//! Source: Chen & He, 2021, equation 1: <https://arxiv.org/abs/2011.10566>.
use super::same_shape;
use crate::tensor::at_least_float;
use crate::{Result, dims2};
use tch::{Kind, Tensor};

/// The mean of minus the cosine between paired rows, between -1 and 1. Detach what must not learn.
///
/// BYOL's loss is `2 + 2 *` this in solo-learn and in the paper, this alone in lightly.
///
/// # Shapes
/// `a`, `b`: `[B, D]`, unit length not required; returns a scalar, at least float32.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one shape.
///
/// # Source
/// Chen & He, 2021, equation 1; lightly `NegativeCosineSimilarity`, with its 1e-8 under the lengths.
pub fn negative_cosine(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    dims2(a, "first view", "[B, D]")?;
    dims2(b, "second view", "[B, D]")?;
    same_shape(a, b, "second view", "[B, D]")?;
    let (a, b) = (at_least_float(a)?, at_least_float(b)?);
    let cosine = Tensor::f_cosine_similarity(&a, &b, 1, 1e-8)?;
    Ok(cosine.f_mean(None::<Kind>)?.f_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn equal_views_reach_minus_one_and_opposite_ones_plus_one() {
        let x = Tensor::randn([5, 7], (Kind::Float, Device::Cpu));
        let value = |y: &Tensor| f64::try_from(negative_cosine(&x, y).unwrap()).unwrap();
        assert!((value(&(&x * 3.)) + 1.).abs() < 1e-6);
        assert!((value(&-&x) - 1.).abs() < 1e-6);
    }

    #[test]
    fn reduced_precision_is_accumulated_in_float32() {
        let x = Tensor::randn([5, 7], (Kind::BFloat16, Device::Cpu));
        assert_eq!(negative_cosine(&x, &x).unwrap().kind(), Kind::Float);
    }

    #[test]
    fn views_of_different_shapes_are_refused_with_both_shapes() {
        let ones = |size: [i64; 2]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        let error = negative_cosine(&ones([2, 3]), &ones([2, 4])).unwrap_err().to_string();
        assert_eq!(error, "second view: expected [B, D] = [2, 3] as the first, got [2, 4]");
    }
}
