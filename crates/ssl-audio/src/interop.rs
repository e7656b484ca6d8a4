//! Models in the layout of transformers: `config.json`, `model.safetensors`, `preprocessor_config.json`.
//!
//! Source: transformers 5, `models/{wav2vec2,hubert}/{configuration,modeling}_*.py`.
use crate::frontend::{ExtractorNorm, FeatureExtractorConfig};
use crate::methods::{AudioMethod, Export};
use crate::models::{Arch, EncoderConfig, Family, Front, Wav2Vec2Config};
use serde_json::{Value, json};
use ssl_core::checkpoint::{read_tensors, write_atomically, write_tensors};
use ssl_core::nn::NormPlace;
use ssl_core::{Error, Result, no_grad};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The files of a model.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const PREPROCESSOR: &str = "preprocessor_config.json";
/// What stands before the names of an encoder that has a head.
const PREFIXES: [&str; 2] = ["wav2vec2.", "hubert."];
/// Heads, of pretraining and of tasks, that a method may lack.
const HEADS: [&str; 6] =
    ["quantizer.", "project_hid.", "project_q.", "lm_head.", "projector.", "classifier."];
/// Names of weight normalization before transformers 4.31, and since.
const RENAMED: [[&str; 2]; 2] = [
    ["pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"],
    ["pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"],
];

/// Writes a method's model and its shape into a folder.
///
/// # Errors
/// `Error::Config` when transformers has no such model; `Error::Io` when the disk refuses.
pub fn write(dir: &Path, method: &dyn AudioMethod, shape: &EncoderConfig) -> Result<()> {
    let none =
        || Error::config("encoder", format!("transformers has no model of this method with {}", shape.arch));
    let Export { class, model_type, tensors, config: own } = method.export().ok_or_else(none)?;
    let mut config = to_config(shape).ok_or_else(none)?;
    if let (Some(all), Value::Object(own)) = (config.as_object_mut(), own) {
        all.extend([("architectures".into(), json!([class])), ("model_type".into(), json!(model_type))]);
        all.extend(own);
    }
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let detached = tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.f_detach()?)));
    let tensors: BTreeMap<String, Tensor> = detached.collect::<Result<_>>()?;
    write_tensors(&dir.join(WEIGHTS), &tensors, &json!({"format": "pt"}))?;
    let preprocessor = json!({
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": shape.sample_rate(),
        "padding_value": 0.0, "padding_side": "right", "do_normalize": false, "return_attention_mask": false,
    });
    for (file, value) in [(CONFIG, config), (PREPROCESSOR, preprocessor)] {
        let text = serde_json::to_string_pretty(&value).map_err(|e| Error::config(file, e.to_string()))?;
        write_atomically(&dir.join(file), text.as_bytes())?;
    }
    Ok(())
}

/// The shape of an encoder as transformers has it.
fn to_config(shape: &EncoderConfig) -> Option<Value> {
    let (Front::Wav2Vec2(channels), Family::Transformer(heads)) = (shape.arch.front, shape.arch.family)
    else {
        return None;
    };
    let (Arch { dim, layers, .. }, own) = (shape.arch, &shape.wav2vec2);
    let extractor = FeatureExtractorConfig::default();
    Some(json!({
        "dtype": "float32", "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": own.hidden.unwrap_or(4 * dim), "hidden_act": "gelu", "layer_norm_eps": 1e-5,
        "hidden_dropout": shape.dropout, "activation_dropout": shape.dropout, "feat_proj_dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout, "layerdrop": 0.0, "initializer_range": 0.02,
        "conv_dim": vec![channels; extractor.conv_dim.len()], "conv_kernel": extractor.conv_kernel,
        "conv_stride": extractor.conv_stride, "num_feat_extract_layers": extractor.conv_dim.len(),
        "conv_bias": own.conv_bias, "feat_extract_norm": own.feat_extract_norm, "feat_extract_activation": "gelu",
        "do_stable_layer_norm": own.norm == NormPlace::Pre, "num_conv_pos_embeddings": own.position_kernel,
        "num_conv_pos_embedding_groups": own.position_groups,
    }))
}

