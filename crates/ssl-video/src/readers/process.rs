//! Running a program: its output through a pipe, what it says of errors in a line.
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a program says of errors is read up to so many bytes; the rest is thrown away.
pub(crate) const LONGEST_TALK: u64 = 1 << 16;

/// What went wrong with a video.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// The program cannot be started, whatever the video.
    Program(String),
    /// This video cannot be read.
    Video(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Fault::Video(message)
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) is_success: bool,
    status: String,
    /// What it said of errors.
    pub(crate) talk: String,
    /// Why its output could not be read.
    pub(crate) failure: Option<String>,
}

impl End {
    /// One line of why it failed.
    pub(crate) fn reason(&self, program: &str, path: &Path) -> String {
        let talk = reason(&self.talk, path);
        match (&self.failure, talk.is_empty()) {
            (Some(failure), _) => failure.clone(),
            (None, true) => format!("{program} ended with {}", self.status),
            (None, false) if self.status.starts_with("exit") => talk,
            (None, false) => format!("{program} ended with {}: {talk}", self.status),
        }
    }
}

/// The first two things that a program says of a file, without the names of its parts and of the file.
fn reason(talk: &str, path: &Path) -> String {
    let path = path.display().to_string();
    let mut said: Vec<String> = Vec::new();
    for line in talk.lines().map(str::trim) {
        let line = match line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            Some((part, rest)) if part.contains(" @ 0x") => rest.trim(),
            _ => line,
        };
        let line = line.replace(&format!("file:{path}"), &path).replace(&path, "");
        let line: String =
            line.trim_start_matches([':', ' ']).chars().filter(|c| !c.is_control()).take(200).collect();
        if !line.is_empty() && !said.contains(&line) {
            said.push(line);
        }
    }
    said.truncate(2);
    said.join("; ")
}

pub(crate) fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

/// A program that is ended when nobody listens to it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program, hands its output to `read`, and waits for its end.
pub(crate) fn run(
    program: &Path,
    arguments: &[OsString],
    read: &mut dyn FnMut(&mut dyn Read) -> Result<(), String>,
) -> Result<End, Fault> {
    let (name, pipe) = (program.display(), Stdio::piped);
    let child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(pipe()).stderr(pipe()).spawn();
    let child = child.map_err(|error| {
        Fault::Program(format!(
            "cannot start the program {name}, which decodes videos: {error}: install ffmpeg (on Debian and Ubuntu: apt \
             install ffmpeg), or give the place of ffmpeg and ffprobe"
        ))
    })?;
    let mut running = Running(child);
    let (output, errors) = (running.0.stdout.take(), running.0.stderr.take());
    // Both pipes are read at once: a program waits when one of them is full.
    let (outcome, talk) = std::thread::scope(|scope| {
        let talk = scope.spawn(|| errors.map(talk).unwrap_or_default());
        let outcome = output.map_or(Ok(()), |mut output| read(&mut output));
        (outcome, talk.join().unwrap_or_default())
    });
    let status = running.0.wait().map_err(|error| Fault::Video(format!("{name}: {error}")))?;
    let failure = outcome.err();
    Ok(End { is_success: status.success(), status: status.to_string(), talk, failure })
}

/// What a program says, to its end.
fn talk(mut errors: impl Read) -> String {
    let mut text = Vec::new();
    // What cannot be read is not said.
    let _ = errors.by_ref().take(LONGEST_TALK).read_to_end(&mut text);
    let _ = std::io::copy(&mut errors, &mut std::io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_becomes_a_line() {
        let talk = "[mov,mp4 @ 0x55d0c0ffee] moov atom not found\nfile:/a b/c.mp4: Invalid data\n\n[x @ 0x1] third\n";
        assert_eq!(reason(talk, Path::new("/a b/c.mp4")), "moov atom not found; Invalid data");
        assert_eq!(reason("[not a part] said\u{7}\nsaid", Path::new("c")), "[not a part] said; said");
        assert_eq!(reason("", Path::new("c")), "");
        let end = |is_success, status: &str, talk: &str| {
            let (status, talk) = (status.to_string(), talk.to_string());
            End { is_success, status, talk, failure: None }.reason("ffmpeg", Path::new("c"))
        };
        assert_eq!(end(false, "exit status: 3", ""), "ffmpeg ended with exit status: 3");
        assert_eq!(end(false, "signal: 9 (SIGKILL)", "why"), "ffmpeg ended with signal: 9 (SIGKILL): why");
    }
}
