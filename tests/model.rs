//! The engine against a plain model: seeded streams of commands, the same for both, answers compared.
//!
//! ```text
//!   seed -> command -> Engine (tiny or ample memory) -> reply --+-- equal, but for what was evicted
//!                  \-> Oracle (a hash map)           -> reply --+
//! ```
//!
//! Laws: what the engine holds is the newest; nothing expired or flushed is served; nothing comes back that was deleted; with
//! ample memory nothing is missing; after every step the engine's structure agrees with itself (`Engine::verify`).
//!
//! `PBCACHE_SEED=n` repeats one stream.
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

#[path = "model/oracle.rs"]
mod oracle;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;

use oracle::Oracle;
use pbcache::arena::{Arena, Body};
use pbcache::command::{Arithmetic, Command, Delete, Error, Get, Item, Replica, Reply, Store, StoreMode, Value, Verb};
use pbcache::engine::{Cursor, Engine, Merge, Options, Replication};
use pbcache::key::Key;
use pbcache::limits;
use pbcache::time::{Expiry, Exptime, Timestamp};
use pbcache::version::Version;
use random::Random;

/// How one stream of commands looks.
#[derive(Clone, Copy)]
struct Stream {
    steps: u32,
    memory_bytes: usize,
    keys: u64,
    value_bytes_max: u64,
    /// One value in this many is larger than a record can be.
    large_one_in: u64,
    /// `verify` after one step in this many.
    verify_every: u32,
}

/// A reply as text, without what only the engine knows; and the seconds of idleness, which may be rounded.
fn describe(reply: &Reply<'_>) -> (String, Vec<u8>, u32) {
    let item = match reply {
        Reply::Item(item) => *item,
        Reply::Stored(item) | Reply::Touched(item) | Reply::Number { item, .. } => *item,
        other => return (format!("{other:?}"), Vec::new(), 0),
    };
    let kind = match reply {
        Reply::Number { number, .. } => format!("Number {number}"),
        Reply::Item(_) => "Item".into(),
        Reply::Stored(_) => "Stored".into(),
        _ => "Touched".into(),
    };
    let value = item.value.to_vec();
    let text = format!("{kind} {:?}", Item { value: Value::EMPTY, total_bytes: 0, idle_s: 0, ..item });
    (text, value, item.idle_s)
}

/// Whether two replies are the same. The last use is exact within an hour of writing, and within 128 s for a week.
fn agree(engine: &(String, Vec<u8>, u32), oracle: &(String, Vec<u8>, u32), now: Timestamp) -> bool {
    let tolerance_s = match now.seconds().0 - START.seconds().0 {
        0..4096 => 0,
        4096..600_000 => 127,
        _ => u32::MAX,
    };
    engine.0 == oracle.0 && engine.1 == oracle.1 && engine.2.abs_diff(oracle.2) <= tolerance_s
}

fn exptime(random: &mut Random, now: Timestamp) -> Exptime {
    let ahead = i64::from(now.seconds().0) + random.below(100_000) as i64;
    Exptime(random.pick(&[0, 0, 0, 1, 2, 10, 60, 300, 3600, 86_400, 2_592_000, 2_592_001, -1, ahead]))
}

fn key_bytes(random: &mut Random, keys: u64) -> Vec<u8> {
    let number = random.below(keys);
    match number % 7 {
        0 => format!("{{tag}}{number}").into_bytes(),
        1 => format!("a rather long key, to be sure of some variety in length: {number}").into_bytes(),
        _ => format!("key{number}").into_bytes(),
    }
}

fn value_bytes(random: &mut Random, stream: &Stream) -> Vec<u8> {
    let length = match random.below(10) {
        _ if random.one_in(stream.large_one_in) => limits::INLINE_VALUE_BYTES_MAX as u64 + 1 + random.below(200_000),
        0 => 0,
        1..=3 => return random.pick(&[1u64, 9, 10, 99, u64::MAX, 12345]).to_string().into_bytes(),
        4 => random.below(16_000.min(stream.value_bytes_max * 10)),
        _ => random.below(stream.value_bytes_max),
    };
    let first = random.next() as u8;
    let bytes: Vec<u8> = (0..=u8::MAX).map(|i| first.wrapping_add(i)).collect();
    let mut value = bytes.repeat(length as usize / bytes.len() + 1);
    value.truncate(length as usize);
    value
}

