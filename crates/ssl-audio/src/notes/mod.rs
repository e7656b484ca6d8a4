//! Notes of General MIDI instruments, rendered from a sound font: sounds whose every cause is known.
//!
//! ```
//! use ssl_audio::notes::{Notes, NotesOptions};
//! let error = Notes::render("no/such/font.sf2".as_ref(), &NotesOptions::default()).unwrap_err();
//! assert!(error.to_string().starts_with("no/such/font.sf2: cannot read"));
//! ```
mod check;
mod font;
mod midi;

use crate::clip::{copy_from, out_of_range};
use crate::{AudioDataset, Resampler};
use font::{Font, Length, Note};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

/// Rates that notes are rendered at, in hertz.
const RATES: RangeInclusive<u32> = 4_000..=192_000;
/// Lengths of a clip, in seconds.
const SECONDS: RangeInclusive<f64> = 0.01..=60.0;
/// The part of a clip after which the key is let go.
const HELD: f64 = 0.8;
/// Samples of sound fonts mostly have this rate, in hertz; the synthesizer does not filter what it reads faster, so it
/// works at a multiple of the set's rate that is no lower.
const FONT_RATE: u32 = 44_100;
/// Samples that a set may have in all: 16 GiB.
const MOST_SAMPLES: f64 = 4.3e9;
/// One of this many pitches or programs is held out for the test.
const HELD_OUT: usize = 4;

/// Which notes are rendered, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NotesOptions {
    /// Samples per second, 4000 to 192000 hertz.
    pub sample_rate: u32,
    /// Length of a clip, 0.01 to 60 seconds. The key is let go after four fifths of it.
    pub seconds: f64,
    /// Programs of General MIDI, from 0.
    pub programs: Vec<u8>,
    /// Keys of MIDI in ascending order: 60 is C4.
    pub pitches: Vec<u8>,
    /// How hard the key is struck, 1 to 127.
    pub velocities: Vec<u8>,
}

impl Default for NotesOptions {
    /// 0.75 seconds at 16 kHz of each program at 12 pitches and 2 velocities: 3,072 clips.
    ///
    /// The pitches are A2 to F#5, where most instruments have tones. They are three semitones apart, since sound fonts
    /// play neighbouring keys from one recording: closer pitches would make a held-out pitch almost a seen one.
    fn default() -> Self {
        NotesOptions {
            sample_rate: 16_000,
            seconds: 0.75,
            programs: (0..128).collect(),
            pitches: (45..=78).step_by(3).collect(),
            velocities: vec![64, 112],
        }
    }
}

impl NotesOptions {
    fn validate(&self) -> Result<()> {
        if !RATES.contains(&self.sample_rate) {
            let (least, most) = (RATES.start(), RATES.end());
            let message = format!("expected {least} to {most} Hz, got {}", self.sample_rate);
            return Err(Error::config("sample_rate", message));
        }
        if !SECONDS.contains(&self.seconds) {
            let (least, most) = (SECONDS.start(), SECONDS.end());
            let message = format!("expected {least} to {most} seconds, got {}", self.seconds);
            return Err(Error::config("seconds", message));
        }
        numbers("programs", &self.programs, 0)?;
        numbers("pitches", &self.pitches, 0)?;
        numbers("velocities", &self.velocities, 1)?;
        let samples = self.seconds * f64::from(self.sample_rate) * self.notes().count() as f64;
        if samples > MOST_SAMPLES {
            let message = format!("expected at most {MOST_SAMPLES} samples in all clips, got {samples}");
            return Err(Error::config("seconds", message));
        }
        Ok(())
    }

    fn notes(&self) -> impl Iterator<Item = Note> {
        self.programs.iter().flat_map(move |&program| {
            self.pitches.iter().flat_map(move |&pitch| {
                self.velocities.iter().map(move |&velocity| Note { program, pitch, velocity })
            })
        })
    }
}

