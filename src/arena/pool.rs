//! Units of one size in one mapping: taken and given back by any thread without a lock.
//!
//! ```text
//!   | unit 0 | unit 1 | ...            | unit n-1 |     one anonymous mapping, 2 MiB aligned
//!      free -> free -> free                             given back, pages still resident: taken first
//!      cold -> cold                                     given back, and their pages to the system
//!                            ^ fresh                    never taken: untouched memory stays untouched
//! ```
//!
//! Lives here: the mapping, the stacks of free units, what is resident. Not here: how many may be taken (`Arena`), what is in them.
//! Unsafe lives here: addresses in a shared mapping.

use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;

use super::system::{self, HUGE_PAGE_BYTES};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Units of one size.
pub(super) struct Pool {
    base: NonNull<u8>,
    mapping_bytes: usize,
    unit_bytes: usize,
    count: u32,
    /// Free units whose pages are resident.
    free: Stack,
    /// Free units whose pages were handed back.
    cold: Stack,
    /// Next free unit + 1, per unit; for both stacks.
    next: Box<[AtomicU32]>,
    /// Units with resident pages, taken or free.
    resident: AtomicUsize,
    /// Units from here on were never taken.
    fresh: AtomicU32,
}

impl Pool {
    /// Maps room for as many units as `bytes` hold. `huge`: asks for huge pages.
    ///
    /// # Errors
    /// The operating system's, when the address space cannot be had.
    pub fn new(unit_bytes: usize, bytes: usize, huge: bool) -> std::io::Result<Self> {
        let count = u32::try_from(bytes / unit_bytes).unwrap_or(u32::MAX);
        let mapping_bytes = count as usize * unit_bytes + HUGE_PAGE_BYTES;
        let base = system::map(mapping_bytes)?;
        system::prefer_huge_pages(base, mapping_bytes, huge);
        Ok(Self {
            base,
            mapping_bytes,
            unit_bytes,
            count,
            free: Stack::default(),
            cold: Stack::default(),
            next: untouched(count as usize),
            resident: AtomicUsize::new(0),
            fresh: AtomicU32::new(0),
        })
    }

    pub fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// Units in the mapping.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of all units.
    pub fn bytes(&self) -> usize {
        self.count as usize * self.unit_bytes
    }

    /// Bytes with resident pages.
    pub fn resident_bytes(&self) -> usize {
        self.resident.load(Ordering::Relaxed) * self.unit_bytes
    }

    /// First byte of unit 0. Aligned to 2 MiB.
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: the mapping is longer than its units by `HUGE_PAGE_BYTES`.
        unsafe { self.base.add(self.base.as_ptr().align_offset(HUGE_PAGE_BYTES)) }
    }

    /// First byte of a unit.
    pub fn pointer(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: `index < count`, so the offset lies inside the mapping.
        unsafe { self.start().add(index as usize * self.unit_bytes) }
    }

    /// Takes a unit: whether its pages were resident, and its number. Its bytes are whatever was there.
    pub fn take(&self) -> Option<(bool, u32)> {
        if let Some(index) = self.free.pop(&self.next) {
            return Some((true, index));
        }
        let index = self.cold.pop(&self.next).or_else(|| self.take_fresh())?;
        self.resident.fetch_add(1, Ordering::Relaxed);
        Some((false, index))
    }

    /// Gives back a unit that `take` gave.
    pub fn give(&self, index: u32) {
        self.free.push(&self.next, index);
    }

    /// Hands the pages of one free unit back to the system. False when no free unit has any.
    pub fn cool(&self) -> bool {
        let Some(index) = self.free.pop(&self.next) else { return false };
        // SAFETY: a unit of this mapping; nobody else can reach a free one once it is off the stack.
        unsafe { system::discard(self.pointer(index), self.unit_bytes) };
        self.resident.fetch_sub(1, Ordering::Relaxed);
        self.cold.push(&self.next, index);
        true
    }

    fn take_fresh(&self) -> Option<u32> {
        let count = self.count;
        self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < count).then_some(next + 1)).ok()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: whoever holds a unit holds the arena, and so this pool; the range is the one that `new` mapped.
        unsafe { system::unmap(self.base, self.mapping_bytes) };
    }
}

