//! From a command to its answer where more than one node has a part in it.
//!
//! ```text
//!   submit --> who is the first in the ranking that is there?
//!                another node  --> forward: EXECUTE over the link, its answer is the answer
//!                this one      --> coordinate:   read    --> execute --> copies --> answer
//!                                                |           |           |
//!                              others may hold something     engine      state, not operation, to the first `redundancy`
//!                              newer, or what we lack                    nodes that are there; hints for owners that are not
//! ```
//!
//! A request is forwarded at most twice: client's node -> coordinator as seen there -> coordinator as seen by that one, which must
//! execute it. It is executed at most once more after it was given up: the node that was sent it executes it only for a while after the
//! sender last heard of that node (`Operation::deadline_ms`), and only then is it given to another one (`Operation::not_before_ms`). If a
//! node that went away may have executed it, it is not executed again where that could count it twice.
//!
//! Lives here: the life of one request. Not here: the table of requests and their order (`operations`), answers of other nodes
//! (`answers`), requests of others (`serve`), what is sent later (`handoff`), flushes (`flush`), links (`links`).
//! After Dynamo (SOSP'07, 4.5 and 4.6), with one coordinator a key: the first of its ranking that is there.

use std::collections::hash_map::Entry;

use arrayvec::ArrayVec;

use super::links::{Forward, LinkId, Reach};
use super::operations::{
    Ahead, Attempt, NewOperation, OpKind, OpState, Operation, OperationId, READ_PEERS_MAX, ReadScope, StoredCommand,
};
use super::{Cluster, Mistake, Origin, PeerRequest, Turn};
use crate::buffer::Buffer;
use crate::command::{Command, Error, Get, Reply, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::{self, KEY_BYTES_MAX};
use crate::observe::Client;
use crate::peer::frame::{self, Along, Kind};
use crate::placement::NodeIndex;
use crate::protocol::{self, Framing, Head};
use crate::routing::{Place, ShardId, Ticket};

/// What a request was sent for.
#[derive(Debug)]
pub enum Purpose {
    /// The whole command.
    Forward(OperationId),
    /// What a node has of the key.
    Read(Attempt, NodeIndex),
    /// What a node has of the key that is newer than what the command wrote.
    Refetch(Attempt, NodeIndex),
    /// A copy of what a command wrote.
    Copy(Attempt, NodeIndex),
    /// A copy for a node whose own was older.
    Repair,
    /// Only its lease.
    Sync,
    /// A flush, by its number, and its round.
    Fence(u32, u8),
    /// A hint.
    Replay(SentItem),
    /// An item of a dirty partition.
    Stream(SentItem),
    /// The announcement of dirty partitions.
    Begin(NodeIndex, u32),
    /// Keys that are missing on a node.
    Missing(NodeIndex, u32),
    /// The notice of partitions whose old items were purged here.
    Purged(NodeIndex, u32, Box<[u32]>),
}

/// An item under way to a node that lacks it.
#[derive(Debug)]
pub struct SentItem {
    /// The node.
    pub node: NodeIndex,
    /// The key.
    pub key: Box<[u8]>,
    /// The version sent.
    pub version: u64,
    /// See `Handoff::generation`.
    pub generation: u32,
}

/// How a command came to this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    /// Nodes that it has passed.
    pub hops: u8,
    /// See `Operation::deadline_ms`.
    pub deadline_ms: u64,
    /// See `Operation::follows`.
    pub follows: bool,
    /// See `Operation::repeated_since`.
    pub repeated_since: u64,
}

impl Passage {
    /// From a client of this node.
    const OWN: Self = Self { hops: 0, deadline_ms: u64::MAX, follows: false, repeated_since: 0 };
}

/// Who goes on with a request.
enum Direction {
    Me,
    Node(LinkId),
    /// Something must become known first, or a lease must end.
    Later,
}

/// What came of an execution.
enum Outcome {
    Done,
    Busy,
    /// It was not executed: see `may_repeat`.
    Overtaken,
    Copy,
}