/// Some verb. `cas` is the CAS that the key has, if it is there.
fn verb(random: &mut Random, cas: Option<u64>, now: Timestamp) -> Verb {
    let cas = cas.unwrap_or(7);
    let compare = random.one_in(4).then(|| random.pick(&[cas, cas, cas - 1, cas + 1, 0]));
    let cas_new = random.one_in(8).then(|| random.below(1 << 60));
    let touch = random.one_in(3).then(|| exptime(random, now));
    let vivify = random.one_in(3).then(|| exptime(random, now));
    match random.below(20) {
        0..=4 => Verb::Get(Get::default()),
        5 => Verb::Get(Get {
            touch,
            vivify,
            recache: random.one_in(3).then(|| exptime(random, now)),
            cas_new,
            meta: random.one_in(2),
            peek: random.one_in(4),
            remaining_before: random.one_in(2),
            recache_before: random.one_in(2),
        }),
        6..=9 => Verb::Store(Store { exptime: exptime(random, now), ..Store::default() }),
        10..=13 => {
            use StoreMode::{Add, Append, Prepend, Replace, Set};
            Verb::Store(Store {
                mode: random.pick(&[Set, Set, Add, Replace, Append, Append, Prepend]),
                client_flags: random.pick(&[0, 0, 5]),
                exptime: exptime(random, now),
                compare,
                cas_new,
                invalidate: random.one_in(3),
                vivify,
                remove_on_failure: random.one_in(2),
            })
        }
        14 => Verb::Delete(Delete::default()),
        15 => Verb::Delete(Delete { compare, cas_new, invalidate: random.one_in(2), touch, drop_value: random.one_in(2) }),
        16 | 17 => Verb::Arithmetic(Arithmetic {
            delta: random.pick(&[1, 10, 1000, u64::MAX]),
            decrement: random.one_in(2),
            compare,
            cas_new,
            vivify,
            initial: random.below(1000),
            touch,
            meta: false,
            remaining_before: random.one_in(2),
        }),
        18 => Verb::Touch(exptime(random, now)),
        _ => Verb::Inspect,
    }
}

struct Pair {
    arena: Arc<Arena>,
    engine: Engine,
    oracle: Oracle,
    now: Timestamp,
    ample: bool,
}

impl Pair {
    fn new(stream: &Stream, seed: u64) -> Self {
        let arena = Arena::new(stream.memory_bytes, stream.memory_bytes, 1).unwrap();
        let options = Options { item_bytes_max: 256 << 10, core: 0, cores: 1, eviction_disabled: false, replication: None };
        Self {
            engine: Engine::with_secret(options, arena.clone(), [seed, !seed]),
            arena,
            oracle: Oracle::new(256 << 10),
            now: START,
            ample: stream.memory_bytes >= AMPLE_BYTES,
        }
    }

    /// What only eviction explains: the oracle forgets what the engine has not. The other way round is a fault.
    fn align(&mut self, key: &Key<'_>, step: &str) -> Option<u64> {
        let inspect = Command { key: *key, verb: Verb::Inspect, value: Value::EMPTY };
        let held = describe(&self.engine.execute(&inspect, self.now));
        let known = describe(&self.oracle.execute(&inspect, self.now));
        if held.0 == "NotFound" && known.0 != "NotFound" {
            assert!(!self.ample, "{step}: lost {:?}", key.bytes);
            self.oracle.map.remove(key.bytes);
            return None;
        }
        assert!(
            agree(&held, &known, self.now),
            "{step}: holds {:?} (idle {}), should be {:?} (idle {})",
            held.0,
            held.2,
            known.0,
            known.2
        );
        match self.oracle.execute(&inspect, self.now) {
            Reply::Item(item) => Some(item.cas),
            _ => None,
        }
    }

    /// Whether the engine has what the oracle has, or nothing. Where the old value was empty, the answer does not tell whether a value was
    /// joined to it or to nothing.
    fn same_now(&mut self, key: &Key<'_>) -> bool {
        let inspect = Command { key: *key, verb: Verb::Inspect, value: Value::EMPTY };
        let held = describe(&self.engine.execute(&inspect, self.now));
        held.0 == "NotFound" || agree(&held, &describe(&self.oracle.execute(&inspect, self.now)), self.now)
    }

