//! The header of an MP4 or QuickTime file, for the same reason as that of AVI: a program takes long to start.
//!
//! Source: ISO/IEC 14496-12, "ISO base media file format", clause 8 (boxes `mdhd`, `hdlr`, `stsd`, `stts`, `ctts`, `stsz`,
//! `elst`).
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that the box of all headers may have.
const LONGEST: u64 = 64 << 20;
/// Boxes that stand at the top of a file.
const MOST_BOXES: usize = 64;

/// What the header says of the first video, whose frames follow evenly from time 0 on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mp4 {
    /// Its number among the streams.
    pub(crate) index: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) frames: usize,
    /// Frames per second.
    pub(crate) rate: f64,
}

/// The header of a plain file; none where anything is unusual, about which `ffprobe` knows better.
pub(crate) fn read(path: &Path) -> Option<Mp4> {
    let mut file = File::open(path).ok()?;
    let movie = movie(&mut file)?;
    let tracks = boxes(&movie).filter(|(name, _)| name == b"trak").enumerate();
    let is_video =
        |track: &[u8]| find(track, &[b"mdia", b"hdlr"]).is_some_and(|body| body.get(8..12) == Some(b"vide"));
    let (index, (_, track)) = tracks.into_iter().find(|(_, (_, track))| is_video(track))?;
    let clock = scale(find(&movie, &[b"mvhd"])?)?;
    let ticks = scale(find(track, &[b"mdia", b"mdhd"])?)?;
    let table = find(track, &[b"mdia", b"minf", b"stbl"])?;
    let frames = u32_at(find(table, &[b"stsz"])?, 8)?;
    let step = step(find(table, &[b"stts"])?, frames)?;
    let length = u64::from(frames) * u64::from(step);
    // The first frame is decoded first; it may be seen later.
    let delay = find(table, &[b"ctts"]).map_or(Some(0), |body| u32_at(body, 12))?;
    let begin = match find(track, &[b"edts", b"elst"]) {
        None => 0,
        Some(edits) => edit(edits, (length, step, ticks, clock))?,
    };
    let [width, height] = sides(find(table, &[b"stsd"])?)?;
    (begin == delay).then_some(Mp4 {
        index,
        width,
        height,
        frames: frames as usize,
        rate: f64::from(ticks) / f64::from(step),
    })
}

/// The box of all headers.
fn movie(file: &mut File) -> Option<Vec<u8>> {
    let mut at = 0;
    for number in 0..MOST_BOXES {
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(&mut head).ok()?;
        let (name, short) = (head.get(4..8)?, u64::from(u32_at(&head, 0)?));
        if number == 0 && !matches!(name, b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip") {
            return None;
        }
        let (header, size) = match short {
            1 => (16, u64::from(u32_at(&head, 8)?) << 32 | u64::from(u32_at(&head, 12)?)),
            size => (8, size),
        };
        if name == b"moov" {
            let size = size.checked_sub(header).filter(|size| *size <= LONGEST)?;
            file.seek(SeekFrom::Start(at + header)).ok()?;
            let mut body = Vec::new();
            file.take(size).read_to_end(&mut body).ok()?;
            return (body.len() as u64 == size).then_some(body);
        }
        at = at.checked_add(size.max(header))?;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// The boxes in a box: names and bodies.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = u32_at(rest, 0)? as usize;
        let (name, body) = (rest.get(4..8)?, rest.get(8..size)?);
        rest = rest.get(size..)?;
        Some((name, body))
    })
}

/// The body of a box within boxes.
fn find<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter()
        .try_fold(bytes, |bytes, wanted| boxes(bytes).find(|(name, _)| name == *wanted).map(|(_, body)| body))
}

/// Ticks per second, of `mvhd` or `mdhd`.
fn scale(body: &[u8]) -> Option<u32> {
    u32_at(body, if body.first()? == &1 { 20 } else { 12 }).filter(|scale| *scale > 0)
}

/// Ticks from one frame to the next, where all are alike but the last.
fn step(body: &[u8], frames: u32) -> Option<u32> {
    let (count, first, step) = (u32_at(body, 4)?, u32_at(body, 8)?, u32_at(body, 12)?);
    let is_even = match count {
        1 => first == frames,
        2 => first.checked_add(1) == Some(frames) && u32_at(body, 16)? == 1,
        _ => false,
    };
    (is_even && frames > 0 && step > 0).then_some(step)
}

