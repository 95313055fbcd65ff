//! Requests under way on one core: what state each is in, and in which order those on one key take effect.
//!
//! ```text
//!   Waiting --> Forwarded                                      another node executes it; refused or lost: Waiting again
//!           --> Moved                                          another core of this node does
//!           --> Reading --> Queued --> Writing --> finished    this core does: read from others, its turn, copies to others
//!                              ^----- Refetching <--+          a newer item was met: fetched, then executed again
//!
//!   chain of a key:   | Forwarded | Forwarded | Waiting |      | Writing | Writing | Queued (read) | Queued |
//! ```
//!
//! All unanswered requests on one key form a chain, in the order in which they came:
//!
//! - What came over one connection goes one way and takes effect in order: behind a forwarded request to the same node over the same link,
//!   behind a moved one to the same core, behind a waiting one not at all.
//! - What this core executes, it executes in the order of the chain. A read waits until the writes before it are where they belong, so
//!   that nobody reads what may still be lost.
//! - Only a request behind which none is on its way may be forwarded: a refused one is not overtaken by its successors.
//!
//! Lives here: the table and its chains. Not here: what a request does in a state (`coordinate`, `replicate`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrayvec::ArrayVec;
use slab::Slab;

use super::links::LinkId;
use super::origin::Origin;
use super::view::PeerId;
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::{Command, Effect, Value};
use crate::key::Key;
use crate::limits;
use crate::peer::frame::{self, Execute, FrameError};
use crate::placement::REDUNDANCY_MAX;
use crate::protocol::Head;
use crate::routing::{ShardId, Ticket};
use crate::time::Monotonic;
use crate::version::Version;

/// Peers that are read for one key at most.
pub(super) const READ_PEERS_MAX: usize = 32;
/// Emptied commands kept, and how long they may have been.
const SPARE_MAX: usize = 1024;
const SPARE_BYTES_MAX: usize = 2048;
/// No operation.
const NONE: u32 = u32::MAX;

/// Names a request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationId {
    /// Its place in the table.
    pub index: u32,
    /// Tells requests apart that had the same place one after the other.
    pub serial: u32,
}

impl OperationId {
    /// The ticket under which another core of this node answers this request: the answer comes back to it, and not to a connection.
    pub fn ticket(self, descriptor: i32) -> Ticket {
        Ticket { connection: NO_CONNECTION, generation: self.serial, slot: self.index, descriptor }
    }

    /// The request whose ticket this is, if it is not a connection's.
    pub fn of_ticket(ticket: Ticket) -> Option<Self> {
        (ticket.connection == NO_CONNECTION).then_some(Self { index: ticket.slot, serial: ticket.generation })
    }
}

/// No connection has this index.
const NO_CONNECTION: u32 = u32::MAX;

/// Names a request in one of the states that it has been in: an answer that comes after it has left that state is for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The request.
    pub id: OperationId,
    pub(super) number: u32,
}

/// Who was asked what it has of the key, before the command is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadScope {
    /// Nobody.
    #[default]
    Nobody,
    /// One owner that is probably authoritative; if it is not, all are asked.
    One,
    /// All that had to be.
    All,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpState {
    /// For its turn, a link, a lease, or a time. It was not begun, or is to begin again.
    Waiting,
    /// For the answer of another node.
    Forwarded { link: LinkId },
    /// For the answer of another core of this node.
    Moved { core: ShardId },
    /// For this many nodes to tell what they have of the key.
    Reading { waiting: u32 },
    /// For those before it on its key, or for memory: it is executed here.
    Queued,
    /// For this many nodes to confirm their copies.
    Writing { waiting: u32 },
    /// For the newer item that this node has of the key.
    Refetching { node: PeerId },
}

/// What decides about the order of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Waiting,
    Forwarded,
    Moved,
    /// To be executed here.
    Pending,
    Writing,
}

impl OpState {
    fn class(self) -> Class {
        match self {
            Self::Waiting => Class::Waiting,
            Self::Forwarded { .. } => Class::Forwarded,
            Self::Moved { .. } => Class::Moved,
            Self::Reading { .. } | Self::Queued | Self::Refetching { .. } => Class::Pending,
            Self::Writing { .. } => Class::Writing,
        }
    }

    fn is_idle(self) -> bool {
        matches!(self, Self::Waiting | Self::Queued)
    }
}

/// Whose order a request keeps: the connection that it came over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Connection(u32),
    /// By the descriptor of its socket: also where that core gives a request on that it had taken itself.
    Core(ShardId, i32),
    Peer(u32),
    Nobody,
}

