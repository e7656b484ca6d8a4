//! What `readers::open` makes of folders, archives and manifests as people have them, good and bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod common;

use common::{fixture, message, options, tone, train, wav};
use proptest::prelude::*;
use ssl_audio::readers::{Options, Shorter, Silent, Split, open, read_window};
use ssl_audio::{AudioDataset, Resampler};
use ssl_core::Error;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// A folder of files of 8 kHz: path, and level of the tone in them.
fn folder(files: &[(&str, usize)]) -> TempDir {
    let root = tempdir().unwrap();
    files.iter().for_each(|(name, level)| wav(&root.path().join(name), 8_000, 1, &tone(*level, 400)));
    root
}

/// The levels of the tones.
fn levels(set: &dyn AudioDataset) -> Vec<usize> {
    let peak = |index| set.clip(index).unwrap().iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    (0..set.len()).map(|index| (peak(index) * 32_768.0 / 500.0).round() as usize).collect()
}

const SPLITS: [(&str, usize); 6] = [
    ("train/dog/b.wav", 2),
    ("train/dog/a.wav", 1),
    ("train/cat/deep/c.wav", 3),
    ("test/dog/d.wav", 4),
    ("test/emu/e.wav", 5),
    (".hidden/f.wav", 6),
];

fn check_splits(path: &Path) {
    let set = train(path).unwrap();
    assert_eq!(levels(&*set), [3, 1, 2]);
    assert_eq!(
        (set.labels(), set.class_names()),
        (Some(vec![0, 1, 1]), &["cat".to_string(), "dog".into()][..])
    );
    let test = open(path, Split::Test, &options(0.0)).unwrap();
    assert_eq!(levels(&*test), [4, 5]);
    assert_eq!((test.labels(), test.class_names().len()), (Some(vec![1, 2]), 3));
    let missing = open(path, Split::Unlabelled, &options(0.0)).unwrap_err();
    assert!(matches!(missing, Error::Absent { .. }), "{missing}");
}

#[test]
fn folders_are_splits_then_classes_then_clips() {
    check_splits(folder(&SPLITS).path());
}

#[test]
fn a_tar_is_read_as_the_folder_that_it_holds() {
    let (root, out) = (folder(&SPLITS), tempdir().unwrap());
    let path = out.path().join("sounds.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    tar.append_dir_all("top", root.path()).unwrap();
    tar.append_path_with_name(fixture("tone.flac"), "top/train/cat/z.flac").unwrap();
    tar.finish().unwrap();
    let set = train(&path).unwrap();
    assert_eq!(set.len(), 4);
    assert!(set.name(1).starts_with("top/train/cat/z.flac in "), "{}", set.name(1));
    assert_eq!(set.clip(1).unwrap(), read_window(&fixture("tone.flac"), 0, 30_000).unwrap());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..20_000]).unwrap();
    assert!(message(train(&path)).contains("truncated"));
    fs::rename(&path, out.path().join("sounds.tar.gz")).unwrap();
    assert!(message(train(&out.path().join("sounds.tar.gz"))).ends_with("inflate it first"));
}

#[test]
fn class_folders_without_splits_are_a_training_set() {
    let root = folder(&[("one/a.wav", 1), ("two/b.wav", 2)]);
    assert_eq!(train(root.path()).unwrap().labels(), Some(vec![0, 1]));
    assert!(matches!(open(root.path(), Split::Test, &options(0.0)), Err(Error::Absent { .. })));
    wav(&root.path().join("c.wav"), 8_000, 1, &tone(3, 400));
    assert_eq!(train(root.path()).unwrap().labels(), None, "one clip has no class");
}

#[test]
fn one_file_is_a_set_of_one_clip() {
    let set = train(&fixture("tone.ogg")).unwrap();
    assert_eq!((set.len(), set.frames(0), set.seconds(0)), (1, 30_000, 3.75));
    assert!(matches!(open(&fixture("tone.ogg"), Split::Test, &options(0.0)), Err(Error::Absent { .. })));
}

