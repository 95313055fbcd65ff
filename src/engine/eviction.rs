//! Who goes when memory is needed, and how a segment is emptied.
//!
//! ```text
//!   new item --> small queue --(asked for again)--> main queue --(counter > 0: back to the end, counter - 1)--+
//!                    |                                  ^  |                                                  |
//!                    +--> gone, a ghost stays           |  +--> gone, a ghost stays                           |
//!   key with a ghost -----------------------------------+<----------------------------------------------------+
//! ```
//!
//! ```text
//!   draining a segment:   | kept | dead | gone | kept | not looked at yet |       in slices, or at once when a store waits
//!                           v                    v
//!                        copied behind the open segment of its queue and group
//! ```
//!
//! Memory is taken, in this order, from segments with much that is dead (compaction, `compaction`), from expired ones, from the small
//! queue while it holds more than its share (`queue_size`), else from the main queue. While the arena still has room, the small queue
//! passes its oldest segments on to main as they are.
//!
//! A store fails only if its item cannot fit. While it waits for room, every second victim raises the uses that keep a record, and after
//! six of them segments are emptied altogether: what one call does is bounded by a few segments. Memory is given back in one kind and
//! leased in another (`exchange`), so what a segment or a long value leaves serves either.
//!
//! A long value is judged by itself. A segment with hardly anything but heads of such values passes to the end as it is: with values of
//! 8 KB, emptying one gave up 900 items, half of a shard of 8 MB. A head that is moved keeps its counter, which its value's own turn
//! needs: when the move counted as a use of it, popular values of 5 to 30 KB were lost (misses 1.06 of an LRU's, now 0.95).
//!
//! An item that expires in main, or that was asked for in small, leaves a ghost as well: stored again, it starts in main. That is
//! worth 2.0 % of misses with TTL mix A and 1.1 % with B (`benches/hit_ratio.rs`).
//!
//! Lives here: choosing, draining, making room. Not here: when it is done ahead of need (`upkeep`), the queues (`segment`). Once
//! main seems stale, a counter is set to 0 on the way back: old favourites leave after one lap (misses after a shift to other keys,
//! over those of a fresh cache: 1.046, else 1.056). The rule is S3-FIFO (SOSP'23) at the grain of segments; grouping by TTL follows
//! Segcache (NSDI'21).

use super::execute::{Found, Refusal};
use super::index::{Ghost, Place};
use super::segment::{Location, Queue};
use super::{Engine, segment};
use crate::arena::{Arena, PAGE_BYTES};
use crate::command::Error;
use crate::key::Key;
use crate::time::{Expiry, Seconds, Timestamp};

/// What a store needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub queue: Queue,
    pub group: u8,
    pub record_bytes: usize,
    pub pages: usize,
}

/// A segment being emptied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    id: u32,
    /// Behind the last record that was looked at.
    offset: u32,
    reason: Reason,
}

/// Why a segment is emptied: what happens to its readable items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nothing in it is readable any more.
    Expired,
    /// It is mostly dead: what lives moves together.
    Compaction,
    /// It is the oldest of its queue: what was used stays.
    Eviction,
    /// As before, but nothing stays: room must come of it.
    Purge,
}

impl Engine {
    /// Free segments that stores leave for copies of what is kept. A tiny shard has none to spare and copies less.
    pub(super) fn spare(&self) -> usize {
        usize::from(self.log.held_bytes() >= SPARE_SEGMENTS_MIN * self.log.segment_bytes())
    }

