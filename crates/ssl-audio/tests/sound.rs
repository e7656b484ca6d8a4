//! Single files of sound: what is read of good ones, and what is said of bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod common;

use common::{fixture, message, tone, wav};
use hound::{SampleFormat, WavSpec, WavWriter};
use proptest::prelude::*;
use serde::Deserialize;
use ssl_audio::readers::{Info, info, read_window};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tempfile::{TempDir, tempdir};

/// Writes integers of any width, or floats for 0 bits, and returns what they stand for.
fn write(path: &PathBuf, bits: u16, channels: u16, values: &[i32]) -> Vec<f32> {
    let (sample_format, width) =
        if bits == 0 { (SampleFormat::Float, 32) } else { (SampleFormat::Int, bits) };
    let spec = WavSpec { channels, sample_rate: 22_050, bits_per_sample: width, sample_format };
    let mut writer = WavWriter::create(path, spec).unwrap();
    let values: Vec<f32> = values
        .iter()
        .map(|&value| match bits {
            0 => {
                let value = value as f32 / 2e9;
                writer.write_sample(value).unwrap();
                value
            }
            _ => {
                let value = value >> (32 - bits);
                writer.write_sample(value).unwrap();
                (f64::from(value) / 2f64.powi(i32::from(bits) - 1)) as f32
            }
        })
        .collect();
    writer.finalize().unwrap();
    values.chunks(channels.into()).map(|frame| frame.iter().sum::<f32>() / f32::from(channels)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_wav_of_any_width_and_number_of_channels_gives_back_what_was_written(
        bits in prop::sample::select(vec![0u16, 8, 16, 24, 32]),
        channels in 1u16..7,
        values in prop::collection::vec(any::<i32>(), 6..400),
        from in 0usize..50,
    ) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("sound.wav");
        let values = &values[..values.len() / usize::from(channels) * usize::from(channels)];
        let expected = write(&path, bits, channels, values);
        let frames = expected.len() as u64;
        prop_assert_eq!(info(&path).unwrap(), Info { sample_rate: 22_050, channels, frames });
        let from = from.min(expected.len() - 1);
        let got = read_window(&path, from as u64, expected.len() - from).unwrap();
        for (got, expected) in got.iter().zip(&expected[from..]) {
            prop_assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    rate: u32,
    frames: u64,
    values: Vec<f32>,
}

#[test]
fn flac_mp3_and_vorbis_are_read_as_libsndfile_reads_them_from_anywhere() {
    let cases: BTreeMap<String, Packed> = serde_json::from_str(include_str!("fixtures/packed.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for (name, case) in cases {
        let path = fixture(&format!("tone.{name}"));
        let expected = Info { sample_rate: case.rate, channels: 2, frames: case.frames };
        assert_eq!(info(&path).unwrap(), expected, "{name}");
        let all = read_window(&path, 0, case.frames as usize).unwrap();
        for (at, expected) in case.values.iter().enumerate() {
            assert!((all[at * 997] - expected).abs() < 1e-4, "{name} at {at}: {} {expected}", all[at * 997]);
        }
        for (start, len) in [(1, 10), (9_000, 3_000), (20_011, 500), (29_990, 10), (29_999, 1)] {
            let part = read_window(&path, start, len).unwrap();
            assert_eq!(part, all[start as usize..start as usize + len], "{name} from {start}");
        }
    }
}

#[test]
fn a_window_needs_nothing_of_a_file_that_lies_far_from_it() {
    let mut flac = fs::read(fixture("tone.flac")).unwrap();
    let intact = read_window(&fixture("tone.flac"), 28_000, 2_000).unwrap();
    // From byte 9,000 on, a quarter of the way into the sound.
    flac[9_000..11_000].fill(0);
    let (_folder, path) = file(&flac);
    assert_eq!(read_window(&path, 28_000, 2_000).unwrap(), intact);
    assert!(read_window(&path, 0, 30_000).is_err());
}

#[test]
fn the_content_and_not_the_name_says_what_a_file_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("flac.wav");
    fs::copy(fixture("tone.flac"), &path).unwrap();
    assert_eq!(info(&path).unwrap().frames, 30_000);
    let path = folder.path().join("wav.mp3");
    wav(&path, 8_000, 1, &tone(1, 7));
    assert_eq!(info(&path).unwrap().frames, 7);
}

/// A RIFF file of chunks: name, length that it promises, content.
fn riff(chunks: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = b"RIFF\xff\xff\xff\xffWAVE".to_vec();
    for (name, length, content) in chunks {
        bytes.extend(name.as_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(*content);
    }
    bytes
}

/// The content of a fmt chunk.
fn format(tag: u16, channels: u16, rate: u32, frame_bytes: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(frame_bytes)).to_le_bytes());
    bytes.extend(frame_bytes.to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes
}

/// A folder with one file.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("sound.wav");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn each_fault_of_a_header_is_one_line_that_says_what_and_where() {
    let good = format(1, 1, 8_000, 2);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "expected WAV, FLAC, MP3 or Ogg Vorbis, the file is empty"),
        (b"hello, I am text".to_vec(), "the file begins with \"hello, I am text\""),
        (b"RIFF\x01\x02".to_vec(), "truncated: expected a RIFF header of 12 bytes, the file has 6"),
        (riff(&[]), "no samples: expected a data chunk, the file ends at byte 12"),
        (riff(&[("fmt ", 16, &good)]), "no samples: expected a data chunk, the file ends at byte 36"),
        (riff(&[("fmt ", 16, &good[..7])]), "the chunk fmt  at byte 12 promises 16 bytes, 7 are left"),
        (riff(&[("fmt ", 4, &[0; 4])]), "expected a fmt chunk of at least 16 bytes at byte 12, got 4"),
        (riff(&[("data", 4, &[0; 4])]), "expected a fmt chunk before the data chunk, found none"),
        (
            riff(&[("fmt ", 16, &good), ("LIST", 0x7fff_fff0, &[1; 10])]),
            "the chunk LIST at byte 36 promises 2147483632 bytes, 10 are left",
        ),
        (
            riff(&[("fmt ", 16, &good), ("data", 0xffff_fff0, &[1; 10])]),
            "truncated: the chunk data at byte 36 promises 4294967280 bytes, 10 are left",
        ),
        (riff(&[("fmt ", 16, &good), ("data", 0, &[])]), "no samples: the data chunk at byte 36 has 0 bytes"),
        (
            riff(&[("fmt ", 16, &good), ("data", 5, &[0; 5])]),
            "expected a data chunk of whole frames of 2 bytes at byte 36, got 5 bytes",
        ),
        (riff(&[("fmt ", 16, &format(1, 0, 8_000, 2))]), "expected at least 1 channel, the header says 0"),
        (
            riff(&[("fmt ", 16, &format(1, 1, 0, 2))]),
            "expected a sample rate of 100 to 768000 Hz, the header says 0",
        ),
        (
            riff(&[("fmt ", 16, &format(7, 1, 8_000, 1))]),
            "the header says format 7 of 16 bits, 1 bytes for 1",
        ),
        (riff(&[("fmt ", 16, &format(1, 2, 8_000, 3))]), "3 bytes for 2 channels"),
    ];
    for (bytes, expected) in cases {
        let (_folder, path) = file(&bytes);
        let said = message(info(&path));
        assert!(said.starts_with(&path.display().to_string()) && said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}

#[test]
fn odd_chunks_and_the_length_that_pipes_leave_are_understood() {
    let samples: Vec<u8> = [100i16, -200, 300].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let format = format(1, 1, 8_000, 2);
    let bytes = riff(&[("LIST", 3, b"abc\0"), ("fmt ", 16, &format), ("data", u32::MAX, &samples)]);
    let (_folder, path) = file(&bytes);
    assert_eq!(info(&path).unwrap().frames, 3);
    assert_eq!(read_window(&path, 1, 2).unwrap(), [-200.0 / 32_768.0, 300.0 / 32_768.0]);
}

#[test]
fn samples_that_are_no_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let samples: Vec<u8> = [0.5f32, bad, 0.5].iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let (_folder, path) = file(&riff(&[("fmt ", 16, &format(3, 1, 8_000, 4)), ("data", 12, &samples)]));
        assert!(message(read_window(&path, 0, 3)).ends_with("sound.wav: sample 1 is not finite"));
        assert_eq!(read_window(&path, 2, 1).unwrap(), [0.5]);
    }
}

