//! The head of a request: what it says, and what is refused because two parsers could read it differently.
//!
//! ```text
//!   PUT /key HTTP/1.1\r\n           first line: method, target, version
//!   Content-Length: 5\r\n           fields: a token, `:`, a value; those that matter here are picked, the others dropped
//!   If-Match: "7"\r\n               conditions of a read go along to who answers it, as they were sent
//!   \r\n
//! ```
//!
//! | Input | Answer | RFC 9112 |
//! |---|---|---|
//! | Content-Length with Transfer-Encoding; Transfer-Encoding in 1.0 | 400 | 6.1, 11.2 |
//! | `chunked` not the last, or twice; another coding in front of it | 400; 501 | 6.1, 6.3, 7 |
//! | Content-Length twice, a list, with a sign, in hex, above 2^63 | 400 | 6.3 |
//! | a line folded; a space in front of `:` or of the first field; a name that is no token; a control in a value | 400 | 5.1, 5.2, 2.2 |
//! | no Host in 1.1, two, one that is malformed; another version than 1.0 and 1.1 | 400; 505 | 3.2; 2.3 |
//! | more than `HTTP_FIELDS_MAX` fields | 431 | 3 |
//!
//! Lives here: the fields and these rules. Not here: where the head ends (`mod`), which hosts are ours (`host`), the target (`target`).

use std::mem::MaybeUninit;

use super::answer::{Form, Head, Status};
use super::target::{self, Path, Target};
use super::{Mode, Refusal, host};
use crate::command::{Delete, Get, Store, StoreMode, Verb};
use crate::key::Key;
use crate::limits::{HTTP_FIELDS_MAX, HTTP_WORDS_BYTES_MAX};
use crate::protocol::Options;
use crate::time::Exptime;

/// A request that may be performed, but for its body.
pub struct Request<'a> {
    pub deed: Deed<'a>,
    /// How long its body is.
    pub length: Length,
    /// The connection stays open behind it.
    pub keeps: bool,
    /// The client waits to be told to send the body.
    pub expects: bool,
    /// What the answer needs, but for the time.
    pub answer: Head,
    /// The lines of the head from the first to the last that the answer needs.
    pub words: &'a [u8],
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub enum Deed<'a> {
    /// Something of a key.
    Command(Key<'a>, Verb),
    /// These words.
    Note(&'static str),
    /// Whether the node is ready.
    Ready,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Bytes(u64),
    /// As its chunks tell.
    Chunked,
}

/// What the head says, before anybody asks what it means.
#[derive(Default)]
struct Fields<'a> {
    method: &'a [u8],
    target: &'a [u8],
    /// It is HTTP/1.0.
    is_old: bool,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    codings: Codings,
    closes: bool,
    keeps_alive: bool,
    expects: bool,
    origin: Option<&'a [u8]>,
    is_cross_site: bool,
    if_match: Option<&'a [u8]>,
    if_none_match: Option<&'a [u8]>,
    /// One of the two is there twice.
    conditions_repeated: bool,
    max_age_s: Option<u32>,
    is_partial: bool,
    /// Where the lines begin and end that an answer needs; nothing of other requests than GET and HEAD is looked at.
    words: Option<(usize, usize)>,
}

/// What Transfer-Encoding says.
#[derive(Default)]
struct Codings {
    /// The field is there.
    named: bool,
    chunked: bool,
    /// Another one is there.
    other: bool,
}

