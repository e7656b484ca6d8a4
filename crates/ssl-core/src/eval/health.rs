//! How healthy a representation is, without labels: rank, spread, uniformity; and when it has collapsed.
use super::features::blocks;
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Pairs of examples held at a time: 16 MiB.
const PAIRS: i64 = 1 << 21;

/// RankMe: the exponential of the entropy of the normalized singular values, from 1 (collapsed) to the lesser of N and
/// `D`.
///
/// The singular values are roots of the eigenvalues of the `D x D` second moments in double precision, some ten
/// times faster than a decomposition of the features and the same to six digits.
///
/// # Shapes
/// `x`: `[N, D]`, not centred; more rows than columns are needed for a full rank.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix; `Error::Torch` when the decomposition fails, as on NaN.
///
/// # Source
/// Garrido et al., 2023, equations 1 and 2, epsilon 1e-7: <https://arxiv.org/abs/2210.02885>.
pub fn rankme(x: &Tensor) -> Result<f64> {
    let (n, d) = dims2(x, "features", "[N, D]")?;
    no_grad(|| {
        let mut moments = Tensor::f_zeros([d, d], (Kind::Double, x.device()))?;
        for block in blocks(x, 4096) {
            let block = block?.f_to_kind(Kind::Double)?;
            moments = moments.f_add(&block.f_tr()?.f_matmul(&block)?)?;
        }
        // In increasing order; features of fewer rows than columns have no more singular values than rows.
        let all = moments.f_linalg_eigvalsh("L")?;
        let singular = all.f_narrow(0, d - n.min(d), n.min(d))?.f_clamp_min(0.)?.f_sqrt()?;
        let p = singular.f_div(&singular.f_sum(Kind::Double)?.f_clamp_min(1e-300)?)?.f_add_scalar(1e-7)?;
        let entropy = p.f_mul(&p.f_log()?)?.f_sum(Kind::Double)?.f_neg()?;
        Ok(f64::try_from(entropy.f_exp()?)?)
    })
}

/// Mean squared distance between the unit features of two views of the same examples; 0 is perfect.
///
/// [`evaluate`](super::evaluate) sees one view of each example: a method reports it in
/// [`Method::validate`](crate::Method::validate).
///
/// # Shapes
/// `a`, `b`: `[N, D]`, unit length not required.
///
/// # Source
/// Wang & Isola, 2020, section 4.1.1, exponent 2: <https://arxiv.org/abs/2005.10242>.
pub fn alignment(a: &Tensor, b: &Tensor) -> Result<f64> {
    dims2(a, "first view", "[N, D]")?;
    if a.size() != b.size() {
        let (what, expected) = ("second view".to_string(), format!("{:?}, as the first", a.size()));
        return Err(Error::Shape { what, expected, got: b.size() });
    }
    no_grad(|| {
        let gap = l2_normalize(a)?.f_sub(&l2_normalize(b)?)?.f_square()?;
        let distance = gap.f_sum_dim_intlist(-1, false, Kind::Double)?.f_mean(Kind::Double)?;
        Ok(f64::try_from(distance)?)
    })
}

/// How often the nearest second view, by cosine similarity, is the example's own, as a tensor on the device; chance is
/// one in the number of examples.
///
/// # Shapes
/// `a`, `b`: `[N, D]`, unit length not required; returns a scalar.
///
/// # Errors
/// `Error::Shape` when the views are not of one shape.
pub fn retrieval(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (n, _) = dims2(a, "first view", "[N, D]")?;
    if a.size() != b.size() {
        let (what, expected) = ("second view".to_string(), format!("{:?}, as the first", a.size()));
        return Err(Error::Shape { what, expected, got: b.size() });
    }
    no_grad(|| {
        let nearest = l2_normalize(a)?.f_matmul(&l2_normalize(b)?.f_tr()?)?.f_argmax(-1, false)?;
        let own = Tensor::f_arange(n, (Kind::Int64, a.device()))?;
        Ok(nearest.f_eq_tensor(&own)?.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?)
    })
}

