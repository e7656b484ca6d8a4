//! Colors as lightness and two axes of hue and saturation (CIE L*a*b*), and a palette of the latter.
//!
//! Source: sRGB with the white of D65; numbers as in scikit-image's `color.rgb2lab` for an observer of 2 degrees.
use ssl_core::{Precision, Result};
use tch::{Device, Kind, Tensor};

/// Red, green and blue of linear light to X, Y and Z.
const XYZ: [f32; 9] =
    [0.412453, 0.357580, 0.180423, 0.212671, 0.715160, 0.072169, 0.019334, 0.119193, 0.950227];
/// X, Y and Z to red, green and blue of linear light.
const RGB: [f32; 9] = [
    3.240_481_3,
    -1.537_151_5,
    -0.498_536_3,
    -0.969_255,
    1.875_990_1,
    0.041_555_93,
    0.055_646_64,
    -0.204_041_34,
    1.057_311,
];
/// X, Y and Z of white.
const WHITE: [f32; 3] = [0.95047, 1., 1.08883];
/// Distance between two colors of a palette, on either axis.
const STEP: f64 = 10.;
/// Shades of each channel whose colors make a palette.
const SHADES: i64 = 33;
/// Colors of a palette that a color is written as.
const NEAREST: i64 = 5;
/// Deviation of the distances that they are weighted by.
const SIGMA: f64 = 5.;

/// `f` of the channels, which come last for it, in float32.
fn by_color(x: &Tensor, f: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
    Precision::Fp32.scope(x.device(), || {
        Ok(f(x.f_to_kind(Kind::Float)?.f_movedim([1i64].as_slice(), [-1i64].as_slice())?)?
            .f_movedim([-1i64].as_slice(), [1i64].as_slice())?)
    })
}

/// The transposed matrix of a change of axes.
fn axes(matrix: &[f32; 9], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(matrix)?.f_view([3, 3])?.f_tr()?.f_to_device(device)?)
}

fn white(device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&WHITE)?.f_to_device(device)?)
}

/// Lightness from 0 to 100, and the axes a and b, of red, green and blue from 0 to 1.
///
/// # Shapes
/// `rgb`: `[B, 3, ..]`; returns the same.
pub(crate) fn to_lab(rgb: &Tensor) -> Result<Tensor> {
    by_color(rgb, |rgb| {
        let bright =
            rgb.f_add_scalar(0.055)?.f_div_scalar(1.055)?.f_clamp_min(0.)?.f_pow_tensor_scalar(2.4)?;
        let linear = bright.f_where_self(&rgb.f_gt(0.04045)?, &rgb.f_div_scalar(12.92)?)?;
        let xyz = linear.f_matmul(&axes(&XYZ, rgb.device())?)?.f_div(&white(rgb.device())?)?;
        let root = xyz.f_clamp_min(0.008856)?.f_pow_tensor_scalar(1. / 3.)?;
        let dark = xyz.f_mul_scalar(7.787)?.f_add_scalar(16. / 116.)?;
        let f = root.f_where_self(&xyz.f_gt(0.008856)?, &dark)?;
        let [x, y, z] = [0, 1, 2].map(|axis| f.f_narrow(-1, axis, 1));
        let (x, y, z) = (x?, y?, z?);
        let lightness = y.f_mul_scalar(116)?.f_sub_scalar(16)?;
        let (a, b) = (x.f_sub(&y)?.f_mul_scalar(500)?, y.f_sub(&z)?.f_mul_scalar(200)?);
        Ok(Tensor::f_cat(&[lightness, a, b], -1)?)
    })
}

