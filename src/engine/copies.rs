//! Items that other nodes hold too: how two copies become one, and what stays of a deleted one.
//!
//! ```text
//!   merge:      greater version > tombstone > greater (value, flags, expiry, ..)        the same whichever comes first
//!   tombstone:  a record without a value, until its time is over, or memory is needed and all of them take more than
//!               their share; then only a fence stays:
//!   fences:     | 0 | v | 0 | ... |   one a partition: a copy of an absent key with a version up to v is refused
//! ```
//!
//! A fence may refuse a copy that nobody deleted: a miss, never a deleted item that returns. A lone node has neither.
//!
//! An item that expires leaves a tombstone too, where another node may still have what it had overwritten: one that was written since
//! something was last held elsewhere for this shard (`settle`).
//!
//! Lives here: merge, export, tombstones, fences. Not here: who else holds a copy, what travels (`cluster`).
//! Merge is the last-writer-wins register of Shapiro et al., *Conflict-free Replicated Data Types*, with a total order on ties.

use std::cmp::Ordering;

use super::execute::{Found, Refusal, Source, TRIES_MAX, Write};
use super::index::{Place, Slot};
use super::item::{self, Shape, Stamp};
use super::segment::Location;
use super::{Cursor, Engine, Merge, Replication, version_slot};
use crate::command::{Replica, Reply, Value};
use crate::key::{self, Key};
use crate::limits::KEY_BYTES_MAX;
use crate::time::{Expiry, Seconds, Timestamp};
use crate::version::Version;

impl Engine {
    /// Takes an item from elsewhere (replication, hints, transfer, restart), if it is newer than what is here: the higher version
    /// wins, at equal versions a tombstone, then the greater value bytes. Commutative, associative, idempotent.
    pub fn merge(&mut self, incoming: &Replica<'_>, now: Timestamp) -> Merge {
        self.merge_past(incoming, now, false)
    }

    /// As `merge`; `exempt` from the fence of its partition is what a holder streams that has just announced what it has.
    pub fn merge_past(&mut self, incoming: &Replica<'_>, now: Timestamp, exempt: bool) -> Merge {
        if now != self.now {
            self.advance(now);
        }
        let seconds = now.seconds();
        if incoming.version < self.fence || incoming.version >= VERSION_END {
            return Merge::Kept { version: self.fence };
        }
        let hash = self.index.hash(&incoming.key);
        for _ in 0..TRIES_MAX {
            let here = self.locate(hash, incoming.key.bytes, seconds);
            match here {
                Some((_, location)) if self.order(incoming, location) != Ordering::Greater => {
                    return Merge::Kept { version: self.log.record(location).version() };
                }
                None if !exempt && incoming.version <= self.fence_of(&incoming.key) => {
                    return Merge::Kept { version: self.fence_of(&incoming.key) };
                }
                _ => {}
            }
            let found = here.map(|(place, location)| Found { place, location });
            let found = found.filter(|found| !self.log.record(found.location).is_tombstone());
            if incoming.expiry.expired(seconds) {
                // What it has overwritten is gone all the same, here and wherever that comes from.
                if !incoming.tombstone {
                    return self.merge_past(&self.tombstone(incoming.key, incoming.version, now), now, exempt);
                }
                if let Some((place, location)) = here {
                    self.remove(Found { place, location }, hash);
                }
                self.observe(incoming.version);
                return Merge::Taken;
            }
            let mut write = Write::new(incoming.key.bytes, hash, found, Source::New(incoming.value));
            (write.client_flags, write.cas_override) = (incoming.client_flags, incoming.cas_override);
            (write.expiry, write.version) = (incoming.expiry, Some(incoming.version));
            (write.stale, write.token_sent, write.tombstone) = (incoming.stale, incoming.token_sent, incoming.tombstone);
            match self.put(&write, now) {
                Ok(_) => return Merge::Taken,
                Err(Refusal::Again) => {}
                Err(_) => return Merge::Busy,
            }
        }
        Merge::Busy
    }

