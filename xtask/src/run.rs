//! `cargo xtask run <modality> <method> [flags]`: from a bare machine to a pretrained encoder.
use crate::workspace::{Workspace, nearest, shown, succeed};
use crate::{data, setup};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::Value;
use ssl_datasets::{Catalog, DATA_DIR_VARIABLE, Dataset};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// What a modality's example trains on when no flag names anything else.
const DEFAULT_DATA: [(&str, &str); 4] = [
    ("vision", "fashion-mnist"),
    ("text", "20newsgroups"),
    ("audio", "asterisk"),
    ("video", "moving-fashion-mnist"),
];

/// The beginning of the names of data that is made of the images of a data set.
const MADE_OF: &str = "moving-";

/// What it is evaluated on, where that is other data.
const DEFAULT_EVAL_DATA: [(&str, &str); 1] = [("audio", "timgm6mb-soundfont")];

/// Words after the modality that ask for no training.
const NO_DATA: [&str; 13] = [
    "list",
    "help",
    "-h",
    "--help",
    "--version",
    "fill-mask",
    "generate",
    "embed",
    "nearest",
    "similarity",
    "analogy",
    "weat",
    "summarize",
];

/// What `cargo xtask run` takes.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Flags {
    /// The modality, the method, and the flags of the example; `--help` after the modality or the method.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "MODALITY METHOD [FLAGS]",
        num_args = 0..
    )]
    words: Vec<OsString>,
}

/// Runs `cargo xtask run`. Returns only on failure: the example takes this process's place.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    let known = modalities(workspace);
    let usage = format!(
        "cargo xtask run <modality> <method> [flags]\n\nmodalities: {}\n`cargo xtask run <modality> list` names \
         the methods, `cargo xtask run <modality> <method> --help` the flags.",
        known.join(", ")
    );
    let Some((modality, rest)) = flags.words.split_first() else { bail!("usage: {usage}") };
    let modality = modality.to_string_lossy();
    if modality == "--help" || modality == "-h" {
        println!("{usage}");
        return Ok(());
    }
    if !known.iter().any(|name| *name == modality) {
        let hint = nearest(&modality, known.iter().map(String::as_str)).map_or_else(
            || format!("there are: {}", known.join(", ")),
            |name| format!("did you mean {name}?"),
        );
        bail!("unknown modality {modality}; {hint}");
    }

    let store = data::store(workspace)?;
    let catalog = Catalog::builtin()?;
    for dataset in datasets(&catalog, &modality, rest)? {
        data::ensure(&store, dataset)?;
    }
    setup::ensure(workspace)?;

    // Building apart keeps cargo's messages out of the run, and a failure to build from looking like its own.
    succeed(workspace.cargo().args(["build", "--release", "--package", &modality]))?;
    let mut run = workspace.cargo();
    run.args(["run", "--quiet", "--release", "--package", &modality, "--"]).args(rest);
    run.env(DATA_DIR_VARIABLE, store.root());
    // A path among the flags, and `runs`, mean the folder that the user is in.
    run.current_dir(std::env::current_dir()?);
    Err(anyhow!(run.exec()).context(format!("cannot start {}", shown(&run))))
}

/// The packages in `examples`, but for the one that they share.
fn modalities(workspace: &Workspace) -> Vec<String> {
    let Ok(entries) = fs::read_dir(workspace.path("examples")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("src/main.rs").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The data sets of the catalog that the example will look for.
pub(crate) fn datasets<'a>(
    catalog: &'a Catalog,
    modality: &str,
    words: &[OsString],
) -> Result<Vec<&'a Dataset>> {
    if words.is_empty() || words.iter().any(|word| NO_DATA.iter().any(|no| word == no)) {
        return Ok(Vec::new());
    }
    let saved = earlier(Path::new("runs"), modality, words);
    let of = |field: &str| Some(saved.as_ref()?.get(field)?.as_str()?.to_string());
    let default = |table: &[(&str, &str)]| {
        table.iter().find(|(of, _)| *of == modality).map(|(_, name)| (*name).to_string())
    };
    let mut found = Vec::new();
    for (name, table) in [("data", DEFAULT_DATA.as_slice()), ("eval_data", DEFAULT_EVAL_DATA.as_slice())] {
        let flag = format!("--{}", name.replace('_', "-"));
        let asked = flag_of(words, &flag).or_else(|| of(name)).or_else(|| default(table)).unwrap_or_default();
        let path_wins = Path::new(&asked).exists() && catalog.get(&asked).is_err();
        for part in asked.split(',').filter(|part| !path_wins && !part.is_empty()) {
            found.extend(known(catalog, &flag, part.trim())?);
        }
    }
    Ok(found)
}

/// The data sets of a name, none where it is a path.
fn known<'a>(catalog: &'a Catalog, flag: &str, name: &str) -> Result<Vec<&'a Dataset>> {
    if let Ok(sets) = catalog.family(name) {
        return Ok(sets);
    }
    if let Some(images) = name.strip_prefix(MADE_OF).and_then(|images| catalog.get(images).ok()) {
        return Ok(vec![images]);
    }
    if Path::new(name).exists() || name == "none" {
        return Ok(Vec::new());
    }
    let hint = nearest(name, catalog.iter().map(|dataset| dataset.name.as_str()))
        .map_or_else(|| "`cargo xtask data list` names them".into(), |near| format!("did you mean {near}?"));
    bail!("{flag} {name}: neither a data set of the catalog nor a path that exists; {hint}")
}

fn flag_of(words: &[OsString], name: &str) -> Option<String> {
    flag(words, name).map(|value| value.to_string_lossy().into_owned())
}

