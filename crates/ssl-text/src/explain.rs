//! What an encoder looks at in text.
//!
//! ```
//! use ssl_core::explain::apart;
//! use ssl_text::explain::of_encoder;
//! use ssl_text::models::{Attend, Encoder, EncoderConfig};
//! use ssl_text::Tokens;
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! let vars = VarStore::new(Device::Cpu);
//! let encoder = Encoder::new(&vars.root(), &EncoderConfig::new("bert_d12_l2_h2".parse()?), 50)?;
//! let tokens = Tokens::padded([&[1, 7, 9, 2][..], &[1, 30, 2]], 0)?;
//! let embeddings = encoder.embed(&tokens, Attend::All, ssl_core::Mode::Eval)?;
//! let directions = apart(&embeddings, &Tensor::f_zeros([1, 12], (Kind::Float, Device::Cpu))?)?;
//! let found = of_encoder(&encoder, &tokens, Attend::All, &directions)?;
//! let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
//! assert_eq!(names, ["integrated gradients", "attention rollout"]);
//! assert!(found.iter().all(|found| found.shares.size() == [2, 4]));
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::batch::Tokens;
use crate::models::{Attend, Encoder, EncoderConfig, Pooling};
use ssl_core::explain::{along, attention_rollout, integrated_gradients, replica};
use ssl_core::{Error, Mode, Result, no_grad};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// What is looked at in each text.
#[derive(Debug)]
pub struct Explanation {
    /// How it was found.
    pub name: String,
    /// The share of each token, 0 at fillings, `[B, N]`.
    pub shares: Tensor,
}

/// Parts that the way from the mean word is cut into.
const STEPS: i64 = 16;

/// An encoder of its own with these tensors, to be explained and to be made random; and its variables.
///
/// # Errors
/// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the tensors are another's.
pub fn encoder_of(
    config: &EncoderConfig,
    vocabulary: i64,
    tensors: &BTreeMap<String, Tensor>,
    device: Device,
) -> Result<(VarStore, Encoder)> {
    replica(tensors, device, |p| Encoder::new(p, config, vocabulary))
}

/// All that can be told from inside of an encoder: [`by_gradients`], and [`by_attention`] where it has some.
///
/// # Shapes
/// `directions`: `[B, D]`.
///
/// # Errors
/// As [`Encoder::forward`].
pub fn of_encoder(
    encoder: &Encoder,
    tokens: &Tokens,
    attend: Attend,
    directions: &Tensor,
) -> Result<Vec<Explanation>> {
    let first = by_gradients(encoder, tokens, attend, directions)?;
    Ok(std::iter::once(first).chain(by_attention(encoder, tokens, attend)?).collect())
}

/// Of embeddings along `directions` the share of each token, by integrated gradients over the vectors of tokens, from the
/// mean of all vectors.
///
/// # Shapes
/// `directions`: `[B, D]`.
///
/// # Errors
/// As [`Encoder::forward`].
pub fn by_gradients(
    encoder: &Encoder,
    tokens: &Tokens,
    attend: Attend,
    directions: &Tensor,
) -> Result<Explanation> {
    let (vectors, mean) = no_grad(|| {
        let mean = encoder.words().weight().f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
        Ok::<_, Error>((encoder.words().forward(&tokens.ids)?, mean))
    })?;
    let scalar = |vectors: &Tensor| {
        let x = encoder.forward_vectors(vectors, tokens, attend, Mode::Eval)?;
        along(&encoder.pool(&x, tokens)?, directions)
    };
    let found = integrated_gradients(&scalar, &vectors, &mean, STEPS)?;
    let shares = found.values.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?;
    let name = "integrated gradients".to_string();
    Ok(Explanation { name, shares: without_fillings(&shares, tokens)? })
}

/// Where what stands for a text looks, over all layers of a transformer; nothing of another network.
///
/// # Errors
/// As [`Encoder::forward`].
pub fn by_attention(encoder: &Encoder, tokens: &Tokens, attend: Attend) -> Result<Option<Explanation>> {
    let layers = encoder.attention(tokens, attend)?;
    if layers.is_empty() {
        return Ok(None);
    }
    let shares = seen_by_text(encoder, &attention_rollout(&layers, 0.)?, tokens)?;
    Ok(Some(Explanation { name: "attention rollout".into(), shares }))
}

