//! An engine that is obviously right: one hash map, one queue in order of writing, whole values on the heap.
//!
//! ```text
//!   map:    key -> Record { value, version, expiry, marks }
//!   order:  (key, version), oldest write first; an entry whose version is no longer the key's is skipped
//! ```
//!
//! It evicts the oldest write first and charges every record to the arena. Its worth is as the oracle of the model test: what
//! a command does to an item is written here as plainly as possible, and the real engine is compared with it.
//!
//! Lives here: all verbs over a `HashMap`. Not here: any cleverness.
//! The rules follow memcached's doc/protocol.txt and the behaviour of release 1.6.18, tried command by command.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Cursor, Entry, Options, Statistics, number};
use crate::arena::{Arena, Body};
use crate::command::{Arithmetic, Command, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits;
use crate::time::{Expiry, Exptime, Instant, Seconds};

/// A hash map with memcached's rules.
pub struct SimpleEngine {
    options: Options,
    arena: Arc<Arena>,
    map: HashMap<Box<[u8]>, Record, ahash::RandomState>,
    order: VecDeque<(Box<[u8]>, u64)>,
    /// Highest version given so far.
    last_version: u64,
    /// Items below this version were flushed.
    fence: u64,
    /// When the planned flush takes effect.
    planned: Option<Instant>,
    /// The latest moment seen.
    now: Instant,
    statistics: Statistics,
}

/// One item.
struct Record {
    value: Stored,
    client_flags: u32,
    version: u64,
    cas_override: Option<u64>,
    expiry: Expiry,
    last_use: Seconds,
    fetched: bool,
    stale: bool,
    token_sent: bool,
}

/// A value where it is kept.
enum Stored {
    Bytes(Box<[u8]>),
    Body(Arc<Body>),
}

/// Why a value was not kept.
enum Refusal {
    /// The answer is final.
    Final(Error),
    /// Memory may come with the next tick.
    Busy,
}

impl Refusal {
    fn reply<'e>(self) -> Reply<'e> {
        match self {
            Refusal::Final(error) => Reply::Error(error),
            Refusal::Busy => Reply::Busy,
        }
    }
}

impl SimpleEngine {
    /// An empty engine that charges `arena`.
    pub fn new(options: Options, arena: Arc<Arena>) -> Self {
        Self {
            options,
            arena,
            map: HashMap::default(),
            order: VecDeque::new(),
            last_version: 0,
            fence: 0,
            planned: None,
            now: Instant::default(),
            statistics: Statistics::default(),
        }
    }

    /// Does nothing: a heap of boxes cannot be prefetched.
    #[inline]
    pub fn prepare<'k>(&mut self, _keys: impl Iterator<Item = &'k Key<'k>>) {}

    /// See [`super::Engine::execute`]. The key is not `encoded`.
    pub fn execute<'e>(&'e mut self, command: &Command<'_>, now: Instant) -> Reply<'e> {
        let key = command.key.bytes;
        self.advance(now);
        self.drop_unreadable(key, now.seconds());
        match command.verb {
            Verb::Get(get) => self.get(key, get, now),
            Verb::Store(store) => self.store(key, store, command.value, now),
            Verb::Delete(delete) => self.delete(key, delete, now),
            Verb::Arithmetic(arithmetic) => self.arithmetic(key, arithmetic, now),
            Verb::Touch(exptime) => self.touch(key, exptime, now),
            Verb::Inspect => self.inspect(key, now.seconds()),
        }
    }

    /// See [`super::Engine::flush`].
    pub fn flush(&mut self, at: Instant) {
        self.planned = Some(at);
        let now = self.now;
        self.advance(now);
    }

    /// See [`super::Engine::tick`].
    pub fn tick(&mut self, now: Instant, budget: u32) -> bool {
        self.advance(now);
        let wanted = self.arena.wanted_bytes().max(self.arena.excess_bytes());
        let share = self.arena.limit_bytes() / self.options.cores.max(1) as usize;
        if wanted == 0 || self.held_bytes() as usize <= share {
            return false;
        }
        for _ in 0..budget {
            let before = self.held_bytes();
            if !self.evict_one() {
                return false;
            }
            self.arena.satisfy((before - self.held_bytes()) as usize);
        }
        self.arena.wanted_bytes().max(self.arena.excess_bytes()) > 0
    }

    /// See [`super::Engine::walk`]. The whole map in one go.
    pub fn walk(&mut self, _cursor: Cursor, now: Instant, _budget: u32, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Cursor> {
        self.advance(now);
        for (key, record) in &self.map {
            if !record.expiry.expired(now.seconds()) && record.version >= self.fence {
                visit(Entry { key, item: record.item(key.len(), now.seconds()) });
            }
        }
        None
    }

    /// See [`super::Engine::statistics`].
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// See [`super::Engine::verify`].
    pub fn verify(&self) {
        assert_eq!(self.statistics.items_count, self.map.len() as u64);
        let bytes: u64 = self.map.iter().map(|(key, record)| record.footprint_bytes(key.len())).sum();
        assert_eq!(self.held_bytes(), bytes);
    }

    fn held_bytes(&self) -> u64 {
        self.statistics.item_bytes
    }

    /// Takes note of the time: a planned flush whose moment has come takes effect.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.planned.is_some_and(|at| at <= self.now) {
            self.planned = None;
            self.fence = self.last_version + 1;
        }
    }

    fn next_version(&mut self, now: Instant) -> u64 {
        self.last_version = (now.unix_ms << 16).max(self.last_version + 1).max(self.fence);
        self.last_version
    }

    fn drop_unreadable(&mut self, key: &[u8], now: Seconds) {
        let Some(record) = self.map.get(key) else { return };
        let expired = record.expiry.expired(now);
        if expired || record.version < self.fence {
            self.statistics.expired += u64::from(expired);
            self.statistics.expired_unfetched += u64::from(expired && !record.fetched);
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(record) = self.map.remove(key) else { return };
        self.forget(key.len(), &record);
        self.statistics.items_count -= 1;
    }

    /// Gives back what a record was charged.
    fn forget(&mut self, key_bytes: usize, record: &Record) {
        self.statistics.item_bytes -= record.footprint_bytes(key_bytes);
        self.arena.discharge(record.heap_bytes(key_bytes) as usize);
    }

    fn evict_one(&mut self) -> bool {
        while let Some((key, version)) = self.order.pop_front() {
            let Some(record) = self.map.get(&key).filter(|record| record.version == version) else { continue };
            self.statistics.evicted += 1;
            self.statistics.evicted_unfetched += u64::from(!record.fetched);
            self.statistics.evicted_nonzero += u64::from(record.expiry != Expiry::NEVER);
            self.statistics.evicted_time_s = u64::from(self.now.seconds().0.saturating_sub(record.last_use.0));
            self.remove(&key);
            return true;
        }
        false
    }

    /// Puts a record in place of what the key has, if anything. On a refusal nothing has changed, but others were evicted.
    fn put(&mut self, key: &[u8], record: Record) -> Result<u64, Refusal> {
        let version = record.version;
        let heap_bytes = record.heap_bytes(key.len()) as usize;
        while !self.arena.charge(heap_bytes) {
            if self.options.eviction_disabled {
                self.statistics.out_of_memory += 1;
                return Err(Refusal::Final(Error::OutOfMemory));
            }
            if !self.evict_one() {
                self.arena.want(heap_bytes);
                return Err(Refusal::Busy);
            }
        }
        if let Some(old) = self.map.remove(key) {
            self.forget(key.len(), &old);
            self.statistics.items_count -= 1;
        }
        self.statistics.items_count += 1;
        self.statistics.items_total += 1;
        self.statistics.item_bytes += record.footprint_bytes(key.len());
        if self.order.len() > 2 * self.map.len() + 16 {
            let map = &self.map;
            self.order.retain(|(key, version)| map.get(key).is_some_and(|record| record.version == *version));
        }
        self.order.push_back((key.into(), version));
        self.map.insert(key.into(), record);
        Ok(version)
    }

    /// A value in memory of its own: on the heap, or in leased segments when it is large.
    fn keep(&mut self, value: Value<'_>) -> Result<Stored, Refusal> {
        match value {
            Value::Bytes(bytes) if bytes.len() <= limits::INLINE_VALUE_BYTES_MAX => Ok(Stored::Bytes(bytes.into())),
            Value::Body(body) => Ok(Stored::Body(body.clone())),
            Value::Bytes(bytes) => loop {
                if let Some(mut body) = Body::lease(&self.arena, bytes.len()) {
                    body.write(0, bytes);
                    return Ok(Stored::Body(Arc::new(body)));
                }
                if self.options.eviction_disabled {
                    self.statistics.out_of_memory += 1;
                    return Err(Refusal::Final(Error::OutOfMemory));
                }
                if !self.evict_one() {
                    self.arena.want(bytes.len());
                    return Err(Refusal::Busy);
                }
            },
            Value::Dropped { bytes } => {
                self.statistics.out_of_memory += 1;
                let too_large = bytes > self.options.item_bytes_max as usize;
                Err(Refusal::Final(if too_large { Error::TooLarge } else { Error::OutOfMemory }))
            }
        }
    }

    fn get<'e>(&'e mut self, key: &[u8], get: Get, now: Instant) -> Reply<'e> {
        let seconds = now.seconds();
        if !self.map.contains_key(key) {
            return match get.vivify {
                Some(exptime) => self.vivify(key, exptime, get, now),
                None => Reply::NotFound,
            };
        }
        let Some(record) = self.map.get_mut(key) else { return Reply::NotFound };
        let (fetched, idle_s, before_s) = (record.fetched, record.idle_s(seconds), record.expiry.remaining(seconds));
        if let Some(exptime) = get.touch {
            record.expiry = exptime.expiry(seconds);
        }
        let (mut won, token_sent) = (false, record.token_sent);
        if get.meta && !token_sent {
            let left = if get.recache_before { before_s } else { record.expiry.remaining(seconds) };
            let due = matches!((left, get.recache_s), (Some(left), Some(least)) if left < least);
            won = record.stale || due;
        }
        record.token_sent |= won;
        if !get.peek {
            record.last_use = seconds;
            record.fetched = true;
        }
        let mut item = Item { won, token_sent, fetched, idle_s, ..record.item(key.len(), seconds) };
        if get.remaining_before {
            item.remaining_s = before_s;
        }
        Reply::Item(item)
    }

    /// A read that missed creates an empty item, and its client is the one to fill it.
    fn vivify<'e>(&'e mut self, key: &[u8], exptime: Exptime, get: Get, now: Instant) -> Reply<'e> {
        let mut record = self.fresh(Stored::Bytes(Box::default()), 0, exptime, get.cas_new, now);
        record.token_sent = true;
        // The read that creates an item is its first use.
        record.fetched = !get.peek;
        if let Err(refusal) = self.put(key, record) {
            return refusal.reply();
        }
        let Some(record) = self.map.get(key) else { return Reply::NotFound };
        Reply::Item(Item { won: true, token_sent: false, fetched: false, ..record.item(key.len(), now.seconds()) })
    }

    fn fresh(&mut self, value: Stored, client_flags: u32, exptime: Exptime, cas_override: Option<u64>, now: Instant) -> Record {
        Record {
            value,
            client_flags,
            version: self.next_version(now),
            cas_override,
            expiry: exptime.expiry(now.seconds()),
            last_use: now.seconds(),
            fetched: false,
            stale: false,
            token_sent: false,
        }
    }

    fn store<'e>(&'e mut self, key: &[u8], store: Store, value: Value<'_>, now: Instant) -> Reply<'e> {
        let reply = self.try_store(key, store, value, now);
        if store.remove_on_failure && matches!(reply, Reply::Error(_)) {
            self.remove(key);
        }
        reply
    }

    fn try_store<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Instant) -> Reply<'e> {
        let joins = matches!(store.mode, StoreMode::Append | StoreMode::Prepend);
        if limits::item_total_bytes(key.len(), value.len()) > self.options.item_bytes_max as usize {
            return Reply::Error(Error::TooLarge);
        }
        if let Value::Dropped { .. } = value {
            return match self.keep(value) {
                Err(refusal) => refusal.reply(),
                Ok(_) => Reply::Error(Error::OutOfMemory),
            };
        }
        let Some(old) = self.map.get_mut(key) else { return self.store_absent(key, store, value, now) };
        let cas = old.cas();
        if joins {
            // A CAS of 0 means that none was given.
            if store.compare.is_some_and(|compare| compare != 0 && compare != cas) {
                return Reply::Exists;
            }
            return self.join(key, store, value, now);
        }
        let mut overtaken = false;
        match (store.mode, store.compare) {
            (StoreMode::Add, _) => {
                old.last_use = now.seconds();
                return Reply::NotStored;
            }
            (_, Some(compare)) if compare != cas || compare == 0 => {
                if !store.invalidate || compare == 0 || compare > cas {
                    return Reply::Exists;
                }
                overtaken = true;
            }
            _ => {}
        }
        let (expiry, token_sent) = (old.expiry, old.token_sent);
        let kept = match self.keep(value) {
            Ok(kept) => kept,
            Err(refusal) => return refusal.reply(),
        };
        let mut record = self.fresh(kept, store.client_flags, store.exptime, store.cas_new, now);
        if overtaken {
            (record.expiry, record.stale, record.token_sent) = (expiry, true, token_sent);
        }
        self.stored(key, record)
    }

    fn store_absent<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Instant) -> Reply<'e> {
        let exptime = match store.mode {
            StoreMode::Add => store.exptime,
            StoreMode::Set if store.compare.is_none() => store.exptime,
            StoreMode::Replace if store.compare.is_none() => return Reply::NotStored,
            StoreMode::Set | StoreMode::Replace => return Reply::NotFound,
            StoreMode::Append | StoreMode::Prepend => match store.vivify {
                Some(exptime) if store.compare.is_none_or(|compare| compare == 0) => exptime,
                _ => return Reply::NotStored,
            },
        };
        match self.keep(value) {
            Ok(kept) => {
                let record = self.fresh(kept, store.client_flags, exptime, store.cas_new, now);
                self.stored(key, record)
            }
            Err(refusal) => refusal.reply(),
        }
    }

    /// Append or prepend to a present item. Its flags and expiry stay, its marks go.
    fn join<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Instant) -> Reply<'e> {
        let Some(old) = self.map.get(key) else { return Reply::NotStored };
        let (client_flags, expiry) = (old.client_flags, old.expiry);
        let joined_bytes = old.value.as_value().len() + value.len();
        if limits::item_total_bytes(key.len(), joined_bytes) > self.options.item_bytes_max as usize {
            return Reply::NotStored;
        }
        let (old, new) = (old.value.as_value().to_vec(), value.to_vec());
        let joined = match store.mode {
            StoreMode::Prepend => [new, old].concat(),
            _ => [old, new].concat(),
        };
        match self.keep(Value::Bytes(&joined)) {
            Ok(kept) => {
                let mut record = self.fresh(kept, client_flags, Exptime::NEVER, store.cas_new, now);
                record.expiry = expiry;
                self.stored(key, record)
            }
            Err(refusal) => refusal.reply(),
        }
    }

    fn stored<'e>(&mut self, key: &[u8], record: Record) -> Reply<'e> {
        let item = Item { stored_bytes: record.value.as_value().len() as u32, ..Item::with_cas(record.cas()) };
        match self.put(key, record) {
            Ok(_) => Reply::Stored(item),
            Err(refusal) => refusal.reply(),
        }
    }

    fn delete<'e>(&mut self, key: &[u8], delete: Delete, now: Instant) -> Reply<'e> {
        let Some(record) = self.map.get(key) else { return Reply::NotFound };
        if delete.compare.is_some_and(|compare| compare != record.cas()) {
            return Reply::Exists;
        }
        if !delete.invalidate && !delete.drop_value {
            self.remove(key);
            return Reply::Deleted;
        }
        let version = self.next_version(now);
        if delete.drop_value {
            let mut record = self.fresh(Stored::Bytes(Box::default()), 0, Exptime::NEVER, delete.cas_new, now);
            record.expiry = delete.touch.unwrap_or(Exptime::NEVER).expiry(now.seconds());
            record.stale = delete.invalidate;
            return match self.put(key, record) {
                Ok(_) => Reply::Deleted,
                Err(refusal) => refusal.reply(),
            };
        }
        let Some(record) = self.map.get_mut(key) else { return Reply::NotFound };
        record.version = version;
        record.cas_override = delete.cas_new;
        record.stale = true;
        record.token_sent = false;
        if let Some(exptime) = delete.touch {
            record.expiry = exptime.expiry(now.seconds());
        }
        self.order.push_back((key.into(), version));
        Reply::Deleted
    }

    fn arithmetic<'e>(&mut self, key: &[u8], arithmetic: Arithmetic, now: Instant) -> Reply<'e> {
        let seconds = now.seconds();
        let Some(old) = self.map.get(key) else { return self.create_number(key, arithmetic, now) };
        let digits = match &old.value {
            Stored::Bytes(bytes) if !bytes.is_empty() => bytes.to_vec(),
            _ => return Reply::Error(Error::NonNumeric),
        };
        if arithmetic.compare.is_some_and(|compare| compare != 0 && compare != old.cas()) {
            return Reply::Exists;
        }
        let Some(before) = number::parse(&digits) else { return Reply::Error(Error::NonNumeric) };
        let after = number::apply(before, arithmetic.delta, arithmetic.decrement);
        let mut text = decimal(after);
        let in_place = text.len() <= digits.len();
        // A shorter number is padded with spaces, and the item stays the one it was; a longer one makes a new item.
        text.resize(text.len().max(digits.len()), b' ');
        let expiry = arithmetic.touch.map_or(old.expiry, |exptime| exptime.expiry(seconds));
        let before_s = old.expiry.remaining(seconds);
        let marks = (old.fetched && in_place, old.stale && in_place, old.token_sent && in_place);
        let client_flags = old.client_flags;
        let mut record = self.fresh(Stored::Bytes(text.into()), client_flags, Exptime::NEVER, arithmetic.cas_new, now);
        record.expiry = expiry;
        (record.fetched, record.stale, record.token_sent) = marks;
        let before_s = arithmetic.remaining_before.then_some(before_s);
        self.numbered(key, record, after, before_s, seconds)
    }

    fn create_number<'e>(&mut self, key: &[u8], arithmetic: Arithmetic, now: Instant) -> Reply<'e> {
        let Some(exptime) = arithmetic.vivify else { return Reply::NotFound };
        let text = decimal(arithmetic.initial);
        let record = self.fresh(Stored::Bytes(text.into()), 0, exptime, arithmetic.cas_new, now);
        self.numbered(key, record, arithmetic.initial, None, now.seconds())
    }

    fn numbered<'e>(
        &mut self,
        key: &[u8],
        record: Record,
        number: u64,
        before_s: Option<Option<u32>>,
        now: Seconds,
    ) -> Reply<'e> {
        let remaining_s = before_s.unwrap_or(record.expiry.remaining(now));
        let item = Item { remaining_s, expiry: record.expiry, ..Item::with_cas(record.cas()) };
        match self.put(key, record) {
            Ok(_) => Reply::Number { number, item },
            Err(refusal) => refusal.reply(),
        }
    }

    fn touch<'e>(&mut self, key: &[u8], exptime: Exptime, now: Instant) -> Reply<'e> {
        let seconds = now.seconds();
        let Some(record) = self.map.get_mut(key) else { return Reply::NotFound };
        record.expiry = exptime.expiry(seconds);
        record.last_use = seconds;
        record.fetched = true;
        let item = Item {
            client_flags: record.client_flags,
            expiry: record.expiry,
            remaining_s: record.expiry.remaining(seconds),
            ..Item::with_cas(record.cas())
        };
        Reply::Touched(item)
    }

    fn inspect<'e>(&'e self, key: &[u8], now: Seconds) -> Reply<'e> {
        match self.map.get(key) {
            Some(record) => Reply::Item(record.item(key.len(), now)),
            None => Reply::NotFound,
        }
    }
}