impl Source {
    fn of(origin: &Origin) -> Self {
        match origin {
            Origin::Connection(ticket) => Self::Connection(ticket.connection),
            Origin::Core(core, ticket) => Self::Core(*core, ticket.descriptor),
            Origin::Peer(request) => Self::Peer(request.connection),
            Origin::Control(_) => Self::Nobody,
        }
    }
}

/// How a command came to this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    /// Nodes that it has passed.
    pub hops: u8,
    /// See `Operation::deadline`.
    pub deadline: Monotonic,
    /// See `Operation::follows`.
    pub follows: bool,
    /// See `Operation::repeated_since`.
    pub repeated_since: Version,
}

impl Passage {
    /// From a client of this node.
    pub const OWN: Self = Self { hops: 0, deadline: Monotonic::NEVER, follows: false, repeated_since: Version::NONE };
}

/// A command that outlives its connection's buffer: one vector, used again and again.
#[derive(Clone, Default)]
pub struct StoredCommand {
    /// The command as it travels (`frame::write_execute`), then its value if that is small.
    bytes: Vec<u8>,
    meta_bytes: usize,
    body: Option<Arc<Body>>,
}

impl StoredCommand {
    /// Keeps a command in place of the one before.
    pub fn keep(&mut self, command: &Command<'_>, framing: Head, words: &[u8]) {
        self.clear();
        frame::write_execute(command, framing.to_bytes(), words, &mut self.bytes);
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
        frame::read_execute(self.meta(), self.value())
    }
}

/// A command on its way to another core of this node.
pub struct Moved {
    /// Where its answer goes.
    pub ticket: Ticket,
    /// Versions above this are of others, where a node that has gone away may have executed the command; 0 where none can have.
    pub repeated_since: Version,
    /// The command.
    pub stored: StoredCommand,
}

/// A request under way.
pub(super) struct Operation {
    serial: u32,
    pub origin: Origin,
    /// Nodes that it has passed.
    pub hops: u8,
    /// Routing hash of its key.
    pub hash: u64,
    /// Hash of the whole key: that of its chain.
    pub key_hash: u64,
    pub stored: StoredCommand,
    stored_bytes: usize,
    pub started_at: Monotonic,
    /// Who sent it gives it up then: from then on it must not be executed. `u64::MAX` for a client of this node, and for a read.
    pub deadline: Monotonic,
    /// Where it was sent to may execute it up to then.
    pub not_before: Monotonic,
    /// The greatest version that was known when it was last sent to another node.
    pub sent_clock: Version,
    /// Where a node may have executed it that has gone away: the greatest version that was known when it was first sent; else 0.
    pub repeated_since: Version,
    pub kind: Effect,
    /// Its sender had another one of its key under way when it sent this.
    pub follows: bool,
    /// A node that has gone away may have executed it, or this one has, and lost it to something newer.
    pub may_be_executed: bool,
    pub scope: ReadScope,
    /// What others have told of the key counts until then: later, somebody may have stood in for this node meanwhile.
    pub known_until: Monotonic,
    pub conflicts: u8,
    /// What only a request has that is executed here.
    pub write_state: Option<Box<WriteState>>,
    state: OpState,
    attempt: u32,
    /// Tried again at the next tick.
    is_parked: bool,
    /// In a chain, until it is answered.
    is_chained: bool,
    next: u32,
    before: u32,
}

/// What a request is made of.
pub(super) struct NewOperation {
    pub origin: Origin,
    pub passage: Passage,
    pub hash: u64,
    pub key_hash: u64,
    pub stored: StoredCommand,
    pub kind: Effect,
}

/// Where something newer of a key is than what a request wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// Here: it came from elsewhere meanwhile.
    Here,
    /// On this node.
    Node(PeerId),
}

