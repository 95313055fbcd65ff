//! What a request looks like on the wire: headers, arguments with their lengths, words of a line.
//!
//! ```text
//!   *3\r\n $3\r\nSET\r\n $1\r\nk\r\n $5\r\nhello\r\n        framed: a count, then each argument behind its length
//!   SET k "hello"\r\n                                      a line: words at spaces, quotes around those with spaces
//! ```
//!
//! Arguments stay as they came: [`Args`] reads them where they lie, as often as somebody asks, on this core or another.
//!
//! Lives here: reading. Not here: which command it is (`table`), what an argument means (`commands`).
//! Lengths, borders and faults follow `networking.c` of Redis 7.0, which looks for the carriage return only and skips the byte behind it.

use crate::limits::{RESP_ARGUMENT_BYTES_MAX, RESP_LINE_BYTES_MAX};
use crate::protocol::scan;

/// Why a connection cannot go on. The words behind `-ERR Protocol error: `, with the byte that stood in the place of `$`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `*` and no number that may stand there.
    Count,
    /// `$` and no length that may stand there.
    Length,
    /// An argument without `$`.
    Dollar(u8),
    /// No end of a header in 64 KiB.
    LongCount,
    /// The same of an argument.
    LongLength,
    /// No end of a line in 64 KiB.
    LongLine,
    /// A quote that is not closed, or closed in the middle of a word.
    Quotes,
}

impl Fault {
    /// The number by which it travels to the one who writes it; the byte is apart.
    pub(super) fn number(self) -> (u8, u8) {
        match self {
            Fault::Count => (0, 0),
            Fault::Length => (1, 0),
            Fault::Dollar(byte) => (2, byte),
            Fault::LongCount => (3, 0),
            Fault::LongLength => (4, 0),
            Fault::LongLine => (5, 0),
            Fault::Quotes => (6, 0),
        }
    }

    /// The words of a fault with this number.
    pub(super) fn words(number: u8) -> &'static str {
        const WORDS: [&str; 7] = [
            "invalid multibulk length",
            "invalid bulk length",
            "expected '$', got '",
            "too big mbulk count string",
            "too big bulk count string",
            "too big inline request",
            "unbalanced quotes in request",
        ];
        WORDS[usize::from(number).min(WORDS.len() - 1)]
    }
}

/// What a header is, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// This number, and where the header ends.
    Number(i64, usize),
    /// So many bytes are needed at least.
    Part(usize),
    /// No number, up to here.
    Wrong(usize),
    /// Longer than any.
    Long,
}

/// The number in the header that starts at `at` with one byte that says what it counts.
#[inline]
pub(super) fn header(input: &[u8], at: usize) -> Header {
    let window = &input[at.min(input.len())..];
    // Almost all are short: `$16\r\n`.
    let short = &window[..window.len().min(HEADER_SHORT_BYTES)];
    let found = short.iter().position(|&byte| byte == b'\r');
    let found = if found.is_none() && window.len() > HEADER_SHORT_BYTES { memchr::memchr(b'\r', window) } else { found };
    let Some(end) = found else {
        return if window.len() > RESP_LINE_BYTES_MAX { Header::Long } else { Header::Part((at + 4).max(input.len() + 1)) };
    };
    if end > RESP_LINE_BYTES_MAX {
        return Header::Long;
    }
    let behind = at + end + 2;
    if behind > input.len() {
        return Header::Part(behind);
    }
    match number(window.get(1..end).unwrap_or(b"")) {
        Some(number) => Header::Number(number, behind),
        None => Header::Wrong(behind),
    }
}

/// One argument, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bulk {
    /// Its length is known: where its bytes start, and how many they are.
    Known(usize, usize),
    /// So many bytes are needed at least.
    Part(usize),
    /// Wrong by so many bytes.
    Wrong(Fault, usize),
}

/// The argument that starts at `at`.
#[inline]
pub(super) fn bulk(input: &[u8], at: usize) -> Bulk {
    match header(input, at) {
        Header::Part(needed) => Bulk::Part(needed),
        Header::Long => Bulk::Wrong(Fault::LongLength, at + RESP_LINE_BYTES_MAX + 1),
        Header::Number(_, behind) | Header::Wrong(behind) if input[at] != b'$' => Bulk::Wrong(Fault::Dollar(input[at]), behind),
        Header::Number(length @ 0..=LENGTH_MAX, start) => Bulk::Known(start, length as usize),
        Header::Number(_, behind) | Header::Wrong(behind) => Bulk::Wrong(Fault::Length, behind),
    }
}

