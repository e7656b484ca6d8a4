//! From bytes to text: encodings, bytes that are no text, line breaks.
use super::Encoding;
use memchr::memchr;

/// Why bytes are no text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The byte at fault, from the document's first.
    pub(crate) at: usize,
    /// What it is, in words.
    pub(crate) reason: String,
}

/// The text that bytes mean, with line breaks of one character.
pub(crate) fn decode(bytes: &[u8], encoding: Encoding) -> Result<String, Fault> {
    if let Some(at) = memchr(0, bytes) {
        return Err(Fault { at, reason: "a NUL, which no text has".to_string() });
    }
    match encoding {
        Encoding::Latin1 => Ok(breaks(latin1(bytes))),
        Encoding::Utf8 => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(breaks(text.to_string())),
            Err(error) => {
                let at = error.valid_up_to();
                let byte = bytes.get(at).copied().unwrap_or_default();
                Err(Fault { at, reason: format!("{byte:#04x} is not UTF-8") })
            }
        },
    }
}

/// The text with a replacement character for each fault.
pub(crate) fn decode_lossy(bytes: &[u8], encoding: Encoding) -> String {
    let text = match encoding {
        Encoding::Latin1 => latin1(bytes),
        Encoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
    };
    breaks(text.replace('\0', "\u{fffd}"))
}

fn latin1(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text.to_string(),
        _ => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Makes each line break one character.
pub(crate) fn breaks(text: String) -> String {
    match memchr(b'\r', text.as_bytes()) {
        Some(_) => text.replace("\r\n", "\n"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_a_place_and_can_be_replaced() {
        let fault = |bytes| decode(bytes, Encoding::Utf8).unwrap_err();
        assert_eq!(fault(b"abc\xe9d"), Fault { at: 3, reason: "0xe9 is not UTF-8".to_string() });
        assert_eq!(fault(b"ab\0").at, 2);
        assert_eq!(decode_lossy(b"a\xe9\0b", Encoding::Utf8), "a\u{fffd}\u{fffd}b");
        assert_eq!(decode(b"a\xe9b", Encoding::Latin1).unwrap(), "aéb");
        assert_eq!(decode("ä\r\nb\rc\r\n".as_bytes(), Encoding::Utf8).unwrap(), "ä\nb\rc\n");
    }
}
