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

use super::conclude::{self, with_command, with_plain_key};
use super::links::{LinkId, Reach};
use super::merge::{self, Found};
use super::operations::{Attempt, Conflict, OpState, OperationId};
use super::requests::{Purpose, Request, SentItem};
use super::view::PeerId;
use super::{Ack, Cluster, Mistake, Turn, commit};
use crate::command::{Command, Error};
use crate::limits;
use crate::peer::frame::{self, Along, Frame, FrameError, Kind, PutDone};
use crate::placement::REDUNDANCY_MAX;
use crate::version::Version;

/// Sends what the command wrote to the nodes that are to have it and do not.
pub(super) fn copy(turn: &mut Turn<'_>, id: OperationId) {
    conclude::pin(turn, id);
    let Some(op) = turn.op(id) else { return };
    let hash = op.hash;
    let (failed, before) = (op.write_state().failed.clone(), op.write_state().missing.len());
    let (chosen, missing) = choose(turn, hash, &failed);
    with_command(turn, id, |turn, execute| {
        let Some(op) = turn.op(id) else { return };
        let write = op.write_state();
        // Who has a copy already hears of the owners that have gone since.
        if missing.len() != before {
            write.placed.clear();
        }
        write.missing = missing.clone();
        let (version, placed) = (write.version, write.placed.clone());
        hint(turn, &execute.command, version, &missing);
        if chosen.len() > 1 {
            commit::track(turn, id, version);
        }
        let forgotten = turn.cluster.options.has(Mistake::CopiesForgotten);
        for (node, link) in chosen.into_iter().filter(|(node, _)| !placed.contains(node) && !forgotten) {
            put(turn, id, node, link, &execute.command, &missing);
        }
        copy_to_pending(turn, id, &execute.command);
    });
    let early = turn.cluster.options.ack == Ack::One || turn.cluster.options.has(Mistake::AckBeforeCopies);
    match turn.op(id).map(|op| op.state()) {
        Some(OpState::Writing { waiting: 0 }) => end_writing(turn, id),
        Some(_) if early => conclude::answer(turn, id),
        _ => {}
    }
}

/// Ends a request whose copies are under way for too long: who has not confirmed its copy gets a hint.
pub(super) fn abandon(turn: &mut Turn<'_>, id: OperationId) {
    let Some(op) = turn.op(id) else { return };
    let hash = op.hash;
    let (version, placed) = (op.write_state().version, op.write_state().placed.clone());
    let (bucket, me) = (turn.bucket_of(hash), turn.me());
    let owners = turn.owners(bucket);
    let lacking: ArrayVec<PeerId, REDUNDANCY_MAX> =
        owners.iter().copied().filter(|owner| *owner != me && !placed.contains(owner)).collect();
    with_command(turn, id, |turn, execute| hint(turn, &execute.command, version, &lacking));
    conclude::finish(turn, id);
}

