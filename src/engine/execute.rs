//! What each command does to an item.
//!
//! ```text
//!   find -> decide -> put -+-- same length, same TTL group: over the old bytes
//!                          +-- else: behind the last record of its queue and group; the old one is dead
//! ```
//!
//! A write first makes sure of its room, because making room may evict the very item that it looks at: then it looks again.
//!
//! Lives here: the verbs and `put`. Not here: how room is made (`eviction`), bytes of a record (`item`).
//! The rules follow memcached's doc/protocol.txt and release 1.6.18; the oracle in `simple` has them in plain words.

use std::borrow::Cow;
use std::sync::Arc;

use super::eviction::Need;
use super::index::{Ghost, Place, Slot};
use super::item::{self, EXTENT_ID_BYTES, Record, Shape, Stamp};
use super::segment::{self, Location, Queue};
use super::{Engine, number};
use crate::arena::{Body, PAGE_BYTES, pages_bytes};
use crate::command::{Arithmetic, Command, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits;
use crate::time::{Expiry, Exptime, Seconds, Timestamp};
use crate::version::Version;

/// An item that is there and readable.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub place: Place,
    pub location: Location,
}

/// Why a value was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The answer is final.
    Final(Error),
    /// Memory may come with the next tick.
    Busy,
    /// Room was made, and what was found may be gone: look again.
    Again,
}

/// An item about to be written.
#[derive(Clone, Copy)]
pub(super) struct Write<'a> {
    key: &'a [u8],
    hash: u64,
    found: Option<Found>,
    pub client_flags: u32,
    pub expiry: Expiry,
    pub cas_override: Option<u64>,
    pub stale: bool,
    pub token_sent: bool,
    fetched: bool,
    /// The version to write with; `None` for the next one.
    pub version: Option<Version>,
    /// The key is deleted, and this says so to older copies.
    pub tombstone: bool,
    source: Source<'a>,
}

