//! libtorch out of the archive that the PyTorch site offers.
use super::cache::{self, Cache};
use super::libtorch::{Libtorch, VERSION};
use super::{progress, unpack};
use anyhow::{Context, Result, bail};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};

/// Tries that go on where the one before broke off.
const TRIES: usize = 4;

/// Fills `target` with the archive's libraries and headers.
///
/// PyTorch publishes no hash of the archive. It comes over HTTPS, and each file in it carries a checksum.
pub(super) fn provide(cache: &Cache, target: &Path) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the archive of the PyTorch site is for Linux on x86_64");
    }
    let url =
        format!("https://download.pytorch.org/libtorch/cpu/libtorch-shared-with-deps-{VERSION}%2Bcpu.zip");
    let zip = cache.downloads()?.join(format!("libtorch-{VERSION}-cpu.zip"));
    if !zip.exists() {
        download(&url, &zip)?;
    }
    let work = cache.workplace()?;
    let new = work.path().join("libtorch");
    let unpacked = unpack::unpack(&zip, &new, place).and_then(|_| Libtorch::examine(&new, "the archive"));
    // Whether it served or was damaged, the archive is of no more use.
    fs::remove_file(&zip).with_context(|| format!("cannot remove {}", zip.display()))?;
    unpacked?;
    unpack::settle(&new);
    cache::install(&new, target)
}

fn place(name: &str) -> Option<PathBuf> {
    let inside = name.strip_prefix("libtorch/")?;
    let wanted = inside == "build-version"
        || inside.starts_with("include/")
        || (inside.starts_with("lib/") && inside.contains(".so"));
    wanted.then(|| PathBuf::from(inside))
}

/// Fetches `url` into `file`, which exists only once it is whole.
fn download(url: &str, file: &Path) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let mut last = None;
    for _ in 0..TRIES {
        let before = length(part);
        match proceed(url, part) {
            Ok(()) => {
                return fs::rename(part, file).with_context(|| format!("cannot keep {}", file.display()));
            }
            // Where nothing at all arrived, nothing will.
            Err(error) if length(part) == before => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no try was made")))
}

/// Goes on with `part` where it ends.
fn proceed(url: &str, part: &Path) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .http_status_as_error(false)
        .build()
        .into();
    let have = length(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let mut response = request.call().with_context(|| format!("cannot fetch {url}"))?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let (start, total) = match response.status() {
        StatusCode::OK => (0, header(CONTENT_LENGTH).and_then(|text| text.parse().ok())),
        StatusCode::PARTIAL_CONTENT => {
            let range = header(CONTENT_RANGE).and_then(content_range);
            let (start, total) = range.with_context(|| format!("{url}: an answer without a range"))?;
            (start, Some(total))
        }
        status => {
            let _ = fs::remove_file(part);
            bail!("{url}: the answer is {status}");
        }
    };
    if start != 0 && start != have {
        bail!("{url}: asked for the bytes from {have}, got those from {start}");
    }
    let mut file = OpenOptions::new().create(true).append(true).open(part)?;
    if start == 0 {
        file.set_len(0)?;
    }
    let bar = progress::bytes("fetching libtorch", total.unwrap_or(0));
    bar.set_position(start);
    let copied = io::copy(&mut bar.wrap_read(response.body_mut().as_reader()).by_ref(), &mut file);
    bar.finish_and_clear();
    copied.with_context(|| format!("{url}: broke off after {} bytes", length(part)))?;
    file.flush()?;
    file.sync_all()?;
    match total {
        Some(total) if length(part) != total => {
            bail!("{url}: {} bytes of {total} arrived", length(part))
        }
        _ => Ok(()),
    }
}

/// Start and total of "bytes 100-199/200".
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()?))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map(|data| data.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::thread::{self, JoinHandle};

    const BODY: &[u8] = b"0123456789";

    /// Serves BODY, and breaks off after `cut` bytes of each answer; returns the starts that were asked for.
    fn server(answers: usize, cut: usize) -> Result<(String, JoinHandle<Vec<usize>>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/a.zip", listener.local_addr()?);
        let handle = thread::spawn(move || {
            let answered = listener.incoming().take(answers).flatten();
            answered.filter_map(|stream| answer(stream, cut).ok()).collect()
        });
        Ok((url, handle))
    }

    fn answer(mut stream: TcpStream, cut: usize) -> Result<usize> {
        let mut start = 0;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?.to_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                start = range.trim_end_matches('-').parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let rest = &BODY[start..];
        let status = if start == 0 { "200 OK" } else { "206 Partial Content" };
        let range = format!("Content-Range: bytes {start}-9/10");
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}\r\n\r\n", rest.len())?;
        stream.write_all(&rest[..rest.len().min(cut)])?;
        Ok(start)
    }

    #[test]
    fn a_broken_download_goes_on_where_it_ended() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("a.zip");
        let (url, served) = server(3, 4)?;
        download(&url, &file)?;
        assert_eq!(fs::read(&file)?, BODY);
        assert_eq!(served.join().expect("the server thread"), [0, 4, 8]);
        Ok(())
    }

    #[test]
    fn nothing_passes_for_whole_that_is_not() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("a.zip");
        let (url, _) = server(1, 4)?;
        let error = proceed(&url, &file).unwrap_err();
        assert!(format!("{error:#}").contains("broke off after 4 bytes"), "{error:#}");
        Ok(())
    }

    #[test]
    fn of_the_archive_only_libraries_and_headers_are_kept() {
        assert_eq!(place("libtorch/lib/libc10.so"), Some("lib/libc10.so".into()));
        assert_eq!(place("libtorch/lib/libgomp-a34b3233.so.1"), Some("lib/libgomp-a34b3233.so.1".into()));
        assert_eq!(place("libtorch/lib/libkineto.a"), None);
        assert_eq!(place("libtorch/share/cmake/Torch/TorchConfig.cmake"), None);
        assert_eq!(content_range("bytes 4-9/10"), Some((4, 10)));
    }
}
