//! SIGReg: embeddings are drawn to an isotropic Gaussian, by tests of normality along random directions.
//!
//! The gradient is written down, as in `nt_xent`, and summed up frequency by frequency: cosines and sines of all
//! frequencies together would need as many copies of all projections.
//!
//! Source: Balestriero & LeCun, 2025: <https://arxiv.org/abs/2511.08544>; the test is that of Epps & Pulley, 1983:
//! <https://doi.org/10.1093/biomet/70.3.723>.
use super::{product, with_gradients};
use crate::tensor::at_least_float;
use crate::{Error, Result, check, dims2, dims3, no_grad};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// At which frequencies the characteristic functions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SigReg {
    /// Frequencies from 0 to the greatest, both included, at equal distances.
    pub knots: u32,
    /// The greatest frequency, in radians per unit of a projection.
    pub t_max: f64,
}

impl Default for SigReg {
    fn default() -> Self {
        SigReg { knots: 17, t_max: 3. }
    }
}

impl SigReg {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        check::at_least(2, [("knots", i64::from(self.knots))])?;
        check::positive("t_max", self.t_max)
    }
}

/// The Epps-Pulley statistic of each view's projections on each direction, their mean: B times the integral from
/// `-t_max` to `t_max` of the squared distance between the empirical characteristic function and the standard normal
/// one, weighed by the latter. It is 0 for no finite sample, and about 1 for one that is normal.
///
/// The integrand is even, so that the trapezoids from 0 on count twice.
///
/// # Shapes
/// `views`: `[V, B, D]`; `directions`: `[D, S]`, columns of unit length, constants. Returns a scalar, at least float32,
/// once differentiable.
///
/// # Errors
/// `Error::Shape` when the shapes do not fit or a dimension is 0, `Error::Config` when a number of `grid` is out of range.
///
/// # Source
/// Balestriero & LeCun, 2025, section 4: <https://arxiv.org/abs/2511.08544>, with the frequencies of the official code
/// (`rbalestr-lab/lejepa`, `EppsPulley`); equals lightly's `SIGReg` from 1.6.0 on, where the trapezoids count twice.
pub fn sigreg(views: &Tensor, directions: &Tensor, grid: SigReg) -> Result<Tensor> {
    let (n_views, batch, dim) = dims3(views, "views", "[V, B, D]")?;
    let (rows, slices) = dims2(directions, "directions", "[D, S]")?;
    grid.validate()?;
    if n_views < 1 || batch < 1 || dim < 1 {
        let expected = "[V, B, D] with all above 0".to_string();
        return Err(Error::Shape { what: "views".into(), expected, got: views.size() });
    }
    if rows != dim || slices < 1 {
        let expected = format!("[{dim}, S] with S above 0");
        return Err(Error::Shape { what: "directions".into(), expected, got: directions.size() });
    }
    let views = at_least_float(views)?;
    let (value, gradient) = no_grad(|| -> Result<_> {
        let directions = directions.f_to_kind(views.kind())?;
        let along = product(&views.f_reshape([-1, dim])?, &directions)?.f_view([n_views, batch, slices])?;
        let (value, to_along) = statistic(&along, grid)?;
        let gradient = product(&to_along.f_view([-1, slices])?, &directions.f_tr()?)?;
        Ok((value, gradient.f_view([n_views, batch, dim])?))
    })?;
    let of = if views.requires_grad() { vec![(&views, &gradient)] } else { Vec::new() };
    with_gradients(&value, &of)
}

