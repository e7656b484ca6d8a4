//! The table of all methods in the book: what each file says of its method, beside the result on Fashion-MNIST.
use super::{BEGIN, END, NOTHING, floor, line, number, share, splice, summaries, word};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;

/// Where the table stands.
pub(crate) const CHAPTER: &str = "docs/src/methods.md";
/// The data on which all methods of a modality are compared.
const DATA: [(&str, &str); 4] = [
    ("vision", "fashion-mnist"),
    ("text", "20newsgroups"),
    ("audio", "asterisk"),
    ("video", "moving-fashion-mnist"),
];

const HEAD: [&str; 10] = [
    "method",
    "what it does",
    "paper",
    "year",
    "kind",
    "encoder",
    "linear",
    "kNN",
    "10 labels per class",
    "random encoder",
];

/// What a method's file says of it, field by field.
#[derive(Debug, PartialEq)]
struct Info {
    modality: String,
    fields: [String; 6],
}

/// The fields of `Info` in the methods' files.
const FIELDS: [&str; 6] = ["name", "summary", "paper", "year", "kind", "url"];

/// The chapter as it is, and as it should be.
pub(super) fn renewed(workspace: &Workspace) -> Result<(String, String)> {
    let old =
        fs::read_to_string(workspace.path(CHAPTER)).with_context(|| format!("cannot read {CHAPTER}"))?;
    let new = splice(&old, &table(&infos(workspace)?, &summaries(workspace)?))
        .with_context(|| format!("{CHAPTER}: {BEGIN} ... {END}"))?;
    Ok((old, new))
}

/// Every method of every crate, by modality, year and name.
fn infos(workspace: &Workspace) -> Result<Vec<Info>> {
    let mut found = Vec::new();
    for package in fs::read_dir(workspace.path("crates"))?.flatten() {
        let name = package.file_name().to_string_lossy().into_owned();
        let (Some(modality), Ok(files)) =
            (name.strip_prefix("ssl-"), fs::read_dir(package.path().join("src/methods")))
        else {
            continue;
        };
        for file in
            files.flatten().map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "rs"))
        {
            let fields = parse(&fs::read_to_string(&file)?);
            found.extend(fields.map(|fields| Info { modality: modality.to_string(), fields }));
        }
    }
    let key = |info: &Info| [&info.modality, &info.fields[3], &info.fields[0]].map(String::clone);
    found.sort_by_key(key);
    Ok(found)
}

/// The fields of `const INFO: Info = Info { .. };`.
fn parse(text: &str) -> Option<[String; 6]> {
    let (_, rest) = text.split_once("const INFO: Info = Info {")?;
    let (block, _) = rest.split_once("};")?;
    let value = |name: &str| {
        let start = format!("{name}:");
        let line = block.lines().find_map(|line| line.trim().strip_prefix(&start))?;
        Some(line.trim().trim_end_matches(',').trim_matches('"').replace('|', "/"))
    };
    let found: Vec<String> = FIELDS.into_iter().filter_map(value).collect();
    found.try_into().ok()
}

fn table(infos: &[Info], summaries: &[Value]) -> String {
    let rows = infos.iter().map(|info| line(&row(info, summaries)));
    format!(
        "{}{}{}",
        line(&HEAD.map(String::from)),
        line(&HEAD.map(|_| "---".to_string())),
        rows.collect::<String>()
    )
}

fn row(info: &Info, summaries: &[Value]) -> [String; HEAD.len()] {
    let [name, summary, paper, year, kind, url] = &info.fields;
    let data = DATA.iter().find(|(modality, _)| *modality == info.modality).map(|(_, data)| *data);
    let result = summaries.iter().find(|result| {
        let is = |field: &str, value: &str| word(result, &[field]) == value;
        is("modality", &info.modality) && is("method", name) && data.is_some_and(|data| is("dataset", data))
    });
    let of_result = |cell: &dyn Fn(&Value) -> String| result.map_or(NOTHING.into(), cell);
    let eval = |name: &str| of_result(&|result| share(number(result, &["eval", name])));
    [
        name.clone(),
        summary.clone(),
        format!("[{paper}]({url})"),
        year.clone(),
        kind.clone(),
        of_result(&|result| word(result, &["encoder"])),
        eval("linear"),
        eval("knn"),
        eval("few_shot_10"),
        of_result(&|result| floor(result, "random_init")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "//! A.\nimpl Definition for A {\n    const INFO: Info = Info {\n        name: \"mae\",\n        \
                        summary: \"restore what is hidden\",\n        paper: \"He\",\n        year: 2021,\n        \
                        kind: \"masked\",\n        url: \"https://arxiv.org/abs/2111.06377\",\n    };\n}\n";

    #[test]
    fn a_row_joins_what_the_file_says_and_what_was_measured() {
        let info = Info { modality: "vision".into(), fields: parse(FILE).unwrap() };
        let result = serde_json::json!({
            "modality": "vision", "method": "mae", "dataset": "fashion-mnist", "encoder": "vit_tiny",
            "eval": {"linear": 0.85, "knn": 0.8}, "floors": {"random_init": {"linear": 0.8, "knn": 0.7}}
        });
        let start = "mae; restore what is hidden; [He](https://arxiv.org/abs/2111.06377); 2021; masked; ";
        assert_eq!(
            row(&info, std::slice::from_ref(&result)).join("; "),
            format!("{start}vit_tiny; .850; .800; –; .800 / .700 / –")
        );
        let mut elsewhere = result;
        elsewhere["dataset"] = "cifar10".into();
        assert_eq!(row(&info, &[elsewhere]).join("; "), format!("{start}–; –; –; –; –"));
    }

    #[test]
    fn a_file_without_a_method_has_no_row() {
        assert_eq!(parse("//! A.\n"), None);
        assert_eq!(parse(&FILE.replace("paper", "papier")), None);
    }
}
