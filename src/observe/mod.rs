//! What a core notes of its commands for those who asked for it: counters by prefix of the key.
//!
//! ```text
//!   command, reply --> is_on? --no--> nothing: one branch
//!                         +----yes--> prefixes (`stats detail on`)
//! ```
//!
//! Off unless asked for. Each core notes what it executes; the control plane puts the cores together.
//!
//! Lives here: what is noted of a command. Not here: who asked (`node::control`), how it is printed (`node::stats`).

use crate::command::{Command, Reply, Verb};
use crate::limits::KEY_BYTES_MAX;

pub mod prefixes;

use prefixes::Prefixes;

/// What one core notes.
#[derive(Debug, Default)]
pub struct Observer {
    /// Whether counters by prefix are kept.
    detail: bool,
    /// Counters by prefix; they stay when counting is switched off.
    pub prefixes: Prefixes,
}

impl Observer {
    /// An observer that splits keys at `delimiter`, and counts by prefix from the beginning if `detail`.
    pub fn new(delimiter: char, detail: bool) -> Self {
        Self { detail, prefixes: Prefixes::new(delimiter) }
    }

    /// Whether anything is to be noted. Asked once per command.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.detail
    }

    /// Switches the counters by prefix on or off.
    pub fn count_prefixes(&mut self, on: bool) {
        self.detail = on;
    }

    /// Notes an executed command. `Reply::Busy` is not noted: the command comes again.
    #[cold]
    pub fn record(&mut self, command: &Command<'_>, reply: &Reply<'_>) {
        let mut buffer = [0; KEY_BYTES_MAX];
        let Some(key) = command.key.decode(&mut buffer) else { return };
        if matches!(reply, Reply::Busy) {
            return;
        }
        // As memcached counts: reads, stores and deletes, whatever came of them; a touch and arithmetic are none of these.
        let Some(counts) = self.prefixes.of(key.bytes) else { return };
        match command.verb {
            Verb::Get(_) => {
                counts.gets += 1;
                counts.hits += u64::from(matches!(reply, Reply::Item(_)));
            }
            Verb::Store(_) => counts.sets += 1,
            Verb::Delete(_) => counts.deletes += 1,
            Verb::Arithmetic(_) | Verb::Touch(_) | Verb::Inspect => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Arithmetic, Delete, Get, Item, Store, Value};
    use crate::key::Key;
    use crate::time::Exptime;
    use prefixes::Counts;

    fn note(observer: &mut Observer, key: Key<'_>, verb: Verb, reply: &Reply<'_>) {
        observer.record(&Command { key, verb, value: Value::EMPTY }, reply);
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
}
