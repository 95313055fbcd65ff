//! One shard's items in memory.
//!
//! ```text
//!   key --hash--> index line (64 B, 8 slots) --location--> | 18 B header | flags? | CAS? | key | value | 0..1 B |
//!                                                          in a segment of the log, leased from the node's arena
//!
//!   small queue: |seg|seg|seg*|  --asked for again-->  main queue: |seg|body|seg|...|seg*|          free: |seg|seg|
//! ```
//!
//! An item is appended to the open segment of its queue and TTL group, and stays until it is overwritten, expires, or its
//! segment's turn comes (S3-FIFO by segment). No size classes: a shift of sizes moves nothing. Nothing is pinned: a reply borrows
//! from the engine until it is encoded, and a large value is an `Arc` that its reader keeps,
//! and one in pages is copied.
//!
//! Bytes per item beside key and value: header 18 (version 8, exact expiry 4, lengths 4, marks and last use 2), padding 0.5 on
//! average, index 10.7 at 6 items a line and 2 for overflow lines, 31 in all; then 1 % of the memory for open, free and draining
//! segments, and a process of 7 MiB. Of memcached's 48 + 8 + 3 (header, CAS, ends) and what its size classes leave empty, 64 to 169
//! B.
//!
//! What goes when memory is needed is S3-FIFO's choice, by the segment, with three additions, each told where it is made: how long
//! the small queue is follows from what returns (`queue_size`); what expired while in use starts in main when it is stored again, and
//! what is larger than others must be used more often to stay (`eviction`).
//!
//! Tried and dropped:
//!
//! - Last use as 4 bytes: 2 B more per item; its seconds matter only when small.
//! - Records in units of 4 bytes: 1 B more per item, 2 B where key and value have 116 B together (items held 1.29 x memcached's,
//!   now 1.31).
//! - The slot's tag apart from the bits that splits need: a second line per split.
//! - Evicting from the line when the index had no memory: 1 set in 15 lost another item; memory is now committed a segment ahead.
//! - Overflow lines kept until a split: 14.9 B of index, now 13.1.
//! - A small queue of a fixed tenth, or a fixed third: see `queue_size`.
//! - Records of up to half a segment: two or three fill one, 25 % of it stays empty, and compaction frees nothing.
//! - Large items evicted first while a store waits: popular ones go (zipf 1.1 with popular ones large, misses 1.06 of an LRU's, else 0.95).
//! - Main gives first while it holds what came there unjudged: loops a little longer than the memory miss always, else 58 %.
//!
//! Figures, beside memcached where it can do the same: `benches/record/engine.md`.
//!
//! Single-threaded, no locks, no clock, no I/O. Everything that the engine holds is charged to the [`Arena`].
//!
//! Lives here: the contract, the version of a write. In reading order: `execute` (verbs), `copies` (merge, tombstones), `index`,
//! `item`, `segment`, `compaction`, `eviction`, `queue_size`, `upkeep`, `watch`, `number`. Not here: bytes of a protocol, other cores.
//! The layout follows Segcache (NSDI'21), the eviction S3-FIFO (SOSP'23).

use std::sync::Arc;

use crate::arena::Arena;
use crate::command::{Command, Reply};
use crate::key::{self, Encoding, Key};
use crate::limits;
use crate::observe::events::Events;
use crate::time::Timestamp;
use crate::version::Version;

mod compaction;
mod copies;
mod eviction;
mod execute;
mod index;
mod item;
mod number;
mod queue_size;
mod segment;
mod upkeep;
mod watch;

use eviction::Drain;
use index::{Index, Probe, Probed};
use queue_size::QueueSize;
use segment::Log;
use upkeep::Sweep;

