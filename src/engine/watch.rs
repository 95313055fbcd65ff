//! What the engine tells those who watch: evictions, which no command asks for, and what a command is about to find.
//!
//! Lives here: the two looks from outside. Not here: who goes (`eviction`), what is done with what is told (`observe`).

use super::Engine;
use super::index::Slot;
use crate::command::Command;
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::observe::events::{Batch, Events, Found, Kinds, What};
use crate::observe::{Glance, Observer};
use crate::time::Timestamp;

impl Engine {
    /// Notes every eviction from now on, or none.
    pub fn watch_evictions(&mut self, watched: bool) {
        self.evictions = watched.then(|| {
            let mut events = Box::<Events>::default();
            events.watch(Kinds::EVICTIONS);
            events
        });
    }

    /// Takes the evictions noted so far.
    pub fn take_evictions(&mut self) -> Batch {
        self.evictions.as_mut().map(|events| events.take()).unwrap_or_default()
    }

    /// Notes that the item of a slot is evicted. Called before it goes; nothing happens unless somebody watches.
    #[inline]
    pub(super) fn note_eviction(&mut self, slot: Slot) {
        if self.evictions.is_some() {
            self.tell_eviction(slot);
        }
    }

    #[cold]
    fn tell_eviction(&mut self, slot: Slot) {
        // Taken out meanwhile: the item borrows from the engine.
        let Some(mut events) = self.evictions.take() else { return };
        let item = self.item(slot, self.now.seconds());
        let what = What::Eviction {
            fetched: item.fetched,
            ttl_s: item.remaining_s,
            idle_s: item.idle_s,
            value_bytes: item.value.len() as u32,
        };
        // No client asked for it.
        events.note(what, self.log.record(slot.location()).key(), 0, self.now);
        self.evictions = Some(events);
    }

    /// What a command is about to find, for who watches; nothing where nobody does.
    #[inline]
    pub fn glance_for(&mut self, observer: &Observer, command: &Command<'_>, now: Timestamp) -> Glance {
        if observer.wants_glance() { self.glance(&command.key, now) } else { Glance::default() }
    }

    /// What a command on this key would come upon now. Changes nothing and counts as no use.
    #[cold]
    fn glance(&mut self, key: &Key<'_>, now: Timestamp) -> Glance {
        if now != self.now {
            self.advance(now);
        }
        let mut buffer = [0; KEY_BYTES_MAX];
        let Some(key) = key.decode(&mut buffer) else { return Glance::default() };
        let log = &self.log;
        let place = self.index.find(self.index.hash(&key), |location| log.record(location).key() == key.bytes);
        let Some(place) = place else { return Glance::default() };
        let slot = self.index.slot(place);
        let record = self.log.record(slot.location());
        let found = match () {
            () if record.is_tombstone() => Found::Nothing,
            () if record.expiry().expired(now.seconds()) => Found::Expired,
            () if record.unreadable(now.seconds(), self.fence) => Found::Flushed,
            () => Found::Item,
        };
        if found != Found::Item {
            return Glance { found, ..Glance::default() };
        }
        let item = self.item(slot, now.seconds());
        Glance { found, value_bytes: item.value.len() as u32, remaining_s: item.remaining_s }
    }
}
