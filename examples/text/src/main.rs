//! Pretrains and evaluates a text encoder: `text <method> [flags]`, `text list`.
//!
//! The last line on standard output is the summary of the run as JSON; everything else goes to standard error.
#![allow(clippy::print_stderr, reason = "the example talks to a person")]

mod commands;
mod corrupt;
mod data;
mod explain;
mod floors;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};
use data::{Corpora, TOKENIZER, Text};
use ssl_core::Source;
use ssl_examples::{CommonFlags, DynMethod, Experiment, Outcome, Parts, RunConfig, RunDir, Start};
use ssl_examples::{
    end, exit, list, locate_data, method_command, method_flags, read_method_flags, stop_flag,
};
use ssl_text::interop::{self, Foreign};
use ssl_text::methods::{ALL, Entry, find};
use ssl_text::models::{Arch, Encoders};
use ssl_text::readers::{Cut, Options};
use ssl_text::{Recipe, SequenceSource, Tokenizer};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

fn main() -> ExitCode {
    let began = Instant::now();
    let matches = command().get_matches();
    exit(match matches.subcommand() {
        Some(("list", _)) => list(ALL.iter().map(|entry| entry.info)),
        Some((name, flags)) if commands::NAMES.contains(&name) => commands::run(name, flags),
        Some((name, flags)) => run(name, flags, began),
        None => Ok(ExitCode::SUCCESS),
    })
}

