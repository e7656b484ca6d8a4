//! The header of an AVI file. Starting `ffprobe` takes some fifty milliseconds, reading this none, which counts for sets of
//! ten thousands of files, and those are mostly AVI: UCF101, HMDB51.
//!
//! Source: Microsoft, "AVI RIFF File Reference":
//! <https://learn.microsoft.com/en-us/windows/win32/directshow/avi-riff-file-reference>.
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes that are looked at.
const LONGEST: u64 = 1 << 16;

/// What the header says of the first video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Avi {
    /// Its number among the streams.
    pub(crate) index: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) frames: usize,
    /// Frames per second.
    pub(crate) rate: f64,
}

/// The header of a whole and plain file; none where anything is unusual, about which `ffprobe` knows better.
pub(crate) fn read(path: &Path) -> Option<Avi> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut head = Vec::new();
    file.take(LONGEST).read_to_end(&mut head).ok()?;
    let (riff, rest) = chunk(&head)?;
    // Padding may follow; what is missing makes it none.
    let promised = word(head.get(4..8)?)? as u64 + 8;
    if riff != b"RIFF" || rest.get(..4)? != b"AVI " || length < promised {
        return None;
    }
    let header = list(head.get(12..)?, b"hdrl")?;
    let streams = chunks(header).filter_map(|(name, body)| as_list(name, body, b"strl")).enumerate();
    // Longer files than 1 GiB go on in further parts, which this header does not count.
    if chunks(header).any(|(name, body)| as_list(name, body, b"odml").is_some()) {
        return None;
    }
    let (index, stream) = streams.into_iter().find(|(_, stream)| {
        chunks(stream).any(|(name, body)| name == b"strh" && body.starts_with(b"vids"))
    })?;
    let find = |wanted: &[u8]| chunks(stream).find(|(name, _)| *name == wanted).map(|(_, body)| body);
    let (header, format) = (find(b"strh")?, find(b"strf")?);
    let at = |bytes: &[u8], offset: usize| word(bytes.get(offset..offset + 4)?);
    let (scale, ticks, start, frames) = (at(header, 20)?, at(header, 24)?, at(header, 28)?, at(header, 32)?);
    // Rows that begin below have a positive height, the others a negative one.
    let (width, height) = (at(format, 4)?, at(format, 8)? as i32);
    let is_plain = scale > 0 && ticks > 0 && start == 0 && frames > 0;
    is_plain.then_some(Avi {
        index,
        width: width as usize,
        height: height.unsigned_abs() as usize,
        frames: frames as usize,
        rate: f64::from(ticks) / f64::from(scale),
    })
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// The name of the first chunk and what is there of its body.
fn chunk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = bytes.split_at_checked(4)?;
    let (size, rest) = rest.split_at_checked(4)?;
    let size = word(size)? as usize;
    Some((name, rest.get(..size).unwrap_or(rest)))
}

/// All chunks, which begin at even offsets.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let found = chunk(rest)?;
        let size = 8 + found.1.len();
        rest = rest.get(size + size % 2..).unwrap_or_default();
        Some(found)
    })
}

/// The chunks of a list, if a chunk is the list of that name.
fn as_list<'a>(name: &[u8], body: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    body.strip_prefix(wanted).filter(|_| name == b"LIST")
}

fn list<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    chunks(bytes).find_map(|(name, body)| as_list(name, body, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &[u8], body: &[u8]) -> Vec<u8> {
        let size = (body.len() as u32).to_le_bytes();
        [name, &size, body, &[0][..body.len() % 2]].concat()
    }

    fn strl(kind: &[u8], numbers: [u32; 4], sides: [i32; 2]) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let header = [kind, b"XVID", &[0; 12], &words(&numbers), &[0; 20]].concat();
        let format = [&words(&[40]), &words(&sides.map(|side| side as u32)), &[0; 28][..]].concat();
        part(
            b"LIST",
            &[b"strl", &part(b"strh", &header)[..], &part(b"strf", &format), &part(b"strn", b"odd")].concat(),
        )
    }

    fn avi(streams: &[Vec<u8>], more: &[u8]) -> Vec<u8> {
        let header = [b"hdrl", &part(b"avih", &[0; 56])[..], &streams.concat(), more].concat();
        let movie = part(b"LIST", b"movi0123");
        part(b"RIFF", &[b"AVI ", &part(b"LIST", &header)[..], &movie].concat())
    }

    #[test]
    fn the_first_video_is_found_and_what_is_unusual_is_left_to_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            read(file.path())
        };
        let sound = strl(b"auds", [1, 44_100, 0, 9], [0, 0]);
        let video = strl(b"vids", [1_001, 30_000, 0, 164], [320, -240]);
        let whole = avi(&[sound.clone(), video.clone()], &[]);
        let expected = Avi { index: 1, width: 320, height: 240, frames: 164, rate: 30_000.0 / 1_001.0 };
        assert_eq!(found(&whole), Some(expected));
        assert_eq!(found(&[&whole[..], b"padding"].concat()), Some(expected));
        let long = part(b"LIST", &[b"odml", &part(b"dmlh", &[0; 8])[..]].concat());
        for other in [
            avi(&[sound], &[]),
            avi(std::slice::from_ref(&video), &long),
            avi(&[strl(b"vids", [0, 25, 0, 9], [2, 2])], &[]),
            avi(&[strl(b"vids", [1, 25, 3, 9], [2, 2])], &[]),
            avi(&[strl(b"vids", [1, 25, 0, 0], [2, 2])], &[]),
        ] {
            assert_eq!(found(&other), None);
        }
        for end in 0..whole.len() {
            assert_eq!(found(&whole[..end]), None, "cut off at {end}");
        }
    }
}
