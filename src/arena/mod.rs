//! The node's memory for items: units of three sizes under one limit, leased to the cores and to large values.
//!
//! ```text
//!   segments 64 KiB .. 1 MiB   | seg | seg | ...          the cores' logs: small items, and the heads of large ones
//!   chunks   64 KiB            | chunk | chunk | ...      large values
//!   pages     4 KiB            |p|p|p|p| ...              what chunks would waste, and values too large for a log
//!
//!   used = leased units + charged bytes <= limit          one number bounds all; an atomic per lease, never per request
//! ```
//!
//! One pool instead of one slice a core: a 1 MiB item fits with `--memory_size 64 --cores 64`, and a core with all the keys
//! may use most of the memory. What does not live in units (indexes, hints) is charged.
//!
//! Each size has a mapping of its own, as long as the limit may ever be, of which only what is used is resident. So memory goes from
//! one size to another without a neighbour: `trim` hands the pages of free units back to the system until what is resident keeps to
//! the limit. A heap would keep what it was once given, and its holes.
//!
//! Lives here: leasing, charging, the limit. In reading order: `pool` (units of one size), `body` (large values), `lines` (tables that
//! grow in place), `system`. Not here: what is in a segment (`engine`), who is evicted, sockets.
//! Unsafe lives here: the mappings are shared raw memory; each unit is owned by exactly one value.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

mod body;
mod lines;
mod pool;
mod system;

pub use body::{Body, PAGE_BYTES, PAGE_NUMBER_BYTES, PAGES_HEAD_BYTES, Pages, page_numbers, pages_bytes};
pub use lines::{Line, Lines};
use pool::Pool;
pub use system::{prefetch, prefetch_far};

/// The node's memory. Shared by all cores; every operation is a few atomics.
pub struct Arena {
    segments: Pool,
    chunks: Pool,
    pages: Pool,
    charged_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
    limit_bytes: AtomicUsize,
    wanted_bytes: AtomicUsize,
}

