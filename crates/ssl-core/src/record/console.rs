//! Progress for the eyes: a bar on a terminal, a line now and then elsewhere.
use super::Recorder;
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::{self, Write as _};
use std::io::Write;
use std::time::{Duration, Instant};

/// The extent of a run, from which rate and remaining time follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The first step of this run: 0, or where it was resumed.
    pub first_step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Examples per step.
    pub batch_size: u64,
}

/// Shows steps done, examples per second, time left, and the last value of every metric.
///
/// It writes where the caller says and nowhere else: a library has no business with standard error.
///
/// ```no_run
/// use indicatif::ProgressDrawTarget;
/// use ssl_core::record::{Console, Progress};
/// use std::io::{IsTerminal, stderr};
/// use std::time::Duration;
/// let progress = Progress { first_step: 0, total_steps: 234, batch_size: 256 };
/// let console = if stderr().is_terminal() {
///     Console::bar(ProgressDrawTarget::stderr(), progress)
/// } else {
///     Console::lines(Box::new(stderr()), progress, Duration::from_secs(10))
/// };
/// ```
pub struct Console {
    face: Face,
    values: Vec<(String, f64)>,
}

enum Face {
    Bar { bar: ProgressBar, told: Option<Instant> },
    Lines { out: Box<dyn Write + Send>, clock: Clock },
    Messages { out: Box<dyn Write + Send> },
}

impl Console {
    /// A bar that is redrawn in place.
    pub fn bar(target: ProgressDrawTarget, progress: Progress) -> Self {
        let bar = ProgressBar::with_draw_target(Some(progress.total_steps), target)
            .with_style(style(progress.batch_size))
            .with_position(progress.first_step);
        Console::new(Face::Bar { bar, told: None })
    }

    /// A line at the first step, then one every `interval`, and one at the last step.
    pub fn lines(out: Box<dyn Write + Send>, progress: Progress, interval: Duration) -> Self {
        let clock = Clock { progress, interval, start: None, shown: None, step: None };
        Console::new(Face::Lines { out, clock })
    }

    /// Messages alone: what `--quiet` wants.
    pub fn messages(out: Box<dyn Write + Send>) -> Self {
        Console::new(Face::Messages { out })
    }

    fn new(face: Face) -> Self {
        Console { face, values: Vec::new() }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let face = match &self.face {
            Face::Bar { .. } => "bar",
            Face::Lines { .. } => "lines",
            Face::Messages { .. } => "messages",
        };
        f.debug_struct("Console").field("face", &face).field("values", &self.values).finish()
    }
}