    /// Bytes of the arena that this shard holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.log.held_bytes() + self.index.bytes()
    }

    /// Bytes that this shard may hold when others want some.
    pub(super) fn share_bytes(&self) -> usize {
        self.arena.limit_bytes() / usize::from(self.options.cores.max(1))
    }

    /// Whether a store of this kind can be done now. Takes pages that the arena has.
    pub(super) fn has_room(&mut self, need: &Need) -> bool {
        self.log.has_room(need.queue, need.group, need.record_bytes, self.spare()) && self.has_pages(need.pages)
    }

    fn has_pages(&mut self, pages: usize) -> bool {
        self.log.free_pages_count() >= pages || (self.may_lease() && self.log.lease_pages(pages))
    }

    /// Makes room for a store, by waiting work if need be.
    ///
    /// What was used stays at first. The longer it takes, the more an item must have been used, and in the end nothing stays: every
    /// victim gives all that it has, so the work is bounded by what is needed.
    pub(super) fn make_room(&mut self, need: &Need, now: Timestamp) -> Result<(), Refusal> {
        for round in 0..ROUNDS_MAX {
            if self.has_room(need) {
                // The index grows with what a segment holds: its memory comes first.
                if !self.index.is_short() || self.index.commit_ahead() || self.log.segments_count() < SPARE_SEGMENTS_MIN {
                    self.be_patient();
                    return Ok(());
                }
                self.log.give_back(0);
                self.index.commit_ahead();
                continue;
            }
            if self.exchange(need) {
                continue;
            }
            if self.held_bytes() < self.share_bytes() {
                self.arena.want(self.log.segment_bytes());
            }
            if self.options.eviction_disabled {
                if self.free_dead(now.seconds()) {
                    continue;
                }
                self.statistics.out_of_memory += 1;
                return Err(Refusal::Final(Error::OutOfMemory));
            }
            if !self.free_one(now.seconds(), round, |engine| need.pages > 0 && engine.has_room(need)) {
                break;
            }
        }
        self.be_patient();
        self.arena.want(self.log.segment_bytes() + need.pages * PAGE_BYTES);
        Err(Refusal::Busy)
    }

    /// Leases a segment, where the arena has one to give.
    pub(super) fn lease_free(&mut self) -> bool {
        let leased = self.may_lease() && self.log.lease();
        if leased {
            self.promote();
        }
        leased
    }

    /// Leases what is missing, or gives free memory of one kind back to lease the other. False when neither can be done.
    fn exchange(&mut self, need: &Need) -> bool {
        let spare = self.spare();
        if !self.log.has_room(need.queue, need.group, need.record_bytes, spare) {
            let unneeded = self.log.free_pages_count().saturating_sub(need.pages) * PAGE_BYTES;
            let given = unneeded >= self.log.segment_bytes() && self.log.give_pages_back(need.pages) > 0;
            if (given || self.may_lease()) && self.log.lease() {
                self.promote();
                return true;
            }
            return false;
        }
        // What a record needs of the free segments stays.
        let kept = spare + usize::from(!self.log.fits_open(need.queue, need.group, need.record_bytes));
        self.log.give_back(kept) > 0 && self.log.lease_pages(need.pages)
    }

    /// Gives memory back to the arena until `bytes` can be leased there.
    pub(super) fn make_arena_room(&mut self, bytes: usize, now: Timestamp) -> Result<(), Refusal> {
        let needed = bytes + self.log.segment_bytes();
        let fits = |arena: &Arena| arena.used_bytes() + needed <= arena.limit_bytes();
        for round in 0..ROUNDS_MAX + needed / PAGE_BYTES {
            if fits(&self.arena) {
                self.be_patient();
                return Ok(());
            }
            if self.log.give_back(self.spare()) > 0 || self.log.give_pages_back(0) > 0 {
                continue;
            }
            if self.options.eviction_disabled {
                self.statistics.out_of_memory += 1;
                return Err(Refusal::Final(Error::OutOfMemory));
            }
            if !self.free_one(now.seconds(), round, |engine| engine.log.free_pages_count() * PAGE_BYTES >= needed) {
                break;
            }
        }
        self.be_patient();
        self.arena.want(needed);
        Err(Refusal::Busy)
    }

    /// Whether this shard may take more from the arena: not while another one waits and this one has its share.
    fn may_lease(&self) -> bool {
        self.arena.wanted_bytes() == 0 || self.held_bytes() < self.share_bytes()
    }

    /// While nothing is evicted, the small queue keeps to its share by passing its oldest extents on as they are.
    fn promote(&mut self) {
        while self.queue_size.is_over(self.log.queue_bytes(Queue::Small), self.log.queue_bytes(Queue::Main))
            && let Some(id) = self.log.oldest(Queue::Small)
        {
            let extent = self.log.extent(id);
            if extent.state == segment::State::Open {
                return;
            }
            self.pass(id);
        }
    }

    /// Goes on with the drain under way, or begins with one more victim, until it has given its memory or `is_enough`. False when there
    /// is nothing to take.
    fn free_one(&mut self, now: Seconds, round: usize, mut is_enough: impl FnMut(&mut Self) -> bool) -> bool {
        self.uses_more = (round / ROUNDS_PER_USE) as u32;
        if self.drain.is_none() && !self.choose(now) {
            return false;
        }
        if round >= PATIENT_ROUNDS
            && let Some(drain) = &mut self.drain
        {
            drain.reason = Reason::Purge;
        }
        while self.drain.is_some() && !is_enough(self) {
            self.drain_slice(SLICE, now);
        }
        true
    }

    /// Room was made: from now on, what was used stays again.
    fn be_patient(&mut self) {
        self.uses_more = 0;
        if let Some(drain) = &mut self.drain
            && drain.reason == Reason::Purge
        {
            drain.reason = Reason::Eviction;
        }
    }

    /// Drains what nobody can read. False when there is nothing of that kind.
    fn free_dead(&mut self, now: Seconds) -> bool {
        if self.drain.is_none() {
            let expired = (0..self.log.extents_end()).find(|&id| self.is_expired(id, now));
            match expired {
                Some(id) => self.start(id as u32, Reason::Expired),
                None => match self.log.sparsest(self.log.free_count() == 0) {
                    Some(id) => self.start(id, Reason::Compaction),
                    None => return false,
                },
            }
        }
        while self.drain.is_some() {
            self.drain_slice(SLICE, now);
        }
        true
    }

    /// Whether the extent of this number is a segment in which nothing is readable.
    pub(super) fn is_expired(&self, id: usize, now: Seconds) -> bool {
        self.log.extent_if(id).is_some_and(|extent| {
            extent.value_record().is_none()
                && extent.state != segment::State::Draining
                && extent.used_bytes > 0
                && (extent.expiry_max_s <= now.0 || extent.version_max < self.fence)
        })
    }

    /// Begins to drain a segment.
    pub(super) fn start(&mut self, id: u32, reason: Reason) {
        debug_assert!(self.drain.is_none());
        self.log.start_draining(id);
        self.drain = Some(Drain { id, offset: 0, reason });
    }

    /// Picks the next victim and begins to drain it; a long value goes at once. False when there is nothing to take.
    pub(super) fn choose(&mut self, now: Seconds) -> bool {
        if let Some(id) = self.log.sparsest(self.log.free_count() == 0) {
            self.start(id, Reason::Compaction);
            return true;
        }
        for _ in 0..VALUES_PASSED_MAX {
            let Some(id) = self.next_victim() else { return false };
            let extent = self.log.extent(id);
            match extent.value_record() {
                // Nothing would come of it: what it holds goes with the values behind it.
                None if extent.is_of_heads() && extent.state == segment::State::Sealed => self.pass(id),
                None => {
                    self.start(id, Reason::Eviction);
                    return true;
                }
                Some(location) => {
                    if self.keep_or_evict_value(id, location, now) {
                        return true;
                    }
                }
            }
        }
        // Every long value was asked for lately: the oldest extent goes all the same.
        let Some(id) = self.log.oldest(Queue::Main).or_else(|| self.log.oldest(Queue::Small)) else { return false };
        match self.log.extent(id).value_record() {
            None => self.start(id, Reason::Eviction),
            Some(location) => self.evict_at(location),
        }
        true
    }

    /// The extent that comes next.
    fn next_victim(&mut self) -> Option<u32> {
        let first = self.queue_size.next(self.log.queue_bytes(Queue::Small), self.log.queue_bytes(Queue::Main));
        let second = if first == Queue::Small { Queue::Main } else { Queue::Small };
        self.log.oldest(first).or_else(|| self.log.oldest(second))
    }

    /// Lets an extent go to the end of main.
    fn pass(&mut self, id: u32) {
        self.log.unlink(id);
        self.log.push(Queue::Main, id);
    }

    /// Evicts a long value, or lets it pass to the end of main. True if memory came of it.
    fn keep_or_evict_value(&mut self, id: u32, location: Location, now: Seconds) -> bool {
        self.statistics.judged += 1;
        let hash = self.hash_at(location);
        let Some(place) = self.place_of(location, hash) else { unreachable!("a long value without a slot") };
        if self.log.record(location).unreadable(now, self.fence) {
            self.remove_unreadable(Found { place, location }, hash, now);
            return true;
        }
        let slot = self.index.slot(place);
        let queue = self.log.extent(id).queue;
        if slot.frequency() < self.uses_needed(queue, self.log.extent_bytes(self.log.record(location))) {
            self.evict(place, hash, true);
            return true;
        }
        let frequency = self.frequency_after(queue, slot.frequency());
        self.index.update(place, super::index::Slot::live(location, frequency, slot.fetched()));
        self.pass(id);
        false
    }

    fn evict_at(&mut self, location: Location) {
        let hash = self.hash_at(location);
        if let Some(place) = self.place_of(location, hash) {
            self.evict(place, hash, true);
        }
    }

    /// Whether tombstones take more than their share of the memory.
    fn has_many_tombstones(&self) -> bool {
        self.tombstone_bytes > self.share_bytes() / TOMBSTONES_PART
    }

    /// The hash of the record at a location.
    #[inline]
    pub(super) fn hash_at(&self, location: Location) -> u64 {
        self.index.hash(&Key::new(self.log.record(location).key()))
    }

    /// The slot of the record with this hash at a location, if the record is live.
    #[inline]
    pub(super) fn place_of(&self, location: Location, hash: u64) -> Option<Place> {
        self.index.find(hash, |candidate| candidate == location)
    }

    /// Removes an item to make room. `ghost`: the hash is its own, so that a ghost may stay.
    pub(super) fn evict(&mut self, place: Place, hash: u64, ghost: bool) {
        let slot = self.index.slot(place);
        self.note_eviction(slot);
        let location = slot.location();
        let record = self.log.record(location);
        self.statistics.evicted += 1;
        self.statistics.evicted_unfetched += u64::from(!slot.fetched());
        self.statistics.evicted_nonzero += u64::from(record.expiry() != Expiry::NEVER);
        self.statistics.evicted_time_s = u64::from(record.idle_s(self.now.seconds()));
        let (bytes, queue) = (record.record_bytes() + self.log.extent_bytes(record), self.queue_of(location));
        self.reap(location);
        self.queue_size.evicted(queue, bytes, self.log.held_bytes());
        self.remove_as(Found { place, location }, hash, ghost.then_some(Ghost::Evicted(queue)));
    }

    /// Removes an item with this hash; perhaps a ghost stays.
    pub(super) fn remove_as(&mut self, found: Found, hash: u64, ghost: Option<Ghost>) {
        let record = self.log.record(found.location);
        if record.is_tombstone() {
            self.tombstones -= 1;
            self.tombstone_bytes -= record.record_bytes();
        }
        if record.is_extended() {
            self.log.remove_extent(found.location);
        }
        self.log.kill(found.location);
        match ghost {
            Some(ghost) => self.index.remove_to_ghost(found.place, hash, ghost),
            None => self.index.remove(found.place, hash),
        }
    }

    /// Uses that an item of this many bytes must have had to stay. What takes the place of several others must be worth several. Not in a
    /// main that seems stale, whose counters start again at each lap: nothing would be used so often in one.
    fn uses_needed(&self, queue: Queue, bytes: usize) -> u32 {
        if queue == Queue::Main && self.queue_size.main_is_stale() {
            return 1;
        }
        let (items, all_bytes) = (self.index.live, self.log.live_bytes + self.log.values_bytes());
        match bytes.saturating_mul(items) {
            product if product <= LARGE_MEANS.saturating_mul(all_bytes) => 1,
            product if product <= HUGE_MEANS.saturating_mul(all_bytes) => 2,
            _ => 3,
        }
    }

    /// The queue in which an item waits: a long value has a place of its own there.
    pub(super) fn queue_of(&self, location: Location) -> Queue {
        let record = self.log.record(location);
        let id = if record.is_extended() { record.extent_id() } else { self.log.extent_of(location) };
        self.log.extent(id).queue
    }

    /// The counter of an item that stays when its segment of `queue` is drained.
    fn frequency_after(&self, queue: Queue, frequency: u32) -> u32 {
        if queue == Queue::Small || self.queue_size.main_is_stale() { 0 } else { frequency.saturating_sub(1) }
    }

    /// Looks at up to `budget` records of the segment being drained; frees it when all are done.
    pub(super) fn drain_slice(&mut self, budget: u32, now: Seconds) {
        let Some(mut drain) = self.drain else { return };
        let mut left = budget;
        let (mut next, mut offset) = self.look_ahead(drain.id, drain.offset, left.min(BATCH));
        while left > 0 && self.log.extent(drain.id).live_items > 0 {
            let batch = next;
            debug_assert!(!batch.is_empty(), "live records that no slot knows");
            if batch.is_empty() {
                break;
            }
            drain.offset = offset;
            left -= batch.len() as u32;
            // The index lines of the next records come while these are decided about.
            (next, offset) = self.look_ahead(drain.id, offset, left.min(BATCH));
            self.index.prefetch_behind(batch.iter().map(|&(_, hash)| hash));
            for &(location, hash) in &batch {
                self.keep_or_evict(location, hash, drain.reason, now);
            }
        }
        if self.log.extent(drain.id).live_items == 0 {
            self.drain = None;
            self.log.finish_draining(drain.id);
        } else {
            self.drain = Some(drain);
        }
    }

    /// The next records of a segment with their hashes, their index lines asked for, and the offset behind them.
    fn look_ahead(&self, id: u32, mut offset: u32, count: u32) -> (Batch, u32) {
        let mut batch = Batch::new();
        while batch.len() < count as usize
            && let Some((location, next)) = self.log.next_record(id, offset)
        {
            let hash = self.hash_at(location);
            self.index.prefetch(&self.index.start_probe(hash));
            batch.push((location, hash));
            offset = next;
        }
        (batch, offset)
    }

    /// Decides about one record of a segment that is drained.
    fn keep_or_evict(&mut self, location: Location, hash: u64, reason: Reason, now: Seconds) {
        self.statistics.judged += 1;
        let Some(place) = self.place_of(location, hash) else { return };
        let record = self.log.record(location);
        if record.unreadable(now, self.fence) {
            return self.remove_unreadable(Found { place, location }, hash, now);
        }
        let slot = self.index.slot(place);
        let queue = self.log.extent(self.log.extent_of(location)).queue;
        let extended = record.is_extended();
        // By the time that is left now, which may be much less than when it was written.
        let group = self.log.group_of(record.expiry(), now);
        let stays = match reason {
            Reason::Expired | Reason::Compaction => true,
            // The value has its own place in the queue.
            _ if extended => true,
            Reason::Purge => false,
            Reason::Eviction if record.is_tombstone() && !self.has_many_tombstones() => true,
            Reason::Eviction => slot.frequency() >= self.uses_needed(queue, record.record_bytes()) + self.uses_more,
        };
        let target = if reason == Reason::Eviction { Queue::Main } else { queue };
        if !stays || !self.relocate(Found { place, location }, target, group, 0) {
            return self.evict(place, hash, true);
        }
        // Of a long value only the head was moved: its own turn counts.
        if reason == Reason::Eviction && !extended {
            let slot = self.index.slot(place);
            let frequency = self.frequency_after(queue, slot.frequency());
            self.index.update(place, super::index::Slot::live(slot.location(), frequency, slot.fetched()));
        }
    }
}

