//! How alike the clips of a video are.
use ssl_core::nn::l2_normalize;
use ssl_core::{Error, Result, dims2, no_grad};
use tch::{Device, Kind, Tensor};

/// Clips that a kernel may compare, whose square it keeps in memory.
const MOST: i64 = 1 << 12;
/// Embeddings whose variance is this part of their squared length differ by rounding alone.
const ROUNDING: f64 = 1e-10;

/// Embeddings as directions from their mean, of unit length, in double precision on the CPU: what all clips have in
/// common, which is most of what an untrained encoder says, is no likeness. Those that differ by rounding alone become
/// zeros.
///
/// # Shapes
/// `x`: `[N, D]`, unit length not required; returns `[N, D]`.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix with a row; `Error::Config` when a number in it is not finite.
pub fn directions(x: &Tensor) -> Result<Tensor> {
    let (n, d) = dims2(x, "embeddings", "[N, D]")?;
    if n == 0 || d == 0 {
        let (what, expected) = ("embeddings".to_string(), "[N, D] of at least one clip".to_string());
        return Err(Error::Shape { what, expected, got: x.size() });
    }
    no_grad(|| {
        let x = x.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        let length = x.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        if !length.is_finite() {
            return Err(Error::config("embeddings", "expected finite numbers, got NaN or infinity"));
        }
        let centered = x.f_sub(&x.f_mean_dim([0i64].as_slice(), true, Kind::Double)?)?;
        let variance = centered.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        if variance <= ROUNDING * length { Ok(centered.f_zeros_like()?) } else { l2_normalize(&centered) }
    })
}

/// A Gaussian kernel of the [`directions`] of embeddings, as wide as their mean squared distance.
///
/// A kernel that is bounded keeps one strange clip from outweighing the others; that the clips themselves give the width
/// makes encoders comparable.
///
/// # Source
/// Harchaoui & Cappé, 2007 ("Retrospective multiple change-point estimation with kernels"), for the kernel of a sequence:
/// <https://doi.org/10.1109/SSP.2007.4301363>.
#[derive(Clone, PartialEq)]
pub struct Kernel {
    clips: usize,
    values: Vec<f64>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({} clips)", self.clips)
    }
}

impl Kernel {
    /// The kernel between all pairs of clips.
    ///
    /// # Shapes
    /// `x`: `[N, D]`, unit length not required.
    ///
    /// # Errors
    /// As [`directions`]; `Error::Config` for more than 4,096 clips.
    pub fn new(x: &Tensor) -> Result<Self> {
        let (n, _) = dims2(x, "embeddings", "[N, D]")?;
        if n > MOST {
            return Err(Error::config("embeddings", format!("expected at most {MOST} clips, got {n}")));
        }
        let x = directions(x)?;
        let cosine = x.f_matmul(&x.f_tr()?)?;
        let own = cosine.f_diagonal(0, 0, 1)?.f_contiguous()?;
        let squares = own.f_unsqueeze(0)?.f_add(&own.f_unsqueeze(1)?)?;
        let distance = squares.f_sub(&cosine.f_mul_scalar(2.0)?)?.f_clamp_min(0.0)?;
        let width = distance.f_mean(Kind::Double)?.f_double_value(&[])?;
        // Where all are alike there is no distance to divide.
        let scale = if width > 0.0 { -0.5 / width } else { 0.0 };
        let values = distance.f_mul_scalar(scale)?.f_exp()?.f_flatten(0, -1)?;
        Ok(Kernel { clips: usize::try_from(n).unwrap_or(0), values: Vec::try_from(values)? })
    }

    /// Number of clips.
    pub fn clips(&self) -> usize {
        self.clips
    }

    /// How alike two clips are, from 0 to 1; 0 where there is no such clip.
    pub fn at(&self, a: usize, b: usize) -> f64 {
        let is_in = a < self.clips && b < self.clips;
        if is_in { self.values.get(a * self.clips + b).copied().unwrap_or(0.0) } else { 0.0 }
    }

    /// The mean between each clip of one range and each of another.
    pub(super) fn mean(&self, a: std::ops::Range<usize>, b: std::ops::Range<usize>) -> f64 {
        let pairs = (a.len() * b.len()).max(1) as f64;
        a.map(|a| b.clone().map(|b| self.at(a, b)).sum::<f64>()).sum::<f64>() / pairs
    }

