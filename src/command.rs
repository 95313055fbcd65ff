//! The words that every floor speaks: one command on one key, and its reply. No wire format.
//!
//! ```text
//!   bytes -> Session -> Command { key, verb, value } -> Engine -> Reply -> encode -> bytes
//! ```
//!
//! `Verb` and `Framing` are plain copies, so that a command travels to another core as: verb, key, value.
//! Several wire commands meet in one verb: `get`, `gat`, `mg` and binary GetKQ are all `Verb::Get` with other fields; what
//! tells them apart on the wire is the `protocol::Framing` that the session keeps.
//!
//! Lives here: Command, Control, Reply and what they are made of. Not here: parsing, framing (`protocol`), what a command
//! does to an item (`engine::execute`).

use std::sync::Arc;

use crate::arena::{Body, Pages};
use crate::key::Key;
use crate::time::{Expiry, Exptime};
use crate::version::Version;

/// One command on one key.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The key and its routing hash.
    pub key: Key<'a>,
    /// What to do.
    pub verb: Verb,
    /// What to store, append or prepend; empty for the other verbs.
    pub value: Value<'a>,
}

/// The bytes of a value, where they lie.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// At most `limits::INLINE_VALUE_BYTES_MAX` from a client; borrowed from the receive buffer or from the engine.
    Bytes(&'a [u8]),
    /// A large value in memory of its own.
    Body(&'a Arc<Body>),
    /// A value in pages of the engine: it is copied when it leaves.
    Pages(Pages<'a>),
    /// A value that was announced and not kept: longer than `--max_item_size` allows, or no memory to receive it. The
    /// engine stores nothing, does what `Store::remove_on_failure` says, and answers `TooLarge` or else `OutOfMemory`.
    Dropped {
        /// The announced length.
        bytes: usize,
    },
}

/// It is part of every command and reply, which are copied on their way.
const _: () = assert!(size_of::<Value<'_>>() <= 24);

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({} bytes)", self.len())
    }
}

impl Value<'_> {
    /// No bytes.
    pub const EMPTY: Value<'static> = Value::Bytes(&[]);

    /// Length in bytes; of a dropped value, the announced one.
    pub fn len(&self) -> usize {
        match self {
            Value::Bytes(bytes) => bytes.len(),
            Value::Body(body) => body.len(),
            Value::Pages(pages) => pages.len(),
            Value::Dropped { bytes } => *bytes,
        }
    }

    /// Bytes that are copied when the value goes out: none of a large one.
    #[inline]
    pub fn copied_bytes(&self) -> usize {
        if let Value::Bytes(bytes) = self { bytes.len() } else { self.copied_long_bytes() }
    }

    #[cold]
    fn copied_long_bytes(&self) -> usize {
        if let Value::Pages(pages) = self { pages.len() } else { 0 }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes as one vector, for tests and rare paths. Empty for a dropped value.
    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Body(body) => body.to_vec(),
            Value::Pages(pages) => pages.slices().collect::<Vec<_>>().concat(),
            Value::Dropped { .. } => Vec::new(),
        }
    }

    /// Hands the bytes to `take`, piece by piece. None of a dropped value.
    #[inline]
    pub fn each_slice(&self, mut take: impl FnMut(&[u8])) {
        match self {
            Value::Bytes(bytes) => take(bytes),
            Value::Body(body) => body.slices(0).for_each(take),
            Value::Pages(pages) => pages.slices().for_each(take),
            Value::Dropped { .. } => {}
        }
    }
}

/// What a command does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read, perhaps touch, perhaps create (`get gets gat gats mg`, binary Get and GAT).
    Get(Get),
    /// Write a value (`set add replace append prepend cas ms`, binary twins).
    Store(Store),
    /// Remove, or mark stale (`delete md`, binary Delete).
    Delete(Delete),
    /// Add to or subtract from a decimal number (`incr decr ma`, binary Increment and Decrement).
    Arithmetic(Arithmetic),
    /// Set a new exptime (`touch`, binary Touch).
    Touch(Exptime),
    /// Describe the item without counting a use (`me`). Answers `Reply::Item`.
    Inspect,
}

