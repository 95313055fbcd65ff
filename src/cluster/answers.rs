//! What other nodes answer, what is lost with a link, and what is tried again or given up.
//!
//! ```text
//!   response --> What it is for:  a command | a key asked for | a copy | a flush | a hint | ..     --> the request goes on
//!   link lost --> the same, in the order of sending:  a command that may have been executed there waits until it cannot be any more
//!   tick --> parked requests try again; those that are too old end
//! ```
//!
//! Lives here: which answer leads where. Not here: what a request does then (`coordinate`, `replicate`, `handoff`, `flush`).

use super::links::LinkId;
use super::operations::OpState;
use super::requests::{InFlight, Purpose};
use super::{Mistake, Turn, conclude, coordinate, flush, handoff, replicate};
use crate::command::{Error, Value};
use crate::limits;
use crate::peer::frame::{self, Frame, FrameError, Kind, PutDone};
use crate::time::Monotonic;
use crate::version::Version;

/// A response to a request of this core, or to several.
///
/// # Errors
/// It is no response to anything, or cannot be read.
pub(super) fn respond(turn: &mut Turn<'_>, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
    turn.observe_head(&frame.head);
    if turn.cluster.links.is_draining(link) {
        return respond_late(turn, link, frame);
    }
    let waited_for_clock = !turn.cluster.links.may_execute(link, turn.at);
    turn.cluster.links.heard(link, frame.head.sent_ms, turn.at);
    let shares_view = turn.shares_view(&frame.head);
    if !shares_view {
        turn.cluster.leases.end(link);
    }
    let (was_full, mut may_coordinate) = (turn.cluster.requests.is_full(), false);
    if frame.head.kind == Kind::Replies {
        reply_all(turn, link, frame)?;
    } else {
        check_answer(turn, link, frame)?;
        let Some(in_flight) = turn.cluster.answered(link, frame.head.id, turn.at) else {
            return Err(FrameError("an answer that nobody waits for"));
        };
        if matches!(frame.head.kind, Kind::Found | Kind::Done) {
            if shares_view {
                turn.cluster.progress.note(link, frame.head.flags);
                may_coordinate = turn.cluster.progress.end_former(&turn.cluster.links, turn.at);
            }
            hear_of_lease(turn, link, frame, (&in_flight, shares_view));
        }
        pass_on(turn, in_flight, frame, waited_for_clock)?;
    }
    if may_coordinate || (was_full && !turn.cluster.requests.is_full()) {
        retry(turn);
    }
    Ok(())
}

/// A response of a node that is not in the ring any more. Of what it promises nothing counts, and what else it was asked was given up.
fn respond_late(turn: &mut Turn<'_>, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
    if frame.head.kind == Kind::Replies {
        reply_all(turn, link, frame)?;
    } else if let Some(in_flight) = turn.cluster.answered(link, frame.head.id, turn.at) {
        pass_on(turn, in_flight, frame, false)?;
    }
    retry(turn);
    Ok(())
}

/// The replies to several commands.
fn reply_all(turn: &mut Turn<'_>, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
    let Value::Bytes(mut replies) = frame.value else { return Err(FrameError("replies beyond their bounds")) };
    while let Some((id, bytes)) = frame::read_reply(&mut replies)? {
        // Before it counts as answered: else its request is lost with the link.
        let Some(Purpose::Forward(operation)) = turn.cluster.requests.purpose(link, id) else {
            return Err(FrameError("a reply to what is no command"));
        };
        let operation = *operation;
        turn.cluster.answered(link, id, turn.at);
        coordinate::on_short_reply(turn, operation, bytes);
    }
    Ok(())
}

/// What an answer says of the lease of its core.
fn hear_of_lease(turn: &mut Turn<'_>, link: LinkId, frame: &Frame<'_>, (in_flight, shares_view): (&InFlight, bool)) {
    // A lease under another view is none: its holder may own other keys than who granted it knows of.
    if frame.head.flags & frame::FLAG_SYNCED != 0 && shares_view {
        turn.cluster.leases.granted(link, &turn.cluster.links, in_flight.sent_at, turn.at);
        let is_clean = frame.head.flags & frame::FLAG_CLEAN != 0;
        if is_clean && !turn.cluster.options.has(Mistake::MissingKept) {
            turn.cluster.leases.forget_all_missing(link, in_flight.sent_at);
        }
    } else if matches!(in_flight.purpose, Purpose::Read(..) | Purpose::Sync) {
        turn.cluster.leases.end(link);
    }
}

