//! Checks of hyperparameters that many methods have.
//!
//! ```
//! let refused = ssl_core::check::positive("temperature", 0.).unwrap_err();
//! assert_eq!(refused.to_string(), "temperature: expected a number above 0, got 0");
//! ```
use crate::{Error, Result, Schedule};
use std::fmt::Display;

/// Refuses what is no finite number above 0.
///
/// # Errors
/// `Error::Config` with the name.
pub fn positive(name: &str, value: f64) -> Result<()> {
    if value > 0. && value.is_finite() {
        return Ok(());
    }
    Err(Error::config(name, format!("expected a number above 0, got {value}")))
}

/// Refuses the first number that is below its least.
///
/// # Errors
/// `Error::Config` with the name of that number.
pub fn at_least<'a>(least: i64, numbers: impl IntoIterator<Item = (&'a str, i64)>) -> Result<()> {
    match numbers.into_iter().find(|(_, value)| *value < least) {
        Some((name, value)) => Err(Error::config(name, format!("expected at least {least}, got {value}"))),
        None => Ok(()),
    }
}

/// Refuses the first number that is not within its range, both ends included.
///
/// # Errors
/// `Error::Config` with the name of that number.
pub fn ranges<'a, T: PartialOrd + Display>(
    numbers: impl IntoIterator<Item = (&'a str, T, (T, T))>,
) -> Result<()> {
    match numbers.into_iter().find(|(_, value, (least, most))| !(least..=most).contains(&value)) {
        Some((name, value, (least, most))) => {
            Err(Error::config(name, format!("expected {least} to {most}, got {value}")))
        }
        None => Ok(()),
    }
}

/// Refuses a schedule that is not sound, or that starts or ends outside of 0 to 1.
///
/// # Errors
/// `Error::Config` with the name.
pub fn fractions(name: &str, schedule: &Schedule) -> Result<()> {
    schedule.validate(name)?;
    let ends = [schedule.start, schedule.end];
    if ends.iter().all(|end| (0. ..=1.).contains(end)) {
        return Ok(());
    }
    Err(Error::config(name, format!("expected numbers from 0 to 1, got {ends:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn the_number_at_fault_is_named() {
        positive("temperature", 0.1).unwrap();
        for value in [0., -1., f64::NAN, f64::INFINITY] {
            assert_eq!(
                said(positive("sigma", value)),
                format!("sigma: expected a number above 0, got {value}")
            );
        }
        at_least(1, [("a", 1), ("b", 2)]).unwrap();
        assert_eq!(said(at_least(1, [("a", 1), ("b", 0), ("c", -1)])), "b: expected at least 1, got 0");
    }

    #[test]
    fn the_first_value_out_of_its_range_is_named() {
        let part = (0., 1.);
        assert!(ranges([("a", 0., part), ("b", 1., part)]).is_ok());
        for (value, number) in [(1.5, "1.5"), (-1., "-1"), (f64::NAN, "NaN")] {
            let message = ranges([("a", 0.5, part), ("b", value, part), ("c", 9., part)]).unwrap_err();
            assert_eq!(message.to_string(), format!("b: expected 0 to 1, got {number}"));
        }
    }

    #[test]
    fn a_schedule_of_fractions_stays_within_0_and_1() {
        fractions("momentum", &Schedule::cosine(0.99, 1.)).unwrap();
        let message = said(fractions("momentum", &Schedule::cosine(0.9, 1.5)));
        assert_eq!(message, "momentum: expected numbers from 0 to 1, got [0.9, 1.5]");
        assert!(said(fractions("momentum", &Schedule::constant(f64::NAN))).contains("finite"));
    }
}
