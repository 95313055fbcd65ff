//! One connection between two nodes: first a handshake, then frames, whatever pieces the bytes come in.
//!
//! ```text
//!   Silent --call--> Calling --+
//!   Called --------------------+-- handshake: who it is --> Open:  frames
//!
//!   received:  ..rest of a frame | frame | frame | begin of a fr..   -->  handle(frame), handle(frame)       the begin waits in `pending`
//!                                  head | meta | value above the inline limit  -->  into memory of its own as it comes
//! ```
//!
//! While there is no memory for a large value, or the handler takes no more, the stream is blocked and keeps what has come.
//!
//! Lives here: where a handshake ends, where a frame begins and ends. Not here: what is in them (`handshake`, `frame`), what they mean
//! (`cluster`), sockets (`runtime`). The simulator moves its bytes through the same streams.

use std::sync::Arc;

use super::frame::{Frame, FrameError, HEAD_BYTES, Head, Horizon};
use super::handshake::{Accepting, Connecting, Identity, Local, Progress};
use crate::arena::{Arena, Body};
use crate::buffer::Buffer;
use crate::command::Value;
use crate::limits;

/// One side of a connection.
pub struct Stream {
    stage: Stage,
    decoder: Decoder,
    /// What is to be sent.
    pub output: Buffer,
}

enum Stage {
    /// This side calls, and is not connected yet.
    Silent,
    Calling(Box<Connecting>),
    Called(Box<Accepting>),
    Open,
}

impl Stream {
    /// Of a connection that is being made; a value may be so long.
    pub fn silent(value_bytes_max: usize) -> Self {
        Self::new(Stage::Silent, value_bytes_max)
    }

    /// Of a connection that another node has made.
    pub fn called(local: Local, value_bytes_max: usize) -> Self {
        Self::new(Stage::Called(Box::new(Accepting::new(local))), value_bytes_max)
    }

    fn new(stage: Stage, value_bytes_max: usize) -> Self {
        Self { stage, decoder: Decoder { pending: Vec::new(), large: None, value_bytes_max }, output: Buffer::default() }
    }

    /// The connection is made: says hello.
    pub fn call(&mut self, local: Local) {
        self.stage = Stage::Calling(Box::new(Connecting::new(local, &mut self.output.bytes)));
    }

    /// Whether the handshake is over.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether something has come that is not handled yet.
    pub fn has_pending(&self) -> bool {
        !self.decoder.pending.is_empty()
    }

    /// Whether the other side owes the rest of what it has begun: a handshake, or a frame.
    pub fn is_midway(&self) -> bool {
        matches!(self.stage, Stage::Called(_)) || self.has_pending() || self.decoder.large.is_some()
    }

    /// Keeps bytes for later.
    pub fn keep(&mut self, fresh: &[u8]) {
        self.decoder.pending.extend_from_slice(fresh);
    }

    /// Goes on with the handshake. Who the other side is, once that is known; what has come behind it is kept for `frames`.
    ///
    /// # Errors
    /// A sentence why the two do not belong together; for the other side, if it called, it is in the output too.
    pub fn handshake(&mut self, fresh: &[u8]) -> Result<Option<Identity>, String> {
        let (received, output) = (&mut self.decoder.pending, &mut self.output.bytes);
        let progress = match &mut self.stage {
            Stage::Silent | Stage::Open => return Ok(None),
            Stage::Calling(connecting) => {
                received.extend_from_slice(fresh);
                connecting.feed(received, output)?
            }
            Stage::Called(accepting) => {
                received.extend_from_slice(fresh);
                accepting.feed(received, output)?
            }
        };
        let Progress::Done(identity) = progress else { return Ok(None) };
        self.stage = Stage::Open;
        Ok(Some(identity))
    }

