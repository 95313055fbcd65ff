//! The node's memory for items: one mapping, cut into segments of one size, leased to the cores and to large values.
//!
//! ```text
//!   | segment 0 | segment 1 | ...            | segment n-1 |     one anonymous mapping, 2 MiB aligned, huge pages asked for
//!      free -> free -> free                                      lock-free stack of free segments: an atomic per lease,
//!                                                                never per request
//!   used = leased segments * segment_bytes + charged bytes <= limit
//! ```
//!
//! One pool instead of one slice a core: a 1 MiB item fits with `--memory_size 64 --cores 64`, and a core with all the keys
//! may use most of the memory. What does not live in segments (indexes, hints) is charged, so that one number bounds all.
//!
//! Memory that was touched stays resident when its segment is free. So that charged bytes never come on top of it, `charge` first
//! hands as many free segments' pages back to the system as it takes: they wait on a second stack, `cold`.
//!
//! Lives here: leasing, charging, large bodies, tables of lines that grow in place. Not here: what is in a segment (`engine`),
//! who is evicted, sockets.
//! Unsafe lives here: the mapping is shared raw memory; each segment is owned by exactly one `Segment` value.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::limits;

/// The node's memory. Shared by all cores; every operation is a few atomics.
pub struct Arena {
    base: NonNull<u8>,
    mapping_bytes: usize,
    segment_bytes: usize,
    segments_count: u32,
    /// Free segments whose pages are resident.
    free: Stack,
    /// Free segments whose pages were handed back.
    cold: Stack,
    /// Next free segment + 1, per segment; for both stacks.
    next: Box<[AtomicU32]>,
    /// Segments with resident pages, leased or free.
    resident: AtomicUsize,
    charged_bytes: AtomicUsize,
    /// Segments that were never leased start here, so that untouched memory stays untouched.
    fresh: AtomicU32,
    used_bytes: AtomicUsize,
    limit_bytes: AtomicUsize,
    wanted_bytes: AtomicUsize,
}

// SAFETY: the mapping is plain memory; a segment's bytes are reached only through the one `Segment` that owns it, or shared and
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
        let ceiling_bytes = ceiling_bytes.max(limit_bytes).max(segment_bytes);
        let segments_count = (ceiling_bytes / segment_bytes) as u32;
        let mapping_bytes = segments_count as usize * segment_bytes + HUGE_PAGE_BYTES;
        let base = map(mapping_bytes)?;
        advise(base, mapping_bytes, libc::MADV_HUGEPAGE);
        Ok(Arc::new(Self {
            base,
            mapping_bytes,
            segment_bytes,
            segments_count,
            free: Stack::default(),
            cold: Stack::default(),
            resident: AtomicUsize::new(0),
            charged_bytes: AtomicUsize::new(0),
            next: untouched(segments_count as usize),
            fresh: AtomicU32::new(0),
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
        self.segment_bytes
    }

    /// Segments in the mapping, leased or not.
    pub fn segments_count(&self) -> u32 {
        self.segments_count
    }

    /// First byte of the mapping's segments; segment `i` starts `i * segment_bytes` behind it. Aligned to 2 MiB.
    pub fn base(&self) -> NonNull<u8> {
        // SAFETY: the mapping is longer than its segments by `HUGE_PAGE_BYTES`.
        unsafe { self.base.add(self.base.as_ptr().align_offset(HUGE_PAGE_BYTES)) }
    }

    /// Takes a segment, or `None` when the limit is reached. Its bytes are whatever was there.
    pub fn lease(self: &Arc<Self>) -> Option<Segment> {
        if !self.count(self.segment_bytes) {
            return None;
        }
        let index = self.free.pop(&self.next).or_else(|| {
            let index = self.cold.pop(&self.next).or_else(|| self.take_fresh())?;
            self.resident.fetch_add(1, Ordering::Relaxed);
            Some(index)
        });
        match index {
            Some(index) => Some(Segment { arena: self.clone(), index }),
            None => {
                self.uncount(self.segment_bytes);
                None
            }
        }
    }

    /// Counts `bytes` that live outside the segments against the limit. False (and nothing counted) when they do not fit.
    pub fn charge(&self, bytes: usize) -> bool {
        if !self.count(bytes) {
            return false;
        }
        self.charged_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.trim();
        true
    }

    /// Gives back what `charge` counted.
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

    /// Hands pages of free segments back to the system until what is resident keeps to the limit.
    fn trim(&self) {
        let resident_bytes = || self.resident.load(Ordering::Relaxed) * self.segment_bytes;
        while resident_bytes() + self.charged_bytes.load(Ordering::Relaxed) > self.limit_bytes() {
            let Some(index) = self.free.pop(&self.next) else { return };
            let segment = self.segment_pointer(index);
            // Nobody else can reach a free segment once it is off the stack.
            advise(segment, self.segment_bytes, libc::MADV_DONTNEED);
            self.resident.fetch_sub(1, Ordering::Relaxed);
            self.cold.push(&self.next, index);
        }
    }

    /// Leased segments and charged bytes, in bytes.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that may be used.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that `set_limit` may allow.
    pub fn ceiling_bytes(&self) -> usize {
        self.segments_count as usize * self.segment_bytes
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

    fn take_fresh(&self) -> Option<u32> {
        let count = self.segments_count;
        self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < count).then_some(next + 1)).ok()
    }

    fn segment_pointer(&self, index: u32) -> NonNull<u8> {
        debug_assert!(index < self.segments_count);
        // SAFETY: `index < segments_count`, so the offset lies inside the mapping.
        unsafe { self.base().add(index as usize * self.segment_bytes) }
    }
}

