//! The run as a page to look at: curves, evaluation beside its floors, embedding plot, nearest neighbors.
use crate::evaluation::{Evaluation, Examples, draw, embed};
use crate::explanation::Told;
use crate::{Machine, RunDir};
use anyhow::Result;
use serde_json::Value;
use ssl_core::eval::Report;
use ssl_core::record::{Curves, read_curves, read_messages};
use ssl_core::report::{Content, Figure, Map, Page, neighbor_plane, principal_plane, spectrum};
use ssl_core::{Batch, Method, nn::l2_normalize};
use tch::Tensor;

/// Examples among which neighbors are looked for, examples that are plotted, and rows and columns of neighbors.
const BANK: usize = 4000;
const PLOTTED: usize = 1000;
const QUERIES: usize = 8;
const NEIGHBORS: usize = 8;
/// Bytes at most of what the points of the map stand for, and of the neighbors: the page stays below 5 MB.
const MAP_BYTES: usize = 1_500_000;
const NEIGHBOR_BYTES: usize = 2_000_000;
/// Letters of a text that a point of the map shows.
const LETTERS: usize = 160;
/// A dimension is dead when its deviation is less than this part of the mean one.
const DEAD: f64 = 1e-3;
/// Tags that keep the streams of random numbers of one seed apart.
const BANK_DRAW: u64 = 102;
const QUERY_DRAW: u64 = 103;

/// A task and what was reached in it.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) task: String,
    pub(crate) label_names: Vec<String>,
    pub(crate) evaluation: Evaluation,
}

/// Writes `report.html` into the run's directory. Neighbors of `queries` are looked for among `bank`.
///
/// # Errors
/// When an example cannot be read, libtorch refuses, or the disk does.
pub(crate) fn write<I: Batch, M: Method<Input = I> + ?Sized>(
    dir: &RunDir,
    summary: &Value,
    reached: &[Reached],
    (figures, told): (&[(String, Figure)], Option<&Told>),
    method: &M,
    (bank, queries): (&dyn Examples<I>, &dyn Examples<I>),
    machine: &Machine,
) -> Result<()> {
    let text = |name: &str| summary.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut page = Page::new(format!("{} on {}", text("method"), text("dataset")));
    let metrics = dir.file("metrics.jsonl");
    if metrics.exists() {
        page.warnings("Warnings", &read_messages(&metrics)?);
    }
    page.facts("The run", &facts(summary));
    for Reached { task, label_names, evaluation: Evaluation { eval, floors } } in reached {
        let mut rows: Vec<(String, &Report)> = vec![("encoder".into(), eval)];
        if let Some(floors) = floors {
            match &floors.random_init_recalibrated {
                Some(recalibrated) => {
                    let untouched = &floors.random_init_untouched;
                    rows.push(("random initialization, statistics untouched".into(), untouched));
                    rows.push(("random initialization, recalibrated".into(), recalibrated));
                }
                None => rows.push(("random initialization".into(), &floors.random_init)),
            }
            rows.extend(floors.inputs.iter().map(|(name, of)| (name.replace('_', " "), of)));
        }
        let rows: Vec<(&str, &Report)> = rows.iter().map(|(name, of)| (name.as_str(), *of)).collect();
        let heading = match task.as_str() {
            "" => "Frozen encoder and its floors, %".to_string(),
            task => format!("Frozen encoder and its floors, {}, %", task.replace('_', " ")),
        };
        page.evaluation(&heading, &rows, floors.as_ref().map(|f| f.majority));
        if let (Some([low, high]), n) = (eval.linear_interval, eval.n_test) {
            page.note(&format!(
                "Linear probe: 95 % interval {:.1} to {:.1}, by bootstrap over {n} test examples.",
                100. * low,
                100. * high
            ));
        }
        if !eval.linear_confusion.is_empty() {
            let of = if task.is_empty() { String::new() } else { format!(", {}", task.replace('_', " ")) };
            let heading = format!("Answers of the linear probe to each class{of}, % of the class");
            page.confusion(&heading, &eval.linear_confusion, label_names);
        }
    }
    let tuned = fine_tuned(summary);
    if !tuned.is_empty() {
        page.facts("Fine-tuned, % right", &tuned);
    }
    for (heading, figure) in figures {
        page.figures(heading, &[vec![figure.clone()]])?;
    }
    if let Some(told) = told {
        explanations(&mut page, told)?;
    }
    let seed = summary.get("seed").and_then(Value::as_u64).unwrap_or(0);
    let drawn = draw(bank.len(), BANK, seed, BANK_DRAW);
    let features = embed(method, bank, &drawn, machine)?;
    let asked = draw(queries.len(), QUERIES, seed, QUERY_DRAW);
    let rows =
        neighbors((bank, &drawn, &features), (queries, &asked, &embed(method, queries, &asked, machine)?))?;
    if !rows.is_empty() {
        page.figures("Nearest neighbors of the first in each row, with their cosine similarity", &rows)?;
    }
    plot(&mut page, bank, &drawn, &features)?;
    health(&mut page, &features)?;
    let curves = if metrics.exists() { read_curves(&metrics)? } else { Curves::new() };
    page.curves("Loss", &curves, &["loss"]);
    for name in curves.keys().filter(|name| *name != "loss") {
        page.curves(&name.replace('_', " "), &curves, &[name]);
    }
    page.json("Everything measured", summary);
    Ok(page.write(&dir.file("report.html"))?)
}

