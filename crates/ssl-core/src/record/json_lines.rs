//! Metrics as JSON lines: one object per step, `{"step":12,"loss":4.81,"learning_rate":0.002}`.
use super::Recorder;
use crate::checkpoint::write_atomically;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Curves by metric name: pairs of step and value, in the order of the steps.
pub type Curves = BTreeMap<String, Vec<(u64, f64)>>;

const RESERVED: [&str; 2] = ["step", "message"];

/// Appends to a file of JSON lines; each line is handed to the system whole, by one write.
///
/// The values of one step share a line, which is written when the next step begins or at a flush. A value
/// that is not finite becomes `null`, since JSON has no other word for it.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    len: u64,
    step: u64,
    pending: Map<String, Value>,
}

impl JsonLines {
    /// Starts an empty file; one that exists is emptied.
    ///
    /// # Errors
    /// `Error::Io` when the file cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        File::create(&path).map_err(Error::io(&path, "create"))?;
        Self::append(path)
    }

    /// Goes on with the file of an interrupted run that is resumed at `step`.
    ///
    /// Lines of that step and later are dropped, so is a last line without its end. A missing file is
    /// created. The shortened file replaces the old one by a rename.
    ///
    /// # Errors
    /// `Error::Data` naming the line when the file is not JSON lines, which leaves it as it was; `Error::Io`.
    pub fn resume(path: impl Into<PathBuf>, step: u64) -> Result<Self> {
        let path = path.into();
        if path.exists() {
            let kept: String = lines(&path)?
                .into_iter()
                .filter(|line| line.step < step)
                .map(|line| line.text + "\n")
                .collect();
            write_atomically(&path, kept.as_bytes())?;
        }
        Self::append(path)
    }

    fn append(path: PathBuf) -> Result<Self> {
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path, "create"))?;
        let len = file.metadata().map_err(Error::io(&path, "read"))?.len();
        Ok(JsonLines { path, file, len, step: 0, pending: Map::new() })
    }

    /// Adds to the pending line; a new step or a name that it already has begins a new one.
    fn put(&mut self, step: u64, name: &str, value: Value) -> Result<()> {
        if step != self.step || self.pending.contains_key(name) {
            self.write_line()?;
        }
        self.step = step;
        self.pending.insert(name.to_string(), value);
        Ok(())
    }

    fn write_line(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut line = Map::new();
        line.insert("step".into(), self.step.into());
        line.append(&mut self.pending);
        let text = format!("{}\n", Value::Object(line));
        if let Err(source) = self.file.write_all(text.as_bytes()) {
            // What a full disk took of the line would spoil the lines after it; the write's fault is what counts.
            let _ = self.file.set_len(self.len);
            return Err(Error::io(&self.path, "write")(source));
        }
        self.len += text.len() as u64;
        Ok(())
    }
}

impl Recorder for JsonLines {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        if RESERVED.contains(&name) {
            return Err(Error::config("metric", format!("the name {name:?} is reserved")));
        }
        self.put(step, name, value.into())
    }

    fn message(&mut self, step: u64, text: &str) -> Result<()> {
        self.put(step, "message", text.into())
    }

    fn flush(&mut self) -> Result<()> {
        self.write_line()
    }
}

impl Drop for JsonLines {
    fn drop(&mut self) {
        // A drop cannot report; whoever needs to know calls flush.
        let _ = self.write_line();
    }
}

/// The metrics of a file of JSON lines, by name; `null` becomes NaN and messages are left out.
///
/// # Errors
/// `Error::Io` when the file cannot be read; `Error::Data` naming the line that is no JSON object with a step.
pub fn read_curves(path: &Path) -> Result<Curves> {
    let mut curves = Curves::new();
    for line in lines(path)? {
        for (name, value) in line.values {
            if !RESERVED.contains(&name.as_str()) {
                curves.entry(name).or_default().push((line.step, value.as_f64().unwrap_or(f64::NAN)));
            }
        }
    }
    Ok(curves)
}

