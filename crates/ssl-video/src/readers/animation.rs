//! Animated GIF, WebP and PNG. Transparency is dropped, as for images.
use super::ffmpeg::most;
use super::npy::grey;
use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, Frame, Frames, ImageDecoder, Limits};
use ssl_vision::Image;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Greatest side of a picture, in pixels.
const MOST_SIDE: u32 = 1 << 14;
/// A browser shows a picture of up to so many milliseconds, and so whatever was meant, for as many as follow.
const HASTY: (f64, f64) = (10.0, 100.0);

/// Whether a PNG or WebP is animated, by its first bytes.
pub(crate) fn is_animated(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 12).read_to_end(&mut head));
    if read.is_err() {
        return false;
    }
    match head.as_slice() {
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            b'V',
            b'P',
            b'8',
            b'X',
            _,
            _,
            _,
            _,
            flags,
            ..,
        ] => flags & 2 != 0,
        [0x89, b'P', b'N', b'G', ..] => {
            // The chunk that says so comes before the first data.
            let position = |name: &[u8]| head.windows(4).position(|window| window == name);
            position(b"acTL").is_some_and(|at| position(b"IDAT").is_none_or(|data| at < data))
        }
        _ => false,
    }
}

/// What an animation holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outline {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Seconds for which each picture is seen.
    pub(crate) seconds: Vec<f64>,
}

/// Goes through an animation.
pub(crate) fn outline(path: &Path) -> Result<Outline, String> {
    let (mut size, mut seconds) = ((0, 0), Vec::new());
    each(path, &mut |frame| {
        size = (frame.buffer().width() as usize, frame.buffer().height() as usize);
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let shown = f64::from(numerator) / f64::from(denominator.max(1));
        seconds.push(if shown <= HASTY.0 { HASTY.1 } else { shown } / 1_000.0);
        Ok(true)
    })?;
    match seconds.is_empty() {
        true => Err("expected an animation, it has no picture".to_string()),
        false => Ok(Outline { width: size.0, height: size.1, seconds }),
    }
}

/// Decodes pictures of ascending numbers, each handed to `emit` with its position among those wanted.
pub(crate) fn pictures(
    path: &Path,
    channels: usize,
    wanted: &[usize],
    emit: &mut dyn FnMut(usize, &Image<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = wanted.iter().copied().enumerate().peekable();
    let mut number = 0;
    each(path, &mut |frame| {
        if rest.peek().is_some_and(|(_, wanted)| *wanted == number) {
            let picture = picture(frame, channels)?;
            while let Some((position, _)) = rest.next_if(|(_, wanted)| *wanted == number) {
                emit(position, &picture)?;
            }
        }
        number += 1;
        Ok(rest.peek().is_some())
    })?;
    match rest.peek() {
        Some((_, wanted)) => Err(format!("truncated: expected picture {wanted}, it has {number}")),
        None => Ok(()),
    }
}

fn picture(frame: &Frame, channels: usize) -> Result<Image<'static>, String> {
    let (width, height) = (frame.buffer().width() as usize, frame.buffer().height() as usize);
    let pixels = frame.buffer().pixels();
    let bytes: Vec<u8> = match channels {
        1 => pixels
            .map(|pixel| {
                let [r, g, b, _] = pixel.0;
                grey(&[r, g, b])
            })
            .collect(),
        _ => pixels
            .flat_map(|pixel| {
                let [r, g, b, _] = pixel.0;
                [r, g, b]
            })
            .collect(),
    };
    Image::new(width, height, channels, bytes).map_err(|error| error.to_string())
}

/// Hands each picture to `f` until it says false. A decoder that panics has met a corrupt file.
fn each(path: &Path, f: &mut dyn FnMut(&Frame) -> Result<bool, String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| {
        for (number, frame) in frames(path)?.enumerate() {
            let frame = frame.map_err(|error| format!("picture {number}: {}", one_line(&error)))?;
            if number >= most() {
                return Err(format!("expected at most {} pictures, it has more", most()));
            }
            if !f(&frame)? {
                break;
            }
        }
        Ok(())
    }))
    .unwrap_or_else(|_| Err("the decoder gave up".to_string()))
}

