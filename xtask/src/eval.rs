//! `cargo xtask eval RUN...`: finished runs by one protocol, whatever their modality, in one table.
use crate::results::{aligned, best_floor, interval, method, scattered};
use crate::tables::{NOTHING, by_task, data, number, thousands, word};
use crate::workspace::{Workspace, shown, succeed};
use crate::{data as store, run, setup};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use ssl_datasets::{Catalog, DATA_DIR_VARIABLE};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What `cargo xtask eval` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// Directories of runs that have a checkpoint.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Labelled data to evaluate on, instead of each run's own: a name of `cargo xtask data list`, or a path.
    #[arg(long, value_name = "NAME|PATH")]
    data: Option<String>,
    /// More flags of the examples, after `--`: such as --robustness, --anomaly, --finetune, --no-floors.
    #[arg(last = true, value_name = "FLAGS")]
    more: Vec<OsString>,
}

const HEAD: [&str; 10] =
    ["method", "data", "encoder", "n", "kNN", "linear", "10 labels per class", "NMI", "R@1", "RankMe"];

const LEGEND: &str = "n: training / test examples. ±: half of the 95 % interval over test examples; of 10 labels per class \
                      the deviation over draws. In brackets the strongest floor of each number.";

/// Runs `cargo xtask eval`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    let asked = flags.runs.iter().map(|run| question(run, flags)).collect::<Result<Vec<_>>>()?;
    let store = store::store(workspace)?;
    let catalog = Catalog::builtin()?;
    for (modality, words) in &asked {
        for dataset in run::datasets(&catalog, modality, words)? {
            store::ensure(&store, dataset)?;
        }
    }
    setup::ensure(workspace)?;
    let modalities: BTreeSet<&String> = asked.iter().map(|(modality, _)| modality).collect();
    for modality in modalities {
        succeed(workspace.cargo().args(["build", "--release", "--package", modality]))?;
    }
    let (mut summaries, mut failed) = (Vec::new(), 0);
    for (run, (modality, words)) in flags.runs.iter().zip(&asked) {
        eprintln!("{}", run.display());
        let mut example = workspace.cargo();
        example.args(["run", "--quiet", "--release", "--package", modality, "--"]).args(words);
        example.env(DATA_DIR_VARIABLE, store.root()).current_dir(std::env::current_dir()?);
        let output = example.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", shown(&example)))?;
        // One run that cannot be evaluated leaves the others their row.
        match last_line(&output.stdout).filter(|_| output.status.success()) {
            Some(summary) => summaries.push(summary),
            None => failed += 1,
        }
    }
    if !summaries.is_empty() {
        println!("{}\n{LEGEND}", table(&summaries));
    }
    ensure!(failed == 0, "{failed} of {} runs could not be evaluated", flags.runs.len());
    Ok(())
}

/// The modality of a run, and what its example is asked.
fn question(run: &Path, flags: &Flags) -> Result<(String, Vec<OsString>)> {
    let file = run.join("config.json");
    let text = fs::read_to_string(&file).with_context(|| {
        format!("{}: expected the directory of a run, with its config.json", run.display())
    })?;
    let config: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected the config.json of a run", file.display()))?;
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    let (Some(modality), Some(method)) = (field("modality"), field("method")) else {
        bail!("{}: expected the config.json of a run", file.display());
    };
    let mut words: Vec<OsString> = [method, "--eval-only", "--resume"].map(OsString::from).to_vec();
    words.push(run.into());
    if let Some(data) = &flags.data {
        // Sound fonts are no recordings: they are asked beside the run's own data.
        let is_font = data.ends_with(".sf2") || data.ends_with("soundfont");
        let flag = if is_font { "--eval-data" } else { "--data" };
        words.extend([flag.into(), data.into()]);
    }
    words.extend(flags.more.iter().cloned());
    Ok((modality.to_string(), words))
}

/// The summary, which is the last line on standard output.
fn last_line(out: &[u8]) -> Option<Value> {
    serde_json::from_str(std::str::from_utf8(out).ok()?.lines().last()?).ok()
}

fn table(summaries: &[Value]) -> String {
    let rows: Vec<[String; HEAD.len()]> =
        summaries.iter().flat_map(by_task).map(|summary| row(&summary)).collect();
    aligned(HEAD, &rows)
}

