//! What a run makes of a class that it is not to know: how far are its images from all others?
//!
//! Source: Bergman, Cohen, Hoshen, 2020, the distance to the two nearest: <https://arxiv.org/abs/2002.10445>; the protocol
//! of one class against the rest, the other way round, from Golan & El-Yaniv, 2018: <https://arxiv.org/abs/1805.10917>.
//!
//! Training images of the class are never among the neighbours. What was restored well is asked of a class that training
//! left out alone: a network that has seen them all has one error for an image, whichever class is asked for, and the
//! mean over equally large classes would be one half whatever the method.
use crate::data::{CleanImages, Images, class_of};
use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use ssl_core::eval::{auroc, neighbour_distance};
use ssl_core::nn::l2_normalize;
use ssl_examples::{Examples, Machine, RunConfig, RunDir, calibrate, embed, locate_data, print, set_threads};
use ssl_vision::Recipe;
use ssl_vision::methods::{VisionMethod, find};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{Device, Kind, Tensor};

pub(crate) const NAME: &str = "anomaly";
/// Every class in turn.
const ALL: &str = "all";
/// Images that are restored at once.
const BLOCK: usize = 256;
/// What scores an image, in the order of the table.
const SCORES: [&str; 3] = ["knn", "reconstruction", "raw_knn"];

pub(crate) fn command() -> Command {
    let name = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    Command::new(NAME)
        .about("Tells images of a class from all others by how unlike the training images they are")
        .after_help("A run with --leave-out CLASS has never seen that class; of methods that draw images, how badly they restore it is then told too.")
        .args([
            Arg::new("run")
                .value_name("RUN")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The directory of the run"),
            name("left-out", "CLASS|all").help(
                "The class that is not to be known, by name or number, or each in turn [default: the one that the run left out, or all]",
            ),
            name("data", "NAME|PATH").help("Labelled images [default: those of the run]"),
            name("k", "N")
                .value_parser(value_parser!(i64))
                .default_value("2")
                .help("Nearest training images whose mean distance counts"),
            name("limit", "N")
                .value_parser(value_parser!(usize))
                .help("Training images among which these are, drawn at random [default: as many as the run had]"),
        ])
}

