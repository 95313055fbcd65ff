//! What other nodes lack and this core has for them: hints by key, dirty bits by partition, and the account of both.
//!
//! ```text
//!   hint:   (owner, key) -> version, since when                  the item itself lies in the engine, readable, no second value
//!   dirty:  owner -> one bit and one version a partition         all that this core holds of it is sent when the owner is back
//!   missing keys:  those of hints, told to the owner before they are sent, so that only these may be stale there
//!
//!   created = replayed + superseded + expired + degraded + rerouted + pending                 at all times, for each owner
//! ```
//!
//! A hint never fails a write: beyond its share of the memory it becomes a dirty bit, and so it does when it is older than the window.
//!
//! Lives here: the store, its bound, its account. Not here: who is owner, when replay runs and what it sends (`handoff`).
//! After Dynamo (SOSP'07, 4.6) and the lessons of Cassandra and ScyllaDB: a hint has a version, a window that flapping does not
//! renew, and a bound that no client feels.

use std::collections::{HashMap, VecDeque};

use crate::cluster::view::PeerId;
use crate::key::PARTITIONS_COUNT;
use crate::time::Timestamp;
use crate::version::Version;

/// Bytes that a hint takes beside its key: entry, queue, allocation.
pub const HINT_BYTES: usize = 112;

/// What a hint takes: its key stands in the table and in the queue.
fn bytes_of(key: &[u8]) -> usize {
    HINT_BYTES + 2 * key.len()
}

/// What became of hints. Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Hints taken.
    pub created: u64,
    /// Their owners have them.
    pub replayed: u64,
    /// A newer write of the same key took the hint's place, or its owner had something newer.
    pub superseded: u64,
    /// Older than the window: the partition is dirty instead.
    pub expired: u64,
    /// Beyond the memory of hints: the partition is dirty instead.
    pub degraded: u64,
    /// The node is no owner of the key any more, or not in the ring.
    pub rerouted: u64,
    /// Not delivered yet.
    pub pending: u64,
}

impl Account {
    /// Whether every hint is accounted for.
    pub fn balances(&self) -> bool {
        self.created == self.replayed + self.superseded + self.expired + self.degraded + self.rerouted + self.pending
    }

    /// Adds another core's account.
    pub fn add(&mut self, other: &Account) {
        self.created += other.created;
        self.replayed += other.replayed;
        self.superseded += other.superseded;
        self.expired += other.expired;
        self.degraded += other.degraded;
        self.rerouted += other.rerouted;
        self.pending += other.pending;
    }
}

/// Why a hint ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Delivered.
    Replayed,
    /// The owner had something as new.
    Superseded,
    /// Not an owner any more.
    Rerouted,
}

/// A hint as it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Version that the owner lacks, at least.
    pub version: Version,
    /// When the owner first lacked something of this key.
    pub since: Timestamp,
    /// Under way to the owner.
    pub sent: bool,
}

/// Hints and dirty partitions for one owner.
#[derive(Debug, Default)]
pub struct Target {
    hints: HashMap<Box<[u8]>, Hint, ahash::RandomState>,
    /// Keys in the order in which they are replayed. A key may stand here though its hint has gone.
    queue: VecDeque<Box<[u8]>>,
    /// How many of them, from the front, the owner has been told of.
    announced: usize,
    /// By partition: 0 for clean, else 1 + the greatest version that was not kept as a hint.
    dirty: Box<[Version]>,
    dirty_count: u32,
    /// Items evicted here before the first of its dirty partitions was marked: if no more were since, all of them is still here.
    pub evicted_before: u64,
    /// What happened; `pending` is counted when asked.
    account: Account,
}

/// What one core keeps for others.
#[derive(Debug)]
pub struct Hints {
    targets: Vec<Target>,
    bytes: usize,
    bytes_max: usize,
    window_ms: u64,
}

impl Hints {
    /// Nothing for any of `nodes` owners.
    pub fn new(nodes: usize, bytes_max: usize, window_ms: u64) -> Self {
        Self { targets: (0..nodes).map(|_| Target::default()).collect(), bytes: 0, bytes_max, window_ms }
    }

    /// So many nodes were ever seen: there is a place for each.
    pub fn grow(&mut self, nodes: usize) {
        self.targets.resize_with(nodes, Target::default);
    }

