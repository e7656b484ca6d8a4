//! A video in short: segments, key frames, the novelty over time; as a contact sheet and as JSON.
use super::footage::{Footage, Pictures, starts};
use super::sheet::{Span, draw};
use super::{Trained, flag};
use anyhow::{Context, Result, ensure};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Value, json};
use ssl_core::checkpoint::write_atomically;
use ssl_examples::print;
use ssl_video::summary::{Changes, Kernel, Reach, medoids};
use ssl_video::{Joined, Subset, VideoDataset};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Seconds from one clip to the next.
const HOP: f64 = 0.08;
/// Seconds over which the clips of one side of a boundary begin, and how many there are at least.
const SIDE: f64 = 0.4;
const LEAST: usize = 3;
/// Clips of a video: of longer ones they are further apart.
const MOST: usize = 4_000;

pub(super) fn flags() -> [Arg; 3] {
    [
        Arg::new("join")
            .long("join")
            .action(ArgAction::SetTrue)
            .help("Takes all videos as one, in their order"),
        flag("key-frames", "N", "Key frames of each segment")
            .value_parser(value_parser!(usize))
            .default_value("1"),
        flag("out", "DIR", "Where summary.png and summary.json go, of several videos a folder for each")
            .value_parser(value_parser!(PathBuf))
            .default_value("summary"),
    ]
}

pub(super) fn run(matches: &ArgMatches, trained: &Trained, footage: Footage) -> Result<ExitCode> {
    let key_frames = matches.get_one::<usize>("key-frames").copied().unwrap_or(1);
    ensure!(key_frames > 0, "--key-frames: expected at least 1, got 0");
    let out: &PathBuf = matches.get_one("out").context("--out")?;
    let (footage, reels) = reels(footage, matches.get_flag("join"))?;
    let mut written = Vec::new();
    for (reel, number) in reels.iter().zip(1..) {
        let dir = if reels.len() > 1 { out.join(reel.folder(number)) } else { out.clone() };
        let summary = Summary::new(reel, trained, key_frames)?;
        for note in reel.video.notes() {
            eprintln!("{note}");
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("{}: cannot create", dir.display()))?;
        write_atomically(&dir.join("summary.png"), &summary.sheet(reel, &mut Pictures::new(&footage))?)?;
        let whole = format!("{:#}\n", summary.json(reel, trained));
        write_atomically(&dir.join("summary.json"), whole.as_bytes())?;
        summary.say(reel, &dir);
        written.push(json!({"out": dir, "segments": summary.segments_json(reel)}));
    }
    print(&format!("{}\n", Value::Array(written)))?;
    Ok(ExitCode::SUCCESS)
}

/// A video, or several one after the other, and where each comes from.
struct Reel {
    video: Joined,
    /// The file of each set that is joined, and the number of its first video in the file.
    files: Vec<(PathBuf, usize)>,
}

/// The videos to be summarized, and how they are read.
fn reels(footage: Footage, join: bool) -> Result<(Footage, Vec<Reel>)> {
    let footage = if join { footage.at_one_rate()? } else { footage };
    let sets = footage.open_all()?;
    let mut reels = Vec::new();
    if join {
        let files = footage.files.iter().map(|file| (file.clone(), 0)).collect();
        reels.push(Reel { video: Joined::new(sets)?, files });
    } else {
        for (file, set) in footage.files.iter().zip(&sets) {
            for video in 0..set.len() {
                let one: Arc<dyn VideoDataset> = Arc::new(Subset::new(Arc::clone(set), vec![video])?);
                reels.push(Reel { video: Joined::new(vec![one])?, files: vec![(file.clone(), video)] });
            }
        }
    }
    Ok((footage, reels))
}

impl Reel {
    /// The file of a frame, the number of its video there, and its frame there.
    fn origin(&self, frame: usize) -> Option<(&Path, usize, usize)> {
        let (set, video, frame) = self.video.origin(frame)?;
        let (file, first) = self.files.get(set)?;
        Some((file, first + video, frame))
    }

    /// The name of the folder of one of several reels.
    fn folder(&self, number: usize) -> String {
        let name = self.video.name(0);
        let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
        format!("{number:02}-{stem}")
    }
}

/// What is found in a video.
struct Summary {
    rate: f64,
    frames: usize,
    window: usize,
    hop: usize,
    /// First frames of the clips, and the novelty at each.
    novelty: Vec<(usize, f64)>,
    segments: Vec<Segment>,
}

/// Frames that belong together, and those that stand for them.
#[derive(Debug, PartialEq)]
struct Segment {
    frames: Range<usize>,
    key_frames: Vec<usize>,
}

