//! Notes of a sound font that the test writes itself, whole and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use proptest::prelude::*;
use ssl_audio::AudioDataset;
use ssl_audio::notes::{Labelling, Notes, NotesOptions};
use ssl_core::{Error, Result};
use std::fs;
use tempfile::{TempDir, tempdir};

/// A period of the sine, in samples; at 44.1 kHz it has 441 Hz.
const PERIOD: usize = 100;
const SINE: u16 = 0;
const SILENCE: u16 = 1;
const SHORT_LOOP: u16 = 2;

/// A preset of one zone: its program and bank, the keys that it is for, and which instrument it points at.
struct Preset {
    program: u16,
    bank: u16,
    keys: [u8; 2],
    instrument: u16,
}

fn preset(program: u16) -> Preset {
    Preset { program, bank: 0, keys: [0, 127], instrument: SINE }
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&name[..], &(body.len() as u32).to_le_bytes(), body].concat()
}

fn list(kind: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"LIST", &[&kind[..], &chunks.concat()].concat())
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(20, 0);
    bytes
}

/// Records of a start each, and the one behind them, `size` bytes in all with `head` in front.
fn starts(count: usize, step: usize, record: impl Fn(usize, u16) -> Vec<u8>) -> Vec<u8> {
    (0..=count).flat_map(|n| record(n, (n * step) as u16)).collect()
}

/// A sound font: a sine of 441 Hz, silence, and a sine with a loop of 4 samples.
fn font(presets: &[Preset], sine_periods: usize) -> Vec<u8> {
    let length = (sine_periods * PERIOD) as u32;
    let level = |n: u32| (12_000.0 * (n as f64 * std::f64::consts::TAU / PERIOD as f64).sin()) as i16;
    let sine = (0..length).map(level);
    let samples: Vec<u8> = sine.chain(vec![0; 92]).flat_map(i16::to_le_bytes).collect();
    // Places: start, end, start and end of the loop.
    let places =
        [[0, length, 0, length], [length, length + 46, length + 8, length + 38], [0, length, 40, 44]];
    let headers: Vec<Vec<u8>> = places
        .iter()
        .map(|places| {
            let places = places.iter().chain(&[44_100]).flat_map(|place| place.to_le_bytes());
            [name("sample"), places.collect(), vec![69, 0], words(&[0, 1])].concat()
        })
        .collect();
    let generators = |n: u16| words(&[54, 1, 53, n]);
    let preset_generators = presets
        .iter()
        .flat_map(|preset| words(&[43, u16::from_le_bytes(preset.keys), 41, preset.instrument]));
    let head = |n: usize| presets.get(n).map_or([255, 255], |preset| [preset.program, preset.bank]);
    let information =
        [chunk(b"ifil", &words(&[2, 1])), chunk(b"isng", b"EMU8000\0"), chunk(b"INAM", b"tiny")];
    let articulation = [
        chunk(
            b"phdr",
            &starts(presets.len(), 1, |n, at| {
                [name("preset"), words(&[head(n)[0], head(n)[1], at]), vec![0; 12]].concat()
            }),
        ),
        chunk(b"pbag", &starts(presets.len(), 2, |_, at| words(&[at, 0]))),
        chunk(b"pmod", &[0; 10]),
        chunk(b"pgen", &preset_generators.chain(vec![0; 4]).collect::<Vec<u8>>()),
        chunk(b"inst", &starts(3, 1, |_, at| [name("instrument"), words(&[at])].concat())),
        chunk(b"ibag", &starts(3, 2, |_, at| words(&[at, 0]))),
        chunk(b"imod", &[0; 10]),
        chunk(b"igen", &[generators(0), generators(1), generators(2), vec![0; 4]].concat()),
        chunk(b"shdr", &[headers.concat(), vec![0; 46]].concat()),
    ];
    let lists = [
        list(b"INFO", &information),
        list(b"sdta", &[chunk(b"smpl", &samples)]),
        list(b"pdta", &articulation),
    ];
    chunk(b"RIFF", &[&b"sfbk"[..], &lists.concat()].concat())
}

/// A place for the bytes of a sound font.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempdir().unwrap())
    }

    fn render(&self, bytes: &[u8], options: &NotesOptions) -> Result<Notes> {
        let path = self.0.path().join("tiny.sf2");
        fs::write(&path, bytes).unwrap();
        Notes::render(&path, options)
    }

    /// What is said of bad bytes, without the path.
    fn refusal(&self, bytes: &[u8], options: &NotesOptions) -> String {
        let error = self.render(bytes, options).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error}");
        error.to_string().split_once("tiny.sf2: ").unwrap().1.to_string()
    }
}

