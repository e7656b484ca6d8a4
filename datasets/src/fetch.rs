//! One fetch: goes through the sources in order until every artifact lies in the staging folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::catalog::{Artifact, Content, Dataset, Packing, Source};
use crate::download::Download;
use crate::error::{Error, Result, SourceFailure};
use crate::folder::{Folder, merge};
use crate::hash::{Digested, hash_file, write_hashed};
use crate::inflate::{corrupt, open_inflated};
use crate::manifest::{Entry, Manifest};
use crate::package::Package;
use crate::progress::{Action, Progress};
use crate::store::FetchOptions;
use crate::unpack::{Limits, Unpack};

/// A fetch at work.
pub(crate) struct Fetch<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) options: &'a FetchOptions,
    pub(crate) progress: &'a dyn Progress,
    /// The folder for what is unfinished, on the same disk as the store.
    pub(crate) work: &'a Path,
}

/// An artifact that lies in the staging folder.
struct Staged {
    index: usize,
    files: Vec<Entry>,
    /// Whether a hash of the catalog vouched for it.
    trusted: bool,
    source: String,
}

/// Why the artifacts are not all there yet.
#[derive(Default)]
struct Failures(Vec<SourceFailure>);

impl Failures {
    fn add(&mut self, source: String, reason: String) {
        // Four files that fail for one reason are one failure.
        if !self.0.iter().any(|f| f.source == source) {
            self.0.push(SourceFailure { source, reason });
        }
    }
}

