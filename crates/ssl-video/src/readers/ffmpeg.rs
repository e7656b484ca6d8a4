//! Videos that the program `ffmpeg` decodes: what they hold, and raw frames through a pipe.
use super::avi::{self, Avi};
use super::mp4::{self, Mp4};
use super::process::{Fault, LONGEST_TALK, first_line, run};
use super::{Fit, Options, RATES, SIDES};
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Seconds before a window that are decoded too where frames are chosen by their times: the frame that is seen at the
/// window's begin may have come long before.
const RUN_UP: f64 = 2.0;
/// Frames before a window that are decoded too where they are not: after a jump the first ones may be missing, as they
/// are predicted from others on both sides. No codec goes further.
const REORDERED: f64 = 16.0;
/// Formats that store no time at which a frame is seen; where a jump led to is not known.
const TIMELESS: [&str; 4] = ["avi", "h264", "hevc", "m4v"];
/// Frames, at least, and the part of all, that may be missing at the end of a video: headers are often a little off.
const SLACK: (usize, usize) = (2, 100);

/// Frames that a video may have.
pub(crate) const fn most() -> usize {
    1 << 30
}

/// The two programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
}

/// What `ffprobe` says of a file's video.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stream {
    /// Its number among the streams of the file.
    index: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Frames that are stored, and their rate, per second; the mean where they do not follow evenly.
    pub(crate) frames: usize,
    pub(crate) rate: f64,
    pub(crate) is_even: bool,
    seconds: f64,
    /// The time of its first frame, and that with which the file begins, in seconds.
    start: f64,
    file_start: f64,
    /// Whether decoding may begin in its middle.
    is_seekable: bool,
}

#[derive(Debug, Deserialize)]
struct Report {
    #[serde(default)]
    streams: Vec<Part>,
    #[serde(default)]
    format: Whole,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Whole {
    format_name: String,
    start_time: Option<String>,
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    index: usize,
    codec_type: String,
    width: usize,
    height: usize,
    r_frame_rate: String,
    avg_frame_rate: String,
    start_time: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    nb_read_packets: Option<String>,
    disposition: Disposition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disposition {
    attached_pic: u8,
}

const ENTRIES: &str = "stream=index,codec_type,width,height,r_frame_rate,avg_frame_rate,start_time,duration,nb_frames,\
    nb_read_packets:stream_disposition=attached_pic:format=format_name,start_time,duration";

impl Programs {
    pub(crate) fn of(options: &Options) -> Self {
        Programs { ffmpeg: options.ffmpeg.clone(), ffprobe: options.ffprobe.clone() }
    }

    /// Starts both once.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        for program in [&self.ffmpeg, &self.ffprobe] {
            run(program, &texts(&["-version"]), &mut |_| Ok(()))?;
        }
        Ok(())
    }

    /// What the first video of a file is.
    pub(crate) fn probe(&self, path: &Path) -> Result<Stream, Fault> {
        let length = std::fs::metadata(path).map_err(|error| Fault::Video(error.to_string()))?.len();
        if length == 0 {
            return Err(Fault::Video("expected a video, the file is empty".to_string()));
        }
        if let Some(stream) = Stream::of_header(path) {
            return Ok(stream);
        }
        self.ask(path)
    }

    /// What `ffprobe` says.
    fn ask(&self, path: &Path) -> Result<Stream, Fault> {
        let report = self.report(path, &[])?;
        let (part, counted) = match video(&report)? {
            part if number(&part.nb_frames).is_some_and(|frames| frames >= 1.0) => (part, None),
            // Formats without an index do not say; their packets are counted, which reads the file but decodes nothing.
            part => (part, Some(self.report(path, &["-count_packets".as_ref()])?)),
        };
        let counted = counted.as_ref().and_then(|report| video(report).ok());
        Stream::new(part, counted, &report.format).map_err(Fault::Video)
    }

    fn report(&self, path: &Path, more: &[&OsStr]) -> Result<Report, Fault> {
        let mut arguments = texts(&["-v", "error", "-protocol_whitelist", "file,pipe"]);
        arguments.extend(texts(&["-show_entries", ENTRIES, "-of", "json"]));
        arguments.extend(more.iter().map(OsString::from));
        arguments.push(file_name(path));
        let mut text = Vec::new();
        let end = run(&self.ffprobe, &arguments, &mut |output| {
            output
                .take(LONGEST_TALK * 16)
                .read_to_end(&mut text)
                .map(|_| ())
                .map_err(|error| error.to_string())
        })?;
        if !end.is_success || end.failure.is_some() {
            return Err(Fault::Video(end.reason("ffprobe", path)));
        }
        serde_json::from_slice(&text)
            .map_err(|error| Fault::Video(format!("expected JSON from ffprobe: {}", first_line(&error))))
    }
}

