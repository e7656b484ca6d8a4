//! Pretrains and evaluates an audio encoder: `audio <method> [flags]`, `audio list`.
//!
//! The last line on standard output is the summary of the run as JSON; everything else goes to standard error.
#![allow(clippy::print_stderr, reason = "the example talks to a person")]

mod asked;
mod corrupt;
mod data;
mod explain;
mod picture;

use anyhow::{Context, Result};
use asked::Asked;
use clap::{Arg, ArgMatches, Command, FromArgMatches, value_parser};
use data::Sounds;
use serde_json::Value;
use ssl_audio::interop::Foreign;
use ssl_audio::methods::{ALL, Entry, find};
use ssl_audio::models::{Arch, EncoderConfig, Encoders};
use ssl_audio::readers::{Options, Shorter, Silent};
use ssl_audio::{Recipe, Sampling, WindowSource};
use ssl_core::Source;
use ssl_examples::{CommonFlags, DynMethod, Experiment, Parts, RunConfig, RunDir, Start};
use ssl_examples::{end, exit, list, locate_all, method_command, method_flags, read_method_flags, stop_flag};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let began = Instant::now();
    let matches = command().get_matches();
    exit(match matches.subcommand() {
        Some(("list", _)) => list(ALL.iter().map(|entry| entry.info)),
        Some((name, flags)) => run(name, flags, began),
        None => Ok(ExitCode::SUCCESS),
    })
}

