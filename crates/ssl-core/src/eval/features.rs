//! Features under evaluation: one row per example, and its label.
use crate::{Error, Result, dims2};
use ndarray::{Array2, ArrayView2};
use std::borrow::Borrow;
use std::collections::HashSet;
use tch::{Kind, Tensor};

/// Labels from here on are taken for something else than classes; each class costs memory.
const MOST_CLASSES: i64 = 1 << 20;

/// Checked features and labels of one split.
#[derive(Debug)]
pub struct Features {
    x: Tensor,
    y: Vec<i64>,
    classes: i64,
}

impl Features {
    /// Features `x` with labels `y`, which count from 0. Half precision is widened to single; double stays.
    ///
    /// # Shapes
    /// `x`: `[N, D]`; `y`: N.
    ///
    /// # Errors
    /// `Error::Shape` unless `x` is a matrix of at least one row and one column; `Error::Config` when the
    /// lengths differ, a label is negative or above a million, or a feature is not finite.
    pub fn new(x: &Tensor, y: Vec<i64>) -> Result<Self> {
        let (n, d) = dims2(x, "features", "[N, D]")?;
        if n < 1 || d < 1 {
            let expected = "[N, D] of at least one row and one column".to_string();
            return Err(Error::Shape { what: "features".into(), expected, got: x.size() });
        }
        if y.len() as i64 != n {
            return Err(Error::config(
                "labels",
                format!("expected {n}, one for each row of features, got {}", y.len()),
            ));
        }
        if let Some((i, label)) = y.iter().enumerate().find(|(_, label)| !(0..MOST_CLASSES).contains(*label))
        {
            let message = format!("expected classes from 0 to {}, got {label} in row {i}", MOST_CLASSES - 1);
            return Err(Error::config("labels", message));
        }
        let kind = if x.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        let x = x.f_detach()?.f_to_kind(kind)?.f_contiguous()?;
        check_finite(&x)?;
        let classes = y.iter().max().map_or(0, |last| last + 1);
        Ok(Features { x, y, classes })
    }

    /// Features from a host array.
    ///
    /// # Errors
    /// As [`Features::new`].
    pub fn from_array(x: ArrayView2<'_, f32>, y: Vec<i64>) -> Result<Self> {
        let (n, d) = x.dim();
        let flat: Vec<f32> = x.iter().copied().collect();
        Features::new(&Tensor::f_from_slice(&flat)?.f_view([n as i64, d as i64])?, y)
    }

    /// The features as a host array.
    ///
    /// # Errors
    /// `Error::Torch` when the copy fails.
    pub fn to_array(&self) -> Result<Array2<f32>> {
        let shape = (self.len() as usize, self.dim() as usize);
        let mut flat = vec![0f32; shape.0 * shape.1];
        let x = self.x.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
        x.f_copy_data(&mut flat, shape.0 * shape.1)?;
        Array2::from_shape_vec(shape, flat).map_err(|e| Error::config("features", e.to_string()))
    }

    /// The features, `[N, D]`.
    pub fn x(&self) -> &Tensor {
        &self.x
    }

    /// The labels, N of them.
    pub fn y(&self) -> &[i64] {
        &self.y
    }

    /// The labels as a tensor beside the features, `[N]`.
    ///
    /// # Errors
    /// `Error::Torch` when the copy fails.
    pub fn y_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.y)?.f_to_device(self.x.device())?)
    }

    /// Number of examples N.
    pub fn len(&self) -> i64 {
        self.y.len() as i64
    }

    /// Whether there is no example: never, since [`Features::new`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.y.is_empty()
    }

    /// Width D of a row.
    pub fn dim(&self) -> i64 {
        self.x.size().last().copied().unwrap_or(0)
    }

    /// Number of classes: the highest label plus one.
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// The examples at `rows`, in that order; the number of classes stays that of the whole.
    ///
    /// # Errors
    /// `Error::Config` when `rows` is empty or holds a number outside 0 to N - 1.
    pub fn select(&self, rows: &[i64]) -> Result<Features> {
        let label = |&row: &i64| usize::try_from(row).ok().and_then(|row| self.y.get(row)).copied();
        let y = rows.iter().map(label).collect::<Option<Vec<_>>>().filter(|y| !y.is_empty());
        let y = y.ok_or_else(|| Error::config("rows", format!("expected some within 0..{}", self.len())))?;
        let index = Tensor::f_from_slice(rows)?.f_to_device(self.x.device())?;
        Ok(Features { x: self.x.f_index_select(0, &index)?, y, classes: self.classes })
    }

    /// The rows of each class, in order.
    pub fn rows_by_class(&self) -> Vec<Vec<i64>> {
        let mut rows = vec![Vec::new(); self.classes as usize];
        for (row, &label) in (0..).zip(&self.y) {
            if let Some(rows) = usize::try_from(label).ok().and_then(|label| rows.get_mut(label)) {
                rows.push(row);
            }
        }
        rows
    }

    /// How many of its classes `train` has no example of.
    pub(crate) fn classes_unseen_in(&self, train: &Features) -> i64 {
        let seen: HashSet<i64> = train.y.iter().copied().collect();
        let all: HashSet<i64> = self.y.iter().copied().collect();
        all.difference(&seen).count() as i64
    }

    /// That a classifier can be trained on `self` and tested on `test`, whose other classes count as wrong.
    pub(crate) fn check_against(&self, test: &Features) -> Result<()> {
        if self.y.iter().all(|label| Some(label) == self.y.first()) {
            return Err(Error::config("labels", "expected at least 2 classes in the training set, got 1"));
        }
        self.check_width(test)
    }

    /// That the rows of `test` are as wide as those of the training set `self`.
    pub(crate) fn check_width(&self, test: &Features) -> Result<()> {
        if self.dim() != test.dim() {
            let expected = format!("[N, {}] as in the training set", self.dim());
            return Err(Error::Shape { what: "test features".into(), expected, got: test.x.size() });
        }
        Ok(())
    }
}

