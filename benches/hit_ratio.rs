//! Which share of look-aside reads misses, at a given memory, and how many items does it hold?
//!
//! Unit: misses per read in the second half of the requests. Each miss is followed by a set of the same key. Workloads are those of
//! the reference runs against memcached 1.6.18 at equal process memory (64 MiB), whose miss ratios stand beside ours; TTL mixes
//! advance the clock by 10,000 requests a second. `PBCACHE_REQUESTS` (6,000,000). `PBCACHE_DATA` names a folder with Meta's published sizes
//! of values (`meta-*-sizes.json`, from the CacheLib repository); without it, the rows that need them are left out.
//!
//! Would change our mind about S3-FIFO by segment: a ratio above .89 of memcached's (zipf 0.99), .86 (zipf 1.0, 32 B), .93 and .90
//! for the mixes; a size shift that costs more than 1.05 of a fresh start.

#![allow(clippy::disallowed_methods)] // a bench looks at the clock

use std::time::Duration;

use pbcache::arena::Arena;
use pbcache::command::{Command, Get, Reply, Store, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::time::{Exptime, Instant};

/// Longer values, of which the published ones have a few, are cut: the largest item is 1 MiB.
const VALUE_BYTES_MAX: usize = 1 << 19;

const START: Instant = Instant::from_seconds(1_700_000_000);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks by the law of Zipf, from the table of sums.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Self { sums: sums.collect() }
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let at = random.unit() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|&sum| sum < at) as u64
    }
}

#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    keys: usize,
    exponent: f64,
    value_bytes: usize,
    memory_bytes: usize,
    /// Shares of exptimes in seconds.
    ttls: &'static [(f64, i64)],
    /// Requests a second of the engine's clock; 0: the clock stands.
    rate: u64,
    /// Values of these lengths instead, each key its own.
    sizes: Option<&'static Sizes>,
    /// What memcached 1.6.18 misses, or a simulation of its rule where the clock is simulated.
    anchor: f64,
}

/// How long values are: ranges and the sums of their weights.
struct Sizes {
    ends: Vec<u64>,
    sums: Vec<u64>,
}

impl Sizes {
    /// From a file of Meta's: the ends of ranges, and how often each occurs.
    fn read(folder: &str, name: &str) -> Self {
        let path = format!("{folder}/meta-{name}-sizes.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let table: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let numbers = |name: &str| -> Vec<u64> {
            table[name].as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number") as u64).collect()
        };
        let mut sum = 0;
        let sums = numbers("valSizeRangeProbability").into_iter().map(|weight| {
            sum += weight;
            sum
        });
        Self { sums: sums.collect(), ends: numbers("valSizeRange") }
    }

    /// The length of a key's value.
    fn of(&self, key: u64) -> usize {
        let mut random = Random(key * 2 + 0x7654_3211);
        random.next();
        let at = random.next() % self.sums[self.sums.len() - 1];
        let range = self.sums.partition_point(|&sum| sum <= at);
        let start = if range == 0 { 1 } else { self.ends[range - 1] + 1 };
        (start + random.next() % (self.ends[range] - start + 1)) as usize
    }
}

struct Cache {
    engine: Engine,
    now: Instant,
}

impl Cache {
    fn new(memory_bytes: usize) -> Self {
        let arena = Arena::new(memory_bytes, memory_bytes, 1).unwrap();
        let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
        Self { engine: Engine::with_secret(options, arena, [1, 2]), now: START }
    }

