//! Whether a sound font may be given to the synthesizer, which indexes by what the file says.
//!
//! Source: SoundFont Technical Specification 2.04, Creative Technology, 2006, sections 4 to 7:
//! <https://www.synthfont.com/sfspec24.pdf>.

/// A name of four letters, and the bytes of a chunk.
type Chunk<'a> = (&'a [u8; 4], &'a [u8]);

/// Positions of samples from here on could overflow with the offsets of zones, which are below it.
const MOST_SAMPLES: u32 = 1 << 30;
/// The highest rate of a sample, in hertz.
const MOST_HERTZ: u32 = 768_000;

/// Checks everything in a file by which the synthesizer finds something else in it: sizes of chunks, links between
/// presets, instruments and their zones, and places of samples.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let (Some(b"RIFF"), Some(b"sfbk")) =
        (bytes.first_chunk(), bytes.get(8..).and_then(<[u8]>::first_chunk::<4>))
    else {
        return Err("expected a sound font (.sf2, RIFF of the form sfbk), got other bytes".into());
    };
    let rest = bytes.get(12..).unwrap_or_default();
    let (information, rest) = list(rest, b"INFO")?;
    for (name, body) in chunks(information)? {
        if [b"ifil", b"iver"].contains(&name) && body.len() != 4 {
            return Err(format!("{}: expected 4 bytes, got {}", text(name), body.len()));
        }
    }
    let (samples, rest) = list(rest, b"sdta")?;
    chunks(samples)?;
    let (articulation, _) = list(rest, b"pdta")?;
    check_links(&chunks(articulation)?)
}

fn check_links(chunks: &[Chunk<'_>]) -> Result<(), String> {
    let presets = records(chunks, b"phdr", 38, "presets")?;
    let preset_zones = records(chunks, b"pbag", 4, "zones of presets")?;
    let preset_generators = records(chunks, b"pgen", 4, "generators of presets")?;
    let instruments = records(chunks, b"inst", 22, "instruments")?;
    let zones = records(chunks, b"ibag", 4, "zones of instruments")?;
    let generators = records(chunks, b"igen", 4, "generators of instruments")?;
    ascending("zones of presets", &presets, 24, preset_zones.len())?;
    ascending("generators of presets", &preset_zones, 0, preset_generators.len())?;
    ascending("zones of instruments", &instruments, 20, zones.len())?;
    ascending("generators of instruments", &zones, 0, generators.len())?;
    let samples = records(chunks, b"shdr", 46, "samples")?;
    let (_, samples) = samples.split_last().unwrap_or((&(&[] as &[u8]), &[]));
    for (n, sample) in samples.iter().enumerate() {
        if let Some(place) = [20, 24, 28, 32].map(|at| u32_at(sample, at)).into_iter().max()
            && place > MOST_SAMPLES
        {
            return Err(format!("sample {n}: expected places up to {MOST_SAMPLES}, got {place}"));
        }
        let rate = u32_at(sample, 36);
        if !(1..=MOST_HERTZ).contains(&rate) {
            return Err(format!("sample {n}: expected a rate of 1 to {MOST_HERTZ} Hz, got {rate}"));
        }
    }
    Ok(())
}

/// The chunk at the start of `bytes`, and what follows it. Like the synthesizer it knows no padding.
fn chunk(bytes: &[u8]) -> Result<(Chunk<'_>, &[u8]), String> {
    let truncated =
        || "truncated: expected a chunk of a sound font, got the end of the file or list".to_string();
    let (name, rest) = bytes.split_first_chunk::<4>().ok_or_else(truncated)?;
    let (size, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let (body, after) = rest.split_at_checked(size).ok_or_else(|| {
        format!("truncated or corrupt: expected {size} bytes of {}, got {}", text(name), rest.len())
    })?;
    Ok(((name, body), after))
}

/// What is in the list at the start of `bytes`, and what follows it.
fn list<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Result<(&'a [u8], &'a [u8]), String> {
    let ((name, body), after) = chunk(bytes)?;
    match body.split_first_chunk::<4>() {
        Some((found, inner)) if name == b"LIST" && found == kind => Ok((inner, after)),
        _ => Err(format!("expected the list {}, got {}", text(kind), text(name))),
    }
}

fn chunks(mut bytes: &[u8]) -> Result<Vec<Chunk<'_>>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (one, after) = chunk(bytes)?;
        all.push(one);
        bytes = after;
    }
    Ok(all)
}

/// The records of a chunk, of which the last one ends the list; of several chunks of one name the last counts.
fn records<'a>(
    chunks: &[Chunk<'a>],
    name: &[u8; 4],
    size: usize,
    what: &str,
) -> Result<Vec<&'a [u8]>, String> {
    let (_, body) = chunks
        .iter()
        .rfind(|(found, _)| *found == name)
        .ok_or_else(|| format!("expected {what} (chunk {}), got none", text(name)))?;
    if body.len() % size != 0 {
        return Err(format!("{what}: expected {size} bytes each, got {} in all", body.len()));
    }
    match body.len() / size {
        0 | 1 => Err(format!("expected {what}, got none")),
        _ => Ok(body.chunks_exact(size).collect()),
    }
}

/// That the starts in `records` ascend to at most the last of `count` records that they point at.
fn ascending(what: &str, records: &[&[u8]], at: usize, count: usize) -> Result<(), String> {
    let mut before = 0;
    for (n, record) in records.iter().enumerate() {
        let start = u16_at(record, at);
        if start < before || start >= count {
            let message =
                format!("{what}: expected a start of {before} to {} at {n}, got {start}", count - 1);
            return Err(message);
        }
        before = start;
    }
    Ok(())
}

fn u16_at(record: &[u8], at: usize) -> usize {
    let bytes = record.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    let bytes = record.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn text(name: &[u8; 4]) -> String {
    name.escape_ascii().to_string()
}