/// The nodes besides this one that are to have a copy, and the owners that cannot.
fn choose(
    turn: &mut Turn<'_>,
    hash: u64,
    failed: &[PeerId],
) -> (ArrayVec<(PeerId, LinkId), REDUNDANCY_MAX>, ArrayVec<PeerId, REDUNDANCY_MAX>) {
    let (bucket, buckets, at) = (turn.bucket_of(hash), turn.buckets(), turn.at);
    let Cluster { cache, view, links, .. } = &mut *turn.cluster;
    let owners = view.owners(cache, bucket);
    let (mut chosen, mut missing) = (ArrayVec::new(), ArrayVec::new());
    // This node has one whether or not its place in the ranking asks for it.
    let wanted = view.ring.redundancy() - 1;
    for node in view.ranking(bucket).filter(|&node| node != view.me) {
        let reach = match failed.contains(&node) {
            true => Reach::Away,
            false => links.reach(node, hash, buckets, at),
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
fn hint(turn: &mut Turn<'_>, command: &Command<'_>, version: Version, missing: &[PeerId]) {
    if turn.cluster.options.has(Mistake::NoHints) {
        return;
    }
    let partition = turn.partition_of(command.key.hash);
    let (hints, now) = (&mut turn.cluster.hints, turn.now);
    with_plain_key(command, |key| {
        missing.iter().for_each(|node| hints.add(*node, key.bytes, version, partition, now));
    });
}

fn put(turn: &mut Turn<'_>, id: OperationId, node: PeerId, link: LinkId, command: &Command<'_>, missing: &[PeerId]) {
    let (moment, now, committed_through) = (turn.moment(), turn.now, commit::committed_through(turn));
    let Cluster { operations, links, requests, figures, view, options, .. } = &mut *turn.cluster;
    let attempt = operations.attempt(id);
    let Some(op) = operations.get(id) else { return };
    let OpState::Writing { waiting } = op.state() else { return };
    let committed_through = (op.write_state().uncommitted_version.is_some()).then_some(committed_through);
    let node_hashes: ArrayVec<u64, REDUNDANCY_MAX> = match options.has(Mistake::NoHints) {
        true => ArrayVec::new(),
        false => missing.iter().filter_map(|&node| Some(view.node(node)?.node_hash)).collect(),
    };
    let engine = &mut *turn.engine;
    let sent = with_plain_key(command, |key| {
        // It may have been evicted since; then there is nothing to copy, and a hint says so.
        let Some(replica) = engine.copy_of(key, now) else { return false };
        figures.copies_sent += 1;
        op.write_state().sent_version = replica.version;
        let request = Request::with_value(link, Kind::Put, replica.value, Purpose::Copy(attempt, node));
        requests.send(links, request, moment, |output| {
            frame::write_replica(&replica, Along { missing: &node_hashes, committed_through, ..Along::default() }, output);
        });
        true
    });
    operations.set(id, OpState::Writing { waiting: waiting + u32::from(sent) });
}

/// Sends what the command wrote to those that own its key next. It counts for nothing, and nobody waits for it: what does not arrive becomes a
/// hint.
fn copy_to_pending(turn: &mut Turn<'_>, id: OperationId, command: &Command<'_>) {
    if turn.cluster.view.target.is_none() || turn.cluster.options.has(Mistake::PendingForgotten) {
        return;
    }
    let pending = turn.cluster.view.pending(turn.bucket_of(command.key.hash));
    let Some(op) = turn.op(id) else { return };
    let write = op.write_state();
    if write.sent_to_pending == write.version {
        return;
    }
    write.sent_to_pending = write.version;
    let (hash, buckets, moment, now, me) = (command.key.hash, turn.buckets(), turn.moment(), turn.now, turn.me());
    for node in pending.into_iter().filter(|&node| node != me) {
        let reach = turn.cluster.links.reach(node, hash, buckets, moment.at);
        let partition = turn.partition_of(hash);
        with_plain_key(command, |key| {
            let Some(replica) = turn.engine.copy_of(key, now) else { return };
            let Reach::There(link) = reach else {
                return turn.cluster.hints.add(node, key.bytes, replica.version, partition, now);
            };
            turn.cluster.figures.copies_sent += 1;
            let sent = SentItem { node, key: key.bytes.into(), version: replica.version, generation: 0 };
            turn.cluster.handoffs[node.index()].add_copy();
            let request = Request::with_value(link, Kind::Put, replica.value, Purpose::Pending(sent));
            turn.cluster.send(request, moment, |output| frame::write_replica(&replica, Along::default(), output));
        });
    }
}

/// A node has answered to a copy.
pub(super) fn on_copy_answer(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId, frame: &Frame<'_>) -> Result<(), FrameError> {
    let done = PutDone::of(frame, turn.horizon())?;
    let Some(op) = turn.cluster.operations.at(attempt) else { return Ok(()) };
    let version = op.write_state().version;
    match done {
        PutDone::Taken => placed(turn, attempt, node),
        PutDone::Kept(other) if other <= version => placed(turn, attempt, node),
        PutDone::Kept(other) => lost_to(turn, attempt, node, other),
        PutDone::Busy => on_copy_failed(turn, attempt, node),
    }
    Ok(())
}

/// Counts an answer to a copy. False if nobody waits for it any more.
fn written_less(turn: &mut Turn<'_>, attempt: Attempt) -> bool {
    let Some(OpState::Writing { waiting }) = turn.cluster.operations.at(attempt).map(|op| op.state()) else { return false };
    turn.cluster.operations.set(attempt.id, OpState::Writing { waiting: waiting - 1 });
    true
}

/// A node has its copy, or something that makes it needless.
fn placed(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId) {
    if !written_less(turn, attempt) {
        return;
    }
    turn.cluster.operations.note_seen(attempt.id);
    let Some(op) = turn.op(attempt.id) else { return };
    let _ = op.write_state().placed.try_push(node);
    end_writing(turn, attempt.id);
}

/// A node could not take its copy.
pub(super) fn on_copy_failed(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId) {
    if !written_less(turn, attempt) {
        return;
    }
    turn.cluster.operations.note_seen(attempt.id);
    let Some(op) = turn.op(attempt.id) else { return };
    let write = op.write_state();
    let _ = write.failed.try_push(node);
    match write.conflict {
        Some(_) => end_writing(turn, attempt.id),
        None => copy(turn, attempt.id),
    }
}

/// A node has something newer of this key than what the command wrote.
fn lost_to(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId, other: Version) {
    turn.engine.observe(other);
    let here = with_command(turn, attempt.id, |turn, execute| {
        with_plain_key(&execute.command, |key| {
            turn.engine.copy_of(key, turn.now).map_or(Version::NONE, |replica| replica.version)
        })
    });
    let forgotten = turn.cluster.options.has(Mistake::ConflictForgotten);
    let Some(op) = turn.cluster.operations.at(attempt) else { return };
    // A later write of ours is there already.
    if forgotten || here.unwrap_or_default() >= other || op.conflicts >= limits::PEER_CONFLICTS_MAX {
        return placed(turn, attempt, node);
    }
    op.write_state().conflict = Some(Conflict::Node(node));
    written_less(turn, attempt);
    end_writing(turn, attempt.id);
}

/// All copies may be answered: if nothing newer was met, the request is done. Else it is executed again, unless others may have read
/// and overwritten what it wrote: it would come back behind that, or count twice.
fn end_writing(turn: &mut Turn<'_>, id: OperationId) {
    let (was_seen, fence) = (turn.cluster.operations.was_seen(id), turn.engine.fence());
    let Some(op) = turn.op(id).filter(|op| op.state() == OpState::Writing { waiting: 0 }) else { return };
    let Some(conflict) = op.write_state().conflict.take() else { return conclude::finish(turn, id) };
    turn.cluster.figures.conflicts += 1;
    let Some(op) = turn.op(id) else { return };
    if was_seen {
        let write = op.write_state();
        // A flush that began meanwhile has removed it everywhere: it came before that.
        return match write.was_current && write.version < fence {
            true => conclude::finish(turn, id),
            false => conclude::fail(turn, id, Error::Interrupted),
        };
    }
    op.conflicts += 1;
    op.may_be_executed = true;
    match conflict {
        Conflict::Here => turn.cluster.operations.enter(id, OpState::Queued),
        Conflict::Node(node) => {
            turn.cluster.operations.enter(id, OpState::Refetching { node });
            refetch(turn, id, node);
        }
    }
}

/// Fetches what a node has that is newer than what a command wrote.
pub(super) fn refetch(turn: &mut Turn<'_>, id: OperationId, node: PeerId) {
    let Some(hash) = turn.op(id).map(|op| op.hash) else { return };
    let attempt = turn.cluster.operations.attempt(id);
    let Reach::There(link) = turn.cluster.links.reach(node, hash, turn.buckets(), turn.at) else {
        return begin_anew(turn, id, Version::NONE);
    };
    with_command(turn, id, |turn, execute| merge::fetch(turn, link, &execute.command, Purpose::Refetch(attempt, node)));
}

/// A node has told what it has that is newer than what a command wrote.
pub(super) fn on_refetched(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId, frame: &Frame<'_>) -> Result<(), FrameError> {
    let found = merge::take_over(turn, node, frame)?;
    if turn.cluster.operations.at(attempt).is_some() {
        match found {
            // Fetched again, when there is memory.
            Found::Busy => turn.cluster.operations.park(attempt.id),
            Found::Here(version) => begin_anew(turn, attempt.id, version),
        }
    }
    Ok(())
}

/// A node has told the version that it has. If that is here now, the command is executed on it. If it is none, the command lost to a
/// fence: what is here gets a newer version.
pub(super) fn begin_anew(turn: &mut Turn<'_>, id: OperationId, found: Version) {
    let Some((version, hash)) = turn.op(id).map(|op| (op.write_state().version, op.key_hash)) else { return };
    let renewed = with_command(turn, id, |turn, execute| {
        with_plain_key(&execute.command, |plain| {
            let here = turn.engine.copy_of(plain, turn.now).map(|replica| replica.version);
            let is_here = found <= version && here.is_some_and(|here| here >= version);
            if is_here { turn.engine.bump_version_of(plain, turn.now) } else { None }
        })
    });
    let Some(renewed) = renewed.flatten() else {
        // All that was executed here on this key is, in its order: what came behind this one was executed on what it wrote.
        turn.cluster.operations.enter(id, OpState::Queued);
        for other in turn.cluster.operations.executed(hash) {
            turn.cluster.operations.note_conflict(other);
        }
        return;
    };
    // What others of this key have written here is part of what is here.
    for id in std::iter::once(id).chain(turn.cluster.operations.written(hash)) {
        let Some(op) = turn.op(id) else { continue };
        let write = op.write_state();
        write.version = renewed;
        write.placed.clear();
        turn.cluster.operations.enter(id, OpState::Writing { waiting: 0 });
        copy(turn, id);
    }
}

fn seen(owner: PeerId, chosen: &[(PeerId, LinkId)], missing: &[PeerId]) -> bool {
    missing.contains(&owner) || chosen.iter().any(|(node, _)| *node == owner)
}