/// Where the bytes of a value come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A value that replaces the old one.
    New(Value<'a>),
    /// The old value and this behind it.
    Append(Value<'a>),
    /// This and the old value behind it.
    Prepend(Value<'a>),
}

/// Where the value of a record goes.
enum Form {
    /// Into the record.
    Record,
    /// Into so many pages, and what is behind them into the record.
    Pages(usize),
    /// Into memory of its own, where it lies already.
    Body(Arc<Body>),
}

/// What a store is about to do.
enum Plan<'a> {
    Write(Write<'a>),
    Answer(Reply<'static>),
}

impl Engine {
    /// Executes a command whose key is in plain bytes.
    #[inline]
    pub(super) fn run<'e>(&'e mut self, command: &Command<'_>, now: Timestamp) -> Reply<'e> {
        debug_assert_eq!(command.key.hash, Key::new(command.key.bytes).hash);
        if now != self.now {
            self.advance(now);
        }
        // By reference: a copy of a verb just written stalls on its many small fields.
        match &command.verb {
            Verb::Get(get) => self.get(&command.key, get, now),
            Verb::Store(store) => self.store(&command.key, store, command.value, now),
            Verb::Delete(delete) => self.delete(&command.key, *delete, now),
            Verb::Arithmetic(arithmetic) => self.arithmetic(&command.key, *arithmetic, now),
            &Verb::Touch(exptime) => self.touch(&command.key, exptime, now),
            Verb::Inspect => self.inspect(&command.key, now),
        }
    }

    /// The item of a key. One that is out of its time is removed and not found.
    #[inline]
    fn find(&mut self, hash: u64, key: &[u8], now: Seconds) -> Option<Found> {
        let log = &self.log;
        let place = self.index.find(hash, |location| log.record(location).key() == key)?;
        let location = self.index.slot(place).location();
        let record = log.record(location);
        if record.unreadable(now, self.fence) || record.is_tombstone() {
            self.found_hidden(Found { place, location }, hash, now);
            return None;
        }
        Some(Found { place, location })
    }

    /// Removes an item that a command came upon out of its time, and counts what the command missed. A tombstone stays.
    #[cold]
    fn found_hidden(&mut self, found: Found, hash: u64, now: Seconds) {
        if self.log.record(found.location).is_tombstone() {
            return;
        }
        let expired = self.log.record(found.location).expiry().expired(now);
        self.statistics.found_expired += u64::from(expired);
        self.statistics.found_flushed += u64::from(!expired);
        self.remove_unreadable(found, hash, now);
    }

    #[cold]
    pub(super) fn remove_unreadable(&mut self, found: Found, hash: u64, now: Seconds) {
        let expired = self.log.record(found.location).expiry().expired(now);
        self.statistics.expired += u64::from(expired);
        self.statistics.expired_unfetched += u64::from(expired && !self.index.slot(found.place).fetched());
        if expired && self.expire_to_tombstone(found, now) {
            return;
        }
        self.reap(found.location);
        let used = self.index.slot(found.place).frequency() > 0 || self.queue_of(found.location) == Queue::Main;
        let returns = expired && used && !self.log.record(found.location).is_tombstone();
        self.remove_as(found, hash, returns.then_some(Ghost::Expired));
    }

    /// Removes an item with this hash without a trace.
    pub(super) fn remove(&mut self, found: Found, hash: u64) {
        self.remove_as(found, hash, None);
    }

    /// What a reply tells about the item of a slot.
    #[inline]
    pub(super) fn item(&self, slot: Slot, now: Seconds) -> Item<'_> {
        self.item_of(self.log.record(slot.location()), slot.fetched(), now)
    }

    /// What a reply tells about the item in a record.
    #[inline]
    fn item_of<'e>(&'e self, record: Record<'e>, fetched: bool, now: Seconds) -> Item<'e> {
        let expiry = record.expiry();
        Item {
            value: self.log.value(record),
            client_flags: record.client_flags(),
            cas: record.cas(),
            expiry,
            remaining_s: expiry.remaining(now),
            total_bytes: (record.record_bytes() + self.log.extent_bytes(record)) as u32,
            stored_bytes: 0,
            created: false,
            fetched,
            idle_s: record.idle_s(now),
            won: false,
            stale: record.stale(),
            token_sent: record.token_sent(),
        }
    }

    #[inline]
    fn get<'e>(&'e mut self, key: &Key<'_>, get: &Get, now: Timestamp) -> Reply<'e> {
        let seconds = now.seconds();
        let hash = self.index.hash(key);
        let (log, mut record_bytes) = (&self.log, 0);
        let found = self.index.find(hash, |location| {
            let record = log.record(location);
            record_bytes = record.record_bytes();
            record.key() == key.bytes
        });
        let Some(place) = found else {
            return self.get_absent(key, get, now);
        };
        let slot = self.index.slot(place);
        let location = slot.location();
        let header = self.log.bytes_mut(location, record_bytes);
        if item::hidden(header, seconds, self.fence) {
            self.found_hidden(Found { place, location }, hash, seconds);
            return self.get_absent(key, get, now);
        }
        let writes = get.touch.is_some() || get.recache.is_some();
        if writes || get.peek || (get.meta && item::is_marked(header)) {
            return self.get_unusual(Found { place, location }, *get, now);
        }
        let idle_s = item::idle_s(header, seconds);
        item::used(header, seconds);
        self.index.touch(place, true);
        let record = self.log.record_of(location, record_bytes);
        Reply::Item(Item { idle_s, ..self.item_of(record, slot.fetched(), seconds) })
    }

    /// A read of what is not there.
    fn get_absent<'e>(&'e mut self, key: &Key<'_>, get: &Get, now: Timestamp) -> Reply<'e> {
        match get.vivify {
            Some(exptime) => self.vivify(key, exptime, *get, now),
            None => Reply::NotFound,
        }
    }

    /// A read that also writes, or that wants to know what was before it.
    fn get_unusual<'e>(&'e mut self, mut found: Found, get: Get, moment: Timestamp) -> Reply<'e> {
        let now = moment.seconds();
        let slot = self.index.slot(found.place);
        let before = self.item(slot, now);
        let (fetched, idle_s, remaining_s, token_sent) = (before.fetched, before.idle_s, before.remaining_s, before.token_sent);
        let mut won = false;
        if get.meta && !token_sent {
            let left_s = match get.touch {
                Some(exptime) if !get.recache_before => exptime.expiry(now).remaining(now),
                _ => remaining_s,
            };
            let least_s = get.recache.and_then(|exptime| exptime.expiry(now).remaining(now));
            let due = matches!((left_s, least_s), (Some(left), Some(least)) if left < least);
            won = before.stale || due;
        }
        if won {
            item::set_token_sent(self.log.header_mut(found.location));
        }
        if !get.peek {
            self.index.touch(found.place, true);
            item::used(self.log.header_mut(found.location), now);
        }
        if let Some(exptime) = get.touch {
            found.location = self.set_expiry(found, exptime.expiry(now), now);
        }
        if won || get.touch.is_some() {
            self.bump_version(found.location, moment);
        }
        let mut item = Item { won, token_sent, fetched, idle_s, ..self.item(self.index.slot(found.place), now) };
        if get.remaining_before {
            item.remaining_s = remaining_s;
        }
        Reply::Item(item)
    }

    /// A read that missed creates an empty item, and its client is the one to fill it.
    fn vivify<'e>(&'e mut self, key: &Key<'_>, exptime: Exptime, get: Get, now: Timestamp) -> Reply<'e> {
        let hash = self.index.hash(key);
        let mut write = Write::new(key.bytes, hash, None, Source::New(Value::EMPTY));
        (write.expiry, write.cas_override) = (exptime.expiry(now.seconds()), get.cas_new);
        // The read that creates an item is its first use.
        (write.token_sent, write.fetched) = (true, !get.peek);
        if let Err(refusal) = self.put_absent(&write, now) {
            return refusal.reply();
        }
        let log = &self.log;
        let Some(place) = self.index.find(hash, |location| log.record(location).key() == key.bytes) else {
            return Reply::NotFound;
        };
        Reply::Item(Item { won: true, token_sent: false, fetched: false, ..self.item(self.index.slot(place), now.seconds()) })
    }

    /// Sets the expiry of an item, and moves it to its TTL group where that is easily done. Returns where it lies then.
    fn set_expiry(&mut self, found: Found, expiry: Expiry, now: Seconds) -> Location {
        item::set_expiry(self.log.header_mut(found.location), expiry);
        let group = self.log.group_of(expiry, now);
        let id = self.log.extent_of(found.location);
        let extent = self.log.extent(id);
        let (queue, latest_s) = (extent.queue, segment::expiry_max_of(expiry));
        if latest_s > extent.expiry_max_s && group != extent.group && self.relocate(found, queue, group, self.spare()) {
            return self.index.slot(found.place).location();
        }
        let extent = self.log.extent_mut(id);
        extent.expiry_max_s = extent.expiry_max_s.max(latest_s);
        found.location
    }

    /// Copies a record behind the last one of another queue or group. False if there is no room, and then nothing changed.
    pub(super) fn relocate(&mut self, found: Found, queue: Queue, group: u8, spare: usize) -> bool {
        let record = self.log.record(found.location);
        let (bytes, stamp) = (record.record_bytes(), record.stamp());
        let extent = record.is_extended().then(|| record.extent_id());
        if !self.log.has_room(queue, group, bytes, spare) {
            return false;
        }
        let target = self.log.append(queue, group, bytes, stamp.expiry, stamp.version);
        self.log.copy(found.location, 0, target, 0, bytes);
        self.log.kill(found.location);
        self.statistics.moved_bytes += bytes as u64;
        let slot = self.index.slot(found.place);
        self.index.update(found.place, Slot::live(target, slot.frequency(), slot.fetched()));
        if let Some(id) = extent {
            self.log.move_extent(id, target);
        }
        true
    }

    fn store<'e>(&'e mut self, key: &Key<'_>, store: &Store, value: Value<'_>, now: Timestamp) -> Reply<'e> {
        let reply = self.try_store(key, store, value, now);
        if store.remove_on_failure && matches!(reply, Reply::Error(_)) {
            let hash = self.index.hash(key);
            if let Some(found) = self.find(hash, key.bytes, now.seconds()) {
                self.delete_found(key.bytes, hash, found, now);
            }
        }
        reply
    }

    fn try_store(&mut self, key: &Key<'_>, store: &Store, value: Value<'_>, now: Timestamp) -> Reply<'static> {
        if limits::item_total_bytes(key.bytes.len(), value.len()) > self.options.item_bytes_max as usize {
            return Reply::Error(Error::TooLarge);
        }
        if let Value::Dropped { .. } = value {
            self.statistics.out_of_memory += 1;
            return Reply::Error(Error::OutOfMemory);
        }
        let hash = self.index.hash(key);
        for _ in 0..TRIES_MAX {
            let found = self.find(hash, key.bytes, now.seconds());
            let plan = match found {
                Some(found) => self.plan_present(key.bytes, hash, found, store, value, now),
                None => plan_absent(key.bytes, hash, store, value, now),
            };
            let write = match plan {
                Plan::Write(write) => write,
                Plan::Answer(reply) => return reply,
            };
            let stored_bytes = self.source_bytes(&write) as u32;
            match self.put(&write, now) {
                Ok(version) => {
                    let cas = write.cas_override.unwrap_or(version.bits());
                    return Reply::Stored(Item { stored_bytes, created: found.is_none(), ..Item::with_cas(cas) });
                }
                Err(Refusal::Again) => {}
                Err(refusal) => return refusal.reply(),
            }
        }
        Reply::Busy
    }

    fn plan_present<'a>(
        &mut self,
        key: &'a [u8],
        hash: u64,
        found: Found,
        store: &Store,
        value: Value<'a>,
        now: Timestamp,
    ) -> Plan<'a> {
        let record = self.log.record(found.location);
        let cas = record.cas();
        let mut write = Write::new(key, hash, Some(found), Source::New(value));
        write.cas_override = store.cas_new;
        if let StoreMode::Append | StoreMode::Prepend = store.mode {
            // A CAS of 0 means that none was given.
            if store.compare.is_some_and(|compare| compare != 0 && compare != cas) {
                return Plan::Answer(Reply::Exists);
            }
            write.source = if store.mode == StoreMode::Append { Source::Append(value) } else { Source::Prepend(value) };
            (write.client_flags, write.expiry) = (record.client_flags(), record.expiry());
            if limits::item_total_bytes(key.len(), self.source_bytes(&write)) > self.options.item_bytes_max as usize {
                return Plan::Answer(Reply::NotStored);
            }
            return Plan::Write(write);
        }
        if store.mode == StoreMode::Add {
            self.index.touch(found.place, false);
            item::used(self.log.header_mut(found.location), now.seconds());
            return Plan::Answer(Reply::NotStored);
        }
        (write.client_flags, write.expiry) = (store.client_flags, store.exptime.expiry(now.seconds()));
        if let Some(compare) = store.compare.filter(|&compare| compare == 0 || compare != cas) {
            if !store.invalidate || compare == 0 || compare > cas {
                return Plan::Answer(Reply::Exists);
            }
            // Overtaken: the value is taken, but the item counts as stale and keeps its time.
            (write.expiry, write.stale, write.token_sent) = (record.expiry(), true, record.token_sent());
        }
        Plan::Write(write)
    }

    /// Length of the value that a write leaves.
    fn source_bytes(&self, write: &Write<'_>) -> usize {
        match write.source {
            Source::New(value) => value.len(),
            Source::Append(value) | Source::Prepend(value) => {
                value.len() + write.found.map_or(0, |found| self.log.value(self.log.record(found.location)).len())
            }
        }
    }

    /// `put` of an item that is not there: nothing needs to be looked at again.
    pub(super) fn put_absent(&mut self, write: &Write<'_>, now: Timestamp) -> Result<Version, Refusal> {
        for _ in 0..TRIES_MAX {
            match self.put(write, now) {
                Err(Refusal::Again) => {}
                result => return result,
            }
        }
        Err(Refusal::Busy)
    }

    /// Writes an item. On success its version; on a refusal nothing changed, but others may have been evicted.
    pub(super) fn put(&mut self, write: &Write<'_>, now: Timestamp) -> Result<Version, Refusal> {
        let value_bytes = self.source_bytes(write);
        let mut shape = Shape {
            key_bytes: write.key.len(),
            value_bytes,
            client_flags: write.client_flags,
            cas_override: write.cas_override,
            extended: false,
            tombstone: write.tombstone,
        };
        if value_bytes <= limits::COPIED_VALUE_BYTES_MAX
            && let Some(joined) = self.joined(write, &shape)
        {
            return self.put(&Write { source: Source::New(Value::Bytes(&joined)), ..*write }, now);
        }
        let form = self.form_of(write, &mut shape, now)?;
        let group = self.log.group_of(write.expiry, now.seconds());
        if matches!(form, Form::Record) && self.fits_over(write, &shape, group) {
            return Ok(self.put_over(write, &shape, now));
        }
        let pages = if let Form::Pages(count) = form { count } else { 0 };
        let need = Need { queue: self.queue_for(write), group, record_bytes: shape.record_bytes(), pages };
        if !self.has_room(&need) {
            self.make_room(&need, now)?;
            return Err(Refusal::Again);
        }
        if write.found.is_none() && self.tombstones > 0 {
            self.clear_tombstone(write.hash, write.key);
        }
        self.count_tombstone(write, &shape);
        let version = self.version_of(write, now);
        let stamp = Stamp { version, expiry: write.expiry, stale: write.stale, token_sent: write.token_sent };
        let target = self.log.append(need.queue, group, shape.record_bytes(), write.expiry, version);
        shape.write(self.log.bytes_mut(target, shape.record_bytes()), write.key, stamp);
        self.write_value(write, form, &shape, (target, need.queue));
        self.link(write, target);
        Ok(version)
    }

    /// Where the value of a write goes. A record that does not hold it takes what stands for it.
    fn form_of(&mut self, write: &Write<'_>, shape: &mut Shape, now: Timestamp) -> Result<Form, Refusal> {
        if shape.record_bytes() <= self.log.record_bytes_max() {
            return Ok(Form::Record);
        }
        let value_bytes = std::mem::replace(&mut shape.value_bytes, EXTENT_ID_BYTES);
        shape.extended = true;
        if value_bytes <= limits::COPIED_VALUE_BYTES_MAX {
            let pages = value_bytes / PAGE_BYTES;
            shape.value_bytes += pages_bytes(value_bytes);
            return Ok(Form::Pages(pages));
        }
        Ok(Form::Body(self.body_of(write, value_bytes, now)?))
    }

    /// The old value and the new one in one piece, where one of them is not in a record or both would not fit one. Rare enough for the
    /// heap.
    fn joined(&self, write: &Write<'_>, shape: &Shape) -> Option<Vec<u8>> {
        let found = write.found.filter(|_| !matches!(write.source, Source::New(_)))?;
        let record = self.log.record(found.location);
        if !record.is_extended() && shape.record_bytes() <= self.log.record_bytes_max() {
            return None;
        }
        let mut joined = Vec::with_capacity(shape.value_bytes);
        for piece in self.pieces(write).into_iter().flatten() {
            piece.each_slice(|slice| joined.extend_from_slice(slice));
        }
        Some(joined)
    }

    /// What a write leaves, in order.
    fn pieces<'a>(&'a self, write: &Write<'a>) -> [Option<Value<'a>>; 2] {
        let old = write.found.map(|found| self.log.value(self.log.record(found.location)));
        match write.source {
            Source::New(value) => [Some(value), None],
            Source::Append(value) => [old, Some(value)],
            Source::Prepend(value) => [Some(value), old],
        }
    }

    /// Writes the value of a record just appended.
    fn write_value(&mut self, write: &Write<'_>, form: Form, shape: &Shape, (target, queue): (Location, Queue)) {
        match (form, write.source) {
            (Form::Record, _) => self.fill(write, shape, target),
            (Form::Pages(count), Source::New(value)) => {
                let id = self.log.add_pages(count as u32, queue, target);
                self.log.write_pages(value, id, target, shape.value_offset());
            }
            (Form::Pages(_), _) => unreachable!("joined before"),
            (Form::Body(body), _) => {
                let id = self.log.add_body(body, queue, target);
                let record = self.log.bytes_mut(target, shape.record_bytes());
                record[shape.value_offset()..][..EXTENT_ID_BYTES].copy_from_slice(&id.to_le_bytes());
            }
        }
    }

    fn count_tombstone(&mut self, write: &Write<'_>, shape: &Shape) {
        if write.tombstone {
            self.tombstones += 1;
            self.tombstone_bytes += shape.record_bytes();
        }
    }

    fn version_of(&mut self, write: &Write<'_>, now: Timestamp) -> Version {
        match write.version {
            Some(version) => {
                // What is written here later must be newer.
                self.last_version = self.last_version.max(version);
                version
            }
            None => self.next_version(now),
        }
    }

    /// Lets the index tell of a record just written, and counts the old one as dead.
    fn link(&mut self, write: &Write<'_>, target: Location) {
        self.statistics.items_total += 1;
        if let Some(found) = write.found {
            if self.log.record(found.location).is_extended() {
                self.log.remove_extent(found.location);
            }
            self.log.kill(found.location);
            let frequency = (self.index.slot(found.place).frequency() + 1).min(3);
            self.index.update(found.place, Slot::live(target, frequency, write.fetched));
            return;
        }
        self.returning = None;
        let slot = Slot::live(target, 0, write.fetched);
        while self.index.insert(write.hash, slot).is_err() {
            // The chain is full and cannot be made longer: its least used item goes. There is one, or there were room.
            let Some(place) = self.index.weakest(write.hash) else { break };
            // It has the same line as the key that comes, though not the same hash; no ghost is left that would need it.
            self.evict(place, write.hash, false);
        }
        self.grow_index();
    }

    /// Whether a record of this shape may be written over the old one.
    fn fits_over(&self, write: &Write<'_>, shape: &Shape, group: u8) -> bool {
        let Some(found) = write.found else { return false };
        let record = self.log.record(found.location);
        if record.is_extended() || record.record_bytes() != shape.record_bytes() {
            return false;
        }
        let stays = match write.source {
            Source::New(_) => true,
            Source::Append(_) => record.shape().value_offset() == shape.value_offset(),
            Source::Prepend(_) => false,
        };
        let extent = self.log.extent(self.log.extent_of(found.location));
        stays && (group == extent.group || segment::expiry_max_of(write.expiry) <= extent.expiry_max_s)
    }

    /// Writes over the old record.
    fn put_over(&mut self, write: &Write<'_>, shape: &Shape, now: Timestamp) -> Version {
        let Some(found) = write.found else { unreachable!("written over nothing") };
        let version = self.version_of(write, now);
        let stamp = Stamp { version, expiry: write.expiry, stale: write.stale, token_sent: write.token_sent };
        self.count_tombstone(write, shape);
        let at = shape.value_offset();
        let old_bytes = self.log.record(found.location).value().len();
        let record = self.log.record_mut(found.location);
        shape.write(record, write.key, stamp);
        match write.source {
            Source::New(value) => copy_value(value, &mut record[at..]),
            Source::Append(value) => copy_value(value, &mut record[at + old_bytes..]),
            Source::Prepend(_) => unreachable!("never written over: see fits_over"),
        }
        let extent = self.log.extent_mut(self.log.extent_of(found.location));
        extent.expiry_max_s = extent.expiry_max_s.max(segment::expiry_max_of(write.expiry));
        extent.version_max = extent.version_max.max(version);
        let frequency = (self.index.slot(found.place).frequency() + 1).min(3);
        self.index.update(found.place, Slot::live(found.location, frequency, write.fetched));
        self.statistics.items_total += 1;
        version
    }

    /// Writes the value of a record in the log.
    fn fill(&mut self, write: &Write<'_>, shape: &Shape, target: Location) {
        let at = shape.value_offset();
        let (value, old_at, value_at) = match (write.source, write.found) {
            (Source::New(value), _) | (Source::Append(value) | Source::Prepend(value), None) => (value, None, at),
            (Source::Append(value), Some(found)) => (value, Some((found, at)), at + shape.value_bytes - value.len()),
            (Source::Prepend(value), Some(found)) => (value, Some((found, at + value.len())), at),
        };
        if let Some((found, old_at)) = old_at {
            let record = self.log.record(found.location);
            debug_assert!(!record.is_extended(), "joined before");
            let (offset, bytes) = (record.shape().value_offset(), record.value().len());
            self.log.copy(found.location, offset, target, old_at, bytes);
        }
        copy_value(value, &mut self.log.bytes_mut(target, shape.record_bytes())[value_at..]);
    }

    /// The large value of a write: the one that came, or a new one with the pieces joined.
    fn body_of(&mut self, write: &Write<'_>, value_bytes: usize, now: Timestamp) -> Result<Arc<Body>, Refusal> {
        if let Source::New(Value::Body(body)) = write.source {
            return Ok(body.clone());
        }
        // Nothing is joined: the old one goes on.
        if let [Some(Value::Body(body)), Some(more)] = self.pieces(write)
            && more.is_empty()
        {
            return Ok(body.clone());
        }
        let Some(mut body) = Body::lease(&self.arena, value_bytes) else {
            return Err(self.make_arena_room(value_bytes, now).err().unwrap_or(Refusal::Again));
        };
        let mut at = 0;
        for piece in self.pieces(write).into_iter().flatten() {
            piece.each_slice(|slice| {
                body.write(at, slice);
                at += slice.len();
            });
        }
        Ok(Arc::new(body))
    }

    /// Which queue a write goes to: the old record's, or main if the key was evicted lately.
    fn queue_for(&mut self, write: &Write<'_>) -> Queue {
        match write.found {
            Some(found) => self.log.extent(self.log.extent_of(found.location)).queue,
            None => {
                if self.returning == Some(write.hash) {
                    return Queue::Main;
                }
                let Some((ghost, age)) = self.index.take_ghost(write.hash, self.index.live) else { return Queue::Small };
                if let Ghost::Evicted(queue) = ghost {
                    self.queue_size.returned(queue, age, self.index.live);
                }
                // Taken once: should the write be tried again, it is remembered.
                self.returning = Some(write.hash);
                Queue::Main
            }
        }
    }

    fn delete<'e>(&mut self, key: &Key<'_>, delete: Delete, now: Timestamp) -> Reply<'e> {
        let hash = self.index.hash(key);
        let Some(found) = self.find(hash, key.bytes, now.seconds()) else { return Reply::NotFound };
        let record = self.log.record(found.location);
        if delete.compare.is_some_and(|compare| compare != record.cas()) {
            return Reply::Exists;
        }
        if !delete.invalidate && !delete.drop_value {
            return self.delete_found(key.bytes, hash, found, now);
        }
        let new_expiry = delete.touch.map(|exptime| exptime.expiry(now.seconds()));
        if !delete.drop_value && delete.cas_new.is_none() && record.cas_override().is_none() {
            self.mark_stale(found, new_expiry, now);
            return Reply::Deleted;
        }
        for _ in 0..TRIES_MAX {
            let Some(found) = self.find(hash, key.bytes, now.seconds()) else { return Reply::NotFound };
            let record = self.log.record(found.location);
            let mut write = Write::new(key.bytes, hash, Some(found), Source::New(Value::EMPTY));
            (write.stale, write.cas_override) = (delete.invalidate, delete.cas_new);
            write.expiry = new_expiry.unwrap_or(Expiry::NEVER);
            if !delete.drop_value {
                write.client_flags = record.client_flags();
                write.expiry = new_expiry.unwrap_or(record.expiry());
                write.fetched = self.index.slot(found.place).fetched();
                write.source = Source::Append(Value::EMPTY);
            }
            match self.put(&write, now) {
                Ok(_) => return Reply::Deleted,
                Err(Refusal::Again) => {}
                Err(refusal) => return refusal.reply(),
            }
        }
        Reply::Busy
    }

    /// `md I`: a new version, stale, nobody won yet; in place.
    fn mark_stale(&mut self, found: Found, expiry: Option<Expiry>, now: Timestamp) {
        let stamp = self.log.record(found.location).stamp();
        let version = self.next_version(now);
        let id = self.log.extent_of(found.location);
        let extent = self.log.extent_mut(id);
        extent.version_max = extent.version_max.max(version);
        item::restamp(self.log.header_mut(found.location), Stamp { version, stale: true, token_sent: false, ..stamp });
        if let Some(expiry) = expiry {
            self.set_expiry(found, expiry, now.seconds());
        }
    }

    fn arithmetic<'e>(&mut self, key: &Key<'_>, arithmetic: Arithmetic, now: Timestamp) -> Reply<'e> {
        let hash = self.index.hash(key);
        for _ in 0..TRIES_MAX {
            let Some(found) = self.find(hash, key.bytes, now.seconds()) else {
                return self.create_number(key, hash, arithmetic, now);
            };
            let record = self.log.record(found.location);
            let old = self.log.value(record);
            if old.is_empty() || old.len() > limits::INLINE_VALUE_BYTES_MAX {
                return Reply::Error(Error::NonNumeric);
            }
            let old = if let Value::Bytes(bytes) = old { Cow::Borrowed(bytes) } else { Cow::Owned(old.to_vec()) };
            if arithmetic.compare.is_some_and(|compare| compare != 0 && compare != record.cas()) {
                return Reply::Exists;
            }
            let Some(before) = number::parse(&old) else { return Reply::Error(Error::NonNumeric) };
            let after = number::apply(before, arithmetic.delta, arithmetic.decrement);
            let mut digits = [0; number::DIGITS_MAX];
            let start = number::print(after, &mut digits);
            // A shorter number is padded with spaces, and the item stays the one it was; a longer one makes a new item.
            let long;
            let (text, same) = match old.len() {
                bytes if bytes < number::DIGITS_MAX - start => (&digits[start..], false),
                bytes if bytes <= number::DIGITS_MAX => {
                    digits.copy_within(start.., 0);
                    digits[number::DIGITS_MAX - start..].fill(b' ');
                    (&digits[..bytes], true)
                }
                bytes => {
                    long = padded_number(&digits[start..], bytes);
                    (&long[..], true)
                }
            };
            let before_s = record.expiry().remaining(now.seconds());
            let mut write = Write::new(key.bytes, hash, Some(found), Source::New(Value::Bytes(text)));
            (write.client_flags, write.cas_override) = (record.client_flags(), arithmetic.cas_new);
            write.expiry = arithmetic.touch.map_or(record.expiry(), |exptime| exptime.expiry(now.seconds()));
            (write.stale, write.token_sent) = (same && record.stale(), same && record.token_sent());
            write.fetched = same && self.index.slot(found.place).fetched();
            let before_s = arithmetic.remaining_before.then_some(before_s);
            match self.put(&write, now) {
                Ok(version) => return numbered(&write, after, version, before_s, now.seconds()),
                Err(Refusal::Again) => {}
                Err(refusal) => return refusal.reply(),
            }
        }
        Reply::Busy
    }

    fn create_number<'e>(&mut self, key: &Key<'_>, hash: u64, arithmetic: Arithmetic, now: Timestamp) -> Reply<'e> {
        let Some(exptime) = arithmetic.vivify else { return Reply::NotFound };
        let mut digits = [0; number::DIGITS_MAX];
        let start = number::print(arithmetic.initial, &mut digits);
        let mut write = Write::new(key.bytes, hash, None, Source::New(Value::Bytes(&digits[start..])));
        (write.expiry, write.cas_override) = (exptime.expiry(now.seconds()), arithmetic.cas_new);
        match self.put_absent(&write, now) {
            Ok(version) => created(numbered(&write, arithmetic.initial, version, None, now.seconds())),
            Err(refusal) => refusal.reply(),
        }
    }

    fn touch<'e>(&mut self, key: &Key<'_>, exptime: Exptime, now: Timestamp) -> Reply<'e> {
        let seconds = now.seconds();
        let hash = self.index.hash(key);
        let Some(found) = self.find(hash, key.bytes, seconds) else { return Reply::NotFound };
        self.index.touch(found.place, true);
        item::used(self.log.header_mut(found.location), seconds);
        let location = self.set_expiry(found, exptime.expiry(seconds), seconds);
        self.bump_version(location, now);
        let item = self.item(self.index.slot(found.place), seconds);
        Reply::Touched(Item {
            client_flags: item.client_flags,
            expiry: item.expiry,
            remaining_s: item.remaining_s,
            ..Item::with_cas(item.cas)
        })
    }

    fn inspect<'e>(&'e mut self, key: &Key<'_>, now: Timestamp) -> Reply<'e> {
        let hash = self.index.hash(key);
        match self.find(hash, key.bytes, now.seconds()) {
            Some(found) => Reply::Item(self.item(self.index.slot(found.place), now.seconds())),
            None => Reply::NotFound,
        }
    }
}