/// Zeros that take no memory until they are written: there is one per unit that the machine's memory might ever give.
#[cfg(not(all(loom, test)))]
fn untouched(count: usize) -> Box<[AtomicU32]> {
    let zeros = Box::into_raw(vec![0u32; count].into_boxed_slice());
    // SAFETY: an `AtomicU32` has the size, the alignment and the valid values of a `u32`, and this is the only pointer to them.
    unsafe { Box::from_raw(zeros as *mut [AtomicU32]) }
}

/// The model checker's are no plain numbers.
#[cfg(all(loom, test))]
fn untouched(count: usize) -> Box<[AtomicU32]> {
    (0..count).map(|_| AtomicU32::new(0)).collect()
}

/// A lock-free stack of units, linked through `Pool::next`.
#[derive(Default)]
struct Stack {
    /// Low 32 bits the top unit + 1 (0 = empty), high 32 bits a counter against ABA.
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

/// Every order of what two threads do to a stack, under the model checker (`tests/run loom`).
#[cfg(all(loom, test))]
mod models {
    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::*;
    use crate::sync::Arc;

    /// A stack of free units, and their contents, whose every use the checker sees.
    struct Units {
        stack: Stack,
        next: Box<[AtomicU32]>,
        contents: Vec<UnsafeCell<u32>>,
    }

    // SAFETY: whoever took a unit off the stack has its content for itself; that is what is checked.
    unsafe impl Sync for Units {}
    // SAFETY: as above.
    unsafe impl Send for Units {}

    impl Units {
        fn new(count: u32) -> Arc<Self> {
            let contents = (0..count).map(|_| UnsafeCell::new(0)).collect();
            let units = Self { stack: Stack::default(), next: untouched(count as usize), contents };
            (0..count).for_each(|index| units.push(index));
            Arc::new(units)
        }

        fn pop(&self) -> Option<u32> {
            let index = self.stack.pop(&self.next)?;
            self.fill(index);
            Some(index)
        }

        fn push(&self, index: u32) {
            self.stack.push(&self.next, index);
        }

        /// Uses a unit: two that do so at once, or one that does not see what the last owner did, are an error.
        fn fill(&self, index: u32) {
            // SAFETY: the unit is ours alone, or the checker says that it is not.
            self.contents[index as usize].with_mut(|content| unsafe { *content += 1 });
        }
    }

    #[test]
    fn model_a_unit_has_one_owner_who_sees_what_the_last_one_did() {
        loom::model(|| {
            let units = Units::new(1);
            let other = units.clone();
            let turns = |units: &Units| (0..2).filter_map(|_| units.pop().inspect(|&index| units.push(index))).count() as u32;
            let there = thread::spawn(move || turns(&other));
            let here = turns(&units);
            let uses = here + there.join().unwrap();
            assert_eq!(units.pop(), Some(0));
            assert_eq!(units.pop(), None);
            // SAFETY: the other thread has ended.
            assert_eq!(units.contents[0].with(|content| unsafe { *content }), uses + 1);
        });
    }

    /// One thread is in the middle of taking the first unit, while the other takes both and gives the first back: without the counter in
    /// `top` the one would make the second unit the first free one, though the other has it.
    #[test]
    fn model_a_unit_that_came_back_is_not_taken_for_the_one_that_was_there() {
        loom::model(|| {
            let units = Units::new(2);
            let other = units.clone();
            let there = thread::spawn(move || {
                let (first, second) = (other.pop(), other.pop());
                first.inspect(|&index| other.push(index));
                second.inspect(|&index| other.fill(index));
                second
            });
            let here = [units.pop(), units.pop()];
            here.into_iter().flatten().for_each(|index| units.fill(index));
            let mut held: Vec<u32> = here.into_iter().chain([there.join().unwrap()]).flatten().collect();
            held.extend(std::iter::from_fn(|| units.pop()));
            held.sort_unstable();
            assert_eq!(held, [0, 1]);
        });
    }
}