impl<'a> Request<'a> {
    /// Reads a whole head.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn read(options: Options, head: &'a [u8]) -> Result<Self, Refusal> {
        let fields = Fields::read(head)?;
        let length = fields.length()?;
        let (target, authority) = target::split(fields.target)?;
        let host = fields.host(authority)?;
        host::admit(options.http, host, fields.origin, fields.is_cross_site)?;
        let method = Method::of(fields.method).ok_or((Status::NotImplemented, "no such method"))?;
        if method == Method::Other || (options.http.mode == Mode::ReadOnly && method.changes()) {
            return Err((Status::MethodNotAllowed, "this method is not served here"));
        }
        let target = Target::read(target)?;
        let keeps = !fields.closes && (!fields.is_old || fields.keeps_alive);
        let conditional = fields.if_match.is_some() || fields.if_none_match.is_some();
        let (deed, form) = fields.deed(method, &target)?;
        let mut answer = Head::of(options, form);
        answer.set_closing(!keeps);
        answer.set_keeping(keeps && fields.is_old);
        answer.set_conditional(conditional);
        if method == Method::Head {
            answer = answer.without_body();
        }
        let words = if method.reads() { fields.words(head)? } else { &[] };
        Ok(Self { deed, length, keeps, expects: fields.expects && !fields.is_old, answer, words })
    }

    /// The same on a node that is about to end, or not: then the connection is closed behind the answer.
    pub fn of_session(mut self, leaving: bool) -> Self {
        if leaving {
            self.keeps = false;
            self.answer.set_closing(true);
            self.answer.set_keeping(false);
        }
        self
    }

    /// Whether its body is a value.
    pub fn is_store(&self) -> bool {
        matches!(self.deed, Deed::Command(_, Verb::Store(_)))
    }
}

impl<'a> Fields<'a> {
    fn read(head: &'a [u8]) -> Result<Self, Refusal> {
        let is_old = version_is_old(head)?;
        let mut space = [const { MaybeUninit::uninit() }; HTTP_FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, &mut space) {
            Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
            Ok(_) => return Err((Status::BadRequest, "the head does not end where it seems to")),
            Err(error) => return Err(refusal(error)),
        }
        // In a URI it is written with `%`: who reads it as it is may take it for another character.
        if !parsed.path.unwrap_or_default().is_ascii() {
            return Err((Status::BadRequest, "the target has a byte that is not ASCII; in a key it is %XX"));
        }
        let mut fields = Self {
            method: parsed.method.unwrap_or_default().as_bytes(),
            target: parsed.path.unwrap_or_default().as_bytes(),
            is_old,
            ..Self::default()
        };
        for field in parsed.headers.iter() {
            fields.take(head, field.name, trim(field.value))?;
        }
        Ok(fields)
    }

