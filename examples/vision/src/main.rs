//! Pretrains and evaluates a vision encoder: `vision <method> [flags]`, `vision list`.
//!
//! The last line on standard output is the summary of the run as JSON; everything else goes to standard error.
#![allow(clippy::print_stderr, reason = "the example talks to a person")]

mod anomaly;
mod corrupt;
mod data;
mod explain;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, FromArgMatches, value_parser};
use data::{CleanImages, Images};
use ssl_examples::{CommonFlags, DynMethod, Examples, Experiment, Grouped, Parts, RunConfig, RunDir, Start};
use ssl_examples::{
    end, exit, list, locate_data, method_command, method_flags, read_method_flags, stop_flag,
};
use ssl_vision::backbones::{Arch, EncoderConfig, ResNetConfig, Stem};
use ssl_vision::methods::{ALL, Entry, find};
use ssl_vision::{Augment, AugmentOn, Balancing, Planting, Recipe, ViewSource};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let began = Instant::now();
    let matches = command().get_matches();
    exit(match matches.subcommand() {
        Some(("list", _)) => list(ALL.iter().map(|entry| entry.info)),
        Some((anomaly::NAME, flags)) => anomaly::run(flags),
        Some((name, flags)) => run(name, flags, began),
        None => Ok(ExitCode::SUCCESS),
    })
}