#[test]
fn the_lists_of_speech_commands_and_the_table_of_esc50_say_which_clips_are_for_the_test() {
    let root = folder(&[
        ("top/yes/a.wav", 1),
        ("top/yes/b.wav", 2),
        ("top/no/c.wav", 3),
        ("top/no/d.wav", 4),
        ("top/_background_noise_/hum.wav", 5),
    ]);
    fs::write(root.path().join("top/testing_list.txt"), "yes/b.wav\n").unwrap();
    fs::write(root.path().join("top/validation_list.txt"), "no/d.wav\n").unwrap();
    let set = train(root.path()).unwrap();
    assert_eq!(
        (levels(&*set), set.labels(), set.class_names().concat()),
        (vec![3, 1], Some(vec![0, 1]), "noyes".into())
    );
    let test = open(root.path(), Split::Test, &options(0.0)).unwrap();
    assert_eq!((levels(&*test), test.labels()), (vec![2], Some(vec![1])));
    assert!(matches!(open(root.path(), Split::Unlabelled, &options(0.0)), Err(Error::Absent { .. })));

    let root = folder(&[("audio/a.wav", 1), ("audio/b.wav", 2), ("audio/c.wav", 3)]);
    let table = root.path().join("meta/esc50.csv");
    fs::create_dir(root.path().join("meta")).unwrap();
    fs::write(&table, "filename,fold,target,category\nb.wav,1,1,rain\na.wav,5,0,dog\nc.wav,2,0,dog\n")
        .unwrap();
    let set = train(root.path()).unwrap();
    assert_eq!((levels(&*set), set.labels()), (vec![2, 3], Some(vec![1, 0])));
    assert_eq!(open(root.path(), Split::Test, &options(0.0)).unwrap().labels(), Some(vec![0]));
    fs::write(&table, "filename,fold,target,category\nb.wav,1\n").unwrap();
    assert!(message(train(root.path())).ends_with("esc50.csv: line 2: expected 4 fields, got 2"));
    fs::write(&table, "a,b\n").unwrap();
    assert!(message(train(root.path())).ends_with("line 1: expected a column filename, found a, b"));
}

