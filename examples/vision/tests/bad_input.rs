//! Bad input: one line that says what, where, what was expected and what to do, and nothing is damaged.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
mod support;

use serde_json::Value;
use ssl_examples::testing::Ended;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{STEPS, gz, idx, images, run, tiny, vision, write_data};
use tempfile::{TempDir, tempdir};

/// The line with which a command that gets flags beside the usual ones is refused; it makes no directory.
#[track_caller]
fn refused(data: &Path, flags: &[&str], status: i32, parts: &[&str]) {
    let out = data.with_file_name("refused");
    let ended = run(tiny(data).args(flags).arg("--out").arg(&out));
    says(&ended, status, parts);
    assert!(!out.exists(), "{flags:?}");
}

#[track_caller]
fn says(ended: &Ended, status: i32, parts: &[&str]) {
    let line = ended.fails(status);
    for part in parts {
        assert!(line.contains(part), "expected {part}: {line}");
    }
}

/// A folder to work in, and data in it.
fn scene() -> (TempDir, PathBuf) {
    let root = tempdir().unwrap();
    let data = root.path().join("data");
    write_data(&data);
    (root, data)
}

/// Every file below a folder but those that a run appends to before it comes to what is wrong.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.to_string_lossy().contains("events.out") {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

#[test]
fn damaged_idx_files_are_named_with_what_is_wrong() {
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let whole = gz(&images(200));
    let corrupt = "gzip stream is truncated or corrupt after";
    let cases: [(&str, Vec<u8>, &[&str]); 8] = [
        ("train-images-idx3", whole[..whole.len() / 2].to_vec(), &[corrupt, "fetch the file again"]),
        ("train-images-idx3", flip(&whole, whole.len() / 2), &[corrupt]),
        ("train-images-idx3", flip(&whole, whole.len() - 6), &[corrupt]),
        ("train-images-idx3", gz(&images(200)[..9000]), &["expected 28816 bytes", "found 9000"]),
        (
            "train-images-idx3",
            b"GIF89a, no IDX".to_vec(),
            &["offset 0: expected magic 0x00000803", "0x47494638"],
        ),
        (
            "train-images-idx3",
            gz(&idx(0x803, &[0, 12, 12], &[])),
            &["at least one image", "found 0 of 12x12"],
        ),
        ("train-labels-idx1", gz(&idx(0x801, &[199], &[0; 199])), &["expected 200 labels", "found 199"]),
        ("t10k-images-idx3", gz(&images(40))[..300].to_vec(), &[corrupt]),
    ];
    for (name, bytes, parts) in cases {
        let (_root, data) = scene();
        let name = format!("{name}-ubyte.gz");
        fs::write(data.join(&name), bytes).unwrap();
        refused(&data, &[], 1, &[parts, &[&name]].concat());
    }
}

#[test]
fn a_path_without_images_is_refused_with_what_was_looked_for() {
    let (root, data) = scene();
    let at = |name: &str| root.path().join(name);
    refused(&at("nowhere"), &[], 1, &["nowhere: no such file or folder", "cargo xtask data list"]);
    fs::create_dir(at("empty")).unwrap();
    refused(&at("empty"), &[], 1, &["empty: no images: looked for IDX files", "jpg"]);
    fs::write(at("notes.txt"), "no images").unwrap();
    refused(&at("notes.txt"), &[], 1, &["notes.txt: offset 0: expected magic"]);
    let named = |name: &str, parts: &[&str]| {
        let mut command = vision(&["simclr", "--data", name, "--out"]);
        says(&run(command.arg(data.with_file_name("refused"))), 1, parts);
    };
    named("fashion-mnst", &["unknown data set `fashion-mnst`", "did you mean `fashion-mnist`?"]);
    named("fashion-mnist", &["fashion-mnist is not in no-store", "cargo xtask data fetch fashion-mnist"]);
}

