//! From the bytes of a connection to frames.
//!
//! ```text
//!   received:  ..rest of a frame | frame | frame | begin of a fr..   -->  handle(frame), handle(frame)       the begin waits in `pending`
//!                                  head | meta | value above the inline limit  -->  into memory of its own as it comes
//! ```
//!
//! While there is no memory for a large value, or the handler takes no more, the stream is blocked and keeps what has come.
//!
//! Lives here: where a frame begins and ends. Not here: what is in it (`frame`), what it means (`cluster`), sockets (`runtime`).

use std::sync::Arc;

use super::frame::{Frame, FrameError, HEAD_BYTES, Head, Horizon};
use crate::arena::{Arena, Body};
use crate::command::Value;
use crate::limits;

/// The bytes of one connection, on their way to frames.
pub struct Decoder {
    /// Received and not parsed.
    pending: Vec<u8>,
    large: Option<Large>,
    value_bytes_max: usize,
}

/// A frame whose large value is on its way.
struct Large {
    head: Head,
    meta: Vec<u8>,
    body: Body,
    filled: usize,
}

impl Decoder {
    /// Of a connection over which nothing has come; a value may be so long.
    pub fn new(value_bytes_max: usize) -> Self {
        Self { pending: Vec::new(), large: None, value_bytes_max }
    }

    /// Whether nothing of a frame has come that is not handled.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.large.is_none()
    }

    /// Whether bytes have come that are not parsed.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Keeps bytes for later, and gives all that are kept: a handshake takes its part from their front.
    pub fn keep(&mut self, fresh: &[u8]) -> &mut Vec<u8> {
        self.pending.extend_from_slice(fresh);
        &mut self.pending
    }

    /// Calls `handle` with each whole frame. True if it is blocked: no memory for a large value, or `handle` took no more.
    ///
    /// # Errors
    /// What came is no frame, or `handle` could not read it.
    pub fn feed(
        &mut self,
        fresh: &[u8],
        at: (&Arc<Arena>, Horizon),
        handle: &mut impl FnMut(&Frame<'_>) -> Result<bool, FrameError>,
    ) -> Result<bool, FrameError> {
        if self.pending.is_empty() {
            let (used, blocked) = self.advance(fresh, at, handle)?;
            self.pending.extend_from_slice(&fresh[used..]);
            return Ok(blocked);
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(fresh);
        let (used, blocked) = self.advance(&pending, at, handle)?;
        pending.drain(..used);
        if pending.capacity() > limits::INPUT_SHORT_BYTES && pending.len() < pending.capacity() / 4 {
            pending.shrink_to_fit();
        }
        self.pending = pending;
        Ok(blocked)
    }

    fn advance(
        &mut self,
        mut input: &[u8],
        (arena, horizon): (&Arc<Arena>, Horizon),
        handle: &mut impl FnMut(&Frame<'_>) -> Result<bool, FrameError>,
    ) -> Result<(usize, bool), FrameError> {
        let length = input.len();
        loop {
            if let Some(large) = &mut self.large {
                let count = input.len().min(large.head.value_bytes - large.filled);
                large.body.write(large.filled, &input[..count]);
                large.filled += count;
                input = &input[count..];
                if large.filled < large.head.value_bytes {
                    return Ok((length - input.len(), false));
                }
                let Some(Large { head, meta, body, .. }) = self.large.take() else { return Ok((length - input.len(), false)) };
                let body = Arc::new(body);
                handle(&Frame { head, meta: &meta, value: Value::Body(&body) })?;
            }
            let Some(head) = input.first_chunk::<HEAD_BYTES>() else { return Ok((length - input.len(), false)) };
            let head = Head::read(head, self.value_bytes_max, horizon)?;
            let Some(meta) = input.get(HEAD_BYTES..HEAD_BYTES + head.meta_bytes) else {
                return Ok((length - input.len(), false));
            };
            if head.value_bytes > limits::INLINE_VALUE_BYTES_MAX {
                let Some(body) = Body::lease(arena, head.value_bytes) else {
                    arena.want(head.value_bytes + arena.segment_bytes());
                    return Ok((length - input.len(), true));
                };
                self.large = Some(Large { head, meta: meta.to_vec(), body, filled: 0 });
                input = &input[HEAD_BYTES + head.meta_bytes..];
                continue;
            }
            let Some(value) = input.get(HEAD_BYTES + head.meta_bytes..head.frame_bytes()) else {
                return Ok((length - input.len(), false));
            };
            if !handle(&Frame { head, meta, value: Value::Bytes(value) })? {
                return Ok((length - input.len(), true));
            }
            input = &input[head.frame_bytes()..];
        }
    }
}