impl Turn<'_> {
    /// Where a command is executed that can be executed at once, without asking or telling anybody; `None` if it cannot.
    #[inline]
    pub fn place(&mut self, command: &Command<'_>) -> Option<Place> {
        let bucket = self.bucket_of(command.key.hash);
        let cluster = &mut *self.cluster;
        let owners = cluster.cache.owners_of(&cluster.view.ring, bucket);
        if owners.first() != Some(&cluster.view.me) || cluster.operations.has(&command.key) {
            return None;
        }
        let core = self.routes.core_of(command.key.hash);
        if core != self.core {
            return Some(Place::Core(core));
        }
        cluster.active_ms = self.ms;
        if !cluster.peers.has_all_leases(self.ms) || cluster.peers.is_missing(command.key.hash, cluster.view.ring.buckets()) {
            return None;
        }
        if owners.len() == 1 || (command.verb == Verb::Get(Get::default()) && self.reads_alone(command)) {
            return Some(Place::Here);
        }
        None
    }

    /// Whether a read need not ask other owners: the item is here, or nothing was ever lost here.
    fn reads_alone(&mut self, command: &Command<'_>) -> bool {
        self.has_lost_nothing() || with_plain_key(command, |key| self.engine.contains(key, self.now))
    }

    /// Whether what is not here is nowhere: with leases of all peers, and nothing evicted or purged.
    pub(super) fn has_lost_nothing(&self) -> bool {
        self.engine.evicted_count() == 0 && !self.cluster.purges.has_purged() && self.cluster.peers.has_all_leases(self.ms)
    }

    /// Takes over a request of a client; its answer will be in the outbox. False if too much is under way: ask again later.
    pub fn submit(&mut self, origin: Origin, command: &Command<'_>, framing: Head, words: &[u8]) -> bool {
        let taken = self.take(origin, Passage::OWN, command, framing, words);
        self.advance_woken();
        taken
    }

    /// As `submit`, for a request that has come any way.
    pub(super) fn take(
        &mut self,
        origin: Origin,
        passage: Passage,
        command: &Command<'_>,
        framing: Head,
        words: &[u8],
    ) -> bool {
        if self.cluster.operations.is_full() {
            return false;
        }
        let mut stored = self.cluster.operations.spare();
        stored.keep(command, framing, words);
        let (hash, key_hash, kind) = (command.key.hash, command.key.whole_hash(), kind_of(&command.verb));
        let new = NewOperation { origin, passage, hash, key_hash, stored, kind };
        let id = self.cluster.operations.insert(new, self.ms);
        self.advance(id);
        true
    }

    pub(super) fn op(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.cluster.operations.get(id)
    }

    /// Goes on with what may have waited for something that has happened. Last of all, whatever came in.
    pub(super) fn advance_woken(&mut self) {
        while let Some(hash) = self.cluster.operations.next_woken() {
            for id in self.cluster.operations.idle(hash) {
                // One that asks again at the next tick keeps its place until then.
                if !self.cluster.operations.asks_later(id) {
                    self.try_again(id);
                }
                // What is executed here and still waits holds back all behind it.
                if self.op(id).is_some_and(|op| op.state() == OpState::Queued) {
                    break;
                }
            }
        }
    }

    /// Goes on with a request that waits.
    pub(super) fn try_again(&mut self, id: OperationId) {
        match self.op(id).map(|op| op.state()) {
            Some(OpState::Waiting) => self.advance(id),
            Some(OpState::Queued) if self.op(id).is_some_and(|op| op.scope == ReadScope::All) => self.run_in_turn(id),
            // Perhaps by another node: unless there are others behind it, which must not overtake it.
            Some(OpState::Queued) if self.cluster.operations.is_last(id) => {
                self.cluster.operations.enter(id, OpState::Waiting);
                self.advance(id);
            }
            Some(OpState::Queued) => self.coordinate(id),
            Some(OpState::Refetching { node }) => self.refetch(id, node),
            _ => {}
        }
    }

    /// Goes on with a request from the beginning, if it is its turn.
    fn advance(&mut self, id: OperationId) {
        let (ms, ahead) = (self.ms, self.cluster.operations.ahead(id));
        let Some(op) = self.op(id) else { return };
        if ms < op.not_before_ms {
            return self.cluster.operations.park(id);
        }
        let (hash, hops) = (op.hash, op.hops);
        let core = self.routes.core_of(hash);
        match ahead {
            // Each of these wakes what is behind it.
            Ahead::Waits => {}
            Ahead::Link(link) => self.forward(id, link),
            Ahead::Core(core) => self.move_to(id, core),
            Ahead::Here => {
                if core == self.core && matches!(self.direct(hash, hops), Direction::Me) {
                    self.coordinate(id);
                }
            }
            Ahead::Nobody => match self.direct(hash, hops) {
                Direction::Later => self.cluster.operations.park(id),
                Direction::Node(link) => self.forward(id, link),
                Direction::Me if core == self.core => self.coordinate(id),
                Direction::Me => self.move_to(id, core),
            },
        }
    }

    fn direct(&mut self, hash: u64, hops: u8) -> Direction {
        if hops >= HOPS_MAX {
            return Direction::Me;
        }
        let (bucket, buckets, ms) = (self.bucket_of(hash), self.buckets(), self.ms);
        // Most of the time the first owner is another node, and there.
        let Cluster { cache, view, peers, .. } = &mut *self.cluster;
        let first = cache.owners_of(&view.ring, bucket).first().copied();
        // The next node may not know of keys that others have for us: they are fetched and answered here.
        let is_told = peers.is_missing(hash, buckets);
        if let Some(first) = first.filter(|&first| first != view.me && !is_told)
            && let Reach::There(link) = peers.reach(first, hash, buckets, ms)
        {
            return Direction::Node(link);
        }
        let mut lease_granted_ms = 0;
        for node in view.ring.ranking(bucket) {
            if node == view.me {
                // A node that was given a lease may still answer for itself.
                let waits = lease_granted_ms > 0 && ms < lease_granted_ms + limits::PEER_LEASE_MS;
                let here = self.routes.core_of(hash) == self.core;
                return if waits && here { Direction::Later } else { Direction::Me };
            }
            match peers.reach(node, hash, buckets, ms) {
                Reach::There(link) if !is_told => return Direction::Node(link),
                Reach::There(_) => {}
                Reach::Unknown => return Direction::Later,
                Reach::Away => lease_granted_ms = lease_granted_ms.max(peers.node(node).lease_granted_ms),
            }
        }
        Direction::Me
    }

    /// Gives a request to another core of this node, where its key lives. The answer comes back here: what came behind it waits for it.
    fn move_to(&mut self, id: OperationId, core: ShardId) {
        self.cluster.operations.enter(id, OpState::Moved { core });
        self.cluster.to_cores.push_back((core, id));
    }

    fn forward(&mut self, id: OperationId, link: LinkId) {
        // Else woken when those that are under way have come back.
        let Some(follows) = self.cluster.operations.may_forward(id, link) else { return };
        let (stamp, ms) = (self.stamp(), self.ms);
        let Some(op) = self.cluster.operations.get(id) else { return };
        if op.kind != OpKind::Pure && ms >= op.deadline_ms {
            return self.too_late(id);
        }
        if op.kind != OpKind::Pure && !self.cluster.peers.may_execute(link, ms) {
            self.ask_clock(link);
            return self.cluster.operations.park(id);
        }
        if !self.cluster.peers.has_room(link) {
            return self.cluster.operations.park(id);
        }
        self.cluster.operations.enter(id, OpState::Forwarded { link });
        let Cluster { operations, peers, figures, view, .. } = &mut *self.cluster;
        let Some(op) = operations.get(id) else { return };
        figures.forwarded += 1;
        let (hops, life_ms) = (op.hops + 1, op.deadline_ms.saturating_sub(ms));
        op.sent_clock = stamp.clock;
        let (repeated_since, meta, value) = (op.repeated_since, op.stored.meta(), op.stored.value());
        let passed_on = match op.origin {
            Origin::Peer(PeerRequest { node: Some(node), .. }) => Some(view.nodes[usize::from(node.0)].node_hash),
            _ => None,
        };
        let command = Forward { hops, follows, life_ms, repeated_since, passed_on, meta, value };
        peers.execute(link, command, stamp, Purpose::Forward(id), ms);
    }

    /// This node answers for the key.
    fn coordinate(&mut self, id: OperationId) {
        self.cluster.active_ms = self.ms;
        let Some(op) = self.op(id) else { return };
        if op.scope == ReadScope::All || self.read_others(id) {
            self.run_in_turn(id);
        }
    }

    /// Asks the nodes that may hold something newer, or what is not here. True if there are none.
    fn read_others(&mut self, id: OperationId) -> bool {
        let links = self.with_command(id, |turn, execute| {
            let links = turn.choose_read_peers(id, &execute.command)?;
            if !links.is_empty() {
                turn.cluster.operations.enter(id, OpState::Reading { waiting: links.len() as u32 });
                let attempt = turn.cluster.operations.attempt(id);
                for &(node, link) in &links {
                    turn.fetch(link, &execute.command, Purpose::Read(attempt, node));
                }
            }
            Some(links)
        });
        if let Some(None) = links {
            self.try_at_next_tick(id);
        }
        links.is_none_or(|links| links.is_some_and(|links| links.is_empty()))
    }

    /// The peers that must be read; `None` if one of them is not known yet.
    fn choose_read_peers(
        &mut self,
        op: OperationId,
        command: &Command<'_>,
    ) -> Option<ArrayVec<(NodeIndex, LinkId), READ_PEERS_MAX>> {
        let before = std::mem::replace(&mut self.op(op)?.scope, ReadScope::All);
        if self.cluster.options.mistake == Some(Mistake::NoPeerReads) {
            return Some(ArrayVec::new());
        }
        let (hash, buckets, me, ms) = (command.key.hash, self.buckets(), self.me(), self.ms);
        let i_own = self.owns(me, hash);
        let is_repeated = self.op(op)?.repeated_since > 0;
        let lacks = (is_repeated || needs_present(command)) && !self.has_lost_nothing();
        let lacks = lacks && with_plain_key(command, |key| !self.engine.contains(key, self.now));
        if i_own && !lacks && self.cluster.peers.has_all_leases(ms) && !self.cluster.peers.is_missing(hash, buckets) {
            self.op(op)?.known_until_ms = self.cluster.peers.leases_until_ms();
            return Some(ArrayVec::new());
        }
        let mut known_until_ms = ms + limits::PEER_LEASE_MS;
        let bucket = self.bucket_of(hash);
        let Cluster { cache, view, peers, operations, .. } = &mut *self.cluster;
        let owners = cache.owners_of(&view.ring, bucket);
        let mut links = ArrayVec::<(NodeIndex, LinkId), READ_PEERS_MAX>::new();
        for node in view.ring.ranking(bucket).filter(|&node| node != me).take(READ_PEERS_MAX) {
            match peers.reach(node, hash, buckets, ms) {
                Reach::Away => {}
                Reach::Unknown => {
                    operations.get(op)?.scope = before;
                    return None;
                }
                Reach::There(link) => {
                    let may_be_stale = peers.may_be_stale(node, hash, buckets, ms);
                    if may_be_stale || !i_own || (lacks && owners.contains(&node)) {
                        links.push((node, link));
                    } else {
                        known_until_ms = known_until_ms.min(peers.lease_until_ms(node, hash, buckets));
                    }
                }
            }
        }
        operations.get(op)?.known_until_ms = known_until_ms;
        // Ask one other owner first: if it holds all leases, its answer is authoritative and nobody else need be asked.
        let mut others = owners.iter().filter(|&&owner| owner != me);
        if before == ReadScope::Nobody
            && i_own
            && links.len() > 1
            && let Some((owner, link)) = others.find_map(|&owner| Some((owner, peers.reach(owner, hash, buckets, ms).link()?)))
        {
            operations.get(op)?.scope = ReadScope::One;
            links.clear();
            links.push((owner, link));
        }
        Some(links)
    }

    pub(super) fn fetch(&mut self, link: LinkId, command: &Command<'_>, purpose: Purpose) {
        let (stamp, ms) = (self.stamp(), self.ms);
        self.cluster.figures.consulted += 1;
        let peers = &mut self.cluster.peers;
        with_plain_key(command, |key| {
            peers.request(link, (Kind::Fetch, 0), stamp, Value::EMPTY, purpose, ms, |output| frame::write_key(key, output));
        });
    }

    /// A request keeps its place, and is tried again at the next tick.
    fn try_at_next_tick(&mut self, id: OperationId) {
        self.cluster.operations.enter(id, OpState::Queued);
        self.cluster.operations.park(id);
    }

    /// All that were asked have answered, or never will.
    pub(super) fn read_answered(&mut self, id: OperationId) {
        match self.op(id).map(|op| op.scope) {
            Some(ReadScope::All) => self.run_in_turn(id),
            Some(ReadScope::One) => self.coordinate(id),
            Some(ReadScope::Nobody) => {
                // Something newer was told and there was no memory for it: asked again, when there is.
                self.try_at_next_tick(id);
            }
            None => {}
        }
    }

    /// Executes a command, once those before it on its key are.
    pub(super) fn run_in_turn(&mut self, id: OperationId) {
        if self.cluster.operations.may_execute(id) {
            return self.run(id);
        }
        self.cluster.operations.enter(id, OpState::Queued);
    }

    /// Executes the command on what is here.
    fn run(&mut self, id: OperationId) {
        let ms = self.ms;
        let Some(op) = self.op(id) else { return };
        if op.kind != OpKind::Pure && ms >= op.deadline_ms {
            return self.too_late(id);
        }
        if ms >= op.known_until_ms {
            // Asked again: this process may have stood still since.
            (op.scope, op.known_until_ms) = (ReadScope::Nobody, u64::MAX);
            return self.try_at_next_tick(id);
        }
        // What is written must be copied: later, where too much is on its way already.
        if !op.kind.is_read() && self.cluster.peers.is_full() {
            return self.try_at_next_tick(id);
        }
        let outcome = self.with_command(id, |turn, execute| match turn.may_repeat(id, &execute.command) {
            true => turn.execute(id, execute),
            false => Outcome::Overtaken,
        });
        match outcome.unwrap_or(Outcome::Done) {
            Outcome::Busy => self.try_at_next_tick(id),
            Outcome::Done => self.finish(id),
            Outcome::Overtaken => self.fail(id, Error::Interrupted),
            Outcome::Copy => {
                self.cluster.operations.enter(id, OpState::Writing { waiting: 0 });
                self.copy(id);
            }
        }
    }

    /// Whether a command that a node may have executed that has gone away may be executed again. Not if its key was written since by
    /// others: what they wrote would be overwritten by what came before it.
    fn may_repeat(&mut self, id: OperationId, command: &Command<'_>) -> bool {
        let Some(since) = self.op(id).map(|op| op.repeated_since).filter(|&since| since > 0) else { return true };
        with_plain_key(command, |plain| match (self.engine.copy_of(plain, self.now), command.verb) {
            (None, _) => true,
            (Some(replica), _) if replica.version <= since => true,
            (Some(replica), Verb::Delete(_)) => replica.tombstone,
            (Some(replica), Verb::Store(_)) => !replica.tombstone && replica.value.to_vec() == command.value.to_vec(),
            (Some(_), _) => false,
        })
    }

    fn execute(&mut self, id: OperationId, execute: &frame::Execute<'_>) -> Outcome {
        let Some(framing) = Head::from_bytes(&execute.framing) else { return Outcome::Done };
        let framing = Framing { head: framing, words: execute.words };
        let command = &execute.command;
        self.engine.poll_change();
        let before = self.engine.glance_for(self.observer, command, self.now);
        let mut reply = self.engine.execute(command, self.now);
        let Some(op) = self.cluster.operations.get(id) else { return Outcome::Done };
        if let Reply::Busy = reply {
            if self.ms < op.started_ms + limits::STARVED_MS_MAX - limits::STARVED_MS_MAX / 5 {
                return Outcome::Busy;
            }
            reply = Reply::Error(Error::OutOfMemory);
        }
        let absent = matches!((&command.verb, &reply), (Verb::Delete(delete), Reply::NotFound) if !delete.invalidate);
        if matches!((&command.verb, &reply), (Verb::Delete(_), Reply::NotFound)) && op.repeated_since > 0 {
            // Perhaps because it was executed before.
            reply = Reply::Error(Error::Interrupted);
        }
        let write = op.write_state();
        write.reply.clear();
        protocol::encode(&framing, command.key.bytes, &reply, &mut write.reply);
        self.counters.record(&command.verb, &reply);
        if self.observer.is_on() {
            let client = Client { descriptor: op.origin.descriptor(), meta: framing.head.is_meta() };
            self.observer.record(command, client, before, &reply, self.now);
        }
        let version = match self.engine.poll_change() {
            Some(version) => Some(version),
            // A node that is away may have what is to be deleted: its owner, or one that has stood in for it.
            None if absent && !self.cluster.peers.all_peers_up(self.ms) => {
                let version = self.engine.new_version(self.now);
                with_plain_key(command, |key| self.engine.delete_as_of(key, version, self.now));
                Some(version)
            }
            None => None,
        };
        let Some(version) = version else {
            self.repair(id, command);
            return Outcome::Done;
        };
        self.cluster.operations.note_repeated(id, version);
        let Some(op) = self.op(id) else { return Outcome::Done };
        let write = op.write_state();
        write.version = version;
        (write.may_be_seen, write.conflict) = (false, None);
        write.placed.clear();
        write.failed.clear();
        write.missing.clear();
        write.found.clear();
        Outcome::Copy
    }

    /// Sends what is here to the owners that were asked and had something older, unless the command has just changed it.
    fn repair(&mut self, id: OperationId, command: &Command<'_>) {
        let Some(op) = self.op(id) else { return };
        let found = std::mem::take(&mut op.write_state().found);
        for (node, version) in found {
            if !self.owns(node, command.key.hash) {
                continue;
            }
            let Reach::There(link) = self.cluster.peers.reach(node, command.key.hash, self.buckets(), self.ms) else {
                continue;
            };
            let (stamp, ms) = (self.stamp(), self.ms);
            let (peers, engine, figures, now) =
                (&mut self.cluster.peers, &mut *self.engine, &mut self.cluster.figures, self.now);
            with_plain_key(command, |key| {
                let Some(replica) = engine.copy_of(key, now).filter(|replica| replica.version > version) else { return };
                figures.repaired += 1;
                peers.request(link, (Kind::Put, 0), stamp, replica.value, Purpose::Repair, ms, |output| {
                    frame::write_replica(&replica, Along::default(), output);
                });
            });
        }
    }

    /// The answer goes out; the request lives on if something of it is still under way.
    pub(super) fn answer(&mut self, id: OperationId) {
        let Cluster { operations, outbox, .. } = &mut *self.cluster;
        let Some(op) = operations.get(id).filter(|op| !op.is_answered()) else { return };
        outbox.put(op.origin, &mut op.write_state().reply);
        operations.unchain(id);
    }

    pub(super) fn finish(&mut self, id: OperationId) {
        self.answer(id);
        self.end(id);
    }

    /// Ends a request that was answered, or whose sender hears otherwise.
    pub(super) fn end(&mut self, id: OperationId) {
        self.track_uncommitted(id, 0);
        self.unpin(id);
        self.cluster.operations.remove(id);
    }

    /// What a command left on a node that does not own the key goes, once all owners have it.
    fn unpin(&mut self, id: OperationId) {
        let Some(op) = self.op(id).filter(|op| op.write_state.as_ref().is_some_and(|write| write.is_pinned)) else { return };
        let hash = op.hash;
        if let Entry::Occupied(mut count) = self.cluster.fallback_pins.entry(hash) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.with_command(id, |turn, execute| {
            with_plain_key(&execute.command, |plain| turn.release_unowned(plain.bytes));
        });
    }

    /// Ends a request with an error.
    pub(super) fn fail(&mut self, id: OperationId, error: Error) {
        self.with_command(id, |turn, execute| {
            let Some(head) = Head::from_bytes(&execute.framing) else { return };
            let Some(op) = turn.op(id) else { return };
            let reply = &mut op.write_state().reply;
            reply.clear();
            let framing = Framing { head, words: execute.words };
            protocol::encode(&framing, execute.command.key.bytes, &Reply::Error(error), reply);
            turn.cluster.figures.failed += 1;
        });
        self.finish(id);
    }

    /// Its sender may have given a request up: it is not executed. Nor are those that came behind it before the sender knew that.
    fn too_late(&mut self, id: OperationId) {
        let followers = self.cluster.operations.followers(id);
        for id in std::iter::once(id).chain(followers) {
            let Some(op) = self.op(id) else { continue };
            match (op.origin, op.may_be_executed, op.state()) {
                (_, _, OpState::Writing { .. } | OpState::Forwarded { .. } | OpState::Moved { .. }) => {}
                // It was executed here, and lost to something newer.
                (_, true, _) => self.fail(id, Error::Interrupted),
                (Origin::Peer(from), false, _) => {
                    let (key_hash, mut frame) = (op.key_hash, Buffer::default());
                    self.refuse_key(from, key_hash, &mut frame);
                    self.cluster.outbox.put_frame(from, frame);
                    self.end(id);
                }
                (_, false, _) => self.fail(id, Error::Unreachable),
            }
        }
    }

    /// Calls `with` with the command of a request, which is taken out meanwhile, so that the rest can be used. `None` if the request has
    /// ended, or its command is elsewhere.
    pub(super) fn with_command<T>(
        &mut self,
        id: OperationId,
        with: impl FnOnce(&mut Self, &frame::Execute<'_>) -> T,
    ) -> Option<T> {
        let stored = std::mem::take(&mut self.op(id)?.stored);
        let result = stored.execute().ok().map(|execute| with(self, &execute));
        self.restore_command(id, stored);
        result
    }

    fn restore_command(&mut self, id: OperationId, stored: StoredCommand) {
        if let Some(op) = self.op(id) {
            op.stored = stored;
        }
    }

    /// Takes the command of a request out that goes to another core, with the ticket of its answer. `None` if it has ended.
    pub fn take_moved(&mut self, id: OperationId) -> Option<(Ticket, StoredCommand)> {
        let op = self.op(id).filter(|op| matches!(op.state(), OpState::Moved { .. }))?;
        Some((id.ticket(op.origin.descriptor()), std::mem::take(&mut op.stored)))
    }

    /// The other core has taken no command just now: it goes there later, before those behind it.
    pub fn put_back(&mut self, core: ShardId, id: OperationId, stored: StoredCommand) {
        self.restore_command(id, stored);
        self.cluster.to_cores.push_front((core, id));
    }

    /// The other core has answered a request that it was given.
    pub fn moved_answered(&mut self, id: OperationId, reply: &mut Buffer) {
        let Some(op) = self.op(id) else { return };
        let origin = op.origin;
        self.cluster.outbox.put(origin, reply);
        self.end(id);
        self.advance_woken();
    }
}

