//! What a core notes of its commands for those who asked for it: counters by prefix of the key, events for who watches.
//!
//! ```text
//!   command, reply --> is_on? --no--> nothing: one branch
//!                         +----yes--> prefixes (`stats detail on`)
//!                                     events (`watch`): what was found, what came of it
//!                                     a sample of the keys that are asked for most: one command in a while
//! ```
//!
//! Off unless asked for; a sample switches it on for a few commands, so that those between cost nothing. Each core notes what it executes;
//! the control plane puts the cores together.
//!
//! Lives here: what is noted of a command. Not here: who asked (`node::control`), how it is printed (`node::stats`, `node::watch`).

use crate::command::{Command, Error, Reply, Store, StoreMode, Verb};
use crate::limits::KEY_BYTES_MAX;
use crate::time::{Expiry, Exptime, Timestamp};

pub mod events;
pub mod prefixes;
pub mod slow;
pub mod top;

use events::{Events, Found, Kinds, Stored, What};
use prefixes::Prefixes;
use top::TopKeys;

/// What one core notes.
#[derive(Debug, Default)]
pub struct Observer {
    on: bool,
    /// Whether counters by prefix are kept.
    detail: bool,
    /// Counters by prefix; they stay when counting is switched off.
    pub prefixes: Prefixes,
    /// What happened, for who watches.
    pub events: Events,
    /// Keys that are asked for most.
    pub top: TopKeys,
    /// Commands until the one that is a sample for `top`; `None` between samples.
    sampling: Option<u8>,
}

/// Who sent a command, as far as `watch` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Descriptor of its socket; 0 where the command came from another node.
    pub descriptor: i32,
    /// It is a meta command.
    pub meta: bool,
}

/// What a command is about to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// Whether there is an item.
    pub found: Found,
    /// Length of its value; 0 where there is none.
    pub value_bytes: u32,
    /// Seconds that it has left; `None` for no end.
    pub remaining_s: Option<u32>,
}

impl Observer {
    /// An observer that splits keys at `delimiter`, and counts by prefix from the beginning if `detail`.
    pub fn new(delimiter: char, detail: bool) -> Self {
        Self { on: detail, detail, prefixes: Prefixes::new(delimiter), ..Self::default() }
    }

    /// Whether anything is to be noted. Asked once per command.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Switches the counters by prefix on or off.
    pub fn count_prefixes(&mut self, on: bool) {
        self.detail = on;
        self.switch();
    }

    /// Notes events of these kinds from now on.
    pub fn watch(&mut self, kinds: Kinds) {
        self.events.watch(kinds);
        self.switch();
    }

    /// The command behind the next `skip` ones is a sample of the keys that are asked for.
    pub fn sample(&mut self, skip: u8) {
        self.sampling = Some(skip);
        self.switch();
    }

    /// Whether it matters what a command is about to come upon.
    #[inline]
    pub fn wants_glance(&self) -> bool {
        self.on && self.events.wants(ABOUT_ITEMS)
    }

    fn switch(&mut self) {
        self.on = self.detail || self.sampling.is_some() || self.events.wants(ABOUT_ITEMS);
    }

    /// Notes an executed command: what it came upon, if that was looked at, and its reply. `Reply::Busy` is not noted: the command
    /// comes again.
    #[cold]
    pub fn record(&mut self, command: &Command<'_>, client: Client, before: Glance, reply: &Reply<'_>, now: Timestamp) {
        if matches!(reply, Reply::Busy) {
            return;
        }
        let is_sample = self.take_sample();
        if !(is_sample || self.detail || self.events.wants(ABOUT_ITEMS)) {
            return;
        }
        let mut buffer = [0; KEY_BYTES_MAX];
        let Some(key) = command.key.decode(&mut buffer) else { return };
        if is_sample {
            self.top.note(key.bytes, matches!(command.verb, Verb::Get(_)), now.seconds().0);
        }
        if self.detail {
            self.count(&command.verb, key.bytes, reply);
        }
        if self.events.wants(ABOUT_ITEMS) {
            self.note(&Command { key, ..*command }, client, before, reply, now);
        }
    }

