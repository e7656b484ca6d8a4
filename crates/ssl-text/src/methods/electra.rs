//! ELECTRA: a small generator puts other words in the place of some, and the encoder finds out which.
//!
//! Source: Clark et al., 2020: <https://arxiv.org/abs/2003.10555>, and the official code (`google-research/electra`): of the
//! predicted tokens 15 % stay as they are and the rest is hidden; both networks share their embeddings; names are those of
//! transformers' `ElectraForPreTraining` and `ElectraForMaskedLM`.
use super::{Definition, Export, Info, Logits, TextMethod};
use crate::batch::{Sequences, TextBatch, Tokens};
use crate::heads::{RestoringHead, accuracy, at_places, cross_entropy};
use crate::models::{Arch, Attend, Encoder, EncoderConfig, Encoders, Family};
use crate::prepare::{Framing, MaskTokens, Masking, Prepare};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::nn::{Linear, Module, gelu, trunc_normal};
use ssl_core::{Batch, Error, Method, Metrics, Mode, Output, Precision, Result, Step, no_grad};
use std::rc::Rc;
use std::sync::Arc;
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

/// ELECTRA's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is hidden from the generator.
    pub masking: Masking,
    /// Width of the generator, as a part of the encoder's; the same of its heads.
    pub generator_size: f64,
    /// Weight of the encoder's loss; the generator's has 1.
    pub discriminator_weight: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            masking: Masking { random: 0., kept: 0.15, ..Masking::default() },
            generator_size: 0.25,
            discriminator_weight: 50.,
        }
    }
}

/// An encoder that tells replaced tokens from right ones, and a generator that is thrown away after training.
#[derive(Debug)]
pub struct Electra {
    vars: VarStore,
    encoder: Rc<Encoder>,
    head: [Linear; 2],
    generator: Encoder,
    restore: RestoringHead,
    masks: Arc<MaskTokens>,
    framing: Framing,
    config: Config,
}

impl Definition for Electra {
    const INFO: Info = Info {
        name: "electra",
        summary: "find the words that a generator has put in the place of others",
        paper: "Clark, Luong, Le, Manning",
        year: 2020,
        kind: "adversarial",
        url: "https://arxiv.org/abs/2003.10555",
    };

    type Config = Config;

    fn new(config: Config, encoders: &Encoders) -> Result<Self> {
        let (vocabulary, shape) = (encoders.vocabulary(), encoders.config());
        if shape.arch.family != Family::Electra {
            let message = format!("electra needs an encoder such as electra_mini, got {}", shape.arch);
            return Err(Error::config("encoder", message));
        }
        let small = generator(shape, config.generator_size)?;
        if !(config.discriminator_weight >= 0. && config.discriminator_weight.is_finite()) {
            let message = format!("expected a number of at least 0, got {}", config.discriminator_weight);
            return Err(Error::config("discriminator_weight", message));
        }
        let masks = MaskTokens::new(config.masking.clone(), vocabulary, encoders.length(), "electra")?;
        let framing = Framing::between(shape.max_length as usize, vocabulary, "electra")?;
        let vars = VarStore::new(encoders.device());
        let encoder = encoders.student(&vars)?;
        let (root, dim) = (vars.root(), encoder.dim());
        let places = &root / "discriminator_predictions";
        let init = |weight: &Tensor| trunc_normal(weight, 0.02);
        let head = [
            Linear::with_init(&(&places / "dense"), dim, dim, init)?,
            Linear::with_init(&(&places / "dense_prediction"), dim, 1, init)?,
        ];
        let generator = encoder.with_same_embeddings(&(&root / "generator"), &small)?;
        let places = &root / "generator_predictions";
        let restore = RestoringHead::new(
            [&(&places / "dense"), &(&places / "LayerNorm"), &(&root / "generator_lm_head")],
            (generator.dim(), shape.embedding_dim()),
            vocabulary.size,
        )?;
        Ok(Electra { vars, encoder, head, generator, restore, masks: Arc::new(masks), framing, config })
    }
}

/// The shape of the generator: as the encoder's, of a part of its width.
fn generator(shape: &EncoderConfig, size: f64) -> Result<EncoderConfig> {
    let Arch { dim, heads, .. } = shape.arch;
    let head = dim / heads.max(1);
    let fewer = ((heads as f64 * size).round() as i64).max(1);
    if !(size > 0. && size <= 1.) {
        return Err(Error::config("generator_size", format!("expected a part above 0 and up to 1, got {size}")));
    }
    Ok(EncoderConfig {
        arch: Arch { dim: head * fewer, heads: fewer, ..shape.arch },
        embedding_dim: Some(shape.embedding_dim()),
        hidden: None,
        ..shape.clone()
    })
}

