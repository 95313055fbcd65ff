//! Protocols: commands to bytes, bytes to answers. One module per door; no I/O, no state of the work.
//!
//! ```text
//!   get_begin, get_key.., get_end     -> one request           step() <- zero or more Hit, then one Done
//!   store_begin, (value), store_end   -> one request                    <- one Done
//!   delete, touch, incr               -> one request                    <- one Done
//! ```
//!
//! The value of a store is written by the caller straight into the output, between begin and end: one copy.

pub mod raw;
pub mod text;

use serde::Serialize;

use crate::work::mix::Kind;

/// One protocol.
pub enum Door {
    /// memcached's text protocol.
    Text,
    /// Bytes without meaning, for the echo server.
    Raw(raw::Raw),
}

/// Which protocol is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// memcached text
    Text,
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
        /// The key, where the protocol repeats it.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// The CAS unique, where asked for.
        cas: u64,
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

impl Door {
    /// Begins a get. `cas`: ask for the CAS unique.
    #[inline]
    pub fn get_begin(&self, cas: bool, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_begin(cas, output),
            Door::Raw(_) => {}
        }
    }

    /// One key of a get.
    #[inline]
    pub fn get_key(&self, key: &[u8], output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_key(key, output),
            Door::Raw(_) => {}
        }
    }

    /// Ends a get.
    #[inline]
    pub fn get_end(&self, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::get_end(output),
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// Begins a store; exactly `value_bytes` bytes must follow, then `store_end`.
    #[inline]
    pub fn store_begin(&self, store: Store<'_>, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::store_begin(store, output),
            Door::Raw(_) => {}
        }
    }

    /// Ends a store that began at `start` of the output.
    #[inline]
    pub fn store_end(&self, start: usize, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::store_end(output),
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
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// A new time to live, in seconds.
    pub fn touch(&self, key: &[u8], exptime: u32, output: &mut Vec<u8>) {
        match self {
            Door::Text => text::touch(key, exptime, output),
            Door::Raw(raw) => raw.request(output),
        }
    }

    /// The first answer in the input, to a request of this kind.
    #[inline]
    pub fn step<'a>(&self, kind: Kind, input: &'a [u8]) -> Step<'a> {
        match self {
            Door::Text => text::step(kind, input),
            Door::Raw(raw) => raw.step(input),
        }
    }
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
