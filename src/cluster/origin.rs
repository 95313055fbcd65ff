//! Who asked, and where the answer goes.
//!
//! ```text
//!   a connection of this core | another core of this node, for its client | another node | the control plane
//! ```
//!
//! Lives here: origins. Not here: answers on their way out (`output`).

use super::view::PeerId;
use crate::routing::{ShardId, Ticket};
use crate::time::Monotonic;

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
    pub node: Option<PeerId>,
    /// The moment of this core's clock from which on its sender may have given it up: a command that writes is not executed then.
    pub deadline: Monotonic,
}