/// The share of positions at which two label sequences agree.
pub(crate) fn agreement(predicted: &[i64], labels: &[i64]) -> f64 {
    let hits = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
    hits as f64 / labels.len().max(1) as f64
}

/// Where two label sequences agree.
pub(crate) fn hits(predicted: &[i64], labels: &[i64]) -> Vec<bool> {
    predicted.iter().zip(labels).map(|(a, b)| a == b).collect()
}

/// A vector of any device as host values.
pub(crate) fn host<T: tch::kind::Element + Clone + Default>(x: &Tensor) -> Result<Vec<T>> {
    let x = x.f_to_device(tch::Device::Cpu)?.f_to_kind(T::KIND)?.f_contiguous()?;
    let mut values = vec![T::default(); x.numel()];
    x.f_copy_data(&mut values, x.numel())?;
    Ok(values)
}

fn check_finite(x: &Tensor) -> Result<()> {
    // Summing is one pass without a copy; only a sum that is not finite asks which row it was.
    if x.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
        return Ok(());
    }
    let good: Vec<bool> = host(&x.f_isfinite()?.f_all_dim(1, false)?)?;
    match good.iter().position(|good| !good) {
        Some(row) => {
            Err(Error::config("features", format!("expected finite values, got others in row {row}")))
        }
        None => Ok(()),
    }
}

/// A matrix's rows from `start`, at most `size` of them, for each block in turn.
pub(crate) fn blocks<T: Borrow<Tensor>>(x: T, size: i64) -> impl Iterator<Item = Result<Tensor>> {
    let n = x.borrow().size().first().copied().unwrap_or(0);
    (0..n).step_by(size.max(1) as usize).map(move |at| Ok(x.borrow().f_narrow(0, at, size.min(n - at))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use tch::Device;

    fn refusal(x: &Tensor, y: &[i64]) -> String {
        Features::new(x, y.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn bad_features_are_named() {
        let x = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu));
        assert_eq!(refusal(&x.view(6), &[0; 6]), "features: expected [N, D], got [6]");
        assert_eq!(refusal(&x, &[0, 1]), "labels: expected 3, one for each row of features, got 2");
        for label in [-1, 1 << 20, i64::MAX] {
            let message = format!("labels: expected classes from 0 to 1048575, got {label} in row 2");
            assert_eq!(refusal(&x, &[0, 1, label]), message);
        }
        let _ = x.get(1).fill_(f64::NAN);
        assert_eq!(refusal(&x, &[0, 1, 1]), "features: expected finite values, got others in row 1");
        let none = Tensor::zeros([0, 2], (Kind::Float, Device::Cpu));
        assert!(refusal(&none, &[]).starts_with("features: expected [N, D] of at least one row"));
    }

    #[test]
    fn train_and_test_must_fit_each_other() {
        let x = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu));
        let of = |y: [i64; 3]| Features::new(&x, y.to_vec()).unwrap();
        let wide = Features::new(&Tensor::zeros([1, 3], (Kind::Float, Device::Cpu)), vec![0]).unwrap();
        let error = |train: &Features, test: &Features| train.check_against(test).unwrap_err().to_string();
        assert!(error(&of([1, 1, 1]), &of([0, 1, 1])).contains("at least 2 classes"));
        assert!(error(&of([0, 1, 1]), &wide).contains("[N, 2] as in the training set, got [1, 3]"));
        for test in [[0, 0, 0], [0, 1, 2]] {
            assert!(of([0, 1, 1]).check_against(&of(test)).is_ok());
        }
        assert_eq!(of([3, 1, 3]).classes_unseen_in(&of([0, 4, 1])), 1);
    }

    #[test]
    fn arrays_go_in_and_come_back() {
        let array = array![[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let features = Features::from_array(array.t(), vec![2, 0, 1]).unwrap();
        assert_eq!(features.to_array().unwrap(), array.t());
        let picked = features.select(&[2, 0]).unwrap();
        assert_eq!((picked.y(), picked.classes()), (&[1, 2][..], 3));
        assert_eq!(picked.to_array().unwrap(), array![[3f32, 6.0], [1.0, 4.0]]);
        assert!(features.select(&[3]).is_err() && features.select(&[]).is_err());
        assert_eq!(features.rows_by_class(), [[1], [2], [0]]);
    }
}
