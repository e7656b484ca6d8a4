//! Whether one set of embeddings lies nearer to one of two attributes than another set does.
//!
//! Source: Caliskan, Bryson & Narayanan, 2017 (WEAT): <https://arxiv.org/abs/1608.07187>; May et al., 2019 (SEAT, the same
//! of sentences): <https://arxiv.org/abs/1903.10561>.
use super::stream;
use crate::nn::l2_normalize;
use crate::{Error, Result, check, dims2, no_grad, rng};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Sums that differ by less are equal: they were added in another order.
const ROUNDING: f64 = 1e-10;
/// Targets of which all partitions can be counted in 64 bits.
const MOST_COUNTED: usize = 62;

/// How the p-value is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeatOptions {
    /// All partitions of the targets are looked at, if they are no more.
    pub most_exact: u64,
    /// Else so many that are drawn at random.
    pub samples: u64,
    /// Seed of these.
    pub seed: u64,
}

impl Default for WeatOptions {
    fn default() -> Self {
        WeatOptions { most_exact: 200_000, samples: 100_000, seed: 0 }
    }
}

/// How differently two sets of targets are associated with two attributes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weat {
    /// The mean association of the first targets less that of the second, in standard deviations (divisor: targets less
    /// one) over all targets; within -2 and 2 for sets of one size. None where all targets are associated alike.
    pub effect_size: Option<f64>,
    /// The share of partitions of the targets into sets of these sizes whose first set is associated as much with the
    /// first attribute or more: one-sided.
    pub p_value: f64,
    /// Partitions looked at, the given one among them.
    pub partitions: u64,
    /// Whether these were all there are.
    pub is_exact: bool,
}

/// Measures how much more the targets `x` than the targets `y` are associated with the attribute `a` rather than `b`: an
/// embedding's association is its mean cosine with `a` less that with `b`.
///
/// Unlike in the paper, a partition that is associated as much counts too, as the given one always is, so that no p-value
/// is 0; so do the codes of May et al. The two sets of targets may differ in size.
///
/// # Shapes
/// `x`, `y`, `a`, `b`: `[N, D]`, each with its own N, unit length not required.
///
/// # Errors
/// `Error::Shape` when a set is empty or its width is another; `Error::Config` when there are fewer than 2 targets of
/// either kind, a number is not finite, or there is no sample.
///
/// # Source
/// Caliskan et al., 2017, the equations of the section on WEAT; Phipson & Smyth, 2010, for the p-value of drawn partitions:
/// <https://arxiv.org/abs/1603.05766>.
pub fn weat(x: &Tensor, y: &Tensor, a: &Tensor, b: &Tensor, options: &WeatOptions) -> Result<Weat> {
    let (_, width) = dims2(x, "first targets", "[N, D]")?;
    let names = ["first targets", "second targets", "first attribute", "second attribute"];
    for ((set, name), least) in [x, y, a, b].into_iter().zip(names).zip([2, 2, 1, 1]) {
        let (n, own) = dims2(set, name, "[N, D]")?;
        if n < least || own != width {
            let expected = format!("[N, {width}] with N of at least {least}");
            return Err(Error::Shape { what: name.into(), expected, got: set.size() });
        }
    }
    check::at_least(1, [("samples", i64::try_from(options.samples).unwrap_or(i64::MAX))])?;
    let [first, second] = associations([x, y], [a, b])?;
    let all = [first.as_slice(), &second].concat();
    if all.iter().any(|value| !value.is_finite()) {
        return Err(Error::config("embeddings", "expected finite numbers, got others"));
    }
    let partitions = choose(all.len() as u64, first.len() as u64);
    let exact = partitions.filter(|&count| count <= options.most_exact && all.len() <= MOST_COUNTED);
    let given: f64 = first.iter().sum();
    let (as_much, partitions) = match exact {
        Some(count) => (counted(&all, first.len(), given), count),
        None => (1 + drawn(&all, first.len(), given, options), 1 + options.samples),
    };
    Ok(Weat {
        effect_size: effect_size(&first, &second),
        p_value: as_much as f64 / partitions as f64,
        partitions,
        is_exact: exact.is_some(),
    })
}

