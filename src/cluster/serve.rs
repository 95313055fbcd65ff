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

use super::handoff::transfer;
use super::links::Reach;
use super::merge::{hint_node_hashes, hint_owners, hint_pending, merge_past};
use super::operations::Passage;
use super::refuse::{refuse, refuse_key};
use super::requests::REPLAYED;
use super::view::PeerId;
use super::{Cluster, Mistake, Origin, PeerRequest, Turn, coordinate};
use crate::buffer::Buffer;
use crate::command::{Effect, Reply, Value};
use crate::engine::Merge;
use crate::key::Key;
use crate::limits;
use crate::observe::Client;
use crate::peer::frame::{self, Along, Element, Execute, Frame, FrameError, Kind, OpenReplies, PutDone};
use crate::protocol::{self, Framing, Head};
use crate::routing::Place;
use crate::time::Monotonic;
use crate::version::Version;

/// Handles a request of a peer; what can be answered at once goes to `output`.
///
/// # Errors
/// It cannot be read.
pub(super) fn serve(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let is_patient = turn.cluster.options.has(Mistake::DeadlineIgnored);
    let from = PeerRequest { deadline: if is_patient { Monotonic::NEVER } else { from.deadline }, ..from };
    match frame.head.kind {
        Kind::Execute => {
            let (repeated_since, passed_on, meta) = frame::read_history(frame.head.flags, frame.meta, turn.horizon())?;
            // Who sent it is there, though it may not have made contact so far: it may hold something newer for this node.
            if let Some(node) = passed_on.and_then(|node_hash| turn.cluster.view.peer_with_hash(node_hash)) {
                turn.on_contact(node);
            }
            let execute = frame::read_execute(meta, frame.value)?;
            let follows = frame.head.flags & frame::FLAG_FOLLOWS != 0;
            let passage = Passage { hops: frame.head.hops, deadline: from.deadline, follows, repeated_since };
            serve_execute(turn, from, passage, &execute, (output, None))
        }
        Kind::Batch => serve_batch(turn, from, frame, output),
        Kind::Put => serve_put(turn, from, frame, output),
        Kind::Fetch => serve_fetch(turn, from, frame, output),
        Kind::Sync => {
            let committed_through = frame::read_version(frame.meta, turn.horizon())?;
            turn.cluster.uncommitted.commit_through(from, committed_through);
            done(turn, from, turn.engine.clock(), output);
            Ok(())
        }
        Kind::Fence => {
            let version = frame::read_version(frame.meta, turn.horizon())?;
            let seen = version.max(turn.engine.clock().next());
            if !turn.cluster.options.has(Mistake::FenceSkipped) {
                turn.engine.raise_fence(version);
            }
            done(turn, from, seen, output);
            Ok(())
        }
        Kind::Begin => serve_begin(turn, from, frame, output),
        Kind::Purged => serve_purged(turn, from, frame, output),
        Kind::Missing => serve_missing(turn, from, frame, output),
        _ => Err(FrameError("an answer where a request was expected")),
    }
}

/// Partitions that a node is about to send whole: answered when what is old there is purged.
fn serve_begin(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let Value::Bytes(mut list) = frame.value else { return Err(FrameError("a list beyond its bounds")) };
    if !turn.cluster.purges.has_room() {
        refuse(turn, from, output);
        return Ok(());
    }
    while let Some(partition) = frame::read_partition(&mut list, turn.horizon())? {
        turn.engine.raise_partition_fence(partition.number, partition.fence);
        turn.cluster.purges.add(partition.number, partition.stale_through);
    }
    turn.cluster.purges.answer_later(from);
    Ok(())
}

/// Partitions of which a node has purged what it had.
fn serve_purged(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let Value::Bytes(mut list) = frame.value else { return Err(FrameError("a list beyond its bounds")) };
    while let Some(partition) = frame::read_partition(&mut list, turn.horizon())? {
        if let Some(node) = from.node {
            transfer::send_again(turn, node, partition.number);
        }
    }
    done(turn, from, turn.engine.clock(), output);
    Ok(())
}

/// Keys that are missing here and that a node has for us: only these may be stale.
fn serve_missing(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let (Some(node), Value::Bytes(mut list)) = (from.node, frame.value) else {
        refuse(turn, from, output);
        return Ok(());
    };
    let (buckets, horizon, mut taken) = (turn.buckets(), turn.horizon(), true);
    while let Some((hash, version)) = frame::read_lacking(&mut list, horizon)? {
        if turn.cluster.options.has(Mistake::MissingIgnored) {
            continue;
        }
        taken &= turn.routes.core_of(hash) == turn.core
            && turn.cluster.leases.add_missing(turn.cluster.links.link_of(node, hash, buckets), (hash, version), turn.at);
    }
    match taken {
        true => done(turn, from, turn.engine.clock(), output),
        false => refuse(turn, from, output),
    }
    Ok(())
}

