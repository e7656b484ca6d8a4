//! The tables of results in the README and the book, generated from the run summaries in `docs/results`.
mod methods;

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;

/// Where the tables stand: that of the first task of each run, and that of all tasks.
pub(crate) const README: &str = "README.md";
const RESULTS: &str = "docs/src/results.md";
pub(crate) const BEGIN: &str = "<!-- methods:begin -->";
pub(crate) const END: &str = "<!-- methods:end -->";
pub(crate) const NOTHING: &str = "–";

const HEAD: [&str; 14] = [
    "method",
    "data",
    "encoder",
    "samples seen",
    "linear",
    "kNN",
    "10 labels per class",
    "random encoder",
    "features without training",
    "majority",
    "minutes",
    "peak MiB",
    "precision",
    "machine",
];

/// Rewrites the tables; says which files that changed.
pub(crate) fn write(workspace: &Workspace) -> Result<Vec<&'static str>> {
    let mut changed = Vec::new();
    for (file, (old, new)) in files(workspace)? {
        if new != old {
            fs::write(workspace.path(file), new).with_context(|| format!("cannot write {file}"))?;
            changed.push(file);
        }
    }
    Ok(changed)
}

/// The files whose table is not what the summaries and the methods' files give.
pub(crate) fn stale(workspace: &Workspace) -> Result<Vec<&'static str>> {
    Ok(files(workspace)?.into_iter().filter(|(_, (old, new))| old != new).map(|(file, _)| file).collect())
}

/// Each file that has a table, as it is and as it should be.
fn files(workspace: &Workspace) -> Result<Vec<(&'static str, (String, String))>> {
    let summaries = summaries(workspace)?;
    let renewed = |file: &'static str, runs: &[Value]| -> Result<(&'static str, (String, String))> {
        let old = fs::read_to_string(workspace.path(file)).with_context(|| format!("cannot read {file}"))?;
        let new = splice(&old, &table(runs)).with_context(|| file)?;
        Ok((file, (old, new)))
    };
    let mut all = vec![renewed(README, &summaries)?];
    // A book without these chapters has no such tables.
    if workspace.path(RESULTS).is_file() {
        all.push(renewed(RESULTS, &summaries.iter().flat_map(by_task).collect::<Vec<_>>())?);
    }
    if workspace.path(methods::CHAPTER).is_file() {
        all.push((methods::CHAPTER, methods::renewed(workspace)?));
    }
    Ok(all)
}

/// The committed summaries, ordered by modality, data, method and file.
fn summaries(workspace: &Workspace) -> Result<Vec<Value>> {
    let Ok(entries) = fs::read_dir(workspace.path("docs/results")) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "json"))
    {
        let text = fs::read_to_string(&path)?;
        let summary: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is no run summary", path.display()))?;
        let key = ["modality", "dataset", "method"].map(|field| word(&summary, &[field]));
        found.push((key, path, summary));
    }
    found.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    Ok(found.into_iter().map(|(_, _, summary)| summary).collect())
}

fn table(summaries: &[Value]) -> String {
    if summaries.is_empty() {
        return "No results are committed yet.\n".into();
    }
    let rule = HEAD.map(|_| "---".to_string());
    let head = HEAD.map(String::from);
    let rows = summaries.iter().map(|summary| line(&row(summary)));
    format!(
        "{}{}{}\nThe floors are linear / kNN / 10 labels per class; of the random encoders the strongest counts.\n",
        line(&head),
        line(&rule),
        rows.collect::<String>()
    )
}

/// A line of a table.
pub(crate) fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The summary once for each task that the encoder was asked.
pub(crate) fn by_task(summary: &Value) -> Vec<Value> {
    let tasks = summary.get("tasks").and_then(Value::as_object);
    let others = tasks.into_iter().flatten().map(|(name, found)| {
        let mut of_task = summary.clone();
        if let Some(fields) = of_task.as_object_mut() {
            fields.insert("task".into(), name.as_str().into());
            for part in ["eval", "floors"] {
                fields.insert(part.into(), found.get(part).cloned().unwrap_or_default());
            }
        }
        of_task
    });
    std::iter::once(summary.clone()).chain(others).collect()
}

