//! The flags that every example has, and those made from a method's configuration.
use crate::Percents;
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Args, Command};
use schemars::Schema;
use serde_json::Value;
use std::path::PathBuf;

/// Flags of every example. What is not given is the recipe's.
#[derive(Debug, Clone, Args)]
pub struct CommonFlags {
    /// A name of `cargo xtask data list`, or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub data: Option<String>,
    /// Directory of the run [default: runs/MODALITY-METHOD-TIME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Passes over the data.
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    pub epochs: Option<f64>,
    /// Steps, instead of passes.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Examples of a step.
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Highest learning rate.
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Weight decay.
    #[arg(long, value_name = "RATE")]
    pub weight_decay: Option<f64>,
    /// Passes over the data during which the learning rate rises.
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<f64>,
    /// Largest norm of the gradients.
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f64>,
    /// Parts a batch is cut into to save memory.
    #[arg(long, value_name = "N")]
    pub accumulate: Option<i64>,
    /// sgd, adamw, lars or lamb, with its usual numbers.
    #[arg(long, value_name = "NAME", value_parser = ["sgd", "adamw", "lars", "lamb"])]
    pub optimizer: Option<String>,
    /// Training examples to use, the first of a fixed random order.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Seed of everything random.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// auto, cpu, cuda or cuda:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device_name)]
    pub device: String,
    /// Numbers of the forward pass; auto takes bf16 where it is fast.
    #[arg(long, default_value = "auto", value_parser = ["auto", "fp32", "bf16"])]
    pub precision: String,
    /// Threads of libtorch and of the loader [default: all cores].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Batches prepared ahead on another thread [default: 0 on the CPU, 3 on CUDA].
    #[arg(long, value_name = "N")]
    pub prefetch: Option<usize>,
    /// Goes on with an interrupted run; `last` is the newest one of this method.
    #[arg(long, value_name = "DIR|last", group = "evaluated", conflicts_with_all = ["out", "config"])]
    pub resume: Option<String>,
    /// Starts from the config.json of an earlier run; flags win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Starts from the weights of an encoder (a safetensors file, torchvision's and timm's too), or from the heads,
    /// teacher and optimizer too of an earlier run's last checkpoint (its directory).
    #[arg(long, value_name = "FILE|RUN", group = "evaluated")]
    pub init: Option<PathBuf>,
    /// Only evaluates: the encoder of the run named by --resume, or the one that --init gives.
    #[arg(long, requires = "evaluated")]
    pub eval_only: bool,
    /// Leaves the evaluation out.
    #[arg(long, conflicts_with = "eval_only")]
    pub no_eval: bool,
    /// Leaves the floors (random initialization, raw input) out of the evaluation.
    #[arg(long)]
    pub no_floors: bool,
    /// Also asks the linear probe for test examples that are corrupted, at five severities.
    #[arg(long, conflicts_with = "no_eval")]
    pub robustness: bool,
    /// Also leaves each class out of the training set in turn, and tells it by the distance to its nearest neighbors.
    #[arg(long, conflicts_with = "no_eval")]
    pub anomaly: bool,
    /// Test examples of which the report shows what the encoder looks at; 0 leaves that out.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub explain: usize,
    /// Also fine-tunes the encoder, and the random one, on so many percent of the labels [default: 1,10,100].
    #[arg(long, value_name = "PERCENT,..", num_args = 0..=1, default_missing_value = "1,10,100", conflicts_with = "no_eval")]
    pub finetune: Option<Percents>,
    /// Passes of a fine-tuning over its labels [default: 10]; of few labels so many that there are 300 steps.
    #[arg(long, value_name = "N", requires = "finetune")]
    pub finetune_epochs: Option<f64>,
    /// What each layer down from the classifier multiplies the rate of a fine-tuning by [default: 0.75].
    #[arg(long, value_name = "FACTOR", requires = "finetune")]
    pub layer_decay: Option<f64>,
    /// A table (CSV, TSV or JSONL) of the group of each example, by its file or number: the bias is measured by it.
    #[arg(long, value_name = "FILE")]
    pub groups: Option<PathBuf>,
    /// The column of that table that holds the group [default: group].
    #[arg(long, value_name = "NAME", requires = "groups")]
    pub group_column: Option<String>,
    /// Steps between checkpoints [default: a tenth of the run].
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints to keep, beside the best.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub keep: usize,
    /// Looks at the representation and the online accuracy per run.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub looks: u64,
    /// Ends the run when the representation collapses, instead of a warning.
    #[arg(long)]
    pub stop_on_collapse: bool,
    /// Fraction of unreadable samples that may be skipped.
    #[arg(long, default_value_t = 0.01, value_name = "FRACTION")]
    pub max_bad: f64,
    /// Prints the last line only.
    #[arg(long, short)]
    pub quiet: bool,
}

