//! Runs that are killed, interrupted, or disturbed, and what is left when they go on: the uninterrupted run's files.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{STEPS, run, tiny, vision, write_data};
use tempfile::TempDir;

/// Kills spread over the duration of a run.
const KILLS: u32 = 24;

/// Data, and a run on it that nothing disturbed.
struct Scene {
    root: TempDir,
    flags: &'static [&'static str],
    took: Duration,
}

impl Scene {
    fn new(flags: &'static [&'static str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        write_data(&root.path().join("data"));
        let mut scene = Scene { root, flags, took: Duration::ZERO };
        let began = Instant::now();
        run(&mut scene.start("whole")).succeeds();
        scene.took = began.elapsed();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn start(&self, name: &str) -> Command {
        let mut command = tiny(&self.path("data"));
        command.args(self.flags).arg("--out").arg(self.path(name));
        command
    }

    fn resume(&self, name: &str) -> Command {
        let mut command = vision(&["simclr", "--no-eval"]);
        command.args(self.flags).arg("--resume").arg(self.path(name));
        command
    }

    /// What a person would type: a killed run goes on if it got as far as its configuration.
    fn go(&self, name: &str) -> Command {
        if self.path(name).join("config.json").exists() { self.resume(name) } else { self.start(name) }
    }

    /// Lets a run get to its end and compares what it made with what the uninterrupted one made.
    #[track_caller]
    fn finishes_equal(&self, name: &str) {
        run(&mut self.resume(name)).succeeds();
        self.assert_equal(name);
    }

    #[track_caller]
    fn assert_equal(&self, name: &str) {
        let (whole, other) = (self.path("whole"), self.path(name));
        let last = format!("checkpoints/step-{STEPS:08}.safetensors");
        for file in ["encoder.safetensors", "checkpoints/best.safetensors", "config.json", &last] {
            assert!(
                fs::read(whole.join(file)).unwrap() == fs::read(other.join(file)).unwrap(),
                "{name}: {file}"
            );
        }
        assert_eq!(losses(&whole), losses(&other));
        let names = |run: &Path| -> Vec<String> {
            let all = [run.to_path_buf(), run.join("checkpoints")]
                .into_iter()
                .flat_map(|d| fs::read_dir(d).unwrap());
            let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| !name.starts_with("events.out")).collect();
            names.sort();
            names
        };
        assert_eq!(names(&whole), names(&other), "nothing half written is left");
    }

    /// The newest checkpoint.
    fn newest(&self, name: &str) -> PathBuf {
        let entries = fs::read_dir(self.path(name).join("checkpoints")).unwrap();
        let numbered = entries.map(|entry| entry.unwrap().path());
        numbered.filter(|path| path.to_string_lossy().contains("/step-")).max().unwrap()
    }
}

/// The losses by step; there is one line for each step, in order.
#[track_caller]
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..STEPS).collect::<Vec<_>>());
    lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Starts a process whose messages go to a file, so that nobody has to read them.
fn spawn(command: &mut Command, messages: &Path) -> Child {
    command.stdout(Stdio::null()).stderr(File::create(messages).unwrap()).spawn().unwrap()
}

/// Kills a process after a while; whether it was still there.
#[track_caller]
fn kill_after(mut child: Child, delay: Duration, messages: &Path) -> bool {
    let began = Instant::now();
    while began.elapsed() < delay {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{}", fs::read_to_string(messages).unwrap());
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Waits until something is so while a process runs.
#[track_caller]
fn wait_until(child: &mut Child, mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "the process ended first");
        sleep(Duration::from_micros(200));
    }
}

#[track_caller]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

/// Runs are killed until there have been enough kills; each ends as if nothing had happened.
fn killed_runs_end_equal(flags: &'static [&'static str]) {
    let scene = Scene::new(flags);
    let messages = scene.path("messages");
    let (mut kills, mut attempt, mut finished) = (0, 0, 0);
    while kills < KILLS {
        let name = format!("killed-{finished}");
        // Steps of the golden ratio are spread evenly, however many there are.
        let part = (f64::from(attempt) * 0.618_034).fract();
        attempt += 1;
        if kill_after(spawn(&mut scene.go(&name), &messages), scene.took.mul_f64(part), &messages) {
            kills += 1;
        } else {
            scene.assert_equal(&name);
            finished += 1;
        }
    }
    let name = format!("killed-{finished}");
    run(&mut scene.go(&name)).succeeds();
    scene.assert_equal(&name);
}

#[test]
fn runs_killed_at_any_moment_end_equal() {
    killed_runs_end_equal(&["--looks", "4", "--checkpoint-every", "4"]);
}

