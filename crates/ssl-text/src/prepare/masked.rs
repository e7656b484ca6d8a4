//! Text with hidden tokens.
//!
//! Source: Devlin et al., 2018, section 3.1: <https://arxiv.org/abs/1810.04805>, and its official code
//! (`google-research/bert`, `create_pretraining_data.py`: a fixed share of each sequence, whole words as an option);
//! spans from Joshi et al., 2019 (SpanBERT), section 3.1: <https://arxiv.org/abs/1907.10529>.
use super::{Cut, Framing, Prepare};
use crate::batch::{IGNORED, Sequences};
use crate::tokenizer::{SpecialToken, Vocabulary};
use rand::RngExt;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, Rng};
use tch::Tensor;

/// What is hidden together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Single tokens.
    Token,
    /// All tokens of a word.
    Word,
    /// Runs of words, of a length drawn from a geometric distribution.
    Span,
}

/// How much is hidden, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Masking {
    /// Part of the tokens that is predicted.
    pub ratio: f64,
    /// The same at the end of the run, reached along a line; none keeps it constant.
    pub final_ratio: Option<f64>,
    /// Part of the predicted tokens that a random one takes the place of.
    pub random: f64,
    /// Part of the predicted tokens that stays as it is.
    pub kept: f64,
    /// What is hidden together.
    pub unit: Unit,
    /// Chance of a span to end after each word.
    pub span_end: f64,
    /// Words of a span, at most.
    pub span_most: usize,
    /// What a sequence is made of.
    pub text: TextUnit,
}

/// What a sequence is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextUnit {
    /// The text from one place on, over the borders of documents: no sequence is filled up.
    Stream,
    /// The beginning of a document.
    Documents,
}

impl Default for Masking {
    fn default() -> Self {
        Masking {
            ratio: 0.15,
            final_ratio: None,
            random: 0.1,
            kept: 0.1,
            unit: Unit::Token,
            span_end: 0.2,
            span_most: 10,
            text: TextUnit::Stream,
        }
    }
}

impl Masking {
    /// Checks every field.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        let part = |name: &str, value: f64, least: f64| {
            let fits = value.is_finite() && value >= least && value <= 1.;
            let message = || format!("expected a part from {least} to 1, got {value}");
            if fits { Ok(()) } else { Err(Error::config(name, message())) }
        };
        part("masking.ratio", self.ratio, 0.)?;
        part("masking.final_ratio", self.final_ratio.unwrap_or(0.), 0.)?;
        part("masking.random", self.random, 0.)?;
        part("masking.kept", self.kept, 0.)?;
        part("masking.random + masking.kept", self.random + self.kept, 0.)?;
        part("masking.span_end", self.span_end, 0.01)?;
        if self.span_most == 0 {
            return Err(Error::config("masking.span_most", "expected at least 1, got 0"));
        }
        Ok(())
    }

    fn ratio_at(&self, progress: f64) -> f64 {
        self.ratio + (self.final_ratio.unwrap_or(self.ratio) - self.ratio) * progress
    }
}

/// Text between a first token and a separator, some of it hidden. Every sequence predicts as many tokens, so that a batch
/// has one shape.
#[derive(Debug)]
pub struct MaskTokens {
    masking: Masking,
    vocabulary: Vocabulary,
    framing: Framing,
    mask: i64,
    cut: Cut,
}

impl MaskTokens {
    /// Sequences of `length` tokens, the two at the ends included, for `method`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range or the tokenizer lacks one of the special tokens.
    pub fn new(masking: Masking, vocabulary: &Vocabulary, length: usize, method: &str) -> Result<Self> {
        masking.validate()?;
        if length < 4 {
            return Err(Error::config("length", format!("expected at least 4 tokens, got {length}")));
        }
        let mask = vocabulary.special(SpecialToken::Mask, method)?;
        let framing = Framing::between(length, vocabulary, method)?;
        let cut = match masking.text {
            TextUnit::Stream => Cut::Stream { tokens: framing.body() },
            TextUnit::Documents => framing.cut(),
        };
        Ok(MaskTokens { masking, vocabulary: vocabulary.clone(), framing, mask, cut })
    }

    /// The number of predicted tokens of a window.
    fn count(&self, window: usize, progress: f64) -> usize {
        ((window as f64 * self.masking.ratio_at(progress)).round() as usize).clamp(1, window.max(1))
    }

