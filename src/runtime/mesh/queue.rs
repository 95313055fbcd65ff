//! One bounded byte queue from one core to another: single producer, single consumer, no lock.
//!
//! ```text
//!              head (consumer)               tail (producer, published once a turn)
//!                v                             v
//!   | free      | record | record | record    |  free                |  skip to the start |
//!                 record = length u32 | kind u32 | payload, padded to 8 bytes, never split
//! ```
//!
//! A record never wraps: what does not fit before the end is preceded by a skip record. The producer keeps its own tail and the
//! last head it saw, the consumer the reverse, so that the shared lines move between the cores once a turn, not once a record.
//!
//! Records that nobody has taken when both ends are gone go to the function that the queue was made with: they may own something.
//!
//! Lives here: the queue. Not here: what a record means (`record`), waking the other core (`pump`).
//! Unsafe lives here: both ends write and read one shared block of memory; the two positions keep them apart.

use std::cell::UnsafeCell;

use crate::sync::{Arc, AtomicUsize, Ordering};

/// Bytes before the payload of a record.
pub const RECORD_HEAD_BYTES: usize = 8;

const KIND_SKIP: u32 = u32::MAX;
/// Models of a queue are as small as can be.
const CAPACITY_BYTES_MIN: usize = if cfg!(all(loom, test)) { 64 } else { 1024 };

#[repr(align(128))]
struct Position(AtomicUsize);

struct Queue {
    block: Arc<Block>,
    /// First word of this queue in the block.
    start: usize,
    mask: usize,
    dispose: Dispose,
    head: Position,
    tail: Position,
}

/// Memory for any number of queues, zeroed: what no queue has written is not resident.
struct Block(Box<[UnsafeCell<u64>]>);

impl Block {
    fn new(words: usize) -> Arc<Self> {
        // Zeroes from the system, not written: half of the memory of a node with many cores would be resident at its start.
        let words = Box::into_raw(vec![0u64; words].into_boxed_slice());
        // SAFETY: the box was given up just before, and an `UnsafeCell<u64>` has the layout of a `u64`.
        Arc::new(Self(unsafe { Box::from_raw(words as *mut [UnsafeCell<u64>]) }))
    }
}

// SAFETY: each queue reaches only its own words, see below.
unsafe impl Sync for Block {}
// SAFETY: the memory is plain.
unsafe impl Send for Block {}

// SAFETY: `Producer` writes only the bytes between tail and head + capacity, `Consumer` reads only those between head and tail,
// and each position is moved by one side only, with release, and read by the other with acquire.
unsafe impl Sync for Queue {}
// SAFETY: as above; the memory is plain.
unsafe impl Send for Queue {}

/// The sending end. Not cloned: there is one.
pub struct Producer {
    queue: Arc<Queue>,
    tail: usize,
    published: usize,
    head_seen: usize,
}

/// The receiving end. Not cloned: there is one.
pub struct Consumer {
    queue: Arc<Queue>,
    head: usize,
    released: usize,
    tail_seen: usize,
}

/// What becomes of a record that nobody has taken: called once, with its kind and payload, when both ends are gone.
///
/// # Safety
/// - Called for such records only, of the queue that it was given to.
pub type Dispose = unsafe fn(kind: u32, payload: &mut [u8]);

/// A queue of `capacity_bytes`, a power of two of at least 1 KiB.
///
/// # Panics
/// If the capacity is not such a number: a mistake of the caller.
pub fn queue(capacity_bytes: usize, dispose: Dispose) -> (Producer, Consumer) {
    part_of(&Block::new(capacity_bytes / 8), 0, capacity_bytes, dispose)
}

/// As many queues of `capacity_bytes` as are taken, at most `count`, in one piece of memory.
///
/// # Panics
/// As `queue`.
pub fn queues(count: usize, capacity_bytes: usize, dispose: Dispose) -> impl Iterator<Item = (Producer, Consumer)> {
    let words = capacity_bytes / 8;
    let block = Block::new(count * words);
    (0..count).map(move |index| part_of(&block, index * words, capacity_bytes, dispose))
}

