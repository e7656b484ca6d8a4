//! The masked places of a batch, as many of each window.
//!
//! Shapes do not depend on what is masked, so that nothing waits for the device.
use crate::random::Chance;
use ssl_core::Result;
use tch::{Kind, Tensor};

/// The masked places of a batch.
#[derive(Debug)]
pub(crate) struct Places {
    /// Positions of each window, the masked ones first and in their order. Int64 `[B, P]`.
    pub(crate) of: Tensor,
    /// Masked positions of each window. Int64 `[B, 1]`.
    pub(crate) count: Tensor,
    /// 1 where a place is masked, 0 where a window has fewer. Float `[B, P]`.
    pub(crate) held: Tensor,
}

impl Places {
    /// The first `most` places of each window, of which none has more that are masked.
    ///
    /// # Shapes
    /// `mask`: bool `[B, N]`.
    pub(crate) fn new(mask: &Tensor, most: i64) -> Result<Self> {
        let positions = mask.size().last().copied().unwrap_or(0);
        let whole = (Kind::Int64, mask.device());
        let order = mask.f_logical_not()?.f_to_kind(Kind::Int64)?.f_mul_scalar(positions)?;
        let order = order.f_add(&Tensor::f_arange(positions, whole)?)?;
        let count = mask.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Int64)?;
        let held = Tensor::f_arange(most, whole)?.f_unsqueeze(0)?.f_lt_tensor(&count)?;
        Ok(Places {
            of: order.f_argsort(1, false)?.f_narrow(1, 0, most)?,
            held: held.f_to_kind(Kind::Float)?,
            count,
        })
    }

    /// The vectors there: of `[B, N, C]`, `[B, P, C]`.
    pub(crate) fn pick(&self, x: &Tensor) -> Result<Tensor> {
        let channels = x.size().last().copied().unwrap_or(0);
        Ok(x.f_gather(1, &self.of.f_unsqueeze(2)?.f_expand([-1, -1, channels], false)?, false)?)
    }

    /// Draws other masked places of the same window for each place, as indices of places. `[B, P, K]`.
    pub(crate) fn negatives(&self, count: i64, chance: Chance) -> Result<Tensor> {
        let (shape, device) = (self.of.size(), self.of.device());
        let places = shape.last().copied().unwrap_or(0);
        let others = self.count.f_sub_scalar(1)?.f_unsqueeze(2)?;
        let dice = chance.uniform(&[shape.as_slice(), &[count]].concat(), 12, device)?;
        let drawn = dice.f_mul(&others)?.f_to_kind(Kind::Int64)?.f_minimum(&others.f_sub_scalar(1)?)?;
        let own = Tensor::f_arange(places, (Kind::Int64, device))?.f_view([1, -1, 1])?;
        Ok(drawn.f_add(&drawn.f_ge_tensor(&own)?.f_to_kind(Kind::Int64)?)?)
    }

    /// The mean of a value of each place, over those that are masked.
    pub(crate) fn mean(&self, values: &Tensor) -> Result<Tensor> {
        Ok(values.f_mul(&self.held)?.f_sum(Kind::Float)?.f_div(&self.held.f_sum(Kind::Float)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_places_come_first_and_negatives_are_others_of_the_same_window() {
        let rows = [[0i64, 1, 1, 0, 1], [1, 1, 0, 0, 0]];
        let mask = Tensor::from_slice2(&rows).to_kind(Kind::Bool);
        let places = Places::new(&mask, 4).unwrap();
        assert_eq!(Vec::<Vec<i64>>::try_from(&places.of).unwrap(), [[1, 2, 4, 0], [0, 1, 2, 3]]);
        assert_eq!(Vec::<Vec<f32>>::try_from(&places.held).unwrap(), [[1., 1., 1., 0.], [1., 1., 0., 0.]]);
        let negatives = places.negatives(400, Chance::Generator).unwrap();
        for (row, count) in [(0, 3), (1, 2)] {
            for place in 0..count {
                let drawn = Vec::<i64>::try_from(negatives.get(row).get(place)).unwrap();
                for other in 0..count {
                    let part = drawn.iter().filter(|&&drawn| drawn == other).count() as f64 / 400.;
                    let expected = if other == place { 0. } else { 1. / (count - 1) as f64 };
                    assert!((part - expected).abs() < 0.12, "{row} {place} {other}: {part}");
                }
                assert!(drawn.iter().all(|&drawn| drawn < count));
            }
        }
        let values = Tensor::from_slice(&[1f32, 2., 3., 100., 4., 5., 100., 100.]).view([2, 4]);
        assert_eq!(places.mean(&values).unwrap().double_value(&[]), 3.);
    }
}
