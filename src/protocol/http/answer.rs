//! Answers: a reply becomes a status, fields and a value.
//!
//! ```text
//!   HTTP/1.1 200 OK\r\nDate: ...\r\nContent-Type: application/octet-stream\r\n ... ETag: "7"\r\nContent-Length: 5\r\n\r\nhello
//!
//!   conditions of a read, in the order of RFC 9110 section 13.2.2:
//!     If-Match does not hold --> 412      If-None-Match does not hold --> 304      Range, if If-Range holds --> 206 or 416
//! ```
//!
//! The answer may be written on another core or node than the one that has read the request, without a clock: what it needs are [`Head`],
//! six bytes, and the lines of the request with its conditions. An ETag is the CAS in decimal, the same on every node; there is none
//! where CAS is switched off (`-C`).
//!
//! Lives here: statuses, fields, conditions of reads, ranges. Not here: conditions of writes, which the engine decides (`head`).
//! RFC 9110; a dropped field says why: no Last-Modified, for items have no such time; no Vary, for there is one form of a value.

use std::cell::Cell;

use super::head::{digits, trim};
use super::{Miss, Mode};
use crate::buffer::Buffer;
use crate::command::{Error, Item, Reply};
use crate::protocol::{Options, Session};

/// What an HTTP reply must remember of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) form: Form,
    bits: u8,
    /// When the request was read, in seconds since 1970: the `Date` of the answer.
    second: u32,
}

/// Which answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A value.
    Get,
    /// The fields of a value.
    Head,
    /// Of a store.
    Store,
    /// Of a delete.
    Delete,
    /// This status, and words.
    Note(Status),
}

/// The connection is closed behind the answer.
const CLOSING: u8 = 1;
/// An HTTP/1.0 client has asked that it stay open.
const KEEPING: u8 = 1 << 1;
/// A miss is 404.
const NOT_FOUND: u8 = 1 << 2;
/// There are no ETags.
const CAS_DISABLED: u8 = 1 << 3;
/// A write had conditions: what does not hold is 412.
const CONDITIONAL: u8 = 1 << 4;
/// Nothing is written here.
const READ_ONLY: u8 = 1 << 5;
/// The answer to HEAD.
const WITHOUT_BODY: u8 = 1 << 6;
/// An item that will expire may be kept by caches until then.
const MAX_AGE: u8 = 1 << 7;

impl Head {
    /// The same of a request that was read at this second.
    pub(super) fn at(self, second: u32) -> Self {
        Self { second, ..self }
    }

    /// Of a request to a node with these options.
    #[inline]
    pub(super) fn of(options: Options, form: Form) -> Self {
        let mut head = Self { form, bits: 0, second: 0 };
        head.set(NOT_FOUND, options.http.miss == Miss::NotFound);
        head.set(CAS_DISABLED, options.cas_disabled);
        head.set(READ_ONLY, options.http.mode == Mode::ReadOnly);
        head.set(MAX_AGE, options.http.max_age);
        head
    }

    /// Of an answer that needs nobody.
    pub(super) fn note(session: &Session, status: Status) -> Self {
        Self::of(session.options, Form::Note(status)).at(session.second)
    }

    pub(super) fn with_status(self, status: Status) -> Self {
        Self { form: Form::Note(status), ..self }
    }

    pub(super) fn closing(mut self) -> Self {
        self.set_closing(true);
        self
    }

    pub(super) fn without_body(mut self) -> Self {
        self.set(WITHOUT_BODY, true);
        self
    }

    pub(super) fn set_closing(&mut self, is: bool) {
        self.set(CLOSING, is);
    }

    pub(super) fn set_keeping(&mut self, is: bool) {
        self.set(KEEPING, is);
    }

    pub(super) fn set_conditional(&mut self, is: bool) {
        self.set(CONDITIONAL, is);
    }

    fn set(&mut self, bit: u8, is: bool) {
        self.bits = if is { self.bits | bit } else { self.bits & !bit };
    }

