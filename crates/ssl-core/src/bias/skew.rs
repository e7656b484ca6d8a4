//! Whether some groups are found more often than others: the groups among the first of ranked lists.
//!
//! Source: Geyik, Ambler & Kenthapadi, 2019, section 3: <https://arxiv.org/abs/1905.01989>.
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Queries times candidates of similarities held at a time: 64 MiB in single precision.
const BLOCK: i64 = 1 << 24;

/// How far the groups at the top of ranked lists are from the shares they should have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Skew {
    /// The logarithm of the share of the most favored group among the first k over its desired share, meaned over the
    /// lists: 0 where all groups have what they should.
    pub max_skew: f64,
    /// The Kullback-Leibler divergence, in nats, of the shares among the first i from the desired ones, over all i up to
    /// k with weights 1 / log2(i + 1), meaned over the lists: 0 where every beginning of a list has what it should.
    pub ndkl: f64,
    /// How many of each list were looked at.
    pub k: usize,
    /// Lists.
    pub lists: usize,
}

/// Compares the groups of the first `k` of each list with the share that each group should have.
///
/// # Errors
/// `Error::Config` when k is 0, there is no list, a list is shorter than k, the shares do not sum to 1, or a list has a
/// group whose share is 0.
///
/// # Source
/// Geyik et al., 2019, definitions 3.2 to 3.4.
pub fn skew(lists: &[Vec<i64>], desired: &[f64], k: usize) -> Result<Skew> {
    let total: f64 = desired.iter().sum();
    if (total - 1.).abs() > 1e-6 || desired.iter().any(|share| !(0. ..=1.).contains(share)) {
        return Err(Error::config("desired", format!("expected shares that sum to 1, got {desired:?}")));
    }
    if k == 0 || lists.is_empty() {
        let message = format!("expected at least one list of at least 1, got {} and k = {k}", lists.len());
        return Err(Error::config("lists", message));
    }
    let (mut max_skew, mut ndkl) = (0., 0.);
    for (place, list) in lists.iter().enumerate() {
        let Some(first) = list.get(..k) else {
            return Err(Error::config(
                "k",
                format!("expected at most {}, the length of list {place}, got {k}", list.len()),
            ));
        };
        let (most, divergence) = of_list(first, desired)?;
        max_skew += most;
        ndkl += divergence;
    }
    let count = lists.len() as f64;
    Ok(Skew { max_skew: max_skew / count, ndkl: ndkl / count, k, lists: lists.len() })
}

/// The skew of the most favored group of a list, and the weighted divergence of its beginnings.
fn of_list(list: &[i64], desired: &[f64]) -> Result<(f64, f64)> {
    let mut counts = vec![0.; desired.len()];
    let (mut divergence, mut weights) = (0., 0.);
    for (n, &group) in (1..).zip(list) {
        let place =
            usize::try_from(group).ok().filter(|&place| desired.get(place).is_some_and(|share| *share > 0.));
        let Some(count) = place.and_then(|place| counts.get_mut(place)) else {
            return Err(Error::config(
                "lists",
                format!("expected groups with a desired share, got group {group}"),
            ));
        };
        *count += 1.;
        let weight = 1. / f64::from(n + 1).log2();
        divergence += weight * logarithms(&counts, n, desired).map(|(share, log)| share * log).sum::<f64>();
        weights += weight;
    }
    let n = i32::try_from(list.len()).unwrap_or(i32::MAX);
    let most = logarithms(&counts, n, desired).map(|(_, log)| log).fold(f64::NEG_INFINITY, f64::max);
    Ok((most, divergence / weights))
}

/// The share of each group that is there, and its logarithm over the desired one.
fn logarithms(counts: &[f64], n: i32, desired: &[f64]) -> impl Iterator<Item = (f64, f64)> {
    let shares = counts.iter().map(move |count| count / f64::from(n));
    shares
        .zip(desired)
        .filter(|(share, _)| *share > 0.)
        .map(|(share, desired)| (share, (share / desired).ln()))
}

/// The share of each group, by its number from 0: what a ranking that knows no groups gives on average.
///
/// # Errors
/// `Error::Config` when there is no example or a group is negative.
pub fn group_shares(groups: &[i64]) -> Result<Vec<f64>> {
    let mut shares = Vec::new();
    for &group in groups {
        let place = usize::try_from(group).ok().filter(|place| *place < 1 << 20);
        let place =
            place.ok_or_else(|| Error::config("groups", format!("expected 0 to 1048575, got {group}")))?;
        if shares.len() <= place {
            shares.resize(place + 1, 0.);
        }
        if let Some(share) = shares.get_mut(place) {
            *share += 1. / groups.len() as f64;
        }
    }
    if shares.is_empty() {
        return Err(Error::config("groups", "expected at least one example, got none"));
    }
    Ok(shares)
}