fn command() -> Command {
    let methods = ALL.iter().map(|entry| {
        let own = entry.defaults().map(|d| method_flags(&entry.schema(), &d)).unwrap_or_default();
        method_command(&entry.info, audio_flags().into_iter().chain(own))
    });
    Command::new("audio")
        .about("Pretrains an audio encoder without labels, and evaluates it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("Lists the methods"))
        .subcommands(methods)
}

fn audio_flags() -> [Arg; 8] {
    let name = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    [
        name("encoder", "NAME").value_parser(|name: &str| name.parse::<Arch>()).help(
            "mel, cpc_cC or wav2vec2_cC (channels) with _gru_dD_lL, _lstm_dD_lL or _dD_lL_hH, or mel_conv_dD",
        ),
        name("eval-data", "NAME|PATH|none").help(
            "What the encoder is evaluated on where the data has no labels: one or two sound fonts, whose notes it \
             is to tell, or labelled recordings [default: timgm6mb-soundfont]",
        ),
        name("held-out", "N")
            .value_parser(value_parser!(usize))
            .default_value("256")
            .help("Test windows on which the pretext task itself is measured"),
        name("sample-rate", "HERTZ")
            .value_parser(value_parser!(u32))
            .help("Rate that recordings are brought to"),
        name("shortest", "SECONDS")
            .value_parser(value_parser!(f64))
            .help("Leaves shorter recordings out; without it, silence fills up their windows"),
        name("quietest", "DECIBELS")
            .value_parser(value_parser!(f64))
            .allow_hyphen_values(true)
            .help("Leaves recordings out whose loudest sample is below this level of full scale, as in -60"),
        name("cache", "MIB")
            .value_parser(value_parser!(u64))
            .default_value("1024")
            .help("Memory for recordings that had to be decoded or resampled"),
        name("clip", "SECONDS")
            .value_parser(value_parser!(f64))
            .help("What is embedded of a labelled recording: its middle"),
    ]
}

fn run(name: &str, matches: &ArgMatches, began: Instant) -> Result<ExitCode> {
    let entry = find(name)?;
    let mut flags = CommonFlags::from_arg_matches(matches)?;
    let start = Start::new("audio", name, &mut flags)?;
    let config = configure(entry, &flags, matches, &start)?;
    let recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    let device = start.machine.device;

    let options = reading(matches, &recipe, flags.max_bad);
    let sounds = Sounds::open(&locate_all(&config.data)?, &options, (config.limit, config.seed))?;
    let asked = match sounds.has_labels() {
        true => Asked::Nothing,
        false => Asked::open(config.eval_data.as_deref(), &options)?,
    };
    let foreign = config.init.as_deref().filter(|dir| Foreign::is_in(dir)).map(Foreign::open).transpose()?;
    let encoders = || Encoders::new(recipe.encoder.clone(), device);
    let build = || Ok(entry.build(&recipe.method, &encoders())? as Box<DynMethod<_, _>>);
    let begin = || {
        let encoders = match config.init.as_ref().filter(|init| !init.is_dir()) {
            Some(file) => encoders().starting_from(file),
            None => encoders(),
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
    let probe = entry.build(&recipe.method, &encoders())?;
    let (views, place) = (probe.views(), probe.place());
    drop(probe);
    let sampling = Sampling { place: place.unwrap_or(recipe.sampling.place), ..recipe.sampling };
    let source =
        WindowSource::new(sounds.train(), views.clone(), sampling, recipe.train.batch_size, config.seed)?;
    recipe.train.total_steps(source.batches_per_epoch())?;
    let count = matches.get_one("held-out").copied().unwrap_or(0);
    let held_out = sounds.held_out(views, sampling, (recipe.train.batch_size, count), config.seed)?;

    let (machine, dir) = start.open(&config, &flags)?;
    if !flags.quiet {
        eprintln!("{}", describe(&config, &recipe, &sounds, &dir));
    }
    let (train, test) = sounds.examples(&recipe)?;
    let asked = asked.examples(&recipe)?;
    let parts = Parts {
        build: &build,
        start: &begin,
        source: &source,
        held_out,
        train: &train,
        test: test.as_ref().map(|test| test as _),
        probes: asked.probes()?,
        config: recipe.train.clone(),
        encoder: recipe.encoder.arch.to_string(),
        preprocess: serde_json::json!({"encoder": recipe.encoder, "clean": recipe.clean}),
        layer_of: &|name| recipe.encoder.layer_of(name),
        unreadable: &|| sounds.skipped(),
        derived: &|_| Vec::new(),
        show: &|rows| picture::write(&dir, "look.png", rows, recipe.encoder.sample_rate()),
        explain: &|explained| explain::explain(&dir, explained, &recipe),
        figures: picture::views(&dir, &source.batch(0, 0)?, recipe.encoder.sample_rate())?,
        probe_stages: false,
    };
    let experiment =
        Experiment { config: &config, dir: &dir, flags: &flags, machine, stop: stop_flag()?, began };
    end(&experiment.run(&parts)?, &config, &dir)
}

/// How recordings are read.
fn reading(matches: &ArgMatches, recipe: &Recipe, max_bad: f64) -> Options {
    Options {
        sample_rate: recipe.encoder.sample_rate(),
        max_bad,
        shorter: matches.get_one("shortest").map_or(Shorter::Pad, |seconds| Shorter::Skip(*seconds)),
        silent: matches.get_one("quietest").map_or(Silent::Keep, |level| Silent::Skip(*level)),
        cache_bytes: matches.get_one::<u64>("cache").map_or(0, |mib| mib << 20),
    }
}

/// The configuration of the run, with all flags applied.
fn configure(entry: &Entry, flags: &CommonFlags, matches: &ArgMatches, start: &Start) -> Result<RunConfig> {
    let recipe = |data: &str| Ok(serde_json::to_value(entry.recipe(data)?)?);
    let mut config = start.configure(("audio", entry.info.name), "asterisk", flags, recipe)?;
    let mut recipe: Recipe = serde_json::from_value(config.recipe.clone()).context("recipe")?;
    flags.apply_to(&mut recipe.train)?;
    if let Some(data) = matches.get_one::<String>("eval-data") {
        config.eval_data = Some(data.clone());
    }
    config.eval_data.get_or_insert_with(|| "timgm6mb-soundfont".into());
    if let Some(dir) = config.init.as_deref().filter(|dir| Foreign::is_in(dir)) {
        let foreign = Foreign::open(dir)?;
        recipe.encoder = EncoderConfig { mel: recipe.encoder.mel, ..foreign.shape };
        if let (Value::Object(to), Value::Object(heads), "wav2vec2") =
            (&mut recipe.method, foreign.settings, entry.info.name)
        {
            to.extend(heads);
        }
    }
    if let Some(arch) = matches.get_one::<Arch>("encoder") {
        recipe.encoder.arch = *arch;
    }
    if let Some(rate) = matches.get_one::<u32>("sample-rate") {
        let mel = &mut recipe.encoder.mel;
        mel.sample_rate = *rate;
        // Above half the rate there is nothing.
        mel.high = mel.high.filter(|high| *high <= f64::from(*rate) / 2.);
    }
    if let Some(seconds) = matches.get_one::<f64>("clip") {
        recipe.clean.samples = (seconds * f64::from(recipe.encoder.sample_rate())).round() as usize;
    }
    read_method_flags(matches, &entry.schema(), &entry.defaults()?, &mut recipe.method)?;
    config.recipe = serde_json::to_value(&recipe)?;
    Ok(config)
}

fn describe(config: &RunConfig, recipe: &Recipe, sounds: &Sounds, dir: &RunDir) -> String {
    let train = &recipe.train;
    let length = train.steps.map_or(format!("{} epochs", train.epochs), |steps| format!("{steps} steps"));
    let (recordings, seconds) = sounds.size();
    format!(
        "{} on {}: {recordings} recordings of {:.0} minutes, {} at {} Hz, batch {}, {length}, {} in {:?} on {} \
         threads; writing to {}",
        config.method,
        config.data,
        seconds / 60.,
        recipe.encoder.arch,
        recipe.encoder.sample_rate(),
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