pub(crate) fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let dir: &PathBuf = matches.get_one("run").context("RUN")?;
    let k: i64 = matches.get_one("k").copied().context("--k")?;
    let loaded = Loaded::open(dir, matches)?;
    let (left_out, train) = (loaded.recipe.left_out.as_deref(), loaded.images.train());
    let known = left_out.map(|class| class_of(&*train, class)).transpose()?;
    let wanted = matches.get_one::<String>("left-out").map(String::as_str).or(left_out).unwrap_or(ALL);
    let labels = train.labels().context("the images have no labels")?;
    let classes: Vec<i64> = match wanted {
        ALL => {
            (0..=labels.iter().max().copied().unwrap_or(0)).filter(|class| labels.contains(class)).collect()
        }
        class => vec![class_of(&*train, class).context("--left-out")?],
    };
    let names = train.class_names().to_vec();
    let name = |class: i64| names.get(class as usize).cloned().unwrap_or_else(|| class.to_string());

    let scene = Scene::new(&loaded)?;
    eprintln!("{:>8} {:>15} {:>8}  LEFT OUT", "KNN", "RECONSTRUCTION", "RAW KNN");
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    for class in classes {
        let is_new = known == Some(class);
        let errors = scene.errors.as_ref().filter(|_| is_new);
        let areas = scene.areas(class, k, errors).with_context(|| format!("class {}", name(class)))?;
        say(&areas, &name(class));
        let count = scene.test_labels.iter().filter(|&&label| label == class).count();
        rows.push(json!({
            "class": name(class),
            "left_out_of_training": is_new,
            "n_left_out": count,
            "n_others": scene.test_labels.len() - count,
            "auroc": named(&areas),
        }));
        found.push(areas);
    }
    let mean = [0, 1, 2].map(|place| {
        let of: Option<Vec<f64>> = found.iter().map(|areas| areas.get(place).copied().flatten()).collect();
        of.map(|of| of.iter().sum::<f64>() / of.len().max(1) as f64)
    });
    say(&mean, "mean");
    let all = json!({
        "run": dir,
        "method": loaded.method_name,
        "dataset": loaded.data,
        "k": k,
        "train_examples": labels.len(),
        "classes": rows,
        "mean": named(&mean),
    });
    print(&format!("{all}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// An area for each of [`SCORES`], if it is to be had.
type Areas = [Option<f64>; 3];

fn named(areas: &Areas) -> Value {
    SCORES.iter().zip(areas).map(|(name, area)| ((*name).to_string(), json!(area))).collect()
}

fn say(areas: &Areas, name: &str) {
    let [knn, reconstruction, raw] =
        areas.map(|area| area.map_or_else(|| "-".into(), |area| format!("{area:.3}")));
    eprintln!("{knn:>8} {reconstruction:>15} {raw:>8}  {name}");
}

/// A run's method with the weights of its last checkpoint, and the images.
struct Loaded {
    method: Box<dyn VisionMethod>,
    method_name: String,
    recipe: Recipe,
    images: Images,
    /// Those that the run could see, where it left a class out.
    seen: Option<Images>,
    data: String,
    seed: u64,
    machine: Machine,
}

impl Loaded {
    fn open(dir: &Path, matches: &ArgMatches) -> Result<Self> {
        let config = RunConfig::of_run(dir, "vision")?;
        let recipe: Recipe = serde_json::from_value(config.recipe).context("recipe")?;
        let method = find(&config.method)?.build(&recipe.method, &recipe.encoders(Device::Cpu))?;
        RunDir::load_last(dir, method.as_ref(), &recipe.train.optimizer)?;
        set_threads(config.threads);
        let machine = Machine { device: Device::Cpu, precision: config.precision, threads: config.threads };
        let data = matches.get_one::<String>("data").cloned().unwrap_or(config.data);
        let (_, path) = locate_data(&data)?;
        let limit = (matches.get_one::<usize>("limit").copied().or(config.limit), config.seed);
        let open = |left_out| Images::open(&path, left_out, limit, 0.01);
        let seen = recipe.left_out.as_deref().map(|class| open(Some(class))).transpose()?;
        let images = open(None)?;
        Ok(Loaded {
            method,
            method_name: config.method,
            recipe,
            images,
            seen,
            data,
            seed: config.seed,
            machine,
        })
    }
}

/// What the scores are computed from.
struct Scene {
    train_labels: Vec<i64>,
    test_labels: Vec<i64>,
    /// Of training and test images, of unit length. `[N, D]`.
    embeddings: [Tensor; 2],
    /// `[N, P]`.
    pixels: [Tensor; 2],
    /// Of each test image, where the method draws images.
    errors: Option<Vec<f64>>,
}

impl Scene {
    fn new(loaded: &Loaded) -> Result<Self> {
        let Loaded { method, images, machine, recipe, .. } = loaded;
        let test = images.test_examples(&recipe.pixels).context("the images have no test set")?;
        let train = images.train_examples(&recipe.pixels);
        let all = |set: &CleanImages| (0..set.len()).collect::<Vec<_>>();
        // Before the statistics are taken anew: a decoder is used to those of training.
        let errors = match recipe.left_out {
            Some(_) => errors(method.as_ref(), &test, machine)?,
            None => None,
        };
        let seen = loaded.seen.as_ref().unwrap_or(images).train_examples(&recipe.pixels);
        calibrate(method.as_ref(), &seen, machine, loaded.seed)?;
        let embeddings = |set: &CleanImages| -> Result<Tensor> {
            Ok(l2_normalize(&embed(method.as_ref(), set, &all(set), machine)?)?)
        };
        let pixels = |set: &CleanImages| -> Result<Tensor> {
            let blocks = all(set)
                .chunks(BLOCK)
                .map(|rows| set.floor("raw", rows))
                .collect::<ssl_core::Result<Vec<_>>>();
            Ok(Tensor::f_cat(&blocks?, 0)?)
        };
        let labels = |set: &CleanImages| set.labels().context("the images have no labels");
        Ok(Scene {
            train_labels: labels(&train)?,
            test_labels: labels(&test)?,
            embeddings: [embeddings(&train)?, embeddings(&test)?],
            pixels: [pixels(&train)?, pixels(&test)?],
            errors,
        })
    }

    /// How well each score tells test images of the class from others, all training images of which are known.
    fn areas(&self, class: i64, k: i64, errors: Option<&Vec<f64>>) -> Result<Areas> {
        let left_out: Vec<bool> = self.test_labels.iter().map(|&label| label == class).collect();
        let others: Vec<i64> =
            (0..).zip(&self.train_labels).filter(|(_, label)| **label != class).map(|(row, _)| row).collect();
        let rows = Tensor::f_from_slice(&others)?;
        let by_neighbours = |[train, test]: &[Tensor; 2]| -> Result<f64> {
            let distance = neighbour_distance(&train.f_index_select(0, &rows)?, test, k)?;
            Ok(auroc(&distance, &left_out)?)
        };
        let reconstruction = errors.map(|errors| auroc(errors, &left_out)).transpose()?;
        Ok([Some(by_neighbours(&self.embeddings)?), reconstruction, Some(by_neighbours(&self.pixels)?)])
    }
}

/// The mean squared error between each image and what the method makes of it.
fn errors(method: &dyn VisionMethod, images: &CleanImages, machine: &Machine) -> Result<Option<Vec<f64>>> {
    let mut all = Vec::new();
    for rows in (0..images.len()).collect::<Vec<_>>().chunks(BLOCK) {
        let x = images.inputs(rows)?;
        let Some(drawn) = machine.precision.scope(machine.device, || method.restore(&x))? else {
            return Ok(None);
        };
        let error = drawn.f_sub(&x)?.f_square()?.f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double)?;
        all.extend(Vec::<f64>::try_from(error)?);
    }
    Ok(Some(all))
}
