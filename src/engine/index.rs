//! Hash index of one shard: from a key to the place of its item.
//!
//! ```text
//!   line (64 B) = | slot 0 | slot 1 | ... | slot 6 | slot 7, or the link to an overflow line |
//!
//!   slot (8 B)  =   63        42 41  40  39        38  37 36        0
//!                 | hash 22 bits | kind | fetched | freq | location |      kind: empty, live, ghost, link
//! ```
//!
//! A miss costs one line, a hit two: this one and the item's. It grows by linear hashing, one line per step:
//!
//! ```text
//!   before   0 1 2 3            a key's line is its hash modulo 8, or modulo 4 where that line is not there yet
//!   step     0 1 2 3 4          line 0 was split over 0 and 4 by one more bit of the hash
//! ```
//!
//! A slot keeps 22 bits of the hash from `window(depth)` on, a multiple of 8: the next bits that splits need and a tag in one. So a
//! split reads no item, but at every eighth doubling, where the window moves and keys are hashed again.
//!
//! A ghost tells that an item was evicted lately, or expired while it was in use: 22 + 16 bits of its hash, when, and where from,
//! in a slot that nobody needs. It never answers for an item and gives way to any.
//!
//! Unsafe lives here for one call of what every x86-64 has, see `matches`.
//! Lives here: lines, slots, chains, growth. Not here: item bytes (`item`), who is evicted (`eviction`).
//! Tags in a line follow Swiss tables, linear hashing is Litwin's (1980), the ghost is that of S3-FIFO (SOSP'23).

use std::sync::Arc;

use super::segment::{LOCATION_BITS, Location, Queue};
use crate::arena::{Arena, Line, Lines};
use crate::key::Key;

/// The index.
pub(super) struct Index {
    lines: Lines,
    overflow: Lines,
    /// Lines in use; those of `lines` beyond are committed for growth.
    count: usize,
    /// `floor(log2(count))`.
    level: u32,
    /// First free overflow line + 1; the next one is in its first slot.
    overflow_free: u32,
    /// Overflow lines ever used.
    overflow_fresh: u32,
    /// Overflow lines in use.
    overflow_count: u32,
    /// Live slots.
    pub live: usize,
    /// Lines ever merged back: tells a walk that items moved to lines behind it.
    pub merges: u32,
    /// Lines committed at once, at most: those of one segment, so that one that is given back suffices.
    step_max: usize,
    hasher: Hasher,
    /// The clock of ghosts: counts evictions to the ghost.
    epoch: u64,
}

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Line number; overflow lines count down from the top.
    line: u32,
    slot: u32,
}

/// A probe: the search for a hash, at the line that it has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    line: u32,
    /// Upper half of the slots that it wants.
    wanted: u32,
}

/// What a probe has found in a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probed {
    /// Perhaps the item.
    Item(Location),
    /// The line behind it.
    Line(Probe),
    /// It ends here.
    Nothing,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub u64);

impl Slot {
    /// A live slot without its hash bits.
    #[inline]
    pub fn live(location: Location, frequency: u32, fetched: bool) -> Self {
        Self(location.0 | u64::from(frequency) << FREQUENCY_SHIFT | u64::from(fetched) << FETCHED_SHIFT | LIVE)
    }

    #[inline]
    fn kind(self) -> u64 {
        self.0 & KIND_MASK
    }

    #[inline]
    pub fn location(self) -> Location {
        Location(self.0 & LOCATION_MASK)
    }

    #[inline]
    pub fn frequency(self) -> u32 {
        (self.0 >> FREQUENCY_SHIFT & 3) as u32
    }

    #[inline]
    pub fn fetched(self) -> bool {
        self.0 & FETCHED != 0
    }

    #[inline]
    fn window(self) -> u64 {
        self.0 >> HASH_SHIFT
    }

    #[inline]
    fn with_window(self, window: u64) -> Self {
        Self(self.0 & !HASH_MASK | window << HASH_SHIFT)
    }
}

/// What became of an item that is not here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ghost {
    /// It was evicted from this queue.
    Evicted(Queue),
    /// It was in use and expired.
    Expired,
}

impl Ghost {
    fn to_bits(self) -> u64 {
        match self {
            Self::Evicted(queue) => queue as u64,
            Self::Expired => 2,
        }
    }

