//! Values outside the log: a [`Body`], which is pinned by whoever reads it, and a view of [`Pages`] that an engine owns.
//!
//! ```text
//!   body:   | chunk 64 KiB | chunk | ... | page 4 KiB | page | ... |       at most 15 pages: half a page is lost on average
//!   pages:  | page | page | ... | page | rest |                            the rest lies elsewhere: nothing is lost
//! ```
//!
//! Units need not be neighbours: any free memory fits any value, so there is nothing to compact.
//!
//! Lives here: leasing, reading, writing. Not here: which item a value belongs to (`engine`), sockets.
//! Unsafe lives here: units are read and written at their addresses.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::Arena;

/// A large value in memory of its own: received straight into it, sent straight from it.
///
/// In an `Arc` it is immutable and pinned: whoever still sends it holds it, whatever the engine does to the item meanwhile.
pub struct Body {
    chunks: Vec<u32>,
    pages: Vec<u32>,
    arena: Arc<Arena>,
    length: usize,
}

impl Body {
    /// Leases room for `length` bytes; `None` when the arena has not enough, and then nothing is kept.
    pub fn lease(arena: &Arc<Arena>, length: usize) -> Option<Self> {
        let (mut chunks, mut pages) = (length / CHUNK_BYTES, (length % CHUNK_BYTES).div_ceil(PAGE_BYTES));
        if pages == PAGES_PER_CHUNK {
            (chunks, pages) = (chunks + 1, 0);
        }
        if !arena.count(chunks * CHUNK_BYTES + pages * PAGE_BYTES) {
            return None;
        }
        // From here on, dropping the value gives all of it back.
        let mut body =
            Self { chunks: Vec::with_capacity(chunks), pages: Vec::with_capacity(pages), arena: arena.clone(), length };
        let whole = (0..chunks).all(|_| arena.take(&arena.chunks).map(|index| body.chunks.push(index)).is_some())
            && (0..pages).all(|_| arena.take(&arena.pages).map(|index| body.pages.push(index)).is_some());
        if !whole {
            arena.uncount((chunks - body.chunks.len()) * CHUNK_BYTES + (pages - body.pages.len()) * PAGE_BYTES);
            return None;
        }
        Some(body)
    }

    /// Length of the value in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of memory that it takes.
    pub fn footprint_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES + self.pages.len() * PAGE_BYTES
    }

    /// The unit that holds the byte at `offset`, from that byte on: where it lies, and how many bytes of the value it holds from there.
    fn piece(&self, offset: usize) -> Option<(NonNull<u8>, usize)> {
        let chunked = self.chunks.len() * CHUNK_BYTES;
        let (pool, units, within, unit_bytes) = match offset < chunked {
            true => (&self.arena.chunks, &self.chunks, offset, CHUNK_BYTES),
            false => (&self.arena.pages, &self.pages, offset - chunked, PAGE_BYTES),
        };
        if offset >= self.length {
            return None;
        }
        let start = within % unit_bytes;
        // SAFETY: `start` lies inside the unit.
        let pointer = unsafe { pool.pointer(units[within / unit_bytes]).add(start) };
        Some((pointer, (unit_bytes - start).min(self.length - offset)))
    }

    /// The value's pieces from `offset` on.
    pub fn slices(&self, mut offset: usize) -> impl Iterator<Item = &[u8]> {
        std::iter::from_fn(move || {
            let (pointer, bytes) = self.piece(offset)?;
            offset += bytes;
            // SAFETY: within a unit that is ours until we are dropped; anonymous memory is always initialised; `&self` keeps
            // writers out.
            Some(unsafe { std::slice::from_raw_parts(pointer.as_ptr(), bytes) })
        })
    }

    /// The pieces of a part of the value, which lies within it.
    pub fn slices_of(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut left = range.len();
        self.slices(range.start).map_while(move |slice| {
            let slice = &slice[..slice.len().min(left)];
            left -= slice.len();
            (!slice.is_empty()).then_some(slice)
        })
    }

    /// The piece to receive into at `offset`: up to the end of its unit or of the value. Empty at the end.
    pub fn room(&mut self, offset: usize) -> &mut [u8] {
        match self.piece(offset) {
            // SAFETY: as in `slices`, and `&mut self` makes this the only reference.
            Some((pointer, bytes)) => unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), bytes) },
            None => &mut [],
        }
    }

    /// Copies `bytes` to `offset`, as far as the value goes.
    pub fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() && offset < self.length {
            let room = self.room(offset);
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            offset += count;
            bytes = &bytes[count..];
        }
    }

    /// All bytes as one vector, for tests and rare paths.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices(0).collect::<Vec<_>>().concat()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.chunks.iter().for_each(|&index| self.arena.chunks.give(index));
        self.pages.iter().for_each(|&index| self.arena.pages.give(index));
        self.arena.uncount(self.footprint_bytes());
        self.arena.trim();
    }
}