/// From which tick on a video is seen: of one edit that shows all of it.
fn edit(body: &[u8], (length, step, ticks, clock): (u64, u32, u32, u32)) -> Option<u32> {
    let (duration, begin, rate) = match body.first()? {
        1 => (u64_at(body, 8)?, u64_at(body, 16)?, u32_at(body, 24)?),
        _ => (u64::from(u32_at(body, 8)?), u64::from(u32_at(body, 12)?), u32_at(body, 16)?),
    };
    // Of an edit that shows nothing the begin is -1, which is none.
    let begin = u32::try_from(begin).ok().filter(|begin| *begin < 1 << 31)?;
    let shown = u128::from(duration) * u128::from(ticks) / u128::from(clock);
    // Half a frame is what rounding to the clock of the whole film may take.
    let is_whole = duration == 0 || shown + u128::from(step / 2) >= u128::from(length);
    (u32_at(body, 4)? == 1 && rate == 0x1_0000 && is_whole).then_some(begin)
}

/// Width and height of the first kind of picture.
fn sides(body: &[u8]) -> Option<[usize; 2]> {
    let both = u32_at(body, 8 + 8 + 24)?;
    Some([(both >> 16) as usize, (both & 0xFFFF) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &[u8], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 8).to_be_bytes()[..], name, body].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// A file of a sound and a video of 640 x 272 pixels, 1,000 ticks per second.
    fn film(frames: u32, stts: &[u32], ctts: Option<u32>, elst: Option<[u32; 5]>) -> Vec<u8> {
        let entry = [vec![0; 24], words(&[640 << 16 | 272]), vec![0; 50]].concat();
        let stsd = [words(&[0, 1]), part(b"avc1", &entry)].concat();
        let mut table = [part(b"stsd", &stsd), part(b"stts", &words(stts))].concat();
        table.extend(ctts.iter().flat_map(|delay| part(b"ctts", &words(&[0, 1, frames, *delay]))));
        table.extend(part(b"stsz", &words(&[0, 0, frames])));
        let media = |kind: &[u8], table: &[u8]| {
            let handler = part(b"hdlr", &[&[0; 8], kind, &[0; 12]].concat());
            let times = part(b"mdhd", &words(&[0, 0, 0, 1_000, 0, 0]));
            part(b"mdia", &[times, handler, part(b"minf", &part(b"stbl", table))].concat())
        };
        let edits = elst.iter().flat_map(|edit| part(b"edts", &part(b"elst", &words(edit)))).collect();
        let video = part(b"trak", &[edits, media(b"vide", &table)].concat());
        let sound = part(b"trak", &media(b"soun", &[]));
        let movie = [part(b"mvhd", &words(&[0, 0, 0, 600, 0])), sound, video].concat();
        // A box whose length takes eight bytes lies before.
        let data = [words(&[1]), b"mdat".to_vec(), words(&[0, 20, 7])].concat();
        [part(b"ftyp", b"isom"), data, part(b"moov", &movie)].concat()
    }

    #[test]
    fn the_first_video_is_found_and_what_is_unusual_is_left_to_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            read(file.path())
        };
        let even = [0, 1, 50, 40];
        let expected = Mp4 { index: 1, width: 640, height: 272, frames: 50, rate: 25.0 };
        let whole = film(50, &even, None, None);
        assert_eq!(found(&whole), Some(expected));
        assert_eq!(
            found(&film(50, &[0, 2, 49, 40, 1, 10], None, None)),
            Some(expected),
            "the last one is shorter"
        );
        // Two seconds at 600 ticks.
        let edit = |begin| Some([0, 1, 1_200, begin, 0x1_0000]);
        assert_eq!(found(&film(50, &even, Some(80), edit(80))), Some(expected), "delayed and moved back");
        assert_eq!(found(&film(50, &even, None, edit(0))), Some(expected));
        for (why, other) in [
            ("delayed", film(50, &even, Some(80), None)),
            ("begins in the middle", film(50, &even, None, edit(80))),
            ("begins with nothing", film(50, &even, None, edit(u32::MAX))),
            ("shows a part", film(50, &even, None, Some([0, 1, 600, 0, 0x1_0000]))),
            ("slower", film(50, &even, None, Some([0, 1, 1_200, 0, 0x8000]))),
            ("uneven", film(50, &[0, 2, 20, 40, 30, 80], None, None)),
            ("in fragments", film(0, &[0, 0], None, None)),
            ("foreign", b"RIFF....AVI LIST".to_vec()),
        ] {
            assert_eq!(found(&other), None, "{why}");
        }
        for end in 0..whole.len() {
            assert_eq!(found(&whole[..end]), None, "cut off at {end}");
        }
    }
}
