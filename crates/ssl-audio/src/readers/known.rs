//! Two well-known data sets that say in lists of their own which clips are for the test.
//!
//! Source: Warden, 2018 (Speech Commands, `testing_list.txt` and `validation_list.txt`):
//! <https://arxiv.org/abs/1804.03209>; Piczak, 2015 (ESC-50, `meta/esc50.csv`): <https://doi.org/10.1145/2733373.2806390>.
use super::Split;
use super::files::{Entry, Listing};
use super::layout::{number, walk};
use ssl_core::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Of the five folds, that which is for the test.
const TEST_FOLD: &str = "5";
/// Recordings from which noise can be cut; no class.
const BACKGROUND: &str = "_background_noise_";

/// The clips of a split, if the folder is one of the two.
pub(super) fn folder(path: &Path, root: &Path, split: Split) -> Result<Option<Listing>> {
    let (testing, table) = (root.join("testing_list.txt"), root.join("meta").join("esc50.csv"));
    let clips = if testing.is_file() {
        speech_commands(root, &testing)?
    } else if table.is_file() {
        esc50(root, &table)?
    } else {
        return Ok(None);
    };
    if split == Split::Unlabelled {
        return Err(Error::absent(path, "no unlabelled clips: it has a training and a test set"));
    }
    let classes: BTreeSet<String> = clips.iter().map(|clip| clip.class.clone()).collect();
    let chosen: Vec<Clip> = clips.into_iter().filter(|clip| clip.split == Some(split)).collect();
    let of_clips: Vec<String> = chosen.iter().map(|clip| clip.class.clone()).collect();
    let (labels, class_names) = number(&of_clips, &classes);
    let entries = chosen.iter().map(|clip| Entry::file(&clip.path)).collect();
    Ok(Some(Listing { path: path.to_path_buf(), entries, labels, class_names }))
}

/// A clip; one of the validation set is in neither split.
struct Clip {
    path: PathBuf,
    class: String,
    split: Option<Split>,
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io(path, "read"))
}

fn speech_commands(root: &Path, testing: &Path) -> Result<Vec<Clip>> {
    let list =
        |text: String| -> HashSet<PathBuf> { text.lines().map(|line| root.join(line.trim())).collect() };
    let test = list(read(testing)?);
    let validation = root.join("validation_list.txt");
    let validation = if validation.is_file() { list(read(&validation)?) } else { HashSet::new() };
    let clip = |path: PathBuf| {
        let class = path.strip_prefix(root).ok()?.parent()?.to_string_lossy().into_owned();
        let split = match (test.contains(&path), validation.contains(&path)) {
            (true, _) => Some(Split::Test),
            (false, true) => None,
            (false, false) => Some(Split::Train),
        };
        (!class.is_empty() && class != BACKGROUND).then_some(Clip { path, class, split })
    };
    Ok(walk(root)?.into_iter().filter_map(clip).collect())
}

fn esc50(root: &Path, table: &Path) -> Result<Vec<Clip>> {
    let text = read(table)?;
    let mut lines = (1..).zip(text.lines());
    let names: Vec<&str> = lines.next().map(|(_, line)| line.split(',').collect()).unwrap_or_default();
    let column = |name: &str| {
        names.iter().position(|&of| of == name).ok_or_else(|| {
            Error::data(table, format!("line 1: expected a column {name}, found {}", names.join(", ")))
        })
    };
    let (file, fold, class) = (column("filename")?, column("fold")?, column("category")?);
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let fields: Vec<&str> = line.split(',').collect();
            let field = |at: usize| {
                fields.get(at).copied().ok_or_else(|| {
                    let (expected, got) = (names.len(), fields.len());
                    Error::data(table, format!("line {number}: expected {expected} fields, got {got}"))
                })
            };
            let split = if field(fold)? == TEST_FOLD { Split::Test } else { Split::Train };
            let path = root.join("audio").join(field(file)?);
            Ok(Clip { path, class: field(class)?.to_string(), split: Some(split) })
        })
        .collect()
}