/// What an engine must know of the node.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `--max_item_size`: largest item (key, value and about 50 bytes of header, see `limits::item_total_bytes`), in bytes.
    pub item_bytes_max: u32,
    /// Which of them this is, from 0.
    pub core: u16,
    /// Cores that share the arena.
    pub cores: u16,
    /// `-M`: a full engine answers `OutOfMemory` instead of evicting.
    pub eviction_disabled: bool,
    /// Other nodes hold copies, or may: what a lone node need not keep.
    pub replication: Option<Replication>,
}

/// What an engine keeps for the sake of copies elsewhere: tombstones of deleted keys, fences where they are gone, a new version for
/// every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Buckets of the ring.
    pub buckets: u32,
    /// Seconds that a tombstone stays. Longer than a copy may be on its way.
    pub tombstone_s: u32,
    /// Number of this node among those of the ring: two nodes that go on for one another at the same moment give different versions.
    pub node: u16,
}

/// The items of one shard.
pub struct Engine {
    options: Options,
    arena: Arc<Arena>,
    index: Index,
    log: Log,
    /// Highest version given so far.
    last_version: Version,
    /// Low bits of every version of this core, and how many versions lie between two of them.
    version_slot: u64,
    version_step: u64,
    /// Items below this version were flushed.
    fence: Version,
    /// See `Engine::settle`.
    settled: Version,
    settling: Version,
    /// When the planned flush takes effect.
    planned: Option<Timestamp>,
    /// The moment of the latest call.
    now: Timestamp,
    drain: Option<Drain>,
    /// Uses that an item must have had beyond the usual to stay, while a store waits for room.
    uses_more: u32,
    queue_size: QueueSize,
    sweep: Sweep,
    /// When a walk last made a step.
    walked: Option<Timestamp>,
    /// Hash of an evicted key whose new item is being written, in case the write must look again.
    returning: Option<u64>,
    /// Version that the last change was given, until it is taken.
    changed: Option<Version>,
    /// Tombstones among the records, and their bytes.
    tombstones: u64,
    tombstone_bytes: usize,
    /// By partition, the greatest version of a tombstone that is no longer here. Empty on a lone node.
    fences: Box<[Version]>,
    /// Evictions, while somebody watches them.
    evictions: Option<Box<Events>>,
    /// The totals; what is now is put together when asked.
    statistics: Statistics,
}

/// Where a walk over all items stands. `Cursor::default()` is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// What a walk tells about an item.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'e> {
    /// The key.
    pub key: &'e [u8],
    /// The item.
    pub item: crate::command::Item<'e>,
}

/// What came of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The incoming item is what the key has now.
    Taken,
    /// What was here is as new or newer, or the incoming item is already expired, flushed or fenced off, or its version is from no
    /// clock.
    Kept {
        /// The version that the incoming item lost to: what is written to win must be newer.
        version: Version,
    },
    /// No memory now: try again after a `tick`.
    Busy,
}

/// The engine's own figures, as totals since start where not said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Items now, expired but not yet removed ones included.
    pub items_count: u64,
    /// Items ever created.
    pub items_total: u64,
    /// Bytes of live items now: header, key, value, flags.
    pub item_bytes: u64,
    /// Bytes of the index now.
    pub index_bytes: u64,
    /// Bytes of leased segments and bodies now.
    pub segment_bytes: u64,
    /// Items removed to make room before they expired.
    pub evicted: u64,
    /// Items evicted that were never read.
    pub evicted_unfetched: u64,
    /// Evicted items that had an expiry.
    pub evicted_nonzero: u64,
    /// Seconds since last use of the item evicted last, 0 if none.
    pub evicted_time_s: u64,
    /// Items removed because they had expired.
    pub expired: u64,
    /// Expired items that were never read.
    pub expired_unfetched: u64,
    /// Commands that came upon an expired item, which was absent for them.
    pub found_expired: u64,
    /// Commands that came upon an item that `flush_all` had removed.
    pub found_flushed: u64,
    /// Stores refused for want of memory.
    pub out_of_memory: u64,
    /// Records that were looked at to make room.
    pub judged: u64,
    /// Bytes of records that were moved to make room.
    pub moved_bytes: u64,
}

