//! Caches that look aside: an engine and a plain LRU, and what is asked of them.
//!
//! Lives here: the two caches, traces that are made. Not here: what is measured or asserted.
#![allow(dead_code)] // each test uses a part

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pbcache::arena::{Arena, Body};
use pbcache::command::{Command, Get, Reply, Store, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::limits;
use pbcache::time::Timestamp;

use crate::random::Random;

/// An engine behind which the data lies: what it misses is stored.
pub struct Cache {
    pub arena: Arc<Arena>,
    pub engine: Engine,
    pub now: Timestamp,
    bytes: Vec<u8>,
    requests: u64,
}

impl Cache {
    pub fn new(memory_bytes: usize) -> Self {
        let arena = Arena::new(memory_bytes, memory_bytes, 1).expect("memory");
        let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
        Self {
            engine: Engine::with_secret(options, arena.clone(), [1, 2]),
            arena,
            now: Timestamp::from_seconds(1_700_000_000),
            bytes: vec![b'v'; 1 << 20],
            requests: 0,
        }
    }

    /// A read, and a set if it misses or finds another length. Whether it did. A tick now and then; 10,000 requests are a second.
    pub fn request(&mut self, object: u64, length: usize) -> bool {
        self.requests += 1;
        if self.requests.is_multiple_of(16) {
            self.now = Timestamp { unix_ms: 1_700_000_000_000 + self.requests / 10 };
            self.engine.tick(self.now, 64);
        }
        let name = name_of(object);
        let get = Command { key: Key::new(&name), verb: Verb::Get(Get::default()), value: Value::EMPTY };
        if let Reply::Item(item) = self.engine.execute(&get, self.now)
            && item.value.len() == length
        {
            return false;
        }
        self.store(&name, length);
        true
    }

    /// Bytes of items and of their index.
    pub fn held_bytes(&self) -> usize {
        let held = self.engine.statistics();
        (held.item_bytes + held.index_bytes) as usize
    }

    fn store(&mut self, name: &[u8], length: usize) {
        let mut body = None;
        while length > limits::INLINE_VALUE_BYTES_MAX && body.is_none() {
            body = Body::lease(&self.arena, length).map(Arc::new);
            if body.is_none() {
                self.arena.want(length + self.arena.segment_bytes());
                self.engine.tick(self.now, 64);
            }
        }
        let value = body.as_ref().map_or(Value::Bytes(&self.bytes[..length]), Value::Body);
        let set = Command { key: Key::new(name), verb: Verb::Store(Store::default()), value };
        while !matches!(self.engine.execute(&set, self.now), Reply::Stored(_)) {
            self.engine.tick(self.now, 64);
        }
    }
}

/// The least recently used goes, item by item, and no byte is wasted: each item costs what its record and its place in the index do.
pub struct Lru {
    capacity_bytes: usize,
    used_bytes: usize,
    clock: u64,
    /// Last use and cost.
    items: HashMap<(u64, usize), (u64, usize)>,
    /// By last use.
    order: BTreeMap<u64, (u64, usize)>,
}

impl Lru {
    pub fn new(capacity_bytes: usize) -> Self {
        Self { capacity_bytes, used_bytes: 0, clock: 0, items: HashMap::new(), order: BTreeMap::new() }
    }

    /// As `Cache::request`. Two lengths of one object count as two objects.
    pub fn request(&mut self, object: u64, length: usize) -> bool {
        self.clock += 1;
        let name = (object, length);
        if let Some((used, _)) = self.items.get_mut(&name) {
            self.order.remove(&std::mem::replace(used, self.clock));
            self.order.insert(self.clock, name);
            return false;
        }
        let cost_bytes = length + KEY_BYTES + OVERHEAD_BYTES;
        while self.used_bytes + cost_bytes > self.capacity_bytes {
            let Some((_, oldest)) = self.order.pop_first() else { return true };
            self.used_bytes -= self.items.remove(&oldest).map_or(0, |(_, cost_bytes)| cost_bytes);
        }
        self.used_bytes += cost_bytes;
        self.items.insert(name, (self.clock, cost_bytes));
        self.order.insert(self.clock, name);
        true
    }
}

/// A name, and objects with the lengths of their values in the order of the requests.
pub struct Trace {
    pub name: String,
    pub memory_bytes: usize,
    pub requests: Vec<(u64, u32)>,
}

/// Ranks by the law of Zipf, from the table of sums.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(objects: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=objects).map(|rank| {
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

/// A length that the object determines, log-uniform from 100 B to 100 KB.
pub fn mixed_length(object: u64) -> u32 {
    let unit = (mixed(object) >> 11) as f64 / (1u64 << 53) as f64;
    (100.0 * 1000f64.powf(unit)) as u32
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number = (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ number >> 33
}

/// A name, and the length of an object's value by its rank.
type Lengths = (&'static str, fn(u64) -> u32);

const LENGTHS: &[Lengths] = &[
    ("100 B", |_| 100),
    ("1 KB", |_| 1000),
    ("100 B to 100 KB", mixed_length),
    ("popular ones small", |rank| (100 + rank * 10).min(100_000) as u32),
    ("popular ones large", |rank| (100_000 / (1 + rank / 16)).max(100) as u32),
];

/// Zipf with sizes independent of and correlated with popularity, scans, loops, sizes that shift: about `requests` each.
pub fn synthetic(memory_bytes: usize, requests: usize) -> Vec<Trace> {
    let mut traces = Vec::new();
    let mut add = |name: String, requests: Vec<(u64, u32)>| traces.push(Trace { name, memory_bytes, requests });
    for &(lengths, length_of) in LENGTHS {
        let objects = objects_for(memory_bytes, 8.0, length_of);
        for exponent in [0.7, 0.99, 1.1] {
            add(format!("zipf {exponent}, {lengths}"), zipf(objects, exponent, requests, 1, length_of));
        }
    }
    for (lengths, length_of) in [LENGTHS[0], LENGTHS[2]] {
        for times in [0.9, 1.05, 1.5] {
            let objects = objects_for(memory_bytes, times, length_of) as u64;
            let requests = requests as u64;
            add(
                format!("loop over {times}, {lengths}"),
                (0..requests).map(|at| (at % objects, length_of(at % objects))).collect(),
            );
        }
        add(format!("scans, {lengths}"), scans(objects_for(memory_bytes, 5.0, length_of), requests, length_of));
    }
    for exponent in [0.8, 0.99] {
        add(format!("100 B, 500 B, 50 KB, 100 B, zipf {exponent}"), shifts(memory_bytes, exponent, requests));
    }
    traces
}

/// How many objects take `times` the memory.
fn objects_for(memory_bytes: usize, times: f64, length_of: fn(u64) -> u32) -> usize {
    let wanted_bytes = memory_bytes as f64 * times;
    let mut bytes = 0.0;
    (0..)
        .take_while(|&rank| {
            bytes += (length_of(rank) as usize + KEY_BYTES + OVERHEAD_BYTES) as f64;
            bytes < wanted_bytes
        })
        .count()
}

fn zipf(objects: usize, exponent: f64, requests: usize, seed: u64, length_of: fn(u64) -> u32) -> Vec<(u64, u32)> {
    let (zipf, mut random) = (Zipf::new(objects, exponent), Random(0x9e37_79b9_7f4a_7c15 ^ seed));
    (0..requests).map(|_| zipf.rank(&mut random)).map(|rank| (rank, length_of(rank))).collect()
}

/// Now and then, as many objects in a row as a tenth of the others, which nobody asks for again.
fn scans(objects: usize, requests: usize, length_of: fn(u64) -> u32) -> Vec<(u64, u32)> {
    let mut asked = Vec::new();
    let mut fresh = 1u64 << 32;
    for seed in 0.. {
        asked.extend(zipf(objects, 0.99, objects / 2, seed, length_of));
        asked.extend((fresh..).take(objects / 10).map(|object| (object, length_of(object))));
        fresh += objects as u64;
        if asked.len() >= requests {
            break;
        }
    }
    asked
}

fn shifts(memory_bytes: usize, exponent: f64, requests: usize) -> Vec<(u64, u32)> {
    let mut asked = Vec::new();
    for (phase, length_of) in [(|_| 100) as fn(u64) -> u32, |_| 500, |_| 50_000, |_| 100].into_iter().enumerate() {
        let objects = objects_for(memory_bytes, 5.0, length_of);
        let requests = (requests / 4).max(4 * objects);
        let phase = phase as u64;
        asked.extend(
            zipf(objects, exponent, requests, phase, length_of).into_iter().map(|(rank, length)| (phase << 32 | rank, length)),
        );
    }
    asked
}

/// The key of an object: 16 bytes.
fn name_of(object: u64) -> [u8; KEY_BYTES] {
    let mut name = *b"key:000000000000";
    let mut number = object;
    for digit in name[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    name
}

const KEY_BYTES: usize = 16;
/// Header and index.
const OVERHEAD_BYTES: usize = 30;
