//! Which nodes hold a key, and what to do while they do not. A core comes to all of it through a `Turn`.
//!
//! ```text
//!   Shard { engine, cluster: Some(Cluster) }  --turn(now)-->  Turn: everything of one core at one moment
//!
//!   in:   place, submit (client, other core)   serve (request of a peer)   response, link_up, link_down (our links)   tick
//!   out:  outbox   to_cores   peers.wanted, unwanted, ready        drained by whoever moves the bytes: the runtime, or the simulator
//!
//!   view         who is in the ring                              serve       requests of other nodes
//!   links        which nodes are there, and what they owe us     flush       flush_all, in two rounds
//!   operations   requests under way, in their order              answers     what other nodes have answered
//!   coordinate   from a command to its answer                    output      answers on their way out
//!   replicate    copies of one command                           handoff     what others lacked, when they are back
//!   commit       what all owners have
//! ```
//!
//! Lives here: the state of a core's part of the ring, and its way in and out. Not here: frames and handshakes (`peer`), who owns what
//! (`placement`), sockets (`runtime`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

mod answers;
mod commit;
pub mod coordinate;
mod flush;
pub mod handoff;
pub mod links;
pub mod operations;
mod output;
mod replicate;
mod serve;
pub mod view;

use self::commit::{Uncommitted, Writes};
use self::coordinate::Purpose;
use self::flush::Flush;
use self::handoff::hints::Hints;
use self::handoff::{Handoff, Purges};
use self::links::Peers;
use self::operations::Operations;
use self::view::View;
use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::key;
use crate::limits;
use crate::metrics::Counters;
use crate::observe::Observer;
use crate::peer::frame::{Horizon, Stamp};
use crate::placement::{NodeIndex, OwnersCache};
use crate::routing::{Routes, ShardId};
use crate::time::Instant;

pub use self::operations::OperationId;
pub use self::output::{Finished, Origin, Outbox, PeerRequest};

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When every owner that is there has it, or who stands in for it.
    #[default]
    Live,
    /// When the node that coordinates has it.
    One,
}

/// How a core takes part in a ring.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `--ack`.
    pub ack: Ack,
    /// Memory for what this core keeps for other nodes, in bytes.
    pub handoff_bytes_max: usize,
    /// `--handoff_window`, in milliseconds.
    pub handoff_window_ms: u64,
    /// `--handoff_rate`: items that this core replays a second; 0 for as many as go.
    pub handoff_rate: u32,
    /// Cores of this node.
    pub cores: u16,
    /// A planted mistake, for tests that must catch it.
    pub mistake: Option<Mistake>,
}

/// Mistakes that a test plants to see that a check catches them. Never set by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A write is answered before the copies are there.
    AckBeforeCopies,
    /// Hints are not kept.
    NoHints,
    /// A replayed item gets a new version where it arrives.
    HintWithoutVersion,
    /// Fences of others are not heard.
    FenceSkipped,
    /// Hints go to the node behind the owner.
    ReplayElsewhere,
    /// Peers that may have something newer are never read.
    NoPeerReads,
    /// Every node that is read calls its answer authoritative.
    AlwaysAuthoritative,
    /// Keys that others have announced as missing here are not fetched from them.
    MissingIgnored,
    /// A copy counts as committed though its coordinator has not said so.
    AllCommitted,
}

/// The part of a core that knows other nodes.
pub struct Cluster {
    /// Who owns what.
    pub view: Arc<View>,
    /// How to take part.
    pub options: ClusterOptions,
    /// Links to the others.
    pub peers: Peers<Purpose>,
    /// What others lack.
    pub hints: Hints,
    /// Answers to be taken away.
    pub outbox: Outbox,
    /// Requests of this core's clients that another core of this node must go on with, in order.
    pub to_cores: VecDeque<(ShardId, OperationId)>,
    operations: Operations,
    flushes: Vec<Flush>,
    flushes_begun: u32,
    /// By connection of a peer, the keys of which a command was refused: those that follow it are refused as well.
    refused: HashMap<(u32, u32), HashSet<u64>, ahash::RandomState>,
    /// Writes of which copies are under way.
    writes: Writes,
    /// Copies of other coordinators' writes that are not known to be on every owner.
    uncommitted: Uncommitted,
    /// Items that this node stores without owning, by hash, with the number of operations that still need each.
    fallback_pins: HashMap<u64, u32, ahash::RandomState>,
    handoffs: Box<[Handoff]>,
    purges: Purges,
    cache: OwnersCache,
    scratch: Buffer,
    /// Millisecond of the last request for which leases matter.
    active_ms: u64,
    ticked_ms: u64,
    paced_ms: u64,
    /// Something is to be sent that waits for the next millisecond only.
    pub is_paced: bool,
    swept_ms: u64,
    /// When nobody held anything for anybody, and this core's clock then.
    settling: (u64, u64),
    /// What happened.
    pub figures: Figures,
}