impl Engine {
    /// An empty engine that leases from `arena`.
    ///
    /// # Panics
    /// When the arena has not even a page for the index: the node's options allow no such memory size.
    pub fn new(options: Options, arena: Arc<Arena>) -> Self {
        let seeds = ahash::RandomState::new();
        Self::with_secret(options, arena, [seeds.hash_one(1), seeds.hash_one(2)])
    }

    /// As `new`, with a known secret for the index: for tests that must be repeatable.
    pub fn with_secret(options: Options, arena: Arc<Arena>, secret: [u64; 2]) -> Self {
        let index = Index::new(&arena, secret).expect("the arena has room for a page per core");
        let log = Log::new(&arena, options.cores);
        let (version_slot, version_step) = version_slot(&options);
        Self {
            version_slot,
            version_step,
            options,
            arena,
            index,
            log,
            last_version: Version::NONE,
            fence: Version::NONE,
            settled: Version::NONE,
            settling: Version::NONE,
            planned: None,
            now: Timestamp::default(),
            drain: None,
            uses_more: 0,
            queue_size: QueueSize::default(),
            sweep: Sweep::default(),
            walked: None,
            returning: None,
            changed: None,
            tombstones: 0,
            tombstone_bytes: 0,
            fences: vec![Version::NONE; if options.replication.is_some() { key::PARTITIONS_COUNT as usize } else { 0 }].into(),
            evictions: None,
            statistics: Statistics::default(),
        }
    }

