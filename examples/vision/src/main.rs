//! Pretrains and evaluates a vision encoder: `vision <method> [flags]`, `vision list`.
//!
//! The last line on standard output is the summary of the run as JSON; everything else goes to standard error.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the example talks to a person")]

mod data;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use data::Images;
use ssl_examples::{
    CommonFlags, DynMethod, Experiment, INTERRUPTED, Machine, Outcome, Parts, RunConfig, RunDir,
};
use ssl_examples::{locate_data, method_flags, one_line, read_method_flags, stop_flag};
use ssl_vision::backbones::{Arch, EncoderConfig, Encoders, ResNetConfig, Stem};
use ssl_vision::methods::{ALL, Entry, find};
use ssl_vision::{Augment, AugmentOn, Recipe, ViewSource};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let began = Instant::now();
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("list", _)) => list(),
        Some((name, flags)) => run(name, flags, began),
        None => Ok(ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

fn command() -> Command {
    let list = Command::new("list").about("Lists the methods");
    let methods = ALL.iter().map(|entry| {
        let info = entry.info;
        let about = format!("{} ({}, {})", info.summary, info.paper, info.year);
        // The flags bring a description of their own, which is not the method's.
        CommonFlags::augment_args(Command::new(info.name))
            .about(about)
            .after_help(info.url)
            .args(vision_flags())
            .args(entry.defaults().map(|d| method_flags(&entry.schema(), &d)).unwrap_or_default())
    });
    Command::new("vision")
        .about("Pretrains a vision encoder without labels, and evaluates it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(list)
        .subcommands(methods)
}

fn vision_flags() -> [Arg; 9] {
    [
        Arg::new("encoder")
            .long("encoder")
            .value_name("NAME")
            .value_parser(encoder_name)
            .help("resnet18, resnet34, resnet50, resnet10_wN (one block a stage, N to 8N channels), vit_tiny, vit_small, vit_base or vit_dD_lL_hH"),
        Arg::new("patch-size")
            .long("patch-size")
            .value_name("PIXELS")
            .value_parser(value_parser!(i64))
            .help("Side of a Vision Transformer's patches"),
        Arg::new("stem")
            .long("stem")
            .value_parser(["imagenet", "cifar", "strided"])
            .help("First layers: imagenet for 224 pixels, cifar for 32, strided for 28 to 64 in a hurry"),
        Arg::new("recompute")
            .long("recompute")
            .action(clap::ArgAction::SetTrue)
            .help("Gradient checkpointing of a Vision Transformer: less memory, a forward pass more"),
        Arg::new("image-size")
            .long("image-size")
            .value_name("PIXELS")
            .value_parser(value_parser!(usize))
            .help("Side of the images that are embedded"),
        Arg::new("augment-on")
            .long("augment-on")
            .value_name("WHERE")
            .value_parser(["auto", "cpu", "device"])
            .help("Where random views are made; auto: the device if it is CUDA and all images have one size"),
        Arg::new("stages")
            .long("stages")
            .action(clap::ArgAction::SetTrue)
            .help("Probes every stage of the encoder (always for rotation)"),
        Arg::new("held-out")
            .long("held-out")
            .value_name("N")
            .value_parser(value_parser!(usize))
            .default_value("2000")
            .help("Test images on which the pretext task itself is measured"),
        Arg::new("finetune-views")
            .long("finetune-views")
            .value_name("WHICH")
            .value_parser(["crops", "clean"])
            .default_value("crops")
            .help("What is fine-tuned on: crops of half an image and more, mirrored or not, or the images themselves"),
    ]
}

/// The name of an encoder that there is.
fn encoder_name(name: &str) -> ssl_core::Result<String> {
    let like = ResNetConfig { arch: Arch::ResNet18, stem: Stem::ImageNet, channels: 3 };
    EncoderConfig::named(name, &like.into(), 224).map(|_| name.to_string())
}

fn list() -> Result<ExitCode> {
    let mut table = format!("{:<12} {:<12} {:<5} {:<58} PAPER\n", "METHOD", "KIND", "YEAR", "WHAT IT DOES");
    for entry in ALL {
        let info = entry.info;
        table += &format!(
            "{:<12} {:<12} {:<5} {:<58} {}\n",
            info.name, info.kind, info.year, info.summary, info.url
        );
    }
    print(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output; unlike `print!`, a reader that hangs up or a full disk is an error.
fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn run(name: &str, matches: &ArgMatches, began: Instant) -> Result<ExitCode> {
    let entry = find(name)?;
    let mut flags = CommonFlags::from_arg_matches(matches)?;
    let run_name = format!("vision-{name}");
    let resumed = flags.resume.as_deref().map(|which| RunDir::resume(which, &run_name)).transpose()?;
    let saved = resumed.as_ref().map(RunDir::config).transpose()?;
    if let Some(saved) = saved.as_ref().filter(|_| flags.device == "auto" && !flags.eval_only) {
        flags.device.clone_from(&saved.device);
    }
    let machine = Machine::prepare(&flags)?;
    let config = configure(entry, &flags, matches, saved.clone(), &machine)?;
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    let machine = Machine { precision: config.precision, threads: config.threads, ..machine };

    let (_, path) = locate_data(&config.data)?;
    let images = Images::open(&path, config.limit, config.seed, flags.max_bad)?;
    images.adapt(&mut recipe)?;
    recipe.augment_on = recipe.augment_on.resolve(&*images.train(), machine.device);
    let config = RunConfig { recipe: serde_json::to_value(&recipe)?, ..config };
    if let Some(saved) = saved.filter(|_| !flags.eval_only) {
        config.same_run(&saved)?;
    }
    let encoders = || Encoders::new(recipe.encoder.clone(), machine.device);
    let build = || Ok(entry.build(&recipe.method, &encoders())? as Box<DynMethod<_, _>>);
    let start = || {
        let encoders = match config.init.as_ref().filter(|init| !init.is_dir()) {
            Some(file) => encoders().starting_from(file),
            None => encoders(),
        };
        Ok(entry.build(&recipe.method, &encoders)? as Box<DynMethod<_, _>>)
    };
    let views: Vec<Augment> = entry
        .build(&recipe.method, &Encoders::new(recipe.encoder.clone(), tch::Device::Cpu))?
        .views()
        .into_iter()
        .map(|view| view.normalized(&recipe.pixels.mean, &recipe.pixels.std))
        .collect();
    let source = ViewSource::new(images.train(), views.clone(), recipe.train.batch_size, config.seed)?;
    let source =
        if recipe.augment_on == AugmentOn::Device { source.on_device(machine.device)? } else { source };
    recipe.train.total_steps(source.batches_per_epoch())?;
    let held_out = images.held_out(views, matches.get_one("held-out").copied().unwrap_or(0), config.seed)?;

    let dir = match resumed {
        Some(dir) => dir,
        None => {
            let dir = RunDir::create(flags.out.as_deref(), &run_name)?;
            dir.write_json("config.json", &serde_json::to_value(&config)?)?;
            dir
        }
    };
    if !flags.quiet {
        eprintln!("{}", describe(&config, &recipe, &images, &dir));
    }
    let (train, test) = (images.train_examples(&recipe.pixels), images.test_examples(&recipe.pixels));
    let on_device = (recipe.augment_on == AugmentOn::Device).then_some(machine.device);
    let crops = matches.get_one::<String>("finetune-views").is_some_and(|views| views == "crops");
    let train = if crops { train.with_crops(on_device) } else { train };
    let parts = Parts {
        build: &build,
        start: &start,
        source: &source,
        held_out,
        train: &train,
        test: test.as_ref().map(|test| test as _),
        config: recipe.train.clone(),
        encoder: recipe.encoder.name(),
        preprocess: serde_json::json!({"encoder": recipe.encoder, "pixels": recipe.pixels}),
        layer_of: &|name| recipe.encoder.layer_of(name),
        unreadable: &|| images.unreadable(),
        show: &|rows| data::write_look(&dir, rows, &recipe.pixels),
        figures: vec![(
            "What the method sees".to_string(),
            data::write_views(&dir, &source, &recipe.pixels)?,
        )],
        probe_stages: matches.get_flag("stages") || entry.info.kind == "pretext",
    };
    let experiment =
        Experiment { config: &config, dir: &dir, flags: &flags, machine, stop: stop_flag()?, began };
    match experiment.run(&parts)? {
        Outcome::Finished(summary) => {
            print(&format!("{summary}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { next_step } => {
            let dir = dir.path().display();
            eprintln!(
                "stopped before step {next_step}; go on with: cargo xtask run vision {name} --resume {dir}"
            );
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The configuration: that of the run to resume, of `--config`, or the recipe's, with the flags over it.
fn configure(
    entry: &Entry,
    flags: &CommonFlags,
    matches: &ArgMatches,
    saved: Option<RunConfig>,
    machine: &Machine,
) -> Result<RunConfig> {
    let base = match (&saved, &flags.config) {
        (Some(saved), _) => Some(saved.clone()),
        (None, Some(file)) => Some(RunConfig::read(file)?),
        (None, None) => None,
    };
    let data = flags
        .data
        .clone()
        .or(base.as_ref().map(|b| b.data.clone()))
        .unwrap_or_else(|| "fashion-mnist".into());
    let mut config = match base {
        Some(base) => RunConfig { data, ..base },
        None => RunConfig {
            version: String::new(),
            modality: "vision".into(),
            method: entry.info.name.into(),
            recipe: serde_json::to_value(entry.recipe(&data)?)?,
            data,
            limit: None,
            seed: 0,
            device: String::new(),
            precision: machine.precision,
            threads: 0,
            init: None,
        },
    };
    anyhow::ensure!(
        config.method == entry.info.name && config.modality == "vision",
        "the configuration is of {0} {1}, not of vision {2}: run {0} {1}",
        config.modality,
        config.method,
        entry.info.name
    );
    let (precision, threads) = (config.precision, config.threads);
    config.apply(flags, machine);
    if saved.is_some() {
        // What is not asked for stays as the run had it.
        if flags.precision == "auto" {
            config.precision = precision;
        }
        if flags.threads.is_none() && threads > 0 {
            config.threads = threads;
            ssl_examples::set_threads(threads);
        }
    }
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    flags.apply_to(&mut recipe.train)?;
    if let Some(size) = matches.get_one::<usize>("image-size") {
        recipe.pixels.size = *size;
    }
    if let Some(name) = matches.get_one::<String>("encoder") {
        recipe.encoder = EncoderConfig::named(name, &recipe.encoder, recipe.pixels.size)?;
    }
    match (&mut recipe.encoder, matches.get_one::<String>("stem"), matches.get_one::<i64>("patch-size")) {
        (EncoderConfig::ResNet(net), stem, None) => {
            if let Some(stem) = stem {
                net.stem = serde_json::from_value::<Stem>(serde_json::json!(stem))?;
            }
        }
        (EncoderConfig::Vit(net), None, patch) => net.patch_size = patch.copied().unwrap_or(net.patch_size),
        (net, stem, _) => {
            let flag = if stem.is_some() { "--stem" } else { "--patch-size" };
            anyhow::bail!("{flag}: {} has none", net.name());
        }
    }
    if matches.get_flag("recompute") {
        match &mut recipe.encoder {
            EncoderConfig::Vit(net) => net.recompute = true,
            net => anyhow::bail!("--recompute: {} is no Vision Transformer", net.name()),
        }
    }
    if let Some(place) = matches.get_one::<String>("augment-on") {
        recipe.augment_on = serde_json::from_value(serde_json::json!(place))?;
    }
    read_method_flags(matches, &entry.schema(), &entry.defaults()?, &mut recipe.method)?;
    config.recipe = serde_json::to_value(&recipe)?;
    Ok(config)
}

fn describe(config: &RunConfig, recipe: &Recipe, images: &Images, dir: &RunDir) -> String {
    let train = &recipe.train;
    let length = train.steps.map_or(format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
    format!(
        "{} on {}: {} images, {}, batch {}, {length}, {} in {:?} on {} threads; writing to {}",
        config.method,
        config.data,
        images.train_len(),
        recipe.encoder.name(),
        train.batch_size,
        config.device,
        config.precision,
        config.threads,
        dir.path().display()
    )
}
