//! A large value on its way in: received into memory of its own, or collected from the chunks of an HTTP body.
//!
//! ```text
//!   head | value ........... | tail         head is kept, the value goes to a leased body, the tail is a line end or nothing
//!   head | 5\r\n hello \r\n 0\r\n\r\n       chunks: collected until the length is known; a long value then moves to a body
//! ```
//!
//! Lives here: what of a request has come. Not here: who leases memory, when the store is executed (`connection`).

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::arena::Body;
use crate::limits::{INLINE_VALUE_BYTES_MAX, RESP_TAIL_BYTES_MAX};
use crate::protocol::http::{Chunks, Fault};

/// A large value on its way in.
pub struct Receiving {
    /// The request in front of the value.
    pub head: Vec<u8>,
    /// Where the value goes.
    pub body: Option<Body>,
    /// Length of the value; 0 while nobody knows it.
    pub length: usize,
    filled: usize,
    /// What has come behind the value.
    pub tail: ArrayVec<u8, RESP_TAIL_BYTES_MAX>,
    /// How much that is, as far as is known.
    pub tail_bytes: usize,
    /// The value is there, and its command could not be executed so far.
    pub complete: Option<Arc<Body>>,
    /// The body, where it comes in chunks.
    pub chunks: Option<Chunks>,
    /// What is wrong with the chunks.
    pub fault: Option<Fault>,
}

impl Receiving {
    /// A value of this length.
    pub fn new(head: &[u8], length: usize, tail_bytes: usize) -> Self {
        Self {
            head: head.to_vec(),
            body: None,
            length,
            filled: 0,
            tail: ArrayVec::new(),
            tail_bytes,
            complete: None,
            chunks: None,
            fault: None,
        }
    }

    /// A value in chunks.
    pub fn chunked(head: &[u8], bytes_max: usize) -> Self {
        Self { chunks: Some(Chunks::new(bytes_max)), ..Self::new(head, 0, 0) }
    }

    /// Whether memory must be leased before it can go on.
    pub fn wants_memory(&self) -> bool {
        self.body.is_none() && self.complete.is_none() && (self.chunks.is_none() || self.length > 0)
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        let collected = self.chunks.as_ref().is_none_or(|chunks| chunks.is_whole());
        collected && self.filled == self.length && self.tail.len() == self.tail_bytes
    }

    /// Bytes that it holds beside leased memory.
    pub fn held_bytes(&self) -> usize {
        self.head.capacity() + self.chunks.as_ref().map_or(0, Chunks::held_bytes)
    }

    /// Bytes that it is known to have.
    pub fn known_bytes(&self) -> usize {
        self.chunks.as_ref().map_or(self.length, |chunks| chunks.value().len())
    }

    /// Takes what belongs to a body in chunks from the front of `bytes`; returns how much.
    pub fn take_chunks(&mut self, bytes: &[u8]) -> usize {
        let Some(chunks) = &mut self.chunks else { return 0 };
        match chunks.take(bytes) {
            Ok(taken) => {
                let length = chunks.value().len();
                if chunks.is_whole() && length > INLINE_VALUE_BYTES_MAX {
                    self.length = length;
                }
                taken
            }
            Err(fault) => {
                self.fault = Some(fault);
                bytes.len()
            }
        }
    }

    /// Takes what belongs to the value and its tail from the front of `bytes`; returns how much.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        if let (Some(body), true) = (&mut self.body, self.length > 0)
            && let Some(chunks) = self.chunks.take()
        {
            body.write(0, chunks.value());
            self.filled = self.length;
        }
        let count = bytes.len().min(self.length - self.filled);
        if let Some(body) = &mut self.body {
            body.write(self.filled, &bytes[..count]);
            self.filled += count;
        }
        let rest = &bytes[count..];
        let tail = rest.len().min(self.tail_bytes - self.tail.len());
        self.tail.extend(rest[..tail].iter().copied());
        count + tail
    }
}