impl Fetch<'_> {
    /// Brings every artifact into the folder `work/tree`, and returns it and its manifest.
    pub(crate) fn run(&self) -> Result<(PathBuf, Manifest)> {
        let tree = self.work.join("tree");
        clear(&tree)?;
        fs::create_dir_all(&tree).map_err(|e| Error::io(&tree, "create", e))?;
        let mut staged: Vec<Staged> = Vec::new();
        let mut failures = Failures::default();
        let mut noted = 0;
        if let Some(mirror) = &self.options.mirror {
            staged.extend(self.take_from_mirror(mirror, &tree, &mut failures)?);
        }
        for source in &self.dataset.sources {
            let pending: Vec<usize> =
                (0..self.dataset.artifacts.len()).filter(|i| staged.iter().all(|s| s.index != *i)).collect();
            if pending.is_empty() {
                break;
            }
            if self.options.offline {
                failures.add(source.to_string(), "not tried: offline".to_owned());
                continue;
            }
            // Of the last source's failure the error tells.
            self.note_failures(failures.0.get(noted..));
            noted = failures.0.len();
            staged.extend(match source {
                Source::Url { base } => self.take_from_url(base, &pending, &tree, &mut failures)?,
                _ => self.take_from_package(source, &pending, &tree, &mut failures)?,
            });
        }
        if staged.len() < self.dataset.artifacts.len() {
            return Err(self.no_source(failures));
        }
        Ok((tree, self.manifest(staged)))
    }

    fn note_failures(&self, failures: Option<&[SourceFailure]>) {
        for failure in failures.unwrap_or_default() {
            let (name, source, reason) = (&self.dataset.name, &failure.source, &failure.reason);
            self.progress.note(&format!("{name}: {source} does not serve ({reason})"));
        }
    }

    fn manifest(&self, staged: Vec<Staged>) -> Manifest {
        let mut sources: Vec<String> = Vec::new();
        let mut files = Vec::new();
        let trusted = staged.iter().all(|s| s.trusted);
        for artifact in staged {
            if !artifact.trusted {
                let remote = self.dataset.artifacts.get(artifact.index).map_or("", |a| &a.remote);
                self.progress.note(&format!(
                    "{}: unverified source: no hash of {remote} is known; it is recorded as it came from {}",
                    self.dataset.name, artifact.source
                ));
            }
            if !sources.contains(&artifact.source) {
                sources.push(artifact.source);
            }
            files.extend(artifact.files);
        }
        Manifest::new(&self.dataset.name, sources, trusted, files)
    }

    fn no_source(&self, failures: Failures) -> Error {
        let artifacts = &self.dataset.artifacts;
        let folders: Vec<String> =
            artifacts.iter().filter(|a| a.is_folder()).map(|a| format!("{}/", a.remote)).collect();
        let in_folder = |remote: &str| folders.iter().any(|folder| remote.starts_with(folder));
        let remotes: Vec<&str> =
            artifacts.iter().map(|a| a.remote.as_str()).filter(|remote| !in_folder(remote)).collect();
        let start = if self.dataset.sources.is_empty() { "set" } else { "check the network, or set" };
        let advice = format!("{start} SSL_DATA_MIRROR to a folder that holds {}", remotes.join(", "));
        Error::NoSource { name: self.dataset.name.clone(), failures: failures.0, advice }
    }

    /// Takes what a folder on this machine holds.
    fn take_from_mirror(&self, mirror: &Path, tree: &Path, failures: &mut Failures) -> Result<Vec<Staged>> {
        let all: Vec<usize> = (0..self.dataset.artifacts.len()).collect();
        let source = format!("mirror {}", mirror.display());
        if !mirror.is_dir() {
            failures.add(source, "no such folder".to_owned());
            return Ok(Vec::new());
        }
        self.each(&source, &all, failures, |index, artifact| {
            let mut candidates = vec![(artifact.remote.as_str(), packing(artifact))];
            if let Content::File { path, .. } = &artifact.content {
                candidates.push((path.as_str(), Packing::Plain));
            }
            let own = mirror.join(&self.dataset.name);
            let places = candidates
                .iter()
                .flat_map(|(name, packing)| [(own.join(name), *packing), (mirror.join(name), *packing)]);
            let mut last = Error::Command {
                program: artifact.remote.clone(),
                message: "the mirror does not have it".to_owned(),
            };
            for (path, packing) in places.filter(|(path, _)| is_there(artifact, path)) {
                match self.stage(index, artifact, &path, packing, tree) {
                    Err(error) if !self.is_local(&error) => last = error,
                    other => return other,
                }
            }
            Err(last)
        })
    }

    /// Downloads from a web server.
    fn take_from_url(
        &self,
        base: &str,
        pending: &[usize],
        tree: &Path,
        failures: &mut Failures,
    ) -> Result<Vec<Staged>> {
        let is_down = AtomicBool::new(false);
        self.each(base, pending, failures, |index, artifact| {
            let url = format!("{}/{}", base.trim_end_matches('/'), artifact.remote);
            let path = self.work.join("downloads").join(&artifact.remote);
            let download = Download {
                url: &url,
                path: &path,
                bytes: artifact.download_bytes,
                connect_timeout: self.options.connect_timeout,
                stall_timeout: self.options.stall_timeout,
            };
            let mut from_before = path.is_file();
            loop {
                if is_down.load(Ordering::Relaxed) {
                    let message = "no answer in time".to_owned();
                    return Err(Error::Http { url, message, unreachable: true });
                }
                if !path.is_file() {
                    let resumed = download.run(self.progress).inspect_err(|error| {
                        if matches!(error, Error::Http { unreachable: true, .. }) {
                            is_down.store(true, Ordering::Relaxed);
                        }
                    })?;
                    from_before |= resumed;
                }
                match self.stage(index, artifact, &path, packing(artifact), tree) {
                    Err(error) if !self.is_local(&error) => {
                        // Bytes of an earlier run may be of another version: once more, from the start.
                        fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
                        if !std::mem::take(&mut from_before) {
                            return Err(error);
                        }
                    }
                    other => return other,
                }
            }
        })
    }

    /// Downloads a package and takes the artifacts out of it.
    fn take_from_package(
        &self,
        source: &Source,
        pending: &[usize],
        tree: &Path,
        failures: &mut Failures,
    ) -> Result<Vec<Staged>> {
        let prefix = match source {
            Source::Url { .. } => "",
            Source::Debian { prefix, .. }
            | Source::Pypi { prefix, .. }
            | Source::PypiSource { prefix, .. }
            | Source::Npm { prefix, .. } => prefix,
        };
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        let within = |artifact: &Artifact| format!("{prefix}{}", artifact.remote);
        let wanted: Vec<&Artifact> = pending.iter().filter_map(|i| self.dataset.artifacts.get(*i)).collect();
        let is_wanted = |path: &str| {
            let inside = path.strip_prefix(&prefix);
            inside.is_some_and(|path| wanted.iter().any(|artifact| self.dataset.belongs(path, artifact)))
        };
        let scratch = self.work.join("package");
        clear(&scratch)?;
        fs::create_dir_all(&scratch).map_err(|e| Error::io(&scratch, "create", e))?;
        let package = Package { source, scratch: &scratch, progress: self.progress };
        let (unpacked, _) = match package.fetch(&is_wanted) {
            Ok(fetched) => fetched,
            Err(error) if self.is_local(&error) => return Err(error),
            Err(error) => {
                failures.add(source.to_string(), self.reason(&error));
                return Ok(Vec::new());
            }
        };
        let staged = self.each(&source.to_string(), pending, failures, |index, artifact| {
            let path = unpacked.join(within(artifact));
            if !is_there(artifact, &path) {
                let message = format!("does not hold {}", within(artifact));
                return Err(Error::Archive { archive: source.to_string(), message });
            }
            self.stage(index, artifact, &path, packing(artifact), tree)
        });
        clear(&scratch)?;
        staged
    }

    /// Calls `get` for each pending artifact, `jobs` at once. What fails at the source is added to `failures`;
    /// what fails on this machine ends the fetch.
    fn each(
        &self,
        source: &str,
        pending: &[usize],
        failures: &mut Failures,
        get: impl Fn(usize, &Artifact) -> Result<Staged> + Sync,
    ) -> Result<Vec<Staged>> {
        let results = in_parallel(self.options.jobs, pending, |index| {
            self.dataset.artifacts.get(*index).map(|artifact| get(*index, artifact))
        });
        let mut staged = Vec::new();
        for result in results.into_iter().flatten() {
            match result {
                Ok(artifact) => staged.push(Staged { source: source.to_owned(), ..artifact }),
                Err(error) if self.is_local(&error) => return Err(error),
                Err(error) => failures.add(source.to_owned(), self.reason(&error)),
            }
        }
        Ok(staged)
    }

    /// Checks the file `from` and puts what it holds into the staging folder; leaves nothing there on an error.
    fn stage(
        &self,
        index: usize,
        artifact: &Artifact,
        from: &Path,
        packing: Packing,
        tree: &Path,
    ) -> Result<Staged> {
        let result = match &artifact.content {
            Content::File { path, bytes, sha256, .. } => {
                let to = tree.join(path);
                let staged = self.stage_file(artifact, from, packing, &to, (*bytes, sha256.as_deref()));
                if staged.is_err() {
                    let _ = fs::remove_file(&to); // Another source may serve; what fails here fails there, too.
                }
                staged.map(|(digest, trusted)| {
                    (vec![Entry { path: path.clone(), bytes: digest.bytes, sha256: digest.sha256 }], trusted)
                })
            }
            Content::Archive { path, max_bytes, max_entries, .. } => {
                let limits = Limits { bytes: *max_bytes, entries: *max_entries };
                self.stage_aside(index, &tree.join(path), |aside| {
                    self.stage_archive(artifact, from, aside, limits)
                })
                .map(|(files, trusted)| (below(path, files), trusted))
            }
            Content::Folder { path, files, bytes, sha256 } => {
                let belongs =
                    |file: &str| self.dataset.belongs(&format!("{}/{file}", artifact.remote), artifact);
                let folder = Folder { from, files: *files, bytes: *bytes, sha256, belongs: &belongs };
                self.stage_aside(index, &tree.join(path), |aside| folder.copy(aside))
                    .map(|files| (below(path, files), true))
            }
        };
        result.map(|(files, trusted)| Staged { index, files, trusted, source: String::new() })
    }

    /// Inflates one file, and checks its size and hash.
    fn stage_file(
        &self,
        artifact: &Artifact,
        from: &Path,
        packing: Packing,
        to: &Path,
        (bytes, sha256): (u64, Option<&str>),
    ) -> Result<(Digested, bool)> {
        let mut trusted = sha256.is_some();
        // The hash of the packed file stands in where that of the inflated one is not known.
        if let (None, Some(expected)) = (sha256, &artifact.download_sha256)
            && packing == self::packing(artifact)
        {
            let found = hash_file(from, |_| {})?;
            expect_hash(from, expected, &found.sha256)?;
            trusted = true;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
        }
        let mismatch = |found: String| Error::Mismatch {
            what: from.display().to_string(),
            expected: format!("{bytes} bytes inflated"),
            found,
        };
        let mut inflated = open_inflated(from, packing)?;
        let found = write_hashed(
            &mut *inflated,
            to,
            bytes,
            |e| corrupt(from, &e.to_string()),
            || mismatch("more".to_owned()),
        )?;
        if found.bytes != bytes {
            return Err(mismatch(found.bytes.to_string()));
        }
        if let Some(expected) = sha256 {
            expect_hash(from, expected, &found.sha256)?;
        }
        Ok((found, trusted))
    }

    /// Fills a folder beside the tree and then moves what it holds into the tree, so that what is bad leaves nothing.
    fn stage_aside<T>(&self, index: usize, to: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let aside = self.work.join(format!("unpacked-{index}"));
        clear(&aside)?;
        let filled = fill(&aside).and_then(|filled| merge(&aside, to).map(|()| filled));
        clear(&aside)?;
        filled
    }

    /// Checks an archive's hash, and unpacks it.
    fn stage_archive(
        &self,
        artifact: &Artifact,
        from: &Path,
        target: &Path,
        limits: Limits,
    ) -> Result<(Vec<Entry>, bool)> {
        if let Some(expected) = &artifact.download_sha256 {
            let total = fs::metadata(from).ok().map(|m| m.len());
            let found =
                self.watched(Action::Verify, &artifact.remote, total, |advance| hash_file(from, advance))?;
            expect_hash(from, expected, &found.sha256)?;
        }
        fs::create_dir_all(target).map_err(|e| Error::io(target, "create", e))?;
        let unpacked = self.watched(Action::Unpack, &artifact.remote, None, |advance| {
            let (archive, packing) = (from, packing(artifact));
            Unpack { archive, packing, target, limits, select: &|_| true, advance }.run()
        })?;
        let entry = |u: crate::unpack::Unpacked| Entry {
            path: u.path,
            bytes: u.content.bytes,
            sha256: u.content.sha256,
        };
        Ok((unpacked.into_iter().map(entry).collect(), artifact.download_sha256.is_some()))
    }

    /// Runs `work`, which is given a function to call with the bytes of each step.
    fn watched<T>(
        &self,
        action: Action,
        item: &str,
        total: Option<u64>,
        work: impl FnOnce(&dyn Fn(u64)) -> Result<T>,
    ) -> Result<T> {
        self.progress.begin(action, item, total);
        let position = AtomicU64::new(0);
        let result = work(&|bytes| {
            let position = position.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.progress.advance(action, item, position);
        });
        self.progress.finish(action, item);
        result
    }

    /// Whether the fault lies with the store, so that no other source can help.
    fn is_local(&self, error: &Error) -> bool {
        match error {
            Error::DiskFull { .. } => true,
            Error::Io { path, .. } => path.starts_with(self.work),
            _ => false,
        }
    }

    /// The error in words, without the paths of unfinished files, which are gone by then.
    fn reason(&self, error: &Error) -> String {
        match error {
            Error::Http { message, unreachable: true, .. } => message.clone(),
            Error::Command { program, message } => format!("{program}: {message}"),
            Error::Io { source, .. } => format!("{error}: {source}"),
            other => other.to_string().replace(&format!("{}/", self.work.display()), ""),
        }
    }
}

