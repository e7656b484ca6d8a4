//! Summaries of runs, and the cells of the tables that are made of them.
use crate::tables::{at, number, share, word};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The deviations of a normal distribution that 95 % of it lie within.
pub(crate) const WITHIN: f64 = 1.959_964;

/// The summary of a run, by the run's directory or its file.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let file = if path.is_dir() { path.join("summary.json") } else { path.to_path_buf() };
    let text = fs::read_to_string(&file).with_context(|| format!("{}: cannot read", file.display()))?;
    let expected = || format!("{}: expected the summary of a run", file.display());
    let summary: Value = serde_json::from_str(&text).with_context(expected)?;
    ensure!(summary.get("method").is_some(), expected());
    Ok(summary)
}

/// The method; of an encoder that was given and not trained, where it came from.
pub(crate) fn method(summary: &Value) -> String {
    match (number(summary, &["steps"]), at(summary, &["init"]).and_then(Value::as_str)) {
        (Some(0.), Some(init)) => init.replace('|', "/"),
        _ => word(summary, &["method"]),
    }
}

/// The interval of an accuracy: the one that was measured, or Wilson's of its number of test examples.
///
/// Source: Wilson, 1927: <https://doi.org/10.1080/01621459.1927.10502953>.
pub(crate) fn interval(summary: &Value, name: &str) -> Option<[f64; 2]> {
    let measured = at(summary, &["eval", &format!("{name}_interval")]);
    if let Some([Some(low), Some(high)]) =
        measured.and_then(Value::as_array).map(|ends| [0, 1].map(|end| ends.get(end).and_then(Value::as_f64)))
    {
        return Some([low, high]);
    }
    let (p, n) = (number(summary, &["eval", name])?, number(summary, &["eval", "n_test"])?);
    let square = WITHIN * WITHIN / n;
    let middle = (p + square / 2.) / (1. + square);
    let half = WITHIN / (1. + square) * (p * (1. - p) / n + square / (4. * n)).sqrt();
    Some([middle - half, middle + half])
}

/// The highest of all floors by the path of a number.
pub(crate) fn best_floor(summary: &Value, path: &[&str]) -> Option<f64> {
    let floors = summary.get("floors")?.as_object()?;
    let of_floors = floors.values().filter_map(|floor| number(floor, path));
    // The majority is an accuracy of all examples.
    let majority = floors.get("majority").and_then(Value::as_f64);
    of_floors.chain(majority.filter(|_| ["linear", "knn"].contains(&path.concat().as_str()))).reduce(f64::max)
}

/// A share, what it scatters by, and in brackets the strongest floor.
pub(crate) fn scattered(value: Option<f64>, by: Option<f64>, floor: Option<f64>) -> String {
    let mut cell = share(value);
    if let (Some(_), Some(by)) = (value, by) {
        cell += &format!(" ± {}", share(Some(by)));
    }
    if let (Some(_), Some(floor)) = (value, floor) {
        cell += &format!(" ({})", share(Some(floor)));
    }
    cell
}

/// A table in Markdown whose columns stand below each other.
pub(crate) fn aligned<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(String::from);
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let rows: String = rows.iter().map(line).collect();
    format!("{}| {} |\n{rows}", line(&head), rule.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_interval_that_was_not_measured_is_wilson_s() {
        let of = |eval: Value| interval(&json!({ "eval": eval }), "linear");
        assert_eq!(
            of(json!({"linear": 0.8, "n_test": 100, "linear_interval": [0.7, 0.9]})),
            Some([0.7, 0.9])
        );
        // scipy.stats.binomtest(80, 100).proportion_ci(method="wilson").
        let [low, high] = of(json!({"linear": 0.8, "n_test": 100})).unwrap();
        assert!((low - 0.711_170_8).abs() < 1e-6 && (high - 0.866_633_1).abs() < 1e-6, "{low} {high}");
        assert_eq!(of(json!({"n_test": 100})), None);
    }

    #[test]
    fn the_strongest_floor_may_be_the_majority_of_an_accuracy_alone() {
        let summary = json!({"floors": {
            "random_init": {"linear": 0.5, "clustering": {"nmi": 0.2}}, "raw": {"linear": 0.6}, "majority": 0.7
        }});
        assert_eq!(best_floor(&summary, &["linear"]), Some(0.7));
        assert_eq!(best_floor(&summary, &["clustering", "nmi"]), Some(0.2));
        assert_eq!(best_floor(&summary, &["retrieval", "map"]), None);
        assert_eq!(best_floor(&json!({"floors": null}), &["linear"]), None);
    }

    #[test]
    fn cells_say_what_there_is_to_say() {
        assert_eq!(scattered(Some(0.887), Some(0.0062), Some(0.847)), ".887 ± .006 (.847)");
        assert_eq!(scattered(Some(0.887), None, None), ".887");
        assert_eq!(scattered(None, Some(0.1), Some(0.2)), "–");
        let table = aligned(["a", "long"], &[[".5 ± .1".into(), "b".into()]]);
        assert_eq!(table, "| a       | long |\n| ------- | ---- |\n| .5 ± .1 | b    |\n");
    }

    #[test]
    fn what_is_no_summary_is_refused_in_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| format!("{:#}", read(path).unwrap_err());
        assert!(said(dir.path()).contains("summary.json: cannot read"));
        let file = dir.path().join("summary.json");
        for (text, part) in [("[]", "expected the summary of a run"), ("{", "expected the summary of a run")]
        {
            fs::write(&file, text).unwrap();
            assert!(said(dir.path()).contains(part), "{}", said(dir.path()));
        }
        fs::write(&file, "{\"method\": \"a\"}").unwrap();
        assert_eq!(read(&file).unwrap(), read(dir.path()).unwrap());
    }

    #[test]
    fn an_encoder_that_was_given_is_named_by_its_file() {
        let of = |steps, init| method(&json!({"method": "simclr", "steps": steps, "init": init}));
        assert_eq!(of(0, json!("resnet18.safetensors")), "resnet18.safetensors");
        assert_eq!(of(5, json!("resnet18.safetensors")), "simclr");
        assert_eq!(of(0, Value::Null), "simclr");
    }
}