    /// Whether this command is a sample of the keys that are asked for.
    fn take_sample(&mut self) -> bool {
        let is_sample = self.sampling == Some(0);
        self.sampling = self.sampling.and_then(|skip| skip.checked_sub(1));
        if is_sample {
            self.switch();
        }
        is_sample
    }

    /// As memcached counts: reads, stores and deletes, whatever came of them; a touch and arithmetic are none of these.
    fn count(&mut self, verb: &Verb, key: &[u8], reply: &Reply<'_>) {
        let Some(counts) = self.prefixes.of(key) else { return };
        match verb {
            Verb::Get(_) => {
                counts.gets += 1;
                counts.hits += u64::from(matches!(reply, Reply::Item(_)));
            }
            Verb::Store(_) => counts.sets += 1,
            Verb::Delete(_) => counts.deletes += 1,
            Verb::Arithmetic(_) | Verb::Touch(_) | Verb::Inspect => {}
        }
    }

    /// Every command looks for its key first; a store, a number that is created and a delete are told besides.
    fn note(&mut self, command: &Command<'_>, client: Client, before: Glance, reply: &Reply<'_>, now: Timestamp) {
        let (key, descriptor) = (command.key.bytes, client.descriptor);
        self.events.note(What::Get { found: before.found, value_bytes: before.value_bytes }, key, descriptor, now);
        let what = match (&command.verb, reply) {
            (Verb::Store(store), _) => stored(command, store, before, reply, now),
            (Verb::Arithmetic(arithmetic), Reply::Number { number, created: true, .. }) => What::Store {
                outcome: Stored::Stored,
                mode: StoreMode::Add,
                compares: false,
                ttl_s: ttl_s(arithmetic.vivify.unwrap_or_default(), now),
                value_bytes: number.checked_ilog10().unwrap_or(0) + 1,
            },
            (Verb::Delete(delete), Reply::Deleted) if !delete.invalidate => {
                What::Delete { meta: client.meta, value_bytes: before.value_bytes }
            }
            _ => return,
        };
        self.events.note(what, key, descriptor, now);
    }
}

/// The event of a store.
fn stored(command: &Command<'_>, store: &Store, before: Glance, reply: &Reply<'_>, now: Timestamp) -> What {
    let joins = matches!(store.mode, StoreMode::Append | StoreMode::Prepend);
    let sent_bytes = command.value.len() as u32;
    let (outcome, value_bytes) = match reply {
        Reply::Stored(item) => (Stored::Stored, item.stored_bytes),
        Reply::Exists => (Stored::Exists, sent_bytes),
        Reply::NotFound => (Stored::NotFound, sent_bytes),
        Reply::Error(Error::TooLarge) => (Stored::TooLarge, 0),
        Reply::Error(_) => (Stored::NoMemory, 0),
        _ => (Stored::NotStored, sent_bytes),
    };
    let ttl_s = match (joins, outcome) {
        (_, Stored::TooLarge | Stored::NoMemory) => 0,
        (true, Stored::Stored) if before.found == Found::Item => before.remaining_s.unwrap_or(0),
        (true, _) => ttl_s(store.vivify.unwrap_or_default(), now),
        (false, _) => ttl_s(store.exptime, now),
    };
    What::Store { outcome, mode: store.mode, compares: store.compare.is_some(), ttl_s, value_bytes }
}

/// An exptime as seconds that are left: 0 for no end, and for what is expired already the largest number.
fn ttl_s(exptime: Exptime, now: Timestamp) -> u32 {
    match exptime.expiry(now.seconds()) {
        Expiry::NEVER => 0,
        expiry if expiry.expired(now.seconds()) => u32::MAX,
        expiry => expiry.remaining(now.seconds()).unwrap_or(0),
    }
}

