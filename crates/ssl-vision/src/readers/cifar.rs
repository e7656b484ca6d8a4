//! The binary versions of CIFAR-10 and CIFAR-100.
//!
//! Source: Krizhevsky, "The CIFAR-10 dataset", section "Binary version":
//! <https://www.cs.toronto.edu/~kriz/cifar.html>.
use super::array::ImageArray;
use super::bytes;
use ssl_core::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE * 3;
/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 30;
const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Reads the images of CIFAR-10's binary files, in order.
///
/// # Errors
/// `Error::Io` when a file cannot be read; `Error::Data` when it is no whole number of records or holds a label
/// out of range.
pub fn read_cifar10(files: &[PathBuf]) -> Result<ImageArray> {
    read(files, 1, CIFAR10.map(String::from).to_vec())
}

/// Reads the images of CIFAR-100's binary files, in order, with the fine labels; the names of the classes come
/// from `fine_label_names.txt` beside the first file, where it is.
///
/// # Errors
/// As [`read_cifar10`].
pub fn read_cifar100(files: &[PathBuf]) -> Result<ImageArray> {
    let beside = files.first().map(|file| file.with_file_name("fine_label_names.txt"));
    let text = beside.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let names: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(String::from).collect();
    let numbers = || (0..100).map(|class: u8| class.to_string()).collect();
    read(files, 2, if names.len() == 100 { names } else { numbers() })
}

/// Records of `labels` label bytes, of which the last counts, and planes of red, green and blue.
fn read(files: &[PathBuf], labels: usize, names: Vec<String>) -> Result<ImageArray> {
    let (mut data, mut classes) = (Vec::new(), Vec::new());
    for path in files {
        let bytes = bytes::read(path, LIMIT)?;
        let record = labels + PIXELS;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(Error::data(
                path,
                format!(
                    "expected a positive multiple of {record} bytes ({labels} label, 32x32 red, green, blue), \
                     found {}: the file is truncated or another format",
                    bytes.len()
                ),
            ));
        }
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let (head, planes) = record.split_at(labels);
            let class = head.last().copied().map_or(0, i64::from);
            if class >= names.len() as i64 {
                return Err(Error::data(
                    path,
                    format!("record {index}: expected a label below {}, found {class}", names.len()),
                ));
            }
            classes.push(class);
            interleave(planes, &mut data);
        }
    }
    ImageArray::new(SIDE, SIDE, 3, data)?.with_labels(classes, names)
}

/// Appends planes of red, green and blue, pixel by pixel.
fn interleave(planes: &[u8], out: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(rest.len() / 2);
    out.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
}

/// The files of a split of CIFAR-10, by their standard names.
pub(crate) fn find10(folder: &Path, train: bool) -> Option<Vec<PathBuf>> {
    let names: &[&str] = if train {
        &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
    } else {
        &["test_batch.bin"]
    };
    let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    files.first().is_some_and(|file| file.is_file()).then_some(files)
}

/// The file of a split of CIFAR-100, by its standard name.
pub(crate) fn find100(folder: &Path, train: bool) -> Option<Vec<PathBuf>> {
    let file = folder.join(if train { "train.bin" } else { "test.bin" });
    file.is_file().then(|| vec![file])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageDataset;

    fn record(head: &[u8]) -> Vec<u8> {
        let planes = [1_u8, 2, 3].into_iter().flat_map(|value| [value; SIDE * SIDE]);
        head.iter().copied().chain(planes).collect()
    }

    #[test]
    fn planes_become_pixels_and_the_fine_label_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("train.bin");
        fs::write(&file, [record(&[5, 99]), record(&[0, 7])].concat()).unwrap();
        let set = read_cifar100(&find100(folder.path(), true).unwrap()).unwrap();
        assert_eq!(set.labels(), Some(vec![99, 7]));
        assert_eq!(set.image(1).unwrap().data()[..6], [1, 2, 3, 1, 2, 3]);
        assert!(find100(folder.path(), false).is_none());
    }

    #[test]
    fn faults_say_record_and_length() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test_batch.bin");
        let files = [file.clone()];
        fs::write(&file, [record(&[3]), record(&[10])].concat()).unwrap();
        let message = read_cifar10(&files).unwrap_err().to_string();
        assert!(message.contains("record 1: expected a label below 10, found 10"), "{message}");
        fs::write(&file, &record(&[3])[..3000]).unwrap();
        assert!(read_cifar10(&files).unwrap_err().to_string().contains("multiple of 3073 bytes"));
    }
}