    /// A read, and a set if it misses. Whether it missed.
    fn request(&mut self, number: u64, value: &[u8], exptime: Exptime) -> bool {
        let mut key = *b"key:000000000000";
        let mut rest = number;
        for digit in key[4..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let key = Key::new(&key);
        let get = Command { key, verb: Verb::Get(Get::default()), value: Value::EMPTY };
        if let Reply::Item(_) = self.engine.execute(&get, self.now) {
            return false;
        }
        let verb = Verb::Store(Store { exptime, ..Store::default() });
        let set = Command { key, verb, value: Value::Bytes(value) };
        assert!(matches!(self.engine.execute(&set, self.now), Reply::Stored(_)));
        true
    }
}

fn exptime_of(random: f64, ttls: &[(f64, i64)]) -> Exptime {
    let mut left = random;
    for &(share, ttl) in ttls {
        left -= share;
        if left < 0.0 {
            return Exptime(ttl);
        }
    }
    Exptime(ttls.last().map_or(0, |&(_, ttl)| ttl))
}

fn run(workload: &Workload, requests: u64) {
    let zipf = Zipf::new(workload.keys, workload.exponent);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cache = Cache::new(workload.memory_bytes);
    let value = vec![b'v'; workload.value_bytes.max(if workload.sizes.is_some() { VALUE_BYTES_MAX } else { 0 })];
    let mut misses = 0u64;
    let mut dead_worst = 0f64;
    for number in 0..requests {
        let key = zipf.rank(&mut random);
        // The TTL belongs to the key.
        let share = Random(key * 2 + 0x1234_5677).next() as f64 / u64::MAX as f64;
        let bytes = workload.sizes.map_or(workload.value_bytes, |sizes| sizes.of(key).min(VALUE_BYTES_MAX));
        let missed = cache.request(key, &value[..bytes], exptime_of(share, workload.ttls));
        misses += u64::from(missed && number >= requests / 2);
        if number % 16 == 0 {
            cache.engine.tick(cache.now, 64);
        }
        cache.now = START.plus_ms((number * 1000).checked_div(workload.rate).unwrap_or(0));
        if workload.rate > 0 && number % (requests / 8) == requests / 8 - 1 && number > requests / 2 {
            dead_worst = dead_worst.max(dead_share(&mut cache));
        }
    }
    let held = cache.engine.statistics();
    let ratio = misses as f64 / (requests - requests / 2) as f64;
    println!(
        "{:26} miss {ratio:.4}  memcached {:.4}  ratio {:.3}   {} items, index {:.1} B, live/segments {:.3}, dead {:.3}",
        workload.name,
        workload.anchor,
        ratio / workload.anchor,
        held.items_count,
        held.index_bytes as f64 / held.items_count as f64,
        held.item_bytes as f64 / held.segment_bytes as f64,
        dead_worst
    );
}

/// Share of the items that are expired and still there.
fn dead_share(cache: &mut Cache) -> f64 {
    let (mut readable, mut cursor) = (0u64, Some(Default::default()));
    while let Some(from) = cursor {
        cursor = cache.engine.walk(from, cache.now, 10_000, &mut |_| readable += 1);
    }
    1.0 - readable as f64 / cache.engine.statistics().items_count as f64
}

/// 100-byte values become 400-byte values; against a cache that has seen only the latter.
fn size_shift(requests: u64) {
    let zipf = Zipf::new(1_000_000, 0.99);
    let mut ratios = Vec::new();
    for shifts in [false, true] {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut cache = Cache::new(64 << 20);
        let (mut misses, mut counted, mut written) = (0u64, 0u64, 0usize);
        for number in 0..requests * 3 / 2 {
            let shifted = !shifts || number >= requests / 2;
            let value = [b'v'; 400];
            let value = if shifted { &value[..] } else { &value[..100] };
            let key = zipf.rank(&mut random) + if shifted { 10_000_000 } else { 0 };
            let missed = cache.request(key, value, Exptime(0));
            if shifted {
                written += if missed { 450 } else { 0 };
                if written > 64 << 20 {
                    misses += u64::from(missed);
                    counted += 1;
                }
            }
            if counted == requests / 2 {
                break;
            }
            if number % 16 == 0 {
                cache.engine.tick(cache.now, 64);
            }
        }
        ratios.push(misses as f64 / counted.max(1) as f64);
    }
    println!(
        "size shift 100 -> 400 B       fresh {:.4}, shifted {:.4}, ratio {:.3}",
        ratios[0],
        ratios[1],
        ratios[1] / ratios[0]
    );
}

fn main() {
    let requests = match std::env::var("PBCACHE_REQUESTS") {
        Ok(text) => text.parse().expect("PBCACHE_REQUESTS is a number"),
        Err(_) if std::env::args().any(|argument| argument == "--bench") => 6_000_000u64,
        Err(_) => 20_000,
    };
    let small = requests < 1_000_000;
    let keys = |count: usize| if small { count / 100 } else { count };
    let plain = Workload {
        name: "zipf 0.99, 100 B, 64 MiB",
        keys: keys(5_000_000),
        exponent: 0.99,
        value_bytes: 100,
        memory_bytes: 64 << 20,
        ttls: &[],
        rate: 0,
        sizes: None,
        anchor: 0.2345,
    };
    let started = std::time::Instant::now();
    run(&plain, requests);
    run(&Workload { name: "zipf 1.0, 32 B, 64 MiB", exponent: 1.0, value_bytes: 32, anchor: 0.1907, ..plain }, requests);
    let mix_a = &[(0.39, 60), (0.24, 300), (0.14, 3600), (0.12, 600), (0.08, 14_400), (0.03, 86_400)];
    let mix = Workload { keys: keys(2_000_000), exponent: 0.9, value_bytes: 200, rate: 10_000, ..plain };
    run(&Workload { name: "TTL mix A, zipf 0.9, 200 B", ttls: mix_a, anchor: 0.3564, ..mix }, requests);
    run(&Workload { name: "TTL mix B, zipf 0.9, 200 B", ttls: &[(0.5, 20), (0.5, 86_400)], anchor: 0.4049, ..mix }, requests);
    size_shift(requests);
    match std::env::var("PBCACHE_DATA") {
        Err(_) => println!("PBCACHE_DATA is not set: no rows with Meta's sizes"),
        Ok(folder) => {
            let sizes = |name| Some(&*Box::leak(Box::new(Sizes::read(&folder, name))));
            let kvcache = Workload { name: "kvcache sizes, 64 MiB", sizes: sizes("kvcache_reg"), anchor: 0.3291, ..plain };
            run(&kvcache, requests);
            let large = Workload { name: "kvcache sizes, 256 MiB", keys: keys(20_000_000), memory_bytes: 256 << 20, ..kvcache };
            run(&Workload { anchor: 0.2935, ..large }, requests);
            let fbobj = sizes("graph_cache_leader_fbobj");
            let fbobj = Workload { name: "fbobj sizes, zipf 0.8", keys: keys(2_000_000), exponent: 0.8, sizes: fbobj, ..plain };
            run(&Workload { anchor: 0.5493, ..fbobj }, requests);
            let assocs = sizes("graph_cache_leader_assocs");
            run(&Workload { name: "assocs sizes, no anchor", sizes: assocs, anchor: f64::NAN, ..plain }, requests);
        }
    }
    assert!(started.elapsed() < Duration::from_secs(3600));
}
