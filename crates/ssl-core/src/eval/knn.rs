//! Weighted nearest-neighbour classification: what a representation is worth without training on it.
use super::features::{Features, agreement, blocks, host};
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Query rows times memory rows of similarities held at a time: 64 MiB in single precision.
const BLOCK: i64 = 1 << 24;

/// How neighbours vote.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KnnOptions {
    /// Neighbours that vote; `None` is 200, or a fifth of the training set if that is fewer.
    pub k: Option<i64>,
    /// A neighbour of cosine similarity s has the weight exp(s / temperature).
    pub temperature: f64,
}

impl Default for KnnOptions {
    fn default() -> Self {
        KnnOptions { k: None, temperature: 0.1 }
    }
}

/// An accuracy with what it depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Knn {
    /// Share of the test set whose class got the most votes.
    pub accuracy: f64,
    /// Neighbours that voted.
    pub k: i64,
    /// The class with the most votes, for each test example.
    pub predictions: Vec<i64>,
}

/// Accuracy of weighted kNN by cosine similarity; of classes with equal votes the lower one wins.
///
/// # Errors
/// `Error::Config` when k is not within 1 to N, the temperature is not positive, or there is a single class;
/// `Error::Shape` when the widths differ.
///
/// # Source
/// Wu et al., 2018, section 3.4: <https://arxiv.org/abs/1805.01978>; k = 200 and T = 0.1 as in the field's
/// benchmarks (0.07 in the paper).
pub fn knn(train: &Features, test: &Features, options: &KnnOptions) -> Result<Knn> {
    train.check_against(test)?;
    let k = options.k.unwrap_or(200.min(train.len() / 5).max(1));
    let votes = knn_votes(train, test.x(), k, options.temperature)?;
    // The first of equal maxima: libtorch's argmax does not promise which it takes.
    let ranking = votes.f_sort_stable(true, 1, true)?.1.f_select(1, 0)?;
    let predictions: Vec<i64> = host(&ranking)?;
    Ok(Knn { accuracy: agreement(&predictions, test.y()), k, predictions })
}