/// The value of `--name value` or `--name=value`; the last one counts.
fn flag(words: &[OsString], name: &str) -> Option<OsString> {
    let mut found = None;
    for (index, word) in words.iter().enumerate() {
        if word == name {
            found = words.get(index + 1).cloned();
        } else if let Some(value) = word.to_str().and_then(|text| text.strip_prefix(name)?.strip_prefix('='))
        {
            found = Some(OsString::from(value));
        }
    }
    found
}

/// The configuration of the earlier run that is gone on with or repeated.
fn earlier(runs: &Path, modality: &str, words: &[OsString]) -> Option<Value> {
    let file = match (flag(words, "--config"), flag(words, "--resume")) {
        (Some(file), _) => PathBuf::from(file),
        (None, Some(run)) if run != OsStr::new("last") => Path::new(&run).join("config.json"),
        (None, Some(_)) => last(runs, &format!("{modality}-{}-", words.first()?.to_string_lossy()))?,
        (None, None) => return None,
    };
    let text = fs::read_to_string(file).ok()?;
    serde_json::from_str(&text).ok()
}

/// The configuration of the newest run whose folder begins so.
fn last(runs: &Path, start: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(runs).ok()?.flatten();
    let of_method = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(start));
    of_method.map(|folder| folder.path().join("config.json")).filter(|path| path.is_file()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn names_for(modality: &str, text: &str) -> Result<Vec<String>> {
        let catalog = Catalog::builtin()?;
        let found = datasets(&catalog, modality, &words(text))?;
        Ok(found.into_iter().map(|dataset| dataset.name.clone()).collect())
    }

    fn name_for(text: &str) -> Result<Option<String>> {
        let mut names = names_for("vision", text)?;
        assert!(names.len() < 2, "{names:?}");
        Ok(names.pop())
    }

    #[test]
    fn families_and_lists_are_fetched_with_what_they_are_evaluated_on() -> Result<()> {
        let all = ["asterisk-en", "asterisk-es", "asterisk-fr", "asterisk-it", "asterisk-ru"];
        let names = names_for("audio", "cpc")?;
        assert_eq!(names[..5], all);
        assert_eq!(names[5..], ["timgm6mb-soundfont"]);
        assert_eq!(
            names_for("audio", "cpc --data esc50,asterisk-ru --eval-data none")?,
            ["esc50", "asterisk-ru"]
        );
        assert_eq!(names_for("video", "frame_order")?, ["fashion-mnist"], "made of its images");
        assert_eq!(names_for("video", "frame_order --data moving-mnist")?, ["moving-mnist"]);
        let error = names_for("audio", "cpc --eval-data fluid-soundfont").unwrap_err().to_string();
        assert!(error.starts_with("--eval-data fluid-soundfont: neither"), "{error}");
        Ok(())
    }

    #[test]
    fn without_a_flag_the_modality_s_own_data_is_fetched() -> Result<()> {
        assert_eq!(name_for("simclr --epochs 2")?.as_deref(), Some("fashion-mnist"));
        for (_, name) in DEFAULT_DATA.iter().chain(&DEFAULT_EVAL_DATA) {
            assert!(!known(&Catalog::builtin()?, "--data", name)?.is_empty(), "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_name_of_the_catalog_is_fetched_and_a_path_is_not() -> Result<()> {
        assert_eq!(name_for("simclr --data cifar10")?.as_deref(), Some("cifar10"));
        assert_eq!(name_for("simclr --data=cifar10 --seed 1")?.as_deref(), Some("cifar10"));
        let dir = tempfile::tempdir()?;
        assert_eq!(name_for(&format!("simclr --data {}", dir.path().display()))?, None);
        let error = name_for("simclr --data cifra10").unwrap_err();
        assert!(error.to_string().contains("did you mean cifar10?"), "{error}");
        Ok(())
    }

    #[test]
    fn a_question_fetches_nothing() -> Result<()> {
        for question in [
            "",
            "list",
            "simclr --help",
            "--help",
            "similarity runs/a pairs.txt",
            "analogy runs/a words.txt",
            "weat runs/a --words words.json",
            "summarize --join runs/a a.mp4 b.mp4",
        ] {
            assert_eq!(name_for(question)?, None, "{question}");
        }
        Ok(())
    }

    #[test]
    fn a_repeated_run_needs_the_data_of_the_first() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("config.json"), r#"{"data": "cifar10"}"#)?;
        assert_eq!(
            name_for(&format!("simclr --resume {}", dir.path().display()))?.as_deref(),
            Some("cifar10")
        );
        Ok(())
    }

    #[test]
    fn the_last_run_is_the_newest_of_the_same_method() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for (run, data) in [("vision-simclr-1", "a"), ("vision-simclr-2", "b"), ("vision-zzz-3", "c")] {
            fs::create_dir(dir.path().join(run))?;
            fs::write(dir.path().join(run).join("config.json"), format!(r#"{{"data": "{data}"}}"#))?;
        }
        let data = |text| Some(earlier(dir.path(), "vision", &words(text))?["data"].as_str()?.to_string());
        assert_eq!(data("simclr --resume last").as_deref(), Some("b"));
        assert_eq!(data("rotation --resume last"), None);
        Ok(())
    }

    #[test]
    fn an_unknown_modality_is_answered_with_the_nearest() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("examples/vision/src"))?;
        fs::create_dir_all(dir.path().join("examples/common/src"))?;
        fs::write(dir.path().join("examples/vision/src/main.rs"), "")?;
        let workspace = Workspace::at(dir.path());
        assert_eq!(modalities(&workspace), ["vision"]);
        let error = command(&workspace, &Flags { words: words("visoin simclr") }).unwrap_err();
        assert_eq!(error.to_string(), "unknown modality visoin; did you mean vision?");
        Ok(())
    }
}
