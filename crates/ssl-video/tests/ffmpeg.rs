//! Videos that are made and decoded by the real programs, where they are there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]
mod support;

use ssl_video::readers::{Options, Split, info, open};
use ssl_video::{Augment, ClipSource, Sampling, VideoDataset, View};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::{film, has_ffmpeg, write};

/// Values that tell frames from each other after a lossy codec.
fn values(frames: u8) -> Vec<u8> {
    (0..frames).map(|n| 40 + n % 18 * 10).collect()
}

fn grey(cache_bytes: u64) -> Options {
    Options { size: [8, 8], channels: 1, cache_bytes, ..Options::default() }
}

/// The mean brightness of each frame.
fn brightness(set: &dyn VideoDataset, index: usize, frames: &[usize]) -> Vec<f64> {
    let mean = |frame: &[u8]| frame.iter().map(|&value| f64::from(value)).sum::<f64>() / frame.len() as f64;
    set.clip(index, frames).unwrap().chunks(set.frame_bytes()).map(mean).collect()
}

#[test]
fn frames_of_each_codec_are_where_they_should_be_however_they_are_read() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let values = values(90);
    let lossless: &[&str] = &["-c:v", "ffv1"];
    let frames_between: &[&str] = &["-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-g", "15"];
    for (name, codec) in [
        ("a.mkv", lossless),
        ("b.mp4", frames_between),
        ("c.avi", frames_between),
        ("d.mov", &["-c:v", "mjpeg", "-q:v", "2"]),
        ("e.webm", &["-c:v", "libvpx", "-b:v", "1M"]),
        ("f.mp4", &["-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "30"]),
    ] {
        let Some(path) = film(&folder.path().join(name), &values, codec) else { continue };
        let [kept, read] = [1 << 30, 0].map(|bytes| open(&path, Split::Train, &grey(bytes)).unwrap());
        assert_eq!((kept.frames(0), kept.rate(0)), (90, 10.0), "{name}");
        for frames in [vec![0, 1, 2], vec![7, 44, 45, 46], vec![88, 89, 90, 3], vec![61], (20..50).collect()]
        {
            let found = brightness(&*kept, 0, &frames);
            for (frame, found) in frames.iter().zip(&found) {
                let expected = f64::from(values[frame % 90]);
                assert!((found - expected).abs() < 5.0, "{name}, frame {frame}: {found}, not {expected}");
            }
            assert_eq!(kept.clip(0, &frames).unwrap(), read.clip(0, &frames).unwrap(), "{name}");
        }
        let info = info(&path, &grey(0)).unwrap();
        assert_eq!((info.width, info.height, info.frames, info.rate), (32, 24, 90, Some(10.0)), "{name}");
        assert!(kept.notes().is_empty(), "{name}");
    }
}

#[test]
fn another_rate_leaves_out_frames_by_their_times() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let values = values(80);
    let Some(path) = film(&folder.path().join("a.mkv"), &values, &["-c:v", "ffv1"]) else { return };
    for (rate, frames) in [(5.0, 40), (2.5, 20), (20.0, 160)] {
        let [kept, read] = [1 << 30, 0].map(|cache_bytes| {
            open(&path, Split::Train, &Options { rate: Some(rate), ..grey(cache_bytes) }).unwrap()
        });
        assert_eq!((kept.frames(0), kept.rate(0)), (frames, rate));
        let all: Vec<usize> = (0..frames).collect();
        for (frame, found) in brightness(&*kept, 0, &all).into_iter().enumerate() {
            let near = |off: f64| values[((frame as f64 * 10.0 / rate + off) as usize).min(79)];
            // One of the frames beside the time.
            assert!(
                [0.0, 1.0].iter().any(|off| (f64::from(near(*off)) - found).abs() < 3.0),
                "{rate} {frame}"
            );
        }
        for frames in all.chunks(39) {
            assert_eq!(kept.clip(0, frames).unwrap(), read.clip(0, frames).unwrap(), "{rate} {frames:?}");
        }
    }
}

#[test]
fn frames_that_do_not_follow_evenly_are_read_by_their_times_and_said() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // From frame 20 on each is seen for three times as long: 2 s and 6 s.
    let slower = "setpts=if(lt(N\\,20)\\,N\\,20+(N-20)*3)/10/TB";
    let more =
        ["-vf", slower, "-vsync", "vfr", "-c:v", "mpeg4", "-q:v", "2", "-video_track_timescale", "600"];
    let Some(path) = film(&folder.path().join("a.mp4"), &values(40), &more) else { return };
    let [kept, read] = [1 << 30, 0].map(|bytes| open(&path, Split::Train, &grey(bytes)).unwrap());
    assert!(
        (kept.rate(0) - 5.0).abs() < 0.2 && kept.frames(0).abs_diff(40) <= 1,
        "{} {}",
        kept.rate(0),
        kept.frames(0)
    );
    assert!(kept.notes()[0].contains("a.mp4: its frames do not follow evenly: read by their times at 5."));
    assert!(!info(&path, &grey(0)).unwrap().is_even);
    let rate = kept.rate(0);
    let all: Vec<usize> = (0..38).collect();
    for (frame, found) in brightness(&*kept, 0, &all).into_iter().enumerate() {
        let time = frame as f64 / rate;
        let number = if time < 2.0 { time * 10.0 } else { 20.0 + (time - 2.0) * 10.0 / 3.0 };
        let near = [-1.0, 0.0, 1.0].map(|off| values(40)[((number + off).max(0.0) as usize).min(39)]);
        assert!(
            near.iter().any(|value| (f64::from(*value) - found).abs() < 6.0),
            "{frame} at {time}: {found} {near:?}"
        );
    }
    for frames in all.chunks(11) {
        assert_eq!(kept.clip(0, frames).unwrap(), read.clip(0, frames).unwrap(), "{frames:?}");
    }
}