/// Votes of the `k` nearest training examples for every class, each row scaled so that its nearest
/// neighbour's vote is 1.
///
/// The scaling leaves every ranking as it is and keeps small temperatures from overflowing.
///
/// # Shapes
/// `queries`: `[M, D]`, unit length not required; returns `[M, C]`.
///
/// # Errors
/// As [`knn`].
///
/// # Source
/// As [`knn`]; the ranking equals that of `knn_predict` in lightly 1.6.
pub fn knn_votes(train: &Features, queries: &Tensor, k: i64, temperature: f64) -> Result<Tensor> {
    if k < 1 || k > train.len() {
        return Err(Error::config("k", format!("expected 1 to {}, the training set, got {k}", train.len())));
    }
    if temperature <= 0.0 || !temperature.is_finite() {
        return Err(Error::config("temperature", format!("expected a positive number, got {temperature}")));
    }
    no_grad(|| {
        let memory = l2_normalize(train.x())?;
        let labels = train.y_tensor()?;
        let votes = blocks(queries, (BLOCK / train.len()).max(1))
            .map(|block| {
                let similarity = l2_normalize(&block?)?.f_matmul(&memory.f_tr()?)?;
                let (nearest, rows) = similarity.f_topk(k, 1, true, true)?;
                let weights =
                    nearest.f_sub(&nearest.f_narrow(1, 0, 1)?)?.f_div_scalar(temperature)?.f_exp()?;
                let class = labels.f_take(&rows)?;
                let shape = [class.size().first().copied().unwrap_or(0), train.classes()];
                Ok(Tensor::f_zeros(shape, (weights.kind(), weights.device()))?
                    .f_scatter_add(1, &class, &weights)?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&votes, 0)?.f_to_kind(Kind::Double)?)
    })
}

/// The `k` rows most similar to each of `rows` by cosine, nearest first, the row itself left out.
///
/// # Shapes
/// `x`: `[N, D]`, unit length not required.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix; `Error::Config` when k is not within 1 to N - 1 or a row not within N.
pub fn nearest(x: &Tensor, rows: &[i64], k: i64) -> Result<Vec<Vec<i64>>> {
    let (n, _) = dims2(x, "features", "[N, D]")?;
    if k < 1 || k >= n {
        return Err(Error::config("k", format!("expected 1 to {}, the other rows, got {k}", n - 1)));
    }
    if let Some(bad) = rows.iter().find(|row| !(0..n).contains(row)) {
        return Err(Error::config("rows", format!("expected 0 to {}, got {bad}", n - 1)));
    }
    no_grad(|| {
        let unit = l2_normalize(x)?;
        let others = |&row: &i64| {
            let similarity = unit.f_matmul(&unit.f_get(row)?)?;
            let _ = similarity.f_get(row)?.f_fill_(f64::NEG_INFINITY)?;
            host(&similarity.f_topk(k, 0, true, true)?.1)
        };
        rows.iter().map(others).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: i64, columns: i64, f: impl Fn(f64) -> f64) -> Tensor {
        let flat: Vec<f64> = (0..rows * columns).map(|n| f(n as f64)).collect();
        Tensor::from_slice(&flat).view([rows, columns])
    }
    fn bank() -> Features {
        Features::new(&wave(20, 6, |n| (0.37 * n + 0.1).sin()), (0..20).map(|i| i % 4).collect()).unwrap()
    }
    fn queries() -> Tensor {
        wave(5, 6, |n| (0.53 * n - 0.2).cos())
    }

    #[test]
    fn votes_equal_a_slow_version() {
        let (bank, queries) = (bank(), queries());
        let votes = host::<f64>(&knn_votes(&bank, &queries, 7, 0.1).unwrap()).unwrap();
        let rows = |x: &Tensor| host::<f64>(x).unwrap().chunks(6).map(<[f64]>::to_vec).collect::<Vec<_>>();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for (query, votes) in rows(&queries).iter().zip(votes.chunks(4)) {
            let cosine = |row: &Vec<f64>| dot(query, row) / (dot(query, query) * dot(row, row)).sqrt();
            let mut near: Vec<_> = rows(bank.x()).iter().map(cosine).zip(bank.y().iter().copied()).collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut slow = [0.0; 4];
            for &(similarity, class) in &near[..7] {
                slow[class as usize] += ((similarity - near[0].0) / 0.1).exp();
            }
            assert!(votes.iter().zip(slow).all(|(a, b)| (a - b).abs() < 1e-12), "{votes:?} {slow:?}");
        }
    }

    #[test]
    fn blocks_do_not_change_the_votes() {
        let whole = knn_votes(&bank(), &queries(), 7, 0.1).unwrap();
        let parts: Vec<_> =
            blocks(&queries(), 2).map(|part| knn_votes(&bank(), &part.unwrap(), 7, 0.1).unwrap()).collect();
        assert!(Tensor::cat(&parts, 0).allclose(&whole, 1e-12, 1e-12, false));
    }

    #[test]
    fn a_tie_goes_to_the_lower_class_and_a_cold_temperature_stays_finite() {
        let x = Tensor::from_slice(&[1f32, 0.1, 1.0, -0.1, -1.0, 0.0]).view([3, 2]);
        let train = Features::new(&x, vec![2, 1, 0]).unwrap();
        let test = Features::new(&Tensor::from_slice(&[1f32, 0.0]).view([1, 2]), vec![1]).unwrap();
        let options = KnnOptions { k: Some(2), temperature: 1e-3 };
        let expected = Knn { accuracy: 1.0, k: 2, predictions: vec![1] };
        assert_eq!(knn(&train, &test, &options).unwrap(), expected);
    }

    #[test]
    fn a_small_training_set_takes_a_fifth_and_a_bad_k_is_named() {
        let bank = bank();
        assert_eq!(knn(&bank, &bank, &KnnOptions::default()).unwrap().k, 4);
        let error = |k, t| knn_votes(&bank, &queries(), k, t).unwrap_err().to_string();
        assert_eq!(error(21, 0.1), "k: expected 1 to 20, the training set, got 21");
        assert_eq!(error(1, 0.0), "temperature: expected a positive number, got 0");
    }

    #[test]
    fn the_nearest_rows_come_in_order_and_without_the_row_itself() {
        let x = Tensor::from_slice(&[1f32, 0.0, 9.0, 1.0, 1.0, 1.0, -1.0, 0.0]).view([4, 2]);
        assert_eq!(nearest(&x, &[0, 2], 3).unwrap(), [[1, 2, 3], [1, 0, 3]]);
        assert_eq!(
            nearest(&x, &[0], 4).unwrap_err().to_string(),
            "k: expected 1 to 3, the other rows, got 4"
        );
        assert_eq!(nearest(&x, &[4], 1).unwrap_err().to_string(), "rows: expected 0 to 3, got 4");
    }
}
