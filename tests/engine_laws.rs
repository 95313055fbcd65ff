//! A full engine takes every store that fits: laws over sizes, memory, cores and histories.
//!
//! ```text
//!   distribution of sizes, one after the other
//!        |
//!        v         core 0: Engine --+
//!   new keys -->   core 1: Engine --+-- one arena          a store that must wait: all cores tick, as sleeping ones are woken
//!                  ...              --+
//! ```
//!
//! The laws, for whatever comes after whatever:
//! 1. A store fails only if the item cannot fit at all: no `OutOfMemory`, and no more than `TICKS_MAX` waits.
//! 2. The work of one call is bounded: records looked at, bytes moved.
//! 3. What is held stays: from 8 MB a core on, items and their index take 90 % of the memory once it was filled.
//! 4. The last item stored is there, with its bytes.
//! 5. Misses stay at or below those of an LRU that holds as many bytes, within 2 %.
//!
//! Symptom, before: with values of 10 to 100 KB stores waited for 5 s and failed. Cause: a segment held two or three of them, its rest
//! counted as dead, and compaction moved them from segment to segment for ever. Cure: what is long lies in pages and goes by itself.
//!
//! `PBCACHE_SEED=n` changes what is random; `PBCACHE_LAWS=all` runs larger memories and more cores, for minutes.
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

#[path = "lookaside/mod.rs"]
mod lookaside;
mod random;

use std::sync::Arc;