// SAFETY: the mappings are plain memory; a unit's bytes are reached only through the one value that owns it, or shared and
// read-only through a `Body` in an `Arc`.
unsafe impl Send for Arena {}
// SAFETY: as above; all fields that change are atomics.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps room for `limit_bytes`, divided among `cores`, that can be raised later up to `ceiling_bytes`.
    ///
    /// # Errors
    /// The operating system's, when the address space cannot be had.
    pub fn new(limit_bytes: usize, ceiling_bytes: usize, cores: usize) -> std::io::Result<Arc<Self>> {
        let segment_bytes = Self::segment_bytes_for(limit_bytes, cores);
        let ceiling_bytes = ceiling_bytes.max(limit_bytes).max(segment_bytes).next_multiple_of(segment_bytes);
        Ok(Arc::new(Self {
            segments: Pool::new(segment_bytes, ceiling_bytes, true)?,
            chunks: Pool::new(body::CHUNK_BYTES, ceiling_bytes, true)?,
            // Small pages: a huge one would be resident as a whole when the first of its pages is used.
            pages: Pool::new(PAGE_BYTES, ceiling_bytes, false)?,
            charged_bytes: AtomicUsize::new(0),
            used_bytes: AtomicUsize::new(0),
            limit_bytes: AtomicUsize::new(limit_bytes),
            wanted_bytes: AtomicUsize::new(0),
        }))
    }

    /// The segment size for a node: a power of two, at least 1,024 segments a core while that keeps them above the least size.
    pub fn segment_bytes_for(limit_bytes: usize, cores: usize) -> usize {
        let ideal = limit_bytes / (cores.max(1) * 1024);
        ideal
            .clamp(limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX)
            .checked_next_power_of_two()
            .unwrap_or(limits::SEGMENT_BYTES_MAX)
            .min(limits::SEGMENT_BYTES_MAX)
    }

    /// Size of every segment, in bytes; a power of two.
    pub fn segment_bytes(&self) -> usize {
        self.segments.unit_bytes()
    }

    /// Segments in the mapping, leased or not.
    pub fn segments_count(&self) -> u32 {
        self.segments.count()
    }

    /// First byte of the mapping's segments; segment `i` starts `i * segment_bytes` behind it. Aligned to 2 MiB.
    pub fn base(&self) -> NonNull<u8> {
        self.segments.start()
    }

    /// Takes a segment, or `None` when the limit is reached. Its bytes are whatever was there.
    pub fn lease(self: &Arc<Self>) -> Option<Segment> {
        if !self.count(self.segment_bytes()) {
            return None;
        }
        let index = self.take(&self.segments);
        if index.is_none() {
            self.uncount(self.segment_bytes());
        }
        Some(Segment { arena: self.clone(), index: index? })
    }

    /// Takes pages until `pages` has `count` of them. False when the limit is reached, and then nothing changed.
    pub fn lease_pages(&self, pages: &mut Vec<u32>, count: usize) -> bool {
        let before = pages.len();
        let more = count.saturating_sub(before);
        if !self.count(more * PAGE_BYTES) {
            return false;
        }
        for left in (1..=more).rev() {
            let Some(page) = self.take(&self.pages) else {
                self.uncount(left * PAGE_BYTES);
                self.give_pages(pages, before);
                return false;
            };
            pages.push(page);
        }
        true
    }

    /// Gives back all but the first `kept` of `pages`, whose content nobody needs any more. Returns their bytes.
    pub fn give_pages(&self, pages: &mut Vec<u32>, kept: usize) -> usize {
        let bytes = pages.len().saturating_sub(kept) * PAGE_BYTES;
        if bytes > 0 {
            pages.drain(kept..).for_each(|page| self.pages.give(page));
            self.uncount(bytes);
            self.trim();
        }
        bytes
    }

    /// First byte of a page.
    pub fn page(&self, index: u32) -> NonNull<u8> {
        self.pages.pointer(index)
    }

    /// Counts `bytes` that live outside the units against the limit. False (and nothing counted) when they do not fit.
    pub fn charge(&self, bytes: usize) -> bool {
        if !self.count(bytes) {
            return false;
        }
        self.charged_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.trim();
        true
    }

    /// Counts `bytes` that are in use already, whether they fit or not: above the limit, cores give segments back in their ticks.
    pub fn charge_used(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.charged_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.trim();
    }

    /// Gives back what `charge` or `charge_used` counted.
    pub fn discharge(&self, bytes: usize) {
        self.charged_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.uncount(bytes);
    }

    fn count(&self, bytes: usize) -> bool {
        let limit = self.limit_bytes.load(Ordering::Relaxed);
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used + bytes <= limit).then_some(used + bytes))
            .is_ok()
    }

    fn uncount(&self, bytes: usize) {
        let before = self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes);
    }

    /// Takes a unit that was counted.
    fn take(&self, pool: &Pool) -> Option<u32> {
        let (resident, index) = pool.take()?;
        if !resident {
            self.trim();
        }
        Some(index)
    }

    /// Hands pages of free units back to the system until what is resident keeps to the limit, and a little more: values on their way in
    /// are in units of other sizes than those that lie still, and each would take the pages of the others for a moment. Handing pages back
    /// stops all cores (TLB), and taking them again costs a fault for each.
    fn trim(&self) {
        let most_bytes = self.limit_bytes() + (self.limit_bytes() / SLACK_PART).min(SLACK_BYTES_MAX);
        let pools = [&self.segments, &self.chunks, &self.pages];
        let resident_bytes = || pools.iter().map(|pool| pool.resident_bytes()).sum::<usize>();
        while resident_bytes() + self.charged_bytes.load(Ordering::Relaxed) > most_bytes {
            if !pools.iter().any(|pool| pool.cool()) {
                return;
            }
        }
    }

    /// Leased units and charged bytes, in bytes.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that may be used.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that `set_limit` may allow.
    pub fn ceiling_bytes(&self) -> usize {
        self.segments.bytes()
    }

    /// Changes the limit (`cache_memlimit`). Above it, cores give segments back in their ticks. False if above the ceiling.
    pub fn set_limit(&self, limit_bytes: usize) -> bool {
        if limit_bytes > self.ceiling_bytes() {
            return false;
        }
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        self.trim();
        true
    }

    /// Bytes used above the limit, after the limit was lowered.
    pub fn excess_bytes(&self) -> usize {
        self.used_bytes().saturating_sub(self.limit_bytes())
    }

    /// Asks the cores that hold more than their share to give back `bytes`. A core that starves calls this, answers `Busy`, and
    /// tries again.
    pub fn want(&self, bytes: usize) {
        self.wanted_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// What is asked for and not yet given, in bytes.
    pub fn wanted_bytes(&self) -> usize {
        self.wanted_bytes.load(Ordering::Relaxed)
    }

    /// Tells that `bytes` of the wish were given back (or are no longer wanted).
    pub fn satisfy(&self, bytes: usize) {
        let _ =
            self.wanted_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| Some(wanted.saturating_sub(bytes)));
    }
}

