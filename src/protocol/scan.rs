//! Scanning: line ends, words, numbers.
//!
//! ```text
//!   set  hello 0 60 5\r\n
//!   |--| |---| | || |      words: split at spaces only, runs of spaces count once
//! ```
//!
//! Words are bytes, not UTF-8: control characters are part of a word, as in memcached. Short words are searched eight bytes at a
//! time in a register, which beats a call of memchr below about 32 bytes; lines go to memchr after their first bytes.
//!
//! Lives here: what text and meta parsing share. Not here: commands.

/// Index of the first newline at or behind `from`.
#[inline]
pub(super) fn newline(input: &[u8], from: usize) -> Option<usize> {
    memchr::memchr(b'\n', input.get(from..)?).map(|at| from + at)
}

/// The line before the newline at `newline`, without its line end (`\r\n` or a bare `\n`).
#[inline]
pub(super) fn line(input: &[u8], newline: usize) -> &[u8] {
    match newline.checked_sub(1) {
        Some(last) if input[last] == b'\r' => &input[..last],
        _ => &input[..newline],
    }
}

/// Index of the first space at or behind `from`, or the length.
#[inline]
pub(super) fn word_end(bytes: &[u8], from: usize) -> usize {
    find(bytes, from, |eight| zero_bytes(eight ^ SPACES), |byte| byte == b' ')
}

/// Index of the first byte at or behind `from` that is a space or a control character (below 0x21), or `None`.
#[inline]
pub(super) fn blank(bytes: &[u8], from: usize) -> Option<usize> {
    // A byte below 0x21 borrows into its top bit; bytes from 0x80 are masked out.
    let at = find(bytes, from, |eight| eight.wrapping_sub(ONES * 0x21) & !eight & TOPS, |byte| byte <= b' ');
    (at < bytes.len()).then_some(at)
}

/// Index of the first byte at or behind `from` that is no printable ASCII, or has a meaning in a URI that a key may not have as it is (`#`,
/// `%`, `?`), or the length.
#[inline]
pub(super) fn word_of_path_end(bytes: &[u8], from: usize) -> usize {
    let ends = |eight: u64| {
        let is = |byte: u8| zero_bytes(eight ^ (ONES * u64::from(byte)));
        // Bytes from 0x80 have their own top bit.
        ((eight.wrapping_sub(ONES * 0x21) | eight) & TOPS) | is(0x7f) | is(b'#') | is(b'%') | is(b'?')
    };
    find(bytes, from, ends, |byte| !byte.is_ascii_graphic() || matches!(byte, b'#' | b'%' | b'?'))
}

/// Index of the first control character (below 0x20, or 0x7f) at or behind `from`, or `None`.
#[inline]
pub(super) fn control(bytes: &[u8], from: usize) -> Option<usize> {
    let hits = |eight: u64| (eight.wrapping_sub(SPACES) & !eight & TOPS) | zero_bytes(eight ^ (ONES * 0x7f));
    let at = find(bytes, from, hits, |byte| byte.is_ascii_control());
    (at < bytes.len()).then_some(at)
}

/// Index of the first byte at or behind `from` that is looked for, or the length.
///
/// `hits` sets the top bit of each byte that is, and may set it wrongly above the first of them (a borrow spoils higher bytes, never lower
/// ones); `is_hit` says the same of one byte.
#[inline(always)]
fn find(bytes: &[u8], mut from: usize, hits: impl Fn(u64) -> u64, is_hit: impl Fn(u8) -> bool) -> usize {
    while let Some(eight) = bytes.get(from..).and_then(|rest| rest.first_chunk::<8>()) {
        let hits = hits(u64::from_le_bytes(*eight));
        if hits != 0 {
            return from + (hits.trailing_zeros() / 8) as usize;
        }
        from += 8;
    }
    while from < bytes.len() && !is_hit(bytes[from]) {
        from += 1;
    }
    from
}

/// Index of the first byte at or behind `from` that is no space, or the length.
#[inline]
pub(super) fn word_start(bytes: &[u8], mut from: usize) -> usize {
    while from < bytes.len() && bytes[from] == b' ' {
        from += 1;
    }
    from
}

/// The line without the spaces at its end.
#[inline]
pub(super) fn trim_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = line {
        line = rest;
    }
    line
}

/// The first `N` words of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a, const N: usize> {
    words: [&'a [u8]; N],
    /// How many words the line has; `N + 1` stands for more than `N`.
    pub count: usize,
    /// The last word of a line with more than `N`.
    beyond: &'a [u8],
}

impl<'a, const N: usize> Words<'a, N> {
    /// No words.
    pub const EMPTY: Self = Self { words: [&[]; N], count: 0, beyond: &[] };

    /// Splits a line into these words, which were empty. Filled in place: a copy of fresh words waits for their stores.
    #[inline]
    pub fn split(&mut self, line: &'a [u8]) {
        let mut from = word_start(line, 0);
        while from < line.len() {
            let end = word_end(line, from);
            let Some(word) = self.words.get_mut(self.count) else {
                self.count = N + 1;
                let line = trim_end(line);
                self.beyond = &line[memchr::memrchr(b' ', line).map_or(0, |space| space + 1)..];
                return;
            };
            *word = &line[from..end];
            self.count += 1;
            from = word_start(line, end);
        }
    }