    /// Executes on both and compares.
    fn execute(&mut self, key: &Key<'_>, verb: Verb, value: &[u8], step: &str) {
        let body = (value.len() > limits::INLINE_VALUE_BYTES_MAX).then(|| self.receive(value.len()));
        let body = match body {
            Some(None) => return, // no memory to receive it: nothing was asked of the engine
            Some(Some(mut body)) => {
                body.write(0, value);
                Some(Arc::new(body))
            }
            None => None,
        };
        let carried = body.as_ref().map_or(Value::Bytes(value), Value::Body);
        let carried = if let Verb::Store(_) = verb { carried } else { Value::EMPTY };
        let mut reply = None;
        for _ in 0..100 {
            let told = self.engine.execute(&Command { key: *key, verb, value: carried }, self.now);
            if !matches!(told, Reply::Busy) {
                reply = Some(describe(&told));
                break;
            }
            self.engine.tick(self.now, 64);
        }
        let Some(reply) = reply else {
            assert!(!self.ample, "{step}: no memory");
            return;
        };
        if reply.0.contains("OutOfMemory") {
            assert!(!self.ample, "{step}: no memory");
            self.oracle.map.remove(key.bytes);
            return;
        }
        let command = Command { key: *key, verb, value: if carried.is_empty() { carried } else { Value::Bytes(value) } };
        let before = self.oracle.last_version;
        let expected = describe(&self.oracle.execute(&command, self.now));
        if agree(&reply, &expected, self.now) && (self.ample || self.same_now(key)) {
            return;
        }
        // Making room may have evicted the very item before it was joined to or counted on: then it was as if never there.
        assert!(!self.ample, "{step} {verb:?} {} B: {:?}, should be {:?}", value.len(), reply.0, expected.0);
        self.oracle.map.remove(key.bytes);
        self.oracle.last_version = before;
        let absent = describe(&self.oracle.execute(&command, self.now));
        assert!(
            agree(&reply, &absent, self.now),
            "{step} {verb:?}: {:?}, should be {:?} or {:?}",
            reply.0,
            expected.0,
            absent.0
        );
    }

    /// Memory to receive a large value into, as a connection takes it.
    fn receive(&mut self, bytes: usize) -> Option<Body> {
        for _ in 0..2000 {
            if let Some(body) = Body::lease(&self.arena, bytes) {
                return Some(body);
            }
            self.arena.want(bytes + self.arena.segment_bytes());
            self.engine.tick(self.now, 64);
        }
        panic!("{bytes} bytes cannot be had of {}", self.arena.limit_bytes());
    }

    /// Walks all items in slices and compares them with the oracle's.
    fn walk(&mut self, budget: u32, step: &str) {
        let mut seen = BTreeMap::new();
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = self.engine.walk(from, self.now, budget, &mut |entry| {
                seen.insert(entry.key.to_vec(), describe(&Reply::Item(entry.item)));
            });
        }
        let known: BTreeMap<_, _> =
            self.oracle.readable(self.now).map(|(key, item)| (key.to_vec(), describe(&Reply::Item(item)))).collect();
        for (key, told) in &seen {
            let known = known.get(key);
            let short = |told: &(String, Vec<u8>, u32)| format!("{} of {} bytes, idle {} s", told.0, told.1.len(), told.2);
            let agrees = known.is_some_and(|known| agree(told, known, self.now));
            assert!(agrees, "{step}: walked over {}, should be {:?}", short(told), known.map(short));
        }
        assert!(!self.ample || seen.len() == known.len(), "{step}: walked over {} of {}", seen.len(), known.len());
    }
}

fn run(stream: Stream, seed: u64) {
    let mut random = Random(seed | 1);
    let mut pair = Pair::new(&stream, seed);
    for number in 0..stream.steps {
        let step = format!("seed {seed} step {number}");
        match random.below(200) {
            0 => pair.now = pair.now.plus_ms(random.pick(&[1000, 1000, 10_000, 61_000, 3_600_000, 90_000_000])),
            1 if random.one_in(10) => {
                let at = pair.now.plus_ms(random.pick(&[0, 0, 1500]));
                pair.engine.flush(at);
                pair.oracle.flush(at);
            }
            2 if random.one_in(4) => pair.walk(random.pick(&[1, 10, 1000]), &step),
            3..=60 => _ = pair.engine.tick(pair.now, random.pick(&[1, 16, 64])),
            61..=120 => pair.now = pair.now.plus_ms(random.below(4)),
            _ => {}
        }
        let bytes = key_bytes(&mut random, stream.keys);
        let key = Key::new(&bytes);
        let cas = pair.align(&key, &step);
        let verb = verb(&mut random, cas, pair.now);
        let value = value_bytes(&mut random, &stream);
        pair.execute(&key, verb, &value, &step);
        assert!(pair.arena.used_bytes() <= pair.arena.limit_bytes());
        if number % stream.verify_every == 0 {
            pair.engine.verify();
        }
    }
    pair.engine.verify();
    drop(pair.engine);
    assert_eq!(pair.arena.used_bytes(), 0, "seed {seed}: memory is not given back");
}