/// What was said while the run went on, each with its step.
///
/// # Errors
/// As [`read_curves`].
pub fn read_messages(path: &Path) -> Result<Vec<(u64, String)>> {
    let message = |line: Line| Some((line.step, line.values.get("message")?.as_str()?.to_string()));
    Ok(lines(path)?.into_iter().filter_map(message).collect())
}

struct Line {
    step: u64,
    values: Map<String, Value>,
    text: String,
}

/// Every line that has its end.
fn lines(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let numbered = whole.lines().enumerate().filter(|(_, line)| !line.is_empty());
    numbered.map(|(index, line)| parse(path, index, line)).collect()
}

fn parse(path: &Path, index: usize, line: &str) -> Result<Line> {
    let foreign = |why: String| {
        Error::data(path, format!("line {}: expected a JSON object with a step, {why}", index + 1))
    };
    let values: Map<String, Value> = serde_json::from_str(line).map_err(|e| foreign(e.to_string()))?;
    let step = values.get("step").and_then(Value::as_u64).ok_or_else(|| foreign("got one without".into()))?;
    Ok(Line { step, values, text: line.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lines: &mut JsonLines, steps: std::ops::Range<u64>) {
        for step in steps {
            lines.record(step, "loss", 10.0 - step as f64).unwrap();
            lines.record(step, "knn/top1", 0.5).unwrap();
        }
        lines.flush().unwrap();
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        (dir, path)
    }

    #[test]
    fn values_of_a_step_share_a_line_and_non_finite_ones_are_null() {
        let (_dir, path) = scratch();
        let mut lines = JsonLines::create(&path).unwrap();
        lines.record(0, "loss", 1.5).unwrap();
        lines.record(0, "rate", f64::INFINITY).unwrap();
        lines.record(1, "loss", f64::NAN).unwrap();
        lines.record(1, "loss", 2.0).unwrap();
        lines.message(1, "a \"quoted\"\nline").unwrap();
        drop(lines);
        let expected = "{\"step\":0,\"loss\":1.5,\"rate\":null}\n{\"step\":1,\"loss\":null}\n\
                        {\"step\":1,\"loss\":2.0,\"message\":\"a \\\"quoted\\\"\\nline\"}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        let curves = read_curves(&path).unwrap();
        assert_eq!(curves["loss"].len(), 3);
        assert!(curves["rate"][0].1.is_nan() && !curves.contains_key("message"));
        assert_eq!(read_messages(&path).unwrap(), [(1, "a \"quoted\"\nline".to_string())]);
    }

    #[test]
    fn a_resumed_file_equals_that_of_an_uninterrupted_run() {
        let (_dir, path) = scratch();
        write(&mut JsonLines::create(&path).unwrap(), 0..6);
        let whole = fs::read_to_string(&path).unwrap();
        // Killed while it wrote the line of step 6.
        fs::write(&path, format!("{whole}{{\"step\":6,\"lo")).unwrap();
        write(&mut JsonLines::resume(&path, 4).unwrap(), 4..6);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn a_foreign_line_is_named_and_the_file_is_left_alone() {
        let (_dir, path) = scratch();
        fs::write(&path, "{\"step\":0,\"loss\":1.0}\nnonsense\n").unwrap();
        let error = JsonLines::resume(&path, 1).unwrap_err().to_string();
        assert!(error.contains("line 2: expected a JSON object with a step"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":0,\"loss\":1.0}\nnonsense\n");
        assert!(JsonLines::create(path.join("below_a_file")).is_err());
    }

    #[test]
    fn reserved_names_are_refused() {
        let (_dir, path) = scratch();
        let mut lines = JsonLines::create(&path).unwrap();
        assert_eq!(
            lines.record(0, "step", 1.0).unwrap_err().to_string(),
            "metric: the name \"step\" is reserved"
        );
    }
}
