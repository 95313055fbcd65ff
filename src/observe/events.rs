//! What happened to keys and connections, for those who watch.
//!
//! ```text
//!   note --> | event | event | ... |  bounded; what finds no place is dropped and counted  --take--> who writes lines
//! ```
//!
//! Nobody watches most of the time: then a buffer is empty, and asking it costs one load and a branch.
//!
//! Lives here: events and the buffer of one core. Not here: when something is noted (`observe`, `engine`, `runtime`), lines of `watch`
//! (`node::watch`).
//! Kinds and what they tell follow memcached's doc/protocol.txt, *Watchers*, and its release 1.6.45.

use core::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::StoreMode;
use crate::limits;
use crate::time::Timestamp;

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Every look for a key.
    pub const FETCHERS: Self = Self(1);
    /// Every store.
    pub const MUTATIONS: Self = Self(1 << 1);
    /// Items removed to make room.
    pub const EVICTIONS: Self = Self(1 << 2);
    /// Connections opened and closed.
    pub const CONNEVENTS: Self = Self(1 << 3);
    /// Items deleted.
    pub const DELETIONS: Self = Self(1 << 4);
    /// How many kinds there are.
    pub const COUNT: usize = 5;

    /// Whether the two sets have a kind in common.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The kinds of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is no kind in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The numbers of its kinds, from 0.
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (0..Self::COUNT).filter(move |number| self.0 & (1 << number) != 0)
    }
}

/// What a command came upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// No item.
    #[default]
    Nothing,
    /// An item.
    Item,
    /// An item that `flush_all` had removed.
    Flushed,
    /// An item whose time was over.
    Expired,
}

/// What came of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The condition of add, replace, append or prepend did not hold.
    NotStored,
    /// It was stored.
    Stored,
    /// The CAS did not match.
    Exists,
    /// There was nothing to compare with.
    NotFound,
    /// It is larger than an item may be.
    TooLarge,
    /// There was no memory.
    NoMemory,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The network, or the client broke the rules.
    Error,
    /// The client wanted it so.
    Normal,
    /// It was silent for too long.
    IdleTimeout,
    /// The node ends.
    Shutdown,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A key was looked for.
    Get {
        /// What was there.
        found: Found,
        /// Length of its value.
        value_bytes: u32,
    },
    /// A value was sent to be stored.
    Store {
        /// What came of it.
        outcome: Stored,
        /// How it was to be stored.
        mode: StoreMode,
        /// Only if the CAS matched.
        compares: bool,
        /// Seconds that the item has left: 0 for no end, the largest number for less than none.
        ttl_s: u32,
        /// Length of the value.
        value_bytes: u32,
    },
    /// An item was deleted.
    Delete {
        /// By a meta command.
        meta: bool,
        /// Length of its value.
        value_bytes: u32,
    },
    /// An item was removed to make room.
    Eviction {
        /// It had been read.
        fetched: bool,
        /// Seconds that it had left; `None` for no end.
        ttl_s: Option<u32>,
        /// Seconds since its last use.
        idle_s: u32,
        /// Length of its value.
        value_bytes: u32,
    },
    /// A connection was accepted; from an address, or over a unix socket.
    Opened(Option<SocketAddr>),
    /// A connection was closed.
    Closed(Option<SocketAddr>, CloseReason),
}

impl What {
    /// The kind that this is one of.
    pub const fn kind(&self) -> Kinds {
        match self {
            What::Get { .. } => Kinds::FETCHERS,
            What::Store { .. } => Kinds::MUTATIONS,
            What::Delete { .. } => Kinds::DELETIONS,
            What::Eviction { .. } => Kinds::EVICTIONS,
            What::Opened(_) | What::Closed(..) => Kinds::CONNEVENTS,
        }
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Tells events of all cores apart and puts them in order.
    pub gid: u64,
    /// When.
    pub at: Timestamp,
    /// Descriptor of the client's socket; 0 where the command came from another node.
    pub descriptor: i32,
    /// What.
    pub what: What,
    key_start: u32,
    key_bytes: u8,
}

/// The events of one core that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Events {
    kinds: Kinds,
    list: Vec<Event>,
    keys: Vec<u8>,
    dropped: [u64; Kinds::COUNT],
}

