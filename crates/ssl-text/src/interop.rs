//! Models in the layout of transformers: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! Source: transformers 5, `models/{bert,electra,gpt2}/{configuration,modeling}_*.py`.
use crate::methods::{Export, TextMethod};
use crate::models::{Arch, EncoderConfig, Family, Positions};
use crate::tokenizer::{Specials, Tokenizer};
use serde_json::{Value, json};
use ssl_core::checkpoint::{read_tensors, write_atomically, write_tensors};
use ssl_core::nn::{Activation, NormPlace};
use ssl_core::{Error, Result, no_grad};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The files of a model.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
/// What a model has beyond the encoder and its head: tied copies, buffers, heads of other objectives.
const LEFT_OUT: [&str; 8] = [
    "cls.predictions.decoder.",
    "cls.seq_relationship.",
    "lm_head.",
    "bert.pooler.",
    "generator_",
    ".position_ids",
    ".attn.bias",
    ".attn.masked_bias",
];

/// Writes a method's model, its shape and its tokenizer into a folder.
///
/// # Errors
/// `Error::Config` when transformers has no such model; `Error::Io` when the disk refuses.
pub fn write(
    dir: &Path,
    method: &dyn TextMethod,
    shape: &EncoderConfig,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let export = method.export().filter(|_| is_plain(shape)).ok_or_else(|| {
        let message = format!("transformers has no model of this method with {}", shape.arch);
        Error::config("encoder", message)
    })?;
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let vocabulary = tokenizer.vocabulary();
    let config = to_config(export.class, shape, vocabulary.size, &vocabulary.specials);
    let turned = export.tensors.into_iter().map(|(name, tensor)| Ok((name.clone(), turned(&name, &tensor)?)));
    let tensors: BTreeMap<String, Tensor> = turned.collect::<Result<_>>()?;
    write_tensors(&dir.join(WEIGHTS), &tensors, &json!({"format": "pt"}))?;
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::config(CONFIG, e.to_string()))?;
    write_atomically(&dir.join(CONFIG), text.as_bytes())?;
    tokenizer.save(&dir.join(TOKENIZER))
}

/// Whether a shape is one that transformers has.
fn is_plain(shape: &EncoderConfig) -> bool {
    let own = EncoderConfig::new(shape.arch);
    shape.positions == Positions::Learned
        && shape.norm() == own.norm()
        && shape.activation() == own.activation()
}

/// A weight as the other side has it: GPT-2's linear layers lie the other way around there.
fn turned(name: &str, tensor: &Tensor) -> Result<Tensor> {
    let layers = [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"];
    match layers.iter().any(|layer| name.ends_with(layer)) {
        true => Ok(tensor.f_detach()?.f_tr()?.f_contiguous()?),
        false => Ok(tensor.f_detach()?),
    }
}

fn to_config(class: &str, shape: &EncoderConfig, vocabulary: i64, specials: &Specials) -> Value {
    let Arch { family, dim, layers, heads } = shape.arch;
    let common = json!({"architectures": [class], "vocab_size": vocabulary, "dtype": "float32"});
    let own = match family {
        Family::Gpt2 => json!({
            "model_type": "gpt2", "n_positions": shape.max_length, "n_embd": dim, "n_layer": layers, "n_head": heads,
            "n_inner": shape.hidden(), "activation_function": "gelu_new", "layer_norm_epsilon": shape.eps(),
            "embd_pdrop": shape.dropout, "resid_pdrop": shape.dropout, "attn_pdrop": shape.attention_dropout,
            "bos_token_id": specials.sep, "eos_token_id": specials.sep,
        }),
        family => json!({
            "model_type": if family == Family::Electra { "electra" } else { "bert" },
            "embedding_size": shape.embedding_dim(), "hidden_size": dim, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": shape.hidden(), "hidden_act": "gelu",
            "hidden_dropout_prob": shape.dropout, "attention_probs_dropout_prob": shape.attention_dropout,
            "max_position_embeddings": shape.max_length, "type_vocab_size": 2, "layer_norm_eps": shape.eps(),
            "initializer_range": 0.02, "pad_token_id": specials.pad,
        }),
    };
    let mut all = common;
    if let (Some(all), Value::Object(own)) = (all.as_object_mut(), own) {
        all.extend(own);
    }
    all
}

/// A model that transformers has written, or [`write()`].
#[derive(Debug)]
pub struct Foreign {
    /// Its shape.
    pub shape: EncoderConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    weights: PathBuf,
}

impl Foreign {
    /// Whether a folder looks like one: its `config.json` names a type of model.
    pub fn is_in(dir: &Path) -> bool {
        let text = std::fs::read_to_string(dir.join(CONFIG)).unwrap_or_default();
        serde_json::from_str::<Value>(&text).is_ok_and(|config| config.get("model_type").is_some())
    }

    /// Opens the model in a folder.
    ///
    /// # Errors
    /// `Error::Data` when it is of another kind, or its tokenizer has another vocabulary; `Error::Io` when a file
    /// cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string()))?;
        let shape = from_config(&config).map_err(|message| Error::data(&path, message))?;
        let tokenizer = Tokenizer::load(&dir.join(TOKENIZER))?;
        let (have, want) =
            (tokenizer.vocabulary().size, config.get("vocab_size").and_then(Value::as_i64).unwrap_or(0));
        if have != want {
            let message = format!("expected a tokenizer of the model's {want} tokens, got one of {have}");
            return Err(Error::data(dir.join(TOKENIZER), message));
        }
        Ok(Foreign { shape, tokenizer, weights: dir.join(WEIGHTS) })
    }

    /// Copies the weights into a method whose encoder has this shape; heads that the file lacks stay as they are.
    /// Returns their names.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a weight of the encoder is missing or has another shape, or there is one too many.
    pub fn load_into(&self, method: &dyn TextMethod) -> Result<Vec<String>> {
        let Some(Export { tensors, .. }) = method.export() else {
            return Err(Error::checkpoint(
                &self.weights,
                "expected a method that transformers has a model of",
            ));
        };
        let (mut have, _) = read_tensors(&self.weights)?;
        let prefix = ["bert.", "electra.", "transformer."]
            .into_iter()
            .find(|p| tensors.keys().any(|n| n.starts_with(p)));
        let prefix = prefix.unwrap_or_default();
        // The encoder alone has no prefix.
        if !have.keys().any(|name| name.starts_with(prefix)) {
            have = have.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        }
        let mut absent = Vec::new();
        for (name, want) in &tensors {
            let Some(tensor) = have.remove(name) else {
                if name.starts_with(prefix) {
                    return Err(Error::checkpoint(&self.weights, format!("expected {name}, found none")));
                }
                absent.push(name.clone());
                continue;
            };
            let tensor = turned(name, &tensor)?;
            if tensor.size() != want.size() {
                let message = format!("{name}: expected {:?}, got {:?}", want.size(), tensor.size());
                return Err(Error::checkpoint(&self.weights, message));
            }
            no_grad(|| want.shallow_clone().f_copy_(&tensor))?;
        }
        let known = |name: &String| LEFT_OUT.iter().any(|part| name.contains(part));
        match have.keys().find(|name| !known(name)) {
            Some(name) => {
                Err(Error::checkpoint(&self.weights, format!("{name} has no place in this encoder")))
            }
            None => Ok(absent),
        }
    }
}

