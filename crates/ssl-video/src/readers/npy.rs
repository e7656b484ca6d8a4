//! Arrays of bytes in NumPy's format: one video, or many.
//!
//! Source: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays":
//! <https://numpy.org/neps/nep-0001-npy-format.html>.
use super::SIDES;
use super::ffmpeg::most;
use ssl_vision::Image;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that a header may have.
const LONGEST_HEADER: usize = 1 << 16;
/// Videos that an array may have.
const MOST_VIDEOS: usize = 1 << 24;
/// The file of Moving MNIST, in which time comes before the videos; its name is the only sign of it.
const TIME_FIRST: &str = "mnist_test_seq";

/// Where the frames of the videos of an array lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Npy {
    /// Videos in it.
    pub(crate) videos: usize,
    /// Frames of each.
    pub(crate) frames: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    channels: usize,
    /// Offset of the first byte.
    begin: u64,
    is_time_first: bool,
}

impl Npy {
    /// Reads the header, and compares what it says with the length of the file.
    pub(crate) fn new(path: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let mut take = |count: usize, what: &str| {
            let mut bytes = vec![0; count];
            let broken = |_| format!("truncated: expected {what}, the file has {length} bytes");
            file.read_exact(&mut bytes).map_err(broken)?;
            Ok::<_, String>(bytes)
        };
        let magic = take(6, "the magic of NumPy's arrays")?;
        if magic != b"\x93NUMPY" {
            let found = magic.escape_ascii();
            return Err(format!("expected an array of NumPy, the file begins with \"{found}\""));
        }
        let version = take(2, "a version")?.first().copied().unwrap_or(0);
        let digits = if version == 1 { 2 } else { 4 };
        let header = take(digits, "the length of the header")?;
        let header = header.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte));
        if !matches!(version, 1..=3) || header > LONGEST_HEADER {
            return Err(format!(
                "expected a header of version 1 to 3 and up to {LONGEST_HEADER} bytes, got version {version}, {header} bytes"
            ));
        }
        let text = take(header, "the header")?;
        let shape = shape(&String::from_utf8_lossy(&text))?;
        let begin = (8 + digits + header) as u64;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let npy = Npy::of(&shape, begin, stem.starts_with(TIME_FIRST))?;
        let product = shape.iter().try_fold(1u64, |size, &side| size.checked_mul(side as u64));
        match product.and_then(|size| size.checked_add(begin)) {
            Some(expected) if expected == length => Ok(npy),
            _ => Err(format!("expected a header and {shape:?} bytes, the file has {length} bytes")),
        }
    }

    /// What the sides of an array are.
    fn of(shape: &[usize], begin: u64, is_time_first: bool) -> Result<Self, String> {
        let (videos, frames, height, width, channels) = match *shape {
            [frames, videos, height, width] if is_time_first => (videos, frames, height, width, 1),
            [frames, height, width] => (1, frames, height, width, 1),
            [frames, height, width, channels @ (1 | 3)] => (1, frames, height, width, channels),
            [videos, frames, height, width] => (videos, frames, height, width, 1),
            [videos, frames, height, width, channels @ (1 | 3)] => (videos, frames, height, width, channels),
            _ => {
                return Err(format!(
                    "expected [T, H, W], [T, H, W, C], [N, T, H, W] or [N, T, H, W, C] of 1 or 3 channels, got {shape:?}"
                ));
            }
        };
        let is_sound = (1..=MOST_VIDEOS).contains(&videos)
            && (1..=most()).contains(&frames)
            && SIDES.contains(&height)
            && SIDES.contains(&width);
        match is_sound {
            true => Ok(Npy { videos, frames, height, width, channels, begin, is_time_first }),
            false => Err(format!("expected sides of 1 to {} pixels and a frame, got {shape:?}", SIDES.end())),
        }
    }

    /// Reads frames of ascending numbers of a video, each handed to `emit` with its position among those wanted.
    pub(crate) fn pictures(
        &self,
        path: &Path,
        video: usize,
        channels: usize,
        wanted: &[usize],
        emit: &mut dyn FnMut(usize, &Image<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let each = self.height * self.width * self.channels;
        let mut bytes = vec![0; each];
        let mut converted = Vec::new();
        for (position, &frame) in wanted.iter().enumerate() {
            let number = match self.is_time_first {
                true => frame as u64 * self.videos as u64 + video as u64,
                false => video as u64 * self.frames as u64 + frame as u64,
            };
            let broken = |error: std::io::Error| format!("frame {frame}: {error}");
            file.seek(SeekFrom::Start(self.begin + number * each as u64)).map_err(broken)?;
            file.read_exact(&mut bytes).map_err(broken)?;
            let pixels = match (self.channels, channels) {
                (1, 3) => {
                    converted.clear();
                    converted.extend(bytes.iter().flat_map(|&grey| [grey; 3]));
                    &converted
                }
                (3, 1) => {
                    converted.clear();
                    let (colors, _) = bytes.as_chunks::<3>();
                    converted.extend(colors.iter().map(grey));
                    &converted
                }
                _ => &bytes,
            };
            let image = Image::new(self.width, self.height, channels, pixels.as_slice());
            emit(position, &image.map_err(|error| error.to_string())?)?;
        }
        Ok(())
    }
}

