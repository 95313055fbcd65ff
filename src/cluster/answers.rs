//! What other nodes answer, what is lost with a link, and what is tried again or given up.
//!
//! ```text
//!   response --> What it is for:  a command | a key asked for | a copy | a flush | a hint | ..     --> the request goes on
//!   link lost --> the same, in the order of sending:  a command that may have been executed there waits until it cannot be any more
//!   tick --> parked requests try again; those that are too old end
//! ```
//!
//! Lives here: which answer leads where. Not here: what a request does then (`coordinate`, `replicate`, `handoff`, `flush`).

use super::coordinate::Purpose;
use super::links::LinkId;
use super::operations::{Attempt, OpKind, OpState, OperationId, ReadScope};
use super::{Mistake, Turn};
use crate::command::{Error, Value};
use crate::engine::Merge;
use crate::limits;
use crate::peer::frame::{self, Frame, FrameError, Kind};
use crate::placement::NodeIndex;

/// What a node that was asked for a key has told.
enum Found {
    /// This version of it, which is here now or was already; 0 for nothing.
    Here(u64),
    /// Something newer, and there is no memory for it.
    Busy,
}

impl Turn<'_> {
    /// A response to a request of this core.
    ///
    /// # Errors
    /// It is no response to anything, or cannot be read: the link must end.
    pub fn response(&mut self, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
        let result = self.respond(link, frame);
        self.advance_woken();
        result
    }

    fn respond(&mut self, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
        self.observe_head(&frame.head);
        let waited_for_clock = !self.cluster.peers.may_execute(link, self.ms);
        self.cluster.peers.heard(link, frame.head.sent_ms, self.ms);
        let was_full = self.cluster.peers.is_full();
        let Some(in_flight) = self.cluster.peers.answered(link, frame.head.id, self.ms) else {
            return Err(FrameError("an answer that nobody waits for"));
        };
        let has_room_again = was_full && !self.cluster.peers.is_full();
        let synced = frame.head.flags & frame::FLAG_SYNCED != 0;
        if matches!(frame.head.kind, Kind::Found | Kind::Done) {
            match synced {
                true => {
                    self.cluster.peers.lease(link, in_flight.sent_ms, self.ms);
                    if frame.head.flags & frame::FLAG_CLEAN != 0 {
                        self.cluster.peers.forget_all_missing(link, in_flight.sent_ms);
                    }
                }
                false if matches!(in_flight.purpose, Purpose::Read(..) | Purpose::Sync) => self.cluster.peers.end_lease(link),
                false => {}
            }
        }
        match in_flight.purpose {
            Purpose::Forward(key) => self.forwarded(key, frame),
            Purpose::Read(attempt, node) => return self.on_found(attempt, node, frame),
            Purpose::Refetch(attempt, node) => return self.refetched(attempt, node, frame),
            Purpose::Copy(attempt, node) => return self.on_copy_answer(attempt, node, frame),
            Purpose::Fence(number, round) => return self.on_fence_answer(number, round, frame),
            Purpose::Repair => {}
            Purpose::Sync if waited_for_clock => self.retry(),
            Purpose::Sync => {}
            Purpose::Replay(sent) => return self.replayed(&sent, frame, in_flight.sent_ms),
            Purpose::Stream(sent) => return self.streamed(&sent, frame, in_flight.sent_ms),
            Purpose::Begin(node, generation) => self.on_begin_answer(node, generation, frame.head.kind == Kind::Done),
            Purpose::Missing(node, generation) => self.on_missing_answer(node, generation, frame.head.kind == Kind::Done),
            Purpose::Purged(node, generation, partitions) => {
                self.on_purged_answer(node, generation, &partitions, frame.head.kind == Kind::Done)
            }
        }
        if has_room_again {
            self.retry();
        }
        Ok(())
    }

    fn forwarded(&mut self, id: OperationId, frame: &Frame<'_>) {
        let Some(op) = self.op(id).filter(|op| matches!(op.state(), OpState::Forwarded { .. })) else { return };
        let origin = op.origin;
        if frame.head.kind != Kind::Reply {
            self.cluster.operations.enter(id, OpState::Waiting);
            return self.cluster.operations.park(id);
        }
        match frame.value {
            Value::Body(body) => op.write_state().reply.put_body(body.clone()),
            Value::Bytes(bytes) => {
                self.cluster.outbox.put_bytes(origin, bytes);
                return self.end(id);
            }
            Value::Pages(_) | Value::Dropped { .. } => {}
        }
        self.finish(id);
    }

    /// A node has told what it has of a key, before the command is executed.
    fn on_found(&mut self, attempt: Attempt, node: NodeIndex, frame: &Frame<'_>) -> Result<(), FrameError> {
        let found = self.found(node, frame)?;
        let Some(op) = self.cluster.operations.at(attempt) else { return Ok(()) };
        match found {
            Found::Here(version) => _ = op.write_state().found.try_push((node, version)),
            Found::Busy => op.scope = ReadScope::Nobody,
        }
        if frame.head.flags & frame::FLAG_AUTHORITATIVE != 0 && op.scope == ReadScope::One {
            op.scope = ReadScope::All;
        }
        self.read_less(attempt);
        Ok(())
    }

    /// One of the nodes that were asked has answered, or never will.
    fn read_less(&mut self, attempt: Attempt) {
        let Some(OpState::Reading { waiting }) = self.cluster.operations.at(attempt).map(|op| op.state()) else { return };
        self.cluster.operations.set(attempt.id, OpState::Reading { waiting: waiting - 1 });
        if waiting == 1 {
            self.read_answered(attempt.id);
        }
    }

    /// A node has told what it has that is newer than what a command wrote.
    fn refetched(&mut self, attempt: Attempt, node: NodeIndex, frame: &Frame<'_>) -> Result<(), FrameError> {
        let found = self.found(node, frame)?;
        if self.cluster.operations.at(attempt).is_some() {
            match found {
                // Fetched again, when there is memory.
                Found::Busy => self.cluster.operations.park(attempt.id),
                Found::Here(version) => self.begin_anew(attempt.id, version),
            }
        }
        Ok(())
    }

    /// Takes over what a node has of a key.
    fn found(&mut self, node: NodeIndex, frame: &Frame<'_>) -> Result<Found, FrameError> {
        if frame.head.kind != Kind::Found || frame.meta.is_empty() {
            return Ok(Found::Here(0));
        }
        let put = frame::read_replica(frame.meta, frame.value, self.horizon())?;
        let (version, key, buckets) = (put.replica.version, put.replica.key, self.buckets());
        let taken = self.merge_past(&put.replica, false);
        if taken == Merge::Busy {
            return Ok(Found::Busy);
        }
        self.cluster.peers.forget_missing(node, key.hash, version, buckets);
        if taken == Merge::Taken {
            if !self.owns(self.cluster.view.me, key.hash) {
                self.hint_owners(&put.replica);
            }
            self.overtaken(&key);
        }
        Ok(Found::Here(version))
    }

    /// Something that was under way over a link is lost. `sent`: it may have arrived, and may be executed there up to `until_ms`.
    pub(super) fn lost(&mut self, purpose: Purpose, sent: bool, until_ms: u64) {
        match purpose {
            Purpose::Forward(key) => self.forward_lost(key, sent, until_ms),
            Purpose::Read(attempt, _) => self.read_less(attempt),
            // Whoever has the newer item is away: what is here becomes newer than that.
            Purpose::Refetch(attempt, _) if self.cluster.operations.at(attempt).is_some() => self.begin_anew(attempt.id, 0),
            Purpose::Refetch(..) => {}
            Purpose::Copy(attempt, node) => self.on_copy_failed(attempt, node),
            Purpose::Fence(number, round) => self.on_fence_failed(number, round),
            Purpose::Repair | Purpose::Sync => {}
            Purpose::Replay(sent) => {
                self.cluster.hints.requeue(usize::from(sent.node.0), &sent.key);
                self.release_window(sent.node, sent.generation);
            }
            Purpose::Stream(sent) => {
                self.fail_transfer(sent.node);
                self.release_window(sent.node, sent.generation);
            }
            Purpose::Begin(node, generation) => self.on_begin_answer(node, generation, false),
            // The link is lost, and with it what was said over it.
            Purpose::Missing(node, generation) => self.on_missing_answer(node, generation, true),
            Purpose::Purged(node, generation, partitions) => self.on_purged_answer(node, generation, &partitions, false),
        }
    }

    fn forward_lost(&mut self, id: OperationId, sent: bool, until_ms: u64) {
        let overtaken = sent && self.cluster.operations.is_read_before_writes(id);
        let Some(op) = self.op(id).filter(|op| matches!(op.state(), OpState::Forwarded { .. })) else { return };
        if overtaken {
            // The writes behind it may have been executed there: nobody knows any more what was there in front of them.
            return self.fail(id, Error::Interrupted);
        }
        if sent && op.kind != OpKind::Pure {
            (op.may_be_executed, op.not_before_ms) = (true, until_ms);
            if op.kind == OpKind::Once {
                return self.fail(id, Error::Interrupted);
            }
            if op.kind == OpKind::Write && op.repeated_since == 0 {
                op.repeated_since = op.sent_clock.max(1);
            }
        }
        self.cluster.operations.enter(id, OpState::Waiting);
        self.try_again(id);
    }

    /// Goes on with what was parked, and ends what is too old.
    pub(super) fn retry(&mut self) {
        for id in self.cluster.operations.take_parked() {
            self.try_again(id);
        }
        self.retry_flushes();
        self.advance_woken();
        if self.ms < self.cluster.swept_ms + SWEEP_MS {
            return;
        }
        self.cluster.swept_ms = self.ms;
        let began_ms = self.ms.saturating_sub(limits::PEER_OPERATION_MS_MAX);
        for id in self.cluster.operations.older_than(began_ms) {
            let Some(op) = self.op(id) else { continue };
            match op.state() {
                OpState::Writing { .. } => self.abandon(id),
                OpState::Forwarded { .. } | OpState::Refetching { .. } => self.fail(id, Error::Interrupted),
                _ if op.may_be_executed => self.fail(id, Error::Interrupted),
                _ => self.fail(id, Error::Unreachable),
            }
        }
        self.advance_woken();
    }

    /// Takes note of what every frame says.
    pub(super) fn observe_head(&mut self, head: &frame::Head) {
        self.engine.observe(head.clock);
        if self.cluster.options.mistake != Some(Mistake::FenceSkipped) {
            self.engine.raise_fence(head.fence);
        }
    }
}

/// How often old requests are looked for, in milliseconds.
const SWEEP_MS: u64 = 100;
