//! Folders of videos of each kind, sound and not, without the programs that decode them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]
mod support;

use ssl_video::readers::{Fit, Options, Shorter, Split, info, open};
use ssl_video::{Clean, VideoDataset};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use support::{frames, npy, stand_in, write};

fn message(path: &Path, split: Split, options: &Options) -> String {
    let message = open(path, split, options).map(|_| ()).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// The first byte of each frame.
fn letters(set: &dyn VideoDataset, index: usize, frames: &[usize]) -> String {
    let clip = set.clip(index, frames).unwrap();
    clip.chunks(set.frame_bytes()).map(|frame| frame[0] as char).collect()
}

fn without_programs() -> Options {
    Options { ffmpeg: "/no/such/ffmpeg".into(), ffprobe: "/no/such/ffprobe".into(), ..Options::default() }
}

#[test]
#[cfg(unix)]
fn a_window_that_is_decoded_by_seeking_is_that_of_the_whole_video() {
    let (data, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&data.path().join("a.mp4"), "video 400 30000/1001 30000/1001");
    let options = stand_in(programs.path());
    let kept = open(data.path(), Split::Train, &options).unwrap();
    let read = open(data.path(), Split::Train, &Options { cache_bytes: 0, ..options.clone() }).unwrap();
    assert_eq!((kept.frames(0), kept.rate(0)), (400, 30_000.0 / 1_001.0));
    for set in [kept, read] {
        for _ in 0..2 {
            assert_eq!(letters(&*set, 0, &[3, 1, 2]), "DBC");
            assert_eq!(letters(&*set, 0, &[25, 26, 27, 350]), "ZABM");
            assert_eq!(letters(&*set, 0, &[0, 399, 400, 401, 5_000]), "AJABS");
        }
        assert_eq!(letters(&*set, 0, &[]), "");
        assert!(set.skipped().is_empty() && set.notes().is_empty());
    }
    let info = info(&data.path().join("a.mp4"), &options).unwrap();
    assert_eq!((info.width, info.height, info.frames, info.is_even), (6, 4, 400, true));
}

#[test]
#[cfg(unix)]
fn what_is_unreadable_is_named_and_left_out_up_to_a_limit() {
    let (data, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| write(&data.path().join(name), text);
    (0..4).for_each(|n| file(&format!("good{n}.mp4"), "video 5 10/1 10/1"));
    file("broken.mp4", "broken");
    file("empty.mp4", "");
    file("sound.mp4", "sound 0 0/0 0/0");
    file("none.mkv", "video 0 10/1 10/1");
    let options = stand_in(programs.path());
    let expected = "4 of 8 videos cannot be read, more than max_bad 0.01 allows; the first is";
    assert!(message(data.path(), Split::Train, &options).contains(expected));
    let set = open(data.path(), Split::Train, &Options { max_bad: 0.5, ..options.clone() }).unwrap();
    let path = data.path().display();
    let reasons = [
        ("broken.mp4", "moov atom not found; Invalid data found when processing input"),
        ("empty.mp4", "expected a video, the file is empty"),
        ("none.mkv", "expected frames, the video has 0"),
        ("sound.mp4", "expected a video, the file has only: audio"),
    ];
    assert_eq!(set.skipped(), reasons.map(|(name, reason)| format!("{path}/{name}: {reason}")));
    assert_eq!((set.len(), set.labels(), set.name(3)), (4, None, format!("{path}/good3.mp4")));
    let alone = data.path().join("broken.mp4");
    let expected =
        format!("{}: moov atom not found; Invalid data found when processing input", alone.display());
    assert_eq!(message(&alone, Split::Train, &options), expected);
    assert_eq!(info(&alone, &options).unwrap_err().to_string(), expected);
}

#[test]
#[cfg(unix)]
fn a_program_that_is_killed_or_breaks_off_costs_its_video_alone() {
    let (data, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&data.path().join("a.mp4"), "killed 20 10/1 10/1");
    write(&data.path().join("b.mp4"), "short 20 10/1 10/1");
    write(&data.path().join("c.mp4"), "video 20 10/1 10/1");
    for cache_bytes in [0, 1 << 20] {
        let options = Options { max_bad: 0.7, cache_bytes, ..stand_in(programs.path()) };
        let set = open(data.path(), Split::Train, &options).unwrap();
        assert_eq!(letters(&*set, 0, &[0, 1, 2]), "ABC", "what comes before it is sound");
        assert_eq!(letters(&*set, 0, &[6, 7, 8, 9, 10]), "GHIJK", "that of the next readable video");
        let skipped = set.skipped();
        assert!(
            skipped[0].contains(
                "a.mp4: truncated: expected 20 frames, it breaks off after 9: ffmpeg ended with signal: 9"
            ),
            "{skipped:?}"
        );
        assert_eq!(letters(&*set, 1, &[12]), "M");
        let skipped = set.skipped();
        assert!(
            skipped[1].ends_with(
                "b.mp4: truncated: expected 20 frames, it breaks off after 12: error while decoding MB 3 4"
            ),
            "{skipped:?}"
        );
        assert_eq!(letters(&*set, 1, &[9, 8]), "JI");
    }
    let strict = open(data.path(), Split::Train, &stand_in(programs.path())).unwrap();
    let message = strict.clip(0, &[10, 13]).unwrap_err().to_string();
    assert!(message.contains("1 of 3 videos cannot be read, more than max_bad 0.01 allows"), "{message}");
}

#[test]
#[cfg(unix)]
fn a_few_frames_that_are_missing_at_the_end_are_the_last_one_again() {
    let (data, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&data.path().join("a.mp4"), "ends 20 10/1 10/1");
    for cache_bytes in [0, 1 << 20] {
        let set =
            open(data.path(), Split::Train, &Options { cache_bytes, ..stand_in(programs.path()) }).unwrap();
        for _ in 0..2 {
            assert_eq!(letters(&*set, 0, &[16, 17, 18, 19]), "QRRR");
            assert_eq!(letters(&*set, 0, &[19]), "R");
        }
    }
}

#[test]
fn without_the_programs_what_needs_them_says_how_to_get_them() {
    let data = tempfile::tempdir().unwrap();
    write(&data.path().join("a.mp4"), "a video");
    let found = message(data.path(), Split::Train, &without_programs());
    assert!(
        found.starts_with("ffmpeg: cannot start the program /no/such/ffmpeg, which decodes videos: "),
        "{found}"
    );
    assert!(found.contains("apt install ffmpeg"), "{found}");
}

#[test]
fn frames_animations_and_arrays_need_no_program() {
    let data = tempfile::tempdir().unwrap();
    let at = |name: &str| data.path().join(name);
    let frame_values: Vec<u8> = (0..12).map(|n| 65 + n).collect();
    frames(&at("train/b/one"), &frame_values);
    frames(&at("train/b/two"), &frame_values[..3]);
    npy(&at("train/a/many.npy"), "(2, 3, 4, 4)", &(0..96).collect::<Vec<u8>>());
    frames(&at("test/b/three"), &[90]);
    gif(&at("test/c/four.gif"), &[200, 200, 200]);
    write(&at("train/b/readme.txt"), "no video");
    write(&at("train/.hidden/x.mp4"), "no video");
    let options = Options { size: [4, 4], channels: 1, ..without_programs() };
    let train = open(data.path(), Split::Train, &options).unwrap();
    assert_eq!((train.len(), train.labels()), (4, Some(vec![0, 0, 1, 1])));
    assert_eq!(
        (train.class_names(), train.frames(2), train.rate(2)),
        (&["a".to_string(), "b".to_string()][..], 12, 10.0)
    );
    assert_eq!(letters(&*train, 2, &[2, 10, 11, 12]), "CKLA");
    assert_eq!(train.clip(1, &[2]).unwrap(), (80..96).collect::<Vec<u8>>());
    assert!(train.name(1).starts_with("video 1 of ") && train.name(3).ends_with("two"));
    let test = open(data.path(), Split::Test, &options).unwrap();
    assert_eq!((test.labels(), test.class_names().len()), (Some(vec![1, 2]), 3));
    assert_eq!((test.frames(1), test.rate(1)), (3, 5.0));
    assert!(
        message(data.path(), Split::Unlabelled, &options)
            .ends_with("no unlabelled videos: found test, train and no other split")
    );
    // Twice the rate of the GIF, half that of the frames.
    let paced = Options { rate: Some(10.0), unknown_rate: 20.0, ..options.clone() };
    let test = open(data.path(), Split::Test, &paced).unwrap();
    assert_eq!((test.frames(1), test.rate(1)), (6, 10.0));
    let train = open(data.path(), Split::Train, &paced).unwrap();
    assert_eq!((train.frames(2), letters(&*train, 2, &[0, 1, 5])), (6, "BDL".to_string()));
    // A folder of frames is a video itself.
    let one = open(&at("train/b/one"), Split::Train, &options).unwrap();
    assert_eq!((one.len(), one.frames(0)), (1, 12));
    assert_eq!(info(&at("train/b/one"), &options).unwrap().rate, None);
}

fn gif(path: &Path, shown: &[u32]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder = image::codecs::gif::GifEncoder::new(fs::File::create(path).unwrap());
    for (n, &ms) in shown.iter().enumerate() {
        let picture = image::RgbaImage::from_pixel(5, 5, image::Rgba([65 + n as u8; 4].map(|v| v | 1)));
        let delay = image::Delay::from_numer_denom_ms(ms, 1);
        encoder.encode_frame(image::Frame::from_parts(picture, 0, 0, delay)).unwrap();
    }
}

#[test]
fn uneven_frames_are_read_by_their_times_and_said() {
    let data = tempfile::tempdir().unwrap();
    gif(&data.path().join("a.gif"), &[1_000, 500, 500]);
    gif(&data.path().join("b.gif"), &[100, 100]);
    let set = open(data.path(), Split::Train, &Options { size: [2, 2], ..without_programs() }).unwrap();
    assert_eq!((set.frames(0), set.rate(0)), (3, 1.5));
    let path = data.path().join("a.gif");
    let expected = "its frames do not follow evenly: read by their times at 1.500 frames per second";
    assert_eq!(set.notes(), [format!("{}: {expected}", path.display())]);
}

#[test]
fn short_videos_are_left_out_where_that_is_asked_for() {
    let data = tempfile::tempdir().unwrap();
    frames(&data.path().join("long"), &[1, 2, 3, 4]);
    frames(&data.path().join("short"), &[1, 2]);
    let options = Options { size: [4, 4], channels: 1, shorter: Shorter::Skip(3), ..without_programs() };
    let set = open(data.path(), Split::Train, &options).unwrap();
    assert_eq!(set.len(), 1);
    assert_eq!(set.skipped(), [format!("{}: 2 frames, shorter than 3", data.path().join("short").display())]);
    let none = Options { shorter: Shorter::Skip(9), ..options };
    let expected = "expected at least one video, all 2 are left out";
    assert!(message(data.path(), Split::Train, &none).contains(expected));
}

#[test]
fn a_frame_that_is_broken_is_named_with_its_video() {
    let data = tempfile::tempdir().unwrap();
    frames(&data.path().join("a"), &[65, 66, 67]);
    frames(&data.path().join("b"), &[75, 76, 77]);
    write(&data.path().join("a/f1.png"), "nothing");
    let options = Options { size: [4, 4], channels: 1, max_bad: 0.5, ..without_programs() };
    let set = open(data.path(), Split::Train, &options).unwrap();
    assert_eq!(
        (letters(&*set, 0, &[0, 2]), letters(&*set, 0, &[0, 1])),
        ("AC".to_string(), "KL".to_string())
    );
    assert!(set.skipped()[0].contains("a: frame f1.png: expected a PNG, JPEG"), "{:?}", set.skipped());
}

#[test]
fn ten_thousand_files_are_a_set_like_any_other() {
    let data = tempfile::tempdir().unwrap();
    for n in 0..10_000usize {
        npy(&data.path().join(format!("{}/{n}.npy", n % 7)), "(2, 1, 1)", &[(n % 251) as u8, 255]);
    }
    let options = Options { size: [1, 1], channels: 1, cache_bytes: 1_000, ..without_programs() };
    let set: Arc<dyn VideoDataset> = open(data.path(), Split::Train, &options).unwrap();
    assert_eq!((set.len(), set.class_names().len()), (10_000, 7));
    let clean = Clean { frames: 2, size: 1, mean: vec![0.0], std: vec![1.0 / 255.0], ..Clean::default() };
    let batch = clean.batch(&*set, &(0..10_000).collect::<Vec<_>>()).unwrap();
    assert_eq!(batch.select(2, 1).mean(tch::Kind::Float).double_value(&[]).round(), 255.0);
}

#[test]
fn the_lists_of_ucf101_say_what_is_for_the_test() {
    let data = tempfile::tempdir().unwrap();
    let at = |name: &str| data.path().join(name);
    // Frames in place of videos; a file may be written otherwise than its class.
    for name in ["v_Walk_g01_c01", "v_Walk_g02_c01", "v_HandStand_g01_c01", "v_HandStand_g02_c01"] {
        gif(&at(&format!("videos/UCF101/{name}.gif")), &[100, 100]);
    }
    let lists = at("lists/ucfTrainTestlist");
    write(
        &lists.join("trainlist01.txt"),
        "Walk/v_Walk_g02_c01.avi 2\r\nHandstand/v_HandStand_g02_c01.avi 1\r\n",
    );
    write(&lists.join("testlist01.txt"), "Walk/v_Walk_g01_c01.avi\nHandstand/v_HandStand_g01_c01.avi\n");
    write(&lists.join("trainlist02.txt"), "Walk/v_Walk_g02_c01.avi 2\n\nbroken\n");
    let options = Options { size: [2, 2], ..without_programs() };
    for (split, group) in [(Split::Train, "g02"), (Split::Test, "g01")] {
        let set = open(data.path(), split, &options).unwrap();
        assert_eq!(
            (set.labels(), set.class_names()),
            (Some(vec![0, 1]), &["Handstand".to_string(), "Walk".to_string()][..])
        );
        assert!((0..2).all(|index| set.name(index).contains(group)));
    }
    let second = Options { ucf101_list: 2, ..options.clone() };
    assert!(
        message(data.path(), Split::Train, &second)
            .ends_with("line 3: expected CLASS/VIDEO.avi, got \"broken\"")
    );
    assert!(message(data.path(), Split::Unlabelled, &options).contains("no unlabelled videos"));
    assert!(
        message(data.path(), Split::Test, &second).contains("cannot read")
            || !lists.join("testlist02.txt").exists()
    );
}

/// The official lists of UCF101 for three of its classes, and their videos; each division holds out another group.
#[cfg(unix)]
fn write_ucf101(root: &Path, folder_of: impl Fn(&str) -> String) {
    let lists = root.join("lists/ucfTrainTestlist");
    // In the names of folders, in those of files, and as a number.
    let classes = [
        ("Hammering", "Hammering", 35),
        ("HammerThrow", "HammerThrow", 36),
        ("HandstandPushups", "HandStandPushups", 37),
    ];
    let index: String = classes.iter().map(|(class, _, number)| format!("{number} {class}\r\n")).collect();
    write(&lists.join("classInd.txt"), index);
    for list in 1..=3 {
        let (mut train, mut test) = (String::new(), String::new());
        for (class, name, number) in classes {
            for group in 1..=3 {
                let file = format!("v_{name}_g{group:02}_c01.avi");
                write(&root.join("videos").join(folder_of(class)).join(&file), "video 20 25/1 25/1");
                match group == list {
                    true => test += &format!("{class}/{file}\n"),
                    false => train += &format!("{class}/{file} {number}\n"),
                }
            }
        }
        write(&lists.join(format!("trainlist{list:02}.txt")), train);
        write(&lists.join(format!("testlist{list:02}.txt")), test);
    }
}

#[test]
#[cfg(unix)]
fn ucf101_is_read_as_its_archives_unpack_with_its_own_numbers_of_classes() {
    let programs = tempfile::tempdir().unwrap();
    let options = stand_in(programs.path());
    // All videos in one folder, or in folders of their classes: both are offered.
    let flat = |_: &str| "UCF101".to_string();
    let by_class = |class: &str| format!("UCF-101/{class}");
    for folder_of in [&flat as &dyn Fn(&str) -> String, &by_class] {
        let data = tempfile::tempdir().unwrap();
        write_ucf101(data.path(), folder_of);
        for list in 1..=3 {
            let options = Options { ucf101_list: list, ..options.clone() };
            let train = open(data.path(), Split::Train, &options).unwrap();
            let test = open(data.path(), Split::Test, &options).unwrap();
            assert_eq!((train.len(), test.len()), (6, 3));
            for set in [&train, &test] {
                assert_eq!(set.class_names(), ["Hammering", "HammerThrow", "HandstandPushups"]);
                for index in 0..set.len() {
                    let name = set.name(index).to_ascii_lowercase();
                    let class = set.class_names()[set.label(index).unwrap() as usize].to_ascii_lowercase();
                    assert!(name.contains(&format!("v_{class}_g")), "{name} is no {class}");
                    let is_held_out = name.contains(&format!("_g{list:02}_"));
                    assert_eq!(is_held_out, Arc::ptr_eq(set, &test), "{name} in list {list}");
                }
            }
            assert_eq!((train.frames(0), train.rate(0)), (20, 25.0));
        }
    }
}

#[test]
fn moving_mnist_is_read_with_time_before_the_videos() {
    let data = tempfile::tempdir().unwrap();
    // As mnist_test_seq.npy, [20, 10000, 64, 64], with fewer videos: each frame has the value 10 * video + time.
    let frame = |time: u8, video: u8| vec![10 * video + time; 64 * 64];
    let bytes: Vec<u8> = (0..20).flat_map(|time| (0..3).flat_map(move |video| frame(time, video))).collect();
    npy(&data.path().join("mnist_test_seq.npy"), "(20, 3, 64, 64)", &bytes);
    let options = Options { size: [64, 64], channels: 1, ..without_programs() };
    let set = open(data.path(), Split::Train, &options).unwrap();
    assert_eq!((set.len(), set.labels(), set.size()), (3, None, [64, 64]));
    for video in 0..3 {
        assert_eq!(set.frames(video), 20);
        let clip = set.clip(video, &[0, 7, 19]).unwrap();
        let expected = [0, 7, 19].map(|time| 10 * video as u8 + time);
        assert!(clip.chunks(64 * 64).zip(expected).all(|(frame, value)| frame.iter().all(|&x| x == value)));
    }
    assert!(matches!(open(data.path(), Split::Test, &options), Err(ssl_core::Error::Absent { .. })));
}

#[test]
fn nothing_that_is_a_video_and_options_out_of_range_are_named() {
    let data = tempfile::tempdir().unwrap();
    write(&data.path().join("a.txt"), "text");
    let options = without_programs();
    assert!(message(data.path(), Split::Train, &options).contains("no videos: looked for video (mp4,"));
    assert!(message(data.path(), Split::Test, &options).contains("found no train"));
    assert!(message(&data.path().join("x.mp4"), Split::Train, &options).contains("cannot read"));
    for (name, options) in [
        ("size", Options { size: [0, 4], ..options.clone() }),
        ("channels", Options { channels: 2, ..options.clone() }),
        ("rate", Options { rate: Some(f64::NAN), ..options.clone() }),
        ("unknown_rate", Options { unknown_rate: 0.0, ..options.clone() }),
        ("max_bad", Options { max_bad: 2.0, ..options.clone() }),
        ("ucf101_list", Options { ucf101_list: 0, ..options.clone() }),
    ] {
        let found = message(data.path(), Split::Train, &options);
        assert!(found.starts_with(&format!("{name}: expected")), "{found}");
    }
    frames(&data.path().join("f"), &[7]);
    let stretched = Options { size: [1, 9], channels: 1, fit: Fit::Stretch, ..options };
    assert_eq!(open(data.path(), Split::Train, &stretched).unwrap().clip(0, &[0]).unwrap(), [7; 9]);
}
