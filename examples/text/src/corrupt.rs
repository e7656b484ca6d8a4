//! Text made worse, at five severities, as by hasty typing.
//!
//! Source: Belinkov & Bisk, 2018, section 3.2 (letters that change places): <https://arxiv.org/abs/1711.02173>.
use ssl_core::{Error, Result};
use ssl_examples::events;

/// What can be done to text.
pub(crate) const NAMES: [&str; 2] = ["letters_swapped", "letters_dropped"];
/// The share of letters that it happens to, from mild to severe.
const RATES: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.3];

/// A text at a severity from 1 to 5; `index` is its number, to which chance belongs.
pub(crate) fn corrupt(
    text: &str,
    name: &str,
    severity: usize,
    (index, seed): (usize, u64),
) -> Result<String> {
    let rate = RATES.get(severity.wrapping_sub(1)).filter(|_| NAMES.contains(&name)).ok_or_else(|| {
        let expected = format!("expected {} at a severity from 1 to 5", NAMES.join(", "));
        Error::config("corruption", format!("{expected}, got {name} at {severity}"))
    })?;
    let mut letters: Vec<char> = text.chars().collect();
    let happens = events(letters.len(), *rate, seed, index);
    if name == "letters_dropped" {
        let kept =
            letters.into_iter().zip(happens).filter(|(letter, lost)| !(*lost && letter.is_alphabetic()));
        let kept: String = kept.map(|(letter, _)| letter).collect();
        // Nothing cannot be read.
        return Ok(if kept.is_empty() { text.to_string() } else { kept });
    }
    let mut rest = letters.as_mut_slice();
    let mut happens = happens.as_slice();
    while let [first, second, ..] = rest {
        let swap = happens.first() == Some(&true) && first.is_alphabetic() && second.is_alphabetic();
        if swap {
            std::mem::swap(first, second);
        }
        let step = if swap { 2 } else { 1 };
        rest = rest.split_at_mut(step).1;
        happens = happens.get(step..).unwrap_or_default();
    }
    Ok(letters.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "The quick brown fox, aged 12, jumps over the lazy dog; the dog sleeps on, until 9 a.m.!";

    #[test]
    fn letters_are_lost_and_nothing_else() {
        let lost = |severity| {
            let worse = corrupt(&TEXT.repeat(20), "letters_dropped", severity, (3, 0)).unwrap();
            let others = |text: &str| text.chars().filter(|c| !c.is_alphabetic()).collect::<String>();
            assert_eq!(others(&worse), others(&TEXT.repeat(20)));
            1. - worse.chars().filter(|c| c.is_alphabetic()).count() as f64
                / TEXT.repeat(20).chars().filter(|c| c.is_alphabetic()).count() as f64
        };
        assert!((lost(1) - 0.02).abs() < 0.015 && (lost(5) - 0.3).abs() < 0.04, "{} {}", lost(1), lost(5));
    }

    #[test]
    fn letters_change_places_with_the_next_one_of_their_word() {
        let worse = corrupt(TEXT, "letters_swapped", 5, (3, 0)).unwrap();
        assert_ne!(worse, TEXT);
        let words = |text: &str| {
            text.split(' ')
                .map(|word| {
                    let mut letters: Vec<char> = word.chars().collect();
                    letters.sort_unstable();
                    letters
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&worse), words(TEXT));
        let moved = worse.chars().zip(TEXT.chars()).filter(|(a, b)| a != b).count();
        assert!(moved.is_multiple_of(2) && moved > 4, "{worse}");
    }

    #[test]
    fn what_happens_belongs_to_the_number_of_the_text() {
        let of = |index, seed| corrupt(TEXT, "letters_swapped", 3, (index, seed)).unwrap();
        assert!(of(3, 0) == of(3, 0) && of(3, 0) != of(4, 0) && of(3, 0) != of(3, 1));
        let message = corrupt(TEXT, "letters_lost", 6, (3, 0)).unwrap_err().to_string();
        let expected = "letters_swapped, letters_dropped at a severity from 1 to 5, got letters_lost at 6";
        assert!(message.ends_with(expected), "{message}");
        assert_eq!(corrupt("", "letters_swapped", 1, (0, 0)).unwrap(), "");
        assert!((0..50).all(|index| corrupt("a", "letters_dropped", 5, (index, 0)).unwrap() == "a"));
    }
}