    /// The places to predict in a window, in increasing order, at most `count`; separators are left alone.
    fn choose(&self, row: &[i64], count: usize, rng: &mut Rng) -> Vec<usize> {
        let units = self.units(row);
        let mut order: Vec<usize> = (0..units.len()).collect();
        order.shuffle(rng);
        let mut taken = vec![false; units.len()];
        let mut chosen = Vec::with_capacity(count);
        for first in order {
            if chosen.len() >= count {
                break;
            }
            for unit in first..first + self.span(rng) {
                let (Some(places), Some(taken)) = (units.get(unit), taken.get_mut(unit)) else { break };
                if !*taken && chosen.len() + places.len() <= count {
                    *taken = true;
                    chosen.extend(places.clone());
                }
            }
        }
        chosen.sort_unstable();
        chosen
    }

    /// Words of a span.
    fn span(&self, rng: &mut Rng) -> usize {
        let Masking { unit, span_end, span_most, .. } = self.masking;
        if unit != Unit::Span {
            return 1;
        }
        // Of a length above the most, another is drawn.
        loop {
            let drawn = (1..=span_most).find(|_| rng.random::<f64>() < span_end);
            if let Some(words) = drawn {
                return words;
            }
        }
    }

    /// What is hidden together: runs of places.
    fn units(&self, row: &[i64]) -> Vec<std::ops::Range<usize>> {
        let mut units: Vec<std::ops::Range<usize>> = Vec::with_capacity(row.len());
        for (place, &id) in row.iter().enumerate() {
            if self.vocabulary.is_special(id) {
                continue;
            }
            match units.last_mut() {
                Some(last)
                    if self.masking.unit != Unit::Token
                        && last.end == place
                        && !self.vocabulary.starts_word(id) =>
                {
                    last.end = place + 1;
                }
                _ => units.push(place..place + 1),
            }
        }
        units
    }

    /// What takes the place of a predicted token.
    fn hide(&self, id: i64, rng: &mut Rng) -> i64 {
        let draw = rng.random::<f64>();
        if draw < self.masking.kept {
            id
        } else if draw < self.masking.kept + self.masking.random {
            rng.random_range(0..self.vocabulary.size)
        } else {
            self.mask
        }
    }
}

impl Prepare for MaskTokens {
    fn cut(&self) -> Cut {
        self.cut
    }

