//! Fetching, verifying and removing, against a web server in this process and folders of the test's own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use ssl_datasets::{
    Action, Catalog, Dataset, Download, Error, FetchOptions, NoProgress, Progress, Result, Store,
};

/// How a path is served.
#[derive(Clone)]
enum Serve {
    /// With ranges.
    Whole(Vec<u8>),
    /// Ranges are ignored.
    WithoutRanges(Vec<u8>),
    /// The connection ends after so many bytes of each answer, though more were announced.
    CutAfter(usize, Vec<u8>),
}

/// A web server on a port of its own, which counts what it is asked for.
struct Server {
    base: String,
    pages: Arc<Mutex<HashMap<String, Serve>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let pages: Arc<Mutex<HashMap<String, Serve>>> = Arc::default();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (shared_pages, shared_requests) = (pages.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, requests) = (shared_pages.clone(), shared_requests.clone());
                std::thread::spawn(move || {
                    let _ = answer(stream, &pages, &requests);
                });
            }
        });
        Self { base, pages, requests }
    }

    fn put(&self, name: &str, serve: Serve) {
        self.pages.lock().unwrap().insert(format!("/{name}"), serve);
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Answers one request. Each content has a tag, so that `If-Range` tells one version from the next.
fn answer(
    stream: TcpStream,
    pages: &Mutex<HashMap<String, Serve>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let (mut range, mut if_range) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap();
        match name.to_lowercase().as_str() {
            "range" => {
                range = value.trim().strip_prefix("bytes=").unwrap().strip_suffix('-').map(str::to_owned)
            }
            "if-range" => if_range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    requests.lock().unwrap().push(format!("{path} {}", range.as_deref().unwrap_or("whole")));
    let page = pages.lock().unwrap().get(&path).cloned();
    let mut stream = stream;
    let (body, cut, ranges) = match page {
        None => {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Some(Serve::Whole(body)) => (body, usize::MAX, true),
        Some(Serve::WithoutRanges(body)) => (body, usize::MAX, false),
        Some(Serve::CutAfter(bytes, body)) => (body, bytes, true),
    };
    let tag = format!("\"{}\"", &sha256(&body)[..8]);
    let start =
        range.filter(|_| ranges && if_range.is_none_or(|t| t == tag)).map(|r| r.parse::<usize>().unwrap());
    let rest = &body[start.unwrap_or(0)..];
    let status = match start {
        Some(start) => {
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}", body.len() - 1, body.len())
        }
        None => "200 OK".to_owned(),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    )?;
    stream.write_all(&rest[..rest.len().min(cut)])
}

/// Remembers the notes.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: Action, _: &str, _: Option<u64>) {}
    fn advance(&self, _: Action, _: &str, _: u64) {}
    fn finish(&self, _: Action, _: &str) {}
    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

/// Bytes without a pattern, so that they do not compress away.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

fn dataset(artifacts: serde_json::Value, sources: serde_json::Value) -> Dataset {
    let text = json!({
        "name": "test-set", "title": "Test", "description": "A test.", "modality": "vision",
        "license": null, "license_note": null, "citation": null, "homepage": null,
        "format": "image-folder", "image": null, "mean": null, "std": null, "classes": [],
        "splits": [], "bytes": null, "artifacts": artifacts, "sources": sources,
    });
    Catalog::from_json([("test.json", text.to_string().as_str())]).unwrap().get("test-set").unwrap().clone()
}

/// An artifact `NAME.gz` that inflates to `content`, and is known by the hash of that.
fn file_artifact(name: &str, content: &[u8]) -> serde_json::Value {
    json!({
        "remote": format!("{name}.gz"), "download_bytes": null, "download_sha256": null,
        "content": { "kind": "file", "path": name, "packing": "gz", "bytes": content.len(), "sha256": sha256(content) },
    })
}

fn archive_artifact(bytes: &[u8]) -> serde_json::Value {
    json!({
        "remote": "set.tar.gz", "download_bytes": bytes.len(), "download_sha256": sha256(bytes),
        "content": { "kind": "archive", "path": "", "packing": "tar.gz", "max_bytes": 100_000, "max_entries": 10 },
    })
}

fn url(base: &str) -> serde_json::Value {
    json!([{ "kind": "url", "base": base }])
}

fn options() -> FetchOptions {
    FetchOptions { stall_timeout: Duration::from_secs(5), ..FetchOptions::default() }
}

fn with_mirror(folder: &Path) -> FetchOptions {
    FetchOptions { mirror: Some(folder.to_path_buf()), ..options() }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("store"));
    (folder, store)
}

/// Downloads to a folder of its own that may hold a part already.
fn download(server: &Server, folder: &Path, bytes: Option<u64>) -> Result<(bool, PathBuf)> {
    let (path, url) = (folder.join("file"), format!("{}/file", server.base));
    let second = Duration::from_secs(1);
    let request =
        Download { url: &url, path: &path, bytes, connect_timeout: second, stall_timeout: 5 * second };
    request.run(&NoProgress).map(|resumed| (resumed, path))
}

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

#[test]
fn wrong_content_leaves_nothing_and_says_what_was_expected() {
    let server = Server::start();
    let (_folder, store) = store();
    server.put("a.gz", Serve::Whole(gzip(b"evil")));
    let set = dataset(json!([file_artifact("a", b"good")]), url(&server.base));
    let message = store.fetch(&set, &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.contains(&format!("expected sha256 {}", sha256(b"good"))), "{message}");
    assert!(message.contains(&sha256(b"evil")) && !message.contains('\n'), "{message}");
    assert!(!store.is_present(&set) && !store.root().join("test-set").exists());
    // Once the server has the right file, the next fetch takes it.
    server.put("a.gz", Serve::Whole(gzip(b"good")));
    store.fetch(&set, &options(), &NoProgress).unwrap();
}

#[test]
fn damaged_gzip_is_an_error() {
    let server = Server::start();
    let (_folder, store) = store();
    let content = noise(10_000);
    let set = dataset(json!([file_artifact("a", &content)]), url(&server.base));
    let good = gzip(&content);
    let mut flipped = good.clone();
    flipped[5_000] ^= 0x10;
    for bad in [good[..5_000].to_vec(), flipped, b"<html>not found</html>".to_vec()] {
        server.put("a.gz", Serve::Whole(bad));
        let error = store.fetch(&set, &options(), &NoProgress).unwrap_err();
        assert!(matches!(error, Error::NoSource { .. }), "{error}");
        assert!(!store.is_present(&set));
    }
    let bomb = gzip(&vec![0; 10_000_000]);
    server.put("a.gz", Serve::Whole(bomb));
    let message = store.fetch(&set, &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("expected 10000 bytes inflated, got more"), "{message}");
}

#[test]
fn sources_are_tried_in_order_and_all_are_named_when_all_fail() {
    let server = Server::start();
    let (_folder, store) = store();
    // A port that nobody listens on.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sources = json!([
        { "kind": "url", "base": format!("http://{closed}") },
        { "kind": "url", "base": server.base },
    ]);
    let set = dataset(json!([file_artifact("a", b"good")]), sources);
    let message = store.fetch(&set, &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.contains(&closed.to_string()) && message.contains("404"), "{message}");
    assert!(message.contains("SSL_DATA_MIRROR to a folder that holds a.gz"), "{message}");

    server.put("a.gz", Serve::Whole(gzip(b"good")));
    let notes = Notes::default();
    store.fetch(&set, &options(), &notes).unwrap();
    let notes = notes.0.into_inner().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(&closed.to_string()), "{notes:?}");
    assert_eq!(store.verify(&set, &NoProgress).unwrap().sources, [server.base.as_str()]);
}