fn run_seeds(stream: Stream, seeds: u64) {
    match std::env::var("PBCACHE_SEED") {
        Ok(seed) => run(stream, seed.parse().unwrap()),
        Err(_) => (1..=seeds).for_each(|seed| run(stream, seed * 0x9e37_79b9)),
    }
}

const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

const AMPLE_BYTES: usize = 256 << 20;

const STREAM: Stream =
    Stream { steps: 4000, memory_bytes: AMPLE_BYTES, keys: 60, value_bytes_max: 200, large_one_in: 60, verify_every: 7 };

/// Short enough for Miri (`tests/run miri`): every unsafe line of the engine and the arena runs.
#[test]
fn miri_with_hardly_any_memory_and_large_values() {
    let steps = if cfg!(miri) { 200 } else { 400 };
    let stream = Stream { steps, memory_bytes: 512 << 10, keys: 40, verify_every: 401, large_one_in: 30, ..STREAM };
    run_seeds(Stream { value_bytes_max: 6000, ..stream }, 1);
}

#[test]
fn with_ample_memory_every_answer_is_the_models() {
    run_seeds(STREAM, 12);
}

#[test]
fn with_many_keys_the_index_grows_and_loses_nothing() {
    run_seeds(Stream { steps: 30_000, keys: 20_000, large_one_in: 100_000, verify_every: 3001, ..STREAM }, 3);
}

#[test]
fn with_little_memory_what_is_held_is_the_newest() {
    run_seeds(Stream { steps: 20_000, memory_bytes: 1 << 20, keys: 3000, verify_every: 101, large_one_in: 400, ..STREAM }, 6);
}

#[test]
fn with_hardly_any_memory_stores_still_succeed() {
    let stream = Stream { steps: 5000, memory_bytes: 512 << 10, keys: 500, verify_every: 41, large_one_in: 100, ..STREAM };
    run_seeds(Stream { value_bytes_max: 3000, ..stream }, 6);
}

#[test]
fn with_large_values_alone_memory_stays_in_its_bound() {
    let stream = Stream { steps: 3000, memory_bytes: 4 << 20, keys: 100, verify_every: 11, large_one_in: 2, ..STREAM };
    run_seeds(stream, 4);
}

#[test]
fn a_store_above_the_limit_is_refused_and_removes_the_old_value() {
    let mut pair = Pair::new(&STREAM, 1);
    let key = Key::new(b"k");
    let set = Store { remove_on_failure: true, ..Store::default() };
    pair.execute(&key, Verb::Store(set), b"v", "set");
    let value = Value::Dropped { bytes: 300 << 10 };
    let reply = describe(&pair.engine.execute(&Command { key, verb: Verb::Store(set), value }, pair.now));
    assert_eq!(reply.0, format!("{:?}", Reply::Error(Error::TooLarge)));
    let reply = describe(&pair.engine.execute(&Command { key, verb: Verb::Inspect, value: Value::EMPTY }, pair.now));
    assert_eq!(reply.0, "NotFound");
}

/// No two writes of a node have the same version, so none can pass for another's CAS unique.
#[test]
fn versions_rise_and_never_meet() {
    const CORES: u16 = 5;
    let arena = Arena::new(8 << 20, 8 << 20, CORES.into()).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: CORES, eviction_disabled: false, replication: None };
    let mut seen = std::collections::HashSet::new();
    for core in 0..CORES {
        let mut shard = Engine::with_secret(Options { core, ..options }, arena.clone(), [1, 2]);
        let (mut now, mut last) = (START, 0);
        for i in 0..2000 {
            // Many in one millisecond, a flush, then time again.
            now = now.plus_ms(u64::from(i % 500 == 0));
            if i == 1000 {
                shard.flush(now);
            }
            let command = Command { key: Key::new(b"k"), verb: Verb::Store(Store::default()), value: Value::Bytes(b"v") };
            let Reply::Stored(item) = shard.execute(&command, now) else { panic!("not stored") };
            assert!(item.cas > last && seen.insert(item.cas), "core {core}, write {i}: {}", item.cas);
            last = item.cas;
        }
    }
}