/// What a command may do to its item, as far as the order of requests is concerned, and whether it may be executed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it may be executed twice, and at any time.
    Pure,
    /// It shows the item, and may note that it did.
    Read,
    /// Executed twice, it leaves what it leaves executed once.
    Write,
    /// Executed twice, it may leave something else.
    Once,
}

impl Effect {
    /// Whether it shows what is there and leaves it.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Pure | Self::Read)
    }
}

impl Verb {
    /// What it may do to its item. Every field is named: a new one must be thought of here, or a ring may execute it twice.
    pub const fn effect(&self) -> Effect {
        match *self {
            Verb::Get(Get { touch, vivify, recache, meta, cas_new: _, peek: _, remaining_before: _, recache_before: _ }) => {
                if vivify.is_some() || recache.is_some() {
                    Effect::Once
                } else if touch.is_some() {
                    Effect::Write
                } else if meta {
                    // It may be told to fill a stale item, and nobody else is then.
                    Effect::Read
                } else {
                    Effect::Pure
                }
            }
            Verb::Store(Store {
                mode: StoreMode::Set,
                compare: None,
                client_flags: _,
                exptime: _,
                cas_new: _,
                invalidate: _,
                vivify: _,
                remove_on_failure: _,
            }) => Effect::Write,
            Verb::Store(_) => Effect::Once,
            Verb::Delete(Delete { compare: None, cas_new: _, invalidate: _, touch: _, drop_value: _ }) => Effect::Write,
            Verb::Delete(_) | Verb::Arithmetic(_) => Effect::Once,
            Verb::Touch(_) => Effect::Write,
            Verb::Inspect => Effect::Pure,
        }
    }

    /// Whether what it does or answers depends on what is there.
    pub const fn needs_present(&self) -> bool {
        match self {
            Verb::Store(store) => !matches!(store.mode, StoreMode::Set) || store.compare.is_some(),
            Verb::Get(_) | Verb::Delete(_) | Verb::Arithmetic(_) | Verb::Touch(_) | Verb::Inspect => true,
        }
    }
}

/// A read. The default is a plain `get`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get {
    /// Give the item this exptime (`gat`, meta `T`).
    pub touch: Option<Exptime>,
    /// On a miss create an empty item with this exptime and tell the client that it won (meta `N`).
    pub vivify: Option<Exptime>,
    /// Tell one client that it won when the item expires before this time; the item need not (meta `R`).
    pub recache: Option<Exptime>,
    /// CAS of a vivified item (meta `E`).
    pub cas_new: Option<u64>,
    /// The stale, won and token-sent bits apply and may change (meta commands). The classic ones read a stale item as it is.
    pub meta: bool,
    /// The read does not count as a use of the item (meta `u`).
    pub peek: bool,
    /// With `touch`: `Item::remaining_s` tells the time that was left before it (meta `t` in front of `T`).
    pub remaining_before: bool,
    /// With `touch`: `recache` is compared with the time that was left before it (meta `R` in front of `T`).
    pub recache_before: bool,
}

/// Which present state a store wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreMode {
    /// Whatever is there.
    #[default]
    Set,
    /// Only if absent; on a present item it counts as a use.
    Add,
    /// Only if present.
    Replace,
    /// Behind the present value; flags and exptime of the item stay.
    Append,
    /// In front of the present value; flags and exptime of the item stay.
    Prepend,
}

/// A write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Which present state is wanted.
    pub mode: StoreMode,
    /// Opaque flags of the client.
    pub client_flags: u32,
    /// Exptime of the new item.
    pub exptime: Exptime,
    /// Store only if the item's CAS is this (`cas`, meta `C`, binary CAS other than 0). An absent item is `NotFound`.
    pub compare: Option<u64>,
    /// CAS of the new item instead of the next version (meta `E`).
    pub cas_new: Option<u64>,
    /// If `compare` is older than the item's CAS, store all the same and mark the item stale (meta `I`).
    pub invalidate: bool,
    /// Append and prepend to an absent key create it with this exptime (meta `N`).
    pub vivify: Option<Exptime>,
    /// A store that fails for size or memory removes the old value (`set`, every `ms` mode, binary Set).
    pub remove_on_failure: bool,
}