/// What commands on items make events of.
const ABOUT_ITEMS: Kinds = Kinds::FETCHERS.with(Kinds::MUTATIONS).with(Kinds::DELETIONS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Arithmetic, Delete, Get, Item, Store, Value};
    use crate::key::Key;
    use crate::time::Exptime;
    use prefixes::Counts;

    fn note(observer: &mut Observer, key: Key<'_>, verb: Verb, reply: &Reply<'_>) {
        let command = Command { key, verb, value: Value::EMPTY };
        observer.record(&command, Client::default(), Glance::default(), reply, Timestamp::default());
    }

    #[test]
    fn reads_stores_and_deletes_are_counted_whatever_came_of_them() {
        let mut observer = Observer::new(':', true);
        let key = Key::new(b"user:7");
        note(&mut observer, key, Verb::Get(Get::default()), &Reply::NotFound);
        note(&mut observer, key, Verb::Get(Get::default()), &Reply::Item(Item::with_cas(1)));
        note(&mut observer, key, Verb::Store(Store::default()), &Reply::NotStored);
        note(&mut observer, key, Verb::Store(Store::default()), &Reply::Busy);
        note(&mut observer, key, Verb::Delete(Delete::default()), &Reply::NotFound);
        note(&mut observer, key, Verb::Touch(Exptime(0)), &Reply::NotFound);
        note(&mut observer, key, Verb::Arithmetic(Arithmetic::default()), &Reply::NotFound);
        // `user:8` in base64.
        let encoded = Key::from_base64(b"dXNlcjo4").expect("a key");
        note(&mut observer, encoded, Verb::Get(Get::default()), &Reply::NotFound);
        assert_eq!(observer.prefixes.of(b"user:"), Some(&mut Counts { gets: 3, hits: 1, sets: 1, deletes: 1 }));
        assert_eq!(observer.prefixes.count(), 1);
    }

    #[test]
    fn a_sample_is_one_command_and_switches_nothing_on_for_long() {
        let mut observer = Observer::default();
        observer.sample(2);
        assert!(observer.is_on() && !observer.wants_glance());
        for key in [b"a", b"b", b"c", b"d"] {
            note(&mut observer, Key::new(key), Verb::Get(Get::default()), &Reply::NotFound);
        }
        let keys: Vec<&[u8]> = observer.top.keys.iter().map(|entry| entry.key()).collect();
        assert_eq!((keys, observer.is_on(), observer.prefixes.count()), (vec![&b"c"[..]], false, 0));
        // A command that comes again is not counted, and `watch` goes on behind a sample.
        observer.watch(ABOUT_ITEMS);
        observer.sample(0);
        note(&mut observer, Key::new(b"e"), Verb::Store(Store::default()), &Reply::Busy);
        note(&mut observer, Key::new(b"e"), Verb::Store(Store::default()), &Reply::NotStored);
        assert_eq!((observer.top.samples, observer.top.keys[1].reads, observer.is_on()), (2, 0, true));
    }

    #[test]
    fn a_command_tells_what_it_found_and_what_came_of_it() {
        let mut observer = Observer::default();
        assert!(!observer.is_on());
        observer.watch(ABOUT_ITEMS);
        assert!(observer.is_on());
        let client = Client { descriptor: 9, meta: true };
        let now = Timestamp::from_seconds(1000);
        let set = Store { exptime: Exptime(60), ..Store::default() };
        let command = Command { key: Key::new(b"k"), verb: Verb::Store(set), value: Value::Bytes(b"abc") };
        let stored = Reply::Stored(Item { stored_bytes: 3, ..Item::with_cas(1) });
        observer.record(&command, client, Glance { found: Found::Expired, ..Glance::default() }, &stored, now);
        let delete = Command { verb: Verb::Delete(Delete::default()), ..command };
        let glance = Glance { found: Found::Item, value_bytes: 3, remaining_s: Some(60) };
        observer.record(&delete, client, glance, &Reply::Deleted, now);
        let batch = observer.events.take();
        let whats: Vec<What> = batch.events.iter().map(|event| event.what).collect();
        let (outcome, mode) = (Stored::Stored, StoreMode::Set);
        assert_eq!(
            whats,
            [
                What::Get { found: Found::Expired, value_bytes: 0 },
                What::Store { outcome, mode, compares: false, ttl_s: 60, value_bytes: 3 },
                What::Get { found: Found::Item, value_bytes: 3 },
                What::Delete { meta: true, value_bytes: 3 },
            ]
        );
        assert!(batch.events.iter().all(|event| event.descriptor == 9 && batch.key(event) == b"k"));
        observer.watch(Kinds::CONNEVENTS);
        assert!(!observer.is_on(), "commands make no such events");
    }
}