/// The row of what stands for a text, `[B, N, N]` to `[B, N]`.
fn seen_by_text(encoder: &Encoder, rollout: &Tensor, tokens: &Tokens) -> Result<Tensor> {
    let rows = match encoder.pooling() {
        Pooling::Cls => rollout.f_select(1, 0)?,
        Pooling::Last => {
            let n = rollout.size().last().copied().unwrap_or(0);
            let last = tokens.lengths.f_sub_scalar(1)?.f_view([-1, 1, 1])?.f_expand([-1, 1, n], false)?;
            rollout.f_gather(1, &last, false)?.f_squeeze_dim(1)?
        }
        Pooling::Mean => match tokens.held()? {
            None => rollout.f_mean_dim([1i64].as_slice(), false, Kind::Float)?,
            Some(held) => {
                let kept = rollout.f_mul(&held.f_unsqueeze(2)?)?;
                let sum = kept.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
                sum.f_div(&tokens.lengths.f_unsqueeze(1)?)?
            }
        },
    };
    without_fillings(&rows, tokens)
}

fn without_fillings(shares: &Tensor, tokens: &Tokens) -> Result<Tensor> {
    Ok(match tokens.held()? {
        Some(held) => shares.f_mul(&held)?,
        None => shares.shallow_clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::padded([&[1, 7, 9, 2][..], &[1, 30, 2]], 0).unwrap()
    }

    fn build(arch: &str, pooling: Pooling) -> (VarStore, Encoder) {
        let config = EncoderConfig { pooling, ..EncoderConfig::new(arch.parse().unwrap()) };
        let vars = VarStore::new(Device::Cpu);
        let encoder = Encoder::new(&vars.root(), &config, 50).unwrap();
        let tensors = vars.variables().into_iter().collect();
        let (own, copy) = encoder_of(&config, 50, &tensors, Device::Cpu).unwrap();
        let attend = if arch.starts_with("bert") { Attend::All } else { Attend::Past };
        let embed = |net: &Encoder| net.embed(&tokens(), attend, Mode::Eval).unwrap();
        assert!(embed(&encoder).allclose(&embed(&copy), 1e-6, 1e-6, false));
        (own, copy)
    }

    #[test]
    fn of_a_mean_of_vectors_each_token_has_the_share_of_its_own() {
        let (_vars, encoder) = build("table_d6", Pooling::Mean);
        let directions = Tensor::arange(12, (Kind::Float, Device::Cpu)).cos().view([2, 6]);
        let [found] = of_encoder(&encoder, &tokens(), Attend::All, &directions).unwrap().try_into().unwrap();
        let words = encoder.words().weight();
        let vectors = words.index_select(0, &tokens().ids.flatten(0, 1)).view([2, 4, 6]);
        let mean = words.mean_dim([0i64].as_slice(), false, Kind::Float);
        let along = (vectors - mean).matmul(&directions.unsqueeze(2)).squeeze_dim(2);
        let slow = along / Tensor::from_slice(&[4f32, 3.]).unsqueeze(1);
        assert!(found.shares.narrow(0, 0, 1).allclose(&slow.narrow(0, 0, 1), 1e-4, 1e-6, false));
        let second = found.shares.get(1);
        assert!(second.narrow(0, 0, 3).allclose(&slow.get(1).narrow(0, 0, 3), 1e-4, 1e-6, false));
        assert_eq!(second.double_value(&[3]), 0., "fillings have no share");
    }

    #[test]
    fn what_stands_for_a_text_looks_at_its_tokens_alone() {
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            let (_vars, encoder) = build("bert_d12_l2_h2", pooling);
            let directions = Tensor::ones([2, 12], (Kind::Float, Device::Cpu));
            let found = of_encoder(&encoder, &tokens(), Attend::All, &directions).unwrap();
            let shares = &found[1].shares;
            let sums = shares.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
            assert!(
                sums.allclose(&Tensor::ones([2], (Kind::Float, Device::Cpu)), 1e-5, 1e-5, false),
                "{pooling:?}"
            );
            assert_eq!(shares.double_value(&[1, 3]), 0.);
        }
        // What comes first sees itself alone where positions look back.
        let (_vars, encoder) = build("gpt2_d12_l2_h2", Pooling::Cls);
        let directions = Tensor::ones([2, 12], (Kind::Float, Device::Cpu));
        let found = of_encoder(&encoder, &tokens(), Attend::Past, &directions).unwrap();
        assert!((found[1].shares.double_value(&[0, 0]) - 1.).abs() < 1e-6);
    }

    #[test]
    fn a_recurrent_network_has_shares_and_no_attention() {
        let (_vars, encoder) = build("gru_d6_l1", Pooling::Last);
        let directions = Tensor::ones([2, 6], (Kind::Float, Device::Cpu));
        let found = of_encoder(&encoder, &tokens(), Attend::Past, &directions).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].shares.abs().max().double_value(&[]) > 0.);
    }
}
