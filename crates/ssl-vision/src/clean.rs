//! Images without augmentation: what evaluation and embedding see.
use crate::augment::{Crop, Resampler, Window, interleave, normalization};
use crate::source::to_tensor;
use crate::{Augment, Image, ImageDataset};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use std::cell::RefCell;
use tch::Tensor;

thread_local! {
    static SCRATCH: RefCell<(Resampler, Vec<f32>)> = RefCell::default();
}

/// How an image is prepared for the encoder without chance.
///
/// Where all images of a set have one size and its longer side is `size`, they stay as they are. Else the shorter
/// side is resized, up or down, to 8/7 of `size` (256 for 224) and the middle square of `size` is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Clean {
    /// Side of the square, in pixels.
    pub size: usize,
    /// What is subtracted from each channel, of full scale; three numbers make grey images three channels.
    pub mean: Vec<f32>,
    /// By what each channel is then divided, of full scale.
    pub std: Vec<f32>,
}

impl Clean {
    /// The size and the normalization of a random view.
    pub fn of(augment: &Augment) -> Self {
        Clean { size: augment.size, mean: augment.mean.clone(), std: augment.std.clone() }
    }

    /// The images at `indices` of a set, `[B, C, H, W]` with channels-last strides.
    ///
    /// # Errors
    /// `Error::Config` when there is no index, one is out of range, or the size or the normalization is; what the
    /// data set says of an image it cannot read.
    pub fn batch(&self, dataset: &dyn ImageDataset, indices: &[usize]) -> Result<Tensor> {
        Augment::whole(self.size).normalized(&self.mean, &self.std).validate()?;
        if indices.is_empty() {
            return Err(Error::config("indices", "expected at least one, got none"));
        }
        let kept = dataset.size().filter(|&(width, height)| width.max(height) == self.size);
        let (width, height) = kept.unwrap_or((self.size, self.size));
        let channels = dataset.channels();
        let normalize = normalization(&self.mean, &self.std, channels.max(self.mean.len()));
        let mut block = vec![0.0; indices.len() * width * height * normalize.len()];
        block.par_chunks_exact_mut(width * height * normalize.len()).zip(indices).try_for_each(
            |(out, &index)| {
                let image = dataset.image(index)?;
                if image.channels() != channels {
                    let message = format!("expected {channels} channels, got {}", image.channels());
                    return Err(Error::config("image", message));
                }
                SCRATCH.with_borrow_mut(|(resampler, planes)| {
                    planes.resize(width * height * channels, 0.0);
                    let (across, down) = windows(&image, self.size, kept.is_some());
                    resampler.run(&image, whole(&image), across, down, planes);
                    interleave(planes, channels, &normalize, out);
                });
                Ok(())
            },
        )?;
        let shape = [indices.len(), height, width, normalize.len()].map(|n| n as i64);
        to_tensor(&block, shape)
    }
}

fn whole(image: &Image<'_>) -> Crop {
    Crop { left: 0, top: 0, width: image.width(), height: image.height() }
}

/// The columns and rows of the resized image that are kept: torchvision's `Resize` and `CenterCrop`.
fn windows(image: &Image<'_>, size: usize, keep: bool) -> (Window, Window) {
    let (width, height) = (image.width(), image.height());
    if keep {
        return (Window::whole(width, false), Window::whole(height, false));
    }
    let short = (size * 8).div_ceil(7);
    let middle = |side: usize, other: usize| {
        let total = if side <= other { short } else { short * side / other };
        let first = ((total - size) as f32 / 2.0).round_ties_even() as usize;
        Window { total, first, count: size, flip: false }
    };
    (middle(width, height), middle(height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageArray;

    fn clean(size: usize, mean: &[f32]) -> Clean {
        Clean::of(&Augment::whole(size).normalized(mean, &vec![1.0; mean.len()]))
    }

    #[test]
    fn images_of_one_size_whose_longer_side_fits_stay_as_they_are() {
        let set = ImageArray::new(3, 2, 1, vec![0, 51, 102, 153, 204, 255, 9, 9, 9, 9, 9, 9]).unwrap();
        let batch = clean(3, &[0.2]).batch(&set, &[0]).unwrap();
        assert_eq!(batch.size(), [1, 1, 2, 3]);
        let values = Vec::<f32>::try_from(batch.flatten(0, -1)).unwrap();
        for (value, expected) in values.iter().zip([-0.2, 0.0, 0.2, 0.4, 0.6, 0.8]) {
            assert!((value - expected).abs() < 1e-6);
        }
        assert_eq!(clean(3, &[0.2; 3]).batch(&set, &[0, 1]).unwrap().size(), [2, 3, 2, 3]);
    }

    #[test]
    fn larger_images_become_the_middle_square() {
        // Columns of one brightness each: 0, 8, 16, .. of 28 columns; the middle 7 of 8 halves remain.
        let data = (0..16 * 28).map(|i| (i % 28 * 8) as u8).collect();
        let set = ImageArray::new(28, 16, 1, data).unwrap();
        let batch = clean(7, &[0.0]).batch(&set, &[0]).unwrap();
        assert_eq!(batch.size(), [1, 1, 7, 7]);
        let row = Vec::<f32>::try_from((batch.select(2, 3) * 255.0).flatten(0, -1)).unwrap();
        // 28 x 16 becomes 14 x 8; columns 4 to 10 (3.5 rounds to even) are at 9, 11, .. minus a half.
        for (value, column) in row.iter().zip([8.5, 10.5, 12.5, 14.5, 16.5, 18.5, 20.5]) {
            assert!((value - 8.0 * column).abs() < 1e-3, "{row:?}");
        }
    }

    #[test]
    fn smaller_images_grow_to_the_size() {
        // Columns of brightness 0, 8, .. 48: of 7 columns that become 16, the middle 14.
        let data = (0..7 * 7).map(|i| (i % 7 * 8) as u8).collect();
        let set = ImageArray::new(7, 7, 1, data).unwrap();
        let batch = clean(14, &[0.0]).batch(&set, &[0]).unwrap();
        assert_eq!(batch.size(), [1, 1, 14, 14]);
        let row = Vec::<f32>::try_from((batch.select(2, 3) * 255.0).flatten(0, -1)).unwrap();
        for (column, value) in row.iter().enumerate() {
            // The middle of column 1 + `column` of 16, among the middles of the 7; the edges are repeated.
            let at = ((column as f32 + 1.5) * 7.0 / 16.0 - 0.5).clamp(0.0, 6.0);
            assert!((value - 8.0 * at).abs() < 1e-3, "{row:?}");
        }
    }

    #[test]
    fn no_index_or_a_bad_one_is_an_error() {
        let set = ImageArray::new(1, 1, 1, vec![0]).unwrap();
        assert!(clean(1, &[0.0]).batch(&set, &[]).is_err());
        assert!(clean(1, &[0.0]).batch(&set, &[1]).is_err());
        assert!(clean(0, &[0.0]).batch(&set, &[0]).is_err());
    }
}
