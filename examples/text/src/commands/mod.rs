//! What is done with a finished run: hidden words filled in, text gone on with, documents embedded and looked for, words
//! compared with what people say of them and with each other.
mod words;

use crate::data::TOKENIZER;
use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;
use ssl_core::checkpoint::write_tensors;
use ssl_core::nn::l2_normalize;
use ssl_core::{Batch, Flow, no_grad, rng};
use ssl_examples::{RunConfig, RunDir, print};
use ssl_text::generate::{Sampling, fill, generate};
use ssl_text::methods::{TextMethod, find};
use ssl_text::models::Encoders;
use ssl_text::readers::{Cut, Options, Split, open};
use ssl_text::tokenizer::SpecialToken;
use ssl_text::{Recipe, Tokenizer};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{Device, Kind, Tensor};

/// The commands.
pub(crate) const NAMES: [&str; 7] =
    ["fill-mask", "generate", "embed", "nearest", words::NAMES[0], words::NAMES[1], words::NAMES[2]];
/// Documents that are embedded at once.
const BLOCK: usize = 32;
/// The stream of random numbers of generated text.
const DRAWN: u64 = 111;

pub(crate) fn all() -> impl Iterator<Item = Command> {
    let name = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let run = || {
        name("run", "DIR")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("The directory of the run")
    };
    let data = || {
        name("data", "PATH")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("A text file or a folder of them")
    };
    let count = |default: &'static str, help: &'static str| {
        name("count", "N").value_parser(value_parser!(usize)).default_value(default).help(help)
    };
    let lines = || {
        Arg::new("lines")
            .long("lines")
            .action(clap::ArgAction::SetTrue)
            .help("A line is a document, not a file")
    };
    let text = |help: &'static str| Arg::new("text").required(true).help(help);
    [
        Command::new(NAMES[0]).about("Fills in hidden words").args([
            run(),
            count("5", "Words for each place"),
            text("A text with [MASK] for what is hidden"),
        ]),
        Command::new(NAMES[1]).about("Goes on with a text").args([
            run(),
            count("200", "Tokens"),
            name("temperature", "T")
                .value_parser(value_parser!(f64))
                .default_value("0.8")
                .help("0 takes the likeliest"),
            name("top-k", "K")
                .value_parser(value_parser!(usize))
                .default_value("40")
                .help("Tokens to draw among; 0 is all"),
            name("seed", "N")
                .value_parser(value_parser!(u64))
                .default_value("0")
                .help("Another seed, another text"),
            text("How it begins"),
        ]),
        Command::new(NAMES[2]).about("Writes a vector for each document of a safetensors file").args([
            run(),
            data(),
            lines(),
            name("out", "FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where to: a safetensors file"),
        ]),
        Command::new(NAMES[3]).about("Finds the documents that are nearest to a text").args([
            run(),
            data(),
            lines(),
            count("5", "Documents to show"),
            text("What to look for"),
        ]),
    ]
    .into_iter()
    .chain(words::all())
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result<ExitCode> {
    let dir: &PathBuf = matches.get_one("run").context("--run")?;
    let loaded = load(dir)?;
    if words::NAMES.contains(&name) {
        return words::run(name, matches, dir, &loaded);
    }
    let Loaded { method, tokenizer } = loaded;
    let text = || matches.get_one::<String>("text").map(String::as_str).unwrap_or_default();
    let count = || matches.get_one::<usize>("count").copied().unwrap_or(5);
    match name {
        "fill-mask" => {
            let ids = hidden(&tokenizer, text())?;
            let mask = tokenizer.vocabulary().special(SpecialToken::Mask, "fill-mask")?;
            for (place, words) in fill(method.as_ref(), &ids, mask, count())?.iter().enumerate() {
                let word = |&(id, share): &(i64, f64)| format!("{} {share:.3}", tokenizer.token(id as u32));
                print(&format!(
                    "{}: {}\n",
                    place + 1,
                    words.iter().map(word).collect::<Vec<_>>().join(", ")
                ))?;
            }
        }
        "generate" => {
            let number = |name: &str| matches.get_one::<f64>(name).copied().unwrap_or(0.);
            let top_k = matches.get_one("top-k").copied().unwrap_or(0);
            let sampling = Sampling { temperature: number("temperature"), top_k };
            let begin = method.framing().first.into_iter().chain(encode(&tokenizer, text())?);
            let seed = matches.get_one("seed").copied().unwrap_or(0);
            let mut rng = rng(seed, &[DRAWN]);
            let ids = generate(method.as_ref(), &begin.collect::<Vec<_>>(), &sampling, count(), &mut rng)?;
            print(&format!("{}\n", tokenizer.decode(&ids.iter().map(|&id| id as u32).collect::<Vec<_>>())?))?;
        }
        _ => {
            let data: &PathBuf = matches.get_one("data").context("--data")?;
            let documents = read(data, matches.get_flag("lines"))?;
            let vectors = embed(method.as_ref(), &tokenizer, &documents)?;
            if name == "embed" {
                let out: &PathBuf = matches.get_one("out").context("--out")?;
                let header = json!({"format": "ssl-rs embeddings", "documents": documents.len()});
                write_tensors(out, &[("embeddings".to_string(), vectors)].into(), &header)?;
                print(&format!("{} vectors written to {}\n", documents.len(), out.display()))?;
                return Ok(ExitCode::SUCCESS);
            }
            let wanted = embed(method.as_ref(), &tokenizer, &[text().to_string()])?;
            let near = l2_normalize(&wanted)?.f_matmul(&l2_normalize(&vectors)?.f_tr()?)?.f_squeeze_dim(0)?;
            let (near, places) = near.f_topk(count().min(documents.len()) as i64, 0, true, true)?;
            for (near, place) in Vec::<f64>::try_from(near)?.into_iter().zip(Vec::<i64>::try_from(places)?) {
                let document = documents.get(place as usize).map(String::as_str).unwrap_or_default();
                let start: String =
                    document.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
                print(&format!("{near:.3}  {start}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A run's method with the weights of its last checkpoint, and its tokenizer.
pub(crate) struct Loaded {
    pub(crate) method: Box<dyn TextMethod>,
    pub(crate) tokenizer: Tokenizer,
}

pub(crate) fn load(dir: &Path) -> Result<Loaded> {
    let config = RunConfig::of_run(dir, "text")?;
    let recipe: Recipe = serde_json::from_value(config.recipe).context("recipe")?;
    let tokenizer = Tokenizer::load(&dir.join(TOKENIZER))?;
    let vocabulary = tokenizer.vocabulary().clone();
    let encoders = Encoders::new(recipe.encoder, vocabulary, recipe.length, Device::Cpu)?;
    let method = find(&config.method)?.build(&recipe.method, &encoders)?;
    RunDir::load_last(dir, method.as_ref(), &recipe.train.optimizer)?;
    Ok(Loaded { method, tokenizer })
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i64>> {
    Ok(tokenizer.encode(text)?.into_iter().map(i64::from).collect())
}

/// The tokens of a text between the two ends, the token for what is hidden in each place of `[MASK]`.
fn hidden(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i64>> {
    let special = |which| tokenizer.vocabulary().special(which, "fill-mask");
    let mut ids = vec![special(SpecialToken::Cls)?];
    for (place, part) in text.split("[MASK]").enumerate() {
        if place > 0 {
            ids.push(special(SpecialToken::Mask)?);
        }
        ids.extend(encode(tokenizer, part)?);
    }
    ids.push(special(SpecialToken::Sep)?);
    Ok(ids)
}

fn read(path: &Path, by_line: bool) -> Result<Vec<String>> {
    let documents = if by_line { Cut::Lines } else { Cut::Files };
    let mut texts = Vec::new();
    open(path, Split::Train, &Options { documents, ..Options::default() })?.for_each(&mut |document| {
        texts.push(document.text);
        Ok(Flow::Continue)
    })?;
    Ok(texts)
}

/// A vector for each text. `[n, D]`.
fn embed(method: &dyn TextMethod, tokenizer: &Tokenizer, texts: &[String]) -> Result<Tensor> {
    let framing = method.framing();
    let block = |texts: &[String]| -> Result<Tensor> {
        let rows = texts.iter().map(|text| encode(tokenizer, text)).collect::<Result<Vec<_>>>()?;
        let tokens = framing.tokens(&rows)?.to_device(Device::Cpu)?;
        Ok(no_grad(|| method.embed(&tokens))?.f_to_kind(Kind::Float)?)
    };
    Ok(Tensor::f_cat(&texts.chunks(BLOCK).map(block).collect::<Result<Vec<_>>>()?, 0)?)
}