/// The statistic of projections `[V, B, S]` and its gradient.
fn statistic(along: &Tensor, grid: SigReg) -> Result<(Tensor, Tensor)> {
    let kind = along.kind();
    let (n_views, batch, slices) = dims3(along, "projections", "[V, B, S]")?;
    let spacing = grid.t_max / f64::from(grid.knots - 1);
    let tests = (n_views * slices) as f64;
    let mut value = Tensor::f_zeros([0i64; 0], (kind, along.device()))?;
    let mut gradient = along.f_zeros_like()?;
    // At 0 every characteristic function is 1.
    for knot in 1..grid.knots {
        let t = f64::from(knot) * spacing;
        let normal = (-t * t / 2.).exp();
        let width = if knot + 1 == grid.knots { spacing } else { 2. * spacing };
        let weight = width * normal;
        let phase = along.f_mul_scalar(t)?;
        let (cos, sin) = (phase.f_cos()?, phase.f_sin()?);
        let gap = cos.f_mean_dim([1i64].as_slice(), true, kind)?.f_sub_scalar(normal)?; // [V, 1, S].
        let odd = sin.f_mean_dim([1i64].as_slice(), true, kind)?;
        let squares = gap.f_square()?.f_add(&odd.f_square()?)?.f_sum(kind)?;
        let _ = value.f_add_(&squares.f_mul_scalar(weight * batch as f64 / tests)?)?;
        let slope = cos.f_mul(&odd)?.f_sub(&sin.f_mul(&gap)?)?;
        let _ = gradient.f_add_(&slope.f_mul_scalar(2. * t * weight / tests)?)?;
    }
    Ok((value, gradient))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{value, view};
    use tch::{Device, Kind};

    fn directions(dim: i64, slices: i64) -> Tensor {
        let x = view([dim, slices], 0.4);
        &x / x.norm_scalaropt_dim(2, [0i64], true)
    }

    fn views() -> Tensor {
        Tensor::stack(&[view([7, 5], 0.), view([7, 5], 1.) * 2.], 0)
    }

    /// The definition, number by number, by the trapezoids of the whole interval.
    fn slow(views: &Tensor, directions: &Tensor, grid: SigReg) -> f64 {
        let along = views.matmul(directions);
        let [n_views, batch, slices] = along.size()[..] else { panic!() };
        let last = i64::from(grid.knots) - 1;
        let spacing = grid.t_max / last as f64;
        let mut sum = 0.;
        for (v, s) in (0..n_views).flat_map(|v| (0..slices).map(move |s| (v, s))) {
            for knot in -last..=last {
                let t = knot as f64 * spacing;
                let normal = (-t * t / 2.).exp();
                let mean = |f: fn(f64) -> f64| {
                    (0..batch).map(|i| f(t * along.double_value(&[v, i, s]))).sum::<f64>() / batch as f64
                };
                let half = if knot.abs() == last { 0.5 } else { 1. };
                sum += half
                    * spacing
                    * normal
                    * batch as f64
                    * ((mean(f64::cos) - normal).powi(2) + mean(f64::sin).powi(2));
            }
        }
        sum / (n_views * slices) as f64
    }

    #[test]
    fn it_is_the_integral_over_the_whole_interval() {
        for grid in [SigReg::default(), SigReg { knots: 4, t_max: 5. }] {
            let found = value(&sigreg(&views(), &directions(5, 3), grid).unwrap());
            let expected = slow(&views(), &directions(5, 3), grid);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn its_gradient_is_that_of_its_value() {
        let x = views().set_requires_grad(true);
        let (grid, directions) = (SigReg::default(), directions(5, 3));
        (sigreg(&x, &directions, grid).unwrap() * 3.).backward();
        for place in [[0, 0, 0], [1, 3, 2], [1, 6, 4]] {
            let moved = |by: f64| {
                let y = x.detach().copy();
                let _ = y.get(place[0]).get(place[1]).get(place[2]).f_add_scalar_(by).unwrap();
                value(&sigreg(&y, &directions, grid).unwrap())
            };
            let expected = 3. * (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((x.grad().double_value(&place) - expected).abs() < 1e-7, "{place:?}");
        }
    }

    #[test]
    fn a_normal_sample_costs_least_and_a_collapsed_one_most() {
        crate::trainer::seed_torch(0, 0);
        let directions = Tensor::randn([5, 16], (Kind::Float, Device::Cpu));
        let directions = &directions / directions.norm_scalaropt_dim(2, [0i64], true);
        let x = Tensor::randn([1, 500, 5], (Kind::Float, Device::Cpu));
        let of = |x: &Tensor| value(&sigreg(x, &directions, SigReg::default()).unwrap());
        assert!(of(&x) < 2., "{}", of(&x));
        for other in [&x * 2., &x * 0.5, &x + 1., &x * 0.] {
            assert!(of(&other) > 5. * of(&x), "{}", of(&other));
        }
        // At one point the distance is the greatest: 1 less the normal function, squared, times the size.
        assert!(of(&(&x * 0.)) > of(&(&x * 0.5)));
    }

    #[test]
    fn mixed_precision_around_the_loss_does_not_touch_its_products() {
        let (x, directions) = (views().to_kind(Kind::Float), directions(5, 3));
        let plain = value(&sigreg(&x, &directions, SigReg::default()).unwrap());
        let _scope = ssl_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(value(&sigreg(&x, &directions, SigReg::default()).unwrap()), plain);
        let half = sigreg(&x.to_kind(Kind::BFloat16), &directions, SigReg::default()).unwrap();
        assert_eq!(half.kind(), Kind::Float);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |x: &Tensor, d: &Tensor, grid| sigreg(x, d, grid).unwrap_err().to_string();
        let (x, d, grid) = (views(), directions(5, 3), SigReg::default());
        assert_eq!(message(&x.select(0, 0), &d, grid), "views: expected [V, B, D], got [7, 5]");
        assert_eq!(
            message(&x, &directions(4, 3), grid),
            "directions: expected [5, S] with S above 0, got [4, 3]"
        );
        assert!(message(&x.narrow(1, 0, 0), &d, grid).contains("all above 0"));
        assert_eq!(message(&x, &d, SigReg { knots: 1, ..grid }), "knots: expected at least 2, got 1");
        assert_eq!(
            message(&x, &d, SigReg { t_max: -1., ..grid }),
            "t_max: expected a number above 0, got -1"
        );
    }
}
