//! Protocols: commands to bytes, bytes to answers. One module per door; no I/O, no state of the work.
//!
//! ```text
//!   get_begin, get_key.., get_end     -> one request           step() <- zero or more Hit, then one Done; see hit_ends
//!   store_begin, (value), store_end   -> one request                    <- one Done
//!   delete, touch, incr               -> one request                    <- one Done
//! ```
//!
//! The value of a store is written by the caller straight into the output, between begin and end: one copy.

pub mod binary;
pub mod http;
pub mod meta;
pub mod raw;
pub mod resp;
pub mod text;

use serde::Serialize;

use crate::work::mix::Kind;

/// One protocol.
pub enum Door {
    /// memcached's text protocol.
    Text,
    /// memcached's meta commands.
    Meta,
    /// memcached's binary protocol.
    Binary,
    /// RESP2.
    Resp,
    /// HTTP/1.1.
    Http,
    /// Bytes without meaning, for the echo server.
    Raw(raw::Raw),
}

/// Which protocol is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// memcached text
    Text,
    /// memcached meta commands
    Meta,
    /// memcached binary
    Binary,
    /// RESP2 of Redis and Valkey
    Resp,
    /// HTTP/1.1 of pbcache
    Http,
    /// Bytes without meaning: only for `loadgen echo`
    #[value(hide = true)]
    Raw,
}

/// How a value is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Seconds to live, 0: for ever.
    pub exptime: u32,
    /// Length of the value that follows.
    pub value_bytes: usize,
    /// Store only if the item still has this CAS unique.
    pub cas: Option<u64>,
}

