//! Spans of positions that a network does not hear.
//!
//! Source: Baevski et al., 2020, section 3.1: <https://arxiv.org/abs/2006.11477>; `_compute_mask_indices` of transformers
//! 5, `models/wav2vec2/modeling_wav2vec2.py`: a number of spans instead of a probability of each place to start one, the
//! fraction of it rounded up or down by chance, once for a batch.
use crate::random::Chance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use tch::{Device, Kind, Tensor};

/// How much is masked. The default is wav2vec 2.0's: about 49 % of the positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpanMask {
    /// Positions in spans as a part of all positions, if no spans overlapped.
    pub part: f64,
    /// Positions of a span.
    pub length: i64,
    /// Spans of a window at least.
    pub least: i64,
}

impl Default for SpanMask {
    fn default() -> Self {
        SpanMask { part: 0.65, length: 10, least: 2 }
    }
}

impl SpanMask {
    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is not.
    pub fn validate(&self) -> Result<()> {
        if !(self.part > 0. && self.part <= 1.) {
            let message = format!("expected a number above 0 and at most 1, got {}", self.part);
            return Err(Error::config("part", message));
        }
        if self.length < 2 {
            return Err(Error::config("length", format!("expected at least 2, got {}", self.length)));
        }
        if self.least < 1 {
            return Err(Error::config("least", format!("expected at least 1, got {}", self.least)));
        }
        Ok(())
    }

    /// Spans of a window of so many positions: surely, and at most.
    fn spans(&self, positions: i64) -> (i64, i64) {
        let wanted = (self.part * positions as f64 / self.length as f64) as i64;
        let most = (positions / self.length).min(positions - self.length + 1);
        let bounded = |count: i64| count.max(self.least).min(most);
        (bounded(wanted), bounded(wanted + 1))
    }

    /// Positions of a window that can be masked at most.
    pub(crate) fn most(&self, positions: i64) -> i64 {
        (self.spans(positions).1 * self.length).min(positions)
    }

    /// Draws a mask; true is masked. Each window has one span or more.
    ///
    /// # Shapes
    /// Returns bool `[B, N]`.
    ///
    /// # Errors
    /// `Error::Shape` when a span does not fit.
    pub(crate) fn draw(&self, [rows, positions]: [i64; 2], chance: Chance, device: Device) -> Result<Tensor> {
        let length = self.length;
        if positions < length {
            let expected = format!("[B, N, C] with N at least {length} (the positions of a span)");
            return Err(Error::Shape { what: "front end".into(), expected, got: vec![rows, positions] });
        }
        let (sure, most) = self.spans(positions);
        let dice = chance.uniform(&[rows, positions - length + 1], 10, device)?;
        let mut starts = dice.f_argsort(1, false)?.f_narrow(1, 0, most)?;
        if most > sure {
            // Where the last span is not wanted, it is the first once more, so that shapes do not change.
            let more = chance.uniform(&[1, 1], 11, device)?;
            let more = more.f_lt((self.part * positions as f64 / length as f64).fract())?;
            let last = starts.f_narrow(1, sure, 1)?.f_where_self(&more, &starts.f_narrow(1, 0, 1)?)?;
            starts = Tensor::f_cat(&[&starts.f_narrow(1, 0, sure)?, &last], 1)?;
        }
        let within = Tensor::f_arange(length, (Kind::Int64, device))?;
        let places = starts.f_unsqueeze(2)?.f_add(&within)?.f_view([rows, most * length])?;
        let none = Tensor::f_zeros([rows, positions], (Kind::Bool, device))?;
        Ok(none.f_scatter_value(1, &places, 1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mask: &SpanMask, shape: [i64; 2]) -> Vec<i64> {
        let drawn = mask.draw(shape, Chance::Generator, Device::Cpu).unwrap();
        Vec::try_from(drawn.sum_dim_intlist(1, false, Kind::Int64)).unwrap()
    }

    #[test]
    fn as_much_is_masked_as_by_the_reference() {
        // The mean part over 2,000 batches of 4, from tests/fixtures/transformers_audio.py.
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/wav2vec2/reference.json")).unwrap();
        for case in fixture["masks"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            let mask = SpanMask { part: number("part"), ..SpanMask::default() };
            let n = number("positions");
            let drawn: Vec<i64> = (0..500).flat_map(|_| counts(&mask, [4, n as i64])).collect();
            let mean = drawn.iter().sum::<i64>() as f64 / drawn.len() as f64 / n;
            assert!((mean - number("mean")).abs() < 0.01, "{case}: {mean}");
            assert!(drawn.iter().all(|&count| count <= number("bound") as i64 && count >= 10), "{case}");
            assert_eq!(mask.most(n as i64), number("bound") as i64, "{case}");
        }
    }

    #[test]
    fn spans_are_whole_and_fixed_masks_stay() {
        let mask = SpanMask { part: 0.2, length: 3, least: 1 };
        let fixed = || mask.draw([5, 20], Chance::Fixed, Device::Cpu).unwrap();
        assert!(fixed().equal(&fixed()));
        for row in Vec::<Vec<bool>>::try_from(fixed()).unwrap() {
            let runs = row.split(|masked| !masked).map(<[bool]>::len).filter(|&run| run > 0);
            assert!(runs.clone().count() >= 1 && runs.clone().all(|run| run >= 3), "{row:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let message = SpanMask::default().draw([2, 9], Chance::Fixed, Device::Cpu).unwrap_err().to_string();
        assert!(message.starts_with("front end: expected [B, N, C] with N at least 10"), "{message}");
        let bad = |mask: SpanMask| mask.validate().unwrap_err().to_string();
        assert_eq!(
            bad(SpanMask { part: 0., ..SpanMask::default() }),
            "part: expected a number above 0 and at most 1, got 0"
        );
        assert_eq!(bad(SpanMask { length: 1, ..SpanMask::default() }), "length: expected at least 2, got 1");
        assert_eq!(bad(SpanMask { least: 0, ..SpanMask::default() }), "least: expected at least 1, got 0");
    }
}
