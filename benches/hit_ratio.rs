//! Which share of look-aside reads misses, at a given memory, and how many items does it hold?
//!
//! Unit: misses per read in the second half of the requests. Each miss is followed by a set of the same key. Workloads are those of
//! the reference runs against memcached 1.6.18 at equal process memory (64 MiB), whose miss ratios stand beside ours; TTL mixes
//! advance the clock by 10,000 requests a second. `PBCACHE_REQUESTS` (6,000,000). `PBCACHE_DATA` names a folder with Meta's
//! published sizes of values (`meta-*-sizes.json`, from the CacheLib repository); without it, the rows that need them are left out.
//!
//! Would change our mind about S3-FIFO by segment: a ratio above .89 of memcached's (zipf 0.99), .86 (zipf 1.0, 32 B), .93 and .90
//! for the mixes; a size shift that costs more than 1.05 of a fresh start.

#![allow(clippy::disallowed_methods)] // a bench looks at the clock

#[path = "lookaside/cache.rs"]
mod cache;
mod lookaside;

use std::time::Duration;

use cache::{Cache, START};
use lookaside::{Random, VALUE_BYTES_MAX, Workload, Zipf};
use pbcache::time::Exptime;

fn run(workload: &Workload, requests: u64) {
    let zipf = workload.zipf();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cache = Cache::new(workload.memory_bytes);
    let value = vec![b'v'; VALUE_BYTES_MAX];
    let mut misses = 0u64;
    let mut dead_worst = 0f64;
    for number in 0..requests {
        let key = zipf.rank(&mut random);
        let missed = cache.request(key, &value[..workload.value_len(key)], Exptime(workload.ttl(key)));
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

/// Three of ten requests store a value of another length over a key that is probably there: how much of the memory is alive then?
fn overwrites(requests: u64) {
    let zipf = Zipf::new(1_000_000, 0.99);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cache = Cache::new(64 << 20);
    let value = [b'v'; 400];
    let (mut least, mut sum, mut looks) = (1f64, 0.0, 0u32);
    for number in 0..requests {
        let key = zipf.rank(&mut random);
        let length = 50 + (random.next() % 350) as usize;
        match random.next() % 10 {
            0..3 => cache.store(key, &value[..length], Exptime(0)),
            _ => _ = cache.request(key, &value[..length], Exptime(0)),
        }
        if number % 16 == 0 {
            cache.engine.tick(cache.now, 64);
        }
        if number > requests / 2 && number % (requests / 64).max(1) == 0 {
            let held = cache.engine.statistics();
            let live = held.item_bytes as f64 / held.segment_bytes as f64;
            (least, sum, looks) = (least.min(live), sum + live, looks + 1);
        }
    }
    println!(
        "30 % overwrites, 50 to 399 B  live/segments {:.3} on average, {least:.3} at least",
        sum / f64::from(looks.max(1))
    );
}

fn main() {
    let requests = match std::env::var("PBCACHE_REQUESTS") {
        Ok(text) => text.parse().expect("PBCACHE_REQUESTS is a number"),
        Err(_) if std::env::args().any(|argument| argument == "--bench") => 6_000_000u64,
        Err(_) => 20_000,
    };
    let started = std::time::Instant::now();
    for workload in lookaside::workloads(requests < 1_000_000) {
        run(&workload, requests);
    }
    size_shift(requests);
    overwrites(requests);
    assert!(started.elapsed() < Duration::from_secs(3600));
}