fn command() -> Command {
    let list = Command::new("list").about("Lists the methods");
    let methods = ALL.iter().map(|entry| {
        let own = entry.defaults().map(|d| method_flags(&entry.schema(), &d)).unwrap_or_default();
        method_command(&entry.info, vision_flags().into_iter().chain(own))
    });
    Command::new("vision")
        .about("Pretrains a vision encoder without labels, and evaluates it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(list)
        .subcommands(methods)
        .subcommand(anomaly::command())
}

fn vision_flags() -> [Arg; 14] {
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
        Arg::new("leave-out")
            .long("leave-out")
            .value_name("CLASS")
            .help("A class whose images are left out, to ask `vision anomaly` for it afterwards"),
        Arg::new("plant")
            .long("plant")
            .value_name("SHARE")
            .value_parser(value_parser!(f64))
            .help("Plants a bright corner into this share of the images of the first half of the classes, and into the rest of 1 of the others, to measure what comes of it"),
        Arg::new("plant-side")
            .long("plant-side")
            .value_name("PIXELS")
            .requires("plant")
            .value_parser(value_parser!(usize))
            .help("Side of that corner [default: a seventh of the image]"),
        Arg::new("plant-seed")
            .long("plant-seed")
            .value_name("N")
            .requires("plant")
            .value_parser(value_parser!(u64))
            .default_value("0")
            .help("Another seed, other images"),
        Arg::new("balance")
            .long("balance")
            .value_name("WHAT")
            .value_parser(["groups"])
            .help("Batches in which all groups of --groups or --plant are equally frequent"),
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

fn run(name: &str, matches: &ArgMatches, began: Instant) -> Result<ExitCode> {
    let entry = find(name)?;
    let mut flags = CommonFlags::from_arg_matches(matches)?;
    let start = Start::new("vision", name, &mut flags)?;
    let config = configure(entry, &flags, matches, &start)?;
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    let device = start.machine.device;

    let (_, path) = locate_data(&config.data)?;
    let images = Images::open(&path, recipe.left_out.as_deref(), (config.limit, config.seed), flags.max_bad)?;
    let images = images.planted(recipe.planted.as_ref())?;
    images.adapt(&mut recipe)?;
    recipe.augment_on = recipe.augment_on.resolve(&*images.train(), device);
    let config = RunConfig { recipe: serde_json::to_value(&recipe)?, ..config };
    let encoders = || recipe.encoders(device);
    let build = || Ok(entry.build(&recipe.method, &encoders())? as Box<DynMethod<_, _>>);
    let begin = || {
        let encoders = match config.init.as_ref().filter(|init| !init.is_dir()) {
            Some(file) => encoders().starting_from(file),
            None => encoders(),
        };
        Ok(entry.build(&recipe.method, &encoders)? as Box<DynMethod<_, _>>)
    };
    let probe = entry.build(&recipe.method, &recipe.encoders(tch::Device::Cpu))?;
    probe.admit(images.train().channels())?;
    let views: Vec<Augment> = probe
        .views()
        .into_iter()
        .map(|view| view.normalized(&recipe.pixels.mean, &recipe.pixels.std))
        .collect();
    let source = ViewSource::new(images.train(), views.clone(), recipe.train.batch_size, config.seed)?;
    let source = if recipe.augment_on == AugmentOn::Device { source.on_device(device)? } else { source };
    let (train, test) = (images.train_examples(&recipe.pixels), images.test_examples(&recipe.pixels));
    let groups = grouped(&config, &train, test.as_ref())?.map(|grouped| grouped.groups);
    let source = match recipe.balance {
        Some(Balancing::Groups) => {
            let groups =
                groups.context("--balance groups: expected --groups FILE or --plant SHARE beside it")?;
            source.balanced(groups.get(..images.train_len()).unwrap_or_default())?
        }
        None => source,
    };
    recipe.train.total_steps(source.batches_per_epoch())?;
    let held_out = images.held_out(views, matches.get_one("held-out").copied().unwrap_or(0), config.seed)?;

    let (machine, dir) = start.open(&config, &flags)?;
    if !flags.quiet {
        eprintln!("{}", describe(&config, &recipe, &images, &dir));
    }
    let on_device = (recipe.augment_on == AugmentOn::Device).then_some(device);
    let crops = matches.get_one::<String>("finetune-views").is_some_and(|views| views == "crops");
    let train = if crops { train.with_crops(on_device) } else { train };
    let test = test.map(|test| test.with_crops(on_device));
    let parts = Parts {
        build: &build,
        start: &begin,
        source: &source,
        held_out,
        train: &train,
        test: test.as_ref().map(|test| test as _),
        probes: None,
        config: recipe.train.clone(),
        encoder: recipe.encoder.name(),
        preprocess: serde_json::json!({"encoder": recipe.encoder, "pixels": recipe.pixels}),
        layer_of: &|name| recipe.encoder.layer_of(name),
        unreadable: &|| images.unreadable(),
        derived: &|_| Vec::new(),
        show: &|rows| data::write_look(&dir, rows, &recipe.pixels),
        explain: &|explained| explain::explain(&dir, explained, &recipe),
        figures: vec![(
            "What the method sees".to_string(),
            data::write_views(&dir, &source, &recipe.pixels)?,
        )],
        probe_stages: matches.get_flag("stages") || entry.info.kind == "pretext",
    };
    let experiment =
        Experiment { config: &config, dir: &dir, flags: &flags, machine, stop: stop_flag()?, began };
    end(&experiment.run(&parts)?, &config, &dir)
}

/// The groups of the images, if there are any.
fn grouped(config: &RunConfig, train: &CleanImages, test: Option<&CleanImages>) -> Result<Option<Grouped>> {
    let mut sets: Vec<&dyn Examples<tch::Tensor>> = vec![train];
    sets.extend(test.map(|test| test as &dyn Examples<tch::Tensor>));
    Grouped::of(config.groups.as_ref(), &sets)
}

/// The configuration of the run, with all flags applied.
fn configure(entry: &Entry, flags: &CommonFlags, matches: &ArgMatches, start: &Start) -> Result<RunConfig> {
    let recipe = |data: &str| Ok(serde_json::to_value(entry.recipe(data)?)?);
    let mut config = start.configure(("vision", entry.info.name), "fashion-mnist", flags, recipe)?;
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
    if let Some(class) = matches.get_one::<String>("leave-out") {
        recipe.left_out = Some(class.clone());
    }
    if let Some(share) = matches.get_one::<f64>("plant") {
        recipe.planted = Some(Planting {
            share: *share,
            side: matches.get_one("plant-side").copied(),
            seed: matches.get_one("plant-seed").copied().unwrap_or(0),
        });
    }
    if matches.contains_id("balance") {
        recipe.balance = Some(Balancing::Groups);
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