fn row(summary: &Value) -> [String; HEAD.len()] {
    let accuracy = |name: &str| {
        let half = interval(summary, name).map(|[low, high]| (high - low) / 2.);
        scattered(number(summary, &["eval", name]), half, best_floor(summary, &[name]))
    };
    let nested = |part: &str, name: &str| {
        scattered(number(summary, &["eval", part, name]), None, best_floor(summary, &[part, name]))
    };
    let count = |name: &str| number(summary, &["eval", name]).map(|n| thousands(n as u64));
    let few =
        (number(summary, &["eval", "few_shot_10"]), number(summary, &["eval", "few_shot_10_deviation"]));
    [
        method(summary),
        data(summary),
        word(summary, &["encoder"]),
        match (count("n_train"), count("n_test")) {
            (Some(train), Some(test)) => format!("{train} / {test}"),
            _ => NOTHING.into(),
        },
        accuracy("knn"),
        accuracy("linear"),
        scattered(few.0, few.1, best_floor(summary, &["few_shot_10"])),
        nested("clustering", "nmi"),
        nested("retrieval", "recall_at_1"),
        number(summary, &["eval", "rankme"]).map_or(NOTHING.into(), |rank| format!("{rank:.1}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary() -> Value {
        json!({
            "modality": "audio", "method": "cpc", "dataset": "asterisk", "encoder": "cpc_c8_gru", "task": "family",
            "eval": {
                "knn": 0.805, "linear": 0.8714, "few_shot_10": 0.72, "few_shot_10_deviation": 0.011,
                "linear_interval": [0.861, 0.881], "knn_interval": [0.8, 0.81], "rankme": 57.63,
                "n_train": 60000, "n_test": 10000, "clustering": {"nmi": 0.5}, "retrieval": {"recall_at_1": 0.75}
            },
            "floors": {"raw": {"knn": 0.7, "linear": 0.8, "clustering": {"nmi": 0.4}}, "majority": 0.1},
            "tasks": {"pitch": {"eval": {"linear": 0.5}, "floors": {"majority": 0.2}}}
        })
    }

    #[test]
    fn each_task_has_a_row_of_the_same_columns() {
        let rows: Vec<String> = by_task(&summary()).iter().map(|summary| row(summary).join("; ")).collect();
        assert_eq!(
            rows,
            [
                "cpc; asterisk: family; cpc_c8_gru; 60,000 / 10,000; .805 ± .005 (.700); .871 ± .010 (.800); .720 ± .011; \
                 .500 (.400); .750; 57.6",
                "cpc; asterisk: pitch; cpc_c8_gru; –; –; .500 (.200); –; –; –; –",
            ]
        );
        assert_eq!(table(&[summary()]).lines().count(), 4);
    }

    #[test]
    fn a_run_is_asked_as_what_it_is() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let flags = |data: Option<&str>| Flags {
            runs: Vec::new(),
            data: data.map(String::from),
            more: vec!["--robustness".into()],
        };
        let asked = |config: Value, data| -> Result<String> {
            fs::write(dir.path().join("config.json"), config.to_string())?;
            let (modality, words) = question(dir.path(), &flags(data))?;
            let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            Ok(format!("{modality} {}", words.join(" ").replace(&dir.path().display().to_string(), "RUN")))
        };
        let vision = json!({"modality": "vision", "method": "simclr"});
        assert_eq!(asked(vision.clone(), None)?, "vision simclr --eval-only --resume RUN --robustness");
        assert_eq!(
            asked(vision, Some("cifar10"))?,
            "vision simclr --eval-only --resume RUN --data cifar10 --robustness"
        );
        let audio = json!({"modality": "audio", "method": "cpc"});
        assert!(asked(audio.clone(), Some("esc50"))?.contains("--data esc50"));
        assert!(asked(audio, Some("fluid/FluidR3.sf2"))?.contains("--eval-data fluid/FluidR3.sf2"));
        let message = asked(json!({}), None).unwrap_err().to_string();
        assert!(message.ends_with("config.json: expected the config.json of a run"), "{message}");
        let message = question(Path::new("nowhere"), &flags(None)).unwrap_err().to_string();
        assert_eq!(message, "nowhere: expected the directory of a run, with its config.json");
        Ok(())
    }

    #[test]
    fn the_summary_is_the_last_line() {
        assert_eq!(last_line(b"warning\n{\"a\": 1}\n"), Some(json!({"a": 1})));
        assert_eq!(last_line(b"warning\n"), None);
        assert_eq!(last_line(b""), None);
    }
}
