//! From the bytes of a PNG, JPEG, WebP, BMP or GIF to pixels: grey or RGB, upright, 8 bits.
//!
//! As PIL's `convert("RGB")` and `convert("L")` do: transparency is dropped, grey is ITU-R 601-2. Sixteen bits
//! are scaled to eight, an EXIF orientation is applied, an animation gives its first picture.
use crate::Image;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};
use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Endings of the names of files that are taken for images, in lower case.
pub const ENDINGS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"];

/// Why bytes are not an image, in words.
type Reason = String;

/// Decodes the bytes of a PNG, JPEG, WebP, BMP or GIF to `channels` channels (1 or 3).
///
/// # Errors
/// Why they are none of these, in words, for whoever knows where they came from.
pub fn decode(bytes: &[u8], channels: usize) -> Result<Image<'static>, String> {
    guarded(|| if is_jpeg(bytes) { decode_jpeg(bytes, channels) } else { decode_other(bytes, channels) })
}

/// Width and height of an image when upright, from its header alone.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), Reason> {
    guarded(|| {
        let (size, orientation) = if is_jpeg(bytes) {
            let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
            decoder.decode_headers().map_err(|error| error.to_string())?;
            (decoder.dimensions().ok_or("no dimensions")?, jpeg_orientation(&decoder))
        } else {
            let mut decoder = reader(bytes)?;
            let (width, height) = decoder.dimensions();
            ((width as usize, height as usize), orientation(&mut decoder))
        };
        Ok(if orientation.to_exif() >= 5 { (size.1, size.0) } else { size })
    })
}

const PANICKED: &str = "the decoder gave up";

/// A decoder that panics has met a corrupt file.
fn guarded<T>(f: impl FnOnce() -> Result<T, Reason>) -> Result<T, Reason> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(PANICKED.to_string()))
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8])
}

fn decode_jpeg(bytes: &[u8], channels: usize) -> Result<Image<'static>, Reason> {
    if is_cut(bytes) {
        return Err(format!("JPEG is truncated: {} bytes without an end marker", bytes.len()));
    }
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), DecoderOptions::new_fast());
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let input = decoder.input_colorspace();
    let is_luma = channels == 1 && matches!(input, Some(ColorSpace::YCbCr | ColorSpace::Luma));
    let output = if is_luma { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(output));
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("no dimensions")?;
    let pixels = if channels == 1 && !is_luma { to_grey(&pixels) } else { pixels };
    upright(width, height, channels, pixels, jpeg_orientation(&decoder))
}

/// Whether the picture breaks off: no end marker behind the first scan. Within a scan its code cannot occur.
fn is_cut(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xda {
            break;
        }
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    let scans = bytes.get(at..).unwrap_or_default();
    !scans.array_windows().rev().any(|pair| pair == &[0xff, 0xd9])
}

fn jpeg_orientation(decoder: &JpegDecoder<ZCursor<&[u8]>>) -> Orientation {
    decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms)
}

fn reader(bytes: &[u8]) -> Result<impl ImageDecoder, Reason> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        let head: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        return Err(format!(
            "expected a PNG, JPEG, WebP, BMP or GIF, found {} bytes that begin with [{}]",
            bytes.len(),
            head.join(" ")
        ));
    }
    reader.into_decoder().map_err(|error| error.to_string())
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn decode_other(bytes: &[u8], channels: usize) -> Result<Image<'static>, Reason> {
    let mut decoder = reader(bytes)?;
    let orientation = orientation(&mut decoder);
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let is_grey = !picture.color().has_color();
    let pixels = match channels {
        1 if is_grey => picture.into_luma8().into_raw(),
        1 => to_grey(&picture.into_rgb8().into_raw()),
        _ => picture.into_rgb8().into_raw(),
    };
    upright(width, height, channels, pixels, orientation)
}

/// ITU-R 601-2 as PIL computes it.
fn to_grey(rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let luma = |&[r, g, b]: &[u8; 3]| {
        ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
    };
    pixels.iter().map(luma).collect()
}

