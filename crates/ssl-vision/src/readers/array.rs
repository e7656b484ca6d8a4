//! Pictures of one size in memory: what IDX, CIFAR and STL-10 files hold.
use crate::image::{Image, ImageDataset, out_of_range};
use ssl_core::{Error, Result};

/// Pictures of one size in one block of memory, lent without a copy.
#[derive(Clone)]
pub struct ImageArray {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
    labels: Option<Vec<i64>>,
    class_names: Vec<String>,
}

impl std::fmt::Debug for ImageArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, w, h, c) = (self.len(), self.width, self.height, self.channels);
        write!(f, "ImageArray({n} of {w}x{h}x{c}, {} classes)", self.class_names.len())
    }
}

impl ImageArray {
    /// Pictures from their bytes, `[N, height, width, channels]`, without labels.
    ///
    /// # Errors
    /// `Error::Config` when there is no picture, a side is 0, channels are neither 1 nor 3, or the bytes are
    /// no whole number of pictures.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let each = width.saturating_mul(height).saturating_mul(channels);
        if each == 0 || !matches!(channels, 1 | 3) || data.is_empty() || !data.len().is_multiple_of(each) {
            return Err(Error::config(
                "images",
                format!(
                    "expected a positive multiple of {width}x{height}x{channels} bytes (1 or 3 channels), got {}",
                    data.len()
                ),
            ));
        }
        Ok(ImageArray { width, height, channels, data, labels: None, class_names: Vec::new() })
    }

    /// Adds labels and the names of their classes.
    ///
    /// # Errors
    /// `Error::Config` when the counts differ or a label has no name.
    pub fn with_labels(mut self, labels: Vec<i64>, class_names: Vec<String>) -> Result<Self> {
        if labels.len() != self.len() {
            return Err(Error::config(
                "labels",
                format!("expected {} (one per image), got {}", self.len(), labels.len()),
            ));
        }
        let classes = class_names.len() as i64;
        if let Some(label) = labels.iter().find(|&&label| label < 0 || label >= classes) {
            return Err(Error::config("labels", format!("expected 0 to {}, got {label}", classes - 1)));
        }
        (self.labels, self.class_names) = (Some(labels), class_names);
        Ok(self)
    }

    fn each(&self) -> usize {
        self.width * self.height * self.channels
    }
}

impl ImageDataset for ImageArray {
    fn len(&self) -> usize {
        self.data.len() / self.each()
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn size(&self) -> Option<(usize, usize)> {
        Some((self.width, self.height))
    }

    fn image(&self, index: usize) -> Result<Image<'_>> {
        let each = self.each();
        let bytes = index.checked_mul(each).and_then(|start| self.data.get(start..start.checked_add(each)?));
        let bytes = bytes.ok_or_else(|| out_of_range(index, self.len()))?;
        Image::new(self.width, self.height, self.channels, bytes)
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_lent_in_order_and_the_end_is_an_error() {
        let set = ImageArray::new(2, 1, 1, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(set.image(1).unwrap().data(), [3, 4]);
        assert!(set.image(2).unwrap_err().to_string().contains("less than 2"));
        assert!(set.image(usize::MAX).is_err());
        assert_eq!(set.label(0), None);
    }

    #[test]
    fn labels_must_fit_images_and_names() {
        let set = || ImageArray::new(1, 1, 1, vec![0; 2]).unwrap();
        let names = || vec!["a".to_string(), "b".to_string()];
        assert_eq!(set().with_labels(vec![1, 0], names()).unwrap().labels(), Some(vec![1, 0]));
        assert!(set().with_labels(vec![1], names()).is_err());
        assert!(set().with_labels(vec![1, 2], names()).is_err());
    }
}
