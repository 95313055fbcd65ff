//! Output that a socket did not take at once: bytes and pinned bodies, sent when the reader drains.
//!
//! ```text
//!   pieces:  | bytes | body (pinned, from `offset` on) | bytes | ...      -> one sendmsg of up to 32 parts at a time
//! ```
//!
//! Lives here: the pieces and the message header that points into them. Not here: when it is sent (`pump`).
//! Unsafe lives here: the header holds raw pointers into the pieces; the box keeps them in place while a send is under way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::arena::Body;
use crate::buffer::Buffer;

/// Parts of one sendmsg: a megabyte in chunks of 64 KiB, or a value with 15 pages and what is around it.
const PARTS_MAX: usize = 32;

/// What is still to be sent on one connection.
pub struct Backlog {
    pieces: VecDeque<Piece>,
    /// Bytes of the front piece that were sent.
    sent: usize,
    /// Bytes that this core holds for its connections; the bytes of the pieces count, bodies do not (they are the engine's).
    held: Rc<Cell<usize>>,
    /// Whether a send is under way; `pieces` only grows at its end meanwhile.
    pub sending: bool,
    header: libc::msghdr,
    parts: [libc::iovec; PARTS_MAX],
}

enum Piece {
    Bytes(Vec<u8>),
    Body(Arc<Body>, Range<usize>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Body(_, range) => range.len(),
        }
    }
}

impl Backlog {
    /// An empty backlog, boxed because the kernel keeps its address. What it holds is counted in `held`.
    pub fn new(held: &Rc<Cell<usize>>) -> Box<Self> {
        // SAFETY: `msghdr` is plain data; all zero means no name, no parts, no control data.
        let header = unsafe { std::mem::zeroed() };
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self {
            pieces: VecDeque::new(),
            sent: 0,
            held: held.clone(),
            sending: false,
            header,
            parts: [nothing; PARTS_MAX],
        })
    }

    /// Adds a range of bytes behind what is there.
    pub fn put(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.held.update(|held| held + bytes.len());
            self.pieces.push_back(Piece::Bytes(bytes.to_vec()));
        }
    }

    fn drop_front(&mut self) {
        if let Some(Piece::Bytes(bytes)) = self.pieces.pop_front() {
            self.held.update(|held| held - bytes.len());
        }
    }

    /// Adds everything of `output` from `start` on, and takes it out of there.
    pub fn take_from(&mut self, output: &mut Buffer, start: usize, bodies_start: usize) {
        let mut from = start;
        for inset in output.bodies.drain(bodies_start..) {
            self.put(&output.bytes[from..inset.offset]);
            from = inset.offset;
            if !inset.is_empty() {
                self.pieces.push_back(Piece::Body(inset.body, inset.range));
            }
        }
        self.put(&output.bytes[from..]);
        output.bytes.truncate(start);
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The message to send next. Valid until `advance`; the backlog must not be dropped before the send has ended.
    pub fn message(&mut self) -> *const libc::msghdr {
        let mut count = 0;
        let mut skip = self.sent;
        'pieces: for piece in &self.pieces {
            let slices: &mut dyn Iterator<Item = &[u8]> = match piece {
                Piece::Bytes(bytes) => &mut std::iter::once(&bytes[skip..]),
                Piece::Body(body, range) => &mut body.slices_of(range.start + skip..range.end),
            };
            for slice in slices {
                if count == PARTS_MAX {
                    break 'pieces;
                }
                self.parts[count] = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
                count += 1;
            }
            skip = 0;
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = count;
        &raw const self.header
    }

    /// Drops `count` bytes that were sent from the front.
    pub fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front() {
            let left = piece.len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            self.drop_front();
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        while !self.pieces.is_empty() {
            self.drop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    fn parts(backlog: &mut Backlog) -> Vec<u8> {
        let header = backlog.message();
        // SAFETY: the header points into the backlog, which is alive and not changed here.
        unsafe {
            let header = &*header;
            let parts = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen);
            parts
                .iter()
                .flat_map(|part| std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len))
                .copied()
                .collect()
        }
    }

    #[test]
    fn any_partial_sends_deliver_the_whole_in_order() {
        let arena = Arena::new(4 << 20, 4 << 20, 1).unwrap();
        let value: Vec<u8> = (0..150_000u32).map(|i| (i * 3) as u8).collect();
        let mut body = Body::lease(&arena, value.len()).unwrap();
        body.write(0, &value);
        let body = Arc::new(body);
        for step in [1usize, 999, 65_536, 1_000_000] {
            let mut output = Buffer::default();
            output.put(b"before the range");
            let start = output.bytes.len();
            output.put(b"head");
            output.put_body(body.clone());
            output.put(b"tail");
            let mut expected = b"head".to_vec();
            expected.extend_from_slice(&value);
            expected.extend_from_slice(b"tail");
            let held = Rc::new(Cell::new(0));
            let mut backlog = Backlog::new(&held);
            backlog.take_from(&mut output, start, 0);
            assert_eq!(output.bytes, b"before the range");
            let mut received = Vec::new();
            while !backlog.is_empty() {
                let bytes = parts(&mut backlog);
                let count = bytes.len().min(if step == 1 { 1 + received.len() / 10 } else { step });
                received.extend_from_slice(&bytes[..count]);
                backlog.advance(count);
            }
            assert_eq!(received, expected);
            assert_eq!(held.get(), 0);
        }
    }
}