/// Arguments of a request, where they lie: framed, or the words of a line. All there and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args<'a> {
    /// Their bytes, lengths and spaces included.
    pub bytes: &'a [u8],
    /// Framed, or words of a line.
    pub framed: bool,
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if !self.framed {
            return match word(self.bytes) {
                Word::Found(start, end, behind) => {
                    let word = &self.bytes[start..end];
                    self.bytes = &self.bytes[behind..];
                    Some(word)
                }
                _ => None,
            };
        }
        let Bulk::Known(start, length) = (if self.bytes.is_empty() { return None } else { bulk(self.bytes, 0) }) else {
            return None;
        };
        // The last one may be cut: of an unknown command as much is looked at as is shown.
        let argument = &self.bytes[start..(start + length).min(self.bytes.len())];
        self.bytes = self.bytes.get(start + length + 2..).unwrap_or(b"");
        Some(argument)
    }
}

/// A word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// There is none.
    End,
    /// Where it starts and ends, and where the rest of the line starts.
    Found(usize, usize, usize),
    /// A quote that is not closed, or not followed by a space.
    Unbalanced,
    /// A backslash between quotes: its bytes stand nowhere in the line.
    Escape,
}

/// The first word of a line.
pub(super) fn word(line: &[u8]) -> Word {
    let Some(start) = line.iter().position(|byte| !is_space(*byte)) else { return Word::End };
    let mut at = start;
    while let Some(&byte) = line.get(at).filter(|byte| !is_space(**byte)) {
        if matches!(byte, b'"' | b'\'') {
            // Within a word the bytes in front of the quote would belong to it, too.
            if at != start {
                return Word::Escape;
            }
            let Some(end) = line[at + 1..].iter().position(|&other| other == byte).map(|end| at + 1 + end) else {
                return Word::Unbalanced;
            };
            if line[at + 1..end].contains(&b'\\') {
                return Word::Escape;
            }
            return match line.get(end + 1) {
                Some(behind) if !is_space(*behind) => Word::Unbalanced,
                _ => Word::Found(at + 1, end, end + 1),
            };
        }
        at += 1;
    }
    Word::Found(start, at, at)
}

/// How many words a line has.
pub(super) fn words(line: &[u8]) -> Result<u32, Word> {
    let (mut rest, mut count) = (line, 0);
    loop {
        match word(rest) {
            Word::End => return Ok(count),
            Word::Found(start, end, _) if end - start > RESP_ARGUMENT_BYTES_MAX => return Err(Word::Escape),
            Word::Found(_, _, behind) => {
                rest = &rest[behind..];
                count += 1;
            }
            wrong => return Err(wrong),
        }
    }
}

/// The line at the front of the input: its bytes without the end, and where the next one starts. `None` if it is not all there.
pub(super) fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let newline = scan::newline(input, 0)?;
    Some((scan::line(input, newline), newline + 1))
}

/// A number of 64 bits as Redis reads it: no plus, no spaces, no zeros in front.
pub(super) fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut number = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    match negative {
        true if number <= i64::MIN.unsigned_abs() => Some((number as i64).wrapping_neg()),
        false => i64::try_from(number).ok(),
        true => None,
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0)
}

/// Most that an argument may be: `proto-max-bulk-len` of Redis.
const LENGTH_MAX: i64 = 512 << 20;

/// Bytes in which the end of a header is looked for one by one.
const HEADER_SHORT_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("-", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_header_is_read_at_its_carriage_return() {
        assert_eq!(header(b"*3\r\n", 0), Header::Number(3, 4));
        assert_eq!(header(b"*3\rx", 0), Header::Number(3, 4));
        assert_eq!(header(b"*3\r", 0), Header::Part(4));
        assert_eq!(header(b"*", 0), Header::Part(4));
        assert_eq!(header(b"*x\r\n", 0), Header::Wrong(4));
        assert_eq!(bulk(b"$5\r\nhel", 0), Bulk::Known(4, 5));
        assert_eq!(bulk(b"x5\r\n", 0), Bulk::Wrong(Fault::Dollar(b'x'), 4));
        assert_eq!(bulk(b"$-1\r\n", 0), Bulk::Wrong(Fault::Length, 5));
        assert_eq!(bulk(b"$536870912\r\n", 0), Bulk::Known(12, 536_870_912));
        assert_eq!(bulk(b"$536870913\r\n", 0), Bulk::Wrong(Fault::Length, 12));
        let long = [&b"$"[..], &b"1".repeat(RESP_LINE_BYTES_MAX)].concat();
        assert!(matches!(header(&long[..RESP_LINE_BYTES_MAX], 0), Header::Part(_)));
        assert_eq!(header(&long, 0), Header::Long);
    }

    #[test]
    fn words_of_a_line_may_stand_in_quotes() {
        let line = br#"SET "a b" '' c"#;
        let words: Vec<&[u8]> = Args { bytes: line, framed: false }.collect();
        assert_eq!(words, [&b"SET"[..], b"a b", b"", b"c"]);
        assert_eq!(super::words(line), Ok(4));
        assert_eq!(super::words(b"SET \"a"), Err(Word::Unbalanced));
        assert_eq!(super::words(b"SET \"a\"b"), Err(Word::Unbalanced));
        assert_eq!(super::words(b"SET \"a\\n\""), Err(Word::Escape));
        assert_eq!(super::words(b"  "), Ok(0));
    }
}
