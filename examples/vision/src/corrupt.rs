//! Images made worse, at five severities.
//!
//! Source: Hendrycks & Dietterich, 2019: <https://arxiv.org/abs/1903.12261>; the numbers are those of their ImageNet-C, and
//! of their CIFAR-10-C where no side is longer than 64 pixels.
use ssl_core::{Result, dims4};
use ssl_examples::{noise_like, strength_of};
use tch::{Kind, Tensor};

/// What can be done to images.
pub(crate) const NAMES: [&str; 3] = ["gaussian_noise", "gaussian_blur", "contrast"];
/// The longest side of small images, in pixels.
const SMALL: i64 = 64;

/// In the order of the names, from mild to severe: the deviation of the noise, of full scale; that of the blur, in pixels;
/// what is left of the contrast.
type Strengths = [[f64; 5]; 3];
const OF_SMALL: Strengths =
    [[0.04, 0.06, 0.08, 0.09, 0.1], [0.4, 0.6, 0.7, 0.8, 1.], [0.75, 0.5, 0.4, 0.3, 0.15]];
const OF_LARGE: Strengths =
    [[0.08, 0.12, 0.18, 0.26, 0.38], [1., 2., 3., 4., 6.], [0.4, 0.3, 0.2, 0.1, 0.05]];

/// Images at a severity from 1 to 5; `indices` are their numbers, to which the noise belongs.
///
/// # Shapes
/// `x`: `[B, C, H, W]`, of full scale 1; returns the same.
pub(crate) fn corrupt(
    x: &Tensor,
    name: &str,
    severity: usize,
    (indices, seed): (&[usize], u64),
) -> Result<Tensor> {
    let (_, _, height, width) = dims4(x, "images", "[B, C, H, W]")?;
    let table = if height.max(width) <= SMALL { OF_SMALL } else { OF_LARGE };
    let strength = strength_of((&NAMES, &table), name, severity)?;
    let worse = match name {
        "gaussian_noise" => x.f_add(&noise_like(x, indices, seed)?.f_mul_scalar(strength)?)?,
        "gaussian_blur" => blurred(x, strength)?,
        _ => {
            let mean = x.f_mean_dim([2i64, 3].as_slice(), true, Kind::Float)?;
            x.f_sub(&mean)?.f_mul_scalar(strength)?.f_add(&mean)?
        }
    };
    Ok(worse.f_clamp(0., 1.)?)
}

/// A Gaussian that is cut off at four deviations; the edges are repeated.
fn blurred(x: &Tensor, deviation: f64) -> Result<Tensor> {
    let radius = (4. * deviation + 0.5) as i64;
    let places = Tensor::f_arange_start(-radius, radius + 1, (Kind::Float, x.device()))?;
    let weights = places.f_square()?.f_div_scalar(-2. * deviation * deviation)?.f_exp()?;
    let weights = weights.f_div(&weights.f_sum(Kind::Float)?)?;
    let [batch, channels, height, width] = x.size()[..] else { return Ok(x.shallow_clone()) };
    let planes = x.f_reshape([batch * channels, 1, height, width])?;
    let padded = planes.f_replication_pad2d([radius, radius, radius, radius])?;
    let along = |x: &Tensor, shape: [i64; 4]| {
        x.f_conv2d(&weights.f_view(shape)?, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)
    };
    let rows = along(&padded, [1, 1, 1, -1])?;
    Ok(along(&rows, [1, 1, -1, 1])?.f_view([batch, channels, height, width])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn images(side: i64) -> Tensor {
        Tensor::arange(2 * side * side, (Kind::Float, Device::Cpu)).square().sin().view([2, 1, side, side])
            * 0.2
            + 0.5
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).square().mean(Kind::Double).double_value(&[]).sqrt()
    }

    #[test]
    fn every_corruption_gets_worse_and_keeps_the_scale() {
        for (name, side) in NAMES.into_iter().flat_map(|name| [(name, 16), (name, 80)]) {
            let x = images(side);
            let far: Vec<f64> = (1..=5)
                .map(|severity| apart(&corrupt(&x, name, severity, (&[0, 1], 0)).unwrap(), &x))
                .collect();
            assert!(far[0] > 0. && far.windows(2).all(|pair| pair[0] < pair[1]), "{name} {side}: {far:?}");
            let worst = corrupt(&x, name, 5, (&[0, 1], 0)).unwrap();
            assert_eq!(worst.size(), x.size());
            assert!(worst.min().double_value(&[]) >= 0. && worst.max().double_value(&[]) <= 1.);
        }
    }

    #[test]
    fn the_strengths_are_those_of_the_paper() {
        let noisy = apart(&corrupt(&images(64), "gaussian_noise", 3, (&[0, 1], 0)).unwrap(), &images(64));
        assert!((noisy - 0.08).abs() < 0.002, "{noisy}");
        let x = images(16);
        let flat = corrupt(&x, "contrast", 2, (&[0, 1], 0)).unwrap();
        let deviation = |x: &Tensor| x.std_dim([2i64, 3].as_slice(), false, true);
        assert!(deviation(&flat).allclose(&(deviation(&x) * 0.5), 1e-4, 1e-6, false));
        // An impulse becomes the Gaussian itself: the one of scipy.ndimage.gaussian_filter1d(x, 1) at its middle.
        let point = Tensor::zeros([1, 1, 15, 15], (Kind::Float, Device::Cpu));
        let _ = point.get(0).get(0).get(7).get(7).fill_(1.);
        let spread = corrupt(&point, "gaussian_blur", 5, (&[0], 0)).unwrap();
        let middle = spread.double_value(&[0, 0, 7, 7]);
        assert!((middle - 0.398_943_5f64.powi(2)).abs() < 1e-4, "{middle}");
        assert!((spread.sum(Kind::Double).double_value(&[]) - 1.).abs() < 1e-5);
    }

    #[test]
    fn what_happens_to_an_image_belongs_to_its_number() {
        let x = images(16);
        let both = corrupt(&x, "gaussian_noise", 1, (&[4, 9], 0)).unwrap();
        let second = corrupt(&x.narrow(0, 1, 1), "gaussian_noise", 1, (&[9], 0)).unwrap();
        assert!(both.narrow(0, 1, 1).equal(&second));
        assert!(!corrupt(&x, "gaussian_noise", 1, (&[4, 9], 1)).unwrap().equal(&both));
        for (name, severity) in [("fog", 1), ("contrast", 0), ("contrast", 6)] {
            let message = corrupt(&x, name, severity, (&[4, 9], 0)).unwrap_err().to_string();
            let expected = format!(
                "gaussian_noise, gaussian_blur, contrast at a severity from 1 to 5, got {name} at {severity}"
            );
            assert!(message.ends_with(&expected), "{message}");
        }
    }
}
