//! A decoded picture and the interface of a set of them.
//!
//! ```
//! use ssl_vision::Image;
//! let grey = Image::new(2, 2, 1, vec![0, 64, 128, 255])?;
//! assert_eq!((grey.width(), grey.height(), grey.channels()), (2, 2, 1));
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::augment::{Crop, Resampler, Window, check_crop};
use ssl_core::{Error, Result};
use std::borrow::Cow;
use std::fmt::Debug;

/// A picture of one (grey) or three (RGB) bytes per pixel, rows from the top, channels last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    width: usize,
    height: usize,
    channels: usize,
    data: Cow<'a, [u8]>,
}

impl<'a> Image<'a> {
    /// A picture from its bytes, `[height, width, channels]`; borrowed bytes are not copied.
    ///
    /// # Errors
    /// `Error::Config` when a side is 0, channels are neither 1 nor 3, or the number of bytes differs.
    pub fn new(width: usize, height: usize, channels: usize, data: impl Into<Cow<'a, [u8]>>) -> Result<Self> {
        let data = data.into();
        if width == 0 || height == 0 || !matches!(channels, 1 | 3) {
            return Err(Error::config(
                "image",
                format!(
                    "expected sides of at least 1 pixel and 1 or 3 channels, got {width}x{height}x{channels}"
                ),
            ));
        }
        let expected = width.checked_mul(height).and_then(|area| area.checked_mul(channels));
        if expected != Some(data.len()) {
            return Err(Error::config(
                "image",
                format!("expected {width}x{height}x{channels} bytes, got {}", data.len()),
            ));
        }
        Ok(Image { width, height, channels, data })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes per pixel: 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, `[height, width, channels]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The same picture borrowed.
    pub fn borrowed(&self) -> Image<'_> {
        let &Image { width, height, channels, ref data } = self;
        Image { width, height, channels, data: Cow::Borrowed(data) }
    }

    /// What lies in `crop`, resized to `width` x `height` pixels: bilinear with antialiasing.
    ///
    /// # Errors
    /// `Error::Config` when the crop is not inside the picture or a side is 0.
    pub fn resized(&self, crop: Crop, width: usize, height: usize) -> Result<Image<'static>> {
        check_crop(crop, self.width, self.height)?;
        let area = width.checked_mul(height).filter(|&area| area > 0 && area.checked_mul(3).is_some());
        let area = area.ok_or_else(|| {
            Error::config("size", format!("expected sides of at least 1 pixel, got {width}x{height}"))
        })?;
        let mut planes = vec![0.0; area * self.channels];
        let (across, down) = (Window::whole(width, false), Window::whole(height, false));
        Resampler::default().run(self, crop, across, down, &mut planes);
        let byte = |value: &f32| (value * 255.0).round() as u8;
        let mut data = vec![0; planes.len()];
        for (channel, plane) in planes.chunks_exact(area).enumerate() {
            let outs = data.iter_mut().skip(channel).step_by(self.channels);
            outs.zip(plane).for_each(|(out, value)| *out = byte(value));
        }
        Image::new(width, height, self.channels, data)
    }
}

/// A set of pictures, with or without labels, that many threads may read at once.
pub trait ImageDataset: Send + Sync + Debug {
    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there is no picture.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels of every picture: 1 or 3.
    fn channels(&self) -> usize;

    /// Width and height in pixels when all pictures are known to share them.
    fn size(&self) -> Option<(usize, usize)> {
        None
    }

    /// One picture; sets in memory lend their bytes.
    ///
    /// # Errors
    /// `Error::Config` when `index` is out of range, `Error::Data` or `Error::Io` when it cannot be read.
    fn image(&self, index: usize) -> Result<Image<'_>>;

    /// What a picture is called: its file, where it has one, else its number.
    fn name(&self, index: usize) -> String {
        index.to_string()
    }

    /// The class of one picture, from 0; none without labels.
    fn label(&self, index: usize) -> Option<i64>;

    /// Names of the classes in the order of the labels; empty without labels.
    fn class_names(&self) -> &[String];

    /// All labels; none when any picture lacks one.
    fn labels(&self) -> Option<Vec<i64>> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// The images that could not be read so far, one line each: which and why. It grows while images are read, so
    /// a program that names them asks again and leaves out the lines it has had.
    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The error of an index past the end.
pub(crate) fn out_of_range(index: usize, len: usize) -> Error {
    Error::config("index", format!("expected less than {len} (the number of images), got {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_is_resized_channel_by_channel() {
        let data: Vec<u8> = (0..4 * 3 * 3).map(|at| at * 7).collect();
        let image = Image::new(4, 3, 3, data).unwrap();
        let crop = Crop { left: 1, top: 1, width: 2, height: 2 };
        let same = image.resized(crop, 2, 2).unwrap();
        assert_eq!(same.data(), [105, 112, 119, 126, 133, 140, 189, 196, 203, 210, 217, 224]);
        // Half the size: the mean of each channel.
        assert_eq!(image.resized(crop, 1, 1).unwrap().data(), [158, 165, 172]);
        assert!(image.resized(Crop { left: 3, ..crop }, 2, 2).is_err());
        let message = image.resized(crop, 0, 2).unwrap_err().to_string();
        assert_eq!(message, "size: expected sides of at least 1 pixel, got 0x2");
    }

    #[test]
    fn bytes_must_fill_the_sides() {
        assert!(Image::new(2, 2, 3, vec![0; 12]).is_ok());
        for (w, h, c, n) in [(2, 2, 3, 11), (0, 2, 1, 0), (1, 1, 2, 2), (usize::MAX, 2, 1, 0)] {
            let message = Image::new(w, h, c, vec![0; n]).unwrap_err().to_string();
            assert!(message.contains("image: expected"), "{message}");
        }
    }
}
