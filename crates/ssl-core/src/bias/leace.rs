//! Least-squares concept erasure: the smallest change of features after which no linear classifier tells the groups.
//!
//! Source: Belrose et al., 2023, theorem 4.3, equation 1: <https://arxiv.org/abs/2306.03819>. Unlike the authors' package
//! by default, the covariance is not shrunk, and its trace after the erasure not bounded: both would leave a part of the
//! group in the features.
use crate::eval::Features;
use crate::{Error, Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// Rows that are widened to double precision at a time.
const BLOCK: i64 = 8192;
/// Covariance of the groups with a direction of unit variance below which the direction does not know them.
const LEAST: f64 = 1e-6;

/// The map x - left right (x - mean).
///
/// `right` whitens and keeps the directions that vary with the groups, `left` brings these back to where they came from;
/// what it takes away is least in every norm that a positive definite matrix gives.
#[derive(Debug)]
pub struct Leace {
    mean: Tensor,
    left: Tensor,
    right: Tensor,
}

impl Leace {
    /// Fits the map to features whose labels are the groups.
    ///
    /// # Errors
    /// `Error::Config` when there is a single group; `Error::Torch` when a decomposition fails.
    pub fn fit(features: &Features) -> Result<Self> {
        let present: Vec<i64> = (0..)
            .zip(features.rows_by_class())
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(group, _)| group)
            .collect();
        // The shares of all groups sum to one: the last one says nothing new.
        let Some((_, told @ [_, ..])) = present.split_last() else {
            return Err(Error::config("groups", "expected at least 2 in the training set, got 1"));
        };
        no_grad(|| {
            let x = features.x();
            let (n, told) = (features.len() as f64, Tensor::f_from_slice(told)?.f_to_device(x.device())?);
            let mean = x.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
            let groups = features.y_tensor()?;
            let is_of = |at: i64, rows: i64| -> Result<Tensor> {
                Ok(groups
                    .f_narrow(0, at, rows)?
                    .f_unsqueeze(1)?
                    .f_eq_tensor(&told)?
                    .f_to_kind(Kind::Double)?)
            };
            let (d, double) = (features.dim(), (Kind::Double, x.device()));
            let mut covariance = Tensor::f_zeros([d, d], double)?;
            let mut with_groups = Tensor::f_zeros([d, told.numel() as i64], double)?;
            for at in (0..features.len()).step_by(BLOCK as usize) {
                let rows = BLOCK.min(features.len() - at);
                let centred = x.f_narrow(0, at, rows)?.f_to_kind(Kind::Double)?.f_sub(&mean)?;
                covariance = covariance.f_add(&centred.f_tr()?.f_matmul(&centred)?)?;
                with_groups = with_groups.f_add(&centred.f_tr()?.f_matmul(&is_of(at, rows)?)?)?;
            }
            let (whiten, unwhiten) = roots(&covariance.f_div_scalar(n)?)?;
            let found = directions(&whiten.f_matmul(&with_groups.f_div_scalar(n)?)?)?;
            Ok(Leace { mean, left: unwhiten.f_matmul(&found)?, right: found.f_tr()?.f_matmul(&whiten)? })
        })
    }

    /// How many directions the map takes away: at most the number of groups less one.
    pub fn rank(&self) -> i64 {
        self.right.size().first().copied().unwrap_or(0)
    }

    /// Features without what a linear map tells of the groups; of the kind that they came in.
    ///
    /// # Shapes
    /// `x`: `[N, D]`; returns the same.
    ///
    /// # Errors
    /// `Error::Shape` when the width is not that of the features it was fitted to.
    pub fn erase(&self, x: &Tensor) -> Result<Tensor> {
        let (n, width) = dims2(x, "features", "[N, D]")?;
        let fitted = self.mean.numel() as i64;
        if width != fitted {
            let expected = format!("[N, {fitted}] as in the training set");
            return Err(Error::Shape { what: "features".into(), expected, got: x.size() });
        }
        no_grad(|| {
            let block = |at: i64| -> Result<Tensor> {
                let wide = x.f_narrow(0, at, BLOCK.min(n - at))?.f_to_kind(Kind::Double)?;
                let known = wide.f_sub(&self.mean)?.f_matmul(&self.right.f_tr()?)?;
                Ok(wide.f_sub(&known.f_matmul(&self.left.f_tr()?)?)?.f_to_kind(x.kind())?)
            };
            let blocks = (0..n).step_by(BLOCK as usize).map(block).collect::<Result<Vec<_>>>()?;
            if blocks.is_empty() { Ok(x.shallow_clone()) } else { Ok(Tensor::f_cat(&blocks, 0)?) }
        })
    }

    /// [`Leace::erase`] of checked features, whose labels stay.
    ///
    /// # Errors
    /// As [`Leace::erase`].
    pub fn erase_from(&self, features: &Features) -> Result<Features> {
        Features::new(&self.erase(features.x())?, features.y().to_vec())
    }
}

