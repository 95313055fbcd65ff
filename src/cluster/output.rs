//! Everything that leaves the cluster: answers, and what is to be done with links and other cores.
//!
//! ```text
//!   Outputs:  hang up, dial, ready (links) | answers: their bytes one after the other, large ones by pointer | to cores
//!
//!   turn.poll_output(&mut outputs)      all that there is, once a turn
//!   while let Some(output) = outputs.next() { .. }      whoever moves bytes does what it says: the runtime, or the simulator
//! ```
//!
//! Lives here: outputs. Not here: how an answer comes about (`coordinate`, `serve`), who moves it (`runtime::bridge`).

use std::collections::VecDeque;
use std::ops::Range;

use super::links::{LinkId, LinkOutputs};
use super::operations::OperationId;
use super::origin::{Origin, PeerRequest};
use crate::buffer::Buffer;
use crate::command::Value;
use crate::peer::frame::{self, Kind, Stamp};
use crate::routing::ShardId;

/// Something that leaves the cluster.
pub enum Output<'a> {
    /// The socket of this link is to be closed, if it has one.
    HangUp(LinkId),
    /// This link is to be connected; `Turn::handle_link_up` or `Turn::handle_link_down` tells what came of it.
    Dial(LinkId),
    /// This link has frames to be sent: `Turn::take_frames`.
    Ready(LinkId),
    /// Somebody is answered.
    Answer(Origin, Answer<'a>),
    /// Another core of this node is to go on with this request: `Turn::take_moved`.
    ToCore(ShardId, OperationId),
}

/// The bytes of an answer.
pub struct Answer<'a> {
    /// They are a whole frame for a peer, and not the reply of a client's protocol.
    is_frame: bool,
    stamp: Stamp,
    bytes: &'a [u8],
    carried: Option<Box<Buffer>>,
}

impl<'a> Answer<'a> {
    /// The bytes, or where they are many, the buffer that they are in.
    pub fn into_parts(self) -> (&'a [u8], Option<Box<Buffer>>) {
        (self.bytes, self.carried)
    }

    /// Writes the response to a request of a peer.
    pub fn write_response(self, request: PeerRequest, output: &mut Buffer) {
        match (self.is_frame, self.carried) {
            (true, Some(mut frame)) => output.append(&mut frame),
            (true, None) => output.put(self.bytes),
            (false, Some(mut reply)) => frame::write_reply(output, request.id, self.stamp, &mut reply),
            (false, None) => {
                frame::write(output, (Kind::Reply, 0, 0, request.id), self.stamp, Value::Bytes(self.bytes), |_| {});
            }
        }
    }
}

/// An answer that has become ready.
struct Finished {
    origin: Origin,
    is_frame: bool,
    /// Its bytes in those of all.
    bytes: Range<usize>,
    /// Instead, where it is large.
    carried: Option<Box<Buffer>>,
}

/// Answers on their way out.
#[derive(Default)]
pub(super) struct Outbox {
    /// In the order in which they became ready.
    finished: VecDeque<Finished>,
    /// Their bytes.
    bytes: Vec<u8>,
}

impl Outbox {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.finished.is_empty()
    }

    /// Adds a reply and empties `reply`.
    pub(super) fn put(&mut self, origin: Origin, reply: &mut Buffer) {
        self.push(origin, false, reply);
    }

    /// Adds a frame for a peer.
    pub(super) fn put_frame(&mut self, to: PeerRequest, mut frame: Buffer) {
        self.push(Origin::Peer(to), true, &mut frame);
    }

    fn push(&mut self, origin: Origin, is_frame: bool, reply: &mut Buffer) {
        let start = self.bytes.len();
        let carried = if reply.bodies.is_empty() && reply.bytes.len() <= CARRIED_BYTES_MIN {
            self.bytes.extend_from_slice(&reply.bytes);
            None
        } else {
            Some(Box::new(std::mem::take(reply)))
        };
        reply.clear();
        self.finished.push_back(Finished { origin, is_frame, bytes: start..self.bytes.len(), carried });
    }

    /// Adds a reply whose bytes are elsewhere.
    pub(super) fn put_bytes(&mut self, origin: Origin, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.finished.push_back(Finished { origin, is_frame: false, bytes: start..self.bytes.len(), carried: None });
    }
}

/// What a core's part of the ring has for others, taken out at one moment. Kept and used again, so that nothing is allocated for it.
#[derive(Default)]
pub struct Outputs {
    pub(super) stamp: Stamp,
    pub(super) links: LinkOutputs,
    pub(super) outbox: Outbox,
    pub(super) to_cores: VecDeque<(ShardId, OperationId)>,
}

impl Outputs {
    /// The next one; none when all that was taken out is done with.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from it")]
    pub fn next(&mut self) -> Option<Output<'_>> {
        if let Some(link) = self.links.hang_up.pop_front() {
            return Some(Output::HangUp(link));
        }
        if let Some(link) = self.links.dial.pop_front() {
            return Some(Output::Dial(link));
        }
        if let Some(link) = self.links.ready.pop_front() {
            return Some(Output::Ready(link));
        }
        if let Some(Finished { origin, is_frame, bytes, carried }) = self.outbox.finished.pop_front() {
            let answer = Answer { is_frame, stamp: self.stamp, bytes: &self.outbox.bytes[bytes], carried };
            return Some(Output::Answer(origin, answer));
        }
        self.outbox.bytes.clear();
        self.to_cores.pop_front().map(|(core, id)| Output::ToCore(core, id))
    }
}

/// Answers beyond this travel by pointer, in bytes.
const CARRIED_BYTES_MIN: usize = 4 << 10;