    /// Word `index`; empty where the line has none. `index < N`.
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.words[index]
    }

    /// The last word, however many there are; empty where there is none.
    #[inline]
    pub fn last(&self) -> &'a [u8] {
        if self.count > N { self.beyond } else { self.words[self.count.max(1) - 1] }
    }
}

/// A decimal number of up to 64 bits, with an optional plus sign. No minus sign, not even for 0.
#[inline]
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    let digits = match word {
        [b'+', digits @ ..] => digits,
        digits => digits,
    };
    if digits.is_empty() {
        return None;
    }
    // Up to 19 digits cannot overflow.
    if digits.len() <= 19 {
        let mut number = 0u64;
        for &byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            number = number * 10 + digit as u64;
        }
        return Some(number);
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| number.checked_mul(10)?.checked_add(digit as u64)).flatten()
    })
}

/// A decimal number of up to 32 bits, with an optional plus sign.
#[inline]
pub(super) fn unsigned32(word: &[u8]) -> Option<u32> {
    unsigned(word)?.try_into().ok()
}

/// A decimal number of up to 63 bits with an optional sign.
#[inline]
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    match word {
        [b'-', b'+', ..] => None,
        [b'-', digits @ ..] => 0i64.checked_sub_unsigned(unsigned(digits)?),
        digits => unsigned(digits)?.try_into().ok(),
    }
}

/// The top bit of each byte of `word` that is zero is set in the result; bits above the first such byte may be wrong.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;
const SPACES: u64 = ONES * b' ' as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_fast_searches_agree_with_the_naive_ones() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..20_000 {
            let length = random.below(40) as usize;
            let bytes: Vec<u8> = (0..length)
                .map(|_| match random.below(8) {
                    0 => b' ',
                    1 => random.next() as u8,
                    2 => 0x21 + random.below(3) as u8,
                    3 => 0x80 + random.below(0x40) as u8,
                    _ => b'a' + random.below(26) as u8,
                })
                .collect();
            let from = random.below(length as u64 + 1) as usize;
            let space = (from..length).find(|&at| bytes[at] == b' ').unwrap_or(length);
            assert_eq!(word_end(&bytes, from), space, "{bytes:?} from {from}");
            let control = (from..length).find(|&at| bytes[at] <= b' ');
            assert_eq!(blank(&bytes, from), control, "{bytes:?} from {from}");
            let ends = |byte: u8| byte <= b' ' || byte >= 0x7f || b"#%?".contains(&byte);
            for bytes in [&bytes, &bytes.iter().map(|byte| byte & 0x3f | 0x20).collect()] {
                let end = (from..length).find(|&at| ends(bytes[at])).unwrap_or(length);
                assert_eq!(word_of_path_end(bytes, from), end, "{bytes:?} from {from}");
            }
            let bytes: Vec<u8> = bytes.iter().map(|byte| if byte % 11 == 0 { 0x7f } else { byte | 0x10 }).collect();
            let control = (from..length).find(|&at| bytes[at] < b' ' || bytes[at] == 0x7f);
            assert_eq!(super::control(&bytes, from), control, "{bytes:?} from {from}");
        }
    }

    #[test]
    fn words_are_split_at_runs_of_spaces_only() {
        let split = |line| {
            let mut words = Words::<3>::EMPTY;
            words.split(line);
            words
        };
        let words = split(b"  a\tb   c ");
        assert_eq!((words.count, words.at(0), words.at(1), words.at(2)), (2, &b"a\tb"[..], &b"c"[..], &b""[..]));
        assert_eq!(words.last(), b"c");
        assert_eq!(split(b"a b c d e").count, 4);
        assert_eq!(split(b"a b c").count, 3);
        assert_eq!(split(b"   ").count, 0);
        assert_eq!(split(b"").last(), b"");
    }

    #[test]
    fn a_line_ends_before_its_line_end() {
        assert_eq!(line(b"ab\r\n", 3), b"ab");
        assert_eq!(line(b"ab\n", 2), b"ab");
        assert_eq!(line(b"\n", 0), b"");
        assert_eq!(line(b"\r\n", 1), b"");
        assert_eq!(line(b"a\r\r\n", 3), b"a\r");
        assert_eq!(newline(b"ab\nc\n", 3), Some(4));
        assert_eq!(newline(b"ab", 3), None);
    }

    #[test]
    fn numbers_are_read_up_to_their_last_value_and_not_beyond() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616"), None);
        assert_eq!(unsigned(b"99999999999999999999"), None);
        assert_eq!(unsigned(b"000000000000000000000000000007"), Some(7));
        assert_eq!(unsigned(b"+5"), Some(5));
        for bad in [&b""[..], b"+", b"-0", b"-1", b"1x", b"x", b" 1", b"1 ", b"0x1", b"++1", b"1.0"] {
            assert_eq!(unsigned(bad), None, "{bad:?}");
        }
        assert_eq!(unsigned32(b"4294967295"), Some(u32::MAX));
        assert_eq!(unsigned32(b"4294967296"), None);
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"-9223372036854775809"), None);
        assert_eq!(signed(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(signed(b"9223372036854775808"), None);
        assert_eq!(signed(b"-+1"), None);
        assert_eq!(signed(b"+1"), Some(1));
    }
}