fn render(bytes: &[u8], options: &NotesOptions) -> Result<Notes> {
    Place::new().render(bytes, options)
}

fn refusal(bytes: &[u8], options: &NotesOptions) -> String {
    Place::new().refusal(bytes, options)
}

/// One program at three pitches, a tenth of a second each.
fn short() -> NotesOptions {
    NotesOptions {
        seconds: 0.1,
        programs: vec![0],
        pitches: vec![57, 69, 81],
        velocities: vec![100],
        ..NotesOptions::default()
    }
}

/// All notes of the default, each as short as can be, at a rate that needs no other.
fn all_notes() -> NotesOptions {
    NotesOptions { seconds: 0.01, sample_rate: 48_000, ..NotesOptions::default() }
}

/// All 128 programs.
fn full_font() -> Vec<u8> {
    font(&(0..128).map(preset).collect::<Vec<_>>(), 10)
}

fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}

#[test]
fn notes_have_their_pitch_at_every_rate_and_end_before_the_clip() {
    for sample_rate in [8_000, 16_000, 22_050, 48_000] {
        let options = NotesOptions { seconds: 0.5, sample_rate, ..short() };
        let notes = render(&font(&[preset(0)], 10), &options).unwrap();
        assert_eq!((notes.len(), notes.sample_rate(), notes.seconds(0)), (3, sample_rate, 0.5));
        for (index, hertz) in [220.5, 441.0, 882.0].into_iter().enumerate() {
            let clip = notes.clip(index).unwrap();
            let held = &clip[..(0.4 * f64::from(sample_rate)) as usize];
            let rises = held.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
            let found = rises as f64 / 0.4;
            assert!((found - hertz).abs() < 6.0, "{sample_rate} Hz: {found} for {hertz}");
            // 12,000 of 32,768, the gain of the synthesizer and that of velocity 100.
            assert!((0.02..0.2).contains(&peak(held)), "{}", peak(held));
            let rest = &clip[(0.45 * f64::from(sample_rate)) as usize..];
            assert!(peak(rest) < 0.01 * peak(held), "the release takes 10 ms: {}", peak(rest));
        }
    }
}

#[test]
fn harder_notes_are_louder_and_threads_change_nothing() {
    let options = NotesOptions { velocities: vec![64, 112], ..short() };
    let bytes = font(&[preset(0)], 10);
    let notes = render(&bytes, &options).unwrap();
    let (soft, hard) = (notes.clip(2).unwrap(), notes.clip(3).unwrap());
    // The gain is the square of the velocity.
    assert!((peak(&hard) / peak(&soft) - (112.0f32 / 64.0).powi(2)).abs() < 0.01);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = pool.install(|| render(&bytes, &options).unwrap());
    for index in 0..notes.len() {
        assert_eq!(notes.clip(index).unwrap(), again.clip(index).unwrap());
    }
}

#[test]
fn every_note_is_labelled_by_family_program_pitch_and_velocity() {
    let options = all_notes();
    let notes = render(&full_font(), &options).unwrap();
    assert_eq!((notes.len(), notes.skipped().len()), (3_072, 0));
    for (labelling, count, names) in [
        (Labelling::Family, 16, ["Piano", "Sound Effects"]),
        (Labelling::Program, 128, ["Acoustic Grand Piano", "Gunshot"]),
        (Labelling::Pitch, 12, ["A2", "F#5"]),
        (Labelling::Velocity, 2, ["64", "112"]),
    ] {
        let (labels, found) = notes.labels_of(labelling);
        assert_eq!([found[0].as_str(), found[count - 1].as_str()], names);
        for class in 0..count as i64 {
            assert_eq!(labels.iter().filter(|label| **label == class).count(), 3_072 / count, "{labelling}");
        }
        assert_eq!(labelling.to_string().parse::<Labelling>().unwrap(), labelling);
    }
    let index = 24 * 40 + 2 * 5;
    assert_eq!(notes.name(index), "program 40 (Violin), C4, velocity 64");
    let class = |labelling| notes.labels_of(labelling).0[index];
    assert_eq!(Labelling::ALL.map(class), [5, 40, 5, 0]);
    assert_eq!((notes.label(index), notes.class_names()[5].as_str()), (Some(5), "Strings"));
    assert!("colour".parse::<Labelling>().is_err() && notes.clip(3_072).is_err());
}

