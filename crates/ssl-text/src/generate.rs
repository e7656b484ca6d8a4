//! Text that goes on, and hidden tokens that are filled in.
//!
//! Source: Fan et al., 2018, section 5.4 (sampling among the most likely): <https://arxiv.org/abs/1805.04833>.
use crate::batch::Tokens;
use crate::methods::{Logits, TextMethod};
use rand::RngExt;
use ssl_core::{Error, Result, Rng, no_grad};
use tch::{Kind, Tensor};

/// How the next token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// What logits are divided by: 0 takes the most likely, 1 draws from the model's distribution.
    pub temperature: f64,
    /// Among how many of the most likely tokens one is drawn; 0 is all.
    pub top_k: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.8, top_k: 40 }
    }
}

/// The tokens of `begin` and `count` more that the method draws one after the other; of a long text it reads the last
/// tokens that there is room for.
///
/// # Errors
/// `Error::Config` when nothing is to be gone on with, a number is out of range, or the method predicts no next token.
pub fn generate(
    method: &dyn TextMethod,
    begin: &[i64],
    sampling: &Sampling,
    count: usize,
    rng: &mut Rng,
) -> Result<Vec<i64>> {
    if begin.is_empty() {
        return Err(Error::config("prompt", "expected at least one token, got none"));
    }
    if !(sampling.temperature >= 0. && sampling.temperature.is_finite()) {
        let message = format!("expected a number of at least 0, got {}", sampling.temperature);
        return Err(Error::config("temperature", message));
    }
    let framing = method.framing();
    let device = method.stores().first().map_or(tch::Device::Cpu, |(_, vars)| vars.device());
    let mut ids = begin.to_vec();
    for _ in 0..count {
        let read = ids.get(ids.len().saturating_sub(framing.most)..).unwrap_or(&ids);
        let tokens = ssl_core::Batch::to_device(&Tokens::padded([read], framing.pad)?, device)?;
        let logits = match no_grad(|| method.logits(&tokens))? {
            Some(Logits::Next(logits)) => logits.f_select(1, -1)?.f_squeeze_dim(0)?,
            _ => {
                return Err(Error::config(
                    "method",
                    "expected one that predicts the next token, such as clm",
                ));
            }
        };
        ids.push(draw(&logits, sampling, rng)?);
    }
    Ok(ids)
}

/// One token by its logits, `[V]`.
fn draw(logits: &Tensor, sampling: &Sampling, rng: &mut Rng) -> Result<i64> {
    let logits = logits.f_to_kind(Kind::Float)?;
    let size = logits.size().first().copied().unwrap_or(0);
    let most = if sampling.temperature == 0. { 1 } else { sampling.top_k as i64 };
    let most = if most == 0 { size } else { most.min(size) };
    let (values, places) = logits.f_topk(most, 0, true, true)?;
    let scaled = values.f_div_scalar(sampling.temperature.max(1e-6))?;
    let shares = Vec::<f64>::try_from(scaled.f_softmax(0, Kind::Double)?)?;
    let mut left = rng.random::<f64>();
    let drawn = shares.iter().position(|share| {
        left -= share;
        left < 0.
    });
    Ok(i64::try_from(places.f_get(drawn.unwrap_or(0) as i64)?)?)
}

/// The most likely tokens at each hidden place, best first, each with its probability.
///
/// # Shapes
/// `ids`: one sequence, in which `mask` stands for what is hidden.
///
/// # Errors
/// `Error::Config` when nothing is hidden, or the method restores nothing.
pub fn fill(method: &dyn TextMethod, ids: &[i64], mask: i64, count: usize) -> Result<Vec<Vec<(i64, f64)>>> {
    let places: Vec<i64> =
        ids.iter().enumerate().filter(|(_, id)| **id == mask).map(|(i, _)| i as i64).collect();
    if places.is_empty() {
        return Err(Error::config("text", "expected at least one hidden token, got none"));
    }
    let device = method.stores().first().map_or(tch::Device::Cpu, |(_, vars)| vars.device());
    let tokens = ssl_core::Batch::to_device(&Tokens::padded([ids], method.framing().pad)?, device)?;
    let logits = match no_grad(|| method.logits(&tokens))? {
        Some(Logits::Same(logits)) => logits.f_squeeze_dim(0)?.f_to_kind(Kind::Float)?,
        _ => return Err(Error::config("method", "expected one that restores hidden tokens, such as mlm")),
    };
    let at = logits.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(device)?)?;
    let most = (count as i64).min(at.size().get(1).copied().unwrap_or(0));
    let (shares, tokens) = at.f_softmax(1, Kind::Double)?.f_topk(most, 1, true, true)?;
    let (shares, tokens) = (Vec::<Vec<f64>>::try_from(shares)?, Vec::<Vec<i64>>::try_from(tokens)?);
    Ok(tokens.into_iter().zip(shares).map(|(t, s)| t.into_iter().zip(s).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders};
    use crate::methods::{clm, mlm};
    use ssl_core::rng;

    #[test]
    fn the_most_likely_is_taken_at_temperature_zero_and_drawn_by_its_share_above() {
        let logits = Tensor::from_slice(&[0f32, 2f32.ln(), -50.]);
        let share = |temperature, top_k| {
            let (mut rng, sampling) = (rng(0, &[]), Sampling { temperature, top_k });
            (0..2000).filter(|_| draw(&logits, &sampling, &mut rng).unwrap() == 1).count() as f64 / 2000.
        };
        assert_eq!(share(0., 0), 1.);
        assert_eq!(share(1., 1), 1.);
        assert!((share(1., 0) - 2. / 3.).abs() < 0.03);
        assert!((share(0.5, 2) - 0.8).abs() < 0.03);
    }

    #[test]
    fn text_goes_on_beyond_the_places_of_the_encoder() {
        use crate::methods::Definition;
        let (tokenizer, _) = corpus();
        let clm = clm::Clm::new(clm::Config {}, &encoders("gpt2_d8_l1_h2", &tokenizer)).unwrap();
        let run = |seed| generate(&clm, &[5, 6], &Sampling::default(), 30, &mut rng(seed, &[])).unwrap();
        assert_eq!((run(1).len(), &run(1)[..2]), (32, &[5, 6][..]));
        assert!(run(1) == run(1) && run(1) != run(2));
        assert!(generate(&clm, &[], &Sampling::default(), 1, &mut rng(0, &[])).is_err());
    }

    #[test]
    fn hidden_places_are_filled_with_shares_that_fall() {
        use crate::methods::Definition;
        let (tokenizer, _) = corpus();
        let mlm = mlm::Mlm::new(mlm::Config::default(), &encoders("bert_d8_l1_h2", &tokenizer)).unwrap();
        let filled = fill(&mlm, &[2, 4, 7, 4, 3], 4, 3).unwrap();
        assert_eq!((filled.len(), filled[0].len()), (2, 3));
        assert!(filled[0].windows(2).all(|pair| pair[0].1 >= pair[1].1));
        let message = fill(&mlm, &[2, 7, 3], 4, 3).unwrap_err().to_string();
        assert_eq!(message, "text: expected at least one hidden token, got none");
        assert!(generate(&mlm, &[2], &Sampling::default(), 1, &mut rng(0, &[])).is_err());
    }
}
