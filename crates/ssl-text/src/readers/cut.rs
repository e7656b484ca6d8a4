//! Cuts a stream of bytes into documents: in bounded memory, and the same ones however the bytes arrive.
use super::Encoding;
use memchr::memchr;
use ssl_core::{Flow, Result};

/// How many bytes are read at once.
pub(crate) const CHUNK: usize = 256 * 1024;
/// The longest line that may be a border between documents, in bytes. What is longer is text.
const BORDER: usize = 1024;

/// Where one document ends and the next begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Border {
    /// Nowhere within a file.
    None,
    /// At each line break.
    Line,
    /// At lines of white space alone.
    Blank,
    /// At lines that are this, apart from white space behind it.
    Equal(Vec<u8>),
    /// Before each line ` = Title = ` of `WikiText`, which belongs to what follows.
    Title,
}

/// What a line is.
enum Role {
    Text,
    Border,
    Title,
    /// The last line of a book of Project Gutenberg; its licence follows.
    End,
}

/// What takes the documents: bytes, and the offset of the first one.
pub(crate) type Take<'a> = dyn FnMut(&[u8], u64) -> Result<Flow> + 'a;

/// Cuts what is written into its [`space`](Cutter::space).
pub(crate) struct Cutter<'a> {
    border: &'a Border,
    /// The length in bytes at which a document is cut.
    max: usize,
    encoding: Encoding,
    is_book: bool,
    /// How many bytes there is room for at once.
    chunk: usize,
    buffer: Vec<u8>,
    filled: usize,
    /// Where in the buffer the document begins.
    start: usize,
    /// Where in the buffer the line begins.
    line: usize,
    /// How far the buffer was searched for line breaks.
    scanned: usize,
    /// Whether the line is too long for a border, and its beginning perhaps gone.
    is_long: bool,
    /// The offset in the stream of the buffer's first byte.
    offset: u64,
    is_over: bool,
}

impl<'a> Cutter<'a> {
    /// Begins at an offset of a stream. A book ends at Project Gutenberg's closing line.
    pub(crate) fn new(
        border: &'a Border,
        max: usize,
        encoding: Encoding,
        is_book: bool,
        offset: u64,
    ) -> Self {
        Cutter {
            border,
            max,
            encoding,
            is_book,
            chunk: CHUNK,
            buffer: Vec::new(),
            filled: 0,
            start: 0,
            line: 0,
            scanned: 0,
            is_long: false,
            offset,
            is_over: false,
        }
    }

    /// Room for a stream of so many bytes, which is all that a small file needs.
    pub(crate) fn with_room(self, bytes: usize) -> Self {
        Cutter { chunk: bytes.clamp(1, CHUNK), ..self }
    }