fn part_of(block: &Arc<Block>, start: usize, capacity_bytes: usize, dispose: Dispose) -> (Producer, Consumer) {
    assert!(capacity_bytes.is_power_of_two() && capacity_bytes >= CAPACITY_BYTES_MIN);
    assert!(start + capacity_bytes / 8 <= block.0.len());
    let queue = Arc::new(Queue {
        block: block.clone(),
        start,
        mask: capacity_bytes - 1,
        dispose,
        head: Position(AtomicUsize::new(0)),
        tail: Position(AtomicUsize::new(0)),
    });
    let producer = Producer { queue: queue.clone(), tail: 0, published: 0, head_seen: 0 };
    (producer, Consumer { queue, head: 0, released: 0, tail_seen: 0 })
}

impl Queue {
    fn capacity(&self) -> usize {
        self.mask + 1
    }

    /// Where the byte of a position lies; what comes of it may reach to the end of the queue. Positions are multiples of 8.
    fn pointer(&self, position: usize) -> *mut u8 {
        let offset = position & self.mask;
        // `UnsafeCell<u64>` has the layout of `u64`, so the block is contiguous bytes. Of the whole block, and not through one of its words:
        // a pointer made from a reference to a word must not leave that word.
        UnsafeCell::raw_get(self.block.0.as_ptr().wrapping_add(self.start)).cast::<u8>().wrapping_add(offset)
    }

    /// The record that starts at a position.
    ///
    /// # Safety
    /// - A record starts there, and nobody writes to it meanwhile.
    unsafe fn record(&self, position: usize) -> Record {
        // SAFETY: the caller's promise; records are aligned to 8 bytes.
        let word = unsafe { self.pointer(position).cast::<u64>().read() };
        let length = word as u32 as usize;
        let payload = self.pointer(position).wrapping_add(RECORD_HEAD_BYTES);
        Record {
            bytes: length.next_multiple_of(8),
            kind: (word >> 32) as u32,
            payload: std::ptr::slice_from_raw_parts_mut(payload, length - RECORD_HEAD_BYTES),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (mut at, tail) = (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Acquire));
        while at != tail {
            // SAFETY: both ends are gone and have left their positions here: whole records lie between them, and nobody else reaches them.
            let record = unsafe { self.record(at) };
            if record.kind != KIND_SKIP {
                // SAFETY: as above; each of them is passed once.
                unsafe { (self.dispose)(record.kind, &mut *record.payload) };
            }
            at += record.bytes;
        }
    }
}

/// A record in its place.
struct Record {
    /// From its start to the next one.
    bytes: usize,
    kind: u32,
    payload: *mut [u8],
}

impl Producer {
    /// Largest payload that any record of this queue may have: a quarter of the capacity, so that a skip never starves it.
    pub fn payload_bytes_max(&self) -> usize {
        self.queue.capacity() / 4 - RECORD_HEAD_BYTES
    }

    /// Room for one more record of the largest size, skip included.
    pub fn has_room(&mut self) -> bool {
        let needed = self.queue.capacity() / 2;
        if self.free() < needed {
            self.head_seen = self.queue.head.0.load(Ordering::Acquire);
        }
        self.free() >= needed
    }

    fn free(&self) -> usize {
        self.queue.capacity() - (self.tail - self.head_seen)
    }

