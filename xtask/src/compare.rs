//! `cargo xtask compare RUN...`: what runs reached and what they cost, and which differences are noise.
use crate::results::{WITHIN, aligned, best_floor, interval, method, read};
use crate::tables::{BEGIN, END, NOTHING, by_task, data, number, seen, share, splice, thousands, word};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// What `cargo xtask compare` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// Directories of runs, or their summaries.
    #[arg(required = true, value_name = "RUN|SUMMARY.json")]
    runs: Vec<PathBuf>,
    /// Also writes the table into this file, between the marks that it has, or into a new one.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

const HEAD: [&str; 13] = [
    "method",
    "data",
    "encoder",
    "parameters",
    "samples seen",
    "linear",
    "kNN",
    "10 labels per class",
    "floor: linear / kNN",
    "train seconds",
    "samples per second",
    "peak MiB",
    "machine",
];

const LEGEND: &str = "\
In square brackets: the 95 % interval over test examples, by the bootstrap, or Wilson's where a summary has none. Marked
with = is, for each data set, the best and what is no worse by an unpaired test of two shares (two-sided, 5 %). The runs
answer the same test examples, which this test does not use: it calls more runs equal than a paired one would. Each run
is one seed. Times are of one machine only where the last column says so.
";

/// Runs `cargo xtask compare`.
pub(crate) fn command(flags: &Flags) -> Result<()> {
    let summaries = flags.runs.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let text = format!("{}\n{LEGEND}", table(&summaries));
    println!("{text}");
    if let Some(file) = &flags.write {
        write(file, &text)?;
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    let old = match file.exists() {
        true => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        false => format!("# Runs compared\n\n{BEGIN}\n{END}\n"),
    };
    let new = splice(&old, text).with_context(|| file.display().to_string())?;
    fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
}

fn table(summaries: &[Value]) -> String {
    let mut all: Vec<Value> = summaries.iter().flat_map(by_task).collect();
    let group = |summary: &Value| (word(summary, &["modality"]), data(summary));
    // The best of each group first.
    let linear = |summary: &Value| number(summary, &["eval", "linear"]).unwrap_or(f64::NEG_INFINITY);
    all.sort_by(|a, b| group(a).cmp(&group(b)).then(linear(b).total_cmp(&linear(a))));
    let rows: Vec<[String; HEAD.len()]> = all
        .chunk_by(|a, b| group(a) == group(b))
        .flat_map(|group| group.iter().map(|summary| row(summary, group)).collect::<Vec<_>>())
        .collect();
    aligned(HEAD, &rows)
}

fn row(summary: &Value, group: &[Value]) -> [String; HEAD.len()] {
    let accuracy = |name: &str| {
        let Some(value) = number(summary, &["eval", name]) else { return NOTHING.to_string() };
        let mark = if is_among_the_best(summary, group, name) { "= " } else { "" };
        let ends = interval(summary, name);
        let ends = ends.map(|ends| format!(" [{}]", ends.map(|end| share(Some(end))).join(", ")));
        format!("{mark}{}{}", share(Some(value)), ends.unwrap_or_default())
    };
    let whole = |path: &[&str]| number(summary, path).map_or(NOTHING.into(), |n| thousands(n.round() as u64));
    let floors = ["linear", "knn"].map(|name| share(best_floor(summary, &[name])));
    [
        method(summary),
        data(summary),
        word(summary, &["encoder"]),
        whole(&["parameters"]),
        seen(summary),
        accuracy("linear"),
        accuracy("knn"),
        share(number(summary, &["eval", "few_shot_10"])),
        if floors.iter().all(|floor| floor == NOTHING) { NOTHING.into() } else { floors.join(" / ") },
        whole(&["seconds", "train"]),
        whole(&["samples_per_second"]),
        whole(&["peak_rss_mib"]),
        word(summary, &["machine"]),
    ]
}

/// Whether an accuracy is the best of its group, or not worse than that by more than chance; one alone is neither.
fn is_among_the_best(summary: &Value, group: &[Value], name: &str) -> bool {
    if group.len() < 2 {
        return false;
    }
    let of = |summary: &Value| {
        Some((number(summary, &["eval", name])?, number(summary, &["eval", "n_test"]).unwrap_or(0.)))
    };
    let Some(best) = group.iter().filter_map(of).max_by(|a, b| a.0.total_cmp(&b.0)) else { return false };
    of(summary).is_some_and(|own| own.0 == best.0 || is_noise(own, best))
}

/// Whether two shares of so many examples each may be of one probability.
///
/// Source: Fleiss, Levin, Paik, 2003, section 3.1, without a correction for continuity:
/// <https://doi.org/10.1002/0471445428>.
fn is_noise((a, n): (f64, f64), (b, m): (f64, f64)) -> bool {
    if n < 1. || m < 1. {
        return false;
    }
    let pooled = (a * n + b * m) / (n + m);
    let deviation = (pooled * (1. - pooled) * (1. / n + 1. / m)).sqrt();
    (a - b).abs() <= WITHIN * deviation
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary(method: &str, data: &str, linear: f64) -> Value {
        json!({
            "modality": "vision", "method": method, "dataset": data, "encoder": "resnet18", "parameters": 11_176_512,
            "steps": 10, "samples": 2560, "seconds": {"train": 200.78}, "samples_per_second": 1790.17,
            "peak_rss_mib": 1767, "machine": "A CPU",
            "eval": {"linear": linear, "knn": 0.8, "few_shot_10": 0.7, "n_test": 10_000},
            "floors": {"raw": {"linear": 0.847}, "majority": 0.1}
        })
    }

    #[test]
    fn a_row_says_what_was_reached_and_what_it_cost() {
        let a = summary("simclr", "fashion-mnist", 0.887);
        assert_eq!(
            row(&a, std::slice::from_ref(&a)).join("; "),
            "simclr; fashion-mnist; resnet18; 11,176,512; 2,560 in 10 steps; .887 [.881, .893]; .800 [.792, .808]; \
             .700; .847 / .100; 201; 1,790; 1,767; A CPU"
        );
        let unlabelled = json!({"method": "clm", "dataset": "shakespeare", "seconds": {"train": 9.4}});
        assert_eq!(
            row(&unlabelled, std::slice::from_ref(&unlabelled)).join("; "),
            "clm; shakespeare; –; –; –; –; –; –; –; 9; –; –; –",
            "without labels there is no accuracy, but a cost"
        );
    }

    #[test]
    fn what_is_no_worse_than_the_best_of_its_data_is_marked() {
        let all = [
            summary("low", "a", 0.80),
            summary("best", "a", 0.887),
            summary("near", "a", 0.8801),
            summary("elsewhere", "b", 0.5),
        ];
        let table = table(&all);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        let marked: Vec<(&str, bool)> = rows
            .iter()
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                (cells[1], cells[6].starts_with("= "))
            })
            .collect();
        assert_eq!(marked, [("best", true), ("near", true), ("low", false), ("elsewhere", false)]);
    }

    #[test]
    fn two_shares_differ_where_the_test_of_scipy_says_so() {
        // scipy.stats.chi2_contingency([[8870, 1130], [8780, 1220]], correction=False): p = 0.0481; of 8781: 0.0506.
        assert!(!is_noise((0.887, 10_000.), (0.8780, 10_000.)));
        assert!(is_noise((0.887, 10_000.), (0.8781, 10_000.)));
        assert!(is_noise((0.9, 100.), (0.85, 100.)) && !is_noise((0.9, 0.), (0.9, 100.)));
    }

    #[test]
    fn a_table_is_written_into_its_place() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("compared.md");
        write(&file, "one\n")?;
        let first = fs::read_to_string(&file)?;
        assert!(first.starts_with("# Runs compared\n") && first.contains("\none\n"), "{first}");
        fs::write(&file, first + "\nWhat I think of it.\n")?;
        write(&file, "two\n")?;
        let second = fs::read_to_string(&file)?;
        assert!(
            second.contains("\ntwo\n") && !second.contains("one") && second.ends_with("of it.\n"),
            "{second}"
        );
        fs::write(&file, "no place")?;
        assert!(format!("{:#}", write(&file, "three\n").unwrap_err()).contains("no place for the table"));
        Ok(())
    }
}