    fn has(self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    pub(in crate::protocol) fn to_bytes(self) -> [u8; 6] {
        let form = match self.form {
            Form::Get => 0,
            Form::Head => 1,
            Form::Store => 2,
            Form::Delete => 3,
            // Answered where it was read.
            Form::Note(_) => u8::MAX,
        };
        let [a, b, c, d] = self.second.to_le_bytes();
        [form, self.bits, a, b, c, d]
    }

    pub(in crate::protocol) fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        let form = match bytes[0] {
            0 => Form::Get,
            1 => Form::Head,
            2 => Form::Store,
            3 => Form::Delete,
            _ => return None,
        };
        Some(Self { form, bits: bytes[1], second: u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) })
    }
}

/// Writes the reply of one request.
pub(in crate::protocol) fn encode(head: Head, words: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    match (reply, head.form) {
        (Reply::Bye, _) => {}
        (Reply::Text(text), Form::Note(status)) => note(head, status, text, output),
        (Reply::Item(item), Form::Get | Form::Head) => hit(head, words, item, output),
        (Reply::NotFound, Form::Get | Form::Head) => miss(head, words, output),
        (Reply::Error(error), _) => fail(head, *error, output),
        (Reply::Stored(item), _) => {
            start(head, if item.created { Status::Created } else { Status::NoContent }, output);
            put_tag(head, item.cas, output);
            end(head, item.created.then_some(0), output);
        }
        (Reply::Deleted, _) => {
            start(head, Status::NoContent, output);
            end(head, None, output);
        }
        (Reply::NotFound, Form::Delete) if !head.has(CONDITIONAL) => {
            start(head, Status::NotFound, output);
            output.put(b"Cache-Control: no-store\r\n");
            end(head, Some(0), output);
        }
        (Reply::NotStored | Reply::Exists | Reply::NotFound, _) => {
            start(head, Status::PreconditionFailed, output);
            end(head, Some(0), output);
        }
        // Another node may ask for what no client can.
        _ => words_of(head, Status::InternalError, b"no such reply", output),
    }
}

/// A hit, if the conditions of the request hold.
fn hit(head: Head, words: &[u8], item: &Item<'_>, output: &mut Buffer) {
    let length = item.value.len();
    let verdict = if words.is_empty() { Verdict::Whole } else { Conditions { head, words }.judge(item.cas, length) };
    let (status, range) = match verdict {
        Verdict::Whole => (Status::Ok, 0..length),
        Verdict::Part(from, to) => (Status::PartialContent, from..to),
        Verdict::NotModified => {
            start(head, Status::NotModified, output);
            put_tag(head, item.cas, output);
            put_age(head, item, output);
            return end(head, None, output);
        }
        Verdict::Failed => {
            start(head, Status::PreconditionFailed, output);
            put_tag(head, item.cas, output);
            return end(head, Some(0), output);
        }
        Verdict::OutOfRange => {
            start(head, Status::RangeNotSatisfiable, output);
            output.put(b"Content-Range: bytes */");
            output.put_number(length as u64);
            output.put(LINE_END);
            return end(head, Some(0), output);
        }
    };
    let copied = if matches!(head.form, Form::Get) { item.value.copied_bytes().min(range.len()) } else { 0 };
    output.bytes.reserve(FIELDS_BYTES + copied);
    if head.has(MAX_AGE) {
        start(head, status, output);
        output.put(KIND_FIELDS);
        put_age(head, item, output);
        output.put(b"Accept-Ranges: bytes\r\n");
    } else if status == Status::Ok {
        // In one piece, and then the date in its place.
        let date_at = output.bytes.len() + WHOLE_DATE_AT;
        output.put(WHOLE_FIELDS);
        output.bytes[date_at..][..DATE_BYTES].copy_from_slice(&date(head.second));
    } else {
        start(head, status, output);
        output.put(VALUE_FIELDS);
    }
    put_tag(head, item.cas, output);
    if status == Status::PartialContent {
        output.put(b"Content-Range: bytes ");
        output.put_number(range.start as u64);
        output.put(b"-");
        output.put_number(range.end as u64 - 1);
        output.put(b"/");
        output.put_number(length as u64);
        output.put(LINE_END);
    }
    end(head, Some(range.len()), output);
    match (head.form, verdict) {
        (Form::Get, Verdict::Whole) => output.put_value(item.value),
        (Form::Get, _) => output.put_part(item.value, range),
        _ => {}
    }
}

