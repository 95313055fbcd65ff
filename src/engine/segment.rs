//! The log of one shard: segments leased from the arena, the records in them, and the two queues they wait in.
//!
//! ```text
//!   small: |seg|->|seg|->|value|->|seg*|        new items; a tenth of the memory          seg* = open: records are appended
//!   main:  |seg|->|value|->|seg|-> ... ->|seg*| items that were asked for again           value = a long one by itself
//!   free:  |seg| |seg| |page| |page| ...        leased and empty, kept ahead of need
//! ```
//!
//! ```text
//!   segment = | record | record | record | ... | rest |       records of one TTL group, in order of writing
//!
//!   value up to            it lies in
//!   1/16 of a segment      its record
//!   96 KiB                 whole pages; what is behind them lies in the record
//!   --max_item_size        a body: memory of its own, which is received into and sent from
//! ```
//!
//! Both queues are first in, first out over all TTL groups. A long value is an extent of its own, so that it is evicted by itself and
//! weighed by its bytes; its record (header, key, number of the extent) lies in a segment like any other.
//!
//! Lives here: where bytes lie, live and dead counts, queues. Not here: which key a record belongs to (`index`), who goes
//! (`eviction`), the layout of a record (`item`).
//! Unsafe lives here: records are read and written at addresses computed from their location.

use std::ptr::NonNull;
use std::sync::Arc;

use slab::Slab;

use super::compaction::{CompactionCandidates, EIGHTHS_MAX, Threshold};
use super::item::{self, EXTENT_ID_BYTES, Record, UNIT_BYTES};
use crate::arena::{self, Arena, Body, PAGE_BYTES, PAGE_NUMBER_BYTES, PAGES_HEAD_BYTES, Pages, Segment};
use crate::command::Value;
use crate::limits;
use crate::time::{Expiry, Seconds};
use crate::version::Version;

/// Where a record starts: in units of 2 bytes behind the arena's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location(pub u64);

/// Which queue an extent waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// For items that were not asked for again yet.
    Small,
    /// For items that were.
    Main,
}

/// What may happen to an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Records are appended to it.
    Open,
    /// It waits in its queue.
    Sealed,
    /// It is out of its queue and being emptied.
    Draining,
}

/// One segment of the log, or one long value.
pub(super) struct Extent {
    content: Content,
    pub queue: Queue,
    pub group: u8,
    pub state: State,
    /// Bytes from the start that hold records, dead ones included.
    pub used_bytes: u32,
    pub live_bytes: u32,
    pub live_items: u32,
    /// Bytes of live records whose values are extents.
    heads_bytes: u32,
    /// No record expires later; `NEVER_S` if one never does.
    pub expiry_max_s: u32,
    /// No record has a higher version.
    pub version_max: Version,
    previous: u32,
    next: u32,
}

/// What an extent consists of.
enum Content {
    Segment(Segment),
    /// The value, and where its record lies.
    Body(Arc<Body>, Location),
    /// How many pages the value has, and where its record lies, which knows their numbers.
    Pages(u32, Location),
}

impl Extent {
    /// Bytes of the arena that it takes.
    fn footprint_bytes(&self, segment_bytes: usize) -> usize {
        match &self.content {
            Content::Segment(_) => segment_bytes,
            Content::Body(body, _) => body.footprint_bytes(),
            Content::Pages(count, _) => *count as usize * PAGE_BYTES,
        }
    }

    /// Whether this is a segment with hardly anything but heads of long values: they are evicted with these.
    pub fn is_of_heads(&self) -> bool {
        u64::from(self.heads_bytes) * HEADS_PART > u64::from(self.live_bytes) * (HEADS_PART - 1)
    }

    /// Where the record of a long value lies; `None` for a segment.
    pub fn value_record(&self) -> Option<Location> {
        match self.content {
            Content::Segment(_) => None,
            Content::Body(_, location) | Content::Pages(_, location) => Some(location),
        }
    }
}