/// Zeros that take no memory until they are written: there is one per segment that the machine's memory might ever give.
fn untouched(count: usize) -> Box<[AtomicU32]> {
    let zeros = Box::into_raw(vec![0u32; count].into_boxed_slice());
    // SAFETY: an `AtomicU32` has the size, the alignment and the valid values of a `u32`, and this is the only pointer to them.
    unsafe { Box::from_raw(zeros as *mut [AtomicU32]) }
}

/// A lock-free stack of segments, linked through `Arena::next`.
#[derive(Default)]
struct Stack {
    /// Low 32 bits the top segment + 1 (0 = empty), high 32 bits a counter against ABA.
    top: AtomicU64,
}

impl Stack {
    fn pop(&self, next: &[AtomicU32]) -> Option<u32> {
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let index = (top as u32).checked_sub(1)?;
            let below = next[index as usize].load(Ordering::Relaxed);
            let replacement = ((top >> 32).wrapping_add(1) << 32) | below as u64;
            match self.top.compare_exchange_weak(top, replacement, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(current) => top = current,
            }
        }
    }

    fn push(&self, next: &[AtomicU32], index: u32) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            next[index as usize].store(top as u32, Ordering::Relaxed);
            let replacement = ((top >> 32).wrapping_add(1) << 32) | (index as u64 + 1);
            match self.top.compare_exchange_weak(top, replacement, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => top = current,
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: every `Segment` holds an `Arc` of the arena, so none is left; the range is the one that `new` mapped.
        unsafe { unmap(self.base, self.mapping_bytes) };
    }
}

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
        self.arena.segment_pointer(self.index)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the segment is ours alone, mapped, and of this length; anonymous memory is always initialised.
        unsafe { std::slice::from_raw_parts(self.pointer().as_ptr(), self.arena.segment_bytes) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().as_ptr(), self.arena.segment_bytes) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.arena.free.push(&self.arena.next, self.index);
        self.arena.uncount(self.arena.segment_bytes);
        self.arena.trim();
    }
}

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
        let base = map(bytes).ok()?;
        if bytes > 2 * HUGE_PAGE_BYTES {
            // The first part stays in small pages, so that a small table takes little; beyond, huge ones are asked for.
            advise(base, HUGE_PAGE_BYTES, libc::MADV_NOHUGEPAGE);
            // SAFETY: within the range that was mapped just above.
            advise(unsafe { base.add(HUGE_PAGE_BYTES) }, bytes - HUGE_PAGE_BYTES, libc::MADV_HUGEPAGE);
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
            advise(unsafe { start.cast::<u8>().add(skipped) }, bytes, libc::MADV_DONTNEED);
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
        prefetch(self.base.as_ptr().wrapping_add(number).cast());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.arena.discharge(self.bytes());
        // SAFETY: the range that `reserve` mapped; no reference to a line outlives the value.
        unsafe { unmap(self.base.cast(), self.count_max * LINE_BYTES) };
    }
}

/// A fresh anonymous mapping of zeroes, of which nothing is resident.
#[cfg(not(miri))]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or(std::io::ErrorKind::OutOfMemory.into())
}

/// Ends a mapping.
///
/// # Safety
/// - `base` and `bytes` are those of one `map`.
/// - Nothing refers to it any more.
#[cfg(not(miri))]
unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

