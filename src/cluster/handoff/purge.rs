//! Items that must go: those that another node knows to be old, and those that this node does not own and nobody needs here.
//!
//! ```text
//!   BEGIN from a node  -->  queued  -->  one walk, a slice each tick: what is older becomes a miss  -->  DONE to all who wait
//!                                          --> PURGED to all others: "send me what you have of these partitions"
//!   partitions sent to their owners  -->  another walk: what this node does not own is released
//! ```
//!
//! Lives here: both walks, and the release of one item. Not here: who announces (`transfer`), pins (`conclude`).
//! Both are Cassandra's cleanup in small steps.

use std::collections::BTreeSet;

use super::partitions::{PartitionLists, links_of};
use crate::buffer::Buffer;
use crate::cluster::requests::{Purpose, Request};
use crate::cluster::view::PeerId;
use crate::cluster::{Cluster, Mistake, PeerRequest, Turn};
use crate::command::{Replica, Value};
use crate::engine::Cursor;
use crate::key::{Key, PARTITIONS_COUNT, bucket_of, partition_of, partition_of_hash};
use crate::peer::frame::{self, Kind};
use crate::version::Version;

/// Lines of the index that one step of a walk looks at.
pub(super) const WALK_BUDGET: u32 = 32;
/// Lines of the index that one tick looks at for purges: about 100 us.
const PURGE_LINES: u32 = 1024;
/// Announcements that wait for one walk, at most.
const ANNOUNCEMENTS_MAX: usize = 1024;

/// Partitions of which old items are to be purged, because a node that knows better has announced them.
#[derive(Debug, Default)]
pub struct Purges {
    /// Not begun.
    queued: Purge,
    /// The walk under way.
    cursor: Option<Cursor>,
    current: Purge,
    purged: u64,
    /// Partitions that were sent to their owners, and in which this node may hold what it does not own.
    unowned: BTreeSet<u32>,
    unowned_cursor: Option<Cursor>,
}

/// What one walk purges, and who waits for it.
#[derive(Debug, Default)]
struct Purge {
    /// By partition: 0 for nothing to purge, else 1 + the version up to which its items are stale. Empty for no partition at all.
    stale: Box<[Version]>,
    /// Partitions in which something was purged.
    purged: BTreeSet<u32>,
    waiting: Vec<PeerRequest>,
}

impl Purge {
    /// The version up to which items of this partition are purged.
    fn stale_through(&self, partition: u32) -> Option<Version> {
        self.stale.get(partition as usize).filter(|stale| stale.is_some()).map(|stale| stale.previous())
    }
}

impl Purges {
    /// Whether one more announcement can be taken.
    pub fn has_room(&self) -> bool {
        self.queued.waiting.len() < ANNOUNCEMENTS_MAX
    }

    /// Notes an announcement of a partition.
    pub fn add(&mut self, partition: u32, stale_through: Version) {
        if self.queued.stale.is_empty() {
            self.queued.stale = vec![Version::NONE; PARTITIONS_COUNT as usize].into();
        }
        let stale = &mut self.queued.stale[partition as usize];
        *stale = (*stale).max(stale_through.next());
    }

    /// Notes who waits for what was announced.
    pub fn answer_later(&mut self, from: PeerRequest) {
        self.queued.waiting.push(from);
    }

    /// Whether something is to be purged.
    pub fn is_busy(&self) -> bool {
        !self.queued.waiting.is_empty() || self.cursor.is_some() || !self.unowned.is_empty()
    }

    /// Partitions were sent to their owners: this node may hold items of them that it does not own. The walk begins again, to see them all.
    pub(super) fn look_for_unowned(&mut self, partitions: impl Iterator<Item = u32>) {
        self.unowned.extend(partitions);
        self.unowned_cursor = None;
    }

    /// Whether anything was ever purged: what is not here may be elsewhere.
    pub fn has_purged(&self) -> bool {
        self.purged > 0 || self.is_busy()
    }
}

/// Removes an item that this node does not own, once every owner has it and no operation still needs it. Whatever its version: what
/// is newer than the hint that has just ended came with hints of its own.
///
/// Not before all that are there share this node's view, as their leases say: under theirs it may be an owner. Looked at again then.
pub(in crate::cluster) fn release_unowned(turn: &mut Turn<'_>, key: &[u8]) {
    if turn.cluster.options.has(Mistake::UnownedKept) {
        return;
    }
    let key = Key::new(key);
    let (bucket, partition) = (turn.bucket_of(key.hash), turn.partition_of(key.hash));
    let view = turn.cluster.view.clone();
    let (owners, pending) = (turn.owners(bucket), view.pending(bucket));
    let mine = owners.is_empty() || owners.contains(&view.me) || pending.contains(&view.me);
    if !mine && !may_drop(turn) {
        turn.cluster.purges.look_for_unowned(std::iter::once(partition));
        return;
    }
    let hints = &turn.cluster.hints;
    let lacks =
        |owner: &PeerId| hints.get(*owner, key.bytes).is_some() || hints.target(*owner).dirty_version(partition).is_some();
    if !mine && !owners.iter().chain(&pending).any(lacks) && !turn.cluster.pins.has(key.hash) {
        turn.engine.forget(&key, turn.now);
    }
}

