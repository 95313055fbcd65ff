//! Which share of reads misses beside an LRU that holds as many bytes, whatever the sizes?
//!
//! Unit: misses per read after the first tenth of the requests, each miss followed by a set. The LRU evicts item by item, wastes nothing,
//! and holds as many bytes as the engine held on average in its second half. The worst call of each row is told in records looked at and
//! bytes moved.
//!
//! Synthetic traces at 16 and 64 MiB; `PBCACHE_DATA` names a folder with `orm-busy.trace.xz`, `orm-night.trace.xz`, `web07.trace.xz`
//! (cache2k's, as kept by the caffeine project's simulator; needs `xz`), which are replayed with several sizes of values where 3, 10 and
//! 30 % of all bytes fit. `PBCACHE_REQUESTS` (1,000,000) is the length of the synthetic ones.
//!
//! Would change our mind about eviction by segment: a row above 1.02.

#[path = "../tests/lookaside/mod.rs"]
mod lookaside;
#[path = "../tests/random/mod.rs"]
mod random;

use std::process::Command as Process;

use lookaside::{Cache, Lru, Trace};

/// A name and the length of an object's value.
type Lengths = (&'static str, fn(u64) -> u32);

const LENGTHS: &[Lengths] = &[
    ("100 B", |_| 100),
    ("500 B", |_| 500),
    ("24 to 25 KB", |object| 24_000 + lookaside::mixed_length(object) % 1000),
    ("100 B to 100 KB", lookaside::mixed_length),
];

/// A trace of cache2k's: numbers of 4 bytes, the highest first.
fn read(folder: &str, name: &str) -> Vec<u64> {
    let path = format!("{folder}/{name}.trace.xz");
    let output = Process::new("xz").args(["--decompress", "--stdout", &path]).output().expect("xz can be run");
    assert!(output.status.success() && !output.stdout.is_empty(), "{path} cannot be read");
    output.stdout.as_chunks::<4>().0.iter().map(|number| u64::from(u32::from_be_bytes(*number))).collect()
}

/// The traces of a folder, with each of the lengths and memories.
fn recorded(folder: &str, mut visit: impl FnMut(&Trace)) {
    for name in ["orm-busy", "orm-night", "web07"] {
        let objects = read(folder, name);
        let mut distinct = objects.clone();
        distinct.sort_unstable();
        distinct.dedup();
        for (lengths, length_of) in LENGTHS {
            let all_bytes: usize = distinct.iter().map(|&object| length_of(object) as usize + 46).sum();
            for percent in [3, 10, 30] {
                let memory_bytes = all_bytes * percent / 100;
                if !(8 << 20..1 << 30).contains(&memory_bytes) {
                    continue;
                }
                visit(&Trace {
                    name: format!("{name}, {lengths}, {percent} % fit"),
                    memory_bytes,
                    requests: objects.iter().map(|&object| (object, length_of(object))).collect(),
                });
            }
        }
    }
}

fn measure(trace: &Trace) {
    let (start, half) = (trace.requests.len() / 10, trace.requests.len() / 2);
    let mut cache = Cache::new(trace.memory_bytes);
    let (mut ours, mut theirs, mut held_bytes, mut looks, mut judged, mut moved_bytes) = (0u64, 0u64, 0usize, 0, 0, 0);
    for (number, &(object, length)) in trace.requests.iter().enumerate() {
        let before = cache.engine.statistics();
        let missed = cache.request(object, length as usize);
        let after = cache.engine.statistics();
        (judged, moved_bytes) =
            (judged.max(after.judged - before.judged), moved_bytes.max(after.moved_bytes - before.moved_bytes));
        ours += u64::from(missed && number >= start);
        if number >= half && number % 64 == 0 {
            (held_bytes, looks) = (held_bytes + cache.held_bytes(), looks + 1);
        }
    }
    let mut lru = Lru::new(held_bytes / looks.max(1));
    for (number, &(object, length)) in trace.requests.iter().enumerate() {
        let missed = lru.request(object, length as usize);
        theirs += u64::from(missed && number >= start);
    }
    let reads = (trace.requests.len() - start) as f64;
    let ratio = if theirs == 0 { 1.0 } else { ours as f64 / theirs as f64 };
    println!(
        "{:40} {:5} MiB   misses {:.4}, LRU {:.4}, ratio {ratio:.3}{}   held {:.3}, worst call {judged} records, {moved_bytes} B",
        trace.name,
        trace.memory_bytes >> 20,
        ours as f64 / reads,
        theirs as f64 / reads,
        if ratio > 1.02 { " !" } else { "  " },
        held_bytes as f64 / looks.max(1) as f64 / trace.memory_bytes as f64,
    );
}

fn main() {
    let real = std::env::args().any(|argument| argument == "--bench");
    let requests =
        std::env::var("PBCACHE_REQUESTS").map_or(1_000_000, |text| text.parse().expect("PBCACHE_REQUESTS is a number"));
    if !real {
        return lookaside::synthetic(1 << 20, 2000).iter().take(3).for_each(measure);
    }
    for memory_mb in [16, 64] {
        lookaside::synthetic(memory_mb << 20, requests).iter().for_each(measure);
    }
    match std::env::var("PBCACHE_DATA") {
        Ok(folder) => recorded(&folder, measure),
        Err(_) => println!("PBCACHE_DATA is not set: no recorded traces"),
    }
}
