//! No allocation in the engine once it is full, counted by the allocator itself.
//!
//! ```text
//!   get, set, add, incr, append, touch, delete + prepare + tick, evicting all the time --> 0 allocations
//! ```
//!
//! Lives here: one engine alone, values below the large ones. Not here: connections (`allocation`), large values, which have a vector
//! of segments each.

mod counting;

use pbcache::arena::Arena;
use pbcache::command::{Arithmetic, Command, Delete, Get, Reply, Store, StoreMode, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::time::{Exptime, Timestamp};

/// Writes a number in front of `:` into the key.
fn key_of(number: u64, key: &mut [u8; 16]) {
    *key = *b"000000000000:key";
    let mut rest = number;
    for digit in key[..12].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// A few commands on the keys around `number`.
fn drive(engine: &mut Engine, number: u64, value: &[u8], now: Timestamp) {
    let mut bytes = [0; 16];
    let store = Store { exptime: Exptime(10 + (number % 5) as i64 * 100), ..Store::default() };
    let verbs = [
        (number, Verb::Store(store), Value::Bytes(&value[..(number % 700) as usize])),
        (number / 2, Verb::Get(Get::default()), Value::EMPTY),
        (number - number % 100, Verb::Get(Get::default()), Value::EMPTY),
        (number, Verb::Store(Store { mode: StoreMode::Append, ..store }), Value::Bytes(b"more")),
        (number / 3, Verb::Touch(Exptime(1000)), Value::EMPTY),
        (number / 7, Verb::Delete(Delete::default()), Value::EMPTY),
        (number % 50 + 1_000_000_000, Verb::Store(Store { mode: StoreMode::Add, ..store }), Value::Bytes(b"1")),
        (number % 50 + 1_000_000_000, Verb::Arithmetic(Arithmetic { delta: 7, ..Arithmetic::default() }), Value::EMPTY),
    ];
    for (number, verb, value) in verbs {
        key_of(number, &mut bytes);
        let key = Key::new(&bytes);
        engine.prepare(std::iter::once(&key));
        assert!(!matches!(engine.execute(&Command { key, verb, value }, now), Reply::Busy | Reply::Error(_)));
    }
    if number.is_multiple_of(4) {
        engine.tick(now, 64);
    }
}

#[test]
fn a_full_engine_allocates_nothing() {
    let arena = Arena::new(8 << 20, 8 << 20, 1).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
    let mut engine = Engine::with_secret(options, arena, [1, 2]);
    let value = [7; 700];
    let mut now = Timestamp::from_seconds(1_700_000_000);
    for number in 1..100_000 {
        drive(&mut engine, number, &value, now);
        now = now.plus_ms(1);
    }
    let before = counting::allocations();
    for number in 100_000..200_000 {
        drive(&mut engine, number, &value, now);
        now = now.plus_ms(1);
    }
    assert_eq!(counting::allocations() - before, 0);
    let evicted = engine.statistics();
    assert!(evicted.evicted + evicted.expired > 50_000, "{evicted:?}");
    engine.verify();
}