fn row(summary: &Value) -> [String; HEAD.len()] {
    let eval = |name: &str| share(number(summary, &["eval", name]));
    let seconds: f64 = ["train", "eval"].iter().filter_map(|part| number(summary, &["seconds", part])).sum();
    let peak = number(summary, &["peak_rss_mib"]);
    [
        word(summary, &["method"]),
        data(summary),
        word(summary, &["encoder"]),
        seen(summary),
        eval("linear"),
        eval("knn"),
        eval("few_shot_10"),
        floor(summary, "random_init"),
        strongest(summary, &|name| !name.starts_with("random_init")),
        share(number(summary, &["floors", "majority"])),
        if seconds > 0.0 { format!("{:.1}", seconds / 60.0) } else { NOTHING.into() },
        peak.map_or(NOTHING.into(), |mib| format!("{mib:.0}")),
        word(summary, &["precision"]),
        word(summary, &["machine"]),
    ]
}

/// The data, and what was asked of it where that is one of several things.
pub(crate) fn data(summary: &Value) -> String {
    match summary.get("task").and_then(Value::as_str) {
        Some(task) => format!("{}: {}", word(summary, &["dataset"]), task.replace('_', " ")),
        None => word(summary, &["dataset"]),
    }
}

pub(crate) fn seen(summary: &Value) -> String {
    let samples = number(summary, &["samples"]).map(|samples| thousands(samples as u64));
    let steps = number(summary, &["steps"]).map(|steps| thousands(steps as u64));
    match (samples, steps) {
        (Some(samples), Some(steps)) => format!("{samples} in {steps} steps"),
        (Some(samples), None) => samples,
        _ => NOTHING.into(),
    }
}

/// Linear / kNN / ten labels of the floor whose name starts with `kind`: the strongest, number by number.
fn floor(summary: &Value, kind: &str) -> String {
    strongest(summary, &|name| name.starts_with(kind))
}

/// Linear / kNN / ten labels of some floors: the strongest, number by number.
fn strongest(summary: &Value, is_one: &dyn Fn(&str) -> bool) -> String {
    let Some(floors) = summary.get("floors").and_then(Value::as_object) else { return NOTHING.into() };
    let of_kind: Vec<&Value> =
        floors.iter().filter(|(name, _)| is_one(name)).map(|(_, floor)| floor).collect();
    let best = ["linear", "knn", "few_shot_10"].map(|name| {
        let values = of_kind.iter().filter_map(|floor| number(floor, &[name]));
        share(values.max_by(f64::total_cmp))
    });
    if best.iter().all(|cell| cell == NOTHING) { NOTHING.into() } else { best.join(" / ") }
}

pub(crate) fn at<'a>(summary: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(summary, |value, name| value.get(name))
}

/// A number, or the mean of `{"mean": .., "deviation": ..}`.
pub(crate) fn number(summary: &Value, path: &[&str]) -> Option<f64> {
    let value = at(summary, path)?;
    value.as_f64().or_else(|| value.get("mean")?.as_f64())
}

pub(crate) fn word(summary: &Value, path: &[&str]) -> String {
    at(summary, path).and_then(Value::as_str).unwrap_or(NOTHING).replace('|', "/")
}

/// ".871" of 0.871.
pub(crate) fn share(value: Option<f64>) -> String {
    let Some(value) = value else { return NOTHING.into() };
    let text = format!("{value:.3}");
    text.strip_prefix('0').map_or(text.clone(), String::from)
}

pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `text` with `table` between the two marks.
pub(crate) fn splice(text: &str, table: &str) -> Result<String> {
    let parts = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    let Some((before, after)) = parts else { bail!("no place for the table of results: {BEGIN} ... {END}") };
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Value {
        serde_json::json!({
            "modality": "vision", "method": "simclr", "dataset": "fashion-mnist", "encoder": "resnet-mini",
            "precision": "bf16", "steps": 1234, "samples": 316_000, "peak_rss_mib": 1730.4,
            "seconds": {"setup": 9.0, "train": 250.0, "eval": 50.0},
            "eval": {"knn": 0.805, "linear": 0.8714, "few_shot_10": {"mean": 0.72, "deviation": 0.01}},
            "floors": {
                "random_init": {"knn": 0.702, "linear": 0.8, "few_shot_10": 0.548},
                "random_init_recalibrated": {"knn": 0.71, "linear": 0.79},
                "raw": {"knn": 0.789, "linear": 0.843}, "majority": 0.1
            }
        })
    }

    #[test]
    fn a_row_says_everything_and_takes_the_strongest_random_floor() {
        let row = row(&summary());
        assert_eq!(
            row.join("; "),
            "simclr; fashion-mnist; resnet-mini; 316,000 in 1,234 steps; .871; .805; .720; .800 / .710 / .548; \
             .843 / .789 / –; .100; 5.0; 1730; bf16; –"
        );
    }

    #[test]
    fn each_task_has_a_row() {
        let mut summary = summary();
        summary["task"] = "family".into();
        summary["tasks"] =
            serde_json::json!({"pitch_across": {"eval": {"linear": 0.5}, "floors": {"majority": 0.2}}});
        let rows: Vec<String> = by_task(&summary).iter().map(|summary| row(summary).join("; ")).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].starts_with("simclr; fashion-mnist: family; resnet-mini"), "{}", rows[0]);
        assert!(rows[1].starts_with("simclr; fashion-mnist: pitch across; resnet-mini"), "{}", rows[1]);
        assert!(rows[1].contains("; .500; –; –; –; –; .200; "), "{}", rows[1]);
    }

    #[test]
    fn a_table_that_is_behind_the_results_is_found_and_renewed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let workspace = Workspace::at(dir.path());
        fs::create_dir_all(workspace.path("docs/results"))?;
        fs::write(workspace.path(README), format!("# A\n{BEGIN}\nold\n{END}\nrest\n"))?;
        fs::write(workspace.path("docs/results/a.json"), summary().to_string())?;
        assert_eq!(stale(&workspace)?, [README]);
        assert_eq!(write(&workspace)?, [README]);
        assert!(stale(&workspace)?.is_empty());
        assert!(write(&workspace)?.is_empty());
        let text = fs::read_to_string(workspace.path(README))?;
        assert!(
            text.starts_with("# A\n") && text.ends_with("\nrest\n") && text.contains("| simclr |"),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn the_chapter_of_methods_is_kept_fresh_where_there_is_one() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let workspace = Workspace::at(dir.path());
        for folder in ["docs/src", "crates/ssl-vision/src/methods"] {
            fs::create_dir_all(workspace.path(folder))?;
        }
        fs::write(workspace.path(README), format!("# A\n{BEGIN}\n{}{END}\n", table(&[])))?;
        assert!(stale(&workspace)?.is_empty());
        fs::write(workspace.path(methods::CHAPTER), format!("# Methods\n{BEGIN}\n{END}\n"))?;
        assert_eq!(stale(&workspace)?, [methods::CHAPTER]);
        assert_eq!(write(&workspace)?, [methods::CHAPTER]);
        assert!(stale(&workspace)?.is_empty());
        Ok(())
    }

    #[test]
    fn the_readme_has_the_first_task_of_a_run_and_the_book_all() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let workspace = Workspace::at(dir.path());
        fs::create_dir_all(workspace.path("docs/results"))?;
        fs::create_dir_all(workspace.path("docs/src"))?;
        for file in [README, RESULTS] {
            fs::write(workspace.path(file), format!("{BEGIN}\n{END}\n"))?;
        }
        let mut run = summary();
        run["task"] = "family".into();
        run["tasks"] = serde_json::json!({"pitch": {"eval": {"linear": 0.5}, "floors": {"majority": 0.2}}});
        fs::write(workspace.path("docs/results/a.json"), run.to_string())?;
        assert_eq!(write(&workspace)?, [README, RESULTS]);
        let rows = |file: &str| -> Result<usize> {
            Ok(fs::read_to_string(workspace.path(file))?.matches("| simclr |").count())
        };
        assert_eq!((rows(README)?, rows(RESULTS)?), (1, 2));
        Ok(())
    }

    #[test]
    fn a_readme_without_a_place_for_the_table_is_an_error() {
        assert!(splice("# A\n", "t").unwrap_err().to_string().contains("methods:begin"));
    }
}
