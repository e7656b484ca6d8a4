//! Plain text, file by file.
use super::corpus::{Part, Pass};
use super::cut::{Border, CHUNK, Cutter, book_start};
use super::input::{HEAD, Input, Refusal};
use ssl_core::{Error, Flow, Result};

/// Reads the documents of a part.
pub(crate) fn read(part: &Part, border: &Border, pass: &mut Pass<'_>) -> Result<Flow> {
    let mut input = match Input::open(&part.file) {
        Ok(input) => input,
        Err(Refusal::Error(error)) => return Err(error),
        Err(Refusal::NoText(why)) => {
            pass.bad(part, why)?;
            return Ok(Flow::Continue);
        }
    };
    let book = book_start(&input.head);
    // An offset counts the byte order mark, which was passed over.
    let start = part.start.max(input.offset).max(book.map_or(0, |start| start as u64 + input.offset));
    input.skip(&part.file, start - input.offset)?;
    let mut left = part.end.map_or(u64::MAX, |end| end.saturating_sub(start));
    let max = pass.files.options.max_document_bytes;
    let mut cutter = Cutter::new(border, max, part.encoding, book.is_some(), start);
    if input.head.len() < HEAD {
        cutter = cutter.with_room(input.head.len() + 1);
    }
    let mut is_empty = true;
    let mut take = |bytes: &[u8], offset: u64| {
        is_empty = false;
        pass.bytes(part, bytes, offset)
    };
    while left > 0 && !cutter.is_over() {
        let most = usize::try_from(left).unwrap_or(CHUNK);
        let space = cutter.space();
        let most = most.min(space.len());
        let n = input.read(&part.file, space.get_mut(..most).unwrap_or_default())?;
        if n == 0 {
            break;
        }
        left -= n as u64;
        if cutter.advance(n, &mut take)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
    }
    if cutter.finish(&mut take)? == Flow::Stop {
        return Ok(Flow::Stop);
    }
    if is_empty {
        pass.note(part, "no text");
    }
    Ok(Flow::Continue)
}

/// Where the last tenth of a text begins, at the next line break; none if it is too short to be parted.
pub(crate) fn last_tenth(part: &Part) -> Result<Option<u64>> {
    let open = || match Input::open(&part.file) {
        Ok(input) => Ok(Some(input)),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::NoText(_)) => Ok(None),
    };
    let Some(mut input) = open()? else { return Ok(None) };
    let bytes = if input.is_gzip() {
        input.skip(&part.file, u64::MAX)?;
        input.offset
    } else {
        std::fs::metadata(&part.file).map_err(Error::io(&*part.file, "read"))?.len()
    };
    let Some(mut input) = open()? else { return Ok(None) };
    let nine_tenths = bytes - bytes.div_ceil(10);
    input.skip(&part.file, nine_tenths.saturating_sub(input.offset))?;
    let (mut buffer, mut at) = (vec![0; CHUNK], input.offset);
    loop {
        let n = input.read(&part.file, &mut buffer)?;
        let read = buffer.get(..n).unwrap_or_default();
        if let Some(found) = memchr::memchr(b'\n', read) {
            let start = at + found as u64 + 1;
            return Ok((start < bytes).then_some(start));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}
