//! The store: complete or absent, whatever happens.

use std::fs;

use serde_json::json;
use ssl_datasets::{Error, NoProgress, Store};

use crate::server::{Serve, Server};
use crate::sets::{
    Notes, archive_artifact, dataset, file_artifact, gzip, noise, options, sha256, store, tar_gz, url,
    with_mirror,
};

#[test]
fn files_are_inflated_checked_and_stored() {
    let server = Server::start();
    let (_folder, store) = store();
    let contents = [("a", noise(300_000)), ("b", b"tiny".to_vec())];
    for (name, content) in &contents {
        server.put(&format!("{name}.gz"), Serve::Whole(gzip(content)));
    }
    let artifacts: Vec<_> = contents.iter().map(|(name, content)| file_artifact(name, content)).collect();
    let set = dataset(json!(artifacts), url(&server.base));
    assert!(matches!(store.path(&set), Err(Error::Absent { .. })));
    let path = store.fetch(&set, &options(), &NoProgress).unwrap();
    assert_eq!(path, store.path(&set).unwrap());
    for (name, content) in &contents {
        assert_eq!(&fs::read(path.join(name)).unwrap(), content);
    }
    let report = store.verify(&set, &NoProgress).unwrap();
    assert!(report.is_intact() && report.trusted, "{report:?}");
    assert_eq!((report.files, report.bytes), (2, 300_004));
    assert!(!store.root().join(".work/test-set").exists(), "nothing unfinished stays");

    let before = server.requests().len();
    store.fetch(&set, &options(), &NoProgress).unwrap();
    assert_eq!(server.requests().len(), before, "what is there is not fetched again");

    assert!(store.remove(&set).unwrap() >= 300_004);
    assert!(!path.exists() && matches!(store.remove(&set), Err(Error::Absent { .. })));
}

#[test]
fn an_archive_is_unpacked_and_its_files_are_verified_later() {
    let (folder, store) = store();
    let bytes = tar_gz(&[("train/cat/0.jpg", b"cat"), ("train/dog/0.jpg", b"dog")]);
    fs::write(folder.path().join("set.tar.gz"), &bytes).unwrap();
    let set = dataset(json!([archive_artifact(&bytes)]), json!([]));
    let path = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    assert!(store.verify(&set, &NoProgress).unwrap().is_intact());

    fs::write(path.join("train/cat/0.jpg"), b"cow").unwrap();
    fs::remove_file(path.join("train/dog/0.jpg")).unwrap();
    let report = store.verify(&set, &NoProgress).unwrap();
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            format!("train/cat/0.jpg: expected sha256 {}, found {}", sha256(b"cat"), sha256(b"cow")),
            "train/dog/0.jpg: expected 3 bytes, found missing".to_owned(),
        ]
    );
    // A file is missing: the next fetch replaces the whole, and says so.
    let notes = Notes::default();
    store.fetch(&set, &with_mirror(folder.path()), &notes).unwrap();
    assert_eq!(notes.0.into_inner().unwrap(), ["test-set: files are missing or cut; it is fetched anew"]);
    assert!(store.verify(&set, &NoProgress).unwrap().is_intact());
}

#[test]
fn a_folder_that_no_fetch_made_is_left_alone() {
    let (folder, store) = store();
    fs::write(folder.path().join("a"), b"good").unwrap();
    let set = dataset(json!([file_artifact("a", b"good")]), json!([]));
    let own = store.root().join("test-set");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("mine.txt"), b"years of work").unwrap();
    let options = with_mirror(folder.path());
    assert!(matches!(store.fetch(&set, &options, &NoProgress), Err(Error::Foreign { .. })));
    assert!(matches!(store.remove(&set), Err(Error::Foreign { .. })));
    assert!(matches!(store.path(&set), Err(Error::Foreign { .. })));
    assert_eq!(fs::read(own.join("mine.txt")).unwrap(), b"years of work");
}

#[test]
fn what_an_interrupted_fetch_left_is_not_present_and_does_not_disturb() {
    let (folder, store) = store();
    fs::write(folder.path().join("a"), b"good").unwrap();
    let set = dataset(json!([file_artifact("a", b"good")]), json!([]));
    // As if killed just before the rename, and half-way through a removal.
    let work = store.root().join(".work/test-set");
    for inner in ["tree", "old", "package/tree", "unpacked-0"] {
        fs::create_dir_all(work.join(inner)).unwrap();
        fs::write(work.join(inner).join("a"), b"half").unwrap();
    }
    fs::write(work.join("tree/.manifest.json"), b"{").unwrap();
    assert!(!store.is_present(&set));
    let path = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"good");
    assert!(!work.exists());
}

#[test]
fn a_manifest_that_cannot_be_read_says_what_to_do() {
    let (folder, store) = store();
    fs::write(folder.path().join("a"), b"good").unwrap();
    let set = dataset(json!([file_artifact("a", b"good")]), json!([]));
    let path = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    fs::write(path.join(".manifest.json"), b"{}").unwrap();
    let message = store.verify(&set, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("cargo xtask data remove test-set"), "{message}");
}

#[test]
fn fetches_at_once_all_succeed_and_download_once() {
    let server = Server::start();
    let (_folder, store) = store();
    let content = noise(200_000);
    server.put("a.gz", Serve::Whole(gzip(&content)));
    let set = dataset(json!([file_artifact("a", &content)]), url(&server.base));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.fetch(&set, &options(), &NoProgress).unwrap());
        }
    });
    assert_eq!(server.requests(), ["/a.gz whole"]);
    assert!(store.verify(&set, &NoProgress).unwrap().is_intact());
}

#[test]
fn a_store_that_cannot_be_written_is_one_clear_line() {
    let (folder, _) = store();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    fs::write(folder.path().join("a"), b"good").unwrap();
    let store = Store::new(file.join("store"));
    let set = dataset(json!([file_artifact("a", b"good")]), json!([]));
    let error = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let message = error.to_string();
    assert!(message.contains("cannot read") && !message.contains('\n'), "{message}");
    assert!(cause.contains("Not a directory") && !message.contains(&cause), "said once: {message}: {cause}");
}

#[test]
fn a_fetch_that_got_nothing_leaves_nothing_to_remove() {
    let server = Server::start();
    let (_folder, store) = store();
    let set = dataset(json!([file_artifact("a", b"good")]), url(&server.base));
    assert!(store.fetch(&set, &options(), &NoProgress).is_err());
    assert!(!store.root().join(".work/test-set").exists());
    assert!(matches!(store.remove(&set), Err(Error::Absent { .. })));
}

#[test]
fn what_a_failed_fetch_downloaded_stays_for_the_next() {
    let server = Server::start();
    let (_folder, store) = store();
    let content = noise(50_000);
    let packed = gzip(&content);
    let set = dataset(json!([file_artifact("a", &content)]), url(&server.base));
    server.put("a.gz", Serve::CutAfter(0, packed.clone()));
    assert!(store.fetch(&set, &options(), &NoProgress).is_err());
    // As if the connection had broken later.
    fs::write(store.root().join(".work/test-set/downloads/a.gz.part"), &packed[..20_000]).unwrap();
    server.put("a.gz", Serve::Whole(packed));
    store.fetch(&set, &options(), &NoProgress).unwrap();
    assert_eq!(server.requests().last().map(String::as_str), Some("/a.gz 20000"));
}
