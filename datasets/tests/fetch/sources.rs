//! Sources: their order, and what is not taken from them.

use std::fs;

use serde_json::json;
use ssl_datasets::{Error, FetchOptions, NoProgress};

use crate::server::{Serve, Server};
use crate::sets::{
    Notes, archive_artifact, dataset, file_artifact, folder_artifact, gzip, noise, options, sha256, store,
    tar_gz, url, with_mirror,
};

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
    // A port that nobody listens on, and that the system gives to nobody.
    let closed = "127.0.0.1:1";
    let sources = json!([
        { "kind": "url", "base": format!("http://{closed}") },
        { "kind": "url", "base": server.base },
    ]);
    let set = dataset(json!([file_artifact("a", b"good")]), sources);
    let notes = Notes::default();
    let message = store.fetch(&set, &options(), &notes).unwrap_err().to_string();
    assert!(message.contains(closed) && message.contains("404"), "{message}");
    let notes = notes.0.into_inner().unwrap();
    assert!(notes.len() == 1 && !notes[0].contains("404"), "the last failure is the error alone: {notes:?}");
    assert!(message.contains("SSL_DATA_MIRROR to a folder that holds a.gz"), "{message}");

    server.put("a.gz", Serve::Whole(gzip(b"good")));
    let notes = Notes::default();
    store.fetch(&set, &options(), &notes).unwrap();
    let notes = notes.0.into_inner().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(closed), "{notes:?}");
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
fn a_mirror_that_is_not_there_is_said_to_be_missing() {
    let (folder, store) = store();
    let set = dataset(json!([file_artifact("a", b"good")]), json!([]));
    let options = with_mirror(&folder.path().join("typo"));
    let message = store.fetch(&set, &options, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("typo (no such folder)"), "{message}");
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
fn a_folder_comes_with_all_its_files_but_those_that_are_artifacts_of_their_own() {
    let (folder, store) = store();
    let mut held_out = file_artifact("b", b"held out");
    held_out["remote"] = json!("speaker/words/b");
    held_out["content"]["path"] = json!("test/b");
    held_out["content"]["packing"] = json!("none");
    let train: [(&str, &[u8]); 2] = [("a", b"one"), ("words/c", b"three")];
    let set = dataset(json!([folder_artifact("speaker", "train", &train), held_out]), json!([]));
    let message = store.fetch(&set, &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.ends_with("SSL_DATA_MIRROR to a folder that holds speaker"), "{message}");

    let speaker = folder.path().join("speaker");
    fs::create_dir_all(speaker.join("words")).unwrap();
    for (path, content) in [("a", "one"), ("words/b", "held out"), ("words/c", "threw")] {
        fs::write(speaker.join(path), content).unwrap();
    }
    let message = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("of its list of files"), "{message}");
    assert!(!store.is_present(&set) && !store.root().join(".work/test-set").exists());

    fs::write(speaker.join("words/c"), "three").unwrap();
    let path = store.fetch(&set, &with_mirror(folder.path()), &NoProgress).unwrap();
    let report = store.verify(&set, &NoProgress).unwrap();
    assert!(report.is_intact() && report.trusted && report.files == 3, "{report:?}");
    assert_eq!(fs::read(path.join("train/words/c")).unwrap(), b"three");
    assert_eq!(fs::read(path.join("test/b")).unwrap(), b"held out");
    assert!(!path.join("train/words/b").exists());
    fs::write(path.join("train/a"), b"two").unwrap();
    assert_eq!(store.verify(&set, &NoProgress).unwrap().problems.len(), 1);
}