/// The inverse of [`to_lab`]; what no screen shows becomes the nearest number from 0 to 1 in each channel.
///
/// # Shapes
/// `lab`: `[B, 3, ..]`; returns the same.
pub(crate) fn from_lab(lab: &Tensor) -> Result<Tensor> {
    by_color(lab, |lab| {
        let [lightness, a, b] = [0, 1, 2].map(|axis| lab.f_narrow(-1, axis, 1));
        let y = lightness?.f_add_scalar(16)?.f_div_scalar(116)?;
        let (x, z) = (a?.f_div_scalar(500)?.f_add(&y)?, y.f_sub(&b?.f_div_scalar(200)?)?);
        let f = Tensor::f_cat(&[x, y, z], -1)?;
        let dark = f.f_sub_scalar(16. / 116.)?.f_div_scalar(7.787)?;
        let xyz = f.f_pow_tensor_scalar(3)?.f_where_self(&f.f_gt(0.2068966)?, &dark)?;
        let linear = xyz.f_mul(&white(lab.device())?)?.f_matmul(&axes(&RGB, lab.device())?)?;
        let bright = linear
            .f_clamp_min(0.)?
            .f_pow_tensor_scalar(1. / 2.4)?
            .f_mul_scalar(1.055)?
            .f_sub_scalar(0.055)?;
        let rgb = bright.f_where_self(&linear.f_gt(0.0031308)?, &linear.f_mul_scalar(12.92)?)?;
        Ok(rgb.f_clamp(0., 1.)?)
    })
}

/// The colors a screen shows, of any lightness, on a grid of a and b.
#[derive(Debug)]
pub(crate) struct Palette {
    /// `[Q, 2]`.
    colors: Tensor,
}

/// Colors as parts of some of a palette, nearest first.
pub(crate) struct Soft {
    /// Numbers in the palette. `[N, 5]`.
    pub(crate) index: Tensor,
    /// Parts, which sum to 1. `[N, 5]`.
    pub(crate) part: Tensor,
}

impl Palette {
    pub(crate) fn new(device: Device) -> Result<Self> {
        let shades = Tensor::f_linspace(0., 1., SHADES, (Kind::Float, Device::Cpu))?;
        let all = Tensor::f_cartesian_prod(&[&shades, &shades, &shades])?; // [33^3, 3].
        let cells = to_lab(&all)?.f_narrow(1, 1, 2)?.f_div_scalar(STEP)?.f_round()?;
        let (cells, _, _) = cells.f_unique_dim(0, true, false, false)?;
        Ok(Palette { colors: cells.f_mul_scalar(STEP)?.f_to_device(device)? })
    }

    /// How many colors there are.
    pub(crate) fn len(&self) -> i64 {
        self.colors.size().first().copied().unwrap_or(0)
    }

    /// The distribution that has all colors alike. `[Q]`.
    pub(crate) fn uniform(&self) -> Result<Tensor> {
        Ok(Tensor::f_full([self.len()], 1. / self.len() as f64, (Kind::Float, self.colors.device()))?)
    }

    /// Colors by their nearest in the palette, the nearer the more.
    ///
    /// # Shapes
    /// `ab`: `[N, 2]`.
    ///
    /// # Source
    /// Zhang et al., 2016, section 2.1: <https://arxiv.org/abs/1603.08511>.
    pub(crate) fn soften(&self, ab: &Tensor) -> Result<Soft> {
        Precision::Fp32.scope(ab.device(), || {
            let (distance, index) =
                Tensor::f_cdist(ab, &self.colors, 2., 2)?.f_topk(NEAREST, 1, false, true)?;
            // Less the least, lest all of a far color be rounded to 0.
            let square = distance.f_square()?;
            let square = square.f_sub(&square.f_narrow(1, 0, 1)?)?;
            let part = square.f_div_scalar(-2. * SIGMA * SIGMA)?.f_exp()?;
            let sum = part.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
            Ok(Soft { index, part: part.f_div(&sum)? })
        })
    }