/// Shards that share one arena take turns in being busy: memory moves to where it is needed, and no store fails.
#[test]
fn memory_moves_between_shards_with_the_load() {
    const CORES: u16 = 8;
    let arena = Arena::new(8 << 20, 8 << 20, CORES.into()).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: CORES, eviction_disabled: false, replication: None };
    let mut shards: Vec<_> =
        (0..CORES).map(|core| Engine::with_secret(Options { core, ..options }, arena.clone(), [core.into(), 99])).collect();
    let mut random = Random(77);
    let mut now = START;
    for round in 0..24u64 {
        let busy = (round % u64::from(CORES)) as usize;
        for i in 0..4000u64 {
            now = now.plus_ms(1);
            if i % 8 == 0 {
                shards.iter_mut().for_each(|shard| _ = shard.tick(now, 64));
            }
            let number = format!("{round}:{i}");
            let value = vec![i as u8; random.below(2000 >> (round % 3)) as usize];
            let verb = Verb::Store(Store { exptime: exptime(&mut random, now), ..Store::default() });
            let command = Command { key: Key::new(number.as_bytes()), verb, value: Value::Bytes(&value) };
            let mut stored = false;
            for _ in 0..200 {
                if let Reply::Stored(_) = shards[busy].execute(&command, now) {
                    stored = true;
                    break;
                }
                shards.iter_mut().for_each(|shard| _ = shard.tick(now, 64));
            }
            assert!(stored, "round {round}, item {i}");
            assert!(arena.used_bytes() <= arena.limit_bytes());
        }
        shards.iter().for_each(Engine::verify);
        // The shard that works has most of the memory, or at least its share.
        let held = shards[busy].statistics().segment_bytes as usize;
        assert!(held >= arena.limit_bytes() / usize::from(CORES) / 2, "round {round}: {held} B");
    }
    // A value of 1 MiB fits, though no shard has so much to itself.
    let body = (0..2000).find_map(|_| {
        let body = Body::lease(&arena, (1 << 20) - 200);
        arena.want((1 << 20) + arena.segment_bytes());
        shards.iter_mut().for_each(|shard| _ = shard.tick(now, 64));
        body
    });
    let body = Arc::new(body.expect("memory for a large value"));
    let command = Command { key: Key::new(b"large"), verb: Verb::Store(Store::default()), value: Value::Body(&body) };
    let stored = (0..200).any(|_| {
        shards.iter_mut().for_each(|shard| _ = shard.tick(now, 64));
        matches!(shards[3].execute(&command, now), Reply::Stored(_))
    });
    assert!(stored);
}

/// `cache_memlimit` both ways, while a client writes.
#[test]
fn a_changed_limit_is_kept_within_some_ticks() {
    let arena = Arena::new(16 << 20, 32 << 20, 1).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
    let mut engine = Engine::with_secret(options, arena.clone(), [1, 2]);
    let mut number = 0u64;
    let mut write = |engine: &mut Engine, count: u64| {
        for _ in 0..count {
            number += 1;
            let (key, value) = (format!("key{number}"), vec![1u8; (number % 997) as usize]);
            let command =
                Command { key: Key::new(key.as_bytes()), verb: Verb::Store(Store::default()), value: Value::Bytes(&value) };
            let stored = (0..100).any(|_| {
                engine.tick(START, 64);
                matches!(engine.execute(&command, START), Reply::Stored(_))
            });
            assert!(stored);
        }
    };
    write(&mut engine, 60_000);
    let before = engine.statistics().items_count;
    for (limit_bytes, least, most) in [(4 << 20, 0, before / 2), (32 << 20, before, u64::MAX)] {
        assert!(arena.set_limit(limit_bytes));
        write(&mut engine, 100_000);
        engine.verify();
        assert!(arena.used_bytes() <= arena.limit_bytes());
        let items = engine.statistics().items_count;
        assert!((least..most).contains(&items), "{items} items in {limit_bytes} B");
    }
}

