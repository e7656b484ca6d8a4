//! Pairs of words whose likeness people have scored.
//!
//! Source: Spearman, 1904: <https://doi.org/10.2307/1412159>; ties get the mean of their ranks, as in `scipy.stats`.
use super::{Lexicon, lines, unit_vectors};
use crate::methods::TextMethod;
use serde::Serialize;
use ssl_core::{Error, Result};
use std::path::Path;
use tch::{Kind, Tensor};

/// Two words and how alike people find them.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The words.
    pub words: [String; 2],
    /// The score, on any scale; more is more alike.
    pub score: f64,
}

/// Reads pairs of words: two columns of words and one of scores, parted by tabs, commas or white space.
///
/// The score is in the first column behind the words that is a number, the same in all lines: SimLex-999 has the part
/// of speech before it. A first line without a number is a header; further columns are not looked at.
///
/// # Errors
/// `Error::Io` when the file cannot be read, `Error::Data` when it is not UTF-8, a line lacks a column or a number, or
/// no line is left.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut place = None;
    for (index, (number, line)) in lines(path)?.iter().enumerate() {
        let columns = columns(line);
        let bad = |message: String| Error::data(path, format!("line {number}: {message}"));
        let [first, second, rest @ ..] = columns.as_slice() else {
            return Err(bad(format!("expected two words and a score, got {} of 3 columns", columns.len())));
        };
        let known = place.or_else(|| rest.iter().position(|text| score(text).is_some()));
        if known.is_none() && index == 0 && !rest.is_empty() {
            continue;
        }
        let column = known.unwrap_or(0);
        let Some(text) = rest.get(column) else {
            let (got, wanted) = (columns.len(), column + 3);
            return Err(bad(format!("expected two words and a score, got {got} of {wanted} columns")));
        };
        let Some(score) = score(text) else {
            return Err(bad(format!("expected a number as the score, got {text}")));
        };
        place = Some(column);
        pairs.push(Pair { words: [first.to_string(), second.to_string()], score });
    }
    if pairs.is_empty() {
        return Err(Error::data(path, "expected lines of two words and a score, got none"));
    }
    Ok(pairs)
}

fn columns(line: &str) -> Vec<&str> {
    match ['\t', ','].into_iter().find(|&sign| line.contains(sign)) {
        Some(sign) => line.split(sign).map(|text| text.trim().trim_matches('"')).collect(),
        None => line.split_whitespace().collect(),
    }
}

fn score(text: &str) -> Option<f64> {
    text.parse().ok().filter(|score: &f64| score.is_finite())
}

/// How the cosines of pairs of words agree with their scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Similarity {
    /// Spearman's rank correlation over the covered pairs; none for less than two, or where all are equal.
    pub spearman: Option<f64>,
    /// Pairs both of whose words are known.
    pub covered: usize,
    /// The others.
    pub left_out: usize,
}

impl Similarity {
    /// That of a method's vectors.
    ///
    /// # Errors
    /// What the method's encoder says.
    pub fn new(pairs: &[Pair], lexicon: &Lexicon<'_>, method: &dyn TextMethod) -> Result<Self> {
        let (mut first, mut second, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for Pair { words: [a, b], score } in pairs {
            if let (Some(a), Some(b)) = (lexicon.tokens(a), lexicon.tokens(b)) {
                first.push(a);
                second.push(b);
                scores.push(*score);
            }
        }
        let (covered, left_out) = (scores.len(), pairs.len() - scores.len());
        if covered == 0 {
            return Ok(Similarity { spearman: None, covered, left_out });
        }
        let vectors = |words: &[Vec<i64>]| -> Result<Tensor> {
            Ok(unit_vectors(method, words)?.f_to_kind(Kind::Double)?)
        };
        let products = vectors(&first)?.f_mul(&vectors(&second)?)?;
        let cosines = products.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        Ok(Similarity { spearman: spearman(&Vec::<f64>::try_from(cosines)?, &scores), covered, left_out })
    }
}

/// Spearman's rank correlation of two lists of one length, from -1 to 1; ties get the mean of their ranks.
///
/// None where it is not defined: lists of different lengths or of less than two numbers, or equal numbers alone.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (a, b) = (centered_ranks(a), centered_ranks(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (size > 0.).then(|| (dot(&a, &b) / size).clamp(-1., 1.))
}

/// The rank of each number less the mean of all ranks.
fn centered_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut ranks = vec![0.; values.len()];
    let mut below = 0;
    for equal in order.chunk_by(|(_, a), (_, b)| a == b) {
        let rank = below as f64 + (equal.len() as f64 - values.len() as f64) / 2.;
        for (place, _) in equal {
            if let Some(of_value) = ranks.get_mut(*place) {
                *of_value = rank;
            }
        }
        below += equal.len();
    }
    ranks
}
