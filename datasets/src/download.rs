//! Downloads by HTTP that go on where an earlier one stopped.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::hash::{CHUNK, read};
use crate::progress::{Action, Progress};

/// How often a download that broke off is taken up again without having come forward.
const TRIES: u32 = 3;

/// How long to wait before a download that broke off is taken up again.
const PAUSE: Duration = Duration::from_millis(300);

/// A file to download.
///
/// Its bytes are written to `path` with the suffix `.part` first; a later run goes on from there if the server
/// still has the same file. Whether the content is right is for the caller to check, by its hash.
#[derive(Debug, Clone)]
pub struct Download<'a> {
    /// The address, `http:` or `https:`.
    pub url: &'a str,
    /// The file to write.
    pub path: &'a Path,
    /// Its size, where it is known; a server that announces another one is refused at once.
    pub bytes: Option<u64>,
    /// How long to wait for the name to resolve, and then for the connection.
    pub connect_timeout: Duration,
    /// How long to wait for the next bytes.
    pub stall_timeout: Duration,
}

/// What tells one version of a file on a server from the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    url: String,
    validator: Option<String>,
    total: Option<u64>,
}

/// How one request ended.
enum Outcome {
    Complete,
    /// The connection ended early; the reason, in words.
    Broken(String),
    /// What is there does not fit what the server has.
    Restart,
}

