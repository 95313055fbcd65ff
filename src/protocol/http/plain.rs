//! The short cut: a GET that asks for a key and nothing else, read in one pass.
//!
//! ```text
//!   GET /key HTTP/1.1\r\n           no `%`, no query, no key below `/_/`
//!   Host: cache:11211\r\n           once
//!   User-Agent: x\r\n               a field that changes nothing, as almost all are
//!   \r\n
//! ```
//!
//! What is anything else, cut, or wrong in any way goes the long way (`head`), which also finds the words for it. The two agree on all that
//! is taken here: a test compares them. By `cargo bench --bench instructions` a get of curl takes 3,460 instructions to read the long way, twice
//! as many as all the rest of its way through a core, and 990 this way.
//!
//! Lives here: such requests. Not here: any rule of its own.

use super::answer::{Form, Head};
use super::head::{is_token, trim};
use super::host;
use crate::key::Key;
use crate::limits::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, KEY_BYTES_MAX};
use crate::protocol::{Options, scan};

/// A request that was read.
pub struct Plain<'a> {
    pub key: Key<'a>,
    /// What the answer needs, but for the time.
    pub answer: Head,
    pub head_bytes: usize,
}

/// The request at the front of the input, if it is of this kind and its head is whole. About five instructions a byte.
#[inline]
pub fn read(options: Options, input: &[u8]) -> Option<Plain<'_>> {
    if input.first_chunk() != Some(START) {
        return None;
    }
    let end = scan::word_of_path_end(input, START.len());
    let key = &input[START.len()..end];
    if !(1..=KEY_BYTES_MAX).contains(&key.len()) || key.starts_with(b"_/") || input[end..].first_chunk() != Some(VERSION) {
        return None;
    }
    let mut host = None;
    let mut at = end + VERSION.len();
    for _ in 0..=HTTP_FIELDS_MAX {
        let line_end = scan::control(input, at)?;
        if input[line_end..].first_chunk() != Some(b"\r\n") {
            return None;
        }
        let line = &input[at..line_end];
        at = line_end + 2;
        if line.is_empty() {
            let host = host.filter(|host: &&[u8]| !host.is_empty())?;
            host::admit(options.http, host, None, false).ok()?;
            let fits = at <= HTTP_HEAD_BYTES_MAX;
            return fits.then(|| Plain { key: Key::new(key), answer: Head::of(options, Form::Get), head_bytes: at });
        }
        take(line, &mut host)?;
    }
    None
}

/// Takes a field, a line without control characters; `None` if it may change what is answered, or is wrong.
#[inline]
fn take<'a>(line: &'a [u8], host: &mut Option<&'a [u8]>) -> Option<()> {
    let Some(start) = line.first_chunk::<8>() else { return take_other(line, host) };
    // In lower case. No other printable character becomes a letter, `-` or `:` that way.
    let start = u64::from_le_bytes(*start) | u64::from_le_bytes([b' '; 8]);
    let named = |name: &[u8; 8], length: u32| (start ^ u64::from_le_bytes(*name)) << (64 - 8 * length) == 0;
    match () {
        () if named(b"host:   ", 5) => host.replace(trim(&line[5..])).is_none().then_some(()),
        () if named(b"accept: ", 7) => Some(()),
        () if named(b"user-age", 8)
            && line[8..].first_chunk().is_some_and(|rest: &[u8; 3]| rest.eq_ignore_ascii_case(b"nt:")) =>
        {
            Some(())
        }
        () => take_other(line, host),
    }
}

/// As `take`, of a name that is looked at byte by byte.
#[inline(never)]
fn take_other<'a>(line: &'a [u8], host: &mut Option<&'a [u8]>) -> Option<()> {
    let colon = line.iter().position(|&byte| !is_token(byte))?;
    let (name, value) = (&line[..colon], line[colon..].strip_prefix(b":")?);
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match (name.len(), name.first()? | 0x20) {
        (4, b'h') if is("Host") => host.replace(trim(value)).is_none().then_some(()),
        (10, b'c') if is("Connection") => trim(value).eq_ignore_ascii_case(b"keep-alive").then_some(()),
        (14, b's') if is("Sec-Fetch-Site") => (!trim(value).eq_ignore_ascii_case(b"cross-site")).then_some(()),
        // Range, Expect, Origin, If-Match, If-Range, If-None-Match, Content-Length, Transfer-Encoding, and names that look like them.
        (5, b'r') | (6, b'e' | b'o') | (8 | 13, b'i') | (14, b'c') | (17, b't') => None,
        _ => Some(()),
    }
}