    /// The variance of all clips in the space of the kernel: their mean squared distance from their mean.
    pub fn variance(&self) -> f64 {
        let own = (0..self.clips).map(|clip| self.at(clip, clip)).sum::<f64>() / self.clips.max(1) as f64;
        (own - self.mean(0..self.clips, 0..self.clips)).max(0.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The kernel by its definition, one pair after the other.
    pub(crate) fn slow(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let n = rows.len() as f64;
        let mean: Vec<f64> =
            (0..rows[0].len()).map(|d| rows.iter().map(|row| row[d]).sum::<f64>() / n).collect();
        let unit = |row: &Vec<f64>| {
            let row: Vec<f64> = row.iter().zip(&mean).map(|(x, mean)| x - mean).collect();
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.into_iter().map(|x| x / length).collect::<Vec<f64>>()
        };
        let rows: Vec<Vec<f64>> = rows.iter().map(unit).collect();
        let squared = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let all = || rows.iter().map(|a| rows.iter().map(|b| squared(a, b)).collect::<Vec<f64>>());
        let width = all().flatten().sum::<f64>() / n / n;
        all().map(|row| row.iter().map(|distance| (-distance / (2.0 * width)).exp()).collect()).collect()
    }

    /// Rows of waves, of no pattern that matters.
    pub(crate) fn waves(rows: usize, columns: usize, pitch: f64) -> Vec<Vec<f64>> {
        let value = |n: usize| (n as f64 * pitch + 0.3).sin() + (n as f64 * n as f64 * 0.013).cos();
        (0..rows).map(|row| (0..columns).map(|column| value(row * columns + column)).collect()).collect()
    }

    pub(crate) fn tensor(rows: &[Vec<f64>]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
    }

    #[test]
    fn values_and_variance_equal_a_slow_version() {
        let rows = waves(17, 5, 0.71);
        let (kernel, slow) = (Kernel::new(&tensor(&rows)).unwrap(), slow(&rows));
        for (a, row) in slow.iter().enumerate() {
            for (b, expected) in row.iter().enumerate() {
                assert!((kernel.at(a, b) - expected).abs() < 1e-9, "{a} {b}: {} {expected}", kernel.at(a, b));
            }
        }
        let expected = 1.0 - slow.concat().iter().sum::<f64>() / 289.0;
        assert!((kernel.variance() - expected).abs() < 1e-9);
        assert_eq!((kernel.at(17, 0), kernel.at(0, 17)), (0.0, 0.0));
    }

    #[test]
    fn neither_an_offset_nor_the_scale_of_an_encoder_matters() {
        let x = tensor(&waves(12, 6, 0.37));
        let (one, other) = (Kernel::new(&x).unwrap(), Kernel::new(&(&x * 40.0 + 3.0)).unwrap());
        assert!((0..12).all(|clip| (one.at(0, clip) - other.at(0, clip)).abs() < 1e-9));
    }

    #[test]
    fn clips_that_differ_by_rounding_alone_are_all_alike() {
        let x = Tensor::ones([6, 4], (Kind::Double, Device::Cpu)) * 7.0 + tensor(&waves(6, 4, 0.9)) * 1e-7;
        let kernel = Kernel::new(&x).unwrap();
        assert!((0..36).all(|pair| kernel.at(pair / 6, pair % 6) == 1.0));
        assert_eq!((kernel.variance(), Kernel::new(&x.narrow(0, 0, 1)).unwrap().clips()), (0.0, 1));
    }

    #[test]
    fn what_is_no_matrix_of_numbers_is_named() {
        let message = |x: &Tensor| Kernel::new(x).unwrap_err().to_string();
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        assert!(message(&zeros(&[3])).contains("expected [N, D], got [3]"));
        assert!(message(&zeros(&[0, 3])).contains("at least one clip, got [0, 3]"));
        assert!(message(&zeros(&[4_097, 1])).contains("expected at most 4096 clips, got 4097"));
        assert!(message(&(zeros(&[2, 2]) / 0.0)).contains("expected finite numbers"));
    }
}