/// A value in whole pages, borrowed from the one who leased them. Two words, as a slice is: replies are copied often.
///
/// ```text
///   its bytes:  | length of the value 4 | number of a page 4 | ... | what is behind the last whole page |
/// ```
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    arena: &'a Arena,
    /// The length, the table and the rest.
    start: NonNull<u8>,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Pages<'a> {
    /// The value that `bytes` tell of.
    ///
    /// # Safety
    /// - The pages in the table are leased from `arena`, and nobody gives them back or writes to them during `'a`.
    pub unsafe fn new(arena: &'a Arena, bytes: &'a [u8]) -> Self {
        let pages = Self { arena, start: NonNull::from(bytes).cast(), borrowed: PhantomData };
        assert!(bytes.len() >= PAGES_HEAD_BYTES && bytes.len() == pages_bytes(pages.len()));
        pages
    }

    /// Length of the value in bytes.
    pub fn len(&self) -> usize {
        // SAFETY: there are at least `PAGES_HEAD_BYTES` (asserted in `new`).
        u32::from_le_bytes(unsafe { self.start.cast::<[u8; PAGES_HEAD_BYTES]>().read_unaligned() }) as usize
    }

    /// Whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table and the rest.
    fn parts(self) -> (&'a [u8], &'a [u8]) {
        let length = self.len();
        // SAFETY: the bytes that `new` was given, which are borrowed for `'a`.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), pages_bytes(length)) };
        bytes[PAGES_HEAD_BYTES..].split_at(length / PAGE_BYTES * PAGE_NUMBER_BYTES)
    }

    /// Numbers of the pages.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + use<'a> {
        page_numbers(self.parts().0)
    }

    /// The value's pieces.
    pub fn slices(self) -> impl Iterator<Item = &'a [u8]> {
        let pages = self.numbers().map(move |page| {
            // SAFETY: the page is leased and nobody writes to it (promised to `new`), and memory of the arena is always initialised.
            unsafe { std::slice::from_raw_parts(self.arena.pages.pointer(page).as_ptr(), PAGE_BYTES) }
        });
        pages.chain(std::iter::once(self.parts().1))
    }
}

/// Bytes that stand for a value of this length in pages: its length, the numbers of its whole pages, and what is behind them.
pub const fn pages_bytes(value_bytes: usize) -> usize {
    PAGES_HEAD_BYTES + value_bytes / PAGE_BYTES * PAGE_NUMBER_BYTES + value_bytes % PAGE_BYTES
}

/// The numbers in a table of pages.
pub fn page_numbers(table: &[u8]) -> impl Iterator<Item = u32> {
    table.as_chunks::<PAGE_NUMBER_BYTES>().0.iter().map(|number| u32::from_le_bytes(*number))
}

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4 << 10;
/// Bytes of a page's number in a table.
pub const PAGE_NUMBER_BYTES: usize = 4;
/// Bytes of the length in front of a table.
pub const PAGES_HEAD_BYTES: usize = 4;
/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
const PAGES_PER_CHUNK: usize = CHUNK_BYTES / PAGE_BYTES;
