//! What this core does for the cores of other nodes.
//!
//! ```text
//!   EXECUTE --> at once if nobody else has a part in it, else as a request of its own; the answer follows          BATCH --> several
//!   PUT     --> merge, keep hints for the owners that lack it           FETCH --> what the key has here, or what an owner lacks of it
//!   SYNC    --> our word, if that node knows of all that we hold for it           LIST --> doubt these keys until they have come
//!   FENCE   --> flush                BEGIN --> doubt what is old, then say so                LOST --> send what we have of that
//! ```
//!
//! Lives here: requests of peers. Not here: our own (`coordinator`), how frames come and go (`runtime::peer`).

use arrayvec::ArrayVec;

use super::Place;
use super::peers::Reach;
use super::ringed::{Desk, Mistake, Origin, PeerRequest};
use crate::buffer::Buffer;
use crate::cluster::handshake::Identity;
use crate::cluster::wire::{self, Along, Execute, Frame, Garbled, Kind, PutDone};
use crate::command::{Replica, Reply, Value};
use crate::engine::Merge;
use crate::key::Key;
use crate::limits;
use crate::observe::Client;
use crate::protocol::{self, Framing, Head};
use crate::ring::NodeIndex;

impl Desk<'_> {
    /// A node has shown who it is, over a connection of its own. Returns its place in the view, if it has one.
    pub fn greeted(&mut self, identity: &Identity) -> Option<NodeIndex> {
        let node = self.ring.view.ring.index_of(&identity.id).filter(|&node| node != self.ring.view.me)?;
        if self.ring.peers.meet(node, identity) {
            self.reborn(node);
        }
        self.ring.peers.heard_of(node, self.ms);
        Some(node)
    }

    /// Handles a request of a peer; what can be answered at once goes to `output`.
    ///
    /// # Errors
    /// It cannot be read: the connection must end.
    pub fn serve(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), Garbled> {
        self.hear(&frame.head)?;
        if let Some(node) = from.node {
            self.ring.peers.heard_of(node, self.ms);
        }
        match frame.head.kind {
            Kind::Execute => {
                let execute = wire::read_execute(frame.meta, frame.value)?;
                self.serve_execute(from, frame.head.hops, &execute, output)
            }
            Kind::Batch => self.serve_batch(from, frame, output),
            Kind::Put => self.serve_put(from, frame, output),
            Kind::Fetch => self.serve_fetch(from, frame, output),
            Kind::Sync => {
                let settled = wire::read_version(frame.meta)?;
                self.ring.unsettled.settle(from, settled);
                self.done(from, self.engine.clock(), output);
                Ok(())
            }
            Kind::Fence => {
                let version = wire::read_version(frame.meta)?;
                let seen = version.max(self.engine.clock() + 1);
                if self.ring.options.mistake != Some(Mistake::FenceSkipped) {
                    self.engine.raise_fence(version);
                }
                self.done(from, seen, output);
                Ok(())
            }
            Kind::Begin => {
                let (partition, doubted, fence) = wire::read_begin(frame.meta)?;
                self.engine.raise_partition_fence(partition, fence);
                self.ring.drops.add(partition, doubted, from);
                Ok(())
            }
            Kind::Lost => {
                let (partition, ..) = wire::read_begin(frame.meta)?;
                if let Some(node) = from.node {
                    self.ring.hints.mark(usize::from(node.0), partition, 0);
                }
                self.done(from, self.engine.clock(), output);
                Ok(())
            }
            Kind::List => self.serve_list(from, frame, output),
            _ => Err(Garbled("an answer where a request was expected")),
        }
    }

    /// Keys that a node has for us: only these are doubted.
    fn serve_list(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), Garbled> {
        let (Some(node), Value::Bytes(mut list)) = (from.node, frame.value) else {
            self.refuse(from, output);
            return Ok(());
        };
        let (buckets, mut taken) = (self.buckets(), true);
        while let Some((hash, version)) = wire::read_lacking(&mut list)? {
            if self.ring.options.mistake == Some(Mistake::ListIgnored) {
                continue;
            }
            taken &= self.routes.core_of(hash) == self.core && self.ring.peers.list(node, (hash, version), buckets, self.ms);
        }
        match taken {
            true => self.done(from, self.engine.clock(), output),
            false => self.refuse(from, output),
        }
        Ok(())
    }

    /// Several commands: what they need is fetched for some of them at once, before the first is executed.
    fn serve_batch(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), Garbled> {
        let Value::Bytes(mut batch) = frame.value else { return Err(Garbled("a batch beyond its bounds")) };
        for _ in 0..=wire::BATCH_COUNT_MAX / limits::BATCH_COMMANDS_MAX {
            let mut some = ArrayVec::<(u32, Execute<'_>), { limits::BATCH_COMMANDS_MAX }>::new();
            while !some.is_full()
                && let Some(element) = wire::read_element(&mut batch)?
            {
                some.push(element);
            }
            if some.is_empty() {
                return Ok(());
            }
            if some.len() > 1 {
                self.engine.prepare(some.iter().map(|(_, execute)| &execute.command.key));
            }
            for (id, execute) in &some {
                self.serve_execute(PeerRequest { id: *id, ..from }, frame.head.hops, execute, output)?;
            }
        }
        Err(Garbled("a batch beyond its bounds"))
    }

    fn serve_execute(
        &mut self,
        from: PeerRequest,
        hops: u8,
        execute: &Execute<'_>,
        output: &mut Buffer,
    ) -> Result<(), Garbled> {
        let head = Head::from_bytes(&execute.framing).ok_or(Garbled("a framing of no door"))?;
        // Who sent it has given it up by then, and perhaps had it executed elsewhere.
        let too_late = from.late_ms >= limits::PEER_LATE_MS_MAX;
        if too_late || self.routes.core_of(execute.command.key.hash) != self.core {
            self.refuse(from, output);
            return Ok(());
        }
        self.ring.figures.served += 1;
        if self.place(&execute.command) == Some(Place::Here) {
            let before = super::glance(self.observer, self.engine, &execute.command, self.now);
            let reply = self.engine.execute(&execute.command, self.now);
            if !matches!(reply, Reply::Busy) {
                let mut scratch = std::mem::take(&mut self.ring.scratch);
                let framing = Framing { head, words: execute.words };
                protocol::encode(&framing, execute.command.key.bytes, &reply, &mut scratch);
                self.counters.record(&execute.command.verb, &reply);
                if self.observer.is_on() {
                    let client = Client { descriptor: 0, meta: head.is_meta() };
                    self.observer.record(&execute.command, client, before, &reply, self.now);
                }
                wire::write_reply(output, from.id, self.stamp(), &mut scratch);
                scratch.clear();
                self.ring.scratch = scratch;
                return Ok(());
            }
        }
        if !self.submit(Origin::Peer(from), hops.max(1), &execute.command, head, execute.words) {
            self.refuse(from, output);
        }
        Ok(())
    }

    fn serve_put(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), Garbled> {
        let mut put = wire::read_replica(frame.meta, frame.value)?;
        if self.routes.core_of(put.replica.key.hash) != self.core {
            self.refuse(from, output);
            return Ok(());
        }
        if self.ring.options.mistake == Some(Mistake::HintWithoutVersion)
            && put.missing.is_empty()
            && frame.head.hops == REPLAYED
        {
            put.replica.version = self.engine.new_version(self.now);
        }
        if let Some(settled) = put.settled {
            self.ring.unsettled.settle(from, settled);
        }
        let done = match self.engine.merge_past(&put.replica, self.now, put.exempt) {
            Merge::Taken => PutDone::Taken,
            Merge::Kept { version } => PutDone::Kept(version),
            Merge::Busy => PutDone::Busy,
        };
        if let Some(node) = from.node.filter(|_| done != PutDone::Busy) {
            let buckets = self.buckets();
            self.ring.peers.unlist(node, put.replica.key.hash, put.replica.version, buckets);
        }
        if done == PutDone::Taken {
            self.ring.figures.copies_taken += 1;
            let (me, hash) = (self.me(), put.replica.key.hash);
            match put.missing.is_empty() {
                true if !self.owns(me, hash) => self.hint_owners(&put.replica),
                _ => self.hint_tags(&put.replica, &put.missing),
            }
            if put.settled.is_some() && self.ring.options.mistake != Some(Mistake::AllSettled) {
                self.ring.unsettled.add(from, put.replica.version, put.replica.key.bytes, self.ms);
            }
        }
        wire::write(output, (Kind::PutDone, 0, 0, from.id), self.stamp(), Value::EMPTY, |meta| done.write(meta));
        Ok(())
    }

    fn hint_tags(&mut self, replica: &Replica<'_>, tags: &[u64]) {
        let partition = self.partition_of(replica.key.hash);
        for &tag in tags {
            match self.ring.view.index_of_tag(tag) {
                Some(node) if node != self.ring.view.me => {
                    self.ring.hints.add(usize::from(node.0), replica.key.bytes, replica.version, partition, self.now);
                }
                _ => {}
            }
        }
    }

    /// What lies on a node that does not own it is there for its owners: a hint sees that they get it, and that it does not stay.
    pub(super) fn hint_owners(&mut self, replica: &Replica<'_>) {
        let partition = self.partition_of(replica.key.hash);
        let bucket = self.bucket_of(replica.key.hash);
        let owners = self.ring.cache.owners_of(&self.ring.view.ring, bucket);
        for owner in owners.iter().filter(|&&owner| owner != self.ring.view.me) {
            self.ring.hints.add(usize::from(owner.0), replica.key.bytes, replica.version, partition, self.now);
        }
    }

    fn serve_fetch(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), Garbled> {
        let key = wire::read_key(frame.meta)?;
        if self.routes.core_of(key.hash) != self.core {
            self.refuse(from, output);
            return Ok(());
        }
        let (flags, stamp) = (self.word_to(from) | self.surety(&key), self.stamp());
        let head = (Kind::Found, flags, 0, from.id);
        let lacks = from.node.and_then(|node| self.lacked_by(node, &key));
        match self.engine.copy_of(&key, self.now) {
            Some(replica) => {
                wire::write(output, head, stamp, replica.value, |meta| wire::write_replica(&replica, Along::default(), meta));
            }
            // What that node lacks was here and has gone: it must not take what it has for the newest.
            None => match lacks {
                Some(version) => {
                    let replica = self.engine.tombstone(key, version, self.now);
                    wire::write(output, head, stamp, Value::EMPTY, |meta| {
                        wire::write_replica(&replica, Along::default(), meta)
                    });
                }
                None => wire::write(output, head, stamp, Value::EMPTY, |_| {}),
            },
        }
        Ok(())
    }

    /// The flag that says that what this node has of a key is the newest there is, if that is known.
    fn surety(&mut self, key: &Key<'_>) -> u8 {
        let me = self.me();
        let sure = self.ring.peers.is_whole(self.ms)
            && !self.ring.peers.is_listed(key.hash, self.buckets())
            && self.owns(me, key.hash)
            && (self.has_lost_nothing() || self.engine.copy_of(key, self.now).is_some());
        if sure || self.ring.options.mistake == Some(Mistake::AlwaysSure) { wire::FLAG_SURE } else { 0 }
    }

    /// Version of this key that a node lacks, or may lack, as far as is known here.
    fn lacked_by(&self, node: NodeIndex, key: &Key<'_>) -> Option<u64> {
        let hint = self.ring.hints.get(usize::from(node.0), key.bytes).map(|hint| hint.version);
        let dirty = self.ring.hints.target(usize::from(node.0)).dirty_version(self.partition_of(key.hash));
        let dirty = dirty.filter(|_| !self.has_all_for(node));
        // That version itself is what is lacking, and no reason to drop it where it has arrived by another way.
        hint.or(dirty).and_then(|version| version.checked_sub(1)).filter(|&version| version > 0)
    }

    /// Whether everything that came for a node since its first partition became dirty is still here.
    pub(super) fn has_all_for(&self, node: NodeIndex) -> bool {
        self.engine.evicted_count() == self.ring.hints.target(usize::from(node.0)).evicted_before
    }

    /// The flags that give our word to a node, if it can be given: nothing is held for it that it does not know of, and it is not
    /// away for us.
    fn word_to(&mut self, from: PeerRequest) -> u8 {
        let Some(node) = from.node else { return 0 };
        let index = usize::from(node.0);
        let (target, handoff) = (self.ring.hints.target(index), &self.ring.handoffs[index]);
        let clean = self.ring.hints.is_clean(index) && handoff.is_idle();
        let listed = target.is_listed() && target.dirty_count() == 0 && handoff.has_listed();
        let away = self.ring.peers.reach(node, self.own_hash(), self.buckets(), self.ms) == Reach::Away;
        if !(clean || listed) || away {
            return 0;
        }
        self.ring.peers.node_mut(node).granted_ms = self.ms;
        wire::FLAG_SYNCED | if clean { wire::FLAG_CLEAN } else { 0 }
    }

    fn done(&mut self, from: PeerRequest, version: u64, output: &mut Buffer) {
        let flags = self.word_to(from);
        wire::write(output, (Kind::Done, flags, 0, from.id), self.stamp(), Value::EMPTY, |meta| {
            wire::write_version(version, meta);
        });
    }

    fn refuse(&mut self, from: PeerRequest, output: &mut Buffer) {
        wire::write(output, (Kind::Refused, 0, 0, from.id), self.stamp(), Value::EMPTY, |_| {});
    }
}

/// `hops` of a `Put` that replays a hint or repairs: told apart from a new write only by tests.
pub(super) const REPLAYED: u8 = 1;