/// Several commands: what they need is fetched for some of them at once, before the first is executed.
fn serve_batch(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let Value::Bytes(mut batch) = frame.value else { return Err(FrameError("a batch beyond its bounds")) };
    let mut replies = OpenReplies::default();
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
            turn.engine.prepare(some.iter().map(|element| &element.execute.command.key));
        }
        for &Element { id, follows, ref execute } in &some {
            let (hops, deadline) = (frame.head.hops, from.deadline);
            let passage = Passage { hops, deadline, follows, repeated_since: Version::NONE };
            serve_execute(turn, PeerRequest { id, ..from }, passage, execute, (output, Some(&mut replies)))?;
        }
    }
    Err(FrameError("a batch beyond its bounds"))
}

fn serve_execute(
    turn: &mut Turn<'_>,
    from: PeerRequest,
    passage: Passage,
    execute: &Execute<'_>,
    (output, replies): (&mut Buffer, Option<&mut OpenReplies>),
) -> Result<(), FrameError> {
    let head = Head::from_bytes(&execute.framing).ok_or(FrameError("a framing of no protocol"))?;
    let command = &execute.command;
    // Who sent it has given it up by then, and perhaps had it executed elsewhere.
    let is_pure = command.verb.effect() == Effect::Pure;
    let too_late = !is_pure && turn.at >= from.deadline;
    let follows = passage.follows && !turn.cluster.options.has(Mistake::RefusalForgotten);
    if too_late
        || turn.routes.core_of(command.key.hash) != turn.core
        || turn.cluster.refused.includes(from, follows, command.key.whole_hash(), turn.at)
    {
        refuse_key(turn, from, command.key.whole_hash(), output);
        return Ok(());
    }
    turn.cluster.figures.served += 1;
    if passage.repeated_since.is_none() && coordinate::place(turn, command) == Some(Place::Here) {
        let before = turn.engine.glance_for(turn.observer, command, turn.now);
        let reply = turn.engine.execute(command, turn.now);
        if !matches!(reply, Reply::Busy) {
            let mut scratch = std::mem::take(&mut turn.cluster.scratch);
            let framing = Framing { head, words: execute.words };
            protocol::encode(&framing, command.key.bytes, &reply, &mut scratch);
            turn.counters.record(&command.verb, &reply);
            if turn.observer.is_on() {
                let client = Client { descriptor: 0, meta: head.is_meta() };
                turn.observer.record(command, client, before, &reply, turn.now);
            }
            let stamp = turn.stamp();
            if !replies.is_some_and(|replies| replies.push(output, from.id, stamp, &scratch)) {
                frame::write_reply(output, from.id, stamp, &mut scratch);
            }
            scratch.clear();
            turn.cluster.scratch = scratch;
            return Ok(());
        }
    }
    let deadline = if is_pure { Monotonic::NEVER } else { passage.deadline };
    let passage = Passage { hops: passage.hops.clamp(1, coordinate::HOPS_MAX), deadline, ..passage };
    if !coordinate::take(turn, Origin::Peer(from), passage, command, head, execute.words) {
        refuse_key(turn, from, command.key.whole_hash(), output);
    }
    Ok(())
}

fn serve_put(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let mut put = frame::read_replica(frame.meta, frame.value, turn.horizon())?;
    if turn.routes.core_of(put.replica.key.hash) != turn.core {
        refuse(turn, from, output);
        return Ok(());
    }
    if frame.head.hops == REPLAYED && turn.cluster.options.has(Mistake::HintWithoutVersion) {
        put.replica.version = turn.engine.new_version(turn.now);
    }
    if let Some(committed_through) = put.committed_through {
        turn.cluster.uncommitted.commit_through(from, committed_through);
    }
    let done = match merge_past(turn, &put.replica, put.exempt) {
        Merge::Taken => PutDone::Taken,
        Merge::Kept { version } => PutDone::Kept(version),
        Merge::Busy => PutDone::Busy,
    };
    if let Some(node) = from.node.filter(|_| done != PutDone::Busy) {
        let buckets = turn.buckets();
        let (hash, version) = (put.replica.key.hash, put.replica.version);
        turn.cluster.leases.forget_missing((node, &turn.cluster.links), (hash, version), buckets);
    }
    if done == PutDone::Taken {
        turn.cluster.operations.overtaken(put.replica.key.whole_hash());
        turn.cluster.figures.copies_taken += 1;
        let (me, hash) = (turn.me(), put.replica.key.hash);
        match put.missing.is_empty() {
            // Its sender may not know who else is to have it.
            _ if !turn.shares_view(&frame.head) && !turn.cluster.options.has(Mistake::OtherViewTrusted) => {
                hint_owners(turn, &put.replica)
            }
            true if !turn.keeps(me, hash) => hint_owners(turn, &put.replica),
            _ => hint_node_hashes(turn, &put.replica, &put.missing),
        }
        if frame.head.hops == REPLAYED && turn.owns(me, hash) {
            hint_pending(turn, &put.replica);
        }
        if put.committed_through.is_some() && !turn.cluster.options.has(Mistake::AllCommitted) {
            turn.cluster.uncommitted.add(from, put.replica.version, put.replica.key.bytes, turn.at);
        }
    }
    frame::write(output, (Kind::PutDone, 0, 0, from.id), turn.stamp(), Value::EMPTY, |meta| done.write(meta));
    Ok(())
}

