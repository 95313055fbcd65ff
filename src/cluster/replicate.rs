//! What a command wrote, on its way to the other nodes that are to have it.
//!
//! ```text
//!   executed --> the first `redundancy` nodes of the ranking that are there get the item: PUT        owners that are away: hints, here
//!                  taken: one less is awaited        failed: the next in the ranking, and a hint     and with every copy
//!                  lost to something newer: fetch that, execute again, with all that was executed on the same key meanwhile
//! ```
//!
//! Lives here: copies of one command. Not here: its beginning and end (`coordinate`), what is sent when an owner is back (`handoff`).

use arrayvec::ArrayVec;

use super::coordinate::{Purpose, with_plain_key};
use super::links::{LinkId, Reach};
use super::operations::{Attempt, Conflict, OpState, OperationId};
use super::{Ack, Cluster, Mistake, Turn};
use crate::command::{Command, Error};
use crate::key::Key;
use crate::limits;
use crate::peer::frame::{self, Along, Frame, FrameError, Kind, PutDone};
use crate::placement::{NodeIndex, REDUNDANCY_MAX};

impl Turn<'_> {
    /// Sends what the command wrote to the nodes that are to have it and do not.
    pub(super) fn copy(&mut self, id: OperationId) {
        self.pin(id);
        let Some(op) = self.op(id) else { return };
        let hash = op.hash;
        let (failed, before) = (op.write_state().failed.clone(), op.write_state().missing.len());
        let (chosen, missing) = self.choose(hash, &failed);
        self.with_command(id, |turn, execute| {
            let Some(op) = turn.op(id) else { return };
            let write = op.write_state();
            // Who has a copy already hears of the owners that have gone since.
            if missing.len() != before {
                write.placed.clear();
            }
            write.missing = missing.clone();
            let (version, placed) = (write.version, write.placed.clone());
            turn.hint(&execute.command, version, &missing);
            if chosen.len() > 1 {
                turn.track_uncommitted(id, version);
            }
            for (node, link) in chosen.into_iter().filter(|(node, _)| !placed.contains(node)) {
                turn.put(id, node, link, &execute.command, &missing);
            }
        });
        let early = self.cluster.options.ack == Ack::One || self.cluster.options.mistake == Some(Mistake::AckBeforeCopies);
        match self.op(id).map(|op| op.state()) {
            Some(OpState::Writing { waiting: 0 }) => self.end_writing(id),
            Some(_) if early => self.answer(id),
            _ => {}
        }
    }

    /// Notes the version of which copies are under way, in place of the one before; 0 for none.
    pub(super) fn track_uncommitted(&mut self, id: OperationId, version: u64) {
        let Some(write) = self.op(id).and_then(|op| op.write_state.as_deref_mut()) else { return };
        let before = std::mem::replace(&mut write.uncommitted_version, version);
        if before == version {
            return;
        }
        if version > 0 {
            self.cluster.writes.begin(version);
        }
        if before > 0 {
            self.cluster.writes.end(before);
        }
    }

    /// Ends a request whose copies are under way for too long: who has not confirmed its copy gets a hint.
    pub(super) fn abandon(&mut self, id: OperationId) {
        let Some(op) = self.op(id) else { return };
        let hash = op.hash;
        let (version, placed) = (op.write_state().version, op.write_state().placed.clone());
        let (bucket, me) = (self.bucket_of(hash), self.me());
        let owners = self.cluster.cache.owners_of(&self.cluster.view.ring, bucket);
        let lacking: ArrayVec<NodeIndex, REDUNDANCY_MAX> =
            owners.iter().copied().filter(|owner| *owner != me && !placed.contains(owner)).collect();
        self.with_command(id, |turn, execute| turn.hint(&execute.command, version, &lacking));
        self.finish(id);
    }

    /// What a command wrote on a node that does not own the key must not be let go of while its copies are under way.
    fn pin(&mut self, id: OperationId) {
        let Some(hash) = self.op(id).map(|op| op.hash) else { return };
        if self.owns(self.cluster.view.me, hash) {
            return;
        }
        let Cluster { operations, fallback_pins, .. } = &mut *self.cluster;
        if let Some(op) = operations.get(id)
            && !std::mem::replace(&mut op.write_state().is_pinned, true)
        {
            *fallback_pins.entry(hash).or_default() += 1;
        }
    }

    /// The nodes besides this one that are to have a copy, and the owners that cannot.
    fn choose(
        &mut self,
        hash: u64,
        failed: &[NodeIndex],
    ) -> (ArrayVec<(NodeIndex, LinkId), REDUNDANCY_MAX>, ArrayVec<NodeIndex, REDUNDANCY_MAX>) {
        let (bucket, buckets, ms) = (self.bucket_of(hash), self.buckets(), self.ms);
        let Cluster { cache, view, peers, .. } = &mut *self.cluster;
        let owners = cache.owners_of(&view.ring, bucket);
        let (mut chosen, mut missing) = (ArrayVec::new(), ArrayVec::new());
        // This node has one whether or not its place in the ranking asks for it.
        let wanted = view.ring.redundancy() - 1;
        for node in view.ring.ranking(bucket).filter(|&node| node != view.me) {
            let reach = match failed.contains(&node) {
                true => Reach::Away,
                false => peers.reach(node, hash, buckets, ms),
            };
            match reach {
                Reach::There(link) if chosen.len() < wanted || owners.contains(&node) => _ = chosen.try_push((node, link)),
                Reach::There(_) => {}
                Reach::Away | Reach::Unknown if owners.contains(&node) => missing.push(node),
                Reach::Away | Reach::Unknown => {}
            }
            if chosen.len() >= wanted && owners.iter().all(|owner| *owner == view.me || seen(*owner, &chosen, &missing)) {
                break;
            }
        }
        (chosen, missing)
    }

    /// Keeps hints for owners that lack what was written.
    fn hint(&mut self, command: &Command<'_>, version: u64, missing: &[NodeIndex]) {
        if self.cluster.options.mistake == Some(Mistake::NoHints) {
            return;
        }
        let partition = self.partition_of(command.key.hash);
        let (hints, now) = (&mut self.cluster.hints, self.now);
        with_plain_key(command, |key| {
            missing.iter().for_each(|node| hints.add(usize::from(node.0), key.bytes, version, partition, now));
        });
    }

    fn put(&mut self, id: OperationId, node: NodeIndex, link: LinkId, command: &Command<'_>, missing: &[NodeIndex]) {
        let (stamp, ms, now, committed_through) = (self.stamp(), self.ms, self.now, self.committed_through());
        let Cluster { operations, peers, figures, view, options, .. } = &mut *self.cluster;
        let attempt = operations.attempt(id);
        let Some(op) = operations.get(id) else { return };
        let OpState::Writing { waiting } = op.state() else { return };
        let committed_through = (op.write_state().uncommitted_version > 0).then_some(committed_through);
        let node_hashes: ArrayVec<u64, REDUNDANCY_MAX> = match options.mistake {
            Some(Mistake::NoHints) => ArrayVec::new(),
            _ => missing.iter().map(|node| view.nodes[usize::from(node.0)].node_hash).collect(),
        };
        let engine = &mut *self.engine;
        let sent = with_plain_key(command, |key| {
            // It may have been evicted since; then there is nothing to copy, and a hint says so.
            let Some(replica) = engine.copy_of(key, now) else { return false };
            figures.copies_sent += 1;
            op.write_state().sent_version = replica.version;
            peers.request(link, (Kind::Put, 0), stamp, replica.value, Purpose::Copy(attempt, node), ms, |output| {
                frame::write_replica(&replica, Along { missing: &node_hashes, committed_through, ..Along::default() }, output);
            });
            true
        });
        operations.set(id, OpState::Writing { waiting: waiting + u32::from(sent) });
    }

    /// A node has answered to a copy.
    pub(super) fn on_copy_answer(&mut self, attempt: Attempt, node: NodeIndex, frame: &Frame<'_>) -> Result<(), FrameError> {
        let done = PutDone::of(frame, self.horizon())?;
        let Some(op) = self.cluster.operations.at(attempt) else { return Ok(()) };
        let version = op.write_state().version;
        match done {
            PutDone::Taken => self.placed(attempt, node),
            PutDone::Kept(other) if other <= version => self.placed(attempt, node),
            PutDone::Kept(other) => self.lost_to(attempt, node, other),
            PutDone::Busy => self.on_copy_failed(attempt, node),
        }
        Ok(())
    }

    /// Counts an answer to a copy. False if nobody waits for it any more.
    fn written_less(&mut self, attempt: Attempt) -> bool {
        let Some(OpState::Writing { waiting }) = self.cluster.operations.at(attempt).map(|op| op.state()) else { return false };
        self.cluster.operations.set(attempt.id, OpState::Writing { waiting: waiting - 1 });
        true
    }

    /// A node has its copy, or something that makes it needless.
    fn placed(&mut self, attempt: Attempt, node: NodeIndex) {
        if !self.written_less(attempt) {
            return;
        }
        self.cluster.operations.note_seen(attempt.id);
        let Some(op) = self.op(attempt.id) else { return };
        let _ = op.write_state().placed.try_push(node);
        self.end_writing(attempt.id);
    }

    /// A node could not take its copy.
    pub(super) fn on_copy_failed(&mut self, attempt: Attempt, node: NodeIndex) {
        if !self.written_less(attempt) {
            return;
        }
        self.cluster.operations.note_seen(attempt.id);
        let Some(op) = self.op(attempt.id) else { return };
        let write = op.write_state();
        let _ = write.failed.try_push(node);
        match write.conflict {
            Some(_) => self.end_writing(attempt.id),
            None => self.copy(attempt.id),
        }
    }

    /// A node has something newer of this key than what the command wrote.
    fn lost_to(&mut self, attempt: Attempt, node: NodeIndex, other: u64) {
        self.engine.observe(other);
        let here = self.with_command(attempt.id, |turn, execute| {
            with_plain_key(&execute.command, |key| turn.engine.copy_of(key, turn.now).map_or(0, |replica| replica.version))
        });
        let Some(op) = self.cluster.operations.at(attempt) else { return };
        // A later write of ours is there already.
        if here.unwrap_or(0) >= other || op.conflicts >= limits::PEER_CONFLICTS_MAX {
            return self.placed(attempt, node);
        }
        op.write_state().conflict = Some(Conflict::Node(node));
        self.written_less(attempt);
        self.end_writing(attempt.id);
    }

    /// All copies may be answered: if nothing newer was met, the request is done. Else it is executed again, unless others may have read
    /// and overwritten what it wrote: it would come back behind that, or count twice.
    fn end_writing(&mut self, id: OperationId) {
        let was_seen = self.cluster.operations.was_seen(id);
        let Some(op) = self.op(id).filter(|op| op.state() == OpState::Writing { waiting: 0 }) else { return };
        let Some(conflict) = op.write_state().conflict.take() else { return self.finish(id) };
        if was_seen {
            return self.fail(id, Error::Interrupted);
        }
        op.conflicts += 1;
        op.may_be_executed = true;
        self.cluster.figures.conflicts += 1;
        match conflict {
            Conflict::Here => self.cluster.operations.enter(id, OpState::Queued),
            Conflict::Node(node) => {
                self.cluster.operations.enter(id, OpState::Refetching { node });
                self.refetch(id, node);
            }
        }
    }

    /// Fetches what a node has that is newer than what a command wrote.
    pub(super) fn refetch(&mut self, id: OperationId, node: NodeIndex) {
        let Some(hash) = self.op(id).map(|op| op.hash) else { return };
        let attempt = self.cluster.operations.attempt(id);
        let Reach::There(link) = self.cluster.peers.reach(node, hash, self.buckets(), self.ms) else {
            return self.lost(Purpose::Refetch(attempt, node), false, 0);
        };
        self.with_command(id, |turn, execute| turn.fetch(link, &execute.command, Purpose::Refetch(attempt, node)));
    }

    /// A node has told the version that it has. If that is here now, the command is executed on it. If it is none, the command lost to a
    /// fence: what is here gets a newer version.
    pub(super) fn begin_anew(&mut self, id: OperationId, found: u64) {
        let Some((version, hash)) = self.op(id).map(|op| (op.write_state().version, op.key_hash)) else { return };
        let renewed = self.with_command(id, |turn, execute| {
            with_plain_key(&execute.command, |plain| {
                let here = turn.engine.copy_of(plain, turn.now).map(|replica| replica.version);
                let is_here = found <= version && here.is_some_and(|here| here >= version);
                if is_here { turn.engine.bump_version_of(plain, turn.now) } else { None }
            })
        });
        let Some(renewed) = renewed.flatten() else {
            // All that was executed here on this key is, in its order: what came behind this one was executed on what it wrote.
            self.cluster.operations.enter(id, OpState::Queued);
            for other in self.cluster.operations.executed(hash) {
                self.note_conflict(other);
            }
            return;
        };
        // What others of this key have written here is part of what is here.
        for id in std::iter::once(id).chain(self.cluster.operations.written(hash)) {
            let Some(op) = self.op(id) else { continue };
            let write = op.write_state();
            write.version = renewed;
            write.placed.clear();
            self.cluster.operations.enter(id, OpState::Writing { waiting: 0 });
            self.copy(id);
        }
    }

    /// Something newer of a key has come from elsewhere. What was executed here before, and is not answered, may have to be executed again
    /// on that.
    pub(super) fn overtaken(&mut self, key: &Key<'_>) {
        for id in self.cluster.operations.written(key.whole_hash()) {
            self.note_conflict(id);
        }
    }

    fn note_conflict(&mut self, id: OperationId) {
        let Some(op) = self.op(id).filter(|op| op.conflicts < limits::PEER_CONFLICTS_MAX) else { return };
        match op.state() {
            OpState::Writing { .. } => _ = op.write_state().conflict.get_or_insert(Conflict::Here),
            // It was executed on what has gone, as those before it.
            OpState::Refetching { .. } => self.cluster.operations.enter(id, OpState::Queued),
            _ => {}
        }
    }
}

fn seen(owner: NodeIndex, chosen: &[(NodeIndex, LinkId)], missing: &[NodeIndex]) -> bool {
    missing.contains(&owner) || chosen.iter().any(|(node, _)| *node == owner)
}