/// Memory of expired items comes back without anybody asking for them.
#[test]
fn expired_items_leave_by_themselves() {
    let arena = Arena::new(64 << 20, 64 << 20, 1).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
    let mut engine = Engine::with_secret(options, arena.clone(), [1, 2]);
    for number in 0..50_000u64 {
        let key = format!("key{number}");
        let verb = Verb::Store(Store { exptime: Exptime(5 + (number % 3) as i64 * 1000), ..Store::default() });
        engine.execute(&Command { key: Key::new(key.as_bytes()), verb, value: Value::Bytes(&[7; 100]) }, START);
    }
    let full = engine.statistics();
    for second in 0..20 {
        for turn in 0..1000 {
            engine.tick(START.plus_ms(second * 1000 + turn), 64);
        }
    }
    let left = engine.statistics();
    engine.verify();
    assert_eq!(left.expired, left.expired_unfetched);
    assert!(left.items_count <= full.items_count * 7 / 10, "{} of {}", left.items_count, full.items_count);
    assert_eq!(left.evicted, 0);
}

/// Merging the same items in any order, any number of times, ends the same.
#[test]
fn merges_commute_and_repeat_without_effect() {
    let values: Vec<Vec<u8>> = (0..6u8).map(|i| vec![i; 1 + usize::from(i) * 9]).collect();
    let incoming: Vec<_> =
        (0..60u64).map(|i| (format!("key{}", i % 7), (START.unix_ms << 16) + i % 5, &values[(i * 7 % 6) as usize])).collect();
    let replication = Some(Replication { buckets: 100, tombstone_s: 100, node: 0 });
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication };
    let mut ends = Vec::new();
    for seed in 1..20u64 {
        let mut random = Random(seed * 77);
        let arena = Arena::new(4 << 20, 4 << 20, 1).unwrap();
        let mut engine = Engine::with_secret(options, arena, [seed, 5]);
        for _ in 0..1000 {
            let (key, version, value) = &incoming[random.below(60) as usize];
            let incoming = Replica {
                key: Key::new(key.as_bytes()),
                value: Value::Bytes(value),
                client_flags: 0,
                version: Version::from_bits(*version),
                cas_override: None,
                expiry: Expiry::NEVER,
                stale: false,
                token_sent: false,
                tombstone: version % 5 == 2,
            };
            assert_ne!(engine.merge(&incoming, START), Merge::Busy);
            assert!(matches!(engine.merge(&incoming, START), Merge::Kept { .. }));
        }
        engine.verify();
        let mut end = BTreeMap::new();
        engine.walk_copies(Cursor::default(), START, 1000, &mut |copy| {
            end.insert(copy.key.bytes.to_vec(), (copy.version, copy.tombstone, copy.value.to_vec()));
        });
        ends.push(end);
    }
    assert!(ends.iter().all(|end| *end == ends[0] && end.len() == 7));
}

#[test]
fn without_eviction_a_full_engine_refuses_and_loses_nothing() {
    let arena = Arena::new(2 << 20, 2 << 20, 1).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: true, replication: None };
    let mut engine = Engine::with_secret(options, arena.clone(), [3, 4]);
    let mut stored = Vec::new();
    for number in 0..40_000u64 {
        let key = format!("key{number}");
        let command =
            Command { key: Key::new(key.as_bytes()), verb: Verb::Store(Store::default()), value: Value::Bytes(&[7; 100]) };
        match engine.execute(&command, START) {
            Reply::Stored(_) => stored.push(key),
            reply => assert!(matches!(reply, Reply::Error(Error::OutOfMemory)), "{reply:?}"),
        }
        arena.want(1 << 16);
        engine.tick(START, 64);
    }
    engine.verify();
    assert!((8_000..39_000).contains(&stored.len()), "{}", stored.len());
    assert_eq!(engine.statistics().evicted, 0);
    assert_eq!(engine.statistics().items_count, stored.len() as u64);
}

/// Stores with ticks between, as a core does when memory is short for the moment.
fn store(engine: &mut Engine, command: &Command<'_>, now: Timestamp) {
    for _ in 0..100 {
        match engine.execute(command, now) {
            Reply::Stored(_) => return,
            Reply::Busy => _ = engine.tick(now, 64),
            other => panic!("{other:?}"),
        }
    }
    panic!("no memory comes");
}