fn miss(head: Head, words: &[u8], output: &mut Buffer) {
    if (Conditions { head, words }).fields(b"if-match").next().is_some() {
        start(head, Status::PreconditionFailed, output);
        return end(head, Some(0), output);
    }
    let (status, length) = if head.has(NOT_FOUND) { (Status::NotFound, Some(0)) } else { (Status::NoContent, None) };
    start(head, status, output);
    // Both may be kept by caches that find nothing else said. RFC 9110 section 15.1.
    output.put(b"Cache-Control: no-store\r\n");
    end(head, length, output);
}

/// An answer that needs nobody.
fn note(head: Head, status: Status, text: &[u8], output: &mut Buffer) {
    match status {
        Status::Continue => output.put(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Status::Options => {
            start(head, Status::NoContent, output);
            put_allow(head, output);
            end(head, None, output);
        }
        status => words_of(head, status, text, output),
    }
}

fn fail(head: Head, error: Error, output: &mut Buffer) {
    let (status, text) = match error {
        Error::TooLarge => (Status::ContentTooLarge, "the value is longer than an item may be"),
        Error::OutOfMemory => (Status::Unavailable, "no memory could be freed in time; nothing was stored"),
        Error::Unreachable => (Status::Unavailable, "no node for this key could be reached"),
        Error::Interrupted => (Status::GatewayTimeout, "the node for this key went away; the request may have been performed"),
        Error::NonNumeric => (Status::InternalError, "this is no number"),
        Error::Overflow => (Status::InternalError, "the number would leave 64 bits"),
        Error::Line(line) => (Status::InternalError, line),
        Error::Binary { text, .. } => (Status::InternalError, text),
    };
    words_of(head, status, text.as_bytes(), output);
}

/// An answer in words.
fn words_of(head: Head, status: Status, text: &[u8], output: &mut Buffer) {
    start(head, status, output);
    output.put(b"Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n");
    match status {
        Status::MethodNotAllowed => put_allow(head, output),
        Status::Unavailable => output.put(b"Retry-After: 1\r\n"),
        _ => {}
    }
    end(head, Some(text.len() + 1), output);
    if !head.has(WITHOUT_BODY) {
        output.put(text);
        output.put(b"\n");
    }
}

/// The first line and the date.
#[inline]
fn start(head: Head, status: Status, output: &mut Buffer) {
    output.put(status.line());
    output.put(&date(head.second));
}

/// For how long caches may keep an item.
fn put_age(head: Head, item: &Item<'_>, output: &mut Buffer) {
    match item.remaining_s.filter(|_| head.has(MAX_AGE)) {
        Some(seconds) => {
            output.put(b"Cache-Control: max-age=");
            output.put_number(seconds.into());
            output.put(LINE_END);
        }
        // Of one without an end, nobody has said for how long it is good.
        None => output.put(b"Cache-Control: no-cache\r\n"),
    }
}

/// The length, what becomes of the connection, and the end of the head.
#[inline]
fn end(head: Head, length: Option<usize>, output: &mut Buffer) {
    if let Some(length) = length {
        output.put(b"Content-Length: ");
        output.put_number(length as u64);
        output.put(LINE_END);
    }
    match head.bits & (CLOSING | KEEPING) {
        0 => output.put(LINE_END),
        KEEPING => output.put(b"Connection: keep-alive\r\n\r\n"),
        _ => output.put(b"Connection: close\r\n\r\n"),
    }
}

#[inline]
fn put_tag(head: Head, cas: u64, output: &mut Buffer) {
    if !head.has(CAS_DISABLED) {
        output.put(b"ETag: \"");
        output.put_number(cas);
        output.put(b"\"\r\n");
    }
}

fn put_allow(head: Head, output: &mut Buffer) {
    output.put(match head.has(READ_ONLY) {
        true => b"Allow: GET, HEAD, OPTIONS\r\n",
        false => b"Allow: GET, HEAD, PUT, POST, DELETE, OPTIONS\r\n",
    });
}

/// The conditions of a read.
#[derive(Clone, Copy)]
struct Conditions<'a> {
    head: Head,
    /// Lines of the request.
    words: &'a [u8],
}