fn packing(artifact: &Artifact) -> Packing {
    match &artifact.content {
        Content::File { packing, .. } | Content::Archive { packing, .. } => *packing,
        Content::Folder { .. } => Packing::Plain,
    }
}

/// Whether a path holds what an artifact is at its source.
fn is_there(artifact: &Artifact, path: &Path) -> bool {
    if artifact.is_folder() { path.is_dir() } else { path.is_file() }
}

/// Entries of a folder as entries of the folder that it is in.
fn below(folder: &str, entries: Vec<Entry>) -> Vec<Entry> {
    let inside = |entry: Entry| match folder.is_empty() {
        true => entry,
        false => Entry { path: format!("{folder}/{}", entry.path), ..entry },
    };
    entries.into_iter().map(inside).collect()
}

fn expect_hash(file: &Path, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: file.display().to_string(),
        expected: format!("sha256 {expected}"),
        found: found.to_owned(),
    })
}

/// Removes a file or folder, if it is there.
pub(crate) fn clear(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.map_err(|e| Error::io(path, "remove", e))
}

/// Calls `work` for each item on up to `jobs` threads; the results are in the order of the items.
pub(crate) fn in_parallel<I: Sync, T: Send>(
    jobs: usize,
    items: &[I],
    work: impl Fn(&I) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
