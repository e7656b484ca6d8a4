//! Bars on the standard error, which is left alone when it is no terminal.
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A bar over `total` bytes.
pub(super) fn bytes(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    started(what, ProgressBar::new(total), style)
}

/// A sign of life where the total is unknown.
pub(super) fn spinner(what: &str) -> ProgressBar {
    started(
        what,
        ProgressBar::new_spinner(),
        ProgressStyle::with_template("{msg} {spinner} {bytes} {elapsed}"),
    )
}

fn started(
    what: &str,
    bar: ProgressBar,
    style: Result<ProgressStyle, indicatif::style::TemplateError>,
) -> ProgressBar {
    if let Ok(style) = style {
        bar.set_style(style);
    }
    if bar.is_hidden() {
        eprintln!("{what} ...");
    }
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The bytes of all files in `dir` and below; what disappears meanwhile counts nothing.
pub(super) fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_folder_counts_what_is_below() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("in"))?;
        fs::write(dir.path().join("in/a"), "12345")?;
        fs::write(dir.path().join("b"), "123")?;
        assert_eq!(size_of(dir.path()), 8);
        assert_eq!(size_of(&dir.path().join("absent")), 0);
        Ok(())
    }
}
