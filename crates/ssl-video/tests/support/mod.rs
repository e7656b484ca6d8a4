//! Videos for the tests: by stand-ins for the programs, which are shell scripts, and by the programs where they are.
#![allow(dead_code, reason = "each test program uses a part")]
use ssl_video::readers::Options;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Stands in for both programs. A video is a text: its kind, its frames, the rate of its clock, its mean rate. A frame is
/// 2 x 2 grey pixels of one letter, from A on.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = -version ] && exit
while [ $# -gt 0 ]; do
    case "$1" in
        -frames:v) count=$2 ;;
        -vf) filters=$2 ;;
        file:*) file=${1#file:} ;;
    esac
    shift
done
seconds=$(echo "$filters" | sed -n 's/.*trim=start=\([0-9.]*\).*/\1/p')
read -r kind frames clock mean rest < "$file"
if [ "$kind" = broken ]; then
    echo "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d0c0ffee] moov atom not found" >&2
    echo "file:$file: Invalid data found when processing input" >&2
    exit 1
fi
case "$0" in
*ffprobe)
    type=video
    [ "$kind" = sound ] && type=audio
    echo "{\"streams\": [{\"index\": 0, \"codec_type\": \"$type\", \"width\": 6, \"height\": 4, \"nb_frames\": \"$frames\","
    echo "\"r_frame_rate\": \"$clock\", \"avg_frame_rate\": \"$mean\"}], \"format\": {}}"
    exit ;;
esac
awk -v kind="$kind" -v frames="$frames" -v rate="$clock" -v seconds="${seconds:-0}" -v count="$count" 'BEGIN {
    split(rate, parts, "/"); rate = parts[1] / parts[2]
    first = seconds > 0 ? int(seconds * rate + 0.5001) : 0
    if (kind == "short") frames = int(frames / 2)
    if (kind == "ends") frames -= 2
    for (n = first; n < first + count && n < frames; n++) {
        letter = sprintf("%c", 65 + n % 26)
        printf "%s%s%s%s", letter, letter, letter, letter
        if (kind == "killed" && n == first + 2) exit 9
    }
}'
if [ $? -eq 9 ]; then
    printf X
    kill -9 $$
fi
[ "$kind" = short ] && echo "[h264 @ 0x1] error while decoding MB 3 4" >&2
exit 0
"#;

/// Options by which both programs are scripts, for frames of 2 x 2 grey pixels.
pub(crate) fn stand_in(folder: &Path) -> Options {
    let programs = ["ffmpeg", "ffprobe"].map(|name| {
        let path = folder.join(name);
        fs::write(&path, SCRIPT).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    });
    let [ffmpeg, ffprobe] = programs;
    Options { size: [2, 2], channels: 1, ffmpeg, ffprobe, ..Options::default() }
}

/// Writes a file with its folders.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A folder of frames of 4 x 4 grey pixels of one value each.
pub(crate) fn frames(folder: &Path, values: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    for (n, value) in values.iter().enumerate() {
        // Without leading zeros, so that their order is not that of their letters.
        image::GrayImage::from_pixel(4, 4, image::Luma([*value]))
            .save(folder.join(format!("f{n}.png")))
            .unwrap();
    }
}

/// An array of NumPy of bytes.
pub(crate) fn npy(path: &Path, shape: &str, bytes: &[u8]) {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    write(path, file);
}

/// Whether the real programs are there.
pub(crate) fn has_ffmpeg() -> bool {
    let is_there = |name: &str| {
        let run = Command::new(name).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    is_there("ffmpeg") && is_there("ffprobe")
}

/// Makes a video of grey frames of 32 x 24 pixels, each of one value, at 10 frames per second; `more` are options
/// of `ffmpeg` before the name. None where this `ffmpeg` lacks what it takes.
pub(crate) fn film(path: &Path, values: &[u8], more: &[&str]) -> Option<PathBuf> {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut child = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "32x24", "-r", "10", "-i", "-",
        ])
        .args(more)
        .arg(path)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    for value in values {
        // It ends early where it does not know an option.
        if input.write_all(&[*value; 32 * 24]).is_err() {
            break;
        }
    }
    drop(input);
    child.wait().is_ok_and(|status| status.success()).then(|| path.to_path_buf())
}