impl Refusal {
    fn reply<'e>(self) -> Reply<'e> {
        match self {
            Refusal::Final(error) => Reply::Error(error),
            Refusal::Busy | Refusal::Again => Reply::Busy,
        }
    }
}

impl<'a> Write<'a> {
    pub(super) fn new(key: &'a [u8], hash: u64, found: Option<Found>, source: Source<'a>) -> Self {
        Self {
            key,
            hash,
            found,
            client_flags: 0,
            expiry: Expiry::NEVER,
            cas_override: None,
            stale: false,
            token_sent: false,
            fetched: false,
            version: None,
            tombstone: false,
            source,
        }
    }
}

/// A store on a key that is not there.
fn plan_absent<'a>(key: &'a [u8], hash: u64, store: &Store, value: Value<'a>, now: Timestamp) -> Plan<'a> {
    let exptime = match store.mode {
        StoreMode::Add => store.exptime,
        StoreMode::Set if store.compare.is_none() => store.exptime,
        StoreMode::Replace if store.compare.is_none() => return Plan::Answer(Reply::NotStored),
        StoreMode::Set | StoreMode::Replace => return Plan::Answer(Reply::NotFound),
        StoreMode::Append | StoreMode::Prepend => match store.vivify {
            Some(exptime) if store.compare.is_none_or(|compare| compare == 0) => exptime,
            _ => return Plan::Answer(Reply::NotStored),
        },
    };
    let mut write = Write::new(key, hash, None, Source::New(value));
    (write.client_flags, write.cas_override) = (store.client_flags, store.cas_new);
    write.expiry = exptime.expiry(now.seconds());
    Plan::Write(write)
}