impl Drop for SimpleEngine {
    fn drop(&mut self) {
        for (key, record) in self.map.drain() {
            self.arena.discharge(record.heap_bytes(key.len()) as usize);
        }
    }
}

impl Record {
    fn cas(&self) -> u64 {
        self.cas_override.unwrap_or(self.version)
    }

    fn idle_s(&self, now: Seconds) -> u32 {
        now.0.saturating_sub(self.last_use.0)
    }

    /// Bytes charged to the arena beside the body: the value, the key twice (map and order), and about what they hang on.
    fn heap_bytes(&self, key_bytes: usize) -> u64 {
        let value_bytes = match &self.value {
            Stored::Bytes(bytes) => bytes.len(),
            Stored::Body(_) => 0,
        };
        (RECORD_BYTES + 2 * key_bytes + value_bytes) as u64
    }

    fn footprint_bytes(&self, key_bytes: usize) -> u64 {
        let body_bytes = match &self.value {
            Stored::Bytes(_) => 0,
            Stored::Body(body) => body.footprint_bytes(),
        };
        self.heap_bytes(key_bytes) + body_bytes as u64
    }

    fn item(&self, key_bytes: usize, now: Seconds) -> Item<'_> {
        Item {
            value: self.value.as_value(),
            client_flags: self.client_flags,
            cas: self.cas(),
            expiry: self.expiry,
            remaining_s: self.expiry.remaining(now),
            total_bytes: self.footprint_bytes(key_bytes) as u32,
            stored_bytes: 0,
            fetched: self.fetched,
            idle_s: self.idle_s(now),
            won: false,
            stale: self.stale,
            token_sent: self.token_sent,
        }
    }
}

