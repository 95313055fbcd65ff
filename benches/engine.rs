//! What does a command cost in the engine, alone and in prefetched batches, warm and cold?
//!
//! Unit: nanoseconds of CPU time per command, best of the rounds; bytes per item. Workload: 16-byte keys, values of
//! `PBCACHE_VALUE` (100) bytes, `PBCACHE_ITEMS` (100,000) items, uniform and zipf 0.99 keys. *lone* = a fence behind each command, as
//! behind parsing and sending; *loop* = back to back, the CPU overlaps them; *batch* = `prepare` of 16 keys, then 16 commands,
//! then a fence. `set, evicting` = new keys in a full engine with a tick behind each batch; longest = p99.99 of single calls.
//!
//! Would change our mind: a lone get above 550 ns (uniform) or 320 ns (zipf) at 10 million items, a batch above 100 or 80 ns, an
//! evicting set above 220 ns, a call above 50 us, more than 34 B per item.

#![allow(clippy::disallowed_methods)] // a bench looks at the clock

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant as Clock;

use pbcache::arena::Arena;
use pbcache::command::{Command, Get, Reply, Store, Value, Verb};
use pbcache::engine::{Engine, Options};
use pbcache::key::Key;
use pbcache::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
const BATCH: usize = 16;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// CPU time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; the clock exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(target_arch = "x86_64")]
fn fence() {
    // SAFETY: a fence and a serialising read of the clock have no memory effects.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_mm_mfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fence() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Numbers below `items`, uniform or by the law of Zipf with exponent 0.99 (Gray's method), scattered over the range.
fn numbers(items: u64, count: usize, zipf: bool) -> Vec<u64> {
    let mut state = 88_172_645_463_325_252;
    if !zipf {
        return (0..count).map(|_| random(&mut state) % items).collect();
    }
    let theta = 0.99f64;
    let zeta = |n: u64| {
        let exact: f64 = (1..=n.min(1_000_000)).map(|i| (i as f64).powf(-theta)).sum();
        let rest = if n > 1_000_000 { ((n as f64).powf(1.0 - theta) - 1e6f64.powf(1.0 - theta)) / (1.0 - theta) } else { 0.0 };
        exact + rest
    };
    let (zetan, zeta2) = (zeta(items), zeta(2));
    let alpha = 1.0 / (1.0 - theta);
    let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta2 / zetan);
    let mut rank = || {
        let u = (random(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
        let uz = u * zetan;
        match uz {
            _ if uz < 1.0 => 0,
            _ if uz < 1.0 + 0.5f64.powf(theta) => 1,
            _ => ((items as f64) * (eta * u - eta + 1.0).powf(alpha)) as u64,
        }
    };
    (0..count).map(|_| (rank().min(items - 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % items).collect()
}

fn key_of(number: u64, key: &mut [u8; 16]) {
    key.copy_from_slice(b"key:000000000000");
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn set(engine: &mut Engine, number: u64, value: &[u8]) {
    let mut key = [0; 16];
    key_of(number, &mut key);
    let command = Command { key: Key::new(&key), verb: Verb::Store(Store::default()), value: Value::Bytes(value) };
    assert!(matches!(engine.execute(&command, NOW), Reply::Stored(_)));
}

/// One get; the value is copied out as `encode` does.
#[inline]
fn get(engine: &mut Engine, key: &Key<'_>, output: &mut [u8]) -> u64 {
    let command = Command { key: *key, verb: Verb::Get(Get::default()), value: Value::EMPTY };
    match engine.execute(&command, NOW) {
        Reply::Item(item) => match item.value {
            Value::Bytes(bytes) => {
                output[..bytes.len()].copy_from_slice(bytes);
                u64::from(output[0]) + bytes.len() as u64
            }
            _ => 0,
        },
        _ => 0,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Lone,
    Loop,
    Batch,
}

fn gets(engine: &mut Engine, keys: &[[u8; 16]], manner: Manner, value_bytes: usize) -> (f64, u64) {
    let mut output = vec![0u8; value_bytes + 1];
    let (mut best, mut sum) = (f64::MAX, 0);
    for _ in 0..3 {
        sum = 0;
        let start = cpu_ns();
        for chunk in keys.chunks_exact(BATCH) {
            let hashed: arrayvec::ArrayVec<Key<'_>, BATCH> = chunk.iter().map(|key| Key::new(key)).collect();
            if manner == Manner::Batch {
                engine.prepare(hashed.iter());
            }
            for key in &hashed {
                sum += get(engine, key, &mut output);
                if manner == Manner::Lone {
                    fence();
                }
            }
            if manner == Manner::Batch {
                fence();
            }
        }
        best = best.min((cpu_ns() - start) as f64 / keys.len() as f64);
    }
    black_box(&output);
    (best, sum)
}

fn sets(engine: &mut Engine, first: u64, count: u64, value: &[u8]) -> (f64, Vec<u32>) {
    let mut calls = Vec::with_capacity(count as usize * 2);
    let start = cpu_ns();
    let mut spent_on_clock = 0;
    for batch in 0..count / BATCH as u64 {
        let mut keys = [[0; 16]; BATCH];
        keys.iter_mut().enumerate().for_each(|(i, key)| key_of(first + batch * BATCH as u64 + i as u64, key));
        let hashed: arrayvec::ArrayVec<Key<'_>, BATCH> = keys.iter().map(|key| Key::new(key)).collect();
        engine.prepare(hashed.iter());
        for key in &hashed {
            let command = Command { key: *key, verb: Verb::Store(Store::default()), value: Value::Bytes(value) };
            let before = Clock::now();
            assert!(matches!(engine.execute(&command, NOW), Reply::Stored(_)));
            calls.push(before.elapsed().as_nanos() as u32);
        }
        let before = Clock::now();
        engine.tick(NOW, 64);
        calls.push(before.elapsed().as_nanos() as u32);
        spent_on_clock += BATCH as u64 + 1;
    }
    let spent = cpu_ns() - start;
    let per_clock = {
        let start = cpu_ns();
        (0..100_000).for_each(|_| _ = black_box(Clock::now().elapsed()));
        (cpu_ns() - start) as f64 / 100_000.0
    };
    calls.sort_unstable();
    ((spent as f64 - spent_on_clock as f64 * per_clock) / count as f64, calls)
}

fn main() {
    // `cargo test --benches` builds without optimisation and only wants to see it run.
    let small = cfg!(debug_assertions);
    let items = setting("PBCACHE_ITEMS", if small { 2000 } else { 100_000 });
    let value_bytes = setting("PBCACHE_VALUE", 100) as usize;
    let probes = if small { 4096 } else { 2_000_000 };
    let per_item = 18 + 16 + value_bytes + 4 + 16;
    let memory = (items as usize * per_item * 5 / 4).next_multiple_of(1 << 20) + (8 << 20);
    let arena = Arena::new(memory, memory, 1).unwrap();
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication: None };
    let mut engine = Engine::new(options, Arc::clone(&arena));
    let value = vec![b'v'; value_bytes];
    let start = cpu_ns();
    (0..items).for_each(|number| set(&mut engine, number, &value));
    println!("{items} items of 16 + {value_bytes} B, arena {} MiB", memory >> 20);
    println!("set, filling      {:7.1} ns", (cpu_ns() - start) as f64 / items as f64);
    let held = engine.statistics();
    assert_eq!(held.items_count, items);
    let overhead = (held.segment_bytes + held.index_bytes) as f64 / items as f64 - 16.0 - value_bytes as f64;
    let index = held.index_bytes as f64 / items as f64;
    println!("overhead          {overhead:7.1} B per item, of it index {index:.1}");
    for (name, zipf, offset) in [("uniform", false, 0), ("zipf .99", true, 0), ("miss", false, items)] {
        let keys: Vec<[u8; 16]> = numbers(items, probes, zipf)
            .into_iter()
            .map(|number| {
                let mut key = [0; 16];
                key_of(number + offset, &mut key);
                key
            })
            .collect();
        let figures = [Manner::Lone, Manner::Loop, Manner::Batch].map(|manner| gets(&mut engine, &keys, manner, value_bytes));
        assert!(figures.iter().all(|figure| figure.1 == figures[0].1));
        let [lone, back_to_back, batch] = figures.map(|figure| figure.0);
        let sum = figures[0].1;
        println!("get {name:9} lone {lone:7.1}   loop {back_to_back:7.1}   batch {batch:7.1} ns   (sum {sum})");
    }
    let fresh = items.max(if small { 100_000 } else { 1_000_000 });
    sets(&mut engine, 2 * items, fresh, &value);
    let (ns, calls) = sets(&mut engine, 2 * items + fresh, fresh, &value);
    let at = |share: f64| f64::from(calls[((calls.len() - 1) as f64 * share) as usize]) / 1000.0;
    println!("set, evicting     {ns:7.1} ns   calls: p50 {:.2}, p99.99 {:.1}, max {:.1} us", at(0.5), at(0.9999), at(1.0));
    let held = engine.statistics();
    let live = held.item_bytes as f64 / held.segment_bytes as f64;
    println!("live / segments   {live:7.3}   {} items, {} evicted", held.items_count, held.evicted);
}