/// The shape that a `config.json` describes, or what is wrong with it.
fn from_config(config: &Value) -> std::result::Result<EncoderConfig, String> {
    let whole = |name: &str| config.get(name).and_then(Value::as_i64).filter(|&n| n > 0);
    let word = |name: &str| config.get(name).and_then(Value::as_str);
    let number = |name: &str| whole(name).ok_or(format!("expected a number as {name}"));
    let rate = |name: &str| config.get(name).and_then(Value::as_f64).unwrap_or(0.1);
    let is = |name: &str, expected: &[&str]| match word(name) {
        Some(value) if !expected.contains(&value) => {
            Err(format!("expected {} as {name}, got {value}", expected.join(" or ")))
        }
        _ => Ok(()),
    };
    let kind = word("model_type").unwrap_or_default();
    if kind == "gpt2" {
        is("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
        let (dim, layers, heads) = (number("n_embd")?, number("n_layer")?, number("n_head")?);
        let arch = Arch { family: Family::Gpt2, dim, layers, heads };
        return Ok(EncoderConfig {
            max_length: number("n_positions")?,
            hidden: Some(whole("n_inner").unwrap_or(4 * dim)),
            norm: Some(NormPlace::Pre),
            activation: Some(Activation::GeluTanh),
            dropout: rate("resid_pdrop"),
            attention_dropout: rate("attn_pdrop"),
            ..EncoderConfig::new(arch)
        });
    }
    let family = match kind {
        "bert" => Family::Bert,
        "electra" => Family::Electra,
        other => return Err(format!("expected a model of type bert, electra or gpt2, got {other:?}")),
    };
    is("hidden_act", &["gelu"])?;
    is("position_embedding_type", &["absolute"])?;
    let (dim, layers, heads) =
        (number("hidden_size")?, number("num_hidden_layers")?, number("num_attention_heads")?);
    let width = whole("embedding_size").filter(|&width| family == Family::Electra && width != dim);
    Ok(EncoderConfig {
        max_length: number("max_position_embeddings")?,
        hidden: Some(number("intermediate_size")?),
        embedding_dim: width,
        norm: Some(NormPlace::Post),
        activation: Some(Activation::Gelu),
        dropout: rate("hidden_dropout_prob"),
        attention_dropout: rate("attention_probs_dropout_prob"),
        ..EncoderConfig::new(Arch { family, dim, layers, heads })
    })
}
