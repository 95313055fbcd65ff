//! Who asked, and the answers on their way back.
//!
//! ```text
//!   Origin:  a connection of this core | another core of this node | a node | the control plane
//!   Outbox:  bytes | bytes | ..  one after the other, each with its origin; large ones by pointer
//! ```
//!
//! Lives here: origins and finished answers. Not here: how an answer comes about (`coordinate`, `serve`), who takes it away (the runtime).

use crate::buffer::Buffer;
use crate::placement::NodeIndex;
use crate::routing::{ShardId, Ticket};

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this core.
    Connection(Ticket),
    /// Another core of this node, for a client of its own.
    Core(ShardId, Ticket),
    /// Another node.
    Peer(PeerRequest),
    /// The control plane of this node, by the number of its question.
    Control(u64),
}

impl Origin {
    /// Descriptor of the client's socket; 0 where it is not a client of this node.
    pub fn descriptor(&self) -> i32 {
        match self {
            Origin::Connection(ticket) | Origin::Core(_, ticket) => ticket.descriptor,
            Origin::Peer(_) | Origin::Control(_) => 0,
        }
    }
}

/// A request of another node, and where its response goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    /// The connection that it came over.
    pub connection: u32,
    /// Tells connections apart that had the same index one after the other.
    pub generation: u32,
    /// The id that the response repeats.
    pub id: u32,
    /// The node, if it is in our view.
    pub node: Option<NodeIndex>,
    /// The moment of this core's clock from which on its sender may have given it up: a command that writes is not executed then.
    pub deadline_ms: u64,
}

/// An answer that has become ready. Its bytes are in `Outbox::bytes`, or carried.
pub struct Finished {
    /// Whose.
    pub origin: Origin,
    /// The bytes are a whole frame for a peer, and not the reply of a client's protocol.
    pub is_frame: bool,
    /// Range of `Outbox::bytes`.
    pub bytes: std::ops::Range<usize>,
    /// Instead, where it is large.
    pub carried: Option<Box<Buffer>>,
}

/// Answers on their way out.
#[derive(Default)]
pub struct Outbox {
    /// In the order in which they became ready.
    pub finished: Vec<Finished>,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

impl Outbox {
    /// Adds a reply and empties `reply`.
    pub fn put(&mut self, origin: Origin, reply: &mut Buffer) {
        self.push(origin, false, reply);
    }

    /// Adds a frame for a peer.
    pub fn put_frame(&mut self, to: PeerRequest, mut frame: Buffer) {
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
        self.finished.push(Finished { origin, is_frame, bytes: start..self.bytes.len(), carried });
    }

    /// Adds a reply whose bytes are elsewhere.
    pub fn put_bytes(&mut self, origin: Origin, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.finished.push(Finished { origin, is_frame: false, bytes: start..self.bytes.len(), carried: None });
    }

    /// Forgets what was taken out.
    pub fn clear(&mut self) {
        self.finished.clear();
        self.bytes.clear();
    }
}

/// Answers beyond this travel by pointer, in bytes.
const CARRIED_BYTES_MIN: usize = 4 << 10;