    /// Calls `handle` with each whole frame and with the output. True if the stream is blocked: no memory for a large value, or `handle`
    /// took no more.
    ///
    /// # Errors
    /// What came is no frame, or `handle` could not read it.
    pub fn frames(
        &mut self,
        fresh: &[u8],
        at: (&Arc<Arena>, Horizon),
        handle: &mut impl FnMut(&Frame<'_>, &mut Buffer) -> Result<bool, FrameError>,
    ) -> Result<bool, FrameError> {
        if !self.is_open() {
            return Err(FrameError("a frame before the handshake"));
        }
        let Self { decoder, output, .. } = self;
        decoder.feed(fresh, at, &mut |frame| handle(frame, output))
    }
}

/// The bytes of one connection, on their way to frames.
struct Decoder {
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
    fn feed(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::frame::{self, Kind, Stamp};
    use crate::peer::handshake::NONCE_BYTES;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp { unix_ms: 1_800_000_000_000 };

    fn local(id: &str) -> Local {
        let identity = Identity {
            cluster: "c".into(),
            id: id.into(),
            incarnation: 1,
            view: 2,
            buckets: 64,
            redundancy: 1,
            cores: 1,
            unix_ms: NOW.unix_ms,
            target_core: 0,
        };
        Local { identity, key: None, nonce: [7; NONCE_BYTES], is_known: true }
    }

    /// Moves what one side has for the other, in pieces. Who it is, once that is known.
    fn pass(source: &mut Stream, target: &mut Stream, piece: usize) -> Option<Identity> {
        let bytes = source.output.flatten();
        source.output.clear();
        bytes.chunks(piece).filter_map(|piece| target.handshake(piece).unwrap()).last()
    }

    /// Two streams that have begun to talk.
    fn pair(piece: usize) -> (Stream, Stream) {
        let (mut caller, mut called) = (Stream::silent(1 << 20), Stream::called(local("b"), 1 << 20));
        caller.call(local("a"));
        assert!(pass(&mut caller, &mut called, piece).is_none() && pass(&mut called, &mut caller, piece).is_none());
        assert_eq!(pass(&mut caller, &mut called, piece).unwrap().id, "a");
        assert_eq!(pass(&mut called, &mut caller, piece).unwrap().id, "b");
        assert!(caller.is_open() && called.is_open() && !called.is_midway());
        (caller, called)
    }

    fn frames(sizes: &[usize]) -> Vec<u8> {
        let mut output = Buffer::default();
        for (id, &size) in sizes.iter().enumerate() {
            let value: Vec<u8> = (0..size).map(|at| (at * 7 + id) as u8).collect();
            frame::write(&mut output, (Kind::Put, 0, 0, id as u32), Stamp::default(), Value::Bytes(&value), |meta| {
                meta.extend_from_slice(&[id as u8; 5]);
            });
        }
        output.flatten()
    }

    #[test]
    fn the_same_frames_come_whatever_pieces_the_bytes_come_in() {
        let sizes = [0, 1, 300, limits::INLINE_VALUE_BYTES_MAX, limits::INLINE_VALUE_BYTES_MAX + 1, 70_000, 3];
        let (bytes, arena) = (frames(&sizes), Arena::new(8 << 20, 8 << 20, 1).unwrap());
        for piece in [1, 2, 3, 39, 40, 41, 1000, 16 << 10, bytes.len()] {
            let (_, mut stream) = pair(piece);
            let mut seen = Vec::new();
            for fresh in bytes.chunks(piece) {
                let blocked = stream.frames(fresh, (&arena, Horizon::at(NOW)), &mut |frame, _| {
                    let value = frame.value.to_vec();
                    let id = frame.head.id;
                    assert!(value.iter().enumerate().all(|(at, &byte)| byte == (at * 7 + id as usize) as u8));
                    assert_eq!(frame.meta, [id as u8; 5]);
                    seen.push(value.len());
                    Ok(true)
                });
                assert!(!blocked.unwrap());
            }
            assert_eq!(seen, sizes, "in pieces of {piece}");
            assert!(!stream.is_midway());
        }
    }

    #[test]
    fn a_blocked_stream_goes_on_where_it_was() {
        let arena = Arena::new(8 << 20, 8 << 20, 1).unwrap();
        let (_, mut stream) = pair(1000);
        let bytes = frames(&[10, 100_000, 10]);
        let held: Vec<Body> = std::iter::from_fn(|| Body::lease(&arena, 1 << 19)).collect();
        assert!(Body::lease(&arena, 100_000).is_none(), "no memory is left");
        let mut seen = Vec::new();
        let feed = |stream: &mut Stream, fresh: &[u8], takes: bool, seen: &mut Vec<u32>| {
            let at = (&arena, Horizon::at(NOW));
            let mut handle = |frame: &Frame<'_>, _: &mut Buffer| {
                seen.extend(takes.then_some(frame.head.id));
                Ok(takes)
            };
            stream.frames(fresh, at, &mut handle).unwrap()
        };
        assert!(feed(&mut stream, &bytes, false, &mut seen) && seen.is_empty());
        assert!(feed(&mut stream, &[], true, &mut seen) && stream.has_pending());
        assert_eq!(seen, [0]);
        drop(held);
        assert!(!feed(&mut stream, &[], true, &mut seen) && !stream.is_midway());
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn frames_in_front_of_the_handshake_are_refused() {
        let arena = Arena::new(1 << 20, 1 << 20, 1).unwrap();
        let mut stream = Stream::called(local("b"), 1 << 20);
        assert!(stream.frames(&frames(&[1]), (&arena, Horizon::at(NOW)), &mut |_, _| Ok(true)).is_err());
        assert!(stream.handshake(&frames(&[1])).is_err());
    }
}