/// What the encoder looks at, and whether the explanations depend on its weights.
fn explanations(page: &mut Page, Told { number, explanations }: &Told) -> Result<()> {
    page.figures("What the encoder looks at", &explanations.rows)?;
    page.note(&format!(
        "Explained is {number}: orange speaks for it, blue against it. {}",
        explanations.legend
    ));
    let fact = |(name, found): &(String, Vec<f64>)| {
        let found: Vec<String> = found.iter().map(|correlation| format!("{correlation:.2}")).collect();
        (name.clone(), found.join(", "))
    };
    let facts: Vec<(String, String)> = explanations.randomized.iter().map(fact).collect();
    if !facts.is_empty() {
        let heading =
            "How like explanations stay when layers are made random, from the last one on (1: alike)";
        page.facts(heading, &facts);
    }
    Ok(())
}

/// What the run was, in words.
fn facts(summary: &Value) -> Vec<(String, String)> {
    let names = [
        "encoder",
        "train_examples",
        "batch_size",
        "steps",
        "device",
        "precision",
        "threads",
        "machine",
        "seed",
        "samples_per_second",
        "peak_rss_mib",
        "version",
    ];
    let fact = |name: &str| {
        let value = summary.get(name)?;
        Some((name.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), String::from)))
    };
    names.into_iter().filter_map(fact).collect()
}

/// What fine-tuning reached with each part of the labels, beside the same from random weights.
fn fine_tuned(summary: &Value) -> Vec<(String, String)> {
    let found = |path: &str| summary.pointer(path).and_then(Value::as_object);
    let floors = found("/floors/random_init/finetune");
    let percent =
        |of: &Value| of.get("accuracy").and_then(Value::as_f64).map(|share| format!("{:.1}", 100. * share));
    let fact = |(part, encoder): (&String, &Value)| {
        let labels = encoder.get("labels").map(Value::to_string).unwrap_or_default();
        let random = floors.and_then(|floors| percent(floors.get(part)?));
        let beside = random.map(|random| format!(" (random initialization: {random})")).unwrap_or_default();
        Some((format!("{part} % of the labels ({labels})"), percent(encoder)? + &beside))
    };
    found("/eval/finetune").into_iter().flatten().filter_map(fact).collect()
}