/// A removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// Remove only if the item's CAS is this.
    pub compare: Option<u64>,
    /// CAS of the item that stays (meta `E`, with `invalidate` or `drop_value`).
    pub cas_new: Option<u64>,
    /// Mark stale instead of removing (meta `I`); with `touch`, set that exptime.
    pub invalidate: bool,
    /// Exptime of the item that stays (meta `T`, with `invalidate` or `drop_value`).
    pub touch: Option<Exptime>,
    /// Drop the value and client flags and keep the item (meta `x`).
    pub drop_value: bool,
}

/// Decimal arithmetic. Increment wraps at 2^64, decrement stops at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// How much.
    pub delta: u64,
    /// Subtract instead of add.
    pub decrement: bool,
    /// Only if the item's CAS is this.
    pub compare: Option<u64>,
    /// CAS of the new value (meta `E`).
    pub cas_new: Option<u64>,
    /// An absent key becomes `initial` with the exptime of `vivify` (binary, meta `N` with `J`).
    pub vivify: Option<Exptime>,
    /// Value of a created key.
    pub initial: u64,
    /// New exptime of a present item (meta `T`).
    pub touch: Option<Exptime>,
    /// Reads stale bits as meta commands do.
    pub meta: bool,
    /// With `touch`: `Item::remaining_s` tells the time that was left before it (meta `t` in front of `T`).
    pub remaining_before: bool,
}