/// Counts of a core since start, for `stats peers` and `stats handoff`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Commands sent on to another node.
    pub forwarded: u64,
    /// Commands of other nodes executed here.
    pub served: u64,
    /// Copies sent.
    pub copies_sent: u64,
    /// Copies taken.
    pub copies_taken: u64,
    /// Keys asked of other nodes before a command was executed.
    pub consulted: u64,
    /// Older or missing copies renewed because a read found them.
    pub repaired: u64,
    /// Writes that met something newer elsewhere and started again.
    pub conflicts: u64,
    /// Commands that were answered with an error because no node could be reached, or one went away.
    pub failed: u64,
    /// Items of dirty partitions sent.
    pub streamed: u64,
}

impl Cluster {
    /// The part of core `own` in the ring of this view.
    pub fn new(view: Arc<View>, own: ShardId, options: ClusterOptions) -> Self {
        let nodes = view.nodes.len();
        // Half for hints, the rest for keys that are missing here, and for copies that are not known to be committed.
        let (hints_bytes, quarter_bytes) = (options.handoff_bytes_max / 2, options.handoff_bytes_max / 4);
        Self {
            peers: Peers::new(nodes, view.me, own, options.cores, quarter_bytes / limits::PEER_MISSING_BYTES),
            hints: Hints::new(nodes, hints_bytes, options.handoff_window_ms),
            outbox: Outbox::default(),
            to_cores: VecDeque::new(),
            operations: Operations::default(),
            flushes: Vec::new(),
            flushes_begun: 0,
            refused: HashMap::default(),
            writes: Writes::default(),
            uncommitted: Uncommitted::new(quarter_bytes),
            fallback_pins: HashMap::default(),
            handoffs: (0..nodes).map(|_| Handoff::default()).collect(),
            purges: Purges::default(),
            cache: OwnersCache::default(),
            scratch: Buffer::default(),
            active_ms: 0,
            ticked_ms: 0,
            paced_ms: 0,
            is_paced: false,
            swept_ms: 0,
            settling: (0, 0),
            figures: Figures::default(),
            view,
            options,
        }
    }

    /// Whether the core must look at the clock every few milliseconds: something is under way, or is to be tried again.
    pub fn is_busy(&self, ms: u64) -> bool {
        self.peers.outstanding() > 0
            || self.operations() > 0
            || ms < self.active_ms + limits::PEER_ACTIVE_MS
            || self.peers.is_connecting()
            || self.peers.others().any(|node| !self.hints.is_clean(usize::from(node.0)))
            || self.is_dropping()
    }

    /// Keeps the leases for a while, though no client asks.
    pub fn active_now(&mut self, ms: u64) {
        self.active_ms = ms;
    }

    /// Whether something that came from other nodes is not done with: copies that may be under way to others, old items to be purged.
    pub fn is_dropping(&self) -> bool {
        !self.uncommitted.is_empty()
            || self.purges.is_busy()
            || self.handoffs.iter().any(|handoff| !handoff.has_announced_purged() || !handoff.is_idle())
    }

    /// Requests under way.
    pub fn operations(&self) -> usize {
        self.operations.len() + self.flushes.len()
    }
}

/// One core at one moment: what every decision about a request needs.
pub struct Turn<'a> {
    /// Its items.
    pub engine: &'a mut Engine,
    /// Its counters.
    pub counters: &'a mut Counters,
    /// What is noted of the commands for who asked for it.
    pub observer: &'a mut Observer,
    /// Its part of the ring.
    pub cluster: &'a mut Cluster,
    /// Which core it is.
    pub core: ShardId,
    /// Which core has which hash.
    pub routes: &'a Routes,
    /// The time of items.
    pub now: Instant,
    /// The time of deadlines: milliseconds that never go back.
    pub ms: u64,
}

impl Turn<'_> {
    /// What every frame says.
    pub fn stamp(&self) -> Stamp {
        Stamp { clock: self.engine.clock(), fence: self.engine.fence(), sent_ms: self.ms as u32, ..Stamp::default() }
    }

    /// What versions a peer may speak of.
    fn horizon(&self) -> Horizon {
        Horizon::at(self.now)
    }

    fn buckets(&self) -> u32 {
        self.cluster.view.ring.buckets()
    }

    fn bucket_of(&self, hash: u64) -> u32 {
        key::bucket_of(hash, self.buckets())
    }

    fn partition_of(&self, hash: u64) -> u32 {
        key::partition_of_hash(hash, self.buckets())
    }

    /// Whether a node is an owner of this hash.
    fn owns(&mut self, node: NodeIndex, hash: u64) -> bool {
        let bucket = self.bucket_of(hash);
        let Cluster { cache, view, .. } = &mut *self.cluster;
        cache.owners_of(&view.ring, bucket).contains(&node)
    }

    /// A hash of this core's part of the ring: a core of another node with the same hash overlaps this core.
    fn own_hash(&self) -> u64 {
        let (core, cores) = (u128::from(self.core.0), u128::from(self.cluster.options.cores));
        (((2 * core + 1) << 63) / cores) as u64
    }

    fn me(&self) -> NodeIndex {
        self.cluster.view.me
    }
}
