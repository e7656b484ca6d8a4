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
    let (n, d) = dims2(x, "features", "[N, D]")?;
    no_grad(|| {
        let x = x.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?;
        let centred = x.f_sub(&x.f_mean_dim([0i64].as_slice(), true, None)?)?;
        let (_, directions) = centred.f_tr()?.f_matmul(&centred)?.f_linalg_eigh("L")?;
        // Eigenvalues ascend: the last columns are the widest directions.
        let kept = d.min(2);
        let directions = directions.f_narrow(1, d - kept, kept)?.f_flip([1])?;
        let largest = directions.f_abs()?.f_argmax(0, true)?;
        let directions = directions.f_mul(&directions.f_gather(0, &largest, false)?.f_sign()?)?;
        let plane = centred.f_matmul(&directions)?.f_contiguous()?;
        let mut flat = vec![0f64; (n * kept) as usize];
        plane.f_copy_data(&mut flat, (n * kept) as usize)?;
        let pair = |row: &[f64]| [row.first().copied().unwrap_or(0.0), row.get(1).copied().unwrap_or(0.0)];
        Ok(flat.chunks(kept.max(1) as usize).map(pair).collect())
    })
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
}