/// What the front of the input holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Not even one answer: more bytes are needed.
    Incomplete,
    /// One item of a get; the request is not over.
    Hit {
        /// Bytes of the input that it took.
        consumed: usize,
        /// The key; empty where the protocol does not repeat it.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// The CAS unique, where asked for.
        cas: u64,
    },
    /// The next key of a get was not found, where the protocol says so key by key.
    Miss {
        /// Bytes of the input that it took.
        consumed: usize,
    },
    /// Framing without meaning of its own.
    Skip {
        /// Bytes of the input that it took.
        consumed: usize,
    },
    /// The request is over.
    Done {
        /// Bytes of the input that it took.
        consumed: usize,
        /// How it went.
        answer: Answer<'a>,
    },
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// End of a get: keys not seen as a hit are misses.
    End,
    /// Stored, deleted, touched.
    Ok,
    /// Not stored, for a reason that the protocol expects (CAS differs: item exists).
    NotStored,
    /// There is no such item.
    NotFound,
    /// The new value of a counter.
    Number(u64),
    /// The server refuses; its words.
    Error(&'a [u8]),
    /// These bytes are not an answer of this protocol: the connection cannot go on.
    Garbage(&'a [u8]),
}

/// The shape of a get.
#[derive(Clone, Copy, Debug)]
pub struct Get {
    /// One key only: some protocols then use a simpler form.
    pub single: bool,
    /// Ask for the CAS unique.
    pub cas: bool,
}

impl Door {
    /// The door of a protocol.
    pub fn new(protocol: Protocol, raw: Option<raw::Raw>) -> Self {
        match (protocol, raw) {
            (Protocol::Raw, Some(raw)) => Door::Raw(raw),
            (Protocol::Meta, _) => Door::Meta,
            (Protocol::Binary, _) => Door::Binary,
            (Protocol::Resp, _) => Door::Resp,
            (Protocol::Http, _) => Door::Http,
            _ => Door::Text,
        }
    }

    /// Whether the hit of a get with one key is its whole answer, without a `Done`.
    #[inline]
    pub fn hit_ends(&self) -> bool {
        matches!(self, Door::Meta | Door::Binary)
    }

    /// Whether answers carry no keys: they come in order, and a get is over with its last key.
    #[inline]
    pub fn positional(&self) -> bool {
        matches!(self, Door::Resp | Door::Http)
    }

    /// Begins a get of so many keys.
    #[inline]
    pub fn get_begin(&self, get: Get, keys: usize, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_begin(get, output),
            Door::Resp => resp::get_begin(get, keys, output),
            Door::Meta | Door::Binary | Door::Http | Door::Raw(_) => {}
        }
    }

    /// One key of a get.
    #[inline]
    pub fn get_key(&self, get: Get, key: &[u8], output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_key(key, output),
            Door::Meta => meta::get_key(get, key, output),
            Door::Binary => binary::get_key(get, key, output),
            Door::Resp => resp::get_key(key, output),
            Door::Http => http::get_key(get, key, output),
            Door::Raw(_) => {}
        }
    }

    /// Ends a get.
    #[inline]
    pub fn get_end(&self, get: Get, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_end(output),
            Door::Meta => meta::get_end(get, output),
            Door::Binary => binary::get_end(get, output),
            Door::Resp | Door::Http => {}
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// Begins a store; exactly `value_bytes` bytes must follow, then `store_end`.
    #[inline]
    pub fn store_begin(&self, store: Store<'_>, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::store_begin(store, output),
            Door::Meta => meta::store_begin(store, output),
            Door::Binary => binary::store_begin(store, output),
            Door::Resp => resp::store_begin(store, output),
            Door::Http => http::store_begin(store, output),
            Door::Raw(_) => {}
        }
    }

    /// Ends a store that began at `start` of the output.
    #[inline]
    pub fn store_end(&self, start: usize, output: &mut Vec<u8>) {
        match self {
            Door::Text | Door::Meta | Door::Resp => output.extend_from_slice(b"\r\n"),
            Door::Binary | Door::Http => {}
            Door::Raw(raw) => {
                output.truncate(start);
                raw.request(output);
            }
        }
    }

    /// A delete.
    pub fn delete(&self, key: &[u8], output: &mut Vec<u8>) {
        match self {
            Door::Text => text::delete(key, output),
            Door::Meta => meta::delete(key, output),
            Door::Binary => binary::delete(key, output),
            Door::Resp => resp::delete(key, output),
            Door::Http => http::delete(key, output),
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// A new time to live, in seconds.
    pub fn touch(&self, key: &[u8], exptime: u32, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::touch(key, exptime, output),
            Door::Meta => meta::touch(key, exptime, output),
            Door::Binary => binary::touch(key, exptime, output),
            Door::Resp => resp::touch(key, exptime, output),
            // `WorkOptions::check` refuses it, and `incr`.
            Door::Http => {}
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// Counts up by one.
    pub fn incr(&self, key: &[u8], output: &mut Vec<u8>) {
        match self {
            Door::Text => text::incr(key, output),
            Door::Meta => meta::incr(key, output),
            Door::Binary => binary::incr(key, output),
            Door::Resp => resp::incr(key, output),
            Door::Http => {}
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// The first answer in the input, to a request of this kind.
    #[inline]
    pub fn step<'a>(&self, kind: Kind, input: &'a [u8]) -> Step<'a> {
        match self {
            Door::Text => text::step(kind, input),
            Door::Meta => meta::step(kind, input),
            Door::Binary => binary::step(kind, input),
            Door::Resp => resp::step(kind, input),
            Door::Http => http::step(kind, input),
            Door::Raw(raw) => raw.step(input),
        }
    }
}

/// A number in decimal, or `None`.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        digit.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add((digit - b'0') as u64)).flatten()
    })
}

/// The first line of the input without its CRLF, `Ok(None)` while it is not whole, `Err` if it is too long to be an answer.
#[inline]
pub(crate) fn line(input: &[u8]) -> Result<Option<&[u8]>, ()> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', window) {
        Some(newline) if newline > 0 && input[newline - 1] == b'\r' => Ok(Some(&input[..newline - 1])),
        Some(_) => Err(()),
        None if input.len() >= LINE_BYTES_MAX => Err(()),
        None => Ok(None),
    }
}

/// Longest line of an answer: a key, three numbers and words.
const LINE_BYTES_MAX: usize = 2048;

/// These bytes are no answer.
fn garbage(bytes: &[u8]) -> Step<'_> {
    Step::Done { consumed: 0, answer: Answer::Garbage(bytes) }
}

/// Appends a number in decimal.
#[inline]
pub(crate) fn decimal(mut number: u64, output: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[at..]);
}