    /// Room for the next bytes of the stream.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.offset += self.start as u64;
            self.filled -= self.start;
            self.scanned -= self.start;
            self.line = self.line.saturating_sub(self.start);
            self.start = 0;
        }
        if self.buffer.len() < self.filled + self.chunk {
            self.buffer.resize(self.filled + self.chunk, 0);
        }
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// Takes the first `n` bytes of the space as the stream's next ones, and gives the documents that they complete.
    pub(crate) fn advance(&mut self, n: usize, take: &mut Take<'_>) -> Result<Flow> {
        self.filled += n;
        while !self.is_over {
            let rest = self.buffer.get(self.scanned..self.filled).unwrap_or_default();
            let Some(found) = self.next_break(rest) else {
                self.scanned = self.filled;
                self.is_long |= self.filled - self.line > BORDER;
                // A short line may still turn out to be a border.
                let settled = if self.is_long || !self.has_border_lines() { self.filled } else { self.line };
                return self.shorten(settled, take);
            };
            let end = self.scanned + found + 1;
            let flow = match self.role(end) {
                Role::Text => {
                    let flow = self.shorten(end, take)?;
                    self.line = end;
                    flow
                }
                Role::Border if *self.border == Border::Line => match self.shorten(end - 1, take)? {
                    Flow::Stop => Flow::Stop,
                    Flow::Continue => self.give(end, end, take)?,
                },
                Role::Border => self.give(self.line, end, take)?,
                Role::Title => {
                    let given = self.give(self.line, self.line, take)?;
                    self.line = end;
                    if given == Flow::Stop { given } else { self.shorten(end, take)? }
                }
                Role::End => {
                    self.is_over = true;
                    self.give(self.line, self.filled, take)?
                }
            };
            self.scanned = end.max(self.start);
            self.is_long = false;
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// Ends the stream, and gives the last document.
    pub(crate) fn finish(mut self, take: &mut Take<'_>) -> Result<Flow> {
        if self.is_over {
            return Ok(Flow::Continue);
        }
        let (line, filled) = (self.line, self.filled);
        let role = self.role(filled);
        if matches!(role, Role::Title) && self.give(line, line, take)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        let end = match role {
            Role::Border if *self.border != Border::Line => line,
            Role::End => line,
            _ => filled,
        };
        match self.shorten(end, take)? {
            Flow::Stop => Ok(Flow::Stop),
            Flow::Continue => self.give(end, filled, take),
        }
    }

    /// Whether nothing that follows can matter.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    fn has_border_lines(&self) -> bool {
        self.is_book || !matches!(self.border, Border::None | Border::Line)
    }

    /// The next line break, where lines matter.
    fn next_break(&self, bytes: &[u8]) -> Option<usize> {
        if *self.border == Border::None && !self.is_book {
            return None;
        }
        memchr(b'\n', bytes)
    }

    /// What the line that ends at `end` is.
    fn role(&self, end: usize) -> Role {
        let line = self.buffer.get(self.line..end).unwrap_or_default();
        if *self.border == Border::Line {
            return Role::Border;
        }
        if self.is_long || line.len() > BORDER {
            return Role::Text;
        }
        if self.is_book && is_footer(line) {
            return Role::End;
        }
        match self.border {
            Border::None | Border::Line => Role::Text,
            Border::Blank if line.trim_ascii().is_empty() => Role::Border,
            Border::Equal(separator) if line.trim_ascii_end() == separator => Role::Border,
            Border::Title if is_title(line) => Role::Title,
            _ => Role::Text,
        }
    }

    /// Gives what lies before `end`, and goes on at `next`.
    fn give(&mut self, end: usize, next: usize, take: &mut Take<'_>) -> Result<Flow> {
        let document = self.buffer.get(self.start..end).unwrap_or_default();
        let document = if *self.border == Border::None { document } else { without_break(document) };
        let offset = self.offset + self.start as u64;
        (self.start, self.line) = (next, next);
        if document.trim_ascii().is_empty() { Ok(Flow::Continue) } else { take(document, offset) }
    }

    /// Cuts the document while the part of it before `settled` is too long.
    fn shorten(&mut self, settled: usize, take: &mut Take<'_>) -> Result<Flow> {
        while settled.saturating_sub(self.start) > self.max {
            let bytes = self.buffer.get(self.start..settled).unwrap_or_default();
            let length = cut_point(bytes, self.max, self.encoding);
            let piece = bytes.get(..length).unwrap_or_default();
            let offset = self.offset + self.start as u64;
            self.start += length;
            if !piece.trim_ascii().is_empty() && take(piece, offset)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }
}

/// Where to cut bytes of which there are more than `max`: behind the last white space, else between two characters.
pub(crate) fn cut_point(bytes: &[u8], max: usize, encoding: Encoding) -> usize {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(b' ');
    let space = bytes.get(..max).and_then(|head| head.iter().rposition(u8::is_ascii_whitespace));
    if let Some(space) = space {
        // The two bytes of a line break stay together.
        let is_halved = at(space) == b'\r' && at(space + 1) == b'\n';
        return space + 1 + usize::from(is_halved);
    }
    if encoding == Encoding::Latin1 {
        return max;
    }
    let begins = |index: &usize| at(*index) & 0xC0 != 0x80;
    (max.saturating_sub(3).max(1)..=max).rev().find(begins).unwrap_or(max)
}

fn without_break(document: &[u8]) -> &[u8] {
    let document = document.strip_suffix(b"\n").unwrap_or(document);
    document.strip_suffix(b"\r").unwrap_or(document)
}

/// ` = Title = `, and not the ` = = Section = = ` of a part.
fn is_title(line: &[u8]) -> bool {
    let inner = line.trim_ascii().strip_prefix(b"= ").and_then(|rest| rest.strip_suffix(b" ="));
    inner.is_some_and(|inner| !inner.starts_with(b"=") && !inner.is_empty())
}

/// Where the text of a book of Project Gutenberg begins, if the head of a file is that of one.
pub(crate) fn book_start(head: &[u8]) -> Option<usize> {
    let mark = [b"*** START OF TH".as_slice(), b"***START OF TH"];
    let at = mark.iter().find_map(|mark| memchr::memmem::find(head, mark))?;
    Some(at + memchr(b'\n', head.get(at..)?)? + 1)
}

fn is_footer(line: &[u8]) -> bool {
    [
        b"*** END OF TH".as_slice(),
        b"***END OF TH",
        b"End of the Project Gutenberg",
        b"End of Project Gutenberg",
    ]
    .iter()
    .any(|mark| line.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn borders() -> [Border; 5] {
        [Border::None, Border::Line, Border::Blank, Border::Equal(b"%".to_vec()), Border::Title]
    }

    /// The documents of bytes that arrive `chunk` at a time.
    fn cut(bytes: &[u8], chunk: usize, border: &Border, max: usize, is_book: bool) -> Vec<(Vec<u8>, u64)> {
        let mut documents = Vec::new();
        let mut take = |bytes: &[u8], offset: u64| {
            documents.push((bytes.to_vec(), offset));
            Ok(Flow::Continue)
        };
        let mut cutter = Cutter::new(border, max, Encoding::Utf8, is_book, 0);
        for part in bytes.chunks(chunk) {
            cutter.space()[..part.len()].copy_from_slice(part);
            cutter.advance(part.len(), &mut take).unwrap();
        }
        cutter.finish(&mut take).unwrap();
        documents
    }

    fn texts(text: &str, border: &Border, max: usize) -> Vec<String> {
        let documents = cut(text.as_bytes(), usize::MAX, border, max, false);
        documents.into_iter().map(|(bytes, _)| String::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn each_border_cuts_where_it_says() {
        assert_eq!(texts("a\nb\r\n\n", &Border::None, 99), ["a\nb\r\n\n"]);
        assert_eq!(texts("a\n\n b\r\nc", &Border::Line, 99), ["a", " b", "c"]);
        assert_eq!(texts("a\nb\n \t\n\nc\n", &Border::Blank, 99), ["a\nb", "c"]);
        let percent = Border::Equal(b"%".to_vec());
        assert_eq!(texts("%\na\n50 %\n%  \r\n%\nb\n%", &percent, 99), ["a\n50 %", "b"]);
        let wiki = " \n = One = \n x \n = = Part = = \n y \n = Two = \n z";
        assert_eq!(texts(wiki, &Border::Title, 99), [" = One = \n x \n = = Part = = \n y ", " = Two = \n z"]);
        assert_eq!(texts("x\n = End = ", &Border::Title, 99), ["x", " = End = "]);
    }

    #[test]
    fn long_documents_are_cut_at_white_space_else_between_characters() {
        assert_eq!(texts("one two three", &Border::None, 8), ["one two ", "three"]);
        assert_eq!(texts("ääää", &Border::None, 5), ["ää", "ää"]);
        assert_eq!(texts("x €€", &Border::None, 4), ["x ", "€", "€"]);
        assert_eq!(texts("abc\r\nd", &Border::None, 4), ["abc\r\n", "d"]);
        assert_eq!(texts("abcd\nefghi\nj\n", &Border::Line, 4), ["abcd", "efgh", "i", "j"]);
    }

    #[test]
    fn a_book_ends_at_its_closing_line() {
        let book =
            b"Licence\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\nText.\n*** END OF THIS\nLicence\n";
        let start = book_start(book).unwrap();
        assert_eq!(&book[start..start + 5], b"Text.");
        assert_eq!(book_start(b"no book\n"), None);
        for chunk in [1, 7, 1000] {
            for end in [book.len(), book.len() - 9] {
                let text = cut(&book[start..end], chunk, &Border::None, 999, true);
                assert_eq!(text, [(b"Text.\n".to_vec(), 0)]);
            }
        }
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let (mut cutter, mut pieces) = (Cutter::new(&Border::Blank, 1000, Encoding::Utf8, false, 0), 0);
        for _ in 0..20 {
            let space = cutter.space();
            space.fill(b'x');
            let n = space.len();
            let mut take = |_: &[u8], _| {
                pieces += 1;
                Ok(Flow::Continue)
            };
            cutter.advance(n, &mut take).unwrap();
            assert!(cutter.buffer.len() <= 2 * CHUNK + 1000, "{}", cutter.buffer.len());
        }
        assert!(pieces > 5000, "{pieces}");
    }

    /// Text that is full of borders and of what nearly is one.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("\n"),
            Just("%\n"),
            Just("% \n"),
            Just("\r\n"),
            Just(" = A = \n"),
            Just(" = = A = = \n"),
            Just("word "),
            Just("ä€"),
            Just("abcdefghij"),
            Just("\u{feff}"),
        ];
        proptest::collection::vec(part, 0..60).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn documents_do_not_depend_on_the_chunks(bytes in text(), chunk in 1_usize..50, max in 4_usize..60) {
            for border in borders() {
                for is_book in [false, true] {
                    let whole = cut(&bytes, usize::MAX, &border, max, is_book);
                    prop_assert_eq!(&cut(&bytes, chunk, &border, max, is_book), &whole, "{:?}", border);
                }
            }
        }

        #[test]
        fn documents_lie_where_they_say_and_are_no_longer_than_allowed(bytes in text(), max in 4_usize..60) {
            for border in borders() {
                let mut end = 0;
                for (document, offset) in cut(&bytes, 13, &border, max, false) {
                    let at = offset as usize;
                    prop_assert!(at >= end && document.len() <= max + 1);
                    prop_assert_eq!(&bytes[at..at + document.len()], &document[..]);
                    prop_assert!(std::str::from_utf8(&document).is_ok());
                    prop_assert!(bytes[end..at].iter().all(|b| b" \r\n%".contains(b)), "{:?}", border);
                    end = at + document.len();
                }
            }
        }

        #[test]
        fn any_bytes_at_all_are_cut_without_loss(bytes in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..40) {
            let visible = |bytes: &[u8]| bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<u8>>();
            let documents = cut(&bytes, chunk, &Border::None, 16, false);
            let joined: Vec<u8> = documents.into_iter().flat_map(|(bytes, _)| bytes).collect();
            prop_assert_eq!(visible(&joined), visible(&bytes));
        }
    }
}
