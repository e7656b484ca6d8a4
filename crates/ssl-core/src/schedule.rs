//! Values that change over a run, as pure functions of the step: learning rates, weight decay, momenta, temperatures.
//!
//! Source: Loshchilov & Hutter, 2017 (cosine): <https://arxiv.org/abs/1608.03983>; Goyal et al., 2017 (warm-up):
//! <https://arxiv.org/abs/1706.02677>. Libraries disagree in three places, each a choice here:
//!
//! | library | schedule here | [`End`] | [`Ramp`] | [`Span`] |
//! |---|---|---|---|---|
//! | lightly `cosine_schedule` | `cosine` | `AtLastStep` | | |
//! | lightly `cosine_warmup_schedule` | `cosine` + warm-up | `AtLastStep` | `SkipStart` | `Rest` |
//! | torch `CosineAnnealingLR`, solo-learn's momentum | `cosine` | `AfterLastStep` | | |
//! | torch `MultiStepLR` | `milestones` | | | |
//! | torch `OneCycleLR` | `one_cycle` | | | |
//! | transformers cosine and linear with warm-up | `cosine`, `linear` + warm-up | `AfterLastStep` | `FromStart` | `Rest` |
//! | timm `CosineLRScheduler` (`warmup_prefix=False`) | `cosine` + warm-up | `AfterLastStep` | `FromStart` | `Whole` |
//! | SimCLR's code (`model_util.py`) | `cosine` + warm-up | `AfterLastStep` | `FromStart` | `Rest` |
//! | BYOL's momentum | `cosine` from 0.996 to 1 | `AfterLastStep` | | |
//! | solo-learn `LinearWarmupCosineAnnealingLR` | `cosine` + warm-up from 3e-5 | `AfterLastStep` | `BothEnds` | `Rest` |
//!
//! ```
//! use ssl_core::{Schedule, Step};
//! let rate = Schedule::cosine(0.4, 0.).with_warmup(10);
//! assert!((rate.at(Step { index: 0, total: 100 }) - 0.04).abs() < 1e-12);
//! assert_eq!(rate.at(Step { index: 99, total: 100 }), 0.);
//! ```
use crate::{Error, Result, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A hyperparameter over the run: a warm-up to `start`, then `shape` from `start` to `end`.
///
/// Past the end of the run the value stays where it ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Value after the warm-up.
    pub start: f64,
    /// Value at the end of the run; unused by `constant` and `milestones`.
    #[serde(default)]
    pub end: f64,
    /// The way from `start` to `end`.
    pub shape: Shape,
    /// The step at which `end` is reached.
    #[serde(default)]
    pub reached: End,
    /// The steps before `start` is reached.
    #[serde(default)]
    pub warmup: Warmup,
}

/// The way from the start value to the end value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Stays at the start value.
    Constant,
    /// A straight line.
    Linear,
    /// Half a period of a cosine.
    Cosine,
    /// The start value times `factor` for each milestone passed.
    Milestones {
        /// What one milestone multiplies the value by.
        factor: f64,
        /// Steps from which a factor more applies.
        at: Milestones,
    },
    /// A cosine from `from` up to the start value, then another down to the end value.
    OneCycle {
        /// Value at step 0.
        from: f64,
        /// Part of the run that rises, between 0 and 1.
        rise: f64,
    },
}

/// The step at which the end value is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The last step of the run uses the end value (lightly).
    #[default]
    AtLastStep,
    /// The step after the last would use it (SimCLR's and BYOL's code, torch, timm, transformers, solo-learn).
    AfterLastStep,
}

/// A linear rise before the schedule proper.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Warmup {
    /// Length in steps; 0 for none.
    pub steps: u64,
    /// Value that the rise starts from.
    pub from: f64,
    /// Which of the two ends of the rise are used.
    pub ramp: Ramp,
    /// What the schedule proper is stretched over.
    pub span: Span,
}

/// Where a warm-up of `w` steps stands at step `i < w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ramp {
    /// `(i + 1) / w`: the first step already moves, the last one has the full value (lightly).
    #[default]
    SkipStart,
    /// `i / w`: the first step has `from`, the first after the warm-up the full value (SimCLR's code, transformers,
    /// timm).
    FromStart,
    /// `i / (w - 1)`: the first step has `from`, the last of the warm-up the full value (solo-learn).
    BothEnds,
}

/// What the schedule proper is stretched over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// The steps after the warm-up.
    #[default]
    Rest,
    /// The whole run; the warm-up hides its beginning, and the full value is never reached (timm).
    Whole,
}

