//! Bringing a picture to the size of the set.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_vision::Image;
use ssl_vision::augment::Crop;

/// What becomes of frames of another shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Their middle is taken, as much of it as has the shape.
    #[default]
    Cover,
    /// They are stretched.
    Stretch,
}

impl Fit {
    /// What is taken of a picture of `width` x `height` for frames of a size (height, width).
    pub(crate) fn crop(self, width: usize, height: usize, size: [usize; 2]) -> Crop {
        let [to_height, to_width] = size;
        let part = |side: usize, to: usize, other: usize, other_to: usize| {
            // As much as is as long as the other side is, in the shape of the frames.
            let fitting = (other as f64 * to as f64 / other_to as f64).round() as usize;
            fitting.clamp(1, side)
        };
        let (w, h) = match self {
            Fit::Stretch => (width, height),
            Fit::Cover => {
                (part(width, to_width, height, to_height), part(height, to_height, width, to_width))
            }
        };
        Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }

    /// Writes a picture as a frame of a size (height, width), `[H, W, C]`.
    pub(crate) fn picture(self, picture: &Image<'_>, size: [usize; 2], out: &mut [u8]) -> Result<(), String> {
        let [height, width] = size;
        let crop = self.crop(picture.width(), picture.height(), size);
        let is_whole = (crop.width, crop.height) == (picture.width(), picture.height());
        if is_whole && (crop.width, crop.height) == (width, height) && picture.data().len() == out.len() {
            out.copy_from_slice(picture.data());
            return Ok(());
        }
        let resized = picture.resized(crop, width, height).map_err(|error| error.to_string())?;
        match resized.data().len() == out.len() {
            true => out.copy_from_slice(resized.data()),
            false => return Err(format!("expected {} bytes, got {}", out.len(), resized.data().len())),
        }
        Ok(())
    }

    /// The filters of `ffmpeg` that do the same, up to RGB.
    pub(crate) fn filters(self, size: [usize; 2]) -> String {
        let [height, width] = size;
        let scale = format!("scale={width}:{height}");
        // Exact rounding, so that a frame is the same on every processor. Cropping before the conversion would round
        // to pairs of pixels, for which color is stored once.
        let flags = "flags=bilinear+accurate_rnd+full_chroma_int+bitexact";
        match self {
            Fit::Stretch => format!("{scale}:{flags},format=rgb24"),
            Fit::Cover => format!(
                "{scale}:force_original_aspect_ratio=increase:{flags},format=rgb24,crop={width}:{height}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_is_the_largest_middle_of_the_shape() {
        let crop = |width, height, size| {
            let Crop { left, top, width, height } = Fit::Cover.crop(width, height, size);
            [left, top, width, height]
        };
        assert_eq!(crop(640, 272, [80, 80]), [184, 0, 272, 272]);
        assert_eq!(crop(100, 300, [50, 100]), [0, 125, 100, 50]);
        assert_eq!(crop(7, 5, [5, 7]), [0, 0, 7, 5]);
        assert_eq!(crop(1, 1, [9, 200]), [0, 0, 1, 1]);
    }

    #[test]
    fn pictures_are_stretched_or_covered() {
        let data: Vec<u8> = vec![0, 0, 100, 100, 200, 200];
        let picture = Image::new(6, 1, 1, data).unwrap();
        let fitted = |fit: Fit, size: [usize; 2]| {
            let mut out = vec![0; size[0] * size[1]];
            fit.picture(&picture, size, &mut out).unwrap();
            out
        };
        assert_eq!(fitted(Fit::Stretch, [2, 6]), [0, 0, 100, 100, 200, 200].repeat(2));
        assert_eq!(fitted(Fit::Cover, [1, 2]), [100, 100]);
        assert_eq!(fitted(Fit::Cover, [1, 6]), picture.data());
    }
}