/// The first stream that is a video and not the picture on the cover of a recording.
fn video(report: &Report) -> Result<&Part, Fault> {
    let is_video = |part: &&Part| part.codec_type == "video" && part.disposition.attached_pic == 0;
    report.streams.iter().find(is_video).ok_or_else(|| {
        let kinds: Vec<&str> = report.streams.iter().map(|part| part.codec_type.as_str()).collect();
        Fault::Video(match kinds.is_empty() {
            true => "expected a video, the file has no stream".to_string(),
            false => format!("expected a video, the file has only: {}", kinds.join(", ")),
        })
    })
}

fn number(text: &Option<String>) -> Option<f64> {
    text.as_ref()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// `30000/1001`; none for `0/0`, which stands for unknown.
fn fraction(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/')?;
    let value = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    (value.is_finite() && value > 0.0).then_some(value)
}

impl Stream {
    /// What can be read without a program.
    fn of_header(path: &Path) -> Option<Self> {
        let of_avi = |avi| {
            let Avi { index, width, height, frames, rate } = avi;
            (index, width, height, frames, rate, false)
        };
        let of_mp4 = |mp4| {
            let Mp4 { index, width, height, frames, rate } = mp4;
            (index, width, height, frames, rate, true)
        };
        let found = avi::read(path).map(of_avi).or_else(|| mp4::read(path).map(of_mp4));
        let (index, width, height, frames, rate, is_seekable) = found?;
        let is_sound = SIDES.contains(&width) && SIDES.contains(&height) && RATES.contains(&rate);
        let seconds = frames as f64 / rate;
        let (start, file_start, is_even) = (0.0, 0.0, true);
        is_sound.then_some(Stream {
            index,
            width,
            height,
            frames,
            rate,
            is_even,
            seconds,
            start,
            file_start,
            is_seekable,
        })
    }

    fn new(part: &Part, counted: Option<&Part>, whole: &Whole) -> Result<Self, String> {
        let frames = number(&part.nb_frames).filter(|frames| *frames >= 1.0);
        let frames = frames.or_else(|| number(&counted?.nb_read_packets)).unwrap_or(0.0);
        if !(1.0..=most() as f64).contains(&frames) {
            return Err(format!("expected frames, the video has {frames}"));
        }
        if !SIDES.contains(&part.width) || !SIDES.contains(&part.height) {
            let (width, height, most) = (part.width, part.height, SIDES.end());
            return Err(format!("expected sides of 1 to {most} pixels, the video has {width}x{height}"));
        }
        let start = number(&part.start_time).unwrap_or(0.0);
        let file_start = number(&whole.start_time).unwrap_or(start);
        let of_file = || number(&whole.duration).map(|seconds| seconds - (start - file_start));
        let seconds = number(&part.duration).or_else(of_file).filter(|seconds| *seconds > 0.0);
        let (steady, mean) = (fraction(&part.r_frame_rate), fraction(&part.avg_frame_rate));
        let mean = mean.or(steady).or_else(|| seconds.map(|seconds| frames / seconds));
        let mean = mean.ok_or("expected a rate, the file says none")?;
        // The rate of the clock is a multiple of the mean where frames come by a clock that is finer.
        let is_even = steady.is_none_or(|steady| (steady - mean).abs() <= 0.01 * mean);
        let rate = if is_even { steady.unwrap_or(mean) } else { mean };
        if !RATES.contains(&rate) {
            let (least, most) = (RATES.start(), RATES.end());
            return Err(format!("expected {least} to {most} frames per second, the file says {rate}"));
        }
        Ok(Stream {
            index: part.index,
            width: part.width,
            height: part.height,
            frames: frames as usize,
            rate,
            is_even,
            seconds: seconds.unwrap_or(frames / rate),
            start,
            file_start,
            is_seekable: !TIMELESS.contains(&whole.format_name.as_str()),
        })
    }
}

/// How a video is decoded: as frames of one size, at a rate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    stream: Stream,
    /// Frames, and how many per second.
    pub(crate) frames: usize,
    pub(crate) rate: f64,
    /// Whether frames are chosen by their times.
    is_timed: bool,
    fit: Fit,
    size: [usize; 2],
    channels: usize,
}