impl Summary {
    fn new(reel: &Reel, trained: &Trained, key_frames: usize) -> Result<Self> {
        let (frames, rate, window) = (reel.video.frames(0), reel.video.rate(0), trained.clean.window());
        let hop = ((HOP * rate).round() as usize).max(frames.div_ceil(MOST)).max(1);
        let begins: Vec<usize> = starts(frames, window, hop).collect();
        let windows: Vec<(usize, usize)> = begins.iter().map(|&begin| (0, begin)).collect();
        let kernel = Kernel::new(&trained.embed(&reel.video, &windows)?)?;
        let side = ((SIDE * rate / hop as f64).round() as usize).max(LEAST);
        let changes = Changes::new(&kernel, Reach { clips: side, lag: window.div_ceil(hop) })?;
        let cuts = changes.places.iter().filter_map(|&place| begins.get(place).copied());
        let borders: Vec<usize> = std::iter::once(0).chain(cuts).chain([frames]).collect();
        let segment = |(&begin, &end): (&usize, &usize)| -> Result<Segment> {
            let clips = within(&begins, window, begin..end);
            let key = |clip: usize| begins.get(clip).map(|begin| (begin + window / 2).min(frames.max(1) - 1));
            let key_frames = medoids(&kernel, clips, key_frames)?.into_iter().filter_map(key).collect();
            Ok(Segment { frames: begin..end, key_frames })
        };
        let segments = borders.iter().zip(borders.iter().skip(1)).map(segment).collect::<Result<Vec<_>>>()?;
        let novelty = begins.into_iter().zip(changes.novelty).collect();
        Ok(Summary { rate, frames, window, hop, novelty, segments })
    }

    fn seconds(&self, frame: usize) -> f64 {
        frame as f64 / self.rate
    }

    fn sheet(&self, reel: &Reel, pictures: &mut Pictures<'_>) -> Result<Vec<u8>> {
        let mut spans = Vec::new();
        for segment in &self.segments {
            let mut shown = Vec::new();
            for &frame in &segment.key_frames {
                let (file, video, there) = reel.origin(frame).context("a frame of the video")?;
                let found = pictures.frames(file, video, &[there])?;
                shown.extend(found.into_iter().map(|picture| (self.seconds(frame), picture)));
            }
            let (begin, end) = (self.seconds(segment.frames.start), self.seconds(segment.frames.end));
            spans.push(Span { begin, end, pictures: shown });
        }
        let novelty: Vec<(f64, f64)> =
            self.novelty.iter().map(|&(frame, value)| (self.seconds(frame), value)).collect();
        draw(self.seconds(self.frames), &novelty, &spans)
    }

    fn segments_json(&self, reel: &Reel) -> Value {
        let key_frame = |&frame: &usize| {
            let origin = reel.origin(frame);
            json!({
                "seconds": self.seconds(frame),
                "file": origin.map(|(file, ..)| file),
                "file_seconds": origin.map(|(.., there)| self.seconds(there)),
            })
        };
        let segment = |segment: &Segment| {
            json!({
                "start": self.seconds(segment.frames.start),
                "end": self.seconds(segment.frames.end),
                "key_frames": segment.key_frames.iter().map(key_frame).collect::<Vec<_>>(),
            })
        };
        self.segments.iter().map(segment).collect()
    }

    fn json(&self, reel: &Reel, trained: &Trained) -> Value {
        let seconds: Vec<f64> = self.novelty.iter().map(|&(frame, _)| self.seconds(frame)).collect();
        let values: Vec<f64> = self.novelty.iter().map(|&(_, value)| value).collect();
        json!({
            "run": trained.name(),
            "video": reel.video.name(0),
            "seconds": self.seconds(self.frames),
            "frames_per_second": self.rate,
            "clip_seconds": self.seconds(self.window),
            "hop_seconds": self.seconds(self.hop),
            "segments": self.segments_json(reel),
            "novelty": {"counts_above": 1.0, "seconds": seconds, "values": values},
        })
    }

    fn say(&self, reel: &Reel, dir: &Path) {
        eprintln!("{}, {:.2} s; written to {}", reel.video.name(0), self.seconds(self.frames), dir.display());
        eprintln!("{:>7} {:>9} {:>9}  KEY FRAMES", "SEGMENT", "BEGINS", "ENDS");
        for (segment, number) in self.segments.iter().zip(1..) {
            let times = segment.key_frames.iter().map(|&frame| format!("{:.2}", self.seconds(frame)));
            let (begin, end) = (self.seconds(segment.frames.start), self.seconds(segment.frames.end));
            eprintln!("{number:>7} {begin:>9.2} {end:>9.2}  {}", times.collect::<Vec<_>>().join(" "));
        }
    }
}

/// The clips, by their first frames, that lie within a range of frames; where none does, the one nearest to its middle.
fn within(begins: &[usize], window: usize, frames: Range<usize>) -> Range<usize> {
    let first = begins.partition_point(|&begin| begin < frames.start);
    let end = begins.partition_point(|&begin| begin + window <= frames.end);
    if first < end {
        return first..end;
    }
    let off = |begin: usize| (2 * begin + window).abs_diff(frames.start + frames.end);
    let nearest = begins.iter().enumerate().min_by_key(|(_, begin)| off(**begin)).map_or(0, |(clip, _)| clip);
    nearest..nearest + 1
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn clips_of_a_segment_do_not_reach_beyond_it() {
        let begins = [0, 2, 4, 6, 8, 10];
        assert_eq!(within(&begins, 5, 0..15), 0..6);
        assert_eq!(within(&begins, 5, 0..9), 0..3);
        assert_eq!(within(&begins, 5, 3..11), 2..4);
        assert_eq!(within(&begins, 5, 7..10), 3..4, "none fits: the one about its middle");
        assert_eq!(within(&[0], 5, 0..3), 0..1, "a video shorter than a clip");
    }
}
