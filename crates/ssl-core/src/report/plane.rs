//! Features on a plane, to be looked at.
use crate::{Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// Coordinates of every row along the two directions of the largest variance; the second is 0 where D is 1.
///
/// The sign of a direction is such that its largest component is positive.
///
/// # Shapes
/// `x`: `[N, D]`; returns N pairs.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix; `Error::Torch` when the decomposition fails, as on NaN.
pub fn principal_plane(x: &Tensor) -> Result<Vec<[f64; 2]>> {
    no_grad(|| pairs(&principal_axes(x, 2)?))
}

/// Coordinates along the `most` directions of the largest variance, or along all, in double precision on the CPU.
/// `[N, min(D, most)]`.
pub(super) fn principal_axes(x: &Tensor, most: i64) -> Result<Tensor> {
    let (_, d) = dims2(x, "features", "[N, D]")?;
    let centred = centred(x)?;
    let (_, directions) = centred.f_tr()?.f_matmul(&centred)?.f_linalg_eigh("L")?;
    // Eigenvalues ascend: the last columns are the widest directions.
    let kept = d.min(most);
    let directions = directions.f_narrow(1, d - kept, kept)?.f_flip([1])?;
    let largest = directions.f_abs()?.f_argmax(0, true)?;
    let directions = directions.f_mul(&directions.f_gather(0, &largest, false)?.f_sign()?)?;
    Ok(centred.f_matmul(&directions)?)
}

/// Eigenvalues of the covariance of the features, largest first: how many directions they use, and how evenly.
///
/// # Shapes
/// `x`: `[N, D]`; returns D numbers.
///
/// # Errors
/// As [`principal_plane`].
pub fn spectrum(x: &Tensor) -> Result<Vec<f64>> {
    no_grad(|| {
        let (n, _) = dims2(x, "features", "[N, D]")?;
        let centred = centred(x)?;
        let values = centred.f_tr()?.f_matmul(&centred)?.f_linalg_eigvalsh("L")?.f_flip([0])?;
        Ok(Vec::<f64>::try_from(values.f_div_scalar((n - 1).max(1) as f64)?.f_clamp_min(0.)?)?)
    })
}

fn centred(x: &Tensor) -> Result<Tensor> {
    let x = x.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?;
    Ok(x.f_sub(&x.f_mean_dim([0i64].as_slice(), true, None)?)?)
}

/// The rows of `[N, 1]` or `[N, 2]` as pairs.
pub(super) fn pairs(x: &Tensor) -> Result<Vec<[f64; 2]>> {
    let (_, kept) = dims2(x, "plane", "[N, 2]")?;
    let flat = Vec::<f64>::try_from(x.f_contiguous()?.f_view(-1)?)?;
    let pair = |row: &[f64]| [row.first().copied().unwrap_or(0.0), row.get(1).copied().unwrap_or(0.0)];
    Ok(flat.chunks(kept.max(1) as usize).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_direction_comes_first_and_points_up() {
        let x =
            Tensor::from_slice(&[5f32, 1.0, 0.5, 5.0, 3.0, -0.5, 5.0, 5.0, -0.5, 5.0, 7.0, 0.5]).view([4, 3]);
        let plane = principal_plane(&x).unwrap();
        for (point, expected) in plane.iter().zip([[-3.0, 0.5], [-1.0, -0.5], [1.0, -0.5], [3.0, 0.5]]) {
            assert!(point.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{plane:?}");
        }
        assert_eq!(principal_plane(&x.narrow(1, 1, 1)).unwrap()[3], [3.0, 0.0]);
        assert!(principal_plane(&x.view(12)).is_err());
    }

    #[test]
    fn the_spectrum_is_the_variance_along_each_direction() {
        // Along (1, 1) the variance is 2 * 4, across it 2 * 1; the third number never changes.
        let x = Tensor::from_slice(&[2f32, 2., 7., -2., -2., 7., 1., -1., 7., -1., 1., 7.]).view([4, 3]);
        let found = spectrum(&x).unwrap();
        for (found, expected) in found.iter().zip([16. / 3., 4. / 3., 0.]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }
}