    fn from_bits(bits: u64) -> Self {
        [Self::Evicted(Queue::Small), Self::Evicted(Queue::Main)].get(bits as usize).copied().unwrap_or(Self::Expired)
    }
}

/// The chain of a line is full and no line can be had: something in it must go.
#[derive(Debug)]
pub(super) struct Full;

impl Index {
    /// An empty index; `None` when the arena has not even a few KiB.
    pub fn new(arena: &Arc<Arena>, secret: [u64; 2]) -> Option<Self> {
        // Headroom of address space only: no shard can hold more lines than its share of items in all of the arena.
        let lines_max = (arena.ceiling_bytes() / 64).clamp(4 * LINES_MIN, 1 << 30);
        let mut lines = Lines::reserve(arena, lines_max)?;
        let overflow = Lines::reserve(arena, lines_max)?;
        if !lines.commit(LINES_MIN) {
            return None;
        }
        Some(Self {
            lines,
            overflow,
            count: LINES_MIN,
            level: LINES_MIN.ilog2(),
            overflow_free: 0,
            overflow_fresh: 0,
            overflow_count: 0,
            live: 0,
            merges: 0,
            step_max: arena.segment_bytes() / size_of::<Line>(),
            hasher: Hasher { secret, keyed: ahash::RandomState::with_seeds(secret[0], secret[1], !secret[0], !secret[1]) },
            epoch: 0,
        })
    }

    /// Bytes of the index.
    pub fn bytes(&self) -> usize {
        self.lines.bytes() + self.overflow.bytes()
    }

    /// The hash that places a key here.
    #[inline]
    pub fn hash(&self, key: &Key<'_>) -> u64 {
        self.hasher.hash(key)
    }

    /// What makes these hashes.
    pub fn hasher(&self) -> Hasher {
        self.hasher.clone()
    }

    /// Line of a hash, and the depth of that line: how many bits of the hash its number holds.
    #[inline]
    fn line_of(&self, hash: u64) -> (u32, u32) {
        let lines = 1 << self.level;
        // A line that was split, or made by a split, has one bit more. Counted and not asked: as a branch it is a guess.
        let split = u32::from((hash as usize & (lines - 1)) + lines < self.count);
        ((hash as usize & ((lines << split) - 1)) as u32, self.level + split)
    }

    #[inline]
    fn line(&self, number: u32) -> &Line {
        if number < OVERFLOW_BASE { self.lines.get(number as usize) } else { self.overflow.get((!number) as usize) }
    }

    #[inline]
    fn line_mut(&mut self, number: u32) -> &mut Line {
        if number < OVERFLOW_BASE { self.lines.get_mut(number as usize) } else { self.overflow.get_mut((!number) as usize) }
    }

    /// Where the search for a hash starts.
    #[inline]
    pub fn start_probe(&self, hash: u64) -> Probe {
        let (line, depth) = self.line_of(hash);
        Probe { line, wanted: (wanted(hash, depth) >> 32) as u32 }
    }

    /// Asks the cache for the line that comes next in a probe.
    #[inline]
    pub fn prefetch(&self, probe: &Probe) {
        if probe.line < OVERFLOW_BASE {
            self.lines.prefetch(probe.line as usize);
        } else {
            self.overflow.prefetch(!probe.line as usize);
        }
    }

    /// What the next line of a probe holds: for fetching ahead, so only the first item that may be the one.
    #[inline]
    pub fn probe(&self, probe: &Probe) -> Probed {
        let line = self.line(probe.line);
        let found = matches(line, u64::from(probe.wanted) << 32);
        if found != 0 {
            return Probed::Item(Slot(line.0[found.trailing_zeros() as usize]).location());
        }
        link_of(line).map_or(Probed::Nothing, |line| Probed::Line(Probe { line, ..*probe }))
    }

    /// Asks the cache for the overflow lines of hashes whose first lines hold nothing that they want.
    #[inline]
    pub fn prefetch_behind(&self, hashes: impl Iterator<Item = u64>) {
        for hash in hashes {
            if let Probed::Line(next) = self.probe(&self.start_probe(hash)) {
                self.prefetch(&next);
            }
        }
    }