#[test]
fn colors_odd_sizes_and_names_come_through() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("-an odd: näme%d.mp4");
    // Red on the left, green in the middle, blue on the right.
    let source = "color=red:s=22x14:r=5:d=1[a];color=lime:s=22x14:r=5:d=1[b];color=blue:s=22x14:r=5:d=1[c];[a][b][c]hstack=3";
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-filter_complex", source, "-c:v", "mpeg4", "-q:v", "1"])
        .arg(format!("file:{}", path.display()))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let options = |size| Options { size, ..Options::default() };
    let set = open(folder.path(), Split::Train, &options([5, 9])).unwrap();
    let clip = set.clip(0, &[2]).unwrap();
    let pixel = |x: usize, y: usize| &clip[(y * 9 + x) * 3..][..3];
    // The middle 25 of 66 columns are green; in the middle of them no other color is near.
    assert!(pixel(4, 2)[1] > 200 && pixel(4, 2)[0] < 60, "{:?}", pixel(4, 2));
    let wide = open(
        folder.path(),
        Split::Train,
        &Options { fit: ssl_video::readers::Fit::Stretch, ..options([3, 33]) },
    )
    .unwrap();
    let clip = wide.clip(0, &[0, 4]).unwrap();
    let pixel = |x: usize| &clip[(33 + x) * 3..][..3];
    assert!(
        pixel(3)[0] > 200 && pixel(16)[1] > 200 && pixel(29)[2] > 200,
        "{:?}",
        [pixel(3), pixel(16), pixel(29)]
    );
}

#[test]
fn sound_alone_a_cut_off_file_and_noise_are_a_line_each() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| {
        let message = open(path, Split::Train, &grey(0)).map(|_| ()).unwrap_err().to_string();
        assert!(!message.contains('\n') && message.starts_with(&path.display().to_string()), "{message}");
        message
    };
    let sound = folder.path().join("sound.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"])
        .arg(&sound)
        .status();
    if made.is_ok_and(|status| status.success()) {
        assert!(message(&sound).ends_with("expected a video, the file has only: audio"));
    }
    let noise = folder.path().join("noise.mp4");
    write(&noise, (0..5_000u32).map(|n| (n * n % 251) as u8).collect::<Vec<_>>());
    assert!(
        message(&noise).contains("Invalid data found when processing input")
            || message(&noise).contains("moov")
    );
    let whole = film(&folder.path().join("whole.mkv"), &values(60), &["-c:v", "ffv1"]).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    // The last packets are missing: known when they are counted.
    let cut = folder.path().join("cut.mkv");
    write(&cut, &bytes[..bytes.len() / 2]);
    let set = open(&cut, Split::Train, &grey(0)).unwrap();
    assert!((10..60).contains(&set.frames(0)), "{}", set.frames(0));
    let last = set.frames(0) - 1;
    set.clip(0, &[last]).unwrap();
    // An index that promises what is not there: known when it is read.
    let more = ["-c:v", "mpeg4", "-movflags", "+faststart"];
    let whole = film(&folder.path().join("whole.mp4"), &values(60), &more).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    let cut = folder.path().join("cut.mp4");
    write(&cut, &bytes[..bytes.len() * 6 / 10]);
    let set = open(&cut, Split::Train, &grey(0)).unwrap();
    assert_eq!((set.frames(0), brightness(&*set, 0, &[0])[0].round()), (60, 40.0));
    let message = set.clip(0, &[55]).unwrap_err().to_string();
    assert!(message.contains("truncated: expected 60 frames, it breaks off after"), "{message}");
}

#[test]
fn clips_of_films_are_the_same_whatever_the_threads_and_the_memory() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, frames) in [("a.mkv", 60), ("b.mkv", 9)] {
        film(&folder.path().join(name), &values(frames), &["-c:v", "ffv1"]).unwrap();
    }
    let batch = |cache_bytes, threads| {
        let set: Arc<dyn VideoDataset> = open(folder.path(), Split::Train, &grey(cache_bytes)).unwrap();
        let views = vec![View::new(8, 2, Augment::opn(8)); 2];
        let sampling = Sampling { motion: Some(2), ..Sampling::default() };
        let source = ClipSource::new(set, views, sampling, 4, 5).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| source.views(3, 0)).unwrap()
    };
    let first = batch(1 << 20, 3);
    assert_eq!(first.0[0].size(), [4, 3, 8, 8, 8]);
    for other in [batch(1 << 20, 1), batch(0, 2)] {
        assert!(first.0.iter().zip(&other.0).all(|(a, b)| a.equal(b)));
    }
}