    /// A node is not in the ring any more: it gets nothing.
    pub fn remove(&mut self, node: PeerId) {
        let target = &mut self.targets[node.index()];
        let bytes: usize = target.hints.keys().map(|key| bytes_of(key)).sum();
        let account = Account { rerouted: target.account.rerouted + target.hints.len() as u64, ..target.account };
        self.bytes -= bytes;
        *target = Target { account, ..Target::default() };
    }

    /// What is kept for one owner.
    pub fn target(&self, node: PeerId) -> &Target {
        &self.targets[node.index()]
    }

    /// Memory of all hints, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is kept for this owner.
    pub fn is_clean(&self, node: PeerId) -> bool {
        self.targets[node.index()].hints.is_empty() && self.targets[node.index()].dirty_count == 0
    }

    /// Notes that `node` lacks `version` of a key.
    pub fn add(&mut self, node: PeerId, key: &[u8], version: Version, partition: u32, now: Timestamp) {
        let target = &mut self.targets[node.index()];
        target.account.created += 1;
        if let Some(hint) = target.hints.get_mut(key) {
            target.account.superseded += 1;
            // What is under way is older: it must be sent once more. The window goes on from the first.
            hint.version = hint.version.max(version);
            if std::mem::take(&mut hint.sent) {
                target.queue.push_back(key.into());
            }
            return;
        }
        let bytes = bytes_of(key);
        if self.bytes + bytes > self.bytes_max {
            target.account.degraded += 1;
            target.mark(partition, version);
            return;
        }
        self.bytes += bytes;
        target.hints.insert(key.into(), Hint { version, since: now, sent: false });
        target.queue.push_back(key.into());
    }

    /// The next hint to send, if there is one: it counts as under way. One past the window becomes a dirty bit; `partition_of` tells
    /// where its key lies.
    pub fn next(&mut self, node: PeerId, now: Timestamp, partition_of: impl Fn(&[u8]) -> u32) -> Option<(Box<[u8]>, Hint)> {
        let target = &mut self.targets[node.index()];
        while let Some(key) = target.queue.pop_front() {
            target.announced = target.announced.saturating_sub(1);
            let Some(hint) = target.hints.get_mut(&key) else { continue };
            if hint.sent {
                continue;
            }
            if now.unix_ms.saturating_sub(hint.since.unix_ms) > self.window_ms {
                let version = hint.version;
                target.account.expired += 1;
                target.hints.remove(&key);
                self.bytes -= bytes_of(&key);
                target.mark(partition_of(&key), version);
                continue;
            }
            hint.sent = true;
            let hint = *hint;
            return Some((key, hint));
        }
        None
    }

    /// Gives the keys, at most `count` of them, that the owner was not told of yet, with their versions: it lacks them. They count
    /// as told.
    pub fn missing_keys(&mut self, node: PeerId, count: usize, mut give: impl FnMut(&[u8], Version)) {
        let target = &mut self.targets[node.index()];
        let end = target.queue.len().min(target.announced + count);
        for key in target.queue.range(target.announced..end) {
            if let Some(hint) = target.hints.get(key) {
                give(key, hint.version);
            }
        }
        target.announced = end;
    }

    /// What the owner was told is lost, or may be.
    pub fn forget_missing(&mut self, node: PeerId) {
        self.targets[node.index()].announced = 0;
    }

    /// The greatest version of a key that somebody lacks; 0 for none. The item itself may have been evicted here.
    pub fn newest(&self, key: &[u8]) -> Version {
        let of_target = |target: &Target| target.hints.get(key).map_or(Version::NONE, |hint| hint.version);
        if self.bytes == 0 { Version::NONE } else { self.targets.iter().map(of_target).max().unwrap_or_default() }
    }

    /// The hint of a key, if it has one.
    pub fn get(&self, node: PeerId, key: &[u8]) -> Option<Hint> {
        self.targets[node.index()].hints.get(key).copied()
    }

    /// What was sent could not be delivered: it waits again.
    pub fn requeue(&mut self, node: PeerId, key: &[u8]) {
        let target = &mut self.targets[node.index()];
        if let Some(hint) = target.hints.get_mut(key)
            && std::mem::take(&mut hint.sent)
        {
            target.queue.push_back(key.into());
        }
    }

