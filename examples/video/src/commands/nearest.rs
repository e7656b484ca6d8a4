//! The clips that are most alike to one: where it is from left out, the others in order, as a picture and as JSON.
use super::canvas::{ADVANCE, BLACK, Canvas, LINE, RED};
use super::footage::{Footage, Pictures, starts};
use super::{Trained, flag};
use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgMatches, value_parser};
use image::RgbImage;
use serde_json::{Value, json};
use ssl_core::checkpoint::write_atomically;
use ssl_examples::print;
use ssl_video::summary::directions;
use std::path::PathBuf;
use std::process::ExitCode;
use tch::{Kind, Tensor};

/// Frames of a clip that are shown.
const SHOWN: usize = 4;
/// Pixels between two pictures, and about all.
const GAP: i64 = 12;

pub(super) fn flags() -> [Arg; 4] {
    [
        flag(
            "at",
            "SECONDS",
            "Where the clip that is looked for begins in the first video [default: its middle]",
        )
        .value_parser(value_parser!(f64)),
        flag("every", "SECONDS", "From one clip that is looked at to the next")
            .value_parser(value_parser!(f64))
            .default_value("0.2"),
        flag("count", "N", "Clips to find").value_parser(value_parser!(usize)).default_value("5"),
        flag("out", "DIR", "Where nearest.png and nearest.json go")
            .value_parser(value_parser!(PathBuf))
            .default_value("nearest"),
    ]
}

/// A window of a video of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Clip {
    file: usize,
    video: usize,
    begin: usize,
    rate: f64,
}

impl Clip {
    fn seconds(&self) -> f64 {
        self.begin as f64 / self.rate
    }

    /// Whether the two have frames in common.
    fn overlaps(&self, other: &Clip, window: usize) -> bool {
        (self.file, self.video) == (other.file, other.video) && self.begin.abs_diff(other.begin) < window
    }
}

pub(super) fn run(matches: &ArgMatches, trained: &Trained, footage: Footage) -> Result<ExitCode> {
    let number = |name: &str| matches.get_one::<f64>(name).copied();
    let every = number("every").unwrap_or(1.0);
    ensure!(every > 0.0 && every < 1e6, "--every: expected more than 0 seconds, got {every}");
    let count = matches.get_one::<usize>("count").copied().unwrap_or(5);
    ensure!(count > 0, "--count: expected at least 1, got 0");
    let out: &PathBuf = matches.get_one("out").context("--out")?;
    let window = trained.clean.window();

    let sets = footage.open_all()?;
    let first = sets.first().context("expected a video, got none")?;
    let query = begin(number("at"), (first.frames(0), first.rate(0)), window)?;
    let query = Clip { file: 0, video: 0, begin: query, rate: first.rate(0) };
    let (mut clips, mut vectors) = (vec![query], vec![trained.embed(first.as_ref(), &[(0, query.begin)])?]);
    for (file, set) in sets.iter().enumerate() {
        let of_video = |video: usize| {
            let (frames, rate) = (set.frames(video), set.rate(video));
            starts(frames, window, (every * rate).round() as usize).map(move |begin| Clip {
                file,
                video,
                begin,
                rate,
            })
        };
        let others: Vec<Clip> =
            (0..set.len()).flat_map(of_video).filter(|clip| !clip.overlaps(&query, window)).collect();
        if !others.is_empty() {
            let windows: Vec<(usize, usize)> = others.iter().map(|clip| (clip.video, clip.begin)).collect();
            vectors.push(trained.embed(set.as_ref(), &windows)?);
            clips.extend(others);
        }
    }
    let found = choose(&clips, &cosines(&Tensor::f_cat(&vectors, 0)?)?, window, count);
    ensure!(!found.is_empty(), "expected clips beside the one that is looked for: the videos have no other");

    let mut pictures = Pictures::new(&footage);
    let mut rows = Vec::new();
    for (clip, _) in std::iter::once(&(query, 1.0)).chain(&found) {
        let file = footage.files.get(clip.file).context("a file")?;
        let last = sets.get(clip.file).map_or(0, |set| set.frames(clip.video)).saturating_sub(1);
        let frame = |n: usize| (clip.begin + n * (window - 1) / (SHOWN - 1)).min(last);
        rows.push(pictures.frames(file, clip.video, &(0..SHOWN).map(frame).collect::<Vec<_>>())?);
    }
    let said = |(clip, cosine): &(Clip, f64)| {
        let name = sets.get(clip.file).map(|set| set.name(clip.video)).unwrap_or_default();
        json!({"file": name, "number": clip.file + 1, "seconds": clip.seconds(), "cosine": cosine})
    };
    let found_said: Vec<Value> = found.iter().map(said).collect();
    let query_said = said(&(query, 1.0));
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot create", out.display()))?;
    let captions: Vec<(Clip, f64)> = std::iter::once((query, 1.0)).chain(found).collect();
    write_atomically(&out.join("nearest.png"), &draw(&rows, &captions)?)?;
    let whole = json!({
        "run": trained.name(),
        "clip_seconds": window as f64 / query.rate,
        "query": query_said,
        "nearest": found_said,
    });
    write_atomically(&out.join("nearest.json"), format!("{whole:#}\n").as_bytes())?;
    eprintln!("{:>7} {:>9}  FILE", "COSINE", "SECONDS");
    for found in &found_said {
        let number = |name: &str| found.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let file = found.get("file").and_then(Value::as_str).unwrap_or_default();
        eprintln!("{:>7.3} {:>9.2}  {file}", number("cosine"), number("seconds"));
    }
    print(&format!("{}\n", json!({"out": out, "query": query_said, "nearest": found_said})))?;
    Ok(ExitCode::SUCCESS)
}