/// The association of each target of both sets.
fn associations(targets: [&Tensor; 2], attributes: [&Tensor; 2]) -> Result<[Vec<f64>; 2]> {
    no_grad(|| {
        let unit = |x: &Tensor| l2_normalize(&x.f_to_kind(Kind::Double)?);
        let [a, b] = attributes.map(|set| -> Result<Tensor> {
            Ok(unit(set)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?)
        });
        let direction = a?.f_sub(&b?)?;
        let [first, second] = targets
            .map(|set| -> Result<Vec<f64>> { Ok(Vec::<f64>::try_from(unit(set)?.f_mv(&direction)?)?) });
        Ok([first?, second?])
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn effect_size(first: &[f64], second: &[f64]) -> Option<f64> {
    let all = [first, second].concat();
    let middle = mean(&all);
    let squares: f64 = all.iter().map(|value| (value - middle).powi(2)).sum();
    let deviation = (squares / (all.len() - 1) as f64).sqrt();
    (deviation > ROUNDING).then(|| (mean(first) - mean(second)) / deviation)
}

/// The number of ways to choose `k` of `n`; none above 64 bits.
fn choose(n: u64, k: u64) -> Option<u64> {
    (0..k)
        .try_fold(1u128, |ways, i| Some(ways.checked_mul(u128::from(n - i))? / u128::from(i + 1)))
        .and_then(|ways| ways.try_into().ok())
}

/// How many of all choices of `k` values sum to as much as `given`. What is compared needs no other sum: that of the rest
/// follows.
fn counted(values: &[f64], k: usize, given: f64) -> u64 {
    let end = 1u64 << values.len();
    let mut chosen = (1u64 << k) - 1;
    let mut count = 0;
    while chosen < end {
        let sum: f64 = values
            .iter()
            .enumerate()
            .filter(|(place, _)| (chosen >> place) & 1 == 1)
            .map(|(_, value)| value)
            .sum();
        count += u64::from(sum >= given - ROUNDING);
        // The next number with as many ones (Gosper).
        let low = chosen & chosen.wrapping_neg();
        let high = chosen + low;
        chosen = (((high ^ chosen) >> 2) / low) | high;
    }
    count
}

/// The same of choices drawn at random.
fn drawn(values: &[f64], k: usize, given: f64, options: &WeatOptions) -> u64 {
    let mut rng = rng(options.seed, &[stream::PARTITIONS]);
    let mut count = 0;
    for _ in 0..options.samples {
        let sum: f64 =
            sample(&mut rng, values.len(), k).into_iter().filter_map(|place| values.get(place)).sum();
        count += u64::from(sum >= given - ROUNDING);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::Device;

    fn cases() -> Vec<Value> {
        let golden: Value = serde_json::from_str(include_str!("../../tests/fixtures/bias.json")).unwrap();
        golden["weat"].as_array().unwrap().clone()
    }

    fn set(case: &Value, name: &str) -> Tensor {
        let flat: Vec<f64> = serde_json::from_value(case[name].clone()).unwrap();
        Tensor::from_slice(&flat).view([-1, 5])
    }

    fn measured(case: &Value, options: &WeatOptions) -> Weat {
        let [x, y, a, b] = ["x", "y", "a", "b"].map(|name| set(case, name));
        weat(&x, &y, &a, &b, options).unwrap()
    }

    #[test]
    fn effect_and_exact_p_value_equal_those_of_numpy() {
        assert_eq!(cases().len(), 2);
        for case in cases() {
            let found = measured(&case, &WeatOptions::default());
            let number = |name: &str| case[name].as_f64().unwrap();
            assert!((found.effect_size.unwrap() - number("effect_size")).abs() < 1e-12, "{found:?}");
            assert!((found.p_value - number("p_value")).abs() < 1e-12, "{found:?}");
            assert_eq!((found.partitions as f64, found.is_exact), (number("partitions"), true));
        }
    }

    #[test]
    fn drawn_partitions_come_near_the_exact_p_value_and_depend_on_the_seed() {
        let case = &cases()[0];
        let of = |seed| measured(case, &WeatOptions { most_exact: 10, samples: 2000, seed });
        let (exact, found) = (measured(case, &WeatOptions::default()), of(0));
        assert_eq!((found.partitions, found.is_exact), (2001, false));
        assert!((found.p_value - exact.p_value).abs() < 0.05, "{found:?} {exact:?}");
        assert_eq!(found.effect_size, exact.effect_size);
        assert!(found == of(0) && found.p_value != of(1).p_value);
    }

    #[test]
    fn targets_at_their_attributes_have_the_largest_effect_and_only_one_partition_is_as_good() {
        let [a, b] = [[1f32, 0.], [0., 1.]].map(|v| Tensor::from_slice(&v).view([1, 2]));
        let around =
            |v: &Tensor| v.repeat([4, 1]) + Tensor::arange(8, (Kind::Float, Device::Cpu)).view([4, 2]) * 0.01;
        let found = weat(&around(&a), &around(&b), &a, &b, &WeatOptions::default()).unwrap();
        assert!(found.effect_size.unwrap() > 1.8, "{found:?}");
        assert_eq!((found.p_value, found.partitions), (1. / 70., 70));
        let other = weat(&around(&b), &around(&a), &a, &b, &WeatOptions::default()).unwrap();
        assert!((other.effect_size.unwrap() + found.effect_size.unwrap()).abs() < 1e-9);
        assert_eq!(other.p_value, 1.);
    }

    #[test]
    fn collapsed_embeddings_have_no_effect() {
        let same = Tensor::ones([3, 2], (Kind::Float, Device::Cpu));
        let found = weat(&same, &same, &same, &same, &WeatOptions::default()).unwrap();
        assert_eq!((found.effect_size, found.p_value, found.partitions), (None, 1., 20));
    }

    #[test]
    fn large_sets_are_not_counted_out() {
        assert_eq!((choose(16, 8), choose(50, 25)), (Some(12_870), Some(126_410_606_437_752)));
        assert_eq!(choose(200, 100), None);
        let many = Tensor::arange(120, (Kind::Float, Device::Cpu)).sin().view([60, 2]);
        let found =
            weat(&many, &many, &many, &many, &WeatOptions { samples: 10, ..WeatOptions::default() }).unwrap();
        assert!(!found.is_exact && found.partitions == 11);
    }

    #[test]
    fn sets_that_do_not_fit_are_named() {
        let x = Tensor::ones([3, 2], (Kind::Float, Device::Cpu));
        let said =
            |y: &Tensor, b: &Tensor| weat(&x, y, &x, b, &WeatOptions::default()).unwrap_err().to_string();
        assert_eq!(said(&x.tr(), &x), "second targets: expected [N, 2] with N of at least 2, got [2, 3]");
        let one = x.narrow(0, 0, 1);
        assert_eq!(said(&one, &x), "second targets: expected [N, 2] with N of at least 2, got [1, 2]");
        let none = x.narrow(0, 0, 0);
        assert_eq!(said(&x, &none), "second attribute: expected [N, 2] with N of at least 1, got [0, 2]");
        assert_eq!(said(&x, &(&x * f64::NAN)), "embeddings: expected finite numbers, got others");
        let options = WeatOptions { samples: 0, ..WeatOptions::default() };
        assert_eq!(
            weat(&x, &x, &x, &x, &options).unwrap_err().to_string(),
            "samples: expected at least 1, got 0"
        );
    }
}