#[test]
fn offline_tries_the_mirror_alone() {
    let server = Server::start();
    let (folder, store) = store();
    server.put("a.gz", Serve::Whole(gzip(b"good")));
    let set = dataset(json!([file_artifact("a", b"good")]), url(&server.base));
    let offline = FetchOptions { offline: true, ..with_mirror(folder.path()) };
    let message = store.fetch(&set, &offline, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("not tried: offline"), "{message}");
    fs::write(folder.path().join("a"), b"good").unwrap();
    store.fetch(&set, &offline, &NoProgress).unwrap();
    assert!(server.requests().is_empty());
}

#[test]
fn a_mirror_comes_first_and_a_bad_one_is_passed_over() {
    let server = Server::start();
    let (folder, store) = store();
    let mirror = folder.path().join("mirror");
    fs::create_dir_all(mirror.join("test-set")).unwrap();
    fs::write(mirror.join("test-set/a.gz"), gzip(b"good")).unwrap();
    fs::write(mirror.join("b.gz"), gzip(b"evil")).unwrap();
    server.put("b.gz", Serve::Whole(gzip(b"also good")));
    let artifacts = json!([file_artifact("a", b"good"), file_artifact("b", b"also good")]);
    let set = dataset(artifacts, url(&server.base));
    let path = store.fetch(&set, &with_mirror(&mirror), &NoProgress).unwrap();
    assert_eq!(server.requests(), ["/b.gz whole"]);
    assert_eq!(fs::read(path.join("b")).unwrap(), b"also good");
    assert_eq!(fs::read(path.join("a")).unwrap(), b"good");
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
    // A file is missing: the next fetch replaces the whole.
    store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    assert!(store.verify(&set, &NoProgress).unwrap().is_intact());
}

