//! A sound font that was checked, and single notes of it.
use super::check::check;
use rustysynth::{
    InstrumentRegion, LoopMode, Preset, PresetRegion, SoundFont, Synthesizer, SynthesizerSettings,
};
use ssl_core::{Error, Result};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Larger files are refused, for they are read as a whole.
const MOST_BYTES: u64 = 1 << 30;
/// Pairs of zones that one preset may have.
const MOST_PAIRS: usize = 1 << 20;
/// Input samples that one output sample may go on by.
const MOST_STEP: f64 = 65_536.0;
/// Quieter notes are silent: below -60 decibels of full scale.
const SILENT: f32 = 0.001;

/// A note of General MIDI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) program: u8,
    pub(super) pitch: u8,
    pub(super) velocity: u8,
}

/// How long a note is, in samples of `sample_rate`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    pub(super) sample_rate: u32,
    /// Samples until the key is let go.
    pub(super) held: usize,
    pub(super) all: usize,
}

pub(super) struct Font {
    font: Arc<SoundFont>,
    /// The place of the preset of each program in bank 0.
    presets: HashMap<u8, usize>,
}

impl Font {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "read"))?;
        let size = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        if size > MOST_BYTES {
            return Err(Error::data(path, format!("expected at most {MOST_BYTES} bytes, got {size}")));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
        Font::parse(&bytes).map_err(|reason| Error::data(path, reason))
    }

    fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        check(bytes)?;
        let font = SoundFont::new(&mut bytes).map_err(|error| error.to_string())?;
        let mut presets = HashMap::new();
        for (place, preset) in font.get_presets().iter().enumerate() {
            let pairs = regions(&font, preset).map(|(_, regions)| regions.len()).sum::<usize>();
            if pairs > MOST_PAIRS {
                let name = preset.get_name();
                return Err(format!(
                    "preset {name}: expected at most {MOST_PAIRS} pairs of zones, got {pairs}"
                ));
            }
            // Of several presets in one place the synthesizer plays the last.
            if let (0, Ok(program)) = (preset.get_bank_number(), u8::try_from(preset.get_patch_number())) {
                presets.insert(program, place);
            }
        }
        Ok(Font { font: Arc::new(font), presets })
    }

    /// Those of the programs that the font has no preset for.
    pub(super) fn lacks(&self, programs: &[u8]) -> Vec<u8> {
        programs.iter().copied().filter(|program| !self.presets.contains_key(program)).collect()
    }

    /// One note, its channels mixed, without reverberation; or why it is left out.
    pub(super) fn render(&self, note: Note, length: Length) -> Result<Vec<f32>, String> {
        self.check(note, length.sample_rate)?;
        let rate = i32::try_from(length.sample_rate).map_err(|error| error.to_string())?;
        let mut settings = SynthesizerSettings::new(rate);
        settings.enable_reverb_and_chorus = false;
        let mut synthesizer = Synthesizer::new(&self.font, &settings).map_err(|error| error.to_string())?;
        let (mut left, mut right) = (vec![0.0; length.all], vec![0.0; length.all]);
        let (left_held, left_rest) = left.split_at_mut(length.held.min(length.all));
        let (right_held, right_rest) = right.split_at_mut(length.held.min(length.all));
        synthesizer.process_midi_message(0, 0xC0, note.program.into(), 0);
        synthesizer.note_on(0, note.pitch.into(), note.velocity.into());
        synthesizer.render(left_held, right_held);
        synthesizer.note_off(0, note.pitch.into());
        synthesizer.render(left_rest, right_rest);
        let mixed: Vec<f32> = left.iter().zip(&right).map(|(left, right)| 0.5 * (left + right)).collect();
        if mixed.iter().any(|sample| !sample.is_finite()) {
            return Err("its sound is not finite".into());
        }
        let peak = mixed.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
        if peak < SILENT {
            return Err(format!("silent: expected a peak of at least {SILENT}, got {peak:.6}"));
        }
        Ok(mixed)
    }

    /// That the font has a zone for a note, and that the synthesizer stays within the samples: it goes back by one
    /// loop for each output sample, so a step must not be longer than the loop.
    fn check(&self, note: Note, sample_rate: u32) -> Result<(), String> {
        let preset = self.presets.get(&note.program).and_then(|place| self.font.get_presets().get(*place));
        let preset = preset.ok_or("the font has no such program")?;
        let (key, velocity) = (note.pitch.into(), note.velocity.into());
        let mut zones = 0;
        for (outer, inner) in regions(&self.font, preset).filter(|(outer, _)| outer.contains(key, velocity)) {
            for inner in inner.iter().filter(|inner| inner.contains(key, velocity)) {
                zones += 1;
                let sample = self.font.get_sample_headers().get(inner.get_sample_id());
                let rate = sample.map_or(0, |sample| sample.get_sample_rate());
                let step = f64::from(rate) / f64::from(sample_rate) * highest_pitch(outer, inner, key);
                if step.is_nan() || step > MOST_STEP {
                    return Err(format!("its pitch is out of range: a step of {step:.0} samples"));
                }
                let span = i64::from(inner.get_sample_end_loop()) - i64::from(inner.get_sample_start_loop());
                if inner.get_sample_modes() != LoopMode::NoLoop && span > 0 && 1.001 * step > span as f64 {
                    return Err(format!("its loop of {span} samples is shorter than a step of {step:.1}"));
                }
            }
        }
        if zones == 0 { Err("the font has no zone for it".into()) } else { Ok(()) }
    }
}

/// The zones of a preset, and the zones of the instruments that they point at.
fn regions<'a>(
    font: &'a SoundFont,
    preset: &'a Preset,
) -> impl Iterator<Item = (&'a PresetRegion, &'a [InstrumentRegion])> {
    preset.get_regions().iter().filter_map(|region| {
        let instrument = font.get_instruments().get(region.get_instrument_id())?;
        Some((region, instrument.get_regions()))
    })
}

/// The highest ratio of a note's frequency to that of the sample as recorded, over all phases of the oscillators and
/// envelopes that change it.
fn highest_pitch(outer: &PresetRegion, inner: &InstrumentRegion, key: i32) -> f64 {
    let sum = |outer: i32, inner: i32| f64::from(outer) + f64::from(inner);
    let cents = |outer, inner| 0.01 * sum(outer, inner);
    let vibrato = cents(outer.get_vibrato_lfo_to_pitch(), inner.get_vibrato_lfo_to_pitch()).abs();
    let modulation = cents(outer.get_modulation_lfo_to_pitch(), inner.get_modulation_lfo_to_pitch()).abs();
    // An envelope is at most 1; twice as much leaves room for its rounding.
    let envelope =
        2.0 * cents(outer.get_modulation_envelope_to_pitch(), inner.get_modulation_envelope_to_pitch());
    let (low, high) = (envelope.min(0.0) - vibrato - modulation, envelope.max(0.0) + vibrato + modulation);
    let from_root = f64::from(key) - f64::from(inner.get_root_key());
    let scale = cents(outer.get_scale_tuning(), inner.get_scale_tuning());
    let tune = sum(outer.get_coarse_tune(), inner.get_coarse_tune())
        + cents(outer.get_fine_tune(), inner.get_fine_tune());
    let semitones = (scale * (from_root + low)).max(scale * (from_root + high)) + tune;
    (semitones / 12.0).exp2()
}
