//! What `readers::open` makes of folders and archives as people have them, good and bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use ssl_core::{Error, Result};
use ssl_vision::ImageDataset;
use ssl_vision::readers::{Options, Split, open};
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};

fn picture(value: u8, side: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(side, side, image::Rgb([value; 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A folder with pictures of 4x4 pixels: path and brightness.
fn folder(files: &[(&str, u8)]) -> TempDir {
    let root = tempdir().unwrap();
    for (name, value) in files {
        put(root.path(), name, &picture(*value, 4));
    }
    root
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn tar_of(root: &Path) -> TempDir {
    let out = tempdir().unwrap();
    let mut tar = tar::Builder::new(fs::File::create(out.path().join("images.tar")).unwrap());
    tar.append_dir_all("top", root).unwrap();
    tar.finish().unwrap();
    out
}

fn options(max_bad: f64) -> Options {
    Options { max_bad, ..Options::default() }
}

fn train(path: &Path) -> Result<Arc<dyn ImageDataset>> {
    open(path, Split::Train, &options(0.01))
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn values(set: &dyn ImageDataset) -> Vec<u8> {
    (0..set.len()).map(|index| set.image(index).unwrap().data()[0]).collect()
}

const SPLITS: [(&str, u8); 6] = [
    ("train/cat/b.png", 2),
    ("train/cat/a.png", 1),
    ("train/dog/c.PNG", 3),
    ("test/dog/d.png", 4),
    ("test/emu/e.png", 5),
    (".hidden/x/y.png", 9),
];

#[test]
fn folders_with_splits_and_classes_agree_with_the_tar_of_them() {
    let root = folder(&SPLITS);
    put(root.path(), "train/cat/notes.txt", b"no image");
    let tar = tar_of(root.path());
    for path in [root.path().to_path_buf(), tar.path().join("images.tar")] {
        let set = train(&path).unwrap();
        assert_eq!((values(&*set), set.labels()), (vec![1, 2, 3], Some(vec![0, 0, 1])), "{set:?}");
        assert_eq!((set.class_names().len(), set.size()), (2, Some((4, 4))));
        let test = open(&path, Split::Test, &options(0.0)).unwrap();
        // A class that training lacks comes behind those of training.
        assert_eq!((values(&*test), test.labels()), (vec![4, 5], Some(vec![1, 2])));
        assert_eq!(test.class_names(), ["cat", "dog", "emu"]);
        assert!(message(open(&path, Split::Unlabelled, &options(0.0))).contains("no unlabelled images"));
    }
}

#[test]
fn folders_without_classes_have_no_labels() {
    for files in [vec![("b.png", 2), ("a.png", 1)], vec![("one/a.png", 1), ("one/b.png", 2)]] {
        let root = folder(&files);
        let set = train(root.path()).unwrap();
        assert_eq!((values(&*set), set.labels()), (vec![1, 2], None));
        assert!(message(open(root.path(), Split::Test, &options(0.0))).contains("no test images"));
        let tar = tar_of(root.path());
        assert_eq!(values(&*train(&tar.path().join("images.tar")).unwrap()), [1, 2]);
    }
    let classes = folder(&[("x/a.png", 1), ("y/b.png", 2)]);
    assert_eq!(train(classes.path()).unwrap().labels(), Some(vec![0, 1]));
}

#[test]
fn sizes_that_differ_are_not_announced() {
    let root = folder(&[("a.png", 1)]);
    put(root.path(), "b.png", &picture(2, 5));
    let set = train(root.path()).unwrap();
    assert_eq!(set.size(), None);
    assert_eq!(set.image(1).unwrap().width(), 5);
}

#[test]
fn one_unreadable_image_in_a_thousand_is_replaced_within_its_class_and_named() {
    let root = tempdir().unwrap();
    let good = picture(7, 4);
    for index in 0..1000 {
        let class = if index < 500 { "a" } else { "b" };
        put(root.path(), &format!("{class}/{index:04}.png"), &good);
    }
    put(root.path(), "a/0498.png", &picture(1, 4));
    put(root.path(), "a/0499.png", &good[..good.len() / 2]);
    put(root.path(), "a/0000.png", &picture(3, 4));
    let set = train(root.path()).unwrap();
    assert_eq!(set.label(499), Some(0));
    // Behind the last image of class a comes its first.
    assert_eq!(set.skipped(), Vec::<String>::new());
    assert_eq!(set.image(499).unwrap().data()[0], 3);
    assert_eq!(set.image(499).unwrap().data()[0], 3);
    let skipped = set.skipped();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].contains("0499.png: "), "{skipped:?}");
    let strict = open(root.path(), Split::Train, &options(0.0005)).unwrap();
    let error = message(strict.image(499));
    assert!(error.contains("1 of 1000 images cannot be read, more than max_bad 0.0005 allows"), "{error}");
    assert!(error.contains("0499.png"), "{error}");
}

#[test]
fn nothing_known_says_what_was_looked_for() {
    let empty = tempdir().unwrap();
    assert!(message(train(empty.path())).contains("no images: looked for IDX files"));
    put(empty.path(), "readme.txt", b"hello");
    assert!(message(train(empty.path())).contains("train-images-idx3-ubyte"));
    assert!(message(train(&empty.path().join("none"))).contains("cannot read"));
    put(empty.path(), "some.bin", &[1, 2, 3, 4, 5]);
    assert!(message(train(&empty.path().join("some.bin"))).contains("expected magic 0x00000803"));
    put(empty.path(), "x.tar.gz", &[0; 9]);
    assert!(message(train(&empty.path().join("x.tar.gz"))).contains("inflate it first"));
    put(empty.path(), "x.tar", &[7; 1024]);
    assert!(message(train(&empty.path().join("x.tar"))).contains("expected a tar archive"));
}

#[test]
fn a_split_that_is_not_there_is_told_from_one_that_is_corrupt() {
    let test = |path: &Path| open(path, Split::Test, &options(0.0)).unwrap_err();
    let classes = folder(&[("x/a.png", 1), ("y/b.png", 2)]);
    let tar = tar_of(classes.path());
    let split = folder(&[("train/a.png", 1)]);
    let binary = tempdir().unwrap();
    put(binary.path(), "train-images-idx3-ubyte", &[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7]);
    train(binary.path()).unwrap();
    let file = binary.path().join("train-images-idx3-ubyte");
    for path in [classes.path(), &tar.path().join("images.tar"), split.path(), binary.path(), &file] {
        let error = test(path);
        assert!(matches!(error, Error::Absent { .. }), "{error}");
        assert!(error.to_string().contains("no test images"), "{error}");
    }
    put(split.path(), "test/b.png", b"no picture");
    assert!(matches!(test(split.path()), Error::Data { .. }));
    put(binary.path(), "t10k-images-idx3-ubyte", &[0, 0, 8, 3]);
    assert!(matches!(test(binary.path()), Error::Data { .. }));
    // What is not even a training set is not a set without a test set.
    let error = train(tempdir().unwrap().path()).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
}

#[test]
fn a_tar_that_breaks_off_is_an_error() {
    let root = folder(&SPLITS);
    let tar = tar_of(root.path());
    let path = tar.path().join("images.tar");
    let bytes = fs::read(&path).unwrap();
    let last = bytes.windows(4).rposition(|w| w == b"IHDR").unwrap();
    fs::write(&path, &bytes[..last + 4]).unwrap();
    assert!(message(train(&path)).contains("the archive is truncated"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_are_errors() {
    let root = folder(&[("real/a.png", 1), ("real/b.png", 2)]);
    std::os::unix::fs::symlink(root.path().join("real"), root.path().join("link")).unwrap();
    assert_eq!(values(&*train(root.path()).unwrap()), [1, 2, 1, 2]);
    std::os::unix::fs::symlink(root.path(), root.path().join("real/up")).unwrap();
    assert!(message(train(root.path())).contains("up"));
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let root = folder(&[("x/a.png", 1), ("y/b.png", 2)]);
    let closed = root.path().join("y");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // The administrator may read everything.
    if fs::read_dir(&closed).is_err() {
        assert!(message(train(root.path())).contains("y: cannot read"));
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn options_out_of_range_are_named() {
    let root = folder(&[("a.png", 1)]);
    assert!(message(open(root.path(), Split::Train, &options(1.5))).starts_with("max_bad: expected 0 to 1"));
    let five = Options { channels: 5, ..Options::default() };
    assert!(message(open(root.path(), Split::Train, &five)).starts_with("channels: expected 1 or 3"));
    let grey = Options { channels: 1, ..Options::default() };
    assert_eq!(open(root.path(), Split::Train, &grey).unwrap().image(0).unwrap().data(), [1; 16]);
}