fn numbered<'e>(write: &Write<'_>, number: u64, version: Version, before_s: Option<Option<u32>>, now: Seconds) -> Reply<'e> {
    let item = Item {
        expiry: write.expiry,
        remaining_s: before_s.unwrap_or(write.expiry.remaining(now)),
        ..Item::with_cas(write.cas_override.unwrap_or(version.bits()))
    };
    Reply::Number { number, item, created: false }
}

fn created(reply: Reply<'_>) -> Reply<'_> {
    match reply {
        Reply::Number { number, item, .. } => Reply::Number { number, item, created: true },
        reply => reply,
    }
}

/// A number in a field longer than any number. Rare enough for the heap.
#[cold]
fn padded_number(digits: &[u8], bytes: usize) -> Vec<u8> {
    let mut text = digits.to_vec();
    text.resize(bytes, b' ');
    text
}

/// Copies a value to the front of `room`.
#[inline]
fn copy_value(value: Value<'_>, room: &mut [u8]) {
    match value {
        Value::Bytes(bytes) => room[..bytes.len()].copy_from_slice(bytes),
        value => {
            let mut at = 0;
            value.each_slice(|slice| {
                room[at..at + slice.len()].copy_from_slice(slice);
                at += slice.len();
            });
        }
    }
}

/// Times that a write looks again after making room. Each time room was made for it, so one more look finds it.
pub(super) const TRIES_MAX: usize = 8;
