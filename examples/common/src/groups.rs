//! The groups of the examples of a run: from a table beside the data, or as they were planted.
use crate::Examples;
use anyhow::{Context, Result, bail, ensure};
use csv::{ReaderBuilder, StringRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The columns that may name an example.
const KEYS: [&str; 5] = ["file", "file_name", "filename", "path", "index"];
/// The column that tells the sets apart where a name does not.
const SPLIT: &str = "split";
/// What the column of a planted group is called.
const PLANTED: &str = "planted";

/// A table of groups: what `--groups` and `--group-column` say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupFile {
    /// CSV, TSV or JSONL.
    pub file: PathBuf,
    /// The column that holds the group.
    pub column: String,
}

/// The group of every example of some sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouped {
    /// What the groups are about.
    pub column: String,
    /// Names of the groups, by their number.
    pub names: Vec<String>,
    /// The group of each example, counted through all sets.
    pub groups: Vec<i64>,
}

/// A side of the data that a row of the table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Train,
    Test,
}

/// The group of each example by its name, and by its side where the table says that.
type Table = HashMap<(Option<Side>, String), String>;

impl Grouped {
    /// The groups that a table gives to the examples of `sets`, the first of which is the training set; or those that
    /// were planted into them. None where there is neither.
    ///
    /// # Errors
    /// When the table cannot be read, has no such column or no row for an example, or all examples are of one group.
    pub fn of<I>(file: Option<&GroupFile>, sets: &[&dyn Examples<I>]) -> Result<Option<Self>> {
        let Some(file) = file else {
            let planted = sets.iter().map(|set| set.planted()).collect::<Option<Vec<_>>>();
            return planted.filter(|of| !of.is_empty()).map(|of| Grouped::planted(&of)).transpose();
        };
        let of_set = |set: &&dyn Examples<I>| -> Option<Vec<String>> {
            (0..set.len()).map(|index| set.name(index)).collect()
        };
        let names = sets.iter().map(of_set).collect::<Option<Vec<_>>>();
        let names =
            names.context("--groups: these examples have neither files nor numbers to be looked up by")?;
        Grouped::read(file, &names).context("--groups").map(Some)
    }

    fn planted(sets: &[(Vec<String>, Vec<i64>)]) -> Result<Self> {
        let names = sets.first().map(|(names, _)| names.clone()).unwrap_or_default();
        let groups: Vec<i64> = sets.iter().flat_map(|(_, groups)| groups).copied().collect();
        let grouped = Grouped { column: PLANTED.to_string(), names, groups };
        grouped.check(sets.first().map_or(0, |(_, groups)| groups.len()))?;
        Ok(grouped)
    }

    /// The groups of examples of these names, set by set.
    fn read(file: &GroupFile, names: &[Vec<String>]) -> Result<Self> {
        let path = file.file.display();
        let table = table(file)?;
        let mut found = Vec::new();
        let (mut used, mut absent) = (HashMap::new(), Vec::new());
        for (set, names) in names.iter().enumerate() {
            let (side, what) =
                if set == 0 { (Side::Train, "training example") } else { (Side::Test, "test example") };
            for name in names {
                let Some((key, group)) = look_up(&table, side, name) else {
                    absent.push(format!("{what} {name}"));
                    continue;
                };
                if let Some(other) = used.insert(key, name) {
                    bail!(
                        "{path}: row {} fits both {other} and {name}: add a column {SPLIT} that says train or test, or \
                         give longer paths",
                        key.1
                    );
                }
                found.push(group.clone());
            }
        }
        if let Some(first) = absent.first() {
            let (n, of) = (absent.len(), names.iter().map(Vec::len).sum::<usize>());
            bail!(
                "{path}: expected a group for each example, but {n} of {of} have none, the first is {first}"
            );
        }
        let all: BTreeSet<&String> = found.iter().collect();
        let numbers: HashMap<&String, i64> = all.iter().copied().zip(0..).collect();
        let groups = found.iter().filter_map(|group| numbers.get(group).copied()).collect();
        let names_of: Vec<String> = all.into_iter().cloned().collect();
        let grouped = Grouped { column: file.column.clone(), names: names_of, groups };
        grouped.check(names.first().map_or(0, Vec::len)).with_context(|| path.to_string())?;
        Ok(grouped)
    }

    /// That there is something to tell apart in the training set, the first of the examples.
    fn check(&self, train: usize) -> Result<()> {
        let groups: BTreeSet<i64> = self.groups.iter().take(train).copied().collect();
        let of: Vec<&str> =
            groups.iter().filter_map(|&group| self.names.get(group as usize)).map(String::as_str).collect();
        ensure!(
            of.len() > 1,
            "column {}: expected at least 2 groups among the training examples, got {}: {}",
            self.column,
            of.len(),
            of.join(", ")
        );
        Ok(())
    }
}

