//! What is done with a finished run, on videos whose scenes are known.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, dead_code)]
mod support;

use serde_json::Value;
use ssl_core::checkpoint::read_tensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{run, tiny, video, write_data};
use tempfile::TempDir;

/// Frames of a scene, 10 a second.
const FRAMES: usize = 40;

/// A run of few steps, and three folders of frames, each of a scene of its own: stripes that lie, stripes that stand,
/// a bright disc; all of them move.
struct Scene {
    root: TempDir,
    run: PathBuf,
    films: [PathBuf; 3],
}

fn scene() -> Scene {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    run(tiny("frame_order", &data).args(["--no-eval", "--looks", "0", "--out"]).arg(&out)).succeeds();
    let films = [0, 1, 2].map(|scene| {
        let folder = root.path().join(format!("film{scene}"));
        fs::create_dir(&folder).unwrap();
        for frame in 0..FRAMES {
            let pixel = |x: u32, y: u32| {
                let (x, y, t) = (f64::from(x), f64::from(y), frame as f64);
                let value = match scene {
                    0 => 0.3 + 0.3 * (y * 0.9 + t * 0.05).sin(),
                    1 => 0.6 + 0.3 * (x * 0.5 + t * 0.05).sin(),
                    _ => f64::from(u8::from((x - 12.0 - t * 0.05).hypot(y - 12.0) < 7.0)),
                };
                image::Luma([(value * 255.0) as u8])
            };
            let picture = image::GrayImage::from_fn(24, 24, pixel);
            picture.save(folder.join(format!("{frame:03}.png"))).unwrap();
        }
        folder
    });
    Scene { run: out, films, root }
}

