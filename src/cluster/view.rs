//! Who is in the ring: the member table and what follows from it.
//!
//! ```text
//!   --ringnode a, b, c/weight=2  +  this node  --> View { ring, nodes sorted by id, which of them is me }   immutable, shared by the cores
//! ```
//!
//! Configured explicitly for now; gossip will publish other views through the same type.
//!
//! Lives here: the table. Not here: who answers (`links`), which buckets follow (`placement`), names and addresses of sockets (`node`).

use xxhash_rust::xxh3::xxh3_64;

use crate::placement::{Layout, Member, NodeId, NodeIndex, Ring, RingError};

/// One node as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who it is, for good.
    pub id: NodeId,
    /// Where it listens for clients and peers: `HOST:PORT`.
    pub address: String,
    /// Its share.
    pub weight: u32,
    /// What fails together with it.
    pub zone: String,
}

/// A node of a view.
#[derive(Clone, Debug)]
pub struct Node {
    /// What was configured.
    pub entry: Entry,
    /// Stands for the id on the wire.
    pub node_hash: u64,
}

/// The ring as this node sees it. Equal view ids mean equal owners of every key.
#[derive(Debug)]
pub struct View {
    /// Who owns what.
    pub ring: Ring,
    /// By `NodeIndex`.
    pub nodes: Box<[Node]>,
    /// This node.
    pub me: NodeIndex,
}

impl View {
    /// The view of these nodes; `me` is one of them.
    ///
    /// # Errors
    /// What the ring refuses: an id twice, weights out of bounds, ..
    pub fn new(entries: &[Entry], me: &NodeId, buckets: u32, redundancy: usize) -> Result<Self, RingError> {
        let member = |entry: &Entry| Member { id: entry.id.clone(), weight: entry.weight, zone: entry.zone.clone() };
        let layout = Layout { buckets, redundancy, members: entries.iter().map(member).collect(), assignments: Vec::new() };
        let ring = Ring::new(layout)?;
        let node = |member: &Member| {
            let entry = entries.iter().find(|entry| entry.id == member.id)?.clone();
            Some(Node { entry, node_hash: node_hash(&member.id) })
        };
        let nodes = ring.members().iter().filter_map(node).collect();
        let me = ring.index_of(me.as_str()).ok_or(RingError::NoMembers)?;
        Ok(Self { ring, nodes, me })
    }

    /// The node whose id has this hash.
    pub fn index_of_node_hash(&self, node_hash: u64) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.node_hash == node_hash).map(|index| NodeIndex(index as u16))
    }
}

/// What stands for an id in frames.
pub fn node_hash(id: &NodeId) -> u64 {
    xxh3_64(id.as_str().as_bytes())
}