    /// Space for the payload of a new record, 8-byte aligned, or `None` when the queue is full. Visible to the consumer after
    /// `publish`; the bytes are whatever was there.
    pub fn reserve(&mut self, kind: u32, payload_bytes: usize) -> Option<&mut [u8]> {
        debug_assert!(payload_bytes <= self.payload_bytes_max());
        let record = (RECORD_HEAD_BYTES + payload_bytes).next_multiple_of(8);
        let to_end = self.queue.capacity() - (self.tail & self.queue.mask);
        let needed = if to_end < record { to_end + record } else { record };
        if self.free() < needed {
            self.head_seen = self.queue.head.0.load(Ordering::Acquire);
            if self.free() < needed {
                return None;
            }
        }
        if to_end < record {
            self.write_head(to_end, KIND_SKIP);
            self.tail += to_end;
        }
        self.write_head(RECORD_HEAD_BYTES + payload_bytes, kind);
        // SAFETY: `needed` bytes from tail on are free, so the consumer does not read them before `publish`; the record does not
        // cross the end of the block; `&mut self` makes this the only reference.
        let payload = unsafe {
            let start = self.queue.pointer(self.tail).add(RECORD_HEAD_BYTES);
            std::slice::from_raw_parts_mut(start, payload_bytes)
        };
        self.tail += record;
        Some(payload)
    }

    fn write_head(&mut self, length: usize, kind: u32) {
        // SAFETY: at least 8 bytes are free at an 8-byte aligned tail (records are multiples of 8).
        unsafe { self.queue.pointer(self.tail).cast::<u64>().write(length as u64 | (kind as u64) << 32) };
    }

    /// Lets the consumer see everything reserved so far. Returns whether there was anything new.
    pub fn publish(&mut self) -> bool {
        if self.tail == self.published {
            return false;
        }
        self.queue.tail.0.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }
}

impl Consumer {
    /// The oldest record: kind and payload. Stays until `pop`.
    pub fn peek(&mut self) -> Option<(u32, &mut [u8])> {
        loop {
            if self.head == self.tail_seen {
                self.tail_seen = self.queue.tail.0.load(Ordering::Acquire);
                if self.head == self.tail_seen {
                    return None;
                }
            }
            // SAFETY: the record lies between head and tail, so the producer does not write it before `release`.
            let record = unsafe { self.queue.record(self.head) };
            if record.kind != KIND_SKIP {
                // SAFETY: as above; `&mut self` makes this the only reference.
                return Some((record.kind, unsafe { &mut *record.payload }));
            }
            self.head += record.bytes;
        }
    }

    /// The published records from the oldest on, without taking any. For prefetching.
    pub fn ahead(&mut self) -> impl Iterator<Item = (u32, &[u8])> {
        self.tail_seen = self.queue.tail.0.load(Ordering::Acquire);
        let (queue, tail) = (&*self.queue, self.tail_seen);
        let mut at = self.head;
        std::iter::from_fn(move || {
            while at != tail {
                // SAFETY: `at` lies between head and tail, so a published record starts there, and the producer does not write it before
                // `release`, which needs `&mut self`.
                let record = unsafe { queue.record(at) };
                at += record.bytes;
                if record.kind != KIND_SKIP {
                    // SAFETY: as above.
                    return Some((record.kind, unsafe { &*record.payload }));
                }
            }
            None
        })
    }

    /// Drops the record that `peek` showed. Without one, nothing happens.
    pub fn pop(&mut self) {
        if self.head != self.tail_seen {
            // SAFETY: a published record starts between head and tail.
            self.head += unsafe { self.queue.record(self.head) }.bytes;
        }
    }

    /// Gives the space of all popped records back to the producer. Once a turn is enough.
    pub fn release(&mut self) {
        if self.head != self.released {
            self.queue.head.0.store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }

    /// Whether a record waits, looking at the shared position.
    pub fn is_empty(&self) -> bool {
        self.head == self.queue.tail.0.load(Ordering::Acquire)
    }
}

impl Drop for Producer {
    /// Leaves behind what is in the queue, published or not: its last owner disposes of it.
    fn drop(&mut self) {
        self.publish();
    }
}

impl Drop for Consumer {
    /// Leaves behind what has not been popped.
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_arrive_in_order_and_whole_across_the_wrap() {
        let (mut producer, mut consumer) = queue(1024, |_, _| {});
        let (mut sent, mut received) = (0u64, 0u64);
        let count = if cfg!(miri) { 100 } else { 10_000 };
        while received < count {
            while sent < count {
                let length = 8 + (sent * 37 % 240) as usize;
                let Some(payload) = producer.reserve(sent as u32, length) else { break };
                payload.fill(sent as u8);
                payload[..8].copy_from_slice(&sent.to_le_bytes());
                sent += 1;
            }
            producer.publish();
            while let Some((kind, payload)) = consumer.peek() {
                assert_eq!(kind, received as u32);
                assert_eq!(payload.len(), 8 + (received * 37 % 240) as usize);
                assert_eq!(payload[..8], received.to_le_bytes());
                assert!(payload[8..].iter().all(|&byte| byte == received as u8));
                consumer.pop();
                received += 1;
            }
            consumer.release();
        }
    }