/// The row of an example: by its whole name, by ever shorter ends of its path, by the name inside an archive.
fn look_up<'a>(table: &'a Table, side: Side, name: &str) -> Option<(&'a (Option<Side>, String), &'a String)> {
    let inner = name.split_once(" in ").map(|(inner, _)| inner);
    [Some(name), inner].into_iter().flatten().find_map(|name| {
        let starts = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
        starts.filter_map(|start| name.get(start..)).find_map(|end| {
            [Some(side), None].into_iter().find_map(|side| table.get_key_value(&(side, end.to_string())))
        })
    })
}

/// Reads a table.
fn table(GroupFile { file, column }: &GroupFile) -> Result<Table> {
    let ending = file.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let rows = match ending.as_str() {
        "jsonl" | "ndjson" | "json" => Rows::of_lines(&text, column),
        _ => Rows::of_table(&text, if ending == "tsv" { b'\t' } else { b',' }, column),
    }
    .with_context(|| file.display().to_string())?;
    let mut table = Table::new();
    for (line, key, group) in rows.0.into_iter().filter(|(_, _, group)| !group.is_empty()) {
        if let Some(other) = table.get(&key).filter(|other| **other != group) {
            bail!("{}: line {line}: {} is of group {group}, but of {other} before", file.display(), key.1);
        }
        table.insert(key, group);
    }
    Ok(table)
}

/// Line, name and group of each row.
struct Rows(Vec<(u64, (Option<Side>, String), String)>);

impl Rows {
    fn of_table(text: &str, separator: u8, column: &str) -> Result<Self> {
        let mut reader =
            ReaderBuilder::new().delimiter(separator).trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers()?.clone();
        let place = |name: &str| header.iter().position(|own| own == name);
        let all = || header.iter().collect::<Vec<_>>().join(", ");
        let group = place(column).with_context(|| no_column(column, &all()))?;
        let key = KEYS.iter().find_map(|key| place(key)).with_context(|| no_key(&all()))?;
        let split = place(SPLIT);
        let mut rows = Vec::new();
        for record in reader.records() {
            let record: StringRecord = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let field = |place: usize| record.get(place).unwrap_or_default().to_string();
            let side =
                split.map(|place| side(&field(place))).transpose().with_context(|| format!("line {line}"))?;
            rows.push((line, (side, field(key)), field(group)));
        }
        Ok(Rows(rows))
    }

    fn of_lines(text: &str, column: &str) -> Result<Self> {
        let mut rows = Vec::new();
        let mut has_column = false;
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let row: Value =
                serde_json::from_str(text).with_context(|| format!("line {line}: expected an object"))?;
            let field = |name: &str| match row.get(name)? {
                Value::String(text) => Some(text.clone()),
                Value::Null => None,
                other => Some(other.to_string()),
            };
            let all = || {
                row.as_object()
                    .map(|of| of.keys().cloned().collect::<Vec<_>>().join(", "))
                    .unwrap_or_default()
            };
            let key = KEYS
                .iter()
                .find_map(|key| field(key))
                .with_context(|| format!("line {line}: {}", no_key(&all())))?;
            let side =
                field(SPLIT).map(|text| side(&text)).transpose().with_context(|| format!("line {line}"))?;
            has_column |= row.get(column).is_some();
            ensure!(has_column, "line {line}: {}", no_column(column, &all()));
            rows.push((line, (side, key), field(column).unwrap_or_default()));
        }
        Ok(Rows(rows))
    }
}

fn no_column(wanted: &str, all: &str) -> String {
    format!("expected a column {wanted}, as of --group-column, got {all}")
}

fn no_key(all: &str) -> String {
    format!("expected a column of names or numbers, one of {}; got {all}", KEYS.join(", "))
}

fn side(text: &str) -> Result<Side> {
    match text.to_ascii_lowercase().as_str() {
        "train" | "training" => Ok(Side::Train),
        "test" | "testing" | "val" | "valid" | "validation" => Ok(Side::Test),
        _ => bail!("expected {SPLIT} to be train or test, got {text}"),
    }
}