/// The features on two planes, in the colors of their labels.
fn plot<I>(page: &mut Page, set: &dyn Examples<I>, drawn: &[usize], features: &Tensor) -> Result<()> {
    let n = drawn.len().min(PLOTTED);
    let features = l2_normalize(&features.f_narrow(0, 0, n as i64)?)?;
    let planes = [
        ("neighborhoods kept (t-SNE)", neighbor_plane(&features)?),
        ("largest variance (principal components)", principal_plane(&features)?),
    ];
    let all = set.labels();
    let label = |index: &usize| all.as_ref().and_then(|all| all.get(*index).copied()).unwrap_or(0);
    let labels: Vec<i64> = drawn.iter().take(n).map(label).collect();
    let names = if all.is_some() { set.label_names() } else { vec!["unlabelled".to_string()] };
    let mut shown = Vec::new();
    let mut bytes = 0;
    for &index in drawn.iter().take(n) {
        let Some(figure) = set.thumbnail(index)?.map(shortened) else { break };
        bytes += figure.bytes();
        if bytes > MAP_BYTES {
            break;
        }
        shown.push(figure);
    }
    let map = Map { planes: &planes, labels: &labels, names: &names, shown: &shown };
    page.map(&format!("{n} examples as the encoder sees them; point at one to see it"), &map);
    Ok(())
}

fn shortened(figure: Figure) -> Figure {
    match figure.content {
        Content::Written(text) => {
            Figure::text(text.chars().take(LETTERS).collect::<String>(), figure.caption)
        }
        _ => figure,
    }
}

/// How many directions the features use.
fn health(page: &mut Page, features: &Tensor) -> Result<()> {
    let eigenvalues = spectrum(&l2_normalize(features)?)?;
    let deviation = features.f_std_dim([0i64].as_slice(), false, false)?;
    let dead =
        deviation.f_lt_tensor(&deviation.f_mean(None)?.f_mul_scalar(DEAD)?)?.f_sum(tch::Kind::Int64)?;
    let dead = dead.f_int64_value(&[])?;
    let all = eigenvalues.len();
    let total: f64 = eigenvalues.iter().sum();
    let mut seen = 0.;
    let needed = eigenvalues.iter().take_while(|value| {
        let more = seen < 0.9 * total;
        seen += *value;
        more
    });
    let facts = [
        ("dimensions".to_string(), all.to_string()),
        ("dead: deviation below 0.1 % of the mean".to_string(), dead.to_string()),
        ("directions that hold 90 % of the variance".to_string(), needed.count().to_string()),
    ];
    page.facts("Health of the features", &facts);
    let heading = "Variance along each direction as a power of ten of the largest";
    page.spectrum(heading, &eigenvalues);
    Ok(())
}

/// Each query and its nearest examples of the bank by cosine similarity; empty where nothing can be shown.
fn neighbors<I>(
    (bank, drawn, features): (&dyn Examples<I>, &[usize], &Tensor),
    (queries, asked, of_queries): (&dyn Examples<I>, &[usize], &Tensor),
) -> Result<Vec<Vec<Figure>>> {
    let similarity = l2_normalize(of_queries)?.f_matmul(&l2_normalize(features)?.f_tr()?)?;
    let (near, at) = similarity.f_topk(NEIGHBORS.min(drawn.len()) as i64, 1, true, true)?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    for (row, &query) in asked.iter().enumerate() {
        let Some(first) = queries.figure(query, "")? else { return Ok(Vec::new()) };
        let near = Vec::<f64>::try_from(near.f_select(0, row as i64)?)?;
        let at = Vec::<i64>::try_from(at.f_select(0, row as i64)?)?;
        let mut figures = vec![first];
        for (near, at) in near.into_iter().zip(at) {
            let Some(&index) = drawn.get(at as usize) else { continue };
            figures.extend(bank.figure(index, &format!("{near:.2}"))?);
        }
        bytes += figures.iter().map(Figure::bytes).sum::<usize>();
        if bytes > NEIGHBOR_BYTES {
            break;
        }
        rows.push(figures);
    }
    Ok(rows)
}