/// What the conditions of a read come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    /// The bytes from the first up to, and not including, the second.
    Part(usize, usize),
    NotModified,
    Failed,
    OutOfRange,
}

impl<'a> Conditions<'a> {
    /// The values of a field.
    fn fields(self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.words.split(|&byte| byte == b'\n').filter_map(move |line| {
            let (field, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":").filter(|_| field.eq_ignore_ascii_case(name))?;
            Some(trim(value.strip_suffix(b"\r").unwrap_or(value)))
        })
    }

    /// What holds for an item with this CAS and length.
    fn judge(self, cas: u64, length: usize) -> Verdict {
        let mut space = [0; 20];
        let tag = if self.head.has(CAS_DISABLED) { None } else { Some(decimal(cas, &mut space)) };
        let names = |list: &[u8], weak: bool| {
            list == b"*" || tags(list).any(|(is_weak, other)| (weak || !is_weak) && tag == Some(other))
        };
        let mut if_match = self.fields(b"if-match").peekable();
        if if_match.peek().is_some() && !if_match.any(|list| names(list, false)) {
            return Verdict::Failed;
        }
        if self.fields(b"if-none-match").any(|list| names(list, true)) {
            return Verdict::NotModified;
        }
        let mut ranges = self.fields(b"range");
        let (Form::Get, Some(range), None) = (self.head.form, ranges.next(), ranges.next()) else { return Verdict::Whole };
        // A date never holds: items have none.
        if self.fields(b"if-range").any(|list| list == b"*" || !names(list, false)) {
            return Verdict::Whole;
        }
        part(range, length)
    }
}

/// The tags of a list, and whether each is weak.
fn tags(mut list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    std::iter::from_fn(move || {
        let start = memchr::memchr(b'"', list)?;
        let end = start + 1 + memchr::memchr(b'"', &list[start + 1..])?;
        let tag = (list[..start].ends_with(b"W/"), &list[start + 1..end]);
        list = &list[end + 1..];
        Some(tag)
    })
}

/// The part of a value that Range asks for. What is not understood, and several parts, mean the whole. RFC 9110 section 14.2.
fn part(range: &[u8], length: usize) -> Verdict {
    let Some((unit, spec)) = range.split_first_chunk::<6>() else { return Verdict::Whole };
    let spec = trim(spec);
    let Some(dash) = memchr::memchr(b'-', spec).filter(|_| unit.eq_ignore_ascii_case(b"bytes=")) else { return Verdict::Whole };
    let number = |text: &[u8]| digits(text).map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let (from, to) = match (&spec[..dash], &spec[dash + 1..]) {
        (b"", suffix) => match number(suffix) {
            Some(bytes) => (length - bytes.min(length), length),
            None => return Verdict::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), None) if last.is_empty() => (first, length),
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(length)),
            _ => return Verdict::Whole,
        },
    };
    if from < to { Verdict::Part(from, to) } else { Verdict::OutOfRange }
}

/// A number in decimal, at the end of `space`.
fn decimal(mut number: u64, space: &mut [u8; 20]) -> &[u8] {
    let mut at = space.len();
    loop {
        at -= 1;
        space[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &space[at..];
        }
    }
}

/// The line of a date. The last one is kept: a core answers thousands of requests a second.
#[inline]
fn date(second: u32) -> [u8; DATE_BYTES] {
    thread_local!(static LAST: Cell<(u32, [u8; DATE_BYTES])> = const { Cell::new((0, DATE_FORM)) });
    let (last, line) = LAST.get();
    if last == second {
        return line;
    }
    let line = write_date(second);
    LAST.set((second, line));
    line
}