impl Electra {
    /// The generator's logits at the hidden places, `[B * P, V]`.
    fn restore(&self, sequences: &Sequences, mode: Mode) -> Result<Tensor> {
        let none = || Error::config("sequences", "electra takes places that are hidden, got none");
        let places = sequences.places.as_ref().ok_or_else(none)?;
        let x = self.generator.forward(&sequences.tokens, Attend::All, mode)?;
        self.restore.forward(&at_places(&x, places)?, self.encoder.words().weight(), mode)
    }

    /// The tokens with what was drawn in the place of what was hidden, and which of them are replaced. Both `[B, N]`.
    fn corrupt(&self, sequences: &Sequences, drawn: &Tensor) -> Result<(Tokens, Tensor)> {
        let none = || Error::config("sequences", "electra takes places that are hidden, got none");
        let places = sequences.places.as_ref().ok_or_else(none)?;
        let ids = &sequences.tokens.ids;
        // A place without a target is that of the first token, which stays.
        let here = ids.f_gather(1, places, false)?;
        let unused = sequences.targets.f_lt(0)?;
        let drawn = here.f_where_self(&unused, &drawn.f_view_as(places)?)?;
        let truth = here.f_where_self(&unused, &sequences.targets)?;
        let corrupted = ids.f_scatter(1, places, &drawn)?;
        let replaced = corrupted.f_ne_tensor(&ids.f_scatter(1, places, &truth)?)?;
        let tokens = sequences.tokens.map(&mut |x| Ok(if x.dim() == 2 { corrupted.shallow_clone() } else { x.shallow_clone() }))?;
        Ok((tokens, replaced))
    }

    /// The logit of each token to be a replaced one, `[B, N]`.
    fn find_replaced(&self, tokens: &Tokens, mode: Mode) -> Result<Tensor> {
        let [dense, predict] = &self.head;
        let x = self.encoder.forward(tokens, Attend::All, mode)?;
        let x = gelu(&dense.forward(&x, mode)?)?;
        Ok(predict.forward(&x, mode)?.f_squeeze_dim(2)?.f_to_kind(Kind::Float)?)
    }

    /// Both losses: the generator's, and the encoder's on what it drew.
    fn losses(&self, sequences: &Sequences, mode: Mode) -> Result<(Losses, Tensor)> {
        let logits = self.restore(sequences, mode)?;
        let generator = cross_entropy(&logits, &sequences.targets)?;
        let noise = logits.f_to_kind(Kind::Float)?.f_rand_like()?.f_clamp(1e-9, 1. - 1e-7)?;
        // Gumbel's: the largest sum is a draw from the distribution.
        let drawn = logits.f_detach()?.f_sub(&noise.f_log()?.f_neg()?.f_log()?)?.f_argmax(-1, false)?;
        let (tokens, replaced) = self.corrupt(sequences, &drawn)?;
        let found = self.find_replaced(&tokens, mode)?;
        let held = tokens.held()?.map(|held| held.f_to_kind(Kind::Float)).transpose()?;
        let discriminator = Precision::Fp32.scope(found.device(), || {
            let target = replaced.f_to_kind(Kind::Float)?;
            let each = found.f_binary_cross_entropy_with_logits(&target, None::<&Tensor>, None::<&Tensor>, Reduction::None)?;
            Ok(match &held {
                Some(held) => each.f_mul(held)?.f_sum(Kind::Float)?.f_div(&held.f_sum(Kind::Float)?)?,
                None => each.f_mean(Kind::Float)?,
            })
        })?;
        let right = found.f_gt(0.)?.f_eq_tensor(&replaced)?.f_to_kind(Kind::Float)?;
        let recall = found.f_gt(0.)?.f_logical_and(&replaced)?.f_sum(Kind::Float)?;
        let recall = recall.f_div(&replaced.f_sum(Kind::Float)?.f_clamp_min(1.)?)?;
        let accuracy = accuracy(&logits.f_detach()?, &sequences.targets)?;
        let losses = Losses { generator, discriminator, accuracy, right: right.f_mean(Kind::Float)?, recall };
        let total = losses.generator.f_add(&losses.discriminator.f_mul_scalar(self.config.discriminator_weight)?)?;
        Ok((losses, total))
    }
}

/// What both networks reach on a batch.
struct Losses {
    generator: Tensor,
    discriminator: Tensor,
    accuracy: Tensor,
    right: Tensor,
    recall: Tensor,
}

impl Method for Electra {
    type Batch = TextBatch;
    type Input = Tokens;

    fn step(&mut self, batch: &TextBatch, _at: Step) -> Result<Output> {
        let (losses, total) = self.losses(batch.only("electra")?, Mode::Train)?;
        Output::new(total).with("generator_loss", &losses.generator)?.with("discriminator_loss", &losses.discriminator)
    }

