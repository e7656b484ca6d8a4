//! The run as a page to look at: curves, evaluation beside its floors, embedding plot, nearest neighbors.
use crate::evaluation::{Evaluation, Examples, draw, embed};
use crate::explanation::Told;
use crate::{Machine, RunDir};
use anyhow::Result;
use serde_json::Value;
use ssl_core::eval::Report;
use ssl_core::record::{Curves, read_curves};
use ssl_core::report::{Figure, Page, principal_plane};
use ssl_core::{Batch, Method, nn::l2_normalize};
use tch::Tensor;

/// Examples among which neighbors are looked for, examples that are plotted, and rows and columns of neighbors.
const BANK: usize = 4000;
const PLOTTED: usize = 1000;
const QUERIES: usize = 8;
const NEIGHBORS: usize = 8;
/// Tags that keep the streams of random numbers of one seed apart.
const BANK_DRAW: u64 = 102;
const QUERY_DRAW: u64 = 103;

/// A task and what was reached in it.
pub(crate) type Reached = (String, Evaluation);

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
    page.facts("The run", &facts(summary));
    for (task, Evaluation { eval, floors }) in reached {
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
            "" => "Frozen encoder and its floors, % right".to_string(),
            task => format!("Frozen encoder and its floors, {}, % right", task.replace('_', " ")),
        };
        page.evaluation(&heading, &rows, floors.as_ref().map(|f| f.majority));
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
    let metrics = dir.file("metrics.jsonl");
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

/// The features on the plane of their largest variance, in the colors of their labels.
fn plot<I>(page: &mut Page, set: &dyn Examples<I>, drawn: &[usize], features: &Tensor) -> Result<()> {
    let n = drawn.len().min(PLOTTED);
    let points = principal_plane(&l2_normalize(&features.f_narrow(0, 0, n as i64)?)?)?;
    let all = set.labels();
    let label = |index: &usize| all.as_ref().and_then(|all| all.get(*index).copied()).unwrap_or(0);
    let labels: Vec<i64> = drawn.iter().take(n).map(label).collect();
    let names = if all.is_some() { set.label_names() } else { vec!["unlabelled".to_string()] };
    page.scatter("Features on the plane of their largest variance", &points, &labels, &names);
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
    for (row, &query) in asked.iter().enumerate() {
        let Some(first) = queries.figure(query, "")? else { return Ok(Vec::new()) };
        let near = Vec::<f64>::try_from(near.f_select(0, row as i64)?)?;
        let at = Vec::<i64>::try_from(at.f_select(0, row as i64)?)?;
        let mut figures = vec![first];
        for (near, at) in near.into_iter().zip(at) {
            let Some(&index) = drawn.get(at as usize) else { continue };
            figures.extend(bank.figure(index, &format!("{near:.2}"))?);
        }
        rows.push(figures);
    }
    Ok(rows)
}