impl Stored {
    fn as_value(&self) -> Value<'_> {
        match self {
            Stored::Bytes(bytes) => Value::Bytes(bytes),
            Stored::Body(body) => Value::Body(body),
        }
    }
}

fn decimal(number: u64) -> Vec<u8> {
    let mut digits = [0; number::DIGITS_MAX];
    let start = number::print(number, &mut digits);
    digits[start..].to_vec()
}

/// What a record takes beside key and value: map slot, order entry, three heap blocks. Estimated high.
const RECORD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_seconds(1_700_000_000);

    fn engine(limit_bytes: usize) -> SimpleEngine {
        let options = Options { item_bytes_max: 1 << 20, cores: 1, eviction_disabled: false };
        SimpleEngine::new(options, Arena::new(limit_bytes, limit_bytes, 1).unwrap())
    }

    fn command<'a>(key: &'a [u8], verb: Verb, value: &'a [u8]) -> Command<'a> {
        Command { key: Key::new(key), verb, value: Value::Bytes(value) }
    }

    #[test]
    fn a_full_engine_drops_the_oldest_and_stores_on() {
        let mut engine = engine(1 << 20);
        for i in 0..20_000 {
            let key = format!("key{i}");
            let reply = engine.execute(&command(key.as_bytes(), Verb::Store(Store::default()), &[7; 100]), NOW);
            assert!(matches!(reply, Reply::Stored(_)), "{reply:?}");
        }
        engine.verify();
        assert!(engine.arena.used_bytes() <= 1 << 20);
        assert!(matches!(engine.execute(&command(b"key0", Verb::Get(Get::default()), b""), NOW), Reply::NotFound));
        assert!(matches!(engine.execute(&command(b"key19999", Verb::Get(Get::default()), b""), NOW), Reply::Item(_)));
    }

    #[test]
    fn a_flush_ahead_takes_what_was_stored_before_it_and_nothing_later() {
        let mut engine = engine(1 << 20);
        let set = Verb::Store(Store::default());
        engine.execute(&command(b"a", set, b"1"), NOW);
        engine.flush(NOW.plus_ms(1000));
        assert!(matches!(engine.execute(&command(b"a", Verb::Get(Get::default()), b""), NOW), Reply::Item(_)));
        engine.execute(&command(b"b", set, b"1"), NOW.plus_ms(1000));
        assert!(matches!(engine.execute(&command(b"a", Verb::Get(Get::default()), b""), NOW.plus_ms(1000)), Reply::NotFound));
        assert!(matches!(engine.execute(&command(b"b", Verb::Get(Get::default()), b""), NOW.plus_ms(1000)), Reply::Item(_)));
    }
}