/// Calls `with` with the key in plain bytes.
pub(super) fn with_plain_key<T>(command: &Command<'_>, with: impl FnOnce(&Key<'_>) -> T) -> T {
    let mut buffer = [0; KEY_BYTES_MAX];
    match command.key.decode(&mut buffer) {
        Some(key) => with(&key),
        None => with(&command.key),
    }
}

/// Whether what a command does depends on what is there.
fn needs_present(command: &Command<'_>) -> bool {
    match command.verb {
        Verb::Store(store) => store.mode != StoreMode::Set || store.compare.is_some(),
        _ => true,
    }
}

/// What a command may do to its item.
pub(super) fn kind_of(verb: &Verb) -> OpKind {
    match verb {
        Verb::Get(get) if get.vivify.is_some() || get.recache.is_some() => OpKind::Once,
        Verb::Get(get) if get.touch.is_some() => OpKind::Write,
        // It may be told to fill a stale item, and nobody else is then.
        Verb::Get(get) if get.meta => OpKind::Read,
        Verb::Get(_) | Verb::Inspect => OpKind::Pure,
        Verb::Store(store) if store.mode != StoreMode::Set || store.compare.is_some() => OpKind::Once,
        Verb::Delete(delete) if delete.compare.is_some() => OpKind::Once,
        Verb::Arithmetic(_) => OpKind::Once,
        Verb::Store(_) | Verb::Delete(_) | Verb::Touch(_) => OpKind::Write,
    }
}

/// Nodes that a command may pass before it is executed: the first executes it or sends it on, the second executes it.
const HOPS_MAX: u8 = 2;