    /// The mean color of distributions over the palette.
    ///
    /// # Shapes
    /// `part`: `[B, Q, H, W]`; returns `[B, 2, H, W]`.
    pub(crate) fn mean(&self, part: &Tensor) -> Result<Tensor> {
        by_color(part, |part| Ok(part.f_matmul(&self.colors)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_have_the_axes_that_scikit_image_gives_and_come_back() {
        // Red, green, blue, white, a dark and a mixed color, by the formula of rgb2lab in numpy.
        let rgb = [1f32, 0., 0., 0., 1., 0., 0., 0., 1., 1., 1., 1., 0.02, 0.01, 0.03, 0.2, 0.5, 0.7];
        let expected = [
            53.2406, 80.0923, 67.2028, 87.7351, -86.183, 83.1797, 32.2957, 79.1856, -107.8573, 100., -0.0025,
            0.0047, 0.9487, 1.3759, -1.6949, 50.972, -6.3982, -33.7093,
        ];
        let x = Tensor::from_slice(&rgb).view([6, 3]);
        let lab = to_lab(&x).unwrap();
        let found = Vec::<f32>::try_from(lab.view(-1)).unwrap();
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-3), "{found:?}");
        assert!(from_lab(&lab).unwrap().allclose(&x, 0., 1e-4, false));
        let images = x.view([2, 3, 3, 1]).permute([0, 2, 1, 3]);
        assert!(
            to_lab(&images).unwrap().permute([0, 2, 3, 1]).reshape([6, 3]).allclose(&lab, 0., 1e-6, false)
        );
    }

    #[test]
    fn gray_has_no_hue() {
        let gray = Tensor::arange(11, (Kind::Float, Device::Cpu)).view([11, 1]).repeat([1, 3]) / 10.;
        let lab = to_lab(&gray).unwrap();
        assert!(f64::try_from(lab.narrow(1, 1, 2).abs().max()).unwrap() < 0.02, "{lab:?}");
    }

    #[test]
    fn a_palette_has_each_color_that_a_screen_shows_once() {
        let palette = Palette::new(Device::Cpu).unwrap();
        assert_eq!(palette.len(), 259);
        let colors: Vec<f32> = Vec::try_from(palette.colors.view(-1)).unwrap();
        assert!(colors.iter().all(|x| x % 10. == 0.));
        let has = |a: f32, b: f32| colors.chunks(2).filter(|c| c == &[a, b]).count();
        // Gray, and blue; no green is as far from gray.
        assert_eq!([has(0., 0.), has(80., -110.), has(-110., 110.)], [1, 1, 0]);
    }

    #[test]
    fn a_color_is_parts_of_its_nearest_and_their_mean_is_near() {
        let palette = Palette::new(Device::Cpu).unwrap();
        let ab = Tensor::from_slice(&[0f32, 0., 3., -4., 500., 500.]).view([3, 2]);
        let Soft { index, part } = palette.soften(&ab).unwrap();
        let color = |n: i64, k: i64| {
            let color = palette.colors.get(index.int64_value(&[n, k]));
            [color.double_value(&[0]), color.double_value(&[1])]
        };
        assert_eq!(color(0, 0), [0., 0.]);
        // Of gray and its four neighbors at a distance of two deviations.
        let slow = 1. / (1. + 4. * (-2f64).exp());
        assert!((part.double_value(&[0, 0]) - slow).abs() < 1e-5);
        for n in 0..3 {
            let parts: Vec<f64> = (0..5).map(|k| part.double_value(&[n, k])).collect();
            assert!(
                (parts.iter().sum::<f64>() - 1.).abs() < 1e-5 && parts.is_sorted_by(|a, b| a >= b),
                "{parts:?}"
            );
        }
        let whole = Tensor::zeros([3, palette.len()], (Kind::Float, Device::Cpu)).scatter(1, &index, &part);
        let mean = palette.mean(&whole.view([3, -1, 1, 1])).unwrap().view([3, 2]);
        assert!(f64::try_from((mean - ab).narrow(0, 0, 2).abs().max()).unwrap() < 2.);
    }
}
