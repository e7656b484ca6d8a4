//! The binary version of STL-10.
//!
//! Source: Coates, Ng, Lee, 2011, "STL-10 dataset": <https://cs.stanford.edu/~acoates/stl10/>.
use super::array::ImageArray;
use super::bytes;
use ssl_core::{Error, Result};
use std::path::Path;

const SIDE: usize = 96;
const PIXELS: usize = SIDE * SIDE * 3;
/// The largest file that is read, in bytes.
const LIMIT: u64 = 4 << 30;
const CLASSES: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Reads a file of images and, when given, the file of their labels.
///
/// # Errors
/// `Error::Io` when a file cannot be read; `Error::Data` when it is truncated or of another format.
pub fn read_stl10(images: &Path, labels: Option<&Path>) -> Result<ImageArray> {
    let mut data = bytes::read(images, LIMIT)?;
    if data.is_empty() || !data.len().is_multiple_of(PIXELS) {
        return Err(Error::data(
            images,
            format!("expected a positive multiple of {PIXELS} bytes (96x96 RGB), found {}", data.len()),
        ));
    }
    let mut planes = Vec::with_capacity(PIXELS);
    for image in data.chunks_exact_mut(PIXELS) {
        planes.clear();
        planes.extend_from_slice(image);
        transpose(&planes, image);
    }
    let count = data.len() / PIXELS;
    let set = ImageArray::new(SIDE, SIDE, 3, data)?;
    let Some(path) = labels else { return Ok(set) };
    let classes = bytes::read(path, LIMIT)?;
    if classes.len() != count {
        return Err(Error::data(path, format!("expected {count} labels, found {}", classes.len())));
    }
    if let Some((index, class)) = classes.iter().enumerate().find(|(_, class)| !(1..=10).contains(*class)) {
        return Err(Error::data(
            path,
            format!("offset {index}: expected a label from 1 to 10, found {class}"),
        ));
    }
    let classes = classes.into_iter().map(|class| i64::from(class) - 1).collect();
    set.with_labels(classes, CLASSES.map(String::from).to_vec())
}

/// From planes of columns to rows of pixels.
fn transpose(planes: &[u8], image: &mut [u8]) {
    let area = SIDE * SIDE;
    for (at, pixel) in image.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let from = at % SIDE * SIDE + at / SIDE;
        let value = |plane: usize| planes.get(plane * area + from).copied().unwrap_or_default();
        *pixel = [value(0), value(1), value(2)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageDataset;
    use std::fs;

    #[test]
    fn columns_become_rows_and_labels_begin_at_0() {
        let folder = tempfile::tempdir().unwrap();
        let (x, y) = (folder.path().join("train_X.bin"), folder.path().join("train_y.bin"));
        // Each plane counts its columns, red from 0, green from 100, blue from 150.
        let planes =
            [0, 100, 150].into_iter().flat_map(|base| (0..SIDE * SIDE).map(move |i| (base + i / SIDE) as u8));
        fs::write(&x, planes.collect::<Vec<u8>>()).unwrap();
        fs::write(&y, [10]).unwrap();
        let set = read_stl10(&x, Some(&y)).unwrap();
        assert_eq!(set.image(0).unwrap().data()[..6], [0, 100, 150, 1, 101, 151]);
        assert_eq!(set.label(0), Some(9));
        fs::write(&y, [0]).unwrap();
        assert!(
            read_stl10(&x, Some(&y)).unwrap_err().to_string().contains("offset 0: expected a label from 1")
        );
        fs::write(&x, [0; 100]).unwrap();
        assert!(read_stl10(&x, None).unwrap_err().to_string().contains("multiple of 27648"));
    }
}