/// One queue of extents.
#[derive(Clone, Copy, Debug)]
struct QueueEnds {
    head: u32,
    tail: u32,
    bytes: usize,
}

/// The log.
pub(super) struct Log {
    arena: Arc<Arena>,
    base: NonNull<u8>,
    segment_shift: u32,
    /// Segment size less one.
    segment_mask: usize,
    /// End of the arena's segments behind `base`.
    end_bytes: usize,
    extents: Slab<Extent>,
    /// Extent + 1 of each segment of the arena that is ours, 0 for others: most are never ours, and zeros take no memory until they
    /// are written.
    owner: Vec<u32>,
    queues: [QueueEnds; 2],
    open: [[u32; GROUPS_MAX]; 2],
    free: Vec<Segment>,
    free_pages: Vec<u32>,
    /// Sealed segments, and what lives in them.
    sealed_count: usize,
    sealed_live_bytes: usize,
    /// Segments with much that is dead.
    candidates: CompactionCandidates,
    /// Segments that hold records.
    segments_count: usize,
    /// TTL groups in use.
    groups: u32,
    /// Cores that share the arena.
    cores: usize,
    /// Bytes of long values.
    values_bytes: usize,
    /// Bytes of live records.
    pub live_bytes: usize,
}

// SAFETY: `base` points into the arena that `arena` keeps mapped; the segments behind it belong to this value alone.
unsafe impl Send for Log {}

impl Log {
    pub fn new(arena: &Arc<Arena>, cores: u16) -> Self {
        let ends = QueueEnds { head: NONE, tail: NONE, bytes: 0 };
        Self {
            base: arena.base(),
            segment_shift: arena.segment_bytes().trailing_zeros(),
            segment_mask: arena.segment_bytes() - 1,
            end_bytes: arena.ceiling_bytes(),
            extents: Slab::new(),
            owner: vec![0; arena.segments_count() as usize],
            queues: [ends; 2],
            open: [[NONE; GROUPS_MAX]; 2],
            free: Vec::new(),
            free_pages: Vec::new(),
            sealed_count: 0,
            sealed_live_bytes: 0,
            candidates: CompactionCandidates::default(),
            segments_count: 0,
            groups: 1,
            cores: usize::from(cores.max(1)),
            values_bytes: 0,
            live_bytes: 0,
            arena: arena.clone(),
        }
    }

    pub fn segment_bytes(&self) -> usize {
        self.segment_mask + 1
    }

    /// Longest record with its whole value; of a longer one the value is an extent.
    pub fn record_bytes_max(&self) -> usize {
        self.segment_bytes() / limits::RECORDS_PER_SEGMENT_MIN
    }

    /// Bytes of the arena that the log holds: segments, pages and long values, free ones included.
    pub fn held_bytes(&self) -> usize {
        (self.segments_count + self.free.len()) * self.segment_bytes() + self.free_pages.len() * PAGE_BYTES + self.values_bytes
    }

    /// Bytes of long values.
    pub fn values_bytes(&self) -> usize {
        self.values_bytes
    }

    /// Live records, counted one segment after the other: for tests.
    pub fn live_items(&self) -> u64 {
        self.extents.iter().map(|(_, extent)| u64::from(extent.live_items)).sum()
    }

    /// Segments that hold records.
    pub fn segments_count(&self) -> usize {
        self.segments_count
    }

    /// Free segments at hand.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Bytes in a queue.
    pub fn queue_bytes(&self, queue: Queue) -> usize {
        self.queues[queue as usize].bytes
    }

    pub fn extent(&self, id: u32) -> &Extent {
        &self.extents[id as usize]
    }

    pub fn extent_mut(&mut self, id: u32) -> &mut Extent {
        &mut self.extents[id as usize]
    }

    /// Numbers of all extents are below this.
    pub fn extents_end(&self) -> usize {
        self.extents.capacity()
    }

    /// The extent of this number if there is one.
    pub fn extent_if(&self, id: usize) -> Option<&Extent> {
        self.extents.get(id)
    }