/// What becomes of a request that is executed here.
#[derive(Default)]
pub(super) struct WriteState {
    /// Version of what the command wrote.
    pub version: Version,
    /// When it was executed, all others had promised that they held nothing newer and stood in for nobody: no flush was over of which this
    /// node had not heard.
    pub was_current: bool,
    /// Where copies of it go to more than one node: that version, tracked as uncommitted.
    pub uncommitted_version: Version,
    /// The answer, once the command has been executed.
    pub reply: Buffer,
    /// Nodes that failed to take a copy.
    pub failed: ArrayVec<PeerId, READ_PEERS_MAX>,
    /// Others may have read what it wrote: a node has taken a copy, or one was lost on its way.
    pub may_be_seen: bool,
    /// Something newer was met: what becomes of the request is decided when all copies are answered.
    pub conflict: Option<Conflict>,
    /// Version of what was last sent of its key: perhaps that of a later request.
    pub sent_version: Version,
    /// Nodes that have the copy.
    pub placed: ArrayVec<PeerId, REDUNDANCY_MAX>,
    /// Owners that lack it.
    pub missing: ArrayVec<PeerId, REDUNDANCY_MAX>,
    /// Version of what was sent to those that own the key next.
    pub sent_to_pending: Version,
    /// What it wrote lies on this node though it does not own the key: it is pinned there by `fallback_pins`.
    pub is_pinned: bool,
    /// What nodes had when they were asked.
    pub found: ArrayVec<(PeerId, Version), READ_PEERS_MAX>,
}

impl Operation {
    pub(super) fn write_state(&mut self) -> &mut WriteState {
        self.write_state.get_or_insert_default()
    }

    pub(super) fn state(&self) -> OpState {
        self.state
    }

    /// Whether its answer has gone out.
    pub(super) fn is_answered(&self) -> bool {
        !self.is_chained
    }
}

/// The unanswered requests of one key.
#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
    /// Requests that wait for others of the chain, or for something else.
    idle: u32,
    forwarded: u32,
    pending: u32,
    writing: u32,
    /// Where the forwarded ones went.
    link: LinkId,
    /// One of the forwarded ones has come back: none is sent until all have.
    is_broken: bool,
    /// What was written up to this version, others may have read.
    seen_version: Version,
}

/// What the nearest earlier request of the same connection on the same key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// There is none.
    Nobody,
    /// It waits.
    Waits,
    /// Another node has it.
    Link(LinkId),
    /// Another core has it.
    Core(ShardId),
    /// It is executed on this core.
    Here,
}

/// Requests under way.
pub(super) struct Operations {
    ops: Slab<Operation>,
    chains: HashMap<u64, Chain, ahash::RandomState>,
    serial: u32,
    /// Bytes of the commands.
    stored_bytes: usize,
    /// Emptied commands, kept for the next ones.
    spare: Vec<StoredCommand>,
    /// Keys in whose chains something has happened that others there may have waited for.
    woken: Vec<u64>,
    /// Requests that wait for a link, a lease to end, a time, or memory.
    parked: Vec<OperationId>,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            ops: Slab::new(),
            chains: HashMap::default(),
            serial: 0,
            stored_bytes: 0,
            spare: Vec::new(),
            woken: Vec::new(),
            parked: Vec::new(),
        }
    }
}