fn one_line(error: &image::ImageError) -> String {
    error.to_string().lines().collect::<Vec<_>>().join(" ")
}

fn frames(path: &Path) -> Result<Frames<'static>, String> {
    let mut file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
    let head = file.fill_buf().map_err(|error| error.to_string())?;
    let head: Vec<u8> = head.iter().copied().take(12).collect();
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    let decoded = match head.as_slice() {
        [] => return Err("expected a GIF, WebP or PNG, the file is empty".to_string()),
        [b'G', b'I', b'F', ..] => GifDecoder::new(file).and_then(limited).map(AnimationDecoder::into_frames),
        [b'R', b'I', b'F', b'F', ..] => {
            WebPDecoder::new(file).and_then(limited).map(AnimationDecoder::into_frames)
        }
        [0x89, b'P', b'N', b'G', ..] => {
            PngDecoder::new(file).and_then(limited).and_then(|png| Ok(png.apng()?.into_frames()))
        }
        _ => {
            let begin = head.escape_ascii();
            return Err(format!("expected a GIF, WebP or PNG, the file begins with \"{begin}\""));
        }
    };
    decoded.map_err(|error| one_line(&error))
}

fn limited<D: ImageDecoder>(mut decoder: D) -> image::ImageResult<D> {
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    decoder.set_limits(limits)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::gif::GifEncoder;
    use image::{Delay, RgbaImage};

    /// A GIF whose pictures are of one color each and are seen for so many milliseconds.
    pub(crate) fn gif(path: &Path, shown: &[u32]) {
        let mut encoder = GifEncoder::new(File::create(path).unwrap());
        for (number, &ms) in shown.iter().enumerate() {
            let color = image::Rgba([40 * number as u8, 255 - 40 * number as u8, 10, 255]);
            let picture = RgbaImage::from_pixel(6, 4, color);
            let frame = Frame::from_parts(picture, 0, 0, Delay::from_numer_denom_ms(ms, 1));
            encoder.encode_frame(frame).unwrap();
        }
    }

    #[test]
    fn pictures_come_in_order_with_their_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        gif(&path, &[200, 100, 0, 100]);
        let outline = outline(&path).unwrap();
        assert_eq!((outline.width, outline.height), (6, 4));
        assert_eq!(outline.seconds, [0.2, 0.1, 0.1, 0.1], "what is seen for no time is seen for a tenth");
        let mut seen = Vec::new();
        pictures(&path, 3, &[1, 3, 3], &mut |position, picture| {
            seen.push((position, picture.data()[0]));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 40), (1, 120), (2, 120)]);
        let message = pictures(&path, 1, &[4], &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(message, "truncated: expected picture 4, it has 4");
    }

    #[test]
    fn corrupt_animations_are_a_line_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        gif(&path, &[100, 100]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            for bytes in [&bytes[..], &whole[..at]] {
                std::fs::write(&path, bytes).unwrap();
                if let Err(message) = outline(&path) {
                    assert!(!message.contains('\n') && message != "the decoder gave up", "{at}: {message}");
                }
            }
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(outline(&path).unwrap_err(), "expected a GIF, WebP or PNG, the file is empty");
        std::fs::write(&path, "hello").unwrap();
        assert!(outline(&path).unwrap_err().ends_with("begins with \"hello\""));
    }

    #[test]
    fn animated_pictures_are_told_from_still_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        image::GrayImage::new(2, 2).save(&path).unwrap();
        assert!(!is_animated(&path));
        let mut bytes = std::fs::read(&path).unwrap();
        // An acTL chunk behind the header's.
        bytes.splice(33..33, *b"\0\0\0\x08acTL\0\0\0\x01\0\0\0\0....");
        std::fs::write(&path, bytes).unwrap();
        assert!(is_animated(&path));
        let webp = folder.path().join("a.webp");
        image::RgbImage::new(2, 2).save(&webp).unwrap();
        assert!(!is_animated(&webp) && !is_animated(folder.path()));
    }
}
