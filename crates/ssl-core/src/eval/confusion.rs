//! Which class is taken for which.
use crate::{Error, Result};

/// How often each class was answered with each.
///
/// # Shapes
/// Returns C rows of C counts: a row for each true class, a column for each answer; C is the highest of both plus one.
///
/// # Errors
/// `Error::Config` when the lengths differ, or a class is negative.
pub fn confusion(answers: &[i64], labels: &[i64]) -> Result<Vec<Vec<u64>>> {
    if answers.len() != labels.len() {
        let message = format!("expected {}, one for each label, got {}", labels.len(), answers.len());
        return Err(Error::config("answers", message));
    }
    if let Some(bad) = answers.iter().chain(labels).find(|class| **class < 0) {
        return Err(Error::config("answers", format!("expected classes from 0, got {bad}")));
    }
    let classes = answers.iter().chain(labels).max().map_or(0, |last| *last as usize + 1);
    let mut counts = vec![vec![0; classes]; classes];
    for (&answer, &label) in answers.iter().zip(labels) {
        if let Some(count) = counts.get_mut(label as usize).and_then(|row| row.get_mut(answer as usize)) {
            *count += 1;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn counts_equal_those_of_scikit_learn() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let expected: Vec<Vec<u64>> = serde_json::from_value(all["confusion"].clone()).unwrap();
        let labels: Vec<i64> = (0..120).map(|i| i % 4).collect();
        let answers: Vec<i64> = (0..120).map(|i| i * i % 7 % 5).collect();
        assert_eq!(confusion(&answers, &labels).unwrap(), expected);
    }

    #[test]
    fn answers_must_fit_the_labels() {
        let said = |answers: &[i64]| confusion(answers, &[0, 1]).unwrap_err().to_string();
        assert_eq!(said(&[1]), "answers: expected 2, one for each label, got 1");
        assert_eq!(said(&[1, -1]), "answers: expected classes from 0, got -1");
    }
}