/// How far projections of unit length are from being all the same, as a tensor on the device: the mean deviation of their
/// dimensions over the batch times the root of their number. Near 1 for random directions, 0 when they have collapsed.
///
/// # Shapes
/// `z`: `[B, D]`, unit length not required; returns a scalar.
///
/// # Errors
/// `Error::Shape` unless `z` is a matrix.
///
/// # Source
/// Chen, He, 2021, section 4.1 and figure 2, where it is not multiplied: <https://arxiv.org/abs/2011.10566>.
pub fn spread(z: &Tensor) -> Result<Tensor> {
    let (_, width) = dims2(z, "projections", "[B, D]")?;
    let deviation = l2_normalize(z)?.f_std_dim([0i64].as_slice(), false, false)?;
    Ok(deviation.f_mean(Kind::Float)?.f_mul_scalar((width as f64).sqrt())?)
}

/// Logarithm of the mean Gaussian potential between unit features; 0 is collapsed, lower is more uniform.
///
/// # Shapes
/// `x`: `[N, D]`, unit length not required; all pairs are taken, so some thousands of rows suffice.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix of two rows or more.
///
/// # Source
/// Wang & Isola, 2020, section 4.1.2, t = 2: <https://arxiv.org/abs/2005.10242>.
pub fn uniformity(x: &Tensor) -> Result<f64> {
    let (n, _) = dims2(x, "features", "[N, D]")?;
    if n < 2 {
        let expected = "[N, D] of two rows or more".to_string();
        return Err(Error::Shape { what: "features".into(), expected, got: x.size() });
    }
    let _guard = tch::no_grad_guard();
    let unit = l2_normalize(x)?.f_to_kind(Kind::Double)?;
    let mut potential = 0.;
    for block in blocks(&unit, (PAIRS / n).max(1)) {
        // |a - b|² = 2 - 2 a·b on the unit sphere, times -t.
        let exponent = block?.f_matmul(&unit.f_tr()?)?.f_sub_scalar(1.)?.f_mul_scalar(4.)?;
        potential += f64::try_from(exponent.f_exp()?.f_sum(Kind::Double)?)?;
    }
    // Every example beside itself counts 1 and is left out.
    let pairs = (n * (n - 1)) as f64;
    Ok(((potential - n as f64) / pairs).max(f64::MIN_POSITIVE).ln())
}

/// Mean deviation of the dimensions of unit features: 0 is collapsed, `1 / sqrt(D)` is spread over the sphere.
///
/// # Shapes
/// `x`: `[N, D]`.
///
/// # Source
/// Chen & He, 2021, section 4.1: <https://arxiv.org/abs/2011.10566>.
pub fn feature_deviation(x: &Tensor) -> Result<f64> {
    dims2(x, "features", "[N, D]")?;
    no_grad(|| {
        let deviation = l2_normalize(x)?.f_std_dim(0i64, false, false)?.f_mean(Kind::Double)?;
        Ok(f64::try_from(deviation)?)
    })
}

/// What tells a collapsed representation from a sound one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Health {
    /// [`feature_deviation`] as a part of `1 / sqrt(D)`, what features spread over the sphere have.
    pub deviation: f64,
    /// [`rankme`].
    pub rankme: f64,
}

impl Health {
    /// Measures a batch of embeddings.
    ///
    /// # Shapes
    /// `x`: `[N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` unless `x` is a matrix.
    pub fn of(x: &Tensor) -> Result<Self> {
        let (_, d) = dims2(x, "features", "[N, D]")?;
        Ok(Health { deviation: feature_deviation(x)? * (d as f64).sqrt(), rankme: rankme(x)? })
    }
}

/// The floors under which a representation counts as collapsed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollapseAlarm {
    /// Least deviation, as a part of `1 / sqrt(D)`.
    pub min_deviation: f64,
    /// Least RankMe.
    pub min_rankme: f64,
}

