//! UCF101, which says in three pairs of lists which videos are for the test.
//!
//! Source: Soomro et al., 2012 ("UCF101: a dataset of 101 human actions classes from videos in the wild"), section 3:
//! <https://arxiv.org/abs/1212.0402>; the lists: `UCF101TrainTestSplits-RecognitionTask`.
use super::Split;
use super::layout::{Item, Listing, items};
use ssl_core::{Error, Result};
use ssl_vision::readers::layout::walk;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The videos of a split, if the lists lie anywhere in the folder.
pub(super) fn folder(path: &Path, split: Split, list: usize) -> Result<Option<Listing>> {
    let name = |kind: &str| format!("{kind}list{list:02}.txt");
    let wanted = name("train");
    let found = walk(path, |file| file.file_name().is_some_and(|name| name == wanted.as_str()))?;
    let Some(train) = found.first() else { return Ok(None) };
    let taught = read(train)?;
    // By their official numbers, which are not quite in the order of their names.
    let classes: BTreeSet<(u32, String)> =
        taught.values().map(|Line { class, number }| (*number, class.clone())).collect();
    let names = match split {
        Split::Train => taught,
        Split::Test => read(&train.with_file_name(name("test")))?,
        Split::Unlabelled => {
            return Err(Error::absent(path, "no unlabelled videos: it has a training and a test set"));
        }
    };
    let numbers: HashMap<&String, i64> = classes.iter().map(|(_, class)| class).zip(0..).collect();
    let mut chosen: Vec<(Item, i64)> = Vec::new();
    for item in items(path)? {
        let line = item.path.file_stem().and_then(|stem| names.get(stem));
        if let Some(&number) = line.and_then(|line| numbers.get(&line.class)) {
            chosen.push((item, number));
        }
    }
    let (items, labels) = chosen.into_iter().unzip();
    let class_names = classes.into_iter().map(|(_, class)| class).collect();
    Ok(Some(Listing { path: path.to_path_buf(), items, labels: Some(labels), class_names }))
}

/// What a list says of a video.
struct Line {
    class: String,
    /// That of the class, from 1; the largest where the list says none.
    number: u32,
}

/// The lines of a list, by the name of the video's file without the ending. The names of folders are those of the classes;
/// in the names of files some are written otherwise.
fn read(list: &Path) -> Result<HashMap<OsString, Line>> {
    let text = fs::read_to_string(list).map_err(Error::io(list, "read"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            // Behind a space, the class as a number, but for the test.
            let mut words = line.split_whitespace();
            let path = words.next().and_then(|path| path.split_once('/'));
            let of_class = words.next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX);
            let (class, file) = path.ok_or_else(|| {
                Error::data(
                    list,
                    format!("line {number}: expected CLASS/VIDEO.avi, got \"{}\"", line.escape_debug()),
                )
            })?;
            let stem = Path::new(file).file_stem().unwrap_or_default().to_os_string();
            Ok((stem, Line { class: class.to_string(), number: of_class }))
        })
        .collect()
}