    /// The TTL group of an item: groups are powers of two of the time that is left, as many as the segments allow.
    pub fn group_of(&self, expiry: Expiry, now: Seconds) -> u8 {
        let groups = self.groups;
        match expiry.remaining(now) {
            Some(left) if groups > 1 => (1 + left.max(1).ilog2().min(LOG_TTL_MAX) * (groups - 1) / (LOG_TTL_MAX + 1)) as u8,
            _ => 0,
        }
    }

    #[inline]
    fn owner_index(&self, location: Location) -> usize {
        (location.0 as usize * UNIT_BYTES) >> self.segment_shift
    }

    /// The segment that a record lies in.
    #[inline]
    pub fn extent_of(&self, location: Location) -> u32 {
        self.owner[self.owner_index(location)].wrapping_sub(1)
    }

    /// Asks the cache for the first lines of a record: with header, key and a value of 100 bytes they are three.
    ///
    /// Into the second level: 48 lines of 16 keys are more than the first can wait for at once (24 on Zen 4), and then the asking
    /// itself stalls. A batch of 16 takes 89 ns a key so, 114 ns with the first level, at 10 million items.
    #[inline]
    pub fn prefetch(&self, location: Location) {
        let address = self.base.as_ptr().wrapping_add(location.0 as usize * UNIT_BYTES);
        AHEAD_BYTES.into_iter().for_each(|bytes| arena::prefetch_far(address.wrapping_add(bytes)));
    }

    /// The first of `bytes` bytes at a location, all of which lie in its segment.
    #[inline]
    fn pointer(&self, location: Location, bytes: usize) -> *mut u8 {
        let offset = location.0 as usize * UNIT_BYTES;
        let within = offset & self.segment_mask;
        assert!(within + bytes <= self.segment_mask + 1 && offset < self.end_bytes);
        debug_assert_ne!(self.owner[offset >> self.segment_shift], 0);
        // SAFETY: the segment lies inside the mapping (its start is asserted to) and the bytes inside the segment.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The record at a location that the index or a walk over a segment gave.
    #[inline]
    pub fn record(&self, location: Location) -> Record<'_> {
        let head = self.pointer(location, item::HEADER_BYTES);
        // SAFETY: in bounds (asserted); segments of the log belong to it, their bytes are initialised, and `&self` keeps
        // writers out.
        let bytes = item::size(unsafe { std::slice::from_raw_parts(head, item::HEADER_BYTES) });
        let within = (location.0 as usize * UNIT_BYTES) & self.segment_mask;
        assert!(within + bytes <= self.segment_mask + 1);
        // SAFETY: as above, for the length that the header tells, which was asserted to stay inside the segment.
        Record::new(unsafe { std::slice::from_raw_parts(head, bytes) })
    }