#[test]
fn an_archive_with_another_hash_is_not_unpacked() {
    let (folder, store) = store();
    let bytes = tar_gz(&[("a", b"good")]);
    fs::write(folder.path().join("set.tar.gz"), tar_gz(&[("a", b"evil")])).unwrap();
    let set = dataset(json!([archive_artifact(&bytes)]), json!([]));
    let message = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap_err().to_string();
    assert!(message.contains(&sha256(&bytes)), "{message}");
    assert!(!store.is_present(&set));
}

#[test]
fn an_archive_that_grows_too_large_leaves_nothing() {
    let (folder, store) = store();
    let bytes = tar_gz(&[("a", &[0; 60_000]), ("b", &[0; 60_000])]);
    fs::write(folder.path().join("set.tar.gz"), &bytes).unwrap();
    let set = dataset(json!([archive_artifact(&bytes)]), json!([]));
    let message = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("more than the 100000 bytes"), "{message}");
    assert!(!store.is_present(&set) && !store.root().join(".work/test-set/tree").exists());
}

#[test]
fn content_without_a_hash_is_recorded_and_said_to_be_unverified() {
    let (folder, store) = store();
    fs::write(folder.path().join("a.gz"), gzip(b"some")).unwrap();
    let mut artifact = file_artifact("a", b"some");
    artifact["content"]["sha256"] = json!(null);
    let set = dataset(json!([artifact]), json!([]));
    assert!(!set.is_verifiable());
    let notes = Notes::default();
    let path = store.fetch(&set, &with_mirror(folder.path()), &notes).unwrap();
    assert!(notes.0.into_inner().unwrap()[0].contains("unverified source"));
    let report = store.verify(&set, &NoProgress).unwrap();
    assert!(report.is_intact() && !report.trusted);
    fs::write(path.join("a"), b"same").unwrap();
    assert!(!store.verify(&set, &NoProgress).unwrap().is_intact());
}

#[test]
fn the_hash_of_the_packed_file_serves_where_no_other_is_known() {
    let (folder, store) = store();
    let packed = gzip(b"some");
    let mut artifact = file_artifact("a", b"some");
    artifact["content"]["sha256"] = json!(null);
    artifact["download_sha256"] = json!(sha256(&packed));
    let set = dataset(json!([artifact]), json!([]));
    fs::write(folder.path().join("a.gz"), gzip(b"evil")).unwrap();
    assert!(store.fetch(&set, &with_mirror(folder.path()), &NoProgress).is_err());
    fs::write(folder.path().join("a.gz"), packed).unwrap();
    store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    assert!(store.verify(&set, &NoProgress).unwrap().trusted);
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
    let message = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("cannot ") && !message.contains('\n'), "{message}");
}
