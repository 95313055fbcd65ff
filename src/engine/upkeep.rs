//! Work in the background, in slices: what a store would otherwise have to wait for.
//!
//! ```text
//!   tick:  go on with the drain under way
//!          else once a second: look through the segments for expired ones and drain them
//!          else give back what others want         (node over its limit, or a core in need, and this one has more than its share)
//!          else keep a few segments free           (only when the arena has none)
//!          else grow the index
//! ```
//!
//! Lives here: `tick`, the walk over all items, growth of the index. Not here: what a drain does (`eviction`).

use super::eviction::Reason;
use super::index::Slot;
use super::{Cursor, Engine};
use crate::key::Key;
use crate::time::Timestamp;

/// Milliseconds for which the only item of a shard is not given up for others.
const LONE_ITEM_MS: u64 = 20;

/// How far the look through the segments has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    second: u32,
    next: usize,
}

impl Engine {
    pub(super) fn upkeep(&mut self, now: Timestamp, budget: u32) -> bool {
        if now != self.now {
            self.advance(now);
        }
        self.feed_index();
        let shrinks = self.shrink_index(now);
        if self.drain.is_none() {
            self.sweep(now);
        }
        if self.drain.is_none() && self.gives(now) {
            if let bytes @ 1.. = self.log.give_back(self.spare()) + self.log.give_pages_back(0) {
                self.arena.satisfy(bytes);
                return true;
            }
            let held = self.held_bytes();
            if !self.choose(now.seconds()) {
                return false;
            }
            self.arena.satisfy(held.saturating_sub(self.held_bytes()));
        }
        if self.log.free_pages_count() > PAGES_KEPT_MAX {
            self.log.give_pages_back(PAGES_KEPT_MAX);
        }
        if self.drain.is_none() && self.short_of_free() {
            self.choose(now.seconds());
        }
        if self.drain.is_none() {
            return shrinks || self.sweep.next < self.log.extents_end();
        }
        self.drain_slice(budget, now.seconds());
        true
    }

    /// Looks at some segments whether they are expired. All of them once a second.
    fn sweep(&mut self, now: Timestamp) {
        let seconds = now.seconds();
        if self.sweep.next >= self.log.extents_end() {
            if self.sweep.second == seconds.0 {
                return;
            }
            self.sweep = Sweep { second: seconds.0, next: 0 };
        }
        let end = self.log.extents_end().min(self.sweep.next + SWEEP_EXTENTS);
        while self.sweep.next < end {
            let id = self.sweep.next;
            self.sweep.next += 1;
            if self.is_expired(id, seconds) {
                return self.start(id as u32, Reason::Expired);
            }
        }
    }

    /// Whether memory of this shard should go back to the arena.
    fn gives(&self, now: Timestamp) -> bool {
        let wanted = self.arena.wanted_bytes().max(self.arena.excess_bytes());
        if wanted == 0 || self.log.held_bytes() == 0 {
            return false;
        }
        if self.options.eviction_disabled {
            return self.log.free_count() > self.spare();
        }
        // What was stored a moment ago would be the first to go, where it is all that this shard has: others give before it.
        let age_ms = now.unix_ms.saturating_sub(self.last_version.given_at().unix_ms);
        if self.options.cores > 1 && self.index.live <= 1 && age_ms < LONE_ITEM_MS {
            return false;
        }
        // Each core gives its part of what is wanted, at least a segment, down to its share less that part.
        let part = (wanted / usize::from(self.options.cores.max(1))).max(self.log.segment_bytes());
        // What is on its way in and out of connections belongs to no core, and leaves less than a share for each: a core that
        // holds half of what would be its part of everything in use gives too, or nobody would.
        let cores = usize::from(self.options.cores.max(1));
        let held = self.statistics().segment_bytes as usize + self.index.bytes();
        held + part > self.share_bytes() || 2 * held * cores >= self.arena.used_bytes()
    }

    /// Whether fewer segments are free than should be, and the arena has no more.
    fn short_of_free(&self) -> bool {
        if self.options.eviction_disabled || self.log.segments_count() < RESERVE_SEGMENTS_MIN {
            return false;
        }
        let full = self.arena.used_bytes() + self.log.segment_bytes() > self.arena.limit_bytes();
        full && self.log.free_count() < 2 + self.log.segments_count() / RESERVE_PART
    }

    /// Splits lines while there are too many items for them.
    pub(super) fn grow_index(&mut self) {
        for _ in 0..SPLITS_MAX {
            if !self.index.crowded() || !self.split_line() {
                return;
            }
        }
    }

    /// As `grow_index`, with memory of a free segment where the arena has none. Small shards leave it at longer chains.
    fn feed_index(&mut self) {
        if self.index.is_short()
            && !self.index.commit_ahead()
            && self.log.segments_count() >= RESERVE_SEGMENTS_MIN
            && self.log.give_back(self.spare()) > 0
        {
            self.index.commit_ahead();
        }
        self.grow_index();
    }

    /// Merges some lines where there are far too many, but not during a walk: it would miss items that move behind it.
    fn shrink_index(&mut self, now: Timestamp) -> bool {
        let walked = self.walked.is_some_and(|at| now.unix_ms.saturating_sub(at.unix_ms) < WALK_PAUSE_MS);
        let hasher = self.index.hasher();
        for _ in 0..MERGES_MAX {
            if walked || !self.index.is_sparse() {
                return false;
            }
            let (log, index) = (&self.log, &mut self.index);
            if !index.shrink(|location| hasher.hash(&Key::new(log.record(location).key()))) {
                return false;
            }
        }
        true
    }

    fn split_line(&mut self) -> bool {
        let (log, index) = (&self.log, &mut self.index);
        let hasher = index.hasher();
        index.grow(|location| hasher.hash(&Key::new(log.record(location).key())))
    }

    pub(super) fn walk_lines(
        &mut self,
        cursor: Cursor,
        now: Timestamp,
        budget: u32,
        visit: &mut dyn FnMut(&Self, Slot),
    ) -> Option<Cursor> {
        if now != self.now {
            self.advance(now);
        }
        // Low half the line, high half the merges so far: after one, items may have moved behind the cursor.
        let same = (cursor.0 >> 32) as u32 == self.index.merges;
        let mut line = if same { cursor.0 as u32 as usize } else { 0 };
        self.walked = Some(now);
        let mut visited = 0;
        while visited < budget.max(1) {
            let there = self.index.visit_line(line, |slot: Slot| {
                visited += 1;
                visit(self, slot);
            });
            if !there {
                return None;
            }
            line += 1;
            visited += 1;
        }
        Some(Cursor(u64::from(self.index.merges) << 32 | line as u64))
    }
}

/// Extents looked at in one tick: about 100 ns.
const SWEEP_EXTENTS: usize = 64;
/// Free pages that a shard keeps for its next long values.
const PAGES_KEPT_MAX: usize = 32;
/// Shards with fewer segments keep none free ahead of need.
const RESERVE_SEGMENTS_MIN: usize = 8;
/// One free segment is kept for this many in use, beside two.
const RESERVE_PART: usize = 512;
/// Lines merged in one tick: about 200 ns each.
const MERGES_MAX: usize = 16;
/// How long after a walk's last step the index does not shrink, in milliseconds. A walk that pauses longer starts again.
const WALK_PAUSE_MS: u64 = 60_000;
/// Lines split after one insertion or in one tick: about 100 ns each.
const SPLITS_MAX: usize = 4;
