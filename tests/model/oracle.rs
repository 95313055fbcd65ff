//! An engine that is obviously right: one hash map, whole values on the heap, no bound and so no eviction.
//!
//! ```text
//!   map:    key -> Record { value, version, expiry, marks }
//! ```
//!
//! What a command does to an item is written here as plainly as possible, and the real engine is compared with it.
//!
//! Lives here: all verbs over a `HashMap`. Not here: any cleverness.
//! The rules follow memcached's doc/protocol.txt and the behaviour of release 1.6.18, tried command by command.

use pbcache::command::{Arithmetic, Command, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use pbcache::key::Key;
use pbcache::limits;
use pbcache::time::{Expiry, Exptime, Seconds, Timestamp};
use std::collections::HashMap;

/// A hash map with memcached's rules.
pub struct Oracle {
    pub item_bytes_max: u32,
    pub map: HashMap<Vec<u8>, Record>,
    /// Highest version given so far.
    pub last_version: u64,
    /// Items below this version were flushed.
    fence: u64,
    /// When the planned flush takes effect.
    planned: Option<Timestamp>,
    /// The latest moment seen.
    now: Timestamp,
}

/// One item.
pub struct Record {
    value: Vec<u8>,
    client_flags: u32,
    version: u64,
    cas_override: Option<u64>,
    expiry: Expiry,
    last_use: Seconds,
    fetched: bool,
    stale: bool,
    token_sent: bool,
}

impl Oracle {
    /// Nothing in it.
    pub fn new(item_bytes_max: u32) -> Self {
        Self { item_bytes_max, map: HashMap::default(), last_version: 0, fence: 0, planned: None, now: Timestamp::default() }
    }

    /// What the engine must answer, but for the bytes that an item takes.
    pub fn execute<'e>(&'e mut self, command: &Command<'_>, now: Timestamp) -> Reply<'e> {
        let mut buffer = [0; limits::KEY_BYTES_MAX];
        let Some(Key { bytes: key, .. }) = command.key.decode(&mut buffer) else { return Reply::NotFound };
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

    /// `flush_all`.
    pub fn flush(&mut self, at: Timestamp) {
        self.planned = Some(at);
        let now = self.now;
        self.advance(now);
    }

    /// The items that can be read now.
    pub fn readable(&mut self, now: Timestamp) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        self.advance(now);
        let fence = self.fence;
        let readable = move |record: &Record| !record.expiry.expired(now.seconds()) && record.version >= fence;
        let map = self.map.iter().filter(move |(_, record)| readable(record));
        map.map(move |(key, record)| (&key[..], record.item(now.seconds())))
    }

    /// Takes note of the time: a planned flush whose moment has come takes effect.
    fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        if self.planned.is_some_and(|at| at <= self.now) {
            self.planned = None;
            self.fence = self.last_version + 1;
        }
    }

    fn next_version(&mut self, now: Timestamp) -> u64 {
        self.last_version = (now.unix_ms << 16).max(self.last_version + 1).max(self.fence);
        self.last_version
    }

    fn drop_unreadable(&mut self, key: &[u8], now: Seconds) {
        let fence = self.fence;
        if self.map.get(key).is_some_and(|record| record.expiry.expired(now) || record.version < fence) {
            self.map.remove(key);
        }
    }

    fn get<'e>(&'e mut self, key: &[u8], get: Get, now: Timestamp) -> Reply<'e> {
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
            let least = get.recache.and_then(|exptime| exptime.expiry(seconds).remaining(seconds));
            let due = matches!((left, least), (Some(left), Some(least)) if left < least);
            won = record.stale || due;
        }
        record.token_sent |= won;
        if !get.peek {
            record.last_use = seconds;
            record.fetched = true;
        }
        let mut item = Item { won, token_sent, fetched, idle_s, ..record.item(seconds) };
        if get.remaining_before {
            item.remaining_s = before_s;
        }
        Reply::Item(item)
    }

    /// A read that missed creates an empty item, and its client is the one to fill it.
    fn vivify<'e>(&'e mut self, key: &[u8], exptime: Exptime, get: Get, now: Timestamp) -> Reply<'e> {
        let mut record = self.fresh(Vec::new(), 0, exptime, get.cas_new, now);
        record.token_sent = true;
        // The read that creates an item is its first use.
        record.fetched = !get.peek;
        self.map.insert(key.into(), record);
        let record = &self.map[key];
        Reply::Item(Item { won: true, token_sent: false, fetched: false, ..record.item(now.seconds()) })
    }

    fn fresh(
        &mut self,
        value: Vec<u8>,
        client_flags: u32,
        exptime: Exptime,
        cas_override: Option<u64>,
        now: Timestamp,
    ) -> Record {
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

    fn store<'e>(&'e mut self, key: &[u8], store: Store, value: Value<'_>, now: Timestamp) -> Reply<'e> {
        let reply = self.try_store(key, store, value, now);
        if store.remove_on_failure && matches!(reply, Reply::Error(_)) {
            self.map.remove(key);
        }
        reply
    }

    fn try_store<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Timestamp) -> Reply<'e> {
        let joins = matches!(store.mode, StoreMode::Append | StoreMode::Prepend);
        if limits::item_total_bytes(key.len(), value.len()) > self.item_bytes_max as usize {
            return Reply::Error(Error::TooLarge);
        }
        if let Value::Dropped { .. } = value {
            return Reply::Error(Error::OutOfMemory);
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
        let mut record = self.fresh(value.to_vec(), store.client_flags, store.exptime, store.cas_new, now);
        if overtaken {
            (record.expiry, record.stale, record.token_sent) = (expiry, true, token_sent);
        }
        self.stored(key, record)
    }

    fn store_absent<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Timestamp) -> Reply<'e> {
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
        let record = self.fresh(value.to_vec(), store.client_flags, exptime, store.cas_new, now);
        self.stored(key, record)
    }

    /// Append or prepend to a present item. Its flags and expiry stay, its marks go.
    fn join<'e>(&mut self, key: &[u8], store: Store, value: Value<'_>, now: Timestamp) -> Reply<'e> {
        let Some(old) = self.map.get(key) else { return Reply::NotStored };
        let (client_flags, expiry) = (old.client_flags, old.expiry);
        let joined_bytes = old.value.len() + value.len();
        if limits::item_total_bytes(key.len(), joined_bytes) > self.item_bytes_max as usize {
            return Reply::NotStored;
        }
        let (old, new) = (old.value.clone(), value.to_vec());
        let joined = match store.mode {
            StoreMode::Prepend => [new, old].concat(),
            _ => [old, new].concat(),
        };
        let mut record = self.fresh(joined, client_flags, Exptime::NEVER, store.cas_new, now);
        record.expiry = expiry;
        self.stored(key, record)
    }

    fn stored<'e>(&mut self, key: &[u8], record: Record) -> Reply<'e> {
        let item = Item { stored_bytes: record.value.len() as u32, ..Item::with_cas(record.cas()) };
        let created = self.map.insert(key.into(), record).is_none();
        Reply::Stored(Item { created, ..item })
    }

    fn delete<'e>(&mut self, key: &[u8], delete: Delete, now: Timestamp) -> Reply<'e> {
        let Some(record) = self.map.get(key) else { return Reply::NotFound };
        if delete.compare.is_some_and(|compare| compare != record.cas()) {
            return Reply::Exists;
        }
        if !delete.invalidate && !delete.drop_value {
            self.map.remove(key);
            return Reply::Deleted;
        }
        if delete.drop_value {
            let mut record = self.fresh(Vec::new(), 0, Exptime::NEVER, delete.cas_new, now);
            record.expiry = delete.touch.unwrap_or(Exptime::NEVER).expiry(now.seconds());
            record.stale = delete.invalidate;
            self.map.insert(key.into(), record);
            return Reply::Deleted;
        }
        let version = self.next_version(now);
        let Some(record) = self.map.get_mut(key) else { return Reply::NotFound };
        record.version = version;
        record.last_use = now.seconds();
        record.cas_override = delete.cas_new;
        record.stale = true;
        record.token_sent = false;
        if let Some(exptime) = delete.touch {
            record.expiry = exptime.expiry(now.seconds());
        }
        Reply::Deleted
    }

    fn arithmetic<'e>(&mut self, key: &[u8], arithmetic: Arithmetic, now: Timestamp) -> Reply<'e> {
        let seconds = now.seconds();
        let Some(old) = self.map.get(key) else { return self.create_number(key, arithmetic, now) };
        let digits = old.value.clone();
        if digits.is_empty() || digits.len() > limits::INLINE_VALUE_BYTES_MAX {
            return Reply::Error(Error::NonNumeric);
        }
        if arithmetic.compare.is_some_and(|compare| compare != 0 && compare != old.cas()) {
            return Reply::Exists;
        }
        let Some(before) = number_of(&digits) else { return Reply::Error(Error::NonNumeric) };
        let after = match arithmetic.decrement {
            true => before.saturating_sub(arithmetic.delta),
            false => before.wrapping_add(arithmetic.delta),
        };
        let mut text = after.to_string().into_bytes();
        let in_place = text.len() <= digits.len();
        // A shorter number is padded with spaces, and the item stays the one it was; a longer one makes a new item.
        text.resize(text.len().max(digits.len()), b' ');
        let expiry = arithmetic.touch.map_or(old.expiry, |exptime| exptime.expiry(seconds));
        let before_s = old.expiry.remaining(seconds);
        let marks = (old.fetched && in_place, old.stale && in_place, old.token_sent && in_place);
        let client_flags = old.client_flags;
        let mut record = self.fresh(text, client_flags, Exptime::NEVER, arithmetic.cas_new, now);
        record.expiry = expiry;
        (record.fetched, record.stale, record.token_sent) = marks;
        let before_s = arithmetic.remaining_before.then_some(before_s);
        self.numbered(key, record, after, before_s, seconds)
    }

    fn create_number<'e>(&mut self, key: &[u8], arithmetic: Arithmetic, now: Timestamp) -> Reply<'e> {
        let Some(exptime) = arithmetic.vivify else { return Reply::NotFound };
        let text = arithmetic.initial.to_string().into_bytes();
        let record = self.fresh(text, 0, exptime, arithmetic.cas_new, now);
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
        self.map.insert(key.into(), record);
        Reply::Number { number, item, created: false }
    }

    fn touch<'e>(&mut self, key: &[u8], exptime: Exptime, now: Timestamp) -> Reply<'e> {
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
            Some(record) => Reply::Item(record.item(now)),
            None => Reply::NotFound,
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

    fn item(&self, now: Seconds) -> Item<'_> {
        Item {
            value: Value::Bytes(&self.value),
            client_flags: self.client_flags,
            cas: self.cas(),
            expiry: self.expiry,
            remaining_s: self.expiry.remaining(now),
            total_bytes: 0,
            stored_bytes: 0,
            created: false,
            fetched: self.fetched,
            idle_s: self.idle_s(now),
            won: false,
            stale: self.stale,
            token_sent: self.token_sent,
        }
    }
}

/// The number that a value begins with, read as `strtoull` reads it.
fn number_of(bytes: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let word = std::str::from_utf8(bytes.split(blank).find(|word| !word.is_empty())?).ok()?;
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let number = if negative { number.wrapping_neg() } else { number };
    (!negative || (number as i64) >= 0).then_some(number)
}
