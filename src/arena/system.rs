//! What the operating system does for the arena: mappings, advice about them, and prefetching.
//!
//! Lives here: the calls. Not here: what a mapping is used for (`pool`, `lines`).
//! Unsafe lives here: system calls and a hint to the processor.

use std::ptr::NonNull;

/// A fresh anonymous mapping of zeroes, of which nothing is resident.
#[cfg(not(miri))]
pub(super) fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
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
pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

/// Asks for huge pages in a range, or for none. Changes no content, whatever the range.
#[cfg(not(miri))]
pub(super) fn prefer_huge_pages(start: NonNull<u8>, bytes: usize, wanted: bool) {
    let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // SAFETY: this advice changes no content, and is refused for a range that is not mapped.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
}

/// Hands the pages of a range back to the system. They read as zeroes from then on.
///
/// # Safety
/// - The range lies in one mapping of `map`, and nobody needs what is in it or refers to it.
#[cfg(not(miri))]
pub(super) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. Locked memory (`--lock_memory`) is given back by the second advice only (Linux 5.18).
    unsafe {
        if libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) != 0 {
            libc::madvise(start.as_ptr().cast(), bytes, MADV_DONTNEED_LOCKED);
        }
    }
}

/// Under Miri, which has no such system calls, the heap stands in.
#[cfg(miri)]
pub(super) fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or(std::io::ErrorKind::OutOfMemory.into())
}

#[cfg(miri)]
pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    if let Ok(layout) = std::alloc::Layout::from_size_align(bytes, 4096) {
        // SAFETY: allocated in `map` with this layout.
        unsafe { std::alloc::dealloc(base.as_ptr(), layout) };
    }
}

#[cfg(miri)]
pub(super) fn prefer_huge_pages(_start: NonNull<u8>, _bytes: usize, _wanted: bool) {}

#[cfg(miri)]
pub(super) unsafe fn discard(_start: NonNull<u8>, _bytes: usize) {}

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

pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// From the kernel's header; not in every libc.
#[cfg(not(miri))]
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