/// The inverse of the root of a covariance, and the root; both without the directions in which nothing varies.
fn roots(covariance: &Tensor) -> Result<(Tensor, Tensor)> {
    let (values, vectors) = covariance.f_linalg_eigh("L")?;
    let least =
        values.f_max()?.f_mul_scalar(values.numel() as f64 * f64::EPSILON)?.f_clamp_min(f64::MIN_POSITIVE)?;
    let varies = values.f_gt_tensor(&least)?.f_to_kind(Kind::Double)?;
    let root = values.f_maximum(&least)?.f_sqrt()?;
    let of = |diagonal: Tensor| -> Result<Tensor> {
        Ok(vectors.f_mul(&diagonal.f_mul(&varies)?)?.f_matmul(&vectors.f_tr()?)?)
    };
    Ok((of(root.f_reciprocal()?)?, of(root)?))
}

/// An orthonormal basis of the columns of `x`, `[D, K]`; of those longer than [`LEAST`].
fn directions(x: &Tensor) -> Result<Tensor> {
    let (values, vectors) = x.f_tr()?.f_matmul(x)?.f_linalg_eigh("L")?;
    let longer: Vec<f64> =
        Vec::<f64>::try_from(&values)?.into_iter().filter(|square| *square > LEAST * LEAST).collect();
    let count = longer.len() as i64;
    // In increasing order.
    let first = values.numel() as i64 - count;
    let lengths = values.f_narrow(0, first, count)?.f_sqrt()?;
    Ok(x.f_matmul(&vectors.f_narrow(1, first, count)?)?.f_div(&lengths)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{LinearOptions, linear, majority};
    use serde_json::Value;
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn golden() -> Value {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/bias.json")).unwrap();
        all["leace"].clone()
    }

    fn numbers(value: &Value) -> Tensor {
        Tensor::from_slice(&serde_json::from_value::<Vec<f64>>(value.clone()).unwrap())
    }

    fn features(golden: &Value) -> Features {
        let groups: Vec<i64> = serde_json::from_value(golden["groups"].clone()).unwrap();
        Features::new(&numbers(&golden["x"]).view([60, 6]), groups).unwrap()
    }

    fn largest(x: &Tensor) -> f64 {
        x.abs().max().double_value(&[])
    }

    /// The covariance of each feature with each group.
    fn with_groups(x: &Tensor, groups: &[i64]) -> Tensor {
        let is_of = Tensor::from_slice(groups).one_hot(-1).to_kind(Kind::Double);
        let centred = is_of.shallow_clone() - is_of.mean_dim([0i64].as_slice(), false, Kind::Double);
        x.to_kind(Kind::Double).tr().matmul(&centred) / groups.len() as f64
    }

    #[test]
    fn erased_features_equal_those_of_the_authors_package() {
        let golden = golden();
        let features = features(&golden);
        let eraser = Leace::fit(&features).unwrap();
        assert_eq!(eraser.rank(), 2, "three groups differ in two directions");
        let erased = eraser.erase(features.x()).unwrap();
        assert!(largest(&(erased.view(-1) - numbers(&golden["erased"]))) < 1e-8);
        let new = eraser.erase(&numbers(&golden["new"]).view([5, 6])).unwrap();
        assert!(largest(&(new.view(-1) - numbers(&golden["new_erased"]))) < 1e-8);
    }

    #[test]
    fn nothing_linear_is_left_and_a_second_erasure_changes_nothing() {
        let golden = golden();
        let features = features(&golden);
        assert!(largest(&with_groups(features.x(), features.y())) > 0.1);
        for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-6)] {
            let x = features.x().to_kind(kind);
            let eraser = Leace::fit(&Features::new(&x, features.y().to_vec()).unwrap()).unwrap();
            let once = eraser.erase(&x).unwrap();
            assert_eq!(once.kind(), kind);
            let left = largest(&with_groups(&once, features.y()));
            assert!(left < tolerance, "{left}");
            let change = largest(&(eraser.erase(&once).unwrap() - &once));
            assert!(change < 10. * tolerance, "{change}");
            let moved = once.mean_dim([0i64].as_slice(), false, Kind::Double)
                - x.mean_dim([0i64].as_slice(), false, Kind::Double);
            assert!(largest(&moved) < tolerance, "the mean stays");
        }
    }

    /// Every map I - S (QᵀS)⁻¹Qᵀ, with S the covariance with the groups, erases it too, whatever Q is.
    #[test]
    fn no_other_erasure_changes_less() {
        let golden = golden();
        let groups = features(&golden).y().to_vec();
        let x = features(&golden).x().narrow(1, 0, 5);
        let eraser = Leace::fit(&Features::new(&x, groups.clone()).unwrap()).unwrap();
        let centred = &x - x.mean_dim([0i64].as_slice(), false, Kind::Double);
        let covariance = centred.tr().matmul(&centred) / 60.;
        let s = with_groups(&x, &groups).narrow(1, 0, 2);
        let wave = |step: f64| (Tensor::arange(10, CPU) * step).sin().view([5, 2]);
        let others = [s.shallow_clone(), wave(0.7), wave(1.3), &s + wave(0.9) * 0.02];
        let sizes = |change: &Tensor| {
            let distance = change.matmul(&covariance.inverse()).multiply(change).sum(Kind::Double);
            [change.square().sum(Kind::Double), distance].map(|size| size.double_value(&[]))
        };
        let own = sizes(&(eraser.erase(&x).unwrap() - &x));
        for q in others {
            let change = centred.matmul(&q.matmul(&s.tr().matmul(&q).inverse()).matmul(&s.tr()));
            assert!(largest(&with_groups(&(&x - &change), &groups)) < 1e-9, "it is an erasure");
            let other = sizes(&change);
            assert!(own[0] < other[0] && own[1] < other[1], "{own:?} {other:?}");
        }
    }

    #[test]
    fn a_linear_probe_falls_to_the_most_frequent_group() {
        let of = |n: usize, shift: f64| {
            let groups: Vec<i64> = (0..n).map(|row| i64::from(row % 5 < 2)).collect();
            let noise =
                ((Tensor::arange(n as i64 * 8, CPU) + shift).square() * 0.37).sin().view([n as i64, 8]);
            let side = Tensor::from_slice(&groups).to_kind(Kind::Double).unsqueeze(1);
            Features::new(&(noise + side * Tensor::arange(8, CPU) * 0.3).to_kind(Kind::Float), groups)
                .unwrap()
        };
        let (train, test) = (of(400, 0.), of(200, 7000.));
        let told = |train: &Features, test: &Features| {
            linear(train, test, &LinearOptions::default()).unwrap().accuracy
        };
        assert!(told(&train, &test) > 0.9);
        let eraser = Leace::fit(&train).unwrap();
        let [erased, erased_test] = [&train, &test].map(|set| eraser.erase_from(set).unwrap());
        let most = majority(train.y(), test.y()).unwrap();
        assert!((told(&erased, &erased_test) - most).abs() < 0.02, "{}", told(&erased, &erased_test));
        assert!((told(&erased, &erased) - most).abs() < 1e-12, "exactly so on what it was fitted to");
    }

    #[test]
    fn groups_that_no_feature_knows_are_left_alone() {
        let x = Tensor::from_slice(&[1., -1., 1., -1.]).view([4, 1]);
        let eraser = Leace::fit(&Features::new(&x, vec![0, 0, 4, 4]).unwrap()).unwrap();
        assert_eq!(eraser.rank(), 0);
        assert!(eraser.erase(&x).unwrap().equal(&x));
        let none = Tensor::zeros([0, 1], CPU);
        assert_eq!(eraser.erase(&none).unwrap().size(), [0, 1]);
    }

    #[test]
    fn one_group_and_another_width_are_refused() {
        let x = Tensor::arange(6, CPU).view([3, 2]);
        let message = Leace::fit(&Features::new(&x, vec![3; 3]).unwrap()).unwrap_err().to_string();
        assert_eq!(message, "groups: expected at least 2 in the training set, got 1");
        let eraser = Leace::fit(&Features::new(&x, vec![0, 1, 1]).unwrap()).unwrap();
        let message = eraser.erase(&x.tr()).unwrap_err().to_string();
        assert_eq!(message, "features: expected [N, 2] as in the training set, got [2, 3]");
    }
}
