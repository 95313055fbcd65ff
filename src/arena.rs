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
//! Lives here: leasing, charging, large bodies. Not here: what is in a segment (`engine`), who is evicted, sockets.
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
    /// Top of the free stack: low 32 bits the segment + 1 (0 = empty), high 32 bits a counter against ABA.
    free: AtomicU64,
    /// Next free segment + 1, per segment.
    next: Box<[AtomicU32]>,
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
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the range was mapped just above. Huge pages are a wish; refusal changes nothing.
        unsafe { libc::madvise(address, mapping_bytes, libc::MADV_HUGEPAGE) };
        Ok(Arc::new(Self {
            base: NonNull::new(address.cast()).expect("mmap never returns null for a fresh mapping"),
            mapping_bytes,
            segment_bytes,
            segments_count,
            free: AtomicU64::new(0),
            next: (0..segments_count).map(|_| AtomicU32::new(0)).collect(),
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
        let aligned = (self.base.as_ptr() as usize).next_multiple_of(HUGE_PAGE_BYTES);
        NonNull::new(aligned as *mut u8).expect("behind the start of a mapping")
    }

    /// Takes a segment, or `None` when the limit is reached. Its bytes are whatever was there.
    pub fn lease(self: &Arc<Self>) -> Option<Segment> {
        if !self.charge(self.segment_bytes) {
            return None;
        }
        let index = self.pop_free().or_else(|| self.take_fresh());
        match index {
            Some(index) => Some(Segment { arena: self.clone(), index }),
            None => {
                self.discharge(self.segment_bytes);
                None
            }
        }
    }

    /// Counts `bytes` that live outside the segments against the limit. False (and nothing counted) when they do not fit.
    pub fn charge(&self, bytes: usize) -> bool {
        let limit = self.limit_bytes.load(Ordering::Relaxed);
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used + bytes <= limit).then_some(used + bytes))
            .is_ok()
    }

    /// Gives back what `charge` counted.
    pub fn discharge(&self, bytes: usize) {
        let before = self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes);
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

    fn pop_free(&self) -> Option<u32> {
        let mut top = self.free.load(Ordering::Acquire);
        loop {
            let index = (top as u32).checked_sub(1)?;
            let next = self.next[index as usize].load(Ordering::Relaxed);
            let replacement = ((top >> 32).wrapping_add(1) << 32) | next as u64;
            match self.free.compare_exchange_weak(top, replacement, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(current) => top = current,
            }
        }
    }

    fn push_free(&self, index: u32) {
        let mut top = self.free.load(Ordering::Relaxed);
        loop {
            self.next[index as usize].store(top as u32, Ordering::Relaxed);
            let replacement = ((top >> 32).wrapping_add(1) << 32) | (index as u64 + 1);
            match self.free.compare_exchange_weak(top, replacement, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => top = current,
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: every `Segment` holds an `Arc` of the arena, so none is left; the range is the one that `new` mapped.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapping_bytes) };
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
        // SAFETY: `index < segments_count`, so the offset lies inside the mapping.
        unsafe { self.arena.base().add(self.index as usize * self.arena.segment_bytes) }
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
        if self.arena.excess_bytes() > 0 {
            // SAFETY: the segment's own range; its content is no longer needed. The system takes the pages back.
            unsafe { libc::madvise(self.pointer().as_ptr().cast(), self.arena.segment_bytes, libc::MADV_DONTNEED) };
        }
        self.arena.push_free(self.index);
        self.arena.discharge(self.arena.segment_bytes);
    }
}

/// A large value in whole segments of its own: received straight into them, sent straight from them.
///
/// In an `Arc` it is immutable and pinned: whoever still sends it holds it, whatever the engine does to the item meanwhile.
pub struct Body {
    segments: Vec<Segment>,
    segment_bytes: usize,
    length: usize,
}

impl Body {
    /// Leases room for `length` bytes; `None` when the arena has not enough, and then nothing is kept.
    pub fn lease(arena: &Arc<Arena>, length: usize) -> Option<Self> {
        let segment_bytes = arena.segment_bytes();
        let count = length.div_ceil(segment_bytes);
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(arena.lease()?);
        }
        Some(Self { segments, segment_bytes, length })
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
        self.segments.len() * self.segment_bytes
    }

    /// The value's pieces from `offset` on.
    pub fn slices(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        let (segment_bytes, length) = (self.segment_bytes, self.length);
        let first = offset / segment_bytes;
        self.segments.iter().enumerate().skip(first).filter_map(move |(i, segment)| {
            let start = i * segment_bytes;
            let from = offset.max(start) - start;
            let to = (length - start).min(segment_bytes);
            (from < to).then(|| &segment.bytes()[from..to])
        })
    }

    /// The piece to receive into at `offset`: up to the end of its segment or of the value. Empty at the end.
    pub fn room(&mut self, offset: usize) -> &mut [u8] {
        if offset >= self.length {
            return &mut [];
        }
        let start = offset % self.segment_bytes;
        let end = self.segment_bytes.min(start + self.length - offset);
        &mut self.segments[offset / self.segment_bytes].bytes_mut()[start..end]
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

const HUGE_PAGE_BYTES: usize = 2 << 20;

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
