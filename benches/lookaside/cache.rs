//! An engine behind which the data lies: what it misses is stored.

use pbcache::arena::Arena;
use pbcache::command::{Command, Get, Reply, Store, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::time::{Exptime, Timestamp};

pub const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// An engine and the time that it is told.
pub struct Cache {
    pub engine: Engine,
    pub now: Timestamp,
}

impl Cache {
    pub fn new(memory_bytes: usize) -> Self {
        let arena = Arena::new(memory_bytes, memory_bytes, 1).expect("memory");
        let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
        Self { engine: Engine::with_secret(options, arena, [1, 2]), now: START }
    }

    /// A read, and a set if it misses. Whether it missed.
    pub fn request(&mut self, number: u64, value: &[u8], exptime: Exptime) -> bool {
        let name = name_of(number);
        let get = Command { key: Key::new(&name), verb: Verb::Get(Get::default()), value: Value::EMPTY };
        if let Reply::Item(_) = self.engine.execute(&get, self.now) {
            return false;
        }
        self.store(number, value, exptime);
        true
    }

    pub fn store(&mut self, number: u64, value: &[u8], exptime: Exptime) {
        let verb = Verb::Store(Store { exptime, ..Store::default() });
        let name = name_of(number);
        let set = Command { key: Key::new(&name), verb, value: Value::Bytes(value) };
        assert!(matches!(self.engine.execute(&set, self.now), Reply::Stored(_)));
    }
}

/// The key of a number: 16 bytes.
fn name_of(mut number: u64) -> [u8; 16] {
    let mut name = *b"key:000000000000";
    for digit in name[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    name
}
