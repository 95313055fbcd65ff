//! From a command to its answer where more than one node has a part in it.
//!
//! ```text
//!   submit --> who is the first in the ranking that is there?
//!                another node  --> forward: EXECUTE over the link, its answer is the answer
//!                this one      --> coordinate:   consult --> execute --> copies --> answer
//!                                                |           |           |
//!                              others may hold something     engine      state, not operation, to the first `redundancy`
//!                              newer, or what we lack                    nodes that are there; hints for owners that are not
//! ```
//!
//! At most two nodes are passed: the one that the client is at, and one more whose belief about who is there differs; the second executes
//! whatever it believes. A command that may have been executed by a node that went away is not executed again if that could
//! count it twice.
//!
//! Lives here: the life of one request. Not here: requests of others (`serve`), what is sent later (`handoff`), flushes (`flush`), links (`peers`).
//! After Dynamo (SOSP'07, 4.5 and 4.6), with one coordinator a key: the first of its ranking that is there.

use std::collections::hash_map::Entry;

use arrayvec::ArrayVec;

use super::Place;
use super::peers::{LinkId, Reach};
use super::ringed::{Desk, Held, Mistake, Origin};
use crate::buffer::Buffer;
use crate::cluster::wire::{self, Along, Frame, Garbled, Kind};
use crate::command::{Command, Error, Get, Reply, StoreMode, Value, Verb};
use crate::engine::Merge;
use crate::key::Key;
use crate::limits::{self, KEY_BYTES_MAX};
use crate::observe::Client;
use crate::protocol::{self, Framing, Head};
use crate::ring::{NodeIndex, REDUNDANCY_MAX};

/// Nodes that are asked for one key at most.
pub(super) const CONSULTED_MAX: usize = 32;
/// Emptied commands kept, and how long they may have been.
const SPARE_MAX: usize = 1024;
const SPARE_BYTES_MAX: usize = 2048;

/// Names a request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpKey {
    pub(super) index: u32,
    serial: u32,
}

/// What a response is for.
#[derive(Debug)]
pub enum What {
    /// The whole command.
    Forward(OpKey),
    /// What a node has of the key.
    Consult(OpKey, NodeIndex),
    /// A copy of what a command wrote.
    Copy(OpKey, NodeIndex),
    /// A copy for a node whose own was older.
    Repair,
    /// Only its word.
    Sync,
    /// A flush: round 1 or 2.
    Fence(OpKey),
    /// A hint.
    Replay(Sent),
    /// An item of a dirty partition.
    Stream(Sent),
    /// The announcement of a dirty partition.
    Begin(NodeIndex, u32),
    /// Keys that a node lacks.
    List(NodeIndex, u32),
    /// Word of a partition whose old items were dropped here.
    Lost(NodeIndex, u32, u32),
}

/// An item under way to a node that lacks it.
#[derive(Debug)]
pub struct Sent {
    /// The node.
    pub node: NodeIndex,
    /// The key.
    pub key: Box<[u8]>,
    /// The version sent.
    pub version: u64,
    /// See `Handoff::era`.
    pub era: u32,
}

/// A request under way.
pub struct Op {
    serial: u32,
    origin: Origin,
    hops: u8,
    pub(super) hash: u64,
    held: Held,
    started_ms: u64,
    /// Responses awaited.
    pub(super) awaiting: u32,
    pub(super) phase: Phase,
    consulted: Consulted,
    pub(super) conflicts: u8,
    answered: bool,
    /// What only a request has that is coordinated here.
    pub(super) work: Option<Box<Work>>,
}

/// What becomes of a request that is coordinated here.
#[derive(Default)]
pub(super) struct Work {
    /// Version of what the command wrote.
    pub version: u64,
    /// Where copies of it go to more than one node: that version, noted as under way.
    pub noted: u64,
    /// The answer, once the command has been executed.
    pub reply: Buffer,
    /// Nodes that failed to take a copy.
    pub failed: ArrayVec<NodeIndex, CONSULTED_MAX>,
    /// Nodes that have the copy.
    pub placed: ArrayVec<NodeIndex, REDUNDANCY_MAX>,
    /// Owners that lack it.
    pub missing: ArrayVec<NodeIndex, REDUNDANCY_MAX>,
    /// What it wrote lies on this node though it does not own the key: counted among the guests.
    pub is_guest: bool,
    /// What nodes had when they were asked.
    found: ArrayVec<(NodeIndex, u64), CONSULTED_MAX>,
}

