//! Where the numbers of a run go: memory, JSON lines, the console, TensorBoard, or several at once.
//!
//! ```
//! use ssl_core::record::{Recorder, Tee};
//! let (mut first, mut second) = (Vec::new(), Vec::new());
//! let mut tee = Tee::new(vec![Box::new(&mut first), Box::new(&mut second)]);
//! tee.record(0, "loss", 5.5)?;
//! drop(tee);
//! assert_eq!(first, [(0, "loss".to_string(), 5.5)]);
//! assert_eq!(first, second);
//! # Ok::<(), ssl_core::Error>(())
//! ```
mod console;
mod json_lines;
mod memory;
mod tensorboard;

pub use console::{Console, Progress};
pub use json_lines::{Curves, JsonLines, read_curves, read_messages};
pub use memory::peak_rss_mib;
pub use tensorboard::TensorBoard;

use crate::Result;
use std::fmt;

/// A sink for named numbers, one per name and step.
pub trait Recorder {
    /// Takes one value; `step` counts from 0 and does not fall. Non-finite values are legal.
    ///
    /// # Errors
    /// `Error::Io` when the value cannot be written.
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()>;

    /// Takes a sentence for whoever follows the run: a warning, a milestone.
    ///
    /// # Errors
    /// `Error::Io` when it cannot be written.
    fn message(&mut self, _step: u64, _text: &str) -> Result<()> {
        Ok(())
    }

    /// Hands everything taken so far to the operating system; called before a checkpoint and at the end.
    ///
    /// # Errors
    /// `Error::Io` when it cannot be written.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Keeps the numbers in memory, in the order of arrival; drops messages.
impl Recorder for Vec<(u64, String, f64)> {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        self.push((step, name.to_string(), value));
        Ok(())
    }
}

impl<R: Recorder + ?Sized> Recorder for &mut R {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        (**self).record(step, name, value)
    }
    fn message(&mut self, step: u64, text: &str) -> Result<()> {
        (**self).message(step, text)
    }
    fn flush(&mut self) -> Result<()> {
        (**self).flush()
    }
}

impl<R: Recorder + ?Sized> Recorder for Box<R> {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        (**self).record(step, name, value)
    }
    fn message(&mut self, step: u64, text: &str) -> Result<()> {
        (**self).message(step, text)
    }
    fn flush(&mut self) -> Result<()> {
        (**self).flush()
    }
}

/// Hands everything on to several recorders; a fault of one does not keep it from the others.
pub struct Tee<'a> {
    sinks: Vec<Box<dyn Recorder + 'a>>,
}

impl<'a> Tee<'a> {
    /// A recorder over all of `sinks`.
    pub fn new(sinks: Vec<Box<dyn Recorder + 'a>>) -> Self {
        Tee { sinks }
    }

    fn all(&mut self, mut f: impl FnMut(&mut dyn Recorder) -> Result<()>) -> Result<()> {
        self.sinks.iter_mut().map(|sink| f(sink.as_mut())).fold(Ok(()), Result::and)
    }
}

impl fmt::Debug for Tee<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tee").field("sinks", &self.sinks.len()).finish()
    }
}

impl Recorder for Tee<'_> {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        self.all(|sink| sink.record(step, name, value))
    }
    fn message(&mut self, step: u64, text: &str) -> Result<()> {
        self.all(|sink| sink.message(step, text))
    }
    fn flush(&mut self) -> Result<()> {
        self.all(|sink| sink.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    struct Full;
    impl Recorder for Full {
        fn record(&mut self, _step: u64, _name: &str, _value: f64) -> Result<()> {
            Err(Error::config("disk", "full"))
        }
    }

    #[test]
    fn a_faulty_sink_of_a_tee_does_not_starve_the_others() {
        let mut kept = Vec::new();
        let mut tee = Tee::new(vec![Box::new(Full), Box::new(&mut kept)]);
        assert_eq!(tee.record(3, "loss", 1.0).unwrap_err().to_string(), "disk: full");
        drop(tee);
        assert_eq!(kept, [(3, "loss".to_string(), 1.0)]);
    }
}
