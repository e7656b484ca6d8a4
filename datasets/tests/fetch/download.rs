//! One download: what it goes on with, and what it starts over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ssl_datasets::{Download, Error, NoProgress, Result};

use crate::server::{Serve, Server};
use crate::sets::noise;

/// Downloads to a folder of its own that may hold a part already.
fn download(server: &Server, folder: &Path, bytes: Option<u64>) -> Result<(bool, PathBuf)> {
    let (path, url) = (folder.join("file"), format!("{}/file", server.base));
    let second = Duration::from_secs(1);
    let request =
        Download { url: &url, path: &path, bytes, connect_timeout: second, stall_timeout: 5 * second };
    request.run(&NoProgress).map(|resumed| (resumed, path))
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let server = Server::start();
    let content = noise(100_000);
    server.put("file", Serve::CutAfter(40_000, content.clone()));
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = download(&server, folder.path(), Some(100_000)).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(server.requests(), ["/file whole", "/file 40000", "/file 80000"]);
}

#[test]
fn an_interrupted_download_is_resumed_by_the_next_run() {
    let server = Server::start();
    let content = noise(100_000);
    let folder = tempfile::tempdir().unwrap();
    // A server that stops answering ranges with anything leaves a part behind.
    server.put("file", Serve::CutAfter(0, content.clone()));
    assert!(download(&server, folder.path(), None).is_err());
    server.put("file", Serve::CutAfter(30_000, content.clone()));
    let part = folder.path().join("file.part");
    fs::write(&part, &content[..70_000]).unwrap();
    server.requests.lock().unwrap().clear();
    let (resumed, path) = download(&server, folder.path(), None).unwrap();
    assert!(resumed);
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(server.requests(), ["/file 70000"]);
    assert!(!part.exists() && !folder.path().join("file.part.json").exists());
}

#[test]
fn a_part_of_another_version_is_not_continued() {
    let server = Server::start();
    let (old, new) = (vec![1; 50_000], noise(50_000));
    let folder = tempfile::tempdir().unwrap();
    server.put("file", Serve::CutAfter(0, old.clone()));
    assert!(download(&server, folder.path(), None).is_err());
    fs::write(folder.path().join("file.part"), &old[..20_000]).unwrap();
    server.put("file", Serve::Whole(new.clone()));
    let (_, path) = download(&server, folder.path(), None).unwrap();
    assert_eq!(fs::read(path).unwrap(), new);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let server = Server::start();
    let content = noise(50_000);
    let folder = tempfile::tempdir().unwrap();
    server.put("file", Serve::CutAfter(0, content.clone()));
    assert!(download(&server, folder.path(), None).is_err());
    fs::write(folder.path().join("file.part"), &content[..20_000]).unwrap();
    server.put("file", Serve::WithoutRanges(content.clone()));
    let (_, path) = download(&server, folder.path(), None).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn a_part_of_unknown_origin_is_not_continued() {
    let server = Server::start();
    let content = noise(50_000);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file.part"), vec![9; 20_000]).unwrap();
    server.put("file", Serve::Whole(content.clone()));
    let (_, path) = download(&server, folder.path(), None).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn a_body_that_stays_truncated_is_an_error() {
    let server = Server::start();
    server.put("file", Serve::CutAfter(0, noise(1000)));
    let folder = tempfile::tempdir().unwrap();
    let message = download(&server, folder.path(), None).unwrap_err().to_string();
    assert!(message.contains("broke off after 0 of 1000 bytes"), "{message}");
    assert!(!folder.path().join("file").exists());
}

#[test]
fn a_file_of_another_size_is_refused_before_it_is_downloaded() {
    let server = Server::start();
    server.put("file", Serve::Whole(noise(1000)));
    let folder = tempfile::tempdir().unwrap();
    let error = download(&server, folder.path(), Some(999)).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("expected 999 bytes, got 1000 bytes"), "{error}");
}