/// The first frame of the clip that is looked for in a video of so many frames at a rate.
fn begin(at: Option<f64>, (frames, rate): (usize, f64), window: usize) -> Result<usize> {
    let room = frames.saturating_sub(window);
    match at {
        None => Ok(room / 2),
        Some(at) if at >= 0.0 && at * rate < frames as f64 => Ok(((at * rate).round() as usize).min(room)),
        Some(at) => bail!("--at: expected 0 to {:.2} seconds, got {at}", frames as f64 / rate),
    }
}

/// The cosines of directions from the mean between the first clip and each. `[N, D]`.
fn cosines(vectors: &Tensor) -> Result<Vec<f64>> {
    let units = directions(vectors)?;
    Ok(Vec::try_from(units.f_matmul(&units.f_get(0)?)?.f_to_kind(Kind::Double)?)?)
}

/// The clips with the largest cosines, without the first, which is the one that is looked for; no two of them overlap.
fn choose(clips: &[Clip], cosines: &[f64], window: usize, count: usize) -> Vec<(Clip, f64)> {
    let mut others: Vec<(Clip, f64)> = clips.iter().copied().zip(cosines.iter().copied()).skip(1).collect();
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut found: Vec<(Clip, f64)> = Vec::new();
    for (clip, cosine) in others {
        if found.len() == count {
            break;
        }
        if found.iter().all(|(other, _)| !clip.overlaps(other, window)) {
            found.push((clip, cosine));
        }
    }
    found
}

/// A row of frames for each clip, the one that is looked for on top; below each its file's number, its seconds and its
/// cosine.
fn draw(rows: &[Vec<RgbImage>], captions: &[(Clip, f64)]) -> Result<Vec<u8>> {
    let width = |row: &Vec<RgbImage>| row.iter().map(|picture| i64::from(picture.width()) + GAP).sum::<i64>();
    let height =
        |row: &Vec<RgbImage>| row.iter().map(|picture| i64::from(picture.height())).max().unwrap_or(0);
    let all = rows.iter().map(|row| height(row) + 2 * LINE + GAP).sum::<i64>();
    let mut canvas = Canvas::new(rows.iter().map(width).max().unwrap_or(0) + GAP, all + GAP);
    let mut top = GAP;
    for (row, (clip, cosine)) in rows.iter().zip(captions) {
        let mut left = GAP;
        for picture in row {
            canvas.picture((left, top), picture);
            left += i64::from(picture.width()) + GAP;
        }
        let below = top + height(row) + LINE / 2;
        canvas.text((GAP, below), &format!("#{}", clip.file + 1), RED);
        let text = format!("{:.2} s   {cosine:.2}", clip.seconds());
        canvas.text((GAP + 5 * ADVANCE, below), &text, BLACK);
        top += height(row) + 2 * LINE + GAP;
    }
    canvas.png()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(file: usize, begin: usize) -> Clip {
        Clip { file, video: 0, begin, rate: 10.0 }
    }

    #[test]
    fn the_most_alike_come_first_and_none_shares_frames_with_another() {
        let clips = [clip(0, 50), clip(0, 10), clip(1, 48), clip(1, 52), clip(1, 60), clip(0, 12)];
        let found = choose(&clips, &[1.0, 0.2, 0.8, 0.9, 0.7, 0.3], 8, 9);
        assert_eq!(found, [(clips[3], 0.9), (clips[4], 0.7), (clips[5], 0.3)]);
        assert_eq!(choose(&clips, &[1.0, 0.2, 0.8, 0.9, 0.7, 0.3], 8, 1), [(clips[3], 0.9)]);
    }

    #[test]
    fn the_clip_that_is_looked_for_lies_within_its_video() {
        let at = |at| begin(at, (100, 10.0), 21);
        assert_eq!((at(None).unwrap(), at(Some(2.0)).unwrap(), at(Some(9.9)).unwrap()), (39, 20, 79));
        let message = at(Some(10.0)).unwrap_err().to_string();
        assert_eq!(message, "--at: expected 0 to 10.00 seconds, got 10");
        assert!(at(Some(-1.0)).is_err() && at(Some(f64::NAN)).is_err());
    }
}