    /// The record of this length at a location, for one who has seen it just now.
    #[inline]
    pub fn record_of(&self, location: Location, bytes: usize) -> Record<'_> {
        // SAFETY: in bounds (asserted in `pointer`); as in `record`.
        Record::new(unsafe { std::slice::from_raw_parts(self.pointer(location, bytes), bytes) })
    }

    /// The header of a record that is there, to change.
    #[inline]
    pub fn header_mut(&mut self, location: Location) -> &mut [u8] {
        self.bytes_mut(location, item::HEADER_BYTES)
    }

    /// The bytes of a record that is there, to change without changing its length.
    #[inline]
    pub fn record_mut(&mut self, location: Location) -> &mut [u8] {
        let bytes = self.record(location).record_bytes();
        self.bytes_mut(location, bytes)
    }

    /// Room that `append` gave, to be filled with a record of exactly `bytes`.
    #[inline]
    pub fn bytes_mut(&mut self, location: Location, bytes: usize) -> &mut [u8] {
        // SAFETY: in bounds (asserted in `pointer`), ours alone, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(location, bytes), bytes) }
    }

    /// Copies a record (or part of one) to other room.
    pub fn copy(&mut self, source: Location, offset: usize, target: Location, target_offset: usize, bytes: usize) {
        let from = self.pointer(source, offset + bytes);
        let to = self.pointer(target, target_offset + bytes);
        assert!(source != target);
        // SAFETY: both ranges are in bounds (asserted) and belong to two different records, so they do not overlap; `&mut
        // self` keeps others out.
        unsafe { std::ptr::copy_nonoverlapping(from.add(offset), to.add(target_offset), bytes) };
    }

    /// The value of a record, where it lies.
    #[inline]
    pub fn value<'l>(&'l self, record: Record<'l>) -> Value<'l> {
        if record.is_extended() { self.extended_value(record) } else { Value::Bytes(record.value()) }
    }

    #[cold]
    fn extended_value<'l>(&'l self, record: Record<'l>) -> Value<'l> {
        match &self.extents[record.extent_id() as usize].content {
            Content::Body(body, _) => Value::Body(body),
            // SAFETY: the record's pages are leased until its extent is removed, which takes `&mut self`.
            Content::Pages(..) => Value::Pages(unsafe { Pages::new(&self.arena, &record.value()[EXTENT_ID_BYTES..]) }),
            Content::Segment(_) => unreachable!("a record names an extent that is no value"),
        }
    }

    /// Bytes that an item takes beside its record.
    #[inline]
    pub fn extent_bytes(&self, record: Record<'_>) -> usize {
        if record.is_extended() { self.footprint_of(record) } else { 0 }
    }

    #[cold]
    fn footprint_of(&self, record: Record<'_>) -> usize {
        self.extents[record.extent_id() as usize].footprint_bytes(self.segment_bytes())
    }

    /// Whether `append` will succeed. `spare` free segments are not to be touched.
    #[inline]
    pub fn has_room(&self, queue: Queue, group: u8, bytes: usize, spare: usize) -> bool {
        self.fits_open(queue, group, bytes) || self.free.len() > spare
    }

    #[inline]
    pub fn fits_open(&self, queue: Queue, group: u8, bytes: usize) -> bool {
        let id = self.open[queue as usize][group as usize];
        id != NONE && self.extents[id as usize].used_bytes as usize + bytes <= self.segment_bytes()
    }

    /// Room for a record behind the last one of its queue and group. `has_room` must hold. The caller writes it at once.
    pub fn append(&mut self, queue: Queue, group: u8, bytes: usize, expiry: Expiry, version: Version) -> Location {
        debug_assert_eq!(bytes % UNIT_BYTES, 0);
        if !self.fits_open(queue, group, bytes) {
            self.seal(queue, group);
            self.open(queue, group);
        }
        let id = self.open[queue as usize][group as usize];
        let segment_bytes = self.segment_bytes();
        let extent = &mut self.extents[id as usize];
        let Content::Segment(segment) = &extent.content else { unreachable!("an open extent is a segment") };
        let offset = segment.index() as usize * segment_bytes + extent.used_bytes as usize;
        extent.used_bytes += bytes as u32;
        extent.live_bytes += bytes as u32;
        extent.live_items += 1;
        extent.expiry_max_s = extent.expiry_max_s.max(expiry_max_of(expiry));
        extent.version_max = extent.version_max.max(version);
        self.live_bytes += bytes;
        Location((offset / UNIT_BYTES) as u64)
    }

    /// Lets no more records into the open segment of a queue and group.
    pub fn seal(&mut self, queue: Queue, group: u8) {
        let id = std::mem::replace(&mut self.open[queue as usize][group as usize], NONE);
        if id == NONE {
            return;
        }
        let extent = &mut self.extents[id as usize];
        extent.state = State::Sealed;
        self.sealed_count += 1;
        self.sealed_live_bytes += extent.live_bytes as usize;
        self.candidates.put(id, eighths(extent.live_bytes, self.segment_shift));
    }

    fn open(&mut self, queue: Queue, group: u8) {
        let Some(segment) = self.free.pop() else { unreachable!("append without room") };
        let index = segment.index() as usize;
        let id = self.add(Content::Segment(segment), queue, group, State::Open);
        self.owner[index] = id + 1;
        self.open[queue as usize][group as usize] = id;
        self.segments_count += 1;
        // As many groups as the segments that are here, or that would be this shard's share, can keep open.
        let share = self.arena.limit_bytes() / self.cores / self.segment_bytes();
        self.groups = (share.max(self.segments_count) / SEGMENTS_PER_GROUP).clamp(1, GROUPS_MAX) as u32;
    }

    fn add(&mut self, content: Content, queue: Queue, group: u8, state: State) -> u32 {
        let id = self.extents.insert(Extent {
            content,
            queue,
            group,
            state,
            used_bytes: 0,
            live_bytes: 0,
            live_items: 0,
            heads_bytes: 0,
            expiry_max_s: 0,
            version_max: Version::NONE,
            previous: NONE,
            next: NONE,
        }) as u32;
        self.candidates.expect(id);
        self.push(queue, id);
        id
    }

    /// Puts an extent at the end of a queue.
    pub fn push(&mut self, queue: Queue, id: u32) {
        let bytes = self.extents[id as usize].footprint_bytes(self.segment_bytes());
        let ends = &mut self.queues[queue as usize];
        let previous = std::mem::replace(&mut ends.tail, id);
        ends.bytes += bytes;
        if previous == NONE {
            ends.head = id;
        } else {
            self.extents[previous as usize].next = id;
        }
        let extent = &mut self.extents[id as usize];
        (extent.previous, extent.next, extent.queue) = (previous, NONE, queue);
    }

    /// Takes an extent out of its queue.
    pub fn unlink(&mut self, id: u32) {
        let extent = &self.extents[id as usize];
        let (previous, next, queue) = (extent.previous, extent.next, extent.queue);
        let bytes = extent.footprint_bytes(self.segment_bytes());
        let ends = &mut self.queues[queue as usize];
        ends.bytes -= bytes;
        if previous == NONE {
            ends.head = next
        } else {
            self.extents[previous as usize].next = next
        }
        if next == NONE { ends.tail = previous } else { self.extents[next as usize].previous = previous }
    }

    /// The oldest extent of a queue, open ones passed over: they still fill, slowly. The oldest of all if all are open.
    pub fn oldest(&self, queue: Queue) -> Option<u32> {
        let head = self.queues[queue as usize].head;
        let mut id = head;
        for _ in 0..=GROUPS_MAX {
            if id == NONE {
                break;
            }
            let extent = &self.extents[id as usize];
            if extent.state != State::Open {
                return Some(id);
            }
            id = extent.next;
        }
        (head != NONE).then_some(head)
    }

    /// Takes a segment out of its queue, to be emptied record by record.
    pub fn start_draining(&mut self, id: u32) {
        let (queue, group) = (self.extents[id as usize].queue, self.extents[id as usize].group);
        if self.open[queue as usize][group as usize] == id {
            self.seal(queue, group);
        }
        self.unlink(id);
        self.candidates.take(id);
        let extent = &mut self.extents[id as usize];
        extent.state = State::Draining;
        self.sealed_count -= 1;
        self.sealed_live_bytes -= extent.live_bytes as usize;
    }

    /// Frees a segment that was drained.
    pub fn finish_draining(&mut self, id: u32) {
        let extent = self.extents.remove(id as usize);
        assert!(extent.state == State::Draining && extent.live_items == 0 && extent.live_bytes == 0);
        let Content::Segment(segment) = extent.content else { unreachable!("only segments are drained") };
        self.owner[segment.index() as usize] = 0;
        self.segments_count -= 1;
        self.free.push(segment);
    }

    /// The records of a segment from `offset` on: the next one's location and the offset behind it.
    pub fn next_record(&self, id: u32, offset: u32) -> Option<(Location, u32)> {
        let extent = &self.extents[id as usize];
        if offset >= extent.used_bytes {
            return None;
        }
        let Content::Segment(segment) = &extent.content else { return None };
        let start = segment.index() as usize * self.segment_bytes() + offset as usize;
        let location = Location((start / UNIT_BYTES) as u64);
        Some((location, offset + self.record(location).record_bytes() as u32))
    }

    /// Counts a record as dead. The caller has removed or moved its slot, and removes its body if it had one.
    pub fn kill(&mut self, location: Location) {
        let record = self.record(location);
        let (bytes, extended) = (record.record_bytes() as u32, record.is_extended());
        let id = self.extent_of(location);
        let extent = &mut self.extents[id as usize];
        extent.heads_bytes -= if extended { bytes } else { 0 };
        let before = eighths(extent.live_bytes, self.segment_shift);
        extent.live_bytes -= bytes;
        extent.live_items -= 1;
        self.live_bytes -= bytes as usize;
        if extent.state != State::Sealed {
            return;
        }
        self.sealed_live_bytes -= bytes as usize;
        let after = eighths(extent.live_bytes, self.segment_shift);
        if after < before || extent.live_items == 0 {
            self.candidates.put(id, after);
        }
    }

    /// A sealed segment with much that is dead, or `all_dead` where there is no room for copies.
    pub fn sparsest(&self, all_dead: bool) -> Option<u32> {
        let sealed_bytes = self.sealed_count << self.segment_shift;
        let dead_bytes = sealed_bytes - self.sealed_live_bytes;
        // Less than two segments would be copied without end, and none come free.
        let much_is_dead = !all_dead && dead_bytes > (sealed_bytes / DEAD_PART).max(2 << self.segment_shift);
        let threshold = if much_is_dead { Threshold::SevenEighths } else { Threshold::Half };
        self.candidates.first(threshold).filter(|&id| !all_dead || self.extents[id as usize].live_items == 0)
    }

    /// Keeps a large value whose record lies at `location`.
    pub fn add_body(&mut self, body: Arc<Body>, queue: Queue, location: Location) -> u32 {
        self.values_bytes += body.footprint_bytes();
        self.count_head(location);
        self.add(Content::Body(body, location), queue, 0, State::Sealed)
    }

    /// Keeps a value of `count` pages whose record lies at `location`.
    pub fn add_pages(&mut self, count: u32, queue: Queue, location: Location) -> u32 {
        self.values_bytes += count as usize * PAGE_BYTES;
        self.count_head(location);
        self.add(Content::Pages(count, location), queue, 0, State::Sealed)
    }

    fn count_head(&mut self, location: Location) {
        let bytes = self.record(location).record_bytes() as u32;
        let id = self.extent_of(location);
        self.extents[id as usize].heads_bytes += bytes;
    }

    /// Lets go of what the record at `location` has beside itself. Readers that hold a body keep it; pages are free at once.
    pub fn remove_extent(&mut self, location: Location) {
        let record = self.record(location);
        let id = record.extent_id();
        self.unlink(id);
        let extent = self.extents.remove(id as usize);
        self.values_bytes -= extent.footprint_bytes(self.segment_bytes());
        if let Content::Pages(count, _) = extent.content {
            let record = self.record(location);
            let table = &record.value()[EXTENT_ID_BYTES + PAGES_HEAD_BYTES..][..count as usize * PAGE_NUMBER_BYTES];
            let freed: arrayvec::ArrayVec<u32, VALUE_PAGES_MAX> = arena::page_numbers(table).collect();
            self.free_pages.extend(freed);
        }
    }

    /// Tells a long value where its record is now.
    pub fn move_extent(&mut self, id: u32, location: Location) {
        self.count_head(location);
        if let Content::Body(_, place) | Content::Pages(_, place) = &mut self.extents[id as usize].content {
            *place = location;
        }
    }

    /// Free pages at hand.
    pub fn free_pages_count(&self) -> usize {
        self.free_pages.len()
    }

    /// Leases pages until `count` are at hand. False when the arena has not as many.
    pub fn lease_pages(&mut self, count: usize) -> bool {
        self.arena.lease_pages(&mut self.free_pages, count)
    }

    /// Gives all free pages but `kept` back to the arena. Returns their bytes.
    pub fn give_pages_back(&mut self, kept: usize) -> usize {
        self.arena.give_pages(&mut self.free_pages, kept)
    }

    /// Writes the value of a record at `location` whose bytes are at `value_offset`: the number of its extent, its length, the numbers of
    /// free pages that take its whole pages, then what is behind them. `lease_pages` must have brought enough.
    pub fn write_pages(&mut self, value: Value<'_>, id: u32, location: Location, value_offset: usize) {
        let pages = value.len() / PAGE_BYTES;
        let table: arrayvec::ArrayVec<u32, VALUE_PAGES_MAX> = self.free_pages.drain(self.free_pages.len() - pages..).collect();
        let arena = self.arena.clone();
        let record = &mut self.record_mut(location)[value_offset..];
        let (head, rest) = record.split_at_mut(EXTENT_ID_BYTES + PAGES_HEAD_BYTES);
        head[..EXTENT_ID_BYTES].copy_from_slice(&id.to_le_bytes());
        head[EXTENT_ID_BYTES..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        let (numbers, mut rest) = rest.split_at_mut(pages * PAGE_NUMBER_BYTES);
        for (number, room) in table.iter().zip(numbers.as_chunks_mut::<PAGE_NUMBER_BYTES>().0) {
            *room = number.to_le_bytes();
        }
        let mut offset = 0;
        value.each_slice(|mut slice| {
            while offset < pages * PAGE_BYTES && !slice.is_empty() {
                let count = slice.len().min(PAGE_BYTES - offset % PAGE_BYTES);
                let page = arena.page(table[offset / PAGE_BYTES]);
                // SAFETY: the page is leased and in no other record; the bytes stay inside it, and the value lies elsewhere: what this
                // engine holds has other pages.
                unsafe { std::ptr::copy_nonoverlapping(slice.as_ptr(), page.as_ptr().add(offset % PAGE_BYTES), count) };
                (offset, slice) = (offset + count, &slice[count..]);
            }
            let (front, behind) = std::mem::take(&mut rest).split_at_mut(slice.len());
            front.copy_from_slice(slice);
            rest = behind;
        });
    }

    /// Leases one more segment.
    pub fn lease(&mut self) -> bool {
        match self.arena.lease() {
            Some(segment) if (segment.index() as usize) < LOCATION_END >> self.segment_shift => {
                self.free.push(segment);
                true
            }
            _ => false,
        }
    }

    /// Gives a free segment back to the arena, but keeps `spare`. Returns its bytes, 0 if there was none.
    pub fn give_back(&mut self, spare: usize) -> usize {
        if self.free.len() <= spare {
            return 0;
        }
        self.free.pop().map_or(0, |_| self.segment_bytes())
    }

    /// Checks lists and sums. Live counts are compared with `live(location)`, which tells whether the index knows a record.
    pub fn verify(&self, mut live: impl FnMut(Location) -> bool) {
        let mut queued = 0;
        for queue in [Queue::Small, Queue::Main] {
            let (mut id, mut previous, mut bytes) = (self.queues[queue as usize].head, NONE, 0);
            while id != NONE {
                let extent = &self.extents[id as usize];
                assert_eq!((extent.queue, extent.previous), (queue, previous));
                assert_ne!(extent.state, State::Draining);
                bytes += extent.footprint_bytes(self.segment_bytes());
                queued += 1;
                (previous, id) = (id, extent.next);
            }
            assert_eq!((previous, bytes), (self.queues[queue as usize].tail, self.queues[queue as usize].bytes));
        }
        let (mut segments, mut values_bytes, mut live_bytes) = (0, 0, 0);
        let mut numbers = self.free_pages.clone();
        let mut sealed = (0, 0);
        for (id, extent) in &self.extents {
            queued += usize::from(extent.state == State::Draining);
            if let Some(location) = extent.value_record() {
                values_bytes += extent.footprint_bytes(self.segment_bytes());
                assert!(live(location) && self.record(location).extent_id() == id as u32);
                if let Value::Pages(pages) = self.value(self.record(location)) {
                    numbers.extend(pages.numbers());
                }
                continue;
            }
            segments += 1;
            let alive = eighths(extent.live_bytes, self.segment_shift);
            let listed = (extent.state == State::Sealed && alive < EIGHTHS_MAX).then_some(alive);
            assert_eq!(self.candidates.eighths(id as u32), listed);
            if extent.state == State::Sealed {
                sealed = (sealed.0 + 1, sealed.1 + extent.live_bytes as usize);
            }
            let (mut offset, mut items, mut bytes, mut heads_bytes) = (0, 0, 0, 0);
            while let Some((location, next)) = self.next_record(id as u32, offset) {
                assert_eq!(self.extent_of(location), id as u32);
                if live(location) {
                    let record = self.record(location);
                    assert!(expiry_max_of(record.expiry()) <= extent.expiry_max_s && record.version() <= extent.version_max);
                    (items, bytes) = (items + 1, bytes + record.record_bytes() as u32);
                    heads_bytes += if record.is_extended() { record.record_bytes() as u32 } else { 0 };
                }
                offset = next;
            }
            assert_eq!((items, bytes, heads_bytes), (extent.live_items, extent.live_bytes, extent.heads_bytes));
            live_bytes += bytes as usize;
        }
        assert_eq!(queued, self.extents.len());
        assert_eq!(sealed, (self.sealed_count, self.sealed_live_bytes));
        assert_eq!((segments, values_bytes, live_bytes), (self.segments_count, self.values_bytes, self.live_bytes));
        let pages = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), pages, "a page belongs to two values");
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut pages = std::mem::take(&mut self.free_pages);
        for (_, extent) in &self.extents {
            if let Some(location) = extent.value_record()
                && let Value::Pages(value) = self.value(self.record(location))
            {
                pages.extend(value.numbers());
            }
        }
        self.arena.give_pages(&mut pages, 0);
    }
}