/// Up to eight steps in increasing order; in JSON a list. A step that stands there twice counts twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
#[schemars(with = "Vec<u64>")]
pub struct Milestones([u64; Milestones::MOST]);

impl Milestones {
    /// Milestones at most.
    pub(crate) const MOST: usize = 8;

    /// Milestones from a list.
    ///
    /// # Errors
    /// `Error::Config` when there are more than eight or their order is not increasing.
    pub fn new(steps: &[u64]) -> Result<Self> {
        let mut all = [u64::MAX; Milestones::MOST];
        match all.get_mut(..steps.len()) {
            Some(head) if steps.is_sorted() => head.copy_from_slice(steps),
            _ => {
                let message = format!("expected at most 8 steps in increasing order, got {steps:?}");
                return Err(Error::config("milestones", message));
            }
        }
        Ok(Milestones(all))
    }

    fn passed(&self, index: u64) -> i32 {
        self.0.iter().map(|&step| i32::from(step <= index)).sum()
    }
}

impl TryFrom<Vec<u64>> for Milestones {
    type Error = Error;
    fn try_from(steps: Vec<u64>) -> Result<Self> {
        Milestones::new(&steps)
    }
}

impl From<Milestones> for Vec<u64> {
    fn from(milestones: Milestones) -> Self {
        milestones.0.into_iter().filter(|&step| step != u64::MAX).collect()
    }
}

impl Schedule {
    fn new(start: f64, end: f64, shape: Shape) -> Self {
        Schedule { start, end, shape, reached: End::default(), warmup: Warmup::default() }
    }

    /// The same value at every step.
    pub fn constant(value: f64) -> Self {
        Schedule::new(value, value, Shape::Constant)
    }

    /// A straight line; the last step has `end`.
    pub fn linear(start: f64, end: f64) -> Self {
        Schedule::new(start, end, Shape::Linear)
    }

    /// Half a cosine; the last step has `end`. BYOL's momentum is that from 0.996 to 1 with [`End::AfterLastStep`], since
    /// the paper's `k / K` counts the steps done.
    pub fn cosine(start: f64, end: f64) -> Self {
        Schedule::new(start, end, Shape::Cosine)
    }

    /// `start`, multiplied by `factor` at each milestone.
    pub fn milestones(start: f64, factor: f64, at: Milestones) -> Self {
        Schedule::new(start, start, Shape::Milestones { factor, at })
    }

    /// From `peak / 25` up to `peak` in 30 % of the run, then down to `peak / 250000`.
    ///
    /// # Source
    /// Smith & Topin, 2018: <https://arxiv.org/abs/1708.07120>; the numbers are those of torch's `OneCycleLR`.
    pub fn one_cycle(peak: f64) -> Self {
        Schedule::new(peak, peak / 25. / 1e4, Shape::OneCycle { from: peak / 25., rise: 0.3 })
    }

    /// The same after a linear warm-up from 0 whose first step already moves.
    pub fn with_warmup(self, steps: u64) -> Self {
        Schedule { warmup: Warmup { steps, ..Warmup::default() }, ..self }
    }

    /// The same with the end value reached elsewhere.
    pub fn reached(self, reached: End) -> Self {
        Schedule { reached, ..self }
    }

    /// Checks the numbers; `name` is the field that holds the schedule.
    ///
    /// # Errors
    /// `Error::Config` when a number is not finite or `rise` is not between 0 and 1.
    pub fn validate(&self, name: &str) -> Result<()> {
        let (inner, rise) = match self.shape {
            Shape::Milestones { factor, .. } => (factor, 0.5),
            Shape::OneCycle { from, rise } => (from, rise),
            Shape::Constant | Shape::Linear | Shape::Cosine => (0., 0.5),
        };
        if ![self.start, self.end, self.warmup.from, inner].iter().all(|x| x.is_finite()) {
            return Err(Error::config(name, format!("expected finite numbers, got {self:?}")));
        }
        if !(rise > 0. && rise < 1.) {
            return Err(Error::config(name, format!("expected a rise between 0 and 1, got {rise}")));
        }
        Ok(())
    }