impl Op {
    pub(super) fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }
}

/// Who was asked what it has of the key, before the command is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consulted {
    Nobody,
    /// One that is probably sure; if it is not, all are asked.
    One,
    /// Who had to be.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not begun, or to begin again.
    New,
    /// Another node has it.
    Forwarded,
    /// Others are asked for the key.
    Consulting,
    /// A newer item is fetched before the command starts again.
    Conflict,
    /// Executed; copies are under way.
    Copying,
    /// A flush of the whole ring.
    Fencing { round: u8 },
}

/// Who goes on with a request.
enum Direction {
    Me,
    Node(LinkId),
    /// Something must become known first, or a lease must end.
    Later,
}

impl Desk<'_> {
    /// Where a command is executed that can be executed at once, without asking or telling anybody; `None` if it cannot.
    #[inline]
    pub fn place(&mut self, command: &Command<'_>) -> Option<Place> {
        let bucket = self.bucket_of(command.key.hash);
        let ring = &mut *self.ring;
        let owners = ring.cache.owners_of(&ring.view.ring, bucket);
        if owners.first() != Some(&ring.view.me) {
            return None;
        }
        let core = self.routes.core_of(command.key.hash);
        if core != self.core {
            return Some(Place::Core(core));
        }
        ring.active_ms = self.ms;
        if !ring.peers.is_calm(self.ms) || ring.peers.is_listed(command.key.hash, ring.view.ring.buckets()) {
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

    /// Whether what is not here is nowhere: with the others' word, and nothing evicted.
    pub(super) fn has_lost_nothing(&self) -> bool {
        self.engine.evicted_count() == 0 && !self.ring.drops.has_dropped() && self.ring.peers.is_calm(self.ms)
    }

    /// Takes over a request; its answer will be in the outbox. False if too much is under way: ask again later.
    pub fn submit(&mut self, origin: Origin, hops: u8, command: &Command<'_>, framing: Head, words: &[u8]) -> bool {
        if self.ring.ops.len() >= limits::PEER_OPERATIONS_MAX || self.ring.held_bytes >= limits::PEER_OPERATIONS_BYTES_MAX {
            return false;
        }
        let mut held = self.ring.spare.pop().unwrap_or_default();
        held.keep(command, framing, words);
        let key = self.insert(origin, hops, command.key.hash, held, Phase::New);
        self.advance(key);
        true
    }

    pub(super) fn insert(&mut self, origin: Origin, hops: u8, hash: u64, held: Held, phase: Phase) -> OpKey {
        self.ring.serial = self.ring.serial.wrapping_add(1);
        let serial = self.ring.serial;
        self.ring.held_bytes += held.bytes_count();
        let index = self.ring.ops.insert(Op {
            serial,
            origin,
            hops,
            hash,
            held,
            started_ms: self.ms,
            awaiting: 0,
            phase,
            consulted: Consulted::Nobody,
            conflicts: 0,
            answered: false,
            work: None,
        });
        OpKey { index: index as u32, serial }
    }

    pub(super) fn op(&mut self, key: OpKey) -> Option<&mut Op> {
        self.ring.ops.get_mut(key.index as usize).filter(|op| op.serial == key.serial)
    }

    /// Goes on with a request from the beginning.
    fn advance(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        let (hash, hops) = (op.hash, op.hops);
        match self.direct(hash, hops) {
            Direction::Later => self.ring.parked.push(key),
            Direction::Node(link) => self.forward(key, link),
            Direction::Me => match self.routes.core_of(hash) {
                core if core == self.core => self.coordinate(key),
                core => self.ring.to_cores.push((core, key)),
            },
        }
    }

    fn direct(&mut self, hash: u64, hops: u8) -> Direction {
        if hops >= HOPS_MAX {
            return Direction::Me;
        }
        let bucket = self.bucket_of(hash);
        // Most of the time the first owner is another node, and there.
        let ring = &mut *self.ring;
        let first = ring.cache.owners_of(&ring.view.ring, bucket).first().copied();
        if let Some(first) = first.filter(|&first| first != ring.view.me)
            && let Reach::There(link) = ring.peers.reach(first, hash, ring.view.ring.buckets(), self.ms)
        {
            return Direction::Node(link);
        }
        let view = ring.view.clone();
        let mut granted_ms = 0;
        for node in view.ring.ranking(bucket) {
            if node == view.me {
                // Who was given our word may still answer for itself.
                let waits = granted_ms > 0 && self.ms < granted_ms + limits::PEER_LEASE_MS;
                let here = self.routes.core_of(hash) == self.core;
                return if waits && here { Direction::Later } else { Direction::Me };
            }
            match self.ring.peers.reach(node, hash, self.buckets(), self.ms) {
                Reach::There(link) => return Direction::Node(link),
                Reach::Unknown => return Direction::Later,
                Reach::Away => granted_ms = granted_ms.max(self.ring.peers.node(node).granted_ms),
            }
        }
        Direction::Me
    }

    fn forward(&mut self, key: OpKey, link: LinkId) {
        if !self.ring.peers.has_room(link) {
            self.ring.parked.push(key);
            return;
        }
        let stamp = self.stamp();
        let (ring, ms) = (&mut *self.ring, self.ms);
        let op = &mut ring.ops[key.index as usize];
        (op.phase, op.awaiting) = (Phase::Forwarded, 1);
        ring.figures.forwarded += 1;
        let held = &op.held;
        ring.peers.execute(link, op.hops + 1, stamp, (held.meta(), held.value()), What::Forward(key), ms);
    }

    /// This node answers for the key.
    fn coordinate(&mut self, key: OpKey) {
        self.ring.active_ms = self.ms;
        let Some(op) = self.op(key) else { return };
        op.phase = Phase::New;
        if op.consulted != Consulted::All && !self.consult(key) {
            return;
        }
        self.run(key);
    }

    /// Asks the nodes that may hold something newer, or what is not here. False if there are such, or they must become known first.
    fn consult(&mut self, key: OpKey) -> bool {
        let held = self.lend(key);
        let links = match held.execute() {
            Ok(execute) => {
                let links = self.whom_to_ask(key, &execute.command);
                for &(node, link) in links.iter().flatten() {
                    self.fetch(link, &execute.command, What::Consult(key, node));
                }
                links
            }
            Err(_) => Some(ArrayVec::new()),
        };
        self.give_back(key, held);
        let Some(links) = links else {
            self.ring.parked.push(key);
            return false;
        };
        let Some(op) = self.op(key) else { return false };
        op.awaiting = links.len() as u32;
        op.phase = if links.is_empty() { Phase::New } else { Phase::Consulting };
        links.is_empty()
    }

    /// Who must be asked; `None` if one of them is not known yet.
    fn whom_to_ask(&mut self, op: OpKey, command: &Command<'_>) -> Option<ArrayVec<(NodeIndex, LinkId), CONSULTED_MAX>> {
        let before = std::mem::replace(&mut self.op(op)?.consulted, Consulted::All);
        if self.ring.options.mistake == Some(Mistake::NoDoubt) {
            return Some(ArrayVec::new());
        }
        let (hash, buckets, me) = (command.key.hash, self.buckets(), self.me());
        let i_own = self.owns(me, hash);
        let lacks = needs_present(command) && !self.has_lost_nothing();
        let lacks = lacks && with_plain_key(command, |key| !self.engine.contains(key, self.now));
        if i_own && !lacks && self.ring.peers.is_calm(self.ms) && !self.ring.peers.is_listed(hash, buckets) {
            return Some(ArrayVec::new());
        }
        let (view, bucket) = (self.ring.view.clone(), self.bucket_of(hash));
        let owners = self.ring.cache.owners_of(&view.ring, bucket);
        let mut links = ArrayVec::<(NodeIndex, LinkId), CONSULTED_MAX>::new();
        for node in view.ring.ranking(bucket).filter(|&node| node != me).take(CONSULTED_MAX) {
            match self.ring.peers.reach(node, hash, buckets, self.ms) {
                Reach::Away => {}
                Reach::Unknown => {
                    self.op(op)?.consulted = before;
                    return None;
                }
                Reach::There(link) => {
                    let doubted = self.ring.peers.is_doubted(node, hash, buckets, self.ms);
                    if doubted || !i_own || (lacks && owners.contains(&node)) {
                        links.push((node, link));
                    }
                }
            }
        }
        // Another owner that has everybody's word knows what all others could tell.
        let mut others = owners.iter().filter(|&&owner| owner != me);
        if before == Consulted::Nobody
            && i_own
            && links.len() > 1
            && let Some((owner, link)) =
                others.find_map(|&owner| Some((owner, self.ring.peers.reach(owner, hash, buckets, self.ms).link()?)))
        {
            self.op(op)?.consulted = Consulted::One;
            links.clear();
            links.push((owner, link));
        }
        Some(links)
    }

    pub(super) fn fetch(&mut self, link: LinkId, command: &Command<'_>, what: What) {
        let (stamp, ms) = (self.stamp(), self.ms);
        self.ring.figures.consulted += 1;
        let peers = &mut self.ring.peers;
        with_plain_key(command, |key| {
            peers.request(link, (Kind::Fetch, 0), stamp, Value::EMPTY, what, ms, |output| wire::write_key(key, output));
        });
    }

    /// Executes the command on what is here.
    pub(super) fn run(&mut self, key: OpKey) {
        let held = self.lend(key);
        let outcome = match held.execute() {
            Ok(execute) => self.execute(key, &execute),
            Err(_) => Outcome::Done,
        };
        self.give_back(key, held);
        match outcome {
            Outcome::Busy => self.ring.parked.push(key),
            Outcome::Done => self.finish(key),
            Outcome::Copy => self.copy(key),
        }
    }

    fn execute(&mut self, key: OpKey, execute: &wire::Execute<'_>) -> Outcome {
        let Some(framing) = Head::from_bytes(&execute.framing) else { return Outcome::Done };
        let framing = Framing { head: framing, words: execute.words };
        let command = &execute.command;
        self.engine.take_change();
        let before = super::glance(self.observer, self.engine, command, self.now);
        let mut reply = self.engine.execute(command, self.now);
        let op = &mut self.ring.ops[key.index as usize];
        if let Reply::Busy = reply {
            if self.ms < op.started_ms + limits::STARVED_MS_MAX - limits::STARVED_MS_MAX / 5 {
                return Outcome::Busy;
            }
            reply = Reply::Error(Error::OutOfMemory);
        }
        let work = op.work();
        work.reply.clear();
        protocol::encode(&framing, command.key.bytes, &reply, &mut work.reply);
        self.counters.record(&command.verb, &reply);
        if self.observer.is_on() {
            let client = Client { descriptor: op.origin.descriptor(), meta: framing.head.is_meta() };
            self.observer.record(command, client, before, &reply, self.now);
        }
        let absent = matches!((&command.verb, &reply), (Verb::Delete(delete), Reply::NotFound) if !delete.invalidate);
        let version = match self.engine.take_change() {
            Some(version) => Some(version),
            // An owner that is away may have what is to be deleted.
            None if absent && self.somebody_is_away(command.key.hash) => {
                let version = self.engine.new_version(self.now);
                with_plain_key(command, |key| self.engine.bury(key, version, self.now));
                Some(version)
            }
            None => None,
        };
        let Some(version) = version else {
            self.repair(key, command);
            return Outcome::Done;
        };
        let Some(op) = self.op(key) else { return Outcome::Done };
        let work = op.work();
        work.version = version;
        work.placed.clear();
        work.failed.clear();
        work.missing.clear();
        work.found.clear();
        Outcome::Copy
    }

    fn somebody_is_away(&mut self, hash: u64) -> bool {
        let (bucket, buckets, me) = (self.bucket_of(hash), self.buckets(), self.me());
        let owners = self.ring.cache.owners_of(&self.ring.view.ring, bucket);
        owners.iter().any(|&owner| owner != me && self.ring.peers.is_away(owner, hash, buckets))
    }

    /// Sends what is here to the owners that were asked and had something older, unless the command has just changed it.
    fn repair(&mut self, key: OpKey, command: &Command<'_>) {
        let found = std::mem::take(&mut self.ring.ops[key.index as usize].work().found);
        for (node, version) in found {
            if !self.owns(node, command.key.hash) {
                continue;
            }
            let Reach::There(link) = self.ring.peers.reach(node, command.key.hash, self.buckets(), self.ms) else { continue };
            let (stamp, ms) = (self.stamp(), self.ms);
            let (peers, engine, figures, now) = (&mut self.ring.peers, &mut *self.engine, &mut self.ring.figures, self.now);
            with_plain_key(command, |key| {
                let Some(replica) = engine.copy_of(key, now).filter(|replica| replica.version > version) else { return };
                figures.repaired += 1;
                peers.request(link, (Kind::Put, 0), stamp, replica.value, What::Repair, ms, |output| {
                    wire::write_replica(&replica, Along::default(), output);
                });
            });
        }
    }

    /// The answer goes out; the request lives on if something of it is still under way.
    pub(super) fn answer(&mut self, key: OpKey) {
        let ring = &mut *self.ring;
        let Some(op) = ring.ops.get_mut(key.index as usize).filter(|op| op.serial == key.serial && !op.answered) else {
            return;
        };
        op.answered = true;
        ring.outbox.put(op.origin, &mut op.work().reply);
    }

    pub(super) fn finish(&mut self, key: OpKey) {
        self.answer(key);
        self.note(key, 0);
        self.depart(key);
        if let Some((_, held)) = self.surrender(key) {
            self.keep(held);
        }
    }

    /// What a command left on a node that does not own the key goes, once all owners have it.
    fn depart(&mut self, key: OpKey) {
        let Some(op) = self.op(key).filter(|op| op.work.as_ref().is_some_and(|work| work.is_guest)) else { return };
        let hash = op.hash;
        if let Entry::Occupied(mut count) = self.ring.guests.entry(hash) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        let held = self.lend(key);
        if let Ok(execute) = held.execute() {
            with_plain_key(&execute.command, |plain| self.let_go(plain.bytes));
        }
        self.give_back(key, held);
    }

    fn keep(&mut self, mut held: Held) {
        if self.ring.spare.len() < SPARE_MAX && held.bytes_count() <= SPARE_BYTES_MAX {
            held.clear();
            self.ring.spare.push(held);
        }
    }

    /// Ends a request with an error.
    fn fail(&mut self, key: OpKey, error: Error) {
        let held = self.lend(key);
        if let Ok(execute) = held.execute()
            && let Some(head) = Head::from_bytes(&execute.framing)
            && let Some(op) = self.op(key)
        {
            let reply = &mut op.work().reply;
            reply.clear();
            let framing = Framing { head, words: execute.words };
            protocol::encode(&framing, execute.command.key.bytes, &Reply::Error(error), reply);
            self.ring.figures.failed += 1;
        }
        self.give_back(key, held);
        self.finish(key);
    }

    /// Takes the command out, so that the rest can be used meanwhile; `give_back` returns it.
    pub(super) fn lend(&mut self, key: OpKey) -> Held {
        self.op(key).map(|op| std::mem::take(&mut op.held)).unwrap_or_default()
    }

    /// See `lend`.
    pub(super) fn give_back(&mut self, key: OpKey, held: Held) {
        if let Some(op) = self.op(key) {
            op.held = held;
        }
    }

    /// A response to a request of this core.
    ///
    /// # Errors
    /// It is no response to anything, or cannot be read: the link must end.
    pub fn response(&mut self, link: LinkId, frame: &Frame<'_>) -> Result<(), Garbled> {
        self.hear(&frame.head)?;
        let Some(awaited) = self.ring.peers.answered(link, frame.head.id, self.ms) else {
            return Err(Garbled("an answer that nobody waits for"));
        };
        let synced = frame.head.flags & wire::FLAG_SYNCED != 0;
        if matches!(frame.head.kind, Kind::Found | Kind::Done) {
            match synced {
                true => {
                    self.ring.peers.lease(link, awaited.sent_ms, self.ms);
                    if frame.head.flags & wire::FLAG_CLEAN != 0 {
                        self.ring.peers.unlist_all(link, awaited.sent_ms);
                    }
                }
                false if matches!(awaited.what, What::Consult(..) | What::Sync) => self.ring.peers.end_lease(link),
                false => {}
            }
        }
        match awaited.what {
            What::Forward(key) => self.forwarded(key, frame),
            What::Consult(key, node) => return self.told(key, node, frame),
            What::Copy(key, node) => return self.copied(key, node, frame),
            What::Fence(key) => return self.fenced(key, frame),
            What::Repair | What::Sync => {}
            What::Replay(sent) => return self.replayed(&sent, frame, awaited.sent_ms),
            What::Stream(sent) => return self.streamed(&sent, frame, awaited.sent_ms),
            What::Begin(node, era) => self.begun(node, era, frame.head.kind == Kind::Done),
            What::List(node, era) => self.listed(node, era, frame.head.kind == Kind::Done),
            What::Lost(node, partition, era) => self.told_lost(node, partition, era, frame.head.kind == Kind::Done),
        }
        Ok(())
    }

    fn forwarded(&mut self, key: OpKey, frame: &Frame<'_>) {
        let Some(op) = self.op(key) else { return };
        if frame.head.kind != Kind::Reply {
            (op.awaiting, op.phase) = (0, Phase::New);
            self.ring.parked.push(key);
            return;
        }
        if let Value::Bytes(bytes) = frame.value
            && !op.answered
        {
            let origin = op.origin;
            op.answered = true;
            self.ring.outbox.put_bytes(origin, bytes);
        } else if let Value::Body(body) = frame.value {
            op.work().reply.put_body(body.clone());
        }
        self.finish(key);
    }

    /// A node has told what it has of a key.
    fn told(&mut self, key: OpKey, node: NodeIndex, frame: &Frame<'_>) -> Result<(), Garbled> {
        let mut version = 0;
        if frame.head.kind == Kind::Found && !frame.meta.is_empty() {
            let put = wire::read_replica(frame.meta, frame.value)?;
            version = put.replica.version;
            let (hash, buckets) = (put.replica.key.hash, self.buckets());
            let taken = self.engine.merge(&put.replica, self.now);
            if taken == Merge::Busy {
                // Asked again, when there is memory.
                if let Some(op) = self.op(key) {
                    op.consulted = Consulted::Nobody;
                }
            }
            if taken != Merge::Busy {
                self.ring.peers.unlist(node, hash, version, buckets);
            }
            let me = self.me();
            if taken == Merge::Taken && !self.owns(me, hash) {
                self.hint_owners(&put.replica);
            }
        }
        let Some(op) = self.op(key) else { return Ok(()) };
        if frame.head.flags & wire::FLAG_SURE != 0 && op.consulted == Consulted::One {
            op.consulted = Consulted::All;
        }
        let _ = op.work().found.try_push((node, version));
        self.asked(key);
        Ok(())
    }

    /// One of those that were asked has answered, or never will.
    fn asked(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        op.awaiting = op.awaiting.saturating_sub(1);
        if op.awaiting > 0 {
            return;
        }
        match op.phase {
            Phase::Conflict => self.start_again(key),
            _ => match op.consulted {
                Consulted::All => self.run(key),
                Consulted::One => self.coordinate(key),
                Consulted::Nobody => self.ring.parked.push(key),
            },
        }
    }

    /// Something that was under way over a link is lost. `sent`: it may have arrived.
    pub(super) fn lost(&mut self, what: What, sent: bool) {
        match what {
            What::Forward(key) => {
                let Some(op) = self.op(key) else { return };
                (op.awaiting, op.phase) = (0, Phase::New);
                let twice = op.held.execute().is_ok_and(|execute| counts_twice(&execute.command.verb));
                if sent && twice {
                    self.fail(key, Error::Interrupted);
                } else {
                    self.advance(key);
                }
            }
            What::Consult(key, _) => self.asked(key),
            What::Copy(key, node) => {
                if let Some(op) = self.op(key) {
                    op.awaiting = op.awaiting.saturating_sub(1);
                    _ = self.uncopied(key, node);
                }
            }
            What::Fence(key) => self.unfenced(key),
            What::Repair | What::Sync => {}
            What::Replay(sent) => {
                self.ring.hints.again(usize::from(sent.node.0), &sent.key);
                self.undelivered(sent.node, sent.era);
            }
            What::Stream(sent) => {
                self.fail_transfer(sent.node);
                self.undelivered(sent.node, sent.era);
            }
            What::Begin(node, era) => self.begun(node, era, false),
            // The link is lost, and with it what was said over it.
            What::List(node, era) => self.listed(node, era, true),
            What::Lost(node, partition, era) => self.told_lost(node, partition, era, false),
        }
    }

    /// Goes on with what was parked, and ends what is too old.
    pub(super) fn retry(&mut self) {
        let parked = std::mem::take(&mut self.ring.parked);
        for &key in &parked {
            let Some(op) = self.op(key) else { continue };
            match op.phase {
                Phase::Copying => self.copy(key),
                Phase::Fencing { .. } => self.send_fences(key),
                _ => self.advance(key),
            }
        }
        if self.ms < self.ring.swept_ms + SWEEP_MS {
            return;
        }
        self.ring.swept_ms = self.ms;
        let old = |op: &Op| self.ms >= op.started_ms + limits::PEER_OPERATION_MS_MAX;
        let old: Vec<OpKey> = self
            .ring
            .ops
            .iter()
            .filter(|(_, op)| old(op))
            .map(|(index, op)| OpKey { index: index as u32, serial: op.serial })
            .collect();
        for key in old {
            let Some(op) = self.op(key) else { continue };
            match op.phase {
                Phase::Copying => self.abandon(key),
                Phase::Fencing { .. } => self.finish(key),
                Phase::Forwarded => self.fail(key, Error::Interrupted),
                _ => self.fail(key, Error::Unreachable),
            }
        }
    }

    /// Ends a request, or gives it up to another core: its command and who asked.
    pub fn surrender(&mut self, key: OpKey) -> Option<(Origin, Held)> {
        self.op(key)?;
        let op = self.ring.ops.remove(key.index as usize);
        self.ring.held_bytes -= op.held.bytes_count();
        Some((op.origin, op.held))
    }

    /// Puts back what could not be given up just now.
    pub fn take_back(&mut self, origin: Origin, hash: u64, held: Held) {
        let key = self.insert(origin, 0, hash, held, Phase::New);
        self.ring.parked.push(key);
    }

    /// Takes note of what every frame says.
    ///
    /// # Errors
    /// A clock further ahead than any that we talk to.
    pub(super) fn hear(&mut self, head: &wire::Head) -> Result<(), Garbled> {
        let latest_ms = self.now.unix_ms + 2 * limits::PEER_CLOCK_SKEW_MS_MAX;
        if (head.clock.max(head.fence)) >> 16 > latest_ms {
            return Err(Garbled("a clock far ahead of ours"));
        }
        self.engine.observe(head.clock);
        if self.ring.options.mistake != Some(Mistake::FenceSkipped) {
            self.engine.raise_fence(head.fence);
        }
        Ok(())
    }
}

enum Outcome {
    Done,
    Busy,
    Copy,
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

/// Whether a command that is executed twice does something else than once.
fn counts_twice(verb: &Verb) -> bool {
    match verb {
        Verb::Get(get) => get.vivify.is_some() || get.recache.is_some() || get.meta,
        Verb::Store(store) => store.mode != StoreMode::Set || store.compare.is_some(),
        Verb::Delete(delete) => delete.compare.is_some(),
        Verb::Arithmetic(_) => true,
        Verb::Touch(_) | Verb::Inspect => false,
    }
}

/// Nodes that a command may pass before it is executed: the first executes it or sends it on, the second executes it.
const HOPS_MAX: u8 = 2;
/// How often old requests are looked for, in milliseconds.
const SWEEP_MS: u64 = 100;