impl Plan {
    pub(crate) fn new(
        stream: Stream,
        rate: Option<f64>,
        fit: Fit,
        size: [usize; 2],
        channels: usize,
    ) -> Self {
        let to = rate.unwrap_or(stream.rate);
        let is_timed = !stream.is_even || (to - stream.rate).abs() > 1e-4 * to;
        let frames = match is_timed {
            true => ((stream.seconds * to).round() as usize).clamp(1, most()),
            false => stream.frames,
        };
        Plan { stream, frames, rate: to, is_timed, fit, size, channels }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Frames that may be missing at the end.
    fn slack(&self) -> usize {
        SLACK.0.max(self.frames / SLACK.1)
    }

    /// Decodes a run of frames, each handed to `emit` with its number. What is missing at the very end is the last
    /// frame again.
    pub(crate) fn decode(
        &self,
        programs: &Programs,
        path: &Path,
        wanted: Range<usize>,
        emit: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        // One frame before those that may be missing, so that there is a last one.
        let first = wanted.start.min(self.frames.saturating_sub(self.slack() + 1));
        let arguments = self.arguments(path, first, wanted.end);
        let [height, width] = self.size;
        let mut frame = vec![0; height * width * self.channels];
        let mut next = first;
        let end = run(&programs.ffmpeg, &arguments, &mut |output| {
            while next < wanted.end && output.read_exact(&mut frame).is_ok() {
                if next >= wanted.start {
                    emit(next, &frame);
                }
                next += 1;
            }
            Ok(())
        })?;
        if next >= wanted.end {
            return Ok(());
        }
        if end.is_success && next > first && next + self.slack() >= self.frames {
            (next.max(wanted.start)..wanted.end).for_each(|number| emit(number, &frame));
            return Ok(());
        }
        let reason = match end.is_success && end.talk.is_empty() {
            true => String::new(),
            false => format!(": {}", end.reason("ffmpeg", path)),
        };
        let expected = self.frames;
        Err(Fault::Video(format!(
            "truncated: expected {expected} frames, it breaks off after {next}{reason}"
        )))
    }

    /// What `ffmpeg` is told for the frames from `first` to before `end`.
    fn arguments(&self, path: &Path, first: usize, end: usize) -> Vec<OsString> {
        let Plan { stream, rate, .. } = self;
        let mut arguments = texts(&["-nostdin", "-v", "error", "-threads", "1"]);
        arguments.extend(texts(&["-protocol_whitelist", "file,pipe"]));
        let run_up = if self.is_timed { RUN_UP } else { REORDERED / rate };
        let from = stream.start - stream.file_start + first as f64 / rate - run_up;
        if stream.is_seekable && first > 0 && from > 0.0 {
            arguments.extend(texts(&["-ss", &format!("{from:.6}")]));
        }
        // With the times of the file, by which the first frame is chosen wherever decoding began.
        arguments.extend(texts(&["-copyts", "-i"]));
        arguments.push(file_name(path));
        let chosen = match (self.is_timed, stream.is_seekable) {
            (true, _) => format!("fps=fps={rate}:start_time={:.6},", stream.start + first as f64 / rate),
            (false, _) if first == 0 => String::new(),
            // The middle between two, so that rounding does not matter.
            (false, true) => format!("trim=start={:.6},", stream.start + (first as f64 - 0.5) / rate),
            (false, false) => format!("trim=start_frame={first},"),
        };
        let grey = if self.channels == 1 { ",format=gray" } else { "" };
        // Numbered evenly: else frames are repeated or left out where times are a little off.
        let filters = format!("{chosen}{}{grey},settb=1/{rate},setpts=N", self.fit.filters(self.size));
        arguments.extend(texts(&["-map", &format!("0:{}", stream.index)]));
        arguments.extend(texts(&["-vf", &filters, "-r", &rate.to_string()]));
        arguments.extend(texts(&["-frames:v", &(end - first).to_string(), "-f", "rawvideo", "-"]));
        arguments
    }
}

fn texts(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

/// A path that is taken for nothing but a file: neither an option nor an address.
fn file_name(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(part: &str, whole: &str) -> Result<Stream, String> {
        let text = format!("{{\"streams\": [{part}], \"format\": {whole}}}");
        let report: Report = serde_json::from_str(&text).unwrap();
        let part = video(&report).map_err(|fault| format!("{fault:?}"))?;
        Stream::new(part, None, &report.format)
    }

    const SIDES: &str = r#""codec_type": "video", "width": 640, "height": 272, "index": 1"#;

    #[test]
    fn rates_and_lengths_are_told_from_what_the_file_says() {
        let of = |more: &str| {
            stream(&format!("{{{SIDES}, {more}}}"), r#"{"duration": "10.5", "start_time": "-0.5"}"#)
        };
        let even = of(r#""nb_frames": "250", "r_frame_rate": "25/1", "avg_frame_rate": "2503/100""#).unwrap();
        assert_eq!((even.rate, even.is_even, even.frames, even.index), (25.0, true, 250, 1));
        assert_eq!((even.start, even.file_start, even.seconds), (0.0, -0.5, 10.0));
        let uneven =
            of(r#""nb_frames": "250", "r_frame_rate": "90/1", "avg_frame_rate": "25/1", "duration": "9""#)
                .unwrap();
        assert_eq!((uneven.rate, uneven.is_even, uneven.seconds), (25.0, false, 9.0));
        let silent = of(r#""nb_frames": "20", "r_frame_rate": "0/0", "avg_frame_rate": "0/0""#).unwrap();
        assert_eq!(silent.rate, 2.0);
        for (more, expected) in [
            (r#""nb_frames": "0", "r_frame_rate": "25/1""#, "expected frames, the video has 0"),
            (r#""nb_frames": "9", "r_frame_rate": "99999/1""#, "the file says 99999"),
            (r#""nb_frames": "9", "r_frame_rate": "25/1", "width": 0"#, "the video has 0x272"),
        ] {
            let message = match more.contains("width") {
                true => stream(&format!("{{\"codec_type\": \"video\", \"height\": 272, {more}}}"), "{}"),
                false => of(more),
            };
            assert!(message.clone().unwrap_err().ends_with(expected), "{message:?}");
        }
    }

    #[test]
    fn the_picture_on_the_cover_of_a_recording_is_no_video() {
        let cover = r#"{"codec_type": "audio"}, {"codec_type": "video", "disposition": {"attached_pic": 1}}"#;
        assert!(
            stream(cover, "{}").unwrap_err().contains("expected a video, the file has only: audio, video")
        );
        assert!(stream("", "{}").unwrap_err().contains("expected a video, the file has no stream"));
    }

    #[test]
    fn frames_are_chosen_by_number_where_there_are_no_times() {
        let more = r#""nb_frames": "250", "r_frame_rate": "25/1", "start_time": "1.5""#;
        let part = format!("{{{SIDES}, {more}}}");
        let text = |name: &str, rate, first| {
            let whole = format!("{{\"start_time\": \"1\", \"format_name\": \"{name}\"}}");
            let plan = Plan::new(stream(&part, &whole).unwrap(), rate, Fit::Stretch, [8, 9], 3);
            let arguments = plan.arguments(Path::new("a.avi"), first, first + 2);
            arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        assert!(
            text("avi", None, 100)
                .contains("-copyts -i file:a.avi -map 0:1 -vf trim=start_frame=100,scale=9:8:")
        );
        assert!(
            text("mov", None, 100)
                .contains("-ss 3.860000 -copyts -i file:a.avi -map 0:1 -vf trim=start=5.480000,")
        );
        assert!(text("mov", None, 0).contains("file,pipe -copyts -i file:a.avi -map 0:1 -vf scale="));
        assert!(
            text("mov", Some(10.0), 40)
                .contains("-ss 2.500000 -copyts -i file:a.avi -map 0:1 -vf fps=fps=10:start_time=5.500000,")
        );
    }

    #[test]
    fn headers_say_what_ffprobe_does() {
        let programs = Programs { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into() };
        if programs.check().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut compared = 0;
        for (name, codec) in [
            ("a.mp4", &["-c:v", "mpeg4"][..]),
            ("b.mp4", &["-c:v", "mpeg4", "-bf", "2"]),
            ("c.mp4", &["-pix_fmt", "yuv420p", "-c:v", "libx264", "-c:a", "aac"]),
            ("d.mov", &["-c:v", "mjpeg", "-c:a", "pcm_s16le"]),
            ("e.avi", &["-c:v", "mpeg4", "-bf", "2", "-c:a", "pcm_s16le"]),
            ("f.avi", &["-c:v", "mjpeg", "-an"]),
        ] {
            let path = folder.path().join(name);
            let made = std::process::Command::new("ffmpeg")
                .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=2"])
                .args(["-f", "lavfi", "-i", "sine=d=2"])
                .args(codec)
                .arg(&path)
                .status();
            if made.is_ok_and(|status| status.success()) {
                compared += 1;
                let (told, read) = (programs.ask(&path).unwrap(), Stream::of_header(&path).unwrap());
                let seconds = told.seconds;
                assert!((seconds - read.seconds).abs() < 0.05, "{name}: {seconds} {}", read.seconds);
                assert_eq!(read, Stream { seconds: read.seconds, ..told }, "{name}");
            }
        }
        assert!(compared >= 2, "{compared}");
    }
}
