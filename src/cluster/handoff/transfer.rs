//! Dirty partitions, sent whole: where hints were too many, or a node has lost its memory.
//!
//! ```text
//!   BEGIN: partitions, and up to which version its items may be stale there  -->  it purges those, then confirms
//!   walk over the index: every item of them that the node owns  -->  PUT       all have arrived: the partitions are clean
//! ```
//!
//! What is marked dirty meanwhile stays so: only the versions up to which the transfer began are cleaned at its end.
//!
//! Lives here: one transfer from its announcement to its end. Not here: marks (`hints`), what the receiver does (`purge`).

use std::collections::BTreeMap;

use super::partitions::{PartitionLists, links_of};
use super::purge::WALK_BUDGET;
use crate::cluster::links::Reach;
use crate::cluster::requests::{Purpose, Request, SentItem};
use crate::cluster::view::PeerId;
use crate::cluster::{Cluster, Turn};
use crate::command::{Replica, Value};
use crate::engine::Cursor;
use crate::key::{Key, PARTITIONS_COUNT, bucket_of, partition_of};
use crate::peer::frame::{self, Along, Kind};
use crate::version::Version;

/// Dirty partitions on their way.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Partitions and the versions up to which they were dirty when this began.
    marks: BTreeMap<u32, Version>,
    /// Their fences then, where there were any.
    fences: BTreeMap<u32, Version>,
    /// Announcements that were not confirmed yet.
    announced: u32,
    cursor: Option<Cursor>,
    /// An item did not arrive: the partitions stay dirty.
    failed: bool,
}

impl Transfer {
    /// An announcement was confirmed, or refused.
    pub(super) fn confirmed(&mut self, cleared: bool) {
        self.announced = self.announced.saturating_sub(1);
        self.failed |= !cleared;
    }
}

/// Sends dirty partitions, a slice at a time.
pub(super) fn send(turn: &mut Turn<'_>, node: PeerId) {
    let index = node.index();
    if turn.cluster.handoffs[index].transfer.is_none() && !begin(turn, node) {
        return;
    }
    while turn.cluster.handoffs[index].window.has_room() {
        let handoff = &mut turn.cluster.handoffs[index];
        let Some(transfer) = &mut handoff.transfer else { return };
        if transfer.announced > 0 {
            return;
        }
        let Some(cursor) = transfer.cursor else { break };
        let marks = std::mem::take(&mut transfer.marks);
        let next = walk(turn, node, cursor, &marks);
        if let Some(transfer) = &mut turn.cluster.handoffs[index].transfer {
            (transfer.marks, transfer.cursor) = (marks, next);
        }
    }
    end(turn, node);
}

/// Announces the partitions that the node must clear first. False if there is nothing to do, or the node is away.
fn begin(turn: &mut Turn<'_>, node: PeerId) -> bool {
    let index = node.index();
    if turn.cluster.hints.target(node).dirty_count() == 0 || !turn.cluster.handoffs[index].window.is_empty() {
        return false;
    }
    let (hash, buckets) = (turn.own_hash(), turn.buckets());
    if turn.cluster.links.reach(node, hash, buckets, turn.at).link().is_none() {
        return false;
    }
    let target = turn.cluster.hints.target(node);
    let marks: BTreeMap<u32, Version> =
        (0..PARTITIONS_COUNT).filter_map(|partition| Some((partition, target.dirty_version(partition)?))).collect();
    // With nothing evicted, all that is newer than what the node has is still here, and follows.
    let keeps_all = turn.has_all_for(node);
    let mut lists = PartitionLists::default();
    let mut fences = BTreeMap::new();
    for (&number, &version) in &marks {
        let fence = turn.engine.partition_fence(number);
        if fence.is_some() {
            fences.insert(number, fence);
        }
        // A node that has lost its memory has lost its fences, too: what lies below may have come back to it meanwhile.
        let stale_through = match version {
            PURGED => Version::NONE,
            _ if keeps_all => fence,
            version => version.previous().max(fence),
        };
        // Whoever gets something new gets what is known of deletes along with it.
        let is_new = turn.cluster.handoffs[index].is_filling() && fence.is_some();
        if stale_through.is_some() || is_new {
            let partition = frame::Partition { number, stale_through, fence };
            links_of(turn, node, number).into_iter().for_each(|link| lists.add(link, partition));
        }
    }
    let (moment, generation) = (turn.moment(), turn.cluster.handoffs[index].window.generation());
    let mut announced = 0;
    for (link, list) in lists.iter() {
        announced += 1;
        let purpose = Purpose::Begin(node, generation);
        turn.cluster.send(Request::with_value(link, Kind::Begin, Value::Bytes(list), purpose), moment, |_| {});
    }
    turn.cluster.handoffs[index].transfer =
        Some(Transfer { marks, fences, announced, cursor: Some(Cursor::default()), failed: false });
    true
}

