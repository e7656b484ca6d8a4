//! Pretrains and evaluates a video encoder: `video <method> [flags]`, `video list`; and what one does with it: `video
//! summarize`, `video nearest`, `video embed`.
//!
//! The last line on standard output is the summary of the run as JSON; everything else goes to standard error.
#![allow(clippy::print_stderr, reason = "the example talks to a person")]

mod commands;
mod corrupt;
mod data;
mod examples;
mod explain;
mod picture;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, FromArgMatches, value_parser};
use data::{Settings, Videos};
use ssl_core::Source;
use ssl_examples::{CommonFlags, DynMethod, Experiment, Parts, RunConfig, RunDir, Start};
use ssl_examples::{end, exit, list, method_command, method_flags, read_method_flags, stop_flag};
use ssl_video::augment::Augment;
use ssl_video::backbones::{EncoderConfig, Encoders};
use ssl_video::methods::{ALL, Entry, find};
use ssl_video::{ClipSource, Recipe, Sampling, View};
use std::path::PathBuf;
use std::process::ExitCode;
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
        method_command(&entry.info, video_flags().into_iter().chain(own))
    });
    Command::new("video")
        .about("Pretrains a video encoder without labels, and evaluates it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("Lists the methods"))
        .subcommands(methods)
        .subcommands(commands::all())
}

fn video_flags() -> [Arg; 7] {
    let name = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    [
        name("encoder", "NAME").help(
            "r3d18, r2plus1d18 (also _wN: N channels), resnet18_late, resnet10_wN_late, or a video transformer such as \
             vit_tiny",
        ),
        name("videos", "N")
            .value_parser(value_parser!(usize))
            .default_value("10000")
            .help("Videos that are made of images, of moving-.. data"),
        name("sprites", "N")
            .value_parser(value_parser!(usize))
            .default_value("1")
            .help("Images in each of them: 1 or 2"),
        name("segment", "SECONDS")
            .value_parser(value_parser!(f64))
            .default_value("2")
            .help("Length of the segments that recordings without a test set are cut into"),
        name("held-out", "N")
            .value_parser(value_parser!(usize))
            .default_value("512")
            .help("Test clips on which the pretext task itself is measured"),
        name("cache", "MIB")
            .value_parser(value_parser!(u64))
            .default_value("1024")
            .help("Memory for decoded videos"),
        name("ffmpeg", "FILE")
            .value_parser(value_parser!(PathBuf))
            .default_value("ffmpeg")
            .help("The program that decodes films; ffprobe is looked for beside it"),
    ]
}

fn run(name: &str, matches: &ArgMatches, began: Instant) -> Result<ExitCode> {
    let entry = find(name)?;
    let mut flags = CommonFlags::from_arg_matches(matches)?;
    let start = Start::new("video", name, &mut flags)?;
    let config = configure(entry, &flags, matches, &start)?;
    let recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    let device = start.machine.device;

    let videos = Videos::open(&config.data, &settings(matches, &recipe, &config, flags.max_bad))?;
    let encoders = || Encoders::new(recipe.encoder.clone(), device);
    let build = || Ok(entry.build(&recipe.method, &encoders())? as Box<DynMethod<_, _>>);
    let begin = || {
        let encoders = match config.init.as_ref().filter(|init| !init.is_dir()) {
            Some(file) => encoders().starting_from(file),
            None => encoders(),
        };
        Ok(entry.build(&recipe.method, &encoders)? as Box<DynMethod<_, _>>)
    };
    let probe = entry.build(&recipe.method, &encoders())?;
    let views: Vec<View> = probe.views().into_iter().map(|view| normalized(view, &recipe)).collect();
    let sampling = Sampling { place: probe.place().unwrap_or(recipe.sampling.place), ..recipe.sampling };
    drop(probe);
    let source =
        ClipSource::new(videos.train(), views.clone(), sampling, recipe.train.batch_size, config.seed)?;
    recipe.train.total_steps(source.batches_per_epoch())?;
    let count = matches.get_one("held-out").copied().unwrap_or(0);
    let held_out = videos.held_out(views, sampling, (recipe.train.batch_size, count), config.seed)?;
    let first = source.batch(0, 0)?;

    let (machine, dir) = start.open(&config, &flags)?;
    if !flags.quiet {
        eprintln!("{}", describe(&config, &recipe, &videos, &dir));
        for note in videos.notes() {
            eprintln!("{note}");
        }
    }
    let (train, test) = videos.examples(&recipe.clean);
    let parts = Parts {
        build: &build,
        start: &begin,
        source: &source,
        held_out,
        train: &train,
        test: test.as_ref().map(|test| test as _),
        probes: examples::probes(&train, test.as_ref()),
        config: recipe.train.clone(),
        encoder: recipe.encoder.name(),
        preprocess: serde_json::json!({"encoder": recipe.encoder, "clean": recipe.clean}),
        layer_of: &|name| recipe.encoder.layer_of(name),
        unreadable: &|| videos.skipped(),
        derived: &|_| Vec::new(),
        show: &|rows| picture::look(&dir, rows, &recipe.clean),
        explain: &|explained| explain::explain(&dir, explained, &recipe),
        figures: vec![("What the method sees".to_string(), picture::views(&dir, &first, &recipe.clean)?)],
        probe_stages: false,
    };
    let experiment =
        Experiment { config: &config, dir: &dir, flags: &flags, machine, stop: stop_flag()?, began };
    end(&experiment.run(&parts)?, &config, &dir)
}

