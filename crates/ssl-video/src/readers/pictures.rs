//! A folder of frames, one picture each, in the order of the numbers in their names.
use ssl_vision::Image;
use ssl_vision::readers::decode;
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// Sorts names by the numbers in them: `frame2.png` before `frame10.png`.
pub(crate) fn by_number(a: &Path, b: &Path) -> Ordering {
    let parts = |path: &Path| parts(&path.to_string_lossy());
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

/// A run of digits by its value, or of other characters.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Leading zeros stripped: the longer is the greater.
    Number(usize, String),
    Text(String),
}

fn parts(name: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
        let (run, others) = rest.split_at(end);
        parts.push(match is_number {
            true => {
                let digits = run.trim_start_matches('0').to_string();
                Part::Number(digits.len(), digits)
            }
            false => Part::Text(run.to_string()),
        });
        rest = others;
    }
    parts
}

/// Decodes one frame, or says which cannot be read and why.
pub(crate) fn picture(path: &Path, channels: usize) -> Result<Image<'static>, String> {
    let named = |reason: String| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("frame {name}: {reason}")
    };
    let bytes = fs::read(path).map_err(|error| named(error.to_string()))?;
    decode(&bytes, channels).map_err(named)
}

/// Decodes pictures of ascending numbers, each handed to `emit` with its position among those wanted.
pub(crate) fn pictures(
    paths: &[PathBuf],
    channels: usize,
    wanted: &[usize],
    emit: &mut dyn FnMut(usize, &Image<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut last: Option<(usize, Image<'static>)> = None;
    for (position, &number) in wanted.iter().enumerate() {
        if last.as_ref().is_none_or(|(at, _)| *at != number) {
            let path = paths.get(number).ok_or("no such frame")?;
            last = Some((number, picture(path, channels)?));
        }
        if let Some((_, image)) = &last {
            emit(position, image)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_the_numbers_in_them() {
        let mut names: Vec<PathBuf> =
            ["f10.png", "f2.png", "f002b.png", "f1.png", "a9.png", "f00000000000000000000003.png", "7.png"]
                .map(PathBuf::from)
                .to_vec();
        names.sort_by(|a, b| by_number(a, b));
        let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(
            names,
            ["7.png", "a9.png", "f1.png", "f2.png", "f002b.png", "f00000000000000000000003.png", "f10.png"]
        );
    }
}