/// Deleted keys stay known while memory is full of other things, up to a sixteenth of it; beyond, fences keep the deleted away.
#[test]
fn tombstones_outlive_what_is_evicted_up_to_their_share() {
    const MEMORY_BYTES: usize = 16 << 20;
    let buckets = 1_000_000;
    for (deleted, kept) in [(10_000u64, true), (200_000, false)] {
        let arena = Arena::new(MEMORY_BYTES, MEMORY_BYTES, 1).unwrap();
        let replication = Some(Replication { buckets, tombstone_s: 3600, node: 0 });
        let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication };
        let mut engine = Engine::with_secret(options, arena, [1, 2]);
        let now = Timestamp::from_seconds(1_700_000_000);
        let mut number = 0;
        let mut write = |engine: &mut Engine, prefix: &str| {
            number += 1;
            let name = format!("{prefix}:{number:012}");
            let key = Key::new(name.as_bytes());
            let set = Command { key, verb: Verb::Store(Store::default()), value: Value::Bytes(&[7; 300]) };
            store(engine, &set, now);
            engine.tick(now, 64);
            name
        };
        let mut versions = Vec::new();
        for _ in 0..deleted {
            let name = write(&mut engine, "deleted");
            let key = Key::new(name.as_bytes());
            versions.push((name.clone(), engine.copy_of(&key, now).expect("just stored").version));
            let delete = Command { key, verb: Verb::Delete(Delete::default()), value: Value::EMPTY };
            assert!(matches!(engine.execute(&delete, now), Reply::Deleted));
        }
        for number in 0..8 * MEMORY_BYTES / 300 {
            let name = write(&mut engine, "other");
            if number % 3 > 0 {
                continue;
            }
            // Asked for again, so that main has its turns as well.
            let get = Command { key: Key::new(name.as_bytes()), verb: Verb::Get(Get::default()), value: Value::EMPTY };
            assert!(matches!(engine.execute(&get, now), Reply::Item(_)));
        }
        let known = versions.iter().filter(|(name, _)| engine.copy_of(&Key::new(name.as_bytes()), now).is_some()).count();
        let fenced = (0..4096).any(|partition| engine.partition_fence(partition).is_some());
        assert_eq!((known == versions.len(), fenced), (kept, !kept), "{known} of {deleted} tombstones are known");
        for (name, version) in &versions {
            let (key, value) = (Key::new(name.as_bytes()), Value::Bytes(b"old"));
            let old = Replica { value, version: *version, expiry: Expiry::NEVER, ..engine.tombstone(key, Version::NONE, now) };
            assert!(matches!(engine.merge(&Replica { tombstone: false, ..old }, now), Merge::Kept { .. }), "{name} is back");
        }
        engine.verify();
    }
}

/// A large value costs its own bytes and at most one in a hundred more; a get hands out what was stored, not a copy.
#[test]
fn large_values_waste_little_and_are_not_copied() {
    for value_bytes in [1 << 20, 16 << 20, 128 << 20] {
        let arena = Arena::new(200 << 20, 200 << 20, 1).unwrap();
        let options = Options { item_bytes_max: 256 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
        let mut engine = Engine::with_secret(options, arena.clone(), [1, 2]);
        let now = Timestamp::from_seconds(1_700_000_000);
        let small = Command { key: Key::new(b"small"), verb: Verb::Store(Store::default()), value: Value::Bytes(b"v") };
        store(&mut engine, &small, now);
        let before_bytes = arena.used_bytes();
        let mut body = Body::lease(&arena, value_bytes).expect("room to receive");
        body.write(0, &vec![7; value_bytes]);
        let body = Arc::new(body);
        let set = Command { key: Key::new(b"large"), verb: Verb::Store(Store::default()), value: Value::Body(&body) };
        store(&mut engine, &set, now);
        let cost_bytes = arena.used_bytes() - before_bytes;
        assert!(cost_bytes <= value_bytes + value_bytes / 100, "{value_bytes} B take {cost_bytes}");
        let get = Command { key: set.key, verb: Verb::Get(Get::default()), value: Value::EMPTY };
        let Reply::Item(item) = engine.execute(&get, now) else { panic!("{value_bytes} B are gone") };
        assert!(matches!(item.value, Value::Body(held) if Arc::ptr_eq(held, &body)), "a copy");
    }
}
