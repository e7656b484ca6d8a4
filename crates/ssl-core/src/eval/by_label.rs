//! Whether what is near has the same label: retrieval of examples by the class of another.
use super::features::{Features, blocks};
use crate::nn::l2_normalize;
use crate::{Result, no_grad};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Similarities that are ranked at a time: with their places, 48 MiB.
const BLOCK: i64 = 1 << 22;

/// How well each example finds those of its class among all others.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LabelRetrieval {
    /// R@1: share of examples whose nearest other one is of their class.
    pub recall_at_1: f64,
    /// Mean over the examples of the average precision of their ranking of all others.
    pub map: f64,
    /// Examples that asked, each among all others; one whose class has no other example asks nothing.
    pub n: i64,
}

impl LabelRetrieval {
    /// Of each number the better one of two.
    pub(super) fn stronger(&self, other: &LabelRetrieval) -> LabelRetrieval {
        let (recall_at_1, map) = (self.recall_at_1.max(other.recall_at_1), self.map.max(other.map));
        LabelRetrieval { recall_at_1, map, n: self.n }
    }
}

/// Ranks for each example all others by cosine similarity; none where no class has two examples. All pairs are ranked,
/// so some thousands of examples suffice.
///
/// # Errors
/// `Error::Torch` when libtorch refuses it.
///
/// # Source
/// Musgrave et al., 2020, section 3.3, the average precision taken over the whole ranking:
/// <https://arxiv.org/abs/2003.08505>; of each example it equals scikit-learn's `average_precision_score`.
pub fn label_retrieval(features: &Features) -> Result<Option<LabelRetrieval>> {
    let n = features.len();
    let (mut first, mut precision, mut asked) = (0., 0., 0.);
    no_grad(|| -> Result<()> {
        let unit = l2_normalize(features.x())?;
        let labels = features.y_tensor()?;
        let options = (unit.kind(), unit.device());
        let places = Tensor::f_arange_start(1, n, options)?;
        let mut at = 0;
        for block in blocks(&unit, (BLOCK / n).max(1)) {
            let mut similarity = block?.f_matmul(&unit.f_tr()?)?; // [B, N]
            let size = similarity.size().first().copied().unwrap_or(0);
            let own = Tensor::f_arange_start(at, at + size, (Kind::Int64, unit.device()))?.f_unsqueeze(1)?;
            let _ = similarity.f_scatter_value_(1, &own, f64::NEG_INFINITY)?;
            // The example itself comes last, and is left out.
            let order = similarity.f_sort_stable(true, 1, true)?.1.f_narrow(1, 0, n - 1)?;
            let of_class =
                labels.f_take(&order)?.f_eq_tensor(&labels.f_take(&own)?)?.f_to_kind(unit.kind())?;
            let count = of_class.f_sum_dim_intlist([1i64].as_slice(), false, None)?;
            let hits = of_class.f_cumsum(1, unit.kind())?.f_div(&places)?.f_mul(&of_class)?;
            let mean =
                hits.f_sum_dim_intlist([1i64].as_slice(), false, None)?.f_div(&count.f_clamp_min(1.)?)?;
            let sum = |x: &Tensor| -> Result<f64> { Ok(f64::try_from(x.f_sum(Kind::Double)?)?) };
            precision += sum(&mean)?;
            first += sum(&of_class.f_narrow(1, 0, 1.min(n - 1))?)?;
            asked += sum(&count.f_gt(0.)?)?;
            at += size;
        }
        Ok(())
    })?;
    let found = LabelRetrieval { recall_at_1: first / asked, map: precision / asked, n: asked as i64 };
    Ok((asked > 0.).then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::Device;

    #[test]
    fn rankings_score_as_in_scikit_learn() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let case = &all["retrieval"];
        let y: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
        let around = Tensor::arange(30, (Kind::Int64, Device::Cpu)).remainder(5).one_hot(5) * 0.5;
        let x = Tensor::arange(150, (Kind::Double, Device::Cpu)).square().sin().view([30, 5]) + around;
        for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-6)] {
            let found =
                label_retrieval(&Features::new(&x.to_kind(kind), y.clone()).unwrap()).unwrap().unwrap();
            for (found, name) in [(found.recall_at_1, "recall_at_1"), (found.map, "map")] {
                let expected = case[name].as_f64().unwrap();
                assert!((found - expected).abs() < tolerance, "{name}: {found} {expected}");
            }
            assert_eq!(found.n, case["n"].as_i64().unwrap(), "the only one of its class asks nothing");
        }
    }

    #[test]
    fn without_two_of_a_class_nothing_can_be_found() {
        let x = Tensor::eye(3, (Kind::Float, Device::Cpu));
        assert_eq!(label_retrieval(&Features::new(&x, vec![0, 1, 2]).unwrap()).unwrap(), None);
        let one = Features::new(&x.narrow(0, 0, 1), vec![0]).unwrap();
        assert_eq!(label_retrieval(&one).unwrap(), None);
    }
}