impl Default for CollapseAlarm {
    /// A hundredth of the spread of the sphere, and a rank of 1.5: sound encoders, and random ones, stay far above.
    fn default() -> Self {
        CollapseAlarm { min_deviation: 0.01, min_rankme: 1.5 }
    }
}

impl CollapseAlarm {
    /// Which floor is undercut, if any: that of the deviation comes first. A measure that is not a number undercuts its
    /// floor.
    pub fn check(&self, health: &Health) -> Option<String> {
        let (deviation, rankme) = (health.deviation, health.rankme);
        if deviation.is_nan() || deviation < self.min_deviation {
            return Some(format!("feature deviation {deviation:.4} is under {}", self.min_deviation));
        }
        (rankme.is_nan() || rankme < self.min_rankme)
            .then(|| format!("RankMe {rankme:.2} is under {}", self.min_rankme))
    }

    /// Whether fewer of `number` things are in use than a hundredth of them, or than the least RankMe, of which the same
    /// is true: both are exponentials of an entropy. A measure that is not a number is under the floor.
    pub fn check_in_use(&self, name: &str, value: f64, number: f64) -> Option<String> {
        let floor = self.min_rankme.max(number / 100.);
        (value.is_nan() || value < floor).then(|| format!("{name} {value:.2} of {number} is under {floor}"))
    }

    /// Whether projections are nearly the same, of which [`spread`] is a tenth or less. A measure that is not a number is
    /// none.
    pub fn check_spread(&self, name: &str, value: f64) -> Option<String> {
        let floor = 10. * self.min_deviation;
        (value.is_nan() || value < floor).then(|| format!("{name} {value:.4} is under {floor}"))
    }

