//! What other nodes have of a key: asked for, and taken over.
//!
//! ```text
//!   FETCH k  -->  FOUND: item or tombstone, with its version  -->  merge: the greatest version stays
//!                                                                  not owned here: a hint for each owner
//! ```
//!
//! Lives here: fetches and merges. Not here: who is asked and why (`coordinate`, `replicate`), the rule of a merge (`engine`).

use super::Turn;
use super::conclude::with_plain_key;
use super::links::LinkId;
use super::requests::{Purpose, Request};
use super::view::PeerId;
use crate::command::{Command, Replica};
use crate::engine::Merge;
use crate::peer::frame::{self, Frame, FrameError, Kind};
use crate::version::Version;

/// What a node that was asked for a key has told.
pub(super) enum Found {
    /// This version of it, which is here now or was already; 0 for nothing.
    Here(Version),
    /// Something newer, and there is no memory for it.
    Busy,
}

/// Takes over what a node has of a key.
///
/// # Errors
/// It cannot be read.
pub(super) fn take_over(turn: &mut Turn<'_>, node: PeerId, frame: &Frame<'_>) -> Result<Found, FrameError> {
    if frame.head.kind != Kind::Found || frame.meta.is_empty() {
        return Ok(Found::Here(Version::NONE));
    }
    let put = frame::read_replica(frame.meta, frame.value, turn.horizon())?;
    let (version, key, buckets) = (put.replica.version, put.replica.key, turn.buckets());
    let taken = merge_past(turn, &put.replica, false);
    if taken == Merge::Busy {
        return Ok(Found::Busy);
    }
    turn.cluster.leases.forget_missing((node, &turn.cluster.links), (key.hash, version), buckets);
    if taken == Merge::Taken {
        match turn.keeps(turn.cluster.view.me, key.hash) {
            true => hint_pending(turn, &put.replica),
            false => hint_owners(turn, &put.replica),
        }
        turn.cluster.operations.overtaken(key.whole_hash());
    }
    Ok(Found::Here(version))
}

/// Asks for what the core at the other end of a link has of a command's key.
pub(super) fn fetch(turn: &mut Turn<'_>, link: LinkId, command: &Command<'_>, purpose: Purpose) {
    let moment = turn.moment();
    turn.cluster.figures.consulted += 1;
    with_plain_key(command, |key| {
        turn.cluster.send(Request::new(link, Kind::Fetch, purpose), moment, |output| frame::write_key(key, output));
    });
}

/// Merges what has come from another node, unless something newer was here and has gone that others are still to hear of.
pub(super) fn merge_past(turn: &mut Turn<'_>, incoming: &Replica<'_>, exempt: bool) -> Merge {
    let newest = turn.cluster.hints.newest(incoming.key.bytes);
    if newest > incoming.version && turn.engine.copy_of(&incoming.key, turn.now).is_none() {
        return Merge::Kept { version: newest };
    }
    turn.engine.merge_past(incoming, turn.now, exempt)
}

/// Keeps hints for the nodes with these hashes: they are owners that lack the item.
pub(super) fn hint_node_hashes(turn: &mut Turn<'_>, replica: &Replica<'_>, node_hashes: &[u64]) {
    let partition = turn.partition_of(replica.key.hash);
    for &node_hash in node_hashes {
        match turn.cluster.view.peer_with_hash(node_hash) {
            Some(node) if node != turn.cluster.view.me => {
                turn.cluster.hints.add(node, replica.key.bytes, replica.version, partition, turn.now);
            }
            _ => {}
        }
    }
}

/// What lies on a node that does not own it is there for its owners: a hint sees that they get it, and that it does not stay.
pub(super) fn hint_owners(turn: &mut Turn<'_>, replica: &Replica<'_>) {
    let partition = turn.partition_of(replica.key.hash);
    let bucket = turn.bucket_of(replica.key.hash);
    let owners = turn.owners(bucket);
    for &owner in owners.iter().filter(|&&owner| owner != turn.cluster.view.me) {
        turn.cluster.hints.add(owner, replica.key.bytes, replica.version, partition, turn.now);
    }
    hint_pending(turn, replica);
}

/// What comes to an owner from elsewhere, while data moves, has not been seen by those that bring it to the next owners: a hint for each.
pub(super) fn hint_pending(turn: &mut Turn<'_>, replica: &Replica<'_>) {
    if turn.cluster.view.target.is_none() {
        return;
    }
    let (bucket, partition) = (turn.bucket_of(replica.key.hash), turn.partition_of(replica.key.hash));
    let (pending, me) = (turn.cluster.view.pending(bucket), turn.me());
    for node in pending.into_iter().filter(|&node| node != me) {
        turn.cluster.hints.add(node, replica.key.bytes, replica.version, partition, turn.now);
    }
}