fn serve_fetch(turn: &mut Turn<'_>, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
    let key = frame::read_key(frame.meta)?;
    if turn.routes.core_of(key.hash) != turn.core {
        refuse(turn, from, output);
        return Ok(());
    }
    let (flags, stamp) = (grant_lease(turn, from) | authority_flag(turn, &key), turn.stamp());
    let head = (Kind::Found, flags, 0, from.id);
    let lacks = from.node.and_then(|node| lacked_by(turn, node, &key));
    match turn.engine.copy_of(&key, turn.now) {
        Some(replica) => {
            frame::write(output, head, stamp, replica.value, |meta| frame::write_replica(&replica, Along::default(), meta));
        }
        // What that node lacks was here and has gone: it must not take what it has for the newest.
        None => match lacks {
            Some(version) => {
                let replica = turn.engine.tombstone(key, version, turn.now);
                frame::write(output, head, stamp, Value::EMPTY, |meta| frame::write_replica(&replica, Along::default(), meta));
            }
            None => frame::write(output, head, stamp, Value::EMPTY, |_| {}),
        },
    }
    Ok(())
}

/// The flag that says that this node's answer is authoritative: what it has of a key is the newest there is.
fn authority_flag(turn: &mut Turn<'_>, key: &Key<'_>) -> u8 {
    let me = turn.me();
    let authoritative = turn.cluster.leases.all_peers_up(turn.at)
        && !turn.cluster.leases.is_missing(&turn.cluster.links, key.hash, turn.buckets())
        && turn.owns(me, key.hash)
        && (coordinate::has_lost_nothing(turn) || turn.engine.copy_of(key, turn.now).is_some());
    if authoritative || turn.cluster.options.has(Mistake::AlwaysAuthoritative) { frame::FLAG_AUTHORITATIVE } else { 0 }
}

/// Version of this key that a node lacks, or may lack, as far as is known here.
fn lacked_by(turn: &Turn<'_>, node: PeerId, key: &Key<'_>) -> Option<Version> {
    let hint = turn.cluster.hints.get(node, key.bytes).map(|hint| hint.version);
    let dirty = turn.cluster.hints.target(node).dirty_version(turn.partition_of(key.hash));
    let dirty = dirty.filter(|_| !turn.has_all_for(node));
    // That version itself is what is lacking, and no reason to drop it where it has arrived by another way.
    hint.or(dirty).map(Version::previous).filter(|version| version.is_some())
}

/// What this core reports to a node, and the flags that grant it a lease, if it can be granted: nothing is held for it that it does not know of, and it is not
/// away for us.
fn grant_lease(turn: &mut Turn<'_>, from: PeerRequest) -> u8 {
    let Some(node) = from.node else { return 0 };
    let Cluster { progress, links, operations, .. } = &mut *turn.cluster;
    let mut flags = progress.flags(links, operations);
    let index = node.index();
    let (target, handoff) = (turn.cluster.hints.target(node), &turn.cluster.handoffs[index]);
    let clean = turn.cluster.hints.is_clean(node) && handoff.is_idle();
    // Who goes for good holds nothing for anybody then, or nothing that can be got rid of.
    let goes = turn.cluster.view.target.as_ref().is_some_and(|target| !target.has(turn.cluster.view.me));
    let has_tried = target.pending() == 0 && turn.at >= handoff.filled_at() + limits::LEAVE_DRAIN_MS_MAX;
    let gave_all = !handoff.is_filling() && (!goes || clean || has_tried);
    flags |= if gave_all { frame::FLAG_GAVE_ALL } else { 0 };
    if flags & frame::FLAG_SETTLED == 0 || !handoff.has_no_copies() {
        return flags;
    }
    let announced = target.all_announced() && target.dirty_count() == 0 && handoff.has_announced_missing();
    let away = turn.cluster.links.reach(node, turn.own_hash(), turn.buckets(), turn.at) == Reach::Away;
    if !(clean || announced) || away {
        return flags;
    }
    turn.cluster.leases.note_grant(node, turn.at);
    flags | frame::FLAG_SYNCED | if clean { frame::FLAG_CLEAN } else { 0 }
}

fn done(turn: &mut Turn<'_>, from: PeerRequest, version: Version, output: &mut Buffer) {
    let flags = grant_lease(turn, from);
    frame::write(output, (Kind::Done, flags, 0, from.id), turn.stamp(), Value::EMPTY, |meta| {
        frame::write_version(version, meta);
    });
}
