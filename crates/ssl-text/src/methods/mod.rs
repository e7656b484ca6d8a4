//! The methods, one file each. A new one is its file, a line in `methods!` below, and a recipe.

use crate::batch::{TextBatch, Tokens};
use crate::models::Encoders;
use crate::prepare::{Framing, Prepare};
use crate::recipe::Recipe;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
pub use ssl_core::registry::Info;
use ssl_core::registry::{Registered, configured, find_in};
use ssl_core::{Method, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;

/// A method on text: it says what it makes of text to train on.
pub trait TextMethod: Method<Batch = TextBatch, Input = Tokens> {
    /// What makes the sequences of each of its objectives.
    fn prepare(&self) -> Vec<Arc<dyn Prepare>>;

    /// What is put around documents that are to be embedded.
    fn framing(&self) -> Framing;

    /// What it says of each position: of the token there where it restores hidden ones, of the next one where it goes
    /// on with text; none where it says nothing of tokens.
    ///
    /// # Shapes
    /// Returns `[B, N, V]`, logits.
    ///
    /// # Errors
    /// As its encoder's.
    fn logits(&self, _tokens: &Tokens) -> Result<Option<Logits>> {
        Ok(None)
    }

    /// The logit of each token to be a replaced one, `[B, N]`; none where it tells none.
    ///
    /// # Errors
    /// As its encoder's.
    fn discriminate(&self, _tokens: &Tokens) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The tensors of the whole model under the names of transformers, with the name of its class there; none where it
    /// has no such model.
    fn export(&self) -> Option<Export> {
        None
    }
}

/// Logits over the vocabulary for each position, and what they are of.
#[derive(Debug)]
pub enum Logits {
    /// Of the token at the position.
    Same(Tensor),
    /// Of the token after it.
    Next(Tensor),
}

/// A model as transformers has it.
#[derive(Debug)]
pub struct Export {
    /// The name of its class.
    pub class: &'static str,
    /// Its tensors.
    pub tensors: BTreeMap<String, Tensor>,
}

/// What a method's file defines beside the method.
pub trait Definition: TextMethod + Sized + 'static {
    /// Where the method comes from.
    const INFO: Info;

    /// Its hyperparameters; the defaults are the paper's.
    type Config: Serialize + DeserializeOwned + JsonSchema + Default;

    /// Networks whose encoders `encoders` makes, initialized from libtorch's generator.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    fn new(config: Self::Config, encoders: &Encoders) -> Result<Self>;
}

/// A method that can be chosen by name.
pub type Entry = Registered<dyn TextMethod, Encoders, Recipe>;

fn build<D: Definition>(config: &Value, encoders: &Encoders) -> Result<Box<dyn TextMethod>> {
    Ok(Box::new(D::new(configured(D::INFO.name, config)?, encoders)?))
}

macro_rules! methods {
    ($($module:ident::$method:ident),* $(,)?) => {
        $(pub mod $module;)*
        $(pub use $module::$method;)*

        /// Every method.
        pub const ALL: &[Entry] = &[
            $(Entry::new::<<$method as Definition>::Config>(
                <$method as Definition>::INFO,
                include_str!(concat!("../../recipes/", stringify!($module), ".json")),
                build::<$method>,
            )),*
        ];
    };
}

methods! {
    clm::Clm,
    dae::Dae,
    electra::Electra,
    mlm::Mlm,
    multi::Multi,
    simcse::SimCse,
    word2vec::Word2Vec,
}

/// The method of that name.
///
/// # Errors
/// `Error::Config` that lists the names.
pub fn find(name: &str) -> Result<&'static Entry> {
    find_in(ALL, name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Texts;
    use crate::models::EncoderConfig;
    use crate::source::SequenceSource;
    use crate::store::{StoreOptions, TokenStore};
    use crate::tokenizer::{Tokenizer, TokenizerConfig};
    use serde_json::json;
    use ssl_core::{Source, check_method};
    use tch::Device;

    /// Sentences of a small grammar, tokenized.
    pub(crate) fn corpus() -> (Tokenizer, Arc<TokenStore>) {
        let nouns = ["dog", "fox", "cat", "bird", "mouse"];
        let verbs = ["sees", "hunts", "follows"];
        let sentence = |i: usize| format!("the {} {} the {}", nouns[i % 5], verbs[i % 3], nouns[(i / 3) % 5]);
        let texts = Texts::new((0..60).map(sentence)).unwrap();
        let config = TokenizerConfig { vocab_size: 60, min_frequency: 1, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(&config, &texts, &|_| {}).unwrap();
        let store = TokenStore::new(&texts, &tokenizer, &StoreOptions::new("unused"), &|_| {}).unwrap();
        (tokenizer, Arc::new(store))
    }

    /// What builds a method with a small encoder of that name.
    pub(crate) fn encoders(arch: &str, tokenizer: &Tokenizer) -> Encoders {
        let shape = EncoderConfig {
            max_length: 16,
            dropout: 0.,
            attention_dropout: 0.,
            ..EncoderConfig::new(arch.parse().unwrap())
        };
        Encoders::new(shape, tokenizer.vocabulary().clone(), 12, Device::Cpu).unwrap()
    }

    /// The same with dropout.
    pub(crate) fn dropping(arch: &str, tokenizer: &Tokenizer) -> Encoders {
        let shape = EncoderConfig { max_length: 16, ..EncoderConfig::new(arch.parse().unwrap()) };
        Encoders::new(shape, tokenizer.vocabulary().clone(), 12, Device::Cpu).unwrap()
    }

    /// The contract, of a method with a small encoder.
    pub(crate) fn check_method_of<D: Definition>(arch: &str, config: &Value) {
        let (tokenizer, store) = corpus();
        let build = || D::new(configured(D::INFO.name, config)?, &encoders(arch, &tokenizer));
        let method = build().unwrap();
        let source = SequenceSource::new(Arc::clone(&store), method.prepare(), 6, 0).unwrap();
        let batch = source.batch(0, 0).unwrap();
        let documents: Vec<Vec<i64>> = (0..5).map(|i| store.document(i, 9).unwrap()).collect();
        let input = method.framing().tokens(&documents).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        check_method(build, &batch, &input, scratch.path()).unwrap_or_else(|error| panic!("{arch}: {error}"));
    }

    #[test]
    fn every_recipe_builds_its_method() {
        let (tokenizer, _) = corpus();
        for entry in ALL {
            for (data, recipe) in entry.recipes().unwrap() {
                recipe.train.validate().unwrap();
                let vocabulary = tokenizer.vocabulary().clone();
                let encoders = Encoders::new(recipe.encoder, vocabulary, recipe.length, Device::Cpu).unwrap();
                let method = entry.build(&recipe.method, &encoders).unwrap();
                assert!(!method.prepare().is_empty(), "{data}");
            }
            assert!(entry.recipes().unwrap().contains_key("default"), "{}", entry.info.name);
        }
    }

    #[test]
    fn an_unknown_hyperparameter_is_refused_by_name() {
        let (tokenizer, _) = corpus();
        let entry = find("mlm").unwrap();
        let error = entry.build(&json!({"masking": {"rato": 0.1}}), &encoders("bert_d8_l1_h2", &tokenizer));
        assert!(error.unwrap_err().to_string().contains("rato"));
    }
}
