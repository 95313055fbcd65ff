//! What this core does for the cores of other nodes.
//!
//! ```text
//!   EXECUTE --> at once if nobody else has a part in it, else as a request of its own; the answer follows          BATCH --> several
//!   PUT     --> merge, keep hints for the owners that lack it           FETCH --> what the key has here, or what an owner lacks of it
//!   SYNC    --> a lease, if that node knows of all that we hold for it            MISSING --> these keys may be stale until they have come
//!   FENCE   --> flush                BEGIN --> purge what is old, then say so                PURGED --> send what we have of that
//! ```
//!
//! Lives here: requests of peers. Not here: our own (`coordinate`), how frames come and go (`runtime::peer_socket`).

use arrayvec::ArrayVec;

use super::coordinate::{Passage, kind_of};
use super::links::Reach;
use super::operations::OpKind;
use super::{Mistake, Origin, PeerRequest, Turn};
use crate::buffer::Buffer;
use crate::command::{Replica, Reply, Value};
use crate::engine::Merge;
use crate::key::Key;
use crate::limits;
use crate::observe::Client;
use crate::peer::frame::{self, Along, Element, Execute, Frame, FrameError, Kind, PutDone};
use crate::peer::handshake::Identity;
use crate::placement::NodeIndex;
use crate::protocol::{self, Framing, Head};
use crate::routing::Place;