/// One step of the walk: sends the items that the node owns in these partitions.
fn walk(turn: &mut Turn<'_>, node: PeerId, cursor: Cursor, marks: &BTreeMap<u32, Version>) -> Option<Cursor> {
    let mut keys: Vec<Box<[u8]>> = Vec::new();
    let (cluster, buckets) = (&*turn.cluster, turn.buckets());
    let next = turn.engine.walk_copies(cursor, turn.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
        let bucket = bucket_of(replica.key.hash, buckets);
        let partition = partition_of(bucket, buckets);
        if marks.contains_key(&partition) && is_from_here(cluster, node, replica.key.hash, bucket) {
            keys.push(replica.key.bytes.into());
        }
    });
    for key in keys {
        let plain = Key::new(&key);
        let Reach::There(link) = turn.cluster.links.reach(node, plain.hash, buckets, turn.at) else {
            fail(turn, node);
            continue;
        };
        let (moment, now) = (turn.moment(), turn.now);
        let Some(replica) = turn.engine.copy_of(&plain, now) else { continue };
        let generation = turn.cluster.handoffs[node.index()].window.generation();
        let purpose = Purpose::Stream(SentItem { node, key: key.clone(), version: replica.version, generation });
        turn.cluster.figures.streamed += 1;
        turn.cluster.send(Request::with_value(link, Kind::Put, replica.value, purpose).replayed(), moment, |output| {
            frame::write_replica(&replica, Along { exempt: true, ..Along::default() }, output);
        });
        turn.cluster.handoffs[node.index()].window.spend();
    }
    next
}

/// Whether this core sends a node what it has of a bucket. An owner gets it from everybody that has it; who owns it next, from the first
/// owner that is there and lacks nothing itself.
fn is_from_here(cluster: &Cluster, node: PeerId, hash: u64, bucket: u32) -> bool {
    let view = &*cluster.view;
    let owners = view.ring.owners_of(bucket);
    if view.index_of(node).is_some_and(|index| owners.contains(&index)) {
        return true;
    }
    let lacks_nothing =
        |owner: PeerId| !cluster.links.is_away(owner, hash, view.ring.buckets()) && cluster.hints.is_clean(owner);
    let mut owners = owners.iter().map(|&index| view.peer(index));
    let source = owners.find(|&owner| owner == view.me || (owner != node && lacks_nothing(owner)));
    source.is_none_or(|source| source == view.me) && view.is_pending(node, bucket)
}

/// A node has purged old items of a partition, and lacks what was purged. It is not told to purge again: others may have sent by then
/// what an announcement of ours takes for old, and the two would go on for ever.
pub(in crate::cluster) fn send_again(turn: &mut Turn<'_>, node: PeerId, partition: u32) {
    let index = node.index();
    let transfer = turn.cluster.handoffs[index].transfer.as_mut().filter(|transfer| transfer.announced == 0);
    match transfer.and_then(|transfer| transfer.marks.remove(&partition)) {
        // It may have purged what this transfer has sent already.
        Some(version) => turn.cluster.hints.lower(node, partition, version, PURGED),
        None => turn.cluster.hints.mark(node, partition, PURGED),
    }
}

/// An item of a transfer has not arrived.
pub(in crate::cluster) fn fail(turn: &mut Turn<'_>, node: PeerId) {
    if let Some(transfer) = &mut turn.cluster.handoffs[node.index()].transfer {
        transfer.failed = true;
    }
}

/// The walk is over and everything has arrived: the partitions are clean, but for what was marked meanwhile.
fn end(turn: &mut Turn<'_>, node: PeerId) {
    let index = node.index();
    let handoff = &mut turn.cluster.handoffs[index];
    let over = |transfer: &Transfer| transfer.cursor.is_none() && transfer.announced == 0;
    if !handoff.window.is_empty() || !handoff.transfer.as_ref().is_some_and(over) {
        return;
    }
    let Some(transfer) = handoff.transfer.take() else { return };
    handoff.on_walked(transfer.failed, turn.at);
    if transfer.failed {
        return;
    }
    for (&partition, &version) in &transfer.marks {
        // What has expired on the way, and left no more than a fence, is announced next.
        if turn.engine.partition_fence(partition) == transfer.fences.get(&partition).copied().unwrap_or_default() {
            turn.cluster.hints.clean(node, partition, version);
        }
    }
    // Partitions with hints too: their items were kept while the partition was dirty. Restart the scan to include them.
    turn.cluster.purges.look_for_unowned(transfer.marks.keys().copied());
}

/// Marks of partitions that stand for no write: a node has purged what was old there or owns more than before, or has lost its memory.
pub(super) const PURGED: Version = Version::NONE;
pub(super) const ALL: Version = Version::from_bits(1);
