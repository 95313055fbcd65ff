//! One shard's items in memory.
//!
//! Single-threaded, no locks, no clock, no I/O. Memory comes from the node's [`Arena`] in segments, and everything else that
//! the engine holds (its index) is charged there.
//!
//! Lives here: the engine and its parts. Not here: bytes of a protocol, other cores.

use std::sync::Arc;

use crate::arena::Arena;
use crate::command::{Command, Reply};
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::time::Instant;

mod number;
mod simple;

use simple::SimpleEngine;

/// What an engine must know of the node.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `--max_item_size`: largest item (key, value and about 50 bytes of header, see `limits::item_total_bytes`), in bytes.
    pub item_bytes_max: u32,
    /// Cores that share the arena.
    pub cores: u16,
    /// `-M`: a full engine answers `OutOfMemory` instead of evicting.
    pub eviction_disabled: bool,
}

/// The items of one shard.
pub struct Engine {
    inner: SimpleEngine,
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
    /// Stores refused for want of memory.
    pub out_of_memory: u64,
}

impl Engine {
    /// An empty engine that leases from `arena`.
    pub fn new(options: Options, arena: Arc<Arena>) -> Self {
        Self { inner: SimpleEngine::new(options, arena) }
    }

    /// Fetches into the cache what commands on these keys (at most `limits::BATCH_COMMANDS_MAX`) will need. Changes nothing.
    #[inline]
    pub fn prepare<'k>(&mut self, keys: impl Iterator<Item = &'k Key<'k>>) {
        self.inner.prepare(keys);
    }

    /// Executes one command. Never panics on what a client can send.
    ///
    /// `Reply::Busy` means: no memory now, call again with the same command after a `tick`; the caller bounds the tries.
    #[inline]
    pub fn execute<'e>(&'e mut self, command: &Command<'_>, now: Instant) -> Reply<'e> {
        if command.key.encoded {
            return self.execute_decoded(command, now);
        }
        self.inner.execute(command, now)
    }

    /// A command whose key is base64 text (meta flag `b`), with the key that it stands for.
    #[cold]
    fn execute_decoded<'e>(&'e mut self, command: &Command<'_>, now: Instant) -> Reply<'e> {
        let mut buffer = [0; KEY_BYTES_MAX];
        match command.key.decode(&mut buffer) {
            Some(key) => self.inner.execute(&Command { key, ..*command }, now),
            None => Reply::NotFound,
        }
    }

    /// `flush_all`: every item stored before `at` becomes unreadable once `at` has come. At most one is planned; a later call
    /// replaces it (memcached's rule).
    pub fn flush(&mut self, at: Instant) {
        self.inner.flush(at);
    }

    /// Work in the background: expiry, eviction ahead of need, giving segments back that the arena wants, index growth.
    /// Touches at most about `budget` items. Returns whether more remains to be done at once.
    pub fn tick(&mut self, now: Instant, budget: u32) -> bool {
        self.inner.tick(now, budget)
    }

    /// Visits readable items from `cursor` on, about `budget` of them; `None` when the walk is over. An item that is there
    /// during the whole walk is visited at least once.
    pub fn walk(&mut self, cursor: Cursor, now: Instant, budget: u32, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Cursor> {
        self.inner.walk(cursor, now, budget, visit)
    }

    /// The figures now. O(1).
    pub fn statistics(&self) -> Statistics {
        self.inner.statistics()
    }

    /// Walks the whole structure and panics where it contradicts itself. For tests: O(items).
    pub fn verify(&self) {
        self.inner.verify();
    }
}
