//! Bars for what `ssl-datasets` downloads, unpacks and verifies.
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ssl_datasets::{Action, Progress};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// One bar per item on the standard error; none where that is no terminal.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    all: MultiProgress,
    open: Mutex<HashMap<(Action, String), ProgressBar>>,
}

impl Bars {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<(Action, String), ProgressBar>) -> T) -> T {
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn begin(&self, action: Action, item: &str, total: Option<u64>) {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let bar = self.all.add(bar);
        bar.set_message(format!("{action} {item}"));
        self.with(|open| open.insert((action, item.to_string()), bar));
    }

    fn advance(&self, action: Action, item: &str, position: u64) {
        self.with(|open| {
            if let Some(bar) = open.get(&(action, item.to_string())) {
                bar.set_position(position);
            }
        });
    }

    fn finish(&self, action: Action, item: &str) {
        if let Some(bar) = self.with(|open| open.remove(&(action, item.to_string()))) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn note(&self, message: &str) {
        self.all.suspend(|| eprintln!("{message}"));
    }
}