    fn encode(&self, input: &Tokens, mode: Mode) -> Result<Tensor> {
        self.encoder.embed(input, Attend::All, mode)
    }

    fn validate(&self, batch: &TextBatch) -> Result<Metrics> {
        no_grad(|| {
            let (losses, total) = self.losses(batch.only("electra")?, Mode::Eval)?;
            Ok(vec![
                ("loss".into(), total),
                ("generator_loss".into(), losses.generator),
                ("generator_accuracy".into(), losses.accuracy),
                ("discriminator_loss".into(), losses.discriminator),
                ("discriminator_accuracy".into(), losses.right),
                ("replaced_found".into(), losses.recall),
            ])
        })
    }

    fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.vars)]
    }
}

impl TextMethod for Electra {
    fn prepare(&self) -> Vec<Arc<dyn Prepare>> {
        vec![Arc::clone(&self.masks) as _]
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn logits(&self, tokens: &Tokens) -> Result<Option<Logits>> {
        let x = self.generator.forward(tokens, Attend::All, Mode::Eval)?;
        Ok(Some(Logits::Same(self.restore.forward(&x, self.encoder.words().weight(), Mode::Eval)?)))
    }

    fn discriminate(&self, tokens: &Tokens) -> Result<Option<Tensor>> {
        Ok(Some(self.find_replaced(tokens, Mode::Eval)?))
    }

    fn export(&self) -> Option<Export> {
        let own = |(name, tensor): (String, Tensor)| match name.strip_prefix("encoder.") {
            Some(rest) => Some((format!("electra.{rest}"), tensor)),
            None => name.starts_with("discriminator_predictions.").then_some((name, tensor)),
        };
        let tensors = self.vars.variables().into_iter().filter_map(own).collect();
        Some(Export { class: "ElectraForPreTraining", tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests::{corpus, encoders, check_method_of};
    use crate::source::SequenceSource;
    use serde_json::json;
    use ssl_core::Source;

    fn small() -> (Electra, TextBatch) {
        let (tokenizer, store) = corpus();
        let method = Electra::new(Config::default(), &encoders("electra_d16_l1_h4", &tokenizer)).unwrap();
        let batch = SequenceSource::new(store, method.prepare(), 6, 0).unwrap().batch(0, 0).unwrap();
        (method, batch)
    }

    #[test]
    fn it_keeps_the_contract() {
        check_method_of::<Electra>("electra_d16_l2_h4", &json!({}));
        check_method_of::<Electra>("electra_d16_l1_h2", &json!({"generator_size": 1}));
    }

    #[test]
    fn a_drawn_token_that_is_the_right_one_counts_as_right() {
        let (method, batch) = small();
        let sequences = batch.only("electra").unwrap();
        let (tokens, replaced) = method.corrupt(sequences, &sequences.targets).unwrap();
        assert_eq!(replaced.sum(Kind::Int64).int64_value(&[]), 0);
        let (_, all) = method.corrupt(sequences, &(&sequences.targets + 1)).unwrap();
        let predicted = sequences.targets.ge(0).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(all.sum(Kind::Int64).int64_value(&[]), predicted);
        let held = tokens.ids.gather(1, sequences.places.as_ref().unwrap(), false);
        let counted = sequences.targets.ge(0);
        assert!(held.where_self(&counted, &sequences.targets).equal(&sequences.targets));
    }

    #[test]
    fn both_networks_share_their_embeddings_and_the_generator_learns_from_its_loss_alone() {
        let (method, batch) = small();
        let (losses, _) = method.losses(batch.only("electra").unwrap(), Mode::Train).unwrap();
        let variables = method.vars.variables();
        let weight = |name: &str| variables[name].shallow_clone();
        let of = |loss: &Tensor, name: &str| Tensor::run_backward(&[loss], &[weight(name)], true, false).remove(0);
        let words = "encoder.embeddings.word_embeddings.weight";
        assert!(of(&losses.generator, words).abs().max().double_value(&[]) > 0.);
        assert!(of(&losses.discriminator, words).abs().max().double_value(&[]) > 0.);
        assert!(!variables.keys().any(|name| name.starts_with("generator.embeddings.")));
        let in_generator = weight("generator.encoder.layer.0.output.dense.weight");
        losses.discriminator.backward();
        assert!(!in_generator.grad().defined(), "what is drawn carries no gradient");
    }

    #[test]
    fn the_generator_is_a_part_as_wide() {
        let shape = EncoderConfig::new("electra_d256_l4_h4".parse().unwrap());
        let small = generator(&shape, 0.25).unwrap();
        assert_eq!((small.arch.to_string(), small.embedding_dim(), small.hidden()), ("electra_d64_l4_h1".into(), 256, 256));
        assert!(generator(&shape, 0.).is_err());
    }
}