    /// Whether the other view of an example is found among `examples` no more often than twice by chance. A measure that
    /// is not a number is by chance.
    pub fn check_retrieval(&self, name: &str, value: f64, examples: i64) -> Option<String> {
        let chance = 1. / examples.max(1) as f64;
        let by_chance = examples > 2 && (value.is_nan() || value <= 2. * chance);
        by_chance.then(|| format!("{name} {value:.4} is not above twice the chance of {chance:.4}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn a_view_is_found_again_where_it_is_nearest() {
        let a = Tensor::from_slice(&[1f64, 0., 0., 1., -1., 0.]).view([3, 2]);
        let b = Tensor::from_slice(&[2f64, 0.1, 3., -0.2, -1., 0.]).view([3, 2]);
        let found = |a: &Tensor, b: &Tensor| f64::try_from(retrieval(a, b).unwrap()).unwrap();
        assert_eq!(found(&a, &a), 1.);
        // The second example's view has turned to the first's.
        assert!((found(&a, &b) - 2. / 3.).abs() < 1e-6);
        assert!(retrieval(&a, &b.narrow(0, 0, 2)).is_err());
    }

    #[test]
    fn rank_counts_equal_directions() {
        assert!((rankme(&Tensor::eye(5, CPU)).unwrap() - 5.).abs() < 1e-4);
        let one = Tensor::ones([6, 4], CPU);
        assert!((rankme(&one).unwrap() - 1.).abs() < 1e-4);
        // Singular values 2, 1, 1: p = 1/2, 1/4, 1/4, entropy 1.5 ln 2.
        let two = Tensor::from_slice(&[2f64, 1., 1.]).diag(0);
        assert!((rankme(&two).unwrap() - 2f64.powf(1.5)).abs() < 1e-4);
        // Columns of zeros add no singular value: there are only as many as rows.
        let wide = Tensor::cat(&[&two, &Tensor::zeros([3, 4000], CPU)], 1);
        assert!((rankme(&wide).unwrap() - rankme(&two).unwrap()).abs() < 1e-9, "{}", rankme(&wide).unwrap());
    }

    #[test]
    fn opposite_points_have_the_values_of_the_definitions() {
        let x = Tensor::from_slice(&[3f64, 0., -2., 0.]).view([2, 2]);
        // Distance 2, squared 4: exp(-2 * 4).
        close(uniformity(&x).unwrap(), -8.);
        close(alignment(&x, &x).unwrap(), 0.);
        close(alignment(&x, &-&x).unwrap(), 4.);
        // A third point at a right angle to both: squared distances 4, 2, 2.
        let three = Tensor::cat(&[&x, &Tensor::from_slice(&[0f64, 5.]).view([1, 2])], 0);
        close(uniformity(&three).unwrap(), (((-8f64).exp() + 2. * (-4f64).exp()) / 3.).ln());
        assert!(uniformity(&x.narrow(0, 0, 1)).is_err());
        // One dimension deviates by 1, the other by 0.
        close(feature_deviation(&x).unwrap(), 0.5);
    }

    #[test]
    fn the_alarm_names_the_floor_that_is_undercut() {
        let alarm = CollapseAlarm::default();
        let x = Tensor::arange(640, CPU).square().sin().view([64, 10]);
        assert_eq!(alarm.check(&Health::of(&x).unwrap()), None);
        let point = Tensor::ones([64, 10], CPU) + &x * 1e-4;
        let message = alarm.check(&Health::of(&point).unwrap()).unwrap();
        assert!(message.starts_with("feature deviation 0.00"), "{message}");
        let line = x.narrow(1, 0, 1) * Tensor::ones([1, 10], CPU);
        assert!(alarm.check(&Health::of(&line).unwrap()).unwrap().starts_with("RankMe 1.0"));
        let health = Health { deviation: f64::NAN, rankme: f64::NAN };
        assert!(alarm.check(&health).is_some());
    }

    #[test]
    fn few_codes_in_use_are_a_collapse_however_many_there_are() {
        let alarm = CollapseAlarm::default();
        let check = |value, number| alarm.check_in_use("code_perplexity", value, number);
        assert_eq!((check(1.5, 2.), check(3.2, 320.)), (None, None));
        assert_eq!(check(1.4, 2.).unwrap(), "code_perplexity 1.40 of 2 is under 1.5");
        assert_eq!(check(3.1, 320.).unwrap(), "code_perplexity 3.10 of 320 is under 3.2");
        assert!(check(f64::NAN, 320.).is_some());
    }

    #[test]
    fn the_spread_is_near_one_for_random_directions_and_zero_for_one_direction() {
        let random = Tensor::randn([400, 64], (Kind::Float, Device::Cpu));
        let of = |x: &Tensor| spread(x).unwrap().double_value(&[]);
        assert!((of(&random) - 1.).abs() < 0.02);
        let lengths = Tensor::arange_start(1, 9, (Kind::Float, Device::Cpu)).view([8, 1]);
        let one = of(&(random.narrow(0, 0, 1) * lengths));
        assert!(one < 1e-3);
        let alarm = CollapseAlarm::default();
        assert_eq!(
            (alarm.check_spread("spread", 0.11), alarm.check_spread("spread", of(&random))),
            (None, None)
        );
        assert_eq!(alarm.check_spread("spread", 0.05).unwrap(), "spread 0.0500 is under 0.1");
        assert!(
            alarm.check_spread("spread", one).is_some() && alarm.check_spread("spread", f64::NAN).is_some()
        );
    }

    #[test]
    fn views_found_again_by_chance_are_a_collapse() {
        let alarm = CollapseAlarm::default();
        let check = |value, examples| alarm.check_retrieval("retrieval", value, examples);
        assert_eq!((check(0.03, 100), check(0.5, 2)), (None, None));
        assert_eq!(check(0.02, 100).unwrap(), "retrieval 0.0200 is not above twice the chance of 0.0100");
        assert!(check(f64::NAN, 100).is_some());
    }

    #[test]
    fn views_of_different_shapes_are_an_error() {
        assert!(alignment(&Tensor::zeros([2, 3], CPU), &Tensor::zeros([1, 3], CPU)).is_err());
    }
}