fn command() -> Command {
    let methods = ALL.iter().map(|entry| {
        let own = entry.defaults().map(|d| method_flags(&entry.schema(), &d)).unwrap_or_default();
        method_command(&entry.info, text_flags().into_iter().chain(own))
    });
    Command::new("text")
        .about("Pretrains a text encoder without labels, and evaluates it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("Lists the methods"))
        .subcommands(methods)
        .subcommands(commands::all())
}

fn text_flags() -> [Arg; 11] {
    let name = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    [
        name("encoder", "NAME")
            .value_parser(|name: &str| name.parse::<Arch>())
            .help("bert, electra or gpt2 with _tiny, _mini, _small, _medium, _base or _dD_lL_hH; lstm_dD_lL, gru_dD_lL, table_dD"),
        name("length", "TOKENS").value_parser(value_parser!(usize)).help("Tokens of a training sequence"),
        name("max-length", "TOKENS").value_parser(value_parser!(i64)).help("Tokens that the encoder takes, at most"),
        name("vocab-size", "N").value_parser(value_parser!(usize)).help("Tokens of the tokenizer that is trained"),
        name("tokenizer-kind", "KIND")
            .value_parser(["word_piece", "bpe", "unigram", "characters", "words"])
            .help("How the tokenizer that is trained cuts text"),
        name("tokenizer", "FILE")
            .value_parser(value_parser!(PathBuf))
            .help("A tokenizer.json to take instead of training one"),
        name("documents", "HOW")
            .default_value("files")
            .help("What a document is in plain text: files, lines, paragraphs, or the line that parts them, as in --documents=%"),
        name("column", "NAME").help("Column of JSONL, CSV or TSV that holds the text [default: text]"),
        name("label-column", "NAME").help("Column of JSONL, CSV or TSV that holds the class"),
        Arg::new("lossy")
            .long("lossy")
            .action(ArgAction::SetTrue)
            .help("Replaces bytes that are no UTF-8, instead of ending"),
        name("held-out", "N")
            .value_parser(value_parser!(usize))
            .default_value("512")
            .help("Test sequences on which the pretext task itself is measured"),
    ]
}

fn run(name: &str, matches: &ArgMatches, began: Instant) -> Result<ExitCode> {
    let entry = find(name)?;
    let mut flags = CommonFlags::from_arg_matches(matches)?;
    let start = Start::new("text", name, &mut flags)?;
    let config = configure(entry, &flags, matches, &start)?;
    let recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    let device = start.machine.device;

    let (_, path) = locate_data(&config.data)?;
    let corpora = Corpora::open(&path, &reading(matches, flags.max_bad))?;
    let foreign = config.init.as_deref().filter(|dir| Foreign::is_in(dir)).map(Foreign::open).transpose()?;
    let tokenizer = match (&start.resumed, &foreign, matches.get_one::<PathBuf>("tokenizer")) {
        (Some(dir), ..) => data::of_run(dir.path())?,
        (None, Some(foreign), _) => foreign.tokenizer.clone(),
        (None, None, Some(file)) => Tokenizer::load(file)?,
        (None, None, None) => match config.init.as_deref().filter(|init| init.is_dir()) {
            Some(run) => data::of_run(run)?,
            None => corpora.train_tokenizer(&recipe.tokenizer, flags.quiet)?,
        },
    };
    let text = corpora.tokenize(&tokenizer, (config.limit, config.seed), flags.quiet)?;
    let counts = text.train.counts(text.tokenizer.vocabulary().size)?;
    let encoders = || {
        let vocabulary = text.tokenizer.vocabulary().clone().with_counts(counts.clone());
        Encoders::new(recipe.encoder.clone(), vocabulary, recipe.length, device)
    };
    let build = || Ok(entry.build(&recipe.method, &encoders()?)? as Box<DynMethod<_, _>>);
    let begin = || {
        let encoders = match config.init.as_ref().filter(|init| !init.is_dir()) {
            Some(file) => encoders()?.starting_from(file),
            None => encoders()?,
        };
        let method = entry.build(&recipe.method, &encoders)?;
        if let Some(foreign) = &foreign {
            let absent = foreign.load_into(method.as_ref())?;
            if !absent.is_empty() && !flags.quiet {
                eprintln!("the weights to start from lack {}: they start at random", absent.join(", "));
            }
        }
        Ok(method as Box<DynMethod<_, _>>)
    };
    let probe = entry.build(&recipe.method, &encoders()?)?;
    let (prepare, framing) = (probe.prepare(), probe.framing());
    drop(probe);
    let source =
        SequenceSource::new(Arc::clone(&text.train), prepare.clone(), recipe.train.batch_size, config.seed)?;
    let total_steps = recipe.train.total_steps(source.batches_per_epoch())?;
    let source = source.for_steps(total_steps);
    let held_out = text.held_out(prepare, matches.get_one("held-out").copied().unwrap_or(0), config.seed)?;

    let (machine, dir) = start.open(&config, &flags)?;
    text.tokenizer.save(&dir.file(TOKENIZER))?;
    if !flags.quiet {
        eprintln!("{}", describe(&config, &recipe, &text, &dir));
    }
    let (train, test) = text.documents(framing, recipe.encoder.arch.dim)?;
    let parts = Parts {
        build: &build,
        start: &begin,
        source: &source,
        held_out,
        train: &train,
        test: test.as_ref().map(|test| test as _),
        probes: None,
        config: recipe.train.clone(),
        encoder: recipe.encoder.arch.to_string(),
        preprocess: serde_json::json!({"encoder": recipe.encoder, "tokenizer": TOKENIZER}),
        layer_of: &|name| recipe.encoder.layer_of(name),
        unreadable: &|| corpora.skipped(),
        derived: &|found| derived(found, name, &text),
        show: &|rows| text.write_look(&dir, rows, flags.quiet),
        explain: &|explained| explain::explain(explained, &recipe, &text.tokenizer),
        figures: Vec::new(),
        probe_stages: false,
    };
    let experiment =
        Experiment { config: &config, dir: &dir, flags: &flags, machine, stop: stop_flag()?, began };
    let outcome = experiment.run(&parts)?;
    // An encoder that was given is in a folder already.
    let given = flags.eval_only && flags.init.is_some();
    if matches!(outcome, Outcome::Finished(_)) && !given {
        let method = commands::load(dir.path())?.method;
        if method.export().is_some() {
            interop::write(&dir.file("encoder"), method.as_ref(), &recipe.encoder, &text.tokenizer)?;
        }
    }
    end(&outcome, &config, &dir)
}

/// Perplexity, and of a model of all tokens bits per byte, from the loss.
fn derived(found: &[(String, f64)], method: &str, text: &Text) -> Vec<(String, f64)> {
    let Some((_, loss)) = found.iter().find(|(name, _)| name == "loss") else { return Vec::new() };
    let mut more = Vec::new();
    if ["mlm", "clm"].contains(&method) {
        more.push(("perplexity".to_string(), loss.exp()));
    }
    if method == "clm" {
        more.push(("bits_per_byte".to_string(), text.bits_per_byte(*loss)));
    }
    more
}

/// How the text is read.
fn reading(matches: &ArgMatches, max_bad: f64) -> Options {
    let documents = match matches.get_one::<String>("documents").map(String::as_str) {
        Some("lines") => Cut::Lines,
        Some("paragraphs") => Cut::Paragraphs,
        Some("files") | None => Cut::Files,
        Some(line) => Cut::Separator(line.to_string()),
    };
    Options {
        documents,
        column: matches.get_one("column").cloned(),
        label_column: matches.get_one("label-column").cloned(),
        lossy: matches.get_flag("lossy"),
        max_bad,
        ..Options::default()
    }
}

/// The configuration of the run, with all flags applied.
fn configure(entry: &Entry, flags: &CommonFlags, matches: &ArgMatches, start: &Start) -> Result<RunConfig> {
    let recipe = |data: &str| Ok(serde_json::to_value(entry.recipe(data)?)?);
    let mut config = start.configure(("text", entry.info.name), "20newsgroups", flags, recipe)?;
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    flags.apply_to(&mut recipe.train)?;
    if let Some(dir) = config.init.as_deref().filter(|dir| Foreign::is_in(dir)) {
        recipe.encoder = Foreign::open(dir)?.shape;
        recipe.length = recipe.length.min(recipe.encoder.max_length as usize);
    }
    if let Some(arch) = matches.get_one::<Arch>("encoder") {
        recipe.encoder.arch = *arch;
    }
    if let Some(length) = matches.get_one::<usize>("length") {
        recipe.length = *length;
    }
    if let Some(most) = matches.get_one::<i64>("max-length") {
        recipe.encoder.max_length = *most;
    }
    if let Some(size) = matches.get_one::<usize>("vocab-size") {
        recipe.tokenizer.vocab_size = *size;
    }
    if let Some(kind) = matches.get_one::<String>("tokenizer-kind") {
        recipe.tokenizer.kind = serde_json::from_value(serde_json::json!(kind))?;
    }
    read_method_flags(matches, &entry.schema(), &entry.defaults()?, &mut recipe.method)?;
    config.recipe = serde_json::to_value(&recipe)?;
    Ok(config)
}

fn describe(config: &RunConfig, recipe: &Recipe, text: &Text, dir: &RunDir) -> String {
    let train = &recipe.train;
    let length = train.steps.map_or(format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
    format!(
        "{} on {}: {} documents, {} tokens of a vocabulary of {}, {}, batch {} of {} tokens, {length}, {} in {:?} on \
         {} threads; writing to {}",
        config.method,
        config.data,
        text.train.documents(),
        text.train.len(),
        text.tokenizer.vocabulary().size,
        recipe.encoder.arch,
        train.batch_size,
        recipe.length,
        config.device,
        config.precision,
        config.threads,
        dir.path().display()
    )
}