/// Gives an answer to who waits for it.
fn pass_on(turn: &mut Turn<'_>, in_flight: InFlight, frame: &Frame<'_>, waited_for_clock: bool) -> Result<(), FrameError> {
    match in_flight.purpose {
        Purpose::Forward(id) => coordinate::on_reply(turn, id, frame),
        Purpose::Read(attempt, node) => return coordinate::on_found(turn, attempt, node, frame),
        Purpose::Refetch(attempt, node) => return replicate::on_refetched(turn, attempt, node, frame),
        Purpose::Copy(attempt, node) => return replicate::on_copy_answer(turn, attempt, node, frame),
        Purpose::Fence(number, round) => return flush::on_answer(turn, number, round, frame),
        Purpose::Pending(sent) => return handoff::on_copied(turn, &sent, frame),
        Purpose::Repair => {}
        Purpose::Sync if waited_for_clock => retry(turn),
        Purpose::Sync => {}
        Purpose::Replay(sent) => return handoff::on_replayed(turn, &sent, frame, in_flight.sent_at),
        Purpose::Stream(sent) => return handoff::on_streamed(turn, &sent, frame, in_flight.sent_at),
        Purpose::Begin(node, generation) => handoff::on_begin_answer(turn, node, generation, frame.head.kind == Kind::Done),
        Purpose::Missing(node, generation) => handoff::on_missing_answer(turn, node, generation, frame.head.kind == Kind::Done),
        Purpose::Purged(node, generation, partitions) => {
            handoff::on_purged_answer(turn, node, generation, &partitions, frame.head.kind == Kind::Done)
        }
    }
    Ok(())
}

/// Whether an answer can be read, before it counts as one: else its request is lost with the link, as all that is under way there.
fn check_answer(turn: &mut Turn<'_>, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
    let horizon = turn.horizon();
    let attempt = match turn.cluster.requests.purpose(link, frame.head.id) {
        Some(Purpose::Copy(..) | Purpose::Pending(_) | Purpose::Replay(_) | Purpose::Stream(_)) => {
            return PutDone::of(frame, horizon).map(drop);
        }
        Some(Purpose::Fence(..)) if frame.head.kind == Kind::Done => {
            return frame::read_version(frame.meta, horizon).map(drop);
        }
        Some(Purpose::Read(attempt, _) | Purpose::Refetch(attempt, _)) => *attempt,
        _ => return Ok(()),
    };
    if frame.head.kind == Kind::Found && !frame.meta.is_empty() {
        let key = frame::read_replica(frame.meta, frame.value, horizon)?.replica.key;
        let is_other = turn.cluster.operations.at(attempt).is_some_and(|op| op.key_hash != key.whole_hash());
        if is_other || turn.routes.core_of(key.hash) != turn.core {
            return Err(FrameError("a key that it was not asked for"));
        }
    }
    Ok(())
}

/// Something that was under way over a link is lost. `sent`: it may have arrived, and may be executed there up to `until`.
pub(super) fn lost(turn: &mut Turn<'_>, purpose: Purpose, sent: bool, until: Monotonic) {
    match purpose {
        Purpose::Forward(id) => coordinate::on_forward_lost(turn, id, sent, until),
        Purpose::Read(attempt, _) => coordinate::read_less(turn, attempt),
        // Whoever has the newer item is away: what is here becomes newer than that.
        Purpose::Refetch(attempt, _) if turn.cluster.operations.at(attempt).is_some() => {
            replicate::begin_anew(turn, attempt.id, Version::NONE)
        }
        Purpose::Refetch(..) => {}
        Purpose::Copy(attempt, node) => replicate::on_copy_failed(turn, attempt, node),
        Purpose::Fence(number, round) => flush::on_failed(turn, number, round),
        Purpose::Pending(sent) => handoff::on_copy_lost(turn, &sent),
        Purpose::Repair | Purpose::Sync => {}
        Purpose::Replay(sent) => handoff::on_replay_lost(turn, &sent),
        Purpose::Stream(sent) => handoff::on_stream_lost(turn, &sent),
        Purpose::Begin(node, generation) => handoff::on_begin_answer(turn, node, generation, false),
        // The link is lost, and with it what was said over it.
        Purpose::Missing(node, generation) => handoff::on_missing_answer(turn, node, generation, true),
        Purpose::Purged(node, generation, partitions) => handoff::on_purged_answer(turn, node, generation, &partitions, false),
    }
}

/// Goes on with what was parked, and ends what is too old.
pub(super) fn retry(turn: &mut Turn<'_>) {
    for id in turn.cluster.operations.take_parked() {
        coordinate::try_again(turn, id);
    }
    flush::retry(turn);
    coordinate::advance_woken(turn);
    if turn.at < turn.cluster.swept_at + SWEEP_MS {
        return;
    }
    turn.cluster.swept_at = turn.at;
    let began = turn.at.minus_ms(limits::PEER_OPERATION_MS_MAX);
    for id in turn.cluster.operations.older_than(began) {
        let Some(op) = turn.op(id) else { continue };
        match op.state() {
            OpState::Writing { .. } => replicate::abandon(turn, id),
            OpState::Forwarded { .. } | OpState::Refetching { .. } => conclude::fail(turn, id, Error::Interrupted),
            _ if op.may_be_executed => conclude::fail(turn, id, Error::Interrupted),
            _ => conclude::fail(turn, id, Error::Unreachable),
        }
    }
    coordinate::advance_woken(turn);
}

/// How often old requests are looked for, in milliseconds.
const SWEEP_MS: u64 = 100;
