//! Bars for what is measured in bytes.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of bytes on standard error, where a person looks at it.
#[derive(Debug)]
pub struct ByteBar(ProgressBar);

impl ByteBar {
    /// A bar that says what is done to so many bytes; `quiet` hides it.
    pub fn new(what: &str, bytes: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(what.to_string());
        let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta}";
        // The template is a constant that indicatif accepts.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        ByteBar(bar)
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
