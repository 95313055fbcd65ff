//! A body in chunks, which tells its length as it comes.
//!
//! ```text
//!   5;name=x\r\n hello \r\n  3\r\n abc \r\n  0\r\n Trailer: x\r\n \r\n          -> helloabc
//!   |- size -|  |- data --|                 |----- trailers -----|
//! ```
//!
//! Line ends are `\r\n` and nothing else; extensions and trailers are bounded, must be well formed, and are dropped; no space is taken within
//! the line of a size.
//!
//! Lives here: from chunks to the value. Not here: whether a body comes in chunks (`head`), where the value goes (`runtime::connection`).
//! RFC 9112 section 7.1.

use super::Refusal;
use super::answer::Status;
use super::head::is_token;
use crate::limits::{HTTP_CHUNK_LINE_BYTES_MAX, HTTP_HEAD_BYTES_MAX};

/// A body on its way in.
#[derive(Debug)]
pub struct Chunks {
    stage: Stage,
    /// The size that is being read; then bytes that its chunk still lacks.
    size: usize,
    /// Bytes of the line that is being read; of the trailers, all of them.
    line_bytes: usize,
    /// What has come.
    value: Vec<u8>,
    bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Size,
    /// Behind the `;` of an extension: its name is wanted.
    Extension,
    ExtensionName,
    /// Behind its `=`: its value is wanted.
    ExtensionEquals,
    ExtensionValue,
    Quoted,
    /// Behind a backslash within quotes.
    Escaped,
    QuotedEnd,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the start of a trailer, or of the empty line behind them.
    Trailers,
    TrailerName,
    Trailer,
    TrailerEnd,
    LastEnd,
    Whole,
}

/// What is wrong with a body. `Session::refuse_chunked` answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub(in crate::protocol) Refusal);

impl Chunks {
    /// A body of at most `bytes_max`, of which nothing has come.
    pub fn new(bytes_max: usize) -> Self {
        Self { stage: Stage::Size, size: 0, line_bytes: 0, value: Vec::new(), bytes_max }
    }

    /// Takes what belongs to the body from the front of `input`; returns how much.
    ///
    /// # Errors
    /// [`Fault`], which is the client's.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while at < input.len() && self.stage != Stage::Whole {
            if self.stage == Stage::Data {
                let count = self.size.min(input.len() - at);
                self.value.extend_from_slice(&input[at..at + count]);
                self.size -= count;
                at += count;
                if self.size == 0 {
                    self.stage = Stage::DataReturn;
                }
                continue;
            }
            self.stage = self.next(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The stage behind a byte that is no data.
    fn next(&mut self, byte: u8) -> Result<Stage, Fault> {
        self.line_bytes += 1;
        let in_trailers =
            matches!(self.stage, Stage::Trailers | Stage::TrailerName | Stage::Trailer | Stage::TrailerEnd | Stage::LastEnd);
        if self.line_bytes > if in_trailers { HTTP_HEAD_BYTES_MAX } else { HTTP_CHUNK_LINE_BYTES_MAX } {
            return Err(Fault((Status::FieldsTooLarge, "a chunk has too much beside its data")));
        }
        let printable = byte == b'\t' || !byte.is_ascii_control();
        match (self.stage, byte) {
            (Stage::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.line_bytes <= SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0) as usize;
                self.size = self.size << 4 | digit;
                Ok(Stage::Size)
            }
            (Stage::Size, b';') if self.line_bytes > 1 => Ok(Stage::Extension),
            (Stage::Size, b'\r') if self.line_bytes > 1 => Ok(Stage::SizeEnd),
            (Stage::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => Err(Fault((Status::ContentTooLarge, TOO_LONG))),
            (Stage::Extension | Stage::ExtensionName, _) if is_token(byte) => Ok(Stage::ExtensionName),
            (Stage::ExtensionName, b'=') => Ok(Stage::ExtensionEquals),
            (Stage::ExtensionEquals | Stage::ExtensionValue, _) if is_token(byte) => Ok(Stage::ExtensionValue),
            (Stage::ExtensionEquals, b'"') => Ok(Stage::Quoted),
            (Stage::Quoted, b'"') => Ok(Stage::QuotedEnd),
            (Stage::Quoted, b'\\') => Ok(Stage::Escaped),
            (Stage::Quoted | Stage::Escaped, _) if printable => Ok(Stage::Quoted),
            (Stage::ExtensionName | Stage::ExtensionValue | Stage::QuotedEnd, b';') => Ok(Stage::Extension),
            (Stage::ExtensionName | Stage::ExtensionValue | Stage::QuotedEnd, b'\r') => Ok(Stage::SizeEnd),
            (Stage::SizeEnd, b'\n') => self.begin_chunk(),
            (Stage::DataReturn, b'\r') => Ok(Stage::DataEnd),
            (Stage::DataEnd, b'\n') => {
                (self.size, self.line_bytes) = (0, 0);
                Ok(Stage::Size)
            }
            (Stage::Trailers, b'\r') => Ok(Stage::LastEnd),
            (Stage::Trailers | Stage::TrailerName, _) if is_token(byte) => Ok(Stage::TrailerName),
            (Stage::TrailerName, b':') => Ok(Stage::Trailer),
            (Stage::Trailer, b'\r') => Ok(Stage::TrailerEnd),
            (Stage::Trailer, _) if printable => Ok(Stage::Trailer),
            (Stage::TrailerEnd, b'\n') => Ok(Stage::Trailers),
            (Stage::LastEnd, b'\n') => Ok(Stage::Whole),
            _ => Err(Fault((Status::BadRequest, "a chunk is malformed"))),
        }
    }

    fn begin_chunk(&mut self) -> Result<Stage, Fault> {
        self.line_bytes = 0;
        match self.size {
            0 => Ok(Stage::Trailers),
            size if self.value.len().saturating_add(size) > self.bytes_max => Err(Fault((Status::ContentTooLarge, TOO_LONG))),
            _ => Ok(Stage::Data),
        }
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }

    /// What has come.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        self.value.capacity()
    }
}