#[test]
fn runs_killed_amid_checkpoints_end_equal() {
    killed_runs_end_equal(&["--looks", "4", "--checkpoint-every", "1"]);
}

#[test]
fn what_a_kill_amid_a_write_leaves_does_no_harm() {
    let scene = Scene::new(&["--checkpoint-every", "1"]);
    let (checkpoints, messages) = (scene.path("torn/checkpoints"), scene.path("messages"));
    let mut child = spawn(&mut scene.start("torn"), &messages);
    wait_until(&mut child, || checkpoints.join("step-00000010.safetensors").exists());
    child.kill().unwrap();
    child.wait().unwrap();

    // As if the kill had come half way through a file, and as if the power had gone and the newest were cut.
    let newest = scene.newest("torn");
    let bytes = fs::read(&newest).unwrap();
    let half = &bytes[..bytes.len() / 2];
    fs::write(&newest, half).unwrap();
    fs::write(checkpoints.join(".step-00000099.safetensors.4711.partial"), half).unwrap();
    fs::write(scene.path("torn/.config.json.4711.partial"), "{").unwrap();
    let mut metrics = fs::read(scene.path("torn/metrics.jsonl")).unwrap();
    metrics.extend(b"{\"step\":29,\"lo");
    fs::write(scene.path("torn/metrics.jsonl"), metrics).unwrap();

    let resumed = run(&mut scene.resume("torn"));
    resumed.succeeds();
    let name = newest.file_name().unwrap().to_str().unwrap();
    let warning = resumed.err.lines().find(|line| line.starts_with("warning: checkpoint ")).unwrap();
    assert!(warning.contains(name) && warning.contains("damaged"), "{warning}");
    scene.assert_equal("torn");
}

#[test]
fn a_run_without_a_checkpoint_that_reads_is_not_begun_anew_in_silence() {
    let scene = Scene::new(&[]);
    for entry in fs::read_dir(scene.path("whole/checkpoints")).unwrap() {
        fs::write(entry.unwrap().path(), "torn").unwrap();
    }
    let before = fs::read(scene.path("whole/metrics.jsonl")).unwrap();
    let ended = run(&mut scene.resume("whole"));
    let line = ended.fails(1);
    assert!(line.contains(&format!("step-{STEPS:08}.safetensors: expected a safetensors file")), "{line}");
    assert_eq!(fs::read(scene.path("whole/metrics.jsonl")).unwrap(), before);
}

#[test]
fn an_interrupt_saves_says_how_to_go_on_and_changes_nothing() {
    let scene = Scene::new(&["--checkpoint-every", "0", "--keep", "1"]);
    let (metrics, messages) = (scene.path("stopped/metrics.jsonl"), scene.path("messages"));
    let mut child = spawn(&mut scene.start("stopped"), &messages);
    wait_until(&mut child, || fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 1));
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let said = fs::read_to_string(&messages).unwrap();
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("stopped before step ") && line.contains("go on with: "), "{said}");
    assert!(line.ends_with(&format!("vision simclr --resume {}", scene.path("stopped").display())), "{said}");
    assert!(!scene.path("stopped/encoder.safetensors").exists());
    scene.finishes_equal("stopped");
}

#[test]
fn two_runs_in_one_directory_do_not_meet() {
    let scene = Scene::new(&["--checkpoint-every", "1"]);
    let messages = scene.path("messages");
    let mut first = spawn(&mut scene.start("shared"), &messages);
    wait_until(&mut first, || scene.path("shared/metrics.jsonl").exists());
    signal(&first, "STOP");
    for second in [&mut scene.start("shared"), &mut scene.resume("shared")] {
        let ended = run(second);
        let line = ended.fails(1);
        assert!(
            line.contains("shared: another run is writing here; wait for it, or choose another --out"),
            "{line}"
        );
    }
    signal(&first, "CONT");
    assert!(first.wait().unwrap().success(), "{}", fs::read_to_string(&messages).unwrap());
    scene.assert_equal("shared");
}

#[test]
fn the_precision_and_threads_of_a_run_are_kept_when_it_goes_on() {
    let scene = Scene::new(&[]);
    for (precision, name) in [("fp32", "a"), ("bf16", "b")] {
        let mut command = scene.start(name);
        run(command.args(["--precision", precision])).succeeds();
        let whole = fs::read(scene.path(name).join("encoder.safetensors")).unwrap();
        fs::remove_file(scene.newest(name)).unwrap();
        let resumed = run(&mut scene.resume(name));
        let summary: Value = serde_json::from_str(resumed.succeeds()).unwrap();
        assert_eq!((&summary["precision"], &summary["threads"]), (&precision.into(), &1.into()));
        assert!(fs::read(scene.path(name).join("encoder.safetensors")).unwrap() == whole, "{precision}");
    }
}