impl CommonFlags {
    /// A command with these flags.
    pub(crate) fn augmented(command: Command) -> Command {
        CommonFlags::augment_args(command)
    }
}

fn device_name(text: &str) -> Result<String, String> {
    let is_index = |index: &str| index.parse::<u8>().is_ok();
    match text {
        "auto" | "cpu" | "cuda" => Ok(text.to_string()),
        _ if text.strip_prefix("cuda:").is_some_and(is_index) => Ok(text.to_string()),
        _ => Err("expected auto, cpu, cuda or cuda:INDEX".to_string()),
    }
}

/// One flag for each hyperparameter of a method, named as in its configuration with `-` for `_`; those of nested
/// structures have their path before them, as in `--augment.crop-scale`.
pub fn method_flags(schema: &Schema, defaults: &Value) -> Vec<Arg> {
    let mut args = Vec::new();
    collect(schema.as_value(), schema.as_value(), defaults, &mut Vec::new(), &mut |path, node, default| {
        let name = flag_name(path);
        let help = node.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        args.push(
            Arg::new(name.clone())
                .long(name)
                .value_name(value_name(default))
                .help(format!("{help} [paper: {}]", compact(default)))
                .help_heading("Hyperparameters (default: the recipe's)")
                .allow_hyphen_values(true),
        );
    });
    args
}

/// Writes the hyperparameters that are given as flags into `config`.
///
/// # Errors
/// When a value is not of the parameter's type.
pub fn read_method_flags(
    matches: &ArgMatches,
    schema: &Schema,
    defaults: &Value,
    config: &mut Value,
) -> Result<()> {
    let mut given = Vec::new();
    collect(schema.as_value(), schema.as_value(), defaults, &mut Vec::new(), &mut |path, _, default| {
        if let Some(text) = matches.get_one::<String>(&flag_name(path)) {
            given.push((path.to_vec(), text.clone(), default.clone()));
        }
    });
    for (path, text, default) in given {
        let value = parse(&text, &default);
        if !same_type(&value, &default) {
            bail!("--{}: expected {}, got {text}", flag_name(&path), value_name(&default).to_lowercase());
        }
        if !config.is_object() {
            *config = serde_json::json!({});
        }
        let mut place = &mut *config;
        for part in &path {
            place = place
                .as_object_mut()
                .map(|object| object.entry(part.clone()).or_insert_with(|| serde_json::json!({})))
                .ok_or_else(|| anyhow::anyhow!("--{}: the recipe has a value above it", flag_name(&path)))?;
        }
        *place = value;
    }
    Ok(())
}

fn flag_name(path: &[String]) -> String {
    path.join(".").replace('_', "-")
}

fn value_name(default: &Value) -> &'static str {
    match default {
        Value::Number(_) | Value::Null => "NUMBER",
        Value::Bool(_) => "BOOL",
        Value::Array(items) if items.iter().any(Value::is_string) => "NAME,..",
        Value::Array(_) => "NUMBER,..",
        _ => "NAME",
    }
}

fn compact(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(compact).collect::<Vec<_>>().join(","),
        // Numbers that were single precision would show their rounding.
        Value::Number(number) => {
            number.as_f64().filter(|_| number.is_f64()).map_or(number.to_string(), |x| (x as f32).to_string())
        }
        Value::Null => "none".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn parse(text: &str, default: &Value) -> Value {
    match default {
        Value::Array(_) if !text.starts_with('[') => {
            Value::Array(text.split(',').map(|t| parse(t.trim(), &Value::Null)).collect())
        }
        _ if text == "none" => Value::Null,
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string())),
    }
}