fn asked(name: &str, run: &Path, films: &[PathBuf]) -> Command {
    let mut command = video(&[name]);
    command.arg(run).args(films);
    command
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn videos_in_a_row_are_cut_where_one_ends_and_each_part_has_a_key_frame() {
    let Scene { root, run: dir, films } = scene();
    let out = root.path().join("out");
    let ended = run(asked("summarize", &dir, &films).arg("--join").arg("--out").arg(&out));
    let said: Value = serde_json::from_str(ended.succeeds()).unwrap();
    let summary = json(&out.join("summary.json"));
    assert_eq!(said[0]["segments"], summary["segments"]);
    let segments = summary["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 3, "{}", ended.err);
    for (segment, number) in segments.iter().zip(0..) {
        let seconds = |place: &str| segment.pointer(place).unwrap().as_f64().unwrap();
        let (start, end) = (4.0 * f64::from(number), 4.0 * f64::from(number + 1));
        assert!((seconds("/start") - start).abs() < 0.5 && (seconds("/end") - end).abs() < 0.5, "{segment}");
        let key = seconds("/key_frames/0/seconds");
        assert!(seconds("/start") < key && key < seconds("/end"), "{segment}");
        let film = &films[number as usize];
        assert_eq!(segment["key_frames"][0]["file"], film.display().to_string());
        assert!((seconds("/key_frames/0/file_seconds") - (key - start)).abs() < 1e-9, "{segment}");
    }
    let novelty = summary["novelty"]["values"].as_array().unwrap();
    assert_eq!(novelty.len(), summary["novelty"]["seconds"].as_array().unwrap().len());
    assert_eq!(novelty.len(), 3 * FRAMES - 9, "a clip of 4 frames, 3 apart, from each frame on");
    let sheet = fs::read(out.join("summary.png")).unwrap();
    assert_eq!(image::load_from_memory(&sheet).unwrap().width(), 1200);
    run(asked("summarize", &dir, &films).arg("--join").arg("--out").arg(&out)).succeeds();
    assert_eq!(
        (json(&out.join("summary.json")), fs::read(out.join("summary.png")).unwrap()),
        (summary, sheet)
    );
}

#[test]
fn videos_that_are_not_joined_have_a_folder_each_and_as_many_key_frames_as_asked_for() {
    let Scene { root, run: dir, films } = scene();
    let out = root.path().join("out");
    run(asked("summarize", &dir, &films[..2]).args(["--key-frames", "3", "--out"]).arg(&out)).succeeds();
    for folder in ["01-film0", "02-film1"] {
        let summary = json(&out.join(folder).join("summary.json"));
        assert!(out.join(folder).join("summary.png").is_file());
        assert_eq!((&summary["seconds"], &summary["frames_per_second"]), (&4.0.into(), &10.0.into()));
        let keys = |segment: &Value| segment["key_frames"].as_array().unwrap().len();
        assert!(
            summary["segments"].as_array().unwrap().iter().all(|segment| keys(segment) == 3),
            "{summary}"
        );
    }
}

#[test]
fn the_nearest_clips_are_of_the_same_scene() {
    let Scene { root, run: dir, films } = scene();
    // The first film once more, as another file.
    let twin = root.path().join("twin");
    fs::create_dir(&twin).unwrap();
    for frame in fs::read_dir(&films[0]).unwrap() {
        let frame = frame.unwrap();
        fs::copy(frame.path(), twin.join(frame.file_name())).unwrap();
    }
    let [first, second, third] = films;
    let out = root.path().join("out");
    let mut command = asked("nearest", &dir, &[first, second, third, twin.clone()]);
    let ended = run(command.args(["--at", "1.5", "--count", "4", "--out"]).arg(&out));
    let said: Value = serde_json::from_str(ended.succeeds()).unwrap();
    let found = json(&out.join("nearest.json"));
    assert_eq!((&said["nearest"], &found["query"]["seconds"]), (&found["nearest"], &1.5.into()));
    let nearest = found["nearest"].as_array().unwrap();
    assert_eq!(nearest.len(), 4);
    // A clip each 0.2 s has no beginning at 1.5 s: the nearest are 0.1 s off.
    assert_eq!(nearest[0]["file"], twin.display().to_string(), "{found}");
    assert!((nearest[0]["seconds"].as_f64().unwrap() - 1.5).abs() < 0.11, "{found}");
    let cosines: Vec<f64> = nearest.iter().map(|clip| clip["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.is_sorted_by(|a, b| a >= b) && cosines[0] > 0.9, "{cosines:?}");
    assert!(image::open(out.join("nearest.png")).unwrap().height() > 5 * 120);
}

#[test]
fn vectors_are_the_same_in_either_format() {
    let Scene { root, run: dir, films } = scene();
    let (tensors, numpy) = (root.path().join("x.safetensors"), root.path().join("x.npy"));
    let said = [&tensors, &numpy].map(|out| {
        let ended = run(asked("embed", &dir, &films).args(["--every", "0.5", "--out"]).arg(out));
        serde_json::from_str::<Value>(ended.succeeds()).unwrap()
    });
    let (found, header) = read_tensors(&tensors).unwrap();
    let x = &found["embeddings"];
    // 40 frames have room for 31 beginnings, each fifth of which is taken.
    assert_eq!((x.size()[0], said[0]["size"][0].as_i64()), (21, Some(21)));
    assert_eq!((&header["videos"][1]["first"], &header["videos"][1]["vectors"]), (&7.into(), &7.into()));
    assert_eq!(header, said[1]["about"]);
    let seconds = Vec::<f64>::try_from(&found["seconds"]).unwrap();
    assert_eq!(seconds[7..10], [0.0, 0.5, 1.0]);
    let bytes = fs::read(&numpy).unwrap();
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((&bytes[..8], (10 + length) % 64), (&b"\x93NUMPY\x01\x00"[..], 0));
    let expected: Vec<u8> =
        Vec::<f32>::try_from(x.flatten(0, -1)).unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bytes[10 + length..], expected);
    let ended = run(asked("embed", &dir, &films).arg("--out").arg(&numpy));
    let said: Value = serde_json::from_str(ended.succeeds()).unwrap();
    assert_eq!(said["size"][0], 3, "without --every, one for each video");
}

#[test]
fn bad_input_is_named_in_one_line_and_leaves_nothing() {
    let Scene { root, run: dir, films } = scene();
    let out = root.path().join("out");
    let absent = root.path().join("absent.mp4");
    let text = root.path().join("text");
    fs::create_dir(&text).unwrap();
    fs::write(text.join("a.txt"), "no video").unwrap();
    let refused = |mut command: Command, part: &str| {
        let ended = run(command.arg("--out").arg(&out));
        let line = ended.fails(1);
        assert!(line.contains(part), "expected {part}: {line}");
        assert!(!out.exists());
    };
    refused(asked("summarize", &dir, &[]), "expected videos behind the run");
    refused(asked("summarize", &absent, &films), "absent.mp4/config.json: cannot read");
    refused(asked("summarize", &dir, std::slice::from_ref(&absent)), "absent.mp4: cannot read");
    refused(asked("summarize", &dir, &[text]), "text: no videos");
    for (name, flags, part) in [
        ("summarize", ["--key-frames", "0"], "--key-frames: expected at least 1, got 0"),
        ("nearest", ["--at", "4"], "--at: expected 0 to 4.00 seconds, got 4"),
        ("nearest", ["--every", "0"], "--every: expected more than 0 seconds, got 0"),
        ("nearest", ["--count", "0"], "--count: expected at least 1, got 0"),
    ] {
        let mut command = asked(name, &dir, &films);
        command.args(flags);
        refused(command, part);
    }
    let film = root.path().join("film.webm");
    fs::write(&film, "no film").unwrap();
    let mut command = asked("nearest", &dir, &[film]);
    command.args(["--ffmpeg", "no-such-program"]);
    refused(command, "no-such-program");
    refused(asked("embed", &dir, &films), "out: expected a name that ends in .safetensors or .npy");
    let mut command = asked("embed", &dir, &films);
    command.args(["--every", "0"]);
    let ended = run(command.arg("--out").arg(root.path().join("x.npy")));
    assert!(ended.fails(1).contains("--every: expected more than 0 seconds, got 0"));
    fs::remove_dir_all(dir.join("checkpoints")).unwrap();
    refused(asked("nearest", &dir, &films), "no checkpoint in it yet");
}