/// Records of a segment with their hashes.
type Batch = arrayvec::ArrayVec<(Location, u64), { BATCH as usize }>;

/// Shards with fewer segments leave none to spare.
const SPARE_SEGMENTS_MIN: usize = 4;
/// An item counts as large, or huge, from this many times the mean size on. Misses with Meta's sizes, without / so: kvcache .2741 /
/// .2713, graph objects .4560 / .4508, associations .3689 / .3640; 2 and 8 times instead: .2681, .4481, .3635, but then a shift to
/// values three times as long is slow, because they count as large: misses over those of a fresh cache 1.033 to 1.098 instead of
/// 1.035.
const LARGE_MEANS: usize = 4;
const HUGE_MEANS: usize = 16;
/// Tombstones are kept for their time while they take no more than one part in this many of the shard's share.
const TOMBSTONES_PART: usize = 16;
/// Victims after which an item must have been used once more to stay, while room is made for one store.
const ROUNDS_PER_USE: usize = 2;
/// Victims that one store may drain while anything stays; further ones are emptied altogether, so that room comes.
const PATIENT_ROUNDS: usize = 6;
/// Rounds of making room for one store: beyond the patient ones, each brings a segment or a long value, and 24 pages are the most that
/// is needed beside a segment.
const ROUNDS_MAX: usize = 64;
/// Long values in a row that may pass because they were used. Each passes at most four times.
const VALUES_PASSED_MAX: usize = 1024;
/// Records whose index lines are fetched together.
const BATCH: u32 = 16;
/// Records after which a store looks whether it has room.
const SLICE: u32 = 4 * BATCH;