impl GroupFile {
    /// The table at `file`; its column is `group` unless another is named.
    pub(crate) fn new(file: &Path, column: Option<&str>) -> Self {
        GroupFile { file: file.to_path_buf(), column: column.unwrap_or("group").to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table of this name and content says of two training examples and one test example.
    fn read(name: &str, content: &str, names: [&[&str]; 2]) -> Result<Grouped> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let names = names.map(|names| names.iter().map(|name| (*name).to_string()).collect());
        Grouped::read(&GroupFile::new(&file, None), &names)
    }

    fn said(name: &str, content: &str, names: [&[&str]; 2]) -> String {
        let line = crate::one_line(&read(name, content, names).unwrap_err());
        line.split_once(&format!("{name}: ")).map_or(line.clone(), |(_, rest)| rest.to_string())
    }

    const NUMBERS: [&[&str]; 2] = [&["0", "1"], &["0"]];
    const FILES: [&[&str]; 2] = [&["d/train/a/1.png", "d/train/b/1.png"], &["a/9.png in d/test.tar"]];

    #[test]
    fn rows_are_found_by_number_and_side_in_all_three_forms() {
        for (name, content) in [
            ("a.csv", "index,split,group\n0,train,f\n1,train,m\n0,test,\" f\"\n7,test,x\n"),
            ("a.tsv", "group\tsplit\tindex\nf\tTraining\t0\nm\ttrain\t1\nf\tval\t0\n"),
            (
                "a.jsonl",
                "{\"index\":0,\"split\":\"train\",\"group\":\"f\"}\n\n{\"index\":1,\"split\":\"train\",\"group\":\"m\"}\n{\"index\":\"0\",\"split\":\"test\",\"group\":\"f\"}\n",
            ),
        ] {
            let found = read(name, content, NUMBERS).unwrap();
            assert_eq!((found.names, found.groups), (vec!["f".into(), "m".into()], vec![0, 1, 0]), "{name}");
        }
    }

    #[test]
    fn files_are_found_by_the_end_of_their_path() {
        let found = read("a.csv", "file,group\na/1.png,2\nb/1.png,1\n9.png,2\n", FILES).unwrap();
        assert_eq!((found.names, found.groups), (vec!["1".into(), "2".into()], vec![1, 0, 1]));
        let found = read("a.jsonl", "{\"path\":\"train/a/1.png\",\"group\":true}\n{\"path\":\"d/train/b/1.png\",\"group\":1}\n{\"path\":\"a/9.png\",\"group\":1}", FILES).unwrap();
        assert_eq!((found.names, found.groups), (vec!["1".into(), "true".into()], vec![1, 0, 0]));
    }

    #[test]
    fn faulty_tables_are_refused_in_one_line() {
        let both = "0,x\n1,y\n";
        for (name, content, names, message) in [
            (
                "a.csv",
                format!("index,sex\n{both}"),
                NUMBERS,
                "expected a column group, as of --group-column, got index, sex",
            ),
            (
                "a.csv",
                format!("number,group\n{both}"),
                NUMBERS,
                "expected a column of names or numbers, one of file, file_name, filename, path, index; got number, group",
            ),
            (
                "a.csv",
                format!("index,group\n{both}"),
                NUMBERS,
                "row 0 fits both 0 and 0: add a column split that says train or test, or give longer paths",
            ),
            (
                "a.csv",
                "file,group\n1.png,x\n".into(),
                FILES,
                "row 1.png fits both d/train/a/1.png and d/train/b/1.png: add a column split that says train or test, or give longer paths",
            ),
            (
                "a.csv",
                "file,group\na/1.png,x\n9.png,\n".into(),
                FILES,
                "expected a group for each example, but 2 of 3 have none, the first is training example d/train/b/1.png",
            ),
            (
                "a.csv",
                "file,group\na/1.png,x\nb/1.png,x\n9.png,y\n".into(),
                FILES,
                "column group: expected at least 2 groups among the training examples, got 1: x",
            ),
            (
                "a.csv",
                "file,group\n1.png,x\n1.png,y\n".into(),
                FILES,
                "line 3: 1.png is of group y, but of x before",
            ),
            (
                "a.csv",
                "index,split,group\n0,dev,x\n".into(),
                NUMBERS,
                "line 2: expected split to be train or test, got dev",
            ),
            (
                "a.jsonl",
                "{\"index\":0}\n".into(),
                NUMBERS,
                "line 1: expected a column group, as of --group-column, got index",
            ),
            (
                "a.jsonl",
                "{\"group\":0}\n".into(),
                NUMBERS,
                "line 1: expected a column of names or numbers, one of file, file_name, filename, path, index; got group",
            ),
        ] {
            assert_eq!(said(name, &content, names), message, "{content}");
        }
        assert!(
            said("a.csv", "index,group\n0\n", NUMBERS).contains("line: 2"),
            "{}",
            said("a.csv", "index,group\n0\n", NUMBERS)
        );
        assert!(said("a.jsonl", "[\n", NUMBERS).starts_with("line 1: expected an object"));
        let absent = GroupFile::new(Path::new("no.csv"), Some("sex"));
        assert!(
            crate::one_line(&Grouped::read(&absent, &[]).unwrap_err()).starts_with("no.csv: cannot read")
        );
    }
}