impl Operations {
    /// Whether as many are under way as may be.
    pub fn is_full(&self) -> bool {
        self.ops.len() >= limits::PEER_OPERATIONS_MAX || self.stored_bytes >= limits::PEER_OPERATIONS_BYTES_MAX
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Bytes of the commands that are kept.
    pub(super) fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// Whether an unanswered request on this key is under way.
    #[inline]
    pub fn has(&self, key: &Key<'_>) -> bool {
        !self.chains.is_empty() && self.chains.contains_key(&key.whole_hash())
    }

    pub fn get(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.ops.get_mut(id.index as usize).filter(|op| op.serial == id.serial)
    }

    /// The request, if it is still in the state in which an answer was asked for.
    pub fn at(&mut self, attempt: Attempt) -> Option<&mut Operation> {
        self.get(attempt.id).filter(|op| op.attempt == attempt.number)
    }

    /// What names the state that a request is in.
    pub fn attempt(&self, id: OperationId) -> Attempt {
        Attempt { id, number: self.ops.get(id.index as usize).map_or(0, |op| op.attempt) }
    }

    /// An emptied command.
    pub fn spare(&mut self) -> StoredCommand {
        self.spare.pop().unwrap_or_default()
    }

    fn key_of(&self, index: u32) -> OperationId {
        OperationId { index, serial: self.ops[index as usize].serial }
    }

    /// Takes a request in, as the last of its chain.
    pub fn insert(&mut self, new: NewOperation, at: Monotonic) -> OperationId {
        let NewOperation { origin, passage, hash, key_hash, stored, kind } = new;
        let Passage { hops, deadline, follows, repeated_since } = passage;
        self.serial = self.serial.wrapping_add(1);
        let (serial, stored_bytes) = (self.serial, stored.bytes_count());
        self.stored_bytes += stored_bytes;
        let index = self.ops.insert(Operation {
            serial,
            origin,
            hops,
            hash,
            key_hash,
            stored,
            stored_bytes,
            started_at: at,
            deadline,
            not_before: Monotonic::LONG_AGO,
            sent_clock: Version::NONE,
            repeated_since,
            kind,
            follows,
            may_be_executed: false,
            scope: ReadScope::Nobody,
            known_until: Monotonic::NEVER,
            conflicts: 0,
            write_state: None,
            state: OpState::Waiting,
            attempt: 0,
            is_parked: false,
            is_chained: true,
            next: NONE,
            before: NONE,
        }) as u32;
        let empty = Chain {
            first: index,
            last: index,
            idle: 0,
            forwarded: 0,
            pending: 0,
            writing: 0,
            link: LinkId(0),
            is_broken: false,
            seen_version: Version::NONE,
        };
        let chain = self.chains.entry(key_hash).or_insert(empty);
        if chain.last != index {
            self.ops[index as usize].before = chain.last;
            self.ops[chain.last as usize].next = index;
            chain.last = index;
        }
        chain.count(OpState::Waiting, 1);
        OperationId { index, serial }
    }

    /// Puts a request into another state. Answers to what it asked in the one before are for nobody then.
    pub fn enter(&mut self, id: OperationId, state: OpState) {
        let Some(op) = self.ops.get_mut(id.index as usize).filter(|op| op.serial == id.serial) else { return };
        op.attempt = op.attempt.wrapping_add(1);
        self.set(id, state);
    }

    /// As `enter`, where answers that are under way still count.
    pub fn set(&mut self, id: OperationId, state: OpState) {
        let Some(op) = self.ops.get_mut(id.index as usize).filter(|op| op.serial == id.serial) else { return };
        let before = std::mem::replace(&mut op.state, state);
        if !op.is_chained || (before.class() == state.class() && before.is_idle() == state.is_idle()) {
            return;
        }
        let hash = op.key_hash;
        let Some(chain) = self.chains.get_mut(&hash) else { return };
        chain.count(before, u32::MAX);
        match (before, state) {
            (OpState::Forwarded { .. }, _) => chain.is_broken = chain.forwarded > 0,
            (_, OpState::Forwarded { link }) => {
                chain.is_broken &= chain.forwarded > 0;
                chain.link = link;
            }
            _ => {}
        }
        chain.count(state, 1);
        if chain.idle > 0 {
            self.wake(hash);
        }
    }

    fn wake(&mut self, hash: u64) {
        if self.woken.last() != Some(&hash) {
            self.woken.push(hash);
        }
    }

    /// Has a request tried again at the next tick.
    pub fn park(&mut self, id: OperationId) {
        if let Some(op) = self.get(id)
            && !std::mem::replace(&mut op.is_parked, true)
        {
            self.parked.push(id);
        }
    }

    /// The requests that are to be tried again.
    pub fn take_parked(&mut self) -> Vec<OperationId> {
        let parked = std::mem::take(&mut self.parked);
        for &id in &parked {
            if let Some(op) = self.get(id) {
                op.is_parked = false;
            }
        }
        parked
    }

    /// A request has been answered: nobody waits for it any more, though its copies may still be under way.
    pub fn unchain(&mut self, id: OperationId) {
        let Some(op) = self.ops.get_mut(id.index as usize).filter(|op| op.serial == id.serial && op.is_chained) else {
            return;
        };
        let Operation { key_hash: hash, next, before, state, .. } = *op;
        (op.is_chained, op.next, op.before) = (false, NONE, NONE);
        let Entry::Occupied(mut entry) = self.chains.entry(hash) else { return };
        let chain = entry.get_mut();
        chain.count(state, u32::MAX);
        match self.ops.get_mut(before as usize) {
            Some(op) => op.next = next,
            None => chain.first = next,
        }
        match self.ops.get_mut(next as usize) {
            Some(op) => op.before = before,
            None => chain.last = before,
        }
        if chain.first == NONE {
            entry.remove();
        } else if chain.idle > 0 {
            self.wake(hash);
        }
    }

    /// Ends a request.
    pub fn remove(&mut self, id: OperationId) {
        self.unchain(id);
        if self.get(id).is_none() {
            return;
        }
        let mut op = self.ops.remove(id.index as usize);
        self.stored_bytes -= op.stored_bytes;
        if self.spare.len() < SPARE_MAX && op.stored.bytes_count() <= SPARE_BYTES_MAX {
            op.stored.clear();
            self.spare.push(op.stored);
        }
    }

    /// What the nearest earlier request of the same connection on the same key does.
    pub fn ahead(&self, id: OperationId) -> Ahead {
        let Some(op) = self.ops.get(id.index as usize) else { return Ahead::Nobody };
        let source = Source::of(&op.origin);
        let mut before = op.before;
        while let Some(op) = self.ops.get(before as usize) {
            if Source::of(&op.origin) == source {
                return match op.state {
                    OpState::Waiting => Ahead::Waits,
                    OpState::Forwarded { link } => Ahead::Link(link),
                    OpState::Moved { core } => Ahead::Core(core),
                    _ => Ahead::Here,
                };
            }
            before = op.before;
        }
        Ahead::Nobody
    }

    /// Whether a request may be forwarded over a link now, and then whether it follows others there.
    pub fn may_forward(&self, id: OperationId, link: LinkId) -> Option<bool> {
        let chain = self.chains.get(&self.ops.get(id.index as usize)?.key_hash)?;
        match chain.forwarded {
            0 => Some(false),
            _ => (chain.link == link && !chain.is_broken).then_some(true),
        }
    }

    /// Whether a request may be executed here now: those before it on its key are, and for a read, are where they belong.
    pub fn may_execute(&self, id: OperationId) -> bool {
        let Some(op) = self.ops.get(id.index as usize) else { return false };
        let Some(chain) = self.chains.get(&op.key_hash).filter(|_| op.is_chained) else { return true };
        let others = chain.pending - u32::from(op.state.class() == Class::Pending);
        if others == 0 && (!op.kind.is_read() || chain.writing == 0) {
            return true;
        }
        let mut before = op.before;
        while let Some(earlier) = self.ops.get(before as usize) {
            match earlier.state.class() {
                Class::Pending => return false,
                Class::Writing if op.kind.is_read() => return false,
                _ => before = earlier.before,
            }
        }
        true
    }

    /// Whether a request keeps its place and waits for the next tick.
    pub fn asks_later(&self, id: OperationId) -> bool {
        self.ops.get(id.index as usize).is_some_and(|op| op.is_parked && op.state == OpState::Queued)
    }

    /// Whether no request came behind this one on its key.
    pub fn is_last(&self, id: OperationId) -> bool {
        self.ops.get(id.index as usize).is_none_or(|op| op.next == NONE)
    }

    /// A key in whose chain something has happened, until there is none.
    pub fn next_woken(&mut self) -> Option<u64> {
        self.woken.pop()
    }

    /// The requests of a chain that wait, in order.
    pub fn idle(&self, hash: u64) -> Vec<OperationId> {
        self.of_chain(hash, |chain| chain.idle, |op| op.state.is_idle())
    }

    /// The requests of a chain that have been executed here and whose copies are under way, in order.
    pub fn written(&self, hash: u64) -> Vec<OperationId> {
        self.of_chain(hash, |chain| chain.writing, |op| op.state.class() == Class::Writing)
    }

    /// The requests of a chain that have been executed here, in order: those of `written`, and those that have met something newer.
    pub fn executed(&self, hash: u64) -> Vec<OperationId> {
        let wanted = |op: &Operation| matches!(op.state, OpState::Writing { .. } | OpState::Refetching { .. });
        self.of_chain(hash, |chain| chain.writing + chain.pending, wanted)
    }

    fn of_chain(&self, hash: u64, count: impl Fn(&Chain) -> u32, wanted: impl Fn(&Operation) -> bool) -> Vec<OperationId> {
        let Some((chain, count)) = self.chains.get(&hash).map(|chain| (chain, count(chain) as usize)) else {
            return Vec::new();
        };
        let (mut keys, mut index) = (Vec::with_capacity(count), chain.first);
        while let Some(op) = self.ops.get(index as usize).filter(|_| keys.len() < count) {
            if wanted(op) {
                keys.push(self.key_of(index));
            }
            index = op.next;
        }
        keys
    }

    /// The requests behind this one that came over the same connection, and were sent before their sender knew what became of it.
    pub fn followers(&self, id: OperationId) -> Vec<OperationId> {
        let Some(op) = self.ops.get(id.index as usize) else { return Vec::new() };
        let (source, mut index, mut followers) = (Source::of(&op.origin), op.next, Vec::new());
        while let Some(op) = self.ops.get(index as usize) {
            if Source::of(&op.origin) == source {
                if !op.follows {
                    break;
                }
                followers.push(self.key_of(index));
            }
            index = op.next;
        }
        followers
    }

    /// Others may read from now on what was last sent for this request.
    pub fn note_seen(&mut self, id: OperationId) {
        let Some(op) = self.get(id) else { return };
        let write = op.write_state();
        write.may_be_seen = true;
        let (sent_version, hash, alone) =
            (write.sent_version, op.key_hash, op.is_chained && op.next == NONE && op.before == NONE);
        // A copy is of all that was written by then, also for those behind.
        if !alone && let Some(chain) = self.chains.get_mut(&hash) {
            chain.seen_version = chain.seen_version.max(sent_version);
        }
    }

    /// Whether others may have read what it wrote, and written on it: executed again, it would come back behind that, or count twice.
    pub fn was_seen(&self, id: OperationId) -> bool {
        let Some(op) = self.ops.get(id.index as usize) else { return false };
        let Some(write) = op.write_state.as_deref() else { return false };
        write.may_be_seen || self.chains.get(&op.key_hash).is_some_and(|chain| chain.seen_version >= write.version)
    }

    /// A request that is executed again has written this version. For those behind it over the same connection it is not what others wrote.
    pub fn note_repeated(&mut self, id: OperationId, version: Version) {
        let Some(op) = self.ops.get(id.index as usize).filter(|op| op.repeated_since.is_some()) else { return };
        let (source, mut index) = (Source::of(&op.origin), op.next);
        while let Some(op) = self.ops.get_mut(index as usize) {
            if Source::of(&op.origin) == source && op.repeated_since.is_some() {
                op.repeated_since = version;
            }
            index = op.next;
        }
    }

    /// Whether a request shows what is there, and writes of the same connection and key went to the same node behind it.
    pub fn is_read_before_writes(&self, id: OperationId) -> bool {
        let Some(op) = self.ops.get(id.index as usize).filter(|op| op.kind.is_read()) else { return false };
        let (source, mut index) = (Source::of(&op.origin), op.next);
        while let Some(op) = self.ops.get(index as usize) {
            if Source::of(&op.origin) == source && !op.kind.is_read() && op.state.class() == Class::Forwarded {
                return true;
            }
            index = op.next;
        }
        false
    }

    /// Something newer of a key has come from elsewhere. What was executed here before, and is not answered, may have to be executed
    /// again on that.
    pub fn overtaken(&mut self, key_hash: u64) {
        for id in self.written(key_hash) {
            self.note_conflict(id);
        }
    }

    /// A request is to be executed again, if it was executed here and is not answered.
    pub fn note_conflict(&mut self, id: OperationId) {
        let Some(op) = self.get(id).filter(|op| op.conflicts < limits::PEER_CONFLICTS_MAX) else { return };
        match op.state() {
            OpState::Writing { .. } => _ = op.write_state().conflict.get_or_insert(Conflict::Here),
            // It was executed on what has gone, as those before it.
            OpState::Refetching { .. } => self.enter(id, OpState::Queued),
            _ => {}
        }
    }

    /// Requests that this core coordinates: they are read for, executed, or copied here.
    pub fn coordinated(&self) -> Vec<OperationId> {
        let is_here =
            |op: &Operation| !matches!(op.state, OpState::Waiting | OpState::Forwarded { .. } | OpState::Moved { .. });
        self.ops.iter().filter(|(_, op)| is_here(op)).map(|(index, _)| self.key_of(index as u32)).collect()
    }

    /// Requests that are under way for too long.
    pub fn older_than(&self, began: Monotonic) -> Vec<OperationId> {
        let old = |op: &Operation| op.started_at <= began && !matches!(op.state, OpState::Moved { .. });
        self.ops
            .iter()
            .filter(|(_, op)| old(op))
            .map(|(index, op)| OperationId { index: index as u32, serial: op.serial })
            .collect()
    }
}

impl Chain {
    /// Counts a request in, or out where `step` is -1, which wraps.
    fn count(&mut self, state: OpState, step: u32) {
        let add = |count: &mut u32| *count = count.wrapping_add(step);
        if state.is_idle() {
            add(&mut self.idle);
        }
        match state.class() {
            Class::Forwarded => add(&mut self.forwarded),
            Class::Pending => add(&mut self.pending),
            Class::Writing => add(&mut self.writing),
            Class::Waiting | Class::Moved => {}
        }
    }
}