    /// A hint that was sent with `version` has ended. False if a newer write has taken its place meanwhile, which waits.
    pub fn end(&mut self, node: PeerId, key: &[u8], version: Version, end: End) -> bool {
        let target = &mut self.targets[node.index()];
        let Some(hint) = target.hints.get(key) else { return false };
        if hint.version > version {
            self.requeue(node, key);
            return false;
        }
        target.hints.remove(key);
        self.bytes -= bytes_of(key);
        match end {
            End::Replayed => target.account.replayed += 1,
            End::Superseded => target.account.superseded += 1,
            End::Rerouted => target.account.rerouted += 1,
        }
        true
    }

    /// Everything that this core has of these partitions must be sent to `node`: it has lost its memory.
    pub fn mark_all(&mut self, node: PeerId, version: Version) {
        (0..PARTITIONS_COUNT).for_each(|partition| self.targets[node.index()].mark(partition, version));
    }

    /// Marks one partition.
    pub fn mark(&mut self, node: PeerId, partition: u32, version: Version) {
        self.targets[node.index()].mark(partition, version);
    }

    /// Takes note of how many items were evicted so far. Often enough: what is evicted between a mark and the note before it is not seen.
    pub fn note_evicted(&mut self, evicted: u64) {
        self.targets.iter_mut().filter(|target| target.dirty_count == 0).for_each(|target| target.evicted_before = evicted);
    }

    /// What was marked of a partition has been sent, as it stood at `version`.
    pub fn clean(&mut self, node: PeerId, partition: u32, version: Version) {
        let target = &mut self.targets[node.index()];
        if let Some(mark) = target.dirty.get_mut(partition as usize)
            && mark.is_some()
            && *mark <= version.next()
        {
            *mark = Version::NONE;
            target.dirty_count -= 1;
        }
    }

    /// As `clean`, but the partition must be sent again: it stays marked with `version`.
    pub fn lower(&mut self, node: PeerId, partition: u32, through: Version, version: Version) {
        self.clean(node, partition, through);
        self.mark(node, partition, version);
    }

    /// The hint of this owner that is sent next, mostly the oldest: milliseconds since it was taken; 0 if there is none.
    pub fn oldest_ms(&self, node: PeerId, now: Timestamp) -> u64 {
        let target = &self.targets[node.index()];
        let next = target.queue.iter().find_map(|key| target.hints.get(key));
        next.map_or(0, |hint| now.unix_ms.saturating_sub(hint.since.unix_ms))
    }
}

impl Target {
    fn mark(&mut self, partition: u32, version: Version) {
        if self.dirty.is_empty() {
            self.dirty = vec![Version::NONE; PARTITIONS_COUNT as usize].into();
        }
        let mark = &mut self.dirty[partition as usize];
        self.dirty_count += u32::from(mark.is_none());
        *mark = (*mark).max(version.next());
    }

    /// The greatest version of a partition that is not kept as a hint; `None` if the partition is clean.
    pub fn dirty_version(&self, partition: u32) -> Option<Version> {
        self.dirty.get(partition as usize).filter(|mark| mark.is_some()).map(|mark| mark.previous())
    }

    /// Whether the owner was told of every key that waits.
    pub fn all_announced(&self) -> bool {
        self.announced == self.queue.len()
    }

    /// Dirty partitions.
    pub fn dirty_count(&self) -> u32 {
        self.dirty_count
    }

    /// Hints that wait or are under way.
    pub fn pending(&self) -> usize {
        self.hints.len()
    }

