//! Look-aside workloads: which key is asked for next, how long its value is and how long it lives.
//!
//! Lives here: what `hit_ratio`, `beside` and `traces` have in common. `cache.rs` is who answers if not a process.

#[path = "../../tests/random/mod.rs"]
pub mod random;
pub mod zipf;

pub use random::Random;
pub use zipf::Zipf;

/// Longer values, of which the published ones have a few, are cut: the largest item is 1 MiB.
pub const VALUE_BYTES_MAX: usize = 1 << 19;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub keys: usize,
    pub exponent: f64,
    pub value_bytes: usize,
    pub memory_bytes: usize,
    /// Shares of exptimes in seconds.
    pub ttls: &'static [(f64, i64)],
    /// Requests a second of the engine's clock; 0: the clock stands.
    pub rate: u64,
    /// Values of these lengths instead, each key its own.
    pub sizes: Option<&'static Sizes>,
    /// What memcached 1.6.18 misses, or a simulation of its rule where the clock is simulated.
    pub anchor: f64,
}

/// How long values are: ranges and the sums of their weights.
pub struct Sizes {
    ends: Vec<u64>,
    sums: Vec<u64>,
}

impl Sizes {
    /// From a file of Meta's: the ends of ranges, and how often each occurs.
    pub fn read(folder: &str, name: &str) -> Self {
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
    pub fn of(&self, key: u64) -> usize {
        let mut random = Random(key * 2 + 0x7654_3211);
        random.next();
        let at = random.next() % self.sums[self.sums.len() - 1];
        let range = self.sums.partition_point(|&sum| sum <= at);
        let start = if range == 0 { 1 } else { self.ends[range - 1] + 1 };
        (start + random.next() % (self.ends[range] - start + 1)) as usize
    }
}

impl Workload {
    /// The time to live of a key's values, in seconds, 0 for ever. It belongs to the key.
    pub fn ttl(&self, key: u64) -> i64 {
        let mut left = Random(key * 2 + 0x1234_5677).next() as f64 / u64::MAX as f64;
        for &(share, ttl) in self.ttls {
            left -= share;
            if left < 0.0 {
                return ttl;
            }
        }
        self.ttls.last().map_or(0, |&(_, ttl)| ttl)
    }

    /// The length of a key's values.
    pub fn value_len(&self, key: u64) -> usize {
        self.sizes.map_or(self.value_bytes, |sizes| sizes.of(key).min(VALUE_BYTES_MAX))
    }

    /// Which key comes next.
    pub fn zipf(&self) -> Zipf {
        Zipf::new(self.keys, self.exponent)
    }
}

/// All of them, with a hundredth of the keys if `small`. Those with Meta's sizes only where `PBCACHE_DATA` names a folder.
pub fn workloads(small: bool) -> Vec<Workload> {
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
    let mix_a = &[(0.39, 60), (0.24, 300), (0.14, 3600), (0.12, 600), (0.08, 14_400), (0.03, 86_400)];
    let mix = Workload { keys: keys(2_000_000), exponent: 0.9, value_bytes: 200, rate: 10_000, ..plain };
    let mut all = vec![
        plain,
        Workload { name: "zipf 1.0, 32 B, 64 MiB", exponent: 1.0, value_bytes: 32, anchor: 0.1907, ..plain },
        Workload { name: "TTL mix A, zipf 0.9, 200 B", ttls: mix_a, anchor: 0.3564, ..mix },
        Workload { name: "TTL mix B, zipf 0.9, 200 B", ttls: &[(0.5, 20), (0.5, 86_400)], anchor: 0.4049, ..mix },
    ];
    let Ok(folder) = std::env::var("PBCACHE_DATA") else {
        println!("PBCACHE_DATA is not set: no rows with Meta's sizes");
        return all;
    };
    let sizes = |name| Some(&*Box::leak(Box::new(Sizes::read(&folder, name))));
    let kvcache = Workload { name: "kvcache sizes, 64 MiB", sizes: sizes("kvcache_reg"), anchor: 0.3291, ..plain };
    let large = Workload { name: "kvcache sizes, 256 MiB", keys: keys(20_000_000), memory_bytes: 256 << 20, ..kvcache };
    let fbobj = Workload { sizes: sizes("graph_cache_leader_fbobj"), keys: keys(2_000_000), exponent: 0.8, ..plain };
    let assocs = Workload { sizes: sizes("graph_cache_leader_assocs"), anchor: f64::NAN, ..plain };
    all.extend([
        kvcache,
        Workload { anchor: 0.2935, ..large },
        Workload { name: "fbobj sizes, zipf 0.8", anchor: 0.5493, ..fbobj },
        Workload { name: "assocs sizes", ..assocs },
    ]);
    all
}
