//! What is done with a finished run: a video in short, the clips that are most alike, a vector for each clip.
mod canvas;
mod embed;
mod footage;
mod nearest;
mod sheet;
mod summarize;

use anyhow::{Context, Result, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use footage::Footage;
use ssl_core::trainer::seed_torch;
use ssl_core::{checkpoint, no_grad};
use ssl_examples::{RunConfig, RunDir};
use ssl_video::backbones::Encoders;
use ssl_video::methods::{VideoMethod, find};
use ssl_video::{Clean, Recipe, VideoDataset};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{Device, Kind, Tensor};

/// The commands.
pub(crate) const NAMES: [&str; 3] = ["summarize", "nearest", "embed"];
/// Clips that are embedded at once.
const BLOCK: usize = 32;
/// The method whose encoder `--untrained` takes, with random weights.
const UNTRAINED: &str = "frame_order";

pub(crate) fn all() -> [Command; 3] {
    [
        command(
            NAMES[0],
            "Cuts videos where their content changes, and shows the clips that stand for the rest",
        )
        .args(summarize::flags()),
        command(NAMES[1], "Finds the clips that are most alike to one").args(nearest::flags()),
        command(NAMES[2], "Writes a vector for each video or clip to a safetensors or NumPy file")
            .args(embed::flags()),
    ]
}

/// A command with what all have: a run, or none, and films.
fn command(name: &'static str, about: &'static str) -> Command {
    let paths = Arg::new("paths")
        .value_name("RUN FILE")
        .required(true)
        .num_args(1..)
        .value_parser(value_parser!(PathBuf))
        .help("The directory of the run, and videos: films, animations, arrays, folders of frames, folders of these");
    let untrained = Arg::new("untrained")
        .long("untrained")
        .action(ArgAction::SetTrue)
        .help("Random weights; no RUN before the files");
    let usage = format!("video {name} [OPTIONS] <RUN|--untrained> <FILE>...");
    Command::new(name).about(about).override_usage(usage).arg(paths).arg(untrained).args(footage::flags())
}

/// A flag that takes a value.
fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result<ExitCode> {
    let paths: Vec<PathBuf> = matches.get_many("paths").into_iter().flatten().cloned().collect();
    let (trained, files) = match matches.get_flag("untrained") {
        true => (None, paths.as_slice()),
        false => {
            let (run, files) = paths.split_first().context("expected a run and videos")?;
            ensure!(!files.is_empty(), "expected videos behind the run {}, got none", run.display());
            (Some(load(run)?), files)
        }
    };
    let trained = trained.map_or_else(untrained, Ok)?;
    let footage = Footage::new(matches, &trained.clean, files);
    match name {
        "summarize" => summarize::run(matches, &trained, footage),
        "nearest" => nearest::run(matches, &trained, footage),
        _ => embed::run(matches, &trained, footage),
    }
}

/// A method with its weights, and how it sees a clip.
pub(crate) struct Trained {
    method: Box<dyn VideoMethod>,
    clean: Clean,
    /// The directory of the run, none for random weights.
    run: Option<PathBuf>,
}

/// A run's method with the weights of its last checkpoint, and the encoder that it left.
fn load(dir: &Path) -> Result<Trained> {
    let config = RunConfig::of_run(dir, "video")?;
    let recipe: Recipe = serde_json::from_value(config.recipe).context("recipe")?;
    let encoders = Encoders::new(recipe.encoder, Device::Cpu);
    let method = find(&config.method)?.build(&recipe.method, &encoders)?;
    RunDir::load_last(dir, method.as_ref(), &recipe.train.optimizer)?;
    // A finished run took the statistics of its encoder anew after the last checkpoint.
    let encoder = dir.join("encoder.safetensors");
    if encoder.is_file() {
        checkpoint::load_encoder(&encoder, &method.encoder(), &[])?;
    }
    Ok(Trained { method, clean: recipe.clean, run: Some(dir.to_path_buf()) })
}

/// A method as it begins.
fn untrained() -> Result<Trained> {
    let entry = find(UNTRAINED)?;
    let recipe = entry.recipe("default")?;
    seed_torch(0, u64::MAX);
    let method = entry.build(&recipe.method, &Encoders::new(recipe.encoder, Device::Cpu))?;
    Ok(Trained { method, clean: recipe.clean, run: None })
}

impl Trained {
    /// A vector for each window of a set: pairs of a video and its first frame. `[n, D]`.
    fn embed(&self, set: &dyn VideoDataset, windows: &[(usize, usize)]) -> Result<Tensor> {
        let block = |windows: &[(usize, usize)]| -> Result<Tensor> {
            let clips = self.clean.windows(set, windows)?;
            Ok(no_grad(|| self.method.embed(&clips))?.f_to_kind(Kind::Float)?)
        };
        Ok(Tensor::f_cat(&windows.chunks(BLOCK).map(block).collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// What the weights are, for whoever reads the results.
    fn name(&self) -> String {
        self.run.as_ref().map_or_else(|| "untrained".to_string(), |run| run.display().to_string())
    }
}