    fn take(&mut self, head: &'a [u8], name: &'a str, value: &'a [u8]) -> Result<(), Refusal> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("Host") => {
                let repeated = self.host.replace(value).is_some();
                if repeated {
                    return Err((Status::BadRequest, "Host is there twice"));
                }
            }
            5 if is("Range") => self.need(head, name, value),
            6 if is("Expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err((Status::ExpectationFailed, "this expectation is not met here"));
                }
                self.expects = true;
            }
            6 if is("Origin") => {
                let repeated = self.origin.replace(value).is_some();
                if repeated {
                    return Err((Status::BadRequest, "Origin is there twice"));
                }
            }
            8 if is("If-Match") => {
                self.conditions_repeated |= self.if_match.replace(value).is_some();
                self.need(head, name, value);
            }
            8 if is("If-Range") => self.need(head, name, value),
            10 if is("Connection") => {
                for word in list(value) {
                    self.closes |= word.eq_ignore_ascii_case(b"close");
                    self.keeps_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if is("Cache-Control") => self.max_age_s = max_age_s(value).or(self.max_age_s),
            13 if is("Content-Range") => self.is_partial = true,
            13 if is("If-None-Match") => {
                self.conditions_repeated |= self.if_none_match.replace(value).is_some();
                self.need(head, name, value);
            }
            14 if is("Content-Length") => {
                let bytes = digits(value)
                    .filter(|&bytes| bytes <= LENGTH_MAX)
                    .ok_or((Status::BadRequest, "Content-Length is no number of bytes"))?;
                if self.length.replace(bytes).is_some() {
                    return Err((Status::BadRequest, "Content-Length is there twice"));
                }
            }
            14 if is("Sec-Fetch-Site") => self.is_cross_site |= value.eq_ignore_ascii_case(b"cross-site"),
            17 if is("Transfer-Encoding") => self.codings.take(value)?,
            _ => {}
        }
        Ok(())
    }

    /// Notes that the answer needs this line.
    fn need(&mut self, head: &[u8], name: &str, value: &[u8]) {
        let base = head.as_ptr() as usize;
        let (from, to) = (name.as_ptr() as usize - base, value.as_ptr() as usize - base + value.len());
        self.words = Some(self.words.map_or((from, to), |(start, _)| (start, to)));
    }

    /// The lines that the answer of a read needs. Too long, they are left out where the whole value is a right answer all the same.
    fn words(&self, head: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let Some((from, to)) = self.words else { return Ok(&[]) };
        let words = head.get(from..to).unwrap_or_default();
        match words.len() {
            ..=HTTP_WORDS_BYTES_MAX => Ok(words),
            _ if self.if_match.is_some() => Err((Status::FieldsTooLarge, "the conditions are too long")),
            _ => Ok(&[]),
        }
    }

    fn length(&self) -> Result<Length, Refusal> {
        let Codings { named, chunked, other } = self.codings;
        match (named, self.length) {
            (false, length) => Ok(Length::Bytes(length.unwrap_or(0))),
            (true, Some(_)) => Err((Status::BadRequest, "Content-Length beside Transfer-Encoding")),
            (true, None) if self.is_old => Err((Status::BadRequest, "Transfer-Encoding in HTTP/1.0")),
            (true, None) if !chunked => Err((Status::BadRequest, "the last transfer coding is not chunked")),
            (true, None) if other => Err((Status::NotImplemented, "no such transfer coding")),
            (true, None) => Ok(Length::Chunked),
        }
    }

    /// The host that the request is for: that of the target if it has one, else that of the field; empty in HTTP/1.0 without one.
    fn host(&self, authority: Option<&'a [u8]>) -> Result<&'a [u8], Refusal> {
        let field = match self.host {
            Some(host) => host,
            None if self.is_old => return Ok(authority.unwrap_or_default()),
            None => return Err((Status::BadRequest, "there is no Host")),
        };
        for host in [Some(field), authority].into_iter().flatten() {
            host::parse(host).ok_or((Status::BadRequest, "Host is malformed"))?;
        }
        Ok(authority.unwrap_or(field))
    }

    fn deed(&self, method: Method, target: &Target<'a>) -> Result<(Deed<'a>, Form), Refusal> {
        let key = match target.path {
            _ if method == Method::Options => return Ok((Deed::Note(""), Form::Note(Status::Options))),
            Path::Everything => return Err((Status::BadRequest, "only OPTIONS asks for *")),
            Path::Healthy if method.reads() => return Ok((Deed::Note("ok"), Form::Note(Status::Ok))),
            Path::Ready if method.reads() => return Ok((Deed::Ready, Form::Note(Status::Ok))),
            Path::Healthy | Path::Ready => return Err((Status::MethodNotAllowed, "this path is only read")),
            Path::Key(key) => key,
        };
        let (verb, form) = match method {
            Method::Head => (Verb::Get(Get::default()), Form::Head),
            Method::Store => (Verb::Store(self.store(target)?), Form::Store),
            Method::Delete => (Verb::Delete(Delete { compare: self.compare()?, ..Delete::default() }), Form::Delete),
            _ => (Verb::Get(Get::default()), Form::Get),
        };
        if !matches!(verb, Verb::Store(_)) && target.is_for_stores() {
            return Err((Status::BadRequest, "only a store has ttl and flags"));
        }
        Ok((Deed::Command(key, verb), form))
    }

    fn store(&self, target: &Target<'_>) -> Result<Store, Refusal> {
        if self.is_partial {
            return Err((Status::BadRequest, "a part of a value cannot be stored"));
        }
        let (mode, compare) = match (self.if_match, self.if_none_match) {
            (None, Some(b"*")) => (StoreMode::Add, None),
            (Some(b"*"), None) => (StoreMode::Replace, None),
            (None, None) => (StoreMode::Set, None),
            _ => (StoreMode::Set, self.compare()?),
        };
        let exptime = match (target.ttl_s, self.max_age_s) {
            (Some(ttl_s), _) => Exptime(ttl_s.into()),
            (None, Some(0)) => Exptime(-1),
            (None, Some(max_age_s)) => Exptime(i64::from(max_age_s).min(Exptime::RELATIVE_MAX)),
            (None, None) => Exptime::NEVER,
        };
        Ok(Store { mode, client_flags: target.client_flags, exptime, compare, ..Store::default() })
    }

    /// The CAS that If-Match wants of a write.
    fn compare(&self) -> Result<Option<u64>, Refusal> {
        match (self.if_match, self.if_none_match) {
            (_, Some(_)) => Err((Status::BadRequest, "If-None-Match of a write is *, and alone")),
            (Some(_), None) if self.conditions_repeated => Err((Status::BadRequest, "If-Match of a write is one tag")),
            (None | Some(b"*"), None) => Ok(None),
            (Some([b'"', tag @ .., b'"']), None) if !tag.contains(&b'"') => match digits(tag) {
                // The one way to write it: no other tag was ever given.
                Some(cas) if cas != 0 && (tag[0] != b'0') => Ok(Some(cas)),
                _ => Err((Status::PreconditionFailed, "no item has this tag")),
            },
            (Some([b'W', b'/', ..]), None) => Err((Status::PreconditionFailed, "a weak tag never matches If-Match")),
            (Some(_), None) => Err((Status::BadRequest, "If-Match of a write is one tag")),
        }
    }
}

