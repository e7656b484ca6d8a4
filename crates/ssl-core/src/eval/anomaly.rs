//! How well a score tells what is unlike the training set from what is like it.
use super::features::{blocks, host};
use crate::{Error, Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// Query rows times memory rows of distances held at a time: 64 MiB in single precision.
const BLOCK: i64 = 1 << 24;

/// The probability that a positive example has a higher score than a negative one; equal scores count half.
///
/// # Errors
/// `Error::Config` when the lengths differ, a score is not a number, or either kind of example is missing.
///
/// # Source
/// Hanley & McNeil, 1982: <https://doi.org/10.1148/radiology.143.1.7063747>; equals scikit-learn's `roc_auc_score`.
pub fn auroc(scores: &[f64], positive: &[bool]) -> Result<f64> {
    if scores.len() != positive.len() {
        let message = format!("expected {}, one for each score, got {}", scores.len(), positive.len());
        return Err(Error::config("positive", message));
    }
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::config("scores", format!("expected numbers, got NaN at place {at}")));
    }
    let n_positive = positive.iter().filter(|&&positive| positive).count();
    let n_negative = positive.len() - n_positive;
    if n_positive == 0 || n_negative == 0 {
        let message =
            format!("expected some of both kinds, got {n_positive} positive and {n_negative} negative");
        return Err(Error::config("positive", message));
    }
    let mut sorted: Vec<(f64, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Pairs in the right order, for each group of equal scores.
    let (mut below, mut pairs) = (0., 0.);
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        let above = group.iter().filter(|(_, positive)| *positive).count() as f64;
        let negative = group.len() as f64 - above;
        pairs += above * (below + negative / 2.);
        below += negative;
    }
    Ok(pairs / (n_positive as f64 * n_negative as f64))
}

/// The mean Euclidean distance of each query to its `k` nearest rows of `train`.
///
/// # Shapes
/// `train`: `[N, D]`, `queries`: `[M, D]`, of the length that is to count; returns M numbers.
///
/// # Errors
/// `Error::Shape` when the two are not matrices of one width; `Error::Config` when k is not within 1 to N.
///
/// # Source
/// Angiulli & Pizzuti, 2002, the sum over the k nearest: <https://doi.org/10.1007/3-540-45681-3_2>.
pub fn neighbour_distance(train: &Tensor, queries: &Tensor, k: i64) -> Result<Vec<f64>> {
    let ((n, width), (_, own)) =
        (dims2(train, "training features", "[N, D]")?, dims2(queries, "queries", "[M, D]")?);
    if own != width {
        let expected = format!("[M, {width}] as in the training set");
        return Err(Error::Shape { what: "queries".into(), expected, got: queries.size() });
    }
    if k < 1 || k > n {
        return Err(Error::config("k", format!("expected 1 to {n}, the training set, got {k}")));
    }
    no_grad(|| {
        let mut all = Vec::new();
        for block in blocks(queries, (BLOCK / n).max(1)) {
            // Mode 1 is by a product of matrices, however few rows there are.
            let distance = Tensor::f_cdist(&block?, train, 2., 1)?;
            let near = distance.f_topk(k, 1, false, false)?.0;
            all.extend(host::<f64>(&near.f_mean_dim([1i64].as_slice(), false, Kind::Double)?)?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn golden(name: &str) -> Value {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/sklearn.json")).unwrap();
        all[name].clone()
    }

    #[test]
    fn areas_equal_those_of_scikit_learn() {
        let cases = golden("auroc");
        assert_eq!(cases.as_array().unwrap().len(), 3);
        for case in cases.as_array().unwrap() {
            let scores: Vec<f64> = serde_json::from_value(case["scores"].clone()).unwrap();
            let positive: Vec<bool> = serde_json::from_value(case["positive"].clone()).unwrap();
            let found = auroc(&scores, &positive).unwrap();
            assert!((found - case["area"].as_f64().unwrap()).abs() < 1e-12, "{found} {}", case["area"]);
        }
    }

    #[test]
    fn distances_equal_those_of_scikit_learn() {
        let case = golden("neighbours");
        let matrix = |name: &str| {
            let flat: Vec<f64> = serde_json::from_value(case[name].clone()).unwrap();
            Tensor::from_slice(&flat).view([-1, 4])
        };
        let expected: Vec<f64> = serde_json::from_value(case["distance"].clone()).unwrap();
        for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-4)] {
            let [train, queries] = ["train", "queries"].map(|name| matrix(name).to_kind(kind));
            let found = neighbour_distance(&train, &queries, 3).unwrap();
            assert_eq!(found.len(), expected.len());
            assert!(
                found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < tolerance),
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_ranked_is_named() {
        let said = |scores: &[f64], positive: &[bool]| auroc(scores, positive).unwrap_err().to_string();
        assert_eq!(said(&[1.], &[true, false]), "positive: expected 1, one for each score, got 2");
        assert_eq!(said(&[1., f64::NAN], &[true, false]), "scores: expected numbers, got NaN at place 1");
        let message = "positive: expected some of both kinds, got 2 positive and 0 negative";
        assert_eq!(said(&[1., 2.], &[true, true]), message);
        let x = Tensor::zeros([3, 2], (Kind::Float, tch::Device::Cpu));
        let said = |queries: &Tensor, k| neighbour_distance(&x, queries, k).unwrap_err().to_string();
        assert_eq!(said(&x, 4), "k: expected 1 to 3, the training set, got 4");
        assert_eq!(said(&x.tr(), 1), "queries: expected [M, 2] as in the training set, got [2, 3]");
    }
}
