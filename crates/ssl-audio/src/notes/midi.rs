//! The names of General MIDI's programs, and of notes.
//!
//! Source: General MIDI System Level 1, MIDI Manufacturers Association, 1991, tables 1 and 2:
//! <https://midi.org/general-midi-level-1>.

/// Programs of one family.
pub(super) const PER_FAMILY: u8 = 8;

/// The families, each of eight programs in a row.
pub(super) const FAMILIES: [&str; 16] = [
    "Piano",
    "Chromatic Percussion",
    "Organ",
    "Guitar",
    "Bass",
    "Strings",
    "Ensemble",
    "Brass",
    "Reed",
    "Pipe",
    "Synth Lead",
    "Synth Pad",
    "Synth Effects",
    "Ethnic",
    "Percussive",
    "Sound Effects",
];

/// The programs, from 0.
pub(super) const PROGRAMS: [&str; 128] = [
    "Acoustic Grand Piano",
    "Bright Acoustic Piano",
    "Electric Grand Piano",
    "Honky-tonk Piano",
    "Electric Piano 1",
    "Electric Piano 2",
    "Harpsichord",
    "Clavi",
    "Celesta",
    "Glockenspiel",
    "Music Box",
    "Vibraphone",
    "Marimba",
    "Xylophone",
    "Tubular Bells",
    "Dulcimer",
    "Drawbar Organ",
    "Percussive Organ",
    "Rock Organ",
    "Church Organ",
    "Reed Organ",
    "Accordion",
    "Harmonica",
    "Tango Accordion",
    "Acoustic Guitar (nylon)",
    "Acoustic Guitar (steel)",
    "Electric Guitar (jazz)",
    "Electric Guitar (clean)",
    "Electric Guitar (muted)",
    "Overdriven Guitar",
    "Distortion Guitar",
    "Guitar Harmonics",
    "Acoustic Bass",
    "Electric Bass (finger)",
    "Electric Bass (pick)",
    "Fretless Bass",
    "Slap Bass 1",
    "Slap Bass 2",
    "Synth Bass 1",
    "Synth Bass 2",
    "Violin",
    "Viola",
    "Cello",
    "Contrabass",
    "Tremolo Strings",
    "Pizzicato Strings",
    "Orchestral Harp",
    "Timpani",
    "String Ensemble 1",
    "String Ensemble 2",
    "Synth Strings 1",
    "Synth Strings 2",
    "Choir Aahs",
    "Voice Oohs",
    "Synth Voice",
    "Orchestra Hit",
    "Trumpet",
    "Trombone",
    "Tuba",
    "Muted Trumpet",
    "French Horn",
    "Brass Section",
    "Synth Brass 1",
    "Synth Brass 2",
    "Soprano Sax",
    "Alto Sax",
    "Tenor Sax",
    "Baritone Sax",
    "Oboe",
    "English Horn",
    "Bassoon",
    "Clarinet",
    "Piccolo",
    "Flute",
    "Recorder",
    "Pan Flute",
    "Blown Bottle",
    "Shakuhachi",
    "Whistle",
    "Ocarina",
    "Lead 1 (square)",
    "Lead 2 (sawtooth)",
    "Lead 3 (calliope)",
    "Lead 4 (chiff)",
    "Lead 5 (charang)",
    "Lead 6 (voice)",
    "Lead 7 (fifths)",
    "Lead 8 (bass + lead)",
    "Pad 1 (new age)",
    "Pad 2 (warm)",
    "Pad 3 (polysynth)",
    "Pad 4 (choir)",
    "Pad 5 (bowed)",
    "Pad 6 (metallic)",
    "Pad 7 (halo)",
    "Pad 8 (sweep)",
    "FX 1 (rain)",
    "FX 2 (soundtrack)",
    "FX 3 (crystal)",
    "FX 4 (atmosphere)",
    "FX 5 (brightness)",
    "FX 6 (goblins)",
    "FX 7 (echoes)",
    "FX 8 (sci-fi)",
    "Sitar",
    "Banjo",
    "Shamisen",
    "Koto",
    "Kalimba",
    "Bagpipe",
    "Fiddle",
    "Shanai",
    "Tinkle Bell",
    "Agogo",
    "Steel Drums",
    "Woodblock",
    "Taiko Drum",
    "Melodic Tom",
    "Synth Drum",
    "Reverse Cymbal",
    "Guitar Fret Noise",
    "Breath Noise",
    "Seashore",
    "Bird Tweet",
    "Telephone Ring",
    "Helicopter",
    "Applause",
    "Gunshot",
];

/// The family of a program, from 0.
pub(super) fn family(program: u8) -> u8 {
    program / PER_FAMILY
}

/// The name of a program, from 0.
pub(super) fn program_name(program: u8) -> &'static str {
    PROGRAMS.get(usize::from(program)).copied().unwrap_or_default()
}

/// The name of a family, from 0.
pub(super) fn family_name(family: u8) -> &'static str {
    FAMILIES.get(usize::from(family)).copied().unwrap_or_default()
}

/// The name of a pitch: 60 is C4.
pub(super) fn pitch_name(pitch: u8) -> String {
    const CLASSES: [&str; 12] = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
    let class = CLASSES.get(usize::from(pitch % 12)).copied().unwrap_or_default();
    format!("{class}{}", i16::from(pitch / 12) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_families_and_pitches_have_their_names() {
        let names: std::collections::HashSet<_> = PROGRAMS.iter().collect();
        assert_eq!(names.len(), 128);
        let of = |program| (program_name(program), family_name(family(program)));
        assert_eq!(of(0), ("Acoustic Grand Piano", "Piano"));
        assert_eq!(of(40), ("Violin", "Strings"));
        assert_eq!(of(73), ("Flute", "Pipe"));
        assert_eq!(of(104), ("Sitar", "Ethnic"));
        assert_eq!(of(127), ("Gunshot", "Sound Effects"));
        let pitches = [0, 21, 45, 60, 69, 127].map(pitch_name);
        assert_eq!(pitches, ["C-1", "A0", "A2", "C4", "A4", "G9"]);
    }
}