impl Codings {
    fn take(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.named = true;
        for coding in list(value) {
            if self.chunked {
                return Err((Status::BadRequest, "a transfer coding behind chunked"));
            }
            match coding.eq_ignore_ascii_case(b"chunked") {
                true => self.chunked = true,
                false => self.other = true,
            }
        }
        Ok(())
    }
}

/// What a method asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
    /// PUT and POST.
    Store,
    Delete,
    Options,
    /// One that is known and not served.
    Other,
}

impl Method {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"PUT" | b"POST" => Self::Store,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" | b"TRACE" | b"CONNECT" => Self::Other,
            _ => return None,
        })
    }

    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    fn changes(self) -> bool {
        matches!(self, Self::Store | Self::Delete)
    }
}

/// Whether this is a method that is known.
pub fn is_method(name: &[u8]) -> bool {
    Method::of(name).is_some()
}

/// Whether the first line ends with HTTP/1.0, not HTTP/1.1.
fn version_is_old(head: &[u8]) -> Result<bool, Refusal> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err((Status::VersionNotSupported, "HTTP/1.0 and HTTP/1.1 are spoken"))
        }
        _ => Err((Status::BadRequest, "the first line does not end with a version of HTTP")),
    }
}

fn refusal(error: httparse::Error) -> Refusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => (Status::FieldsTooLarge, "there are too many fields"),
        Error::HeaderName => (Status::BadRequest, "the name of a field is no token"),
        Error::HeaderValue => (Status::BadRequest, "the value of a field has a control character"),
        Error::NewLine => (Status::BadRequest, "a carriage return is no end of a line"),
        Error::Token | Error::Status | Error::Version => (Status::BadRequest, "the first line is malformed"),
    }
}

/// Whether the name of a field may have this byte.
#[inline]
pub fn is_token(byte: u8) -> bool {
    IN_TOKEN[usize::from(byte)]
}

/// Which bytes the name of a field has. RFC 9110 section 5.6.2.
const IN_TOKEN: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        bytes[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    bytes
};

/// Longest body that is believed, in bytes.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// The words of a list, without spaces and tabs around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// The value without the spaces and tabs around it.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits alone, of a number of 64 bits.
pub fn digits(text: &[u8]) -> Option<u64> {
    let number = text.iter().try_fold(0u64, |number, &byte| {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        (digit <= 9).then(|| number.checked_mul(10)?.checked_add(digit)).flatten()
    })?;
    (!text.is_empty()).then_some(number)
}

/// The `max-age` of Cache-Control, in seconds, if there is one that can be read.
fn max_age_s(value: &[u8]) -> Option<u32> {
    list(value).find_map(|word| {
        let (name, seconds) = word.split_first_chunk::<8>()?;
        if !name.eq_ignore_ascii_case(b"max-age=") {
            return None;
        }
        digits(seconds).map(|seconds| seconds.try_into().unwrap_or(u32::MAX))
    })
}