/// That there are numbers of MIDI, ascending.
fn numbers(name: &str, numbers: &[u8], least: u8) -> Result<()> {
    let ascending = numbers.windows(2).all(|pair| pair.first() < pair.last());
    if numbers.is_empty() || !ascending || numbers.iter().any(|number| !(least..128).contains(number)) {
        let message = format!("expected ascending numbers of {least} to 127, got {numbers:?}");
        return Err(Error::config(name, message));
    }
    Ok(())
}

/// What a note is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Labelling {
    /// Which of General MIDI's 16 families of instruments.
    Family,
    /// Which of its 128 programs.
    Program,
    /// Which key.
    Pitch,
    /// How hard it is struck.
    Velocity,
}

impl Labelling {
    /// All of them.
    pub const ALL: [Labelling; 4] =
        [Labelling::Family, Labelling::Program, Labelling::Pitch, Labelling::Velocity];

    fn of(self, note: Note) -> u8 {
        match self {
            Labelling::Family => midi::family(note.program),
            Labelling::Program => note.program,
            Labelling::Pitch => note.pitch,
            Labelling::Velocity => note.velocity,
        }
    }

    fn class_name(self, class: u8) -> String {
        match self {
            Labelling::Family => midi::family_name(class).into(),
            Labelling::Program => midi::program_name(class).into(),
            Labelling::Pitch => midi::pitch_name(class),
            Labelling::Velocity => class.to_string(),
        }
    }
}

impl fmt::Display for Labelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Labelling::Family => "family",
            Labelling::Program => "program",
            Labelling::Pitch => "pitch",
            Labelling::Velocity => "velocity",
        })
    }
}

impl FromStr for Labelling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Labelling::ALL.into_iter().find(|labelling| labelling.to_string() == name);
        known.ok_or_else(|| {
            let message = format!("expected family, program, pitch or velocity, got {name}");
            Error::config("labelling", message)
        })
    }
}

/// Notes in memory, in the order of programs, pitches and velocities. As a data set they are labelled by family.
pub struct Notes {
    options: NotesOptions,
    notes: Vec<Note>,
    clips: Vec<Vec<f32>>,
    families: Vec<i64>,
    family_names: Vec<String>,
    skipped: Vec<String>,
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notes({} of {} Hz)", self.notes.len(), self.options.sample_rate)
    }
}