use lookaside::{Lru, Trace};
use pbcache::arena::{Arena, Body};
use pbcache::command::{Command, Get, Reply, Store, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::limits;
use pbcache::time::{Exptime, Timestamp};
use random::Random;

/// A name and the length of the value of a key.
type Sizes = (&'static str, fn(&mut Random) -> usize);

const TINY: Sizes = ("10 B", |_| 10);
const SMALL: Sizes = ("100 B", |_| 100);
const MIDDLE: Sizes = ("500 B", |_| 500);
const LONG: Sizes = ("10 to 100 KB", |random| uniform(random, 10_000, 100_000));

/// Those that a stranger found to stall, and those at the borders of records, pages and bodies.
const SIZES: &[Sizes] = &[
    TINY,
    SMALL,
    MIDDLE,
    ("1 KB", |_| 1000),
    ("a sixteenth of a segment", |_| 4090),
    ("one page", |_| 4200),
    ("two whole pages", |_| 8192),
    ("24 to 25 KB", |random| uniform(random, 24_000, 25_000)),
    ("18 to 54 KB", |random| uniform(random, 18_000, 54_000)),
    ("20 to 80 KB", |random| uniform(random, 20_000, 80_000)),
    ("5 to 50 KB", |random| uniform(random, 5_000, 50_000)),
    LONG,
    ("70 KB", |_| 70_000),
    ("the longest in pages", |_| limits::COPIED_VALUE_BYTES_MAX),
    ("the shortest body", |_| limits::COPIED_VALUE_BYTES_MAX + 1),
    ("log-normal around 30 KB", |random| log_normal(random, 30_000.0, 0.8)),
    ("log-uniform, 10 B to 500 KB", |random| log_uniform(random, 10.0, 500_000.0)),
    ("log-uniform, 100 B to 100 KB", |random| log_uniform(random, 100.0, 100_000.0)),
    ("100 KB to 1 MB", |random| uniform(random, 100_000, 1_000_000)),
];

fn uniform(random: &mut Random, least: u64, most: u64) -> usize {
    (least + random.below(most - least + 1)) as usize
}

fn log_uniform(random: &mut Random, least: f64, most: f64) -> usize {
    (least * (most / least).powf(random.unit())) as usize
}

/// The sum of twelve is normal enough.
fn log_normal(random: &mut Random, median: f64, deviation: f64) -> usize {
    let normal = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
    ((median * (deviation * normal).exp()) as usize).min(1_000_000)
}

/// Cores that share one arena.
struct Shards {
    arena: Arc<Arena>,
    engines: Vec<Engine>,
    now: Timestamp,
    /// Bytes to store.
    bytes: Vec<u8>,
    /// Keys stored so far.
    number: u64,
    worst_judged: u64,
    worst_moved_bytes: u64,
    worst_ticks: usize,
}

impl Shards {
    fn new(memory_bytes: usize, cores: u16) -> Self {
        let arena = Arena::new(memory_bytes, memory_bytes, cores.into()).unwrap();
        let engine = |core| {
            let options = Options { item_bytes_max: 128 << 20, core, cores, eviction_disabled: false, replication: None };
            Engine::with_secret(options, arena.clone(), [1, 2])
        };
        Self {
            engines: (0..cores).map(engine).collect(),
            arena,
            now: Timestamp::from_seconds(1_700_000_000),
            bytes: (0..1 << 20).map(|at: u32| (at ^ at >> 8) as u8).collect(),
            number: 0,
            worst_judged: 0,
            worst_moved_bytes: 0,
            worst_ticks: 0,
        }
    }

    /// All cores get a turn.
    fn tick(&mut self) {
        self.now = self.now.plus_ms(1);
        for engine in &mut self.engines {
            engine.tick(self.now, 64);
        }
    }

    /// Stores a new key of this length: laws 1, 2 and 4.
    fn store(&mut self, length: usize, name: &str) {
        self.number += 1;
        let text = format!("key:{:012}", self.number);
        let key = Key::new(text.as_bytes());
        let core = (key.hash % self.engines.len() as u64) as usize;
        let mut ticks = 0;
        let mut body = None;
        while length > limits::INLINE_VALUE_BYTES_MAX && body.is_none() {
            body = Body::lease(&self.arena, length);
            if body.is_none() {
                self.arena.want(length + self.arena.segment_bytes());
                self.tick();
                ticks += 1;
                assert!(ticks < TICKS_MAX, "{name}: no memory to receive {length} B");
            }
        }
        let bytes = &self.bytes[..length];
        let body = body.map(|mut body| {
            body.write(0, bytes);
            Arc::new(body)
        });
        let value = body.as_ref().map_or(Value::Bytes(&self.bytes[..length]), Value::Body);
        let set = Command { key, verb: Verb::Store(Store { exptime: Exptime::NEVER, ..Store::default() }), value };
        loop {
            let before = self.engines[core].statistics();
            let stored = match self.engines[core].execute(&set, self.now) {
                Reply::Stored(_) => true,
                Reply::Busy => false,
                other => panic!("{name}: {length} B are answered {other:?}"),
            };
            let after = self.engines[core].statistics();
            self.worst_judged = self.worst_judged.max(after.judged - before.judged);
            self.worst_moved_bytes = self.worst_moved_bytes.max(after.moved_bytes - before.moved_bytes);
            if stored {
                break;
            }
            // By parts of the structure: the value borrows the bytes.
            self.now = self.now.plus_ms(1);
            let now = self.now;
            self.engines.iter_mut().for_each(|engine| _ = engine.tick(now, 64));
            ticks += 1;
            assert!(ticks < TICKS_MAX, "{name}: {length} B are not stored");
        }
        self.worst_ticks = self.worst_ticks.max(ticks);
        let get = Command { key, verb: Verb::Get(Get::default()), value: Value::EMPTY };
        let Reply::Item(item) = self.engines[core].execute(&get, self.now) else {
            panic!("{name}: {length} B are gone at once")
        };
        assert!(item.value.len() == length && item.value.to_vec() == self.bytes[..length], "{name}: {length} B are others");
        if self.number.is_multiple_of(16) {
            self.tick();
        }
    }

    /// Share of the memory that items and their indexes take.
    fn held(&self) -> f64 {
        let held = self.engines.iter().map(Engine::statistics).map(|held| held.item_bytes + held.index_bytes).sum::<u64>();
        held as f64 / self.arena.limit_bytes() as f64
    }

    /// Stores `times` as much as fits, and tells the least share that was held in the last quarter.
    fn fill(&mut self, sizes: Sizes, times: f64, random: &mut Random, name: &str) -> f64 {
        let wanted_bytes = (self.arena.limit_bytes() as f64 * times) as usize;
        let (mut stored_bytes, mut least, mut steps) = (0, 1f64, 0u32);
        while stored_bytes < wanted_bytes {
            let length = (sizes.1)(random).min(self.arena.limit_bytes() / 4);
            self.store(length, name);
            stored_bytes += length + 60;
            steps += 1;
            if stored_bytes > wanted_bytes / 4 * 3 && steps.is_multiple_of(64) {
                least = least.min(self.held());
            }
        }
        self.engines.iter().for_each(Engine::verify);
        least.min(self.held())
    }
}

/// Laws 1 to 4 for one node through distributions of sizes.
fn check(memory_bytes: usize, cores: u16, history: &[Sizes], seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut shards = Shards::new(memory_bytes, cores);
    let segment_bytes = shards.arena.segment_bytes() as u64;
    for (place, &sizes) in history.iter().enumerate() {
        let name = format!("{} MB, {cores} cores, {} as number {place}, seed {seed}", memory_bytes >> 20, sizes.0);
        let held = shards.fill(sizes, 2.5, &mut random, &name);
        assert!(memory_bytes / usize::from(cores) < LEAST_BYTES_PER_CORE || held >= 0.9, "{name}: {held:.3} are held");
        assert!(shards.worst_judged <= JUDGED_SEGMENTS_MAX * segment_bytes / 32, "{name}: {} records", shards.worst_judged);
        assert!(shards.worst_moved_bytes <= MOVED_SEGMENTS_MAX * segment_bytes, "{name}: {} B", shards.worst_moved_bytes);
    }
    let Shards { engines, arena, .. } = shards;
    drop(engines);
    assert_eq!(arena.used_bytes(), 0, "memory is not given back");
}

fn seed() -> u64 {
    std::env::var("PBCACHE_SEED").map_or(1, |text| text.parse().unwrap())
}

fn thorough() -> bool {
    std::env::var("PBCACHE_LAWS").is_ok_and(|value| value == "all")
}

#[test]
fn every_distribution_fits_one_core() {
    let memories: &[usize] = if thorough() { &[1, 2, 8, 16, 64, 500] } else { &[1, 8] };
    for &memory_mb in memories {
        SIZES.iter().for_each(|&sizes| check(memory_mb << 20, 1, &[sizes], seed()));
    }
}

#[test]
fn every_distribution_fits_several_cores() {
    let nodes: &[(usize, u16)] =
        if thorough() { &[(8, 2), (8, 8), (32, 4), (64, 2), (64, 64), (100, 8), (200, 4)] } else { &[(8, 8), (16, 2)] };
    for &(memory_mb, cores) in nodes {
        SIZES.iter().for_each(|&sizes| check(memory_mb << 20, cores, &[sizes], seed()));
    }
}

#[test]
fn any_distribution_may_follow_any_other() {
    let histories: u64 = if thorough() { 40 } else { 3 };
    for number in 0..histories {
        let mut random = Random((seed() + number).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        let history: Vec<Sizes> = (0..5).map(|_| random.pick(SIZES)).collect();
        let (memory_mb, cores) = random.pick(&[(8, 1), (2, 1), (16, 2), (4, 4)]);
        check(memory_mb << 20, cores, &history, seed() + number);
    }
    check(8 << 20, 1, &[SMALL, MIDDLE, LONG, SMALL, LONG, TINY], seed());
}

/// Law 5 in small; traces and larger memories are a bench (`benches/against_lru.rs`).
#[test]
fn misses_are_not_above_those_of_an_lru_with_as_many_bytes() {
    let worse: Vec<String> = lookaside::synthetic(8 << 20, if thorough() { 1_000_000 } else { 100_000 })
        .iter()
        .map(|trace| (&trace.name, misses(trace)))
        .filter(|(_, (ours, lru))| *ours as f64 > *lru as f64 * 1.02)
        .map(|(name, (ours, lru))| format!("{name}: {ours} misses, an LRU {lru}"))
        .collect();
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

/// Misses of one core, and of an LRU that holds as many bytes as it did in the second half.
fn misses(trace: &Trace) -> (u64, u64) {
    let (mut cache, mut held) = (lookaside::Cache::new(trace.memory_bytes), Vec::new());
    let half = trace.requests.len() / 2;
    let ours = count(trace, |number, object, length| {
        let missed = cache.request(object, length);
        if number >= half && number % 256 == 0 {
            held.push(cache.held_bytes());
        }
        missed
    });
    let mut lru = Lru::new(held.iter().sum::<usize>() / held.len());
    (ours, count(trace, |_, object, length| lru.request(object, length)))
}

/// Misses after a tenth of the requests.
fn count(trace: &Trace, mut request: impl FnMut(usize, u64, usize) -> bool) -> u64 {
    let mut misses = 0;
    for (number, &(object, length)) in trace.requests.iter().enumerate() {
        let missed = request(number, object, length as usize);
        misses += u64::from(missed && number >= trace.requests.len() / 10);
    }
    misses
}

/// Turns of all cores that a store may wait: what it needs of others is given in slices.
const TICKS_MAX: usize = 20_000;
/// Below, segments that are open or kept free are too much of the memory.
const LEAST_BYTES_PER_CORE: usize = 8 << 20;
/// One call looks at no more records than this many segments hold,
const JUDGED_SEGMENTS_MAX: u64 = 8;
/// and moves no more bytes than that many.
const MOVED_SEGMENTS_MAX: u64 = 8;

/// A value about to be received finds room in the same turn once memory is full, unless it is very long.
#[test]
fn a_large_value_need_not_wait_for_a_tick() {
    let mut shards = Shards::new(8 << 20, 1);
    shards.fill(LONG, 1.5, &mut Random(7), "8 MB");
    for length in [17_000, 96 << 10, 200_000, limits::MADE_SPACE_BYTES_MAX] {
        let body = Body::lease(&shards.arena, length).or_else(|| {
            assert!(shards.engines[0].make_space(length, shards.now), "{length} B");
            Body::lease(&shards.arena, length)
        });
        assert!(body.is_some(), "{length} B");
        shards.fill(LONG, 0.5, &mut Random(7), "8 MB");
    }
    assert!(!shards.engines[0].make_space(limits::MADE_SPACE_BYTES_MAX + 1, shards.now));
    shards.engines[0].verify();
}