/// A model that transformers has written, or [`write()`].
#[derive(Debug)]
pub struct Foreign {
    /// Its shape.
    pub shape: EncoderConfig,
    /// The hyperparameters of [`Wav2Vec2`](crate::methods::Wav2Vec2) with heads of its shapes; null where it has none.
    pub settings: Value,
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
    /// `Error::Data` when it is of another kind; `Error::Io` when a file cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string()))?;
        let shape = from_config(&config).map_err(|message| Error::data(&path, message))?;
        Ok(Foreign { shape, settings: settings(&config), weights: dir.join(WEIGHTS) })
    }

    /// Copies the weights into a method whose encoder has this shape; heads, and the vector of masked places, that the
    /// file lacks stay as they are. Returns their names.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a weight of the encoder is missing or has another shape, or there is one too many.
    pub fn load_into(&self, method: &dyn AudioMethod) -> Result<Vec<String>> {
        let (found, _) = read_tensors(&self.weights)?;
        let mut have: BTreeMap<String, Tensor> =
            found.into_iter().map(|(name, tensor)| (own_name(&name), tensor)).collect();
        let mut wanted = method.encoder();
        let heads = method.export().map(|export| export.tensors).unwrap_or_default();
        wanted.extend(heads.into_iter().filter(|(name, _)| is_head(name)));
        let mut absent = Vec::new();
        for (name, want) in &wanted {
            let Some(tensor) = have.remove(name) else {
                if is_head(name) || name == "masked_spec_embed" {
                    absent.push(name.clone());
                    continue;
                }
                return Err(Error::checkpoint(&self.weights, format!("expected {name}, found none")));
            };
            if tensor.size() != want.size() {
                let message = format!("{name}: expected {:?}, got {:?}", want.size(), tensor.size());
                return Err(Error::checkpoint(&self.weights, message));
            }
            no_grad(|| want.shallow_clone().f_copy_(&tensor))?;
        }
        match have.keys().find(|name| !is_head(name)) {
            Some(name) => {
                Err(Error::checkpoint(&self.weights, format!("{name} has no place in this encoder")))
            }
            None => Ok(absent),
        }
    }
}

fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| name.starts_with(head))
}

/// The name of a variable here.
fn own_name(name: &str) -> String {
    let name = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    RENAMED.iter().fold(name.to_string(), |name, [old, new]| name.replace(old, new))
}

/// What of a `config.json` are hyperparameters of wav2vec 2.0 that decide the shapes of its heads.
fn settings(config: &Value) -> Value {
    let whole = |name: &str| config.get(name).and_then(Value::as_i64);
    let numbers = || {
        Some(json!({
            "quantizer": {
                "groups": whole("num_codevector_groups")?, "codes": whole("num_codevectors_per_group")?,
                "dim": whole("codevector_dim")?,
            },
            "compare_dim": whole("proj_codevector_dim")?,
        }))
    };
    numbers().unwrap_or_default()
}

/// The shape that a `config.json` describes, or what is wrong with it.
fn from_config(config: &Value) -> std::result::Result<EncoderConfig, String> {
    let whole = |name: &str| config.get(name).and_then(Value::as_i64).filter(|&n| n > 0);
    let number = |name: &str| whole(name).ok_or(format!("expected a number as {name}"));
    let rate = |name: &str| config.get(name).and_then(Value::as_f64).unwrap_or(0.1);
    let set = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
    let is = |name: &str, expected: Value| match config.get(name) {
        Some(value) if *value != expected => Err(format!("expected {expected} as {name}, got {value}")),
        _ => Ok(()),
    };
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if !["wav2vec2", "hubert"].contains(&kind) {
        return Err(format!("expected a model of type wav2vec2 or hubert, got {kind:?}"));
    }
    let extractor = FeatureExtractorConfig::default();
    for (name, expected) in [
        ("hidden_act", json!("gelu")),
        ("feat_extract_activation", json!("gelu")),
        ("conv_kernel", json!(extractor.conv_kernel)),
        ("conv_stride", json!(extractor.conv_stride)),
        ("layer_norm_eps", json!(1e-5)),
        ("add_adapter", json!(false)),
        ("adapter_attn_dim", json!(null)),
        ("conv_pos_batch_norm", json!(false)),
        ("feat_proj_layer_norm", json!(true)),
    ] {
        is(name, expected)?;
    }
    let channels: Vec<i64> = config
        .get("conv_dim")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_i64)
        .collect();
    let first = match channels.first() {
        Some(&first) if channels == vec![first; extractor.conv_dim.len()] => first,
        _ => {
            return Err(format!(
                "expected {} equal numbers as conv_dim, got {channels:?}",
                extractor.conv_dim.len()
            ));
        }
    };
    let (dim, layers, heads) =
        (number("hidden_size")?, number("num_hidden_layers")?, number("num_attention_heads")?);
    let arch = Arch { front: Front::Wav2Vec2(first), family: Family::Transformer(heads), dim, layers };
    Ok(EncoderConfig {
        wav2vec2: Wav2Vec2Config {
            conv_bias: set("conv_bias"),
            feat_extract_norm: match config.get("feat_extract_norm").and_then(Value::as_str) {
                Some("layer") => ExtractorNorm::Layer,
                _ => ExtractorNorm::Group,
            },
            norm: if set("do_stable_layer_norm") { NormPlace::Pre } else { NormPlace::Post },
            hidden: Some(number("intermediate_size")?),
            position_kernel: number("num_conv_pos_embeddings")?,
            position_groups: number("num_conv_pos_embedding_groups")?,
        },
        dropout: rate("hidden_dropout"),
        attention_dropout: rate("attention_dropout"),
        ..EncoderConfig::new(arch)
    })
}