    /// What happened, and what waits.
    pub fn account(&self) -> Account {
        Account { pending: self.hints.len() as u64, ..self.account }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { unix_ms: 1_000_000 };

    /// The version that is written as this number.
    const fn v(bits: u64) -> Version {
        Version::from_bits(bits)
    }

    fn hints(bytes_max: usize) -> Hints {
        Hints::new(2, bytes_max, 1000)
    }

    #[test]
    fn a_hint_is_replayed_once_and_accounted_for() {
        let mut hints = hints(1 << 20);
        hints.add(PeerId(1), b"a", v(5), 0, NOW);
        hints.add(PeerId(1), b"b", v(6), 0, NOW);
        let (key, hint) = hints.next(PeerId(1), NOW, |_| 0).unwrap();
        assert_eq!((&key[..], hint.version), (&b"a"[..], v(5)));
        assert!(hints.end(PeerId(1), b"a", v(5), End::Replayed));
        assert!(hints.next(PeerId(1), NOW, |_| 0).is_some() && hints.next(PeerId(1), NOW, |_| 0).is_none());
        hints.requeue(PeerId(1), b"b");
        assert!(hints.next(PeerId(1), NOW, |_| 0).is_some());
        assert!(!hints.is_clean(PeerId(1)) && hints.is_clean(PeerId(0)));
        assert!(hints.end(PeerId(1), b"b", v(6), End::Superseded));
        let account = hints.target(PeerId(1)).account();
        assert!(account.balances() && hints.is_clean(PeerId(1)) && hints.bytes() == 0, "{account:?}");
        assert_eq!((account.created, account.replayed, account.superseded), (2, 1, 1));
    }

    #[test]
    fn a_newer_write_while_one_is_under_way_is_sent_again() {
        let mut hints = hints(1 << 20);
        hints.add(PeerId(0), b"k", v(5), 0, NOW);
        hints.next(PeerId(0), NOW, |_| 0).unwrap();
        hints.add(PeerId(0), b"k", v(9), 0, NOW);
        assert!(!hints.end(PeerId(0), b"k", v(5), End::Replayed), "the owner has 5, and lacks 9");
        let (_, hint) = hints.next(PeerId(0), NOW, |_| 0).unwrap();
        assert_eq!(hint.version, v(9));
        assert!(hints.end(PeerId(0), b"k", v(9), End::Replayed) && hints.target(PeerId(0)).account().balances());
    }

    #[test]
    fn what_is_queued_again_is_announced_again() {
        let mut hints = hints(1 << 20);
        let announced = |hints: &mut Hints, count| {
            let mut keys = Vec::new();
            hints.missing_keys(PeerId(0), count, |key, version| keys.push((key.to_vec(), version)));
            keys
        };
        assert!(hints.target(PeerId(0)).all_announced());
        [b"a", b"b", b"c"].into_iter().zip(5..).for_each(|(key, version)| hints.add(PeerId(0), key, v(version), 0, NOW));
        assert_eq!(announced(&mut hints, 2), [(b"a".to_vec(), v(5)), (b"b".to_vec(), v(6))]);
        assert!(!hints.target(PeerId(0)).all_announced());
        assert_eq!(announced(&mut hints, 2), [(b"c".to_vec(), v(7))]);
        assert!(hints.target(PeerId(0)).all_announced());
        hints.next(PeerId(0), NOW, |_| 0).unwrap();
        assert!(hints.target(PeerId(0)).all_announced(), "what is under way is announced");
        hints.add(PeerId(0), b"b", v(8), 0, NOW);
        assert!(hints.target(PeerId(0)).all_announced(), "it still waits");
        hints.add(PeerId(0), b"a", v(9), 0, NOW);
        assert_eq!(announced(&mut hints, 9), [(b"a".to_vec(), v(9))]);
        hints.forget_missing(PeerId(0));
        assert_eq!(announced(&mut hints, 9).len(), 3);
    }

    #[test]
    fn beyond_the_memory_and_past_the_window_a_hint_becomes_a_dirty_bit() {
        let mut hints = hints(HINT_BYTES + 10);
        hints.add(PeerId(0), b"a", v(5), 7, NOW);
        hints.add(PeerId(0), b"b", v(6), 8, NOW);
        assert_eq!((hints.target(PeerId(0)).dirty_version(8), hints.target(PeerId(0)).dirty_version(7)), (Some(v(6)), None));
        assert!(hints.next(PeerId(0), NOW.plus_ms(1001), |_| 7).is_none());
        assert_eq!(hints.target(PeerId(0)).dirty_version(7), Some(v(5)));
        let account = hints.target(PeerId(0)).account();
        assert!(account.balances() && account.pending == 0 && account.expired == 1 && account.degraded == 1, "{account:?}");
        hints.mark(PeerId(0), 8, v(10));
        hints.clean(PeerId(0), 8, v(6));
        assert_eq!(hints.target(PeerId(0)).dirty_version(8), Some(v(10)), "what came meanwhile stays");
        hints.clean(PeerId(0), 8, v(10));
        hints.clean(PeerId(0), 7, v(10));
        assert!(hints.is_clean(PeerId(0)));
    }
}