    #[test]
    fn nothing_is_seen_before_publish_and_a_full_queue_refuses() {
        let (mut producer, mut consumer) = queue(1024, |_, _| {});
        assert!(producer.reserve(1, 100).is_some());
        assert!(consumer.peek().is_none());
        producer.publish();
        assert!(consumer.peek().is_some());
        while producer.reserve(1, 100).is_some() {}
        assert!(!producer.has_room());
        consumer.pop();
        assert!(producer.reserve(1, 100).is_none(), "space returns with release, not with pop");
        consumer.release();
        assert!(producer.reserve(1, 100).is_some());
    }

    #[test]
    fn looking_ahead_shows_what_will_be_taken() {
        let (mut producer, mut consumer) = queue(1024, |_, _| {});
        for round in 0..if cfg!(miri) { 5 } else { 50u32 } {
            let count = (0..10).filter(|i| producer.reserve(round * 10 + i, 40 + *i as usize * 8).is_some()).count();
            producer.publish();
            let ahead: Vec<_> = consumer.ahead().map(|(kind, payload)| (kind, payload.len())).collect();
            assert_eq!(ahead.len(), count);
            for expected in ahead {
                let (kind, payload) = consumer.peek().unwrap();
                assert_eq!((kind, payload.len()), expected);
                consumer.pop();
            }
            consumer.release();
        }
    }

    #[test]
    fn what_nobody_has_taken_is_disposed_of_once_whichever_end_goes_first() {
        thread_local!(static DISPOSED: std::cell::RefCell<Vec<(u32, usize)>> = const { std::cell::RefCell::new(Vec::new()) });
        for producer_first in [true, false] {
            let (mut producer, mut consumer) =
                queue(1024, |kind, payload| DISPOSED.with_borrow_mut(|disposed| disposed.push((kind, payload.len()))));
            let mut count = 0;
            let mut send = |producer: &mut Producer| {
                let sent = producer.reserve(count, 100 + count as usize % 7).is_some();
                count += u32::from(sent);
                sent
            };
            let take = |consumer: &mut Consumer| {
                consumer.peek().unwrap();
                consumer.pop();
            };
            // Around the end of the block.
            for _ in 0..2 {
                while send(&mut producer) {}
                producer.publish();
                (0..6).for_each(|_| take(&mut consumer));
                consumer.release();
            }
            // One taken and its space not given back, at least one not taken, one not even published.
            assert!(send(&mut producer));
            producer.publish();
            take(&mut consumer);
            assert!(send(&mut producer));
            match producer_first {
                true => (drop(producer), drop(consumer)),
                false => (drop(consumer), drop(producer)),
            };
            let expected: Vec<(u32, usize)> = (13..count).map(|kind| (kind, 100 + kind as usize % 7)).collect();
            assert!(expected.len() > 2);
            assert_eq!(DISPOSED.take(), expected, "producer first: {producer_first}");
        }
    }