/// What free units may keep resident beyond the limit: one part in so many of it, and at most so many bytes.
const SLACK_PART: usize = 32;
const SLACK_BYTES_MAX: usize = 4 << 20;

/// One leased segment. Dropping it gives it back.
pub struct Segment {
    arena: Arc<Arena>,
    index: u32,
}

impl Segment {
    /// Number of the segment within the arena.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// First byte.
    pub fn pointer(&self) -> NonNull<u8> {
        self.arena.segments.pointer(self.index)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the segment is ours alone, mapped, and of this length; anonymous memory is always initialised.
        unsafe { std::slice::from_raw_parts(self.pointer().as_ptr(), self.arena.segment_bytes()) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().as_ptr(), self.arena.segment_bytes()) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.arena.segments.give(self.index);
        self.arena.uncount(self.arena.segment_bytes());
        self.arena.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_leased_and_charged_stays_within_the_limit() {
        let arena = Arena::new(1 << 20, 1 << 20, 1).unwrap();
        assert!(arena.charge(65536));
        let leased: Vec<_> = std::iter::from_fn(|| arena.lease()).collect();
        assert_eq!(leased.len(), 15);
        assert!(!arena.charge(1));
        drop(leased);
        assert_eq!(arena.used_bytes(), 65536);
        assert!(arena.lease().is_some());
    }

    #[test]
    fn segments_given_back_are_leased_again_and_never_twice() {
        let arena = Arena::new(1 << 20, 1 << 20, 1).unwrap();
        for round in 0..10 {
            let leased: Vec<_> = std::iter::from_fn(|| arena.lease()).collect();
            let mut indices: Vec<_> = leased.iter().map(Segment::index).collect();
            indices.sort_unstable();
            indices.dedup();
            assert_eq!(indices.len(), 16, "round {round}");
        }
    }

    #[test]
    fn four_threads_never_share_a_segment() {
        let arena = Arena::new(4 << 20, 4 << 20, 4).unwrap();
        std::thread::scope(|scope| {
            for id in 0..4u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
                        let mut held: Vec<_> = (0..3).filter_map(|_| arena.lease()).collect();
                        held.iter_mut().for_each(|segment| segment.bytes_mut()[..64].fill(id));
                        assert!(held.iter().all(|segment| segment.bytes()[..64].iter().all(|&byte| byte == id)));
                    }
                });
            }
        });
        assert_eq!(arena.used_bytes(), 0);
    }

    #[test]
    fn a_body_reads_back_what_was_written_in_any_pieces() {
        let arena = Arena::new(4 << 20, 4 << 20, 1).unwrap();
        // In chunks and pages, and half a page.
        let length = if cfg!(miri) { 70_000 } else { 200_000 };
        let bytes: Vec<u8> = (0..777u32).map(|i| (i * 7) as u8).collect();
        let value = &bytes.repeat(length / bytes.len() + 1)[..length];
        let mut body = Body::lease(&arena, value.len()).unwrap();
        for (i, piece) in value.chunks(777).enumerate() {
            body.write(i * 777, piece);
        }
        assert_eq!(body.to_vec(), value);
        for offset in [0, 1, 65535, 65536, 65537, length - 1, length] {
            assert_eq!(body.slices(offset).collect::<Vec<_>>().concat(), &value[offset..]);
        }
        drop(body);
        assert_eq!(arena.used_bytes(), 0);
    }

    #[test]
    fn a_body_that_does_not_fit_leaves_nothing_behind() {
        let arena = Arena::new(1 << 20, 1 << 20, 1).unwrap();
        assert!(Body::lease(&arena, (1 << 20) + 1).is_none());
        assert_eq!(arena.used_bytes(), 0);
    }

    #[test]
    fn a_lowered_limit_shows_its_excess() {
        let arena = Arena::new(2 << 20, 4 << 20, 1).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| arena.lease()).collect();
        assert!(arena.set_limit(1 << 20));
        assert_eq!(arena.excess_bytes(), 1 << 20);
        drop(held);
        assert_eq!(arena.excess_bytes(), 0);
        assert!(!arena.set_limit(8 << 20));
    }
}