/// Eighths of a segment that so many live bytes fill, rounded down.
#[inline]
fn eighths(live_bytes: u32, segment_shift: u32) -> usize {
    (live_bytes as usize * 8) >> segment_shift
}

/// An expiry as `Extent::expiry_max_s` counts it.
pub(super) fn expiry_max_of(expiry: Expiry) -> u32 {
    if expiry == Expiry::NEVER { NEVER_S } else { expiry.0 }
}

/// A segment is one of heads if less than one part in this many of what lives in it is not.
const HEADS_PART: u64 = 8;
/// Pages of the longest value that is kept in pages.
pub(super) const VALUE_PAGES_MAX: usize = limits::COPIED_VALUE_BYTES_MAX / PAGE_BYTES;
/// No extent.
pub(super) const NONE: u32 = u32::MAX;
/// Later than any expiry.
pub(super) const NEVER_S: u32 = u32::MAX;
/// TTL groups at most: one without expiry, one for each power of two seconds to 2^22 (48 days).
const GROUPS_MAX: usize = 24;
const LOG_TTL_MAX: u32 = 22;
/// Each group keeps two segments open; this many per group keep their empty rests below 3 %.
const SEGMENTS_PER_GROUP: usize = 32;
/// Bytes of a record whose lines are fetched ahead. The last is mostly in the same line as the one before it, and costs little
/// then; where it is not, the command would wait for it (records start anywhere in a line: 5 ns a get on average).
const AHEAD_BYTES: [usize; 4] = [0, 64, 128, 140];
/// Segments of which half and more is alive are compacted while more than one part in this many is dead.
const DEAD_PART: usize = 8;
/// Bits of a location: 256 GiB of records on a node. Units of 4 bytes would reach twice as far and pad every item by 1.5 bytes
/// instead of 0.5.
pub(super) const LOCATION_BITS: u32 = 37;
const LOCATION_END: usize = UNIT_BYTES << LOCATION_BITS;