const START: &[u8; 5] = b"GET /";
const VERSION: &[u8; 11] = b" HTTP/1.1\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::head::{Deed, Length, Request};
    use crate::protocol::http::{Miss, Mode, Rules};
    use crate::random::Random;

    /// What the long way makes of the same head.
    fn check(options: Options, input: &[u8]) -> bool {
        let Some(plain) = read(options, input) else { return false };
        let head = &input[..plain.head_bytes];
        let shown = input.escape_ascii();
        assert!(head.ends_with(b"\r\n\r\n") && memchr::memmem::find(head, b"\r\n\r\n") == Some(head.len() - 4), "{shown}");
        let Ok(request) = Request::read(options, head) else { panic!("refused: {shown}") };
        let Deed::Command(key, verb) = request.deed else { panic!("no command: {shown}") };
        let same = (key.bytes, key.hash, key.encoding, key.has_hash_tag)
            == (plain.key.bytes, plain.key.hash, plain.key.encoding, plain.key.has_hash_tag);
        assert!(same && verb == crate::command::Verb::Get(Default::default()), "{shown}");
        assert!(request.length == Length::Bytes(0) && request.keeps && !request.expects && request.words.is_empty(), "{shown}");
        assert_eq!(request.answer, plain.answer, "{shown}");
        true
    }

    const LINES: [&str; 23] = [
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Connection: keep-alive",
        "Connection:Keep-Alive  ",
        "Accept-Encoding: gzip, deflate",
        "Sec-Fetch-Site: none",
        "Cookie: a=b; c=\u{e4}",
        "X-Empty:",
        "Host: localhost:11211",
        "Host:",
        "Host: evil.example",
        "host:127.0.0.1 ",
        "Connection: close",
        "Sec-Fetch-Site: cross-site",
        "Range: bytes=0-1",
        "If-None-Match: \"7\"",
        "Expect: 100-continue",
        "Origin: null",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Cache-Control: max-age=0",
        "No colon",
        " Folded: x",
    ];

    /// A head of such lines, often spoilt at a byte or cut.
    fn head(random: &mut Random) -> Vec<u8> {
        let key = ["key", "get/", "{t}x", "_", "a/../b", "_/healthz", "a%20b", "a?ttl=1", "a#b", ""];
        let common = if random.below(4) > 0 { 5 } else { key.len() as u64 };
        let key = key[random.below(common) as usize];
        let mut text = format!("GET /{key} HTTP/1.1\r\n").into_bytes();
        if random.below(8) > 0 {
            text.extend_from_slice(b"Host: localhost\r\n");
        }
        for _ in 0..random.below(5) {
            let count = if random.below(5) > 0 { 8 } else { LINES.len() };
            text.extend_from_slice(LINES[random.below(count as u64) as usize].as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        let at = random.below(text.len() as u64) as usize;
        match random.below(6) {
            0 => text[at] = random.next() as u8,
            1 => text[at] = b"\r\n\t :\x7f\0/%"[random.below(9) as usize],
            2 => text.truncate(at),
            _ => text.extend_from_slice(b"GET /next HTTP/1.1\r\n"),
        }
        text
    }

    #[test]
    fn the_short_cut_and_the_long_way_agree() {
        let mut random = Random(0x6874_7470_2f31_2e31);
        let readonly = Rules { mode: Mode::ReadOnly, miss: Miss::NotFound, hosts: Vec::new(), max_age: true };
        let readonly: &'static Rules = Box::leak(Box::new(readonly));
        let mut taken = 0;
        for number in 0..60_000 {
            let options = match number % 2 {
                0 => Options::default(),
                _ => Options { http: readonly, cas_disabled: true, ..Options::default() },
            };
            taken += u32::from(check(options, &head(&mut random)));
        }
        assert!((10_000..50_000).contains(&taken), "{taken} of 60000 took the short cut");
    }

    #[test]
    fn limits_are_those_of_the_long_way() {
        let with = |key: usize, fields: usize, value: usize| {
            let mut text = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "k".repeat(key));
            (1..fields).for_each(|_| text.push_str(&format!("X: {}\r\n", "v".repeat(value))));
            check(Options::default(), (text + "\r\n").as_bytes())
        };
        assert!(with(KEY_BYTES_MAX, 1, 0) && !with(KEY_BYTES_MAX + 1, 1, 0));
        assert!(with(1, HTTP_FIELDS_MAX, 1) && !with(1, HTTP_FIELDS_MAX + 1, 1));
        let beside = "GET /k HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        assert!(with(1, 2, HTTP_HEAD_BYTES_MAX - beside) && !with(1, 2, HTTP_HEAD_BYTES_MAX - beside + 1));
    }
}