/// The line of a date (RFC 9110 section 5.6.7).
#[cold]
fn write_date(second: u32) -> [u8; DATE_BYTES] {
    let mut line = DATE_FORM;
    let (days, rest) = (second / 86_400, second % 86_400);
    // Years begin in March here, so that the day of a leap year is the last; 400 of them have 146,097 days. Days count from 0000-03-01.
    let since = days + 719_468;
    let (era, day) = (since / 146_097, since % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12;
    let year = era * 400 + year + u32::from(month < 2);
    let weekday = (days as usize + 4) % 7 * 3;
    line[6..9].copy_from_slice(&b"SunMonTueWedThuFriSat"[weekday..weekday + 3]);
    let name = month as usize * 3;
    line[14..17].copy_from_slice(&b"JanFebMarAprMayJunJulAugSepOctNovDec"[name..name + 3]);
    let mut put = |at: usize, number: u32| {
        line[at] = b'0' + (number / 10) as u8;
        line[at + 1] = b'0' + (number % 10) as u8;
    };
    put(11, day);
    put(18, year / 100);
    put(20, year % 100);
    put(23, rest / 3600);
    put(26, rest / 60 % 60);
    put(29, rest % 60);
    line
}

/// The statuses that are answered. RFC 9110 section 15; 431 is of RFC 6585.
macro_rules! statuses {
    ($($name:ident $line:literal,)*) => {
        /// A status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::protocol) enum Status {
            $($name,)*
        }

        impl Status {
            /// The first line of an answer.
            fn line(self) -> &'static [u8] {
                match self {
                    $(Self::$name => concat!("HTTP/1.1 ", $line, "\r\n").as_bytes(),)*
                }
            }
        }
    };
}

statuses! {
    Continue "100 Continue",
    Ok "200 OK",
    Created "201 Created",
    NoContent "204 No Content",
    PartialContent "206 Partial Content",
    NotModified "304 Not Modified",
    BadRequest "400 Bad Request",
    Forbidden "403 Forbidden",
    NotFound "404 Not Found",
    MethodNotAllowed "405 Method Not Allowed",
    RequestTimeout "408 Request Timeout",
    PreconditionFailed "412 Precondition Failed",
    ContentTooLarge "413 Content Too Large",
    UriTooLong "414 URI Too Long",
    RangeNotSatisfiable "416 Range Not Satisfiable",
    ExpectationFailed "417 Expectation Failed",
    Misdirected "421 Misdirected Request",
    FieldsTooLarge "431 Request Header Fields Too Large",
    InternalError "500 Internal Server Error",
    NotImplemented "501 Not Implemented",
    Unavailable "503 Service Unavailable",
    GatewayTimeout "504 Gateway Timeout",
    VersionNotSupported "505 HTTP Version Not Supported",
    // What OPTIONS is answered.
    Options "204 No Content",
}

const LINE_END: &[u8] = b"\r\n";