/// Digits of a size: 32 bits.
const SIZE_DIGITS_MAX: usize = 8;

const TOO_LONG: &str = "the body is longer than an item may be";

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body in pieces of `piece` bytes: the value and what is left over, or the status.
    fn decode(body: &[u8], piece: usize) -> Result<(Vec<u8>, usize), Status> {
        let mut chunks = Chunks::new(20);
        let mut taken = 0;
        for bytes in body.chunks(piece) {
            taken += chunks.take(bytes).map_err(|fault| fault.0.0)?;
        }
        assert!(chunks.is_whole(), "{}", body.escape_ascii());
        Ok((chunks.value().to_vec(), body.len() - taken))
    }

    fn check(body: &[u8], expected: Result<(&[u8], usize), Status>) {
        for piece in [1, 2, 3, 7, body.len()] {
            let expected = expected.map(|(value, left)| (value.to_vec(), left));
            assert_eq!(decode(body, piece), expected, "{} in pieces of {piece}", body.escape_ascii());
        }
    }

    #[test]
    fn chunks_become_a_value_however_they_are_cut() {
        check(b"0\r\n\r\n", Ok((b"", 0)));
        check(b"5\r\nhello\r\n3\r\n\r\n0\r\n0\r\n\r\nGET", Ok((b"hello\r\n0", 3)));
        check(b"5;a=b;c=\"d \\\" e\";f\r\nhello\r\n00\r\nTrailer: x\r\nOther:\r\n\r\n", Ok((b"hello", 0)));
        check(b"14\r\n01234567890123456789\r\n0\r\n\r\n", Ok((b"01234567890123456789", 0)));
        check(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", Ok((b"01234567890123456789", 0)));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for body in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhellox\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b";x\r\nhello\r\n0\r\n\r\n",
            b"5;x\ny\r\nhello\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n",
            b"5; x\r\nhello\r\n0\r\n\r\n",
            b"5;x[\r\nhello\r\n0\r\n\r\n",
            b"5;x=\r\nhello\r\n0\r\n\r\n",
            b"5;x=\"\r\nhello\r\n0\r\n\r\n",
            b"5;x=\"a\"b\r\nhello\r\n0\r\n\r\n",
            b"5;=y\r\nhello\r\n0\r\n\r\n",
            b"0\r\nNo colon\r\n\r\n",
            b"0\r\nA : x\r\n\r\n",
            b"5;\0\r\nhello\r\n0\r\n\r\n",
            b"0\r\n Folded: x\r\n\r\n",
            b"0\r\n: x\r\n\r\n",
            b"0\r\nA: x\n\r\n",
            b"0\r\n\r\r\n",
        ] {
            check(body, Err(Status::BadRequest));
        }
        check(b"15\r\n", Err(Status::ContentTooLarge));
        check(b"A\r\n0123456789\r\nb\r\n", Err(Status::ContentTooLarge));
        check(b"100000000\r\n", Err(Status::ContentTooLarge));
        check(&[b"5;", &[b'x'; 300][..]].concat(), Err(Status::FieldsTooLarge));
        check(&[b"0\r\n", &b"A: x\r\n".repeat(3_000)[..]].concat(), Err(Status::FieldsTooLarge));
    }
}
