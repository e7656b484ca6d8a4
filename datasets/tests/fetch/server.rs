//! A web server that breaks off, ignores ranges, and remembers what it was asked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::sets::sha256;

/// How a path is served.
#[derive(Clone)]
pub(crate) enum Serve {
    /// With ranges.
    Whole(Vec<u8>),
    /// Ranges are ignored.
    WithoutRanges(Vec<u8>),
    /// The connection ends after so many bytes of each answer, though more were announced.
    CutAfter(usize, Vec<u8>),
}

/// A web server on a port of its own, which counts what it is asked for.
pub(crate) struct Server {
    pub(crate) base: String,
    pages: Arc<Mutex<HashMap<String, Serve>>>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
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

    pub(crate) fn put(&self, name: &str, serve: Serve) {
        self.pages.lock().unwrap().insert(format!("/{name}"), serve);
    }

    pub(crate) fn requests(&self) -> Vec<String> {
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
