//! Position embeddings of a grid of patches: fixed ones, and how they fit another grid.
//!
//! Source: He et al., 2022 (MAE), `util/pos_embed.py` of its code: <https://arxiv.org/abs/2111.06377>; timm 1.0
//! `layers/pos_embed.py`.
use ssl_core::{Error, Result};
use tch::{Kind, Tensor};

/// Sine and cosine positions of a square grid, in MAE's layout: the class token's zeros first, then the patches row by
/// row; of each, the first half of the numbers is of the column and the second of the row, in each half the sines of
/// all frequencies and then the cosines.
///
/// # Shapes
/// Returns `[1, 1 + side * side, D]` in float32.
///
/// # Errors
/// `Error::Config` when `dim` is no multiple of 4.
pub(crate) fn sincos_positions(dim: i64, side: i64) -> Result<Tensor> {
    if dim < 4 || dim % 4 != 0 {
        let message = format!("expected a width that is a multiple of 4 for sincos, got {dim}");
        return Err(Error::config("positions", message));
    }
    let cpu = (Kind::Double, tch::Device::Cpu);
    let quarter = dim / 4;
    let exponents = Tensor::f_arange(quarter, cpu)?.f_div_scalar(-quarter as f64)?;
    let frequencies = exponents.f_mul_scalar(10_000f64.ln())?.f_exp()?;
    let angles = Tensor::f_arange(side, cpu)?.f_outer(&frequencies)?;
    let of_one = Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?; // [side, D / 2].
    let grid = [side, side, dim / 2];
    let (columns, rows) = (of_one.f_unsqueeze(0)?, of_one.f_unsqueeze(1)?);
    let patches = Tensor::f_cat(&[columns.f_expand(grid, false)?, rows.f_expand(grid, false)?], 2)?;
    let class = Tensor::f_zeros([1, dim], cpu)?;
    let all = Tensor::f_cat(&[class, patches.f_view([side * side, dim])?], 0)?;
    Ok(all.f_to_kind(Kind::Float)?.f_unsqueeze(0)?)
}

/// The positions of a square grid for a grid of `to` rows and columns: bicubic and antialiased, as timm's
/// `resample_abs_pos_embed`; the class token's stays.
///
/// # Shapes
/// `positions`: `[1, 1 + side * side, D]`; returns `[1, 1 + rows * columns, D]`.
pub(super) fn for_grid(positions: &Tensor, side: i64, to: [i64; 2]) -> Result<Tensor> {
    if to == [side, side] {
        return Ok(positions.shallow_clone());
    }
    let dim = positions.size().last().copied().unwrap_or(0);
    let class = positions.f_narrow(1, 0, 1)?;
    let patches = positions.f_narrow(1, 1, side * side)?.f_view([1, side, side, dim])?;
    let resized = patches.f_permute([0, 3, 1, 2])?.f_internal_upsample_bicubic2d_aa(to, false, None, None)?;
    Ok(Tensor::f_cat(&[class, resized.f_flatten(2, 3)?.f_transpose(1, 2)?], 1)?)
}

/// Positions of one square grid for the square grid of another encoder of shape `want`; what is no such pair comes
/// back as it is.
///
/// # Shapes
/// `have`: `[1, 1 + side * side, D]`; returns `want`.
pub(crate) fn resample_positions(have: &Tensor, want: &[i64]) -> Result<Tensor> {
    match (&have.size()[..], want) {
        (&[1, n, dim], &[1, count, width]) if dim == width => match (side_of(n), side_of(count)) {
            (Some(from), Some(to)) => for_grid(have, from, [to, to]),
            _ => Ok(have.shallow_clone()),
        },
        _ => Ok(have.shallow_clone()),
    }
}

/// The side of a square grid that has so many positions with the class token's.
fn side_of(count: i64) -> Option<i64> {
    let side = ((count - 1).max(0) as f64).sqrt().round() as i64;
    (side > 0 && side * side == count - 1).then_some(side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn sincos_positions_equal_a_slow_table() {
        let (dim, side) = (24, 5);
        let mut expected = vec![0f64; 24];
        for row in 0..side {
            for column in 0..side {
                for at in [column, row] {
                    for wave in [f64::sin, f64::cos] {
                        expected.extend((0..6).map(|i| wave(at as f64 / 10_000f64.powf(f64::from(i) / 6.))));
                    }
                }
            }
        }
        let table = sincos_positions(dim, side).unwrap();
        assert_eq!(table.size(), [1, 26, 24]);
        let most = (table.view(-1).to_kind(Kind::Double) - Tensor::from_slice(&expected)).abs().max();
        assert!(f64::try_from(&most).unwrap() < 1e-6, "{most:?}");
        assert!(sincos_positions(22, side).is_err());
    }

    #[test]
    fn positions_of_another_grid_keep_the_class_and_the_corners_order() {
        // A plane over rows and columns: resampling keeps its slopes up to the scale, away from the border.
        let axis = Tensor::arange(8, (Kind::Float, Device::Cpu));
        let rows = axis.view([8, 1]).expand([8, 8], false);
        let columns = axis.view([1, 8]).expand([8, 8], false);
        let patches = Tensor::stack(&[rows, columns], 2).view([1, 64, 2]);
        let positions = Tensor::cat(&[Tensor::full([1, 1, 2], 7., (Kind::Float, Device::Cpu)), patches], 1);
        let wide = for_grid(&positions, 8, [8, 16]).unwrap();
        assert_eq!(wide.size(), [1, 129, 2]);
        assert_eq!(wide.double_value(&[0, 0, 1]), 7.);
        let at = |row: i64, column: i64, which: i64| wide.double_value(&[0, 1 + 16 * row + column, which]);
        assert!((at(4, 8, 0) - 4.).abs() < 1e-4, "{}", at(4, 8, 0));
        // The centre of column 8 of 16 is at 8.5 / 2 - 0.5 of 8.
        assert!((at(4, 8, 1) - 3.75).abs() < 0.02, "{}", at(4, 8, 1));
    }

    #[test]
    fn only_squares_of_the_same_width_are_resampled() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let fitted = |have: &[i64], want: &[i64]| resample_positions(&zeros(have), want).unwrap().size();
        assert_eq!(fitted(&[1, 50, 4], &[1, 65, 4]), [1, 65, 4]);
        for (have, want) in [([1, 50, 4], [1, 65, 8]), ([1, 51, 4], [1, 65, 4]), ([1, 50, 4], [1, 66, 4])] {
            assert_eq!(fitted(&have, &want), have);
        }
        assert_eq!(fitted(&[50, 4], &[1, 65, 4]), [50, 4]);
    }
}