    /// The value at a step.
    pub fn at(&self, step: Step) -> f64 {
        let warmup = self.warmup;
        if step.index < warmup.steps {
            let (i, w) = (step.index as f64, warmup.steps as f64);
            let done = match warmup.ramp {
                Ramp::SkipStart => (i + 1.) / w,
                Ramp::FromStart => i / w,
                Ramp::BothEnds if warmup.steps == 1 => 1.,
                Ramp::BothEnds => i / (w - 1.),
            };
            return warmup.from + (self.start - warmup.from) * done;
        }
        let hidden = match warmup.span {
            Span::Rest => warmup.steps,
            Span::Whole => 0,
        };
        let (index, length) = (step.index - hidden, step.total.saturating_sub(hidden));
        let last = match self.reached {
            End::AtLastStep => length.saturating_sub(1),
            End::AfterLastStep => length,
        };
        let done = if index >= last { 1. } else { index as f64 / last as f64 };
        match self.shape {
            Shape::Constant => self.start,
            Shape::Linear => self.start + (self.end - self.start) * done,
            Shape::Cosine => half_cosine(self.start, self.end, done),
            Shape::Milestones { factor, at } => self.start * factor.powi(at.passed(step.index)),
            Shape::OneCycle { from, rise } => {
                // Torch counts the rising steps less one, so that its last one has the peak.
                let top = rise * length as f64 - 1.;
                let (i, last) = (index as f64, length as f64 - 1.);
                match i {
                    i if i <= top => half_cosine(from, self.start, i / top.max(1e-9)),
                    i => half_cosine(self.start, self.end, ((i - top) / (last - top).max(1e-9)).min(1.)),
                }
            }
        }
    }
}

fn half_cosine(start: f64, end: f64, done: f64) -> f64 {
    if done >= 1. { end } else { end + (start - end) * ((PI * done).cos() + 1.) / 2. }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(schedule: Schedule, total: u64) -> Vec<f64> {
        (0..total).map(|index| schedule.at(Step { index, total })).collect()
    }

    #[test]
    fn milestones_multiply_from_their_step_on() {
        let at = Milestones::new(&[2, 4]).unwrap();
        assert_eq!(run(Schedule::milestones(1., 0.5, at), 6), [1., 1., 0.5, 0.5, 0.25, 0.25]);
        assert!(Milestones::new(&[4, 2]).is_err());
        assert!(Milestones::new(&[1; 9]).is_err());
    }

    #[test]
    fn solo_learn_warms_up_from_its_start_value_to_the_full_one_within_the_warmup() {
        let warmup = Warmup { steps: 3, from: 3e-5, ramp: Ramp::BothEnds, span: Span::Rest };
        let schedule = Schedule { warmup, ..Schedule::cosine(1., 0.).reached(End::AfterLastStep) };
        let values = run(schedule, 5);
        for (value, expected) in values.iter().zip([3e-5, 0.500015, 1., 1., 0.5]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn runs_of_no_and_one_step_and_warmups_longer_than_the_run_are_defined() {
        for (warmup, total) in [(0, 0), (0, 1), (1, 1), (5, 1), (5, 5)] {
            for schedule in [Schedule::cosine(1., 0.), Schedule::linear(1., 0.), Schedule::one_cycle(1.)] {
                let value = schedule.with_warmup(warmup).at(Step { index: 0, total });
                assert!(value.is_finite() && (0. ..=1.).contains(&value), "{warmup} {total}: {value}");
            }
        }
    }

    #[test]
    fn json_names_each_choice_and_refuses_unknown_fields() {
        let schedule = Schedule::milestones(1., 0.1, Milestones::new(&[3]).unwrap()).with_warmup(2);
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
        let short: Schedule = serde_json::from_str(r#"{"start": 0.4, "shape": "cosine"}"#).unwrap();
        assert_eq!(short, Schedule::cosine(0.4, 0.));
        assert!(serde_json::from_str::<Schedule>(r#"{"start": 0.4, "shape": "cosine", "warm": 1}"#).is_err());
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_by_name() {
        let error = Schedule::constant(f64::NAN).validate("learning_rate").unwrap_err().to_string();
        assert!(error.starts_with("learning_rate: expected finite numbers"), "{error}");
        assert!(Schedule::cosine(1., 0.).validate("x").is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_cosine_falls_from_start_to_end_and_stays(total in 2u64..200, warmup in 0u64..50, extra in 0u64..9) {
            let schedule = Schedule::cosine(2., 0.5).with_warmup(warmup.min(total - 1));
            let values = run(schedule, total);
            prop_assert!(values.iter().all(|v| *v > 0. && *v <= 2.));
            let last = schedule.at(Step { index: total - 1 + extra, total });
            prop_assert!((last - 0.5).abs() < 1e-12);
        }
    }
}