#[test]
fn a_folder_that_may_not_be_read_is_named() {
    let root = tempdir().unwrap();
    let closed = root.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let (out, inner) = (root.path().join("out"), tiny(&closed));
    let Some(mut command) = without_privileges(&inner, root.path()) else {
        eprintln!("left out: root may read every folder, and there is no setpriv to take that away");
        return;
    };
    says(&run(command.arg("--out").arg(&out)), 1, &["closed: cannot read: Permission denied"]);
    assert!(!out.exists());
}

/// The command without root's right to read everything.
fn without_privileges(inner: &Command, own: &Path) -> Option<Command> {
    let is_root = fs::metadata(own).unwrap().uid() == 0;
    let drop = ["--bounding-set", "-dac_override,-dac_read_search"];
    let outer: &[&str] = if is_root { &["setpriv", drop[0], drop[1]] } else { &["env"] };
    let works = Command::new(outer[0]).args(&outer[1..]).arg("true").stderr(Stdio::null()).status();
    works.is_ok_and(|status| status.success()).then(|| wrapped(outer, inner))
}

/// A command behind another.
fn wrapped(outer: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(outer[0]);
    command.args(&outer[1..]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn flags_out_of_range_are_named_with_what_is_expected() {
    let (root, data) = scene();
    let cases: [(&[&str], i32, &[&str]); 19] = [
        (&["--limit", "0"], 1, &["--limit: expected at least 1, got 0"]),
        (&["--batch-size", "201"], 1, &["batch_size: expected at most 200", "got 201"]),
        (&["--batch-size", "0"], 1, &["batch_size: expected a number of at least 2, got 0"]),
        (&["--steps", "0", "--batch-size", "16"], 1, &["steps: expected at least one step"]),
        (&["--epochs", "nan"], 1, &["epochs: expected a number of at least 0, got NaN"]),
        (&["--learning-rate", "inf"], 1, &["learning_rate: expected a number", "got inf"]),
        (&["--clip-norm", "0"], 1, &["clip_norm: expected a number above 0, got 0"]),
        (&["--threads", "0"], 1, &["--threads: expected 1 to 1024, got 0"]),
        (&["--threads", "1000000"], 1, &["--threads: expected 1 to 1024, got 1000000"]),
        (&["--max-bad", "2"], 1, &["max_bad: expected 0 to 1, got 2"]),
        (&["--temperature", "0"], 1, &["temperature: expected a number above 0, got 0"]),
        (&["--temperature", "warm"], 1, &["--temperature: expected number, got warm"]),
        (&["--hidden-dim", "999999999999999"], 1, &["torch: ", "allocate"]),
        (&["--image-size", "0", "--batch-size", "16"], 1, &["size: expected 1 to 16384, got 0"]),
        (
            &["--device", "nonsense"],
            2,
            &["'nonsense' for '--device <DEVICE>': expected auto, cpu, cuda or cuda:INDEX"],
        ),
        (&["--device", "cuda:-1"], 2, &["expected auto, cpu, cuda or cuda:INDEX"]),
        (&["--optimizer", "adam"], 2, &["'adam' for '--optimizer <NAME>'"]),
        (&["--encoder", "resnet19"], 2, &["'resnet19' for '--encoder <NAME>'", "resnet18"]),
        (&["--nonsense"], 2, &["unexpected argument '--nonsense'"]),
    ];
    for (flags, status, parts) in cases {
        let mut command = vision(&["simclr", "--out", "refused", "--no-eval", "--data"]);
        let ended = run(command.arg(&data).args(flags).current_dir(root.path()));
        says(&ended, status, parts);
        assert!(!root.path().join("refused").exists(), "{flags:?}");
    }
    // Found in the first step or just before it, when the run has its directory.
    for (flags, part) in [
        (["--accumulate", "3"], "accumulate: expected a divisor of the batch size 16, got 3"),
        (["--prefetch", "99999999999"], "prefetch: expected at most 1024 batches, got 99999999999"),
    ] {
        let out = root.path().join(flags[1]);
        says(&run(tiny(&data).args(flags).arg("--out").arg(out)), 1, &[part]);
    }
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let (root, data) = scene();
    let ended = run(&mut vision(&["simclrr"]));
    says(&ended, 2, &["unrecognized subcommand 'simclrr'"]);
    assert!(ended.err.contains("a similar subcommand exists: 'simclr'"), "{}", ended.err);
    if !tch::Cuda::is_available() {
        refused(&data, &["--device", "cuda"], 1, &["device: cuda was asked for", "or use --device cpu"]);
    }
    let config = root.path().join("some.json");
    for (text, part) in [
        (None, "cannot read: No such file"),
        (Some("{x"), "expected the config.json of a run: key must be a string at line 1 column 2"),
        (Some("{}"), "expected the config.json of a run: missing field"),
    ] {
        if let Some(text) = text {
            fs::write(&config, text).unwrap();
        }
        refused(&data, &["--config", config.to_str().unwrap()], 1, &["some.json: ", part]);
    }
    let mut resume = vision(&["simclr", "--resume", "nowhere"]);
    says(&run(&mut resume), 1, &["nowhere: expected the directory of a run, with its config.json"]);
}

#[test]
fn a_run_goes_on_as_it_was_or_not_at_all() {
    let (root, data) = scene();
    let [out, other] = ["run", "other"].map(|name| root.path().join(name));
    run(tiny(&data).arg("--out").arg(&out)).succeeds();
    let before = files(&out);
    let resume = |method: &str, flags: &[&str]| {
        let mut command = vision(&[method, "--no-eval", "--resume", out.to_str().unwrap()]);
        run(command.args(flags))
    };
    let advice = "leave the flag out, or start a new run with --config";
    let names = ["recipe.encoder.arch is \"resnet10_w8\", the run had \"resnet10_w4\"", advice];
    says(&resume("simclr", &["--encoder", "resnet10_w8"]), 1, &names);
    says(&resume("simclr", &["--seed", "1"]), 1, &["cannot resume: seed is 1, the run had 0", advice]);
    says(&resume("rotation", &[]), 1, &["is of vision simclr, not of vision rotation: run vision simclr"]);
    says(&run(tiny(&data).arg("--out").arg(&out)), 1, &["holds a run already; go on with it by --resume"]);
    assert!(files(&out) == before);

    let mut wider =
        vision(&["simclr", "--threads", "1", "--no-eval", "--encoder", "resnet10_w8", "--config"]);
    run(wider.arg(out.join("config.json")).arg("--out").arg(&other)).succeeds();
    let checkpoint = format!("checkpoints/step-{STEPS:08}.safetensors");
    fs::rename(other.join(&checkpoint), out.join(&checkpoint)).unwrap();
    let before = files(&out);
    says(&resume("simclr", &[]), 1, &[&checkpoint, "expected Float [", "it is of another encoder"]);
    assert!(files(&out) == before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_advice() {
    let (root, data) = scene();
    let mut command = tiny(&data);
    command
        .args(["--learning-rate", "1e30", "--checkpoint-every", "1", "--out"])
        .arg(root.path().join("run"));
    says(&run(&mut command), 1, &["error: loss is NaN at step 1: lower the learning rate"]);
    assert!(!root.path().join("run/encoder.safetensors").exists());
}

#[test]
fn one_unreadable_picture_in_a_thousand_is_skipped_and_named() {
    let root = tempdir().unwrap();
    let data = root.path().join("pictures");
    write_pictures(&data, 1000);
    let cut = data.join("b/0499.jpg");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let out = root.path().join("out");

    let strict =
        run(tiny(&data).args(["--max-bad", "0.0005", "--quiet", "--out"]).arg(root.path().join("strict")));
    let parts = [
        "1 of 1000 images cannot be read, more than ",
        "0.0005 allows; the first is ",
        "b/0499.jpg: JPEG is truncated",
    ];
    says(&strict, 1, &parts);

    let ended = run(tiny(&data).args(["--quiet", "--out"]).arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds()).unwrap();
    assert_eq!((&summary["unreadable"], &summary["steps"]), (&1.into(), &STEPS.into()));
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    assert!(
        ended.err.starts_with(&format!("skipped: {}: JPEG is truncated", cut.display())),
        "{}",
        ended.err
    );
}

/// Grey JPEG pictures of 12x12 pixels in two class folders, those with odd numbers in the second.
fn write_pictures(folder: &Path, count: u16) {
    for class in ["a", "b"] {
        fs::create_dir_all(folder.join(class)).unwrap();
    }
    for index in 0..count {
        let pixels: Vec<u8> = (0..144).map(|at| ((at * 5 + index * 7) % 256) as u8).collect();
        let mut jpeg = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
        encoder.encode(&pixels, 12, 12, jpeg_encoder::ColorType::Luma).unwrap();
        fs::write(folder.join(["a", "b"][usize::from(index % 2)]).join(format!("{index:04}.jpg")), jpeg)
            .unwrap();
    }
}

/// A small disk, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=1m", "none"], &at).then_some(Disk(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(arguments).arg(at).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_is_named_and_the_run_goes_on_when_there_is_space() {
    let (root, data) = scene();
    let Some(disk) = Disk::mount(root.path().join("disk")) else {
        eprintln!("left out: no disk can be mounted here");
        return;
    };
    let [whole, out] = [root.path().join("whole"), disk.0.join("run")];
    run(tiny(&data).arg("--out").arg(&whole)).succeeds();
    let ended = run(tiny(&data).args(["--checkpoint-every", "1", "--keep", "99", "--out"]).arg(&out));
    let reason = "safetensors: cannot write: No space left on device (os error 28): free some space there";
    says(&ended, 1, &["disk/run/checkpoints/", reason]);
    assert!(!files(&out).keys().any(|path| path.to_string_lossy().ends_with(".partial")));

    assert!(mount(&["-o", "remount,size=64m"], &disk.0));
    run(vision(&["simclr", "--no-eval", "--resume"]).arg(&out)).succeeds();
    assert!(
        fs::read(out.join("encoder.safetensors")).unwrap()
            == fs::read(whole.join("encoder.safetensors")).unwrap()
    );
}

#[test]
fn a_file_that_may_not_grow_is_named_and_the_checkpoints_stay() {
    let (root, data) = scene();
    let out = root.path().join("run");
    run(tiny(&data).args(["--checkpoint-every", "10", "--out"]).arg(&out)).succeeds();
    let encoder = fs::read(out.join("encoder.safetensors")).unwrap();
    fs::remove_file(out.join(format!("checkpoints/step-{STEPS:08}.safetensors"))).unwrap();
    let before = files(&out);
    // Fifty or a hundred kilobytes, which a checkpoint exceeds; the program gets an error in place of a signal.
    let shell = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let mut resume = vision(&["simclr", "--no-eval", "--resume"]);
    let ended = run(&mut wrapped(&["sh", "-c", shell], resume.arg(&out)));
    says(
        &ended,
        1,
        &["checkpoints/", ".safetensors: cannot write: File too large (os error 27): free some space"],
    );
    let mut after = files(&out);
    after.retain(|path, _| !path.ends_with("metrics.jsonl"));
    assert!(after.iter().all(|(path, bytes)| before.get(path) == Some(bytes)));
    assert_eq!(after.len() + 1, before.len());

    run(&mut resume).succeeds();
    assert!(fs::read(out.join("encoder.safetensors")).unwrap() == encoder);
}

#[test]
#[cfg(target_os = "linux")]
fn a_standard_output_that_takes_nothing_is_an_error_and_no_panic() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let ended = vision(&["list"]).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(err, "error: cannot write to standard output: No space left on device (os error 28)\n");
}