/// The brightness of a color, ITU-R 601-2, as for images.
pub(crate) fn grey(&[r, g, b]: &[u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// The shape in a header, which is a dictionary of Python.
fn shape(header: &str) -> Result<Vec<usize>, String> {
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let kind = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    if !matches!(kind, Some("|u1" | "u1" | "<u1" | ">u1")) {
        return Err(format!("expected bytes without a sign (|u1), got {}", kind.unwrap_or("no type")));
    }
    if !value("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
        return Err("expected the order of C, got that of Fortran".to_string());
    }
    let sides = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let (sides, _) = sides.ok_or("expected a shape in the header, found none")?;
    let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
    let number =
        |side: &str| side.parse().map_err(|_| format!("expected a number in the shape, got {side:?}"));
    sides.map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn npy(folder: &Path, name: &str, shape: &str, bytes: &[u8]) -> PathBuf {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
        raw(folder, name, &header, bytes)
    }

    fn raw(folder: &Path, name: &str, header: &str, bytes: &[u8]) -> PathBuf {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(bytes);
        let path = folder.join(name);
        std::fs::write(&path, file).unwrap();
        path
    }

    fn firsts(path: &Path, video: usize, channels: usize, wanted: &[usize]) -> Vec<u8> {
        let mut seen = Vec::new();
        let array = Npy::new(path).unwrap();
        array
            .pictures(path, video, channels, wanted, &mut |position, image| {
                assert_eq!(position, seen.len());
                seen.push(image.data()[0]);
                Ok(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn each_shape_is_read_by_position() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..48).collect();
        let many = npy(folder.path(), "a.npy", "(2, 3, 4, 2)", &bytes);
        assert_eq!(Npy::new(&many).unwrap().videos, 2);
        assert_eq!(firsts(&many, 1, 1, &[0, 2]), [24, 40]);
        let one = npy(folder.path(), "b.npy", "(4, 4, 3)", &bytes);
        assert_eq!((firsts(&one, 0, 1, &[3]), Npy::new(&one).unwrap().channels), (vec![36], 1));
        let color = npy(folder.path(), "c.npy", "(2, 2, 4, 3)", &bytes);
        assert_eq!(firsts(&color, 0, 3, &[1, 1]), [24, 24]);
        // 24, 25 and 26 as one brightness.
        assert_eq!(firsts(&color, 0, 1, &[1]), [25]);
        let five = npy(folder.path(), "d.npy", "(2, 2, 2, 2, 3)", &bytes);
        assert_eq!(firsts(&five, 1, 3, &[1]), [36]);
        let moving = npy(folder.path(), "mnist_test_seq.npy", "(3, 2, 4, 2)", &bytes);
        assert_eq!(Npy::new(&moving).unwrap().frames, 3);
        assert_eq!(firsts(&moving, 1, 3, &[0, 2]), [8, 40]);
    }

    #[test]
    fn what_is_no_array_of_videos_is_said_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let message = |path: PathBuf| Npy::new(&path).unwrap_err();
        let good = "'descr': '|u1', 'fortran_order': False, 'shape'";
        for (header, bytes, expected) in [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 2), }",
                8,
                "expected bytes without a sign (|u1), got <f4",
            ),
            (
                "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 2), }",
                8,
                "expected the order of C, got that of Fortran",
            ),
            (
                &format!("{{{good}: (2, 2, 3), }}"),
                8,
                "expected a header and [2, 2, 3] bytes, the file has 80 bytes",
            ),
            (&format!("{{{good}: (2, 2), }}"), 4, "got [2, 2]"),
            (&format!("{{{good}: (0, 2, 2), }}"), 0, "got [0, 2, 2]"),
            (
                &format!("{{{good}: (99999999999, 99999999999, 2, 2), }}"),
                0,
                "got [99999999999, 99999999999, 2, 2]",
            ),
            (&format!("{{{good}: (2, x, 2), }}"), 0, "expected a number in the shape, got \"x\""),
            (&format!("{{{good}: 7}}"), 0, "expected a shape in the header, found none"),
        ] {
            let found = message(raw(folder.path(), "a.npy", header, &vec![0; bytes]));
            assert!(found.ends_with(expected) && !found.contains('\n'), "{found}");
        }
        let path = folder.path().join("b.npy");
        let whole = std::fs::read(npy(folder.path(), "c.npy", "(2, 2, 2)", &[0; 8])).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(message(path.clone()).contains("expected"));
        }
        std::fs::write(&path, b"\x93NUMPY\x09\x00\xff\xff\xff\xff").unwrap();
        assert!(message(path).ends_with("got version 9, 4294967295 bytes"));
    }
}
