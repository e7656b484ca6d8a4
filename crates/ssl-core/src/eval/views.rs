//! What random views of the same examples tell of a representation, without labels.
use super::{alignment, uniformity};
use crate::{Error, Result, dims3, no_grad};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What is added to the variance within examples, in every direction.
const DELTA: f64 = 1e-4;

/// Measures on random views, with what they depend on.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ViewHealth {
    /// [`lidar`].
    pub lidar: f64,
    /// [`alignment`] of each view with the next one of the same example.
    pub alignment: f64,
    /// [`uniformity`] of the first view of each example.
    pub uniformity: f64,
    /// Examples.
    pub examples: i64,
    /// Views of each.
    pub views: i64,
}

impl ViewHealth {
    /// Measures the features of several views of each example.
    ///
    /// # Shapes
    /// `x`: `[N, Q, D]`.
    ///
    /// # Errors
    /// As [`lidar`].
    pub fn of(x: &Tensor) -> Result<Self> {
        let (examples, views, _) = dims3(x, "views", "[N, Q, D]")?;
        let lidar = lidar(x)?;
        let run = |start: i64| x.f_narrow(1, start, views - 1)?.f_flatten(0, 1);
        Ok(ViewHealth {
            lidar,
            alignment: alignment(&run(0)?, &run(1)?)?,
            uniformity: uniformity(&x.f_select(1, 0)?)?,
            examples,
            views,
        })
    }

    /// Of each number the better one of two.
    pub(super) fn stronger(&self, other: &ViewHealth) -> ViewHealth {
        ViewHealth {
            lidar: self.lidar.max(other.lidar),
            alignment: self.alignment.min(other.alignment),
            uniformity: self.uniformity.min(other.uniformity),
            ..*self
        }
    }
}

/// LiDAR: the effective rank of what parts examples, after what parts views of one example is made equal in all
/// directions: from 1 (collapsed) to the lesser of N - 1 and D.
///
/// Each example is a class of its own, its views are that class. The rank is the exponential of the entropy of the
/// eigenvalues, divided by their sum, of the scatter between examples, whitened by that within. The paper gives no number
/// for what is added to the latter: 1e-4, as in the code that followed. Its other small number, within the logarithm, is
/// left out: eigenvalues of 0 add nothing.
///
/// # Shapes
/// `x`: `[N, Q, D]`; N above D is advised, and Q of 10 is within a hundredth of 50.
///
/// # Errors
/// `Error::Shape` unless there are two examples and two views of each; `Error::Torch` when the decomposition fails.
///
/// # Source
/// Thilak et al., 2023, section 3: <https://arxiv.org/abs/2312.04000>.
pub fn lidar(x: &Tensor) -> Result<f64> {
    let (n, q, d) = dims3(x, "views", "[N, Q, D]")?;
    if n < 2 || q < 2 {
        let expected = "[N, Q, D] of two examples or more with two views or more".to_string();
        return Err(Error::Shape { what: "views".into(), expected, got: x.size() });
    }
    no_grad(|| {
        let x = x.f_to_kind(Kind::Double)?;
        let means = x.f_mean_dim([1i64].as_slice(), true, Kind::Double)?; // [N, 1, D]
        let around = x.f_sub(&means)?.f_flatten(0, 1)?;
        let ridge = Tensor::f_eye(d, (Kind::Double, x.device()))?.f_mul_scalar(DELTA)?;
        let freedom = (n * (q - 1)) as f64;
        let within = around.f_tr()?.f_matmul(&around)?.f_div_scalar(freedom)?.f_add(&ridge)?;
        let means = means.f_squeeze_dim(1)?;
        let between = means.f_sub(&means.f_mean_dim([0i64].as_slice(), true, Kind::Double)?)?;
        let root = within.f_linalg_cholesky(false)?;
        let white = root.f_linalg_solve_triangular(&between.f_tr()?, false, true, false)?; // [D, N]
        // Both products have the same eigenvalues above 0.
        let product =
            if d <= n { white.f_matmul(&white.f_tr()?)? } else { white.f_tr()?.f_matmul(&white)? };
        let values = product.f_linalg_eigvalsh("L")?.f_clamp_min(0.)?;
        let parts = values.f_div(&values.f_sum(Kind::Double)?.f_clamp_min(1e-300)?)?;
        Ok(f64::try_from(parts.f_special_entr()?.f_sum(Kind::Double)?.f_exp()?)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::Device;

    fn wave(shape: &[i64], f: impl Fn(Tensor) -> Tensor) -> Tensor {
        f(Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu))).view(shape)
    }

    #[test]
    fn ranks_equal_those_of_scipy() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let cases = all["lidar"].as_array().unwrap();
        assert_eq!(cases.len(), 2, "more examples than directions, and fewer");
        for case in cases {
            let shape: Vec<i64> = serde_json::from_value(case["shape"].clone()).unwrap();
            let around = wave(&[shape[0], 1, shape[2]], |n| (n * 0.37 + 0.1).sin());
            let x = wave(&shape, |n| n.square().sin()) + around;
            let (found, expected) = (lidar(&x).unwrap(), case["lidar"].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    #[test]
    fn directions_that_views_change_count_for_less() {
        // Examples differ in all of four directions alike, views in the last two.
        let apart = |a: f64| Tensor::from_slice(&[0.1, 0.1, a, a]);
        let examples = wave(&[400, 1, 4], |n| n.square().sin());
        let views = wave(&[400, 5, 4], |n| (n + 3000.).square().sin());
        let of = |a: f64| ViewHealth::of(&(&examples + &views * apart(a))).unwrap();
        assert!(of(0.1).lidar > 3.9 && of(3.).lidar < 2.2, "{:?} {:?}", of(0.1), of(3.));
        assert!(of(0.1).alignment < 0.2 * of(3.).alignment);
        assert_eq!((of(1.).examples, of(1.).views), (400, 5));
    }

    #[test]
    fn one_view_is_not_enough() {
        let message = lidar(&wave(&[3, 1, 2], |n| n)).unwrap_err().to_string();
        assert_eq!(
            message,
            "views: expected [N, Q, D] of two examples or more with two views or more, got [3, 1, 2]"
        );
    }
}
