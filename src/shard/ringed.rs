//! What a core of a ring node has beside its items: the view, the links, requests under way, hints.
//!
//! ```text
//!   Shard { engine, ring: Some(Cluster) }  --turn(now)-->  Turn: everything of one core at one moment; all decisions are its methods
//!
//!   in:   submit (client, other core)   serve (request of a peer)   response, link_up, link_down (our links)   tick
//!   out:  finished   to_cores   peers.wanted, unwanted, ready       drained by whoever moves the bytes: the runtime, or the simulator
//! ```
//!
//! Lives here: the state and its way in and out. Not here: what is decided (`coordinator`, `serve`, `handoff`), links (`peers`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::coordinator::Purpose;
use super::flush::Flush;
use super::handoff::Handoff;
use super::operations::{OperationId, Operations};
use super::peers::Peers;
use super::unsettled::{Uncommitted, Writes};
use super::{Routes, ShardId, Ticket};
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::cluster::hints::Hints;
use crate::cluster::members::View;
use crate::cluster::wire::{self, Execute, FrameError, Horizon, Stamp};
use crate::command::{Command, Value};
use crate::engine::Engine;
use crate::key;
use crate::limits;
use crate::metrics::Counters;
use crate::observe::Observer;
use crate::protocol::Head;
use crate::ring::{NodeIndex, OwnersCache};
use crate::time::Instant;

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

/// A command that outlives its connection's buffer: one vector, used again and again.
#[derive(Clone, Default)]
pub struct StoredCommand {
    /// The command as it travels (`wire::write_execute`), then its value if that is small.
    bytes: Vec<u8>,
    meta_bytes: usize,
    body: Option<Arc<Body>>,
}

impl StoredCommand {
    /// Keeps a command in place of the one before.
    pub fn keep(&mut self, command: &Command<'_>, framing: Head, words: &[u8]) {
        self.clear();
        wire::write_execute(command, framing.to_bytes(), words, &mut self.bytes);
        self.meta_bytes = self.bytes.len();
        match command.value {
            Value::Body(body) => self.body = Some(body.clone()),
            value => value.each_slice(|slice| self.bytes.extend_from_slice(slice)),
        }
    }

    /// Bytes that are kept.
    pub fn bytes_count(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the command.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.meta_bytes, self.body) = (0, None);
    }

    /// The command as it travels, without its value.
    pub fn meta(&self) -> &[u8] {
        &self.bytes[..self.meta_bytes]
    }

    /// Its value.
    pub fn value(&self) -> Value<'_> {
        match &self.body {
            Some(body) => Value::Body(body),
            None => Value::Bytes(&self.bytes[self.meta_bytes..]),
        }
    }

    /// The command again.
    ///
    /// # Errors
    /// None was kept.
    pub fn execute(&self) -> Result<Execute<'_>, FrameError> {
        wire::read_execute(self.meta(), self.value())
    }
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
    pub(super) operations: Operations,
    pub(super) flushes: Vec<Flush>,
    pub(super) flushes_begun: u32,
    /// By connection of a peer, the keys of which a command was refused: those that follow it are refused as well.
    pub(super) refused: HashMap<(u32, u32), HashSet<u64>, ahash::RandomState>,
    /// Writes of which copies are under way.
    pub(super) writes: Writes,
    /// Copies of other coordinators' writes that are not known to be on every owner.
    pub(super) uncommitted: Uncommitted,
    /// Items that this node stores without owning, by hash, with the number of operations that still need each.
    pub(super) fallback_pins: HashMap<u64, u32, ahash::RandomState>,
    pub(super) handoffs: Box<[Handoff]>,
    pub(super) purges: super::handoff::Purges,
    pub(super) cache: OwnersCache,
    pub(super) scratch: Buffer,
    /// Millisecond of the last request for which leases matter.
    pub(super) active_ms: u64,
    pub(super) ticked_ms: u64,
    pub(super) paced_ms: u64,
    /// Something is to be sent that waits for the next millisecond only.
    pub is_paced: bool,
    pub(super) swept_ms: u64,
    /// When nobody held anything for anybody, and this core's clock then.
    pub(super) settling: (u64, u64),
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
            purges: super::handoff::Purges::default(),
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
    pub ring: &'a mut Cluster,
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
    pub(super) fn horizon(&self) -> Horizon {
        Horizon::at(self.now)
    }

    pub(super) fn buckets(&self) -> u32 {
        self.ring.view.ring.buckets()
    }

    pub(super) fn bucket_of(&self, hash: u64) -> u32 {
        key::bucket_of(hash, self.buckets())
    }

    pub(super) fn partition_of(&self, hash: u64) -> u32 {
        key::partition_of_hash(hash, self.buckets())
    }

    /// Whether a node is an owner of this hash.
    pub(super) fn owns(&mut self, node: NodeIndex, hash: u64) -> bool {
        let bucket = self.bucket_of(hash);
        let Cluster { cache, view, .. } = &mut *self.ring;
        cache.owners_of(&view.ring, bucket).contains(&node)
    }

    /// A hash of this core's part of the ring: a core of another node with the same hash overlaps this core.
    pub(super) fn own_hash(&self) -> u64 {
        let (core, cores) = (u128::from(self.core.0), u128::from(self.ring.options.cores));
        (((2 * core + 1) << 63) / cores) as u64
    }

    pub(super) fn me(&self) -> NodeIndex {
        self.ring.view.me
    }
}

/// Answers beyond this travel by pointer, in bytes.
const CARRIED_BYTES_MIN: usize = 4 << 10;