impl Recorder for Console {
    fn record(&mut self, step: u64, name: &str, value: f64) -> Result<()> {
        if let Face::Lines { out, clock } = &mut self.face
            && let Some(head) = clock.begin(step)
        {
            show(out, &format!("{head}  {}", sentence(&self.values)))?;
        }
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, last)) => *last = value,
            None => self.values.push((name.to_string(), value)),
        }
        if let Face::Bar { bar, told } = &mut self.face {
            if bar.position() != step + 1 {
                bar.set_position(step + 1);
            }
            if told.is_none() {
                // The first step holds the warm-up, and what came before it is not training.
                bar.reset_eta();
            }
            if told.is_none_or(|at| at.elapsed() > Duration::from_millis(50)) {
                bar.set_message(sentence(&self.values));
                *told = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn message(&mut self, _step: u64, text: &str) -> Result<()> {
        match &mut self.face {
            Face::Bar { bar, .. } => {
                bar.println(text);
                Ok(())
            }
            Face::Lines { out, .. } | Face::Messages { out } => show(out, text),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.face {
            Face::Bar { bar, .. } => {
                bar.set_message(sentence(&self.values));
                Ok(())
            }
            Face::Lines { out, clock } => match clock.end() {
                Some(head) => show(out, &format!("{head}  {}", sentence(&self.values))),
                None => Ok(()),
            },
            Face::Messages { .. } => Ok(()),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Face::Bar { bar, .. } = &self.face {
            bar.abandon();
        }
    }
}

/// When to show a line, and what it begins with.
struct Clock {
    progress: Progress,
    interval: Duration,
    /// End of the first step, which holds the warm-up and does not count in the rate.
    start: Option<(u64, Instant)>,
    shown: Option<Instant>,
    /// The step whose values are coming in.
    step: Option<u64>,
}

impl Clock {
    /// Notes that values of `step` come; the head of a line about the step before it, if one is due.
    fn begin(&mut self, step: u64) -> Option<String> {
        let last = self.step.replace(step).filter(|&last| last != step)?;
        let now = Instant::now();
        let start = *self.start.get_or_insert((last, now));
        let due = self.shown.is_none_or(|at| now.duration_since(at) >= self.interval);
        due.then(|| self.head(last, start, now))
    }

    /// The head of the line about the last step of the run.
    fn end(&mut self) -> Option<String> {
        let last = self.step.filter(|&step| step + 1 == self.progress.total_steps)?;
        self.step = None;
        let now = Instant::now();
        Some(self.head(last, self.start.unwrap_or((last, now)), now))
    }

    fn head(&mut self, step: u64, start: (u64, Instant), now: Instant) -> String {
        self.shown = Some(now);
        let total = self.progress.total_steps;
        let mut head = format!("step {}/{total}", step + 1);
        let seconds = now.duration_since(start.1).as_secs_f64();
        let steps = step.saturating_sub(start.0) as f64;
        if steps > 0.0 && seconds > 0.0 {
            let left = total.saturating_sub(step + 1) as f64 * seconds / steps;
            let rate = steps * self.progress.batch_size as f64 / seconds;
            // Writing to a string cannot fail.
            let _ = write!(head, "  {} examples/s  {left:.0} s left", short(rate));
        }
        head
    }
}

fn show(out: &mut Box<dyn Write + Send>, text: &str) -> Result<()> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("console", "write"))
}

fn style(batch_size: u64) -> ProgressStyle {
    let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A drawing fault is none of the run's business.
        let _ = write!(out, "{}", short(state.per_sec() * batch_size as f64));
    };
    ProgressStyle::with_template("{bar:24} {pos}/{len}  {rate} examples/s  {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .progress_chars("━╸─")
}

fn sentence(values: &[(String, f64)]) -> String {
    values.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect::<Vec<_>>().join("  ")
}

/// Four significant digits: `5.120`, `0.001234`, `1.20e-6`, `498`, `12345`.
fn short(value: f64) -> String {
    let size = value.abs();
    if value != 0.0 && size.is_finite() && !(1e-4..1e7).contains(&size) {
        return format!("{value:.2e}");
    }
    let digits = if size >= 100.0 || size == 0.0 { 0 } else { (3.0 - size.log10().floor()) as usize };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);
    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }
    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, s: &str) -> std::io::Result<()> {
            self.clone().write_all(format!("{s}\n").as_bytes())
        }
        fn write_str(&self, s: &str) -> std::io::Result<()> {
            self.clone().write_all(s.as_bytes())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const RUN: Progress = Progress { first_step: 0, total_steps: 5, batch_size: 8 };

    fn train(console: &mut Console) {
        for step in 0..5 {
            console.record(step, "loss", 5.12 - step as f64).unwrap();
            console.record(step, "learning_rate", 0.002).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        console.message(4, "a warning").unwrap();
        console.flush().unwrap();
        console.flush().unwrap();
    }

    #[test]
    fn lines_show_the_first_step_and_the_last_once() {
        let screen = Screen::default();
        train(&mut Console::lines(Box::new(screen.clone()), RUN, Duration::from_secs(10)));
        let text = screen.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "step 1/5  loss 5.120  learning_rate 0.002000");
        assert_eq!(lines[1], "a warning");
        assert!(
            lines[2].starts_with("step 5/5") && lines[2].contains("examples/s  0 s left  loss 1.120"),
            "{text}"
        );
    }

    #[test]
    fn an_interval_of_nothing_shows_every_step() {
        let screen = Screen::default();
        train(&mut Console::lines(Box::new(screen.clone()), RUN, Duration::ZERO));
        assert_eq!(screen.text().lines().filter(|line| line.starts_with("step")).count(), 5);
    }

    #[test]
    fn a_quiet_console_shows_messages_alone() {
        let screen = Screen::default();
        train(&mut Console::messages(Box::new(screen.clone())));
        assert_eq!(screen.text(), "a warning\n");
    }

    #[test]
    fn the_bar_shows_steps_rate_and_metrics() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let mut console = Console::bar(target, RUN);
        train(&mut console);
        drop(console);
        let text = screen.text();
        assert!(text.contains("5/5") && text.contains("examples/s") && text.contains("loss 1.120"), "{text}");
        assert!(text.contains("a warning "), "{text}");
    }

    #[test]
    fn numbers_keep_four_digits() {
        let shown: Vec<_> =
            [5.12, 0.0012345, 1.2e-6, 498.3, 12345.0, 0.0, f64::NAN, -0.5, 3e8].map(short).into();
        assert_eq!(shown, ["5.120", "0.001234", "1.20e-6", "498", "12345", "0", "NaN", "-0.5000", "3.00e8"]);
    }
}
