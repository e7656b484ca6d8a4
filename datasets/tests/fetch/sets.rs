//! Data sets, their bytes, and stores to fetch them into.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use ssl_datasets::{Action, Catalog, Dataset, FetchOptions, Progress, Store};

/// Remembers the notes.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: Action, _: &str, _: Option<u64>) {}
    fn advance(&self, _: Action, _: &str, _: u64) {}
    fn finish(&self, _: Action, _: &str) {}
    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
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
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

pub(crate) fn dataset(artifacts: serde_json::Value, sources: serde_json::Value) -> Dataset {
    let text = json!({
        "name": "test-set", "title": "Test", "description": "A test.", "modality": "vision",
        "license": null, "license_note": null, "citation": null, "homepage": null,
        "format": "image-folder", "image": null, "mean": null, "std": null, "classes": [],
        "splits": [], "bytes": null, "artifacts": artifacts, "sources": sources,
    });
    Catalog::from_json([("test.json", text.to_string().as_str())]).unwrap().get("test-set").unwrap().clone()
}

/// An artifact `NAME.gz` that inflates to `content`, and is known by the hash of that.
pub(crate) fn file_artifact(name: &str, content: &[u8]) -> serde_json::Value {
    json!({
        "remote": format!("{name}.gz"), "download_bytes": null, "download_sha256": null,
        "content": { "kind": "file", "path": name, "packing": "gz", "bytes": content.len(), "sha256": sha256(content) },
    })
}

pub(crate) fn archive_artifact(bytes: &[u8]) -> serde_json::Value {
    json!({
        "remote": "set.tar.gz", "download_bytes": bytes.len(), "download_sha256": sha256(bytes),
        "content": { "kind": "archive", "path": "", "packing": "tar.gz", "max_bytes": 100_000, "max_entries": 10 },
    })
}

/// A folder `NAME` that is known by the hash of its list of files.
pub(crate) fn folder_artifact(name: &str, path: &str, files: &[(&str, &[u8])]) -> serde_json::Value {
    let line = |(name, content): &(&str, &[u8])| format!("{}  {name}\n", sha256(content));
    let list: String = files.iter().map(line).collect();
    let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
    json!({
        "remote": name, "download_bytes": null, "download_sha256": null,
        "content": {
            "kind": "folder", "path": path, "files": files.len(), "bytes": bytes, "sha256": sha256(list.as_bytes()),
        },
    })
}

pub(crate) fn url(base: &str) -> serde_json::Value {
    json!([{ "kind": "url", "base": base }])
}

pub(crate) fn options() -> FetchOptions {
    FetchOptions { stall_timeout: Duration::from_secs(5), ..FetchOptions::default() }
}

pub(crate) fn with_mirror(folder: &Path) -> FetchOptions {
    FetchOptions { mirror: Some(folder.to_path_buf()), ..options() }
}

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("store"));
    (folder, store)
}