/// Turns and mirrors the pixels as the camera was held.
fn upright(
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
    orientation: Orientation,
) -> Result<Image<'static>, Reason> {
    if orientation == Orientation::NoTransforms {
        return Image::new(width, height, channels, pixels).map_err(|error| error.to_string());
    }
    let sides = (width as u32, height as u32);
    let picture = if channels == 1 {
        image::GrayImage::from_raw(sides.0, sides.1, pixels).map(DynamicImage::ImageLuma8)
    } else {
        image::RgbImage::from_raw(sides.0, sides.1, pixels).map(DynamicImage::ImageRgb8)
    };
    let mut picture = picture.ok_or("the decoder returned too few pixels")?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels: Cow<'static, [u8]> = picture.into_bytes().into();
    Image::new(width, height, channels, pixels).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageFormat};

    fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn rgb() -> DynamicImage {
        let pixel = |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, 90]);
        image::RgbImage::from_fn(9, 7, pixel).into()
    }

    #[test]
    fn lossless_formats_give_their_pixels_back() {
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encode(&rgb(), format);
            let image = decode(&bytes, 3).unwrap();
            assert_eq!((image.width(), image.height()), (9, 7), "{format:?}");
            assert_eq!(image.data(), rgb().as_bytes(), "{format:?}");
            assert_eq!(dimensions(&bytes), Ok((9, 7)));
            assert_eq!(decode(&bytes, 1).unwrap().data()[1], ((19595 * 20 + 7471 * 90 + 0x8000) >> 16) as u8);
        }
        assert_eq!(decode(&encode(&rgb().to_rgba8().into(), ImageFormat::Gif), 3).unwrap().width(), 9);
    }

    #[test]
    fn grey_alpha_and_sixteen_bits_become_eight_bits_without_alpha() {
        let grey: DynamicImage = image::ImageBuffer::from_pixel(2, 1, image::Luma([257_u16 * 100])).into();
        let bytes = encode(&grey, ImageFormat::Png);
        assert_eq!(decode(&bytes, 1).unwrap().data(), [100; 2]);
        assert_eq!(decode(&bytes, 3).unwrap().data(), [100; 6]);
        let clear: DynamicImage = image::RgbaImage::from_pixel(1, 1, image::Rgba([10, 20, 30, 0])).into();
        assert_eq!(decode(&encode(&clear, ImageFormat::Png), 3).unwrap().data(), [10, 20, 30]);
    }

    /// A grey JPEG, its left half dark and its right half bright, with an EXIF orientation.
    fn jpeg(orientation: u16) -> Vec<u8> {
        let pixels: Vec<u8> = (0..16 * 8).map(|i| if i % 16 < 8 { 20 } else { 220 }).collect();
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
        encoder.encode(&pixels, 16, 8, ExtendedColorType::L8).unwrap();
        let tiff = [
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(),
            &orientation.to_le_bytes(),
            &[0; 6],
        ];
        let exif = [b"Exif\0\0".as_slice(), &tiff.concat()].concat();
        let head = [&[0xff, 0xe1][..], &(exif.len() as u16 + 2).to_be_bytes(), &exif].concat();
        bytes.splice(2..2, head);
        bytes
    }

    #[test]
    fn exif_orientation_is_applied() {
        let corners = |orientation| {
            let image = decode(&jpeg(orientation), 3).unwrap();
            assert_eq!(dimensions(&jpeg(orientation)), Ok((image.width(), image.height())));
            let is_bright = |at: usize| image.data()[at] > 128;
            (image.width(), image.height(), is_bright(0), is_bright(image.data().len() - 1))
        };
        assert_eq!(corners(1), (16, 8, false, true));
        assert_eq!(corners(3), (16, 8, true, false));
        // Turned clockwise by a quarter, the left half is above.
        assert_eq!(corners(6), (8, 16, false, true));
        assert_eq!(corners(8), (8, 16, true, false));
    }

    #[test]
    fn cmyk_and_ycck_become_rgb() {
        for kind in [jpeg_encoder::ColorType::Cmyk, jpeg_encoder::ColorType::CmykAsYcck] {
            let mut bytes = Vec::new();
            let encoder = jpeg_encoder::Encoder::new(&mut bytes, 100);
            encoder.encode(&[0, 102, 204, 51].repeat(64), 8, 8, kind).unwrap();
            let image = decode(&bytes, 3).unwrap();
            // (1 - ink) (1 - black), of 255.
            for (got, expected) in image.data().iter().zip([204_u8, 122, 41].into_iter().cycle()) {
                assert!(got.abs_diff(expected) <= 2, "{kind:?}: {got} {expected}");
            }
        }
    }

    #[test]
    fn cut_foreign_and_empty_bytes_say_what_they_are() {
        let whole = jpeg(1);
        for cut in [whole.len() / 2, whole.len() - 3, 40] {
            let reason = decode(&whole[..cut], 3).unwrap_err();
            assert!(reason.contains("truncated"), "{reason}");
        }
        assert!(decode(b"<html>not found</html>", 3).unwrap_err().contains("begin with [3c 68 74 6d]"));
        assert!(decode(&[], 3).is_err());
        let png = encode(&rgb(), ImageFormat::Png);
        assert!(decode(&png[..png.len() / 2], 3).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic() {
        for (n, whole) in
            [jpeg(6), encode(&rgb(), ImageFormat::Png), encode(&rgb(), ImageFormat::WebP)].iter().enumerate()
        {
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                let channels = 1 + 2 * (n % 2);
                match decode(&bytes, channels) {
                    Ok(image) => assert_eq!(image.channels(), channels),
                    Err(reason) => {
                        assert!(!reason.contains('\n') && reason != PANICKED, "byte {at}: {reason}")
                    }
                }
            }
        }
    }
}