/// A view with the channels' mean and deviation of the data.
fn normalized(view: View, recipe: &Recipe) -> View {
    let clip = view.augment.clip.clone().normalized(&recipe.clean.mean, &recipe.clean.std);
    View { augment: Augment { clip, ..view.augment }, ..view }
}

/// How videos are read or made.
fn settings(matches: &ArgMatches, recipe: &Recipe, config: &RunConfig, max_bad: f64) -> Settings {
    let ffmpeg = matches.get_one::<PathBuf>("ffmpeg").cloned().unwrap_or_default();
    Settings {
        size: recipe.clean.size,
        channels: recipe.clean.mean.len(),
        videos: matches.get_one("videos").copied().unwrap_or(1),
        sprites: matches.get_one("sprites").copied().unwrap_or(1),
        segment: matches.get_one("segment").copied().unwrap_or(2.),
        limit: config.limit,
        seed: config.seed,
        max_bad,
        cache_bytes: matches.get_one::<u64>("cache").map_or(0, |mib| mib << 20),
        ffprobe: ffmpeg.with_file_name("ffprobe"),
        ffmpeg,
    }
}

/// The configuration of the run, with all flags applied.
fn configure(entry: &Entry, flags: &CommonFlags, matches: &ArgMatches, start: &Start) -> Result<RunConfig> {
    let recipe = |data: &str| Ok(serde_json::to_value(entry.recipe(data)?)?);
    let mut config = start.configure(("video", entry.info.name), "moving-fashion-mnist", flags, recipe)?;
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    flags.apply_to(&mut recipe.train)?;
    if let Some(name) = matches.get_one::<String>("encoder") {
        let (size, frames) = (recipe.clean.size, recipe.clean.frames);
        recipe.encoder = EncoderConfig::named(name, &recipe.encoder, size, frames)?;
    }
    recipe.encoder = recipe.encoder.with_channels(recipe.clean.mean.len() as i64);
    read_method_flags(matches, &entry.schema(), &entry.defaults()?, &mut recipe.method)?;
    config.recipe = serde_json::to_value(&recipe)?;
    Ok(config)
}

fn describe(config: &RunConfig, recipe: &Recipe, videos: &Videos, dir: &RunDir) -> String {
    let train = &recipe.train;
    let length = train.steps.map_or(format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
    format!(
        "{} on {}: {} videos, {}, clips of {} frames of {} pixels, batch {}, {length}, {} in {:?} on {} threads; \
         writing to {}",
        config.method,
        config.data,
        videos.train().len(),
        recipe.encoder.name(),
        recipe.clean.frames,
        recipe.clean.size,
        train.batch_size,
        config.device,
        config.precision,
        config.threads,
        dir.path().display()
    )
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn no_flag_of_a_method_is_also_one_of_all_methods() {
        command().debug_assert();
    }
}