/// Whether nobody needs what this node does not own: all that are there share its view, and nothing is under way here that was begun under
/// the one before.
fn may_drop(turn: &mut Turn<'_>) -> bool {
    let Cluster { progress, operations, leases, .. } = &mut *turn.cluster;
    leases.has_all(turn.at) && progress.former().is_none() && progress.is_settled(operations)
}

/// Tells a node of what was purged here, so that it sends what it has of that.
pub(super) fn announce(turn: &mut Turn<'_>, node: PeerId) {
    let index = node.index();
    if turn.cluster.handoffs[index].purged.is_empty() || !turn.cluster.handoffs[index].window.has_room() {
        return;
    }
    let purged = std::mem::take(&mut turn.cluster.handoffs[index].purged);
    let mut lists = PartitionLists::default();
    for number in purged {
        let links = links_of(turn, node, number);
        if links.is_empty() {
            turn.cluster.handoffs[index].purged.insert(number);
        }
        let partition = frame::Partition { number, stale_through: Version::NONE, fence: Version::NONE };
        links.into_iter().for_each(|link| lists.add(link, partition));
    }
    let (moment, generation, horizon) = (turn.moment(), turn.cluster.handoffs[index].window.generation(), turn.horizon());
    for (link, list) in lists.iter() {
        turn.cluster.handoffs[index].window.occupy();
        let mut rest = list;
        let numbers = std::iter::from_fn(|| Some(frame::read_partition(&mut rest, horizon).ok()??.number));
        let purpose = Purpose::Purged(node, generation, numbers.collect());
        turn.cluster.send(Request::with_value(link, Kind::Purged, Value::Bytes(list), purpose), moment, |_| {});
    }
}

/// Releases a slice of the items that this node does not own, in partitions that were sent whole.
pub(in crate::cluster) fn unowned_slice(turn: &mut Turn<'_>) {
    if turn.cluster.purges.unowned.is_empty() {
        return;
    }
    if !may_drop(turn) {
        // Leases are asked for while something waits for them.
        turn.cluster.active_now(turn.at);
        return;
    }
    let (view, buckets) = (turn.cluster.view.clone(), turn.buckets());
    let unowned = std::mem::take(&mut turn.cluster.purges.unowned);
    let mut cursor = Some(turn.cluster.purges.unowned_cursor.unwrap_or_default());
    for _ in 0..PURGE_LINES / WALK_BUDGET {
        let Some(from) = cursor else { break };
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        cursor = turn.engine.walk_copies(from, turn.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
            let bucket = bucket_of(replica.key.hash, buckets);
            if unowned.contains(&partition_of(bucket, buckets)) && !view.keeps(view.me, bucket) {
                keys.push(replica.key.bytes.into());
            }
        });
        keys.iter().for_each(|key| release_unowned(turn, key));
    }
    turn.cluster.purges.unowned_cursor = cursor;
    if cursor.is_some() {
        turn.cluster.purges.unowned.extend(unowned);
    }
}

/// Purges a slice of what other nodes have announced as old.
pub(in crate::cluster) fn purge_slice(turn: &mut Turn<'_>) {
    let purges = &mut turn.cluster.purges;
    if purges.cursor.is_none() {
        if purges.queued.waiting.is_empty() {
            return;
        }
        purges.current = std::mem::take(&mut purges.queued);
        purges.cursor = Some(Cursor::default());
    }
    let mut budget = PURGE_LINES / WALK_BUDGET;
    while let Some(cursor) = turn.cluster.purges.cursor.filter(|_| budget > 0) {
        budget -= 1;
        let (buckets, current) = (turn.buckets(), &turn.cluster.purges.current);
        let mut keys: Vec<(Box<[u8]>, Version)> = Vec::new();
        let next = turn.engine.walk_copies(cursor, turn.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
            let partition = partition_of_hash(replica.key.hash, buckets);
            if let Some(through) = current.stale_through(partition)
                && replica.version <= through
                && !replica.tombstone
            {
                keys.push((replica.key.bytes.into(), through));
            }
        });
        for (key, through) in keys {
            let key = Key::new(&key);
            if turn.engine.invalidate_through(&key, through, turn.now) {
                turn.cluster.purges.purged += 1;
                turn.cluster.purges.current.purged.insert(partition_of_hash(key.hash, buckets));
            }
        }
        turn.cluster.purges.cursor = next;
    }
    if turn.cluster.purges.cursor.is_none() {
        let current = std::mem::take(&mut turn.cluster.purges.current);
        for &node in turn.cluster.links.everyone().iter() {
            turn.cluster.handoffs[node.index()].purged.extend(&current.purged);
        }
        for from in current.waiting {
            let mut response = Buffer::default();
            let version = turn.engine.clock();
            frame::write(&mut response, (Kind::Done, 0, 0, from.id), turn.stamp(), Value::EMPTY, |meta| {
                frame::write_version(version, meta);
            });
            turn.cluster.outbox.put_frame(from, response);
        }
    }
}