/// What the client asks of the node rather than of a key. Answered by the control plane, on all cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// `flush_all [delay]`: a version fence on every core, now or at the time that the exptime means.
    FlushAll { delay: Exptime },
    /// `stats [group]`: the text behind `stats `, trimmed; empty for the general figures.
    Stats { group: &'a [u8] },
    /// `verbosity n`.
    Verbosity { level: u32 },
    /// `cache_memlimit MB`.
    CacheMemlimit { megabytes: u64 },
    /// `lru_crawler metadump all` and its relatives: the words behind `lru_crawler `.
    LruCrawler { words: &'a [u8] },
    /// `watch fetchers mutations ...`: the words behind `watch`.
    Watch { words: &'a [u8] },
    /// Commands that tune what we do not have (`slabs`, `lru`, `extstore`): the whole line, answered by `node`.
    Tune { line: &'a [u8] },
    /// `shutdown [graceful]`: the words behind it; refused unless enabled.
    Shutdown { mode: &'a [u8] },
    /// `debugtime N|p|r`, only in builds with the feature.
    DebugTime { words: &'a [u8] },
}

/// The answer to a command, borrowed from the engine until it is encoded.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'e> {
    /// A read found the item.
    Item(Item<'e>),
    /// The value was stored. `Item::value` is empty.
    Stored(Item<'static>),
    /// Arithmetic: the new number.
    Number {
        /// Value after the operation.
        number: u64,
        /// Its item; `Item::value` is empty.
        item: Item<'static>,
        /// The key was absent, and the number is `Arithmetic::initial`.
        created: bool,
    },
    /// A new exptime was set (`touch`). `Item::value` is empty.
    Touched(Item<'static>),
    /// The item was removed, or marked stale by `md I`.
    Deleted,
    /// The condition of add or replace, append or prepend, did not hold.
    NotStored,
    /// The CAS did not match.
    Exists,
    /// There is no such item.
    NotFound,
    /// The command failed; nothing changed but what `Store::remove_on_failure` says.
    Error(Error),
    /// No memory this turn, though there may be after the next `tick`: ask again with the same command. Never encoded.
    Busy,
    /// A number of RESP.
    Integer(i64),
    /// `OK`: flush_all, verbosity, cache_memlimit.
    Ok,
    /// `version`: the text behind the word.
    Version(&'e str),
    /// `stats`: names and values. The end mark follows.
    Stats(&'e [(String, String)]),
    /// A line or lines of text as they are (`lru_crawler`, `shutdown` refused); binary sends them as an error body.
    Text(&'e [u8]),
    /// `RESET` after `stats reset`.
    Reset,
    /// Meta `mn`, binary Noop.
    Noop,
    /// `quit`: binary answers before it closes, text does not.
    Bye,
}

/// What a reply tells about an item.
#[derive(Clone, Copy, Debug)]
pub struct Item<'e> {
    /// The value.
    pub value: Value<'e>,
    /// Opaque flags of the client.
    pub client_flags: u32,
    /// What `gets` and meta `c` show: the version, or what meta `E` set.
    pub cas: u64,
    /// Absolute expiry.
    pub expiry: Expiry,
    /// Seconds left when the command ran; `None` for never. What meta `t` shows (-1 for `None`).
    pub remaining_s: Option<u32>,
    /// Bytes that the item takes, header and key included (`me`, meta `s` shows the value's length instead).
    pub total_bytes: u32,
    /// Length of the whole value that a store has left (meta `s` of `ms`); 0 in any other reply.
    pub stored_bytes: u32,
    /// There was no such item before this store (HTTP: 201).
    pub created: bool,
    /// Whether the item was read before this command (meta `h`).
    pub fetched: bool,
    /// Seconds since the last use before this command (meta `l`).
    pub idle_s: u32,
    /// This client won the right to fill the item again (meta `W`).
    pub won: bool,
    /// The item is stale (meta `X`).
    pub stale: bool,
    /// Another client has won already (meta `Z`).
    pub token_sent: bool,
}

impl Item<'static> {
    /// An item of which only the CAS matters.
    pub const fn with_cas(cas: u64) -> Self {
        Item {
            value: Value::EMPTY,
            client_flags: 0,
            cas,
            expiry: Expiry::NEVER,
            remaining_s: None,
            total_bytes: 0,
            stored_bytes: 0,
            created: false,
            fetched: false,
            idle_s: 0,
            won: false,
            stale: false,
            token_sent: false,
        }
    }
}

/// An item as another node or a disk holds it, with all that decides which of two is newer.
#[derive(Clone, Copy, Debug)]
pub struct Replica<'a> {
    /// The key, in plain bytes.
    pub key: Key<'a>,
    /// The value.
    pub value: Value<'a>,
    /// Opaque flags of the client.
    pub client_flags: u32,
    /// The version that it was written with.
    pub version: Version,
    /// CAS that a client set instead of the version.
    pub cas_override: Option<u64>,
    /// Absolute expiry.
    pub expiry: Expiry,
    /// The item is stale.
    pub stale: bool,
    /// A client was told to fill it.
    pub token_sent: bool,
    /// There is no item: the key was deleted with this version.
    pub tombstone: bool,
}

/// Why a command failed. `protocol` has the words of each protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Value above `--max_item_size`. Client's fault. `SERVER_ERROR object too large for cache`
    TooLarge,
    /// No memory could be freed in time. Nobody's fault. `SERVER_ERROR out of memory storing object`
    OutOfMemory,
    /// Arithmetic on something that is not a decimal number of at most 20 digits. Client's fault.
    /// `CLIENT_ERROR cannot increment or decrement non-numeric value`
    NonNumeric,
    /// A signed number would leave 64 bits. Client's fault. `CLIENT_ERROR increment or decrement would overflow`
    Overflow,
    /// No node that could hold the key answered in time. `SERVER_ERROR no node for this key could be reached`
    Unreachable,
    /// The node that worked on the command went away, and to run it again could count it twice: incr, append, cas and their like.
    Interrupted,
    /// Any other failure with its fixed text line, without the line end: `ERROR`, `CLIENT_ERROR bad data chunk`, ...
    Line(&'static str),
    /// A binary failure with its status and text.
    Binary { status: u16, text: &'static str },
}
