//! Tables of cache lines that grow in place: what an index is made of.
//!
//! ```text
//!   | line 0 | line 1 | ... | line n-1 |  address space only  |        n is charged to the arena; the rest is not resident
//! ```
//!
//! Lives here: growth, release, access by number. Not here: what is in a line (`engine::index`).
//! Unsafe lives here: a mapping that is used as an array.

use std::ptr::NonNull;
use std::sync::Arc;

use super::Arena;
use super::system::{self, HUGE_PAGE_BYTES};

/// One cache line of a table: eight words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [u64; 8]);

/// A table of lines that grows in place and is charged as it grows. New lines are zero, or what they were when given back.
pub struct Lines {
    arena: Arc<Arena>,
    base: NonNull<Line>,
    /// Lines that the address space has room for.
    count_max: usize,
    /// Lines that may be used.
    count: usize,
}

// SAFETY: the mapping belongs to this value alone; moving it to another thread moves all access.
unsafe impl Send for Lines {}

impl Lines {
    /// Address space for `count_max` lines, none of which may be used yet. `None` when there is no address space.
    pub fn reserve(arena: &Arc<Arena>, count_max: usize) -> Option<Self> {
        let bytes = count_max * LINE_BYTES;
        let base = system::map(bytes).ok()?;
        if bytes > 2 * HUGE_PAGE_BYTES {
            // The first part stays in small pages, so that a small table takes little; beyond, huge ones are asked for.
            system::prefer_huge_pages(base, HUGE_PAGE_BYTES, false);
            // SAFETY: within the range that was mapped just above.
            system::prefer_huge_pages(unsafe { base.add(HUGE_PAGE_BYTES) }, bytes - HUGE_PAGE_BYTES, true);
        }
        Some(Self { arena: arena.clone(), base: base.cast(), count_max, count: 0 })
    }

    /// Makes `more` further lines usable and charges them. False, and nothing changed, when they cannot be had.
    pub fn commit(&mut self, more: usize) -> bool {
        if self.count + more > self.count_max || !self.arena.charge(more * LINE_BYTES) {
            return false;
        }
        self.count += more;
        true
    }

    /// Gives the last `lines` back. Where they are whole pages, the system has the memory at once.
    pub fn release(&mut self, lines: usize) {
        assert!(lines <= self.count);
        self.count -= lines;
        // SAFETY: both ends lie inside the mapping.
        let (start, end) = unsafe { (self.base.add(self.count), self.base.add(self.count + lines)) };
        let skipped = start.as_ptr().cast::<u8>().align_offset(PAGE_BYTES);
        let bytes = (end.as_ptr() as usize).saturating_sub(start.as_ptr() as usize + skipped);
        if bytes > 0 {
            // SAFETY: rounded up to a page, so that no line in use is touched; what is behind it is no longer needed.
            unsafe { system::discard(start.cast::<u8>().add(skipped), bytes) };
        }
        self.arena.discharge(lines * LINE_BYTES);
    }

    /// Lines that may be used.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.count * LINE_BYTES
    }

    /// The line of this number, below `count`.
    #[inline]
    pub fn get(&self, number: usize) -> &Line {
        assert!(number < self.count);
        // SAFETY: committed, zeroed or written by `get_mut`, and `&self` keeps writers out.
        unsafe { self.base.add(number).as_ref() }
    }

    /// The line of this number, below `count`, to write.
    #[inline]
    pub fn get_mut(&mut self, number: usize) -> &mut Line {
        assert!(number < self.count);
        // SAFETY: as in `get`, and `&mut self` makes this the only reference.
        unsafe { self.base.add(number).as_mut() }
    }

    /// Asks the cache for a line. Any number is allowed.
    #[inline]
    pub fn prefetch(&self, number: usize) {
        system::prefetch(self.base.as_ptr().wrapping_add(number).cast());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.arena.discharge(self.bytes());
        // SAFETY: the range that `reserve` mapped; no reference to a line outlives the value.
        unsafe { system::unmap(self.base.cast(), self.count_max * LINE_BYTES) };
    }
}

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = size_of::<Line>();