fn same_type(value: &Value, default: &Value) -> bool {
    match (value, default) {
        (Value::Array(items), Value::Array(like)) if like.iter().any(Value::is_string) => {
            items.iter().all(Value::is_string)
        }
        (Value::Array(items), Value::Array(_)) => items.iter().all(Value::is_number),
        (Value::Number(_), Value::Number(_) | Value::Null) | (Value::Null, _) => true,
        _ => std::mem::discriminant(value) == std::mem::discriminant(default),
    }
}

/// Calls `leaf` for every value below `node` that is no structure of its own.
fn collect(
    root: &Value,
    node: &Value,
    default: &Value,
    path: &mut Vec<String>,
    leaf: &mut dyn FnMut(&[String], &Value, &Value),
) {
    let Some(properties) = resolve(root, node).get("properties").and_then(Value::as_object) else { return };
    for (name, child) in properties {
        let value = default.get(name).unwrap_or(&Value::Null);
        path.push(name.clone());
        if value.is_object() {
            collect(root, child, value, path, leaf);
        } else {
            leaf(path, child, value);
        }
        path.pop();
    }
}

fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let Some(reference) = node.get("$ref").and_then(Value::as_str) else { return node };
    reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)).unwrap_or(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::{JsonSchema, schema_for};
    use serde::Serialize;

    #[derive(Serialize, JsonSchema)]
    struct Inner {
        /// Two numbers.
        crop_scale: [f32; 2],
    }

    #[derive(Serialize, JsonSchema)]
    struct Config {
        /// Divides.
        temperature: f64,
        inner: Inner,
        kernel: Option<usize>,
        /// Several.
        names: Vec<String>,
    }

    fn parts() -> (Schema, Value) {
        let config = Config {
            temperature: 0.1,
            inner: Inner { crop_scale: [0.08, 1.] },
            kernel: None,
            names: vec!["a".into(), "b".into()],
        };
        (schema_for!(Config), serde_json::to_value(config).unwrap())
    }

    fn read(args: &[&str], config: Value) -> Result<Value> {
        let (schema, defaults) = parts();
        let command = Command::new("test").args(method_flags(&schema, &defaults));
        let matches = command.try_get_matches_from([&["test"], args].concat())?;
        let mut config = config;
        read_method_flags(&matches, &schema, &defaults, &mut config)?;
        Ok(config)
    }

    #[test]
    fn flags_carry_names_descriptions_and_the_papers_values() {
        let (schema, defaults) = parts();
        let help = Command::new("test").args(method_flags(&schema, &defaults)).render_help().to_string();
        assert!(help.contains("--temperature <NUMBER>") && help.contains("Divides. [paper: 0.1]"), "{help}");
        assert!(help.contains("--inner.crop-scale") && help.contains("[paper: 0.08,1]"), "{help}");
    }

    #[test]
    fn what_is_given_is_written_over_the_recipe_and_nothing_else() {
        let recipe = serde_json::json!({"temperature": 0.2});
        let config = read(&["--inner.crop-scale", "0.3,1", "--kernel", "5"], recipe).unwrap();
        assert_eq!(
            config,
            serde_json::json!({"temperature": 0.2, "inner": {"crop_scale": [0.3, 1]}, "kernel": 5})
        );
        assert_eq!(read(&[], Value::Null).unwrap(), Value::Null);
    }

    #[test]
    fn names_are_separated_by_commas() {
        let config = read(&["--names", "simclr,mae"], Value::Null).unwrap();
        assert_eq!(config, serde_json::json!({"names": ["simclr", "mae"]}));
        let message = read(&["--names", "simclr,3"], Value::Null).unwrap_err().to_string();
        assert_eq!(message, "--names: expected name,.., got simclr,3");
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let message = read(&["--temperature", "warm"], Value::Null).unwrap_err().to_string();
        assert_eq!(message, "--temperature: expected number, got warm");
    }
}