/// Tells the system how a range of a mapping will be used. `MADV_DONTNEED` also drops what is in it: the range must be unused.
#[cfg(not(miri))]
fn advise(start: NonNull<u8>, bytes: usize, advice: libc::c_int) {
    // SAFETY: callers name ranges of their own mappings; the advice changes no content but what they have given up. Refusal
    // changes nothing.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
}

/// Under Miri, which has no such system calls, the heap stands in.
#[cfg(miri)]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, PAGE_BYTES).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or(std::io::ErrorKind::OutOfMemory.into())
}

#[cfg(miri)]
unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    if let Ok(layout) = std::alloc::Layout::from_size_align(bytes, PAGE_BYTES) {
        // SAFETY: allocated in `map` with this layout.
        unsafe { std::alloc::dealloc(base.as_ptr(), layout) };
    }
}

#[cfg(miri)]
fn advise(_start: NonNull<u8>, _bytes: usize, _advice: libc::c_int) {}

/// Asks the cache for the line at an address. Any address is allowed.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint that never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// As [`prefetch`], but into the second level of the cache: for more lines than the first can wait for at once.
#[inline]
pub fn prefetch_far(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint that never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// A large value in memory of its own: received straight into it, sent straight from it.
///
/// ```text
///   | segment | segment | ... | tail |        whole segments, and what is left on the heap, charged, lest half a segment
///                                             is wasted for each value
/// ```
///
/// In an `Arc` it is immutable and pinned: whoever still sends it holds it, whatever the engine does to the item meanwhile.
pub struct Body {
    segments: Vec<Segment>,
    tail: Box<[u8]>,
    arena: Arc<Arena>,
    segment_bytes: usize,
    length: usize,
}

impl Body {
    /// Leases room for `length` bytes; `None` when the arena has not enough, and then nothing is kept.
    pub fn lease(arena: &Arc<Arena>, length: usize) -> Option<Self> {
        let segment_bytes = arena.segment_bytes();
        let (mut count, mut tail_bytes) = (length / segment_bytes, length % segment_bytes);
        if tail_bytes > segment_bytes - segment_bytes / 8 {
            (count, tail_bytes) = (count + 1, 0);
        }
        if !arena.charge(heap_bytes(tail_bytes)) {
            return None;
        }
        // From here on, dropping the value gives all of it back.
        let mut body = Self {
            segments: Vec::with_capacity(count),
            tail: vec![0; tail_bytes].into_boxed_slice(),
            arena: arena.clone(),
            segment_bytes,
            length,
        };
        for _ in 0..count {
            body.segments.push(arena.lease()?);
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
        self.segments.len() * self.segment_bytes + heap_bytes(self.tail.len())
    }

    /// The value's pieces from `offset` on.
    pub fn slices(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        let (segment_bytes, length) = (self.segment_bytes, self.length);
        let first = offset / segment_bytes;
        let pieces = self.segments.iter().map(Segment::bytes).chain(std::iter::once(&*self.tail));
        pieces.enumerate().skip(first).filter_map(move |(i, piece)| {
            let start = i * segment_bytes;
            let from = offset.max(start) - start;
            let to = length.saturating_sub(start).min(segment_bytes);
            (from < to).then(|| &piece[from..to])
        })
    }

    /// The piece to receive into at `offset`: up to the end of its segment or of the value. Empty at the end.
    pub fn room(&mut self, offset: usize) -> &mut [u8] {
        if offset >= self.length {
            return &mut [];
        }
        let start = offset % self.segment_bytes;
        let end = self.segment_bytes.min(start + self.length - offset);
        match self.segments.get_mut(offset / self.segment_bytes) {
            Some(segment) => &mut segment.bytes_mut()[start..end],
            None => &mut self.tail[start..end],
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
        self.slices(0).flatten().copied().collect()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.arena.discharge(heap_bytes(self.tail.len()));
    }
}

const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = size_of::<Line>();

/// Bytes that the heap takes for a block: its head, and whole pages where it has a mapping of its own.
const fn heap_bytes(length: usize) -> usize {
    match length {
        0 => 0,
        _ if length < limits::HEAP_MAPPED_BYTES => length + 16,
        _ => (length + 16).next_multiple_of(4096),
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
                    for _ in 0..2000 {
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
        let value: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        let mut body = Body::lease(&arena, value.len()).unwrap();
        for (i, piece) in value.chunks(777).enumerate() {
            body.write(i * 777, piece);
        }
        assert_eq!(body.to_vec(), value);
        for offset in [0, 1, 65535, 65536, 65537, 199_999, 200_000] {
            assert_eq!(body.slices(offset).flatten().copied().collect::<Vec<_>>(), &value[offset..]);
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