    #[test]
    fn two_threads_agree() {
        let count = if cfg!(miri) { 300u64 } else { 100_000 };
        let (mut producer, mut consumer) = queue(4096, |_, _| {});
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..count {
                    loop {
                        if let Some(payload) = producer.reserve(7, 8 + (number % 50) as usize) {
                            payload[..8].copy_from_slice(&number.to_le_bytes());
                            break;
                        }
                        producer.publish();
                        std::thread::yield_now();
                    }
                    if number.is_multiple_of(16) {
                        producer.publish();
                    }
                }
                producer.publish();
            });
            let mut expected = 0u64;
            while expected < count {
                match consumer.peek() {
                    Some((_, payload)) => {
                        assert_eq!(payload[..8], expected.to_le_bytes());
                        consumer.pop();
                        expected += 1;
                    }
                    None => {
                        consumer.release();
                        std::thread::yield_now();
                    }
                }
                if expected.is_multiple_of(64) {
                    consumer.release();
                }
            }
        });
    }
}

/// Every order of what the two ends do, under the model checker (`tests/run loom`).
#[cfg(all(loom, test))]
mod models {
    use loom::thread;

    use super::*;

    /// Bytes of the block: four records of 16, or as many as fit around a skip.
    const CAPACITY_BYTES: usize = 64;

    /// Stands for the words of a block, so that the checker sees every use of them.
    struct Words(Vec<loom::cell::UnsafeCell<u32>>);

    // SAFETY: the queue keeps its ends apart; that is what is checked.
    unsafe impl Sync for Words {}
    // SAFETY: as above.
    unsafe impl Send for Words {}

    impl Words {
        fn new() -> Arc<Self> {
            Arc::new(Self((0..CAPACITY_BYTES / 8).map(|_| loom::cell::UnsafeCell::new(0)).collect()))
        }

        /// Those of a record, its head included.
        fn of(&self, queue: &Queue, payload: &[u8]) -> &[loom::cell::UnsafeCell<u32>] {
            let start = (payload.as_ptr() as usize - queue.pointer(0) as usize - RECORD_HEAD_BYTES) / 8;
            &self.0[start..][..1 + payload.len() / 8]
        }
    }

    /// Six records through a block that holds four; the first is short, so that a later one skips the end of the block.
    #[test]
    fn model_what_one_end_writes_the_other_reads_whole_and_in_order() {
        const COUNT: u32 = 6;
        loom::model(|| {
            let (mut producer, mut consumer) = queue(CAPACITY_BYTES, |_, _| {});
            let words = Words::new();
            let seen = words.clone();
            let mut send = move |number: u32| {
                let block = producer.queue.clone();
                let Some(payload) = producer.reserve(number, if number == 0 { 0 } else { 8 }) else { return false };
                for word in words.of(&block, payload) {
                    // SAFETY: the place is ours until it is published, or the checker says that it is not.
                    word.with_mut(|word| unsafe { *word = number });
                }
                producer.publish();
                true
            };
            (0..3).for_each(|number| assert!(send(number)));
            let writer = thread::spawn(move || {
                for number in 3..COUNT {
                    while !send(number) {
                        thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < COUNT {
                let block = consumer.queue.clone();
                let Some((kind, payload)) = consumer.peek() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!((kind, payload.len()), (expected, if expected == 0 { 0 } else { 8 }));
                for word in seen.of(&block, payload) {
                    // SAFETY: as above.
                    assert_eq!(word.with(|word| unsafe { *word }), expected);
                }
                consumer.pop();
                consumer.release();
                expected += 1;
            }
            writer.join().unwrap();
            assert!(consumer.is_empty());
        });
    }

    #[test]
    fn model_what_nobody_has_taken_is_disposed_of_once_whichever_thread_ends_last() {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static DISPOSED: AtomicU32 = AtomicU32::new(0);
        loom::model(|| {
            DISPOSED.store(0, Relaxed);
            let (mut producer, mut consumer) = queue(CAPACITY_BYTES, |_, _| _ = DISPOSED.fetch_add(1, Relaxed));
            let writer = thread::spawn(move || {
                assert!(producer.reserve(1, 8).is_some());
                producer.publish();
                assert!(producer.reserve(2, 8).is_some());
            });
            let taken = u32::from(consumer.peek().is_some());
            consumer.pop();
            drop(consumer);
            writer.join().unwrap();
            assert_eq!(DISPOSED.load(Relaxed) + taken, 2);
        });
    }
}