/// Events on their way to who writes lines.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// By the number of the kind, how many found no place.
    pub dropped: [u64; Kinds::COUNT],
    keys: Vec<u8>,
}

impl Batch {
    /// The key of one of its events; empty where it is about none.
    pub fn key(&self, event: &Event) -> &[u8] {
        let start = event.key_start as usize;
        &self.keys[start..start + usize::from(event.key_bytes)]
    }
}

/// The last `gid` given in this process.
static GIDS: AtomicU64 = AtomicU64::new(0);

/// A number above all given before.
pub fn next_gid() -> u64 {
    GIDS.fetch_add(1, Ordering::Relaxed) + 1
}

impl Events {
    /// Notes these kinds from now on, and forgets all where there are none.
    pub fn watch(&mut self, kinds: Kinds) {
        if kinds.is_empty() {
            *self = Self::default();
        }
        self.kinds = kinds;
    }

    /// Whether events of these kinds are noted.
    #[inline]
    pub fn wants(&self, kinds: Kinds) -> bool {
        self.kinds.intersects(kinds)
    }

    /// Notes an event, if somebody watches its kind. `key` is in plain bytes.
    pub fn note(&mut self, what: What, key: &[u8], descriptor: i32, at: Timestamp) {
        if !self.wants(what.kind()) {
            return;
        }
        let bytes = (self.list.len() + 1) * size_of::<Event>() + self.keys.len() + key.len();
        if bytes > limits::WATCH_BYTES_PER_CORE_MAX {
            what.kind().numbers().for_each(|number| self.dropped[number] += 1);
            return;
        }
        let (key_start, key_bytes) = (self.keys.len() as u32, key.len() as u8);
        self.keys.extend_from_slice(key);
        self.list.push(Event { gid: next_gid(), at, descriptor, what, key_start, key_bytes });
    }

    /// Takes what was noted.
    pub fn take(&mut self) -> Batch {
        Batch {
            events: std::mem::take(&mut self.list),
            dropped: std::mem::take(&mut self.dropped),
            keys: std::mem::take(&mut self.keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: What = What::Get { found: Found::Nothing, value_bytes: 0 };
    const DELETE: What = What::Delete { meta: false, value_bytes: 1 };

    #[test]
    fn only_what_is_watched_is_noted_in_the_order_of_its_numbers() {
        let mut events = Events::default();
        events.note(GET, b"before", 5, Timestamp::default());
        events.watch(Kinds::FETCHERS.with(Kinds::EVICTIONS));
        events.note(GET, b"a", 5, Timestamp::default());
        events.note(DELETE, b"b", 5, Timestamp::default());
        events.note(GET, b"cc", 6, Timestamp::default());
        let batch = events.take();
        let keys: Vec<_> = batch.events.iter().map(|event| (batch.key(event), event.descriptor)).collect();
        assert_eq!(keys, [(&b"a"[..], 5), (&b"cc"[..], 6)]);
        assert!(batch.events[0].gid < batch.events[1].gid);
        assert!(events.take().events.is_empty());
        events.note(GET, b"a", 5, Timestamp::default());
        events.watch(Kinds::NONE);
        assert!(events.take().events.is_empty());
    }

    #[test]
    fn a_full_buffer_drops_and_counts_by_kind() {
        let mut events = Events::default();
        events.watch(Kinds::FETCHERS.with(Kinds::DELETIONS));
        let key = [b'k'; limits::KEY_BYTES_MAX];
        let fits = limits::WATCH_BYTES_PER_CORE_MAX / (size_of::<Event>() + key.len());
        for _ in 0..fits + 3 {
            events.note(GET, &key, 1, Timestamp::default());
        }
        events.note(DELETE, &key, 1, Timestamp::default());
        let batch = events.take();
        assert_eq!(batch.events.len(), fits);
        assert_eq!(batch.dropped, [3, 0, 0, 0, 1]);
        assert_eq!(batch.key(&batch.events[fits - 1]), key);
        // There is room again.
        events.note(GET, b"x", 1, Timestamp::default());
        let batch = events.take();
        assert_eq!((batch.events.len(), batch.dropped), (1, [0; Kinds::COUNT]));
    }
}