    fn sequences(&self, rows: &[Vec<i64>], progress: f64, rng: &mut Rng) -> Result<Sequences> {
        let window = rows.iter().map(Vec::len).max().unwrap_or(0);
        let count = self.count(window, progress);
        let (mut hidden, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let mut ids = row.clone();
            let chosen = self.choose(row, self.count(row.len(), progress), rng);
            for place in 0..count {
                // Where too few words fit, what is left predicts nothing.
                let at = chosen.get(place).copied();
                let target = at.and_then(|at| ids.get(at).copied());
                // The first token is in front of the window.
                places.push(at.map_or(0, |at| at as i64 + 1));
                targets.push(target.unwrap_or(IGNORED));
                if let (Some(id), Some(target)) = (at.and_then(|at| ids.get_mut(at)), target) {
                    *id = self.hide(target, rng);
                }
            }
            hidden.push(ids);
        }
        let tokens = self.framing.tokens(&hidden)?;
        let shape = [rows.len() as i64, count as i64];
        Ok(Sequences {
            tokens,
            places: Some(Tensor::f_from_slice(&places)?.f_view(shape)?),
            targets: Tensor::f_from_slice(&targets)?.f_view(shape)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Specials;
    use ssl_core::rng;

    const SPECIALS: Specials =
        Specials { pad: Some(0), unk: Some(1), cls: Some(2), sep: Some(3), mask: Some(4) };

    /// Tokens from 5 on; odd ones go on with the word before them.
    fn vocabulary() -> Vocabulary {
        let starts: Vec<bool> = (0..1005).map(|id| id < 5 || id % 2 == 0).collect();
        Vocabulary::new(&starts, SPECIALS)
    }

    fn mask(masking: Masking) -> MaskTokens {
        MaskTokens::new(masking, &vocabulary(), 102, "mlm").unwrap()
    }

    fn rows(n: usize) -> Vec<Vec<i64>> {
        (0..n)
            .map(|row| {
                (0..100).map(|i| if i == 50 { 3 } else { 10 + ((row * 100 + i) % 900) as i64 }).collect()
            })
            .collect()
    }

    fn list(x: &Tensor) -> Vec<i64> {
        Vec::<i64>::try_from(x.flatten(0, -1)).unwrap()
    }

    #[test]
    fn of_the_predicted_tokens_four_fifths_are_hidden_and_a_tenth_each_changed_and_kept() {
        let rows = rows(200);
        let made = mask(Masking::default()).sequences(&rows, 0., &mut rng(0, &[])).unwrap();
        let (places, targets) = (made.places.unwrap(), list(&made.targets));
        assert_eq!((made.tokens.ids.size(), places.size()), (vec![200, 102], vec![200, 15]));
        let read = list(&made.tokens.ids.gather(1, &places, false));
        let share = |of: &dyn Fn(i64, i64) -> bool| {
            read.iter().zip(&targets).filter(|(read, target)| of(**read, **target)).count() as f64 / 3000.
        };
        assert!((share(&|read, _| read == 4) - 0.8).abs() < 0.02);
        assert!((share(&|read, target| read == target) - 0.1).abs() < 0.02);
        assert!(targets.iter().all(|&target| target >= 10), "neither separators nor nothing");
        // What is not predicted is as it was.
        let ids = made.tokens.ids.scatter(1, &places, &made.targets);
        let expected: Vec<i64> =
            rows.iter().flat_map(|row| [2].into_iter().chain(row.iter().copied()).chain([3])).collect();
        assert_eq!(list(&ids), expected);
    }

    #[test]
    fn words_are_hidden_whole() {
        let masking = Masking { unit: Unit::Word, random: 0., kept: 0., ..Masking::default() };
        let made = mask(masking).sequences(&rows(50), 0., &mut rng(0, &[])).unwrap();
        let ids = list(&made.tokens.ids);
        let hidden: Vec<bool> = ids.iter().map(|&id| id == 4).collect();
        let whole = rows(50);
        for (row, hidden) in whole.iter().zip(hidden.chunks(102)) {
            for i in 0..99 {
                if i != 49 && i != 50 && row[i + 1] % 2 == 1 {
                    assert_eq!(hidden[i + 1], hidden[i + 2], "{i}");
                }
            }
        }
        assert!(hidden.iter().filter(|&&hidden| hidden).count() > 50 * 12);
    }

    #[test]
    fn spans_are_runs_of_words_of_the_papers_mean_length() {
        let masking = Masking { unit: Unit::Span, ..Masking::default() };
        let spans = mask(masking);
        let mut rng = rng(0, &[]);
        let mean = (0..20_000).map(|_| spans.span(&mut rng) as f64).sum::<f64>() / 20_000.;
        // SpanBERT, section 3.1.
        assert!((mean - 3.8).abs() < 0.05, "{mean}");
    }

    #[test]
    fn of_short_documents_as_large_a_share_is_hidden() {
        let documents = mask(Masking { text: TextUnit::Documents, ..Masking::default() });
        assert_eq!(documents.cut(), Cut::Documents { most: 100 });
        let rows = [rows(1).swap_remove(0), vec![10, 12, 14, 16, 18, 20, 22, 24, 26, 28]];
        let made = documents.sequences(&rows, 0., &mut rng(0, &[])).unwrap();
        let counts = made.targets.ge(0).sum_dim_intlist([1i64].as_slice(), false, tch::Kind::Int64);
        assert_eq!(list(&counts), [15, 2]);
    }

    #[test]
    fn the_share_follows_its_schedule() {
        let masking = Masking { ratio: 0.3, final_ratio: Some(0.1), ..Masking::default() };
        let spans = mask(masking);
        assert_eq!([0., 0.5, 1.].map(|at| spans.count(100, at)), [30, 20, 10]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let message = Masking { ratio: 1.5, ..Masking::default() }.validate().unwrap_err().to_string();
        assert_eq!(message, "masking.ratio: expected a part from 0 to 1, got 1.5");
        let none = Vocabulary::new(&[true; 9], Specials { mask: None, ..SPECIALS });
        let message = MaskTokens::new(Masking::default(), &none, 16, "mlm").unwrap_err().to_string();
        assert!(
            message.starts_with("tokenizer: mlm needs one of the special tokens [MASK], <mask>"),
            "{message}"
        );
    }
}