#[test]
fn labels_count_what_was_asked_for() {
    let programs = vec![7, 8, 40];
    let presets: Vec<Preset> = programs.iter().map(|program| preset((*program).into())).collect();
    let notes = render(&font(&presets, 10), &NotesOptions { programs, ..short() }).unwrap();
    let (labels, names) = notes.labels_of(Labelling::Family);
    assert_eq!(
        (labels, names.join(", ").as_str()),
        (vec![0, 0, 0, 1, 1, 1, 2, 2, 2], "Piano, Chromatic Percussion, Strings")
    );
    assert_eq!(notes.labels_of(Labelling::Pitch).0, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn tests_are_at_unseen_pitches_between_seen_ones_or_on_unseen_instruments() {
    let notes = render(&full_font(), &all_notes()).unwrap();
    let values = |labelling: Labelling, of: &[usize]| {
        let (labels, _) = notes.labels_of(labelling);
        of.iter().map(|index| labels[*index]).collect::<std::collections::BTreeSet<_>>()
    };
    for labelling in Labelling::ALL {
        let (train, test) = notes.split(labelling).unwrap();
        let mut both = [&train[..], &test[..]].concat();
        both.sort_unstable();
        assert_eq!(both, (0..3_072).collect::<Vec<_>>());
        assert_eq!(values(labelling, &train), values(labelling, &test), "{labelling}: all classes are seen");
        let by = if labelling == Labelling::Pitch { Labelling::Program } else { Labelling::Pitch };
        let (seen, unseen) = (values(by, &train), values(by, &test));
        assert!(seen.is_disjoint(&unseen) && seen.len() == 3 * unseen.len(), "{seen:?} {unseen:?}");
        if labelling == Labelling::Pitch {
            assert!(
                (0..16)
                    .all(|family| unseen.contains(&(8 * family + 3)) && unseen.contains(&(8 * family + 7)))
            );
        } else {
            assert!(unseen.iter().all(|pitch| seen.contains(&(pitch - 1)) && seen.contains(&(pitch + 1))));
        }
    }
    let few = render(&full_font(), &NotesOptions { programs: vec![0, 1], ..short() }).unwrap();
    assert!(few.split(Labelling::Family).is_ok());
    let message = few.split(Labelling::Pitch).unwrap_err().to_string();
    assert_eq!(message, "programs: expected enough to train and to test on, got 6 and 0 clips of [0, 1]");
}

#[test]
fn notes_that_cannot_be_heard_or_played_are_left_out_and_named() {
    let presets = [
        preset(0),
        Preset { instrument: SILENCE, ..preset(1) },
        Preset { keys: [60, 70], ..preset(2) },
        Preset { instrument: SHORT_LOOP, ..preset(3) },
    ];
    let options = NotesOptions {
        sample_rate: 44_100,
        programs: vec![0, 1, 2, 3],
        pitches: vec![57, 69, 105],
        ..short()
    };
    let notes = render(&font(&presets, 10), &options).unwrap();
    assert_eq!(notes.labels_of(Labelling::Program).0, [0, 0, 0, 2, 3, 3]);
    let expected = [
        "program 1 (Bright Acoustic Piano), A3, velocity 100: silent: expected a peak of at least 0.001, got 0.000000",
        "program 1 (Bright Acoustic Piano), A4, velocity 100: silent: expected a peak of at least 0.001, got 0.000000",
        "program 1 (Bright Acoustic Piano), A7, velocity 100: silent: expected a peak of at least 0.001, got 0.000000",
        "program 2 (Electric Grand Piano), A3, velocity 100: the font has no zone for it",
        "program 2 (Electric Grand Piano), A7, velocity 100: the font has no zone for it",
        "program 3 (Honky-tonk Piano), A7, velocity 100: its loop of 4 samples is shorter than a step of 8.0",
    ];
    assert_eq!(notes.skipped(), expected);
    let message = refusal(&font(&presets, 10), &NotesOptions { programs: vec![1], ..short() });
    assert!(message.starts_with("expected notes that sound, got none: program 1"), "{message}");
}

#[test]
fn what_is_no_sound_font_or_lacks_something_is_named() {
    for bytes in [&b""[..], b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", &[7; 100]] {
        let message = refusal(bytes, &short());
        assert_eq!(message, "expected a sound font (.sf2, RIFF of the form sfbk), got other bytes");
    }
    assert_eq!(refusal(&font(&[], 10), &short()), "expected presets, got none");
    let options = NotesOptions { programs: vec![0, 1, 5], ..short() };
    let drums = Preset { bank: 128, ..preset(1) };
    let message = refusal(&font(&[preset(0), drums], 10), &options);
    assert_eq!(message, "expected a preset in bank 0 for each of 3 programs, 2 lack one: [1, 5]");
    let missing = Notes::render("no/such.sf2".as_ref(), &short()).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[test]
fn options_out_of_range_are_named() {
    let message = |options: NotesOptions| Notes::render("x".as_ref(), &options).unwrap_err().to_string();
    let of = NotesOptions::default;
    assert_eq!(
        message(NotesOptions { sample_rate: 100, ..of() }),
        "sample_rate: expected 4000 to 192000 Hz, got 100"
    );
    assert_eq!(
        message(NotesOptions { seconds: f64::NAN, ..of() }),
        "seconds: expected 0.01 to 60 seconds, got NaN"
    );
    let long = NotesOptions { seconds: 60.0, sample_rate: 192_000, ..of() };
    assert!(message(long).starts_with("seconds: expected at most 4300000000 samples in all clips, got 353"));
    let programs = NotesOptions { programs: vec![128], ..of() };
    assert_eq!(message(programs), "programs: expected ascending numbers of 0 to 127, got [128]");
    let pitches = NotesOptions { pitches: vec![60, 60], ..of() };
    assert_eq!(message(pitches), "pitches: expected ascending numbers of 0 to 127, got [60, 60]");
    assert!(
        message(NotesOptions { velocities: vec![0], ..of() }).starts_with("velocities: expected ascending")
    );
    assert!(message(NotesOptions { velocities: vec![], ..of() }).ends_with("got []"));
}

/// A font and options with which a rendering takes little, at a rate that needs no other.
fn smallest() -> (Vec<u8>, NotesOptions) {
    let options = NotesOptions {
        sample_rate: 48_000,
        seconds: 0.01,
        pitches: vec![60, 127],
        programs: vec![0, 1],
        ..short()
    };
    (font(&[preset(0), Preset { keys: [20, 127], ..preset(1) }], 1), options)
}

#[test]
fn a_truncated_sound_font_is_an_error_wherever_it_ends() {
    let (bytes, options) = smallest();
    let place = Place::new();
    assert_eq!(place.render(&bytes, &options).unwrap().len(), 4);
    for end in 0..bytes.len() {
        let message = place.refusal(&bytes[..end], &options);
        assert!(end < 12 || message.starts_with("truncated"), "{end}: {message}");
    }
}

/// Values that make numbers of one, two and four bytes large, negative, or point elsewhere.
const DAMAGE: [&[u8]; 10] = [
    &[0],
    &[0x7F],
    &[0xFF],
    &[1, 0],
    &[0xFF, 0xFF],
    &[0xFF, 0x7F],
    &[0, 0x80],
    &[0, 0, 0, 0x40],
    &[0, 0, 0, 0x80],
    &[0xFF, 0xFF, 0xFF, 0x7F],
];

#[test]
fn a_corrupt_sound_font_is_an_error_or_other_sound_but_no_panic() {
    let (bytes, options) = smallest();
    let samples = bytes.windows(4).position(|name| name == b"smpl").unwrap();
    let articulation = bytes.windows(4).position(|name| name == b"pdta").unwrap();
    let (place, mut refused) = (Place::new(), 0);
    for at in (0..samples + 8).chain(articulation..bytes.len()) {
        for damage in DAMAGE.iter().filter(|damage| at % 2 == 0 || damage.len() == 1) {
            let mut bytes = bytes.clone();
            let end = bytes.len().min(at + damage.len());
            bytes[at..end].copy_from_slice(&damage[..end - at]);
            refused += usize::from(place.render(&bytes, &options).is_err());
        }
    }
    assert!(refused > 1_000, "{refused}");
}

proptest! {
    #[test]
    fn a_sound_font_with_foreign_generators_is_an_error_or_other_sound_but_no_panic(
        places in prop::collection::vec((0usize..10_000, any::<u16>()), 1..6),
        generators in prop::collection::vec((0u16..60, any::<u16>()), 5),
    ) {
        let (mut bytes, options) = smallest();
        let place = Place::new();
        for (chunk, of) in [(b"igen", &generators[..3]), (b"pgen", &generators[3..])] {
            let start = 8 + bytes.windows(4).position(|name| name == chunk).unwrap();
            for (n, (kind, value)) in of.iter().enumerate() {
                bytes[start + 8 * n..][..4].copy_from_slice(&words(&[*kind, *value]));
            }
        }
        let _any = place.render(&bytes, &options);
        for (at, word) in places {
            let at = at % (bytes.len() - 1);
            bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        let _any = place.render(&bytes, &options);
    }
}