impl Download<'_> {
    /// Downloads, or goes on downloading. Returns whether any bytes came from an earlier, unfinished download.
    ///
    /// # Errors
    /// [`Error::Http`] if the server cannot be reached, answers with an error, or breaks off repeatedly;
    /// [`Error::Mismatch`] if it announces another size; [`Error::DiskFull`] and [`Error::Io`] if the file cannot
    /// be written.
    pub fn run(&self, progress: &dyn Progress) -> Result<bool> {
        let item = self.path.file_name().map_or_else(|| self.url.into(), |n| n.to_string_lossy());
        progress.begin(Action::Download, &item, self.bytes);
        let result = self.run_tries(&|position| progress.advance(Action::Download, &item, position));
        progress.finish(Action::Download, &item);
        result
    }

    fn run_tries(&self, advance: &dyn Fn(u64)) -> Result<bool> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
        }
        let agent = self.agent();
        let first = self.position();
        let mut resumed = first > 0;
        let mut tries = 0;
        loop {
            let before = self.position();
            match self.request(&agent, before, advance)? {
                Outcome::Complete => {
                    fs::rename(self.part(), self.path).map_err(|e| Error::io(self.path, "create", e))?;
                    let _ = fs::remove_file(self.origin_path()); // Of no use any more; harmless if it stays.
                    return Ok(resumed);
                }
                Outcome::Restart => {
                    self.discard()?;
                    resumed = false;
                    tries += 1;
                    if tries >= TRIES {
                        return Err(self.error("the server's answers contradict each other"));
                    }
                }
                Outcome::Broken(reason) => {
                    tries = if self.position() > before { 0 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(self.error(&reason));
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Asks for the bytes from `position` on, and appends what comes.
    fn request(&self, agent: &Agent, position: u64, advance: &dyn Fn(u64)) -> Result<Outcome> {
        let known = self.origin();
        let mut request = agent.get(self.url);
        if position > 0 {
            let total = known.total.or(self.bytes);
            if total == Some(position) {
                return Ok(Outcome::Complete);
            }
            if known.url != self.url || total.is_some_and(|total| position > total) {
                return Ok(Outcome::Restart);
            }
            request = request.header("Range", format!("bytes={position}-"));
            if let Some(validator) = &known.validator {
                request = request.header("If-Range", validator);
            }
        }
        let mut response = match request.call() {
            Ok(response) => response,
            // A server that was reached before and fails to answer now may answer the next time.
            Err(ureq::Error::Io(e)) if position > 0 => return Ok(Outcome::Broken(e.to_string())),
            Err(e) => return Err(self.unreachable(&e)),
        };
        let (start, total) = match response.status() {
            StatusCode::OK => (0, header(&response, "content-length").and_then(|text| text.parse().ok())),
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((start, total)) if start == position => (start, total),
                _ => return Ok(Outcome::Restart),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if position > 0 => return Ok(Outcome::Restart),
            status => return Err(self.error(&format!("the server answered {status}"))),
        };
        if let (Some(expected), Some(total)) = (self.bytes, total)
            && expected != total
        {
            return Err(Error::Mismatch {
                what: self.url.to_owned(),
                expected: format!("{expected} bytes"),
                found: format!("{total} bytes"),
            });
        }
        if start > 0 && known.total.is_some() && known.total != total {
            return Ok(Outcome::Restart);
        }
        let origin = Origin { url: self.url.to_owned(), validator: validator(&response), total };
        self.receive(response.body_mut(), start, &origin, advance)
    }

    /// Appends the body to what is there up to `start`.
    fn receive(
        &self,
        body: &mut Body,
        start: u64,
        origin: &Origin,
        advance: &dyn Fn(u64),
    ) -> Result<Outcome> {
        let part = self.part();
        let writing = |e| Error::io(&part, "write", e);
        // The order matters to whoever is killed here: no bytes of one version beside the origin of another.
        if start == 0 {
            self.discard()?;
        }
        let origin_path = self.origin_path();
        let text = serde_json::to_vec(origin).unwrap_or_default();
        fs::write(&origin_path, text).map_err(|e| Error::io(&origin_path, "write", e))?;
        let mut file = OpenOptions::new().create(true).append(true).open(&part).map_err(writing)?;
        let mut reader = body.as_reader();
        let mut buffer = vec![0; CHUNK];
        let mut position = start;
        advance(position);
        loop {
            let n = match read(&mut reader, &mut buffer) {
                Ok(n) => n,
                Err(e) => return Ok(Outcome::Broken(broken_off(position, origin.total, &e.to_string()))),
            };
            if n == 0 {
                break;
            }
            file.write_all(buffer.get(..n).unwrap_or_default()).map_err(writing)?;
            position += n as u64;
            advance(position);
        }
        match origin.total.or(self.bytes) {
            Some(total) if position < total => {
                Ok(Outcome::Broken(broken_off(position, Some(total), "the connection ended")))
            }
            Some(total) if position > total => Ok(Outcome::Restart),
            _ => Ok(Outcome::Complete),
        }
    }

    fn agent(&self) -> Agent {
        // A proxy, which ureq finds as curl does, cannot reach a server on this machine.
        let is_here =
            ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|h| self.url.starts_with(h));
        let proxy = if is_here { None } else { ureq::Proxy::try_from_env() };
        let config = Agent::config_builder()
            .proxy(proxy)
            .http_status_as_error(false)
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_recv_response(Some(self.stall_timeout))
            .timeout_per_read(Some(self.stall_timeout))
            .accept_encoding("identity")
            .user_agent(concat!("ssl-datasets/", env!("CARGO_PKG_VERSION")))
            .build();
        Agent::new_with_config(config)
    }

    fn part(&self) -> PathBuf {
        suffixed(self.path, ".part")
    }

    fn origin_path(&self) -> PathBuf {
        suffixed(self.path, ".part.json")
    }

    fn position(&self) -> u64 {
        fs::metadata(self.part()).map_or(0, |m| m.len())
    }

    /// What the unfinished download was of; nothing if that is not known.
    fn origin(&self) -> Origin {
        fs::read(self.origin_path())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Forgets the unfinished download.
    fn discard(&self) -> Result<()> {
        let part = self.part();
        if part.exists() {
            File::create(&part).map_err(|e| Error::io(&part, "write", e))?;
        }
        Ok(())
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        let message = match error {
            ureq::Error::HostNotFound => "the host's name is not known here".to_owned(),
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::Io(e) => e.to_string(),
            other => other.to_string(),
        };
        let message = message.lines().next().unwrap_or_default().to_owned();
        Error::Http { url: self.url.to_owned(), message, unreachable: true }
    }

    fn error(&self, message: &str) -> Error {
        Error::Http { url: self.url.to_owned(), message: message.to_owned(), unreachable: false }
    }
}

fn broken_off(position: u64, total: Option<u64>, cause: &str) -> String {
    let total = total.map_or_else(String::new, |total| format!(" of {total}"));
    format!("broke off after {position}{total} bytes: {cause}")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The strong entity tag, else the time of modification. A weak tag does not vouch for bytes.
fn validator(response: &Response<Body>) -> Option<String> {
    let tag = header(response, "etag").filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| header(response, "last-modified")).map(str::to_owned)
}

/// Reads `Content-Range: bytes START-END/TOTAL`.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, total) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}