impl Turn<'_> {
    /// A node has shown who it is, over a connection of its own. Returns its place in the view, if it has one.
    pub fn on_inbound(&mut self, identity: &Identity) -> Option<NodeIndex> {
        let node = self.cluster.view.ring.index_of(&identity.id).filter(|&node| node != self.cluster.view.me)?;
        if self.cluster.peers.on_identity(node, identity) {
            self.on_lost_memory(node);
        }
        self.cluster.peers.on_contact(node, self.ms);
        Some(node)
    }

    /// Handles a request of a peer; what can be answered at once goes to `output`.
    ///
    /// # Errors
    /// It cannot be read: the connection must end.
    pub fn serve(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        self.observe_head(&frame.head);
        if let Some(node) = from.node {
            self.cluster.peers.on_contact(node, self.ms);
        }
        let result = self.serve_request(from, frame, output);
        self.advance_woken();
        result
    }

    fn serve_request(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        match frame.head.kind {
            Kind::Execute => {
                let (repeated_since, passed_on, meta) = frame::read_history(frame.head.flags, frame.meta, self.horizon())?;
                // Who sent it is there, though it may not have made contact so far: it may hold something newer for this node.
                if let Some(node) = passed_on.and_then(|node_hash| self.cluster.view.index_of_node_hash(node_hash)) {
                    self.cluster.peers.on_contact(node, self.ms);
                }
                let execute = frame::read_execute(meta, frame.value)?;
                let follows = frame.head.flags & frame::FLAG_FOLLOWS != 0;
                let passage = Passage { hops: frame.head.hops, deadline_ms: from.deadline_ms, follows, repeated_since };
                self.serve_execute(from, passage, &execute, output)
            }
            Kind::Batch => self.serve_batch(from, frame, output),
            Kind::Put => self.serve_put(from, frame, output),
            Kind::Fetch => self.serve_fetch(from, frame, output),
            Kind::Sync => {
                let committed_through = frame::read_version(frame.meta, self.horizon())?;
                self.cluster.uncommitted.commit_through(from, committed_through);
                self.done(from, self.engine.clock(), output);
                Ok(())
            }
            Kind::Fence => {
                let version = frame::read_version(frame.meta, self.horizon())?;
                let seen = version.max(self.engine.clock() + 1);
                if self.cluster.options.mistake != Some(Mistake::FenceSkipped) {
                    self.engine.raise_fence(version);
                }
                self.done(from, seen, output);
                Ok(())
            }
            Kind::Begin => self.serve_begin(from, frame, output),
            Kind::Purged => self.serve_purged(from, frame, output),
            Kind::Missing => self.serve_missing(from, frame, output),
            _ => Err(FrameError("an answer where a request was expected")),
        }
    }

    /// Partitions that a node is about to send whole: answered when what is old there is purged.
    fn serve_begin(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let Value::Bytes(mut list) = frame.value else { return Err(FrameError("a list beyond its bounds")) };
        if !self.cluster.purges.has_room() {
            self.refuse(from, output);
            return Ok(());
        }
        while let Some(partition) = frame::read_partition(&mut list, self.horizon())? {
            self.engine.raise_partition_fence(partition.number, partition.fence);
            self.cluster.purges.add(partition.number, partition.stale_through);
        }
        self.cluster.purges.answer_later(from);
        Ok(())
    }

    /// Partitions of which a node has purged what it had.
    fn serve_purged(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let Value::Bytes(mut list) = frame.value else { return Err(FrameError("a list beyond its bounds")) };
        while let Some(partition) = frame::read_partition(&mut list, self.horizon())? {
            if let Some(node) = from.node {
                self.send_again(node, partition.number);
            }
        }
        self.done(from, self.engine.clock(), output);
        Ok(())
    }

    /// Keys that are missing here and that a node has for us: only these may be stale.
    fn serve_missing(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let (Some(node), Value::Bytes(mut list)) = (from.node, frame.value) else {
            self.refuse(from, output);
            return Ok(());
        };
        let (buckets, horizon, mut taken) = (self.buckets(), self.horizon(), true);
        while let Some((hash, version)) = frame::read_lacking(&mut list, horizon)? {
            if self.cluster.options.mistake == Some(Mistake::MissingIgnored) {
                continue;
            }
            taken &= self.routes.core_of(hash) == self.core
                && self.cluster.peers.add_missing(node, (hash, version), buckets, self.ms);
        }
        match taken {
            true => self.done(from, self.engine.clock(), output),
            false => self.refuse(from, output),
        }
        Ok(())
    }

    /// Several commands: what they need is fetched for some of them at once, before the first is executed.
    fn serve_batch(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let Value::Bytes(mut batch) = frame.value else { return Err(FrameError("a batch beyond its bounds")) };
        for _ in 0..=frame::BATCH_COUNT_MAX / limits::BATCH_COMMANDS_MAX {
            let mut some = ArrayVec::<Element<'_>, { limits::BATCH_COMMANDS_MAX }>::new();
            while !some.is_full()
                && let Some(element) = frame::read_element(&mut batch)?
            {
                some.push(element);
            }
            if some.is_empty() {
                return Ok(());
            }
            if some.len() > 1 {
                self.engine.prepare(some.iter().map(|element| &element.execute.command.key));
            }
            for &Element { id, follows, ref execute } in &some {
                let (hops, deadline_ms) = (frame.head.hops, from.deadline_ms);
                let passage = Passage { hops, deadline_ms, follows, repeated_since: 0 };
                self.serve_execute(PeerRequest { id, ..from }, passage, execute, output)?;
            }
        }
        Err(FrameError("a batch beyond its bounds"))
    }

    fn serve_execute(
        &mut self,
        from: PeerRequest,
        passage: Passage,
        execute: &Execute<'_>,
        output: &mut Buffer,
    ) -> Result<(), FrameError> {
        let head = Head::from_bytes(&execute.framing).ok_or(FrameError("a framing of no protocol"))?;
        let command = &execute.command;
        // Who sent it has given it up by then, and perhaps had it executed elsewhere.
        let is_pure = kind_of(&command.verb) == OpKind::Pure;
        let too_late = !is_pure && self.ms >= from.deadline_ms;
        if too_late
            || self.routes.core_of(command.key.hash) != self.core
            || self.follows_refused(from, passage.follows, &command.key)
        {
            self.refuse_key(from, command.key.whole_hash(), output);
            return Ok(());
        }
        self.cluster.figures.served += 1;
        if passage.repeated_since == 0 && self.place(command) == Some(Place::Here) {
            let before = self.engine.glance_for(self.observer, command, self.now);
            let reply = self.engine.execute(command, self.now);
            if !matches!(reply, Reply::Busy) {
                let mut scratch = std::mem::take(&mut self.cluster.scratch);
                let framing = Framing { head, words: execute.words };
                protocol::encode(&framing, command.key.bytes, &reply, &mut scratch);
                self.counters.record(&command.verb, &reply);
                if self.observer.is_on() {
                    let client = Client { descriptor: 0, meta: head.is_meta() };
                    self.observer.record(command, client, before, &reply, self.now);
                }
                frame::write_reply(output, from.id, self.stamp(), &mut scratch);
                scratch.clear();
                self.cluster.scratch = scratch;
                return Ok(());
            }
        }
        let deadline_ms = if is_pure { u64::MAX } else { passage.deadline_ms };
        let passage = Passage { hops: passage.hops.max(1), deadline_ms, ..passage };
        if !self.take(Origin::Peer(from), passage, command, head, execute.words) {
            self.refuse_key(from, command.key.whole_hash(), output);
        }
        Ok(())
    }

    /// Whether a command was sent behind another one of its key that was refused, before its sender knew that.
    fn follows_refused(&mut self, from: PeerRequest, follows: bool, key: &Key<'_>) -> bool {
        if self.cluster.refused.is_empty() {
            return false;
        }
        let connection = (from.connection, from.generation);
        let Some(refused) = self.cluster.refused.get_mut(&connection) else { return false };
        if follows {
            return refused.contains(&key.whole_hash());
        }
        // Its sender has got back all that it had under way of this key.
        refused.remove(&key.whole_hash());
        if refused.is_empty() {
            self.cluster.refused.remove(&connection);
        }
        false
    }

    /// Refuses a command, and with it those of its key that its sender sends before it knows that.
    pub(super) fn refuse_key(&mut self, from: PeerRequest, key_hash: u64, output: &mut Buffer) {
        self.cluster.refused.entry((from.connection, from.generation)).or_default().insert(key_hash);
        self.refuse(from, output);
    }

    /// A connection of a peer has ended.
    pub fn peer_gone(&mut self, connection: u32, generation: u32) {
        self.cluster.refused.remove(&(connection, generation));
    }

    fn serve_put(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let mut put = frame::read_replica(frame.meta, frame.value, self.horizon())?;
        if self.routes.core_of(put.replica.key.hash) != self.core {
            self.refuse(from, output);
            return Ok(());
        }
        if self.cluster.options.mistake == Some(Mistake::HintWithoutVersion)
            && put.missing.is_empty()
            && frame.head.hops == REPLAYED
        {
            put.replica.version = self.engine.new_version(self.now);
        }
        if let Some(committed_through) = put.committed_through {
            self.cluster.uncommitted.commit_through(from, committed_through);
        }
        let done = match self.merge_past(&put.replica, put.exempt) {
            Merge::Taken => PutDone::Taken,
            Merge::Kept { version } => PutDone::Kept(version),
            Merge::Busy => PutDone::Busy,
        };
        if let Some(node) = from.node.filter(|_| done != PutDone::Busy) {
            let buckets = self.buckets();
            self.cluster.peers.forget_missing(node, put.replica.key.hash, put.replica.version, buckets);
        }
        if done == PutDone::Taken {
            self.overtaken(&put.replica.key);
            self.cluster.figures.copies_taken += 1;
            let (me, hash) = (self.me(), put.replica.key.hash);
            match put.missing.is_empty() {
                true if !self.owns(me, hash) => self.hint_owners(&put.replica),
                _ => self.hint_node_hashes(&put.replica, &put.missing),
            }
            if put.committed_through.is_some() && self.cluster.options.mistake != Some(Mistake::AllCommitted) {
                self.cluster.uncommitted.add(from, put.replica.version, put.replica.key.bytes, self.ms);
            }
        }
        frame::write(output, (Kind::PutDone, 0, 0, from.id), self.stamp(), Value::EMPTY, |meta| done.write(meta));
        Ok(())
    }

    /// Merges what has come from another node, unless something newer was here and has gone that others are still to hear of.
    pub(super) fn merge_past(&mut self, incoming: &Replica<'_>, exempt: bool) -> Merge {
        let newest = self.cluster.hints.newest(incoming.key.bytes);
        if newest > incoming.version && self.engine.copy_of(&incoming.key, self.now).is_none() {
            return Merge::Kept { version: newest };
        }
        self.engine.merge_past(incoming, self.now, exempt)
    }

    fn hint_node_hashes(&mut self, replica: &Replica<'_>, node_hashes: &[u64]) {
        let partition = self.partition_of(replica.key.hash);
        for &node_hash in node_hashes {
            match self.cluster.view.index_of_node_hash(node_hash) {
                Some(node) if node != self.cluster.view.me => {
                    self.cluster.hints.add(usize::from(node.0), replica.key.bytes, replica.version, partition, self.now);
                }
                _ => {}
            }
        }
    }

    /// What lies on a node that does not own it is there for its owners: a hint sees that they get it, and that it does not stay.
    pub(super) fn hint_owners(&mut self, replica: &Replica<'_>) {
        let partition = self.partition_of(replica.key.hash);
        let bucket = self.bucket_of(replica.key.hash);
        let owners = self.cluster.cache.owners_of(&self.cluster.view.ring, bucket);
        for owner in owners.iter().filter(|&&owner| owner != self.cluster.view.me) {
            self.cluster.hints.add(usize::from(owner.0), replica.key.bytes, replica.version, partition, self.now);
        }
    }

    fn serve_fetch(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        let key = frame::read_key(frame.meta)?;
        if self.routes.core_of(key.hash) != self.core {
            self.refuse(from, output);
            return Ok(());
        }
        let (flags, stamp) = (self.grant_lease(from) | self.authority_flag(&key), self.stamp());
        let head = (Kind::Found, flags, 0, from.id);
        let lacks = from.node.and_then(|node| self.lacked_by(node, &key));
        match self.engine.copy_of(&key, self.now) {
            Some(replica) => {
                frame::write(output, head, stamp, replica.value, |meta| frame::write_replica(&replica, Along::default(), meta));
            }
            // What that node lacks was here and has gone: it must not take what it has for the newest.
            None => match lacks {
                Some(version) => {
                    let replica = self.engine.tombstone(key, version, self.now);
                    frame::write(output, head, stamp, Value::EMPTY, |meta| {
                        frame::write_replica(&replica, Along::default(), meta)
                    });
                }
                None => frame::write(output, head, stamp, Value::EMPTY, |_| {}),
            },
        }
        Ok(())
    }

    /// The flag that says that this node's answer is authoritative: what it has of a key is the newest there is.
    fn authority_flag(&mut self, key: &Key<'_>) -> u8 {
        let me = self.me();
        let authoritative = self.cluster.peers.all_peers_up(self.ms)
            && !self.cluster.peers.is_missing(key.hash, self.buckets())
            && self.owns(me, key.hash)
            && (self.has_lost_nothing() || self.engine.copy_of(key, self.now).is_some());
        if authoritative || self.cluster.options.mistake == Some(Mistake::AlwaysAuthoritative) {
            frame::FLAG_AUTHORITATIVE
        } else {
            0
        }
    }

    /// Version of this key that a node lacks, or may lack, as far as is known here.
    fn lacked_by(&self, node: NodeIndex, key: &Key<'_>) -> Option<u64> {
        let hint = self.cluster.hints.get(usize::from(node.0), key.bytes).map(|hint| hint.version);
        let dirty = self.cluster.hints.target(usize::from(node.0)).dirty_version(self.partition_of(key.hash));
        let dirty = dirty.filter(|_| !self.has_all_for(node));
        // That version itself is what is lacking, and no reason to drop it where it has arrived by another way.
        hint.or(dirty).and_then(|version| version.checked_sub(1)).filter(|&version| version > 0)
    }

    /// Whether everything that came for a node since its first partition became dirty is still here.
    pub(super) fn has_all_for(&self, node: NodeIndex) -> bool {
        self.engine.evicted_count() == self.cluster.hints.target(usize::from(node.0)).evicted_before
    }

    /// The flags that grant a lease to a node, if it can be granted: nothing is held for it that it does not know of, and it is not
    /// away for us.
    fn grant_lease(&mut self, from: PeerRequest) -> u8 {
        let Some(node) = from.node else { return 0 };
        let index = usize::from(node.0);
        let (target, handoff) = (self.cluster.hints.target(index), &self.cluster.handoffs[index]);
        let clean = self.cluster.hints.is_clean(index) && handoff.is_idle();
        let announced = target.all_announced() && target.dirty_count() == 0 && handoff.has_announced_missing();
        let away = self.cluster.peers.reach(node, self.own_hash(), self.buckets(), self.ms) == Reach::Away;
        if !(clean || announced) || away {
            return 0;
        }
        self.cluster.peers.node_mut(node).lease_granted_ms = self.ms;
        frame::FLAG_SYNCED | if clean { frame::FLAG_CLEAN } else { 0 }
    }

    fn done(&mut self, from: PeerRequest, version: u64, output: &mut Buffer) {
        let flags = self.grant_lease(from);
        frame::write(output, (Kind::Done, flags, 0, from.id), self.stamp(), Value::EMPTY, |meta| {
            frame::write_version(version, meta);
        });
    }

    fn refuse(&mut self, from: PeerRequest, output: &mut Buffer) {
        frame::write(output, (Kind::Refused, 0, 0, from.id), self.stamp(), Value::EMPTY, |_| {});
    }
}

/// `hops` of a `Put` that replays a hint or repairs: told apart from a new write only by tests.
pub(super) const REPLAYED: u8 = 1;