#[test]
fn floats_beyond_full_scale_stay_as_they_are() {
    let samples: Vec<u8> = [1.5f64, -3.0].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (_folder, path) = file(&riff(&[("fmt ", 16, &format(3, 1, 8_000, 8)), ("data", 16, &samples)]));
    assert_eq!(read_window(&path, 0, 2).unwrap(), [1.5, -3.0]);
}

#[test]
fn windows_outside_of_a_file_are_refused_before_memory_is_taken() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("one.wav");
    wav(&path, 8_000, 1, &[16_384]);
    assert_eq!(read_window(&path, 0, 1).unwrap(), [0.5]);
    for (start, len) in [(0, 2), (1, 1), (u64::MAX, 1), (0, usize::MAX)] {
        let said = message(read_window(&path, start, len));
        assert!(said.starts_with("window: expected frames within 1 of "), "{said}");
    }
}

#[test]
fn packed_files_that_break_off_or_promise_too_much_are_errors() {
    for name in ["tone.flac", "tone.ogg", "tone.mp3"] {
        let whole = fs::read(fixture(name)).unwrap();
        let (_folder, path) = file(&whole[..whole.len() / 2]);
        // Where the length is not counted, the missing half is found out when it is read.
        let read = info(&path).and_then(|info| read_window(&path, info.frames - 1, 1).map(|_| info.frames));
        match read {
            Ok(frames) => assert!(name != "tone.flac" && frames < 20_000, "{name}: {frames}"),
            Err(error) => assert!(error.to_string().contains("truncated"), "{name}: {error}"),
        }
        for end in [5, 30, 60] {
            let (_folder, path) = file(&whole[..end]);
            assert_eq!(message(info(&path)).lines().count(), 1, "{name} of {end} bytes");
        }
    }
    let mut flac = fs::read(fixture("tone.flac")).unwrap();
    // The lowest 36 bits of these 8 bytes are the number of samples.
    flac[21] |= 0x0f;
    flac[22..26].fill(0xff);
    let (_folder, path) = file(&flac);
    let said = message(info(&path));
    assert!(said.contains("the header promises 68719476735 samples in"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn damaged_bytes_never_panic(
        name in prop::sample::select(vec!["tone.flac", "tone.ogg", "tone.mp3", "tone.wav"]),
        damage in prop::collection::vec((0usize..2_000, any::<u8>()), 1..8),
    ) {
        let mut bytes = match name {
            "tone.wav" => {
                let folder = tempdir().unwrap();
                let path = folder.path().join("a.wav");
                wav(&path, 8_000, 2, &tone(3, 1_000));
                fs::read(&path).unwrap()
            }
            name => fs::read(fixture(name)).unwrap(),
        };
        let length = bytes.len();
        damage.into_iter().for_each(|(at, value)| bytes[at % length] = value);
        let (_folder, path) = file(&bytes);
        if let Ok(info) = info(&path) {
            let _ = read_window(&path, info.frames / 2, (info.frames / 2).min(100) as usize);
        }
    }
}