/// The groups of the `k` candidates most similar to each query by cosine, nearest first.
///
/// # Shapes
/// `queries`: `[M, D]`, `candidates`: `[N, D]`, unit length not required; `groups`: N.
///
/// # Errors
/// `Error::Shape` when the widths differ; `Error::Config` when the number of groups is another, or k is not within 1 to N.
pub fn ranked_groups(queries: &Tensor, candidates: &Tensor, groups: &[i64], k: i64) -> Result<Vec<Vec<i64>>> {
    let ((_, own), (n, width)) =
        (dims2(queries, "queries", "[M, D]")?, dims2(candidates, "candidates", "[N, D]")?);
    if own != width {
        let expected = format!("[M, {width}] as the candidates");
        return Err(Error::Shape { what: "queries".into(), expected, got: queries.size() });
    }
    if groups.len() as i64 != n {
        return Err(Error::config(
            "groups",
            format!("expected {n}, one for each candidate, got {}", groups.len()),
        ));
    }
    if k < 1 || k > n {
        return Err(Error::config("k", format!("expected 1 to {n}, the candidates, got {k}")));
    }
    no_grad(|| {
        let memory = l2_normalize(candidates)?;
        let mut lists = Vec::new();
        for block in queries.f_split((BLOCK / n).max(1), 0)? {
            let near = l2_normalize(&block)?.f_matmul(&memory.f_tr()?)?.f_topk(k, 1, true, true)?.1;
            for row in Vec::<Vec<i64>>::try_from(near)? {
                lists.push(row.iter().filter_map(|&at| groups.get(at as usize).copied()).collect());
            }
        }
        Ok(lists)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn skew_and_divergence_equal_those_of_numpy() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/fixtures/bias.json")).unwrap();
        let cases = golden["skew"].as_array().unwrap();
        assert_eq!(cases.len(), 2);
        for case in cases {
            let lists: Vec<Vec<i64>> = serde_json::from_value(case["lists"].clone()).unwrap();
            let desired: Vec<f64> = serde_json::from_value(case["desired"].clone()).unwrap();
            let k = case["k"].as_u64().unwrap() as usize;
            let found = skew(&lists, &desired, k).unwrap();
            assert!((found.max_skew - case["max_skew"].as_f64().unwrap()).abs() < 1e-12, "{found:?}");
            assert!((found.ndkl - case["ndkl"].as_f64().unwrap()).abs() < 1e-12, "{found:?}");
            assert_eq!((found.k, found.lists), (k, 3));
        }
    }

    #[test]
    fn lists_with_the_desired_shares_have_no_skew() {
        let found = skew(&[vec![0, 1, 1, 0], vec![1, 0, 0, 1]], &[0.5, 0.5], 4).unwrap();
        assert!(
            found.max_skew.abs() < 1e-12 && found.ndkl > 0.,
            "the first of a list is of one group: {found:?}"
        );
        let one_sided = skew(&[vec![1; 4]], &[0.5, 0.5], 4).unwrap();
        assert!((one_sided.max_skew - 2f64.ln()).abs() < 1e-12 && (one_sided.ndkl - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn candidates_are_ranked_by_cosine() {
        let candidates = Tensor::from_slice(&[1f32, 0., 0., 9., 5., 5., -1., 0.]).view([4, 2]);
        let queries = Tensor::from_slice(&[2f32, 0.1, 0., 1.]).view([2, 2]);
        let found = ranked_groups(&queries, &candidates, &[3, 4, 5, 6], 3).unwrap();
        assert_eq!(found, [[3, 5, 4], [4, 5, 3]]);
        assert_eq!(group_shares(&[2, 0, 2, 2]).unwrap(), [0.25, 0., 0.75]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let said = |lists: &[Vec<i64>], desired: &[f64], k| skew(lists, desired, k).unwrap_err().to_string();
        assert_eq!(
            said(&[vec![0]], &[0.5, 0.6], 1),
            "desired: expected shares that sum to 1, got [0.5, 0.6]"
        );
        assert_eq!(said(&[vec![0]], &[1.], 2), "k: expected at most 1, the length of list 0, got 2");
        assert_eq!(
            said(&[vec![1]], &[1., 0.], 1),
            "lists: expected groups with a desired share, got group 1"
        );
        assert_eq!(said(&[], &[1.], 1), "lists: expected at least one list of at least 1, got 0 and k = 1");
        let x = Tensor::zeros([3, 2], (tch::Kind::Float, tch::Device::Cpu));
        let said = |queries: &Tensor, groups: &[i64], k| {
            ranked_groups(queries, &x, groups, k).unwrap_err().to_string()
        };
        assert_eq!(said(&x.tr(), &[0; 3], 1), "queries: expected [M, 2] as the candidates, got [2, 3]");
        assert_eq!(said(&x, &[0; 2], 1), "groups: expected 3, one for each candidate, got 2");
        assert_eq!(said(&x, &[0; 3], 4), "k: expected 1 to 3, the candidates, got 4");
        assert_eq!(group_shares(&[-1]).unwrap_err().to_string(), "groups: expected 0 to 1048575, got -1");
    }
}