#[test]
fn a_manifest_names_clips_and_parts_of_clips() {
    let root = folder(&[("a.wav", 1), ("sub/b.wav", 2), ("c.wav", 3)]);
    let path = root.path().join("list.jsonl");
    let lines = [
        r#"{"audio": "sub/b.wav", "label": "hi", "start": 0.01, "seconds": 0.02}"#,
        "",
        r#"{"audio": "a.wav", "label": "ho"}"#,
        r#"{"audio": "c.wav", "label": "ho", "split": "test", "start": 0.025}"#,
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let set = train(&path).unwrap();
    assert_eq!((set.frames(0), set.frames(1), set.labels()), (160, 400, Some(vec![0, 1])));
    assert_eq!(set.clip(0).unwrap(), read_window(&root.path().join("sub/b.wav"), 80, 160).unwrap());
    let faster = open(&path, Split::Train, &Options::default()).unwrap();
    let part = read_window(&root.path().join("sub/b.wav"), 80, 160).unwrap();
    assert_eq!(faster.clip(0).unwrap(), Resampler::new(8_000, 16_000).unwrap().whole(&part));
    let test = open(&path, Split::Test, &options(0.0)).unwrap();
    assert_eq!((test.frames(0), test.labels()), (200, Some(vec![1])));
    for (line, expected) in [
        (
            r#"{"audio": "a.wav", "lable": 3}"#,
            "line 1: expected {\"audio\": PATH, ..}: unknown field `lable`",
        ),
        (r#"{"audio": "a.wav", "start": -1}"#, "line 1: start: expected seconds of at least 0, got -1"),
        (r#"{"audio": "a.wav", "seconds": 0}"#, "line 1: seconds: expected more than 0, got 0"),
        (r#"{"audio": "a.wav", "start": 1}"#, "expected a part within its 0.05 s, got 1"),
        (r#"{"audio": "a.wav", "seconds": 0.1}"#, "expected a part within its 0.05 s, got 0 to 0.1"),
        (r#"{"audio": "none.wav"}"#, "none.wav: No such file"),
    ] {
        fs::write(&path, line).unwrap();
        let said = message(train(&path));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn labels_that_are_numbers_are_sorted_as_numbers() {
    let root = folder(&[("a.wav", 1)]);
    let path = root.path().join("list.jsonl");
    let lines: String =
        [10, 9, 10, 2].map(|n| format!("{{\"audio\": \"a.wav\", \"label\": {n}}}\n")).concat();
    fs::write(&path, lines).unwrap();
    let set = train(&path).unwrap();
    assert_eq!((set.labels(), set.class_names().concat()), (Some(vec![2, 1, 2, 0]), "2910".to_string()));
}

#[test]
fn empty_folders_and_foreign_files_say_what_was_looked_for() {
    let root = tempdir().unwrap();
    let said = message(train(root.path()));
    assert!(said.contains("no sound: looked for sound (wav, wave, flac, mp3, ogg, oga)"), "{said}");
    let text = root.path().join("text.wav");
    fs::write(&text, "just text\n").unwrap();
    let said = message(train(root.path()));
    assert!(
        said.ends_with(
            "text.wav: expected WAV, FLAC, MP3 or Ogg Vorbis, the file begins with \"just text\\n\""
        )
    );
    let said = message(train(&text));
    assert_eq!(said.matches("text.wav").count(), 1, "{said}");
}

#[test]
fn unreadable_clips_are_left_out_and_named_up_to_a_limit() {
    let root = folder(&[("a.wav", 1), ("b.wav", 2), ("c.wav", 3)]);
    fs::write(root.path().join("d.wav"), "no sound").unwrap();
    let set = open(root.path(), Split::Train, &options(0.25)).unwrap();
    assert_eq!(levels(&*set), [1, 2, 3]);
    assert!(set.skipped().len() == 1 && set.skipped()[0].contains("d.wav: expected WAV"));
    let said = message(open(root.path(), Split::Train, &options(0.24)));
    assert!(
        said.contains("1 of 4 clips cannot be read, more than max_bad 0.24 allows; the first is "),
        "{said}"
    );
}

#[test]
fn a_clip_that_breaks_off_later_is_replaced_by_the_next_of_its_class() {
    let root = folder(&[("x/a.wav", 1), ("y/b.wav", 2), ("y/c.wav", 3)]);
    let flac = fs::read(fixture("tone.flac")).unwrap();
    fs::write(root.path().join("y/a.flac"), &flac[..flac.len() / 2]).unwrap();
    let set = open(root.path(), Split::Train, &options(0.3)).unwrap();
    assert_eq!((set.len(), set.frames(1), set.skipped().len()), (4, 30_000, 0));
    for _ in 0..2 {
        assert_eq!(set.window(1, 25_000, 100).unwrap(), set.window(2, 300, 100).unwrap());
        assert_eq!(set.window(1, 24_000, 400).unwrap(), set.window(2, 0, 400).unwrap());
    }
    let first = read_window(&fixture("tone.flac"), 100, 400).unwrap();
    assert!(set.window(1, 100, 400).unwrap() == first, "what is there is read");
    assert!(
        set.skipped().len() == 1 && set.skipped()[0].contains("a.flac: truncated"),
        "{:?}",
        set.skipped()
    );
    // Behind the last of a class comes its first, not the next class.
    fs::rename(root.path().join("y/a.flac"), root.path().join("x/z.flac")).unwrap();
    let set = open(root.path(), Split::Train, &options(0.3)).unwrap();
    assert_eq!(set.window(1, 29_000, 9).unwrap(), set.window(0, 391, 9).unwrap());
    let strict = open(root.path(), Split::Train, &options(0.0)).unwrap();
    assert!(message(strict.window(1, 25_000, 100)).contains("1 of 4 clips cannot be read"));
}

#[test]
fn short_and_silent_clips_stay_or_are_left_out_as_asked() {
    let root = folder(&[("a.wav", 1), ("b.wav", 0)]);
    wav(&root.path().join("c.wav"), 8_000, 1, &[1]);
    let all = train(root.path()).unwrap();
    assert_eq!((all.len(), all.window(2, 0, 3).unwrap()), (3, vec![1.0 / 32_768.0, 0.0, 0.0]));
    let long = Options { shorter: Shorter::Skip(0.05), ..options(0.0) };
    let long = open(root.path(), Split::Train, &long).unwrap();
    assert_eq!(long.len(), 2);
    assert!(long.skipped()[0].ends_with("c.wav: 0.000 s, shorter than 0.05 s"), "{:?}", long.skipped());
    let loud = Options { silent: Silent::Skip(-60.0), ..options(0.0) };
    let loud = open(root.path(), Split::Train, &loud).unwrap();
    assert_eq!((loud.len(), loud.skipped().len()), (1, 2));
    assert!(
        loud.skipped()[0].ends_with("b.wav: silent, its peak is -inf dB, below -60 dB"),
        "{:?}",
        loud.skipped()
    );
    let none = Options { shorter: Shorter::Skip(9.0), ..options(0.0) };
    assert!(message(open(root.path(), Split::Train, &none)).contains("all 3 are left out"));
}

#[test]
fn options_out_of_range_are_named() {
    for (name, bad) in [
        ("sample_rate", Options { sample_rate: 0, ..Options::default() }),
        ("max_bad", Options { max_bad: 1.5, ..Options::default() }),
        ("shorter", Options { shorter: Shorter::Skip(f64::NAN), ..Options::default() }),
        ("silent", Options { silent: Silent::Skip(3.0), ..Options::default() }),
    ] {
        let said = message(open(Path::new("."), Split::Train, &bad));
        assert!(said.starts_with(&format!("{name}: expected")), "{said}");
    }
}

#[test]
fn clips_of_every_rate_come_out_at_the_rate_of_the_set() {
    let root = tempdir().unwrap();
    for rate in [8_000u32, 16_000, 44_100, 192_000] {
        let sine =
            |n| (16_384.0 * (f64::from(n) * 400.0 * std::f64::consts::TAU / f64::from(rate)).sin()) as i16;
        wav(
            &root.path().join(format!("{rate:06}.wav")),
            rate,
            1,
            &(0..rate / 5).map(sine).collect::<Vec<_>>(),
        );
    }
    let set = open(root.path(), Split::Train, &Options::default()).unwrap();
    let clips: Vec<_> = (0..4).map(|index| set.clip(index).unwrap()).collect();
    for clip in &clips {
        assert_eq!(clip.len(), 3_200);
        let far =
            clip[400..2_800].iter().zip(&clips[1][400..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn a_window_is_that_part_of_the_clip_whether_it_is_kept_in_memory_or_not(
        file in 0usize..3, start in 0u64..26_000, len in 1usize..2_000, rate in prop::sample::select(vec![8_000u32, 11_025]),
    ) {
        let path = fixture(["tone.flac", "tone.ogg", "tone.mp3"][file]);
        let kept = Options { sample_rate: rate, ..Options::default() };
        let read = Options { cache_bytes: 0, ..kept.clone() };
        let (kept, read) = (open(&path, Split::Train, &kept).unwrap(), open(&path, Split::Train, &read).unwrap());
        let clip = kept.clip(0).unwrap();
        prop_assert_eq!(clip.len() as u64, kept.frames(0));
        let expected = &clip[start as usize..start as usize + len];
        prop_assert_eq!(&kept.window(0, start, len).unwrap()[..], expected);
        prop_assert_eq!(&read.window(0, start, len).unwrap()[..], expected);
    }
}

#[test]
#[cfg(unix)]
fn windows_of_a_large_file_are_read_without_the_rest() {
    let root = tempdir().unwrap();
    let path = root.path().join("long.wav");
    wav(&path, 8_000, 1, &tone(1, 10));
    // Two hours of silence that take no place on the disk, and a length in the header to fit.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let bytes = 2 * 3_600 * 8_000 * 2u64;
    file.set_len(44 + bytes).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &(bytes as u32).to_le_bytes(), 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &8_192i16.to_le_bytes(), 44 + bytes - 2).unwrap();
    let begin = std::time::Instant::now();
    let set = open(&path, Split::Train, &Options::default()).unwrap();
    assert_eq!(set.frames(0), 2 * 3_600 * 16_000);
    let end = set.window(0, set.frames(0) - 100, 200).unwrap();
    assert!((end[98] - 0.25).abs() < 0.02 && end[..40].iter().all(|x| x.abs() < 0.01), "{:?}", &end[90..110]);
    assert!(begin.elapsed().as_secs_f64() < 0.5, "{:?}", begin.elapsed());
}