impl Notes {
    /// Renders the notes of a sound font on all threads; the result does not depend on their number.
    ///
    /// The key is struck at 0 and let go after four fifths of the clip. Channels are mixed; there is neither
    /// reverberation nor chorus. Sound that the set's rate cannot hold is filtered out. A note is left out, and named
    /// by `skipped`, when it stays below -60 decibels of full scale, when the font has no zone for it, or when the
    /// synthesizer could not play its loop.
    ///
    /// # Errors
    /// `Error::Io` when the file cannot be read; `Error::Data` when it is no sound font, truncated or corrupt, lacks a
    /// program, or all notes are left out; `Error::Config` when an option is out of range.
    pub fn render(path: &Path, options: &NotesOptions) -> Result<Self> {
        options.validate()?;
        let font = Font::read(path)?;
        let lacking = font.lacks(&options.programs);
        if !lacking.is_empty() {
            let message = format!(
                "expected a preset in bank 0 for each of {} programs, {} lack one: {lacking:?}",
                options.programs.len(),
                lacking.len()
            );
            return Err(Error::data(path, message));
        }
        let frames = (options.seconds * f64::from(options.sample_rate)).round().max(1.0) as usize;
        let factor = FONT_RATE.div_ceil(options.sample_rate);
        let all = frames * factor as usize;
        let held = (HELD * all as f64) as usize;
        let length = Length { sample_rate: options.sample_rate * factor, held, all };
        // The long filter of the readers would take as much time as the synthesizer.
        let resampler = Resampler::fast(length.sample_rate, options.sample_rate)?;
        let wanted: Vec<Note> = options.notes().collect();
        let rendered: Vec<_> = wanted
            .par_iter()
            .map(|&note| font.render(note, length).map(|sound| resampler.whole(&sound)))
            .collect();
        let (mut notes, mut clips, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for (note, result) in wanted.into_iter().zip(rendered) {
            match result {
                Ok(clip) => {
                    notes.push(note);
                    clips.push(clip);
                }
                Err(reason) => skipped.push(format!("{}: {reason}", name(note))),
            }
        }
        if notes.is_empty() {
            let first = skipped.first().map_or("", String::as_str);
            return Err(Error::data(path, format!("expected notes that sound, got none: {first}")));
        }
        let mut notes =
            Notes { options: options.clone(), notes, clips, families: vec![], family_names: vec![], skipped };
        (notes.families, notes.family_names) = notes.labels_of(Labelling::Family);
        Ok(notes)
    }

    /// The class of each clip, and the names of the classes that the options ask for, in the order of MIDI's numbers.
    pub fn labels_of(&self, labelling: Labelling) -> (Vec<i64>, Vec<String>) {
        let classes: BTreeSet<u8> = self.options.notes().map(|note| labelling.of(note)).collect();
        let classes: Vec<u8> = classes.into_iter().collect();
        let label = |note: &Note| classes.partition_point(|class| *class < labelling.of(*note)) as i64;
        let names = classes.iter().map(|class| labelling.class_name(*class)).collect();
        (self.notes.iter().map(label).collect(), names)
    }

    /// Clips to train and to test on.
    ///
    /// Family, program and velocity are tested at pitches that were not trained on: the second of every four, which
    /// lies between seen ones. Pitch is tested on instruments that were not trained on: the last of every four programs
    /// of each family, so that three of them are trained on. The last families have programs without a pitch, so that
    /// not all can be told.
    ///
    /// # Errors
    /// `Error::Config` when there are too few pitches or programs for both parts.
    pub fn split(&self, labelling: Labelling) -> Result<(Vec<usize>, Vec<usize>)> {
        let (name, held_out) = match labelling {
            Labelling::Pitch => ("programs", self.held_out_programs()),
            _ => ("pitches", self.held_out_pitches()),
        };
        let is_test = |note: &Note| match labelling {
            Labelling::Pitch => held_out.contains(&note.program),
            _ => held_out.contains(&note.pitch),
        };
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (index, note) in self.notes.iter().enumerate() {
            if is_test(note) { test.push(index) } else { train.push(index) }
        }
        if train.is_empty() || test.is_empty() {
            let message = format!(
                "expected enough to train and to test on, got {} and {} clips of {:?}",
                train.len(),
                test.len(),
                if name == "programs" { &self.options.programs } else { &self.options.pitches }
            );
            return Err(Error::config(name, message));
        }
        Ok((train, test))
    }

    fn held_out_pitches(&self) -> Vec<u8> {
        let inner = self.options.pitches.split_last().map(|(_, inner)| inner).unwrap_or_default();
        inner.iter().copied().skip(1).step_by(HELD_OUT).collect()
    }

    fn held_out_programs(&self) -> Vec<u8> {
        let families = self.options.programs.chunk_by(|a, b| midi::family(*a) == midi::family(*b));
        let last =
            |family: &[u8]| family.iter().copied().skip(HELD_OUT - 1).step_by(HELD_OUT).collect::<Vec<_>>();
        families.flat_map(last).collect()
    }
}

/// What a note is called.
fn name(note: Note) -> String {
    let Note { program, pitch, velocity } = note;
    let (instrument, key) = (midi::program_name(program), midi::pitch_name(pitch));
    format!("program {program} ({instrument}), {key}, velocity {velocity}")
}

impl AudioDataset for Notes {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn sample_rate(&self) -> u32 {
        self.options.sample_rate
    }

    fn frames(&self, index: usize) -> u64 {
        self.clips.get(index).map_or(0, |clip| clip.len() as u64)
    }

    fn read(&self, index: usize, start: u64, out: &mut [f32]) -> Result<()> {
        let clip = self.clips.get(index).ok_or_else(|| out_of_range(index, self.clips.len()))?;
        copy_from(clip, start, out);
        Ok(())
    }

    fn name(&self, index: usize) -> String {
        self.notes.get(index).map_or_else(String::new, |note| name(*note))
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.families.get(index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.family_names
    }

    fn skipped(&self) -> Vec<String> {
        self.skipped.clone()
    }
}