macro_rules! first_date {
    () => {
        "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    };
}

macro_rules! kind_fields {
    () => {
        "Content-Type: application/octet-stream\r\nX-Content-Type-Options: nosniff\r\n"
    };
}

macro_rules! value_fields {
    () => {
        concat!(kind_fields!(), "Cache-Control: no-cache\r\nAccept-Ranges: bytes\r\n")
    };
}

const DATE_BYTES: usize = first_date!().len();
const DATE_FORM: [u8; DATE_BYTES] = *first_date!().as_bytes().first_chunk().unwrap();

/// Fields of every value. Nothing is kept of what a client called its type: bytes are bytes, and no browser shall guess.
const KIND_FIELDS: &[u8] = kind_fields!().as_bytes();
const VALUE_FIELDS: &[u8] = value_fields!().as_bytes();

/// The beginning of the answer with a whole value, and where its date is.
const WHOLE_FIELDS: &[u8] = concat!("HTTP/1.1 200 OK\r\n", first_date!(), value_fields!()).as_bytes();
const WHOLE_DATE_AT: usize = "HTTP/1.1 200 OK\r\n".len();

/// Room for the head of a hit.
const FIELDS_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = |second| {
            let (first, again) = (date(second), date(second));
            assert_eq!((first, again), (write_date(second), first));
            String::from_utf8(first.to_vec()).expect("text")
        };
        // From `date --utc`.
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00"),
            (u32::MAX, "Sun, 07 Feb 2106 06:28:15"),
        ] {
            assert_eq!(shown(second), format!("Date: {text} GMT\r\n"), "{second}");
        }
    }

    #[test]
    fn a_range_is_a_part_the_whole_or_none() {
        for (range, verdict) in [
            ("bytes=0-0", Verdict::Part(0, 1)),
            ("bytes=0-9", Verdict::Part(0, 10)),
            ("Bytes=3-", Verdict::Part(3, 10)),
            ("bytes=9-99999999999999999999", Verdict::Whole),
            ("bytes=9-18446744073709551615", Verdict::Part(9, 10)),
            ("bytes=-3", Verdict::Part(7, 10)),
            ("bytes=-30", Verdict::Part(0, 10)),
            ("bytes=10-", Verdict::OutOfRange),
            ("bytes=10-12", Verdict::OutOfRange),
            ("bytes=-0", Verdict::OutOfRange),
            ("bytes=3-2", Verdict::Whole),
            ("bytes=1-2,4-5", Verdict::Whole),
            ("bytes=", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=a-b", Verdict::Whole),
            ("bytes=1 - 2", Verdict::Whole),
            ("items=0-1", Verdict::Whole),
            ("", Verdict::Whole),
        ] {
            assert_eq!(part(range.as_bytes(), 10), verdict, "{range}");
        }
        assert_eq!(part(b"bytes=0-", 0), Verdict::OutOfRange);
    }

    #[test]
    fn heads_travel_but_for_notes() {
        for form in [Form::Get, Form::Head, Form::Store, Form::Delete] {
            let mut head = Head::of(Options::default(), form).at(0x0102_0304);
            head.set(CLOSING | CAS_DISABLED, true);
            assert_eq!(Head::from_bytes(head.to_bytes()), Some(head));
        }
        assert_eq!(Head::from_bytes(Head::of(Options::default(), Form::Note(Status::Ok)).to_bytes()), None);
    }

    #[test]
    fn tags_are_compared_as_they_were_given() {
        let judge =
            |lines: &str| Conditions { head: Head::of(Options::default(), Form::Get), words: lines.as_bytes() }.judge(7, 10);
        for (lines, verdict) in [
            ("If-None-Match: \"7\"", Verdict::NotModified),
            ("if-none-match:\t\"6\", W/\"7\"", Verdict::NotModified),
            ("If-None-Match: \"6\"\r\nIf-None-Match: \"7\"", Verdict::NotModified),
            ("If-None-Match: *", Verdict::NotModified),
            ("If-None-Match: \"07\", 7, \"7", Verdict::Whole),
            ("If-Match: \"7\"", Verdict::Whole),
            ("If-Match: W/\"7\"", Verdict::Failed),
            ("If-Match: \"8\"\r\nIf-None-Match: \"7\"", Verdict::Failed),
            ("If-Match:", Verdict::Failed),
            ("Range: bytes=1-2", Verdict::Part(1, 3)),
            ("Range: bytes=1-2\r\nIf-Range: \"7\"", Verdict::Part(1, 3)),
            ("Range: bytes=1-2\r\nIf-Range: \"8\"", Verdict::Whole),
            ("Range: bytes=1-2\r\nIf-Range: W/\"7\"", Verdict::Whole),
            ("Range: bytes=1-2\r\nIf-Range: Thu, 01 Jan 1970 00:00:00 GMT", Verdict::Whole),
            ("Range: bytes=1-2\r\nX-Range: 1\r\nRange: bytes=3-4", Verdict::Whole),
            ("X-If-None-Match: \"7\"\r\nAccept: */*\r\nRange: bytes=11-", Verdict::OutOfRange),
        ] {
            assert_eq!(judge(lines), verdict, "{lines}");
        }
    }
}