    /// The live slot with this hash whose location `is_it`.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Location) -> bool) -> Option<Place> {
        let (mut number, depth) = self.line_of(hash);
        let wanted = wanted(hash, depth);
        for _ in 0..=CHAIN_LINES_MAX {
            let line = self.line(number);
            let mut found = matches(line, wanted);
            while found != 0 {
                let slot = found.trailing_zeros();
                if is_it(Slot(line.0[slot as usize]).location()) {
                    return Some(Place { line: number, slot });
                }
                found &= found - 1;
            }
            number = link_of(line)?;
        }
        None
    }

    /// The slot at a place.
    #[inline]
    pub fn slot(&self, place: Place) -> Slot {
        Slot(self.line(place.line).0[place.slot as usize])
    }

    /// Puts location, frequency and mark of `slot` at the place of a live slot. The hash stays.
    #[inline]
    pub fn update(&mut self, place: Place, slot: Slot) {
        let word = &mut self.line_mut(place.line).0[place.slot as usize];
        debug_assert_eq!(Slot(*word).kind(), LIVE);
        *word = *word & HASH_MASK | slot.0 & !HASH_MASK;
    }

    /// Counts a use: once 3 are counted, nothing is written.
    #[inline]
    pub fn touch(&mut self, place: Place, fetched: bool) {
        let word = self.line(place.line).0[place.slot as usize];
        let mut slot = word;
        if Slot(word).frequency() < 3 {
            slot += 1 << FREQUENCY_SHIFT;
        }
        if fetched {
            slot |= FETCHED;
        }
        if slot != word {
            self.line_mut(place.line).0[place.slot as usize] = slot;
        }
    }

    /// Adds a live slot; the key must not be there. Fails when the chain is full or no line can be had.
    pub fn insert(&mut self, hash: u64, slot: Slot) -> Result<(), Full> {
        let (head, depth) = self.line_of(hash);
        self.place(head, slot.with_window(window(hash, depth)))?;
        self.live += 1;
        Ok(())
    }

    /// Puts a slot that has its hash bits into a chain.
    fn place(&mut self, head: u32, slot: Slot) -> Result<(), Full> {
        let mut number = head;
        for behind in 0..=CHAIN_LINES_MAX {
            let epoch = self.epoch;
            let line = self.line_mut(number);
            if let Some(at) = vacancy(line, epoch) {
                line.0[at] = slot.0;
                return Ok(());
            }
            match link_of(line) {
                Some(next) => number = next,
                None if behind == CHAIN_LINES_MAX => break,
                None => return self.extend(number, slot),
            }
        }
        Err(Full)
    }

    /// Hangs an overflow line behind a full one that has none: its last slot moves there, a link takes its place.
    fn extend(&mut self, number: u32, slot: Slot) -> Result<(), Full> {
        let fresh = self.take_overflow().ok_or(Full)?;
        let moved = self.line(number).0[LINK_SLOT];
        let line = self.line_mut(fresh);
        line.0 = [0; 8];
        (line.0[0], line.0[1]) = (moved, slot.0);
        self.line_mut(number).0[LINK_SLOT] = LINK | u64::from(!fresh);
        Ok(())
    }

    fn take_overflow(&mut self) -> Option<u32> {
        let id = match self.overflow_free.checked_sub(1) {
            Some(id) => {
                self.overflow_free = self.overflow.get(id as usize).0[0] as u32;
                id
            }
            None => {
                let id = self.overflow_fresh;
                if id as usize >= self.overflow.count() && !self.commit_overflow() {
                    return None;
                }
                self.overflow_fresh += 1;
                id
            }
        };
        self.overflow_count += 1;
        Some(!id)
    }

    fn give_overflow(&mut self, number: u32) {
        let id = !number;
        self.overflow.get_mut(id as usize).0 = [u64::from(self.overflow_free), 0, 0, 0, 0, 0, 0, 0];
        self.overflow_free = id + 1;
        self.overflow_count -= 1;
    }

    /// Removes the live slot of a key with this hash. An overflow line that it leaves nearly empty is given back.
    pub fn remove(&mut self, place: Place, hash: u64) {
        let word = &mut self.line_mut(place.line).0[place.slot as usize];
        debug_assert_eq!(Slot(*word).kind(), LIVE);
        *word = 0;
        self.live -= 1;
        if place.line >= OVERFLOW_BASE {
            self.shorten(place.line, hash);
        }
    }

    /// Removes a live slot and leaves a ghost of it, where there is room for one.
    pub fn remove_to_ghost(&mut self, place: Place, hash: u64, ghost: Ghost) {
        self.epoch += 1;
        if place.line >= OVERFLOW_BASE {
            return self.remove(place, hash);
        }
        self.live -= 1;
        let epoch = self.epoch;
        let word = &mut self.line_mut(place.line).0[place.slot as usize];
        debug_assert_eq!(Slot(*word).kind(), LIVE);
        let kind = ghost.to_bits() << GHOST_KIND_SHIFT;
        *word = *word & HASH_MASK | GHOST | kind | (hash >> 48) << 20 | (epoch >> EPOCH_SHIFT) & EPOCH_MASK;
    }

    /// Gives an overflow line back if it is the last of its chain and has at most one slot, which takes the link's place.
    fn shorten(&mut self, last: u32, hash: u64) {
        let line = self.line(last);
        let mut used = line.0.iter().filter(|&&word| word != 0);
        let (first, second) = (used.next().copied(), used.next());
        if second.is_some() || link_of(line).is_some() {
            return;
        }
        let mut number = self.line_of(hash).0;
        for _ in 0..CHAIN_LINES_MAX {
            match link_of(self.line(number)) {
                Some(next) if next == last => {
                    self.line_mut(number).0[LINK_SLOT] = first.unwrap_or(0);
                    self.give_overflow(last);
                    // The line before it is the last one now, and may have been emptied earlier.
                    if number >= OVERFLOW_BASE {
                        self.shorten(number, hash);
                    }
                    return;
                }
                Some(next) => number = next,
                None => return,
            }
        }
    }

    /// What became of the key's last item and how many ghosts ago, if within `ghosts_max`. Takes the ghost away.
    pub fn take_ghost(&mut self, hash: u64, ghosts_max: usize) -> Option<(Ghost, u64)> {
        let (number, depth) = self.line_of(hash);
        let wanted = window(hash, depth) << HASH_SHIFT | GHOST | (hash >> 48) << 20;
        let epoch = self.epoch;
        for word in &mut self.line_mut(number).0 {
            if (*word ^ wanted) & (HASH_MASK | KIND_MASK | GHOST_HASH_MASK) == 0 {
                let age = ghost_age(*word, epoch);
                let ghost = Ghost::from_bits(*word >> GHOST_KIND_SHIFT & 3);
                *word = 0;
                return (age <= ghosts_max as u64).then_some((ghost, age));
            }
        }
        None
    }

    /// A live slot of the chain that can best be missed, for when an insertion found it full.
    pub fn weakest(&self, hash: u64) -> Option<Place> {
        let mut weakest: Option<(u32, Place)> = None;
        let mut number = self.line_of(hash).0;
        for _ in 0..=CHAIN_LINES_MAX {
            let line = self.line(number);
            for (at, &word) in line.0.iter().enumerate() {
                let slot = Slot(word);
                if slot.kind() == LIVE && weakest.is_none_or(|(frequency, _)| slot.frequency() < frequency) {
                    weakest = Some((slot.frequency(), Place { line: number, slot: at as u32 }));
                }
            }
            match link_of(line) {
                Some(next) => number = next,
                None => break,
            }
        }
        weakest.map(|(_, place)| place)
    }

    fn commit_lines(&mut self) -> bool {
        self.lines.commit(step_lines(self.lines.count(), self.step_max))
    }

    fn commit_overflow(&mut self) -> bool {
        self.overflow.commit(step_lines(self.overflow.count(), self.step_max))
    }

    /// Whether lines should be committed before the next segment's worth of items comes.
    pub fn is_short(&self) -> bool {
        let lines_short = self.lines.count() == self.count && self.crowded();
        lines_short || self.overflow.count() - (self.overflow_fresh as usize) < LINES_MIN
    }

    /// Commits what `is_short` misses. False when the arena has no more.
    pub fn commit_ahead(&mut self) -> bool {
        let lines_short = self.lines.count() == self.count && self.crowded();
        if lines_short { self.commit_lines() } else { self.commit_overflow() }
    }

    /// Whether there are more items than the lines should hold.
    #[inline]
    pub fn crowded(&self) -> bool {
        self.live > self.count * LIVE_PER_LINE
    }

    /// Splits one line. False when no memory could be had for the new one. `hash_of` finds the hash of a live slot's item.
    pub fn grow(&mut self, hash_of: impl FnMut(Location) -> u64) -> bool {
        if self.count == self.lines.count() && !self.commit_lines() {
            return false;
        }
        self.split(hash_of);
        true
    }

    fn split(&mut self, mut hash_of: impl FnMut(Location) -> u64) {
        let level = self.level;
        let source = (self.count - (1 << level)) as u32;
        let target = self.count as u32;
        let moved = self.take_chain(source);
        self.lines.get_mut(target as usize).0 = [0; 8];
        self.count += 1;
        self.level = self.count.ilog2();
        let (before, after) = (window_start(level), window_start(level + 1));
        for word in moved {
            let mut slot = Slot(word);
            let upper = if before == after {
                slot.window() >> (level - before) & 1 != 0
            } else if slot.kind() == LIVE {
                // The window moves on: the item is hashed again.
                let hash = hash_of(slot.location());
                slot = slot.with_window(window(hash, level + 1));
                hash >> level & 1 != 0
            } else {
                continue;
            };
            let line = if upper { target } else { source };
            if slot.kind() == GHOST {
                // A ghost only takes what is empty; live slots come first in `moved`.
                if let Some(word) = self.lines.get_mut(line as usize).0.iter_mut().find(|word| **word == 0) {
                    *word = slot.0;
                }
            } else {
                // What fitted into one chain fits into two: overflow lines were given back just above.
                let placed = self.place(line, slot);
                debug_assert!(placed.is_ok());
            }
        }
    }

    /// Whether there are far more lines than the items need.
    pub fn is_sparse(&self) -> bool {
        self.count > LINES_MIN && self.live * 2 < self.count * LIVE_PER_TWO_LINES_MIN
    }

    /// Merges the last line into the one that it was split from. False when their items need more overflow lines than there are.
    pub fn shrink(&mut self, mut hash_of: impl FnMut(Location) -> u64) -> bool {
        let last = self.count - 1;
        let level = last.ilog2();
        let twin = last - (1 << level);
        let mut items = 0;
        self.visit_line(last, |_| items += 1);
        self.visit_line(twin, |_| items += 1);
        let spare = self.overflow.count() - self.overflow_fresh as usize;
        if items > MERGED_ITEMS_MAX || (spare < MERGED_ITEMS_MAX / 7 && !self.commit_overflow()) {
            return false;
        }
        let mut moved = self.take_chain(twin as u32);
        moved.extend(self.take_chain(last as u32).into_iter().take(CHAIN_SLOTS_MAX - moved.len()));
        self.count -= 1;
        self.level = self.count.ilog2();
        self.merges = self.merges.wrapping_add(1);
        let same = window_start(level) == window_start(level + 1);
        let (live, ghosts): (arrayvec::ArrayVec<_, CHAIN_SLOTS_MAX>, arrayvec::ArrayVec<_, CHAIN_SLOTS_MAX>) =
            moved.into_iter().map(Slot).partition(|slot| slot.kind() == LIVE);
        for slot in live {
            let slot = if same { slot } else { slot.with_window(window(hash_of(slot.location()), level)) };
            let placed = self.place(twin as u32, slot);
            debug_assert!(placed.is_ok());
        }
        for ghost in ghosts.into_iter().filter(|_| same) {
            if let Some(word) = self.lines.get_mut(twin).0.iter_mut().find(|word| **word == 0) {
                *word = ghost.0;
            }
        }
        let step = step_lines(self.lines.count(), self.step_max);
        if self.lines.count() - self.count >= 2 * step {
            self.lines.release(step);
        }
        true
    }

    /// Empties a chain and returns its live slots, then its ghosts.
    fn take_chain(&mut self, head: u32) -> arrayvec::ArrayVec<u64, CHAIN_SLOTS_MAX> {
        let mut moved = arrayvec::ArrayVec::new();
        let mut ghosts = arrayvec::ArrayVec::<u64, 8>::new();
        let mut number = Some(head);
        while let Some(at) = number {
            let line = *self.line(at);
            number = link_of(&line);
            for word in line.0 {
                match word & KIND_MASK {
                    LIVE => moved.push(word),
                    GHOST if !ghosts.is_full() => ghosts.push(word),
                    _ => {}
                }
            }
            if at < OVERFLOW_BASE {
                self.line_mut(at).0 = [0; 8];
            } else {
                self.give_overflow(at);
            }
        }
        moved.extend(ghosts.into_iter().take(CHAIN_SLOTS_MAX - moved.len()));
        moved
    }

    /// Visits the live slots of one line and its chain. False when there is no such line.
    pub fn visit_line(&self, number: usize, mut visit: impl FnMut(Slot)) -> bool {
        if number >= self.count {
            return false;
        }
        let mut next = Some(number as u32);
        while let Some(at) = next {
            let line = self.line(at);
            line.0.iter().map(|&word| Slot(word)).filter(|slot| slot.kind() == LIVE).for_each(&mut visit);
            next = link_of(line);
        }
        true
    }

    /// Checks chains, counts and that every live slot lies where `hash_of` its item says. For tests.
    pub fn verify(&self, mut hash_of: impl FnMut(Location) -> u64) {
        assert_eq!(self.level, self.count.ilog2());
        let (mut live, mut chained) = (0, 0);
        for number in 0..self.count {
            let mut next = Some(number as u32);
            while let Some(at) = next {
                let line = self.line(at);
                for &word in &line.0 {
                    let slot = Slot(word);
                    if slot.kind() == LIVE {
                        let hash = hash_of(slot.location());
                        let (home, depth) = self.line_of(hash);
                        assert_eq!((home as usize, window(hash, depth)), (number, slot.window()));
                        live += 1;
                    }
                    assert!(at < OVERFLOW_BASE || slot.kind() != GHOST, "no ghost in an overflow line");
                }
                next = link_of(line);
                chained += u32::from(next.is_some());
            }
        }
        assert_eq!(live, self.live);
        assert_eq!(chained, self.overflow_count);
    }
}