    /// Fetches into the cache what commands on these keys (at most `limits::BATCH_COMMANDS_MAX`) will need. Changes nothing.
    ///
    /// In stages, each for all keys: the index lines, then the items that they point to or else the overflow lines behind them, then
    /// the items that those point to.
    #[inline]
    pub fn prepare<'k>(&mut self, keys: impl Iterator<Item = &'k Key<'k>>) {
        let mut probes = arrayvec::ArrayVec::<Probe, { limits::BATCH_COMMANDS_MAX }>::new();
        for key in keys.take(limits::BATCH_COMMANDS_MAX) {
            let next = self.index.start_probe(self.index.hash(key));
            self.index.prefetch(&next);
            probes.push(next);
        }
        for _ in 0..LINES_AHEAD {
            let mut behind = arrayvec::ArrayVec::new();
            for next in &probes {
                match self.index.probe(next) {
                    Probed::Item(location) => self.log.prefetch(location),
                    Probed::Line(next) => {
                        self.index.prefetch(&next);
                        behind.push(next);
                    }
                    Probed::Nothing => {}
                }
            }
            if behind.is_empty() {
                return;
            }
            probes = behind;
        }
    }

    /// Executes one command. Never panics on what a client can send.
    ///
    /// `Reply::Busy` means: no memory now, call again with the same command after a `tick`; the caller bounds the tries.
    #[inline]
    pub fn execute<'e>(&'e mut self, command: &Command<'_>, now: Timestamp) -> Reply<'e> {
        if command.key.encoding != Encoding::Plain {
            return self.execute_encoded(command, now);
        }
        self.run(command, now)
    }

    #[cold]
    fn execute_encoded<'e>(&'e mut self, command: &Command<'_>, now: Timestamp) -> Reply<'e> {
        let mut buffer = [0; limits::KEY_BYTES_MAX];
        match command.key.decode(&mut buffer) {
            Some(key) => self.run(&Command { key, ..*command }, now),
            None => Reply::NotFound,
        }
    }

    /// `flush_all`: every item stored before `at` becomes unreadable once `at` has come. At most one is planned; a later call
    /// replaces it (memcached's rule).
    pub fn flush(&mut self, at: Timestamp) {
        self.planned = Some(at);
        self.advance(self.now);
    }

    /// Gives memory back to the arena until `bytes` can be leased there, for a value about to be received: without it, each large value
    /// would wait for a tick once memory is full. False where that would take long (above `limits::MADE_SPACE_BYTES_MAX`) or is for others
    /// to do, because this shard holds little.
    pub fn make_space(&mut self, bytes: usize, now: Timestamp) -> bool {
        let holds_little = self.held_bytes() < self.share_bytes() / 2;
        if bytes > limits::MADE_SPACE_BYTES_MAX || holds_little || self.options.eviction_disabled {
            return false;
        }
        self.make_arena_room(bytes, now).is_ok()
    }

    /// Work in the background: expiry, eviction ahead of need, giving segments back that the arena wants, index growth.
    /// Touches at most about `budget` items. Returns whether more remains to be done at once.
    pub fn tick(&mut self, now: Timestamp, budget: u32) -> bool {
        self.upkeep(now, budget)
    }

    /// Visits readable items from `cursor` on, about `budget` of them; `None` when the walk is over. An item that is there
    /// during the whole walk is visited at least once.
    pub fn walk(&mut self, cursor: Cursor, now: Timestamp, budget: u32, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Cursor> {
        let seconds = now.seconds();
        self.walk_lines(cursor, now, budget, &mut |engine, slot| {
            let record = engine.log.record(slot.location());
            if !record.is_tombstone() && !record.unreadable(seconds, engine.fence) {
                visit(Entry { key: record.key(), item: engine.item(slot, seconds) });
            }
        })
    }

    /// The figures now. O(1).
    pub fn statistics(&self) -> Statistics {
        Statistics {
            items_count: self.index.live as u64 - self.tombstones,
            item_bytes: (self.log.live_bytes + self.log.values_bytes()) as u64,
            index_bytes: self.index.bytes() as u64,
            segment_bytes: self.log.held_bytes() as u64,
            ..self.statistics
        }
    }

    /// Walks the whole structure and panics where it contradicts itself. For tests: O(items).
    pub fn verify(&self) {
        self.index.verify(|location| self.hash_at(location));
        self.log.verify(|location| self.place_of(location, self.hash_at(location)).is_some());
        let records = self.index.live as u64;
        assert_eq!(records, self.log.live_items());
    }

    /// Takes note of the time: a planned flush whose moment has come takes effect.
    fn advance(&mut self, now: Timestamp) {
        self.now = now;
        if self.planned.is_some_and(|at| at <= now) {
            self.planned = None;
            self.fence = self.last_version.next();
        }
    }

    /// The version of a write: the hybrid logical clock, 48 bits of milliseconds and a counter of 16, never the same twice: the lowest bits
    /// are the core, those above them the node. Past 65,536 / cores / 16 writes in a millisecond, the clock runs ahead.
    fn next_version(&mut self, now: Timestamp) -> Version {
        let least = Version::first_at(now).max(self.last_version.next()).max(self.fence).bits();
        self.last_version = Version::from_bits(least + (self.version_slot.wrapping_sub(least) & (self.version_step - 1)));
        self.changed = Some(self.last_version);
        self.last_version
    }
}

/// The low bits of the versions of a core, and the distance of two. Nodes of a ring differ in four bits, or as many as leave it 128 versions
/// a millisecond: what two of them wrote under one version would be taken for the same.
fn version_slot(options: &Options) -> (u64, u64) {
    let cores = u64::from(options.cores).next_power_of_two();
    let node_bits = options.replication.map_or(0, |_| 9u32.saturating_sub(cores.ilog2()).clamp(1, 4));
    let node = options.replication.map_or(0, |replication| u64::from(replication.node)) & ((1 << node_bits) - 1);
    (u64::from(options.core) + node * cores, cores << node_bits)
}

/// Lines of a chain that `prepare` looks at: one item in twelve lies behind the first, one in a thousand behind the second.
const LINES_AHEAD: usize = 2;