    /// The item of a key as it would travel, or its tombstone. Does not count as a use.
    pub fn copy_of(&mut self, key: &Key<'_>, now: Timestamp) -> Option<Replica<'_>> {
        if now != self.now {
            self.advance(now);
        }
        let hash = self.index.hash(key);
        let (place, _) = self.locate(hash, key.bytes, now.seconds())?;
        Some(self.incoming(self.index.slot(place)))
    }

    /// Whether a readable item of this key is here. Does not count as a use.
    pub fn contains(&mut self, key: &Key<'_>, now: Timestamp) -> bool {
        self.copy_of(key, now).is_some_and(|copy| !copy.tombstone)
    }

    /// Deletes what this key has here up to `version`, and leaves a tombstone of that version: what a delete does whose item is
    /// elsewhere.
    pub fn delete_as_of(&mut self, key: &Key<'_>, version: Version, now: Timestamp) -> Merge {
        self.merge_past(&self.tombstone(*key, version, now), now, true)
    }

    /// A tombstone that deletes everything up to `version`.
    pub fn tombstone<'k>(&self, key: Key<'k>, version: Version, now: Timestamp) -> Replica<'k> {
        Replica {
            key,
            value: Value::EMPTY,
            client_flags: 0,
            version,
            cas_override: None,
            expiry: self.tombstone_expiry(now),
            stale: false,
            token_sent: false,
            tombstone: true,
        }
    }

    /// Removes the item or tombstone of a key without a trace: other nodes have it.
    pub fn forget(&mut self, key: &Key<'_>, now: Timestamp) {
        let hash = self.index.hash(key);
        if let Some((place, location)) = self.locate(hash, key.bytes, now.seconds()) {
            self.remove(Found { place, location }, hash);
        }
    }

    /// Gives the item or tombstone of a key a new version. `None` if there is none.
    pub fn bump_version_of(&mut self, key: &Key<'_>, now: Timestamp) -> Option<Version> {
        let hash = self.index.hash(key);
        let (_, location) = self.locate(hash, key.bytes, now.seconds())?;
        self.bump_version(location, now);
        self.poll_change()
    }

    /// Items that were evicted since start.
    #[inline]
    pub fn evicted_count(&self) -> u64 {
        self.statistics.evicted
    }

    /// Makes a miss of an item that may not be the newest, if it is not newer than `version`. What is left refuses older copies, and
    /// gives way to the same item from a node that is authoritative. Returns whether it did.
    pub fn invalidate_through(&mut self, key: &Key<'_>, version: Version, now: Timestamp) -> bool {
        let hash = self.index.hash(key);
        let Some((place, location)) = self.locate(hash, key.bytes, now.seconds()) else { return false };
        let record = self.log.record(location);
        let own = record.version();
        if own > version || record.is_tombstone() {
            return false;
        }
        self.remove(Found { place, location }, hash);
        self.merge_past(&self.tombstone(*key, own.previous(), now), now, true);
        true
    }

    /// Visits what would travel, tombstones included, and what has expired and will be one: see `walk`.
    pub fn walk_copies(
        &mut self,
        cursor: Cursor,
        now: Timestamp,
        budget: u32,
        visit: &mut dyn FnMut(Replica<'_>),
    ) -> Option<Cursor> {
        let seconds = now.seconds();
        self.walk_lines(cursor, now, budget, &mut |engine, slot| {
            let replica = engine.incoming(slot);
            if replica.version < engine.fence {
                return;
            }
            match replica.expiry.expired(seconds) {
                false => visit(replica),
                true if replica.tombstone || replica.version <= engine.settled => {}
                true => visit(engine.tombstone(replica.key, replica.version, now)),
            }
        })
    }

    /// The version of the last change since this was last asked, if there was one. A command changes one key at most: who asks after each
    /// misses nothing. Merges say themselves what came of them; what is evicted or has expired is no change.
    #[inline]
    pub fn poll_change(&mut self) -> Option<Version> {
        self.changed.take()
    }

    /// This core is part of a ring from now on: deletes leave tombstones, and its versions differ from those of other nodes.
    pub fn replicate(&mut self, replication: Replication) {
        self.options.replication = Some(replication);
        (self.version_slot, self.version_step) = version_slot(&self.options);
        if self.fences.is_empty() {
            self.fences = vec![Version::NONE; key::PARTITIONS_COUNT as usize].into();
        }
    }

    /// A version that no write so far has, and that later ones exceed.
    pub fn new_version(&mut self, now: Timestamp) -> Version {
        let version = self.next_version(now);
        self.changed = None;
        version
    }

    /// Greatest version seen: this core's clock.
    #[inline]
    pub fn clock(&self) -> Version {
        self.last_version
    }

    /// No other node has anything that a version up to `settled` has overwritten, and nothing of the kind is on its way. Up to `settling`,
    /// something may be on its way still.
    pub fn settle(&mut self, settled: Version, settling: Version) {
        self.settled = self.settled.max(settled);
        self.settling = self.settling.max(settling);
    }

    /// Takes note of a version that another node has given: ours come behind it.
    #[inline]
    pub fn observe(&mut self, version: Version) {
        self.last_version = self.last_version.max(version);
    }

    /// Everything below `version` is flushed. Fences only rise.
    pub fn raise_fence(&mut self, version: Version) {
        self.fence = self.fence.max(version);
        self.observe(version);
    }

    /// Everything below this version was flushed.
    #[inline]
    pub fn fence(&self) -> Version {
        self.fence
    }

    /// Greatest version of a tombstone of this partition that is no longer here; 0 for none.
    pub fn partition_fence(&self, partition: u32) -> Version {
        self.fences.get(partition as usize).copied().unwrap_or_default()
    }

    /// Raises the fence of a partition: what another node no longer remembers to be deleted is refused here too.
    pub fn raise_partition_fence(&mut self, partition: u32, version: Version) {
        if let Some(fence) = self.fences.get_mut(partition as usize) {
            *fence = (*fence).max(version);
        }
    }

    fn partition_of(&self, key: &Key<'_>) -> u32 {
        let buckets = self.options.replication.map_or(1, |replication| replication.buckets);
        key::partition_of_hash(key.hash, buckets)
    }

    fn fence_of(&self, key: &Key<'_>) -> Version {
        if self.fences.is_empty() { Version::NONE } else { self.partition_fence(self.partition_of(key)) }
    }

    fn tombstone_expiry(&self, now: Timestamp) -> Expiry {
        let life_s = self.options.replication.map_or(0, |replication| replication.tombstone_s);
        Expiry(now.seconds().0.saturating_add(life_s))
    }

    /// The record of a key, tombstone or not. One that is out of its time is removed.
    fn locate(&mut self, hash: u64, key: &[u8], now: Seconds) -> Option<(Place, Location)> {
        let log = &self.log;
        let place = self.index.find(hash, |location| log.record(location).key() == key)?;
        let location = self.index.slot(place).location();
        if !log.record(location).unreadable(now, self.fence) {
            return Some((place, location));
        }
        self.remove_unreadable(Found { place, location }, hash, now);
        // What has expired may have left a tombstone.
        let log = &self.log;
        let place = self.index.find(hash, |location| log.record(location).key() == key)?;
        Some((place, self.index.slot(place).location()))
    }

    fn incoming(&self, slot: Slot) -> Replica<'_> {
        let record = self.log.record(slot.location());
        Replica {
            key: Key::new(record.key()),
            value: self.log.value(record),
            client_flags: record.client_flags(),
            version: record.version(),
            cas_override: record.cas_override(),
            expiry: record.expiry(),
            stale: record.stale(),
            token_sent: record.token_sent(),
            tombstone: record.is_tombstone(),
        }
    }

    /// How an incoming item stands to the one here. `Equal` only if they are the same in every byte.
    fn order(&self, incoming: &Replica<'_>, location: Location) -> Ordering {
        let record = self.log.record(location);
        let versions = incoming.version.cmp(&record.version());
        let marks = versions.then_with(|| incoming.tombstone.cmp(&record.is_tombstone()));
        if marks != Ordering::Equal || incoming.tombstone {
            return marks;
        }
        let values = match (incoming.value, self.log.value(record)) {
            (Value::Bytes(there), Value::Bytes(here)) => there.cmp(here),
            // Rare, and long: compared on the heap.
            (there, here) => there.to_vec().cmp(&here.to_vec()),
        };
        let rest = |flags: u32, expiry: Expiry, cas: Option<u64>, stale: bool, token: bool| (flags, expiry, cas, stale, token);
        values.then_with(|| {
            let there = (incoming.client_flags, incoming.expiry, incoming.cas_override, incoming.stale, incoming.token_sent);
            there.cmp(&rest(record.client_flags(), record.expiry(), record.cas_override(), record.stale(), record.token_sent()))
        })
    }

    /// A change that writes no new record still makes a new version, where copies must follow it.
    pub(super) fn bump_version(&mut self, location: Location, now: Timestamp) {
        if self.options.replication.is_none() {
            return;
        }
        let stamp = self.log.record(location).stamp();
        let version = self.next_version(now);
        let id = self.log.extent_of(location);
        let extent = self.log.extent_mut(id);
        extent.version_max = extent.version_max.max(version);
        let header = self.log.header_mut(location);
        item::restamp(header, Stamp { version, ..stamp });
        item::used(header, now.seconds());
    }

    /// Deletes an item that is there: on a lone node without a trace.
    pub(super) fn delete_found<'e>(&mut self, key: &[u8], hash: u64, found: Found, now: Timestamp) -> Reply<'e> {
        if self.options.replication.is_none() {
            self.remove(found, hash);
            return Reply::Deleted;
        }
        self.remove(found, hash);
        let mut write = Write::new(key, hash, None, Source::New(Value::EMPTY));
        (write.tombstone, write.expiry) = (true, self.tombstone_expiry(now));
        if self.put_absent(&write, now).is_err() {
            // No memory for a tombstone: the fence keeps the item away as well, and some others.
            let (version, partition) = (self.next_version(now), self.partition_of(&Key::new(key)));
            self.raise_partition_fence(partition, version);
        }
        Reply::Deleted
    }

    /// Removes the tombstone of a key that is about to be written.
    pub(super) fn clear_tombstone(&mut self, hash: u64, key: &[u8]) {
        let log = &self.log;
        if let Some(place) = self.index.find(hash, |location| log.record(location).key() == key) {
            let location = self.index.slot(place).location();
            self.remove(Found { place, location }, hash);
        }
    }

    /// Puts a tombstone in the place of an item that has expired, if other nodes may have an older one. False if the item is to be removed.
    pub(super) fn expire_to_tombstone(&mut self, found: Found, now: Seconds) -> bool {
        let record = self.log.record(found.location);
        let (version, extended) = (record.version(), record.is_extended());
        if self.options.replication.is_none() || version <= self.settled || record.is_tombstone() {
            return false;
        }
        let mut key = [0; KEY_BYTES_MAX];
        let key_bytes = record.key().len();
        key[..key_bytes].copy_from_slice(record.key());
        let key = &key[..key_bytes];
        let shape = Shape { key_bytes, tombstone: true, ..Shape::default() };
        let expiry = match version <= self.settling {
            true => Expiry(now.0.saturating_add(TRACE_S)),
            false => self.tombstone_expiry(Timestamp::from_seconds(now.0)),
        };
        let bytes = shape.record_bytes();
        let (queue, group) = (self.queue_of(found.location), self.log.group_of(expiry, now));
        if !self.log.has_room(queue, group, bytes, 0) && !self.lease_free() {
            // The fence keeps the older item away as well, and some others.
            let partition = self.partition_of(&Key::new(key));
            self.raise_partition_fence(partition, version);
            return false;
        }
        let target = self.log.append(queue, group, bytes, expiry, version);
        let stamp = Stamp { version, expiry, stale: false, token_sent: false };
        shape.write(self.log.bytes_mut(target, bytes), key, stamp);
        if extended {
            self.log.remove_extent(found.location);
        }
        self.log.kill(found.location);
        self.index.update(found.place, Slot::live(target, 0, false));
        self.tombstones += 1;
        self.tombstone_bytes += bytes;
        true
    }

    /// A record is about to go for want of memory or time: of a tombstone, a fence stays, if anything is left that it must keep away.
    pub(super) fn reap(&mut self, location: Location) {
        let record = self.log.record(location);
        if record.is_tombstone() && record.version() > self.settled {
            let (partition, version) = (self.partition_of(&Key::new(record.key())), record.version());
            self.raise_partition_fence(partition, version);
        }
    }
}

/// No clock gives versions from here on (the year 6429); were one taken, no later write here could be newer.
const VERSION_END: Version = Version::from_bits(1 << 63);

/// How long an item that has expired leaves a trace where older ones can only be on their way, in seconds.
const TRACE_S: u32 = 10;
