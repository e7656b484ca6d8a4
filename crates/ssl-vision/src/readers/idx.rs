//! IDX files, plain or gzip: MNIST, Fashion-MNIST, KMNIST and their kind.
//!
//! Source: LeCun, Cortes, Burges, "The MNIST database", section "File formats".
use super::array::ImageArray;
use super::bytes;
use ssl_core::{Error, Result};
use std::path::{Path, PathBuf};

/// The largest IDX file that is read, in inflated bytes.
const LIMIT: u64 = 8 << 30;
const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// Reads a file of grey images and, when given, the file of their labels.
///
/// # Errors
/// `Error::Io` when a file cannot be read; `Error::Data` when it is not IDX, truncated, corrupt, empty, or the
/// two files disagree in their number of examples.
pub fn read_idx(images: &Path, labels: Option<&Path>) -> Result<ImageArray> {
    let (sides, pixels) = read_block::<3>(images, IMAGES, "images (unsigned bytes in 3 dimensions)")?;
    let [count, height, width] = sides;
    if count == 0 || height == 0 || width == 0 {
        return Err(Error::data(
            images,
            format!("expected at least one image of one pixel, found {count} of {width}x{height}"),
        ));
    }
    let set = ImageArray::new(width, height, 1, pixels)?;
    let Some(path) = labels else { return Ok(set) };
    let ([labelled], labels) = read_block::<1>(path, LABELS, "labels (unsigned bytes in 1 dimension)")?;
    if labelled != count {
        return Err(Error::data(
            path,
            format!("expected {count} labels (the images in {}), found {labelled}", images.display()),
        ));
    }
    let classes = labels.iter().max().map_or(0, |&label| usize::from(label) + 1);
    let names = (0..classes).map(|class| class.to_string()).collect();
    set.with_labels(labels.into_iter().map(i64::from).collect(), names)
}

/// The dimensions and the bytes behind them.
fn read_block<const D: usize>(path: &Path, magic: u32, what: &str) -> Result<([usize; D], Vec<u8>)> {
    let mut file = bytes::read(path, LIMIT)?;
    let header = 4 + 4 * D;
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?)) };
    let truncated =
        || Error::data(path, format!("expected a header of {header} bytes, found {} bytes", file.len()));
    let found = word(0).ok_or_else(truncated)?;
    if found != magic {
        return Err(Error::data(
            path,
            format!("offset 0: expected magic {magic:#010x} (IDX, {what}), found {found:#010x}"),
        ));
    }
    let mut sides = [0; D];
    for (index, side) in sides.iter_mut().enumerate() {
        *side = word(4 + 4 * index).ok_or_else(truncated)? as usize;
    }
    let size = sides.iter().try_fold(1_usize, |size, &side| size.checked_mul(side));
    let expected = size.and_then(|size| size.checked_add(header));
    if expected != Some(file.len()) {
        return Err(Error::data(
            path,
            format!(
                "expected {} bytes for dimensions {sides:?} behind a header of {header}, found {}: \
                 the file is truncated or corrupt",
                expected.map_or("too many".to_string(), |n| n.to_string()),
                file.len()
            ),
        ));
    }
    file.drain(..header);
    Ok((sides, file))
}

/// The files of one split by their standard names: images, and labels when there are any.
pub(crate) fn find(folder: &Path, prefixes: &[&str]) -> Option<(PathBuf, Option<PathBuf>)> {
    let file = |prefix: &str, kind: &str| {
        let names = [".gz", ""].into_iter().flat_map(|end| {
            ["-", "."].map(|dot| format!("{prefix}-{kind}{end}").replacen("-idx", &format!("{dot}idx"), 1))
        });
        names.map(|name| folder.join(name)).find(|path| path.is_file())
    };
    prefixes
        .iter()
        .find_map(|prefix| Some((file(prefix, "images-idx3-ubyte")?, file(prefix, "labels-idx1-ubyte"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageDataset;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;
    use std::io::Write;

    fn idx(magic: u32, sides: &[u32], data: &[u8]) -> Vec<u8> {
        let head = std::iter::once(magic).chain(sides.iter().copied()).flat_map(u32::to_be_bytes);
        head.chain(data.iter().copied()).collect()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn message(images: &[u8], labels: Option<&[u8]>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("images"), folder.path().join("labels"));
        fs::write(&a, images).unwrap();
        let labels = labels.map(|bytes| {
            fs::write(&b, bytes).unwrap();
            b.as_path()
        });
        match read_idx(&a, labels) {
            Ok(set) => format!("{set:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn plain_and_gzip_files_read_alike() {
        let images = idx(IMAGES, &[2, 2, 3], &[7; 12]);
        let labels = idx(LABELS, &[2], &[1, 0]);
        let plain = message(&images, Some(&labels));
        assert_eq!(plain, "ImageArray(2 of 3x2x1, 2 classes)");
        assert_eq!(message(&gz(&images), Some(&gz(&labels))), plain);
    }

    #[test]
    fn faults_are_named_with_place_expected_and_found() {
        let good = idx(IMAGES, &[2, 2, 3], &[7; 12]);
        let case = |bytes: &[u8], part: &str| {
            let message = message(bytes, None);
            assert!(message.contains(part), "{message}");
        };
        case(&[], "expected a header of 16 bytes, found 0");
        case(&good[..20], "expected 28 bytes");
        case(&idx(LABELS, &[2], &[1, 0]), "offset 0: expected magic 0x00000803");
        case(&idx(IMAGES, &[0, 28, 28], &[]), "found 0 of 28x28");
        case(&idx(IMAGES, &[u32::MAX; 3], &[]), "too many");
        let packed = gz(&(0..255).cycle().take(9000).collect::<Vec<u8>>());
        case(&packed[..packed.len() - 20], "gzip stream is truncated or corrupt");
        let mut flipped = gz(&good);
        let middle = flipped.len() - 6;
        flipped[middle] ^= 1;
        case(&flipped, "gzip stream is truncated or corrupt");
        let labels = idx(LABELS, &[3], &[1, 0, 1]);
        assert!(message(&good, Some(&labels)).contains("expected 2 labels"));
    }

    #[test]
    fn standard_names_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte", "t10k-images.idx3-ubyte"] {
            fs::write(folder.path().join(name), []).unwrap();
        }
        let (images, labels) = find(folder.path(), &["train"]).unwrap();
        assert!(images.ends_with("train-images-idx3-ubyte.gz"));
        assert!(labels.unwrap().ends_with("train-labels-idx1-ubyte"));
        assert!(find(folder.path(), &["test", "t10k"]).unwrap().1.is_none());
        assert!(find(folder.path(), &["test"]).is_none());
    }

    #[test]
    fn labels_of_a_set_are_numbers_as_names() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("i"), folder.path().join("l"));
        fs::write(&a, idx(IMAGES, &[2, 1, 1], &[7, 8])).unwrap();
        fs::write(&b, idx(LABELS, &[2], &[2, 0])).unwrap();
        let set = read_idx(&a, Some(&b)).unwrap();
        assert_eq!(set.class_names(), ["0", "1", "2"]);
        assert_eq!(set.label(0), Some(2));
    }
}