/// From a key to the hash that places it here, with a secret of this process.
#[derive(Clone)]
pub(super) struct Hasher {
    secret: [u64; 2],
    keyed: ahash::RandomState,
}

impl Hasher {
    /// Mixes the secret into the key's own hash, or hashes the whole key where a hash tag hides a part of it.
    ///
    /// Which keys meet in a line cannot be known without the secret, unless their own hashes are equal: that hash has a public seed,
    /// so such keys can be made. They fill one chain, whose length is bounded, and from then on evict each other. A second hash
    /// of all bytes would cost every command 5 ns and save them a search of nine lines.
    #[inline]
    pub fn hash(&self, key: &Key<'_>) -> u64 {
        if key.has_hash_tag {
            return self.hash_whole(key.bytes);
        }
        let product = u128::from(key.hash ^ self.secret[0]) * u128::from(self.secret[1] | 1);
        (product >> 64) as u64 ^ product as u64
    }

    #[inline(never)]
    fn hash_whole(&self, bytes: &[u8]) -> u64 {
        self.keyed.hash_one(bytes)
    }
}

/// Bits of `line` whose slots hold what is `wanted`.
///
/// Hash and kind lie in the upper halves of the slots, so that eight halves are compared at once with what every x86-64 has.
#[cfg(target_arch = "x86_64")]
#[inline]
fn matches(line: &Line, wanted: u64) -> u32 {
    // SAFETY: every x86-64 has SSE2.
    unsafe { matches_sse2(line, wanted) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn matches_sse2(line: &Line, wanted: u64) -> u32 {
    use std::arch::x86_64::*;
    let pair = |at: usize| _mm_castsi128_ps(_mm_set_epi64x(line.0[at + 1].cast_signed(), line.0[at].cast_signed()));
    let wanted = _mm_set1_epi32((wanted >> 32) as i32);
    let mask = _mm_set1_epi32(UPPER_MASK as i32);
    let equal = |at: usize| {
        let upper = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(pair(at), pair(at + 2)));
        _mm_cmpeq_epi32(_mm_and_si128(upper, mask), wanted)
    };
    let words = _mm_packs_epi32(equal(0), equal(4));
    _mm_movemask_epi8(_mm_packs_epi16(words, _mm_setzero_si128())) as u32
}

/// Bits of `line` whose slots hold what is `wanted`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn matches(line: &Line, wanted: u64) -> u32 {
    matches_one_by_one(line, wanted)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn matches_one_by_one(line: &Line, wanted: u64) -> u32 {
    let mut found = 0;
    for (at, word) in line.0.iter().enumerate() {
        found |= u32::from(word & (HASH_MASK | KIND_MASK) == wanted) << at;
    }
    found
}

/// The line behind this one.
#[inline]
fn link_of(line: &Line) -> Option<u32> {
    let word = line.0[LINK_SLOT];
    (word & KIND_MASK == LINK).then_some(!(word as u32))
}

/// A slot that a live one may take: an empty one, or else the oldest ghost.
fn vacancy(line: &Line, epoch: u64) -> Option<usize> {
    let mut oldest: Option<(u64, usize)> = None;
    for (at, &word) in line.0.iter().enumerate() {
        match word & KIND_MASK {
            EMPTY => return Some(at),
            GHOST => {
                let age = ghost_age(word, epoch);
                if oldest.is_none_or(|(most, _)| age > most) {
                    oldest = Some((age, at));
                }
            }
            _ => {}
        }
    }
    oldest.map(|(_, at)| at)
}

/// Evictions since a ghost was made, about.
fn ghost_age(word: u64, epoch: u64) -> u64 {
    ((epoch >> EPOCH_SHIFT).wrapping_sub(word) & EPOCH_MASK) << EPOCH_SHIFT
}

#[inline]
fn wanted(hash: u64, depth: u32) -> u64 {
    window(hash, depth) << HASH_SHIFT | LIVE
}

#[inline]
fn window(hash: u64, depth: u32) -> u64 {
    hash >> window_start(depth) & ((1 << HASH_BITS) - 1)
}

/// First bit of the hash that a slot of a line of this depth keeps.
#[inline]
const fn window_start(depth: u32) -> u32 {
    depth & !7
}

/// Lines to commit when `count` are full: a sixteenth, in pages.
fn step_lines(count: usize, step_max: usize) -> usize {
    (count / 16).next_multiple_of(LINES_MIN).clamp(LINES_MIN, step_max)
}

/// Lines of an empty index: a page.
const LINES_MIN: usize = 64;
/// 6 of 8 slots: 7.8 % of the items lie behind their first line then, at 12.3 B per item (engine.md 2b).
const LIVE_PER_LINE: usize = 6;
/// Below this, for two lines, the index shrinks.
const LIVE_PER_TWO_LINES_MIN: usize = 9;
/// Chains that hold more together are not merged.
const MERGED_ITEMS_MAX: usize = 35;
/// Lines behind the first one of a chain, at most. Reached only by keys that were made to collide.
const CHAIN_LINES_MAX: usize = 8;
const CHAIN_SLOTS_MAX: usize = (CHAIN_LINES_MAX + 2) * 8;
const LINK_SLOT: usize = 7;
const OVERFLOW_BASE: u32 = 1 << 31;

const LOCATION_MASK: u64 = (1 << LOCATION_BITS) - 1;
const FREQUENCY_SHIFT: u32 = LOCATION_BITS;
const FETCHED_SHIFT: u32 = FREQUENCY_SHIFT + 2;
const FETCHED: u64 = 1 << FETCHED_SHIFT;
const KIND_SHIFT: u32 = FETCHED_SHIFT + 1;
const KIND_MASK: u64 = 3 << KIND_SHIFT;
const EMPTY: u64 = 0;
const LIVE: u64 = 1 << KIND_SHIFT;
const GHOST: u64 = 2 << KIND_SHIFT;
const LINK: u64 = 3 << KIND_SHIFT;
const HASH_SHIFT: u32 = KIND_SHIFT + 2;
const HASH_BITS: u32 = 64 - HASH_SHIFT;
const HASH_MASK: u64 = !0 << HASH_SHIFT;
/// Hash and kind within the upper half of a slot.
const UPPER_MASK: u32 = ((HASH_MASK | KIND_MASK) >> 32) as u32;
const _: () = assert!((HASH_MASK | KIND_MASK) as u32 == 0);
/// Ghosts: 16 more bits of the hash in place of the location's upper part, the epoch in its lower 20 bits.
const GHOST_HASH_MASK: u64 = 0xffff << 20;
const EPOCH_MASK: u64 = (1 << 20) - 1;
const GHOST_KIND_SHIFT: u32 = 36;
const _: () = assert!(GHOST_KIND_SHIFT + 2 <= KIND_SHIFT);
/// A ghost's age is counted in steps of 64 ghosts, so that 20 bits last for 67 million.
const EPOCH_SHIFT: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let arena = Arena::new(16 << 20, 16 << 20, 1).unwrap();
        Index::new(&arena, [1, 2]).unwrap()
    }

    /// Hashes whose low bits are spread, by number.
    fn hash_of(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn eight_halves_compared_at_once_are_eight_slots_compared_one_by_one() {
        for number in 0..if cfg!(miri) { 100 } else { 10_000u64 } {
            let wanted = hash_of(number) & HASH_MASK | LIVE;
            let line = Line(std::array::from_fn(|at| match hash_of(number * 8 + at as u64) {
                word if word % 3 == 0 => word & !(HASH_MASK | KIND_MASK) | wanted,
                word if word % 3 == 1 => word & !KIND_MASK & !HASH_MASK | wanted & HASH_MASK | GHOST,
                word => word,
            }));
            assert_eq!(matches(&line, wanted), matches_one_by_one(&line, wanted));
        }
    }

    #[test]
    fn keys_that_collide_fill_one_chain_and_no_more() {
        let mut index = index();
        let hash = hash_of(1);
        let mut count = 0;
        while index.insert(hash, Slot::live(Location(count), 1, false)).is_ok() {
            count += 1;
            assert!(count < CHAIN_SLOTS_MAX as u64);
        }
        index.verify(|_| hash);
        let weakest = index.weakest(hash).unwrap();
        index.remove(weakest, hash);
        assert!(index.insert(hash, Slot::live(Location(count), 0, false)).is_ok());
        for location in 0..=count {
            if let Some(place) = index.find(hash, |candidate| candidate == Location(location)) {
                index.remove(place, hash);
            }
            index.verify(|_| hash);
        }
        assert_eq!((index.live, index.overflow_count), (0, 0));
    }

    #[test]
    fn probing_comes_to_what_is_found() {
        let mut index = index();
        let count = if cfg!(miri) { 600 } else { 20_000 };
        for number in 0..count {
            index.insert(hash_of(number), Slot::live(Location(number), 0, false)).unwrap();
            while index.crowded() && index.grow(|location| hash_of(location.0)) {}
        }
        let mut behind = 0;
        for number in 0..count {
            let mut probe = index.start_probe(hash_of(number));
            let seen = loop {
                match index.probe(&probe) {
                    Probed::Item(location) => break location,
                    Probed::Line(next) => probe = next,
                    Probed::Nothing => panic!("{number} was lost on the way"),
                }
                behind += 1;
            };
            // Another item of the same tag may come first, and `find` sees it first as well.
            let mut first = None;
            index.find(hash_of(number), |location| {
                first = first.or(Some(location));
                location == Location(number)
            });
            assert_eq!(first, Some(seen));
        }
        assert!(behind > 0, "no chain was long enough to tell");
    }

    #[test]
    fn growing_and_shrinking_lose_nothing() {
        let mut index = index();
        let locate = |index: &Index, number: u64| index.find(hash_of(number), |location| location == Location(number));
        let mut held = std::collections::BTreeSet::new();
        for round in 0..6u64 {
            let items_most = [40_000, 500, 90_000, 3_000, 100_000, 0][round as usize] / if cfg!(miri) { 400 } else { 1 };
            let mut number = round * 1_000_000;
            while held.len() < items_most {
                number += 1;
                index.insert(hash_of(number), Slot::live(Location(number), 0, false)).unwrap();
                held.insert(number);
                while index.crowded() && index.grow(|location| hash_of(location.0)) {}
            }
            while held.len() > items_most {
                let number = held.pop_first().unwrap();
                let place = locate(&index, number).unwrap();
                match number % 3 {
                    0 => index.remove_to_ghost(place, hash_of(number), Ghost::Evicted(Queue::Small)),
                    _ => index.remove(place, hash_of(number)),
                }
                while index.is_sparse() && index.shrink(|location| hash_of(location.0)) {}
            }
            index.verify(|location| hash_of(location.0));
            assert!(held.iter().all(|&number| locate(&index, number).is_some()));
            assert_eq!(index.live, held.len());
            assert!(!index.crowded() && !index.is_sparse(), "round {round}");
        }
    }
}
